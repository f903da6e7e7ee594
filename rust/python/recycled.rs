//! Memory of large arrays that are gone, for those to come.
//!
//! A step of training drops its tape and its gradients, and makes others. From the system they would get pages that have to
//! be cleared first: at 1,024 units and a batch of 128, with another library at work between the steps, a sixteenth of the
//! time, measured. What is kept suffices for such a step.

use std::sync::{Mutex, TryLockError};

use ndarray::{ArrayView, IxDyn};
use numpy::PyArray;
use pyo3::prelude::*;

use super::arrays::{Array, Filled, Number, new_array};
use super::weights::Either;
use crate::simd::memory::Aligned;

/// From so many bytes on. Smaller arrays are the business of the allocator.
const LARGE: usize = 256 << 10;
/// So many bytes are kept at most, of each dtype.
const KEPT: usize = 256 << 20;

/// What is free, in the order in which it came.
pub(super) type Pool<T> = Mutex<Vec<Aligned<T>>>;

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

/// Nobody is waited for: who finds the pool in use goes on without it.
///
/// What has lain there longest makes room: else sizes that nobody asks for any more would keep out those in use.
fn give_back<T: Number>(memory: Aligned<T>) {
    let Ok(mut free) = T::pool().try_lock() else { return };
    free.push(memory);
    let mut bytes: usize = free.iter().map(Aligned::bytes).sum();
    let too_many = free.iter().take_while(|memory| {
        let too_many = bytes > KEPT;
        bytes -= memory.bytes();
        too_many
    });
    let count = too_many.count();
    free.drain(..count);
}

/// Memory for so many numbers, of which it does not waste as much again: the last that was used, if it can be.
fn take<T: Number>(len: usize) -> Option<Aligned<T>> {
    let mut free = match T::pool().try_lock() {
        Ok(free) => free,
        Err(TryLockError::Poisoned(free)) => free.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    let bytes = Aligned::<T>::bytes_for(len);
    let fits = |memory: &Aligned<T>| (bytes..2 * bytes).contains(&memory.bytes());
    let place = free.iter().rposition(fits)?;
    Some(free.remove(place))
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
    let mut memory = match take::<T>(len) {
        Some(mut memory) => {
            memory.resize(len)?;
            if filled == Filled::Zeros {
                memory.fill(T::ZERO);
            }
            memory
        }
        None => match Aligned::try_zeroed(len) {
            Ok(memory) => memory,
            // Its refusal is the one that people know.
            Err(_) => return new_array(py, shape, filled),
        },
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
