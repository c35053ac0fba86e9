//! What a node says of itself, to its own user and root only: a private Unix socket named after the listening address,
//! which exists on this host alone. A connection gets the report and is closed; nothing is ever read from it.

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

    /// Gives the report to who waits, whole. A fresh Unix socket takes it whole without blocking.
    pub fn serve(&self, report: &str) {
        for listener in &self.listeners {
            // Until WouldBlock, as no second event tells of who waits already.
            for _ in 0..STATUS_READERS {
                let Ok((mut stream, _)) = listener.accept() else {
                    break;
                };
                if is_trusted(&stream) {
                    // Room for the report, which is more than some systems give; the write below tells if it failed.
                    let _ = SockRef::from(&stream).set_send_buffer_size(REPORT_BYTES as usize);
                    // A reader that has left already is none of our business.
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
            // A file that stays is replaced by the next node on this address.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// The report of the node that listens on `addr`, as lines of `name value`.
///
/// Errors: whatever connecting gives; `PermissionDenied` if the other end is another user's.
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

/// The report: figures and counters by name, then what each dialect says of itself.
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
