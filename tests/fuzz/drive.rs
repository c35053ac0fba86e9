//! What is fuzzed: functions of bytes that panic when a property breaks. libFuzzer calls them through `targets/`, and
//! `tests/mutations.rs` on stable Rust with mutations of the same corpora. Like the engine itself they read no clock and
//! no randomness: an input that fails, fails again.

mod bench;
mod codecs;
mod cursor;
#[cfg(feature = "hyperdht")]
mod datagrams;
mod engine;
mod frames;
mod session;
mod stream;
mod talk;

/// Arbitrary bytes to the sealed codec, as frames or as bodies that are sealed here, so that the checksum is no obstacle.
pub fn sealed_codec(data: &[u8]) {
    codecs::sealed(data);
}

/// The same to the codec of the VoidPhone API.
pub fn voidphone_codec(data: &[u8]) {
    codecs::voidphone(data);
}

/// Requests, answers and outcomes in any order to one conversation, against a model of it.
pub fn session(data: &[u8]) {
    session::run(data);
}

/// A byte stream to two engines, in different pieces: both say the same.
pub fn stream(data: &[u8]) {
    stream::run(data);
}

/// A sequence of everything that can happen to a whole engine.
pub fn engine(data: &[u8]) {
    engine::run(data);
}

/// Datagrams, operations and timeouts in any order to an engine with a hyperdht listener.
#[cfg(feature = "hyperdht")]
pub fn datagrams(data: &[u8]) {
    datagrams::run(data);
}
