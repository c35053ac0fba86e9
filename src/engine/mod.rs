//! The engine: everything between bytes and nodes. It owns the slab of connections with their buffers, the nodes with
//! their routing tables, the store, and the timers; whoever drives it owns the sockets and the clock. In: accepted, bytes
//! received, written, closed, dial results, the time. Out: [`Output`]s and dirty outboxes, drained until there are none.
//! Pure: opens no socket, reads no clock, holds no randomness but the seeds it is given.
//!
//! A turn of the driver: report what happened, call [`Engine::work`] and [`Engine::on_timeout`], drain
//! [`Engine::poll_output`] and [`Engine::next_dirty`] until both are empty, then [`Engine::sweep`].

pub mod conn;
pub mod dialects;
pub mod pool;

#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
pub(crate) mod pairs;

#[cfg_attr(not(feature = "hyperdht"), path = "no_datagrams.rs")]
mod datagrams;
mod dial;
mod life;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::arena::Arena;
pub use crate::dialect::CallId;
use crate::dialect::stream::{CloseReason, Context, Origin, State};
pub use crate::dialect::stream::{ConnId, Listener};
use crate::dialect::{Dialect, Shared};
use crate::engine::conn::Conn;
use crate::engine::dialects::{InEngine, Services, Session, Settings};
use crate::engine::pool::Pool;
use crate::guard::{Counter, Guard};
use crate::limits::{CONNECTIONS, DIALLED_SHARE, NODE_CONNECTIONS};
use crate::time::Time;
use crate::wheel::Wheel;

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

/// What the driver is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Connect to `to`, from the address of the listener `from` or else from an ephemeral port; report with
    /// [`Engine::dialled`] or [`Engine::dial_failed`].
    Dial {
        /// The connection that is to be.
        conn: ConnId,
        /// Whose address to dial from.
        from: Option<Listener>,
        /// Where to.
        to: SocketAddr,
    },
    /// Read this connection again, if its socket has anything.
    Resume(ConnId),
    /// Shut down the sending side.
    ShutdownWrite(ConnId),
    /// Close the socket.
    Close(ConnId),
}

/// What a person may set of an engine.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// Of the dialects.
    pub dialects: Settings,
    /// Connections in all.
    pub max_connections: usize,
}

impl Default for EngineSettings {
    fn default() -> Self {
        EngineSettings { dialects: Settings::default(), max_connections: CONNECTIONS }
    }
}

/// All nodes of a process and their connections.
#[derive(Debug)]
pub struct Engine {
    settings: EngineSettings,
    conns: Arena<Conn>,
    services: Services,
    datagrams: datagrams::Service,
    pool: Pool,
    shared: Shared,
    wheel: Wheel<ConnId>,
    outputs: VecDeque<Output>,
    /// Connections whose outbox is to be written.
    dirty: VecDeque<ConnId>,
    /// Connections whose inbox holds units that were left over when their turn was used up.
    ready: VecDeque<ConnId>,
    /// Inbound connections in the order they came, to find the oldest silent one.
    silent: VecDeque<ConnId>,
    closed: Vec<ConnId>,
    buffered_bytes: usize,
    next_call: CallId,
    is_stopping: bool,
}

impl Engine {
    /// An engine without nodes: a client. `seed` keeps what strangers choose from colliding in hash tables.
    pub fn new(settings: EngineSettings, seed: u64) -> Engine {
        Engine {
            settings,
            conns: Arena::default(),
            services: Services::new(settings.dialects, seed),
            datagrams: datagrams::Service::default(),
            pool: Pool::new(seed),
            shared: Shared::default(),
            wheel: Wheel::new(),
            outputs: VecDeque::new(),
            dirty: VecDeque::new(),
            ready: VecDeque::new(),
            silent: VecDeque::new(),
            closed: Vec::new(),
            buffered_bytes: 0,
            next_call: 0,
            is_stopping: false,
        }
    }

    // ---- dialects ----

    /// The service of a dialect.
    pub fn service<D: InEngine>(&self) -> &D {
        D::of(self)
    }

    /// The service of a dialect, to add nodes to.
    pub fn service_mut<D: InEngine>(&mut self) -> &mut D {
        D::of_mut(self).0
    }

    /// Starts an operation of a local user from a listener of the dialect, or as a client that has none; its events come
    /// from [`Engine::next_event`] by the name returned. `None`: there is too much to do already, or no such listener.
    pub fn start<D: InEngine>(&mut self, listener: Option<u16>, operation: D::Operation, now: Time) -> Option<CallId> {
        self.next_call += 1;
        let call = self.next_call;
        let (service, shared) = D::of_mut(self);
        service.start(listener, call, operation, shared, now).then_some(call)
    }

    /// Ends an operation early; nothing more comes of it.
    pub fn cancel<D: InEngine>(&mut self, call: CallId, now: Time) {
        D::of_mut(self).0.cancel(call, now);
    }

    /// What came of an operation since the last call; the last event says how it ended.
    pub fn next_event<D: InEngine>(&mut self, call: CallId) -> Option<D::Event> {
        D::of_mut(self).0.next_event(call)
    }

    /// Lets every node of the dialect and of `addr`'s family bootstrap from whoever listens there. Warns where no node
    /// takes it: there is none of its family, or it has enough of them.
    pub fn add_bootstrap(&mut self, dialect: Dialect, addr: SocketAddr, now: Time) {
        let is_taken = self.services.add_bootstrap(dialect, addr, now);
        if !is_taken.unwrap_or_else(|| self.datagrams.add_bootstrap(addr, now)) {
            log::warn!("bootstrap_not_taken dialect={} address={addr}", dialect.name());
        }
    }

    /// What the engine and its dialects have to say for the status report: lines of `name value`.
    pub fn report(&self, lines: &mut Vec<String>) {
        let own = [
            ("connections", self.connections()),
            ("node_connections", self.links()),
            ("buffered_bytes", self.buffered_bytes),
        ];
        lines.extend(own.map(|(name, value)| format!("{name} {value}")));
        let counters = Counter::ALL.iter().map(|counter| (counter.name(), self.guard().get(*counter)));
        lines.extend(counters.map(|(name, value)| format!("{name} {value}")));
        self.services.report(lines);
        self.datagrams.report(lines);
    }

    /// What was counted.
    pub fn guard(&self) -> &Guard {
        &self.shared.guard
    }

    /// Counts something that only the driver sees and logs itself.
    pub fn count(&mut self, counter: Counter) {
        self.shared.guard.count(counter);
    }

    /// Counts and logs something that only the driver sees.
    pub fn fault(&mut self, counter: Counter, peer: SocketAddr, now: Time) {
        self.shared.guard.fault(counter, peer, now);
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
        // First whether it may come at all, so that one that is refused anyway costs nobody a place.
        if let Err(counter) = self.shared.sources.admit(peer.ip(), now) {
            self.shared.guard.fault(counter, peer, now);
            return None;
        }
        if !self.has_room_for_inbound() && !self.evict_oldest_silent(now) && !self.close_spare_link(now) {
            self.shared.sources.left(peer.ip());
            self.shared.guard.fault(Counter::TooManyConnections, peer, now);
            return None;
        }
        self.shared.guard.count(Counter::Accepted);
        let session = self.services.accepted(listener);
        let mut conn = Conn::new(peer, Some(listener), Origin::Inbound, session, now);
        conn.info.must_speak = Services::is_for_nodes(listener);
        let id = self.conns.insert(conn);
        if Services::is_for_nodes(listener) {
            self.remember_silent(id);
        }
        if Services::knows_by_address(listener) {
            self.share(listener, peer, id, now);
        }
        self.open(id, now);
        self.after_change(id, now);
        Some(id)
    }

    /// The connection stands: its service may say something first.
    fn open(&mut self, id: ConnId, now: Time) {
        self.show(id, |services, session, cx| services.on_open(session, cx, now));
    }

    /// Shows a connection to its service, if it still has its slot.
    fn show(&mut self, id: ConnId, call: impl FnOnce(&mut Services, &mut Session, &mut Context<'_>)) {
        if let Some(conn) = self.conns.get_mut(id) {
            let (session, mut cx, _) = conn.show(id, &mut self.shared);
            call(&mut self.services, session, &mut cx);
        }
    }

    /// Where to read bytes for this connection, or `None` if it is not to be read now. Report with
    /// [`Engine::received`].
    pub fn read_space(&mut self, id: ConnId) -> Option<&mut [u8]> {
        let conn = self.conns.get_mut(id).filter(|conn| conn.should_read())?;
        // What comes while it lingers is thrown away; see `received`.
        conn.inbox.space(&mut self.shared.buffers)
    }

    /// `n` bytes were read into [`Engine::read_space`].
    pub fn received(&mut self, id: ConnId, n: usize, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        self.shared.guard.add(Counter::BytesRead, n);
        if conn.info.state == State::Open {
            conn.inbox.filled(n);
            self.handle_inbox(id, now);
        } else {
            self.shared.guard.add(Counter::BytesRefused, n);
        }
        self.after_change(id, now);
    }

    /// The peer will send no more.
    pub fn eof(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.info.eof = true;
        if conn.info.state == State::Lingering {
            return self.close(id, CloseReason::Died, now);
        }
        if !conn.has_unit() {
            // What has come of a unit never becomes one, and its session forgets the beginning.
            self.shared.guard.add(Counter::BytesRefused, conn.forget_unread());
        }
        self.lose(id, CloseReason::Died, now);
        self.after_change(id, now);
    }

    /// The connection broke.
    pub fn broken(&mut self, id: ConnId, now: Time) {
        if let Some(conn) = self.conns.get(id) {
            if conn.info.state != State::Lingering {
                self.shared.guard.fault(Counter::Resets, conn.info.peer, now);
            }
            self.close(id, CloseReason::Died, now);
        }
    }

    /// What to write to this connection; empty if nothing. Report with [`Engine::wrote`].
    pub fn to_write(&self, id: ConnId) -> &[u8] {
        self.conns.get(id).filter(|conn| conn.wants_write()).map_or(&[], |conn| conn.outbox.unwritten())
    }

    /// The first `n` bytes of [`Engine::to_write`] were written; 0 if the socket took none.
    pub fn wrote(&mut self, id: ConnId, n: usize, now: Time) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.outbox.written(n, &mut self.shared.buffers, now);
            self.after_output(id, now);
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
            self.pump_all(now);
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
                self.after_change(id, now);
            }
        }
    }

    /// When [`Engine::on_timeout`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        let others = Time::earliest(self.datagrams.next_deadline(), self.wheel.next_deadline());
        Time::earliest(self.services.next_deadline(), others)
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
                _ => self.after_change(id, now),
            }
        }
        self.services.on_timeout(&mut self.shared, now);
        self.datagrams.on_timeout(&mut self.shared, now);
        self.pump_all(now);
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

    /// Begins to stop: whole units that were read are still handled, then connections say goodbye, and each is closed once
    /// it is idle.
    pub fn stop(&mut self, now: Time) {
        self.is_stopping = true;
        let all: Vec<ConnId> = self.conns.iter().map(|(id, _)| id).collect();
        all.into_iter().for_each(|id| self.after_change(id, now));
    }

    /// Whether all that was owed is sent and read, so that a stopping process may end.
    pub fn is_quiet(&self) -> bool {
        self.conns.iter().all(|(_, conn)| {
            !conn.session.owes() && !conn.wants_write() && !conn.is_ready && conn.info.state != State::Lingering
        })
    }

    /// Panics unless lists and sums agree with the connections. For debug builds and tests; between turns.
    pub fn check_invariants(&self) {
        let (mut bytes, mut unread) = (0, 0);
        for (id, conn) in self.conns.iter() {
            unread += conn.inbox.unread().len() as u64;
            assert_ne!(conn.info.state, State::Closed, "closed connections are swept");
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
            [Counter::BytesRead, Counter::BytesHandled, Counter::BytesRefused].map(|c| self.shared.guard.get(c));
        assert_eq!(read, handled + refused + unread, "every byte is accounted for");
        self.services.check_invariants();
        self.wheel.check_invariants();
    }
}
