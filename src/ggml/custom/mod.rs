//! Operations of ours inside a graph, and the fused ones built on them.
//!
//! In: a safe Rust kernel over slices. Out: a graph node that ggml's threads compute.

mod ask;
mod cached;
mod call;
mod dense;
mod few;
mod fused;
mod quant;
mod tiles;

pub use ask::ask_early_for;
pub use ask::ask_for;
pub use cached::attention_bytes;
pub use call::Call;
pub(super) use call::Custom;
pub(super) use call::SRC_MAX;
pub use call::Split;
use call::Taken;
pub(super) use call::run;
pub(super) use quant::multiplies;
pub(super) use quant::wants_plain;
pub(super) use tiles::dots;
