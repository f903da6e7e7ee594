//! One layer in one direction, or in both at once: the passes as Python calls them.

use ndarray::{Ix1, Ix2, Ix3, Ix4};
use numpy::{PyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::arrays::{
    Array, Filled, LIKE_WEIGHTS, Number, State, StateOut, Wanted, borrow, borrow_option, check_out, flag, lengths,
    new_array, sequences, sequences_mut, view, view_mut, with_workspaces,
};
use super::detached;
use super::recycled::recycled_array;
use super::weights::{Backward, Either, Forward};
use crate::dims::{Dims, LayerDims};
use crate::layer;

/// What a pass forward of one layer in one direction is asked for.
#[derive(FromPyObject)]
pub(super) struct ForwardArguments<'py>(
    Bound<'py, Forward>,
    Bound<'py, PyAny>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    bool,
    bool,
    Option<Bound<'py, PyAny>>,
);

/// `(y, h, c, gates, c_tape)`: gates and c_tape are None without `tape`; `stacked`, h and c have an axis more in front.
#[pyfunction]
#[pyo3(signature = (weights, x, state, lengths, reverse, batch_first, tape, stacked, out=None))]
#[allow(clippy::too_many_arguments, reason = "a function of Python")]
pub(super) fn forward<'py>(
    py: Python<'py>,
    weights: Bound<'py, Forward>,
    x: Bound<'py, PyAny>,
    state: Option<Bound<'py, PyAny>>,
    lengths: Option<Bound<'py, PyAny>>,
    reverse: Bound<'py, PyAny>,
    batch_first: Bound<'py, PyAny>,
    tape: bool,
    stacked: bool,
    out: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyTuple>> {
    fn run<'py, T: Number>(
        py: Python<'py>,
        weights: &layer::Forward<T>,
        arguments: &ForwardArguments<'py>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let arrays = ForwardArrays::new(py, weights, arguments)?;
        let (input, output) = arrays.views();
        detached(py, weights.nanoseconds(arrays.dims.steps, arrays.dims.cells()), |control| {
            with_workspaces(|[space, _]| weights.run_with(space, input, output, control))
        })?;
        arrays.into_tuple(py)
    }
    let arguments = ForwardArguments(weights, x, state, lengths, reverse, batch_first, tape, stacked, out);
    match &arguments.0.get().0 {
        Either::F32(weights) => run(py, weights, &arguments),
        Either::F64(weights) => run(py, weights, &arguments),
    }
}

/// Two directions of one layer at once: the arguments and the answer of each are those of `forward`.
#[pyfunction]
pub(super) fn forward_both<'py>(
    py: Python<'py>,
    first: ForwardArguments<'py>,
    second: ForwardArguments<'py>,
) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyTuple>)> {
    fn run<'py, T: Number>(
        py: Python<'py>,
        weights: [&layer::Forward<T>; 2],
        arguments: [&ForwardArguments<'py>; 2],
    ) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyTuple>)> {
        let one = ForwardArrays::new(py, weights[0], arguments[0])?;
        let two = ForwardArrays::new(py, weights[1], arguments[1])?;
        let views = [one.views(), two.views()];
        detached(py, 2.0 * weights[0].nanoseconds(one.dims.steps, one.dims.cells()), |control| {
            with_workspaces(|spaces| {
                let [(input, output), (second_input, second_output)] = views;
                let [space, second_space] = spaces;
                layer::Forward::run_both(
                    [
                        layer::ForwardCall { weights: weights[0], workspace: space, input, output },
                        layer::ForwardCall {
                            weights: weights[1],
                            workspace: second_space,
                            input: second_input,
                            output: second_output,
                        },
                    ],
                    control,
                )
            })
        })?;
        Ok((one.into_tuple(py)?, two.into_tuple(py)?))
    }
    match (&first.0.get().0, &second.0.get().0) {
        (Either::F32(one), Either::F32(two)) => run(py, [one, two], [&first, &second]),
        (Either::F64(one), Either::F64(two)) => run(py, [one, two], [&first, &second]),
        _ => Err(PyTypeError::new_err("both directions take weights of one dtype")),
    }
}

/// The arrays of a pass forward: borrowed, and made for what comes of it.
struct ForwardArrays<'py, T> {
    dims: Dims,
    x: Array<'py, T>,
    state: Option<State<'py, T>>,
    lengths: Option<Vec<i64>>,
    reverse: bool,
    y: Array<'py, T>,
    end: StateOut<'py, T>,
    tape: Option<(Array<'py, T>, Array<'py, T>)>,
}

impl<'py, T: Number> ForwardArrays<'py, T> {
    fn new(py: Python<'py>, weights: &layer::Forward<T>, arguments: &ForwardArguments<'py>) -> PyResult<Self> {
        let ForwardArguments(_, x, state, given_lengths, reverse, batch_first, tape, stacked, out) = arguments;
        let (reverse, batch_first) = (flag("reverse", reverse)?, flag("batch_first", batch_first)?);
        let x = borrow::<T>("x", x, Wanted::Rows, LIKE_WEIGHTS)?;
        let dims = Dims::new(weights.dims(), x.shape(), batch_first)?;
        let LayerDims { hidden_size, output_size, gates, .. } = dims.layer;
        let state = State::<T>::borrow("state", state.as_ref(), &dims)?;
        let lengths = lengths(given_lengths.as_ref(), &dims)?;
        // Steps past the ends stay zeros.
        let filled = if lengths.is_some() { Filled::Zeros } else { Filled::Later };
        let y = match out {
            None => recycled_array(py, &dims.sequence_shape(output_size), filled)?,
            Some(out) => {
                let Ok(out) = out.cast::<PyArrayDyn<T>>() else {
                    let what = format!("out: expected a {} array{LIKE_WEIGHTS}", T::NAME);
                    return Err(PyTypeError::new_err(what));
                };
                dims.check_sequence("out", output_size, out.shape())?;
                let mut inputs = vec![&x];
                inputs.extend(state.iter().flat_map(|state| [&state.h, &state.c]));
                check_out(out, &inputs)?;
                out.clone()
            }
        };
        let end = StateOut::<T>::new(py, &dims, *stacked)?;
        let tape = match tape {
            true => Some((
                recycled_array::<T>(py, &[dims.steps, dims.batch, gates, hidden_size], filled)?,
                recycled_array::<T>(py, &[dims.steps, dims.batch, hidden_size], filled)?,
            )),
            false => None,
        };
        Ok(Self { dims, x, state, lengths, reverse, y, end, tape })
    }

    fn views(&self) -> (layer::Input<'_, T>, layer::Output<'_, T>) {
        let Self { dims, .. } = self;
        let input = layer::Input {
            x: sequences(&self.x, dims),
            state: self.state.as_ref().map(|state| state.view(dims)),
            lengths: self.lengths.as_deref(),
            reverse: self.reverse,
        };
        let output = layer::Output {
            y: sequences_mut(&self.y, dims),
            state: self.end.view(dims),
            tape: self.tape.as_ref().map(|(gates, c)| layer::TapeMut {
                gates: view_mut(gates).into_dimensionality::<Ix4>().expect("made so"),
                c: view_mut(c).into_dimensionality::<Ix3>().expect("made so"),
            }),
        };
        (input, output)
    }

    fn into_tuple(self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let (gates, c) = self.tape.unzip();
        (self.y, self.end.h, self.end.c, gates, c).into_pyobject(py)
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

/// What a pass backward of one layer in one direction is asked for.
#[derive(FromPyObject)]
pub(super) struct BackwardArguments<'py>(
    Bound<'py, Backward>,
    Record<'py>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Bound<'py, PyAny>,
    bool,
);

/// `(dx, d_w_ih, d_w_hh, d_b, d_peephole, d_w_hr, d_h, d_c)`: None where there is none; `stacked`, d_h and d_c have an axis
/// more in front.
#[pyfunction]
pub(super) fn backward<'py>(
    py: Python<'py>,
    weights: Bound<'py, Backward>,
    record: Record<'py>,
    dy: Option<Bound<'py, PyAny>>,
    dstate: Option<Bound<'py, PyAny>>,
    need_dx: Bound<'py, PyAny>,
    stacked: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    fn run<'py, T: Number>(
        py: Python<'py>,
        weights: &layer::Backward<T>,
        arguments: &BackwardArguments<'py>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let arrays = BackwardArrays::new(py, weights, arguments)?;
        let (tape, gradient, out) = arrays.views();
        detached(py, weights.nanoseconds(arrays.dims.steps, arrays.dims.cells()), |control| {
            with_workspaces(|[space, _]| weights.run_with(space, tape, gradient, out, control))
        })?;
        arrays.into_tuple(py)
    }
    let arguments = BackwardArguments(weights, record, dy, dstate, need_dx, stacked);
    match &arguments.0.get().0 {
        Either::F32(weights) => run(py, weights, &arguments),
        Either::F64(weights) => run(py, weights, &arguments),
    }
}

/// Two directions of one layer at once: the arguments and the answer of each are those of `backward`.
#[pyfunction]
pub(super) fn backward_both<'py>(
    py: Python<'py>,
    first: BackwardArguments<'py>,
    second: BackwardArguments<'py>,
) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyTuple>)> {
    fn run<'py, T: Number>(
        py: Python<'py>,
        weights: [&layer::Backward<T>; 2],
        arguments: [&BackwardArguments<'py>; 2],
    ) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyTuple>)> {
        let one = BackwardArrays::new(py, weights[0], arguments[0])?;
        let two = BackwardArrays::new(py, weights[1], arguments[1])?;
        let views = [one.views(), two.views()];
        detached(py, 2.0 * weights[0].nanoseconds(one.dims.steps, one.dims.cells()), |control| {
            with_workspaces(|spaces| {
                let [(tape, gradient, out), (second_tape, second_gradient, second_out)] = views;
                let [space, second_space] = spaces;
                layer::Backward::run_both(
                    [
                        layer::BackwardCall { weights: weights[0], workspace: space, tape, gradient, out },
                        layer::BackwardCall {
                            weights: weights[1],
                            workspace: second_space,
                            tape: second_tape,
                            gradient: second_gradient,
                            out: second_out,
                        },
                    ],
                    control,
                )
            })
        })?;
        Ok((one.into_tuple(py)?, two.into_tuple(py)?))
    }
    match (&first.0.get().0, &second.0.get().0) {
        (Either::F32(one), Either::F32(two)) => run(py, [one, two], [&first, &second]),
        (Either::F64(one), Either::F64(two)) => run(py, [one, two], [&first, &second]),
        _ => Err(PyTypeError::new_err("both directions take weights of one dtype")),
    }
}

/// The arrays of a pass backward: borrowed, and made for what comes of it.
struct BackwardArrays<'py, T> {
    dims: Dims,
    x: Array<'py, T>,
    state: Option<State<'py, T>>,
    lengths: Option<Vec<i64>>,
    reverse: bool,
    y: Array<'py, T>,
    gates: Array<'py, T>,
    c: Array<'py, T>,
    dy: Option<Array<'py, T>>,
    dstate: Option<State<'py, T>>,
    dx: Option<Array<'py, T>>,
    d_w_ih: Array<'py, T>,
    d_w_hh: Array<'py, T>,
    d_b: Option<Array<'py, T>>,
    d_peephole: Option<Array<'py, T>>,
    d_w_hr: Option<Array<'py, T>>,
    start: StateOut<'py, T>,
}

impl<'py, T: Number> BackwardArrays<'py, T> {
    fn new(py: Python<'py>, weights: &layer::Backward<T>, arguments: &BackwardArguments<'py>) -> PyResult<Self> {
        let BackwardArguments(_, record, dy, dstate, need_dx, stacked) = arguments;
        let Record(x, state, given_lengths, reverse, batch_first, y, gates, c) = record;
        let (reverse, batch_first) = (flag("tape.reverse", reverse)?, flag("tape.batch_first", batch_first)?);
        let need_dx = flag("need_dx", need_dx)?;
        let x = borrow::<T>("tape.x", x, Wanted::Rows, LIKE_WEIGHTS)?;
        let dims = Dims::new(weights.dims(), x.shape(), batch_first)?;
        let LayerDims { input_size, hidden_size, output_size, .. } = dims.layer;
        let rows = dims.layer.gate_rows();
        let state = State::<T>::borrow("tape.state", state.as_ref(), &dims)?;
        let lengths = lengths(given_lengths.as_ref(), &dims)?;
        let y = borrow::<T>("tape.y", y, Wanted::Rows, LIKE_WEIGHTS)?;
        dims.check_sequence("tape.y", output_size, y.shape())?;
        let gates = borrow::<T>("tape.gates", gates, Wanted::Contiguous, LIKE_WEIGHTS)?;
        let c = borrow::<T>("tape.c", c, Wanted::Contiguous, LIKE_WEIGHTS)?;
        dims.check_tape(gates.shape(), c.shape())?;
        let dy = borrow_option::<T>("dy", dy.as_ref(), Wanted::Rows, LIKE_WEIGHTS)?;
        if let Some(dy) = &dy {
            dims.check_sequence("dy", output_size, dy.shape())?;
        }
        let dstate = State::<T>::borrow("dstate", dstate.as_ref(), &dims)?;

        // Steps past the ends stay zeros.
        let filled = if lengths.is_some() { Filled::Zeros } else { Filled::Later };
        let zeros = |shape: &[usize]| new_array::<T>(py, shape, Filled::Zeros);
        let later = |shape: &[usize]| recycled_array::<T>(py, shape, Filled::Later);
        let dx = need_dx.then(|| recycled_array::<T>(py, &dims.sequence_shape(input_size), filled)).transpose()?;
        let peepholes = weights.cell().peephole_rows().count;
        Ok(Self {
            d_w_ih: later(&[rows, input_size])?,
            d_w_hh: later(&[rows, output_size])?,
            d_b: weights.has_bias().then(|| zeros(&[rows])).transpose()?,
            d_peephole: (peepholes > 0).then(|| zeros(&[peepholes, hidden_size])).transpose()?,
            d_w_hr: weights.is_projected().then(|| later(&[output_size, hidden_size])).transpose()?,
            start: StateOut::<T>::new(py, &dims, *stacked)?,
            dims,
            x,
            state,
            lengths,
            reverse,
            y,
            gates,
            c,
            dy,
            dstate,
            dx,
        })
    }

    fn views(&self) -> (layer::Tape<'_, T>, layer::OutputGradient<'_, T>, layer::Gradients<'_, T>) {
        let Self { dims, .. } = self;
        let tape = layer::Tape {
            input: layer::Input {
                x: sequences(&self.x, dims),
                state: self.state.as_ref().map(|state| state.view(dims)),
                lengths: self.lengths.as_deref(),
                reverse: self.reverse,
            },
            y: sequences(&self.y, dims),
            gates: view(&self.gates).into_dimensionality::<Ix4>().expect("its shape was checked"),
            c: view(&self.c).into_dimensionality::<Ix3>().expect("its shape was checked"),
        };
        let gradient = layer::OutputGradient {
            dy: self.dy.as_ref().map(|dy| sequences(dy, dims)),
            state: self.dstate.as_ref().map(|state| state.view(dims)),
        };
        let two = |array| view_mut(array).into_dimensionality::<Ix2>().expect("made so");
        let out = layer::Gradients {
            x: self.dx.as_ref().map(|dx| sequences_mut(dx, dims)),
            w_ih: two(&self.d_w_ih),
            w_hh: two(&self.d_w_hh),
            b: self.d_b.as_ref().map(|b| view_mut(b).into_dimensionality::<Ix1>().expect("made so")),
            peephole: self.d_peephole.as_ref().map(two),
            w_hr: self.d_w_hr.as_ref().map(two),
            state: self.start.view(dims),
        };
        (tape, gradient, out)
    }

    fn into_tuple(self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let Self { dx, d_w_ih, d_w_hh, d_b, d_peephole, d_w_hr, start, .. } = self;
        (dx, d_w_ih, d_w_hh, d_b, d_peephole, d_w_hr, start.h, start.c).into_pyobject(py)
    }
}
