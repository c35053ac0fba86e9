//! Requests in flight and their two timeouts (docs/architecture.md, decision 11): past the short one a lookup asks
//! another contact as well, past the long one the contact has failed. Knows the contact and an opaque purpose of each
//! request; sends nothing and reads no clock.

use crate::arena::{Arena, Key};
use crate::contact::Contact;
use crate::time::Time;
use crate::wheel::{TimerKey, Wheel};

/// Names one request in flight. A key whose request has ended names none, so it may be kept safely.
pub type RequestId = Key;

/// How long a dialect's requests may take. What is enough for one round trip is too little for a dial with a handshake,
/// so each dialect has its own; the values stand in [`crate::limits`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// The least short timeout, in milliseconds: at most half of `long_ms`, which cuts it.
    pub short_min_ms: u64,
    /// The short timeout is this many smoothed round trips, between `short_min_ms` and half of `long_ms`.
    pub short_round_trips: u64,
    /// The long timeout, in milliseconds.
    pub long_ms: u64,
}

/// A request that is past one of its timeouts.
#[derive(Debug, PartialEq, Eq)]
pub enum Overdue<P> {
    /// Past the short timeout: ask another contact as well, but go on waiting.
    Slow(Contact, P),
    /// Past the long timeout: the contact has failed, and the request has ended.
    Failed(Contact, P),
}

/// The requests in flight of one node.
#[derive(Debug)]
pub struct Requests<P> {
    timeouts: Timeouts,
    requests: Arena<Request<P>>,
    wheel: Wheel<RequestId>,
    /// Smoothed round trip (RFC 6298's gain of 1/8), in eighths of a millisecond.
    smoothed_rtt_eighths: u64,
}

#[derive(Debug)]
struct Request<P> {
    contact: Contact,
    purpose: P,
    sent_at: Time,
    slow: bool,
    timer: TimerKey,
}

impl<P: Copy> Requests<P> {
    /// No requests yet; all that will be made have these timeouts.
    pub fn new(timeouts: Timeouts) -> Requests<P> {
        Requests { timeouts, requests: Arena::default(), wheel: Wheel::new(), smoothed_rtt_eighths: 0 }
    }

    /// Notes that a request to `contact` was sent at `now`.
    pub fn start(&mut self, contact: Contact, purpose: P, now: Time) -> RequestId {
        let timer = self.wheel.arm(now, now.after(self.short_timeout_ms()), self.requests.vacant_key());
        self.requests.insert(Request { contact, purpose, sent_at: now, slow: false, timer })
    }

    /// Ends a request that was answered or that failed before its timeout. Returns its contact and purpose, or `None`
    /// if it has ended already. The time until an answer counts into the smoothed round trip.
    pub fn finish(&mut self, id: RequestId, answered: bool, now: Time) -> Option<(Contact, P)> {
        let request = self.requests.remove(id)?;
        self.wheel.cancel(request.timer);
        if answered {
            let sample = now.since(request.sent_at) * 8;
            self.smoothed_rtt_eighths = match self.smoothed_rtt_eighths {
                0 => sample,
                smoothed => smoothed - smoothed / 8 + sample / 8,
            };
        }
        Some((request.contact, request.purpose))
    }

    /// The number of requests in flight.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether no request is in flight.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// When [`Requests::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        self.wheel.next_deadline()
    }

    /// The requests that are past one of their timeouts at `now`, each timeout once.
    pub fn expire(&mut self, now: Time) -> Vec<Overdue<P>> {
        let mut due = Vec::new();
        self.wheel.expire(now, &mut due);
        let mut overdue = Vec::with_capacity(due.len());
        for id in due {
            let Some(request) = self.requests.get_mut(id) else {
                continue;
            };
            let fails_at = request.sent_at.after(self.timeouts.long_ms);
            if !request.slow && now < fails_at {
                request.slow = true;
                overdue.push(Overdue::Slow(request.contact, request.purpose));
                request.timer = self.wheel.arm(now, fails_at, id);
            } else if let Some(request) = self.requests.remove(id) {
                overdue.push(Overdue::Failed(request.contact, request.purpose));
            }
        }
        overdue
    }

    /// A multiple of the smoothed round trip, within bounds.
    fn short_timeout_ms(&self) -> u64 {
        let Timeouts { short_min_ms, short_round_trips, long_ms } = self.timeouts;
        (self.smoothed_rtt_eighths / 8).saturating_mul(short_round_trips).max(short_min_ms).min(long_ms / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;

    /// Two round trips, at least 150 ms, and 2 s.
    const TIMEOUTS: Timeouts = Timeouts { short_min_ms: 150, short_round_trips: 2, long_ms: 2_000 };
    /// Of a dialect that shakes hands first.
    const PATIENT: Timeouts = Timeouts { short_min_ms: 1_000, short_round_trips: 3, long_ms: 10_000 };

    fn contact() -> Contact {
        Contact { id: Id::default(), addr: ([127, 0, 0, 1], 1).into() }
    }

    #[test]
    fn a_request_is_slow_first_and_failed_later() {
        let mut requests = Requests::new(TIMEOUTS);
        requests.start(contact(), 'a', Time::ZERO);
        assert!(requests.expire(Time::from_ms(149)).is_empty());
        assert_eq!(requests.expire(Time::from_ms(176)), [Overdue::Slow(contact(), 'a')]);
        assert!(requests.expire(Time::from_ms(1_999)).is_empty());
        assert_eq!(requests.expire(Time::from_ms(2_016)), [Overdue::Failed(contact(), 'a')]);
        assert!(requests.is_empty() && requests.next_deadline().is_none());
    }

    #[test]
    fn slow_round_trips_move_the_short_timeout() {
        let mut requests = Requests::new(TIMEOUTS);
        let id = requests.start(contact(), 'a', Time::ZERO);
        assert!(requests.finish(id, true, Time::from_ms(200)).is_some());
        requests.start(contact(), 'b', Time::from_ms(1_000));
        assert!(requests.expire(Time::from_ms(1_390)).is_empty(), "2 x 200 ms");
        assert_eq!(requests.expire(Time::from_ms(1_416)).len(), 1);
    }

    #[test]
    fn a_late_answer_finds_nothing() {
        let mut requests = Requests::new(TIMEOUTS);
        let id = requests.start(contact(), 'a', Time::ZERO);
        requests.expire(Time::from_ms(5_000));
        requests.start(contact(), 'b', Time::from_ms(5_000));
        assert_eq!(requests.finish(id, true, Time::from_ms(5_001)), None);
        assert_eq!(requests.len(), 1);
    }

    #[test]
    fn each_set_of_timeouts_is_kept() {
        let mut requests = Requests::new(PATIENT);
        let id = requests.start(contact(), 'a', Time::ZERO);
        assert!(requests.expire(Time::from_ms(999)).is_empty());
        assert_eq!(requests.expire(Time::from_ms(1_016)), [Overdue::Slow(contact(), 'a')]);
        assert!(requests.expire(Time::from_ms(9_999)).is_empty());
        assert!(requests.finish(id, true, Time::from_ms(9_999)).is_some());
        // The round trip that was just seen is longer than the short timeout may become.
        requests.start(contact(), 'b', Time::from_ms(20_000));
        assert!(requests.expire(Time::from_ms(24_999)).is_empty(), "half of the long one, at most");
        assert_eq!(requests.expire(Time::from_ms(25_016)), [Overdue::Slow(contact(), 'b')]);
        assert_eq!(requests.expire(Time::from_ms(30_016)), [Overdue::Failed(contact(), 'b')]);
    }

    #[test]
    fn a_short_timeout_is_so_many_round_trips() {
        for (timeouts, short_ms) in [(TIMEOUTS, 1_000), (PATIENT, 1_500)] {
            let mut requests = Requests::new(timeouts);
            let id = requests.start(contact(), 'a', Time::ZERO);
            requests.finish(id, true, Time::from_ms(500));
            requests.start(contact(), 'b', Time::from_ms(1_000));
            assert!(requests.expire(Time::from_ms(1_000 + short_ms - 1)).is_empty());
            assert_eq!(requests.expire(Time::from_ms(1_000 + short_ms + 16)), [Overdue::Slow(contact(), 'b')]);
        }
    }

    #[test]
    fn timeouts_that_contradict_each_other_end_a_request_nevertheless() {
        let mut requests = Requests::new(Timeouts { short_min_ms: 900, short_round_trips: u64::MAX, long_ms: 1_000 });
        let id = requests.start(contact(), 'a', Time::ZERO);
        assert_eq!(requests.expire(Time::from_ms(516)), [Overdue::Slow(contact(), 'a')], "half of the long one");
        requests.finish(id, true, Time::from_ms(600));
        requests.start(contact(), 'b', Time::from_ms(1_000));
        assert_eq!(requests.expire(Time::from_ms(2_016)).len(), 1);
    }
}
