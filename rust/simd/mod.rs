//! Vectors of one instruction set, and the choice of one at run time.
//!
//! [`Isa`] is a token: it has a private field and is made only where detection found its features, so whoever holds one
//! may use them. [`Lanes`] are the operations, highly constrained to what every instruction set does with the same bits:
//!
//! * `mul_add` is one rounding everywhere, in hardware or not;
//! * `min(a, b)` *is* `a < b ? a : b` and `max(a, b)` is `a > b ? a : b`, so that a NaN in `b` comes through;
//! * there is no reciprocal estimate and no horizontal sum, whose bits would depend on the machine or the lane count.
//!
//! Kernels are written once over `Lanes` and run inside [`Isa::vectorize`], which carries the features. Everything
//! between there and an operation is `#[inline(always)]`; what is not would lose the features.
//!
//! A new instruction set is a file here and a line in `instruction_sets`.

#[cfg(all(test, target_arch = "x86_64"))]
pub(crate) mod flags;
pub(crate) mod memory;
pub(crate) mod recycled;
mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use std::fmt::Debug;

use crate::kernel::activation::Exp;

/// The one list of instruction sets, slowest first: handed to the macro `$with`.
macro_rules! instruction_sets {
    ($with:ident) => {
        $with! {
            Scalar "scalar" all() => scalar::Scalar,
            Avx2 "avx2" target_arch = "x86_64" => avx2::Avx2,
            Avx512 "avx512" target_arch = "x86_64" => avx512::Avx512,
            Neon "neon" target_arch = "aarch64" => neon::Neon,
        }
    };
}

/// [`Element::dispatch`], over the list.
macro_rules! define_dispatch {
    ($($variant:ident $name:literal $cfg:meta => $token:path,)+) => {
        fn dispatch<J: Job<Self>>(isa: InstructionSet, job: J) -> J::Output {
            match isa { $(
                #[cfg($cfg)]
                InstructionSet::$variant => {
                    let simd = <$token>::new().unwrap_or_else(|| unavailable(isa));
                    simd.vectorize(#[inline(always)] || job.run(simd))
                }
            )+
                #[allow(unreachable_patterns, reason = "some architectures have all")]
                _ => unavailable(isa),
            }
        }
    };
}

/// A floating-point type that the library computes in: `f32` or `f64`.
pub trait Element: Copy + Debug + Default + PartialEq + PartialOrd + Send + Sync + 'static + Exp {
    /// Nothing.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// States, carries and gradients of pre-activations of smaller magnitude become +0, so that nothing decays into the
    /// subnormals, which cost a hundredfold on some CPUs: 2^-56 in single, 2^-480 in double precision. Two such numbers
    /// meet in a product, which has to be normal, times a gate or a weight.
    const SNAP: Self;

    /// `x`, rounded.
    fn of(x: f64) -> Self;
    /// The memory of what is gone.
    #[doc(hidden)]
    fn pool() -> &'static recycled::Pool<Self>;

    /// Crosses into the features of `isa`, once a call, and runs `job` there.
    ///
    /// # Panics
    /// Where this CPU does not have `isa`.
    fn dispatch<J: Job<Self>>(isa: InstructionSet, job: J) -> J::Output;
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const SNAP: Self = f32::from_bits((127 - 56) << 23);
    #[inline(always)]
    fn of(x: f64) -> Self {
        x as f32
    }
    fn pool() -> &'static recycled::Pool<Self> {
        static POOL: recycled::Pool<f32> = recycled::Pool::new();
        &POOL
    }
    instruction_sets!(define_dispatch);
}

impl Element for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const SNAP: Self = f64::from_bits((1023 - 480) << 52);
    #[inline(always)]
    fn of(x: f64) -> Self {
        x
    }
    fn pool() -> &'static recycled::Pool<Self> {
        static POOL: recycled::Pool<f64> = recycled::Pool::new();
        &POOL
    }
    instruction_sets!(define_dispatch);
}

/// Proof that this CPU has an instruction set.
pub trait Isa: Copy + Send + Sync + 'static {
    /// Runs `f`, which is inlined, with the features of this instruction set; never inlined itself.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;

    /// Asks for the memory at `place`, wherever that is, to be brought into the second-level cache; where there is no such
    /// instruction, nothing happens.
    #[inline(always)]
    fn prefetch<P>(self, _place: *const P) {}
}

/// An instruction set's vectors of `T`, and what can be done with them.
///
/// All operations are elementwise, with IEEE rounding to nearest.
pub trait Lanes<T: Element>: Isa {
    /// A vector.
    type V: Copy;
    /// The outcome of a comparison.
    type Mask: Copy;
    /// A vector in memory: `[T; LANES]`, with the alignment of `T`.
    type A: Copy + Send + Sync + 'static;
    /// How many numbers a vector has.
    const LANES: usize;
    /// How many rows a tile of four vectors may have before the registers run out.
    const ROWS: usize;

    /// Memory as vectors; what remains at the end is left out.
    fn vectors(self, memory: &[T]) -> &[Self::A];
    /// Memory as vectors; what remains at the end is left out.
    fn vectors_mut(self, memory: &mut [T]) -> &mut [Self::A];
    /// Vectors as memory.
    fn numbers(self, vectors: &[Self::A]) -> &[T];
    /// The first numbers of a vector, as many as `to` has room for.
    fn store_partial(self, v: Self::V, to: &mut [T]);
    /// The numbers of `from`, and zeros behind them.
    fn load_partial(self, from: &[T]) -> Self::V;

    /// `x` in every lane.
    fn splat(self, x: T) -> Self::V;
    /// From memory.
    fn load(self, from: &Self::A) -> Self::V;
    /// To memory.
    fn store(self, v: Self::V, to: &mut Self::A);
    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`, rounded once
    fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a < b ? a : b`: `b` where either is NaN
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a > b ? a : b`: `b` where either is NaN
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b`: false where either is NaN
    fn lt(self, a: Self::V, b: Self::V) -> Self::Mask;
    /// `mask ? a : b`
    fn select(self, mask: Self::Mask, a: Self::V, b: Self::V) -> Self::V;
    /// `|a|`
    fn abs(self, a: Self::V) -> Self::V;
    /// The low bits of `t`'s mantissa as an exponent: `2^n`, where `t` is `n` plus [`Exp::ROUND`]; 0 where `n` is one
    /// below the exponents of normal numbers.
    fn exponent(self, t: Self::V) -> Self::V;
}

/// Work that runs on any instruction set. `run` has to be `#[inline(always)]`.
pub trait Job<T: Element> {
    /// What comes of it.
    type Output;
    /// Does it.
    fn run<S: Lanes<T>>(self, simd: S) -> Self::Output;
}

/// The part of [`Lanes`] that is the same text for every vector type: memory in chunks of the lane count.
macro_rules! memory_as_vectors {
    ($element:ty, $lanes:literal) => {
        type A = [$element; $lanes];
        const LANES: usize = $lanes;

        #[inline(always)]
        fn vectors(self, memory: &[$element]) -> &[Self::A] {
            memory.as_chunks().0
        }
        #[inline(always)]
        fn vectors_mut(self, memory: &mut [$element]) -> &mut [Self::A] {
            memory.as_chunks_mut().0
        }
        #[inline(always)]
        fn numbers(self, vectors: &[Self::A]) -> &[$element] {
            vectors.as_flattened()
        }
        #[inline(always)]
        fn load_partial(self, from: &[$element]) -> Self::V {
            let mut all = [0.0; $lanes];
            all[..from.len()].copy_from_slice(from);
            Lanes::<$element>::load(self, &all)
        }
        #[inline(always)]
        fn store_partial(self, v: Self::V, to: &mut [$element]) {
            let mut all = [0.0; $lanes];
            Lanes::<$element>::store(self, v, &mut all);
            to.copy_from_slice(&all[..to.len()]);
        }
    };
}
use memory_as_vectors;

/// A token for an instruction set, from one list of its features: for detection and for the compiler.
///
/// Not for `Scalar`, which every CPU has.
macro_rules! isa_token {
    ($(#[$doc:meta])* $name:ident, $detected:ident: $($feature:tt),+; $($prefetch:tt)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $name(());

        impl $name {
            /// A token, where this CPU has the instruction set.
            #[inline]
            pub(crate) fn new() -> Option<Self> {
                ($(std::arch::$detected!($feature))&&+).then_some(Self(()))
            }
        }

        impl crate::simd::Isa for $name {
            #[inline(always)]
            fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
                #[target_feature($(enable = $feature),+)]
                #[inline(never)]
                fn run<R>(f: impl FnOnce() -> R) -> R {
                    f()
                }
                // SAFETY: `self` was made by `new`, which found the features that `run` needs.
                unsafe { run(f) }
            }

            $($prefetch)*
        }
    };
}
use isa_token;

macro_rules! define_enum {
    ($($variant:ident $name:literal $cfg:meta => $token:path,)+) => {
        /// An instruction set, by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the names say it")]
        pub enum InstructionSet { $($variant),+ }

        impl InstructionSet {
            /// Every one that the library knows, slowest first.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name, as `LSTM_RS_ISA` takes it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// Does this CPU have it?
            pub fn is_available(self) -> bool {
                match self { $(
                    #[cfg($cfg)]
                    Self::$variant => <$token>::new().is_some(),
                )+
                    #[allow(unreachable_patterns, reason = "some architectures have all")]
                    _ => false,
                }
            }
        }
    };
}
instruction_sets!(define_enum);

#[cold]
fn unavailable(isa: InstructionSet) -> ! {
    panic!("this CPU has no {}: InstructionSet::is_available tells", isa.name())
}

impl InstructionSet {
    /// Those that this CPU has, slowest first.
    pub fn available() -> impl DoubleEndedIterator<Item = Self> {
        Self::ALL.iter().copied().filter(|isa| isa.is_available())
    }

    /// The fastest that this CPU has.
    pub fn best() -> Self {
        Self::available().next_back().unwrap_or(Self::Scalar)
    }
}

#[cfg(test)]
mod tests;
