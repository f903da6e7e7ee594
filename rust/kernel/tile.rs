//! THE register tile: `acc[row][..] += left[row][k] * panel[k][..]`. Every product in the library is this one.
//!
//! Each output is **one chain of fused multiply-adds in ascending k**, whatever the shape of the tile, the lane count or
//! the place in a batch: that is what makes the bits the same everywhere. Splitting k over two accumulators is therefore
//! out; latency is hidden by more outputs. Accumulators may go to memory and come back, which is exact, so a deep product
//! is made in passes, and one over two panels is one chain.
//!
//! A panel's block of C vectors is stored as the tile reads it, `[k][C][lanes]`. A tile is R rows by one block: its k loop
//! broadcasts R numbers, then loads one vector of weights at a time and multiplies it into R accumulators (with all
//! weights loaded first, AVX2 spills and runs at half its speed: measured). One row alone is a matter of its own: `row.rs`.
//!
//! Every tile is a function of its own, so that what surrounds it cannot take its registers. It leaves its sums in a
//! small memory, from which a [`Sink`] takes them while they are in the first cache and the next tile already runs: the
//! gates of a step cost little beside its product only if they are made there.

use std::ops::Range;

use crate::simd::{Element, Lanes};

pub(crate) use panel::{Panel, Part};
pub(crate) use row::row;

/// A left operand.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a, T> {
    /// Rows that lie anywhere.
    Rows(&'a [&'a [T]]),
    /// Rows so many numbers apart.
    Spaced(&'a [T], usize),
    /// Packed as the tiles of [`balanced`] read it: for each tile of R rows, `[k][R]`.
    Interleaved(&'a [T]),
}

/// Where the chains start.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a, T> {
    /// From 0.
    Zero,
    /// Every row from this one, as long as the panel has columns: the bias.
    Row(&'a [T]),
    /// Each row from its own, as long as the part has columns.
    Rows(&'a [T]),
}

impl<'a, T: Element> Start<'a, T> {
    /// Where the chains of a row start, from a vector of the part on; from 0, if nowhere.
    #[inline(always)]
    fn of<S: Lanes<T>>(self, simd: S, right: &Part<'_, T>, row: usize, vector: usize) -> Option<&'a [S::A]> {
        match self {
            Self::Zero => None,
            Self::Row(all) => Some(&simd.vectors(all)[right.first + vector..]),
            Self::Rows(all) => Some(&simd.vectors(all)[row * right.vectors + vector..]),
        }
    }
}

/// A product.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a, T> {
    pub(crate) left: Left<'a, T>,
    pub(crate) right: Part<'a, T>,
    /// The first row, as the sink counts, and how many.
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) start: Start<'a, T>,
    /// Takes the blocks from the last to the first. Turning about from step to step finds in the caches what was read
    /// last: weights of twice a cache's size come from it by half.
    pub(crate) backwards: bool,
}

/// What becomes of a product.
///
/// Its methods have to be `#[inline(always)]`.
pub(crate) trait Sink<S: Lanes<T>, T: Element> {
    /// Some vectors of some rows of the product are about to be made: what they will be put together with can be fetched
    /// meanwhile.
    fn expect(&mut self, _simd: S, _rows: Range<usize>, _vectors: Range<usize>) {}
    /// Are so many multiplications not wanted any more, nor what comes after them? A product may take seconds.
    #[inline(always)]
    fn stops(&mut self, _work: usize) -> bool {
        false
    }
    /// Takes them, row by row; vectors are counted from the first of the part. `spare` is room for as many.
    fn take(&mut self, simd: S, rows: Range<usize>, vectors: Range<usize>, product: &mut [S::A], spare: &mut [S::A]);
}

/// R rows of a left operand, read column by column.
trait Column<'a, T, const R: usize>: Copy {
    /// Rows `first..first + R` of `depth` columns, of which `count` are read from `start` on.
    fn new(left: Left<'a, T>, first: usize, depth: usize, start: usize, count: usize) -> Self;
    /// Column `k`.
    fn at(&self, k: usize) -> [T; R];
}

impl<'a, T: Copy, const R: usize> Column<'a, T, R> for [&'a [T]; R] {
    #[inline(always)]
    fn new(left: Left<'a, T>, first: usize, _: usize, start: usize, count: usize) -> Self {
        let mut rows: [&[T]; R] = [&[]; R];
        match left {
            Left::Rows(all) => {
                for (row, from) in rows.iter_mut().zip(&all[first..first + R]) {
                    *row = &from[start..];
                }
            }
            Left::Spaced(all, stride) => {
                for (row, from) in rows.iter_mut().zip(all[first * stride..].chunks(stride)) {
                    *row = &from[start..];
                }
            }
            Left::Interleaved(_) => unreachable!("these are rows"),
        }
        for row in &mut rows {
            // To a depth that the loop knows, so that no check remains in it.
            *row = &row[..count];
        }
        rows
    }
    #[inline(always)]
    fn at(&self, k: usize) -> [T; R] {
        let mut column = [self[0][k]; R];
        for r in 1..R {
            column[r] = self[r][k];
        }
        column
    }
}

impl<'a, T: Copy, const R: usize> Column<'a, T, R> for &'a [[T; R]] {
    #[inline(always)]
    fn new(left: Left<'a, T>, first: usize, depth: usize, start: usize, count: usize) -> Self {
        let Left::Interleaved(all) = left else { unreachable!("this is packed") };
        &all[first * depth..].as_chunks().0[start..][..count]
    }
    #[inline(always)]
    fn at(&self, k: usize) -> [T; R] {
        self[k]
    }
}

/// How `rows` are cut into tiles of at most `most`: first row and count, as even as can be.
///
/// Each tile streams the panel once, so 4 rows at most 3 at a time are 2 + 2 and not 3 + 1.
#[inline(always)]
pub(crate) fn balanced(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    // Divisions take longer than a short step can wait for.
    let (tiles, base, larger) = match rows {
        0 => (0, 0, 0),
        _ if rows <= most => (1, rows, 0),
        _ => {
            let tiles = rows.div_ceil(most);
            (tiles, rows / tiles, rows % tiles)
        }
    };
    (0..tiles).map(move |tile| (tile * base + tile.min(larger), base + usize::from(tile < larger)))
}

/// Rows that share one pass over a panel, at most.
pub(crate) const BLOCK_ROWS: usize = 128;

/// Bytes of a left operand's rows that share one pass over a panel, at most: half of a second-level cache.
const LEFT_BYTES: usize = 1 << 19;

/// How many rows of so many columns share one pass over a panel.
#[inline(always)]
pub(crate) fn block_rows<T>(depth: usize) -> usize {
    (LEFT_BYTES / size_of::<T>() / depth.max(1)).clamp(BLOCK_ROWS / 4, BLOCK_ROWS)
}

/// Columns of a left operand in one pass, at most: a block's share of the panel, and that of all the rows, stay in the
/// second-level cache.
pub(crate) const DEPTH: usize = 1024;

/// Vectors of a block, at most.
const MOST_VECTORS: usize = 4;

/// Numbers that the sums of one block take, at most, and what a sink uses besides.
pub(crate) const fn sums<T>() -> usize {
    (BLOCK_ROWS * MOST_VECTORS + row::WAITING_VECTORS) * 64 / size_of::<T>()
}

/// [`multiply`] for any number of rows, of which row `r` is `left(r)`.
#[inline(always)]
pub(crate) fn product<'a, S: Lanes<T>, T: Element>(
    simd: S,
    rows: usize,
    left: impl Fn(usize) -> &'a [T],
    right: Part<'_, T>,
    (start, backwards): (Start<'_, T>, bool),
    sums: &mut [T],
    sink: &mut impl Sink<S, T>,
) {
    if rows == 1 {
        return row(simd, [left(0), &[]], right, (start, backwards), sums, sink);
    }
    let mut list: [&[T]; BLOCK_ROWS] = [&[]; BLOCK_ROWS];
    for (first, rows) in balanced(rows, block_rows::<T>(right.depth)) {
        for (r, row) in list[..rows].iter_mut().enumerate() {
            *row = left(first + r);
        }
        let start = match start {
            Start::Rows(all) => Start::Rows(&all[first * right.vectors * S::LANES..]),
            other => other,
        };
        let left = Left::Rows(&list[..rows]);
        multiply(simd, Product { left, right, first, rows, start, backwards }, sums, sink);
    }
}

/// Makes a product, tile by tile, and hands each to the sink: a function of its own.
#[inline(always)]
pub(crate) fn multiply<S: Lanes<T>, T: Element>(
    simd: S,
    product: Product<'_, T>,
    sums: &mut [T],
    sink: &mut impl Sink<S, T>,
) {
    debug_assert_eq!(product.right.panel.lanes, S::LANES, "packed for another instruction set");
    simd.vectorize(
        #[inline(always)]
        || blocks(simd, &product, simd.vectors_mut(sums), sink),
    );
}

/// The blocks of a product. One stays in cache while all the rows are multiplied by it.
#[inline(always)]
fn blocks<S: Lanes<T>, T: Element>(simd: S, product: &Product<'_, T>, sums: &mut [S::A], sink: &mut impl Sink<S, T>) {
    let Part { panel, vectors, depth, .. } = product.right;
    let (sums, spare) = sums.split_at_mut(BLOCK_ROWS * MOST_VECTORS);
    let count = vectors.div_ceil(panel.width);
    // In this order, or from the other end.
    let first = |n: usize| if product.backwards { count - 1 - n } else { n } * panel.width;
    for n in 0..count {
        let vectors = first(n)..vectors.min(first(n) + panel.width);
        if sink.stops(product.rows * vectors.len() * S::LANES * depth) {
            return;
        }
        let next = (n + 1 < count).then(|| first(n + 1));
        let mut pass = Pass { product, vectors, next, k: 0..depth };
        for (start, count) in balanced(depth.max(1), DEPTH) {
            pass.k = start..(start + count).min(depth);
            pass.tiles(simd, sums, spare, sink);
        }
    }
}

/// Some columns of the left operand, by one block of the panel.
struct Pass<'a, 'b, T> {
    product: &'a Product<'b, T>,
    /// The block's, as the sink counts.
    vectors: Range<usize>,
    /// The first vector of the block that comes next.
    next: Option<usize>,
    /// The columns.
    k: Range<usize>,
}

impl<'b, T: Element> Pass<'_, 'b, T> {
    /// All the rows.
    #[inline(always)]
    fn tiles<S: Lanes<T>>(&self, simd: S, sums: &mut [S::A], spare: &mut [S::A], sink: &mut impl Sink<S, T>) {
        let (first, last) = (self.k.start == 0, self.k.end == self.product.right.depth);
        for (tile, (row, count)) in balanced(self.product.rows, S::ROWS).enumerate() {
            // Between passes every tile has a place of its own.
            let place = if first && last { 0 } else { row * self.vectors.len() };
            let sums = &mut sums[place..][..count * self.vectors.len()];
            let rows = self.product.first + row..self.product.first + row + count;
            if last {
                sink.expect(simd, rows.clone(), self.vectors.clone());
            }
            self.tile_of(simd, (tile, row), count, sums);
            if last {
                let spare = &mut spare[..sums.len()];
                sink.take(simd, rows, self.vectors.clone(), sums, spare);
            }
        }
    }

    /// `count` rows; `at` is the tile's number and its first row.
    #[inline(always)]
    fn tile_of<S: Lanes<T>>(&self, simd: S, at: (usize, usize), count: usize, sums: &mut [S::A]) {
        match self.vectors.len() {
            4 => self.rows::<S, 4>(simd, at, count, sums),
            3 => self.rows::<S, 3>(simd, at, count, sums),
            2 => self.rows::<S, 2>(simd, at, count, sums),
            _ => self.rows::<S, 1>(simd, at, count, sums),
        }
    }

    /// `count` rows by one block of C vectors.
    #[inline(always)]
    fn rows<S: Lanes<T>, const C: usize>(&self, simd: S, at: (usize, usize), count: usize, sums: &mut [S::A]) {
        match count {
            1 => self.tile::<S, C, 1>(simd, at, sums),
            2 => self.tile::<S, C, 2>(simd, at, sums),
            3 if S::ROWS >= 3 => self.tile::<S, C, 3>(simd, at, sums),
            4 if S::ROWS >= 4 => self.tile::<S, C, 4>(simd, at, sums),
            5 if S::ROWS >= 5 => self.tile::<S, C, 5>(simd, at, sums),
            6 if S::ROWS >= 6 => self.tile::<S, C, 6>(simd, at, sums),
            _ => unreachable!("a tile has at most ROWS rows"),
        }
    }

    /// R rows by a block of C vectors.
    #[inline(always)]
    fn tile<S: Lanes<T>, const C: usize, const R: usize>(&self, simd: S, at: (usize, usize), sums: &mut [S::A]) {
        match self.product.left {
            Left::Rows(_) | Left::Spaced(..) => self.run::<S, [&'b [T]; R], C, R>(simd, at, sums),
            Left::Interleaved(_) => self.run::<S, &'b [[T; R]], C, R>(simd, at, sums),
        }
    }

    /// The same, for one kind of left operand: a function of its own.
    #[inline(always)]
    fn run<S: Lanes<T>, L: Column<'b, T, R>, const C: usize, const R: usize>(
        &self,
        simd: S,
        at: (usize, usize),
        sums: &mut [S::A],
    ) {
        simd.vectorize(
            #[inline(always)]
            move || self.chains::<S, L, C, R>(simd, at, sums),
        );
    }

    /// The chains of one tile. Every index is a constant once the loops over R and C are unrolled: registers have no
    /// addresses.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "k runs over several arrays at once")]
    fn chains<S: Lanes<T>, L: Column<'b, T, R>, const C: usize, const R: usize>(
        &self,
        simd: S,
        (tile, row): (usize, usize),
        sums: &mut [S::A],
    ) {
        let sums: &mut [[S::A; C]] = sums.as_chunks_mut().0;
        let sums: &mut [[S::A; C]; R] = sums.first_chunk_mut().expect("as many sums as the tile has");
        let Product { left, right, start, .. } = *self.product;
        let mut acc = [[simd.splat(T::ZERO); C]; R];
        for r in 0..R {
            let from =
                if self.k.start > 0 { Some(&sums[r][..]) } else { start.of(simd, &right, row + r, self.vectors.start) };
            let Some(from) = from else { continue };
            let from: &[S::A; C] = from.first_chunk().expect("a row is as long as its blocks");
            for c in 0..C {
                acc[r][c] = simd.load(&from[c]);
            }
        }

        let count = self.k.len();
        let weights: &[[S::A; C]] = right.block(simd, self.vectors.start, self.k.clone());
        // Meanwhile what the next pass reads is brought nearer: by each of the first C tiles a C-th of it.
        let ahead = if self.k.end < right.depth {
            Some(right.from::<S, C>(simd, self.vectors.start, self.k.end))
        } else {
            self.next.map(|vector| right.from::<S, C>(simd, vector, 0))
        };
        let ahead = ahead.filter(|_| tile < C).and_then(|all| all.get(tile * count..)?.get(..count));
        let ahead = ahead.unwrap_or(&weights.as_flattened()[..count]);
        let left = L::new(left, row, right.depth, self.k.start, count);
        for k in 0..count {
            simd.prefetch(&ahead[k]);
            let column = left.at(k);
            let mut broadcast = [simd.splat(T::ZERO); R];
            for r in 0..R {
                broadcast[r] = simd.splat(column[r]);
            }
            for c in 0..C {
                let weight = simd.load(&weights[k][c]);
                for r in 0..R {
                    acc[r][c] = simd.mul_add(broadcast[r], weight, acc[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                simd.store(acc[r][c], &mut sums[r][c]);
            }
        }
    }
}

mod panel;
mod row;
#[cfg(test)]
mod tests;
