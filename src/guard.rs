//! The guard: counts every fault by name, and logs it in a way that no stranger can flood the log. Names no dialect;
//! never closes or refuses anything.

use std::net::SocketAddr;

use crate::limits::{FAULT_LINES, FAULT_WINDOW_MS};
use crate::time::Time;

macro_rules! counters {
    ($(#[cfg($cfg:meta)] { $($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+ })+) => {
        /// A kind of event that is counted. Its name appears in the status report and in its log lines.
        #[derive(Copy, Clone, PartialEq, Eq, Debug)]
        pub enum Counter { $($(#[cfg($cfg)] $(#[doc = $doc])+ $variant,)+)+ }

        impl Counter {
            /// All counters, in order.
            pub const ALL: &'static [Counter] = &[$($(#[cfg($cfg)] Counter::$variant,)+)+];

            /// The counter's name: lower case, words joined by underscores.
            pub fn name(self) -> &'static str {
                match self { $($(#[cfg($cfg)] Counter::$variant => $name,)+)+ }
            }
        }
    };
}

// Counters in groups: first those of every build, then one group for each dialect that only some builds include.
counters! {
    #[cfg(all())] {
        /// Bytes read from connections: those handled, those refused, and those that still wait in inboxes.
        BytesRead = "bytes_read",
        /// Bytes of valid frames.
        BytesHandled = "bytes_handled",
        /// Bytes of invalid frames, and bytes that were unread when their connection ended.
        BytesRefused = "bytes_refused",
        /// Requests received, of any kind and on any listener.
        Requests = "requests",
        /// Answers received to our requests.
        Answers = "answers",
        /// Our requests that failed before their timeout.
        RequestsFailed = "requests_failed",
        /// Our requests that were sent again because a reused connection died.
        RequestsResent = "requests_resent",
        /// Connections accepted.
        Accepted = "accepted",
        /// Dials that succeeded.
        Dialled = "dialled",
        /// Dials that failed.
        DialsFailed = "dials_failed",
        /// Dials from the listening port that gave way to the peer's own connection.
        SimultaneousOpens = "simultaneous_opens",
        /// Frames that were not complete in time (docs/faults.md, row 1).
        FrameTimeouts = "frame_timeouts",
        /// Connections closed because their peer sent nothing (row 2).
        SilentConnections = "silent_connections",
        /// Impossible sizes (row 3).
        BadSizes = "bad_sizes",
        /// Other protocols on the port (row 5).
        ForeignProtocols = "foreign_protocols",
        /// Checksums that do not match (row 6).
        BadChecksums = "bad_checksums",
        /// Frames of unknown types (row 7).
        UnknownTypes = "unknown_types",
        /// Frames whose body does not fit their type.
        Malformed = "malformed",
        /// Answers with far too many entries (row 9).
        LongLists = "long_lists",
        /// Answers although we had sent no request (row 11).
        UnaskedAnswers = "unasked_answers",
        /// Errors although we had sent no request (row 11).
        UnaskedErrors = "unasked_errors",
        /// Answers that do not fit our request (row 11).
        WrongAnswers = "wrong_answers",
        /// Connections closed after three strikes.
        StruckOut = "struck_out",
        /// PUTs refused because the store, or the source's share of it, was full (row 16).
        StoreFull = "store_full",
        /// PUTs refused because the value was too large.
        ValuesTooLarge = "values_too_large",
        /// PUTs refused because they would replace a self-certifying value.
        PutsRefused = "puts_refused",
        /// Requests refused for lack of capacity.
        Busy = "busy",
        /// Times reading was paused because the peer was not draining its responses (row 18).
        ReadPauses = "read_pauses",
        /// Connections closed because they made no progress or queued too much (row 18).
        SlowReaders = "slow_readers",
        /// Times a connection used up its share of a turn (row 19).
        TurnsUsedUp = "turns_used_up",
        /// Connections closed to make room for others (row 20).
        Evicted = "evicted",
        /// Connections refused because of the total limit (row 20).
        TooManyConnections = "too_many_connections",
        /// Connections refused because of the limit per address (row 20).
        TooManyFromAddress = "too_many_from_address",
        /// Connections closed because all buffers together held too many bytes.
        MemoryLimit = "memory_limit",
        /// Accepts that failed for lack of descriptors or memory (row 21).
        AcceptsFailed = "accepts_failed",
        /// Connections that the peer or the network reset (row 22).
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
        /// Datagrams dropped because they could not be sent or queued.
        DatagramsUnsent = "datagrams_unsent",
        /// Answers that came from another address than the one asked (row 11).
        WrongSources = "wrong_sources",
        /// Updates with an invalid or expired token.
        BadTokens = "bad_tokens",
        /// Answers kept short because the address that asked has not proved itself (row 30).
        AnswersShrunk = "answers_shrunk",
        /// Forwards refused because of the limit per source or in total.
        ForwardsRefused = "forwards_refused",
        /// Announcements refused because there was no room (row 16).
        RecordsFull = "records_full",
    }
}

/// Counters, and a rate limit for the log lines of each.
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
    /// Counts an event that is not a fault.
    pub fn count(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts `n` events at once, for example bytes.
    pub fn add(&mut self, counter: Counter, n: usize) {
        self.counts[counter as usize] += n as u64;
    }

    /// Counts and logs a fault of the connection to `peer`: up to [`FAULT_LINES`] lines per window, then none until the
    /// next window.
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

    /// The value of `counter`.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counts[counter as usize]
    }
}
