//! What verbs that look have in common: options, an open session, pictures, one answer.
//! In: arguments, pictures, words. Out: the answer as it is made, or one JSON document.
//! Invariant: the best token is always taken, so the same picture gives the same answer.

use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use culet::Error;
use culet::ErrorKind;
use culet::Frame;
use culet::Pcm;
use culet::Result;
use culet::engine::Engine;
use culet::session::Encoded;
use culet::session::Scout;
use culet::session::Session;
use culet::session::SessionOptions;
use culet::source::FrameStream;
use culet::source::image_file;
use culet::source::image_file::IMAGE_FILE_BYTES_MAX;
use culet::text::Conversation;
use image::ExtendedColorType;
use image::ImageFormat;
use serde_json::Value;
use serde_json::json;

use crate::cli::model::ModelArgs;
use crate::cli::print;
use crate::cli::print::Progress;
use crate::cli::run::answer;
use crate::cli::run::answer::Outcome;
use crate::cli::run::answer::Writer;
use crate::cli::run::message;
use crate::cli::run::parse_budget;
use crate::cli::run::stop;
use crate::cli::run::stop::Stoppable;

/// Most tokens of pictures, words and answer together, where nobody needs more.
const N_CTX: usize = 4096;
/// How stdin is called where a file is named.
pub(super) const STDIN: &str = "-";

/// What every verb that looks is told.
#[derive(clap::Args)]
pub(super) struct TaskArgs {
    /// Most soft tokens of a picture: 70, 140, 280, 560 or 1120 [default: by task and model]
    #[arg(long, value_name = "N", value_parser = parse_budget)]
    pub(super) budget: Option<u32>,
    /// Most tokens of the answer [default: what the conversation holds]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Write one JSON document: text, counts and times
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// Which picture of a file.
#[derive(clap::Args)]
pub(super) struct FrameArgs {
    /// Of a moving gif or webp, look at this frame, counted from 0
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    frame: usize,
}

impl FrameArgs {
    /// Reads a picture; `-` is stdin.
    ///
    /// # Errors
    /// As for [`image_file::open`]; `Input` if a moving picture has fewer frames.
    pub(super) fn read(&self, path: &Path) -> Result<Frame> {
        let mut frames = match path.as_os_str() == STDIN {
            true => FrameStream::from_bytes(stdin()?)?,
            false if self.frame == 0 => return image_file::open(path),
            false => FrameStream::open(path)?,
        };
        let mut n = 0;
        loop {
            match frames.next() {
                Some(frame) if n == self.frame => return frame,
                Some(frame) => drop(frame?),
                None => {
                    let (name, wanted) = (path.display(), self.frame);
                    return Err(Error::input(format!(
                        "{name}: has {n} frames, so there is no frame {wanted}; they count from 0"
                    )));
                }
            }
            n += 1;
        }
    }
}

fn stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut stdin = std::io::stdin().lock().take(IMAGE_FILE_BYTES_MAX + 1);
    stdin.read_to_end(&mut bytes).map_err(|e| Error::io("stdin cannot be read").with_source(e))?;
    Ok(bytes)
}

/// Whether the next picture is encoded while an answer is made.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Ahead {
    /// With four threads or more, where the memory limit has room
    Auto,
    /// On any number of threads
    Always,
    /// One after the other
    Never,
}

/// How the budget of a picture is chosen.
pub(super) struct Budget {
    engine: Arc<Engine>,
    asked: Option<u32>,
    usual: u32,
    n_soft_max: usize,
}

impl Budget {
    /// Returns the budget for pictures of these sides: the one asked for, or the largest up to
    /// the task's own that the model and the conversation have room for.
    pub(super) fn of(&self, width: u32, height: u32) -> Result<u32> {
        match self.asked {
            Some(budget) => Ok(budget),
            None => {
                let vision = self.engine.vision()?;
                vision.budget_for((width, height), self.usual, self.n_soft_max)
            }
        }
    }
}

/// A verb at work: an open session and what it saw.
pub(super) struct Task<'a> {
    args: &'a TaskArgs,
    name: &'static str,
    budget: u32,
    n_answer_max: usize,
    session: Session,
    seen: Vec<Value>,
    n_soft: usize,
    opened: Duration,
    encoded: Duration,
}

impl<'a> Task<'a> {
    /// Opens the model; `budget` is what the task wants where nobody chose another.
    ///
    /// # Errors
    /// Whatever opening brings; `Input` if the model has no encoder for pictures.
    pub(super) fn open(name: &'static str, args: &'a TaskArgs, budget: u32) -> Result<Self> {
        Self::with_room(name, args, budget, N_CTX)
    }

    /// The same, with room for `n_ctx` tokens, or as many as the model takes.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub(super) fn with_room(
        name: &'static str,
        args: &'a TaskArgs,
        budget: u32,
        n_ctx: usize,
    ) -> Result<Self> {
        stop::listen()?;
        let start = Instant::now();
        let engine = args.model.open(true)?;
        engine.vision()?;
        let n_ctx = n_ctx.min(engine.decoder().hparams().n_ctx_train);
        let session = Session::new(&engine, &SessionOptions::greedy(n_ctx))?;
        let n_answer_max = args.max_tokens.map_or(usize::MAX, |n| n as usize);
        let (seen, encoded, opened) = (Vec::new(), Duration::ZERO, start.elapsed());
        let n_soft = 0;
        Ok(Self { args, name, budget, n_answer_max, session, seen, n_soft, opened, encoded })
    }

    /// Returns the most tokens of pictures, words and answer together.
    pub(super) fn n_ctx(&self) -> usize {
        self.session.n_ctx()
    }

    /// Returns the budget that was asked for, or else the task's own.
    pub(super) fn wanted_budget(&self) -> u32 {
        self.args.budget.unwrap_or(self.budget)
    }

    /// Tells whether the model has an encoder for sound.
    pub(super) fn hears(&self) -> bool {
        self.session.engine().hears()
    }

    /// Lets answers have at most `n` tokens, unless the person chose a limit.
    pub(super) fn answer_at_most(&mut self, n: usize) {
        if self.args.max_tokens.is_none() {
            self.n_answer_max = n;
        }
    }

    /// Returns the most soft tokens that leave room for words and an answer.
    pub(super) fn n_soft_max(&self) -> usize {
        self.session.n_ctx() / 2
    }

    /// Returns how pictures' budgets are chosen.
    pub(super) fn budgets(&self) -> Budget {
        let (engine, n_soft_max) = (Arc::clone(self.session.engine()), self.n_soft_max());
        Budget { engine, asked: self.args.budget, usual: self.budget, n_soft_max }
    }

    /// Encodes a picture and returns the time it took.
    ///
    /// # Errors
    /// As for [`Session::encode_picture`]; `Cancelled` if Ctrl-C came.
    pub(super) fn look(&mut self, frame: &Frame) -> Result<(Arc<Encoded>, Duration)> {
        let budget = self.budgets().of(frame.width(), frame.height())?;
        self.timed(|session| session.encode_picture(frame, budget))
    }

    /// Starts a scout for pictures of any sides, if one is wanted.
    ///
    /// # Errors
    /// As for [`Session::scout`], where one is wanted always.
    pub(super) fn scout(&mut self, ahead: Ahead) -> Result<Option<Scout>> {
        let is_wanted = match ahead {
            Ahead::Auto => self.session.is_scout_worth(),
            Ahead::Always => true,
            Ahead::Never => false,
        };
        if !is_wanted {
            return Ok(None);
        }
        match self.session.scout(self.wanted_budget()) {
            Err(e) if ahead == Ahead::Auto && e.kind() == ErrorKind::Memory => {
                log::info!("pictures are not encoded ahead: {e}");
                Ok(None)
            }
            scout => scout.map(Some),
        }
    }

    /// Takes the picture that a scout was given, and returns the time that it was waited for.
    ///
    /// # Errors
    /// As for [`Scout::seen`]; `Cancelled` if Ctrl-C came.
    pub(super) fn take_in(&mut self, scout: &mut Scout) -> Result<(Arc<Encoded>, Duration)> {
        let cancel = scout.cancel().clone();
        let _stoppable = Stoppable::new(&cancel);
        let start = Instant::now();
        let encoded = scout.seen();
        if cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        Ok((self.session.keep(encoded?), start.elapsed()))
    }

    /// Encodes a picture that came from `path`, and tells of it in the JSON document.
    ///
    /// # Errors
    /// As for [`look`](Self::look), with the file's name.
    pub(super) fn encode(&mut self, path: &Path, frame: &Frame) -> Result<Arc<Encoded>> {
        let mut progress = Progress::new();
        progress.set(&format!("looking at {}", path.display()));
        let (width, height) = (frame.width(), frame.height());
        let budget = self.budgets().of(width, height)?;
        let looked = self.timed(|session| session.encode_picture(frame, budget));
        let (encoded, took) = looked.map_err(|e| e.at(path.display()))?;
        self.count(&encoded, took);
        let (n, ms) = (encoded.n_tokens(), took.as_secs_f64() * 1e3);
        log::info!("{}: {n} soft tokens of {budget}, {ms:.0} ms", path.display());
        self.seen.push(json!({
            "file": path.display().to_string(),
            "width": width,
            "height": height,
            "budget": budget,
            "tokens": n,
        }));
        Ok(encoded)
    }

    /// Encodes the frames of a video, with their times in seconds.
    ///
    /// # Errors
    /// As for [`Session::encode_video`]; `Cancelled` if Ctrl-C came.
    pub(super) fn encode_video(
        &mut self,
        frames: impl Iterator<Item = Result<(f64, Frame)>>,
        budget: u32,
    ) -> Result<Arc<Encoded>> {
        let (encoded, took) = self.timed(|session| session.encode_video(frames, budget))?;
        self.count(&encoded, took);
        Ok(encoded)
    }

    /// Encodes a sound.
    ///
    /// # Errors
    /// As for [`Session::encode_sound`]; `Cancelled` if Ctrl-C came.
    pub(super) fn encode_sound(
        &mut self,
        blocks: impl Iterator<Item = Result<Pcm>>,
    ) -> Result<Arc<Encoded>> {
        let (encoded, took) = self.timed(|session| session.encode_sound(blocks))?;
        self.count(&encoded, took);
        Ok(encoded)
    }

    /// Encodes until Ctrl-C and returns the time it took.
    fn timed(
        &mut self,
        encode: impl FnOnce(&mut Session) -> Result<Arc<Encoded>>,
    ) -> Result<(Arc<Encoded>, Duration)> {
        let cancel = self.session.cancel().clone();
        let _stoppable = Stoppable::new(&cancel);
        let start = Instant::now();
        let encoded = encode(&mut self.session);
        if cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        Ok((encoded?, start.elapsed()))
    }

    /// Counts what the JSON document tells of all media.
    fn count(&mut self, encoded: &Encoded, took: Duration) {
        self.encoded += took;
        self.n_soft += encoded.n_tokens();
    }

    /// Answers words about pictures; with `is_shown`, the answer is written as it is made.
    ///
    /// # Errors
    /// Whatever the session brings; `Cancelled` if Ctrl-C came.
    pub(super) fn answer(
        &mut self,
        media: &[Arc<Encoded>],
        words: &str,
        is_shown: bool,
    ) -> Result<Outcome> {
        self.answer_while(media, words, is_shown, &mut || {})
    }

    /// The same, and calls `meanwhile` whenever a part of the answer is there.
    ///
    /// # Errors
    /// As for [`answer`](Self::answer).
    pub(super) fn answer_while(
        &mut self,
        media: &[Arc<Encoded>],
        words: &str,
        is_shown: bool,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<Outcome> {
        let conversation = Conversation::new(vec![message(media, words.to_owned())]);
        let mut writer = Writer::default();
        let n_max = self.n_answer_max;
        let is_shown = is_shown && !self.args.json;
        let outcome =
            answer::answer(&mut self.session, &conversation, media, n_max, &mut |event| {
                meanwhile();
                if is_shown { writer.show(event) } else { Ok(()) }
            })?;
        outcome.log_times();
        match outcome.is_interrupted() {
            true => Err(Error::cancelled()),
            false => Ok(outcome),
        }
    }

    /// Writes the JSON document, if one is wanted: what all tasks tell, and what is the task's own.
    pub(super) fn finish(self, outcome: &Outcome, text: &str, own: Value) -> Result<()> {
        if !self.args.json {
            return Ok(());
        }
        let mut document = json!({ "task": self.name, "text": text, "pictures": self.seen });
        for more in [own, outcome.to_json(self.n_soft, [self.opened, self.encoded])] {
            let fields = more.as_object().into_iter().flatten();
            for (key, value) in fields.filter(|(key, _)| *key != "text") {
                document[key] = value.clone();
            }
        }
        print::json(&document)
    }
}

/// Reads the name of a picture to write.
pub(super) fn parse_output(text: &str) -> std::result::Result<PathBuf, String> {
    let format = ImageFormat::from_path(text).ok().filter(ImageFormat::writing_enabled);
    let wrong = || "expected a name that ends in .png, .jpg, .webp, .gif or .bmp".to_owned();
    format.map(|_| PathBuf::from(text)).ok_or_else(wrong)
}

/// Writes a picture, of the kind that its name says.
pub(super) fn save(path: &Path, frame: &Frame) -> Result<()> {
    image::save_buffer(path, frame.rgb(), frame.width(), frame.height(), ExtendedColorType::Rgb8)
        .map_err(|e| Error::io(format!("{}: cannot be written", path.display())).with_source(e))
}

/// Returns the path of a picture as it was given.
pub(super) fn parse_path(text: &str) -> std::result::Result<PathBuf, String> {
    match text.is_empty() {
        true => Err("expected a file, or - for stdin".to_owned()),
        false => Ok(PathBuf::from(text)),
    }
}
