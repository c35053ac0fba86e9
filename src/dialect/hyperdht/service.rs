//! All hyperdht nodes of a process, by the numbers of their listeners: each with the datagrams that it has to send and
//! the time at which it is to be woken, and the events of each operation until its owner pulls them. Decodes, encodes
//! and counts; opens no socket.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use crate::dialect::hyperdht::codec::{Body, Datagram};
use crate::dialect::hyperdht::node::{Node, Output};
use crate::dialect::hyperdht::operation::{Event, Operation};
use crate::dialect::hyperdht::outbox::Outbox;
use crate::dialect::hyperdht::serve::Handler;
use crate::dialect::{CallId, Operations, Shared};
use crate::guard::Counter;
use crate::limits::{OPERATION_EVENTS, OPERATIONS};
use crate::time::Time;

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
}

impl Service {
    /// Adds a node; returns the number of its listener. Numbers count upwards from 0.
    pub fn add(&mut self, node: Node) -> u16 {
        let due = node.next_deadline();
        self.listeners.push(Listener { node, outbox: Outbox::default(), due, is_dirty: false });
        (self.listeners.len() - 1) as u16
    }

    /// Lets every node of `addr`'s family bootstrap from the node there; whether there was one with room for it.
    pub fn add_bootstrap(&mut self, addr: SocketAddr, now: Time) -> bool {
        let mut is_taken = false;
        for listener in &mut self.listeners {
            if listener.node.overlay().own().addr.is_ipv4() == addr.is_ipv4() {
                is_taken |= listener.node.add_bootstrap(addr, now);
                listener.due = listener.node.next_deadline();
            }
        }
        is_taken
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
    pub fn on_datagram(&mut self, listener: u16, from: SocketAddr, bytes: &[u8], shared: &mut Shared, now: Time) {
        let Shared { guard, sources, .. } = shared;
        guard.count(Counter::DatagramsRead);
        let Some(Listener { node, .. }) = self.listeners.get_mut(usize::from(listener)) else {
            return;
        };
        let breach = match Datagram::decode(bytes) {
            Ok(datagram) => {
                guard.count(match datagram.body {
                    Body::Request(_) => Counter::Requests,
                    Body::Response(_) => Counter::Answers,
                });
                node.on_datagram(from, &datagram, sources, now)
            }
            Err(fault) => Some(fault.into()),
        };
        if let Some(breach) = breach {
            guard.fault(breach.into(), from, now);
        }
        self.settle(listener, shared, now);
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

    /// What [`Service::next_datagram`] returned was sent, or `failed`.
    pub fn datagram_sent(&mut self, listener: u16, failed: bool, shared: &mut Shared) {
        shared.guard.count(if failed { Counter::DatagramsUnsent } else { Counter::DatagramsSent });
        if let Some(listener) = self.listeners.get_mut(usize::from(listener)) {
            listener.outbox.drop_first();
        }
    }

    /// Appends what it has to say of itself to the status report, lines of `name value`.
    pub fn report(&self, lines: &mut Vec<String>) {
        for (number, node) in self.nodes().enumerate() {
            let overlay = node.overlay();
            let own = overlay.own();
            let texts = [("address", own.addr.to_string()), ("id", own.id.to_string())];
            lines.extend(texts.map(|(name, value)| format!("hyperdht.{number}.{name} {value}")));
            let numbers = [
                ("contacts", overlay.table().len() as u64),
                ("records", node.records().len() as u64),
                ("jobs", node.jobs() as u64),
                ("lookups", overlay.lookups_in_flight() as u64),
                ("requests_in_flight", node.requests_in_flight() as u64),
            ];
            let rows = numbers.into_iter().chain(overlay.tallies().rows());
            lines.extend(rows.map(|(name, value)| format!("hyperdht.{number}.{name} {value}")));
        }
    }

    // ---- time ----

    /// When [`Service::on_timeout`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        self.listeners.iter().map(|listener| listener.due).min()
    }

    /// Wakes the nodes that are due at `now`.
    pub fn on_timeout(&mut self, shared: &mut Shared, now: Time) {
        for number in 0..self.listeners.len() {
            let listener = &mut self.listeners[number];
            if listener.due <= now {
                listener.node.on_timeout(&mut shared.sources, now);
                self.settle(number as u16, shared, now);
            }
        }
    }

    /// Does what a node wants done, and keeps when it is to be woken.
    fn settle(&mut self, number: u16, shared: &mut Shared, now: Time) {
        let Service { listeners, dirty, calls } = self;
        let Some(Listener { node, outbox, due, is_dirty }) = listeners.get_mut(usize::from(number)) else {
            return;
        };
        while let Some(output) = node.poll_output(now) {
            match output {
                Output::Send { to, datagram } => {
                    if !outbox.push(to, &datagram) {
                        shared.guard.count(Counter::DatagramsUnsent);
                    }
                }
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

impl Operations for Service {
    type Operation = Operation;
    type Event = Event;

    /// `false` also without a listener: a datagram needs a socket to leave from.
    fn start(
        &mut self,
        listener: Option<u16>,
        call: CallId,
        operation: Operation,
        shared: &mut Shared,
        now: Time,
    ) -> bool {
        let Some(number) = listener.filter(|_| self.calls.len() < OPERATIONS) else {
            return false;
        };
        let Some(Listener { node, .. }) = self.listeners.get_mut(usize::from(number)) else {
            return false;
        };
        let is_started = node.start(call, operation, now);
        if is_started {
            self.calls.insert(call, Call { listener: number, events: VecDeque::new() });
            self.settle(number, shared, now);
        }
        is_started
    }

    /// Forgets the operation, with the events that have not been pulled.
    fn cancel(&mut self, call: CallId, now: Time) {
        let Some(Call { listener, .. }) = self.calls.remove(&call) else {
            return;
        };
        if let Some(Listener { node, due, .. }) = self.listeners.get_mut(usize::from(listener)) {
            node.cancel(call, now);
            // What else it wants done is done when it is woken.
            *due = now;
        }
    }

    /// The last one is [`Event::Done`], after which the operation is forgotten.
    fn next_event(&mut self, call: CallId) -> Option<Event> {
        let event = self.calls.get_mut(&call)?.events.pop_front()?;
        if matches!(event, Event::Done(_)) {
            self.calls.remove(&call);
        }
        Some(event)
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
        let mut shared = Shared::default();
        while let Some(from) = service.next_dirty() {
            while let Some((to, bytes)) = service.next_datagram(from) {
                let bytes = bytes.to_vec();
                service.datagram_sent(from, false, &mut shared);
                service.on_datagram(to.port().wrapping_sub(1), addr(from as u8 + 1), &bytes, &mut shared, now);
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
            assert!(service.start(Some(listener), call, operation, &mut Shared::default(), Time::ZERO));
        }
        settle(&mut service, Time::ZERO);
        for (call, at_least, from) in [(4, 2, None), (1, 1, Some(addr(3))), (3, 1, Some(addr(4))), (2, 1, None)] {
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
        assert!(service.start(Some(0), 1, Operation::Ping(addr(2)), &mut Shared::default(), Time::ZERO));
        settle(&mut service, Time::ZERO);
        assert!(service.start(Some(0), 2, Operation::Ping(addr(99)), &mut Shared::default(), Time::ZERO));
        [1, 2, 3].into_iter().for_each(|call| service.cancel(call, Time::ZERO));
        assert_eq!((service.calls.len(), service.listeners[0].node.jobs()), (0, 0));
        assert_eq!((service.next_event(1), service.next_event(2)), (None, None));
        assert!(
            !service.start(Some(7), 4, Operation::Ping(addr(2)), &mut Shared::default(), Time::ZERO),
            "there is no such listener"
        );
        assert!(service.calls.is_empty());
    }

    #[test]
    fn operations_whose_events_nobody_pulls_are_bounded_over_all_listeners() {
        let mut service = service(3);
        let mut call = 0;
        let mut start = |service: &mut Service, listener| {
            call += 1;
            let is_started =
                service.start(Some(listener), call, Operation::Ping(addr(3)), &mut Shared::default(), Time::ZERO);
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
