//! `culet watch`: looks again and again, and speaks when there is something to tell.
//! In: a camera or a recording, what to tell. Out: a line for each answer that is not "no".
//! Invariant: a scene that did not change is never encoded; the cache holds a bounded history; at
//! most one picture is encoded ahead.

use std::sync::Arc;
use std::time::Duration;

use culet::Error;
use culet::Frame;
use culet::Result;
use culet::frontend::change::Scene;
use culet::session::Encoded;
use culet::session::Scout;
use serde_json::Value;
use serde_json::json;

use crate::cli::look::eye;
use crate::cli::look::eye::Eye;
use crate::cli::look::eye::EyeArgs;
use crate::cli::look::task::Ahead;
use crate::cli::look::task::Budget;
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
    /// Encode the next picture while an answer is made
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    ahead: Ahead,
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
    let eye = args.eye.open()?;
    let mut task = Task::open("watch", &args.task, BUDGET)?;
    task.answer_at_most(ANSWER_TOKENS_MAX);
    let scout = task.scout(args.ahead)?;
    let mut lookout = Lookout::new(eye, args, scout.map(|scout| (scout, task.budgets())));
    let mut watch = Watch::new(task, words(question), args.task.json);
    while let Some(sight) = lookout.next()? {
        watch.look(sight, &mut lookout)?;
    }
    watch.finish(lookout.n_frames)
}

/// Returns what is asked behind the pictures.
fn words(question: &str) -> String {
    format!(
        "These are pictures from one camera, oldest first. {question}\n\n\
        Answer about the last picture. If there is nothing to tell, answer only: no"
    )
}

/// A frame whose scene has changed.
struct Sight {
    /// Nothing once a scout has it.
    frame: Option<Frame>,
    at_s: f64,
    change: f32,
}

/// Looks out for the next sight: when it is due, and if there is a scout, while an answer is made.
struct Lookout {
    eye: Eye,
    every: Duration,
    percent_min: f32,
    scene: Scene,
    n_frames: u64,
    scout: Option<(Scout, Budget)>,
    /// What came while an answer was made: a sight that the scout has, or what went wrong.
    ahead: Option<Result<Sight>>,
}

impl Lookout {
    fn new(eye: Eye, args: &Args, scout: Option<(Scout, Budget)>) -> Self {
        let (every, percent_min, scene) = (args.every, args.change, Scene::default());
        Self { eye, every, percent_min, scene, n_frames: 0, scout, ahead: None }
    }

    /// Waits for the next sight; nothing if no frame follows.
    fn next(&mut self) -> Result<Option<Sight>> {
        if let Some(sight) = self.ahead.take() {
            return sight.map(Some);
        }
        while let Some(frame) = self.eye.next(self.every)? {
            if let Some(sight) = self.sight(frame) {
                return Ok(Some(sight));
            }
        }
        Ok(None)
    }

    /// Gives the scout a sight, if there is one by now and the scout has none.
    fn look_ahead(&mut self) {
        if self.scout.is_some() && self.ahead.is_none() {
            self.ahead = self.sight_ahead().transpose();
        }
    }

    fn sight_ahead(&mut self) -> Result<Option<Sight>> {
        let Some(frame) = self.eye.peek(self.every)? else { return Ok(None) };
        let Some(mut sight) = self.sight(frame) else { return Ok(None) };
        if let (Some((scout, budgets)), Some(frame)) = (&mut self.scout, sight.frame.take()) {
            let budget = budgets.of(frame.width(), frame.height())?;
            scout.look(frame, budget)?;
        }
        Ok(Some(sight))
    }

    /// Counts a frame, and returns it if its scene has changed.
    fn sight(&mut self, frame: Frame) -> Option<Sight> {
        self.n_frames += 1;
        let change = self.scene.difference(&frame);
        if 100.0 * change < self.percent_min {
            return None;
        }
        self.scene.keep(&frame);
        let at_s = frame.captured_at_ns as f64 / 1e9;
        Some(Sight { frame: Some(frame), at_s, change })
    }

    /// Returns a sight's soft tokens, and the time that they were waited for.
    fn encoded(&mut self, sight: &Sight, task: &mut Task<'_>) -> Result<(Arc<Encoded>, Duration)> {
        match (&sight.frame, &mut self.scout) {
            (Some(frame), _) => task.look(frame),
            (None, Some((scout, _))) => task.take_in(scout),
            (None, None) => Err(Error::internal("a sight without a frame")),
        }
    }
}

/// What was told so far.
struct Watch<'a> {
    task: Task<'a>,
    words: String,
    is_json: bool,
    history: History,
    last_told: String,
    n_looks: u64,
    n_told: u64,
}

impl<'a> Watch<'a> {
    fn new(task: Task<'a>, words: String, is_json: bool) -> Self {
        let history = History { pictures: Vec::new(), n_tokens_max: task.n_soft_max() };
        let (last_told, n_looks, n_told) = (String::new(), 0, 0);
        Self { task, words, is_json, history, last_told, n_looks, n_told }
    }

    /// Looks at a sight and tells what is to be told; an answer is not told twice in a row.
    fn look(&mut self, sight: Sight, lookout: &mut Lookout) -> Result<()> {
        self.n_looks += 1;
        let (encoded, took) = lookout.encoded(&sight, &mut self.task)?;
        self.history.add(encoded);
        let pictures = &self.history.pictures;
        let meanwhile = &mut || lookout.look_ahead();
        let outcome = self.task.answer_while(pictures, &self.words, false, meanwhile)?;
        let answer = outcome.parsed.answer.trim();
        let is_told = !is_no(answer) && answer != self.last_told;
        if is_no(answer) {
            self.last_told.clear();
        } else {
            answer.clone_into(&mut self.last_told);
        }
        self.n_told += u64::from(is_told);
        if self.is_json {
            return print::json(&self.document(&outcome, &sight, took, is_told));
        }
        match is_told {
            true => print::result(&format!("{}\n", answer.replace('\n', " "))),
            false => Ok(()),
        }
    }

    /// Returns what is told of a look, spoken or silent.
    fn document(&self, outcome: &Outcome, sight: &Sight, took: Duration, is_told: bool) -> Value {
        let rounded = |value: f64| (value * 1e4).round() / 1e4;
        let n_media = self.history.n_tokens();
        let mut told = outcome.to_json(n_media, [Duration::ZERO, took]);
        json!({
            "at_s": rounded(sight.at_s),
            "change": rounded(f64::from(sight.change)),
            "told": is_told,
            "ahead": sight.frame.is_none(),
            "text": outcome.parsed.answer.trim(),
            "pictures": self.history.pictures.len(),
            "reused": outcome.stats.n_reused,
            "tokens": told["tokens"].take(),
            "times_ms": told["times_ms"].take(),
        })
    }

    /// Tells how much was seen.
    fn finish(self, n_frames: u64) -> Result<()> {
        let n_unchanged = n_frames - self.n_looks;
        if self.is_json {
            return print::json(&json!({
                "frames": n_frames,
                "unchanged": n_unchanged,
                "looks": self.n_looks,
                "told": self.n_told,
            }));
        }
        log::info!("{n_frames} frames, {n_unchanged} of them unchanged");
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
