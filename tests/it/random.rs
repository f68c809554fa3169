//! Seeds and mutations for the tests.
//!
//! Invariant: the same seed gives the same numbers everywhere.

pub(crate) use crate::both::random::Rng;
use crate::both::random::given_seed;

/// Returns the seeds to run: those given by `SEED`, or the first `n`.
pub(crate) fn seeds(n: u64) -> Vec<u64> {
    given_seed().map_or_else(|| (0..n).collect(), |seed| vec![seed])
}

/// Changes `bytes` in `n` places; most often a number is replaced by a telling one.
pub(crate) fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng, n: usize) {
    const TELLING: [u64; 14] = [
        0,
        1,
        2,
        9,
        31,
        0x7f,
        0xff,
        1 << 16,
        1 << 24,
        (1 << 31) - 1,
        u32::MAX as u64,
        1 << 40,
        i64::MAX as u64,
        u64::MAX,
    ];
    for _ in 0..n {
        if bytes.len() < 9 {
            return;
        }
        let at = rng.below(bytes.len() - 8);
        match rng.below(8) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.next() as u8,
            2 => {
                bytes.truncate(at);
            }
            3 => {
                let end = (at + 1 + rng.below(40)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + 1 + rng.below(80)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                let to = rng.below(bytes.len());
                bytes.splice(to..to, part);
            }
            5 | 6 => {
                let v = TELLING[rng.below(TELLING.len())].to_le_bytes();
                bytes[at..at + 8].copy_from_slice(&v);
            }
            _ => {
                let v = TELLING[rng.below(TELLING.len())] as u32;
                bytes[at..at + 4].copy_from_slice(&v.to_le_bytes());
            }
        }
    }
}
