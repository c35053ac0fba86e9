//! The message level: real nodes and stores of the sealed dialect, and messages that are delayed, get lost, or come
//! from liars. Holds every host and the schedule. Never looks into a node but through what any caller can see.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::arena::Key;
use crate::contact::Contact;
use crate::dialect::sealed::codec::{ErrorCode, Message, Nodes};
use crate::dialect::sealed::job::{Outcome, Put, Ticket};
use crate::dialect::sealed::node::{Answer, Output};
use crate::dialect::sealed::request::Request;
use crate::dialect::sealed::settings::Ids;
use crate::dialect::stream::Via;
use crate::id::Id;
use crate::kad::requests::RequestId;
use crate::sim::address::{address_of, number_of};
use crate::sim::check::{Canary, Checks};
use crate::sim::host::{Body, Host};
use crate::sim::liar::Liars;
use crate::sim::options::Options;
use crate::sim::ring::Ring;
use crate::sim::schedule::{Schedule, Trace};
use crate::sim::watch::Watch;
use crate::sources::Sources;
use crate::time::Time;

/// The address of all clients.
pub(super) const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
/// The port that a message from an ephemeral port seems to come from.
const EPHEMERAL_PORT: u16 = 50_000;

/// An answer under way.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Pong(u32),
    Nodes(Vec<Contact>),
    Value(Arc<[u8]>),
    Success(Id),
    Error(u32),
}

/// An event to come.
#[derive(Debug)]
pub(super) enum Event {
    Request {
        from: u32,
        to: u32,
        id: RequestId,
        message: Request,
        is_ephemeral: bool,
    },
    Answer {
        from: u32,
        to: u32,
        id: RequestId,
        reply: Reply,
    },
    Wake(u32),
    /// The checks look whether a host serves the value of this key, just before its end and just after.
    LookAt {
        host: u32,
        key: Id,
    },
}

/// A job that has ended.
#[derive(Clone, Debug)]
pub struct Done {
    /// The number that was given to start it.
    pub op: usize,
    /// The host of the job.
    pub host: usize,
    /// How it ended.
    pub outcome: Outcome,
    /// When it ended.
    pub at: Time,
}

/// All hosts, and the messages under way between them.
#[derive(Debug)]
pub struct World {
    /// The options of the run.
    pub options: Options,
    /// All hosts that ever lived, by number.
    pub hosts: Vec<Host>,
    /// The hosts that are not alone in their networks, by address.
    crowded: BTreeMap<SocketAddr, u32>,
    /// The living hosts.
    pub ring: Ring,
    /// The source of every choice that the world makes.
    pub random: fastrand::Rng,
    pub(super) now: Time,
    pub(super) schedule: Schedule<Event>,
    liars: Option<Liars>,
    done: Vec<Done>,
    trace: Trace,
    messages: u64,
    /// The checks, if [`Options::checked`].
    pub(super) checks: Option<Checks>,
    /// The hosts that may hold the value of each key that a client put: those that answered so, and the coordinator.
    pub(super) holders: BTreeMap<Id, Vec<u32>>,
    /// Lists of contacts, kept for the next answers to save their allocation.
    lists: Vec<Vec<Contact>>,
    /// Counts nothing, because a hundred thousand hosts would take gigabytes for it; the byte level counts.
    sources: Sources,
}

impl World {
    /// A world without hosts.
    pub fn new(options: Options) -> World {
        World {
            random: fastrand::Rng::with_seed(options.seed),
            checks: options.checked.then(Checks::default),
            options,
            hosts: Vec::new(),
            crowded: BTreeMap::new(),
            ring: Ring::default(),
            now: Time::ZERO,
            schedule: Schedule::default(),
            liars: None,
            done: Vec::new(),
            trace: Trace::default(),
            messages: 0,
            holders: BTreeMap::new(),
            lists: Vec::new(),
            sources: Sources::default(),
        }
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// A hash of everything that has happened so far.
    pub fn trace(&self) -> u64 {
        self.trace.value()
    }

    /// The number of requests and answers delivered so far.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Lets everything happen that is due by `until`.
    pub fn run_until(&mut self, until: Time) {
        while self.step(until) {}
    }

    /// Lets the next event happen if it is due by `until`. Returns whether there was one; if not, it is `until` now.
    pub fn step(&mut self, until: Time) -> bool {
        let Some((at, event)) = self.schedule.next(until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = at;
        match event {
            Event::Request { from, to, id, message, is_ephemeral } => {
                self.trace.note(&[at.as_ms(), 1, u64::from(from), u64::from(to), id.to_bits()]);
                self.deliver_request(from, to, id, &message, is_ephemeral);
            }
            Event::Answer { from, to, id, reply } => {
                self.trace.note(&[at.as_ms(), 2, u64::from(from), u64::from(to), id.to_bits()]);
                self.deliver_answer(from, to, id, reply);
            }
            Event::Wake(host) => self.wake(host, at),
            Event::LookAt { host, key } => self.look_at(host, key),
        }
        true
    }

    /// The jobs that have ended since the last call.
    pub fn take_done(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.done)
    }

    // ---- hosts ----

    /// Adds a living host that knows nobody; returns its number.
    pub fn add_host(&mut self) -> usize {
        self.add_host_at(address_of(self.hosts.len()))
    }

    /// Adds a living host at this address, which no host may have.
    pub fn add_host_at(&mut self, addr: SocketAddr) -> usize {
        let number = self.hosts.len();
        let host = self.new_host(addr);
        if number_of(addr) != Some(number) {
            self.crowded.insert(addr, number as u32);
        }
        self.ring.insert(host.contact.id, number as u32);
        self.hosts.push(host);
        number
    }

    /// Adds `count` living hosts that know nobody.
    pub fn add_hosts(&mut self, count: usize) {
        for number in self.hosts.len()..self.hosts.len() + count {
            let host = self.new_host(address_of(number));
            self.hosts.push(host);
        }
        let living = self.hosts.iter().enumerate().filter(|(_, host)| host.body.is_some());
        self.ring = Ring::new(living.map(|(number, host)| (host.contact.id, number as u32)));
    }

    fn new_host(&mut self, addr: SocketAddr) -> Host {
        let (seed, limits) = (self.random.u64(..), self.options.stores.draw(&mut self.random));
        Host::new(addr, self.options.settings, limits, seed, self.now)
    }

    /// Tells `host` to join through the host `known`.
    pub fn join(&mut self, host: usize, known: usize) {
        let (addr, now) = (self.hosts[known].contact.addr, self.now);
        if let Some(body) = &mut self.hosts[host].body {
            body.node.add_bootstrap(addr, now);
            self.settle(host as u32);
        }
    }

    /// Gives `host` a past in which it has heard from `contacts`, and they from it.
    pub fn remember(&mut self, host: usize, contacts: &[Contact]) {
        let now = self.now;
        if let Some(body) = &mut self.hosts[host].body {
            body.node.remember(contacts, now);
            self.settle(host as u32);
        }
    }

    /// Kills a host; nobody is told.
    pub fn kill(&mut self, host: usize) {
        let dead = &mut self.hosts[host];
        dead.body = None;
        self.ring.remove(dead.contact.id, host as u32);
    }

    /// Makes the living hosts lie whose numbers `which` accepts.
    pub fn corrupt(&mut self, which: impl Fn(usize) -> bool) {
        let mut liars = Vec::new();
        for (number, host) in self.hosts.iter_mut().enumerate() {
            host.lies = host.body.is_some() && which(number);
            if host.lies {
                liars.push(host.contact);
            }
        }
        let seed = self.random.u64(..);
        self.liars = (!liars.is_empty()).then(|| Liars::new(self.options.lie, self.options.settings.ids, liars, seed));
    }

    /// A living honest host, chosen at random. Panics if there is hardly any.
    pub fn any_honest(&mut self) -> usize {
        for _ in 0..100_000 {
            let host = self.random.usize(..self.hosts.len());
            if self.hosts[host].is_honest() {
                return host;
            }
        }
        panic!("seed {}: hardly anybody honest is alive", self.options.seed)
    }

    /// The `n` living honest hosts closest to `key`.
    pub fn closest_honest(&self, key: &Id, n: usize) -> Vec<u32> {
        self.ring.closest(key, n, |host| self.hosts[host as usize].is_honest())
    }

    // ---- what clients do ----

    /// Lets a client of `host` put `value`, for a lifetime as [`Options::ttl`] says. The end is reported as the
    /// [`Done`] of `op`.
    pub fn put(&mut self, host: usize, op: usize, key: Id, value: &[u8]) {
        let ticket = Ticket { waiter: Key::from_bits(op as u64), since: self.now };
        let ttl_s = self.options.ttl.draw(&mut self.random);
        let put = Put { key, value, ttl_s, replication: self.options.replication, source: CLIENT.ip() };
        let now = self.now;
        let Some(body) = &mut self.hosts[host].body else {
            return;
        };
        self.holders.entry(key).or_default().push(host as u32);
        if let Some(checks) = &mut self.checks {
            checks.put(host as u32, key, value, ttl_s);
        }
        if !body.node.start_put(put, ticket, now) {
            self.done.push(Done { op, host, outcome: Outcome::Busy, at: now });
        }
        self.settle(host as u32);
    }

    /// Puts a value into a living host's store without asking anybody; returns whether the store took it.
    pub fn place(&mut self, host: usize, key: Id, value: &[u8]) -> bool {
        let now = self.now;
        let ttl_s = self.options.ttl.draw(&mut self.random);
        let placed = self.hosts[host]
            .body
            .as_mut()
            .is_some_and(|body| body.store.put(key, value, ttl_s, None, &mut self.sources, now).is_ok());
        if placed {
            self.note_copy(host as u32, key, value, ttl_s);
        }
        self.settle(host as u32);
        placed
    }

    /// Lets a client of `host` get the value of `key`. The end is reported as the [`Done`] of `op`.
    pub fn get(&mut self, host: usize, op: usize, key: Id) {
        let ticket = Ticket { waiter: Key::from_bits(op as u64), since: self.now };
        let now = self.now;
        let Some(Body { node, store }) = self.hosts[host].body.as_deref_mut() else {
            return;
        };
        if let Some(checks) = &mut self.checks {
            checks.got(host as u32, key);
        }
        let outcome = match node.on_request(CLIENT, &Message::Get { key }, (store, &mut self.sources), ticket, now) {
            Answer::Later => None,
            Answer::Now(Message::Success { value, .. }) => Some(Outcome::Found(value.into())),
            Answer::Now(_) => Some(Outcome::Busy),
        };
        self.done.extend(outcome.map(|outcome| Done { op, host, outcome, at: now }));
        self.settle(host as u32);
    }

    /// Sends a FIND_NODE for `key` from `from` to `to` outside any lookup, as an attacker does to be noticed.
    pub fn pester(&mut self, from: usize, to: usize, key: Id) {
        let (from, to, id) = (from as u32, to as u32, Key::from_bits(u64::MAX));
        self.send(from, to, Event::Request { from, to, id, message: Request::FindNode(key), is_ephemeral: false });
    }

    /// Watches the lookup of `target` that `host` is about to begin.
    pub fn watch(&mut self, host: usize, op: usize, target: Id) {
        let closest = self.closest_honest(&target, 2);
        // A host does not look itself up.
        let closest = closest.into_iter().find(|other| *other as usize != host);
        let watch = closest.map(|closest| Box::new(Watch::new(target, op, closest, self.now)));
        self.hosts[host].watch = watch;
    }

    // ---- what happens ----

    fn deliver_request(&mut self, from: u32, to: u32, id: RequestId, message: &Request, is_ephemeral: bool) {
        let mut source = self.hosts[from as usize].contact.addr;
        if is_ephemeral {
            source.set_port(EPHEMERAL_PORT);
        }
        let host = &self.hosts[to as usize];
        if host.body.is_none() || host.behind_nat {
            return;
        }
        self.messages += 1;
        let message = message.message();
        let reply = self.reply(to, source, &message, !is_ephemeral);
        if let (Message::Put { key, value, ttl_s, .. }, Some(Reply::Success(_))) = (&message, &reply) {
            if !self.hosts[to as usize].lies {
                self.holders.entry(*key).or_default().push(to);
                self.note_copy(to, *key, value, *ttl_s);
            }
        }
        if let Some(reply) = reply {
            self.send(to, from, Event::Answer { from: to, to: from, id, reply });
        }
        // Most requests change no deadline; a value that was stored sets one.
        if self.drain(to) || matches!(message, Message::Put { .. }) {
            self.arm(to);
        }
    }

    /// The answer of the living host `to` to a request, checked if it is honest.
    pub(super) fn reply(
        &mut self,
        to: u32,
        source: SocketAddr,
        message: &Message<'_>,
        is_from_listener: bool,
    ) -> Option<Reply> {
        let now = self.now;
        let spare = self.lists.pop().unwrap_or_default();
        let host = &mut self.hosts[to as usize];
        if let Some(liars) = self.liars.as_mut().filter(|_| host.lies) {
            return liars.answer(source, message).and_then(|answer| reply_of(&answer, spare));
        }
        let Body { node, store } = host.body.as_deref_mut()?;
        if is_from_listener && matches!(message, Message::FindNode { .. } | Message::FindValue { .. }) {
            node.on_candidate(source, now);
        }
        if matches!(message, Message::Put { .. }) && self.options.refusals > 0.0 {
            if let Some(code) = refusal(self.options.refusals, &mut self.random) {
                return Some(Reply::Error(code.code()));
            }
        }
        let ticket = Ticket { waiter: Key::from_bits(u64::MAX), since: now };
        let mut reply = match node.on_request(source, message, (store, &mut self.sources), ticket, now) {
            Answer::Now(answer) => reply_of(&answer, spare),
            Answer::Later => None,
        };
        if let (Some(checks), Message::FindValue { key }) = (&self.checks, message) {
            match self.options.canary {
                Canary::ForgetsEarly if checks.has_forgotten(to, key, now) => reply = Some(Reply::Nodes(Vec::new())),
                canary => reply = checks.broken(to, key, canary, now).map(Reply::Value).or(reply),
            }
            match &reply {
                Some(Reply::Value(value)) => checks.served(to, key, value, now),
                _ => checks.has_none(to, key, now),
            }
        }
        reply
    }

    fn deliver_answer(&mut self, from: u32, to: u32, id: RequestId, reply: Reply) {
        let (host, now) = (&mut self.hosts[to as usize], self.now);
        let Some(body) = &mut host.body else {
            return;
        };
        self.messages += 1;
        if let Some(watch) = &mut host.watch {
            match &reply {
                Reply::Nodes(nodes) => {
                    let crowded = &self.crowded;
                    let named = nodes.iter().filter_map(|contact| host_at(crowded, contact.addr));
                    watch.answers(from, named, now);
                }
                Reply::Value(_) => watch.answers(from, [].into_iter(), now),
                Reply::Pong(_) | Reply::Success(_) | Reply::Error(_) => {}
            }
        }
        let message = match &reply {
            Reply::Pong(nonce) => Message::Pong { nonce: *nonce },
            Reply::Nodes(nodes) => Message::Node(Nodes::Contacts(nodes)),
            Reply::Value(value) => Message::Value { value },
            Reply::Success(key) => Message::Success { key: *key, value: &[] },
            Reply::Error(code) => Message::Error { code: *code, text: &[] },
        };
        body.node.on_answer(id, &message, now);
        if let Reply::Nodes(mut list) = reply {
            list.clear();
            self.lists.push(list);
        }
        self.settle(to);
    }

    fn wake(&mut self, host: u32, at: Time) {
        let woken = &mut self.hosts[host as usize];
        if woken.wake_at != Some(at) {
            return;
        }
        woken.wake_at = None;
        self.trace.note(&[at.as_ms(), 3, u64::from(host)]);
        if let Some(Body { node, store }) = woken.body.as_deref_mut() {
            if node.next_deadline() <= at {
                node.on_timeout(at);
            }
            store.expire(&mut self.sources, at);
        }
        self.settle(host);
    }

    /// Does what a host wants done, and sets its timer.
    fn settle(&mut self, number: u32) {
        self.drain(number);
        self.arm(number);
    }

    /// Does what a host wants done; returns whether there was anything.
    fn drain(&mut self, number: u32) -> bool {
        let now = self.now;
        for outputs in 0.. {
            let host = &mut self.hosts[number as usize];
            let Some(Body { node, store }) = host.body.as_deref_mut() else {
                return false;
            };
            match node.poll_output(store, &mut self.sources, now) {
                None => {
                    self.look_into(number);
                    return outputs > 0;
                }
                Some(Output::FirstCopy { .. }) => {}
                Some(Output::Done { .. }) if self.options.canary == Canary::LosesJobs => {}
                Some(Output::Done { ticket, outcome }) => {
                    let op = ticket.waiter.to_bits() as usize;
                    self.done.push(Done { op, host: number as usize, outcome, at: now });
                }
                Some(Output::Send { request, to, message, via }) => self.ask(number, request, to, message, via),
            }
        }
        true
    }

    /// Sets a host's timer.
    fn arm(&mut self, number: u32) {
        let now = self.now;
        let host = &mut self.hosts[number as usize];
        let Some(Body { node, store }) = host.body.as_deref() else {
            return;
        };
        let due = store.next_deadline().into_iter().fold(node.next_deadline(), Time::min).max(now.after(1));
        if host.wake_at.is_none_or(|at| due < at) {
            host.wake_at = Some(due);
            self.schedule.add(due, Event::Wake(number));
        }
    }

    fn ask(&mut self, from: u32, id: RequestId, to: SocketAddr, message: Request, via: Via) {
        let Some(to) = host_at(&self.crowded, to).filter(|to| (*to as usize) < self.hosts.len()) else {
            return;
        };
        if let Some(watch) = &mut self.hosts[from as usize].watch {
            match message {
                Request::FindNode(key) | Request::FindValue(key) if key == watch.target => watch.asks(to),
                Request::Put { key, .. } if key == watch.target => watch.holders.push(to),
                _ => {}
            }
        }
        let message = match message {
            Request::Put { replication, key, value, .. } if self.options.canary == Canary::ForwardsNoTtl => {
                Request::Put { ttl_s: 0, replication, key, value }
            }
            message => message,
        };
        let is_ephemeral = via == Via::Single;
        // A broken node sends the request twice, or to everybody.
        let others = match (self.options.canary, &message) {
            (Canary::AsksTwice, Request::FindValue(_)) => vec![to],
            (Canary::AsksForEver, Request::FindValue(_)) => (0..self.hosts.len() as u32).filter(|n| *n != to).collect(),
            _ => Vec::new(),
        };
        for to in std::iter::once(to).chain(others) {
            // With minted ids one host is many contacts.
            let checks = self.checks.as_mut().filter(|_| self.options.settings.ids == Ids::Bound);
            if let (Some(checks), Request::FindNode(key) | Request::FindValue(key)) = (checks, &message) {
                checks.asks(from, *key, to);
            }
            self.send(from, to, Event::Request { from, to, id, message: message.clone(), is_ephemeral });
        }
    }

    fn send(&mut self, from: u32, to: u32, event: Event) {
        if self.options.loss > 0.0 && self.random.f64() < self.options.loss {
            return;
        }
        let delay = self.options.delays.one_way_ms(self.options.seed, from as usize, to as usize);
        self.schedule.add(self.now.after(delay.max(1)), event);
    }
}

/// The number of the host that is, or was, at this address.
fn host_at(crowded: &BTreeMap<SocketAddr, u32>, addr: SocketAddr) -> Option<u32> {
    crowded.get(&addr).copied().or_else(|| number_of(addr).map(|number| number as u32))
}

/// Whether a host refuses a PUT, as it does with this chance, and how.
fn refusal(share: f64, random: &mut fastrand::Rng) -> Option<ErrorCode> {
    (random.f64() < share).then(|| if random.bool() { ErrorCode::Full } else { ErrorCode::Refused })
}

fn reply_of(answer: &Message<'_>, mut list: Vec<Contact>) -> Option<Reply> {
    match answer {
        Message::Pong { nonce } => Some(Reply::Pong(*nonce)),
        Message::Node(nodes) => {
            list.extend(nodes.iter());
            Some(Reply::Nodes(list))
        }
        Message::Value { value } | Message::ValueWithChecksum { value, .. } => Some(Reply::Value((*value).into())),
        Message::Success { key, .. } => Some(Reply::Success(*key)),
        Message::Error { code, .. } => Some(Reply::Error(*code)),
        _ => None,
    }
}
