//! The multimodal embedder: an encoder's rows in the width of the decoder.
//!
//! In: rows of an encoder. Out: [`SoftTokens`].

use std::fmt;

use super::rows;
use crate::error::Result;
use crate::ggml::GraphBuilder;
use crate::ggml::Tensor;
use crate::ggml::Weight;
use crate::kernel::norm::UNLIMITED;

/// Embeddings of a sound or a picture, one row for each token.
#[derive(Clone, Default, PartialEq)]
pub struct SoftTokens {
    /// Rows of `n_embd` values, one after the other.
    pub data: Vec<f32>,
    /// Width of a row.
    pub n_embd: usize,
}

impl SoftTokens {
    /// Returns the number of tokens.
    pub fn n(&self) -> usize {
        self.data.len().checked_div(self.n_embd).unwrap_or(0)
    }

    /// Appends the rows of `other`, which has the same width.
    pub fn append(&mut self, other: &Self) {
        self.n_embd = other.n_embd;
        self.data.extend_from_slice(&other.data);
    }
}

impl fmt::Debug for SoftTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftTokens {{ {} x {} }}", self.n(), self.n_embd)
    }
}

/// Normalises rows (no weight) and projects them into the decoder's width.
pub(super) fn embed<'g>(
    g: &'g GraphBuilder,
    x: Tensor<'g>,
    projection: &Weight,
    eps: f32,
) -> Result<Tensor<'g>> {
    let x = rows::norm_limit(g, x, None, (eps, UNLIMITED))?;
    g.mul_rows(projection, x)
}
