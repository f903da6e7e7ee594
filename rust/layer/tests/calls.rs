//! Calls of the passes, and what comes of them.

use std::cell::Cell;

use ndarray::{Array1, Array2, Array3, Array4, ArrayViewD};

use super::cases::{Case, Data, view};
use crate::error::Result;
use crate::layer::{Backward, Control, Forward, Gradients, Input, Output, OutputGradient, StateMut, Tape, TapeMut};
use crate::simd::InstructionSet;
use crate::testing::{Real, first_other_bit};

/// What comes of `call` where it is told to stop once it has asked `at` times, and how often it asked.
pub(super) fn stop_at(at: usize, threads: usize, call: &dyn Fn(&Control<'_>) -> Result<()>) -> (Result<()>, usize) {
    let count = Cell::new(0);
    let cancel = || {
        count.set(count.get() + 1);
        count.get() > at
    };
    (call(&Control { threads, cancel: &cancel }), count.get())
}

/// What comes of a call forward.
#[derive(Clone, Debug)]
pub(super) struct Forwarded<T> {
    pub(super) y: Array3<T>,
    pub(super) h: Array2<T>,
    pub(super) c: Array2<T>,
    pub(super) gates: Array4<T>,
    pub(super) c_tape: Array3<T>,
}

impl<T: Real> Forwarded<T> {
    /// Room for it.
    pub(super) fn new(case: &Case) -> Self {
        let Case { steps, batch, hidden, .. } = *case;
        let (gates, untouched) = (case.cell.gate_rows().count, T::of(UNTOUCHED));
        Self {
            y: Array3::from_elem((steps, batch, case.output()), untouched),
            h: Array2::from_elem((batch, case.output()), untouched),
            c: Array2::from_elem((batch, hidden), untouched),
            gates: Array4::from_elem((steps, batch, gates, hidden), untouched),
            c_tape: Array3::from_elem((steps, batch, hidden), untouched),
        }
    }

    pub(super) fn named(&self) -> Vec<(&'static str, ArrayViewD<'_, T>)> {
        let mut all = self.outputs();
        all.extend([("tape.gates", self.gates.view().into_dyn()), ("tape.c", self.c_tape.view().into_dyn())]);
        all
    }

    /// What comes with or without a tape.
    pub(super) fn outputs(&self) -> Vec<(&'static str, ArrayViewD<'_, T>)> {
        vec![("y", self.y.view().into_dyn()), ("h", self.h.view().into_dyn()), ("c", self.c.view().into_dyn())]
    }
}

/// What comes of a call backward.
#[derive(Clone, Debug)]
pub(super) struct Backwarded<T> {
    pub(super) x: Option<Array3<T>>,
    pub(super) w_ih: Array2<T>,
    pub(super) w_hh: Array2<T>,
    pub(super) b: Option<Array1<T>>,
    pub(super) peephole: Option<Array2<T>>,
    pub(super) w_hr: Option<Array2<T>>,
    pub(super) h: Array2<T>,
    pub(super) c: Array2<T>,
}

impl<T: Real> Backwarded<T> {
    /// Room for it.
    pub(super) fn new(case: &Case, data: &Data<T>) -> Self {
        let untouched = T::of(UNTOUCHED);
        let zeros = |array: &Array2<T>| Array2::from_elem(array.dim(), T::ZERO);
        Self {
            x: case.need_dx.then(|| Array3::from_elem(data.x.dim(), untouched)),
            w_ih: Array2::from_elem(data.w_ih.dim(), untouched),
            w_hh: Array2::from_elem(data.w_hh.dim(), untouched),
            b: data.b.as_ref().map(|b| Array1::from_elem(b.dim(), T::ZERO)),
            peephole: data.peephole.as_ref().map(zeros),
            w_hr: data.w_hr.as_ref().map(|w_hr| Array2::from_elem(w_hr.dim(), untouched)),
            h: Array2::from_elem((case.batch, case.output()), untouched),
            c: Array2::from_elem((case.batch, case.hidden), untouched),
        }
    }

    /// The gradients of the weights, which sum over the batch.
    pub(super) fn of_weights(&self) -> Vec<(&'static str, ArrayViewD<'_, T>)> {
        let mut all = vec![("w_ih", self.w_ih.view().into_dyn()), ("w_hh", self.w_hh.view().into_dyn())];
        all.extend(self.b.as_ref().map(|b| ("b", b.view().into_dyn())));
        all.extend(self.peephole.as_ref().map(|peephole| ("peephole", peephole.view().into_dyn())));
        all.extend(self.w_hr.as_ref().map(|w_hr| ("w_hr", w_hr.view().into_dyn())));
        all
    }

    /// The gradients that each sequence has for itself.
    pub(super) fn of_sequences(&self) -> Vec<(&'static str, ArrayViewD<'_, T>)> {
        let mut all = vec![("state.h", self.h.view().into_dyn()), ("state.c", self.c.view().into_dyn())];
        all.extend(self.x.as_ref().map(|x| ("x", x.view().into_dyn())));
        all
    }

    pub(super) fn named(&self) -> Vec<(&'static str, ArrayViewD<'_, T>)> {
        let mut all = self.of_sequences();
        all.extend(self.of_weights());
        all
    }
}

/// What both leave where no step is: neither 0, which would hide a write, nor NaN.
pub(super) const UNTOUCHED: f64 = 7.0;

/// One thread, to the end.
pub(super) const ALONE: Control<'_> = Control { threads: 1, cancel: &|| false };

/// A call forward with a tape; what is past the ends stays [`UNTOUCHED`].
pub(super) fn forward<T: Real>(isa: InstructionSet, case: &Case, data: &Data<T>) -> Forwarded<T> {
    try_forward(isa, case, data, true, &ALONE).unwrap()
}

/// A call forward with or without a tape, whose arrays stay [`UNTOUCHED`] then.
pub(super) fn try_forward<T: Real>(
    isa: InstructionSet,
    case: &Case,
    data: &Data<T>,
    tape: bool,
    control: &Control<'_>,
) -> Result<Forwarded<T>> {
    run_forward(&Forward::new(isa, case.cell, &data.weights())?, case, data, tape, control)
}

/// The same with weights that are packed.
pub(super) fn run_forward<T: Real>(
    weights: &Forward<T>,
    case: &Case,
    data: &Data<T>,
    tape: bool,
    control: &Control<'_>,
) -> Result<Forwarded<T>> {
    let layout = case.layout;
    let untouched = T::of(UNTOUCHED);
    let mut out = Forwarded::new(case);
    let x = layout.store(&data.x, T::of(f64::NAN));
    let mut y = layout.store(&out.y, untouched);
    weights.run(
        Input { x: layout.view(&x), ..data.input(case) },
        Output {
            y: layout.view_mut(&mut y),
            state: StateMut { h: out.h.view_mut(), c: out.c.view_mut() },
            tape: tape.then(|| TapeMut { gates: out.gates.view_mut(), c: out.c_tape.view_mut() }),
        },
        control,
    )?;
    out.y.assign(&layout.view(&y));
    // Around the part, nothing has been written.
    layout.view_mut(&mut y).fill(untouched);
    assert!(y.iter().all(|&y| y == untouched), "y was written around");
    Ok(out)
}

/// A call backward; the steps of `x` past the ends stay [`UNTOUCHED`].
pub(super) fn backward<T: Real>(
    isa: InstructionSet,
    case: &Case,
    data: &Data<T>,
    tape: &Forwarded<T>,
) -> Backwarded<T> {
    try_backward(isa, case, data, tape, &ALONE).unwrap()
}

/// A call backward that can fail.
pub(super) fn try_backward<T: Real>(
    isa: InstructionSet,
    case: &Case,
    data: &Data<T>,
    tape: &Forwarded<T>,
    control: &Control<'_>,
) -> Result<Backwarded<T>> {
    let layout = case.layout;
    let (untouched, nan) = (T::of(UNTOUCHED), T::of(f64::NAN));
    let mut out = Backwarded::new(case, data);
    let (x, y) = (layout.store(&data.x, nan), layout.store(&tape.y, nan));
    let dy = data.dy.as_ref().map(|dy| layout.store(dy, nan));
    let mut dx = out.x.as_ref().map(|dx| layout.store(dx, untouched));
    let weights = Backward::new(isa, case.cell, &data.weights())?;
    weights.run(
        Tape {
            input: Input { x: layout.view(&x), ..data.input(case) },
            y: layout.view(&y),
            gates: tape.gates.view(),
            c: tape.c_tape.view(),
        },
        OutputGradient { dy: dy.as_ref().map(|dy| layout.view(dy)), state: view(&data.dstate) },
        Gradients {
            x: dx.as_mut().map(|dx| layout.view_mut(dx)),
            w_ih: out.w_ih.view_mut(),
            w_hh: out.w_hh.view_mut(),
            b: out.b.as_mut().map(|b| b.view_mut()),
            peephole: out.peephole.as_mut().map(|peephole| peephole.view_mut()),
            w_hr: out.w_hr.as_mut().map(|w_hr| w_hr.view_mut()),
            state: StateMut { h: out.h.view_mut(), c: out.c.view_mut() },
        },
        control,
    )?;
    if let (Some(to), Some(dx)) = (&mut out.x, &mut dx) {
        to.assign(&layout.view(dx));
        layout.view_mut(dx).fill(untouched);
        assert!(dx.iter().all(|&dx| dx == untouched), "dx was written around");
    }
    Ok(out)
}

/// A call forward and backward.
pub(super) fn both<T: Real>(isa: InstructionSet, case: &Case, data: &Data<T>) -> (Forwarded<T>, Backwarded<T>) {
    let tape = forward(isa, case, data);
    let gradients = backward(isa, case, data, &tape);
    (tape, gradients)
}

/// Fails where two lists of arrays are not the same to the bit.
#[track_caller]
pub(super) fn assert_same<T: Real>(
    what: &dyn std::fmt::Debug,
    got: Vec<(&'static str, ArrayViewD<'_, T>)>,
    expected: Vec<(&'static str, ArrayViewD<'_, T>)>,
) {
    assert_eq!(got.len(), expected.len());
    for ((name, got), (other, expected)) in got.into_iter().zip(expected) {
        assert_eq!(name, other);
        if let Some(other) = first_other_bit(got, expected) {
            panic!("{name} of {what:?} in {}: {other}", T::NAME);
        }
    }
}
