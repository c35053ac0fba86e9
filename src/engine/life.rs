//! The life of a connection: what follows from every change to it, its timer, its memory, its end. Part of the engine;
//! knows nothing of what is said on it.

use crate::engine::conn::{Conn, Expiry, Origin, Reading, State};
use crate::engine::{ConnId, Engine, Output};
use crate::guard::Counter;
use crate::limits::BUFFERED_BYTES;
use crate::time::Time;

impl Engine {
    /// Brings a connection in line with what just happened to it: closes it if it is finished or overfull, has leftover
    /// messages handled, pauses or resumes reading, moves its timer, counts its memory. Called after every change.
    pub(super) fn settle(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.state == State::Closed {
            return;
        }
        if conn.state == State::Open && conn.session.has_waiting() && !conn.is_held_back() {
            self.start_waiting(id, now);
        }
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.release_answers(&mut self.buffers, now);
        if conn.is_overfull() {
            self.guard.fault(Counter::SlowReaders, conn.peer, now);
            return self.close(id, now);
        }
        let is_unwanted = (self.stopping || conn.is_superseded) && conn.state != State::Dialling;
        if conn.is_finished() || (is_unwanted && conn.is_idle()) {
            return self.close(id, now);
        }
        if conn.state == State::Closing && conn.outbox.is_empty() && !conn.session.owes() {
            conn.state = State::Lingering;
            conn.since = now;
            self.outputs.push_back(Output::ShutdownWrite(id));
        }
        // Who is stuck is written once the socket takes more, which the driver knows.
        if conn.wants_write() && !conn.is_dirty && conn.outbox.stuck_since().is_none() {
            conn.is_dirty = true;
            self.dirty.push_back(id);
        }
        if !conn.is_ready && conn.has_frame() && conn.may_handle() {
            conn.is_ready = true;
            self.ready.push_back(id);
        }
        conn.inbox.release(&mut self.buffers);
        match conn.pause_or_resume(now) {
            Reading::AsBefore => {}
            Reading::Paused if conn.state == State::Open && conn.is_held_back() => {
                self.guard.count(Counter::ReadPauses)
            }
            Reading::Paused => {}
            Reading::Resumed => self.outputs.push_back(Output::Resume(id)),
        }
        self.arm(id, now);
        self.count_memory(id, now);
    }

    /// Arms the connection's timer unless it fires early enough already.
    fn arm(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let Some((deadline, _)) = conn.deadline() else {
            return;
        };
        match conn.timer {
            Some(timer) if self.wheel.due_at(timer).is_some_and(|at| at <= deadline) => {}
            Some(timer) if self.wheel.rearm(timer, deadline) => {}
            Some(_) | None => conn.timer = Some(self.wheel.arm(now, deadline, id)),
        }
    }

    fn count_memory(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let bytes = conn.memory_bytes();
        if bytes == conn.counted_bytes as usize {
            return;
        }
        self.buffered_bytes = self.buffered_bytes - conn.counted_bytes as usize + bytes;
        conn.counted_bytes = bytes as u32;
        if self.buffered_bytes > BUFFERED_BYTES {
            let heaviest = self.conns.iter().max_by_key(|(_, conn)| conn.counted_bytes);
            if let Some((id, peer)) = heaviest.map(|(id, conn)| (id, conn.peer)) {
                self.guard.fault(Counter::MemoryLimit, peer, now);
                self.close(id, now);
            }
        }
    }

    /// A deadline of the connection has passed.
    pub(super) fn expire(&mut self, id: ConnId, expiry: Expiry, now: Time) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        let counter = match expiry {
            Expiry::Yield => return self.fall_back(id, now),
            Expiry::Dial => Some(Counter::DialsFailed),
            Expiry::Silent if conn.inbox.is_empty() => Some(Counter::SilentConnections),
            Expiry::Silent | Expiry::Frame if conn.session.looks_foreign(conn.inbox.unread()) => {
                Some(Counter::ForeignProtocols)
            }
            Expiry::Silent | Expiry::Frame => Some(Counter::FrameTimeouts),
            Expiry::Stalled => Some(Counter::SlowReaders),
            Expiry::Idle | Expiry::Lingered => None,
        };
        if let Some(counter) = counter {
            self.guard.fault(counter, conn.peer, now);
        }
        self.close(id, now);
    }

    /// Says the last words of a connection and then closes it: nothing more is read or handled.
    pub(super) fn close_after_flush(&mut self, id: ConnId, now: Time) {
        if let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.state == State::Open) {
            conn.state = State::Closing;
            self.guard.add(Counter::BytesRefused, conn.inbox.consume(usize::MAX));
            conn.session.drop_waiting();
            conn.frame_since = None;
        }
        self.settle(id, now);
    }

    /// Closes a connection now.
    pub(super) fn close(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.state != State::Closed) else {
            return;
        };
        conn.state = State::Closed;
        self.guard.add(Counter::BytesRefused, conn.inbox.consume(usize::MAX));
        conn.inbox.release(&mut self.buffers);
        conn.outbox.clear(&mut self.buffers);
        self.buffered_bytes -= std::mem::take(&mut conn.counted_bytes) as usize;
        if let Some(timer) = conn.timer.take() {
            self.wheel.cancel(timer);
        }
        if let Some(node) = conn.node() {
            self.pool.remove(node, conn.peer, id, conn.is_link);
        }
        if conn.origin == Origin::Inbound {
            self.sources.left(conn.peer.ip());
        }
        self.outputs.push_back(Output::Close(id));
        self.closed.push(id);
        self.drop_pending(id, now);
    }

    pub(super) fn remember_silent(&mut self, id: ConnId) {
        // The oldest are looked at first, and most have spoken by now: the list stays as short as it can.
        let is_silent = |id: &ConnId| self.conns.get(*id).is_some_and(Conn::is_silent);
        let spoke = self.silent.iter().take_while(|id| !is_silent(id)).count();
        self.silent.drain(..spoke);
        if self.silent.len() >= 2 * self.settings.max_connections.max(1) {
            self.silent.retain(is_silent);
        }
        self.silent.push_back(id);
    }

    /// Closes the inbound connection that has been silent longest and carries nothing of ours, which would be dialled for
    /// anew; whether there was one.
    pub(super) fn evict_oldest_silent(&mut self, now: Time) -> bool {
        while let Some(id) = self.silent.pop_front() {
            if let Some(conn) = self.conns.get(id).filter(|conn| conn.is_silent() && conn.is_idle()) {
                self.guard.fault(Counter::Evicted, conn.peer, now);
                self.close(id, now);
                return true;
            }
        }
        false
    }
}
