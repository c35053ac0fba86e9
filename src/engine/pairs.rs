//! Engines joined by pipes, for tests: every read has another size, windows are small, readers stop, connections end by
//! FIN or reset, dials fail, and all of it follows from a seed. Drives the engines as `net` does, which reads and writes
//! only when it was told that there is something to read or room to write: a wake-up that is lost strands a pipe here
//! too. Knows no dialect, and does nothing on its own: whoever has the pipes says what happens.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::engine::{ConnId, DialError, Engine, Listener, Output};
use crate::hash::seeded;
use crate::limits::TURN_BYTES;
use crate::time::Time;

/// Rounds at one moment after which something goes in circles.
const ROUNDS: usize = 200_000;
/// Timeouts in one stretch of time after which something is always due.
const TIMEOUTS: usize = 200_000;

/// What becomes of dials.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Dials {
    /// They reach who listens, and are refused where nobody does.
    Succeed,
    /// Nothing comes of them.
    Vanish,
    /// We are out of ports.
    Lack,
}

/// One end of a pipe. The ends of a pipe stand side by side: the other one's number differs in the last bit.
#[derive(Debug)]
pub struct End {
    /// The engine it belongs to; `None`: a raw peer, whose words the test chooses.
    pub who: Option<usize>,
    /// Of the engine; `None` once it has closed it.
    pub conn: Option<ConnId>,
    /// Its address.
    pub addr: SocketAddr,
    /// Everything that a raw peer has read.
    pub heard: Vec<u8>,
    /// It does not read.
    pub is_deaf: bool,
    /// All that the other end said has come and was read, and that it will say no more.
    pub has_ended: bool,
    /// What the other end has said and this one has not read.
    incoming: VecDeque<u8>,
    /// After that the other end will say no more; what it says all the same is lost.
    fin: bool,
    /// The connection broke.
    pub is_reset: bool,
    /// There may be something to read.
    is_listed: bool,
    /// The other end's window was full.
    is_blocked: bool,
}

impl End {
    fn new(who: Option<usize>, conn: Option<ConnId>, addr: SocketAddr) -> End {
        End {
            who,
            conn,
            addr,
            heard: Vec::new(),
            is_deaf: false,
            has_ended: false,
            incoming: VecDeque::new(),
            fin: false,
            is_reset: false,
            is_listed: false,
            is_blocked: false,
        }
    }

    fn is_closed(&self) -> bool {
        self.who.is_some() && self.conn.is_none()
    }
}

/// Engines, the pipes between them, and the time.
pub struct Pairs {
    pub engines: Vec<Engine>,
    pub now: Time,
    pub random: fastrand::Rng,
    /// The largest read.
    pub piece: usize,
    /// Bytes that may be under way in one direction.
    pub window: usize,
    pub dials: Dials,
    pub ends: Vec<End>,
    /// What the engines wanted done, by number.
    pub outputs: Vec<(usize, Output)>,
    /// Bytes that the engines have written.
    pub written: usize,
    /// A hash of all that happened.
    pub trace: u64,
    /// Where raw peers listen.
    raw: Vec<SocketAddr>,
    listeners: BTreeMap<SocketAddr, (usize, Listener)>,
    by_conn: BTreeMap<(usize, ConnId), usize>,
    ports: u16,
}

impl Pairs {
    /// No engines yet.
    pub fn new(seed: u64) -> Pairs {
        Pairs {
            engines: Vec::new(),
            now: Time::from_ms(1),
            random: fastrand::Rng::with_seed(seed),
            piece: 1_000,
            window: 60_000,
            dials: Dials::Succeed,
            ends: Vec::new(),
            outputs: Vec::new(),
            written: 0,
            trace: seed,
            raw: Vec::new(),
            listeners: BTreeMap::new(),
            by_conn: BTreeMap::new(),
            ports: 40_000,
        }
    }

    /// Adds an engine, one of whose listeners is at `addr`; its number.
    pub fn add(&mut self, engine: Engine, listener: Listener, addr: SocketAddr) -> usize {
        self.engines.push(engine);
        self.listeners.insert(addr, (self.engines.len() - 1, listener));
        self.engines.len() - 1
    }

    // ---- what a test does to the pipes ----

    /// Raw peers listen at `addr`: each dial to it adds an end.
    pub fn listen(&mut self, addr: SocketAddr) {
        self.raw.push(addr);
    }

    /// A raw peer connects to who listens on `addr`; its end. What it is told lies in [`End::heard`].
    pub fn connect(&mut self, addr: SocketAddr) -> usize {
        let from = self.ephemeral([127, 0, 0, 1].into());
        self.join(None, None, from, addr)
    }

    /// The end `n` says `bytes`, whatever its engine has to say, and however full the window is.
    pub fn say(&mut self, n: usize, bytes: &[u8]) {
        let other = &mut self.ends[n ^ 1];
        if !other.is_closed() && !other.fin {
            other.incoming.extend(bytes);
            other.is_listed = true;
        }
    }

    /// The end `n` says no more.
    pub fn fin(&mut self, n: usize) {
        let other = &mut self.ends[n ^ 1];
        (other.fin, other.is_listed) = (true, true);
    }

    /// Both ends of the pipe of end `n` see it break; what nobody read is lost.
    pub fn reset(&mut self, n: usize) {
        for n in [n, n ^ 1] {
            let end = &mut self.ends[n];
            (end.is_reset, end.is_listed) = (true, true);
            end.incoming.clear();
        }
    }

    /// The end `n` reads, or does not.
    pub fn set_deaf(&mut self, n: usize, is_deaf: bool) {
        (self.ends[n].is_deaf, self.ends[n].is_listed) = (is_deaf, true);
    }

    /// The end of a connection, as long as that is open.
    pub fn end_of(&self, who: usize, conn: ConnId) -> Option<usize> {
        self.by_conn.get(&(who, conn)).copied()
    }

    // ---- time ----

    /// Lets everything happen that happens at this moment.
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS {
            if !self.step() {
                return;
            }
        }
        panic!("the engines never come to rest: {:?}", &self.outputs[self.outputs.len().saturating_sub(10)..]);
    }

    /// A turn of every engine, and a read at every end; whether there was anything to do.
    pub fn step(&mut self) -> bool {
        let mut order: Vec<usize> = (0..self.engines.len()).collect();
        self.random.shuffle(&mut order);
        let mut is_busy = false;
        for who in order {
            is_busy |= self.turn(who);
        }
        for n in 0..self.ends.len() {
            if std::mem::take(&mut self.ends[n].is_listed) {
                self.read(n);
                is_busy = true;
            }
        }
        is_busy
    }

    /// Lets time pass, with every deadline on the way.
    pub fn pass(&mut self, ms: u64) {
        self.settle();
        let end = self.now.after(ms);
        for _ in 0..TIMEOUTS {
            let next = self.engines.iter().filter_map(Engine::next_deadline).min();
            let Some(at) = next.filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            for engine in &mut self.engines {
                if engine.next_deadline().is_some_and(|at| at <= self.now) {
                    engine.on_timeout(self.now);
                    assert!(engine.next_deadline().is_none_or(|next| next > self.now), "no busy loop");
                }
            }
            self.settle();
        }
        panic!("something is always due");
    }

    /// What the driver of engine `who` does once a turn; whether there was anything to do.
    fn turn(&mut self, who: usize) -> bool {
        let mut is_busy = self.engines[who].has_work();
        self.engines[who].work(self.now);
        loop {
            while let Some(output) = self.engines[who].poll_output(self.now) {
                is_busy = true;
                self.trace = seeded(self.trace, |hasher| {
                    std::hash::Hash::hash(&(self.now, who, format!("{output:?}")), hasher);
                });
                self.outputs.push((who, output.clone()));
                self.perform(who, output);
            }
            let Some(id) = self.engines[who].next_dirty() else {
                break;
            };
            is_busy = true;
            self.write_conn(who, id);
        }
        self.engines[who].sweep();
        is_busy
    }

    // ---- what an engine wants done ----

    fn perform(&mut self, who: usize, output: Output) {
        match output {
            Output::Dial { conn, from, to } => self.dial(who, conn, from, to),
            Output::Resume(conn) => {
                if let Some(n) = self.end_of(who, conn) {
                    self.ends[n].is_listed = true;
                }
            }
            Output::ShutdownWrite(conn) => {
                if let Some(n) = self.end_of(who, conn) {
                    self.fin(n);
                }
            }
            Output::Close(conn) => {
                if let Some(n) = self.by_conn.remove(&(who, conn)) {
                    self.ends[n].conn = None;
                    // A close with unread bytes resets the connection.
                    if self.ends[n].incoming.is_empty() { self.fin(n) } else { self.reset(n) }
                }
            }
        }
    }

    fn dial(&mut self, who: usize, conn: ConnId, from: Option<Listener>, to: SocketAddr) {
        let own = self.listeners.iter().find(|(_, (engine, of))| *engine == who && from.is_none_or(|from| from == *of));
        let own = *own.expect("every engine listens").0;
        let local = if from.is_some() { own } else { self.ephemeral(own.ip()) };
        let is_taken = |n: usize| self.ends[n].addr == local && self.ends[n ^ 1].addr == to;
        let is_alive = |n: usize| !self.ends[n].is_closed() || !self.ends[n ^ 1].is_closed();
        let why = match self.dials {
            Dials::Vanish => return,
            Dials::Lack => Some(DialError::Shortage),
            Dials::Succeed if local == to => Some(DialError::ToItself),
            Dials::Succeed if (0..self.ends.len()).any(|n| is_taken(n) && is_alive(n)) => Some(DialError::AddressTaken),
            Dials::Succeed if !self.listeners.contains_key(&to) && !self.raw.contains(&to) => {
                Some(DialError::Unreachable)
            }
            Dials::Succeed => None,
        };
        match why {
            Some(why) => self.engines[who].dial_failed(conn, why, self.now),
            None => {
                self.join(Some(who), Some(conn), local, to);
                self.engines[who].dialled(conn, self.now);
            }
        }
    }

    /// A pipe from `local` to who listens on `to`, which may refuse it; the end that dialled.
    fn join(&mut self, who: Option<usize>, conn: Option<ConnId>, local: SocketAddr, to: SocketAddr) -> usize {
        let n = self.ends.len();
        self.by_conn.extend(who.zip(conn).map(|key| (key, n)));
        self.ends.push(End::new(who, conn, local));
        let Some((other, listener)) = self.listeners.get(&to).copied() else {
            self.ends.push(End::new(None, None, to));
            return n;
        };
        let accepted = self.engines[other].accepted(listener, local, self.now);
        self.ends.push(End::new(Some(other), accepted, to));
        match accepted {
            Some(accepted) => drop(self.by_conn.insert((other, accepted), n + 1)),
            None => self.fin(n + 1),
        }
        n
    }

    fn ephemeral(&mut self, ip: IpAddr) -> SocketAddr {
        self.ports += 1;
        SocketAddr::new(ip, self.ports)
    }

    // ---- bytes ----

    fn write_conn(&mut self, who: usize, conn: ConnId) {
        if let Some(n) = self.end_of(who, conn) {
            self.write(n);
        }
    }

    /// Writes what the engine has to say at end `n`, until the window is full.
    fn write(&mut self, n: usize) {
        let (Some(who), Some(conn)) = (self.ends[n].who, self.ends[n].conn) else {
            return;
        };
        loop {
            let bytes = self.engines[who].to_write(conn);
            if bytes.is_empty() {
                return;
            }
            let other = &mut self.ends[n ^ 1];
            let room = self.window.saturating_sub(other.incoming.len());
            let taken = if other.is_closed() || other.fin { bytes.len() } else { bytes.len().min(room) };
            if other.is_closed() {
                // It said its FIN long ago, and who gets something for a socket that is gone resets the connection.
                (self.ends[n].is_reset, self.ends[n].is_listed) = (true, true);
            } else if !other.fin {
                other.incoming.extend(&bytes[..taken]);
                other.is_listed = true;
            }
            self.engines[who].wrote(conn, taken, self.now);
            self.written += taken;
            if taken == 0 {
                self.ends[n].is_blocked = true;
                return;
            }
        }
    }

    /// Reads at end `n` until there is nothing, or the engine wants no more, or the turn is used up.
    fn read(&mut self, n: usize) {
        let Some(who) = self.ends[n].who else {
            return self.hear(n);
        };
        let mut budget = TURN_BYTES;
        while let Some(conn) = self.ends[n].conn.filter(|_| !self.ends[n].is_deaf) {
            let end = &mut self.ends[n];
            if end.is_reset {
                return self.engines[who].broken(conn, self.now);
            }
            if budget == 0 {
                end.is_listed = true;
                return;
            }
            let Some(space) = self.engines[who].read_space(conn) else {
                return;
            };
            assert!(!space.is_empty(), "a read of nothing looks like the peer's end");
            if end.incoming.is_empty() {
                if end.fin && !std::mem::replace(&mut end.has_ended, true) {
                    return self.engines[who].eof(conn, self.now);
                }
                return self.engines[who].received(conn, 0, self.now);
            }
            let most = space.len().min(self.random.usize(1..=self.piece)).min(budget);
            let len = most.min(end.incoming.len());
            space.iter_mut().zip(end.incoming.drain(..len)).for_each(|(to, from)| *to = from);
            budget -= len;
            self.engines[who].received(conn, len, self.now);
            while let Some(id) = self.engines[who].next_dirty() {
                self.write_conn(who, id);
            }
            self.unblock(n ^ 1);
        }
        // Who has closed it reads no more.
        if self.ends[n].is_closed() {
            self.ends[n].incoming.clear();
        }
    }

    /// A raw peer reads.
    fn hear(&mut self, n: usize) {
        let end = &mut self.ends[n];
        if !end.is_deaf {
            end.heard.extend(end.incoming.drain(..));
            end.has_ended = end.fin || end.is_reset;
            self.unblock(n ^ 1);
        }
    }

    /// The window of who writes at end `n` has room again.
    fn unblock(&mut self, n: usize) {
        if std::mem::take(&mut self.ends[n].is_blocked) {
            self.write(n);
        }
    }
}
