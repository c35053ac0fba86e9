//! Everything that can happen to an engine, in any order: each operation is a byte that says which and a few that say
//! how.

use std::net::SocketAddr;

use dayfly::dialect::sealed::codec::{FRAME_MIN, kind, kind_of};
use dayfly::dialect::sealed::request::Request;
use dayfly::dialect::sealed::session::Wire;
use dayfly::dialect::sealed::settings::{ServiceSettings, Settings};
use dayfly::dialect::sealed::store::StoreLimits;
use dayfly::engine::{ConnId, DialError, EngineSettings, Listener};
use dayfly::kad::Parameters;

use super::bench::{Bench, Stage};
use super::codecs::{any_kind, plain_frame, sealed_frame};
use super::cursor::Cursor;
use super::frames::{anywhere, client, neighbour};

/// Most operations of one input, so that none takes long.
const OPERATIONS: usize = 48;
/// The effort after which no further operation begins.
const EFFORT: usize = 1_500;
/// Most calls and bootstraps of one input.
const TOLD: usize = 12;
/// Connections at once from one address: more than it may have.
const FLOOD: u16 = 130;
/// Rounds in which dials succeed and everybody answers.
const ROUNDS: usize = 6;

/// See [`super::engine`].
pub fn run(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let mut world = World::new(&mut cursor);
    for _ in 0..OPERATIONS {
        if cursor.is_empty() || world.bench.effort > EFFORT {
            break;
        }
        world.operate(&mut cursor);
        world.bench.check();
    }
    world.bench.finish();
}

struct World {
    bench: Bench,
    told: usize,
    is_stopping: bool,
}

impl World {
    fn new(cursor: &mut Cursor<'_>) -> World {
        let own: [SocketAddr; 5] = [
            ([127, 0, 0, 1], 6_500).into(),
            ([9, 9, 9, 9], 6_500).into(),
            ([10, 0, 0, 1], 6_500).into(),
            ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 6_500).into(),
            ([0, 0, 0, 0, 0, 0, 0, 1], 6_500).into(),
        ];
        let (which, how) = (cursor.byte(), cursor.byte());
        let first = own[usize::from(which) % own.len()];
        let second = SocketAddr::new(first.ip(), 6_501);
        let nodes = if which < 200 { vec![first] } else { vec![first, second] };
        let mut world = World { bench: Bench::new(&nodes, settings(how)), told: 0, is_stopping: false };
        for n in 0..which / 5 % 4 {
            world.bench.add_bootstrap(neighbour(first.ip(), n));
        }
        world
    }

    fn operate(&mut self, cursor: &mut Cursor<'_>) {
        match cursor.byte() % 32 {
            0..=2 => self.open(false, cursor),
            3 => self.open(true, cursor),
            4..=9 => self.request(cursor),
            10 => self.raw_bytes(cursor),
            11 => self.raw_frame(cursor),
            12..=14 => self.drain(cursor),
            15 => self.end(cursor),
            16..=18 => self.dial_result(cursor),
            19..=21 => self.answer(cursor),
            22..=24 => self.play(cursor),
            25 | 26 => self.bench.pass(u64::from(cursor.byte())),
            27 => self.bench.pass(u64::from(cursor.byte()) * 40),
            28 => self.long_time(cursor),
            29 => self.tell(cursor),
            30 => self.echo(cursor),
            _ => self.stop(cursor),
        }
    }

    fn open(&mut self, is_api: bool, cursor: &mut Cursor<'_>) {
        let n = cursor.byte();
        let node = usize::from(n / 2) % self.bench.nodes();
        let listener = if is_api { Listener::Api(node as u16) } else { Listener::Sealed(node as u16) };
        let addr = client(self.bench.own(node).ip(), n);
        // A whole host full of them, once in a while.
        for more in 0..if n == u8::MAX { FLOOD } else { 1 } {
            self.bench.accept(listener, (addr.ip(), addr.port() + more).into());
        }
    }

    /// One of the connections, if there is any.
    fn pick(&self, cursor: &mut Cursor<'_>) -> Option<ConnId> {
        let n = cursor.byte();
        let peers = &self.bench.peers;
        (!peers.is_empty()).then(|| peers[usize::from(n) % peers.len()].id)
    }

    fn wire_of(&mut self, id: ConnId) -> Wire {
        self.bench.peer(id).map_or(Wire::Sealed, |peer| peer.talk.wire())
    }

    fn request(&mut self, cursor: &mut Cursor<'_>) {
        if let Some(id) = self.pick(cursor) {
            let wire = self.wire_of(id);
            let bytes = self.bench.maker.requests(wire, cursor);
            self.bench.feed(id, &bytes, usize::MAX);
        }
    }

    fn raw_bytes(&mut self, cursor: &mut Cursor<'_>) {
        if let Some(id) = self.pick(cursor) {
            let (len, piece) = (cursor.below(48), cursor.pick(&[usize::MAX, 1, 7]));
            self.bench.feed(id, cursor.take(len), piece);
        }
    }

    /// A frame around any body, once or often enough to be struck out: its checksum right, or its last byte wrong, or
    /// missing.
    fn raw_frame(&mut self, cursor: &mut Cursor<'_>) {
        let Some(id) = self.pick(cursor) else {
            return;
        };
        let (how, len, kind) = (cursor.byte(), cursor.below(64), any_kind(cursor));
        let body = cursor.take(len);
        let mut frame = match self.wire_of(id) {
            Wire::Sealed => sealed_frame(kind, body),
            Wire::Api => plain_frame(kind, body),
        };
        match (how % 4, frame.last_mut()) {
            (2, Some(last)) => *last ^= 1,
            (3, _) => drop(frame.pop()),
            _ => {}
        }
        let frames = frame.repeat(if how / 64 % 2 == 0 { 1 } else { 3 });
        self.bench.feed(id, &frames, if how < 128 { usize::MAX } else { 5 });
    }

    fn drain(&mut self, cursor: &mut Cursor<'_>) {
        match (cursor.byte() % 4, self.pick(cursor)) {
            (0, Some(id)) => drop(self.bench.drain(id, 1 + usize::from(cursor.word()))),
            (1, Some(id)) => drop(self.bench.drain(id, usize::MAX)),
            _ => self.bench.drain_all(),
        }
    }

    fn end(&mut self, cursor: &mut Cursor<'_>) {
        if let Some(id) = self.pick(cursor) {
            match cursor.byte() % 2 {
                0 => self.bench.finish_sending(id),
                _ => self.bench.break_off(id),
            }
        }
    }

    fn dialling(&self) -> Vec<(ConnId, SocketAddr)> {
        let dialling = self.bench.peers.iter().filter(|peer| matches!(peer.stage, Stage::Dialling { .. }));
        dialling.map(|peer| (peer.id, peer.addr)).collect()
    }

    fn dial_result(&mut self, cursor: &mut Cursor<'_>) {
        let dialling = self.dialling();
        if dialling.is_empty() {
            return;
        }
        let ((id, addr), result) = (cursor.pick(&dialling), cursor.byte());
        match result % 8 {
            0..=2 => self.bench.dialled(id),
            3 => self.bench.dial_failed(id, DialError::AddressTaken),
            4 => {
                // The peer's own connection is what took it.
                self.bench.accept(Listener::Sealed((usize::from(result / 8) % self.bench.nodes()) as u16), addr);
                self.bench.dial_failed(id, DialError::AddressTaken);
            }
            5 => self.bench.dial_failed(id, DialError::Shortage),
            6 => self.bench.dial_failed(id, DialError::Unreachable),
            _ => self.bench.dial_failed(id, DialError::ToItself),
        }
    }

    /// A peer answers the oldest thing it was asked; whoever was asked nothing answers all the same.
    fn answer(&mut self, cursor: &mut Cursor<'_>) {
        let (which, how, list) = (cursor.byte(), cursor.byte(), cursor.byte());
        let is_asked = |at: &usize| !self.bench.peers[*at].talk.asked.is_empty();
        let asked: Vec<usize> = (0..self.bench.peers.len()).filter(is_asked).collect();
        if let Some(at) = asked.get(usize::from(which) % asked.len().max(1)) {
            self.answer_one(self.bench.peers[*at].id, how, list);
        } else if let Some(id) = self.pick(cursor).filter(|_| which % 8 == 0) {
            let nothing = super::talk::Question { kind: u16::from(how), key: self.bench.maker.keys[0], nonce: 0 };
            let frame = self.bench.maker.answer(&nothing, how, list);
            self.bench.feed(id, &frame, usize::MAX);
        }
    }

    fn answer_one(&mut self, id: ConnId, how: u8, list: u8) {
        let peer = self.bench.peer(id).filter(|peer| peer.may_send());
        if let Some(question) = peer.and_then(|peer| peer.talk.asked.front().copied()) {
            let frame = self.bench.maker.answer(&question, how, list);
            self.bench.feed(id, &frame, usize::MAX);
        }
    }

    /// For some rounds every dial succeeds, and everybody reads and answers well, each in a way of its own.
    fn play(&mut self, cursor: &mut Cursor<'_>) {
        let (how, list) = (cursor.byte(), cursor.byte());
        for _ in 0..=usize::from(how) / 16 % ROUNDS {
            for (id, addr) in self.dialling() {
                // Some are dead.
                if how < 128 || (addr.port() ^ u16::from(list)) % 3 != 0 {
                    self.bench.dialled(id);
                }
            }
            self.bench.drain_all();
            for (mine, id) in self.bench.ids().into_iter().enumerate() {
                for _ in 0..3 {
                    self.answer_one(id, how % 8, list.wrapping_add(mine as u8));
                }
            }
        }
    }

    fn long_time(&mut self, cursor: &mut Cursor<'_>) {
        let n = u64::from(cursor.byte());
        match n % 4 {
            0 => self.bench.pass(n * 500),
            1 => self.bench.sleep(n * 20),
            2 => self.bench.sleep(n * 1_000),
            _ => self.bench.sleep(1 << (n / 4 % 48)),
        }
    }

    /// A client of this process asks something, or names a node to bootstrap from.
    fn tell(&mut self, cursor: &mut Cursor<'_>) {
        let (what, whom, index) = (cursor.byte(), cursor.byte(), cursor.byte());
        self.told += 1;
        if self.told > TOLD {
            return;
        }
        let node = usize::from(what / 32) % self.bench.nodes();
        let own = self.bench.own(node).ip();
        let key = self.bench.maker.keys[usize::from(index) % self.bench.maker.keys.len()];
        let request = match what % 8 {
            0 | 1 => Request::Ping(u32::from(index)),
            2 => Request::FindNode(key),
            3 => Request::FindValue(key),
            4 => Request::Get(key),
            5 => {
                let value = self.bench.maker.value(0, 9, usize::from(index) * 200).into();
                Request::Put { ttl_s: 9, replication: index, key: self.bench.maker.keys[0], value }
            }
            _ => return self.bench.add_bootstrap(anywhere(own, whom)),
        };
        let (from, to) = ((what & 16 == 0).then_some(node as u16), anywhere(own, whom));
        // More than one connection may carry, but not more connections than are worth their time.
        for _ in 0..if whom < 8 && from.is_some() { 130 } else { 1 } {
            self.bench.call(from, to, request.clone());
        }
    }

    /// What the engine asked on one connection comes back on another, as if it talked to itself. PUTs don't: a value that
    /// is put again lives again.
    fn echo(&mut self, cursor: &mut Cursor<'_>) {
        let (Some(from), Some(to)) = (self.pick(cursor), self.pick(cursor)) else {
            return;
        };
        let request = self.bench.peer(from).map(|peer| peer.talk.last_request.clone()).unwrap_or_default();
        if self.wire_of(to) == Wire::Sealed && request.len() >= FRAME_MIN && kind_of(&request) != kind::PUT {
            self.bench.feed(to, &request, usize::MAX);
        }
    }

    fn stop(&mut self, cursor: &mut Cursor<'_>) {
        if cursor.byte() % 4 == 0 && !self.is_stopping {
            self.is_stopping = true;
            self.bench.stop();
        }
    }
}

/// Small limits and odd parameters, so that a short input meets them.
fn settings(how: u8) -> EngineSettings {
    let kademlia = match how % 4 {
        0 => Parameters { k: 2, alpha: 1, paths: 1, counts_networks: true },
        1 => Parameters { k: 20, alpha: 16, paths: 16, counts_networks: false },
        _ => Parameters::default(),
    };
    let store = match how / 4 % 4 {
        0 => StoreLimits { bytes: 8_000, entries: 3, value_bytes: 600 },
        1 => StoreLimits { bytes: 100_000, entries: 100, value_bytes: 65_463 },
        _ => StoreLimits::default(),
    };
    let (replication, quorum) = (1 + usize::from(how / 16 % 2) * 2, 1 + usize::from(how / 32 % 2));
    let node = Settings { kademlia, replication, quorum, ..Settings::default() };
    let max_connections = if how < 64 { 6 } else { 300 };
    // Room for the answers that one connection may be owed, and little more.
    let buffered_bytes = if how / 64 == 3 { 400_000 } else { EngineSettings::default().buffered_bytes };
    let mut settings = EngineSettings { max_connections, buffered_bytes, ..EngineSettings::default() };
    settings.dialects.sealed = ServiceSettings { node, store };
    settings
}
