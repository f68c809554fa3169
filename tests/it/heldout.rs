//! The shipped tiny model keeps the scores of its card on the committed held-out set.
//!
//! In: `models/tiny/`. Out: right answers by row against floors, answers that never change.
//! Invariant: no sentence, voice of the new ones, or picture here was ever trained on.

use std::path::Path;

use culet::engine::Engine;
use culet::engine::EngineOptions;

use crate::score::HeldOut;
use crate::score::Score;

/// Row, how many are asked, how many must be right: a little below what was measured.
const FLOORS: [(&str, usize, usize); 14] = [
    ("long: transcribe", 6, 5),
    ("picture: caption", 8, 6),
    ("picture: color", 8, 7),
    ("picture: count", 8, 6),
    ("picture: detect", 16, 10),
    ("picture: place", 8, 7),
    ("picture: read", 8, 5),
    ("seen: act", 30, 28),
    ("seen: transcribe", 30, 27),
    ("text: act", 28, 24),
    ("text: refuse", 14, 12),
    ("text: talk", 14, 12),
    ("unseen: act", 20, 16),
    ("unseen: transcribe", 20, 16),
];
/// Kind of voice, words that may be wrong, in per cent.
const WRONG_WORDS: [(&str, usize); 3] = [("seen", 2), ("unseen", 4), ("long", 3)];
/// Answers that every build gives word for word.
const KEPT: [&str; 4] = ["seen01-words", "seen01-call", "text00", "text03"];

#[test]
fn the_shipped_model_keeps_its_scores() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    let mmproj = folder.join("mmproj-culet-tiny-q8_0.gguf");
    let text = folder.join("culet-tiny-q4_0.gguf");
    let engine = Engine::open(&text, Some(&mmproj), &EngineOptions::default()).unwrap();
    let mut set = HeldOut::open(&folder, &engine).unwrap();
    let mut score = Score::default();
    let mut kept = Vec::new();
    for line in std::mem::take(&mut set.lines) {
        let said = set.answer(&line).unwrap();
        let right = score.add(&line, &said);
        let id = line["id"].as_str().unwrap();
        if KEPT.contains(&id) {
            assert!(right, "{id}: {said:?} instead of {}", line["expect"]);
            kept.push(id.to_owned());
        }
    }
    assert_eq!(kept.len(), KEPT.len(), "{kept:?}");
    let found: Vec<_> = score.rows.iter().map(|(row, &(_, n))| (row.as_str(), n)).collect();
    assert_eq!(found, FLOORS.map(|(row, n, _)| (row, n)), "the rows of the held-out set");
    for (row, n, floor) in FLOORS {
        let right = score.rows[row].0;
        assert!(right >= floor, "{row}: {right} of {n} are right, at least {floor} are known");
    }
    for (group, most) in WRONG_WORDS {
        let (wrong, n) = score.words[group];
        assert!(wrong * 100 <= n * most, "{group} voices: {wrong} of {n} words are wrong");
    }
}
