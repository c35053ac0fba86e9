//! Which contacts to ask whether they are alive: unconfirmed ones, which have only contacted us, the oldest entries of a
//! full bucket, and contacts that have been silent. Part of [`super::Overlay`]; sends nothing and never changes the
//! table.
//!
//! A stranger can name any number of unconfirmed contacts, over UDP in other people's names. So few of one network are
//! considered at once, the place of the next probe goes to one drawn at random, and when all places to wait in are
//! taken, the newcomer takes one at random. Those that have proved their address wait in places of their own.

use std::collections::VecDeque;
use std::hash::Hasher;
use std::net::SocketAddr;

use crate::contact::{Contact, Network, network};
use crate::hash::seeded;
use crate::id::Id;
use crate::kad::routing_table::RoutingTable;
use crate::limits::{
    CHALLENGE_AFTER_MS, CHALLENGE_MS, CHALLENGED, CONTACT_STALE_MS, PROBE_FAILURES, PROBE_MEMORY, PROBE_MEMORY_MS,
    PROBES, PROBES_OF_PROVED, PROBES_PER_NETWORK, UNCONFIRMED, UNCONFIRMED_PROVED, UPKEEP_PROBES,
};
use crate::recent::Recent;
use crate::time::Time;

/// A probe to send.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Probe {
    /// The contact to ask.
    pub contact: Contact,
    /// Whether the contact has yet to prove that it listens at its address.
    pub verify: bool,
}

/// An unconfirmed contact.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
struct Candidate {
    contact: Contact,
    /// `None` if networks are not counted.
    network: Option<Network>,
    /// Whether it has proved that it receives at its address, if not at its port.
    has_proved: bool,
}

/// Ports of one address whose probe failed; 0 where there is none.
type FailedPorts = [u16; PROBE_FAILURES];

/// Decides which contacts to probe, and when.
#[derive(Debug)]
pub(super) struct Prober {
    counts_networks: bool,
    /// Entries of the table that [`Prober::poll_probe`] has yet to hand out.
    entries: VecDeque<Contact>,
    /// Unconfirmed contacts that have proved their address, at most [`UNCONFIRMED_PROVED`]; first come, first served.
    proved: VecDeque<Candidate>,
    /// The other unconfirmed contacts, at most [`UNCONFIRMED`]; the next one is drawn at random.
    unproved: Vec<Candidate>,
    /// Those whose probe was handed out and has not ended.
    verifying: Vec<Candidate>,
    /// Addresses whose probe failed, and addresses of entries that were challenged.
    remembered: Recent<FailedPorts>,
    /// Seeds the hashes of what is remembered.
    seed: u64,
}

impl Prober {
    /// A prober with nobody to probe. `seed` must be secret where strangers choose the contacts.
    pub fn new(counts_networks: bool, seed: u64) -> Prober {
        Prober {
            counts_networks,
            entries: VecDeque::new(),
            proved: VecDeque::new(),
            unproved: Vec::new(),
            verifying: Vec::new(),
            remembered: Recent::new(PROBE_MEMORY),
            seed,
        }
    }

    /// `contact` sent a request that only nodes send, and the table has a place for it. The work is bounded by the
    /// number of places, and does not depend on the table.
    pub fn on_candidate(&mut self, contact: Contact, has_proved: bool, random: &mut fastrand::Rng, now: Time) {
        let network = network(contact.addr.ip()).filter(|_| self.counts_networks);
        let candidate = Candidate { contact, network, has_proved };
        let is_same = |other: &Candidate| other.contact.addr == contact.addr;
        if self.is_remembered(&candidate, now)
            || self.verifying.iter().any(|other| is_same(other) && other.contact.id == contact.id)
            || self.proved.iter().any(is_same)
        {
            return;
        }
        if has_proved && self.pending_of(&candidate) < PROBES_PER_NETWORK && self.proved.len() < UNCONFIRMED_PROVED {
            self.unproved.retain(|other| !is_same(other));
            self.proved.push_back(candidate);
            return;
        }
        self.wait_unproved(Candidate { has_proved: false, ..candidate }, random);
    }

    /// Gives `candidate` a place among the unproved if there is one for it.
    fn wait_unproved(&mut self, candidate: Candidate, random: &mut fastrand::Rng) {
        if self.unproved.iter().any(|other| other.contact == candidate.contact) {
            return;
        }
        if self.pending_of(&candidate) >= PROBES_PER_NETWORK {
            // It may take the place of one of its own network only.
            let neighbours = self.unproved.iter_mut().filter(|other| other.network == candidate.network);
            let lot = random.usize(..PROBES_PER_NETWORK);
            neighbours.skip(lot).take(1).for_each(|neighbour| *neighbour = candidate);
        } else if self.unproved.len() < UNCONFIRMED {
            self.unproved.push(candidate);
        } else {
            self.unproved[random.usize(..UNCONFIRMED)] = candidate;
        }
    }

    /// The number of contacts like `candidate` in its network that are probed or wait for it; 0 if that is not counted.
    /// Those that have proved their address and those that have not are counted apart.
    fn pending_of(&self, candidate: &Candidate) -> usize {
        let is_like =
            |other: &&Candidate| other.network == candidate.network && other.has_proved == candidate.has_proved;
        match candidate.network {
            Some(_) => self.unproved.iter().chain(&self.proved).chain(&self.verifying).filter(is_like).count(),
            None => 0,
        }
    }

    /// A request named the id of `entry` but came from another address: `entry` may have moved, and if it does not
    /// respond, its place is free before long.
    pub fn on_moved(&mut self, entry: Contact, now: Time) {
        self.challenge(entry, now);
    }

    /// The bucket of `newcomer` is full: the entries of it that have been silent longest must respond or make room.
    /// Returns whether there are any that are to be asked.
    pub fn on_full_bucket(&mut self, table: &RoutingTable, newcomer: &Id, now: Time) -> bool {
        let mut is_any = false;
        for contact in table.oldest_beside(newcomer, CHALLENGED) {
            let entry = table.get(&contact.id);
            if entry.is_some_and(|entry| now.since(entry.answered_at) >= CHALLENGE_AFTER_MS) {
                self.challenge(contact, now);
                is_any = true;
            }
        }
        is_any
    }

    /// Asks for a probe of an entry, unless it was asked for a moment ago or many are to be asked.
    fn challenge(&mut self, entry: Contact, now: Time) {
        let hash = self.hash_of(entry.addr, "entry");
        if self.entries.len() < PROBES && self.remembered.get(hash, now).is_none() {
            self.remembered.set(hash, FailedPorts::default(), now.after(CHALLENGE_MS), now);
            self.entries.push_back(entry);
        }
    }

    /// A probe of `contact` with `verify` has ended. Its address is remembered if nobody answered there.
    pub fn on_end(&mut self, contact: Contact, answered: bool, now: Time) {
        if let Some(at) = self.verifying.iter().position(|other| other.contact == contact) {
            self.verifying.swap_remove(at);
        }
        let hash = self.hash_of(contact.addr, "failed");
        if answered {
            self.remembered.forget(hash);
        } else {
            let mut ports = self.remembered.get(hash, now).unwrap_or_default();
            if !ports.contains(&contact.addr.port()) {
                let free = ports.iter().position(|port| *port == 0).unwrap_or(0);
                ports[free] = contact.addr.port();
            }
            self.remembered.set(hash, ports, now.after(PROBE_MEMORY_MS), now);
        }
    }

    /// Whether a probe of this contact failed a short while ago, or those of some other ports of its address did. For
    /// one that has proved its address the latter does not count: those ports may have been named in its name.
    fn is_remembered(&self, candidate: &Candidate, now: Time) -> bool {
        let addr = candidate.contact.addr;
        let failed = self.remembered.get(self.hash_of(addr, "failed"), now);
        failed.is_some_and(|ports| ports.contains(&addr.port()) || !(candidate.has_proved || ports.contains(&0)))
    }

    /// The hash under which `addr` is remembered, as what `kind` says. Failures are remembered by address without the
    /// port, but not on loopback, where all programs of a host share one.
    fn hash_of(&self, addr: SocketAddr, kind: &str) -> u64 {
        let with_port = kind != "failed" || network(addr.ip()).is_none();
        seeded(self.seed, |hasher| {
            hasher.write(kind.as_bytes());
            match addr.ip() {
                std::net::IpAddr::V4(ip) => hasher.write(&ip.octets()),
                std::net::IpAddr::V6(ip) => hasher.write(&ip.octets()),
            }
            hasher.write_u16(if with_port { addr.port() } else { 0 });
        })
    }

    /// Asks for probes of the few entries that have been silent longest. To be called every
    /// [`UPKEEP_MS`](crate::limits::UPKEEP_MS) or so.
    pub fn on_upkeep(&mut self, table: &RoutingTable, now: Time) {
        let stale = Time::from_ms(now.as_ms().saturating_sub(CONTACT_STALE_MS));
        self.entries.extend(table.silent_since(stale).into_iter().take(UPKEEP_PROBES));
    }

    /// The next probe to send, if any. Report the end of one with `verify` by [`Prober::on_end`].
    pub fn poll_probe(&mut self, random: &mut fastrand::Rng, now: Time) -> Option<Probe> {
        if let Some(contact) = self.entries.pop_front() {
            return Some(Probe { contact, verify: false });
        }
        let candidate = self.next_candidate(random, now)?;
        self.verifying.push(candidate);
        Some(Probe { contact: candidate.contact, verify: true })
    }

    fn next_candidate(&mut self, random: &mut fastrand::Rng, now: Time) -> Option<Candidate> {
        if self.verifying.len() < PROBES + PROBES_OF_PROVED {
            if let Some(candidate) = self.proved.pop_front() {
                return Some(candidate);
            }
        }
        while self.verifying.len() < PROBES && !self.unproved.is_empty() {
            let candidate = self.unproved.swap_remove(random.usize(..self.unproved.len()));
            // Probes of its address may have failed while it waited.
            if !self.is_remembered(&candidate, now) {
                return Some(candidate);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kad::Parameters;
    use crate::kad::routing_table::BucketPolicy;
    use crate::limits::K;
    use proptest::prelude::*;

    fn contact(n: u16) -> Contact {
        Contact { id: Id::hash_of(&[&n.to_be_bytes()]), addr: ([127, 0, 0, 1], n).into() }
    }

    /// One at an address of its own.
    fn at(ip: [u8; 4], port: u16) -> Contact {
        Contact { id: Id::hash_of(&[&ip, &port.to_be_bytes()]), addr: (ip, port).into() }
    }

    fn table() -> RoutingTable {
        RoutingTable::new(Id::default(), Parameters::default(), BucketPolicy::FirstCome)
    }

    /// A prober with its random numbers.
    struct Bench {
        prober: Prober,
        random: fastrand::Rng,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { prober: Prober::new(true, 7), random: fastrand::Rng::with_seed(7) }
        }

        fn unproved(&mut self, contact: Contact, ms: u64) {
            self.prober.on_candidate(contact, false, &mut self.random, Time::from_ms(ms));
        }

        fn proved(&mut self, contact: Contact, ms: u64) {
            self.prober.on_candidate(contact, true, &mut self.random, Time::from_ms(ms));
        }

        fn ends(&mut self, contact: Contact, answered: bool, ms: u64) {
            self.prober.on_end(contact, answered, Time::from_ms(ms));
        }

        fn probes(&mut self, ms: u64) -> Vec<Probe> {
            std::iter::from_fn(|| self.prober.poll_probe(&mut self.random, Time::from_ms(ms))).collect()
        }
    }

    fn verify(contact: Contact) -> Probe {
        Probe { contact, verify: true }
    }

    fn recheck(n: u16) -> Probe {
        Probe { contact: contact(n), verify: false }
    }

    #[test]
    fn candidates_are_probed_once_and_a_failure_is_remembered() {
        let mut bench = Bench::new();
        for _ in 0..3 {
            bench.unproved(contact(5), 0);
        }
        assert_eq!(bench.probes(0), [verify(contact(5))]);
        bench.unproved(contact(5), 1);
        assert_eq!(bench.probes(1), [], "while it is probed");
        bench.ends(contact(5), false, 10);
        bench.unproved(contact(5), 9 + PROBE_MEMORY_MS);
        assert_eq!(bench.probes(9 + PROBE_MEMORY_MS), []);
        bench.unproved(contact(6), 11);
        assert_eq!(bench.probes(11), [verify(contact(6))], "on loopback, another port is another program");
        bench.unproved(contact(5), 10 + PROBE_MEMORY_MS);
        assert_eq!(bench.probes(10 + PROBE_MEMORY_MS), [verify(contact(5))]);
    }

    #[test]
    fn a_probe_that_was_answered_is_not_remembered() {
        let mut bench = Bench::new();
        bench.unproved(contact(5), 0);
        bench.probes(0);
        bench.ends(contact(5), true, 0);
        bench.unproved(contact(5), 1);
        assert_eq!(bench.probes(1), [verify(contact(5))]);
    }

    /// A6: one address that drops all SYNs kept all places with 1,200 ports.
    #[test]
    fn failures_are_remembered_by_address_and_not_held_against_who_has_proved_it() {
        let mut bench = Bench::new();
        for port in 1..=PROBE_FAILURES as u16 {
            bench.unproved(at([9, 9, 9, 9], port), 0);
            assert_eq!(bench.probes(0), [verify(at([9, 9, 9, 9], port))]);
            bench.ends(at([9, 9, 9, 9], port), false, 0);
        }
        bench.unproved(at([9, 9, 9, 9], 99), 1);
        assert_eq!(bench.probes(1), []);
        bench.unproved(at([9, 9, 9, 8], 99), 1);
        assert_eq!(bench.probes(1), [verify(at([9, 9, 9, 8], 99))], "its neighbour did not fail");
        // The ports that failed may have been made up by somebody who forged its address.
        bench.proved(at([9, 9, 9, 9], 99), 1);
        bench.proved(at([9, 9, 9, 9], 1), 1);
        assert_eq!(bench.probes(1), [verify(at([9, 9, 9, 9], 99))], "its own failure counts");
    }

    #[test]
    fn at_most_32_are_probed_at_once_and_64_wait() {
        let mut bench = Bench::new();
        (10..400).for_each(|n| bench.unproved(contact(n), 0));
        let first = bench.probes(0);
        assert_eq!((first.len(), bench.prober.unproved.len()), (PROBES, UNCONFIRMED - PROBES));
        bench.ends(first[0].contact, false, 0);
        assert_eq!(bench.probes(0).len(), 1);
        (400..600).for_each(|n| bench.unproved(contact(n), 0));
        assert_eq!((bench.prober.unproved.len(), bench.probes(0).len()), (UNCONFIRMED, 0));
    }

    #[test]
    fn a_network_has_two_places_and_its_newcomers_compete_for_them() {
        let mut bench = Bench::new();
        (1..=100).for_each(|n| bench.unproved(at([9, 9, 9, n], 5), 0));
        assert_eq!(bench.probes(0).len(), PROBES_PER_NETWORK);
        (101..=200).for_each(|n| bench.unproved(at([9, 9, 9, n], 5), 0));
        assert_eq!(bench.probes(0), [], "while two are probed");
        bench.unproved(at([9, 9, 8, 1], 5), 0);
        assert_eq!(bench.probes(0).len(), 1);
        let v6 = |n: u16| Contact { id: Id::of(&n.to_be_bytes()), addr: ([0x2001, 0xdb8, 1, n, 0, 0, 0, 1], 5).into() };
        (1..=100).for_each(|n| bench.unproved(v6(n), 0));
        assert_eq!(bench.probes(0).len(), PROBES_PER_NETWORK, "a /48 is one network");
        // Of two hundred, any two may get the places.
        let chosen = |seed| {
            let mut bench = Bench { random: fastrand::Rng::with_seed(seed), ..Bench::new() };
            (1..=200).for_each(|n| bench.unproved(at([9, 9, 9, n], 5), 0));
            bench.probes(0).iter().any(|probe| probe.contact == at([9, 9, 9, 1], 5))
        };
        assert!((0..50).filter(|seed| chosen(*seed)).count() < 10, "the first has no privilege");
    }

    /// A7: who forges sources can keep all places taken, and not those of who has proved to be at its address.
    #[test]
    fn who_has_proved_its_address_passes_a_flood() {
        let mut bench = Bench::new();
        let flood = |bench: &mut Bench, from: u32| {
            (from..from + 500).for_each(|n| {
                let [_, a, b, c] = (n * 257).to_be_bytes();
                bench.unproved(at([60, a, b, c], 5), 0);
            });
        };
        flood(&mut bench, 1);
        assert_eq!(bench.probes(0).len(), PROBES, "the flood has all of them");
        let honest = at([9, 9, 9, 9], 5);
        bench.proved(honest, 1);
        flood(&mut bench, 1_000);
        assert_eq!(bench.probes(1), [verify(honest)]);
        bench.ends(honest, true, 2);
        bench.unproved(at([9, 9, 9, 9], 6), 2);
        bench.proved(at([9, 9, 9, 9], 6), 2);
        flood(&mut bench, 2_000);
        assert_eq!(bench.probes(3), [verify(at([9, 9, 9, 9], 6))], "and leaves the crowd if it is in it");
    }

    #[test]
    fn those_that_have_proved_their_address_are_bounded_too() {
        let mut bench = Bench::new();
        (0..200).for_each(|n| bench.proved(at([9, 9, n, 9], 5), 0));
        assert_eq!(bench.prober.proved.len(), UNCONFIRMED_PROVED);
        assert_eq!(bench.prober.unproved.len(), UNCONFIRMED, "the others compete");
        assert_eq!(bench.probes(0).len(), PROBES.max(UNCONFIRMED_PROVED));
        assert!(bench.prober.proved.is_empty());
        (0..200).for_each(|n| bench.proved(at([9, 8, 7, n], 5), 0));
        assert!(bench.prober.proved.len() <= PROBES_PER_NETWORK, "of one network");
    }

    /// The share of a newcomer that sends one packet among a flood is that of its packets; it is never nothing.
    #[test]
    fn in_a_flood_each_has_the_same_chance() {
        let mut bench = Bench::new();
        let (mut probed, mut waiting) = (0, Vec::<Contact>::new());
        for round in 0..4_000_u32 {
            let [a, b, c, d] = (0x3c00_0000 + round * 4_099).to_be_bytes();
            bench.unproved(at([a, b, c, d], 5), u64::from(round) * 10);
            if round % 40 == 0 {
                bench.unproved(at([9, 9, (round / 40) as u8, 9], 5), u64::from(round) * 10);
            }
            waiting.extend(bench.probes(u64::from(round) * 10).iter().map(|probe| probe.contact));
            // Each fails after two seconds: 16 a second.
            if round % 6 == 0 && waiting.len() >= PROBES {
                let oldest = waiting.remove(0);
                probed += usize::from(oldest.addr.to_string().starts_with("9.9."));
                bench.ends(oldest, false, u64::from(round) * 10);
            }
        }
        assert!((5..=40).contains(&probed), "{probed} of 100, where one in six packets is followed up");
    }

    #[test]
    fn only_the_oldest_of_a_full_bucket_are_challenged_and_only_if_they_are_silent() {
        let far: Vec<u16> = (2..2_000).filter(|n| contact(*n).id.0[0] >> 7 == 1).take(K + 1).collect();
        let (mut bench, mut table) = (Bench::new(), table());
        for (n, ms) in far[..K].iter().zip(0..) {
            table.answered(contact(*n), Time::from_ms(ms));
        }
        let newcomer = contact(far[K]).id;
        assert!(!bench.prober.on_full_bucket(&table, &newcomer, Time::from_ms(CHALLENGE_AFTER_MS - 1)));
        assert!(bench.prober.on_full_bucket(&table, &newcomer, Time::from_ms(CHALLENGE_AFTER_MS + 1)));
        assert_eq!(bench.probes(0), [recheck(far[0]), recheck(far[1])], "the third responded a moment too late");
        bench.prober.on_full_bucket(&table, &newcomer, Time::from_ms(2 * CHALLENGE_AFTER_MS));
        assert_eq!(bench.probes(0), far[..CHALLENGED].iter().map(|n| recheck(*n)).collect::<Vec<_>>());
    }

    #[test]
    fn the_upkeep_asks_a_few_silent_contacts_the_longest_silent_first() {
        let (mut bench, mut table) = (Bench::new(), table());
        for n in 2..10 {
            table.answered(contact(n), Time::from_ms(u64::from(n)));
        }
        bench.prober.on_upkeep(&table, Time::from_ms(CONTACT_STALE_MS + 4));
        assert_eq!(bench.probes(0), [recheck(2), recheck(3)]);
        bench.prober.on_upkeep(&table, Time::from_ms(2 * CONTACT_STALE_MS));
        assert_eq!(bench.probes(0), [2, 3, 4].map(recheck));
    }

    #[test]
    fn an_entry_that_may_have_moved_is_asked_at_its_old_address_now_and_then() {
        let mut bench = Bench::new();
        bench.prober.on_moved(contact(5), Time::ZERO);
        bench.prober.on_moved(contact(5), Time::from_ms(CHALLENGE_MS - 1));
        assert_eq!(bench.probes(0), [recheck(5)]);
        bench.prober.on_moved(contact(5), Time::from_ms(CHALLENGE_MS));
        assert_eq!(bench.probes(0), [recheck(5)]);
        (10..200).for_each(|n| bench.prober.on_moved(contact(n), Time::ZERO));
        assert_eq!(bench.probes(0).len(), PROBES);
    }

    proptest! {
        #[test]
        fn every_list_keeps_its_bound_and_no_contact_stands_twice(
            steps in prop::collection::vec((0u8..40, 0u8..5, 1u16..4, 0u8..6), 1..500),
        ) {
            let mut bench = Bench::new();
            let mut out: Vec<Contact> = Vec::new();
            for (ms, (net, host, port, what)) in steps.into_iter().enumerate() {
                let contact = at([9, 9, net, host], port);
                match what {
                    0 => bench.proved(contact, ms as u64),
                    1 if !out.is_empty() => {
                        let ended = out.swap_remove(usize::from(net) % out.len());
                        bench.ends(ended, host % 2 == 0, ms as u64);
                    }
                    2 => out.extend(bench.probes(ms as u64).iter().map(|probe| probe.contact)),
                    _ => bench.unproved(contact, ms as u64),
                }
                let Prober { proved, unproved, verifying, .. } = &bench.prober;
                prop_assert!(unproved.len() <= UNCONFIRMED && proved.len() <= UNCONFIRMED_PROVED);
                prop_assert!(verifying.len() <= PROBES + PROBES_OF_PROVED);
                let all: Vec<&Candidate> = unproved.iter().chain(proved).chain(verifying).collect();
                for (at, candidate) in all.iter().enumerate() {
                    let alike = |c: &&&Candidate| c.network == candidate.network && c.has_proved == candidate.has_proved;
                    prop_assert!(all.iter().filter(alike).count() <= PROBES_PER_NETWORK);
                    prop_assert!(all[..at].iter().all(|c| c.contact != candidate.contact));
                }
            }
        }
    }
}
