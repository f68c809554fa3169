//! Chooses the next token from logits.
//! In: logits `[n_vocab]` of one position. Out: one `TokenId`.
//! Source: transformers `generation/logits_process.py` (penalties, temperature, top-k, top-p,
//! min-p, in this order); Google's defaults from the Gemma 4 model card.
//! Invariant: the same seed, options and logits give the same token on every machine.

mod chain;
mod penalty;
mod rng;
mod select;
mod weight;

pub use chain::Sampler;
pub use chain::SamplingOptions;
