//! What goes wrong in a byte-level world, and how often. Each seed draws its own weather, so that seeds differ in more
//! than their dice. Holds numbers only.

use crate::sim::delay::Delays;

/// The longest time for which a machine is frozen or the network is in two parts.
pub const LONGEST_GAP_MS: u64 = 15_000;

/// The weather of a world. Shares are chances per occasion, from 0 to 1.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Weather {
    /// The distribution of round trips.
    pub delays: Delays,
    /// Share of dials whose first packet is lost and sent again a second later.
    pub lost_connects: f64,
    /// Share of packets that come up to a second late, as when TCP sends them again.
    pub late_bytes: f64,
    /// The largest number of bytes that one packet carries or one read takes.
    pub piece: usize,
    /// The number of bytes under way or unread in one direction past which a writer must wait.
    pub window: usize,
    /// Share of packets whose arrival resets the connection.
    pub resets: f64,
    /// Share of actions that kill a machine, or start it again.
    pub churn: f64,
    /// Share of actions that freeze a machine for up to [`LONGEST_GAP_MS`], so that its clock jumps.
    pub gaps: f64,
    /// Share of actions that divide the network for up to [`LONGEST_GAP_MS`].
    pub partitions: f64,
    /// Share of actions in which a stranger connects, who sends nonsense or nothing, and may read nothing.
    pub strangers: f64,
    /// Share of machines that can dial others and cannot be dialled.
    pub behind_nat: f64,
}

impl Weather {
    /// Weather in which nothing goes wrong.
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

    /// The weather of one seed.
    pub fn drawn(random: &mut fastrand::Rng) -> Weather {
        // Each fault stays away from half of the seeds, so that it is also met without the others.
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
