//! `culet verify`: what it says of the model that ships, and of damaged copies.
//! In: the shipped files. Out: verdicts by check, exit codes.

use std::path::Path;

use culet::gguf::Gguf;
use serde_json::Value;

use crate::program::Scratch;
use crate::program::culet;
use crate::program::json_of;

const MODEL: &str = "models/tiny/culet-tiny-q4_0.gguf";

fn verdicts(found: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rows = found["checks"].as_array().unwrap().iter();
    rows.map(|row| (text(&row["check"]), text(&row["verdict"]))).collect()
}

/// Writes a copy of the shipped model with the bytes of one tensor changed; returns what is found.
fn damaged(scratch: &Scratch, tensor: &str, change: impl Fn(&mut [u8])) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL);
    let file = Gguf::open(&path).unwrap();
    let range = file.tensor(tensor).unwrap().range();
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes[range]);
    let copy = scratch.write("damaged.gguf", bytes);
    let output = culet(&["verify", "-t", "1", "--json", "--no-mmproj", "-m", &copy]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("of 7 checks failed"), "{told}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn found_of(found: &Value, check: &str) -> (String, String) {
    let rows = found["checks"].as_array().unwrap();
    let row = rows.iter().find(|row| row["check"] == check).unwrap();
    let text = |key: &str| row[key].as_str().unwrap().to_owned();
    (text("verdict"), text("found"))
}

#[test]
fn the_model_that_ships_passes() {
    let found = json_of(&["verify", "-t", "1", "--json"]);
    for (check, verdict) in verdicts(&found) {
        let expected = if check == "gpu" { "left out" } else { "ok" };
        assert_eq!(verdict, expected, "{found}");
    }
    assert_eq!(verdicts(&found).len(), 7);
    let found = json_of(&["verify", "-t", "1", "--json", "--no-mmproj"]);
    assert_eq!(found_of(&found, "sound").0, "left out");
    assert_eq!(found_of(&found, "picture").0, "left out");
}

#[test]
fn a_value_that_is_no_number_is_named() {
    let scratch = Scratch::new("verify-nan");
    // The scale of the fourth block of a row, 18 bytes for 32 values each.
    let found = damaged(&scratch, "blk.1.ffn_down.weight", |bytes| {
        bytes[3 * 18..3 * 18 + 2].copy_from_slice(&0x7e00_u16.to_le_bytes());
    });
    let (verdict, told) = found_of(&found, "weights");
    assert_eq!(verdict, "failed");
    let place = "damaged.gguf: blk.1.ffn_down.weight holds NaN in row 0, column 96";
    assert!(told.contains(place), "{told}");
}

#[test]
fn weights_of_nothing_know_nothing() {
    let scratch = Scratch::new("verify-zero");
    let found = damaged(&scratch, "token_embd.weight", |bytes| bytes.fill(0));
    assert_eq!(found_of(&found, "weights").0, "ok");
    let (verdict, told) = found_of(&found, "answer");
    assert_eq!(verdict, "failed");
    assert!(told.contains("does not say Rome"), "{told}");
}
