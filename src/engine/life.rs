//! The life of a connection: what follows from each change to it, its timer, its memory, its end. Part of the engine;
//! knows nothing about the messages.
//!
//! There are two transitions, and each does only what can follow from it. [`Engine::after_change`]: bytes came, a
//! message of ours was queued on the connection, or something unusual happened. [`Engine::after_output`]: the socket
//! took bytes.

use crate::dialect::stream::{Close, CloseReason, Context, Origin, State};
use crate::engine::conn::{Conn, Expiry, Reading};
use crate::engine::dialects::{Services, Session};
use crate::engine::{ConnId, Engine, Output};
use crate::guard::Counter;
use crate::limits::LINGER_MS;
use crate::time::Time;

impl Engine {
    /// The connection changed in any way other than that its socket took bytes.
    pub(super) fn after_change(&mut self, id: ConnId, now: Time) {
        if self.is_stopping {
            self.say_goodbye(id, now);
        }
        self.let_owed_leave(id, now);
        if self.end_if_done(id, now) {
            return;
        }
        self.list(id);
        self.pace_reading(id, now);
        self.arm(id, now);
        self.count_memory(id, now);
    }

    /// The process is stopping. Once every unit that was read has been handled, lets the session of an open connection
    /// send what its protocol requires last, and does so only once: many peers ignore what comes after that message.
    fn say_goodbye(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.info.state == State::Open) else {
            return;
        };
        if !conn.has_unit() && !std::mem::replace(&mut conn.has_said_goodbye, true) {
            self.let_speak(id, now, |services, session, cx| services.on_shutdown(session, cx, now));
        }
    }

    /// Shows a connection to its service, which may queue bytes. If it does, the connection has been used.
    fn let_speak(&mut self, id: ConnId, now: Time, call: impl FnOnce(&mut Services, &mut Session, &mut Context<'_>)) {
        let Engine { conns, services, shared, .. } = self;
        let Some(conn) = conns.get_mut(id) else {
            return;
        };
        let before = conn.outbox.len();
        let (session, mut cx, _) = conn.show(id, shared);
        call(services, session, &mut cx);
        if conn.outbox.len() > before {
            conn.used_at = now;
        }
    }

    /// The socket took bytes, or refused them.
    pub(super) fn after_output(&mut self, id: ConnId, now: Time) {
        let has_owed = self.let_owed_leave(id, now);
        if self.end_if_done(id, now) {
            return;
        }
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        if has_owed || conn.paused_at.is_some() {
            // The peer has read answers, so there is room for its requests.
            self.list(id);
            self.pace_reading(id, now);
            self.arm(id, now);
        } else if conn.is_link || !conn.outbox.is_empty() {
            self.arm(id, now);
        }
        self.count_memory(id, now);
    }

    /// Lets the session move what it owes into the outbox. Returns whether it owed anything.
    fn let_owed_leave(&mut self, id: ConnId, now: Time) -> bool {
        let owes = |conn: &Conn| conn.info.state != State::Closed && conn.session.owes();
        let has_owed = self.conns.get(id).is_some_and(owes);
        if has_owed {
            self.let_speak(id, now, |services, session, cx| services.on_writable(session, cx, now));
        }
        has_owed
    }

    /// Closes a connection that is overfull or finished, and shuts down our side of one that has sent everything.
    /// Returns whether nothing else remains to be done for it.
    fn end_if_done(&mut self, id: ConnId, now: Time) -> bool {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.info.state != State::Closed) else {
            return true;
        };
        if conn.is_overfull() {
            self.shared.guard.fault(Counter::SlowReaders, conn.info.peer, now);
            self.close(id, CloseReason::Died, now);
            return true;
        }
        let is_unwanted = self.is_stopping || conn.is_superseded;
        if !is_unwanted && !conn.info.eof && conn.info.state != State::Closing {
            return false;
        }
        if conn.is_finished() {
            self.close(id, CloseReason::Died, now);
            return true;
        }
        if conn.info.state == State::Closing && conn.outbox.is_empty() && !conn.session.owes() {
            conn.info.state = State::Lingering;
            conn.since = now;
            self.outputs.push_back(Output::ShutdownWrite(id));
        } else if is_unwanted && conn.info.state == State::Open && conn.is_idle() && !conn.has_unit() {
            self.retire(id, now);
            return true;
        }
        false
    }

    /// Ends an idle connection that is no longer wanted. If our last bytes left just now, the peer gets time to read
    /// them, because closing with unread bytes in the kernel would reset the connection.
    fn retire(&mut self, id: ConnId, now: Time) {
        let has_just_spoken = self.conns.get(id).is_some_and(|conn| now.since(conn.used_at) < LINGER_MS);
        let how = if self.is_stopping && has_just_spoken { Close::Flushed } else { Close::Now };
        self.end(id, how, CloseReason::Closed, now);
    }

    /// Adds the connection to the lists of outboxes to write and of inboxes to handle.
    fn list(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        // A stuck outbox is written once the socket takes more, which the driver knows.
        if conn.wants_write() && !conn.is_dirty && conn.outbox.stuck_since().is_none() {
            conn.is_dirty = true;
            self.dirty.push_back(id);
        }
        if !conn.is_ready && conn.has_unit() && conn.may_handle() {
            conn.is_ready = true;
            self.ready.push_back(id);
        }
    }

    /// Returns the memory of an empty inbox to the pool, and pauses or resumes reading.
    fn pace_reading(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.inbox.release(&mut self.shared.buffers);
        match conn.pause_or_resume(now) {
            Reading::AsBefore if conn.paused_at.is_none() => {}
            // It may have been paused for another reason before.
            Reading::AsBefore | Reading::Paused => {
                let is_held_back = conn.info.state == State::Open && conn.is_held_back();
                if is_held_back && !std::mem::replace(&mut conn.was_held_back, true) {
                    self.shared.guard.count(Counter::ReadPauses);
                }
            }
            Reading::Resumed => {
                conn.was_held_back = false;
                self.outputs.push_back(Output::Resume(id));
            }
        }
    }

    /// Arms the connection's timer, unless it already fires early enough.
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
        if self.buffered_bytes > self.settings.buffered_bytes {
            self.free_buffers(now);
        }
    }

    /// A deadline of the connection has passed.
    pub(super) fn expire(&mut self, id: ConnId, expiry: Expiry, now: Time) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        let counter = match expiry {
            Expiry::Yield => return self.fall_back(id, now),
            Expiry::Session => return self.expire_session(id, now),
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
            self.shared.guard.fault(counter, conn.info.peer, now);
        }
        self.close(id, CloseReason::Died, now);
    }

    fn expire_session(&mut self, id: ConnId, now: Time) {
        let end = self.show(id, |services, session, cx| services.on_deadline(session, cx, now)).flatten();
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        match end {
            // A connection that is already closing gets no more time.
            Some(_) if conn.info.state != State::Open => self.close(id, CloseReason::Died, now),
            Some(how) => self.end(id, how, CloseReason::Died, now),
            None => {
                debug_assert!(conn.session.deadline().is_none_or(|at| at > now), "afterwards it lies ahead");
                self.after_change(id, now);
            }
        }
    }

    /// Ends a connection. Nothing more is read or handled, and pending requests fail at once. [`Close::Flushed`]
    /// flushes pending output, then closes.
    pub(super) fn end(&mut self, id: ConnId, how: Close, why: CloseReason, now: Time) {
        match (how, self.conns.get(id).map(|conn| conn.info.state)) {
            (Close::Flushed, Some(State::Open)) => {}
            // It is already ending, and still has to send what is owed.
            (Close::Flushed, Some(State::Closing | State::Lingering)) => return,
            _ => return self.close(id, why, now),
        }
        self.lose(id, why, now);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.info.state = State::Closing;
            self.shared.guard.add(Counter::BytesRefused, conn.forget_unread());
            conn.session.drop_pending();
        }
        self.after_change(id, now);
    }

    /// Closes a connection now.
    pub(super) fn close(&mut self, id: ConnId, why: CloseReason, now: Time) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.info.state != State::Closed) else {
            return;
        };
        conn.info.state = State::Closed;
        self.shared.guard.add(Counter::BytesRefused, conn.forget_unread());
        conn.inbox.release(&mut self.shared.buffers);
        conn.outbox.clear(&mut self.shared.buffers);
        self.buffered_bytes -= std::mem::take(&mut conn.counted_bytes) as usize;
        if let Some(timer) = conn.timer.take() {
            self.wheel.cancel(timer);
        }
        self.pool.remove(conn.info.listener, conn.info.peer, id, conn.is_link);
        if conn.info.origin == Origin::Inbound {
            let source = self.shared.sources.of(conn.info.peer.ip());
            self.shared.sources.connections.release(source, 1);
        }
        self.outputs.push_back(Output::Close(id));
        self.closed.push(id);
        self.lose(id, why, now);
    }

    /// The peer will send nothing more on this connection.
    pub(super) fn lose(&mut self, id: ConnId, why: CloseReason, now: Time) {
        self.show(id, |services, session, cx| services.on_lost(session, cx, why, now));
    }
}
