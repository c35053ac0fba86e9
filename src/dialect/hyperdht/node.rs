//! One node of the hyperdht dialect: what it asks and what becomes of it. Works on datagrams that were decoded. In:
//! datagrams, operations, the time. Out: [`Output`]s, drained until there are none. Never sees a socket, bytes or a clock.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::arena::Arena;
use crate::contact::Contact;
use crate::dialect::hyperdht::address::Family;
use crate::dialect::hyperdht::codec::{Body, Datagram, Request, Response, Tid};
use crate::dialect::hyperdht::forwards::Forwards;
use crate::dialect::hyperdht::operation::{Event, Job, JobId, Ticket};
use crate::dialect::hyperdht::records::Records;
use crate::dialect::hyperdht::serve::Handler;
use crate::dialect::hyperdht::session::{Call, Session, Source, Unasked};
use crate::dialect::hyperdht::tokens::Tokens;
use crate::dialect::hyperdht::{FIND_NODE, PEERS, PING};
use crate::id::Id;
use crate::kad::overlay::{Ask, LookupId, Overlay};
use crate::kad::requests::Overdue;
use crate::kad::routing_table::BucketPolicy;
use crate::kad::{OverlayPolicy, Parameters};
use crate::limits::{DATAGRAM_ALPHA, K, NODE_ENTRIES, NODE_ENTRIES_STRIKE};
use crate::time::Time;

const POLICY: OverlayPolicy = OverlayPolicy { bucket_policy: BucketPolicy::FirstCome, probes_own_reachability: false };
/// Kademlia's parameters as all nodes of this dialect have them.
pub const PARAMETERS: Parameters = Parameters { k: K, alpha: DATAGRAM_ALPHA, paths: 1, counts_networks: true };

/// Who a node is.
#[derive(Copy, Clone, Debug)]
pub struct Identity {
    /// Its id: any 32 bytes.
    pub id: Id,
    /// Where it listens, as far as it knows.
    pub addr: SocketAddr,
    /// It tells nobody its id, so that nobody lists it.
    pub is_ephemeral: bool,
}

/// What the node wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this datagram.
    Send {
        /// Where to.
        to: SocketAddr,
        /// What.
        datagram: Datagram,
    },
    /// An operation has come to something.
    Event {
        /// Which.
        ticket: Ticket,
        /// What.
        event: Event,
    },
}

/// What was wrong with a datagram. Each is a counter of the engine's; none is answered.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Breach {
    /// A response to nothing.
    UnaskedAnswer,
    /// A response to a request that was made to somebody else.
    WrongSource,
    /// A response that names far more nodes than anybody needs.
    LongList,
    /// A target that is none, or a forward that can't be made.
    Malformed,
    /// A token that is not valid (any more). Its request is answered as a query.
    BadToken,
    /// A forward beyond what its source may have made.
    TooManyForwards,
    /// An announcement for which there is no room. It is answered.
    RecordsFull,
}

/// What a request in flight is for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Ask the candidate `id` on behalf of a lookup.
    Find {
        lookup: LookupId,
        id: Id,
    },
    /// Ask it again, after a hole punch.
    FindPunched {
        lookup: LookupId,
        id: Id,
    },
    /// Have its referrer tell it to answer us, which opens its NAT for us.
    Punch {
        lookup: LookupId,
        id: Id,
    },
    /// Store with one of the nearest.
    Commit(JobId),
    /// One request that is all there is to an operation.
    Call(JobId),
    Probe {
        verify: bool,
    },
}

/// One node, on one socket.
#[derive(Debug)]
pub struct Node {
    pub(super) identity: Identity,
    pub(super) family: Family,
    pub(super) overlay: Overlay,
    pub(super) session: Session<Purpose>,
    pub(super) tokens: Tokens,
    pub(super) records: Records,
    pub(super) forwards: Forwards,
    pub(super) jobs: Arena<Job>,
    pub(super) handlers: Vec<(String, Handler)>,
    pub(super) outputs: VecDeque<Output>,
    /// The contacts of the answer being given or taken in; kept to save its allocation.
    pub(super) named: Vec<Contact>,
}

impl Node {
    /// A node. `seed` decides its random choices but for the tokens, which nobody may guess: `secrets` are the current
    /// and the previous one.
    pub fn new(identity: Identity, parameters: Parameters, secrets: [[u8; 32]; 2], seed: u64, now: Time) -> Node {
        let own = Contact { id: identity.id, addr: identity.addr };
        let [current, previous] = secrets;
        let mut overlay = Overlay::new(own, parameters, POLICY, seed, now);
        let session = Session::new(overlay.random().u64(..));
        Node {
            identity,
            family: Family::of(identity.addr),
            overlay,
            session,
            tokens: Tokens::new(current, previous, now),
            records: Records::default(),
            forwards: Forwards::new(now),
            jobs: Arena::default(),
            handlers: Vec::new(),
            outputs: VecDeque::new(),
            named: Vec::new(),
        }
    }

    /// Table, lookups and their counts.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// What others have announced here.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Operations in progress.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Requests of ours that are not answered yet.
    pub fn requests_in_flight(&self) -> usize {
        self.session.in_flight()
    }

    /// Bootstraps from whoever listens on `addr`.
    pub fn add_bootstrap(&mut self, addr: SocketAddr, now: Time) {
        self.overlay.add_bootstrap_at(addr, now);
    }

    /// Begins lookups at `addr` while nobody else is known, without one of its own: for a node that has one operation to
    /// run.
    pub fn add_seed(&mut self, addr: SocketAddr) {
        self.overlay.add_seed_at(addr);
    }

    /// Answers requests with the user's command `name` by `handler`, from now on; others are answered without a value.
    pub fn handle(&mut self, name: &str, handler: Handler) {
        self.handlers.retain(|(known, _)| known != name);
        self.handlers.push((name.to_string(), handler));
    }

    /// Takes in a datagram from `from`; what was wrong with it, if anything was.
    pub fn on_datagram(&mut self, from: SocketAddr, datagram: &Datagram, now: Time) -> Option<Breach> {
        match &datagram.body {
            Body::Request(request) => self.on_request(from, datagram.tid, request, now),
            Body::Response(response) => self.on_response(from, datagram.tid, response, now),
        }
    }

    /// When [`Node::on_timeout`] has something to do.
    pub fn next_deadline(&self) -> Time {
        let deadlines = [self.session.next_deadline(), self.records.next_deadline(), Some(self.tokens.next_deadline())];
        deadlines.into_iter().flatten().fold(self.overlay.next_deadline(), Time::min)
    }

    /// Does what is due at `now`.
    pub fn on_timeout(&mut self, now: Time) {
        self.tokens.rotate(now);
        self.records.expire(now);
        for overdue in self.session.expire(now) {
            match overdue {
                Overdue::Slow(contact, Purpose::Find { lookup, id }) => {
                    self.overlay.slow(lookup, Contact { id, ..contact });
                    self.punch(lookup, contact, now);
                }
                Overdue::Slow(..) => {}
                Overdue::Failed(contact, purpose) => self.fail(contact, purpose),
            }
        }
        self.overlay.on_timeout(now);
    }

    /// The next thing to do; call until `None` after anything above was called.
    pub fn poll_output(&mut self, now: Time) -> Option<Output> {
        loop {
            if let Some((tid, to, request)) = self.session.poll_send() {
                let datagram = Datagram { tid, body: Body::Request(request.clone()) };
                return Some(Output::Send { to, datagram });
            }
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            if let Some(ask) = self.overlay.poll_ask(now) {
                self.ask(ask, now);
            } else if let Some(ended) = self.overlay.poll_ended() {
                self.on_ended(&ended, now);
            } else {
                return None;
            }
        }
    }

    // ---- asking ----

    fn ask(&mut self, ask: Ask, now: Time) {
        match ask {
            Ask::Find { lookup, contact, target, .. } => {
                let request = self.find(lookup, &target);
                let purpose = Purpose::Find { lookup, id: contact.id };
                if !self.send(contact, request, Source::Asked, purpose, now) {
                    self.overlay.passed_over(lookup, contact);
                }
            }
            Ask::Probe { contact, verify } => {
                let purpose = Purpose::Probe { verify };
                if !self.send(contact, self.ping(), Source::Asked, purpose, now) && verify {
                    self.overlay.probe_ended(contact, false);
                }
            }
            // Answers of this dialect name the asker, so there is nothing to find out.
            Ask::CheckReachability { .. } => {}
        }
    }

    /// What a lookup asks everybody: what its operation wants to know, or nodes only.
    fn find(&self, lookup: LookupId, target: &Id) -> Request {
        match self.overlay.owner(lookup).and_then(|job| self.jobs.get(job)) {
            Some(job) => Request { id: self.own_id(), ..job.request() },
            None => self.about(FIND_NODE, target),
        }
    }

    /// Sends a request; `false` if too many wait already.
    pub(super) fn send(
        &mut self,
        contact: Contact,
        request: Request,
        source: Source,
        purpose: Purpose,
        now: Time,
    ) -> bool {
        // An update with a user's command may do something each time it comes.
        let is_update = request.roundtrip_token.is_some();
        let repeats = !is_update || request.command.as_deref() == Some(PEERS);
        self.session.ask(Call { contact, request, source, repeats, purpose }, now)
    }

    /// Our id as it goes into messages.
    pub(super) fn own_id(&self) -> Option<Vec<u8>> {
        (!self.identity.is_ephemeral).then(|| self.identity.id.0.to_vec())
    }

    pub(super) fn ping(&self) -> Request {
        Request { command: Some(PING.into()), id: self.own_id(), ..Request::default() }
    }

    /// A ping to be sent on to `peer`. Without our id: the npm peer and the Go port would list it at the relay's
    /// address from then on (hyperdht.md, section 9.4), and lead others there.
    pub(super) fn forwarded_ping(&self, peer: SocketAddr) -> Request {
        Request { id: None, forward_request: Some(self.family.encode(peer)), ..self.ping() }
    }

    pub(super) fn about(&self, command: &str, target: &Id) -> Request {
        let (command, target) = (Some(command.into()), Some(target.0.to_vec()));
        Request { command, target, id: self.own_id(), ..Request::default() }
    }

    /// A candidate is slow: it may be behind a NAT that lets nobody in unasked. The request, which is sent once more
    /// now, opens our NAT for it; who named it is asked to have it open its own (hyperdht.md, section 9.3).
    fn punch(&mut self, lookup: LookupId, contact: Contact, now: Time) {
        let Some(referrer) = self.overlay.referrer(lookup, &contact).filter(|referrer| *referrer != contact.addr)
        else {
            return;
        };
        let request = self.forwarded_ping(contact.addr);
        let (relay, source) = (Contact { addr: referrer, ..contact }, Source::Host(contact.addr.ip()));
        // Where too many wait, the candidate is lost as it would be without.
        self.send(relay, request, source, Purpose::Punch { lookup, id: contact.id }, now);
    }

    /// A candidate has opened its NAT for us and answers from `real`: it is asked once more, from the beginning.
    fn on_punched(&mut self, lookup: LookupId, real: Contact, now: Time) {
        self.overlay.alive(real, now);
        let first = Purpose::Find { lookup, id: real.id };
        let was_awaited = self.session.cancel(|other| *other == first, now) > 0;
        let Some(target) = self.overlay.target(lookup).filter(|_| was_awaited) else {
            return;
        };
        let request = self.find(lookup, &target);
        let purpose = Purpose::FindPunched { lookup, id: real.id };
        if !self.send(real, request, Source::Asked, purpose, now) {
            self.overlay.passed_over(lookup, real);
        }
    }

    // ---- answers ----

    fn on_response(&mut self, from: SocketAddr, tid: Tid, response: &Response, now: Time) -> Option<Breach> {
        let (contact, purpose) = match self.session.answered(tid, from, now) {
            Ok(asked) => asked,
            Err(Unasked::UnknownTid) => return Some(Breach::UnaskedAnswer),
            Err(Unasked::Late) => return None,
            Err(Unasked::WrongSource) => return Some(Breach::WrongSource),
        };
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
                    self.overlay.probe_ended(contact, is_same);
                }
            }
            Purpose::Commit(job) | Purpose::Call(job) => {
                real.into_iter().for_each(|real| self.overlay.alive(real, now));
                self.on_job_answer(job, real, from, response, now);
            }
        }
        let nodes = response.nodes.as_ref().map_or(0, |nodes| self.family.node_count(nodes));
        (nodes > NODE_ENTRIES_STRIKE).then_some(Breach::LongList)
    }

    /// Whom `asked` named in an answer to a lookup, and what it had to say.
    fn on_found(&mut self, lookup: LookupId, asked: Contact, real: Option<Contact>, response: &Response, now: Time) {
        self.named.clear();
        let nodes = response.nodes.as_deref().unwrap_or_default();
        self.named.extend(self.family.decode_nodes(nodes).take(NODE_ENTRIES));
        let job = self.overlay.owner(lookup);
        match real.filter(|real| real.id == asked.id) {
            Some(real) => {
                self.overlay.named(lookup, real, &self.named, |_| true, now);
                job.into_iter().for_each(|job| self.on_job_found(job, real, response));
            }
            None => {
                self.overlay.named_as(lookup, asked, real, &self.named, now);
                // Who has an id is asked again under it.
                job.filter(|_| real.is_none()).into_iter().for_each(|job| self.on_job_guided(job));
            }
        }
    }

    fn fail(&mut self, contact: Contact, purpose: Purpose) {
        match purpose {
            Purpose::Find { lookup, id } | Purpose::FindPunched { lookup, id } => {
                self.overlay.failed(lookup, Contact { id, ..contact });
            }
            // The lookup still waits for the candidate itself.
            Purpose::Punch { .. } => {}
            Purpose::Probe { verify } => {
                self.overlay.dead(contact);
                if verify {
                    self.overlay.probe_ended(contact, false);
                }
            }
            Purpose::Commit(job) => {
                self.overlay.dead(contact);
                self.on_job_failure(job);
            }
            Purpose::Call(job) => self.on_job_failure(job),
        }
    }
}
