//! The text decoder's hyper-parameters.
//!
//! In: `gemma4.*` metadata. Out: [`HParams`] with one [`Layer`] for each layer.
//! Source: specification 1.1, 2 and 7.1; llama.cpp `src/models/gemma4.cpp` in llama-cpp-sys-2
//! 0.1.161 for which keys may be missing or arrays.
//! Invariant: an `HParams` that was read has passed every limit named here.

use crate::error::Error;
use crate::error::Result;
use crate::gguf::Gguf;
use crate::gguf::Items;
use crate::gguf::Value;
use crate::gguf::Writer;

/// The architecture's name in files.
pub const ARCHITECTURE: &str = "gemma4";

/// Layers of the decoder.
pub const N_LAYERS_MAX: u32 = 256;
/// Width of the residual stream.
pub const N_EMBD_MAX: u32 = 1 << 16;
/// Width of a per-layer embedding.
pub const N_EMBD_PER_LAYER_MAX: u32 = 1 << 12;
/// Query heads of a layer.
pub const N_HEADS_MAX: u32 = 256;
/// Width of a head.
pub const HEAD_DIM_MAX: u32 = 1024;
/// Width of a feed-forward block.
pub const N_FF_MAX: u32 = 1 << 20;
/// Rows of the vocabulary.
pub const N_VOCAB_MAX: u64 = 1 << 22;
/// Positions of a context.
pub const N_CTX_MAX: u32 = 1 << 24;
/// Positions of the sliding window.
pub const WINDOW_MAX: u32 = 1 << 20;

/// Share of a full-attention head's pairs that rotate, where the file brings no factors.
const ROTARY_SHARE: f32 = 0.25;
/// Divisor of the frequency of pairs that do not rotate.
const UNROTATED: f32 = 1e30;

/// How far back a layer's attention sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// The current token and `window - 1` before it.
    Sliding,
    /// Every token so far.
    Full,
}

/// One decoder layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// How far back it sees.
    pub kind: LayerKind,
    /// Width of a head, even.
    pub head_dim: usize,
    /// Query heads, a multiple of `n_head_kv`.
    pub n_head: usize,
    /// Key and value heads.
    pub n_head_kv: usize,
    /// Width of the feed-forward block.
    pub n_ff: usize,
    /// The layer whose keys and values it reads; itself if `owns_kv`.
    pub kv_source: usize,
    /// Whether it makes and caches keys and values.
    pub owns_kv: bool,
}

impl Layer {
    /// Returns the width of all its queries.
    pub fn n_q(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Returns the width of all its keys, which is also that of its values.
    pub fn n_kv(&self) -> usize {
        self.n_head_kv * self.head_dim
    }
}

/// The decoder's shape and constants.
#[derive(Debug, Clone, PartialEq)]
pub struct HParams {
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Width of a layer's per-layer embedding.
    pub n_embd_per_layer: usize,
    /// Rows of the vocabulary.
    pub n_vocab: usize,
    /// Positions the model was trained for.
    pub n_ctx_train: usize,
    /// Positions a sliding layer sees, the current one included.
    pub window: usize,
    /// First layer without keys and values of its own; the number of layers if all have them.
    pub first_shared: usize,
    /// Added to mean squares in every norm.
    pub rms_eps: f32,
    /// Logits are squashed to this size, if at all.
    pub logit_softcap: Option<f32>,
    /// Base of the rotary frequencies of full layers.
    pub rope_base_full: f32,
    /// Base of the rotary frequencies of sliding layers.
    pub rope_base_sliding: f32,
    /// Dimensions of a full layer's head that its rotary frequencies are made for.
    pub n_rot_full: usize,
    /// Dimensions of a sliding layer's head that rotate.
    pub n_rot_sliding: usize,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
}

impl HParams {
    /// Reads and checks the hyper-parameters of a text model.
    ///
    /// # Errors
    /// `Unsupported` if it is another kind of model, `Format` if a value is missing or out of
    /// range.
    pub fn read(file: &Gguf) -> Result<Self> {
        check_kind(file)?;
        let n_layer = ranged(file, "block_count", 1, N_LAYERS_MAX)? as usize;
        let kinds = read_kinds(file, n_layer)?;
        let n_shared = optional(file, "attention.shared_kv_layers", 0, N_LAYERS_MAX)?.unwrap_or(0);
        let first_shared = n_layer.checked_sub(n_shared as usize).filter(|n| *n > 0);
        let first_shared = first_shared.ok_or_else(|| {
            let text = format!("{n_shared}, expected less than the {n_layer} layers");
            wrong(file, "attention.shared_kv_layers", &text)
        })?;
        let dim_full = head_dim(file, "")?;
        let dim_sliding = head_dim(file, "_swa")?;
        let layers = read_layers(file, &kinds, first_shared, dim_full, dim_sliding)?;
        Ok(Self {
            n_embd: ranged(file, "embedding_length", 1, N_EMBD_MAX)? as usize,
            n_embd_per_layer: read_per_layer(file)?,
            n_vocab: read_vocab(file)?,
            n_ctx_train: ranged(file, "context_length", 1, N_CTX_MAX)? as usize,
            window: ranged(file, "attention.sliding_window", 1, WINDOW_MAX)? as usize,
            first_shared,
            rms_eps: float(file, "attention.layer_norm_rms_epsilon", 0.0, 0.1)?
                .ok_or_else(|| missing(file, "attention.layer_norm_rms_epsilon"))?,
            logit_softcap: read_softcap(file)?,
            rope_base_full: float(file, "rope.freq_base", 1.0, 1e12)?.unwrap_or(1e6),
            rope_base_sliding: float(file, "rope.freq_base_swa", 1.0, 1e12)?.unwrap_or(1e4),
            n_rot_full: read_rot(file, "rope.dimension_count", dim_full)?,
            n_rot_sliding: read_rot(file, "rope.dimension_count_swa", dim_sliding)?,
            layers,
        })
    }

    /// Writes the metadata that [`HParams::read`] reads, except for the vocabulary.
    ///
    /// # Errors
    /// `Input` if one of the keys was set before.
    pub fn write(&self, to: &mut Writer) -> Result<()> {
        let full = self.layers.iter().find(|l| l.kind == LayerKind::Full);
        let sliding = self.layers.iter().find(|l| l.kind == LayerKind::Sliding);
        let dim = |l: Option<&Layer>, n_rot: usize| l.map_or(n_rot, |l| l.head_dim) as u32;
        let dim_full = dim(full, self.n_rot_full);
        let dim_sliding = dim(sliding, self.n_rot_sliding);
        to.set_str("general.architecture", ARCHITECTURE)?;
        let per_layer = |f: fn(&Layer) -> usize| -> Vec<i32> {
            self.layers.iter().map(|l| f(l) as i32).collect()
        };
        let mut number =
            |key: &str, v: usize| to.set_u32(&format!("{ARCHITECTURE}.{key}"), v as u32);
        number("block_count", self.layers.len())?;
        number("context_length", self.n_ctx_train)?;
        number("embedding_length", self.n_embd)?;
        number("embedding_length_per_layer_input", self.n_embd_per_layer)?;
        number("attention.sliding_window", self.window)?;
        number("attention.shared_kv_layers", self.layers.len() - self.first_shared)?;
        for (key, dim) in [("", dim_full), ("_swa", dim_sliding)] {
            number(&format!("attention.key_length{key}"), dim as usize)?;
            number(&format!("attention.value_length{key}"), dim as usize)?;
        }
        number("rope.dimension_count", self.n_rot_full)?;
        number("rope.dimension_count_swa", self.n_rot_sliding)?;
        let mut list = |key: &str, f| {
            to.set_items(&format!("{ARCHITECTURE}.{key}"), Items::I32(&per_layer(f)))
        };
        list("feed_forward_length", |l| l.n_ff)?;
        list("attention.head_count", |l| l.n_head)?;
        list("attention.head_count_kv", |l| l.n_head_kv)?;
        let pattern: Vec<bool> = self.layers.iter().map(|l| l.kind == LayerKind::Sliding).collect();
        let key = format!("{ARCHITECTURE}.attention.sliding_window_pattern");
        to.set_items(&key, Items::Bool(&pattern))?;
        let mut float = |key: &str, v| to.set(&format!("{ARCHITECTURE}.{key}"), Value::F32(v));
        float("attention.layer_norm_rms_epsilon", self.rms_eps)?;
        float("rope.freq_base", self.rope_base_full)?;
        float("rope.freq_base_swa", self.rope_base_sliding)?;
        self.logit_softcap.map_or(Ok(()), |v| float("final_logit_softcapping", v))
    }

    /// Returns the number of layers.
    pub fn n_layer(&self) -> usize {
        self.layers.len()
    }

    /// Returns the layer that makes the keys and values of the shared layers of `kind`.
    pub fn producer(&self, kind: LayerKind) -> Option<usize> {
        producer(self.layers.iter().map(|l| l.kind).take(self.first_shared), kind)
    }

    /// Returns the divisors that a full layer's rotary frequencies have: one for each pair.
    pub fn n_rope_factors(&self) -> usize {
        let full = self.layers.iter().find(|l| l.kind == LayerKind::Full);
        full.map_or(self.n_rot_full, |l| l.head_dim) / 2
    }

    /// Returns the divisors of full layers' rotary frequencies for files that bring none.
    pub fn default_rope_factors(&self) -> Vec<f32> {
        let n_pairs = self.n_rope_factors();
        let n_rotated = (ROTARY_SHARE * n_pairs as f32) as usize;
        (0..n_pairs).map(|i| if i < n_rotated { 1.0 } else { UNROTATED }).collect()
    }
}

/// Returns the last layer of `kind`.
fn producer(kinds: impl Iterator<Item = LayerKind>, kind: LayerKind) -> Option<usize> {
    kinds.enumerate().filter(|(_, k)| *k == kind).map(|(i, _)| i).last()
}

fn key_of(key: &str) -> String {
    format!("{ARCHITECTURE}.{key}")
}

fn missing(file: &Gguf, key: &str) -> Error {
    Error::format(format!("{}: metadata key {} is missing", file.name(), key_of(key)))
}

fn wrong(file: &Gguf, key: &str, text: &str) -> Error {
    Error::format(format!("{}: metadata key {} is {text}", file.name(), key_of(key)))
}

fn ranged(file: &Gguf, key: &str, low: u32, high: u32) -> Result<u32> {
    optional(file, key, low, high)?.ok_or_else(|| missing(file, key))
}

fn optional(file: &Gguf, key: &str, low: u32, high: u32) -> Result<Option<u32>> {
    let Some(v) = file.optional_u32(&key_of(key))? else { return Ok(None) };
    if v < low || v > high {
        return Err(wrong(file, key, &format!("{v}, expected {low} to {high}")));
    }
    Ok(Some(v))
}

/// Reads a number above `low` (or equal to it, if that is not zero) and up to `high`.
fn float(file: &Gguf, key: &str, low: f32, high: f32) -> Result<Option<f32>> {
    let Some(v) = file.optional_f32(&key_of(key))? else { return Ok(None) };
    if v <= 0.0 || v < low || v > high {
        let text = format!("{v}, expected a number above 0, from {low} to {high}");
        return Err(wrong(file, key, &text));
    }
    Ok(Some(v))
}

/// Refuses files that are not a whole Gemma 4 text model of the kind that runs here.
fn check_kind(file: &Gguf) -> Result<()> {
    let name = file.name();
    let found = file.optional_str("general.architecture")?.unwrap_or("unnamed");
    if found != ARCHITECTURE {
        let hint = match found {
            "clip" => "it is an mmproj file, name it with --mmproj",
            "gemma4-assistant" | "gemma4_assistant" => "it is a drafter, not a model by itself",
            _ => "Culet runs Gemma 4 E2B and E4B",
        };
        return Err(Error::unsupported(format!(
            "{name}: architecture is \"{found}\", expected \"{ARCHITECTURE}\"; {hint}"
        )));
    }
    let n_parts = file.optional_u32("split.count")?.unwrap_or(1);
    if n_parts > 1 {
        return Err(Error::unsupported(format!(
            "{name}: is one of {n_parts} parts of a model; join them with llama-gguf-split --merge"
        )));
    }
    let n_expert = file.optional_u32(&key_of("expert_count"))?.unwrap_or(0);
    if n_expert > 0 {
        return Err(Error::unsupported(format!(
            "{name}: has {n_expert} experts, expected none; Culet runs Gemma 4 E2B and E4B"
        )));
    }
    Ok(())
}

fn read_per_layer(file: &Gguf) -> Result<usize> {
    let key = "embedding_length_per_layer_input";
    match optional(file, key, 0, N_EMBD_PER_LAYER_MAX)?.unwrap_or(0) {
        0 => Err(Error::unsupported(format!(
            "{}: has no per-layer embeddings ({} is 0); Culet runs Gemma 4 E2B and E4B",
            file.name(),
            key_of(key)
        ))),
        n => Ok(n as usize),
    }
}

/// Returns the rows of the token embedding, which the tokenizer must not exceed.
fn read_vocab(file: &Gguf) -> Result<usize> {
    let name = file.name();
    let embd = file.tensor("token_embd.weight").ok_or_else(|| {
        Error::format(format!("{name}: tensor token_embd.weight is missing; it holds no weights"))
    })?;
    let n_vocab = embd.ne()[1];
    if n_vocab > N_VOCAB_MAX {
        return Err(Error::format(format!(
            "{name}: tensor token_embd.weight has {n_vocab} rows, expected at most {N_VOCAB_MAX}"
        )));
    }
    let n_tokens = file.optional_texts("tokenizer.ggml.tokens")?.map_or(0, |t| t.len() as u64);
    if n_tokens > n_vocab {
        return Err(Error::format(format!(
            "{name}: tokenizer has {n_tokens} tokens, token_embd.weight has {n_vocab} rows"
        )));
    }
    Ok(n_vocab as usize)
}

/// Returns each layer's kind from a list, or from a period whose last layer is full.
fn read_kinds(file: &Gguf, n_layer: usize) -> Result<Vec<LayerKind>> {
    let key = key_of("attention.sliding_window_pattern");
    let kind = |sliding| if sliding { LayerKind::Sliding } else { LayerKind::Full };
    if let Some(period) = file.value(&key).and_then(|v| v.integer()) {
        let period = usize::try_from(period).ok().filter(|n| (1..=n_layer).contains(n));
        let period = period.ok_or_else(|| {
            let text = format!("out of range, expected a list or 1 to {n_layer}");
            wrong(file, "attention.sliding_window_pattern", &text)
        })?;
        return Ok((1..=n_layer).map(|i| kind(i % period != 0)).collect());
    }
    Ok(file.bool_per_layer(&key, n_layer)?.into_iter().map(kind).collect())
}

/// Reads the width of a head, which keys and values share.
fn head_dim(file: &Gguf, suffix: &str) -> Result<u32> {
    let key = format!("attention.key_length{suffix}");
    let dim = ranged(file, &key, 2, HEAD_DIM_MAX)?;
    if dim % 2 != 0 {
        return Err(wrong(file, &key, &format!("{dim}, expected an even number")));
    }
    let other = format!("attention.value_length{suffix}");
    match file.optional_u32(&key_of(&other))? {
        Some(v) if v != dim => {
            Err(wrong(file, &other, &format!("{v}, expected {dim} as for the keys")))
        }
        _ => Ok(dim),
    }
}

fn read_rot(file: &Gguf, key: &str, head_dim: u32) -> Result<usize> {
    let n_rot = optional(file, key, 2, head_dim)?.unwrap_or(head_dim);
    if n_rot % 2 != 0 {
        return Err(wrong(file, key, &format!("{n_rot}, expected an even number")));
    }
    Ok(n_rot as usize)
}

fn read_softcap(file: &Gguf) -> Result<Option<f32>> {
    if file.optional_f32(&key_of("final_logit_softcapping"))? == Some(0.0) {
        return Ok(None);
    }
    float(file, "final_logit_softcapping", 1e-3, 1e6)
}

fn per_layer(file: &Gguf, key: &str, n_layer: usize, high: u32) -> Result<Vec<u32>> {
    let values = file.u32_per_layer(&key_of(key), n_layer)?;
    if let Some(i) = values.iter().position(|v| *v == 0 || *v > high) {
        let text = format!("{} for layer {i}, expected 1 to {high}", values[i]);
        return Err(wrong(file, key, &text));
    }
    Ok(values)
}

fn read_layers(
    file: &Gguf,
    kinds: &[LayerKind],
    first_shared: usize,
    dim_full: u32,
    dim_sliding: u32,
) -> Result<Vec<Layer>> {
    let n_head = per_layer(file, "attention.head_count", kinds.len(), N_HEADS_MAX)?;
    let n_head_kv = per_layer(file, "attention.head_count_kv", kinds.len(), N_HEADS_MAX)?;
    let n_ff = per_layer(file, "feed_forward_length", kinds.len(), N_FF_MAX)?;
    let mut layers: Vec<Layer> = Vec::with_capacity(kinds.len());
    for (i, kind) in kinds.iter().enumerate() {
        if n_head[i] % n_head_kv[i] != 0 {
            let text = format!(
                "{} for layer {i}, expected a divisor of its {} heads",
                n_head_kv[i], n_head[i]
            );
            return Err(wrong(file, "attention.head_count_kv", &text));
        }
        let owns_kv = i < first_shared;
        let source = match owns_kv {
            true => Some(i),
            false => producer(kinds[..first_shared].iter().copied(), *kind),
        };
        let kv_source = source.ok_or_else(|| {
            let text = format!(
                "set so that layer {i} ({kind:?}) shares keys and values, \
                 but none of the first {first_shared} layers is of its kind"
            );
            wrong(file, "attention.shared_kv_layers", &text)
        })?;
        if n_head_kv[i] != n_head_kv[kv_source] {
            let text = format!(
                "{} for layer {i}, expected {} as for layer {kv_source}, whose keys it reads",
                n_head_kv[i], n_head_kv[kv_source]
            );
            return Err(wrong(file, "attention.head_count_kv", &text));
        }
        layers.push(Layer {
            kind: *kind,
            head_dim: if *kind == LayerKind::Full { dim_full } else { dim_sliding } as usize,
            n_head: n_head[i] as usize,
            n_head_kv: n_head_kv[i] as usize,
            n_ff: n_ff[i] as usize,
            kv_source,
            owns_kv,
        });
    }
    Ok(layers)
}
