//! Full-size model files with random weights, to measure speed and memory without the real ones.
//!
//! In: `SHAPE-QUANT`, such as `e2b-q4_0` or `e4b-mmproj-bf16`. Out: a GGUF file.
//! Source: specification 1 and 7; the mixes of llama.cpp's `llama-quant.cpp`.
//! Invariant: streamed; beside the vocabulary only one pattern a type is held.
//! Invariant: values stay of order one through all layers, so that answers can be compared.

use std::collections::HashMap;
use std::path::Path;

use culet::Error;
use culet::Result;
use culet::gguf::TensorType;
use culet::gguf::Writer;
use culet::model::EncoderHParams;
use culet::model::HParams;
use culet::model::TensorSpec;
use culet::model::Variant;
use culet::model::audio_tensors;
use culet::model::encoder::AUDIO_LINEARS;
use culet::model::encoder::VISION_LINEARS;
use culet::model::tensor_table::Role;
use culet::model::text_tensors;
use culet::model::vision_tensors;

use crate::cli::bench::random::Pattern;
use crate::cli::bench::random::Pieces;
use crate::cli::bench::random::Random;
use crate::cli::print::Progress;

const SEED: u64 = 20_260_401;
/// A shape for tests: real head sizes and layer kinds, everything else small.
const MINI: Variant = Variant {
    name: "mini",
    n_layer: 6,
    n_embd: 256,
    n_head_kv: 1,
    n_ff: 768,
    n_ff_shared: 1536,
    period: 3,
    n_shared: 3,
};
const MINI_VOCAB: usize = 4096;
/// Inputs and outputs of encoders' linears are clamped to this, beyond what values reach.
const CLAMP: f32 = 64.0;

/// How weights are stored.
#[derive(Clone, Copy, PartialEq)]
enum Quant {
    Q4_0,
    Q8_0,
    Q4KM,
    Q3KM,
    Mobile,
    Bf16,
    F32,
}

const QUANTS: [(&str, Quant); 7] = [
    ("q4_0", Quant::Q4_0),
    ("q8_0", Quant::Q8_0),
    ("q4_k_m", Quant::Q4KM),
    ("q3_k_m", Quant::Q3KM),
    ("mobile", Quant::Mobile),
    ("bf16", Quant::Bf16),
    ("f32", Quant::F32),
];

/// A tensor to be written.
struct Filled {
    name: String,
    dtype: TensorType,
    shape: Vec<u64>,
    fill: Fill,
}

enum Fill {
    /// Random blocks of this deviation.
    Random(f32),
    /// Values near this one, by a tenth of it.
    Near(f32),
    Values(Vec<f32>),
}

/// Writes the file that `what` names to `path`.
///
/// # Errors
/// `Input` if nothing has that name; `Io` if the file cannot be written.
pub(super) fn synthesize(what: &str, path: &Path) -> Result<()> {
    let (shape, quant) = parse(what)?;
    let mut to = Writer::new();
    let tensors = match shape {
        Shape::Text(h) => {
            h.write(&mut to)?;
            to.set_str("general.type", "model")?;
            Pieces::new(h.n_vocab, SEED).write(&mut to)?;
            text(&h, quant)
        }
        Shape::Encoders(h) => {
            h.write(&mut to)?;
            encoders(&h, quant)
        }
    };
    to.set_str("general.name", &format!("random {what}"))?;
    to.set_u32("general.quantization_version", 2)?;
    for t in &tensors {
        to.add_tensor(&t.name, t.dtype, &t.shape)?;
    }
    let mut out = to.create(path)?;
    let mut patterns = HashMap::new();
    let mut random = Random(SEED);
    let mut progress = Progress::new();
    for (i, t) in tensors.iter().enumerate() {
        progress.set(&format!("{} of {} tensors", i + 1, tensors.len()));
        match &t.fill {
            Fill::Random(std) => {
                let pattern = match patterns.entry(t.dtype) {
                    std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
                    std::collections::hash_map::Entry::Vacant(e) => {
                        e.insert(Pattern::new(t.dtype, SEED)?)
                    }
                };
                let n = t.shape.iter().product::<u64>() / t.dtype.block_len();
                pattern.write(n, *std, |bytes| out.append(bytes))?;
            }
            Fill::Near(v) => {
                let n: u64 = t.shape.iter().product();
                let values = (0..n).map(|_| v * (0.9 + 0.2 * random.unit()));
                out.append(&values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>())?;
            }
            Fill::Values(values) => {
                out.append(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
            }
        }
    }
    out.finish()
}

enum Shape {
    Text(HParams),
    Encoders(EncoderHParams),
}

fn parse(what: &str) -> Result<(Shape, Quant)> {
    let unknown = || {
        let quants: Vec<&str> = QUANTS.iter().map(|q| q.0).collect();
        Error::input(format!(
            "nothing to synthesize is called {what}; expected e2b-QUANT, e4b-QUANT, mini-QUANT, \
             mmproj-QUANT or e4b-mmproj-QUANT, with QUANT one of {}",
            quants.join(", ")
        ))
    };
    let what = what.to_ascii_lowercase();
    let (shape, quant) = what.rsplit_once('-').ok_or_else(unknown)?;
    let quant = QUANTS.iter().find(|q| q.0 == quant).ok_or_else(unknown)?.1;
    let (shape, is_mmproj) = match shape.strip_suffix("mmproj") {
        Some("") => ("e2b", true),
        Some(shape) => (shape.strip_suffix('-').ok_or_else(unknown)?, true),
        None => (shape, false),
    };
    let is_mini = shape == MINI.name;
    let variant = if is_mini { &MINI } else { Variant::named(shape).ok_or_else(unknown)? };
    if is_mmproj {
        let mut h = variant.encoders();
        if is_mini {
            h.vision.iter_mut().for_each(|v| v.n_layer = 2);
            h.audio.iter_mut().for_each(|a| a.n_layer = 2);
        }
        return Ok((Shape::Encoders(h), quant));
    }
    let mut h = variant.hparams();
    if is_mini {
        h.n_vocab = MINI_VOCAB;
    }
    Ok((Shape::Text(h), quant))
}

fn text(h: &HParams, quant: Quant) -> Vec<Filled> {
    let table = text_tensors(h).into_iter().filter(|s| s.name != "output.weight");
    table.map(|spec| text_tensor(h, quant, spec)).collect()
}

fn text_tensor(h: &HParams, quant: Quant, spec: TensorSpec) -> Filled {
    let (layer, part) = place(&spec.name);
    let n_in = spec.shape[0] as f32;
    let (dtype, fill) = match (spec.role, part) {
        (Role::Vector, "rope_freqs") => (TensorType::F32, Fill::Values(h.default_rope_factors())),
        (Role::Vector, "layer_output_scale") => (TensorType::F32, Fill::Values(vec![0.97])),
        // What a block adds is small beside what it is added to, as in a trained model: otherwise
        // depth turns rounding into other answers, and no two programs could be compared.
        (Role::Vector, "post_attention_norm" | "post_ffw_norm" | "post_norm") => {
            (TensorType::F32, Fill::Near(0.2))
        }
        // Queries and keys have a length of one a value; their product is not scaled.
        (Role::Vector, "attn_k_norm") => (TensorType::F32, Fill::Near(n_in.sqrt().recip())),
        (Role::Vector, _) => (TensorType::F32, Fill::Near(1.0)),
        (_, "per_layer_token_embd") => {
            let std = (h.n_embd_per_layer as f32).sqrt().recip();
            (text_type(quant, part, layer, h.n_layer()), Fill::Random(std))
        }
        _ => (text_type(quant, part, layer, h.n_layer()), Fill::Random(n_in.sqrt().recip())),
    };
    Filled { name: spec.name, dtype, shape: spec.shape, fill }
}

/// Returns the layer and what is left of a tensor's name.
fn place(name: &str) -> (usize, &str) {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let in_layer = name.strip_prefix("blk.").and_then(|n| n.split_once('.'));
    in_layer.map_or((0, name), |(layer, part)| (layer.parse().unwrap_or(0), part))
}

/// Returns the type of a matrix; every mix has `n_in` a multiple of 256.
fn text_type(quant: Quant, part: &str, layer: usize, n: usize) -> TensorType {
    use TensorType as T;
    let more = layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
    match (quant, part) {
        (Quant::Q4_0, _) => T::Q4_0,
        (Quant::Q8_0, _) => T::Q8_0,
        (Quant::Bf16, _) => T::BF16,
        (Quant::F32, _) => T::F32,
        (Quant::Q4KM | Quant::Q3KM, "token_embd") => T::Q6K,
        (Quant::Q4KM, "attn_v" | "ffn_down") if more => T::Q6K,
        (Quant::Q4KM, _) => T::Q4K,
        (Quant::Q3KM, "attn_v") if layer < 2 => T::Q5K,
        (Quant::Q3KM, "ffn_down") if layer < n / 16 => T::Q5K,
        (Quant::Q3KM, "attn_v" | "ffn_down" | "attn_output") => T::Q4K,
        (Quant::Q3KM, _) => T::Q3K,
        (Quant::Mobile, "ffn_gate" | "ffn_up" | "ffn_down") => T::TQ2_0,
        (Quant::Mobile, "per_layer_token_embd") => T::TQ2_0,
        (Quant::Mobile, _) => T::Q4_0,
    }
}

fn encoders(h: &EncoderHParams, quant: Quant) -> Vec<Filled> {
    let vision = h.vision.as_ref().map(vision_tensors);
    let audio = h.audio.as_ref().map(|a| audio_tensors(a, h.names));
    let specs = vision.into_iter().chain(audio).flatten().filter(|s| s.required);
    specs.flat_map(|spec| encoder_tensors(quant, spec)).collect()
}

/// Returns a tensor and, for a clamped linear, its four limits.
fn encoder_tensors(quant: Quant, spec: TensorSpec) -> Vec<Filled> {
    let stem = spec.name.strip_suffix(".weight").unwrap_or(&spec.name).to_owned();
    let part = stem.rsplit('.').next().unwrap_or(&stem);
    let in_layer = stem.contains(".blk.");
    let linears = VISION_LINEARS.iter().chain(&AUDIO_LINEARS);
    let is_clamped = in_layer && linears.into_iter().any(|l| *l == part);
    let n_in = match spec.role {
        // A convolution adds up all but its last size.
        Role::Table if !stem.contains("position") => {
            let last = spec.shape.last().copied().unwrap_or(1);
            (spec.shape.iter().product::<u64>() / last) as f32
        }
        _ => spec.shape[0] as f32,
    };
    let (dtype, fill) = match spec.role {
        Role::Vector if spec.name.ends_with(".bias") => {
            (TensorType::F32, Fill::Values(vec![0.0; spec.shape[0] as usize]))
        }
        Role::Vector if part == "attn_k_norm" || part == "per_dim_scale" => {
            (TensorType::F32, Fill::Near(n_in.sqrt().recip()))
        }
        Role::Vector => (TensorType::F32, Fill::Near(1.0)),
        Role::Table => (TensorType::F32, Fill::Random(n_in.sqrt().recip())),
        // Converters leave this one as it is.
        Role::Matrix if spec.name == "a.input_projection.weight" => {
            (TensorType::F32, Fill::Random(n_in.sqrt().recip()))
        }
        Role::Matrix => (text_type(quant, "", 0, 1), Fill::Random(n_in.sqrt().recip())),
    };
    let mut tensors = vec![Filled { name: spec.name, dtype, shape: spec.shape, fill }];
    if is_clamped {
        let limits = [("input_min", -CLAMP), ("input_max", CLAMP)];
        let limits = limits.into_iter().chain([("output_min", -CLAMP), ("output_max", CLAMP)]);
        tensors.extend(limits.map(|(name, v)| Filled {
            name: format!("{stem}.{name}"),
            dtype: TensorType::F32,
            shape: vec![1],
            fill: Fill::Values(vec![v]),
        }));
    }
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_understood() {
        for what in ["e2b-q4_0", "E4B-mobile", "mini-q4_k_m", "mmproj-q8_0", "e4b-mmproj-bf16"] {
            assert!(parse(what).is_ok(), "{what}");
        }
        for what in ["", "e2b", "e3b-q4_0", "e2b-q9", "-q4_0", "xmmproj-q8_0"] {
            assert!(parse(what).is_err(), "{what}");
        }
    }

    #[test]
    fn every_mix_fits_every_shape() {
        for shape in ["e2b", "e4b", "mini", "e2b-mmproj", "e4b-mmproj"] {
            for (name, quant) in QUANTS {
                let what = format!("{shape}-{name}");
                let tensors = match parse(&what).unwrap().0 {
                    Shape::Text(h) => text(&h, quant),
                    Shape::Encoders(h) => encoders(&h, quant),
                };
                let mut to = Writer::new();
                for t in &tensors {
                    let added = to.add_tensor(&t.name, t.dtype, &t.shape);
                    assert!(added.is_ok(), "{what} {}", t.name);
                }
                assert!(tensors.len() > 60, "{what}: {} tensors", tensors.len());
            }
        }
    }

    #[test]
    fn an_mmproj_has_as_many_tensors_as_the_published_one() {
        let (Shape::Encoders(h), quant) = parse("mmproj-bf16").unwrap() else { panic!() };
        assert_eq!(encoders(&h, quant).len(), 1411);
    }
}
