//! `culet watch`: looks again and again, and speaks when there is something to tell.
//! In: a camera or a recording, what to tell. Out: a line for each answer that is not "no".
//! Invariant: a scene that did not change is never encoded; the cache holds a bounded history.

use std::sync::Arc;
use std::time::Duration;

use culet::Frame;
use culet::Result;
use culet::frontend::change::Scene;
use culet::session::Encoded;
use serde_json::Value;
use serde_json::json;

use crate::cli::look::eye;
use crate::cli::look::eye::EyeArgs;
use crate::cli::look::task::Task;
use crate::cli::look::task::TaskArgs;
use crate::cli::print;
use crate::cli::run::answer::Outcome;

/// Soft tokens of a picture that is only watched.
const BUDGET: u32 = 70;
/// Most pictures in the cache; when there are so many, the older half leaves.
const FRAMES_MAX: usize = 8;
/// Most tokens of an answer unless the person says otherwise.
const ANSWER_TOKENS_MAX: usize = 64;
const EVERY_SECONDS_MAX: f64 = 86_400.0;

/// What `watch` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// When to speak, such as "tell me when somebody comes in"
    #[arg(required_unless_present = "devices")]
    question: Option<String>,
    /// Look this often
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_every)]
    every: Duration,
    /// Leave out a frame of which less than this has changed; 0 looks at every one
    #[arg(long, value_name = "PERCENT", default_value = "1", value_parser = parse_percent)]
    change: f32,
    #[command(flatten)]
    eye: EyeArgs,
    #[command(flatten)]
    task: TaskArgs,
}

fn parse_every(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().ok().filter(|s| (0.0..=EVERY_SECONDS_MAX).contains(s));
    let wrong = || format!("expected 0 to {EVERY_SECONDS_MAX} seconds");
    seconds.map(Duration::from_secs_f64).ok_or_else(wrong)
}

fn parse_percent(text: &str) -> std::result::Result<f32, String> {
    let percent = text.parse().ok().filter(|p| (0.0..=100.0).contains(p));
    percent.ok_or_else(|| "expected 0 to 100".to_owned())
}

/// Watches until the recording ends or the camera fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let Some(question) = args.question.as_deref().filter(|_| !args.eye.devices) else {
        return eye::list(args.task.json);
    };
    let mut eye = args.eye.open()?;
    let mut task = Task::open("watch", &args.task, BUDGET)?;
    task.answer_at_most(ANSWER_TOKENS_MAX);
    let mut watch = Watch::new(task, words(question), args.task.json);
    while let Some(frame) = eye.next(args.every)? {
        watch.n_frames += 1;
        let change = watch.scene.difference(&frame);
        if 100.0 * change >= args.change {
            watch.look(&frame, change)?;
        }
    }
    watch.finish()
}

/// Returns what is asked behind the pictures.
fn words(question: &str) -> String {
    format!(
        "These are pictures from one camera, oldest first. {question}\n\n\
        Answer about the last picture. If there is nothing to tell, answer only: no"
    )
}

/// What was seen and told so far.
struct Watch<'a> {
    task: Task<'a>,
    words: String,
    is_json: bool,
    scene: Scene,
    history: History,
    last_told: String,
    n_frames: u64,
    n_looks: u64,
    n_told: u64,
}

impl<'a> Watch<'a> {
    fn new(task: Task<'a>, words: String, is_json: bool) -> Self {
        let history = History { pictures: Vec::new(), n_tokens_max: task.n_soft_max() };
        let (scene, last_told) = (Scene::default(), String::new());
        let (n_frames, n_looks, n_told) = (0, 0, 0);
        Self { task, words, is_json, scene, history, last_told, n_frames, n_looks, n_told }
    }

    /// Looks at a frame and tells what is to be told; an answer is not told twice in a row.
    fn look(&mut self, frame: &Frame, change: f32) -> Result<()> {
        self.n_looks += 1;
        self.scene.keep(frame);
        let (encoded, took) = self.task.look(frame)?;
        self.history.add(encoded);
        let outcome = self.task.answer(&self.history.pictures, &self.words, false)?;
        let answer = outcome.parsed.answer.trim();
        let is_told = !is_no(answer) && answer != self.last_told;
        if is_no(answer) {
            self.last_told.clear();
        } else {
            answer.clone_into(&mut self.last_told);
        }
        self.n_told += u64::from(is_told);
        let at_s = frame.captured_at_ns as f64 / 1e9;
        if self.is_json {
            return print::json(&self.document(&outcome, [at_s, f64::from(change)], took, is_told));
        }
        match is_told {
            true => print::result(&format!("{}\n", answer.replace('\n', " "))),
            false => Ok(()),
        }
    }

    /// Returns what is told of a look, spoken or silent.
    fn document(
        &self,
        outcome: &Outcome,
        [at_s, change]: [f64; 2],
        took: Duration,
        is_told: bool,
    ) -> Value {
        let rounded = |value: f64| (value * 1e4).round() / 1e4;
        let n_media = self.history.n_tokens();
        let mut told = outcome.to_json(n_media, [Duration::ZERO, took]);
        json!({
            "at_s": rounded(at_s),
            "change": rounded(change),
            "told": is_told,
            "text": outcome.parsed.answer.trim(),
            "pictures": self.history.pictures.len(),
            "reused": outcome.stats.n_reused,
            "tokens": told["tokens"].take(),
            "times_ms": told["times_ms"].take(),
        })
    }

    /// Tells how much was seen.
    fn finish(self) -> Result<()> {
        let n_unchanged = self.n_frames - self.n_looks;
        if self.is_json {
            return print::json(&json!({
                "frames": self.n_frames,
                "unchanged": n_unchanged,
                "looks": self.n_looks,
                "told": self.n_told,
            }));
        }
        log::info!("{} frames, {n_unchanged} of them unchanged", self.n_frames);
        Ok(())
    }
}

/// The pictures in the cache, oldest first.
struct History {
    pictures: Vec<Arc<Encoded>>,
    n_tokens_max: usize,
}

impl History {
    /// Adds the newest picture; where it has no room, the older half of the others leaves.
    fn add(&mut self, picture: Arc<Encoded>) {
        let n_new = picture.n_tokens();
        while !self.pictures.is_empty()
            && (self.pictures.len() == FRAMES_MAX || self.n_tokens() + n_new > self.n_tokens_max)
        {
            self.pictures.drain(..self.pictures.len().div_ceil(2));
        }
        self.pictures.push(picture);
    }

    fn n_tokens(&self) -> usize {
        self.pictures.iter().map(|p| p.n_tokens()).sum()
    }
}

/// Tells whether an answer says that there is nothing to tell.
fn is_no(answer: &str) -> bool {
    let words = answer.trim_start_matches(|c: char| !c.is_alphanumeric());
    let first = words.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    first.is_empty() || first.eq_ignore_ascii_case("no")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_begin_with_no_are_silent() {
        let silent = ["no", "No.", " **NO**", "\"no\"", "No, only a table.", "", "...\n"];
        let told = ["Now it is open", "nobody", "None", "A dog: no cat", "north"];
        assert!(silent.iter().all(|text| is_no(text)), "{silent:?}");
        assert!(told.iter().all(|text| !is_no(text)), "{told:?}");
    }

    #[test]
    fn intervals_and_shares_are_checked() {
        assert_eq!(parse_every("0.5"), Ok(Duration::from_millis(500)));
        for text in ["", "-1", "nan", "1e9", "x"] {
            assert!(parse_every(text).is_err() && parse_percent(text).is_err(), "{text}");
        }
    }
}
