//! What attackers have in common: threads that go on until the attack is over, and connections by the hundred.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use dayfly::id::Id;

use crate::honest::{ms, try_connect};
use crate::namespace::Attacker;

/// Something that goes on until it is dropped.
pub struct Attack {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Attack {
    pub fn start(run: impl FnOnce(&AtomicBool) + Send + 'static) -> Attack {
        Attack { stop: Arc::default(), threads: Vec::new() }.and(run)
    }

    /// And this too.
    pub fn and(mut self, run: impl FnOnce(&AtomicBool) + Send + 'static) -> Attack {
        let stop = self.stop.clone();
        self.threads.push(thread::spawn(move || run(&stop)));
        self
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

pub fn goes_on(stop: &AtomicBool) -> bool {
    !stop.load(Ordering::Relaxed)
}

/// A key that nobody else uses.
pub fn any_key() -> Id {
    static USED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    Id::hash_of(&[b"attack", &USED.fetch_add(1, Ordering::Relaxed).to_be_bytes()])
}

/// `n` connections of the attacker, the same number from each of `sources` addresses; those that it gets.
pub fn connections(attacker: Attacker, n: usize, sources: usize, to: SocketAddr) -> Vec<TcpStream> {
    let connect = |i| try_connect(attacker.address(i % sources), to).ok();
    let open: Vec<TcpStream> = (0..n).filter_map(connect).map(|peer| peer.stream).collect();
    open.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    open
}

/// Sends on a nonblocking connection, whose peer takes it.
pub fn send(mut stream: &TcpStream, mut bytes: &[u8]) {
    let begin = Instant::now();
    while !bytes.is_empty() && begin.elapsed() < ms(2_000) {
        match stream.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(ms(1)),
            // Whoever is cut off attacks no more.
            Err(_) => return,
        }
    }
}

/// Reads and forgets what there is.
pub fn discard(mut stream: &TcpStream) {
    let mut scratch = [0; 16_384];
    while stream.read(&mut scratch).is_ok_and(|n| n > 0) {}
}

/// Sends `frame` again and again on all `streams` together, this often per second, and reads nothing into the answers.
pub fn repeat(stop: &AtomicBool, streams: &[TcpStream], frame: &[u8], per_s: usize) {
    let batch = frame.repeat(64);
    let mut rests = vec![0; streams.len()];
    let (begin, mut sent) = (Instant::now(), 0);
    while goes_on(stop) {
        for (mut stream, rest) in streams.iter().zip(&mut rests) {
            if sent > begin.elapsed().as_millis() as usize * per_s / 1_000 * frame.len() {
                break;
            }
            discard(stream);
            if let Ok(n) = stream.write(&batch[*rest..]) {
                *rest = (*rest + n) % batch.len();
                sent += n;
            }
        }
        thread::sleep(ms(1));
    }
}
