//! THE register tile: `out[row][..] += left[row][k] * panel[k][..]`. Every product in the library is this one.
//!
//! Each output is **one chain of fused multiply-adds in ascending k**, whatever the shape of the tile, the lane count or
//! the place in a batch: that is what makes the bits the same everywhere. Splitting k over two accumulators is therefore
//! out; latency is hidden by more outputs. Accumulators start from memory and go back to memory, which is exact, so a
//! chain may be continued by another call.
//!
//! A panel's block of C vectors is stored as the tile reads it, `[k][C][lanes]`. A tile is R rows by U blocks: its k loop
//! broadcasts R numbers, then loads one vector of weights at a time and multiplies it into R accumulators (with all
//! weights loaded first, AVX2 spills and runs at half its speed: measured). One row alone takes so many blocks that 8
//! chains are in flight, which is what hides 4 cycles of latency at 2 FMAs a cycle.
//!
//! Every tile is a function of its own, so that what surrounds it cannot take its registers.

use std::ops::Range;

use crate::error::Result;
use crate::simd::memory::Aligned;
use crate::simd::{Element, Lanes};

/// A right operand, `depth` rows by `vectors` vectors of columns, padded with zeros.
///
/// Stored as blocks of `width` vectors, `[block][k][width][lanes]`; the last block may be narrower.
#[derive(Debug)]
pub(crate) struct Panel<T> {
    numbers: Aligned<T>,
    depth: usize,
    vectors: usize,
    width: usize,
    lanes: usize,
}

impl<T> Default for Panel<T> {
    fn default() -> Self {
        Self { numbers: Aligned::default(), depth: 0, vectors: 0, width: 1, lanes: 1 }
    }
}

impl<T: Element> Panel<T> {
    /// Zeros, for blocks of `width` (1 to 4) vectors.
    pub(crate) fn try_new(depth: usize, vectors: usize, width: usize, lanes: usize) -> Result<Self> {
        assert!((1..=4).contains(&width), "a tile is 1 to 4 vectors wide");
        let len = depth.saturating_mul(vectors).saturating_mul(lanes);
        let numbers = Aligned::try_zeroed(len)?;
        Ok(Self { numbers, depth, vectors, width, lanes })
    }

    /// How many vectors a row of the product has.
    pub(crate) fn vectors(&self) -> usize {
        self.vectors
    }

    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> usize {
        self.vectors.div_ceil(self.width)
    }

    /// The columns of some blocks, where there are `most` without the padding.
    pub(crate) fn columns(&self, blocks: &Range<usize>, most: usize) -> Range<usize> {
        let column = |block: usize| (block * self.width * self.lanes).min(most);
        column(blocks.start)..column(blocks.end)
    }

    /// Bytes that it keeps.
    pub(crate) fn room(&self) -> usize {
        self.numbers.bytes()
    }

    /// Bytes of it.
    pub(crate) fn bytes(&self) -> usize {
        self.depth * self.vectors * self.lanes * size_of::<T>()
    }

    /// All of it.
    #[inline(always)]
    pub(crate) fn all(&self) -> Part<'_, T> {
        Part { panel: self, first: 0, vectors: self.vectors }
    }

    /// Some blocks of it.
    #[inline(always)]
    pub(crate) fn part(&self, blocks: &Range<usize>) -> Part<'_, T> {
        let first = (blocks.start * self.width).min(self.vectors);
        Part { panel: self, first, vectors: (blocks.end * self.width).min(self.vectors) - first }
    }

    /// Makes it another panel, in the same memory if that suffices; the contents are to be filled in again.
    pub(crate) fn reshape(&mut self, depth: usize, vectors: usize, width: usize, lanes: usize) -> Result<()> {
        self.numbers.resize(depth.saturating_mul(vectors).saturating_mul(lanes))?;
        (self.depth, self.vectors, self.width, self.lanes) = (depth, vectors, width, lanes);
        Ok(())
    }

    /// The same, in memory that has to suffice.
    pub(crate) fn reuse(&mut self, depth: usize, vectors: usize, width: usize) {
        assert!(depth * vectors * self.lanes <= self.numbers.len(), "the panel was made for less");
        (self.depth, self.vectors, self.width) = (depth, vectors, width);
    }

    /// The blocks: index of the first vector, width, and `[k][width][lanes]`.
    pub(crate) fn blocks_mut(&mut self) -> impl Iterator<Item = (usize, usize, &mut [T])> {
        let (vectors, width, row) = (self.vectors, self.width, self.depth * self.lanes);
        // A chunk of no numbers would never come to an end.
        let size = (width * row).max(1);
        self.numbers[..vectors * row].chunks_mut(size).enumerate().map(move |(block, numbers)| {
            let first = block * width;
            (first, width.min(vectors - first), numbers)
        })
    }
}

/// Neighbouring blocks of a panel: what one thread multiplies by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a, T> {
    panel: &'a Panel<T>,
    first: usize,
    vectors: usize,
}

impl<T> Part<'_, T> {
    /// How many vectors a row of the product has.
    #[inline(always)]
    pub(crate) fn vectors(&self) -> usize {
        self.vectors
    }

    /// The first of its columns in the panel's.
    #[inline(always)]
    pub(crate) fn first_column(&self) -> usize {
        self.first * self.panel.lanes
    }
}

/// Where the accumulators start.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a, T> {
    /// From 0.
    Zero,
    /// Every row from this one, as long as the panel has columns: the bias.
    Row(&'a [T]),
    /// From what `out` holds: continues a chain.
    Out,
}

/// A left operand.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a, T> {
    /// Rows that lie anywhere.
    Rows(&'a [&'a [T]]),
    /// Packed as the tiles of [`balanced`] read it: for each tile of R rows, `[k][R]`.
    Interleaved(&'a [T]),
}

/// R rows of a left operand, read column by column.
trait Column<T, const R: usize> {
    /// Cut to a depth that the loop knows, so that no check remains in it.
    fn cut(self, depth: usize) -> Self;
    /// Column `k`.
    fn at(&self, k: usize) -> [T; R];
}

impl<T: Copy, const R: usize> Column<T, R> for [&[T]; R] {
    #[inline(always)]
    fn cut(mut self, depth: usize) -> Self {
        for row in &mut self {
            *row = &row[..depth];
        }
        self
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

impl<T: Copy, const R: usize> Column<T, R> for &[[T; R]] {
    #[inline(always)]
    fn cut(self, depth: usize) -> Self {
        &self[..depth]
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
    let tiles = rows.div_ceil(most);
    let (base, larger) = rows.checked_div(tiles).map_or((0, 0), |base| (base, rows % tiles));
    (0..tiles).map(move |tile| (tile * base + tile.min(larger), base + usize::from(tile < larger)))
}

/// Rows of a tile, at most, on any instruction set.
pub(crate) const MOST_ROWS: usize = 6;

/// Rows that share one pass over a panel, at most.
pub(crate) const BLOCK_ROWS: usize = 128;

/// [`multiply`] for `rows` rows, of which row `r` is `left(r)`.
#[inline(always)]
pub(crate) fn product<'a, S: Lanes<T>, T: Element>(
    simd: S,
    rows: usize,
    left: impl Fn(usize) -> &'a [T],
    right: Part<'_, T>,
    start: Start<'_, T>,
    out: &mut [T],
) {
    if rows == 1 {
        // A step of one sequence is short enough for the list below to count.
        return multiply(simd, Left::Rows(&[left(0)]), 1, right, start, out);
    }
    let mut block: [&[T]; BLOCK_ROWS] = [&[]; BLOCK_ROWS];
    for (first, count) in balanced(rows, BLOCK_ROWS) {
        for (r, row) in block[..count].iter_mut().enumerate() {
            *row = left(first + r);
        }
        let out = &mut out[first * right.vectors * S::LANES..];
        multiply(simd, Left::Rows(&block[..count]), count, right, start, out);
    }
}

/// `out[row][..] = start + left[row][k] * panel[k][..]` over ascending k, for `rows` rows: a function of its own.
#[inline(always)]
pub(crate) fn multiply<S: Lanes<T>, T: Element>(
    simd: S,
    left: Left<'_, T>,
    rows: usize,
    right: Part<'_, T>,
    start: Start<'_, T>,
    out: &mut [T],
) {
    let Part { panel, first, vectors } = right;
    debug_assert_eq!(panel.lanes, S::LANES, "packed for another instruction set");
    simd.vectorize(
        #[inline(always)]
        || {
            // The last block of a panel may be narrower.
            let whole = panel.vectors - panel.vectors % panel.width;
            let end = first + vectors;
            let work = Work {
                left,
                rows,
                panel: simd.vectors(&panel.numbers),
                depth: panel.depth,
                first,
                stride: vectors,
                start,
            };
            let out = simd.vectors_mut(out);
            work.blocks(simd, first..end.min(whole), panel.width, out);
            work.blocks(simd, first.max(whole)..end, panel.vectors - whole, out);
        },
    );
}

/// What stays the same over the blocks of a product.
struct Work<'a, T, A> {
    left: Left<'a, T>,
    rows: usize,
    panel: &'a [A],
    depth: usize,
    /// The first vector of the panel that is multiplied by.
    first: usize,
    /// Vectors in a row of the product.
    stride: usize,
    start: Start<'a, T>,
}

impl<T: Element, A> Work<'_, T, A> {
    /// Blocks of `width` vectors. Each stays in cache while all the rows are multiplied by it.
    #[inline(always)]
    fn blocks<S: Lanes<T, A = A>>(&self, simd: S, vectors: Range<usize>, width: usize, out: &mut [A]) {
        let Range { start: mut vector, end } = vectors;
        while vector < end {
            let left = end - vector;
            vector += match (width, self.rows, self.left) {
                (4, 1, Left::Rows(_)) if left >= 8 => self.one_row::<S, 4, 2>(simd, vector, out),
                (3, 1, Left::Rows(_)) if left >= 9 => self.one_row::<S, 3, 3>(simd, vector, out),
                (2, 1, Left::Rows(_)) if left >= 8 => self.one_row::<S, 2, 4>(simd, vector, out),
                (1, 1, Left::Rows(_)) if left >= 8 => self.one_row::<S, 1, 8>(simd, vector, out),
                (4, ..) => self.tiles::<S, 4>(simd, vector, out),
                (3, ..) => self.tiles::<S, 3>(simd, vector, out),
                (2, ..) => self.tiles::<S, 2>(simd, vector, out),
                _ => self.tiles::<S, 1>(simd, vector, out),
            };
        }
    }

    /// One row by U blocks of C vectors; says how many vectors that was.
    #[inline(always)]
    fn one_row<S: Lanes<T, A = A>, const C: usize, const U: usize>(
        &self,
        simd: S,
        vector: usize,
        out: &mut [A],
    ) -> usize {
        if let Left::Rows(rows) = self.left {
            self.tile::<S, C, U, 1>(simd, [rows[0]], 0, vector, out);
        }
        C * U
    }

    /// All the rows by one block of C vectors; says how many vectors that was.
    #[inline(always)]
    fn tiles<S: Lanes<T, A = A>, const C: usize>(&self, simd: S, vector: usize, out: &mut [A]) -> usize {
        for (first, count) in balanced(self.rows, S::ROWS) {
            match count {
                1 => self.rows::<S, C, 1>(simd, first, vector, out),
                2 => self.rows::<S, C, 2>(simd, first, vector, out),
                3 if S::ROWS >= 3 => self.rows::<S, C, 3>(simd, first, vector, out),
                4 if S::ROWS >= 4 => self.rows::<S, C, 4>(simd, first, vector, out),
                5 if S::ROWS >= 5 => self.rows::<S, C, 5>(simd, first, vector, out),
                6 if S::ROWS >= 6 => self.rows::<S, C, 6>(simd, first, vector, out),
                _ => unreachable!("a tile has at most ROWS rows"),
            }
        }
        C
    }

    /// R rows from `first` on by one block of C vectors.
    #[inline(always)]
    fn rows<S: Lanes<T, A = A>, const C: usize, const R: usize>(
        &self,
        simd: S,
        first: usize,
        vector: usize,
        out: &mut [A],
    ) {
        match self.left {
            Left::Rows(all) => {
                let rows: &[&[T]; R] = all[first..].first_chunk().expect("as many rows as were cut into tiles");
                self.tile::<S, C, 1, R>(simd, *rows, first, vector, out);
            }
            Left::Interleaved(all) => {
                let rows = all[first * self.depth..].as_chunks::<R>().0;
                self.tile::<S, C, 1, R>(simd, rows, first, vector, out);
            }
        }
    }

    /// R rows by U blocks of C vectors, all in registers: a function of its own.
    #[inline(always)]
    fn tile<S: Lanes<T, A = A>, const C: usize, const U: usize, const R: usize>(
        &self,
        simd: S,
        left: impl Column<T, R>,
        row: usize,
        vector: usize,
        out: &mut [A],
    ) {
        let Self { panel, depth, first, stride, start, .. } = *self;
        let panel = &panel[vector * depth..];
        let out = &mut out[row * stride + vector - first..];
        let start = match start {
            Start::Zero => Start::Zero,
            Start::Out => Start::Out,
            Start::Row(bias) => Start::Row(&simd.vectors(bias)[vector..]),
        };
        simd.vectorize(
            #[inline(always)]
            move || chains::<S, T, C, U, R>(simd, left, panel, depth, start, out, stride),
        );
    }
}

/// U blocks of C vectors at the start of `row`.
#[inline(always)]
fn blocks<A, const C: usize, const U: usize>(row: &[A]) -> &[[A; C]; U] {
    row.as_chunks().0.first_chunk().expect("a row is as long as its blocks")
}

/// The chains of one tile. Every index is a constant once the loops over R, U and C are unrolled: registers have no
/// addresses.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "k runs over several arrays at once")]
fn chains<S: Lanes<T>, T: Element, const C: usize, const U: usize, const R: usize>(
    simd: S,
    left: impl Column<T, R>,
    panel: &[S::A],
    depth: usize,
    start: Start<'_, S::A>,
    out: &mut [S::A],
    stride: usize,
) {
    let mut weights: [&[[S::A; C]]; U] = [&[]; U];
    for u in 0..U {
        weights[u] = &panel[u * C * depth..].as_chunks().0[..depth];
    }
    let left = left.cut(depth);

    let mut acc = [[[simd.splat(T::ZERO); C]; U]; R];
    for r in 0..R {
        let from = match start {
            Start::Zero => continue,
            Start::Row(row) => blocks::<_, C, U>(row),
            Start::Out => blocks::<_, C, U>(&out[r * stride..]),
        };
        for u in 0..U {
            for c in 0..C {
                acc[r][u][c] = simd.load(&from[u][c]);
            }
        }
    }
    for k in 0..depth {
        let column = left.at(k);
        let mut broadcast = [simd.splat(T::ZERO); R];
        for r in 0..R {
            broadcast[r] = simd.splat(column[r]);
        }
        for u in 0..U {
            for c in 0..C {
                let weight = simd.load(&weights[u][k][c]);
                for r in 0..R {
                    acc[r][u][c] = simd.mul_add(broadcast[r], weight, acc[r][u][c]);
                }
            }
        }
    }
    for r in 0..R {
        let to: &mut [[S::A; C]; U] =
            out[r * stride..].as_chunks_mut().0.first_chunk_mut().expect("a row is as long as its blocks");
        for u in 0..U {
            for c in 0..C {
                simd.store(acc[r][u][c], &mut to[u][c]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
