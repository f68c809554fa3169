//! Files made to be measured, packed files, and the report: `culet bench` and `culet pack`.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::sync::Arc;

use culet::ErrorKind;
use culet::TokenId;
use culet::decoder::Decoder;
use culet::decoder::Entry;
use culet::decoder::Executor;
use culet::decoder::ExecutorOptions;
use culet::decoder::KvOptions;
use culet::engine::Engine;
use culet::engine::EngineOptions;
use culet::ggml;
use culet::ggml::Backend;
use culet::ggml::BackendOptions;
use culet::ggml::DType;
use culet::gguf::Gguf;
use culet::gguf::Mapping;
use culet::model::HParams;
use culet::model::packed::KEY_LAYOUT;
use culet::model::packed::KEY_TENSORS;
use serde_json::json;

use crate::npy::relative_error;

/// The same weights; inputs are rounded to eight bits, and some fall to the other side when sums
/// are made in another order. A wrong row would make the difference as large as the values.
const PACKED: f64 = 5e-2;

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(tag: &str) -> Self {
        let path = std::env::temp_dir().join(format!("culet-{tag}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Returns a small model file of random weights.
    fn model(&self, quant: &str) -> PathBuf {
        let path = self.file(&format!("{quant}.gguf"));
        let what = format!("mini-{quant}");
        succeed(&["bench", "--synthesize", &what, path.to_str().unwrap()]);
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn culet(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_culet")).args(args).output().unwrap()
}

fn succeed(args: &[&str]) -> String {
    let output = culet(args);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {words}");
    String::from_utf8(output.stdout).unwrap()
}

fn pack(from: &Path, to: &Path) -> Output {
    culet(&["pack", from.to_str().unwrap(), to.to_str().unwrap()])
}

fn decoder(gguf: &Gguf) -> culet::Result<Arc<Decoder>> {
    let backend = Backend::new(&BackendOptions { n_threads: 1, gpu: None })?;
    Ok(Arc::new(Decoder::open(gguf, HParams::read(gguf)?, &backend)?))
}

/// Returns the logits after a prompt in two batches and after a single step.
fn logits(path: &Path) -> [Vec<f32>; 2] {
    let decoder = decoder(&Gguf::open(path).unwrap()).unwrap();
    let backend = BackendOptions { n_threads: 2, gpu: None };
    let kv = KvOptions { n_ctx: 128, n_batch: 16, dtype: DType::F32 };
    let mut run = Executor::new(&decoder, &ExecutorOptions { backend, kv }).unwrap();
    let entries: Vec<Entry<'_>> = (0..23).map(|i| Entry::Token(TokenId(600 + 71 * i))).collect();
    let prompt = run.append_with_logits(&entries, 1).unwrap().to_vec();
    let step = run.append_with_logits(&[Entry::Token(TokenId(777))], 1).unwrap().to_vec();
    [prompt, step]
}

#[test]
fn synthesized_models_load_and_answer_with_values_of_order_one() {
    let folder = Folder::new("synthesize");
    for quant in ["q4_0", "q8_0", "q4_k_m", "q3_k_m", "mobile", "bf16"] {
        let path = folder.model(quant);
        let engine = Engine::open(&path, None, &EngineOptions::default()).unwrap();
        let text = "the thought of <|turn> \u{4f60}";
        let ids = engine.tokenizer().encode(text).unwrap();
        assert!(ids.len() > 3, "{quant}");
        for row in logits(&path) {
            let n = row.len() as f32;
            let mean = row.iter().sum::<f32>() / n;
            let deviation = (row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n).sqrt();
            assert!((0.3..3.0).contains(&deviation), "{quant}: deviation {deviation}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn synthesized_encoders_belong_to_their_model() {
    let folder = Folder::new("encoders");
    let model = folder.model("q4_0");
    for quant in ["q8_0", "bf16"] {
        let mmproj = folder.file("mmproj.gguf");
        let what = format!("mini-mmproj-{quant}");
        succeed(&["bench", "--synthesize", &what, mmproj.to_str().unwrap()]);
        let engine = Engine::open(&model, Some(&mmproj), &EngineOptions::default()).unwrap();
        assert!(engine.sees() && engine.hears());
        assert!(engine.vision().is_ok() && engine.audio().is_ok(), "{quant}");
    }
}

#[test]
fn what_cannot_be_synthesized_is_named() {
    let folder = Folder::new("unknown");
    let path = folder.file("x.gguf");
    let output = culet(&["bench", "--synthesize", "e9b-q4_0", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("e9b-q4_0"));
    assert!(!path.exists());
}

#[test]
fn packed_models_answer_like_plain_ones() {
    let folder = Folder::new("pack");
    for quant in ["q4_0", "q8_0", "q4_k_m"] {
        let plain = folder.model(quant);
        let packed = folder.file("packed.gguf");
        let output = pack(&plain, &packed);
        let from = Gguf::open(&plain).unwrap();
        if !output.status.success() {
            let kinds = from.tensors().iter().map(|t| DType::from_id(t.dtype.id()).unwrap());
            for dtype in kinds {
                assert!(!ggml::packs(dtype, ggml::PACK_ROWS).unwrap(), "{quant}: {dtype}");
            }
            assert!(String::from_utf8_lossy(&output.stderr).contains("as they are"));
            continue;
        }
        let to = Gguf::open(&packed).unwrap();
        let names: Vec<&[u8]> = to.texts(KEY_TENSORS).unwrap().collect();
        assert!(names.contains(&b"blk.0.attn_q.weight".as_slice()), "{quant}");
        assert!(!names.contains(&b"token_embd.weight".as_slice()), "{quant}");
        assert_eq!(from.texts("tokenizer.ggml.tokens").unwrap().len(), 4096);
        assert!(to.texts("tokenizer.ggml.tokens").unwrap().len() == 4096);
        for info in from.tensors() {
            let other = to.tensor(&info.name).unwrap();
            let same = from.tensor_bytes(info) == to.tensor_bytes(other);
            assert_eq!(same, !names.contains(&info.name.as_bytes()), "{quant} {}", info.name);
        }
        for (a, b) in logits(&packed).iter().zip(&logits(&plain)) {
            let error = relative_error(a, b);
            assert!(error < PACKED, "{quant}: relative error {error:.2e}");
        }
        let again = pack(&packed, &folder.file("twice.gguf"));
        assert_eq!(again.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&again.stderr).contains("packed already"));
    }
}

#[test]
fn a_file_packed_for_another_machine_is_refused() {
    let folder = Folder::new("layout");
    let (plain, packed) = (folder.model("q4_0"), folder.file("packed.gguf"));
    if !pack(&plain, &packed).status.success() {
        return assert_eq!(ggml::layout_fingerprint(DType::Q4_0).unwrap(), None);
    }
    let mut bytes = std::fs::read(&packed).unwrap();
    let key = format!("{KEY_LAYOUT}{}", DType::Q4_0);
    let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).unwrap();
    // After the key come four bytes of its value's type.
    bytes[at + key.len() + 4] ^= 1;
    let mapping = Mapping::from_bytes("changed.gguf", &bytes).unwrap();
    let error = decoder(&Gguf::from_mapping(mapping).unwrap()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("packed for another"), "{error}");
}

/// Returns the multiply-adds of a prompt of `n` tokens whose last one is answered: layers that make
/// keys and values run for all, of the last of them only those products, and the rest for one.
fn multiply_adds(h: &HParams, n: usize) -> usize {
    /// Cells of the cache that are looked at, of which fewer are seen.
    const CELLS: usize = 256;
    let last = h.first_shared - 1;
    let layers = h.layers.iter().enumerate().map(|(i, l)| {
        let keys = if l.owns_kv { 2 * h.n_embd * l.n_kv() } else { 0 };
        let attention = 2 * h.n_embd * l.n_q() + 2 * CELLS * l.n_q();
        let rest = 3 * h.n_embd * l.n_ff + 3 * h.n_embd * h.n_embd_per_layer;
        let (of_keys, of_rest) = (if i <= last { n } else { 1 }, if i < last { n } else { 1 });
        of_keys * keys + of_rest * (attention + rest)
    });
    layers.sum::<usize>() + h.n_vocab * h.n_embd
}

#[test]
fn batches_and_caches_are_chosen_and_told() {
    let folder = Folder::new("choices");
    let model = folder.model("q4_0");
    let measured = |more: &[&str]| -> serde_json::Value {
        let sizes = ["--prefill", "40", "--depths", "32", "--repeat", "1", "--threads", "1"];
        let model = ["bench", "--model", model.to_str().unwrap(), "--json"];
        serde_json::from_str(&succeed(&[&model[..], &sizes, more].concat())).unwrap()
    };
    let value = |document: &serde_json::Value, case: &str| {
        let mut rows = document["rows"].as_array().unwrap().iter();
        rows.find(|r| r["case"] == case).unwrap()["culet"].as_f64().unwrap()
    };
    let (plain, chosen) = (measured(&[]), measured(&["--batch", "16", "--kv", "q8_0"]));
    assert_eq!([&plain["machine"]["batch"], &plain["machine"]["kv"]], [&json!(512), &json!("f16")]);
    assert_eq!(
        [&chosen["machine"]["batch"], &chosen["machine"]["kv"]],
        [&json!(16), &json!("q8_0")]
    );
    let ratio = value(&chosen, "token_cache_mib") / value(&plain, "token_cache_mib");
    assert!((ratio - 34.0 / 64.0).abs() < 1e-3, "{ratio}");
    // The cost of a prompt does not depend on the batches it is computed in.
    assert_eq!(value(&chosen, "prompt_mega_ops"), value(&plain, "prompt_mega_ops"));
    let both = culet(&["bench", "--peer", "--kv", "q8_0"]);
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn the_report_has_its_promised_form() {
    let folder = Folder::new("report");
    let (model, csv) = (folder.model("q4_0"), folder.file("rows.csv"));
    let [model, csv_name] = [&model, &csv].map(|p| p.to_str().unwrap());
    let arguments = ["bench", "--model", model, "--json", "--csv", csv_name, "--threads", "1"];
    let sizes = ["--prefill", "8,16", "--depths", "0,32", "--repeat", "2"];
    let text = succeed(&[&arguments[..], &sizes[..]].concat());
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys: Vec<&String> = document.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["machine", "rows"]);
    let rows = document["rows"].as_array().unwrap();
    for row in rows {
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["case", "n", "depth", "culet", "peer", "ratio", "spread"]);
        assert!(row["peer"].is_null() && row["ratio"].is_null(), "{row}");
        let value = &row["culet"];
        assert!(value.is_null() || value.as_f64().unwrap() >= 0.0, "{row}");
    }
    let n_of = |case: &str| rows.iter().filter(|r| r["case"] == case).count();
    let twice = ["prefill", "arithmetic_share", "decode", "bandwidth_share", "token_cache_mib"];
    assert_eq!(twice.map(n_of), [2; 5]);
    let once = ["open_ms", "first_token_ms", "rss_anon_mib", "rss_file_mib", "token_weights_mib"];
    assert_eq!(once.map(n_of), [1; 5]);
    let once = ["arithmetic_gops", "bandwidth_gb_s", "major_faults_cold", "open_cold_ms"];
    assert_eq!(once.map(n_of), [1; 4]);
    assert_eq!(["rss_anon_media_mib", "picture_ms", "sound_rtf"].map(n_of), [0; 3]);
    for case in ["arithmetic_share", "bandwidth_share", "arithmetic_gops", "bandwidth_gb_s"] {
        let mut of = rows.iter().filter(|r| r["case"] == case);
        assert!(of.all(|r| r["culet"].as_f64().unwrap() > 0.0), "{case}: {document}");
    }
    for case in ["snapshot_first_token_ms", "prompt_first_token_ms"] {
        let row = rows.iter().find(|r| r["case"] == case).unwrap();
        assert!(row["n"].as_u64().unwrap() >= 1024 && row["culet"].is_f64(), "{row}");
    }
    #[cfg(target_os = "linux")]
    assert!(rows.iter().all(|r| r["case"] != "major_faults" || r["culet"].is_f64()), "{document}");
    let h = HParams::read(&Gguf::open(Path::new(model)).unwrap()).unwrap();
    let value =
        |case: &str| rows.iter().find(|r| r["case"] == case).unwrap()["culet"].as_f64().unwrap();
    for (case, n) in [("prompt_mega_ops", 8), ("token_mega_ops", 1)] {
        let (got, want) = (value(case), multiply_adds(&h, n) as f64 / 1e6);
        // Five digits are written.
        assert!((got - want).abs() < 1e-4 * want, "{case}: {got}, expected {want}");
    }
    assert!(value("token_nodes") < 30.0 * h.layers.len() as f64, "{document}");
    let lines = std::fs::read_to_string(&csv).unwrap();
    assert_eq!(lines.lines().count(), 1 + rows.len());
    assert!(lines.lines().next().unwrap().ends_with(",streamed,samples"), "{lines}");
    let samples = |case: &str| {
        let row = lines.lines().find(|line| line.contains(&format!(",warm,{case},"))).unwrap();
        row.rsplit(',').next().unwrap().to_owned()
    };
    assert_eq!(["prefill", "decode", "open_ms", "rss_file_mib"].map(samples), ["2", "2", "2", "1"]);
    assert!(lines.lines().skip(1).all(|line| line.contains(",cpu,")), "{lines}");
}

#[test]
fn media_are_measured_with_what_memory_they_take() {
    let words = ["bench", "--json", "--threads", "1", "--repeat", "1"];
    let sizes = ["--prefill", "8", "--depths", "0", "--pictures", "70"];
    let peer: &[&str] = if cfg!(feature = "reference") { &["--peer"] } else { &[] };
    let text = succeed(&[&words[..], &sizes[..], peer].concat());
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rows = document["rows"].as_array().unwrap();
    for case in ["picture_ms", "sound_rtf", "rss_anon_media_mib"] {
        let row = rows.iter().find(|r| r["case"] == case).unwrap();
        let is_there = !cfg!(target_os = "linux") && case.contains("rss") || row["culet"].is_f64();
        assert!(is_there, "{row}");
    }
    let media = rows.iter().find(|r| r["case"] == "rss_anon_media_mib").unwrap();
    assert_eq!((media["n"].as_u64(), media["depth"].as_u64()), (Some(70), Some(4096)));
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    let output = culet(&["bench", "--gpu=no-such-gpu", "--prefill", "8", "--depths", "0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("GPU"));
}

#[cfg(feature = "reference")]
#[test]
fn the_peer_loads_synthesized_models_and_answers_alike() {
    let folder = Folder::new("peer");
    let agree = |what: &str, files: &[&str]| {
        let sizes = ["--prefill", "8", "--depths", "0", "--repeat", "1", "--threads", "1"];
        let text = succeed(&[&["bench", "--json", "--peer"], files, &sizes].concat());
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        for case in ["prefill", "decode", "open_ms", "first_token_ms", "snapshot_first_token_ms"] {
            let rows = document["rows"].as_array().unwrap();
            let row = rows.iter().find(|r| r["case"] == case).unwrap();
            // Empty if the answers differed.
            assert!(row["ratio"].as_f64().unwrap() > 0.0, "{what}: {row}");
        }
    };
    for quant in ["q8_0", "q4_k_m", "mobile"] {
        agree(quant, &["--model", folder.model(quant).to_str().unwrap()]);
    }
    // Where nothing is gained by packing, both read the plain file.
    let (plain, packed) = (folder.model("q4_0"), folder.file("packed.gguf"));
    let ours = if pack(&plain, &packed).status.success() { &packed } else { &plain };
    let files = ["--model", ours.to_str().unwrap(), "--peer-model", plain.to_str().unwrap()];
    agree("packed", &files);
    assert_eq!(culet(&["bench", "--peer-model", "plain.gguf"]).status.code(), Some(2));
}

#[test]
fn a_soak_needs_a_sound_and_a_model_that_hears() {
    let missing = culet(&["bench", "--soak", "no-such.flac"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no-such.flac"));
    let deaf =
        culet(&["bench", "--soak", "no-such.flac", "--model", "models/tiny/culet-tiny-q4_0.gguf"]);
    assert_eq!(deaf.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&deaf.stderr).contains("--mmproj"));
}

#[test]
fn speech_is_measured_streamed_and_whole() {
    let words =
        ["bench", "--voice", "--json", "--seconds", "1,2", "--repeat", "2", "--threads", "1"];
    let peer: &[&str] = if cfg!(feature = "reference") { &["--peer"] } else { &[] };
    let document: serde_json::Value =
        serde_json::from_str(&succeed(&[&words[..], peer].concat())).unwrap();
    let rows = document["rows"].as_array().unwrap();
    let of = |case: &str| rows.iter().filter(|row| row["case"] == case).collect::<Vec<_>>();
    let is_measured = |row: &serde_json::Value| row["culet"].as_f64().is_some_and(|v| v >= 0.0);
    let ends = of("speech_end_ms");
    let kinds: Vec<_> =
        ends.iter().map(|r| (r["seconds"].as_u64(), r["streamed"].as_bool())).collect();
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(kinds, [(Some(1), yes), (Some(1), no), (Some(2), yes), (Some(2), no)]);
    assert!(ends.iter().all(|row| is_measured(row) && row["peer"].is_f64() != peer.is_empty()));
    assert_eq!(of("stream_rtf").len(), 2);
    let parts = ["speech_end_encode_ms", "speech_end_sample_ms"].map(of);
    assert!(parts.iter().all(|rows| rows.len() == 1 && is_measured(rows[0])), "{document}");
    let idle = of("idle_cpu_percent");
    assert!(!cfg!(target_os = "linux") || idle.len() == 1 && is_measured(idle[0]), "{document}");
}
