//! libFuzzer's way into `drive::voidphone_codec`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| drive::voidphone_codec(data));
