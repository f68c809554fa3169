//! Attention among patches in ggml's own operations, for pictures on a GPU.
//!
//! In: products with queries, keys and values. Out: mixed values, as the kernels of `vision.rs` do.

use std::sync::Arc;

use super::rows;
use crate::error::Result;
use crate::ggml::GraphBuilder;
use crate::ggml::Tensor;
use crate::kernel::rotate::Axial;
use crate::model::encoders::Vector;
use crate::model::encoders::VisionLayer;

/// How the heads of every patch are turned: factors of a value and of its partner,
/// `[head_dim, 1, n]` each.
#[derive(Clone, Copy)]
pub(super) struct Turns<'g> {
    own: Tensor<'g>,
    partner: Tensor<'g>,
}

impl<'g> Turns<'g> {
    /// Makes the factors for `n` patches in rows of `n_x`.
    pub(super) fn new(
        g: &'g GraphBuilder,
        axial: &Axial,
        head_dim: usize,
        (n_x, n): (usize, usize),
    ) -> Result<Self> {
        let quarter = head_dim / 4;
        let mut own = vec![0.0; head_dim * n];
        let mut partner = vec![0.0; head_dim * n];
        let rows = own.chunks_exact_mut(head_dim).zip(partner.chunks_exact_mut(head_dim));
        for (i, (own, partner)) in rows.enumerate() {
            // A head of ones whose partners are zero turns into cosines and sines.
            let mut head = vec![0.0; head_dim];
            head.chunks_exact_mut(quarter).step_by(2).for_each(|part| part.fill(1.0));
            axial.turn(&mut head, (i % n_x, i / n_x));
            for half in [0, 2 * quarter] {
                for j in half..half + quarter {
                    (own[j], own[j + quarter]) = (head[j], head[j]);
                    (partner[j], partner[j + quarter]) = (-head[j + quarter], head[j + quarter]);
                }
            }
        }
        let sides = [head_dim, 1, n];
        let (own, partner): (Arc<[f32]>, Arc<[f32]>) = (own.into(), partner.into());
        Ok(Self { own: g.constant(&sides, &own)?, partner: g.constant(&sides, &partner)? })
    }

    /// Turns heads `[head_dim, n_head, n]`.
    fn turn(self, g: &'g GraphBuilder, x: Tensor<'g>) -> Result<Tensor<'g>> {
        let [d, n_head, n, _] = x.shape().0;
        let quarters = g.reshape(x, &[d / 4, 2, 2, n_head * n])?;
        let [first, second] = [g.slice(quarters, 1, 0, 1)?, g.slice(quarters, 1, 1, 1)?];
        let partners = g.reshape(g.concat(second, first, 1)?, &[d, n_head, n])?;
        g.add(g.mul(x, self.own)?, g.mul(partners, self.partner)?)
    }
}

/// Attends from every patch to all of them; the result is `[n_embd, n]`.
pub(super) fn attend<'g>(
    g: &'g GraphBuilder,
    [q, k, v]: [Tensor<'g>; 3],
    layer: &VisionLayer,
    (head_dim, eps): (usize, f32),
    turns: Turns<'g>,
) -> Result<Tensor<'g>> {
    let (n_head, n) = (q.side(0) / head_dim, q.side(1));
    let normed = |x, limits, weight: Option<&Vector>| {
        let heads = g.reshape(rows::limited(g, x, limits)?, &[head_dim, n_head, n])?;
        let weight = weight.map(|w| g.constant(&[head_dim], w)).transpose()?;
        g.rms_norm(heads, weight, eps)
    };
    let q = turns.turn(g, normed(q, layer.attn_q.output, Some(&layer.attn_q_norm))?)?;
    let k = turns.turn(g, normed(k, layer.attn_k.output, Some(&layer.attn_k_norm))?)?;
    let v = normed(v, layer.attn_v.output, None)?;
    let heads = |x| g.permute(x, [0, 2, 1, 3]);
    let mixed = g.attention([heads(q)?, heads(k)?, heads(v)?], None, 1.0)?;
    g.reshape(mixed, &[head_dim * n_head, n])
}
