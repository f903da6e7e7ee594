//! Other ways to the same answer: in pieces of time, and in two directions at once.

use ndarray::{Array3, Axis, concatenate};

use super::calls::{Backwarded, Forwarded, backward, forward};
use super::cases::{Case, Data, view};
use crate::error::Result;
use crate::layer::{
    Backward, BackwardCall, Control, Forward, ForwardCall, Gradients, Output, OutputGradient, StateMut, Tape, TapeMut,
    Workspace,
};
use crate::simd::InstructionSet;
use crate::testing::Real;

/// The same call in pieces of time, with the state carried over and its gradient carried back: `y`, `dx`, the last piece
/// forward and the last piece backward.
pub(super) type Pieces<T> = (Array3<T>, Option<Array3<T>>, (Forwarded<T>, Backwarded<T>));

pub(super) fn in_pieces<T: Real>(isa: InstructionSet, case: &Case, data: &Data<T>, cuts: &[usize]) -> Pieces<T> {
    let mut pieces: Vec<_> = cuts.windows(2).map(|cut| data.steps(case, cut[0]..cut[1])).collect();
    // Where time runs back, the last piece is the first.
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    if case.reverse {
        order.reverse();
    }
    let mut tapes: Vec<Option<Forwarded<T>>> = vec![None; pieces.len()];
    let mut state = data.state.clone();
    for &piece in &order {
        let (part, its) = &mut pieces[piece];
        its.state = state;
        let tape = forward(isa, part, its);
        state = Some((tape.h.clone(), tape.c.clone()));
        tapes[piece] = Some(tape);
    }
    let mut gradients: Vec<Option<Backwarded<T>>> = vec![None; pieces.len()];
    let mut dstate = data.dstate.clone();
    for &piece in order.iter().rev() {
        let (part, its) = &mut pieces[piece];
        its.dstate = dstate;
        let its_gradients = backward(isa, part, its, tapes[piece].as_ref().expect("was run"));
        dstate = Some((its_gradients.h.clone(), its_gradients.c.clone()));
        gradients[piece] = Some(its_gradients);
    }
    let (tapes, gradients): (Vec<_>, Vec<_>) = tapes.into_iter().flatten().zip(gradients.into_iter().flatten()).unzip();
    let y: Vec<_> = tapes.iter().map(|tape| tape.y.view()).collect();
    let dx: Option<Vec<_>> = gradients.iter().map(|gradients| gradients.x.as_ref().map(|x| x.view())).collect();
    let join = |parts: &[ndarray::ArrayView3<'_, T>]| concatenate(Axis(0), parts).expect("pieces of one array");
    let (first, last) = (order[0], order[order.len() - 1]);
    (join(&y), dx.map(|dx| join(&dx)), (tapes[last].clone(), gradients[first].clone()))
}

pub(super) type Two<X> = [X; 2];

/// A call forward of two directions at once, with tapes.
pub(super) fn forward_both<T: Real>(
    isa: InstructionSet,
    cases: &Two<Case>,
    data: &Two<Data<T>>,
    control: &Control<'_>,
) -> Result<Two<Forwarded<T>>> {
    let weights = [0, 1].map(|d| Forward::new(isa, cases[d].cell, &data[d].weights()).unwrap());
    let mut out = [0, 1].map(|d| Forwarded::new(&cases[d]));
    let mut workspaces: Two<Workspace<T>> = Default::default();
    let mut calls = Vec::new();
    for (d, (out, workspace)) in out.iter_mut().zip(&mut workspaces).enumerate() {
        let output = Output {
            y: out.y.view_mut(),
            state: StateMut { h: out.h.view_mut(), c: out.c.view_mut() },
            tape: Some(TapeMut { gates: out.gates.view_mut(), c: out.c_tape.view_mut() }),
        };
        calls.push(ForwardCall { weights: &weights[d], workspace, input: data[d].input(&cases[d]), output });
    }
    Forward::run_both(calls.try_into().unwrap(), control)?;
    Ok(out)
}

/// And backward.
pub(super) fn backward_both<T: Real>(
    isa: InstructionSet,
    cases: &Two<Case>,
    data: &Two<Data<T>>,
    tapes: &Two<Forwarded<T>>,
    control: &Control<'_>,
) -> Result<Two<Backwarded<T>>> {
    let weights = [0, 1].map(|d| Backward::new(isa, cases[d].cell, &data[d].weights()).unwrap());
    let mut out = [0, 1].map(|d| Backwarded::new(&cases[d], &data[d]));
    let mut workspaces: Two<Workspace<T>> = Default::default();
    let mut calls = Vec::new();
    for (d, (out, workspace)) in out.iter_mut().zip(&mut workspaces).enumerate() {
        let Forwarded { y, gates, c_tape, .. } = &tapes[d];
        calls.push(BackwardCall {
            weights: &weights[d],
            workspace,
            tape: Tape { input: data[d].input(&cases[d]), y: y.view(), gates: gates.view(), c: c_tape.view() },
            gradient: OutputGradient { dy: data[d].dy.as_ref().map(|dy| dy.view()), state: view(&data[d].dstate) },
            out: Gradients {
                x: out.x.as_mut().map(|dx| dx.view_mut()),
                w_ih: out.w_ih.view_mut(),
                w_hh: out.w_hh.view_mut(),
                b: out.b.as_mut().map(|b| b.view_mut()),
                peephole: out.peephole.as_mut().map(|peephole| peephole.view_mut()),
                w_hr: out.w_hr.as_mut().map(|w_hr| w_hr.view_mut()),
                state: StateMut { h: out.h.view_mut(), c: out.c.view_mut() },
            },
        });
    }
    Backward::run_both(calls.try_into().unwrap(), control)?;
    Ok(out)
}
