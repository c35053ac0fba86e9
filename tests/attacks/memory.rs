//! Attacks on memory: A2 (buffers), A4 (the store), A5 (the stores of others, by way of an honest node).
//! docs/faults.md, rows 16 and 26.

use std::net::SocketAddr;
use std::thread::sleep;

use dayfly::dialect::sealed::codec::Message;
use dayfly::id::Id;

use crate::common::frame;
use crate::flood::{Attack, any_key, connections, discard, goes_on, send};
use crate::honest::{Honest, connect, ms};
use crate::namespace::Attacker::{ManyAddresses, OneAddress, OneSlash56};
use crate::namespace::{Attacker, inside};

// ---- A2: frames that are begun and not ended hold the most memory that all may hold together ----

#[test]
fn a2_begun_frames_of_many_addresses() {
    inside(|| begun_frames(ManyAddresses));
}

#[test]
fn a2_begun_frames_of_one_slash_56() {
    inside(|| begun_frames(OneSlash56));
}

fn begun_frames(attacker: Attacker) {
    let victim = attacker.victim(&[]);
    let value = vec![7; 60_000];
    let key = Id::of(&value);
    let (put, get) = (Message::Put { ttl_s: 10, replication: 1, key, value: &value }, Message::FindValue { key });
    let mut reader = connect(attacker.honest(20), victim.addr);
    let mut read_eight = || {
        reader.expect(&put, &Message::Success { key, value: b"" });
        reader.send_bytes(&frame(&get).repeat(8));
        for _ in 0..8 {
            assert!(reader.receive().len() > 60_000, "a reader of large values is served");
        }
    };
    read_eight();
    let frame = frame(&Message::Put { ttl_s: 1, replication: 1, key: any_key(), value: &[0; 62_000] });
    // Little of each frame, and then nearly all: that much nobody can hold in less memory.
    for begun in [4_100, 62_000] {
        let held = connections(attacker, 818, 8, victim.addr);
        held.iter().for_each(|stream| send(stream, &frame[..begun]));
        sleep(ms(300));
        println!("begun {begun}: {} bytes buffered", victim.counter("buffered_bytes"));
        (0..20).for_each(|_| read_eight());
        Honest::new(attacker).is_served_for(ms(300));
    }
}

// ---- A4: the store is filled, in entries or in bytes ----

#[test]
fn a4_store_entries_from_one_address() {
    inside(|| fill(OneAddress, 0));
}

#[test]
fn a4_store_entries_from_many_addresses() {
    inside(|| fill(ManyAddresses, 0));
}

#[test]
fn a4_store_entries_from_one_slash_56() {
    inside(|| fill(OneSlash56, 0));
}

#[test]
fn a4_store_bytes_from_many_addresses() {
    inside(|| fill(ManyAddresses, 8_000));
}

#[test]
fn a4_store_bytes_from_one_slash_56() {
    inside(|| fill(OneSlash56, 8_000));
}

/// With 1,440 values of `len` bytes, where there is room for two thousand, or fewer, and then with 480 empty ones.
fn fill(attacker: Attacker, len: usize) {
    let victim = attacker.victim(&["--store-entries", "2000", "--store-bytes", "4000000"]);
    let sources = if attacker == OneAddress { 1 } else { 10 };
    let flood = connections(attacker, sources, sources, victim.addr);
    let put = |len| frame(&Message::Put { ttl_s: 10, replication: 1, key: any_key(), value: &vec![0; len] });
    // The last ones take what room is left.
    let lens = [len; 3].into_iter().chain([0]);
    for len in lens {
        for stream in &flood {
            for _ in 0..480 / sources {
                send(stream, &put(len));
            }
            discard(stream);
        }
    }
    sleep(ms(300));
    println!("{} entries, {} bytes stored", victim.counter("store_entries"), victim.counter("store_bytes"));
    let mut honest = Honest::new(attacker);
    honest.what_it_puts_is_found(20, &[victim.addr]);
    honest.is_served_for(ms(300));
}

// ---- A5: shares that are laundered by honest coordinators ----

#[test]
fn a5_one_address_through_one_coordinator() {
    inside(|| launder(1));
}

#[test]
fn a5_one_address_through_all_coordinators() {
    inside(|| launder(8));
}

fn launder(coordinators: usize) {
    let attacker = OneAddress;
    let nodes = attacker.network(8, &["--store-bytes", "1000000"]);
    let addrs: Vec<SocketAddr> = nodes.iter().map(|node| node.addr).collect();
    let mut attack = Attack::start(|_| {});
    for &to in &addrs[..coordinators] {
        attack = attack.and(move |stop| {
            let flood = connections(attacker, 4, 1, to);
            // Small ones take what room the large ones leave.
            for len in [8_000, 500, 0].into_iter().cycle().take_while(|_| goes_on(stop)) {
                for stream in &flood {
                    let put = Message::Put { ttl_s: 10, replication: 20, key: any_key(), value: &vec![7; len] };
                    send(stream, &frame(&put));
                    discard(stream);
                }
                sleep(ms(2));
            }
        });
    }
    sleep(ms(2_000));
    println!("{:?} bytes stored", nodes.iter().map(|node| node.counter("store_bytes")).collect::<Vec<_>>());
    // A client of the node through which it goes, and one of another.
    for (put_at, get_at) in [(0, 5), (6, 0)] {
        Honest::of(attacker, addrs[put_at], addrs[get_at], 3).what_it_puts_is_found(15, &addrs[get_at..=get_at]);
    }
    drop(attack);
}
