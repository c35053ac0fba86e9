//! Bytes against the two codecs, with a second opinion on what is a good frame: written from the tables of
//! docs/protocol-sealed.md, not from the code.

use dayfly::dialect::Codec;
use dayfly::dialect::sealed::api::VoidPhone;
use dayfly::dialect::sealed::codec::{FrameError, HEADER, Message, Nodes, Sealed, TRAILER, kind, kind_of};
use dayfly::dialect::sealed::contact_at;
use dayfly::dialect::sealed::session::Wire;
use dayfly::id::Id;
use dayfly::limits::{FRAME_MAX, VALUE_MAX};

use super::cursor::Cursor;

/// See [`super::sealed_codec`].
pub fn sealed(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    match cursor.byte() % 4 {
        0 => check_stream(Wire::Sealed, cursor.rest()),
        1 => {
            let kind = any_kind(&mut cursor);
            check_stream(Wire::Sealed, &sealed_frame(kind, cursor.rest()));
        }
        2 => check_flip(&mut cursor),
        _ => check_message(Wire::Sealed, &mut cursor),
    }
}

/// See [`super::voidphone_codec`].
pub fn voidphone(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    match cursor.byte() % 3 {
        0 => check_stream(Wire::Api, cursor.rest()),
        1 => {
            let kind = any_kind(&mut cursor);
            check_stream(Wire::Api, &plain_frame(kind, cursor.rest()));
        }
        _ => check_message(Wire::Api, &mut cursor),
    }
}

/// The frame length that `bytes` announce on `wire`.
pub fn frame_len(wire: Wire, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    match wire {
        Wire::Sealed => Sealed::frame_len(bytes),
        Wire::Api => VoidPhone::frame_len(bytes),
    }
}

/// The message in a frame of `wire`.
pub fn decode(wire: Wire, frame: &[u8]) -> Result<Message<'_>, FrameError> {
    match wire {
        Wire::Sealed => Sealed::decode(frame),
        Wire::Api => VoidPhone::decode(frame),
    }
}

/// The frame of a message on `wire`.
pub fn encode(wire: Wire, message: &Message<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    match wire {
        Wire::Sealed => Sealed::encode(message, &mut frame),
        Wire::Api => VoidPhone::encode(message, &mut frame),
    }
    frame
}

/// A frame of the sealed dialect around any body, with its checksum right, so that no fuzzer has to find a hash.
pub fn sealed_frame(kind: u16, body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(FRAME_MAX - HEADER - TRAILER)];
    let size = (HEADER + body.len() + TRAILER) as u16;
    let mut frame = [&size.to_be_bytes(), &kind.to_be_bytes(), body].concat();
    let checksum = Id::hash_of(&[&frame[2..]]);
    frame.extend_from_slice(&checksum.0);
    frame
}

/// A frame of the API around any body.
pub fn plain_frame(kind: u16, body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(FRAME_MAX - HEADER)];
    let size = (HEADER + body.len()) as u16;
    [&size.to_be_bytes(), &kind.to_be_bytes(), body].concat()
}

/// A type: mostly one there is, or a neighbour of those, or any.
pub fn any_kind(cursor: &mut Cursor<'_>) -> u16 {
    match cursor.byte() {
        n @ 0..=199 => 649 + u16::from(n) % 13,
        _ => cursor.word(),
    }
}

/// The smallest and the largest frame of a wire.
fn frame_limits(wire: Wire) -> (usize, usize) {
    match wire {
        Wire::Sealed => (36, 65_535),
        Wire::Api => (4, 4 + 36 + VALUE_MAX),
    }
}

/// What docs/protocol-sealed.md, "Messages", says of a body.
fn is_possible(kind: u16, body: &[u8]) -> bool {
    match kind {
        kind::PUT => body.len() >= 36,
        kind::SUCCESS => body.len() >= 32,
        kind::ERROR => body.len() >= 4,
        kind::GET | kind::FAILURE | kind::FIND_NODE | kind::FIND_VALUE => body.len() == 32,
        kind::PING | kind::PONG => body.len() == 4,
        kind::NODE => entries(body).is_some(),
        kind::VALUE => true,
        _ => false,
    }
}

/// How many entries the body of a NODE has, if it is whole ones.
fn entries(body: &[u8]) -> Option<usize> {
    let (mut at, mut count) = (0, 0);
    while at < body.len() {
        at += match body[at] {
            4 => 39,
            6 => 51,
            _ => return None,
        };
        count += 1;
    }
    (at == body.len()).then_some(count)
}

/// What is wrong with a whole frame, judged in the order of docs/protocol-sealed.md, "Frames": size, checksum, type,
/// body.
fn judge(wire: Wire, frame: &[u8]) -> Result<(), FrameError> {
    let trailer = if wire == Wire::Sealed { TRAILER } else { 0 };
    let Some(body_len) = frame.len().checked_sub(HEADER + trailer) else {
        return Err(FrameError::Size(frame.len()));
    };
    let (covered, checksum) = frame.split_at(HEADER + body_len);
    if wire == Wire::Sealed && Id::hash_of(&[&covered[2..]]).0 != checksum {
        return Err(FrameError::Checksum);
    }
    let (kind, body) = (kind_of(frame), &covered[HEADER..]);
    let last = if wire == Wire::Sealed { 660 } else { 653 };
    if !(650..=last).contains(&kind) {
        return Err(FrameError::UnknownType(kind));
    }
    let is_empty_put = wire == Wire::Api && kind == kind::PUT && body.len() == 36;
    if is_possible(kind, body) && !is_empty_put { Ok(()) } else { Err(FrameError::Malformed(kind)) }
}

/// Parses `bytes` into frames as they come and checks each; then the whole as a frame, whatever its size field says.
fn check_stream(wire: Wire, bytes: &[u8]) {
    check_frame(wire, bytes);
    let mut rest = bytes;
    while let Some(len) = check_length(wire, rest).filter(|len| *len <= rest.len()) {
        let (frame, behind) = rest.split_at(len);
        check_frame(wire, frame);
        rest = behind;
    }
}

/// The length of the first frame: told by the first two bytes, and the same however many more have come.
fn check_length(wire: Wire, bytes: &[u8]) -> Option<usize> {
    let (least, most) = frame_limits(wire);
    for n in 0..bytes.len().min(2) {
        assert_eq!(frame_len(wire, &bytes[..n]), Ok(None), "{n} bytes tell nothing");
    }
    let size = usize::from(u16::from_be_bytes(*bytes.first_chunk::<2>()?));
    let want = if (least..=most).contains(&size) { Ok(Some(size)) } else { Err(FrameError::Size(size)) };
    for n in (2..bytes.len().min(6)).chain([bytes.len()]) {
        assert_eq!(frame_len(wire, &bytes[..n]), want, "the length fed byte by byte is the length at once");
    }
    want.ok().flatten()
}

/// One frame: judged as by the book; if good, encoded to the same bytes and decoded to the same message again.
fn check_frame(wire: Wire, frame: &[u8]) {
    let message = match (decode(wire, frame), judge(wire, frame)) {
        (Ok(message), Ok(())) => message,
        (Err(_), Err(FrameError::UnknownType(_))) if wire == Wire::Api => return,
        (Err(got), Err(want)) => return assert_eq!(got, want, "what is wrong with {frame:02x?}"),
        (got, want) => panic!("{got:?}, by the book {want:?}: {frame:02x?}"),
    };
    // A frame that `decode` takes may have any size field; its bytes come back only if that one is true.
    let fits = frame.len() <= frame_limits(wire).1;
    if !fits {
        return;
    }
    let again = encode(wire, &message);
    assert!(again.capacity() <= 2 * FRAME_MAX, "no allocation beyond a frame");
    assert_eq!(decode(wire, &again).as_ref(), Ok(&message), "decoding is the inverse of encoding");
    let is_reserved_set = kind_of(frame) == kind::PUT && frame[HEADER + 3] != 0;
    if frame_len(wire, frame) == Ok(Some(frame.len())) && !is_reserved_set {
        assert!(again == frame, "{message:?} is encoded to the byte");
    }
    if let Message::Node(nodes) = message {
        check_entries(&nodes, entries(&frame[HEADER..frame.len() - TRAILER]));
    }
}

fn check_entries(nodes: &Nodes<'_>, want: Option<usize>) {
    assert_eq!(Some(nodes.iter().count()), want, "every entry is seen");
    let contacts: Vec<_> = nodes.iter().collect();
    assert_eq!(*nodes, Nodes::Contacts(&contacts), "entries of the wire equal the contacts they name");
}

/// A good frame with one bit wrong behind its size is noticed.
fn check_flip(cursor: &mut Cursor<'_>) {
    let (kind, at, bit) = (any_kind(cursor), cursor.word(), cursor.below(8));
    let mut frame = sealed_frame(kind, cursor.rest());
    let at = 2 + usize::from(at) % (frame.len() - 2);
    frame[at] ^= 1 << bit;
    assert_eq!(decode(Wire::Sealed, &frame), Err(FrameError::Checksum), "bit {bit} of byte {at}");
    check_stream(Wire::Sealed, &frame);
}

/// A message of ours survives the wire.
fn check_message(wire: Wire, cursor: &mut Cursor<'_>) {
    let kinds = if wire == Wire::Sealed { 11 } else { 4 };
    let (kind, nonce) = (cursor.below(kinds), u32::from(cursor.word()) << 16 | u32::from(cursor.word()));
    let key = Id::hash_of(&[cursor.take(2)]);
    let large = vec![7; if cursor.byte() < 250 { 0 } else { VALUE_MAX }];
    let rest = cursor.rest();
    let bytes = if large.is_empty() { rest } else { &large };
    let contacts: Vec<_> = rest.chunks(7).take(1_000).map(|chunk| contact_at(address(chunk))).collect();
    let message = match kind {
        0 if bytes.is_empty() && wire == Wire::Api => return,
        0 => Message::Put { ttl_s: nonce as u16, replication: (nonce >> 16) as u8, key, value: bytes },
        1 => Message::Get { key },
        2 => Message::Success { key, value: bytes },
        3 => Message::Failure { key },
        4 => Message::Ping { nonce },
        5 => Message::Pong { nonce },
        6 => Message::FindNode { key },
        7 => Message::FindValue { key },
        8 => Message::Error { code: nonce, text: bytes },
        9 => Message::Node(Nodes::Contacts(&contacts)),
        _ => Message::Value { value: bytes },
    };
    let frame = encode(wire, &message);
    assert_eq!(decode(wire, &frame), Ok(message), "what we send is understood");
    check_stream(wire, &frame);
}

/// An address made of up to seven bytes: the first decides the family.
fn address(bytes: &[u8]) -> std::net::SocketAddr {
    let mut all = [0; 16];
    all[..bytes.len()].copy_from_slice(bytes);
    let port = u16::from_be_bytes([all[5], all[6]]);
    if all[0] % 2 == 0 { ([all[1], all[2], all[3], all[4]], port).into() } else { (all, port).into() }
}
