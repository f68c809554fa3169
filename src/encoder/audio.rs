//! The audio encoder: a causal conformer, computed block by block.
//!
//! In: mel frames of one block and what the blocks before it left. Out: soft tokens.
//! Source: Gemma 4 as in transformers 5.23.0 `models/gemma4/modeling_gemma4.py`.
//! Invariant: the encoder itself is only read; what changes is in [`super::AudioStream`].

use std::sync::Arc;
use std::sync::OnceLock;

use super::embedder;
use super::on_gpu;
use super::on_gpu::Window;
use super::rows;
use super::sub_sample::Block;
use super::sub_sample::FRAMES_PER_TOKEN;
use super::sub_sample::SubSample;
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
use crate::kernel::conv;
use crate::kernel::math;
use crate::kernel::norm;
use crate::kernel::norm::limit;
use crate::kernel::window;
use crate::kernel::window::KEYS_MAX;
use crate::model::encoders::AudioLayer;
use crate::model::encoders::AudioWeights;
use crate::model::encoders::FeedForward;
use crate::model::encoders::Vector;

/// Epsilon of every norm; files hold wrong values of it.
const EPS: f32 = 1e-6;
/// Soft cap of attention logits.
pub(super) const CAP: f32 = 50.0;
/// Factor of the products with keys: ln(1 + e) / ln 2.
pub(super) const KEY_SCALE: f32 = 1.894_636_1;
/// Share of a feed-forward block that is added.
const HALF_STEP: f32 = 0.5;
/// Keys that a frame sees before its own.
pub(super) const PAST: usize = KEYS_MAX - 1;
/// Distances that relative keys are made for.
pub(super) const DISTANCES: usize = KEYS_MAX;
/// Most tensors of a layer, those of ggml's operations included.
const NODES: usize = 256;
/// Longest wavelength of the relative positions' sinusoids.
const TIMESCALE_MAX: f64 = 10_000.0;

/// The audio encoder's weights, shared by all streams.
#[derive(Debug)]
pub struct AudioEncoder {
    weights: AudioWeights,
    sub_sample: Arc<SubSample>,
    /// Relative keys of each layer, head after head, made when first needed.
    relative: OnceLock<Vec<Vector>>,
}

/// What one layer reads from the blocks before, and where it leaves what follows.
struct LayerInputs<'g> {
    keys: Tensor<'g>,
    values: Tensor<'g>,
    gated: Tensor<'g>,
    counts: Tensor<'g>,
    /// Where a GPU computes: who sees which key.
    mask: Option<Tensor<'g>>,
}

/// What the next block needs of one layer.
pub(super) struct LayerPorts {
    pub(super) keys: Port,
    pub(super) values: Port,
    pub(super) gated: Port,
}

/// A graph for one block length, with its memory.
pub(super) struct BlockPlan {
    pub(super) plan: Plan,
    pub(super) mel: Port,
    pub(super) mel_before: Port,
    pub(super) row_before: Port,
    pub(super) counts: Port,
    pub(super) history: Port,
    /// Where a GPU computes: [`on_gpu::sights`].
    pub(super) mask: Option<Port>,
    pub(super) rows: Port,
    pub(super) layers: Vec<LayerPorts>,
    pub(super) out: Port,
}

impl AudioEncoder {
    /// Takes the weights of an mmproj.
    ///
    /// # Errors
    /// `Format` if the convolutions' shapes do not fit each other.
    pub fn new(weights: AudioWeights) -> Result<Arc<Self>> {
        let sub_sample = SubSample::new(&weights.conv, &weights.conv_norm, weights.hparams.n_mel)?;
        if weights.hparams.n_kernel < 2 {
            return Err(Error::unsupported(format!(
                "tensor a.blk.0.conv_dw.weight has {} taps, expected 2 or more",
                weights.hparams.n_kernel
            )));
        }
        let sub_sample = Arc::new(sub_sample);
        Ok(Arc::new(Self { weights, sub_sample, relative: OnceLock::new() }))
    }

    /// Returns the width of a soft token.
    #[expect(clippy::misnamed_getters, reason = "callers see the decoder's width as n_embd")]
    pub fn n_embd(&self) -> usize {
        self.weights.hparams.n_embd_out
    }

    /// Returns the values of one mel frame.
    pub fn n_mel(&self) -> usize {
        self.weights.hparams.n_mel
    }

    pub(super) fn weights(&self) -> &AudioWeights {
        &self.weights
    }

    pub(super) fn n_layer(&self) -> usize {
        self.weights.layers.len()
    }

    /// Returns the width of the conformer.
    pub(super) fn width(&self) -> usize {
        self.weights.hparams.n_embd
    }

    /// Returns the values of one row between the two convolutions.
    pub(super) fn row_len(&self) -> usize {
        self.sub_sample.row_len()
    }

    /// Returns the rows that the causal convolution of a layer looks back.
    pub(super) fn taps_before(&self) -> usize {
        self.weights.hparams.n_kernel - 1
    }

    /// Returns the rows of one layer's history: keys, values, convolution inputs.
    pub(super) fn history_rows(&self) -> usize {
        2 * PAST + self.taps_before()
    }

    /// Makes the relative keys of every layer, once.
    fn relative(&self) -> Result<&[Vector]> {
        if self.relative.get().is_none() {
            let n_head = self.weights.hparams.n_head;
            let layers = self.weights.layers.iter();
            let made: Result<Vec<_>> =
                layers.map(|layer| relative_keys(&layer.attn_k_rel, n_head)).collect();
            // Another stream may have been first; both made the same.
            let _ = self.relative.set(made?);
        }
        self.relative.get().map(|r| &r[..]).ok_or_else(|| Error::internal("no relative keys"))
    }

    /// Builds the graph of `n` tokens.
    pub(super) fn plan(&self, n: usize, backend: &Backend) -> Result<BlockPlan> {
        let relative = self.relative()?;
        let w = &self.weights;
        let (width, n_layer) = (self.width(), self.n_layer());
        let g = GraphBuilder::new(64 + n_layer * NODES, backend)?;
        let (mel, mel_port) = g.input(DType::F32, &[self.n_mel(), n * FRAMES_PER_TOKEN])?;
        let (mel_before, mel_before_port) = g.input(DType::F32, &[self.n_mel()])?;
        let (row_before, row_before_port) = g.input(DType::F32, &[self.row_len()])?;
        let (counts, counts_port) = g.input(DType::I32, &[2])?;
        let block = Block { mel, mel_before, row_before, counts };
        let [rows_first, x] = self.sub_sample.build(&g, block, n)?;
        let rows_port = g.output(rows_first);
        let mut x = g.mul_mat(g.weight(&w.input_projection)?, x)?;
        if let Some(layer) = w.layers.first() {
            g.follow(&layer.attn_q.weight)?;
        }
        let history_rows = self.history_rows();
        let (history, history_port) = g.input(DType::F32, &[width, history_rows * n_layer])?;
        let mask = g.on_gpu().then(|| g.input(DType::F32, &[PAST + n, n])).transpose()?;
        let (mask, mask_port) = mask.unzip();
        let mut layers = Vec::with_capacity(n_layer);
        for (index, (layer, relative)) in w.layers.iter().zip(relative).enumerate() {
            let first = index * history_rows;
            let inputs = LayerInputs {
                keys: g.slice(history, 1, first, PAST)?,
                values: g.slice(history, 1, first + PAST, PAST)?,
                gated: g.slice(history, 1, first + 2 * PAST, self.taps_before())?,
                counts,
                mask,
            };
            let ports;
            (x, ports) = self.layer(&g, x, (layer, relative), &inputs)?;
            x = g.name(x, &format!("a_out-{index}"));
            layers.push(ports);
        }
        g.follow(&w.output)?;
        x = g.mul_mat(g.weight(&w.output)?, x)?;
        x = add_bias(&g, x, &w.output_bias)?;
        let out = g.output(embedder::embed(&g, x, &w.embedder, EPS)?);
        Ok(BlockPlan {
            plan: Plan::new(g, backend)?,
            mel: mel_port,
            mel_before: mel_before_port,
            row_before: row_before_port,
            counts: counts_port,
            history: history_port,
            mask: mask_port,
            rows: rows_port,
            layers,
            out,
        })
    }

    fn layer<'g>(
        &self,
        g: &'g GraphBuilder,
        x: Tensor<'g>,
        (layer, relative): (&AudioLayer, &Vector),
        inputs: &LayerInputs<'g>,
    ) -> Result<(Tensor<'g>, LayerPorts)> {
        let x = feed_forward(g, x, &layer.feed_forward[0])?;
        let (x, keys, values) = self.attention(g, x, (layer, relative), inputs)?;
        let (x, gated) = convolution(g, x, layer, inputs.gated)?;
        let x = feed_forward(g, x, &layer.feed_forward[1])?;
        let x = rows::norm_limit(g, x, Some(&layer.norm_out), (EPS, norm::UNLIMITED))?;
        Ok((x, LayerPorts { keys, values, gated }))
    }

    fn attention<'g>(
        &self,
        g: &'g GraphBuilder,
        x: Tensor<'g>,
        (layer, relative): (&AudioLayer, &Vector),
        inputs: &LayerInputs<'g>,
    ) -> Result<(Tensor<'g>, Port, Port)> {
        let linears = [&layer.attn_q, &layer.attn_k, &layer.attn_v];
        let [q, k, v] = rows::normed_products(g, x, (&layer.attn_pre_norm, EPS), linears)?;
        let head_dim = self.weights.hparams.head_dim;
        let q = scaled_queries(g, q, (&layer.per_dim_scale, head_dim), layer.attn_q.output)?;
        let k = rows::limited(g, k, layer.attn_k.output)?;
        let v = rows::limited(g, v, layer.attn_v.output)?;
        let (keys, values) = (g.output(k), g.output(v));
        let mixed = match inputs.mask {
            Some(mask) => {
                let window = Window { past: [inputs.keys, inputs.values], mask };
                on_gpu::attend_window(g, [q, k, v], window, (relative, head_dim))?
            }
            None => mixed(g, [q, k, v], inputs, (relative, head_dim))?,
        };
        let mixed = rows::limited(g, mixed, layer.attn_out.input)?;
        let y = rows::product(g, &layer.attn_out, mixed)?;
        let y = (y, layer.attn_out.output);
        let x = rows::add_normed(g, y, &layer.attn_post_norm, x, (EPS, 1.0))?;
        Ok((x, keys, values))
    }
}

/// Attends from every frame of a block to itself and those before it, by a kernel of ours.
fn mixed<'g>(
    g: &'g GraphBuilder,
    [q, k, v]: [Tensor<'g>; 3],
    inputs: &LayerInputs<'g>,
    (relative, head_dim): (&Vector, usize),
) -> Result<Tensor<'g>> {
    let args = [q, k, v, inputs.keys, inputs.values, inputs.counts];
    let (width, relative) = (q.side(0), Arc::clone(relative));
    g.custom(&q.shape().0, &args, Split::Elements(head_dim), move |call| {
        let seen = Seen {
            current: [call.f32(1), call.f32(2)],
            past: [call.f32(3), call.f32(4)],
            n_past: call.i32(5)[0] as usize,
            width,
        };
        let queries = &call.f32(0)[call.first..call.first + call.out.len()];
        let heads = queries.chunks_exact(head_dim).zip(call.out.chunks_exact_mut(head_dim));
        for (i, (query, out)) in heads.enumerate() {
            let first = call.first + i * head_dim;
            let (row, column) = (first / width, first % width);
            seen.attend(query, (row, column), &relative, out);
        }
    })
}

/// Keys and values that a block's frames see.
struct Seen<'a> {
    /// Keys and values of the block.
    current: [&'a [f32]; 2],
    /// Keys and values before the block; the newest is the last of [`PAST`] rows.
    past: [&'a [f32]; 2],
    /// Rows of `past` that exist.
    n_past: usize,
    width: usize,
}

impl Seen<'_> {
    /// Attends with the query of frame `row` and the head that starts at `column`.
    fn attend(
        &self,
        query: &[f32],
        (row, column): (usize, usize),
        relative: &[f32],
        out: &mut [f32],
    ) {
        let head_dim = query.len();
        let newest = PAST + row;
        let oldest = (newest - PAST).max(PAST - self.n_past.min(PAST));
        let mut found: [[&[f32]; KEYS_MAX]; 2] = [[&[]; KEYS_MAX]; 2];
        for (kind, found) in found.iter_mut().enumerate() {
            for (to, at) in found.iter_mut().zip(oldest..=newest) {
                let (rows, at) = match at.checked_sub(PAST) {
                    Some(at) => (self.current[kind], at),
                    None => (self.past[kind], at),
                };
                *to = &rows[at * self.width + column..][..head_dim];
            }
        }
        let n = newest + 1 - oldest;
        let relative = &relative[column * DISTANCES..(column + head_dim) * DISTANCES];
        let head = window::Head { relative, key_scale: KEY_SCALE, cap: CAP };
        head.attend(query, &found[0][..n], &found[1][..n], out);
    }
}

/// Computes `limit(q)` times the scale of its dimension.
fn scaled_queries<'g>(
    g: &'g GraphBuilder,
    q: Tensor<'g>,
    (per_dim_scale, head_dim): (&Vector, usize),
    limits: (f32, f32),
) -> Result<Tensor<'g>> {
    let factor = ((head_dim as f64).powf(-0.5) / std::f64::consts::LN_2) as f32;
    let scale: Vector = per_dim_scale.iter().map(|s| s * factor).collect();
    if g.on_gpu() {
        let heads =
            g.reshape(rows::limited(g, q, limits)?, &[head_dim, q.side(0) / head_dim, q.side(1)])?;
        return g.reshape(g.mul(heads, g.constant(&[head_dim], &scale)?)?, &q.shape().0);
    }
    g.custom(&q.shape().0, &[q], Split::Rows, move |call| {
        let q = &call.f32(0)[call.first..call.first + call.out.len()];
        for (row, out) in q.chunks_exact(scale.len()).zip(call.out.chunks_exact_mut(scale.len())) {
            for ((o, &q), &s) in out.iter_mut().zip(row).zip(&*scale) {
                *o = limit(q, limits) * s;
            }
        }
    })
}

/// Makes the keys of all distances: head after head, distance 0 first.
///
/// A weight's product with a distance's sinusoid does not depend on the sound.
fn relative_keys(weight: &Weight, n_head: usize) -> Result<Vector> {
    let [n_in, n_out, ..] = weight.shape().0;
    let head_dim = n_out / n_head;
    let half = n_in / 2;
    let step = TIMESCALE_MAX.ln() / (half.max(2) - 1) as f64;
    let sinusoids: Vec<Vec<f32>> = (0..DISTANCES)
        .map(|distance| {
            let angle = |i: usize| distance as f64 * (-(i as f64) * step).exp();
            let sin = (0..half).map(|i| angle(i).sin() as f32);
            sin.chain((0..half).map(|i| angle(i).cos() as f32)).collect()
        })
        .collect();
    let mut keys = vec![0.0; DISTANCES * n_out];
    let mut row = vec![0.0; n_in];
    for out in 0..n_out {
        weight.read_row(out, 0, &mut row)?;
        let (head, i) = (out / head_dim, out % head_dim);
        for (distance, sinusoid) in sinusoids.iter().enumerate() {
            keys[(head * DISTANCES + distance) * head_dim + i] = math::dot(&row, sinusoid);
        }
    }
    Ok(keys.into())
}

/// Adds a bias to every row.
fn add_bias<'g>(g: &'g GraphBuilder, x: Tensor<'g>, bias: &Vector) -> Result<Tensor<'g>> {
    let bias = Arc::clone(bias);
    g.custom(&x.shape().0, &[x], Split::Rows, move |call| {
        let x = &call.f32(0)[call.first..call.first + call.out.len()];
        let rows = x.chunks_exact(bias.len()).zip(call.out.chunks_exact_mut(bias.len()));
        for (row, out) in rows {
            for ((o, &x), &b) in out.iter_mut().zip(row).zip(&*bias) {
                *o = x + b;
            }
        }
    })
}

fn feed_forward<'g>(g: &'g GraphBuilder, x: Tensor<'g>, block: &FeedForward) -> Result<Tensor<'g>> {
    let (up, down) = (&block.up, &block.down);
    let y = rows::norm_limit(g, x, Some(&block.norm), (EPS, up.input))?;
    let y = rows::product(g, up, y)?;
    let y = rows::silu(g, y, (up.output, down.input))?;
    let y = rows::product(g, down, y)?;
    rows::add_normed(g, (y, down.output), &block.post_norm, x, (EPS, HALF_STEP))
}

/// The light convolution; its gated rows are what the next block looks back at.
fn convolution<'g>(
    g: &'g GraphBuilder,
    x: Tensor<'g>,
    layer: &AudioLayer,
    before: Tensor<'g>,
) -> Result<(Tensor<'g>, Port)> {
    let (start, end) = (&layer.conv_start, &layer.conv_end);
    let y = rows::norm_limit(g, x, Some(&layer.conv_pre_norm), (EPS, start.input))?;
    let y = rows::product(g, start, y)?;
    let gated = rows::gated(g, y, start.output)?;
    let port = g.output(gated);
    let y = match g.on_gpu() {
        true => {
            let y = on_gpu::convolve(g, gated, before, &layer.conv_taps)?;
            let y = rows::norm_limit(g, y, Some(&layer.conv_norm), (EPS, norm::UNLIMITED))?;
            rows::silu(g, y, (norm::UNLIMITED, end.input))?
        }
        false => convolved(g, gated, before, layer)?,
    };
    let y = rows::product(g, end, y)?;
    Ok((rows::add_limited(g, (y, end.output), x)?, port))
}

/// Convolves gated rows by a kernel of ours, up to the product that follows.
fn convolved<'g>(
    g: &'g GraphBuilder,
    gated: Tensor<'g>,
    before: Tensor<'g>,
    layer: &AudioLayer,
) -> Result<Tensor<'g>> {
    let (taps, weight) = (Arc::clone(&layer.conv_taps), Arc::clone(&layer.conv_norm));
    let limits = layer.conv_end.input;
    g.custom(&gated.shape().0, &[gated, before], Split::Rows, move |call| {
        let (rows, before, n) = (call.f32(0), call.f32(1), call.row_len);
        let (n_taps, n_before, first) = (taps.len() / n, before.len() / n, call.first_row());
        for (i, out) in call.out.chunks_exact_mut(n).enumerate() {
            let row = |tap: usize| match (first + i + tap).checked_sub(n_before) {
                Some(at) => &rows[at * n..(at + 1) * n],
                None => &before[(first + i + tap) * n..][..n],
            };
            conv::depthwise((0..n_taps).map(row), &taps, out);
            let scale = norm::rms_scale(out, EPS);
            for (o, &w) in out.iter_mut().zip(&*weight) {
                *o = limit(math::silu(*o * scale * w), limits);
            }
        }
    })
}
