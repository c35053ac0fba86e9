//! One byte stream, fed to one engine at once and to another in pieces: what they say must be the same, and what they
//! hold must not grow with what a stranger merely claims.

use dayfly::dialect::sealed::session::Wire;
use dayfly::engine::{ConnId, EngineSettings, Listener};
use dayfly::limits::BUFFER_SMALL;

use super::bench::Bench;
use super::codecs::{any_kind, plain_frame, sealed_frame};
use super::cursor::Cursor;
use super::frames::Maker;

/// Most parts of one stream.
const PARTS: usize = 24;

/// Most pieces that a stream is cut into.
const PIECES: usize = 300;

/// See [`super::stream`].
pub fn run(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let (wire, piece) = (if cursor.byte() % 4 == 3 { Wire::Api } else { Wire::Sealed }, 1 + usize::from(cursor.byte()));
    let bytes = compose(wire, &mut cursor);
    // Byte by byte where that is cheap.
    let piece = piece.max(bytes.len() / PIECES);
    let whole = listen(wire, &bytes, usize::MAX);
    let pieces = listen(wire, &bytes, piece);
    // A connection that was refused drops what it had not begun, which is less if the bytes came slowly.
    if whole.is_open && pieces.is_open {
        assert!(whole.heard == pieces.heard, "pieces of {piece} are answered as the whole is");
    }
}

/// A stream of requests, of frames around any body, and of any bytes.
fn compose(wire: Wire, cursor: &mut Cursor<'_>) -> Vec<u8> {
    let mut maker = Maker::new([127, 0, 0, 1].into());
    let mut bytes = Vec::new();
    for _ in 0..PARTS {
        if cursor.is_empty() {
            break;
        }
        let (what, len) = (cursor.byte(), cursor.below(64));
        match (what % 8, wire) {
            (0..=4, _) => bytes.extend(maker.requests(wire, cursor)),
            (5, _) => bytes.extend_from_slice(cursor.take(len)),
            (_, Wire::Sealed) => bytes.extend(sealed_frame(any_kind(cursor), cursor.take(len))),
            (_, Wire::Api) => bytes.extend(plain_frame(any_kind(cursor), cursor.take(len))),
        }
    }
    bytes
}

struct Listed {
    is_open: bool,
    heard: Vec<u8>,
}

fn listen(wire: Wire, bytes: &[u8], piece: usize) -> Listed {
    let own = ([127, 0, 0, 1], 6_500).into();
    let mut bench = Bench::new(&[own], EngineSettings::default());
    let listener = if wire == Wire::Sealed { Listener::Sealed(0) } else { Listener::Api(0) };
    let id = bench.accept(listener, ([127, 0, 0, 1], 1).into()).expect("there is room for one");
    let mut heard = Vec::new();
    let before = bench.engine.buffered_bytes();
    bench.feed(id, bytes, piece);
    if bytes.len() < BUFFER_SMALL && bench.engine.to_write(id).is_empty() && bench.engine.is_quiet() {
        // An inbox, and an outbox: a PUT of the API leaves an empty one behind.
        assert!(bench.engine.buffered_bytes() <= before + 2 * BUFFER_SMALL, "a claimed length allocates nothing");
    }
    for _ in 0..100 {
        read(&mut bench, id, &mut heard);
        if bench.engine.is_quiet() {
            break;
        }
        bench.pass(100);
    }
    bench.check();
    let is_open = bench.peer(id).is_some_and(|peer| !peer.talk.is_lost && !peer.is_over());
    bench.finish();
    Listed { is_open, heard }
}

fn read(bench: &mut Bench, id: ConnId, heard: &mut Vec<u8>) {
    loop {
        let from = heard.len();
        heard.extend_from_slice(bench.engine.to_write(id));
        let n = heard.len() - from;
        if n == 0 {
            return;
        }
        bench.drain(id, n);
    }
}
