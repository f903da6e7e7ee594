//! What the tests share: a test for each instruction set, numbers that are the same on every machine, and comparisons.
//!
//! Two arrays are compared in one of two ways: [`assert_same_bits`] where the same bits are promised, [`assert_close`]
//! where they are not. Both have tests of their own: a comparison that cannot fail proves nothing.

use std::io::Write;
use std::sync::Mutex;

use ndarray::{ArrayView, ArrayViewD, Dimension};

use crate::simd::{Element, InstructionSet};

// -------------------------------------------------------------------------------------------------- instruction sets

/// A test of each name for each instruction set, in a module named after it: `avx2::forward_...` calls
/// `super::forward_...(InstructionSet::Avx2)`.
macro_rules! on_every_isa {
    (@ $module:ident $isa:ident $($test:ident)+) => {
        mod $module {
            $(#[test] fn $test() { crate::testing::on(crate::simd::InstructionSet::$isa, super::$test); })+
        }
    };
    ($($test:ident),+ $(,)?) => {
        crate::testing::on_every_isa! { @ scalar Scalar $($test)+ }
        crate::testing::on_every_isa! { @ avx2 Avx2 $($test)+ }
        crate::testing::on_every_isa! { @ avx512 Avx512 $($test)+ }
        crate::testing::on_every_isa! { @ neon Neon $($test)+ }
    };
}
pub(crate) use on_every_isa;

/// Runs a test where this CPU has the instruction set; else says so, once, past libtest's capture.
pub(crate) fn on(isa: InstructionSet, test: fn(InstructionSet)) {
    static SKIPPED: Mutex<Vec<InstructionSet>> = Mutex::new(Vec::new());
    if isa.is_available() {
        return test(isa);
    }
    let mut skipped = SKIPPED.lock().unwrap();
    if !skipped.contains(&isa) {
        skipped.push(isa);
        say(&format!("skipped: {} (not on this CPU)", isa.name()));
    }
}

/// A line that libtest does not hide when the test passes.
pub(crate) fn say(line: &str) {
    // Not `eprintln`, which is what it captures.
    writeln!(std::io::stderr(), "{line}").expect("somebody listens");
}

/// Whether the runs of minutes are wanted; says where they are not.
pub(crate) fn exhaustive(what: &str) -> bool {
    let wanted = std::env::var_os("LSTM_RS_EXHAUSTIVE").is_some_and(|value| value == "1");
    if !wanted {
        say(&format!("not run: {what}: set LSTM_RS_EXHAUSTIVE=1"));
    }
    wanted
}

mod the_list {
    use super::*;

    /// A new instruction set has to be added to `on_every_isa`, or this does not hold.
    #[test]
    fn of_instruction_sets_is_whole() {
        use InstructionSet::{Avx2, Avx512, Neon, Scalar};
        assert_eq!(InstructionSet::ALL, [Scalar, Avx2, Avx512, Neon]);
        assert_eq!(
            InstructionSet::ALL.iter().map(|isa| isa.name()).collect::<Vec<_>>(),
            ["scalar", "avx2", "avx512", "neon"]
        );
        let available: Vec<_> = InstructionSet::available().map(InstructionSet::name).collect();
        say(&format!("instruction sets of this CPU: {}", available.join(", ")));
        assert_eq!(available[0], "scalar");
    }
}

// -------------------------------------------------------------------------------------------------- numbers

/// splitmix64 (Steele, Lea & Flood 2014).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `end - 1`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Between `-2^exponent` and `2^exponent`, of 16 bits: exact in both types, so both are given the same number, and
    /// made without a function that rounds differently elsewhere.
    pub(crate) fn number<T: Real>(&mut self, exponent: i32) -> T {
        let whole = (self.bits() >> 48) as i64 - (1 << 15);
        let odd = 2 * whole + 1;
        T::of(odd as f64 * f64::from_bits(((1023 + exponent - 16) as u64) << 52))
    }
}

/// What the tests have to know of `f32` and `f64` beyond [`Element`].
pub(crate) trait Real: Element {
    const NAME: &'static str;
    /// From 1 to the next number.
    const EPSILON: f64;
    /// The smallest normal number.
    const TINY: f64;
    /// Numbers around which every operation has to be right.
    const SPECIAL: &'static [Self];

    fn wide(self) -> f64;
    /// The bits, of one NaN for all: its sign and payload differ from machine to machine.
    fn bits(self) -> u64;
    /// From the lower bits.
    fn from_low_bits(bits: u64) -> Self;
    fn plus(self, b: Self) -> Self;
    fn times(self, b: Self) -> Self;
    fn over(self, b: Self) -> Self;
    /// `self * b + c`, rounded once.
    fn fma(self, b: Self, c: Self) -> Self;
}

macro_rules! real {
    ($float:ident, $int:ident) => {
        impl Real for $float {
            const NAME: &'static str = stringify!($float);
            const EPSILON: f64 = $float::EPSILON as f64;
            const TINY: f64 = $float::MIN_POSITIVE as f64;
            const SPECIAL: &'static [Self] = &[
                0.0,
                -0.0,
                1.0,
                -1.0,
                0.5,
                -3.0,
                1.0 + $float::EPSILON,
                $float::NAN,
                -$float::NAN,
                $float::INFINITY,
                $float::NEG_INFINITY,
                $float::MAX,
                $float::MIN,
                $float::MIN_POSITIVE,
                -$float::MIN_POSITIVE,
                // The smallest and the largest subnormal.
                $float::from_bits(1),
                -$float::from_bits(1),
                $float::MIN_POSITIVE.next_down(),
                <$float as Element>::SNAP,
                -<$float as Element>::SNAP,
                <$float as Element>::SNAP.next_down(),
            ];

            fn wide(self) -> f64 {
                f64::from(self)
            }
            fn bits(self) -> u64 {
                u64::from(if self.is_nan() { $float::NAN.to_bits() } else { self.to_bits() })
            }
            fn from_low_bits(bits: u64) -> Self {
                $float::from_bits(bits as $int)
            }
            fn plus(self, b: Self) -> Self {
                self + b
            }
            fn times(self, b: Self) -> Self {
                self * b
            }
            fn over(self, b: Self) -> Self {
                self / b
            }
            fn fma(self, b: Self, c: Self) -> Self {
                self.mul_add(b, c)
            }
        }
    };
}
real!(f32, u32);
real!(f64, u64);

// -------------------------------------------------------------------------------------------------- comparisons

/// Where the two are not the same to the bit: NaNs are alike, zeros are not.
pub(crate) fn first_other_bit<T: Real, D: Dimension>(
    got: ArrayView<T, D>,
    expected: ArrayView<T, D>,
) -> Option<String> {
    if got.shape() != expected.shape() {
        return Some(format!("shape {:?}, expected {:?}", got.shape(), expected.shape()));
    }
    let mut both = got.indexed_iter().zip(&expected);
    both.find(|((_, got), expected)| got.bits() != expected.bits())
        .map(|((at, got), expected)| format!("{got:?} at {at:?}, expected {expected:?}, to the bit"))
}

/// Fails where the two are not the same to the bit.
#[track_caller]
pub(crate) fn assert_same_bits<T: Real, D: Dimension>(what: &str, got: ArrayView<T, D>, expected: ArrayView<T, D>) {
    if let Some(other) = first_other_bit(got, expected) {
        panic!("{what}: {other}");
    }
}

/// How many roundings stand behind a number, for [`tolerance`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depth {
    /// I + H
    pub(crate) width: usize,
    /// T
    pub(crate) steps: usize,
    /// N where it sums over the batch, else 1.
    pub(crate) batch: usize,
    pub(crate) backward: bool,
}

/// The largest error allowed in an array whose largest number is `scale`.
///
/// Rounding errors of a chain of n operations grow far slower than n: log2 of the depth is enough, and 16 is for the
/// activations and for the way an error in the state is carried on. Backward goes twice the way. The last term is for
/// what is 0, or so small that it is rounded to subnormals.
pub(crate) fn tolerance<T: Real>(depth: Depth, scale: f64) -> f64 {
    let operations = (depth.width * depth.steps * depth.batch + 2) as f64;
    let factor = 16.0 * if depth.backward { 2.0 } else { 1.0 } * operations.log2().ceil();
    factor * T::EPSILON * scale + 64.0 * T::TINY
}

/// Where the two differ by more than `most(scale)`, `scale` the largest finite magnitude in `expected`.
pub(crate) fn first_far<T: Real>(
    got: ArrayViewD<T>,
    expected: ArrayViewD<f64>,
    most: impl Fn(f64) -> f64,
) -> Option<String> {
    if got.shape() != expected.shape() {
        return Some(format!("shape {:?}, expected {:?}", got.shape(), expected.shape()));
    }
    let finite = expected.iter().map(|x| x.abs()).filter(|x| x.is_finite());
    let most = most(finite.fold(0.0, f64::max));
    // Written so that a NaN on either side alone is far.
    let near = |got: f64, expected: f64| match expected.is_finite() {
        true => (got - expected).abs() <= most,
        false => got.bits() == expected.bits(),
    };
    let mut both = got.indexed_iter().zip(&expected);
    both.find(|((_, got), expected)| !near(got.wide(), **expected))
        .map(|((at, got), expected)| format!("{got:?} at {at:?}, expected {expected:?} within {most:e}"))
}

/// Fails where the two differ by more than [`tolerance`].
#[track_caller]
pub(crate) fn assert_close<T: Real>(what: &str, got: ArrayViewD<T>, expected: ArrayViewD<f64>, depth: Depth) {
    if let Some(far) = first_far(got, expected, |scale| tolerance::<T>(depth, scale)) {
        panic!("{what} ({}): {far}, {depth:?}", T::NAME);
    }
}

mod the_comparisons {
    use super::*;
    use ndarray::{Array1, array};

    #[test]
    fn of_bits_can_fail() {
        let same = |a: Array1<f32>, b: Array1<f32>| first_other_bit(a.view(), b.view()).is_none();
        assert!(same(array![1.0, f32::NAN], array![1.0, -f32::NAN]));
        assert!(!same(array![1.0, 0.0], array![1.0, -0.0]));
        assert!(!same(array![1.0, f32::NAN], array![1.0, 2.0]));
        assert!(!same(array![1.0, 2.0], array![1.0, 2.0f32.next_up()]));
        assert!(!same(array![1.0], array![1.0, 2.0]));
    }

    #[test]
    fn of_sizes_can_fail() {
        let depth = Depth { width: 8, steps: 4, batch: 1, backward: false };
        let near = |a: Array1<f64>, b: Array1<f64>| {
            first_far(a.into_dyn().view(), b.into_dyn().view(), |scale| tolerance::<f64>(depth, scale)).is_none()
        };
        // 16 ceil(log2 34) = 96 units of 2.2e-16, times 2.
        assert!(near(array![1.0, 2.0], array![1.0 + 4.2e-14, 2.0]));
        assert!(!near(array![1.0, 2.0], array![1.0 + 4.3e-14, 2.0]));
        assert!(!near(array![1.0, f64::NAN], array![1.0, 2.0]));
        assert!(!near(array![1.0, 2.0], array![1.0, f64::NAN]));
        assert!(!near(array![f64::INFINITY, 2.0], array![f64::NEG_INFINITY, 2.0]));
        assert!(near(array![f64::INFINITY, f64::NAN], array![f64::INFINITY, f64::NAN]));
        assert!(!near(array![1e-300], array![0.0]));
        assert!(!near(array![1.0], array![1.0, 1.0]));
    }

    #[test]
    fn numbers_are_exact_in_both_types() {
        let (mut single, mut double) = (Rng::new(7), Rng::new(7));
        for exponent in (-90..90).cycle().take(10_000) {
            let (a, b): (f32, f64) = (single.number(exponent), double.number(exponent));
            assert_eq!(a.wide(), b);
            assert!(b != 0.0 && b.abs() < 2f64.powi(exponent));
        }
        // The first numbers of splitmix64 from 1234567, as its authors give them.
        let mut rng = Rng::new(1_234_567);
        assert_eq!([rng.bits(), rng.bits()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }
}
