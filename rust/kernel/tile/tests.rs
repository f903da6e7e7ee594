//! Every shape of tile against plain chains of fused multiply-adds, to the bit.

use super::*;
use crate::simd::{InstructionSet, Job};
use crate::testing::{Real, Rng, on_every_isa};

on_every_isa! {
    tiles_are_chains_in_ascending_order,
    products_of_many_rows_are_chains,
    a_chain_may_be_continued,
    a_panel_is_used_for_less,
}

/// Around the products: has to stay.
const UNTOUCHED: f64 = 7.0;

/// A product: `rows` by `depth` times `depth` by `vectors`, in blocks of `width`.
#[derive(Clone, Copy, Debug)]
struct Shape {
    rows: usize,
    depth: usize,
    vectors: usize,
    width: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Zero,
    Row,
    Out,
}

/// Numbers to multiply.
struct Numbers<T> {
    left: Vec<Vec<T>>,
    /// `[k][column]`
    right: Vec<Vec<T>>,
    bias: Vec<T>,
    /// `[row][column]`
    out: Vec<Vec<T>>,
}

impl<T: Real> Numbers<T> {
    fn new(shape: Shape, lanes: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut rows = |count: usize, columns: usize| -> Vec<Vec<T>> {
            (0..count).map(|_| (0..columns).map(|_| rng.number(0)).collect()).collect()
        };
        let columns = shape.vectors * lanes;
        Self {
            left: rows(shape.rows, shape.depth),
            right: rows(shape.depth, columns),
            bias: rows(1, columns).remove(0),
            out: rows(shape.rows, columns),
        }
    }

    /// What the product has to be: one chain for each output, in ascending k.
    fn chains(&self, from: From) -> Vec<Vec<T>> {
        let mut out = self.out.clone();
        for (left, out) in self.left.iter().zip(&mut out) {
            for (column, out) in out.iter_mut().enumerate() {
                let start = match from {
                    From::Zero => T::ZERO,
                    From::Row => self.bias[column],
                    From::Out => *out,
                };
                *out = left.iter().zip(&self.right).fold(start, |sum, (left, right)| left.fma(right[column], sum));
            }
        }
        out
    }

    fn panel(&self, shape: Shape, lanes: usize) -> Panel<T> {
        let mut panel = Panel::try_new(shape.depth, shape.vectors, shape.width, lanes).unwrap();
        fill(&mut panel, &self.right, lanes);
        panel
    }
}

fn fill<T: Real>(panel: &mut Panel<T>, right: &[Vec<T>], lanes: usize) {
    for (first, width, numbers) in panel.blocks_mut() {
        for (k, row) in right.iter().enumerate() {
            let row = &row[first * lanes..][..width * lanes];
            numbers[k * width * lanes..][..width * lanes].copy_from_slice(row);
        }
    }
}

/// Everything in a row, with numbers behind that have to stay.
fn flat<T: Real>(rows: &[Vec<T>]) -> Vec<T> {
    let mut flat = rows.concat();
    flat.resize(flat.len() + 40, T::of(UNTOUCHED));
    flat
}

#[track_caller]
fn assert_chains<T: Real>(what: &dyn std::fmt::Debug, got: &[T], expected: &[Vec<T>]) {
    let expected = flat(expected);
    assert_eq!(got.len(), expected.len());
    for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert_eq!(got.bits(), expected.bits(), "{what:?} in {}, number {at}: {got:?}, {expected:?}", T::NAME);
    }
}

struct Tiles;

impl<T: Real> Job<T> for Tiles {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for width in 1..=4 {
            // Whole and broken blocks, and as many as one row takes at a time.
            for vectors in [1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 16, 17] {
                for rows in [1, 2, 3, 4, 5, 6, 7, 11, 13] {
                    for depth in [0, 1, 6] {
                        check(simd, Shape { rows, depth, vectors, width });
                    }
                }
            }
        }
    }
}

fn check<S: Lanes<T>, T: Real>(simd: S, shape: Shape) {
    let Shape { rows, depth, .. } = shape;
    let numbers = Numbers::<T>::new(shape, S::LANES, 41);
    let panel = numbers.panel(shape, S::LANES);
    let slices: Vec<&[T]> = numbers.left.iter().map(|row| &row[..]).collect();
    let mut interleaved = Vec::new();
    for (first, count) in balanced(rows, S::ROWS) {
        for k in 0..depth {
            interleaved.extend(numbers.left[first..first + count].iter().map(|row| row[k]));
        }
    }
    for from in [From::Zero, From::Row, From::Out] {
        let start = match from {
            From::Zero => Start::Zero,
            From::Row => Start::Row(&numbers.bias),
            From::Out => Start::Out,
        };
        let expected = numbers.chains(from);
        for (left, name) in [(Left::Rows(&slices), "rows"), (Left::Interleaved(&interleaved), "interleaved")] {
            let mut out = flat(&numbers.out);
            multiply(simd, left, rows, panel.all(), start, &mut out);
            assert_chains(&(shape, from, name), &out, &expected);
        }
        let mut out = flat(&numbers.out);
        product(simd, rows, |r| slices[r], panel.all(), start, &mut out);
        assert_chains(&(shape, from, "product"), &out, &expected);
    }
}

fn tiles_are_chains_in_ascending_order(isa: InstructionSet) {
    <f32 as Element>::dispatch(isa, Tiles);
    <f64 as Element>::dispatch(isa, Tiles);
}

struct ManyRows;

impl<T: Real> Job<T> for ManyRows {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for rows in [BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 3] {
            check(simd, Shape { rows, depth: 3, vectors: 5, width: 4 });
        }
        // No rows: nothing happens.
        check(simd, Shape { rows: 0, depth: 3, vectors: 5, width: 4 });
    }
}

fn products_of_many_rows_are_chains(isa: InstructionSet) {
    <f32 as Element>::dispatch(isa, ManyRows);
    <f64 as Element>::dispatch(isa, ManyRows);
}

struct Continued;

impl<T: Real> Job<T> for Continued {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for rows in [1, 3, 8] {
            let shape = Shape { rows, depth: 11, vectors: 9, width: 4 };
            let numbers = Numbers::<T>::new(shape, S::LANES, 42);
            let mut out = flat(&numbers.out);
            // The first 4 numbers of each chain, then the other 7.
            for (range, start) in [(0..4, Start::Row(&numbers.bias[..])), (4..11, Start::Out)] {
                let mut panel = Panel::try_new(range.len(), 9, 4, S::LANES).unwrap();
                fill(&mut panel, &numbers.right[range.clone()], S::LANES);
                product(simd, rows, |r| &numbers.left[r][range.clone()], panel.all(), start, &mut out);
            }
            assert_chains(&shape, &out, &numbers.chains(From::Row));
        }
    }
}

fn a_chain_may_be_continued(isa: InstructionSet) {
    <f32 as Element>::dispatch(isa, Continued);
    <f64 as Element>::dispatch(isa, Continued);
}

struct Less;

impl<T: Real> Job<T> for Less {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let mut panel = Panel::try_new(9, 6, 4, S::LANES).unwrap();
        for depth in [9, 2, 5, 0, 1] {
            let shape = Shape { rows: 4, depth, vectors: 6, width: 4 };
            let numbers = Numbers::<T>::new(shape, S::LANES, depth as u64);
            panel.reuse(depth, 6, 4);
            fill(&mut panel, &numbers.right, S::LANES);
            let mut out = flat(&numbers.out);
            product(simd, 4, |r| &numbers.left[r], panel.all(), Start::Zero, &mut out);
            assert_chains(&shape, &out, &numbers.chains(From::Zero));
        }
    }
}

fn a_panel_is_used_for_less(isa: InstructionSet) {
    <f32 as Element>::dispatch(isa, Less);
    <f64 as Element>::dispatch(isa, Less);
}

#[test]
#[should_panic(expected = "the panel was made for less")]
fn a_panel_is_not_used_for_more() {
    Panel::<f32>::try_new(9, 6, 4, 8).unwrap().reuse(10, 6, 4);
}

/// Even tiles, without a gap, and no more of them than there have to be.
#[test]
fn rows_are_cut_evenly() {
    assert_eq!(balanced(4, 3).collect::<Vec<_>>(), [(0, 2), (2, 2)]);
    assert_eq!(balanced(7, 6).collect::<Vec<_>>(), [(0, 4), (4, 3)]);
    assert_eq!(balanced(0, 6).count(), 0);
    for rows in 1..200 {
        for most in 1..7 {
            let tiles: Vec<_> = balanced(rows, most).collect();
            assert_eq!(tiles.len(), rows.div_ceil(most));
            let mut next = 0;
            for &(first, count) in &tiles {
                assert_eq!(first, next);
                next += count;
            }
            assert_eq!(next, rows);
            let counts = || tiles.iter().map(|&(_, count)| count);
            assert!(counts().max().unwrap() <= most && counts().max().unwrap() - counts().min().unwrap() <= 1);
        }
    }
}
