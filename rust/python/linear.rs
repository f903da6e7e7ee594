//! A linear read-out, for what trains: products as the passes make them.

use ndarray::{ArrayView1, Ix1, Ix2};
use numpy::PyUntypedArrayMethods;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::arrays::{Array, Filled, Number, Wanted, borrow, borrow_option, view, view_mut, with_workspaces};
use super::detached;
use super::recycled::recycled_array;
use super::settings::chosen;
use super::weights::decides;
use crate::layer::{Linear, LinearGradients};

const LIKE_WEIGHT: &str = ", as weight is";

/// `y` (M, O) of x (M, I), weight (O, I) and bias (O,).
#[pyfunction]
#[pyo3(signature = (weight, bias, x))]
pub(super) fn linear<'py>(
    py: Python<'py>,
    weight: &Bound<'py, PyAny>,
    bias: Option<&Bound<'py, PyAny>>,
    x: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    if decides("weight", weight)? { forward::<f32>(py, weight, bias, x) } else { forward::<f64>(py, weight, bias, x) }
}

/// `(dx, d_weight, d_bias)`: dx is None without `need_dx`, d_bias without `bias`.
#[pyfunction]
pub(super) fn linear_backward<'py>(
    py: Python<'py>,
    weight: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    dy: &Bound<'py, PyAny>,
    bias: bool,
    need_dx: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    if decides("weight", weight)? {
        backward::<f32>(py, weight, (x, dy), (bias, need_dx))
    } else {
        backward::<f64>(py, weight, (x, dy), (bias, need_dx))
    }
}

fn forward<'py, T: Number>(
    py: Python<'py>,
    weight: &Bound<'py, PyAny>,
    bias: Option<&Bound<'py, PyAny>>,
    x: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let weight = matrix::<T>("weight", weight)?;
    let bias = borrow_option::<T>("bias", bias, Wanted::Contiguous, LIKE_WEIGHT)?;
    let x = matrix::<T>("x", x)?;
    if let Some(bias) = bias.as_ref().filter(|bias| bias.ndim() != 1) {
        return Err(PyValueError::new_err(format!("bias: expected 1 axis, got {}", bias.ndim())));
    }
    let y = recycled_array(py, &[x.shape()[0], weight.shape()[0]], Filled::Later)?;
    let linear = of(&weight, bias.as_ref().map(view::<T, Ix1>))?;
    let (input, output) = (view::<T, Ix2>(&x), view_mut::<T, Ix2>(&y));
    detached(py, linear.nanoseconds(input.nrows()), |control| {
        with_workspaces(|[workspace, _]| linear.forward(workspace, input, output, control))
    })?;
    Ok(y.into_any())
}

fn backward<'py, T: Number>(
    py: Python<'py>,
    weight: &Bound<'py, PyAny>,
    (x, dy): (&Bound<'py, PyAny>, &Bound<'py, PyAny>),
    (bias, need_dx): (bool, bool),
) -> PyResult<Bound<'py, PyTuple>> {
    let weight = matrix::<T>("weight", weight)?;
    let (x, dy) = (matrix::<T>("x", x)?, matrix::<T>("dy", dy)?);
    let new = |shape: &[usize]| recycled_array::<T>(py, shape, Filled::Later);
    let dx = need_dx.then(|| new(x.shape())).transpose()?;
    let d_weight = new(weight.shape())?;
    let d_bias = bias.then(|| new(&weight.shape()[..1])).transpose()?;
    let linear = of(&weight, None)?;
    let out = LinearGradients {
        x: dx.as_ref().map(view_mut::<T, Ix2>),
        weight: view_mut::<T, Ix2>(&d_weight),
        bias: d_bias.as_ref().map(view_mut::<T, Ix1>),
    };
    let (x, dy) = (view::<T, Ix2>(&x), view::<T, Ix2>(&dy));
    detached(py, 2.0 * linear.nanoseconds(x.nrows()), |control| {
        with_workspaces(|[workspace, _]| linear.backward(workspace, x, dy, out, control))
    })?;
    (dx, d_weight, d_bias).into_pyobject(py)
}

/// The weights, for the instruction set in use.
fn of<'a, T: Number>(weight: &'a Array<'_, T>, bias: Option<ArrayView1<'a, T>>) -> PyResult<Linear<'a, T>> {
    Ok(Linear::new(chosen(), view::<T, Ix2>(weight), bias)?)
}

/// An array of two axes.
fn matrix<'py, T: Number>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Array<'py, T>> {
    let like = if name == "weight" { "" } else { LIKE_WEIGHT };
    let array = borrow::<T>(name, object, Wanted::Contiguous, like)?;
    match array.ndim() {
        2 => Ok(array),
        other => Err(PyValueError::new_err(format!("{name}: expected 2 axes, got {other}"))),
    }
}
