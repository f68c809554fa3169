//! Mutated vocabularies, conversations and output: an answer or an error, never a panic.
//!
//! In: seeds. `SEED=n` repeats one of them.
//! Invariant: at least 10,000 mutants of each kind a run.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use culet::gguf::Gguf;
use culet::gguf::Items;
use culet::gguf::Mapping;
use culet::gguf::Writer;
use culet::text::Conversation;
use culet::text::Detokenizer;
use culet::text::Marker;
use culet::text::Parser;
use culet::text::Prompt;
use culet::text::Tokenizer;
use culet::text::parse_text;

use crate::random::Rng;
use crate::random::mutate;
use crate::random::seeds;

const N_SEEDS: u64 = 20;
const N_MUTANTS_PER_SEED: u64 = 500;

/// Returns a file with nothing but a small vocabulary.
fn vocabulary() -> Vec<u8> {
    let mut pieces: Vec<String> = Marker::ALL.map(|m| m.text().to_owned()).to_vec();
    let n_markers = pieces.len();
    pieces.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
    pieces.extend(["<unk>", "a", "b", "ab", "abab", "\u{2581}", "\u{2581}a"].map(str::to_owned));
    let kinds: Vec<i32> = (0..pieces.len()).map(|i| if i < n_markers { 3 } else { 1 }).collect();
    let mut w = Writer::new();
    w.set_str("tokenizer.ggml.model", "gemma4").unwrap();
    w.set_texts("tokenizer.ggml.tokens", pieces.iter()).unwrap();
    w.set_items("tokenizer.ggml.token_type", Items::I32(&kinds)).unwrap();
    let merges = ["a b", "ab ab", "\u{2581} a"];
    w.set_texts("tokenizer.ggml.merges", merges.iter()).unwrap();
    for key in ["bos", "eos", "unknown"] {
        w.set_u32(&format!("tokenizer.ggml.{key}_token_id"), 1).unwrap();
    }
    let name = format!("culet-hostile-text-{}.gguf", std::process::id());
    let path: PathBuf = std::env::temp_dir().join(name);
    w.create(&path).unwrap().finish().unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    bytes
}

/// Uses a tokenizer in every way; what it returns does not matter here.
fn use_up(tokenizer: &Tokenizer, prompt: &Prompt) -> usize {
    let mut detokenizer = Detokenizer::new();
    let mut parser = Parser::new(false);
    let mut n = 0;
    let mut ids = tokenizer.encode("abab a\u{2581}日\n<|turn>").unwrap();
    ids.extend(tokenizer.encode_with_markers("<|channel>a<|tool_call>b{}").unwrap());
    for id in ids.iter().copied().chain((0..300).map(culet::TokenId)) {
        n += detokenizer.push(tokenizer, id).len();
        parser.push(tokenizer, id, |_| n += 1);
    }
    parser.finish(|_| n += 1);
    n += prompt.items(tokenizer, |_| vec![f64::NAN]).map_or(0, |items| items.len());
    n + tokenizer.decode(&ids).len() + detokenizer.finish().len()
}

#[test]
fn mutated_vocabularies_are_read_or_refused() {
    let whole = vocabulary();
    let chat = serde_json::json!([{"role": "user", "content": [{"type": "video"}]}]);
    let prompt = Prompt::render(&Conversation::from_json(&chat).unwrap()).unwrap();
    let open = |bytes: &[u8]| {
        let file = Gguf::from_mapping(Mapping::from_bytes("mutant.gguf", bytes)?)?;
        Tokenizer::from_gguf(&file)
    };
    use_up(&open(&whole).unwrap(), &prompt);
    let mut n_read = 0;
    for seed in seeds(N_SEEDS) {
        let mut rng = Rng(seed);
        for _ in 0..N_MUTANTS_PER_SEED {
            let mut bytes = whole.clone();
            let n = 1 + rng.below(3);
            mutate(&mut bytes, &mut rng, n);
            if let Ok(tokenizer) = open(&bytes) {
                n_read += 1;
                assert!(use_up(&tokenizer, &prompt) > 0, "SEED={seed}");
            }
        }
    }
    assert!(n_read > 0, "no mutant was read");
}

#[test]
fn mutated_conversations_are_rendered_or_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat");
    let mut cases: Vec<Vec<u8>> = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let list: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        cases.extend(list.iter().map(|case| serde_json::to_vec_pretty(case).unwrap()));
    }
    let mut n_rendered = 0;
    for seed in seeds(N_SEEDS) {
        let mut rng = Rng(seed);
        for _ in 0..N_MUTANTS_PER_SEED {
            let mut bytes = cases[rng.below(cases.len())].clone();
            // Words for words, so that most mutants are still JSON.
            const WORDS: [&str; 8] =
                ["null", "[]", "{}", "1e9", "\"\"", "true", "[{}]", "\"tool\""];
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let ends: Vec<usize> = text.match_indices(": ").map(|(at, _)| at + 2).collect();
            if let Some(&at) = ends.get(rng.below(ends.len() + 1)) {
                let end = text[at..].find([',', '}', ']']).map_or(text.len(), |n| at + n);
                let word = WORDS[rng.below(WORDS.len())];
                bytes = format!("{}{word}{}", &text[..at], &text[end..]).into_bytes();
            }
            if rng.below(3) == 0 {
                mutate(&mut bytes, &mut rng, 1);
            }
            let raw = String::from_utf8_lossy(&bytes);
            assert!(parse_text(&raw, false).tool_calls.len() <= raw.len(), "SEED={seed}");
            let Ok(value) = serde_json::from_str(&raw) else { continue };
            let rendered = Conversation::from_json(&value).and_then(|c| Prompt::render(&c));
            if let Ok(prompt) = rendered {
                n_rendered += 1;
                assert!(prompt.to_string().starts_with("<bos>"), "SEED={seed}");
            }
        }
    }
    assert!(n_rendered > 0, "no mutant was rendered");
}
