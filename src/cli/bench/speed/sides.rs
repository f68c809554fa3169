//! Our side and the peer's, and whether their answers agree.
//!
//! In: tokens. Out: logits, an [`Agreement`].
//! Invariant: logits are looked at outside the time that is measured.

use std::sync::Arc;

use culet::Result;
use culet::TokenId;
use culet::decoder::Decoder;
use culet::decoder::Entry;
use culet::decoder::Executor;
use culet::decoder::ExecutorOptions;
use culet::decoder::KvOptions;
use culet::decoder::Operations;
use culet::engine::EngineOptions;

use crate::cli::bench::peer::Timeline;
use crate::cli::bench::random::Random;
use crate::cli::bench::report::Case;
use crate::cli::bench::report::Row;
use crate::cli::print;

/// Largest difference of logits, relative to their size, if the best token differs.
const APART_MAX: f64 = 0.1;

/// What takes tokens and gives logits.
pub(super) trait Side {
    /// Appends tokens and returns the logits of the last.
    fn append(&mut self, tokens: &[TokenId]) -> Result<&[f32]>;

    /// Forgets everything.
    fn clear(&mut self) -> Result<()>;
}

/// Our side.
pub(super) struct Ours {
    pub(super) run: Executor,
    random: Random,
}

impl Ours {
    /// Starts a timeline.
    pub(super) fn new(
        decoder: &Arc<Decoder>,
        options: &EngineOptions,
        kv: KvOptions,
    ) -> Result<Self> {
        let n_ctx = kv.n_ctx.min(decoder.hparams().n_ctx_train);
        let kv = KvOptions { n_ctx, n_batch: kv.n_batch.min(n_ctx), ..kv };
        let options = ExecutorOptions { backend: options.backend.clone(), kv };
        let run = Executor::new(decoder, &options)?;
        Ok(Self { run, random: Random(1) })
    }

    /// Returns random tokens that are ordinary text in every vocabulary.
    pub(super) fn tokens(&mut self, n: usize) -> Vec<TokenId> {
        let n_vocab = self.run.decoder().hparams().n_vocab as u64;
        let (first, end) = (n_vocab / 8, n_vocab * 3 / 4);
        (0..n).map(|_| TokenId((first + self.random.next() % (end - first)) as u32)).collect()
    }

    /// Counts what a prompt of `n` tokens and the token after it need.
    pub(super) fn operations(&mut self, n: usize) -> Result<[Row; 3]> {
        self.clear()?;
        let (prompt, token) = (self.tokens(n), self.tokens(1));
        let start = self.run.operations();
        self.append(&prompt)?;
        let middle = self.run.operations();
        self.append(&token)?;
        let end = self.run.operations();
        let mega = |from: Operations, to: Operations| {
            (to.n_multiply_adds - from.n_multiply_adds) as f64 / 1e6
        };
        let n_nodes = (end.n_nodes - middle.n_nodes) as f64;
        Ok([
            Row::new(Case::PromptMegaOps, Some(n), Some(0), &[mega(start, middle)], &[]),
            Row::new(Case::TokenMegaOps, Some(1), Some(n), &[mega(middle, end)], &[]),
            Row::new(Case::TokenNodes, Some(1), Some(n), &[n_nodes], &[]),
        ])
    }
}

impl Side for Ours {
    fn append(&mut self, tokens: &[TokenId]) -> Result<&[f32]> {
        let entries: Vec<Entry<'_>> = tokens.iter().map(|id| Entry::Token(*id)).collect();
        self.run.append_with_logits(&entries, 1)
    }

    fn clear(&mut self) -> Result<()> {
        self.run.kv_mut().rewind(0)
    }
}

impl Side for Timeline<'_> {
    fn append(&mut self, tokens: &[TokenId]) -> Result<&[f32]> {
        Timeline::append(self, tokens)
    }

    fn clear(&mut self) -> Result<()> {
        Timeline::clear(self);
        Ok(())
    }
}

/// Returns the likeliest token.
pub(super) fn best(logits: &[f32]) -> TokenId {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    TokenId(best.map_or(0, |(i, _)| i as u32))
}

/// How far the peer's answers are from ours.
///
/// Two rows agree if their difference is at most a tenth of the row, or if the best token is the
/// same. Both are strict for random weights: rows that have nothing to do with each other are one
/// and a half rows apart, and of 262,144 tokens they choose the same once in as many times. Since
/// every token of an answer is looked at, a side that computes something else shows. What
/// rounding activations to 8 bits in other blocks gives is a few hundredths.
#[derive(Default)]
pub(super) struct Agreement {
    n_rows: usize,
    n_other_best: usize,
    apart_max: f64,
    differs: bool,
}

impl Agreement {
    /// Looks at a row of both sides.
    pub(super) fn see(&mut self, ours: &[f32], peers: &[f32]) {
        let apart = apart(ours, peers);
        let is_best = best(ours) == best(peers);
        self.n_rows += 1;
        self.n_other_best += usize::from(!is_best);
        self.apart_max = self.apart_max.max(apart);
        // Sizes that differ, and what is no number, are infinitely far.
        self.differs |= !(apart <= APART_MAX || is_best && apart.is_finite());
    }

    /// Whether every row agreed.
    pub(super) fn agrees(&self) -> bool {
        !self.differs
    }

    /// Says how far they were, and warns if that is too far.
    pub(super) fn tell(&self, what: &str) {
        let (rows, others, apart) = (self.n_rows, self.n_other_best, 100.0 * self.apart_max);
        let far = format!("{others} of {rows} with another best token, at most {apart:.1} % apart");
        if self.differs {
            print::say(&format!(
                "warning: {what}: llama.cpp answers differently ({far}); its numbers are left out"
            ));
        } else if rows > 0 {
            log::info!("{what}: rows of logits: {far}");
        }
    }

    /// Makes a row of samples, without the peer's if it answered otherwise.
    pub(super) fn row(
        &self,
        case: Case,
        n: usize,
        depth: Option<usize>,
        ours: &[f64],
        peers: &[f64],
    ) -> Row {
        Row::new(case, Some(n), depth, ours, if self.differs { &[] } else { peers })
    }
}

/// Returns the difference of two rows of logits, relative to the size of the second.
fn apart(ours: &[f32], peers: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let apart: f64 = ours.iter().zip(peers).map(|(a, b)| square(f64::from(a - b))).sum();
    let size: f64 = peers.iter().map(|b| square(f64::from(*b))).sum();
    let apart = (apart / size).sqrt();
    if ours.len() == peers.len() && apart.is_finite() { apart } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_agree_if_close_or_of_the_same_best_token() {
        let row = [1.0, 2.0, 3.0];
        let cases: [(&[f32], bool); 6] = [
            (&[1.01, 2.0, 2.99], true),
            (&[1.0, 3.01, 3.0], false),
            (&[0.0, 0.0, 9.0], true),
            (&[9.0, 0.0, 0.0], false),
            (&[1.0, 2.0], false),
            (&[1.0, 2.0, f32::NAN], false),
        ];
        for (peers, expected) in cases {
            let mut agreement = Agreement::default();
            agreement.see(&row, &row);
            agreement.see(&row, peers);
            assert_eq!(!agreement.differs, expected, "{peers:?}");
            let row = agreement.row(Case::Decode, 1, Some(0), &[2.0], &[1.0]);
            assert_eq!(row.ratio.is_some(), expected, "{peers:?}");
        }
    }
}
