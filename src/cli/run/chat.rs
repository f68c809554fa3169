//! A conversation at a terminal.
//! In: lines. Out: answers as they are made.
//! Invariant: a turn that fails takes nothing from the conversation before it; what was typed is
//! kept in memory only.

use std::path::Path;
use std::sync::Arc;

use culet::Error;
use culet::ErrorKind;
use culet::Result;
use culet::session::Encoded;
use culet::session::Session;
use culet::text::MediaKind;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::cli::print;
use crate::cli::run::Args;
use crate::cli::run::answer;
use crate::cli::run::answer::Outcome;
use crate::cli::run::answer::Writer;
use crate::cli::run::attach;
use crate::cli::run::stop;
use crate::cli::run::stop::Stoppable;
use crate::cli::run::story::Story;

const HELP: &str = "\
/image PATH   show a picture with the next question
/audio PATH   let it hear a sound with the next question
/clear        forget the conversation
/help         this list
/quit         leave; so does Ctrl-D
Ctrl-C stops an answer; at the prompt it leaves.";

/// A conversation in progress.
struct Chat<'a> {
    args: &'a Args,
    session: Session,
    story: Story,
    /// Media of the next question.
    pending: Vec<Arc<Encoded>>,
}

/// What a line asks for.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Nothing,
    Help,
    Clear,
    Quit,
    Attach(MediaKind, &'a str),
    Unknown(&'a str),
    Words(&'a str),
}

/// Chats until the person leaves.
pub(super) fn chat(args: &Args) -> Result<()> {
    let opening = args.opening.conversation()?;
    // The editor takes Ctrl-C for itself when it is made, so listening comes after it.
    let mut editor = DefaultEditor::new().map_err(broken_terminal)?;
    stop::listen()?;
    let engine = args.model.open(false)?;
    let mut session = args.sampling.session(&engine, args.sampling.seed())?;
    let story = Story::open(opening, args.session.as_deref(), &mut session)?;
    let mut chat = Chat { args, session, story, pending: Vec::new() };
    print::say(&format!("{}; /help tells what can be typed", engine.file().name()));
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(ReadlineError::Interrupted) => return Err(Error::cancelled()),
            Err(e) => return Err(broken_terminal(e)),
        };
        // A line that cannot be remembered can still be answered.
        let _ = editor.add_history_entry(&line);
        let line = parse(&line);
        if line == Line::Quit {
            return Ok(());
        }
        match chat.take(&line) {
            Err(e) if e.kind() == ErrorKind::Cancelled => print::say("stopped"),
            Err(e) if print::is_closed_pipe(&e) => return Err(e),
            Err(e) => print::say_part(&print::failure_text(&e)),
            Ok(()) => {}
        }
    }
}

fn broken_terminal(e: ReadlineError) -> Error {
    Error::io("the terminal cannot be read").with_source(e)
}

fn parse(line: &str) -> Line<'_> {
    let line = line.trim();
    if line.is_empty() {
        return Line::Nothing;
    }
    if !line.starts_with('/') {
        return Line::Words(line);
    }
    let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match (verb, rest.trim()) {
        ("/help", _) => Line::Help,
        ("/clear", _) => Line::Clear,
        ("/quit" | "/exit", _) => Line::Quit,
        ("/image", path) => Line::Attach(MediaKind::Image, path),
        ("/audio", path) => Line::Attach(MediaKind::Audio, path),
        (verb, _) => Line::Unknown(verb),
    }
}

impl Chat<'_> {
    fn take(&mut self, line: &Line<'_>) -> Result<()> {
        match line {
            Line::Nothing | Line::Quit => Ok(()),
            Line::Help => {
                print::say(HELP);
                Ok(())
            }
            Line::Clear => self.clear(),
            Line::Attach(_, "") => {
                print::say("name the file, as in /image photo.jpg");
                Ok(())
            }
            Line::Attach(kind, path) => self.attach(*kind, Path::new(path)),
            Line::Unknown(verb) => {
                print::say(&format!("{verb} is not known; /help tells what is"));
                Ok(())
            }
            Line::Words(text) => self.ask((*text).to_owned()),
        }
    }

    fn clear(&mut self) -> Result<()> {
        self.session.clear()?;
        self.story.forget(self.args.opening.conversation()?);
        self.pending.clear();
        print::say("the conversation is forgotten");
        Ok(())
    }

    fn attach(&mut self, kind: MediaKind, path: &Path) -> Result<()> {
        let _stoppable = Stoppable::new(self.session.cancel());
        let encoded = attach::encode(&mut self.session, kind, path, self.args.picture.budget)?;
        print::say(&format!("{} soft tokens; now ask about it", encoded.n_tokens()));
        self.pending.push(encoded);
        Ok(())
    }

    /// Asks; on error the conversation is as before and the media wait for the next question.
    fn ask(&mut self, text: String) -> Result<()> {
        let (n_messages, n_media) =
            (self.story.conversation.messages.len(), self.story.media.len());
        self.story.ask(std::mem::take(&mut self.pending), text);
        let mut writer = Writer::default();
        let n_max = self.args.sampling.n_max();
        let outcome = answer::answer(
            &mut self.session,
            &self.story.conversation,
            &self.story.media,
            n_max,
            &mut |event| writer.show(event),
        );
        match outcome {
            Ok(outcome) => self.keep(outcome),
            Err(e) => {
                self.pending = self.story.take_back(n_messages, n_media);
                Err(e)
            }
        }
    }

    fn keep(&mut self, outcome: Outcome) -> Result<()> {
        outcome.log_times();
        if outcome.is_interrupted() {
            print::say("stopped");
        }
        if outcome.stop == "context" {
            print::say("the context is full; /clear forgets the conversation, --ctx makes room");
        }
        self.story.keep(outcome, &self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_ask_for_what_they_say() {
        let cases = [
            ("  ", Line::Nothing),
            ("/help", Line::Help),
            ("/clear ", Line::Clear),
            ("/quit", Line::Quit),
            ("/image  a b.png ", Line::Attach(MediaKind::Image, "a b.png")),
            ("/audio", Line::Attach(MediaKind::Audio, "")),
            ("/nonsense x", Line::Unknown("/nonsense")),
            (" why / how? ", Line::Words("why / how?")),
        ];
        for (line, want) in cases {
            assert_eq!(parse(line), want, "{line}");
        }
    }
}
