//! Seeded numbers for the tests of this folder.
//! In: `SEED` of the environment, or a fixed seed. Out: the same numbers on every machine.
//! Invariant: compiled for tests only.

use crate::random;
use crate::random::Rng;

/// A generator that formats as its seed, so that a failure can be repeated.
pub(crate) struct Random {
    seed: u64,
    numbers: Rng,
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SEED={}", self.seed)
    }
}

impl Random {
    pub(crate) fn from_env() -> Self {
        let seed = random::seed(20_260_401);
        Self { seed, numbers: Rng(seed) }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.numbers.next()
    }

    /// Returns a number in `0..n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.numbers.below(n)
    }

    /// Returns a number in [-1, 1).
    pub(crate) fn bipolar(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
