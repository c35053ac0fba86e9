//! The guard: counts every fault by name, and logs it without letting a stranger flood the log. Names no dialect; never
//! closes or refuses anything itself.

use std::net::SocketAddr;

use crate::limits::{FAULT_LINES, FAULT_WINDOW_MS};
use crate::time::Time;

macro_rules! counters {
    ($(#[cfg($cfg:meta)] { $($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+ })+) => {
        /// What is counted. Each has a name on the status page, which is also the event of its log line.
        #[derive(Copy, Clone, PartialEq, Eq, Debug)]
        pub enum Counter { $($(#[cfg($cfg)] $(#[doc = $doc])+ $variant,)+)+ }

        impl Counter {
            /// All of them, in order.
            pub const ALL: &'static [Counter] = &[$($(#[cfg($cfg)] Counter::$variant,)+)+];

            /// Its name: lower case, words joined by underscores.
            pub fn name(self) -> &'static str {
                match self { $($(#[cfg($cfg)] Counter::$variant => $name,)+)+ }
            }
        }
    };
}

// In groups: those of every build, then one group for each dialect that only some builds speak.
counters! {
    #[cfg(all())] {
        /// Bytes read from connections: those handled, those refused, and those that still wait in inboxes.
        BytesRead = "bytes_read",
        /// Bytes of frames that were good.
        BytesHandled = "bytes_handled",
        /// Bytes of frames that were not, and of connections that ended before.
        BytesRefused = "bytes_refused",
        /// Requests taken in, of any kind and listener.
        Requests = "requests",
        /// Answers to requests of ours.
        Answers = "answers",
        /// Requests of ours that failed before their timeout.
        RequestsFailed = "requests_failed",
        /// Requests of ours sent once more, because a reused connection died.
        RequestsResent = "requests_resent",
        /// Connections taken in.
        Accepted = "accepted",
        /// Connections dialled that came to be.
        Dialled = "dialled",
        /// Dials that failed.
        DialsFailed = "dials_failed",
        /// Dials from the listening port that found the peer's connection already there.
        SimultaneousOpens = "simultaneous_opens",
        /// Frames not complete in time (docs/faults.md, row 1).
        FrameTimeouts = "frame_timeouts",
        /// Connections that said nothing (row 2).
        SilentConnections = "silent_connections",
        /// Impossible sizes (row 3).
        BadSizes = "bad_sizes",
        /// Other protocols on the port (row 5).
        ForeignProtocols = "foreign_protocols",
        /// Checksums that do not match (row 6).
        BadChecksums = "bad_checksums",
        /// Types that are none (row 7).
        UnknownTypes = "unknown_types",
        /// Bodies that do not fit their type.
        Malformed = "malformed",
        /// Answers with more entries than anybody needs (row 9).
        LongLists = "long_lists",
        /// Answers to nothing (row 11).
        UnaskedAnswers = "unasked_answers",
        /// Errors in answer to nothing (row 11).
        UnaskedErrors = "unasked_errors",
        /// Answers that do not fit what was asked (row 11).
        WrongAnswers = "wrong_answers",
        /// Connections closed for three strikes.
        StruckOut = "struck_out",
        /// Connections refused because their address was struck out too often.
        Banned = "banned",
        /// PUTs refused because the store or the source's share of it is full (row 16).
        StoreFull = "store_full",
        /// PUTs refused because the value is too large.
        ValuesTooLarge = "values_too_large",
        /// PUTs refused because they would displace a self-certifying value.
        PutsRefused = "puts_refused",
        /// Requests refused for want of capacity.
        Busy = "busy",
        /// Times a connection was not read because its answers were not (row 18).
        ReadPauses = "read_pauses",
        /// Connections closed because they made no progress or queued too much (row 18).
        SlowReaders = "slow_readers",
        /// Times a connection used up its turn (row 19).
        TurnsUsedUp = "turns_used_up",
        /// Silent connections closed to make room for others (row 20).
        Evicted = "evicted",
        /// Connections refused for the limit in all (row 20).
        TooManyConnections = "too_many_connections",
        /// Connections refused for the limit of their address (row 20).
        TooManyFromAddress = "too_many_from_address",
        /// Connections closed because all buffers together were too large.
        MemoryLimit = "memory_limit",
        /// Accepts that failed for want of descriptors or memory (row 21).
        AcceptsFailed = "accepts_failed",
        /// Connections that broke (row 22).
        Resets = "resets",
        /// Connections to ourselves (row 22).
        SelfConnections = "self_connections",
        /// Bootstrap names that did not resolve (row 25).
        NamesUnresolved = "names_unresolved",
    }
    #[cfg(feature = "hyperdht")] {
        /// Datagrams read.
        DatagramsRead = "datagrams_read",
        /// Datagrams sent.
        DatagramsSent = "datagrams_sent",
        /// Datagrams that could not be sent, or for which there was no room.
        DatagramsUnsent = "datagrams_unsent",
        /// Datagrams that answer a request which was made to somebody else (row 11).
        WrongSources = "wrong_sources",
        /// Updates with a token that is not valid, or no longer.
        BadTokens = "bad_tokens",
        /// Forwards beyond what their source may have made.
        ForwardsRefused = "forwards_refused",
        /// Announcements for which there was no room (row 16).
        RecordsFull = "records_full",
    }
}

/// Counters, and a gate for the log lines of each.
#[derive(Debug)]
pub struct Guard {
    counts: Vec<u64>,
    gates: Vec<Gate>,
}

#[derive(Copy, Clone, Debug, Default)]
struct Gate {
    window: Time,
    lines: u32,
}

impl Default for Guard {
    fn default() -> Self {
        Guard { counts: vec![0; Counter::ALL.len()], gates: vec![Gate::default(); Counter::ALL.len()] }
    }
}

impl Guard {
    /// Counts something that is no fault.
    pub fn count(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts several at once, such as bytes.
    pub fn add(&mut self, counter: Counter, n: usize) {
        self.counts[counter as usize] += n as u64;
    }

    /// Counts and logs a fault that `peer` had a part in: a few lines per window, then silence until the next.
    pub fn fault(&mut self, counter: Counter, peer: SocketAddr, now: Time) {
        self.count(counter);
        let gate = &mut self.gates[counter as usize];
        if now.since(gate.window) >= FAULT_WINDOW_MS {
            if gate.lines > FAULT_LINES {
                log::warn!("{} more={}", counter.name(), gate.lines - FAULT_LINES);
            }
            *gate = Gate { window: now, lines: 0 };
        }
        gate.lines = gate.lines.saturating_add(1);
        if gate.lines <= FAULT_LINES {
            log::warn!("{} peer={peer}", counter.name());
        }
    }

    /// How often `counter` was counted.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counts[counter as usize]
    }
}
