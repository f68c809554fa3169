//! Expected tensors of the picture and sound encoders, under either naming.
//!
//! In: [`VisionHParams`], [`AudioHParams`]. Out: tables of [`TensorSpec`]s.
//! Source: specification 7.3 and 7.4; `convert_gemma4.go` of ollama/ollama.
//! Invariant: the table's names are those of llama.cpp's converter; other names are looked up by
//! [`TensorNames`], because one name means two tensors in the two namings.

use std::borrow::Cow;

use crate::gguf::Gguf;
use crate::model::encoder::hparams::AudioHParams;
use crate::model::encoder::hparams::VisionHParams;
use crate::model::tensor_table::Role;
use crate::model::tensor_table::TensorSpec;

/// Which names a file gives to the sound encoder's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorNames {
    /// Those of llama.cpp's converter, which the tables use.
    Mmproj,
    /// Those of Ollama's single files.
    Ollama,
}

/// A table's name and Ollama's, for tensors outside of layers.
const OLLAMA: [(&str, &str); 3] = [
    ("a.input_projection.weight", "a.pre_encode.out.weight"),
    ("a.pre_encode.out.weight", "mm.a.fc.weight"),
    ("a.pre_encode.out.bias", "mm.a.fc.bias"),
];

/// The same for the part of a layer's tensor name behind the layer's number.
const OLLAMA_LAYER: [(&str, &str); 4] = [
    ("attn_k_rel.weight", "linear_pos.weight"),
    ("attn_pre_norm.weight", "ln1.weight"),
    ("attn_post_norm.weight", "ln2.weight"),
    ("ln2.weight", "layer_pre_norm.weight"),
];

impl TensorNames {
    /// Returns which names `file` uses, judged by a tensor that only one naming has.
    pub fn of(file: &Gguf) -> Self {
        match file.tensor("mm.a.fc.weight").or(file.tensor("a.blk.0.linear_pos.weight")) {
            Some(_) => Self::Ollama,
            None => Self::Mmproj,
        }
    }

    /// Returns the file's name for the tensor that the tables call `name`.
    pub fn in_file<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if *self == Self::Mmproj {
            return Cow::Borrowed(name);
        }
        if let Some((_, other)) = OLLAMA.iter().find(|(ours, _)| *ours == name) {
            return Cow::Borrowed(other);
        }
        let layer = name.strip_prefix("a.blk.").and_then(|rest| rest.split_once('.'));
        let renamed = layer.and_then(|(i, part)| {
            let (_, other) = OLLAMA_LAYER.iter().find(|(ours, _)| *ours == part)?;
            Some(format!("a.blk.{i}.{other}"))
        });
        renamed.map_or(Cow::Borrowed(name), Cow::Owned)
    }

    /// Returns `table` with the file's names to look under; the table's own names stay.
    fn rename(self, table: Vec<TensorSpec>) -> Vec<TensorSpec> {
        let rename = |spec: TensorSpec| {
            let name = self.in_file(&spec.name);
            match name == spec.name.as_str() {
                true => spec,
                false => TensorSpec { in_file: Some(name.into_owned()), ..spec },
            }
        };
        table.into_iter().map(rename).collect()
    }
}

/// The clamped linears of a picture encoder's layer, in the order of the packed clamps.
pub const VISION_LINEARS: [&str; 7] =
    ["attn_q", "attn_k", "attn_v", "attn_out", "ffn_gate", "ffn_up", "ffn_down"];

/// The clamped linears of a sound encoder's layer.
pub const AUDIO_LINEARS: [&str; 10] = [
    "ffn_up",
    "ffn_down",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_out",
    "conv_pw1",
    "conv_pw2",
    "ffn_up_1",
    "ffn_down_1",
];

/// Returns what a file with a picture encoder must and may hold.
///
/// Clamps are scalars, not tensors of the graph; [`crate::model::Clamp`] reads them.
pub fn vision_tensors(h: &VisionHParams) -> Vec<TensorSpec> {
    use Role::Matrix;
    use Role::Table;
    use Role::Vector;
    let (n, n_ff, side) = (h.n_embd, h.n_ff, h.patch_size);
    let mut table = vec![
        TensorSpec::new("v.patch_embd.weight", Table, &[side, side, 3, n]),
        TensorSpec::new("v.position_embd.weight", Table, &[n, h.n_pos, 2]),
        TensorSpec::new("v.std_bias", Vector, &[n]).optional(),
        TensorSpec::new("v.std_scale", Vector, &[n]).optional(),
        TensorSpec::new("mm.input_projection.weight", Matrix, &[n, h.n_embd_out]),
    ];
    for i in 0..h.n_layer {
        let name = |part: &str| format!("v.blk.{i}.{part}.weight");
        let vector = |part, n: usize| TensorSpec::new(name(part), Vector, &[n]);
        let matrix = |part, a: usize, b: usize| TensorSpec::new(name(part), Matrix, &[a, b]);
        table.extend([
            vector("ln1", n),
            matrix("attn_q", n, n),
            matrix("attn_k", n, n),
            matrix("attn_v", n, n),
            matrix("attn_out", n, n),
            vector("attn_q_norm", h.head_dim),
            vector("attn_k_norm", h.head_dim),
            vector("attn_post_norm", n),
            vector("ln2", n),
            matrix("ffn_gate", n, n_ff),
            matrix("ffn_up", n, n_ff),
            matrix("ffn_down", n_ff, n),
            vector("ffn_post_norm", n),
        ]);
    }
    table
}

/// Returns what a file with a sound encoder must and may hold.
///
/// `conv_norm` is the norm before the convolution module and `norm_conv` the one inside it: the
/// format swaps the two names of the model. `per_dim_scale` has softplus applied.
pub fn audio_tensors(h: &AudioHParams, names: TensorNames) -> Vec<TensorSpec> {
    use Role::Matrix;
    use Role::Table;
    use Role::Vector;
    let [first, second] = h.n_channels;
    let n = h.n_embd;
    let mut table = vec![
        TensorSpec::new("a.conv1d.0.weight", Table, &[3, 3, 1, first]),
        TensorSpec::new("a.conv1d.0.norm.weight", Vector, &[first]),
        TensorSpec::new("a.conv1d.1.weight", Table, &[3, 3, first, second]),
        TensorSpec::new("a.conv1d.1.norm.weight", Vector, &[second]),
        TensorSpec::new("a.input_projection.weight", Matrix, &[h.n_flat(), n]),
        TensorSpec::new("a.pre_encode.out.weight", Matrix, &[n, h.n_embd_proj]),
        TensorSpec::new("a.pre_encode.out.bias", Vector, &[h.n_embd_proj]),
        TensorSpec::new("mm.a.input_projection.weight", Matrix, &[h.n_embd_proj, h.n_embd_out]),
    ];
    for i in 0..h.n_layer {
        let name = |part: &str| format!("a.blk.{i}.{part}.weight");
        let norm = |part| TensorSpec::new(name(part), Vector, &[n]);
        let matrix = |part, a: usize, b: usize| TensorSpec::new(name(part), Matrix, &[a, b]);
        table.extend([
            norm("ffn_norm"),
            matrix("ffn_up", n, h.n_ff),
            matrix("ffn_down", h.n_ff, n),
            norm("ffn_post_norm"),
            norm("attn_pre_norm"),
            matrix("attn_q", n, n),
            matrix("attn_k", n, n),
            matrix("attn_v", n, n),
            matrix("attn_out", n, n),
            matrix("attn_k_rel", n, n),
            TensorSpec::new(name("per_dim_scale"), Vector, &[h.head_dim]),
            norm("attn_post_norm"),
            norm("conv_norm"),
            matrix("conv_pw1", n, 2 * n),
            TensorSpec::new(name("conv_dw"), Table, &[h.n_kernel, n]),
            norm("norm_conv"),
            matrix("conv_pw2", n, n),
            norm("ffn_norm_1"),
            matrix("ffn_up_1", n, h.n_ff),
            matrix("ffn_down_1", h.n_ff, n),
            norm("ffn_post_norm_1"),
            norm("ln2"),
        ]);
    }
    names.rename(table)
}
