//! The passes of one layer, in one direction or in both at once: their arrays, and `forward` and `backward` as Python
//! calls them.

use ndarray::{ArrayViewMut3, Axis, Slice};
use numpy::PyUntypedArrayMethods;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::arrays::{
    Array, Filled, LIKE_WEIGHTS, Number, State, StateOut, Wanted, borrow, borrow_option, flag, lengths, new_array,
    sequences, sequences_mut, view, view_mut, with_workspaces,
};
use super::detached;
use super::recycled::recycled_array;
use super::weights::{Backward, Either, Forward};
use crate::dims::{Dims, LayerDims};
use crate::layer;

/// `(y, h, c, gates, c_tape)`: gates and c_tape are None without `tape`.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "a function of Python")]
pub(super) fn forward<'py>(
    py: Python<'py>,
    weights: &Forward,
    x: &Bound<'py, PyAny>,
    state: Option<&Bound<'py, PyAny>>,
    lengths: Option<&Bound<'py, PyAny>>,
    reverse: &Bound<'py, PyAny>,
    batch_first: &Bound<'py, PyAny>,
    tape: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    let run = (x, state, lengths, reverse, batch_first, tape);
    match &weights.0 {
        Either::F32(weights) => forward_in(py, weights, run),
        Either::F64(weights) => forward_in(py, weights, run),
    }
}

/// What `forward` is asked for.
type ForwardArguments<'a, 'py> = (
    &'a Bound<'py, PyAny>,
    Option<&'a Bound<'py, PyAny>>,
    Option<&'a Bound<'py, PyAny>>,
    &'a Bound<'py, PyAny>,
    &'a Bound<'py, PyAny>,
    bool,
);

fn forward_in<'py, T: Number>(
    py: Python<'py>,
    weights: &layer::Forward<T>,
    (x, state, given_lengths, reverse, batch_first, tape): ForwardArguments<'_, 'py>,
) -> PyResult<Bound<'py, PyTuple>> {
    let (reverse, batch_first) = (flag("reverse", reverse)?, flag("batch_first", batch_first)?);
    let x = borrow::<T>("x", x, Wanted::Rows, LIKE_WEIGHTS)?;
    let dims = Dims::new(weights.dims(), x.shape(), batch_first)?;
    let state = State::<T>::borrow("state", state, &dims)?;
    let lengths = lengths(given_lengths, &dims)?;
    let filled = Filled::past_ends(lengths.as_deref());
    let y = recycled_array(py, &dims.sequence_shape(dims.layer.output_size), filled)?;
    let end = StateOut::new(py, &dims)?;
    let tape = tape.then(|| new_tape(py, &dims, filled)).transpose()?;
    let arrays = ForwardArrays { dims, x, state, lengths: lengths.as_deref(), reverse, y, end, tape };
    arrays.run(py, weights, None)?;
    let (gates, c) = arrays.tape.unzip();
    (arrays.y, arrays.end.h, arrays.end.c, gates, c).into_pyobject(py)
}

/// Room for the gates (T, N, G, H) and states (T, N, H) of a tape.
pub(super) fn new_tape<'py, T: Number>(
    py: Python<'py>,
    dims: &Dims,
    filled: Filled,
) -> PyResult<(Array<'py, T>, Array<'py, T>)> {
    let LayerDims { gates, hidden_size, .. } = dims.layer;
    Ok((
        recycled_array(py, &[dims.steps, dims.batch, gates, hidden_size], filled)?,
        recycled_array(py, &[dims.steps, dims.batch, hidden_size], filled)?,
    ))
}

/// The arrays of a pass forward: borrowed, and made for what comes of it.
pub(super) struct ForwardArrays<'py, 'a, T> {
    pub(super) dims: Dims,
    pub(super) x: Array<'py, T>,
    pub(super) state: Option<State<'py, T>>,
    pub(super) lengths: Option<&'a [i64]>,
    pub(super) reverse: bool,
    /// Of all directions side by side, this one's being the first where it runs forwards and the second where it runs back.
    pub(super) y: Array<'py, T>,
    pub(super) end: StateOut<'py, T>,
    pub(super) tape: Option<(Array<'py, T>, Array<'py, T>)>,
}

impl<'py, T: Number> ForwardArrays<'py, '_, T> {
    /// Runs the pass; with another one, which is that of the same layer in the other direction, both at once.
    pub(super) fn run(
        &self,
        py: Python<'py>,
        weights: &layer::Forward<T>,
        other: Option<(&layer::Forward<T>, &Self)>,
    ) -> PyResult<()> {
        let nanoseconds = weights.nanoseconds(self.dims.steps, self.dims.cells());
        let (input, output) = self.views();
        let Some((other_weights, other)) = other else {
            return detached(py, nanoseconds, |control| {
                with_workspaces(|[space, _]| weights.run_with(space, input, output, control))
            });
        };
        let (other_input, other_output) = other.views();
        detached(py, 2.0 * nanoseconds, |control| {
            with_workspaces(|[workspace, other_space]| {
                let call = layer::ForwardCall { weights, workspace, input, output };
                let other = layer::ForwardCall {
                    weights: other_weights,
                    workspace: other_space,
                    input: other_input,
                    output: other_output,
                };
                layer::Forward::run_both([call, other], control)
            })
        })
    }

    fn views(&self) -> (layer::Input<'_, T>, layer::Output<'_, T>) {
        let Self { dims, .. } = self;
        let input = layer::Input {
            x: sequences(&self.x, dims),
            state: self.state.as_ref().map(|state| state.view(dims)),
            lengths: self.lengths,
            reverse: self.reverse,
        };
        let mut y: ArrayViewMut3<'_, T> = sequences_mut(&self.y, dims);
        let width = dims.layer.output_size;
        if y.len_of(Axis(2)) > width {
            let first = if self.reverse { width } else { 0 };
            y.slice_axis_inplace(Axis(2), Slice::from(first..first + width));
        }
        let output = layer::Output {
            y,
            state: self.end.view(dims),
            tape: self.tape.as_ref().map(|(gates, c)| layer::TapeMut { gates: view_mut(gates), c: view_mut(c) }),
        };
        (input, output)
    }
}

/// What a pass forward of one layer in one direction has recorded: x, state, lengths, reverse, batch_first, y, gates, c.
#[derive(FromPyObject)]
pub(super) struct Record<'py>(
    Bound<'py, PyAny>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
);

impl Record<'_> {
    /// The sizes of the call.
    pub(super) fn dims<T: Number>(&self, weights: &layer::Backward<T>) -> PyResult<Dims> {
        let x = borrow::<T>("tape.x", &self.0, Wanted::Rows, LIKE_WEIGHTS)?;
        Ok(Dims::new(weights.dims(), x.shape(), flag("tape.batch_first", &self.4)?)?)
    }
}

/// `(dx, d_w_ih, d_w_hh, d_b, d_peephole, d_w_hr, d_h, d_c)`: None where there is none.
#[pyfunction]
pub(super) fn backward<'py>(
    py: Python<'py>,
    weights: &Backward,
    record: Record<'py>,
    dy: Option<&Bound<'py, PyAny>>,
    dstate: Option<&Bound<'py, PyAny>>,
    need_dx: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyTuple>> {
    fn run<'py, T: Number>(
        py: Python<'py>,
        weights: &layer::Backward<T>,
        record: &Record<'py>,
        (dy, dstate, need_dx): (Option<&Bound<'py, PyAny>>, Option<&Bound<'py, PyAny>>, bool),
    ) -> PyResult<Bound<'py, PyTuple>> {
        let recorded = Recorded::new(weights, record)?;
        let dstate = State::borrow("dstate", dstate, &recorded.dims)?;
        let start = StateOut::new(py, &recorded.dims)?;
        let arrays = BackwardArrays::new(py, weights, recorded, dy, (dstate, start), need_dx)?;
        arrays.run(py, weights, None)?;
        let [w_ih, w_hh, b, peephole, w_hr] = arrays.gradients;
        (arrays.dx, w_ih, w_hh, b, peephole, w_hr, arrays.start.h, arrays.start.c).into_pyobject(py)
    }
    let gradient = (dy, dstate, flag("need_dx", need_dx)?);
    match &weights.0 {
        Either::F32(weights) => run(py, weights, &record, gradient),
        Either::F64(weights) => run(py, weights, &record, gradient),
    }
}

/// A record whose arrays have been borrowed.
pub(super) struct Recorded<'py, T> {
    dims: Dims,
    pub(super) x: Array<'py, T>,
    state: Option<State<'py, T>>,
    lengths: Option<Vec<i64>>,
    reverse: bool,
    y: Array<'py, T>,
    gates: Array<'py, T>,
    c: Array<'py, T>,
}

impl<'py, T: Number> Recorded<'py, T> {
    pub(super) fn new(weights: &layer::Backward<T>, record: &Record<'py>) -> PyResult<Self> {
        let Record(x, state, given_lengths, reverse, batch_first, y, gates, c) = record;
        let (reverse, batch_first) = (flag("tape.reverse", reverse)?, flag("tape.batch_first", batch_first)?);
        let x = borrow::<T>("tape.x", x, Wanted::Rows, LIKE_WEIGHTS)?;
        let dims = Dims::new(weights.dims(), x.shape(), batch_first)?;
        let state = State::<T>::borrow("tape.state", state.as_ref(), &dims)?;
        let lengths = lengths(given_lengths.as_ref(), &dims)?;
        let y = borrow::<T>("tape.y", y, Wanted::Rows, LIKE_WEIGHTS)?;
        dims.check_sequence("tape.y", dims.layer.output_size, y.shape())?;
        let gates = borrow::<T>("tape.gates", gates, Wanted::Contiguous, LIKE_WEIGHTS)?;
        let c = borrow::<T>("tape.c", c, Wanted::Contiguous, LIKE_WEIGHTS)?;
        dims.check_tape(gates.shape(), c.shape())?;
        Ok(Self { dims, x, state, lengths, reverse, y, gates, c })
    }
}

/// The arrays of a pass backward: borrowed, and made for what comes of it.
pub(super) struct BackwardArrays<'py, T> {
    recorded: Recorded<'py, T>,
    dy: Option<Array<'py, T>>,
    dstate: Option<State<'py, T>>,
    pub(super) dx: Option<Array<'py, T>>,
    /// Of w_ih, w_hh, b, peephole and w_hr.
    pub(super) gradients: [Option<Array<'py, T>>; 5],
    start: StateOut<'py, T>,
}

impl<'py, T: Number> BackwardArrays<'py, T> {
    /// With the gradients of the state, after the pass and before it.
    pub(super) fn new(
        py: Python<'py>,
        weights: &layer::Backward<T>,
        recorded: Recorded<'py, T>,
        dy: Option<&Bound<'py, PyAny>>,
        (dstate, start): (Option<State<'py, T>>, StateOut<'py, T>),
        need_dx: bool,
    ) -> PyResult<Self> {
        let Recorded { dims, .. } = &recorded;
        let LayerDims { input_size, hidden_size, output_size, .. } = dims.layer;
        let rows = dims.layer.gate_rows();
        let dy = borrow_option::<T>("dy", dy, Wanted::Rows, LIKE_WEIGHTS)?;
        if let Some(dy) = &dy {
            dims.check_sequence("dy", output_size, dy.shape())?;
        }
        let filled = Filled::past_ends(recorded.lengths.as_deref());
        let zeros = |shape: &[usize]| new_array::<T>(py, shape, Filled::Zeros);
        let later = |shape: &[usize]| recycled_array::<T>(py, shape, Filled::Later);
        let peepholes = weights.cell().peephole_rows().count;
        Ok(Self {
            dx: need_dx.then(|| recycled_array(py, &dims.sequence_shape(input_size), filled)).transpose()?,
            gradients: [
                Some(later(&[rows, input_size])?),
                Some(later(&[rows, output_size])?),
                weights.has_bias().then(|| zeros(&[rows])).transpose()?,
                (peepholes > 0).then(|| zeros(&[peepholes, hidden_size])).transpose()?,
                weights.is_projected().then(|| later(&[output_size, hidden_size])).transpose()?,
            ],
            recorded,
            dy,
            dstate,
            start,
        })
    }

    /// Runs the pass; with another one, which is that of the same layer in the other direction, both at once.
    pub(super) fn run(
        &self,
        py: Python<'py>,
        weights: &layer::Backward<T>,
        other: Option<(&layer::Backward<T>, &Self)>,
    ) -> PyResult<()> {
        let Recorded { dims, .. } = &self.recorded;
        let nanoseconds = weights.nanoseconds(dims.steps, dims.cells());
        let (tape, gradient, out) = self.views();
        let Some((other_weights, other)) = other else {
            return detached(py, nanoseconds, |control| {
                with_workspaces(|[space, _]| weights.run_with(space, tape, gradient, out, control))
            });
        };
        let (other_tape, other_gradient, other_out) = other.views();
        detached(py, 2.0 * nanoseconds, |control| {
            with_workspaces(|[workspace, other_space]| {
                let call = layer::BackwardCall { weights, workspace, tape, gradient, out };
                let other = layer::BackwardCall {
                    weights: other_weights,
                    workspace: other_space,
                    tape: other_tape,
                    gradient: other_gradient,
                    out: other_out,
                };
                layer::Backward::run_both([call, other], control)
            })
        })
    }

    fn views(&self) -> (layer::Tape<'_, T>, layer::OutputGradient<'_, T>, layer::Gradients<'_, T>) {
        let Recorded { dims, x, state, lengths, reverse, y, gates, c } = &self.recorded;
        let tape = layer::Tape {
            input: layer::Input {
                x: sequences(x, dims),
                state: state.as_ref().map(|state| state.view(dims)),
                lengths: lengths.as_deref(),
                reverse: *reverse,
            },
            y: sequences(y, dims),
            gates: view(gates),
            c: view(c),
        };
        let gradient = layer::OutputGradient {
            dy: self.dy.as_ref().map(|dy| sequences(dy, dims)),
            state: self.dstate.as_ref().map(|state| state.view(dims)),
        };
        let [w_ih, w_hh, b, peephole, w_hr] = self.gradients.each_ref().map(Option::as_ref);
        let out = layer::Gradients {
            x: self.dx.as_ref().map(|dx| sequences_mut(dx, dims)),
            w_ih: view_mut(w_ih.expect("always made")),
            w_hh: view_mut(w_hh.expect("always made")),
            b: b.map(view_mut),
            peephole: peephole.map(view_mut),
            w_hr: w_hr.map(view_mut),
            state: self.start.view(dims),
        };
        (tape, gradient, out)
    }
}
