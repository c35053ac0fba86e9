//! The `libp2p` crate's Kademlia (kad::Behaviour with its MemoryStore over TCP, noise and yamux), driven by put_record
//! and get_record.
//!
//! Built with `CARGO_TARGET_DIR=../../../target/peers cargo build --release --locked` in this folder. Measures put and
//! get of fresh 64-byte records through random nodes of one process on loopback, and gets per second with some in
//! flight; see ../run for all peers.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::kad::{self, GetRecordOk, QueryId, QueryResult, Quorum, Record, RecordKey, store::MemoryStore};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, identify, noise, tcp, yamux};
use tokio::sync::{mpsc, oneshot};

#[path = "../../bench.rs"]
mod bench;

/// Nodes known to each: its k.
const WANTED: usize = 20;

#[derive(NetworkBehaviour)]
struct Both {
    kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
}

/// What a node is told to do. A dropped answer is a failure.
enum Task {
    Put(Record, Quorum, oneshot::Sender<()>),
    Get(RecordKey, oneshot::Sender<Vec<u8>>),
    /// Looks some key up; how many nodes it knows then, and how many more queries of its own go on.
    Meet(oneshot::Sender<(usize, usize)>),
}

fn swarm() -> Swarm<Both> {
    let builder = SwarmBuilder::with_new_identity().with_tokio();
    let tcp = tcp::Config::default().nodelay(true);
    let builder = builder.with_tcp(tcp, noise::Config::new, yamux::Config::default).expect("a transport");
    let builder = builder.with_behaviour(|key| {
        let me = key.public().to_peer_id();
        let limits = kad::store::MemoryStoreConfig { max_records: 100_000, ..Default::default() };
        let protocol = libp2p::StreamProtocol::new("/dayfly-peers/kad");
        let store = MemoryStore::with_config(me, limits);
        let mut kad = kad::Behaviour::with_config(me, store, kad::Config::new(protocol));
        kad.set_mode(Some(kad::Mode::Server));
        let identify = identify::Behaviour::new(identify::Config::new("/dayfly-peers/1".into(), key.public()));
        Both { kad, identify }
    });
    let stay = |config: libp2p::swarm::Config| config.with_idle_connection_timeout(Duration::from_secs(3600));
    builder.expect("a behaviour").with_swarm_config(stay).build()
}

/// One node: its swarm, and who waits for which query.
struct Node {
    swarm: Swarm<Both>,
    puts: HashMap<QueryId, oneshot::Sender<()>>,
    gets: HashMap<QueryId, oneshot::Sender<Vec<u8>>>,
    meets: HashMap<QueryId, oneshot::Sender<(usize, usize)>>,
}

impl Node {
    async fn run(mut self, mut tasks: mpsc::UnboundedReceiver<Task>) {
        loop {
            tokio::select! {
                Some(task) = tasks.recv() => self.begin(task),
                event = self.swarm.select_next_some() => self.see(event),
            }
        }
    }

    fn begin(&mut self, task: Task) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        match task {
            Task::Put(record, quorum, waits) => {
                if let Ok(query) = kad.put_record(record, quorum) {
                    self.puts.insert(query, waits);
                }
            }
            Task::Get(key, waits) => {
                self.gets.insert(kad.get_record(key), waits);
            }
            Task::Meet(waits) => {
                self.meets.insert(kad.get_closest_peers(PeerId::random()), waits);
            }
        }
    }

    fn see(&mut self, event: SwarmEvent<BothEvent>) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        match event {
            SwarmEvent::Behaviour(BothEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                for address in info.listen_addrs {
                    kad.add_address(&peer_id, address);
                }
            }
            SwarmEvent::Behaviour(BothEvent::Kad(kad::Event::OutboundQueryProgressed { id, result, step, .. })) => {
                match result {
                    QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found))) => {
                        // The first will do: the query need not go on.
                        if let (Some(waits), Some(mut query)) = (self.gets.remove(&id), kad.query_mut(&id)) {
                            let _ = waits.send(found.record.value);
                            query.finish();
                        }
                    }
                    QueryResult::PutRecord(stored) => {
                        if let (Some(waits), true) = (self.puts.remove(&id), stored.is_ok()) {
                            let _ = waits.send(());
                        }
                    }
                    QueryResult::GetClosestPeers(_) if step.last => {
                        if let Some(waits) = self.meets.remove(&id) {
                            let known = kad.kbuckets().map(|bucket| bucket.num_entries()).sum();
                            let _ = waits.send((known, kad.iter_queries().filter(|query| query.id() != id).count()));
                        }
                    }
                    _ if step.last => drop(self.gets.remove(&id)),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

struct Libp2p(Vec<mpsc::UnboundedSender<Task>>);

impl Libp2p {
    async fn ask<T>(&self, node: usize, task: impl FnOnce(oneshot::Sender<T>) -> Task) -> Option<T> {
        let (waits, answer) = oneshot::channel();
        self.0[node].send(task(waits)).ok()?;
        answer.await.ok()
    }

    /// Every node looks something up: nodes known, and other queries that go on.
    async fn meet(&self) -> Vec<(usize, usize)> {
        let meets = (0..self.0.len()).map(|node| self.ask(node, Task::Meet));
        futures::future::join_all(meets).await.into_iter().map(Option::unwrap_or_default).collect()
    }
}

impl bench::Network for Libp2p {
    const PEER: &'static str = "libp2p-kad 0.49.0";
    const NOTE: &'static str = "unsigned records over TCP with noise and yamux, all connections kept open, measured \
        once the joining came to rest (not in startup_s), k is 20, a put waits for all 20, a get stops at the first \
        record; tokio with two threads for all nodes";
    type Key = RecordKey;

    async fn start(count: usize) -> Self {
        let (mut nodes, mut first) = (Vec::new(), None::<(PeerId, Multiaddr)>);
        for _ in 0..count {
            let mut swarm = swarm();
            swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).expect("a listener");
            let address = loop {
                if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                    break address;
                }
            };
            let kad = &mut swarm.behaviour_mut().kad;
            if let Some((peer, address)) = &first {
                kad.add_address(peer, address.clone());
                kad.bootstrap().expect("somebody to begin with");
            } else {
                first = Some((*swarm.local_peer_id(), address));
            }
            let (tasks, told) = mpsc::unbounded_channel();
            nodes.push(tasks);
            let (puts, gets, meets) = Default::default();
            tokio::spawn(Node { swarm, puts, gets, meets }.run(told));
        }
        let network = Self(nodes);
        let begun = Instant::now();
        while network.meet().await.iter().any(|each| each.0 < WANTED.min(count - 1)) {
            assert!(begun.elapsed() < bench::JOIN_BOUND, "the network is not joined");
        }
        network
    }

    /// Nodes look themselves up on their own, 500 ms after they met others, which takes all the time there is.
    async fn settle(&self) {
        let (begun, mut quiet) = (Instant::now(), 0);
        while quiet < 2 && begun.elapsed() < bench::JOIN_BOUND {
            tokio::time::sleep(Duration::from_millis(600)).await;
            quiet = if self.meet().await.iter().all(|each| each.1 == 0) { quiet + 1 } else { 0 };
        }
        let mut known: Vec<usize> = self.meet().await.iter().map(|each| each.0).collect();
        known.sort();
        eprintln!("nodes known: {known:?}, at rest after {:?} more", begun.elapsed());
    }

    async fn put(&self, node: usize, value: &[u8]) -> Option<RecordKey> {
        let key = RecordKey::new(&&value[..32]);
        let record = Record::new(key.clone(), value.to_vec());
        let all = NonZeroUsize::new(kad::K_VALUE.get().min(self.0.len() - 1)).map_or(Quorum::One, Quorum::N);
        self.ask(node, |waits| Task::Put(record, all, waits)).await.map(|()| key)
    }

    async fn get(&self, node: usize, key: RecordKey) -> Option<Vec<u8>> {
        self.ask(node, |waits| Task::Get(key, waits)).await
    }
}

fn main() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().expect("a runtime").block_on(bench::run::<Libp2p>());
}
