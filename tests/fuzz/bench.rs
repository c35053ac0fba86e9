//! An engine without sockets, and everything around it that the operating system and the peers would be. After every
//! step it is brought to rest, and what it did is held against what it may do.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use dayfly::contact::{admissible, source};
use dayfly::dialect::Dialect;
use dayfly::dialect::sealed::codec::Message;
use dayfly::dialect::sealed::is_genuine;
use dayfly::dialect::sealed::operation::{Operation, Reply};
use dayfly::dialect::sealed::request::Request;
use dayfly::dialect::sealed::service::Service;
use dayfly::dialect::sealed::session::Wire;
use dayfly::engine::{CallId, ConnId, DialError, Engine, EngineSettings, Listener, Output};
use dayfly::guard::Counter;
use dayfly::limits::{
    BUFFER_LARGE, BUFFER_SMALL, CONNECTIONS_PER_ADDRESS, CONNECTIONS_PER_ADDRESS_LEAST, CONNECTIONS_SHARE, IDLE_MS,
    JOB_MS, JOBS, LINGER_MS, NODE_CONNECTIONS, OUTBOX_HARD_BYTES,
};
use dayfly::time::Time;

use super::codecs::encode;
use super::frames::{Maker, honest, stamp_of};
use super::talk::Talk;

/// Most things an engine may want done, or turns it may take, before it comes to rest.
const RESTLESS: usize = 20_000;
/// Most deadlines at one and the same time.
const DEADLINES_AT_ONCE: usize = 50;
/// By how much each request of a pipelined burst may put off the last answer: a request that waited for an earlier one
/// of its key until its time was up takes one more tick of the wheel to be given up. Would be 0 if it took none.
const CHAIN_MS: u64 = 17;
/// Lookups that a node may have in flight for itself: to bootstrap and to refresh its buckets.
const LOOKUPS: usize = 8;
/// What the honest client says.
const HONEST_NONCE: u32 = 0x600d_c11e;

/// Where a connection is, as the operating system sees it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The engine wants it dialled, from the listening port or not.
    Dialling { listening: bool },
    /// It was dialled, and its address was taken.
    Yielding,
    /// Connected.
    Connected,
}

/// The other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// The engine's name for it.
    pub id: ConnId,
    /// Its address.
    pub addr: SocketAddr,
    /// It was the one who connected.
    is_accepted: bool,
    /// How far it got.
    pub stage: Stage,
    /// What was said.
    pub talk: Talk,
    /// Bytes that the engine has not read yet.
    sent: Vec<u8>,
    /// How many bytes arrive at once.
    piece: usize,
    /// Bytes in the engine's outbox that `talk` knows.
    heard: usize,
    /// The peer will send nothing behind `sent`.
    fin: bool,
    /// The engine knows.
    eof: bool,
    /// The engine has said that it will say no more.
    is_shut: bool,
}

impl Peer {
    /// Whether it may still send.
    pub fn may_send(&self) -> bool {
        self.stage == Stage::Connected && !self.fin
    }

    /// Whether the engine has said that it will say no more.
    pub fn is_over(&self) -> bool {
        self.is_shut
    }
}

/// The number of the node that a listener leads to.
fn number_of(listener: Listener) -> usize {
    match listener {
        Listener::Sealed(node) | Listener::Api(node) => node.into(),
        #[allow(unreachable_patterns, reason = "not every build speaks more dialects")]
        other => unreachable!("no listener of this test: {other:?}"),
    }
}

/// The engine and its world.
pub struct Bench {
    pub engine: Engine,
    pub now: Time,
    pub maker: Maker,
    /// Every connection but the honest client's.
    pub peers: Vec<Peer>,
    settings: EngineSettings,
    own: Vec<SocketAddr>,
    /// Addresses that the engine was told to dial.
    told: Vec<SocketAddr>,
    honest: Option<ConnId>,
    /// When it last said something.
    honest_at: Time,
    /// What the honest client says, and what it wants to hear.
    honest_words: [Vec<u8>; 2],
    calls: BTreeMap<CallId, Request>,
    resumed: Vec<ConnId>,
    /// When each stamped value was first seen in the store.
    stored: BTreeMap<u32, Time>,
    is_stopping: bool,
    /// Frames sent so far.
    chained: u64,
    /// What this has cost so far: frames, outputs and turns. Inputs that cost more than they can show are cut short.
    pub effort: usize,
    /// A connection was closed whose slot is not free yet.
    has_closed: bool,
}

impl Bench {
    /// An engine with a node on each of `own`, and its honest client.
    pub fn new(own: &[SocketAddr], settings: EngineSettings) -> Bench {
        let mut engine = Engine::new(settings, 7);
        for (addr, seed) in own.iter().zip(1..) {
            engine.service_mut::<Service>().add_node(*addr, seed, Time::ZERO);
        }
        let (ping, pong) = (Message::Ping { nonce: HONEST_NONCE }, Message::Pong { nonce: HONEST_NONCE });
        let mut bench = Bench {
            honest_words: [ping, pong].map(|message| encode(Wire::Sealed, &message)),
            engine,
            now: Time::ZERO,
            maker: Maker::new(own[0].ip()),
            peers: Vec::new(),
            settings,
            own: own.to_vec(),
            told: Vec::new(),
            honest: None,
            honest_at: Time::ZERO,
            calls: BTreeMap::new(),
            resumed: Vec::new(),
            stored: BTreeMap::new(),
            is_stopping: false,
            chained: 0,
            effort: 0,
            has_closed: false,
        };
        bench.honest = bench.engine.accepted(Listener::Sealed(0), honest(own[0].ip()), bench.now);
        bench.settle();
        bench.check();
        bench
    }

    /// The address of a node.
    pub fn own(&self, node: usize) -> SocketAddr {
        self.own[node]
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.own.len()
    }

    // ---- what happens ----

    /// Somebody connects.
    pub fn accept(&mut self, listener: Listener, addr: SocketAddr) -> Option<ConnId> {
        let refused = self.engine.guard().get(Counter::TooManyFromAddress);
        let id = self.engine.accepted(listener, addr, self.now);
        let share = self.settings.max_connections / CONNECTIONS_SHARE;
        let share = share.clamp(CONNECTIONS_PER_ADDRESS_LEAST, CONNECTIONS_PER_ADDRESS);
        let is_of_source = |peer: &&Peer| peer.is_accepted && source(peer.addr.ip()) == source(addr.ip());
        let of_source = |bench: &Bench| bench.peers.iter().filter(is_of_source).count();
        let is_refused = self.engine.guard().get(Counter::TooManyFromAddress) > refused;
        assert!(!is_refused || of_source(self) >= share, "refused at {} connections of {share}", of_source(self));
        if let Some(id) = id {
            let wire = if matches!(listener, Listener::Api(_)) { Wire::Api } else { Wire::Sealed };
            self.add_peer(id, addr, Stage::Connected, wire, Some(number_of(listener)));
        }
        self.settle();
        // Beyond its share, a connection replaces another of its address.
        assert!(source(addr.ip()).is_none() || of_source(self) <= share, "{} of {share}", of_source(self));
        id
    }

    fn add_peer(&mut self, id: ConnId, addr: SocketAddr, stage: Stage, wire: Wire, node: Option<usize>) {
        // Which node is at the other end of a connection from an ephemeral port is the engine's secret if there are two.
        let node = node.or((self.own.len() == 1).then_some(0));
        let talk = Talk::new(wire, [node.map_or(addr, |node| self.own[node]), addr], self.maker.keys);
        self.peers.push(Peer {
            id,
            addr,
            is_accepted: stage == Stage::Connected,
            stage,
            talk,
            sent: Vec::new(),
            piece: usize::MAX,
            heard: 0,
            fin: false,
            eof: false,
            is_shut: false,
        });
    }

    /// A peer sends `bytes`, which arrive in pieces of at most `piece`, as soon as the engine reads them.
    pub fn feed(&mut self, id: ConnId, bytes: &[u8], piece: usize) {
        if let Some(peer) = self.peer(id).filter(|peer| peer.may_send()) {
            let frames = peer.talk.say(bytes);
            peer.sent.extend_from_slice(bytes);
            peer.piece = piece.max(1);
            self.chained += frames;
            self.effort += frames as usize;
        }
        self.read(id);
        self.resume();
    }

    /// A peer will send no more.
    pub fn finish_sending(&mut self, id: ConnId) {
        if let Some(peer) = self.peer(id).filter(|peer| peer.stage == Stage::Connected) {
            peer.fin = true;
        }
        self.read(id);
        self.resume();
    }

    /// A connection breaks.
    pub fn break_off(&mut self, id: ConnId) {
        if self.peer(id).is_some_and(|peer| peer.stage == Stage::Connected) {
            self.engine.broken(id, self.now);
            self.settle();
            assert!(self.peer(id).is_none(), "what is broken is closed");
        }
    }

    /// A peer reads at most `most` bytes; how many there were.
    pub fn drain(&mut self, id: ConnId, most: usize) -> usize {
        // The engine does not name a connection again that did not take all.
        self.hear(id);
        let n = self.engine.to_write(id).len().min(most);
        if n > 0 {
            if let Some(peer) = self.peer(id) {
                peer.heard -= n;
            }
            self.engine.wrote(id, n, self.now);
            self.settle();
            self.resume();
        }
        n
    }

    /// Everybody reads all there is.
    pub fn drain_all(&mut self) {
        for _ in 0..RESTLESS {
            let ids = self.ids();
            if ids.into_iter().map(|id| self.drain(id, usize::MAX)).sum::<usize>() == 0 {
                return;
            }
        }
        panic!("the engine never stops talking");
    }

    /// A dial succeeds.
    pub fn dialled(&mut self, id: ConnId) {
        if let Some(peer) = self.peer(id).filter(|peer| matches!(peer.stage, Stage::Dialling { .. })) {
            peer.stage = Stage::Connected;
            self.engine.dialled(id, self.now);
            self.settle();
        }
    }

    /// A dial fails.
    pub fn dial_failed(&mut self, id: ConnId, why: DialError) {
        let Some(peer) = self.peer(id) else {
            return;
        };
        let Stage::Dialling { listening } = peer.stage else {
            return;
        };
        let yields = listening && why == DialError::AddressTaken;
        peer.stage = Stage::Yielding;
        self.engine.dial_failed(id, why, self.now);
        self.settle();
        assert!(yields || self.peer(id).is_none(), "a dial that failed is gone");
    }

    /// A client asks something through the engine.
    pub fn call(&mut self, from: Option<u16>, to: SocketAddr, request: Request) {
        self.told.push(to);
        let operation = Operation::Ask { to, request: request.clone() };
        let call = self.engine.start::<Service>(from, operation, self.now).expect("there is room for it");
        assert!(self.calls.insert(call, request).is_none(), "no two calls share a name");
        self.settle();
    }

    /// The engine learns of a node to bootstrap from.
    pub fn add_bootstrap(&mut self, addr: SocketAddr) {
        self.told.push(addr);
        self.engine.add_bootstrap(Dialect::Sealed, addr, self.now);
        self.settle();
    }

    /// The engine is told to stop.
    pub fn stop(&mut self) {
        self.is_stopping = true;
        self.engine.stop(self.now);
        self.settle();
    }

    /// Time passes, and every deadline on the way is kept.
    pub fn pass(&mut self, ms: u64) {
        let (end, mut again) = (self.now.after(ms), 0);
        while let Some(at) = self.engine.next_deadline().filter(|at| *at <= end) {
            again = if at > self.now { 0 } else { again + 1 };
            assert!(again < DEADLINES_AT_ONCE, "a busy loop");
            self.now = self.now.max(at);
            self.time_out();
        }
        self.now = end;
        self.check_store();
    }

    /// The process stands still for a while.
    pub fn sleep(&mut self, ms: u64) {
        self.now = self.now.after(ms);
        self.time_out();
    }

    fn time_out(&mut self) {
        self.check_store();
        self.engine.on_timeout(self.now);
        let next = self.engine.next_deadline();
        assert!(next.is_none_or(|next| next > self.now), "after a timeout at {:?} the next is {next:?}", self.now);
        self.settle();
        self.resume();
    }

    // ---- what follows ----

    /// The names of all connections but the honest client's.
    pub fn ids(&self) -> Vec<ConnId> {
        self.peers.iter().map(|peer| peer.id).collect()
    }

    /// The other end of a connection, if it is open or being dialled.
    pub fn peer(&mut self, id: ConnId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.id == id)
    }

    /// The engine reads what a peer has sent, as far as it wants to.
    fn read(&mut self, id: ConnId) {
        while let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) {
            if peer.sent.is_empty() {
                if peer.fin && !peer.eof {
                    peer.eof = true;
                    self.engine.eof(id, self.now);
                    self.settle();
                }
                return;
            }
            let Some(space) = self.engine.read_space(id) else {
                return;
            };
            let n = space.len().min(peer.sent.len()).min(peer.piece);
            assert!(n > 0, "there is always space to read into");
            space[..n].copy_from_slice(&peer.sent[..n]);
            peer.sent.drain(..n);
            self.engine.received(id, n, self.now);
            self.settle();
        }
    }

    /// Reads those again that the engine asked for.
    fn resume(&mut self) {
        for _ in 0..RESTLESS {
            let Some(id) = self.resumed.pop() else {
                return;
            };
            self.read(id);
        }
        panic!("the engine resumes for ever");
    }

    /// Turns of the engine's until it wants nothing more.
    fn settle(&mut self) {
        let mut wishes = 0;
        self.effort += 1;
        for _ in 0..RESTLESS {
            while let Some(output) = self.engine.poll_output(self.now) {
                self.obey(output);
                wishes += 1;
                assert!(wishes < RESTLESS, "the engine wants ever more");
            }
            while let Some(id) = self.engine.next_dirty() {
                self.hear(id);
            }
            // Sweeping when nothing was closed would only check the invariants, which `check` does.
            if std::mem::take(&mut self.has_closed) {
                self.engine.sweep();
            }
            if !self.engine.has_work() {
                return self.take_replies();
            }
            self.engine.work(self.now);
        }
        panic!("the engine never comes to rest");
    }

    fn take_replies(&mut self) {
        let engine = &mut self.engine;
        self.calls.retain(|call, request| match engine.next_event::<Service>(*call) {
            Some(reply) => {
                assert!(is_reply_to(request, &reply), "{reply:?} to {request:?}");
                false
            }
            None => true,
        });
    }

    fn obey(&mut self, output: Output) {
        self.effort += 1;
        self.has_closed |= matches!(output, Output::Close(_));
        match output {
            Output::Dial { conn, from, to } => self.start_dial(conn, from, to),
            Output::Resume(id) => self.resumed.push(id),
            Output::ShutdownWrite(id) if self.honest == Some(id) => {
                assert!(self.is_stopping, "the honest client is never turned away");
            }
            Output::ShutdownWrite(id) => {
                let peer = self.peer(id).expect("who is shut is connected");
                assert!(!std::mem::replace(&mut peer.is_shut, true), "shut twice");
                assert_eq!(peer.stage, Stage::Connected);
            }
            Output::Close(id) if self.honest == Some(id) => {
                // It may have been idle for long, or, where places are few, have to make room for another. It comes back.
                let has_made_room = self.engine.guard().get(Counter::Evicted) > 0;
                let was_idle = self.now.since(self.honest_at) >= IDLE_MS;
                // On loopback all are one source, and where little memory is allowed each may have to pay.
                let is_alike = source(self.own[0].ip()).is_none();
                let has_paid = is_alike && self.engine.guard().get(Counter::MemoryLimit) > 0;
                let may_close = self.is_stopping || has_made_room || was_idle || has_paid;
                assert!(may_close, "the honest client is never turned away");
                self.honest = None;
            }
            Output::Close(id) => {
                let at = self.peers.iter().position(|peer| peer.id == id).expect("closed once, and only what there is");
                self.peers.remove(at);
            }
        }
    }

    /// The engine wants a connection dialled: a new one, or one that yielded and now falls back.
    fn start_dial(&mut self, conn: ConnId, from: Option<Listener>, to: SocketAddr) {
        let nodes = from.map(number_of).map_or(0..self.own.len(), |node| node..node + 1);
        let may_dial = |own: &SocketAddr| admissible(own.ip(), to) && *own != to;
        let is_told = self.told.contains(&to);
        assert!(is_told || self.own[nodes].iter().any(may_dial), "dialled {to}, which is no contact");
        let stage = Stage::Dialling { listening: from.is_some() };
        match self.peer(conn) {
            Some(peer) => {
                assert_eq!((peer.stage, peer.addr), (Stage::Yielding, to), "only who yielded is dialled again");
                assert_eq!(from, None, "a stopgap leaves the listening port alone");
                peer.stage = stage;
            }
            None => self.add_peer(conn, to, stage, Wire::Sealed, from.map(number_of)),
        }
    }

    /// The peer hears what is new in the engine's outbox.
    fn hear(&mut self, id: ConnId) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) {
            let unwritten = self.engine.to_write(id);
            let new = unwritten.get(peer.heard..).expect("an outbox loses nothing unwritten");
            assert!(new.is_empty() || !peer.is_shut, "words after the last");
            peer.talk.hear(new);
            peer.heard = unwritten.len();
        }
    }

    // ---- what must hold ----

    /// What holds whenever the engine is at rest.
    pub fn check(&mut self) {
        self.resume();
        self.engine.check_invariants();
        let connections = self.peers.len() + usize::from(self.honest.is_some());
        assert_eq!(self.engine.connections(), connections, "the engine has the connections there are");
        // One more for each that was closed to make room and whose requests are asked again on a fresh one.
        let again = self.engine.guard().get(Counter::Evicted) as usize;
        assert!(connections <= self.settings.max_connections + again, "no more connections than allowed");
        let links = self.engine.links();
        // Connections that were accepted become links when they are asked over, whatever the limit.
        let accepted = self.peers.iter().filter(|peer| peer.is_accepted).count();
        let most = connections.min(NODE_CONNECTIONS + accepted);
        assert!(links <= most, "{links} of {connections} connections are to nodes");
        assert!(self.engine.buffered_bytes() <= self.settings.buffered_bytes);
        assert!(self.engine.service::<Service>().nodes().iter().all(|node| node.jobs() <= JOBS));
        for peer in &self.peers {
            let unwritten = self.engine.to_write(peer.id).len();
            assert_eq!(unwritten, peer.heard, "what is to be written was announced");
            assert!(unwritten <= OUTBOX_HARD_BYTES);
        }
        self.check_resumed();
        self.check_store();
        self.check_honest();
    }

    /// Nobody waits to be read whom the engine would read.
    fn check_resumed(&mut self) {
        for at in 0..self.peers.len() {
            let Peer { id, stage: Stage::Connected, eof: false, .. } = self.peers[at] else {
                continue;
            };
            if !self.peers[at].sent.is_empty() {
                let is_read = self.engine.read_space(id).is_some();
                assert!(!is_read, "the driver was not told to read again");
            }
        }
    }

    /// No value is held past its time, nor more than the store may hold.
    fn check_store(&mut self) {
        let store = self.engine.service::<Service>().store();
        let limits = self.settings.dialects.sealed.store;
        assert!(store.len() <= limits.entries && store.bytes() <= limits.bytes);
        for (index, key) in self.maker.keys.iter().enumerate() {
            let Some(value) = store.get(key, self.now) else {
                continue;
            };
            assert!(value.len() <= limits.value_bytes);
            let Some(stamp) = stamp_of(value) else {
                continue;
            };
            assert_eq!(usize::from(stamp.key), index, "a value under a key it was not put under");
            let lives_ms = if stamp.ttl_s == 0 { 10_000 } else { u64::from(stamp.ttl_s.min(10)) * 1_000 };
            let since = *self.stored.entry(stamp.serial).or_insert(self.now);
            assert!(self.now.since(since) < lives_ms, "a value past its time");
        }
    }

    /// Whatever the others do, an honest client's PING is answered at once.
    fn check_honest(&mut self) {
        if self.honest.is_none() && !self.is_stopping {
            self.honest = self.engine.accepted(Listener::Sealed(0), honest(self.own[0].ip()), self.now);
            self.settle();
        }
        let Some(honest) = self.honest.filter(|_| !self.is_stopping) else {
            return;
        };
        self.honest_at = self.now;
        let [ping, pong] = &self.honest_words;
        let space = self.engine.read_space(honest).expect("the honest client is read");
        space[..ping.len()].copy_from_slice(ping);
        let (asked, answered) = (ping.len(), pong.len());
        self.engine.received(honest, asked, self.now);
        self.settle();
        if self.honest.is_none() {
            return; // It had to pay with the others; see `obey`.
        }
        assert!(self.engine.to_write(honest) == self.honest_words[1], "the honest client is answered");
        self.engine.wrote(honest, answered, self.now);
        self.settle();
    }

    /// What holds in the end, when nothing new comes and everybody reads: what was owed is paid, and in time; what was
    /// stored is gone; every call was replied to; and the tables hold only who may be there.
    pub fn finish(&mut self) {
        self.drain_all();
        let patience_ms = if self.has_taken_in() { JOB_MS + 100 + self.chained * CHAIN_MS } else { 20 * JOB_MS };
        // A stopping engine lets the peer read what it said last.
        let patience_ms = patience_ms + if self.is_stopping { LINGER_MS } else { 0 };
        let start = self.now;
        while !self.is_quiet() {
            assert!(self.now.since(start) <= patience_ms, "an answer is due within four seconds");
            self.pass(100);
            self.drain_all();
        }
        self.check();
        self.pass(LINGER_MS + 100);
        self.drain_all();
        for peer in self.peers.iter().filter(|peer| peer.stage == Stage::Connected) {
            assert!(peer.talk.is_answered(), "an answer is missing on {peer:?}");
            assert!(!peer.is_shut && !peer.eof && !peer.talk.is_lost, "what is over is closed: {peer:?}");
        }
        self.pass(12_000);
        assert!(self.engine.service::<Service>().store().is_empty(), "what is put lives less than ten seconds");
        if !self.calls.is_empty() {
            self.pass(35_000);
        }
        assert!(self.calls.is_empty(), "no call waits for ever: {:?}", self.calls);
        self.check();
        self.check_tables();
        self.check_idle();
    }

    /// Who is idle holds no more than what is left of one frame, and an outbox that was larger for somebody else.
    fn check_idle(&self) {
        let most = (BUFFER_SMALL + BUFFER_LARGE) * self.engine.connections();
        assert!(self.engine.buffered_bytes() <= most, "{} bytes are held", self.engine.buffered_bytes());
        for node in self.engine.service::<Service>().nodes() {
            let lookups = node.overlay().lookups_in_flight();
            assert!(lookups <= LOOKUPS, "{lookups} lookups never ended");
        }
    }

    /// Whether the engine would read from everybody, so that no request waits in front of it.
    fn has_taken_in(&mut self) -> bool {
        let connected = self.peers.iter().filter(|peer| peer.stage == Stage::Connected);
        let connected: Vec<(ConnId, bool)> = connected.map(|peer| (peer.id, peer.talk.is_lost)).collect();
        // Who is past saving is not touched: the engine must notice that by itself.
        let would_read = |&(id, is_lost): &(ConnId, bool)| {
            if is_lost || self.engine.read_space(id).is_none() {
                return false;
            }
            self.engine.received(id, 0, self.now);
            true
        };
        let has_taken_in = connected.iter().all(would_read);
        self.settle();
        has_taken_in
    }

    fn is_quiet(&self) -> bool {
        let is_read = self.peers.iter().all(|peer| peer.sent.is_empty());
        is_read
            && self.engine.is_quiet()
            && self.engine.service::<Service>().nodes().iter().all(|node| node.jobs() == 0)
    }

    fn check_tables(&self) {
        for (node, own) in self.engine.service::<Service>().nodes().iter().zip(&self.own) {
            let table = node.overlay().table();
            table.check_invariants();
            for entry in table.entries() {
                let addr = entry.contact.addr;
                let may_be_there = is_genuine(&entry.contact) && admissible(own.ip(), addr) && addr != *own;
                assert!(may_be_there, "{addr} is in the table of {own}");
            }
        }
    }
}

/// Whether a call may be replied to so.
fn is_reply_to(request: &Request, reply: &Reply) -> bool {
    match (reply, request) {
        (Reply::Unreachable | Reply::Error(..), _) => true,
        (Reply::Pong, Request::Ping(_)) => true,
        (Reply::Nodes(contacts), Request::FindNode(_) | Request::FindValue(_)) => contacts.iter().all(is_genuine),
        (Reply::Success(_), Request::FindValue(_) | Request::Get(_)) => true,
        (Reply::Success(value), Request::Put { .. }) => value.is_empty(),
        (Reply::Missing, Request::Get(_)) => true,
        _ => false,
    }
}
