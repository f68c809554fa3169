//! Model files: what is written is read, both namings, fused tensors, and what errors say.

use culet::ErrorKind;
use culet::ggml::DType;
use culet::gguf::Gguf;
use culet::gguf::Items;
use culet::gguf::TensorType;
use culet::gguf::Value;
use culet::gguf::Writer;
use culet::model::Clamp;
use culet::model::EncoderHParams;
use culet::model::HParams;
use culet::model::TensorNames;
use culet::model::TensorSpec;
use culet::model::Variant;
use culet::model::audio_tensors;
use culet::model::check;
use culet::model::encoder::table::AUDIO_LINEARS;
use culet::model::encoder::table::VISION_LINEARS;
use culet::model::memory;
use culet::model::resolve;
use culet::model::text_tensors;
use culet::model::vision_tensors;

use crate::tiny;

fn text_file(h: &HParams, change: impl FnOnce(&mut Writer), keep: impl Fn(&str) -> bool) -> Gguf {
    let mut w = Writer::new();
    h.write(&mut w).unwrap();
    change(&mut w);
    tiny::add_all(&mut w, &text_tensors(h), keep);
    tiny::open(&tiny::bytes(w, &format!("text{:?}", std::thread::current().id()))).unwrap()
}

#[test]
fn a_text_model_is_read_as_written() {
    let h = tiny::text();
    let file = text_file(&h, |_| {}, |_| true);
    assert_eq!(HParams::read(&file).unwrap(), h);
    assert_eq!(Variant::name_of(&h), "custom");
    check(&file, &text_tensors(&h)).unwrap();
    assert_eq!(resolve(&file, &text_tensors(&h)).unwrap().len(), file.tensors().len());
}

#[test]
fn the_published_shapes_are_read_as_written() {
    for v in &culet::model::variant::VARIANTS {
        let h = v.hparams();
        let mut w = Writer::new();
        h.write(&mut w).unwrap();
        w.add_tensor("token_embd.weight", TensorType::TQ2_0, &[1536, 96]).unwrap();
        let file = tiny::open(&tiny::bytes(w, v.name)).unwrap();
        let read = HParams::read(&file).unwrap();
        assert_eq!(HParams { n_vocab: h.n_vocab, ..read }, h);
    }
}

#[test]
fn tensor_counts_are_those_of_the_public_files() {
    for (name, n, n_values) in [("E2B", 541, 4_628_569_344), ("E4B", 666, 7_463_013_376u64)] {
        let h = Variant::named(name).unwrap().hparams();
        let table = text_tensors(&h);
        let own_head = table.iter().filter(|t| t.name == "output.weight").count();
        assert_eq!(table.len() - own_head, n, "{name}");
        let count = |t: &TensorSpec| t.shape.iter().product::<u64>();
        // The reference counts neither generated tensors nor the layers' scalars as parameters.
        let counted = |t: &&TensorSpec| t.required && !t.name.ends_with("output_scale.weight");
        let sum: u64 = table.iter().filter(counted).map(count).sum();
        assert_eq!(sum, n_values, "{name}");
    }
}

/// Writes one key of a text model anew.
fn with_key(key: &'static str, value: Value<'static>) -> Gguf {
    let h = tiny::text();
    let whole = text_file(&h, |_| {}, |_| true);
    let mut w = Writer::new();
    for (old, v) in whole.metadata() {
        w.set(old, if old == key { value } else { v }).unwrap();
    }
    if !whole.has(key) {
        w.set(key, value).unwrap();
    }
    tiny::add_all(&mut w, &text_tensors(&h), |_| true);
    tiny::open(&tiny::bytes(w, key)).unwrap()
}

#[test]
fn wrong_values_are_named() {
    let n = Value::U32;
    let cases = [
        ("general.architecture", Value::Text(b"llama"), "architecture is \"llama\", expected"),
        ("general.architecture", Value::Text(b"clip"), "name it with --mmproj"),
        ("general.architecture", Value::Text(b"gemma4-assistant"), "it is a drafter"),
        ("split.count", n(3), "is one of 3 parts"),
        ("gemma4.expert_count", n(128), "has 128 experts"),
        ("gemma4.block_count", n(0), "gemma4.block_count is 0, expected 1 to 256"),
        ("gemma4.block_count", n(u32::MAX), "expected 1 to 256"),
        ("gemma4.block_count", n(5), "6 bool values, expected 5, one for each layer"),
        ("gemma4.embedding_length", n(0), "embedding_length is 0, expected 1 to 65536"),
        ("gemma4.embedding_length_per_layer_input", n(0), "has no per-layer embeddings"),
        ("gemma4.attention.head_count", n(3), "head_count_kv is 2 for layer 0, expected a divisor"),
        ("gemma4.attention.head_count_kv", n(0), "is 0 for layer 0, expected 1 to 256"),
        ("gemma4.attention.key_length", n(63), "key_length is 63, expected an even number"),
        ("gemma4.attention.value_length_swa", n(64), "is 64, expected 32 as for the keys"),
        ("gemma4.attention.sliding_window", n(0), "sliding_window is 0, expected 1 to 1048576"),
        ("gemma4.attention.shared_kv_layers", n(6), "is 6, expected less than the 6 layers"),
        ("gemma4.attention.shared_kv_layers", n(4), "layer 2 (Full) shares keys and values, but"),
        ("gemma4.rope.dimension_count", n(66), "dimension_count is 66, expected 2 to 64"),
        ("gemma4.rope.dimension_count_swa", n(31), "is 31, expected an even number"),
        ("gemma4.rope.freq_base", Value::F32(0.0), "freq_base is 0, expected a number above 0"),
        ("gemma4.rope.freq_base", Value::F32(f32::NAN), "is NaN, expected a finite number"),
        (
            "gemma4.attention.layer_norm_rms_epsilon",
            Value::F32(-1.0),
            "epsilon is -1, expected a number above 0",
        ),
        ("gemma4.final_logit_softcapping", Value::F32(-3.0), "softcapping is -3, expected"),
        ("gemma4.context_length", Value::Text(b"long"), "is a text of 4 bytes, expected a whole"),
        ("gemma4.attention.sliding_window_pattern", n(0), "expected a list or 1 to 6"),
    ];
    for (key, value, want) in cases {
        let e = HParams::read(&with_key(key, value)).unwrap_err();
        let text = e.to_string();
        assert!(text.starts_with("tiny.gguf: ") && text.contains(want), "{text} / {want}");
        assert!(matches!(e.kind(), ErrorKind::Format | ErrorKind::Unsupported), "{text}");
    }
}

#[test]
fn scalars_periods_and_zero_soft_caps_are_understood() {
    let file = with_key("gemma4.attention.head_count", Value::U64(4));
    assert_eq!(HParams::read(&file).unwrap(), tiny::text());
    let file = with_key("gemma4.attention.sliding_window_pattern", Value::I32(3));
    assert_eq!(HParams::read(&file).unwrap(), tiny::text());
    let file = with_key("gemma4.final_logit_softcapping", Value::F32(0.0));
    assert_eq!(HParams::read(&file).unwrap().logit_softcap, None);
}

#[test]
fn misfits_between_tensors_and_shapes_are_named() {
    let h = tiny::text();
    let missing = text_file(&h, |_| {}, |name| name != "blk.3.attn_q.weight");
    let turned = |w: &mut Writer| {
        w.add_tensor("blk.3.attn_q.weight", TensorType::Q8_0, &[128, 64]).unwrap();
    };
    let turned = text_file(&h, turned, |name| name != "blk.3.attn_q.weight");
    let half = |w: &mut Writer| {
        w.add_tensor("blk.0.attn_norm.weight", TensorType::F16, &[64]).unwrap();
    };
    let half = text_file(&h, half, |name| name != "blk.0.attn_norm.weight");
    let ints = |w: &mut Writer| {
        w.add_tensor("blk.0.proj.weight", TensorType::I8, &[32, 64]).unwrap();
    };
    let ints = text_file(&h, ints, |name| name != "blk.0.proj.weight");
    let cases = [
        (missing, "tiny.gguf: tensor blk.3.attn_q.weight is missing"),
        (turned, "tiny.gguf: tensor blk.3.attn_q.weight has shape [128, 64], expected [64, 128]"),
        (half, "tensor blk.0.attn_norm.weight has type F16, expected F32"),
        (ints, "tensor blk.0.proj.weight has type I8, expected a weight type"),
    ];
    for (file, want) in cases {
        assert_eq!(HParams::read(&file).unwrap(), h);
        let text = check(&file, &text_tensors(&h)).unwrap_err().to_string();
        assert!(text.contains(want), "{text} / {want}");
    }
    let bare = text_file(&h, |_| {}, |name| name != "token_embd.weight");
    let text = HParams::read(&bare).unwrap_err().to_string();
    assert!(text.contains("token_embd.weight is missing; it holds no weights"), "{text}");
    let words = |w: &mut Writer| {
        w.set_texts("tokenizer.ggml.tokens", (0..97).map(|i| format!("{i}"))).unwrap();
    };
    let text = HParams::read(&text_file(&h, words, |_| true)).unwrap_err().to_string();
    assert!(text.contains("tokenizer has 97 tokens, token_embd.weight has 96 rows"), "{text}");
}

#[test]
fn optional_tensors_may_be_absent_and_dead_ones_present() {
    let h = tiny::text();
    let optional = |name: &str| !["rope_freqs.weight", "output.weight"].contains(&name);
    let dead = |w: &mut Writer| {
        w.add_tensor("blk.4.attn_k.weight", TensorType::Q8_0, &[64, 64]).unwrap();
        w.add_tensor("blk.4.attn_v.weight", TensorType::Q8_0, &[64, 64]).unwrap();
        w.add_tensor("blk.4.attn_k_norm.weight", TensorType::F32, &[32]).unwrap();
    };
    let file = text_file(&h, dead, optional);
    check(&file, &text_tensors(&h)).unwrap();
    let found = resolve(&file, &text_tensors(&h)).unwrap();
    assert!(!found.contains_key("output.weight") && !found.contains_key("blk.4.attn_k.weight"));
    let parts = memory::parts(&file, Some(&h));
    let unused = parts.iter().find(|p| p.part == memory::Part::Unused).unwrap();
    assert_eq!((unused.n_tensors, unused.size_bytes), (3, 2 * 68 * 64 + 128));
    let sum: u64 = parts.iter().map(|p| p.size_bytes).sum();
    assert_eq!(sum, file.tensors().iter().map(|t| t.size_bytes as u64).sum::<u64>());
}

#[test]
fn rows_of_fused_tensors_stand_in_for_separate_ones() {
    let h = tiny::text();
    let (n_q, n_kv) = (h.layers[0].n_q() as u64, h.layers[0].n_kv() as u64);
    let full = &h.layers[2];
    let fuse = |w: &mut Writer| {
        let mut add = |name: &str, rows| {
            w.add_tensor(name, TensorType::Q8_0, &[64, rows]).unwrap();
        };
        add("blk.0.attn_qkv.weight", n_q + 2 * n_kv);
        add("blk.2.attn_kv.weight", 2 * full.n_kv() as u64);
        add("blk.5.ffn_gate_up.weight", 2 * 192);
    };
    let separate = |name: &str| {
        let fused = ["blk.0.attn_q.", "blk.0.attn_k.", "blk.0.attn_v.", "blk.2.attn_k."];
        let more = ["blk.2.attn_v.", "blk.5.ffn_gate.", "blk.5.ffn_up."];
        !fused.iter().chain(&more).any(|f| name.starts_with(f))
    };
    let file = text_file(&h, fuse, separate);
    let found = resolve(&file, &text_tensors(&h)).unwrap();
    let row_bytes = 68;
    let at = |name: &str, fused: &str| {
        let (part, whole) = (&found[name], file.tensor(fused).unwrap());
        assert_eq!(part.size_bytes as u64, part.shape[1] * row_bytes);
        assert!(part.range().end <= whole.range().end);
        (part.offset - whole.offset) as u64 / row_bytes
    };
    assert_eq!(at("blk.0.attn_q.weight", "blk.0.attn_qkv.weight"), 0);
    assert_eq!(at("blk.0.attn_k.weight", "blk.0.attn_qkv.weight"), n_q);
    assert_eq!(at("blk.0.attn_v.weight", "blk.0.attn_qkv.weight"), n_q + n_kv);
    assert_eq!(at("blk.2.attn_v.weight", "blk.2.attn_kv.weight"), full.n_kv() as u64);
    assert_eq!(at("blk.5.ffn_up.weight", "blk.5.ffn_gate_up.weight"), 192);
    assert_eq!(found["blk.5.ffn_gate.weight"].shape, [64, 192]);
}

/// Returns an mmproj file with the encoders asked for.
fn mmproj(vision: bool, audio: bool, change: impl FnOnce(&mut Writer)) -> Gguf {
    let h = tiny::encoders((vision, audio), TensorNames::Mmproj);
    let mut w = Writer::new();
    h.write(&mut w).unwrap();
    if vision {
        tiny::add_all(&mut w, &vision_tensors(&tiny::vision()), |name| !name.contains("std"));
    }
    if audio {
        let table = audio_tensors(&tiny::audio(), TensorNames::Mmproj);
        tiny::add_all(&mut w, &table, |_| true);
    }
    change(&mut w);
    let tag = format!("mmproj{:?}", std::thread::current().id());
    tiny::open(&tiny::bytes(w, &tag)).unwrap()
}

#[test]
fn encoders_are_read_alone_and_together() {
    for (vision, audio) in [(true, true), (true, false), (false, true)] {
        let file = mmproj(vision, audio, |_| {});
        assert!(EncoderHParams::present(&file));
        let h = EncoderHParams::read(&file, 64).unwrap();
        assert_eq!(h, tiny::encoders((vision, audio), TensorNames::Mmproj));
        if let Some(v) = &h.vision {
            check(&file, &vision_tensors(v)).unwrap();
        }
        if let Some(a) = &h.audio {
            check(&file, &audio_tensors(a, h.names)).unwrap();
        }
        let e = EncoderHParams::read(&file, 128).unwrap_err();
        assert!(e.to_string().contains("soft tokens of width 64, the model needs 128"), "{e}");
    }
}

#[test]
fn the_real_encoders_have_as_many_tensors_as_the_public_files() {
    let h = Variant::named("E2B").unwrap().encoders();
    let (v, a) = (h.vision.unwrap(), h.audio.unwrap());
    let clamps = |layers: usize, linears: &[&str]| layers * linears.len() * 4;
    let (vision, audio) = (vision_tensors(&v), audio_tensors(&a, h.names));
    let n_values = |t: &TensorSpec| t.shape.iter().product::<u64>();
    let sum = |table: &[TensorSpec]| table.iter().filter(|t| t.required).map(n_values).sum::<u64>();
    assert_eq!(sum(&vision), 167_364_608 + 1_179_648);
    assert_eq!(sum(&audio), 304_824_608 + 2_359_296);
    let vision = vision.iter().filter(|t| t.required).count() + clamps(16, &VISION_LINEARS);
    let audio = audio.len() + clamps(12, &AUDIO_LINEARS);
    assert_eq!((vision, audio), (659, 752));
}

#[test]
fn wrong_encoder_files_are_named() {
    let other = |w: &mut Writer| w.set_str("clip.projector_type", "mlp").unwrap();
    let mut text = Writer::new();
    text.set_str("general.architecture", "gemma4").unwrap();
    let mut wrong = Writer::new();
    wrong.set_str("general.architecture", "clip").unwrap();
    wrong.set("clip.has_vision_encoder", Value::Bool(true)).unwrap();
    other(&mut wrong);
    let mut unified = Writer::new();
    unified.set_str("general.architecture", "clip").unwrap();
    unified.set("clip.has_audio_encoder", Value::Bool(true)).unwrap();
    unified.set_str("clip.audio.projector_type", "gemma4ua").unwrap();
    let mut empty = Writer::new();
    empty.set_str("general.architecture", "clip").unwrap();
    empty.set("clip.has_audio_encoder", Value::Bool(true)).unwrap();
    empty.set_str("clip.audio.projector_type", "gemma4a").unwrap();
    for key in ["block_count", "embedding_length", "feed_forward_length"] {
        empty.set_u32(&format!("clip.audio.{key}"), 64).unwrap();
    }
    empty.set_u32("clip.audio.attention.head_count", 4).unwrap();
    let cases = [
        (text, "neither picture nor sound encoder"),
        (wrong, "projector_type is \"mlp\", expected \"gemma4v\""),
        (unified, "clip.audio.projector_type is \"gemma4ua\", expected \"gemma4a\""),
        (empty, "tensor a.conv1d.0.weight of the audio encoder is missing"),
    ];
    for (i, (w, want)) in cases.into_iter().enumerate() {
        let file = tiny::open(&tiny::bytes(w, &format!("wrong{i}"))).unwrap();
        let text = EncoderHParams::read(&file, 64).unwrap_err().to_string();
        assert!(text.contains(want), "{text} / {want}");
    }
}

#[test]
fn single_files_with_other_names_are_read() {
    let (h, v, a) = (tiny::text(), tiny::vision(), tiny::audio());
    let mut w = Writer::new();
    h.write(&mut w).unwrap();
    tiny::encoders((true, true), TensorNames::Ollama).write(&mut w).unwrap();
    tiny::add_all(&mut w, &text_tensors(&h), |_| true);
    tiny::add_all(&mut w, &vision_tensors(&v), |name| !name.contains("std"));
    tiny::add_all(&mut w, &audio_tensors(&a, TensorNames::Ollama), |_| true);
    let file = tiny::open(&tiny::bytes(w, "single")).unwrap();
    for name in ["mm.a.fc.bias", "a.blk.1.linear_pos.weight", "a.blk.1.layer_pre_norm.weight"] {
        assert!(file.tensor(name).is_some(), "{name}");
    }
    assert_eq!(HParams::read(&file).unwrap(), h);
    let e = EncoderHParams::read(&file, h.n_embd).unwrap();
    assert_eq!((e.vision, e.audio, e.names), (Some(v), Some(a.clone()), TensorNames::Ollama));
    let found = resolve(&file, &audio_tensors(&a, e.names)).unwrap();
    let at = |name: &str| file.tensor(name).unwrap().offset;
    assert_eq!(found["a.input_projection.weight"].offset, at("a.pre_encode.out.weight"));
    assert_eq!(found["a.pre_encode.out.weight"].offset, at("mm.a.fc.weight"));
    assert_eq!(found["a.blk.0.attn_post_norm.weight"].offset, at("a.blk.0.ln2.weight"));
    assert_eq!(found["a.blk.0.ln2.weight"].offset, at("a.blk.0.layer_pre_norm.weight"));
}

/// Writes a file of F32 vectors.
fn vectors(tag: &str, all: &[(&str, &[f32])]) -> Gguf {
    let mut w = Writer::new();
    w.set_items("unused", Items::F32(&[])).unwrap();
    for (name, values) in all {
        w.add_tensor(name, TensorType::F32, &[values.len() as u64]).unwrap();
    }
    let name = format!("culet-vectors-{}-{tag}.gguf", std::process::id());
    let path = std::env::temp_dir().join(name);
    let mut out = w.create(&path).unwrap();
    for (_, values) in all {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        out.append(&bytes).unwrap();
    }
    out.finish().unwrap();
    let file = Gguf::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

#[test]
fn clamps_are_read_from_scalars_and_from_the_packed_tensor() {
    let packed: Vec<f32> = (0..(2 * 7 + 1) * 4).map(|i| i as f32).collect();
    let mut zeroed = packed.clone();
    zeroed[4..8].fill(0.0);
    let file = vectors("packed", &[("v.clamp_data", &zeroed)]);
    let clamp = Clamp::read(&file, "v.blk.1.attn_out").unwrap();
    let first = (7 + 3) * 4;
    assert_eq!((clamp.input_min, clamp.output_max), (first as f32, first as f32 + 3.0));
    assert!(Clamp::read(&file, "v.blk.0.attn_k").unwrap().is_none());
    assert!(Clamp::read(&file, "v.blk.9.attn_k").unwrap().is_none());
    assert!(Clamp::read(&file, "a.blk.0.attn_k").unwrap().is_none());

    let some: [(&str, &[f32]); 2] = [("x.input_min", &[-2.0]), ("x.output_max", &[3.0])];
    let clamp = Clamp::read(&vectors("some", &some), "x").unwrap();
    assert_eq!((clamp.input_min, clamp.input_max), (-2.0, f32::INFINITY));
    assert_eq!((clamp.output_min, clamp.output_max), (f32::NEG_INFINITY, 3.0));

    let bad: [&[(&str, &[f32])]; 3] = [
        &[("x.input_min", &[1.0]), ("x.input_max", &[-1.0])],
        &[("x.input_min", &[f32::NAN])],
        &[("x.input_min", &[1.0, 2.0])],
    ];
    for (i, all) in bad.into_iter().enumerate() {
        let got = Clamp::read(&vectors(&format!("bad{i}"), all), "x");
        assert_eq!(got.unwrap_err().kind(), ErrorKind::Format, "case {i}");
    }
}

#[test]
fn block_sizes_equal_those_of_the_kernels() {
    for dtype in TensorType::all() {
        let kernel = DType::from_id(dtype.id()).unwrap();
        assert_eq!(kernel.block_len() as u64, dtype.block_len(), "{dtype}");
        assert_eq!(kernel.block_bytes() as u64, dtype.block_bytes(), "{dtype}");
        assert!(kernel.to_string().eq_ignore_ascii_case(dtype.name()), "{kernel} {dtype}");
    }
    let known = |id: &u32| DType::from_id(*id).is_ok();
    let n_known = (0..200).filter(known).count();
    assert_eq!(n_known, TensorType::all().count());
}

#[test]
fn converted_models_are_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures");
    let open = |name: &str| Gguf::open(&folder.join(name)).unwrap();
    for name in ["e2b", "e2b-q4_0", "e2b-q8_0", "e4b", "odd", "media"] {
        let file = open(&format!("{name}.gguf"));
        let h = HParams::read(&file).unwrap();
        let found = resolve(&file, &text_tensors(&h)).unwrap();
        let parts = memory::parts(&file, Some(&h));
        let unused = parts.iter().find(|p| p.part == memory::Part::Unused);
        let n_unused = unused.map_or(0, |p| p.n_tensors);
        assert_eq!(found.len() + n_unused, file.tensors().len(), "{name}");
    }
    let n_embd = HParams::read(&open("media.gguf")).unwrap().n_embd;
    let file = open("media-mmproj.gguf");
    let h = EncoderHParams::read(&file, n_embd).unwrap();
    let (vision, audio) = (h.vision.unwrap(), h.audio.unwrap());
    check(&file, &vision_tensors(&vision)).unwrap();
    check(&file, &audio_tensors(&audio, h.names)).unwrap();
    assert!(!Clamp::read(&file, "v.blk.0.attn_q").unwrap().is_none());
    assert!(!Clamp::read(&file, "a.blk.0.ffn_up_1").unwrap().is_none());
    let text = HParams::read(&file).unwrap_err().to_string();
    assert!(text.starts_with("media-mmproj.gguf: architecture is \"clip\""), "{text}");
}
