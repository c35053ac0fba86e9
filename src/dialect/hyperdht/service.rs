//! All hyperdht nodes of a process, by the numbers of their listeners: each with the datagrams that it has to send and
//! the time at which it is to be woken, and the events of each operation until its owner pulls them. Decodes and
//! encodes; opens no socket and counts nothing, but says what is to be counted.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use crate::dialect::CallId;
use crate::dialect::hyperdht::breach::Breach;
use crate::dialect::hyperdht::codec::{Body, Datagram};
use crate::dialect::hyperdht::node::{Node, Output};
use crate::dialect::hyperdht::operation::{Event, Operation};
use crate::dialect::hyperdht::outbox::Outbox;
use crate::dialect::hyperdht::serve::Handler;
use crate::limits::{OPERATION_EVENTS, OPERATIONS};
use crate::time::Time;

/// What kind of message a datagram carried.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A request.
    Request,
    /// An answer.
    Answer,
}

/// What is to be counted of a datagram.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
pub struct Received {
    /// Its kind; `None` if it could not be decoded.
    pub kind: Option<Kind>,
    /// What was wrong with it. A request may have been answered nevertheless.
    pub breach: Option<Breach>,
}

/// A node and what it has to send.
#[derive(Debug)]
struct Listener {
    node: Node,
    outbox: Outbox,
    /// When the node is to be woken. Kept here because there may be many, and each turn asks for the earliest.
    due: Time,
    /// It is in the list of listeners that have something to send.
    is_dirty: bool,
}

/// An operation whose last event has not been pulled.
#[derive(Debug)]
struct Call {
    listener: u16,
    events: VecDeque<Event>,
}

impl Call {
    /// Keeps an event. The last one is always kept, so that an operation is seen to end.
    fn push(&mut self, event: Event) {
        if self.events.len() < OPERATION_EVENTS || matches!(event, Event::Done(_)) {
            self.events.push_back(event);
        }
    }
}

/// All hyperdht nodes of a process, and the operations that they run.
#[derive(Debug, Default)]
pub struct Service {
    listeners: Vec<Listener>,
    /// Listeners with something to send that the driver has not been told of.
    dirty: VecDeque<u16>,
    calls: BTreeMap<CallId, Call>,
    /// Datagrams dropped for want of room since [`Service::take_unsent`] was last called.
    unsent: usize,
}

impl Service {
    /// Adds a node; returns the number of its listener. Numbers count upwards from 0.
    pub fn add(&mut self, node: Node) -> u16 {
        let due = node.next_deadline();
        self.listeners.push(Listener { node, outbox: Outbox::default(), due, is_dirty: false });
        (self.listeners.len() - 1) as u16
    }

    /// Lets every node of `addr`'s family bootstrap from the node there; logs a warning if there is none.
    pub fn add_bootstrap(&mut self, addr: SocketAddr, now: Time) {
        let mut of_family = 0;
        for listener in &mut self.listeners {
            if listener.node.overlay().own().addr.is_ipv4() == addr.is_ipv4() {
                listener.node.add_bootstrap(addr, now);
                listener.due = listener.node.next_deadline();
                of_family += 1;
            }
        }
        if of_family == 0 {
            log::warn!("bootstrap_of_another_family address={addr}");
        }
    }

    /// Lets the lookups of a node start at `addr`, without bootstrapping from it.
    pub fn add_seed(&mut self, listener: u16, addr: SocketAddr) {
        if let Some(listener) = self.listeners.get_mut(usize::from(listener)) {
            listener.node.add_seed(addr);
        }
    }

    /// Answers a user's command at a listener by `handler`; see [`Node::handle`].
    pub fn handle(&mut self, listener: u16, name: &str, handler: Handler) {
        if let Some(listener) = self.listeners.get_mut(usize::from(listener)) {
            listener.node.handle(name, handler);
        }
    }

    /// The nodes, by the numbers of their listeners.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.listeners.iter().map(|listener| &listener.node)
    }

    /// Handles a datagram from `from`.
    pub fn on_datagram(&mut self, listener: u16, from: SocketAddr, bytes: &[u8], now: Time) -> Received {
        let Some(Listener { node, .. }) = self.listeners.get_mut(usize::from(listener)) else {
            return Received::default();
        };
        let received = match Datagram::decode(bytes) {
            Ok(datagram) => {
                let kind = match datagram.body {
                    Body::Request(_) => Kind::Request,
                    Body::Response(_) => Kind::Answer,
                };
                Received { kind: Some(kind), breach: node.on_datagram(from, &datagram, now) }
            }
            Err(fault) => Received { kind: None, breach: Some(fault.into()) },
        };
        self.settle(listener, now);
        received
    }

    // ---- operations ----

    /// Starts an operation at a listener under the name `call`, which must not have been used before. Returns `false` if
    /// there is too much to do already, or no such listener.
    pub fn start(&mut self, listener: u16, call: CallId, operation: Operation, now: Time) -> bool {
        if self.calls.len() >= OPERATIONS {
            return false;
        }
        let Some(Listener { node, .. }) = self.listeners.get_mut(usize::from(listener)) else {
            return false;
        };
        let is_started = node.start(call, operation, now);
        if is_started {
            self.calls.insert(call, Call { listener, events: VecDeque::new() });
            self.settle(listener, now);
        }
        is_started
    }

    /// Ends an operation early and forgets it, with the events that have not been pulled.
    pub fn cancel(&mut self, call: CallId, now: Time) {
        let Some(Call { listener, .. }) = self.calls.remove(&call) else {
            return;
        };
        if let Some(Listener { node, .. }) = self.listeners.get_mut(usize::from(listener)) {
            node.cancel(call, now);
            self.settle(listener, now);
        }
    }

    /// The next event of this operation. The last one is [`Event::Done`], after which the operation is forgotten.
    pub fn next_event(&mut self, call: CallId) -> Option<Event> {
        let event = self.calls.get_mut(&call)?.events.pop_front()?;
        if matches!(event, Event::Done(_)) {
            self.calls.remove(&call);
        }
        Some(event)
    }

    // ---- what is to be sent ----

    /// The next listener with datagrams to send; call until `None`. It is not named again until [`Service::next_datagram`]
    /// has returned `None` or more has been queued: what its socket does not take is to be sent once the socket takes it.
    pub fn next_dirty(&mut self) -> Option<u16> {
        let number = self.dirty.pop_front()?;
        if let Some(listener) = self.listeners.get_mut(usize::from(number)) {
            listener.is_dirty = false;
        }
        Some(number)
    }

    /// The next datagram to send at a listener, and its destination; [`Service::datagram_sent`] removes it.
    pub fn next_datagram(&self, listener: u16) -> Option<(SocketAddr, &[u8])> {
        self.listeners.get(usize::from(listener))?.outbox.first()
    }

    /// What [`Service::next_datagram`] returned was sent, or could not be.
    pub fn datagram_sent(&mut self, listener: u16) {
        if let Some(listener) = self.listeners.get_mut(usize::from(listener)) {
            listener.outbox.drop_first();
        }
    }

    /// How many datagrams were dropped for want of room since the last call.
    pub fn take_unsent(&mut self) -> usize {
        std::mem::take(&mut self.unsent)
    }

    // ---- time ----

    /// When [`Service::on_timeout`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        self.listeners.iter().map(|listener| listener.due).min()
    }

    /// Wakes the nodes that are due at `now`.
    pub fn on_timeout(&mut self, now: Time) {
        for number in 0..self.listeners.len() {
            let listener = &mut self.listeners[number];
            if listener.due <= now {
                listener.node.on_timeout(now);
                self.settle(number as u16, now);
            }
        }
    }

    /// Does what a node wants done, and keeps when it is to be woken.
    fn settle(&mut self, number: u16, now: Time) {
        let Service { listeners, dirty, calls, unsent } = self;
        let Some(Listener { node, outbox, due, is_dirty }) = listeners.get_mut(usize::from(number)) else {
            return;
        };
        while let Some(output) = node.poll_output(now) {
            match output {
                Output::Send { to, datagram } => *unsent += usize::from(!outbox.push(to, &datagram)),
                Output::Event { ticket, event } => {
                    if let Some(call) = calls.get_mut(&ticket) {
                        call.push(event);
                    }
                }
            }
        }
        *due = node.next_deadline();
        if !outbox.is_empty() && !std::mem::replace(is_dirty, true) {
            dirty.push_back(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::hyperdht::identity::Identity;
    use crate::dialect::hyperdht::operation::{Advertisement, Answer, Outcome};
    use crate::dialect::hyperdht::settings::Settings;
    use crate::id::Id;
    use crate::limits::JOBS;

    fn addr(n: u8) -> SocketAddr {
        ([127, 0, 0, 1], u16::from(n)).into()
    }

    /// Nodes 0 to `n` - 1, where node `i` listens on port `i` + 1.
    fn service(n: u8) -> Service {
        let mut service = Service::default();
        for n in 1..=n {
            let identity = Identity { id: Id([n; 32]), addr: addr(n), is_ephemeral: false };
            let node = Node::new(identity, Settings::default(), [[n; 32]; 2], u64::from(n), Time::ZERO);
            assert_eq!(service.add(node), u16::from(n) - 1);
        }
        service
    }

    /// Carries datagrams between the nodes until none is left.
    fn settle(service: &mut Service, now: Time) {
        while let Some(from) = service.next_dirty() {
            while let Some((to, bytes)) = service.next_datagram(from) {
                let bytes = bytes.to_vec();
                service.datagram_sent(from);
                service.on_datagram(to.port().wrapping_sub(1), addr(from as u8 + 1), &bytes, now);
            }
        }
    }

    fn events(service: &mut Service, call: CallId) -> Vec<Event> {
        std::iter::from_fn(|| service.next_event(call)).collect()
    }

    #[test]
    fn each_of_several_operations_at_once_gets_its_own_events_and_all_of_them() {
        let mut service = service(4);
        let lookup = Operation::Lookup(Id([9; 32]), Advertisement::default());
        (1..3).for_each(|listener| service.add_seed(listener, addr(1)));
        for (call, listener, operation) in
            [(1, 1, Operation::Ping(addr(3))), (2, 1, lookup.clone()), (3, 2, Operation::Ping(addr(4))), (4, 2, lookup)]
        {
            assert!(service.start(listener, call, operation, Time::ZERO));
        }
        settle(&mut service, Time::ZERO);
        for (call, at_least, from) in [(4, 2, None), (1, 1, Some(addr(3))), (3, 1, Some(addr(4))), (2, 2, None)] {
            let events = events(&mut service, call);
            let Some((Event::Done(outcome), before)) = events.split_last() else { panic!("{call}: {events:?}") };
            assert_eq!(*outcome, Outcome::Done { answers: before.len(), commits: 0 }, "{call}");
            let is_its = |event: &Event| matches!(event, Event::Answer(a) if from.is_none_or(|from| a.addr == from));
            assert!(before.len() >= at_least && before.iter().all(is_its), "{call}: {before:?}");
        }
        assert!(service.calls.is_empty(), "an operation whose events were all pulled is forgotten");
        assert_eq!(service.next_event(1), None);
    }

    #[test]
    fn a_cancelled_operation_is_forgotten_whether_it_is_over_or_not() {
        let mut service = service(2);
        assert!(service.start(0, 1, Operation::Ping(addr(2)), Time::ZERO));
        settle(&mut service, Time::ZERO);
        assert!(service.start(0, 2, Operation::Ping(addr(99)), Time::ZERO));
        [1, 2, 3].into_iter().for_each(|call| service.cancel(call, Time::ZERO));
        assert_eq!((service.calls.len(), service.listeners[0].node.jobs()), (0, 0));
        assert_eq!((service.next_event(1), service.next_event(2)), (None, None));
        assert!(!service.start(7, 4, Operation::Ping(addr(2)), Time::ZERO), "there is no such listener");
        assert!(service.calls.is_empty());
    }

    #[test]
    fn operations_whose_events_nobody_pulls_are_bounded_over_all_listeners() {
        let mut service = service(3);
        let mut call = 0;
        let mut start = |service: &mut Service, listener| {
            call += 1;
            let is_started = service.start(listener, call, Operation::Ping(addr(3)), Time::ZERO);
            settle(service, Time::ZERO);
            is_started
        };
        let started = (0..2 * JOBS as u16).filter(|n| start(&mut service, n % 2)).count();
        assert_eq!(started, OPERATIONS);
        assert!(service.nodes().all(|node| node.jobs() == 0), "they are all over");
        assert_eq!(events(&mut service, 1).len(), 2);
        assert!(start(&mut service, 1) && !start(&mut service, 1), "room for one more");
    }

    #[test]
    fn an_operation_keeps_a_bounded_number_of_answers_and_its_end() {
        let mut call = Call { listener: 0, events: VecDeque::new() };
        let answer = Answer {
            id: None,
            addr: addr(1),
            nodes: Vec::new(),
            value: None,
            peers: Vec::new(),
            local_peers: Vec::new(),
        };
        (0..2 * OPERATION_EVENTS).for_each(|_| call.push(Event::Answer(answer.clone())));
        call.push(Event::Done(Outcome::NobodyNear));
        assert_eq!(call.events.len(), OPERATION_EVENTS + 1);
        assert_eq!(call.events.back(), Some(&Event::Done(Outcome::NobodyNear)));
    }
}
