//! The time loop.
//!
//! Time is cut into chunks whose pre-activations fit a quarter of the second-level cache. For each chunk: the input
//! product of all its steps at once, then step by step the recurrent product, which continues the same chains, then the
//! gates, the state and the output, then the projection.

use super::schedule::Schedule;
use super::{Cancel, Forward, Input, Output, StateRows, flat, steps_per_chunk};
use crate::dims::Dims;
use crate::error::{Error, Result};
use crate::kernel::pointwise;
use crate::kernel::tile::{Start, product};
use crate::simd::memory::{Aligned, Rows, RowsMut, try_vec};
use crate::simd::{Element, Job, Lanes};

impl<T: Element> Forward<T> {
    /// Runs the layer over `input`.
    ///
    /// # Errors
    /// Shapes that do not fit, no memory, or `cancel` said so.
    pub fn run(&self, input: Input<'_, T>, output: Output<'_, T>, cancel: Cancel<'_>) -> Result<()> {
        let dims = input.dims(self.dims)?;
        let Output { y, state, tape } = output;
        dims.check_sequence("y", self.dims.output_size, y.shape())?;
        dims.check_state("final state", state.h.shape(), state.c.shape())?;
        let schedule = Schedule::new(dims.steps, dims.batch, input.lengths, input.reverse)?;
        let (hidden, rows) = (self.dims.hidden_size, self.dims.gate_rows());
        let (mut gates, mut c_tape) = (None, None);
        if let Some(tape) = tape {
            dims.check_tape(tape.gates.shape(), tape.c.shape())?;
            let flat = tape.gates.into_shape_with_order((dims.steps, dims.batch, rows));
            gates = Some(RowsMut::new("tape.gates", flat.map_err(|_| Error::layout("tape.gates"))?)?);
            c_tape = Some(RowsMut::new("tape.c", tape.c)?);
        }
        let zeros = try_vec(hidden.max(self.dims.output_size), T::ZERO)?;
        let initial = StateRows::new("state", input.state, self.dims, &zeros)?;
        let c = flat("final state.c", state.c.into_slice())?;
        for n in 0..dims.batch {
            c[n * hidden..][..hidden].copy_from_slice(initial.c(n));
        }
        let mut pass = Pass {
            weights: self,
            dims,
            schedule: &schedule,
            x: Rows::new("x", input.x)?,
            initial,
            y: RowsMut::new("y", y)?,
            c,
            gates,
            c_tape,
            cancel,
        };
        T::dispatch(self.isa, &mut pass)?;
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
    schedule: &'a Schedule,
    x: Rows<'a, T>,
    initial: StateRows<'a, T>,
    /// The step before is read here, and this step written.
    y: RowsMut<'a, T>,
    /// (N, H), updated in place.
    c: &'a mut [T],
    gates: Option<RowsMut<'a, T>>,
    c_tape: Option<RowsMut<'a, T>>,
    cancel: Cancel<'a>,
}

impl<T: Element> Job<T> for &mut Pass<'_, T> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) -> Result<()> {
        let Forward { w_ih, w_hr, b, .. } = self.weights;
        let row = w_ih.vectors() * S::LANES;
        let batch = self.dims.batch;
        let steps = self.schedule.steps();
        let chunk = steps_per_chunk::<T>(batch * row).min(steps.max(1));
        let mut z = Aligned::try_zeroed(chunk * batch * row)?;
        let mut cells = try_vec(chunk * batch, (0, 0))?;
        let hidden_rows = if w_hr.is_some() { batch * self.dims.layer.hidden_size } else { 0 };
        let mut projection = Projection {
            h: Aligned::try_zeroed(hidden_rows)?,
            r: Aligned::try_zeroed(w_hr.as_ref().map_or(0, |w_hr| batch * w_hr.vectors() * S::LANES))?,
        };

        for first in (0..steps).step_by(chunk) {
            if (self.cancel)() {
                return Err(Error::Cancelled);
            }
            let end = steps.min(first + chunk);
            let mut count = 0;
            for (place, cell) in cells.iter_mut().zip(self.schedule.cells(first..end)) {
                *place = cell;
                count += 1;
            }
            let x = |r: usize| {
                let (t, j) = cells[r];
                self.x.row(t, self.schedule.sequence(j))
            };
            product(simd, count, x, w_ih, Start::Row(b), &mut z);
            let mut z = &mut z[..];
            for s in first..end {
                let t = self.schedule.time(s);
                let active = self.schedule.active(t);
                let (now, later) = z.split_at_mut(active * row);
                self.step(simd, t, active, now, &mut projection);
                z = later;
            }
        }
        Ok(())
    }
}

/// Room for a step's hidden state and its projection.
struct Projection<T> {
    /// (N, H)
    h: Aligned<T>,
    /// (N, P), padded to vectors
    r: Aligned<T>,
}

impl<T: Element> Pass<'_, T> {
    /// One step of the sequences that run at time `t`, whose input is already in `z`.
    #[inline(always)]
    fn step<S: Lanes<T>>(&mut self, simd: S, t: usize, active: usize, z: &mut [T], projection: &mut Projection<T>) {
        let Forward { cell, w_hh, w_hr, peephole, .. } = self.weights;
        let schedule = self.schedule;
        let hidden = self.dims.layer.hidden_size;
        let row = w_hh.vectors() * S::LANES;
        {
            let (y, initial) = (&self.y, self.initial);
            let before = |j: usize| {
                let n = schedule.sequence(j);
                schedule.before(t, j).map_or_else(|| initial.h(n), |t| y.row(t, n))
            };
            product(simd, active, before, w_hh, Start::Out, z);
        }
        for (j, z) in z.chunks_exact(row).enumerate() {
            let n = schedule.sequence(j);
            let c = &mut self.c[n * hidden..][..hidden];
            let h = match w_hr {
                None => self.y.row_mut(t, n),
                Some(_) => &mut projection.h[j * hidden..][..hidden],
            };
            let gates = self.gates.as_mut().map(|gates| gates.row_mut(t, n));
            pointwise::forward(simd, *cell, pointwise::Forward { z, peephole, c, h, gates });
            if let Some(c_tape) = &mut self.c_tape {
                c_tape.row_mut(t, n).copy_from_slice(&self.c[n * hidden..][..hidden]);
            }
        }
        if let Some(w_hr) = w_hr {
            let Projection { h, r } = projection;
            product(simd, active, |j| &h[j * hidden..][..hidden], w_hr, Start::Zero, r);
            for (j, r) in r.chunks_exact(w_hr.vectors() * S::LANES).take(active).enumerate() {
                let y = self.y.row_mut(t, schedule.sequence(j));
                let width = y.len();
                y.copy_from_slice(&r[..width]);
            }
        }
    }
}
