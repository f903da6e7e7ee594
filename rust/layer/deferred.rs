//! The products that wait until the sweep backward is over: `d_x`, and what sums over time.
//!
//! The order of the sums is part of the bit contract. The valid steps in ascending index `t·N + n` (the same for any
//! layout and direction) form chains of fused multiply-adds, one for each [`CHAIN`] consecutive indices; the partial sums
//! are added in the order of the sweep, so from the last to the first, or with `reverse` from the first to the last. One
//! chain over all of them would be 15 to 20 times less accurate (measured over 93,440 steps), and chains of fixed places
//! can be shared out among threads.

use std::ops::Range;

use ndarray::{ArrayViewMut1, ArrayViewMut2};

use super::backward::Pass;
use super::outer::{Links, Outer};
use super::pack::{WIDTH, lanes};
use super::share::{Hand, Watch};
use super::{Backward, flat};
use crate::dims::{Dims, LayerDims};
use crate::error::{Error, Result};
use crate::kernel::pointwise;
use crate::kernel::tile::{BLOCK_ROWS, Panel, Sink, Start, product};
use crate::simd::memory::{RowsMut, try_resize};
use crate::simd::{Element, Lanes};
use crate::threads::Worker;

/// Indices `t·N + n` in one chain.
pub(super) const CHAIN: usize = 256;

impl<T: Element> Hand<T> {
    /// Room for a pass backward.
    pub(super) fn room(&mut self, weights: &Backward<T>, dims: &Dims) -> Result<()> {
        let Backward { w_ih, w_hh, w_hr, .. } = weights;
        let (layer, lanes) = (&dims.layer, lanes::<T>(weights.isa));
        let chain = CHAIN.min(dims.steps * dims.batch);
        let widest = w_hh.vectors().max(w_hr.as_ref().map_or(0, Panel::vectors));
        self.sums()?;
        self.left.resize(chain * layer.gate_rows().max(layer.output_size))?;
        self.right.reshape(chain, widest.max(w_ih.vectors()), WIDTH, lanes)?;
        self.hidden.resize(if w_hr.is_some() { chain * layer.hidden_size } else { 0 })?;
        self.column.resize(layer.gate_rows())?;
        try_resize(&mut self.cells, CHAIN.max(BLOCK_ROWS), (0, 0))
    }
}

/// `d_x = d_z W_ih`, for the valid steps: each worker makes some of its rows, or of its columns where these are few.
#[inline(always)]
pub(super) fn input_gradient<S: Lanes<T>, T: Element>(
    simd: S,
    pass: &Pass<'_, T>,
    worker: &Worker<'_>,
    steps: Range<usize>,
    hand: &mut Hand<T>,
) {
    let w_ih = &pass.weights.w_ih;
    let Some(dx) = pass.dx.as_ref().filter(|_| pass.dims.layer.input_size > 0) else {
        return;
    };
    // SAFETY: a worker writes blocks of rows, or of columns, of its own, and reads none.
    let mut dx = unsafe { dx.share() };
    let Hand { sums, cells, .. } = hand;
    let valid = pass.schedule.cells(steps.clone()).count();
    let by_rows = valid >= worker.count();
    let blocks = if by_rows { 0..w_ih.blocks() } else { worker.part(w_ih.blocks()) };
    let block = if by_rows { valid.div_ceil(worker.count()).clamp(1, BLOCK_ROWS) } else { BLOCK_ROWS };
    let right = w_ih.part(&blocks);
    let mut all = pass.schedule.cells(steps);
    let mut watch = Watch::new(&pass.stop, worker, false);
    for turn in 0.. {
        let mut count = 0;
        for (place, (t, j)) in cells[..block].iter_mut().zip(all.by_ref()) {
            *place = (t, pass.schedule.sequence(j));
            count += 1;
        }
        if count == 0 || watch.before(0) {
            return;
        }
        if by_rows && turn % worker.count() != worker.index() {
            continue;
        }
        let left = |r: usize| {
            let (t, n): (usize, usize) = cells[r];
            pass.d_z.row(pass.slot(t), n)
        };
        let (first, most) = (right.first_column(), pass.dims.layer.input_size);
        let mut write = Write { cells: &cells[..count], first, most, dx: &mut dx, watch: &mut watch };
        product(simd, count, left, right, (Start::Zero, turn / worker.count() % 2 == 1), sums, &mut write);
    }
}

/// Writes the inputs' gradients.
struct Write<'a, 'b, T> {
    /// Rows (t, n).
    cells: &'a [(usize, usize)],
    /// The first of the columns, and how many there are without the padding.
    first: usize,
    most: usize,
    dx: &'a mut RowsMut<'b, T>,
    watch: &'a mut Watch<'b>,
}

impl<S: Lanes<T>, T: Element> Sink<S, T> for Write<'_, '_, T> {
    #[inline(always)]
    fn stops(&mut self, work: usize) -> bool {
        self.watch.stops(work)
    }

    #[inline(always)]
    fn take(&mut self, simd: S, rows: Range<usize>, vectors: Range<usize>, product: &mut [S::A], _: &mut [S::A]) {
        let column = |vector: usize| (self.first + vector * S::LANES).min(self.most);
        let columns = column(vectors.start)..column(vectors.end);
        for (&(t, n), product) in self.cells[rows].iter().zip(product.chunks_exact(vectors.len())) {
            pointwise::store(simd, product, self.dx.part_mut(t, n, &columns));
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

/// The same, row by row.
pub(super) struct SumRows<'a, T> {
    w_ih: RowsMut<'a, T>,
    w_hh: RowsMut<'a, T>,
    /// One row.
    b: Option<RowsMut<'a, T>>,
    peephole: Option<RowsMut<'a, T>>,
    w_hr: Option<RowsMut<'a, T>>,
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
        let LayerDims { input_size, hidden_size, output_size, .. } = weights.dims;
        let (rows, peepholes) = (weights.dims.gate_rows(), weights.cell.peephole_rows().count);
        // What weights have, and nothing else.
        let fits = |got: Option<&[usize]>, there: bool, expected: &[usize]| got == there.then_some(expected);
        let all = fits(Some(w_ih.shape()), true, &[rows, input_size])
            && fits(Some(w_hh.shape()), true, &[rows, output_size])
            && fits(b.as_ref().map(|b| b.shape()), weights.bias, &[rows])
            && fits(peephole.as_ref().map(|p| p.shape()), peepholes > 0, &[peepholes, hidden_size])
            && fits(w_hr.as_ref().map(|w| w.shape()), weights.w_hr.is_some(), &[output_size, hidden_size]);
        if !all {
            return Err(Error::gradients());
        }
        Ok(Self {
            w_ih: flat("gradient of w_ih", w_ih.into_slice())?,
            w_hh: flat("gradient of w_hh", w_hh.into_slice())?,
            b: b.map(|b| flat("gradient of b", b.into_slice())).transpose()?,
            peephole: peephole.map(|p| flat("gradient of peephole", p.into_slice())).transpose()?,
            w_hr: w_hr.map(|w| flat("gradient of w_hr", w.into_slice())).transpose()?,
        })
    }

    /// Their rows.
    pub(super) fn rows(self, layer: &LayerDims) -> SumRows<'a, T> {
        SumRows {
            w_ih: RowsMut::flat(self.w_ih, layer.input_size),
            w_hh: RowsMut::flat(self.w_hh, layer.output_size),
            b: self.b.map(|b| RowsMut::flat(b, layer.gate_rows())),
            peephole: self.peephole.map(|peephole| RowsMut::flat(peephole, layer.hidden_size)),
            w_hr: self.w_hr.map(|w_hr| RowsMut::flat(w_hr, layer.hidden_size)),
        }
    }
}

impl<T: Element> Pass<'_, T> {
    /// Adds up the gradients of the weights, over the chains that end with the sweep of these steps: each worker those of
    /// its own gate rows and units. Is this the `first` of them?
    #[inline(always)]
    pub(super) fn sum<S: Lanes<T>>(
        &self,
        simd: S,
        worker: &Worker<'_>,
        steps: Range<usize>,
        hand: &mut Hand<T>,
        first: &mut bool,
    ) {
        let LayerDims { input_size, hidden_size, output_size, .. } = self.dims.layer;
        let cell_spec = self.weights.cell;
        let (rows, units) = (worker.part(self.dims.layer.gate_rows()), worker.part(hidden_size));
        // SAFETY: a worker writes rows or columns of its own, and reads what it wrote.
        let (mut w_ih, mut w_hh, mut b, mut peephole, mut w_hr) = unsafe {
            let SumRows { w_ih, w_hh, b, peephole, w_hr } = &self.sums;
            let b = b.as_ref().map(|b| b.share());
            let peephole = peephole.as_ref().map(|peephole| peephole.share());
            (w_ih.share(), w_hh.share(), b, peephole, w_hr.as_ref().map(|w_hr| w_hr.share()))
        };
        let Hand { sums, left, right, hidden, column, cells, .. } = hand;
        let mut watch = Watch::new(&self.stop, worker, false);
        for chain in self.chains(&steps) {
            let cells = match self.chain(chain, cells) {
                [] => continue,
                cells => cells,
            };
            if watch.before(0) {
                return;
            }
            let n = |&(_, j): &(usize, usize)| self.schedule.sequence(j);
            let d_z = Links::new(cells, |cell| &self.d_z.row(self.slot(cell.0), n(cell))[rows.clone()]);
            let mut outer = Outer::new::<S>(*first, &d_z, rows.len(), (left, right, sums), &mut watch);
            outer.add(simd, rows.clone(), &Links::new(cells, |cell| self.x.row(cell.0, n(cell))), &mut w_ih);
            outer.add(simd, rows.clone(), &Links::new(cells, |&(t, j)| self.r_before(t, j)), &mut w_hh);
            if let Some(b) = &mut b {
                let column = &mut column[..rows.len()];
                column.fill(T::ZERO);
                for d_z in &*d_z {
                    pointwise::accumulate(simd, d_z, None, column);
                }
                pointwise::accumulate(simd, column, None, b.part_mut(0, 0, &rows));
            }
            if let Some(peephole) = &mut peephole {
                let (gates, looks) = (cell_spec.gate_rows(), cell_spec.peephole_rows());
                for (gate, look, after) in
                    [(gates.i, looks.i, false), (gates.f, looks.f, false), (gates.o, looks.o, true)]
                {
                    let (Some(gate), Some(look)) = (gate, look) else {
                        continue;
                    };
                    let column = &mut column[..units.len()];
                    column.fill(T::ZERO);
                    for cell @ &(t, j) in cells {
                        let c = if after { self.c.row(t, n(cell)) } else { self.c_before(&self.schedule, t, j) };
                        let d_z = &self.d_z.row(self.slot(t), n(cell))[gate * hidden_size..][units.clone()];
                        pointwise::accumulate(simd, d_z, Some(&c[units.clone()]), column);
                    }
                    pointwise::accumulate(simd, column, None, peephole.part_mut(0, look, &units));
                }
            }
            if let Some(w_hr) = w_hr.as_mut().filter(|_| !units.is_empty()) {
                for (cell, h) in cells.iter().zip(hidden.chunks_exact_mut(units.len())) {
                    let gates = self.gates.groups(cell.0, self.dims.layer.gates, &units);
                    let c = self.c.columns(cell.0, &units);
                    pointwise::hidden_again(simd, cell_spec, &gates, &c, n(cell), h);
                }
                let d_r = Links::new(cells, |cell| self.d_r.row(self.slot(cell.0), n(cell)));
                let mut hidden = hidden.chunks_exact(units.len());
                let h = Links::new(cells, |_| hidden.next().expect("a row for each"));
                let mut outer = Outer::new::<S>(*first, &d_r, output_size, (left, right, sums), &mut watch);
                outer.add_columns(simd, 0..output_size, &h, units.clone(), w_hr);
            }
            *first = false;
        }
        if steps.start == 0 && *first {
            for row in rows.clone() {
                w_hh.part_mut(0, row, &(0..output_size)).fill(T::ZERO);
                if input_size > 0 {
                    w_ih.part_mut(0, row, &(0..input_size)).fill(T::ZERO);
                }
            }
            if let Some(w_hr) = &mut w_hr {
                (0..output_size).for_each(|row| w_hr.part_mut(0, row, &units).fill(T::ZERO));
            }
        }
    }

    /// The chains whose last step to be swept is one of these, in the order of the sweep.
    fn chains(&self, steps: &Range<usize>) -> impl Iterator<Item = usize> + use<T> {
        let (all, batch) = (self.schedule.steps(), self.dims.batch);
        let reverse = self.schedule.runs_back();
        // How many chains have been swept when `left` steps are left.
        let swept = |left: usize| match reverse {
            _ if left == 0 => (all * batch).div_ceil(CHAIN),
            true => (all - left) * batch / CHAIN,
            false => (all * batch).div_ceil(CHAIN) - (left * batch).div_ceil(CHAIN),
        };
        let count = swept(0);
        (swept(steps.end)..swept(steps.start)).map(move |k| if reverse { k } else { count - 1 - k })
    }

    /// The valid steps `(t, j)` of a chain, in ascending index `t·N + n`.
    fn chain<'c>(&self, chain: usize, cells: &'c mut [(usize, usize)]) -> &'c [(usize, usize)] {
        let Dims { steps, batch, .. } = self.dims;
        let mut count = 0;
        for index in chain * CHAIN..((chain + 1) * CHAIN).min(steps * batch) {
            let (t, j) = (index / batch, self.place[index % batch]);
            if j < self.schedule.active(t) {
                cells[count] = (t, j);
                count += 1;
            }
        }
        &cells[..count]
    }
}
