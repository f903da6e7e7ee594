//! Memory as the kernels want it: aligned workspaces that can fail, and rows of NumPy's arrays without a check per number.

use std::alloc::{Layout as Memory, alloc_zeroed};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

use ndarray::{ArrayView3, ArrayViewMut3};

use crate::error::{Error, Result};
use crate::simd::{Element, Isa};

/// A cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// Makes `memory` that long, or says that there is no memory; what is new is `value`.
pub(crate) fn try_resize<T: Clone>(memory: &mut Vec<T>, len: usize, value: T) -> Result<()> {
    let more = len.saturating_sub(memory.len());
    memory.try_reserve_exact(more).map_err(|_| Error::Memory(len.saturating_mul(size_of::<T>())))?;
    memory.resize(len, value);
    Ok(())
}

/// `len` zeros, in pages that nobody has touched where there are many: they are cleared when, and where, they are used.
fn try_zeros<T: Element>(len: usize) -> Result<Vec<T>> {
    let out_of_memory = || Error::Memory(len.saturating_mul(size_of::<T>()));
    let memory = Memory::array::<T>(len).map_err(|_| out_of_memory())?;
    if memory.size() == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the size is not 0.
    let start = unsafe { alloc_zeroed(memory) }.cast::<T>();
    if start.is_null() {
        return Err(out_of_memory());
    }
    prefer_large_pages(start.cast(), memory.size());
    // SAFETY: allocated as a vector of that capacity is, and f32 and f64 are +0 where all bits are 0.
    Ok(unsafe { Vec::from_raw_parts(start, len, len) })
}

/// Asks for large pages: weights of many megabytes, read once a step, would wait for translations of addresses (a tenth
/// of the time at 1,024 units, measured), and so would workspaces that are touched for the first time.
#[cfg(target_os = "linux")]
fn prefer_large_pages(start: *mut u8, len: usize) {
    const LARGE: usize = 2 << 20;
    const MADV_HUGEPAGE: i32 = 14;
    unsafe extern "C" {
        fn madvise(start: *mut u8, len: usize, advice: i32) -> i32;
    }
    let skipped = start.align_offset(LARGE);
    if len >= LARGE && len.saturating_sub(skipped) >= LARGE {
        let len = (len - skipped) / LARGE * LARGE;
        // SAFETY: these are whole pages of one allocation, whose contents the advice leaves as they are. Where the
        // system does not take it, nothing is lost.
        unsafe { madvise(start.wrapping_add(skipped), len, MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn prefer_large_pages(_: *mut u8, _: usize) {}

/// Numbers that start at a cache line.
#[derive(Debug)]
pub(crate) struct Aligned<T> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

impl<T> Default for Aligned<T> {
    fn default() -> Self {
        Self { memory: Vec::new(), start: 0, len: 0 }
    }
}

impl<T: Element> Aligned<T> {
    /// Numbers in front, at most.
    const SPARE: usize = ALIGNMENT / size_of::<T>();

    /// `len` zeros.
    pub(crate) fn try_zeroed(len: usize) -> Result<Self> {
        let memory = try_zeros::<T>(len.saturating_add(Self::SPARE))?;
        // `align_offset` may decline to answer; then an unaligned start is as right, and only slower.
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(Self::SPARE);
        Ok(Self { memory, start, len })
    }

    /// Room for `len` numbers, which may hold anything.
    pub(crate) fn resize(&mut self, len: usize) -> Result<()> {
        if len > self.memory.len() - self.start {
            // What there was goes first: there need not be room for both.
            *self = Self::default();
            *self = Self::try_zeroed(len)?;
        }
        self.len = len;
        Ok(())
    }

    /// Room for at least `len` numbers, which may hold anything.
    pub(crate) fn grow(&mut self, len: usize) -> Result<()> {
        if len > self.len { self.resize(len) } else { Ok(()) }
    }

    /// Bytes that it keeps.
    pub(crate) fn bytes(&self) -> usize {
        self.memory.len() * size_of::<T>()
    }

    /// Bytes that it keeps for `len` numbers.
    pub(crate) fn bytes_for(len: usize) -> usize {
        len.saturating_add(Self::SPARE).saturating_mul(size_of::<T>())
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

/// How far apart to put the rows of a workspace: a cache line more than they need, so that the same columns of many rows do
/// not all fall into the same places of the caches.
pub(crate) fn padded<T>(width: usize) -> usize {
    let line = ALIGNMENT / size_of::<T>();
    width.next_multiple_of(line) + line
}

/// Asks for some numbers, cache line by cache line, to be brought nearer.
#[inline(always)]
pub(crate) fn prefetch<T>(simd: impl Isa, numbers: &[T]) {
    let line = ALIGNMENT / size_of::<T>();
    // They need not start at a line: then the last one is in one more.
    numbers.iter().step_by(line).chain(numbers.last()).for_each(|number| simd.prefetch(number));
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

    /// These columns of all rows of step `t`.
    #[inline(always)]
    pub(crate) fn columns(&self, t: usize, columns: &Range<usize>) -> Columns<'a, T> {
        self.groups(t, 1, columns)
    }

    /// Of each of `count` groups, side by side in the rows of step `t`, these columns.
    #[inline(always)]
    pub(crate) fn groups(&self, t: usize, count: usize, columns: &Range<usize>) -> Columns<'a, T> {
        let place = self.layout.groups(t, count, columns);
        Columns { start: self.start.wrapping_offset(place.offset), place, array: PhantomData }
    }
}

/// The same columns of the rows of one step, in one group or several side by side: checked once, so that a row costs
/// little.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Of the first of them.
    offset: isize,
    batch: usize,
    stride: isize,
    groups: usize,
    /// From group to group.
    width: usize,
    len: usize,
}

impl Layout {
    #[inline(always)]
    fn groups(&self, t: usize, groups: usize, columns: &Range<usize>) -> Place {
        let width = self.width / groups;
        assert!(t < self.steps && columns.start <= columns.end && columns.end <= width, "columns out of bounds");
        let offset = t as isize * self.step_stride + columns.start as isize;
        Place { offset, batch: self.batch, stride: self.batch_stride, groups, width, len: columns.len() }
    }
}

impl Place {
    /// From the first of the columns to those of row `n` in a group.
    #[inline(always)]
    fn row(&self, n: usize, group: usize) -> isize {
        assert!(n < self.batch && group < self.groups, "row out of bounds");
        n as isize * self.stride + (group * self.width) as isize
    }
}

/// Columns that are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a, T> {
    start: *const T,
    place: Place,
    array: PhantomData<&'a [T]>,
}

impl<'a, T> Columns<'a, T> {
    /// Those of row `n`, in the first group.
    #[inline(always)]
    pub(crate) fn row(&self, n: usize) -> &'a [T] {
        self.group(n, 0)
    }

    /// Those of row `n`, in one of the groups.
    #[inline(always)]
    pub(crate) fn group(&self, n: usize, group: usize) -> &'a [T] {
        // SAFETY: `Layout::groups` checked the step and the columns against the borrowed array's shape, and `row` checks
        // the rest.
        unsafe { std::slice::from_raw_parts(self.start.offset(self.place.row(n, group)), self.place.len) }
    }
}

/// Rows `(t, n)` of an array that is written: of each, these columns.
///
/// Threads that write one array have each a [`RowsMut::share`] of it.
#[derive(Debug)]
pub(crate) struct RowsMut<'a, T> {
    start: *mut T,
    layout: Layout,
    array: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a unique borrow of an array.
unsafe impl<T: Send> Send for RowsMut<'_, T> {}
// SAFETY: through a shared reference it is only read, or shared by a promise.
unsafe impl<T: Send + Sync> Sync for RowsMut<'_, T> {}

impl<'a, T> RowsMut<'a, T> {
    /// An error where the last axis is not contiguous.
    pub(crate) fn new(name: &str, mut array: ArrayViewMut3<'a, T>) -> Result<Self> {
        let layout = Layout::new(name, array.dim(), array.strides())?;
        Ok(Self { start: array.as_mut_ptr(), layout, array: PhantomData })
    }

    /// The rows (N, ·) of numbers that lie side by side.
    pub(crate) fn flat(numbers: &'a mut [T], width: usize) -> Self {
        let batch = numbers.len().checked_div(width).unwrap_or(0);
        Self::padded(numbers, (1, batch, width), width)
    }

    /// The rows of a workspace (T, N, ·), `stride` numbers from one to the next.
    pub(crate) fn padded(numbers: &'a mut [T], (steps, batch, width): (usize, usize, usize), stride: usize) -> Self {
        assert!(width <= stride && steps * batch * stride <= numbers.len(), "rows out of bounds");
        let (step_stride, batch_stride) = ((batch * stride) as isize, stride as isize);
        let layout = Layout { steps, batch, width, step_stride, batch_stride };
        Self { start: numbers.as_mut_ptr(), layout, array: PhantomData }
    }

    /// The same rows once more, for one of several threads.
    ///
    /// # Safety
    /// No number may be written through one share while it is read or written through another: each writes rows or
    /// columns of its own, and what others have written is read behind a barrier.
    #[inline(always)]
    pub(crate) unsafe fn share(&self) -> RowsMut<'_, T> {
        RowsMut { start: self.start, layout: self.layout, array: PhantomData }
    }

    /// Row `n` of step `t`.
    #[inline(always)]
    pub(crate) fn row(&self, t: usize, n: usize) -> &[T] {
        // SAFETY: as in `Rows::row`; `self` is borrowed, so no row is written meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.offset(self.layout.offset(t, n)), self.layout.width) }
    }

    /// These columns of row `n` of step `t`.
    #[inline(always)]
    pub(crate) fn part_mut(&mut self, t: usize, n: usize, columns: &Range<usize>) -> &mut [T] {
        assert!(columns.start <= columns.end && columns.end <= self.layout.width, "columns out of bounds");
        let start = self.layout.offset(t, n) + columns.start as isize;
        // SAFETY: as in `Rows::row`, and the columns are within the row; `self` is borrowed uniquely, so nothing else
        // of the array is in use, but for what other shares have promised to leave alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.offset(start), columns.len()) }
    }

    /// These columns of all rows of step `t`.
    #[inline(always)]
    pub(crate) fn columns_mut(&mut self, t: usize, columns: &Range<usize>) -> ColumnsMut<'_, T> {
        self.groups_mut(t, 1, columns)
    }

    /// Of each of `count` groups, side by side in the rows of step `t`, these columns.
    #[inline(always)]
    pub(crate) fn groups_mut(&mut self, t: usize, count: usize, columns: &Range<usize>) -> ColumnsMut<'_, T> {
        let place = self.layout.groups(t, count, columns);
        ColumnsMut { start: self.start.wrapping_offset(place.offset), place, array: PhantomData }
    }
}

/// Columns that are written.
#[derive(Debug)]
pub(crate) struct ColumnsMut<'a, T> {
    start: *mut T,
    place: Place,
    array: PhantomData<&'a mut [T]>,
}

impl<T> ColumnsMut<'_, T> {
    /// Those of row `n`, in the first group.
    #[inline(always)]
    pub(crate) fn row(&mut self, n: usize) -> &mut [T] {
        self.group(n, 0)
    }

    /// Those of row `n`, in one of the groups.
    #[inline(always)]
    pub(crate) fn group(&mut self, n: usize, group: usize) -> &mut [T] {
        // SAFETY: as in `Columns::group`; `self` is borrowed uniquely, so nothing else of the array is in use, but for
        // what other shares have promised to leave alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.offset(self.place.row(n, group)), self.place.len) }
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
        rows.part_mut(1, 1, &(0..8)).fill(7.0);
        assert_eq!((rows.row(1, 1)[7], rows.row(1, 0)[7]), (7.0, 107.0));
    }

    #[test]
    #[should_panic(expected = "row out of bounds")]
    fn rows_are_checked() {
        let array = Array3::<f32>::zeros((3, 2, 1));
        Rows::new("x", array.view()).unwrap().row(0, 2);
    }
}
