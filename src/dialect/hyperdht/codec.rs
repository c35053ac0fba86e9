//! The messages of the hyperdht dialect as bytes (docs/protocol-hyperdht.md): a header of two bytes, then protobuf, by
//! prost. Knows the shape of messages only, not what their ids, tokens and addresses mean.

use prost::Message as _;

use crate::limits::DATAGRAM_BYTES;

/// Bit 15 of the header: set in requests.
const REQUEST_BIT: u16 = 0x8000;
/// Bytes of the header.
pub const HEADER_LEN: usize = 2;

/// A transaction id of 15 bits. The requester chooses it and the response repeats it.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Tid(u16);

impl Tid {
    /// The low 15 bits of `number`.
    pub fn new(number: u16) -> Tid {
        Tid(number & !REQUEST_BIT)
    }
}

/// A request. All byte fields are as they arrived; in a decoded request `command` is present.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Request {
    /// The command: [`PING`], [`FIND_NODE`], or a user's command such as [`PEERS`].
    #[prost(string, optional, tag = "1")]
    pub command: Option<String>,
    /// The requester's id; ephemeral nodes leave it out.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub id: Option<Vec<u8>>,
    /// The target: 32 bytes.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub target: Option<Vec<u8>>,
    /// The address that the receiver is to forward this request to.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub forward_request: Option<Vec<u8>>,
    /// In a forwarded request: the address of the original requester, to which the answer goes.
    #[prost(bytes = "vec", optional, tag = "5")]
    pub forward_response: Option<Vec<u8>>,
    /// A token from an earlier response, which makes the request an update.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub roundtrip_token: Option<Vec<u8>>,
    /// A value; its meaning is the command's own.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub value: Option<Vec<u8>>,
}

/// A response.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Response {
    /// The responding node's id; ephemeral nodes leave it out.
    #[prost(bytes = "vec", optional, tag = "1")]
    pub id: Option<Vec<u8>>,
    /// Node entries, the closest to the target first.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub nodes: Option<Vec<u8>>,
    /// A value; its meaning is the command's own.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub value: Option<Vec<u8>>,
    /// The token to send back in an update.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub roundtrip_token: Option<Vec<u8>>,
}

/// The command that asks whether a node is there, and at which address it sees the requester.
pub const PING: &str = "_ping";
/// The command that asks for the nodes closest to a target.
pub const FIND_NODE: &str = "_find_node";
/// The command of lookups and announcements.
pub const PEERS: &str = "peers";

/// The kind of a `peers` request that asks for peers.
pub const LOOKUP: u32 = 0;
/// The kind of a `peers` request that asks for peers and, as an update, announces the sender.
pub const ANNOUNCE: u32 = 1;
/// The kind of a `peers` request that, as an update, withdraws an announcement.
pub const UNANNOUNCE: u32 = 2;

/// The value of a request with the command `peers`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PeersRequest {
    /// [`LOOKUP`], [`ANNOUNCE`] or [`UNANNOUNCE`]. Required.
    #[prost(uint32, optional, tag = "1")]
    pub kind: Option<u32>,
    /// The port of the record. 0 or none stands for the port that the request came from: node.js writes 0, the Go port
    /// leaves it out.
    #[prost(uint32, optional, tag = "2")]
    pub port: Option<u32>,
    /// The requester's address in its local network: 6 bytes.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub local_address: Option<Vec<u8>>,
}

/// The value of a response to it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PeersResponse {
    /// The addresses of peers.
    #[prost(bytes = "vec", optional, tag = "1")]
    pub peers: Option<Vec<u8>>,
    /// Local addresses of peers, 4 bytes each.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub local_peers: Option<Vec<u8>>,
}

impl PeersRequest {
    /// Reads a value; `None` if it cannot be decoded or lacks its required field.
    pub fn read(value: &[u8]) -> Option<PeersRequest> {
        PeersRequest::decode(value).ok().filter(|request| request.kind.is_some())
    }
}

impl PeersResponse {
    /// Reads a value; `None` if it cannot be decoded.
    pub fn read(value: &[u8]) -> Option<PeersResponse> {
        PeersResponse::decode(value).ok()
    }
}

/// What a datagram carries after its header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// A request.
    Request(Request),
    /// A response.
    Response(Response),
}

/// A datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// The transaction that it belongs to.
    pub tid: Tid,
    /// The message.
    pub body: Body,
}

/// Why bytes are not a datagram of this dialect. Such bytes are never answered.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Shorter than the header, or longer than [`DATAGRAM_BYTES`].
    Size,
    /// Not protobuf of this schema, or a request without a command.
    Malformed,
}

impl Datagram {
    /// Reads one whole datagram; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Datagram, Fault> {
        if bytes.len() > DATAGRAM_BYTES {
            return Err(Fault::Size);
        }
        let (header, body) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Fault::Size)?;
        let header = u16::from_be_bytes(*header);
        let body = if header & REQUEST_BIT != 0 {
            let request = Request::decode(body).map_err(|_| Fault::Malformed)?;
            request.command.as_ref().ok_or(Fault::Malformed)?;
            Body::Request(request)
        } else {
            Body::Response(Response::decode(body).map_err(|_| Fault::Malformed)?)
        };
        Ok(Datagram { tid: Tid::new(header), body })
    }

    /// How many bytes it has when it is encoded.
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN
            + match &self.body {
                Body::Request(request) => request.encoded_len(),
                Body::Response(response) => response.encoded_len(),
            }
    }

    /// Appends its bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let bit = match self.body {
            Body::Request(_) => REQUEST_BIT,
            Body::Response(_) => 0,
        };
        out.extend_from_slice(&(self.tid.0 | bit).to_be_bytes());
        let written = match &self.body {
            Body::Request(request) => request.encode(out),
            Body::Response(response) => response.encode(out),
        };
        debug_assert!(written.is_ok(), "a Vec grows");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..60))
    }

    fn request() -> impl Strategy<Value = Body> {
        ("[a-z_]{0,12}", bytes(), bytes(), bytes(), bytes(), bytes(), bytes()).prop_map(
            |(command, a, b, c, d, e, f)| {
                Body::Request(Request {
                    command: Some(command),
                    id: a,
                    target: b,
                    forward_request: c,
                    forward_response: d,
                    roundtrip_token: e,
                    value: f,
                })
            },
        )
    }

    fn response() -> impl Strategy<Value = Body> {
        (bytes(), bytes(), bytes(), bytes()).prop_map(|(id, nodes, value, roundtrip_token)| {
            Body::Response(Response { id, nodes, value, roundtrip_token })
        })
    }

    #[test]
    fn what_is_no_datagram_is_a_fault() {
        for (bytes, fault) in [
            (&b""[..], Fault::Size),
            (&[0x80], Fault::Size),
            (&[0; DATAGRAM_BYTES + 1], Fault::Size),
            (&[0x80, 1], Fault::Malformed),
            (&[0x80, 1, 0x12, 1, 7], Fault::Malformed),
            (&[0x80, 1, 0x0a, 5, b'_'], Fault::Malformed),
            (&[0, 1, 0xff], Fault::Malformed),
            (&[0x80, 1, 0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], Fault::Malformed),
        ] {
            assert_eq!(Datagram::decode(bytes), Err(fault), "{bytes:?}");
        }
    }

    #[test]
    fn unknown_fields_are_skipped_and_the_last_of_a_field_wins() {
        let bytes = [&[0xff, 0xff, 0x7a, 2, 9, 9, 0x0a, 1, b'a', 0x0a, 1, b'b', 0x12, 0][..]].concat();
        let Ok(Datagram { tid, body: Body::Request(request) }) = Datagram::decode(&bytes) else { panic!() };
        assert_eq!((tid, request.command.as_deref(), request.id), (Tid::new(0x7fff), Some("b"), Some(vec![])));
    }

    #[test]
    fn an_empty_list_of_nodes_is_written() {
        let mut out = Vec::new();
        let body = Body::Response(Response { nodes: Some(vec![]), ..Response::default() });
        Datagram { tid: Tid::new(5), body }.encode(&mut out);
        assert_eq!(out, [0, 5, 0x12, 0]);
    }

    proptest! {
        #[test]
        fn encoding_then_decoding_is_the_identity(tid: u16, body in prop_oneof![request(), response()]) {
            let datagram = Datagram { tid: Tid::new(tid), body };
            let mut bytes = Vec::new();
            datagram.encode(&mut bytes);
            prop_assert_eq!(Datagram::decode(&bytes), Ok(datagram));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Datagram::decode(&bytes);
            let _ = PeersRequest::read(&bytes);
            let _ = PeersResponse::read(&bytes);
        }
    }
}
