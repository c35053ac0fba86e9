//! One conversation against a model of it: a plain list of requests in the order they came, each waiting, running or
//! settled. Driven as the engine drives it, but with every choice the fuzzer's.

use dayfly::dialect::sealed::codec::{ErrorCode, FrameError, Message, is_answer, kind, kind_of};
use dayfly::dialect::sealed::request::Request;
use dayfly::dialect::sealed::session::{Breach, Parsed, PendingRequest, Place, Session, Wire};
use dayfly::dialect::stream::Session as _;
use dayfly::id::Id;
use dayfly::limits::{OWED_BYTES, OWED_JOBS};
use dayfly::time::Time;

use super::codecs::{any_kind, decode, encode, frame_len, plain_frame, sealed_frame};
use super::cursor::Cursor;

/// Most operations of one input.
const OPERATIONS: usize = 200;

/// What a request does to a key: reads it or writes it.
type Access = Option<(Id, bool)>;

/// A request that came, in the model.
#[derive(Debug)]
struct Slot {
    /// Its place by the session's count; none if it was answered at once.
    place: Option<Place>,
    access: Access,
    silent: bool,
    stage: Stage,
}

#[derive(Debug, PartialEq)]
enum Stage {
    Waiting { frame: Vec<u8>, since: Time },
    Running,
    Settled(Vec<u8>),
}

struct Model {
    wire: Wire,
    session: Session<u32>,
    /// Oldest first; forgotten once their answers and all before them have left.
    slots: Vec<Slot>,
    /// Bytes of answers that have left, without those of forgotten slots.
    left: Vec<u8>,
    /// The place of the next request that gets one.
    next_place: Place,
    /// What we asked, oldest first.
    asked: Vec<(u32, Request)>,
    asks: u32,
    saw_frame: bool,
    now: Time,
}

/// See [`super::session`].
pub fn run(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let wire = if cursor.byte() % 4 == 3 { Wire::Api } else { Wire::Sealed };
    let mut model = Model::new(wire);
    for _ in 0..OPERATIONS {
        if cursor.is_empty() {
            break;
        }
        model.operate(&mut cursor);
        model.check();
        model.forget();
    }
    model.finish();
}

impl Model {
    fn new(wire: Wire) -> Model {
        Model {
            wire,
            session: Session::new(wire),
            slots: Vec::new(),
            left: Vec::new(),
            next_place: Place(0),
            asked: Vec::new(),
            asks: 0,
            saw_frame: false,
            now: Time::ZERO,
        }
    }

    fn operate(&mut self, cursor: &mut Cursor<'_>) {
        match cursor.byte() % 16 {
            0..=3 => {
                let request = request(cursor);
                let repeat = cursor.pick(&[1, 1, 1, 2, 70]);
                (0..repeat).for_each(|_| self.take_in(&request, cursor));
            }
            4 | 5 => drop(self.start(cursor)),
            6 | 7 => self.settle(cursor),
            8 => self.unblock(cursor),
            9 => self.release(usize::from(cursor.word())),
            10 => self.ask(cursor),
            11 | 12 => self.read_answer(cursor),
            13 => self.read_any(cursor),
            14 => self.pass(cursor),
            _ => self.give_up(cursor),
        }
    }

    /// A request comes: it must wait exactly if the model says so; else it is answered at once or owed.
    fn take_in(&mut self, request: &Request, cursor: &mut Cursor<'_>) {
        let message = request.message();
        let is_mute = self.wire == Wire::Api && !matches!(message, Message::Put { .. } | Message::Get { .. });
        if is_mute || !self.session.has_room() {
            return;
        }
        let frame = encode(self.wire, &message);
        let Parsed::Request { len, message } = self.session.read(&frame) else {
            return assert!(self.wire == Wire::Api, "a good request is one");
        };
        self.saw_frame = true;
        assert_eq!(len, frame.len());
        let (access, silent) = (access(&message), self.is_silent(&message));
        let must_wait = self.running() >= OWED_JOBS || self.is_blocked(access, self.slots.len());
        assert_eq!(self.session.must_wait(&message), must_wait, "{message:?}");
        // Where nothing is owed, nobody knows any place, and they begin anew.
        let next_place = if self.session.owes() { self.next_place } else { Place(0) };
        let (place, stage) = if must_wait {
            self.session.defer(&message, &frame, self.now);
            (Some(next_place), Stage::Waiting { frame: frame.clone(), since: self.now })
        } else if silent || cursor.byte() % 2 == 0 {
            (Some(self.session.owe(&message)), Stage::Running)
        } else {
            let owed = self.session.owes();
            let answer = answer(cursor, &message);
            self.session.answer(&answer, &mut self.left);
            (owed.then_some(next_place), Stage::Settled(encode(self.wire, &answer)))
        };
        assert!(place.is_none_or(|place| place == next_place), "places are counted up");
        self.next_place = Place(next_place.0 + u64::from(place.is_some()));
        self.slots.push(Slot { place, access, silent, stage });
    }

    /// The session starts the first request that waits and need not, if there is one; it is settled at once or later.
    fn start(&mut self, cursor: &mut Cursor<'_>) -> bool {
        let startable = (0..self.slots.len()).find(|&at| {
            matches!(self.slots[at].stage, Stage::Waiting { .. }) && !self.is_blocked(self.slots[at].access, at)
        });
        let has_room = self.running() < OWED_JOBS;
        let is_full = self.settled_bytes() >= OWED_BYTES;
        let startable = startable.filter(|at| has_room && !(is_full && self.is_held_back(*at)));
        let Some(held) = self.session.next_startable() else {
            assert!(startable.is_none(), "{startable:?} could start");
            return false;
        };
        let at = startable.expect("it may start");
        let stage = std::mem::replace(&mut self.slots[at].stage, Stage::Running);
        assert_eq!(stage, Stage::Waiting { frame: held.frame, since: held.since });
        assert_eq!(Some(held.place), self.slots[at].place);
        if cursor.byte() % 2 == 0 {
            self.settle_at(at, cursor);
        }
        true
    }

    fn settle(&mut self, cursor: &mut Cursor<'_>) {
        let running: Vec<usize> = (0..self.slots.len()).filter(|&at| self.slots[at].stage == Stage::Running).collect();
        if !running.is_empty() {
            self.settle_at(cursor.pick(&running), cursor);
        }
    }

    fn settle_at(&mut self, at: usize, cursor: &mut Cursor<'_>) {
        let slot = &mut self.slots[at];
        let (key, _) = slot.access.unwrap_or_default();
        let message = answer(cursor, &Message::Get { key });
        let message = (!slot.silent).then_some(message);
        slot.stage = Stage::Settled(message.map_or(Vec::new(), |message| encode(self.wire, &message)));
        slot.access = None;
        let place = slot.place.expect("what runs has a place");
        self.session.settle(place, message.as_ref());
        // A second outcome finds nothing.
        self.session.settle(place, Some(&Message::Failure { key }));
    }

    fn unblock(&mut self, cursor: &mut Cursor<'_>) {
        let running: Vec<usize> = (0..self.slots.len()).filter(|&at| self.slots[at].stage == Stage::Running).collect();
        if !running.is_empty() {
            let at = cursor.pick(&running);
            self.slots[at].access = None;
            self.session.unblock(self.slots[at].place.expect("what runs has a place"));
        }
    }

    /// What leaves is what the model says, in the order of the requests, and no more than there is room for.
    fn release(&mut self, room: usize) {
        let before = self.left.len();
        self.session.release(&mut self.left, room);
        let largest = self.slots.iter().map(|slot| if let Stage::Settled(f) = &slot.stage { f.len() } else { 0 }).max();
        assert!(self.left.len() - before <= room + largest.unwrap_or(0), "a frame more than the room at most");
        if self.left.len() - before < room {
            assert!(self.left == self.expected(), "all that may leave has left, in order");
        }
    }

    fn ask(&mut self, cursor: &mut Cursor<'_>) {
        let request = request(cursor);
        for _ in 0..cursor.pick(&[1, 1, 1, 140]) {
            if self.wire == Wire::Api || !self.session.may_ask() {
                return;
            }
            self.asks += 1;
            let mut outbox = Vec::new();
            let asked =
                PendingRequest { requester: self.asks, request: request.clone(), at: self.now, on_reused: false };
            self.session.ask(asked, &mut outbox);
            assert!(outbox == encode(self.wire, &request.message()), "a request leaves at once");
            self.asked.push((self.asks, request.clone()));
        }
    }

    /// An answer to the oldest request of ours, mostly a fitting one.
    fn read_answer(&mut self, cursor: &mut Cursor<'_>) {
        let fits = cursor.byte();
        let asked = self.asked.first().map(|(_, request)| request.clone()).unwrap_or(Request::Ping(9));
        let key = target(cursor.byte());
        let message = match (fits % 8, &asked) {
            (7, _) => Message::Error { code: 5, text: cursor.take(9) },
            (6, _) => Message::Pong { nonce: u32::from(cursor.word()) },
            (5, _) => Message::Failure { key },
            (4, _) => Message::Success { key, value: cursor.take(3) },
            (_, Request::Ping(nonce)) => Message::Pong { nonce: *nonce },
            (3, Request::FindValue(_)) => Message::Value { value: cursor.take(20) },
            (3, Request::Get(key)) => Message::Failure { key: *key },
            (_, Request::FindNode(_) | Request::FindValue(_)) => {
                Message::Node(dayfly::dialect::sealed::codec::Nodes::Contacts(&[]))
            }
            (_, Request::Get(key)) => Message::Success { key: *key, value: cursor.take(20) },
            (_, Request::Put { key, .. }) => Message::Success { key: *key, value: &[] },
        };
        if self.wire == Wire::Sealed {
            self.read(&encode(self.wire, &message));
        }
    }

    /// Any bytes: a frame around any body, or no frame at all, or only the beginning of one.
    fn read_any(&mut self, cursor: &mut Cursor<'_>) {
        let (how, len) = (cursor.byte() % 4, cursor.below(64));
        let frame = match (how, self.wire) {
            (0, _) => cursor.take(len).to_vec(),
            (_, Wire::Sealed) => sealed_frame(any_kind(cursor), cursor.take(len)),
            (_, Wire::Api) => plain_frame(any_kind(cursor), cursor.take(len)),
        };
        match how {
            2 => self.read(&frame[..usize::from(cursor.word()) % (frame.len() + 1)]),
            3 => self.read(&[&frame[..frame.len() - 1], &[cursor.byte()]].concat()),
            _ => self.read(&frame),
        }
    }

    /// The session's judgement of `bytes` is the model's.
    fn read(&mut self, bytes: &[u8]) {
        let want = self.judge(bytes);
        let cut = self.session.read(bytes);
        let got = match &cut {
            Parsed::Incomplete => Verdict::Incomplete,
            Parsed::Request { .. } => Verdict::Request,
            Parsed::Answer { request, .. } => Verdict::Answer(request.requester),
            Parsed::Dropped { breach, .. } => Verdict::Dropped(*breach),
            Parsed::Violation { breach, code, .. } => Verdict::Violation(*breach, *code),
            Parsed::Fatal { breach, code } => Verdict::Fatal(*breach, *code),
        };
        assert_eq!(got, want, "{bytes:02x?}");
        let (Parsed::Request { len, .. }
        | Parsed::Answer { len, .. }
        | Parsed::Dropped { len, .. }
        | Parsed::Violation { len, .. }) = cut
        else {
            return;
        };
        assert_eq!(frame_len(self.wire, bytes), Ok(Some(len)), "the frame is consumed, no more and no less");
        if let Verdict::Answer(_) = want {
            self.asked.remove(0);
        }
    }

    fn judge(&mut self, bytes: &[u8]) -> Verdict {
        let speaks = self.wire == Wire::Sealed && self.asked.is_empty();
        let frame = match frame_len(self.wire, bytes) {
            Err(_) => return Verdict::Fatal(Breach::BadSize, speaks.then_some(ErrorCode::Malformed)),
            Ok(len) => match len.and_then(|len| bytes.get(..len)) {
                None => return Verdict::Incomplete,
                Some(frame) => frame,
            },
        };
        let is_first = !std::mem::replace(&mut self.saw_frame, true);
        let (kind, decoded) = (kind_of(frame), decode(self.wire, frame));
        if self.wire == Wire::Api {
            return match decoded {
                Ok(Message::Put { .. } | Message::Get { .. }) => Verdict::Request,
                Ok(_) | Err(FrameError::UnknownType(_)) => Verdict::Fatal(Breach::UnknownType, None),
                Err(_) => Verdict::Fatal(Breach::Malformed, None),
            };
        }
        match decoded {
            Err(FrameError::Checksum) if is_first && kind >> 8 != 2 => Verdict::Fatal(Breach::ForeignProtocol, None),
            Err(FrameError::Checksum) if !speaks => Verdict::Fatal(Breach::BadChecksum, None),
            Err(FrameError::Checksum) => Verdict::Violation(Breach::BadChecksum, ErrorCode::Checksum),
            answer if is_answer(kind) => match (self.asked.first(), answer) {
                (None, _) if kind == kind::ERROR => Verdict::Dropped(Breach::UnaskedError),
                (None, _) => Verdict::Violation(Breach::UnaskedAnswer, ErrorCode::UnknownType),
                (Some((requester, request)), Ok(answer)) if fits(request, &answer) => Verdict::Answer(*requester),
                (Some(_), _) => Verdict::Fatal(Breach::WrongAnswer, None),
            },
            Err(FrameError::UnknownType(_)) => Verdict::Violation(Breach::UnknownType, ErrorCode::UnknownType),
            Err(_) => Verdict::Violation(Breach::Malformed, ErrorCode::Malformed),
            Ok(_) => Verdict::Request,
        }
    }

    /// Time passes.
    fn pass(&mut self, cursor: &mut Cursor<'_>) {
        self.now = self.now.after(u64::from(cursor.word()));
    }

    /// The connection's end, in its two halves.
    fn give_up(&mut self, cursor: &mut Cursor<'_>) {
        match cursor.byte() % 8 {
            0 => {
                self.session.drop_pending();
                for slot in self.slots.iter_mut().filter(|slot| matches!(slot.stage, Stage::Waiting { .. })) {
                    slot.stage = Stage::Settled(Vec::new());
                    slot.access = None;
                }
            }
            1 => {
                let taken: Vec<u32> = self.session.take_pending().into_iter().map(|asked| asked.requester).collect();
                let asked: Vec<u32> =
                    std::mem::take(&mut self.asked).into_iter().map(|(requester, _)| requester).collect();
                assert_eq!(taken, asked);
            }
            _ => {}
        }
    }

    fn is_silent(&self, message: &Message<'_>) -> bool {
        self.wire == Wire::Api && matches!(message, Message::Put { .. })
    }

    fn running(&self) -> usize {
        self.slots.iter().filter(|slot| slot.stage == Stage::Running).count()
    }

    /// Whether one of the first `before` requests, not done yet, touches the same key and one of the two writes it.
    fn is_blocked(&self, access: Access, before: usize) -> bool {
        let Some((key, writes)) = access else {
            return false;
        };
        let earlier = self.slots[..before].iter().filter(|slot| !matches!(slot.stage, Stage::Settled(_)));
        earlier.filter_map(|slot| slot.access).any(|(other, wrote)| other == key && (writes || wrote))
    }

    /// Bytes of answers that are settled and have not left.
    fn settled_bytes(&self) -> usize {
        let settled = |slot: &Slot| if let Stage::Settled(frame) = &slot.stage { frame.len() } else { 0 };
        self.slots.iter().map(settled).sum::<usize>() - self.left.len()
    }

    /// Whether one of the first `before` requests is yet to be answered.
    fn is_held_back(&self, before: usize) -> bool {
        self.slots[..before].iter().any(|slot| !slot.silent && !matches!(slot.stage, Stage::Settled(_)))
    }

    /// All bytes that may have left by now.
    fn expected(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for slot in &self.slots {
            match &slot.stage {
                Stage::Settled(frame) => bytes.extend_from_slice(frame),
                _ if slot.silent => {}
                _ => break,
            }
        }
        bytes
    }

    fn check(&self) {
        self.session.check_invariants();
        let expected = self.expected();
        assert!(expected.starts_with(&self.left), "answers leave in the order of the requests");
        assert_eq!(self.session.awaits(), !self.asked.is_empty());
        let waiting = self.slots.iter().any(|slot| matches!(slot.stage, Stage::Waiting { .. }));
        assert_eq!(self.session.has_waiting(), waiting);
    }

    /// Forgets what has been answered and read, so that long conversations stay cheap.
    fn forget(&mut self) {
        let (mut done, mut bytes) = (0, 0);
        for slot in &self.slots {
            match &slot.stage {
                Stage::Settled(frame) if bytes + frame.len() <= self.left.len() => bytes += frame.len(),
                _ => break,
            }
            done += 1;
        }
        self.slots.drain(..done);
        self.left.drain(..bytes);
    }

    /// When all is settled and read, nothing is owed and nothing was lost.
    fn finish(&mut self) {
        let mut zeros = Cursor::new(&[]);
        loop {
            while self.running() > 0 {
                self.settle(&mut zeros);
            }
            self.release(usize::MAX / 2);
            self.forget();
            if !self.start(&mut zeros) {
                break;
            }
            while self.start(&mut zeros) {}
        }
        assert!(!self.session.owes() && self.session.bytes() == 0, "nothing is owed");
        assert!(self.slots.is_empty() && self.left.is_empty(), "everything was answered");
        self.check();
    }
}

/// A [`Parsed`] without what it borrows.
#[derive(Debug, PartialEq)]
enum Verdict {
    Incomplete,
    Request,
    Answer(u32),
    Dropped(Breach),
    Violation(Breach, ErrorCode),
    Fatal(Breach, Option<ErrorCode>),
}

fn target(n: u8) -> Id {
    Id([n % 4; 32])
}

fn request(cursor: &mut Cursor<'_>) -> Request {
    let (which, key) = (cursor.byte(), target(cursor.byte()));
    match which % 5 {
        0 => Request::Ping(u32::from(which)),
        1 => Request::FindNode(key),
        2 => Request::FindValue(key),
        3 => Request::Get(key),
        _ => {
            let value = vec![which; cursor.pick(&[1, 0, 50, 50, 50, 50, 20_000])];
            Request::Put { ttl_s: 9, replication: which / 5, key, value: value.into() }
        }
    }
}

/// Some answer of ours to `request`, good on either wire.
fn answer<'a>(cursor: &mut Cursor<'a>, request: &Message<'_>) -> Message<'a> {
    let (key, _) = access(request).unwrap_or_default();
    match cursor.byte() % 4 {
        0 => Message::Failure { key },
        1 => Message::Success { key, value: &[7; 5_000] },
        _ => Message::Success { key, value: cursor.take(4) },
    }
}

/// Whether `answer` is one that `request` may have, by the table of docs/protocol-sealed.md, "Messages".
fn fits(request: &Request, answer: &Message<'_>) -> bool {
    match (answer, request) {
        (Message::Error { .. }, _) => true,
        (Message::Pong { nonce }, Request::Ping(sent)) => nonce == sent,
        (Message::Node(_), Request::FindNode(_) | Request::FindValue(_)) => true,
        (Message::Value { .. }, Request::FindValue(_)) => true,
        (Message::Success { key, value }, Request::Put { key: sent, .. }) => key == sent && value.is_empty(),
        (Message::Success { key, .. } | Message::Failure { key }, Request::Get(sent)) => key == sent,
        _ => false,
    }
}

fn access(message: &Message<'_>) -> Access {
    match message {
        Message::Get { key } | Message::FindValue { key } => Some((*key, false)),
        Message::Put { key, .. } => Some((*key, true)),
        _ => None,
    }
}
