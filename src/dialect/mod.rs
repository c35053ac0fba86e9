//! The wire protocols this node speaks, one folder each: codec (bytes and messages), session (one connection or socket:
//! framing, which answer belongs to which request), node (what requests mean, what is stored). Pure, and no dialect
//! knows another.

#[cfg(feature = "hyperdht")]
pub mod hyperdht;
pub mod sealed;

/// Names an operation or request of a local user, whatever its dialect.
pub type CallId = u64;

/// What every byte-stream codec can do, so that one conformance suite (`tests/conformance.rs`) runs over all of them.
/// Used statically; nothing dispatches over it.
pub trait Codec {
    /// A decoded message, borrowed from its frame.
    type Message<'a>: std::fmt::Debug;
    /// What can be wrong with a frame.
    type Error: PartialEq + std::fmt::Debug;

    /// Largest frame in bytes.
    const FRAME_MAX: usize;

    /// The length of the frame that `bytes` begin with: `Ok(None)` while that cannot be told yet, an error if no frame
    /// can begin so, which means that framing is lost.
    fn frame_len(bytes: &[u8]) -> Result<Option<usize>, Self::Error>;

    /// Reads one whole frame.
    fn decode(frame: &[u8]) -> Result<Self::Message<'_>, Self::Error>;

    /// Appends the frame of `message`, which must fit a frame, to `out`.
    fn encode(message: &Self::Message<'_>, out: &mut Vec<u8>);
}
