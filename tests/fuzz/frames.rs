//! Well-formed messages from a few bytes, and the addresses they come from and name. Values carry a stamp, so that
//! whoever meets one again can tell whether it belongs to the key and how long it may live.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use dayfly::contact::Contact;
use dayfly::dialect::sealed::codec::{Message, Nodes, kind};
use dayfly::dialect::sealed::contact_at;
use dayfly::dialect::sealed::session::Wire;
use dayfly::id::{Id, Metric};
use dayfly::limits::VALUE_MAX;

use super::codecs::encode;
use super::cursor::Cursor;
use super::talk::Question;

/// Keys in play: few, so that requests meet.
pub const KEYS: usize = 5;
/// The value whose hash is the last of the keys.
const CERTIFIED: &[u8] = b"certified";
/// Most bytes of one burst of requests.
const BURST_BYTES: usize = 100_000;
/// The first byte of a stamp.
const STAMP: u8 = 0xdf;
const STAMP_LEN: usize = 8;

/// What a stamped value says of itself.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Index of its key.
    pub key: u8,
    /// The ttl it was sent with, in seconds.
    pub ttl_s: u16,
    /// Different for each.
    pub serial: u32,
}

/// Reads the stamp of a value that has one.
pub fn stamp_of(value: &[u8]) -> Option<Stamp> {
    let [STAMP, key, t0, t1, s0, s1, s2, s3] = *value.first_chunk::<STAMP_LEN>()? else {
        return None;
    };
    Some(Stamp { key, ttl_s: u16::from_be_bytes([t0, t1]), serial: u32::from_be_bytes([s0, s1, s2, s3]) })
}

/// Makes messages.
#[derive(Debug)]
pub struct Maker {
    /// The keys in play.
    pub keys: [Id; KEYS],
    serial: u32,
    own: IpAddr,
    /// Contacts at [`anywhere`], made when they are first named: each costs a hash.
    contacts: BTreeMap<u8, Contact>,
}

impl Maker {
    /// A maker of messages for a node at `own`.
    pub fn new(own: IpAddr) -> Maker {
        // Hashes, so that no fuzzer puts a forged stamp under one of them.
        let keys = [&b"a"[..], b"b", b"c", b"d", CERTIFIED].map(|text| Id::hash_of(&[text]));
        Maker { keys, serial: 0, own, contacts: BTreeMap::new() }
    }

    /// One request or a burst of the same kind, each with its own stamp.
    pub fn requests(&mut self, wire: Wire, cursor: &mut Cursor<'_>) -> Vec<u8> {
        let (what, which) = (cursor.byte(), cursor.byte());
        let repeat = [1, 1, 1, 1, 2, 5, 20, 70][usize::from(which >> 5)];
        let mut bytes = Vec::new();
        for n in 0..repeat {
            let key = if what < 128 { which } else { which.wrapping_add(n) } % KEYS as u8;
            bytes.extend(self.request(wire, what % 128, key));
            if bytes.len() > BURST_BYTES {
                break;
            }
        }
        bytes
    }

    fn request(&mut self, wire: Wire, what: u8, index: u8) -> Vec<u8> {
        let key = self.keys[usize::from(index)];
        let ttl_s = [9, 0, 1, 11][usize::from(what / 8 % 4)];
        let size = [8, 60, 0, 500, 9, 5_000, 20_000, VALUE_MAX][usize::from(what / 16)];
        let replication = [1, 0, 2, 3, 1, 20, 255, 2][usize::from(what / 8 % 8)];
        let value = match what % 8 {
            1 | 2 => self.value(index, ttl_s, size.max(usize::from(wire == Wire::Api))),
            _ => CERTIFIED.to_vec(),
        };
        let put = Message::Put { ttl_s, replication, key, value: &value };
        let message = match (wire, what % 8) {
            (_, 1 | 2) => put,
            (_, 3) => Message::Get { key },
            (_, 4) => Message::Put { ttl_s, replication, key: self.keys[KEYS - 1], value: &value },
            (Wire::Api, _) => Message::Get { key },
            (_, 5) => Message::FindValue { key },
            (_, 6) => Message::FindNode { key },
            (_, 7) => Message::Ping { nonce: u32::from(what) },
            (_, _) => Message::FindNode { key: contact_at(neighbour(self.own, what)).id },
        };
        encode(wire, &message)
    }

    /// A value of `size` bytes for the key with this index, stamped if there is room.
    pub fn value(&mut self, key: u8, ttl_s: u16, size: usize) -> Vec<u8> {
        self.serial += 1;
        let mut value = vec![0; size];
        if let Some(stamp) = value.first_chunk_mut::<STAMP_LEN>() {
            let ([t0, t1], [s0, s1, s2, s3]) = (ttl_s.to_be_bytes(), self.serial.to_be_bytes());
            *stamp = [STAMP, key, t0, t1, s0, s1, s2, s3];
        }
        value
    }

    /// An answer to `question`: a right one, a poor one, or a wrong one, as `how` says.
    pub fn answer(&mut self, question: &Question, how: u8, list: u8) -> Vec<u8> {
        let Question { kind: asked, key, nonce } = *question;
        let index = self.keys.iter().position(|own| *own == key).unwrap_or(0) as u8;
        let value = self.value(index, 9, [60, 8, 3_000, 0][usize::from(list % 4)]);
        let contacts = self.contacts(list);
        let right = match asked {
            kind::PING => Message::Pong { nonce },
            kind::PUT => Message::Success { key, value: &[] },
            kind::GET if list % 2 == 0 => Message::Success { key, value: &value },
            kind::GET => Message::Failure { key },
            kind::FIND_VALUE if how % 16 == 1 => Message::Value { value: &value },
            kind::FIND_VALUE if how % 16 == 2 => Message::Value { value: CERTIFIED },
            _ => Message::Node(Nodes::Contacts(&contacts)),
        };
        let message = match how % 16 {
            12 => Message::Error { code: u32::from(list), text: &value },
            13 => Message::Pong { nonce: nonce ^ 1 },
            14 => Message::Failure { key: key.with_bit_flipped(usize::from(list)) },
            _ => right,
        };
        let mut frame = encode(Wire::Sealed, &message);
        if how % 16 == 15 {
            let at = 2 + usize::from(list) % (frame.len() - 2);
            frame[at] ^= 0x10;
        }
        frame
    }

    /// A list of contacts: how many, which, and whether one of them lies about its id.
    fn contacts(&mut self, list: u8) -> Vec<Contact> {
        let count = [0, 1, 2, 3, 5, 20, 25, 129][usize::from(list >> 5)];
        let first = list.wrapping_mul(7);
        let named = (0..count).map(|n: u8| first.wrapping_add(n));
        let contact = |n| *self.contacts.entry(n).or_insert_with(|| contact_at(anywhere(self.own, n)));
        let mut contacts: Vec<Contact> = named.map(contact).collect();
        if let Some(liar) = contacts.get_mut(usize::from(list % 32)) {
            liar.id = liar.id.with_bit_flipped(255);
        }
        contacts
    }
}

/// One of 256 addresses of the same reach as `own`, never `own` or [`honest`] itself.
pub fn neighbour(own: IpAddr, n: u8) -> SocketAddr {
    let port = 7_000 + u16::from(n);
    match own {
        IpAddr::V4(v4) if v4.is_loopback() => ([127, 0, 0, 1], port).into(),
        IpAddr::V4(v4) if v4.is_private() => ([10, 1, n % 16, n], 6_500).into(),
        IpAddr::V4(_) => ([8, 8, n % 16, n], 6_500).into(),
        IpAddr::V6(v6) if v6.is_loopback() => (v6, port).into(),
        IpAddr::V6(_) => ([0x2001, 0xdb8, 1, u16::from(n % 16), 0, 0, 0, u16::from(n)], 6_500).into(),
    }
}

/// The one client that never does wrong.
pub fn honest(own: IpAddr) -> SocketAddr {
    match own {
        IpAddr::V4(v4) if v4.is_loopback() => ([127, 0, 0, 1], 50_000).into(),
        IpAddr::V4(v4) if v4.is_private() => ([10, 7, 7, 7], 50_000).into(),
        IpAddr::V4(_) => ([7, 7, 7, 7], 50_000).into(),
        IpAddr::V6(v6) if v6.is_loopback() => (v6, 50_000).into(),
        IpAddr::V6(_) => ([0x2001, 0xdb8, 7, 7, 7, 7, 7, 7], 50_000).into(),
    }
}

/// Where a client may come from: of `own`'s family, mostly a neighbour.
pub fn client(own: IpAddr, n: u8) -> SocketAddr {
    match (own, n) {
        (_, 0..=239) => neighbour(own, n % 60),
        (IpAddr::V4(_), 240..=244) => ([127, 0, 0, 1], u16::from(n)).into(),
        (IpAddr::V4(_), 245..=249) => ([10, 0, 9, 9], u16::from(n)).into(),
        (IpAddr::V4(_), _) => ([8, 9, 9, 9], u16::from(n)).into(),
        (IpAddr::V6(_), 240..=249) => ([0xfd00, 0, 0, 0, 0, 0, 0, 9], u16::from(n)).into(),
        (IpAddr::V6(_), _) => ([0x2001, 0xdb8, 9, 9, 0, 0, 0, u16::from(n)], 1).into(),
    }
}

/// An address as a stranger may name it: mostly a neighbour of `own`, sometimes one that is no contact's.
pub fn anywhere(own: IpAddr, n: u8) -> SocketAddr {
    match n {
        230 => (own, 6_500).into(),
        231 => (own, 0).into(),
        232 => ([0, 0, 0, 0], 1).into(),
        233 => ([224, 0, 0, 1], 1).into(),
        234 => ([255, 255, 255, 255], 1).into(),
        235 => ([127, 0, 0, 1], 1).into(),
        236 => ([10, 0, 0, 9], 1).into(),
        237 => ([169, 254, 0, 9], 1).into(),
        238 => ([8, 8, 8, 8], 0).into(),
        239 => ([0, 0, 0, 0, 0, 0xffff, 0x0808, 0x0808], 1).into(),
        240 => ([0, 0, 0, 0, 0, 0, 0, 0], 1).into(),
        241 => ([0xff02, 0, 0, 0, 0, 0, 0, 1], 1).into(),
        242 => ([0xfe80, 0, 0, 0, 0, 0, 0, 1], 1).into(),
        243 => ([0xfd00, 0, 0, 0, 0, 0, 0, 1], 1).into(),
        244 => ([0, 0, 0, 0, 0, 0, 0, 1], 1).into(),
        245 => ([0x2001, 0xdb8, 9, 0, 0, 0, 0, 1], 1).into(),
        246 => ([9, 8, 7, 6], 1).into(),
        _ => neighbour(own, n),
    }
}
