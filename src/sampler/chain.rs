//! The chain: mask, penalties, selection, temperature, top-p, min-p, draw.
//! In: logits `[n_vocab]`. Out: one `TokenId`.
//! Invariant: a copy of a sampler continues as the original does.

use super::penalty::Penalty;
use super::rng::Rng;
use super::select;
use super::select::Candidate;
use super::weight;
use crate::error::Error;
use crate::error::Result;
use crate::units::TokenId;

/// First number of candidates that top-p looks at when top-k is off; grows until it suffices.
const TOP_P_FIRST: usize = 512;
/// Largest `top_k` and `penalty_last_n`, in tokens.
const COUNT_MAX: usize = 1 << 20;

/// How to choose. The default is Google's recommendation for Gemma 4.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingOptions {
    /// Flattens (above 1) or sharpens the chances; 0 always takes the best token. At most 10.
    pub temperature: f32,
    /// Chooses among this many best tokens; 0 for all.
    pub top_k: usize,
    /// Chooses among the best tokens that together have this share; 1 for all.
    pub top_p: f32,
    /// Leaves out tokens with less than this share of the best one's chance; 0 for none.
    pub min_p: f32,
    /// Divides the positive logits of recent tokens and multiplies the negative; 1 for none.
    pub repetition_penalty: f32,
    /// Is taken off the logit for each time that a token came up; 0 for none.
    pub frequency_penalty: f32,
    /// Is taken off the logit of every token that came up; 0 for none.
    pub presence_penalty: f32,
    /// How many recent tokens the penalties see.
    pub penalty_last_n: usize,
    /// Where the random numbers begin.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 64,
            top_p: 0.95,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_last_n: 64,
            seed: 0,
        }
    }
}

impl SamplingOptions {
    /// Returns options that always take the best token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    fn check(&self) -> Result<()> {
        let rows = [
            ("temperature", self.temperature, 0.0, 10.0),
            ("top_p", self.top_p, f32::MIN_POSITIVE, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
        ];
        for (name, value, least, most) in rows {
            if !(least..=most).contains(&value) {
                let least = if least == f32::MIN_POSITIVE {
                    "more than 0".into()
                } else {
                    format!("{least}")
                };
                return Err(Error::input(format!("{name} is {value}, expected {least} to {most}")));
            }
        }
        let counts = [("top_k", self.top_k), ("penalty_last_n", self.penalty_last_n)];
        for (name, value) in counts {
            if value > COUNT_MAX {
                let message = format!("{name} is {value}, expected at most {COUNT_MAX}");
                return Err(Error::input(message));
            }
        }
        Ok(())
    }
}

/// Chooses tokens, one after the other.
#[derive(Clone)]
pub struct Sampler {
    options: SamplingOptions,
    penalty: Penalty,
    rng: Rng,
    forbidden: Vec<TokenId>,
    candidates: Vec<Candidate>,
    weights: Vec<f64>,
}

impl Sampler {
    /// Creates a sampler at the beginning of its seed's row of numbers.
    ///
    /// # Errors
    /// `Input` if an option is out of its range.
    pub fn new(options: SamplingOptions) -> Result<Self> {
        options.check()?;
        let penalty = Penalty::new(
            options.repetition_penalty,
            options.frequency_penalty,
            options.presence_penalty,
            options.penalty_last_n,
        );
        let rng = Rng::new(options.seed);
        let (forbidden, candidates, weights) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { options, penalty, rng, forbidden, candidates, weights })
    }

    /// Returns the options.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Never chooses these tokens again; placeholders of soft tokens, for example.
    pub fn forbid(&mut self, tokens: impl IntoIterator<Item = TokenId>) {
        self.forbidden.extend(tokens);
        self.forbidden.sort_unstable();
        self.forbidden.dedup();
    }

    /// Returns where the random numbers are.
    pub fn state(&self) -> [u64; 4] {
        self.rng.state()
    }

    /// Goes on where another sampler was: its random numbers, and the tokens that its penalties
    /// had seen, oldest first.
    ///
    /// # Errors
    /// `Input` if no random numbers can be there.
    pub fn resume(&mut self, state: [u64; 4], seen: &[TokenId]) -> Result<()> {
        if state == [0; 4] {
            return Err(Error::input("random numbers cannot go on from nothing but zeros"));
        }
        self.rng = Rng::at(state);
        self.penalty.clear();
        seen.iter().for_each(|token| self.penalty.push(*token));
        Ok(())
    }

    /// Shows the penalties a token that was not chosen here, such as one of the prompt.
    pub fn observe(&mut self, token: TokenId) {
        self.penalty.push(token);
    }

    /// Forgets the tokens that the penalties have seen.
    pub fn forget(&mut self) {
        self.penalty.clear();
    }

    /// Chooses a token and shows it to the penalties.
    ///
    /// The logits are changed by the mask and the penalties. A logit that is NaN or minus
    /// infinity is never chosen.
    ///
    /// # Shapes
    /// `[n_vocab]`
    ///
    /// # Errors
    /// `Internal` if no token can be chosen.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<TokenId> {
        for token in &self.forbidden {
            if let Some(logit) = logits.get_mut(token.index()) {
                *logit = f32::NEG_INFINITY;
            }
        }
        self.penalty.apply(logits);
        let is_greedy = self.options.temperature == 0.0 || self.options.top_k == 1;
        let chosen = if is_greedy { select::best(logits) } else { self.chance(logits) };
        let token = chosen.ok_or_else(|| {
            Error::internal(format!("none of {} logits is a usable number", logits.len()))
        })?;
        self.penalty.push(token);
        Ok(token)
    }

    fn chance(&mut self, logits: &[f32]) -> Option<TokenId> {
        let temperature = f64::from(self.options.temperature);
        let top_p = f64::from(self.options.top_p);
        if self.options.top_k > 0 {
            select::top_k(logits, self.options.top_k, &mut self.candidates);
            self.weigh(temperature);
            let total = self.weights.iter().sum();
            self.keep(weight::top_p_count(&self.weights, total, top_p));
        } else if top_p < 1.0 {
            self.top_p_of_all(logits, temperature, top_p);
        } else {
            let all = logits.iter().enumerate();
            let candidate =
                |(index, &logit): (usize, &f32)| Candidate { token: TokenId(index as u32), logit };
            self.candidates.clear();
            self.candidates.extend(all.map(candidate));
            self.weigh(temperature);
        }
        let min_p = f64::from(self.options.min_p);
        for weight in self.weights.iter_mut().filter(|weight| **weight < min_p) {
            *weight = 0.0;
        }
        let index = weight::draw(&self.weights, self.rng.unit())?;
        self.candidates.get(index).map(|candidate| candidate.token)
    }

    /// Selects ever more candidates until they have the share, because few nearly always do.
    fn top_p_of_all(&mut self, logits: &[f32], temperature: f64, top_p: f64) {
        let highest = select::highest(logits);
        let total = logits.iter().map(|&logit| weight::weight(logit, highest, temperature)).sum();
        let mut k = TOP_P_FIRST;
        loop {
            select::top_k(logits, k, &mut self.candidates);
            self.weigh(temperature);
            let count = weight::top_p_count(&self.weights, total, top_p);
            if count.is_some() || self.candidates.len() < k {
                return self.keep(count);
            }
            k *= 8;
        }
    }

    fn weigh(&mut self, temperature: f64) {
        let logits = self.candidates.iter().map(|candidate| candidate.logit);
        let highest = logits.clone().fold(f32::NEG_INFINITY, f32::max);
        self.weights.clear();
        if highest > f32::NEG_INFINITY {
            self.weights.extend(logits.map(|logit| weight::weight(logit, highest, temperature)));
        }
    }

    fn keep(&mut self, count: Option<usize>) {
        self.weights.truncate(count.unwrap_or(usize::MAX));
    }
}

#[cfg(test)]
mod naive {
    use super::*;

    /// Sorts everything and follows the definitions word by word, with the library's `exp`.
    pub(super) fn chances(logits: &[f32], options: &SamplingOptions) -> Vec<(TokenId, f64)> {
        let k = if options.top_k == 0 { logits.len() } else { options.top_k };
        let sorted = select::naive::top_k(logits, k);
        let temperature = f64::from(options.temperature);
        let exp = |logit: f32| (f64::from(logit - sorted[0].logit) / temperature).exp();
        let total: f64 = sorted.iter().map(|c| exp(c.logit)).sum();
        let mut kept = Vec::new();
        let mut sum = 0.0;
        for candidate in &sorted {
            let chance = exp(candidate.logit) / total;
            if sum < f64::from(options.top_p) {
                kept.push((candidate.token, chance));
            }
            sum += chance;
        }
        let least = f64::from(options.min_p) * kept[0].1;
        kept.retain(|(_, chance)| *chance >= least);
        let total: f64 = kept.iter().map(|(_, chance)| chance).sum();
        kept.into_iter().map(|(token, chance)| (token, chance / total)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed);
        (0..n).map(|_| (0..4).map(|_| rng.unit() as f32 * 6.0 - 3.0).sum()).collect()
    }

    fn options(temperature: f32, top_k: usize, top_p: f32, min_p: f32) -> SamplingOptions {
        SamplingOptions { temperature, top_k, top_p, min_p, ..SamplingOptions::default() }
    }

    #[test]
    fn frequencies_equal_the_naive_chances() {
        let cases = [
            options(1.0, 64, 0.95, 0.0),
            options(0.7, 5, 1.0, 0.0),
            options(1.5, 0, 0.9, 0.0),
            options(1.0, 0, 1.0, 0.2),
            options(2.0, 0, 1.0, 0.0),
            options(3.0, 40, 0.8, 0.1),
        ];
        const DRAWS: usize = 40_000;
        for (row, options) in cases.into_iter().enumerate() {
            let logits = logits(120, 5);
            let expected = naive::chances(&logits, &options);
            let mut sampler = Sampler::new(options).unwrap();
            let mut counts = vec![0_usize; logits.len()];
            for _ in 0..DRAWS {
                counts[sampler.sample(&mut logits.clone()).unwrap().index()] += 1;
            }
            for (token, chance) in &expected {
                let mean = chance * DRAWS as f64;
                let off = (counts[token.index()] as f64 - mean).abs();
                let spread = (mean * (1.0 - chance)).sqrt();
                assert!(off < 5.0 * spread + 1.0, "row {row}: {token:?} is off by {off}");
            }
            let chosen = counts.iter().filter(|count| **count > 0).count();
            assert!(chosen <= expected.len(), "row {row}: {chosen} of {}", expected.len());
        }
    }

    #[test]
    fn a_seed_gives_the_same_tokens_everywhere() {
        let mut sampler =
            Sampler::new(SamplingOptions { seed: 42, ..SamplingOptions::default() }).unwrap();
        let row: Vec<u32> =
            (0..8).map(|i| sampler.sample(&mut logits(5000, i)).unwrap().0).collect();
        assert_eq!(row, [586, 346, 2426, 1719, 4176, 2355, 331, 3438]);
    }

    #[test]
    fn a_copy_continues_as_the_original() {
        let mut a =
            Sampler::new(SamplingOptions { repetition_penalty: 1.3, ..SamplingOptions::default() })
                .unwrap();
        for i in 0..20 {
            a.sample(&mut logits(300, i)).unwrap();
        }
        let mut b = a.clone();
        for i in 20..60 {
            let (x, y) = (a.sample(&mut logits(300, i)), b.sample(&mut logits(300, i)));
            assert_eq!(x.unwrap(), y.unwrap());
        }
    }

    #[test]
    fn strange_logits_are_survived() {
        let nan = f32::NAN;
        let inf = f32::INFINITY;
        let all = [
            SamplingOptions::greedy(),
            options(1.0, 3, 0.9, 0.0),
            options(1.0, 0, 0.9, 0.0),
            options(1.0, 0, 1.0, 0.5),
            options(1e-30, 64, 1.0, 0.0),
        ];
        for options in all {
            let mut sampler = Sampler::new(options).unwrap();
            let mut chosen = |logits: &[f32]| sampler.sample(&mut logits.to_vec());
            assert_eq!(chosen(&[nan, -inf, 1.0, nan]).unwrap(), TokenId(2));
            assert_eq!(chosen(&[0.0, inf, 1.0, nan]).unwrap(), TokenId(1));
            assert_eq!(chosen(&[f32::MIN, -inf]).unwrap(), TokenId(0));
            assert!(chosen(&[nan, -inf]).is_err());
            assert!(chosen(&[]).is_err());
        }
    }

    #[test]
    fn forbidden_tokens_are_never_chosen() {
        for options in [SamplingOptions::greedy(), options(10.0, 0, 1.0, 0.0)] {
            let mut sampler = Sampler::new(options).unwrap();
            sampler.forbid([TokenId(1), TokenId(3), TokenId(900)]);
            for _ in 0..200 {
                let token = sampler.sample(&mut [0.0, 9.0, 1.0, 8.0]).unwrap();
                assert!(token == TokenId(0) || token == TokenId(2), "{token:?}");
            }
        }
    }

    #[test]
    fn said_tokens_are_penalised() {
        let options = SamplingOptions { presence_penalty: 5.0, ..SamplingOptions::greedy() };
        let mut sampler = Sampler::new(options).unwrap();
        sampler.observe(TokenId(2));
        let row: Vec<u32> =
            (0..3).map(|_| sampler.sample(&mut [3.0, 2.0, 4.0]).unwrap().0).collect();
        assert_eq!(row, [0, 1, 2]);
        sampler.forget();
        assert_eq!(sampler.sample(&mut [3.0, 2.0, 4.0]).unwrap(), TokenId(2));
    }

    #[test]
    fn options_are_checked() {
        let default = SamplingOptions::default();
        let cases = [
            (SamplingOptions { temperature: -0.1, ..default.clone() }, "temperature is -0.1"),
            (SamplingOptions { temperature: f32::NAN, ..default.clone() }, "temperature is NaN"),
            (SamplingOptions { top_p: 0.0, ..default.clone() }, "expected more than 0 to 1"),
            (SamplingOptions { min_p: 1.5, ..default.clone() }, "min_p is 1.5, expected 0 to 1"),
            (SamplingOptions { repetition_penalty: 0.0, ..default.clone() }, "repetition_penalty"),
            (SamplingOptions { top_k: usize::MAX, ..default }, "top_k"),
        ];
        for (options, expected) in cases {
            let error = Sampler::new(options).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }
}
