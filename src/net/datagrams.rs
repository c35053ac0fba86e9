//! Sockets that speak datagrams: reading and sending in batches, and operations of commands run to their end. Never looks
//! into a datagram; what the kernel does not take is the engine's to keep or lose.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};

use crate::dialect::hyperdht::operation::{Answer, Event, Operation, Outcome};
use crate::engine::{CallId, Engine};
use crate::limits::{DATAGRAM_BYTES, DATAGRAMS_PER_TURN};
use crate::net::{DATAGRAM_LISTENERS, Net};
use crate::time::Time;

struct Listener {
    socket: UdpSocket,
    is_readable: bool,
    is_writable: bool,
}

/// All such sockets of the process, by the numbers of their listeners. They are watched for what can be read; for room to send
/// only while there is none, as every datagram sent would else be told of as room made.
pub(super) struct DatagramListeners {
    registry: Registry,
    listeners: Vec<Listener>,
    /// Listeners with something to read.
    readable: VecDeque<usize>,
    /// What is read goes in here: a byte more than a datagram may have, which tells those that are longer.
    buffer: Vec<u8>,
}

impl DatagramListeners {
    pub fn new(registry: Registry) -> DatagramListeners {
        DatagramListeners { registry, listeners: Vec::new(), readable: VecDeque::new(), buffer: Vec::new() }
    }

    /// Registers a bound socket as the next listener.
    pub fn add(&mut self, mut socket: UdpSocket) -> io::Result<()> {
        let token = Token(DATAGRAM_LISTENERS + self.listeners.len());
        self.registry.register(&mut socket, token, Interest::READABLE)?;
        self.buffer.resize(DATAGRAM_BYTES + 1, 0);
        self.readable.push_back(self.listeners.len());
        self.listeners.push(Listener { socket, is_readable: true, is_writable: true });
        Ok(())
    }

    /// The kernel says what listener `number` can do. One that could not send before does so now.
    pub fn mark_ready(&mut self, number: usize, readable: bool, writable: bool, engine: &mut Engine) {
        let Some(listener) = self.listeners.get_mut(number) else {
            return;
        };
        if readable && !std::mem::replace(&mut listener.is_readable, true) {
            self.readable.push_back(number);
        }
        if writable && !listener.is_writable {
            self.watch_for_room(number, false);
            self.send_from(number, engine);
        }
    }

    /// Whether anything was left unread when a turn was used up.
    pub fn are_ready(&self) -> bool {
        !self.readable.is_empty()
    }

    /// Reads what came, at most a turn's worth per listener.
    pub fn read(&mut self, engine: &mut Engine, now: Time) {
        for _ in 0..self.readable.len() {
            let Some(number) = self.readable.pop_front() else {
                return;
            };
            for _ in 0..DATAGRAMS_PER_TURN {
                let listener = &mut self.listeners[number];
                if !listener.is_readable {
                    break;
                }
                match listener.socket.recv_from(&mut self.buffer) {
                    Ok((len, from)) => {
                        engine.datagram(number, crate::contact::canonical(from), &self.buffer[..len], now);
                    }
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    // Nothing left, or an error: the next datagram tells, and nothing spins.
                    Err(_) => listener.is_readable = false,
                }
            }
            if self.listeners[number].is_readable {
                self.readable.push_back(number);
            }
            self.send(engine);
        }
    }

    /// Sends what waits at the listeners that have something.
    pub fn send(&mut self, engine: &mut Engine) {
        while let Some(number) = engine.next_dirty_listener() {
            self.send_from(number, engine);
        }
    }

    /// From now on, watches for room to send at a listener that has none, or does no more.
    fn watch_for_room(&mut self, number: usize, is_full: bool) {
        let listener = &mut self.listeners[number];
        listener.is_writable = !is_full;
        let interest = if is_full { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let token = Token(DATAGRAM_LISTENERS + number);
        if let Err(e) = self.registry.reregister(&mut listener.socket, token, interest) {
            // It will be tried again with the next datagram.
            log::warn!("listener_not_watched error={e}");
            listener.is_writable = true;
        }
    }

    fn send_from(&mut self, number: usize, engine: &mut Engine) {
        while self.listeners[number].is_writable {
            let Some((to, bytes)) = engine.next_datagram(number) else {
                return;
            };
            match self.listeners[number].socket.send_to(bytes, to) {
                Ok(_) => engine.datagram_sent(number, false),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return self.watch_for_room(number, true),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    // No route, no permission, no memory: lost, as any datagram may be.
                    log::debug!("datagram_unsent to={to} error={e}");
                    engine.datagram_sent(number, true);
                }
            }
        }
    }
}

impl Net {
    /// Serves `socket` as the engine's datagram listener that was added as this many before it.
    pub fn add_datagram_listener(&mut self, socket: UdpSocket) -> io::Result<()> {
        self.datagrams.add(socket)
    }

    /// Lets lookups of the node at a listener begin at `addr`, without bootstrapping from it.
    pub fn add_seed(&mut self, listener: usize, addr: SocketAddr) {
        self.engine.add_hyperdht_seed(listener, addr);
    }

    /// Begins an operation at a listener; `None` if there are too many.
    pub fn start(&mut self, listener: usize, operation: Operation) -> Option<CallId> {
        let call = self.engine.start_datagram(listener, operation, self.clock.now());
        self.finish_turn();
        call
    }

    /// Runs an operation to its end and shows each answer; `None` if it was cut off after `timeout_ms` or by a signal.
    pub fn hyperdht_operation(
        &mut self,
        listener: usize,
        operation: Operation,
        timeout_ms: u64,
        mut show: impl FnMut(Answer),
    ) -> io::Result<Option<Outcome>> {
        let give_up_at = self.clock.now().after(timeout_ms);
        let Some(call) = self.start(listener, operation) else {
            return Ok(None);
        };
        let signals = self.signal_count();
        loop {
            while let Some((of, event)) = self.engine.next_datagram_event() {
                match event {
                    Event::Answer(answer) if of == call => show(answer),
                    Event::Done(outcome) if of == call => return Ok(Some(outcome)),
                    Event::Answer(_) | Event::Done(_) => {}
                }
            }
            if self.clock.now() >= give_up_at || self.signal_count() > signals {
                self.engine.cancel_datagram(listener, call, self.clock.now());
                return Ok(None);
            }
            self.turn(Some(give_up_at))?;
        }
    }

    /// temporary
    pub fn next_event(&mut self) -> Option<(CallId, Event)> {
        self.engine.next_datagram_event()
    }
}
