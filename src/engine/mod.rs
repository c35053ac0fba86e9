//! The engine: everything between bytes and nodes. It owns the connections with their buffers, the nodes with their
//! routing tables, the store, and the timers; its driver owns the sockets and the clock. In: accepted connections,
//! bytes received and written, closed connections, results of dials, the time. Out: [`Output`]s and dirty outboxes,
//! which the driver drains until there are none. Pure: opens no socket, reads no clock, and has no randomness except
//! the seeds that it is given.
//!
//! A turn of the driver: report what happened, call [`Engine::work`] and [`Engine::on_timeout`], drain
//! [`Engine::poll_output`] and [`Engine::next_dirty`] until both are empty, then call [`Engine::sweep`].

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
mod room;
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
use crate::limits::{BUFFERED_BYTES, CONNECTIONS};
use crate::sources::Sources;
use crate::time::Time;
use crate::wheel::Wheel;

/// Why a dial failed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum DialError {
    /// The address pair is in use: the peer's own connection from that address is in the accept queue, or an old
    /// connection has not ended yet. The driver must first report what is in its accept queue.
    AddressTaken,
    /// We ran out of descriptors, memory or ports, which says nothing about the contact.
    Shortage,
    /// Any other failure.
    Unreachable,
    /// The connection leads to itself.
    ToItself,
}

/// What the driver must do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Connect to `to`, from the address of the listener `from` or else from an ephemeral port, and report with
    /// [`Engine::dialled`] or [`Engine::dial_failed`].
    Dial {
        /// Names the connection in that report.
        conn: ConnId,
        /// The listener whose address to dial from.
        from: Option<Listener>,
        /// The address to connect to.
        to: SocketAddr,
    },
    /// Read this connection again, if its socket has anything to read.
    Resume(ConnId),
    /// Shut down the sending side.
    ShutdownWrite(ConnId),
    /// Close the socket.
    Close(ConnId),
}

/// Settings of an engine.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// Settings of the dialects.
    pub dialects: Settings,
    /// The total number of connections.
    pub max_connections: usize,
    /// Bytes that the buffers of all connections may hold.
    pub buffered_bytes: usize,
}

impl Default for EngineSettings {
    fn default() -> Self {
        EngineSettings { dialects: Settings::default(), max_connections: CONNECTIONS, buffered_bytes: BUFFERED_BYTES }
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
    /// Connections whose outbox the driver must write.
    dirty: VecDeque<ConnId>,
    /// Connections whose inbox holds units that were left over when their turn was used up.
    ready: VecDeque<ConnId>,
    closed: Vec<ConnId>,
    buffered_bytes: usize,
    /// Connections that are being dialled, oldest first, and some that no longer are.
    dials: VecDeque<ConnId>,
    /// When all connections may be searched again for the idlest one of an address.
    address_search_at: Time,
    /// When to search for idle connections again, and the slot to begin with.
    idle_search_at: Time,
    idle_searched: usize,
    random: fastrand::Rng,
    next_call: CallId,
    is_stopping: bool,
}

impl Engine {
    /// An engine without nodes, which is a client. `seed` must be secret, so that nobody can choose keys or addresses
    /// that collide in hash tables.
    pub fn new(settings: EngineSettings, seed: u64) -> Engine {
        Engine {
            settings,
            conns: Arena::default(),
            services: Services::new(settings.dialects, seed),
            datagrams: datagrams::Service::default(),
            pool: Pool::new(seed),
            shared: Shared { sources: Sources::new(seed), ..Shared::default() },
            wheel: Wheel::new(),
            outputs: VecDeque::new(),
            dirty: VecDeque::new(),
            ready: VecDeque::new(),
            closed: Vec::new(),
            buffered_bytes: 0,
            dials: VecDeque::new(),
            address_search_at: Time::ZERO,
            idle_search_at: Time::ZERO,
            idle_searched: 0,
            random: fastrand::Rng::with_seed(seed),
            next_call: 0,
            is_stopping: false,
        }
    }

    // ---- dialects ----

    /// The service of a dialect.
    pub fn service<D: InEngine>(&self) -> &D {
        D::of(self)
    }

    /// The service of a dialect, for adding nodes.
    pub fn service_mut<D: InEngine>(&mut self) -> &mut D {
        D::of_mut(self).0
    }

    /// Starts an operation of a local user from the dialect's listener with this number, or as a client if `listener`
    /// is `None`. [`Engine::next_event`] returns its events by the returned name. Returns `None` if too many operations
    /// are in progress or there is no such listener.
    pub fn start<D: InEngine>(&mut self, listener: Option<u16>, operation: D::Operation, now: Time) -> Option<CallId> {
        self.next_call += 1;
        let call = self.next_call;
        let (service, shared) = D::of_mut(self);
        service.start(listener, call, operation, shared, now).then_some(call)
    }

    /// Ends an operation early. It has no further events.
    pub fn cancel<D: InEngine>(&mut self, call: CallId, now: Time) {
        D::of_mut(self).0.cancel(call, now);
    }

    /// The next event of an operation, if there is one. The last event says how it ended.
    pub fn next_event<D: InEngine>(&mut self, call: CallId) -> Option<D::Event> {
        D::of_mut(self).0.next_event(call)
    }

    /// Adds `addr` as a bootstrap of every node of the dialect and of the same address family. Warns if no node takes
    /// it, because there is none of the family or each has enough bootstraps.
    pub fn add_bootstrap(&mut self, dialect: Dialect, addr: SocketAddr, now: Time) {
        let is_taken = self.services.add_bootstrap(dialect, addr, now);
        if !is_taken.unwrap_or_else(|| self.datagrams.add_bootstrap(addr, now)) {
            log::warn!("bootstrap_not_taken dialect={} address={addr}", dialect.name());
        }
    }

    /// Appends the status report of the engine and its dialects: lines of `name value`.
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

    /// The counters.
    pub fn guard(&self) -> &Guard {
        &self.shared.guard
    }

    /// Counts an event that only the driver sees and that it logs itself.
    pub fn count(&mut self, counter: Counter) {
        self.shared.guard.count(counter);
    }

    /// Counts and logs a fault that only the driver sees.
    pub fn fault(&mut self, counter: Counter, peer: SocketAddr, now: Time) {
        self.shared.guard.fault(counter, peer, now);
    }

    /// The number of connections, including those being dialled.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// The number of connections that carry our requests.
    pub fn links(&self) -> usize {
        self.pool.links().len()
    }

    /// Bytes of memory of all buffers in use.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    // ---- what happened ----

    /// A connection from `peer` was accepted at `listener`. `None`: the driver must refuse it, by writing
    /// [`Engine::refusal`] and closing the socket.
    pub fn accepted(&mut self, listener: Listener, peer: SocketAddr, now: Time) -> Option<ConnId> {
        let source = self.shared.sources.of(peer.ip());
        if let Err(counter) = self.make_room_for(source, peer.ip(), now) {
            self.shared.guard.fault(counter, peer, now);
            return None;
        }
        self.shared.sources.connections.charge(source, 1);
        self.shared.guard.count(Counter::Accepted);
        let session = self.services.accepted(listener);
        let mut conn = Conn::new(peer, Some(listener), Origin::Inbound, session, now);
        conn.info.must_speak = Services::is_for_nodes(listener);
        conn.is_on_probation = self.shared.sources.is_on_probation(peer.ip(), now);
        let id = self.conns.insert(conn);
        if Services::knows_by_address(listener) {
            self.share(listener, peer, id, now);
        }
        self.open(id, now);
        self.after_change(id, now);
        Some(id)
    }

    /// The connection is established: its service may send something first.
    fn open(&mut self, id: ConnId, now: Time) {
        self.show(id, |services, session, cx| services.on_open(session, cx, now));
    }

    /// Shows a connection to its service, if it still exists. Returns what the service returned.
    fn show<R>(
        &mut self,
        id: ConnId,
        call: impl FnOnce(&mut Services, &mut Session, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let conn = self.conns.get_mut(id)?;
        let (session, mut cx, _) = conn.show(id, &mut self.shared);
        Some(call(&mut self.services, session, &mut cx))
    }

    /// Space into which to read bytes of this connection; `None` if it must not be read now. Report with
    /// [`Engine::received`].
    pub fn read_space(&mut self, id: ConnId) -> Option<&mut [u8]> {
        let conn = self.conns.get_mut(id).filter(|conn| conn.should_read())?;
        // Bytes that come while it lingers are discarded; see `received`.
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

    /// The peer will send nothing more.
    pub fn eof(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.info.eof = true;
        if conn.info.state == State::Lingering {
            return self.close(id, CloseReason::Died, now);
        }
        if !conn.has_unit() {
            // The start of a unit will never become complete, and its session forgets it.
            self.shared.guard.add(Counter::BytesRefused, conn.forget_unread());
        }
        self.lose(id, CloseReason::Died, now);
        self.after_change(id, now);
    }

    /// The connection was reset.
    pub fn broken(&mut self, id: ConnId, now: Time) {
        if let Some(conn) = self.conns.get(id) {
            if conn.info.state != State::Lingering {
                self.shared.guard.fault(Counter::Resets, conn.info.peer, now);
            }
            self.close(id, CloseReason::Died, now);
        }
    }

    /// The bytes to write to this connection, perhaps none. Report with [`Engine::wrote`].
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

    /// The next connection whose outbox to write. Call it until it returns `None`, at the end of a turn or earlier.
    /// Each write must be reported with [`Engine::wrote`], even if zero bytes were written. The rest must be written as
    /// soon as the socket takes more; the peer's time to read it counts from the report, and the connection is not
    /// returned again before it.
    pub fn next_dirty(&mut self) -> Option<ConnId> {
        while let Some(id) = self.dirty.pop_front() {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.is_dirty = false;
                return Some(id);
            }
        }
        None
    }

    /// The next output; call it until it returns `None`.
    pub fn poll_output(&mut self, now: Time) -> Option<Output> {
        if self.outputs.is_empty() {
            self.pump_all(now);
        }
        self.outputs.pop_front()
    }

    /// Whether messages are left over that can be handled without another event: poll without waiting.
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Handles the messages that were left over in the last turn. They get as much time as those that come.
    pub fn work(&mut self, now: Time) {
        self.shared.sources.next_turn();
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

    /// When [`Engine::on_timeout`] next has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        let others = Time::earliest(self.datagrams.next_deadline(), self.wheel.next_deadline());
        Time::earliest(self.services.next_deadline(), others)
    }

    /// Handles what is due at `now`. Afterwards the next deadline lies in the future.
    pub fn on_timeout(&mut self, now: Time) {
        let mut due = Vec::new();
        self.wheel.expire(now, &mut due);
        for id in due {
            let Some(conn) = self.conns.get_mut(id) else {
                continue;
            };
            // Its timer may have been armed again in the meantime, by a change of another connection.
            conn.timer.take_if(|timer| self.wheel.get(*timer).is_none());
            match conn.deadline() {
                Some((at, expiry)) if at <= now => self.expire(id, expiry, now),
                _ => self.after_change(id, now),
            }
        }
        self.close_idle(now);
        self.services.on_timeout(&mut self.shared, now);
        self.datagrams.on_timeout(&mut self.shared, now);
        self.pump_all(now);
    }

    /// Whether the source of this connection has had its part of a long turn: read it in the next one.
    pub fn must_wait(&self, id: ConnId) -> bool {
        self.shared.sources.turn.is_long()
            && self.conns.get(id).is_some_and(|conn| self.shared.sources.must_wait(conn.info.peer.ip()))
    }

    /// Frees the slots of closed connections. Call it at the end of a turn, once their sockets are closed.
    pub fn sweep(&mut self) {
        for id in self.closed.drain(..) {
            self.conns.remove(id);
        }
        self.shared.sources.next_turn();
        if cfg!(debug_assertions) && self.conns.len() < 64 {
            self.check_invariants();
        }
    }

    /// Starts to stop: units that were read completely are still handled, then each connection says what its protocol
    /// requires last, and is closed once it is idle.
    pub fn stop(&mut self, now: Time) {
        self.is_stopping = true;
        let all: Vec<ConnId> = self.conns.iter().map(|(id, _)| id).collect();
        all.into_iter().for_each(|id| self.after_change(id, now));
    }

    /// Whether everything owed has been sent and read, so that a stopping process may end.
    pub fn is_quiet(&self) -> bool {
        self.conns.iter().all(|(_, conn)| {
            !conn.session.owes() && !conn.wants_write() && !conn.is_ready && conn.info.state != State::Lingering
        })
    }

    /// Panics unless lists and sums agree with the connections. For debug builds and tests; call it between turns.
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
