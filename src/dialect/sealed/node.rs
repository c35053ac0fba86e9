//! One node of the sealed dialect: what each request means, and which requests the node sends itself. Works on
//! messages. In: requests, answers, failures, the time. Out: [`Output`]s, which the caller drains until there are none.
//! Never sees a connection, the bytes of a frame or a clock.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::arena::Arena;
use crate::contact::Contact;
use crate::dialect::sealed::codec::{ErrorCode, Message, Nodes};
use crate::dialect::sealed::contact_at;
use crate::dialect::sealed::job::{HolderState, Job, JobId, Outcome, Put, Ticket};
use crate::dialect::sealed::request::Request;
use crate::dialect::sealed::settings::Settings;
use crate::dialect::sealed::store::Store;
use crate::dialect::stream::{Failure, Via};
use crate::id::Id;
use crate::kad::OverlayPolicy;
use crate::kad::lookup::Goal;
use crate::kad::overlay::{Ask, LookupId, Overlay};
use crate::kad::requests::{Overdue, RequestId, Requests, Timeouts};
use crate::kad::routing_table::BucketPolicy;
use crate::limits::{LONG_TIMEOUT_MS, NODE_ENTRIES, SHORT_TIMEOUT_MIN_MS, SHORT_TIMEOUT_ROUND_TRIPS};
use crate::sources::Sources;
use crate::time::Time;
use crate::wheel::Wheel;

const POLICY: OverlayPolicy = OverlayPolicy { bucket_policy: BucketPolicy::Even, probes_own_reachability: true };
/// A request and its answer take one round trip, and a dial one more.
const TIMEOUTS: Timeouts = Timeouts {
    short_min_ms: SHORT_TIMEOUT_MIN_MS,
    short_round_trips: SHORT_TIMEOUT_ROUND_TRIPS,
    long_ms: LONG_TIMEOUT_MS,
};

/// What the caller must do for the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send `message` to `to`, and report the result with [`Node::on_answer`] or [`Node::on_failure`].
    Send {
        /// Names the request in that report.
        request: RequestId,
        /// The recipient.
        to: SocketAddr,
        /// The request.
        message: Request,
        /// Over which connection.
        via: Via,
    },
    /// The first node holds the value of a coordinated PUT, so a GET of the key can find it now.
    FirstCopy {
        /// The ticket of the PUT.
        ticket: Ticket,
    },
    /// A job has ended.
    Done {
        /// The ticket of the job.
        ticket: Ticket,
        /// The result.
        outcome: Outcome,
    },
}

/// The answer to a request.
#[derive(Debug)]
pub enum Answer<'a> {
    /// Send this answer now.
    Now(Message<'a>),
    /// Send the outcome of a job, which comes later as [`Output::Done`] with the ticket of the request.
    Later,
}

#[derive(Copy, Clone, Debug)]
pub(super) enum Purpose {
    Find(LookupId),
    Store(JobId),
    /// To find out whether a node holds the value of a PUT, as it says.
    AskBack(JobId),
    Probe {
        nonce: u32,
        verify: bool,
    },
    Reachability,
}

#[derive(Copy, Clone, Debug)]
pub(super) enum Alarm {
    Deadline(JobId),
    /// The PUT stops looking for holders.
    HoldersDue(JobId),
}

/// One node of the sealed dialect, on one listening address.
#[derive(Debug)]
pub struct Node {
    pub(super) overlay: Overlay,
    pub(super) requests: Requests<Purpose>,
    pub(super) jobs: Arena<Job>,
    /// PUTs of which a holder has answered or failed since [`Node::drive_put`] ran for them.
    pub(super) puts_to_drive: VecDeque<JobId>,
    pub(super) alarms: Wheel<Alarm>,
    pub(super) outputs: VecDeque<Output>,
    /// Bytes of the values that all GETs in progress hold.
    pub(super) tallied_bytes: usize,
    /// Nonces of the probes in flight.
    nonces: Vec<u32>,
    pub(super) settings: Settings,
    /// Scratch space for the contacts of one answer; kept to avoid an allocation for each.
    named: Vec<Contact>,
    id_mismatches: u64,
}

impl Node {
    /// A node that other nodes reach at `addr`. `seed` determines all its random choices.
    pub fn new(addr: SocketAddr, settings: Settings, seed: u64, now: Time) -> Node {
        Node {
            overlay: Overlay::new(contact_at(addr), settings.kademlia, POLICY, seed, now),
            requests: Requests::new(TIMEOUTS),
            jobs: Arena::default(),
            puts_to_drive: VecDeque::new(),
            alarms: Wheel::new(),
            outputs: VecDeque::new(),
            tallied_bytes: 0,
            nonces: Vec::new(),
            settings,
            named: Vec::new(),
            id_mismatches: 0,
        }
    }

    /// The node's overlay: routing table, lookups and their counters.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// How many contacts in answers had an id that did not belong to their address (docs/faults.md, row 12).
    pub fn id_mismatches(&self) -> u64 {
        self.id_mismatches
    }

    /// The number of jobs in progress.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Gives the node a past, as if it had heard from `contacts` and other nodes had named it.
    #[cfg(feature = "sim")]
    pub fn remember(&mut self, contacts: &[Contact], now: Time) {
        contacts.iter().for_each(|contact| self.overlay.alive(*contact, now));
        self.overlay.confirm_reachable();
    }

    /// Adds the node at `addr` as a bootstrap. Returns `false` if there is no room for another.
    pub fn add_bootstrap(&mut self, addr: SocketAddr, now: Time) -> bool {
        self.overlay.add_bootstrap(contact_at(addr), now)
    }

    /// Whether this node has a PING with this nonce in flight. If a peer sends that PING to us, the peer is this node
    /// itself.
    pub fn is_own_ping(&self, nonce: u32) -> bool {
        self.nonces.contains(&nonce)
    }

    /// Considers the sender of a FIND_NODE or FIND_VALUE as a candidate for the routing table.
    pub fn on_candidate(&mut self, addr: SocketAddr, now: Time) {
        self.overlay.candidate(contact_at(addr), now);
    }

    /// Answers a request of the peer at `from`. If that takes a job, [`Output::Done`] with `ticket` carries its
    /// outcome. A message that is no request is answered by ERROR 3; the session rejects those first.
    pub fn on_request<'a>(
        &'a mut self,
        from: SocketAddr,
        request: &Message<'_>,
        (store, sources): (&'a mut Store, &mut Sources),
        ticket: Ticket,
        now: Time,
    ) -> Answer<'a> {
        match *request {
            Message::Ping { nonce } => Answer::Now(Message::Pong { nonce }),
            Message::FindNode { key } => Answer::Now(self.closest_known(&key, from)),
            Message::FindValue { key } => match store.get_sealed(&key, now) {
                Some((value, Some(seal))) => Answer::Now(Message::ValueWithChecksum { value, seal }),
                Some((value, None)) => Answer::Now(Message::Value { value }),
                None => Answer::Now(self.closest_known(&key, from)),
            },
            Message::Get { key } => {
                if self.settings.quorum > 1 && store.get_certified(&key, now).is_none() {
                    return later(self.start_get(key, store, ticket, now));
                }
                match store.get(&key, now) {
                    Some(value) => Answer::Now(Message::Success { key, value }),
                    None => later(self.start_get(key, store, ticket, now)),
                }
            }
            Message::Put { ttl_s, replication: 0 | 1, key, value } => {
                Answer::Now(match store.put(key, value, ttl_s, Some(from.ip()), sources, now) {
                    Ok(()) => Message::Success { key, value: &[] },
                    Err(code) => code.message(),
                })
            }
            Message::Put { value, .. } if !store.admits(value) => Answer::Now(ErrorCode::TooLarge.message()),
            Message::Put { ttl_s, replication, key, value } => {
                let put = Put { key, value, ttl_s, replication: usize::from(replication), source: from.ip() };
                later(self.start_put(put, ticket, now))
            }
            Message::Success { .. }
            | Message::Failure { .. }
            | Message::Pong { .. }
            | Message::Error { .. }
            | Message::Node(_)
            | Message::Value { .. }
            | Message::ValueWithChecksum { .. } => Answer::Now(ErrorCode::UnknownType.message()),
        }
    }

    /// Handles a well-typed response; ignored if the request has already timed out.
    pub fn on_answer(&mut self, request: RequestId, answer: &Message<'_>, now: Time) {
        let Some((contact, purpose)) = self.requests.finish(request, true, now) else {
            return;
        };
        match (purpose, answer) {
            (Purpose::Find(lookup), Message::Node(nodes)) => {
                self.on_nodes(lookup, contact, nodes, now);
                self.on_lookup_progress(lookup, now);
            }
            (Purpose::Find(lookup), Message::Value { value }) => {
                self.on_value(lookup, contact, value, now);
                self.on_lookup_progress(lookup, now);
            }
            (Purpose::Find(lookup), _) => {
                self.overlay.alive(contact, now);
                self.overlay.passed_over(lookup, contact);
            }
            (Purpose::Reachability, answer) => {
                let own = self.overlay.own();
                if matches!(answer, Message::Node(nodes) if nodes.iter().take(NODE_ENTRIES).any(|c| c == own)) {
                    self.overlay.confirm_reachable();
                }
            }
            (Purpose::Store(job), answer) => {
                self.overlay.alive(contact, now);
                let result = match answer {
                    Message::Success { .. } => HolderState::Stored,
                    Message::Error { code, .. } => HolderState::of_error(*code),
                    _ => HolderState::Refused(None),
                };
                self.on_holder_result(job, contact, result, now);
            }
            (Purpose::AskBack(job), answer) => self.on_asked_back(job, contact, answer),
            (Purpose::Probe { nonce, verify }, answer) => {
                // A contact that is too busy to answer with PONG is alive, but a candidate must prove that it speaks
                // the dialect.
                let is_pong = matches!(answer, Message::Pong { .. });
                if is_pong || !verify {
                    self.overlay.alive(contact, now);
                }
                self.end_probe(contact, nonce, verify, is_pong, now);
            }
        }
    }

    /// Handles the failure of a request that we sent: no answer will come. Ignored if the request has already timed
    /// out.
    pub fn on_failure(&mut self, request: RequestId, why: Failure, now: Time) {
        if let Some((contact, purpose)) = self.requests.finish(request, false, now) {
            self.fail(contact, purpose, why, now);
        }
    }

    /// The time at which [`Node::on_timeout`] next has something to do.
    pub fn next_deadline(&self) -> Time {
        let deadlines = [self.requests.next_deadline(), self.alarms.next_deadline()];
        deadlines.into_iter().flatten().fold(self.overlay.next_deadline(), Time::min)
    }

    /// Handles all timeouts that are due at `now`.
    pub fn on_timeout(&mut self, now: Time) {
        for overdue in self.requests.expire(now) {
            match overdue {
                Overdue::Slow(contact, Purpose::Find(lookup)) => {
                    self.overlay.slow(lookup, contact);
                    self.on_lookup_progress(lookup, now);
                }
                Overdue::Slow(_, _) => {}
                Overdue::Failed(contact, purpose) => self.fail(contact, purpose, Failure::Contact, now),
            }
        }
        let mut due = Vec::new();
        self.alarms.expire(now, &mut due);
        for alarm in due {
            match alarm {
                Alarm::Deadline(job) => self.conclude(job, now),
                Alarm::HoldersDue(job) => {
                    if let Some(lookup) = self.put_job(job).and_then(|put| put.lookup) {
                        self.overlay.conclude(lookup, now);
                    }
                }
            }
        }
        self.overlay.on_timeout(now);
    }

    /// The next output. After each call of another method, the caller calls this until it returns `None`.
    pub fn poll_output(&mut self, store: &mut Store, sources: &mut Sources, now: Time) -> Option<Output> {
        while self.outputs.is_empty() {
            // PUTs first, because a client waits for each of them.
            if let Some(job) = self.puts_to_drive.pop_front() {
                self.drive_put(job, store, sources, now);
            } else if let Some(ask) = self.overlay.poll_ask(now) {
                self.ask(ask, now);
            } else if let Some(ended) = self.overlay.poll_ended() {
                self.on_ended(ended, store, sources, now);
            } else {
                return None;
            }
        }
        self.outputs.pop_front()
    }

    /// A NODE with the up to k contacts nearest to `key` that have not failed, without the asker.
    fn closest_known(&mut self, key: &Id, asker: SocketAddr) -> Message<'_> {
        self.named.clear();
        let good = |e: &crate::kad::bucket::Entry| e.failures == 0 && e.contact.addr != asker;
        self.overlay.table().closest(key, self.settings.kademlia.k, good, &mut self.named);
        Message::Node(Nodes::Contacts(&self.named))
    }

    fn ask(&mut self, ask: Ask, now: Time) {
        let (contact, purpose, message, via) = match ask {
            Ask::Find { lookup, contact, target, goal } => {
                let message = match goal {
                    Goal::Nodes(_) | Goal::Everything => Request::FindNode(target),
                    Goal::Value => Request::FindValue(target),
                };
                (contact, Purpose::Find(lookup), message, Via::Shared)
            }
            Ask::CheckReachability { contact } => {
                let message = Request::FindNode(self.overlay.own().id);
                (contact, Purpose::Reachability, message, Via::Single)
            }
            Ask::Probe { contact, verify } => {
                let nonce = self.overlay.random().u32(..);
                self.nonces.push(nonce);
                let via = if verify { Via::Single } else { Via::Shared };
                (contact, Purpose::Probe { nonce, verify }, Request::Ping(nonce), via)
            }
        };
        self.send(contact, purpose, message, via, now);
    }

    pub(super) fn send(&mut self, contact: Contact, purpose: Purpose, message: Request, via: Via, now: Time) {
        let request = self.requests.start(contact, purpose, now);
        self.outputs.push_back(Output::Send { request, to: contact.addr, message, via });
    }

    /// A probe has ended. `answered` matters only if the probe had to verify a candidate.
    fn end_probe(&mut self, contact: Contact, nonce: u32, verify: bool, answered: bool, now: Time) {
        self.nonces.retain(|in_flight| *in_flight != nonce);
        if verify {
            self.overlay.probe_ended(contact, answered, now);
        }
    }

    fn fail(&mut self, contact: Contact, purpose: Purpose, why: Failure, now: Time) {
        match (purpose, why) {
            (Purpose::Find(lookup), why) => {
                match why {
                    Failure::Contact => self.overlay.failed(lookup, contact),
                    Failure::Busy => self.overlay.passed_over(lookup, contact),
                }
                // The lookup may have waited only for this contact.
                self.on_lookup_progress(lookup, now);
            }
            (Purpose::Reachability, _) => {}
            (Purpose::Probe { nonce, verify }, why) => {
                if !verify && why == Failure::Contact {
                    self.overlay.dead(contact);
                }
                self.end_probe(contact, nonce, verify, false, now);
            }
            (Purpose::Store(job), why) => {
                if why == Failure::Contact {
                    self.overlay.dead(contact);
                }
                let is_dead = why == Failure::Contact;
                let result = if is_dead { HolderState::Failed } else { HolderState::Refused(None) };
                self.on_holder_result(job, contact, result, now);
            }
            (Purpose::AskBack(job), why) => {
                // A liar may be silent; that we could not ask says nothing.
                let is_silent = why == Failure::Contact;
                let result = if is_silent { HolderState::Lied } else { HolderState::Stored };
                self.settle_holder(job, &contact.id, result);
                self.puts_to_drive.push_back(job);
            }
        }
    }

    /// `from` named contacts. Drops those whose id does not belong to their address.
    fn on_nodes(&mut self, lookup: LookupId, from: Contact, nodes: &Nodes<'_>, now: Time) {
        let ids = self.settings.ids;
        self.named.clear();
        self.named.extend(nodes.iter().take(NODE_ENTRIES));
        let mismatches = self.overlay.named(lookup, from, &self.named, |contact| ids.admit(contact), now);
        self.id_mismatches += mismatches as u64;
        if let Some(id) = self.overlay.owner(lookup) {
            self.count_vote(id, &from.id, None);
        }
    }
}

fn later(started: bool) -> Answer<'static> {
    if started { Answer::Later } else { Answer::Now(ErrorCode::Busy.message()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Key;
    use crate::id::Metric;
    use crate::limits::{JOBS, K, TALLY_BYTES};

    fn addr(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    /// Whom a node that has heard from the contacts at ports 1 to `known` names to `asker`, and whom it knows, nearest
    /// first.
    fn named(known: u16, key: Id, asker: u16) -> (Vec<Contact>, Vec<Contact>) {
        let mut node = Node::new(addr(6_500), Settings::default(), 1, Time::ZERO);
        let mut store = Store::new(crate::dialect::sealed::store::StoreLimits::default(), 1);
        (1..=known).for_each(|port| node.overlay.alive(contact_at(addr(port)), Time::ZERO));
        let mut listed: Vec<Contact> = node.overlay.table().entries().map(|entry| entry.contact).collect();
        listed.sort_unstable_by(|a, b| key.compare(&a.id, &b.id));
        let ticket = Ticket { waiter: Key::from_bits(0), since: Time::ZERO };
        let answer = node.on_request(
            addr(asker),
            &Message::FindNode { key },
            (&mut store, &mut Sources::default()),
            ticket,
            Time::ZERO,
        );
        let Answer::Now(Message::Node(nodes)) = answer else {
            panic!("{answer:?}");
        };
        (nodes.iter().collect(), listed)
    }

    /// Regression (attacks, section 3): that an answer named one contact less than k went unnoticed.
    #[test]
    fn an_answer_names_the_k_nearest_without_the_asker() {
        let key = Id::of(b"key");
        let (nodes, listed) = named(60, key, 9_999);
        assert!(listed.len() > K, "{} are listed", listed.len());
        assert_eq!(nodes, listed[..K]);
        let nearest = listed[0];
        let (nodes, listed) = named(60, key, nearest.addr.port());
        assert_eq!((nodes.len(), &nodes[..]), (K, &listed[1..=K]), "the asker is one of those listed");
        let (nodes, listed) = named(7, key, 9_999);
        assert_eq!((nodes.len(), &nodes[..]), (7, &listed[..]));
    }

    /// Found by mutation: the values that all GETs compare have a bound together, which one client must not fill.
    #[test]
    fn gets_that_hear_many_values_leave_room_for_the_first_of_others() {
        let mut node = Node::new(addr(6_500), Settings::default(), 1, Time::ZERO);
        let store = Store::new(crate::dialect::sealed::store::StoreLimits::default(), 1);
        let get = |node: &mut Node, key: Id, values: u8| {
            let id = node.jobs.vacant_key();
            let ticket = Ticket { waiter: Key::from_bits(0), since: Time::ZERO };
            assert!(node.start_get(key, &store, ticket, Time::ZERO));
            for n in 0..values {
                let value = [&key.0[..], &vec![n; 60_000]].concat();
                node.count_vote(id, &Id::hash_of(&[&key.0, &[n]]), Some((Id::of(&value), &value)));
            }
            node.get_job(id).map_or(0, |get| get.tally.bytes())
        };
        for n in 0..JOBS as u32 - 1 {
            get(&mut node, Id::of(&n.to_be_bytes()), 6);
        }
        assert!(node.tallied_bytes > TALLY_BYTES / 2, "{}", node.tallied_bytes);
        assert!(get(&mut node, Id::of(b"honest"), 1) > 60_000, "{} bytes are taken", node.tallied_bytes);
    }
}
