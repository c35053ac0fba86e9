//! The sealed dialect in the simulator: machines with one node each, clients that put and get values, and a model of
//! what was put, which says what a GET may come back with. Judges only what any client could see.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::contact::Contact;
use crate::dialect::sealed::codec::{Message, Nodes, Sealed as SealedCodec};
use crate::dialect::sealed::contact_at;
use crate::dialect::sealed::node::Node;
use crate::dialect::sealed::service::Service;
use crate::dialect::{Codec, Dialect};
use crate::engine::{Engine, EngineSettings, Listener};
use crate::id::Id;
use crate::limits::{DIAL_TIMEOUT_MS, VALUE_MAX};
use crate::sim::address::address_of;
use crate::sim::check::{MISS_MS, lifetime_ms};
use crate::sim::dialect::{Canary, Heard, SimDialect};
use crate::sim::swarm::Swarm;
use crate::sim::weather::{LONGEST_GAP_MS, Weather};
use crate::time::Time;

/// The number of different keys.
const KEYS: u8 = 12;
/// The most seconds that clients ask for: more than there are.
const TTL_MAX_S: u16 = 12;
/// How long before the end of a value's lifetime a client asks for it who is to get it, in milliseconds.
const LAST_ASKED_MS: u64 = 8;
/// The largest values that machines take, in bytes.
const VALUE_LIMITS: [usize; 3] = [64, 1_000, VALUE_MAX];
/// The most values that some machines take: enough for one that is put through each machine.
const FEW_ENTRIES: std::ops::Range<usize> = 12..40;

/// The faults of this dialect.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Values come back that nobody put under their key.
    WrongKey,
    /// Values come back for one tick too long.
    Stale,
    /// A store holds more than it may.
    Hoards,
    /// A store keeps values past their time, a node its jobs.
    KeepsForEver,
}

/// What a client asks a machine for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Store `value` under `key` on so many holders.
    Put {
        /// The key.
        key: Id,
        /// The value; no two clients put the same one under a key.
        value: Vec<u8>,
        /// The lifetime that is asked for, in seconds.
        ttl_s: u16,
        /// Number of holders; 1 is the machine that is asked.
        replication: u8,
    },
    /// Find the value of this key.
    Get(Id),
}

/// A value that was put.
#[derive(Clone, Debug)]
struct Known {
    value: Vec<u8>,
    lifetime_ms: u64,
    /// The machine that was asked is the only one that holds it.
    is_single: bool,
    /// When its PUT was answered with SUCCESS. Every copy is at least as old, but for those of slow holders.
    answered_at: Option<Time>,
}

/// All clients of a swarm, and what they have put.
#[derive(Debug)]
pub struct Sealed {
    canary: Canary<Fault>,
    known: BTreeMap<Id, Vec<Known>>,
    /// By how much a copy may be stored later than its PUT is answered.
    slowest_copy_ms: u64,
    /// When the last ERROR came, and its code.
    last_error: Option<(Time, u32)>,
}

impl Sealed {
    /// Judges the answer to a PUT of a value for so many holders, or to a GET.
    fn judge(&mut self, key: Id, put: Option<(&[u8], u8)>, asked_at: Time, answer: &Message<'_>, now: Time) -> Heard {
        match (answer, put) {
            (Message::Success { key: of, value }, Some((put, replication))) => {
                assert_eq!(*of, key, "SUCCESS repeats the key");
                let is_short = matches!(**value, [copies] if (1..replication).contains(&copies));
                assert!(value.is_empty() || is_short, "{value:?} are fewer copies than {replication}");
                let known = self.known.entry(key).or_default();
                known.iter_mut().filter(|known| known.value == put).for_each(|known| {
                    known.answered_at.get_or_insert(now);
                });
            }
            (Message::Success { key: of, value }, None) => {
                assert_eq!(*of, key, "SUCCESS repeats the key");
                self.check_found(key, value, asked_at, now);
                return Heard::Effect;
            }
            (Message::Failure { key: of }, None) => assert_eq!(*of, key, "FAILURE repeats the key"),
            (Message::Error { code, .. }, _) => self.last_error = Some((now, *code)),
            _ => panic!("{answer:?} answers a request about {key:?}, put {put:?}"),
        }
        Heard::Answer
    }

    /// Panics unless `value` was put under `key`, and not too long ago.
    fn check_found(&self, key: Id, value: &[u8], asked_at: Time, now: Time) {
        let mut value = value.to_vec();
        if self.canary == Canary::Own(Fault::WrongKey) {
            value.push(0);
        }
        let known = self.known.get(&key).and_then(|all| all.iter().rev().find(|known| known.value == value));
        let known = known.unwrap_or_else(|| {
            let (len, known) = (value.len(), self.known.get(&key));
            panic!("only what was put under a key comes back, not {len} bytes: {value:?} known {known:?}")
        });
        let late_ms = if self.canary == Canary::Own(Fault::Stale) { MISS_MS } else { 0 };
        let age_ms = asked_at.since(known.answered_at.unwrap_or(now)) + late_ms;
        // A copy may be stored after the PUT was answered, by a holder that was slow or stood still.
        let slowest_copy_ms = if known.is_single { 0 } else { self.slowest_copy_ms };
        let end_ms = known.lifetime_ms + slowest_copy_ms;
        assert!(age_ms < end_ms, "a value of age {age_ms} ms was served, which ends at {end_ms} ms");
    }
}

impl SimDialect for Sealed {
    const NAME: &'static str = "sealed";
    const LISTENER: Listener = Listener::Sealed(0);
    const REJOIN_AFTER_MS: Option<u64> = None;
    type Request = Request;
    type Canary = Fault;

    fn start(engine: &mut Engine, addr: SocketAddr, seed: u64, now: Time) {
        engine.service_mut::<Service>().add_node(addr, seed, now);
    }

    fn join(engine: &mut Engine, known: SocketAddr, now: Time) {
        engine.add_bootstrap(Dialect::Sealed, known, now);
    }

    fn contacts(engine: &Engine) -> Vec<SocketAddr> {
        let nodes = engine.service::<Service>().nodes().iter();
        nodes.flat_map(|node| node.overlay().table().entries()).map(|entry| entry.contact.addr).collect()
    }

    fn describe(engine: &Engine) -> String {
        let service = engine.service::<Service>();
        let counts_itself = service.nodes()[0].overlay().counts_itself();
        format!("counts_itself {counts_itself} stored {}", service.store().len())
    }

    fn check(engine: &Engine, settings: &EngineSettings, canary: Canary<Fault>) {
        let limit_bytes = if canary == Canary::Own(Fault::Hoards) { 0 } else { settings.dialects.sealed.store.bytes };
        let stored_bytes = engine.service::<Service>().store().bytes();
        assert!(stored_bytes <= limit_bytes, "a store of {stored_bytes} bytes stays within {limit_bytes}");
    }

    fn check_rest(engine: &Engine, canary: Canary<Fault>) {
        let service = engine.service::<Service>();
        let jobs: usize = service.nodes().iter().map(Node::jobs).sum();
        let left = service.store().len() + jobs + usize::from(canary == Canary::Own(Fault::KeepsForEver));
        assert_eq!(left, 0, "values outlive their time, or jobs their clients");
    }

    fn draw_settings(settings: &mut EngineSettings, random: &mut fastrand::Rng) {
        let store = &mut settings.dialects.sealed.store;
        store.bytes = random.usize(2_000..200_000);
        store.value_bytes = VALUE_LIMITS[random.usize(..VALUE_LIMITS.len())];
        if random.bool() {
            store.entries = random.usize(FEW_ENTRIES);
        }
        settings.dialects.sealed.node.kademlia.paths = random.usize(1..=4);
    }

    fn new(weather: &Weather, canary: Canary<Fault>) -> Sealed {
        let stands_still = weather.gaps > 0.0 || weather.partitions > 0.0;
        let sends_again = weather.lost_connects > 0.0 || weather.late_bytes > 0.0 || weather.resets > 0.0;
        let slowest_copy_ms = match (stands_still, sends_again || weather.churn > 0.0) {
            (true, _) => DIAL_TIMEOUT_MS + LONGEST_GAP_MS,
            (false, true) => DIAL_TIMEOUT_MS,
            // A round trip to connect and one to ask.
            (false, false) => 2 * weather.delays.quantile(1.0) as u64,
        };
        Sealed { canary, known: BTreeMap::new(), slowest_copy_ms, last_error: None }
    }

    fn draw_request(&mut self, number: usize, random: &mut fastrand::Rng) -> Request {
        let key = Id::hash_of(&[&[random.u8(..KEYS)]]);
        let value = random.bool().then(|| {
            let most = if random.u8(..10) == 0 { 20_000 } else { 300 };
            let len = random.usize(..most);
            // No two are alike, so that it is known which of them comes back.
            let mut value = number.to_be_bytes().to_vec();
            value.extend((0..len).map(|_| random.u8(..)));
            value
        });
        let (ttl_s, replication) = (random.u16(..=TTL_MAX_S), random.u8(1..5));
        value.map_or(Request::Get(key), |value| Request::Put { key, value, ttl_s, replication })
    }

    fn proof(&self, number: usize, _: usize) -> [Request; 2] {
        let key = Id::hash_of(&[b"healed", &number.to_be_bytes()]);
        [Request::Put { key, value: b"well again".to_vec(), ttl_s: 10, replication: 3 }, Request::Get(key)]
    }

    fn draw_promise(&mut self, number: usize, random: &mut fastrand::Rng) -> Option<[Request; 2]> {
        let key = Id::hash_of(&[b"promised", &number.to_be_bytes()]);
        // Some machines don't take the largest; it fits into the smallest window that is left of a seed's weather, or it
        // would take longer than a holder has to answer.
        let value = vec![number as u8; 8 << random.u8(..5)];
        let (ttl_s, replication) = (random.u16(..=TTL_MAX_S), random.u8(1..5));
        Some([Request::Put { key, value, ttl_s, replication }, Request::Get(key)])
    }

    fn keeps(&self, engine: &Engine, promise: &Request, at: Time) -> bool {
        let Request::Put { key, value, .. } = promise else {
            return false;
        };
        let known = self.known.get(key).and_then(|all| all.iter().find(|known| known.value == *value));
        let is_stored = known.is_some_and(|known| known.answered_at.is_some());
        is_stored && engine.service::<Service>().store().get(key, at) == Some(value)
    }

    fn follow_ups(&self, request: &Request, now: Time) -> Vec<(Time, Request)> {
        let Request::Put { key, value, .. } = request else {
            return Vec::new();
        };
        // Where one machine alone holds it, it is known when that ends: once before, once from then on.
        let known = self.known.get(key).and_then(|all| all.iter().rev().find(|known| known.value == *value));
        let single = known.filter(|known| known.is_single && known.answered_at == Some(now));
        let ends = single.into_iter().flat_map(|known| {
            let end = now.after(known.lifetime_ms);
            [Time::from_ms(end.as_ms() - LAST_ASKED_MS), end]
        });
        ends.map(|at| (at, Request::Get(*key))).collect()
    }

    fn say(&mut self, request: &Request) -> Vec<u8> {
        match request {
            Request::Put { key, value, ttl_s, replication } => {
                let (lifetime_ms, is_single) = (lifetime_ms(*ttl_s), *replication <= 1);
                let known = Known { value: value.clone(), lifetime_ms, is_single, answered_at: None };
                self.known.entry(*key).or_default().push(known);
                frame(&Message::Put { ttl_s: *ttl_s, replication: *replication, key: *key, value })
            }
            Request::Get(key) => frame(&Message::Get { key: *key }),
        }
    }

    fn hear(&mut self, request: &Request, asked_at: Time, received: &[u8], now: Time) -> Heard {
        let len = SealedCodec::frame_len(received).expect("an answer has a length");
        let Some(frame) = len.and_then(|len| received.get(..len)) else {
            return Heard::Incomplete;
        };
        let answer = SealedCodec::decode(frame).expect("an answer can be read");
        let (key, put) = match request {
            Request::Put { key, value, replication, .. } => (*key, Some((&**value, *replication))),
            Request::Get(key) => (*key, None),
        };
        self.judge(key, put, asked_at, &answer, now)
    }

    fn nonsense(random: &mut fastrand::Rng) -> Vec<u8> {
        let key = Id::hash_of(&[&[random.u8(..KEYS)]]);
        match random.u8(..7) {
            0 => (0..random.usize(..500)).map(|_| random.u8(..)).collect(),
            1 => frame(&Message::Ping { nonce: 1 })[..random.usize(..40)].to_vec(),
            2 => frame(&Message::FindValue { key }).repeat(random.usize(..300)),
            3 => frame(&Message::Get { key }).repeat(random.usize(..80)),
            4 => frame(&Message::Node(Nodes::Contacts(&[]))),
            5 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            _ => Vec::new(),
        }
    }

    fn complaint(&self) -> String {
        format!("last error {:?}", self.last_error)
    }
}

impl Swarm<Sealed> {
    /// Gives a machine a past in which it has heard from the machines `others`, and they from it.
    pub fn remember(&mut self, number: usize, others: &[u32]) {
        let contacts: Vec<Contact> = others.iter().map(|other| contact_at(address_of(*other as usize))).collect();
        let now = self.now();
        if let Some(engine) = &mut self.machines[number].engine {
            engine.service_mut::<Service>().remember(0, &contacts, now);
            self.turn(number);
        }
    }
}

/// The bytes of a message.
pub fn frame(message: &Message<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    SealedCodec::encode(message, &mut frame);
    frame
}
