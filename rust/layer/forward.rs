//! The time loop.
//!
//! A step is one product over its input and the output of the step before, whose sums become gates, state and output while
//! they are in the first cache. Where few sequences run, the input's weights are better read once for many steps, unless
//! they are very few: time is then cut into chunks whose pre-activations fit a quarter of the second-level cache, and the
//! input product of a chunk is made at once; the steps continue its chains. A projection is a second product in each step.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::schedule::Schedule;
use super::share::{
    Cancel, DIRECT_ROWS, Hand, Plan, Size, Split, Stop, Watch, Workspace, cells_per_chunk, side_by_side, threads, work,
};
use super::{Control, Forward, Input, Output, StateRows, flat};
use crate::caches::second_level;
use crate::cell::CellSpec;
use crate::dims::Dims;
use crate::error::{Error, Result};
use crate::kernel::pointwise::{self, specialised};
use crate::kernel::tile::{BLOCK_ROWS, Left, Product, Sink, Start, balanced, block_rows, multiply, product, row};
use crate::simd::memory::{Rows, RowsMut, padded, prefetch, try_resize};
use crate::simd::{Element, Job, Lanes};
use crate::threads::{self as team, Worker};

/// An input of so few columns costs one sequence less to multiply at each step than its product to keep.
const NARROW: usize = 4;
/// Bytes of a first-level cache.
const FIRST_LEVEL: usize = 32 << 10;

impl<T: Element> Forward<T> {
    /// Runs the layer over `input`.
    ///
    /// # Errors
    /// Shapes that do not fit, no memory, or `control` said stop.
    pub fn run(&self, input: Input<'_, T>, output: Output<'_, T>, control: &Control<'_>) -> Result<()> {
        self.run_with(&mut Workspace::default(), input, output, control)
    }

    /// The same, in memory that is used again.
    ///
    /// # Errors
    /// As in [`Forward::run`].
    pub fn run_with(
        &self,
        workspace: &mut Workspace<T>,
        input: Input<'_, T>,
        output: Output<'_, T>,
        control: &Control<'_>,
    ) -> Result<()> {
        let cancel = Cancel::new(control);
        let size = self.size(&input, control)?;
        let (pass, hands) = self.prepare(workspace, input, output, size, &cancel)?;
        team::share(hands, |worker, hand| T::dispatch(self.isa, Share { pass: &pass, worker, hand }));
        pass.finish()
    }

    /// Two directions of one layer, each with its own weights, memory and arrays: side by side where there are threads.
    ///
    /// # Errors
    /// As in [`Forward::run`].
    pub fn run_both(calls: [ForwardCall<'_, '_, T>; 2], control: &Control<'_>) -> Result<()> {
        let [one, two] = calls;
        let (mut first, mut second) = (one.weights.size(&one.input, control)?, two.weights.size(&two.input, control)?);
        let Some(counts) = side_by_side(threads(control, first.work + second.work), first.dims.batch) else {
            one.weights.run_with(one.workspace, one.input, one.output, control)?;
            return two.weights.run_with(two.workspace, two.input, two.output, control);
        };
        (first.threads, second.threads) = counts;
        let cancel = Cancel::new(control);
        let (one, one_hands) = one.weights.prepare(one.workspace, one.input, one.output, first, &cancel)?;
        let (two, two_hands) = two.weights.prepare(two.workspace, two.input, two.output, second, &cancel)?;
        team::share_pair([one_hands, two_hands], |group, worker, hand| {
            let pass = if group == 0 { &one } else { &two };
            T::dispatch(pass.weights.isa, Share { pass, worker, hand });
        });
        one.finish()?;
        two.finish()
    }

    /// How long one thread takes for `steps` of in all `cells` steps of one sequence, in nanoseconds, about.
    pub fn nanoseconds(&self, steps: usize, cells: usize) -> f64 {
        work::<T>(&self.dims, (steps, cells), 1)
    }

    /// Whether a step of so many sequences makes its input product itself: where there are many rows, or no other step to
    /// share it with, or a single row, whose input's weights are read in less time than pre-activations are kept.
    #[inline(always)]
    fn is_direct(&self, steps: usize, rows: usize) -> bool {
        let cheap = self.dims.input_size <= NARROW || self.w.bytes() <= FIRST_LEVEL;
        rows >= DIRECT_ROWS || steps == 1 || rows == 1 && cheap
    }

    /// How many steps have been run, with so many to come: counted where not all weights stay in a cache between calls.
    fn turn(&self, steps: usize) -> usize {
        if self.w.bytes() > second_level() / 2 { self.steps.fetch_add(steps, Ordering::Relaxed) } else { 0 }
    }

    /// How large the call is, or what is wrong with its input.
    fn size(&self, input: &Input<'_, T>, control: &Control<'_>) -> Result<Size> {
        let dims = input.dims(self.dims)?;
        let work = self.nanoseconds(dims.steps, input.valid());
        Ok(Size { dims, work, threads: threads(control, work) })
    }

    /// Checks everything and makes room for it.
    fn prepare<'a, 'i: 'a, 'o: 'a>(
        &'a self,
        workspace: &'a mut Workspace<T>,
        input: Input<'i, T>,
        output: Output<'o, T>,
        size: Size,
        cancel: &'a Cancel<'a>,
    ) -> Result<(Pass<'a, T>, &'a mut [Hand<T>])> {
        let dims = size.dims;
        let Output { y, state, tape } = output;
        dims.check_sequence("y", self.dims.output_size, y.shape())?;
        dims.check_state("final state", state.h.shape(), state.c.shape())?;
        let Workspace { order, zeros, h: hidden_rows, hands, .. } = workspace;
        let schedule = Schedule::new(order, dims.steps, dims.batch, input.lengths, input.reverse)?;
        let (hidden, rows) = (self.dims.hidden_size, self.dims.gate_rows());
        let (mut gates, mut c_tape) = (None, None);
        if let Some(tape) = tape {
            dims.check_tape(tape.gates.shape(), tape.c.shape())?;
            let flat = tape.gates.into_shape_with_order((dims.steps, dims.batch, rows));
            gates = Some(RowsMut::new("tape.gates", flat.map_err(|_| Error::layout("tape.gates"))?)?);
            c_tape = Some(RowsMut::new("tape.c", tape.c)?);
        }
        let zeros = Workspace::zeros(zeros, hidden.max(self.dims.output_size))?;
        let initial = StateRows::new("state", input.state, self.dims, zeros)?;
        let c = flat("final state.c", state.c.into_slice())?;
        for (n, c) in c.chunks_exact_mut(hidden).enumerate() {
            c.copy_from_slice(initial.c(n));
        }

        let plan = Plan::new(&schedule, &size, (self.w.bytes(), self.w.blocks()));
        let hands = Workspace::hands(hands, plan.threads)?;
        let lanes = self.b.len() / self.w.vectors();
        let left = padded::<T>(self.dims.input_size + self.dims.output_size);
        for (k, hand) in hands.iter_mut().enumerate() {
            hand.sums()?;
            // The first may have to work alone.
            for workers in if k == 0 { [1, plan.threads] } else { [plan.threads; 2] } {
                let (batch, blocks) = plan.most(workers, dims.batch, self.w.blocks());
                let row = blocks * self.dims.gates * lanes;
                let cells = cells_per_chunk::<T>(row, batch, schedule.steps());
                hand.z.grow(cells * row)?;
                if batch > 1 && self.is_direct(dims.steps, batch) {
                    hand.left.grow(batch.min(BLOCK_ROWS) * left)?;
                }
                if hand.cells.len() < cells {
                    try_resize(&mut hand.cells, cells, (0, 0))?;
                }
            }
        }
        hidden_rows.resize(if self.w_hr.is_some() { dims.batch * hidden } else { 0 })?;
        let pass = Pass {
            weights: self,
            turn: self.turn(dims.steps),
            dims,
            schedule,
            plan,
            x: Rows::new("x", input.x)?,
            initial,
            y: RowsMut::new("y", y)?,
            last: flat("final state.h", state.h.into_slice())?,
            c: RowsMut::flat(c, hidden),
            h: RowsMut::flat(hidden_rows, hidden),
            gates,
            c_tape,
            stop: Stop::new(cancel),
        };
        Ok((pass, hands))
    }
}

/// One direction of a layer to run: its weights, memory to use again, and its arrays.
#[derive(Debug)]
pub struct ForwardCall<'w, 'a, T> {
    /// Packed.
    pub weights: &'a Forward<T>,
    /// Of its own.
    pub workspace: &'w mut Workspace<T>,
    /// What it runs on.
    pub input: Input<'a, T>,
    /// Where it writes.
    pub output: Output<'a, T>,
}

/// A pass forward under way.
struct Pass<'a, T> {
    weights: &'a Forward<T>,
    /// How many steps these weights have run before, as far as it matters whether that is even.
    turn: usize,
    dims: Dims,
    schedule: Schedule<'a>,
    plan: Plan,
    x: Rows<'a, T>,
    initial: StateRows<'a, T>,
    /// The step before is read here, and this step written.
    y: RowsMut<'a, T>,
    /// (N, P): the output of each sequence's last step.
    last: &'a mut [T],
    /// (N, H), updated in place.
    c: RowsMut<'a, T>,
    /// (N, H): a step's hidden state, where it is projected.
    h: RowsMut<'a, T>,
    gates: Option<RowsMut<'a, T>>,
    c_tape: Option<RowsMut<'a, T>>,
    stop: Stop<'a>,
}

impl<T: Element> Pass<'_, T> {
    /// What remains when all workers are done.
    fn finish(self) -> Result<()> {
        self.stop.outcome()?;
        let width = self.dims.layer.output_size;
        for j in 0..self.dims.batch {
            let n = self.schedule.sequence(j);
            let last = self.schedule.last(j).map_or(self.initial.h(n), |t| self.y.row(t, n));
            self.last[n * width..][..width].copy_from_slice(last);
        }
        Ok(())
    }
}

/// A worker's share of it.
struct Share<'a, T> {
    pass: &'a Pass<'a, T>,
    worker: &'a Worker<'a>,
    hand: &'a mut Hand<T>,
}

impl<T: Element> Job<T> for Share<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Self { pass, worker, hand: Hand { z, sums, left, cells, .. } } = self;
        let Forward { w, w_hr, b, dims, .. } = pass.weights;
        let (schedule, blocks) = pass.plan.share(worker, pass.schedule, w.blocks());
        let (most, most_blocks) = pass.plan.most(worker.count(), pass.dims.batch, w.blocks());
        let units = blocks.start * S::LANES..(blocks.end * S::LANES).min(dims.hidden_size);
        let outputs = match pass.plan.split {
            Split::Batch => 0..w_hr.as_ref().map_or(0, |w_hr| w_hr.blocks()),
            Split::Units => worker.part(w_hr.as_ref().map_or(0, |w_hr| w_hr.blocks())),
        };
        // SAFETY: a worker writes the rows of its own sequences, or the columns of its own units and outputs. It reads
        // what others have written, of `y` and `h`, only behind the barrier that follows, and of `y` other steps than
        // the one it writes.
        let mut own = unsafe {
            Own {
                units,
                outputs,
                blocks,
                y: pass.y.share(),
                c: pass.c.share(),
                h: pass.h.share(),
                gates: pass.gates.as_ref().map(|gates| gates.share()),
                c_tape: pass.c_tape.as_ref().map(|c| c.share()),
                watch: Watch::new(&pass.stop, worker, pass.plan.split == Split::Units),
            }
        };
        let w_ih = w.part(&own.blocks).rows(0..dims.input_size);
        let row = w_ih.vectors() * S::LANES;
        let steps = schedule.steps();
        // The same for all workers, as they meet.
        let most_cells = cells_per_chunk::<T>(most_blocks * dims.gates * S::LANES, most, steps);
        let (mut s, mut round) = (0, 0);
        while s < steps {
            if own.watch.before(round) {
                return;
            }
            round += 1;
            let is_direct = |s| pass.weights.is_direct(pass.dims.steps, schedule.active(schedule.time(s)));
            if is_direct(s) {
                let end = steps.min(s + pass.plan.steps_a_poll);
                while s < end && is_direct(s) {
                    pass.step(simd, (&schedule, worker), s, Given::Room(left), &mut own, sums);
                    s += 1;
                }
                continue;
            }
            let (end, count) = schedule.chunk(s, most_cells, cells);
            let x = |r: usize| {
                let (t, j): (usize, usize) = cells[r];
                pass.x.row(t, schedule.sequence(j))
            };
            let mut keep = Keep { z: simd.vectors_mut(z), stride: w_ih.vectors(), watch: &mut own.watch };
            product(simd, count, x, w_ih, (Start::Row(b), false), sums, &mut keep);
            let mut z = &z[..];
            while s < end {
                let (now, later) = z.split_at(schedule.active(schedule.time(s)) * row);
                pass.step(simd, (&schedule, worker), s, Given::Input(now), &mut own, sums);
                z = later;
                s += 1;
            }
        }
    }
}

/// Where a step finds its input.
enum Given<'a, T> {
    /// The input product.
    Input(&'a [T]),
    /// In the arrays themselves: room for the step's input and the output before, side by side, where there are more rows
    /// than one.
    Room(&'a mut [T]),
}

/// What a worker writes.
struct Own<'a, T> {
    units: Range<usize>,
    /// Of the units.
    blocks: Range<usize>,
    /// Blocks of the projection.
    outputs: Range<usize>,
    y: RowsMut<'a, T>,
    c: RowsMut<'a, T>,
    h: RowsMut<'a, T>,
    gates: Option<RowsMut<'a, T>>,
    c_tape: Option<RowsMut<'a, T>>,
    watch: Watch<'a>,
}

impl<T: Element> Pass<'_, T> {
    /// Step `s`.
    #[inline(always)]
    fn step<S: Lanes<T>>(
        &self,
        simd: S,
        (schedule, worker): (&Schedule<'_>, &Worker<'_>),
        s: usize,
        given: Given<'_, T>,
        own: &mut Own<'_, T>,
        sums: &mut [T],
    ) {
        let Forward { w, w_hr, b, dims, .. } = self.weights;
        let t = schedule.time(s);
        let active = schedule.active(t);
        // SAFETY: this share is read alone, at the step before: see `Own`.
        let y = unsafe { self.y.share() };
        let before = |j: usize| {
            let n = schedule.sequence(j);
            schedule.before(t, j).map_or_else(|| self.initial.h(n), |t| y.row(t, n))
        };
        let w = w.part(&own.blocks);
        // The weights that the step before read last come first: that of this call, or of the one before.
        let backwards = (s + self.turn) % 2 == 1;
        let mut gates = Gates { pass: self, schedule, t, own };
        match given {
            Given::Input(z) => {
                let w_hh = w.rows(dims.input_size..dims.input_size + dims.output_size);
                product(simd, active, before, w_hh, (Start::Rows(z), backwards), sums, &mut gates);
            }
            Given::Room(_) if active == 1 => {
                let x = self.x.row(t, schedule.sequence(0));
                row(simd, [x, before(0)], w, (Start::Row(b), backwards), sums, &mut gates);
            }
            Given::Room(room) => {
                let stride = padded::<T>(dims.input_size + dims.output_size);
                for (first, rows) in balanced(active, block_rows::<T>(dims.input_size + dims.output_size)) {
                    for (j, row) in (first..first + rows).zip(room.chunks_exact_mut(stride)) {
                        let (x, r) = row.split_at_mut(dims.input_size);
                        x.copy_from_slice(self.x.row(t, schedule.sequence(j)));
                        r[..dims.output_size].copy_from_slice(before(j));
                    }
                    let left = Left::Spaced(room, stride);
                    let product = Product { left, right: w, first, rows, start: Start::Row(b), backwards };
                    multiply(simd, product, sums, &mut gates);
                }
            }
        }
        if let Some(w_hr) = w_hr {
            self.plan.meet(worker);
            let w_hr = w_hr.part(&own.outputs);
            // SAFETY: nobody writes the hidden state before the next barrier.
            let h = unsafe { self.h.share() };
            let left = |j: usize| h.row(0, schedule.sequence(j));
            let most = self.dims.layer.output_size;
            let (y, watch) = (&mut own.y, &mut own.watch);
            let mut outputs = Outputs { schedule, t, first: w_hr.first_column(), most, y, watch };
            product(simd, active, left, w_hr, (Start::Zero, backwards), sums, &mut outputs);
        }
        if s + 1 < schedule.steps() {
            self.plan.meet(worker);
        }
    }
}

/// Keeps a chunk's pre-activations.
struct Keep<'a, 'w, A> {
    z: &'a mut [A],
    stride: usize,
    watch: &'a mut Watch<'w>,
}

impl<S: Lanes<T>, T: Element> Sink<S, T> for Keep<'_, '_, S::A> {
    #[inline(always)]
    fn stops(&mut self, work: usize) -> bool {
        self.watch.stops(work)
    }

    #[inline(always)]
    fn take(&mut self, simd: S, rows: Range<usize>, vectors: Range<usize>, product: &mut [S::A], _: &mut [S::A]) {
        for (row, product) in rows.zip(product.chunks_exact(vectors.len())) {
            // Vector by vector: a call for so few costs more than the copy.
            for (place, sum) in self.z[row * self.stride..][vectors.clone()].iter_mut().zip(product) {
                simd.store(simd.load(sum), place);
            }
        }
    }
}

/// Makes pre-activations gates, state and output.
struct Gates<'a, 'b, T> {
    pass: &'a Pass<'a, T>,
    schedule: &'a Schedule<'a>,
    t: usize,
    own: &'a mut Own<'b, T>,
}

impl<S: Lanes<T>, T: Element> Sink<S, T> for Gates<'_, '_, T> {
    /// Where the tape is written: far from what was written before, and not in the caches.
    #[inline(always)]
    fn expect(&mut self, simd: S, rows: Range<usize>, vectors: Range<usize>) {
        let (gates, units) = (self.pass.weights.dims.gates, self.units_of::<S>(&vectors));
        let Self { schedule, t, own, .. } = self;
        if let (Some(all), Some(c)) = (&mut own.gates, &mut own.c_tape) {
            let (mut all, mut c) = (all.groups_mut(*t, gates, &units), c.columns_mut(*t, &units));
            for n in rows.map(|j| schedule.sequence(j)) {
                (0..gates).for_each(|gate| prefetch(simd, all.group(n, gate)));
                prefetch(simd, c.row(n));
            }
        }
    }

    #[inline(always)]
    fn stops(&mut self, work: usize) -> bool {
        self.own.watch.stops(work)
    }

    #[inline(always)]
    fn take(&mut self, simd: S, rows: Range<usize>, vectors: Range<usize>, z: &mut [S::A], spare: &mut [S::A]) {
        let cell = self.pass.weights.cell;
        specialised!(cell => self.step(simd, cell, rows, vectors, z, spare));
    }
}

impl<T: Element> Gates<'_, '_, T> {
    /// The units whose gates are in these vectors of the worker's part.
    #[inline(always)]
    fn units_of<S: Lanes<T>>(&self, vectors: &Range<usize>) -> Range<usize> {
        let (gates, before) = (self.pass.weights.dims.gates, self.own.blocks.start);
        let unit = |vector: usize| ((vector / gates + before) * S::LANES).min(self.own.units.end);
        unit(vectors.start)..unit(vectors.end)
    }

    #[inline(always)]
    fn step<S: Lanes<T>>(
        &mut self,
        simd: S,
        cell: CellSpec,
        rows: Range<usize>,
        vectors: Range<usize>,
        z: &mut [S::A],
        spare: &mut [S::A],
    ) {
        let units = self.units_of::<S>(&vectors);
        let Self { pass, t, own, .. } = self;
        let (schedule, t, gates) = (*self.schedule, *t, cell.gate_rows().count);
        let blocks = vectors.len() / gates;
        let peephole = &simd.vectors(&pass.weights.peephole)[units.start / S::LANES * cell.peephole_rows().count..];
        let step = pointwise::Step {
            c: own.c.columns_mut(0, &units),
            h: match pass.weights.w_hr {
                None => own.y.columns_mut(t, &units),
                Some(_) => own.h.columns_mut(0, &units),
            },
            tape: match (&mut own.gates, &mut own.c_tape) {
                (Some(all), Some(c)) => Some((all.groups_mut(t, gates, &units), c.columns_mut(t, &units))),
                _ => None,
            },
        };
        let c = &mut spare[..rows.len() * blocks];
        let rows = (
            rows.len(),
            #[inline(always)]
            |k: usize| schedule.sequence(rows.start + k),
        );
        pointwise::forward(simd, cell, (z, blocks), peephole, c, rows, step);
    }
}

/// Writes projected outputs.
struct Outputs<'a, 'b, T> {
    schedule: &'a Schedule<'a>,
    t: usize,
    /// The first of the outputs, and how many there are without the padding.
    first: usize,
    most: usize,
    y: &'a mut RowsMut<'b, T>,
    watch: &'a mut Watch<'b>,
}

impl<S: Lanes<T>, T: Element> Sink<S, T> for Outputs<'_, '_, T> {
    #[inline(always)]
    fn stops(&mut self, work: usize) -> bool {
        self.watch.stops(work)
    }

    #[inline(always)]
    fn take(&mut self, simd: S, rows: Range<usize>, vectors: Range<usize>, product: &mut [S::A], _: &mut [S::A]) {
        let column = |vector: usize| (self.first + vector * S::LANES).min(self.most);
        let columns = column(vectors.start)..column(vectors.end);
        for (j, product) in rows.zip(product.chunks_exact(vectors.len())) {
            pointwise::store(simd, product, self.y.part_mut(self.t, self.schedule.sequence(j), &columns));
        }
    }
}
