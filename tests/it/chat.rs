//! Prompts and parsed output against the golden conversations.
//! In: `tests/golden/chat/*.json`, `tests/golden/parse.json`. Out: every difference at once.

use std::fs;
use std::path::Path;

use culet::text::Conversation;
use culet::text::Prompt;
use culet::text::parse_text;
use serde_json::Value;

/// Fewest golden conversations; fewer means that files are missing.
const CONVERSATIONS_MIN: usize = 30;

fn cases(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    serde_json::from_str::<Vec<Value>>(&text).unwrap()
}

fn golden() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"))
}

#[test]
fn prompts_equal_the_published_template() {
    let mut n_cases = 0;
    let mut failures = Vec::new();
    for entry in fs::read_dir(golden().join("chat")).unwrap() {
        for case in cases(&entry.unwrap().path()) {
            n_cases += 1;
            let name = case["name"].as_str().unwrap();
            let expected = case["prompt"].as_str().unwrap();
            let conversation = Conversation::from_json(&case);
            match conversation.and_then(|conversation| Prompt::render(&conversation)) {
                Ok(prompt) if prompt.to_string() == expected => {}
                Ok(prompt) => failures.push(format!("{name}:\n  {prompt}\n  {expected}")),
                Err(error) => failures.push(format!("{name}: {error}")),
            }
        }
    }
    assert!(n_cases >= CONVERSATIONS_MIN, "only {n_cases} conversations");
    assert!(failures.is_empty(), "{} of {n_cases}:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn parsed_output_equals_the_goldens() {
    let cases = cases(&golden().join("parse.json"));
    let mut failures = Vec::new();
    for case in &cases {
        let starts_in_thought = case.get("starts_in_thought").is_some_and(|v| v == true);
        let parsed = parse_text(case["raw"].as_str().unwrap(), starts_in_thought).to_json();
        for key in ["thought", "answer", "tool_calls"] {
            let is_compared = !case[key].is_null();
            if is_compared && parsed[key] != case[key] {
                let (found, expected) = (&parsed[key], &case[key]);
                failures.push(format!("{}: {key} {found}, expected {expected}", case["name"]));
            }
        }
    }
    assert!(!cases.is_empty());
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
