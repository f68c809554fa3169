//! The best tokens of many, without sorting all.
//! In: logits `[n_vocab]`. Out: the best one, or the best `k` in falling order.
//! Invariant: equal logits rank by id, lowest first; NaN and minus infinity are never chosen.
//! Cost: one pass over 4 bytes a token; 262,144 tokens are 1 MiB, read from the cache.

use crate::units::TokenId;
use std::cmp::Ordering;

/// Logits looked at together, so that the compiler compares them in one instruction or two.
const LANES: usize = 16;
/// Logits that are skipped together when none of them can be chosen.
const BLOCK: usize = 8 * LANES;

/// A token and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) token: TokenId,
    pub(super) logit: f32,
}

/// Returns the token with the highest logit.
pub(super) fn best(logits: &[f32]) -> Option<TokenId> {
    let highest = highest(logits);
    let index = logits.iter().position(|&logit| logit == highest)?;
    (highest > f32::NEG_INFINITY).then_some(TokenId(index as u32))
}

/// Puts the `k` best tokens into `found`, best first; fewer if fewer can be chosen.
pub(super) fn top_k(logits: &[f32], k: usize, found: &mut Vec<Candidate>) {
    found.clear();
    let k = k.min(logits.len());
    if k == 0 {
        return;
    }
    let full = 4 * k.max(LANES);
    let mut threshold = f32::NEG_INFINITY;
    for (block_index, block) in logits.chunks(BLOCK).enumerate() {
        if highest(block) <= threshold {
            continue;
        }
        for (index, &logit) in block.iter().enumerate() {
            if logit > threshold {
                let token = TokenId((block_index * BLOCK + index) as u32);
                found.push(Candidate { token, logit });
                if found.len() == full {
                    threshold = shrink(found, k);
                }
            }
        }
    }
    if found.len() > k {
        shrink(found, k);
    }
    found.sort_unstable_by(better_first);
}

/// Keeps the `k` best in any order and returns the logit of the worst of them.
fn shrink(found: &mut Vec<Candidate>, k: usize) -> f32 {
    let (_, worst, _) = found.select_nth_unstable_by(k - 1, better_first);
    let threshold = worst.logit;
    found.truncate(k);
    threshold
}

fn better_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.token.cmp(&b.token))
}

/// Returns the highest logit; minus infinity if there is none but NaN.
pub(super) fn highest(logits: &[f32]) -> f32 {
    let higher = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (rows, rest) = logits.as_chunks::<LANES>();
    for row in rows {
        for (lane, &logit) in lanes.iter_mut().zip(row) {
            *lane = higher(*lane, logit);
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, higher)
}

#[cfg(test)]
pub(super) mod naive {
    use super::*;

    /// Sorts all that can be chosen.
    pub(in crate::sampler) fn top_k(logits: &[f32], k: usize) -> Vec<Candidate> {
        let candidate =
            |(index, &logit): (usize, &f32)| Candidate { token: TokenId(index as u32), logit };
        let mut all: Vec<_> = logits.iter().enumerate().map(candidate).collect();
        all.retain(|candidate| candidate.logit > f32::NEG_INFINITY);
        all.sort_by(better_first);
        all.truncate(k);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::rng::Rng;

    #[test]
    fn selection_equals_sorting() {
        let seed = crate::random::seed(11);
        let mut rng = Rng::new(seed);
        for round in 0..300 {
            let n = (rng.unit() * 3000.0) as usize;
            let k = (rng.unit() * 90.0) as usize;
            // Few different values, so that ties are common; sometimes rising, the worst case.
            let values = if round % 3 == 0 { 1e9 } else { 50.0 };
            let mut logits: Vec<f32> =
                (0..n).map(|_| (rng.unit() * values) as i64 as f32 / 7.0 - 3.0).collect();
            if round % 5 == 0 {
                logits.sort_by(f32::total_cmp);
            }
            let special = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY, -0.0];
            for i in 0..n / 10 {
                logits[(rng.unit() * n as f64) as usize] = special[i % 4];
            }
            let mut found = Vec::new();
            top_k(&logits, k, &mut found);
            assert_eq!(found, naive::top_k(&logits, k), "SEED={seed} round {round}");
            let first = naive::top_k(&logits, 1).first().map(|candidate| candidate.token);
            assert_eq!(best(&logits), first, "SEED={seed} round {round}");
        }
    }

    #[test]
    fn nothing_to_choose_from_is_nothing() {
        assert_eq!(best(&[]), None);
        assert_eq!(best(&[f32::NAN, f32::NEG_INFINITY]), None);
        assert_eq!(best(&[f32::NAN, f32::NEG_INFINITY, -1e30]), Some(TokenId(2)));
    }
}
