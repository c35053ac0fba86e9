//! What a run of the world is made of: sizes, shares of faults, and the seed that decides the rest. Numbers only.

use crate::dialect::sealed::settings::Settings;
use crate::sim::check::Canary;
use crate::sim::delay::Delays;

/// How the network comes to be.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Build {
    /// Every node joins through another, as real ones do: its table is what that gave it.
    Joined,
    /// Every table is drawn at random from those that fit it: what a long life would give. Much faster.
    Drawn,
}

/// What a liar does when it is asked.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Lie {
    /// Names the liars nearest to the target, holds nothing, accepts everything.
    Collude,
    /// The same, and answers who looks for a value with a wrong one, all liars the same.
    WrongValue,
    /// Names ever closer contacts that do not exist.
    Endless,
    /// Answers with ids that belong to no address, martians, lists too long.
    Garbage,
    /// Says nothing.
    Silent,
}

impl Lie {
    /// All of them with the names that people give them.
    pub const ALL: [(&'static str, Lie); 5] = [
        ("collude", Lie::Collude),
        ("wrong-value", Lie::WrongValue),
        ("endless", Lie::Endless),
        ("garbage", Lie::Garbage),
        ("silent", Lie::Silent),
    ];
}

/// Nodes come and go: session lengths follow a Weibull distribution, and for each that leaves another joins.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Churn {
    /// Half of the sessions are shorter.
    pub median_ms: f64,
    /// 1 is memoryless; below, the young leave first (0.5 fits what was measured in file-sharing networks).
    pub shape: f64,
    /// How long nodes come and go before anything is measured.
    pub warmup_ms: u64,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Hosts at the start.
    pub nodes: usize,
    /// Decides everything else.
    pub seed: u64,
    /// Values that are put and got.
    pub lookups: usize,
    /// Of every node.
    pub settings: Settings,
    /// How the network comes to be.
    pub build: Build,
    /// Where round trips come from.
    pub delays: Delays,
    /// Share of requests and answers that never arrive.
    pub loss: f64,
    /// Share of hosts that die before anything is put, and nobody is told.
    pub dead: f64,
    /// Share of hosts that lie from then on.
    pub liars: f64,
    /// What they do.
    pub lie: Lie,
    /// Comings and goings.
    pub churn: Option<Churn>,
    /// Holders of each value.
    pub replication: usize,
    /// Values are placed on the closest honest living hosts instead of being put through the network, so that only the
    /// finding is measured.
    pub placed: bool,
    /// Keys are the hashes of their values.
    pub certified: bool,
    /// Looks each key up before it is put, to see who is found and in how many hops.
    pub watch: bool,
    /// Between the PUT of a value and its GET.
    pub pause_ms: u64,
    /// Judges every message by what must never be; takes memory and time.
    pub checked: bool,
    /// A fault of a test's own making.
    pub canary: Canary,
}

impl Options {
    /// A healthy network of `nodes` in which `lookups` values are put and got.
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
