//! The toy under the suite of all stream dialects, and what only it shows.

use std::net::SocketAddr;

use super::codec::{HEADER, Message, Toy, large_head};
use super::{
    Event, HELLO_MS, IDLE_MS, LARGE_MAX, Operation, PIECE, SEEN, SEEN_MS, SESSION_BYTES, Service, WHILE_MAX_MS,
};
use crate::dialect::Codec;
use crate::dialect::stream::{Failure, Service as _};
use crate::engine::conformance::{Subject, at, limited, nowhere, pairs, suite};
use crate::engine::pairs::Pairs;
use crate::engine::{CallId, Engine, EngineSettings, Output};
use crate::guard::Counter;
use crate::limits::{BUFFER_LARGE, BUFFERED_BYTES, FRAME_MS, NODE_IDLE_MS, OUTBOX_SOFT_BYTES};

fn frame(message: &Message<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    Toy::encode(message, &mut frame);
    frame
}

/// The messages among what was heard.
fn messages(mut heard: &[u8]) -> Vec<Message<'_>> {
    let mut messages = Vec::new();
    while let Some((frame, rest)) = Toy::frame_len(heard).unwrap().and_then(|len| heard.split_at_checked(len)) {
        messages.push(Toy::decode(frame).unwrap());
        heard = rest;
    }
    messages
}

impl Subject for Service {
    const HOLDS_AT_MOST: usize = SESSION_BYTES;

    fn add_node(engine: &mut Engine, addr: SocketAddr, _: u64) {
        engine.service_mut::<Service>().add_node(addr.port().into());
    }

    fn greeting() -> Vec<u8> {
        frame(&Message::Hello { name: 1 })
    }

    fn ping(id: u32) -> Vec<u8> {
        frame(&Message::Ask { id, after_ms: 0, size: 1 })
    }

    fn request(random: &mut fastrand::Rng) -> Vec<u8> {
        let (id, after_ms) = (random.u32(..), random.u16(..=WHILE_MAX_MS));
        match random.u8(..10) {
            0 => frame(&Message::Large { id, bytes: &vec![1; random.usize(..200_000)] }),
            1 => frame(&Message::Ask { id, after_ms: 0, size: random.u16(..) }),
            _ => frame(&Message::Ask { id, after_ms, size: random.u16(..3_000) }),
        }
    }

    fn remark(random: &mut fastrand::Rng) -> Vec<u8> {
        let (bytes, id) = (vec![1; random.usize(..2_000)], random.u64(..20));
        match random.u8(..20) {
            0 => frame(&Message::Bye),
            1 => frame(&Message::Hello { name: 2 }),
            2 => vec![9, 0, 0, 0, 1, 7],
            3 => frame(&Message::Stuffing(&bytes.repeat(100))),
            4..=6 => frame(&Message::Answer { id: id as u32, bytes: &bytes }),
            7..=9 => frame(&Message::Stuffing(&bytes)),
            _ => frame(&Message::Shout { id, text: &bytes[..bytes.len().min(1_000)] }),
        }
    }

    fn answers(heard: &[u8]) -> usize {
        messages(heard).iter().filter(|message| matches!(message, Message::Answer { .. })).count()
    }

    fn operation(random: &mut fastrand::Rng, to: SocketAddr) -> Operation {
        match random.u8(..10) {
            0 => Operation::Large { to, bytes: vec![2; random.usize(..300_000)].into() },
            1 => Operation::Ask { to, after_ms: 0, size: random.u16(..) },
            _ => Operation::Ask { to, after_ms: random.u16(..=WHILE_MAX_MS), size: random.u16(..3_000) },
        }
    }

    fn operations(&self) -> usize {
        Service::operations(self)
    }
}

suite!(Service);

// ---- what only the toy shows ----

/// Engine 0 of a few begins something.
fn start(pairs: &mut Pairs, listener: Option<u16>, operation: Operation) -> CallId {
    let now = pairs.now;
    pairs.engines[0].start::<Service>(listener, operation, now).expect("there is room for it")
}

fn ask(pairs: &mut Pairs, to: SocketAddr) -> CallId {
    start(pairs, Some(0), Operation::Ask { to, after_ms: 10, size: 100 })
}

fn event(pairs: &mut Pairs, call: CallId) -> Option<Event> {
    pairs.engines[0].next_event::<Service>(call)
}

fn count(pairs: &Pairs, counter: Counter) -> u64 {
    pairs.engines[0].guard().get(counter)
}

/// A raw peer of engine 0 that has greeted it.
fn peer(pairs: &mut Pairs) -> usize {
    let peer = pairs.connect(at(0));
    pairs.say(peer, &Service::greeting());
    pairs.settle();
    peer
}

/// What was heard at an end, HELLO aside.
fn heard(pairs: &Pairs, end: usize) -> Vec<Message<'_>> {
    let mut all = messages(&pairs.ends[end].heard);
    assert!(matches!(all.remove(0), Message::Hello { .. }), "both begin with it");
    all
}

#[test]
fn requests_wait_until_the_peer_has_greeted() {
    let mut pairs = pairs::<Service>(1, 1);
    pairs.listen(at(5));
    let call = ask(&mut pairs, at(5));
    pairs.settle();
    assert_eq!(messages(&pairs.ends[1].heard), [Message::Hello { name: 6_500 }]);
    pairs.say(1, &Service::greeting());
    pairs.settle();
    assert_eq!(heard(&pairs, 1), [Message::Ask { id: 0, after_ms: 10, size: 100 }]);
    pairs.say(1, &frame(&Message::Answer { id: 0, bytes: &[0; 100] }));
    pairs.settle();
    assert_eq!(event(&mut pairs, call), Some(Event::Answered));
}

#[test]
fn who_is_dialled_and_never_greets_is_let_go() {
    let mut pairs = pairs::<Service>(1, 1);
    pairs.listen(at(5));
    let call = ask(&mut pairs, at(5));
    pairs.pass(HELLO_MS - 100);
    assert_eq!((event(&mut pairs, call), pairs.engines[0].connections()), (None, 1));
    pairs.pass(200);
    assert_eq!(event(&mut pairs, call), Some(Event::Failed(Failure::Contact)));
    assert_eq!((pairs.engines[0].connections(), count(&pairs, Counter::SilentConnections)), (0, 1));
}

#[test]
fn a_request_before_the_greeting_ends_the_connection() {
    let mut pairs = pairs::<Service>(1, 1);
    let peer = pairs.connect(at(0));
    pairs.say(peer, &Service::ping(1));
    pairs.settle();
    assert_eq!((count(&pairs, Counter::ForeignProtocols), pairs.engines[0].connections()), (1, 0));
}

#[test]
fn a_request_that_nobody_answers_times_out_and_a_late_answer_is_no_fault() {
    let mut pairs = pairs::<Service>(1, 1);
    pairs.listen(at(5));
    let call = ask(&mut pairs, at(5));
    pairs.settle();
    pairs.say(1, &Service::greeting());
    pairs.pass(30_000);
    assert_eq!(event(&mut pairs, call), Some(Event::TimedOut));
    for id in [0; 5] {
        pairs.say(1, &frame(&Message::Answer { id, bytes: &[0; 100] }));
    }
    pairs.settle();
    assert_eq!((pairs.engines[0].connections(), count(&pairs, Counter::UnaskedAnswers)), (1, 5));
}

#[test]
fn answers_come_when_their_time_has_come() {
    let mut pairs = pairs::<Service>(1, 1);
    let peer = peer(&mut pairs);
    for (id, after_ms) in [(1, 300), (2, 100), (3, 0), (4, 200)] {
        pairs.say(peer, &frame(&Message::Ask { id, after_ms, size: 0 }));
    }
    pairs.pass(400);
    assert_eq!(heard(&pairs, peer), [3, 2, 4, 1].map(|id| Message::Answer { id, bytes: b"" }));
}

#[test]
fn requests_to_one_address_share_a_connection_that_is_dialled_from_anywhere() {
    let mut pairs = pairs::<Service>(2, 1);
    let calls = [0; 5].map(|_| ask(&mut pairs, at(1)));
    pairs.pass(100);
    assert!(calls.iter().all(|call| event(&mut pairs, *call) == Some(Event::Answered)));
    let dials = |pairs: &Pairs| pairs.outputs.iter().filter(|(_, o)| matches!(o, Output::Dial { .. })).count();
    let first = pairs.outputs.iter().find(|(_, output)| matches!(output, Output::Dial { .. }));
    assert!(matches!(first, Some((0, Output::Dial { from: None, .. }))) && dials(&pairs) == 1);
    // Nobody is known by the address that it dials from: the way back is another connection.
    let now = pairs.now;
    let back = Operation::Ask { to: pairs.ends[0].addr, after_ms: 0, size: 1 };
    let back = pairs.engines[1].start::<Service>(Some(0), back, now).unwrap();
    pairs.pass(100);
    let failed = Some(Event::Failed(Failure::Contact));
    assert_eq!((pairs.engines[1].next_event::<Service>(back), dials(&pairs)), (failed, 2));
}

#[test]
fn a_client_asks_over_a_connection_that_ends_with_the_answer() {
    let mut pairs = pairs::<Service>(2, 1);
    let call = start(&mut pairs, None, Operation::Ask { to: at(1), after_ms: 1_000, size: 9 });
    pairs.pass(1_100);
    assert_eq!((event(&mut pairs, call), pairs.engines[0].connections()), (Some(Event::Answered), 0));
    // And where no answer comes, when nobody waits for it any more.
    pairs.listen(at(5));
    let call = start(&mut pairs, None, Operation::Ask { to: at(5), after_ms: 0, size: 9 });
    pairs.settle();
    let end = pairs.ends.len() - 1;
    pairs.say(end, &Service::greeting());
    pairs.pass(30_000);
    assert_eq!((event(&mut pairs, call), pairs.engines[0].connections()), (Some(Event::TimedOut), 0));
}

#[test]
fn where_there_is_no_room_for_a_connection_the_operation_fails_at_once() {
    let mut pairs = limited::<Service>(1, 1, EngineSettings { max_connections: 0, ..EngineSettings::default() });
    let call = ask(&mut pairs, at(5));
    pairs.settle();
    assert_eq!(event(&mut pairs, call), Some(Event::Failed(Failure::Busy)));
}

#[test]
fn who_asks_itself_is_told() {
    let mut pairs = pairs::<Service>(1, 1);
    let call = ask(&mut pairs, at(0));
    pairs.pass(100);
    assert_eq!(event(&mut pairs, call), Some(Event::Failed(Failure::Contact)));
    assert!(count(&pairs, Counter::SelfConnections) > 0 && pairs.engines[0].connections() == 0);
}

#[test]
fn a_shout_reaches_everybody_over_as_few_messages_as_a_flood_can() {
    for seed in 0..40 {
        let n = 12;
        let mut pairs = pairs::<Service>(n, seed);
        // A ring, and some chords.
        let mut links: Vec<(usize, usize)> = (0..n).map(|i| (i, (i + 1) % n)).collect();
        links.extend((0..8).map(|_| (pairs.random.usize(..n), pairs.random.usize(..n))).filter(|(i, j)| i != j));
        links.sort();
        links.dedup();
        let now = pairs.now;
        for (i, j) in &links {
            assert!(pairs.engines[*i].service_mut::<Service>().add_bootstrap(at(*j), now));
        }
        pairs.settle();
        let before = pairs.written;
        let call = start(&mut pairs, Some(0), Operation::Shout((*b"hear").into()));
        pairs.settle();
        let Some(Event::Shouted(id, neighbours)) = event(&mut pairs, call) else { panic!("it is under way") };
        assert_eq!(neighbours, pairs.engines[0].service::<Service>().neighbours().count());
        assert!(pairs.engines.iter().all(|engine| engine.service::<Service>().has_heard(id)), "seed {seed}");
        let frame = frame(&Message::Shout { id, text: b"hear" }).len();
        assert_eq!((pairs.written - before) / frame, 2 * links.len() - (n - 1), "seed {seed}");
    }
}

#[test]
fn what_was_shouted_is_not_forgotten_for_what_is_shouted_next() {
    // Who may ask as fast as it likes.
    let mut settings = EngineSettings::default();
    settings.dialects.toy.at_once = u32::MAX;
    let mut pairs = limited::<Service>(1, 1, settings);
    let peer = peer(&mut pairs);
    let shout = |id: usize| frame(&Message::Shout { id: id as u64, text: b"" });
    (0..SEEN + 10).for_each(|id| pairs.say(peer, &shout(id)));
    pairs.settle();
    let has_heard = |pairs: &Pairs, id| pairs.engines[0].service::<Service>().has_heard(id as u64);
    assert!((0..SEEN).all(|id| has_heard(&pairs, id)) && !has_heard(&pairs, SEEN));
    assert_eq!(count(&pairs, Counter::Busy), 10);
    pairs.pass(SEEN_MS);
    let peer = self::peer(&mut pairs);
    pairs.say(peer, &shout(SEEN));
    pairs.settle();
    assert!(has_heard(&pairs, SEEN) && !has_heard(&pairs, 0));
}

#[test]
fn who_asks_too_fast_is_not_read_for_a_while_and_loses_nothing() {
    let mut pairs = pairs::<Service>(1, 1);
    let peer = peer(&mut pairs);
    (0..500).for_each(|id| pairs.say(peer, &Service::ping(id)));
    pairs.settle();
    assert_eq!(heard(&pairs, peer).len(), 200);
    pairs.pass(1_000);
    assert!((270..=310).contains(&heard(&pairs, peer).len()), "{}", heard(&pairs, peer).len());
    pairs.pass(2_400);
    assert_eq!(heard(&pairs, peer).len(), 500);
}

/// With `is_midway` ignored, what was gathered stayed for as long as the peer was silent.
#[test]
fn a_large_message_holds_what_came_of_it_and_only_for_its_time() {
    let mut pairs = pairs::<Service>(1, 1);
    let peer = peer(&mut pairs);
    pairs.say(peer, &large_head(7, LARGE_MAX));
    pairs.say(peer, &[1; 3 * PIECE]);
    pairs.settle();
    let held = pairs.engines[0].buffered_bytes();
    assert!((3 * PIECE..=6 * PIECE + BUFFER_LARGE).contains(&held), "{held}");
    pairs.pass(FRAME_MS - 100);
    assert_eq!(pairs.engines[0].connections(), 1);
    pairs.pass(200);
    assert_eq!((pairs.engines[0].connections(), pairs.engines[0].buffered_bytes()), (0, 0));
    assert_eq!(count(&pairs, Counter::FrameTimeouts), 1);
}

#[test]
fn each_piece_of_a_large_message_has_its_own_time() {
    let mut pairs = pairs::<Service>(1, 1);
    let peer = peer(&mut pairs);
    let bytes = [7; 5 * PIECE + 1];
    pairs.say(peer, &large_head(7, bytes.len()));
    for piece in bytes.chunks(PIECE) {
        pairs.pass(FRAME_MS - 100);
        pairs.say(peer, piece);
    }
    pairs.settle();
    assert_eq!(heard(&pairs, peer), [Message::Answer { id: 7, bytes: &crate::hash::sha256(&bytes) }]);
    assert_eq!(pairs.engines[0].buffered_bytes(), 0);
}

/// Found by the suite: what had come of a unit that was cut off was taken for a unit, and the connection closed with
/// answers owed.
#[test]
fn the_end_of_a_peer_in_the_middle_of_a_large_message_loses_no_answer_and_no_memory() {
    let mut pairs = pairs::<Service>(1, 1);
    let peer = peer(&mut pairs);
    pairs.say(peer, &frame(&Message::Ask { id: 1, after_ms: 5_000, size: 9 }));
    pairs.say(peer, &large_head(7, LARGE_MAX));
    pairs.say(peer, &[255; 3 * PIECE + 100]);
    pairs.fin(peer);
    pairs.settle();
    assert!(pairs.engines[0].buffered_bytes() < 1_000, "of the answer that is owed");
    pairs.pass(5_100);
    assert_eq!(heard(&pairs, peer), [Message::Answer { id: 1, bytes: &[1; 9] }]);
    assert_eq!((pairs.engines[0].connections(), count(&pairs, Counter::BadSizes)), (0, 0));
}

#[test]
fn our_own_large_messages_leave_in_pieces_and_nothing_comes_between_them() {
    let mut pairs = pairs::<Service>(1, 1);
    pairs.listen(at(5));
    let bytes: std::sync::Arc<[u8]> = vec![3; LARGE_MAX].into();
    let large = start(&mut pairs, Some(0), Operation::Large { to: at(5), bytes: bytes.clone() });
    pairs.settle();
    pairs.set_deaf(1, true);
    let conn = pairs.ends[0].conn.unwrap();
    pairs.say(1, &Service::greeting());
    pairs.settle();
    ask(&mut pairs, at(5));
    pairs.say(1, &Service::ping(9));
    for _ in 0..40 {
        let queued = pairs.engines[0].to_write(conn).len();
        assert!(queued <= OUTBOX_SOFT_BYTES + PIECE, "{queued}");
        assert!(pairs.engines[0].buffered_bytes() < 2 * LARGE_MAX);
        pairs.set_deaf(1, false);
        pairs.step();
        pairs.set_deaf(1, true);
    }
    pairs.set_deaf(1, false);
    pairs.settle();
    let said = heard(&pairs, 1);
    assert_eq!(said[0], Message::Large { id: 0, bytes: &bytes });
    assert_eq!(said[1..], [Message::Answer { id: 9, bytes: &[9] }, Message::Ask { id: 1, after_ms: 10, size: 100 }]);
    let hash = crate::hash::sha256(&bytes);
    pairs.say(1, &frame(&Message::Answer { id: 0, bytes: &hash }));
    pairs.settle();
    assert_eq!(event(&mut pairs, large), Some(Event::Answered));
    assert!(pairs.engines[0].buffered_bytes() < 1_000);
}

/// A full inbox was read into a space of nothing, which looks like the peer's end.
#[test]
fn a_unit_larger_than_an_inbox_closes_with_its_counter() {
    let mut pairs = pairs::<Service>(1, 1);
    let peer = peer(&mut pairs);
    pairs.say(peer, &frame(&Message::Stuffing(&[1; BUFFER_LARGE - HEADER])));
    pairs.settle();
    assert_eq!((count(&pairs, Counter::BadSizes), pairs.engines[0].connections()), (0, 1), "it just fits");
    pairs.say(peer, &frame(&Message::Stuffing(&[1; BUFFER_LARGE - HEADER + 1])));
    pairs.settle();
    assert_eq!((count(&pairs, Counter::BadSizes), pairs.engines[0].connections()), (1, 0));
}

#[test]
fn a_neighbour_stays_though_nothing_is_said_and_leaves_in_its_own_time() {
    let mut pairs = pairs::<Service>(2, 1);
    let now = pairs.now;
    pairs.engines[0].service_mut::<Service>().add_bootstrap(at(1), now);
    ask(&mut pairs, at(1));
    pairs.pass(2 * NODE_IDLE_MS);
    assert_eq!((pairs.engines[0].connections(), pairs.engines[1].connections()), (1, 1));
    pairs.pass(IDLE_MS);
    assert_eq!((pairs.engines[0].connections(), pairs.engines[1].connections()), (0, 0));
    assert_eq!(count(&pairs, Counter::Resets), 0);
}

/// Who had been idle got BYE and a close at once, which resets the connection where anything of the peer's is unread.
#[test]
fn a_stop_takes_leave_and_gives_time_to_read_it() {
    let mut pairs = pairs::<Service>(1, 1);
    let peer = peer(&mut pairs);
    pairs.pass(10_000);
    let (now, conn) = (pairs.now, pairs.ends[peer ^ 1].conn.unwrap());
    pairs.engines[0].stop(now);
    pairs.settle();
    assert_eq!(heard(&pairs, peer), [Message::Bye]);
    assert_eq!(pairs.outputs, [(0, Output::ShutdownWrite(conn))]);
    pairs.pass(2_000);
    assert_eq!((&pairs.outputs[1..], pairs.engines[0].is_quiet()), (&[(0, Output::Close(conn))][..], true));
}

/// BYE came before the answers to what lay in the inbox, and whoever hears it takes nothing more in.
#[test]
fn what_waits_for_the_end_of_a_pause_is_answered_before_our_last_word() {
    let mut pairs = pairs::<Service>(1, 1);
    pairs.piece = usize::MAX;
    let peer = pairs.connect(at(0));
    pairs.say(peer, &Service::greeting());
    (0..300).for_each(|id| pairs.say(peer, &Service::ping(id)));
    pairs.settle();
    assert_eq!(heard(&pairs, peer).len(), 200);
    let now = pairs.now;
    pairs.engines[0].stop(now);
    pairs.pass(5_000);
    let heard = heard(&pairs, peer);
    assert_eq!((heard.len(), heard.last()), (301, Some(&Message::Bye)));
    assert!(pairs.ends[peer].has_ended && pairs.engines[0].connections() == 0);
}

#[test]
fn who_does_not_read_its_answers_is_not_asked_for_more_and_takes_little_memory() {
    let mut pairs = pairs::<Service>(1, 1);
    let peer = peer(&mut pairs);
    pairs.set_deaf(peer, true);
    (0..150).for_each(|id| pairs.say(peer, &frame(&Message::Ask { id, after_ms: 0, size: u16::MAX })));
    pairs.settle();
    let held = pairs.engines[0].buffered_bytes();
    assert!((OUTBOX_SOFT_BYTES / 2..3 * OUTBOX_SOFT_BYTES).contains(&held), "{held}");
    assert!(count(&pairs, Counter::ReadPauses) > 0);
    pairs.set_deaf(peer, false);
    pairs.settle();
    assert_eq!(heard(&pairs, peer).len(), 150);
}

#[test]
fn when_memory_runs_out_who_gathers_most_goes_and_others_are_served() {
    let mut pairs = pairs::<Service>(1, 1);
    (pairs.piece, pairs.window) = (usize::MAX, usize::MAX);
    let honest = peer(&mut pairs);
    let piece = [0; 15 * PIECE];
    for _ in 0..2 * BUFFERED_BYTES / LARGE_MAX {
        let greedy = peer(&mut pairs);
        pairs.say(greedy, &large_head(1, LARGE_MAX));
        pairs.say(greedy, &piece);
        pairs.settle();
        assert!(pairs.engines[0].buffered_bytes() <= BUFFERED_BYTES);
    }
    assert!(count(&pairs, Counter::MemoryLimit) > 0);
    pairs.say(honest, &Service::ping(7));
    pairs.settle();
    assert_eq!(heard(&pairs, honest), [Message::Answer { id: 7, bytes: &[7] }]);
}

#[test]
fn what_was_asked_of_whom_we_part_from_fails_at_once_and_our_last_words_arrive() {
    let mut pairs = pairs::<Service>(1, 1);
    pairs.listen(at(5));
    let call = ask(&mut pairs, at(5));
    pairs.settle();
    pairs.say(1, &Service::greeting());
    pairs.say(1, &frame(&Message::Ask { id: 4, after_ms: 200, size: 2 }));
    pairs.settle();
    let conn = pairs.ends[0].conn.unwrap();
    // Once more is no reason to hurry.
    for _ in 0..2 {
        pairs.engines[0].service_mut::<Service>().part(conn);
        pairs.settle();
    }
    assert_eq!(event(&mut pairs, call), Some(Event::Failed(Failure::Contact)));
    pairs.pass(300);
    let asked = Message::Ask { id: 0, after_ms: 10, size: 100 };
    assert_eq!(heard(&pairs, 1), [asked, Message::Answer { id: 4, bytes: &[4; 2] }, Message::Bye]);
    assert!(pairs.ends[1].has_ended && !pairs.ends[1].is_reset);
    pairs.pass(2_000);
    assert_eq!(pairs.engines[0].connections(), 0);
}

#[test]
fn who_is_still_being_dialled_is_parted_from_at_once() {
    let mut pairs = pairs::<Service>(1, 1);
    pairs.dials = crate::engine::pairs::Dials::Vanish;
    let call = ask(&mut pairs, nowhere());
    pairs.settle();
    let Output::Dial { conn, .. } = pairs.outputs[0].1 else { panic!("it is dialled") };
    pairs.engines[0].service_mut::<Service>().part(conn);
    pairs.settle();
    assert_eq!(event(&mut pairs, call), Some(Event::Failed(Failure::Contact)));
    assert_eq!(pairs.engines[0].connections(), 0);
}
