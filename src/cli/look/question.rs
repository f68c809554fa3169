//! `culet caption`, `culet ask` and `culet compare`: words about pictures or a video.
//! In: picture or video files, a question. Out: the answer.
//! Source of the captions' words: ai.google.dev, Gemma 4 image understanding.

use std::path::Path;
use std::path::PathBuf;

use culet::Result;
use serde_json::json;

use crate::cli::look::task::FrameArgs;
use crate::cli::look::task::Task;
use crate::cli::look::task::TaskArgs;
use crate::cli::look::task::parse_path;
use crate::cli::look::video;
use crate::cli::look::video::VideoArgs;

/// Google's words for a caption.
pub(super) const CAPTION: &str = "Caption this image.";
const CAPTION_VIDEO: &str = "Describe this video.";
const COMPARE: &str = "Compare these images. What is the same, and what is different?";
/// Soft tokens of a picture that is talked about.
pub(super) const BUDGET: u32 = 280;

/// What is talked about.
#[derive(clap::Args)]
struct Subject {
    /// Picture (png, jpeg, webp, gif, bmp; - reads stdin) or video (mp4, mov, webm, mkv, avi)
    #[arg(value_parser = parse_path)]
    file: PathBuf,
    #[command(flatten)]
    picture: FrameArgs,
    #[command(flatten)]
    video: VideoArgs,
}

/// What `caption` is told.
#[derive(clap::Args)]
pub(crate) struct CaptionArgs {
    #[command(flatten)]
    subject: Subject,
    /// Ask this instead of the usual words
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    #[command(flatten)]
    task: TaskArgs,
}

/// What `ask` is told.
#[derive(clap::Args)]
pub(crate) struct AskArgs {
    #[command(flatten)]
    subject: Subject,
    /// What to ask about it
    question: String,
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
    let usual = if args.subject.is_video() { CAPTION_VIDEO } else { CAPTION };
    args.subject.answer("caption", args.prompt.as_deref().unwrap_or(usual), &args.task)
}

/// Answers a question about a picture.
pub(crate) fn run_ask(args: &AskArgs) -> Result<()> {
    args.subject.answer("ask", &args.question, &args.task)
}

/// Compares two pictures.
pub(crate) fn run_compare(args: &CompareArgs) -> Result<()> {
    let files = [args.first.as_path(), &args.second];
    answer("compare", &files, &args.question, &args.picture, &args.task)
}

impl Subject {
    fn is_video(&self) -> bool {
        self.video.is_video(&self.file)
    }

    /// Answers words about the picture or the video.
    fn answer(&self, name: &'static str, words: &str, args: &TaskArgs) -> Result<()> {
        if !self.is_video() {
            return answer(name, &[&self.file], words, &self.picture, args);
        }
        let file = self.video.open(&self.file)?;
        let mut task = Task::with_room(name, args, video::BUDGET, video::N_CTX)?;
        let (media, about) = self.video.encode(&mut task, &self.file, file)?;
        let outcome = task.answer(&media, words, true)?;
        task.finish(&outcome, &outcome.parsed.answer, about)
    }
}

/// Answers words about pictures.
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
