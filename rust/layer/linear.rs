//! A linear read-out of every row, `y = x Wᵀ + b`, and its gradients.
//!
//! It runs between the passes of a training step, so it is made of what they are made of. NumPy's own product would leave
//! the threads of its BLAS spinning on the CPUs that the next pass wants: a step with T, N, I, H = 50, 32, 16, 128 and 64
//! outputs then takes 9.5 ms in the place of 4.0, on two threads, measured. And these have the same bits everywhere.
//!
//! Each `y` and each `d_x` is one chain of fused multiply-adds in ascending k, `y` from the bias on. What sums over rows,
//! `d_W` and `d_b`, is chains over [`CHAIN`] consecutive rows, whose sums are added in ascending order.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis};

use super::deferred::CHAIN;
use super::outer::{Links, Outer};
use super::pack::{Interleave, WIDTH, columns, lanes};
use super::share::{Cancel, Hand, Stop, Watch, Workspace, threads};
use super::{Control, flat};
use crate::error::{Error, Result};
use crate::kernel::pointwise;
use crate::kernel::tile::{BLOCK_ROWS, Panel, Sink, Start, product};
use crate::simd::memory::{Rows, RowsMut};
use crate::simd::{Element, InstructionSet, Job, Lanes};
use crate::threads::{self as team, Worker};

/// The weights, O outputs of I inputs.
#[derive(Clone, Debug)]
pub struct Linear<'a, T> {
    isa: InstructionSet,
    weight: ArrayView2<'a, T>,
    bias: Option<ArrayView1<'a, T>>,
}

/// Where a pass backward writes.
#[derive(Debug)]
pub struct LinearGradients<'a, T> {
    /// (M, I), if it is wanted.
    pub x: Option<ArrayViewMut2<'a, T>>,
    /// (O, I)
    pub weight: ArrayViewMut2<'a, T>,
    /// (O,), if there is a bias.
    pub bias: Option<ArrayViewMut1<'a, T>>,
}

impl<'a, T: Element> Linear<'a, T> {
    /// Of weight (O, I) and bias (O,); the error says what is wrong with them.
    pub fn new(isa: InstructionSet, weight: ArrayView2<'a, T>, bias: Option<ArrayView1<'a, T>>) -> Result<Self> {
        if let Some(bias) = &bias {
            check("bias", &[weight.nrows()], bias.shape())?;
        }
        Ok(Self { isa, weight, bias })
    }

    /// How long one thread takes for so many rows, in nanoseconds, about; a pass backward takes twice as long.
    pub fn nanoseconds(&self, rows: usize) -> f64 {
        // 80 GFLOP/s in f32.
        (rows * self.weight.len() * size_of::<T>()) as f64 / 160.0
    }

    /// `y = x Wᵀ + b` for x (M, I), y (M, O).
    ///
    /// # Errors
    /// Shapes that do not fit, no memory, or `control` said stop.
    pub fn forward(
        &self,
        workspace: &mut Workspace<T>,
        x: ArrayView2<'_, T>,
        y: ArrayViewMut2<'_, T>,
        control: &Control<'_>,
    ) -> Result<()> {
        let (outputs, inputs) = self.weight.dim();
        let rows = x.nrows();
        check("x", &[rows, inputs], x.shape())?;
        check("y", &[rows, outputs], y.shape())?;
        let threads = threads(control, self.nanoseconds(rows)).min(rows).max(1);
        let outputs = Interleave { lanes: lanes::<T>(self.isa), groups: 1, group_rows: outputs };
        let packing = Control { threads, ..*control };
        let panel = outputs.panel(&[("weight", self.weight)], WIDTH, &packing)?;
        let bias = self.bias.map(|bias| outputs.vectors("bias", bias.insert_axis(Axis(1)))).transpose()?;
        let cancel = Cancel::new(control);
        let pass = RowsPass {
            left: Rows::new("x", x.insert_axis(Axis(0)))?,
            right: &panel,
            start: bias.as_ref().map_or(Start::Zero, |bias| Start::Row(bias)),
            count: rows,
            columns: self.weight.nrows(),
            out: RowsMut::new("y", y.insert_axis(Axis(0)))?,
            stop: Stop::new(&cancel),
        };
        let hands = Workspace::hands(&mut workspace.hands, threads)?;
        hands.iter_mut().try_for_each(Hand::sums)?;
        team::share(hands, |worker, hand| T::dispatch(self.isa, RowsShare { pass: &pass, worker, hand }));
        pass.stop.outcome()
    }

    /// The gradients, of the loss with respect to `y` being dy (M, O).
    ///
    /// # Errors
    /// As in [`Linear::forward`].
    pub fn backward(
        &self,
        workspace: &mut Workspace<T>,
        x: ArrayView2<'_, T>,
        dy: ArrayView2<'_, T>,
        out: LinearGradients<'_, T>,
        control: &Control<'_>,
    ) -> Result<()> {
        let (outputs, inputs) = self.weight.dim();
        let rows = x.nrows();
        check("x", &[rows, inputs], x.shape())?;
        check("dy", &[rows, outputs], dy.shape())?;
        check("gradient of weight", &[outputs, inputs], out.weight.shape())?;
        let threads = threads(control, 2.0 * self.nanoseconds(rows)).max(1);
        let hands = Workspace::hands(&mut workspace.hands, threads)?;
        let (chain, lanes) = (CHAIN.min(rows), lanes::<T>(self.isa));
        for hand in &mut *hands {
            hand.sums()?;
            hand.left.resize(chain * outputs)?;
            hand.right.reshape(chain, inputs.div_ceil(lanes), WIDTH, lanes)?;
            hand.column.resize(outputs)?;
        }
        let cancel = Cancel::new(control);
        if let Some(dx) = out.x {
            check("gradient of x", &[rows, inputs], dx.shape())?;
            let panel = columns("weight", lanes, self.weight, &Control { threads, ..*control })?;
            let pass = RowsPass {
                left: Rows::new("dy", dy.insert_axis(Axis(0)))?,
                right: &panel,
                start: Start::Zero,
                count: rows,
                columns: inputs,
                out: RowsMut::new("gradient of x", dx.insert_axis(Axis(0)))?,
                stop: Stop::new(&cancel),
            };
            team::share(hands, |worker, hand| T::dispatch(self.isa, RowsShare { pass: &pass, worker, hand }));
            pass.stop.outcome()?;
        }
        let bias = out.bias.map(|bias| flat("gradient of bias", bias.into_slice())).transpose()?;
        if let Some(bias) = &bias {
            check("gradient of bias", &[outputs], &[bias.len()])?;
        }
        let pass = SumPass {
            x: Rows::new("x", x.insert_axis(Axis(0)))?,
            dy: Rows::new("dy", dy.insert_axis(Axis(0)))?,
            rows,
            outputs,
            inputs,
            weight: RowsMut::flat(flat("gradient of weight", out.weight.into_slice())?, inputs),
            // Without outputs it would be a row of nothing, which is none.
            bias: bias.filter(|bias| !bias.is_empty()).map(|bias| RowsMut::flat(bias, outputs)),
            stop: Stop::new(&cancel),
        };
        team::share(hands, |worker, hand| T::dispatch(self.isa, SumShare { pass: &pass, worker, hand }));
        pass.stop.outcome()
    }
}

fn check(name: &str, expected: &[usize], got: &[usize]) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::shape(name, expected, got, "to fit weight, x and dy")) }
}

/// A product of rows by a panel, each row of which is an output of its own.
struct RowsPass<'a, T> {
    left: Rows<'a, T>,
    right: &'a Panel<T>,
    start: Start<'a, T>,
    /// Rows.
    count: usize,
    /// Of the output, without the padding.
    columns: usize,
    out: RowsMut<'a, T>,
    stop: Stop<'a>,
}

/// A worker's share of it: some of the rows.
struct RowsShare<'a, T> {
    pass: &'a RowsPass<'a, T>,
    worker: &'a Worker<'a>,
    hand: &'a mut Hand<T>,
}

impl<T: Element> Job<T> for RowsShare<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Self { pass, worker, hand } = self;
        // SAFETY: a worker writes rows of its own, and reads none.
        let mut out = unsafe { pass.out.share() };
        let all = worker.part(pass.count);
        let mut watch = Watch::new(&pass.stop, worker, false);
        for (turn, first) in all.clone().step_by(BLOCK_ROWS).enumerate() {
            if watch.before(0) {
                return;
            }
            let rows = first..(first + BLOCK_ROWS).min(all.end);
            let left = |r: usize| pass.left.row(0, rows.start + r);
            let mut write = Write { first, columns: pass.columns, out: &mut out, watch: &mut watch };
            let way = (pass.start, turn % 2 == 1);
            product(simd, rows.len(), left, pass.right.all(), way, &mut hand.sums, &mut write);
        }
    }
}

/// Writes rows from `first` on.
struct Write<'a, 'b, T> {
    first: usize,
    columns: usize,
    out: &'a mut RowsMut<'b, T>,
    watch: &'a mut Watch<'b>,
}

impl<S: Lanes<T>, T: Element> Sink<S, T> for Write<'_, '_, T> {
    #[inline(always)]
    fn stops(&mut self, work: usize) -> bool {
        self.watch.stops(work)
    }

    #[inline(always)]
    fn take(&mut self, simd: S, rows: Range<usize>, vectors: Range<usize>, product: &mut [S::A], _: &mut [S::A]) {
        let column = |vector: usize| (vector * S::LANES).min(self.columns);
        let columns = column(vectors.start)..column(vectors.end);
        for (row, product) in rows.zip(product.chunks_exact(vectors.len())) {
            pointwise::store(simd, product, self.out.part_mut(0, self.first + row, &columns));
        }
    }
}

/// What sums over the rows.
struct SumPass<'a, T> {
    x: Rows<'a, T>,
    dy: Rows<'a, T>,
    rows: usize,
    outputs: usize,
    inputs: usize,
    weight: RowsMut<'a, T>,
    /// One row.
    bias: Option<RowsMut<'a, T>>,
    stop: Stop<'a>,
}

/// A worker's share of it: some of the outputs, or of the inputs where there are few outputs.
struct SumShare<'a, T> {
    pass: &'a SumPass<'a, T>,
    worker: &'a Worker<'a>,
    hand: &'a mut Hand<T>,
}

impl<T: Element> Job<T> for SumShare<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Self { pass, worker, hand: Hand { sums, left, right, column, .. } } = self;
        let by_outputs = pass.outputs >= worker.count();
        let own = worker.part(pass.outputs);
        let (outputs, inputs) =
            if by_outputs { (own.clone(), 0..pass.inputs) } else { (0..pass.outputs, worker.part(pass.inputs)) };
        // SAFETY: a worker writes rows or columns of its own, and reads what it wrote.
        let (mut weight, mut bias) = unsafe { (pass.weight.share(), pass.bias.as_ref().map(|bias| bias.share())) };
        if pass.rows == 0 && !inputs.is_empty() {
            outputs.clone().for_each(|row| weight.part_mut(0, row, &inputs).fill(T::ZERO));
        }
        if let Some(bias) = &mut bias {
            bias.part_mut(0, 0, &own).fill(T::ZERO);
        }
        let mut cells = [(0, 0); CHAIN];
        let mut watch = Watch::new(&pass.stop, worker, false);
        for start in (0..pass.rows).step_by(CHAIN) {
            if watch.before(0) {
                return;
            }
            let count = CHAIN.min(pass.rows - start);
            for (place, row) in cells.iter_mut().zip(start..start + count) {
                *place = (0, row);
            }
            let cells = &cells[..count];
            let dy = Links::new(cells, |&(t, row)| &pass.dy.row(t, row)[outputs.clone()]);
            let x = Links::new(cells, |&(t, row)| &pass.x.row(t, row)[inputs.clone()]);
            let mut outer = Outer::new::<S>(start == 0, &dy, outputs.len(), (left, right, sums), &mut watch);
            outer.add_columns(simd, outputs.clone(), &x, inputs.clone(), &mut weight);
            if let Some(bias) = bias.as_mut().filter(|_| !own.is_empty()) {
                let column = &mut column[..own.len()];
                column.fill(T::ZERO);
                for &(t, row) in cells {
                    pointwise::accumulate(simd, &pass.dy.row(t, row)[own.clone()], None, column);
                }
                pointwise::accumulate(simd, column, None, bias.part_mut(0, 0, &own));
            }
        }
    }
}
