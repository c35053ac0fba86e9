//! What a PUT reports as stored is found, and what it does not store it says why: with nodes that are full, that take
//! only small values, or that hold what may not be replaced. (docs/faults.md, row 37)

mod common;

use std::process::Output;

use common::{Node, Peer, dayfly, eventually};
use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Sealed};
use dayfly::dialect::sealed::{contact_at, key_of};
use dayfly::id::Id;

const PLAIN: &[&str] = &[];
const FULL: &[&str] = &["--store-entries", "0"];
const SMALL: &[&str] = &["--max-value-bytes", "10"];

/// A network of `flags.len()` nodes that all know each other, each with these flags.
fn network_of(flags: &[&[&str]]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for flags in flags {
        let bootstrap = nodes.first().map(|first| first.addr.to_string());
        let joining = bootstrap.iter().flat_map(|addr| ["--bootstrap", addr.as_str()]);
        nodes.push(Node::start(&joining.chain(flags.iter().copied()).collect::<Vec<_>>()));
    }
    // Of more than k, some find no place in a bucket.
    let others = (nodes.len() as u64 - 1).min(20);
    eventually("all know each other", || nodes.iter().all(|node| node.counter("contacts") >= others));
    nodes
}

fn put(node: &Node, words: &[&str]) -> Output {
    let node = node.addr.to_string();
    dayfly(&[&["put", "--node", &node, "--json"], words].concat())
}

/// How many copies a PUT reports, and of how many requested ones; what it says to people.
fn copies(output: &Output) -> (u64, u64, String) {
    let says = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{says}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["stored"], true);
    (json["copies"].as_u64().unwrap(), json["requested"].as_u64().unwrap(), says)
}

fn found(node: &Node, key: &str) -> Option<Vec<u8>> {
    let output = dayfly(&["get", "--node", &node.addr.to_string(), key]);
    (output.status.code() == Some(0)).then_some(output.stdout)
}

fn holds(node: &Node, key: Id) -> bool {
    let mut peer = Peer::connect(node.addr);
    peer.send(&Message::FindValue { key });
    matches!(Sealed::decode(&peer.receive()).unwrap(), Message::Value { .. })
}

/// The nodes, nearest to `key` first.
fn by_distance(nodes: &[Node], key: Id) -> Vec<&Node> {
    let mut sorted: Vec<&Node> = nodes.iter().collect();
    sorted.sort_by_key(|node| contact_at(node.addr).id.distance(&key));
    sorted
}

/// Regression (bug-hunt, row 48): "stored", and then "nobody has it" for seven of ten keys.
#[test]
fn what_the_one_node_holds_that_is_not_full_is_found_wherever_it_is() {
    let mut flags = vec![FULL; 9];
    flags[0] = &[];
    let nodes = network_of(&flags);
    for n in 0..10 {
        let key = format!("key {n}");
        let (copies, requested, says) = copies(&put(&nodes[1 + n % 8], &[&key, "hello"]));
        assert_eq!((copies, requested), (1, 3));
        assert!(says.contains("on 1 of 3 nodes"), "{says}");
        assert!(holds(&nodes[0], key_of(&key)));
        assert_eq!(found(&nodes[1 + (n + 3) % 8], &key).as_deref(), Some(&b"hello"[..]), "{key}");
    }
    assert_eq!(found(&nodes[3], "another key"), None);
}

#[test]
fn large_values_lie_where_they_fit_and_are_found_from_where_they_do_not() {
    let nodes = network_of(&[&[], SMALL, SMALL, SMALL, SMALL, SMALL, SMALL, &[], SMALL]);
    let value = "y".repeat(500);
    eventually("the first knows that others can find it", || copies(&put(&nodes[0], &["large", &value])).0 == 2);
    for n in 0..10 {
        let key = format!("large {n}");
        let (copies, requested, _) = copies(&put(&nodes[0], &[&key, &value]));
        assert_eq!((copies, requested), (2, 3));
        assert_eq!(found(&nodes[1 + n % 6], &key).as_deref(), Some(value.as_bytes()), "{key}");
        let (copies, _, says) = self::copies(&put(&nodes[0], &[&format!("small {n}"), "v"]));
        assert_eq!((copies, says.as_str()), (3, ""), "enough nodes take a small one");
    }
    let refused = put(&nodes[1], &["large", &value]);
    assert_eq!(refused.status.code(), Some(69), "it does not coordinate what it would not hold");
}

/// Regression (bug-hunt, row 51): a network of full nodes said "no node would hold the value", exit 69.
#[test]
fn the_reason_of_the_holders_is_passed_on() {
    let refused = |output: &Output, code: i32, why: &str| {
        let says = String::from_utf8(output.stderr.clone()).unwrap();
        assert!(output.status.code() == Some(code) && says.contains(why), "{says}");
        assert_eq!((says.lines().count(), output.stdout.len()), (1, 0), "{says}");
    };
    for flags in [FULL, &["--store-bytes", "0"]] {
        let nodes = network_of(&[flags; 4]);
        refused(&put(&nodes[0], &["k", "v"]), 75, "store full");
        refused(&put(&nodes[0], &["--replication", "1", "k", "v"]), 75, "store full");
        refused(&put(&nodes[0], &["--here", "k", "v"]), 75, "store full");
        refused(&put(&network_of(&[flags])[0], &["k", "v"]), 75, "store full");
        refused(&put(&network_of(&[flags])[0], &["--replication", "1", "k", "v"]), 75, "store full");
    }
    let nodes = network_of(&[PLAIN; 3]);
    let key = Id::of(b"content").to_string();
    eventually("all hold it, as each knows that others can find it", || {
        copies(&put(&nodes[0], &[&key, "content"]));
        nodes.iter().all(|node| holds(node, Id::of(b"content")))
    });
    refused(&put(&nodes[1], &[&key, "another"]), 69, "self-certifying");
    assert_eq!(found(&nodes[2], &key).as_deref(), Some(&b"content"[..]));
}

/// Regression: `put --replication 1` stored the value on the node that was asked.
#[test]
fn one_copy_lies_on_the_nearest_node_and_here_on_the_one_asked() {
    let nodes = network_of(&[PLAIN; 9]);
    for n in 0..10 {
        let key = format!("one {n}");
        let (copies, requested, says) = copies(&put(&nodes[n % 9], &["--replication", "1", &key, "v"]));
        assert_eq!((copies, requested, says.as_str()), (1, 1, ""));
        let sorted = by_distance(&nodes, key_of(&key));
        let holders: Vec<bool> = sorted.iter().map(|node| holds(node, key_of(&key))).collect();
        assert_eq!(holders, [true, false, false, false, false, false, false, false, false], "{key}");
        assert_eq!(found(&nodes[(n + 1) % 9], &key).as_deref(), Some(&b"v"[..]));
    }
    let sorted = by_distance(&nodes, key_of("here"));
    let (copies, requested, _) = copies(&put(sorted[8], &["--here", "here", "v"]));
    assert_eq!((copies, requested), (1, 1));
    assert!(holds(sorted[8], key_of("here")) && !holds(sorted[0], key_of("here")));
    assert_eq!(found(sorted[2], "here").as_deref(), Some(&b"v"[..]), "though it is the farthest");
    let both = put(&nodes[0], &["--here", "--replication", "2", "k", "v"]);
    assert_eq!(both.status.code(), Some(64));
}

#[test]
fn one_copy_goes_past_the_full_to_the_nearest_that_takes_it() {
    let mut flags = vec![FULL; 9];
    flags[4] = &[];
    let nodes = network_of(&flags);
    for n in 0..5 {
        let key = format!("one {n}");
        assert_eq!(copies(&put(&nodes[0], &["--replication", "1", &key, "v"])).0, 1);
        assert!(holds(&nodes[4], key_of(&key)));
        assert_eq!(found(&nodes[n], &key).as_deref(), Some(&b"v"[..]));
    }
}

/// The lookup of a PUT makes sure of the nearest eight; where all of those are full, it goes on to the k nearest.
#[test]
fn a_put_goes_as_far_out_as_a_get_hears_and_no_farther() {
    let mut flags = vec![FULL; 30];
    flags[7..11].fill(PLAIN);
    let nodes = network_of(&flags);
    for n in 0..20 {
        let key = format!("far {n}");
        let sorted = by_distance(&nodes, key_of(&key));
        let first = sorted.iter().position(|node| nodes[7..11].iter().any(|other| other.addr == node.addr)).unwrap();
        let output = put(&nodes[n % 7], &[&key, "v"]);
        if output.status.code() == Some(0) {
            assert_eq!(found(&nodes[11 + n % 19], &key).as_deref(), Some(&b"v"[..]), "{key}: {first}");
        } else {
            let says = String::from_utf8(output.stderr).unwrap();
            assert!(first >= 18 && output.status.code() == Some(75), "{key}: number {first} has room: {says}");
        }
    }
}

#[test]
fn a_network_of_fewer_nodes_than_copies_is_not_short_of_them() {
    let nodes = network_of(&[&[], &[]]);
    eventually("each has learnt that the other can find it", || {
        let (_, _, says) = copies(&put(&nodes[0], &["k", "v"]));
        assert_eq!(says, "");
        holds(&nodes[0], key_of("k")) && holds(&nodes[1], key_of("k"))
    });
}
