//! The `mainline` crate (BEP 5 with BEP 44 items), driven through its AsyncDht.
//!
//! Built with `CARGO_TARGET_DIR=../../../target/peers cargo build --release --locked` in this folder. Measures put and
//! get of fresh 64-byte immutable items through random nodes of one process on loopback, and gets per second with some
//! in flight; see ../run for all peers.

use std::net::Ipv4Addr;
use std::time::Instant;

use mainline::async_dht::AsyncDht;
use mainline::{Dht, Id, ServerSettings};

#[path = "../../bench.rs"]
mod bench;

/// Nodes known to each: its k.
const WANTED: usize = 20;

struct Mainline(Vec<AsyncDht>);

impl bench::Network for Mainline {
    const PEER: &'static str = "mainline 8.0.1";
    const NOTE: &'static str = "BEP 44 immutable items over UDP, k is 20; one thread per node, which sees a request of \
        its user only between datagrams or after a 50 ms read timeout that cannot be set, and a put ends \
        after another; driver blocking on native futures";
    type Key = Id;

    async fn start(count: usize) -> Self {
        let settings = ServerSettings { max_immutable_values: 100_000, ..ServerSettings::default() };
        let mut nodes: Vec<AsyncDht> = Vec::new();
        let mut bootstrap = Vec::new();
        for _ in 0..count {
            let mut builder = Dht::builder();
            builder.server_mode().server_settings(settings.clone()).bind_address(Ipv4Addr::LOCALHOST).port(0);
            let node = builder.bootstrap(&bootstrap).build().expect("a socket").as_async();
            if bootstrap.is_empty() {
                bootstrap.push(node.info().await.local_addr());
            }
            nodes.push(node);
        }
        let begun = Instant::now();
        let mut known = Vec::new();
        for node in &nodes {
            while node.to_bootstrap().await.len() < WANTED.min(count - 1) && begun.elapsed() < bench::JOIN_BOUND {
                node.find_node(Id::random()).await;
            }
        }
        for node in &nodes {
            known.push(node.to_bootstrap().await.len());
        }
        known.sort();
        eprintln!("nodes known: {known:?}");
        Self(nodes)
    }

    async fn put(&self, node: usize, value: &[u8]) -> Option<Id> {
        self.0[node].put_immutable(value).await.ok()
    }

    async fn get(&self, node: usize, key: Id) -> Option<Vec<u8>> {
        self.0[node].get_immutable(key).await.map(Vec::from)
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(bench::run::<Mainline>());
}
