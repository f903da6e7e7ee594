//! Arrays on their way in and out: borrowed where they lie as the engine wants them, repaired by a copy where not,
//! refused where their dtype is another; made anew for what goes out.

use std::cell::RefCell;
use std::ops::AddAssign;
use std::thread::LocalKey;

use ndarray::{
    ArrayView, ArrayView3, ArrayViewMut, ArrayViewMut3, Axis, Dimension, Ix1, Ix2, Ix3, ShapeBuilder, StrideShape,
};
use numpy::npyffi::flags::{NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE};
use numpy::npyffi::{PY_ARRAY_API, npy_intp};
use numpy::{PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::weights::Either;
use crate::dims::{Axes, Dims, LayerDims};
use crate::layer::{self, Workspace};
use crate::simd;
use crate::simd::memory::Aligned;

/// An element that NumPy has.
pub(super) trait Number: simd::Element + numpy::Element + AddAssign {
    const NAME: &'static str;
    /// The memory that this thread's calls use one after the other.
    fn workspaces() -> &'static LocalKey<RefCell<[Workspace<Self>; 2]>>;
    fn either(memory: Aligned<Self>) -> Either<Aligned<f32>, Aligned<f64>>;
}

macro_rules! number {
    ($type:ty, $name:literal, $variant:ident) => {
        impl Number for $type {
            const NAME: &'static str = $name;
            fn workspaces() -> &'static LocalKey<RefCell<[Workspace<Self>; 2]>> {
                thread_local! {
                    static WORKSPACES: RefCell<[Workspace<$type>; 2]> = RefCell::default();
                }
                &WORKSPACES
            }
            fn either(memory: Aligned<Self>) -> Either<Aligned<f32>, Aligned<f64>> {
                Either::$variant(memory)
            }
        }
    };
}
number!(f32, "float32", F32);
number!(f64, "float64", F64);

/// A thread keeps workspaces of so many bytes each at most.
const KEPT: usize = 64 << 20;

/// Uses what belongs to this thread for the first time: where it has no memory for that, the C library ends the process.
pub(super) fn touch_workspaces() {
    f32::workspaces().with(|_| ());
    f64::workspaces().with(|_| ());
}

/// Runs `pass` in this thread's workspaces, one for each direction, or in new ones inside a pass: a signal's handler may
/// make a call.
pub(super) fn with_workspaces<T: Number, R>(pass: impl FnOnce(&mut [Workspace<T>; 2]) -> R) -> R {
    T::workspaces().with(|workspaces| {
        let Ok(mut workspaces) = workspaces.try_borrow_mut() else {
            return pass(&mut Default::default());
        };
        let result = pass(&mut workspaces);
        for workspace in &mut *workspaces {
            if workspace.bytes() > KEPT {
                *workspace = Workspace::default();
            }
        }
        result
    })
}

pub(super) type Array<'py, T> = Bound<'py, PyArrayDyn<T>>;

/// Which copies an array can be spared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// C order.
    Contiguous,
    /// Any strides but for the last axis, which is contiguous.
    Rows,
}

pub(super) fn has_flags(array: &Bound<'_, PyUntypedArray>, flags: i32) -> bool {
    // SAFETY: the pointer is to a live array object.
    unsafe { (*array.as_array_ptr()).fields.flags & flags == flags }
}

/// Does the array lie as wanted?
pub(super) fn lies<T: Number>(array: &Array<'_, T>, wanted: Wanted) -> bool {
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
pub(super) fn borrow<'py, T: Number>(
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
pub(super) fn as_array<'py>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    py.import("numpy")?.call_method1("asarray", (object,)).map_err(|error| {
        let what = format!("{name}: expected an array of numbers: {}", error.value(py));
        if error.is_instance_of::<PyValueError>(py) { PyValueError::new_err(what) } else { PyTypeError::new_err(what) }
    })
}

/// The dtype's name, in whatever byte order.
pub(super) fn dtype_name(dtype: &Bound<'_, PyAny>) -> PyResult<String> {
    dtype.getattr("name")?.extract()
}

#[cold]
pub(super) fn wrong_dtype(
    name: &str,
    object: &Bound<'_, PyAny>,
    dtype: &Bound<'_, PyAny>,
    expected: &str,
    like: &str,
) -> PyErr {
    let got = dtype_name(dtype).unwrap_or_else(|_| "another dtype".into());
    let cast = if object.is_instance_of::<PyUntypedArray>() {
        format!("{name}.astype(np.{expected})")
    } else {
        format!("np.asarray({name}, dtype=np.{expected})")
    };
    PyTypeError::new_err(format!("{name}: expected {expected}{like}, got {got}; cast it with {cast}"))
}

/// True or False, whether of Python or of NumPy: what else is true is more often a mistake than meant.
pub(super) fn flag(name: &str, object: &Bound<'_, PyAny>) -> PyResult<bool> {
    object.extract().or_else(|_| {
        let (got, kind) = (object.repr()?, object.get_type().name()?);
        let what = format!("{name}: expected True or False, got {got} of type {kind}; cast it with bool()");
        Err(PyTypeError::new_err(what))
    })
}

/// `None`, or the array.
pub(super) fn borrow_option<'py, T: Number>(
    name: &str,
    object: Option<&Bound<'py, PyAny>>,
    wanted: Wanted,
    like: &str,
) -> PyResult<Option<Array<'py, T>>> {
    object.map(|object| borrow(name, object, wanted, like)).transpose()
}

/// The array as ndarray sees it; its rank has been checked.
pub(super) fn view<'a, T: Number, D: Dimension>(array: &'a Array<'_, T>) -> ArrayView<'a, T, D> {
    // SAFETY: `borrow` has checked that it is aligned and of this dtype, and it lives as long as the reference to it.
    // Another Python thread may write to it meanwhile, as the module's documentation says.
    unsafe {
        match laid(array) {
            Some(laid) => ArrayView::from_shape_ptr(laid, array.data()),
            None => array.as_array().into_dimensionality().expect("its shape was checked"),
        }
    }
}

/// The same, to write to: only for arrays made here, or checked by `check_out`.
pub(super) fn view_mut<'a, T: Number, D: Dimension>(array: &'a Array<'_, T>) -> ArrayViewMut<'a, T, D> {
    // SAFETY: it was made by `new_array`, so nobody else knows of it, or has passed `check_out`; aligned and of this dtype.
    // What two directions share, each narrows to its own part before either runs.
    unsafe {
        match laid(array) {
            Some(laid) => ArrayViewMut::from_shape_ptr(laid, array.data()),
            None => array.as_array_mut().into_dimensionality().expect("its shape was checked"),
        }
    }
}

/// Lengths and strides, where none of these is negative. It spares a short call the way over arrays of any rank, which
/// takes a tenth of it.
fn laid<T: Number, D: Dimension>(array: &Array<'_, T>) -> Option<StrideShape<D>> {
    let rank = D::NDIM.filter(|&rank| rank == array.ndim())?;
    let (mut lengths, mut strides) = (D::zeros(rank), D::zeros(rank));
    lengths.slice_mut().copy_from_slice(array.shape());
    for (place, &bytes) in strides.slice_mut().iter_mut().zip(array.strides()) {
        let bytes = usize::try_from(bytes).ok()?;
        if bytes % size_of::<T>() != 0 {
            return None;
        }
        *place = bytes / size_of::<T>();
    }
    Some(lengths.strides(strides))
}

/// (T, N, ·) whatever the caller's axes.
pub(super) fn sequences<'a, T: Number>(array: &'a Array<'_, T>, dims: &Dims) -> ArrayView3<'a, T> {
    match dims.axes {
        Axes { single: true, .. } => view::<T, Ix2>(array).insert_axis(Axis(1)),
        Axes { batch_first: true, .. } => view(array).permuted_axes([1, 0, 2]),
        _ => view(array),
    }
}

/// (T, N, ·) whatever the caller's axes.
pub(super) fn sequences_mut<'a, T: Number>(array: &'a Array<'_, T>, dims: &Dims) -> ArrayViewMut3<'a, T> {
    match dims.axes {
        Axes { single: true, .. } => view_mut::<T, Ix2>(array).insert_axis(Axis(1)),
        Axes { batch_first: true, .. } => view_mut(array).permuted_axes([1, 0, 2]),
        _ => view_mut(array),
    }
}

/// The two parts of a state.
pub(super) fn pair<'py>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<[Bound<'py, PyAny>; 2]> {
    let got = match object.cast::<PyTuple>() {
        Ok(tuple) if tuple.len() == 2 => return Ok([tuple.get_item(0)?, tuple.get_item(1)?]),
        Ok(tuple) => format!("a tuple of {}", tuple.len()),
        Err(_) => object.get_type().name()?.to_string(),
    };
    let what = format!("{name}: expected a State or another tuple (h, c), got {got}; write (h, c)");
    Err(PyTypeError::new_err(what))
}

/// A state that came in: of one part of a layer's, or with an axis more in front of all its parts.
pub(super) struct State<'py, T> {
    h: Array<'py, T>,
    c: Array<'py, T>,
    part: Option<usize>,
}

impl<'py, T: Number> State<'py, T> {
    /// From a tuple of two, checked; `None` from `None`.
    pub(super) fn borrow(name: &str, object: Option<&Bound<'py, PyAny>>, dims: &Dims) -> PyResult<Option<Self>> {
        let Some(object) = object else {
            return Ok(None);
        };
        let [h, c] = Self::pair(name, object)?;
        dims.check_state(name, h.shape(), c.shape())?;
        Ok(Some(Self { h, c, part: None }))
    }

    /// The same of so many layers, each in one direction or two.
    pub(super) fn borrow_stacked(
        name: &str,
        object: Option<&Bound<'py, PyAny>>,
        dims: &Dims,
        (layers, directions): (usize, usize),
    ) -> PyResult<Option<Self>> {
        let Some(object) = object else {
            return Ok(None);
        };
        let [h, c] = Self::pair(name, object)?;
        let LayerDims { output_size, hidden_size, .. } = dims.layer;
        dims.check_stacked(&format!("{name}.h"), layers, directions, output_size, h.shape())?;
        dims.check_stacked(&format!("{name}.c"), layers, directions, hidden_size, c.shape())?;
        Ok(Some(Self { h, c, part: Some(0) }))
    }

    fn pair(name: &str, object: &Bound<'py, PyAny>) -> PyResult<[Array<'py, T>; 2]> {
        let [h, c] = pair(name, object)?;
        let part =
            |letter: &str, array| borrow::<T>(&format!("{name}.{letter}"), array, Wanted::Contiguous, LIKE_WEIGHTS);
        Ok([part("h", &h)?, part("c", &c)?])
    }

    /// That of part `k`.
    pub(super) fn part(&self, k: usize) -> Self {
        Self { h: self.h.clone(), c: self.c.clone(), part: Some(k) }
    }

    /// The tuple that Python has of this part.
    pub(super) fn tuple(&self) -> PyResult<Bound<'py, PyTuple>> {
        let array = |array: &Array<'py, T>| match self.part {
            Some(k) => array.get_item(k),
            None => Ok(array.as_any().clone()),
        };
        (array(&self.h)?, array(&self.c)?).into_pyobject(self.h.py())
    }

    pub(super) fn view(&self, dims: &Dims) -> layer::State<'_, T> {
        let rows = |array| match (dims.axes.single, self.part) {
            (true, None) => view::<T, Ix1>(array).insert_axis(Axis(0)),
            (true, Some(k)) => view::<T, Ix2>(array).index_axis_move(Axis(0), k).insert_axis(Axis(0)),
            (false, None) => view(array),
            (false, Some(k)) => view::<T, Ix3>(array).index_axis_move(Axis(0), k),
        };
        layer::State { h: rows(&self.h), c: rows(&self.c) }
    }
}

pub(super) const LIKE_WEIGHTS: &str = ", as the weights are";
pub(super) const LIKE_LAYER: &str = ", as the layer is";
pub(super) const LIKE_W_IH: &str = ", as w_ih is";

/// Lengths as int64: one for a single sequence, else one for each.
pub(super) fn lengths(object: Option<&Bound<'_, PyAny>>, dims: &Dims) -> PyResult<Option<Vec<i64>>> {
    let Some(object) = object else {
        return Ok(None);
    };
    let wrong = |_| PyTypeError::new_err("lengths: expected an array of int64; cast it with lengths.astype(np.int64)");
    let array = object.cast::<PyArrayDyn<i64>>().map_err(wrong)?;
    dims.check_lengths_shape(array.shape())?;
    let mut lengths = Vec::new();
    let memory = |_| PyMemoryError::new_err(format!("lengths: no memory for {} of them", array.len()));
    lengths.try_reserve_exact(array.len()).map_err(memory)?;
    lengths.extend(array.readonly().as_array().iter());
    dims.check_lengths(&lengths)?;
    Ok(Some(lengths))
}

/// What a new array holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// Zeros.
    Zeros,
    /// Anything: all of it will be written.
    Later,
}

impl Filled {
    /// What sequences of such lengths are written to: steps past the ends stay zeros.
    pub(super) fn past_ends(lengths: Option<&[i64]>) -> Self {
        if lengths.is_some() { Self::Zeros } else { Self::Later }
    }
}

/// A new array, or a MemoryError.
pub(super) fn new_array<'py, T: Number>(py: Python<'py>, shape: &[usize], filled: Filled) -> PyResult<Array<'py, T>> {
    let mut dims = [0; 4];
    for (place, &length) in dims.iter_mut().zip(shape) {
        *place = npy_intp::try_from(length).map_err(|_| PyMemoryError::new_err("an array of that size"))?;
    }
    let dtype = T::get_dtype(py).into_ptr();
    // SAFETY: `dims` holds at least `shape.len()` lengths (at most 4 are asked for), and the dtype's reference is given
    // away, as both functions want it; the answer is a new array of that dtype, or null with an exception set.
    unsafe {
        let (rank, dims) = (shape.len() as i32, dims.as_mut_ptr());
        let array = match filled {
            Filled::Zeros => PY_ARRAY_API.PyArray_Zeros(py, rank, dims, dtype.cast(), 0),
            Filled::Later => PY_ARRAY_API.PyArray_Empty(py, rank, dims, dtype.cast(), 0),
        };
        Ok(Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked())
    }
}

/// Checks an array to write to that the caller gave.
pub(super) fn check_out<T: Number>(out: &Array<'_, T>, inputs: &[&Array<'_, T>]) -> PyResult<()> {
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
pub(super) fn extent<T: Number>(array: &Array<'_, T>) -> (usize, usize) {
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

/// Room for a state: of one part of a layer's, or with an axis more in front of all its parts.
pub(super) struct StateOut<'py, T> {
    pub(super) h: Array<'py, T>,
    pub(super) c: Array<'py, T>,
    part: Option<usize>,
}

impl<'py, T: Number> StateOut<'py, T> {
    pub(super) fn new(py: Python<'py>, dims: &Dims) -> PyResult<Self> {
        let array = |width| new_array(py, &dims.state_shape(width), Filled::Later);
        Ok(Self { h: array(dims.layer.output_size)?, c: array(dims.layer.hidden_size)?, part: None })
    }

    pub(super) fn stacked(py: Python<'py>, dims: &Dims, parts: usize) -> PyResult<Self> {
        let array = |width| new_array(py, &dims.stacked_shape(parts, width), Filled::Later);
        Ok(Self { h: array(dims.layer.output_size)?, c: array(dims.layer.hidden_size)?, part: Some(0) })
    }

    /// Room for part `k`.
    pub(super) fn part(&self, k: usize) -> Self {
        Self { h: self.h.clone(), c: self.c.clone(), part: Some(k) }
    }

    pub(super) fn view(&self, dims: &Dims) -> layer::StateMut<'_, T> {
        let rows = |array| match (dims.axes.single, self.part) {
            (true, None) => view_mut::<T, Ix1>(array).insert_axis(Axis(0)),
            (true, Some(k)) => view_mut::<T, Ix2>(array).index_axis_move(Axis(0), k).insert_axis(Axis(0)),
            (false, None) => view_mut(array),
            (false, Some(k)) => view_mut::<T, Ix3>(array).index_axis_move(Axis(0), k),
        };
        layer::StateMut { h: rows(&self.h), c: rows(&self.c) }
    }
}
