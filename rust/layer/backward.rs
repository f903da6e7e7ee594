//! The time loop reversed: the mirror of `forward.rs`.
//!
//! Step by step from the last: the projection's gradient, the gradients of the gates and the state, then the recurrent
//! product, which gives the carry to the step before. Two values are carried, each rounded once: `d_h` and `d_c`. They
//! start as the gradient of the final state and end as that of the initial one, in the caller's own array: backward over
//! chunks is therefore backward over the whole. What sums over time or does not feed back is left to `deferred.rs`.

use super::deferred::{self, Sums};
use super::schedule::Schedule;
use super::{Backward, Cancel, Gradients, OutputGradient, StateRows, Tape, flat, steps_per_chunk};
use crate::dims::Dims;
use crate::error::{Error, Result};
use crate::kernel::pointwise;
use crate::kernel::tile::{Start, product};
use crate::simd::memory::{Aligned, Rows, RowsMut, try_vec};
use crate::simd::{Element, Job, Lanes};

impl<T: Element> Backward<T> {
    /// Runs the layer backward over what `tape` has recorded.
    ///
    /// # Errors
    /// Shapes that do not fit, no memory, or `cancel` said so.
    pub fn run(
        &self,
        tape: Tape<'_, T>,
        gradient: OutputGradient<'_, T>,
        out: Gradients<'_, T>,
        cancel: Cancel<'_>,
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
        let schedule = Schedule::new(dims.steps, dims.batch, tape.input.lengths, tape.input.reverse)?;
        let (hidden, output, rows) = (self.dims.hidden_size, self.dims.output_size, self.dims.gate_rows());
        let zeros = try_vec(hidden.max(output), T::ZERO)?;
        let gates = tape.gates.into_shape_with_order((dims.steps, dims.batch, rows));
        let carry = StateRows::new("dstate", gradient.state, self.dims, &zeros)?;
        let d_h = flat("initial state's gradient.h", out.state.h.into_slice())?;
        let d_c = flat("initial state's gradient.c", out.state.c.into_slice())?;
        for n in 0..dims.batch {
            d_h[n * output..][..output].copy_from_slice(carry.h(n));
            d_c[n * hidden..][..hidden].copy_from_slice(carry.c(n));
        }
        let cells = dims.steps * dims.batch;
        let mut d_z = try_vec(cells * rows, T::ZERO)?;
        let mut d_r = try_vec(if self.w_hr.is_some() { cells * output } else { 0 }, T::ZERO)?;
        let pass = Pass {
            weights: self,
            dims,
            schedule: &schedule,
            initial: StateRows::new("state", tape.input.state, self.dims, &zeros)?,
            x: Rows::new("x", tape.input.x)?,
            y: Rows::new("tape.y", tape.y)?,
            gates: Rows::new("tape.gates", gates.map_err(|_| Error::layout("tape.gates"))?)?,
            c: Rows::new("tape.c", tape.c)?,
            dy: gradient.dy.map(|dy| Rows::new("dy", dy)).transpose()?,
            cancel,
        };
        let run = Run {
            pass,
            d_h,
            d_c,
            d_z: &mut d_z,
            d_r: &mut d_r,
            dx: out.x.map(|dx| RowsMut::new("dx", dx)).transpose()?,
            sums: Sums::new(self, out.w_ih, out.w_hh, out.b, out.peephole, out.w_hr)?,
        };
        T::dispatch(self.isa, run)
    }
}

/// What a pass backward reads.
pub(super) struct Pass<'a, T> {
    pub(super) weights: &'a Backward<T>,
    pub(super) dims: Dims,
    pub(super) schedule: &'a Schedule,
    pub(super) initial: StateRows<'a, T>,
    pub(super) x: Rows<'a, T>,
    pub(super) y: Rows<'a, T>,
    pub(super) gates: Rows<'a, T>,
    pub(super) c: Rows<'a, T>,
    pub(super) dy: Option<Rows<'a, T>>,
    pub(super) cancel: Cancel<'a>,
}

/// And what it writes.
struct Run<'a, T> {
    pass: Pass<'a, T>,
    /// The carries, (N, P) and (N, H).
    d_h: &'a mut [T],
    d_c: &'a mut [T],
    /// (T, N, G·H)
    d_z: &'a mut [T],
    /// (T, N, P), where there is a projection.
    d_r: &'a mut [T],
    dx: Option<RowsMut<'a, T>>,
    sums: Sums<'a, T>,
}

impl<T: Element> Job<T> for Run<'_, T> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Lanes<T>>(mut self, simd: S) -> Result<()> {
        let Backward { w_hh, w_hr, .. } = self.pass.weights;
        let (batch, vector) = (self.pass.dims.batch, S::LANES);
        let widest = w_hh.vectors().max(w_hr.as_ref().map_or(0, |w_hr| w_hr.vectors()));
        let mut scratch = Aligned::try_zeroed(batch * widest * vector)?;
        let chunk = steps_per_chunk::<T>(batch * self.pass.dims.layer.gate_rows());
        for s in (0..self.pass.schedule.steps()).rev() {
            if s % chunk == 0 && (self.pass.cancel)() {
                return Err(Error::Cancelled);
            }
            self.step(simd, self.pass.schedule.time(s), &mut scratch);
        }
        let Self { pass, d_z, d_r, dx, sums, .. } = self;
        if let Some(dx) = dx {
            deferred::input_gradient(simd, &pass, d_z, dx)?;
        }
        sums.run(simd, &pass, d_z, d_r)
    }
}

impl<T: Element> Pass<'_, T> {
    /// The state `c` that step `t` of the `j`-th sequence started from.
    #[inline(always)]
    pub(super) fn c_before(&self, t: usize, j: usize) -> &[T] {
        let n = self.schedule.sequence(j);
        self.schedule.before(t, j).map_or_else(|| self.initial.c(n), |t| self.c.row(t, n))
    }

    /// The output `r` that step `t` of the `j`-th sequence started from.
    #[inline(always)]
    pub(super) fn r_before(&self, t: usize, j: usize) -> &[T] {
        let n = self.schedule.sequence(j);
        self.schedule.before(t, j).map_or_else(|| self.initial.h(n), |t| self.y.row(t, n))
    }

    /// Where row `(t, n)` of a workspace (T, N, width) is.
    #[inline(always)]
    pub(super) fn place(&self, t: usize, n: usize, width: usize) -> std::ops::Range<usize> {
        let start = (t * self.dims.batch + n) * width;
        start..start + width
    }
}

impl<T: Element> Run<'_, T> {
    /// One step back of the sequences that run at time `t`.
    #[inline(always)]
    fn step<S: Lanes<T>>(&mut self, simd: S, t: usize, scratch: &mut [T]) {
        let pass = &self.pass;
        let Backward { cell, w_hh, w_hr, peephole, .. } = pass.weights;
        let (hidden, output, rows) =
            (pass.dims.layer.hidden_size, pass.dims.layer.output_size, pass.dims.layer.gate_rows());
        let schedule = pass.schedule;
        let active = schedule.active(t);

        if let Some(w_hr) = w_hr {
            for j in 0..active {
                let n = schedule.sequence(j);
                let d_r = &mut self.d_r[pass.place(t, n, output)];
                d_r.copy_from_slice(&self.d_h[n * output..][..output]);
                pointwise::accumulate(
                    simd,
                    pass.dy.map_or(&pass.initial.zeros[..output], |dy| dy.row(t, n)),
                    None,
                    d_r,
                );
            }
            let d_r = |j: usize| &self.d_r[pass.place(t, schedule.sequence(j), output)];
            product(simd, active, d_r, w_hr, Start::Zero, scratch);
        }
        let projected = w_hr.as_ref().map_or(0, |w_hr| w_hr.vectors() * S::LANES);
        for j in 0..active {
            let n = schedule.sequence(j);
            let d_h = match w_hr {
                None => (pass.dy.map(|dy| dy.row(t, n)), &self.d_h[n * output..][..output]),
                Some(_) => (None, &scratch[j * projected..][..hidden]),
            };
            let row = pointwise::Backward {
                gates: pass.gates.row(t, n),
                peephole,
                c: pass.c.row(t, n),
                c_before: pass.c_before(t, j),
                d_h,
                d_c: &mut self.d_c[n * hidden..][..hidden],
                d_z: &mut self.d_z[pass.place(t, n, rows)],
            };
            pointwise::backward(simd, *cell, row);
        }
        let d_z = |j: usize| &self.d_z[pass.place(t, schedule.sequence(j), rows)];
        product(simd, active, d_z, w_hh, Start::Zero, scratch);
        for (j, carry) in scratch.chunks_exact(w_hh.vectors() * S::LANES).take(active).enumerate() {
            let n = schedule.sequence(j);
            pointwise::store_snapped(simd, carry, &mut self.d_h[n * output..][..output]);
        }
    }
}
