//! Every shape of tile against plain chains of fused multiply-adds, to the bit.

use super::*;
use crate::simd::{InstructionSet, Job};
use crate::testing::{Real, Rng, on_every_isa};

on_every_isa! {
    tiles_are_chains_in_ascending_order,
    products_of_many_rows_are_chains,
    deep_products_are_one_chain,
    a_chain_may_be_continued,
    a_panel_is_used_for_less,
}

/// Where nothing has come yet.
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
    Rows,
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
                    From::Rows => *out,
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

/// Collects a product's parts, and checks that each comes once.
struct Collect<'a, T> {
    out: &'a mut [Vec<T>],
    /// The first row, and the first vector.
    first: usize,
    announced: Vec<(Range<usize>, Range<usize>)>,
}

impl<S: Lanes<T>, T: Real> Sink<S, T> for Collect<'_, T> {
    #[inline(always)]
    fn expect(&mut self, _: S, rows: Range<usize>, vectors: Range<usize>) {
        self.announced.push((rows, vectors));
    }

    #[inline(always)]
    fn take(&mut self, simd: S, rows: Range<usize>, vectors: Range<usize>, product: &mut [S::A], spare: &mut [S::A]) {
        assert_eq!(product.len(), rows.len() * vectors.len());
        assert_eq!(spare.len(), product.len());
        // What is written there may not come into anything.
        spare.iter_mut().for_each(|v| simd.store(simd.splat(T::of(f64::NAN)), v));
        // What is announced is taken next; of one row nothing is.
        if let Some(announced) = self.announced.pop() {
            assert_eq!(announced, (rows.clone(), vectors.clone()));
        } else {
            assert_eq!(rows.len(), 1);
        }
        for (row, product) in rows.zip(product.chunks(vectors.len())) {
            let columns = vectors.start * S::LANES..vectors.end * S::LANES;
            for (place, &number) in self.out[row - self.first][columns].iter_mut().zip(simd.numbers(product)) {
                assert_eq!(place.bits(), T::of(UNTOUCHED).bits(), "taken twice");
                *place = number;
            }
        }
    }
}

/// A product, collected: `run` is given the memory for sums, and the sink.
fn collect<T: Real>(
    shape: Shape,
    columns: usize,
    first: usize,
    run: impl FnOnce(&mut [T], &mut Collect<'_, T>),
) -> Vec<Vec<T>> {
    let mut out = vec![vec![T::of(UNTOUCHED); columns]; shape.rows];
    let mut memory = vec![T::of(UNTOUCHED); sums::<T>()];
    let mut sink = Collect { out: &mut out, first, announced: Vec::new() };
    run(&mut memory, &mut sink);
    assert!(sink.announced.is_empty(), "what is announced is taken");
    out
}

#[track_caller]
fn assert_chains<T: Real>(what: &dyn std::fmt::Debug, got: &[Vec<T>], expected: &[Vec<T>]) {
    assert_eq!(got.len(), expected.len());
    for (row, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.len(), expected.len());
        for (column, (got, expected)) in got.iter().zip(expected).enumerate() {
            let at = (row, column);
            assert_eq!(got.bits(), expected.bits(), "{what:?} in {}, at {at:?}: {got:?}, {expected:?}", T::NAME);
        }
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
    let Shape { rows, depth, vectors, width } = shape;
    let numbers = Numbers::<T>::new(shape, S::LANES, 41);
    let panel = numbers.panel(shape, S::LANES);
    let slices: Vec<&[T]> = numbers.left.iter().map(|row| &row[..]).collect();
    let mut interleaved = Vec::new();
    for (first, count) in balanced(rows, S::ROWS) {
        for k in 0..depth {
            interleaved.extend(numbers.left[first..first + count].iter().map(|row| row[k]));
        }
    }
    let stride = depth + 3;
    let mut spaced = vec![T::of(UNTOUCHED); rows * stride];
    for (place, row) in spaced.chunks_exact_mut(stride).zip(&numbers.left) {
        place[..depth].copy_from_slice(row);
    }
    let columns = vectors * S::LANES;
    for from in [From::Zero, From::Row, From::Rows] {
        let flat = numbers.out.concat();
        let start = match from {
            From::Zero => Start::Zero,
            From::Row => Start::Row(&numbers.bias),
            From::Rows => Start::Rows(&flat),
        };
        let expected = numbers.chains(from);
        for backwards in [false, true] {
            for (left, name) in [
                (Left::Rows(&slices), "rows"),
                (Left::Spaced(&spaced, stride), "spaced"),
                (Left::Interleaved(&interleaved), "interleaved"),
            ] {
                // One call takes no more rows: `product` cuts them. Columns that are packed are not that deep.
                if rows > BLOCK_ROWS || depth > DEPTH && name == "interleaved" {
                    continue;
                }
                let product = Product { left, right: panel.all(), first: 7, rows, start, backwards };
                let out = collect(shape, columns, 7, |sums, sink| multiply(simd, product, sums, sink));
                assert_chains(&(shape, from, backwards, name), &out, &expected);
            }
            let out = collect(shape, columns, 0, |sums, sink| {
                product(simd, rows, |r| slices[r], panel.all(), (start, backwards), sums, sink);
            });
            assert_chains(&(shape, from, backwards, "product"), &out, &expected);
            if rows == 1 {
                for cut in [0, depth / 3, depth] {
                    let (one, two) = slices[0].split_at(cut);
                    let out = collect(shape, columns, 0, |sums, sink| {
                        row(simd, [one, two], panel.all(), (start, backwards), sums, sink);
                    });
                    assert_chains(&(shape, from, backwards, "in two parts", cut), &out, &expected);
                }
            }
        }
    }
    // By parts, each with columns of its own.
    let cut = panel.blocks() / 2;
    for blocks in [0..cut, cut..panel.blocks()] {
        let part = panel.part(&blocks);
        assert_eq!(part.first_column(), (blocks.start * width).min(vectors) * S::LANES);
        let own = part.first_column()..part.first_column() + part.vectors() * S::LANES;
        let expected: Vec<Vec<T>> = numbers.chains(From::Row).iter().map(|row| row[own.clone()].to_vec()).collect();
        let out = collect(shape, own.len(), 0, |sums, sink| {
            product(simd, rows, |r| slices[r], part, (Start::Row(&numbers.bias), false), sums, sink);
        });
        assert_chains(&(shape, blocks), &out, &expected);
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

struct Deep;

impl<T: Real> Job<T> for Deep {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for (rows, depth) in [(1, DEPTH + 1), (S::ROWS + 1, 2 * DEPTH), (BLOCK_ROWS + 1, DEPTH + 7)] {
            check(simd, Shape { rows, depth, vectors: 9, width: 4 });
        }
    }
}

fn deep_products_are_one_chain(isa: InstructionSet) {
    <f32 as Element>::dispatch(isa, Deep);
    <f64 as Element>::dispatch(isa, Deep);
}

struct Continued;

impl<T: Real> Job<T> for Continued {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for (rows, depth, cut) in [(1, 11, 4), (3, 11, 0), (8, 11, 11), (2, DEPTH + 100, 50)] {
            let shape = Shape { rows, depth, vectors: 9, width: 4 };
            let numbers = Numbers::<T>::new(shape, S::LANES, 42);
            let panel = numbers.panel(shape, S::LANES);
            let columns = 9 * S::LANES;
            // The first numbers of each chain, then the others: of one panel.
            let start = (Start::Row(&numbers.bias[..]), false);
            let before = collect(shape, columns, 0, |sums, sink| {
                product(simd, rows, |r| &numbers.left[r][..cut], panel.all().rows(0..cut), start, sums, sink);
            });
            let flat = before.concat();
            let after = panel.all().rows(cut..depth);
            let out = collect(shape, columns, 0, |sums, sink| {
                product(simd, rows, |r| &numbers.left[r][cut..], after, (Start::Rows(&flat), true), sums, sink);
            });
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
            let start = (Start::Zero, false);
            let out = collect(shape, 6 * S::LANES, 0, |sums, sink| {
                product(simd, 4, |r| &numbers.left[r], panel.all(), start, sums, sink);
            });
            assert_chains(&shape, &out, &numbers.chains(From::Zero));
        }
    }
}

fn a_panel_is_used_for_less(isa: InstructionSet) {
    <f32 as Element>::dispatch(isa, Less);
    <f64 as Element>::dispatch(isa, Less);
}

#[test]
#[should_panic(expected = "rows out of bounds")]
fn a_part_has_no_more_rows_than_its_panel() {
    let panel = Panel::<f32>::try_new(9, 6, 4, 8).unwrap();
    panel.all().rows(4..9).rows(0..6);
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
