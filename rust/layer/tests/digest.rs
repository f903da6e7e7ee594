//! One number for the bits of many calls, the same on every machine.
//!
//! The other tests compare the instruction sets of one machine with each other; this one compares machines. Its input is
//! made with whole numbers and powers of two alone, so it is the same everywhere, and so has to be what comes of it.
//!
//! To make the numbers anew, which takes a change of the bits that is meant: the test that fails says what they are.

use super::calls::both;
use super::cases::{Case, Data, Layout};
use crate::cell::CellSpec;
use crate::cell::tests::{all, unusual};
use crate::simd::InstructionSet;
use crate::testing::{Real, on_every_isa};

on_every_isa! { digests_are_those_of_every_machine }

/// Of forward and backward, in single and in double precision. Made on x86-64 with AVX-512; found the same with AVX2, by
/// plain code, and with NEON.
const DIGESTS: [u64; 4] = [0xE1FF_F465_A29F_36A7, 0x9A8B_4C98_9D9E_FF6E, 0xF6C8_1500_DA66_9B8F, 0xBECA_37CC_D842_0D7B];

/// The same of cells with other activations, or that clip.
const UNUSUAL_DIGESTS: [u64; 4] =
    [0xBD78_5EF4_836B_84A1, 0x8179_204C_DBB8_133F, 0xBBB5_AE04_D39D_2F0A, 0xA1B9_F65C_E765_C06E];

/// Cells, in three shapes that leave no lane count even.
fn grid(cells: Vec<CellSpec>) -> Vec<(Case, Option<f64>)> {
    let layouts = [Layout::TimeMajor, Layout::BatchFirst, Layout::Part];
    let mut grid = Vec::new();
    for (k, cell) in cells.into_iter().enumerate() {
        for (shape, sizes) in [[5, 3, 2, 9], [3, 7, 5, 18], [4, 1, 1, 35]].into_iter().enumerate() {
            let case = Case {
                projection: [None, None, Some(5), Some(12)][(k + shape) % 4],
                lengths: Some((0..sizes[1]).map(|n| ((n + k) % (sizes[0] + 1)) as i64).collect()).filter(|_| k % 3 > 0),
                reverse: (k + shape) % 2 == 1,
                bias: k % 5 > 0,
                layout: layouts[(k + shape) % 3],
                seed: (100 * k + shape) as u64,
                ..Case::new(cell, sizes)
            };
            grid.push((case, None));
        }
    }
    grid
}

/// Several chunks of time, and numbers at the end of their range.
fn special() -> Vec<(Case, Option<f64>)> {
    let mut grid = Vec::new();
    grid.extend(Case::many_chunks().into_iter().take(3).map(|case| (case, None)));
    for special in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::from(f32::MAX), -1e-40, 88.0, -720.0, -0.0] {
        for cell in [CellSpec::GERS_1999, CellSpec { peephole: true, ..CellSpec::GERS_1999 }] {
            grid.push((Case::new(cell, [3, 5, 2, 17]), Some(special)));
        }
    }
    grid
}

/// FNV-1a of 64 bits.
struct Digest(u64);

impl Digest {
    const EMPTY: Self = Self(0xCBF2_9CE4_8422_2325);

    fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }

    fn number<T: Real>(&mut self, x: T) {
        x.bits().to_le_bytes()[..size_of::<T>()].iter().for_each(|&byte| self.byte(byte));
    }
}

fn digests<T: Real>(isa: InstructionSet, grid: &[(Case, Option<f64>)]) -> [u64; 2] {
    let (mut of_forward, mut of_backward) = (Digest::EMPTY, Digest::EMPTY);
    for (case, special) in grid {
        let mut data = Data::<T>::new(case);
        if let Some(special) = special {
            data.x[[1, 1, 1]] = T::of(*special);
            data.state.as_mut().expect("there").1[[2, 3]] = T::of(*special);
            data.dy.as_mut().expect("there")[[2, 3, 4]] = T::of(*special);
        }
        let (tape, gradients) = both(isa, case, &data);
        tape.named().iter().flat_map(|(_, array)| array).for_each(|&x| of_forward.number(x));
        gradients.named().iter().flat_map(|(_, array)| array).for_each(|&x| of_backward.number(x));
    }
    [of_forward.0, of_backward.0]
}

fn digests_are_those_of_every_machine(isa: InstructionSet) {
    let mut usual = grid(all());
    usual.extend(special());
    for (name, grid, expected) in [("DIGESTS", usual, DIGESTS), ("UNUSUAL_DIGESTS", grid(unusual()), UNUSUAL_DIGESTS)] {
        let ([a, b], [c, d]) = (digests::<f32>(isa, &grid), digests::<f64>(isa, &grid));
        let got = [a, b, c, d];
        assert!(got == expected, "{}: {name} = {got:#018X?}, expected {expected:#018X?}", isa.name());
    }
}

#[test]
fn the_digest_is_fnv_1a() {
    // From the test vectors of its authors (Fowler, Noll & Vo): of nothing, "a" and "foobar".
    let of = |text: &str| {
        let mut digest = Digest::EMPTY;
        text.bytes().for_each(|byte| digest.byte(byte));
        digest.0
    };
    assert_eq!([of(""), of("a"), of("foobar")], [0xCBF2_9CE4_8422_2325, 0xAF63_DC4C_8601_EC8C, 0x8594_4171_F739_67E8]);
    // Every bit counts, but those of a NaN.
    let of = |x: f32| {
        let mut digest = Digest::EMPTY;
        digest.number(x);
        digest.0
    };
    assert_eq!(of(f32::NAN), of(-f32::NAN));
    assert!(of(0.0) != of(-0.0) && of(1.0) != of(1f32.next_up()));
}
