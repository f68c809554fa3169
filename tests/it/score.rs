//! The tiny model's held-out set: asks every line of it and counts what is right.
//!
//! In: `heldout/manifest.jsonl`, its sounds and pictures, `tools.json`; a session.
//! Out: what was answered, right answers by row, word errors by kind of voice.
//! Invariant: one scorer for the test of the scores and for `examples/tiny_eval.rs`.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use culet::Error;
use culet::Frame;
use culet::Result;
use culet::engine::Engine;
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

/// The set's lines, the tools that they declare, and a greedy session that answers them.
pub(crate) struct HeldOut {
    folder: PathBuf,
    tools: BTreeMap<String, Value>,
    session: Session,
    /// One question with its expected answer each.
    pub(crate) lines: Vec<Value>,
}

impl HeldOut {
    /// Reads the set of a tiny model's folder.
    pub(crate) fn open(folder: &Path, engine: &Arc<Engine>) -> Result<Self> {
        let list = parse(&read(&folder.join("tools.json"))?)?;
        let tools = list.as_array().cloned().unwrap_or_default();
        let manifest = read(&folder.join("heldout/manifest.jsonl"))?;
        let sampling = SamplingOptions::greedy();
        let options = SessionOptions { sampling, ..SessionOptions::default() };
        Ok(Self {
            folder: folder.join("heldout"),
            tools: tools.into_iter().map(|t| (string(&t["function"]["name"]), t)).collect(),
            session: Session::new(engine, &options)?,
            lines: manifest.lines().map(parse).collect::<Result<_>>()?,
        })
    }

    /// Answers one line in a conversation of its own.
    pub(crate) fn answer(&mut self, line: &Value) -> Result<Parsed> {
        let Self { folder, tools, session, .. } = self;
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
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::input(format!("{}: {e}", path.display())))
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| Error::input(format!("the held-out set: {e}")))
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn picture(path: &Path) -> Result<Frame> {
    let image = image::open(path).map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
    let rgb = image.to_rgb8();
    Frame::new(rgb.width(), rgb.height(), rgb.into_raw())
}

/// Right answers by row of the table, word errors by kind of voice.
#[derive(Default)]
pub(crate) struct Score {
    pub(crate) rows: BTreeMap<String, (usize, usize)>,
    pub(crate) words: BTreeMap<String, (usize, usize)>,
    pub(crate) n: usize,
}

impl Score {
    /// Counts one answer; tells whether it is right.
    pub(crate) fn add(&mut self, line: &Value, said: &Parsed) -> bool {
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
        right
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
