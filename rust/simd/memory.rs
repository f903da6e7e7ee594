//! Memory as the kernels want it: aligned workspaces that can fail, and rows of NumPy's arrays without a check per number.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use ndarray::{ArrayView3, ArrayViewMut3};

use crate::error::{Error, Result};

/// A cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// A vector of `len` values, or an error where there is no memory: every workspace comes from here.
pub(crate) fn try_vec<T: Copy>(len: usize, value: T) -> Result<Vec<T>> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(len).map_err(|_| Error::Memory(len.saturating_mul(size_of::<T>())))?;
    memory.resize(len, value);
    Ok(memory)
}

/// Numbers that start at a cache line.
#[derive(Debug)]
pub(crate) struct Aligned<T> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `len` zeros.
    pub(crate) fn try_zeroed(len: usize) -> Result<Self> {
        let spare = ALIGNMENT / size_of::<T>();
        let memory = try_vec(len.saturating_add(spare), T::default())?;
        // `align_offset` may decline to answer; then an unaligned start is as right, and only slower.
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(spare);
        Ok(Self { memory, start, len })
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        &self.memory[self.start..][..self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..][..self.len]
    }
}

/// The place of row `(t, n)` of an array `(steps, batch, width)` whose last axis is contiguous.
#[derive(Clone, Copy, Debug)]
struct Layout {
    steps: usize,
    batch: usize,
    width: usize,
    step_stride: isize,
    batch_stride: isize,
}

impl Layout {
    fn new(name: &str, shape: (usize, usize, usize), strides: &[isize]) -> Result<Self> {
        let (steps, batch, width) = shape;
        let empty = steps == 0 || batch == 0;
        if width > 1 && strides[2] != 1 && !empty {
            return Err(Error::layout(name));
        }
        Ok(Self { steps, batch, width, step_stride: strides[0], batch_stride: strides[1] })
    }

    #[inline(always)]
    fn offset(&self, t: usize, n: usize) -> isize {
        assert!(t < self.steps && n < self.batch, "row out of bounds");
        t as isize * self.step_stride + n as isize * self.batch_stride
    }
}

/// Rows `(t, n)` of an array that is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a, T> {
    start: *const T,
    layout: Layout,
    array: PhantomData<&'a [T]>,
}

// SAFETY: it stands for a shared borrow of an array.
unsafe impl<T: Sync> Send for Rows<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Rows<'_, T> {}

impl<'a, T> Rows<'a, T> {
    /// An error where the last axis is not contiguous.
    pub(crate) fn new(name: &str, array: ArrayView3<'a, T>) -> Result<Self> {
        let layout = Layout::new(name, array.dim(), array.strides())?;
        Ok(Self { start: array.as_ptr(), layout, array: PhantomData })
    }

    /// Row `n` of step `t`.
    #[inline(always)]
    pub(crate) fn row(&self, t: usize, n: usize) -> &'a [T] {
        // SAFETY: `offset` checks `t` and `n` against the borrowed array's shape, whose strides it uses; the numbers of
        // a row lie side by side, as `Layout::new` checked.
        unsafe { std::slice::from_raw_parts(self.start.offset(self.layout.offset(t, n)), self.layout.width) }
    }
}

/// Rows `(t, n)` of an array that is written.
#[derive(Debug)]
pub(crate) struct RowsMut<'a, T> {
    start: *mut T,
    layout: Layout,
    array: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a unique borrow of an array.
unsafe impl<T: Send> Send for RowsMut<'_, T> {}

impl<'a, T> RowsMut<'a, T> {
    /// An error where the last axis is not contiguous.
    pub(crate) fn new(name: &str, mut array: ArrayViewMut3<'a, T>) -> Result<Self> {
        let layout = Layout::new(name, array.dim(), array.strides())?;
        Ok(Self { start: array.as_mut_ptr(), layout, array: PhantomData })
    }

    /// Row `n` of step `t`.
    #[inline(always)]
    pub(crate) fn row(&self, t: usize, n: usize) -> &[T] {
        // SAFETY: as in `Rows::row`; `self` is borrowed, so no row is written meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.offset(self.layout.offset(t, n)), self.layout.width) }
    }

    /// Row `n` of step `t`.
    #[inline(always)]
    pub(crate) fn row_mut(&mut self, t: usize, n: usize) -> &mut [T] {
        // SAFETY: as in `Rows::row`; `self` is borrowed uniquely, so no other row is in use.
        unsafe { std::slice::from_raw_parts_mut(self.start.offset(self.layout.offset(t, n)), self.layout.width) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array3, s};

    #[test]
    fn workspaces_are_aligned_and_can_fail() {
        for len in [0, 1, 7, 1000] {
            let zeros = Aligned::<f64>::try_zeroed(len).unwrap();
            assert_eq!((zeros.len(), zeros.as_ptr() as usize % ALIGNMENT), (len, 0));
        }
        assert!(matches!(Aligned::<f32>::try_zeroed(usize::MAX / 4), Err(Error::Memory(_))));
    }

    #[test]
    fn rows_follow_strides() {
        let mut array = Array3::from_shape_fn((3, 2, 8), |(t, n, k)| (100 * t + 10 * n + k) as f64);
        let half = Rows::new("x", array.slice(s![.., .., 4..])).unwrap();
        assert_eq!(half.row(2, 1), [214.0, 215.0, 216.0, 217.0]);
        let swapped = Rows::new("x", array.view().permuted_axes([1, 0, 2])).unwrap();
        assert_eq!(swapped.row(1, 2)[0], 210.0);
        let backwards = Rows::new("x", array.slice(s![..;-1, .., ..])).unwrap();
        assert_eq!(backwards.row(0, 1)[0], 210.0);
        assert!(Rows::new("x", array.slice(s![.., .., ..;2])).is_err());
        let mut rows = RowsMut::new("y", array.view_mut()).unwrap();
        rows.row_mut(1, 1).fill(7.0);
        assert_eq!((rows.row(1, 1)[7], rows.row(1, 0)[7]), (7.0, 107.0));
    }

    #[test]
    #[should_panic(expected = "row out of bounds")]
    fn rows_are_checked() {
        let array = Array3::<f32>::zeros((3, 2, 1));
        Rows::new("x", array.view()).unwrap().row(0, 2);
    }
}
