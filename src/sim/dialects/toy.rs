//! The toy dialect (`tests/toy`) in the simulator: clients that greet and then ask for bytes, send large messages,
//! shout, or listen for shouts, and a model of what was shouted. Judges only what any client could see.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::dialect::toy::codec::{Message, Toy as ToyCodec};
use crate::dialect::toy::{IDLE_MS, Service, WHILE_MAX_MS};
use crate::dialect::{Codec, Dialect};
use crate::engine::{Engine, EngineSettings, Listener};
use crate::hash::sha256;
use crate::limits::LINGER_MS;
use crate::sim::dialect::{Canary, Heard, SimDialect};
use crate::sim::weather::Weather;
use crate::time::Time;

/// The number of the client in every request that is made on its connection: there is one.
const ID: u32 = 7;
/// The most bytes of a large message: three pieces, and beyond an inbox.
const LARGE_MAX: usize = 150_000;
/// What strangers shout: neither this nor what differs in one bit is the number of a client's shout.
const NONSENSE: u64 = u64::MAX;
/// The numbers from here on are no client's.
const CLIENTS: u64 = 1 << 40;

/// The faults of this dialect.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// An answer has other bytes than asked for.
    WrongBytes,
    /// An answer comes before its time.
    Hurries,
    /// A shout arrives with another text.
    Garbles,
    /// A shout arrives twice.
    Echoes,
    /// A connection that is gone remains a neighbour.
    KeepsNeighbours,
}

/// What a client asks a machine for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// So many bytes, not before some milliseconds have passed.
    Ask {
        /// Milliseconds.
        after_ms: u16,
        /// Bytes.
        size: u16,
    },
    /// To take this many bytes and to answer with their hash.
    Large(usize),
    /// To pass this shout to all. A greeting answers it.
    Shout(u64),
    /// To be passed what others shout. The client's name, not 0.
    Listen(u64),
}

/// All clients of a swarm, and what they have shouted.
#[derive(Debug)]
pub struct Toy {
    canary: Canary<Fault>,
    /// By number.
    shouted: BTreeMap<u64, Vec<u8>>,
}

impl Toy {
    fn is(&self, fault: Fault) -> bool {
        self.canary == Canary::Own(fault)
    }

    /// Judges the messages that came after the greeting.
    fn judge(&self, request: &Request, asked_at: Time, messages: &[Message<'_>], now: Time) -> Heard {
        match *request {
            Request::Shout(_) => Heard::Answer,
            Request::Listen(_) => self.judge_shouts(messages),
            Request::Ask { after_ms, size } => {
                let Some(bytes) = answer_in(messages) else {
                    return Heard::Incomplete;
                };
                let expected = if self.is(Fault::WrongBytes) { size ^ 1 } else { size };
                let is_right = bytes.len() == usize::from(expected) && bytes.iter().all(|byte| *byte == ID as u8);
                assert!(is_right, "an answer of {} bytes was not what was asked for: {request:?}", bytes.len());
                let due = asked_at.after(if self.is(Fault::Hurries) { 1_000_000 } else { after_ms.into() });
                assert!(due <= now, "an answer came before its time: {request:?}");
                Heard::Answer
            }
            Request::Large(len) => {
                let Some(bytes) = answer_in(messages) else {
                    return Heard::Incomplete;
                };
                assert_eq!(bytes, sha256(&large(len)), "a large message of {len} bytes arrived as it was sent");
                Heard::Answer
            }
        }
    }

    /// Each shout comes once, and as it was shouted.
    fn judge_shouts(&self, messages: &[Message<'_>]) -> Heard {
        let mut heard = BTreeMap::new();
        for message in messages {
            let Message::Shout { id, text } = *message else {
                panic!("a client that listens hears shouts, not {message:?}");
            };
            let is_first = heard.insert(id, text).is_none() && !self.is(Fault::Echoes);
            assert!(is_first, "the shout {id} came twice");
            let is_right = match self.shouted.get(&id) {
                None => id >= CLIENTS,
                Some(shouted) => shouted == text && !self.is(Fault::Garbles),
            };
            assert!(is_right, "a client hears what was shouted, not {id} {text:?}");
        }
        if heard.keys().any(|id| *id < CLIENTS) { Heard::Effect } else { Heard::Listening }
    }
}

impl SimDialect for Toy {
    const NAME: &'static str = "toy";
    const LISTENER: Listener = Listener::Toy(0);
    const REJOIN_AFTER_MS: Option<u64> = Some(IDLE_MS + LINGER_MS);
    type Request = Request;
    type Canary = Fault;

    fn start(engine: &mut Engine, _: SocketAddr, seed: u64, _: Time) {
        // Clients have small names.
        engine.service_mut::<Service>().add_node(seed | 1 << 63);
    }

    fn join(engine: &mut Engine, known: SocketAddr, now: Time) {
        engine.add_bootstrap(Dialect::Toy, known, now);
    }

    /// Nobody is named to anybody.
    fn contacts(_: &Engine) -> Vec<SocketAddr> {
        Vec::new()
    }

    fn describe(engine: &Engine) -> String {
        format!("neighbours {}", engine.service::<Service>().neighbours().count())
    }

    /// The service has checked its bounds itself.
    fn check(_: &Engine, _: &EngineSettings, _: Canary<Fault>) {}

    fn check_rest(engine: &Engine, canary: Canary<Fault>) {
        let left = usize::from(canary == Canary::Own(Fault::KeepsNeighbours));
        let neighbours = engine.service::<Service>().neighbours().count() + left;
        assert_eq!(neighbours, engine.connections(), "the neighbours are the connections that are left");
    }

    fn draw_settings(settings: &mut EngineSettings, random: &mut fastrand::Rng) {
        settings.dialects.toy.per_s = random.u32(5..100);
        settings.dialects.toy.at_once = random.u32(1..200);
    }

    fn new(_: &Weather, canary: Canary<Fault>) -> Toy {
        Toy { canary, shouted: BTreeMap::new() }
    }

    fn draw_request(&mut self, number: usize, random: &mut fastrand::Rng) -> Request {
        let number = number as u64 + 1;
        match random.u8(..6) {
            0 | 1 => Request::Ask { after_ms: random.u16(..=WHILE_MAX_MS), size: random.u16(..) >> random.u8(..16) },
            2 => Request::Large(random.usize(..LARGE_MAX)),
            3 => Request::Listen(number),
            _ => Request::Shout(number),
        }
    }

    fn proof(&self, number: usize, attempt: usize) -> [Request; 2] {
        // Beyond all that clients were called in the run.
        let id = (1 << 32) + ((number as u64) << 8) + attempt as u64;
        [Request::Listen(id), Request::Shout(id)]
    }

    fn say(&mut self, request: &Request) -> Vec<u8> {
        let name = if let Request::Listen(name) = request { *name } else { 0 };
        let mut bytes = frame(&Message::Hello { name });
        match *request {
            Request::Ask { after_ms, size } => bytes.extend(frame(&Message::Ask { id: ID, after_ms, size })),
            Request::Large(len) => bytes.extend(frame(&Message::Large { id: ID, bytes: &large(len) })),
            Request::Shout(id) => {
                let text = format!("shout {id}").into_bytes();
                bytes.extend(frame(&Message::Shout { id, text: &text }));
                self.shouted.insert(id, text);
            }
            Request::Listen(_) => {}
        }
        bytes
    }

    fn hear(&mut self, request: &Request, asked_at: Time, mut received: &[u8], now: Time) -> Heard {
        let mut messages = Vec::new();
        while let Some(len) = ToyCodec::frame_len(received).expect("an answer has a length") {
            let Some((frame, rest)) = received.split_at_checked(len) else {
                break;
            };
            messages.push(ToyCodec::decode(frame).expect("an answer can be read"));
            received = rest;
        }
        // The machine may end an idle conversation.
        messages.retain(|message| *message != Message::Bye);
        match messages.split_first() {
            None => Heard::Incomplete,
            Some((Message::Hello { .. }, rest)) => self.judge(request, asked_at, rest, now),
            Some((first, _)) => panic!("a machine begins with HELLO, not with {first:?}"),
        }
    }

    fn nonsense(random: &mut fastrand::Rng) -> Vec<u8> {
        let mut bytes = frame(&Message::Hello { name: 0 });
        match random.u8(..8) {
            0 => return (0..random.usize(..500)).map(|_| random.u8(..)).collect(),
            1 => return b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            2 => return Vec::new(),
            3 => bytes.truncate(random.usize(..bytes.len())),
            4 => bytes.extend(frame(&Message::Ask { id: 1, after_ms: 0, size: 5_000 }).repeat(random.usize(..300))),
            5 => bytes.extend(frame(&Message::Shout { id: NONSENSE, text: b"hm" }).repeat(random.usize(..300))),
            // A large message that ends too early.
            6 => bytes.extend(&frame(&Message::Large { id: 1, bytes: &large(LARGE_MAX) })[..random.usize(..LARGE_MAX)]),
            _ => bytes.extend(frame(&Message::Stuffing(&[0; 4_000]))),
        }
        bytes
    }

    fn complaint(&self) -> String {
        format!("{} shouts", self.shouted.len())
    }
}

/// A large message.
fn large(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

/// The bytes of the first answer.
fn answer_in<'a>(messages: &[Message<'a>]) -> Option<&'a [u8]> {
    match *messages.first()? {
        Message::Answer { id: ID, bytes } => Some(bytes),
        ref other => panic!("{other:?} answers the request {ID}"),
    }
}

/// The bytes of a message.
fn frame(message: &Message<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    ToyCodec::encode(message, &mut frame);
    frame
}
