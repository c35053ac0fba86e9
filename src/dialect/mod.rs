//! The protocols that this node speaks, one folder each: codecs (bytes and messages), session (one connection or
//! socket: framing, which answer belongs to which request), node (what requests mean, what is stored), service (all
//! nodes of the process in this dialect, and who waits for which answer). Pure; no dialect knows another.

#[cfg(feature = "hyperdht")]
pub mod hyperdht;
pub mod sealed;
pub mod stream;
#[cfg(feature = "toy")]
#[path = "../../tests/toy/mod.rs"]
pub mod toy;

use crate::buffer::BufferPool;
use crate::guard::Guard;
use crate::sources::Sources;
use crate::time::Time;

/// The dialects by name. Every build knows all names, for listeners, bootstraps, `--dialect` and status.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// Kademlia over TCP with a checksum on every message.
    Sealed,
    /// The hyperdht of 2017 and 2018, over UDP.
    Hyperdht,
    /// The dialect of the tests.
    #[cfg(feature = "toy")]
    Toy,
}

impl Dialect {
    /// The dialect's name on the command line and in ready lines.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Sealed => "sealed",
            Dialect::Hyperdht => "hyperdht",
            #[cfg(feature = "toy")]
            Dialect::Toy => "toy",
        }
    }
}

/// Names an operation that a local user has started.
pub type CallId = u64;

/// What all connections and services of a process share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Memory for inboxes and outboxes.
    pub buffers: BufferPool,
    /// Counters and log lines.
    pub guard: Guard,
    /// How much each source uses.
    pub sources: Sources,
}

/// The operations of local users that a dialect offers to commands. A command pulls their events; the dialect pushes
/// nothing.
pub trait Operations {
    /// An operation to start.
    type Operation;
    /// An event of an operation.
    type Event;

    /// Starts `operation` under the name `call`, which is higher than any before it, from the dialect's listener with
    /// this number, or as a client if `listener` is `None`. Returns `false` if too many operations are in progress or
    /// there is no such listener.
    fn start(
        &mut self,
        listener: Option<u16>,
        call: CallId,
        operation: Self::Operation,
        shared: &mut Shared,
        now: Time,
    ) -> bool;
    /// Ends an operation early. It has no further events.
    fn cancel(&mut self, call: CallId, now: Time);
    /// The next event of the operation, if there is one. The last event says how the operation ended.
    fn next_event(&mut self, call: CallId) -> Option<Self::Event>;
}

/// The codec of a byte-stream dialect. The conformance suite (`tests/conformance.rs`) runs over all codecs. Used
/// statically; nothing dispatches over it.
pub trait Codec {
    /// A decoded message, which borrows from its frame.
    type Message<'a>: std::fmt::Debug;
    /// Why a frame can't be decoded.
    type Error: PartialEq + std::fmt::Debug;

    /// Bytes of the largest frame.
    const FRAME_MAX: usize;

    /// The length in bytes of the frame at the start of `bytes`; `Ok(None)` if there are too few bytes to tell.
    ///
    /// Errors: no frame can begin with these bytes, so that the start of the next frame is unknown.
    fn frame_len(bytes: &[u8]) -> Result<Option<usize>, Self::Error>;

    /// Decodes one whole frame.
    ///
    /// Errors: the frame is malformed. Never panics.
    fn decode(frame: &[u8]) -> Result<Self::Message<'_>, Self::Error>;

    /// Appends the frame of `message` to `out`. The frame must not exceed [`Codec::FRAME_MAX`]; a debug build may panic
    /// if it does.
    fn encode(message: &Self::Message<'_>, out: &mut Vec<u8>);
}
