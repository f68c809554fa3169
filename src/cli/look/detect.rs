//! `culet detect`: where things are in a picture.
//! In: a picture file, what to look for. Out: boxes in pixels, and a picture with them drawn.
//! Source of the words: ai.google.dev, Gemma 4 image understanding.
//! Invariant: an answer that cannot be read is given as it came, never guessed at.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use culet::Frame;
use culet::Result;
use culet::frontend::drawing;
use culet::frontend::drawing::Mark;
use culet::text::Boxes;
use culet::text::boxes::Found;
use serde_json::Value;
use serde_json::json;

use crate::cli::look::task;
use crate::cli::look::task::FrameArgs;
use crate::cli::look::task::Task;
use crate::cli::look::task::TaskArgs;
use crate::cli::look::task::parse_output;
use crate::cli::look::task::parse_path;
use crate::cli::print;

/// Small things need more than a caption does.
const BUDGET: u32 = 560;

/// What `detect` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Picture: png, jpeg, webp, gif or bmp; - reads stdin
    #[arg(value_parser = parse_path)]
    file: PathBuf,
    /// What to look for, such as "person and car"
    what: String,
    /// Write a copy of the picture with the boxes drawn on it: png, jpeg, webp, gif or bmp
    #[arg(short, long, value_name = "FILE", value_parser = parse_output)]
    output: Option<PathBuf>,
    /// Ask this instead of the usual words
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    #[command(flatten)]
    picture: FrameArgs,
    #[command(flatten)]
    task: TaskArgs,
}

/// Finds things in a picture.
pub(crate) fn run(args: &Args) -> Result<()> {
    let frame = args.picture.read(&args.file)?;
    let mut task = Task::open("detect", &args.task, BUDGET)?;
    let encoded = task.encode(&args.file, &frame)?;
    let usual = format!("detect {}, output only ```json", args.what.trim());
    let words = args.prompt.as_ref().unwrap_or(&usual);
    let outcome = task.answer(&[Arc::clone(&encoded)], words, false)?;
    let answer = outcome.parsed.answer.trim();
    let boxes = Boxes::read(answer);
    match &boxes {
        Some(boxes) => {
            if boxes.n_lost > 0 {
                log::warn!("{} boxes cannot be read and were left out", boxes.n_lost);
            }
            if let Some(path) = &args.output {
                save(path, &frame, &boxes.found)?;
            }
        }
        None => log::warn!("the answer holds no boxes, so nothing is drawn; it follows as it came"),
    }
    if !args.task.json {
        match &boxes {
            Some(boxes) => print::result(&lines(&boxes.found, &frame))?,
            None => print::result(&format!("{answer}\n"))?,
        }
    }
    task.finish(&outcome, answer, document(boxes.as_ref(), &frame))
}

/// Returns a line a thing: its name, left, top, right and bottom in pixels.
fn lines(found: &[Found], frame: &Frame) -> String {
    let line = |found: &Found| {
        let [left, top, right, bottom] = found.pixels(frame.width(), frame.height());
        let label = found.label.replace(['\t', '\n'], " ");
        format!("{label}\t{left}\t{top}\t{right}\t{bottom}\n")
    };
    found.iter().map(line).collect()
}

fn document(boxes: Option<&Boxes>, frame: &Frame) -> Value {
    let Some(boxes) = boxes else { return json!({ "boxes": null }) };
    let found: Vec<Value> = boxes
        .found
        .iter()
        .map(|found| {
            let [left, top, right, bottom] = found.pixels(frame.width(), frame.height());
            json!({
                "label": found.label,
                "box_2d": found.edges,
                "left": left,
                "top": top,
                "right": right,
                "bottom": bottom,
            })
        })
        .collect();
    json!({ "boxes": found, "repaired": boxes.is_repaired, "lost": boxes.n_lost })
}

/// Draws what was found and writes the picture.
fn save(path: &Path, frame: &Frame, found: &[Found]) -> Result<()> {
    let (width, height) = (frame.width(), frame.height());
    // A box of a thousandth may be less than a pixel, and then there is nothing to draw.
    let marks: Vec<Mark> = found
        .iter()
        .map(|found| Mark { edges_px: found.pixels(width, height), label: found.label.clone() })
        .filter(|mark| mark.edges_px[0] < mark.edges_px[2] && mark.edges_px[1] < mark.edges_px[3])
        .collect();
    task::save(path, &drawing::draw(frame, &marks)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_pictures_that_can_be_written() {
        for name in ["a.png", "b/c.JPG", "d.webp", "e.gif", "f.bmp"] {
            assert!(parse_output(name).is_ok(), "{name}");
        }
        for name in ["a", "a.txt", "a.tiff", ""] {
            assert!(parse_output(name).is_err(), "{name}");
        }
    }

    #[test]
    fn boxes_are_told_in_pixels() {
        let frame = Frame::new(200, 100, vec![0; 60_000]).unwrap();
        let found = [Found { label: "a\tcat".to_owned(), edges: [0, 250, 500, 1000] }];
        assert_eq!(lines(&found, &frame), "a cat\t50\t0\t200\t50\n");
        let boxes = Boxes { found: found.to_vec(), is_repaired: true, n_lost: 2 };
        let told = document(Some(&boxes), &frame);
        assert_eq!((&told["boxes"][0]["right"], &told["lost"]), (&json!(200), &json!(2)));
        assert!(document(None, &frame)["boxes"].is_null());
    }
}
