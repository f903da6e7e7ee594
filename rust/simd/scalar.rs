//! One number at a time: what every CPU can do, and the plainest statement of what the operations mean.
//!
//! Without hardware for fused multiply-add, `mul_add` is a library call: right, and slow.

use super::{Isa, Lanes, memory_as_vectors};

/// No vectors at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar(());

impl Scalar {
    /// Every CPU has it.
    #[inline]
    pub(crate) fn new() -> Option<Self> {
        Some(Self(()))
    }
}

impl Isa for Scalar {
    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[inline(never)]
        fn run<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        run(f)
    }
}

macro_rules! lanes {
    ($element:ty, mantissa $bits:literal) => {
        impl Lanes<$element> for Scalar {
            type V = $element;
            type Mask = bool;
            const ROWS: usize = 2;
            memory_as_vectors!($element, 1);

            #[inline(always)]
            fn splat(self, x: $element) -> Self::V {
                x
            }
            #[inline(always)]
            fn load(self, from: &Self::A) -> Self::V {
                from[0]
            }
            #[inline(always)]
            fn store(self, v: Self::V, to: &mut Self::A) {
                to[0] = v;
            }
            #[inline(always)]
            fn add(self, a: Self::V, b: Self::V) -> Self::V {
                a + b
            }
            #[inline(always)]
            fn sub(self, a: Self::V, b: Self::V) -> Self::V {
                a - b
            }
            #[inline(always)]
            fn mul(self, a: Self::V, b: Self::V) -> Self::V {
                a * b
            }
            #[inline(always)]
            fn div(self, a: Self::V, b: Self::V) -> Self::V {
                a / b
            }
            #[inline(always)]
            fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                a.mul_add(b, c)
            }
            #[inline(always)]
            fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                (-a).mul_add(b, c)
            }
            #[inline(always)]
            fn min(self, a: Self::V, b: Self::V) -> Self::V {
                if a < b { a } else { b }
            }
            #[inline(always)]
            fn max(self, a: Self::V, b: Self::V) -> Self::V {
                if a > b { a } else { b }
            }
            #[inline(always)]
            fn lt(self, a: Self::V, b: Self::V) -> Self::Mask {
                a < b
            }
            #[inline(always)]
            fn select(self, mask: Self::Mask, a: Self::V, b: Self::V) -> Self::V {
                if mask { a } else { b }
            }
            #[inline(always)]
            fn abs(self, a: Self::V) -> Self::V {
                a.abs()
            }
            #[inline(always)]
            fn exponent(self, t: Self::V) -> Self::V {
                <$element>::from_bits(t.to_bits() << $bits)
            }
        }
    };
}
lanes!(f32, mantissa 23);
lanes!(f64, mantissa 52);
