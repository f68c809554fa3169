//! The decoder's weights: tensor name -> field, with expected shape.
//!
//! In: a checked file and its hyper-parameters. Out: [`DecoderWeights`], laid over the mapping.
//! Source: GGUF names of Gemma 4 as written by the public converters.
//! Invariant: every field that is read exists with exactly the shape the graphs expect.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decoder::placement::GpuShare;
use crate::decoder::placement::refuse_packed;
use crate::error::Error;
use crate::error::Result;
use crate::ggml;
use crate::ggml::Backend;
use crate::ggml::DType;
use crate::ggml::Placement;
use crate::ggml::Shape;
use crate::ggml::Weight;
use crate::ggml::WeightSpec;
use crate::gguf::Gguf;
use crate::gguf::TensorInfo;
use crate::model;
use crate::model::HParams;
use crate::model::Packed;

/// Weights of one decoder layer; fields are named as in the file.
pub struct LayerWeights {
    /// `[n_embd]`
    pub attn_norm: Weight,
    /// `[n_embd, n_head * head_dim]`
    pub attn_q: Weight,
    /// `[head_dim]`
    pub attn_q_norm: Weight,
    /// Key and value projections, on layers that own their cache.
    pub kv: Option<KvWeights>,
    /// `[n_head * head_dim, n_embd]`
    pub attn_output: Weight,
    /// `[n_embd]`
    pub post_attention_norm: Weight,
    /// `[n_embd]`
    pub ffn_norm: Weight,
    /// `[n_embd, n_ff]`
    pub ffn_gate: Weight,
    /// `[n_embd, n_ff]`
    pub ffn_up: Weight,
    /// `[n_ff, n_embd]`
    pub ffn_down: Weight,
    /// `[n_embd]`
    pub post_ffw_norm: Weight,
    /// Per-layer embedding block.
    pub per_layer: PerLayerWeights,
    /// Scales the whole residual stream after the layer.
    pub layer_output_scale: f32,
}

/// Projections of a layer that owns its cache.
pub struct KvWeights {
    /// `[n_embd, n_head_kv * head_dim]`
    pub attn_k: Weight,
    /// `[n_embd, n_head_kv * head_dim]`
    pub attn_v: Weight,
    /// `[head_dim]`
    pub attn_k_norm: Weight,
}

/// Per-layer embedding block of one layer.
pub struct PerLayerWeights {
    /// `[n_embd, n_embd_per_layer]`
    pub inp_gate: Weight,
    /// `[n_embd_per_layer, n_embd]`
    pub proj: Weight,
    /// `[n_embd]`
    pub post_norm: Weight,
}

/// Per-layer embedding tables shared by all layers.
pub struct PerLayerTables {
    /// `[n_embd_per_layer * n_layer, n_vocab]`, read row by row.
    pub token_embd: Weight,
    /// Rows of the projection for the layers that a prompt runs: `[n_embd, n_epl * n_front]`.
    pub model_proj_front: Option<Weight>,
    /// The other rows: `[n_embd, n_epl * (n_layer - n_front)]`.
    pub model_proj_back: Weight,
    /// `[n_embd_per_layer]`
    pub proj_norm: Weight,
}

/// All weights of the decoder.
pub struct DecoderWeights {
    /// `[n_embd, n_vocab]` in the file's own layout: rows are read from it.
    pub token_embd: Weight,
    /// `[n_embd, n_vocab]`: the output head, normally the same bytes.
    pub output: Weight,
    /// `[n_embd]`
    pub output_norm: Weight,
    /// Frequency divisors of the full-attention layers, `head_dim / 2` numbers.
    pub rope_freqs: Vec<f32>,
    /// Per-layer embedding tables.
    pub per_layer: PerLayerTables,
    /// One entry a layer.
    pub layers: Vec<LayerWeights>,
    /// What of them lies on a GPU.
    pub gpu_share: GpuShare,
}

/// Collects specs by name, then maps them all at once.
struct Binder<'a> {
    tensors: &'a HashMap<String, TensorInfo>,
    packed: Packed,
    share: GpuShare,
    specs: Vec<WeightSpec>,
}

/// Index into the binder's specs.
#[derive(Clone, Copy)]
struct Slot(usize);

impl Binder<'_> {
    /// Rows `first .. first + n_rows` of a tensor.
    fn rows(&mut self, name: &str, first: usize, n_rows: usize, at: Placement) -> Result<Slot> {
        let info = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::internal(format!("tensor {name} was not resolved")))?;
        self.specs.push(WeightSpec {
            name: name.to_owned(),
            dtype: DType::from_id(info.dtype.id()).map_err(|e| e.at(name))?,
            shape: Shape::new(&[info.ne()[0] as usize, n_rows])?,
            offset: info.offset + first * info.row_bytes(),
            placement: at,
        });
        Ok(Slot(self.specs.len() - 1))
    }

    fn all_rows(&mut self, name: &str, at: Placement) -> Result<Slot> {
        let n = self.tensors.get(name).map_or(0, |info| info.ne()[1] as usize);
        self.rows(name, 0, n, at)
    }

    /// A weight of layer `il`.
    fn of_layer(&mut self, il: usize, name: &str) -> Result<Slot> {
        let placement = self.share.layer(il, self.on_host(name));
        self.all_rows(name, placement)
    }

    /// A weight of the output head.
    fn of_head(&mut self, name: &str) -> Result<Slot> {
        let placement = self.share.head(self.on_host(name));
        self.all_rows(name, placement)
    }

    /// How a weight lies in the file.
    fn on_host(&self, name: &str) -> Placement {
        if self.packed.has(name) { Placement::HostPacked } else { Placement::Host }
    }
}

struct LayerSlots {
    attn_norm: Slot,
    attn_q: Slot,
    attn_q_norm: Slot,
    kv: Option<[Slot; 3]>,
    attn_output: Slot,
    post_attention_norm: Slot,
    ffn: [Slot; 5],
    per_layer: [Slot; 3],
    scale: f32,
}

fn layer_slots(b: &mut Binder<'_>, gguf: &Gguf, h: &HParams, il: usize) -> Result<LayerSlots> {
    let name = |suffix: &str| format!("blk.{il}.{suffix}.weight");
    let scale = floats(gguf, b.tensors, &name("layer_output_scale"))?;
    let mut slot = |suffix: &str| b.of_layer(il, &name(suffix));
    let kv = match h.layers[il].owns_kv {
        true => Some([slot("attn_k")?, slot("attn_v")?, slot("attn_k_norm")?]),
        false => None,
    };
    Ok(LayerSlots {
        attn_norm: slot("attn_norm")?,
        attn_q: slot("attn_q")?,
        attn_q_norm: slot("attn_q_norm")?,
        kv,
        attn_output: slot("attn_output")?,
        post_attention_norm: slot("post_attention_norm")?,
        ffn: [
            slot("ffn_norm")?,
            slot("ffn_gate")?,
            slot("ffn_up")?,
            slot("ffn_down")?,
            slot("post_ffw_norm")?,
        ],
        per_layer: [slot("inp_gate")?, slot("proj")?, slot("post_norm")?],
        scale: scale.and_then(|v| v.first().copied()).unwrap_or(1.0),
    })
}

/// Reads a small f32 tensor, if it is there.
fn floats(
    gguf: &Gguf,
    tensors: &HashMap<String, TensorInfo>,
    name: &str,
) -> Result<Option<Vec<f32>>> {
    let Some(info) = tensors.get(name) else { return Ok(None) };
    let values = ggml::dequantize(DType::F32, gguf.tensor_bytes(info), info.n_values() as usize)?;
    if values.iter().all(|v| v.is_finite()) {
        return Ok(Some(values));
    }
    Err(Error::format(format!("tensor {name} holds numbers that are not finite")).at(gguf.name()))
}

impl DecoderWeights {
    /// Binds every tensor of the decoder and lays it over the file's mapping.
    ///
    /// `n_front` is the number of layers that a prompt position runs completely.
    ///
    /// # Errors
    /// `Format` or `Unsupported` naming the file, the tensor, what was found and expected.
    pub fn bind(gguf: &Gguf, h: &HParams, n_front: usize, backend: &Backend) -> Result<Self> {
        let tensors = &model::resolve(gguf, &model::text_tensors(h))?;
        let packed = Packed::of(gguf)?;
        if backend.gpu_info().is_some() {
            refuse_packed(gguf)?;
        }
        let share = GpuShare::choose(tensors, h, backend)?;
        let mut b = Binder { tensors, packed, share, specs: Vec::new() };
        let embd = b.all_rows("token_embd.weight", Placement::Host)?;
        let output = match tensors.contains_key("output.weight") {
            true => b.of_head("output.weight")?,
            false if share.has_head => b.of_head("token_embd.weight")?,
            false => embd,
        };
        let output_norm = b.of_head("output_norm.weight")?;
        let tables = table_slots(&mut b, h, n_front)?;
        let slots = (0..h.layers.len())
            .map(|il| layer_slots(&mut b, gguf, h, il))
            .collect::<Result<Vec<_>>>()?;
        let rope_freqs = floats(gguf, tensors, "rope_freqs.weight")?;
        let owner = Arc::clone(gguf.mapping());
        let weights = ggml::map_weights(owner, &b.specs, backend).map_err(|e| e.at(gguf.name()))?;
        let at = |slot: Slot| weights[slot.0].clone();
        let (table, front, back, norm) = tables;
        Ok(Self {
            token_embd: at(embd),
            output: at(output),
            output_norm: at(output_norm),
            rope_freqs: rope_freqs.unwrap_or_else(|| h.default_rope_factors()),
            per_layer: PerLayerTables {
                token_embd: at(table),
                model_proj_front: front.map(at),
                model_proj_back: at(back),
                proj_norm: at(norm),
            },
            layers: slots.iter().map(|s| layer(s, &at)).collect(),
            gpu_share: share,
        })
    }
}

type TableSlots = (Slot, Option<Slot>, Slot, Slot);

fn table_slots(b: &mut Binder<'_>, h: &HParams, n_front: usize) -> Result<TableSlots> {
    let all = h.n_embd_per_layer * h.layers.len();
    let split = h.n_embd_per_layer * n_front;
    let table = b.all_rows("per_layer_token_embd.weight", Placement::Host)?;
    let name = "per_layer_model_proj.weight";
    let placement = b.share.layer(0, b.on_host(name));
    let front = match split {
        0 => None,
        _ => Some(b.rows(name, 0, split, placement)?),
    };
    let back = b.rows(name, split, all - split, placement)?;
    Ok((table, front, back, b.of_layer(0, "per_layer_proj_norm.weight")?))
}

fn layer(s: &LayerSlots, at: &impl Fn(Slot) -> Weight) -> LayerWeights {
    let [inp_gate, proj, post_norm] = s.per_layer.map(at);
    let [ffn_norm, ffn_gate, ffn_up, ffn_down, post_ffw_norm] = s.ffn.map(at);
    LayerWeights {
        attn_norm: at(s.attn_norm),
        attn_q: at(s.attn_q),
        attn_q_norm: at(s.attn_q_norm),
        kv: s.kv.map(|kv| {
            let [attn_k, attn_v, attn_k_norm] = kv.map(at);
            KvWeights { attn_k, attn_v, attn_k_norm }
        }),
        attn_output: at(s.attn_output),
        post_attention_norm: at(s.post_attention_norm),
        ffn_norm,
        ffn_gate,
        ffn_up,
        ffn_down,
        post_ffw_norm,
        per_layer: PerLayerWeights { inp_gate, proj, post_norm },
        layer_output_scale: s.scale,
    }
}
