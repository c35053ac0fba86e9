//! One iterative lookup (Kademlia paper, section 2.3; disjoint paths as in S/Kademlia, section 4.4): which contact to
//! ask next, and when to stop. Sends nothing itself, and asks a contact again only if another address is named for it.

use std::net::SocketAddr;
use std::num::NonZeroU16;

use crate::contact::{Contact, Network, network};
use crate::id::{Distance, Id};
use crate::kad::Parameters;
use crate::limits::{
    LOOKUP_BUDGET, LOOKUP_BUDGET_ALL_PATHS, LOOKUP_IN_FLIGHT, NETWORK_PER_BUCKET, PATH_HORIZON, PATHS_MAX,
};

/// What a lookup is for, which decides when it has enough answers.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Goal {
    /// This many of the closest living nodes. Once any contact has answered, the lookup does not wait for those that
    /// are past their short timeout.
    Nodes(usize),
    /// A value. A slow contact may hold it, so the lookup waits for it; the caller ends the lookup once it has the
    /// value.
    Value,
    /// An answer of each of the closest living nodes. The lookup waits for slow contacts, and asks others meanwhile in
    /// case those are dead.
    Everything,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum State {
    /// Not asked yet.
    Fresh,
    /// Asked, and within the short timeout.
    Waiting,
    /// Asked, and past the short timeout.
    Slow,
    Answered,
    /// Another node answered at its address: the contacts that it named count, the candidate itself does not.
    Guided,
    /// Did not answer, or was to be avoided from the start.
    Failed,
    /// Could not be asked at the time, and was not queried.
    PassedOver,
}

/// Names one path of a lookup: below the number of its paths.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
struct PathIndex(u8);

/// A set of paths, a bit each.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
struct PathSet(u16);

impl PathSet {
    fn only(path: PathIndex) -> PathSet {
        PathSet(1 << path.0)
    }

    fn contains(self, path: PathIndex) -> bool {
        self.0 & (1 << path.0) != 0
    }

    fn insert(&mut self, path: PathIndex) {
        self.0 |= 1 << path.0;
    }

    fn remove(&mut self, path: PathIndex) {
        self.0 &= !(1 << path.0);
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }
}

const _: () = assert!(PATHS_MAX <= u16::BITS as usize, "each path has a bit");

/// A place in [`Lookup::referrers`], plus one.
#[derive(Copy, Clone, Debug)]
struct ReferrerIndex(NonZeroU16);

/// A contact that the lookup may ask, or did. `at` is always the place of one in [`Lookup::shortlist`].
#[derive(Copy, Clone, Debug)]
struct Candidate {
    contact: Contact,
    distance: Distance,
    network: Option<Network>,
    state: State,
    /// The paths on which it was named: any of them may ask it.
    named_on: PathSet,
    /// The path that asked it: its answer helps only that one.
    asked_on: PathIndex,
    /// The contact that named it first; none named the seeds.
    named_by: Option<ReferrerIndex>,
}

impl Candidate {
    fn is_on(&self, path: PathIndex) -> bool {
        self.named_on.contains(path)
    }

    /// Whether it counts as one of `network` on this path. It does not if another node was found at its address.
    fn is_of(&self, network: Option<Network>, path: PathIndex) -> bool {
        self.network == network && self.is_on(path) && self.state != State::Guided
    }
}

/// One of the paths of a lookup. No two ask the same node, so liars on one path do no harm to the others.
#[derive(Copy, Clone, Debug)]
struct Path {
    /// Requests left.
    budget: usize,
    /// Requests in flight that are not slow.
    waiting: usize,
    /// Requests in flight that are slow.
    slow: usize,
    /// Candidates named on it.
    candidates: usize,
}

/// A lookup in progress.
#[derive(Clone, Debug)]
pub struct Lookup {
    target: Id,
    goal: Goal,
    k: usize,
    counts_networks: bool,
    /// Requests in flight per path while none is slow.
    alpha_per_path: usize,
    /// Nearest candidates of a path that must have answered before the path ends.
    horizon: usize,
    /// Candidates that a path remembers: all that its budget lets it ask, and k more.
    shortlist_per_path: usize,
    /// Sorted by distance; an id stands once.
    shortlist: Vec<Candidate>,
    paths: Vec<Path>,
    /// Requests in flight, the slow ones included.
    in_flight: usize,
    answers: usize,
    /// The addresses of the contacts that answered, in that order.
    referrers: Vec<SocketAddr>,
    /// How often a named contact was left out because of others of its network.
    crowded_out: u64,
}

impl Lookup {
    /// A lookup over so many disjoint `paths` (brought within 1 to [`PATHS_MAX`]) that starts from `seeds`, the closest
    /// contacts known. It asks none of `avoided`, even if others name them.
    pub fn new(
        target: Id,
        goal: Goal,
        parameters: Parameters,
        paths: usize,
        seeds: &[Contact],
        avoided: &[Contact],
    ) -> Lookup {
        let paths = paths.clamp(1, PATHS_MAX);
        let wanted = match goal {
            Goal::Nodes(wanted) => wanted.min(parameters.k),
            Goal::Value | Goal::Everything => parameters.k,
        };
        let budget = if paths == 1 { LOOKUP_BUDGET } else { LOOKUP_BUDGET_ALL_PATHS / paths };
        let mut lookup = Lookup {
            target,
            goal,
            k: parameters.k,
            counts_networks: parameters.counts_networks,
            alpha_per_path: parameters.alpha.div_ceil(paths),
            horizon: if paths == 1 { wanted } else { wanted.div_ceil(paths).max(PATH_HORIZON) },
            shortlist_per_path: budget + parameters.k,
            shortlist: Vec::with_capacity(seeds.len() + avoided.len() + parameters.k),
            paths: vec![Path { budget, waiting: 0, slow: 0, candidates: 0 }; paths],
            in_flight: 0,
            answers: 0,
            referrers: Vec::new(),
            crowded_out: 0,
        };
        for contact in avoided {
            lookup.avoid(*contact);
        }
        for (contact, i) in seeds.iter().zip(0..) {
            lookup.offer(*contact, PathIndex((i % paths) as u8), None, &|_| true);
        }
        lookup
    }

    /// The id that is looked for.
    pub fn target(&self) -> Id {
        self.target
    }

    /// What the lookup is for.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// Whether the `n` nearest candidates have answered, not counting those that are slow or failed.
    pub fn have_nearest_answered(&self, n: usize) -> bool {
        let gone = |c: &Candidate| matches!(c.state, State::Slow | State::Guided | State::Failed | State::PassedOver);
        let living = self.shortlist.iter().filter(|c| !gone(c));
        living.take(n).all(|c| c.state == State::Answered)
    }

    /// The up to `n` nearest candidates, nearest first, once all of them have answered. `None` before that. Unlike
    /// [`Lookup::have_nearest_answered`], this waits for slow contacts: most of them are alive.
    pub fn settled_nearest(&self, n: usize) -> Option<Vec<Contact>> {
        let gone = |c: &Candidate| matches!(c.state, State::Guided | State::Failed | State::PassedOver);
        let hopes = self.shortlist.iter().filter(|c| !gone(c)).take(n);
        hopes.map(|c| (c.state == State::Answered).then_some(c.contact)).collect()
    }

    /// From now on the lookup may ask at once all contacts whose answers it still needs (paper, section 2.3, for the
    /// last round): the caller has reason to believe that no nearer contact will be named.
    pub fn hurry(&mut self) {
        self.alpha_per_path = self.alpha_per_path.max(self.horizon);
    }

    /// From now on each path ends only when its k nearest candidates have answered, and may ask all of them at once.
    pub fn widen(&mut self) {
        self.horizon = self.horizon.max(self.k);
        self.hurry();
    }

    /// Whether each path ends only when its k nearest candidates have answered.
    pub fn is_wide(&self) -> bool {
        self.horizon >= self.k
    }

    /// The contact to ask now, if any; it counts as asked from then on. Call until `None`.
    pub fn next_to_ask(&mut self) -> Option<Contact> {
        if self.in_flight >= LOOKUP_IN_FLIGHT {
            return None;
        }
        let with_room = |path: &PathIndex| {
            let path = self.path(*path);
            // Where some contacts are slow, many are likely to be dead: each slow one makes room for two requests.
            path.waiting < self.alpha_per_path + path.slow
        };
        let paths = self.path_indices().filter(with_room);
        let askable = paths.filter_map(|path| Some((path, self.askable(path)?)));
        // The path with the fewest requests in flight, so that none takes the places of the others.
        let in_flight = |path: PathIndex| self.path(path).waiting + self.path(path).slow;
        let (path, at) = askable.min_by_key(|(path, _)| in_flight(*path))?;
        let candidate = &mut self.shortlist[at];
        candidate.state = State::Waiting;
        candidate.asked_on = path;
        let path = self.path_mut(path);
        path.budget -= 1;
        path.waiting += 1;
        self.in_flight += 1;
        Some(self.shortlist[at].contact)
    }

    /// `from` answered at its address and named `contacts`, which become candidates of the path that asked it. Those
    /// that are new to the lookup must be `genuine`; returns the number of those that were not.
    pub fn answered(&mut self, from: &Contact, contacts: &[Contact], genuine: impl Fn(&Contact) -> bool) -> usize {
        let Ok(at) = self.position(&from.id) else {
            return 0;
        };
        if self.shortlist[at].contact.addr != from.addr {
            self.move_to(at, *from);
        }
        self.take_answer(at, State::Answered, contacts, &genuine)
    }

    /// At the address of `asked`, a node of another id (or of none) answered and named `contacts`. Those become
    /// candidates, and `asked` is one no longer.
    pub fn guided(&mut self, asked: &Id, contacts: &[Contact]) {
        if let Ok(at) = self.position(asked) {
            self.take_answer(at, State::Guided, contacts, &|_| true);
        }
    }

    /// The address of the contact that first named `id` to this lookup; `None` for a seed and for an unknown id.
    pub fn referrer(&self, id: &Id) -> Option<SocketAddr> {
        let named_by = self.shortlist[self.position(id).ok()?].named_by?;
        self.referrers.get(usize::from(named_by.0.get()) - 1).copied()
    }

    /// The request to the candidate `at` has ended in an answer that named `contacts`. Returns the number of those that
    /// are not genuine.
    fn take_answer(
        &mut self,
        at: usize,
        state: State,
        contacts: &[Contact],
        genuine: &impl Fn(&Contact) -> bool,
    ) -> usize {
        let addr = self.shortlist[at].contact.addr;
        let Some(path) = self.end(at, state) else {
            return 0;
        };
        self.answers += 1;
        self.referrers.push(addr);
        let named_by = u16::try_from(self.referrers.len()).ok().and_then(NonZeroU16::new).map(ReferrerIndex);
        contacts.iter().filter(|contact| !self.offer(**contact, path, named_by, genuine)).count()
    }

    /// `from` did not answer, refused to, or could not be reached.
    pub fn failed(&mut self, from: &Id) {
        self.position(from).ok().and_then(|at| self.end(at, State::Failed));
    }

    /// `from` could not be asked just now, which says nothing about its health.
    pub fn passed_over(&mut self, from: &Id) {
        self.position(from).ok().and_then(|at| self.end(at, State::PassedOver));
    }

    /// The request to `from` is past its short timeout: it makes room for another, but may yet be answered.
    pub fn slow(&mut self, from: &Id) {
        let waiting = self.position(from).ok().filter(|at| self.shortlist[*at].state == State::Waiting);
        if let Some(at) = waiting {
            self.shortlist[at].state = State::Slow;
            let path = self.path_mut(self.shortlist[at].asked_on);
            path.waiting -= 1;
            path.slow += 1;
        }
    }

    /// Whether no contact is left to ask or to wait for.
    pub fn is_finished(&self) -> bool {
        // With no answers yet, keep waiting for slow contacts.
        let waits_for_slow = matches!(self.goal, Goal::Value | Goal::Everything) || self.answers == 0;
        let waiting: usize = self.paths.iter().map(|path| path.waiting).sum();
        if waiting > 0 || (waits_for_slow && self.in_flight > 0) {
            return false;
        }
        self.path_indices().all(|path| self.askable(path).is_none())
    }

    /// Whether a path ended because its budget ran out while it still had candidates to ask.
    pub fn ran_out(&self) -> bool {
        let ran_out = |path: PathIndex| self.path(path).budget == 0 && self.nearest_fresh(path).is_some();
        self.path_indices().any(ran_out)
    }

    /// The nearest contacts that answered, nearest first, at most k.
    pub fn closest(&self) -> Vec<Contact> {
        let answered = self.shortlist.iter().filter(|c| c.state == State::Answered);
        answered.take(self.k).map(|c| c.contact).collect()
    }

    /// All contacts that were queried, whether they answered or not, and those that were to be avoided, nearest first.
    pub fn queried(&self) -> Vec<Contact> {
        let is_queried = |c: &&Candidate| !matches!(c.state, State::Fresh | State::PassedOver);
        self.shortlist.iter().filter(is_queried).map(|c| c.contact).collect()
    }

    /// How often a named contact was left out because enough candidates are of its network.
    pub fn crowded_out(&self) -> u64 {
        self.crowded_out
    }

    /// The number of contacts that answered.
    pub fn answers(&self) -> usize {
        self.answers
    }

    fn path_indices(&self) -> impl Iterator<Item = PathIndex> + use<> {
        (0..self.paths.len() as u8).map(PathIndex)
    }

    fn path(&self, path: PathIndex) -> &Path {
        &self.paths[usize::from(path.0)]
    }

    fn path_mut(&mut self, path: PathIndex) -> &mut Path {
        &mut self.paths[usize::from(path.0)]
    }

    /// What [`Lookup::nearest_fresh`] finds, while the path's budget lasts.
    fn askable(&self, path: PathIndex) -> Option<usize> {
        if self.path(path).budget == 0 { None } else { self.nearest_fresh(path) }
    }

    /// The nearest candidate of `path` that was not asked, unless enough nearer ones are alive or may yet answer.
    fn nearest_fresh(&self, path: PathIndex) -> Option<usize> {
        let mut alive = 0;
        for (at, candidate) in self.shortlist.iter().enumerate().filter(|(_, c)| c.is_on(path)) {
            match candidate.state {
                State::Fresh => return Some(at),
                State::Waiting | State::Answered => alive += 1,
                State::Slow => alive += usize::from(self.goal == Goal::Value),
                State::Guided | State::Failed | State::PassedOver => {}
            }
            if alive >= self.horizon {
                return None;
            }
        }
        None
    }

    /// The request to the candidate `at` has ended. Returns the path that asked it, or `None` if no request was in
    /// flight.
    fn end(&mut self, at: usize, state: State) -> Option<PathIndex> {
        let Candidate { asked_on: path, state: before, .. } = self.shortlist[at];
        match before {
            State::Waiting => self.path_mut(path).waiting -= 1,
            State::Slow => self.path_mut(path).slow -= 1,
            State::Fresh | State::Answered | State::Guided | State::Failed | State::PassedOver => return None,
        }
        self.shortlist[at].state = state;
        self.in_flight -= 1;
        Some(path)
    }

    /// The place of `id` in the shortlist, or else (`Err`) the place where it belongs.
    fn position(&self, id: &Id) -> Result<usize, usize> {
        let distance = self.target.distance(id);
        self.shortlist.binary_search_by_key(&distance, |c| c.distance)
    }

    fn avoid(&mut self, contact: Contact) {
        if let Err(at) = self.position(&contact.id) {
            let distance = self.target.distance(&contact.id);
            let (state, named_by) = (State::Failed, None);
            let (named_on, asked_on) = (PathSet::default(), PathIndex(0));
            let avoided = Candidate { contact, distance, network: None, state, named_on, asked_on, named_by };
            self.shortlist.insert(at, avoided);
        }
    }

    /// `contact` was named on `path`. Returns whether it is `genuine`; one that is known already counts as such.
    fn offer(
        &mut self,
        contact: Contact,
        path: PathIndex,
        named_by: Option<ReferrerIndex>,
        genuine: &impl Fn(&Contact) -> bool,
    ) -> bool {
        let at = match self.position(&contact.id) {
            Ok(at) if self.shortlist[at].contact != contact => {
                return genuine(&contact) && self.try_elsewhere(contact, path, named_by, at);
            }
            Ok(at) if self.shortlist[at].is_on(path) => return true,
            Err(_) if !genuine(&contact) => return false,
            Ok(at) | Err(at) => at,
        };
        self.insert(contact, path, named_by, at);
        true
    }

    /// The candidate `at` was named at another address, that of `contact`. If it failed at the known one, or another
    /// node answered there, the lookup tries the new one. Returns whether it does.
    fn try_elsewhere(&mut self, contact: Contact, path: PathIndex, named_by: Option<ReferrerIndex>, at: usize) -> bool {
        let candidate = &self.shortlist[at];
        if !matches!(candidate.state, State::Failed | State::Guided) || !candidate.is_on(path) {
            return false;
        }
        if self.has_enough_of(self.network(&contact), path) {
            self.crowded_out += 1;
            return false;
        }
        self.move_to(at, contact);
        self.shortlist[at].named_by = named_by;
        self.shortlist[at].state = State::Fresh;
        true
    }

    /// From now on the candidate `at` stands for `contact`, at that address.
    fn move_to(&mut self, at: usize, contact: Contact) {
        self.shortlist[at].network = self.network(&contact);
        self.shortlist[at].contact = contact;
    }

    /// The network of `contact`; `None` if networks are not counted.
    fn network(&self, contact: &Contact) -> Option<Network> {
        network(contact.addr.ip()).filter(|_| self.counts_networks)
    }

    /// Whether `path` has as many candidates of `network` as one network may have.
    fn has_enough_of(&self, network: Option<Network>, path: PathIndex) -> bool {
        let of_it = self.shortlist.iter().filter(|c| c.is_of(network, path));
        network.is_some() && of_it.count() >= NETWORK_PER_BUCKET
    }

    /// Makes `contact`, which stands or belongs at the place `at`, a candidate of `path` if the limit on its network
    /// and the path have room for it.
    fn insert(&mut self, contact: Contact, path: PathIndex, named_by: Option<ReferrerIndex>, at: usize) {
        let network = self.network(&contact);
        if self.has_enough_of(network, path) && !self.drop_farther_fresh(at, path, |c| c.is_of(network, path)) {
            self.crowded_out += 1;
            return;
        }
        if self.path(path).candidates >= self.shortlist_per_path && !self.drop_farther_fresh(at, path, |_| true) {
            return;
        }
        self.path_mut(path).candidates += 1;
        match self.shortlist.get_mut(at).filter(|known| known.contact.id == contact.id) {
            Some(known) => known.named_on.insert(path),
            None => {
                let distance = self.target.distance(&contact.id);
                let (state, named_on) = (State::Fresh, PathSet::only(path));
                let fresh = Candidate { contact, distance, network, state, named_on, asked_on: path, named_by };
                self.shortlist.insert(at, fresh);
            }
        }
    }

    /// Drops from `path` the farthest fresh candidate at or behind the place `at` for which `which` holds. Returns
    /// whether there was one.
    fn drop_farther_fresh(&mut self, at: usize, path: PathIndex, which: impl Fn(&Candidate) -> bool) -> bool {
        let is_droppable = |c: &Candidate| c.state == State::Fresh && c.is_on(path) && which(c);
        let Some(behind) = self.shortlist[at..].iter().rposition(is_droppable).map(|behind| at + behind) else {
            return false;
        };
        self.path_mut(path).candidates -= 1;
        self.shortlist[behind].named_on.remove(path);
        if self.shortlist[behind].named_on.is_empty() {
            self.shortlist.remove(behind);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contact(n: u64) -> Contact {
        Contact { id: Id::hash_of(&[&n.to_be_bytes()]), addr: ([127, 0, 0, 1], 1 + n as u16).into() }
    }

    fn near(bits: u8) -> Contact {
        let mut id = [0; 32];
        id[31] = bits;
        Contact { id: Id(id), addr: ([127, 0, 0, 1], 1 + u16::from(bits)).into() }
    }

    fn parameters(k: usize, alpha: usize) -> Parameters {
        Parameters { k, alpha, ..Parameters::default() }
    }

    fn ask_all(lookup: &mut Lookup) -> Vec<Contact> {
        std::iter::from_fn(|| lookup.next_to_ask()).collect()
    }

    #[test]
    fn names_that_move_into_one_network_are_counted_there() {
        let at = |n: u8, ip: [u8; 4]| Contact { addr: (ip, 1).into(), ..near(n) };
        let scattered: Vec<Contact> = (1..=5).map(|n| at(n, [9, 9, n, 1])).collect();
        let mut lookup = Lookup::new(Id::default(), Goal::Everything, parameters(5, 9), 1, &scattered, &[]);
        let liar = near(99);
        lookup.offer(liar, PathIndex(0), None, &|_| true);
        ask_all(&mut lookup);
        scattered.iter().for_each(|c| lookup.failed(&c.id));
        ask_all(&mut lookup);
        let gathered: Vec<Contact> = (1..=5).map(|n| at(n, [66, 66, 66, n])).collect();
        lookup.answered(&liar, &gathered, |_| true);
        assert_eq!((ask_all(&mut lookup).len(), lookup.crowded_out()), (NETWORK_PER_BUCKET, 3));
    }

    #[test]
    fn one_that_failed_is_tried_at_another_address_that_is_named() {
        let mut lookup = Lookup::new(Id::default(), Goal::Everything, parameters(5, 3), 1, &[near(1), near(2)], &[]);
        ask_all(&mut lookup);
        let moved = Contact { addr: near(99).addr, ..near(1) };
        lookup.failed(&near(1).id);
        lookup.answered(&near(2), &[moved], |_| true);
        assert_eq!(ask_all(&mut lookup), [moved]);
        // Another node is there; the one we look for is where it was, after all.
        lookup.guided(&near(1).id, &[near(1)]);
        assert_eq!(ask_all(&mut lookup), [near(1)]);
        lookup.guided(&near(1).id, &[moved]);
        assert_eq!(ask_all(&mut lookup), [moved]);
        lookup.answered(&moved, &[near(1)], |_| true);
        assert_eq!(ask_all(&mut lookup), [], "a contact that has answered is believed to be where it is");
        assert_eq!(lookup.closest(), [moved, near(2)]);
    }

    #[test]
    fn keeps_alpha_in_flight_and_widens_when_slow() {
        let seeds: Vec<Contact> = (1..=10).map(near).collect();
        let mut lookup = Lookup::new(Id::default(), Goal::Nodes(5), parameters(5, 3), 1, &seeds, &[]);
        assert_eq!(ask_all(&mut lookup), seeds[..3]);
        lookup.slow(&seeds[0].id);
        assert_eq!(ask_all(&mut lookup), seeds[3..5], "its place is filled, and one more");
        lookup.answered(&seeds[1], &[], |_| true);
        assert_eq!(ask_all(&mut lookup), seeds[5..6]);
        lookup.failed(&seeds[0].id);
        lookup.answered(&seeds[2], &[], |_| true);
        assert_eq!(ask_all(&mut lookup), [], "back to alpha");
    }

    #[test]
    fn nodes_wait_for_the_slow_while_nobody_has_answered() {
        let mut lookup = Lookup::new(Id::default(), Goal::Nodes(2), parameters(2, 3), 1, &[near(1)], &[]);
        ask_all(&mut lookup);
        lookup.slow(&near(1).id);
        assert!(!lookup.is_finished());
        lookup.answered(&near(1), &[], |_| true);
        assert!(lookup.is_finished());
    }

    #[test]
    fn nodes_do_not_wait_for_the_slow_and_values_do() {
        for (goal, waits) in [(Goal::Nodes(2), false), (Goal::Value, true)] {
            let seeds = [near(1), near(2)];
            let mut lookup = Lookup::new(Id::default(), goal, parameters(2, 3), 1, &seeds, &[]);
            ask_all(&mut lookup);
            lookup.answered(&seeds[1], &[], |_| true);
            lookup.slow(&seeds[0].id);
            assert_eq!(lookup.is_finished(), !waits);
            lookup.failed(&seeds[0].id);
            assert!(lookup.is_finished());
            assert_eq!(lookup.closest(), [seeds[1]]);
        }
    }

    #[test]
    fn the_nearest_are_settled_once_each_has_answered_or_failed() {
        let seeds: Vec<Contact> = (1..=5).map(near).collect();
        let mut lookup = Lookup::new(Id::default(), Goal::Nodes(5), parameters(20, 3), 1, &seeds, &[]);
        ask_all(&mut lookup);
        lookup.slow(&seeds[0].id);
        ask_all(&mut lookup);
        lookup.answered(&seeds[1], &[], |_| true);
        lookup.answered(&seeds[2], &[], |_| true);
        assert!(lookup.have_nearest_answered(2) && lookup.settled_nearest(2).is_none(), "the slow one may be alive");
        lookup.failed(&seeds[0].id);
        assert_eq!(lookup.settled_nearest(2), Some(seeds[1..3].to_vec()));
        assert_eq!(lookup.settled_nearest(3), None);
        lookup.answered(&seeds[3], &[near(0)], |_| true);
        assert_eq!(lookup.settled_nearest(2), None, "a nearer contact was named");
    }

    #[test]
    fn in_a_hurry_all_whose_answers_are_needed_are_asked_at_once() {
        let seeds: Vec<Contact> = (1..=12).map(near).collect();
        let mut lookup = Lookup::new(Id::default(), Goal::Nodes(8), parameters(20, 3), 1, &seeds, &[]);
        assert_eq!(ask_all(&mut lookup), seeds[..3]);
        lookup.hurry();
        assert_eq!(ask_all(&mut lookup), seeds[3..8], "and nobody else");
    }

    #[test]
    fn a_lookup_that_has_ended_goes_on_to_the_k_nearest_and_asks_nobody_twice() {
        let seeds: Vec<Contact> = (1..=12).map(near).collect();
        for paths in [1, 4] {
            let mut lookup = Lookup::new(Id::default(), Goal::Nodes(2), parameters(9, 3), paths, &seeds, &[]);
            let mut asked: Vec<Contact> = Vec::new();
            let answer_all = |lookup: &mut Lookup, asked: &mut Vec<Contact>| {
                while let Some(contact) = lookup.next_to_ask() {
                    lookup.answered(&contact, &seeds, |_| true);
                    asked.push(contact);
                }
            };
            answer_all(&mut lookup, &mut asked);
            assert!(lookup.is_finished() && !lookup.is_wide() && asked.len() < 9, "{} asked", asked.len());
            lookup.widen();
            assert!(lookup.is_wide() && !lookup.is_finished());
            answer_all(&mut lookup, &mut asked);
            asked.sort_unstable_by_key(|contact| contact.addr);
            assert!(lookup.is_finished() && asked.len() >= 9, "{} asked", asked.len());
            assert!(asked.windows(2).all(|pair| pair[0] != pair[1]));
            assert_eq!(lookup.closest(), seeds[..9]);
        }
    }

    #[test]
    fn an_endless_trail_ends_with_the_budget() {
        let closer = |n: u64| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&(u64::MAX - n).to_be_bytes());
            Contact { id: Id(id), ..contact(n) }
        };
        let mut lookup = Lookup::new(Id::default(), Goal::Value, parameters(20, 3), 1, &[closer(0)], &[]);
        let (mut asked, mut n) = (0, 0);
        while let Some(liar) = lookup.next_to_ask() {
            asked += 1;
            n += 20;
            lookup.answered(&liar, &(n - 19..=n).map(closer).collect::<Vec<_>>(), |_| true);
        }
        assert_eq!(asked, LOOKUP_BUDGET);
        assert!(lookup.is_finished() && lookup.ran_out());
        assert!(lookup.shortlist.len() <= LOOKUP_BUDGET + 21);
    }

    #[test]
    fn one_network_gets_two_candidates_the_nearest() {
        let mut lookup = Lookup::new(Id::default(), Goal::Nodes(20), parameters(20, 3), 1, &[near(200)], &[]);
        ask_all(&mut lookup);
        let neighbours: Vec<Contact> =
            (1..=50).rev().map(|n| Contact { addr: ([9, 9, 9, n], 1).into(), ..near(n) }).collect();
        lookup.answered(&near(200), &neighbours, |_| true);
        let asked: Vec<u8> = ask_all(&mut lookup).iter().map(|c| c.id.0[31]).collect();
        assert_eq!(asked, [1, 2]);
    }

    #[test]
    fn the_avoided_are_not_asked_even_if_others_name_them() {
        let mut lookup = Lookup::new(Id::default(), Goal::Value, parameters(20, 3), 8, &[near(9)], &[near(1), near(2)]);
        assert_eq!(ask_all(&mut lookup), [near(9)]);
        lookup.answered(&near(9), &[near(1), near(2), near(3)], |_| true);
        assert_eq!(ask_all(&mut lookup), [near(3)]);
        assert_eq!(lookup.queried(), [near(1), near(2), near(3), near(9)]);
    }

    #[test]
    fn disjoint_paths_ask_nobody_twice_and_a_candidate_of_two_is_asked_by_either() {
        let seeds: Vec<Contact> = (11..=14).map(near).collect();
        let mut lookup = Lookup::new(Id::default(), Goal::Value, parameters(20, 3), 4, &seeds, &[]);
        assert_eq!(ask_all(&mut lookup), seeds, "one in flight per path");
        // The first path is led astray: its liar names what is near, and a holder behind that.
        let liars: Vec<Contact> = (1..=6).map(near).collect();
        lookup.answered(&seeds[0], &[&liars[..], &[near(9)]].concat(), |_| true);
        assert_eq!(ask_all(&mut lookup), [near(1)]);
        for n in 1..=5 {
            lookup.answered(&near(n), &liars, |_| true);
            assert_eq!(ask_all(&mut lookup), if n < 5 { vec![near(n + 1)] } else { vec![] }, "its horizon is full");
        }
        lookup.answered(&seeds[1], &[near(9)], |_| true);
        assert_eq!(ask_all(&mut lookup), [near(9)], "another path asks the holder all the same");
        lookup.answered(&seeds[2], &[near(9), near(1)], |_| true);
        assert_eq!(ask_all(&mut lookup), [], "and nobody asks it again");
    }

    #[test]
    fn a_path_among_the_dead_does_not_take_the_places_of_the_others() {
        let seeds: Vec<Contact> = (60..68).map(near).collect();
        let mut lookup = Lookup::new(Id::default(), Goal::Nodes(20), parameters(20, 3), 8, &seeds, &[]);
        assert_eq!(ask_all(&mut lookup).len(), 8);
        let dead: Vec<Contact> = (1..=20).map(near).collect();
        lookup.answered(&seeds[0], &dead, |_| true);
        for _ in 0..6 {
            for silent in ask_all(&mut lookup) {
                lookup.slow(&silent.id);
            }
        }
        let named: Vec<Contact> = (100..108).map(near).collect();
        for (seed, named) in seeds[1..].iter().zip(&named) {
            lookup.answered(seed, &[*named], |_| true);
        }
        let asked = ask_all(&mut lookup);
        assert!(asked.iter().filter(|c| named.contains(c)).count() >= 6, "{asked:?}");
    }

    #[test]
    fn a_contact_that_could_not_be_asked_just_now_was_not_queried() {
        let seeds = [near(1), near(2), near(3)];
        let mut lookup = Lookup::new(Id::default(), Goal::Value, parameters(20, 3), 1, &seeds, &[]);
        ask_all(&mut lookup);
        lookup.passed_over(&seeds[0].id);
        lookup.failed(&seeds[1].id);
        lookup.answered(&seeds[2], &[], |_| true);
        assert!(lookup.is_finished());
        assert_eq!(lookup.queried(), seeds[1..]);
    }

    #[test]
    fn few_nodes_wanted_end_a_lookup_early() {
        let seeds: Vec<Contact> = (1..=10).map(near).collect();
        let mut lookup = Lookup::new(Id::default(), Goal::Nodes(4), parameters(20, 3), 1, &seeds, &[]);
        let mut asked = Vec::new();
        while let Some(contact) = lookup.next_to_ask() {
            asked.push(contact);
            if contact != seeds[1] {
                lookup.answered(&contact, &[], |_| true);
            } else {
                lookup.failed(&contact.id);
            }
        }
        assert_eq!(asked, seeds[..5]);
        assert!(lookup.is_finished());
    }

    proptest! {
        #[test]
        fn finds_the_closest_living_in_a_connected_world(
            n in 2u64..150, dead in 0u64..60, target: [u8; 32], goal in prop::sample::select(vec![Goal::Nodes(20), Goal::Value])
        ) {
            // Everybody knows the 20 closest living to any target, and 20 dead ones.
            let target = Id(target);
            let mut living: Vec<Contact> = (0..n).map(contact).collect();
            living.sort_by_key(|c| c.id.distance(&target));
            let gone: Vec<Contact> = (0..dead).map(|i| contact(1_000 + i)).collect();
            let mut named = living[..living.len().min(20)].to_vec();
            named.extend(gone.iter().take(20));
            let mut lookup = Lookup::new(target, goal, parameters(20, 3), 1, &living[living.len() - 1..], &[]);
            let mut steps = 0;
            while !lookup.is_finished() {
                for asked in ask_all(&mut lookup) {
                    if gone.contains(&asked) {
                        lookup.slow(&asked.id);
                        lookup.failed(&asked.id);
                    } else {
                        lookup.answered(&asked, &named, |_| true);
                    }
                }
                steps += 1;
                prop_assert!(steps < 200, "a lookup ends");
            }
            let want = living.len().min(20);
            prop_assert_eq!(&lookup.closest()[..], &living[..want]);
        }
    }
}
