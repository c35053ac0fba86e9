//! Rows that wait for deadlines, side by side.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread::{self, JoinHandle, sleep};

use crate::answers::*;
use crate::frames::*;
use crate::load::*;
use crate::row::*;

/// Rows that wait for deadlines. Whichever is run first starts them all, so that they wait together.
pub const SLOW: [(&str, fn()); 6] = [
    ("row 1", drips_are_cut_off),
    ("row 2", silence_is_cut_off),
    ("row 5", strangers_are_cut_off),
    ("row 15", lonely_node_backs_off),
    ("row 17", lifetimes_are_cut),
    ("row 18", readers_that_never_read),
];

pub static SLOW_STARTED: AtomicBool = AtomicBool::new(false);
pub static SLOW_ROWS: LazyLock<Mutex<BTreeMap<&str, JoinHandle<()>>>> =
    LazyLock::new(|| Mutex::new(SLOW.iter().map(|(name, row)| (*name, thread::spawn(row))).collect()));

/// Waits for a slow row and passes its verdict on.
pub fn slow(name: &str) {
    let first = !SLOW_STARTED.swap(true, Ordering::SeqCst);
    let rows = || SLOW_ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    let row = rows().remove(name).unwrap();
    let verdict = row.join();
    // A process that ends would leave the nodes of the others running.
    while first && !rows().values().all(JoinHandle::is_finished) {
        sleep(ms(20));
    }
    if let Err(panic) = verdict {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        panic!("{name}: {}", text.unwrap_or_default());
    }
}
