//! The side of Rust: a session, and what its host keeps of the conversation.
//!
//! In: the calls of a `Side`. Out: `culet::session::Session`'s answers.

use std::collections::VecDeque;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use culet::Error;
use culet::ErrorKind;
use culet::Frame;
use culet::Pcm;
use culet::Result;
use culet::engine::Engine;
use culet::engine::EngineOptions;
use culet::ggml::BackendOptions;
use culet::session::Encoded;
use culet::session::Session;
use culet::session::SessionOptions;
use culet::session::Stats;
use culet::text::Content;
use culet::text::Conversation;
use culet::text::Event;
use culet::text::MediaKind;
use culet::text::Message;
use culet::text::Parsed;
use culet::text::Part;
use culet::text::Role;
use serde_json::Value;

use crate::both::side::Files;
use crate::both::side::Said;
use crate::both::side::Side;
use crate::both::side::path;
use crate::both::voice::native::NativeVoice;

/// A session of Rust.
pub(crate) struct Native {
    session: Session,
    words: Words,
    /// Of the conversation's places, then of the open turn's parts.
    media: Vec<Arc<Encoded>>,
    /// The conversation with the sound that is being heard.
    heard: Option<Conversation>,
}

/// What was said.
#[derive(Clone)]
struct Words {
    conversation: Conversation,
    /// The user's turn.
    open: Vec<Part>,
    answer: Option<Parsed>,
    has_ended: bool,
    /// Events of the last token that were not pulled.
    waiting: VecDeque<Said>,
}

/// The words behind each snapshot, whose note is their number here.
static NOTES: Mutex<Vec<Words>> = Mutex::new(Vec::new());

impl Words {
    fn new() -> Self {
        let conversation = Conversation::new(Vec::new());
        let (open, waiting) = (Vec::new(), VecDeque::new());
        Self { conversation, open, answer: None, has_ended: false, waiting }
    }

    /// Returns what was answered as a message, if it is something.
    fn answered(&self) -> Option<Message> {
        let said = self.answer.clone()?;
        let is_empty = said.answer.is_empty() && said.thought.is_empty();
        (!is_empty || !said.tool_calls.is_empty()).then(|| said.into_message())
    }

    fn close_answer(&mut self) {
        self.conversation.messages.extend(self.answered());
        self.answer = None;
    }

    fn n_open_media(&self) -> usize {
        self.open.iter().filter(|part| matches!(part, Part::Media(..))).count()
    }

    /// Returns the conversation with the user's turn closed.
    fn closed(&self, last: Option<Part>) -> Conversation {
        let mut all = self.conversation.clone();
        let parts: Vec<Part> = self.open.iter().cloned().chain(last).collect();
        if !parts.is_empty() {
            all.messages.push(Message::new(Role::User, Content::Parts(parts)));
        }
        all
    }

    fn begin_answer(&mut self) {
        (self.answer, self.has_ended) = (Some(Parsed::new()), false);
        self.waiting.clear();
    }

    fn forget_answer(&mut self) {
        self.answer = None;
        self.waiting.clear();
    }

    fn take(&mut self, event: Event<'_>) {
        self.has_ended |= matches!(event, Event::End(_));
        self.waiting.push_back(match &event {
            Event::Thought(text) => Said::Thought((*text).to_owned()),
            Event::Answer(text) => Said::Answer((*text).to_owned()),
            Event::ToolCall(call) => Said::Call(call.to_json().to_string()),
            Event::BrokenCall => Said::BrokenCall,
            Event::End(stop) => Said::End(*stop),
        });
        self.answer.get_or_insert_default().add(event);
    }
}

impl Native {
    fn check_no_sound(&self) -> Result<()> {
        match self.heard {
            None => Ok(()),
            Some(_) => Err(Error::input("a sound is being heard")),
        }
    }

    /// Returns how many places of the conversation have no medium yet.
    fn n_missing(&self) -> usize {
        let n_filled = self.media.len() - self.words.n_open_media();
        self.words.conversation.media().count() - n_filled
    }

    fn append_media(&mut self, encoded: Arc<Encoded>) {
        self.words.close_answer();
        if self.n_missing() == 0 {
            self.words.open.push(Part::Media(encoded.kind(), None));
        }
        self.media.push(encoded);
    }

    /// Spends a request to cancel with the call that it stopped.
    fn spent<T>(&self, result: Result<T>) -> Result<T> {
        if result.as_ref().is_err_and(|e| e.kind() == ErrorKind::Cancelled) {
            self.session.cancel().reset();
        }
        result
    }
}

impl Side for Native {
    type Engine = Arc<Engine>;
    type Assistant = NativeVoice;

    fn open(files: Files, memory_bytes_max: Option<u64>) -> Result<Self::Engine> {
        let backend = BackendOptions { n_threads: 1, gpu: None };
        let options = EngineOptions { backend, memory_bytes_max, ..EngineOptions::default() };
        Engine::open(&path(files.model), files.mmproj.map(path).as_deref(), &options)
    }

    fn senses(engine: &Self::Engine) -> (bool, bool) {
        (engine.sees(), engine.hears())
    }

    fn new(engine: &Self::Engine, options: &SessionOptions) -> Result<Self> {
        let session = Session::new(engine, options)?;
        Ok(Self { session, words: Words::new(), media: Vec::new(), heard: None })
    }

    fn n_ctx(&self) -> usize {
        self.session.n_ctx()
    }

    fn n_past(&self) -> usize {
        self.session.n_past()
    }

    fn n_messages(&mut self) -> usize {
        self.words.conversation.messages.len() + usize::from(self.words.answered().is_some())
    }

    fn logits(&mut self) -> Vec<f32> {
        self.session.logits().to_vec()
    }

    fn cancel(&self) {
        self.session.cancel().cancel();
    }

    fn append_messages(&mut self, json: &str) -> Result<()> {
        self.check_no_sound()?;
        let value: Value = serde_json::from_str(json).expect("the tests write JSON");
        let added = Conversation::from_json(&value)?;
        self.words.close_answer();
        let all = &mut self.words.conversation;
        all.messages.extend(added.messages);
        if value.get("tools").is_some() {
            all.tools = added.tools;
        }
        // Media of the open turn go to the places that are named now.
        let mut n_missing = self.n_missing();
        self.words.open.retain(|part| {
            let is_moved = n_missing > 0 && matches!(part, Part::Media(..));
            n_missing -= usize::from(is_moved);
            !is_moved
        });
        Ok(())
    }

    fn append_text(&mut self, text: &str) -> Result<()> {
        self.check_no_sound()?;
        self.words.close_answer();
        self.words.open.push(Part::Text(text.to_owned()));
        Ok(())
    }

    fn append_picture(&mut self, frame: &Frame, budget: u32) -> Result<()> {
        self.check_no_sound()?;
        let encoded = self.session.encode_picture(frame, budget);
        self.spent(encoded).map(|encoded| self.append_media(encoded))
    }

    fn append_sound(&mut self, pcm: &Pcm) -> Result<()> {
        self.check_no_sound()?;
        let encoded = self.session.encode_sound([Ok(pcm.clone())]);
        self.spent(encoded).map(|encoded| self.append_media(encoded))
    }

    fn prompt(&mut self) -> Result<Stats> {
        self.check_no_sound()?;
        self.words.close_answer();
        let all = self.words.closed(None);
        let fed = self.session.prompt(&all, &self.media);
        let stats = self.spent(fed)?;
        (self.words.conversation, self.words.open) = (all, Vec::new());
        self.words.begin_answer();
        Ok(stats)
    }

    fn next(&mut self) -> Result<Said> {
        if self.words.waiting.is_empty() {
            let Self { session, words, .. } = self;
            let made = session.next(&mut |event| words.take(event));
            self.spent(made)?;
        }
        Ok(self.words.waiting.pop_front().unwrap_or(Said::Nothing))
    }

    fn cut(&mut self) -> Result<()> {
        let Self { session, words, .. } = self;
        if words.answer.is_some() && !words.has_ended {
            session.cut(&mut |event| words.take(event));
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        (self.words, self.media, self.heard) = (Words::new(), Vec::new(), None);
        self.session.clear()
    }

    fn rewind(&mut self, n_messages: usize) -> Result<()> {
        self.check_no_sound()?;
        let n = self.n_messages();
        if n_messages > n {
            return Err(Error::input(format!("{n_messages} of {n} messages")));
        }
        self.words.close_answer();
        self.words.waiting.clear();
        self.words.open.clear();
        self.words.conversation.messages.truncate(n_messages);
        self.media.truncate(self.words.conversation.media().count());
        self.session.cut(&mut |_| {});
        Ok(())
    }

    fn begin_sound(&mut self) -> Result<Stats> {
        self.check_no_sound()?;
        self.words.close_answer();
        let place = Part::Media(MediaKind::Audio, None);
        let all = self.words.closed((self.n_missing() == 0).then_some(place));
        let fed = self.session.begin_sound(&all, &self.media);
        let stats = self.spent(fed)?;
        self.words.forget_answer();
        self.heard = Some(all);
        Ok(stats)
    }

    fn hear(&mut self, pcm: &Pcm) -> Result<()> {
        if self.heard.is_some() {
            self.words.forget_answer();
        }
        let heard = self.session.hear(pcm);
        self.spent(heard)
    }

    fn guess_end(&mut self) -> Result<()> {
        let guessed = self.session.guess_end();
        self.spent(guessed)?;
        self.words.begin_answer();
        Ok(())
    }

    fn take_back(&mut self) -> Result<usize> {
        let n_wasted = self.session.take_back()?;
        self.words.forget_answer();
        Ok(n_wasted)
    }

    fn end_sound(&mut self) -> Result<()> {
        let ended = self.session.end_sound();
        let encoded = match self.spent(ended) {
            Ok(encoded) => encoded,
            Err(e) => return self.drop_sound().and(Err(e)),
        };
        self.media.push(encoded);
        self.words.conversation = self.heard.take().expect("the session heard one");
        self.words.open.clear();
        if self.words.answer.is_none() {
            self.words.begin_answer();
        }
        Ok(())
    }

    fn drop_sound(&mut self) -> Result<()> {
        if self.heard.take().is_some() {
            self.words.forget_answer();
        }
        self.session.drop_sound()
    }

    fn snapshot(&mut self) -> Result<Vec<u8>> {
        let mut notes = NOTES.lock().unwrap_or_else(PoisonError::into_inner);
        let (note, mut bytes) = (notes.len().to_le_bytes(), Vec::new());
        self.session.snapshot(&self.media, &note, &mut |more| {
            bytes.extend_from_slice(more);
            Ok(())
        })?;
        notes.push(self.words.clone());
        Ok(bytes)
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        let read = |restored: culet::session::Restored| {
            let unknown = || Error::format("the snapshot's note is of another host");
            let number = restored.note.as_slice().try_into().map_err(|_| unknown())?;
            let notes = NOTES.lock().unwrap_or_else(PoisonError::into_inner);
            let words = notes.get(usize::from_le_bytes(number)).ok_or_else(unknown)?;
            let n_filled = restored.media.len().checked_sub(words.n_open_media());
            let n_places = words.conversation.media().count();
            n_filled.filter(|n| *n <= n_places).ok_or_else(unknown)?;
            Ok((words.clone(), restored.media))
        };
        (self.words, self.media) = self.session.restore(&mut Cursor::new(bytes), read)?;
        self.heard = None;
        Ok(())
    }
}
