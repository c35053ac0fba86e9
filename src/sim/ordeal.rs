//! What a small swarm has to go through: clients that put and get, strangers, deaths, gaps and partitions in an order that
//! the seed decides; then the faults stop and it must heal. Panics where something must not be; the caller names the seed.

use std::collections::BTreeMap;

use crate::dialect::Codec;
use crate::dialect::sealed::codec::{Message, Sealed};
use crate::dialect::sealed::service::Service;
use crate::engine::EngineSettings;
use crate::id::Id;
use crate::limits::{DIAL_TIMEOUT_MS, LIFETIME_MAX_MS};
use crate::sim::address::number_of;
use crate::sim::swarm::{Canary, Swarm};
use crate::sim::weather::Weather;
use crate::time::Time;

/// Machines of a swarm: few enough for every one to know every other.
const MACHINES: std::ops::Range<usize> = 3..9;
/// Limits on connections: the least leaves room for every machine and some clients.
const CONNECTIONS: std::ops::Range<usize> = 24..200;
/// How often a client comes again before it gives up.
const TRIES: usize = 4;
/// Different keys.
const KEYS: u8 = 12;
/// One in this many steps is an action, the others are what follows from actions.
const STEPS_PER_ACTION: u32 = 24;
/// How long the world waits for something to happen before it acts.
const QUIET_MS: u64 = 1_000;
/// How long a machine stands still, or the network is in parts, at most.
const LONGEST_GAP_MS: u64 = 15_000;
/// What a swarm is given to heal: the longest pause between two tries to bootstrap, and the upkeep after it.
const HEALING_MS: u64 = 120_000;
/// What a job and the way there and back take at most on a quiet network.
const ANSWER_MS: u64 = 8_000;

/// What was asked on a client's connection.
#[derive(Clone, Debug)]
struct ClientRequest {
    client: usize,
    key: Id,
    /// What was put; `None` for a GET.
    put: Option<Vec<u8>>,
    at: Time,
}

/// A value that was put.
#[derive(Clone, Debug)]
struct Known {
    value: Vec<u8>,
    /// When its PUT was answered: every copy is at least as old.
    answered_at: Option<Time>,
}

/// A swarm and what is known of what its clients did.
#[derive(Debug)]
pub struct Ordeal {
    /// The swarm.
    pub swarm: Swarm,
    /// A fault of the test's own making.
    pub canary: Canary,
    asked: Vec<ClientRequest>,
    known: BTreeMap<Id, Vec<Known>>,
    /// GETs that found something.
    pub found: usize,
    /// Answers of any kind.
    pub answers: usize,
    /// How much later than its PUT was answered a copy may be stored.
    slowest_copy_ms: u64,
    /// When an ERROR came last, and its code.
    last_error: Option<(Time, u32)>,
}

impl Ordeal {
    /// The swarm of `seed`, which draws its own weather.
    pub fn new(seed: u64, canary: Canary) -> Ordeal {
        let mut random = fastrand::Rng::with_seed(seed);
        let weather = Weather::drawn(&mut random);
        let mut settings = EngineSettings { max_connections: random.usize(CONNECTIONS), ..EngineSettings::default() };
        settings.dialects.sealed.store.bytes = random.usize(2_000..200_000);
        settings.dialects.sealed.node.kademlia.paths = random.usize(1..=4);
        let stands_still = weather.gaps > 0.0 || weather.partitions > 0.0;
        let sends_again = weather.lost_connects > 0.0 || weather.late_bytes > 0.0 || weather.resets > 0.0;
        let slowest_copy_ms = match (stands_still, sends_again || weather.churn > 0.0) {
            (true, _) => DIAL_TIMEOUT_MS + LONGEST_GAP_MS,
            (false, true) => DIAL_TIMEOUT_MS,
            // Connecting and asking.
            (false, false) => 2 * weather.delays.quantile(1.0) as u64,
        };
        let mut swarm = Swarm::new(settings, weather, seed);
        swarm.canary = canary;
        let mut ordeal = Ordeal {
            swarm,
            canary,
            asked: Vec::new(),
            known: BTreeMap::new(),
            found: 0,
            answers: 0,
            slowest_copy_ms,
            last_error: None,
        };
        let machines = random.usize(MACHINES);
        for _ in 0..machines {
            ordeal.swarm.add_machine();
        }
        // Somebody must be there for the others.
        ordeal.swarm.machines[0].behind_nat = false;
        (0..machines).for_each(|number| ordeal.bootstrap(number));
        ordeal
    }

    /// Tells a machine of two others: the first one, and one at random.
    fn bootstrap(&mut self, number: usize) {
        let machines = self.swarm.machines.len();
        for known in [0, self.swarm.random.usize(..machines), 1] {
            if known != number && known < machines && !self.swarm.machines[known].behind_nat {
                self.swarm.join(number, known);
            }
        }
    }

    /// One step under faults: an action of the seed's choice, or what follows from earlier ones.
    pub fn step(&mut self) {
        if self.swarm.random.u32(..STEPS_PER_ACTION) == 0 {
            self.act();
        } else {
            self.swarm.step(self.swarm.now().after(QUIET_MS));
        }
        self.listen();
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
            let key = self.swarm.random.u8(..KEYS);
            self.ask(number, key);
        }
    }

    /// A client puts or gets through machine `number`.
    fn ask(&mut self, number: usize, key: u8) {
        let key = Id::hash_of(&[&[key]]);
        let put = self.swarm.random.bool().then(|| {
            let most = if self.swarm.random.u8(..10) == 0 { 20_000 } else { 300 };
            let n = self.swarm.random.usize(..most);
            // No two alike, so that it is known which of them comes back.
            let mut value = self.swarm.clients.len().to_be_bytes().to_vec();
            value.extend((0..n).map(|_| self.swarm.random.u8(..)));
            value
        });
        let replication = self.swarm.random.u8(1..5);
        self.ask_for(number, key, put, replication);
    }

    fn ask_for(&mut self, number: usize, key: Id, put: Option<Vec<u8>>, replication: u8) {
        let client = self.swarm.connect(number);
        let message = match &put {
            Some(value) => {
                self.known.entry(key).or_default().push(Known { value: value.clone(), answered_at: None });
                Message::Put { ttl_s: 10, replication, key, value }
            }
            None => Message::Get { key },
        };
        self.swarm.say(client, &frame(&message));
        self.asked.push(ClientRequest { client, key, put, at: self.swarm.now() });
    }

    /// Somebody who does not mean well.
    fn stranger(&mut self, number: usize) {
        let client = self.swarm.connect(number);
        let random = &mut self.swarm.random;
        let key = Id::hash_of(&[&[random.u8(..KEYS)]]);
        let kind = random.u8(..7);
        let mut bytes = match kind {
            0 => (0..random.usize(..500)).map(|_| random.u8(..)).collect(),
            1 => frame(&Message::Ping { nonce: 1 })[..random.usize(..40)].to_vec(),
            2 => frame(&Message::FindValue { key }).repeat(random.usize(..300)),
            3 => frame(&Message::Get { key }).repeat(random.usize(..80)),
            4 => frame(&Message::Node(crate::dialect::sealed::codec::Nodes::Contacts(&[]))),
            5 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            _ => Vec::new(),
        };
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
        let mut waiting = std::mem::take(&mut self.asked);
        waiting.retain(|asked| {
            let client = &self.swarm.clients[asked.client];
            let Ok(Some(len)) = Sealed::frame_len(&client.received) else {
                return !client.is_over;
            };
            let Some(frame) = client.received.get(..len).map(<[u8]>::to_vec) else {
                return !client.is_over;
            };
            let answer = Sealed::decode(&frame).expect("an answer that can be read");
            if self.canary == Canary::LosesAnswers {
                return true;
            }
            self.judge(asked, &answer);
            // Half of the clients stay, as modules do.
            if self.swarm.random.bool() {
                self.swarm.finish(asked.client);
            }
            false
        });
        waiting.append(&mut self.asked);
        self.asked = waiting;
    }

    fn judge(&mut self, asked: &ClientRequest, answer: &Message<'_>) {
        let now = self.swarm.now();
        self.answers += 1;
        match (answer, &asked.put) {
            (Message::Success { key, value }, Some(put)) => {
                assert!(*key == asked.key && value.is_empty(), "SUCCESS repeats the key");
                let known = self.known.entry(*key).or_default();
                known.iter_mut().filter(|known| known.value == *put).for_each(|known| {
                    known.answered_at.get_or_insert(now);
                });
            }
            (Message::Success { key, value }, None) => {
                assert_eq!(*key, asked.key, "SUCCESS repeats the key");
                self.found += 1;
                let mut value = value.to_vec();
                if self.canary == Canary::WrongKey {
                    value.push(0);
                }
                let known = self.known.get(key).and_then(|all| all.iter().rev().find(|known| known.value == value));
                let known = known.unwrap_or_else(|| {
                    panic!(
                        "only what was put under a key comes back, not {} bytes: {value:?} known {:?}",
                        value.len(),
                        self.known.get(key)
                    )
                });
                let stored_before = known.answered_at.unwrap_or(now);
                let late_ms = if self.canary == Canary::Stale { 2 * LIFETIME_MAX_MS } else { 0 };
                let age_ms = asked.at.since(stored_before) + late_ms;
                // A copy may be stored after the PUT was answered, by a holder that was slow or stood still.
                let most_ms = LIFETIME_MAX_MS + self.slowest_copy_ms;
                assert!(age_ms < most_ms, "a value of age {age_ms} ms was served");
            }
            (Message::Failure { key }, None) => assert_eq!(*key, asked.key, "FAILURE repeats the key"),
            (Message::Error { code, .. }, _) => self.last_error = Some((now, *code)),
            _ => panic!("{answer:?} answers {asked:?}"),
        }
    }

    /// The faults stop: everybody is started, and what was asked must be answered; then every machine must find what
    /// another stores.
    pub fn heal(&mut self) {
        let fair = Weather { delays: self.swarm.weather.delays, ..Weather::fair() };
        self.swarm.weather = fair;
        if self.canary == Canary::ListsHidden {
            self.swarm.machines[1].behind_nat = true;
        }
        let now = self.swarm.now();
        for number in 0..self.swarm.machines.len() {
            if self.swarm.machines[number].engine.is_none() {
                self.swarm.start(number);
                if self.canary != Canary::NeverHeals {
                    self.bootstrap(number);
                }
            }
            self.swarm.freeze(number, now);
        }
        self.run(HEALING_MS);
        // Who asked a machine that died since, or never got through, knows that it has to ask again.
        let swarm = &self.swarm;
        self.asked.retain(|asked| swarm.is_served(asked.client));
        self.check_answered();
        // Clients that stay for ever would leave no place for those that come now.
        (0..self.swarm.clients.len()).for_each(|client| self.swarm.abort(client));
        self.run(ANSWER_MS);
        let machines = self.swarm.machines.len();
        self.check_listed();
        for number in 0..machines {
            let key = Id::hash_of(&[b"healed", &number.to_be_bytes()]);
            let value = b"well again".to_vec();
            let before = self.found;
            // Who finds all places taken comes again.
            for _ in 0..TRIES {
                self.ask_for(number, key, Some(value.clone()), 3);
                self.run_until_answered();
                self.ask_for((number + 1) % machines, key, None, 0);
                self.run_until_answered();
                if self.found > before {
                    break;
                }
            }
            assert!(
                self.found > before,
                "machine {number} stored, which its neighbour does not find, ({:?}): {}",
                self.last_error,
                self.describe()
            );
        }
    }

    /// Panics if somebody lists a machine that can't be dialled.
    fn check_listed(&self) {
        for (number, machine) in self.swarm.machines.iter().enumerate() {
            let nodes = machine.engine.iter().flat_map(|engine| engine.service::<Service>().nodes());
            for entry in nodes.flat_map(|node| node.overlay().table().entries()) {
                let listed = number_of(entry.contact.addr);
                let hidden = listed.filter(|listed| self.swarm.machines[*listed].behind_nat);
                assert!(hidden.is_none(), "machine {number} lists {hidden:?}, which can't be dialled");
            }
        }
    }

    /// Panics unless everybody who asked was answered.
    fn check_answered(&self) {
        if let Some(ClientRequest { client, put, at, .. }) = self.asked.first() {
            let (seen, bytes) = (&self.swarm.clients[*client], put.as_ref().map(Vec::len));
            panic!(
                "{} never answered, first client {client} at {at:?}, put {bytes:?}, to say {}, {}; {}",
                self.asked.len(),
                seen.to_say.len(),
                self.swarm.describe(*client),
                self.describe()
            );
        }
    }

    /// Who knows whom and holds how much, for who reads of a failure.
    fn describe(&self) -> String {
        let machines = self.swarm.machines.iter().map(|machine| {
            let Some(engine) = &machine.engine else {
                return "down".to_string();
            };
            let overlay = engine.service::<Service>().nodes()[0].overlay();
            let known = overlay.table().entries().filter_map(|entry| number_of(entry.contact.addr));
            let (known, counts, nat) = (known.collect::<Vec<_>>(), overlay.counts_itself(), machine.behind_nat);
            let (links, conns) = (engine.links(), engine.connections());
            format!(
                "knows {known:?} counts_itself {counts} nat {nat} links {links} conns {conns} held {}",
                engine.service::<Service>().store().len()
            )
        });
        let machines = machines.collect::<Vec<_>>().join("; ");
        format!("at {:?}, limits {:?}: {machines}", self.swarm.now(), self.swarm.settings)
    }

    fn run(&mut self, ms: u64) {
        let end = self.swarm.now().after(ms);
        while self.swarm.step(end) {
            self.listen();
        }
    }

    fn run_until_answered(&mut self) {
        let end = self.swarm.now().after(ANSWER_MS);
        while !self.asked.is_empty() && self.swarm.step(end) {
            self.listen();
        }
        self.check_answered();
    }
}

fn frame(message: &Message<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    Sealed::encode(message, &mut frame);
    frame
}
