//! Sigmoid and tanh: special values, the bits, and how far they are from the truth.

mod double_double;

use double_double::DoubleDouble;

use super::*;
use crate::simd::{Element, InstructionSet, Job};
use crate::testing::{Real, Rng, exhaustive, on_every_isa, say};

on_every_isa! {
    special_values_are_exact,
    beyond_the_limits_nothing_changes,
    bits_are_those_of_scalar,
    single_precision_is_within_3_ulp,
    double_precision_is_within_4_ulp,
}

const BOTH: [Activation; 2] = [Activation::Sigmoid, Activation::Tanh];

/// An activation of all of `x`, in place; or its slopes where it has these values.
struct Apply<'a, T> {
    activation: Activation,
    slope: bool,
    x: &'a mut Vec<T>,
}

impl<T: Element> Job<T> for Apply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let count = self.x.len();
        self.x.resize(count.next_multiple_of(S::LANES), T::ZERO);
        for place in simd.vectors_mut(self.x) {
            let x = simd.load(place);
            let value = match self.slope {
                true => slope::<S, T>(simd, self.activation, x),
                false => activate::<S, T>(simd, self.activation, x),
            };
            simd.store(value, place);
        }
        self.x.truncate(count);
    }
}

fn apply<T: Element>(isa: InstructionSet, activation: Activation, x: &[T]) -> Vec<T> {
    values_or_slopes(isa, activation, false, x)
}

pub(super) fn values_or_slopes<T: Element>(
    isa: InstructionSet,
    activation: Activation,
    slope: bool,
    x: &[T],
) -> Vec<T> {
    let mut values = x.to_vec();
    T::dispatch(isa, Apply { activation, slope, x: &mut values });
    values
}

fn special_values_are_exact(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, function: Activation, exact: &[(f64, f64)]) {
        for &(x, expected) in exact {
            let got = apply(isa, function, &[T::of(x)])[0];
            assert_eq!(got.bits(), T::of(expected).bits(), "{function:?}({x}) on {}: {got:?}", isa.name());
        }
    }
    const INF: f64 = f64::INFINITY;
    let sigmoids = [(0.0, 0.5), (-0.0, 0.5), (INF, 1.0), (-INF, 0.0), (f64::NAN, f64::NAN), (-f64::NAN, f64::NAN)];
    check::<f32>(isa, Activation::Sigmoid, &sigmoids);
    check::<f64>(isa, Activation::Sigmoid, &sigmoids);
    let tanhs = [(0.0, 0.0), (-0.0, 0.0), (INF, 1.0), (-INF, -1.0), (f64::NAN, f64::NAN), (-f64::NAN, f64::NAN)];
    check::<f32>(isa, Activation::Tanh, &tanhs);
    check::<f64>(isa, Activation::Tanh, &tanhs);
    // The smallest numbers are their own tanh, and those that are not normal are 1/2 to the sigmoid.
    for x in [f64::from(f32::MIN_POSITIVE), f64::from(f32::from_bits(1)), -1e-40] {
        check::<f32>(isa, Activation::Tanh, &[(x, x)]);
        check::<f32>(isa, Activation::Sigmoid, &[(x, 0.5)]);
    }
    for x in [f64::MIN_POSITIVE, f64::from_bits(1), -1e-310] {
        check::<f64>(isa, Activation::Tanh, &[(x, x)]);
        check::<f64>(isa, Activation::Sigmoid, &[(x, 0.5)]);
    }
}

/// At the limits and beyond, the value is that at the end of the range: flat, and nowhere past 0 or 1.
fn beyond_the_limits_nothing_changes(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, up: fn(T) -> T, down: fn(T) -> T) {
        let far = [f64::from(f32::MAX), f64::INFINITY];
        for (function, limit, end) in [
            (Activation::Sigmoid, T::SIGMOID_LOW, 0.0),
            (Activation::Sigmoid, T::SIGMOID_HIGH, 1.0),
            (Activation::Tanh, T::TANH_LOW, -1.0),
            (Activation::Tanh, T::TANH_HIGH, 1.0),
        ] {
            let (outwards, inwards) = if limit > T::ZERO { (up, down) } else { (down, up) };
            let beyond = [limit, outwards(limit), T::of(limit.wide() * 1.5)];
            let beyond = beyond.into_iter().chain(far.map(|x| T::of(x.copysign(limit.wide())))).collect::<Vec<_>>();
            for (value, x) in apply(isa, function, &beyond).into_iter().zip(&beyond) {
                assert_eq!(value.bits(), T::of(end).bits(), "{function:?}({x:?})");
            }
            // Coming from inside there is no step past it.
            let mut inside = vec![limit];
            for k in 0..1000 {
                inside.push(inwards(inside[k]));
            }
            let (least, most) = if limit > T::ZERO { (T::of(0.5), T::of(end)) } else { (T::of(end), T::of(0.5)) };
            for value in apply(isa, function, &inside) {
                assert!(value >= least && value <= most);
            }
        }
    }
    check::<f32>(isa, f32::next_up, f32::next_down);
    check::<f64>(isa, f64::next_up, f64::next_down);
}

/// Numbers of every size, with those at the ends of the range closer together.
pub(super) fn samples<T: Real>(seed: u64, count: usize) -> Vec<T> {
    let mut rng = Rng::new(seed);
    let mut x = T::SPECIAL.to_vec();
    for _ in 0..count / 4 {
        x.push(T::from_low_bits(rng.bits()));
        // Evenly spread, with all the bits of a mantissa.
        for (low, high) in [(-1.0, 1.0), (-20.0, 20.0), (T::SIGMOID_LOW.wide(), 0.0)] {
            let part = (rng.bits() >> 11) as f64 / (1u64 << 53) as f64;
            x.push(T::of(low + (high - low) * part));
        }
    }
    x
}

fn bits_are_those_of_scalar(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet) {
        let x = samples::<T>(51, 100_000);
        for function in BOTH {
            let (got, expected) = (apply(isa, function, &x), apply(InstructionSet::Scalar, function, &x));
            for ((got, expected), x) in got.iter().zip(&expected).zip(&x) {
                assert_eq!(got.bits(), expected.bits(), "{function:?}({x:?}) on {}", isa.name());
            }
        }
    }
    check::<f32>(isa);
    check::<f64>(isa);
}

// ------------------------------------------------------------------------------------------------------ the truth

/// How far `got` is from `value + rest`, in units in the last place of a number of `bits` bits at `value`.
pub(super) fn ulps(got: f64, value: f64, rest: f64, bits: i32) -> f64 {
    let exponent = (value.abs().to_bits() >> 52) as i32 - 1023;
    let off = (got - value) - rest;
    // 2^-(exponent - bits + 1), in two factors that are normal numbers.
    let scale = bits - 1 - exponent;
    let power = |n: i32| f64::from_bits(((1023 + n) as u64) << 52);
    (off * power(scale / 2) * power(scale - scale / 2)).abs()
}

/// The largest distance, and where.
#[derive(Clone, Copy, Debug)]
struct Worst {
    ulps: f64,
    x: f64,
}

impl Worst {
    const NONE: Self = Self { ulps: 0.0, x: 0.0 };

    fn of(&mut self, ulps: f64, x: f64) {
        // A NaN is worse than anything.
        if ulps.is_nan() || ulps > self.ulps {
            *self = Self { ulps, x };
        }
    }
}

/// Single precision against the standard library's exp and tanh in double precision, whose own errors are some 2^-29 of
/// a unit in the last place of single precision.
///
/// Gives the distance where the value is normal; elsewhere it panics where the distance is more than 2^-126.
fn distance_f32(function: Activation, x: f32, got: f32, e: f64, th: f64) -> f64 {
    let truth = match function {
        Activation::Sigmoid => (if x >= 0.0 { 1.0 } else { e }) / (1.0 + e),
        Activation::Tanh => th.copysign(f64::from(x)),
        other => unreachable!("{other:?} is looked at in others.rs"),
    };
    let got = f64::from(got);
    if truth.abs() >= f64::from(f32::MIN_POSITIVE) {
        return ulps(got, truth, 0.0, 24);
    }
    let most = f64::from(f32::MIN_POSITIVE);
    assert!((got - truth).abs() <= most, "{function:?}({x:e}) = {got:e}, off by more than 2^-126");
    0.0
}

fn single_precision_is_within_3_ulp(isa: InstructionSet) {
    let x: Vec<f32> = samples(52, 100_000).into_iter().filter(|x: &f32| !x.is_nan()).collect();
    for function in BOTH {
        let mut worst = Worst::NONE;
        for (&x, got) in x.iter().zip(apply(isa, function, &x)) {
            let wide = f64::from(x).abs();
            worst.of(distance_f32(function, x, got, (-wide).exp(), wide.tanh()), f64::from(x));
        }
        assert!(worst.ulps <= 3.0, "{function:?} on {}: {worst:?}", isa.name());
        // And the measure measures.
        assert!(worst.ulps > 1.5, "{function:?} on {}: {worst:?}", isa.name());
    }
}

/// Double precision against double-double arithmetic, right to about 100 bits.
fn distance_f64(function: Activation, x: f64, got: f64) -> f64 {
    // Far out, where sigmoid(x) is e^x to more than 400 bits, both are scaled up: away from the subnormals.
    const SHIFT: i32 = 512;
    let (truth, scale) = match function {
        Activation::Sigmoid if x < -300.0 => (DoubleDouble::exp(x.max(-1000.0), SHIFT), 2f64.powi(SHIFT)),
        Activation::Sigmoid => (DoubleDouble::sigmoid(x), 1.0),
        Activation::Tanh => (DoubleDouble::tanh(x), 1.0),
        other => unreachable!("{other:?} is looked at in others.rs"),
    };
    let (got, least) = (got * scale, f64::MIN_POSITIVE * scale);
    if truth.hi.abs() >= least {
        return ulps(got, truth.hi, truth.lo, 53);
    }
    assert!((got - truth.hi).abs() <= least, "{function:?}({x:e}) is off by more than 2^-1022");
    0.0
}

fn worst_f64(isa: InstructionSet, function: Activation, seed: u64, count: usize) -> Worst {
    let x: Vec<f64> = samples(seed, count).into_iter().filter(|x: &f64| !x.is_nan()).collect();
    let mut worst = Worst::NONE;
    for (&x, got) in x.iter().zip(apply(isa, function, &x)) {
        worst.of(distance_f64(function, x, got), x);
    }
    worst
}

fn double_precision_is_within_4_ulp(isa: InstructionSet) {
    for function in BOTH {
        let worst = worst_f64(isa, function, 53, 20_000);
        assert!(worst.ulps <= 4.0, "{function:?} on {}: {worst:?}", isa.name());
        assert!(worst.ulps > 1.5, "{function:?} on {}: {worst:?}", isa.name());
    }
}

#[test]
fn a_distance_is_counted_in_units_of_the_last_place() {
    let at = |x: f32, up: i32| {
        let got = f32::from_bits(x.to_bits().wrapping_add_signed(up));
        ulps(f64::from(got), f64::from(x), 0.0, 24)
    };
    assert_eq!([at(1.0, 3), at(0.7, -2), at(-1e-30, 1), at(f32::MIN_POSITIVE, 4)], [3.0, 2.0, 1.0, 4.0]);
    assert_eq!(ulps(1.0f64.next_up(), 1.0, 2f64.powi(-53), 53), 0.5);
    let mut worst = Worst { ulps: 2.0, x: 1.0 };
    worst.of(1.0, 5.0);
    assert_eq!(worst.x, 1.0);
    worst.of(f64::NAN, 6.0);
    assert_eq!(worst.x, 6.0);
}

// ------------------------------------------------------------------------------------------------------ all of them

/// All 2^32 single numbers, and 10^7 double ones, on the fastest instruction set: minutes, hence on request.
#[test]
fn all_single_numbers_are_within_3_ulp() {
    if !exhaustive("sigmoid and tanh of all 2^32 single numbers") {
        return;
    }
    let isa = InstructionSet::best();
    let quarter = |thread: u32| {
        move || {
            let mut worst = [Worst::NONE; 2];
            // The magnitudes, each with both signs.
            for block in (thread << 30..(thread + 1) << 30).step_by(1 << 12) {
                worst_of_block(isa, block, &mut worst);
            }
            worst
        }
    };
    let halves = std::thread::scope(|scope| [0, 1].map(|thread| scope.spawn(quarter(thread))).map(|half| half.join()));
    let mut worst = [Worst::NONE; 2];
    for half in halves {
        for (worst, half) in worst.iter_mut().zip(half.expect("a thread's assertion failed")) {
            worst.of(half.ulps, half.x);
        }
    }
    for (function, worst) in BOTH.into_iter().zip(worst) {
        say(&format!("{function:?} of all f32, {}: at most {:.4} ULP off, at {:?}", isa.name(), worst.ulps, worst.x));
        assert!(worst.ulps <= 3.0 && worst.ulps > 2.0, "{function:?}: {worst:?}");
    }
}

/// 2^12 magnitudes from the bits `from` on, and their negatives.
fn worst_of_block(isa: InstructionSet, from: u32, worst: &mut [Worst; 2]) {
    let x: Vec<f32> = (from..from + (1 << 12)).map(f32::from_bits).collect();
    let minus: Vec<f32> = x.iter().map(|&x| -x).collect();
    let values = BOTH.map(|function| (apply(isa, function, &x), apply(isa, function, &minus)));
    for (k, &x) in x.iter().enumerate() {
        if x.is_nan() {
            assert!(values.iter().all(|(plus, minus)| plus[k].is_nan() && minus[k].is_nan()));
            continue;
        }
        let (e, th) = ((-f64::from(x)).exp(), f64::from(x).tanh());
        for ((function, (plus, minus)), worst) in BOTH.into_iter().zip(&values).zip(&mut *worst) {
            worst.of(distance_f32(function, x, plus[k], e, th), f64::from(x));
            worst.of(distance_f32(function, -x, minus[k], e, th), f64::from(-x));
        }
    }
}

#[test]
fn ten_million_double_numbers_are_within_4_ulp() {
    if !exhaustive("sigmoid and tanh of 10^7 double numbers") {
        return;
    }
    let isa = InstructionSet::best();
    let search = |function| move || worst_f64(isa, function, 54, 10_000_000);
    let both = std::thread::scope(|scope| BOTH.map(|function| scope.spawn(search(function))).map(|half| half.join()));
    for (function, worst) in BOTH.into_iter().zip(both) {
        let worst = worst.expect("a thread's assertion failed");
        say(&format!("{function:?} of 10^7 f64, {}: at most {:.4} ULP off, at {:?}", isa.name(), worst.ulps, worst.x));
        assert!(worst.ulps <= 4.0 && worst.ulps > 2.0, "{function:?}: {worst:?}");
    }
}
