//! Datagrams to a whole engine with a hyperdht listener, among operations and timeouts: what it sends can be read, and it comes to
//! rest.

use std::net::SocketAddr;

use dayfly::dialect::Dialect;
use dayfly::dialect::hyperdht::codec::Datagram;
use dayfly::dialect::hyperdht::identity::Identity;
use dayfly::dialect::hyperdht::node::Node;
use dayfly::dialect::hyperdht::operation::{Advertisement, Event, Operation};
use dayfly::dialect::hyperdht::service::Service;
use dayfly::dialect::hyperdht::settings::Settings;
use dayfly::engine::{CallId, Engine, EngineSettings};
use dayfly::id::Id;
use dayfly::limits::DATAGRAM_BYTES;
use dayfly::time::Time;

use super::cursor::Cursor;

/// Most datagrams that one step may send: some lookups' worth.
const SENT_PER_STEP: usize = 2_000;

struct World {
    engine: Engine,
    listener: u16,
    now: Time,
    running: Vec<CallId>,
    /// Requests that it sent last: whom to, and their headers.
    asked: Vec<(SocketAddr, [u8; 2])>,
}

fn source(cursor: &mut Cursor<'_>) -> SocketAddr {
    let choice = cursor.byte();
    match choice % 4 {
        // Whose tokens the vectors have.
        0 => ([127, 0, 0, 1], u16::from(choice) + 1).into(),
        1 => ([9, 9, 9, choice], 7).into(),
        _ => ([9, choice, 9, 9], 7).into(),
    }
}

impl World {
    fn new() -> World {
        let now = Time::from_ms(1);
        let mut engine = Engine::new(EngineSettings::default(), 1);
        let identity = Identity { id: Id([0x55; 32]), addr: ([9, 1, 1, 1], 7).into(), is_ephemeral: false };
        let listener = engine.service_mut::<Service>().add(Node::new(
            identity,
            Settings::default(),
            [[0x5a; 32], [0xa5; 32]],
            1,
            now,
        ));
        World { engine, listener, now, running: Vec::new(), asked: Vec::new() }
    }

    fn step(&mut self, cursor: &mut Cursor<'_>) {
        match cursor.below(8) {
            0 => self.now = self.now.after(u64::from(cursor.word())),
            1 => {
                let key = Id([cursor.byte(); 32]);
                let operation = match cursor.below(6) {
                    0 => Operation::Lookup(key, Advertisement::default()),
                    1 => Operation::Announce(key, Advertisement { port: 5, local: None }),
                    2 => Operation::HolePunch { peer: source(cursor), referrer: source(cursor) },
                    3 => Operation::FindNode(source(cursor), key),
                    4 => Operation::Query { command: "x".into(), target: key, value: None, is_update: true },
                    _ => Operation::Ping(source(cursor)),
                };
                let call = self.engine.start::<Service>(Some(self.listener), operation, self.now);
                match call {
                    Some(call) if cursor.below(4) == 0 => self.engine.cancel::<Service>(call, self.now),
                    Some(call) => self.running.push(call),
                    None => {}
                }
            }
            2 => self.engine.add_bootstrap(Dialect::Hyperdht, source(cursor), self.now),
            kind => {
                let (mut from, len) = (source(cursor), usize::from(cursor.byte()));
                let mut bytes: Vec<u8> = (0..len).map(|_| cursor.byte()).collect();
                if let (true, Some((to, header)), 2..) = (kind > 4, self.asked.pop(), bytes.len()) {
                    // An answer, of a kind, from who was asked.
                    from = to;
                    bytes[..2].copy_from_slice(&[header[0] & 0x7f, header[1]]);
                }
                self.engine.datagram(self.listener, from, &bytes, self.now);
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        if self.engine.next_deadline().is_some_and(|at| at <= self.now) {
            self.engine.on_timeout(self.now);
            assert!(self.engine.next_deadline().is_none_or(|at| at > self.now), "no busy loop");
        }
        while self.engine.poll_output(self.now).is_some() {}
        let mut sent = 0;
        while let Some((to, bytes)) = self.engine.next_datagram(self.listener) {
            assert!(bytes.len() <= DATAGRAM_BYTES && Datagram::decode(bytes).is_ok(), "{bytes:?}");
            if bytes[0] & 0x80 != 0 {
                self.asked.push((to, [bytes[0], bytes[1]]));
            }
            self.engine.datagram_sent(self.listener, false);
            sent += 1;
        }
        assert!(sent < SENT_PER_STEP, "{sent} datagrams in one step");
        let engine = &mut self.engine;
        self.running.retain(|call| {
            let mut events = std::iter::from_fn(|| engine.next_event::<Service>(*call));
            let is_over = events.any(|event| matches!(event, Event::Done(_)));
            assert!(!is_over || events.next().is_none(), "nothing comes after the end");
            !is_over
        });
        let node = self.engine.service::<Service>().nodes().next().expect("there is one");
        node.overlay().table().check_invariants();
        node.records().check_invariants();
    }
}

pub fn run(data: &[u8]) {
    let (mut world, mut cursor) = (World::new(), Cursor::new(data));
    while !cursor.is_empty() {
        world.step(&mut cursor);
    }
    // Whatever it was told, it comes to the end of what it began.
    for _ in 0..20 {
        world.now = world.now.after(3_000);
        world.settle();
        world.asked.clear();
    }
    let jobs = world.engine.service::<Service>().nodes().map(|node| node.jobs()).sum::<usize>();
    assert_eq!((jobs, world.running.len()), (0, 0), "operations that never end");
}
