//! What this machine can do at most: multiplications with addition, and bytes read. For benchmarks to compare with.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::simd::memory::Aligned;
use crate::simd::{Element, InstructionSet, Job, Lanes};

/// Chains side by side: more than latency times throughput asks for, fewer than the registers of AVX2.
const CHAINS: usize = 12;

/// Floating-point operations a second, of one core in its best rounds of `time`; a multiplication with addition is two.
pub fn fma_peak<T: Element>(isa: InstructionSet, time: Duration) -> f64 {
    best(time, || T::dispatch(isa, Multiply { rounds: 20_000 }))
}

/// Bytes read a second by one core, over and over from a buffer of `bytes`, in its best rounds of `time`.
///
/// # Errors
/// No memory.
pub fn read_bandwidth<T: Element>(isa: InstructionSet, bytes: usize, time: Duration) -> Result<f64> {
    let mut buffer = Aligned::<T>::try_zeroed(bytes.next_multiple_of(4096) / size_of::<T>())?;
    // Pages that nobody has written to are all one and the same.
    buffer.fill(T::ONE);
    let rounds = ((4 << 20) / bytes.max(1)).max(1);
    Ok(best(time, || T::dispatch(isa, Read { buffer: &buffer, rounds })))
}

/// The most work a second that any round has done.
fn best(time: Duration, round: impl Fn() -> f64) -> f64 {
    let start = Instant::now();
    let mut best = 0.0_f64;
    while start.elapsed() < time || best == 0.0 {
        let start = Instant::now();
        let work = round();
        best = best.max(work / start.elapsed().as_secs_f64());
    }
    best
}

struct Multiply {
    rounds: usize,
}

impl<T: Element> Job<T> for Multiply {
    type Output = f64;

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) -> f64 {
        let (a, b) = (simd.splat(black_box(T::ONE)), simd.splat(black_box(T::ZERO)));
        let mut chains = [simd.splat(T::ONE); CHAINS];
        for _ in 0..self.rounds {
            for chain in &mut chains {
                *chain = simd.mul_add(a, *chain, b);
            }
        }
        finish(simd, chains);
        (self.rounds * CHAINS * S::LANES * 2) as f64
    }
}

struct Read<'a, T> {
    buffer: &'a [T],
    rounds: usize,
}

impl<T: Element> Job<T> for Read<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) -> f64 {
        let mut sums = [simd.splat(T::ZERO); CHAINS];
        for _ in 0..self.rounds {
            for vectors in simd.vectors(black_box(self.buffer)).as_chunks::<CHAINS>().0 {
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = simd.add(*sum, simd.load(vector));
                }
            }
        }
        finish(simd, sums);
        let read = self.buffer.len() / (CHAINS * S::LANES) * CHAINS * S::LANES;
        (self.rounds * read * size_of::<T>()) as f64
    }
}

/// Makes the compiler believe that the numbers are needed.
#[inline(always)]
fn finish<S: Lanes<T>, T: Element>(simd: S, vectors: [S::V; CHAINS]) {
    let mut sum = simd.splat(T::ZERO);
    for vector in vectors {
        sum = simd.add(sum, vector);
    }
    let mut numbers = [T::ZERO; 16];
    simd.store_partial(sum, &mut numbers[..S::LANES]);
    black_box(numbers);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_every_isa;

    on_every_isa! {
        a_machine_has_some_speed,
    }

    fn a_machine_has_some_speed(isa: InstructionSet) {
        let moment = Duration::from_micros(200);
        for speed in [
            fma_peak::<f32>(isa, moment),
            fma_peak::<f64>(isa, moment),
            read_bandwidth::<f32>(isa, 1 << 14, moment).unwrap(),
            read_bandwidth::<f64>(isa, 1, moment).unwrap(),
        ] {
            assert!(speed.is_finite() && speed > 1e6, "{speed}");
        }
    }
}
