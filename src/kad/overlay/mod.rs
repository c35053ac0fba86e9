//! The part of a node that all dialects share: the routing table, the lookups in flight, and what keeps both alive. It
//! says *ask this contact about this target*; which message asks that is the dialect's business, and so are requests,
//! their timeouts and the values found. Pure: sends nothing, holds no message, and panics on nothing it is given.
//!
//! Three parts own the state of what the overlay does of its own accord, each with its deadline:
//!
//! * `bootstrapper`: when to join a network, meet the neighbours again and refresh buckets;
//! * `prober`: which contacts to ask whether they are alive;
//! * `reachability`: whether others can find this node.

mod bootstrapper;
mod lookups;
mod output;
mod prober;
mod reachability;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;

use self::bootstrapper::{Bootstrap, Bootstrapper, Upkeep};
use self::lookups::{Lookups, Owner, Running, Step};
pub use self::output::{Ask, Ended, LookupId, Tallies};
use self::prober::{Probe, Prober};
use self::reachability::Reachability;
use crate::arena::Key;
use crate::contact::{Contact, admissible};
use crate::id::Id;
use crate::kad::lookup::{Goal, Lookup};
use crate::kad::routing_table::{Added, BucketIndex, Listed, RoutingTable};
use crate::kad::{OverlayPolicy, Parameters};
use crate::limits::{REACHABILITY_CONTACTS, REFRESHES, UNCONFIRMED, UPKEEP_MS};
use crate::time::Time;

/// The overlay of one node. It is driven by reports of what contacts did, and drained by [`Overlay::poll_ask`] and
/// [`Overlay::poll_ended`]:
///
/// ```rust
/// use dayfly::arena::Key;
/// use dayfly::contact::Contact;
/// use dayfly::id::Id;
/// use dayfly::kad::lookup::Goal;
/// use dayfly::kad::overlay::{Ask, Overlay};
/// use dayfly::kad::routing_table::BucketPolicy;
/// use dayfly::kad::{OverlayPolicy, Parameters};
/// use dayfly::time::Time;
///
/// let contact = |n: u8| Contact { id: Id::of(&[n]), addr: ([127, 0, 0, 1], 6500 + u16::from(n)).into() };
/// let policy = OverlayPolicy { bucket_policy: BucketPolicy::Even, probes_own_reachability: false };
/// let now = Time::ZERO;
/// let mut overlay = Overlay::new(contact(0), Parameters::default(), policy, 7, now);
///
/// // Contact 1 has responded to something, so it is in the table from now on.
/// overlay.alive(contact(1), now);
///
/// let owner = Key::from_bits(42);
/// let lookup = overlay.start_lookup(Id::of(b"a key"), Goal::Nodes(2), 1, owner, &[]);
/// while let Some(ask) = overlay.poll_ask(now) {
///     // A dialect sends a request here, and reports the answer when it comes: each contact names contact 2.
///     let Ask::Find { lookup: asking, contact: asked, .. } = ask else { continue };
///     assert_eq!(asking, lookup);
///     overlay.named(lookup, asked, &[contact(2)], |_| true, now);
/// }
///
/// let ended = overlay.poll_ended().expect("both contacts have answered");
/// assert_eq!(ended.owner, owner);
/// assert_eq!(ended.closest.len(), 2);
/// assert_eq!(overlay.table().len(), 2);
/// ```
#[derive(Debug)]
pub struct Overlay {
    own: Contact,
    parameters: Parameters,
    table: RoutingTable,
    lookups: Lookups,
    ended: VecDeque<Ended>,
    bootstrapper: Bootstrapper,
    prober: Prober,
    reachability: Reachability,
    upkeep_at: Time,
    random: fastrand::Rng,
    tallies: Tallies,
}

impl Overlay {
    /// An overlay around `own`. `seed` decides every random choice it will make.
    pub fn new(own: Contact, parameters: Parameters, policy: OverlayPolicy, seed: u64, now: Time) -> Overlay {
        let mut random = fastrand::Rng::with_seed(seed);
        Overlay {
            own,
            parameters,
            table: RoutingTable::new(own.id, parameters, policy.bucket_policy),
            lookups: Lookups::default(),
            ended: VecDeque::new(),
            bootstrapper: Bootstrapper::default(),
            prober: Prober::default(),
            reachability: Reachability::new(policy.probes_own_reachability),
            upkeep_at: now.after(random.u64(UPKEEP_MS / 2..UPKEEP_MS)),
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

    /// The number of lookups in flight, those of the overlay itself included.
    pub fn lookups_in_flight(&self) -> usize {
        self.lookups.len()
    }

    /// What has been counted so far.
    pub fn tallies(&self) -> Tallies {
        self.tallies
    }

    /// The overlay's random numbers, for the dialect's nonces: all of a node's choices come from one seed.
    pub fn random(&mut self) -> &mut fastrand::Rng {
        &mut self.random
    }

    /// Whether this node counts itself among the nodes closest to a key: others can find it, or there are no others.
    pub fn counts_itself(&self) -> bool {
        self.reachability.is_confirmed() || self.table.is_empty()
    }

    // ---- Where to begin ----

    /// Adds a contact to bootstrap from, and joins through it at `now` unless some contact has responded already.
    /// Returns `false` only if there is no room for it beside [`BOOTSTRAPS`](crate::limits::BOOTSTRAPS) others. Our own
    /// id is ignored, and needs no room.
    pub fn add_bootstrap(&mut self, contact: Contact, now: Time) -> bool {
        contact.id == self.own.id || self.bootstrapper.add(Bootstrap::Contact(contact), self.table.has_confirmed(), now)
    }

    /// Does the same with an address at which a node of unknown id listens.
    pub fn add_bootstrap_at(&mut self, addr: SocketAddr, now: Time) -> bool {
        addr == self.own.addr || self.bootstrapper.add(Bootstrap::Address(addr), self.table.has_confirmed(), now)
    }

    /// Adds an address at which lookups begin while no contact has responded, but does not join through it.
    pub fn add_seed_at(&mut self, addr: SocketAddr) {
        self.bootstrapper.note(Bootstrap::Address(addr));
    }

    // ---- Lookups ----

    /// Starts a lookup over so many disjoint `paths` (at least 1, at most 16). Its requests come from
    /// [`Overlay::poll_ask`] and its end from [`Overlay::poll_ended`], which hands `owner` back. None of `avoided` is
    /// asked.
    pub fn start_lookup(&mut self, target: Id, goal: Goal, paths: usize, owner: Key, avoided: &[Contact]) -> LookupId {
        self.start(target, goal, paths, Owner::Dialect(owner), avoided)
    }

    /// Lets a lookup that has ended go on until the k nearest contacts on each of its paths have answered: it asks all
    /// those whose answers it needs for that at once, and nobody twice. It ends as any other does.
    pub fn resume(&mut self, mut lookup: Lookup, owner: Key) -> LookupId {
        lookup.widen();
        self.lookups.insert(lookup, Owner::Dialect(owner))
    }

    /// The key that a lookup in flight was started with; `None` for those of the overlay itself.
    pub fn owner(&self, lookup: LookupId) -> Option<Key> {
        match self.lookups.get(lookup)?.owner {
            Owner::Dialect(owner) => Some(owner),
            Owner::Overlay(_) => None,
        }
    }

    /// The id that a lookup in flight looks for.
    pub fn target(&self, lookup: LookupId) -> Option<Id> {
        self.lookups.get(lookup).map(|running| running.lookup.target())
    }

    /// Ends a lookup that has served its purpose. [`Overlay::poll_ended`] does not report it.
    pub fn enough(&mut self, lookup: LookupId, now: Time) {
        if let Some(running) = self.lookups.remove(lookup) {
            self.table.looked_up(&running.lookup.target(), now);
        }
    }

    /// Ends a lookup with the answers it has so far. [`Overlay::poll_ended`] reports it as if it had ended by itself.
    pub fn conclude(&mut self, lookup: LookupId, now: Time) {
        self.end(lookup, now);
    }

    /// Whether the `n` nearest contacts that a lookup knows have answered, not counting those that are slow or failed.
    pub fn have_nearest_answered(&self, lookup: LookupId, n: usize) -> bool {
        self.lookups.get(lookup).is_some_and(|running| running.lookup.have_nearest_answered(n))
    }

    /// Lets a lookup ask at once all contacts whose answers it still needs.
    pub fn hurry(&mut self, lookup: LookupId) {
        if let Some(running) = self.lookups.change(lookup) {
            running.lookup.hurry();
        }
    }

    /// The `n` nearest contacts that a lookup knows, nearest first, once all of them have answered. `None` while one of
    /// them has yet to be asked or to answer, however slow it is.
    pub fn settled_nearest(&self, lookup: LookupId, n: usize) -> Option<Vec<Contact>> {
        self.lookups.get(lookup)?.lookup.settled_nearest(n)
    }

    /// The address of the contact that first named `contact` to a lookup in flight.
    pub fn referrer(&self, lookup: LookupId, contact: &Contact) -> Option<SocketAddr> {
        self.lookups.get(lookup)?.lookup.referrer(&contact.id)
    }

    // ---- What became of a request ----

    /// `from` answered the lookup and named `contacts` (none if it answered with what was looked for). Those that are
    /// new to the lookup must be `genuine`; returns the number of those that were not.
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
        self.lookups.change(lookup).map_or(0, |running| running.lookup.answered(&from, &admitted, genuine))
    }

    /// At the address of `asked`, a node answered the lookup that is not `asked` but `real` (`None` if it gave no id),
    /// and named `contacts`. It is asked again as `real`: a node is among the closest only under the id it was asked
    /// as.
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
        if let Some(running) = self.lookups.change(lookup) {
            running.lookup.guided(&asked.id, &admitted);
        }
    }

    /// `contact` did not answer the lookup's request.
    pub fn failed(&mut self, lookup: LookupId, contact: Contact) {
        self.dead(contact);
        if let Some(running) = self.lookups.change(lookup) {
            running.lookup.failed(&contact.id);
        }
    }

    /// `contact` could not be asked just now, which says nothing about its health.
    pub fn passed_over(&mut self, lookup: LookupId, contact: Contact) {
        if let Some(running) = self.lookups.change(lookup) {
            running.passed_over = true;
            running.lookup.passed_over(&contact.id);
        }
    }

    /// The lookup's request to `contact` is past its short timeout.
    pub fn slow(&mut self, lookup: LookupId, contact: Contact) {
        if let Some(running) = self.lookups.change(lookup) {
            running.lookup.slow(&contact.id);
        }
    }

    /// `contact` responded to any request, so it may enter the table.
    pub fn alive(&mut self, contact: Contact, now: Time) {
        if !admissible(self.own.addr.ip(), contact.addr) {
            self.tallies.martians += 1;
            return;
        }
        if self.table.answered(contact, now) == Added::TooManyOfNetwork {
            self.tallies.too_many_of_network += 1;
        }
        self.reachability.on_response(now);
    }

    /// `contact` did not answer a request that was no lookup's.
    pub fn dead(&mut self, contact: Contact) {
        if self.has_entry(&contact) && self.table.failed(&contact.id) {
            self.tallies.contacts_lost += 1;
        }
    }

    /// No node of this id is at this address any more, although another node may be. The contact leaves the table.
    pub fn gone(&mut self, contact: Contact) {
        while self.has_entry(&contact) {
            self.tallies.contacts_lost += u64::from(self.table.failed(&contact.id));
        }
    }

    /// A probe with `verify` has ended. Report an answer by [`Overlay::alive`] as well; a failure is no failure of an
    /// entry of the table.
    pub fn probe_ended(&mut self, contact: Contact, answered: bool) {
        self.prober.on_end(contact, answered);
        self.tallies.probes_failed += u64::from(!answered);
    }

    /// A node that did not know who asked has named us.
    pub fn confirm_reachable(&mut self) {
        self.reachability.confirm();
    }

    // ---- Requests of others ----

    /// `contact` sent a request that only nodes send. It is probed if the table has a place for it and its address is
    /// one that a contact can have.
    pub fn candidate(&mut self, contact: Contact, now: Time) {
        // Most are known, or their bucket is full of others.
        if !self.table.wants(&contact) {
            return;
        }
        if !admissible(self.own.addr.ip(), contact.addr) {
            self.tallies.martians += 1;
            return;
        }
        self.prober.on_candidate(contact, now);
    }

    /// `contact` sent a request that tells its id. It enters the table as unconfirmed and is probed before long. If its
    /// bucket is full, the entries of it that have been silent longest are probed instead, and those that do not answer
    /// make room.
    pub fn add_unconfirmed(&mut self, contact: Contact, now: Time) {
        if !admissible(self.own.addr.ip(), contact.addr) {
            self.tallies.martians += 1;
            return;
        }
        if let Some(known) = self.table.get(&contact.id).map(|e| e.contact) {
            if known.addr != contact.addr {
                self.prober.on_moved(known, now);
            }
            return;
        }
        if self.table.unconfirmed_since(now).take(UNCONFIRMED).count() == UNCONFIRMED {
            return;
        }
        match self.table.add_unconfirmed(contact, now) {
            Listed::Nothing => {}
            Listed::Added => self.prober.on_unconfirmed(now),
            Listed::Full => self.prober.on_full_bucket(&self.table, &contact.id, now),
        }
    }

    // ---- Time ----

    /// When [`Overlay::on_timeout`] has something to do.
    pub fn next_deadline(&self) -> Time {
        let parts = [self.bootstrapper.deadline(), self.reachability.deadline(), self.prober.deadline()];
        parts.into_iter().flatten().fold(self.upkeep_at, Time::min)
    }

    /// Starts the lookups and asks for the probes that are due at `now`. The next deadline is later than `now`.
    pub fn on_timeout(&mut self, now: Time) {
        // In this order, as the upkeep may find that it is time to join: the next deadline then lies ahead.
        if self.upkeep_at <= now {
            self.upkeep_at = now.after(self.random.u64(UPKEEP_MS * 3 / 4..UPKEEP_MS * 5 / 4));
            self.prober.on_upkeep(&self.table, now);
            let is_joining = self.lookups.has_any_of(Owner::Overlay(Upkeep::Join));
            if let Some(bucket) = self.bootstrapper.on_upkeep(&self.table, is_joining, now) {
                self.refresh(bucket, now);
            }
        }
        while let Some(upkeep) = self.bootstrapper.on_timeout(&self.table, &mut self.random, now) {
            self.start_own(self.own.id, upkeep);
        }
        let nearest = || {
            let mut nearest = Vec::with_capacity(REACHABILITY_CONTACTS);
            self.table.closest(&self.own.id, REACHABILITY_CONTACTS, |_| true, &mut nearest);
            nearest
        };
        self.reachability.on_timeout(nearest, now);
        self.prober.on_timeout(&self.table, now);
    }

    // ---- What comes out ----

    /// The next request to send. Call until `None` after anything was reported.
    pub fn poll_ask(&mut self, now: Time) -> Option<Ask> {
        if let Some(Probe { contact, verify }) = self.prober.poll_probe() {
            return Some(Ask::Probe { contact, verify });
        }
        if let Some(contact) = self.reachability.poll_check() {
            return Some(Ask::CheckReachability { contact });
        }
        while let Some(step) = self.lookups.next_step() {
            match step {
                Step::Ask(ask) => return Some(ask),
                Step::Finished(lookup) => self.end(lookup, now),
            }
        }
        None
    }

    /// The next of the dialect's lookups that has ended.
    pub fn poll_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    // ---- Inside ----

    /// Those of `contacts` that may be asked. If we are among them, others can find us.
    fn admit(&mut self, contacts: &[Contact]) -> Vec<Contact> {
        let mut admitted = Vec::with_capacity(contacts.len());
        for contact in contacts {
            if contact.id == self.own.id {
                // Behind a NAT, others may see another address than the one we know.
                if contact.addr == self.own.addr {
                    self.reachability.confirm();
                }
            } else if contact.addr != self.own.addr && admissible(self.own.addr.ip(), contact.addr) {
                admitted.push(*contact);
            } else {
                self.tallies.martians += 1;
            }
        }
        admitted
    }

    /// Whether `contact` is an entry of the table at that very address.
    fn has_entry(&self, contact: &Contact) -> bool {
        self.table.get(&contact.id).is_some_and(|e| e.contact.addr == contact.addr)
    }

    fn start(&mut self, target: Id, goal: Goal, paths: usize, owner: Owner, avoided: &[Contact]) -> LookupId {
        let k = self.parameters.k;
        let mut seeds = Vec::with_capacity(k);
        self.table.closest(&target, k, |e| e.failures == 0 && !avoided.contains(&e.contact), &mut seeds);
        if seeds.len() < k {
            let missing = k - seeds.len();
            self.table.closest(&target, missing, |e| e.failures > 0 && !avoided.contains(&e.contact), &mut seeds);
        }
        if owner == Owner::Overlay(Upkeep::Join) || !self.table.has_confirmed() {
            seeds.extend(self.bootstrapper.seeds(&target));
        } else if owner == Owner::Overlay(Upkeep::Neighbours) {
            seeds.extend(self.bootstrapper.island_seed(&target, seeds.len() < k, &mut self.random));
        }
        let lookup = Lookup::new(target, goal, self.parameters, paths, &seeds, avoided);
        self.lookups.insert(lookup, owner)
    }

    fn start_own(&mut self, target: Id, upkeep: Upkeep) {
        self.start(target, Goal::Nodes(self.parameters.k), 1, Owner::Overlay(upkeep), &[]);
    }

    /// Looks up a random id in the range of `bucket`.
    fn refresh(&mut self, bucket: BucketIndex, now: Time) {
        let random = Id(std::array::from_fn(|_| self.random.u8(..)));
        let target = self.table.id_in_bucket(bucket, random);
        self.table.looked_up(&target, now);
        self.start_own(target, Upkeep::Refresh);
    }

    fn refresh_next(&mut self, now: Time) {
        if let Some(bucket) = self.bootstrapper.next_refresh() {
            self.refresh(bucket, now);
        }
    }

    fn end(&mut self, id: LookupId, now: Time) {
        let Some(Running { lookup, owner, passed_over }) = self.lookups.remove(id) else {
            return;
        };
        self.tallies.lookups_ran_out += u64::from(lookup.ran_out());
        self.tallies.too_many_of_network += lookup.crowded_out();
        let has_answers = lookup.answers() > 0;
        if has_answers {
            self.table.looked_up(&lookup.target(), now);
        }
        match owner {
            Owner::Dialect(owner) => {
                let (closest, queried) = (lookup.closest(), lookup.queried());
                self.ended.push_back(Ended { owner, closest, queried, passed_over, lookup });
            }
            Owner::Overlay(Upkeep::Neighbours) => {}
            Owner::Overlay(Upkeep::Refresh) => self.refresh_next(now),
            Owner::Overlay(Upkeep::Join) if has_answers => {
                if !self.table.is_empty() {
                    log::info!("joined contacts={}", self.table.len());
                }
                self.bootstrapper.on_joined(self.table.nearest_bucket(), now);
                (0..REFRESHES).for_each(|_| self.refresh_next(now));
            }
            Owner::Overlay(Upkeep::Join) => {
                self.tallies.bootstraps_failed += 1;
                self.bootstrapper.on_join_failed(&mut self.random, now);
            }
        }
    }
}
