//! One suite over every byte-stream codec: byte by byte equals at once, no panic, no allocation beyond the frame,
//! encode then decode is the identity.

use dayfly::contact::Contact;
use dayfly::dialect::Codec;
use dayfly::dialect::sealed::api::VoidPhone;
use dayfly::dialect::sealed::codec::{Message, Nodes, Sealed};
use dayfly::dialect::sealed::contact_at;
#[cfg(feature = "toy")]
use dayfly::dialect::toy::{
    self, WHILE_MAX_MS,
    codec::{Message as ToyMessage, Toy},
};
use dayfly::id::Id;
use proptest::prelude::*;

/// What a message is made of.
#[derive(Clone, Debug)]
struct Parts {
    kind: u8,
    key: Id,
    nonce: u32,
    bytes: Vec<u8>,
    contacts: Vec<Contact>,
}

impl Parts {
    fn sealed(&self) -> Message<'_> {
        let Parts { key, nonce, bytes, .. } = self;
        let (key, nonce) = (*key, *nonce);
        match self.kind % 11 {
            0 => Message::Put { ttl_s: nonce as u16, replication: (nonce >> 16) as u8, key, value: bytes },
            1 => Message::Get { key },
            2 => Message::Success { key, value: bytes },
            3 => Message::Failure { key },
            4 => Message::Ping { nonce },
            5 => Message::Pong { nonce },
            6 => Message::FindNode { key },
            7 => Message::FindValue { key },
            8 => Message::Error { code: nonce, text: bytes },
            9 => Message::Node(Nodes::Contacts(&self.contacts)),
            _ => Message::Value { value: bytes },
        }
    }

    fn api(&self) -> Message<'_> {
        let Parts { key, nonce, bytes, .. } = self;
        let key = *key;
        match self.kind % 4 {
            0 if !bytes.is_empty() => Message::Put { ttl_s: *nonce as u16, replication: 3, key, value: bytes },
            0 | 1 => Message::Get { key },
            2 => Message::Success { key, value: bytes },
            _ => Message::Failure { key },
        }
    }

    #[cfg(feature = "toy")]
    fn toy(&self) -> ToyMessage<'_> {
        let Parts { kind, nonce: id, bytes, .. } = self;
        let (id, name, after_ms) = (*id, u64::from(*id) << (kind % 32), *id as u16 % (WHILE_MAX_MS + 1));
        match kind % 8 {
            0 => ToyMessage::Hello { name },
            1 => ToyMessage::Ask { id, after_ms, size: (id >> 16) as u16 },
            2 => ToyMessage::Answer { id, bytes },
            3 => ToyMessage::Shout { id: name, text: &bytes[..bytes.len().min(toy::TEXT_MAX)] },
            4 => ToyMessage::Large { id, bytes },
            5 => ToyMessage::Large { id, bytes: &LARGE },
            6 => ToyMessage::Stuffing(bytes),
            _ => ToyMessage::Bye,
        }
    }
}

/// The largest that the toy can say.
#[cfg(feature = "toy")]
static LARGE: [u8; toy::LARGE_MAX] = [9; toy::LARGE_MAX];

fn parts() -> impl Strategy<Value = Parts> {
    let addr = (any::<bool>(), any::<[u8; 16]>(), any::<u16>());
    let contact = addr.prop_map(|(v4, ip, port)| match v4 {
        true => contact_at((<[u8; 4]>::try_from(&ip[..4]).unwrap(), port).into()),
        false => contact_at((ip, port).into()),
    });
    let contacts = prop::collection::vec(contact, 0..200);
    let bytes = prop_oneof![4 => prop::collection::vec(any::<u8>(), 0..200), 1 => Just(vec![7; 65_463])];
    (any::<u8>(), any::<[u8; 32]>(), any::<u32>(), bytes, contacts)
        .prop_map(|(kind, key, nonce, bytes, contacts)| Parts { kind, key: Id(key), nonce, bytes, contacts })
}

fn round_trip<C: Codec>(message: &C::Message<'_>, chop: usize) -> Result<(), TestCaseError> {
    let mut frame = vec![1, 2, 3];
    C::encode(message, &mut frame);
    prop_assert_eq!(&frame[..3], &[1, 2, 3], "encoding appends");
    let frame = &frame[3..];
    prop_assert!(frame.len() <= C::FRAME_MAX);
    for n in (0..frame.len()).step_by(chop.max(1)) {
        let len = C::frame_len(&frame[..n]).expect("the beginning of a frame is no error");
        prop_assert!(len.is_none() || len == Some(frame.len()), "fed piece by piece, the length is the same");
    }
    prop_assert_eq!(C::frame_len(frame).unwrap(), Some(frame.len()));
    prop_assert!(reencoded::<C>(frame).as_deref() == Some(frame), "{:?} is decoded to itself", message);
    Ok(())
}

/// The frame of the message in `frame`, if there is a good one.
fn reencoded<C: Codec>(frame: &[u8]) -> Option<Vec<u8>> {
    let message = C::decode(frame).ok()?;
    let mut again = Vec::new();
    C::encode(&message, &mut again);
    Some(again)
}

fn never_panics<C: Codec>(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(Some(len)) = C::frame_len(bytes) {
        prop_assert!(len <= C::FRAME_MAX);
        if let Some(once) = bytes.get(..len).and_then(reencoded::<C>) {
            prop_assert_eq!(reencoded::<C>(&once), Some(once));
        }
    }
    let _ = C::decode(bytes);
    Ok(())
}

/// A frame of the sealed dialect around any body, with its checksum right, so that the body is judged.
fn sealed_frame(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = ((36 + body.len()) as u16).to_be_bytes().to_vec();
    frame.extend(kind.to_be_bytes());
    frame.extend(body);
    let checksum = Id::hash_of(&[&frame[2..]]);
    frame.extend(checksum.0);
    frame
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn sealed_round_trips(parts in parts(), chop in 1usize..400) {
        round_trip::<Sealed>(&parts.sealed(), chop)?;
    }

    #[test]
    fn api_round_trips(parts in parts(), chop in 1usize..400) {
        round_trip::<VoidPhone>(&parts.api(), chop)?;
    }

    #[cfg(feature = "toy")]
    #[test]
    fn toy_round_trips(parts in parts(), chop in 1usize..40_000) {
        round_trip::<Toy>(&parts.toy(), chop)?;
    }

    #[cfg(feature = "toy")]
    #[test]
    fn mutations_of_toy_frames_never_panic(parts in parts(), at: prop::sample::Index, with: u8, kind in 0u8..10) {
        let mut frame = Vec::new();
        Toy::encode(&parts.toy(), &mut frame);
        let at = at.index(frame.len().min(40));
        frame[at] ^= with;
        never_panics::<Toy>(&frame)?;
        frame[0] = kind;
        never_panics::<Toy>(&frame)?;
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        never_panics::<Sealed>(&bytes)?;
        never_panics::<VoidPhone>(&bytes)?;
        #[cfg(feature = "toy")]
        never_panics::<Toy>(&bytes)?;
    }

    #[test]
    fn any_body_of_any_type_never_panics(kind in 640u16..670, body in prop::collection::vec(any::<u8>(), 0..300)) {
        never_panics::<Sealed>(&sealed_frame(kind, &body))?;
        let mut plain = ((4 + body.len()) as u16).to_be_bytes().to_vec();
        plain.extend(kind.to_be_bytes());
        plain.extend(&body);
        never_panics::<VoidPhone>(&plain)?;
    }

    #[test]
    fn mutations_of_good_frames_never_panic(parts in parts(), at: prop::sample::Index, with: u8, cut: prop::sample::Index) {
        let mut frame = Vec::new();
        Sealed::encode(&parts.sealed(), &mut frame);
        let at = at.index(frame.len());
        frame[at] ^= with;
        prop_assert!(with == 0 || at < 2 || Sealed::decode(&frame).is_err(), "every flipped bit is noticed");
        frame.truncate(cut.index(frame.len() + 1));
        never_panics::<Sealed>(&frame)?;
    }
}
