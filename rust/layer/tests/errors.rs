//! Calls that are refused, stopped, or have no memory.

use ndarray::{Array1, Array2, Array3, Array4, ArrayView2, aview0, s};

use super::calls::{ALONE, Forwarded, both, forward, stop_at, try_backward, try_forward};
use super::cases::{Case, Data};
use crate::cell::CellSpec;
use crate::error::{Error, Result};
use crate::kernel::tile::BLOCK_ROWS;
use crate::layer::share::{WATCHED, cells_per_chunk, steps_per_window};
use crate::layer::{
    Backward, Control, Forward, Gradients, Input, Output, OutputGradient, State, StateMut, Tape, TapeMut, Weights,
};
use crate::simd::InstructionSet;
use crate::testing::{Real, on_every_isa};

on_every_isa! {
    a_long_call_can_be_stopped,
    weights_without_memory_are_an_error,
}

fn a_long_call_can_be_stopped(isa: InstructionSet) {
    // A poll for each chunk of time (at least so many as there were without padding), for each window of the sweep
    // backward, for each 256 of the 40 · 13 steps that the weights' gradients sum over, and for each block of rows of dx:
    // without those in the middle of a step.
    let looks = WATCHED.replace(usize::MAX);
    let case = Case { need_dx: false, ..Case::new(CellSpec::GERS_1999, [40, 13, 3, 37]) };
    let with_dx = Case { need_dx: true, ..case.clone() };
    let chunks = 40usize.div_ceil(cells_per_chunk::<f64>(4 * 37, 13, 40) / 13);
    let windows = 40usize.div_ceil(steps_per_window::<f64>(4 * 37, 13));
    assert!(chunks >= 3 && windows >= 2);
    let data = Data::<f64>::new(&case);
    let tape = forward(isa, &case, &data);
    polls(chunks, &|control| try_forward(isa, &case, &data, true, control).map(drop));
    // Steps that make their input product themselves: each, where they are long; many at a time, where they are short.
    for (sizes, polled) in [([40, 30, 3, 64], 40..41), ([4000, 1, 1, 8], 2..40)] {
        let (case, none) = (Case::new(CellSpec::GERS_1999, sizes), polled.end);
        let data = Data::<f64>::new(&case);
        let all = polls(polled.start, &|control| try_forward(isa, &case, &data, true, control).map(drop));
        assert!(all < none, "{all} polls, expected fewer than {none}");
    }
    let sums = polls(windows + 3, &|control| try_backward(isa, &case, &data, &tape, control).map(drop));
    let blocks = (40usize * 13).div_ceil(BLOCK_ROWS);
    polls(sums + blocks, &|control| try_backward(isa, &with_dx, &data, &tape, control).map(drop));
    WATCHED.set(looks);
}

/// How often `call` polls: at least so often; and it ends at each poll that says so, without another.
fn polls(least: usize, call: &dyn Fn(&Control<'_>) -> Result<()>) -> usize {
    let (result, all) = stop_at(usize::MAX, 1, call);
    assert_eq!(result, Ok(()));
    assert!(all >= least, "{all} polls, expected at least {least}");
    for at in 0..all {
        assert_eq!(stop_at(at, 1, call), (Err(Error::Cancelled), at + 1));
    }
    assert_eq!(stop_at(all, 1, call).0, Ok(()));
    all
}

/// So many units that their weights, all of them one number in memory, are more bytes than there can be.
///
/// AddressSanitizer ends the process at such a request unless `ASAN_OPTIONS=allocator_may_return_null=1`.
fn weights_without_memory_are_an_error(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet) {
        let (hidden, one, long) = (1 << 60, T::ONE, "no more numbers than isize::MAX");
        let one = aview0(&one);
        let weights = Weights {
            w_ih: one.broadcast((4 * hidden, 1)).expect(long),
            w_hh: one.broadcast((4 * hidden, 1)).expect(long),
            b: None,
            peephole: None,
            w_hr: Some(one.broadcast((1, hidden)).expect(long)),
        };
        let cell = CellSpec::GERS_1999;
        let (forward, backward) = (Forward::new(isa, cell, &weights), Backward::new(isa, cell, &weights));
        assert!(matches!(forward, Err(Error::Memory(_))), "{forward:?}");
        assert!(matches!(backward, Err(Error::Memory(_))), "{backward:?}");
    }
    check::<f32>(isa);
    check::<f64>(isa);
}

// ------------------------------------------------------------------------------------------------------ refused

const T: usize = 3;
const N: usize = 2;
const I: usize = 4;
const H: usize = 5;
const P: usize = 6;

/// A cell with everything, in a shape of which each size is another.
fn case() -> Case {
    let cell = CellSpec { peephole: true, ..CellSpec::GERS_1999 };
    Case { projection: Some(P), lengths: Some(vec![2, 3]), ..Case::new(cell, [T, N, I, H]) }
}

#[track_caller]
fn refused<R: std::fmt::Debug>(result: Result<R>, beginning: &str) {
    match result {
        Err(Error::Value(what)) => assert!(what.starts_with(beginning), "{what}, expected: {beginning}"),
        other => panic!("{other:?}, expected: {beginning}"),
    }
}

/// `$field` replaced by `$wrong`: refused with a sentence that begins so.
macro_rules! refuse {
    ($build:expr; $($field:ident = $wrong:expr => $beginning:literal)+) => { $({
        let wrong = $wrong;
        refused($build(&|all: &mut All<'_>| all.$field = wrong.clone()), $beginning);
    })+ };
}

/// The arrays of a call, each of which can be replaced by a wrong one.
#[derive(Clone)]
struct All<'a> {
    x: Array3<f64>,
    h: Array2<f64>,
    c: Array2<f64>,
    lengths: &'a [i64],
    y: Array3<f64>,
    end_h: Array2<f64>,
    end_c: Array2<f64>,
    gates: Array4<f64>,
    c_tape: Array3<f64>,
    dy: Array3<f64>,
    dh: Array2<f64>,
    dc: Array2<f64>,
    dx: Array3<f64>,
    dw_ih: Array2<f64>,
    dw_hh: Array2<f64>,
    db: Option<Array1<f64>>,
    dpeephole: Option<Array2<f64>>,
    dw_hr: Option<Array2<f64>>,
}

impl All<'_> {
    fn new() -> Self {
        Self {
            x: Array3::zeros((T, N, I)),
            h: Array2::zeros((N, P)),
            c: Array2::zeros((N, H)),
            lengths: &[2, 3],
            y: Array3::zeros((T, N, P)),
            end_h: Array2::zeros((N, P)),
            end_c: Array2::zeros((N, H)),
            gates: Array4::zeros((T, N, 4, H)),
            c_tape: Array3::zeros((T, N, H)),
            dy: Array3::zeros((T, N, P)),
            dh: Array2::zeros((N, P)),
            dc: Array2::zeros((N, H)),
            dx: Array3::zeros((T, N, I)),
            dw_ih: Array2::zeros((4 * H, I)),
            dw_hh: Array2::zeros((4 * H, P)),
            db: Some(Array1::zeros(4 * H)),
            dpeephole: Some(Array2::zeros((3, H))),
            dw_hr: Some(Array2::zeros((P, H))),
        }
    }

    fn input(&self) -> Input<'_, f64> {
        let state = Some(State { h: self.h.view(), c: self.c.view() });
        Input { x: self.x.view(), state, lengths: Some(self.lengths), reverse: false }
    }

    fn forward(&mut self) -> Result<()> {
        let (case, mut all) = (case(), self.clone());
        Forward::new(InstructionSet::Scalar, case.cell, &Data::new(&case).weights())?.run(
            self.input(),
            Output {
                y: all.y.view_mut(),
                state: StateMut { h: all.end_h.view_mut(), c: all.end_c.view_mut() },
                tape: Some(TapeMut { gates: all.gates.view_mut(), c: all.c_tape.view_mut() }),
            },
            &ALONE,
        )
    }

    fn backward(&mut self) -> Result<()> {
        let (case, mut all) = (case(), self.clone());
        Backward::new(InstructionSet::Scalar, case.cell, &Data::new(&case).weights())?.run(
            Tape { input: self.input(), y: self.y.view(), gates: self.gates.view(), c: self.c_tape.view() },
            OutputGradient { dy: Some(self.dy.view()), state: Some(State { h: self.dh.view(), c: self.dc.view() }) },
            Gradients {
                x: Some(all.dx.view_mut()),
                w_ih: all.dw_ih.view_mut(),
                w_hh: all.dw_hh.view_mut(),
                b: all.db.as_mut().map(|b| b.view_mut()),
                peephole: all.dpeephole.as_mut().map(|peephole| peephole.view_mut()),
                w_hr: all.dw_hr.as_mut().map(|w_hr| w_hr.view_mut()),
                state: StateMut { h: all.end_h.view_mut(), c: all.end_c.view_mut() },
            },
            &ALONE,
        )
    }
}

/// An array whose last axis is not contiguous.
fn strided3(shape: (usize, usize, usize)) -> Array3<f64> {
    let (a, b, c) = shape;
    Array3::zeros((c, b, a)).reversed_axes()
}

/// An array not in standard layout.
fn strided2((a, b): (usize, usize)) -> Array2<f64> {
    Array2::zeros((b, a)).reversed_axes()
}

#[test]
fn calls_forward_that_do_not_fit_are_refused() {
    let run = |wrong: &dyn Fn(&mut All<'_>)| {
        let mut all = All::new();
        wrong(&mut all);
        all.forward()
    };
    assert_eq!(run(&|_| ()), Ok(()));
    refuse! { run;
        x = Array3::zeros((T, N, I + 1)) => "x: expected 4 features in the last axis"
        x = Array3::zeros((T + 1, N, I)) => "y: expected shape (4, 2, 6)"
        x = Array3::zeros((T, N + 1, I)) => "state.h: expected shape (3, 6)"
        h = Array2::zeros((N, H)) => "state.h: expected shape (2, 6)"
        h = Array2::zeros((N + 1, P)) => "state.h: expected shape (2, 6)"
        c = Array2::zeros((N, P)) => "state.c: expected shape (2, 5)"
        lengths = &[1][..] => "lengths: expected shape (2,)"
        lengths = &[1, 2, 3][..] => "lengths: expected shape (2,)"
        lengths = &[1, 4][..] => "lengths[1]: expected 0 to 3"
        lengths = &[-1, 3][..] => "lengths[0]: expected 0 to 3"
        lengths = &[i64::MIN, i64::MAX][..] => "lengths[0]: expected 0 to 3"
        y = Array3::zeros((T, N, H)) => "y: expected shape (3, 2, 6)"
        y = Array3::zeros((N, T, P)) => "y: expected shape (3, 2, 6)"
        end_h = Array2::zeros((N, H)) => "final state.h: expected shape (2, 6)"
        end_c = Array2::zeros((N, P)) => "final state.c: expected shape (2, 5)"
        gates = Array4::zeros((T, N, H, 4)) => "tape.gates: expected shape (3, 2, 4, 5)"
        c_tape = Array3::zeros((T, N, P)) => "tape.c: expected shape (3, 2, 5)"
        x = strided3((T, N, I)) => "x: expected an array whose last axis is contiguous"
        y = strided3((T, N, P)) => "y: expected an array whose last axis is contiguous"
        h = strided2((N, P)) => "state.h: expected an array whose last axis is contiguous"
        c = strided2((N, H)) => "state.c: expected an array whose last axis is contiguous"
        end_h = strided2((N, P)) => "final state.h: expected"
        end_c = strided2((N, H)) => "final state.c: expected"
        gates = Array4::zeros((H, 4, N, T)).reversed_axes() => "tape.gates: expected an array"
        c_tape = strided3((T, N, H)) => "tape.c: expected an array"
    }
}

#[test]
fn calls_backward_that_do_not_fit_are_refused() {
    let run = |wrong: &dyn Fn(&mut All<'_>)| {
        let mut all = All::new();
        wrong(&mut all);
        all.backward()
    };
    assert_eq!(run(&|_| ()), Ok(()));
    refuse! { run;
        x = Array3::zeros((T + 1, N, I)) => "tape.y: expected shape (4, 2, 6)"
        y = Array3::zeros((T, N, H)) => "tape.y: expected shape (3, 2, 6)"
        gates = Array4::zeros((T, N, 3, H)) => "tape.gates: expected shape (3, 2, 4, 5)"
        c_tape = Array3::zeros((T, N + 1, H)) => "tape.c: expected shape (3, 2, 5)"
        dy = Array3::zeros((T, N, H)) => "dy: expected shape (3, 2, 6)"
        dh = Array2::zeros((N, H)) => "dstate.h: expected shape (2, 6)"
        dc = Array2::zeros((N, P)) => "dstate.c: expected shape (2, 5)"
        end_h = Array2::zeros((P, N)) => "initial state's gradient.h: expected shape (2, 6)"
        end_c = Array2::zeros((H, N)) => "initial state's gradient.c: expected shape (2, 5)"
        dx = Array3::zeros((T, N, P)) => "dx: expected shape (3, 2, 4)"
        dw_ih = Array2::zeros((4 * H, I + 1)) => "gradients: expected room for one gradient"
        dw_hh = Array2::zeros((4 * H, H)) => "gradients: expected room for one gradient"
        dw_ih = Array2::zeros((I, 4 * H)) => "gradients: expected room for one gradient"
        db = None => "gradients: expected room for one gradient"
        db = Some(Array1::zeros(4 * H + 1)) => "gradients: expected room for one gradient"
        dpeephole = None => "gradients: expected room for one gradient"
        dw_hr = None => "gradients: expected room for one gradient"
        y = strided3((T, N, P)) => "tape.y: expected an array whose last axis is contiguous"
        dy = strided3((T, N, P)) => "dy: expected an array whose last axis is contiguous"
        dx = strided3((T, N, I)) => "dx: expected an array whose last axis is contiguous"
        dh = strided2((N, P)) => "dstate.h: expected an array"
        dw_hh = strided2((4 * H, P)) => "gradient of w_hh: expected an array"
    }
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let case = case();
    let data = Data::<f32>::new(&case);
    let try_with = |weights: &Weights<'_, f32>, cell: CellSpec, beginning: &str| {
        refused(Forward::new(InstructionSet::Scalar, cell, weights), beginning);
        refused(Backward::new(InstructionSet::Scalar, cell, weights), beginning);
    };
    let none: ArrayView2<'_, f32> = data.w_ih.slice(s![..0, ..]);
    let good = data.weights();
    let weights = |change: &dyn Fn(&mut Weights<'_, f32>)| {
        let mut weights = good.clone();
        // Each change only makes a view smaller, so that it borrows what it was given.
        change(&mut weights);
        weights
    };
    let narrow = weights(&|weights| weights.w_hh.slice_collapse(s![.., ..H as isize]));
    try_with(&narrow, case.cell, "w_hh: expected shape (20, 6)");
    let short = weights(&|weights| weights.b.as_mut().expect("there").slice_collapse(s![1..]));
    try_with(&short, case.cell, "b: expected shape (20,)");
    let few = weights(&|weights| weights.peephole.as_mut().expect("there").slice_collapse(s![1.., ..]));
    try_with(&few, case.cell, "peephole: expected shape (3, 5)");
    let empty = weights(&|weights| weights.w_hr.as_mut().expect("there").slice_collapse(s![..0, ..]));
    try_with(&empty, case.cell, "w_hr: expected shape (6, 5)");
    try_with(
        &Weights { peephole: None, ..good.clone() },
        case.cell,
        "peephole: expected shape (3, 5), as the cell has",
    );
    try_with(&good, CellSpec::GERS_1999, "peephole: expected None, as the cell has peephole=False");
    try_with(&Weights { w_ih: none, ..good.clone() }, case.cell, "w_ih: expected");
    let every_other = Array2::from_elem((20, 8), 1.0);
    let strided = Weights { w_ih: every_other.slice(s![.., ..;2]), ..good.clone() };
    try_with(&strided, case.cell, "w_ih: expected an array whose last axis is contiguous");
    try_with(&good, CellSpec { coupled: true, input_gate: false, ..case.cell }, "cell: coupled=True needs");
}

#[test]
fn an_instruction_set_that_is_not_there_is_refused() {
    // No CPU has both AVX2 and NEON.
    let absent = *InstructionSet::ALL.iter().find(|isa| !isa.is_available()).expect("one");
    let case = case();
    let data = Data::<f32>::new(&case);
    let panic = std::panic::catch_unwind(|| Forward::new(absent, case.cell, &data.weights()).map(drop)).unwrap_err();
    let what = panic.downcast_ref::<String>().expect("a sentence");
    assert_eq!(*what, format!("this CPU has no {}: InstructionSet::is_available tells", absent.name()));
}

/// Packed weights are shared by any number of threads at once.
#[test]
fn threads_share_weights() {
    let case = Case::new(CellSpec::GERS_1999, [20, 5, 3, 17]);
    let data = Data::<f32>::new(&case);
    let packed = Forward::new(InstructionSet::best(), case.cell, &data.weights()).unwrap();
    let run = || {
        let (mut y, mut h, mut c) = (Array3::zeros((20, 5, 17)), Array2::zeros((5, 17)), Array2::zeros((5, 17)));
        let state = StateMut { h: h.view_mut(), c: c.view_mut() };
        packed.run(data.input(&case), Output { y: y.view_mut(), state, tape: None }, &ALONE).unwrap();
        y
    };
    let alone = run();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| [(); 20].map(|()| run()))).collect();
        for thread in all {
            assert!(thread.join().unwrap().iter().all(|y| *y == alone));
        }
    });
    let (tape, gradients): (Forwarded<f32>, _) = both(InstructionSet::best(), &case, &data);
    assert_eq!(tape.y, alone);
    fn is_shared<T: Send + Sync>(_: &T) {}
    is_shared(&Backward::new(InstructionSet::best(), case.cell, &data.weights()).unwrap());
    assert!(gradients.x.is_some());
}
