//! Rows 1 to 7: frames that are late, impossible, foreign, damaged or unknown.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Sealed};
use dayfly::id::{Id, from_hex};

use crate::bytes::*;
use crate::common::{Node, PATIENCE, Peer, frame, key};
use crate::row::*;
use crate::slow::slow;

// ---- row 1 ----

#[test]
fn row_01_a_dripped_frame_has_one_deadline() {
    slow("row 1");
}

pub fn drips_are_cut_off() {
    let row = Row::start(&[]);
    let addr = row.node.addr;
    thread::scope(|s| {
        // Each byte comes soon after the one before: a deadline that moves with every byte would never fire.
        s.spawn(|| assert_due(drip(&mut Peer::connect(addr), &frame(&Message::Ping { nonce: 1 }), ms(400))));
        s.spawn(|| {
            let big = value(0, 60_000);
            assert_due(drip(&mut Peer::connect(addr), &frame(&put(key(1), 9, &big)), ms(40)));
        });
        // Not the first frame: counted from its own first byte, not from the connection's.
        s.spawn(|| {
            let mut peer = Peer::connect(addr);
            peer.ping(1);
            sleep(ms(2500));
            peer.ping(2);
            assert_due(drip(&mut peer, &frame(&Message::Ping { nonce: 3 }), ms(400)));
        });
        s.spawn(|| {
            let mut peer = Peer::connect(addr);
            let bytes = frame(&Message::Ping { nonce: 4 });
            for byte in &bytes[..39] {
                peer.send_bytes(&[*byte]);
                sleep(ms(200));
            }
            peer.send_bytes(&bytes[39..]);
            let answer = peer.receive();
            assert_eq!(Sealed::decode(&answer), Ok(Message::Pong { nonce: 4 }), "slow but in time");
        });
    });
    assert_eq!(row.node.counter("frame_timeouts"), 3);
    row.end(&["frame_timeouts"]);
}

fn assert_due(took: Duration) {
    assert!(took > DEADLINE - ms(300) && took < DEADLINE + LATE, "closed after {took:?}");
}

/// Sends byte by byte until the node closes; how long after the first byte that was.
fn drip(peer: &mut Peer, bytes: &[u8], pause: Duration) -> Duration {
    let begin = Instant::now();
    peer.stream.set_read_timeout(Some(pause)).unwrap();
    for byte in bytes {
        let gone = peer.stream.write_all(&[*byte]).is_err();
        match peer.stream.read(&mut [0; 64]) {
            Err(e) if !gone && matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(0) | Err(_) => return begin.elapsed(),
            Ok(_) => panic!("answered what was not whole"),
        }
        assert!(begin.elapsed() < DEADLINE + LATE, "never closed");
    }
    panic!("the frame was taken after {:?}", begin.elapsed());
}

// ---- row 2 ----

#[test]
fn row_02_a_silent_connection_is_closed() {
    slow("row 2");
}

pub fn silence_is_cut_off() {
    let row = Row::on(Node::start_with_api(&[]), true);
    let (addr, api) = (row.node.addr, row.node.api.unwrap());
    let mut talker = Peer::connect(addr);
    talker.ping(1);
    let mut module = TcpStream::connect(api).unwrap();
    thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| assert_due(Peer::connect(addr).expect_end()));
        }
    });
    assert_eq!(row.node.counter("silent_connections"), 3);
    sleep(ms(2000));
    // No deadline after the first frame, and none on the API listener.
    talker.ping(2);
    assert_voidphone_get(&mut module, key(2));
    row.end(&["silent_connections"]);
}

/// GET on the API listener of a key that nobody holds.
fn assert_voidphone_get(module: &mut TcpStream, key: Id) {
    let key = from_hex(&key.to_string()).unwrap();
    module.set_read_timeout(Some(PATIENCE)).unwrap();
    module.write_all(&[&[0x00, 0x24, 0x02, 0x8b][..], &key].concat()).unwrap();
    let mut answer = [0; 36];
    module.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..4], [0x00, 0x24, 0x02, 0x8d]);
    assert_eq!(answer[4..], key);
}

// ---- row 3 ----

#[test]
fn row_03_an_impossible_length_is_answered_and_closed() {
    let row = Row::on(Node::start_with_api(&[]), true);
    for size in [0u16, 1, 2, 35] {
        let mut peer = Peer::connect(row.node.addr);
        // More follows, which must not be taken for a frame, nor keep the answer from coming.
        let ping = frame(&Message::Ping { nonce: 9 });
        peer.send_bytes(&[&size.to_be_bytes()[..], &ping[2..], &ping, &ping].concat());
        assert_eq!(peer.receive_error(), MALFORMED, "size {size}");
        assert!(peer.expect_end() < PROMPT, "size {size}");
    }
    // Two bytes are enough to know.
    let mut peer = Peer::connect(row.node.addr);
    peer.send_bytes(&[0, 35]);
    assert_eq!(peer.receive_error(), MALFORMED);
    assert!(peer.expect_end() < PROMPT);
    assert_eq!(row.node.counter("bad_sizes"), 5);
    // The API has no error message: it closes. Below its header, below a GET, and a value above 65,463 bytes.
    let api = row.node.api.unwrap();
    for bytes in [vec![0, 0], vec![0, 3], vec![0, 35, 2, 0x8b], api_put(65_464)] {
        let mut module = Peer::connect(api);
        // The end may come before the last byte is out.
        let _ = module.stream.write_all(&bytes);
        module.stream.write_all(&[0; 33]).ok();
        assert!(module.expect_end() < PROMPT);
    }
    row.end(&["bad_sizes"]);
}

fn api_put(len: usize) -> Vec<u8> {
    let size = u16::try_from(4 + 4 + 32 + len).unwrap();
    [&size.to_be_bytes()[..], &[0x02, 0x8a, 0, 9, 1, 0], &value(0, 32 + len)].concat()
}

// ---- row 5 ----

#[test]
fn row_05_another_protocol_is_closed_without_an_answer() {
    slow("row 5");
}

pub fn strangers_are_cut_off() {
    let row = Row::start(&[]);
    let addr = row.node.addr;
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n";
    let tls = [&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03][..], &value(3, 506)].concat();
    thread::scope(|s| {
        for hello in [&http[..], &tls, b"SSH-2.0-OpenSSH_9.6\r\n"] {
            s.spawn(move || {
                let mut peer = Peer::connect(addr);
                peer.send_bytes(hello);
                assert_due(peer.expect_end());
            });
        }
    });
    assert_eq!(row.node.counter("foreign_protocols"), 3);
    // What is whole is judged at once: a noise handshake, and HTTP with more to say than its first bytes announce.
    let noise = [&[0x00, 0x30][..], &value(0x55, 48)].concat();
    let long_http = [&http[..], &vec![b'x'; 0x4745]].concat();
    for hello in [noise, long_http] {
        let mut peer = Peer::connect(addr);
        let _ = peer.stream.write_all(&hello);
        assert!(peer.expect_end() < PROMPT);
    }
    assert_eq!(row.node.counter("foreign_protocols"), 5);
    assert_not_strangers(addr);
    assert_eq!(row.node.counter("foreign_protocols"), 5);
    row.end(&["foreign_protocols"]);
}

/// It takes a foreign type *and* a wrong checksum, in the *first* frame.
fn assert_not_strangers(addr: SocketAddr) {
    let mut peer = Peer::connect(addr);
    peer.send_bytes(&raw_frame(0x5420, b"a good checksum"));
    assert_eq!(peer.receive_error(), UNKNOWN_TYPE);
    let mut bytes = raw_frame(0x5420, b"a bad one, but not first");
    *bytes.last_mut().unwrap() ^= 1;
    peer.send_bytes(&bytes);
    assert_eq!(peer.receive_error(), CHECKSUM);
    peer.ping(1);
}

// ---- rows 6 and 7 ----

#[test]
fn row_06_a_bad_checksum_is_a_strike() {
    let row = Row::start(&[]);
    // More often than would put an address on probation that is not loopback: there, the first fault would close it.
    for _ in 0..5 {
        let mut peer = Peer::connect(row.node.addr);
        for nonce in 0..2 {
            // In one write with a good one, which must still be found.
            peer.send_bytes(&[corrupt_ping(), frame(&Message::Ping { nonce })].concat());
            assert_eq!(peer.receive_error(), CHECKSUM);
            assert_eq!(Sealed::decode(&peer.receive()), Ok(Message::Pong { nonce }), "framing is kept");
        }
        peer.send_bytes(&[corrupt_ping(), frame(&Message::Ping { nonce: 3 })].concat());
        assert_eq!(peer.receive_error(), CHECKSUM, "the third is answered");
        assert!(peer.expect_end() < PROMPT, "and then the connection closed");
    }
    assert_eq!(row.node.counter("bad_checksums"), 15);
    assert_eq!(row.node.counter("struck_out"), 5);
    // A corrupt PUT stores nothing.
    let mut bytes = frame(&put(key(6), 9, b"corrupt"));
    bytes[50] ^= 1;
    let mut peer = Peer::connect(row.node.addr);
    peer.send_bytes(&bytes);
    assert_eq!(peer.receive_error(), CHECKSUM);
    peer.expect(&Message::Get { key: key(6) }, &Message::Failure { key: key(6) });
    row.end(&["bad_checksums", "struck_out"]);
}

#[test]
fn row_07_an_unknown_type_is_a_strike() {
    let row = Row::start(&[]);
    let mut peer = Peer::connect(row.node.addr);
    for kind in [649, 661] {
        peer.send_bytes(&raw_frame(kind, b"?"));
        assert_eq!(peer.receive_error(), UNKNOWN_TYPE, "type {kind}");
        peer.ping(1);
    }
    peer.send_bytes(&raw_frame(u16::MAX, b""));
    assert_eq!(peer.receive_error(), UNKNOWN_TYPE);
    assert!(peer.expect_end() < PROMPT);
    assert_eq!(row.node.counter("unknown_types"), 3);
    // Strikes of every kind count together.
    let mut peer = Peer::connect(row.node.addr);
    peer.send_bytes(&[raw_frame(700, b""), corrupt_ping(), raw_frame(654, b"12345")].concat());
    let codes = [peer.receive_error(), peer.receive_error(), peer.receive_error()];
    assert_eq!(codes, [UNKNOWN_TYPE, CHECKSUM, MALFORMED]);
    assert!(peer.expect_end() < PROMPT);
    assert_eq!(row.node.counter("struck_out"), 2);
    row.end(&["unknown_types", "malformed", "struck_out"]);
}
