//! Bytes and messages of the toy: `kind u8 | length of the body u32 | body`, big-endian. Never allocates while decoding.

use super::{LARGE_MAX, TEXT_MAX, WHILE_MAX_MS};
use crate::dialect::Codec;

/// Bytes before the body.
pub const HEADER: usize = 5;
/// Bytes before what a LARGE carries.
pub const LARGE_HEAD: usize = HEADER + 4;
/// What every HELLO begins with, so that another protocol is told by its first bytes.
pub const HELLO_START: [u8; 9] = [1, 0, 0, 0, 12, b't', b'o', b'y', b'!'];

/// A message.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// 1: the first word of both sides.
    Hello {
        /// Of the node; 0 for a client, which is no neighbour.
        name: u64,
    },
    /// 2: send me some bytes.
    Ask {
        /// Repeated by the answer.
        id: u32,
        /// Not before so many milliseconds have passed.
        after_ms: u16,
        /// How many bytes.
        size: u16,
    },
    /// 3: to ASK and LARGE.
    Answer {
        /// The request's.
        id: u32,
        /// To ASK: as many as asked for, each the lowest byte of `id`. To LARGE: the hash.
        bytes: &'a [u8],
    },
    /// 4: for everybody.
    Shout {
        /// Of the shout, wherever it comes from.
        id: u64,
        /// What is shouted.
        text: &'a [u8],
    },
    /// 5: to be answered by its hash.
    Large {
        /// Repeated by the answer.
        id: u32,
        /// What it carries.
        bytes: &'a [u8],
    },
    /// 6: means nothing.
    Stuffing(&'a [u8]),
    /// 7: the last word.
    Bye,
}

/// What is wrong with a frame.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// No message of this kind is that long.
    Size,
    /// There is no such kind.
    Kind,
    /// The body does not fit the kind.
    Body,
}

/// The codec.
#[derive(Debug)]
pub struct Toy;

impl Codec for Toy {
    type Message<'a> = Message<'a>;
    type Error = Wrong;

    /// More than an inbox holds: the session gathers a LARGE itself.
    const FRAME_MAX: usize = LARGE_HEAD + LARGE_MAX;

    fn frame_len(bytes: &[u8]) -> Result<Option<usize>, Wrong> {
        let Some(&[kind, a, b, c, d]) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let longest = match kind {
            5 | 6 => LARGE_HEAD - HEADER + LARGE_MAX,
            // An answer of 65,535 bytes, and all that nobody knows.
            _ => 4 + usize::from(u16::MAX),
        };
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len <= longest { Ok(Some(HEADER + len)) } else { Err(Wrong::Size) }
    }

    fn decode(frame: &[u8]) -> Result<Message<'_>, Wrong> {
        let (head, body) = frame.split_at_checked(HEADER).ok_or(Wrong::Size)?;
        let u32_at = |at: usize| body.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        let u64_at = |at: usize| body.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        let message = match head[0] {
            1 if body.starts_with(&HELLO_START[HEADER..]) && body.len() == 12 => {
                u64_at(4).map(|name| Message::Hello { name })
            }
            2 if body.len() == 8 => u32_at(0).zip(u32_at(4)).map(|(id, rest)| {
                let (after_ms, size) = ((rest >> 16) as u16, rest as u16);
                Message::Ask { id, after_ms, size }
            }),
            3 => u32_at(0).map(|id| Message::Answer { id, bytes: &body[4..] }),
            4 => u64_at(0).map(|id| Message::Shout { id, text: &body[8..] }),
            5 => u32_at(0).map(|id| Message::Large { id, bytes: &body[4..] }),
            6 => Some(Message::Stuffing(body)),
            7 if body.is_empty() => Some(Message::Bye),
            1..=7 => None,
            _ => return Err(Wrong::Kind),
        };
        message.filter(is_bounded).ok_or(Wrong::Body)
    }

    fn encode(message: &Message<'_>, out: &mut Vec<u8>) {
        let (kind, fixed, rest): (u8, &[u8], &[u8]) = match message {
            Message::Hello { name } => (1, &[&HELLO_START[HEADER..], &name.to_be_bytes()].concat(), &[]),
            Message::Ask { id, after_ms, size } => {
                let rest = u32::from(*after_ms) << 16 | u32::from(*size);
                (2, &[id.to_be_bytes(), rest.to_be_bytes()].concat(), &[])
            }
            Message::Answer { id, bytes } => (3, &id.to_be_bytes(), bytes),
            Message::Shout { id, text } => (4, &id.to_be_bytes(), text),
            Message::Large { id, bytes } => {
                return {
                    out.extend_from_slice(&large_head(*id, bytes.len()));
                    out.extend_from_slice(bytes);
                };
            }
            Message::Stuffing(bytes) => (6, &[], bytes),
            Message::Bye => (7, &[], &[]),
        };
        out.push(kind);
        out.extend_from_slice(&((fixed.len() + rest.len()) as u32).to_be_bytes());
        out.extend_from_slice(fixed);
        out.extend_from_slice(rest);
    }
}

/// What stands before the bytes of a LARGE, which may come later.
pub fn large_head(id: u32, len: usize) -> [u8; LARGE_HEAD] {
    let ([a, b, c, d], [e, f, g, h]) = ((len as u32 + 4).to_be_bytes(), id.to_be_bytes());
    [5, a, b, c, d, e, f, g, h]
}

/// Reads [`large_head`]: the number, and how many bytes follow. `None` if `bytes` begin with anything else.
pub fn large_head_of(bytes: &[u8]) -> Option<(u32, usize)> {
    let &[5, _, _, _, _, e, f, g, h] = bytes.first_chunk::<LARGE_HEAD>()? else {
        return None;
    };
    let len = Toy::frame_len(bytes).ok()??;
    Some((u32::from_be_bytes([e, f, g, h]), len.checked_sub(LARGE_HEAD)?))
}

fn is_bounded(message: &Message<'_>) -> bool {
    match message {
        Message::Ask { after_ms, .. } => *after_ms <= WHILE_MAX_MS,
        Message::Answer { bytes, .. } => bytes.len() <= usize::from(u16::MAX),
        Message::Shout { text, .. } => text.len() <= TEXT_MAX,
        Message::Large { bytes, .. } => bytes.len() <= LARGE_MAX,
        Message::Stuffing(bytes) => bytes.len() <= LARGE_MAX,
        Message::Hello { .. } | Message::Bye => true,
    }
}
