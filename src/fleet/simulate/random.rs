//! Random numbers that are the same for the same seed, everywhere and in every release.

/// splitmix64: small, fast, and good enough to throw dice.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Numbers that follow from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = high.saturating_sub(low).unsigned_abs().saturating_add(1);
        low.saturating_add_unsigned(self.number() % span)
    }

    /// Whether something happens that happens in so many of a million cases.
    pub fn happens(&mut self, in_a_million: u32) -> bool {
        self.number() % 1_000_000 < u64::from(in_a_million)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let mut random = Random::new(1_234_567);
        // As published with the algorithm.
        assert_eq!([random.number(), random.number()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        assert!((0..1000).all(|_| (3..=5).contains(&random.between(3, 5))));
        let hits = (0..10_000).filter(|_| random.happens(20_000)).count();
        assert!((150..250).contains(&hits), "{hits}");
    }
}
