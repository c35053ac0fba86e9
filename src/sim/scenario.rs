//! Networks in which nobody lies and yet a value may lie where few look for it: "stored and a holder is alive implies
//! found" ([`Report::kept_share`](super::report::Report::kept_share)) must hold in each. Both levels run them. Names
//! options, and runs nothing.

use crate::sim::options::{Growth, Options, Stores};

/// Why the nodes nearest to a key do not hold its value.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Scenario {
    /// Four of five stores are full.
    Full,
    /// All keys are alike in their first four bits, and there is room for fewer copies than are wanted.
    Crowded,
    /// Every host has another limit for the size of a value.
    Mixed,
    /// One copy of each value.
    OneCopy,
    /// The network grows fourfold within ten seconds.
    Growth,
    /// The same within five, so all of it between the PUT and the GET of a value.
    Rush,
    /// Half of all PUTs are refused at random.
    Refusals,
    /// One copy, limits that differ, refusals and growth together.
    Everything,
}

impl Scenario {
    /// All scenarios with their names on the command line.
    pub const ALL: [(&'static str, Scenario); 8] = [
        ("full", Scenario::Full),
        ("crowded", Scenario::Crowded),
        ("mixed", Scenario::Mixed),
        ("one-copy", Scenario::OneCopy),
        ("growth", Scenario::Growth),
        ("rush", Scenario::Rush),
        ("refusals", Scenario::Refusals),
        ("everything", Scenario::Everything),
    ];

    /// Changes `options` to this scenario. Keys are not the hashes of their values, which would be found in any case.
    pub fn apply(self, options: Options) -> Options {
        let options = Options { certified: false, watch: false, ..options };
        // A network that grows is as large as the others in the end.
        let quarter = (options.nodes / 4).max(2);
        // A copy outlives the longest GET by a tenth of a second.
        let growth = |over_ms| Options {
            nodes: quarter,
            growth: Some(Growth { factor: 4, over_ms }),
            pause_ms: 5_900,
            ..options.clone()
        };
        match self {
            Scenario::Full => Options { stores: Stores::Full(0.8), ..options },
            Scenario::Crowded => {
                // One host in sixteen is near the keys, and a third of the copies finds no room there.
                let places = 2 * options.lookups * options.replication / 3;
                let entries = (places * 16 / options.nodes.max(1)).max(1);
                Options { shared_bits: 4, stores: Stores::Entries(entries), ..options }
            }
            Scenario::Mixed => Options { stores: Stores::Mixed, ..options },
            Scenario::OneCopy => Options { replication: 1, ..options },
            Scenario::Growth => growth(10_000),
            Scenario::Rush => growth(5_000),
            Scenario::Refusals => Options { refusals: 0.5, ..options },
            Scenario::Everything => Options { replication: 1, stores: Stores::Mixed, refusals: 0.3, ..growth(10_000) },
        }
    }
}
