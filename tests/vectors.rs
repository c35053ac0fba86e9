//! The byte-exact examples of docs/protocol-sealed.md, good and bad, against the codec and against a real node.

mod common;

use common::{Node, Peer};
use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Sealed, kind_of};
use dayfly::dialect::sealed::node_id;
use dayfly::id::{Id, from_hex, to_hex};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("data/sealed-vectors.json")).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    from_hex(value.as_str().unwrap()).unwrap()
}

#[test]
fn node_ids_are_hashes_of_addresses() {
    for entry in vectors()["node_ids"].as_array().unwrap() {
        let ip = entry["host"].as_str().unwrap().parse().unwrap();
        let addr = std::net::SocketAddr::new(ip, entry["port"].as_u64().unwrap() as u16);
        assert_eq!(node_id(addr).to_string(), entry["node_id"].as_str().unwrap(), "{addr}");
    }
}

#[test]
fn good_frames_decode_and_encode_to_the_byte() {
    for vector in vectors()["good"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let frame = if vector["frame"].is_string() { hex(&vector["frame"]) } else { large_frame(vector) };
        assert_eq!(Sealed::frame_len(&frame), Ok(Some(frame.len())), "{name}");
        assert_eq!(u64::from(kind_of(&frame)), vector["type"].as_u64().unwrap(), "{name}");
        let message = Sealed::decode(&frame).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let mut again = Vec::new();
        Sealed::encode(&message, &mut again);
        assert!(again == frame, "{name} is encoded to the byte");
    }
}

/// A vector that is given by its head, a rule for its tail, its length and its hash.
fn large_frame(vector: &Value) -> Vec<u8> {
    let tail: Vec<u8> = (0..65_463).map(|i| (i % 251) as u8).collect();
    let head = hex(&vector["body_head"]);
    let message = match vector["name"].as_str().unwrap() {
        "value.largest" => Message::Value { value: &tail },
        "put.largest" => Message::Put {
            ttl_s: u16::from_be_bytes([head[0], head[1]]),
            replication: head[2],
            key: Id::from_slice(&head[4..]).unwrap(),
            value: &tail,
        },
        name => panic!("no rule for {name}"),
    };
    let frame = common::frame(&message);
    assert_eq!(frame.len() as u64, vector["frame_len"].as_u64().unwrap());
    assert_eq!(Id::hash_of(&[&frame]).to_string(), vector["frame_sha256"].as_str().unwrap());
    frame
}

#[test]
fn bad_frames_get_the_answer_they_name() {
    let node = Node::start(&[]);
    for vector in vectors()["bad"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let mut peer = Peer::connect(node.addr);
        peer.send_bytes(&hex(&vector["frame"]));
        match vector["answer"].as_str().unwrap() {
            "none" => {}
            answer => {
                let code = peer.receive_error();
                assert_eq!(format!("ERROR {code}"), answer, "{name}");
            }
        }
        match vector["then"].as_str().unwrap() {
            "closed" => drop(peer.expect_end()),
            _ => drop(peer.ping(7)),
        }
    }
    let named = common::dayfly(&["find-node", "--node", &node.addr.to_string(), &to_hex(&[0; 32])]);
    assert!(named.stdout.is_empty(), "no unasked contact was learnt");
}
