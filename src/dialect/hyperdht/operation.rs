//! What somebody has a node do (hyperdht.md, sections 6 and 8): lookups, announcements, users' queries and updates,
//! single requests and hole punches. Part of [`Node`]; knows how each proceeds and when it is over.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use prost::Message as _;

use crate::arena::Key;
use crate::contact::Contact;
use crate::dialect::hyperdht::address::{decode_locals, encode_local};
use crate::dialect::hyperdht::codec::{ANNOUNCE, LOOKUP, PeersRequest, PeersResponse, Request, Response, UNANNOUNCE};
use crate::dialect::hyperdht::node::{Node, Output, Purpose};
use crate::dialect::hyperdht::session::Source;
use crate::dialect::hyperdht::{FIND_NODE, PEERS};
use crate::id::Id;
use crate::kad::lookup::Goal;
use crate::kad::overlay::{Ended, LookupId};
use crate::limits::{JOBS, NODE_ENTRIES, TOKEN_BYTES};
use crate::time::Time;

/// By what the caller knows an operation.
pub type Ticket = u64;
/// Names an operation in progress.
pub(super) type JobId = Key;

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Ask whether somebody is there. The answer's value is how it sees us.
    Ping(SocketAddr),
    /// Ask one node for those it knows nearest to a target.
    FindNode(SocketAddr, Id),
    /// Open a way to a peer behind a NAT, by way of somebody it has talked to.
    HolePunch {
        /// Whom to reach.
        peer: SocketAddr,
        /// Who can reach it.
        referrer: SocketAddr,
    },
    /// Find who is announced under a key.
    Lookup(Id, Advertisement),
    /// Announce ourselves under a key with the nodes nearest to it, and find who else is.
    Announce(Id, Advertisement),
    /// Take that back.
    Unannounce(Id, Advertisement),
    /// A user's command, to the nodes nearest to a target: asked on the way there, or as an update of the nearest.
    Query {
        /// The command.
        command: String,
        /// Nearest to what.
        target: Id,
        /// The command's own.
        value: Option<Vec<u8>>,
        /// Whether it is an update.
        is_update: bool,
    },
}

/// What an announcement says of us, or a lookup.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Advertisement {
    /// The record's port; 0 is that of the socket.
    pub port: u16,
    /// Our address in our own network; in lookups its port may be 0.
    pub local: Option<SocketAddrV4>,
}

/// What comes of an operation: any number of answers, then its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Somebody has answered.
    Answer(Answer),
    /// It is over.
    Done(Outcome),
}

/// One node's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Its id; an ephemeral node has none.
    pub id: Option<Id>,
    /// Where it answers from.
    pub addr: SocketAddr,
    /// Whom it named, to a [`Operation::FindNode`].
    pub nodes: Vec<Contact>,
    /// The command's own.
    pub value: Option<Vec<u8>>,
    /// Who is announced, to a lookup or an announcement.
    pub peers: Vec<SocketAddr>,
    /// Who of them is in our own network, and where.
    pub local_peers: Vec<SocketAddrV4>,
}

/// How an operation ended.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Well.
    Done {
        /// Nodes that answered.
        answers: usize,
        /// Nodes that took an update.
        commits: usize,
    },
    /// Nobody answered.
    NobodyAnswered,
    /// Nobody took the update, though somebody answered.
    NobodyNear,
}

/// When answers are shown.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Shown {
    Never,
    Always,
    /// Only those to the update.
    OfCommits,
}

/// An operation in progress.
#[derive(Debug)]
pub(super) struct Job {
    ticket: Ticket,
    command: String,
    target: Option<Id>,
    value: Option<Vec<u8>>,
    is_update: bool,
    shown: Shown,
    /// It asks for peers, as one with this local address.
    peers: Option<Option<Ipv4Addr>>,
    lookup: Option<LookupId>,
    /// Who may take the update: id, address and token.
    takers: Vec<(Id, SocketAddr, Vec<u8>)>,
    /// Single requests in flight.
    waiting: usize,
    answers: usize,
    commits: usize,
}

impl Job {
    fn new(ticket: Ticket) -> Job {
        Job {
            ticket,
            command: String::new(),
            target: None,
            value: None,
            is_update: false,
            shown: Shown::Always,
            peers: None,
            lookup: None,
            takers: Vec::new(),
            waiting: 0,
            answers: 0,
            commits: 0,
        }
    }

    fn about_peers(ticket: Ticket, target: Id, kind: u32, own: Advertisement) -> Job {
        // Port 0 is written, as node.js does.
        let local_address = own.local.map(encode_local);
        let value = PeersRequest { kind: Some(kind), port: Some(own.port.into()), local_address };
        Job {
            command: PEERS.into(),
            target: Some(target),
            value: Some(value.encode_to_vec()),
            is_update: kind != LOOKUP,
            peers: Some(own.local.map(|local| *local.ip())),
            ..Job::new(ticket)
        }
    }

    /// What it asks everybody; without the id of who asks.
    pub fn request(&self) -> Request {
        let (command, target) = (Some(self.command.clone()), self.target.map(|target| target.0.to_vec()));
        Request { command, target, value: self.value.clone(), ..Request::default() }
    }

    fn outcome(&self) -> Outcome {
        match (self.answers, self.commits) {
            (0, _) => Outcome::NobodyAnswered,
            (_, 0) if self.is_update => Outcome::NobodyNear,
            (answers, commits) => Outcome::Done { answers, commits },
        }
    }
}

impl Node {
    /// Begins an operation, whose event come with `ticket`. `false` if there are too many already.
    pub fn start(&mut self, ticket: Ticket, operation: Operation, now: Time) -> bool {
        if self.jobs.len() >= JOBS {
            return false;
        }
        let blank = Job::new(ticket);
        match operation {
            Operation::Ping(to) => self.start_calls(blank, [(to, self.ping(), Source::Asked)], now),
            Operation::FindNode(at, target) => {
                self.start_calls(blank, [(at, self.about(FIND_NODE, &target), Source::Asked)], now);
            }
            Operation::HolePunch { peer, referrer } => {
                let forwarded = self.forwarded_ping(peer);
                // The first opens our NAT for the peer (hyperdht.md, section 9.2).
                let direct = (peer, self.ping(), Source::Asked);
                self.start_calls(blank, [direct, (referrer, forwarded, Source::Host(peer.ip()))], now);
            }
            Operation::Lookup(key, own) => self.start_lookup(Job::about_peers(ticket, key, LOOKUP, own), key, now),
            Operation::Announce(key, own) => self.start_lookup(Job::about_peers(ticket, key, ANNOUNCE, own), key, now),
            Operation::Unannounce(key, own) => {
                let job = Job { shown: Shown::Never, peers: None, ..Job::about_peers(ticket, key, UNANNOUNCE, own) };
                self.start_lookup(job, key, now);
            }
            Operation::Query { command, target, value, is_update } => {
                let shown = if is_update { Shown::OfCommits } else { Shown::Always };
                let job = Job { command, target: Some(target), value, is_update, shown, ..blank };
                self.start_lookup(job, target, now);
            }
        }
        true
    }

    /// Ends an operation early; nothing more comes of it.
    pub fn cancel(&mut self, ticket: Ticket, now: Time) {
        let Some(id) = self.jobs.iter().find(|(_, job)| job.ticket == ticket).map(|(id, _)| id) else {
            return;
        };
        if let Some(lookup) = self.jobs.remove(id).and_then(|job| job.lookup) {
            self.overlay.enough(lookup, now);
            let is_its = |purpose: &Purpose| match purpose {
                Purpose::Find { lookup: of, .. }
                | Purpose::FindPunched { lookup: of, .. }
                | Purpose::Punch { lookup: of, .. } => *of == lookup,
                Purpose::Commit(_) | Purpose::Call(_) | Purpose::Probe { .. } => false,
            };
            self.session.cancel(is_its, now);
        }
        self.session.cancel(|purpose| matches!(purpose, Purpose::Commit(of) | Purpose::Call(of) if *of == id), now);
    }

    fn start_calls<const N: usize>(&mut self, job: Job, calls: [(SocketAddr, Request, Source); N], now: Time) {
        let id = self.jobs.insert(Job { waiting: N, ..job });
        for (to, request, source) in calls {
            let contact = Contact { id: Id::default(), addr: to };
            if !self.send(contact, request, source, Purpose::Call(id), now) {
                self.on_job_failure(id);
            }
        }
    }

    fn start_lookup(&mut self, job: Job, target: Id, now: Time) {
        if job.peers.is_some() {
            self.show_own_records(&job, &target, now);
        }
        let id = self.jobs.insert(job);
        let lookup = self.overlay.start_lookup(target, Goal::Everything, 1, id, &[]);
        if let Some(job) = self.jobs.get_mut(id) {
            job.lookup = Some(lookup);
        }
    }

    /// What we hold ourselves is an answer too, the first one.
    fn show_own_records(&mut self, job: &Job, key: &Id, now: Time) {
        let own = self.identity.addr;
        let request = job.value.as_deref().and_then(PeersRequest::read);
        let value = request.and_then(|request| self.peers(key, own, &request, false, 0, now));
        if value.is_some() {
            let id = (!self.identity.is_ephemeral).then_some(self.identity.id);
            let answer = self.read(job, id, own, &Response { value, ..Response::default() });
            self.outputs.push_back(Output::Event { ticket: job.ticket, event: Event::Answer(answer) });
        }
    }

    /// What an answer says to a job.
    fn read(&self, job: &Job, id: Option<Id>, addr: SocketAddr, response: &Response) -> Answer {
        let nodes = response.nodes.as_deref().filter(|_| job.lookup.is_none()).unwrap_or_default();
        let nodes = self.family.decode_nodes(nodes).take(NODE_ENTRIES).collect();
        let mut answer =
            Answer { id, addr, nodes, value: response.value.clone(), peers: Vec::new(), local_peers: Vec::new() };
        if let (Some(local), Some(value)) = (job.peers, response.value.as_deref().and_then(PeersResponse::read)) {
            answer.peers = self.family.decode_list(value.peers.as_deref().unwrap_or_default()).collect();
            if let (Some(local), Some(local_peers)) = (local, value.local_peers) {
                answer.local_peers = decode_locals(local, &local_peers).collect();
            }
        }
        answer
    }

    /// Somebody answered a job's lookup as who it was asked as.
    pub(super) fn on_job_found(&mut self, id: JobId, from: Contact, response: &Response) {
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        job.answers += 1;
        let token = response.roundtrip_token.as_ref().filter(|token| token.len() <= TOKEN_BYTES && job.is_update);
        job.takers.extend(token.map(|token| (from.id, from.addr, token.clone())));
        if job.shown == Shown::Always {
            self.show(id, Some(from.id), from.addr, response);
        }
    }

    /// Somebody who has no id answered a job's lookup.
    pub(super) fn on_job_guided(&mut self, id: JobId) {
        self.jobs.get_mut(id).into_iter().for_each(|job| job.answers += 1);
    }

    fn show(&mut self, id: JobId, node: Option<Id>, from: SocketAddr, response: &Response) {
        if let Some(job) = self.jobs.get(id) {
            let event = Event::Answer(self.read(job, node, from, response));
            self.outputs.push_back(Output::Event { ticket: job.ticket, event });
        }
    }

    /// Somebody answered a job's update or single request.
    pub(super) fn on_job_answer(
        &mut self,
        id: JobId,
        real: Option<Contact>,
        from: SocketAddr,
        response: &Response,
        now: Time,
    ) {
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        job.waiting -= 1;
        job.answers += usize::from(job.lookup.is_none());
        job.commits += usize::from(job.is_update);
        let is_call = !job.is_update;
        if job.shown != Shown::Never {
            self.show(id, real.map(|real| real.id), from, response);
        }
        if is_call {
            // Of a hole punch, the other request is not needed any more.
            self.session.cancel(|purpose| *purpose == Purpose::Call(id), now);
            self.finish(id);
        } else {
            self.finish_if_done(id);
        }
    }

    /// A job's update or single request was not answered.
    pub(super) fn on_job_failure(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(id) {
            job.waiting -= 1;
            self.finish_if_done(id);
        }
    }

    /// A job's lookup has ended: the nearest get the update, or that was all.
    pub(super) fn on_ended(&mut self, ended: &Ended, now: Time) {
        let id = ended.owner;
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        if !job.is_update {
            return self.finish(id);
        }
        let takers = std::mem::take(&mut job.takers);
        let request = job.request();
        for contact in &ended.closest {
            let Some((_, addr, token)) = takers.iter().find(|(taker, ..)| *taker == contact.id) else {
                continue;
            };
            let request = Request { id: self.own_id(), roundtrip_token: Some(token.clone()), ..request.clone() };
            let contact = Contact { addr: *addr, ..*contact };
            if self.send(contact, request, Source::Asked, Purpose::Commit(id), now) {
                self.jobs.get_mut(id).into_iter().for_each(|job| job.waiting += 1);
            }
        }
        self.finish_if_done(id);
    }

    fn finish_if_done(&mut self, id: JobId) {
        if self.jobs.get(id).is_some_and(|job| job.waiting == 0) {
            self.finish(id);
        }
    }

    fn finish(&mut self, id: JobId) {
        if let Some(job) = self.jobs.remove(id) {
            let event = Event::Done(job.outcome());
            self.outputs.push_back(Output::Event { ticket: job.ticket, event });
        }
    }
}
