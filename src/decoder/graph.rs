//! The layer loop: one graph for `n` new positions of which the last `n_out` give logits.
//!
//! In: embedded rows, per-layer rows, positions, masks. Out: logits `[n_vocab, n_out]`.
//! Layers before `n_front` run for every row. Layer `n_front`, the last that owns a cache, makes
//! keys and values for every row; the rest of it and all later layers run for the last `n_out`.
//! Source: transformers `modeling_gemma4.py`; names as in llama.cpp's graph.

use crate::decoder::attention;
use crate::decoder::kv::KvCache;
use crate::decoder::weights::DecoderWeights;
use crate::error::Error;
use crate::error::Result;
use crate::ggml::Backend;
use crate::ggml::DType;
use crate::ggml::GraphBuilder;
use crate::ggml::Plan;
use crate::ggml::Port;
use crate::ggml::Split;
use crate::ggml::Tensor;
use crate::ggml::Weight;
use crate::kernel::math;
use crate::model::HParams;
use crate::model::LayerKind;

/// What a graph is built for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Size {
    /// New positions.
    pub(super) n: usize,
    /// Last positions whose logits are wanted.
    pub(super) n_out: usize,
    /// Cells of a full layer that are covered.
    pub(super) n_full: usize,
    /// Cells of a sliding layer.
    pub(super) n_ring: usize,
}

/// Ports of a built graph.
pub(super) struct Ports {
    pub(super) x: Port,
    pub(super) per_layer_front: Option<Port>,
    pub(super) per_layer_back: Option<Port>,
    pub(super) cells: [Port; 2],
    pub(super) masks: [Port; 2],
    pub(super) tables: [Port; 2],
    pub(super) positions: Port,
    pub(super) factors: Port,
    pub(super) logits: Option<Port>,
}

/// Input tensors that every layer reads; pairs are full, sliding.
pub(super) struct Inputs<'g> {
    cells: [Tensor<'g>; 2],
    masks: [Tensor<'g>; 2],
    tables: [Tensor<'g>; 2],
    pub(super) positions: Tensor<'g>,
    pub(super) factors: Tensor<'g>,
}

impl<'g> Inputs<'g> {
    /// Returns where new rows go and how they are turned.
    pub(super) fn places(&self, sliding: bool) -> (Tensor<'g>, Tensor<'g>) {
        (self.cells[usize::from(sliding)], self.tables[usize::from(sliding)])
    }

    /// Returns the mask and the number of cells it covers.
    pub(super) fn mask(&self, sliding: bool) -> (Tensor<'g>, usize) {
        let mask = self.masks[usize::from(sliding)];
        (mask, mask.side(0))
    }
}

/// What the parts of a graph share while it is built.
pub(super) struct Frame<'g, 'a> {
    pub(super) g: &'g GraphBuilder,
    pub(super) h: &'a HParams,
    pub(super) w: &'a DecoderWeights,
    pub(super) kv: &'a KvCache,
    pub(super) inputs: Inputs<'g>,
}

/// Number of layers that every position runs completely: all before the last that owns a cache.
pub(super) fn n_front(h: &HParams) -> usize {
    h.first_shared - 1
}

/// Head widths of full and sliding layers; a kind that does not occur gets a placeholder.
pub(super) fn head_dims(h: &HParams) -> [usize; 2] {
    [false, true].map(|sliding| {
        h.layers
            .iter()
            .find(|l| (l.kind == LayerKind::Sliding) == sliding)
            .map_or(2, |l| l.head_dim)
    })
}

/// Builds the graph and reserves its memory.
pub(super) fn build(
    h: &HParams,
    w: &DecoderWeights,
    kv: &KvCache,
    size: Size,
    backend: &Backend,
) -> Result<(Plan, Ports)> {
    let n_layer = h.layers.len();
    let g = GraphBuilder::new(64 + 128 * n_layer, backend)?;
    let ports = assemble(&g, h, w, kv, size)?;
    Ok((Plan::new(g, backend)?, ports))
}

fn assemble(
    g: &GraphBuilder,
    h: &HParams,
    w: &DecoderWeights,
    kv: &KvCache,
    size: Size,
) -> Result<Ports> {
    let Size { n, n_out, n_full, n_ring } = size;
    let dims = head_dims(h);
    let (x, x_port) = g.input(DType::F32, &[h.n_embd, n])?;
    let cells = [g.input(DType::I64, &[n])?, g.input(DType::I64, &[n])?];
    let masks = [g.input(DType::F16, &[n_full, n])?, g.input(DType::F16, &[n_ring, n])?];
    let tables = [g.input(DType::F32, &[dims[0], n])?, g.input(DType::F32, &[dims[1], n])?];
    let (positions, positions_port) = g.input(DType::I32, &[n])?;
    let (factors, factors_port) = g.input(DType::F32, &[dims[0] / 2])?;
    let inputs = Inputs {
        cells: cells.map(|c| c.0),
        masks: masks.map(|m| m.0),
        tables: tables.map(|t| t.0),
        positions,
        factors,
    };
    let f = Frame { g, h, w, kv, inputs };
    let front = n_front(h);
    let (n_epl, n_layer) = (h.n_embd_per_layer, h.layers.len());
    let rows_front = match front {
        0 => None,
        _ => Some(g.input(DType::F32, &[n_epl, front, n])?),
    };
    let rows_back = match n_out {
        0 => None,
        _ => Some(g.input(DType::F32, &[n_epl, n_layer - front, n_out])?),
    };
    let logits = layers(&f, x, rows_front.map(|r| r.0), rows_back.map(|r| r.0), n_out)?;
    Ok(Ports {
        x: x_port,
        per_layer_front: rows_front.map(|r| r.1),
        per_layer_back: rows_back.map(|r| r.1),
        cells: cells.map(|c| c.1),
        masks: masks.map(|m| m.1),
        tables: tables.map(|t| t.1),
        positions: positions_port,
        factors: factors_port,
        logits: logits.map(|l| g.output(l)),
    })
}

fn layers<'g>(
    f: &Frame<'g, '_>,
    embedded: Tensor<'g>,
    rows_front: Option<Tensor<'g>>,
    rows_back: Option<Tensor<'g>>,
    n_out: usize,
) -> Result<Option<Tensor<'g>>> {
    let (g, h, w) = (f.g, f.h, f.w);
    let front = n_front(h);
    let tables = &w.per_layer;
    let projected = |rows: Option<Tensor<'g>>, proj: Option<&Weight>, x: Tensor<'g>| {
        rows.zip(proj).map(|(rows, proj)| per_layer_rows(f, rows, proj, x)).transpose()
    };
    let proj = tables.model_proj_front.as_ref();
    let per_layer = projected(rows_front, proj, embedded)?;
    let mut x = embedded;
    for il in 0..front {
        g.follow(&w.layers[il].attn_norm)?;
        let normed = g.rms_norm(x, Some(g.weight(&w.layers[il].attn_norm)?), h.rms_eps)?;
        attention::store(f, il, normed)?;
        x = finish(f, il, x, normed, per_layer.map(|p| (p, il)))?;
    }
    let last = &w.layers[front];
    g.follow(&last.attn_norm)?;
    let normed = g.rms_norm(x, Some(g.weight(&last.attn_norm)?), h.rms_eps)?;
    attention::store(f, front, normed)?;
    if n_out == 0 {
        return Ok(None);
    }
    let tail = |t: Tensor<'g>| g.slice(t, 1, t.side(1) - n_out, n_out);
    let proj = Some(&tables.model_proj_back);
    let per_layer = projected(rows_back, proj, tail(embedded)?)?;
    g.follow(&last.attn_norm)?;
    x = finish(f, front, tail(x)?, tail(normed)?, per_layer.map(|p| (p, 0)))?;
    for il in front + 1..h.layers.len() {
        g.follow(&w.layers[il].attn_norm)?;
        let normed = g.rms_norm(x, Some(g.weight(&w.layers[il].attn_norm)?), h.rms_eps)?;
        x = finish(f, il, x, normed, per_layer.map(|p| (p, il - front)))?;
    }
    head(f, x).map(Some)
}

/// Final norm, output rows, soft cap.
fn head<'g>(f: &Frame<'g, '_>, x: Tensor<'g>) -> Result<Tensor<'g>> {
    let g = f.g;
    g.follow(&f.w.output_norm)?;
    let x = g.rms_norm(x, Some(g.weight(&f.w.output_norm)?), f.h.rms_eps)?;
    let logits = g.linear(&f.w.output, g.name(x, "result_norm"))?;
    let logits = match f.h.logit_softcap {
        Some(cap) => g.soft_cap(logits, cap)?,
        None => logits,
    };
    Ok(g.name(logits, "result_output"))
}

/// `(RMS(projection of x) * norm + table rows) / sqrt(2)`, shape `[n_epl, n_layers, n]`.
fn per_layer_rows<'g>(
    f: &Frame<'g, '_>,
    rows: Tensor<'g>,
    proj: &Weight,
    x: Tensor<'g>,
) -> Result<Tensor<'g>> {
    let (g, h) = (f.g, f.h);
    let [n_epl, n_layers, n, _] = rows.shape().0;
    let norm = &f.w.per_layer.proj_norm;
    g.follow(norm)?;
    let projected = g.linear(proj, x)?;
    let projected = g.reshape(projected, &[n_epl, n_layers * n])?;
    let rows = g.reshape(rows, &[n_epl, n_layers * n])?;
    // The projection is scaled by n_embd^(-1/2) before its norm; only `eps` feels it.
    let eps = h.rms_eps * h.n_embd as f32;
    let gain = std::f32::consts::FRAC_1_SQRT_2;
    let sum = g.rms_norm_add(projected, g.weight(norm)?, rows, (eps, 1.0, gain))?;
    g.reshape(sum, &[n_epl, n_layers, n])
}

/// The layer after its keys and values are stored: attention, MLP, per-layer block, scale.
fn finish<'g>(
    f: &Frame<'g, '_>,
    il: usize,
    x: Tensor<'g>,
    normed: Tensor<'g>,
    per_layer: Option<(Tensor<'g>, usize)>,
) -> Result<Tensor<'g>> {
    let (g, w, eps) = (f.g, &f.w.layers[il], f.h.rms_eps);
    let heads = attention::answer(f, il, normed)?;
    let out = g.linear(&w.attn_output, heads)?;
    let norm = g.weight(&w.post_attention_norm)?;
    let x = g.name(g.rms_norm_add(out, norm, x, (eps, 1.0, 1.0))?, &format!("attn_out-{il}"));
    let normed = g.rms_norm(x, Some(g.weight(&w.ffn_norm)?), eps)?;
    let gate = g.linear(&w.ffn_gate, normed)?;
    let up = g.linear(&w.ffn_up, normed)?;
    let out = g.linear(&w.ffn_down, g.gelu_mul(gate, up)?)?;
    let scale = w.layer_output_scale;
    let x = g.rms_norm_add(out, g.weight(&w.post_ffw_norm)?, x, (eps, 1.0, 1.0))?;
    let block = &w.per_layer;
    let (rows, index) = per_layer.ok_or_else(|| Error::internal("no per-layer rows"))?;
    let gate = g.linear(&block.inp_gate, x)?;
    let gated = gated_slice(g, gate, rows, index)?;
    let out = g.linear(&block.proj, gated)?;
    let x = g.rms_norm_add(out, g.weight(&block.post_norm)?, x, (eps, 1.0, scale))?;
    Ok(g.name(x, &format!("l_out-{il}")))
}

/// `gelu(gate) * rows[.., index, ..]`, shape `[n_epl, n]`.
fn gated_slice<'g>(
    g: &'g GraphBuilder,
    gate: Tensor<'g>,
    rows: Tensor<'g>,
    index: usize,
) -> Result<Tensor<'g>> {
    let [n_epl, n_layers, n, _] = rows.shape().0;
    if g.on_gpu() {
        let slice = g.cont(g.slice(rows, 1, index, 1)?)?;
        return g.gelu_mul(gate, g.reshape(slice, &[n_epl, n])?);
    }
    g.custom(&[n_epl, n], &[gate, rows], Split::Rows, move |call| {
        let (gate, rows) = (call.f32(0), call.f32(1));
        let first = call.first_row();
        for (i, out) in call.out.chunks_exact_mut(n_epl).enumerate() {
            let t = first + i;
            let row = &rows[(t * n_layers + index) * n_epl..][..n_epl];
            math::gelu_mul(&gate[t * n_epl..][..n_epl], row, out);
        }
    })
}
