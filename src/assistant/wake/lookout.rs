//! The small model that overhears, and writes down only as much as the phrase is long.
//! In: an utterance as it comes. Out: whether it begins with the phrase.
//! Invariant: nothing that was overheard is kept beyond its utterance, or told to anybody.

use crate::assistant::dictation::about_sound;
use crate::assistant::dictation::transcribe_prompt;
use crate::assistant::wake::phrase::Called;
use crate::assistant::wake::phrase::Phrase;
use crate::error::Result;
use crate::media::Pcm;
use crate::session::Session;
use crate::session::SessionOptions;
use crate::text::Conversation;
use crate::text::Event;

/// Most tokens that are written to see whether a phrase is there.
const TOKENS_MAX: usize = 64;
/// Positions for the words around an utterance, what is overheard of it, and a phrase.
const N_CTX: usize = 1024;

/// Overhears utterances for a phrase.
pub struct Lookout {
    session: Session,
    conversation: Conversation,
    phrase: Phrase,
    is_open: bool,
}

impl Lookout {
    /// Returns how the session is made, for a model that was trained on contexts of `n_ctx_train`.
    pub fn options(n_ctx_train: usize) -> SessionOptions {
        SessionOptions::greedy(N_CTX.min(n_ctx_train))
    }

    /// Looks out for a phrase in what `session` writes down.
    ///
    /// # Errors
    /// `Input` if its model has no encoder for sound.
    pub fn new(session: Session, phrase: Phrase) -> Result<Self> {
        let conversation = about_sound(&transcribe_prompt(None));
        let mut lookout = Self { session, conversation, phrase, is_open: false };
        lookout.session.begin_sound(&lookout.conversation, &[])?;
        Ok(lookout)
    }

    /// Returns the session, for its cancel flag.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Takes in more of the utterance, or the start of the next one.
    pub(in crate::assistant) fn hear(&mut self, pcm: &Pcm) -> Result<()> {
        if !std::mem::replace(&mut self.is_open, true) {
            self.session.begin_sound(&self.conversation, &[])?;
        }
        self.session.hear(pcm)
    }

    /// Looks for the phrase in what was heard of the utterance, which may go on.
    pub(in crate::assistant) fn look(&mut self) -> Result<Called> {
        if !self.is_open {
            return Ok(Called::No);
        }
        self.session.guess_end()?;
        let called = self.read();
        self.session.take_back()?;
        called
    }

    fn read(&mut self) -> Result<Called> {
        let mut transcript = String::new();
        for _ in 0..TOKENS_MAX {
            let goes_on = self.session.next(&mut |event| {
                if let Event::Answer(text) = event {
                    transcript.push_str(text);
                }
            })?;
            let called = self.phrase.call(&transcript, !goes_on);
            if let Some(called) = called {
                return Ok(called);
            }
        }
        Ok(Called::No)
    }

    /// Forgets the utterance.
    pub(in crate::assistant) fn forget(&mut self) {
        self.is_open = false;
    }
}
