//! The time loop.
//!
//! Time is cut into chunks whose pre-activations fit a quarter of the second-level cache. For each chunk: the input
//! product of all its steps at once, then step by step the recurrent product, which continues the same chains, then the
//! gates, the state and the output, then the projection.

use std::ops::Range;

use super::schedule::Schedule;
use super::share::{Hand, Plan, Split, Stop, Workspace, steps_per_chunk};
use super::{Control, Forward, Input, Output, StateRows, flat};
use crate::dims::Dims;
use crate::error::{Error, Result};
use crate::kernel::pointwise;
use crate::kernel::tile::{Start, product};
use crate::simd::memory::{Rows, RowsMut, try_resize};
use crate::simd::{Element, Job, Lanes};
use crate::threads::{self, Worker};

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
        let dims = input.dims(self.dims)?;
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

        let weights = (self.w_ih.bytes() + self.w_hh.bytes(), self.w_hh.blocks());
        let plan = Plan::new::<T>(control, &dims, &schedule, weights, 1.0);
        let hands = Workspace::hands(hands, plan.threads)?;
        let lanes = self.b.len() / self.w_hh.vectors();
        for (k, hand) in hands.iter_mut().enumerate() {
            // The first may have to work alone.
            for workers in if k == 0 { [1, plan.threads] } else { [plan.threads; 2] } {
                let (batch, blocks) = plan.most(workers, dims.batch, self.w_hh.blocks());
                let row = blocks * self.dims.gates * lanes;
                let cells = steps_per_chunk::<T>(batch * row, schedule.steps()) * batch;
                hand.z.grow(cells * row)?;
                if hand.cells.len() < cells {
                    try_resize(&mut hand.cells, cells, (0, 0))?;
                }
                hand.r.grow(self.w_hr.as_ref().map_or(0, |w_hr| batch * w_hr.vectors() * lanes))?;
            }
        }
        hidden_rows.resize(if self.w_hr.is_some() { dims.batch * hidden } else { 0 })?;
        let pass = Pass {
            weights: self,
            dims,
            schedule,
            plan,
            x: Rows::new("x", input.x)?,
            initial,
            y: RowsMut::new("y", y)?,
            c: RowsMut::flat(c, hidden),
            h: RowsMut::flat(hidden_rows, hidden),
            gates,
            c_tape,
            stop: Stop::new(control),
        };
        threads::share(hands, |worker, hand| T::dispatch(self.isa, Share { pass: &pass, worker, hand }));
        pass.stop.outcome()?;
        let h = flat("final state.h", state.h.into_slice())?;
        for j in 0..dims.batch {
            let n = schedule.sequence(j);
            let last = schedule.last(j).map_or(initial.h(n), |t| pass.y.row(t, n));
            h[n * self.dims.output_size..][..self.dims.output_size].copy_from_slice(last);
        }
        Ok(())
    }
}

/// A pass forward under way.
struct Pass<'a, T> {
    weights: &'a Forward<T>,
    dims: Dims,
    schedule: Schedule<'a>,
    plan: Plan,
    x: Rows<'a, T>,
    initial: StateRows<'a, T>,
    /// The step before is read here, and this step written.
    y: RowsMut<'a, T>,
    /// (N, H), updated in place.
    c: RowsMut<'a, T>,
    /// (N, H): a step's hidden state, where it is projected.
    h: RowsMut<'a, T>,
    gates: Option<RowsMut<'a, T>>,
    c_tape: Option<RowsMut<'a, T>>,
    stop: Stop<'a>,
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
        let Self { pass, worker, hand: Hand { z, r, cells, .. } } = self;
        let Forward { w_ih, w_hh, w_hr, b, .. } = pass.weights;
        let (schedule, blocks) = pass.plan.share(worker, pass.schedule, w_hh.blocks());
        let (most, most_blocks) = pass.plan.most(worker.count(), pass.dims.batch, w_hh.blocks());
        let units = blocks.start * S::LANES..(blocks.end * S::LANES).min(pass.dims.layer.hidden_size);
        let outputs = match pass.plan.split {
            Split::Batch => 0..w_hr.as_ref().map_or(0, |w_hr| w_hr.blocks()),
            Split::Units => worker.part(w_hr.as_ref().map_or(0, |w_hr| w_hr.blocks())),
        };
        // SAFETY: a worker writes the rows of its own sequences, or the columns of its own units and outputs. It reads
        // what others have written, of `y` and `h`, only behind the barrier that follows.
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
            }
        };
        let w_ih = w_ih.part(&own.blocks);
        let row = w_ih.vectors() * S::LANES;
        let steps = schedule.steps();
        // The same for all workers, as they meet.
        let chunk = steps_per_chunk::<T>(most * most_blocks * pass.dims.layer.gates * S::LANES, steps);
        let rounds = (0..steps).step_by(chunk);
        for (round, first) in rounds.enumerate() {
            if pass.stop.before(worker, round, pass.plan.split == Split::Units) {
                return;
            }
            let end = steps.min(first + chunk);
            let mut count = 0;
            for cell in schedule.cells(first..end) {
                cells[count] = cell;
                count += 1;
            }
            let x = |r: usize| {
                let (t, j) = cells[r];
                pass.x.row(t, schedule.sequence(j))
            };
            product(simd, count, x, w_ih, Start::Row(b), z);
            let mut z = &mut z[..];
            for s in first..end {
                let t = schedule.time(s);
                let active = schedule.active(t);
                let (now, later) = z.split_at_mut(active * row);
                pass.step(simd, (&schedule, worker), t, active, &mut own, now, r);
                if s + 1 < steps {
                    pass.plan.meet(worker);
                }
                z = later;
            }
        }
    }
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
}

impl<T: Element> Pass<'_, T> {
    /// One step of the sequences that run at time `t`, whose input is already in `z`.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "what is there before the loop over time")]
    fn step<S: Lanes<T>>(
        &self,
        simd: S,
        (schedule, worker): (&Schedule<'_>, &Worker<'_>),
        t: usize,
        active: usize,
        own: &mut Own<'_, T>,
        z: &mut [T],
        r: &mut [T],
    ) {
        let Forward { cell, w_hh, w_hr, peephole, .. } = self.weights;
        let w_hh = w_hh.part(&own.blocks);
        {
            let (y, initial) = (&own.y, self.initial);
            let before = |j: usize| {
                let n = schedule.sequence(j);
                schedule.before(t, j).map_or_else(|| initial.h(n), |t| y.row(t, n))
            };
            product(simd, active, before, w_hh, Start::Out, z);
        }
        let peephole = &peephole[own.blocks.start * cell.peephole_rows().count * S::LANES..];
        for (j, z) in z.chunks_exact(w_hh.vectors() * S::LANES).enumerate() {
            let n = schedule.sequence(j);
            let c = own.c.part_mut(0, n, &own.units);
            let h = match w_hr {
                None => own.y.part_mut(t, n, &own.units),
                Some(_) => own.h.part_mut(0, n, &own.units),
            };
            let gates = own.gates.as_mut().map(|gates| gates.groups_mut(t, n, self.dims.layer.gates, &own.units));
            pointwise::forward(simd, *cell, pointwise::Forward { z, peephole, c, h, gates });
            if let Some(c_tape) = &mut own.c_tape {
                c_tape.part_mut(t, n, &own.units).copy_from_slice(own.c.part_mut(0, n, &own.units));
            }
        }
        if let Some(w_hr) = w_hr {
            self.plan.meet(worker);
            let w_hr = w_hr.part(&own.outputs);
            let (width, first) = (w_hr.vectors() * S::LANES, w_hr.first_column());
            if width == 0 {
                return;
            }
            product(simd, active, |j| own.h.row(0, schedule.sequence(j)), w_hr, Start::Zero, r);
            let outputs = first..self.dims.layer.output_size.min(first + width);
            for (j, r) in r.chunks_exact(width).take(active).enumerate() {
                own.y.part_mut(t, schedule.sequence(j), &outputs).copy_from_slice(&r[..outputs.len()]);
            }
        }
    }
}
