//! The workload with which `dayfly bench` loads a node of the sealed dialect. Checks every byte of every answer. The
//! number of a key determines its value, so only the times at which values must be stored again are remembered. Never
//! opens a socket.

use std::collections::VecDeque;

use crate::dialect::Codec;
use crate::dialect::sealed::codec::{Message, Nodes, Sealed};
use crate::dialect::sealed::is_genuine;
use crate::id::Id;
use crate::limits::NODE_ENTRIES;
use crate::load::{Garbled, Op, SentRequest, Verdict, Workload};
use crate::time::Time;

/// Values that the workload reads are stored again at this age, well before they expire.
const RENEW_MS: u64 = 4_000;
/// Their requested lifetime, in seconds.
const TTL_S: u16 = 9;

/// Kinds of requests and their weights.
pub type Mix = &'static [(Op, u32)];

/// The settings of a workload.
#[derive(Copy, Clone, Debug)]
pub struct Request {
    /// The kinds of requests and their proportions.
    pub mix: Mix,
    /// The number of different keys, at least 1.
    pub keys: u32,
    /// Bytes of each value.
    pub size: usize,
    /// How many nodes should hold each value; 1: only the node that is asked.
    pub replication: u8,
    /// Whether each key is the SHA-256 of its value, so that nobody can make up another value.
    pub certified: bool,
    /// Determines all random choices.
    pub seed: u64,
}

/// The workload of the sealed dialect.
#[derive(Debug)]
pub struct Load {
    request: Request,
    keys: Vec<Id>,
    /// Each value is a piece of these bytes.
    bytes: Vec<u8>,
    weights: u32,
    reads: bool,
    /// The keys to store again, each with its time, in that order.
    renewals: VecDeque<(u32, Time)>,
    stored: Vec<bool>,
    stored_count: usize,
    rng: fastrand::Rng,
}

impl Load {
    /// A workload that has sent nothing yet.
    pub fn new(request: Request) -> Load {
        let mut rng = fastrand::Rng::with_seed(request.seed);
        let bytes: Vec<u8> = (0..request.size + 4_096).map(|_| rng.u8(..)).collect();
        let reads = request.mix.iter().any(|(op, _)| matches!(op, Op::FindValue | Op::Get));
        let mut load = Load {
            request,
            keys: Vec::new(),
            bytes,
            weights: request.mix.iter().map(|(_, weight)| weight).sum(),
            reads,
            renewals: VecDeque::new(),
            stored: vec![false; request.keys as usize],
            stored_count: 0,
            rng,
        };
        load.keys = (0..request.keys).map(|n| load.key(n)).collect();
        if reads {
            load.renewals = (0..request.keys).map(|n| (n, Time::ZERO)).collect();
        }
        load
    }

    fn key(&self, number: u32) -> Id {
        if self.request.certified {
            Id::of(&self.bytes[self.value(number)])
        } else {
            Id::hash_of(&[b"dayfly bench", &self.request.seed.to_be_bytes(), &number.to_be_bytes()])
        }
    }

    /// The range in `bytes` of the value of a key.
    fn value(&self, number: u32) -> std::ops::Range<usize> {
        let at = number as usize % 4_096;
        at..at + self.request.size
    }

    fn draw(&mut self) -> Op {
        let mut left = self.rng.u32(..self.weights.max(1));
        for (op, weight) in self.request.mix {
            match left.checked_sub(*weight) {
                None => return *op,
                Some(rest) => left = rest,
            }
        }
        Op::Ping
    }

    fn encode(&self, asked: SentRequest, out: &mut Vec<u8>) {
        let key = |number: u32| self.keys[number as usize];
        let message = match asked.op {
            Op::Ping => Message::Ping { nonce: asked.number },
            Op::FindNode => Message::FindNode { key: key(asked.number) },
            Op::FindValue => Message::FindValue { key: key(asked.number) },
            Op::Get => Message::Get { key: key(asked.number) },
            Op::Put => Message::Put {
                ttl_s: TTL_S,
                replication: self.request.replication,
                key: key(asked.number),
                value: &self.bytes[self.value(asked.number)],
            },
        };
        Sealed::encode(&message, out);
    }

    /// Whether a node may name these `nodes`: genuine, nearest first, and not too many.
    fn is_in_order(&self, key: &Id, nodes: &Nodes<'_>) -> bool {
        let mut before = None;
        nodes.iter().count() <= NODE_ENTRIES
            && nodes.iter().all(|contact| {
                let distance = key.distance(&contact.id);
                before.replace(distance).is_none_or(|before| before < distance) && is_genuine(&contact)
            })
    }
}

impl Workload for Load {
    fn ask(&mut self, now: Time, out: &mut Vec<u8>) -> Option<SentRequest> {
        if let Some(&(number, _)) = self.renewals.front().filter(|(_, due)| *due <= now) {
            self.renewals.pop_front();
            self.renewals.push_back((number, now.after(RENEW_MS)));
            let asked = SentRequest { op: Op::Put, number, is_upkeep: true };
            self.encode(asked, out);
            return Some(asked);
        }
        if !self.is_ready() {
            return None;
        }
        let op = self.draw();
        let number = if op == Op::Ping { self.rng.u32(..) } else { self.rng.u32(..self.request.keys) };
        let asked = SentRequest { op, number, is_upkeep: false };
        self.encode(asked, out);
        Some(asked)
    }

    fn is_ready(&self) -> bool {
        !self.reads || self.stored_count == self.keys.len()
    }

    fn answer_len(&self, bytes: &[u8]) -> Result<Option<usize>, Garbled> {
        let len = Sealed::frame_len(bytes).map_err(|_| Garbled)?;
        Ok(len.filter(|len| *len <= bytes.len()))
    }

    fn judge(&mut self, asked: SentRequest, answer: &[u8]) -> Verdict {
        let key = |number: u32| self.keys[number as usize];
        let verdict = match (asked.op, Sealed::decode(answer)) {
            (_, Ok(Message::Error { code, .. })) => Verdict::Refused(code),
            (Op::Ping, Ok(Message::Pong { nonce })) if nonce == asked.number => Verdict::Good,
            (Op::FindNode, Ok(Message::Node(nodes))) if self.is_in_order(&key(asked.number), &nodes) => Verdict::Good,
            (Op::FindValue, Ok(Message::Node(_))) => Verdict::Missing,
            (Op::FindValue, Ok(Message::Value { value })) if *value == self.bytes[self.value(asked.number)] => {
                Verdict::Good
            }
            (Op::Get, Ok(Message::Failure { key: of })) if of == key(asked.number) => Verdict::Missing,
            (Op::Get, Ok(Message::Success { key: of, value }))
                if of == key(asked.number) && *value == self.bytes[self.value(asked.number)] =>
            {
                Verdict::Good
            }
            (Op::Put, Ok(Message::Success { key: of, value: [] })) if of == key(asked.number) => Verdict::Good,
            _ => Verdict::Wrong,
        };
        if asked.is_upkeep && !std::mem::replace(&mut self.stored[asked.number as usize], true) {
            self.stored_count += 1;
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contact::Contact;
    use crate::dialect::sealed::contact_at;

    fn load(mix: Mix) -> Load {
        Load::new(Request { mix, keys: 3, size: 64, replication: 1, certified: false, seed: 7 })
    }

    fn frame(message: &Message<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        Sealed::encode(message, &mut out);
        out
    }

    fn ask(load: &mut Load, at_ms: u64) -> Option<(SentRequest, Vec<u8>)> {
        let mut out = Vec::new();
        load.ask(Time::from_ms(at_ms), &mut out).map(|asked| (asked, out))
    }

    #[test]
    fn values_are_put_first_and_again_before_their_time() {
        let mut load = load(&[(Op::FindValue, 1)]);
        for number in 0..3 {
            let (asked, _) = ask(&mut load, 1).unwrap();
            assert_eq!(asked, SentRequest { op: Op::Put, number, is_upkeep: true });
            assert!(!load.is_ready());
            let answer = frame(&Message::Success { key: load.keys[number as usize], value: &[] });
            if number == 2 {
                assert_eq!(ask(&mut load, 1), None, "nothing to find until all are answered");
            }
            assert_eq!(load.judge(asked, &answer), Verdict::Good);
        }
        assert_eq!(ask(&mut load, 2).unwrap().0.op, Op::FindValue);
        assert!(ask(&mut load, 1 + RENEW_MS).unwrap().0.is_upkeep);
    }

    #[test]
    fn only_the_right_answer_is_good() {
        let mut load = load(&[(Op::FindValue, 1)]);
        let (key, value) = (load.keys[1], load.bytes[1..65].to_vec());
        let other = load.bytes[2..66].to_vec();
        let of = |op| SentRequest { op, number: 1, is_upkeep: false };
        let right = frame(&Message::Value { value: &value });
        let mut damaged = right.clone();
        damaged[9] ^= 1;
        let cases = [
            (Op::FindValue, right, Verdict::Good),
            (Op::FindValue, damaged, Verdict::Wrong),
            (Op::FindValue, frame(&Message::Value { value: &other }), Verdict::Wrong),
            (Op::FindValue, frame(&Message::Node(Nodes::Contacts(&[]))), Verdict::Missing),
            (Op::Get, frame(&Message::Success { key, value: &value }), Verdict::Good),
            (Op::Get, frame(&Message::Success { key: load.keys[0], value: &value }), Verdict::Wrong),
            (Op::Get, frame(&Message::Failure { key }), Verdict::Missing),
            (Op::Put, frame(&Message::Success { key, value: &[] }), Verdict::Good),
            (Op::Put, frame(&Message::Success { key: load.keys[2], value: &[] }), Verdict::Wrong),
            (Op::Put, frame(&Message::Error { code: 6, text: b"full" }), Verdict::Refused(6)),
            (Op::Ping, frame(&Message::Pong { nonce: 1 }), Verdict::Good),
            (Op::Ping, frame(&Message::Pong { nonce: 2 }), Verdict::Wrong),
        ];
        for (op, answer, verdict) in cases {
            assert_eq!(load.judge(of(op), &answer), verdict, "{op:?}");
        }
    }

    #[test]
    fn contacts_must_be_genuine_and_nearest_first() {
        let mut load = load(&[(Op::FindNode, 1)]);
        let key = load.keys[0];
        let mut contacts: Vec<Contact> = (1..9).map(|port| contact_at(([127, 0, 0, 1], port).into())).collect();
        contacts.sort_by_key(|contact| key.distance(&contact.id));
        let asked = SentRequest { op: Op::FindNode, number: 0, is_upkeep: false };
        let judge = |load: &mut Load, c: &[Contact]| load.judge(asked, &frame(&Message::Node(Nodes::Contacts(c))));
        assert_eq!(judge(&mut load, &contacts), Verdict::Good);
        contacts.swap(2, 3);
        assert_eq!(judge(&mut load, &contacts), Verdict::Wrong);
        contacts.swap(2, 3);
        contacts[7].addr.set_port(99);
        assert_eq!(judge(&mut load, &contacts), Verdict::Wrong);
    }
}
