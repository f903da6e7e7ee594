//! A chain's sum of outer products: what the gradient of a matrix of weights is made of.
//!
//! The steps of the chain are the depth of the product. Its left operand's rows are columns here, so they are interleaved as
//! the tiles read them, once for all the right operands; those are packed into a panel. Very short chains skip both.

use std::ops::{Deref, Range};

use super::deferred::CHAIN;
use super::pack::WIDTH;
use super::share::Watch;
use crate::kernel::pointwise;
use crate::kernel::tile::{Left, Panel, Product, Sink, Start, balanced, multiply};
use crate::simd::memory::{RowsMut, prefetch};
use crate::simd::{Element, Lanes};

/// Rows of a sum that are made together, at most: what they are made of takes a quarter of a second-level cache.
const SUM_ROWS: usize = 240;
/// A chain of so few steps is added up row by row.
const SHALLOW: usize = 4;

/// The rows of one operand of a chain, one for each of its steps.
pub(super) struct Links<'a, T> {
    rows: [&'a [T]; CHAIN],
    count: usize,
}

impl<'a, T> Links<'a, T> {
    #[inline(always)]
    pub(super) fn new(cells: &[(usize, usize)], mut row: impl FnMut(&(usize, usize)) -> &'a [T]) -> Self {
        let mut rows: [&[T]; CHAIN] = [&[]; CHAIN];
        for (place, cell) in rows.iter_mut().zip(cells) {
            *place = row(cell);
        }
        Self { rows, count: cells.len() }
    }
}

impl<'a, T> Deref for Links<'a, T> {
    type Target = [&'a [T]];
    #[inline(always)]
    fn deref(&self) -> &[&'a [T]] {
        &self.rows[..self.count]
    }
}

/// Rows of a left operand as columns of its tiles: `[k][R]` for each tile of R of the `width` columns.
///
/// Tile by tile: what is written lies side by side, and what is read is still in the first cache for the next tile.
#[inline(always)]
fn interleave<S: Lanes<T>, T: Element>(rows: &[&[T]], width: usize, left: &mut [T]) {
    let blocks = balanced(width, SUM_ROWS);
    for (first, count) in blocks.flat_map(|(block, rows)| balanced(rows, S::ROWS).map(move |(r, n)| (block + r, n))) {
        let to = &mut left[first * rows.len()..][..count * rows.len()];
        // Of a length that the compiler knows: a call for so few numbers costs more than the copy.
        match count {
            6 => columns::<T, 6>(rows, first, to),
            5 => columns::<T, 5>(rows, first, to),
            4 => columns::<T, 4>(rows, first, to),
            3 => columns::<T, 3>(rows, first, to),
            2 => columns::<T, 2>(rows, first, to),
            _ => columns::<T, 1>(rows, first, to),
        }
    }
}

/// Of each row N numbers, from `first` on.
#[inline(always)]
fn columns<T: Copy, const N: usize>(rows: &[&[T]], first: usize, to: &mut [T]) {
    for (row, to) in rows.iter().zip(to.as_chunks_mut::<N>().0) {
        to.copy_from_slice(&row[first..first + N]);
    }
}

/// A chain's sum of outer products.
pub(super) struct Outer<'a, 'w, T> {
    /// Is this the first chain, which what the sum's memory held is nothing to?
    first: bool,
    left: &'a Links<'a, T>,
    /// The same as columns of tiles, where there is more than a [`SHALLOW`] chain.
    interleaved: &'a [T],
    right: &'a mut Panel<T>,
    sums: &'a mut [T],
    watch: &'a mut Watch<'w>,
}

impl<'a, 'w, T: Element> Outer<'a, 'w, T> {
    /// Of a left operand that is `width` numbers wide, in a worker's memory.
    #[inline(always)]
    pub(super) fn new<S: Lanes<T>>(
        first: bool,
        left: &'a Links<'a, T>,
        width: usize,
        (interleaved, right, sums): (&'a mut [T], &'a mut Panel<T>, &'a mut [T]),
        watch: &'a mut Watch<'w>,
    ) -> Self {
        if left.len() > SHALLOW {
            interleave::<S, T>(left, width, interleaved);
        }
        Self { first, left, interleaved, right, sums, watch }
    }

    /// `sum += left' right` in these rows; `right` has a row for each step of the chain.
    #[inline(always)]
    pub(super) fn add<S: Lanes<T>>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        right: &Links<'_, T>,
        sum: &mut RowsMut<'_, T>,
    ) {
        self.add_columns(simd, rows, right, 0..right[0].len(), sum);
    }

    /// The same, in these columns.
    #[inline(always)]
    pub(super) fn add_columns<S: Lanes<T>>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        right: &Links<'_, T>,
        columns: Range<usize>,
        sum: &mut RowsMut<'_, T>,
    ) {
        if columns.is_empty() {
            return;
        }
        match right.len() {
            1 => return self.add_rows::<S, 1>(simd, rows, right, &columns, sum),
            2 => return self.add_rows::<S, 2>(simd, rows, right, &columns, sum),
            3 => return self.add_rows::<S, 3>(simd, rows, right, &columns, sum),
            SHALLOW => return self.add_rows::<S, SHALLOW>(simd, rows, right, &columns, sum),
            _ => {}
        }
        let depth = right.len();
        self.right.reuse(depth, columns.len().div_ceil(S::LANES), WIDTH);
        for (first, width, numbers) in self.right.blocks_mut() {
            let some = first * S::LANES..columns.len().min((first + width) * S::LANES);
            for (row, place) in right.iter().zip(simd.vectors_mut(numbers).chunks_exact_mut(width)) {
                pointwise::fetch(simd, &row[some.clone()], place);
            }
        }
        let (right, mut backwards) = (self.right.all(), false);
        for (block, count) in balanced(rows.len(), SUM_ROWS) {
            let left = Left::Interleaved(&self.interleaved[block * depth..]);
            let (first, rows) = (rows.start + block, count);
            let product = Product { left, right, first, rows, start: Start::Zero, backwards };
            let (first, columns, watch) = (self.first, columns.clone(), &mut *self.watch);
            multiply(simd, product, self.sums, &mut Add { first, columns, sum, watch });
            backwards = !backwards;
        }
    }

    /// The same of K steps, row by row: it takes as long as its memory does, which likes to be written in order.
    #[inline(always)]
    fn add_rows<S: Lanes<T>, const K: usize>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        right: &Links<'_, T>,
        columns: &Range<usize>,
        sum: &mut RowsMut<'_, T>,
    ) {
        let (mut left, mut operands): ([&[T]; K], [&[T]; K]) = ([&[]; K], [&[]; K]);
        for k in 0..K {
            (left[k], operands[k]) = (&self.left[k][..rows.len()], &right[k][..columns.len()]);
        }
        for (at, row) in rows.enumerate() {
            if self.watch.stops(K * columns.len()) {
                return;
            }
            let mut column = [T::ZERO; K];
            for k in 0..K {
                column[k] = left[k][at];
            }
            pointwise::add_products(simd, self.first, column, operands, sum.part_mut(0, row, columns));
        }
    }
}

/// Adds a chain to the sum over all.
struct Add<'a, 'b, 'w, T> {
    first: bool,
    columns: Range<usize>,
    sum: &'a mut RowsMut<'b, T>,
    watch: &'a mut Watch<'w>,
}

impl<T: Element> Add<'_, '_, '_, T> {
    #[inline(always)]
    fn columns<S: Lanes<T>>(&self, vectors: &Range<usize>) -> Range<usize> {
        let column = |vector: usize| (self.columns.start + vector * S::LANES).min(self.columns.end);
        column(vectors.start)..column(vectors.end)
    }
}

impl<S: Lanes<T>, T: Element> Sink<S, T> for Add<'_, '_, '_, T> {
    #[inline(always)]
    fn stops(&mut self, work: usize) -> bool {
        self.watch.stops(work)
    }

    /// The sums so far: they lie far apart, in the third cache or behind it.
    #[inline(always)]
    fn expect(&mut self, simd: S, rows: Range<usize>, vectors: Range<usize>) {
        let columns = self.columns::<S>(&vectors);
        rows.for_each(|row| prefetch(simd, self.sum.part_mut(0, row, &columns)));
    }

    #[inline(always)]
    fn take(&mut self, simd: S, rows: Range<usize>, vectors: Range<usize>, product: &mut [S::A], _: &mut [S::A]) {
        let columns = self.columns::<S>(&vectors);
        for (row, product) in rows.zip(product.chunks_exact(vectors.len())) {
            pointwise::add_vectors(simd, self.first, product, self.sum.part_mut(0, row, &columns));
        }
    }
}
