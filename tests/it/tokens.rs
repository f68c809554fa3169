//! Token ids against the golden texts, in a vocabulary read from a model file.
//! In: `models/fixtures/odd.gguf`, `tests/golden/odd/tokens.json`. Out: every difference at once.

use std::fs;
use std::path::Path;

use culet::TokenId;
use culet::gguf::Gguf;
use culet::text::Tokenizer;
use serde_json::Value;

fn ids_of(value: &Value) -> Vec<TokenId> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| TokenId(u32::try_from(id.as_u64().unwrap()).unwrap())).collect()
}

#[test]
fn ids_and_texts_equal_the_goldens() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = Gguf::open(&root.join("models/fixtures/odd.gguf")).unwrap();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let text = fs::read_to_string(root.join("tests/golden/odd/tokens.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() >= 50, "only {} texts", cases.len());
    let mut failures = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let text = case["text"].as_str().unwrap();
        let ids = ids_of(&case["ids"]);
        if tokenizer.encode(text).unwrap() != ids {
            failures.push(format!("text {index}: ids differ"));
        }
        if tokenizer.encode_with_markers(text).unwrap() != ids_of(&case["ids_control"]) {
            failures.push(format!("text {index}: ids with markers differ"));
        }
        if tokenizer.decode(&ids) != case["decoded"].as_str().unwrap() {
            failures.push(format!("text {index}: decoded text differs"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
