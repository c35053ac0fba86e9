//! An attacker's node. It joins by the rules, is alive, answers whatever it is told to, and as late as it is told to.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Nodes, Sealed};
use socket2::{Domain, Socket, Type};

use crate::common::{Node, Peer, eventually, frame};

/// What it says, and after how long.
type Answers = dyn Fn(&Message<'_>) -> (Vec<u8>, Duration) + Send + Sync;

/// The answers of one that is polite and knows nobody, and takes `delay` for each FIND_VALUE.
pub fn knows_nobody(request: &Message<'_>, delay: Duration) -> (Vec<u8>, Duration) {
    match request {
        Message::Ping { nonce } => (frame(&Message::Pong { nonce: *nonce }), Duration::ZERO),
        Message::FindNode { .. } => (frame(&Message::Node(Nodes::Wire(&[]))), Duration::ZERO),
        Message::FindValue { .. } => (frame(&Message::Node(Nodes::Wire(&[]))), delay),
        Message::Put { key, .. } => (frame(&Message::Success { key: *key, value: b"" }), Duration::ZERO),
        _ => Default::default(),
    }
}

/// Starts one at `addr` that has joined `victim`, which knows one more contact then. It goes on until the test ends.
pub fn join(
    addr: SocketAddr,
    victim: &Node,
    answers: impl Fn(&Message<'_>) -> (Vec<u8>, Duration) + Send + Sync + 'static,
) {
    let answers: Arc<Answers> = Arc::new(answers);
    let socket = shared(addr);
    socket.listen(512).unwrap();
    let listener = std::net::TcpListener::from(socket);
    let of_listener = answers.clone();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answers = of_listener.clone();
            thread::spawn(move || serve(stream, &*answers));
        }
    });
    let known = victim.counter("contacts");
    let socket = shared(addr);
    socket.connect(&victim.addr.into()).unwrap();
    let mut peer = Peer::on(socket.into());
    peer.send(&Message::FindNode { key: crate::flood::any_key() });
    peer.receive();
    thread::spawn(move || serve(peer.stream, &*answers));
    eventually("the slow node is learnt", || victim.counter("contacts") > known);
}

/// A socket at this address, which others may use too.
pub fn shared(addr: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    socket
}

fn serve(stream: TcpStream, answers: &Answers) {
    let mut writer = Peer::on(stream.try_clone().unwrap());
    let mut reader = Peer::on(stream);
    reader.stream.set_read_timeout(None).unwrap();
    let (sender, due) = channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        for (at, bytes) in due {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if std::io::Write::write_all(&mut writer.stream, &bytes).is_err() {
                return;
            }
        }
    });
    while let Some(frame) = reader.try_receive() {
        if let Ok(request) = Sealed::decode(&frame) {
            let (bytes, delay) = answers(&request);
            let _ = sender.send((Instant::now() + delay, bytes));
        }
    }
}
