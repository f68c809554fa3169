//! E2B and E4B as one table of constants.
//!
//! In: nothing, or the [`HParams`] of a file. Out: the published shapes and a name.
//! Source: specification 1.1, 1.4 and 1.5, from `config.json` of google/gemma-4-E2B and
//! google/gemma-4-E4B.

use crate::model::encoder::hparams::AUDIO_EPS;
use crate::model::encoder::hparams::AudioHParams;
use crate::model::encoder::hparams::EncoderHParams;
use crate::model::encoder::hparams::N_MEL;
use crate::model::encoder::hparams::N_MERGE;
use crate::model::encoder::hparams::PATCH_SIZE;
use crate::model::encoder::hparams::VisionHParams;
use crate::model::encoder::table::TensorNames;
use crate::model::hparams::HParams;
use crate::model::hparams::Layer;
use crate::model::hparams::LayerKind;

/// One published size of the model.
#[derive(Debug, PartialEq)]
pub struct Variant {
    /// What people call it.
    pub name: &'static str,
    /// Layers.
    pub n_layer: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Key and value heads of every layer.
    pub n_head_kv: usize,
    /// Width of the feed-forward block of layers that own their keys and values.
    pub n_ff: usize,
    /// The same for layers that share them.
    pub n_ff_shared: usize,
    /// Layers from one full layer to the next.
    pub period: usize,
    /// Layers that share keys and values.
    pub n_shared: usize,
}

/// Every variant.
pub const VARIANTS: [Variant; 2] = [
    Variant {
        name: "E2B",
        n_layer: 35,
        n_embd: 1536,
        n_head_kv: 1,
        n_ff: 6144,
        n_ff_shared: 12288,
        period: 5,
        n_shared: 20,
    },
    Variant {
        name: "E4B",
        n_layer: 42,
        n_embd: 2560,
        n_head_kv: 2,
        n_ff: 10240,
        n_ff_shared: 10240,
        period: 6,
        n_shared: 18,
    },
];

/// Rows of the vocabulary.
pub const N_VOCAB: usize = 262_144;
/// Positions the models were trained for.
pub const N_CTX_TRAIN: usize = 131_072;
const N_HEAD: usize = 8;
const HEAD_DIM_FULL: usize = 512;
const HEAD_DIM_SLIDING: usize = 256;
const WINDOW: usize = 512;
const N_EMBD_PER_LAYER: usize = 256;

impl Variant {
    /// Returns the variant called `name`, whatever its case.
    pub fn named(name: &str) -> Option<&'static Self> {
        VARIANTS.iter().find(|v| v.name.eq_ignore_ascii_case(name))
    }

    /// Returns the variant whose shape `h` has.
    pub fn of(h: &HParams) -> Option<&'static Self> {
        VARIANTS.iter().find(|v| {
            let same = v.hparams();
            same.layers == h.layers
                && (same.n_embd, same.n_vocab, same.window) == (h.n_embd, h.n_vocab, h.window)
                && same.n_embd_per_layer == h.n_embd_per_layer
        })
    }

    /// Returns the name of the variant whose shape `h` has, or `custom`.
    pub fn name_of(h: &HParams) -> &'static str {
        Self::of(h).map_or("custom", |v| v.name)
    }

    /// Returns the variant's hyper-parameters.
    pub fn hparams(&self) -> HParams {
        let first_shared = self.n_layer - self.n_shared;
        let kind = |i: usize| match (i + 1).is_multiple_of(self.period) {
            true => LayerKind::Full,
            false => LayerKind::Sliding,
        };
        let last = |k| (0..first_shared).rev().find(|i| kind(*i) == k);
        let layer = |i: usize| Layer {
            kind: kind(i),
            head_dim: match kind(i) {
                LayerKind::Full => HEAD_DIM_FULL,
                LayerKind::Sliding => HEAD_DIM_SLIDING,
            },
            n_head: N_HEAD,
            n_head_kv: self.n_head_kv,
            n_ff: if i < first_shared { self.n_ff } else { self.n_ff_shared },
            kv_source: if i < first_shared { i } else { last(kind(i)).unwrap_or(i) },
            owns_kv: i < first_shared,
        };
        HParams {
            n_embd: self.n_embd,
            n_embd_per_layer: N_EMBD_PER_LAYER,
            n_vocab: N_VOCAB,
            n_ctx_train: N_CTX_TRAIN,
            window: WINDOW,
            first_shared,
            rms_eps: 1e-6,
            logit_softcap: Some(30.0),
            rope_base_full: 1e6,
            rope_base_sliding: 1e4,
            n_rot_full: HEAD_DIM_FULL,
            n_rot_sliding: HEAD_DIM_SLIDING,
            layers: (0..self.n_layer).map(layer).collect(),
        }
    }

    /// Returns the hyper-parameters of the variant's encoders, as an mmproj file has them.
    pub fn encoders(&self) -> EncoderHParams {
        let vision = VisionHParams {
            n_layer: 16,
            n_embd: 768,
            n_ff: 3072,
            n_head: 12,
            head_dim: 64,
            patch_size: PATCH_SIZE as usize,
            n_merge: N_MERGE as usize,
            n_pos: 10_240,
            n_embd_out: self.n_embd,
            eps: 1e-6,
        };
        let audio = AudioHParams {
            n_layer: 12,
            n_embd: 1024,
            n_ff: 4096,
            n_head: 8,
            head_dim: 128,
            n_mel: N_MEL as usize,
            n_channels: [128, 32],
            n_kernel: 5,
            n_embd_proj: 1536,
            n_embd_out: self.n_embd,
            eps: AUDIO_EPS,
        };
        let names = TensorNames::Mmproj;
        EncoderHParams { vision: Some(vision), audio: Some(audio), names }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_are_the_last_layers_with_keys_of_their_own() {
        for (name, first_shared, sliding, full) in [("E2B", 15, 13, 14), ("e4b", 24, 22, 23)] {
            let h = Variant::named(name).unwrap().hparams();
            assert_eq!(h.first_shared, first_shared);
            assert_eq!(h.producer(LayerKind::Sliding), Some(sliding));
            assert_eq!(h.producer(LayerKind::Full), Some(full));
            for (i, l) in h.layers.iter().enumerate() {
                let shared = if l.kind == LayerKind::Full { full } else { sliding };
                assert_eq!(l.kv_source, if i < first_shared { i } else { shared }, "layer {i}");
                assert_eq!(l.owns_kv, i < first_shared);
            }
        }
    }

    #[test]
    fn a_variant_is_known_by_its_shape() {
        for v in &VARIANTS {
            let mut h = v.hparams();
            assert_eq!(Variant::of(&h), Some(v));
            h.layers[0].n_ff += 1;
            assert_eq!(Variant::name_of(&h), "custom");
        }
    }

    #[test]
    fn full_layers_are_where_the_models_have_them() {
        let full = |name| -> Vec<usize> {
            let h = Variant::named(name).unwrap().hparams();
            (0..h.n_layer()).filter(|i| h.layers[*i].kind == LayerKind::Full).collect()
        };
        assert_eq!(full("E2B"), [4, 9, 14, 19, 24, 29, 34]);
        assert_eq!(full("E4B"), [5, 11, 17, 23, 29, 35, 41]);
    }

    #[test]
    fn a_quarter_of_the_pairs_rotates() {
        let factors = Variant::named("E2B").unwrap().hparams().default_rope_factors();
        assert_eq!(factors.len(), 256);
        assert!(factors.iter().enumerate().all(|(i, f)| (*f == 1.0) == (i < 64)));
    }
}
