//! A row of docs/faults.md: a node under a fault, and an honest client beside it that has to be served all the while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::common::{Node, Peer};

/// An honest client waits 100 ms at most; machines are noisy, so five times that.
pub const PROMPT: Duration = Duration::from_millis(500);
/// The deadline of a frame, and of the first one.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How much later than due something may come on a noisy machine.
pub const LATE: Duration = Duration::from_secs(3);

pub const CHECKSUM: u32 = 1;
pub const MALFORMED: u32 = 2;
pub const UNKNOWN_TYPE: u32 = 3;
pub const TOO_LARGE: u32 = 4;
pub const BUSY: u32 = 5;
pub const FULL: u32 = 6;
pub const UNREACHABLE: u32 = 8;

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// An honest client that pings all the time, on one connection that it keeps and, unless told otherwise, on new ones.
pub struct Honest {
    pub stop: Arc<AtomicBool>,
    pub pings: Option<JoinHandle<Duration>>,
}

impl Honest {
    pub fn start(addr: SocketAddr, fresh_too: bool) -> Honest {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut kept = Peer::connect(addr);
        kept.ping(0);
        let pings = thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            for nonce in 1.. {
                slowest = slowest.max(kept.ping(nonce));
                if fresh_too {
                    slowest = slowest.max(fresh_ping(addr));
                }
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                sleep(ms(20));
            }
            slowest
        });
        Honest { stop, pings: Some(pings) }
    }

    /// Ends the pinging; fails when one was not answered, or late.
    pub fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let slowest = self.pings.take().unwrap().join().expect("the honest client is always answered");
        println!("{}: the honest client waited at most {slowest:?}", thread::current().name().unwrap_or("a slow row"));
        assert!(slowest < PROMPT, "the honest client waited {slowest:?}");
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(pings) = self.pings.take() {
            let _ = pings.join();
        }
    }
}

/// How long a new client waits for its first answer, connecting included.
pub fn fresh_ping(addr: SocketAddr) -> Duration {
    let begin = Instant::now();
    Peer::connect(addr).ping(1);
    begin.elapsed()
}

/// A node under a fault, with an honest client beside.
pub struct Row {
    pub honest: Honest,
    pub node: Node,
}

impl Row {
    pub fn start(args: &[&str]) -> Row {
        Row::on(Node::start(args), true)
    }

    /// A node that joins through `fake`.
    pub fn joining(fake: SocketAddr) -> Row {
        Row::start(&["--bootstrap", &fake.to_string()])
    }

    pub fn on(node: Node, fresh_too: bool) -> Row {
        Row { honest: Honest::start(node.addr, fresh_too), node }
    }

    /// Everyone else was served, these counters went up (a new node's are 0), the node still runs and still serves.
    pub fn end(mut self, counters: &[&str]) {
        self.honest.finish();
        for name in counters {
            assert!(self.node.counter(name) > 0, "{name} went up");
        }
        assert!(fresh_ping(self.node.addr) < PROMPT);
        assert!(self.node.is_running());
    }
}
