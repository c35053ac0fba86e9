//! What a node says of itself, to its own user and root only: an abstract Unix socket named after the listening
//! address. It exists in this host's network namespace alone, leaves nothing on disk, and both ends check whose process
//! the other is. A connection gets the report and is closed; nothing is ever read from it.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::time::Duration;

use mio::net::UnixListener;
use mio::{Interest, Registry, Token};

use crate::engine::Engine;
use crate::limits::{REPORT_BYTES, STATUS_READERS};
use crate::time::Time;

/// The status sockets of the process, one per node.
#[derive(Default)]
pub(super) struct StatusListener {
    listeners: Vec<UnixListener>,
}

impl StatusListener {
    pub fn open(&mut self, addr: SocketAddr, registry: &Registry, token: Token) -> io::Result<()> {
        let mut listener = UnixListener::bind_addr(&name_of(addr)?)?;
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
                    // A reader that has left already is none of our business.
                    let _ = stream.write_all(report.as_bytes());
                }
            }
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

fn name_of(addr: SocketAddr) -> io::Result<UnixAddr> {
    UnixAddr::from_abstract_name(format!("dayfly/status/{addr}"))
}

/// Whether the process at the other end is this user's or root's.
fn is_trusted(stream: &impl AsFd) -> bool {
    let own = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == own || peer.uid.is_root())
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
