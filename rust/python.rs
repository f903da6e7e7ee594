//! The Python binding: the only place that names pyo3 or numpy.
//!
//! Borrow, check, release the interpreter, wrap. An array that lies as the engine wants it is borrowed; one that does not
//! (its last axis strided, misaligned, byte-swapped) is repaired by a copy on the way; a wrong dtype is refused.
//!
//! Shapes are checked here in the caller's terms, through `dims`. What is borrowed may be written by another Python thread
//! meanwhile: that gives wrong numbers, as it does in NumPy.

mod arrays;
mod layers;
mod linear;
mod machine;
mod passes;
mod recycled;
mod settings;
mod stream;
mod weights;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use self::weights::{Backward, Forward, activations, check_cell};
use crate::error::{Error, Result};
use crate::layer::Control;
use crate::threads::Orphan;

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

/// Calls shorter than this, in nanoseconds, keep the interpreter: to let it go and to take it again would be a tenth of
/// them, and others wait for it 5 ms.
const WORTH_DETACHING: f64 = 10_000.0;

/// Runs `pass`, which takes about so many nanoseconds, without the interpreter, which is asked now and then whether to go
/// on.
fn detached<R: Send>(
    py: Python<'_>,
    nanoseconds: f64,
    pass: impl FnOnce(&Control<'_>) -> Result<R> + Send,
) -> PyResult<R> {
    let threads = settings::num_threads();
    if nanoseconds < WORTH_DETACHING {
        return Ok(pass(&Control { threads, cancel: &|| false })?);
    }
    let (result, raised) = py.detach(|| {
        let raised = RefCell::new(None);
        let asked = Cell::new(Instant::now());
        let cancel = || {
            if asked.get().elapsed() < POLL {
                return false;
            }
            // None where the interpreter is on its way out, and this is a daemon thread: the call goes on until that ends
            // the process.
            let answer = Python::try_attach(|py| py.check_signals());
            asked.set(Instant::now());
            answer.and_then(Result::err).is_some_and(|error| {
                *raised.borrow_mut() = Some(error);
                true
            })
        };
        let result = catch_unwind(AssertUnwindSafe(|| pass(&Control { threads, cancel: &cancel })));
        (result, raised.into_inner())
    });
    match (raised, result) {
        (Some(error), _) => Err(error),
        (None, Ok(result)) => Ok(result?),
        (None, Err(panic)) if panic.is::<Orphan>() => Err(PyRuntimeError::new_err(
            "this process was forked in the middle of the call, by the handler of a signal, and has none of its parent's \
             threads: make the call once more here",
        )),
        (None, Err(panic)) => resume_unwind(panic),
    }
}

/// The compiled part of lstm_rs. Private: use the package.
// It needs no GIL: what a call changes is its own, this thread's, an atomic, or behind a lock or a borrow flag.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    settings::one_interpreter()?;
    settings::read_environment()?;
    arrays::touch_workspaces();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Forward>()?;
    module.add_class::<Backward>()?;
    module.add_class::<layers::Layers>()?;
    module.add_class::<stream::Stream>()?;
    module.add_function(wrap_pyfunction!(activations, module)?)?;
    module.add_function(wrap_pyfunction!(check_cell, module)?)?;
    module.add_function(wrap_pyfunction!(passes::forward, module)?)?;
    module.add_function(wrap_pyfunction!(passes::backward, module)?)?;
    module.add_function(wrap_pyfunction!(layers::backward_layers, module)?)?;
    module.add_function(wrap_pyfunction!(linear::linear, module)?)?;
    module.add_function(wrap_pyfunction!(linear::linear_backward, module)?)?;
    module.add_function(wrap_pyfunction!(machine::fma_peak, module)?)?;
    module.add_function(wrap_pyfunction!(machine::read_bandwidth, module)?)?;
    module.add_function(wrap_pyfunction!(settings::available_isas, module)?)?;
    module.add_function(wrap_pyfunction!(settings::isa, module)?)?;
    module.add_function(wrap_pyfunction!(settings::set_isa, module)?)?;
    module.add_function(wrap_pyfunction!(settings::get_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(settings::set_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(settings::find_openmp, module)?)?;
    module.add_function(wrap_pyfunction!(settings::swap_lent_threads, module)?)?;
    module.add_function(wrap_pyfunction!(settings::swap_own_threads, module)?)
}
