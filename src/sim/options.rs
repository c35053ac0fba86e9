//! The options of a measured run: sizes, shares of faults, and the seed that decides the rest. Holds values only.

use crate::dialect::sealed::settings::Settings;
use crate::dialect::sealed::store::StoreLimits;
use crate::limits::VALUE_MAX;
use crate::sim::check::Canary;
use crate::sim::delay::Delays;

/// How the network is built.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Build {
    /// Every node joins through another one, as real nodes do, and has the table that this gives it.
    Joined,
    /// Every table is drawn at random from the contacts that fit into it, as after a long life. Much faster.
    Drawn,
}

/// What a liar does when it is asked.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Lie {
    /// Names the liars nearest to the target, accepts every value and stores none.
    Collude,
    /// The same, and answers a request for a value with a wrong one, on which all liars agree.
    WrongValue,
    /// Names contacts that do not exist, each time closer to the target.
    Endless,
    /// Names contacts with ids of other addresses, martians, and too many of them.
    Garbage,
    /// Does not answer.
    Silent,
}

impl Lie {
    /// All lies with their names on the command line.
    pub const ALL: [(&'static str, Lie); 5] = [
        ("collude", Lie::Collude),
        ("wrong-value", Lie::WrongValue),
        ("endless", Lie::Endless),
        ("garbage", Lie::Garbage),
        ("silent", Lie::Silent),
    ];
}

/// Hosts come and go. The lengths of their sessions follow a Weibull distribution, and for each that leaves another
/// joins.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Churn {
    /// The median session in milliseconds.
    pub median_ms: f64,
    /// The shape of the distribution: 1 is memoryless; below 1 the young leave first (0.5 fits what was measured in
    /// file-sharing networks).
    pub shape: f64,
    /// The milliseconds for which hosts come and go before anything is measured.
    pub warmup_ms: u64,
}

/// The lifetime that a PUT asks for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Ttl {
    /// So many seconds.
    Fixed(u16),
    /// 0 to 12 seconds, drawn for each PUT: 0 means the longest lifetime, and beyond it there is none.
    Drawn,
}

impl Ttl {
    /// The ttl of one PUT, in seconds.
    pub fn draw(self, random: &mut fastrand::Rng) -> u16 {
        match self {
            Ttl::Fixed(ttl_s) => ttl_s,
            Ttl::Drawn => random.u16(..=12),
        }
    }
}

/// What the stores of the hosts take.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Stores {
    /// As shipped: more than any run puts.
    Roomy,
    /// This share of hosts takes no value at all, the others every value.
    Full(f64),
    /// So many values each.
    Entries(usize),
    /// Each host draws the size of the largest value that it takes (`--max-value-bytes`), and the values have several
    /// sizes too. A quarter of the hosts takes none of them.
    Mixed,
}

/// The largest values that hosts take where they differ ([`Stores::Mixed`]), in bytes.
const VALUE_LIMITS: [usize; 4] = [16, 64, 1_000, VALUE_MAX];
/// The sizes of the values that are put there, in bytes: one host in four takes the largest.
const VALUE_SIZES: [usize; 3] = [32, 500, 5_000];

impl Stores {
    /// The limits of one host's store.
    pub fn draw(self, random: &mut fastrand::Rng) -> StoreLimits {
        let roomy = StoreLimits::default();
        match self {
            Stores::Roomy => roomy,
            Stores::Full(share) if random.f64() < share => StoreLimits { entries: 0, ..roomy },
            Stores::Full(_) => roomy,
            Stores::Entries(entries) => StoreLimits { entries, ..roomy },
            Stores::Mixed => StoreLimits { value_bytes: VALUE_LIMITS[random.usize(..VALUE_LIMITS.len())], ..roomy },
        }
    }

    /// The size of the value of operation `op`, in bytes.
    pub fn value_size(self, op: usize) -> usize {
        if self == Stores::Mixed { VALUE_SIZES[op % VALUE_SIZES.len()] } else { VALUE_SIZES[0] }
    }
}

/// The network grows while values live.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Growth {
    /// How many times as many hosts there are at the end.
    pub factor: usize,
    /// The milliseconds within which the new ones join, from the first PUT on.
    pub over_ms: u64,
}

/// The options of one run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number of hosts at the start.
    pub nodes: usize,
    /// The seed, which decides everything that the other options leave open.
    pub seed: u64,
    /// The number of values that are put and got.
    pub lookups: usize,
    /// The settings of every node.
    pub settings: Settings,
    /// How the network is built.
    pub build: Build,
    /// The distribution of round trips.
    pub delays: Delays,
    /// Share of requests and answers that never arrive.
    pub loss: f64,
    /// Share of hosts that die unnoticed before anything is put.
    pub dead: f64,
    /// Share of hosts that lie from then on.
    pub liars: f64,
    /// What the liars do.
    pub lie: Lie,
    /// How hosts come and go; `None` if they stay.
    pub churn: Option<Churn>,
    /// How the network grows; `None` if it does not.
    pub growth: Option<Growth>,
    /// What the hosts' stores take.
    pub stores: Stores,
    /// Share of PUTs that a holder refuses at random, as FULL or as REFUSED.
    pub refusals: f64,
    /// The number of leading bits that all keys share, so that all values crowd on the hosts near them. Such keys are
    /// no hashes of values ([`Options::certified`]).
    pub shared_bits: usize,
    /// The lifetime that PUTs ask for.
    pub ttl: Ttl,
    /// The number of holders of each value.
    pub replication: usize,
    /// Whether values are placed on the closest living honest hosts instead of being put through the network, so that
    /// only finding is measured.
    pub placed: bool,
    /// Whether keys are the hashes of their values.
    pub certified: bool,
    /// Whether each key is looked up before its value is put, to see which hosts are found and in how many hops.
    pub watch: bool,
    /// The milliseconds between the PUT of a value and its GET.
    pub pause_ms: u64,
    /// Whether every message is checked ([`check`](super::check)), which takes memory and time.
    pub checked: bool,
    /// A fault of a test's own making.
    pub canary: Canary,
}

impl Options {
    /// A healthy network of `nodes` hosts in which `lookups` values are put and got.
    pub fn new(nodes: usize, lookups: usize, seed: u64) -> Options {
        Options {
            nodes,
            seed,
            lookups,
            settings: Settings::default(),
            build: Build::Drawn,
            delays: Delays::WideArea,
            loss: 0.0,
            dead: 0.0,
            liars: 0.0,
            lie: Lie::Collude,
            churn: None,
            growth: None,
            stores: Stores::Roomy,
            refusals: 0.0,
            shared_bits: 0,
            ttl: Ttl::Fixed(10),
            replication: crate::limits::REPLICATION,
            placed: false,
            certified: true,
            watch: true,
            pause_ms: 5_000,
            checked: false,
            canary: Canary::None,
        }
    }
}
