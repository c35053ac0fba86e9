//! What goes wrong in a byte-level world, and how often: drawn by each seed for itself, so that seeds differ in more than
//! their dice. Numbers only.

use crate::sim::delay::Delays;

/// How long a machine stands still, or the network is in parts, at most.
pub const LONGEST_GAP_MS: u64 = 15_000;

/// Shares are chances per occasion, 0 to 1.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Weather {
    /// Where round trips come from.
    pub delays: Delays,
    /// A dial's first packet is lost and sent again a second later.
    pub lost_connects: f64,
    /// Bytes are held up for a while, as when TCP sends them again.
    pub late_bytes: f64,
    /// Most bytes that one read or one arrival carries.
    pub piece: usize,
    /// Bytes under way or unread in one direction, past which a writer must wait.
    pub window: usize,
    /// A connection is reset, per arrival.
    pub resets: f64,
    /// Per action: a host is killed or started again.
    pub churn: f64,
    /// Per action: a host stands still for up to [`LONGEST_GAP_MS`], and its clock jumps.
    pub gaps: f64,
    /// Per action: the network falls apart for up to [`LONGEST_GAP_MS`].
    pub partitions: f64,
    /// Per action: a stranger connects and says something senseless, or nothing, or reads nothing.
    pub strangers: f64,
    /// Hosts that can dial out and not be dialled.
    pub behind_nat: f64,
}

impl Weather {
    /// Nothing goes wrong.
    pub fn fair() -> Weather {
        Weather {
            delays: Delays::WideArea,
            lost_connects: 0.0,
            late_bytes: 0.0,
            piece: 64 * 1024,
            window: 256 * 1024,
            resets: 0.0,
            churn: 0.0,
            gaps: 0.0,
            partitions: 0.0,
            strangers: 0.0,
            behind_nat: 0.0,
        }
    }

    /// What one seed has to bear.
    pub fn drawn(random: &mut fastrand::Rng) -> Weather {
        // Half of the faults stay away, so that each is also met without the others.
        let mut sometimes = |most: f64| if random.bool() { random.f64() * most } else { 0.0 };
        let shares = [(); 8].map(|()| sometimes(1.0));
        let delays = match random.u8(..3) {
            0 => Delays::WideArea,
            1 => Delays::Fixed(random.u64(0..50)),
            _ => Delays::Median(random.f64() * 600.0),
        };
        Weather {
            delays,
            lost_connects: shares[0] * 0.3,
            late_bytes: shares[1] * 0.1,
            piece: [1, 7, 100, 1_500, 64 * 1024][random.usize(..5)],
            window: [200, 5_000, 70_000, 256 * 1024][random.usize(..4)],
            resets: shares[2] * 0.02,
            churn: shares[3] * 0.2,
            gaps: shares[4] * 0.1,
            partitions: shares[5] * 0.1,
            strangers: shares[6] * 0.5,
            behind_nat: shares[7] * 0.3,
        }
    }
}
