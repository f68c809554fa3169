//! Numbers that must not be mixed up.

/// Index into the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u32);

impl TokenId {
    /// Returns the id as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Sample rate of everything behind the resampler, in Hz.
pub const SAMPLE_RATE_HZ: u32 = 16_000;
