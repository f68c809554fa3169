//! Two strided convolutions: four mel frames become the row of one token.
//!
//! In: mel frames of a block and the rows before it. Out: `[n_rows_in, n]` for the projection.
//! Invariant: a row that the sound does not reach is zero, as the reference masks it.

use std::sync::Arc;

use crate::error::Error;
use crate::error::Result;
use crate::ggml::GraphBuilder;
use crate::ggml::Split;
use crate::ggml::Tensor;
use crate::kernel::conv::StridedConv;
use crate::model::encoders::Vector;

/// Epsilon of the channel norms.
const EPS: f32 = 1e-6;
/// Mel frames that become one token.
pub(super) const FRAMES_PER_TOKEN: usize = 4;

/// The two convolutions and their norms.
#[derive(Debug)]
pub(super) struct SubSample {
    stages: [StridedConv; 2],
    n_mel: usize,
}

/// Inputs of the convolutions in a graph.
#[derive(Clone, Copy)]
pub(super) struct Block<'g> {
    /// `[n_mel, 4 n]`, zeros after the last frame.
    pub mel: Tensor<'g>,
    /// The frame before the block, `[n_mel]`.
    pub mel_before: Tensor<'g>,
    /// The first stage's row before the block, `[row_len]`.
    pub row_before: Tensor<'g>,
    /// `[rows of history, frames of the block]` (i32).
    pub counts: Tensor<'g>,
}

impl SubSample {
    /// Takes the convolutions' kernels in file order and their norms.
    pub(super) fn new(kernels: &[Vector; 2], norms: &[Vector; 2], n_mel: usize) -> Result<Self> {
        let stage = |i: usize, n_in: usize| {
            StridedConv::new(&kernels[i], &norms[i], n_in, EPS).ok_or_else(|| {
                Error::internal(format!("convolution {i} has {} values", kernels[i].len()))
            })
        };
        Ok(Self { stages: [stage(0, 1)?, stage(1, norms[0].len())?], n_mel })
    }

    /// Returns the values of one row after the first stage.
    pub(super) fn row_len(&self) -> usize {
        StridedConv::side(self.n_mel) * self.stages[0].n_out()
    }

    /// Returns the values of one row after the second stage.
    pub(super) fn out_len(&self) -> usize {
        StridedConv::side(StridedConv::side(self.n_mel)) * self.stages[1].n_out()
    }

    /// Builds both stages; returns the first's rows `[row_len, 2 n]` and the second's.
    pub(super) fn build<'g>(
        self: &Arc<Self>,
        g: &'g GraphBuilder,
        block: Block<'g>,
        n: usize,
    ) -> Result<[Tensor<'g>; 2]> {
        let inputs = [block.mel, block.mel_before, block.counts];
        let this = Arc::clone(self);
        let first = g.custom(&[self.row_len(), 2 * n], &inputs, Split::Rows, move |call| {
            let (mel, before) = (call.f32(0), call.f32(1));
            let n_frames = call.i32(2)[1] as usize;
            let (row_len, first) = (call.row_len, call.first_row());
            for (i, out) in call.out.chunks_exact_mut(row_len).enumerate() {
                let row = first + i;
                if 2 * row < n_frames {
                    this.stages[0].row(around(mel, before, this.n_mel, row), out);
                } else {
                    out.fill(0.0);
                }
            }
        })?;
        let this = Arc::clone(self);
        let inputs = [first, block.row_before];
        let second = g.custom(&[self.out_len(), n], &inputs, Split::Rows, move |call| {
            let (rows, before) = (call.f32(0), call.f32(1));
            let (row_len, first) = (call.row_len, call.first_row());
            for (i, out) in call.out.chunks_exact_mut(row_len).enumerate() {
                this.stages[1].row(around(rows, before, before.len(), first + i), out);
            }
        })?;
        Ok([first, second])
    }
}

/// The three rows that row `index` of a stride-2 convolution sees; `before` is row -1.
fn around<'a>(
    rows: &'a [f32],
    before: &'a [f32],
    len: usize,
    index: usize,
) -> [Option<&'a [f32]>; 3] {
    let row = |i: usize| rows.get(i * len..(i + 1) * len);
    let previous = if index == 0 { Some(before) } else { row(2 * index - 1) };
    [previous, row(2 * index), row(2 * index + 1)]
}
