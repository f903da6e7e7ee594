//! The passes, on every instruction set, from five sides: near the reference, the same bits where that is promised, what
//! must not happen, a digest that is the same on every machine, and calls made of a fuzzer's bytes.

#[cfg_attr(fuzzing, allow(dead_code, reason = "not all of it is for the fuzzer"))]
mod calls;
#[cfg_attr(fuzzing, allow(dead_code, reason = "not all of it is for the fuzzer"))]
mod cases;
pub(super) mod fuzz;
#[cfg_attr(fuzzing, allow(dead_code, unused, reason = "not all of it is for the fuzzer"))]
mod linear;
mod ways;

#[cfg(test)]
mod accuracy;
#[cfg(test)]
mod bits;
#[cfg(test)]
mod digest;
#[cfg(test)]
mod directions;
#[cfg(test)]
mod edges;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod memory;
#[cfg(all(test, target_arch = "x86_64"))]
mod silence;
#[cfg(test)]
mod stop;
#[cfg(test)]
mod stream;
