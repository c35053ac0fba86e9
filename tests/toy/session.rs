//! One connection of the toy: cuts units off the inbox, gathers large messages, keeps the peer's pace. What is to leave
//! is in `sending.rs`. Never decides what a message means.

use super::codec::{HELLO_START, LARGE_HEAD, Message, Toy, Wrong, large_head_of};
use super::sending::Sending;
use super::{HELLO_MS, IDLE_MS, PAUSE_MS, PIECE, Settings};
use crate::dialect::Codec;
use crate::dialect::stream;
use crate::guard::Counter;
use crate::hash::sha256;
use crate::limits::BUFFER_LARGE;
use crate::time::Time;

/// What the bytes of an inbox begin with. `len` is what to consume.
#[derive(Debug)]
pub enum Unit<'a> {
    /// No whole unit yet.
    Incomplete,
    /// A message.
    Message(usize, Message<'a>),
    /// A piece of a large message that goes on.
    Piece(usize),
    /// The last piece of one: its number and its hash.
    Gathered(usize, u32, [u8; 32]),
    /// A whole frame with nothing good in it.
    Violation(usize, Counter),
    /// Whatever comes next can't be told.
    Fatal(Counter),
}

/// A large message that is coming.
#[derive(Debug)]
struct Gathering {
    id: u32,
    len: usize,
    bytes: Vec<u8>,
}

impl Gathering {
    /// The length of the piece that comes next.
    fn piece(&self) -> usize {
        PIECE.min(self.len - self.bytes.len())
    }

    /// Takes in a piece. The memory is at most twice what came, and no more than was announced.
    fn take(&mut self, piece: &[u8]) {
        if self.bytes.capacity() < self.bytes.len() + piece.len() {
            self.bytes.reserve_exact(piece.len().max(self.bytes.len()).min(self.len - self.bytes.len()));
        }
        self.bytes.extend_from_slice(piece);
    }
}

/// How fast a peer may ask: so much at once, then so much in a second.
#[derive(Debug)]
struct Pace {
    settings: Settings,
    tokens: u32,
    filled_at: Time,
    paused_until: Option<Time>,
}

impl Pace {
    fn spend(&mut self, now: Time) {
        self.fill(now);
        self.tokens = self.tokens.saturating_sub(1);
        if self.tokens == 0 {
            self.paused_until = Some(now.after(PAUSE_MS.max(1_000 / u64::from(self.settings.per_s.max(1)) + 1)));
        }
    }

    fn fill(&mut self, now: Time) {
        let per_s = u64::from(self.settings.per_s.max(1));
        let fresh = now.since(self.filled_at).saturating_mul(per_s) / 1_000;
        if fresh > 0 {
            self.tokens = fresh.saturating_add(self.tokens.into()).min(self.settings.at_once.max(1).into()) as u32;
            self.filled_at = now;
        }
    }

    fn resume(&mut self, now: Time) {
        if self.paused_until.take_if(|at| *at <= now).is_some() {
            self.fill(now);
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    /// What is to leave.
    pub(super) sending: Sending,
    pub(super) is_greeted: bool,
    /// None while it is dialled.
    opened_at: Option<Time>,
    /// When something last came or left.
    pub(super) used_at: Time,
    pace: Pace,
    gathering: Option<Gathering>,
}

impl Session {
    pub(super) fn new(settings: Settings) -> Session {
        let pace = Pace { settings, tokens: settings.at_once.max(1), filled_at: Time::ZERO, paused_until: None };
        let (sending, gathering) = (Sending::default(), None);
        Session { sending, is_greeted: false, opened_at: None, used_at: Time::ZERO, pace, gathering }
    }

    pub(super) fn open(&mut self, now: Time) {
        (self.opened_at, self.used_at) = (Some(now), now);
    }

    /// Cuts off the first unit.
    pub(super) fn read<'a>(&mut self, bytes: &'a [u8], now: Time) -> Unit<'a> {
        if let Some(gathering) = &mut self.gathering {
            return match bytes.get(..gathering.piece()) {
                None => Unit::Incomplete,
                Some(piece) => {
                    gathering.take(piece);
                    self.used_at = now;
                    self.gathered(piece.len())
                }
            };
        }
        if !self.is_greeted && is_foreign(bytes) {
            return Unit::Fatal(Counter::ForeignProtocols);
        }
        let len = match Toy::frame_len(bytes) {
            Err(_) => return Unit::Fatal(Counter::BadSizes),
            Ok(None) => return Unit::Incomplete,
            Ok(Some(len)) => len,
        };
        if let Some((id, len)) = large_head_of(bytes).filter(|(_, len)| *len > PIECE) {
            self.gathering = Some(Gathering { id, len, bytes: Vec::new() });
            return Unit::Piece(LARGE_HEAD);
        }
        let Some(frame) = bytes.get(..len) else {
            return Unit::Incomplete;
        };
        self.used_at = now;
        match Toy::decode(frame) {
            Ok(message) => {
                if !matches!(message, Message::Hello { .. } | Message::Answer { .. } | Message::Bye) {
                    self.pace.spend(now);
                }
                Unit::Message(len, message)
            }
            Err(Wrong::Kind) => Unit::Violation(len, Counter::UnknownTypes),
            Err(Wrong::Size | Wrong::Body) => Unit::Violation(len, Counter::Malformed),
        }
    }

    fn gathered(&mut self, len: usize) -> Unit<'static> {
        match self.gathering.take_if(|gathering| gathering.piece() == 0) {
            None => Unit::Piece(len),
            Some(whole) => Unit::Gathered(len, whole.id, sha256(&whole.bytes)),
        }
    }

    /// The peer will say no more: who waited for an answer.
    pub(super) fn lose(&mut self) -> Vec<u64> {
        self.gathering = None;
        self.sending.lose()
    }

    /// Whether the peer has not said HELLO in time.
    pub(super) fn is_late(&self, now: Time) -> bool {
        !self.is_greeted && self.opened_at.is_some_and(|at| at.after(HELLO_MS) <= now)
    }

    /// Ends a pause whose time has come.
    pub(super) fn resume(&mut self, now: Time) {
        self.pace.resume(now);
    }

    /// Whether nothing happened for long. What is under way keeps it.
    pub(super) fn is_unused(&mut self, now: Time) -> bool {
        use stream::Session as _;
        if self.used_at.after(IDLE_MS) > now {
            return false;
        }
        let is_busy = self.owes() || self.awaits() || self.is_midway();
        if is_busy {
            self.used_at = now;
        }
        !is_busy
    }
}

impl stream::Session for Session {
    fn is_silent(&self) -> bool {
        !self.is_greeted
    }

    fn can_judge(&self, bytes: &[u8]) -> bool {
        if let Some(gathering) = &self.gathering {
            return bytes.len() >= gathering.piece();
        }
        let is_large = || large_head_of(bytes).is_some_and(|(_, len)| len > PIECE);
        match Toy::frame_len(bytes) {
            _ if !self.is_greeted && is_foreign(bytes) => true,
            Ok(len) => len.is_some_and(|len| len <= bytes.len()) || is_large(),
            Err(_) => true,
        }
    }

    fn is_midway(&self) -> bool {
        self.gathering.is_some()
    }

    fn looks_foreign(&self, bytes: &[u8]) -> bool {
        !self.is_greeted && is_foreign(bytes)
    }

    fn has_room(&self) -> bool {
        self.pace.paused_until.is_none() && self.sending.has_room()
    }

    fn owes(&self) -> bool {
        self.sending.owes(self.is_greeted)
    }

    fn awaits(&self) -> bool {
        self.sending.awaits()
    }

    fn bytes(&self) -> usize {
        self.sending.bytes() + self.gathering.as_ref().map_or(0, |gathering| gathering.bytes.capacity())
    }

    fn keeps_alive(&self) -> bool {
        true
    }

    fn deadline(&self) -> Option<Time> {
        let hello = self.opened_at.filter(|_| !self.is_greeted).map(|at| at.after(HELLO_MS));
        let unused = self.opened_at.map(|_| self.used_at.after(IDLE_MS));
        [hello, unused, self.pace.paused_until, self.sending.deadline()].into_iter().flatten().min()
    }

    fn drop_pending(&mut self) {
        self.gathering = None;
        self.sending.drop_waiting();
    }

    fn check_invariants(&self) {
        self.sending.check_invariants();
        if let Some(Gathering { len, bytes, .. }) = &self.gathering {
            assert!(bytes.len() < *len && bytes.capacity() <= (2 * bytes.len()).max(PIECE).min(*len));
        }
    }
}

/// Whether `bytes` can't be the beginning of a HELLO.
fn is_foreign(bytes: &[u8]) -> bool {
    bytes.iter().zip(HELLO_START).any(|(byte, expected)| *byte != expected)
}

const _: () = assert!(PIECE + LARGE_HEAD <= BUFFER_LARGE);
