//! Nodes that the test plays, which answer as badly as they are told to.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use dayfly::contact::Contact;
use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Nodes, Sealed};
use dayfly::dialect::sealed::node_id;
use socket2::{Domain, SockRef, Socket, Type};

use crate::common::{Node, Peer, dayfly, eventually, frame};
use crate::row::*;

/// A frame that a fake node read, or the end of a connection to it.
#[derive(Clone, Debug)]
pub struct Heard {
    pub at: Instant,
    /// The connection's number.
    pub connection: u32,
    /// `None`: the connection ended.
    pub frame: Option<Vec<u8>>,
}

impl Heard {
    pub fn is_find_node(&self) -> bool {
        self.is(|message| matches!(message, Message::FindNode { .. }))
    }

    pub fn is_error(&self) -> bool {
        self.is(|message| matches!(message, Message::Error { .. }))
    }

    pub fn is(&self, matches: impl Fn(Message<'_>) -> bool) -> bool {
        self.frame.as_ref().is_some_and(|bytes| Sealed::decode(bytes).is_ok_and(matches))
    }
}

/// What a fake node has to go on: which of its listeners was asked, by whom, and what.
pub struct Question<'a> {
    pub listener: usize,
    pub from: SocketAddr,
    pub message: Message<'a>,
}

pub type Answer = dyn Fn(&Question<'_>) -> Vec<u8> + Send + Sync;

/// Nodes that the test plays, one for each listener. They answer as badly as they are told to.
pub struct Fake {
    pub heard: Arc<Mutex<Vec<Heard>>>,
    pub stop: Arc<AtomicBool>,
    pub accepting: Option<JoinHandle<()>>,
}

impl Fake {
    pub fn serve(
        listeners: Vec<TcpListener>,
        answer: impl Fn(&Question<'_>) -> Vec<u8> + Send + Sync + 'static,
    ) -> Fake {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopped) = (heard.clone(), stop.clone());
        let answer: Arc<Answer> = Arc::new(answer);
        let accepting = thread::spawn(move || {
            let mut connections = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                for (at, listener) in listeners.iter().enumerate() {
                    let Ok((stream, from)) = listener.accept() else { continue };
                    let number = connections.len() as u32;
                    let (log, stopped, answer) = (log.clone(), stopped.clone(), answer.clone());
                    let serve = move || serve_connection(stream, at, number, from, &log, &stopped, &*answer);
                    connections.push(thread::spawn(serve));
                }
                sleep(ms(2));
            }
            for connection in connections {
                let _ = connection.join();
            }
        });
        Fake { heard, stop, accepting: Some(accepting) }
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    pub fn count(&self, matches: impl Fn(&Heard) -> bool) -> usize {
        self.heard().iter().filter(|heard| matches(heard)).count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.accepting.take().unwrap().join();
    }
}

pub fn serve_connection(
    mut stream: TcpStream,
    listener: usize,
    connection: u32,
    from: SocketAddr,
    log: &Mutex<Vec<Heard>>,
    stopped: &AtomicBool,
    answer: &Answer,
) {
    let hear = |frame| log.lock().unwrap().push(Heard { at: Instant::now(), connection, frame });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(ms(50))).unwrap();
    let (mut inbox, mut chunk) = (Vec::new(), vec![0; 65_536]);
    while !stopped.load(Ordering::Relaxed) {
        match stream.read(&mut chunk) {
            Ok(n) if n > 0 => inbox.extend(&chunk[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            _ => return hear(None),
        }
        while inbox.len() >= 2 && inbox.len() >= usize::from(u16::from_be_bytes([inbox[0], inbox[1]])) {
            let size = usize::from(u16::from_be_bytes([inbox[0], inbox[1]]));
            let frame: Vec<u8> = inbox.drain(..size).collect();
            hear(Some(frame.clone()));
            let Ok(message) = Sealed::decode(&frame) else { continue };
            let bytes = answer(&Question { listener, from, message });
            if stream.write_all(&bytes).is_err() {
                return hear(None);
            }
        }
    }
}

/// A listener whose address a dialling socket can share, as a node's is.
pub fn listener() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.listen(1024).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

pub fn listeners(n: usize) -> (Vec<TcpListener>, Vec<SocketAddr>) {
    let listeners: Vec<TcpListener> = (0..n).map(|_| listener()).collect();
    let addrs = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    (listeners, addrs)
}

/// Connects from this address, as a node does from its listening one.
pub fn dial_from(from: SocketAddr, to: SocketAddr) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    Peer::on(socket.into())
}

/// What a good node answers that knows these.
pub fn polite(message: &Message<'_>, contacts: &[Contact]) -> Vec<u8> {
    match *message {
        Message::Ping { nonce } => frame(&Message::Pong { nonce }),
        Message::FindNode { .. } | Message::FindValue { .. } => frame(&Message::Node(Nodes::Contacts(contacts))),
        Message::Put { key, .. } => frame(&Message::Success { key, value: b"" }),
        Message::Get { key } => frame(&Message::Failure { key }),
        _ => Vec::new(),
    }
}

/// Nobody may have connected here.
pub fn assert_untouched(trap: &TcpListener, what: &str) {
    let came = trap.accept();
    let nobody = came.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
    assert!(nobody, "{what} is never dialled, but somebody came: {came:?}");
}

/// What `dayfly find-node` says that the node knows.
pub fn known(node: &Node) -> BTreeSet<(String, SocketAddr)> {
    let output = dayfly(&["find-node", "--node", &node.addr.to_string(), "anything"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let parse = |line: &str| {
        let (id, addr) = line.split_once(' ').unwrap();
        (id.to_string(), addr.parse().unwrap())
    };
    String::from_utf8(output.stdout).unwrap().lines().map(parse).collect()
}

/// The honest entries of these addresses.
pub fn honest_set(addrs: &[SocketAddr]) -> BTreeSet<(String, SocketAddr)> {
    addrs.iter().map(|addr| (node_id(*addr).to_string(), *addr)).collect()
}

/// Waits until the node has nothing under way.
pub fn until_idle(node: &Node) {
    eventually("the node is idle", || {
        let status = node.status();
        status["lookups"] == "0" && status["jobs"] == "0"
    });
}

/// Processor time that the process has used.
pub fn cpu(node: &Node) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // A tick is 10 ms on every Linux that counts.
    ms(10 * ticks)
}

/// The node uses at most a quarter of a processor for the next two seconds, honest pings included.
pub fn assert_does_not_spin(node: &Node) {
    let before = cpu(node);
    sleep(ms(2000));
    let used = cpu(node) - before;
    assert!(used < ms(500), "used {used:?} of 2 s");
}

/// A connection whose other end is gone. One with bytes to read is not.
pub fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.peek(&mut [0]) {
        Ok(n) => n == 0,
        Err(e) => e.kind() != ErrorKind::WouldBlock,
    }
}

pub fn reset(peer: Peer) {
    SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
}
