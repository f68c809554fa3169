//! Scores a tiny model on its held-out set through Culet itself, and prints the table.
//!
//! `cargo run --release --example tiny_eval [FOLDER [TEXT.gguf [MMPROJ.gguf]]]`, by default
//! `models/tiny` and the files shipped there.
//! In: `heldout/manifest.jsonl`, its sounds and pictures, `tools.json`.
//! Out: scores by task with 95 % intervals, word error rates, time per answer.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use culet::Error;
use culet::Frame;
use culet::Result;
use culet::engine::Engine;
use culet::engine::EngineOptions;
use culet::sampler::SamplingOptions;
use culet::session::Session;
use culet::session::SessionOptions;
use culet::source::SoundFile;
use culet::text::Conversation;
use culet::text::Parsed;
use culet::text::parse_text;
use serde_json::Value;
use serde_json::json;

/// Picture budget that the tiny model was trained with.
const BUDGET: u32 = 70;
/// No held-out answer is longer.
const TOKENS_MAX: usize = 80;

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
    let sampling = SamplingOptions { temperature: 0.0, ..SamplingOptions::default() };
    let mut session =
        Session::new(&engine, &SessionOptions { sampling, ..SessionOptions::default() })?;
    let tools = read_tools(&folder)?;
    let heldout = folder.join("heldout");
    let manifest = read(&heldout.join("manifest.jsonl"))?;
    let mut score = Score::default();
    let begin = Instant::now();
    for line in manifest.lines() {
        let line: Value = parse(line)?;
        let answer = answer(&mut session, &line, &tools, &heldout)?;
        score.add(&line, &answer);
    }
    score.print(begin.elapsed().as_secs_f64());
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::input(format!("{}: {e}", path.display())))
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| Error::input(format!("the held-out set: {e}")))
}

fn read_tools(folder: &Path) -> Result<BTreeMap<String, Value>> {
    let list = parse(&read(&folder.join("tools.json"))?)?;
    let tools = list.as_array().cloned().unwrap_or_default();
    Ok(tools.into_iter().map(|t| (string(&t["function"]["name"]), t)).collect())
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Answers one line of the manifest in a conversation of its own.
fn answer(
    session: &mut Session,
    line: &Value,
    tools: &BTreeMap<String, Value>,
    folder: &Path,
) -> Result<Parsed> {
    let (mut content, mut media) = (Vec::new(), Vec::new());
    for part in line["user"].as_array().into_iter().flatten() {
        if let Some(file) = part["audio"].as_str() {
            media.push(session.encode_sound(SoundFile::open(&folder.join(file))?)?);
            content.push(json!({"type": "audio"}));
        } else if let Some(file) = part["image"].as_str() {
            media.push(session.encode_picture(&picture(&folder.join(file))?, BUDGET)?);
            content.push(json!({"type": "image"}));
        } else {
            content.push(json!({"type": "text", "text": part["text"]}));
        }
    }
    let names = line["tools"].as_array().into_iter().flatten();
    let declared: Vec<_> = names.filter_map(|n| tools.get(n.as_str()?)).cloned().collect();
    let conversation = Conversation::from_json(&json!({
        "messages": [{"role": "user", "content": content}],
        "tools": declared,
    }))?;
    session.clear()?;
    session.prompt(&conversation, &media)?;
    let mut parsed = Parsed::new();
    let mut n_tokens = 0;
    while session.next(&mut |event| parsed.add(event))? {
        n_tokens += 1;
        if n_tokens == TOKENS_MAX {
            session.cut(&mut |event| parsed.add(event));
            break;
        }
    }
    Ok(parsed)
}

fn picture(path: &Path) -> Result<Frame> {
    let image = image::open(path).map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
    let rgb = image.to_rgb8();
    Frame::new(rgb.width(), rgb.height(), rgb.into_raw())
}

/// Right answers by row of the table, word errors by kind of voice.
#[derive(Default)]
struct Score {
    rows: BTreeMap<String, (usize, usize)>,
    words: BTreeMap<String, (usize, usize)>,
    n: usize,
}

impl Score {
    fn add(&mut self, line: &Value, said: &Parsed) {
        let (task, group) = (string(&line["task"]), string(&line["group"]));
        let expect = string(&line["expect"]);
        let right = if task == "detect" {
            boxes_agree(&expect, &said.answer)
        } else {
            let wanted = parse_text(&expect, false);
            wanted.answer == said.answer && wanted.tool_calls == said.tool_calls
        };
        let row = self.rows.entry(format!("{group}: {task}")).or_default();
        *row = (row.0 + usize::from(right), row.1 + 1);
        if task == "transcribe" {
            let wanted: Vec<_> = expect.split_whitespace().collect();
            let heard: Vec<_> = said.answer.split_whitespace().collect();
            let words = self.words.entry(group).or_default();
            *words = (words.0 + distance(&wanted, &heard), words.1 + wanted.len());
        }
        self.n += 1;
    }

    fn print(&self, seconds: f64) {
        println!("| held-out set | right | share (95 %) |\n| --- | --- | --- |");
        for (row, (good, count)) in &self.rows {
            let (low, high) = interval(*good, *count);
            let share = 100.0 * *good as f64 / *count as f64;
            println!("| {row} | {good}/{count} | {share:.0} % ({low:.0}..{high:.0}) |");
        }
        for (group, (wrong, count)) in &self.words {
            let rate = 100.0 * *wrong as f64 / (*count).max(1) as f64;
            println!("| word error rate, {group} | {wrong}/{count} | {rate:.1} % |");
        }
        println!("\n{} answers in {seconds:.1} s", self.n);
    }
}

/// Whether labels are the same in order and every box overlaps its own by at least one half.
fn boxes_agree(expect: &str, said: &str) -> bool {
    let (Ok(Value::Array(wanted)), Ok(Value::Array(got))) =
        (serde_json::from_str(expect), serde_json::from_str(said))
    else {
        return false;
    };
    wanted.len() == got.len()
        && wanted
            .iter()
            .zip(&got)
            .all(|(a, b)| a["label"] == b["label"] && overlap(&corners(a), &corners(b)) >= 0.5)
}

fn corners(item: &Value) -> [f64; 4] {
    std::array::from_fn(|i| item["box_2d"][i].as_f64().unwrap_or(0.0))
}

/// Intersection over union.
fn overlap(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let side = |i: usize| (a[i + 2].min(b[i + 2]) - a[i].max(b[i])).max(0.0);
    let area = |q: &[f64; 4]| (q[2] - q[0]).max(0.0) * (q[3] - q[1]).max(0.0);
    let both = side(0) * side(1);
    both / (area(a) + area(b) - both).max(1e-9)
}

/// Edit distance of two word lists.
fn distance(a: &[&str], b: &[&str]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let here = (row[j + 1] + 1).min(row[j] + 1).min(before + usize::from(x != y));
            before = std::mem::replace(&mut row[j + 1], here);
        }
    }
    row[b.len()]
}

/// Wilson's 95 % interval in per cent.
fn interval(good: usize, count: usize) -> (f64, f64) {
    let (z, n) = (1.96, count as f64);
    let p = good as f64 / n;
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z * ((p * (1.0 - p) + z * z / (4.0 * n)) / n).sqrt() / (1.0 + z * z / n);
    (100.0 * (middle - half), 100.0 * (middle + half))
}
