//! The request layer (docs/protocol-hyperdht.md): matches responses to pending requests. Transaction ids, the queue
//! behind the requests in flight, timeouts, repetition, cancelling. One per socket; knows no command and reads no clock.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::contact::Contact;
use crate::dialect::hyperdht::codec::{Request, Tid};
use crate::kad::requests::{Overdue, RequestId, Requests, Timeouts};
use crate::limits::{
    DATAGRAM_REQUESTS, DATAGRAM_REQUESTS_WAITING, LONG_TIMEOUT_MS, SHORT_TIMEOUT_MIN_MS, SHORT_TIMEOUT_ROUND_TRIPS,
};
use crate::time::Time;

/// A request and its response take one round trip.
const TIMEOUTS: Timeouts = Timeouts {
    short_min_ms: SHORT_TIMEOUT_MIN_MS,
    short_round_trips: SHORT_TIMEOUT_ROUND_TRIPS,
    long_ms: LONG_TIMEOUT_MS,
};

/// Where a response must come from.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// The address that the request was sent to.
    Asked,
    /// Any port of this host. The request goes to a relay that forwards it to this host, whose NAT may give it another
    /// port towards us.
    Host(IpAddr),
}

/// A request to be made.
#[derive(Clone, Debug)]
pub struct Call<P> {
    /// The contact to ask. Its id may be a guess.
    pub contact: Contact,
    /// The request.
    pub request: Request,
    /// Where the response must come from.
    pub source: Source,
    /// It is sent once more, unchanged, when the short timeout has passed.
    pub repeats: bool,
    /// What it is for; its meaning is the caller's own.
    pub purpose: P,
}

impl<P> Call<P> {
    fn awaited_host(&self) -> IpAddr {
        match self.source {
            Source::Asked => self.contact.addr.ip(),
            Source::Host(host) => host,
        }
    }
}

/// Why a response was not taken.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Unasked {
    /// No request in flight has this transaction id.
    UnknownTid,
    /// A request that ended a short while ago had it, and this host was asked: the request was repeated and both were
    /// answered, or the response is late.
    Late,
    /// A request in flight has it, but it was sent to somebody else.
    WrongSource,
}

#[derive(Debug)]
struct Open<P> {
    id: RequestId,
    call: Call<P>,
}

/// The requests in flight, and those that wait to be sent.
#[derive(Debug)]
pub struct Session<P> {
    open: BTreeMap<Tid, Open<P>>,
    waiting: VecDeque<Call<P>>,
    timers: Requests<Tid>,
    /// Requests that are due to be sent.
    to_send: VecDeque<Tid>,
    /// The requests that ended last, and the hosts whose response they awaited.
    ended: VecDeque<(Tid, IpAddr)>,
    random: fastrand::Rng,
}

impl<P: Copy> Session<P> {
    /// A session without requests. `seed` decides its transaction ids. The other implementations count upwards, which
    /// tells each node that is asked what to forge for the next request.
    pub fn new(seed: u64) -> Session<P> {
        Session {
            open: BTreeMap::new(),
            waiting: VecDeque::new(),
            timers: Requests::new(TIMEOUTS),
            to_send: VecDeque::new(),
            ended: VecDeque::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Makes a request as soon as few enough are in flight; its timeouts count from then. Returns `false` if too many
    /// are waiting.
    pub fn ask(&mut self, call: Call<P>, now: Time) -> bool {
        if self.waiting.len() >= DATAGRAM_REQUESTS_WAITING {
            return false;
        }
        self.waiting.push_back(call);
        self.drain(now);
        true
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.open.len()
    }

    /// The next request to be sent, where to, and under which transaction id; call until `None`.
    pub fn poll_send(&mut self) -> Option<(Tid, SocketAddr, &Request)> {
        while let Some(tid) = self.to_send.pop_front() {
            if self.open.contains_key(&tid) {
                let open = &self.open[&tid];
                return Some((tid, open.call.contact.addr, &open.call.request));
            }
        }
        None
    }

    /// Handles a response from `from`. Returns the contact that was asked and the purpose of the request, or why the
    /// response is not accepted.
    pub fn answered(&mut self, tid: Tid, from: SocketAddr, now: Time) -> Result<(Contact, P), Unasked> {
        let Some(Open { call, .. }) = self.open.get(&tid) else {
            let is_late = self.ended.iter().any(|(ended, host)| *ended == tid && *host == from.ip());
            return Err(if is_late { Unasked::Late } else { Unasked::UnknownTid });
        };
        let is_asked = from == call.contact.addr;
        let is_awaited = match call.source {
            Source::Asked => is_asked,
            Source::Host(host) => from.ip() == host && !is_asked,
        };
        if !is_awaited {
            return Err(Unasked::WrongSource);
        }
        let (contact, purpose) = (call.contact, call.purpose);
        self.end(tid, true, now);
        Ok((contact, purpose))
    }

    /// Ends all requests whose purpose `is_over`, and returns how many there were.
    pub fn cancel(&mut self, is_over: impl Fn(&P) -> bool, now: Time) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(|call| !is_over(&call.purpose));
        let over: Vec<Tid> =
            self.open.iter().filter(|(_, open)| is_over(&open.call.purpose)).map(|(t, _)| *t).collect();
        let cancelled = before - self.waiting.len() + over.len();
        over.into_iter().for_each(|tid| self.end(tid, false, now));
        cancelled
    }

    /// When [`Session::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.next_deadline()
    }

    /// The requests whose response is overdue at `now`. Those that repeat are sent again.
    pub fn expire(&mut self, now: Time) -> Vec<Overdue<P>> {
        let overdue = self.timers.expire(now);
        let mut told = Vec::with_capacity(overdue.len());
        for overdue in overdue {
            match overdue {
                Overdue::Slow(contact, tid) => {
                    if let Some(Open { call, .. }) = self.open.get(&tid) {
                        told.push(Overdue::Slow(contact, call.purpose));
                        if call.repeats {
                            self.to_send.push_back(tid);
                        }
                    }
                }
                Overdue::Failed(contact, tid) => {
                    if let Some(Open { call, .. }) = self.open.remove(&tid) {
                        self.remember(tid, call.awaited_host());
                        told.push(Overdue::Failed(contact, call.purpose));
                    }
                }
            }
        }
        // Requests that wait must not stall behind those that are never answered, as they do in node.js.
        self.drain(now);
        told
    }

    fn end(&mut self, tid: Tid, answered: bool, now: Time) {
        if let Some(open) = self.open.remove(&tid) {
            self.timers.finish(open.id, answered, now);
            self.remember(tid, open.call.awaited_host());
        }
        self.drain(now);
    }

    fn remember(&mut self, tid: Tid, host: IpAddr) {
        if self.ended.len() >= DATAGRAM_REQUESTS {
            self.ended.pop_front();
        }
        self.ended.push_back((tid, host));
    }

    /// Sends requests that wait, as far as there is room.
    fn drain(&mut self, now: Time) {
        while self.open.len() < DATAGRAM_REQUESTS {
            let Some(call) = self.waiting.pop_front() else {
                return;
            };
            let tid = self.free_tid();
            let id = self.timers.start(call.contact, tid, now);
            self.open.insert(tid, Open { id, call });
            self.to_send.push_back(tid);
        }
    }

    fn free_tid(&mut self) -> Tid {
        loop {
            // There are far more ids than requests in flight, so this ends soon.
            let tid = Tid::new(self.random.u16(..));
            if !self.open.contains_key(&tid) {
                return tid;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;

    fn call(port: u16, purpose: u32) -> Call<u32> {
        let contact = Contact { id: Id::default(), addr: ([127, 0, 0, 1], port).into() };
        Call { contact, request: Request::default(), source: Source::Asked, repeats: true, purpose }
    }

    fn sent<P: Copy>(session: &mut Session<P>) -> Vec<(Tid, SocketAddr)> {
        std::iter::from_fn(|| session.poll_send().map(|(tid, to, _)| (tid, to))).collect()
    }

    #[test]
    fn an_answer_counts_from_who_was_asked_only() {
        let mut session = Session::new(1);
        assert!(session.ask(call(5, 1), Time::ZERO));
        let [(tid, to)] = sent(&mut session)[..] else { panic!() };
        let stranger = ([127, 0, 0, 1], 6).into();
        assert_eq!(session.answered(tid, stranger, Time::ZERO), Err(Unasked::WrongSource));
        let others = (0..1 << 15).map(Tid::new).filter(|other| *other != tid);
        others.for_each(|other| assert_eq!(session.answered(other, to, Time::ZERO), Err(Unasked::UnknownTid)));
        assert!(matches!(session.answered(tid, to, Time::ZERO), Ok((_, 1))));
        assert_eq!(session.answered(tid, to, Time::ZERO), Err(Unasked::Late), "once");
        assert_eq!(session.answered(tid, ([127, 0, 0, 9], 5).into(), Time::ZERO), Err(Unasked::UnknownTid));
    }

    #[test]
    fn a_punched_host_may_answer_from_any_port() {
        let mut session = Session::new(1);
        let source = Source::Host([9, 9, 9, 9].into());
        assert!(session.ask(Call { source, ..call(5, 1) }, Time::ZERO));
        let [(tid, _)] = sent(&mut session)[..] else { panic!() };
        assert_eq!(session.answered(tid, ([9, 9, 9, 8], 1).into(), Time::ZERO), Err(Unasked::WrongSource));
        assert_eq!(session.answered(tid, call(5, 1).contact.addr, Time::ZERO), Err(Unasked::WrongSource), "the relay");
        assert!(session.answered(tid, ([9, 9, 9, 9], 1).into(), Time::ZERO).is_ok());
    }

    #[test]
    fn what_waits_is_sent_when_others_time_out() {
        let mut session = Session::new(1);
        for n in 0..DATAGRAM_REQUESTS as u32 + 4 {
            assert!(session.ask(call(5, n), Time::ZERO));
        }
        assert_eq!((sent(&mut session).len(), session.in_flight()), (DATAGRAM_REQUESTS, DATAGRAM_REQUESTS));
        let slow = session.expire(Time::from_ms(LONG_TIMEOUT_MS / 2));
        assert!(slow.iter().all(|o| matches!(o, Overdue::Slow(..))) && slow.len() == DATAGRAM_REQUESTS);
        assert_eq!(sent(&mut session).len(), DATAGRAM_REQUESTS, "each once more");
        let failed = session.expire(Time::from_ms(LONG_TIMEOUT_MS + 50));
        assert_eq!((failed.len(), sent(&mut session).len(), session.in_flight()), (DATAGRAM_REQUESTS, 4, 4));
    }

    #[test]
    fn what_is_cancelled_is_neither_sent_nor_overdue() {
        let mut session = Session::new(1);
        (0..10).for_each(|n| assert!(session.ask(call(5, n), Time::ZERO)));
        session.cancel(|n| n % 2 == 0, Time::ZERO);
        assert_eq!((sent(&mut session).len(), session.in_flight()), (5, 5));
        assert_eq!(session.expire(Time::from_ms(LONG_TIMEOUT_MS + 50)).len(), 5);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut session = Session::new(1);
        let taken = (0..2 * DATAGRAM_REQUESTS_WAITING as u32).filter(|n| session.ask(call(5, *n), Time::ZERO));
        assert_eq!(taken.count(), DATAGRAM_REQUESTS + DATAGRAM_REQUESTS_WAITING);
    }
}
