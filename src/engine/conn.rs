//! One connection without its socket: buffers, conversation, deadlines, and the predicates that say whether it may be
//! read, written or closed. All backpressure is decided here and nowhere else.

use std::net::SocketAddr;

use crate::buffer::{BufferPool, Inbox, Outbox};
use crate::dialect::sealed::session::{Session, Wire};
use crate::engine::Requester;
use crate::limits::{
    DIAL_TIMEOUT_MS, FIRST_FRAME_MS, FRAME_MS, LINGER_MS, LONG_TIMEOUT_MS, NODE_IDLE_MS, OUTBOX_HARD_BYTES,
    OUTBOX_SOFT_BYTES, STALL_MS, YIELD_MS,
};
use crate::time::Time;
use crate::wheel::TimerKey;

/// How a connection came to be.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The peer dialled us.
    Inbound,
    /// We dialled from our listening port: the peer knows us by it.
    Listening,
    /// We dialled from our listening port, found the address pair taken, and wait for the peer's own connection.
    Yielding,
    /// We dialled from an ephemeral port because the listening one was taken; to be replaced after a while.
    Fallback,
    /// We dialled from an ephemeral port for a single request.
    Single,
}

/// Where a connection is in its life.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// Not connected yet. What is sent meanwhile waits in the outbox.
    Dialling,
    /// Talking.
    Open,
    /// Nothing more is read; closed once the outbox is empty.
    Closing,
    /// Our last words are written and our side is shut; the peer may read them before the socket goes.
    Lingering,
    /// Gone; the slot is freed at the end of the turn.
    Closed,
}

/// What a deadline that has passed means.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// The dial took too long.
    Dial,
    /// The peer's own connection did not come.
    Yield,
    /// No first frame.
    Silent,
    /// A frame not complete in time.
    Frame,
    /// No progress on the outbox, or no answers to requests of ours.
    Stalled,
    /// A connection between nodes that nobody used, or a probe that nobody answered.
    Idle,
    /// The peer had its time to read our last words.
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

/// A connection. Kept small, and what only busy ones need out of it: most are idle.
#[derive(Debug)]
pub struct Conn {
    /// The other end.
    pub peer: SocketAddr,
    /// Which of our nodes it belongs to; see [`Conn::node`].
    node: Option<u16>,
    /// How it came to be.
    pub origin: Origin,
    /// Where it is in its life.
    pub state: State,
    /// The conversation.
    pub session: Session<Requester>,
    /// Bytes that came.
    pub inbox: Inbox,
    /// Bytes to go.
    pub outbox: Outbox,
    /// When it was opened or dialled, or since when it lingers.
    pub since: Time,
    /// When it last carried a request or an answer of ours.
    pub used_at: Time,
    /// When the incomplete frame in the inbox began.
    pub frame_since: Option<Time>,
    /// Since when it is not read.
    pub paused_at: Option<Time>,
    /// The peer will send no more.
    pub eof: bool,
    /// It carries requests of ours.
    pub is_link: bool,
    /// Another connection leads to its peer; it goes once nothing is under way on it.
    pub is_superseded: bool,
    /// When its peer was last looked at as a candidate for the routing table.
    pub candidate_at: Option<Time>,
    /// It is in the list of outboxes to be written.
    pub is_dirty: bool,
    /// It is in the list of inboxes to be handled.
    pub is_ready: bool,
    /// Memory of it that is counted in the engine's total.
    pub counted_bytes: u32,
    /// The one timer it has. Activity moves deadlines, not the timer.
    pub timer: Option<TimerKey>,
}

impl Conn {
    /// A connection that was just opened or is being dialled.
    pub fn new(peer: SocketAddr, node: Option<usize>, origin: Origin, wire: Wire, now: Time) -> Conn {
        Conn {
            peer,
            node: node.map(|node| node as u16),
            origin,
            state: if origin == Origin::Inbound { State::Open } else { State::Dialling },
            session: Session::new(wire),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            since: now,
            used_at: now,
            frame_since: None,
            paused_at: None,
            eof: false,
            is_link: false,
            is_superseded: false,
            candidate_at: None,
            is_dirty: false,
            is_ready: false,
            counted_bytes: 0,
            timer: None,
        }
    }

    /// Which of our nodes it belongs to; `None` for a client that has none.
    pub fn node(&self) -> Option<usize> {
        self.node.map(usize::from)
    }

    /// Whether the peer does not read its answers: no request of its is started then. Only answers count; if requests of
    /// ours did, two nodes that store much on each other would both stop.
    pub fn is_held_back(&self) -> bool {
        self.outbox.answer_bytes() >= OUTBOX_SOFT_BYTES
    }

    /// Whether messages in the inbox may be handled. A peer whose answers we await is read even while it is held back,
    /// or else two nodes that ask each other for much would both stop; its requests wait then, and there is room for all
    /// that an honest peer has outstanding.
    pub fn may_handle(&self) -> bool {
        let reads_on = !self.is_held_back() || self.session.awaits();
        self.state == State::Open && self.session.has_room() && reads_on
    }

    /// Whether a whole frame waits in the inbox, or what can't become one.
    pub fn has_frame(&self) -> bool {
        self.session.can_judge(self.inbox.unread())
    }

    /// Whether the socket should be read. Lingering connections are, so that the kernel need not reset them.
    pub fn should_read(&self) -> bool {
        let lingers = self.state == State::Lingering;
        !self.eof && (lingers || (self.may_handle() && !self.is_ready))
    }

    /// Whether a request of ours may be sent; else the contact is busy.
    pub fn may_ask(&self) -> bool {
        let is_open = matches!(self.state, State::Open | State::Dialling) && !self.eof;
        is_open && self.session.may_ask()
    }

    /// Whether the socket should be written.
    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty() && matches!(self.state, State::Open | State::Closing)
    }

    /// Whether it has queued more than anybody may.
    pub fn is_overfull(&self) -> bool {
        self.outbox.len() > OUTBOX_HARD_BYTES
    }

    /// Whether all is said: the peer will send no more, and has got what it was owed.
    pub fn is_finished(&self) -> bool {
        self.eof && self.outbox.is_empty() && !self.session.owes() && !self.has_frame()
    }

    /// Whether nothing is under way on it.
    pub fn is_idle(&self) -> bool {
        self.outbox.is_empty() && !self.session.owes() && !self.session.awaits()
    }

    /// Whether it is one of those that go first when slots run out: inbound and silent so far.
    pub fn is_silent(&self) -> bool {
        self.origin == Origin::Inbound && self.state == State::Open && !self.session.saw_frame()
    }

    /// Bytes of memory it holds beside itself.
    pub fn memory_bytes(&self) -> usize {
        self.inbox.capacity() + self.outbox.capacity() + self.session.owed_bytes()
    }

    /// The next deadline and what it means.
    pub fn deadline(&self) -> Option<(Time, Expiry)> {
        match self.state {
            State::Dialling if self.origin == Origin::Yielding => {
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
        if self.is_silent() && self.session.wire() == Wire::Sealed {
            consider(self.since.after(FIRST_FRAME_MS), Expiry::Silent);
        }
        if let Some(at) = self.frame_since.filter(|_| self.paused_at.is_none()) {
            consider(at.after(FRAME_MS), Expiry::Frame);
        }
        if self.origin == Origin::Single && self.node.is_some() {
            consider(self.since.after(LONG_TIMEOUT_MS), Expiry::Idle);
        }
        if let Some(at) = self.outbox.stuck_since() {
            consider(at.after(STALL_MS), Expiry::Stalled);
        }
        if let Some(at) = self.session.oldest_pending() {
            consider(at.after(STALL_MS), Expiry::Stalled);
        }
        if self.is_link && self.is_idle() {
            consider(self.used_at.after(NODE_IDLE_MS), Expiry::Idle);
        }
        first
    }

    /// Lets settled answers leave while the peer reads them.
    pub fn release_answers(&mut self, pool: &mut BufferPool, now: Time) {
        let room = OUTBOX_SOFT_BYTES.saturating_sub(self.outbox.answer_bytes());
        if room > 0 && self.session.owes() {
            self.outbox.answers(pool, now, |out| self.session.release(out, room));
        }
    }

    /// Starts or ends the time in which it is not read, which no frame's deadline counts.
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

const _: () = assert!(size_of::<Conn>() <= 200, "thousands of idle connections cost little");
