//! The listeners: accepts connections in batches, and handles a lack of descriptors. Never decides whether a connection
//! may stay; the engine does.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::engine::Listener;
use crate::limits::{ACCEPT_PAUSE_MS, ACCEPTS_PER_TURN};
use crate::net::socket::{ListeningSocket, is_shortage};
use crate::time::Time;

struct Entry {
    listener: Listener,
    socket: ListeningSocket,
    is_ready: bool,
    /// Accepts nothing before this time, because the last accept failed.
    paused_until: Option<Time>,
}

/// All listening sockets of the process.
pub(super) struct Listeners {
    entries: Vec<Entry>,
    /// A spare descriptor. When no others are left, it is given up so that one waiting client can be turned away.
    spare: Option<File>,
    failures: Vec<SocketAddr>,
}

impl Listeners {
    pub fn new() -> Listeners {
        Listeners { entries: Vec::new(), spare: open_spare(), failures: Vec::new() }
    }

    /// Registers `socket`. Its token is `first_token` plus the number of listeners before it.
    pub fn add(
        &mut self,
        listener: Listener,
        mut socket: ListeningSocket,
        registry: &Registry,
        first_token: usize,
    ) -> io::Result<()> {
        registry.register(&mut socket.socket, Token(first_token + self.entries.len()), Interest::READABLE)?;
        self.entries.push(Entry { listener, socket, is_ready: true, paused_until: None });
        Ok(())
    }

    /// The address of `listener`, from which its node dials.
    pub fn address_of(&self, listener: Listener) -> Option<SocketAddr> {
        self.entries.iter().find(|entry| entry.listener == listener).map(|entry| entry.socket.addr)
    }

    /// Closes all listeners.
    pub fn close(&mut self) {
        self.entries.clear();
    }

    pub fn mark_ready(&mut self, place: usize) {
        if let Some(entry) = self.entries.get_mut(place) {
            entry.is_ready = true;
        }
    }

    pub fn mark_all_ready(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.is_ready = true);
    }

    /// Whether a pending connection can be accepted now.
    pub fn are_ready(&self) -> bool {
        self.entries.iter().any(|entry| entry.is_ready && entry.paused_until.is_none())
    }

    /// When the first pause ends.
    pub fn retry_at(&self) -> Option<Time> {
        self.entries.iter().filter_map(|entry| entry.paused_until).min()
    }

    /// The addresses of the listeners at which an accept failed since the last call.
    pub fn take_failures(&mut self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.failures)
    }

    /// Accepts pending connections, at most one turn's share per listener, and passes them to `accepted`.
    pub fn accept(&mut self, now: Time, mut accepted: impl FnMut(Listener, TcpStream, SocketAddr)) {
        let Listeners { entries, spare, failures } = self;
        for entry in entries.iter_mut() {
            if entry.paused_until.is_some_and(|until| now < until) {
                continue;
            }
            entry.paused_until = None;
            for _ in 0..ACCEPTS_PER_TURN {
                if !entry.is_ready {
                    break;
                }
                match entry.socket.socket.accept() {
                    Ok((stream, peer)) => {
                        // Fails only if the connection is already gone.
                        let _ = stream.set_nodelay(true);
                        accepted(entry.listener, stream, crate::contact::canonical(peer));
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => entry.is_ready = false,
                    Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                    Err(e) => {
                        failures.push(entry.socket.addr);
                        if is_shortage(&e) {
                            // accept4 returns EMFILE even if no connection is pending, so only shedding one tells
                            // whether there was one.
                            entry.is_ready = shed(&entry.socket, spare);
                        }
                        entry.paused_until = Some(now.after(ACCEPT_PAUSE_MS));
                        break;
                    }
                }
            }
        }
    }
}

/// Turns one pending connection away with the spare descriptor. Returns whether there may have been one.
fn shed(socket: &ListeningSocket, spare: &mut Option<File>) -> bool {
    drop(spare.take());
    let shed = socket.socket.accept();
    let none_pending = shed.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
    drop(shed);
    *spare = open_spare();
    !none_pending
}

fn open_spare() -> Option<File> {
    File::open("/dev/null").ok()
}
