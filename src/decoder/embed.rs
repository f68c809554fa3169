//! Rows that enter the decoder: token embeddings, soft tokens, and per-layer embeddings.
//!
//! In: entries. Out: f32 rows, read straight from the mapping, so only pages of used tokens and
//! used layers become resident (a token reads one row of each table).

use crate::decoder::weights::DecoderWeights;
use crate::error::Error;
use crate::error::Result;
use crate::model::HParams;
use crate::units::TokenId;

/// One position's input.
#[derive(Clone, Copy)]
pub enum Entry<'a> {
    /// A text token.
    Token(TokenId),
    /// One soft token: `n_embd` values, used as they are.
    Soft(&'a [f32]),
}

/// Per-layer embedding id of every soft token: `<pad>`.
const SOFT_TOKEN_ROW: usize = 0;

impl Entry<'_> {
    /// Returns the row of the per-layer table that it uses.
    fn per_layer_row(self) -> usize {
        match self {
            Self::Token(id) => id.index(),
            Self::Soft(_) => SOFT_TOKEN_ROW,
        }
    }
}

/// Checks entries before any of them is computed.
///
/// # Errors
/// `Input` if a token id is outside the vocabulary or a soft token has another width.
pub(super) fn check(h: &HParams, entries: &[Entry<'_>]) -> Result<()> {
    for entry in entries {
        match entry {
            Entry::Token(id) if id.index() >= h.n_vocab => {
                return Err(Error::input(format!(
                    "token id {} is outside the vocabulary of {}",
                    id.0, h.n_vocab
                )));
            }
            Entry::Soft(row) if row.len() != h.n_embd => {
                return Err(Error::input(format!(
                    "soft token of {} values, the decoder takes {}; use the mmproj file made for \
                     this model",
                    row.len(),
                    h.n_embd
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Fills `[n_embd, n]`: token rows times `sqrt(n_embd)`, soft tokens as they are.
pub(super) fn embed(
    h: &HParams,
    w: &DecoderWeights,
    entries: &[Entry<'_>],
    out: &mut Vec<f32>,
) -> Result<()> {
    let scale = (h.n_embd as f64).sqrt() as f32;
    out.resize(entries.len() * h.n_embd, 0.0);
    for (row, entry) in out.chunks_exact_mut(h.n_embd).zip(entries) {
        match entry {
            Entry::Soft(values) => row.copy_from_slice(values),
            Entry::Token(id) => {
                w.token_embd.read_row(id.index(), 0, row)?;
                row.iter_mut().for_each(|v| *v *= scale);
            }
        }
    }
    Ok(())
}

/// Fills `[n_epl, n_layers, n]` with the table's slices of `layers`, times `sqrt(n_epl)`; `wide` is
/// where a row is read to.
pub(super) fn per_layer(
    h: &HParams,
    w: &DecoderWeights,
    entries: &[Entry<'_>],
    layers: std::ops::Range<usize>,
    wide: &mut Vec<f32>,
    out: &mut Vec<f32>,
) -> Result<()> {
    let tables = &w.per_layer;
    let n_epl = h.n_embd_per_layer;
    let scale = (n_epl as f64).sqrt() as f32;
    let block = tables.token_embd.dtype().block_len();
    // Blocks may straddle layers where the width is no multiple of them.
    let first = layers.start * n_epl;
    let (skip, from) = (first % block, first / block * block);
    let need = (skip + layers.len() * n_epl).next_multiple_of(block);
    let need = need.min(tables.token_embd.shape().0[0] - from);
    wide.resize(need, 0.0);
    let n = layers.len() * n_epl;
    out.resize(entries.len() * n, 0.0);
    for (row, entry) in out.chunks_exact_mut(n).zip(entries) {
        tables.token_embd.read_row(entry.per_layer_row(), from, wide)?;
        for (o, v) in row.iter_mut().zip(&wide[skip..]) {
            *o = v * scale;
        }
    }
    Ok(())
}
