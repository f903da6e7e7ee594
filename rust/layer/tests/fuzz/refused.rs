//! Calls that need not fit: an array of another shape, one that is strided, huge or missing, lengths that cannot be.
//!
//! What fits runs and has the right bits; what does not is an error in words, before memory is asked for. A strided array
//! may be either.

use std::sync::Arc;

use ndarray::{Array, Array2, ArrayD, ArrayView, ArrayViewD, ArrayViewMut, Axis, Dimension, Ix2, Ix3, IxDyn, Slice};

use super::super::calls::{ALONE, Backwarded, Forwarded, try_backward, try_forward};
use super::super::cases::{Case, Data, Layout};
use super::source::Source;
use crate::dims::{Dims, LayerDims, StepDims, WeightShapes};
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
        0 => shapes(&mut source),
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

// ------------------------------------------------------------------------------------------------------ shapes alone

/// Any shapes for every check that takes shapes without arrays.
fn shapes(source: &mut Source<'_>) {
    let mut cell = source.cell(false);
    if source.below(4) == 0 {
        (cell.coupled, cell.peephole) = (source.heads(), source.heads());
        (cell.gate_clip, cell.cell_clip) = (f64::from_bits(source.bits()), f64::from_bits(source.bits()));
    }
    let size = |source: &mut Source<'_>| match source.below(4) {
        0 => source.bits() as usize,
        1 => 1 << source.below(64),
        _ => source.below(24),
    };
    let shape = |source: &mut Source<'_>| (0..source.below(5)).map(|_| size(source)).collect::<Vec<_>>();
    let gates = cell.gate_rows().count;
    let hidden = shape(source).first().copied().unwrap_or(3);
    let [mut w_ih, mut w_hh, mut b, mut peephole, mut w_hr] = [0; 5].map(|_| shape(source));
    // As often as not they fit, but for one.
    let output = w_hr.first().copied().filter(|_| source.heads());
    let rows = gates.wrapping_mul(hidden);
    let wrong = source.below(8);
    let fit = |k: usize, shape: &mut Vec<usize>, right: Vec<usize>| {
        if k != wrong {
            *shape = right;
        }
    };
    fit(0, &mut w_ih, vec![rows, 3]);
    fit(1, &mut w_hh, vec![rows, output.unwrap_or(hidden)]);
    fit(2, &mut b, vec![rows]);
    fit(3, &mut peephole, vec![cell.peephole_rows().count, hidden]);
    fit(4, &mut w_hr, vec![output.unwrap_or(1), hidden]);
    let (b, peephole, w_hr) = (
        source.heads().then_some(&b[..]),
        (cell.peephole_rows().count > 0 || source.below(8) == 0).then_some(&peephole[..]),
        output.map(|_| &w_hr[..]),
    );
    let weights = WeightShapes { w_ih: &w_ih, w_hh: &w_hh, b, peephole, w_hr };
    let Some(layer) = in_words(LayerDims::new(cell, weights)) else { return };
    let LayerDims { input_size, hidden_size, output_size, .. } = layer;
    assert_eq!((layer.gate_rows(), input_size), (w_ih[0], w_ih[1]));
    assert_eq!((layer.gate_rows(), output_size), (w_hh[0], w_hh[1]));
    assert!(hidden_size > 0 && output_size > 0 && cell.check().is_ok());
    assert!(b.is_none_or(|b| *b == [w_ih[0]]) && w_hr.is_none_or(|w_hr| *w_hr == [output_size, hidden_size]));
    let step = shape(source);
    if let Some(dims) = in_words(StepDims::new(&layer, source.below(3), &step)) {
        assert_eq!(step.last(), Some(&input_size));
        let out = shape(source);
        assert_eq!(in_words(dims.check_out(Ok(&out))).is_some(), *dims.out == *out);
    }
    let mut x = shape(source);
    if let Some(last) = x.last_mut().filter(|_| source.below(4) > 0) {
        *last = input_size;
    }
    let Some(dims) = in_words(Dims::new(layer, &x, source.heads())) else { return };
    assert_eq!(dims.cells(), dims.steps * dims.batch);
    // The arrays of such a call can be: none has more bytes than there are.
    let _bytes = [hidden_size * layer.gates, output_size].map(|width| dims.cells().max(1) * width * size_of::<f64>());
    let mut other = |right: &[usize]| if source.heads() { right.to_vec() } else { shape(source) };
    let y = other(&dims.sequence_shape(output_size));
    assert_eq!(in_words(dims.check_sequence("y", output_size, &y)).is_some(), *y == *dims.sequence_shape(output_size));
    let (h, c) = (other(&dims.state_shape(output_size)), other(&dims.state_shape(hidden_size)));
    let right = *h == *dims.state_shape(output_size) && *c == *dims.state_shape(hidden_size);
    assert_eq!(in_words(dims.check_state("state", &h, &c)).is_some(), right);
    let stacked = other(&dims.stacked_shape(6, hidden_size));
    let right = *stacked == *dims.stacked_shape(6, hidden_size);
    assert_eq!(in_words(dims.check_stacked("state.c", 3, 2, hidden_size, &stacked)).is_some(), right);
    let (gates, c) =
        (other(&[dims.steps, dims.batch, layer.gates, hidden_size]), other(&[dims.steps, dims.batch, hidden_size]));
    let right =
        gates == [dims.steps, dims.batch, layer.gates, hidden_size] && c == [dims.steps, dims.batch, hidden_size];
    assert_eq!(in_words(dims.check_tape(&gates, &c)).is_some(), right);
    let lengths = shape(source);
    in_words(dims.check_lengths_shape(&lengths));
    let lengths: Vec<_> = lengths.into_iter().map(|length| length as i64).collect();
    let fit = lengths.len() == dims.batch && lengths.iter().all(|&n| 0 <= n && n as usize <= dims.steps);
    assert_eq!(in_words(dims.check_lengths(&lengths)).is_some(), fit);
}

// ------------------------------------------------------------------------------------------------------ arrays

/// What a call with changed arrays must come to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fits {
    Yes,
    No,
    Perhaps,
}

/// Changes arrays as the bytes say, and keeps in mind whether the call still fits.
struct Changes<'s, 'b> {
    source: &'s mut Source<'b>,
    /// Which of the arrays that come are to be changed, by their number.
    which: [usize; 2],
    count: usize,
    fits: Fits,
}

impl<'s, 'b> Changes<'s, 'b> {
    fn new(source: &'s mut Source<'b>) -> Self {
        let which = [source.below(32), if source.heads() { source.below(32) } else { usize::MAX }];
        Self { source, which, count: 0, fits: Fits::Yes }
    }

    /// Is it the turn of the next array?
    fn turn(&mut self) -> bool {
        self.count += 1;
        self.which.contains(&(self.count - 1))
    }

    fn refused(&mut self) {
        self.fits = Fits::No;
    }

    /// An array of as many axes, and as a rule of another shape.
    fn other<T: Real, D: Dimension>(&mut self, right: &Array<T, D>) -> ArrayD<T> {
        let mut shape = right.shape().to_vec();
        let axis = self.source.below(shape.len());
        match self.source.below(5) {
            0 => shape[axis] += 1,
            1 => shape[axis] = shape[axis].saturating_sub(1),
            2 => shape[axis] = 0,
            3 => shape.rotate_left(1),
            _ => shape[axis] = self.source.below(40),
        }
        if shape == right.shape() {
            return right.clone().into_dyn();
        }
        self.refused();
        ArrayD::from_elem(shape, T::ONE)
    }

    /// An array to read: as it is, or of another shape, strided, or one number that stands for very many.
    fn read<T: Real, D: Dimension>(&mut self, right: &Array<T, D>) -> Stored<T> {
        let plain = |array: ArrayD<T>| Stored { array, strided: false, broadcast: None };
        if !self.turn() {
            return plain(right.clone().into_dyn());
        }
        match self.source.below(4) {
            0 => self.strided(right),
            1 => {
                let mut shape = right.shape().to_vec();
                let axis = self.source.below(shape.len());
                shape[axis] = 1 << (20 + self.source.below(42));
                let array = ArrayD::from_elem(IxDyn(&[]), T::ONE);
                if array.broadcast(IxDyn(&shape)).is_none() {
                    return plain(right.clone().into_dyn());
                }
                self.refused();
                Stored { array, strided: false, broadcast: Some(shape) }
            }
            _ => plain(self.other(right)),
        }
    }

    /// An array to write to.
    fn write<T: Real, D: Dimension>(&mut self, right: &Array<T, D>) -> Stored<T> {
        let plain = |array: ArrayD<T>| Stored { array, strided: false, broadcast: None };
        if !self.turn() {
            return plain(right.clone().into_dyn());
        }
        match self.source.below(4) {
            0 => self.strided(right),
            _ => plain(self.other(right)),
        }
    }

    /// The same where it is there; else, and the other way round, sometimes.
    fn write_if<T: Real, D: Dimension>(&mut self, right: Option<&Array<T, D>>, shape: &[usize]) -> Option<Stored<T>> {
        let there = right.is_some() != (self.turn() && self.source.heads());
        if there != right.is_some() {
            self.refused();
        }
        match right {
            Some(right) => Some(self.write(right)).filter(|_| there),
            None => there.then(|| {
                let mut shape = shape.to_vec();
                if self.source.heads() {
                    shape[0] = 0;
                }
                Stored { array: ArrayD::from_elem(shape, T::ZERO), strided: false, broadcast: None }
            }),
        }
    }

    fn strided<T: Real, D: Dimension>(&mut self, right: &Array<T, D>) -> Stored<T> {
        let last = Axis(right.ndim() - 1);
        let mut shape = right.shape().to_vec();
        shape[last.0] *= 2;
        let mut array = ArrayD::from_elem(shape, T::ZERO);
        array.slice_axis_mut(last, Slice::new(0, None, 2)).assign(&right.view().into_dyn());
        if self.fits == Fits::Yes {
            self.fits = Fits::Perhaps;
        }
        Stored { array, strided: true, broadcast: None }
    }
}

/// An array, and how it is to be seen.
struct Stored<T> {
    array: ArrayD<T>,
    strided: bool,
    broadcast: Option<Vec<usize>>,
}

impl<T: Real> Stored<T> {
    fn view<D: Dimension>(&self) -> ArrayView<'_, T, D> {
        let view: ArrayViewD<'_, T> = match &self.broadcast {
            Some(shape) => self.array.broadcast(IxDyn(shape)).expect("was tried"),
            None => self.array.view(),
        };
        let mut view = view.into_dimensionality::<D>().expect("as many axes");
        if self.strided {
            view.slice_axis_inplace(Axis(view.ndim() - 1), Slice::new(0, None, 2));
        }
        view
    }

    fn view_mut<D: Dimension>(&mut self) -> ArrayViewMut<'_, T, D> {
        let mut view = self.array.view_mut().into_dimensionality::<D>().expect("as many axes");
        if self.strided {
            view.slice_axis_inplace(Axis(view.ndim() - 1), Slice::new(0, None, 2));
        }
        view
    }

    fn is<D: Dimension>(&self, right: &Array<T, D>) -> bool {
        self.view::<D>().iter().map(|x| x.bits()).eq(right.iter().map(|x| x.bits()))
    }
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
        forward(Changes::new(source), &case, &data, &whole, isa, &control);
    } else {
        let gradients = try_backward(isa, &case, &data, &whole, &ALONE).unwrap();
        backward(Changes::new(source), &case, &data, &whole, &gradients, isa, &control);
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
        if let (Some(lengths), true) = (&mut lengths, changes.turn()) {
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
        let mut changes = Changes { which: [source.below(8), usize::MAX], ..Changes::new(source) };
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
    let mut changes = Changes::new(source);
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
