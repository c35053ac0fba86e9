//! The operations in progress: what each asks, what it has heard, and when it is over. Turns answers into events;
//! sends nothing and runs no lookup.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use prost::Message as _;

use crate::arena::{Arena, Key};
use crate::contact::Contact;
use crate::dialect::hyperdht::address::{Family, decode_locals, encode_local};
use crate::dialect::hyperdht::codec::{LOOKUP, PEERS, PeersRequest, PeersResponse, Request, Response, UNANNOUNCE};
use crate::dialect::hyperdht::operation::{Advertisement, Answer, Event, Outcome, Ticket};
use crate::id::Id;
use crate::kad::overlay::LookupId;
use crate::limits::{NODE_ENTRIES, TOKEN_BYTES};

/// Names a job.
pub type JobId = Key;

/// Which answers become events.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Shown {
    Never,
    Always,
    /// Only answers to the update.
    OfCommits,
}

/// An operation in progress.
#[derive(Debug)]
pub struct Job {
    ticket: Ticket,
    command: String,
    target: Option<Id>,
    value: Option<Vec<u8>>,
    is_update: bool,
    shown: Shown,
    /// It asks for peers; with our local address, if we gave one.
    peers: Option<Option<Ipv4Addr>>,
    lookup: Option<LookupId>,
    /// Nodes that gave a token, and so may get the update: id, address and token.
    takers: Vec<(Id, SocketAddr, Vec<u8>)>,
    /// Updates and single requests in flight.
    waiting: usize,
    answers: usize,
    commits: usize,
}

impl Job {
    /// One or a few single requests; the first answer ends it.
    pub fn single(ticket: Ticket) -> Job {
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

    /// A lookup, an announcement or its withdrawal: `kind` is [`LOOKUP`], [`ANNOUNCE`] or [`UNANNOUNCE`].
    ///
    /// [`ANNOUNCE`]: crate::dialect::hyperdht::codec::ANNOUNCE
    pub fn about_peers(ticket: Ticket, target: Id, kind: u32, own: Advertisement) -> Job {
        let is_withdrawal = kind == UNANNOUNCE;
        let local_address = own.local.map(encode_local);
        // Port 0 is written out, as node.js does.
        let value = PeersRequest { kind: Some(kind), port: Some(own.port.into()), local_address };
        Job {
            command: PEERS.into(),
            target: Some(target),
            value: Some(value.encode_to_vec()),
            is_update: kind != LOOKUP,
            shown: if is_withdrawal { Shown::Never } else { Shown::Always },
            peers: (!is_withdrawal).then(|| own.local.map(|local| *local.ip())),
            ..Job::single(ticket)
        }
    }

    /// A user's command.
    pub fn query(ticket: Ticket, command: String, target: Id, value: Option<Vec<u8>>, is_update: bool) -> Job {
        let shown = if is_update { Shown::OfCommits } else { Shown::Always };
        Job { command, target: Some(target), value, is_update, shown, ..Job::single(ticket) }
    }

    /// What it asks about peers, if it does.
    pub fn peers_request(&self) -> Option<PeersRequest> {
        self.peers.and(self.value.as_deref()).and_then(PeersRequest::read)
    }

    /// What it asks each node; without our id.
    fn request(&self) -> Request {
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

    /// What a response means to it.
    fn read(&self, family: Family, id: Option<Id>, addr: SocketAddr, response: &Response) -> Answer {
        let nodes = response.nodes.as_deref().filter(|_| self.lookup.is_none()).unwrap_or_default();
        let nodes = family.decode_nodes(nodes).take(NODE_ENTRIES).collect();
        let mut answer =
            Answer { id, addr, nodes, value: response.value.clone(), peers: Vec::new(), local_peers: Vec::new() };
        if let (Some(local), Some(value)) = (self.peers, response.value.as_deref().and_then(PeersResponse::read)) {
            answer.peers = family.decode_list(value.peers.as_deref().unwrap_or_default()).collect();
            if let (Some(local), Some(local_peers)) = (local, value.local_peers) {
                answer.local_peers = decode_locals(local, &local_peers).collect();
            }
        }
        answer
    }
}

/// All jobs of one node, and the events that have come of them.
#[derive(Debug)]
pub struct Jobs {
    family: Family,
    jobs: Arena<Job>,
    events: VecDeque<(Ticket, Event)>,
}

impl Jobs {
    /// No jobs, in a network of this family.
    pub fn new(family: Family) -> Jobs {
        Jobs { family, jobs: Arena::default(), events: VecDeque::new() }
    }

    /// Jobs in progress.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// The next event, and the ticket of its operation.
    pub fn poll_event(&mut self) -> Option<(Ticket, Event)> {
        self.events.pop_front()
    }

    /// Adds a job that waits for the answers to `requests` single requests.
    pub fn add_single(&mut self, job: Job, requests: usize) -> JobId {
        self.jobs.insert(Job { waiting: requests, ..job })
    }

    /// Adds a job that is to have a lookup: see [`Jobs::set_lookup`].
    pub fn add(&mut self, job: Job) -> JobId {
        self.jobs.insert(job)
    }

    /// Says which lookup a job waits for.
    pub fn set_lookup(&mut self, id: JobId, lookup: LookupId) {
        if let Some(job) = self.jobs.get_mut(id) {
            job.lookup = Some(lookup);
        }
    }

    /// What a job's lookup asks each node; without our id.
    pub fn request(&self, id: JobId) -> Option<Request> {
        self.jobs.get(id).map(Job::request)
    }

    /// Forgets a job, of which no events come any more. Returns its name, and its lookup if it has one.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<(JobId, Option<LookupId>)> {
        let id = self.jobs.iter().find(|(_, job)| job.ticket == ticket).map(|(id, _)| id)?;
        self.jobs.remove(id).map(|job| (id, job.lookup))
    }

    /// Makes an event of a response.
    pub fn show(&mut self, id: JobId, node: Option<Id>, from: SocketAddr, response: &Response) {
        if let Some(job) = self.jobs.get(id) {
            let answer = job.read(self.family, node, from, response);
            self.events.push_back((job.ticket, Event::Answer(answer)));
        }
    }

    /// A candidate of a job's lookup answered, under the id that it was asked by.
    pub fn on_found(&mut self, id: JobId, from: Contact, response: &Response) {
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

    /// A candidate of a job's lookup answered that has no id.
    pub fn on_guided(&mut self, id: JobId) {
        self.jobs.get_mut(id).into_iter().for_each(|job| job.answers += 1);
    }

    /// An update or a single request was answered. Returns `true` if the other requests of this job, if there are any,
    /// are no longer needed.
    pub fn on_answer(&mut self, id: JobId, node: Option<Id>, from: SocketAddr, response: &Response) -> bool {
        let Some(job) = self.jobs.get_mut(id) else {
            return false;
        };
        job.waiting -= 1;
        job.answers += usize::from(job.lookup.is_none());
        job.commits += usize::from(job.is_update);
        let is_single = !job.is_update;
        if job.shown != Shown::Never {
            self.show(id, node, from, response);
        }
        if is_single {
            self.finish(id);
        } else {
            self.finish_if_done(id);
        }
        is_single
    }

    /// An update or a single request was not answered, or could not be sent.
    pub fn on_failure(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(id) {
            job.waiting -= 1;
            self.finish_if_done(id);
        }
    }

    /// A job's lookup has ended at the `closest` nodes. Returns the updates to send, without our id; the job waits for
    /// an answer to each, or for [`Jobs::on_failure`]. Without any it is over.
    pub fn on_lookup_ended(&mut self, id: JobId, closest: &[Contact]) -> Vec<(Contact, Request)> {
        let Some(job) = self.jobs.get_mut(id) else {
            return Vec::new();
        };
        let takers = std::mem::take(&mut job.takers);
        let request = job.request();
        let update = |contact: &Contact| {
            let (_, addr, token) = takers.iter().find(|(taker, ..)| *taker == contact.id)?;
            let request = Request { roundtrip_token: Some(token.clone()), ..request.clone() };
            Some((Contact { addr: *addr, ..*contact }, request))
        };
        // Only updates gather takers.
        let updates: Vec<_> = closest.iter().filter_map(update).collect();
        job.waiting += updates.len();
        self.finish_if_done(id);
        updates
    }

    fn finish_if_done(&mut self, id: JobId) {
        if self.jobs.get(id).is_some_and(|job| job.waiting == 0) {
            self.finish(id);
        }
    }

    fn finish(&mut self, id: JobId) {
        if let Some(job) = self.jobs.remove(id) {
            self.events.push_back((job.ticket, Event::Done(job.outcome())));
        }
    }
}
