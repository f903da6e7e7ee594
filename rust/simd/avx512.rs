//! AVX-512F: 16 single or 8 double numbers, 32 registers.

use std::arch::x86_64::*;

use super::{Lanes, isa_token, memory_as_vectors};

isa_token! {
    /// AVX-512F is there.
    Avx512, is_x86_feature_detected: "avx512f";
    #[inline(always)]
    fn prefetch<P>(self, place: *const P) {
        // SAFETY: SSE is there, and a prefetch does not fail wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(place.cast()) };
    }
}

macro_rules! op {
    ($operation:expr) => {
        // SAFETY: `self` exists only where detection found AVX-512F.
        unsafe { $operation }
    };
}

macro_rules! lanes {
    (
        $element:ty, $lanes:literal, $vector:ty, $mask:ty, mantissa $bits:literal;
        $splat:ident $load:ident $store:ident $add:ident $sub:ident $mul:ident $div:ident $fmadd:ident $fnmadd:ident
        $min:ident $max:ident $cmp:ident $blend:ident $abs:ident
        $to_int:ident $from_int:ident $shift_left:ident
    ) => {
        impl Lanes<$element> for Avx512 {
            type V = $vector;
            type Mask = $mask;
            // 24 accumulators, 6 broadcasts and one vector of weights leave one of the 32 registers.
            const ROWS: usize = 6;
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
                op!($fmadd(a, b, c))
            }
            #[inline(always)]
            fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                op!($fnmadd(a, b, c))
            }
            #[inline(always)]
            fn min(self, a: Self::V, b: Self::V) -> Self::V {
                op!($min(a, b))
            }
            #[inline(always)]
            fn max(self, a: Self::V, b: Self::V) -> Self::V {
                op!($max(a, b))
            }
            #[inline(always)]
            fn lt(self, a: Self::V, b: Self::V) -> Self::Mask {
                op!($cmp::<_CMP_LT_OQ>(a, b))
            }
            #[inline(always)]
            fn select(self, mask: Self::Mask, a: Self::V, b: Self::V) -> Self::V {
                op!($blend(mask, b, a))
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
    f32, 16, __m512, __mmask16, mantissa 23;
    _mm512_set1_ps _mm512_loadu_ps _mm512_storeu_ps _mm512_add_ps _mm512_sub_ps _mm512_mul_ps _mm512_div_ps
    _mm512_fmadd_ps _mm512_fnmadd_ps
    _mm512_min_ps _mm512_max_ps _mm512_cmp_ps_mask _mm512_mask_blend_ps _mm512_abs_ps
    _mm512_castps_si512 _mm512_castsi512_ps _mm512_slli_epi32
}

lanes! {
    f64, 8, __m512d, __mmask8, mantissa 52;
    _mm512_set1_pd _mm512_loadu_pd _mm512_storeu_pd _mm512_add_pd _mm512_sub_pd _mm512_mul_pd _mm512_div_pd
    _mm512_fmadd_pd _mm512_fnmadd_pd
    _mm512_min_pd _mm512_max_pd _mm512_cmp_pd_mask _mm512_mask_blend_pd _mm512_abs_pd
    _mm512_castpd_si512 _mm512_castsi512_pd _mm512_slli_epi64
}
