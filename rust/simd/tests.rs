//! Each operation on each instruction set, against what the standard library says it is, to the bit.

use super::*;
use crate::testing::{Real, Rng, on_every_isa};

on_every_isa! {
    operations_are_those_of_ieee,
    powers_of_two_are_exact,
    memory_is_read_and_written_as_far_as_it_goes,
}

/// The operations of three operands or fewer.
const OPERATIONS: usize = 12;

/// What operation `which` is, by the standard library.
fn expected<T: Real>(which: usize, [a, b, c]: [T; 3]) -> T {
    let negative = |x: T| x.wide().is_sign_negative();
    let minus = |x: T| T::of(-x.wide());
    match which {
        0 => a,
        1 => a.plus(b),
        2 => a.plus(minus(b)),
        3 => a.times(b),
        4 => a.over(b),
        5 => a.fma(b, c),
        6 => minus(a).fma(b, c),
        7 => {
            if a < b {
                a
            } else {
                b
            }
        }
        8 => {
            if a < b {
                T::ONE
            } else {
                T::ZERO
            }
        }
        9 => {
            if a < b {
                c
            } else {
                b
            }
        }
        10 => {
            if negative(a) {
                minus(a)
            } else {
                a
            }
        }
        _ => {
            if a > b {
                a
            } else {
                b
            }
        }
    }
}

/// Operation `which` over all of `operands`, as many as a vector has at a time.
struct Apply<'a, T> {
    which: usize,
    operands: &'a [[T; 3]],
}

impl<T: Real> Job<T> for Apply<'_, T> {
    type Output = Vec<T>;

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) -> Vec<T> {
        let mut out = Vec::new();
        for operands in self.operands.chunks(S::LANES) {
            let mut columns = [[T::ZERO; 16]; 3];
            for (lane, operands) in operands.iter().enumerate() {
                for (column, &operand) in columns.iter_mut().zip(operands) {
                    column[lane] = operand;
                }
            }
            let a = simd.load(&simd.vectors(&columns[0])[0]);
            let b = simd.load(&simd.vectors(&columns[1])[0]);
            let c = simd.load(&simd.vectors(&columns[2])[0]);
            let v = match self.which {
                0 => a,
                1 => simd.add(a, b),
                2 => simd.sub(a, b),
                3 => simd.mul(a, b),
                4 => simd.div(a, b),
                5 => simd.mul_add(a, b, c),
                6 => simd.neg_mul_add(a, b, c),
                7 => simd.min(a, b),
                8 => simd.select(simd.lt(a, b), simd.splat(T::ONE), simd.splat(T::ZERO)),
                9 => simd.select(simd.lt(a, b), c, b),
                10 => simd.abs(a),
                _ => simd.max(a, b),
            };
            let mut result = [T::ZERO; 16];
            simd.store(v, &mut simd.vectors_mut(&mut result)[0]);
            out.extend(&result[..operands.len()]);
        }
        out
    }
}

fn operations_are_those_of_ieee(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet) {
        let mut operands = Vec::new();
        for &a in T::SPECIAL {
            for &b in T::SPECIAL {
                operands.extend(T::SPECIAL.iter().map(|&c| [a, b, c]));
            }
        }
        let mut rng = Rng::new(31);
        for _ in 0..20_000 {
            // Any bits at all, then numbers of like size, whose sums cancel.
            operands.push(std::array::from_fn(|_| T::from_low_bits(rng.bits())));
            operands.push(std::array::from_fn(|_| rng.number(0)));
            let (a, b): (T, T) = (rng.number(0), rng.number(0));
            operands.push([a, b, T::of(-(a.wide() * b.wide()))]);
        }
        for which in 0..OPERATIONS {
            let got = T::dispatch(isa, Apply { which, operands: &operands });
            for (&operands, got) in operands.iter().zip(got) {
                let expected = expected(which, operands);
                assert_eq!(
                    got.bits(),
                    expected.bits(),
                    "operation {which} of {operands:?} on {}: {got:?}, expected {expected:?}",
                    isa.name()
                );
            }
        }
    }
    check::<f32>(isa);
    check::<f64>(isa);
}

struct Powers<'a, T>(&'a mut [T]);

impl<T: Real> Job<T> for Powers<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for t in simd.vectors_mut(self.0) {
            let power = simd.exponent(simd.load(t));
            simd.store(power, t);
        }
    }
}

/// From 0 (one below the exponents of normal numbers) to the largest: all that the exponential asks for and more.
fn powers_of_two_are_exact(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, least: i32, most: i32) {
        let all: Vec<i32> = (least..=most).collect();
        let round = T::ROUND.wide();
        let mut powers: Vec<T> = all.iter().map(|&n| T::of(round + f64::from(n))).collect();
        powers.resize(all.len().next_multiple_of(16), T::ROUND);
        T::dispatch(isa, Powers(&mut powers));
        for (n, power) in all.into_iter().zip(powers) {
            let exact = if n == least { 0.0 } else { f64::from_bits(((1023 + n) as u64) << 52) };
            assert_eq!(power.bits(), T::of(exact).bits(), "2^{n} on {}: {power:?}", isa.name());
        }
    }
    check::<f32>(isa, -127, 127);
    check::<f64>(isa, -1023, 1023);
}

/// `count` numbers there and back, between numbers that have to stay.
struct Partial {
    count: usize,
}

impl<T: Real> Job<T> for Partial {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let numbers: Vec<T> = (1..=40).map(|n| T::of(f64::from(n))).collect();
        let Self { count } = self;
        if count < S::LANES {
            // What is behind the numbers reads as zeros, whatever is there.
            let v = simd.load_partial(&numbers[3..3 + count]);
            let mut whole = vec![T::of(-1.0); S::LANES];
            simd.store(v, &mut simd.vectors_mut(&mut whole)[0]);
            assert_eq!(whole[..count], numbers[3..3 + count]);
            assert!(whole[count..].iter().all(|x| x.bits() == 0), "{whole:?}");
            let mut to = [T::of(-1.0); 40];
            simd.store_partial(simd.load(&simd.vectors(&numbers)[0]), &mut to[5..5 + count]);
            assert_eq!(to[5..5 + count], numbers[..count]);
            assert_eq!(to.iter().filter(|&&x| x == T::of(-1.0)).count(), 40 - count);
        }
        // As many whole vectors as there are; the rest is left out.
        let vectors = simd.vectors(&numbers[..count]);
        assert_eq!((vectors.len(), vectors.as_ptr().cast()), (count / S::LANES, numbers.as_ptr()));
        let mut copy = numbers.clone();
        assert_eq!(simd.vectors_mut(&mut copy[..count]).len(), count / S::LANES);
        assert_eq!(size_of::<S::A>(), S::LANES * size_of::<T>());
        assert_eq!(align_of::<S::A>(), align_of::<T>());
    }
}

fn memory_is_read_and_written_as_far_as_it_goes(isa: InstructionSet) {
    for count in 0..=40 {
        <f32 as Element>::dispatch(isa, Partial { count });
        <f64 as Element>::dispatch(isa, Partial { count });
    }
}
