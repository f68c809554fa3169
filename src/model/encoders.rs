//! The picture and sound encoders' tensors, bound by name to fields.
//!
//! In: a mmproj or single file and its hyper-parameters. Out: [`VisionWeights`], [`AudioWeights`].
//! Invariant: every tensor has the shape that its field promises; matrices lie in the mapping,
//! vectors and convolution kernels are small and held as 32-bit floats.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Error;
use crate::error::Result;
use crate::ggml::Backend;
use crate::ggml::DType;
use crate::ggml::Owner;
use crate::ggml::Placement;
use crate::ggml::Weight;
use crate::ggml::dequantize;
use crate::ggml::map_weights;
use crate::gguf::Gguf;
use crate::gguf::TensorInfo;
use crate::model::encoder::clamp::Clamp;
use crate::model::encoder::hparams::AudioHParams;
use crate::model::encoder::hparams::EncoderHParams;
use crate::model::encoder::hparams::VisionHParams;
use crate::model::encoder::table::AUDIO_LINEARS;
use crate::model::encoder::table::VISION_LINEARS;
use crate::model::encoder::table::audio_tensors;
use crate::model::encoder::table::vision_tensors;
use crate::model::sample;
use crate::model::tensor_table::resolve;

/// A norm's or other small tensor's values.
pub type Vector = Arc<[f32]>;

/// A linear whose input and output are clamped.
#[derive(Clone, Debug)]
pub struct Clipped {
    /// The matrix, `[n_in, n_out]`.
    pub weight: Weight,
    /// Least and greatest value of the input.
    pub input: (f32, f32),
    /// Least and greatest value of the output.
    pub output: (f32, f32),
}

/// A feed-forward block of the sound encoder.
#[derive(Clone, Debug)]
pub struct FeedForward {
    /// Norm before the block.
    pub norm: Vector,
    /// `[n_embd, n_ff]`.
    pub up: Clipped,
    /// `[n_ff, n_embd]`.
    pub down: Clipped,
    /// Norm after the block.
    pub post_norm: Vector,
}

/// One conformer layer.
#[derive(Clone, Debug)]
pub struct AudioLayer {
    /// The blocks before and after attention and convolution.
    pub feed_forward: [FeedForward; 2],
    /// Norm before attention.
    pub attn_pre_norm: Vector,
    /// Queries.
    pub attn_q: Clipped,
    /// Keys.
    pub attn_k: Clipped,
    /// Values.
    pub attn_v: Clipped,
    /// Output of attention.
    pub attn_out: Clipped,
    /// Makes relative keys from sinusoids.
    pub attn_k_rel: Weight,
    /// Factor of each dimension of a query's head; softplus is applied.
    pub per_dim_scale: Vector,
    /// Norm after attention.
    pub attn_post_norm: Vector,
    /// Norm before the convolution module (`conv_norm` in files).
    pub conv_pre_norm: Vector,
    /// `[n_embd, 2 n_embd]`: values and gates.
    pub conv_start: Clipped,
    /// Taps of the depthwise convolution, tap after tap, each of `n_embd` values.
    pub conv_taps: Vector,
    /// Norm inside the convolution module (`norm_conv` in files).
    pub conv_norm: Vector,
    /// Output of the convolution module.
    pub conv_end: Clipped,
    /// Norm at the end of the layer (`ln2` in files).
    pub norm_out: Vector,
}

/// The sound encoder.
#[derive(Clone, Debug)]
pub struct AudioWeights {
    /// Its shape.
    pub hparams: AudioHParams,
    /// Kernels of the two convolutions in file order.
    pub conv: [Vector; 2],
    /// Norms of the two convolutions.
    pub conv_norm: [Vector; 2],
    /// From the convolutions to the conformer.
    pub input_projection: Weight,
    /// The layers.
    pub layers: Vec<AudioLayer>,
    /// Output projection.
    pub output: Weight,
    /// Its bias.
    pub output_bias: Vector,
    /// Into the decoder's width.
    pub embedder: Weight,
    /// Bytes of them in a GPU's memory.
    pub gpu_bytes: u64,
}

/// One layer of the picture encoder.
#[derive(Clone, Debug)]
pub struct VisionLayer {
    /// Norm before attention.
    pub ln1: Vector,
    /// Queries.
    pub attn_q: Clipped,
    /// Keys.
    pub attn_k: Clipped,
    /// Values.
    pub attn_v: Clipped,
    /// Output of attention.
    pub attn_out: Clipped,
    /// Norm of a query's head.
    pub attn_q_norm: Vector,
    /// Norm of a key's head.
    pub attn_k_norm: Vector,
    /// Norm after attention.
    pub attn_post_norm: Vector,
    /// Norm before the feed-forward block.
    pub ln2: Vector,
    /// Gate of the feed-forward block.
    pub ffn_gate: Clipped,
    /// Its values.
    pub ffn_up: Clipped,
    /// Its output.
    pub ffn_down: Clipped,
    /// Norm after the feed-forward block.
    pub ffn_post_norm: Vector,
}

/// The picture encoder.
#[derive(Clone, Debug)]
pub struct VisionWeights {
    /// Its shape.
    pub hparams: VisionHParams,
    /// `[side, side, 3, n_embd]`: column fastest, then row, then channel.
    pub patch_embd: Weight,
    /// `[n_embd, n_pos, 2]`: by column, then by row.
    pub position_embd: Weight,
    /// The layers.
    pub layers: Vec<VisionLayer>,
    /// Into the decoder's width.
    pub embedder: Weight,
    /// Bytes of them in a GPU's memory.
    pub gpu_bytes: u64,
}

impl AudioWeights {
    /// Binds the sound encoder of `file`, whose memory is `owner`.
    ///
    /// # Errors
    /// `Unsupported` if the file has none, or a tensor has a type that cannot be used; `Format`
    /// if a tensor is missing or has another shape.
    pub fn bind(
        file: &Gguf,
        owner: Owner,
        hparams: &EncoderHParams,
        backend: &Backend,
    ) -> Result<Self> {
        let Some(h) = &hparams.audio else {
            return Err(missing(file, "sound"));
        };
        let found = resolve(file, &audio_tensors(h, hparams.names))?;
        let part = Part::new(file, owner, &found, backend)?;
        let layers: Result<_> = (0..h.n_layer).map(|i| audio_layer(&part, i)).collect();
        Ok(Self {
            hparams: h.clone(),
            conv: [part.vector("a.conv1d.0.weight")?, part.vector("a.conv1d.1.weight")?],
            conv_norm: [
                part.vector("a.conv1d.0.norm.weight")?,
                part.vector("a.conv1d.1.norm.weight")?,
            ],
            input_projection: part.weight("a.input_projection.weight")?,
            layers: layers?,
            output: part.weight("a.pre_encode.out.weight")?,
            output_bias: part.vector("a.pre_encode.out.bias")?,
            embedder: part.weight("mm.a.input_projection.weight")?,
            gpu_bytes: part.gpu_bytes,
        })
    }
}

impl VisionWeights {
    /// Binds the picture encoder of `file`, whose memory is `owner`.
    ///
    /// # Errors
    /// As for [`AudioWeights::bind`].
    pub fn bind(
        file: &Gguf,
        owner: Owner,
        hparams: &EncoderHParams,
        backend: &Backend,
    ) -> Result<Self> {
        let h = hparams.vision.as_ref().ok_or_else(|| missing(file, "picture"))?;
        let found = resolve(file, &vision_tensors(h))?;
        if found.contains_key("v.std_bias") || found.contains_key("v.std_scale") {
            return Err(Error::unsupported(format!(
                "{}: tensor v.std_bias standardises pictures, which E2B and E4B do not; \
                 use their mmproj file",
                file.name()
            )));
        }
        let part = Part::new(file, owner, &found, backend)?;
        let layers: Result<_> = (0..h.n_layer).map(|i| vision_layer(&part, i)).collect();
        Ok(Self {
            hparams: h.clone(),
            patch_embd: part.weight("v.patch_embd.weight")?,
            position_embd: part.weight("v.position_embd.weight")?,
            layers: layers?,
            embedder: part.weight("mm.input_projection.weight")?,
            gpu_bytes: part.gpu_bytes,
        })
    }
}

fn missing(file: &Gguf, what: &str) -> Error {
    Error::unsupported(format!(
        "{}: has no {what} encoder; name an mmproj file that has one",
        file.name()
    ))
}

fn audio_layer(part: &Part<'_>, i: usize) -> Result<AudioLayer> {
    let vector = |name: &str| part.vector(&format!("a.blk.{i}.{name}.weight"));
    let clipped = |name: &str| part.clipped(&format!("a.blk.{i}.{name}"));
    let feed_forward = |tail: &str| -> Result<FeedForward> {
        Ok(FeedForward {
            norm: vector(&format!("ffn_norm{tail}"))?,
            up: clipped(&format!("ffn_up{tail}"))?,
            down: clipped(&format!("ffn_down{tail}"))?,
            post_norm: vector(&format!("ffn_post_norm{tail}"))?,
        })
    };
    let conv_norm = vector("norm_conv")?;
    Ok(AudioLayer {
        feed_forward: [feed_forward("")?, feed_forward("_1")?],
        attn_pre_norm: vector("attn_pre_norm")?,
        attn_q: clipped("attn_q")?,
        attn_k: clipped("attn_k")?,
        attn_v: clipped("attn_v")?,
        attn_out: clipped("attn_out")?,
        attn_k_rel: part.weight(&format!("a.blk.{i}.attn_k_rel.weight"))?,
        per_dim_scale: vector("per_dim_scale")?,
        attn_post_norm: vector("attn_post_norm")?,
        conv_pre_norm: vector("conv_norm")?,
        conv_start: clipped("conv_pw1")?,
        conv_taps: tap_after_tap(&vector("conv_dw")?, conv_norm.len()),
        conv_norm,
        conv_end: clipped("conv_pw2")?,
        norm_out: vector("ln2")?,
    })
}

/// Reorders a depthwise kernel from the file's `[tap, channel]` to `[channel, tap]`.
fn tap_after_tap(file: &[f32], n_channels: usize) -> Vector {
    let n_taps = file.len() / n_channels;
    (0..file.len()).map(|i| file[i % n_channels * n_taps + i / n_channels]).collect()
}

fn vision_layer(part: &Part<'_>, i: usize) -> Result<VisionLayer> {
    let vector = |name: &str| part.vector(&format!("v.blk.{i}.{name}.weight"));
    let clipped = |name: &str| part.clipped(&format!("v.blk.{i}.{name}"));
    Ok(VisionLayer {
        ln1: vector("ln1")?,
        attn_q: clipped("attn_q")?,
        attn_k: clipped("attn_k")?,
        attn_v: clipped("attn_v")?,
        attn_out: clipped("attn_out")?,
        attn_q_norm: vector("attn_q_norm")?,
        attn_k_norm: vector("attn_k_norm")?,
        attn_post_norm: vector("attn_post_norm")?,
        ln2: vector("ln2")?,
        ffn_gate: clipped("ffn_gate")?,
        ffn_up: clipped("ffn_up")?,
        ffn_down: clipped("ffn_down")?,
        ffn_post_norm: vector("ffn_post_norm")?,
    })
}

/// The tensors of one encoder, laid over the mapping.
struct Part<'a> {
    file: &'a Gguf,
    found: &'a HashMap<String, TensorInfo>,
    weights: HashMap<&'a str, Weight>,
    gpu_bytes: u64,
}

impl<'a> Part<'a> {
    fn new(
        file: &'a Gguf,
        owner: Owner,
        found: &'a HashMap<String, TensorInfo>,
        backend: &Backend,
    ) -> Result<Self> {
        let mut infos: Vec<_> = found.values().collect();
        infos.sort_by_key(|info| info.offset);
        let gpu_bytes = gpu_bytes(&infos, backend)?;
        let place = |info: &TensorInfo| match gpu_bytes > 0 && is_for_gpu(info) {
            true => Placement::Gpu,
            false => Placement::Host,
        };
        let specs = infos.iter().map(|info| sample::whole(info, place(info)));
        let specs: Vec<_> = specs.collect::<Result<_>>()?;
        let weights = map_weights(owner, &specs, backend).map_err(|e| e.at(file.name()))?;
        let weights = infos.iter().map(|i| i.name.as_str()).zip(weights).collect();
        Ok(Self { file, found, weights, gpu_bytes })
    }

    fn weight(&self, name: &str) -> Result<Weight> {
        self.weights.get(name).cloned().ok_or_else(|| absent(name))
    }

    fn vector(&self, name: &str) -> Result<Vector> {
        let info = self.found.get(name).ok_or_else(|| absent(name))?;
        let dtype = DType::from_id(info.dtype.id())?;
        let n = info.n_values() as usize;
        let values = dequantize(dtype, self.file.tensor_bytes(info), n)?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::format(format!(
                "{}: tensor {name} holds a value that is not finite",
                self.file.name()
            )));
        }
        Ok(values.into())
    }

    fn clipped(&self, name: &str) -> Result<Clipped> {
        let clamp = Clamp::read(self.file, name)?;
        Ok(Clipped {
            weight: self.weight(&format!("{name}.weight"))?,
            input: (clamp.input_min, clamp.input_max),
            output: (clamp.output_min, clamp.output_max),
        })
    }
}

/// Tells whether a GPU may multiply with a tensor: the linears of an encoder's layers.
fn is_for_gpu(info: &TensorInfo) -> bool {
    let is_of = |layers: &str, linears: &[&str]| {
        let part = info.name.strip_prefix(layers).and_then(|rest| rest.split_once('.'));
        let name = part.and_then(|(_, name)| name.strip_suffix(".weight"));
        name.is_some_and(|name| linears.contains(&name))
    };
    is_of("v.blk.", &VISION_LINEARS) || is_of("a.blk.", &AUDIO_LINEARS)
}

/// Returns the bytes of an encoder's linears on a GPU that has kernels and room for all of them,
/// and 0 for another.
fn gpu_bytes(infos: &[&TensorInfo], backend: &Backend) -> Result<u64> {
    let Some(most) = backend.gpu_bytes_max() else { return Ok(0) };
    let matrices = infos.iter().filter(|info| is_for_gpu(info));
    let sizes = matrices.map(|info| backend.gpu_bytes(&sample::whole(info, Placement::Gpu)?));
    let size = sizes.sum::<Result<Option<u64>>>()?;
    Ok(size.filter(|size| *size <= most).unwrap_or(0))
}

fn absent(name: &str) -> Error {
    Error::internal(format!("tensor {name} is not in the table of expected tensors"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_are_reordered() {
        let file = [1.0, 2.0, 3.0, 10.0, 20.0, 30.0];
        assert_eq!(&*tap_after_tap(&file, 2), [1.0, 10.0, 2.0, 20.0, 3.0, 30.0]);
    }
}
