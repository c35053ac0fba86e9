//! libFuzzer's way into `drive::engine`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| drive::engine(data));
