//! Every number of a call beside one of double precision, each within a bound of its own.
//!
//! A tolerance for a whole array does for cases that somebody has chosen. Among millions that nobody has, some number is
//! the small difference of large ones, some argument lies at a jump of its activation, and some recurrence makes a
//! rounding grow. Hence:
//!
//! * what a number is made of is taken from the tape, so that no error is carried on: a gate is made of the state that the
//!   step before has recorded, a state of the gates recorded, an output of the state recorded;
//! * beside each sum stands that of the magnitudes, which is what its roundings are in proportion to;
//! * a gate may have any value that its activation has within those roundings of its argument.
//!
//! The gradients have formulas here (see `kernel/pointwise.rs`), from the tape back. That the formulas are right the
//! tests of `accuracy.rs` say, which know of none: they compare the engine's gradients with slopes.

use ndarray::Dimension;

use super::super::calls::{Backwarded, Forwarded, UNTOUCHED};
use super::super::cases::{Case, Data};
use super::Outcome;
use crate::cell::Activation;
use crate::kernel::activation::activate;
use crate::reference::squash;
use crate::simd::{InstructionSet, Job, Lanes};
use crate::testing::Real;

/// A number, and the sum of the magnitudes of what it was made of.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    value: f64,
    size: f64,
}

impl Sum {
    fn exactly(value: f64) -> Self {
        Self { value, size: value.abs() }
    }

    fn plus(self, other: Self) -> Self {
        Self { value: self.value + other.value, size: self.size + other.size }
    }

    fn times(self, other: Self) -> Self {
        Self { value: self.value * other.value, size: self.size * other.size }
    }

    fn by(self, factor: f64) -> Self {
        self.times(Self::exactly(factor))
    }

    /// 0 below the threshold. Where the roundings may decide, the number may be off by the threshold.
    fn snapped<T: Real>(self) -> Self {
        let threshold = T::SNAP.wide();
        let near = (self.value.abs() - threshold).abs() <= 4096.0 * T::EPSILON * self.size;
        let value = if self.value.abs() < threshold { 0.0 } else { self.value };
        Self { value, size: if near { self.size + threshold / T::EPSILON } else { self.size } }
    }
}

/// So many roundings, in units of the last place of the sum of magnitudes. They grow like a root, but may all go one way
/// where they are few. 16 are for an activation.
fn roundings(operations: usize) -> f64 {
    16.0 + 4.0 * (operations as f64).sqrt()
}

/// Fails where `got` is not within `most` of somewhere between `low` and `high`.
///
/// Where the `size` of what it is made of is near the largest number, or there is none, something may have overflowed.
#[track_caller]
fn assert_between<T: Real>(what: &dyn Fn() -> String, got: T, (low, high): (f64, f64), most: f64, size: f64) {
    if !(size < 1e-6 / T::TINY) {
        return;
    }
    let (most, wide) = (most + 64.0 * T::TINY, got.wide());
    let near = low - most <= wide && wide <= high + most;
    assert!(near, "{}: {got:?}, expected {low:e} to {high:e} within {most:e}", what());
}

#[track_caller]
fn assert_near<T: Real>(what: &dyn Fn() -> String, got: T, Sum { value, size }: Sum, operations: usize) {
    assert_between(what, got, (value, value), roundings(operations) * T::EPSILON * size, size);
}

/// The values of an activation whose argument is between these.
fn values(activation: Activation, low: f64, high: f64) -> (f64, f64) {
    let mut all = vec![squash(activation, low), squash(activation, high)];
    // At a corner it may turn, or jump.
    let mut corner = |at: f64, values: &[f64]| {
        if low <= at && at <= high {
            all.extend(values)
        }
    };
    match activation {
        Activation::LeakyRelu { .. } | Activation::Elu { .. } => corner(0.0, &[0.0]),
        Activation::ThresholdedRelu { alpha } => corner(alpha, &[0.0, alpha]),
        _ => {}
    }
    all.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)))
}

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
        Activation::Softplus => Sum { value: -(-a.max(0.0)).exp_m1(), size: 1.0 },
    }
}

/// A step of a sequence: what it started from.
struct Before<'a, T> {
    t: usize,
    n: usize,
    /// The output and the state of the step before.
    r: Vec<f64>,
    c: Vec<f64>,
    tape: &'a Forwarded<T>,
    case: &'a Case,
}

impl<T: Real> Before<'_, T> {
    /// A gate that is recorded; 1 where it has no rows, or what is left of 1 where it is coupled.
    fn gate(&self, row: Option<usize>, unit: usize) -> f64 {
        row.map_or(1.0, |row| self.tape.gates[[self.t, self.n, row, unit]].wide())
    }

    fn forget(&self, unit: usize) -> Sum {
        let rows = self.case.cell.gate_rows();
        match self.case.cell.coupled {
            true => Sum::exactly(1.0).plus(Sum::exactly(-self.gate(rows.i, unit))),
            false => Sum::exactly(self.gate(rows.f, unit)),
        }
    }

    fn c(&self, unit: usize) -> T {
        self.tape.c_tape[[self.t, self.n, unit]]
    }
}

/// The steps of a sequence, in the order in which they run.
fn steps<'a, T: Real>(
    case: &'a Case,
    data: &'a Data<T>,
    tape: &'a Forwarded<T>,
    n: usize,
) -> impl DoubleEndedIterator<Item = Before<'a, T>> {
    let length = case.length(n);
    let wide = |row: ndarray::ArrayView1<'_, T>| row.iter().map(|x| x.wide()).collect::<Vec<_>>();
    (0..length).map(move |s| {
        let time = |s: usize| if case.reverse { length - 1 - s } else { s };
        let (r, c) = match (s.checked_sub(1), &data.state) {
            (Some(before), _) => {
                let t = time(before);
                (wide(tape.y.slice(ndarray::s![t, n, ..])), wide(tape.c_tape.slice(ndarray::s![t, n, ..])))
            }
            (None, Some((h, c))) => (wide(h.row(n)), wide(c.row(n))),
            (None, None) => (vec![0.0; case.output()], vec![0.0; case.hidden]),
        };
        Before { t: time(s), n, r, c, tape, case }
    })
}

/// Fails where a number of the outcome is not what it has to be.
pub(super) fn check<T: Real>(case: &Case, data: &Data<T>, (tape, gradients): &Outcome<T>) {
    for n in 0..case.batch {
        for step in steps(case, data, tape, n) {
            check_step(case, data, &step);
        }
        check_end(case, data, tape, n);
    }
    if let Some(gradients) = gradients {
        check_gradients(case, data, tape, gradients);
    }
}

fn check_step<T: Real>(case: &Case, data: &Data<T>, step: &Before<'_, T>) {
    let Case { cell, input, hidden, .. } = *case;
    let (rows, looks) = (cell.gate_rows(), cell.peephole_rows());
    let Before { t, n, tape, .. } = *step;
    let mut h = vec![Sum::default(); hidden];
    for unit in 0..hidden {
        let what = |name: &'static str| move || format!("{name}[{t}, {n}, {unit}] of {case:?} in {}", T::NAME);
        let (before, after) = (step.c[unit], step.c(unit).wide());
        let gates = [
            (rows.i, looks.i, before, cell.gate_activation),
            (rows.f, looks.f, before, cell.gate_activation),
            (Some(rows.g), None, 0.0, cell.input_activation),
            (rows.o, looks.o, after, cell.gate_activation),
        ];
        for (gate, look, seen, activation) in gates {
            let Some(gate) = gate else { continue };
            let row = gate * hidden + unit;
            let mut z = Sum::exactly(data.b.as_ref().map_or(0.0, |b| b[row].wide()));
            for (w, x) in data.w_ih.row(row).iter().zip(data.x.slice(ndarray::s![t, n, ..])) {
                z = z.plus(Sum::exactly(w.wide() * x.wide()));
            }
            for (w, r) in data.w_hh.row(row).iter().zip(&step.r) {
                z = z.plus(Sum::exactly(w.wide() * r));
            }
            if let (Some(look), Some(peephole)) = (look, &data.peephole) {
                z = z.plus(Sum::exactly(peephole[[look, unit]].wide() * seen));
            }
            let most = roundings(input + case.output()) * T::EPSILON * z.size + T::TINY;
            let clip = |z: f64| z.clamp(-cell.gate_clip, cell.gate_clip);
            let (low, high) = values(activation, clip(z.value - most), clip(z.value + most));
            let got = tape.gates[[t, n, gate, unit]];
            let name = ["i", "f", "g", "o", "?"]
                [[rows.i, rows.f, Some(rows.g), rows.o].iter().position(|row| *row == Some(gate)).unwrap_or(4)];
            let largest = low.abs().max(high.abs());
            assert_between(&what(name), got, (low, high), 8.0 * T::EPSILON * largest, z.size.max(largest));
        }
        let write = Sum::exactly(step.gate(rows.i, unit)).by(step.gate(Some(rows.g), unit));
        let c = step.forget(unit).by(before).plus(write).snapped::<T>();
        let most = roundings(0) * T::EPSILON * c.size;
        let clip = |c: f64| c.clamp(-cell.cell_clip, cell.cell_clip);
        assert_between(&what("c"), step.c(unit), (clip(c.value - most), clip(c.value + most)), 0.0, c.size);
        let output = Sum::exactly(squash(cell.output_activation, after));
        h[unit] = output.by(step.gate(rows.o, unit));
    }
    for p in 0..case.output() {
        let what = || format!("y[{t}, {n}, {p}] of {case:?} in {}", T::NAME);
        let expected = match &data.w_hr {
            None => h[p],
            Some(w_hr) => h.iter().zip(w_hr.row(p)).fold(Sum::default(), |sum, (h, w)| sum.plus(h.by(w.wide()))),
        };
        assert_near(&what, tape.y[[t, n, p]], expected, hidden);
    }
}

/// The final state, and what must not have been touched behind it.
fn check_end<T: Real>(case: &Case, data: &Data<T>, tape: &Forwarded<T>, n: usize) {
    let length = case.length(n);
    let last = if case.reverse { 0 } else { length.saturating_sub(1) };
    for p in 0..case.output() {
        let initial = data.state.as_ref().map_or(T::ZERO, |(h, _)| h[[n, p]]);
        let expected = if length == 0 { initial } else { tape.y[[last, n, p]] };
        assert_eq!(tape.h[[n, p]].bits(), expected.bits(), "h[{n}, {p}] of {case:?} in {}", T::NAME);
    }
    for unit in 0..case.hidden {
        let initial = data.state.as_ref().map_or(T::ZERO, |(_, c)| c[[n, unit]]);
        let expected = if length == 0 { initial } else { tape.c_tape[[last, n, unit]] };
        assert_eq!(tape.c[[n, unit]].bits(), expected.bits(), "c[{n}, {unit}] of {case:?} in {}", T::NAME);
    }
    for t in length..case.steps {
        let mut behind = tape.y.slice(ndarray::s![t, n, ..]).to_vec();
        behind.extend(tape.c_tape.slice(ndarray::s![t, n, ..]));
        behind.extend(tape.gates.slice(ndarray::s![t, n, .., ..]));
        assert!(behind.iter().all(|x| x.wide() == UNTOUCHED), "step {t} of sequence {n} of {case:?}");
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

fn check_gradients<T: Real>(case: &Case, data: &Data<T>, tape: &Forwarded<T>, got: &Backwarded<T>) {
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
        let ending = |width: usize, which: fn(&(ndarray::Array2<T>, ndarray::Array2<T>)) -> &ndarray::Array2<T>| {
            let given = data.dstate.as_ref().map(which);
            (0..width).map(|k| Sum::exactly(given.map_or(0.0, |d| d[[n, k]].wide()))).collect::<Vec<_>>()
        };
        let (mut d_h, mut d_c) = (ending(output, |d| &d.0), ending(hidden, |d| &d.1));
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
