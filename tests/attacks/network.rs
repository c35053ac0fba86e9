//! Attacks on a node's place in the network: A6 (probes), A9 (jobs), A14 (connections to nodes).
//! docs/faults.md, row 26.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::Duration;

use dayfly::contact::Contact;
use dayfly::dialect::sealed::codec::{Message, Nodes};
use dayfly::dialect::sealed::contact_at;
use dayfly::id::Id;
use socket2::{Domain, Socket, Type};

use crate::common::{Node, Peer, eventually, frame};
use crate::flood::{Attack, any_key, goes_on, send};
use crate::honest::{Honest, ms, try_connect};
use crate::namespace::Attacker::{ManyAddresses, OneAddress, OneSlash56};
use crate::namespace::{Attacker, inside, start};
use crate::slow_node::{self, shared};

// ---- A6: newcomers wait behind candidates that swallow the probe ----

#[test]
fn a6_candidates_of_one_address_that_swallow_probes() {
    inside(|| candidates(OneAddress));
}

#[test]
fn a6_candidates_of_one_slash_56_that_swallow_probes() {
    inside(|| candidates(OneSlash56));
}

fn candidates(attacker: Attacker) {
    let victim = attacker.victim(&[]);
    let addr = victim.addr;
    let mut attack = Attack::start(|_| {});
    for thread in 0..4 {
        attack = attack.and(move |stop| {
            let hung: Vec<Hung> =
                (0..120).map(|n| Hung::new(attacker.address(n), PORTS + 120 * thread + n as u16)).collect();
            while goes_on(stop) {
                hung.iter().take_while(|_| goes_on(stop)).for_each(|hung| {
                    // It may be refused, or find its address pair taken for a moment.
                    let _ = hung.asks(addr);
                });
            }
        });
    }
    sleep(ms(2_500));
    println!("{} probes have failed", victim.counter("probes_failed"));
    let honest: Vec<Node> = (1..4).map(|n| start(attacker.node(n), &["--bootstrap", &addr.to_string()])).collect();
    eventually("newcomers are listed", || victim.counter("contacts") == honest.len() as u64);
    Honest::of(attacker, addr, honest[1].addr, 3).is_served_for(ms(300));
    drop(attack);
}

/// The attacker's ports: none of those that the kernel chooses.
const PORTS: u16 = 65_010;

/// An address that swallows SYNs: a listener with a full accept queue.
struct Hung {
    _listener: Socket,
    _queue: [Socket; 2],
    addr: SocketAddr,
}

impl Hung {
    fn new(ip: IpAddr, port: u16) -> Hung {
        let addr = SocketAddr::from((ip, port));
        let listener = shared(addr);
        listener.listen(0).unwrap();
        let queue = [(); 2].map(|()| {
            let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&addr.into());
            socket
        });
        Hung { _listener: listener, _queue: queue, addr }
    }

    /// Asks `to` something from there, so that it is a candidate.
    fn asks(&self, to: SocketAddr) -> std::io::Result<()> {
        let socket = shared(self.addr);
        socket.connect_timeout(&to.into(), ms(1_000))?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_read_timeout(Some(ms(1_000)))?;
        let mut stream = std::net::TcpStream::from(socket);
        stream.write_all(&frame(&Message::FindNode { key: any_key() }))?;
        stream.read(&mut [0; 64]).map(drop)
    }
}

// ---- A9: all jobs are the attacker's ----

#[test]
fn a9_jobs_of_one_address() {
    inside(|| jobs(OneAddress));
}

#[test]
fn a9_jobs_of_many_addresses() {
    inside(|| jobs(ManyAddresses));
}

#[test]
fn a9_jobs_of_one_slash_56() {
    inside(|| jobs(OneSlash56));
}

fn jobs(attacker: Attacker) {
    let nodes = attacker.network(4, &[]);
    let addr = nodes[0].addr;
    for n in 0..3 {
        slow_node::join(attacker.accomplice(n), &nodes[0], |request| slow_node::knows_nobody(request, ms(1_900)));
    }
    let mut attack = Attack::start(|_| {});
    for n in 0..17 {
        attack = attack.and(move |stop| gets_nothing(stop, attacker, n, addr, 64));
    }
    sleep(ms(1_000));
    println!("{} jobs of 1024", nodes[0].counter("jobs"));
    let mut honest = Honest::of(attacker, addr, addr, 3);
    honest.misses_what_nobody_has(8);
    honest.is_served_for(ms(500));
    println!("{} times busy", nodes[0].counter("busy"));
    drop(attack);
}

/// GETs of keys that nobody has, `n` of them always under way.
fn gets_nothing(stop: &AtomicBool, attacker: Attacker, source: usize, to: SocketAddr, n: usize) {
    let Ok(Peer { mut stream }) = try_connect(attacker.address(source), to) else {
        return;
    };
    stream.set_read_timeout(Some(ms(100))).unwrap();
    let (mut unread, mut chunk, mut free) = (Vec::new(), [0; 16_384], n);
    while goes_on(stop) {
        let gets: Vec<u8> = (0..free).flat_map(|_| frame(&Message::Get { key: any_key() })).collect();
        send(&stream, &gets);
        free = 0;
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(n) => unread.extend_from_slice(&chunk[..n]),
            // Not yet, or it is over, as the next one will tell.
            Err(_) => {}
        }
        while let Some(len) = unread.get(..2).map(|size| usize::from(u16::from_be_bytes([size[0], size[1]]))) {
            if unread.len() < len {
                break;
            }
            unread.drain(..len);
            free += 1;
        }
    }
}

// ---- A14: dials into the dark take the places of connections to nodes ----

#[test]
fn a14_dials_into_the_dark() {
    inside(|| {
        let nodes = beside_one_that_names_the_dark();
        let (attacker, addr) = (OneAddress, nodes[0].addr);
        let attack = Attack::start(move |stop| gets_nothing(stop, attacker, 0, addr, 32));
        sleep(ms(2_500));
        println!("{} connections to nodes", nodes[0].counter("node_connections"));
        let mut honest = Honest::of(attacker, addr, addr, 3);
        honest.what_it_puts_is_found(6, &[addr, nodes[4].addr]);
        honest.misses_what_nobody_has(4);
        Honest::of(attacker, nodes[4].addr, addr, 3).what_it_puts_is_found(6, &[addr]);
        println!("{} times busy", nodes[0].counter("busy"));
        drop(attack);
    });
}

/// Not one of the sixteen: a node that names contacts nobody hears of, near whatever is looked for.
#[test]
fn a14_contacts_in_the_dark_hide_nothing() {
    inside(|| {
        let nodes = beside_one_that_names_the_dark();
        Honest::of(OneAddress, nodes[0].addr, nodes[0].addr, 3).what_it_puts_is_found(5, &[nodes[4].addr]);
    });
}

/// Ten nodes, of which the first knows the attacker's too. That one answers at once, and names contacts at addresses that
/// swallow what is sent to them, the nearest of 32,000 to whatever it is asked for.
fn beside_one_that_names_the_dark() -> Vec<Node> {
    let nodes = OneAddress.network(10, &[]);
    let at = |n: u16| SocketAddr::from(([10, 64 + (n >> 8) as u8 % 64, n as u8, (n >> 14) as u8 + 1], 6_500));
    let mut dark: Vec<Contact> = (0..32_000).map(|n| contact_at(at(n))).collect();
    dark.sort_by_key(|contact| contact.id);
    slow_node::join(OneAddress.accomplice(0), &nodes[0], move |request| match request {
        Message::FindNode { key } | Message::FindValue { key } => {
            (frame(&Message::Node(Nodes::Contacts(&nearest(&dark, key)))), Duration::ZERO)
        }
        other => slow_node::knows_nobody(other, Duration::ZERO),
    });
    nodes
}

/// The twenty of a sorted list that are nearest to `key`, or nearly so.
fn nearest(sorted: &[Contact], key: &Id) -> Vec<Contact> {
    let at = sorted.partition_point(|contact| contact.id < *key);
    let mut near = sorted[at.saturating_sub(40)..(at + 40).min(sorted.len())].to_vec();
    near.sort_by_key(|contact| contact.id.distance(key));
    near.truncate(20);
    near
}
