//! One iterative lookup (Kademlia paper, section 2.3; disjoint paths as in S/Kademlia, section 4.4): whom to ask next,
//! and when to stop. Never asks anybody itself, and never asks anybody twice.

use std::net::SocketAddr;
use std::num::NonZeroU16;

use crate::contact::{Contact, Network, network};
use crate::id::{Distance, Id};
use crate::kad::Parameters;
use crate::limits::{LOOKUP_BUDGET, LOOKUP_BUDGET_ALL_PATHS, LOOKUP_IN_FLIGHT, NETWORK_PER_BUCKET, PATH_HORIZON};

/// What the lookup is for, which decides when it has heard enough.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Goal {
    /// This many of the closest living nodes. Who is past its short timeout is not waited for once another has
    /// answered.
    Nodes(usize),
    /// A value. Who is slow may hold it, so it is waited for; the caller ends the lookup once it has the value.
    Value,
    /// What each of the closest living nodes has to say. Who is slow is waited for, and others are asked meanwhile in
    /// case that it is dead.
    Everything,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum State {
    /// Nobody asked it yet.
    Fresh,
    /// Asked, and within the short timeout.
    Waiting,
    /// Asked, and past the short timeout.
    Slow,
    Answered,
    /// Answered, but not as the one it was asked as: whom it named counts, it does not.
    Guided,
    Failed,
    /// Could not be asked just now: it has had no say.
    PassedOver,
}

/// A set of paths, a bit each.
type Paths = u16;

#[derive(Copy, Clone, Debug)]
struct Candidate {
    contact: Contact,
    distance: Distance,
    network: Option<Network>,
    state: State,
    /// On which paths it was named: any of them may ask it.
    named_on: Paths,
    /// On which path it was asked: its answer helps only that one.
    asked_on: u8,
    /// Who named it first, as a place in [`Lookup::referrers`].
    named_by: Option<NonZeroU16>,
}

impl Candidate {
    fn is_on(&self, path: u8) -> bool {
        self.named_on & (1 << path) != 0
    }

    /// Whether it counts as one of `network` on this path: an address at which somebody else was found does not.
    fn is_of(&self, network: Option<Network>, path: u8) -> bool {
        self.network == network && self.is_on(path) && self.state != State::Guided
    }
}

/// One of the paths that share no node they ask, so that who is led astray on one does no harm to the others.
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
    /// Requests in flight per path while nobody is slow.
    alpha_per_path: usize,
    /// Nearest candidates of a path that must have been heard before the path ends.
    horizon: usize,
    /// Candidates that a path remembers: all that its budget lets it ask, and k more.
    shortlist_per_path: usize,
    /// Sorted by distance; an id stands once.
    shortlist: Vec<Candidate>,
    paths: Vec<Path>,
    /// Requests in flight, the slow ones included.
    in_flight: usize,
    answers: usize,
    /// Who answered, in that order.
    referrers: Vec<SocketAddr>,
    /// Contacts that were named and had too many neighbours.
    crowded_out: u64,
}

impl Lookup {
    /// A lookup that starts from `seeds`, the closest contacts known, and asks none of `avoided`, whoever names them.
    pub fn new(
        target: Id,
        goal: Goal,
        parameters: Parameters,
        paths: usize,
        seeds: &[Contact],
        avoided: &[Contact],
    ) -> Lookup {
        let paths = paths.clamp(1, Paths::BITS as usize);
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
            lookup.offer(*contact, (i % paths) as u8, None, &|_| true);
        }
        lookup
    }

    /// What is looked for.
    pub fn target(&self) -> Id {
        self.target
    }

    /// What it is for.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// Whether the `n` nearest candidates have answered, but for those that are slow or failed.
    pub fn has_heard_nearest(&self, n: usize) -> bool {
        let gone = |c: &Candidate| matches!(c.state, State::Slow | State::Guided | State::Failed | State::PassedOver);
        let living = self.shortlist.iter().filter(|c| !gone(c));
        living.take(n).all(|c| c.state == State::Answered)
    }

    /// The `n` nearest candidates, nearest first, once all of them have answered. Unlike for
    /// [`Lookup::has_heard_nearest`], one that is slow is waited for: most of those are alive.
    pub fn settled_nearest(&self, n: usize) -> Option<Vec<Contact>> {
        let gone = |c: &Candidate| matches!(c.state, State::Guided | State::Failed | State::PassedOver);
        let hopes = self.shortlist.iter().filter(|c| !gone(c)).take(n);
        hopes.map(|c| (c.state == State::Answered).then_some(c.contact)).collect()
    }

    /// From now on all that must still be heard may be asked at once (paper, section 2.3, for the last round): the
    /// caller has reason to believe that nobody nearer will be named.
    pub fn hurry(&mut self) {
        self.alpha_per_path = self.alpha_per_path.max(self.horizon);
    }

    /// The contact to ask now, if any; it counts as asked. Call until `None`.
    pub fn next_to_ask(&mut self) -> Option<Contact> {
        if self.in_flight >= LOOKUP_IN_FLIGHT {
            return None;
        }
        let with_room = |path: &u8| {
            let path = self.paths[usize::from(*path)];
            // Where some are slow, many are likely to be dead: their places are filled twice over.
            path.waiting < self.alpha_per_path + path.slow
        };
        let paths = (0..self.paths.len() as u8).filter(with_room);
        let askable = paths.filter_map(|path| Some((path, self.askable(path)?)));
        // The one with the least in flight, so that no path takes the places of the others.
        let in_flight = |path: u8| self.paths[usize::from(path)].waiting + self.paths[usize::from(path)].slow;
        let (path, at) = askable.min_by_key(|(path, _)| in_flight(*path))?;
        let candidate = &mut self.shortlist[at];
        candidate.state = State::Waiting;
        candidate.asked_on = path;
        let path = &mut self.paths[usize::from(path)];
        path.budget -= 1;
        path.waiting += 1;
        self.in_flight += 1;
        Some(candidate.contact)
    }

    /// `from`, which is to be found at its address, answered and named `contacts`: those become candidates on its path. Those
    /// that nobody named before must be `genuine`; returns how many were not.
    pub fn answered(&mut self, from: &Contact, contacts: &[Contact], genuine: impl Fn(&Contact) -> bool) -> usize {
        let Ok(at) = self.position(&from.id) else {
            return 0;
        };
        if self.shortlist[at].contact.addr != from.addr {
            self.move_to(at, *from);
        }
        self.heard_from(at, State::Answered, contacts, &genuine)
    }

    /// Who was asked as `asked` answered under another id, or none, and named `contacts`: those become candidates,
    /// `asked` is none any more.
    pub fn guided(&mut self, asked: &Id, contacts: &[Contact]) {
        if let Ok(at) = self.position(asked) {
            self.heard_from(at, State::Guided, contacts, &|_| true);
        }
    }

    /// The address of who first named `id` to this lookup.
    pub fn referrer(&self, id: &Id) -> Option<SocketAddr> {
        let named_by = self.shortlist[self.position(id).ok()?].named_by?;
        self.referrers.get(usize::from(named_by.get()) - 1).copied()
    }

    /// The candidate at position `at` answered and named `contacts`.
    fn heard_from(
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
        let named_by = u16::try_from(self.referrers.len()).ok().and_then(NonZeroU16::new);
        contacts.iter().filter(|contact| !self.offer(**contact, path, named_by, genuine)).count()
    }

    /// `from` did not answer, refused, or could not be reached.
    pub fn failed(&mut self, from: &Id) {
        self.position(from).ok().and_then(|at| self.end(at, State::Failed));
    }

    /// `from` could not be asked just now, which says nothing of it.
    pub fn passed_over(&mut self, from: &Id) {
        self.position(from).ok().and_then(|at| self.end(at, State::PassedOver));
    }

    /// `from` is past its short timeout: its place in flight is free for another, but it may yet answer.
    pub fn slow(&mut self, from: &Id) {
        let waiting = self.position(from).ok().filter(|at| self.shortlist[*at].state == State::Waiting);
        if let Some(at) = waiting {
            self.shortlist[at].state = State::Slow;
            let path = &mut self.paths[usize::from(self.shortlist[at].asked_on)];
            path.waiting -= 1;
            path.slow += 1;
        }
    }

    /// Whether there is nobody left to ask or to wait for.
    pub fn is_finished(&self) -> bool {
        // Who is slow is better than nobody.
        let waits_for_slow = matches!(self.goal, Goal::Value | Goal::Everything) || self.answers == 0;
        let waiting: usize = self.paths.iter().map(|path| path.waiting).sum();
        if waiting > 0 || (waits_for_slow && self.in_flight > 0) {
            return false;
        }
        (0..self.paths.len() as u8).all(|path| self.askable(path).is_none())
    }

    /// Whether a path ended for want of budget, not of candidates.
    pub fn ran_out(&self) -> bool {
        let ran_out = |path: u8| self.paths[usize::from(path)].budget == 0 && self.nearest_fresh(path).is_some();
        (0..self.paths.len() as u8).any(ran_out)
    }

    /// The up to k nearest contacts that answered, nearest first.
    pub fn closest(&self) -> Vec<Contact> {
        let answered = self.shortlist.iter().filter(|c| c.state == State::Answered);
        answered.take(self.k).map(|c| c.contact).collect()
    }

    /// Everybody who was asked: they have had their say, or failed. Those that were to be avoided are among them.
    pub fn heard(&self) -> Vec<Contact> {
        let is_heard = |c: &&Candidate| !matches!(c.state, State::Fresh | State::PassedOver);
        self.shortlist.iter().filter(is_heard).map(|c| c.contact).collect()
    }

    /// How often a contact was left out because enough of its network are candidates.
    pub fn crowded_out(&self) -> u64 {
        self.crowded_out
    }

    /// Contacts that answered.
    pub fn answers(&self) -> usize {
        self.answers
    }

    /// What [`Lookup::nearest_fresh`] finds, while the path's budget lasts.
    fn askable(&self, path: u8) -> Option<usize> {
        if self.paths[usize::from(path)].budget == 0 { None } else { self.nearest_fresh(path) }
    }

    /// The nearest candidate of `path` that nobody asked, unless enough nearer ones are alive or awaited.
    fn nearest_fresh(&self, path: u8) -> Option<usize> {
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

    /// A request to the candidate at position `at` has ended; the path on which it was asked. `None` if none was in flight.
    fn end(&mut self, at: usize, state: State) -> Option<u8> {
        let candidate = &mut self.shortlist[at];
        let path = candidate.asked_on;
        match candidate.state {
            State::Waiting => self.paths[usize::from(path)].waiting -= 1,
            State::Slow => self.paths[usize::from(path)].slow -= 1,
            State::Fresh | State::Answered | State::Guided | State::Failed | State::PassedOver => return None,
        }
        candidate.state = state;
        self.in_flight -= 1;
        Some(path)
    }

    /// Where `id` stands in the shortlist, or would.
    fn position(&self, id: &Id) -> Result<usize, usize> {
        let distance = self.target.distance(id);
        self.shortlist.binary_search_by_key(&distance, |c| c.distance)
    }

    fn avoid(&mut self, contact: Contact) {
        if let Err(at) = self.position(&contact.id) {
            let distance = self.target.distance(&contact.id);
            let (state, named_by) = (State::Failed, None);
            let avoided = Candidate { contact, distance, network: None, state, named_on: 0, asked_on: 0, named_by };
            self.shortlist.insert(at, avoided);
        }
    }

    /// `contact` was named on `path`. Returns whether it is `genuine`, which is asked of those only that are not known.
    fn offer(
        &mut self,
        contact: Contact,
        path: u8,
        named_by: Option<NonZeroU16>,
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

    /// The candidate at position `at` is said to be at another address: if it failed at the one that was known, or somebody
    /// else was there, it is worth another try. Whether it is.
    fn try_elsewhere(&mut self, contact: Contact, path: u8, named_by: Option<NonZeroU16>, at: usize) -> bool {
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

    /// The candidate at position `at` is to be found at `contact`'s address.
    fn move_to(&mut self, at: usize, contact: Contact) {
        self.shortlist[at].network = self.network(&contact);
        self.shortlist[at].contact = contact;
    }

    /// The network of `contact`, if those are counted.
    fn network(&self, contact: &Contact) -> Option<Network> {
        network(contact.addr.ip()).filter(|_| self.counts_networks)
    }

    /// Whether `path` has as many candidates of `network` as one may have.
    fn has_enough_of(&self, network: Option<Network>, path: u8) -> bool {
        let of_it = self.shortlist.iter().filter(|c| c.is_of(network, path));
        network.is_some() && of_it.count() >= NETWORK_PER_BUCKET
    }

    /// Makes `contact`, which stands or belongs at position `at`, a candidate of `path`, if its network and the path
    /// have room for it.
    fn insert(&mut self, contact: Contact, path: u8, named_by: Option<NonZeroU16>, at: usize) {
        let network = self.network(&contact);
        if self.has_enough_of(network, path) && !self.drop_farther_fresh(at, path, |c| c.is_of(network, path)) {
            self.crowded_out += 1;
            return;
        }
        if self.paths[usize::from(path)].candidates >= self.shortlist_per_path
            && !self.drop_farther_fresh(at, path, |_| true)
        {
            return;
        }
        self.paths[usize::from(path)].candidates += 1;
        match self.shortlist.get_mut(at).filter(|known| known.contact.id == contact.id) {
            Some(known) => known.named_on |= 1 << path,
            None => {
                let distance = self.target.distance(&contact.id);
                let (state, named_on) = (State::Fresh, 1 << path);
                let fresh = Candidate { contact, distance, network, state, named_on, asked_on: path, named_by };
                self.shortlist.insert(at, fresh);
            }
        }
    }

    /// Forgets the farthest unasked candidate of `path` behind position `at` that `which` names; whether there was one.
    fn drop_farther_fresh(&mut self, at: usize, path: u8, which: impl Fn(&Candidate) -> bool) -> bool {
        let is_droppable = |c: &Candidate| c.state == State::Fresh && c.is_on(path) && which(c);
        let Some(behind) = self.shortlist[at..].iter().rposition(is_droppable).map(|behind| at + behind) else {
            return false;
        };
        self.paths[usize::from(path)].candidates -= 1;
        self.shortlist[behind].named_on &= !(1 << path);
        if self.shortlist[behind].named_on == 0 {
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
        lookup.offer(liar, 0, None, &|_| true);
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
        // Somebody else is there; the node is where it was, after all.
        lookup.guided(&near(1).id, &[near(1)]);
        assert_eq!(ask_all(&mut lookup), [near(1)]);
        lookup.guided(&near(1).id, &[moved]);
        assert_eq!(ask_all(&mut lookup), [moved]);
        lookup.answered(&moved, &[near(1)], |_| true);
        assert_eq!(ask_all(&mut lookup), [], "who has answered is believed to be where it is");
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
        assert!(lookup.has_heard_nearest(2) && lookup.settled_nearest(2).is_none(), "the slow one may be alive");
        lookup.failed(&seeds[0].id);
        assert_eq!(lookup.settled_nearest(2), Some(seeds[1..3].to_vec()));
        assert_eq!(lookup.settled_nearest(3), None);
        lookup.answered(&seeds[3], &[near(0)], |_| true);
        assert_eq!(lookup.settled_nearest(2), None, "somebody nearer was named");
    }

    #[test]
    fn in_a_hurry_all_that_must_be_heard_are_asked_at_once() {
        let seeds: Vec<Contact> = (1..=12).map(near).collect();
        let mut lookup = Lookup::new(Id::default(), Goal::Nodes(8), parameters(20, 3), 1, &seeds, &[]);
        assert_eq!(ask_all(&mut lookup), seeds[..3]);
        lookup.hurry();
        assert_eq!(ask_all(&mut lookup), seeds[3..8], "and nobody else");
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
    fn the_avoided_are_not_asked_whoever_names_them() {
        let mut lookup = Lookup::new(Id::default(), Goal::Value, parameters(20, 3), 8, &[near(9)], &[near(1), near(2)]);
        assert_eq!(ask_all(&mut lookup), [near(9)]);
        lookup.answered(&near(9), &[near(1), near(2), near(3)], |_| true);
        assert_eq!(ask_all(&mut lookup), [near(3)]);
        assert_eq!(lookup.heard(), [near(1), near(2), near(3), near(9)]);
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
    fn who_could_not_be_asked_just_now_has_had_no_say() {
        let seeds = [near(1), near(2), near(3)];
        let mut lookup = Lookup::new(Id::default(), Goal::Value, parameters(20, 3), 1, &seeds, &[]);
        ask_all(&mut lookup);
        lookup.passed_over(&seeds[0].id);
        lookup.failed(&seeds[1].id);
        lookup.answered(&seeds[2], &[], |_| true);
        assert!(lookup.is_finished());
        assert_eq!(lookup.heard(), seeds[1..]);
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
