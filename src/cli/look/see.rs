//! `culet see`: one look through a camera.
//! In: a camera or a recording, a question. Out: the answer.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use culet::Error;
use culet::Result;
use serde_json::json;

use crate::cli::look::eye;
use crate::cli::look::eye::EyeArgs;
use crate::cli::look::question::BUDGET;
use crate::cli::look::question::CAPTION;
use crate::cli::look::task;
use crate::cli::look::task::Task;
use crate::cli::look::task::TaskArgs;
use crate::cli::look::task::parse_output;

/// How long a camera adjusts to the light before its frames are worth looking at.
const ADJUST: Duration = Duration::from_millis(700);

/// What `see` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to ask about the picture
    #[arg(default_value = CAPTION, hide_default_value = true)]
    question: String,
    #[command(flatten)]
    eye: EyeArgs,
    /// Write the picture that was looked at, too: png, jpeg, webp, gif or bmp
    #[arg(short, long, value_name = "FILE", value_parser = parse_output)]
    output: Option<PathBuf>,
    #[command(flatten)]
    task: TaskArgs,
}

/// Looks once and answers.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.eye.devices {
        return eye::list(args.task.json);
    }
    // The camera adjusts while the model is opened.
    let mut eye = args.eye.open()?;
    let mut task = Task::open("see", &args.task, BUDGET)?;
    let frame = eye.next(ADJUST)?;
    let frame = frame.ok_or_else(|| Error::input(format!("{}: holds no picture", eye.name())))?;
    if let Some(path) = &args.output {
        task::save(path, &frame)?;
    }
    let encoded = task.encode(Path::new(eye.name()), &frame)?;
    drop(eye);
    let outcome = task.answer(&[encoded], &args.question, true)?;
    task.finish(&outcome, &outcome.parsed.answer, json!({}))
}
