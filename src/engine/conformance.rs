//! One suite over every stream dialect, for tests: what the engine relies on in a [`StreamDialect`], and what a dialect may
//! rely on in the engine. A dialect says in a [`Subject`] what its peers say and what its users ask, and calls
//! [`suite!`]. Looks at no message itself.

use std::net::SocketAddr;

use crate::engine::dialects::StreamDialect;
use crate::engine::pairs::{Dials, End, Pairs};
use crate::engine::{CallId, Engine, EngineSettings, Output};
use crate::guard::Counter;
use crate::time::Time;

/// Random courses of two or three engines.
const COURSES: u64 = 400;
/// Conversations that are fed in different pieces.
const CONVERSATIONS: u64 = 60;
/// Conversations that end by a FIN or a stop.
const ENDS: u64 = 60;

/// What the suite must know of a dialect.
pub(crate) trait Subject: StreamDialect {
    /// What `Session::bytes` may say at most.
    const HOLDS_AT_MOST: usize;
    /// Gives an engine a node, which others know at `addr`.
    fn add_node(engine: &mut Engine, addr: SocketAddr, seed: u64);
    /// What a peer says first; nothing where there is no greeting.
    fn greeting() -> Vec<u8>;
    /// A small request, which is answered at once by one message.
    fn ping(n: u32) -> Vec<u8>;
    /// Any request, whose answer is one message.
    fn request(random: &mut fastrand::Rng) -> Vec<u8>;
    /// Something else that a peer may say, a whole unit.
    fn remark(random: &mut fastrand::Rng) -> Vec<u8>;
    /// The answers among what a peer has heard.
    fn answers(heard: &[u8]) -> usize;
    /// Something that a local user may want of whoever is at `to`.
    fn operation(random: &mut fastrand::Rng, to: SocketAddr) -> Self::Operation;
    /// Operations whose last event was not pulled.
    fn operations(&self) -> usize;
}

/// The tests of the dialect `$subject`.
macro_rules! suite {
    ($subject:ty) => {
        #[test]
        fn byte_by_byte_equals_at_once() {
            $crate::engine::conformance::byte_by_byte_equals_at_once::<$subject>();
        }

        #[test]
        fn a_fin_loses_no_answer() {
            $crate::engine::conformance::a_fin_loses_no_answer::<$subject>();
        }

        #[test]
        fn a_stop_loses_no_answer() {
            $crate::engine::conformance::a_stop_loses_no_answer::<$subject>();
        }

        #[test]
        fn what_was_read_before_a_stop_is_answered_before_the_close() {
            $crate::engine::conformance::what_was_read_before_a_stop_is_answered_before_the_close::<$subject>();
        }

        #[test]
        fn a_late_reply_to_a_cancelled_operation_leaves_nothing() {
            $crate::engine::conformance::a_late_reply_to_a_cancelled_operation_leaves_nothing::<$subject>();
        }

        #[test]
        fn whatever_happens_all_ends_once_and_all_memory_is_free() {
            $crate::engine::conformance::whatever_happens_all_ends_once_and_all_memory_is_free::<$subject>();
        }

        #[test]
        fn a_seed_decides_all() {
            $crate::engine::conformance::a_seed_decides_all::<$subject>();
        }
    };
}

pub(crate) use suite;

/// Where engine `n` listens.
pub(crate) fn at(n: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 6_500 + n as u16))
}

/// Nobody listens there.
pub(crate) fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

/// A raw peer listens there.
fn raw() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 10))
}

/// So many engines.
pub(crate) fn pairs<D: Subject>(engines: usize, seed: u64) -> Pairs {
    limited::<D>(engines, seed, EngineSettings::default())
}

/// So many engines with these settings.
pub(crate) fn limited<D: Subject>(engines: usize, seed: u64, settings: EngineSettings) -> Pairs {
    let mut pairs = Pairs::new(seed);
    for n in 0..engines {
        let seed = seed + n as u64;
        let mut engine = Engine::new(settings, seed);
        D::add_node(&mut engine, at(n), seed);
        pairs.add(engine, D::listener(0), at(n));
    }
    pairs
}

// ---- one raw peer ----

/// What a conversation comes to: what the peer heard, what was counted, whether the connection ended.
fn outcome<D: Subject>(script: &[u8], piece: usize) -> (Vec<u8>, Vec<u64>, bool) {
    // These depend on how much is read at once.
    let varies = [
        Counter::BytesRead,
        Counter::BytesHandled,
        Counter::BytesRefused,
        Counter::TurnsUsedUp,
        Counter::ReadPauses,
        Counter::Resets,
    ];
    let mut pairs = pairs::<D>(1, 7);
    (pairs.piece, pairs.window) = (piece, usize::MAX);
    pairs.dials = Dials::Vanish;
    let now = pairs.now;
    pairs.engines[0].service_mut::<D>().add_bootstrap(nowhere(), now);
    let peer = pairs.connect(at(0));
    pairs.say(peer, script);
    pairs.pass(60_000);
    pairs.engines[0].check_invariants();
    let counted = Counter::ALL.iter().filter(|counter| !varies.contains(counter));
    let counts = counted.map(|counter| pairs.engines[0].guard().get(*counter)).collect();
    let End { heard, has_ended, .. } = &pairs.ends[peer];
    (heard.clone(), counts, *has_ended)
}

pub(crate) fn byte_by_byte_equals_at_once<D: Subject>() {
    for seed in 0..CONVERSATIONS {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut script = D::greeting();
        for _ in 0..random.usize(..100) {
            script.extend(if random.u8(..4) > 0 { D::request(&mut random) } else { D::remark(&mut random) });
        }
        if seed % 3 == 0 && !script.is_empty() {
            let at = random.usize(..script.len());
            script[at] ^= 1 << random.u8(..8);
        }
        let at_once = outcome::<D>(&script, usize::MAX);
        assert!(outcome::<D>(&script, 1) == at_once, "seed {seed}, byte by byte");
        assert!(outcome::<D>(&script, 3_000) == at_once, "seed {seed}, in pieces");
    }
}

/// A raw peer that makes `n` requests of the only engine, in some pieces and through some window.
fn asking<D: Subject>(seed: u64, n: usize) -> (Pairs, usize) {
    let mut pairs = pairs::<D>(1, seed);
    let random = &mut pairs.random;
    pairs.piece = [1, 50, 3_000, usize::MAX][random.usize(..4)];
    pairs.window = [2_000, 60_000, usize::MAX][random.usize(..3)];
    pairs.dials = [Dials::Vanish, Dials::Succeed][random.usize(..2)];
    let requests: Vec<u8> = (0..n).flat_map(|_| D::request(&mut pairs.random)).collect();
    let now = pairs.now;
    pairs.engines[0].service_mut::<D>().add_bootstrap(nowhere(), now);
    let peer = pairs.connect(at(0));
    pairs.say(peer, &D::greeting());
    pairs.say(peer, &requests);
    (pairs, peer)
}

/// Regression: what a half-closed peer had asked and what had to wait was dropped.
pub(crate) fn a_fin_loses_no_answer<D: Subject>() {
    for seed in 0..ENDS {
        let n = 1 + fastrand::Rng::with_seed(seed).usize(..150);
        let (mut pairs, peer) = asking::<D>(seed, n);
        if seed % 3 == 0 {
            let request = D::request(&mut pairs.random);
            pairs.say(peer, &request[..request.len() / 2]);
        }
        pairs.fin(peer);
        if seed % 2 == 0 {
            pairs.set_deaf(peer, true);
            pairs.pass(seed * 100);
            pairs.set_deaf(peer, false);
        }
        pairs.pass(20_000);
        // Our own dials end too.
        pairs.dials = Dials::Succeed;
        pairs.pass(20_000);
        let End { heard, has_ended, .. } = &pairs.ends[peer];
        assert_eq!((D::answers(heard), has_ended), (n, &true), "seed {seed}");
        assert_eq!((pairs.engines[0].connections(), pairs.engines[0].buffered_bytes()), (0, 0), "seed {seed}");
    }
}

pub(crate) fn a_stop_loses_no_answer<D: Subject>() {
    for seed in 0..ENDS {
        let n = 1 + fastrand::Rng::with_seed(seed).usize(..50);
        let (mut pairs, peer) = asking::<D>(seed, n);
        pairs.dials = Dials::Succeed;
        pairs.pass(seed * 20);
        let (now, conn) = (pairs.now, pairs.ends[peer ^ 1].conn.expect("it stands"));
        pairs.engines[0].stop(now);
        pairs.pass(20_000);
        assert_eq!(D::answers(&pairs.ends[peer].heard), n, "seed {seed}");
        assert!(pairs.engines[0].is_quiet() && pairs.engines[0].connections() == 0, "seed {seed}");
        let ends = [(0, Output::ShutdownWrite(conn)), (0, Output::Close(conn))];
        let at = ends.map(|end| pairs.outputs.iter().position(|output| *output == end));
        assert!(at[1].is_some() && (at[0] < at[1]), "seed {seed}: {at:?}");
    }
}

/// Regression: units that were read and not handled yet were dropped at a stop, and a close without FIN could reset the
/// connection before the last answers were read.
pub(crate) fn what_was_read_before_a_stop_is_answered_before_the_close<D: Subject>() {
    let now = Time::from_ms(1);
    let mut engine = Engine::new(EngineSettings::default(), 1);
    D::add_node(&mut engine, at(0), 1);
    let id = engine.accepted(D::listener(0), nowhere(), now).unwrap();
    let bytes: Vec<u8> = D::greeting().into_iter().chain((0..100).flat_map(D::ping)).collect();
    engine.read_space(id).unwrap()[..bytes.len()].copy_from_slice(&bytes);
    engine.received(id, bytes.len(), now);
    assert!(engine.has_work(), "more than a turn handles");
    engine.stop(now);
    let (mut heard, mut outputs) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        outputs.extend(std::iter::from_fn(|| engine.poll_output(now)).filter(|output| *output != Output::Resume(id)));
        while let Some(id) = engine.next_dirty() {
            let bytes = engine.to_write(id).to_vec();
            heard.extend_from_slice(&bytes);
            engine.wrote(id, bytes.len(), now);
        }
        engine.work(now);
    }
    assert_eq!((D::answers(&heard), outputs), (100, vec![Output::ShutdownWrite(id)]));
    engine.eof(id, now);
    assert_eq!((engine.poll_output(now), engine.is_quiet()), (Some(Output::Close(id)), true));
}

// ---- operations ----

/// Regression: what came too late for an operation that was given up stayed for good.
pub(crate) fn a_late_reply_to_a_cancelled_operation_leaves_nothing<D: Subject>() {
    for seed in 0..20 {
        let mut pairs = pairs::<D>(2, seed);
        let start = |pairs: &mut Pairs| {
            let (operation, now) = (D::operation(&mut pairs.random, at(1)), pairs.now);
            pairs.engines[0].start::<D>(Some(0), operation, now).unwrap()
        };
        let first = start(&mut pairs);
        pairs.pass(10_000);
        assert!(pairs.engines[0].next_event::<D>(first).is_some());
        // More is asked over the same connection, and no answer has been read yet.
        (0..pairs.ends.len()).filter(|n| n % 2 == 0).for_each(|n| pairs.set_deaf(n, true));
        let calls: Vec<CallId> = (0..10).map(|_| start(&mut pairs)).collect();
        pairs.settle();
        let now = pairs.now;
        calls.iter().step_by(2).for_each(|call| pairs.engines[0].cancel::<D>(*call, now));
        (0..pairs.ends.len()).for_each(|n| pairs.set_deaf(n, false));
        pairs.pass(10_000);
        for (n, call) in calls.iter().enumerate() {
            let event = pairs.engines[0].next_event::<D>(*call);
            assert_eq!(event.is_some(), n % 2 == 1, "seed {seed}, operation {n}");
        }
        assert_eq!(pairs.engines[0].service::<D>().operations(), 0);
    }
}

/// A random course of engines, raw peers and their operations.
struct Course<D: Subject> {
    pairs: Pairs,
    /// What was started and not cancelled: by which engine, and how often it has ended.
    calls: Vec<(usize, CallId, usize)>,
    is_stopped: Vec<bool>,
    /// Events are pulled as they come, or else at the end.
    pulls_early: bool,
    dialect: std::marker::PhantomData<D>,
}

impl<D: Subject> Course<D> {
    fn new(seed: u64) -> Course<D> {
        let mut random = fastrand::Rng::with_seed(seed);
        let engines = random.usize(2..=3);
        let max_connections = [2, 4, 1_000][random.usize(..3)];
        let mut pairs = limited::<D>(engines, seed, EngineSettings { max_connections, ..EngineSettings::default() });
        pairs.piece = [1, 13, 1_000, 65_536][random.usize(..4)];
        pairs.window = [500, 5_000, 60_000, 500_000][random.usize(..4)];
        pairs.listen(raw());
        let now = pairs.now;
        for n in 0..engines {
            for to in [at((n + 1) % engines), nowhere()].into_iter().filter(|_| random.bool()) {
                pairs.engines[n].service_mut::<D>().add_bootstrap(to, now);
            }
        }
        let (calls, is_stopped) = (Vec::new(), vec![false; engines]);
        Course { pairs, calls, is_stopped, pulls_early: random.bool(), dialect: std::marker::PhantomData }
    }

    fn run(mut self) -> u64 {
        for _ in 0..self.pairs.random.usize(5..60) {
            self.step();
            self.pairs.settle();
            self.check();
        }
        self.finish();
        self.pairs.trace
    }

    fn pick(&mut self) -> Option<usize> {
        let ends = self.pairs.ends.len();
        (ends > 0).then(|| self.pairs.random.usize(..ends))
    }

    fn step(&mut self) {
        let (which, engines) = (self.pairs.random.u8(..22), self.pairs.engines.len());
        let (now, who) = (self.pairs.now, self.pairs.random.usize(..engines));
        match (which, self.pick()) {
            (0..=7, _) => self.start(who),
            (8, _) => {
                let peer = self.pairs.connect(at(who));
                self.pairs.say(peer, &D::greeting());
            }
            (9 | 10, Some(n)) => self.speak(n),
            (11, Some(n)) => self.pairs.set_deaf(n, true),
            (12, _) => (0..self.pairs.ends.len()).for_each(|n| self.pairs.set_deaf(n, false)),
            (13, Some(n)) => self.pairs.reset(n),
            (14, Some(n)) => self.pairs.fin(n),
            (15..=17, _) => {
                let ms = [1, 100, 3_000, 40_000][self.pairs.random.usize(..4)];
                self.pairs.pass(ms);
            }
            (18, _) if !self.calls.is_empty() => {
                let at = self.pairs.random.usize(..self.calls.len());
                let (who, call, _) = self.calls.swap_remove(at);
                self.pairs.engines[who].cancel::<D>(call, now);
            }
            (19, _) => self.pairs.dials = [Dials::Succeed, Dials::Vanish, Dials::Lack][self.pairs.random.usize(..3)],
            (20, _) => self.pairs.dials = Dials::Succeed,
            (21, _) if self.pairs.random.u8(..4) == 0 => {
                self.pairs.engines[who].stop(now);
                self.is_stopped[who] = true;
            }
            _ => {}
        }
    }

    fn start(&mut self, who: usize) {
        let random = &mut self.pairs.random;
        let to = match random.u8(..8) {
            0 => nowhere(),
            1 => raw(),
            _ => at(random.usize(..self.pairs.engines.len())),
        };
        let listener = (random.u8(..4) > 0).then_some(0);
        let operation = D::operation(random, to);
        let now = self.pairs.now;
        let call = self.pairs.engines[who].start::<D>(listener, operation, now);
        self.calls.extend(call.map(|call| (who, call, 0)));
    }

    /// Words of a peer, or nonsense, from any end: of an engine too, in whose sentence it stands then.
    fn speak(&mut self, n: usize) {
        let random = &mut self.pairs.random;
        let mut words = match random.u8(..5) {
            0 => D::greeting(),
            1 => D::remark(random),
            2 => (0..random.usize(..40)).map(|_| random.u8(..)).collect(),
            _ => (0..random.usize(..8)).flat_map(|_| D::request(random)).collect(),
        };
        if random.u8(..4) == 0 && !words.is_empty() {
            let at = random.usize(..words.len());
            words[at] ^= 1 << random.u8(..8);
        }
        let is_raw = self.pairs.ends[n].who.is_none();
        if is_raw || random.u8(..6) == 0 {
            self.pairs.say(n, &words);
        }
    }

    fn check(&mut self) {
        for engine in &self.pairs.engines {
            engine.check_invariants();
            for (_, conn) in engine.conns.iter() {
                let bytes = conn.session.bytes();
                assert!(bytes <= D::HOLDS_AT_MOST, "{bytes} bytes");
                assert!(bytes == 0 || !conn.is_idle() || conn.has_begun(), "{bytes} bytes of an idle connection");
            }
        }
        if self.pulls_early {
            self.pull();
        }
    }

    fn pull(&mut self) {
        for (who, call, ended) in &mut self.calls {
            *ended += usize::from(self.pairs.engines[*who].next_event::<D>(*call).is_some());
        }
    }

    fn finish(&mut self) {
        (0..self.pairs.ends.len()).for_each(|n| self.pairs.set_deaf(n, false));
        self.pairs.dials = Dials::Succeed;
        self.pairs.pass(400_000);
        self.check();
        self.pull();
        self.pull();
        assert!(self.calls.iter().all(|(_, _, ended)| *ended == 1), "{:?}", self.calls);
        for (engine, is_stopped) in self.pairs.engines.iter().zip(&self.is_stopped) {
            assert_eq!((engine.service::<D>().operations(), engine.buffered_bytes()), (0, 0));
            assert!(!is_stopped || engine.is_quiet());
        }
    }
}

/// Byte streams cut anywhere, readers that stop, resets, half-closes, dials that fail, nonsense: nothing panics, no sum is
/// wrong, each operation ends once, and all memory is free afterwards.
pub(crate) fn whatever_happens_all_ends_once_and_all_memory_is_free<D: Subject>() {
    for seed in 0..COURSES {
        let course = std::panic::catch_unwind(|| Course::<D>::new(seed).run());
        assert!(course.is_ok(), "course {seed} failed as said above");
    }
}

pub(crate) fn a_seed_decides_all<D: Subject>() {
    for seed in 0..5 {
        let [first, second, other] = [seed, seed, seed + 1].map(|seed| Course::<D>::new(seed).run());
        assert!(first == second && first != other);
    }
}

mod sealed {
    use super::*;
    use crate::dialect::Codec;
    use crate::dialect::sealed::codec::{FrameError, Message, Sealed};
    use crate::dialect::sealed::operation::Operation;
    use crate::dialect::sealed::request::Request;
    use crate::dialect::sealed::service::Service;
    use crate::dialect::stream::Service as _;
    use crate::id::Id;
    use crate::limits::{FRAME_MAX, OWED_ANSWER_BYTES, OWED_ANSWERS, OWED_ANSWERS_BYTES, OWED_BYTES, OWED_JOBS};

    fn frame(message: &Message<'_>) -> Vec<u8> {
        let mut frame = Vec::new();
        Sealed::encode(message, &mut frame);
        frame
    }

    fn key(random: &mut fastrand::Rng) -> Id {
        Id::of(&[random.u8(..30)])
    }

    fn value(random: &mut fastrand::Rng) -> Vec<u8> {
        vec![random.u8(..); [0, 10, 3_000, 40_000][random.usize(..4)]]
    }

    impl Subject for Service {
        const HOLDS_AT_MOST: usize =
            OWED_BYTES + (OWED_JOBS + 1) * FRAME_MAX + OWED_ANSWERS * OWED_ANSWER_BYTES + OWED_ANSWERS_BYTES;

        fn add_node(engine: &mut Engine, addr: SocketAddr, seed: u64) {
            engine.service_mut::<Service>().add_node(addr, seed, Time::ZERO);
        }

        fn greeting() -> Vec<u8> {
            Vec::new()
        }

        fn ping(nonce: u32) -> Vec<u8> {
            frame(&Message::Ping { nonce })
        }

        fn request(random: &mut fastrand::Rng) -> Vec<u8> {
            let (key, value, replication) = (key(random), value(random), random.u8(1..4));
            frame(&match random.u8(..6) {
                0 => Message::Ping { nonce: random.u32(..) },
                1 => Message::FindNode { key },
                2 => Message::FindValue { key },
                3 | 4 => Message::Get { key },
                _ => Message::Put { ttl_s: random.u16(..9), replication, key, value: &value },
            })
        }

        fn remark(random: &mut fastrand::Rng) -> Vec<u8> {
            match random.u8(..8) {
                0 => frame(&Message::Pong { nonce: 1 }),
                _ => frame(&Message::Error { code: 1, text: b"?" }),
            }
        }

        fn answers(mut heard: &[u8]) -> usize {
            let mut answers = 0;
            while let Ok(Some(len)) = Sealed::frame_len(heard) {
                let (frame, rest) = heard.split_at(len);
                let is_answer = Sealed::decode(frame).map(|message| answers_something(&message));
                answers += usize::from(is_answer.unwrap_or_else(|wrong: FrameError| panic!("{wrong:?}")));
                heard = rest;
            }
            answers
        }

        fn operation(random: &mut fastrand::Rng, to: SocketAddr) -> Operation {
            let (key, value, replication) = (key(random), value(random).into(), random.u8(1..4));
            let request = match random.u8(..5) {
                0 => Request::Ping(random.u32(..)),
                1 => Request::FindNode(key),
                2 => Request::FindValue(key),
                3 => Request::Get(key),
                _ => Request::Put { ttl_s: random.u16(..9), replication, key, value },
            };
            Operation::Ask { to, request }
        }

        fn operations(&self) -> usize {
            Service::operations(self)
        }
    }

    /// A node asks its clients too.
    fn answers_something(message: &Message<'_>) -> bool {
        crate::dialect::sealed::codec::is_answer(message.kind())
    }

    super::suite!(Service);

    /// Regression: the address that no node had room for was taken without a word.
    #[test]
    fn a_node_has_room_for_so_many_bootstraps() {
        let mut service = Service::new(Default::default(), 1);
        assert!(!service.add_bootstrap(nowhere(), Time::ZERO), "there is no node");
        service.add_node(at(0), 1, Time::ZERO);
        let taken = (1..=100).filter(|n| service.add_bootstrap(at(*n), Time::ZERO)).count();
        assert_eq!(taken, crate::limits::BOOTSTRAPS);
        assert!(service.add_bootstrap(at(1), Time::ZERO), "one that is known");
        assert!(!service.add_bootstrap("[::1]:7".parse().unwrap(), Time::ZERO), "of another family");
    }
}
