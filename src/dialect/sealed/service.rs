//! All nodes of the sealed dialect in one process. Passes messages between sessions and nodes: frames from an inbox to
//! a node, answers into an outbox, the outcomes of jobs to the peers that wait for them, and our requests to other
//! nodes. Never sees more than one connection at a time. `serve.rs` serves the requests of peers.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::arena::Arena;
#[cfg(feature = "sim")]
use crate::contact::Contact;
use crate::dialect::sealed::codec::{ErrorCode, Message, Sealed};
use crate::dialect::sealed::job::{Outcome, Put, Ticket};
use crate::dialect::sealed::node::{Answer, Node, Output as NodeOutput};
use crate::dialect::sealed::operation::{Operation, Reply};
use crate::dialect::sealed::session::{Parsed, PendingRequest, Place, Session, Wire};
use crate::dialect::sealed::settings::ServiceSettings;
use crate::dialect::sealed::store::Store;
use crate::dialect::stream::{
    self, Action, Close, CloseReason, ConnId, Context, Failure, Listener, State, To, Verdict, Via,
};
use crate::dialect::{CallId, Codec, Operations, Shared};
use crate::guard::Counter;
use crate::id::Id;
use crate::kad::requests::RequestId;
use crate::limits::{JOB_WORK, JOBS, LISTENERS, LONG_TIMEOUT_MS, NODE_ENTRIES_STRIKE, OPERATIONS, TOLD_PER_JOB};
use crate::sources::Sources;
use crate::time::Time;

/// Who gets the answer to one of our requests.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Requester {
    /// The node with this number, for this request of it.
    Node(u16, RequestId),
    /// An operation of a local user.
    Operation(CallId),
}

/// What the service sends on a connection.
#[derive(Debug)]
pub enum Outgoing {
    /// A request.
    Request(PendingRequest<Requester>),
    /// The outcome of a job, which answers the request at `place`.
    Outcome {
        /// The place of the request among those of its connection.
        place: Place,
        /// The key of the request.
        key: Id,
        /// How the job ended.
        outcome: Outcome,
    },
    /// The value that the job at this place writes can be read from now on.
    Unblock(Place),
    /// A job has ended, so a request that waits for room may perhaps start.
    Turn,
}

/// Who waits for the outcome of a job.
#[derive(Copy, Clone, Debug)]
pub(super) enum Waiter {
    /// A peer, for the answer at this place of its connection.
    Peer { conn: ConnId, place: Place, key: Id, source: IpAddr },
    /// An operation of a local user.
    Operation(CallId),
}

impl Waiter {
    /// The address that the job is charged to.
    fn source(&self) -> IpAddr {
        match self {
            Waiter::Peer { source, .. } => *source,
            Waiter::Operation(_) => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

/// The nodes of this dialect, their common store, and who waits for which job.
#[derive(Debug)]
pub struct Service {
    pub(super) settings: ServiceSettings,
    pub(super) nodes: Vec<Node>,
    pub(super) store: Store,
    /// Who waits for the outcome of each job, by the job's ticket.
    pub(super) waiters: Arena<Waiter>,
    actions: VecDeque<Action<Outgoing>>,
    /// Connections with requests that wait for a job to end, in the order of their turns.
    pub(super) queue: VecDeque<ConnId>,
    /// Operations that have not ended (`None`), and replies that have not been pulled. Sorted, because each operation
    /// has a higher name than those before it.
    operations: Vec<(CallId, Option<Reply>)>,
    /// The nodes that changed since they were last polled, a bit each.
    changed_nodes: u64,
    /// The next deadline of the nodes and the store. Cached, because each turn of the loop asks for it; only valid
    /// while no node has changed.
    cached_deadline: Option<Time>,
}

const _: () = assert!(LISTENERS <= u64::BITS as usize, "a bit for each node");

impl Service {
    /// A service without nodes. `seed` must be secret, so that nobody can choose keys that collide in the store's
    /// index.
    pub fn new(settings: ServiceSettings, seed: u64) -> Service {
        Service {
            settings,
            nodes: Vec::new(),
            store: Store::new(settings.store, seed),
            waiters: Arena::default(),
            actions: VecDeque::new(),
            queue: VecDeque::new(),
            operations: Vec::new(),
            changed_nodes: 0,
            cached_deadline: None,
        }
    }

    /// Adds a node that other nodes reach at `addr`. Returns its number, which is also the number of its listener.
    /// `seed` determines the node's random choices.
    ///
    /// Panics if there are already [`LISTENERS`] nodes.
    pub fn add_node(&mut self, addr: SocketAddr, seed: u64, now: Time) -> u16 {
        assert!(self.nodes.len() < LISTENERS, "at most {LISTENERS} listeners");
        let number = self.nodes.len() as u16;
        self.nodes.push(Node::new(addr, self.settings.node, seed, now));
        self.mark_changed(number);
        number
    }

    /// Gives a node a past, as if it had heard from `contacts` and other nodes had named it.
    #[cfg(feature = "sim")]
    pub fn remember(&mut self, node: u16, contacts: &[Contact], now: Time) {
        self.nodes[usize::from(node)].remember(contacts, now);
        self.mark_changed(node);
    }

    /// The nodes, indexed by their numbers.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The store that the nodes share.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Operations that have not ended, or whose reply has not been pulled.
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    /// A node or its part of the store has changed, so it may have outputs or an earlier deadline.
    pub(super) fn mark_changed(&mut self, node: u16) {
        self.changed_nodes |= 1 << node;
    }

    fn fail_request(&mut self, requester: Requester, why: Failure, shared: &mut Shared, now: Time) {
        shared.guard.count(Counter::RequestsFailed);
        match requester {
            Requester::Node(node, request) => {
                self.nodes[usize::from(node)].on_failure(request, why, now);
                self.mark_changed(node);
            }
            Requester::Operation(call) => self.end_operation(call, Reply::Unreachable),
        }
    }

    /// An operation has ended. Does nothing if it was cancelled.
    fn end_operation(&mut self, call: CallId, reply: Reply) {
        if let Some(at) = self.find(call) {
            debug_assert!(self.operations[at].1.is_none(), "an operation ends once");
            self.operations[at].1 = Some(reply);
        }
    }

    fn find(&self, call: CallId) -> Option<usize> {
        self.operations.binary_search_by_key(&call, |(name, _)| *name).ok()
    }

    fn on_answer(
        &mut self,
        cx: &mut Context<'_>,
        len: usize,
        requester: Requester,
        message: &Message<'_>,
        now: Time,
    ) -> Verdict {
        cx.shared.guard.count(Counter::Answers);
        match requester {
            Requester::Node(node, request) => {
                self.nodes[usize::from(node)].on_answer(request, message, now);
                self.mark_changed(node);
            }
            Requester::Operation(call) => self.end_operation(call, Reply::of(message).unwrap_or(Reply::Unreachable)),
        }
        if matches!(message, Message::Node(nodes) if nodes.iter().nth(NODE_ENTRIES_STRIKE).is_some()) {
            cx.shared.guard.fault(Counter::LongLists, cx.info.peer, now);
            return Verdict::Violation(len);
        }
        Verdict::Handled(len)
    }

    fn action_of(
        &mut self,
        node: u16,
        output: NodeOutput,
        sources: &mut Sources,
        now: Time,
    ) -> Option<Action<Outgoing>> {
        let (conn, message) = match output {
            NodeOutput::FirstCopy { ticket } => match *self.waiters.get(ticket.waiter)? {
                Waiter::Peer { conn, place, .. } => (conn, Outgoing::Unblock(place)),
                Waiter::Operation(_) => return None,
            },
            NodeOutput::Done { ticket, outcome } => {
                let waiter = self.waiters.remove(ticket.waiter)?;
                self.release_job(&waiter, sources);
                match waiter {
                    Waiter::Peer { conn, place, key, .. } => (conn, Outgoing::Outcome { place, key, outcome }),
                    Waiter::Operation(call) => {
                        self.end_operation(call, Reply::of_job(outcome));
                        return None;
                    }
                }
            }
            NodeOutput::Send { request, to, message, via } => {
                let requester = Requester::Node(node, request);
                return Some(send_request(Some(node), to, via, PendingRequest::new(requester, message, now)));
            }
        };
        Some(Action::Send { to: To::Conn(conn), message })
    }

    /// Starts a PUT of one of our nodes for a local user. Returns `false` if too many jobs are in progress.
    fn start_put(&mut self, node: u16, call: CallId, put: Put<'_>, sources: &mut Sources, now: Time) -> bool {
        let reply = if self.store.admits(put.value) {
            let ticket = Ticket { waiter: self.waiters.vacant_key(), since: now };
            if !self.nodes[usize::from(node)].start_put(put, ticket, now) {
                return false;
            }
            None
        } else {
            Some(Reply::of_error(ErrorCode::TooLarge))
        };
        self.add_operation(node, call, reply, sources);
        true
    }

    /// Starts a GET of one of our nodes for a local user.
    fn start_get(&mut self, node: u16, call: CallId, key: Id, sources: &mut Sources, now: Time) {
        let ticket = Ticket { waiter: self.waiters.vacant_key(), since: now };
        let own = &mut self.nodes[usize::from(node)];
        let addr = own.overlay().own().addr;
        let reply = match own.on_request(addr, &Message::Get { key }, (&mut self.store, sources), ticket, now) {
            Answer::Now(message) => Some(Reply::of(&message).unwrap_or(Reply::Unreachable)),
            Answer::Later => None,
        };
        self.add_operation(node, call, reply, sources);
    }

    /// Adds an operation that has ended with `reply`, or (`None`) that waits for the job just started.
    fn add_operation(&mut self, node: u16, call: CallId, reply: Option<Reply>, sources: &mut Sources) {
        if reply.is_none() {
            self.add_job(Waiter::Operation(call), sources);
        }
        self.operations.push((call, reply));
        self.mark_changed(node);
    }

    // ---- room for jobs ----

    /// Whether another job may start for `source`.
    pub(super) fn has_room_for_job(&self, source: IpAddr, sources: &Sources) -> bool {
        let free = (JOBS as u64).saturating_sub(self.waiters.len() as u64);
        sources.jobs.admits(sources.of(source), 1, free)
    }

    /// A job has started, for which `waiter` waits.
    pub(super) fn add_job(&mut self, waiter: Waiter, sources: &mut Sources) {
        let source = sources.of(waiter.source());
        sources.jobs.charge(source, 1);
        sources.turn.add(JOB_WORK);
        self.waiters.insert(waiter);
    }

    /// The job for which `waiter` waited has ended: there is room for those of others.
    fn release_job(&mut self, waiter: &Waiter, sources: &mut Sources) {
        let source = sources.of(waiter.source());
        sources.jobs.release(source, 1);
        self.tell_queue(TOLD_PER_JOB);
    }

    /// Tells the next `n` connections of the queue that there may be room for their requests.
    fn tell_queue(&mut self, n: usize) {
        for id in (0..n).map_while(|_| self.queue.pop_front()) {
            self.actions.push_back(Action::Send { to: To::Conn(id), message: Outgoing::Turn });
        }
    }

    fn first_deadline(&self) -> Option<Time> {
        self.nodes.iter().map(Node::next_deadline).chain(self.store.next_deadline()).min()
    }
}

impl Operations for Service {
    type Operation = Operation;
    type Event = Reply;

    fn start(
        &mut self,
        listener: Option<u16>,
        call: CallId,
        operation: Operation,
        shared: &mut Shared,
        now: Time,
    ) -> bool {
        let is_known = listener.is_none_or(|node| usize::from(node) < self.nodes.len());
        if !is_known || self.operations.len() >= OPERATIONS {
            return false;
        }
        match (operation, listener) {
            (Operation::Ask { to, request }, listener) => {
                self.operations.push((call, None));
                let via = if listener.is_some() { Via::Shared } else { Via::Single };
                let pending = PendingRequest::new(Requester::Operation(call), request, now);
                self.actions.push_back(send_request(listener, to, via, pending));
                true
            }
            (Operation::Put { key, value, ttl_s, replication }, Some(node)) => {
                // Values of local users are charged to loopback, which the store does not limit.
                let source = Ipv4Addr::LOCALHOST.into();
                let put = Put { key, value: &value, ttl_s, replication, source };
                self.start_put(node, call, put, &mut shared.sources, now)
            }
            (Operation::Get { key }, Some(node)) => {
                self.start_get(node, call, key, &mut shared.sources, now);
                true
            }
            (Operation::Put { .. } | Operation::Get { .. }, None) => false,
        }
    }

    fn cancel(&mut self, call: CallId, _: Time) {
        self.find(call).map(|at| self.operations.remove(at));
    }

    fn next_event(&mut self, call: CallId) -> Option<Reply> {
        let at = self.find(call).filter(|at| self.operations[*at].1.is_some())?;
        self.operations.remove(at).1
    }
}

impl stream::Service for Service {
    type Session = Session<Requester>;
    type Outgoing = Outgoing;
    const KNOWN_BY_ADDRESS: bool = true;
    const SINGLE_MS: u64 = LONG_TIMEOUT_MS;

    fn accepted(&mut self, listener: Listener) -> Session<Requester> {
        Session::new(if matches!(listener, Listener::Api(_)) { Wire::Api } else { Wire::Sealed })
    }

    fn dialled(&mut self) -> Session<Requester> {
        Session::new(Wire::Sealed)
    }

    fn refusal(listener: Listener) -> Vec<u8> {
        let mut frame = Vec::new();
        if !matches!(listener, Listener::Api(_)) {
            Sealed::encode(&ErrorCode::Busy.message(), &mut frame);
        }
        frame
    }

    fn on_bytes(&mut self, session: &mut Session<Requester>, cx: &mut Context<'_>, bytes: &[u8], now: Time) -> Verdict {
        let (len, breach, code) = match session.read(bytes) {
            Parsed::Incomplete => return Verdict::Incomplete,
            Parsed::Request { len, message } => return self.on_request(session, cx, &bytes[..len], &message, now),
            Parsed::Answer { len, request, message } => {
                return self.on_answer(cx, len, request.requester, &message, now);
            }
            Parsed::Dropped { len, breach } => {
                cx.shared.guard.fault(breach.into(), cx.info.peer, now);
                return Verdict::Dropped(len);
            }
            Parsed::Violation { len, breach, code } => (Some(len), breach, Some(code)),
            Parsed::Fatal { breach, code } => (None, breach, code),
        };
        cx.shared.guard.fault(Counter::from(breach), cx.info.peer, now);
        if let Some(code) = code {
            cx.answer(now, |out| session.answer(&code.message(), out));
        }
        match (len, code) {
            (Some(len), _) => Verdict::Violation(len),
            (None, Some(_)) => Verdict::Close(Close::Flushed),
            (None, None) => Verdict::Close(Close::Now),
        }
    }

    fn send(&mut self, message: Outgoing, session: &mut Session<Requester>, cx: &mut Context<'_>, now: Time) {
        match message {
            Outgoing::Request(pending) if cx.info.may_ask() && session.may_ask() => {
                let pending = PendingRequest { on_reused: cx.info.state == State::Open, ..pending };
                cx.request(now, |out| session.ask(pending, out));
            }
            Outgoing::Request(pending) => self.fail_request(pending.requester, Failure::Busy, cx.shared, now),
            Outgoing::Outcome { place, key, outcome } => {
                Service::settle_outcome(session, cx, place, key, &outcome, now)
            }
            Outgoing::Unblock(place) => session.unblock(place),
            // The engine lets the session start what it can.
            Outgoing::Turn => session.is_queued = false,
        }
    }

    fn on_unsent(&mut self, message: Outgoing, why: Failure, shared: &mut Shared, now: Time) {
        match message {
            Outgoing::Request(pending) => self.fail_request(pending.requester, why, shared, now),
            // The peer that waited for this is gone.
            Outgoing::Outcome { .. } | Outgoing::Unblock(_) => {}
            Outgoing::Turn => self.tell_queue(1),
        }
    }

    fn on_writable(&mut self, session: &mut Session<Requester>, cx: &mut Context<'_>, now: Time) {
        self.start_deferred(session, cx, now);
    }

    /// One of our requests has stalled.
    fn on_deadline(&mut self, _: &mut Session<Requester>, cx: &mut Context<'_>, now: Time) -> Option<Close> {
        cx.shared.guard.fault(Counter::SlowReaders, cx.info.peer, now);
        Some(Close::Now)
    }

    /// The pending requests get no answer on this connection. If it had been in use before, its death says nothing
    /// about the contact, so the request is sent once more on a fresh connection. All other requests have failed.
    fn on_lost(&mut self, session: &mut Session<Requester>, cx: &mut Context<'_>, why: CloseReason, now: Time) {
        let node = node_of(cx.info.listener);
        for pending in session.take_pending() {
            let is_worth_it = pending.on_reused && node.is_some() && now.since(pending.at) < LONG_TIMEOUT_MS;
            let via = match why {
                CloseReason::Superseded => Via::Shared,
                CloseReason::Died if is_worth_it => {
                    cx.shared.guard.count(Counter::RequestsResent);
                    Via::Fresh
                }
                CloseReason::Shortage => {
                    self.fail_request(pending.requester, Failure::Busy, cx.shared, now);
                    continue;
                }
                CloseReason::Died | CloseReason::Failed | CloseReason::Closed => {
                    self.fail_request(pending.requester, Failure::Contact, cx.shared, now);
                    continue;
                }
            };
            self.actions.push_back(send_request(node, cx.info.peer, via, pending));
        }
    }

    fn poll(&mut self, shared: &mut Shared, now: Time) -> Option<Action<Outgoing>> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if self.changed_nodes == 0 {
            return None;
        }
        while self.changed_nodes != 0 {
            let number = self.changed_nodes.trailing_zeros() as u16;
            while let Some(output) =
                self.nodes[usize::from(number)].poll_output(&mut self.store, &mut shared.sources, now)
            {
                if let Some(action) = self.action_of(number, output, &mut shared.sources, now) {
                    return Some(action);
                }
            }
            self.changed_nodes &= self.changed_nodes - 1;
        }
        self.cached_deadline = self.first_deadline();
        None
    }

    fn next_deadline(&self) -> Option<Time> {
        if self.changed_nodes == 0 { self.cached_deadline } else { self.first_deadline() }
    }

    fn on_timeout(&mut self, shared: &mut Shared, now: Time) {
        self.store.expire(&mut shared.sources, now);
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            if node.next_deadline() <= now {
                node.on_timeout(now);
                self.mark_changed(number as u16);
            }
        }
        if self.changed_nodes == 0 {
            self.cached_deadline = self.first_deadline();
        }
    }

    fn add_bootstrap(&mut self, addr: SocketAddr, now: Time) -> bool {
        let mut has_taken = false;
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            if node.overlay().own().addr.is_ipv4() == addr.is_ipv4() {
                has_taken |= node.add_bootstrap(addr, now);
                self.mark_changed(number as u16);
            }
        }
        has_taken
    }

    fn report(&self, lines: &mut Vec<String>) {
        let overlays = || self.nodes.iter().map(|node| node.overlay());
        let total = |name: &str, value: u64| format!("{name} {value}");
        lines.push(total("contacts", overlays().map(|o| o.table().len() as u64).sum()));
        lines.push(total("lookups", overlays().map(|o| o.lookups_in_flight() as u64).sum()));
        lines.push(total("jobs", self.nodes.iter().map(|node| node.jobs() as u64).sum()));
        lines.push(total("store_entries", self.store.len() as u64));
        lines.push(total("store_bytes", self.store.bytes() as u64));
        lines.push(total("id_mismatches", self.nodes.iter().map(Node::id_mismatches).sum()));
        let mut tallies = crate::kad::overlay::Tallies::default();
        overlays().for_each(|overlay| tallies.add(&overlay.tallies()));
        lines.extend(tallies.rows().map(|(name, value)| total(name, value)));
        for (number, overlay) in overlays().enumerate() {
            let own = overlay.own();
            lines.push(format!("node.{number}.address {}", own.addr));
            lines.push(format!("node.{number}.id {}", own.id));
            lines.push(format!("node.{number}.contacts {}", overlay.table().len()));
        }
    }

    fn check_invariants(&self) {
        self.store.check_invariants();
        self.nodes.iter().for_each(|node| node.overlay().table().check_invariants());
        assert_eq!(self.waiters.len(), self.nodes.iter().map(Node::jobs).sum::<usize>(), "somebody waits for each job");
        if self.changed_nodes == 0 {
            assert_eq!(self.cached_deadline, self.first_deadline(), "the cached deadline is the first");
        }
    }
}

/// The number of the node that a listener of this dialect serves.
pub(super) fn node_of(listener: Option<Listener>) -> Option<u16> {
    match listener? {
        Listener::Sealed(node) | Listener::Api(node) => Some(node),
        #[allow(unreachable_patterns, reason = "a build may speak one dialect only")]
        _ => None,
    }
}

/// The action that sends a request to `to` from node `from`, or as a client if there is none.
fn send_request(from: Option<u16>, to: SocketAddr, via: Via, pending: PendingRequest<Requester>) -> Action<Outgoing> {
    Action::Send { to: To::Peer { listener: from, addr: to, via }, message: Outgoing::Request(pending) }
}
