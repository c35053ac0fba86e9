//! A node inside another program: `cargo run --example embed`. Starts three nodes in three threads on loopback, puts a
//! value at the first, and gets it at the others.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use dayfly::Node;
use dayfly::embed::Error;
use dayfly::id::Id;

fn main() -> Result<(), Error> {
    let mut first = Node::builder().start()?;
    let seed = first.local_addr().to_string();
    println!("first   {} {}", first.local_addr(), first.id());
    let key = Id::hash_of(&[b"greeting"]);
    let (found, all) = mpsc::channel();
    for name in ["second", "third"] {
        let (seed, found) = (seed.clone(), found.clone());
        thread::spawn(move || -> Result<(), Error> {
            let mut node = Node::builder().bootstrap(seed).start()?;
            println!("{name:<7} {} {}", node.local_addr(), node.id());
            // A node serves while it asks; what is not there yet is asked for again.
            let value = loop {
                if let Some(value) = node.get(key)? {
                    break value;
                }
            };
            // Nobody listens any more if the others have given up.
            let _ = found.send((name, value));
            loop {
                node.turn(Duration::from_secs(1))?;
            }
        });
    }
    while first.contacts() < 2 {
        first.turn(Duration::from_millis(10))?;
    }
    first.put(key, b"hello", Duration::from_secs(9))?;
    for _ in 0..2 {
        let (name, value) = loop {
            match all.try_recv() {
                Ok(found) => break found,
                Err(_) => first.turn(Duration::from_millis(10))?,
            }
        };
        println!("{name:<7} found {:?}", String::from_utf8_lossy(&value));
    }
    first.stop()
}
