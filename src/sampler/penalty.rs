//! Penalties on tokens that came up lately.
//! In: logits and the last tokens. Out: changed logits.
//! Source: Keskar et al., "CTRL", section 4.1 (repetition); OpenAI's API reference (frequency,
//! presence).
//! Invariant: the window holds at most `last_n` tokens, and the counts are those of the window.

use crate::units::TokenId;
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// The last tokens, and what it costs to say them again.
#[derive(Clone)]
pub(super) struct Penalty {
    pub(super) repetition: f32,
    pub(super) frequency: f32,
    pub(super) presence: f32,
    pub(super) last_n: usize,
    window: VecDeque<TokenId>,
    counts: BTreeMap<TokenId, u32>,
}

impl Penalty {
    /// Creates an empty window.
    pub(super) fn new(repetition: f32, frequency: f32, presence: f32, last_n: usize) -> Self {
        let window = VecDeque::new();
        Self { repetition, frequency, presence, last_n, window, counts: BTreeMap::new() }
    }

    fn is_off(&self) -> bool {
        let neutral = self.repetition == 1.0 && self.frequency == 0.0 && self.presence == 0.0;
        neutral || self.last_n == 0
    }

    /// Appends a token to the window, and drops the oldest if the window is full.
    pub(super) fn push(&mut self, token: TokenId) {
        if self.is_off() {
            return;
        }
        if self.window.len() == self.last_n {
            let oldest = self.window.pop_front().expect("a full window has an oldest token");
            let count = self.counts.get_mut(&oldest).expect("counts are those of the window");
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
        self.window.push_back(token);
        *self.counts.entry(token).or_default() += 1;
    }

    /// Empties the window.
    pub(super) fn clear(&mut self) {
        self.window.clear();
        self.counts.clear();
    }

    /// Lowers the logits of the tokens in the window.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        for (token, count) in &self.counts {
            let Some(logit) = logits.get_mut(token.index()) else { continue };
            let is_above = *logit > 0.0;
            let scaled = if is_above { *logit / self.repetition } else { *logit * self.repetition };
            *logit = scaled - *count as f32 * self.frequency - self.presence;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn penalties_follow_their_formulas() {
        struct Case {
            penalty: Penalty,
            said: &'static [u32],
            expected: [f32; 3],
        }
        let cases = [
            Case {
                penalty: Penalty::new(2.0, 0.0, 0.0, 8),
                said: &[0, 1],
                expected: [2.0, -2.0, 3.0],
            },
            Case {
                penalty: Penalty::new(1.0, 0.5, 0.0, 8),
                said: &[0, 0],
                expected: [3.0, -1.0, 3.0],
            },
            Case {
                penalty: Penalty::new(1.0, 0.0, 1.0, 8),
                said: &[2, 2],
                expected: [4.0, -1.0, 2.0],
            },
            Case {
                penalty: Penalty::new(2.0, 0.0, 0.0, 1),
                said: &[0, 2],
                expected: [4.0, -1.0, 1.5],
            },
            Case {
                penalty: Penalty::new(2.0, 1.0, 1.0, 0),
                said: &[0, 2],
                expected: [4.0, -1.0, 3.0],
            },
            Case {
                penalty: Penalty::new(2.0, 1.0, 1.0, 9),
                said: &[77],
                expected: [4.0, -1.0, 3.0],
            },
        ];
        for (row, Case { mut penalty, said, expected }) in cases.into_iter().enumerate() {
            said.iter().for_each(|&id| penalty.push(TokenId(id)));
            let mut logits = [4.0, -1.0, 3.0];
            penalty.apply(&mut logits);
            assert_eq!(logits, expected, "row {row}");
        }
    }

    #[test]
    fn counts_are_those_of_the_window() {
        let mut penalty = Penalty::new(1.5, 0.0, 0.0, 5);
        for id in 0..100_u32 {
            penalty.push(TokenId(id * id % 7));
            let mut slow = BTreeMap::new();
            penalty.window.iter().for_each(|&token| *slow.entry(token).or_default() += 1);
            assert_eq!(penalty.counts, slow);
            assert!(penalty.window.len() <= 5);
        }
        penalty.clear();
        assert!(penalty.counts.is_empty());
    }
}
