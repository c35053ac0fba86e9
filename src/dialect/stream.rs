//! The interface between a byte-stream dialect and the engine. A dialect implements a [`Session`] per connection and
//! one [`Service`] for all of them. The engine owns the connections and shows the service one at a time; whatever
//! concerns another connection leaves the service as an [`Action`]. Both traits are used statically: only the closed
//! enum in `engine/dialects.rs` dispatches over them. Never opens a socket, and knows no message.

use std::net::SocketAddr;

use crate::arena::Key;
use crate::buffer::Outbox;
use crate::dialect::{Operations, Shared};
use crate::limits::OUTBOX_SOFT_BYTES;
use crate::time::Time;

/// Names a connection. Stays valid as a name after the connection is gone, and then finds nothing.
pub type ConnId = Key;

/// What a listening address serves: a dialect's wire format, and the listener's number among those of the dialect.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Listener {
    /// The sealed dialect, for its node with this number.
    Sealed(u16),
    /// The VoidPhone API, for the sealed node with this number.
    Api(u16),
    /// The dialect that only tests use (tests/toy).
    #[cfg(feature = "toy")]
    Toy(u16),
}

/// How a connection was made.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The peer dialled us.
    Inbound,
    /// We dialled from our listening port, so the peer knows us by its address.
    Listening,
    /// We dialled from our listening port, found the address pair in use, and wait for the peer's own connection.
    Yielding,
    /// We dialled from an ephemeral port because the address pair of the listening port was in use. Replaced after a
    /// while.
    Fallback,
    /// We dialled from an ephemeral port, because the dialect does not identify a peer by its address.
    Ephemeral,
    /// We dialled from an ephemeral port for a single request.
    Single,
}

/// The state of a connection.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// Not connected yet. Messages wait in the outbox or in the session.
    Dialling,
    /// Connected; bytes flow both ways.
    Open,
    /// We read nothing more, and shut down our side once the outbox is empty.
    Closing,
    /// Our side is shut down. The peer has time to read our last bytes before the socket is closed.
    Lingering,
    /// Closed. The slot is freed at the end of the turn.
    Closed,
}

/// The properties of a connection. The engine sets them, and services read them.
#[derive(Copy, Clone, Debug)]
pub struct ConnInfo {
    /// The address of the peer.
    pub peer: SocketAddr,
    /// The listener that accepted the connection or on whose behalf it was dialled; `None` for a client without a
    /// listener.
    pub listener: Option<Listener>,
    /// How the connection was made.
    pub origin: Origin,
    /// Its state.
    pub state: State,
    /// The peer will send nothing more.
    pub eof: bool,
    /// The peer must send its first unit in time ([`Session::is_silent`]), or the connection is closed.
    pub must_speak: bool,
}

impl ConnInfo {
    /// Whether we may send a request on the connection.
    pub fn may_ask(&self) -> bool {
        matches!(self.state, State::Open | State::Dialling) && !self.eof
    }
}

/// One connection, shown to its service together with its session.
#[derive(Debug)]
pub struct Context<'a> {
    /// Its name.
    pub id: ConnId,
    /// Its properties.
    pub info: &'a ConnInfo,
    /// Bytes to be written to it.
    pub outbox: &'a mut Outbox,
    /// What all connections share.
    pub shared: &'a mut Shared,
}

impl Context<'_> {
    /// Whether the peer does not read its answers. While this is so, none of its requests is started. Only answers
    /// count: if our requests counted too, two nodes that store much on each other would both stop reading.
    pub fn is_held_back(&self) -> bool {
        self.outbox.answer_bytes() >= OUTBOX_SOFT_BYTES
    }

    /// Appends the answers that `encode` writes to the outbox.
    pub fn answer(&mut self, now: Time, encode: impl FnOnce(&mut Vec<u8>)) {
        self.outbox.answers(&mut self.shared.buffers, now, encode);
    }

    /// Appends what `encode` writes to the outbox, for messages that are no answers: our own requests, and messages
    /// that need no answer.
    pub fn request(&mut self, now: Time, encode: impl FnOnce(&mut Vec<u8>)) {
        self.outbox.requests(&mut self.shared.buffers, now, encode);
    }
}

/// How to end a connection.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Close {
    /// At once. Bytes in the outbox are lost.
    Now,
    /// We read nothing more. Bytes that are queued or owed are still sent, then a FIN, and the peer has time to read.
    Flushed,
}

/// The result of handling unread bytes. The numbers are the bytes to consume, perhaps none; the engine consumes and
/// counts them.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The bytes contain no complete unit.
    Incomplete,
    /// A unit was handled.
    Handled(usize),
    /// A unit was counted as a fault and otherwise ignored.
    Dropped(usize),
    /// A unit violated the protocol, which is a strike.
    Violation(usize),
    /// The conversation is over. All unread bytes are discarded.
    Close(Close),
}

/// Which connection to an address to use.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Via {
    /// The connection that the listener shares with that address; dialled if there is none.
    Shared,
    /// A connection that is being dialled, or is dialled now. An older one is not trusted.
    Fresh,
    /// A new connection from an ephemeral port, for this message alone. Only a node that listens on the address can
    /// answer it.
    Single,
}

/// The recipient of a message.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum To {
    /// This connection.
    Conn(ConnId),
    /// The node that listens on `addr`.
    Peer {
        /// The dialect's listener that sends; `None` for a client without a listener.
        listener: Option<u16>,
        /// The address.
        addr: SocketAddr,
        /// Which connection to use.
        via: Via,
    },
}

/// What the engine must do for a service beyond the connection it was shown. `P` is [`Service::Outgoing`].
#[derive(Debug)]
pub enum Action<P> {
    /// Call [`Service::send`] with `message` and the connection that `to` names, which is dialled if necessary.
    Send {
        /// The recipient.
        to: To,
        /// The message.
        message: P,
    },
    /// Call [`Service::on_lost`] with [`CloseReason::Closed`], then end the connection as [`Close::Flushed`] does. A
    /// connection that is still being dialled is closed at once.
    Close(ConnId),
}

/// Why a connection ended, or why its peer will send nothing more.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The peer or the network ended it, or it timed out.
    Died,
    /// The peer violated the protocol, or can't be reached.
    Failed,
    /// We ran short of a resource, which says nothing about the peer.
    Shortage,
    /// Another connection to the same peer replaces it.
    Superseded,
    /// We ended it.
    Closed,
}

/// Why one of our requests failed, as the node learns it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The contact could not be reached, or violated the protocol.
    Contact,
    /// We have too much in flight to the contact, or no capacity. That says nothing about its health.
    Busy,
}

/// What the engine must know about the conversation on a connection. The engine asks on every event, so each method
/// must be O(1).
///
/// A unit is what the outermost layer cuts off the inbox: a frame, a line of a handshake, a piece of a large frame. A
/// unit is never larger than `limits::BUFFER_LARGE`; the session itself collects larger messages.
pub trait Session {
    /// Whether the peer has yet to send its first unit (a frame, a handshake). The time limit for that ends when this
    /// returns `false`.
    fn is_silent(&self) -> bool;
    /// Whether [`Service::on_bytes`] has something to do: `bytes` begin with a complete unit or with bytes that can't
    /// become one, or the session holds an inner unit of an earlier one.
    fn can_judge(&self, bytes: &[u8]) -> bool;
    /// Whether the session holds the start of a unit, or inner units, outside the inbox. Asked after each
    /// [`Service::on_bytes`].
    fn is_midway(&self) -> bool {
        false
    }
    /// Whether `bytes`, the incomplete start of a first unit, look like another protocol.
    fn looks_foreign(&self, bytes: &[u8]) -> bool;
    /// Whether the session has room for another unit.
    fn has_room(&self) -> bool;
    /// Whether the session holds something for the peer that is not in the outbox yet. After [`Service::on_lost`] and
    /// [`Session::drop_pending`], this includes only what can be sent without hearing from the peer again.
    fn owes(&self) -> bool;
    /// Whether our requests wait for the peer, including those that wait for a handshake.
    fn awaits(&self) -> bool;
    /// Bytes of memory that the session holds outside itself, including spare capacity; 0 while it is idle. Counted in
    /// `limits::BUFFERED_BYTES`.
    fn bytes(&self) -> usize;
    /// Whether the connection stays open while it is idle, until the session's own deadline.
    fn keeps_alive(&self) -> bool {
        false
    }
    /// When [`Service::on_deadline`] is due. It may be early, but never late.
    fn deadline(&self) -> Option<Time>;
    /// The connection will close once it is flushed. Drops requests that have not been started, and what can't be sent
    /// without hearing from the peer again.
    fn drop_pending(&mut self);
    /// Panics unless the sums are correct. For debug builds and tests.
    fn check_invariants(&self);
}

/// All nodes of the process in one dialect, and what connects them to their connections.
pub trait Service: Operations {
    /// The session of one connection.
    type Session: Session;
    /// What the service sends on connections: see [`Service::send`].
    type Outgoing;
    /// Whether peers dial from their listening address and are known by it. If so, we dial from ours.
    const KNOWN_BY_ADDRESS: bool;
    /// How long a [`Via::Single`] connection may take, from the dial to the answer, in milliseconds.
    const SINGLE_MS: u64;

    /// Creates the session of a connection that `listener` accepted.
    fn accepted(&mut self, listener: Listener) -> Self::Session;
    /// Creates the session of a connection that we dial.
    fn dialled(&mut self) -> Self::Session;
    /// What to say, before it is closed, to a connection that is refused at `listener` for lack of room; empty if the
    /// protocol has no words for it.
    fn refusal(_listener: Listener) -> Vec<u8> {
        Vec::new()
    }
    /// The connection is established. Sends what the protocol requires first.
    fn on_open(&mut self, _session: &mut Self::Session, _cx: &mut Context<'_>, _now: Time) {}
    /// Handles at most one unit of `bytes`, the unread part of the inbox.
    fn on_bytes(&mut self, session: &mut Self::Session, cx: &mut Context<'_>, bytes: &[u8], now: Time) -> Verdict;
    /// Sends `message` on the connection, which may still be dialling. If the session can't take the message, the
    /// service treats it as failed.
    fn send(&mut self, message: Self::Outgoing, session: &mut Self::Session, cx: &mut Context<'_>, now: Time);
    /// There was no connection for `message`.
    fn on_unsent(&mut self, message: Self::Outgoing, why: Failure, shared: &mut Shared, now: Time);
    /// The session owes something, and the connection has changed. Moves what may be sent into the outbox.
    fn on_writable(&mut self, session: &mut Self::Session, cx: &mut Context<'_>, now: Time);
    /// [`Session::deadline`] has passed. Afterwards the deadline lies in the future, or the connection ends as
    /// returned.
    fn on_deadline(&mut self, session: &mut Self::Session, cx: &mut Context<'_>, now: Time) -> Option<Close>;
    /// The process is stopping, and every unit that was read has been handled. Sends what the protocol requires last,
    /// now or once nothing is owed.
    fn on_shutdown(&mut self, _session: &mut Self::Session, _cx: &mut Context<'_>, _now: Time) {}
    /// The peer will send nothing more, because it has finished or the connection closes. May be called twice. Fails or
    /// resends pending requests, and drops what can't be sent without hearing from the peer again. Requests that were
    /// read before are still answered if the connection stays open for writing.
    fn on_lost(&mut self, session: &mut Self::Session, cx: &mut Context<'_>, why: CloseReason, now: Time);
    /// The next action. The engine calls this until it returns `None`.
    fn poll(&mut self, shared: &mut Shared, now: Time) -> Option<Action<Self::Outgoing>>;
    /// When [`Service::on_timeout`] next has something to do.
    fn next_deadline(&self) -> Option<Time>;
    /// Handles what is due at `now`. Afterwards the next deadline lies in the future.
    fn on_timeout(&mut self, shared: &mut Shared, now: Time);
    /// Adds `addr` as a bootstrap of every node of the same address family. Returns whether any node had room for it.
    fn add_bootstrap(&mut self, addr: SocketAddr, now: Time) -> bool;
    /// Appends the service's part of the status report: lines of `name value`.
    fn report(&self, lines: &mut Vec<String>);
    /// Panics unless tables and sums are correct. For debug builds and tests.
    fn check_invariants(&self);
}
