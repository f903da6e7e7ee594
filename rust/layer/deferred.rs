//! The products that wait until the sweep backward is over: `d_x`, and what sums over time.
//!
//! The order of the sums is part of the bit contract. The valid steps in ascending index `t·N + n` (the same for any
//! layout and direction) form chains of fused multiply-adds, one for each [`CHAIN`] consecutive indices; the partial sums
//! are added in ascending order. One chain over all of them would be 15 to 20 times less accurate (measured over 93,440
//! steps), and chains of fixed places can be shared out among threads.

use ndarray::{ArrayViewMut1, ArrayViewMut2};

use super::backward::Pass;
use super::pack::WIDTH;
use super::{Backward, flat};
use crate::dims::Dims;
use crate::error::{Error, Result};
use crate::kernel::pointwise;
use crate::kernel::tile::{BLOCK_ROWS, Left, Panel, Start, balanced, multiply, product};
use crate::simd::memory::{Aligned, RowsMut, try_vec};
use crate::simd::{Element, Lanes};

/// Indices `t·N + n` in one chain.
const CHAIN: usize = 256;

/// `d_x = d_z W_ih`, for the valid steps.
#[inline(always)]
pub(super) fn input_gradient<S: Lanes<T>, T: Element>(
    simd: S,
    pass: &Pass<'_, T>,
    d_z: &[T],
    mut dx: RowsMut<'_, T>,
) -> Result<()> {
    let w_ih = &pass.weights.w_ih;
    let (width, rows) = (pass.dims.layer.input_size, pass.dims.layer.gate_rows());
    let row = w_ih.vectors() * S::LANES;
    if width == 0 {
        return Ok(());
    }
    let mut scratch = Aligned::try_zeroed(BLOCK_ROWS * row)?;
    let mut cells = [(0, 0); BLOCK_ROWS];
    let mut all = pass.schedule.cells(0..pass.schedule.steps());
    loop {
        let mut count = 0;
        for (place, (t, j)) in cells.iter_mut().zip(all.by_ref()) {
            *place = (t, pass.schedule.sequence(j));
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        if (pass.cancel)() {
            return Err(Error::Cancelled);
        }
        let left = |r: usize| &d_z[pass.place(cells[r].0, cells[r].1, rows)];
        product(simd, count, left, w_ih, Start::Zero, &mut scratch);
        for (&(t, n), scratch) in cells[..count].iter().zip(scratch.chunks_exact(row)) {
            dx.row_mut(t, n).copy_from_slice(&scratch[..width]);
        }
    }
}

/// The gradients of the weights, which sum over time and batch.
pub(super) struct Sums<'a, T> {
    w_ih: &'a mut [T],
    w_hh: &'a mut [T],
    b: Option<&'a mut [T]>,
    peephole: Option<&'a mut [T]>,
    w_hr: Option<&'a mut [T]>,
}

impl<'a, T: Element> Sums<'a, T> {
    /// Checks the room for them.
    pub(super) fn new(
        weights: &Backward<T>,
        w_ih: ArrayViewMut2<'a, T>,
        w_hh: ArrayViewMut2<'a, T>,
        b: Option<ArrayViewMut1<'a, T>>,
        peephole: Option<ArrayViewMut2<'a, T>>,
        w_hr: Option<ArrayViewMut2<'a, T>>,
    ) -> Result<Self> {
        let dims = weights.dims;
        let (rows, hidden, output) = (dims.gate_rows(), dims.hidden_size, dims.output_size);
        let peepholes = weights.cell.peephole_rows().count;
        let sums = Self {
            w_ih: flat("gradient of w_ih", w_ih.into_slice())?,
            w_hh: flat("gradient of w_hh", w_hh.into_slice())?,
            b: b.map(|b| flat("gradient of b", b.into_slice())).transpose()?,
            peephole: peephole.map(|p| flat("gradient of peephole", p.into_slice())).transpose()?,
            w_hr: w_hr.map(|w| flat("gradient of w_hr", w.into_slice())).transpose()?,
        };
        let lengths = [
            (sums.w_ih.len(), rows * dims.input_size),
            (sums.w_hh.len(), rows * output),
            (sums.b.as_ref().map_or(0, |b| b.len()), if weights.bias { rows } else { 0 }),
            (sums.peephole.as_ref().map_or(0, |p| p.len()), peepholes * hidden),
            (sums.w_hr.as_ref().map_or(0, |w| w.len()), if weights.w_hr.is_some() { output * hidden } else { 0 }),
        ];
        match lengths.iter().all(|(got, expected)| got == expected) {
            true => Ok(sums),
            false => Err(Error::gradients()),
        }
    }

    /// Adds them up, chain by chain.
    #[inline(always)]
    pub(super) fn run<S: Lanes<T>>(mut self, simd: S, pass: &Pass<'_, T>, d_z: &[T], d_r: &[T]) -> Result<()> {
        let Dims { steps, batch, layer, .. } = pass.dims;
        let (rows, hidden, output) = (layer.gate_rows(), layer.hidden_size, layer.output_size);
        let most = CHAIN.min(steps * batch);
        let mut cells = try_vec(most, (0, 0))?;
        let mut w_ih = Product::new::<S>(most, rows, layer.input_size)?;
        let mut w_hh = Product::new::<S>(most, rows, output)?;
        let mut w_hr = match self.w_hr {
            Some(_) => Some((Product::new::<S>(most, output, hidden)?, try_vec(most * hidden, T::ZERO)?)),
            None => None,
        };
        let mut left = try_vec(most * rows.max(output), T::ZERO)?;
        let mut column = try_vec(rows, T::ZERO)?;
        let mut chains = Chains::new(pass)?;
        while let Some(count) = chains.next(&mut cells) {
            if (pass.cancel)() {
                return Err(Error::Cancelled);
            }
            let cells = &cells[..count];
            let d_z_row = |&(t, j): &(usize, usize)| &d_z[pass.place(t, pass.schedule.sequence(j), rows)];
            interleave::<S, T>(cells.iter().map(d_z_row), rows, &mut left);
            w_ih.add(simd, &left, cells.iter().map(|&(t, j)| pass.x.row(t, pass.schedule.sequence(j))), self.w_ih);
            w_hh.add(simd, &left, cells.iter().map(|&(t, j)| pass.r_before(t, j)), self.w_hh);
            if let Some(b) = &mut self.b {
                column.fill(T::ZERO);
                for cell in cells {
                    pointwise::accumulate(simd, d_z_row(cell), None, &mut column);
                }
                pointwise::accumulate(simd, &column, None, b);
            }
            if let Some(peephole) = &mut self.peephole {
                let (gates, looks) = (pass.weights.cell.gate_rows(), pass.weights.cell.peephole_rows());
                for (gate, look, after) in
                    [(gates.i, looks.i, false), (gates.f, looks.f, false), (gates.o, looks.o, true)]
                {
                    let (Some(gate), Some(look)) = (gate, look) else {
                        continue;
                    };
                    let column = &mut column[..hidden];
                    column.fill(T::ZERO);
                    for cell @ &(t, j) in cells {
                        let c = if after { pass.c.row(t, pass.schedule.sequence(j)) } else { pass.c_before(t, j) };
                        pointwise::accumulate(simd, &d_z_row(cell)[gate * hidden..][..hidden], Some(c), column);
                    }
                    pointwise::accumulate(simd, column, None, &mut peephole[look * hidden..][..hidden]);
                }
            }
            if let (Some((product, again)), Some(w_hr)) = (&mut w_hr, &mut self.w_hr) {
                for (&(t, j), h) in cells.iter().zip(again.chunks_exact_mut(hidden)) {
                    let n = pass.schedule.sequence(j);
                    pointwise::hidden_again(simd, pass.weights.cell, pass.gates.row(t, n), pass.c.row(t, n), h);
                }
                let d_r_row = |&(t, j): &(usize, usize)| &d_r[pass.place(t, pass.schedule.sequence(j), output)];
                interleave::<S, T>(cells.iter().map(d_r_row), output, &mut left);
                product.add(simd, &left, again.chunks_exact(hidden).take(count), w_hr);
            }
        }
        Ok(())
    }
}

/// The valid steps `(t, j)` in ascending index `t·N + n`, chain by chain.
struct Chains<'a, T> {
    pass: &'a Pass<'a, T>,
    /// The place in the order of sequence `n`.
    place: Vec<usize>,
    next: usize,
}

impl<'a, T: Element> Chains<'a, T> {
    fn new(pass: &'a Pass<'a, T>) -> Result<Self> {
        let mut place = try_vec(pass.dims.batch, 0)?;
        for j in 0..place.len() {
            place[pass.schedule.sequence(j)] = j;
        }
        Ok(Self { pass, place, next: 0 })
    }

    /// Fills in the next chain that has steps, and says how many.
    fn next(&mut self, cells: &mut [(usize, usize)]) -> Option<usize> {
        let Dims { steps, batch, .. } = self.pass.dims;
        while self.next < steps * batch {
            let end = (self.next + CHAIN).min(steps * batch);
            let mut count = 0;
            for index in self.next..end {
                let (t, j) = (index / batch, self.place[index % batch]);
                if j < self.pass.schedule.active(t) {
                    cells[count] = (t, j);
                    count += 1;
                }
            }
            self.next = end;
            if count > 0 {
                return Some(count);
            }
        }
        None
    }
}

/// Rows of a left operand as columns of its tiles: `[k][R]` for each tile of R of the `width` columns.
#[inline(always)]
fn interleave<'a, S: Lanes<T>, T: Element>(rows: impl ExactSizeIterator<Item = &'a [T]>, width: usize, left: &mut [T]) {
    let depth = rows.len();
    for (k, row) in rows.enumerate() {
        for (first, count) in balanced(width, S::ROWS) {
            let (from, to) = (&row[first..], &mut left[first * depth + k * count..]);
            // Of a length that the compiler knows: a call for so few numbers costs more than the copy.
            match count {
                6 => copy::<T, 6>(from, to),
                5 => copy::<T, 5>(from, to),
                4 => copy::<T, 4>(from, to),
                3 => copy::<T, 3>(from, to),
                2 => copy::<T, 2>(from, to),
                _ => to[..count].copy_from_slice(&from[..count]),
            }
        }
    }
}

/// The first N numbers.
#[inline(always)]
fn copy<T: Copy, const N: usize>(from: &[T], to: &mut [T]) {
    to[..N].copy_from_slice(&from[..N]);
}

/// A sum of outer products, chain by chain.
struct Product<T> {
    /// How many rows the sum has.
    rows: usize,
    /// And how many columns.
    columns: usize,
    right: Panel<T>,
    /// A chain's part of a block of rows.
    part: Aligned<T>,
}

impl<T: Element> Product<T> {
    fn new<S: Lanes<T>>(depth: usize, rows: usize, columns: usize) -> Result<Self> {
        let right = Panel::try_new(depth, columns.div_ceil(S::LANES), WIDTH, S::LANES)?;
        let part = Aligned::try_zeroed(S::ROWS * right.vectors() * S::LANES)?;
        Ok(Self { rows, columns, right, part })
    }

    /// `sum += left' right`, where both have a row for each step of the chain.
    #[inline(always)]
    fn add<'a, S: Lanes<T>>(
        &mut self,
        simd: S,
        left: &[T],
        right: impl ExactSizeIterator<Item = &'a [T]> + Clone,
        sum: &mut [T],
    ) {
        if self.columns == 0 {
            return;
        }
        let depth = right.len();
        self.right.set_depth(depth);
        for (first, width, numbers) in self.right.blocks_mut() {
            let columns = first * S::LANES..self.columns.min((first + width) * S::LANES);
            for (row, place) in right.clone().zip(numbers.chunks_exact_mut(width * S::LANES)) {
                let (used, rest) = place.split_at_mut(columns.len());
                used.copy_from_slice(&row[columns.clone()]);
                rest.fill(T::ZERO);
            }
        }
        let row = self.right.vectors() * S::LANES;
        for (first, count) in balanced(self.rows, S::ROWS) {
            let left = Left::Interleaved(&left[first * depth..]);
            multiply(simd, left, count, &self.right, Start::Zero, &mut self.part);
            let sum = &mut sum[first * self.columns..][..count * self.columns];
            for (sum, part) in sum.chunks_exact_mut(self.columns).zip(self.part.chunks_exact(row)) {
                pointwise::accumulate(simd, &part[..self.columns], None, sum);
            }
        }
    }
}
