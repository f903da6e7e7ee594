//! The passes, on every instruction set, from four sides: near the reference, the same bits where that is promised, what
//! must not happen, and a digest that is the same on every machine.

mod accuracy;
mod bits;
mod calls;
mod cases;
mod digest;
mod directions;
mod edges;
mod errors;
mod linear;
mod memory;
#[cfg(target_arch = "x86_64")]
mod silence;
mod stop;
mod stream;
