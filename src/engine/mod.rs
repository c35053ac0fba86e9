//! The engine: everything between bytes and nodes. It owns the slab of connections with their buffers, the nodes with
//! their routing tables, the store, and the timers; whoever drives it owns the sockets and the clock. In: accepted, bytes
//! received, written, closed, dial results, the time. Out: [`Output`]s and dirty outboxes, drained until there are none.
//! Pure: opens no socket, reads no clock, holds no randomness but the seeds it is given.
//!
//! A turn of the driver: report what happened, call [`Engine::work`] and [`Engine::on_timeout`], drain
//! [`Engine::poll_output`] and [`Engine::next_dirty`] until both are empty, then [`Engine::sweep`].

pub mod buffer;
pub mod conn;
pub mod guard;
pub mod pool;

mod ask;
#[cfg(feature = "hyperdht")]
mod datagrams;
mod life;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::arena::{Arena, Key};
use crate::contact::Contact;
#[cfg(feature = "hyperdht")]
use crate::dialect::hyperdht::operation::Event;
use crate::dialect::sealed::node::Node;
use crate::dialect::sealed::session::{Place, Wire};
use crate::dialect::sealed::settings::Settings;
use crate::dialect::sealed::store::{Store, StoreLimits};
use crate::engine::buffer::BufferPool;
use crate::engine::conn::{Conn, Origin, State};
use crate::engine::guard::{Counter, Guard};
use crate::engine::pool::Pool;
use crate::id::Id;
use crate::kad::requests::RequestId;
use crate::limits::{CONNECTIONS, DIALLED_SHARE, NODE_CONNECTIONS};
use crate::time::Time;
use crate::wheel::Wheel;

/// Names a connection; outlives it safely.
pub type ConnId = Key;
/// Names a call of a client's.
pub type CallId = u64;

/// Who gets the answer to a request of ours.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Requester {
    /// The node with this number.
    Node(usize, RequestId),
    /// A client.
    Caller(CallId),
}

/// What a listening address serves.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Listener {
    /// The sealed dialect, for the node with this number.
    Sealed(usize),
    /// The VoidPhone API, a client's listener to the node with this number.
    Api(usize),
}

/// Why a dial failed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum DialError {
    /// The pair of addresses is in use: the peer's own connection from there is in the accept queue, or an old one has
    /// not died yet. The driver must report what is in its accept queue first.
    AddressTaken,
    /// We are out of descriptors, memory or ports, which says nothing about the contact.
    Shortage,
    /// Anything else.
    Unreachable,
    /// The connection leads to itself.
    ToItself,
}

/// What a client gets for a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// PONG.
    Pong,
    /// The contacts of a NODE whose ids belong to their addresses, at most 20.
    Nodes(Vec<Contact>),
    /// VALUE, or SUCCESS: with the value to a GET, empty to a PUT.
    Success(Arc<[u8]>),
    /// FAILURE.
    Missing,
    /// ERROR: code and text.
    Error(u32, String),
    /// There was no connection, or it ended before the answer came.
    Unreachable,
}

/// What the driver is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Connect to `to`, from the listening address of node `from` or else from an ephemeral port; report with
    /// [`Engine::dialled`] or [`Engine::dial_failed`].
    Dial {
        /// The connection that is to be.
        conn: ConnId,
        /// Whose listening address to dial from.
        from: Option<usize>,
        /// Where to.
        to: SocketAddr,
    },
    /// Read this connection again, if its socket has anything.
    Resume(ConnId),
    /// Shut down the sending side.
    ShutdownWrite(ConnId),
    /// Close the socket.
    Close(ConnId),
    /// A call was answered.
    Replied(CallId, Reply),
    /// An operation has come to something.
    #[cfg(feature = "hyperdht")]
    Event(CallId, Event),
}

/// What a person may set of an engine.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// Of each node.
    pub node: Settings,
    /// Of the store that the nodes share.
    pub store: StoreLimits,
    /// Connections in all.
    pub max_connections: usize,
}

impl Default for EngineSettings {
    fn default() -> Self {
        EngineSettings { node: Settings::default(), store: StoreLimits::default(), max_connections: CONNECTIONS }
    }
}

/// Where the outcome of a job goes.
#[derive(Copy, Clone, Debug)]
struct Waiter {
    conn: ConnId,
    /// Among the connection's answers.
    place: Place,
    key: Id,
}

/// All nodes of a process and their connections.
#[derive(Debug)]
pub struct Engine {
    settings: EngineSettings,
    conns: Arena<Conn>,
    nodes: Vec<Node>,
    #[cfg(feature = "hyperdht")]
    datagrams: datagrams::Listeners,
    store: Store,
    pool: Pool,
    guard: Guard,
    buffers: BufferPool,
    wheel: Wheel<ConnId>,
    /// Connections to which a job's outcome is owed, by the job's ticket.
    waiters: Arena<Waiter>,
    outputs: VecDeque<Output>,
    /// Connections whose outbox is to be written.
    dirty: VecDeque<ConnId>,
    /// Connections whose inbox holds messages that were left over when their turn was used up.
    ready: VecDeque<ConnId>,
    /// Inbound connections in the order they came, to find the oldest silent one.
    silent: VecDeque<ConnId>,
    closed: Vec<ConnId>,
    buffered_bytes: usize,
    next_call: CallId,
    stopping: bool,
}

impl Engine {
    /// An engine without nodes: a client. `seed` keeps what strangers choose from colliding in hash tables.
    pub fn new(settings: EngineSettings, seed: u64) -> Engine {
        Engine {
            settings,
            conns: Arena::default(),
            nodes: Vec::new(),
            #[cfg(feature = "hyperdht")]
            datagrams: datagrams::Listeners::default(),
            store: Store::new(settings.store, seed),
            pool: Pool::new(seed),
            guard: Guard::default(),
            buffers: BufferPool::default(),
            wheel: Wheel::new(),
            waiters: Arena::default(),
            outputs: VecDeque::new(),
            dirty: VecDeque::new(),
            ready: VecDeque::new(),
            silent: VecDeque::new(),
            closed: Vec::new(),
            buffered_bytes: 0,
            next_call: 0,
            stopping: false,
        }
    }

    /// Adds a node that others reach at `addr`; returns its number. `seed` decides its random choices.
    pub fn add_node(&mut self, addr: SocketAddr, seed: u64, now: Time) -> usize {
        self.nodes.push(Node::new(addr, self.settings.node, seed, now));
        self.nodes.len() - 1
    }

    /// Lets every node of `addr`'s family bootstrap from whoever listens there.
    pub fn add_bootstrap(&mut self, addr: SocketAddr, now: Time) {
        for node in &mut self.nodes {
            if node.overlay().own().addr.is_ipv4() == addr.is_ipv4() {
                node.add_bootstrap(addr, now);
            }
        }
    }

    /// Gives a node a life before the simulation began: it has heard from `contacts`, and others have named it.
    #[cfg(feature = "sim")]
    pub fn remember(&mut self, node: usize, contacts: &[Contact], now: Time) {
        self.nodes[node].remember(contacts, now);
    }

    /// The nodes, by number.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What the nodes hold.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What was counted.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Counts something that only the driver sees and logs itself.
    pub fn count(&mut self, counter: Counter) {
        self.guard.count(counter);
    }

    /// Counts and logs something that only the driver sees.
    pub fn fault(&mut self, counter: Counter, peer: SocketAddr, now: Time) {
        self.guard.fault(counter, peer, now);
    }

    /// Connections, those being dialled included.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// Connections without those whose slots are freed at the end of the turn.
    fn open_connections(&self) -> usize {
        self.conns.len() - self.closed.len()
    }

    /// Places that are for those we dial, or clients that stay would cut us off from the network.
    fn places_for_links(&self) -> usize {
        (self.settings.max_connections / DIALLED_SHARE).min(NODE_CONNECTIONS)
    }

    fn has_room_for_inbound(&self) -> bool {
        let kept_free = self.places_for_links().saturating_sub(self.links());
        self.open_connections() + kept_free < self.settings.max_connections
    }

    /// Connections that carry requests of ours.
    pub fn links(&self) -> usize {
        self.pool.links().len()
    }

    /// Memory of all buffers in use.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    // ---- what happened ----

    /// A connection was accepted at `listener`. `None`: refuse it by closing the socket.
    pub fn accepted(&mut self, listener: Listener, peer: SocketAddr, now: Time) -> Option<ConnId> {
        let (node, wire) = match listener {
            Listener::Sealed(node) => (node, Wire::Sealed),
            Listener::Api(node) => (node, Wire::Api),
        };
        // First whether it may come at all, so that who is refused anyway costs nobody a place.
        if let Err(counter) = self.guard.admit(peer.ip(), now) {
            self.guard.fault(counter, peer, now);
            return None;
        }
        if !self.has_room_for_inbound() && !self.evict_oldest_silent(now) && !self.close_spare_link(now) {
            self.guard.left(peer.ip());
            self.guard.fault(Counter::TooManyConnections, peer, now);
            return None;
        }
        self.guard.count(Counter::Accepted);
        let id = self.conns.insert(Conn::new(peer, Some(node), Origin::Inbound, wire, now));
        if wire == Wire::Sealed {
            self.remember_silent(id);
            self.share(node, peer, id, now);
        }
        self.settle(id, now);
        Some(id)
    }

    /// Where to read bytes for this connection, or `None` if it is not to be read now. Report with
    /// [`Engine::received`].
    pub fn read_space(&mut self, id: ConnId) -> Option<&mut [u8]> {
        let conn = self.conns.get_mut(id).filter(|conn| conn.should_read())?;
        // What comes while it lingers is thrown away; see `received`.
        Some(conn.inbox.space(&mut self.buffers))
    }

    /// `n` bytes were read into [`Engine::read_space`].
    pub fn received(&mut self, id: ConnId, n: usize, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        self.guard.add(Counter::BytesRead, n);
        if conn.state == State::Open {
            conn.inbox.filled(n);
            self.handle_inbox(id, now);
        } else {
            self.guard.add(Counter::BytesRefused, n);
        }
        self.settle(id, now);
    }

    /// The peer will send no more.
    pub fn eof(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.eof = true;
        if conn.state == State::Lingering {
            return self.close(id, now);
        }
        self.drop_pending(id, now);
        self.settle(id, now);
    }

    /// The connection broke.
    pub fn broken(&mut self, id: ConnId, now: Time) {
        if let Some(conn) = self.conns.get(id) {
            if conn.state != State::Lingering {
                self.guard.fault(Counter::Resets, conn.peer, now);
            }
            self.close(id, now);
        }
    }

    /// What to write to this connection; empty if nothing. Report with [`Engine::wrote`].
    pub fn to_write(&self, id: ConnId) -> &[u8] {
        self.conns.get(id).filter(|conn| conn.wants_write()).map_or(&[], |conn| conn.outbox.unwritten())
    }

    /// The first `n` bytes of [`Engine::to_write`] were written; 0 if the socket took none.
    pub fn wrote(&mut self, id: ConnId, n: usize, now: Time) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.outbox.written(n, &mut self.buffers, now);
            self.settle(id, now);
        }
    }

    // ---- what to do ----

    /// The next connection whose outbox is to be written; call until `None`, at the end of a turn or earlier. What the socket
    /// does not take is to be written as soon as it does, and is to be reported with [`Engine::wrote`], be it none: the time
    /// that the peer has for it counts from then, and the connection is not named again before.
    pub fn next_dirty(&mut self) -> Option<ConnId> {
        while let Some(id) = self.dirty.pop_front() {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.is_dirty = false;
                return Some(id);
            }
        }
        None
    }

    /// The next thing to do; call until `None`.
    pub fn poll_output(&mut self, now: Time) -> Option<Output> {
        if self.outputs.is_empty() {
            self.pump(now);
        }
        self.outputs.pop_front()
    }

    /// Whether messages wait that need no event to be handled: poll without waiting.
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Handles the messages that were left over in the last turn.
    pub fn work(&mut self, now: Time) {
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else {
                return;
            };
            if let Some(conn) = self.conns.get_mut(id) {
                conn.is_ready = false;
                self.handle_inbox(id, now);
                self.settle(id, now);
            }
        }
    }

    /// When [`Engine::on_timeout`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        let nodes = self.nodes.iter().map(Node::next_deadline);
        let own = nodes.chain(self.wheel.next_deadline()).chain(self.store.next_deadline());
        #[cfg(feature = "hyperdht")]
        let own = own.chain(self.datagrams.deadline());
        own.min()
    }

    /// Does what is due at `now`. Afterwards the next deadline lies ahead.
    pub fn on_timeout(&mut self, now: Time) {
        let mut due = Vec::new();
        self.wheel.expire(now, &mut due);
        for id in due {
            let Some(conn) = self.conns.get_mut(id) else {
                continue;
            };
            // It may have been armed anew meanwhile, by what became of another connection.
            conn.timer.take_if(|timer| self.wheel.get(*timer).is_none());
            match conn.deadline() {
                Some((at, expiry)) if at <= now => self.expire(id, expiry, now),
                _ => self.settle(id, now),
            }
        }
        self.store.expire(now);
        for node in &mut self.nodes {
            if node.next_deadline() <= now {
                node.on_timeout(now);
            }
        }
        #[cfg(feature = "hyperdht")]
        self.wake_listeners(now);
        self.pump(now);
    }

    /// Frees the slots of connections that were closed. Call at the end of a turn, once their sockets are gone.
    pub fn sweep(&mut self) {
        for id in self.closed.drain(..) {
            self.conns.remove(id);
        }
        if cfg!(debug_assertions) && self.conns.len() < 64 {
            self.check_invariants();
        }
    }

    /// Begins to stop: connections are closed as soon as they are idle.
    pub fn stop(&mut self, now: Time) {
        self.stopping = true;
        let all: Vec<ConnId> = self.conns.iter().map(|(id, _)| id).collect();
        for id in all {
            self.settle(id, now);
        }
    }

    /// Whether all that was owed is sent, so that a stopping process may end.
    pub fn is_quiet(&self) -> bool {
        self.conns.iter().all(|(_, conn)| !conn.session.owes() && !conn.wants_write())
    }

    /// Panics unless lists and sums agree with the connections. For debug builds and tests; between turns.
    pub fn check_invariants(&self) {
        let (mut bytes, mut unread) = (0, 0);
        for (id, conn) in self.conns.iter() {
            unread += conn.inbox.unread().len() as u64;
            assert_ne!(conn.state, State::Closed, "closed connections are swept");
            assert_eq!(conn.is_dirty, self.dirty.contains(&id));
            assert_eq!(conn.is_ready, self.ready.contains(&id));
            assert!(conn.inbox.is_empty() || conn.inbox.capacity() > 0);
            assert_eq!(conn.counted_bytes as usize, conn.memory_bytes());
            bytes += conn.memory_bytes();
            if let Some((deadline, _)) = conn.deadline() {
                let fires_at = conn.timer.and_then(|timer| self.wheel.due_at(timer));
                assert!(fires_at.is_some_and(|at| at <= self.wheel.ahead(deadline)), "a deadline has a timer");
            }
            conn.session.check_invariants();
        }
        assert_eq!(self.buffered_bytes, bytes);
        let [read, handled, refused] =
            [Counter::BytesRead, Counter::BytesHandled, Counter::BytesRefused].map(|c| self.guard.get(c));
        assert_eq!(read, handled + refused + unread, "every byte is accounted for");
        self.wheel.check_invariants();
    }
}
