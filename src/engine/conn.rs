//! One connection without its socket: buffers, session, deadlines, and the predicates that say whether it may be read,
//! written or closed. All backpressure is decided here. Never touches a socket.

use std::net::SocketAddr;

use crate::buffer::{Inbox, Outbox};
use crate::dialect::Shared;
use crate::dialect::stream::{ConnId, ConnInfo, Context, Listener, Origin, State};
use crate::engine::dialects::Session;
use crate::limits::{
    DIAL_TIMEOUT_MS, FIRST_FRAME_MS, FRAME_MS, LINGER_MS, NODE_IDLE_MS, OUTBOX_HARD_BYTES, OUTBOX_SOFT_BYTES,
    READ_LATELY_MS, STALL_MS, STRIKE_WINDOW_MS, STRIKES, YIELD_MS,
};
use crate::time::Time;
use crate::wheel::TimerKey;

/// The meaning of a deadline that has passed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// The dial took too long.
    Dial,
    /// The peer's own connection did not come.
    Yield,
    /// The peer did not send its first unit in time.
    Silent,
    /// A unit was not complete in time.
    Frame,
    /// The outbox made no progress.
    Stalled,
    /// The session's own deadline has passed.
    Session,
    /// A connection to another node was idle, or a single request was not answered.
    Idle,
    /// The time for the peer to read our last bytes is over.
    Lingered,
}

/// How reading from a connection changed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Reading {
    /// It did not change.
    AsBefore,
    /// It is not read from now on.
    Paused,
    /// It is read again.
    Resumed,
}

/// When the peer last violated the protocol, the oldest first: one time less than it takes to close the connection.
type Strikes = [Option<Time>; STRIKES - 1];

/// A connection. Most are idle, so the parts that only busy ones need are behind pointers: the buffers, and most of a
/// session. The fields that every event reads (state, session, the two buffers, flags) come first.
#[derive(Debug)]
pub struct Conn {
    /// Its properties, as services see them.
    pub info: ConnInfo,
    /// Its session.
    pub session: Session,
    /// Bytes received.
    pub inbox: Inbox,
    /// Bytes to send.
    pub outbox: Outbox,
    /// Whether the session holds the start of a unit, or inner units.
    pub is_midway: bool,
    /// Whether it carries our requests.
    pub is_link: bool,
    /// Whether another connection leads to its peer. If so, it is closed once it is idle.
    pub is_superseded: bool,
    /// Whether its address was on probation when it came: it is closed at its first fault.
    pub is_on_probation: bool,
    /// Whether its session was told that the process stops.
    pub has_said_goodbye: bool,
    /// Whether it is paused because its peer does not read its answers, and was counted as such.
    pub was_held_back: bool,
    /// Whether it is in the list of outboxes to write.
    pub is_dirty: bool,
    /// Whether it is in the list of inboxes to handle.
    pub is_ready: bool,
    /// Bytes of its memory that the engine's total includes.
    pub counted_bytes: u32,
    /// Its only timer. Activity moves deadlines, not the timer.
    pub timer: Option<TimerKey>,
    /// When it last carried a unit of the peer or a message of ours.
    pub used_at: Time,
    /// When it was accepted or dialled, or when it began to linger.
    pub since: Time,
    /// When the incomplete unit in the inbox began.
    pub frame_since: Option<Time>,
    /// Since when it has not been read; `None` while it is read.
    pub paused_at: Option<Time>,
    /// `None` most of the time.
    strikes: Option<Box<Strikes>>,
}

impl Conn {
    /// A connection that was just accepted or is being dialled.
    pub fn new(peer: SocketAddr, listener: Option<Listener>, origin: Origin, session: Session, now: Time) -> Conn {
        let state = if origin == Origin::Inbound { State::Open } else { State::Dialling };
        Conn {
            info: ConnInfo { peer, listener, origin, state, eof: false, must_speak: false },
            session,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            is_midway: false,
            is_link: false,
            is_superseded: false,
            is_on_probation: false,
            has_said_goodbye: false,
            was_held_back: false,
            is_dirty: false,
            is_ready: false,
            counted_bytes: 0,
            timer: None,
            used_at: now,
            since: now,
            frame_since: None,
            paused_at: None,
            strikes: None,
        }
    }

    /// What its service gets to see: the session, the context, and the unread bytes.
    pub fn show<'a>(&'a mut self, id: ConnId, shared: &'a mut Shared) -> (&'a mut Session, Context<'a>, &'a [u8]) {
        let cx = Context { id, info: &self.info, outbox: &mut self.outbox, shared };
        (&mut self.session, cx, self.inbox.unread())
    }

    /// Whether the peer does not read its answers; see [`Context::is_held_back`].
    pub fn is_held_back(&self) -> bool {
        self.outbox.answer_bytes() >= OUTBOX_SOFT_BYTES
    }

    /// Whether units in the inbox may be handled. While we await answers of the peer, we handle its units even if it is
    /// held back, or else two nodes that ask each other for much would both stop. Its requests wait then; there is room
    /// for all that an honest peer has outstanding.
    pub fn may_handle(&self) -> bool {
        let reads_on = !self.is_held_back() || self.session.awaits();
        self.info.state == State::Open && self.session.has_room() && reads_on
    }

    /// Whether there is something to handle: a complete unit, or bytes that can't become one.
    pub fn has_unit(&self) -> bool {
        self.has_begun() && self.session.can_judge(self.inbox.unread())
    }

    /// Whether there is at least the start of a unit.
    pub fn has_begun(&self) -> bool {
        self.is_midway || !self.inbox.is_empty()
    }

    /// Discards the unread bytes and the start of a unit. Returns how many bytes that were.
    pub fn forget_unread(&mut self) -> usize {
        self.is_midway = false;
        self.frame_since = None;
        self.inbox.consume(usize::MAX)
    }

    /// Whether the socket should be read. Lingering connections are read so that the kernel does not reset them.
    pub fn should_read(&self) -> bool {
        let lingers = self.info.state == State::Lingering;
        !self.info.eof && (lingers || (self.may_handle() && !self.is_ready))
    }

    /// Counts a strike. Returns whether the connection has reached the limit of strikes.
    pub fn strike(&mut self, now: Time) -> bool {
        let last = self.strikes.get_or_insert_default();
        let oldest = last[0];
        last.rotate_left(1);
        last[STRIKES - 2] = Some(now);
        self.is_on_probation || oldest.is_some_and(|at| now.since(at) < STRIKE_WINDOW_MS)
    }

    /// Whether the socket should be written.
    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty() && matches!(self.info.state, State::Open | State::Closing)
    }

    /// Whether it has queued more bytes than the limit allows.
    pub fn is_overfull(&self) -> bool {
        self.outbox.len() > OUTBOX_HARD_BYTES
    }

    /// Whether both sides are done: the peer will send nothing more, and has been sent everything that it was owed.
    pub fn is_finished(&self) -> bool {
        self.info.eof && self.outbox.is_empty() && !self.session.owes() && !self.has_unit()
    }

    /// Whether nothing is in progress on it.
    pub fn is_idle(&self) -> bool {
        self.outbox.is_empty() && !self.session.owes() && !self.session.awaits()
    }

    /// Whether it holds nothing but answers, of which its peer has read some lately.
    pub fn is_being_read(&self, now: Time) -> bool {
        let has_moved = self.outbox.stuck_since().is_none_or(|at| now.since(at) < READ_LATELY_MS);
        self.inbox.is_empty() && !self.outbox.is_empty() && has_moved
    }

    /// Whether it is inbound and its peer has sent nothing complete yet. Such connections are closed first when places
    /// run out.
    pub fn is_silent(&self) -> bool {
        self.info.origin == Origin::Inbound && self.info.state == State::Open && self.session.is_silent()
    }

    /// Bytes of memory that it holds outside itself.
    pub fn memory_bytes(&self) -> usize {
        self.inbox.capacity() + self.outbox.capacity() + self.session.bytes()
    }

    /// The next deadline and what it means.
    pub fn deadline(&self) -> Option<(Time, Expiry)> {
        match self.info.state {
            State::Dialling if self.info.origin == Origin::Yielding => {
                return Some((self.since.after(YIELD_MS), Expiry::Yield));
            }
            State::Dialling => return Some((self.since.after(DIAL_TIMEOUT_MS), Expiry::Dial)),
            State::Lingering => return Some((self.since.after(LINGER_MS), Expiry::Lingered)),
            State::Closed => return None,
            State::Open | State::Closing => {}
        }
        let mut first: Option<(Time, Expiry)> = None;
        let mut consider = |at: Time, expiry: Expiry| {
            if first.is_none_or(|(first, _)| at < first) {
                first = Some((at, expiry));
            }
        };
        if self.info.must_speak && self.is_silent() {
            consider(self.since.after(FIRST_FRAME_MS), Expiry::Silent);
        }
        if let Some(at) = self.frame_since.filter(|_| self.paused_at.is_none()) {
            consider(at.after(FRAME_MS), Expiry::Frame);
        }
        if self.info.origin == Origin::Single && self.info.listener.is_some() {
            consider(self.since.after(self.session.single_ms()), Expiry::Idle);
        }
        if let Some(at) = self.outbox.stuck_since() {
            consider(at.after(STALL_MS), Expiry::Stalled);
        }
        if let Some(at) = self.session.deadline() {
            consider(at, Expiry::Session);
        }
        if self.is_link && self.is_idle() && !self.session.keeps_alive() {
            consider(self.used_at.after(NODE_IDLE_MS), Expiry::Idle);
        }
        first
    }

    /// Notes that reading is paused or resumed. The time of a pause does not count towards the deadline of a unit.
    pub fn pause_or_resume(&mut self, now: Time) -> Reading {
        match (self.should_read(), self.paused_at) {
            (false, None) => {
                self.paused_at = Some(now);
                Reading::Paused
            }
            (true, Some(since)) => {
                self.frame_since = self.frame_since.map(|at| at.after(now.since(since)));
                self.paused_at = None;
                Reading::Resumed
            }
            _ => Reading::AsBefore,
        }
    }
}

const _: () = assert!(size_of::<Conn>() <= 168, "thousands of idle connections cost little");
