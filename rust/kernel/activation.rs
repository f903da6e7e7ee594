//! The activations: sigmoid and tanh over one exponential here, the others in `others.rs`; the same bits on every
//! instruction set.
//!
//! For z = n ln 2 + r, with n whole and |r| <= ln 2 / 2:
//!
//! ```text
//! e^r - 1 = p = r + r^2 Q(r)            e^z = 2^n p + 2^n            e^z - 1 = 2^n p + (2^n - 1)
//! sigmoid(x) = 1 / (1 + e^-x)           tanh(x) = m / (m + 1),  m = (e^2x - 1) / 2
//! ```
//!
//! n comes from adding and subtracting 1.5 * 2^23 (1.5 * 2^52 in double precision): no conversion that rounds differently
//! elsewhere. The number added holds the bias of the exponent too, so that a shift of the sum's bits is 2^n. `x` is cut
//! where the answer no longer changes, which spares an absolute value, a comparison and a choice of sign: half of the
//! time that a gate takes is these operations.
//!
//! Neither form cancels: 1 + e^-x and m + 1 have parts of like sign or are exact, and near 0 m is p, as accurate as p is
//! relative to itself. `0.5 + 0.5 tanh(x / 2)` as a sigmoid would have no correct digit in its tail. What tanh gives up
//! is the sign of a zero.

mod others;

use crate::cell::Activation;
use crate::simd::{Element, Lanes};

/// The constants of the exponential and of the logarithm.
pub trait Exp: Sized + 'static {
    /// 1.5 times two to the bits of the mantissa, and the bias of the exponent: adding it rounds to an integer n, and
    /// leaves in the low bits the exponent of 2^n.
    const ROUND: Self;
    /// The same for half of 2^n.
    const ROUND_HALF: Self;
    /// 1 / ln 2.
    const LOG2E: Self;
    /// 2 / ln 2.
    const TWO_LOG2E: Self;
    /// ln 2, rounded.
    const LN2_HI: Self;
    /// The rest of ln 2.
    const LN2_LO: Self;
    /// ln 2 / 2, rounded.
    const HALF_LN2: Self;
    /// -Q(-r), lowest power first.
    const Q_MINUS: &'static [Self];
    /// 2 Q(2r), lowest power first.
    const Q_DOUBLE: &'static [Self];
    /// Up to here sigmoid is +0, to within the smallest normal number.
    const SIGMOID_LOW: Self;
    /// From here on sigmoid is 1.
    const SIGMOID_HIGH: Self;
    /// Up to here tanh is -1.
    const TANH_LOW: Self;
    /// From here on tanh is 1.
    const TANH_HIGH: Self;
    /// From here on e^-x is 0, to within the smallest normal number.
    const DECAY_HIGH: Self;
    /// L, lowest power first.
    const L: &'static [Self];
    /// 1 / 2
    const HALF: Self;
    /// -1 / 2
    const MINUS_HALF: Self;
    /// Two.
    const TWO: Self;
}

// Q: minimax of (e^r - 1 - r) / r^2 on [-ln2/2, ln2/2], weighted so that the error of p relative to itself is least
// (tanh near 0 is p), then rounded. `tests/make_coefficients.py` prints these lines. Multiplied by powers of two and
// by -1 they are as exact. The error of p before rounding is 1.32e-8 in single, 1.80e-17 in double precision.
//
// Over all floats, against the exact values: sigmoid 2.481 ULP (at -16.636), tanh 2.594 (at 0.0612); in double precision
// over 10^7 samples: sigmoid 2.315, tanh 2.596. `just exhaustive` prints these.
//
// L: minimax of (atanh(s) / s - 1) / s^2 in s^2 on [0, 1/9], in the same manner: the error of the logarithm, relative to
// itself, is 4.46e-9 in single, 1.30e-18 in double precision before rounding.

/// The coefficients of `factor * Q(by * r)`.
macro_rules! scaled {
    ($q:expr, $factor:literal, $by:literal) => {{
        let (mut q, mut factor, mut k) = ($q, $factor, 0);
        while k < q.len() {
            q[k] *= factor;
            factor *= $by;
            k += 1;
        }
        q
    }};
}

/// [`Exp`], from Q and what stands in the binary representation.
macro_rules! exp {
    (
        $float:ident, mantissa $bits:literal, bias $bias:literal, ln2 rest $ln2_lo:literal,
        sigmoid $low:literal to $high:literal, tanh within $tanh:literal, decay to $decay:literal, q $q:expr, l $l:expr
    ) => {
        impl Exp for $float {
            const ROUND: Self = 1.5 * (1u64 << $bits) as Self + $bias;
            const ROUND_HALF: Self = Self::ROUND - 1.0;
            const LOG2E: Self = std::$float::consts::LOG2_E;
            const TWO_LOG2E: Self = 2.0 * Self::LOG2E;
            const LN2_HI: Self = std::$float::consts::LN_2;
            const LN2_LO: Self = $ln2_lo;
            const HALF_LN2: Self = 0.5 * Self::LN2_HI;
            const Q_MINUS: &'static [Self] = &scaled!($q, -1.0, -1.0);
            const Q_DOUBLE: &'static [Self] = &scaled!($q, 2.0, 2.0);
            const SIGMOID_LOW: Self = $low;
            const SIGMOID_HIGH: Self = $high;
            const TANH_LOW: Self = -$tanh;
            const TANH_HIGH: Self = $tanh;
            const DECAY_HIGH: Self = $decay;
            const L: &'static [Self] = &$l;
            const HALF: Self = 0.5;
            const MINUS_HALF: Self = -0.5;
            const TWO: Self = 2.0;
        }
    };
}

exp! {
    f32, mantissa 23, bias 127.0, ln2 rest -1.904_654_2e-9, sigmoid -89.0 to 18.0, tanh within 10.0, decay to 88.0,
    q [4.999_999_7e-1, 1.666_654_3e-1, 4.166_72e-2, 8.366_514e-3, 1.388_252_2e-3],
    l [3.333_321e-1, 2.001_076_3e-1, 1.400_090_3e-1, 1.400_599_3e-1]
}

exp! {
    f64, mantissa 52, bias 1023.0, ln2 rest 2.319_046_813_846_299_6e-17, sigmoid -710.0 to 38.0, tanh within 20.0, decay to 709.0,
    q [
        5.000_000_000_000_006e-1,
        1.666_666_666_666_658_8e-1,
        4.166_666_666_657_682_6e-2,
        8.333_333_333_389_507e-3,
        1.388_888_893_153_944_7e-3,
        1.984_126_971_908_14e-4,
        2.480_150_530_641_996_2e-5,
        2.755_740_750_660_882_6e-6,
        2.762_602_420_582_051_3e-7,
        2.505_377_480_051_739_6e-8,
    ],
    l [
        3.333_333_333_333_315_4e-1,
        2.000_000_000_007_755_9e-1,
        1.428_571_427_405_897_5e-1,
        1.111_111_197_682_485_1e-1,
        9.090_872_239_478_485e-2,
        7.693_274_197_668_876e-2,
        6.650_560_670_347_697e-2,
        6.052_472_622_499_65e-2,
        4.172_484_911_110_408e-2,
        8.504_880_053_859_232e-2,
    ]
}

/// `p = r + r^2 q(r)`, for these coefficients of q.
///
/// By Horner's rule, and never by a square of r: where r is small its square is subnormal, or nothing, and would take some
/// CPUs longer than all the rest.
#[inline(always)]
fn polynomial<S: Lanes<T>, T: Element>(simd: S, q: &[T], r: S::V) -> S::V {
    let mut sum = simd.splat(q[q.len() - 1]);
    for &q in q[..q.len() - 1].iter().rev() {
        sum = simd.mul_add(sum, r, simd.splat(q));
    }
    simd.mul_add(simd.mul(sum, r), r, r)
}

/// `x` between `low` and `high`; NaN stays NaN.
#[inline(always)]
pub(crate) fn cut<S: Lanes<T>, T: Element>(simd: S, low: T, x: S::V, high: T) -> S::V {
    // What may be NaN is the second argument, which both let through.
    simd.max(simd.splat(low), simd.min(simd.splat(high), x))
}

/// `1 / (1 + e^-x)`: at most 3 ULP off in single, 4 in double precision; NaN gives NaN.
#[inline(always)]
pub(crate) fn sigmoid<S: Lanes<T>, T: Element>(simd: S, x: S::V) -> S::V {
    let x = cut(simd, T::SIGMOID_LOW, x, T::SIGMOID_HIGH);
    // n = round(-x / ln 2). Of 2^n and e^-x half, so that nothing overflows before the sum does: 1 / Inf is the 0 wanted.
    let t = simd.neg_mul_add(x, simd.splat(T::LOG2E), simd.splat(T::ROUND_HALF));
    let n = simd.sub(t, simd.splat(T::ROUND_HALF));
    // -r = x + n ln 2
    let minus_r = simd.mul_add(n, simd.splat(T::LN2_HI), x);
    let minus_r = simd.mul_add(n, simd.splat(T::LN2_LO), minus_r);
    let minus_p = polynomial(simd, T::Q_MINUS, minus_r);
    let two_n = simd.exponent(t);
    let e = simd.neg_mul_add(two_n, minus_p, two_n);
    let one = simd.splat(T::ONE);
    simd.div(one, simd.mul_add(e, simd.splat(T::TWO), one))
}

/// The hyperbolic tangent: at most 3 ULP off in single, 4 in double precision; NaN gives NaN, -0 gives +0.
#[inline(always)]
pub(crate) fn tanh<S: Lanes<T>, T: Element>(simd: S, x: S::V) -> S::V {
    let x = cut(simd, T::TANH_LOW, x, T::TANH_HIGH);
    // n = round(2x / ln 2), r = x - n ln 2 / 2. The rest of ln 2 would change nothing: n is small where m / (m + 1) is
    // sensitive to m.
    let t = simd.mul_add(x, simd.splat(T::TWO_LOG2E), simd.splat(T::ROUND));
    let n = simd.sub(t, simd.splat(T::ROUND));
    let r = simd.neg_mul_add(n, simd.splat(T::HALF_LN2), x);
    // (e^2r - 1) / 2
    let p = polynomial(simd, T::Q_DOUBLE, r);
    let two_n = simd.exponent(t);
    let m = simd.mul_add(two_n, simd.splat(T::HALF), simd.splat(T::MINUS_HALF));
    let m = simd.mul_add(two_n, p, m);
    simd.div(m, simd.add(m, simd.splat(T::ONE)))
}

/// `activation` of `x`.
#[inline(always)]
pub(crate) fn activate<S: Lanes<T>, T: Element>(simd: S, activation: Activation, x: S::V) -> S::V {
    match activation {
        Activation::Sigmoid => sigmoid::<S, T>(simd, x),
        Activation::Tanh => tanh::<S, T>(simd, x),
        Activation::Identity => x,
        other => others::through_memory::<S, T>(simd, others::activate, other, x),
    }
}

/// The slope of `activation` where its value is `a`.
#[inline(always)]
pub(crate) fn slope<S: Lanes<T>, T: Element>(simd: S, activation: Activation, a: S::V) -> S::V {
    let one = simd.splat(T::ONE);
    match activation {
        Activation::Sigmoid => simd.mul(a, simd.sub(one, a)),
        Activation::Tanh => simd.neg_mul_add(a, a, one),
        Activation::Identity => one,
        other => others::through_memory::<S, T>(simd, others::slope, other, a),
    }
}

#[cfg(test)]
mod tests;
