//! The gradients, by formulas (see `kernel/pointwise.rs`), from the tape back.
//!
//! That the formulas are right the tests of `accuracy.rs` say, which know of none: they compare the engine's gradients
//! with slopes.

use ndarray::Dimension;

use super::super::super::calls::{Backwarded, Forwarded, UNTOUCHED};
use super::super::super::cases::{Case, Data};
use super::{Before, Sum, assert_near, steps};
use crate::cell::Activation;
use crate::kernel::activation::activate;
use crate::simd::{InstructionSet, Job, Lanes};
use crate::testing::Real;

/// What the engine's activation is, which says on which side of a corner its slope is.
fn activated<T: Real>(activation: Activation, x: T) -> T {
    struct One<T>(Activation, T);
    impl<T: Real> Job<T> for One<T> {
        type Output = T;
        #[inline(always)]
        fn run<S: Lanes<T>>(self, simd: S) -> T {
            let mut all = [T::ZERO; 16];
            let lanes = simd.vectors_mut(&mut all);
            simd.store(activate::<S, T>(simd, self.0, simd.splat(self.1)), &mut lanes[0]);
            all[0]
        }
    }
    T::dispatch(InstructionSet::Scalar, One(activation, x))
}

/// The slope of an activation whose value this is.
fn slope(activation: Activation, a: f64) -> Sum {
    let one = Sum::exactly(1.0);
    let (this, minus) = (Sum::exactly(a), Sum::exactly(-a));
    let either = |first: bool, a: f64, b: f64| Sum::exactly(if first { a } else { b });
    match activation {
        Activation::Sigmoid => this.times(one.plus(minus)),
        Activation::Tanh => one.plus(this.times(minus)),
        Activation::Identity => one,
        Activation::Relu | Activation::ThresholdedRelu { .. } => either(a > 0.0, 1.0, 0.0),
        Activation::Affine { alpha, .. } => Sum::exactly(alpha),
        Activation::LeakyRelu { alpha } => either(a > 0.0, 1.0, alpha),
        Activation::ScaledTanh { alpha: 0.0, .. } => Sum::default(),
        Activation::ScaledTanh { alpha, beta } => {
            let t = a / alpha;
            one.plus(Sum::exactly(t).times(Sum::exactly(-t))).by(alpha * beta)
        }
        Activation::HardSigmoid { alpha, .. } => either(a > 0.0 && a < 1.0, alpha, 0.0),
        Activation::Elu { .. } if a > 0.0 => one,
        Activation::Elu { alpha } => this.plus(Sum::exactly(alpha)),
        Activation::Softsign => {
            let root = one.plus(Sum::exactly(-a.abs()));
            root.times(root)
        }
        Activation::Softplus => Sum::new(-(-a.max(0.0)).exp_m1(), 1.0, 0.0),
    }
}

/// The same arrays as those of [`Backwarded`], flat.
struct Gradients {
    w_ih: Vec<Sum>,
    w_hh: Vec<Sum>,
    b: Vec<Sum>,
    peephole: Vec<Sum>,
    w_hr: Vec<Sum>,
    h: Vec<Sum>,
    c: Vec<Sum>,
}

/// Fails where a gradient is not what it has to be.
pub(super) fn check<T: Real>(case: &Case, data: &Data<T>, tape: &Forwarded<T>, got: &Backwarded<T>) {
    let Case { cell, steps: _, batch, input, hidden, .. } = *case;
    let (output, rows) = (case.output(), cell.gate_rows().count * hidden);
    let zeros = |len: usize| vec![Sum::default(); len];
    let mut sums = Gradients {
        w_ih: zeros(rows * input),
        w_hh: zeros(rows * output),
        b: zeros(rows),
        peephole: zeros(cell.peephole_rows().count * hidden),
        w_hr: zeros(output * hidden),
        h: Vec::new(),
        c: Vec::new(),
    };
    // A carry goes through a product with the weights, and through each of the operations of a unit, at each step.
    let operations = case.steps * (rows + output + 16) + case.steps * batch;
    for n in 0..batch {
        let ending = |width: usize, given: Option<&ndarray::Array2<T>>| {
            (0..width).map(|k| Sum::exactly(given.map_or(0.0, |d| d[[n, k]].wide()))).collect::<Vec<_>>()
        };
        let mut d_h = ending(output, data.dstate.as_ref().map(|d| &d.0));
        let mut d_c = ending(hidden, data.dstate.as_ref().map(|d| &d.1));
        for step in steps(case, data, tape, n).rev() {
            let d_x = step_back(data, &step, &mut sums, (&mut d_h, &mut d_c));
            if let Some(got) = &got.x {
                for (k, expected) in d_x.into_iter().enumerate() {
                    let what = || format!("d_x[{}, {n}, {k}] of {case:?} in {}", step.t, T::NAME);
                    assert_near(&what, got[[step.t, n, k]], expected, operations);
                }
            }
        }
        if let Some(got) = &got.x {
            let behind = got.slice(ndarray::s![case.length(n).., n, ..]);
            assert!(behind.iter().all(|x| x.wide() == UNTOUCHED), "d_x behind sequence {n} of {case:?}");
        }
        sums.h.extend(d_h);
        sums.c.extend(d_c);
    }
    for (name, got) in got.named() {
        let expected = match name {
            "w_ih" => &sums.w_ih,
            "w_hh" => &sums.w_hh,
            "b" => &sums.b,
            "peephole" => &sums.peephole,
            "w_hr" => &sums.w_hr,
            "state.h" => &sums.h,
            "state.c" => &sums.c,
            _ => continue,
        };
        assert_eq!(got.len(), expected.len(), "{name}");
        for ((at, got), expected) in got.indexed_iter().zip(expected) {
            let what = || format!("d_{name}{:?} of {case:?} in {}", at.slice(), T::NAME);
            assert_near(&what, *got, *expected, operations);
        }
    }
}

/// A step back: the gradient of its input; what sums over the steps is added to, and the carries are handed on.
fn step_back<T: Real>(
    data: &Data<T>,
    step: &Before<'_, T>,
    sums: &mut Gradients,
    (d_h, d_c): (&mut [Sum], &mut [Sum]),
) -> Vec<Sum> {
    let Before { t, n, case, .. } = *step;
    let Case { cell, input, hidden, .. } = *case;
    let (rows, looks, output) = (cell.gate_rows(), cell.peephole_rows(), case.output());
    let d_r: Vec<_> = (0..output)
        .map(|p| d_h[p].plus(Sum::exactly(data.dy.as_ref().map_or(0.0, |dy| dy[[t, n, p]].wide()))))
        .collect();
    let mut d_z = vec![Sum::default(); rows.count * hidden];
    for unit in 0..hidden {
        let (o, after, before) = (step.gate(rows.o, unit), step.c(unit), step.c[unit]);
        let a = activated(cell.output_activation, after).wide();
        let d_hidden = match &data.w_hr {
            None => d_r[unit],
            Some(w_hr) => d_r.iter().zip(w_hr.column(unit)).enumerate().fold(Sum::default(), |sum, (p, (d_r, w))| {
                let add = &mut sums.w_hr[p * hidden + unit];
                *add = add.plus(d_r.by(o * a));
                sum.plus(d_r.by(w.wide()))
            }),
        };
        // By the slope of an activation, which is 0 where its argument was cut.
        let through = |activation: Activation, by: Sum, value: f64| {
            let mut inside = true;
            if cell.gate_clip.is_finite() {
                let [one, two] = [-cell.gate_clip, cell.gate_clip].map(|z| activated(activation, T::of(z)).wide());
                inside = one.min(two) < value && value < one.max(two);
            }
            if inside { by.times(slope(activation, value)) } else { Sum::default() }
        };
        let look = |row: Option<usize>| match (row, &data.peephole) {
            (Some(row), Some(peephole)) => peephole[[row, unit]].wide(),
            _ => 0.0,
        };
        let (i, g) = (step.gate(rows.i, unit), step.gate(Some(rows.g), unit));
        let gate = |row: Option<usize>, by: Sum| {
            row.map_or(Sum::default(), |row| {
                through(cell.gate_activation, by, step.gate(Some(row), unit)).snapped::<T>()
            })
        };
        let d_o = gate(rows.o, d_hidden.by(a));
        let mut d_state =
            d_hidden.by(o).times(slope(cell.output_activation, a)).plus(d_c[unit]).plus(d_o.by(look(looks.o)));
        if cell.cell_clip.is_finite() && after.wide().abs() >= cell.cell_clip {
            d_state = Sum::default();
        }
        let d_f = gate(rows.f, d_state.by(before));
        let written = if cell.coupled { Sum::exactly(g).plus(Sum::exactly(-before)) } else { Sum::exactly(g) };
        let d_i = gate(rows.i, d_state.times(written));
        let d_g = through(cell.input_activation, d_state.by(i), g).snapped::<T>();
        let carry = d_state.times(step.forget(unit)).plus(d_i.by(look(looks.i))).plus(d_f.by(look(looks.f)));
        d_c[unit] = carry.snapped::<T>();
        for (row, d) in [(rows.i, d_i), (rows.f, d_f), (Some(rows.g), d_g), (rows.o, d_o)] {
            if let Some(row) = row {
                d_z[row * hidden + unit] = d;
            }
        }
        for (row, d, seen) in [(looks.i, d_i, before), (looks.f, d_f, before), (looks.o, d_o, after.wide())] {
            if let Some(row) = row {
                let add = &mut sums.peephole[row * hidden + unit];
                *add = add.plus(d.by(seen));
            }
        }
    }
    let mut d_x = vec![Sum::default(); input];
    d_h.fill(Sum::default());
    for (row, d) in d_z.into_iter().enumerate() {
        sums.b[row] = sums.b[row].plus(d);
        for (k, d_x) in d_x.iter_mut().enumerate() {
            let add = &mut sums.w_ih[row * input + k];
            *add = add.plus(d.by(data.x[[t, n, k]].wide()));
            *d_x = d_x.plus(d.by(data.w_ih[[row, k]].wide()));
        }
        for (p, d_h) in d_h.iter_mut().enumerate() {
            let add = &mut sums.w_hh[row * output + p];
            *add = add.plus(d.by(step.r[p]));
            *d_h = d_h.plus(d.by(data.w_hh[[row, p]].wide()));
        }
    }
    for d_h in d_h {
        *d_h = d_h.snapped::<T>();
    }
    d_x
}
