//! libFuzzer's way into `drive::datagrams`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| drive::datagrams(data));
