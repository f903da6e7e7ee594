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
//! The gradients are in `oracle/back.rs`.

mod back;

use super::super::calls::{Forwarded, UNTOUCHED};
use super::super::cases::{Case, Data};
use super::Outcome;
use crate::cell::Activation;
use crate::reference::squash;
use crate::testing::Real;

/// A number, and the sum of the magnitudes of what it was made of.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    value: f64,
    size: f64,
    /// The largest size on the way, which may have overflowed before a 0 was multiplied by it; NaN where there is none.
    peak: f64,
}

impl Sum {
    fn new(value: f64, size: f64, peak: f64) -> Self {
        Self { value, size, peak: if size.is_nan() { f64::NAN } else { peak.max(size) } }
    }

    fn exactly(value: f64) -> Self {
        Self::new(value, value.abs(), 0.0)
    }

    fn plus(self, other: Self) -> Self {
        Self::new(self.value + other.value, self.size + other.size, self.peak.max(other.peak))
    }

    fn times(self, other: Self) -> Self {
        Self::new(self.value * other.value, self.size * other.size, self.peak.max(other.peak))
    }

    fn by(self, factor: f64) -> Self {
        self.times(Self::exactly(factor))
    }

    /// 0 below the threshold. Where the roundings may decide, the number may be off by the threshold.
    fn snapped<T: Real>(self) -> Self {
        let threshold = T::SNAP.wide();
        let near = (self.value.abs() - threshold).abs() <= 4096.0 * T::EPSILON * self.size;
        let value = if self.value.abs() < threshold { 0.0 } else { self.value };
        Self::new(value, if near { self.size + threshold / T::EPSILON } else { self.size }, self.peak)
    }
}

/// So many roundings, in units of the last place of the sum of magnitudes. They grow like a root, but may all go one way
/// where they are few. 16 are for an activation.
fn roundings(operations: usize) -> f64 {
    16.0 + 4.0 * (operations as f64).sqrt()
}

/// Fails where `got` is not within `most` of somewhere between `low` and `high`.
///
/// Where the `peak` of what it is made of is near the largest number, or there is none, something may have overflowed.
#[track_caller]
fn assert_between<T: Real>(what: &dyn Fn() -> String, got: T, (low, high): (f64, f64), most: f64, peak: f64) {
    if peak.is_nan() || peak >= 1e-6 / T::TINY {
        return;
    }
    let (most, wide) = (most + 64.0 * T::TINY, got.wide());
    let near = low - most <= wide && wide <= high + most;
    assert!(near, "{}: {got:?}, expected {low:e} to {high:e} within {most:e}", what());
}

#[track_caller]
fn assert_near<T: Real>(what: &dyn Fn() -> String, got: T, Sum { value, size, peak }: Sum, operations: usize) {
    assert_between(what, got, (value, value), roundings(operations) * T::EPSILON * size, peak);
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
        back::check(case, data, tape, gradients);
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
            assert_between(&what(name), got, (low, high), 8.0 * T::EPSILON * largest, z.peak.max(largest));
        }
        let write = Sum::exactly(step.gate(rows.i, unit)).by(step.gate(Some(rows.g), unit));
        let c = step.forget(unit).by(before).plus(write).snapped::<T>();
        let most = roundings(0) * T::EPSILON * c.size;
        let clip = |c: f64| c.clamp(-cell.cell_clip, cell.cell_clip);
        assert_between(&what("c"), step.c(unit), (clip(c.value - most), clip(c.value + most)), 0.0, c.peak);
        let output = squash(cell.output_activation, after);
        // What is below the smallest normal number may be 0, and only that.
        let lost = if output.abs() < T::TINY { T::TINY / T::EPSILON } else { 0.0 };
        h[unit] = Sum::new(output, output.abs() + lost, 0.0).by(step.gate(rows.o, unit));
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
