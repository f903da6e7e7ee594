//! LSTM passes on the CPU, forward and backward, with the same bits on every machine.
//!
//! The peephole LSTM of Graves, Mohamed & Hinton (2013), and every cell that it contains (`*` elementwise):
//!
//! ```text
//! i = sigmoid(W_i x + R_i r' + p_i * c' + b_i)        x  the step's input             (T, N, I)
//! f = sigmoid(W_f x + R_f r' + p_f * c' + b_f)        c' the state of the step before (N, H)
//! g =    tanh(W_g x + R_g r'            + b_g)        r' the output of the step before (N, P)
//! c = f * c' + i * g
//! o = sigmoid(W_o x + R_o r' + p_o * c  + b_o)
//! h = o * tanh(c)                                     r = W_hr h with a projection, else h (P = H)
//! ```
//!
//! Letters of the axes: T steps, N batch, I input, H hidden, P output, G gates that have rows.
//!
//! The way of the data, forward: `layer::Forward::run` checks every shape (`dims`), then crosses once into an instruction
//! set's features (`simd`). Inside, step by step: one product of input and state (`kernel::tile`), whose sums the gates and
//! the state are made of (`kernel::pointwise`) while they are in the first cache, then the projection. Few sequences make
//! the input's product for a chunk of time at once. Backward is its mirror, window of time by window, each followed by the
//! products that sum over it. A call may be shared out among `threads`, by sequences, by units or by direction.
//!
//! The same inputs give the same bits on every instruction set, for any number of threads, in any batch, in any chunking
//! of time.

mod caches;
pub mod cell;
pub mod dims;
pub mod error;
mod kernel;
pub mod layer;
pub mod machine;
#[allow(unsafe_code, reason = "intrinsics, and rows without a check per number")]
pub mod simd;
#[allow(unsafe_code, reason = "a region lives on its caller's stack")]
mod threads;

#[cfg(feature = "python")]
#[allow(unsafe_code, reason = "arrays are borrowed from NumPy")]
mod python;
#[cfg(any(test, fuzzing))]
#[cfg_attr(fuzzing, allow(dead_code, reason = "not all of it is for the fuzzer"))]
mod reference;
#[cfg(any(test, fuzzing))]
#[cfg_attr(fuzzing, allow(dead_code, unused, reason = "not all of it is for the fuzzer"))]
mod testing;

/// What the fuzz targets of `tests/fuzz` run.
#[cfg(fuzzing)]
#[doc(hidden)]
pub use layer::fuzzing;

pub use threads::openmp;
