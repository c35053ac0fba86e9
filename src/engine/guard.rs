//! The guard: counts every fault by name, logs it without letting a stranger flood the log, and remembers which
//! addresses have too many connections or have misbehaved. Measures against single addresses leave loopback alone,
//! where all programs of a host share one. Never closes anything itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::contact::source;
use crate::dialect::sealed::session::Breach;
use crate::limits::{BAN_AFTER, BAN_MS, CONNECTIONS_PER_ADDRESS, FAULT_LINES, FAULT_WINDOW_MS, OFFENDERS};
use crate::time::Time;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $(#[cfg($cfg:meta)])? $variant:ident = $name:literal,)+) => {
        /// What is counted. Each has a name on the status page, which is also the event of its log line.
        #[derive(Copy, Clone, PartialEq, Eq, Debug)]
        pub enum Counter { $($(#[doc = $doc])+ $(#[cfg($cfg)])? $variant,)+ }

        impl Counter {
            /// All of them, in order.
            pub const ALL: &'static [Counter] = &[$($(#[cfg($cfg)])? Counter::$variant,)+];

            /// Its name: lower case, words joined by underscores.
            pub fn name(self) -> &'static str {
                match self { $($(#[cfg($cfg)])? Counter::$variant => $name,)+ }
            }
        }
    };
}

counters! {
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
    /// Frames not complete in time (faults.md, row 1).
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
    /// Datagrams read.
    #[cfg(feature = "hyperdht")]
    DatagramsRead = "datagrams_read",
    /// Datagrams sent.
    #[cfg(feature = "hyperdht")]
    DatagramsSent = "datagrams_sent",
    /// Datagrams that could not be sent, or for which there was no room.
    #[cfg(feature = "hyperdht")]
    DatagramsUnsent = "datagrams_unsent",
    /// Datagrams that answer a request which was made to somebody else (row 11).
    #[cfg(feature = "hyperdht")]
    WrongSources = "wrong_sources",
    /// Updates with a token that is not valid, or no longer.
    #[cfg(feature = "hyperdht")]
    BadTokens = "bad_tokens",
    /// Forwards beyond what their source may have made.
    #[cfg(feature = "hyperdht")]
    ForwardsRefused = "forwards_refused",
    /// Announcements for which there was no room (row 16).
    #[cfg(feature = "hyperdht")]
    RecordsFull = "records_full",
    /// Bootstrap names that did not resolve (row 25).
    NamesUnresolved = "names_unresolved",
}

/// Counters, log gates and the memory of addresses.
#[derive(Debug)]
pub struct Guard {
    counts: Vec<u64>,
    gates: Vec<Gate>,
    sources: BTreeMap<IpAddr, Record>,
    /// Records with offences.
    offenders: usize,
}

#[derive(Copy, Clone, Debug, Default)]
struct Gate {
    window: Time,
    lines: u32,
}

/// What is known of an address: kept while it has connections or offences.
#[derive(Copy, Clone, Debug, Default)]
struct Record {
    connections: usize,
    offences: u8,
    /// When the first of the offences was.
    since: Time,
    banned_until: Time,
}

impl Default for Guard {
    fn default() -> Self {
        Guard {
            counts: vec![0; Counter::ALL.len()],
            gates: vec![Gate::default(); Counter::ALL.len()],
            sources: BTreeMap::new(),
            offenders: 0,
        }
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

    /// Whether a connection from `peer` may be taken in; if so, it is counted until [`Guard::left`].
    pub fn admit(&mut self, peer: IpAddr, now: Time) -> Result<(), Counter> {
        let Some(source) = source(peer) else {
            return Ok(());
        };
        let record = self.sources.entry(source).or_default();
        if now < record.banned_until {
            return Err(Counter::Banned);
        }
        if record.connections >= CONNECTIONS_PER_ADDRESS {
            return Err(Counter::TooManyFromAddress);
        }
        record.connections += 1;
        Ok(())
    }

    /// An admitted connection has ended.
    pub fn left(&mut self, peer: IpAddr) {
        let Some(source) = source(peer) else {
            return;
        };
        if let Some(record) = self.sources.get_mut(&source) {
            record.connections -= 1;
            if record.connections == 0 && record.offences == 0 {
                self.sources.remove(&source);
            }
        }
    }

    /// A connection from `peer` was closed for its strikes; the third in a minute gets the address refused for one.
    pub fn offence(&mut self, peer: IpAddr, now: Time) {
        let Some(source) = source(peer) else {
            return;
        };
        if self.offenders >= OFFENDERS {
            self.forgive_oldest();
        }
        let record = self.sources.entry(source).or_default();
        self.offenders += usize::from(record.offences == 0);
        if record.offences == 0 || now.since(record.since) >= BAN_MS {
            (record.offences, record.since) = (0, now);
        }
        record.offences = record.offences.saturating_add(1);
        if record.offences >= BAN_AFTER {
            record.banned_until = now.after(BAN_MS);
        }
    }

    fn forgive_oldest(&mut self) {
        let offenders = self.sources.iter().filter(|(_, record)| record.offences > 0);
        let Some(source) = offenders.min_by_key(|(_, record)| record.since).map(|(source, _)| *source) else {
            return;
        };
        self.offenders -= 1;
        if let Some(record) = self.sources.get_mut(&source) {
            *record = Record { connections: record.connections, ..Record::default() };
            if record.connections == 0 {
                self.sources.remove(&source);
            }
        }
    }
}

/// The counter of a breach.
pub fn counter_of(breach: Breach) -> Counter {
    match breach {
        Breach::BadSize => Counter::BadSizes,
        Breach::BadChecksum => Counter::BadChecksums,
        Breach::UnknownType => Counter::UnknownTypes,
        Breach::Malformed => Counter::Malformed,
        Breach::UnaskedAnswer => Counter::UnaskedAnswers,
        Breach::UnaskedError => Counter::UnaskedErrors,
        Breach::WrongAnswer => Counter::WrongAnswers,
        Breach::ForeignProtocol => Counter::ForeignProtocols,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn three_offences_in_a_minute_ban_for_a_minute() {
        let mut guard = Guard::default();
        for at in [0, 1_000] {
            guard.offence(ip("9.9.9.9"), Time::from_ms(at));
            assert!(guard.admit(ip("9.9.9.9"), Time::from_ms(at)).is_ok());
        }
        guard.offence(ip("9.9.9.9"), Time::from_ms(2_000));
        assert_eq!(guard.admit(ip("9.9.9.9"), Time::from_ms(61_999)), Err(Counter::Banned));
        assert!(guard.admit(ip("9.9.9.8"), Time::from_ms(2_000)).is_ok(), "the neighbour is not");
        assert!(guard.admit(ip("9.9.9.9"), Time::from_ms(62_000)).is_ok());
    }

    #[test]
    fn offences_far_apart_and_on_loopback_are_forgiven() {
        let mut guard = Guard::default();
        for at in 0..10 {
            guard.offence(ip("9.9.9.9"), Time::from_ms(at * 40_000));
            assert!(guard.admit(ip("9.9.9.9"), Time::from_ms(at * 40_000)).is_ok());
            guard.offence(ip("127.0.0.1"), Time::ZERO);
        }
        assert!(guard.admit(ip("127.0.0.1"), Time::ZERO).is_ok());
    }

    #[test]
    fn one_address_gets_its_share_of_connections_and_a_slash_64_is_one() {
        let mut guard = Guard::default();
        for n in 0..CONNECTIONS_PER_ADDRESS {
            assert!(guard.admit(ip(&format!("2001:db8::{n:x}")), Time::ZERO).is_ok());
        }
        assert_eq!(guard.admit(ip("2001:db8::ffff:1"), Time::ZERO), Err(Counter::TooManyFromAddress));
        guard.left(ip("2001:db8::1"));
        assert!(guard.admit(ip("2001:db8::ffff:1"), Time::ZERO).is_ok());
        assert!((0..10_000).all(|_| guard.admit(ip("127.0.0.1"), Time::ZERO).is_ok()));
    }

    #[test]
    fn the_memory_of_offenders_is_bounded() {
        let mut guard = Guard::default();
        for n in 0..2 * OFFENDERS as u32 {
            guard.offence(IpAddr::from((0x0909_0000 + n).to_be_bytes()), Time::from_ms(u64::from(n)));
        }
        assert_eq!((guard.offenders, guard.sources.len()), (OFFENDERS, OFFENDERS));
    }
}
