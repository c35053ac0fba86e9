//! What a small swarm of any dialect goes through: requests of clients, strangers, deaths, gaps and partitions in an
//! order that the seed decides. Then the faults stop and the swarm must heal; then the clients leave and it must come
//! to rest. Panics where something happens that must not, and the caller names the seed. What the requests mean is the
//! [`SimDialect`]'s; nothing here knows a message.

use crate::engine::{Engine, EngineSettings};
use crate::limits::{LINGER_MS, STALL_MS};
use crate::sim::address::number_of;
use crate::sim::dialect::{Canary, Heard, SimDialect};
use crate::sim::swarm::Swarm;
use crate::sim::weather::{LONGEST_GAP_MS, Weather};
use crate::time::Time;

/// Machines of a swarm: few enough that every one can know every other.
const MACHINES: std::ops::Range<usize> = 3..9;
/// Limits on connections: the least leaves room for every machine and some clients.
const CONNECTIONS: std::ops::Range<usize> = 24..200;
/// How often a client comes again before it gives up.
const TRIES: usize = 4;
/// How many things are stored and looked for at the end.
const PROMISES: usize = 12;
/// The longest pause between storing and looking for something at the end.
const PAUSE_MS: u64 = 3_000;
/// One in this many steps is an action, the others are what follows from actions.
const STEPS_PER_ACTION: u32 = 24;
/// How long the world waits for something to happen before it acts.
const QUIET_MS: u64 = 1_000;
/// What a swarm is given to heal: the longest pause between two tries to bootstrap, and the upkeep after it.
const HEALING_MS: u64 = 120_000;
/// What a request and the way there and back take at most on a quiet network.
const ANSWER_MS: u64 = 8_000;

/// A request that a client made and that was not answered yet.
#[derive(Clone, Debug)]
struct Asked<R> {
    client: usize,
    /// The machine that was asked.
    number: usize,
    request: R,
    at: Time,
    /// The machine may let it wait for ever: see [`Heard::Listening`].
    is_listening: bool,
}

/// A swarm and its clients.
#[derive(Debug)]
pub struct Ordeal<D: SimDialect> {
    /// The swarm.
    pub swarm: Swarm<D>,
    /// What its clients did, by which their answers are judged.
    pub model: D,
    /// Answers that showed what another client did before.
    pub effects: usize,
    /// Answers of any kind.
    pub answers: usize,
    canary: Canary<D::Canary>,
    asked: Vec<Asked<D::Request>>,
    /// What is to be asked of which machine, and when ([`SimDialect::follow_ups`]).
    later: Vec<(Time, usize, D::Request)>,
}

impl<D: SimDialect> Ordeal<D> {
    /// The swarm of `seed`, which draws its own weather. `canary` breaks something, to see that it is noticed.
    pub fn new(seed: u64, canary: Canary<D::Canary>) -> Ordeal<D> {
        let mut random = fastrand::Rng::with_seed(seed);
        let weather = Weather::drawn(&mut random);
        let settings = EngineSettings { max_connections: random.usize(CONNECTIONS), ..EngineSettings::default() };
        let model = D::new(&weather, canary);
        let mut swarm = Swarm::new(settings, weather, seed);
        swarm.canary = canary;
        let mut ordeal = Ordeal { swarm, model, effects: 0, answers: 0, canary, asked: Vec::new(), later: Vec::new() };
        let machines = random.usize(MACHINES);
        for _ in 0..machines {
            let mut own = settings;
            D::draw_settings(&mut own, &mut random);
            ordeal.swarm.add_machine_with(own);
        }
        // Somebody must be there for the others.
        ordeal.swarm.machines[0].behind_nat = false;
        (0..machines).for_each(|number| ordeal.bootstrap(number));
        ordeal
    }

    /// Tells a machine of others that can be dialled: the first two, and one at random.
    fn bootstrap(&mut self, number: usize) {
        let machines = self.swarm.machines.len();
        for known in [0, self.swarm.random.usize(..machines), 1] {
            if known != number && known < machines && !self.swarm.machines[known].behind_nat {
                self.swarm.join(number, known);
            }
        }
    }

    // ---- under faults ----

    /// One step under faults: an action of the seed's choice, or what follows from earlier ones.
    pub fn step(&mut self) {
        if self.swarm.random.u32(..STEPS_PER_ACTION) == 0 {
            self.act();
        } else {
            let next = self.later.iter().map(|(at, ..)| *at).fold(self.swarm.now().after(QUIET_MS), Time::min);
            self.swarm.step(next);
        }
        self.listen();
        self.follow_up();
    }

    /// Asks what should be asked by now.
    fn follow_up(&mut self) {
        let now = self.swarm.now();
        while let Some(due) = self.later.iter().position(|(at, ..)| *at <= now) {
            let (_, number, request) = self.later.swap_remove(due);
            self.ask(number, request);
        }
    }

    fn act(&mut self) {
        let Weather { churn, gaps, partitions, strangers, .. } = self.swarm.weather;
        let number = self.swarm.random.usize(..self.swarm.machines.len());
        let now = self.swarm.now();
        let mut chance = self.swarm.random.f64();
        let mut falls = |share: f64| {
            chance -= share;
            chance < 0.0
        };
        if falls(churn) {
            if self.swarm.machines[number].engine.is_some() {
                let tell = self.swarm.random.bool();
                self.swarm.kill(number, tell);
            } else {
                self.swarm.start(number);
                self.bootstrap(number);
            }
        } else if falls(gaps) {
            let ms = self.swarm.random.u64(..LONGEST_GAP_MS);
            self.swarm.freeze(number, now.after(ms));
        } else if falls(partitions) {
            let ms = self.swarm.random.u64(..LONGEST_GAP_MS);
            self.swarm.part(now.after(ms));
        } else if falls(strangers) {
            self.stranger(number);
        } else {
            let nth = self.swarm.clients.len();
            let request = self.model.draw_request(nth, &mut self.swarm.random);
            self.ask(number, request);
        }
    }

    /// A client makes a request of machine `number`.
    fn ask(&mut self, number: usize, request: D::Request) {
        let client = self.swarm.connect(number);
        let bytes = self.model.say(&request);
        self.swarm.say(client, &bytes);
        self.asked.push(Asked { client, number, request, at: self.swarm.now(), is_listening: false });
    }

    /// Somebody connects who does not mean well.
    fn stranger(&mut self, number: usize) {
        let client = self.swarm.connect(number);
        let random = &mut self.swarm.random;
        let mut bytes = D::nonsense(random);
        if random.u8(..4) == 0 && !bytes.is_empty() {
            let at = random.usize(..bytes.len());
            bytes[at] ^= 1 << random.u8(..8);
        }
        self.swarm.clients[client].is_deaf = self.swarm.random.bool();
        self.swarm.say(client, &bytes);
        match self.swarm.random.u8(..4) {
            0 => self.swarm.finish(client),
            1 => self.swarm.abort(client),
            _ => {}
        }
    }

    /// Takes in what came back to the clients, and judges it.
    fn listen(&mut self) {
        if self.canary == Canary::LosesAnswers {
            return;
        }
        let Ordeal { swarm, model, effects, answers, asked, later, .. } = self;
        let now = swarm.now();
        asked.retain_mut(|Asked { client, number, request, at, is_listening }| {
            let seen = &swarm.clients[*client];
            let heard = model.hear(request, *at, &seen.received, now);
            if matches!(heard, Heard::Incomplete | Heard::Listening) {
                *is_listening = heard == Heard::Listening;
                return !seen.is_over;
            }
            *answers += 1;
            *effects += usize::from(heard == Heard::Effect);
            later.extend(model.follow_ups(request, now).into_iter().map(|(at, request)| (at, *number, request)));
            // Half of the clients stay, as modules do.
            if swarm.random.bool() {
                swarm.finish(*client);
            }
            false
        });
    }

    fn run(&mut self, ms: u64) {
        let end = self.swarm.now().after(ms);
        while self.swarm.step(end) {
            self.listen();
        }
    }

    // ---- afterwards ----

    /// The faults stop and every machine is started: whoever asked must be answered, nobody may list a machine that
    /// can't be dialled, and what a client tells one machine must show at another.
    pub fn heal(&mut self) {
        self.swarm.weather = Weather { delays: self.swarm.weather.delays, ..Weather::fair() };
        if self.canary == Canary::ListsHidden {
            self.swarm.machines[1].behind_nat = true;
        }
        let now = self.swarm.now();
        for number in 0..self.swarm.machines.len() {
            self.swarm.freeze(number, now);
            let was_down = self.swarm.machines[number].engine.is_none();
            if was_down {
                self.swarm.start(number);
            }
            if was_down && self.canary != Canary::NeverHeals {
                self.bootstrap(number);
            }
        }
        self.run(D::REJOIN_AFTER_MS.unwrap_or(0).max(HEALING_MS));
        // A client whose machine died since, or that never got through, knows that it must ask again.
        let swarm = &self.swarm;
        self.asked.retain(|asked| swarm.is_served(asked.client));
        self.check_answered();
        // Clients that stay for ever would leave no place for those that come now.
        self.send_clients_away();
        self.run(ANSWER_MS);
        self.check_listed();
        (0..self.swarm.machines.len()).for_each(|number| self.check_in_touch(number));
    }

    fn send_clients_away(&mut self) {
        self.asked.clear();
        self.later.clear();
        (0..self.swarm.clients.len()).for_each(|client| self.swarm.abort(client));
    }

    /// Panics if what a client tells a machine does not show at its neighbour.
    fn check_in_touch(&mut self, number: usize) {
        let neighbour = (number + 1) % self.swarm.machines.len();
        // A client that finds all places taken comes again.
        for attempt in 0..TRIES {
            if D::REJOIN_AFTER_MS.is_some() && self.canary != Canary::NeverHeals {
                (0..self.swarm.machines.len()).for_each(|number| self.bootstrap(number));
                self.run(ANSWER_MS);
            }
            let [first, second] = self.model.proof(number, attempt);
            self.ask(number, first);
            self.run_while(|asked| asked.iter().any(|asked| !asked.is_listening));
            let before = self.effects;
            self.ask(neighbour, second);
            self.run_while(|asked| !asked.is_empty());
            self.asked.clear();
            if self.effects > before {
                return;
            }
        }
        let (complaint, machines) = (self.model.complaint(), self.describe());
        panic!("what machine {number} was told does not show at its neighbour, {complaint}: {machines}");
    }

    /// Panics if what a machine says is stored is not found through another one while a machine holds it that can be
    /// dialled. Call it after [`Ordeal::heal`]. Returns how often there was something to find.
    pub fn keep_promises(&mut self) -> usize {
        let mut called_in = 0;
        for nth in 0..PROMISES {
            let Some([promise, call]) = self.model.draw_promise(nth, &mut self.swarm.random) else {
                break;
            };
            let machines = self.swarm.machines.len();
            let [first, second] = [(); 2].map(|()| self.swarm.random.usize(..machines));
            self.ask(first, promise.clone());
            self.run_while(|asked| !asked.is_empty());
            let pause_ms = self.swarm.random.u64(..PAUSE_MS);
            self.run(pause_ms);
            let lasts = self.holders(&promise, self.swarm.now().after(ANSWER_MS / 2));
            let before = self.effects;
            let asked_at = self.swarm.now();
            self.ask(second, call);
            self.run_while(|asked| !asked.is_empty());
            let took_ms = self.swarm.now().since(asked_at);
            let holders = self.holders(&promise, self.swarm.now());
            let is_found = self.effects > before && self.canary != Canary::BreaksPromises;
            assert!(
                is_found || lasts.is_empty() || holders.is_empty(),
                "what {first} said is stored, and {lasts:?} hold, is not found by {second} in {took_ms} ms, round trips \
                 {:?}, {}: {}: {promise:?}",
                self.swarm.weather.delays,
                self.model.complaint(),
                self.describe()
            );
            called_in += usize::from(!lasts.is_empty());
            self.send_clients_away();
        }
        called_in
    }

    /// The machines that can be dialled and hold what was promised, at `at` still.
    fn holders(&self, promise: &D::Request, at: Time) -> Vec<usize> {
        let keeps = |number: &usize| {
            let machine = &self.swarm.machines[*number];
            let engine = machine.engine.as_ref().filter(|_| !machine.behind_nat);
            engine.is_some_and(|engine| self.model.keeps(engine, promise, at))
        };
        (0..self.swarm.machines.len()).filter(keeps).collect()
    }

    /// Lets time pass while these requests wait, but not for ever.
    fn run_while(&mut self, waits: impl Fn(&[Asked<D::Request>]) -> bool) {
        let end = self.swarm.now().after(ANSWER_MS);
        while waits(&self.asked) && self.swarm.step(end) {
            self.listen();
        }
        self.check_answered();
    }

    /// Panics if a machine lists one that can't be dialled.
    fn check_listed(&self) {
        for (number, machine) in self.swarm.machines.iter().enumerate() {
            let listed = machine.engine.iter().flat_map(D::contacts).filter_map(number_of);
            for listed in listed {
                let is_hidden = self.swarm.machines[listed].behind_nat;
                assert!(!is_hidden, "machine {number} lists {listed}, which can't be dialled");
            }
        }
    }

    /// Panics unless every request was answered, or was taken by a machine that may answer later.
    fn check_answered(&self) {
        let waiting = || self.asked.iter().filter(|asked| !asked.is_listening);
        if let Some(Asked { client, request, at, .. }) = waiting().next() {
            let (to_say, wire) = (self.swarm.clients[*client].to_say.len(), self.swarm.describe(*client));
            let (all, machines) = (waiting().count(), self.describe());
            let first = format!("client {client} at {at:?}, {to_say} bytes to say, {wire}: {machines}: {request:?}");
            panic!("{all} requests were never answered, the first of {first}");
        }
    }

    /// All clients leave and nothing more is asked: in time each machine must have closed their connections, hold no
    /// byte of memory for any connection, and nothing else that should have ended. Call it after [`Ordeal::heal`].
    pub fn rest(&mut self) {
        self.send_clients_away();
        // What has stalled, and what is closing.
        self.run(STALL_MS + LINGER_MS + LONGEST_GAP_MS);
        let mut is_at_rest = vec![false; self.swarm.machines.len()];
        // The machines still ask each other now and then, so each has a while to be seen between two requests.
        let end = self.swarm.now().after(ANSWER_MS);
        // Before the first event too: there may be none.
        loop {
            for (machine, is_at_rest) in self.swarm.machines.iter().zip(&mut is_at_rest) {
                let bytes = machine.engine.as_ref().map_or(0, Engine::buffered_bytes);
                *is_at_rest |= bytes + usize::from(self.canary == Canary::KeepsMemory) == 0;
            }
            if !is_at_rest.contains(&false) || !self.swarm.step(end) {
                break;
            }
        }
        for (number, machine) in self.swarm.machines.iter().enumerate() {
            let Some(engine) = &machine.engine else {
                continue;
            };
            assert!(is_at_rest[number], "machine {number} keeps memory: {}", self.describe());
            let connections = engine.connections() + usize::from(self.canary == Canary::KeepsConnections);
            let to_machines = self.swarm.connections_to_machines(number);
            assert_eq!(connections, to_machines, "machine {number} is connected to machines only: {}", self.describe());
            D::check_rest(engine, self.canary);
        }
    }

    /// The state of every machine, for the message of a failed run.
    fn describe(&self) -> String {
        let machines = self.swarm.machines.iter().map(|machine| {
            let Some(engine) = &machine.engine else {
                return "down".to_string();
            };
            let known: Vec<usize> = D::contacts(engine).into_iter().filter_map(number_of).collect();
            let (nat, links, conns) = (machine.behind_nat, engine.links(), engine.connections());
            let (bytes, own) = (engine.buffered_bytes(), D::describe(engine));
            format!("knows {known:?} nat {nat} links {links} conns {conns} bytes {bytes} {own}")
        });
        let machines = machines.collect::<Vec<_>>().join("; ");
        format!("at {:?}, limits {:?}: {machines}", self.swarm.now(), self.swarm.settings)
    }
}
