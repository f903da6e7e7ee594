//! The time loop reversed: the mirror of `forward.rs`.
//!
//! Step by step from the last: the projection's gradient, the gradients of the gates and the state, then the recurrent
//! product, which gives the carry to the step before. Two values are carried, each rounded once: `d_h` and `d_c`. They
//! start as the gradient of the final state and end as that of the initial one, in the caller's own array: backward over
//! chunks is therefore backward over the whole. What sums over time or does not feed back is left to `deferred.rs`.

use std::ops::Range;

use super::deferred::{SumRows, Sums, input_gradient};
use super::schedule::Schedule;
use super::share::{Hand, Plan, Split, Stop, Workspace, steps_per_chunk};
use super::{Backward, Control, Gradients, OutputGradient, StateRows, Tape, flat};
use crate::dims::Dims;
use crate::error::{Error, Result};
use crate::kernel::pointwise;
use crate::kernel::tile::{Start, product};
use crate::simd::memory::{Rows, RowsMut};
use crate::simd::{Element, Job, Lanes};
use crate::threads::{self, Worker};

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
        let dims = tape.input.dims(self.dims)?;
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
        let cells = dims.steps * dims.batch;
        d_z.resize(cells * rows)?;
        d_r.resize(if self.w_hr.is_some() { cells * output } else { 0 })?;
        schedule.places(place)?;
        let mut sums = Sums::new(self, out.w_ih, out.w_hh, out.b, out.peephole, out.w_hr)?;

        let weights = (self.w_ih.bytes() + self.w_hh.bytes(), self.w_hh.blocks());
        let plan = Plan::new::<T>(control, &dims, &schedule, weights, 2.0);
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
            d_z: RowsMut::flat(d_z, rows),
            d_r: RowsMut::flat(d_r, output),
            dx: out.x.map(|dx| RowsMut::new("dx", dx)).transpose()?,
            sums: sums.rows(&self.dims),
            stop: Stop::new(control),
        };
        threads::share(hands, |worker, hand| T::dispatch(self.isa, Share { pass: &pass, worker, hand }));
        pass.stop.outcome()
    }
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
    /// (T·N, G·H)
    pub(super) d_z: RowsMut<'a, T>,
    /// (T·N, P), where there is a projection.
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
        // what others have written, of `d_z` and `d_r`, only behind the barrier that follows.
        let mut own = unsafe {
            let (d_h, d_c, d_z, d_r) = (pass.d_h.share(), pass.d_c.share(), pass.d_z.share(), pass.d_r.share());
            Own { units, outputs, hidden, d_h, d_c, d_z, d_r }
        };
        let chunk = steps_per_chunk::<T>(pass.dims.batch * dims.gate_rows(), schedule.steps());
        for s in (0..schedule.steps()).rev() {
            if s % chunk == 0 && pass.stop.before(worker, schedule.steps() - 1 - s, pass.plan.split == Split::Units) {
                break;
            }
            pass.step(simd, (&schedule, worker), schedule.time(s), &mut own, &mut hand.r);
        }
        // The sums read what all have written.
        worker.wait();
        if !pass.stop.asked() {
            input_gradient(simd, pass, worker, hand);
            pass.sum(simd, worker, hand);
        }
    }
}

impl<T: Element> Pass<'_, T> {
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

    /// The row of step `(t, n)` in a workspace (T·N, ·).
    #[inline(always)]
    pub(super) fn index(&self, t: usize, n: usize) -> usize {
        t * self.dims.batch + n
    }

    /// One step back of the sequences that run at time `t`.
    #[inline(always)]
    fn step<S: Lanes<T>>(
        &self,
        simd: S,
        (schedule, worker): (&Schedule<'_>, &Worker<'_>),
        t: usize,
        own: &mut Own<'_, T>,
        scratch: &mut [T],
    ) {
        let Backward { cell, w_hh, w_hr, peephole, .. } = self.weights;
        let w_hh = w_hh.part(&own.outputs);
        let gates = self.dims.layer.gates;
        let active = schedule.active(t);
        let outputs = self.weights.w_hh.columns(&own.outputs, self.dims.layer.output_size);

        let mut projected = 0;
        if let Some(w_hr) = w_hr {
            for j in 0..active {
                let n = schedule.sequence(j);
                let d_r = own.d_r.part_mut(0, self.index(t, n), &outputs);
                d_r.copy_from_slice(own.d_h.part_mut(0, n, &outputs));
                let dy = self.dy.map_or(self.initial.zeros, |dy| dy.row(t, n));
                pointwise::accumulate(simd, &dy[outputs.clone()], None, d_r);
            }
            self.plan.meet(worker);
            let w_hr = w_hr.part(&own.hidden);
            let d_r = |j: usize| own.d_r.row(0, self.index(t, schedule.sequence(j)));
            product(simd, active, d_r, w_hr, Start::Zero, scratch);
            projected = w_hr.vectors() * S::LANES;
        }
        let peephole = &peephole[own.units.start.div_ceil(S::LANES) * cell.peephole_rows().count * S::LANES..];
        for j in 0..active {
            let n = schedule.sequence(j);
            let d_h = match w_hr {
                None => (self.dy.map(|dy| &dy.row(t, n)[own.units.clone()]), &*own.d_h.part_mut(0, n, &own.units)),
                Some(_) => (None, &scratch[j * projected..][..own.units.len()]),
            };
            let row = pointwise::Backward {
                gates: self.gates.groups(t, n, gates, &own.units),
                peephole,
                c: &self.c.row(t, n)[own.units.clone()],
                c_before: &self.c_before(schedule, t, j)[own.units.clone()],
                d_h,
                d_c: own.d_c.part_mut(0, n, &own.units),
                d_z: own.d_z.groups_mut(0, self.index(t, n), gates, &own.units),
            };
            pointwise::backward(simd, *cell, row);
        }
        self.plan.meet(worker);
        if w_hh.vectors() == 0 {
            return;
        }
        let d_z = |j: usize| own.d_z.row(0, self.index(t, schedule.sequence(j)));
        product(simd, active, d_z, w_hh, Start::Zero, scratch);
        for (j, carry) in scratch.chunks_exact(w_hh.vectors() * S::LANES).take(active).enumerate() {
            let n = schedule.sequence(j);
            pointwise::store_snapped(simd, carry, own.d_h.part_mut(0, n, &outputs));
        }
    }
}
