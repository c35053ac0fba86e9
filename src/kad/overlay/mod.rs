//! The part of a node that all dialects share: the routing table, the lookups in flight, bootstrap, refresh and probes.
//! It says *ask this contact about this target*; which message asks that is the dialect's business, and so are
//! requests, their timeouts and the values found. Pure; holds no message.

mod upkeep;

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::arena::{Arena, Key};
use crate::contact::{Contact, admissible};
use crate::id::Id;
use crate::kad::lookup::{Goal, Lookup};
use crate::kad::routing_table::{Added, BucketIndex, Listed, RoutingTable};
use crate::kad::{OverlayPolicy, Parameters};
use crate::limits::{
    BOOTSTRAPS, CHALLENGE_AFTER_MS, CHALLENGED, CONFIRM_MS, ISLAND_ODDS, NEIGHBOURS_REFRESH_MAX_MS,
    NEIGHBOURS_REFRESH_MS, REACHABILITY_CHECK_MS, REFRESHES, UNCONFIRMED, UPKEEP_MS,
};
use crate::time::Time;

/// Names a lookup; outlives it safely.
pub type LookupId = Key;

/// What the overlay wants asked.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Ask `contact` about `target`; report with [`Overlay::named`] or [`Overlay::failed`].
    Find {
        /// The lookup on whose behalf.
        lookup: LookupId,
        /// Whom.
        contact: Contact,
        /// About what.
        target: Id,
        /// Whether for nodes or for a value.
        goal: Goal,
    },
    /// Ask `contact`, in a way that does not tell it who asks, for what it knows near our own id; report with
    /// [`Overlay::confirm_reachable`] if it named us. As no answer names the asker, this is how a node learns that others can
    /// find it.
    CheckReachability {
        /// Whom.
        contact: Contact,
    },
    /// Ask whether `contact` is alive; report with [`Overlay::alive`] or [`Overlay::dead`].
    Probe {
        /// Whom.
        contact: Contact,
        /// It is only a candidate, seen as the source of a request: ask in a way that proves it listens there.
        verify: bool,
    },
}

/// A lookup that has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// On whose behalf, as given to [`Overlay::start_lookup`].
    pub owner: Key,
    /// The nearest contacts that answered, nearest first, at most k.
    pub closest: Vec<Contact>,
    /// Everybody who was asked, or was to be avoided: a second lookup need not ask them.
    pub queried: Vec<Contact>,
    /// Somebody could not be asked because we had too much in flight to it.
    pub passed_over: bool,
}

/// Counts that only grow, for the status page.
#[derive(Copy, Clone, Default, Debug)]
pub struct Tallies {
    /// Contacts dropped because no contact can have their address.
    pub martians: u64,
    /// Contacts kept out by the diversity limits.
    pub too_many_of_network: u64,
    /// Lookups that spent their budget.
    pub lookups_ran_out: u64,
    /// Tries to bootstrap that reached nobody.
    pub bootstraps_failed: u64,
    /// Candidates that did not answer where they seemed to listen.
    pub probes_failed: u64,
    /// Contacts dropped from the table because they did not answer.
    pub contacts_lost: u64,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Owner {
    /// The dialect's node, which knows it by this key; its end is reported.
    Dialect(Key),
    /// Looks up the own id; its end says whether we are part of a network.
    Bootstrap,
    /// Looks up an id in some bucket's range.
    Refresh,
    /// Looks up the own id again.
    Neighbours,
}

/// Where to begin when nobody is known.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Bootstrap {
    /// An id at an address.
    Contact(Contact),
    /// An address; who listens there says so in its answer, or does not.
    Address(SocketAddr),
}

impl Bootstrap {
    /// What a lookup for `target` is given to ask. An address stands nearest to it, so that it is asked first; as
    /// nobody will answer under that id, it counts for nothing else.
    fn seed(self, target: &Id, place: usize) -> Contact {
        match self {
            Bootstrap::Contact(contact) => contact,
            Bootstrap::Address(addr) => {
                let mut id = *target;
                id.0[31] ^= place as u8 + 1;
                Contact { id, addr }
            }
        }
    }
}

#[derive(Debug)]
struct Running {
    lookup: Lookup,
    owner: Owner,
    passed_over: bool,
}

/// The overlay of one node.
#[derive(Debug)]
pub struct Overlay {
    own: Contact,
    parameters: Parameters,
    policy: OverlayPolicy,
    table: RoutingTable,
    lookups: Arena<Running>,
    /// Lookups to look at again, because something about them changed.
    changed: VecDeque<LookupId>,
    ended: VecDeque<Ended>,
    probes_wanted: VecDeque<(Contact, bool)>,
    /// Candidates being probed.
    probing: usize,
    /// Addresses being probed, and those whose probe failed, with the time until which that is remembered; oldest
    /// first.
    probed: VecDeque<(SocketAddr, Time)>,
    bootstraps: Vec<Bootstrap>,
    bootstrap_at: Option<Time>,
    bootstrap_failures: u32,
    upkeep_at: Time,
    /// When to ask those who were heard of and never answered.
    confirm_at: Option<Time>,
    /// When to ask our neighbours about ourselves, and how long after that again.
    neighbours_at: Option<Time>,
    neighbours_ms: u64,
    /// The buckets farther than this one are to be refreshed one after the other.
    refreshed_to: BucketIndex,
    /// An answer of another has named us: others can find us.
    named_by_others: bool,
    /// While that is not so: when to look into the mirror again, and whom to ask by turns.
    reachability_at: Option<Time>,
    reachability_checks: usize,
    reachability_wanted: Option<Contact>,
    random: fastrand::Rng,
    tallies: Tallies,
}

impl Overlay {
    /// An overlay around `own`; `seed` decides every random choice it will make.
    pub fn new(own: Contact, parameters: Parameters, policy: OverlayPolicy, seed: u64, now: Time) -> Overlay {
        let mut random = fastrand::Rng::with_seed(seed);
        Overlay {
            own,
            parameters,
            policy,
            table: RoutingTable::new(own.id, parameters, policy.bucket_policy),
            lookups: Arena::default(),
            changed: VecDeque::new(),
            ended: VecDeque::new(),
            probes_wanted: VecDeque::new(),
            probing: 0,
            probed: VecDeque::new(),
            bootstraps: Vec::new(),
            bootstrap_at: None,
            bootstrap_failures: 0,
            upkeep_at: now.after(random.u64(UPKEEP_MS / 2..UPKEEP_MS)),
            confirm_at: None,
            neighbours_at: None,
            neighbours_ms: NEIGHBOURS_REFRESH_MAX_MS,
            refreshed_to: BucketIndex::FARTHEST,
            named_by_others: false,
            reachability_at: None,
            reachability_checks: 0,
            reachability_wanted: None,
            random,
            tallies: Tallies::default(),
        }
    }

    /// The node itself.
    pub fn own(&self) -> Contact {
        self.own
    }

    /// The routing table.
    pub fn table(&self) -> &RoutingTable {
        &self.table
    }

    /// Lookups in flight, those of bootstrap and refresh included.
    pub fn lookups_in_flight(&self) -> usize {
        self.lookups.len()
    }

    /// What has been counted.
    pub fn tallies(&self) -> Tallies {
        self.tallies
    }

    /// Random numbers for the dialect's nonces, from the same seed.
    pub fn random(&mut self) -> &mut fastrand::Rng {
        &mut self.random
    }

    /// Adds a contact to bootstrap from, and does so now unless the node is part of a network already.
    pub fn add_bootstrap(&mut self, contact: Contact, now: Time) {
        if contact.id != self.own.id {
            self.add(Bootstrap::Contact(contact), now);
        }
    }

    /// Does the same with an address, of which nobody knows who listens there.
    pub fn add_bootstrap_at(&mut self, addr: SocketAddr, now: Time) {
        if addr != self.own.addr {
            self.add(Bootstrap::Address(addr), now);
        }
    }

    /// Adds an address that lookups begin at while nobody else is known. Does not look for the network of its own
    /// accord.
    pub fn add_seed_at(&mut self, addr: SocketAddr) {
        self.note(Bootstrap::Address(addr));
    }

    /// Takes note of where to begin; whether it is new and there is room.
    fn note(&mut self, bootstrap: Bootstrap) -> bool {
        let is_noted = !self.bootstraps.contains(&bootstrap) && self.bootstraps.len() < BOOTSTRAPS;
        if is_noted {
            self.bootstraps.push(bootstrap);
        }
        is_noted
    }

    fn add(&mut self, bootstrap: Bootstrap, now: Time) {
        if self.note(bootstrap) && !self.table.has_confirmed() {
            self.bootstrap_at = Some(now);
        }
    }

    /// Whether this node counts itself among the nodes closest to a key: others can find it, or there are no others.
    pub fn counts_itself(&self) -> bool {
        self.named_by_others || self.table.is_empty()
    }

    /// Starts a lookup; its asks come from [`Overlay::poll_ask`], its end from [`Overlay::poll_ended`]. `owner` is the
    /// dialect's, and handed back. `avoided` are not asked.
    pub fn start_lookup(&mut self, target: Id, goal: Goal, paths: usize, owner: Key, avoided: &[Contact]) -> LookupId {
        self.start(target, goal, paths, Owner::Dialect(owner), avoided)
    }

    /// On whose behalf a lookup in flight was started; `None` for those of bootstrap and refresh.
    pub fn owner(&self, lookup: LookupId) -> Option<Key> {
        match self.lookups.get(lookup)?.owner {
            Owner::Dialect(owner) => Some(owner),
            Owner::Bootstrap | Owner::Refresh | Owner::Neighbours => None,
        }
    }

    /// What a lookup in flight looks for.
    pub fn target(&self, lookup: LookupId) -> Option<Id> {
        self.lookups.get(lookup).map(|running| running.lookup.target())
    }

    /// Ends a lookup whose purpose is fulfilled. Nothing more comes of it.
    pub fn enough(&mut self, lookup: LookupId, now: Time) {
        if let Some(running) = self.lookups.remove(lookup) {
            self.table.looked_up(&running.lookup.target(), now);
        }
    }

    /// Ends a lookup with what it has heard so far, which comes from [`Overlay::poll_ended`] as if it had ended by
    /// itself.
    pub fn conclude(&mut self, lookup: LookupId, now: Time) {
        self.end(lookup, now);
    }

    /// Whether the `n` nearest contacts that a lookup knows have answered, but for those that are slow or failed.
    pub fn have_nearest_answered(&self, lookup: LookupId, n: usize) -> bool {
        self.lookups.get(lookup).is_some_and(|running| running.lookup.have_nearest_answered(n))
    }

    /// Lets a lookup ask all that it still has to hear at once.
    pub fn hurry(&mut self, lookup: LookupId) {
        if let Some(running) = self.lookups.get_mut(lookup) {
            running.lookup.hurry();
            self.changed.push_back(lookup);
        }
    }

    /// The `n` nearest contacts that a lookup knows, nearest first, once all of them have answered; `None` while one
    /// was not asked or is awaited, however slow it is.
    pub fn settled_nearest(&self, lookup: LookupId, n: usize) -> Option<Vec<Contact>> {
        self.lookups.get(lookup)?.lookup.settled_nearest(n)
    }

    /// `from` answered the lookup and named `contacts` (empty if it answered with what was looked for). Of those that
    /// are new, only the `genuine` are believed; returns how many were not.
    pub fn named(
        &mut self,
        lookup: LookupId,
        from: Contact,
        contacts: &[Contact],
        genuine: impl Fn(&Contact) -> bool,
        now: Time,
    ) -> usize {
        self.alive(from, now);
        let admitted = self.admit(contacts);
        let Some(running) = self.lookups.get_mut(lookup) else {
            return 0;
        };
        self.changed.push_back(lookup);
        running.lookup.answered(&from, &admitted, genuine)
    }

    /// Who was asked as `asked` answered the lookup under another id, which `real` tells, or under none, and named
    /// `contacts`. As `real` it is asked again: nobody is one of the closest under an id that it was not asked as.
    pub fn named_as(
        &mut self,
        lookup: LookupId,
        asked: Contact,
        real: Option<Contact>,
        contacts: &[Contact],
        now: Time,
    ) {
        self.gone(asked);
        real.into_iter().for_each(|real| self.alive(real, now));
        let mut admitted = self.admit(contacts);
        admitted.extend(self.admit(real.as_slice()));
        if let Some(running) = self.lookups.get_mut(lookup) {
            running.lookup.guided(&asked.id, &admitted);
            self.changed.push_back(lookup);
        }
    }

    /// The address of who first named `contact` to a lookup in flight.
    pub fn referrer(&self, lookup: LookupId, contact: &Contact) -> Option<SocketAddr> {
        self.lookups.get(lookup)?.lookup.referrer(&contact.id)
    }

    /// Those of `contacts` that may be asked.
    fn admit(&mut self, contacts: &[Contact]) -> Vec<Contact> {
        let mut admitted = Vec::with_capacity(contacts.len());
        for contact in contacts {
            if contact.id == self.own.id {
                // From behind a NAT it is another address than the one we know of.
                self.named_by_others |= contact.addr == self.own.addr;
            } else if contact.addr != self.own.addr && admissible(self.own.addr.ip(), contact.addr) {
                admitted.push(*contact);
            } else {
                self.tallies.martians += 1;
            }
        }
        admitted
    }

    /// `contact` did not answer the lookup's request.
    pub fn failed(&mut self, lookup: LookupId, contact: Contact) {
        self.dead(contact);
        if let Some(running) = self.lookups.get_mut(lookup) {
            running.lookup.failed(&contact.id);
            self.changed.push_back(lookup);
        }
    }

    /// `contact` could not be asked just now, which says nothing about its health.
    pub fn passed_over(&mut self, lookup: LookupId, contact: Contact) {
        if let Some(running) = self.lookups.get_mut(lookup) {
            running.passed_over = true;
            running.lookup.passed_over(&contact.id);
            self.changed.push_back(lookup);
        }
    }

    /// `contact` is past the short timeout of the lookup's request.
    pub fn slow(&mut self, lookup: LookupId, contact: Contact) {
        if let Some(running) = self.lookups.get_mut(lookup) {
            running.lookup.slow(&contact.id);
            self.changed.push_back(lookup);
        }
    }

    /// `contact` answered something: it is believed.
    pub fn alive(&mut self, contact: Contact, now: Time) {
        if !admissible(self.own.addr.ip(), contact.addr) {
            self.tallies.martians += 1;
            return;
        }
        if self.table.answered(contact, now) == Added::TooManyOfNetwork {
            self.tallies.too_many_of_network += 1;
        }
        if self.policy.probes_own_reachability && !self.named_by_others && self.reachability_at.is_none() {
            self.reachability_at = Some(now.after(REACHABILITY_CHECK_MS));
        }
    }

    /// Somebody who did not know who asked has named us.
    pub fn confirm_reachable(&mut self) {
        self.named_by_others = true;
    }

    /// `contact` did not answer something that was no lookup's.
    pub fn dead(&mut self, contact: Contact) {
        let known = self.table.get(&contact.id).is_some_and(|e| e.contact.addr == contact.addr);
        if known && self.table.failed(&contact.id) {
            self.tallies.contacts_lost += 1;
        }
    }

    /// Nobody of this id is at this address any more, although somebody else may be.
    pub fn gone(&mut self, contact: Contact) {
        while self.table.get(&contact.id).is_some_and(|e| e.contact.addr == contact.addr) {
            self.tallies.contacts_lost += u64::from(self.table.failed(&contact.id));
        }
    }

    /// `contact` sent a request that names its id: it is listed at once, and asked before long whether it is there.
    /// Where its bucket is full, those of it that have been silent longest are asked instead, and who does not answer
    /// makes room.
    pub fn add_unconfirmed(&mut self, contact: Contact, now: Time) {
        if !admissible(self.own.addr.ip(), contact.addr) {
            self.tallies.martians += 1;
            return;
        }
        if let Some(known) = self.table.get(&contact.id).map(|e| e.contact) {
            if known.addr != contact.addr {
                // It may have moved; if so, the place is free for it before long.
                self.want_probe(known, false, CONFIRM_MS, now);
            }
            return;
        }
        if self.table.unconfirmed_since(now).take(UNCONFIRMED).count() == UNCONFIRMED {
            return;
        }
        match self.table.add_unconfirmed(contact, now) {
            Listed::Nothing => {}
            Listed::Added => {
                self.confirm_at.get_or_insert(now.after(CONFIRM_MS));
            }
            Listed::Full => {
                let silent = |c: &Contact| {
                    let entry = self.table.get(&c.id);
                    entry.is_some_and(|e| now.since(e.answered_at) >= CHALLENGE_AFTER_MS)
                };
                let oldest = self.table.oldest_beside(&contact.id, CHALLENGED);
                let silent: Vec<Contact> = oldest.into_iter().filter(silent).collect();
                silent.into_iter().for_each(|contact| self.want_probe(contact, false, CONFIRM_MS, now));
            }
        }
    }

    /// The next thing to ask; call until `None` after anything was reported.
    pub fn poll_ask(&mut self, now: Time) -> Option<Ask> {
        if let Some((contact, verify)) = self.probes_wanted.pop_front() {
            self.probing += usize::from(verify);
            return Some(Ask::Probe { contact, verify });
        }
        if let Some(contact) = self.reachability_wanted.take() {
            return Some(Ask::CheckReachability { contact });
        }
        while let Some(&lookup) = self.changed.front() {
            let Some(running) = self.lookups.get_mut(lookup) else {
                self.changed.pop_front();
                continue;
            };
            if let Some(contact) = running.lookup.next_to_ask() {
                let (target, goal) = (running.lookup.target(), running.lookup.goal());
                return Some(Ask::Find { lookup, contact, target, goal });
            }
            let finished = running.lookup.is_finished();
            self.changed.pop_front();
            if finished {
                self.end(lookup, now);
            }
        }
        None
    }

    /// The next of the dialect's lookups that has ended.
    pub fn poll_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    fn start(&mut self, target: Id, goal: Goal, paths: usize, owner: Owner, avoided: &[Contact]) -> LookupId {
        let k = self.parameters.k;
        let mut seeds = Vec::with_capacity(k);
        self.table.closest(&target, k, |e| e.failures == 0 && !avoided.contains(&e.contact), &mut seeds);
        if seeds.len() < k {
            let missing = k - seeds.len();
            self.table.closest(&target, missing, |e| e.failures > 0 && !avoided.contains(&e.contact), &mut seeds);
        }
        if owner == Owner::Bootstrap || !self.table.has_confirmed() {
            seeds.extend(self.bootstraps.iter().enumerate().map(|(place, bootstrap)| bootstrap.seed(&target, place)));
        } else if owner == Owner::Neighbours && !self.bootstraps.is_empty() {
            // Two islands that know none of each other find together again through whom both were told of.
            if seeds.len() < k || self.random.u32(..ISLAND_ODDS) == 0 {
                seeds.push(self.bootstraps[self.random.usize(..self.bootstraps.len())].seed(&target, 0));
            }
        }
        let lookup = Lookup::new(target, goal, self.parameters, paths, &seeds, avoided);
        let id = self.lookups.insert(Running { lookup, owner, passed_over: false });
        self.changed.push_back(id);
        id
    }

    fn end(&mut self, id: LookupId, now: Time) {
        let Some(running) = self.lookups.remove(id) else {
            return;
        };
        self.tallies.lookups_ran_out += u64::from(running.lookup.ran_out());
        self.tallies.too_many_of_network += running.lookup.crowded_out();
        if running.lookup.answers() > 0 {
            self.table.looked_up(&running.lookup.target(), now);
        }
        match running.owner {
            Owner::Dialect(owner) => self.ended.push_back(Ended {
                owner,
                closest: running.lookup.closest(),
                queried: running.lookup.queried(),
                passed_over: running.passed_over,
            }),
            Owner::Neighbours => {}
            Owner::Refresh => self.refresh_next(now),
            Owner::Bootstrap if running.lookup.answers() > 0 => {
                if !self.table.is_empty() {
                    log::info!("joined contacts={}", self.table.len());
                }
                self.bootstrap_failures = 0;
                // Every bucket farther than the closest neighbour's (paper, section 2.3): far nodes learn of us too.
                self.refreshed_to = self.table.nearest_bucket();
                self.neighbours_ms = NEIGHBOURS_REFRESH_MS;
                self.neighbours_at = Some(now.after(NEIGHBOURS_REFRESH_MS));
                (0..REFRESHES).for_each(|_| self.refresh_next(now));
            }
            Owner::Bootstrap => self.bootstrap_failed(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kad::routing_table::BucketPolicy;
    use crate::limits::PROBES;

    fn contact(n: u16) -> Contact {
        Contact { id: Id::hash_of(&[&n.to_be_bytes()]), addr: ([127, 0, 0, 1], n).into() }
    }

    fn overlay() -> Overlay {
        let policy = OverlayPolicy { bucket_policy: BucketPolicy::Even, probes_own_reachability: true };
        Overlay::new(contact(1), Parameters::default(), policy, 7, Time::ZERO)
    }

    /// One of a dialect whose answers name the asker.
    fn named_overlay() -> Overlay {
        let policy = OverlayPolicy { bucket_policy: BucketPolicy::FirstCome, probes_own_reachability: false };
        Overlay::new(contact(1), Parameters::default(), policy, 7, Time::ZERO)
    }

    fn asks(overlay: &mut Overlay, now: Time) -> Vec<Ask> {
        std::iter::from_fn(|| overlay.poll_ask(now)).collect()
    }

    #[test]
    fn bootstrap_backs_off_while_nobody_answers_and_never_spins() {
        let mut overlay = overlay();
        overlay.add_bootstrap(contact(2), Time::ZERO);
        let mut now = Time::ZERO;
        let mut tries = Vec::new();
        while now < Time::from_ms(300_000) {
            overlay.on_timeout(now);
            for ask in asks(&mut overlay, now) {
                let Ask::Find { lookup, contact, .. } = ask else { panic!("only the bootstrap is asked") };
                tries.push(now.as_ms());
                overlay.failed(lookup, contact);
            }
            asks(&mut overlay, now);
            assert!(overlay.next_deadline() > now, "no busy loop");
            now = overlay.next_deadline();
        }
        assert!((8..20).contains(&tries.len()), "{tries:?}");
        assert_eq!(overlay.tallies().bootstraps_failed, tries.len() as u64);
    }

    #[test]
    fn a_bootstrap_that_answers_ends_in_refreshes_and_a_named_self() {
        let mut overlay = overlay();
        overlay.add_bootstrap(contact(2), Time::ZERO);
        overlay.on_timeout(Time::ZERO);
        assert!(overlay.counts_itself(), "alone");
        let [Ask::Find { lookup, contact: seed, .. }] = asks(&mut overlay, Time::ZERO)[..] else { panic!() };
        overlay.named(lookup, seed, &[contact(1), contact(3)], |_| true, Time::ZERO);
        assert!(overlay.counts_itself(), "named");
        let [Ask::Find { lookup, contact: third, .. }] = asks(&mut overlay, Time::ZERO)[..] else { panic!() };
        assert_eq!(third, contact(3));
        let others: Vec<Contact> = (10..60).map(contact).collect();
        overlay.named(lookup, third, &others, |_| true, Time::ZERO);
        let mut targets = std::collections::BTreeSet::new();
        for _ in 0..100 {
            for ask in asks(&mut overlay, Time::ZERO) {
                let Ask::Find { lookup, contact, target, .. } = ask else { panic!("nothing else is asked") };
                overlay.named(lookup, contact, &[], |_| true, Time::ZERO);
                targets.insert(target);
            }
            assert!(overlay.lookups_in_flight() <= REFRESHES);
        }
        assert!(targets.len() >= overlay.table().bucket_count(), "the buckets are filled one after the other");
        assert!(overlay.table().len() > 20);
    }

    #[test]
    fn named_contacts_are_not_believed_before_they_answer() {
        let mut overlay = overlay();
        overlay.alive(contact(2), Time::ZERO);
        let lookup = overlay.start_lookup(Id::default(), Goal::Nodes(20), 1, Key::from_bits(0), &[]);
        asks(&mut overlay, Time::ZERO);
        let martian = Contact { addr: "224.0.0.1:5".parse().unwrap(), ..contact(9) };
        overlay.named(lookup, contact(2), &[contact(3), martian], |_| true, Time::ZERO);
        let find = Ask::Find { lookup, contact: contact(3), target: Id::default(), goal: Goal::Nodes(20) };
        assert_eq!(asks(&mut overlay, Time::ZERO), [find]);
        overlay.failed(lookup, contact(3));
        asks(&mut overlay, Time::ZERO);
        assert_eq!(overlay.poll_ended().unwrap().closest, [contact(2)]);
        assert_eq!((overlay.table().len(), overlay.tallies().martians), (1, 1));
    }

    #[test]
    fn candidates_are_probed_once_and_a_failure_is_remembered() {
        let mut overlay = overlay();
        for _ in 0..3 {
            overlay.candidate(contact(5), Time::ZERO);
        }
        assert_eq!(asks(&mut overlay, Time::ZERO), [Ask::Probe { contact: contact(5), verify: true }]);
        overlay.probe_ended(contact(5), false);
        overlay.candidate(contact(5), Time::from_ms(59_000));
        assert!(asks(&mut overlay, Time::from_ms(59_000)).is_empty());
        overlay.candidate(contact(5), Time::from_ms(60_000));
        assert_eq!(asks(&mut overlay, Time::from_ms(60_000)).len(), 1);
    }

    /// Answers every ask of `overlay` with nothing, until `end`; whom it asked about its own id meanwhile.
    fn asked_about_itself(overlay: &mut Overlay, now: &mut Time, end: Time) -> Vec<SocketAddr> {
        let mut asked = Vec::new();
        while overlay.next_deadline() <= end {
            *now = overlay.next_deadline();
            overlay.on_timeout(*now);
            while let Some(ask) = overlay.poll_ask(*now) {
                if let Ask::Find { lookup, contact, target, .. } = ask {
                    overlay.named(lookup, contact, &[], |_| true, *now);
                    if target == overlay.own().id {
                        asked.push(contact.addr);
                    }
                }
            }
        }
        asked
    }

    /// Three nodes that joined through the first at once never learned of each other (tests/connections.rs); of two
    /// swarms that lost each other while their machines were restarted, neither did (found by the swarm).
    #[test]
    fn after_a_join_neighbours_are_asked_again_soon_and_an_island_asks_its_bootstraps() {
        let mut overlay = overlay();
        let mut now = Time::ZERO;
        overlay.add_bootstrap(contact(2), now);
        overlay.add_bootstrap(contact(3), now);
        let asked = asked_about_itself(&mut overlay, &mut now, Time::from_ms(8_000));
        assert_eq!(asked.len(), 2 * 3, "at once, after about a second and about five");
        let gone = contact(3);
        overlay.dead(gone);
        overlay.dead(gone);
        assert_eq!(overlay.table().len(), 1);
        let asked = asked_about_itself(&mut overlay, &mut now, Time::from_ms(120_000));
        assert!(asked.contains(&gone.addr), "who was lost is found again");
    }

    #[test]
    fn our_own_address_is_not_asked_under_another_id() {
        let mut overlay = overlay();
        overlay.alive(contact(2), Time::ZERO);
        let lookup = overlay.start_lookup(Id::default(), Goal::Value, 1, Key::from_bits(0), &[]);
        asks(&mut overlay, Time::ZERO);
        let disguised = Contact { addr: contact(1).addr, ..contact(9) };
        overlay.named(lookup, contact(2), &[disguised], |_| true, Time::ZERO);
        assert!(asks(&mut overlay, Time::ZERO).is_empty());
        assert_eq!(overlay.tallies().martians, 1);
    }

    #[test]
    fn a_node_checks_its_reachability_until_somebody_has_named_it() {
        let mut overlay = overlay();
        overlay.alive(contact(2), Time::ZERO);
        assert!(!overlay.counts_itself());
        let mut now = Time::ZERO;
        for _ in 0..4 {
            now = now.after(20_000);
            overlay.on_timeout(now);
            assert!(asks(&mut overlay, now).contains(&Ask::CheckReachability { contact: contact(2) }));
        }
        overlay.confirm_reachable();
        assert!(overlay.counts_itself());
        now = now.after(20_000);
        overlay.on_timeout(now);
        assert!(!asks(&mut overlay, now).contains(&Ask::CheckReachability { contact: contact(2) }));
    }

    #[test]
    fn who_was_heard_of_is_listed_asked_and_dropped_if_silent() {
        let mut overlay = named_overlay();
        overlay.add_unconfirmed(contact(2), Time::ZERO);
        overlay.add_unconfirmed(contact(3), Time::ZERO);
        assert_eq!(overlay.table().len(), 2);
        overlay.alive(contact(3), Time::from_ms(9));
        let now = overlay.next_deadline();
        assert_eq!(now, Time::from_ms(CONFIRM_MS));
        overlay.on_timeout(now);
        let probe = Ask::Probe { contact: contact(2), verify: true };
        assert_eq!(asks(&mut overlay, now), [probe], "who answered anything meanwhile is not asked");
        overlay.dead(contact(2));
        overlay.probe_ended(contact(2), false);
        assert_eq!((overlay.table().len(), overlay.tallies().contacts_lost), (1, 1));
        overlay.on_timeout(now.after(CONFIRM_MS));
        let asked = asks(&mut overlay, now.after(CONFIRM_MS));
        assert!(!asked.contains(&probe), "nobody is left to confirm: {asked:?}");
    }

    #[test]
    fn a_full_bucket_asks_its_oldest_and_who_is_silent_makes_room() {
        let far: Vec<Contact> =
            (10..2_000).map(contact).filter(|c| c.id.0[0] >> 7 != contact(1).id.0[0] >> 7).collect();
        let mut overlay = named_overlay();
        far[..20].iter().zip(0..).for_each(|(c, n)| overlay.alive(*c, Time::from_ms(n)));
        // The bucket of the other half of all ids no longer splits once there is one of the own half.
        let near = (10..2_000).map(contact).find(|c| c.id.0[0] >> 7 == contact(1).id.0[0] >> 7).unwrap();
        let old = Time::from_ms(CHALLENGE_AFTER_MS);
        overlay.alive(near, old);
        let known: Vec<Contact> = overlay.table().oldest_beside(&far[0].id, 3);
        assert_eq!(known, far[..3]);
        let newcomer = far[20];
        overlay.add_unconfirmed(newcomer, old.after(CHALLENGE_AFTER_MS));
        let asked: Vec<Ask> = asks(&mut overlay, old);
        assert_eq!(asked.len(), 3);
        assert!(overlay.table().get(&newcomer.id).is_none(), "all may be alive");
        overlay.dead(known[0]);
        assert!(overlay.table().get(&newcomer.id).is_none(), "one packet may be lost");
        overlay.dead(known[0]);
        assert!(overlay.table().get(&newcomer.id).is_some());
    }

    #[test]
    fn an_address_is_asked_first_and_counts_for_nothing() {
        let mut overlay = named_overlay();
        let seed = contact(9).addr;
        overlay.add_bootstrap_at(seed, Time::ZERO);
        let lookup = overlay.start_lookup(Id::default(), Goal::Value, 1, Key::from_bits(0), &[]);
        let [Ask::Find { contact: asked, .. }] = asks(&mut overlay, Time::ZERO)[..] else { panic!() };
        assert_eq!(asked.addr, seed);
        overlay.named_as(lookup, asked, None, &[contact(3)], Time::ZERO);
        assert_eq!(overlay.referrer(lookup, &contact(3)), Some(seed));
        let [Ask::Find { contact: next, .. }] = asks(&mut overlay, Time::ZERO)[..] else { panic!() };
        assert_eq!(next, contact(3));
        // It, too, turns out to be somebody else by now.
        overlay.named_as(lookup, next, Some(contact(4)), &[], Time::ZERO);
        let [Ask::Find { contact: real, .. }] = asks(&mut overlay, Time::ZERO)[..] else { panic!() };
        assert_eq!(real, contact(4), "who counts has answered as who it was asked as");
        overlay.named(lookup, real, &[], |_| true, Time::ZERO);
        asks(&mut overlay, Time::ZERO);
        assert_eq!(overlay.poll_ended().unwrap().closest, [contact(4)]);
        assert_eq!(overlay.table().len(), 1);
    }

    #[test]
    fn strangers_that_were_only_heard_of_keep_nobody_from_bootstrapping() {
        let mut overlay = named_overlay();
        overlay.add_unconfirmed(contact(5), Time::ZERO);
        overlay.add_bootstrap_at(contact(9).addr, Time::ZERO);
        assert_eq!(overlay.next_deadline(), Time::ZERO);
        overlay.on_timeout(Time::ZERO);
        let asked = asks(&mut overlay, Time::ZERO);
        assert!(asked.iter().any(|ask| matches!(ask, Ask::Find { contact: c, .. } if c.addr == contact(9).addr)));
    }

    #[test]
    fn only_so_many_are_listed_that_were_only_heard_of() {
        let mut overlay = named_overlay();
        (10..2_000).for_each(|n| overlay.add_unconfirmed(contact(n), Time::ZERO));
        assert_eq!(overlay.table().unconfirmed_since(Time::ZERO).count(), UNCONFIRMED);
    }

    #[test]
    fn a_known_id_heard_from_elsewhere_has_its_old_address_asked() {
        let mut overlay = named_overlay();
        overlay.alive(contact(5), Time::ZERO);
        overlay.add_unconfirmed(Contact { addr: contact(6).addr, ..contact(5) }, Time::ZERO);
        assert_eq!(asks(&mut overlay, Time::ZERO), [Ask::Probe { contact: contact(5), verify: false }]);
        assert_eq!(overlay.table().get(&contact(5).id).unwrap().contact, contact(5), "the confirmed entry stays");
    }

    #[test]
    fn at_most_32_candidates_are_probed_at_once() {
        let mut overlay = overlay();
        for n in 10..200 {
            overlay.candidate(contact(n), Time::ZERO);
        }
        assert_eq!(asks(&mut overlay, Time::ZERO).len(), PROBES);
        overlay.candidate(contact(300), Time::ZERO);
        assert!(asks(&mut overlay, Time::ZERO).is_empty());
    }
}
