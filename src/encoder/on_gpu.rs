//! The encoders' own steps in ggml's operations, for pictures and sounds on a GPU.
//!
//! In: products with queries, keys and values; gated rows. Out: what the kernels of `vision.rs` and
//! `audio.rs` make of them, within a tolerance that the tests below hold on the processor.
//! Invariant: every operation is one that ggml has for Vulkan, CUDA and Metal.

use std::sync::Arc;

use super::audio::CAP;
use super::audio::DISTANCES;
use super::audio::KEY_SCALE;
use super::audio::PAST;
use super::rows;
use crate::error::Error;
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

/// What the frames of a block see besides their own keys and values.
#[derive(Clone, Copy)]
pub(super) struct Window<'g> {
    /// Keys and values before the block, the newest last.
    pub past: [Tensor<'g>; 2],
    /// [`sights`] of the block.
    pub mask: Tensor<'g>,
}

/// Returns the mask `[PAST + n, n]` of a block of `n` frames behind `n_past`: 0 where a frame sees
/// a key, negative infinity elsewhere.
pub(super) fn sights(n: usize, n_past: usize) -> Vec<f32> {
    let seen = |i: usize, key: usize| (i..=i + PAST).contains(&key) && key + n_past >= PAST;
    let row = |i| (0..PAST + n).map(move |key| if seen(i, key) { 0.0 } else { f32::NEG_INFINITY });
    (0..n).flat_map(row).collect()
}

/// Attends from every frame to itself and the [`PAST`] before it; the result is `[width, n]`.
///
/// `relative` are the keys of each distance: head after head, distance 0 first.
pub(super) fn attend_window<'g>(
    g: &'g GraphBuilder,
    [q, k, v]: [Tensor<'g>; 3],
    window: Window<'g>,
    (relative, head_dim): (&Vector, usize),
) -> Result<Tensor<'g>> {
    let (width, n) = (q.side(0), q.side(1));
    let n_head = width / head_dim;
    let heads = |x: Tensor<'g>, axes| {
        let x = g.reshape(x, &[head_dim, n_head, x.side(1)])?;
        g.cont(g.permute(x, axes)?)
    };
    let q = heads(q, [0, 2, 1, 3])?;
    let keys = heads(g.concat(window.past[0], k, 1)?, [0, 2, 1, 3])?;
    let values = heads(g.concat(window.past[1], v, 1)?, [1, 2, 0, 3])?;
    let by_key = g.scale(g.mul_mat(keys, q)?, KEY_SCALE)?;
    // Frame `i` sees key `i` at the greatest distance and key `i + PAST`, its own, at distance 0:
    // products by distance, skewed by a key a frame, stand under those by key.
    let sides = [head_dim, DISTANCES + n, n_head];
    let relative = g.constant(&sides, &oldest_first(relative, head_dim, n))?;
    let by_distance = g.skewed(g.mul_mat(relative, q)?)?;
    let scores = g.soft_cap(g.add(by_key, by_distance)?, CAP)?;
    let mixed = g.mul_mat(values, g.soft_max(scores, window.mask)?)?;
    g.reshape(g.cont(g.permute(mixed, [0, 2, 1, 3])?)?, &[width, n])
}

/// Turns each head's relative keys round and puts `n` rows of zeros behind them.
fn oldest_first(relative: &[f32], head_dim: usize, n: usize) -> Vector {
    let mut all = Vec::with_capacity(relative.len() / DISTANCES * (DISTANCES + n));
    for head in relative.chunks_exact(DISTANCES * head_dim) {
        all.extend(head.chunks_exact(head_dim).rev().flatten());
        all.resize(all.len() + n * head_dim, 0.0);
    }
    all.into()
}

/// Sums each row and the rows before it, times their taps.
pub(super) fn convolve<'g>(
    g: &'g GraphBuilder,
    gated: Tensor<'g>,
    before: Tensor<'g>,
    taps: &Vector,
) -> Result<Tensor<'g>> {
    let (width, n) = (gated.side(0), gated.side(1));
    let rows = g.concat(before, gated, 1)?;
    let mut sum = None;
    for (tap, factors) in taps.chunks_exact(width).enumerate() {
        let factors: Vector = factors.into();
        let part = g.mul(g.slice(rows, 1, tap, n)?, g.constant(&[width], &factors)?)?;
        sum = Some(sum.map_or(Ok(part), |sum| g.add(sum, part))?);
    }
    sum.ok_or_else(|| Error::internal("a convolution without taps"))
}

#[cfg(test)]
mod tests {
    use crate::encoder::AudioEncoder;
    use crate::encoder::AudioStream;
    use crate::encoder::SoftTokens;
    use crate::encoder::VisionEncoder;
    use crate::encoder::trial;
    use crate::frontend::MelFrames;
    use crate::ggml::Backend;
    use crate::ggml::BackendOptions;
    use crate::ggml::relative_error;
    use crate::gguf::Gguf;
    use crate::model::AudioWeights;
    use crate::model::EncoderHParams;
    use crate::model::VisionWeights;

    /// Norm of the difference over norm: only the order of sums differs.
    const FLOAT: f64 = 1e-5;
    /// The same of pictures, for which ggml looks GELU up in a table of half precision.
    const TABLE: f64 = 1e-3;
    /// The same where ggml rounds the rows that are multiplied with a weight to 8 bits.
    const ROUNDED: f64 = 5e-2;
    /// Files of encoders, the width of their decoders, and what the two forms may differ by.
    const FILES: [(&str, usize, f64); 2] = [
        ("models/fixtures/media-mmproj.gguf", 32, FLOAT),
        ("models/tiny/mmproj-culet-tiny-q8_0.gguf", 192, ROUNDED),
    ];

    fn open(name: &str) -> Gguf {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        Gguf::open(&root.join(name)).unwrap()
    }

    /// Returns a backend of kernels and one of ggml's operations, both on the processor.
    fn backends() -> [Backend; 2] {
        [false, true].map(|is_gpu_form| {
            let options = BackendOptions { n_threads: 2, gpu: None };
            let mut backend = Backend::new(&options).unwrap();
            if is_gpu_form {
                backend.use_gpu_form();
            }
            backend
        })
    }

    /// Encodes frames in packets of this many.
    fn hear(stream: &mut AudioStream, backend: &mut Backend, mel: &[f32], n: usize) -> SoftTokens {
        let mut tokens = SoftTokens::default();
        stream.reset();
        for packet in mel.chunks(n * 128) {
            let frames = MelFrames { data: packet.to_vec(), n: packet.len() / 128 };
            tokens.append(&stream.push(&frames, backend).unwrap());
        }
        tokens.append(&stream.finish(backend).unwrap());
        tokens
    }

    #[test]
    fn sounds_are_the_same_in_operations_of_ggml() {
        for (name, n_embd, tolerance) in FILES {
            let file = open(name);
            let hparams = EncoderHParams::read(&file, n_embd).unwrap();
            let [mut kernels, mut backend] = backends();
            let owner = file.mapping().clone();
            let weights = AudioWeights::bind(&file, owner, &hparams, &kernels).unwrap();
            let encoder = AudioEncoder::new(weights).unwrap();
            let mut ours = AudioStream::new(&encoder, &kernels).unwrap();
            let mut stream = AudioStream::new(&encoder, &backend).unwrap();
            let mel = trial::hum(160).unwrap().data;
            // Less than a block, whole blocks, and ends of every length behind them.
            let lengths = [1, 4, 5, 47, 48, 96].into_iter().chain((101..150).step_by(4));
            for n_frames in lengths {
                let mel = &mel[..n_frames * 128];
                let want = hear(&mut ours, &mut kernels, mel, n_frames);
                let got = hear(&mut stream, &mut backend, mel, n_frames);
                assert!(want.n() < 2 || trial::is_alive(&want), "{name}, {n_frames} frames");
                let error = relative_error(&got.data, &want.data);
                println!("{name}, {n_frames} frames: relative error {error:.1e}");
                assert!(error < tolerance, "{name}, {n_frames} frames: {error:.1e}");
                for n in [1, 17, 50] {
                    let parts = hear(&mut stream, &mut backend, mel, n);
                    assert!(parts == got, "{name}, {n_frames} frames in packets of {n}");
                }
            }
        }
    }

    #[test]
    fn pictures_are_the_same_in_operations_of_ggml() {
        for (name, n_embd, tolerance) in FILES {
            let file = open(name);
            let hparams = EncoderHParams::read(&file, n_embd).unwrap();
            let [mut kernels, mut backend] = backends();
            let owner = file.mapping().clone();
            let weights = VisionWeights::bind(&file, owner, &hparams, &kernels).unwrap();
            let encoder = VisionEncoder::new(weights);
            let tolerance = tolerance.max(TABLE);
            for (n_x, n_y) in [(3, 3), (9, 6), (6, 12)] {
                let patches = trial::noise(n_x, n_y);
                let want = encoder.encode(&patches, &mut kernels).unwrap();
                let got = encoder.encode(&patches, &mut backend).unwrap();
                let error = relative_error(&got.data, &want.data);
                println!("{name}, {n_x} x {n_y} patches: relative error {error:.1e}");
                assert!(error < tolerance, "{name}, {n_x} x {n_y} patches: {error:.1e}");
            }
        }
    }
}
