//! Row 32: less memory than the defaults take.

use std::process::Command;

use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Sealed};

use crate::common::{Node, Peer, key};
use crate::row::*;

/// `dayfly` with so many KiB of address space.
fn limited(kib: u32, args: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("ulimit -v {kib}; exec \"$0\" --listen 127.0.0.1:0 {args}");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_dayfly")]);
    command
}

#[test]
fn row_32_the_default_store_follows_the_memory_that_there_is() {
    let settings = limited(80_000, "--check").output().unwrap();
    let settings = String::from_utf8(settings.stdout).unwrap();
    let quarter = 80_000 * 1_024 / 4;
    assert!(settings.contains(&format!("\nstore-bytes = {quarter}\n")), "{settings}");
}

#[test]
fn row_32_a_value_for_which_there_is_no_memory_is_refused() {
    let _alone = crate::common::alone();
    // Far more is promised than there is.
    let mut row = Row::on(Node::start_with(&mut limited(60_000, "--store-bytes 1000000000")), true);
    let mut peer = Peer::connect(row.node.addr);
    let value = vec![7; 60_000];
    let mut put = |n: u64| {
        peer.send(&Message::Put { ttl_s: 9, replication: 1, key: key(n), value: &value });
        match Sealed::decode(&peer.receive()).unwrap() {
            Message::Success { .. } => true,
            Message::Error { code: FULL, .. } => false,
            other => panic!("{other:?}"),
        }
    };
    let stored = (0..2_000).take_while(|n| put(*n)).count();
    assert!((50..1_000).contains(&stored), "{stored} values of 60 KB in 60 MB");
    assert!((2_000..2_100).all(|n| !put(n)), "nor is there memory for others");
    assert!(row.node.is_running());
    Peer::connect(row.node.addr)
        .expect(&Message::Get { key: key(1) }, &Message::Success { key: key(1), value: &value });
    row.end(&["store_full"]);
}
