//! The datagrams that wait to be sent at one listener, one after the other in one buffer. Bounded in bytes; never sends
//! anything itself.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::dialect::hyperdht::codec::Datagram;
use crate::limits::{ANSWER_BYTES, DATAGRAM_OUTBOX_BYTES, DATAGRAM_OUTBOX_KEPT_BYTES};

/// A queue of encoded datagrams.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Where the first datagram begins; the bytes before it have been sent.
    start: usize,
    /// The destination and the length of each datagram.
    waiting: VecDeque<(SocketAddr, usize)>,
}

impl Outbox {
    /// Appends a datagram. Returns `false`, and drops it, if [`DATAGRAM_OUTBOX_BYTES`] are waiting already.
    pub fn push(&mut self, to: SocketAddr, datagram: &Datagram) -> bool {
        if self.waiting_bytes() >= DATAGRAM_OUTBOX_BYTES {
            return false;
        }
        let before = self.bytes.len();
        datagram.encode(&mut self.bytes);
        self.waiting.push_back((to, self.bytes.len() - before));
        true
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The first datagram and its destination.
    pub fn first(&self) -> Option<(SocketAddr, &[u8])> {
        let (to, len) = *self.waiting.front()?;
        Some((to, &self.bytes[self.start..self.start + len]))
    }

    /// Removes the first datagram; does nothing if there is none.
    pub fn drop_first(&mut self) {
        let Some((_, len)) = self.waiting.pop_front() else {
            return;
        };
        self.start += len;
        if self.waiting.is_empty() {
            // The memory that a burst needed is given back.
            self.bytes.clear();
            self.bytes.shrink_to(DATAGRAM_OUTBOX_KEPT_BYTES);
            self.waiting.shrink_to(DATAGRAM_OUTBOX_KEPT_BYTES / ANSWER_BYTES);
            self.start = 0;
        } else if self.start >= self.waiting_bytes() {
            // What moves is no longer than what was sent since the last move, so each byte sent pays for one moved.
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Bytes of the datagrams that have not been sent.
    fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::hyperdht::codec::{Body, Response, Tid};
    use crate::limits::DATAGRAM_BYTES;

    fn datagram(number: u16, len: usize) -> Datagram {
        let response = Response { value: Some(vec![number as u8; len]), ..Response::default() };
        Datagram { tid: Tid::new(number), body: Body::Response(response) }
    }

    fn to(number: u16) -> SocketAddr {
        ([127, 0, 0, 1], number).into()
    }

    /// Regression: bytes already sent counted as waiting, so a listener that was never quite idle refused everything
    /// once 1 MiB had passed through.
    #[test]
    fn an_outbox_that_is_never_empty_refuses_nothing_and_stays_small() {
        let mut outbox = Outbox::default();
        assert!(outbox.push(to(0), &datagram(0, 900)));
        let (mut passed, mut next) = (0, 1_u16);
        while passed < 4 * DATAGRAM_OUTBOX_BYTES {
            // A few wait, then most of them are sent; now and then more, so that the first one begins anywhere.
            for _ in 0..1 + next % 7 {
                assert!(outbox.push(to(next % 1_000), &datagram(next % 1_000, usize::from(next % 900))), "{passed}");
                next = next.wrapping_add(1);
            }
            while outbox.waiting.len() > 1 {
                passed += outbox.first().map_or(0, |(_, bytes)| bytes.len());
                outbox.drop_first();
            }
            assert!(outbox.bytes.len() <= 16 * ANSWER_BYTES, "{} bytes after {passed}", outbox.bytes.len());
        }
        assert!(outbox.bytes.capacity() <= 32 * ANSWER_BYTES, "{}", outbox.bytes.capacity());
    }

    #[test]
    fn what_was_pushed_comes_out_in_order_and_whole() {
        let mut outbox = Outbox::default();
        let (mut pushed, mut taken) = (0_u16, 0_u16);
        let mut random = fastrand::Rng::with_seed(3);
        while taken < 5_000 {
            if random.bool() {
                assert!(outbox.push(to(pushed), &datagram(pushed, usize::from(pushed % 50))));
                pushed += 1;
            } else if let Some((addr, bytes)) = outbox.first() {
                assert_eq!((addr, Datagram::decode(bytes)), (to(taken), Ok(datagram(taken, usize::from(taken % 50)))));
                outbox.drop_first();
                taken += 1;
            }
            assert_eq!(outbox.is_empty(), pushed == taken);
        }
    }

    #[test]
    fn a_full_outbox_refuses_until_something_is_sent_and_gives_its_memory_back() {
        let mut outbox = Outbox::default();
        let fill = |outbox: &mut Outbox| (0..10_000).take_while(|n| outbox.push(to(*n), &datagram(*n, 1_000))).count();
        let taken = fill(&mut outbox);
        assert!(outbox.waiting_bytes() < DATAGRAM_OUTBOX_BYTES + DATAGRAM_BYTES);
        assert!((taken - 1) * 1_000 < DATAGRAM_OUTBOX_BYTES && !outbox.push(to(1), &datagram(1, 1)));
        for _ in 0..10 {
            outbox.drop_first();
        }
        assert!((9..=11).contains(&fill(&mut outbox)), "as much as was sent");
        while !outbox.is_empty() {
            outbox.drop_first();
        }
        assert!(outbox.bytes.capacity() <= DATAGRAM_OUTBOX_KEPT_BYTES);
    }
}
