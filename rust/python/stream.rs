//! Layers step by step, the state being kept: what has to start without delay.

use ndarray::{ArrayView3, Axis, Ix1, Ix3};
use numpy::{PyArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::arrays::{Filled, LIKE_LAYER, Number, Wanted, borrow, check_out, new_array, pair, view, view_mut};
use super::detached;
use super::layers::Layers;
use super::weights::Either;
use crate::dims::StepDims;
use crate::layer;

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
            Either::F32(parts) => Either::F32(layer::Stream::new(parts.clone(), batch_size)?),
            Either::F64(parts) => Either::F64(layer::Stream::new(parts.clone(), batch_size)?),
        }))
    }

    /// Runs one step: y_t, which is `out` where that is given.
    #[pyo3(signature = (x_t, out=None))]
    fn step<'py>(
        slf: &Bound<'py, Self>,
        x_t: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        match &mut slf.try_borrow_mut().map_err(busy)?.0 {
            Either::F32(stream) => step(py, stream, x_t, out),
            Either::F64(stream) => step(py, stream, x_t, out),
        }
    }

    /// Copies of the state: `(h, c)`, (L, N, P) and (L, N, H).
    fn state<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        fn copies<'py, T: Number>(
            py: Python<'py>,
            stream: &layer::Stream<T>,
        ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
            let copy = |from: ArrayView3<'_, T>| -> PyResult<Bound<'py, PyAny>> {
                let to = new_array::<T>(py, from.shape(), Filled::Later)?;
                view_mut::<T, Ix3>(&to).assign(&from);
                Ok(to.into_any())
            };
            let (h, c) = stream.state();
            Ok((copy(h)?, copy(c)?))
        }
        let py = slf.py();
        match &slf.try_borrow().map_err(busy)?.0 {
            Either::F32(stream) => copies(py, stream),
            Either::F64(stream) => copies(py, stream),
        }
    }

    /// Goes on from another state.
    fn set_state(slf: &Bound<'_, Self>, state: &Bound<'_, PyAny>) -> PyResult<()> {
        fn set<T: Number>(stream: &mut layer::Stream<T>, state: &Bound<'_, PyAny>) -> PyResult<()> {
            let [h, c] = pair("state", state)?;
            let h = borrow::<T>("state.h", &h, Wanted::Contiguous, LIKE_LAYER)?;
            let c = borrow::<T>("state.c", &c, Wanted::Contiguous, LIKE_LAYER)?;
            Ok(stream.set_state(view(&h), view(&c))?)
        }
        match &mut slf.try_borrow_mut().map_err(busy)?.0 {
            Either::F32(stream) => set(stream, state),
            Either::F64(stream) => set(stream, state),
        }
    }
}

/// Somebody is in the middle of a step: another thread, or the one that a signal has interrupted.
#[cold]
fn busy<E>(_: E) -> PyErr {
    PyRuntimeError::new_err(
        "stream: a step is under way; a stream belongs to one thread at a time, so make one for each",
    )
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
    let (rows, outputs) = match dims.single {
        true => (view::<T, Ix1>(&x).insert_axis(Axis(0)), view_mut::<T, Ix1>(&y).insert_axis(Axis(0))),
        false => (view(&x), view_mut(&y)),
    };
    detached(py, stream.nanoseconds(), |control| stream.step(rows, outputs, control))?;
    Ok(y.into_any())
}
