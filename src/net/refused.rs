//! Connections that were refused: says why, and gives the peer a moment to read it before the socket is closed, because
//! closing with unread bytes in the kernel would reset the connection. Never serves any of them.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;

use crate::limits::{LINGER_MS, REFUSED, REFUSED_READ_BYTES};
use crate::time::Time;

/// The refused connections whose peers have yet to read why; oldest first.
#[derive(Default)]
pub(super) struct Refused {
    waiting: VecDeque<(TcpStream, Time)>,
}

impl Refused {
    /// Says `last_words` to a connection that is refused. If many wait already, the one that has waited longest is
    /// closed.
    pub fn add(&mut self, mut stream: TcpStream, last_words: &[u8], now: Time) {
        // A peer that is already gone need not be told.
        if last_words.is_empty() || stream.write(last_words).is_err() || stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        if self.waiting.len() >= REFUSED {
            self.waiting.pop_front().into_iter().for_each(|(stream, _)| close(stream));
        }
        self.waiting.push_back((stream, now.after(LINGER_MS)));
    }

    /// When [`Refused::close_due`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        self.waiting.front().map(|(_, due)| *due)
    }

    /// Closes those whose time is up at `now`.
    pub fn close_due(&mut self, now: Time) {
        while self.next_deadline().is_some_and(|due| due <= now) {
            self.waiting.pop_front().into_iter().for_each(|(stream, _)| close(stream));
        }
    }
}

fn close(mut stream: TcpStream) {
    // What the peer has sent is read, so that the kernel does not reset the connection.
    let _ = stream.read(&mut [0; REFUSED_READ_BYTES]);
}
