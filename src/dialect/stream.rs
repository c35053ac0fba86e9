//! The seam between a byte-stream dialect and the engine. A dialect writes a [`Session`] per connection and one
//! [`Service`] for all of them; the engine owns the connections and shows the service one at a time. What concerns
//! another connection leaves the service as an [`Action`]. Both traits are used statically; nothing dispatches over them
//! but the closed enum in `engine/dialects.rs`. Opens nothing, and knows no message.

use std::net::SocketAddr;

use crate::arena::Key;
use crate::buffer::Outbox;
use crate::dialect::{Operations, Shared};
use crate::limits::OUTBOX_SOFT_BYTES;
use crate::time::Time;

/// Names a connection; outlives it safely.
pub type ConnId = Key;

/// What a listening address serves: a dialect's wire, and the number of the listener among that dialect's.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Listener {
    /// The sealed dialect, for its node of this number.
    Sealed(u16),
    /// The VoidPhone API to the sealed node of this number.
    Api(u16),
    /// The dialect of the tests (tests/toy).
    #[cfg(feature = "toy")]
    Toy(u16),
}

/// How a connection came to be.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The peer dialled us.
    Inbound,
    /// We dialled from our listening port: the peer knows us by it.
    Listening,
    /// We dialled from our listening port, found the address pair taken, and wait for the peer's own connection.
    Yielding,
    /// We dialled from an ephemeral port because the listening one was taken; to be replaced after a while.
    Fallback,
    /// We dialled from an ephemeral port, as dialects do that do not know a peer by its address.
    Ephemeral,
    /// We dialled from an ephemeral port for a single request.
    Single,
}

/// Where a connection is in its life.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// Not connected yet. What is sent meanwhile waits in the outbox or in the session.
    Dialling,
    /// Connected; bytes flow both ways.
    Open,
    /// Nothing more is read; our side is shut down once the outbox is empty.
    Closing,
    /// Our side is shut down; the peer has time to read our last bytes before the socket goes.
    Lingering,
    /// Gone; the slot is freed at the end of the turn.
    Closed,
}

/// What a connection is. The engine writes it, services read it.
#[derive(Copy, Clone, Debug)]
pub struct ConnInfo {
    /// The other end.
    pub peer: SocketAddr,
    /// The listener that accepted it, or on whose behalf it was dialled; `None`: a client that has no listener.
    pub listener: Option<Listener>,
    /// How it came to be.
    pub origin: Origin,
    /// Where it is in its life.
    pub state: State,
    /// The peer will send no more.
    pub eof: bool,
    /// The peer must end its silence in time ([`Session::is_silent`]), or is closed.
    pub must_speak: bool,
}

impl ConnInfo {
    /// Whether a request of ours may go out on it.
    pub fn may_ask(&self) -> bool {
        matches!(self.state, State::Open | State::Dialling) && !self.eof
    }
}

/// One connection, shown to its service beside its session.
#[derive(Debug)]
pub struct Context<'a> {
    /// Which connection.
    pub id: ConnId,
    /// What it is.
    pub info: &'a ConnInfo,
    /// Bytes to go out on it.
    pub outbox: &'a mut Outbox,
    /// What all connections share.
    pub shared: &'a mut Shared,
}

impl Context<'_> {
    /// Whether the peer does not read its answers: no request of its is started then. Only answers count; if requests
    /// of ours did, two nodes that store much on each other would both stop reading.
    pub fn is_held_back(&self) -> bool {
        self.outbox.answer_bytes() >= OUTBOX_SOFT_BYTES
    }

    /// Lets `encode` append answers to what goes out.
    pub fn answer(&mut self, now: Time, encode: impl FnOnce(&mut Vec<u8>)) {
        self.outbox.answers(&mut self.shared.buffers, now, encode);
    }

    /// Lets `encode` append what the peer did not ask for: requests of ours, and messages that need no answer.
    pub fn request(&mut self, now: Time, encode: impl FnOnce(&mut Vec<u8>)) {
        self.outbox.requests(&mut self.shared.buffers, now, encode);
    }
}

/// How a connection is to end.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Close {
    /// At once; what waits in the outbox is lost.
    Now,
    /// Nothing more is read; what is queued or owed still leaves, then FIN, and the peer has time to read.
    Flushed,
}

/// What a service made of the unread bytes. The numbers are bytes to be consumed, perhaps none; the engine consumes and
/// counts them.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// No whole unit is there.
    Incomplete,
    /// A unit was handled.
    Handled(usize),
    /// A unit was counted as a fault and otherwise ignored.
    Dropped(usize),
    /// A unit broke the protocol: a strike.
    Violation(usize),
    /// The conversation is over; all unread bytes are refused.
    Close(Close),
}

/// How to reach an address.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Via {
    /// Over the connection that the listener shares with that address, dialled if there is none.
    Shared,
    /// Over one that is being dialled, or is dialled now: an older one is not trusted any more.
    Fresh,
    /// Over a new one from an ephemeral port, for this message alone: only who listens on the address can answer.
    Single,
}

/// Where a message goes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum To {
    /// Onto this connection.
    Conn(ConnId),
    /// To whoever listens on `addr`.
    Peer {
        /// From which listener of the dialect; `None`: as a client that has none.
        listener: Option<u16>,
        /// Where to.
        addr: SocketAddr,
        /// How.
        via: Via,
    },
}

/// What a service wants done beyond the connection it was shown. `P` is [`Service::Outgoing`].
#[derive(Debug)]
pub enum Action<P> {
    /// Call [`Service::send`] with `message` and the connection that `to` names, dialled if need be.
    Send {
        /// Which connection.
        to: To,
        /// What.
        message: P,
    },
    /// End a connection as [`Close::Flushed`] does, after [`Service::on_lost`] with [`CloseReason::Closed`]; one that is
    /// still being dialled goes at once.
    Close(ConnId),
}

/// Why nothing more will come on a connection.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The peer or the network ended it, or a time ran out.
    Died,
    /// The peer broke the protocol, or can't be reached.
    Failed,
    /// We are short of something, which says nothing about the peer.
    Shortage,
    /// Another connection leads to the same peer and takes over.
    Superseded,
    /// We ended it.
    Closed,
}

/// Why a request of ours failed, as a node is told.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The contact could not be reached, or broke the protocol.
    Contact,
    /// We have too much in flight to it, or no room; that says nothing about its health.
    Busy,
}

/// What the engine must know of the conversation on a connection. Asked on every event, so each is O(1).
///
/// A unit is what the outermost layer cuts off the inbox: a frame, a line of a handshake, a piece of a large frame. A
/// unit is never larger than `limits::BUFFER_LARGE`; a session gathers larger messages itself.
pub trait Session {
    /// The peer has not said yet what it must say first (a frame, a handshake). Its time for that ends with this.
    fn is_silent(&self) -> bool;
    /// Whether [`Service::on_bytes`] has something to do: `bytes` begin with a whole unit or with what can't become one,
    /// or an inner unit of what was taken in before waits.
    fn can_judge(&self, bytes: &[u8]) -> bool;
    /// It holds the beginning of a unit, or inner units, beside the inbox. Asked after each [`Service::on_bytes`].
    fn is_midway(&self) -> bool {
        false
    }
    /// Whether `bytes`, the incomplete beginning of a first unit, look like another protocol.
    fn looks_foreign(&self, bytes: &[u8]) -> bool;
    /// Whether more may be taken in.
    fn has_room(&self) -> bool;
    /// Whether something for the peer is not in the outbox yet. After [`Service::on_lost`] and
    /// [`Session::drop_pending`] only what can leave without another word of the peer.
    fn owes(&self) -> bool;
    /// Whether requests of ours wait for the peer, those included that wait for a handshake.
    fn awaits(&self) -> bool;
    /// Bytes of memory held beside itself, capacities included; 0 while idle. Counts in `limits::BUFFERED_BYTES`.
    fn bytes(&self) -> usize;
    /// Whether it stays although nothing is under way: its own deadline ends it.
    fn keeps_alive(&self) -> bool {
        false
    }
    /// When [`Service::on_deadline`] is due; it may be early, never late.
    fn deadline(&self) -> Option<Time>;
    /// The connection will close once flushed: forgets what waits to be begun, and what can't leave without another
    /// word of the peer.
    fn drop_pending(&mut self);
    /// Panics unless its sums are right. For debug builds and tests.
    fn check_invariants(&self);
}

/// All nodes of the process in one dialect, and what joins them to their connections.
pub trait Service: Operations {
    /// The conversation on one connection.
    type Session: Session;
    /// What it sends onto connections, as a value: see [`Service::send`].
    type Outgoing;
    /// Whether a peer is known by the address that it dials from, which is its listener's: so we dial from ours.
    const KNOWN_BY_ADDRESS: bool;
    /// How long a [`Via::Single`] may take, from the dial to the answer, in milliseconds.
    const SINGLE_MS: u64;

    /// The session of a connection that `listener` accepts.
    fn accepted(&mut self, listener: Listener) -> Self::Session;
    /// The session of a connection that we dial.
    fn dialled(&mut self) -> Self::Session;
    /// The connection stands: say what must be said first.
    fn on_open(&mut self, _session: &mut Self::Session, _cx: &mut Context<'_>, _now: Time) {}
    /// Handles at most one unit of `bytes`, the unread part of the inbox.
    fn on_bytes(&mut self, session: &mut Self::Session, cx: &mut Context<'_>, bytes: &[u8], now: Time) -> Verdict;
    /// Sends `message` on the connection, which may still be dialled, or fails it if the session can't take it.
    fn send(&mut self, message: Self::Outgoing, session: &mut Self::Session, cx: &mut Context<'_>, now: Time);
    /// There was no connection for `message`.
    fn on_unsent(&mut self, message: Self::Outgoing, why: Failure, shared: &mut Shared, now: Time);
    /// The session owes something and something changed: moves what may leave into the outbox.
    fn on_writable(&mut self, session: &mut Self::Session, cx: &mut Context<'_>, now: Time);
    /// [`Session::deadline`] has passed; afterwards it lies ahead, or the connection ends as returned.
    fn on_deadline(&mut self, session: &mut Self::Session, cx: &mut Context<'_>, now: Time) -> Option<Close>;
    /// The process stops, and every unit that was read is handled: say goodbye, now or once nothing is owed any more.
    fn on_shutdown(&mut self, _session: &mut Self::Session, _cx: &mut Context<'_>, _now: Time) {}
    /// The peer will say no more: its end has come, or the connection closes. May be told twice. Fails or sends again what
    /// was asked of the peer, and drops what can't leave without another word of it. Requests that were read before are
    /// still answered where the connection stays open for writing.
    fn on_lost(&mut self, session: &mut Self::Session, cx: &mut Context<'_>, why: CloseReason, now: Time);
    /// The next thing to do; call until `None`.
    fn poll(&mut self, shared: &mut Shared, now: Time) -> Option<Action<Self::Outgoing>>;
    /// When [`Service::on_timeout`] has something to do.
    fn next_deadline(&self) -> Option<Time>;
    /// Does what is due at `now`; afterwards the next deadline lies ahead.
    fn on_timeout(&mut self, shared: &mut Shared, now: Time);
    /// Lets every node of `addr`'s family bootstrap from whoever listens there; whether there was one with room for it.
    fn add_bootstrap(&mut self, addr: SocketAddr, now: Time) -> bool;
    /// Appends what it has to say of itself to the status report, lines of `name value`.
    fn report(&self, lines: &mut Vec<String>);
    /// Panics unless its tables and sums are right. For debug builds and tests.
    fn check_invariants(&self);
}
