//! A GPU computes what the processor does: text, sound and pictures, whole or layer by layer.
//!
//! Only built with a feature for GPUs, and needs one: `cross/vulkan.py` runs these tests on a
//! Vulkan driver made of software.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use culet::TokenId;
use culet::decoder;
use culet::decoder::Decoder;
use culet::decoder::Entry;
use culet::decoder::Executor;
use culet::decoder::KvOptions;
use culet::encoder::AudioEncoder;
use culet::encoder::AudioStream;
use culet::encoder::SoftTokens;
use culet::engine::Engine;
use culet::engine::EngineOptions;
use culet::frontend::MelFrames;
use culet::ggml::Backend;
use culet::ggml::BackendOptions;
use culet::ggml::DType;
use culet::ggml::check_gpu;
use culet::gguf::Gguf;
use culet::model::AudioWeights;
use culet::model::EncoderHParams;
use culet::model::HParams;
use culet::sampler::SamplingOptions;
use culet::session::Session;
use culet::session::SessionOptions;
use culet::source::SoundFile;
use culet::source::image_file;
use culet::text::Conversation;

use crate::npy;
use crate::npy::relative_error;

/// Products of a GPU round to half precision where the processor does not.
const HALF: f64 = 1e-2;
/// The same where the processor rounds activations to 8 bits.
const QUANT: f64 = 5e-2;
const N_TOKENS: usize = 40;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> PathBuf {
    root().join("models/fixtures").join(name)
}

fn tiny_model() -> PathBuf {
    root().join("models/tiny/culet-tiny-q4_0.gguf")
}

fn backend(gpu: bool) -> Backend {
    let gpu = gpu.then(String::new);
    Backend::new(&BackendOptions { n_threads: 2, gpu }).unwrap()
}

/// Opens a model with at most this much of it on the GPU; `None` means none at all.
fn executor(path: &Path, gpu_bytes: Option<u64>, n_batch: usize, dtype: DType) -> Executor {
    let gguf = Gguf::open(path).unwrap();
    let hparams = HParams::read(&gguf).unwrap();
    let mut backend = backend(gpu_bytes.is_some());
    if let Some(most) = gpu_bytes {
        backend.set_gpu_bytes_max(most);
    }
    let decoder = Arc::new(Decoder::open(&gguf, hparams, &backend).unwrap());
    let kv = KvOptions { n_ctx: 256, n_batch, dtype };
    Executor::with_backend(&decoder, kv, backend).unwrap()
}

fn entries(n_vocab: usize) -> Vec<Entry<'static>> {
    (0..N_TOKENS).map(|i| Entry::Token(TokenId((i * 37 % n_vocab) as u32))).collect()
}

/// Returns the logits of every position.
fn logits(run: &mut Executor) -> Vec<f32> {
    let entries = entries(run.decoder().hparams().n_vocab);
    run.append_with_logits(&entries, entries.len()).unwrap().to_vec()
}

#[test]
fn a_gpu_computes_the_logits_of_the_processor() {
    for (name, tolerance) in [
        ("e2b.gguf", HALF),
        ("e4b.gguf", HALF),
        ("odd.gguf", HALF),
        ("e2b-q8_0.gguf", QUANT),
        ("e2b-q4_0.gguf", QUANT),
    ] {
        let expected = logits(&mut executor(&fixture(name), None, 64, DType::F16));
        for n_batch in [64, 7, 1] {
            let mut run = executor(&fixture(name), Some(u64::MAX), n_batch, DType::F16);
            let share = run.decoder().weights().gpu_share;
            assert_eq!(share.n_layers, run.decoder().hparams().layers.len(), "{name}");
            assert!(share.has_head && share.size_bytes > 0, "{name}: {share:?}");
            let error = relative_error(&logits(&mut run), &expected);
            println!("{name}, batches of {n_batch}: relative error {error:.1e}");
            assert!(error < tolerance, "{name}, batches of {n_batch}: relative error {error:.1e}");
        }
    }
}

/// Compares logits over a cache of this type. A driver made of software takes long to compile the
/// shaders of each type, width of heads and batch; so a type is a test and one batch.
fn check_cache(dtype: DType, tolerance: f64) {
    // Its heads are whole blocks of every type.
    let path = tiny_model();
    let expected = logits(&mut executor(&path, None, 64, dtype));
    let got = logits(&mut executor(&path, Some(u64::MAX), 64, dtype));
    let error = relative_error(&got, &expected);
    println!("cache of {dtype}: relative error {error:.1e}");
    assert!(error < tolerance, "cache of {dtype}: relative error {error:.1e}");
}

#[test]
fn a_cache_of_f16_lies_on_a_gpu() {
    check_cache(DType::F16, QUANT);
}

#[test]
fn a_cache_of_f32_lies_on_a_gpu() {
    check_cache(DType::F32, QUANT);
}

#[test]
fn a_cache_of_q8_0_lies_on_a_gpu() {
    check_cache(DType::Q8_0, QUANT);
}

#[test]
fn a_cache_of_q4_0_lies_on_a_gpu() {
    // Values near a border are rounded to different steps.
    check_cache(DType::Q4_0, 0.2);
}

#[test]
fn layers_beyond_the_budget_stay_with_the_processor() {
    let path = fixture("e2b.gguf");
    let expected = logits(&mut executor(&path, None, 16, DType::F16));
    let whole = executor(&path, Some(u64::MAX), 16, DType::F16);
    let (all, h) = (whole.decoder().weights().gpu_share, whole.decoder().hparams().clone());
    let mut counts = Vec::new();
    for part in 0..=48 {
        let most = all.size_bytes * part / 48;
        let mut run = executor(&path, Some(most), 16, DType::F16);
        let share = run.decoder().weights().gpu_share;
        assert!(share.size_bytes <= most && share.n_layers <= h.layers.len());
        if counts.last() == Some(&share.n_layers) {
            continue;
        }
        counts.push(share.n_layers);
        let error = relative_error(&logits(&mut run), &expected);
        println!("{} layers on the GPU: relative error {error:.1e}", share.n_layers);
        assert!(error < HALF, "{} layers on the GPU: relative error {error:.1e}", share.n_layers);
    }
    assert_eq!(counts.first(), Some(&0), "{counts:?}");
    assert_eq!(counts.last(), Some(&h.layers.len()), "{counts:?}");
    // Some reader of a cache lay on the other side than its owner.
    let split =
        |&n: &usize| h.layers.iter().enumerate().any(|(il, l)| (il < n) != (l.kv_source < n));
    assert!(counts.iter().any(split), "{counts:?}");
}

#[test]
fn a_saved_cache_goes_on_across_a_split() {
    let path = fixture("e2b.gguf");
    let whole = executor(&path, Some(u64::MAX), 16, DType::F16);
    let (all, h) = (whole.decoder().weights().gpu_share, whole.decoder().hparams().clone());
    let budgets = (1..48).map(|part| all.size_bytes * part / 48);
    let is_split = |most: &u64| {
        let n = executor(&path, Some(*most), 16, DType::F16).decoder().weights().gpu_share.n_layers;
        h.layers.iter().enumerate().any(|(il, l)| (il < n) != (l.kv_source < n))
    };
    let most = budgets.into_iter().find(is_split).unwrap();
    let tokens = entries(h.n_vocab);
    let (first, rest) = tokens.split_at(N_TOKENS / 2);
    let mut run = executor(&path, Some(most), 16, DType::F16);
    run.append(first).unwrap();
    let mut saved = Vec::new();
    let mut sink = |bytes: &[u8]| {
        saved.extend_from_slice(bytes);
        Ok(())
    };
    run.kv().save(&mut sink).unwrap();
    let (n_past, n_written) = (run.kv().n_past(), run.kv().n_written());
    let expected = run.append_with_logits(rest, rest.len()).unwrap().to_vec();
    for budget in [Some(most), Some(u64::MAX), None] {
        let mut other = executor(&path, budget, 16, DType::F16);
        let mut place = 0;
        let mut source = |out: &mut [u8]| {
            out.copy_from_slice(&saved[place..place + out.len()]);
            place += out.len();
            Ok(())
        };
        other.kv_mut().load(n_past, n_written, &mut source).unwrap();
        let got = other.append_with_logits(rest, rest.len()).unwrap();
        let error = relative_error(got, &expected);
        assert!(error < HALF, "budget {budget:?}: relative error {error:.1e}");
    }
}

fn options(gpu: Option<&str>) -> EngineOptions {
    let backend = BackendOptions { n_threads: 2, gpu: gpu.map(str::to_owned) };
    EngineOptions { backend, ..EngineOptions::default() }
}

fn tiny(options: &EngineOptions) -> Arc<Engine> {
    let mmproj = root().join("models/tiny/mmproj-culet-tiny-q8_0.gguf");
    Engine::open(&tiny_model(), Some(&mmproj), options).unwrap()
}

/// Returns the logits after a prompt about text, a sound or a picture, and the soft tokens.
fn asked(engine: &Arc<Engine>, kind: &str) -> (Vec<f32>, Vec<f32>) {
    let sampling = SamplingOptions::greedy();
    let session = SessionOptions { n_ctx: 512, n_batch: 64, kv: DType::F16, sampling };
    let mut session = Session::new(engine, &session).unwrap();
    let media = root().join("tests/golden/media");
    let encoded = match kind {
        "audio" => {
            let sound = SoundFile::open(&media.join("sound.wav")).unwrap();
            vec![session.encode_sound(sound).unwrap()]
        }
        "image" => {
            let frame = image_file::open(&media.join("pictures/rgb_50x30.png")).unwrap();
            vec![session.encode_picture(&frame, 70).unwrap()]
        }
        _ => Vec::new(),
    };
    let mut parts = vec![serde_json::json!({"type": "text", "text": "What is it?"})];
    if !encoded.is_empty() {
        parts.insert(0, serde_json::json!({"type": kind}));
    }
    let json = serde_json::json!({"messages": [{"role": "user", "content": parts}]});
    session.prompt(&Conversation::from_json(&json).unwrap(), &encoded).unwrap();
    let soft = encoded.iter().flat_map(|e| e.segments()).flat_map(|s| s.data.clone()).collect();
    (session.logits().to_vec(), soft)
}

#[test]
fn text_sound_and_picture_of_the_tiny_model_equal_the_processors() {
    let (alone, with_gpu) = (tiny(&options(None)), tiny(&options(Some(""))));
    assert_eq!(with_gpu.options().backend.gpu.as_deref(), Some(""), "the GPU failed its check");
    let share = with_gpu.decoder().weights().gpu_share;
    assert!(share.has_head, "{share:?}");
    for kind in ["text", "audio", "image"] {
        let (expected, soft_expected) = asked(&alone, kind);
        let (got, soft) = asked(&with_gpu, kind);
        let (error, soft_error) =
            (relative_error(&got, &expected), relative_error(&soft, &soft_expected));
        println!("{kind}: relative error {error:.1e}, of soft tokens {soft_error:.1e}");
        assert!(error < QUANT && soft_error < QUANT, "{kind}: {error:.1e}, {soft_error:.1e}");
    }
}

/// Binds a sound encoder with at most this much of it on the GPU; `None` means none at all.
fn hearer(name: &str, n_embd: usize, gpu_bytes: Option<u64>) -> (AudioWeights, Backend) {
    let file = Gguf::open(&root().join(name)).unwrap();
    let hparams = EncoderHParams::read(&file, n_embd).unwrap();
    let mut backend = backend(gpu_bytes.is_some());
    if let Some(most) = gpu_bytes {
        backend.set_gpu_bytes_max(most);
    }
    let owner = file.mapping().clone();
    (AudioWeights::bind(&file, owner, &hparams, &backend).unwrap(), backend)
}

/// Encodes 149 frames in packets of `n`, from a guessed end in the middle that was taken back.
fn heard((weights, backend): &mut (AudioWeights, Backend), n: usize) -> SoftTokens {
    let encoder = AudioEncoder::new(weights.clone()).unwrap();
    let mut stream = AudioStream::new(&encoder, backend).unwrap();
    let mel = npy::read(&root().join("tests/golden/media/sound_mel.npy")).values;
    let mel = &mel[..149 * 128];
    let mut tokens = SoftTokens::default();
    for (i, packet) in mel.chunks(n * 128).enumerate() {
        let frames = MelFrames { data: packet.to_vec(), n: packet.len() / 128 };
        tokens.append(&stream.push(&frames, backend).unwrap());
        if i == 1 {
            let kept = stream.snapshot();
            stream.finish(backend).unwrap();
            stream.restore(&kept).unwrap();
        }
    }
    tokens.append(&stream.finish(backend).unwrap());
    tokens
}

#[test]
fn sounds_are_encoded_on_a_gpu_if_they_fit() {
    for (name, n_embd, tolerance) in [
        ("models/fixtures/media-mmproj.gguf", 32, HALF),
        ("models/tiny/mmproj-culet-tiny-q8_0.gguf", 192, QUANT),
    ] {
        let expected = heard(&mut hearer(name, n_embd, None), 149);
        let mut whole = hearer(name, n_embd, Some(u64::MAX));
        let size = whole.0.gpu_bytes;
        assert!(size > 0, "{name}: nothing lies on the GPU");
        let got = heard(&mut whole, 149);
        let error = relative_error(&got.data, &expected.data);
        println!("{name}: relative error {error:.1e}");
        assert!(error < tolerance, "{name}: relative error {error:.1e}");
        assert!(heard(&mut whole, 50) == got, "{name}: packets of 50 frames");
        for (most, wanted) in [(size, size), (size - 1, 0)] {
            let mut part = hearer(name, n_embd, Some(most));
            assert_eq!(part.0.gpu_bytes, wanted, "{name}");
            let wanted = if wanted > 0 { &got } else { &expected };
            assert!(heard(&mut part, 149) == *wanted, "{name}: budget of {most} bytes");
        }
    }
}

#[test]
fn every_kind_of_model_passes_the_check_of_first_use() {
    let fixtures = ["e2b.gguf", "odd.gguf", "e2b-q8_0.gguf"].map(fixture);
    for path in fixtures.into_iter().chain([tiny_model()]) {
        let gguf = Gguf::open(&path).unwrap();
        let hparams = HParams::read(&gguf).unwrap();
        let mut backend = backend(true);
        let sample = decoder::gpu_sample(&gguf, &hparams).unwrap();
        assert!(!sample.weights.is_empty() && !sample.heads.is_empty(), "{}", path.display());
        check_gpu(&sample, &mut backend).unwrap();
    }
}

#[test]
fn a_gpu_is_named_or_numbered() {
    let name = backend(true).gpu_info().unwrap().name.clone();
    for wanted in [name.as_str(), "0", "auto", "largest"] {
        assert!(Backend::new(&options(Some(wanted)).backend).is_ok(), "{wanted}");
    }
    let error = Backend::new(&options(Some("no such card")).backend).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains(&format!("0: {name} (")), "{error}");
}

#[test]
fn weights_on_a_gpu_are_not_used_without_it() {
    let path = fixture("e2b.gguf");
    let run = executor(&path, Some(u64::MAX), 16, DType::F16);
    let kv = KvOptions { n_ctx: 64, n_batch: 16, dtype: DType::F16 };
    let refused = Executor::with_backend(run.decoder(), kv, backend(false)).map(|_| ());
    assert!(refused.unwrap_err().to_string().contains("this backend"));
}
