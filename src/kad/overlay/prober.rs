//! Which contacts to ask whether they are alive: candidates for the table, unconfirmed entries, the oldest entries of a
//! full bucket, and contacts that have been silent. Part of [`super::Overlay`]; sends nothing and never changes the
//! table.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::contact::Contact;
use crate::id::Id;
use crate::kad::routing_table::RoutingTable;
use crate::limits::{
    CHALLENGE_AFTER_MS, CHALLENGED, CONFIRM_MS, CONTACT_STALE_MS, PROBE_MEMORY, PROBE_MEMORY_MS, PROBES, UPKEEP_PROBES,
};
use crate::time::Time;

/// A probe to send.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Probe {
    /// The contact to ask.
    pub contact: Contact,
    /// Whether the contact has yet to prove that it listens at its address.
    pub verify: bool,
}

/// Decides which contacts to probe, and when.
#[derive(Default, Debug)]
pub(super) struct Prober {
    /// Probes that [`Prober::poll_probe`] has yet to hand out.
    wanted: VecDeque<Probe>,
    /// Probes with `verify` that were handed out and have not ended.
    verifying: usize,
    /// Addresses that were or will be probed, each with the time until which it is not probed again; oldest first, at
    /// most [`PROBE_MEMORY`].
    remembered: VecDeque<(SocketAddr, Time)>,
    /// When to probe the unconfirmed entries of the table.
    confirm_at: Option<Time>,
}

impl Prober {
    /// `contact` sent a request that only nodes send, and the table has a place for it.
    pub fn on_candidate(&mut self, contact: Contact, now: Time) {
        self.want(Probe { contact, verify: true }, PROBE_MEMORY_MS, now);
    }

    /// An unconfirmed contact is now in the table; it will be probed unless it responds to something first.
    pub fn on_unconfirmed(&mut self, now: Time) {
        self.confirm_at.get_or_insert(now.after(CONFIRM_MS));
    }

    /// A request named the id of `entry` but came from another address: `entry` may have moved, and if it does not
    /// respond, its place is free before long.
    pub fn on_moved(&mut self, entry: Contact, now: Time) {
        self.want(Probe { contact: entry, verify: false }, CONFIRM_MS, now);
    }

    /// The bucket of `newcomer` is full: the entries of it that have been silent longest must respond or make room.
    pub fn on_full_bucket(&mut self, table: &RoutingTable, newcomer: &Id, now: Time) {
        for contact in table.oldest_beside(newcomer, CHALLENGED) {
            let entry = table.get(&contact.id);
            if entry.is_some_and(|entry| now.since(entry.answered_at) >= CHALLENGE_AFTER_MS) {
                self.want(Probe { contact, verify: false }, CONFIRM_MS, now);
            }
        }
    }

    /// A probe of `contact` with `verify` has ended. One that failed is remembered; one that was answered is not.
    pub fn on_end(&mut self, contact: Contact, answered: bool) {
        self.verifying = self.verifying.saturating_sub(1);
        if answered {
            self.remembered.retain(|(addr, _)| *addr != contact.addr);
        }
    }

    /// Asks for probes of the few entries that have been silent longest. To be called every
    /// [`UPKEEP_MS`](crate::limits::UPKEEP_MS) or so.
    pub fn on_upkeep(&mut self, table: &RoutingTable, now: Time) {
        self.remembered.retain(|(_, until)| now < *until);
        let stale = Time::from_ms(now.as_ms().saturating_sub(CONTACT_STALE_MS));
        let silent = table.silent_since(stale).into_iter().take(UPKEEP_PROBES);
        self.wanted.extend(silent.map(|contact| Probe { contact, verify: false }));
        if table.unconfirmed_since(now).next().is_some() {
            // An unconfirmed contact may have left the replacement cache for the place of an entry that failed.
            self.on_unconfirmed(now);
        }
    }

    /// When [`Prober::on_timeout`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        self.confirm_at
    }

    /// If that is due at `now`, asks for probes of the entries that have been unconfirmed for a while.
    pub fn on_timeout(&mut self, table: &RoutingTable, now: Time) {
        if self.confirm_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        let since = Time::from_ms(now.as_ms().saturating_sub(CONFIRM_MS / 2));
        for contact in table.unconfirmed_since(since) {
            self.want(Probe { contact, verify: true }, CONFIRM_MS, now);
        }
        if table.unconfirmed_since(now).next().is_some() {
            self.confirm_at = Some(now.after(CONFIRM_MS));
        }
    }

    /// The next probe to send, if any. Report the end of one with `verify` by [`Prober::on_end`].
    pub fn poll_probe(&mut self) -> Option<Probe> {
        let probe = self.wanted.pop_front()?;
        self.verifying += usize::from(probe.verify);
        Some(probe)
    }

    /// Asks for `probe`, unless many are under way or its address is remembered; it is from now on, for `memory_ms`.
    fn want(&mut self, probe: Probe, memory_ms: u64, now: Time) {
        let addr = probe.contact.addr;
        let is_remembered = self.remembered.iter().any(|&(known, until)| known == addr && now < until);
        if is_remembered || self.verifying + self.wanted.len() >= PROBES {
            return;
        }
        // Remembered from the start, so that no address is probed twice at once.
        if self.remembered.len() >= PROBE_MEMORY {
            self.remembered.pop_front();
        }
        self.remembered.push_back((addr, now.after(memory_ms)));
        self.wanted.push_back(probe);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kad::Parameters;
    use crate::kad::routing_table::{BucketPolicy, Listed};
    use crate::limits::K;

    fn contact(n: u16) -> Contact {
        Contact { id: Id::hash_of(&[&n.to_be_bytes()]), addr: ([127, 0, 0, 1], n).into() }
    }

    fn table() -> RoutingTable {
        RoutingTable::new(Id::default(), Parameters::default(), BucketPolicy::FirstCome)
    }

    fn verify(n: u16) -> Probe {
        Probe { contact: contact(n), verify: true }
    }

    fn recheck(n: u16) -> Probe {
        Probe { contact: contact(n), verify: false }
    }

    fn probes(prober: &mut Prober) -> Vec<Probe> {
        std::iter::from_fn(|| prober.poll_probe()).collect()
    }

    #[test]
    fn candidates_are_probed_once_and_a_failure_is_remembered() {
        let mut prober = Prober::default();
        for _ in 0..3 {
            prober.on_candidate(contact(5), Time::ZERO);
        }
        assert_eq!(probes(&mut prober), [verify(5)]);
        prober.on_end(contact(5), false);
        prober.on_candidate(contact(5), Time::from_ms(PROBE_MEMORY_MS - 1));
        assert_eq!(probes(&mut prober), []);
        prober.on_candidate(contact(5), Time::from_ms(PROBE_MEMORY_MS));
        assert_eq!(probes(&mut prober), [verify(5)]);
    }

    #[test]
    fn a_probe_that_was_answered_is_not_remembered() {
        let mut prober = Prober::default();
        prober.on_candidate(contact(5), Time::ZERO);
        probes(&mut prober);
        prober.on_end(contact(5), true);
        prober.on_candidate(contact(5), Time::from_ms(1));
        assert_eq!(probes(&mut prober), [verify(5)]);
    }

    #[test]
    fn at_most_32_candidates_are_probed_at_once() {
        let mut prober = Prober::default();
        (10..200).for_each(|n| prober.on_candidate(contact(n), Time::ZERO));
        assert_eq!(probes(&mut prober).len(), PROBES);
        prober.on_candidate(contact(300), Time::ZERO);
        assert_eq!(probes(&mut prober), [], "those that were handed out count until they end");
        prober.on_end(contact(10), false);
        prober.on_candidate(contact(300), Time::ZERO);
        assert_eq!(probes(&mut prober), [verify(300)]);
    }

    #[test]
    fn the_memory_is_bounded_and_the_oldest_is_forgotten_first() {
        let mut prober = Prober::default();
        for n in 1..=PROBE_MEMORY as u16 + 10 {
            prober.on_candidate(contact(n), Time::ZERO);
            assert_eq!(probes(&mut prober), [verify(n)]);
            prober.on_end(contact(n), false);
        }
        assert_eq!(prober.remembered.len(), PROBE_MEMORY);
        prober.on_candidate(contact(11), Time::ZERO);
        prober.on_candidate(contact(10), Time::ZERO);
        assert_eq!(probes(&mut prober), [verify(10)]);
        prober.on_upkeep(&table(), Time::from_ms(PROBE_MEMORY_MS));
        assert!(prober.remembered.is_empty(), "what is over is not kept until others take its place");
    }

    #[test]
    fn unconfirmed_entries_are_probed_until_each_has_responded() {
        let (mut prober, mut table) = (Prober::default(), table());
        for n in [2, 3] {
            assert_eq!(table.add_unconfirmed(contact(n), Time::ZERO), Listed::Added);
            prober.on_unconfirmed(Time::ZERO);
        }
        assert_eq!(prober.deadline(), Some(Time::from_ms(CONFIRM_MS)));
        prober.on_timeout(&table, Time::from_ms(CONFIRM_MS - 1));
        assert_eq!(probes(&mut prober), [], "nothing is due yet");
        table.answered(contact(3), Time::from_ms(9));
        table.add_unconfirmed(contact(4), Time::from_ms(CONFIRM_MS));
        let now = Time::from_ms(CONFIRM_MS);
        prober.on_timeout(&table, now);
        assert_eq!(probes(&mut prober), [verify(2)], "the newcomer has time yet");
        assert!(prober.deadline().is_some_and(|at| at > now), "it comes next");
        table.answered(contact(2), now);
        table.answered(contact(4), now);
        prober.on_timeout(&table, now.after(CONFIRM_MS));
        assert_eq!((probes(&mut prober), prober.deadline()), (vec![], None));
    }

    #[test]
    fn an_unconfirmed_entry_that_waited_in_the_cache_is_found_by_the_upkeep() {
        let (mut prober, mut table) = (Prober::default(), table());
        prober.on_upkeep(&table, Time::ZERO);
        assert_eq!(prober.deadline(), None);
        table.add_unconfirmed(contact(2), Time::ZERO);
        prober.on_upkeep(&table, Time::ZERO);
        assert_eq!(prober.deadline(), Some(Time::from_ms(CONFIRM_MS)));
    }

    #[test]
    fn only_the_oldest_of_a_full_bucket_are_challenged_and_only_if_they_are_silent() {
        let far: Vec<u16> = (2..2_000).filter(|n| contact(*n).id.0[0] >> 7 == 1).take(K + 1).collect();
        let (mut prober, mut table) = (Prober::default(), table());
        for (n, ms) in far[..K].iter().zip(0..) {
            table.answered(contact(*n), Time::from_ms(ms));
        }
        let newcomer = contact(far[K]).id;
        prober.on_full_bucket(&table, &newcomer, Time::from_ms(CHALLENGE_AFTER_MS + 1));
        assert_eq!(probes(&mut prober), [recheck(far[0]), recheck(far[1])], "the third responded a moment too late");
        prober.on_full_bucket(&table, &newcomer, Time::from_ms(2 * CHALLENGE_AFTER_MS));
        assert_eq!(probes(&mut prober), far[..CHALLENGED].iter().map(|n| recheck(*n)).collect::<Vec<_>>());
    }

    #[test]
    fn the_upkeep_asks_a_few_silent_contacts_the_longest_silent_first() {
        let (mut prober, mut table) = (Prober::default(), table());
        for n in 2..10 {
            table.answered(contact(n), Time::from_ms(u64::from(n)));
        }
        prober.on_upkeep(&table, Time::from_ms(CONTACT_STALE_MS + 4));
        assert_eq!(probes(&mut prober), [recheck(2), recheck(3)]);
        prober.on_upkeep(&table, Time::from_ms(2 * CONTACT_STALE_MS));
        assert_eq!(probes(&mut prober), [2, 3, 4].map(recheck));
    }

    #[test]
    fn an_entry_that_may_have_moved_is_asked_at_its_old_address() {
        let mut prober = Prober::default();
        prober.on_moved(contact(5), Time::ZERO);
        prober.on_moved(contact(5), Time::ZERO);
        assert_eq!(probes(&mut prober), [recheck(5)]);
    }
}
