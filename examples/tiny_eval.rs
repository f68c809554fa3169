//! Scores a tiny model on its held-out set through Culet itself, and prints the table.
//!
//! `cargo run --release --example tiny_eval [FOLDER [TEXT.gguf [MMPROJ.gguf]]]`, by default
//! `models/tiny` and the files shipped there.
//! In: `heldout/manifest.jsonl`, its sounds and pictures, `tools.json`.
//! Out: scores by task with 95 % intervals, word error rates, time per answer.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::time::Instant;

use culet::Result;
use culet::engine::Engine;
use culet::engine::EngineOptions;

#[path = "../tests/it/score.rs"]
mod score;

use score::HeldOut;
use score::Score;

#[expect(clippy::print_stderr, reason = "an example speaks on stderr")]
fn main() {
    if let Err(error) = run() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let folder = arguments.next().unwrap_or_else(|| PathBuf::from("models/tiny"));
    let file = |given: Option<PathBuf>, name: &str| given.unwrap_or_else(|| folder.join(name));
    let text = file(arguments.next(), "culet-tiny-q4_0.gguf");
    let mmproj = file(arguments.next(), "mmproj-culet-tiny-q8_0.gguf");
    let engine = Engine::open(&text, Some(&mmproj), &EngineOptions::default())?;
    let mut set = HeldOut::open(&folder, &engine)?;
    let mut score = Score::default();
    let begin = Instant::now();
    for line in std::mem::take(&mut set.lines) {
        let said = set.answer(&line)?;
        score.add(&line, &said);
    }
    print(&score, begin.elapsed().as_secs_f64());
    Ok(())
}

fn print(score: &Score, seconds: f64) {
    println!("| held-out set | right | share (95 %) |\n| --- | --- | --- |");
    for (row, (good, count)) in &score.rows {
        let (low, high) = interval(*good, *count);
        let share = 100.0 * *good as f64 / *count as f64;
        println!("| {row} | {good}/{count} | {share:.0} % ({low:.0}..{high:.0}) |");
    }
    for (group, (wrong, count)) in &score.words {
        let rate = 100.0 * *wrong as f64 / (*count).max(1) as f64;
        println!("| word error rate, {group} | {wrong}/{count} | {rate:.1} % |");
    }
    println!("\n{} answers in {seconds:.1} s", score.n);
}

/// Wilson's 95 % interval in per cent.
fn interval(good: usize, count: usize) -> (f64, f64) {
    let (z, n) = (1.96, count as f64);
    let p = good as f64 / n;
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z * ((p * (1.0 - p) + z * z / (4.0 * n)) / n).sqrt() / (1.0 + z * z / n);
    (100.0 * (middle - half), 100.0 * (middle + half))
}
