//! Seeded random numbers for the tests.
//!
//! Invariant: the same seed gives the same numbers everywhere.

/// Returns the number that `SEED` of the environment gives.
pub(crate) fn given_seed() -> Option<u64> {
    std::env::var("SEED").ok().map(|text| text.parse().expect("SEED is a number"))
}

/// Returns the seed that was given, or `default`.
pub(crate) fn seed(default: u64) -> u64 {
    given_seed().unwrap_or(default)
}

/// SplitMix64.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    /// Returns the next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}
