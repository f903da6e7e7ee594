//! The activations beside sigmoid, tanh and the identity, and their slopes.
//!
//! ```text
//! relu max(0, x)                         affine alpha x + beta                leaky relu x, below 0 alpha x
//! thresholded relu x above alpha, else 0                                      scaled tanh alpha tanh(beta x)
//! hard sigmoid alpha x + beta in [0, 1]  elu x, below 0 alpha (e^x - 1)       softsign x / (1 + |x|)
//! softplus ln(1 + e^x) = max(0, x) + ln(1 + e^-|x|),   ln(1 + u) = 2 atanh(s),  s = u / (2 + u)
//! ```
//!
//! A slope is made of the activation's value, which is what a tape holds; a function that falls and rises again has none
//! ([`CellSpec::check_gradient`](crate::cell::CellSpec)). At a corner it is that of the side which PyTorch takes.
//!
//! One compiled copy serves every place: so many alternatives, inlined at each gate of each pass on each instruction set,
//! would be most of the library. A vector goes there and back through memory, which is little beside what happens to it.

use super::{cut, polynomial, tanh};
use crate::cell::Activation;
use crate::simd::{Element, Lanes};

/// `f` of a vector, called and not inlined.
#[inline(always)]
pub(super) fn through_memory<S: Lanes<T>, T: Element>(
    simd: S,
    f: fn(S, Activation, &mut S::A),
    activation: Activation,
    x: S::V,
) -> S::V {
    // As many as the longest vector has: the first of them.
    let mut place = simd.vectors(&[T::ZERO; 16])[0];
    simd.store(x, &mut place);
    f(simd, activation, &mut place);
    simd.load(&place)
}

/// `activation` of `x`, in place.
#[inline(never)]
pub(super) fn activate<S: Lanes<T>, T: Element>(simd: S, activation: Activation, x: &mut S::A) {
    simd.vectorize(
        #[inline(always)]
        || simd.store(value::<S, T>(simd, activation, simd.load(x)), x),
    );
}

/// The slope of `activation` in the place of its value.
#[inline(never)]
pub(super) fn slope<S: Lanes<T>, T: Element>(simd: S, activation: Activation, a: &mut S::A) {
    simd.vectorize(
        #[inline(always)]
        || simd.store(slope_of::<S, T>(simd, activation, simd.load(a)), a),
    );
}

/// A parameter in every lane.
#[inline(always)]
fn all<S: Lanes<T>, T: Element>(simd: S, parameter: f64) -> S::V {
    simd.splat(T::of(parameter))
}

/// `x`, or 0 where it is below; NaN stays NaN.
#[inline(always)]
fn positive<S: Lanes<T>, T: Element>(simd: S, x: S::V) -> S::V {
    simd.max(simd.splat(T::ZERO), x)
}

#[inline(always)]
fn value<S: Lanes<T>, T: Element>(simd: S, activation: Activation, x: S::V) -> S::V {
    let (zero, one) = (simd.splat(T::ZERO), simd.splat(T::ONE));
    match activation {
        Activation::Relu => positive(simd, x),
        Activation::Affine { alpha, beta } => simd.mul_add(all(simd, alpha), x, all(simd, beta)),
        Activation::LeakyRelu { alpha } => simd.select(simd.lt(x, zero), simd.mul(all(simd, alpha), x), x),
        Activation::ThresholdedRelu { alpha } => {
            let alpha = all(simd, alpha);
            // What is neither above nor below is alpha itself, or NaN: its difference from alpha is 0, or NaN.
            let below = simd.select(simd.lt(x, alpha), zero, simd.sub(x, alpha));
            simd.select(simd.lt(alpha, x), x, below)
        }
        Activation::ScaledTanh { alpha, beta } => {
            simd.mul(all(simd, alpha), tanh::<S, T>(simd, simd.mul(all(simd, beta), x)))
        }
        Activation::HardSigmoid { alpha, beta } => {
            cut(simd, T::ZERO, simd.mul_add(all(simd, alpha), x, all(simd, beta)), T::ONE)
        }
        Activation::Elu { alpha } => {
            let (two_n, minus_p) = decay(simd, simd.sub(zero, x));
            // e^x - 1 = (2^n - 1) - 2^n (-p)
            let m = simd.neg_mul_add(two_n, minus_p, simd.sub(two_n, one));
            simd.select(simd.lt(zero, x), x, simd.mul(all(simd, alpha), m))
        }
        Activation::Softsign => simd.div(x, simd.add(one, simd.abs(x))),
        Activation::Softplus => {
            let (two_n, minus_p) = decay(simd, simd.abs(x));
            let u = simd.neg_mul_add(two_n, minus_p, two_n);
            simd.add(positive(simd, x), log_one_plus(simd, u))
        }
        // These are inlined where they are needed, and never come here.
        Activation::Sigmoid | Activation::Tanh | Activation::Identity => x,
    }
}

#[inline(always)]
fn slope_of<S: Lanes<T>, T: Element>(simd: S, activation: Activation, a: S::V) -> S::V {
    let (zero, one) = (simd.splat(T::ZERO), simd.splat(T::ONE));
    match activation {
        Activation::Relu | Activation::ThresholdedRelu { .. } => simd.select(simd.lt(zero, a), one, zero),
        Activation::Affine { alpha, .. } => all(simd, alpha),
        Activation::LeakyRelu { alpha } => simd.select(simd.lt(zero, a), one, all(simd, alpha)),
        Activation::ScaledTanh { alpha: 0.0, .. } => zero,
        Activation::ScaledTanh { alpha, beta } => {
            let t = simd.div(a, all(simd, alpha));
            simd.mul(all(simd, alpha * beta), simd.neg_mul_add(t, t, one))
        }
        Activation::HardSigmoid { alpha, .. } => {
            let low = simd.select(simd.lt(zero, a), all(simd, alpha), zero);
            simd.select(simd.lt(a, one), low, zero)
        }
        Activation::Elu { alpha } => simd.select(simd.lt(zero, a), one, simd.add(a, all(simd, alpha))),
        Activation::Softsign => {
            let root = simd.sub(one, simd.abs(a));
            simd.mul(root, root)
        }
        Activation::Softplus => {
            // 1 - e^-a = (1 - 2^n) + 2^n (-p)
            let (two_n, minus_p) = decay(simd, a);
            simd.mul_add(two_n, minus_p, simd.sub(one, two_n))
        }
        Activation::Sigmoid | Activation::Tanh | Activation::Identity => a,
    }
}

/// `2^n` and `-p` of `e^-x = 2^n p + 2^n`, for `x` from 0 on; what is below counts as 0. NaN gives NaN.
#[inline(always)]
fn decay<S: Lanes<T>, T: Element>(simd: S, x: S::V) -> (S::V, S::V) {
    let x = cut(simd, T::ZERO, x, T::DECAY_HIGH);
    let t = simd.neg_mul_add(x, simd.splat(T::LOG2E), simd.splat(T::ROUND));
    let n = simd.sub(t, simd.splat(T::ROUND));
    // -r = x + n ln 2
    let minus_r = simd.mul_add(n, simd.splat(T::LN2_HI), x);
    let minus_r = simd.mul_add(n, simd.splat(T::LN2_LO), minus_r);
    (simd.exponent(t), polynomial(simd, T::Q_MINUS, minus_r))
}

/// `ln(1 + u)` for `u` in [0, 1].
#[inline(always)]
fn log_one_plus<S: Lanes<T>, T: Element>(simd: S, u: S::V) -> S::V {
    let two_s = simd.div(simd.add(u, u), simd.add(simd.splat(T::TWO), u));
    // Where s is so small that it does not count beside 1, its square would be subnormal.
    let s = simd.max(simd.splat(T::SNAP), simd.mul(two_s, simd.splat(T::HALF)));
    let w = simd.mul(s, s);
    let mut sum = simd.splat(T::L[T::L.len() - 1]);
    for &l in T::L[..T::L.len() - 1].iter().rev() {
        sum = simd.mul_add(sum, w, simd.splat(l));
    }
    simd.mul_add(simd.mul(two_s, w), sum, two_s)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{samples, ulps, values_or_slopes as apply};
    use crate::cell::Activation;
    use crate::reference::squash;
    use crate::simd::InstructionSet;
    use crate::testing::{Real, on_every_isa};

    on_every_isa! {
        values_are_within_4_ulp,
        slopes_are_within_4_ulp,
        special_values_are_exact,
    }

    /// With parameters that have few bits, so that a product with them is right to the bit.
    const OTHERS: [Activation; 11] = [
        Activation::Relu,
        Activation::Affine { alpha: -0.375, beta: 0.25 },
        Activation::LeakyRelu { alpha: 0.0625 },
        Activation::LeakyRelu { alpha: -0.5 },
        Activation::ThresholdedRelu { alpha: 0.125 },
        Activation::ScaledTanh { alpha: 1.75, beta: 0.5 },
        Activation::HardSigmoid { alpha: 0.1875, beta: 0.5 },
        Activation::Elu { alpha: 0.75 },
        Activation::Elu { alpha: 1.0 },
        Activation::Softsign,
        Activation::Softplus,
    ];

    /// The largest distance, in units in the last place, from a truth in double precision. What is not normal in `T` counts
    /// only where it is off by more than the smallest normal number.
    fn worst<T: Real>(
        isa: InstructionSet,
        activation: Activation,
        slope: bool,
        x: &[T],
        truth: impl Fn(f64) -> f64,
    ) -> f64 {
        let bits = 1 - T::EPSILON.log2() as i32;
        let mut worst = 0f64;
        for (&x, got) in x.iter().zip(apply(isa, activation, slope, x)) {
            let (got, truth) = (got.wide(), truth(x.wide()));
            if truth.abs() >= T::TINY && truth.abs() <= 1.0 / T::TINY {
                worst = worst.max(ulps(got, truth, 0.0, bits));
            } else if truth.is_finite() && truth.abs() < 1.0 {
                assert!((got - truth).abs() <= T::TINY, "{activation:?} of {x:?}: {got:e}, but {truth:e}");
            }
        }
        worst
    }

    fn values_are_within_4_ulp(isa: InstructionSet) {
        fn check<T: Real>(isa: InstructionSet, most: f64) {
            let x: Vec<T> = samples(61, 40_000).into_iter().filter(|x: &T| x.wide().is_finite()).collect();
            for activation in OTHERS {
                let worst = worst(isa, activation, false, &x, |x| squash(activation, x));
                assert!(worst <= most, "{activation:?} on {}: {worst} ULP", isa.name());
            }
        }
        check::<f32>(isa, 4.0);
        // The truth itself is off by up to one.
        check::<f64>(isa, 5.0);
    }

    /// Of values, the slopes that follow from them: exact but for those that take an exponential or a difference.
    fn slopes_are_within_4_ulp(isa: InstructionSet) {
        fn check<T: Real>(isa: InstructionSet, most: f64) {
            let positive: Vec<T> = (0..2000).map(|k| T::of(f64::from(k) * f64::from(k) / 50_000.0)).collect();
            let got = worst(isa, Activation::Softplus, true, &positive, |a| -(-a).exp_m1());
            assert!(got <= most, "softplus on {}: {got} ULP", isa.name());
            let inside: Vec<T> = (-100..100).map(|k| T::of(f64::from(k) / 128.0)).collect();
            let got = worst(isa, Activation::Softsign, true, &inside, |a| (1.0 - a.abs()).powi(2));
            assert!(got <= 1.0, "softsign on {}: {got} ULP", isa.name());
            let scaled = Activation::ScaledTanh { alpha: 2.0, beta: 0.5 };
            let got = worst(isa, scaled, true, &inside, |a| 1.0 - (a / 2.0).powi(2));
            assert!(got <= 1.0, "scaled tanh on {}: {got} ULP", isa.name());
        }
        check::<f32>(isa, 4.0);
        check::<f64>(isa, 5.0);
    }

    fn special_values_are_exact(isa: InstructionSet) {
        fn check<T: Real>(isa: InstructionSet) {
            let (nan, inf) = (f64::NAN, f64::INFINITY);
            for activation in OTHERS {
                let got = apply(isa, activation, false, &[T::of(nan)])[0].wide();
                assert!(got.is_nan(), "{activation:?} of NaN is {got}");
            }
            let corner = Activation::ThresholdedRelu { alpha: 0.125 };
            let hard = Activation::HardSigmoid { alpha: 0.25, beta: 0.5 };
            for (activation, slope, x, expected) in [
                (corner, false, 0.125, 0.0),
                (corner, false, 0.25, 0.25),
                (corner, false, -inf, 0.0),
                (corner, true, 0.0, 0.0),
                (corner, true, 0.25, 1.0),
                (Activation::Relu, false, -inf, 0.0),
                (Activation::Relu, true, 0.0, 0.0),
                (Activation::LeakyRelu { alpha: 0.5 }, true, 0.0, 0.5),
                (Activation::Elu { alpha: 0.5 }, false, -inf, -0.5),
                (Activation::Elu { alpha: 0.5 }, true, 0.0, 0.5),
                (Activation::Softplus, false, inf, inf),
                (Activation::Softplus, false, -inf, 0.0),
                (Activation::Softplus, true, inf, 1.0),
                (Activation::Softplus, true, 0.0, 0.0),
                (Activation::ScaledTanh { alpha: 0.0, beta: 1.0 }, true, 0.0, 0.0),
                (hard, false, 2.0, 1.0),
                (hard, false, -inf, 0.0),
                (hard, true, 1.0, 0.0),
                (hard, true, 0.0, 0.0),
                (hard, true, 0.5, 0.25),
            ] {
                let got = apply(isa, activation, slope, &[T::of(x)])[0];
                assert_eq!(got.bits(), T::of(expected).bits(), "{activation:?} of {x} on {}: {got:?}", isa.name());
            }
        }
        check::<f32>(isa);
        check::<f64>(isa);
    }
}
