//! Who attacks, and what the rest of the network still gets: scenarios of the message level that need more than a share
//! of liars. (docs/faults.md, rows 12 to 16)
#![cfg(feature = "sim")]

use dayfly::contact::network;
use dayfly::dialect::sealed::codec::{ErrorCode, Message};
use dayfly::dialect::sealed::job::{Outcome, Ticket};
use dayfly::dialect::sealed::node::Answer;
use dayfly::id::Id;
use dayfly::limits::{NETWORK_PER_TABLE, STORE_BYTES};
use dayfly::sim::address::neighbour_of;
use dayfly::sim::options::Options;
use dayfly::sim::plan::Run;
use dayfly::sim::world::World;
use dayfly::sources::Sources;

const HONEST: usize = 500;
const VALUES: usize = 100;

/// A network of honest nodes, in the middle of its life.
fn honest_network() -> World {
    let mut run = Run::new(Options::new(HONEST, 0, 3));
    run.build(&mut |_| {});
    run.world
}

/// The same, which `liars` join that then begin to lie, each in a network of its own.
fn network_with_liars(liars: usize) -> World {
    let mut world = honest_network();
    for _ in 0..liars {
        let liar = world.add_host();
        world.join(liar, liar % 50);
        world.run_until(world.now().after(100));
    }
    world.corrupt(|host| host >= HONEST);
    world
}

fn value(n: usize) -> Vec<u8> {
    format!("value {n}").into_bytes()
}

/// Values on the honest nodes nearest to their keys, looked for by `getters`; how many were found.
fn found_by(world: &mut World, getters: impl Fn(usize) -> usize) -> usize {
    world.take_done();
    for n in 0..VALUES {
        let key = Id::hash_of(&[&value(n)]);
        for holder in world.closest_honest(&key, 3) {
            assert!(world.place(holder as usize, key, &value(n)));
        }
        world.get(getters(n), n, key);
        world.run_until(world.now().after(50));
    }
    world.run_until(world.now().after(4_500));
    let found = |outcome: &Outcome, op: usize| matches!(outcome, Outcome::Found(found) if **found == *value(op));
    world.take_done().iter().filter(|done| found(&done.outcome, done.op)).count()
}

/// The contacts in a host's table that lie.
fn liars_known_to(world: &World, host: usize) -> (usize, usize) {
    let table = world.hosts[host].body.as_ref().unwrap().node.overlay().table();
    let lies = |addr| world.hosts.iter().any(|host| host.lies && host.contact.addr == addr);
    (table.entries().filter(|entry| lies(entry.contact.addr)).count(), table.len())
}

#[test]
fn two_hundred_sybils_of_one_network_take_nothing_over() {
    let mut world = honest_network();
    for member in 0..200 {
        let sybil = world.add_host_at(neighbour_of(0, member));
        world.join(sybil, 1 + usize::from(member) % 50);
        world.run_until(world.now().after(100));
    }
    world.corrupt(|host| host >= HONEST);
    world.run_until(world.now().after(30_000));
    let net = network(neighbour_of(0, 0).ip());
    for host in &world.hosts[..HONEST] {
        let table = host.body.as_ref().unwrap().node.overlay().table();
        let of_one = table.entries().filter(|entry| network(entry.contact.addr.ip()) == net).count();
        assert!(of_one <= NETWORK_PER_TABLE, "{of_one} contacts of one /24");
    }
    let found = found_by(&mut world, |n| n * 5 % HONEST);
    assert!(found >= 99, "{found} of {VALUES} found");
}

#[test]
fn sybils_of_many_networks_hide_little() {
    let mut world = network_with_liars(200);
    world.run_until(world.now().after(30_000));
    let found = found_by(&mut world, |n| n * 5 % HONEST);
    assert!(found >= 98, "{found} of {VALUES} found");
}

#[test]
fn a_joining_victim_whom_every_liar_pesters_still_finds_values() {
    let mut world = network_with_liars(200);
    let liars = HONEST..world.hosts.len();
    let victim = world.add_host();
    world.join(victim, 7);
    for second in 0..60 {
        for liar in liars.clone() {
            world.pester(liar, victim, world.hosts[victim].contact.id);
        }
        world.run_until(world.now().after(1_000));
        assert!(world.hosts[victim].body.is_some(), "alive after {second} s");
    }
    // They fill what is free, which is most in a new table, but take no honest contact's place.
    let (lying, known) = liars_known_to(&world, victim);
    assert!(known - lying >= 20, "{lying} of {known} contacts lie");
    let found = found_by(&mut world, |_| victim);
    assert!(found >= 95, "{found} of {VALUES} found");
}

#[test]
fn a_liar_as_first_bootstrap_is_outvoted_by_an_honest_second() {
    let mut world = network_with_liars(100);
    let victim = world.add_host();
    world.join(victim, HONEST + 3);
    world.join(victim, 7);
    world.run_until(world.now().after(60_000));
    let (lying, known) = liars_known_to(&world, victim);
    assert!(known > 60 && lying * 2 < known, "{lying} of {known} contacts lie");
    let found = found_by(&mut world, |_| victim);
    assert!(found >= 95, "{found} of {VALUES} found");
}

#[test]
fn a_flood_of_puts_displaces_nothing_and_one_source_gets_its_share_only() {
    let mut world = honest_network();
    let now = world.now();
    let body = world.hosts[0].body.as_mut().unwrap();
    let ticket = Ticket { waiter: dayfly::arena::Key::from_bits(1), since: now };
    let mut sources = Sources::new(7);
    let big = vec![7; 60_000];
    let mut put = |source: [u8; 4], n: u32, value: &[u8]| {
        let key = Id::hash_of(&[&source, &n.to_be_bytes()]);
        let message = Message::Put { ttl_s: 10, replication: 1, key, value };
        match body.node.on_request((source, 6500).into(), &message, (&mut body.store, &mut sources), ticket, now) {
            Answer::Now(Message::Success { .. }) => true,
            Answer::Now(Message::Error { code, .. }) if code == ErrorCode::Full.code() => false,
            other => panic!("{other:?}"),
        }
    };
    assert!(put([8, 8, 8, 8], 0, b"before the flood"));
    let taken = (0..2_000).filter(|n| put([9, 9, 9, 9], *n, &big)).count();
    let quarter = STORE_BYTES / 4 / 60_184;
    assert!((quarter - 1..=quarter + 1).contains(&taken), "one source fills its share: {taken} of {quarter}");
    assert!(put([8, 8, 4, 4], 0, &big), "and others are served");
    for source in 1..=9 {
        assert!((0..2_000).any(|n| !put([9, 9, source, 9], n, &big)), "each has a limit");
    }
    for source in 1..=9 {
        assert!((0..2_000).any(|n| !put([9, 100 + source, 1, 9], n, &big)), "each has a limit");
    }
    assert!((1..=9).all(|n| put([7, 7, n, 7], 0, &big)), "whoever fills it, others are served");
    let before = Id::hash_of(&[&[8, 8, 8, 8], &0u32.to_be_bytes()]);
    let body = world.hosts[0].body.as_mut().unwrap();
    assert_eq!(body.store.get(&before, now), Some(&b"before the flood"[..]));
    assert!(body.store.bytes() <= STORE_BYTES);
}
