//! `culet ocr`: the text in a picture.
//! In: a picture file. Out: its text; a tall page is read piece by piece.
//! Invariant: what two pieces show is written once.

use std::path::PathBuf;
use std::sync::Arc;

use culet::Result;
use culet::frontend::pages;
use serde_json::Value;
use serde_json::json;

use crate::cli::look::task::FrameArgs;
use crate::cli::look::task::Task;
use crate::cli::look::task::TaskArgs;
use crate::cli::look::task::parse_path;
use crate::cli::print;
use crate::cli::run::answer::Outcome;

const READ: &str = "Transcribe all the text in this image.\n\n\
    Follow these specific instructions for formatting the answer:\n\
    * Only output the text, line by line as it stands.\n\
    * If there is no text, output nothing.";
/// Small letters need all that the encoder can see.
const BUDGET: u32 = 1120;

/// What `ocr` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Picture: png, jpeg, webp, gif or bmp; - reads stdin
    #[arg(value_parser = parse_path)]
    file: PathBuf,
    /// Ask this instead of the usual words
    #[arg(long, value_name = "TEXT", default_value = READ, hide_default_value = true)]
    prompt: String,
    #[command(flatten)]
    picture: FrameArgs,
    #[command(flatten)]
    task: TaskArgs,
}

/// Reads a picture.
pub(crate) fn run(args: &Args) -> Result<()> {
    let page = args.picture.read(&args.file)?;
    let mut task = Task::open("ocr", &args.task, BUDGET)?;
    let budget = args.task.budget.unwrap_or(BUDGET);
    let rows = pages::rows(page.width(), page.height(), budget)?;
    let is_whole = rows.len() == 1;
    let (mut text, mut pieces) = (String::new(), Vec::<Value>::new());
    let mut all: Option<Outcome> = None;
    for rows in &rows {
        let piece = pages::cut(&page, rows)?;
        let encoded = task.encode(&args.file, &piece)?;
        let outcome = task.answer(&[Arc::clone(&encoded)], &args.prompt, is_whole)?;
        let read = outcome.parsed.answer.as_str();
        pages::join(&mut text, read);
        pieces.push(json!({ "top": rows.start, "bottom": rows.end, "text": read }));
        all = Some(match all {
            Some(before) => before.followed_by(outcome),
            None => outcome,
        });
    }
    let Some(outcome) = all else { return Ok(()) };
    if !is_whole && !args.task.json {
        print::result(&format!("{text}\n"))?;
    }
    task.finish(&outcome, &text, json!({ "pieces": pieces }))
}
