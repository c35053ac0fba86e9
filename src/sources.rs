//! How much each source uses: one place that accounts for shared resources by source. Counts connections and offences
//! of single addresses, and ignores loopback, where all programs of a host share one address. Never closes anything.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::contact::source;
use crate::guard::Counter;
use crate::limits::{BAN_AFTER, BAN_MS, CONNECTIONS_PER_ADDRESS, OFFENDERS};
use crate::time::Time;

/// What each source uses, and its recent offences.
#[derive(Debug, Default)]
pub struct Sources {
    records: BTreeMap<IpAddr, Record>,
    /// The number of records with offences, at most [`OFFENDERS`].
    offenders: usize,
}

/// The record of one source, kept while it has connections or offences.
#[derive(Copy, Clone, Debug, Default)]
struct Record {
    connections: usize,
    offences: u8,
    /// When the first of these offences happened.
    since: Time,
    banned_until: Time,
}

impl Sources {
    /// Admits a connection from `peer` and counts it until [`Sources::left`].
    ///
    /// Errors: the source is banned or has too many connections; the counter says which.
    pub fn admit(&mut self, peer: IpAddr, now: Time) -> Result<(), Counter> {
        let Some(source) = source(peer) else {
            return Ok(());
        };
        let record = self.records.entry(source).or_default();
        if now < record.banned_until {
            return Err(Counter::Banned);
        }
        if record.connections >= CONNECTIONS_PER_ADDRESS {
            return Err(Counter::TooManyFromAddress);
        }
        record.connections += 1;
        Ok(())
    }

    /// A connection that was admitted has ended.
    pub fn left(&mut self, peer: IpAddr) {
        let Some(source) = source(peer) else {
            return;
        };
        if let Some(record) = self.records.get_mut(&source) {
            record.connections -= 1;
            if record.connections == 0 && record.offences == 0 {
                self.records.remove(&source);
            }
        }
    }

    /// Strikes closed a connection from `peer`. The third time within a minute bans its source for a minute.
    pub fn offence(&mut self, peer: IpAddr, now: Time) {
        let Some(source) = source(peer) else {
            return;
        };
        if self.offenders >= OFFENDERS {
            self.forgive_oldest();
        }
        let record = self.records.entry(source).or_default();
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
        let offenders = self.records.iter().filter(|(_, record)| record.offences > 0);
        let Some(source) = offenders.min_by_key(|(_, record)| record.since).map(|(source, _)| *source) else {
            return;
        };
        self.offenders -= 1;
        if let Some(record) = self.records.get_mut(&source) {
            *record = Record { connections: record.connections, ..Record::default() };
            if record.connections == 0 {
                self.records.remove(&source);
            }
        }
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
        let mut sources = Sources::default();
        for at in [0, 1_000] {
            sources.offence(ip("9.9.9.9"), Time::from_ms(at));
            assert!(sources.admit(ip("9.9.9.9"), Time::from_ms(at)).is_ok());
        }
        sources.offence(ip("9.9.9.9"), Time::from_ms(2_000));
        assert_eq!(sources.admit(ip("9.9.9.9"), Time::from_ms(61_999)), Err(Counter::Banned));
        assert!(sources.admit(ip("9.9.9.8"), Time::from_ms(2_000)).is_ok(), "the neighbour is not");
        assert!(sources.admit(ip("9.9.9.9"), Time::from_ms(62_000)).is_ok());
    }

    #[test]
    fn offences_far_apart_and_on_loopback_are_forgiven() {
        let mut sources = Sources::default();
        for at in 0..10 {
            sources.offence(ip("9.9.9.9"), Time::from_ms(at * 40_000));
            assert!(sources.admit(ip("9.9.9.9"), Time::from_ms(at * 40_000)).is_ok());
            sources.offence(ip("127.0.0.1"), Time::ZERO);
        }
        assert!(sources.admit(ip("127.0.0.1"), Time::ZERO).is_ok());
    }

    #[test]
    fn one_address_gets_its_share_of_connections_and_a_slash_64_is_one() {
        let mut sources = Sources::default();
        for n in 0..CONNECTIONS_PER_ADDRESS {
            assert!(sources.admit(ip(&format!("2001:db8::{n:x}")), Time::ZERO).is_ok());
        }
        assert_eq!(sources.admit(ip("2001:db8::ffff:1"), Time::ZERO), Err(Counter::TooManyFromAddress));
        sources.left(ip("2001:db8::1"));
        assert!(sources.admit(ip("2001:db8::ffff:1"), Time::ZERO).is_ok());
        assert!((0..10_000).all(|_| sources.admit(ip("127.0.0.1"), Time::ZERO).is_ok()));
    }

    #[test]
    fn the_memory_of_offenders_is_bounded() {
        let mut sources = Sources::default();
        for n in 0..2 * OFFENDERS as u32 {
            sources.offence(IpAddr::from((0x0909_0000 + n).to_be_bytes()), Time::from_ms(u64::from(n)));
        }
        assert_eq!((sources.offenders, sources.records.len()), (OFFENDERS, OFFENDERS));
    }
}
