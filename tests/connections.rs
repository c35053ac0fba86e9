//! Connections by the thousand, and the races between two nodes that dial each other.

mod common;

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use common::{Node, Peer, alone, dayfly, eventually, frame, key, network};
use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Sealed};
use dayfly::dialect::sealed::operation::{Operation, Reply};
use dayfly::dialect::sealed::request::Request;
use dayfly::dialect::sealed::service::Service;
use dayfly::engine::{Engine, EngineSettings, Listener};
use dayfly::net::Net;
use dayfly::net::clock::Clock;
use dayfly::net::socket::{listen, raise_open_files};

/// A node in this process, driven by the caller.
fn node_in_process(seed: u64) -> (Net, SocketAddr) {
    let clock = Clock::start();
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.addr;
    let mut engine = Engine::new(EngineSettings::default(), 7);
    let number = engine.service_mut::<Service>().add_node(addr, seed, clock.now());
    let mut net = Net::new(engine, clock).unwrap();
    net.add_listener(Listener::Sealed(number), listener).unwrap();
    (net, addr)
}

/// Has the node of `net` ask `to`.
fn ask(net: &mut Net, to: SocketAddr, request: Request) -> Option<Reply> {
    net.operation::<Service, _>(Some(0), Operation::Ask { to, request }, 10_000, Some).unwrap()
}

/// Lets the loop run for a little.
fn run_for(net: &mut Net, ms: u64) {
    let until = net.now().after(ms);
    while net.now() < until {
        net.turn(Some(until)).unwrap();
    }
}

#[test]
fn two_nodes_that_dial_each_other_at_once_share_one_connection() {
    let _alone = alone();
    let mut simultaneous = 0;
    for round in 0..200 {
        let (mut a, a_addr) = node_in_process(round);
        let (mut b, b_addr) = node_in_process(round + 1_000);
        let barrier = Arc::new(Barrier::new(2));
        let other = barrier.clone();
        let b_side = thread::spawn(move || {
            other.wait();
            let reply = ask(&mut b, a_addr, Request::Ping(1));
            run_for(&mut b, 15);
            other.wait();
            let again = ask(&mut b, a_addr, Request::FindNode(key(1)));
            run_for(&mut b, 15);
            (b, reply, again)
        });
        barrier.wait();
        let reply = ask(&mut a, b_addr, Request::Ping(2));
        run_for(&mut a, 15);
        barrier.wait();
        let again = ask(&mut a, b_addr, Request::FindNode(key(2)));
        run_for(&mut a, 15);
        let (b, b_reply, b_again) = b_side.join().unwrap();
        assert_eq!((reply, b_reply), (Some(Reply::Pong), Some(Reply::Pong)), "round {round}");
        assert!(matches!(again, Some(Reply::Nodes(_))) && matches!(b_again, Some(Reply::Nodes(_))), "both serve");
        for net in [&a, &b] {
            // A probe from an ephemeral port may pass by; the connection of the pair is one.
            assert_eq!(net.engine().links(), 1, "round {round}: one connection remains");
            assert_eq!(net.engine().connections(), 1, "round {round}: and no other");
            use dayfly::guard::Counter;
            simultaneous += net.engine().guard().get(Counter::SimultaneousOpens);
        }
    }
    println!("200 rounds, of which {simultaneous} found the peer's connection in the accept queue");
}

#[test]
fn a_thousand_clients_are_served_and_never_become_contacts() {
    let _alone = alone();
    raise_open_files();
    let nodes = network(3, 2);
    let mut clients: Vec<Peer> = (0..1_000).map(|n| Peer::connect(nodes[n % 3].addr)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&Message::Ping { nonce: n as u32 });
        client.send(&Message::FindValue { key: key(n as u64) });
    }
    let addrs: Vec<SocketAddr> = clients.iter().map(|client| client.stream.local_addr().unwrap()).collect();
    let others: Vec<SocketAddr> = nodes.iter().map(|node| node.addr).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(Sealed::decode(&client.receive()), Ok(Message::Pong { nonce: n as u32 }));
        let answer = client.receive();
        let Ok(Message::Node(contacts)) = Sealed::decode(&answer) else { panic!("FIND_VALUE is answered by NODE") };
        assert!(contacts.iter().all(|contact| others.contains(&contact.addr)), "only nodes are named");
    }
    // Whoever was probed has been found out by now; nobody is named.
    eventually("the probes end", || nodes.iter().all(|node| node.counter("connections") <= 336));
    for node in &nodes {
        let output = dayfly(&["find-node", "--node", &node.addr.to_string(), &key(5).to_string()]);
        let named = String::from_utf8(output.stdout).unwrap();
        assert_eq!(named.lines().count(), 2, "{named}");
        assert!(addrs.iter().all(|addr| !named.contains(&format!(" {addr}\n"))));
        assert_eq!(node.counter("contacts"), 2);
        // The kernel may give a probe the very port that it dials, once in some 28,000 times; that is found out, too.
        assert!(node.counter("self_connections") <= 3);
        println!("probes_failed {}", node.counter("probes_failed"));
    }
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_nobody_notices() {
    let _alone = alone();
    let room = raise_open_files();
    let n = 10_000.min(room.saturating_sub(500) as usize);
    assert!(n >= 1_000, "the hard limit of open files is {room}: 'ulimit -Hn' must allow at least 1,500");
    let node = Node::start(&["--max-connections", "16000"]);
    let mut active = Peer::connect(node.addr);
    active.ping(1);
    let before = node.resident_kib();
    let idle: Vec<TcpStream> = (0..n)
        .map(|n| {
            let mut peer = Peer::connect(node.addr);
            peer.ping(n as u32);
            peer.stream
        })
        .collect();
    let resident = node.resident_kib();
    let mut pings: Vec<Duration> = (0..500).map(|n| active.ping(n)).collect();
    pings.sort();
    println!(
        "{n} idle connections: {resident} KiB resident, {} bytes each; an active client's ping: median {:?}, most {:?}",
        (resident - before) * 1024 / n as u64,
        pings[250],
        pings[499]
    );
    assert!(resident <= 64 * 1024, "{resident} KiB");
    assert_eq!(node.counter("connections"), n as u64 + 1);
    assert!(pings[499] < Duration::from_millis(500), "100 ms, on a busy machine five times that");
    drop(idle);
    eventually("they are let go", || node.counter("connections") == 1);
}

#[test]
fn a_client_that_connects_from_a_port_others_listen_on_changes_nothing() {
    // An inbound source address is only a candidate until the node behind it has answered from there.
    let node = Node::start(&[]);
    let mut liar = Peer::connect(node.addr);
    for n in 0..5 {
        liar.send(&Message::FindNode { key: key(n) });
        let answer = liar.receive();
        assert_eq!(answer, frame(&Message::Node(dayfly::dialect::sealed::codec::Nodes::Contacts(&[]))));
    }
    eventually("the candidate is probed in vain", || node.counter("probes_failed") == 1);
    assert_eq!(node.counter("contacts"), 0);
}

#[test]
fn a_restarted_node_is_reached_again_over_a_fresh_connection() {
    let first = Node::start(&[]);
    let second = Node::start(&["--bootstrap", &first.addr.to_string()]);
    let addr = second.addr.to_string();
    eventually("they know each other", || first.counter("contacts") == 1);
    let mut client = Peer::connect(first.addr);
    client.send(&Message::Get { key: key(1) });
    client.receive();
    drop(second);
    let bin = env!("CARGO_BIN_EXE_dayfly");
    let begin = Instant::now();
    let second = Node::start_with(std::process::Command::new(bin).args(["--listen", &addr]));
    // The first node's connection died with the old process; what it asks next goes over a new one.
    client.expect(
        &Message::Put { ttl_s: 5, replication: 3, key: key(2), value: b"again" },
        &Message::Success { key: key(2), value: b"" },
    );
    Peer::connect(second.addr).expect(&Message::FindValue { key: key(2) }, &Message::Value { value: b"again" });
    println!("after a restart: {:?}", begin.elapsed());
}
