//! The floor: the least that a server of the sealed dialect's frames can cost. One mio loop, one read and one write per
//! connection and turn, a slab, edge-triggered; verifies each PING's checksum and seals a PONG, or with `--plain` sends
//! every frame back as it came. Answers nothing else, keeps nothing, limits nothing.
//!
//! Usage: floor [--plain]. Prints `listening ADDRESS` and runs until it is killed.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use sha2::{Digest, Sha256};
use slab::Slab;

const LISTENER: Token = Token(usize::MAX);
const FRAME_MIN: usize = 36;

struct Conn {
    stream: TcpStream,
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// What the socket would not take.
    unwritten: Vec<u8>,
}

/// Appends the answers to the whole frames in `bytes`; returns how many bytes those were. `None`: garbage.
fn answer(bytes: &[u8], plain: bool, out: &mut Vec<u8>) -> Option<usize> {
    let mut done = 0;
    while let Some(size) = bytes[done..].first_chunk::<2>() {
        let size = usize::from(u16::from_be_bytes(*size));
        let Some(frame) = bytes.get(done..done + size.max(FRAME_MIN)) else {
            break;
        };
        if plain {
            out.extend_from_slice(frame);
        } else {
            let (covered, trailer) = frame[2..].split_at(size.max(FRAME_MIN) - 2 - 32);
            if Sha256::digest(covered).as_slice() != trailer {
                return None;
            }
            let start = out.len();
            out.extend_from_slice(&frame[..2]);
            out.extend_from_slice(&655u16.to_be_bytes());
            out.extend_from_slice(&covered[2..]);
            let seal = Sha256::digest(&out[start + 2..]);
            out.extend_from_slice(&seal);
        }
        done += frame.len();
    }
    Some(done)
}

/// Reads once, answers, writes once; whether the connection lives on.
fn serve(conn: &mut Conn, plain: bool, scratch: &mut [u8], out: &mut Vec<u8>) -> bool {
    loop {
        let kept = conn.partial.len();
        scratch[..kept].copy_from_slice(&conn.partial);
        let n = match conn.stream.read(&mut scratch[kept..]) {
            Ok(0) => return false,
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return false,
        };
        let bytes = &scratch[..kept + n];
        out.clear();
        let Some(done) = answer(bytes, plain, out) else {
            return false;
        };
        conn.partial.clear();
        conn.partial.extend_from_slice(&bytes[done..]);
        conn.unwritten.extend_from_slice(if conn.unwritten.is_empty() { &[] } else { out });
        if conn.unwritten.is_empty() {
            match conn.stream.write(out) {
                Ok(written) => conn.unwritten.extend_from_slice(&out[written..]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => conn.unwritten.extend_from_slice(out),
                Err(_) => return false,
            }
        }
        // A read shorter than asked means drained.
        if n < scratch.len() - kept {
            return true;
        }
    }
}

fn main() -> io::Result<()> {
    let plain = std::env::args().any(|word| word == "--plain");
    let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
    println!("listening {}", listener.local_addr()?);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut conns: Slab<Conn> = Slab::new();
    let (mut scratch, mut out) = (vec![0; 128 * 1024], Vec::with_capacity(128 * 1024));
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let token = Token(conns.vacant_key());
                    poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
                    conns.insert(Conn { stream, partial: Vec::new(), unwritten: Vec::new() });
                }
                continue;
            }
            let Some(conn) = conns.get_mut(event.token().0) else {
                continue;
            };
            if event.is_writable() && !conn.unwritten.is_empty() {
                if let Ok(n) = conn.stream.write(&conn.unwritten) {
                    conn.unwritten.drain(..n);
                }
            }
            let lives = !event.is_readable() || serve(conn, plain, &mut scratch, &mut out);
            if !lives {
                conns.remove(event.token().0);
            }
        }
    }
}
