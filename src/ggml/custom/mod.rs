//! Operations of ours inside a graph, and the fused ones built on them.
//!
//! In: a safe Rust kernel over slices. Out: a graph node that ggml's threads compute.

mod cached;
mod call;
mod dense;
mod few;
mod fused;
mod quant;
mod tiles;

pub use cached::attention_bytes;
pub use call::Call;
pub(super) use call::Custom;
pub(super) use call::SRC_MAX;
pub use call::Split;
use call::Taken;
pub(super) use call::run;
pub use quant::ask_early_for;
pub use quant::ask_for;
pub(super) use quant::multiplies;
pub(super) use quant::wants_plain;
pub(super) use tiles::dots;
