//! Attention of tokens over a cache of keys and values, on a kernel of our own.
//!
//! In: queries, the cache's cells in f16, q8_0 or q4_0, and which of them each token sees.
//! Out: mixed values. [`attend`] is the way in, [`avx512`] does it.
//! Four heads that share their keys go through the cells together, so that a cell is widened once
//! for all four. They do so for [`CHUNK`] cells on their own, and what came of those is joined in
//! their order: so a token alone has work for many threads, too.
//! Source: online softmax (Milakov and Gimelshein, 2018).
//! Invariant: a head's answer depends on its query and the cells it sees alone, bit for bit: not
//! on the batch, the threads, or how many cells it does not see.

mod attend;
#[cfg(target_arch = "x86_64")]
mod avx512;

pub use attend::attention_bytes;

use crate::ggml::tensor::DType;

/// Heads that are answered together.
const HEADS: usize = 4;
/// Cells between two looks at the greatest score; what a cache has is a multiple of it.
const BLOCK: usize = 64;
/// Cells that are gone through on their own.
const CHUNK: usize = 4 * BLOCK;
/// Widths of heads are a multiple of it.
const STEP: usize = 64;
/// Widest head.
const WIDTH_MAX: usize = 512;

/// What four heads of one token look at.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only the kernel for AVX-512 reads it")
)]
struct Cells<'a> {
    keys: &'a [u8],
    values: &'a [u8],
    /// Bytes of one cell, and where in it these heads' numbers begin.
    stride: usize,
    column: usize,
    mask: &'a [u16],
}

/// What weights of four heads are in units of, and their sums in those units.
#[derive(Clone, Copy)]
struct Tops {
    most: [f32; HEADS],
    sum: [f32; HEADS],
}

/// Answers the queries of four heads from what they look at: writes the sums of weighted values,
/// which are yet to be divided by those of the weights.
type Answer = fn(q: &[f32], cells: &Cells<'_>, mixed: &mut [f32]) -> Tops;

/// Returns the kernel for caches of a type, if this processor has one.
fn fastest(dtype: DType) -> Option<Answer> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return avx512::answer(dtype);
    }
    let _ = dtype;
    None
}
