//! libFuzzer's way into `drive::stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| drive::stream(data));
