//! Every way of computing a prompt and its answer stays close to the plain full graph.
//!
//! In: the small model that ships, whose heads are whole blocks of every type of cache. The plain
//! way: all logits of the prompt in one batch, over a cache in float32, from unpacked weights.
//! Out: last logits and greedy answers of the other ways.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use culet::ErrorKind;
use culet::Pcm;
use culet::decoder::Executor;
use culet::decoder::ExecutorOptions;
use culet::decoder::KvOptions;
use culet::engine::Engine;
use culet::engine::EngineOptions;
use culet::ggml;
use culet::ggml::BackendOptions;
use culet::ggml::DType;
use culet::gguf::TensorType;
use culet::model::memory;
use culet::model::memory::KvShape;
use culet::session::Session;
use culet::session::SessionOptions;

use crate::npy::relative_error;
use crate::parity::best;
use crate::parity::entries;

/// The same maths in another order: activations near a border are rounded to other 8-bit steps.
const ORDER: f64 = 1e-2;
/// A cache of 16-bit floats against one of 32 bits, and the same.
const HALF_CACHE: f64 = 2e-2;
/// A cache of 8 bits a value.
const BYTE_CACHE: f64 = 5e-2;
/// A cache of 4 bits a value.
const NIBBLE_CACHE: f64 = 0.5;
/// Tokens of an answer that are compared.
const N_ANSWER: usize = 16;
const N_CTX: usize = 768;

/// Questions whose answers the model is sure of, each behind the ones before it: together longer
/// than its sliding window.
const QUESTIONS: [&str; 4] = [
    "What is the capital of Italy?",
    "Turn on the lamp in the kitchen.",
    "How many days are in a week?",
    "What is the opposite of hot?",
];

fn one_thread() -> EngineOptions {
    let backend = BackendOptions { n_threads: 1, gpu: None };
    EngineOptions { backend, ..EngineOptions::default() }
}

fn executor(engine: &Engine, n_batch: usize, dtype: DType) -> Executor {
    let backend = BackendOptions { n_threads: 1, gpu: None };
    let kv = KvOptions { n_ctx: N_CTX, n_batch, dtype };
    Executor::new(engine.decoder(), &ExecutorOptions { backend, kv }).unwrap()
}

/// Answers greedily behind a prompt; `kept` rows of the prompt's logits are made. Returns the last
/// and the answer.
fn answer(run: &mut Executor, prompt: &[u32], kept: usize) -> (Vec<f32>, Vec<u32>) {
    let n_vocab = run.decoder().hparams().n_vocab;
    let rows = run.append_with_logits(&entries(prompt), kept).unwrap();
    let last = rows[rows.len() - n_vocab..].to_vec();
    let mut ids = vec![best(&last)];
    while ids.len() < N_ANSWER {
        let next = [ids[ids.len() - 1]];
        ids.push(best(run.append_with_logits(&entries(&next), 1).unwrap()));
    }
    (last, ids)
}

fn prompts(engine: &Engine) -> Vec<Vec<u32>> {
    let mut text = "<bos>".to_owned();
    let mut prompts: Vec<Vec<u32>> = Vec::new();
    for question in QUESTIONS.into_iter().cycle().take(16) {
        text += &format!("<|turn>user\n{question}<turn|>\n<|turn>model\n");
        let ids = engine.tokenizer().encode_with_markers(&text).unwrap();
        prompts.push(ids.iter().map(|id| id.0).collect());
        text += "I see.<turn|>\n";
    }
    let window = engine.decoder().hparams().window;
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    assert!(lengths[0] < window && *lengths.last().unwrap() > window, "{lengths:?}, {window}");
    // The shortest, one about as long as the window, and the longest.
    let middle = prompts.iter().position(|p| p.len() > window).unwrap();
    [0, middle, prompts.len() - 1].map(|i| prompts[i].clone()).to_vec()
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/culet-tiny-q4_0.gguf")
}

#[test]
fn every_way_of_computing_stays_close_to_the_plain_full_graph() {
    let engine = Engine::open(&tiny(), None, &one_thread()).unwrap();
    for prompt in prompts(&engine) {
        let n = prompt.len();
        let plain = answer(&mut executor(&engine, n, DType::F32), &prompt, n);
        let ways = [
            ("producers only", n, DType::F32, ORDER),
            ("batches of 64", 64, DType::F32, ORDER),
            ("batches of 7", 7, DType::F32, ORDER),
            ("a cache of f16", 512, DType::F16, HALF_CACHE),
            ("a cache of f16 in batches of 7", 7, DType::F16, HALF_CACHE),
            ("a cache of q8_0", 512, DType::Q8_0, BYTE_CACHE),
            ("a cache of q4_0", 512, DType::Q4_0, NIBBLE_CACHE),
        ];
        for (way, n_batch, dtype, tolerance) in ways {
            let (last, ids) = answer(&mut executor(&engine, n_batch, dtype), &prompt, 1);
            let error = relative_error(&last, &plain.0);
            assert!(error < tolerance, "{n} tokens, {way}: relative error {error:.1e}");
            assert_eq!(ids, plain.1, "{n} tokens, {way}");
        }
    }
}

#[test]
fn packed_weights_answer_like_plain_ones() {
    let packed = format!("culet-plans-{}.gguf", std::process::id());
    let packed = std::env::temp_dir().join(packed);
    let mut pack = Command::new(env!("CARGO_BIN_EXE_culet"));
    let output = pack.arg("pack").arg(tiny()).arg(&packed).output().unwrap();
    let can = ggml::packs(DType::Q4_0, ggml::PACK_ROWS).unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.success(), can, "{words}");
    if !can {
        assert!(words.contains("as they are"), "{words}");
        return;
    }
    let engine = Engine::open(&tiny(), None, &one_thread()).unwrap();
    let other = Engine::open(&packed, None, &one_thread()).unwrap();
    std::fs::remove_file(&packed).unwrap();
    for prompt in prompts(&engine) {
        let n = prompt.len();
        let plain = answer(&mut executor(&engine, n, DType::F32), &prompt, n);
        for (n_batch, dtype) in [(512, DType::F32), (7, DType::F16)] {
            let (last, ids) = answer(&mut executor(&other, n_batch, dtype), &prompt, 1);
            let error = relative_error(&last, &plain.0);
            assert!(error < HALF_CACHE, "{n} tokens: relative error {error:.1e}");
            assert_eq!(ids, plain.1, "{n} tokens");
        }
    }
}

#[test]
fn what_the_memory_limit_counts_is_enough() {
    let engine = Engine::open(&tiny(), None, &one_thread()).unwrap();
    let h = engine.decoder().hparams();
    for (n_ctx, n_batch) in [(N_CTX, 512), (4096, 512), (4096, 64), (4096, 4)] {
        let shape = KvShape { n_ctx, n_batch, dtype: TensorType::F16 };
        let counted = memory::compute_bytes(h, &shape);
        let backend = BackendOptions { n_threads: 1, gpu: None };
        let kv = KvOptions { n_ctx, n_batch, dtype: DType::F16 };
        let mut run = Executor::new(engine.decoder(), &ExecutorOptions { backend, kv }).unwrap();
        let ids: Vec<_> = (0..n_ctx as u32 - 1).map(|i| i % 97 + 300).collect();
        // The last batch looks at every cell.
        run.append_with_logits(&entries(&ids), 1).unwrap();
        run.append_with_logits(&entries(&ids[..1]), 1).unwrap();
        let taken = run.compute_bytes() as u64;
        assert!(taken <= counted, "{n_ctx} in batches of {n_batch}: {taken}, {counted} counted");
    }
}

#[test]
fn a_sound_counts_against_the_memory_limit() {
    let mmproj = tiny().with_file_name("mmproj-culet-tiny-q8_0.gguf");
    let shape = KvShape { n_ctx: 512, n_batch: 64, dtype: TensorType::F16 };
    let pcm = Pcm { samples: vec![0.1; 8000], rate_hz: 16_000, captured_at_ns: 0 };
    let heard = |more: u64| {
        let engine = Engine::open(&tiny(), Some(&mmproj), &one_thread()).unwrap();
        let h = engine.decoder().hparams();
        let kv = memory::kv_size(h, &shape).unwrap().total_bytes();
        let bare = engine.weight_bytes() + kv + memory::compute_bytes(h, &shape);
        let limit = EngineOptions { memory_bytes_max: Some(bare + more), ..one_thread() };
        let engine = Engine::open(&tiny(), Some(&mmproj), &limit).unwrap();
        let options = SessionOptions { n_ctx: 512, n_batch: 64, ..SessionOptions::default() };
        Session::new(&engine, &options).unwrap().encode_sound([Ok(pcm.clone())])
    };
    let error = heard(0).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Memory);
    assert!(error.to_string().starts_with("a sound: 512 tokens of context need"), "{error}");
    assert!(heard(16 << 20).is_ok());
}
