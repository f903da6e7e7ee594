//! Calls that need not fit: an array of another shape, one that is strided, huge or missing, lengths that cannot be.
//!
//! What fits runs and has the right bits; what does not is an error in words, before memory is asked for. A strided array
//! may be either.

mod changes;
mod shapes;

use std::sync::Arc;

use ndarray::{Array2, Axis, Ix2, Ix3};

use self::changes::{Changes, Stored};
use super::super::calls::{ALONE, Backwarded, Forwarded, try_backward, try_forward};
use super::super::cases::{Case, Data, Layout};
use super::source::Source;
use crate::error::{Error, Result};
use crate::layer::{
    Backward, Control, Forward, Gradients, Input, Linear, LinearGradients, Output, OutputGradient, State, StateMut,
    Stream, Tape, TapeMut, Weights, Workspace,
};
use crate::simd::InstructionSet;
use crate::testing::Real;

/// A call, or only its shapes.
pub(in crate::layer) fn refusals(bytes: &[u8]) {
    let mut source = Source(bytes);
    match source.below(6) {
        0 => shapes::shapes(&mut source),
        1 => stream::<f32>(&mut source),
        2 => linear::<f32>(&mut source),
        3 => call::<f64>(&mut source),
        _ => call::<f32>(&mut source),
    }
}

/// Fails where an error has nothing to say.
fn in_words<R>(result: Result<R>) -> Option<R> {
    match result {
        Ok(result) => Some(result),
        Err(Error::Value(what)) => {
            assert!(what.contains(':') && what.len() > 20, "{what}");
            None
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// What a call with changed arrays must come to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fits {
    Yes,
    No,
    Perhaps,
}

/// A call forward, and one backward, some of whose arrays are others.
fn call<T: Real>(source: &mut Source<'_>) {
    let threads = source.pick(&[1, 1, 1, 0, 2, usize::MAX]);
    let control = Control { threads, ..ALONE };
    let isa = source.isa();
    let mut case = source.case(true);
    (case.layout, case.seed) = (Layout::TimeMajor, u64::from(source.byte()));
    let data = Data::<T>::new(&case);
    let whole = try_forward(isa, &case, &data, true, &ALONE).unwrap();
    if source.heads() || case.cell.check_gradient().is_err() {
        forward(Changes::among(32, source), &case, &data, &whole, isa, &control);
    } else {
        let gradients = try_backward(isa, &case, &data, &whole, &ALONE).unwrap();
        backward(Changes::among(32, source), &case, &data, &whole, &gradients, isa, &control);
    }
}

/// Weights, some of which are others.
struct GivenWeights<T> {
    w_ih: Stored<T>,
    w_hh: Stored<T>,
    b: Option<Stored<T>>,
    peephole: Option<Stored<T>>,
    w_hr: Option<Stored<T>>,
}

impl<T: Real> GivenWeights<T> {
    fn new(data: &Data<T>, changes: &mut Changes<'_, '_>) -> Self {
        // More columns than there is memory for may be packed: those of w_ih are as many as the input has.
        Self {
            w_ih: changes.write(&data.w_ih),
            w_hh: changes.read(&data.w_hh),
            b: data.b.as_ref().map(|b| changes.read(b)),
            peephole: data.peephole.as_ref().map(|peephole| changes.read(peephole)),
            w_hr: data.w_hr.as_ref().map(|w_hr| changes.read(w_hr)),
        }
    }

    fn view(&self) -> Weights<'_, T> {
        Weights {
            w_ih: self.w_ih.view(),
            w_hh: self.w_hh.view(),
            b: self.b.as_ref().map(|b| b.view()),
            peephole: self.peephole.as_ref().map(|peephole| peephole.view()),
            w_hr: self.w_hr.as_ref().map(|w_hr| w_hr.view()),
        }
    }
}

/// What a pass forward runs on, some of it other than it was.
struct GivenInput<T> {
    x: Stored<T>,
    state: Option<(Stored<T>, Stored<T>)>,
    lengths: Option<Vec<i64>>,
    reverse: bool,
}

impl<T: Real> GivenInput<T> {
    fn new(case: &Case, data: &Data<T>, changes: &mut Changes<'_, '_>) -> Self {
        let x = changes.read(&data.x);
        let state = data.state.as_ref().map(|(h, c)| (changes.read(h), changes.read(c)));
        let mut lengths = case.lengths.clone();
        // One of many arrays, and each of its numbers can be wrong: more often than its turn comes.
        let turn = changes.turn() || changes.source.below(4) == 3;
        if let (Some(lengths), true) = (&mut lengths, turn) {
            match changes.source.below(4) {
                0 => lengths.push(0),
                1 if !lengths.is_empty() => drop(lengths.pop()),
                _ => {
                    let wrong = [-1, i64::MIN, i64::MAX, case.steps as i64 + 1, 1 << 32];
                    let (wrong, place) = (changes.source.pick(&wrong), changes.source.below(256));
                    let place = place % lengths.len().max(1);
                    lengths.get_mut(place).into_iter().for_each(|length| *length = wrong);
                }
            }
            if *lengths != *case.lengths.as_ref().expect("there") {
                changes.refused();
            }
        }
        Self { x, state, lengths, reverse: case.reverse }
    }

    fn view(&self) -> Input<'_, T> {
        Input {
            x: self.x.view(),
            state: self.state.as_ref().map(|(h, c)| State { h: h.view(), c: c.view() }),
            lengths: self.lengths.as_deref(),
            reverse: self.reverse,
        }
    }
}

/// Fails where what fits was refused, or the other way round; says whether to look at what came of it.
fn ran(result: Result<()>, fits: Fits, what: &dyn std::fmt::Debug) -> bool {
    let ran = in_words(result).is_some();
    assert!(fits == Fits::Perhaps || ran == (fits == Fits::Yes), "ran: {ran}, fits: {fits:?}, {what:?}");
    ran
}

fn forward<T: Real>(
    mut changes: Changes<'_, '_>,
    case: &Case,
    data: &Data<T>,
    whole: &Forwarded<T>,
    isa: InstructionSet,
    control: &Control<'_>,
) {
    let weights = GivenWeights::new(data, &mut changes);
    let input = GivenInput::new(case, data, &mut changes);
    let room = Forwarded::new(case);
    let (mut y, mut h, mut c) = (changes.write(&room.y), changes.write(&room.h), changes.write(&room.c));
    let (mut gates, mut c_tape) = (changes.write(&room.gates), changes.write(&room.c_tape));
    let run = Forward::new(isa, case.cell, &weights.view()).and_then(|packed| {
        packed.run(
            input.view(),
            Output {
                y: y.view_mut(),
                state: StateMut { h: h.view_mut(), c: c.view_mut() },
                tape: Some(TapeMut { gates: gates.view_mut(), c: c_tape.view_mut() }),
            },
            control,
        )
    });
    if ran(run, changes.fits, case) {
        let same = y.is(&whole.y) && h.is(&whole.h) && c.is(&whole.c);
        assert!(same && gates.is(&whole.gates) && c_tape.is(&whole.c_tape), "{case:?}");
    }
}

fn backward<T: Real>(
    mut changes: Changes<'_, '_>,
    case: &Case,
    data: &Data<T>,
    whole: &Forwarded<T>,
    right: &Backwarded<T>,
    isa: InstructionSet,
    control: &Control<'_>,
) {
    let weights = GivenWeights::new(data, &mut changes);
    let input = GivenInput::new(case, data, &mut changes);
    let (y, gates, c_tape) = (changes.read(&whole.y), changes.read(&whole.gates), changes.read(&whole.c_tape));
    let dy = data.dy.as_ref().map(|dy| changes.read(dy));
    let dstate = data.dstate.as_ref().map(|(h, c)| (changes.read(h), changes.read(c)));
    let room = Backwarded::new(case, data);
    let rows = data.w_ih.nrows();
    let mut dx = room.x.as_ref().map(|dx| changes.write(dx));
    let (mut w_ih, mut w_hh) = (changes.write(&room.w_ih), changes.write(&room.w_hh));
    let mut b = changes.write_if(room.b.as_ref(), &[rows]);
    let mut peephole = changes.write_if(room.peephole.as_ref(), &[3, case.hidden]);
    let mut w_hr = changes.write_if(room.w_hr.as_ref(), &[case.hidden, case.hidden]);
    let (mut h, mut c) = (changes.write(&room.h), changes.write(&room.c));
    let run = Backward::new(isa, case.cell, &weights.view()).and_then(|packed| {
        packed.run(
            Tape { input: input.view(), y: y.view(), gates: gates.view(), c: c_tape.view() },
            OutputGradient {
                dy: dy.as_ref().map(|dy| dy.view()),
                state: dstate.as_ref().map(|(h, c)| State { h: h.view(), c: c.view() }),
            },
            Gradients {
                x: dx.as_mut().map(|dx| dx.view_mut()),
                w_ih: w_ih.view_mut(),
                w_hh: w_hh.view_mut(),
                b: b.as_mut().map(|b| b.view_mut()),
                peephole: peephole.as_mut().map(|peephole| peephole.view_mut()),
                w_hr: w_hr.as_mut().map(|w_hr| w_hr.view_mut()),
                state: StateMut { h: h.view_mut(), c: c.view_mut() },
            },
            control,
        )
    });
    if ran(run, changes.fits, case) {
        let same = w_ih.is(&right.w_ih) && w_hh.is(&right.w_hh) && h.is(&right.h) && c.is(&right.c);
        assert!(same && dx.zip(right.x.as_ref()).is_none_or(|(dx, right)| dx.is(right)), "{case:?}");
    }
}

/// Layers that need not fit on each other; a step that is refused leaves the state as it was.
fn stream<T: Real>(source: &mut Source<'_>) {
    let isa = source.isa();
    let case = Case { lengths: None, reverse: false, ..source.case(true) };
    let other = Case { input: if source.heads() { case.output() } else { source.below(9) }, ..case.clone() };
    let other = if source.below(4) == 0 { Case { hidden: 1 + source.below(9), ..other } } else { other };
    let packed = [&case, &other]
        .map(|case| Arc::new(Forward::new(isa, case.cell, &Data::<T>::new(case).weights()).expect("fits")));
    let count = 1 + source.below(2);
    let stack =
        count == 1 || (other.input, other.hidden, other.output()) == (case.output(), case.hidden, case.output());
    let mut stream = Stream::new(packed[..count].to_vec(), case.batch).unwrap();
    for _ in 0..3 {
        let before = (stream.state().0.to_owned(), stream.state().1.to_owned());
        let mut changes = Changes::among(8, source);
        let (h, c) = (changes.read(&before.0), changes.read(&before.1));
        let fits = changes.fits;
        // It copies, from any layout.
        let fits = if fits == Fits::Perhaps { Fits::Yes } else { fits };
        ran(stream.set_state(h.view::<Ix3>().into_dyn(), c.view::<Ix3>().into_dyn()), fits, &case);
        changes.fits = if stack { Fits::Yes } else { Fits::No };
        let x = changes.read(&Array2::from_elem((case.batch, case.input), T::ONE));
        let mut y = changes.write(&Array2::from_elem((case.batch, case.output()), T::ZERO));
        let fits = changes.fits;
        let before = (stream.state().0.to_owned(), stream.state().1.to_owned());
        if !ran(stream.step(x.view(), y.view_mut(), &ALONE), fits, &(&case, &other, count)) {
            assert_eq!(before, (stream.state().0.to_owned(), stream.state().1.to_owned()));
        }
    }
}

fn linear<T: Real>(source: &mut Source<'_>) {
    let isa = source.isa();
    let [rows, inputs, outputs] = [source.below(9), source.below(70), source.below(40)];
    let matrix = |rows, columns| Array2::from_elem((rows, columns), T::ONE);
    let threads = source.pick(&[1, 0, 2, usize::MAX]);
    let control = Control { threads, ..ALONE };
    let mut changes = Changes::among(32, source);
    let (weight, x, dy) = (matrix(outputs, inputs), matrix(rows, inputs), matrix(rows, outputs));
    let (given_weight, given_x) = (changes.write(&weight), changes.read(&x));
    let mut workspace = Workspace::default();
    let forward = changes.source.heads();
    let one_axis = matrix(1, outputs).remove_axis(Axis(0));
    if forward {
        let (bias, mut y) = (changes.read(&one_axis), changes.write(&dy));
        let run = Linear::new(isa, given_weight.view(), Some(bias.view()))
            .and_then(|linear| linear.forward(&mut workspace, given_x.view(), y.view_mut(), &control));
        if ran(run, changes.fits, &(rows, inputs, outputs)) {
            assert!(y.view::<Ix2>().iter().all(|&y| y == T::of(1.0 + inputs as f64)));
        }
    } else {
        let given_dy = changes.read(&dy);
        let (mut dx, mut d_weight) = (changes.write(&x), changes.write(&weight));
        let mut bias = changes.write(&one_axis);
        let out = LinearGradients { x: Some(dx.view_mut()), weight: d_weight.view_mut(), bias: Some(bias.view_mut()) };
        let run = Linear::new(isa, given_weight.view(), None)
            .and_then(|linear| linear.backward(&mut workspace, given_x.view(), given_dy.view(), out, &control));
        if ran(run, changes.fits, &(rows, inputs, outputs)) {
            assert!(dx.view::<Ix2>().iter().all(|&dx| dx == T::of(outputs as f64)));
            assert!(d_weight.view::<Ix2>().iter().all(|&d| d == T::of(rows as f64)));
        }
    }
}
