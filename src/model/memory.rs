//! Bytes of weights by part, of the KV cache, and of what is computed.
//!
//! In: a file's tensor directory, [`HParams`], a context size. Out: byte counts and whether they
//! fit a limit.
//! Source: specification 1.8.
//! Invariant: arithmetic saturates, so that a count too large is too large and never small.

use crate::error::Error;
use crate::error::Result;
use crate::ggml::attention_bytes;
use crate::gguf::Gguf;
use crate::gguf::TensorInfo;
use crate::gguf::TensorType;
use crate::model::hparams::HParams;
use crate::model::hparams::LayerKind;

/// A part of a model that is counted on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The token embedding, which is the head too where there is no other.
    TokenEmbedding,
    /// A head of its own.
    Head,
    /// The table of per-layer embeddings: one row is read for each token.
    PerLayerTable,
    /// Attention matrices of all layers.
    Attention,
    /// Feed-forward matrices of all layers.
    FeedForward,
    /// Per-layer projections of all layers.
    PerLayer,
    /// Norms, scales and factors.
    Small,
    /// The picture encoder.
    Vision,
    /// The sound encoder.
    Audio,
    /// Tensors that nothing reads.
    Unused,
}

impl Part {
    /// Every part, in the order of a report.
    pub const ALL: [Self; 10] = [
        Self::TokenEmbedding,
        Self::Head,
        Self::PerLayerTable,
        Self::Attention,
        Self::FeedForward,
        Self::PerLayer,
        Self::Small,
        Self::Vision,
        Self::Audio,
        Self::Unused,
    ];

    /// Returns the part's name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::TokenEmbedding => "token embedding",
            Self::Head => "head",
            Self::PerLayerTable => "per-layer embedding table",
            Self::Attention => "attention",
            Self::FeedForward => "feed-forward",
            Self::PerLayer => "per-layer projections",
            Self::Small => "norms and scales",
            Self::Vision => "picture encoder",
            Self::Audio => "sound encoder",
            Self::Unused => "unused",
        }
    }

    /// Returns the part that the tensor `name` belongs to; `h` tells which keys are dead.
    pub fn of(name: &str, h: Option<&HParams>) -> Self {
        match name {
            "token_embd.weight" => return Self::TokenEmbedding,
            "output.weight" => return Self::Head,
            "per_layer_token_embd.weight" => return Self::PerLayerTable,
            "per_layer_model_proj.weight" => return Self::PerLayer,
            "output_norm.weight" | "per_layer_proj_norm.weight" | "rope_freqs.weight" => {
                return Self::Small;
            }
            _ => {}
        }
        if name.starts_with("a.") || name.starts_with("mm.a.") {
            return Self::Audio;
        }
        if name.starts_with("v.") || name.starts_with("mm.") {
            return Self::Vision;
        }
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let Some((layer, part)) = layer else { return Self::Unused };
        let owns_kv = match (layer.parse::<usize>(), h) {
            (Ok(i), Some(h)) => h.layers.get(i).is_none_or(|l| l.owns_kv),
            _ => true,
        };
        match part {
            "attn_k.weight" | "attn_v.weight" | "attn_kv.weight" | "attn_k_norm.weight"
                if !owns_kv =>
            {
                Self::Unused
            }
            _ if part.contains("norm") || part.contains("scale") => Self::Small,
            _ if part.starts_with("attn_") => Self::Attention,
            _ if part.starts_with("ffn_") => Self::FeedForward,
            "inp_gate.weight" | "proj.weight" => Self::PerLayer,
            _ => Self::Unused,
        }
    }
}

/// What one part of a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartSize {
    /// The part.
    pub part: Part,
    /// Its tensors.
    pub n_tensors: usize,
    /// Their values.
    pub n_values: u64,
    /// Their bytes.
    pub size_bytes: u64,
}

/// Returns what each part of `file` holds, parts without tensors left out.
pub fn parts(file: &Gguf, h: Option<&HParams>) -> Vec<PartSize> {
    let mut sizes =
        Part::ALL.map(|part| PartSize { part, n_tensors: 0, n_values: 0, size_bytes: 0 });
    for info in file.tensors() {
        let size = &mut sizes[Part::of(&info.name, h) as usize];
        size.n_tensors += 1;
        size.n_values = size.n_values.saturating_add(info.n_values());
        size.size_bytes = size.size_bytes.saturating_add(info.size_bytes as u64);
    }
    sizes.into_iter().filter(|s| s.n_tensors > 0).collect()
}

/// Returns the bytes of `file` that answering reads: all parts but the per-layer table, of which a
/// token reads one row.
pub fn read_bytes(file: &Gguf, h: Option<&HParams>) -> u64 {
    let read = parts(file, h).into_iter().filter(|p| p.part != Part::PerLayerTable);
    read.fold(0, |sum, p| sum.saturating_add(p.size_bytes))
}

/// Returns the types of `tensors` by falling bytes, each with its tensors and bytes.
pub fn types(tensors: &[TensorInfo]) -> Vec<(TensorType, usize, u64)> {
    let mut types: Vec<(TensorType, usize, u64)> = Vec::new();
    for info in tensors {
        let bytes = info.size_bytes as u64;
        match types.iter_mut().find(|t| t.0 == info.dtype) {
            Some(t) => (t.1, t.2) = (t.1 + 1, t.2.saturating_add(bytes)),
            None => types.push((info.dtype, 1, bytes)),
        }
    }
    types.sort_by_key(|t| std::cmp::Reverse(t.2));
    types
}

/// Types that a KV cache can be kept in.
pub const KV_TYPES: [TensorType; 4] =
    [TensorType::F32, TensorType::F16, TensorType::Q8_0, TensorType::Q4_0];

/// How a KV cache is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Positions that full layers keep.
    pub n_ctx: usize,
    /// Positions computed at once.
    pub n_batch: usize,
    /// Type of the keys and values.
    pub dtype: TensorType,
}

/// Bytes of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvSize {
    /// Bytes of full layers, which grow with the conversation.
    pub full_bytes: u64,
    /// Bytes of sliding layers' rings.
    pub sliding_bytes: u64,
    /// Bytes that one more position costs in full layers.
    pub full_bytes_per_position: u64,
}

impl KvSize {
    /// Returns all bytes.
    pub fn total_bytes(&self) -> u64 {
        self.full_bytes.saturating_add(self.sliding_bytes)
    }
}

/// Caches are laid out and looked at in steps of this many cells: a graph serves every position
/// up to the next step.
pub const CELLS_STEP: usize = 256;

/// Returns the cells of a full layer that holds `n_ctx` positions.
pub fn full_cells(n_ctx: usize) -> usize {
    n_ctx.max(1).div_ceil(CELLS_STEP).saturating_mul(CELLS_STEP)
}

/// Returns the cells of a sliding layer's ring: the window and one batch, which is also how far the
/// ring can be rewound once it is full; never more than the context.
pub fn ring_cells(h: &HParams, n_ctx: usize, n_batch: usize) -> usize {
    full_cells(h.window.saturating_add(n_batch.max(CELLS_STEP))).min(full_cells(n_ctx))
}

/// Returns the bytes of a KV cache.
///
/// Layers that share keys and values keep none.
///
/// # Errors
/// `Input` if the type is not one of [`KV_TYPES`] or a layer's keys are no whole number of its
/// blocks.
pub fn kv_size(h: &HParams, shape: &KvShape) -> Result<KvSize> {
    let mut size = KvSize { full_bytes: 0, sliding_bytes: 0, full_bytes_per_position: 0 };
    let ring = ring_cells(h, shape.n_ctx, shape.n_batch) as u64;
    let n_full = full_cells(shape.n_ctx) as u64;
    for (i, l) in h.layers.iter().enumerate().filter(|(_, l)| l.owns_kv) {
        let fits = KV_TYPES.contains(&shape.dtype);
        let row = shape.dtype.row_bytes(l.head_dim as u64).filter(|_| fits).ok_or_else(|| {
            Error::input(format!(
                "KV cache type {} does not fit layer {i} with heads of width {}; use f16",
                shape.dtype, l.head_dim
            ))
        })?;
        let position = row.saturating_mul(2 * l.n_head_kv as u64);
        match l.kind {
            LayerKind::Full => {
                let bytes = position.saturating_mul(n_full);
                size.full_bytes = size.full_bytes.saturating_add(bytes);
                size.full_bytes_per_position =
                    size.full_bytes_per_position.saturating_add(position);
            }
            LayerKind::Sliding => {
                let bytes = position.saturating_mul(ring);
                size.sliding_bytes = size.sliding_bytes.saturating_add(bytes);
            }
        }
    }
    Ok(size)
}

/// Returns the most bytes that computing takes beside weights and cache: intermediate values and
/// inputs of a batch, masks for every position of the context, what a token's attention gives for
/// each part of it, logits.
pub fn compute_bytes(h: &HParams, shape: &KvShape) -> u64 {
    let widest = h.layers.iter().map(|l| l.n_ff).max().unwrap_or(0) + 4 * h.n_embd;
    // A vocabulary's row in the graph, and what is made of it.
    let values = shape.n_batch.saturating_mul(widest * 3).saturating_add(2 * h.n_vocab);
    let ring = ring_cells(h, shape.n_ctx, shape.n_batch);
    let cells = full_cells(shape.n_ctx).saturating_add(ring);
    let masks = shape.n_batch.saturating_mul(cells).saturating_mul(size_of::<u16>());
    let attention = h.layers.iter().map(|l| {
        let n = if l.kind == LayerKind::Full { full_cells(shape.n_ctx) } else { ring };
        attention_bytes(l.n_head, l.head_dim, n, shape.n_batch)
    });
    let beside = masks.saturating_add(attention.max().unwrap_or(0));
    values.saturating_mul(size_of::<f32>()).saturating_add(beside) as u64
}

/// Checks that a KV cache of `shape`, what computing with it takes, and `other_bytes` fit into
/// `limit_bytes`.
///
/// # Errors
/// `Memory`, naming the context that would fit; `Input` as for [`kv_size`].
pub fn check_fit(h: &HParams, shape: &KvShape, other_bytes: u64, limit_bytes: u64) -> Result<()> {
    let need = |n_ctx: usize| -> Result<u64> {
        let kv = kv_size(h, &KvShape { n_ctx, ..*shape })?;
        let compute = compute_bytes(h, &KvShape { n_ctx, ..*shape });
        Ok(kv.total_bytes().saturating_add(compute).saturating_add(other_bytes))
    };
    let needed = need(shape.n_ctx)?;
    if needed <= limit_bytes {
        return Ok(());
    }
    // The need grows with the context, so halving finds the largest that fits.
    let (mut fits, mut fails) = (0, shape.n_ctx);
    while fails - fits > 1 {
        let middle = fits + (fails - fits) / 2;
        match need(middle)? <= limit_bytes {
            true => fits = middle,
            false => fails = middle,
        }
    }
    let remedy = match fits / 256 * 256 {
        0 => format!("no context would fit; the shortest needs {}", bytes_text(need(1)?)),
        n => format!("{n} would fit"),
    };
    Err(Error::memory(format!(
        "{} tokens of context need {}, limit is {}; {remedy}",
        shape.n_ctx,
        bytes_text(needed),
        bytes_text(limit_bytes)
    )))
}

/// Returns a number of bytes for people, such as `2.9 GiB`.
pub fn bytes_text(n: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        if n >= 1 << shift {
            return format!("{:.1} {unit}", n as f64 / (1u64 << shift) as f64);
        }
    }
    format!("{n} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::model::variant::Variant;

    const MIB: u64 = 1 << 20;

    fn shape(n_ctx: usize) -> KvShape {
        KvShape { n_ctx, n_batch: 1, dtype: TensorType::F16 }
    }

    #[test]
    fn kv_sizes_grow_with_the_context_in_full_layers_alone() {
        let cases = [
            ("E2B", 2048, 12 * MIB, 9 * MIB, 6 << 10),
            ("E2B", 131_072, 768 * MIB, 9 * MIB, 6 << 10),
            ("E4B", 131_072, 2048 * MIB, 30 * MIB, 16 << 10),
            ("E4B", 256, 4 * MIB, 10 * MIB, 16 << 10),
        ];
        for (name, n_ctx, full, sliding, one) in cases {
            let kv = kv_size(&Variant::named(name).unwrap().hparams(), &shape(n_ctx)).unwrap();
            let got = (kv.full_bytes, kv.sliding_bytes, kv.full_bytes_per_position);
            assert_eq!(got, (full, sliding, one), "{name} {n_ctx}");
        }
    }

    #[test]
    fn rings_grow_with_the_batch_and_end_at_the_context() {
        let h = Variant::named("E2B").unwrap().hparams();
        let cases = [(4096, 1, 768), (4096, 512, 1024), (4096, 600, 1280), (600, 512, 768)];
        for (n_ctx, n_batch, want) in cases {
            assert_eq!(ring_cells(&h, n_ctx, n_batch), want, "{n_ctx} {n_batch}");
        }
        assert_eq!(ring_cells(&h, 0, 0), 256);
        assert_eq!(full_cells(257), 512);
        assert!(full_cells(usize::MAX) > usize::MAX / 2);
    }

    #[test]
    fn the_largest_fitting_context_is_named() {
        let h = Variant::named("E2B").unwrap().hparams();
        assert!(check_fit(&h, &shape(4096), 0, 36 * MIB).is_ok());
        let e = check_fit(&h, &shape(32_768), 1000 * MIB, 1100 * MIB).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Memory);
        let want = "32768 tokens of context need 1.2 GiB, limit is 1.1 GiB; 14848 would fit";
        assert_eq!(e.to_string(), want);
        assert!(check_fit(&h, &shape(14_848), 1000 * MIB, 1100 * MIB).is_ok());
        let e = check_fit(&h, &shape(4096), 1000 * MIB, 900 * MIB).unwrap_err();
        assert!(
            e.to_string().contains("no context would fit; the shortest needs 1006.7 MiB"),
            "{e}"
        );
    }

    #[test]
    fn unfit_types_are_refused() {
        let h = Variant::named("E2B").unwrap().hparams();
        let size = |dtype| kv_size(&h, &KvShape { dtype, ..shape(512) });
        assert!(KV_TYPES.iter().all(|t| size(*t).is_ok()));
        assert_eq!(size(TensorType::Q6K).unwrap_err().kind(), ErrorKind::Input);
    }

    #[test]
    fn tensors_belong_to_their_parts() {
        let h = Variant::named("E2B").unwrap().hparams();
        let cases = [
            ("token_embd.weight", Part::TokenEmbedding),
            ("blk.3.attn_k.weight", Part::Attention),
            ("blk.20.attn_k.weight", Part::Unused),
            ("blk.20.attn_q.weight", Part::Attention),
            ("blk.20.attn_q_norm.weight", Part::Small),
            ("blk.20.post_ffw_norm.weight", Part::Small),
            ("blk.0.layer_output_scale.weight", Part::Small),
            ("blk.0.ffn_gate_up.weight", Part::FeedForward),
            ("blk.0.proj.weight", Part::PerLayer),
            ("blk.0.strange.weight", Part::Unused),
            ("mm.input_projection.weight", Part::Vision),
            ("mm.a.input_projection.weight", Part::Audio),
            ("v.clamp_data", Part::Vision),
        ];
        for (name, part) in cases {
            assert_eq!(Part::of(name, Some(&h)), part, "{name}");
        }
        assert!(Part::ALL.iter().enumerate().all(|(i, p)| *p as usize == i));
    }

    #[test]
    fn bytes_are_written_for_people() {
        let cases = [(5, "5 bytes"), (2048, "2.0 KiB"), (3 << 29, "1.5 GiB"), (u64::MAX, "GiB")];
        for (n, want) in cases {
            assert!(bytes_text(n).ends_with(want), "{}", bytes_text(n));
        }
    }
}
