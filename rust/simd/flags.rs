//! What the CPU has noted of the numbers that it met: for tests.

use std::arch::asm;
use std::hint::black_box;

/// Denormal operand, and underflow: they stay set until somebody clears them.
const FLAGS: u32 = 1 << 1 | 1 << 4;

/// The control and status register of SSE and AVX.
fn register() -> u32 {
    let mut register = 0u32;
    // SAFETY: SSE is there, and this writes to `register` alone.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut register, options(nostack)) };
    register
}

/// Runs `work`, and says whether an operation in it was given a subnormal number, or had a result below the normal ones.
pub(crate) fn meets_subnormals<R>(work: impl FnOnce() -> R) -> (R, bool) {
    let clear = register() & !FLAGS;
    // SAFETY: only flags change, and no code but this looks at them.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const clear, options(nostack)) };
    let result = black_box(work());
    (result, register() & FLAGS != 0)
}

/// The count can tell.
#[test]
fn subnormals_are_met() {
    let times = |a: f32, b: f32| meets_subnormals(|| black_box(black_box(a) * black_box(b))).1;
    assert!(times(1e-20, 1e-20) && times(1e-40, 1.0) && !times(1e-20, 1e-10) && !times(0.0, 1e-30));
}
