//! The pure parts, each as a piece of work that can be repeated: codec, hash, routing table, store, wheel, and the engine
//! answering requests. Timed by `benches/micro.rs`, counted in instructions by `bin/counts.rs`.

use std::hint::black_box;

use dayfly::contact::Contact;
use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Nodes, Sealed};
use dayfly::dialect::sealed::contact_at;
use dayfly::dialect::sealed::service::Service;
use dayfly::dialect::sealed::store::{Store, StoreLimits};
use dayfly::engine::{ConnId, Engine, EngineSettings, Listener};
use dayfly::id::Id;
use dayfly::kad::Parameters;
use dayfly::kad::routing_table::{BucketPolicy, RoutingTable};
use dayfly::sources::Sources;
use dayfly::time::Time;
use dayfly::wheel::Wheel;

/// A piece of work.
pub struct Case {
    pub name: String,
    /// Does it once.
    pub run: Box<dyn FnMut()>,
}

fn case(name: impl Into<String>, run: impl FnMut() + 'static) -> Case {
    Case { name: name.into(), run: Box::new(run) }
}

fn id(n: u64) -> Id {
    Id::hash_of(&[&n.to_be_bytes()])
}

fn frame(message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    Sealed::encode(message, &mut out);
    out
}

/// Every case, in the order of the house.
pub fn all() -> Vec<Case> {
    let mut cases = hashes();
    cases.extend(codecs());
    cases.extend([100, 1_000, 10_000].map(table));
    cases.extend(stores());
    cases.extend([1_000, 10_000, 100_000, 1_000_000].map(wheel));
    cases.extend(engines());
    cases
}

fn hashes() -> Vec<Case> {
    [6, 64, 1_024, 61_440]
        .map(|len| {
            let bytes = vec![7u8; len];
            case(format!("hash/{len}"), move || {
                black_box(Id::of(black_box(&bytes)));
            })
        })
        .into()
}

fn codecs() -> Vec<Case> {
    let value = [7u8; 64];
    let contacts: Vec<Contact> = (1..21).map(|n| contact_at(([10, 0, 0, n], 6500).into())).collect();
    let messages = [
        ("ping", frame(&Message::Ping { nonce: 7 })),
        ("put", frame(&Message::Put { ttl_s: 9, replication: 1, key: id(1), value: &value })),
        ("node", frame(&Message::Node(Nodes::Contacts(&contacts)))),
    ];
    messages
        .into_iter()
        .map(|(name, frame)| {
            let mut out = Vec::with_capacity(4_096);
            case(format!("codec/{name}"), move || {
                out.clear();
                let message = Sealed::decode(black_box(&frame)).expect("a good frame");
                Sealed::encode(&message, &mut out);
                black_box(&out);
            })
        })
        .collect()
}

/// The 20 closest of so many contacts that were offered one after the other; targets are random.
fn table(contacts: u64) -> Case {
    let mut table = RoutingTable::new(id(0), Parameters::default(), BucketPolicy::Even);
    for n in 1..=contacts {
        let addr = std::net::SocketAddr::from(([127, (n >> 16) as u8, (n >> 8) as u8, n as u8], 6500));
        table.answered(Contact { id: id(n), addr }, Time::ZERO);
    }
    let mut closest = Vec::new();
    let mut n = 0;
    case(format!("table/closest-20-of-{contacts}"), move || {
        n += 1;
        closest.clear();
        table.closest(&id(n % 512), 20, |_| true, &mut closest);
        black_box(&closest);
    })
}

fn stores() -> Vec<Case> {
    let filled = || {
        let (mut store, mut sources) = (Store::new(StoreLimits::default(), 7), Sources::new(7));
        for n in 0..10_000 {
            store.put(id(n), &[8; 64], 9, None, &mut sources, Time::ZERO).expect("there is room");
        }
        (store, sources)
    };
    let keys: Vec<Id> = (0..20_000).map(id).collect();
    let ((reader, _), (mut writer, mut of_writer), (mut renewer, mut of_renewer)) = (filled(), filled(), filled());
    let (mut reads, mut writes, mut renewals) = (0, 0u64, 0);
    let (read_keys, write_keys, renew_keys) = (keys.clone(), keys.clone(), keys);
    vec![
        case("store/get", move || {
            reads += 1;
            black_box(reader.get(&read_keys[reads % 10_000], Time::ZERO));
        }),
        case("store/put-and-expire", move || {
            // A value each millisecond, so that as many expire as come.
            writes += 1;
            let key = write_keys[(writes % 20_000) as usize];
            let _ = black_box(writer.put(key, &[8; 64], 9, None, &mut of_writer, Time::from_ms(writes)));
        }),
        case("store/replace", move || {
            renewals += 1;
            let key = renew_keys[renewals % 10_000];
            let _ = black_box(renewer.put(key, &[renewals as u8; 64], 9, None, &mut of_renewer, Time::from_ms(1)));
        }),
    ]
}

/// A timer armed and another cancelled among so many.
fn wheel(timers: u64) -> Case {
    let mut wheel = Wheel::new();
    let mut keys: Vec<_> =
        (0..timers).map(|n| wheel.arm(Time::ZERO, Time::from_ms(1 + n * 7_919 % 15_000), n)).collect();
    let mut n = 0usize;
    case(format!("wheel/arm-and-cancel-of-{timers}"), move || {
        n = (n + 7_919) % keys.len();
        black_box(wheel.cancel(keys[n]));
        keys[n] = wheel.arm(Time::ZERO, Time::from_ms(1 + n as u64 % 15_000), n as u64);
    })
}

/// One node with a connection; each run feeds it some frames and takes the answers.
struct Conversation {
    engine: Engine,
    conn: ConnId,
}

impl Conversation {
    fn new(contacts: u16) -> Conversation {
        let mut engine = Engine::new(EngineSettings::default(), 7);
        let node = engine.service_mut::<Service>().add_node(([127, 0, 0, 1], 6500).into(), 7, Time::ZERO);
        let known: Vec<Contact> = (0..contacts).map(|n| contact_at(([127, 0, 0, 1], 7_000 + n).into())).collect();
        engine.service_mut::<Service>().remember(node, &known, Time::ZERO);
        let peer = ([127, 0, 0, 1], 50_000).into();
        let conn = engine.accepted(Listener::Sealed(node), peer, Time::ZERO).expect("there is room");
        Conversation { engine, conn }
    }

    fn turn(&mut self, bytes: &[u8]) {
        let (engine, conn, now) = (&mut self.engine, self.conn, Time::from_ms(1));
        let space = engine.read_space(conn).expect("it is read");
        space[..bytes.len()].copy_from_slice(bytes);
        engine.received(conn, bytes.len(), now);
        while let Some(id) = engine.next_dirty() {
            let n = black_box(engine.to_write(id)).len();
            engine.wrote(id, n, now);
        }
        while let Some(output) = engine.poll_output(now) {
            black_box(output);
        }
        engine.sweep();
        black_box(engine.next_deadline());
    }
}

fn engines() -> Vec<Case> {
    let put = frame(&Message::Put { ttl_s: 9, replication: 1, key: id(1), value: &[7; 64] });
    let find = frame(&Message::FindValue { key: id(1) });
    let near = frame(&Message::FindNode { key: id(2) });
    let ping = frame(&Message::Ping { nonce: 7 });
    let runs = [
        ("ping", 0, ping.clone()),
        ("16-pings", 0, ping.repeat(16)),
        ("put", 0, put.clone()),
        ("find-value", 0, find.clone()),
        ("16-find-values", 0, find.repeat(16)),
        ("find-node", 200, near),
    ];
    let mut cases: Vec<Case> = runs
        .map(|(name, contacts, bytes)| {
            let mut conversation = Conversation::new(contacts);
            conversation.turn(&put);
            case(format!("engine/{name}"), move || conversation.turn(&bytes))
        })
        .into();
    cases.push(byte_behind_waiting_requests());
    cases
}

/// One byte more of a large frame, on the worst connection that a peer can build: a thousand requests wait there, behind
/// as many jobs as it may have and behind each other.
fn byte_behind_waiting_requests() -> Case {
    let mut conversation = Conversation::new(200);
    for n in 0..1_064 {
        let key = id(n / 2);
        let request = match n % 2 {
            0 => Message::Put { ttl_s: 9, replication: 3, key, value: &[7; 64] },
            _ => Message::Get { key },
        };
        conversation.turn(&frame(&request));
    }
    let large = frame(&Message::Put { ttl_s: 9, replication: 1, key: id(1), value: &[7; 60_000] });
    let mut bytes = large.into_iter().cycle();
    case("engine/byte-behind-1000-requests", move || conversation.turn(&[bytes.next().unwrap_or_default()]))
}
