//! Large arrays in memory that is used again.

use ndarray::{ArrayView, IxDyn};
use numpy::PyArray;
use pyo3::prelude::*;

use super::arrays::{Array, Filled, Number, new_array};
use super::weights::Either;
use crate::simd::memory::Aligned;
use crate::simd::recycled::{LARGE, give_back, room};

/// What an array's numbers live in.
#[pyclass(frozen, module = "lstm_rs._core")]
struct Memory(Either<Aligned<f32>, Aligned<f64>>);

impl Drop for Memory {
    fn drop(&mut self) {
        match &mut self.0 {
            Either::F32(memory) => give_back(std::mem::take(memory)),
            Either::F64(memory) => give_back(std::mem::take(memory)),
        }
    }
}

/// As [`new_array`], in such memory where it is large.
pub(super) fn recycled_array<'py, T: Number>(
    py: Python<'py>,
    shape: &[usize],
    filled: Filled,
) -> PyResult<Array<'py, T>> {
    let len = shape.iter().try_fold(1usize, |len, &n| len.checked_mul(n));
    let Some(len) = len.filter(|&len| (LARGE..isize::MAX as usize).contains(&len.saturating_mul(size_of::<T>())))
    else {
        return new_array(py, shape, filled);
    };
    let mut memory = match room::<T>(len) {
        Ok((mut memory, used)) => {
            if used && filled == Filled::Zeros {
                memory.fill(T::ZERO);
            }
            memory
        }
        // Its refusal is the one that people know.
        Err(_) => return new_array(py, shape, filled),
    };
    let start = memory.as_mut_ptr();
    let owner = Bound::new(py, Memory(T::either(memory)))?;
    // SAFETY: `start` is that of `len` numbers, which `owner` keeps where they are, and which nothing else knows of: so
    // the array may write to them, too.
    unsafe {
        let view = ArrayView::<T, IxDyn>::from_shape_ptr(shape, start);
        Ok(PyArray::borrow_from_array(&view, owner.into_any()))
    }
}
