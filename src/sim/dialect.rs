//! What the byte level of the simulator must be told about a dialect: how a machine that speaks it starts and joins the
//! others, what its clients send, what the answers mean, and what must hold. There is one implementation per dialect,
//! in [`dialects`](super::dialects). Moves no bytes and lets no time pass; the [`Swarm`](super::swarm::Swarm) does
//! that.

use std::fmt::Debug;
use std::net::SocketAddr;

use crate::engine::{Engine, EngineSettings, Listener};
use crate::sim::weather::Weather;
use crate::time::Time;

/// A fault of a test's own making, to show that a checker catches it. `C` are the faults that only one dialect knows.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Canary<C> {
    /// Nothing is broken.
    None,
    /// Answers get lost inside a machine.
    LosesAnswers,
    /// Bytes get lost between a socket and its engine.
    LosesBytes,
    /// A machine that was down does not join again when the faults stop.
    NeverHeals,
    /// An engine does nothing at its deadline.
    Spins,
    /// The buffers of an engine hold more than they may.
    Overfills,
    /// A machine that can't be dialled is listed by others.
    ListsHidden,
    /// An engine keeps memory when nothing is under way any more.
    KeepsMemory,
    /// An engine keeps the connection of a client that is gone.
    KeepsConnections,
    /// What machines have stored is not found.
    BreaksPromises,
    /// A fault of the dialect.
    Own(C),
}

/// What a client makes of the bytes it has received so far.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// They are no whole answer yet.
    Incomplete,
    /// The machine has taken the request; its answer will come when another client does something, perhaps never.
    Listening,
    /// An answer that shows nothing of what other clients did.
    Answer,
    /// An answer that shows what another client did before: a value was found, a message has arrived.
    Effect,
}

/// A dialect in the simulator. The functions without `self` concern machines; a value of the type stands for all
/// clients of one swarm, and remembers what it needs to judge the answers they get.
pub trait SimDialect: Sized + Debug {
    /// The dialect's name, as tests are called.
    const NAME: &'static str;
    /// The listener that each machine has at its address, and that clients connect to.
    const LISTENER: Listener;
    /// `None`: machines that lost each other find together again by themselves. Else they are told to join again, once
    /// the faults have been over for so many milliseconds that no machine takes a dead connection for a living one.
    const REJOIN_AFTER_MS: Option<u64>;
    /// What a client asks a machine for.
    type Request: Clone + Debug;
    /// The dialect's own faults, one for each of its checkers; an empty enum if it has none.
    type Canary: Copy + Eq + Debug;

    // ---- machines ----

    /// Opens [`SimDialect::LISTENER`] in a new engine: adds the node that others reach at `addr`. `seed` decides its
    /// random choices.
    fn start(engine: &mut Engine, addr: SocketAddr, seed: u64, now: Time);

    /// Tells the machine that somebody listens at `known`, through whom it can join.
    fn join(engine: &mut Engine, known: SocketAddr, now: Time);

    /// The machines that this one would name to others, by address. None of them may be one that can't be dialled.
    fn contacts(engine: &Engine) -> Vec<SocketAddr>;

    /// What the machine knows and holds, for the message of a failed run.
    fn describe(engine: &Engine) -> String;

    /// Panics unless the dialect's own bounds hold. Called after every turn; the engine has checked its invariants and
    /// those of the service.
    fn check(engine: &Engine, settings: &EngineSettings, canary: Canary<Self::Canary>);

    /// Panics if the machine still holds what should have ended, long after the last client left.
    fn check_rest(engine: &Engine, canary: Canary<Self::Canary>);

    // ---- clients ----

    /// Draws the settings that a seed gives to one of its machines.
    fn draw_settings(settings: &mut EngineSettings, random: &mut fastrand::Rng);

    /// The clients of a swarm that lives in this weather.
    fn new(weather: &Weather, canary: Canary<Self::Canary>) -> Self;

    /// Draws what a client asks for. No two calls of a run have the same `number`.
    fn draw_request(&mut self, number: usize, random: &mut fastrand::Rng) -> Self::Request;

    /// What shows that two machines are in one network again. The first request is made of machine `number`; once it
    /// was answered or taken, the second is made of another machine; then one of the two must come to
    /// [`Heard::Effect`]. `attempt` counts from 0 for each machine.
    fn proof(&self, number: usize, attempt: usize) -> [Self::Request; 2];

    /// What the machine of this request should be asked and when, because it was answered at `now` and the answer to
    /// that will tell whether the machine keeps to its times. Called once per answered request.
    fn follow_ups(&self, _request: &Self::Request, _now: Time) -> Vec<(Time, Self::Request)> {
        Vec::new()
    }

    /// A promise and how it is called in: a request to store something, and one of another machine that must come to
    /// [`Heard::Effect`] as long as a machine keeps the promise. `None` if machines of this dialect store nothing. No
    /// two calls of a run have the same `number`.
    fn draw_promise(&mut self, _number: usize, _random: &mut fastrand::Rng) -> Option<[Self::Request; 2]> {
        None
    }

    /// Whether a client was told that what `promise` asked for is stored, and this machine holds it, at `at` still.
    fn keeps(&self, _engine: &Engine, _promise: &Self::Request, _at: Time) -> bool {
        false
    }

    /// The bytes that make a request on a new connection, a greeting included. Whatever comes of the request is judged
    /// against this.
    fn say(&mut self, request: &Self::Request) -> Vec<u8>;

    /// Judges `received`, all bytes that came so far on the connection of a request that was made at `asked_at`. Not
    /// called again once it came to an answer or an effect. Panics if it is an answer that must never be.
    fn hear(&mut self, request: &Self::Request, asked_at: Time, received: &[u8], now: Time) -> Heard;

    /// What a stranger says who speaks the dialect badly, too much, or not at all; perhaps nothing.
    fn nonsense(random: &mut fastrand::Rng) -> Vec<u8>;

    /// What the clients heard last of errors, for the message of a failed run.
    fn complaint(&self) -> String;
}
