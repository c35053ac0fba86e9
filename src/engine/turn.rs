//! Input from peers: handles the units of an inbox, one turn's share at a time, and counts strikes for invalid ones.
//! Part of the engine; knows nothing about their meaning.

use crate::dialect::Shared;
use crate::dialect::stream::{Close, CloseReason, ConnId, Origin, Verdict};
use crate::engine::Engine;
use crate::engine::conn::Conn;
use crate::engine::dialects::Services;
use crate::guard::Counter;
use crate::limits::{MESSAGE_WORK, TURN_WORK};
use crate::time::Time;
use crate::wheel::Wheel;

/// How a connection's turn ended.
enum Turn {
    /// Nothing more can be handled now.
    Drained,
    /// More can be handled, but other connections come first.
    UsedUp,
    /// The conversation is over.
    Over(Close),
    /// The connection's only request was answered.
    Answered,
    /// The peer has reached the limit of strikes.
    StruckOut,
}

impl Engine {
    /// Handles the units in an inbox, at most one turn's share. The caller then calls [`Engine::after_change`].
    pub(super) fn handle_inbox(&mut self, id: ConnId, now: Time) {
        let Engine { conns, services, shared, wheel, .. } = self;
        let Some(conn) = conns.get_mut(id) else {
            return;
        };
        let before = shared.sources.turn.all();
        let is_long = shared.sources.turn.is_long();
        let turn = if is_long && conn.has_begun() && !conn.is_ready && shared.sources.must_wait(conn.info.peer.ip()) {
            Turn::UsedUp
        } else {
            handle_units(conn, id, services, shared, wheel, now)
        };
        if is_long {
            shared.sources.charge_turn(conn.info.peer.ip(), shared.sources.turn.all() - before);
        }
        match turn {
            Turn::Drained => {}
            Turn::UsedUp => {
                conn.is_ready = true;
                self.ready.push_back(id);
                self.shared.guard.count(Counter::TurnsUsedUp);
            }
            Turn::Over(how) => self.end(id, how, CloseReason::Failed, now),
            Turn::Answered => self.close(id, CloseReason::Closed, now),
            Turn::StruckOut => {
                let peer = conn.info.peer;
                shared.guard.fault(Counter::StruckOut, peer, now);
                shared.sources.offence(peer.ip(), now);
                self.end(id, Close::Flushed, CloseReason::Failed, now);
            }
        }
    }
}

#[inline(always)]
fn handle_units(
    conn: &mut Conn,
    id: ConnId,
    services: &mut Services,
    shared: &mut Shared,
    wheel: &mut Wheel<ConnId>,
    now: Time,
) -> Turn {
    if conn.is_ready {
        return Turn::Drained;
    }
    let used_up_at = shared.sources.turn.all() + TURN_WORK;
    while conn.has_begun() && conn.may_handle() {
        if shared.sources.turn.all() >= used_up_at && conn.has_unit() {
            return Turn::UsedUp;
        }
        let (session, mut cx, bytes) = conn.show(id, shared);
        let verdict = services.on_bytes(session, &mut cx, bytes, now);
        conn.is_midway = conn.session.is_midway();
        let (counter, len) = match verdict {
            Verdict::Incomplete => break,
            Verdict::Handled(len) => (Counter::BytesHandled, len),
            Verdict::Dropped(len) | Verdict::Violation(len) => (Counter::BytesRefused, len),
            Verdict::Close(how) => return Turn::Over(how),
        };
        shared.guard.add(counter, conn.inbox.consume(len));
        shared.sources.turn.add(MESSAGE_WORK + len as u64);
        conn.frame_since = None;
        if conn.info.must_speak && !conn.session.is_silent() {
            // The peer has sent its first unit in time. Most connections need no timer from now on.
            conn.info.must_speak = false;
            conn.timer.take().and_then(|timer| wheel.cancel(timer));
        }
        if matches!(verdict, Verdict::Dropped(_)) {
            continue;
        }
        conn.used_at = now;
        if conn.info.origin == Origin::Single && !conn.session.awaits() {
            return Turn::Answered;
        }
        if matches!(verdict, Verdict::Violation(_)) && conn.strike(now) {
            return Turn::StruckOut;
        }
    }
    if !conn.has_begun() {
        return Turn::Drained;
    }
    if conn.has_unit() {
        conn.frame_since = None;
        return Turn::Drained;
    }
    // The time of a unit that began while others were handled counts from now.
    conn.frame_since.get_or_insert(now);
    if conn.inbox.is_full() {
        // No unit of any dialect is that large, and there is no space to read the rest of it.
        shared.guard.fault(Counter::BadSizes, conn.info.peer, now);
        return Turn::Over(Close::Now);
    }
    Turn::Drained
}
