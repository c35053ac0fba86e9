//! When to join a network, to look for neighbours and to refresh buckets, and where lookups begin in an empty table.
//! Part of [`super::Overlay`]; decides which lookups are due, and never runs one itself.

use std::net::SocketAddr;

use crate::contact::Contact;
use crate::id::Id;
use crate::kad::routing_table::{BucketIndex, RoutingTable};
use crate::limits::{
    BOOTSTRAP_DOUBLINGS, BOOTSTRAP_RETRY_MAX_MS, BOOTSTRAP_RETRY_MS, BOOTSTRAPS, BUCKET_REFRESH_MS, ISLAND_ODDS,
    NEIGHBOURS_REFRESH_FACTOR, NEIGHBOURS_REFRESH_MAX_MS, NEIGHBOURS_REFRESH_MS,
};
use crate::time::Time;

/// A lookup that the overlay starts of its own accord.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Upkeep {
    /// Of our own id; its end tells whether we are part of a network.
    Join,
    /// Of our own id again: our neighbours must know us, as we decide with them which nodes hold a value.
    Neighbours,
    /// Of an id in some bucket's range.
    Refresh,
}

/// Where a lookup begins while no contact has responded.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Bootstrap {
    /// An id at an address.
    Contact(Contact),
    /// An address. The node that listens there may tell its id in its answer.
    Address(SocketAddr),
}

impl Bootstrap {
    /// The contact that a lookup for `target` asks. An address gets an id next to `target`, so that it is asked first.
    /// No node answers under that id, so it counts for nothing else. `index` keeps such ids of one lookup apart.
    fn seed(self, target: &Id, index: u8) -> Contact {
        match self {
            Bootstrap::Contact(contact) => contact,
            Bootstrap::Address(addr) => {
                let mut id = *target;
                id.0[31] ^= index + 1;
                Contact { id, addr }
            }
        }
    }
}

const _: () = assert!(BOOTSTRAPS < u8::MAX as usize, "each has an index, and that plus one is no zero");

/// Decides which lookups keep the node part of a network.
#[derive(Debug)]
pub(super) struct Bootstrapper {
    /// At most [`BOOTSTRAPS`], each once.
    bootstraps: Vec<Bootstrap>,
    join_at: Option<Time>,
    /// Joins in a row that were not answered.
    failures: u32,
    /// When to look up our own id again, and the pause after that before its jitter.
    neighbours_at: Option<Time>,
    neighbours_ms: u64,
    /// The buckets farther than this one are to be refreshed one after the other.
    refreshed_to: BucketIndex,
}

impl Default for Bootstrapper {
    fn default() -> Bootstrapper {
        Bootstrapper {
            bootstraps: Vec::new(),
            join_at: None,
            failures: 0,
            neighbours_at: None,
            neighbours_ms: NEIGHBOURS_REFRESH_MAX_MS,
            refreshed_to: BucketIndex::FARTHEST,
        }
    }
}

impl Bootstrapper {
    /// Takes note of a bootstrap. Returns whether it is new and there is room for it.
    pub fn note(&mut self, bootstrap: Bootstrap) -> bool {
        let is_noted = !self.bootstraps.contains(&bootstrap) && self.bootstraps.len() < BOOTSTRAPS;
        if is_noted {
            self.bootstraps.push(bootstrap);
        }
        is_noted
    }

    /// Takes note of a bootstrap and, if it is new, joins through it at `now`, unless the node `is_member` of a
    /// network. Returns whether it is among those noted.
    pub fn add(&mut self, bootstrap: Bootstrap, is_member: bool, now: Time) -> bool {
        let is_new = self.note(bootstrap);
        if is_new && !is_member {
            self.join_at = Some(now);
        }
        is_new || self.bootstraps.contains(&bootstrap)
    }

    /// The contacts that a lookup for `target` asks while no contact has responded: every bootstrap.
    pub fn seeds(&self, target: &Id) -> impl Iterator<Item = Contact> {
        self.bootstraps.iter().zip(0..).map(|(bootstrap, index)| bootstrap.seed(target, index))
    }

    /// The bootstrap that a lookup for our neighbours asks in addition to the contacts of the table, if any. Two
    /// islands of nodes that know none of each other find together again through a bootstrap of both. While the table
    /// `is_small`, each such lookup asks one; later, one lookup in [`ISLAND_ODDS`] does.
    pub fn island_seed(&self, target: &Id, is_small: bool, random: &mut fastrand::Rng) -> Option<Contact> {
        if self.bootstraps.is_empty() || !(is_small || random.u32(..ISLAND_ODDS) == 0) {
            return None;
        }
        Some(self.bootstraps[random.usize(..self.bootstraps.len())].seed(target, 0))
    }

    /// A join was answered. `nearest` is the bucket of our neighbours, the last of the table.
    pub fn on_joined(&mut self, nearest: BucketIndex, now: Time) {
        self.failures = 0;
        // Every bucket farther than the closest neighbour's (paper, section 2.3): far nodes learn of us too.
        self.refreshed_to = nearest;
        self.neighbours_ms = NEIGHBOURS_REFRESH_MS;
        self.neighbours_at = Some(now.after(NEIGHBOURS_REFRESH_MS));
    }

    /// A join was not answered. It is tried again after a pause, which doubles each time and which `random` shortens by
    /// up to a half. Returns the pause in ms.
    pub fn on_join_failed(&mut self, random: &mut fastrand::Rng, now: Time) -> u64 {
        let pause_ms = (BOOTSTRAP_RETRY_MS << self.failures.min(BOOTSTRAP_DOUBLINGS)).min(BOOTSTRAP_RETRY_MAX_MS);
        self.failures += 1;
        let pause_ms = pause_ms / 2 + random.u64(0..=pause_ms / 2);
        log::warn!("bootstrap_failed asked={} retry_ms={pause_ms}", self.bootstraps.len());
        self.join_at = Some(now.after(pause_ms));
        pause_ms
    }

    /// After a join: the next bucket to refresh, from the nearest to the farthest; `None` once all had their turn.
    pub fn next_refresh(&mut self) -> Option<BucketIndex> {
        let next = self.refreshed_to.farther()?;
        self.refreshed_to = next;
        Some(next)
    }

    /// If no contact in the table has responded, plans a join for `now`, unless one `is_running`. Otherwise returns the
    /// bucket to refresh: the one that has gone longest without a lookup, if that is long enough.
    pub fn on_upkeep(&mut self, table: &RoutingTable, is_running: bool, now: Time) -> Option<BucketIndex> {
        if table.is_empty() {
            if !is_running && !self.bootstraps.is_empty() {
                self.join_at.get_or_insert(now);
            }
            return None;
        }
        self.neighbours_at.get_or_insert(now.after(NEIGHBOURS_REFRESH_MAX_MS));
        table.stale_bucket(Time::from_ms(now.as_ms().saturating_sub(BUCKET_REFRESH_MS)))
    }

    /// When [`Bootstrapper::on_timeout`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        self.neighbours_at.into_iter().chain(self.join_at).min()
    }

    /// The next lookup to start at `now`: [`Upkeep::Neighbours`] or [`Upkeep::Join`]. Call until `None`. A node looks
    /// for neighbours soon after a join, to find those that joined at the same moment, and from time to time later, to
    /// find those that came since; but not while the table is empty.
    pub fn on_timeout(&mut self, table: &RoutingTable, random: &mut fastrand::Rng, now: Time) -> Option<Upkeep> {
        if self.neighbours_at.take_if(|at| *at <= now).is_some() && !table.is_empty() {
            self.neighbours_ms = (self.neighbours_ms * NEIGHBOURS_REFRESH_FACTOR).min(NEIGHBOURS_REFRESH_MAX_MS);
            let pause_ms = random.u64(self.neighbours_ms * 3 / 4..self.neighbours_ms * 5 / 4);
            self.neighbours_at = Some(now.after(pause_ms));
            return Some(Upkeep::Neighbours);
        }
        self.join_at.take_if(|at| *at <= now).map(|_| Upkeep::Join)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kad::Parameters;
    use crate::kad::routing_table::BucketPolicy;

    fn contact(n: u16) -> Contact {
        Contact { id: Id::hash_of(&[&n.to_be_bytes()]), addr: ([127, 0, 0, 1], n).into() }
    }

    fn random() -> fastrand::Rng {
        fastrand::Rng::with_seed(7)
    }

    fn table(contacts: u16) -> RoutingTable {
        let mut table = RoutingTable::new(Id::default(), Parameters::default(), BucketPolicy::Even);
        (0..contacts).for_each(|n| {
            table.answered(contact(1 + n), Time::ZERO);
        });
        table
    }

    /// One that knows of `n` bootstraps and is to join through them.
    fn bootstrapper(n: u16) -> Bootstrapper {
        let mut bootstrapper = Bootstrapper::default();
        (1..=n).for_each(|n| assert!(bootstrapper.add(Bootstrap::Contact(contact(n)), false, Time::ZERO)));
        bootstrapper
    }

    /// Every lookup that is due at `now` with so many contacts known; nothing is due after that.
    fn due(bootstrapper: &mut Bootstrapper, known: u16, random: &mut fastrand::Rng, now: Time) -> Vec<Upkeep> {
        let table = table(known);
        let due = std::iter::from_fn(|| bootstrapper.on_timeout(&table, random, now)).collect();
        assert!(bootstrapper.deadline().is_none_or(|at| at > now), "no busy loop");
        due
    }

    #[test]
    fn a_join_that_fails_backs_off_with_jitter_up_to_a_minute() {
        let (mut bootstrapper, mut random) = (bootstrapper(1), random());
        let mut pauses = Vec::new();
        for _ in 0..40 {
            let now = bootstrapper.deadline().unwrap();
            assert_eq!(due(&mut bootstrapper, 0, &mut random, now), [Upkeep::Join]);
            let pause_ms = bootstrapper.on_join_failed(&mut random, now);
            assert_eq!(bootstrapper.deadline(), Some(now.after(pause_ms)));
            pauses.push(pause_ms);
        }
        for (pause_ms, n) in pauses.iter().zip(0..) {
            let full_ms = (BOOTSTRAP_RETRY_MS << n.min(6)).min(BOOTSTRAP_RETRY_MAX_MS);
            assert!((full_ms / 2..=full_ms).contains(pause_ms), "pause {n} of {pauses:?}");
        }
        assert_ne!(pauses[10], pauses[11], "jitter");
        let now = bootstrapper.deadline().unwrap();
        bootstrapper.on_joined(BucketIndex::FARTHEST, now);
        assert!(bootstrapper.on_join_failed(&mut random, now) <= BOOTSTRAP_RETRY_MS, "a success resets the back-off");
    }

    #[test]
    fn neighbours_are_looked_for_soon_after_a_join_and_then_more_and_more_seldom() {
        let (mut bootstrapper, mut random) = (bootstrapper(1), random());
        assert_eq!(due(&mut bootstrapper, 0, &mut random, Time::ZERO), [Upkeep::Join]);
        bootstrapper.on_joined(BucketIndex::FARTHEST, Time::ZERO);
        let mut at = vec![0];
        for _ in 0..6 {
            let now = bootstrapper.deadline().unwrap();
            assert_eq!(due(&mut bootstrapper, 3, &mut random, now), [Upkeep::Neighbours]);
            at.push(now.as_ms());
        }
        let pauses: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(pauses[0], NEIGHBOURS_REFRESH_MS);
        for (pause_ms, full_ms) in pauses[1..].iter().zip([4_000, 16_000, 30_000, 30_000, 30_000]) {
            assert!((full_ms * 3 / 4..full_ms * 5 / 4).contains(pause_ms), "{pauses:?}");
        }
        let now = bootstrapper.deadline().unwrap();
        assert_eq!(due(&mut bootstrapper, 0, &mut random, now), [], "nobody is left");
        assert_eq!(bootstrapper.deadline(), None);
    }

    #[test]
    fn both_kinds_are_due_at_once_and_each_is_started_once() {
        let (mut bootstrapper, mut random) = (bootstrapper(1), random());
        bootstrapper.on_joined(BucketIndex::FARTHEST, Time::ZERO);
        let now = Time::from_ms(NEIGHBOURS_REFRESH_MS);
        assert_eq!(due(&mut bootstrapper, 3, &mut random, now), [Upkeep::Neighbours, Upkeep::Join]);
    }

    #[test]
    fn a_join_refreshes_every_bucket_but_the_nearest_each_once() {
        let table = table(500);
        let mut bootstrapper = bootstrapper(1);
        assert_eq!(bootstrapper.next_refresh(), None, "before the join");
        bootstrapper.on_joined(table.nearest_bucket(), Time::ZERO);
        let refreshed: Vec<BucketIndex> = std::iter::from_fn(|| bootstrapper.next_refresh()).collect();
        assert_eq!(refreshed.len(), table.bucket_count() - 1);
        assert!(refreshed.is_sorted_by(|a, b| a > b), "from the nearest to the farthest");
        assert_eq!(refreshed.last(), Some(&BucketIndex::FARTHEST));
    }

    #[test]
    fn the_upkeep_joins_again_while_no_contact_has_responded() {
        let (mut bootstrapper, mut random) = (bootstrapper(1), random());
        due(&mut bootstrapper, 0, &mut random, Time::ZERO);
        let now = Time::from_ms(20_000);
        assert_eq!(
            (bootstrapper.on_upkeep(&table(0), true, now), bootstrapper.deadline()),
            (None, None),
            "one is running"
        );
        assert_eq!((bootstrapper.on_upkeep(&table(0), false, now), bootstrapper.deadline()), (None, Some(now)));
        let mut lone = Bootstrapper::default();
        assert_eq!((lone.on_upkeep(&table(0), false, now), lone.deadline()), (None, None), "nobody to join through");
    }

    #[test]
    fn the_upkeep_names_a_stale_bucket_and_keeps_looking_for_neighbours() {
        let (mut bootstrapper, table) = (Bootstrapper::default(), table(200));
        let now = Time::from_ms(BUCKET_REFRESH_MS);
        assert_eq!(bootstrapper.on_upkeep(&table, false, now), None);
        assert_eq!(bootstrapper.deadline(), Some(now.after(NEIGHBOURS_REFRESH_MAX_MS)));
        assert_eq!(bootstrapper.on_upkeep(&table, false, now.after(1)), Some(BucketIndex::FARTHEST));
    }

    #[test]
    fn bootstraps_are_bounded_and_noted_once() {
        let mut bootstrapper = bootstrapper(BOOTSTRAPS as u16);
        assert!(!bootstrapper.add(Bootstrap::Contact(contact(1_000)), false, Time::ZERO), "no room");
        assert!(bootstrapper.add(Bootstrap::Contact(contact(1)), false, Time::ZERO), "it is known");
        assert_eq!(bootstrapper.seeds(&Id::default()).count(), BOOTSTRAPS);
        let mut bootstrapper = Bootstrapper::default();
        assert!(bootstrapper.add(Bootstrap::Contact(contact(1)), true, Time::ZERO));
        assert_eq!(bootstrapper.deadline(), None, "a member of a network need not join");
        assert!(bootstrapper.add(Bootstrap::Contact(contact(1)), false, Time::ZERO));
        assert_eq!(bootstrapper.deadline(), None, "one that is known changes nothing");
    }

    #[test]
    fn addresses_stand_next_to_the_target_under_ids_of_their_own() {
        let mut bootstrapper = Bootstrapper::default();
        (1..=BOOTSTRAPS as u16).for_each(|n| {
            bootstrapper.note(Bootstrap::Address(contact(n).addr));
        });
        let target = contact(9).id;
        let ids: std::collections::BTreeSet<Id> = bootstrapper.seeds(&target).map(|seed| seed.id).collect();
        assert_eq!(ids.len(), BOOTSTRAPS);
        assert!(!ids.contains(&target), "it is nobody's id");
        assert!(ids.iter().all(|id| id.0[..31] == target.0[..31]));
    }

    #[test]
    fn a_small_table_always_asks_a_bootstrap_and_a_large_one_now_and_then() {
        let (bootstrapper, mut random) = (bootstrapper(4), random());
        let target = Id::default();
        let mut ask = |is_small| bootstrapper.island_seed(&target, is_small, &mut random);
        let small: Vec<Contact> = (0..1_000).filter_map(|_| ask(true)).collect();
        assert_eq!(small.len(), 1_000);
        let large = (0..1_000).filter_map(|_| ask(false)).count();
        assert!((50..200).contains(&large), "{large} of 1,000");
        for n in 1..=4 {
            let times = small.iter().filter(|seed| **seed == contact(n)).count();
            assert!((150..350).contains(&times), "bootstrap {n} was asked {times} times of 1,000");
        }
        assert_eq!(Bootstrapper::default().island_seed(&target, true, &mut random), None);
    }
}
