//! One connection without its socket: buffers, session, deadlines, and the predicates that say whether it may be read,
//! written or closed. All backpressure is decided here and nowhere else.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::buffer::{Inbox, Outbox};
use crate::dialect::Shared;
use crate::dialect::stream::{ConnId, ConnInfo, Context, Listener, Origin, State};
use crate::engine::dialects::Session;
use crate::limits::{
    DIAL_TIMEOUT_MS, FIRST_FRAME_MS, FRAME_MS, LINGER_MS, NODE_IDLE_MS, OUTBOX_HARD_BYTES, OUTBOX_SOFT_BYTES, STALL_MS,
    STRIKE_WINDOW_MS, STRIKES, YIELD_MS,
};
use crate::time::Time;
use crate::wheel::TimerKey;

/// What a deadline that has passed means.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// The dial took too long.
    Dial,
    /// The peer's own connection did not come.
    Yield,
    /// The peer did not say in time what it must say first.
    Silent,
    /// A unit was not complete in time.
    Frame,
    /// No progress on the outbox.
    Stalled,
    /// The session's own deadline.
    Session,
    /// A connection between nodes that nobody used, or a single request that nobody answered.
    Idle,
    /// The peer had its time to read our last bytes.
    Lingered,
}

/// What became of reading from a connection.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Reading {
    /// Nothing.
    AsBefore,
    /// It is not read from now on.
    Paused,
    /// It is read again.
    Resumed,
}

/// When a peer broke the protocol lately.
#[derive(Debug, Default)]
struct Strikes {
    at: VecDeque<Time>,
}

/// A connection. Most are idle, so what only busy ones need is behind a pointer: the buffers, and most of a session. The
/// fields that every event reads (state, session, the two buffers, flags) stand first.
#[derive(Debug)]
pub struct Conn {
    /// What it is, as services see it.
    pub info: ConnInfo,
    /// The conversation.
    pub session: Session,
    /// Bytes that came.
    pub inbox: Inbox,
    /// Bytes to go.
    pub outbox: Outbox,
    /// The session holds the beginning of a unit, or inner units.
    pub is_midway: bool,
    /// It carries requests of ours.
    pub is_link: bool,
    /// Another connection leads to its peer; it goes once nothing is under way on it.
    pub is_superseded: bool,
    /// Its session was told that the process stops.
    pub has_said_goodbye: bool,
    /// It is in the list of outboxes to be written.
    pub is_dirty: bool,
    /// It is in the list of inboxes to be handled.
    pub is_ready: bool,
    /// Memory of it that is counted in the engine's total.
    pub counted_bytes: u32,
    /// The one timer it has. Activity moves deadlines, not the timer.
    pub timer: Option<TimerKey>,
    /// When it last carried a unit of the peer's or a message of ours.
    pub used_at: Time,
    /// When it was opened or dialled, or since when it lingers.
    pub since: Time,
    /// When the incomplete unit began.
    pub frame_since: Option<Time>,
    /// Since when it is not read.
    pub paused_at: Option<Time>,
    /// None most of the time.
    strikes: Option<Box<Strikes>>,
}

impl Conn {
    /// A connection that was just opened or is being dialled.
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
            has_said_goodbye: false,
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

    /// Shows it to its service: the session, the rest of it, and the unread bytes.
    pub fn show<'a>(&'a mut self, id: ConnId, shared: &'a mut Shared) -> (&'a mut Session, Context<'a>, &'a [u8]) {
        let cx = Context { id, info: &self.info, outbox: &mut self.outbox, shared };
        (&mut self.session, cx, self.inbox.unread())
    }

    /// Whether the peer does not read its answers; see [`Context::is_held_back`].
    pub fn is_held_back(&self) -> bool {
        self.outbox.answer_bytes() >= OUTBOX_SOFT_BYTES
    }

    /// Whether units in the inbox may be handled. A peer whose answers we await is read even while it is held back, or
    /// else two nodes that ask each other for much would both stop; its requests wait then, and there is room for all
    /// that an honest peer has outstanding.
    pub fn may_handle(&self) -> bool {
        let reads_on = !self.is_held_back() || self.session.awaits();
        self.info.state == State::Open && self.session.has_room() && reads_on
    }

    /// Whether there is something to handle: a whole unit, or what can't become one.
    pub fn has_unit(&self) -> bool {
        self.has_begun() && self.session.can_judge(self.inbox.unread())
    }

    /// Whether there is at least the beginning of a unit.
    pub fn has_begun(&self) -> bool {
        self.is_midway || !self.inbox.is_empty()
    }

    /// Nothing more of what came is handled; how many bytes that is.
    pub fn forget_unread(&mut self) -> usize {
        self.is_midway = false;
        self.frame_since = None;
        self.inbox.consume(usize::MAX)
    }

    /// Whether the socket should be read. Lingering connections are, so that the kernel need not reset them.
    pub fn should_read(&self) -> bool {
        let lingers = self.info.state == State::Lingering;
        !self.info.eof && (lingers || (self.may_handle() && !self.is_ready))
    }

    /// Counts a strike; whether it is one too many.
    pub fn strike(&mut self, now: Time) -> bool {
        let Strikes { at: strikes } = &mut **self.strikes.get_or_insert_default();
        strikes.retain(|at| now.since(*at) < STRIKE_WINDOW_MS);
        strikes.push_back(now);
        strikes.len() >= STRIKES
    }

    /// Whether the socket should be written.
    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty() && matches!(self.info.state, State::Open | State::Closing)
    }

    /// Whether it has queued more than anybody may.
    pub fn is_overfull(&self) -> bool {
        self.outbox.len() > OUTBOX_HARD_BYTES
    }

    /// Whether all is said: the peer will send no more, and has got what it was owed.
    pub fn is_finished(&self) -> bool {
        self.info.eof && self.outbox.is_empty() && !self.session.owes() && !self.has_unit()
    }

    /// Whether nothing is under way on it.
    pub fn is_idle(&self) -> bool {
        self.outbox.is_empty() && !self.session.owes() && !self.session.awaits()
    }

    /// Whether it is one of those that go first when slots run out: inbound and silent so far.
    pub fn is_silent(&self) -> bool {
        self.info.origin == Origin::Inbound && self.info.state == State::Open && self.session.is_silent()
    }

    /// Bytes of memory it holds beside itself.
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

    /// Starts or ends the time in which it is not read, which no unit's deadline counts.
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
