//! A node for use inside another program: a façade over the poll loop, the engine and the sealed dialect. Everything
//! happens on the caller's thread, while one of the node's methods runs; the only other threads resolve names.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::contact::scope;
use crate::dialect::Dialect;
use crate::dialect::sealed::codec::ErrorCode;
use crate::dialect::sealed::node_id;
use crate::dialect::sealed::operation::{Operation, Reply};
use crate::dialect::sealed::service::Service;
use crate::dialect::stream::Listener;
use crate::engine::{Engine, EngineSettings};
use crate::id::Id;
use crate::limits::{JOB_MS, LIFETIME_MAX_MS, STOP_MS};
use crate::net::Net;
use crate::net::clock::Clock;
use crate::net::socket::{listen, seed};

/// Why an operation of a [`Node`] failed.
#[derive(Debug)]
pub enum Error {
    /// The operating system returned an error.
    Io(io::Error),
    /// The node listens on this wildcard address, and [`Builder::advertise`] was not called.
    NeedsAdvertise(SocketAddr),
    /// No node would hold the value, or the node refused the request, with this error code and text of the dialect
    /// (docs/protocol-sealed.md, "Errors").
    Refused(u32, String),
    /// Too many operations are in progress, or no answer came in time: try again.
    Busy,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(e) => write!(f, "{e}"),
            Error::NeedsAdvertise(addr) => write!(f, "listening on {addr} needs an address to advertise"),
            Error::Refused(code, text) => write!(f, "error {code}: {text}"),
            Error::Busy => write!(f, "busy, try again"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(e) => Some(e),
            Error::NeedsAdvertise(_) | Error::Refused(..) | Error::Busy => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Error {
        Error::Io(e)
    }
}

/// The settings of a new [`Node`]; see [`Node::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    listen: SocketAddr,
    advertise: Option<IpAddr>,
    bootstraps: Vec<String>,
    settings: EngineSettings,
}

impl Builder {
    /// The address to listen on. Port 0 lets the kernel choose. Default: `127.0.0.1:0`.
    pub fn listen(mut self, addr: SocketAddr) -> Builder {
        self.listen = addr;
        self
    }

    /// The address at which other nodes reach this one. Required if the node listens on `0.0.0.0` or `::`.
    pub fn advertise(mut self, ip: IpAddr) -> Builder {
        self.advertise = Some(ip);
        self
    }

    /// Adds a node through which to join the network, as `HOST:PORT`. The node resolves names while it works, and tries
    /// again if that fails. At most 64 addresses are used. Default: none, so that the node starts alone.
    pub fn bootstrap(mut self, address: impl Into<String>) -> Builder {
        self.bootstraps.push(address.into());
        self
    }

    /// How many nodes should hold each value, from 1 to 20; other numbers are clamped. Default: 3.
    pub fn replication(mut self, holders: usize) -> Builder {
        self.settings.dialects.sealed.node.replication = holders.clamp(1, crate::limits::REPLICATION_MAX);
        self
    }

    /// Memory for values, in bytes. Default: 64 MiB.
    pub fn store_bytes(mut self, bytes: usize) -> Builder {
        self.settings.dialects.sealed.store.bytes = bytes;
        self
    }

    /// The total number of connections. Default: 16,384. The process must be allowed to open as many files.
    pub fn max_connections(mut self, connections: usize) -> Builder {
        self.settings.max_connections = connections;
        self
    }

    /// Binds the socket and creates the node. The node works only while [`Node::turn`], [`Node::run`], [`Node::put`],
    /// [`Node::get`] or [`Node::stop`] runs.
    ///
    /// Errors: [`Error::Io`] if the address can't be bound or no descriptors are left; [`Error::NeedsAdvertise`] for a
    /// wildcard address without [`Builder::advertise`].
    pub fn start(self) -> Result<Node, Error> {
        let socket = listen(self.listen)?;
        let bound = socket.addr;
        let ip = self.advertise.unwrap_or(bound.ip());
        if scope(ip).is_none() {
            return Err(Error::NeedsAdvertise(bound));
        }
        let contact = SocketAddr::new(ip, bound.port());
        let clock = Clock::start();
        let mut engine = Engine::new(self.settings, seed());
        let number = engine.service_mut::<Service>().add_node(contact, seed(), clock.now());
        let mut net = Net::new(engine, clock)?;
        net.add_listener(Listener::Sealed(number), socket)?;
        for address in &self.bootstraps {
            net.add_bootstrap(Dialect::Sealed, address);
        }
        Ok(Node { net, number, contact })
    }
}

/// A node of the sealed dialect that its owner drives.
///
/// ```rust
/// use std::time::Duration;
///
/// let mut first = dayfly::Node::builder().start()?;
/// let mut second = dayfly::Node::builder().bootstrap(first.local_addr().to_string()).start()?;
/// // Both run on one thread here, so both need turns before the second has joined the first.
/// for _ in 0..100 {
///     first.turn(Duration::from_millis(2))?;
///     second.turn(Duration::from_millis(2))?;
/// }
/// let key = dayfly::id::Id::hash_of(&[b"greeting"]);
/// first.put(key, b"hello", Duration::from_secs(5))?;
/// assert_eq!(first.get(key)?.as_deref(), Some(&b"hello"[..]));
/// assert_eq!(first.get(dayfly::id::Id::hash_of(&[b"nobody put this"]))?, None);
/// first.stop()?;
/// # Ok::<(), dayfly::embed::Error>(())
/// ```
pub struct Node {
    net: Net,
    number: u16,
    contact: SocketAddr,
}

impl Node {
    /// The settings of a node on loopback, on a port that the kernel chooses, which joins nobody. The methods of the
    /// builder change them.
    pub fn builder() -> Builder {
        let listen = ([127, 0, 0, 1], 0).into();
        Builder { listen, advertise: None, bootstraps: Vec::new(), settings: EngineSettings::default() }
    }

    /// The address at which other nodes reach this one.
    pub fn local_addr(&self) -> SocketAddr {
        self.contact
    }

    /// The node's id: the SHA-256 of its address (docs/protocol-sealed.md, "Who is who").
    pub fn id(&self) -> Id {
        node_id(self.contact)
    }

    /// The number of contacts in its routing table.
    pub fn contacts(&self) -> usize {
        self.net.engine().service::<Service>().nodes().iter().map(|node| node.overlay().table().len()).sum()
    }

    /// Stores `value`, at most 65,463 bytes, on the nodes nearest to `key`. The `lifetime` is rounded up to whole
    /// seconds and clamped to 1 to 10 seconds. Returns the number of nodes that hold the value: fewer than
    /// [`Builder::replication`] if there are not as many, or if others would not. A node that is alone holds it itself.
    /// The node serves its peers meanwhile.
    ///
    /// Errors: [`Error::Refused`] if the value is too large or no node would hold it; [`Error::Busy`]; [`Error::Io`] if
    /// polling failed.
    pub fn put(&mut self, key: Id, value: &[u8], lifetime: Duration) -> Result<usize, Error> {
        let longest = (LIFETIME_MAX_MS / 1_000) as f64;
        let ttl_s = lifetime.as_secs_f64().ceil().clamp(1.0, longest) as u16;
        match self.finish(Operation::Put { key, value: Arc::from(value), ttl_s, replication: 0 })? {
            Reply::Stored { copies, .. } => Ok(copies),
            Reply::Error(code, text) => Err(refusal(code, text)),
            Reply::Pong | Reply::Nodes(_) | Reply::Success(_) | Reply::Missing | Reply::Unreachable => Err(Error::Busy),
        }
    }

    /// Finds the value of `key`, here or on the nodes nearest to it; `None` if nobody has it. Takes at most four
    /// seconds. The node serves its peers meanwhile.
    ///
    /// Errors: [`Error::Refused`]; [`Error::Busy`]; [`Error::Io`] if polling failed.
    pub fn get(&mut self, key: Id) -> Result<Option<Vec<u8>>, Error> {
        match self.finish(Operation::Get { key })? {
            Reply::Success(value) => Ok(Some(value.to_vec())),
            Reply::Missing => Ok(None),
            Reply::Error(code, text) => Err(refusal(code, text)),
            Reply::Pong | Reply::Nodes(_) | Reply::Stored { .. } | Reply::Unreachable => Err(Error::Busy),
        }
    }

    fn finish(&mut self, operation: Operation) -> Result<Reply, Error> {
        // A job always ends earlier.
        let timeout_ms = 2 * JOB_MS;
        let reply = self.net.operation::<Service, _>(Some(self.number), operation, timeout_ms, Some)?;
        reply.ok_or(Error::Busy)
    }

    /// Runs one turn of the poll loop: waits until something happens, at most for `at_most`, and handles it.
    ///
    /// Errors: [`Error::Io`] if polling failed.
    pub fn turn(&mut self, at_most: Duration) -> Result<(), Error> {
        let until = self.net.now().after(at_most.as_millis().try_into().unwrap_or(u64::MAX));
        Ok(self.net.turn(Some(until))?)
    }

    /// Serves until SIGTERM or SIGINT, then stops like [`Node::stop`]. Handles these signals for the whole process.
    ///
    /// Errors: [`Error::Io`] if signals can't be handled or polling failed.
    pub fn run(mut self) -> Result<(), Error> {
        self.net.handle_signals()?;
        self.net.run()?;
        Ok(())
    }

    /// Stops the node: it accepts no more connections, answers the requests that it has received, and closes its
    /// connections, within two seconds.
    ///
    /// Errors: [`Error::Io`] if polling failed.
    pub fn stop(mut self) -> Result<(), Error> {
        self.net.stop();
        let until = self.net.now().after(STOP_MS);
        while self.net.now() < until && !self.net.engine().is_quiet() {
            self.net.turn(Some(until))?;
        }
        Ok(())
    }
}

/// What an ERROR of the dialect means to the caller.
fn refusal(code: u32, text: String) -> Error {
    if code == ErrorCode::Busy.code() { Error::Busy } else { Error::Refused(code, text) }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("addr", &self.contact).field("contacts", &self.contacts()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Id {
        Id::hash_of(&[&[n]])
    }

    #[test]
    fn a_node_that_is_alone_holds_what_it_is_given_until_its_time() {
        let mut node = Node::builder().start().unwrap();
        assert_eq!((node.get(key(1)).unwrap(), node.contacts()), (None, 0));
        assert_eq!(node.put(key(1), b"one", Duration::from_secs(9)).unwrap(), 1);
        assert_eq!(node.get(key(1)).unwrap().as_deref(), Some(&b"one"[..]));
        node.stop().unwrap();
    }

    #[test]
    fn what_is_impossible_is_an_error() {
        let wildcard = Node::builder().listen(([0, 0, 0, 0], 0).into()).start();
        assert!(matches!(wildcard, Err(Error::NeedsAdvertise(_))));
        let node = Node::builder().start().unwrap();
        let taken = Node::builder().listen(node.local_addr()).start();
        assert!(matches!(taken, Err(Error::Io(e)) if e.kind() == io::ErrorKind::AddrInUse));
        let mut small = Node::builder().store_bytes(1 << 20).start().unwrap();
        let large = vec![0; crate::limits::VALUE_MAX + 1];
        assert!(matches!(small.put(key(2), &large, Duration::from_secs(1)), Err(Error::Refused(4, _))));
    }

    /// Regression: this was reported as a refusal, with the dialect's code for busy.
    #[test]
    fn a_node_that_has_too_much_in_flight_says_that_it_is_busy() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut node = Node::builder().bootstrap(silent.local_addr().unwrap().to_string()).start().unwrap();
        for n in 0..crate::limits::ASKED {
            let get = Operation::Get { key: Id::hash_of(&[&n.to_be_bytes()]) };
            let call = node.net.start::<Service>(Some(node.number), get).unwrap();
            node.net.cancel::<Service>(call);
        }
        assert!(matches!(node.get(key(1)), Err(Error::Busy)));
    }

    #[test]
    fn a_value_put_at_one_is_found_at_the_other_while_both_serve() {
        let mut first = Node::builder().replication(2).start().unwrap();
        let mut second = Node::builder().bootstrap(first.local_addr().to_string()).start().unwrap();
        while first.contacts() + second.contacts() < 2 {
            first.turn(Duration::from_millis(1)).unwrap();
            second.turn(Duration::from_millis(1)).unwrap();
        }
        let reader = std::thread::spawn(move || {
            let until = std::time::Instant::now() + Duration::from_secs(20);
            loop {
                match second.get(key(3)).unwrap() {
                    Some(value) => return value,
                    None => assert!(std::time::Instant::now() < until, "found in time"),
                }
            }
        });
        first.put(key(3), b"three", Duration::from_secs(9)).unwrap();
        while !reader.is_finished() {
            first.turn(Duration::from_millis(5)).unwrap();
        }
        assert_eq!(reader.join().unwrap(), b"three");
    }
}
