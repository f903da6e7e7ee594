//! NEON on AArch64: 4 single or 2 double numbers, 32 registers.

use std::arch::aarch64::*;

use super::{Lanes, isa_token, memory_as_vectors};

isa_token! {
    /// NEON is there.
    Neon, is_aarch64_feature_detected: "neon";
}

macro_rules! op {
    ($operation:expr) => {
        // SAFETY: `self` exists only where detection found NEON.
        unsafe { $operation }
    };
}

macro_rules! lanes {
    (
        $element:ty, $lanes:literal, $vector:ty, $mask:ty, mantissa $bits:literal;
        $splat:ident $load:ident $store:ident $add:ident $sub:ident $mul:ident $div:ident $fma:ident $fms:ident
        $lt:ident $select:ident $abs:ident $to_int:ident $from_int:ident $shift_left:ident
    ) => {
        impl Lanes<$element> for Neon {
            type V = $vector;
            type Mask = $mask;
            // 20 accumulators, 5 broadcasts and one vector of weights, of 32 registers.
            const ROWS: usize = 5;
            memory_as_vectors!($element, $lanes);

            #[inline(always)]
            fn splat(self, x: $element) -> Self::V {
                op!($splat(x))
            }
            #[inline(always)]
            fn load(self, from: &Self::A) -> Self::V {
                // SAFETY: as `op!`; and `from` is as long as a vector.
                unsafe { $load(from.as_ptr()) }
            }
            #[inline(always)]
            fn store(self, v: Self::V, to: &mut Self::A) {
                // SAFETY: as `op!`; and `to` is as long as a vector.
                unsafe { $store(to.as_mut_ptr(), v) }
            }
            #[inline(always)]
            fn add(self, a: Self::V, b: Self::V) -> Self::V {
                op!($add(a, b))
            }
            #[inline(always)]
            fn sub(self, a: Self::V, b: Self::V) -> Self::V {
                op!($sub(a, b))
            }
            #[inline(always)]
            fn mul(self, a: Self::V, b: Self::V) -> Self::V {
                op!($mul(a, b))
            }
            #[inline(always)]
            fn div(self, a: Self::V, b: Self::V) -> Self::V {
                op!($div(a, b))
            }
            #[inline(always)]
            fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                op!($fma(c, a, b))
            }
            #[inline(always)]
            fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                op!($fms(c, a, b))
            }
            #[inline(always)]
            fn min(self, a: Self::V, b: Self::V) -> Self::V {
                // FMIN would give NaN wherever either is one.
                op!($select($lt(a, b), a, b))
            }
            #[inline(always)]
            fn max(self, a: Self::V, b: Self::V) -> Self::V {
                op!($select($lt(b, a), a, b))
            }
            #[inline(always)]
            fn lt(self, a: Self::V, b: Self::V) -> Self::Mask {
                op!($lt(a, b))
            }
            #[inline(always)]
            fn select(self, mask: Self::Mask, a: Self::V, b: Self::V) -> Self::V {
                op!($select(mask, a, b))
            }
            #[inline(always)]
            fn abs(self, a: Self::V) -> Self::V {
                op!($abs(a))
            }
            #[inline(always)]
            fn exponent(self, t: Self::V) -> Self::V {
                op!($from_int($shift_left::<$bits>($to_int(t))))
            }
        }
    };
}

lanes! {
    f32, 4, float32x4_t, uint32x4_t, mantissa 23;
    vdupq_n_f32 vld1q_f32 vst1q_f32 vaddq_f32 vsubq_f32 vmulq_f32 vdivq_f32 vfmaq_f32 vfmsq_f32
    vcltq_f32 vbslq_f32 vabsq_f32 vreinterpretq_s32_f32 vreinterpretq_f32_s32 vshlq_n_s32
}

lanes! {
    f64, 2, float64x2_t, uint64x2_t, mantissa 52;
    vdupq_n_f64 vld1q_f64 vst1q_f64 vaddq_f64 vsubq_f64 vmulq_f64 vdivq_f64 vfmaq_f64 vfmsq_f64
    vcltq_f64 vbslq_f64 vabsq_f64 vreinterpretq_s64_f64 vreinterpretq_f64_s64 vshlq_n_s64
}
