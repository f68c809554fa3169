//! One question: prompt, pictures and sounds in, one answer out.
//! In: arguments, stdin. Out: the answer as it is made, or one JSON document.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use culet::Error;
use culet::Result;
use culet::session::Encoded;
use culet::session::Session;
use culet::text::Message;
use culet::text::Part;
use culet::text::Role;
use culet::text::conversation::Content;
use culet::text::tokenizer::TEXT_BYTES_MAX;

use crate::cli::print;
use crate::cli::run::Args;
use crate::cli::run::answer;
use crate::cli::run::answer::Writer;
use crate::cli::run::attach;
use crate::cli::run::stop;
use crate::cli::run::stop::Stoppable;
use crate::cli::run::story::Story;

/// A question that can be answered.
pub(crate) struct Question {
    pub(crate) session: Session,
    story: Story,
    /// Soft tokens of its pictures and sounds.
    n_media: usize,
    /// Where the random numbers begin.
    seed: u64,
    /// What opening the model and encoding the media took.
    times: [Duration; 2],
}

impl Question {
    /// Opens the model and encodes what the question is about.
    ///
    /// # Errors
    /// Whatever the arguments, opening and encoding bring.
    pub(crate) fn new(args: &Args, is_terminal: bool) -> Result<Self> {
        stop::listen()?;
        let text = question(args, is_terminal)?;
        let opening = args.opening.conversation()?;
        let start = Instant::now();
        let engine = args.model.open(!args.attached.files.is_empty())?;
        let seed = args.sampling.seed();
        let mut session = args.sampling.session(&engine, seed)?;
        let mut story = Story::open(opening, args.session.as_deref(), &mut session)?;
        let opened = start.elapsed();
        log::info!("opened in {:.0} ms", opened.as_secs_f64() * 1e3);
        let media = encode(args, &mut session)?;
        let encoded = start.elapsed() - opened;
        let n_media = media.iter().map(|m| m.n_tokens()).sum();
        story.ask(media, text);
        Ok(Self { session, story, n_media, seed, times: [opened, encoded] })
    }

    /// Feeds the question, so that the session can answer it token by token.
    ///
    /// # Errors
    /// As for [`Session::prompt`].
    pub(crate) fn prompt(&mut self) -> Result<()> {
        self.session.prompt(&self.story.conversation, &self.story.media).map(drop)
    }
}

/// Answers one question.
pub(super) fn ask(args: &Args, is_terminal: bool) -> Result<()> {
    let Question { mut session, mut story, n_media, seed, times } =
        Question::new(args, is_terminal)?;
    let mut writer = Writer::default();
    let n_max = args.sampling.n_max();
    let outcome =
        answer::answer(&mut session, &story.conversation, &story.media, n_max, &mut |event| {
            if args.json { Ok(()) } else { writer.show(event) }
        })?;
    outcome.log_times();
    if args.json {
        let mut document = outcome.to_json(n_media, times);
        document["seed"] = seed.into();
        print::json(&document)?;
    }
    let is_interrupted = outcome.is_interrupted();
    story.keep(outcome, &session)?;
    match is_interrupted {
        true => Err(Error::cancelled()),
        false => Ok(()),
    }
}

/// Returns the words of the question, from the arguments or stdin.
fn question(args: &Args, is_terminal: bool) -> Result<String> {
    let reads = match args.prompt.as_deref() {
        Some("-") => true,
        Some(text) => return Ok(text.to_owned()),
        None => !is_terminal,
    };
    let text = if reads { read_stdin()? } else { String::new() };
    if text.trim().is_empty() && args.attached.files.is_empty() {
        print::usage("nothing to answer: give a prompt, --image or --audio");
    }
    Ok(text)
}

fn read_stdin() -> Result<String> {
    let mut bytes = Vec::new();
    let mut stdin = std::io::stdin().lock().take(TEXT_BYTES_MAX as u64 + 1);
    stdin.read_to_end(&mut bytes).map_err(|e| Error::io("stdin cannot be read").with_source(e))?;
    if bytes.len() > TEXT_BYTES_MAX {
        let text = format!("stdin has more than {TEXT_BYTES_MAX} bytes; shorten the prompt");
        return Err(Error::input(text));
    }
    let wrong = |_| Error::input("stdin is not UTF-8; convert the prompt to UTF-8");
    String::from_utf8(bytes).map_err(wrong)
}

fn encode(args: &Args, session: &mut Session) -> Result<Vec<Arc<Encoded>>> {
    let _stoppable = Stoppable::new(session.cancel());
    let mut media = Vec::new();
    for (kind, path) in &args.attached.files {
        let start = Instant::now();
        let encoded = attach::encode(session, *kind, path, args.picture.budget)?;
        let (n, ms) = (encoded.n_tokens(), start.elapsed().as_secs_f64() * 1e3);
        log::info!("{}: {n} soft tokens, {ms:.0} ms", path.display());
        media.push(encoded);
    }
    Ok(media)
}

/// Returns what the person says: media first, then the words about them.
pub(crate) fn message(media: &[Arc<Encoded>], text: String) -> Message {
    if media.is_empty() {
        return Message::text(Role::User, text);
    }
    let mut parts: Vec<Part> = media.iter().map(|m| Part::Media(m.kind(), None)).collect();
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Message::new(Role::User, Content::Parts(parts))
}
