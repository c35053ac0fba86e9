//! The wire protocols this node speaks, one folder each: codecs (bytes and messages), session (one connection or socket:
//! framing, which answer belongs to which request), node (what requests mean, what is stored), service (all nodes of the
//! process in this dialect, and who is owed what). Pure, and no dialect knows another.

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

/// The dialects by name, in every build: for listeners, bootstraps, `--dialect` and status.
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
    /// Its name on the command line and in ready lines.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Sealed => "sealed",
            Dialect::Hyperdht => "hyperdht",
            #[cfg(feature = "toy")]
            Dialect::Toy => "toy",
        }
    }
}

/// Names an operation that a local user started.
pub type CallId = u64;

/// What all connections and services of a process share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Memory for inboxes and outboxes.
    pub buffers: BufferPool,
    /// Counters and log lines.
    pub guard: Guard,
    /// Who uses how much.
    pub sources: Sources,
}

/// What commands want of a dialect: operations of the local user. What comes of them is pulled, not pushed.
pub trait Operations {
    /// What is to be done.
    type Operation;
    /// What comes of it.
    type Event;

    /// Starts `operation` under the name `call`, higher than any before it, from `listener` (of this dialect's) or as a client that has none; whether
    /// it did: there may be too much to do already, or no such listener.
    fn start(
        &mut self,
        listener: Option<u16>,
        call: CallId,
        operation: Self::Operation,
        shared: &mut Shared,
        now: Time,
    ) -> bool;
    /// Ends an operation early; nothing more comes of it.
    fn cancel(&mut self, call: CallId, now: Time);
    /// What came of the operation since the last call; the last event says how it ended.
    fn next_event(&mut self, call: CallId) -> Option<Self::Event>;
}

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
