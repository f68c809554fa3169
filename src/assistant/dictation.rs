//! Dictation: what is said becomes text, segment by segment, without history.
//! In: `Pcm` in any blocks. Out: [`Written`]: where a segment lies in the sound, and its text.
//! Invariant: sound is encoded and prefilled as it arrives, a file's like a microphone's; only
//! sound counts, so the segments do not depend on how fast it comes.
//! Source of the prompt: Gemma model card, section on speech.

use crate::assistant::ear::Ear;
use crate::assistant::ear::seconds;
use crate::assistant::event::Action;
use crate::assistant::event::Input;
use crate::assistant::event::Key;
use crate::assistant::option::TurnOptions;
use crate::error::Error;
use crate::error::Result;
use crate::media::Pcm;
use crate::session::Session;
use crate::text::Content;
use crate::text::Conversation;
use crate::text::Event;
use crate::text::MediaKind;
use crate::text::Message;
use crate::text::Part;
use crate::text::Role;
use crate::units::SAMPLE_RATE_HZ;

/// Most tokens of a segment's text.
const TOKENS_MAX: usize = 64;
/// The same for each second of its sound; fast speech has about six.
const TOKENS_PER_SECOND_MAX: f64 = 20.0;
const NS_PER_SECOND: f64 = 1e9;
const WORDS_ONLY: &str = "\n\nFollow these specific instructions for formatting the answer:\n\
    * Only output the transcription, with no newlines.\n\
    * When transcribing numbers, write the digits, i.e. write 1.7 and not one point seven, and \
    write 3 instead of three.";

/// What became of the sound.
#[derive(Clone, Copy)]
pub enum Written<'a> {
    /// Speech begins here.
    Begin {
        /// Seconds from the start of the sound.
        from_s: f64,
    },
    /// A piece of the segment's text.
    Text(&'a str),
    /// The segment is complete.
    End {
        /// Where it begins, in seconds from the start of the sound.
        from_s: f64,
        /// Where it ends.
        to_s: f64,
        /// Tokens of its text.
        n_tokens: usize,
    },
}

/// Returns the words that ask for what is said, in a language if it is known.
pub fn transcribe_prompt(language: Option<&str>) -> String {
    let how = match language {
        Some(language) => format!("in {language} into {language} text"),
        None => "in its original language".to_owned(),
    };
    format!("Transcribe the following speech segment {how}.{WORDS_ONLY}")
}

/// Returns words and, behind them, the place for a sound.
pub fn about_sound(words: &str) -> Conversation {
    let parts = vec![Part::Text(words.to_owned()), Part::Media(MediaKind::Audio, None)];
    Conversation::new(vec![Message::new(Role::User, Content::Parts(parts))])
}

/// Where text goes; an error ends the dictation.
pub type WrittenSink<'a> = dyn FnMut(Written<'_>) -> Result<()> + 'a;

/// Writes down what is said.
pub struct Dictation {
    session: Session,
    conversation: Conversation,
    ear: Ear,
    /// First sample of the open segment.
    from: Option<u64>,
    fed_to: u64,
    position: u64,
}

/// Returns how segments are cut: in pauses, in the shortest ones from 20 s on, at 30 s anyway.
pub fn dictation_options() -> TurnOptions {
    TurnOptions {
        guess_silence_ms: 0,
        end_silence_ms: 900,
        block_pause_from_ms: 20_000,
        turn_ms_max: 3_600_000,
        ..TurnOptions::default()
    }
}

impl Dictation {
    /// Starts a dictation: every segment is put in the place for a sound in `conversation`.
    ///
    /// # Errors
    /// `Input` if an option is out of range, there is no place for a sound or no encoder.
    pub fn new(
        session: Session,
        conversation: Conversation,
        options: &TurnOptions,
    ) -> Result<Self> {
        let options = TurnOptions { guess_silence_ms: 0, ..options.clone() };
        let ear = Ear::new(options, 0)?;
        let mut dictation = Self { session, conversation, ear, from: None, fed_to: 0, position: 0 };
        dictation.session.begin_sound(&dictation.conversation, &[])?;
        Ok(dictation)
    }

    /// Returns the session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    fn now_ns(&self) -> u64 {
        (seconds(self.position) * NS_PER_SECOND) as u64
    }

    /// Takes in sound and writes what it completes.
    ///
    /// # Errors
    /// `Input` if a sample is not finite; whatever the session or `written` bring.
    pub fn hear(&mut self, pcm: &Pcm, written: &mut WrittenSink<'_>) -> Result<()> {
        self.ear.push(pcm)?;
        while self.ear.listen(self.now_ns())? {
            self.act(written)?;
        }
        Ok(())
    }

    /// Ends the sound and writes the rest.
    ///
    /// # Errors
    /// As for [`hear`](Self::hear).
    pub fn finish(&mut self, written: &mut WrittenSink<'_>) -> Result<()> {
        let now_ns = self.now_ns();
        self.ear.flush()?;
        while self.ear.listen(now_ns)? {
            self.act(written)?;
        }
        self.ear.finish(now_ns)?;
        self.act(written)?;
        self.ear.tell(now_ns, Input::Key(Key::EndTurn))?;
        self.act(written)
    }

    fn act(&mut self, written: &mut WrittenSink<'_>) -> Result<()> {
        while let Some(action) = self.ear.poll() {
            match action {
                Action::StartSpeech { from } => self.begin(from, written)?,
                Action::FeedAudio { from, to } => self.feed(from, to, written)?,
                Action::CloseAudioBlock => self.write(written)?,
                Action::Discard => self.from = None,
                Action::CommitEnd { answer, .. } => {
                    self.write(written)?;
                    self.ear.tell(self.now_ns(), Input::AnswerEnded { answer })?;
                }
                Action::GuessEnd { .. }
                | Action::Rollback { .. }
                | Action::Play { .. }
                | Action::StopPlayback
                | Action::StopAnswer { .. }
                | Action::Truncate { .. }
                | Action::OpenMicrophone
                | Action::Sleep
                | Action::Overhear { .. }
                | Action::Look
                | Action::EndOverhearing { .. } => {
                    return Err(Error::internal("nobody talks in a dictation"));
                }
            }
        }
        self.position = self.ear.heard();
        Ok(())
    }

    fn begin(&mut self, from: u64, written: &mut WrittenSink<'_>) -> Result<()> {
        self.session.begin_sound(&self.conversation, &[])?;
        (self.from, self.fed_to) = (Some(from), from);
        written(Written::Begin { from_s: seconds(from) })
    }

    fn feed(&mut self, from: u64, to: u64, written: &mut WrittenSink<'_>) -> Result<()> {
        if self.from.is_none() {
            self.begin(from, written)?;
        }
        self.fed_to = to;
        self.session.hear(&self.ear.sound(from, to)?)
    }

    /// Writes the open segment down; one too short to hold a word is left out.
    fn write(&mut self, written: &mut WrittenSink<'_>) -> Result<()> {
        let Some(from) = self.from.take() else { return Ok(()) };
        let n_samples = self.fed_to - from;
        if n_samples < u64::from(SAMPLE_RATE_HZ / 50) {
            return Ok(());
        }
        self.session.end_sound()?;
        let most = TOKENS_MAX + (TOKENS_PER_SECOND_MAX * seconds(n_samples)) as usize;
        let (mut n_tokens, mut goes_on) = (0, true);
        while goes_on && n_tokens < most {
            let mut told = Ok(());
            goes_on = self.session.next(&mut |event| {
                if let (Event::Answer(text), Ok(())) = (event, &told) {
                    told = written(Written::Text(text));
                }
            })?;
            told?;
            n_tokens += 1;
        }
        if goes_on {
            self.session.cut(&mut |_| {});
        }
        let (from_s, to_s) = (seconds(from), seconds(self.fed_to));
        written(Written::End { from_s, to_s, n_tokens })
    }
}
