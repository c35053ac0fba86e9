//! What the Rust drivers in this folder share: the workload, its measures and the one line of JSON.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;

/// A get takes no longer.
const GET_BOUND: Duration = Duration::from_secs(5);
/// A network that is not joined by then is measured as it is.
pub const JOIN_BOUND: Duration = Duration::from_secs(60);
/// Values that are there for the measure of throughput.
const KEYS: usize = 200;

/// Somebody's DHT: nodes of one network in this process.
pub trait Network: Sized {
    const PEER: &'static str;
    const NOTE: &'static str;
    type Key: Clone;

    /// Starts nodes and joins them through the first.
    async fn start(nodes: usize) -> Self;
    /// Waits for what the nodes still do about joining; not measured.
    async fn settle(&self) {}
    /// Nothing when it was not stored.
    async fn put(&self, node: usize, value: &[u8]) -> Option<Self::Key>;
    async fn get(&self, node: usize, key: Self::Key) -> Option<Vec<u8>>;
}

type Item<N> = (Option<<N as Network>::Key>, Vec<u8>);

fn argument(name: &str, fallback: f64) -> f64 {
    let given: Vec<String> = std::env::args().collect();
    let at = given.iter().position(|each| each == name);
    at.map_or(fallback, |at| given[at + 1].parse().expect("a number"))
}

fn rss_kb() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// By nearest rank, in milliseconds.
fn percentiles(mut times: Vec<Duration>) -> String {
    if times.is_empty() {
        return r#"{"p50":null,"p99":null}"#.to_string();
    }
    times.sort();
    let rank = |q: f64| times[(q * times.len() as f64).ceil() as usize - 1].as_secs_f64() * 1000.0;
    format!(r#"{{"p50":{:.3},"p99":{:.3}}}"#, rank(0.5), rank(0.99))
}

fn fresh() -> Vec<u8> {
    std::iter::repeat_with(|| fastrand::u8(..)).take(64).collect()
}

/// Whether the value came, and was the right one, before the bound.
async fn right<N: Network>(network: &N, node: usize, (key, value): &Item<N>) -> bool {
    let Some(key) = key.clone() else { return false };
    let got = tokio::time::timeout(GET_BOUND, network.get(node, key)).await;
    got.is_ok_and(|got| got.as_ref() == Some(value))
}

/// Gets per second, and how many were lost.
async fn throughput<N: Network>(network: &N, nodes: usize, seconds: f64, inflight: usize) -> (f64, usize) {
    let mut items: Vec<Item<N>> = Vec::new();
    for _ in 0..KEYS {
        let value = fresh();
        let key = network.put(fastrand::usize(..nodes), &value).await;
        if key.is_none() {
            eprintln!("a value was not stored: its gets are missing");
        }
        items.push((key, value));
    }
    let counts = RefCell::new((0u32, 0usize));
    let (begun, bound) = (Instant::now(), Duration::from_secs_f64(seconds));
    let flying = FuturesUnordered::new();
    for _ in 0..inflight {
        flying.push(async {
            while begun.elapsed() < bound {
                let good = right(network, fastrand::usize(..nodes), &items[fastrand::usize(..KEYS)]).await;
                let mut counts = counts.borrow_mut();
                if good { counts.0 += 1 } else { counts.1 += 1 }
            }
        });
    }
    let _ = tokio::time::timeout(bound, flying.collect::<Vec<()>>()).await;
    let (good, lost) = *counts.borrow();
    (f64::from(good) / begun.elapsed().as_secs_f64(), lost)
}

pub async fn run<N: Network>() {
    let (nodes, pairs) = (argument("--nodes", 50.0) as usize, argument("--pairs", 200.0) as usize);
    let (seconds, inflight) = (argument("--seconds", 3.0), argument("--inflight", 32.0) as usize);
    let before = rss_kb();
    let begun = Instant::now();
    let network = N::start(nodes).await;
    let startup = begun.elapsed().as_secs_f64();
    network.settle().await;
    let (mut puts, mut gets, mut refused) = (Vec::new(), Vec::new(), 0);
    for _ in 0..pairs {
        let one = fastrand::usize(..nodes);
        let other = (one + 1 + fastrand::usize(..nodes - 1)) % nodes;
        let value = fresh();
        let begun = Instant::now();
        let key = network.put(one, &value).await;
        puts.push(begun.elapsed());
        refused += usize::from(key.is_none());
        let begun = Instant::now();
        if right(&network, other, &(key, value)).await {
            gets.push(begun.elapsed());
        }
    }
    let (rate, lost) = throughput(&network, nodes, seconds, inflight).await;
    let (found, kb) = (gets.len(), (rss_kb() - before) / nodes as i64);
    println!(
        "{{{},{},{},{}}}",
        format_args!(r#""peer":"{}","nodes":{nodes},"startup_s":{startup:.3}"#, N::PEER),
        format_args!(r#""put_ms":{},"get_ms":{}"#, percentiles(puts), percentiles(gets)),
        format_args!(r#""found":{found},"missing":{},"put_failed":{refused},"gets_per_s":{rate:.0}"#, pairs - found),
        format_args!(r#""throughput_missing":{lost},"kb_per_node":{kb},"note":"{}""#, N::NOTE)
    );
    std::process::exit(0); // closing every node takes time and says nothing
}
