#![no_main]
//! See `rust/layer/tests/fuzz.rs`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lstm_rs::fuzzing::refusals(bytes));
