//! libFuzzer's way into `drive::sealed_codec`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| drive::sealed_codec(data));
