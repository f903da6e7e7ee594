//! The Python binding: the only place that names pyo3 or numpy.
//!
//! Borrow, check, release the interpreter, wrap. An array that lies as the engine wants it is borrowed; one that does not
//! (its last axis strided, misaligned, byte-swapped) is repaired by a copy on the way; a wrong dtype is refused.
//!
//! Shapes are checked here in the caller's terms, through `dims`. What is borrowed may be written by another Python thread
//! meanwhile: that gives wrong numbers, as it does in NumPy.

mod arrays;
mod machine;
mod settings;
mod weights;

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use ndarray::{Ix1, Ix2, Ix3, Ix4};
use numpy::{PyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use self::arrays::{
    Filled, LIKE_WEIGHTS, Number, State, StateOut, Wanted, borrow, borrow_option, check_out, flag, lengths, new_array,
    sequences, sequences_mut, view, view_mut, with_workspace,
};
use self::weights::{Backward, Either, Forward, check_cell};
use crate::dims::{Dims, LayerDims};
use crate::error::{Error, Result};
use crate::layer::{self, Control};

/// How often a long call looks whether somebody pressed Ctrl-C.
const POLL: Duration = Duration::from_millis(20);

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Value(_) => PyValueError::new_err(error.to_string()),
            Error::Memory(_) => PyMemoryError::new_err(error.to_string()),
            Error::Cancelled => PyKeyboardInterrupt::new_err(()),
        }
    }
}

/// Runs `pass` without the interpreter, which is asked now and then whether to go on.
fn detached<R: Send>(py: Python<'_>, pass: impl FnOnce(&Control<'_>) -> Result<R> + Send) -> PyResult<R> {
    let threads = settings::num_threads();
    let (result, raised) = py.detach(|| {
        let raised = RefCell::new(None);
        let asked = Cell::new(Instant::now());
        let cancel = || {
            if asked.get().elapsed() < POLL {
                return false;
            }
            let answer = Python::attach(|py| py.check_signals());
            asked.set(Instant::now());
            answer.is_err_and(|error| {
                *raised.borrow_mut() = Some(error);
                true
            })
        };
        let result = pass(&Control { threads, cancel: &cancel });
        (result, raised.into_inner())
    });
    match raised {
        Some(error) => Err(error),
        None => Ok(result?),
    }
}

/// `(y, h, c, gates, c_tape)`: gates and c_tape are None without `tape`.
#[pyfunction]
#[pyo3(signature = (weights, x, state, lengths, reverse, batch_first, tape, out=None))]
#[allow(clippy::too_many_arguments, reason = "a function of Python")]
fn forward<'py>(
    py: Python<'py>,
    weights: &Forward,
    x: &Bound<'py, PyAny>,
    state: Option<&Bound<'py, PyAny>>,
    lengths: Option<&Bound<'py, PyAny>>,
    reverse: &Bound<'py, PyAny>,
    batch_first: &Bound<'py, PyAny>,
    tape: bool,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let (reverse, batch_first) = (flag("reverse", reverse)?, flag("batch_first", batch_first)?);
    let call = ForwardCall { x, state, lengths, reverse, batch_first, tape, out };
    match &weights.0 {
        Either::F32(weights) => call.run(py, weights),
        Either::F64(weights) => call.run(py, weights),
    }
}

struct ForwardCall<'a, 'py> {
    x: &'a Bound<'py, PyAny>,
    state: Option<&'a Bound<'py, PyAny>>,
    lengths: Option<&'a Bound<'py, PyAny>>,
    reverse: bool,
    batch_first: bool,
    tape: bool,
    out: Option<&'a Bound<'py, PyAny>>,
}

impl<'py> ForwardCall<'_, 'py> {
    fn run<T: Number>(self, py: Python<'py>, weights: &layer::Forward<T>) -> PyResult<Bound<'py, PyTuple>> {
        let x = borrow::<T>("x", self.x, Wanted::Rows, LIKE_WEIGHTS)?;
        let dims = Dims::new(weights.dims(), x.shape(), self.batch_first)?;
        let LayerDims { hidden_size, output_size, gates, .. } = dims.layer;
        let state = State::<T>::borrow("state", self.state, &dims)?;
        let lengths = lengths(self.lengths, &dims)?;
        // Steps past the ends stay zeros.
        let filled = if lengths.is_some() { Filled::Zeros } else { Filled::Later };
        let y = match self.out {
            None => new_array(py, &dims.sequence_shape(output_size), filled)?,
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
        let end = StateOut::<T>::new(py, &dims)?;
        let tape = match self.tape {
            true => Some((
                new_array::<T>(py, &[dims.steps, dims.batch, gates, hidden_size], filled)?,
                new_array::<T>(py, &[dims.steps, dims.batch, hidden_size], filled)?,
            )),
            false => None,
        };
        let input = layer::Input {
            x: sequences(&x, &dims),
            state: state.as_ref().map(|state| state.view(&dims)),
            lengths: lengths.as_deref(),
            reverse: self.reverse,
        };
        let output = layer::Output {
            y: sequences_mut(&y, &dims),
            state: end.view(&dims),
            tape: tape.as_ref().map(|(gates, c)| layer::TapeMut {
                gates: view_mut(gates).into_dimensionality::<Ix4>().expect("made so"),
                c: view_mut(c).into_dimensionality::<Ix3>().expect("made so"),
            }),
        };
        detached(py, |control| with_workspace(|space| weights.run_with(space, input, output, control)))?;
        let (gates, c) = tape.unzip();
        (y, end.h, end.c, gates, c).into_pyobject(py)
    }
}

/// `(dx, d_w_ih, d_w_hh, d_b, d_peephole, d_w_hr, d_h, d_c)`: None where there is none.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "a function of Python")]
fn backward<'py>(
    py: Python<'py>,
    weights: &Backward,
    x: &Bound<'py, PyAny>,
    state: Option<&Bound<'py, PyAny>>,
    lengths: Option<&Bound<'py, PyAny>>,
    reverse: &Bound<'py, PyAny>,
    batch_first: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    gates: &Bound<'py, PyAny>,
    c: &Bound<'py, PyAny>,
    dy: Option<&Bound<'py, PyAny>>,
    dstate: Option<&Bound<'py, PyAny>>,
    need_dx: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyTuple>> {
    let (reverse, batch_first) = (flag("tape.reverse", reverse)?, flag("tape.batch_first", batch_first)?);
    let need_dx = flag("need_dx", need_dx)?;
    let call = BackwardCall { x, state, lengths, reverse, batch_first, y, gates, c, dy, dstate, need_dx };
    match &weights.0 {
        Either::F32(weights) => call.run(py, weights),
        Either::F64(weights) => call.run(py, weights),
    }
}

struct BackwardCall<'a, 'py> {
    x: &'a Bound<'py, PyAny>,
    state: Option<&'a Bound<'py, PyAny>>,
    lengths: Option<&'a Bound<'py, PyAny>>,
    reverse: bool,
    batch_first: bool,
    y: &'a Bound<'py, PyAny>,
    gates: &'a Bound<'py, PyAny>,
    c: &'a Bound<'py, PyAny>,
    dy: Option<&'a Bound<'py, PyAny>>,
    dstate: Option<&'a Bound<'py, PyAny>>,
    need_dx: bool,
}

impl<'py> BackwardCall<'_, 'py> {
    fn run<T: Number>(self, py: Python<'py>, weights: &layer::Backward<T>) -> PyResult<Bound<'py, PyTuple>> {
        let x = borrow::<T>("tape.x", self.x, Wanted::Rows, LIKE_WEIGHTS)?;
        let dims = Dims::new(weights.dims(), x.shape(), self.batch_first)?;
        let LayerDims { input_size, hidden_size, output_size, .. } = dims.layer;
        let rows = dims.layer.gate_rows();
        let state = State::<T>::borrow("tape.state", self.state, &dims)?;
        let lengths = lengths(self.lengths, &dims)?;
        let y = borrow::<T>("tape.y", self.y, Wanted::Rows, LIKE_WEIGHTS)?;
        dims.check_sequence("tape.y", output_size, y.shape())?;
        let gates = borrow::<T>("tape.gates", self.gates, Wanted::Contiguous, LIKE_WEIGHTS)?;
        let c = borrow::<T>("tape.c", self.c, Wanted::Contiguous, LIKE_WEIGHTS)?;
        dims.check_tape(gates.shape(), c.shape())?;
        let dy = borrow_option::<T>("dy", self.dy, Wanted::Rows, LIKE_WEIGHTS)?;
        if let Some(dy) = &dy {
            dims.check_sequence("dy", output_size, dy.shape())?;
        }
        let dstate = State::<T>::borrow("dstate", self.dstate, &dims)?;

        // Steps past the ends stay zeros.
        let filled = if lengths.is_some() { Filled::Zeros } else { Filled::Later };
        let zeros = |shape: &[usize]| new_array::<T>(py, shape, Filled::Zeros);
        let later = |shape: &[usize]| new_array::<T>(py, shape, Filled::Later);
        let dx = self.need_dx.then(|| new_array::<T>(py, &dims.sequence_shape(input_size), filled)).transpose()?;
        let d_w_ih = later(&[rows, input_size])?;
        let d_w_hh = later(&[rows, output_size])?;
        let d_b = weights.has_bias().then(|| zeros(&[rows])).transpose()?;
        let peepholes = weights.cell().peephole_rows().count;
        let d_peephole = (peepholes > 0).then(|| zeros(&[peepholes, hidden_size])).transpose()?;
        let d_w_hr = weights.is_projected().then(|| later(&[output_size, hidden_size])).transpose()?;
        let start = StateOut::<T>::new(py, &dims)?;

        let tape = layer::Tape {
            input: layer::Input {
                x: sequences(&x, &dims),
                state: state.as_ref().map(|state| state.view(&dims)),
                lengths: lengths.as_deref(),
                reverse: self.reverse,
            },
            y: sequences(&y, &dims),
            gates: view(&gates).into_dimensionality::<Ix4>().expect("its shape was checked"),
            c: view(&c).into_dimensionality::<Ix3>().expect("its shape was checked"),
        };
        let gradient = layer::OutputGradient {
            dy: dy.as_ref().map(|dy| sequences(dy, &dims)),
            state: dstate.as_ref().map(|state| state.view(&dims)),
        };
        let two = |array| view_mut(array).into_dimensionality::<Ix2>().expect("made so");
        let out = layer::Gradients {
            x: dx.as_ref().map(|dx| sequences_mut(dx, &dims)),
            w_ih: two(&d_w_ih),
            w_hh: two(&d_w_hh),
            b: d_b.as_ref().map(|b| view_mut(b).into_dimensionality::<Ix1>().expect("made so")),
            peephole: d_peephole.as_ref().map(two),
            w_hr: d_w_hr.as_ref().map(two),
            state: start.view(&dims),
        };
        detached(py, |control| with_workspace(|space| weights.run_with(space, tape, gradient, out, control)))?;
        (dx, d_w_ih, d_w_hh, d_b, d_peephole, d_w_hr, start.h, start.c).into_pyobject(py)
    }
}

/// The compiled part of lstm_rs. Private: use the package.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    settings::read_environment()?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Forward>()?;
    module.add_class::<Backward>()?;
    module.add_function(wrap_pyfunction!(check_cell, module)?)?;
    module.add_function(wrap_pyfunction!(forward, module)?)?;
    module.add_function(wrap_pyfunction!(backward, module)?)?;
    module.add_function(wrap_pyfunction!(machine::fma_peak, module)?)?;
    module.add_function(wrap_pyfunction!(machine::read_bandwidth, module)?)?;
    module.add_function(wrap_pyfunction!(settings::available_isas, module)?)?;
    module.add_function(wrap_pyfunction!(settings::isa, module)?)?;
    module.add_function(wrap_pyfunction!(settings::set_isa, module)?)?;
    module.add_function(wrap_pyfunction!(settings::get_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(settings::set_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(settings::swap_own_threads, module)?)
}
