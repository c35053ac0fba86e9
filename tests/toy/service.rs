//! All toy nodes of a process: who their neighbours are, what was shouted, and who waits for what.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use super::codec::{Message, Toy};
use super::sending::{Asked, Reply, Waiting};
use super::session::{Session, Unit};
use super::{Event, LARGE_MAX, NEIGHBOURS, Operation, SEEN, SEEN_MS, Settings, TEXT_MAX, WHILE_MAX_MS};
use crate::dialect::stream::{
    self, Action, Close, CloseReason, ConnId, Context, Failure, Listener, Origin, Session as _, State, To, Verdict, Via,
};
use crate::dialect::{CallId, Codec, Operations, Shared};
use crate::guard::Counter;
use crate::hash::sha256;
use crate::limits::{LISTENERS, LONG_TIMEOUT_MS, OPERATIONS};
use crate::time::Time;

/// What goes onto a connection.
#[derive(Debug)]
pub enum Outgoing {
    /// Nothing but HELLO, which every connection begins with.
    Hello,
    /// A request or a shout.
    Message(Waiting),
    /// The last word.
    Bye,
}

/// All toy nodes of a process. They share their neighbours, and what they have heard.
#[derive(Debug)]
pub struct Service {
    settings: Settings,
    /// The names of the nodes, by listener.
    names: Vec<u64>,
    random: fastrand::Rng,
    /// Connections to nodes, to which shouts are passed.
    neighbours: BTreeSet<ConnId>,
    /// Shouts that were heard, and the order in which they are to be forgotten.
    seen: BTreeSet<u64>,
    forget: VecDeque<(Time, u64)>,
    /// Operations, and how those ended whose event was not pulled yet.
    operations: BTreeMap<CallId, Option<Event>>,
    actions: VecDeque<Action<Outgoing>>,
}

impl Service {
    /// A service without nodes. `seed` decides the numbers of shouts.
    pub fn new(settings: Settings, seed: u64) -> Service {
        let (random, neighbours, seen) = (fastrand::Rng::with_seed(seed), BTreeSet::new(), BTreeSet::new());
        let (names, forget, operations, actions) = Default::default();
        Service { settings, names, random, neighbours, seen, forget, operations, actions }
    }

    /// Adds a node; returns its number, which is also its listener's. `name` must not be 0, nor another node's.
    ///
    /// Panics beyond [`LISTENERS`] nodes.
    pub fn add_node(&mut self, name: u64) -> u16 {
        assert!(self.names.len() < LISTENERS && name != 0 && !self.names.contains(&name));
        self.names.push(name);
        self.names.len() as u16 - 1
    }

    /// Takes leave of whoever is at the other end of a connection, and ends it.
    pub fn part(&mut self, conn: ConnId) {
        self.actions.push_back(Action::Send { to: To::Conn(conn), message: Outgoing::Bye });
        self.actions.push_back(Action::Close(conn));
    }

    /// Connections to nodes.
    pub fn neighbours(&self) -> impl Iterator<Item = ConnId> {
        self.neighbours.iter().copied()
    }

    /// Whether the shout of this number was heard, or is our own.
    pub fn has_heard(&self, shout: u64) -> bool {
        self.seen.contains(&shout)
    }

    /// Operations that have not ended, or whose event was not pulled yet.
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    fn name_of(&self, listener: Option<Listener>) -> u64 {
        match listener {
            Some(Listener::Toy(number)) => self.names.get(usize::from(number)).copied().unwrap_or(0),
            _ => 0,
        }
    }

    fn conclude(&mut self, call: CallId, event: Event) {
        if let Some(ended) = self.operations.get_mut(&call) {
            debug_assert!(ended.is_none(), "an operation ends once");
            *ended = Some(event);
        }
    }

    fn fail(&mut self, calls: Vec<CallId>, event: Event, shared: &mut Shared) {
        for call in calls {
            shared.guard.count(Counter::RequestsFailed);
            self.conclude(call, event);
        }
    }

    /// What could not be sent: nobody waits for a shout.
    fn refuse(&mut self, what: Waiting, why: Failure, shared: &mut Shared) {
        match what {
            Waiting::Ask(asked, ..) | Waiting::Large(asked, _) => {
                self.fail(vec![asked.call], Event::Failed(why), shared);
            }
            Waiting::Shout(..) => shared.guard.count(Counter::Busy),
        }
    }

    /// Passes a shout that is new to all neighbours but the one it came from; to how many. `None`: too much was shouted
    /// lately.
    fn flood(&mut self, id: u64, text: Arc<[u8]>, from: Option<ConnId>, now: Time) -> Option<usize> {
        if self.seen.contains(&id) {
            return Some(0);
        }
        if self.seen.len() >= SEEN {
            return None;
        }
        self.seen.insert(id);
        self.forget.push_back((now.after(SEEN_MS), id));
        let others = self.neighbours.iter().filter(|conn| Some(**conn) != from);
        let before = self.actions.len();
        self.actions.extend(others.map(|conn| Action::Send {
            to: To::Conn(*conn),
            message: Outgoing::Message(Waiting::Shout(id, text.clone())),
        }));
        Some(self.actions.len() - before)
    }

    fn on_message(
        &mut self,
        session: &mut Session,
        cx: &mut Context<'_>,
        len: usize,
        message: Message<'_>,
        now: Time,
    ) -> Verdict {
        match message {
            Message::Hello { .. } if session.is_greeted => return violation(cx, len, Counter::Malformed, now),
            Message::Hello { name } if self.names.contains(&name) => {
                cx.shared.guard.fault(Counter::SelfConnections, cx.info.peer, now);
                return Verdict::Close(Close::Now);
            }
            Message::Hello { name } => {
                session.is_greeted = true;
                if name != 0 && self.neighbours.len() < NEIGHBOURS {
                    self.neighbours.insert(cx.id);
                }
            }
            Message::Ask { id, after_ms, size } => {
                cx.shared.guard.count(Counter::Requests);
                session.sending.owe(id, Reply::Bytes(size), now.after(after_ms.into()), now);
            }
            Message::Large { id, bytes } => {
                cx.shared.guard.count(Counter::Requests);
                session.sending.owe(id, Reply::Hash(sha256(bytes)), now, now);
            }
            Message::Answer { id, bytes } => match session.sending.answered(id, bytes) {
                // It may have come too late.
                None => {
                    cx.shared.guard.count(Counter::UnaskedAnswers);
                    return Verdict::Dropped(len);
                }
                Some((call, true)) => {
                    cx.shared.guard.count(Counter::Answers);
                    self.conclude(call, Event::Answered);
                }
                Some((call, false)) => {
                    self.fail(vec![call], Event::Failed(Failure::Contact), cx.shared);
                    return violation(cx, len, Counter::WrongAnswers, now);
                }
            },
            Message::Shout { id, text } => {
                if self.flood(id, text.into(), Some(cx.id), now).is_none() {
                    cx.shared.guard.fault(Counter::Busy, cx.info.peer, now);
                    return Verdict::Dropped(len);
                }
            }
            Message::Stuffing(_) => {}
            Message::Bye => return Verdict::Close(Close::Flushed),
        }
        Verdict::Handled(len)
    }
}

fn violation(cx: &mut Context<'_>, len: usize, counter: Counter, now: Time) -> Verdict {
    cx.shared.guard.fault(counter, cx.info.peer, now);
    Verdict::Violation(len)
}

impl Operations for Service {
    type Operation = Operation;
    type Event = Event;

    fn start(&mut self, listener: Option<u16>, call: CallId, operation: Operation, _: &mut Shared, now: Time) -> bool {
        let is_known = listener.is_none_or(|number| usize::from(number) < self.names.len());
        if !is_known || self.operations.len() >= OPERATIONS {
            return false;
        }
        let via = if listener.is_some() { Via::Shared } else { Via::Single };
        let (to, message) = match operation {
            Operation::Ask { to, after_ms, size } if after_ms <= WHILE_MAX_MS => {
                (to, Waiting::Ask(Asked { call, expects: Reply::Bytes(size) }, after_ms, size))
            }
            Operation::Large { to, bytes } if bytes.len() <= LARGE_MAX => {
                (to, Waiting::Large(Asked { call, expects: Reply::Hash(sha256(&bytes)) }, bytes))
            }
            Operation::Shout(text) if text.len() <= TEXT_MAX && listener.is_some() => {
                let id = self.random.u64(..);
                let neighbours = self.flood(id, text, None, now);
                let event = neighbours.map_or(Event::Failed(Failure::Busy), |n| Event::Shouted(id, n));
                self.operations.insert(call, Some(event));
                return true;
            }
            Operation::Ask { .. } | Operation::Large { .. } | Operation::Shout(_) => return false,
        };
        self.operations.insert(call, None);
        let to = To::Peer { listener, addr: to, via };
        self.actions.push_back(Action::Send { to, message: Outgoing::Message(message) });
        true
    }

    fn cancel(&mut self, call: CallId, _: Time) {
        self.operations.remove(&call);
    }

    fn next_event(&mut self, call: CallId) -> Option<Event> {
        let event = self.operations.get_mut(&call)?.take()?;
        self.operations.remove(&call);
        Some(event)
    }
}

impl stream::Service for Service {
    type Session = Session;
    type Outgoing = Outgoing;
    const KNOWN_BY_ADDRESS: bool = false;
    const SINGLE_MS: u64 = LONG_TIMEOUT_MS + WHILE_MAX_MS as u64;

    fn accepted(&mut self, _: Listener) -> Session {
        Session::new(self.settings)
    }

    fn dialled(&mut self) -> Session {
        Session::new(self.settings)
    }

    fn on_open(&mut self, session: &mut Session, cx: &mut Context<'_>, now: Time) {
        session.open(now);
        let name = self.name_of(cx.info.listener);
        cx.request(now, |out| Toy::encode(&Message::Hello { name }, out));
    }

    fn on_bytes(&mut self, session: &mut Session, cx: &mut Context<'_>, bytes: &[u8], now: Time) -> Verdict {
        match session.read(bytes, now) {
            Unit::Incomplete => Verdict::Incomplete,
            Unit::Message(len, message) => self.on_message(session, cx, len, message, now),
            Unit::Piece(len) => Verdict::Handled(len),
            Unit::Gathered(len, id, hash) => {
                cx.shared.guard.count(Counter::Requests);
                session.sending.owe(id, Reply::Hash(hash), now, now);
                Verdict::Handled(len)
            }
            Unit::Violation(len, counter) => violation(cx, len, counter, now),
            Unit::Fatal(counter) => {
                cx.shared.guard.fault(counter, cx.info.peer, now);
                Verdict::Close(Close::Now)
            }
        }
    }

    fn send(&mut self, message: Outgoing, session: &mut Session, cx: &mut Context<'_>, now: Time) {
        match message {
            Outgoing::Hello => {}
            Outgoing::Bye if cx.info.state == State::Open => session.sending.say_bye(),
            Outgoing::Bye => {}
            Outgoing::Message(what) if !cx.info.may_ask() => self.refuse(what, Failure::Contact, cx.shared),
            Outgoing::Message(what) => match session.sending.wait(what, now) {
                Ok(()) => session.used_at = now,
                Err(what) => self.refuse(what, Failure::Busy, cx.shared),
            },
        }
    }

    fn on_unsent(&mut self, message: Outgoing, why: Failure, shared: &mut Shared, _: Time) {
        if let Outgoing::Message(what) = message {
            self.refuse(what, why, shared);
        }
    }

    fn on_writable(&mut self, session: &mut Session, cx: &mut Context<'_>, now: Time) {
        if session.sending.flush(cx, session.is_greeted, now) {
            session.used_at = now;
        }
    }

    fn on_deadline(&mut self, session: &mut Session, cx: &mut Context<'_>, now: Time) -> Option<Close> {
        if session.is_late(now) {
            cx.shared.guard.fault(Counter::SilentConnections, cx.info.peer, now);
            return Some(Close::Now);
        }
        self.fail(session.sending.expire(now), Event::TimedOut, cx.shared);
        session.sending.ripen(now);
        session.resume(now);
        let has_done = cx.info.origin == Origin::Single && !session.awaits();
        if has_done || session.is_unused(now) {
            session.sending.say_bye();
            return Some(Close::Flushed);
        }
        None
    }

    fn on_shutdown(&mut self, session: &mut Session, _: &mut Context<'_>, _: Time) {
        session.sending.say_bye();
    }

    fn on_lost(&mut self, session: &mut Session, cx: &mut Context<'_>, why: CloseReason, _: Time) {
        self.neighbours.remove(&cx.id);
        let why = if why == CloseReason::Shortage { Failure::Busy } else { Failure::Contact };
        self.fail(session.lose(), Event::Failed(why), cx.shared);
    }

    fn poll(&mut self, _: &mut Shared, _: Time) -> Option<Action<Outgoing>> {
        self.actions.pop_front()
    }

    fn next_deadline(&self) -> Option<Time> {
        self.forget.front().map(|(at, _)| *at)
    }

    fn on_timeout(&mut self, _: &mut Shared, now: Time) {
        while let Some((_, id)) = self.forget.front().copied().filter(|(at, _)| *at <= now) {
            self.forget.pop_front();
            self.seen.remove(&id);
        }
    }

    fn add_bootstrap(&mut self, addr: SocketAddr, _: Time) -> bool {
        let to = To::Peer { listener: Some(0), addr, via: Via::Shared };
        self.actions.extend((!self.names.is_empty()).then_some(Action::Send { to, message: Outgoing::Hello }));
        !self.names.is_empty()
    }

    fn report(&self, lines: &mut Vec<String>) {
        lines.push(format!("toy_neighbours {}", self.neighbours.len()));
        lines.push(format!("toy_shouts {}", self.seen.len()));
    }

    fn check_invariants(&self) {
        assert!(self.seen.len() <= SEEN && self.seen.len() == self.forget.len());
        assert!(self.operations.len() <= OPERATIONS && self.neighbours.len() <= NEIGHBOURS);
    }
}
