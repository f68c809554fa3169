//! A conversation with its media, kept in a file between runs if the person wants it.
//! In: how it begins, `--session`'s file. Out: the conversation, and the file after each answer.
//! Joint: the file is a snapshot of the session, whose note is the conversation as JSON.
//! Invariant: a file that does not fit is refused and stays as it is.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use culet::Error;
use culet::Result;
use culet::session::Encoded;
use culet::session::Session;
use culet::text::Conversation;
use serde_json::Value;

use crate::cli::run::answer::Outcome;
use crate::cli::run::ask::message;

/// A conversation so far.
pub(super) struct Story {
    pub(super) conversation: Conversation,
    /// Media of the conversation, in order.
    pub(super) media: Vec<Arc<Encoded>>,
    file: Option<PathBuf>,
}

impl Story {
    /// Begins a conversation, or goes on with the one that the file holds.
    ///
    /// # Errors
    /// As for [`Session::restore_from_file`]; `Input` if the file's conversation began otherwise.
    pub(super) fn open(
        opening: Conversation,
        file: Option<&Path>,
        session: &mut Session,
    ) -> Result<Self> {
        let file = file.map(Path::to_path_buf);
        let Some(path) = file.as_ref().filter(|path| path.exists()) else {
            return Ok(Self { conversation: opening, media: Vec::new(), file });
        };
        let (conversation, media) = session.restore_from_file(path, |restored| {
            let malformed = |_| Error::format("the conversation in it cannot be read");
            let note: Value = serde_json::from_slice(&restored.note).map_err(malformed)?;
            let conversation = Conversation::from_json(&note)?;
            if !begins(&conversation, &opening) {
                return Err(Error::input(
                    "the conversation in it began otherwise; leave out --system, --tools and \
                     --think, or name another file",
                ));
            }
            if conversation.media().count() != restored.media.len() {
                return Err(Error::format("the conversation in it lacks media"));
            }
            Ok((conversation, restored.media))
        })?;
        log::info!("{}: {} messages", path.display(), conversation.messages.len());
        Ok(Self { conversation, media, file })
    }

    /// Adds what the person says.
    pub(super) fn ask(&mut self, media: Vec<Arc<Encoded>>, text: String) {
        self.conversation.messages.push(message(&media, text));
        self.media.extend(media);
    }

    /// Begins anew; the file stays as it is until the next answer.
    pub(super) fn forget(&mut self, opening: Conversation) {
        self.conversation = opening;
        self.media.clear();
    }

    /// Takes back what was said after so many messages and media, and returns those media.
    pub(super) fn take_back(&mut self, n_messages: usize, n_media: usize) -> Vec<Arc<Encoded>> {
        self.conversation.messages.truncate(n_messages);
        self.media.split_off(n_media)
    }

    /// Adds an answer, and writes the file.
    ///
    /// # Errors
    /// As for [`Session::snapshot_to_file`].
    pub(super) fn keep(&mut self, outcome: Outcome, session: &Session) -> Result<()> {
        self.conversation.messages.push(outcome.parsed.into_message());
        let Some(path) = &self.file else { return Ok(()) };
        let note = self.conversation.to_json().to_string();
        session.snapshot_to_file(&self.media, note.as_bytes(), path)
    }
}

/// Tells whether a conversation begins as asked; one that asks for nothing fits all.
fn begins(conversation: &Conversation, opening: &Conversation) -> bool {
    let asks_nothing = opening.messages.is_empty() && opening.tools.is_empty() && !opening.thinking;
    let begins = |c: &Conversation| {
        let mut first = c.clone();
        first.messages.truncate(opening.messages.len());
        first.to_json()
    };
    asks_nothing || begins(conversation) == begins(opening)
}

#[cfg(test)]
mod tests {
    use culet::text::Message;
    use culet::text::Role;

    use super::*;

    #[test]
    fn openings_must_agree_if_any_is_asked_for() {
        let [none, brief, long] = [vec![], vec!["Be brief."], vec!["Tell all."]].map(|texts| {
            let texts = texts.into_iter().map(|text| Message::text(Role::System, text));
            Conversation::new(texts.collect())
        });
        let mut told = brief.clone();
        told.messages.push(Message::text(Role::User, "Hello."));
        assert!(begins(&told, &brief) && begins(&told, &none));
        assert!(!begins(&told, &long) && !begins(&none, &brief));
        let thinking = Conversation { thinking: true, ..brief.clone() };
        assert!(!begins(&told, &thinking));
    }
}
