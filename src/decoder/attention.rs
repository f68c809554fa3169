//! Attention of one layer: heads normalised and turned, keys and values cached, queries answered.
//!
//! In: the normalised stream `[n_embd, n]`. Out: heads' answers `[n_head * d, n]`.
//! Source: Gemma 4 as in transformers `modeling_gemma4.py`: scale 1, RMS over each head, no weight
//! on values, shared layers read their producer's cache.

use crate::decoder::graph::Frame;
use crate::decoder::rope;
use crate::error::Error;
use crate::error::Result;
use crate::ggml::Rope;
use crate::ggml::Split;
use crate::ggml::Tensor;
use crate::ggml::Weight;
use crate::model::LayerKind;

/// Normalises heads of `x` `[n_head * d, n]` and turns them by their positions: `[d, n_head, n]`.
fn heads<'g>(
    f: &Frame<'g, '_>,
    il: usize,
    x: Tensor<'g>,
    n_head: usize,
    weight: &Weight,
    table: Tensor<'g>,
) -> Result<Tensor<'g>> {
    let shape = &f.h.layers[il];
    let (d, eps, n) = (shape.head_dim, f.h.rms_eps, x.side(1));
    let x = f.g.reshape(x, &[d, n_head, n])?;
    let weight = f.g.weight(weight)?;
    if f.g.on_gpu() {
        let x = f.g.rms_norm(x, Some(weight), eps)?;
        let sliding = shape.kind == LayerKind::Sliding;
        let base = if sliding { f.h.rope_base_sliding } else { f.h.rope_base_full };
        let factors = if sliding { None } else { Some(f.inputs.factors) };
        let positions = f.g.slice(f.inputs.positions, 0, f.inputs.positions.side(0) - n, n)?;
        return f.g.rope(x, positions, factors, Rope { base, n_dims: d });
    }
    f.g.custom(&[d, n_head, n], &[x, weight, table], Split::Rows, move |call| {
        let (x, weight, table) = (call.f32(0), call.f32(1), call.f32(2));
        let first = call.first_row();
        for (i, out) in call.out.chunks_exact_mut(d).enumerate() {
            let row = first + i;
            let table = &table[row / n_head * d..][..d];
            rope::norm_and_turn(&x[row * d..][..d], weight, eps, table, out);
        }
    })
}

/// Writes keys and values of `x`, the normalised stream, to the layer's cache.
pub(super) fn store<'g>(f: &Frame<'g, '_>, il: usize, x: Tensor<'g>) -> Result<()> {
    let (g, shape) = (f.g, &f.h.layers[il]);
    let w = f.w.layers[il].kv.as_ref();
    let Some(w) = w else {
        return Err(Error::internal(format!("layer {il} has no cache of its own")));
    };
    let (d, n_kv, n) = (shape.head_dim, shape.n_head_kv, x.side(1));
    let (cells, table) = f.inputs.places(shape.kind == LayerKind::Sliding);
    let k = g.linear(&w.attn_k, x)?;
    let v = g.linear(&w.attn_v, x)?;
    let k = heads(f, il, k, n_kv, &w.attn_k_norm, table)?;
    let v = g.rms_norm(g.reshape(v, &[d, n_kv * n])?, None, f.h.rms_eps)?;
    let k = g.name(g.reshape(k, &[d * n_kv, n])?, &format!("Kcur_pos-{il}"));
    let v = g.name(g.reshape(v, &[d * n_kv, n])?, &format!("Vcur_normed-{il}"));
    for pair in f.kv.pairs(il) {
        for (state, rows) in pair.into_iter().zip([k, v]) {
            g.expand(g.set_rows(g.state(&f.kv.store, state)?, rows, cells)?);
        }
    }
    Ok(())
}

/// Answers the queries of `x`, the normalised stream, from the cache of the layer's producer.
pub(super) fn answer<'g>(f: &Frame<'g, '_>, il: usize, x: Tensor<'g>) -> Result<Tensor<'g>> {
    let (g, shape) = (f.g, &f.h.layers[il]);
    let (d, n_head, n_kv, n) = (shape.head_dim, shape.n_head, shape.n_head_kv, x.side(1));
    let Some([k_state, v_state]) = f.kv.pair(shape.kv_source, g.on_gpu()) else {
        return Err(Error::internal(format!("layer {il} reads a cache that is not kept")));
    };
    let (_, table) = f.inputs.places(shape.kind == LayerKind::Sliding);
    let table = g.slice(table, 1, table.side(1) - n, n)?;
    let w = &f.w.layers[il];
    let q = g.linear(&w.attn_q, x)?;
    let q = heads(f, il, q, n_head, &w.attn_q_norm, table)?;
    let q = g.name(q, &format!("Qcur_pos-{il}"));
    let (mask, n_cells) = f.inputs.mask(shape.kind == LayerKind::Sliding);
    let mask = g.slice(mask, 1, mask.side(1) - n, n)?;
    let cache = |state| g.slice(g.state(&f.kv.store, state)?, 1, 0, n_cells);
    let (k, v) = (cache(k_state)?, cache(v_state)?);
    let out = match g.attend_cells([q, k, v], mask)? {
        Some(out) => out,
        None => {
            let heads = |cells| g.permute(g.reshape(cells, &[d, n_kv, n_cells])?, [0, 2, 1, 3]);
            let q = g.permute(q, [0, 2, 1, 3])?;
            g.attention([q, heads(k)?, heads(v)?], Some(mask), 1.0)?
        }
    };
    g.reshape(out, &[d * n_head, n])
}
