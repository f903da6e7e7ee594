//! The layers of an `LSTM`, all at once and step by step: what has to start without delay.

use std::sync::Arc;

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut3, Axis, s};
use numpy::{PyArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::arrays::{
    Array, Filled, LIKE_LAYER, LIKE_WEIGHTS, Number, Wanted, borrow, check_out, lengths, new_array, pair, sequences,
    sequences_mut, view, view_mut, with_workspaces,
};
use super::detached;
use super::recycled::recycled_array;
use super::weights::{Either, Forward};
use crate::dims::{Dims, LayerDims, StepDims};
use crate::layer;

/// The packed weights of layers, each in one direction or both: immutable.
#[pyclass(frozen, module = "lstm_rs._core")]
pub(super) struct Layers {
    parts: Parts,
    directions: usize,
    batch_first: bool,
}

type Parts = Either<Vec<Arc<layer::Forward<f32>>>, Vec<Arc<layer::Forward<f64>>>>;

#[pymethods]
impl Layers {
    /// Parts stand in the order of the state's first axis; they fit on each other.
    #[new]
    fn new(parts: Vec<Bound<'_, Forward>>, directions: usize, batch_first: bool) -> PyResult<Self> {
        if !(1..=2).contains(&directions) || parts.is_empty() || !parts.len().is_multiple_of(directions) {
            return Err(PyValueError::new_err(
                "parts: expected one for each layer and direction, of which there are 1 or 2",
            ));
        }
        let (mut single, mut double) = (Vec::new(), Vec::new());
        for part in &parts {
            match &part.get().0 {
                Either::F32(part) => single.push(Arc::clone(part)),
                Either::F64(part) => double.push(Arc::clone(part)),
            }
        }
        let parts = match (single.len(), double.len()) {
            (_, 0) => Either::F32(single),
            (0, _) => Either::F64(double),
            _ => return Err(PyTypeError::new_err("parts: expected weights of one dtype")),
        };
        Ok(Self { parts, directions, batch_first })
    }

    /// Runs all layers: `(y, h, c)`.
    #[pyo3(signature = (x, state=None, lengths=None))]
    fn forward<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        state: Option<&Bound<'py, PyAny>>,
        lengths: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        match &self.parts {
            Either::F32(parts) => self.run(py, parts, x, state, lengths),
            Either::F64(parts) => self.run(py, parts, x, state, lengths),
        }
    }
}

impl Layers {
    fn run<'py, T: Number>(
        &self,
        py: Python<'py>,
        parts: &[Arc<layer::Forward<T>>],
        x: &Bound<'py, PyAny>,
        state: Option<&Bound<'py, PyAny>>,
        given_lengths: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let x = borrow::<T>("x", x, Wanted::Rows, LIKE_WEIGHTS)?;
        let dims = Dims::new(parts[0].dims(), x.shape(), self.batch_first)?;
        let LayerDims { hidden_size, output_size, .. } = dims.layer;
        let layers = parts.len() / self.directions;
        let state = match state {
            None => None,
            Some(state) => {
                let part = |letter: &str, array: &Bound<'py, PyAny>, width: usize| {
                    let name = format!("state.{letter}");
                    let array = borrow::<T>(&name, array, Wanted::Contiguous, LIKE_WEIGHTS)?;
                    dims.check_stacked(&name, layers, self.directions, width, array.shape())?;
                    PyResult::Ok(array)
                };
                let [h, c] = pair("state", state)?;
                Some((part("h", &h, output_size)?, part("c", &c, hidden_size)?))
            }
        };
        let lengths = lengths(given_lengths, &dims)?;
        // Steps past the ends stay zeros.
        let filled = if lengths.is_some() { Filled::Zeros } else { Filled::Later };
        let shape = dims.sequence_shape(self.directions * output_size);
        let ys: Vec<Array<'py, T>> =
            (0..layers).map(|_| recycled_array(py, &shape, filled)).collect::<PyResult<_>>()?;
        let (h, c) = (
            new_array(py, &dims.stacked_shape(parts.len(), output_size), Filled::Later)?,
            new_array(py, &dims.stacked_shape(parts.len(), hidden_size), Filled::Later)?,
        );

        let input = sequences(&x, &dims);
        let mut outputs: Vec<ArrayViewMut3<'_, T>> = ys.iter().map(|y| sequences_mut(y, &dims)).collect();
        let stack = |array| {
            let view = view(array);
            let view = if dims.axes.single { view.insert_axis(Axis(1)) } else { view };
            view.into_dimensionality().expect("its shape was checked")
        };
        let state: Option<[ArrayView3<'_, T>; 2]> = state.as_ref().map(|(h, c)| [stack(h), stack(c)]);
        let stack_mut = |array| {
            let view = view_mut(array);
            let view = if dims.axes.single { view.insert_axis(Axis(1)) } else { view };
            view.into_dimensionality().expect("made so")
        };
        let mut end: [ArrayViewMut3<'_, T>; 2] = [stack_mut(&h), stack_mut(&c)];
        let lengths = lengths.as_deref();
        let nanoseconds = parts.iter().map(|part| part.nanoseconds(dims.steps, dims.cells())).sum();
        detached(py, nanoseconds, |control| {
            with_workspaces(|[one, two]| {
                for (k, parts) in parts.chunks(self.directions).enumerate() {
                    let (below, above) = outputs.split_at_mut(k);
                    let x = below.last().map_or_else(|| input.view(), |y| y.view());
                    let first = k * self.directions;
                    let input = |d: usize| layer::Input {
                        x: x.view(),
                        state: state.as_ref().map(|[h, c]| layer::State {
                            h: h.slice(s![first + d, .., ..]),
                            c: c.slice(s![first + d, .., ..]),
                        }),
                        lengths,
                        reverse: d == 1,
                    };
                    let [h, c] = end.each_mut().map(|end| end.slice_mut(s![first..first + self.directions, .., ..]));
                    let y = above[0].view_mut();
                    let Some(backwards) = parts.get(1) else {
                        parts[0].run_with(one, input(0), output(y, h, c), control)?;
                        continue;
                    };
                    // Both write into one array, side by side.
                    let (y, y_back) = y.split_at(Axis(2), output_size);
                    let ((h, h_back), (c, c_back)) = (h.split_at(Axis(0), 1), c.split_at(Axis(0), 1));
                    layer::Forward::run_both(
                        [
                            layer::ForwardCall {
                                weights: &parts[0],
                                workspace: &mut *one,
                                input: input(0),
                                output: output(y, h, c),
                            },
                            layer::ForwardCall {
                                weights: backwards,
                                workspace: &mut *two,
                                input: input(1),
                                output: output(y_back, h_back, c_back),
                            },
                        ],
                        control,
                    )?;
                }
                Ok(())
            })
        })?;
        let y = ys.into_iter().next_back().expect("there is a layer");
        (y, h, c).into_pyobject(py)
    }
}

/// Where one direction writes: its outputs, and its final state (1, N, ·).
fn output<'a, T>(y: ArrayViewMut3<'a, T>, h: ArrayViewMut3<'a, T>, c: ArrayViewMut3<'a, T>) -> layer::Output<'a, T> {
    let state = layer::StateMut { h: h.index_axis_move(Axis(0), 0), c: c.index_axis_move(Axis(0), 0) };
    layer::Output { y, state, tape: None }
}

/// Layers in one direction run step by step; see `lstm_rs.Stream`.
#[pyclass(module = "lstm_rs._core")]
pub(super) struct Stream(Either<layer::Stream<f32>, layer::Stream<f64>>);

#[pymethods]
impl Stream {
    #[new]
    fn new(layers: &Layers, batch_size: usize) -> PyResult<Self> {
        if layers.directions != 1 {
            return Err(PyValueError::new_err("layers: expected one direction"));
        }
        Ok(Self(match &layers.parts {
            Either::F32(parts) => Either::F32(layer::Stream::new(parts.clone(), batch_size)),
            Either::F64(parts) => Either::F64(layer::Stream::new(parts.clone(), batch_size)),
        }))
    }

    /// Runs one step: y_t, which is `out` where that is given.
    #[pyo3(signature = (x_t, out=None))]
    fn step<'py>(
        &mut self,
        py: Python<'py>,
        x_t: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match &mut self.0 {
            Either::F32(stream) => step(py, stream, x_t, out),
            Either::F64(stream) => step(py, stream, x_t, out),
        }
    }

    /// Copies of the state: `(h, c)`, (L, N, P) and (L, N, H).
    fn state<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        fn copies<'py, T: Number>(
            py: Python<'py>,
            stream: &layer::Stream<T>,
        ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
            let copy = |from: ArrayView3<'_, T>| -> PyResult<Bound<'py, PyAny>> {
                let to = new_array::<T>(py, from.shape(), Filled::Later)?;
                view_mut(&to).assign(&from);
                Ok(to.into_any())
            };
            let (h, c) = stream.state();
            Ok((copy(h)?, copy(c)?))
        }
        match &self.0 {
            Either::F32(stream) => copies(py, stream),
            Either::F64(stream) => copies(py, stream),
        }
    }

    /// Goes on from another state.
    fn set_state(&mut self, state: &Bound<'_, PyAny>) -> PyResult<()> {
        fn set<T: Number>(stream: &mut layer::Stream<T>, state: &Bound<'_, PyAny>) -> PyResult<()> {
            let [h, c] = pair("state", state)?;
            let h = borrow::<T>("state.h", &h, Wanted::Contiguous, LIKE_LAYER)?;
            let c = borrow::<T>("state.c", &c, Wanted::Contiguous, LIKE_LAYER)?;
            Ok(stream.set_state(view(&h), view(&c))?)
        }
        match &mut self.0 {
            Either::F32(stream) => set(stream, state),
            Either::F64(stream) => set(stream, state),
        }
    }
}

fn step<'py, T: Number>(
    py: Python<'py>,
    stream: &mut layer::Stream<T>,
    x_t: &Bound<'py, PyAny>,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let x = borrow::<T>("x_t", x_t, Wanted::Rows, LIKE_LAYER)?;
    let dims = StepDims::new(&stream.dims(), stream.batch(), x.shape())?;
    let y = match out {
        None => new_array::<T>(py, &dims.out, Filled::Later)?,
        Some(out) => {
            match out.cast::<PyUntypedArray>() {
                Ok(array) => dims.check_out(Ok(array.shape()))?,
                Err(_) => dims.check_out(Err(out.get_type().name()?.to_str()?))?,
            }
            let Ok(out) = out.cast::<PyArrayDyn<T>>() else {
                return Err(PyTypeError::new_err(format!("out: expected a {} array{LIKE_LAYER}", T::NAME)));
            };
            check_out(out, &[&x])?;
            out.clone()
        }
    };
    let rows: ArrayView2<'_, T> = {
        let view = view(&x);
        let view = if dims.single { view.insert_axis(Axis(0)) } else { view };
        view.into_dimensionality().expect("its shape was checked")
    };
    let outputs = {
        let view = view_mut(&y);
        let view = if dims.single { view.insert_axis(Axis(0)) } else { view };
        view.into_dimensionality().expect("its shape was checked")
    };
    detached(py, stream.nanoseconds(), |control| stream.step(rows, outputs, control))?;
    Ok(y.into_any())
}
