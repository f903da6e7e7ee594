//! The machine's limits, for the benchmark.

use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::settings::chosen;
use crate::machine;

fn duration(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(format!("seconds: {error}")))
}

/// Floating-point operations a second of one core, in "float32" or "float64", measured for so many seconds.
#[pyfunction]
pub(super) fn fma_peak(py: Python<'_>, dtype: &str, seconds: f64) -> PyResult<f64> {
    let (isa, time) = (chosen(), duration(seconds)?);
    match dtype {
        "float32" => Ok(py.detach(|| machine::fma_peak::<f32>(isa, time))),
        "float64" => Ok(py.detach(|| machine::fma_peak::<f64>(isa, time))),
        _ => Err(PyValueError::new_err(format!("dtype: expected 'float32' or 'float64', got '{dtype}'"))),
    }
}

/// Bytes that one core reads a second, again and again from so many bytes, measured for so many seconds.
#[pyfunction]
pub(super) fn read_bandwidth(py: Python<'_>, bytes: usize, seconds: f64) -> PyResult<f64> {
    let (isa, time) = (chosen(), duration(seconds)?);
    Ok(py.detach(|| machine::read_bandwidth::<f32>(isa, bytes, time))?)
}
