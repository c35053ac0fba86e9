//! The status socket: a node reports about itself to its own user and root, through a private Unix socket that is named
//! after the listening address and exists only on this host. Each connection gets the report and is closed; nothing is
//! ever read from it.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use mio::net::UnixListener;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use crate::engine::Engine;
use crate::limits::{REPORT_BYTES, STATUS_READERS};
use crate::net::private::{is_trusted, name_of, remove_stale};
use crate::time::Time;

/// The status sockets of the process, one per node.
#[derive(Default)]
pub(super) struct StatusListener {
    listeners: Vec<UnixListener>,
}

impl StatusListener {
    pub fn open(&mut self, addr: SocketAddr, registry: &Registry, token: Token) -> io::Result<()> {
        let name = name_of(addr)?;
        remove_stale(&name);
        let mut listener = UnixListener::bind_addr(&name)?;
        registry.register(&mut listener, token, Interest::READABLE)?;
        self.listeners.push(listener);
        Ok(())
    }

    /// Sends the whole report to every reader that waits. A new Unix socket takes it without blocking.
    pub fn serve(&self, report: &str) {
        for listener in &self.listeners {
            // Until WouldBlock, because no second event comes for readers that already wait.
            for _ in 0..STATUS_READERS {
                let Ok((mut stream, _)) = listener.accept() else {
                    break;
                };
                if is_trusted(&stream) {
                    // Makes room for the report, which is more than some systems provide. If that failed, so does the
                    // write below.
                    let _ = SockRef::from(&stream).set_send_buffer_size(REPORT_BYTES as usize);
                    // The reader may have left already; that is no concern of ours.
                    let _ = stream.write_all(report.as_bytes());
                }
            }
        }
    }
}

impl Drop for StatusListener {
    fn drop(&mut self) {
        let names = self.listeners.iter().filter_map(|listener| listener.local_addr().ok());
        for file in names.filter_map(|name| name.as_pathname().map(Path::to_path_buf)) {
            // If the file stays, the next node on this address replaces it.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Reads the report of the node that listens on `addr`: lines of `name value`.
///
/// Errors: the connection failed or timed out; `PermissionDenied` if the other end belongs to another user.
pub fn read(addr: SocketAddr, timeout: Duration) -> io::Result<String> {
    let any: SocketAddr = if addr.is_ipv4() { ([0; 4], addr.port()).into() } else { ([0u16; 8], addr.port()).into() };
    let connect = |addr| UnixStream::connect_addr(&name_of(addr)?);
    let stream = connect(addr).or_else(|_| connect(any))?;
    if !is_trusted(&stream) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.set_read_timeout(Some(timeout))?;
    let mut report = String::new();
    stream.take(REPORT_BYTES).read_to_string(&mut report)?;
    Ok(report)
}

/// The status report: figures and counters by name, then the part of each dialect.
pub(super) fn report(engine: &Engine, now: Time) -> String {
    let mut lines = vec![
        format!("version {}", env!("CARGO_PKG_VERSION")),
        format!("pid {}", std::process::id()),
        format!("uptime_ms {}", now.as_ms()),
    ];
    engine.report(&mut lines);
    lines.push(String::new());
    lines.join("\n")
}
