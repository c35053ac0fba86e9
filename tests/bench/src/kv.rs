//! What is asked of redis, valkey and memcached: the same keys' length, the same values' sizes, an expiry on every value.
//! Implements dayfly's `Workload`, so that one load loop measures them all.

use std::collections::VecDeque;

use dayfly::load::{Garbled, Op, SentRequest, Verdict, Workload};
use dayfly::time::Time;

/// Which text protocol.
#[derive(Copy, Clone, PartialEq, Eq)]
pub enum Speech {
    Redis,
    Memcached,
}

/// PING (`version` at memcached), GET or SETEX of random keys.
pub struct Kv {
    speech: Speech,
    op: Op,
    keys: u32,
    values: Vec<u8>,
    size: usize,
    to_store: VecDeque<u32>,
    stored: u32,
    rng: fastrand::Rng,
}

/// Seconds; long, as nothing renews these values.
const TTL_S: u32 = 3_600;

impl Kv {
    pub fn new(speech: Speech, op: Op, keys: u32, size: usize) -> Kv {
        let mut rng = fastrand::Rng::with_seed(7);
        let letters = || rng.alphanumeric() as u8;
        let values = std::iter::repeat_with(letters).take(size + 4_096).collect();
        let to_store = if op == Op::FindValue { (0..keys).collect() } else { VecDeque::new() };
        Kv { speech, op, keys, values, size, to_store, stored: 0, rng: fastrand::Rng::with_seed(8) }
    }

    fn value(&self, number: u32) -> &[u8] {
        &self.values[number as usize % 4_096..][..self.size]
    }

    fn encode(&self, op: Op, number: u32, out: &mut Vec<u8>) {
        let key = format!("{number:032x}");
        let (value, size) = (self.value(number), self.size);
        let text = match (self.speech, op) {
            (Speech::Redis, Op::Ping) => "*1\r\n$4\r\nPING\r\n".to_string(),
            (Speech::Memcached, Op::Ping) => "version\r\n".to_string(),
            (Speech::Redis, Op::Put) => {
                format!("*4\r\n$5\r\nSETEX\r\n$32\r\n{key}\r\n$4\r\n{TTL_S}\r\n${size}\r\n")
            }
            (Speech::Memcached, Op::Put) => format!("set {key} 0 {TTL_S} {size}\r\n"),
            (Speech::Redis, _) => format!("*2\r\n$3\r\nGET\r\n$32\r\n{key}\r\n"),
            (Speech::Memcached, _) => format!("get {key}\r\n"),
        };
        out.extend_from_slice(text.as_bytes());
        if op == Op::Put {
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Where the value lies in a whole answer that has one.
    fn value_in<'a>(&self, answer: &'a [u8]) -> Option<&'a [u8]> {
        let head = line_end(answer)?;
        let tail = if self.speech == Speech::Memcached { 7 } else { 2 };
        answer.get(head..answer.len().checked_sub(tail)?)
    }
}

/// Where the first line of `bytes` ends, its line end included.
fn line_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).take(300).position(|pair| pair == b"\r\n").map(|at| at + 2)
}

impl Workload for Kv {
    fn ask(&mut self, _now: Time, out: &mut Vec<u8>) -> Option<SentRequest> {
        let (op, number, is_upkeep) = match self.to_store.pop_front() {
            Some(number) => (Op::Put, number, true),
            None if self.is_ready() => (self.op, self.rng.u32(..self.keys), false),
            None => return None,
        };
        self.encode(op, number, out);
        Some(SentRequest { op, number, is_upkeep })
    }

    fn is_ready(&self) -> bool {
        self.op != Op::FindValue || self.stored == self.keys
    }

    fn answer_len(&self, bytes: &[u8]) -> Result<Option<usize>, Garbled> {
        let Some(head) = line_end(bytes) else {
            return if bytes.len() > 300 { Err(Garbled) } else { Ok(None) };
        };
        let line = std::str::from_utf8(&bytes[..head - 2]).map_err(|_| Garbled)?;
        let counted = match self.speech {
            Speech::Redis => line.strip_prefix('$').filter(|n| *n != "-1").map(|n| (n, 2)),
            Speech::Memcached => line.strip_prefix("VALUE ").and_then(|rest| rest.split(' ').nth(2)).map(|n| (n, 7)),
        };
        let len = match counted {
            None => head,
            Some((n, tail)) => head + n.parse::<usize>().map_err(|_| Garbled)? + tail,
        };
        Ok(Some(len).filter(|len| *len <= bytes.len()))
    }

    fn judge(&mut self, asked: SentRequest, answer: &[u8]) -> Verdict {
        if asked.is_upkeep {
            self.stored += 1;
        }
        let is_good = match (asked.op, self.speech) {
            (Op::Ping, Speech::Redis) => answer == b"+PONG\r\n",
            (Op::Ping, Speech::Memcached) => answer.starts_with(b"VERSION"),
            (Op::Put, Speech::Redis) => answer == b"+OK\r\n",
            (Op::Put, Speech::Memcached) => answer == b"STORED\r\n",
            _ => self.value_in(answer) == Some(self.value(asked.number)),
        };
        if is_good { Verdict::Good } else { Verdict::Wrong }
    }
}

/// Frames that come back as they are, from `floor --plain`.
pub struct Echo(u32);

impl Echo {
    pub fn new() -> Echo {
        Echo(0)
    }

    /// A frame of a PING's size; its checksum is not one.
    fn frame(number: u32) -> [u8; 40] {
        let mut frame = [7; 40];
        frame[..2].copy_from_slice(&40u16.to_be_bytes());
        frame[4..8].copy_from_slice(&number.to_be_bytes());
        frame
    }
}

impl Workload for Echo {
    fn ask(&mut self, _now: Time, out: &mut Vec<u8>) -> Option<SentRequest> {
        self.0 = self.0.wrapping_add(1);
        out.extend_from_slice(&Echo::frame(self.0));
        Some(SentRequest { op: Op::Ping, number: self.0, is_upkeep: false })
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn answer_len(&self, bytes: &[u8]) -> Result<Option<usize>, Garbled> {
        Ok((bytes.len() >= 40).then_some(40))
    }

    fn judge(&mut self, asked: SentRequest, answer: &[u8]) -> Verdict {
        if answer == Echo::frame(asked.number) { Verdict::Good } else { Verdict::Wrong }
    }
}
