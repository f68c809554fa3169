//! Speed of the decoder: prompts, answers, opening, snapshots, and the memory that they take.
//!
//! In: model files, what to measure. Out: rows.
//! - `sides`: ours and the peer, one interface, and whether their answers agree
//! - `opening`: opening, first token, memory, page-ins; nothing else is loaded meanwhile
//! - `snapshot`: the first token behind a long system prompt, restored or computed
//! - `tokens`: prompts and answers at several depths, and what of the machine's best they use
//! - `yardstick`: that best, measured in turns with them
//!
//! Invariant: both sides take the same tokens in turns; a peer's time counts only if its logits
//! agree.

mod opening;
mod sides;
mod snapshot;
mod tokens;
mod yardstick;

pub(super) use opening::opening;
pub(super) use snapshot::snapshot;
pub(super) use tokens::tokens;

use std::path::PathBuf;

use culet::decoder::KvOptions;
use culet::engine::EngineOptions;
use culet::ggml::DType;

/// What is measured, and how it is opened.
pub(super) struct Subject {
    pub(super) model: PathBuf,
    pub(super) mmproj: Option<PathBuf>,
    pub(super) options: EngineOptions,
    /// The file that the peer reads, if it is measured too.
    pub(super) peer: Option<PathBuf>,
}

/// What to measure.
pub(super) struct Wanted {
    pub(super) n_threads: usize,
    pub(super) prefill: Vec<usize>,
    pub(super) depths: Vec<usize>,
    /// Soft tokens of pictures.
    pub(super) pictures: Vec<u32>,
    pub(super) n_repeat: usize,
    /// Most tokens of a prompt that are computed together.
    pub(super) n_batch: usize,
    /// Type of cached keys and values.
    pub(super) kv: DType,
}

impl Wanted {
    /// Returns options of a cache of `n_ctx` tokens.
    pub(super) fn cache(&self, n_ctx: usize) -> KvOptions {
        KvOptions { n_ctx, n_batch: self.n_batch, dtype: self.kv }
    }
}
