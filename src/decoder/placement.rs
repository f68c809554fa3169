//! Which layers a GPU takes, within a budget of its memory.
//!
//! In: the file's tensors, the GPU, a budget. Out: [`GpuShare`].
//! The first layers go first, because they are all that most positions of a prompt run; the output
//! head goes last. What the per-layer rows are projected with goes with the first layer. Token
//! embeddings and the per-layer table stay with the processor, which reads single rows of them.
//! Invariant: no weight is placed on a GPU that cannot multiply with it.

use std::collections::HashMap;

use crate::error::Error;
use crate::error::Result;
use crate::ggml::Backend;
use crate::ggml::GpuSample;
use crate::ggml::HeadShape;
use crate::ggml::Owner;
use crate::ggml::Placement;
use crate::gguf::Gguf;
use crate::gguf::TensorInfo;
use crate::model;
use crate::model::HParams;
use crate::model::Layer;
use crate::model::Packed;
use crate::model::sample;

/// What of a decoder lies on a GPU.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GpuShare {
    /// Layers, from the first on.
    pub n_layers: usize,
    /// Whether the output head does, too.
    pub has_head: bool,
    /// Bytes of weights.
    pub size_bytes: u64,
}

impl GpuShare {
    /// Returns where a layer's weights lie, given where they lie on the processor.
    pub(super) fn layer(&self, il: usize, host: Placement) -> Placement {
        if il < self.n_layers { Placement::Gpu } else { host }
    }

    /// Returns where the head's weights lie, given where they lie on the processor.
    pub(super) fn head(&self, host: Placement) -> Placement {
        if self.has_head { Placement::Gpu } else { host }
    }

    /// Chooses as many layers as fit into what the backend may use of its GPU's memory.
    ///
    /// # Errors
    /// `Unsupported` if a type has no kernels at all.
    pub(super) fn choose(
        tensors: &HashMap<String, TensorInfo>,
        h: &HParams,
        backend: &Backend,
    ) -> Result<Self> {
        let mut share = Self::default();
        let Some(bytes_max) = backend.gpu_bytes_max() else { return Ok(share) };
        let size = |names: &[&TensorInfo]| -> Result<Option<u64>> {
            let sizes =
                names.iter().map(|info| backend.gpu_bytes(&sample::whole(info, Placement::Gpu)?));
            sizes.sum::<Result<Option<u64>>>()
        };
        let of_layer = |il: usize| {
            let own = format!("blk.{il}.");
            let shared = (il == 0).then_some("per_layer_model_proj.weight");
            let is_one = move |name: &str| name.starts_with(&own) || shared == Some(name);
            tensors.values().filter(move |info| is_one(&info.name)).collect::<Vec<_>>()
        };
        for il in 0..h.layers.len() {
            match size(&of_layer(il))?.filter(|n| share.size_bytes + n <= bytes_max) {
                Some(n) => share.size_bytes += n,
                None => return Ok(share),
            }
            share.n_layers += 1;
        }
        let output = ["output.weight", "token_embd.weight"].map(|name| tensors.get(name));
        let head: Vec<_> = output.into_iter().flatten().take(1).collect();
        if let Some(n) = size(&head)?.filter(|n| share.size_bytes + n <= bytes_max) {
            share.size_bytes += n;
            share.has_head = true;
        }
        Ok(share)
    }
}

/// Returns what a GPU is tried with before it computes this model: rows of its own weights, one
/// for each type, and the shapes of its heads.
///
/// # Errors
/// `Format` or `Unsupported` naming the file and the tensor that does not fit, or that the weights
/// are packed for the processor.
pub fn gpu_sample(gguf: &Gguf, h: &HParams) -> Result<GpuSample> {
    refuse_packed(gguf)?;
    let tensors = model::resolve(gguf, &model::text_tensors(h))?;
    let blocks = tensors.values().filter(|info| info.name.starts_with("blk."));
    let weights = sample::of_each_type(blocks)?;
    let owner: Owner = gguf.mapping().clone();
    Ok(GpuSample { owner, weights, heads: head_shapes(h) })
}

/// Returns the different shapes of a model's heads.
pub fn head_shapes(h: &HParams) -> Vec<HeadShape> {
    let mut heads = Vec::new();
    for layer in &h.layers {
        let &Layer { n_head, n_head_kv, head_dim, .. } = layer;
        let shape = HeadShape { n_head, n_head_kv, head_dim };
        if !heads.contains(&shape) {
            heads.push(shape);
        }
    }
    heads
}

/// Refuses files for the processor's kernels alone.
///
/// # Errors
/// `Unsupported` if anything in the file is packed.
pub(super) fn refuse_packed(gguf: &Gguf) -> Result<()> {
    if Packed::of(gguf)?.is_empty() {
        return Ok(());
    }
    let text = "weights are packed for the CPU; open the file it was made from";
    Err(Error::unsupported(text).at(gguf.name()))
}
