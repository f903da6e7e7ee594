//! AVX2 with FMA: 8 single or 4 double numbers, 16 registers.

use std::arch::x86_64::*;

use super::{Lanes, isa_token, memory_as_vectors};

isa_token! {
    /// AVX2 and FMA are there.
    Avx2, is_x86_feature_detected: "avx2", "fma";
    #[inline(always)]
    fn prefetch<P>(self, place: *const P) {
        // SAFETY: SSE is there, and a prefetch does not fail wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(place.cast()) };
    }
}

macro_rules! op {
    ($operation:expr) => {
        // SAFETY: `self` exists only where detection found AVX2 and FMA.
        unsafe { $operation }
    };
}

macro_rules! lanes {
    (
        $element:ty, $lanes:literal, $vector:ty, mantissa $bits:literal;
        $splat:ident $load:ident $store:ident $add:ident $sub:ident $mul:ident $div:ident $fmadd:ident $fnmadd:ident
        $min:ident $max:ident $cmp:ident $blend:ident $andnot:ident
        $to_int:ident $from_int:ident $shift_left:ident
    ) => {
        impl Lanes<$element> for Avx2 {
            type V = $vector;
            type Mask = $vector;
            // 12 accumulators, 3 broadcasts and one vector of weights fill the 16 registers.
            const ROWS: usize = 3;
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
                op!($blend(b, a, mask))
            }
            #[inline(always)]
            fn abs(self, a: Self::V) -> Self::V {
                op!($andnot($splat(-0.0), a))
            }
            #[inline(always)]
            fn exponent(self, t: Self::V) -> Self::V {
                op!($from_int($shift_left::<$bits>($to_int(t))))
            }
        }
    };
}

lanes! {
    f32, 8, __m256, mantissa 23;
    _mm256_set1_ps _mm256_loadu_ps _mm256_storeu_ps _mm256_add_ps _mm256_sub_ps _mm256_mul_ps _mm256_div_ps
    _mm256_fmadd_ps _mm256_fnmadd_ps
    _mm256_min_ps _mm256_max_ps _mm256_cmp_ps _mm256_blendv_ps _mm256_andnot_ps
    _mm256_castps_si256 _mm256_castsi256_ps _mm256_slli_epi32
}

lanes! {
    f64, 4, __m256d, mantissa 52;
    _mm256_set1_pd _mm256_loadu_pd _mm256_storeu_pd _mm256_add_pd _mm256_sub_pd _mm256_mul_pd _mm256_div_pd
    _mm256_fmadd_pd _mm256_fnmadd_pd
    _mm256_min_pd _mm256_max_pd _mm256_cmp_pd _mm256_blendv_pd _mm256_andnot_pd
    _mm256_castpd_si256 _mm256_castsi256_pd _mm256_slli_epi64
}
