//! Encodes and decodes messages of the sealed dialect: `size u16 | type u16 | body | SHA-256(type, body)`, big-endian
//! (docs/protocol-sealed.md, "Frames"). Checks a frame in the order size, checksum, type, body. Never allocates while
//! decoding.
//!
//! ```
//! use dayfly::dialect::Codec;
//! use dayfly::dialect::sealed::codec::{FrameError, Message, Sealed};
//!
//! let mut frame = Vec::new();
//! Sealed::encode(&Message::Ping { nonce: 7 }, &mut frame);
//! assert_eq!(Sealed::frame_len(&frame), Ok(Some(40)));
//! assert_eq!(Sealed::decode(&frame), Ok(Message::Ping { nonce: 7 }));
//! frame[5] ^= 1;
//! assert_eq!(Sealed::decode(&frame), Err(FrameError::Checksum));
//! ```

use std::net::{IpAddr, SocketAddr};

use crate::contact::Contact;
use crate::dialect::Codec;
use crate::hash::sha256;
use crate::id::Id;
use crate::limits::FRAME_MAX;

/// Bytes before the body: size and type.
pub const HEADER: usize = 4;
/// Bytes after the body: the checksum.
pub const TRAILER: usize = 32;
/// Bytes of the smallest frame, which has no body.
pub const FRAME_MIN: usize = HEADER + TRAILER;
/// Bytes before the value in the body of a PUT.
pub const PUT_HEAD: usize = 36;

/// The checksum at the end of a frame.
pub type Seal = [u8; TRAILER];

/// Message types, numbered as in the seed (docs/protocol-sealed.md, "Messages").
pub mod kind {
    #![allow(missing_docs)]
    pub const PUT: u16 = 650;
    pub const GET: u16 = 651;
    pub const SUCCESS: u16 = 652;
    pub const FAILURE: u16 = 653;
    pub const PING: u16 = 654;
    pub const PONG: u16 = 655;
    pub const FIND_NODE: u16 = 656;
    pub const FIND_VALUE: u16 = 657;
    pub const ERROR: u16 = 658;
    pub const NODE: u16 = 659;
    pub const VALUE: u16 = 660;
}

/// Why a request failed (seed silent: docs/protocol-sealed.md, "Errors").
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    /// The checksum does not match.
    Checksum,
    /// A known type whose body does not fit it, or an impossible size.
    Malformed,
    /// An unknown type, or an answer although nothing was asked.
    UnknownType,
    /// The value exceeds this node's limit.
    TooLarge,
    /// The node has no capacity left; try again.
    Busy,
    /// The store has reached a limit.
    Full,
    /// The PUT would replace a self-certifying value.
    Refused,
    /// No node would hold the value.
    Unreachable,
}

impl ErrorCode {
    /// All codes, ordered by their number on the wire.
    pub const ALL: [ErrorCode; 8] = [
        ErrorCode::Checksum,
        ErrorCode::Malformed,
        ErrorCode::UnknownType,
        ErrorCode::TooLarge,
        ErrorCode::Busy,
        ErrorCode::Full,
        ErrorCode::Refused,
        ErrorCode::Unreachable,
    ];

    /// The code's number on the wire, 1 to 8.
    pub fn code(self) -> u32 {
        1 + self as u32
    }

    /// The code with this number; `None` for an unassigned number.
    pub fn from_code(code: u32) -> Option<ErrorCode> {
        Self::ALL.into_iter().find(|e| e.code() == code)
    }

    /// The text for people that is sent with the code; below [`crate::limits::ERROR_TEXT`] bytes.
    pub fn text(self) -> &'static str {
        match self {
            ErrorCode::Checksum => "checksum does not match",
            ErrorCode::Malformed => "malformed message",
            ErrorCode::UnknownType => "unknown type, or an answer to nothing",
            ErrorCode::TooLarge => "value too large for this node",
            ErrorCode::Busy => "busy, try again",
            ErrorCode::Full => "store full",
            ErrorCode::Refused => "would displace a self-certifying value",
            ErrorCode::Unreachable => "no node would hold the value",
        }
    }

    /// The ERROR message with this code and its text.
    pub fn message(self) -> Message<'static> {
        Message::Error { code: self.code(), text: self.text().as_bytes() }
    }
}

/// A message of the seed, which borrows from its frame or from the code that answers
/// (docs/protocol-sealed.md, "Messages").
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// 650 PUT: store `value` under `key` for `ttl_s` seconds on `replication` nodes.
    Put {
        /// The lifetime in seconds; 0 asks for the longest.
        ttl_s: u16,
        /// 0 or 1: the recipient stores the value; 2 and more: it coordinates the PUT.
        replication: u8,
        /// The key of the value.
        key: Id,
        /// The value, 0 to 65,463 bytes.
        value: &'a [u8],
    },
    /// 651 GET: find the value of `key` in the network.
    Get {
        /// The key of the value.
        key: Id,
    },
    /// 652 SUCCESS: the answer to PUT, with an empty value, and to GET.
    Success {
        /// The key of the request.
        key: Id,
        /// The value found; empty for a PUT.
        value: &'a [u8],
    },
    /// 653 FAILURE: nobody has a value of the key.
    Failure {
        /// The key of the request.
        key: Id,
    },
    /// 654 PING: is the recipient alive, and does it speak the dialect?
    Ping {
        /// A number that the PONG repeats.
        nonce: u32,
    },
    /// 655 PONG: the answer to PING.
    Pong {
        /// The number from the PING.
        nonce: u32,
    },
    /// 656 FIND_NODE: name the contacts nearest to `key` that you know.
    FindNode {
        /// The target.
        key: Id,
    },
    /// 657 FIND_VALUE: send the value of `key` if you hold it, or else name the contacts nearest to it.
    FindValue {
        /// The target.
        key: Id,
    },
    /// 658 ERROR: the request failed.
    Error {
        /// The number of an [`ErrorCode`], or an unassigned number.
        code: u32,
        /// Text for people. The recipient accepts any bytes.
        text: &'a [u8],
    },
    /// 659 NODE: contacts near the target. (The seed's drawing shows the type word of FIND_NODE; its list says 659.)
    Node(Nodes<'a>),
    /// 660 VALUE: the value that the sender holds.
    Value {
        /// The value.
        value: &'a [u8],
    },
    /// 660 VALUE again, only for sending: a value whose checksum was computed earlier. Decoding never returns it.
    ValueWithChecksum {
        /// The value.
        value: &'a [u8],
        /// The checksum, as [`seal_of_value`] computed it.
        seal: &'a Seal,
    },
}

impl Message<'_> {
    /// The message's type number.
    pub fn kind(&self) -> u16 {
        match self {
            Message::Put { .. } => kind::PUT,
            Message::Get { .. } => kind::GET,
            Message::Success { .. } => kind::SUCCESS,
            Message::Failure { .. } => kind::FAILURE,
            Message::Ping { .. } => kind::PING,
            Message::Pong { .. } => kind::PONG,
            Message::FindNode { .. } => kind::FIND_NODE,
            Message::FindValue { .. } => kind::FIND_VALUE,
            Message::Error { .. } => kind::ERROR,
            Message::Node(_) => kind::NODE,
            Message::Value { .. } | Message::ValueWithChecksum { .. } => kind::VALUE,
        }
    }
}

/// The entries of a NODE: either bytes of a frame, whose shape has been checked, or contacts to send.
#[derive(Copy, Clone, Debug)]
pub enum Nodes<'a> {
    /// Bytes of whole entries with known ip_types.
    Wire(&'a [u8]),
    /// Contacts to send.
    Contacts(&'a [Contact]),
}

impl<'a> Nodes<'a> {
    /// Checks that `body` consists of whole entries with known ip_types.
    fn check(body: &'a [u8]) -> Option<Nodes<'a>> {
        let mut rest = body;
        while !rest.is_empty() {
            rest = rest.get(entry_len(rest[0])?..)?;
        }
        Some(Nodes::Wire(body))
    }

    /// Iterates over the entries. Their ids have not been checked: an id need not belong to its address.
    pub fn iter(&self) -> NodesIter<'a> {
        NodesIter(*self)
    }
}

impl PartialEq for Nodes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Nodes<'_> {}

/// Iterator over the entries of a NODE.
#[derive(Clone, Debug)]
pub struct NodesIter<'a>(Nodes<'a>);

impl Iterator for NodesIter<'_> {
    type Item = Contact;

    fn next(&mut self) -> Option<Contact> {
        match &mut self.0 {
            Nodes::Contacts(contacts) => {
                let (first, rest) = contacts.split_first()?;
                *contacts = rest;
                Some(*first)
            }
            Nodes::Wire(bytes) => {
                let (entry, rest) = bytes.split_at_checked(entry_len(*bytes.first()?)?)?;
                *bytes = rest;
                let (addr, id) = entry[1..].split_at(entry.len() - 33);
                let (ip, port) = addr.split_at(addr.len() - 2);
                let ip = match <[u8; 4]>::try_from(ip) {
                    Ok(v4) => IpAddr::from(v4),
                    Err(_) => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
                };
                let port = u16::from_be_bytes([port[0], port[1]]);
                Some(Contact { id: Id::from_slice(id)?, addr: SocketAddr::new(ip, port) })
            }
        }
    }
}

/// The bytes of an entry with this ip_type; `None` for an unknown type.
fn entry_len(ip_type: u8) -> Option<usize> {
    match ip_type {
        4 => Some(1 + 4 + 2 + 32),
        6 => Some(1 + 16 + 2 + 32),
        _ => None,
    }
}

/// Why a frame can't be decoded.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// The size is impossible, so it is unknown where the next frame begins.
    Size(usize),
    /// The checksum does not match.
    Checksum,
    /// No message has this type.
    UnknownType(u16),
    /// The body does not fit the type.
    Malformed(u16),
}

/// The type word of a frame. Panics if `frame` has fewer than [`HEADER`] bytes.
pub fn kind_of(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[2], frame[3]])
}

/// Whether `kind` is the type of a request.
pub fn is_request(kind: u16) -> bool {
    matches!(kind, kind::PUT | kind::GET | kind::PING | kind::FIND_NODE | kind::FIND_VALUE)
}

/// Whether `kind` is the type of an answer.
pub fn is_answer(kind: u16) -> bool {
    (kind::PUT..=kind::VALUE).contains(&kind) && !is_request(kind)
}

/// Whether the trailer of a whole frame is the checksum of the type and the body. May panic if `frame` has fewer than
/// [`FRAME_MIN`] bytes.
pub fn checksum_matches(frame: &[u8]) -> bool {
    let (covered, trailer) = frame.split_at(frame.len() - TRAILER);
    sha256(&covered[2..]) == trailer
}

/// The checksum of the VALUE frame that carries `value`.
pub fn seal_of_value(value: &[u8]) -> Seal {
    Id::hash_of(&[&kind::VALUE.to_be_bytes(), value]).0
}

/// Decodes the body of a message of type `kind`. Both listeners use it, because they share the bodies.
///
/// Errors: `UnknownType`, or `Malformed` if the body does not fit the type.
pub fn decode_body(kind: u16, body: &[u8]) -> Result<Message<'_>, FrameError> {
    let malformed = FrameError::Malformed(kind);
    let key = |bytes: &[u8]| Id::from_slice(bytes).ok_or(malformed);
    let nonce = |bytes: &[u8]| bytes.try_into().map(u32::from_be_bytes).map_err(|_| malformed);
    Ok(match kind {
        kind::PUT => {
            let (head, value) = body.split_at_checked(PUT_HEAD).ok_or(malformed)?;
            let ttl_s = u16::from_be_bytes([head[0], head[1]]);
            Message::Put { ttl_s, replication: head[2], key: key(&head[4..])?, value }
        }
        kind::SUCCESS => {
            let (head, value) = body.split_at_checked(32).ok_or(malformed)?;
            Message::Success { key: key(head)?, value }
        }
        kind::ERROR => {
            let (head, text) = body.split_at_checked(4).ok_or(malformed)?;
            Message::Error { code: nonce(head)?, text }
        }
        kind::GET => Message::Get { key: key(body)? },
        kind::FAILURE => Message::Failure { key: key(body)? },
        kind::PING => Message::Ping { nonce: nonce(body)? },
        kind::PONG => Message::Pong { nonce: nonce(body)? },
        kind::FIND_NODE => Message::FindNode { key: key(body)? },
        kind::FIND_VALUE => Message::FindValue { key: key(body)? },
        kind::NODE => Message::Node(Nodes::check(body).ok_or(malformed)?),
        kind::VALUE => Message::Value { value: body },
        other => return Err(FrameError::UnknownType(other)),
    })
}

/// Appends the frame of `message` to `out`, without its last `trailer` bytes, which the size field includes. Both
/// listeners use it.
pub fn encode_frame(message: &Message<'_>, trailer: usize, out: &mut Vec<u8>) {
    // The fixed fields are appended as one piece and the rest as another: for small messages, the number of pieces
    // determines the cost.
    let mut head = [0; HEADER + PUT_HEAD];
    let (fixed, rest): (usize, &[u8]) = match message {
        Message::Put { ttl_s, replication, key, value } => {
            head[HEADER..HEADER + 2].copy_from_slice(&ttl_s.to_be_bytes());
            head[HEADER + 2] = *replication;
            head[HEADER + 4..].copy_from_slice(&key.0);
            (PUT_HEAD, value)
        }
        Message::Success { key, value } => {
            head[HEADER..HEADER + 32].copy_from_slice(&key.0);
            (32, value)
        }
        Message::Get { key } | Message::Failure { key } | Message::FindNode { key } | Message::FindValue { key } => {
            head[HEADER..HEADER + 32].copy_from_slice(&key.0);
            (32, &[])
        }
        Message::Ping { nonce } | Message::Pong { nonce } => {
            head[HEADER..HEADER + 4].copy_from_slice(&nonce.to_be_bytes());
            (4, &[])
        }
        Message::Error { code, text } => {
            head[HEADER..HEADER + 4].copy_from_slice(&code.to_be_bytes());
            (4, text)
        }
        Message::Node(nodes) => return encode_nodes(nodes, trailer, out),
        Message::Value { value } | Message::ValueWithChecksum { value, .. } => (0, value),
    };
    let size = HEADER + fixed + rest.len() + trailer;
    head[..HEADER].copy_from_slice(&header(size, message.kind()));
    out.reserve(size);
    out.extend_from_slice(&head[..HEADER + fixed]);
    out.extend_from_slice(rest);
}

fn encode_nodes(nodes: &Nodes<'_>, trailer: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    nodes.iter().for_each(|contact| encode_entry(&contact, out));
    let size = out.len() - start + trailer;
    out[start..start + HEADER].copy_from_slice(&header(size, kind::NODE));
}

fn header(size: usize, kind: u16) -> [u8; HEADER] {
    debug_assert!(size <= FRAME_MAX, "a frame of {size} bytes");
    let ([a, b], [c, d]) = ((size as u16).to_be_bytes(), kind.to_be_bytes());
    [a, b, c, d]
}

fn encode_entry(contact: &Contact, out: &mut Vec<u8>) {
    let mut entry = [0; 51];
    let len = match contact.addr.ip() {
        IpAddr::V4(ip) => {
            entry[0] = 4;
            entry[1..5].copy_from_slice(&ip.octets());
            39
        }
        IpAddr::V6(ip) => {
            entry[0] = 6;
            entry[1..17].copy_from_slice(&ip.octets());
            51
        }
    };
    entry[len - 34..len - 32].copy_from_slice(&contact.addr.port().to_be_bytes());
    entry[len - 32..len].copy_from_slice(&contact.id.0);
    out.extend_from_slice(&entry[..len]);
}

/// The codec of the sealed dialect.
#[derive(Debug)]
pub struct Sealed;

impl Codec for Sealed {
    type Message<'a> = Message<'a>;
    type Error = FrameError;

    const FRAME_MAX: usize = FRAME_MAX;

    fn frame_len(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some(size) = bytes.first_chunk::<2>() else {
            return Ok(None);
        };
        let size = usize::from(u16::from_be_bytes(*size));
        if size < FRAME_MIN { Err(FrameError::Size(size)) } else { Ok(Some(size)) }
    }

    fn decode(frame: &[u8]) -> Result<Message<'_>, FrameError> {
        if frame.len() < FRAME_MIN {
            return Err(FrameError::Size(frame.len()));
        }
        if !checksum_matches(frame) {
            return Err(FrameError::Checksum);
        }
        decode_body(kind_of(frame), &frame[HEADER..frame.len() - TRAILER])
    }

    fn encode(message: &Message<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        encode_frame(message, TRAILER, out);
        match message {
            Message::ValueWithChecksum { seal, .. } => out.extend_from_slice(*seal),
            _ => {
                let checksum = sha256(&out[start + 2..]);
                out.extend_from_slice(&checksum);
            }
        }
    }
}
