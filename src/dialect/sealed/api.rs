//! The wire of the VoidPhone API (`--api`): `size u16 | type u16 | body` without a checksum, types 650 to 653 with the
//! bodies of the sealed dialect (docs/protocol-sealed.md, "The VoidPhone API"). It has no error message, so any fault
//! closes the connection. Never allocates while decoding.

use crate::dialect::Codec;
use crate::dialect::sealed::codec::{FrameError, HEADER, Message, decode_body, encode_frame, kind, kind_of};
use crate::limits::VALUE_MAX;

/// Smallest frame: no body.
const FRAME_MIN: usize = HEADER;

/// The codec of the VoidPhone API.
#[derive(Debug)]
pub struct VoidPhone;

impl Codec for VoidPhone {
    type Message<'a> = Message<'a>;
    type Error = FrameError;

    const FRAME_MAX: usize = HEADER + 36 + VALUE_MAX;

    fn frame_len(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some(size) = bytes.first_chunk::<2>() else {
            return Ok(None);
        };
        let size = usize::from(u16::from_be_bytes(*size));
        if (FRAME_MIN..=Self::FRAME_MAX).contains(&size) { Ok(Some(size)) } else { Err(FrameError::Size(size)) }
    }

    /// Decodes a whole frame. Unlike on the sealed listener, an empty PUT is malformed: the VoidPhone specification
    /// requires at least one byte.
    fn decode(frame: &[u8]) -> Result<Message<'_>, FrameError> {
        if frame.len() < FRAME_MIN {
            return Err(FrameError::Size(frame.len()));
        }
        let kind = kind_of(frame);
        match decode_body(kind, &frame[HEADER..])? {
            Message::Put { value: [], .. } => Err(FrameError::Malformed(kind)),
            message if (kind::PUT..=kind::FAILURE).contains(&kind) => Ok(message),
            _ => Err(FrameError::UnknownType(kind)),
        }
    }

    fn encode(message: &Message<'_>, out: &mut Vec<u8>) {
        encode_frame(message, 0, out);
    }
}
