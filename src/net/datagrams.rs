//! Datagram sockets: opens them, reads and sends in batches. Never looks into a datagram. If the kernel does not take
//! one, the engine decides whether to keep or drop it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::{Protocol, Type};

use crate::engine::Engine;
use crate::limits::{DATAGRAM_BYTES, DATAGRAM_SOCKET_BYTES, DATAGRAMS_PER_TURN};
use crate::net::socket::new_socket;
use crate::net::{DATAGRAM_LISTENERS, Net};
use crate::time::Time;

struct Listener {
    socket: UdpSocket,
    is_readable: bool,
    is_writable: bool,
}

/// All datagram sockets of the process, indexed by the numbers of their listeners. The poll watches them for
/// readability. It watches for room to send only while there is none, or else every datagram sent would cause an event.
pub(super) struct DatagramListeners {
    registry: Registry,
    listeners: Vec<Listener>,
    /// Listeners that may have something to read.
    readable: VecDeque<u16>,
    /// The receive buffer. It has one byte more than the largest datagram, to detect longer ones.
    buffer: Vec<u8>,
}

impl DatagramListeners {
    pub fn new(registry: Registry) -> DatagramListeners {
        DatagramListeners { registry, listeners: Vec::new(), readable: VecDeque::new(), buffer: Vec::new() }
    }

    /// Registers a bound socket as the next listener.
    fn add(&mut self, mut socket: UdpSocket) -> io::Result<()> {
        let number = self.listeners.len() as u16;
        self.registry.register(&mut socket, token_of(number), Interest::READABLE)?;
        self.buffer.resize(DATAGRAM_BYTES + 1, 0);
        self.readable.push_back(number);
        self.listeners.push(Listener { socket, is_readable: true, is_writable: true });
        Ok(())
    }

    /// The kernel reports what listener `number` can do. If it could not send before, it sends now.
    pub fn mark_ready(&mut self, number: u16, readable: bool, writable: bool, engine: &mut Engine) {
        let Some(listener) = self.listeners.get_mut(usize::from(number)) else {
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

    /// Whether datagrams were left unread in the last turn.
    pub fn are_ready(&self) -> bool {
        !self.readable.is_empty()
    }

    /// Reads datagrams, at most one turn's share per listener.
    pub fn read(&mut self, engine: &mut Engine, now: Time) {
        for _ in 0..self.readable.len() {
            let Some(number) = self.readable.pop_front() else {
                return;
            };
            for _ in 0..DATAGRAMS_PER_TURN {
                let listener = &mut self.listeners[usize::from(number)];
                if !listener.is_readable {
                    break;
                }
                match listener.socket.recv_from(&mut self.buffer) {
                    Ok((len, from)) => {
                        engine.datagram(number, crate::contact::canonical(from), &self.buffer[..len], now);
                    }
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    // Nothing is left, or there was an error: the next datagram causes another event, so the loop does
                    // not spin.
                    Err(_) => listener.is_readable = false,
                }
            }
            if self.listeners[usize::from(number)].is_readable {
                self.readable.push_back(number);
            }
            self.send(engine);
        }
    }

    /// Sends the datagrams that wait at any listener.
    pub fn send(&mut self, engine: &mut Engine) {
        while let Some(number) = engine.next_dirty_listener() {
            self.send_from(number, engine);
        }
    }

    /// Starts (`is_full`) or stops watching for room to send at a listener.
    fn watch_for_room(&mut self, number: u16, is_full: bool) {
        let listener = &mut self.listeners[usize::from(number)];
        listener.is_writable = !is_full;
        let interest = if is_full { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        if let Err(e) = self.registry.reregister(&mut listener.socket, token_of(number), interest) {
            // The next datagram tries again.
            log::warn!("listener_not_watched error={e}");
            listener.is_writable = true;
        }
    }

    fn send_from(&mut self, number: u16, engine: &mut Engine) {
        while self.listeners[usize::from(number)].is_writable {
            let Some((to, bytes)) = engine.next_datagram(number) else {
                return;
            };
            match self.listeners[usize::from(number)].socket.send_to(bytes, to) {
                Ok(_) => engine.datagram_sent(number, false),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return self.watch_for_room(number, true),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    // No route, no permission, no memory: the datagram is lost, as any datagram may be.
                    log::debug!("datagram_unsent to={to} error={e}");
                    engine.datagram_sent(number, true);
                }
            }
        }
    }
}

fn token_of(number: u16) -> Token {
    Token(DATAGRAM_LISTENERS + usize::from(number))
}

/// Binds a UDP socket to `addr`. Its receive buffer is as large as the kernel allows, so that a burst of answers is not
/// lost. Port 0 lets the kernel choose; a port is never shared.
fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = new_socket(addr, Type::DGRAM, Protocol::UDP)?;
    // The kernel lowers it to net.core.rmem_max.
    let _ = socket.set_recv_buffer_size(DATAGRAM_SOCKET_BYTES);
    socket.bind(&addr.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

impl Net {
    /// Opens a socket on `addr` for the next node that is added to the service of datagrams: call this and add the node
    /// before the loop runs its next turn. Port 0 lets the kernel choose. Returns the address to which the socket is
    /// bound.
    ///
    /// Errors: the address is in use or not ours, or no descriptors or memory are left.
    pub fn add_datagram_listener(&mut self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let socket = bind(addr)?;
        let bound = socket.local_addr()?;
        self.datagrams.add(socket)?;
        Ok(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::hyperdht::identity::Identity;
    use crate::dialect::hyperdht::node::Node;
    use crate::dialect::hyperdht::operation::{Event, Operation, Outcome};
    use crate::dialect::hyperdht::service::Service;
    use crate::dialect::hyperdht::settings::Settings;
    use crate::engine::EngineSettings;
    use crate::id::Id;
    use crate::limits::LONG_TIMEOUT_MS;
    use crate::net::clock::Clock;

    /// Regression: an operation that was run to its end discarded the events of all others.
    #[test]
    fn an_operation_that_is_waited_for_leaves_the_events_of_others() {
        let clock = Clock::start();
        let mut net = Net::new(Engine::new(EngineSettings::default(), 1), clock).unwrap();
        let bound = [1, 2].map(|n| {
            let addr = net.add_datagram_listener(([127, 0, 0, 1], 0).into()).unwrap();
            let identity = Identity { id: Id([n; 32]), addr, is_ephemeral: false };
            let node = Node::new(identity, Settings::default(), [[n; 32]; 2], u64::from(n), net.now());
            net.service_mut::<Service>().add(node);
            addr
        });
        let asked = bound[1];

        let early = net.start::<Service>(Some(0), Operation::Ping(asked)).unwrap();
        let mut answers = 0;
        let show = |event| match event {
            Event::Answer(_) => {
                answers += 1;
                None
            }
            Event::Done(outcome) => Some(outcome),
        };
        let outcome = net.operation::<Service, _>(Some(0), Operation::Ping(asked), LONG_TIMEOUT_MS, show).unwrap();
        assert_eq!((outcome, answers), (Some(Outcome::Done { answers: 1, commits: 0 }), 1));

        let give_up_at = net.now().after(LONG_TIMEOUT_MS);
        let mut events = Vec::new();
        while !matches!(events.last(), Some(Event::Done(_))) && net.now() < give_up_at {
            match net.next_event::<Service>(early) {
                Some(event) => events.push(event),
                None => net.turn(Some(give_up_at)).unwrap(),
            }
        }
        let [Event::Answer(answer), Event::Done(outcome)] = &events[..] else { panic!("{events:?}") };
        assert_eq!((answer.addr, *outcome), (asked, Outcome::Done { answers: 1, commits: 0 }));
    }
}
