//! The vision encoder: a transformer over patches, pooled 3 x 3 into soft tokens.
//!
//! In: [`Patches`]. Out: [`SoftTokens`], row by row from the top left.
//! Source: Gemma 4 as in transformers 5.23.0 `models/gemma4/modeling_gemma4.py`.
//! Invariant: memory grows with the number of patches, never with its square.

use std::sync::Arc;

use super::embedder;
use super::embedder::SoftTokens;
use super::on_gpu;
use super::on_gpu::Turns;
use super::rows;
use crate::error::Error;
use crate::error::Result;
use crate::frontend::patches::PATCH_SIDE_PX;
use crate::frontend::patches::PATCH_VALUES;
use crate::frontend::patches::POOL_SIDE_PATCHES;
use crate::frontend::patches::Patches;
use crate::frontend::pixels;
use crate::frontend::pixels::TOKEN_BUDGETS;
use crate::ggml::Backend;
use crate::ggml::Call;
use crate::ggml::DType;
use crate::ggml::GraphBuilder;
use crate::ggml::Plan;
use crate::ggml::Port;
use crate::ggml::Split;
use crate::ggml::Tensor;
use crate::kernel::attend;
use crate::kernel::norm;
use crate::kernel::norm::limit;
use crate::kernel::rotate::Axial;
use crate::model::encoders::VisionLayer;
use crate::model::encoders::VisionWeights;

/// Base of the rotary frequencies.
const ROPE_BASE: f32 = 100.0;
/// Patches of a picture at the largest token budget.
pub const PATCHES_MAX: usize = 1120 * POOL_SIDE_PATCHES * POOL_SIDE_PATCHES;
/// What threads need besides: packed panels, tiles, tables.
const SCRATCH_BYTES: usize = 4 << 20;
/// Most parts that the feed-forward block is computed in, to bound its memory.
const PARTS_MAX: usize = 8;
/// Fewest patches of a part: each part unpacks the weights anew.
const PART_PATCHES_MIN: usize = 1260;

/// The vision encoder's weights, shared by all pictures.
#[derive(Debug)]
pub struct VisionEncoder {
    weights: VisionWeights,
}

/// What is the same for all layers of one picture.
#[derive(Clone)]
struct Grid {
    n_x: usize,
    n: usize,
    head_dim: usize,
    eps: f32,
    axial: Arc<Axial>,
}

impl VisionEncoder {
    /// Takes the weights of an mmproj.
    pub fn new(weights: VisionWeights) -> Arc<Self> {
        Arc::new(Self { weights })
    }

    /// Returns the width of a soft token.
    #[expect(clippy::misnamed_getters, reason = "callers see the decoder's width as n_embd")]
    pub fn n_embd(&self) -> usize {
        self.weights.hparams.n_embd_out
    }

    pub(super) fn weights(&self) -> &VisionWeights {
        &self.weights
    }

    /// Returns the most bytes that encoding `n_patches` takes beside the weights.
    pub fn activation_bytes(&self, n_patches: usize) -> usize {
        let h = &self.weights.hparams;
        // Gate, up, their product, and that once more as the last product packs it.
        let part = part_len(n_patches) * h.n_ff * 4;
        (n_patches * (h.n_embd * 8 + 2 * PATCH_VALUES) + part) * size_of::<f32>() + SCRATCH_BYTES
    }

    /// Returns the largest token budget up to `wanted` at which a picture of these sides fits into
    /// the model's table of positions and takes at most `n_soft_max` soft tokens; the least budget
    /// if none does.
    ///
    /// # Errors
    /// `Input` if the sides are out of range.
    pub fn budget_for(
        &self,
        (width, height): (u32, u32),
        wanted: u32,
        n_soft_max: usize,
    ) -> Result<u32> {
        for budget in TOKEN_BUDGETS.into_iter().rev().filter(|budget| *budget <= wanted) {
            let (width, height) = pixels::target_size(width, height, budget)?;
            let [n_x, n_y] = [width, height].map(|side| side as usize / PATCH_SIDE_PX);
            let n_soft = n_x * n_y / (POOL_SIDE_PATCHES * POOL_SIDE_PATCHES);
            if n_x.max(n_y) <= self.weights.hparams.n_pos && n_soft <= n_soft_max {
                return Ok(budget);
            }
        }
        Ok(TOKEN_BUDGETS[0])
    }

    /// Encodes one picture.
    ///
    /// # Errors
    /// `Input` if the patches do not form a grid that fits the model; `Memory` if intermediate
    /// values do not fit; `Cancelled` if the backend was told to stop.
    pub fn encode(&self, patches: &Patches, backend: &mut Backend) -> Result<SoftTokens> {
        self.check(patches)?;
        let (mut plan, input, out) = self.plan(patches, backend)?;
        plan.write_f32(input, &patches.data)?;
        plan.compute(backend)?;
        let n_embd = self.n_embd();
        let mut data = vec![0.0; patches.n_soft_tokens() * n_embd];
        plan.read_f32(out, 0, &mut data)?;
        Ok(SoftTokens { data, n_embd })
    }

    /// Builds the graph of one picture; returns where patches go and soft tokens come from.
    fn plan(&self, patches: &Patches, backend: &Backend) -> Result<(Plan, Port, Port)> {
        let g = GraphBuilder::new(64 + self.weights.layers.len() * 256, backend)?;
        let (x, input) = g.input(DType::F32, &[PATCH_VALUES, patches.n()])?;
        let x = self.embed_patches(&g, x, patches)?;
        let x = self.layers(&g, x, patches)?;
        let x = pool(&g, x, patches.n_x)?;
        let x = embedder::embed(&g, x, &self.weights.embedder, self.weights.hparams.eps)?;
        let out = g.output(x);
        Ok((Plan::new(g, backend)?, input, out))
    }

    fn check(&self, patches: &Patches) -> Result<()> {
        let (n_x, n_y, n_pos) = (patches.n_x, patches.n_y, self.weights.hparams.n_pos);
        let fits = |n: usize| n > 0 && n.is_multiple_of(POOL_SIDE_PATCHES) && n <= n_pos;
        if !fits(n_x) || !fits(n_y) || n_x * n_y > PATCHES_MAX {
            return Err(Error::input(format!(
                "picture of {n_x} x {n_y} patches; sides must be multiples of \
                 {POOL_SIDE_PATCHES} up to the {n_pos} positions of the model's table, and \
                 {PATCHES_MAX} patches in all"
            )));
        }
        if patches.data.len() != n_x * n_y * PATCH_VALUES {
            return Err(Error::input(format!(
                "{n_x} x {n_y} patches hold {} values, expected {PATCH_VALUES} each",
                patches.data.len()
            )));
        }
        if patches.data.iter().any(|v| !v.is_finite()) {
            return Err(Error::input("a patch holds a value that is not a finite number"));
        }
        Ok(())
    }

    /// Projects patches and adds their positions.
    fn embed_patches<'g>(
        &self,
        g: &'g GraphBuilder,
        x: Tensor<'g>,
        patches: &Patches,
    ) -> Result<Tensor<'g>> {
        let n_embd = self.weights.hparams.n_embd;
        let x = g.custom(&x.shape().0, &[x], Split::Rows, |call| {
            let x = &call.f32(0)[call.first..call.first + call.out.len()];
            let rows = x.chunks_exact(PATCH_VALUES);
            for (row, out) in rows.zip(call.out.chunks_exact_mut(PATCH_VALUES)) {
                by_channel(row, out);
            }
        })?;
        let x = g.mul_rows(&self.weights.patch_embd, x)?;
        let (n_x, n_y, n_pos) = (patches.n_x, patches.n_y, self.weights.hparams.n_pos);
        let mut positions = vec![0.0; (n_x + n_y) * n_embd];
        for (i, row) in positions.chunks_exact_mut(n_embd).enumerate() {
            let row_number = if i < n_x { i } else { n_pos + i - n_x };
            self.weights.position_embd.read_row(row_number, 0, row)?;
        }
        g.custom(&x.shape().0, &[x], Split::Rows, move |call| {
            let first = call.first_row();
            let x = &call.f32(0)[call.first..call.first + call.out.len()];
            let (by_column, by_row) = positions.split_at(n_x * n_embd);
            let rows = x.chunks_exact(n_embd).zip(call.out.chunks_exact_mut(n_embd));
            for (i, (row, out)) in rows.enumerate() {
                let (column, line) = ((first + i) % n_x, (first + i) / n_x);
                let p = by_column[column * n_embd..].iter().zip(&by_row[line * n_embd..]);
                for ((o, &v), (&a, &b)) in out.iter_mut().zip(row).zip(p) {
                    *o = v + (a + b);
                }
            }
        })
    }

    fn layers<'g>(
        &self,
        g: &'g GraphBuilder,
        mut x: Tensor<'g>,
        patches: &Patches,
    ) -> Result<Tensor<'g>> {
        let h = &self.weights.hparams;
        let n_positions = patches.n_x.max(patches.n_y);
        let axial = Arc::new(Axial::new(n_positions, h.head_dim, ROPE_BASE));
        let (n_x, n) = (patches.n_x, patches.n());
        let grid = Grid { n_x, n, head_dim: h.head_dim, eps: h.eps, axial };
        let mut turns = None;
        for (il, layer) in self.weights.layers.iter().enumerate() {
            g.follow(&layer.attn_q.weight)?;
            if turns.is_none() && g.on_gpu() {
                turns = Some(Turns::new(g, &grid.axial, h.head_dim, (n_x, n))?);
            }
            x = attention(g, x, layer, (&grid, turns))?;
            x = g.name(feed_forward(g, x, layer, &grid)?, &format!("v_out-{il}"));
        }
        g.follow(&self.weights.embedder)?;
        Ok(x)
    }
}

/// Reorders a patch from `(row, column, channel)` to the file's `(channel, row, column)` and moves
/// its values from `[0, 1]` to `[-1, 1]`.
fn by_channel(patch: &[f32], out: &mut [f32]) {
    let n_pixels = PATCH_SIDE_PX * PATCH_SIDE_PX;
    for (channel, plane) in out.chunks_exact_mut(n_pixels).enumerate() {
        for (o, pixel) in plane.iter_mut().zip(patch.chunks_exact(3)) {
            *o = 2.0 * (pixel[channel] - 0.5);
        }
    }
}

impl Grid {
    /// Limits and normalises one head of patch `index`, and turns it by its position.
    fn head(
        &self,
        (x, limits): (&[f32], (f32, f32)),
        weight: &[f32],
        index: usize,
        out: &mut [f32],
    ) {
        for (o, &v) in out.iter_mut().zip(x) {
            *o = limit(v, limits);
        }
        let scale = norm::rms_scale(out, self.eps);
        for (o, &w) in out.iter_mut().zip(weight) {
            *o = *o * scale * w;
        }
        self.axial.turn(out, (index % self.n_x, index / self.n_x));
    }
}

fn attention<'g>(
    g: &'g GraphBuilder,
    x: Tensor<'g>,
    layer: &VisionLayer,
    (grid, turns): (&Grid, Option<Turns<'g>>),
) -> Result<Tensor<'g>> {
    let linears = [&layer.attn_q, &layer.attn_k, &layer.attn_v];
    let products = rows::normed_products(g, x, (&layer.ln1, grid.eps), linears)?;
    let mixed = match turns {
        Some(turns) => on_gpu::attend(g, products, layer, (grid.head_dim, grid.eps), turns)?,
        None => mixed(g, products, layer, grid)?,
    };
    let mixed = rows::limited(g, mixed, layer.attn_out.input)?;
    let y = (rows::product(g, &layer.attn_out, mixed)?, layer.attn_out.output);
    rows::add_normed(g, y, &layer.attn_post_norm, x, (grid.eps, 1.0))
}

/// Attends from every patch to all of them by kernels of ours.
fn mixed<'g>(
    g: &'g GraphBuilder,
    [q, k, v]: [Tensor<'g>; 3],
    layer: &VisionLayer,
    grid: &Grid,
) -> Result<Tensor<'g>> {
    let (d, n) = (grid.head_dim, grid.n);
    let (this, weight, limits) =
        (grid.clone(), Arc::clone(&layer.attn_q_norm), layer.attn_q.output);
    let q = g.custom(&q.shape().0, &[q], Split::Rows, move |call| {
        let (first, row_len) = (call.first_row(), call.row_len);
        let q = &call.f32(0)[call.first..call.first + call.out.len()];
        for (i, (q, out)) in q.chunks_exact(d).zip(call.out.chunks_exact_mut(d)).enumerate() {
            this.head((q, limits), &weight, first + i * d / row_len, out);
        }
    })?;
    let k = packed_keys(g, k, layer, grid)?;
    let v = packed_values(g, v, layer, grid)?;
    let multiply = g.attention_tile();
    g.custom(&q.shape().0, &[q, k, v], Split::Rows, move |call| {
        let (keys_len, values_len) = (attend::keys_len(n, d), attend::values_len(n, d));
        let (keys, values) = (call.f32(1).chunks_exact(keys_len), call.f32(2));
        let queries = &call.f32(0)[call.first..call.first + call.out.len()];
        let (row_len, mut scratch) = (call.row_len, attend::Scratch::new(d));
        for (i, (keys, values)) in keys.zip(values.chunks_exact(values_len)).enumerate() {
            let head = attend::Head { keys, values, n, head_dim: d, multiply };
            let tiles = queries.chunks(attend::LANES * row_len);
            for (q, out) in tiles.zip(call.out.chunks_mut(attend::LANES * row_len)) {
                let n_queries = q.len() / row_len;
                let (q, out) = (&q[i * d..], &mut out[i * d..]);
                head.attend((q, n_queries), row_len, &mut scratch, out);
            }
        }
    })
}

/// Rows of one head that a packing kernel reads.
fn head_row<'a>(call: &Call<'a>, width: usize, row: usize, head: usize, d: usize) -> &'a [f32] {
    &call.f32(0)[row * width + head * d..][..d]
}

fn packed_keys<'g>(
    g: &'g GraphBuilder,
    k: Tensor<'g>,
    layer: &VisionLayer,
    grid: &Grid,
) -> Result<Tensor<'g>> {
    let (d, n, width) = (grid.head_dim, grid.n, k.side(0));
    let (this, weight, limits) =
        (grid.clone(), Arc::clone(&layer.attn_k_norm), layer.attn_k.output);
    let (len, panel_len) = (attend::keys_len(n, d), attend::PANEL * d);
    g.custom(&[len, width / d], &[k], Split::Elements(panel_len), move |call| {
        let mut normed = vec![0.0; d];
        for i in 0..call.out.len() / panel_len {
            let first = call.first + i * panel_len;
            let (head, row) = (first / len, first % len / d);
            let panel = i * panel_len..(i + 1) * panel_len;
            call.out[panel.clone()].fill(0.0);
            for index in 0..attend::PANEL.min(n - row) {
                let k = head_row(call, width, row + index, head, d);
                this.head((k, limits), &weight, row + index, &mut normed);
                attend::pack_key(&normed, index, &mut call.out[panel.clone()]);
            }
        }
    })
}

fn packed_values<'g>(
    g: &'g GraphBuilder,
    v: Tensor<'g>,
    layer: &VisionLayer,
    grid: &Grid,
) -> Result<Tensor<'g>> {
    let (d, n, width, eps) = (grid.head_dim, grid.n, v.side(0), grid.eps);
    let (limits, len, block_len) =
        (layer.attn_v.output, attend::values_len(n, d), attend::block_len(d));
    g.custom(&[len, width / d], &[v], Split::Elements(block_len), move |call| {
        let mut normed = vec![0.0; d];
        for i in 0..call.out.len() / block_len {
            let first = call.first + i * block_len;
            let (head, row) = (first / len, first % len / block_len * attend::BLOCK);
            let block = i * block_len..(i + 1) * block_len;
            call.out[block.clone()].fill(0.0);
            for index in 0..attend::BLOCK.min(n - row) {
                let v = head_row(call, width, row + index, head, d);
                for (o, &v) in normed.iter_mut().zip(v) {
                    *o = limit(v, limits);
                }
                let scale = norm::rms_scale(&normed, eps);
                normed.iter_mut().for_each(|v| *v *= scale);
                attend::pack_value(&normed, index, &mut call.out[block.clone()]);
            }
        }
    })
}

fn part_len(n: usize) -> usize {
    n.div_ceil(PARTS_MAX).max(PART_PATCHES_MIN).min(n)
}

/// The feed-forward block, part after part, so that its wide rows never exist all at once.
fn feed_forward<'g>(
    g: &'g GraphBuilder,
    x: Tensor<'g>,
    layer: &VisionLayer,
    grid: &Grid,
) -> Result<Tensor<'g>> {
    let len = part_len(grid.n);
    let mut parts = Vec::with_capacity(PARTS_MAX);
    for first in (0..grid.n).step_by(len) {
        let x = g.slice(x, 1, first, len.min(grid.n - first))?;
        let linears = [&layer.ffn_gate, &layer.ffn_up];
        let [gate, up] = rows::normed_products(g, x, (&layer.ln2, grid.eps), linears)?;
        let (gate, up) = ((gate, layer.ffn_gate.output), (up, layer.ffn_up.output));
        let y = rows::gelu_mul(g, gate, up, layer.ffn_down.input)?;
        let y = (rows::product(g, &layer.ffn_down, y)?, layer.ffn_down.output);
        let part = rows::add_normed(g, y, &layer.ffn_post_norm, x, (grid.eps, 1.0))?;
        g.expand(part);
        parts.push(part);
    }
    rows::joined(g, &parts)
}

/// Averages squares of 3 x 3 patches and scales by the root of the width.
fn pool<'g>(g: &'g GraphBuilder, x: Tensor<'g>, n_x: usize) -> Result<Tensor<'g>> {
    const SIDE: usize = POOL_SIDE_PATCHES;
    let (width, n) = (x.side(0), x.side(1));
    let columns = n_x / SIDE;
    let root = (width as f64).sqrt() as f32;
    g.custom(&[width, n / (SIDE * SIDE)], &[x], Split::Rows, move |call| {
        let (x, first) = (call.f32(0), call.first_row());
        for (i, out) in call.out.chunks_exact_mut(width).enumerate() {
            let (left, top) = ((first + i) % columns * SIDE, (first + i) / columns * SIDE);
            out.fill(0.0);
            for patch in 0..SIDE * SIDE {
                let at = (top + patch / SIDE) * n_x + left + patch % SIDE;
                for (o, &v) in out.iter_mut().zip(&x[at * width..]) {
                    *o += v / (SIDE * SIDE) as f32;
                }
            }
            out.iter_mut().for_each(|v| *v *= root);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::BackendOptions;
    use crate::gguf::Gguf;
    use crate::model::EncoderHParams;

    #[test]
    fn memory_stays_within_what_was_said() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/fixtures/media-mmproj.gguf");
        let file = Gguf::open(path.as_ref()).unwrap();
        let backend = Backend::new(&BackendOptions { n_threads: 1, gpu: None }).unwrap();
        let hparams = EncoderHParams::read(&file, 32).unwrap();
        let owner = Arc::clone(file.mapping());
        let weights = VisionWeights::bind(&file, owner, &hparams, &backend).unwrap();
        let encoder = VisionEncoder::new(weights);
        for (n_x, n_y) in [(3, 3), (24, 24), (60, 42), (120, 84)] {
            let n = n_x * n_y;
            let patches = Patches { data: vec![0.5; n * PATCH_VALUES], n_x, n_y };
            let (plan, ..) = encoder.plan(&patches, &backend).unwrap();
            let packed = part_len(n) * encoder.weights.hparams.n_ff * size_of::<f32>();
            let (found, said) = (plan.size_bytes() + packed, encoder.activation_bytes(n));
            println!("{n} patches: {found} of {said} bytes");
            assert!(found <= said, "{n} patches take {found} bytes, {said} were said");
        }
    }
}
