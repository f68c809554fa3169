//! Small model files with every tensor of the real ones and zeros for values.

use std::path::PathBuf;

use culet::gguf::Gguf;
use culet::gguf::Mapping;
use culet::gguf::TensorType;
use culet::gguf::Writer;
use culet::model::AudioHParams;
use culet::model::EncoderHParams;
use culet::model::HParams;
use culet::model::Layer;
use culet::model::LayerKind;
use culet::model::TensorNames;
use culet::model::TensorSpec;
use culet::model::VisionHParams;
use culet::model::tensor_table::Role;

/// Returns six layers, of which the last three share keys and values.
pub(crate) fn text() -> HParams {
    let layer = |kind, n_ff, kv_source, owns_kv| Layer {
        kind,
        head_dim: if kind == LayerKind::Full { 64 } else { 32 },
        n_head: 4,
        n_head_kv: 2,
        n_ff,
        kv_source,
        owns_kv,
    };
    let (sliding, full) = (LayerKind::Sliding, LayerKind::Full);
    HParams {
        n_embd: 64,
        n_embd_per_layer: 32,
        n_vocab: 96,
        n_ctx_train: 4096,
        window: 16,
        first_shared: 3,
        rms_eps: 1e-6,
        logit_softcap: Some(30.0),
        rope_base_full: 1e6,
        rope_base_sliding: 1e4,
        n_rot_full: 64,
        n_rot_sliding: 32,
        layers: vec![
            layer(sliding, 96, 0, true),
            layer(sliding, 96, 1, true),
            layer(full, 96, 2, true),
            layer(sliding, 192, 1, false),
            layer(sliding, 192, 1, false),
            layer(full, 192, 2, false),
        ],
    }
}

/// Returns two layers for soft tokens of the width of [`text`].
pub(crate) fn vision() -> VisionHParams {
    VisionHParams {
        n_layer: 2,
        n_embd: 64,
        n_ff: 96,
        n_head: 4,
        head_dim: 16,
        patch_size: 16,
        n_merge: 3,
        n_pos: 50,
        n_embd_out: 64,
        eps: 1e-6,
    }
}

/// Returns two layers for soft tokens of the width of [`text`].
pub(crate) fn audio() -> AudioHParams {
    AudioHParams {
        n_layer: 2,
        n_embd: 64,
        n_ff: 128,
        n_head: 4,
        head_dim: 16,
        n_mel: 128,
        n_channels: [8, 4],
        n_kernel: 5,
        n_embd_proj: 96,
        n_embd_out: 64,
        eps: 1e-6,
    }
}

/// Returns the encoders asked for.
pub(crate) fn encoders(with: (bool, bool), names: TensorNames) -> EncoderHParams {
    EncoderHParams { vision: with.0.then(vision), audio: with.1.then(audio), names }
}

/// Returns the name of a tensor in the file and its type.
pub(crate) fn entry(spec: &TensorSpec) -> (String, TensorType) {
    let dtype = match spec.role {
        Role::Matrix => TensorType::Q8_0,
        Role::Table | Role::Vector => TensorType::F32,
    };
    (spec.in_file.clone().unwrap_or(spec.name.clone()), dtype)
}

/// Adds every tensor of `table` that `keep` wants.
pub(crate) fn add_all(w: &mut Writer, table: &[TensorSpec], keep: impl Fn(&str) -> bool) {
    for spec in table {
        let (name, dtype) = entry(spec);
        if keep(&spec.name) {
            w.add_tensor(&name, dtype, &spec.shape).unwrap();
        }
    }
}

/// Writes the file with zeros as data and returns its bytes.
pub(crate) fn bytes(w: Writer, tag: &str) -> Vec<u8> {
    let name = format!("culet-tiny-{}-{tag}.gguf", std::process::id());
    let path: PathBuf = std::env::temp_dir().join(name);
    let mut out = w.create(&path).unwrap();
    while let Some((_, _, _, size)) = out.current() {
        out.append(&vec![0; size as usize]).unwrap();
    }
    out.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    bytes
}

/// Opens bytes as a file called `tiny.gguf`.
pub(crate) fn open(bytes: &[u8]) -> culet::Result<Gguf> {
    Gguf::from_mapping(Mapping::from_bytes("tiny.gguf", bytes)?)
}
