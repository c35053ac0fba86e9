//! A dialect for tests, small and whole: it uses everything that the seam (`src/dialect/stream.rs`) offers and the shipped
//! dialects do not need yet. The library compiles it under the feature `toy`.
//!
//! Both sides of a connection begin with HELLO, and only then ask. An ASK wants some bytes after a while, so answers come
//! out of order and carry the number of what was asked. A SHOUT is flooded: every node passes it once to all its other
//! neighbours. A LARGE holds up to a megabyte, more than an inbox does, and is answered by its hash. STUFFING means
//! nothing; it may say that it is larger than an inbox, and is not gathered. BYE is the last word. Connections stay for
//! minutes; who asks too fast is not read for a while; a peer is not known by the address that it dials from.

pub mod codec;
mod sending;
mod service;
mod session;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

pub use service::{Outgoing, Service};
pub use session::Session;

use crate::dialect::stream::Failure;
use crate::limits::{BUFFER_LARGE, OUTBOX_SOFT_BYTES};

/// Bytes of the text of a SHOUT.
pub const TEXT_MAX: usize = 1_024;
/// Bytes of a LARGE, and of what STUFFING may claim to have.
pub const LARGE_MAX: usize = 1 << 20;
/// A large message is gathered, and sent, in pieces of this size or the rest, so that the engine's time for a unit holds
/// for each.
pub const PIECE: usize = 64 * 1024;
/// The longest that an ASK may have its answer wait, in milliseconds.
pub const WHILE_MAX_MS: u16 = 5_000;
/// Answers owed on one connection, past which it is not read: more than an honest peer asks for at once.
pub const OWED: usize = 2 * ASKED;
/// Requests and shouts on one connection that wait to leave or for their answers, past which the peer is busy.
pub const ASKED: usize = 64;
/// Bytes of those that wait to leave.
pub const WAITING_BYTES: usize = 2 * LARGE_MAX;
/// What each owed answer and each request takes in a tree (measured in none; a guess on the high side).
pub const ENTRY_BYTES: usize = 96;
/// A request not answered by then has failed, be it that it still waits to leave.
pub const ASK_MS: u64 = 20_000;
/// HELLO must have come by then.
pub const HELLO_MS: u64 = 10_000;
/// A connection on which nothing happened for this long ends.
pub const IDLE_MS: u64 = 180_000;
/// The least time for which a connection is not read because its peer asks too fast.
pub const PAUSE_MS: u64 = 100;
/// Shouts that are remembered. While so many were heard lately, new ones are refused: a flood that is forgotten would
/// begin again.
pub const SEEN: usize = 1_024;
/// How long they are remembered: longer than one can be under way.
pub const SEEN_MS: u64 = 300_000;
/// Neighbours that shouts are passed to.
pub const NEIGHBOURS: usize = 64;
/// Bytes that a session may hold at most: what it gathers, what it sends and what waits, and an entry for each request.
pub const SESSION_BYTES: usize = 2 * LARGE_MAX + WAITING_BYTES + 2 * (OWED + 2 * ASKED) * ENTRY_BYTES;

const _: () = assert!(PIECE + codec::LARGE_HEAD < BUFFER_LARGE && BUFFER_LARGE < LARGE_MAX);
const _: () = assert!(PIECE <= OUTBOX_SOFT_BYTES && (WHILE_MAX_MS as u64) < ASK_MS && ASK_MS < IDLE_MS);
const _: () = assert!(size_of::<Session>() < 1_024, "there may be thousands");

/// What a person may set: how many requests a peer may make.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// In a second, at least one.
    pub per_s: u32,
    /// At once.
    pub at_once: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { per_s: 100, at_once: 200 }
    }
}

/// What a local user has a node do. Each ends with one [`Event`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Ask a peer for `size` bytes, to be sent after a while.
    Ask {
        /// Whom.
        to: SocketAddr,
        /// Milliseconds, at most [`WHILE_MAX_MS`].
        after_ms: u16,
        /// Bytes.
        size: u16,
    },
    /// Send a peer up to [`LARGE_MAX`] bytes.
    Large {
        /// Whom.
        to: SocketAddr,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// Tell all nodes, in at most [`TEXT_MAX`] bytes.
    Shout(Arc<[u8]>),
}

/// How an operation ended.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The peer answered, rightly.
    Answered,
    /// The shout of this number is under way to so many neighbours.
    Shouted(u64, usize),
    /// It failed.
    Failed(Failure),
    /// There was no answer in time.
    TimedOut,
}
