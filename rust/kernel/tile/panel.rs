//! The right operand of a product, stored as the tile reads it.

use std::ops::Range;

use super::MOST_VECTORS;
use crate::error::Result;
use crate::simd::recycled::Recycled;
use crate::simd::{Element, Lanes};

/// A right operand, `depth` rows by `vectors` vectors of columns, padded with zeros.
///
/// Stored as blocks of `width` vectors, `[block][k][width][lanes]`; the last block may be narrower.
#[derive(Debug)]
pub(crate) struct Panel<T> {
    numbers: Recycled<T>,
    depth: usize,
    vectors: usize,
    pub(super) width: usize,
    pub(super) lanes: usize,
}

impl<T> Default for Panel<T> {
    fn default() -> Self {
        Self { numbers: Recycled::default(), depth: 0, vectors: 0, width: 1, lanes: 1 }
    }
}

impl<T: Element> Panel<T> {
    /// Room for blocks of `width` (1 to 4) vectors; the contents are to be filled in, padding and all.
    pub(crate) fn try_new(depth: usize, vectors: usize, width: usize, lanes: usize) -> Result<Self> {
        assert!((1..=MOST_VECTORS).contains(&width), "a tile is 1 to 4 vectors wide");
        let len = depth.saturating_mul(vectors).saturating_mul(lanes);
        let numbers = Recycled::room(len)?;
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
        self.part(&(0..self.blocks()))
    }

    /// Some blocks of it.
    #[inline(always)]
    pub(crate) fn part(&self, blocks: &Range<usize>) -> Part<'_, T> {
        let first = (blocks.start * self.width).min(self.vectors);
        let vectors = (blocks.end * self.width).min(self.vectors) - first;
        Part { panel: self, first, vectors, k: 0, depth: self.depth }
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

/// Neighbouring blocks of a panel, or some rows of them: what one thread multiplies by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a, T> {
    pub(super) panel: &'a Panel<T>,
    /// The first vector.
    pub(super) first: usize,
    pub(super) vectors: usize,
    /// The first row, and how many.
    k: usize,
    pub(super) depth: usize,
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

    /// Some of its rows.
    #[inline(always)]
    pub(crate) fn rows(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.depth, "rows out of bounds");
        Self { k: self.k + rows.start, depth: rows.len(), ..self }
    }
}

impl<'a, T: Element> Part<'a, T> {
    /// The panel from row `k` of the block of C vectors on whose first is `vector`.
    #[inline(always)]
    pub(super) fn from<S: Lanes<T>, const C: usize>(&self, simd: S, vector: usize, k: usize) -> &'a [S::A] {
        let numbers = simd.vectors(&self.panel.numbers);
        numbers.get((self.first + vector) * self.panel.depth + (self.k + k) * C..).unwrap_or_default()
    }

    /// Rows `k` of the block of C vectors whose first is `vector`.
    #[inline(always)]
    pub(super) fn block<S: Lanes<T>, const C: usize>(
        &self,
        simd: S,
        vector: usize,
        k: Range<usize>,
    ) -> &'a [[S::A; C]] {
        &self.from::<S, C>(simd, vector, k.start).as_chunks().0[..k.len()]
    }
}
