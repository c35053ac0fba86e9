//! SIGTERM and SIGINT as bytes in a socket pair, which the poll loop watches. The signal handler does nothing but write
//! that byte.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use mio::net::UnixStream as MioStream;
use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGINT, SIGTERM};

/// The signals that ask the process to stop.
pub(super) struct Signals {
    streams: [(i32, MioStream); 2],
    count: usize,
    last: i32,
}

impl Signals {
    pub fn new(registry: &Registry, token: Token) -> io::Result<Signals> {
        let streams = [watch(SIGTERM, registry, token)?, watch(SIGINT, registry, token)?];
        Ok(Signals { streams, count: 0, last: 0 })
    }

    /// The number of signals that have come.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The number of the last signal.
    pub fn last(&self) -> i32 {
        self.last
    }

    /// Counts the signals that have come.
    pub fn drain(&mut self) {
        for (signal, stream) in &mut self.streams {
            let mut bytes = [0; 16];
            // Ends with WouldBlock once the pair is empty.
            while let Ok(n @ 1..) = stream.read(&mut bytes) {
                self.count += n;
                self.last = *signal;
            }
        }
    }
}

fn watch(signal: i32, registry: &Registry, token: Token) -> io::Result<(i32, MioStream)> {
    let (receiver, sender) = UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signal, sender)?;
    let mut receiver = MioStream::from_std(receiver);
    registry.register(&mut receiver, token, Interest::READABLE)?;
    Ok((signal, receiver))
}
