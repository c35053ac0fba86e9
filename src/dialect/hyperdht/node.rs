//! One node of the hyperdht dialect. It answers requests by its [`Server`], and runs lookups and the operations of the
//! local user. Works on decoded datagrams. In: datagrams, operations, the time. Out: [`Output`]s, drained until there
//! are none. Never sees a socket, bytes or a clock.

use std::hash::Hash;
use std::net::SocketAddr;

use crate::contact::Contact;
use crate::dialect::hyperdht::breach::Breach;
use crate::dialect::hyperdht::codec::{
    ANNOUNCE, Body, Datagram, FIND_NODE, LOOKUP, PEERS, Request, Response, Tid, UNANNOUNCE,
};
use crate::dialect::hyperdht::identity::Identity;
use crate::dialect::hyperdht::jobs::{Job, JobId, Jobs};
use crate::dialect::hyperdht::operation::{Event, Operation, Ticket};
use crate::dialect::hyperdht::records::Records;
use crate::dialect::hyperdht::serve::{Handler, Server};
use crate::dialect::hyperdht::session::{Call, Session, Source, Unasked};
use crate::dialect::hyperdht::settings::Settings;
use crate::hash::seeded;
use crate::id::Id;
use crate::kad::OverlayPolicy;
use crate::kad::lookup::Goal;
use crate::kad::overlay::{Ask, LookupId, Overlay};
use crate::kad::requests::Overdue;
use crate::kad::routing_table::BucketPolicy;
use crate::limits::{JOBS, NODE_ENTRIES, NODE_ENTRIES_STRIKE, TOKEN_ROTATION_MS, TOKENS};
use crate::recent::Recent;
use crate::sources::Sources;
use crate::time::Time;

const POLICY: OverlayPolicy = OverlayPolicy { bucket_policy: BucketPolicy::FirstCome, probes_own_reachability: false };

/// What the node wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send a datagram.
    Send {
        /// The destination.
        to: SocketAddr,
        /// The datagram.
        datagram: Datagram,
    },
    /// Something has come of an operation.
    Event {
        /// The operation.
        ticket: Ticket,
        /// What has come of it.
        event: Event,
    },
}

/// What a pending request is for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Purpose {
    /// Ask the candidate `id` of a lookup.
    Find {
        lookup: LookupId,
        id: Id,
    },
    /// Ask it again after a hole punch.
    FindPunched {
        lookup: LookupId,
        id: Id,
    },
    /// Have the candidate's referrer forward a ping to it, whose pong opens the candidate's NAT for us.
    Punch {
        lookup: LookupId,
        id: Id,
    },
    /// Send the update of a job to one of the closest nodes.
    Commit(JobId),
    /// A single request of a job.
    Call(JobId),
    Probe {
        verify: bool,
    },
}

/// One node, on one socket.
#[derive(Debug)]
pub struct Node {
    identity: Identity,
    overlay: Overlay,
    session: Session<Purpose>,
    server: Server,
    jobs: Jobs,
    /// Tokens of contacts that we asked about our own id. The next time we prove our address with them: a contact that
    /// is flooded with requests listens to those first that come with one.
    tokens: Recent<[u8; 32]>,
    /// Seeds the hashes of what is remembered.
    seed: u64,
    /// The contacts of the response being read; kept to save its allocation.
    named: Vec<Contact>,
}

impl Node {
    /// A node. `seed` decides its random choices except its tokens, which must not be guessed: those are made with
    /// `secrets`, the current and the previous one.
    pub fn new(identity: Identity, settings: Settings, secrets: [[u8; 32]; 2], seed: u64, now: Time) -> Node {
        let own = Contact { id: identity.id, addr: identity.addr };
        let mut overlay = Overlay::new(own, settings.parameters(), POLICY, seed, now);
        let session = Session::new(overlay.random().u64(..));
        let server = Server::new(identity, secrets, overlay.random().u64(..), now);
        let jobs = Jobs::new(identity.family());
        let (tokens, seed) = (Recent::new(TOKENS), overlay.random().u64(..));
        Node { identity, overlay, session, server, jobs, tokens, seed, named: Vec::new() }
    }

    /// The routing table, the lookups and their counts.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// What others have announced here.
    pub fn records(&self) -> &Records {
        self.server.records()
    }

    /// Operations in progress.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Our requests that have not been answered yet.
    pub fn requests_in_flight(&self) -> usize {
        self.session.in_flight()
    }

    /// Bootstraps from the node at `addr`; whether there was room to remember it.
    pub fn add_bootstrap(&mut self, addr: SocketAddr, now: Time) -> bool {
        self.overlay.add_bootstrap_at(addr, now)
    }

    /// Starts lookups at `addr` while no other node is known, without a lookup of its own: for a node that runs one
    /// operation only.
    pub fn add_seed(&mut self, addr: SocketAddr) {
        self.overlay.add_seed_at(addr);
    }

    /// Answers the user's command `name` by `handler` from now on. Commands without a handler are answered without a
    /// value.
    pub fn handle(&mut self, name: &str, handler: Handler) {
        self.server.handle(name, handler);
    }

    /// Handles a datagram from `from`; returns what was wrong with it, if anything was.
    ///
    /// `sources` says what each source uses, and must be the same in all calls.
    pub fn on_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &Datagram,
        sources: &mut Sources,
        now: Time,
    ) -> Option<Breach> {
        match &datagram.body {
            Body::Request(request) => {
                self.server.on_request(&mut self.overlay, from, datagram.tid, request, sources, now)
            }
            Body::Response(response) => self.on_response(from, datagram.tid, response, now),
        }
    }

    /// When [`Node::on_timeout`] has something to do.
    pub fn next_deadline(&self) -> Time {
        let deadlines = [self.session.next_deadline(), Some(self.server.next_deadline())];
        deadlines.into_iter().flatten().fold(self.overlay.next_deadline(), Time::min)
    }

    /// Does what is due at `now`.
    pub fn on_timeout(&mut self, sources: &mut Sources, now: Time) {
        self.server.on_timeout(sources, now);
        for overdue in self.session.expire(now) {
            match overdue {
                Overdue::Slow(contact, Purpose::Find { lookup, id }) => {
                    self.overlay.slow(lookup, Contact { id, ..contact });
                    self.punch(lookup, contact, now);
                }
                Overdue::Slow(..) => {}
                Overdue::Failed(contact, purpose) => self.fail(contact, purpose, now),
            }
        }
        self.overlay.on_timeout(now);
    }

    /// The next thing to do; call until `None` after any of the calls above or below.
    pub fn poll_output(&mut self, now: Time) -> Option<Output> {
        loop {
            if let Some((tid, to, request)) = self.session.poll_send() {
                let datagram = Datagram { tid, body: Body::Request(request.clone()) };
                return Some(Output::Send { to, datagram });
            }
            if let Some((to, datagram)) = self.server.poll_send() {
                return Some(Output::Send { to, datagram });
            }
            if let Some((ticket, event)) = self.jobs.poll_event() {
                return Some(Output::Event { ticket, event });
            }
            if let Some(ask) = self.overlay.poll_ask(now) {
                self.ask(ask, now);
            } else if let Some(ended) = self.overlay.poll_ended() {
                self.on_lookup_ended(ended.owner, &ended.closest, now);
            } else {
                return None;
            }
        }
    }

    // ---- operations ----

    /// Starts an operation, whose events carry `ticket`. Returns `false` if there are too many already.
    pub fn start(&mut self, ticket: Ticket, operation: Operation, now: Time) -> bool {
        if self.jobs.len() >= JOBS {
            return false;
        }
        let own = self.identity;
        match operation {
            Operation::Ping(to) => self.start_single(ticket, [(to, own.ping(), Source::Asked)], now),
            Operation::FindNode(at, target) => {
                self.start_single(ticket, [(at, own.about(FIND_NODE, &target), Source::Asked)], now);
            }
            Operation::HolePunch { peer, referrer } => {
                // The first request opens our own NAT for the peer.
                let direct = (peer, own.ping(), Source::Asked);
                let forwarded = (referrer, own.forwarded_ping(peer), Source::Host(peer.ip()));
                self.start_single(ticket, [direct, forwarded], now);
            }
            Operation::Lookup(key, ad) => self.start_lookup(Job::about_peers(ticket, key, LOOKUP, ad), key, now),
            Operation::Announce(key, ad) => self.start_lookup(Job::about_peers(ticket, key, ANNOUNCE, ad), key, now),
            Operation::Unannounce(key, ad) => {
                self.start_lookup(Job::about_peers(ticket, key, UNANNOUNCE, ad), key, now);
            }
            Operation::Query { command, target, value, is_update } => {
                self.start_lookup(Job::query(ticket, command, target, value, is_update), target, now);
            }
        }
        true
    }

    /// Ends an operation early; no more events come of it.
    pub fn cancel(&mut self, ticket: Ticket, now: Time) {
        let Some((job, lookup)) = self.jobs.cancel(ticket) else {
            return;
        };
        if let Some(lookup) = lookup {
            self.overlay.enough(lookup, now);
            let is_its = |purpose: &Purpose| match purpose {
                Purpose::Find { lookup: of, .. }
                | Purpose::FindPunched { lookup: of, .. }
                | Purpose::Punch { lookup: of, .. } => *of == lookup,
                Purpose::Commit(_) | Purpose::Call(_) | Purpose::Probe { .. } => false,
            };
            self.session.cancel(is_its, now);
        }
        self.session.cancel(|purpose| matches!(purpose, Purpose::Commit(of) | Purpose::Call(of) if *of == job), now);
    }

    fn start_single<const N: usize>(
        &mut self,
        ticket: Ticket,
        requests: [(SocketAddr, Request, Source); N],
        now: Time,
    ) {
        let job = self.jobs.add_single(Job::single(ticket), N);
        for (to, request, source) in requests {
            let contact = Contact { id: Id::default(), addr: to };
            if !self.send(contact, request, source, Purpose::Call(job), now) {
                self.jobs.on_failure(job);
            }
        }
    }

    fn start_lookup(&mut self, job: Job, target: Id, now: Time) {
        // What we hold ourselves is the first answer.
        let request = job.peers_request();
        let held = request.and_then(|r| self.server.own_answer(&target, &r, self.overlay.random(), now));
        let job = self.jobs.add(job);
        if let Some(response) = held {
            let id = (!self.identity.is_ephemeral).then_some(self.identity.id);
            self.jobs.show(job, id, self.identity.addr, &response);
        }
        let lookup = self.overlay.start_lookup(target, Goal::Everything, 1, job, &[]);
        self.jobs.set_lookup(job, lookup);
    }

    /// A job's lookup has ended: its update goes to the closest nodes.
    fn on_lookup_ended(&mut self, job: JobId, closest: &[Contact], now: Time) {
        for (contact, request) in self.jobs.on_lookup_ended(job, closest) {
            let request = Request { id: self.identity.id_field(), ..request };
            if !self.send(contact, request, Source::Asked, Purpose::Commit(job), now) {
                self.jobs.on_failure(job);
            }
        }
    }

    // ---- requests ----

    fn ask(&mut self, ask: Ask, now: Time) {
        match ask {
            Ask::Find { lookup, contact, target, .. } => {
                let request = self.find(lookup, &target, contact.addr, now);
                let purpose = Purpose::Find { lookup, id: contact.id };
                if !self.send(contact, request, Source::Asked, purpose, now) {
                    self.overlay.passed_over(lookup, contact);
                }
            }
            Ask::Probe { contact, verify } => {
                let purpose = Purpose::Probe { verify };
                if !self.send(contact, self.identity.ping(), Source::Asked, purpose, now) && verify {
                    self.overlay.probe_ended(contact, false, now);
                }
            }
            // Responses of this dialect name the requester among the nodes, so there is nothing to find out.
            Ask::CheckReachability { .. } => {}
        }
    }

    /// What a lookup asks the candidate at `addr`: what its job wants to know, or else nodes only.
    fn find(&self, lookup: LookupId, target: &Id, addr: SocketAddr, now: Time) -> Request {
        match self.overlay.owner(lookup).and_then(|job| self.jobs.request(job)) {
            Some(request) => Request { id: self.identity.id_field(), ..request },
            None => {
                let token = self.tokens.get(self.token_key(addr), now).filter(|_| *target == self.identity.id);
                let roundtrip_token = token.map(|token| token.to_vec());
                Request { roundtrip_token, ..self.identity.about(FIND_NODE, target) }
            }
        }
    }

    /// The name under which the token of the contact at `addr` is remembered.
    fn token_key(&self, addr: SocketAddr) -> u64 {
        seeded(self.seed, |hasher| addr.hash(hasher))
    }

    /// Sends a request; returns `false` if too many are waiting already.
    fn send(&mut self, contact: Contact, request: Request, source: Source, purpose: Purpose, now: Time) -> bool {
        // An update with a user's command may have an effect each time it arrives.
        let is_update = request.roundtrip_token.is_some();
        let repeats = !is_update || matches!(request.command.as_deref(), Some(PEERS | FIND_NODE));
        self.session.ask(Call { contact, request, source, repeats, purpose }, now)
    }

    /// A candidate is slow: it may be behind a NAT that drops what comes unasked. The request, which is repeated now,
    /// opens our own NAT for it, and the node that named it is asked to have it open its own.
    fn punch(&mut self, lookup: LookupId, contact: Contact, now: Time) {
        let Some(referrer) = self.overlay.referrer(lookup, &contact).filter(|referrer| *referrer != contact.addr)
        else {
            return;
        };
        let request = self.identity.forwarded_ping(contact.addr);
        let (relay, source) = (Contact { addr: referrer, ..contact }, Source::Host(contact.addr.ip()));
        // If too many requests are waiting, the candidate fails as it would have without.
        self.send(relay, request, source, Purpose::Punch { lookup, id: contact.id }, now);
    }

    /// A candidate has opened its NAT for us and answers from `real`: it is asked again.
    fn on_punched(&mut self, lookup: LookupId, real: Contact, now: Time) {
        self.overlay.alive(real, now);
        let first = Purpose::Find { lookup, id: real.id };
        let was_awaited = self.session.cancel(|other| *other == first, now) > 0;
        let Some(target) = self.overlay.target(lookup).filter(|_| was_awaited) else {
            return;
        };
        let request = self.find(lookup, &target, real.addr, now);
        let purpose = Purpose::FindPunched { lookup, id: real.id };
        if !self.send(real, request, Source::Asked, purpose, now) {
            self.overlay.passed_over(lookup, real);
        }
    }

    // ---- responses ----

    fn on_response(&mut self, from: SocketAddr, tid: Tid, response: &Response, now: Time) -> Option<Breach> {
        let (contact, purpose) = match self.session.answered(tid, from, now) {
            Ok(asked) => asked,
            Err(Unasked::UnknownTid) => return Some(Breach::UnaskedAnswer),
            Err(Unasked::Late) => return None,
            Err(Unasked::WrongSource) => return Some(Breach::WrongSource),
        };
        self.server.prove(from.ip(), now);
        let id = response.id.as_deref().and_then(Id::from_slice).filter(|id| *id != self.identity.id);
        let real = id.map(|id| Contact { id, addr: from });
        match purpose {
            Purpose::Find { lookup, id } | Purpose::FindPunched { lookup, id } => {
                self.on_found(lookup, Contact { id, ..contact }, real, response, now);
            }
            Purpose::Punch { lookup, id } => {
                if let Some(real) = real.filter(|real| real.id == id) {
                    self.on_punched(lookup, real, now);
                }
            }
            Purpose::Probe { verify } => {
                let is_same = real.is_some_and(|real| real.id == contact.id);
                if !is_same {
                    self.overlay.gone(contact);
                }
                real.into_iter().for_each(|real| self.overlay.alive(real, now));
                if verify {
                    // Who answers under another id is listed under that one. It is no failure of its address: anybody
                    // may have made the first id up.
                    self.overlay.probe_ended(contact, true, now);
                }
            }
            Purpose::Commit(job) | Purpose::Call(job) => {
                real.into_iter().for_each(|real| self.overlay.alive(real, now));
                if self.jobs.on_answer(job, id, from, response) {
                    self.session.cancel(|purpose| *purpose == Purpose::Call(job), now);
                }
            }
        }
        let nodes = response.nodes.as_ref().map_or(0, |nodes| self.identity.family().node_count(nodes));
        (nodes > NODE_ENTRIES_STRIKE).then_some(Breach::LongList)
    }

    /// The candidate `asked` of a lookup has responded, as the contact `real` if it told an id.
    fn on_found(&mut self, lookup: LookupId, asked: Contact, real: Option<Contact>, response: &Response, now: Time) {
        self.named.clear();
        let nodes = response.nodes.as_deref().unwrap_or_default();
        self.named.extend(self.identity.family().decode_nodes(nodes).take(NODE_ENTRIES));
        let token = response.roundtrip_token.as_deref().and_then(|token| <[u8; 32]>::try_from(token).ok());
        if let Some(token) = token.filter(|_| self.overlay.target(lookup) == Some(self.identity.id)) {
            self.tokens.set(self.token_key(asked.addr), token, now.after(TOKEN_ROTATION_MS), now);
        }
        let job = self.overlay.owner(lookup);
        match real.filter(|real| real.id == asked.id) {
            Some(real) => {
                self.overlay.named(lookup, real, &self.named, |_| true, now);
                job.into_iter().for_each(|job| self.jobs.on_found(job, real, response));
            }
            None => {
                self.overlay.named_as(lookup, asked, real, &self.named, now);
                // A node that told an id is asked again under it.
                job.filter(|_| real.is_none()).into_iter().for_each(|job| self.jobs.on_guided(job));
            }
        }
    }

    fn fail(&mut self, contact: Contact, purpose: Purpose, now: Time) {
        match purpose {
            Purpose::Find { lookup, id } | Purpose::FindPunched { lookup, id } => {
                self.overlay.failed(lookup, Contact { id, ..contact });
            }
            // The lookup is still waiting for the candidate itself.
            Purpose::Punch { .. } => {}
            Purpose::Probe { verify } => {
                self.overlay.dead(contact);
                if verify {
                    self.overlay.probe_ended(contact, false, now);
                }
            }
            Purpose::Commit(job) => {
                self.overlay.dead(contact);
                self.jobs.on_failure(job);
            }
            Purpose::Call(job) => self.jobs.on_failure(job),
        }
    }
}
