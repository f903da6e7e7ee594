//! The Python binding: the only file that names pyo3 or numpy.
//!
//! Borrow, check, release the interpreter, wrap. An array that lies as the engine wants it is borrowed; one that does not
//! (its last axis strided, misaligned, byte-swapped) is repaired by a copy on the way; a wrong dtype is refused.
//!
//! Shapes are checked here in the caller's terms, through `dims`. What is borrowed may be written by another Python thread
//! meanwhile: that gives wrong numbers, as it does in NumPy.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ndarray::{ArrayView3, ArrayViewD, ArrayViewMut3, ArrayViewMutD, Axis, Ix1, Ix2, Ix3, Ix4};
use numpy::npyffi::flags::{NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE};
use numpy::npyffi::{PY_ARRAY_API, npy_intp};
use numpy::{PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::cell::{Activation, CellSpec};
use crate::dims::{Dims, LayerDims};
use crate::error::{Error, Result};
use crate::layer::{self, Cancel};
use crate::simd::{self, InstructionSet};

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

/// An element that NumPy has.
trait Number: simd::Element + numpy::Element {
    const NAME: &'static str;
}
impl Number for f32 {
    const NAME: &'static str = "float32";
}
impl Number for f64 {
    const NAME: &'static str = "float64";
}

type Array<'py, T> = Bound<'py, PyArrayDyn<T>>;

// ------------------------------------------------------------------------------------------------------ arrays come in

/// Which copies an array can be spared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// C order.
    Contiguous,
    /// Any strides but for the last axis, which is contiguous.
    Rows,
}

fn has_flags(array: &Bound<'_, PyUntypedArray>, flags: i32) -> bool {
    // SAFETY: the pointer is to a live array object.
    unsafe { (*array.as_array_ptr()).fields.flags & flags == flags }
}

/// Does the array lie as wanted?
fn lies<T: Number>(array: &Array<'_, T>, wanted: Wanted) -> bool {
    let untyped = array.as_untyped();
    if !has_flags(untyped, NPY_ARRAY_ALIGNED) {
        return false;
    }
    has_flags(untyped, NPY_ARRAY_C_CONTIGUOUS)
        || wanted == Wanted::Rows
            && match (untyped.shape().last(), untyped.strides().last()) {
                (Some(&length), Some(&stride)) => length <= 1 || stride == size_of::<T>() as isize,
                _ => true,
            }
}

/// The array itself, or a copy that lies as wanted; a TypeError for another dtype.
fn borrow<'py, T: Number>(
    name: &str,
    object: &Bound<'py, PyAny>,
    wanted: Wanted,
    like: &str,
) -> PyResult<Array<'py, T>> {
    if let Ok(array) = object.cast::<PyArrayDyn<T>>()
        && lies(array, wanted)
    {
        return Ok(array.clone());
    }
    let numpy = object.py().import("numpy")?;
    if object.is_none() {
        return Err(PyTypeError::new_err(format!("{name}: expected an array of {}{like}, got None", T::NAME)));
    }
    let array = as_array(name, object)?;
    let dtype = array.getattr("dtype")?;
    if dtype_name(&dtype)? != T::NAME {
        return Err(wrong_dtype(name, object, &dtype, T::NAME, like));
    }
    let repaired = numpy.call_method1("require", (array, T::NAME, ["C", "A"]))?;
    Ok(repaired.cast_into()?)
}

/// `numpy.asarray`, whose refusals are given the argument's name.
fn as_array<'py>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    py.import("numpy")?.call_method1("asarray", (object,)).map_err(|error| {
        let what = format!("{name}: expected an array of numbers: {}", error.value(py));
        if error.is_instance_of::<PyValueError>(py) { PyValueError::new_err(what) } else { PyTypeError::new_err(what) }
    })
}

/// The dtype's name, in whatever byte order.
fn dtype_name(dtype: &Bound<'_, PyAny>) -> PyResult<String> {
    dtype.getattr("name")?.extract()
}

#[cold]
fn wrong_dtype(name: &str, object: &Bound<'_, PyAny>, dtype: &Bound<'_, PyAny>, expected: &str, like: &str) -> PyErr {
    let got = dtype_name(dtype).unwrap_or_else(|_| "another dtype".into());
    let cast = if object.is_instance_of::<PyUntypedArray>() {
        format!("{name}.astype(np.{expected})")
    } else {
        format!("np.asarray({name}, dtype=np.{expected})")
    };
    PyTypeError::new_err(format!("{name}: expected {expected}{like}, got {got}; cast it with {cast}"))
}

/// True or False, whether of Python or of NumPy: what else is true is more often a mistake than meant.
fn flag(name: &str, object: &Bound<'_, PyAny>) -> PyResult<bool> {
    object.extract().or_else(|_| {
        let (got, kind) = (object.repr()?, object.get_type().name()?);
        let what = format!("{name}: expected True or False, got {got} of type {kind}; cast it with bool()");
        Err(PyTypeError::new_err(what))
    })
}

/// `None`, or the array.
fn borrow_option<'py, T: Number>(
    name: &str,
    object: Option<&Bound<'py, PyAny>>,
    wanted: Wanted,
    like: &str,
) -> PyResult<Option<Array<'py, T>>> {
    object.map(|object| borrow(name, object, wanted, like)).transpose()
}

/// The array as ndarray sees it.
fn view<'a, T: Number>(array: &'a Array<'_, T>) -> ArrayViewD<'a, T> {
    // SAFETY: `borrow` has checked that it is aligned and of this dtype, and it lives as long as the reference to it.
    // Another Python thread may write to it meanwhile, as the module's documentation says.
    unsafe { array.as_array() }
}

/// The same, to write to: only for arrays made here, or checked by `check_out`.
fn view_mut<'a, T: Number>(array: &'a Array<'_, T>) -> ArrayViewMutD<'a, T> {
    // SAFETY: it was made by `zeros`, so nobody else knows of it, or has passed `check_out`; aligned and of this dtype.
    unsafe { array.as_array_mut() }
}

/// (T, N, ·) whatever the caller's axes.
fn sequences<'a, T: Number>(array: &'a Array<'_, T>, dims: &Dims) -> ArrayView3<'a, T> {
    let view = view(array);
    let view = if dims.axes.single { view.insert_axis(Axis(1)) } else { view };
    let view = view.into_dimensionality::<Ix3>().expect("its shape was checked");
    if dims.axes.batch_first { view.permuted_axes([1, 0, 2]) } else { view }
}

/// (T, N, ·) whatever the caller's axes.
fn sequences_mut<'a, T: Number>(array: &'a Array<'_, T>, dims: &Dims) -> ArrayViewMut3<'a, T> {
    let view = view_mut(array);
    let view = if dims.axes.single { view.insert_axis(Axis(1)) } else { view };
    let view = view.into_dimensionality::<Ix3>().expect("its shape was checked");
    if dims.axes.batch_first { view.permuted_axes([1, 0, 2]) } else { view }
}

/// A state that came in.
struct State<'py, T> {
    h: Array<'py, T>,
    c: Array<'py, T>,
}

impl<'py, T: Number> State<'py, T> {
    /// From a tuple of two, checked; `None` from `None`.
    fn borrow(name: &str, object: Option<&Bound<'py, PyAny>>, dims: &Dims) -> PyResult<Option<Self>> {
        let Some(object) = object else {
            return Ok(None);
        };
        let pair = match object.cast::<PyTuple>() {
            Ok(tuple) if tuple.len() == 2 => tuple,
            other => {
                let got = match other {
                    Ok(tuple) => format!("a tuple of {}", tuple.len()),
                    Err(_) => object.get_type().name()?.to_string(),
                };
                let what = format!("{name}: expected a State or another tuple (h, c), got {got}; write (h, c)");
                return Err(PyTypeError::new_err(what));
            }
        };
        let part = |k: usize, letter: &str| {
            borrow::<T>(&format!("{name}.{letter}"), &pair.get_item(k)?, Wanted::Contiguous, LIKE_WEIGHTS)
        };
        let state = Self { h: part(0, "h")?, c: part(1, "c")? };
        dims.check_state(name, state.h.shape(), state.c.shape())?;
        Ok(Some(state))
    }

    fn view(&self, dims: &Dims) -> layer::State<'_, T> {
        let two = |array| {
            let view = view(array);
            let view = if dims.axes.single { view.insert_axis(Axis(0)) } else { view };
            view.into_dimensionality::<Ix2>().expect("its shape was checked")
        };
        layer::State { h: two(&self.h), c: two(&self.c) }
    }
}

const LIKE_WEIGHTS: &str = ", as the weights are";
const LIKE_W_IH: &str = ", as w_ih is";

/// Lengths as int64: one for a single sequence, else one for each.
fn lengths(object: Option<&Bound<'_, PyAny>>, dims: &Dims) -> PyResult<Option<Vec<i64>>> {
    let Some(object) = object else {
        return Ok(None);
    };
    let wrong = |_| PyTypeError::new_err("lengths: expected an array of int64; cast it with lengths.astype(np.int64)");
    let array = object.cast::<PyArrayDyn<i64>>().map_err(wrong)?;
    dims.check_lengths_shape(array.shape())?;
    let lengths: Vec<i64> = array.to_owned_array().into_iter().collect();
    dims.check_lengths(&lengths)?;
    Ok(Some(lengths))
}

// ------------------------------------------------------------------------------------------------------ arrays go out

/// A new array of zeros, or a MemoryError.
fn zeros<'py, T: Number>(py: Python<'py>, shape: &[usize]) -> PyResult<Array<'py, T>> {
    let mut dims = [0; 4];
    for (place, &length) in dims.iter_mut().zip(shape) {
        *place = npy_intp::try_from(length).map_err(|_| PyMemoryError::new_err("an array of that size"))?;
    }
    let dtype = T::get_dtype(py).into_ptr();
    // SAFETY: `dims` holds at least `shape.len()` lengths (at most 4 are asked for), and the dtype's reference is given
    // away, as PyArray_Zeros wants it; the answer is a new array of that dtype, or null with an exception set.
    unsafe {
        let array = PY_ARRAY_API.PyArray_Zeros(py, shape.len() as i32, dims.as_mut_ptr(), dtype.cast(), 0);
        Ok(Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked())
    }
}

/// Checks an array to write to that the caller gave.
fn check_out<T: Number>(out: &Array<'_, T>, inputs: &[&Array<'_, T>]) -> PyResult<()> {
    let untyped = out.as_untyped();
    if !lies(out, Wanted::Rows) || !has_flags(untyped, NPY_ARRAY_WRITEABLE) {
        let what = "out: expected a writable, aligned array whose last axis is contiguous; use np.empty";
        return Err(PyValueError::new_err(what));
    }
    let (start, end) = extent(out);
    for input in inputs {
        let (from, to) = extent(input);
        if from < end && start < to {
            let what = "out: shares memory with an input; give it an array of its own";
            return Err(PyValueError::new_err(what));
        }
    }
    Ok(())
}

/// First byte of an array, and the one behind its last.
fn extent<T: Number>(array: &Array<'_, T>) -> (usize, usize) {
    if array.is_empty() {
        return (0, 0);
    }
    let (mut start, mut end) = (array.data() as usize, array.data() as usize + size_of::<T>());
    for (&length, &stride) in array.shape().iter().zip(array.strides()) {
        let reach = (length as isize - 1) * stride;
        if reach < 0 { start = start.wrapping_add_signed(reach) } else { end = end.wrapping_add_signed(reach) }
    }
    (start, end)
}

/// Room for a state, (N, ·) or (·,).
struct StateOut<'py, T> {
    h: Array<'py, T>,
    c: Array<'py, T>,
}

impl<'py, T: Number> StateOut<'py, T> {
    fn new(py: Python<'py>, dims: &Dims) -> PyResult<Self> {
        Ok(Self {
            h: zeros(py, &dims.state_shape(dims.layer.output_size))?,
            c: zeros(py, &dims.state_shape(dims.layer.hidden_size))?,
        })
    }

    fn view(&self, dims: &Dims) -> layer::StateMut<'_, T> {
        let two = |array| {
            let view: ArrayViewMutD<'_, T> = view_mut(array);
            let view = if dims.axes.single { view.insert_axis(Axis(0)) } else { view };
            view.into_dimensionality::<Ix2>().expect("made so")
        };
        layer::StateMut { h: two(&self.h), c: two(&self.c) }
    }
}

/// Runs `pass` without the interpreter, which is asked now and then whether to go on.
fn detached<R: Send>(py: Python<'_>, pass: impl FnOnce(Cancel<'_>) -> Result<R> + Send) -> PyResult<R> {
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
        let result = pass(&cancel);
        (result, raised.into_inner())
    });
    match raised {
        Some(error) => Err(error),
        None => Ok(result?),
    }
}

// ------------------------------------------------------------------------------------------------------ cells, weights

impl<'a, 'py> FromPyObject<'a, 'py> for CellSpec {
    type Error = PyErr;

    fn extract(cell: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if cell.is_instance_of::<PyType>() {
            return Err(PyTypeError::new_err("cell: expected a CellSpec, got a class; call it, as in CellSpec()"));
        }
        let read = |name: &str| {
            cell.getattr(name).map_err(|_| {
                let got = cell.get_type().name().map_or_else(|_| "something else".into(), |name| name.to_string());
                PyTypeError::new_err(format!("cell: expected a CellSpec, got {got}"))
            })
        };
        let flag = |name: &str| flag(&format!("cell.{name}"), &read(name)?);
        let text = |name: &str| -> PyResult<String> {
            let wrong = |_| PyTypeError::new_err(format!("cell.{name}: expected a str"));
            read(name)?.extract().map_err(wrong)
        };
        let activation = |name: &str| match text(name)?.as_str() {
            "tanh" => Ok(Activation::Tanh),
            "identity" => Ok(Activation::Identity),
            other => {
                let what = format!("cell.{name}: expected 'tanh' or 'identity', got '{other}'");
                Err(PyValueError::new_err(what))
            }
        };
        if text("gate_activation")? != "sigmoid" {
            return Err(PyValueError::new_err("cell.gate_activation: expected 'sigmoid'"));
        }
        Ok(Self {
            input_gate: flag("input_gate")?,
            forget_gate: flag("forget_gate")?,
            output_gate: flag("output_gate")?,
            coupled: flag("coupled")?,
            peephole: flag("peephole")?,
            input_activation: activation("input_activation")?,
            output_activation: activation("output_activation")?,
        })
    }
}

/// Refuses cells whose parts contradict each other.
#[pyfunction]
fn check_cell(cell: CellSpec) -> PyResult<()> {
    Ok(cell.check()?)
}

/// The weights' arrays while they are borrowed.
struct Weights<'py, T> {
    w_ih: Array<'py, T>,
    w_hh: Array<'py, T>,
    b: Option<Array<'py, T>>,
    peephole: Option<Array<'py, T>>,
    w_hr: Option<Array<'py, T>>,
}

/// The weights as Python has them.
type WeightObjects<'a, 'py> = (
    &'a Bound<'py, PyAny>,
    &'a Bound<'py, PyAny>,
    Option<&'a Bound<'py, PyAny>>,
    Option<&'a Bound<'py, PyAny>>,
    Option<&'a Bound<'py, PyAny>>,
);

impl<'py, T: Number> Weights<'py, T> {
    fn borrow((w_ih, w_hh, b, peephole, w_hr): WeightObjects<'_, 'py>) -> PyResult<Self> {
        let wanted = Wanted::Contiguous;
        Ok(Self {
            w_ih: borrow("w_ih", w_ih, wanted, "")?,
            w_hh: borrow("w_hh", w_hh, wanted, LIKE_W_IH)?,
            b: borrow_option("b", b, wanted, LIKE_W_IH)?,
            peephole: borrow_option("peephole", peephole, wanted, LIKE_W_IH)?,
            w_hr: borrow_option("w_hr", w_hr, wanted, LIKE_W_IH)?,
        })
    }

    /// Runs `pack` on them, their ranks being right.
    fn with<R>(&self, cell: CellSpec, pack: impl FnOnce(&layer::Weights<'_, T>) -> Result<R>) -> Result<R> {
        let shape = |array: &Option<Array<'py, T>>| array.as_ref().map(|array| array.shape().to_vec());
        let (b, peephole, w_hr) = (shape(&self.b), shape(&self.peephole), shape(&self.w_hr));
        LayerDims::new(
            cell,
            crate::dims::WeightShapes {
                w_ih: self.w_ih.shape(),
                w_hh: self.w_hh.shape(),
                b: b.as_deref(),
                peephole: peephole.as_deref(),
                w_hr: w_hr.as_deref(),
            },
        )?;
        let two = |array| view(array).into_dimensionality::<Ix2>().expect("its shape was checked");
        pack(&layer::Weights {
            w_ih: two(&self.w_ih),
            w_hh: two(&self.w_hh),
            b: self.b.as_ref().map(|b| view(b).into_dimensionality::<Ix1>().expect("its shape was checked")),
            peephole: self.peephole.as_ref().map(two),
            w_hr: self.w_hr.as_ref().map(two),
        })
    }
}

/// The dtype that the weights decide on.
fn decides<'py>(w_ih: &Bound<'py, PyAny>) -> PyResult<bool> {
    if w_ih.is_none() {
        return Err(PyTypeError::new_err("w_ih: expected an array of float32 or float64, got None"));
    }
    let array = as_array("w_ih", w_ih)?;
    let dtype = array.getattr("dtype")?;
    match dtype_name(&dtype)?.as_str() {
        "float32" => Ok(true),
        "float64" => Ok(false),
        _ => Err(wrong_dtype("w_ih", w_ih, &dtype, "float32", " or float64")),
    }
}

/// Of either dtype.
enum Either<A, B> {
    F32(A),
    F64(B),
}

/// A pass' weights, packed for one instruction set: immutable, and shared by any number of calls.
macro_rules! packed_weights {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[pyclass(frozen, module = "lstm_rs._core")]
        struct $name(Either<layer::$name<f32>, layer::$name<f64>>);

        #[pymethods]
        impl $name {
            #[new]
            #[pyo3(signature = (cell, w_ih, w_hh, b=None, peephole=None, w_hr=None))]
            fn new(
                cell: CellSpec,
                w_ih: &Bound<'_, PyAny>,
                w_hh: &Bound<'_, PyAny>,
                b: Option<&Bound<'_, PyAny>>,
                peephole: Option<&Bound<'_, PyAny>>,
                w_hr: Option<&Bound<'_, PyAny>>,
            ) -> PyResult<Self> {
                let objects = (w_ih, w_hh, b, peephole, w_hr);
                let isa = chosen();
                Ok(Self(if decides(w_ih)? {
                    let weights = Weights::<f32>::borrow(objects)?;
                    Either::F32(weights.with(cell, |weights| layer::$name::new(isa, cell, weights))?)
                } else {
                    let weights = Weights::<f64>::borrow(objects)?;
                    Either::F64(weights.with(cell, |weights| layer::$name::new(isa, cell, weights))?)
                }))
            }
        }
    };
}

packed_weights! {
    /// Weights as `forward` reads them.
    Forward
}
packed_weights! {
    /// Weights as `backward` reads them.
    Backward
}

// ------------------------------------------------------------------------------------------------------ passes

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
        let y = match self.out {
            None => zeros(py, &dims.sequence_shape(output_size))?,
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
                zeros::<T>(py, &[dims.steps, dims.batch, gates, hidden_size])?,
                zeros::<T>(py, &[dims.steps, dims.batch, hidden_size])?,
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
        detached(py, |cancel| weights.run(input, output, cancel))?;
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

        let dx = self.need_dx.then(|| zeros::<T>(py, &dims.sequence_shape(input_size))).transpose()?;
        let d_w_ih = zeros::<T>(py, &[rows, input_size])?;
        let d_w_hh = zeros::<T>(py, &[rows, output_size])?;
        let d_b = weights.has_bias().then(|| zeros::<T>(py, &[rows])).transpose()?;
        let peepholes = weights.cell().peephole_rows().count;
        let d_peephole = (peepholes > 0).then(|| zeros::<T>(py, &[peepholes, hidden_size])).transpose()?;
        let d_w_hr = weights.is_projected().then(|| zeros::<T>(py, &[output_size, hidden_size])).transpose()?;
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
        detached(py, |cancel| weights.run(tape, gradient, out, cancel))?;
        (dx, d_w_ih, d_w_hh, d_b, d_peephole, d_w_hr, start.h, start.c).into_pyobject(py)
    }
}

// ------------------------------------------------------------------------------------------------------ instruction sets

/// Index into [`InstructionSet::ALL`] of the one in use.
static CHOSEN: AtomicUsize = AtomicUsize::new(0);

fn chosen() -> InstructionSet {
    InstructionSet::ALL[CHOSEN.load(Ordering::Relaxed)]
}

/// The instruction sets that this CPU has, slowest first.
#[pyfunction]
fn available_isas() -> Vec<&'static str> {
    InstructionSet::available().map(InstructionSet::name).collect()
}

/// The instruction set in use.
#[pyfunction]
fn isa() -> &'static str {
    chosen().name()
}

/// Uses another instruction set for weights that are packed from now on.
#[pyfunction]
#[pyo3(signature = (name, source="isa"))]
fn set_isa(name: &str, source: &str) -> PyResult<()> {
    match InstructionSet::available().find(|isa| isa.name() == name) {
        Some(isa) => {
            CHOSEN.store(isa as usize, Ordering::Relaxed);
            Ok(())
        }
        None => {
            let there = available_isas().join(", ");
            Err(PyValueError::new_err(format!("{source}: expected one that this CPU has ({there}), got '{name}'")))
        }
    }
}

/// The compiled part of lstm_rs. Private: use the package.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    match std::env::var("LSTM_RS_ISA") {
        Ok(name) if !name.is_empty() => set_isa(&name, "LSTM_RS_ISA")?,
        _ => CHOSEN.store(InstructionSet::best() as usize, Ordering::Relaxed),
    }
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Forward>()?;
    module.add_class::<Backward>()?;
    module.add_function(wrap_pyfunction!(check_cell, module)?)?;
    module.add_function(wrap_pyfunction!(forward, module)?)?;
    module.add_function(wrap_pyfunction!(backward, module)?)?;
    module.add_function(wrap_pyfunction!(available_isas, module)?)?;
    module.add_function(wrap_pyfunction!(isa, module)?)?;
    module.add_function(wrap_pyfunction!(set_isa, module)?)
}
