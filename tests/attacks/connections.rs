//! Attacks on the places for connections: A3, A11, A12, A15, A16 (docs/faults.md, rows 20, 26 and 27).

use std::net::TcpStream;
use std::thread::sleep;

use dayfly::dialect::sealed::codec::Message;

use crate::common::{Peer, frame};
use crate::flood::{Attack, connections, discard, goes_on, send};
use crate::honest::{Honest, connect, ms};
use crate::namespace::Attacker::{ManyAddresses, OneAddress, OneSlash56};
use crate::namespace::{Attacker, inside};

// ---- A3: a flood that says one PING for each connection, so that nobody is silent ----

#[test]
fn a3_polite_flood_from_many_addresses() {
    inside(|| polite_flood(ManyAddresses));
}

#[test]
fn a3_polite_flood_from_one_slash_56() {
    inside(|| polite_flood(OneSlash56));
}

fn polite_flood(attacker: Attacker) {
    let victim = attacker.victim(&["--max-connections", "512"]);
    let mut honest = Honest::new(attacker);
    let flood = connections(attacker, 800, 40, victim.addr);
    flood.iter().for_each(|stream| send(stream, &frame(&Message::Ping { nonce: 1 })));
    sleep(ms(500));
    println!("{} of 512 connections are taken", victim.counter("connections"));
    honest.newcomers_are_served(20);
    // And it comes again, whenever it is cut off.
    let addr = victim.addr;
    let _again = Attack::start(move |stop| {
        while goes_on(stop) {
            let more = connections(attacker, 200, 40, addr);
            more.iter().for_each(|stream| send(stream, &frame(&Message::Ping { nonce: 1 })));
        }
    });
    honest.newcomers_are_served(20);
    honest.is_served_for(ms(1_000));
}

// ---- A11: peers that vanish without FIN or RST ----

#[test]
fn a11_vanished_peers_make_room() {
    inside(|| {
        let attacker = ManyAddresses;
        let victim = attacker.victim(&["--max-connections", "64"]);
        let mut honest = Honest::new(attacker);
        let mut peers: Vec<_> =
            (0..40).filter_map(|n| crate::honest::try_connect(attacker.address(n), victim.addr).ok()).collect();
        for peer in &mut peers {
            peer.ping(1);
        }
        // The network 10.32/11 is where most of them were.
        let gone = std::process::Command::new("ip")
            .args(["route", "add", "10.32.0.0/11", "dev", "dark", "table", "local"])
            .status();
        assert!(gone.unwrap().success());
        // Among equals, who has just spoken keeps its place.
        sleep(ms(1_200));
        honest.is_served_for(ms(1));
        honest.newcomers_are_served(20);
    });
}

/// Whose place nobody needs is found out by the kernel, within minutes.
#[test]
fn a11_vanished_peers_are_found_out() {
    inside(|| {
        let victim = OneAddress.victim(&[]);
        let mut peers: Vec<Peer> = (0..8).map(|n| connect(OneAddress.honest(n), victim.addr)).collect();
        for peer in &mut peers {
            peer.ping(1);
        }
        sleep(ms(200));
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let local = format!("{:08X}:{:04X}", u32::from_ne_bytes([10, 140, 0, 1]), 6_500);
        let words = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
        let established: Vec<Vec<String>> =
            sockets.lines().map(words).filter(|words| words[1] == local && words[3] == "01").collect();
        assert_eq!(established.len(), 8, "{sockets}");
        // The field tr:tm->when is the timer of an idle socket: 2 if that is keep-alive, 0 if there is none.
        for words in established {
            assert!(words[5].starts_with("02:"), "no keep-alive: {words:?}");
        }
    });
}

// ---- A12: one address takes all that strangers may have ----

#[test]
fn a12_one_address_leaves_places_to_others() {
    inside(|| {
        let victim = OneAddress.victim(&["--max-connections", "150"]);
        let mut honest = Honest::new(OneAddress);
        let flood = connections(OneAddress, 128, 1, victim.addr);
        flood.iter().for_each(|stream| send(stream, &frame(&Message::Ping { nonce: 1 })));
        sleep(ms(300));
        honest.newcomers_are_served(20);
        honest.is_served_for(ms(300));
    });
}

// ---- A15: one user of a NAT misbehaves ----

#[test]
fn a15_one_user_of_a_nat_does_not_lock_out_the_others() {
    inside(|| {
        let nat = OneAddress.address(0);
        let victim = OneAddress.victim(&[]);
        let mut honest = connect(nat, victim.addr);
        honest.ping(1);
        let mut bad = frame(&Message::Ping { nonce: 1 });
        *bad.last_mut().unwrap() ^= 1;
        for _ in 0..4 {
            // From the second on, its first fault may end it.
            let mut user = connect(nat, victim.addr);
            user.send_bytes(&bad.repeat(3));
            while user.try_receive().is_some() {}
        }
        honest.ping(2);
        for n in 0..20 {
            connect(nat, victim.addr).ping(n);
        }
        Honest::new(OneAddress).is_served_for(ms(300));
    });
}

// ---- A16: a local program that leaks connections to the API ----

#[test]
fn a16_silent_connections_to_the_api_leave_places_to_nodes() {
    inside(|| {
        let victim = OneAddress.victim(&["--api", "127.0.0.1:7001", "--max-connections", "300"]);
        let api = victim.api.unwrap();
        let mut honest = Honest::new(OneAddress);
        let leaked: Vec<TcpStream> = (0..400).filter_map(|_| TcpStream::connect(api).ok()).collect();
        leaked.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
        sleep(ms(300));
        honest.newcomers_are_served(20);
        honest.is_served_for(ms(300));
        leaked.iter().for_each(discard);
    });
}
