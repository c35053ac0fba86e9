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
use crate::engine::guard::Counter;
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

/// The report: figures by name, then every counter.
pub(super) fn report(engine: &Engine, now: Time) -> String {
    let mut lines = vec![
        format!("version {}", env!("CARGO_PKG_VERSION")),
        format!("pid {}", std::process::id()),
        format!("uptime_ms {}", now.as_ms()),
    ];
    let mut add = |name: &str, value: u64| lines.push(format!("{name} {value}"));
    let nodes = engine.nodes();
    let overlays = || nodes.iter().map(|node| node.overlay());
    add("contacts", overlays().map(|o| o.table().len() as u64).sum());
    add("lookups", overlays().map(|o| o.lookups_in_flight() as u64).sum());
    add("jobs", nodes.iter().map(|node| node.jobs() as u64).sum());
    add("connections", engine.connections() as u64);
    add("node_connections", engine.links() as u64);
    add("buffered_bytes", engine.buffered_bytes() as u64);
    add("store_entries", engine.store().len() as u64);
    add("store_bytes", engine.store().bytes() as u64);
    for counter in Counter::ALL {
        add(counter.name(), engine.guard().get(*counter));
    }
    let tally = |of: fn(&crate::kad::overlay::Tallies) -> u64| overlays().map(|o| of(&o.tallies())).sum();
    add("martian_contacts", tally(|t| t.martians));
    add("id_mismatches", nodes.iter().map(|node| node.id_mismatches()).sum());
    add("too_many_of_network", tally(|t| t.too_many_of_network));
    add("lookups_ran_out", tally(|t| t.lookups_ran_out));
    add("bootstraps_failed", tally(|t| t.bootstraps_failed));
    add("probes_failed", tally(|t| t.probes_failed));
    add("contacts_lost", tally(|t| t.contacts_lost));
    for (number, overlay) in overlays().enumerate() {
        let own = overlay.own();
        lines.push(format!("node.{number}.address {}", own.addr));
        lines.push(format!("node.{number}.id {}", own.id));
        lines.push(format!("node.{number}.contacts {}", overlay.table().len()));
    }
    #[cfg(feature = "hyperdht")]
    add_hyperdht(engine, &mut lines);
    lines.push(String::new());
    lines.join("\n")
}

/// What the nodes behind datagram listeners have; nothing where there are none.
#[cfg(feature = "hyperdht")]
fn add_hyperdht(engine: &Engine, lines: &mut Vec<String>) {
    for (number, node) in engine.hyperdht_nodes().enumerate() {
        let overlay = node.overlay();
        let (own, tallies) = (overlay.own(), overlay.tallies());
        let texts = [("address", own.addr.to_string()), ("id", own.id.to_string())];
        lines.extend(texts.map(|(name, value)| format!("hyperdht.{number}.{name} {value}")));
        let numbers = [
            ("contacts", overlay.table().len() as u64),
            ("records", node.records().len() as u64),
            ("jobs", node.jobs() as u64),
            ("lookups", overlay.lookups_in_flight() as u64),
            ("requests_in_flight", node.requests_in_flight() as u64),
            ("martian_contacts", tallies.martians),
            ("too_many_of_network", tallies.too_many_of_network),
            ("lookups_ran_out", tallies.lookups_ran_out),
            ("bootstraps_failed", tallies.bootstraps_failed),
            ("probes_failed", tallies.probes_failed),
            ("contacts_lost", tallies.contacts_lost),
        ];
        lines.extend(numbers.map(|(name, value)| format!("hyperdht.{number}.{name} {value}")));
    }
}
