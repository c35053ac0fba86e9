//! How much each source uses of every resource that all share: one accounting, so that whoever reaches a bound first
//! can't deny it to everyone else (docs/architecture.md, decision 14). While there is plenty, anybody may have it; when
//! a resource is short, the heaviest source pays. This module counts and judges; it never closes or refuses anything.
//!
//! A source is counted at three levels: its address, its network and its wider network ([`Source`]). A [`Share`] counts
//! what is held of one resource, a [`Rate`] what was used of it lately.
//!
//! The counts are count-min sketches (Cormode and Muthukrishnan 2005): arrays of fixed size, in which each source has
//! one counter per row. Several sources may share a counter, so the least of a source's counters is the count; it may
//! be too high, but never too low. So the memory is fixed, whatever strangers do, and each question takes the same few
//! steps. A count is too high by much only if all four counters are shared with heavy sources: with 126 heavy addresses
//! for one of 2,500 others.

use std::hash::Hasher;
use std::net::IpAddr;

use crate::contact::{Scope, scope};
use crate::hash::seeded;
use crate::limits::{
    ANSWER_BYTES_HALF_LIFE_MS, FORWARDS_HALF_LIFE_MS, LIFETIME_MAX_MS, LONG_TURN_WORK, OFFENDERS, PROBATION_AFTER,
    PROBATION_MS, SOURCE_DIVISORS, SOURCE_RATE_FACTORS, SOURCE_ROWS, SOURCE_SLOTS, TURN_WORK,
};
use crate::recent::Recent;
use crate::time::Time;

/// The levels at which a source is counted: the address (IPv4 /32, IPv6 /64), its network (/24, /56), its wider network
/// (/16, /48).
pub const LEVELS: usize = SOURCE_DIVISORS.len();

/// Where the counters of a source are. Computed once per address by [`Sources::of`].
#[derive(Copy, Clone, Debug)]
pub struct Source {
    /// `None` if nothing is counted ([`Sources::default`]).
    slots: Option<[[u16; SOURCE_ROWS]; LEVELS]>,
    /// Loopback, where all programs of a host share one address. It is counted, but has no limit of its own.
    is_exempt: bool,
}

/// How much of one resource each source holds.
#[derive(Debug, Default)]
pub struct Share {
    /// Level by level and row by row; empty until something is charged.
    counters: Vec<u64>,
    all: u64,
}

impl Source {
    /// Whether it is loopback, which has no limit of its own.
    pub fn is_exempt(self) -> bool {
        self.is_exempt
    }
}

impl Share {
    /// What all sources together hold.
    pub fn all(&self) -> u64 {
        self.all
    }

    /// What `source` holds at each level, perhaps counted too high; zeros if nothing is counted.
    pub fn held(&self, source: Source) -> [u64; LEVELS] {
        let Some(slots) = source.slots.filter(|_| !self.counters.is_empty()) else {
            return [0; LEVELS];
        };
        std::array::from_fn(|level| {
            let counts = slots[level].iter().enumerate().map(|(row, slot)| self.counters[index(level, row, *slot)]);
            counts.min().unwrap_or(0)
        })
    }

    /// `source` holds `n` more from now on.
    pub fn charge(&mut self, source: Source, n: u64) {
        self.all += n;
        self.each(source, |counter| *counter += n);
    }

    /// `source` no longer holds `n` that it was charged for.
    pub fn release(&mut self, source: Source, n: u64) {
        self.all = self.all.saturating_sub(n);
        self.each(source, |counter| *counter = counter.saturating_sub(n));
    }

    fn each(&mut self, source: Source, change: impl Fn(&mut u64)) {
        let Some(slots) = source.slots else {
            return;
        };
        if self.counters.is_empty() {
            self.counters.resize(LEVELS * SOURCE_ROWS * SOURCE_SLOTS, 0);
        }
        for (level, rows) in slots.iter().enumerate() {
            for (row, slot) in rows.iter().enumerate() {
                change(&mut self.counters[index(level, row, *slot)]);
            }
        }
    }

    /// Whether `source` may hold `n` more of a resource of which `free` is left. At each level, it may hold at most a
    /// fraction of what is left after that ([`SOURCE_DIVISORS`]): a lot while there is plenty, less when it is short,
    /// and something is always left for others (Choudhury and Hahne 1998, "dynamic thresholds"). A source that holds
    /// nothing gets what it asks for if there is that much. Loopback gets all that is left.
    pub fn admits(&self, source: Source, n: u64, free: u64) -> bool {
        let Some(left) = free.checked_sub(n) else {
            return false;
        };
        let held = self.held(source);
        let is_within = |(held, divisor): (u64, u64)| held.saturating_add(n).saturating_mul(divisor) <= left;
        source.is_exempt || held == [0; LEVELS] || held.into_iter().zip(SOURCE_DIVISORS).all(is_within)
    }

    /// How heavily `source` weighs: what it holds, as a multiple of the fraction that it may hold. Of two sources, the
    /// heavier one pays when the resource is short.
    pub fn weight(&self, source: Source) -> u64 {
        let held = self.held(source);
        if source.is_exempt {
            // Loopback weighs like a wide network.
            return held[LEVELS - 1];
        }
        held.into_iter().zip(SOURCE_DIVISORS).map(|(held, divisor)| held * divisor).max().unwrap_or(0)
    }

    fn clear(&mut self) {
        self.all = 0;
        self.counters.clear();
    }

    fn halve(&mut self) {
        self.all /= 2;
        if self.all == 0 {
            self.clear();
        }
        self.counters.iter_mut().for_each(|counter| *counter /= 2);
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.counters.capacity() * size_of::<u64>()
    }
}

fn index(level: usize, row: usize, slot: u16) -> usize {
    (level * SOURCE_ROWS + row) * SOURCE_SLOTS + usize::from(slot)
}

/// How much of a resource each source used lately. What was used counts half after each half-life, so a source that
/// keeps to a limit uses half of it in each.
#[derive(Debug)]
pub struct Rate {
    used: Share,
    half_life_ms: u64,
    halved_at: Time,
}

impl Rate {
    /// Nothing was used yet.
    pub fn new(half_life_ms: u64) -> Rate {
        Rate { used: Share::default(), half_life_ms, halved_at: Time::ZERO }
    }

    /// What each source used lately, as of `now`.
    pub fn used(&mut self, now: Time) -> &mut Share {
        let half_lives = now.since(self.halved_at) / self.half_life_ms;
        if half_lives > 0 {
            for _ in 0..half_lives.min(u64::from(u64::BITS)) {
                self.used.halve();
            }
            self.halved_at = self.halved_at.after(half_lives * self.half_life_ms);
        }
        &mut self.used
    }

    /// Uses `n`, if that keeps an address within `of_source`, its networks within a multiple of that
    /// ([`SOURCE_RATE_FACTORS`]), and all sources within `of_all`. Returns whether it did. Loopback is only limited by
    /// `of_all`.
    pub fn take(&mut self, source: Source, n: u64, of_source: u64, of_all: u64, now: Time) -> bool {
        let is_taken = self.has_room(source, n, of_source, of_all, now);
        if is_taken {
            self.used.charge(source, n);
        }
        is_taken
    }

    /// Whether [`Rate::take`] would use `n`.
    pub fn has_room(&mut self, source: Source, n: u64, of_source: u64, of_all: u64, now: Time) -> bool {
        let used = self.used(now);
        let is_within = |(held, factor): (u64, u64)| held.saturating_add(n) <= of_source.saturating_mul(factor);
        let may = source.is_exempt || used.held(source).into_iter().zip(SOURCE_RATE_FACTORS).all(is_within);
        may && used.all.saturating_add(n) <= of_all
    }
}

/// The work done in the current turn of the loop, in bytes moved and hashed. By source only while the turn is long, so
/// that a short one costs nothing.
#[derive(Debug, Default)]
pub struct Turn {
    all: u64,
    by_source: Share,
}

impl Turn {
    /// So much work was done.
    pub fn add(&mut self, work: u64) {
        self.all += work;
    }

    /// The work done so far.
    pub fn all(&self) -> u64 {
        self.all
    }

    /// Whether so much was done that sources are counted, and those that had their part must wait.
    pub fn is_long(&self) -> bool {
        self.all >= LONG_TURN_WORK
    }
}

/// Connections of an address that were closed for strikes.
#[derive(Copy, Clone, Debug, Default)]
struct Offences {
    count: u8,
    /// When the first of them happened.
    since: Time,
    probation_until: Time,
}

/// What each source uses of the resources that all dialects share, and recent offences.
#[derive(Debug)]
pub struct Sources {
    /// Mixed into the hashes, because strangers choose their addresses; `None` if nothing is counted.
    seed: Option<u64>,
    /// Inbound connections.
    pub connections: Share,
    /// Bytes that stores hold.
    pub store_bytes: Share,
    /// Values that stores hold.
    pub store_entries: Share,
    /// Lookups and coordinated PUTs in progress.
    pub jobs: Share,
    /// Bytes of values that clients had this process store on other nodes lately, in bytes for each holder.
    pub coordinated_bytes: Rate,
    /// The number of such values, in thousandths for each holder.
    pub coordinated_entries: Rate,
    /// Records that nodes keep for others.
    pub records: Share,
    /// Datagrams sent lately to addresses that strangers chose.
    pub forwards: Rate,
    /// Bytes of answers sent lately to addresses that had not proved that they receive there, beyond those that anybody
    /// may have.
    pub unproved_bytes: Rate,
    /// The current turn of the loop.
    pub turn: Turn,
    /// By the hash of the address.
    offences: Recent<Offences>,
}

impl Sources {
    /// Counts from now on. `seed` must be secret, so that nobody can choose addresses that share counters. (A default
    /// one counts nothing and admits whatever there is room for, for simulations with a hundred thousand nodes.)
    pub fn new(seed: u64) -> Sources {
        Sources { seed: Some(seed), ..Sources::default() }
    }

    /// The source of `ip`.
    pub fn of(&self, ip: IpAddr) -> Source {
        let is_exempt = scope(ip) == Some(Scope::Loopback);
        let slots = self.seed.map(|seed| {
            prefixes(ip).map(|prefix| {
                let hash = hash_of(seed, prefix);
                std::array::from_fn(|row| (hash >> (16 * row)) as u16 % SOURCE_SLOTS as u16)
            })
        });
        Source { slots, is_exempt }
    }

    /// A long turn did `work` for `peer`.
    pub fn charge_turn(&mut self, peer: IpAddr, work: u64) {
        if scope(peer) != Some(Scope::Loopback) {
            let source = self.of(peer);
            self.turn.by_source.charge(source, work);
        }
    }

    /// Whether `peer` has had its part of a long turn. Loopback has no limit of its own.
    pub fn must_wait(&self, peer: IpAddr) -> bool {
        if !self.turn.is_long() || scope(peer) == Some(Scope::Loopback) {
            return false;
        }
        let is_spent = |(work, factor): (u64, u64)| work >= TURN_WORK * factor;
        let held = self.turn.by_source.held(self.of(peer));
        held.into_iter().zip(SOURCE_RATE_FACTORS).any(is_spent)
    }

    /// The next turn begins.
    pub fn next_turn(&mut self) {
        if self.turn.is_long() {
            self.turn.by_source.clear();
        }
        self.turn.all = 0;
    }

    /// Strikes closed a connection from `peer`. The third time within a minute puts its address on probation for a
    /// minute.
    pub fn offence(&mut self, peer: IpAddr, now: Time) {
        let Some(hash) = self.hash(peer) else {
            return;
        };
        let before = self.offences.get(hash, now).filter(|before| now.since(before.since) < PROBATION_MS);
        let mut offences = before.unwrap_or(Offences { since: now, ..Offences::default() });
        offences.count = offences.count.saturating_add(1);
        if offences.count >= PROBATION_AFTER {
            offences.probation_until = now.after(PROBATION_MS);
        }
        self.offences.set(hash, offences, now.after(PROBATION_MS), now);
    }

    /// Whether the address is on probation: connections that it opens are closed at their first fault.
    pub fn is_on_probation(&self, peer: IpAddr, now: Time) -> bool {
        let offences = self.hash(peer).and_then(|hash| self.offences.get(hash, now));
        offences.is_some_and(|offences| now < offences.probation_until)
    }

    /// `None` for loopback, and if nothing is counted.
    fn hash(&self, peer: IpAddr) -> Option<u64> {
        let seed = self.seed.filter(|_| scope(peer) != Some(Scope::Loopback))?;
        let [address, ..] = prefixes(peer);
        Some(hash_of(seed, address))
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        let held = [&self.connections, &self.store_bytes, &self.store_entries, &self.jobs, &self.records];
        let used = [&self.coordinated_bytes, &self.coordinated_entries, &self.forwards, &self.unproved_bytes];
        let used = used.map(|rate| &rate.used);
        let held = held.into_iter().chain([&self.turn.by_source]);
        let shares: usize = held.chain(used).map(Share::bytes).sum();
        shares + self.offences.bytes() + size_of::<Sources>()
    }
}

impl Default for Sources {
    fn default() -> Sources {
        Sources {
            seed: None,
            connections: Share::default(),
            store_bytes: Share::default(),
            store_entries: Share::default(),
            jobs: Share::default(),
            coordinated_bytes: Rate::new(LIFETIME_MAX_MS / 2),
            coordinated_entries: Rate::new(LIFETIME_MAX_MS / 2),
            records: Share::default(),
            forwards: Rate::new(FORWARDS_HALF_LIFE_MS),
            unproved_bytes: Rate::new(ANSWER_BYTES_HALF_LIFE_MS),
            turn: Turn::default(),
            offences: Recent::new(OFFENDERS),
        }
    }
}

#[inline(never)]
fn hash_of(seed: u64, prefix: u64) -> u64 {
    seeded(seed, |hasher| hasher.write_u64(prefix))
}

/// The prefixes of `ip` at each level. The high bits of an IPv4 prefix are zero, as in no IPv6 address that is routed.
fn prefixes(ip: IpAddr) -> [u64; LEVELS] {
    match ip {
        IpAddr::V4(v4) => {
            let bits = u64::from(u32::from(v4));
            [bits, bits >> 8, bits >> 16]
        }
        IpAddr::V6(v6) => {
            let bits = (u128::from(v6) >> 64) as u64;
            [bits, bits >> 8, bits >> 16]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Attackers, as a property draws them: how many addresses, and how they are spread.
    #[derive(Copy, Clone, Debug)]
    enum Attackers {
        One,
        /// Of one IPv4 /16.
        Many(u32),
        /// Of one IPv6 /48, each in a /64 of its own.
        OneSlash48(u32),
        /// Each in a /16 of its own.
        Scattered(u32),
    }

    impl Attackers {
        fn address(self, n: u32) -> IpAddr {
            match self {
                Attackers::One => ip("9.9.9.9"),
                Attackers::Many(all) => IpAddr::from((0x0909_0000 + n % all).to_be_bytes()),
                Attackers::OneSlash48(all) => {
                    let prefix = 0x2001_0db8_0bad_0000 + u128::from(n % all);
                    std::net::Ipv6Addr::from(prefix << 64 | 1).into()
                }
                Attackers::Scattered(all) => IpAddr::from(((1 + n % all) << 16 | 0x0000_0101).to_be_bytes()),
            }
        }
    }

    fn attackers() -> impl Strategy<Value = Attackers> {
        prop_oneof![
            Just(Attackers::One),
            (2u32..60_000).prop_map(Attackers::Many),
            (2u32..65_536).prop_map(Attackers::OneSlash48),
            (2u32..100).prop_map(Attackers::Scattered),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// The decision itself: whoever is at the bound, the next one from elsewhere gets something.
        #[test]
        fn the_honest_get_their_part_of_what_attackers_fill(
            attackers in attackers(), capacity in 1_000u64..100_000, seed: u64,
        ) {
            let sources = Sources::new(seed);
            let mut share = Share::default();
            let mut refused = 0;
            for n in 0.. {
                let source = sources.of(attackers.address(n));
                if share.admits(source, 1, capacity - share.all()) {
                    share.charge(source, 1);
                    refused = 0;
                } else {
                    refused += 1;
                    if refused > 300 {
                        break;
                    }
                }
            }
            let honest = sources.of(ip("77.1.2.3"));
            let mut got = 0;
            while got < 10 && share.admits(honest, 1, capacity - share.all()) {
                share.charge(honest, 1);
                got += 1;
            }
            let fair = if matches!(attackers, Attackers::Scattered(_)) { 1 } else { 10 };
            prop_assert!(got >= fair, "{got} of {fair} with {} of {capacity} taken", share.all());
            prop_assert!(share.weight(sources.of(attackers.address(0))) >= share.weight(honest));
        }

        #[test]
        fn counts_are_never_too_low_and_come_back_to_zero(
            charges in prop::collection::vec((0u32..3_000, 1u64..100), 1..400), seed: u64,
        ) {
            let sources = Sources::new(seed);
            let mut share = Share::default();
            let mut held = std::collections::BTreeMap::new();
            for (n, amount) in &charges {
                share.charge(sources.of(Attackers::Many(3_000).address(*n)), *amount);
                *held.entry(*n).or_insert(0) += amount;
            }
            for (n, amount) in &held {
                let [address, network, wide] = share.held(sources.of(Attackers::Many(3_000).address(*n)));
                prop_assert!(address >= *amount && network >= address && wide == share.all());
            }
            for (n, amount) in charges {
                share.release(sources.of(Attackers::Many(3_000).address(n)), amount);
            }
            prop_assert!(share.all() == 0 && share.counters.iter().all(|counter| *counter == 0));
        }
    }

    #[test]
    fn one_source_may_hold_a_quarter_its_network_a_third_and_loopback_all() {
        let sources = Sources::new(7);
        let fill = |share: &mut Share, addresses: &dyn Fn(u32) -> IpAddr| {
            (0..4_000u32)
                .filter(|n| {
                    let source = sources.of(addresses(*n));
                    let is_admitted = share.admits(source, 1, 1_200 - share.all());
                    if is_admitted {
                        share.charge(source, 1);
                    }
                    is_admitted
                })
                .count()
        };
        assert_eq!(fill(&mut Share::default(), &|_| ip("9.9.9.9")), 300);
        assert_eq!(fill(&mut Share::default(), &|n| IpAddr::from([9, 9, 9, n as u8])), 400);
        assert_eq!(fill(&mut Share::default(), &|n| IpAddr::from([9, 9, n as u8, 9])), 600);
        assert_eq!(fill(&mut Share::default(), &|_| ip("127.0.0.1")), 1_200);
        let neighbours = |n: u32| std::net::Ipv6Addr::from(0x2001_0db8u128 << 96 | u128::from(n)).into();
        assert_eq!(fill(&mut Share::default(), &neighbours), 300, "a /64 is one source");
    }

    #[test]
    fn a_source_that_holds_nothing_gets_the_last_one() {
        let sources = Sources::new(7);
        let mut share = Share::default();
        let (heavy, newcomer) = (sources.of(ip("127.0.0.1")), sources.of(ip("9.9.9.9")));
        share.charge(heavy, 99);
        assert!(share.admits(newcomer, 1, 1) && !share.admits(newcomer, 2, 1));
        share.charge(newcomer, 1);
        assert!(!share.admits(newcomer, 1, 0) && !share.admits(newcomer, 1, 1));
        assert!(share.admits(heavy, 1, 1), "loopback has no limit of its own");
    }

    #[test]
    fn a_rate_allows_a_burst_and_half_of_it_in_each_half_life() {
        let sources = Sources::new(7);
        let (a, b, other) = (ip("9.9.9.9"), ip("9.9.9.8"), ip("8.8.8.8"));
        let mut rate = Rate::new(1_000);
        let mut take = |ip: IpAddr, now: u64| {
            let source = sources.of(ip);
            (0..1_000).filter(|_| rate.take(source, 1, 10, 35, Time::from_ms(now))).count()
        };
        assert_eq!(take(a, 0), 10);
        assert_eq!(take(b, 0), 10, "its network has twice as much");
        assert_eq!(take(ip("9.9.9.7"), 0), 0);
        assert_eq!(take(other, 0), 10);
        assert_eq!(take(ip("7.7.7.7"), 0), 5, "all together have a limit as well");
        assert_eq!((take(a, 999), take(a, 1_000)), (0, 5));
        assert_eq!(take(a, 1_000_000), 10, "after a long pause as at first");
        assert_eq!(take(ip("127.0.0.1"), 1_000_000), 25, "loopback takes what is left");
    }

    #[test]
    fn in_a_long_turn_a_source_that_had_its_part_waits() {
        let mut sources = Sources::new(7);
        let (heavy, other) = (ip("9.9.9.9"), ip("8.8.8.8"));
        sources.turn.add(LONG_TURN_WORK - 1);
        assert!(!sources.must_wait(heavy));
        sources.turn.add(1);
        sources.charge_turn(heavy, TURN_WORK);
        sources.charge_turn(ip("127.0.0.1"), 100 * TURN_WORK);
        assert!(sources.must_wait(heavy) && !sources.must_wait(other) && !sources.must_wait(ip("127.0.0.1")));
        assert!(!sources.must_wait(ip("9.9.9.8")));
        sources.charge_turn(ip("9.9.9.7"), TURN_WORK);
        assert!(sources.must_wait(ip("9.9.9.8")), "its network had twice as much");
        sources.next_turn();
        assert!(!sources.must_wait(heavy));
        sources.turn.add(LONG_TURN_WORK);
        assert!(!sources.must_wait(heavy));
    }

    #[test]
    fn three_offences_in_a_minute_mean_probation_for_a_minute() {
        let mut sources = Sources::new(7);
        let at = Time::from_ms;
        for ms in [0, 1_000] {
            sources.offence(ip("9.9.9.9"), at(ms));
            assert!(!sources.is_on_probation(ip("9.9.9.9"), at(ms)));
        }
        sources.offence(ip("9.9.9.9"), at(2_000));
        assert!(sources.is_on_probation(ip("9.9.9.9"), at(61_999)));
        assert!(!sources.is_on_probation(ip("9.9.9.8"), at(2_000)), "the neighbour is not");
        assert!(!sources.is_on_probation(ip("9.9.9.9"), at(62_000)));
    }

    #[test]
    fn offences_far_apart_and_on_loopback_are_forgiven() {
        let mut sources = Sources::new(7);
        for n in 0..10 {
            let now = Time::from_ms(n * 40_000);
            sources.offence(ip("9.9.9.9"), now);
            sources.offence(ip("127.0.0.1"), Time::ZERO);
            assert!(!sources.is_on_probation(ip("9.9.9.9"), now));
        }
        assert!(!sources.is_on_probation(ip("127.0.0.1"), Time::ZERO));
    }

    #[test]
    fn the_memory_is_fixed_and_below_a_megabyte() {
        let mut sources = Sources::new(7);
        for n in 0..100_000u32 {
            let peer = Attackers::Many(60_000).address(n);
            let source = sources.of(peer);
            let Sources { connections, store_bytes, store_entries, jobs, records, .. } = &mut sources;
            let shares = [connections, store_bytes, store_entries, jobs, records];
            shares.into_iter().for_each(|share| share.charge(source, 1));
            let Sources { coordinated_bytes, coordinated_entries, forwards, unproved_bytes, .. } = &mut sources;
            let rates = [coordinated_bytes, coordinated_entries, forwards, unproved_bytes];
            rates.into_iter().for_each(|rate| rate.used(Time::ZERO).charge(source, 1));
            sources.offence(peer, Time::ZERO);
            sources.charge_turn(peer, 1);
        }
        assert!(sources.bytes() < 1_000_000, "{} bytes", sources.bytes());
    }

    #[test]
    fn a_default_one_counts_nothing() {
        let sources = Sources::default();
        let (source, mut share) = (sources.of(ip("9.9.9.9")), Share::default());
        share.charge(source, 99);
        assert_eq!((share.all(), share.held(source), share.bytes()), (99, [0; LEVELS], 0));
        assert!(share.admits(source, 1, 1) && !share.admits(source, 2, 1));
    }
}
