//! The only sockets and the only clock: one poll loop that drives one [`Engine`]. Never looks into a message. Of a
//! connection, it keeps only the socket, and whether that can be read or written.
//!
//! mio is edge-triggered: after a partial read, or after an accept that failed for lack of descriptors, no second event
//! comes. So this module remembers readiness, keeps connections that used up their turn in a list, and retries accepts
//! by the clock.

pub mod clock;
#[cfg(feature = "bench")]
pub mod load;
pub mod memory;
pub mod names;
#[cfg(feature = "bench")]
pub mod process;
pub mod signals;
pub mod socket;
pub mod status;

#[cfg_attr(not(feature = "hyperdht"), path = "no_datagrams.rs")]
mod datagrams;
mod listeners;
mod private;
mod refused;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;

use crate::arena::TokenLayout;
use crate::dialect::Dialect;
use crate::engine::dialects::InEngine;
use crate::engine::{CallId, ConnId, DialError, Engine, Listener, Output};
use crate::guard::Counter;
use crate::limits::{ACCEPTS_PER_TURN, EVENTS, STOP_MS, TURN_BYTES, connections_max};
use crate::net::clock::Clock;
use crate::net::datagrams::DatagramListeners;
use crate::net::listeners::Listeners;
use crate::net::names::Names;
use crate::net::refused::Refused;
use crate::net::signals::Signals;
use crate::net::status::StatusListener;
use crate::time::Time;

/// Tokens of connections have this bit clear ([`ConnId::to_token`]).
const OWN_TOKENS: usize = 1 << (usize::BITS - 1);
const _: () = assert!(
    2 * connections_max(32) as u64 <= TokenLayout::of(32).slots(),
    "including those that were closed in this turn"
);
const _: () = assert!(2 * connections_max(64) as u64 <= TokenLayout::of(64).slots());
// After a connection has ended, its events come within a turn.
const _: () = assert!(((ACCEPTS_PER_TURN * crate::limits::LISTENERS) as u64) < TokenLayout::of(32).serials());
const SIGNALS: Token = Token(OWN_TOKENS);
const NAMES: Token = Token(OWN_TOKENS + 1);
const STATUS: Token = Token(OWN_TOKENS + 2);
/// The token of the first listener; the others follow.
const LISTENERS: usize = OWN_TOKENS + 16;
/// The token of the first datagram listener; the others follow.
const DATAGRAM_LISTENERS: usize = LISTENERS + crate::limits::LISTENERS;

/// The socket of a connection. Small, because there are thousands.
struct Socket {
    stream: TcpStream,
    /// The serial number of the connection in this slot.
    serial: u32,
    is_connecting: bool,
    is_readable: bool,
    is_writable: bool,
    /// The kernel has announced the peer's FIN, so a short read does not mean that nothing is left to read.
    is_read_closed: bool,
    /// Whether the socket is in the list of sockets to read.
    is_listed: bool,
}

impl Socket {
    /// Adds the socket to the list of sockets to read, unless it is in it.
    fn list(&mut self, id: ConnId, readable: &mut VecDeque<ConnId>) {
        if !std::mem::replace(&mut self.is_listed, true) {
            readable.push_back(id);
        }
    }
}

/// Why the loop ended.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// A signal asked it to stop, and everything owed was sent or its time ran out.
    Stopped,
    /// A second signal came, with this number.
    Killed(i32),
}

/// The poll loop and everything that it owns.
pub struct Net {
    poll: Poll,
    events: Events,
    clock: Clock,
    engine: Engine,
    /// Indexed by the slot of the connection.
    sockets: Vec<Option<Socket>>,
    /// Sockets that may have something to read.
    readable: VecDeque<ConnId>,
    listeners: Listeners,
    refused: Refused,
    datagrams: DatagramListeners,
    names: Names,
    status: StatusListener,
    signals: Option<Signals>,
    stop_at: Option<Time>,
}

impl Net {
    /// A loop around `engine`. All times that the engine sees must come from `clock`.
    ///
    /// Errors: the operating system refused a poll or a waker.
    pub fn new(engine: Engine, clock: Clock) -> io::Result<Net> {
        let poll = Poll::new()?;
        let names = Names::new(poll.registry(), NAMES)?;
        let datagrams = DatagramListeners::new(poll.registry().try_clone()?);
        Ok(Net {
            poll,
            events: Events::with_capacity(EVENTS),
            clock,
            engine,
            sockets: Vec::new(),
            readable: VecDeque::new(),
            listeners: Listeners::new(),
            refused: Refused::default(),
            datagrams,
            names,
            status: StatusListener::default(),
            signals: None,
            stop_at: None,
        })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The time of the loop's clock.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// Accepts connections at `socket` for `listener`. Dials of the listener's node start from the same address.
    ///
    /// Errors: the socket can't be registered.
    pub fn add_listener(&mut self, listener: Listener, socket: socket::ListeningSocket) -> io::Result<()> {
        self.listeners.add(listener, socket, self.poll.registry(), LISTENERS)
    }

    /// Answers `dayfly status` for the node at `addr`, but only to this user and root.
    ///
    /// Errors: the status socket can't be created.
    pub fn add_status(&mut self, addr: SocketAddr) -> io::Result<()> {
        self.status.open(addr, self.poll.registry(), STATUS)
    }

    /// Makes SIGTERM and SIGINT stop the loop.
    ///
    /// Errors: the signals can't be handled.
    pub fn handle_signals(&mut self) -> io::Result<()> {
        self.signals = Some(Signals::new(self.poll.registry(), SIGNALS)?);
        Ok(())
    }

    /// Adds the bootstrap `host:port` to the nodes of a dialect. A name is resolved outside the loop.
    pub fn add_bootstrap(&mut self, dialect: Dialect, address: &str) {
        match address.parse() {
            Ok(addr) => self.engine.add_bootstrap(dialect, addr, self.clock.now()),
            Err(_) => self.names.add(dialect, address),
        }
    }

    /// Runs until a signal stops the loop.
    ///
    /// Errors: polling failed.
    pub fn run(&mut self) -> io::Result<Ended> {
        loop {
            self.turn(None)?;
            let now = self.clock.now();
            let signals = self.signal_count();
            if signals > 0 && self.stop_at.is_none() {
                log::info!("stopping");
                self.stop();
                self.stop_at = Some(now.after(STOP_MS));
            }
            if signals > 1 {
                return Ok(Ended::Killed(self.signals.as_ref().map_or(0, Signals::last)));
            }
            if self.stop_at.is_some_and(|at| at <= now || self.engine.is_quiet()) {
                return Ok(Ended::Stopped);
            }
        }
    }

    /// The service of a dialect, for adding nodes.
    pub fn service_mut<D: InEngine>(&mut self) -> &mut D {
        self.engine.service_mut()
    }

    /// Starts an operation of dialect `D` from its listener with this number, or as a client if `listener` is `None`.
    /// Returns `None` if too many operations are in progress. The caller must pull all its events, or cancel it.
    pub fn start<D: InEngine>(&mut self, listener: Option<u16>, operation: D::Operation) -> Option<CallId> {
        let call = self.engine.start::<D>(listener, operation, self.clock.now());
        self.finish_turn();
        call
    }

    /// The next event of an operation, if there is one. The last event says how it ended. Events of other operations
    /// stay queued.
    pub fn next_event<D: InEngine>(&mut self, call: CallId) -> Option<D::Event> {
        self.engine.next_event::<D>(call)
    }

    /// Ends an operation early. It has no further events.
    pub fn cancel<D: InEngine>(&mut self, call: CallId) {
        self.engine.cancel::<D>(call, self.clock.now());
    }

    /// Runs an operation of dialect `D`, started as by [`Net::start`], and passes each of its events to `show`, until
    /// that returns something. Returns `None` if the operation could not be started, took longer than `timeout_ms`, or
    /// was interrupted by a signal. Events of other operations stay queued.
    ///
    /// Errors: polling failed.
    pub fn operation<D: InEngine, R>(
        &mut self,
        listener: Option<u16>,
        operation: D::Operation,
        timeout_ms: u64,
        mut show: impl FnMut(D::Event) -> Option<R>,
    ) -> io::Result<Option<R>> {
        let give_up_at = self.clock.now().after(timeout_ms);
        let signals = self.signal_count();
        let Some(call) = self.start::<D>(listener, operation) else {
            return Ok(None);
        };
        let mut end = Ok(None);
        while matches!(end, Ok(None)) {
            while let Some(event) = self.next_event::<D>(call) {
                if let Some(outcome) = show(event) {
                    self.cancel::<D>(call);
                    return Ok(Some(outcome));
                }
            }
            if self.clock.now() >= give_up_at || self.signal_count() > signals {
                break;
            }
            end = self.turn(Some(give_up_at)).map(|()| None);
        }
        self.cancel::<D>(call);
        end
    }

    /// Serves for `ms` milliseconds or until a signal comes. Returns whether one has come.
    ///
    /// Errors: polling failed.
    pub fn serve_for(&mut self, ms: u64) -> io::Result<bool> {
        let until = self.clock.now().after(ms);
        while self.clock.now() < until && !self.is_signalled() {
            self.turn(Some(until))?;
        }
        Ok(self.is_signalled())
    }

    /// Whether a signal has asked to stop.
    pub fn is_signalled(&self) -> bool {
        self.signal_count() > 0
    }

    fn signal_count(&self) -> usize {
        self.signals.as_ref().map_or(0, Signals::count)
    }

    /// Starts to stop: accepts no more connections, and closes each connection once it has been sent what it is owed.
    /// [`Engine::is_quiet`] says when that is done.
    pub fn stop(&mut self) {
        self.listeners.close();
        self.engine.stop(self.clock.now());
        self.finish_turn();
    }

    /// Runs one turn: waits for events (at most until `until`), handles them, and does what the engine asks.
    ///
    /// Errors: polling failed.
    pub fn turn(&mut self, until: Option<Time>) -> io::Result<()> {
        let timeout = self.wait_for(until);
        match self.poll.poll(&mut self.events, timeout) {
            Err(e) if e.kind() != ErrorKind::Interrupted => return Err(e),
            _ => {}
        }
        let now = self.clock.now();
        self.take_events(now);
        self.accept(now);
        self.read_sockets(now);
        self.datagrams.read(&mut self.engine, now);
        self.engine.work(now);
        if self.engine.next_deadline().is_some_and(|at| at <= now) {
            self.engine.on_timeout(now);
        }
        self.names.retry(now);
        self.refused.close_due(now);
        self.finish_turn();
        Ok(())
    }

    fn wait_for(&self, until: Option<Time>) -> Option<Duration> {
        if self.engine.has_work() || !self.readable.is_empty() || self.listeners.are_ready() {
            return Some(Duration::ZERO);
        }
        if self.datagrams.are_ready() {
            return Some(Duration::ZERO);
        }
        let own = [self.listeners.retry_at(), self.names.retry_at(), self.refused.next_deadline(), self.stop_at];
        let next = own.into_iter().chain([self.engine.next_deadline(), until]).flatten().min()?;
        Some(Duration::from_millis(next.since(self.clock.now())))
    }

    fn take_events(&mut self, now: Time) {
        // Taken out, because handling an event needs all of `self`. The empty replacement costs nothing.
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            match event.token() {
                SIGNALS => self.signals.iter_mut().for_each(Signals::drain),
                NAMES => {
                    let (known, unresolved) = self.names.take_resolved(now);
                    known.into_iter().for_each(|(dialect, addr)| self.engine.add_bootstrap(dialect, addr, now));
                    (0..unresolved).for_each(|_| self.engine.count(Counter::NamesUnresolved));
                }
                STATUS => self.status.serve(&status::report(&self.engine, now)),
                Token(token) if token >= DATAGRAM_LISTENERS => {
                    let (readable, writable) = (event.is_readable(), event.is_writable());
                    let number = (token - DATAGRAM_LISTENERS) as u16;
                    self.datagrams.mark_ready(number, readable, writable, &mut self.engine);
                }
                Token(token) if token >= LISTENERS => self.listeners.mark_ready(token - LISTENERS),
                Token(token) => self.take_event(token, event, now),
            }
        }
        self.events = events;
    }

    fn take_event(&mut self, token: usize, event: &mio::event::Event, now: Time) {
        let Some(socket) = self.sockets.get_mut(ConnId::slot_of_token(token)).and_then(Option::as_mut) else {
            return;
        };
        let Some(id) = ConnId::from_token(token, socket.serial) else {
            return; // The event belongs to a connection that used the slot before.
        };
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            socket.is_readable = true;
            socket.is_read_closed |= event.is_read_closed() || event.is_error();
            socket.list(id, &mut self.readable);
        }
        if event.is_writable() || event.is_error() {
            socket.is_writable = true;
            if socket.is_connecting {
                self.finish_dial(id, now);
            }
            self.write(id, now);
        }
    }

    // ---- connections ----

    fn accept(&mut self, now: Time) {
        let Net { listeners, engine, sockets, poll, refused, .. } = self;
        listeners.accept(now, |listener, stream, peer| {
            if stream.local_addr().is_ok_and(|own| own == peer) {
                engine.fault(Counter::SelfConnections, peer, now);
                return;
            }
            match engine.accepted(listener, peer, now) {
                None => refused.add(stream, &engine.refusal(listener), now),
                Some(id) => {
                    if let Err(e) = register(sockets, poll, id, stream, false) {
                        log::warn!("connection_not_registered peer={peer} error={e}");
                        engine.broken(id, now);
                    }
                }
            }
        });
        for failed in self.listeners.take_failures() {
            self.engine.fault(Counter::AcceptsFailed, failed, now);
        }
    }

    fn dial(&mut self, id: ConnId, from: Option<Listener>, to: SocketAddr, now: Time) {
        let local = from.and_then(|listener| self.listeners.address_of(listener));
        let dialled =
            socket::dial(local, to).and_then(|stream| register(&mut self.sockets, &self.poll, id, stream, true));
        if let Err(e) = dialled {
            self.dial_failed(id, &e, now);
        }
    }

    fn finish_dial(&mut self, id: ConnId, now: Time) {
        let Some(socket) = socket_of(&mut self.sockets, id) else {
            return;
        };
        let error = match (socket.stream.take_error(), socket.stream.peer_addr()) {
            (Ok(Some(e)) | Err(e), _) => Some(e),
            (Ok(None), Err(e)) if e.kind() == ErrorKind::NotConnected => return,
            (Ok(None), Err(e)) => Some(e),
            (Ok(None), Ok(peer)) if socket.stream.local_addr().is_ok_and(|own| own == peer) => {
                return self.engine.dial_failed(id, DialError::ToItself, now);
            }
            (Ok(None), Ok(_)) => None,
        };
        match error {
            Some(e) => self.dial_failed(id, &e, now),
            None => {
                socket.is_connecting = false;
                self.engine.dialled(id, now);
            }
        }
    }

    fn dial_failed(&mut self, id: ConnId, error: &io::Error, now: Time) {
        self.drop_socket(id);
        let why = match error.kind() {
            ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse => {
                // The peer's own connection may be using the address pair, so accept that first.
                self.listeners.mark_all_ready();
                self.accept(now);
                DialError::AddressTaken
            }
            _ if socket::is_shortage(error) => DialError::Shortage,
            _ => DialError::Unreachable,
        };
        log::debug!("dial_failed error={error}");
        self.engine.dial_failed(id, why, now);
    }

    fn read_sockets(&mut self, now: Time) {
        for _ in 0..self.readable.len() {
            let Some(id) = self.readable.pop_front() else {
                return;
            };
            if let Some(socket) = socket_of(&mut self.sockets, id) {
                socket.is_listed = false;
                self.read(id, now);
                // Writes the answers while their data is still in the cache, from the one buffer that all connections
                // share.
                while let Some(id) = self.engine.next_dirty() {
                    self.write(id, now);
                }
            }
        }
    }

    /// Reads a connection until it is drained, may not be read, or has used up its turn.
    fn read(&mut self, id: ConnId, now: Time) {
        let mut budget = TURN_BYTES;
        let Some(socket) = socket_of(&mut self.sockets, id) else {
            return;
        };
        if socket.is_connecting {
            return;
        }
        while socket.is_readable {
            if budget == 0 || self.engine.must_wait(id) {
                return socket.list(id, &mut self.readable);
            }
            let Some(space) = self.engine.read_space(id) else {
                return; // The engine says when to resume.
            };
            let asked = space.len().min(budget);
            match socket.stream.read(&mut space[..asked]) {
                Ok(0) => {
                    socket.is_readable = false;
                    return self.engine.eof(id, now);
                }
                Ok(n) => {
                    budget -= n;
                    // A short read means that the socket is drained (epoll(7)), unless a FIN is still to be read.
                    socket.is_readable = n == asked || socket.is_read_closed;
                    self.engine.received(id, n, now);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    socket.is_readable = false;
                    return self.engine.received(id, 0, now);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    socket.is_readable = false;
                    return self.engine.broken(id, now);
                }
            }
        }
    }

    fn write(&mut self, id: ConnId, now: Time) {
        let Some(socket) = socket_of(&mut self.sockets, id) else {
            return;
        };
        while socket.is_writable && !socket.is_connecting {
            let bytes = self.engine.to_write(id);
            if bytes.is_empty() {
                return;
            }
            match socket.stream.write(bytes) {
                Ok(n) => self.engine.wrote(id, n, now),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    socket.is_writable = false;
                    self.engine.wrote(id, 0, now);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    socket.is_writable = false;
                    return self.engine.broken(id, now);
                }
            }
        }
    }

    /// Does what the engine asks, writes each dirty outbox once, and frees what was closed.
    fn finish_turn(&mut self) {
        let now = self.clock.now();
        loop {
            while let Some(output) = self.engine.poll_output(now) {
                self.perform(output, now);
            }
            let Some(id) = self.engine.next_dirty() else {
                break;
            };
            self.write(id, now);
        }
        self.datagrams.send(&mut self.engine);
        self.engine.sweep();
    }

    fn drop_socket(&mut self, id: ConnId) {
        if let Some(slot) = self.sockets.get_mut(id.index()) {
            slot.take_if(|socket| socket.serial == id.serial());
        }
    }

    fn perform(&mut self, output: Output, now: Time) {
        match output {
            Output::Dial { conn, from, to } => self.dial(conn, from, to, now),
            Output::Resume(id) => {
                if let Some(socket) = socket_of(&mut self.sockets, id).filter(|socket| socket.is_readable) {
                    socket.list(id, &mut self.readable);
                }
            }
            Output::ShutdownWrite(id) => {
                if let Some(socket) = socket_of(&mut self.sockets, id) {
                    // Fails only if the connection is already gone, which the next read reports.
                    let _ = socket.stream.shutdown(Shutdown::Write);
                }
            }
            Output::Close(id) => self.drop_socket(id),
        }
    }
}

fn socket_of(sockets: &mut [Option<Socket>], id: ConnId) -> Option<&mut Socket> {
    sockets.get_mut(id.index())?.as_mut().filter(|socket| socket.serial == id.serial())
}

/// Registers a connection's socket for all events, and stores it under the connection's slot.
fn register(
    sockets: &mut Vec<Option<Socket>>,
    poll: &Poll,
    id: ConnId,
    mut stream: TcpStream,
    is_connecting: bool,
) -> io::Result<()> {
    let token = id.to_token().ok_or(Errno::NOBUFS)?;
    poll.registry().register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)?;
    if sockets.len() <= id.index() {
        sockets.resize_with(id.index() + 1, || None);
    }
    sockets[id.index()] = Some(Socket {
        stream,
        serial: id.serial(),
        is_connecting,
        is_readable: false,
        // A new connection can be written; for a dial, an event says when.
        is_writable: !is_connecting,
        is_read_closed: false,
        is_listed: false,
    });
    Ok(())
}
