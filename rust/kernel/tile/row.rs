//! A product of one row, as a step of one sequence makes it.
//!
//! There is no second row to share the weights with: each is read once and multiplied once. What hides 4 cycles of latency
//! at 2 multiplications a cycle is 8 chains, of several blocks at a time. Such a step may take a tenth of a microsecond,
//! so nothing is listed, prepared or divided on the way.

use std::ops::Range;

use super::{BLOCK_ROWS, MOST_VECTORS, Part, Sink, Start};
use crate::simd::{Element, Lanes};

/// How many blocks are taken at a time, by their width: 8 chains, or 9.
const SEVERAL: [usize; MOST_VECTORS] = [8, 4, 3, 2];

/// Groups of so many blocks that wait for their sink, at most: their operations hide each other's latency.
const WAITING: usize = 16;

/// Vectors that wait for their sink, at most.
pub(super) const WAITING_VECTORS: usize = 9 * WAITING;

/// Multiplies one row, whose parts stand side by side, and hands it to the sink.
#[inline(always)]
pub(crate) fn row<S: Lanes<T>, T: Element>(
    simd: S,
    left: [&[T]; 2],
    right: Part<'_, T>,
    (start, backwards): (Start<'_, T>, bool),
    sums: &mut [T],
    sink: &mut impl Sink<S, T>,
) {
    debug_assert_eq!(right.panel.lanes, S::LANES, "packed for another instruction set");
    assert_eq!(left[0].len() + left[1].len(), right.depth, "a row is as long as the panel is deep");
    let row = Row { left, right, start };
    let (width, vectors) = (right.panel.width, right.vectors);
    // By constants: a division takes longer than a short step can wait for.
    let (groups, blocks) = match width {
        4 => (vectors / 8, vectors / 4),
        3 => (vectors / 9, vectors / 3),
        2 => (vectors / 8, vectors / 2),
        _ => (vectors / 8, vectors),
    };
    // Whole groups, then the blocks that remain, of which the panel's last may be narrower.
    let alone = blocks - groups * SEVERAL[width - 1];
    let count = groups + alone + usize::from(blocks * width < vectors);
    let place = |n: usize| match n.checked_sub(groups) {
        None => n * width * SEVERAL[width - 1],
        Some(n) => (groups * width * SEVERAL[width - 1] + n * width).min(vectors),
    };
    let (sums, spare) = simd.vectors_mut(sums).split_at_mut(BLOCK_ROWS * MOST_VECTORS);
    let mut first = 0;
    while first < count {
        let end = count.min(first + WAITING);
        // In this order, or from the other end.
        let turn = |n: usize| if backwards { count - n } else { n };
        let waiting = place(turn(first).min(turn(end)))..place(turn(first).max(turn(end)));
        // A short step has nothing to stop.
        if first > 0 && sink.stops(waiting.len() * S::LANES * right.depth) {
            return;
        }
        for n in first..end {
            let n = if backwards { count - 1 - n } else { n };
            let vectors = place(n)..place(n + 1);
            row.chains_of(simd, &vectors, &mut sums[vectors.start - waiting.start..][..vectors.len()]);
        }
        let len = waiting.len();
        sink.take(simd, 0..1, waiting, &mut sums[..len], &mut spare[..len]);
        first = end;
    }
}

/// What is multiplied.
struct Row<'a, T> {
    left: [&'a [T]; 2],
    right: Part<'a, T>,
    start: Start<'a, T>,
}

impl<T: Element> Row<'_, T> {
    /// Some vectors: a group of blocks, or one block.
    #[inline(always)]
    fn chains_of<S: Lanes<T>>(&self, simd: S, vectors: &Range<usize>, sums: &mut [S::A]) {
        match (self.right.panel.width, vectors.len()) {
            (4, 8) => self.run::<S, 4, 2>(simd, vectors.start, sums),
            (3, 9) => self.run::<S, 3, 3>(simd, vectors.start, sums),
            (2, 8) => self.run::<S, 2, 4>(simd, vectors.start, sums),
            (1, 8) => self.run::<S, 1, 8>(simd, vectors.start, sums),
            (_, 4) => self.run::<S, 4, 1>(simd, vectors.start, sums),
            (_, 3) => self.run::<S, 3, 1>(simd, vectors.start, sums),
            (_, 2) => self.run::<S, 2, 1>(simd, vectors.start, sums),
            _ => self.run::<S, 1, 1>(simd, vectors.start, sums),
        }
    }

    /// U blocks of C vectors: a function of its own.
    #[inline(always)]
    fn run<S: Lanes<T>, const C: usize, const U: usize>(&self, simd: S, vector: usize, sums: &mut [S::A]) {
        simd.vectorize(
            #[inline(always)]
            move || self.chains::<S, C, U>(simd, vector, sums),
        );
    }

    /// Their chains. Every index is a constant once the loops over U and C are unrolled: registers have no addresses.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "k runs over several arrays at once")]
    fn chains<S: Lanes<T>, const C: usize, const U: usize>(&self, simd: S, vector: usize, sums: &mut [S::A]) {
        let Self { left, right, start } = self;
        let mut acc = [[simd.splat(T::ZERO); C]; U];
        if let Some(from) = start.of(simd, right, 0, vector) {
            let from: &[[S::A; C]; U] = from.as_chunks().0.first_chunk().expect("a row is as long as its blocks");
            for u in 0..U {
                for c in 0..C {
                    acc[u][c] = simd.load(&from[u][c]);
                }
            }
        }
        let mut k = 0;
        for left in left {
            let mut weights: [&[[S::A; C]]; U] = [&[]; U];
            for u in 0..U {
                weights[u] = right.block(simd, vector + u * C, k..k + left.len());
                // To a depth that the loop knows, so that no check remains in it.
                weights[u] = &weights[u][..left.len()];
            }
            for k in 0..left.len() {
                let broadcast = simd.splat(left[k]);
                for u in 0..U {
                    for c in 0..C {
                        acc[u][c] = simd.mul_add(broadcast, simd.load(&weights[u][k][c]), acc[u][c]);
                    }
                }
            }
            k += left.len();
        }
        let sums: &mut [[S::A; C]; U] = sums.as_chunks_mut().0.first_chunk_mut().expect("as many sums as chains");
        for u in 0..U {
            for c in 0..C {
                simd.store(acc[u][c], &mut sums[u][c]);
            }
        }
    }
}
