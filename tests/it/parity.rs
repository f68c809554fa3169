//! The decoder equals transformers in float32, in every plan, chunking and cache type.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use culet::ErrorKind;
use culet::TokenId;
use culet::decoder::Decoder;
use culet::decoder::Entry;
use culet::decoder::Executor;
use culet::decoder::ExecutorOptions;
use culet::decoder::KvOptions;
use culet::ggml::Backend;
use culet::ggml::BackendOptions;
use culet::ggml::DType;
use culet::gguf::Gguf;
use culet::model::HParams;

use crate::npy;
use crate::npy::relative_error;

/// Same maths in another order, on float32 weights and a float32 cache.
const KERNEL: f64 = 1e-5;
/// A half-precision cache against a float32 one.
const HALF_CACHE: f64 = 1e-2;

const FAMILIES: [&str; 4] = ["e2b", "e4b", "odd", "media"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn decoder(path: &Path) -> Arc<Decoder> {
    let gguf = Gguf::open(path).unwrap();
    let hparams = HParams::read(&gguf).unwrap();
    let backend = Backend::new(&BackendOptions { n_threads: 1, gpu: None }).unwrap();
    Arc::new(Decoder::open(&gguf, hparams, &backend).unwrap())
}

fn executor(decoder: &Arc<Decoder>, n_batch: usize, dtype: DType) -> Executor {
    let backend = BackendOptions { n_threads: 1, gpu: None };
    let kv = KvOptions { n_ctx: 256, n_batch, dtype };
    Executor::new(decoder, &ExecutorOptions { backend, kv }).unwrap()
}

pub(crate) fn entries(ids: &[u32]) -> Vec<Entry<'static>> {
    ids.iter().map(|&id| Entry::Token(TokenId(id))).collect()
}

pub(crate) fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in logits.iter().enumerate() {
        if *v > logits[best] {
            best = i;
        }
    }
    best as u32
}

struct Prompt {
    ids: Vec<u32>,
    logits: npy::Array,
    greedy: Vec<u32>,
}

fn prompts(family: &str) -> (PathBuf, Vec<Prompt>) {
    let folder = root().join("tests/golden").join(family);
    let text = std::fs::read_to_string(folder.join("prompts.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let numbers = |v: &serde_json::Value| -> Vec<u32> {
        v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
    };
    let list = json["prompts"].as_array().unwrap();
    let prompts = list.iter().map(|p| Prompt {
        ids: numbers(&p["ids"]),
        logits: npy::read(&folder.join(p["logits"].as_str().unwrap())),
        greedy: numbers(&p["greedy"]),
    });
    (root().join("models/fixtures").join(format!("{family}.gguf")), prompts.collect())
}

#[test]
fn logits_equal_transformers_at_every_position() {
    for family in FAMILIES {
        let (path, prompts) = prompts(family);
        let decoder = decoder(&path);
        assert!(prompts.len() >= 4, "{family}");
        for p in &prompts {
            for n_batch in [512, 8, 5, 1] {
                let mut run = executor(&decoder, n_batch, DType::F32);
                let got = run.append_with_logits(&entries(&p.ids), p.ids.len()).unwrap();
                let error = relative_error(got, &p.logits.values);
                let what = format!("{family}, {} tokens in batches of {n_batch}", p.ids.len());
                assert!(error < KERNEL, "{what}: relative error {error:.2e}");
                let n_vocab = p.logits.shape[1];
                let rows = got.chunks(n_vocab).zip(p.logits.values.chunks(n_vocab));
                for (t, (a, b)) in rows.enumerate() {
                    assert_eq!(best(a), best(b), "{what}: best token at {t}");
                }
            }
        }
    }
}

#[test]
fn skipping_layers_changes_no_kept_logit() {
    for family in FAMILIES {
        let (path, prompts) = prompts(family);
        let decoder = decoder(&path);
        for p in &prompts {
            let n_vocab = p.logits.shape[1];
            let expected = &p.logits.values[(p.ids.len() - 1) * n_vocab..];
            for n_batch in [512, 16, 3] {
                let mut run = executor(&decoder, n_batch, DType::F32);
                let got = run.append_with_logits(&entries(&p.ids), 1).unwrap();
                let error = relative_error(got, expected);
                assert!(error < KERNEL, "{family}, {} tokens: {error:.2e}", p.ids.len());
            }
        }
    }
}

#[test]
fn greedy_continuations_equal_transformers() {
    for family in FAMILIES {
        let (path, prompts) = prompts(family);
        let decoder = decoder(&path);
        let gguf = Gguf::open(&path).unwrap();
        let tokens: Vec<&[u8]> = gguf.texts("tokenizer.ggml.tokens").unwrap().collect();
        let placeholders = ["<|image|>", "<|audio|>", "<|video|>"]
            .map(|name| tokens.iter().position(|t| *t == name.as_bytes()).unwrap() as u32);
        for p in &prompts {
            let mut run = executor(&decoder, 512, DType::F32);
            let mut next = best(run.append_with_logits(&entries(&p.ids), 1).unwrap());
            let mut got = vec![next];
            while got.len() < p.greedy.len() {
                // The reference takes a media placeholder without media for padding.
                let id = if placeholders.contains(&next) { 0 } else { next };
                next = best(run.append_with_logits(&entries(&[id]), 1).unwrap());
                got.push(next);
            }
            assert_eq!(got, p.greedy, "{family}, {} tokens", p.ids.len());
        }
    }
}

#[test]
fn rewind_equals_fresh_prefill() {
    for family in FAMILIES {
        let (path, prompts) = prompts(family);
        let decoder = decoder(&path);
        let p = prompts.iter().max_by_key(|p| p.ids.len()).unwrap();
        for keep in [1, p.ids.len() / 2, p.ids.len() - 1] {
            let mut fresh = executor(&decoder, 8, DType::F32);
            fresh.append(&entries(&p.ids[..keep])).unwrap();
            let expected = fresh.append_with_logits(&entries(&p.ids[keep..]), 1).unwrap().to_vec();
            let mut run = executor(&decoder, 8, DType::F32);
            run.append(&entries(&p.ids[..keep])).unwrap();
            // Another branch, longer than the window, that is then taken back.
            let branch: Vec<u32> = p.ids.iter().rev().copied().collect();
            run.append(&entries(&branch)).unwrap();
            run.kv_mut().rewind(keep).unwrap();
            let got = run.append_with_logits(&entries(&p.ids[keep..]), 1).unwrap();
            assert!(got == expected, "{family}, back to {keep}");
        }
    }
}

#[test]
fn a_saved_cache_equals_the_original() {
    for (family, dtype) in [("e2b", DType::F32), ("e2b", DType::F16), ("odd", DType::F32)] {
        let (path, prompts) = prompts(family);
        let decoder = decoder(&path);
        let p = prompts.iter().max_by_key(|p| p.ids.len()).unwrap();
        let (first, rest) = p.ids.split_at(p.ids.len() - 3);
        let mut run = executor(&decoder, 8, dtype);
        run.append(&entries(first)).unwrap();
        let mut saved = Vec::new();
        run.kv()
            .save(&mut |bytes| {
                saved.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
        let mut copy = executor(&decoder, 8, dtype);
        let mut at = 0;
        let (n_past, n_written) = (run.kv().n_past(), run.kv().n_written());
        copy.kv_mut()
            .load(n_past, n_written, &mut |out| {
                out.copy_from_slice(&saved[at..at + out.len()]);
                at += out.len();
                Ok(())
            })
            .unwrap();
        assert_eq!(at, saved.len());
        let expected = run.append_with_logits(&entries(rest), 1).unwrap().to_vec();
        assert!(copy.append_with_logits(&entries(rest), 1).unwrap() == expected, "{family}");
    }
}

#[test]
fn a_half_precision_cache_stays_close() {
    for family in FAMILIES {
        let (path, prompts) = prompts(family);
        let decoder = decoder(&path);
        let p = prompts.iter().max_by_key(|p| p.ids.len()).unwrap();
        let mut run = executor(&decoder, 512, DType::F16);
        let got = run.append_with_logits(&entries(&p.ids), p.ids.len()).unwrap();
        let error = relative_error(got, &p.logits.values);
        assert!(error < HALF_CACHE, "{family}: {error:.2e}");
    }
}

#[test]
fn a_cache_whose_blocks_no_head_fills_is_refused() {
    for family in FAMILIES {
        let decoder = decoder(&prompts(family).0);
        for dtype in [DType::Q8_0, DType::Q4_0] {
            let backend = BackendOptions { n_threads: 1, gpu: None };
            let kv = KvOptions { n_ctx: 256, n_batch: 512, dtype };
            let refused = Executor::new(&decoder, &ExecutorOptions { backend, kv }).map(drop);
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported, "{family} {dtype}");
        }
    }
}

#[test]
fn bad_calls_are_errors_and_lose_nothing() {
    let (path, prompts) = prompts("e2b");
    let decoder = decoder(&path);
    let p = &prompts[1];
    let mut run = executor(&decoder, 8, DType::F32);
    run.append(&entries(&p.ids[..3])).unwrap();
    assert!(run.append(&entries(&[u32::MAX])).is_err());
    assert!(run.append(&[Entry::Soft(&[0.0; 3])]).is_err());
    assert!(run.append(&entries(&vec![1; 1000])).is_err());
    assert!(run.append_with_logits(&entries(&[1]), 2).is_err());
    assert!(run.kv_mut().rewind(99).is_err());
    run.cancel().cancel();
    assert!(run.append(&entries(&p.ids[3..])).is_err());
    run.cancel().reset();
    assert_eq!(run.kv().n_past(), 3);
    let got = run.append_with_logits(&entries(&p.ids[3..]), 1).unwrap();
    let expected = &p.logits.values[(p.ids.len() - 1) * p.logits.shape[1]..];
    assert!(relative_error(got, expected) < KERNEL);
}
