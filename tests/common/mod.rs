//! What the tests from outside share: real node processes, and a raw peer that speaks frames over a blocking socket.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod netns;
pub mod process;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Sealed};
use dayfly::id::Id;

/// How long anything that should happen soon may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

static ALONE: Mutex<()> = Mutex::new(());

/// Held by a test that measures or loads the machine, so that no other such test of its file runs beside it.
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A `dayfly` command that is not a node, run to its end.
pub fn dayfly(args: &[&str]) -> Output {
    dayfly_with_stdin(args, b"")
}

pub fn dayfly_with_stdin(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dayfly"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads no stdin closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

/// A node process; killed when dropped.
pub struct Node {
    child: Child,
    /// The first sealed listener.
    pub addr: SocketAddr,
    /// The first API listener, if any.
    pub api: Option<SocketAddr>,
    /// From starting the process to its last ready line.
    pub started_in: Duration,
}

impl Node {
    /// Starts a node on a free loopback port, with these arguments besides.
    pub fn start(args: &[&str]) -> Node {
        let mut all = vec!["--listen", "127.0.0.1:0"];
        all.extend(args);
        Node::start_with(Command::new(env!("CARGO_BIN_EXE_dayfly")).args(all))
    }

    /// Starts a node that has an API listener too.
    pub fn start_with_api(args: &[&str]) -> Node {
        let mut all = vec!["--api", "127.0.0.1:0"];
        all.extend(args);
        Node::start(&all)
    }

    /// Starts the node that `command` describes and waits until it listens.
    pub fn start_with(command: &mut Command) -> Node {
        let wants_api = command.get_args().any(|arg| arg == "--api");
        let begin = Instant::now();
        let mut child = command
            .env("RUST_LOG", std::env::var("DAYFLY_TEST_LOG").unwrap_or("off".into()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut listener = |dialect: &str| -> SocketAddr {
            let line = lines.next().expect("a node says where it listens").unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(words[..3], ["listening", dialect, "tcp"], "{line}");
            words[3].parse().unwrap()
        };
        let addr = listener("sealed");
        let api = wants_api.then(|| listener("api"));
        Node { child, addr, api, started_in: begin.elapsed() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends the process a signal by name: TERM, STOP, CONT, KILL, INT.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until the process has ended; its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the node does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What the node says of itself.
    pub fn status(&self) -> BTreeMap<String, String> {
        let output = dayfly(&["status", "--node", &self.addr.to_string()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report = String::from_utf8(output.stdout).unwrap();
        let pairs = report.lines().filter_map(|line| line.split_once(' '));
        pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    /// One number of the status.
    pub fn counter(&self, name: &str) -> u64 {
        self.status().get(name).unwrap_or_else(|| panic!("no counter {name}")).parse().unwrap()
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        process::resident_kib(&self.pid().to_string())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `n` nodes, each joining through the first, and waits until each knows `known` others.
pub fn network(n: usize, known: usize) -> Vec<Node> {
    let mut nodes = vec![Node::start_with_api(&[])];
    let first = nodes[0].addr.to_string();
    nodes.extend((1..n).map(|_| Node::start_with_api(&["--bootstrap", &first])));
    for node in &nodes {
        eventually("a node knows the others", || node.counter("contacts") >= known as u64);
    }
    nodes
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One side of a sealed connection.
pub struct Peer {
    pub stream: TcpStream,
}

impl Peer {
    pub fn connect(addr: SocketAddr) -> Peer {
        Peer::on(TcpStream::connect(addr).unwrap())
    }

    pub fn on(stream: TcpStream) -> Peer {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Peer { stream }
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn send(&mut self, message: &Message<'_>) {
        self.send_bytes(&frame(message));
    }

    /// The next whole frame, checksum and all.
    pub fn receive(&mut self) -> Vec<u8> {
        self.try_receive().expect("a frame, not the end")
    }

    /// The next whole frame, or `None` at the end of the stream (a reset counts as one).
    pub fn try_receive(&mut self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 2];
        if !self.fill(&mut frame[..]) {
            return None;
        }
        let size = usize::from(u16::from_be_bytes([frame[0], frame[1]]));
        frame.resize(size, 0);
        assert!(self.fill(&mut frame[2..]), "a frame is whole");
        Some(frame)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> bool {
        match self.stream.read_exact(buffer) {
            Ok(()) => true,
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => false,
            Err(e) => panic!("no answer: {e}"),
        }
    }

    /// Sends a request and expects this answer.
    pub fn expect(&mut self, request: &Message<'_>, answer: &Message<'_>) {
        self.send(request);
        assert_eq!(Sealed::decode(&self.receive()), Ok(*answer));
    }

    /// Pings; how long that took.
    pub fn ping(&mut self, nonce: u32) -> Duration {
        let begin = Instant::now();
        self.expect(&Message::Ping { nonce }, &Message::Pong { nonce });
        begin.elapsed()
    }

    /// The code of the ERROR that comes next.
    pub fn receive_error(&mut self) -> u32 {
        match Sealed::decode(&self.receive()) {
            Ok(Message::Error { code, .. }) => code,
            other => panic!("expected ERROR, got {other:?}"),
        }
    }

    /// Waits for the end of the stream, before which nothing more may come; how long that took.
    pub fn expect_end(&mut self) -> Duration {
        let begin = Instant::now();
        assert_eq!(self.try_receive(), None, "nothing more comes");
        begin.elapsed()
    }

    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

pub fn frame(message: &Message<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    Sealed::encode(message, &mut frame);
    frame
}

pub fn key(seed: u64) -> Id {
    Id::hash_of(&[b"test key", &seed.to_be_bytes()])
}
