//! A pretend TCP connection: bytes in two directions that arrive in order, split and merged, with windows that fill up
//! and FINs. Never knows what the bytes mean, or what is at its ends.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::time::Time;

/// One end of a wire: 0 dialled, 1 was dialled.
pub type Side = usize;

/// The state of a wire.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The dial is under way.
    Dialling,
    /// Both ends may send.
    Open,
}

/// One end of a wire.
#[derive(Debug, Default)]
pub struct End<O> {
    /// The owner of this end; `None` before it is accepted and once it is closed.
    pub owner: Option<O>,
    /// Bytes that have arrived and were not read yet.
    pub arrived: VecDeque<u8>,
    /// The number of bytes under way to this end.
    pub under_way: usize,
    /// When the last of them will arrive; nothing that is sent later arrives earlier.
    pub last_arrival: Time,
    /// The other end's FIN has arrived.
    pub fin: bool,
    /// The owner was told of that FIN.
    pub fin_told: bool,
    /// This end has sent its FIN.
    pub fin_sent: bool,
    /// The owner waits for room to write.
    pub is_full: bool,
}

/// A connection.
#[derive(Debug)]
pub struct Wire<O> {
    /// Addresses of side 0 and side 1.
    pub addrs: [SocketAddr; 2],
    /// Whether it is open.
    pub phase: Phase,
    /// Both ends.
    pub ends: [End<O>; 2],
    /// The number of bytes that may be under way or unread in one direction.
    pub window: usize,
}

impl<O> Wire<O> {
    /// A wire that `owner` is dialling.
    pub fn dialled(owner: O, from: SocketAddr, to: SocketAddr, window: usize) -> Wire<O> {
        let end = |owner| End {
            owner,
            arrived: VecDeque::new(),
            under_way: 0,
            last_arrival: Time::ZERO,
            fin: false,
            fin_told: false,
            fin_sent: false,
            is_full: false,
        };
        Wire { addrs: [from, to], phase: Phase::Dialling, ends: [end(Some(owner)), end(None)], window }
    }

    /// The number of bytes that `side` may write now.
    pub fn room(&self, side: Side) -> usize {
        let to = &self.ends[1 - side];
        if self.phase == Phase::Open { self.window.saturating_sub(to.arrived.len() + to.under_way) } else { 0 }
    }

    /// The time at which something that leaves `side` now arrives: `at`, or later if something that left earlier does.
    pub fn arrival(&mut self, side: Side, at: Time) -> Time {
        let to = &mut self.ends[1 - side];
        to.last_arrival = to.last_arrival.max(at);
        to.last_arrival
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_fills_and_order_is_kept() {
        let addr = |port| ([9, 9, 9, 9], port).into();
        let mut wire = Wire::dialled('a', addr(1), addr(2), 100);
        assert_eq!(wire.room(0), 0, "not connected yet");
        wire.phase = Phase::Open;
        wire.ends[1].under_way = 70;
        wire.ends[1].arrived.extend([0; 20]);
        assert_eq!((wire.room(0), wire.room(1)), (10, 100));
        assert_eq!(wire.arrival(0, Time::from_ms(9)), Time::from_ms(9));
        assert_eq!(wire.arrival(0, Time::from_ms(5)), Time::from_ms(9), "no overtaking");
    }
}
