//! On addresses that are not loopback, in a network namespace that the test makes itself: what is measured per address
//! or per network (/24), which loopback is exempt from. Needs root, unshare and ip; else it says that it is skipped.

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use common::{Node, Peer, dayfly, eventually, frame, key, netns};
use dayfly::dialect::sealed::codec::Message;
use dayfly::limits::{CONNECTIONS_PER_ADDRESS, NETWORK_PER_BUCKET};
use socket2::{Domain, Socket, Type};

#[test]
fn networks_and_limits_on_real_addresses() {
    // 10.64/10 as a whole is local, so every address in it is a host of its own.
    let setup = "ip link set lo up\nip addr add 10.64.0.1/10 dev lo";
    netns::run(setup, &["--ignored", "--exact", "inside_the_namespace", "--nocapture"], 1);
}

#[test]
#[ignore = "run by the test above, inside a namespace"]
fn inside_the_namespace() {
    let first = node([10, 65, 1, 1], None);
    let honest: Vec<Node> = (2..=12).map(|n| node([10, 65, n, 1], Some(first.addr))).collect();
    for node in honest.iter().chain([&first]) {
        eventually("all know all", || node.counter("contacts") == 11);
    }
    values_cross(&honest);
    one_network_gets_few_places(&first, &honest);
    one_address_gets_few_connections(&first);
    one_address_is_on_probation_after_nine_strikes(&first);
    a_wildcard_finds_its_address_by_the_route(&first);
    values_cross(&honest);
}

fn node(ip: [u8; 4], join: Option<SocketAddr>) -> Node {
    let listen = SocketAddr::from((ip, 6500)).to_string();
    let join = join.map(|addr| addr.to_string());
    let bootstrap = join.iter().flat_map(|addr| ["--bootstrap", addr]);
    Node::start_with(Command::new(env!("CARGO_BIN_EXE_dayfly")).args(["--listen", &listen]).args(bootstrap))
}

/// A connection to `to` from this address.
fn connect(from: [u8; 4], to: SocketAddr) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    Peer::on(socket.into())
}

fn values_cross(nodes: &[Node]) {
    for n in 0..20 {
        let (key, value) = (key(n), n.to_be_bytes());
        let put = Message::Put { ttl_s: 9, replication: 3, key, value: &value };
        Peer::connect(nodes[n as usize % 11].addr).expect(&put, &Message::Success { key, value: b"" });
        let other = nodes[(n as usize * 5 + 3) % 11].addr;
        Peer::connect(other).expect(&Message::Get { key }, &Message::Success { key, value: &value });
    }
}

/// docs/faults.md, row 13: thirty nodes of one /24 join; each table keeps a bucket's share of them.
fn one_network_gets_few_places(first: &Node, honest: &[Node]) {
    let flood: Vec<Node> = (1..=30).map(|n| node([10, 66, 0, n], Some(first.addr))).collect();
    eventually("the flood is noticed", || {
        first.counter("contacts") == 11 + NETWORK_PER_BUCKET as u64 && flood.iter().all(|n| n.counter("contacts") >= 11)
    });
    for node in honest.iter().chain([first]) {
        let named = dayfly(&["find-node", "--node", &node.addr.to_string(), &key(1).to_string()]);
        let named = String::from_utf8(named.stdout).unwrap();
        let of_flood = named.matches(" 10.66.0.").count();
        assert!(of_flood <= NETWORK_PER_BUCKET, "{of_flood} of one /24 in a table with one bucket");
    }
}

/// docs/faults.md, row 20.
fn one_address_gets_few_connections(node: &Node) {
    let counted = || node.counter("too_many_from_address") + node.counter("evicted");
    let mut peers: Vec<Peer> = (0..CONNECTIONS_PER_ADDRESS).map(|_| connect([10, 67, 0, 1], node.addr)).collect();
    for peer in &mut peers {
        peer.ping(1);
    }
    let before = counted();
    let more: Vec<Peer> = (0..72).map(|_| connect([10, 67, 0, 1], node.addr)).collect();
    eventually("each is refused, or replaces an idle one", || counted() == before + 72);
    connect([10, 67, 0, 2], node.addr).ping(2);
    drop((peers, more));
    eventually("there is room again", || node.counter("connections") < 40);
    connect([10, 67, 0, 1], node.addr).ping(3);
}

/// Faults, "S": three connections closed for three strikes each.
fn one_address_is_on_probation_after_nine_strikes(node: &Node) {
    let mut bad = frame(&Message::Ping { nonce: 1 });
    bad[5] ^= 1;
    for _ in 0..3 {
        let mut peer = connect([10, 68, 0, 1], node.addr);
        peer.send_bytes(&bad.repeat(3));
        assert_eq!([peer.receive_error(), peer.receive_error(), peer.receive_error()], [1, 1, 1]);
        peer.expect_end();
    }
    for (address, is_on_probation) in [([10, 68, 0, 1], true), ([10, 68, 0, 2], false)] {
        let mut peer = connect(address, node.addr);
        peer.ping(3);
        peer.send_bytes(&bad);
        assert_eq!(peer.receive_error(), 1);
        if is_on_probation {
            peer.expect_end();
        } else {
            peer.ping(4);
        }
    }
    assert_eq!(node.counter("struck_out"), 4);
}

fn a_wildcard_finds_its_address_by_the_route(first: &Node) {
    let join = first.addr.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dayfly"));
    let wildcard = Node::start_with(command.args(["--listen", "0.0.0.0:6600", "--bootstrap", &join]));
    let address: SocketAddr = wildcard.status()["node.0.address"].parse().unwrap();
    assert!(address.port() == 6600 && address.ip() != Ipv4Addr::UNSPECIFIED, "{address}");
    eventually("it is reached there", || {
        let named = dayfly(&["find-node", "--node", &join, &address.to_string()]);
        String::from_utf8(named.stdout).unwrap().contains(&format!(" {address}"))
    });
}
