//! How long messages take. Each pair of hosts has its own round trip, which the seed alone decides. Never reads a
//! clock.

/// Round trips between the nodes of a worldwide peer-to-peer network, as share of pairs and milliseconds. The inner
/// five were measured among Ethereum nodes by Gencer et al. ("Decentralization in Bitcoin and Ethereum Networks",
/// Financial Cryptography 2018); the two ends are guesses.
const WIDE_AREA: [(f64, f64); 7] =
    [(0.0, 20.0), (0.10, 92.0), (0.33, 125.0), (0.50, 152.0), (0.67, 200.0), (0.90, 276.0), (1.0, 400.0)];

/// The distribution of round trips.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Delays {
    /// The published distribution of a worldwide network, whose median is 152 ms.
    WideArea,
    /// The same shape with this median, in milliseconds.
    Median(f64),
    /// The same round trip for all pairs, in milliseconds.
    Fixed(u64),
}

impl Delays {
    /// The round trip in milliseconds at `share` (0 to 1) of the distribution.
    pub fn quantile(self, share: f64) -> f64 {
        match self {
            Delays::WideArea => wide_area(share),
            Delays::Median(median) => wide_area(share) * median / wide_area(0.5),
            Delays::Fixed(ms) => ms as f64,
        }
    }

    /// The milliseconds from host `a` to host `b`: half of their round trip, the same both ways and in all runs of one
    /// seed.
    pub fn one_way_ms(self, seed: u64, a: usize, b: usize) -> u64 {
        let pair = (a.min(b) as u64) << 32 | a.max(b) as u64;
        let share = scatter(pair ^ scatter(seed)) as f64 / u64::MAX as f64;
        (self.quantile(share) / 2.0).round() as u64
    }
}

fn wide_area(share: f64) -> f64 {
    let above = WIDE_AREA.iter().position(|(at, _)| *at >= share).unwrap_or(WIDE_AREA.len() - 1).max(1);
    let ((x0, y0), (x1, y1)) = (WIDE_AREA[above - 1], WIDE_AREA[above]);
    y0 + (y1 - y0) * (share - x0) / (x1 - x0)
}

/// Spreads the bits of `n` over all 64 (the finalizer of SplitMix64, Steele et al. 2014).
pub fn scatter(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_follow_the_published_quantiles() {
        let mut trips: Vec<u64> = (0..20_000).map(|n| 2 * Delays::WideArea.one_way_ms(7, n, n + 1)).collect();
        trips.sort_unstable();
        for (share, want) in [(0.10, 92.0), (0.50, 152.0), (0.90, 276.0)] {
            let got = trips[(share * trips.len() as f64) as usize] as f64;
            assert!((got - want).abs() < 6.0, "{share}: {got}");
        }
        assert_eq!(Delays::WideArea.one_way_ms(7, 3, 9), Delays::WideArea.one_way_ms(7, 9, 3));
        assert_eq!(Delays::Median(76.0).quantile(0.5), 76.0);
    }
}
