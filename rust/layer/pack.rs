//! Weights in the order in which the tile reads them, made once and used by many calls.

use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ndarray::{ArrayView2, Axis};

use super::share::{Cancel, Stop};
use super::{Control, Weights};
use crate::cell::CellSpec;
use crate::dims::LayerDims;
use crate::error::{Error, Result};
use crate::kernel::tile::Panel;
use crate::simd::memory::{Aligned, Rows};
use crate::simd::{Element, InstructionSet, Job, Lanes};
use crate::threads::{share, worthwhile};

/// Vectors in a block where the width is free: the tile's largest.
pub(super) const WIDTH: usize = 4;

/// The weights of a pass forward.
#[derive(Debug)]
pub struct Forward<T> {
    pub(super) isa: InstructionSet,
    pub(super) cell: CellSpec,
    pub(super) dims: LayerDims,
    /// W_ih and behind it W_hh: blocks of units, a vector for each gate; I + P deep.
    pub(super) w: Panel<T>,
    /// `[block][gate][lanes]`, zeros where there is none.
    pub(super) b: Aligned<T>,
    pub(super) peephole: Aligned<T>,
    /// Blocks of outputs.
    pub(super) w_hr: Option<Panel<T>>,
    /// How many steps they have run: whether even or odd says from which end the next call reads them.
    pub(super) steps: AtomicUsize,
}

/// The weights of a pass backward.
#[derive(Debug)]
pub struct Backward<T> {
    pub(super) isa: InstructionSet,
    pub(super) cell: CellSpec,
    pub(super) dims: LayerDims,
    /// Blocks of columns, a row for each gate row: `d_x = d_z W_ih`.
    pub(super) w_ih: Panel<T>,
    /// `d_h = d_z W_hh`
    pub(super) w_hh: Panel<T>,
    /// `[block][peephole][lanes]`
    pub(super) peephole: Aligned<T>,
    /// `d_h = d_r W_hr`
    pub(super) w_hr: Option<Panel<T>>,
    pub(super) bias: bool,
}

impl<T: Element> Forward<T> {
    /// Packs the weights; the error says what is wrong with them.
    pub fn new(isa: InstructionSet, cell: CellSpec, weights: &Weights<'_, T>) -> Result<Self> {
        Self::with(isa, cell, weights, &Control { threads: 1, cancel: &|| false })
    }

    /// The same, as `control` says.
    pub fn with(isa: InstructionSet, cell: CellSpec, weights: &Weights<'_, T>, control: &Control<'_>) -> Result<Self> {
        let dims = weights.dims(cell)?;
        let lanes = lanes::<T>(isa);
        let hidden = dims.hidden_size;
        // Vector v of a row: gate v % G of the units of block v / G.
        let gates = Interleave { lanes, groups: dims.gates, group_rows: hidden };
        let b = weights.b.as_ref().map(|b| b.insert_axis(Axis(1)));
        Ok(Self {
            isa,
            cell,
            dims,
            w: gates.panel(&[("w_ih", weights.w_ih), ("w_hh", weights.w_hh)], dims.gates, control)?,
            b: match b {
                Some(b) => gates.vectors("b", b)?,
                None => Aligned::try_zeroed(gates.count() * lanes)?,
            },
            peephole: peepholes(lanes, cell, weights)?,
            w_hr: match weights.w_hr {
                Some(w_hr) => {
                    let outputs = Interleave { lanes, groups: 1, group_rows: dims.output_size };
                    Some(outputs.panel(&[("w_hr", w_hr)], WIDTH, control)?)
                }
                None => None,
            },
            steps: AtomicUsize::new(0),
        })
    }

    /// The sizes.
    pub fn dims(&self) -> LayerDims {
        self.dims
    }

    /// The cell.
    pub fn cell(&self) -> CellSpec {
        self.cell
    }
}

impl<T: Element> Backward<T> {
    /// Packs the weights; the error says what is wrong with them.
    pub fn new(isa: InstructionSet, cell: CellSpec, weights: &Weights<'_, T>) -> Result<Self> {
        Self::with(isa, cell, weights, &Control { threads: 1, cancel: &|| false })
    }

    /// The same, as `control` says.
    pub fn with(isa: InstructionSet, cell: CellSpec, weights: &Weights<'_, T>, control: &Control<'_>) -> Result<Self> {
        let dims = weights.dims(cell)?;
        cell.check_gradient()?;
        let lanes = lanes::<T>(isa);
        Ok(Self {
            isa,
            cell,
            dims,
            w_ih: columns("w_ih", lanes, weights.w_ih, control)?,
            w_hh: columns("w_hh", lanes, weights.w_hh, control)?,
            peephole: peepholes(lanes, cell, weights)?,
            w_hr: weights.w_hr.map(|w_hr| columns("w_hr", lanes, w_hr, control)).transpose()?,
            bias: weights.b.is_some(),
        })
    }

    /// The sizes.
    pub fn dims(&self) -> LayerDims {
        self.dims
    }

    /// The cell.
    pub fn cell(&self) -> CellSpec {
        self.cell
    }

    /// Do the weights have a bias?
    pub fn has_bias(&self) -> bool {
        self.bias
    }

    /// Is the hidden state projected?
    pub fn is_projected(&self) -> bool {
        self.w_hr.is_some()
    }
}

/// How many numbers a vector of `isa` has.
pub(super) fn lanes<T: Element>(isa: InstructionSet) -> usize {
    struct Count;
    impl<T: Element> Job<T> for Count {
        type Output = usize;
        #[inline(always)]
        fn run<S: Lanes<T>>(self, _: S) -> usize {
            S::LANES
        }
    }
    T::dispatch(isa, Count)
}

fn peepholes<T: Element>(lanes: usize, cell: CellSpec, weights: &Weights<'_, T>) -> Result<Aligned<T>> {
    let Some(peephole) = weights.peephole else {
        return Aligned::try_zeroed(0);
    };
    let (groups, hidden) = (cell.peephole_rows().count, peephole.ncols());
    let flat = peephole.to_shape((groups * hidden, 1)).expect("as many numbers");
    Interleave { lanes, groups, group_rows: hidden }.vectors("peephole", flat.view())
}

/// The rows of a matrix as columns of vectors: vector `v` holds the units of block `v / groups` of group `v % groups`.
#[derive(Clone, Copy)]
pub(super) struct Interleave {
    pub(super) lanes: usize,
    pub(super) groups: usize,
    pub(super) group_rows: usize,
}

impl Interleave {
    /// How many vectors there are.
    fn count(&self) -> usize {
        self.group_rows.div_ceil(self.lanes) * self.groups
    }

    /// A panel whose depth is the columns of matrices side by side.
    pub(super) fn panel<T: Element>(
        &self,
        matrices: &[(&str, ArrayView2<'_, T>)],
        width: usize,
        control: &Control<'_>,
    ) -> Result<Panel<T>> {
        let matrices = matrices.iter().map(|(name, matrix)| Ok((matrix.ncols(), rows(name, *matrix)?)));
        let matrices = matrices.collect::<Result<Vec<_>>>()?;
        let depth = matrices.iter().map(|(columns, _)| columns).sum();
        let mut panel = Panel::try_new(depth, self.count(), width, self.lanes)?;
        each_block(&mut panel, control, |first, width, mut numbers| {
            for (columns, matrix) in &matrices {
                let (own, others) = numbers.split_at_mut(columns * width * self.lanes);
                self.fill(*matrix, first, width, own);
                numbers = others;
            }
        })?;
        Ok(panel)
    }

    /// The only column of a matrix, as vectors.
    pub(super) fn vectors<T: Element>(&self, name: &str, column: ArrayView2<'_, T>) -> Result<Aligned<T>> {
        let mut vectors = Aligned::try_zeroed(self.count() * self.lanes)?;
        self.fill(rows(name, column)?, 0, self.count(), &mut vectors);
        Ok(vectors)
    }

    /// Vectors `first..first + width` at every depth: `[k][width][lanes]`.
    fn fill<T: Element>(&self, matrix: Rows<'_, T>, first: usize, width: usize, numbers: &mut [T]) {
        for w in 0..width {
            let unit = (first + w) / self.groups * self.lanes;
            let row = (first + w) % self.groups * self.group_rows + unit;
            let mut rows: [&[T]; MOST_LANES] = [&[]; MOST_LANES];
            let rows = &mut rows[..self.lanes.min(self.group_rows - unit)];
            for (lane, place) in rows.iter_mut().enumerate() {
                *place = matrix.row(0, row + lane);
            }
            let (stride, from) = (width * self.lanes, w * self.lanes);
            match self.lanes {
                16 if rows.len() == 16 => transpose::<T, 16>(rows, numbers, stride, from),
                8 if rows.len() == 8 => transpose::<T, 8>(rows, numbers, stride, from),
                4 if rows.len() == 4 => transpose::<T, 4>(rows, numbers, stride, from),
                lanes => transpose_from(0, rows, lanes, numbers, stride, from),
            }
        }
    }
}

/// Column k of L rows to `numbers` from `k * stride + from` on.
///
/// Some columns at a time, by way of registers: a read of each row and a write of each column for all of them. Of 98,000
/// numbers it takes 0.43 of the time that number by number does, of two million 0.68, measured.
fn transpose<T: Element, const L: usize>(rows: &[&[T]], numbers: &mut [T], stride: usize, from: usize) {
    const COLUMNS: usize = 16;
    let columns = rows[0].len();
    for k in 0..columns / COLUMNS {
        let mut tile = [[T::ZERO; L]; COLUMNS];
        for (lane, row) in rows.iter().enumerate().take(L) {
            let read = row[k * COLUMNS..].first_chunk::<COLUMNS>().expect("so many columns");
            for (column, &number) in tile.iter_mut().zip(read) {
                column[lane] = number;
            }
        }
        for (place, column) in numbers[k * COLUMNS * stride..].chunks_exact_mut(stride).zip(&tile) {
            *place[from..].first_chunk_mut::<L>().expect("so many lanes") = *column;
        }
    }
    transpose_from(columns / COLUMNS * COLUMNS, rows, L, numbers, stride, from);
}

/// The same from column `first` on, number by number, of any number of rows up to `lanes`; 0 in the place of others.
fn transpose_from<T: Element>(
    first: usize,
    rows: &[&[T]],
    lanes: usize,
    numbers: &mut [T],
    stride: usize,
    from: usize,
) {
    for (k, places) in numbers.chunks_exact_mut(stride).enumerate().skip(first) {
        let (places, padding) = places[from..][..lanes].split_at_mut(rows.len());
        for (place, row) in places.iter_mut().zip(rows) {
            *place = row[k];
        }
        padding.fill(T::ZERO);
    }
}

/// The most numbers that a vector of any instruction set has.
const MOST_LANES: usize = 16;

/// Fills a panel block by block: of each the first vector, the width and the numbers. Large ones are shared out: each step
/// of a training packs anew.
fn each_block<T: Element>(
    panel: &mut Panel<T>,
    control: &Control<'_>,
    fill: impl Fn(usize, usize, &mut [T]) + Sync,
) -> Result<()> {
    // In caches half a nanosecond a number, measured.
    let estimate = Duration::from_nanos((panel.bytes() / size_of::<T>() / 2) as u64);
    let threads = worthwhile(control.threads, estimate).min(panel.blocks());
    let cancel = Cancel::new(control);
    if threads <= 1 {
        for (first, width, numbers) in panel.blocks_mut() {
            if cancel.said() {
                return Err(Error::Cancelled);
            }
            fill(first, width, numbers);
        }
        return Ok(());
    }
    let (count, mut blocks) = (panel.blocks(), Vec::new());
    let memory = |_| Error::Memory(count * size_of::<Mutex<(usize, usize, &mut [T])>>());
    blocks.try_reserve_exact(count).map_err(memory)?;
    blocks.extend(panel.blocks_mut().map(Mutex::new));
    let stop = Stop::new(&cancel);
    share(&mut vec![(); threads], |worker, ()| {
        for block in &blocks[worker.part(blocks.len())] {
            if stop.before(worker, 0, false) {
                return;
            }
            let (first, width, numbers) = &mut *block.lock().unwrap_or_else(PoisonError::into_inner);
            fill(*first, *width, numbers);
        }
    });
    stop.outcome()
}

/// The columns of a matrix as columns of vectors; the depth is the matrix' rows.
pub(super) fn columns<T: Element>(
    name: &str,
    lanes: usize,
    matrix: ArrayView2<'_, T>,
    control: &Control<'_>,
) -> Result<Panel<T>> {
    let (depth, columns) = matrix.dim();
    let matrix = rows(name, matrix)?;
    let mut panel = Panel::try_new(depth, columns.div_ceil(lanes), WIDTH, lanes)?;
    each_block(&mut panel, control, |first, width, numbers| {
        let columns = first * lanes..columns.min((first + width) * lanes);
        for (k, places) in numbers.chunks_exact_mut(width * lanes).enumerate() {
            let (places, padding) = places.split_at_mut(columns.len());
            places.copy_from_slice(&matrix.row(0, k)[columns.clone()]);
            padding.fill(T::ZERO);
        }
    })?;
    Ok(panel)
}

/// The rows of a matrix.
fn rows<'a, T>(name: &str, matrix: ArrayView2<'a, T>) -> Result<Rows<'a, T>> {
    Rows::new(name, matrix.insert_axis(Axis(0)))
}
