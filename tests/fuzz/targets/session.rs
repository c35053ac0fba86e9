//! libFuzzer's way into `drive::session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| drive::session(data));
