//! `culet caption`, `culet ask` and `culet compare`: words about one or two pictures.
//! In: picture files, a question. Out: the answer.
//! Source of the captions' words: ai.google.dev, Gemma 4 image understanding.

use std::path::Path;
use std::path::PathBuf;

use culet::Result;
use serde_json::json;

use crate::cli::look::task::FrameArgs;
use crate::cli::look::task::Task;
use crate::cli::look::task::TaskArgs;
use crate::cli::look::task::parse_path;

/// Google's words for a caption.
pub(super) const CAPTION: &str = "Caption this image.";
const COMPARE: &str = "Compare these images. What is the same, and what is different?";
/// Soft tokens of a picture that is talked about.
pub(super) const BUDGET: u32 = 280;

/// What `caption` is told.
#[derive(clap::Args)]
pub(crate) struct CaptionArgs {
    /// Picture: png, jpeg, webp, gif or bmp; - reads stdin
    #[arg(value_parser = parse_path)]
    file: PathBuf,
    /// Ask this instead of the usual words
    #[arg(long, value_name = "TEXT", default_value = CAPTION, hide_default_value = true)]
    prompt: String,
    #[command(flatten)]
    picture: FrameArgs,
    #[command(flatten)]
    task: TaskArgs,
}

/// What `ask` is told.
#[derive(clap::Args)]
pub(crate) struct AskArgs {
    /// Picture: png, jpeg, webp, gif or bmp; - reads stdin
    #[arg(value_parser = parse_path)]
    file: PathBuf,
    /// What to ask about it
    question: String,
    #[command(flatten)]
    picture: FrameArgs,
    #[command(flatten)]
    task: TaskArgs,
}

/// What `compare` is told.
#[derive(clap::Args)]
pub(crate) struct CompareArgs {
    /// First picture
    #[arg(value_parser = parse_path)]
    first: PathBuf,
    /// Second picture
    #[arg(value_parser = parse_path)]
    second: PathBuf,
    /// What to ask about them
    #[arg(default_value = COMPARE, hide_default_value = true)]
    question: String,
    #[command(flatten)]
    picture: FrameArgs,
    #[command(flatten)]
    task: TaskArgs,
}

/// Says what a picture shows.
pub(crate) fn run_caption(args: &CaptionArgs) -> Result<()> {
    answer("caption", &[&args.file], &args.prompt, &args.picture, &args.task)
}

/// Answers a question about a picture.
pub(crate) fn run_ask(args: &AskArgs) -> Result<()> {
    answer("ask", &[&args.file], &args.question, &args.picture, &args.task)
}

/// Compares two pictures.
pub(crate) fn run_compare(args: &CompareArgs) -> Result<()> {
    let files = [args.first.as_path(), &args.second];
    answer("compare", &files, &args.question, &args.picture, &args.task)
}

fn answer(
    name: &'static str,
    files: &[&Path],
    words: &str,
    picture: &FrameArgs,
    args: &TaskArgs,
) -> Result<()> {
    let frames: Vec<_> = files.iter().map(|path| picture.read(path)).collect::<Result<_>>()?;
    let mut task = Task::open(name, args, BUDGET)?;
    let looked = files.iter().zip(&frames).map(|(path, frame)| task.encode(path, frame));
    let media: Vec<_> = looked.collect::<Result<_>>()?;
    let outcome = task.answer(&media, words, true)?;
    task.finish(&outcome, &outcome.parsed.answer, json!({}))
}
