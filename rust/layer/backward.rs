//! The time loop reversed: the mirror of `forward.rs`.
//!
//! Step by step from the last: a step's recurrent product is what it hands on to the step before, whose gates' gradients
//! are made of it while it is in the first cache. Two values are handed on, each rounded once: `d_h` and `d_c`. They
//! start as the gradient of the final state and end as that of the initial one, in the caller's own array: backward over
//! chunks is therefore backward over the whole. What sums over time or does not feed back is left to `deferred.rs`, window
//! of time by window, while the gates' gradients are in the second-level cache: no memory grows with the steps.

use std::ops::Range;

use super::deferred::{CHAIN, SumRows, Sums, input_gradient};
use super::schedule::Schedule;
use super::share::{
    Cancel, Hand, Plan, Size, Split, Stop, Watch, Workspace, side_by_side, steps_per_window, threads, work,
};
use super::{Backward, Control, Gradients, OutputGradient, StateRows, Tape, flat};
use crate::dims::Dims;
use crate::error::{Error, Result};
use crate::kernel::pointwise::{self, specialised};
use crate::kernel::tile::{Sink, Start, product};
use crate::simd::memory::{Columns, Rows, RowsMut, padded, prefetch};
use crate::simd::{Element, Job, Lanes};
use crate::threads::{self as team, Worker};

impl<T: Element> Backward<T> {
    /// Runs the layer backward over what `tape` has recorded.
    ///
    /// # Errors
    /// Shapes that do not fit, no memory, or `control` said stop.
    pub fn run(
        &self,
        tape: Tape<'_, T>,
        gradient: OutputGradient<'_, T>,
        out: Gradients<'_, T>,
        control: &Control<'_>,
    ) -> Result<()> {
        self.run_with(&mut Workspace::default(), tape, gradient, out, control)
    }

    /// The same, in memory that is used again.
    ///
    /// # Errors
    /// As in [`Backward::run`].
    pub fn run_with(
        &self,
        workspace: &mut Workspace<T>,
        tape: Tape<'_, T>,
        gradient: OutputGradient<'_, T>,
        out: Gradients<'_, T>,
        control: &Control<'_>,
    ) -> Result<()> {
        let cancel = Cancel::new(control);
        let size = self.size(&tape, control)?;
        let (pass, hands) = self.prepare(workspace, tape, gradient, out, size, &cancel)?;
        team::share(hands, |worker, hand| T::dispatch(self.isa, Share { pass: &pass, worker, hand }));
        pass.stop.outcome()
    }

    /// Two directions of one layer, each with its own weights, memory and arrays: side by side where there are threads.
    ///
    /// # Errors
    /// As in [`Backward::run`].
    pub fn run_both(calls: [BackwardCall<'_, '_, T>; 2], control: &Control<'_>) -> Result<()> {
        let [one, two] = calls;
        let (mut first, mut second) = (one.weights.size(&one.tape, control)?, two.weights.size(&two.tape, control)?);
        let Some(counts) = side_by_side(threads(control, first.work + second.work), first.dims.batch) else {
            one.weights.run_with(one.workspace, one.tape, one.gradient, one.out, control)?;
            return two.weights.run_with(two.workspace, two.tape, two.gradient, two.out, control);
        };
        (first.threads, second.threads) = counts;
        let cancel = Cancel::new(control);
        let (one, one_hands) = one.weights.prepare(one.workspace, one.tape, one.gradient, one.out, first, &cancel)?;
        let (two, two_hands) = two.weights.prepare(two.workspace, two.tape, two.gradient, two.out, second, &cancel)?;
        team::share_pair([one_hands, two_hands], |group, worker, hand| {
            let pass = if group == 0 { &one } else { &two };
            T::dispatch(pass.weights.isa, Share { pass, worker, hand });
        });
        one.stop.outcome()?;
        two.stop.outcome()
    }

    /// How long one thread takes for `steps` of in all `cells` steps of one sequence, in nanoseconds, about.
    pub fn nanoseconds(&self, steps: usize, cells: usize) -> f64 {
        work::<T>(&self.dims, (steps, cells), 2)
    }

    /// How large the call is, or what is wrong with its input.
    fn size(&self, tape: &Tape<'_, T>, control: &Control<'_>) -> Result<Size> {
        let dims = tape.input.dims(self.dims)?;
        let work = self.nanoseconds(dims.steps, tape.input.valid());
        Ok(Size { dims, work, threads: threads(control, work) })
    }

    /// Checks everything and makes room for it.
    fn prepare<'a, 't: 'a, 'g: 'a, 'o: 'a>(
        &'a self,
        workspace: &'a mut Workspace<T>,
        tape: Tape<'t, T>,
        gradient: OutputGradient<'g, T>,
        out: Gradients<'o, T>,
        size: Size,
        cancel: &'a Cancel<'a>,
    ) -> Result<(Pass<'a, T>, &'a mut [Hand<T>])> {
        let dims = size.dims;
        dims.check_sequence("tape.y", self.dims.output_size, tape.y.shape())?;
        dims.check_tape(tape.gates.shape(), tape.c.shape())?;
        if let Some(dy) = &gradient.dy {
            dims.check_sequence("dy", self.dims.output_size, dy.shape())?;
        }
        if let Some(state) = &gradient.state {
            dims.check_state("dstate", state.h.shape(), state.c.shape())?;
        }
        dims.check_state("initial state's gradient", out.state.h.shape(), out.state.c.shape())?;
        if let Some(dx) = &out.x {
            dims.check_sequence("dx", self.dims.input_size, dx.shape())?;
        }
        let Workspace { order, zeros, d_z, d_r, place, hands, .. } = workspace;
        let schedule = Schedule::new(order, dims.steps, dims.batch, tape.input.lengths, tape.input.reverse)?;
        let (hidden, output, rows) = (self.dims.hidden_size, self.dims.output_size, self.dims.gate_rows());
        let zeros = Workspace::zeros(zeros, hidden.max(output))?;
        let gates = tape.gates.into_shape_with_order((dims.steps, dims.batch, rows));
        let carry = StateRows::new("dstate", gradient.state, self.dims, zeros)?;
        let d_h = flat("initial state's gradient.h", out.state.h.into_slice())?;
        let d_c = flat("initial state's gradient.c", out.state.c.into_slice())?;
        for n in 0..dims.batch {
            d_h[n * output..][..output].copy_from_slice(carry.h(n));
            d_c[n * hidden..][..hidden].copy_from_slice(carry.c(n));
        }
        let (z_stride, r_stride) = (padded::<T>(rows), padded::<T>(output));
        let window = steps_per_window::<T>(rows, dims.batch);
        let ring = dims.steps.min(window + CHAIN.div_ceil(dims.batch.max(1)));
        let projected = if self.w_hr.is_some() { ring } else { 0 };
        d_z.resize(ring * dims.batch * z_stride)?;
        d_r.resize(projected * dims.batch * r_stride)?;
        schedule.places(place)?;
        let sums = Sums::new(self, out.w_ih, out.w_hh, out.b, out.peephole, out.w_hr)?;

        let weights = (self.w_ih.bytes() + self.w_hh.bytes(), self.w_hh.blocks());
        let plan = Plan::new(&schedule, &size, weights);
        let hands = Workspace::hands(hands, plan.threads)?;
        for hand in hands.iter_mut() {
            hand.room(self, &dims)?;
        }
        let pass = Pass {
            weights: self,
            dims,
            schedule,
            place,
            plan,
            initial: StateRows::new("state", tape.input.state, self.dims, zeros)?,
            x: Rows::new("x", tape.input.x)?,
            y: Rows::new("tape.y", tape.y)?,
            gates: Rows::new("tape.gates", gates.map_err(|_| Error::layout("tape.gates"))?)?,
            c: Rows::new("tape.c", tape.c)?,
            dy: gradient.dy.map(|dy| Rows::new("dy", dy)).transpose()?,
            d_h: RowsMut::flat(d_h, output),
            d_c: RowsMut::flat(d_c, hidden),
            window,
            ring,
            d_z: RowsMut::padded(d_z, (ring, dims.batch, rows), z_stride),
            d_r: RowsMut::padded(d_r, (projected, dims.batch, output), r_stride),
            dx: out.x.map(|dx| RowsMut::new("dx", dx)).transpose()?,
            sums: sums.rows(&self.dims),
            stop: Stop::new(cancel),
        };
        Ok((pass, hands))
    }
}

/// One direction of a layer to run backward: its weights, memory to use again, and its arrays.
#[derive(Debug)]
pub struct BackwardCall<'w, 'a, T> {
    /// Packed.
    pub weights: &'a Backward<T>,
    /// Of its own.
    pub workspace: &'w mut Workspace<T>,
    /// What the pass forward has recorded.
    pub tape: Tape<'a, T>,
    /// What comes from outside.
    pub gradient: OutputGradient<'a, T>,
    /// Where it writes.
    pub out: Gradients<'a, T>,
}

/// A pass backward under way.
pub(super) struct Pass<'a, T> {
    pub(super) weights: &'a Backward<T>,
    pub(super) dims: Dims,
    pub(super) schedule: Schedule<'a>,
    /// The place in the order of each sequence.
    pub(super) place: &'a [usize],
    pub(super) plan: Plan,
    pub(super) initial: StateRows<'a, T>,
    pub(super) x: Rows<'a, T>,
    pub(super) y: Rows<'a, T>,
    pub(super) gates: Rows<'a, T>,
    pub(super) c: Rows<'a, T>,
    pub(super) dy: Option<Rows<'a, T>>,
    /// The carries, (N, P) and (N, H).
    d_h: RowsMut<'a, T>,
    d_c: RowsMut<'a, T>,
    /// How many steps are swept before what sums over them is added up.
    window: usize,
    /// How many steps `d_z` and `d_r` have room for: those of a window, and of the chain that the last one left unfinished.
    ring: usize,
    /// (ring, N, G·H)
    pub(super) d_z: RowsMut<'a, T>,
    /// (ring, N, P), where there is a projection.
    pub(super) d_r: RowsMut<'a, T>,
    pub(super) dx: Option<RowsMut<'a, T>>,
    pub(super) sums: SumRows<'a, T>,
    pub(super) stop: Stop<'a>,
}

/// A worker's share of it.
struct Share<'a, T> {
    pass: &'a Pass<'a, T>,
    worker: &'a Worker<'a>,
    hand: &'a mut Hand<T>,
}

/// What a worker writes in the sweep.
struct Own<'a, T> {
    /// The units whose gates are its own.
    units: Range<usize>,
    /// Blocks of the carry's columns.
    outputs: Range<usize>,
    /// With a projection, blocks of the hidden state's columns.
    hidden: Range<usize>,
    d_h: RowsMut<'a, T>,
    d_c: RowsMut<'a, T>,
    d_z: RowsMut<'a, T>,
    d_r: RowsMut<'a, T>,
    watch: Watch<'a>,
}

impl<T: Element> Job<T> for Share<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Self { pass, worker, hand } = self;
        let Backward { w_hh, w_hr, dims, .. } = pass.weights;
        // Without a projection the carry's columns are the units: one barrier a step suffices.
        let (schedule, hidden) = pass.plan.share(worker, pass.schedule, w_hr.as_ref().unwrap_or(w_hh).blocks());
        let outputs = match pass.plan.split {
            Split::Batch => 0..w_hh.blocks(),
            Split::Units => worker.part(w_hh.blocks()),
        };
        let units = w_hr.as_ref().unwrap_or(w_hh).columns(&hidden, dims.hidden_size);
        // SAFETY: a worker writes the rows of its own sequences, or the columns of its own units and outputs. It reads
        // what others have written, of `d_z` and `d_r`, only behind the barrier that follows, and of `d_z` other steps
        // than the one it writes.
        let mut own = unsafe {
            let (d_h, d_c, d_z, d_r) = (pass.d_h.share(), pass.d_c.share(), pass.d_z.share(), pass.d_r.share());
            Own { units, outputs, hidden, d_h, d_c, d_z, d_r, watch: Watch::new(&pass.stop, worker, true) }
        };
        let (mut later, mut first) = (None, true);
        let mut end = pass.schedule.steps();
        for window in 0.. {
            if own.watch.before(window) {
                return;
            }
            let steps = end.saturating_sub(pass.window)..end;
            for t in steps.clone().rev().map(|s| pass.schedule.time(s)).filter(|&t| schedule.active(t) > 0) {
                pass.step(simd, (&schedule, worker), (later, Some(t)), &mut own, &mut hand.sums);
                later = Some(t);
            }
            if steps.start == 0 {
                // What the first step hands on is the gradient of the initial state.
                pass.step(simd, (&schedule, worker), (later, None), &mut own, &mut hand.sums);
            }
            // The sums read what all have written, and it is written over in the next window.
            worker.wait();
            input_gradient(simd, pass, worker, steps.clone(), hand);
            pass.sum(simd, worker, steps.clone(), hand, &mut first);
            if steps.start == 0 {
                break;
            }
            worker.wait();
            end = steps.start;
        }
    }
}

impl<T: Element> Pass<'_, T> {
    /// Where `d_z` and `d_r` have step `t`.
    #[inline(always)]
    pub(super) fn slot(&self, t: usize) -> usize {
        t % self.ring
    }

    /// The state `c` that step `t` of the `j`-th sequence started from.
    #[inline(always)]
    pub(super) fn c_before(&self, schedule: &Schedule<'_>, t: usize, j: usize) -> &[T] {
        let n = schedule.sequence(j);
        schedule.before(t, j).map_or_else(|| self.initial.c(n), |t| self.c.row(t, n))
    }

    /// The output `r` that step `t` of the `j`-th sequence started from.
    #[inline(always)]
    pub(super) fn r_before(&self, t: usize, j: usize) -> &[T] {
        let n = self.schedule.sequence(j);
        self.schedule.before(t, j).map_or_else(|| self.initial.h(n), |t| self.y.row(t, n))
    }

    /// From the step at time `later` to the one at time `t`: what the first hands on, and the gates of the second.
    ///
    /// There is no first step behind the last, and no second before the first.
    #[inline(always)]
    fn step<S: Lanes<T>>(
        &self,
        simd: S,
        (schedule, worker): (&Schedule<'_>, &Worker<'_>),
        (later, t): (Option<usize>, Option<usize>),
        own: &mut Own<'_, T>,
        sums: &mut [T],
    ) {
        let Backward { w_hh, w_hr, .. } = self.weights;
        let carried = later.map_or(0, |later| schedule.active(later));
        let active = t.map_or(0, |t| schedule.active(t));
        let part = w_hh.part(&own.outputs);
        let first = part.first_column();
        if let Some(later) = later {
            // SAFETY: this share is read alone, at the later step: see `Own`.
            let d_z = unsafe { self.d_z.share() };
            let mut carry = Carry { pass: self, schedule, t, active, first, own };
            let slot = self.slot(later);
            let left = |j: usize| d_z.row(slot, schedule.sequence(j));
            product(simd, carried, left, part, (Start::Zero, later % 2 == 1), sums, &mut carry);
        }
        let Some(t) = t else { return };
        // These sequences end here: what is handed on to them stands in its place.
        for j in carried..active {
            for block in own.outputs.clone() {
                let outputs = w_hh.columns(&(block..block + 1), self.dims.layer.output_size);
                let (d_h, spare) = simd.vectors_mut(sums).split_at_mut(outputs.len().div_ceil(S::LANES));
                pointwise::fetch(simd, own.d_h.part_mut(0, schedule.sequence(j), &outputs), d_h);
                Carry { pass: self, schedule, t: Some(t), active, first, own }.go_on(
                    simd,
                    j..j + 1,
                    outputs,
                    d_h,
                    spare,
                );
            }
        }
        if let Some(w_hr) = w_hr {
            self.plan.meet(worker);
            let part = w_hr.part(&own.hidden);
            // SAFETY: nobody writes at this step before the next barrier.
            let d_r = unsafe { self.d_r.share() };
            let slot = self.slot(t);
            let left = |j: usize| d_r.row(slot, schedule.sequence(j));
            let mut gates = Projected { pass: self, schedule, t, own };
            product(simd, active, left, part, (Start::Zero, t % 2 == 1), sums, &mut gates);
        }
        self.plan.meet(worker);
    }

    /// The gates' gradients of these units of some sequences at time `t`, from that of `h`.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "what is where")]
    fn gates<S: Lanes<T>>(
        &self,
        simd: S,
        schedule: &Schedule<'_>,
        (t, rows): (usize, Range<usize>),
        units: &Range<usize>,
        (d_h, dy): (&[S::A], Option<Columns<'_, T>>),
        spare: &mut [S::A],
        (d_c, d_z): (&mut RowsMut<'_, T>, &mut RowsMut<'_, T>),
    ) {
        let Backward { cell, peephole, .. } = self.weights;
        let (schedule, cell, gates) = (*schedule, *cell, self.dims.layer.gates);
        let peephole = &simd.vectors(peephole)[units.start / S::LANES * cell.peephole_rows().count..];
        let step = pointwise::StepBack {
            gates: self.gates.groups(t, gates, units),
            c: self.c.columns(t, units),
            dy,
            d_c: d_c.columns_mut(0, units),
            d_z: d_z.groups_mut(self.slot(t), gates, units),
        };
        let blocks = units.len().div_ceil(S::LANES);
        let a = &mut spare[..rows.len() * blocks];
        let rows = (
            rows.len(),
            // As a function of its own it would be called for each block of each row.
            #[inline(always)]
            |k: usize| {
                let j = rows.start + k;
                (schedule.sequence(j), &self.c_before(&schedule, t, j)[units.clone()])
            },
        );
        specialised!(cell => pointwise::backward(simd, cell, (d_h, blocks), peephole, a, rows, step));
    }
}

/// Takes what a step hands on to the one before, which goes on with it.
struct Carry<'a, 'b, T> {
    pass: &'a Pass<'a, T>,
    schedule: &'a Schedule<'a>,
    /// The step before, if there is one, and how many sequences run in it.
    t: Option<usize>,
    active: usize,
    /// The first of the worker's outputs.
    first: usize,
    own: &'a mut Own<'b, T>,
}

impl<T: Element> Carry<'_, '_, T> {
    /// The outputs in these vectors of the worker's part.
    #[inline(always)]
    fn outputs<S: Lanes<T>>(&self, vectors: &Range<usize>) -> Range<usize> {
        let column = |vector: usize| (self.first + vector * S::LANES).min(self.pass.dims.layer.output_size);
        column(vectors.start)..column(vectors.end)
    }

    /// The step before, for these outputs of some sequences, from what is handed on to them.
    #[inline(always)]
    fn go_on<S: Lanes<T>>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        outputs: Range<usize>,
        carry: &[S::A],
        spare: &mut [S::A],
    ) {
        let Self { pass, schedule, t: Some(t), own, .. } = self else { return };
        let dy = pass.dy.as_ref().map(|dy| dy.columns(*t, &outputs));
        if pass.weights.w_hr.is_none() {
            let out = (&mut own.d_c, &mut own.d_z);
            return pass.gates(simd, schedule, (*t, rows), &outputs, (carry, dy), spare, out);
        }
        let mut d_r = own.d_r.columns_mut(pass.slot(*t), &outputs);
        for (j, carry) in rows.zip(carry.chunks_exact(outputs.len().div_ceil(S::LANES))) {
            let n = schedule.sequence(j);
            let dy = dy.map_or(&pass.initial.zeros[outputs.clone()], |dy| dy.row(n));
            pointwise::sum(simd, carry, dy, d_r.row(n));
        }
    }
}

impl<S: Lanes<T>, T: Element> Sink<S, T> for Carry<'_, '_, T> {
    #[inline(always)]
    fn stops(&mut self, work: usize) -> bool {
        self.own.watch.stops(work)
    }

    /// What the tape has of the step before: it was written long ago, and is not in the caches.
    #[inline(always)]
    fn expect(&mut self, simd: S, rows: Range<usize>, vectors: Range<usize>) {
        let units = self.outputs::<S>(&vectors);
        let Self { pass, schedule, t: Some(t), active, .. } = self else { return };
        let layer = &pass.dims.layer;
        if pass.weights.w_hr.is_some() {
            return;
        }
        let gates = pass.gates.groups(*t, layer.gates, &units);
        for j in rows.start..rows.end.min(*active) {
            let n = schedule.sequence(j);
            (0..layer.gates).for_each(|gate| prefetch(simd, gates.group(n, gate)));
            prefetch(simd, &pass.c_before(schedule, *t, j)[units.clone()]);
            if let Some(dy) = &pass.dy {
                prefetch(simd, dy.columns(*t, &units).row(n));
            }
        }
    }

    #[inline(always)]
    fn take(&mut self, simd: S, rows: Range<usize>, vectors: Range<usize>, product: &mut [S::A], spare: &mut [S::A]) {
        let outputs = self.outputs::<S>(&vectors);
        let mut d_h = self.own.d_h.columns_mut(0, &outputs);
        for (j, product) in rows.clone().zip(product.chunks_exact_mut(vectors.len())) {
            pointwise::hand_on(simd, product, d_h.row(self.schedule.sequence(j)));
        }
        let rows = rows.start..rows.end.min(self.active);
        if !rows.is_empty() {
            self.go_on(simd, rows, outputs, product, spare);
        }
    }
}

/// Makes the gradient of a projected hidden state that of the gates.
struct Projected<'a, 'b, T> {
    pass: &'a Pass<'a, T>,
    schedule: &'a Schedule<'a>,
    t: usize,
    own: &'a mut Own<'b, T>,
}

impl<S: Lanes<T>, T: Element> Sink<S, T> for Projected<'_, '_, T> {
    #[inline(always)]
    fn stops(&mut self, work: usize) -> bool {
        self.own.watch.stops(work)
    }

    #[inline(always)]
    fn take(&mut self, simd: S, rows: Range<usize>, vectors: Range<usize>, product: &mut [S::A], spare: &mut [S::A]) {
        let Self { pass, schedule, t, own } = self;
        let unit = |vector: usize| (own.units.start + vector * S::LANES).min(own.units.end);
        let units = unit(vectors.start)..unit(vectors.end);
        let out = (&mut own.d_c, &mut own.d_z);
        pass.gates(simd, schedule, (*t, rows), &units, (product, None), spare, out);
    }
}
