//! The conversation of a session: what was said, shown and answered so far.
//!
//! In: messages as JSON, words and encoded media of the user's turn, events of the answer.
//! Out: the conversation and its media for the next prompt.
//! Invariant: a call that fails leaves everything as it was, so that it can be repeated.

use std::sync::Arc;

use culet::session::Encoded;
use culet::text::Content;
use culet::text::Conversation;
use culet::text::Event;
use culet::text::MediaKind;
use culet::text::Message;
use culet::text::Parsed;
use culet::text::Part;
use culet::text::Role;
use serde_json::Value;
use serde_json::json;

use crate::status::Failure;

/// A conversation and the media of its places, in order.
#[derive(Clone)]
pub(crate) struct Talk {
    pub(crate) conversation: Conversation,
    pub(crate) media: Vec<Arc<Encoded>>,
}

impl Talk {
    fn n_missing(&self) -> usize {
        self.conversation.media().count().saturating_sub(self.media.len())
    }

    fn next_missing(&self) -> Option<MediaKind> {
        self.conversation.media().nth(self.media.len()).map(|(kind, _)| kind)
    }
}

/// A part of the user's turn that is not closed yet.
#[derive(Clone)]
enum Open {
    Text(String),
    Media(Arc<Encoded>),
}

/// What was said so far.
pub(crate) struct Turns {
    talk: Talk,
    open: Vec<Open>,
    answer: Option<Parsed>,
    has_ended: bool,
    /// What the talk becomes when the sound that is being heard has ended.
    sound: Option<Talk>,
}

impl Turns {
    pub(crate) fn new() -> Self {
        let talk = Talk { conversation: Conversation::new(Vec::new()), media: Vec::new() };
        Self { talk, open: Vec::new(), answer: None, has_ended: false, sound: None }
    }

    /// Refuses what cannot be done while a sound is being heard.
    pub(crate) fn check_no_sound(&self) -> Result<(), Failure> {
        match self.sound {
            None => Ok(()),
            Some(_) => Err(Failure::input("a sound is being heard; end it or drop it first")),
        }
    }

    pub(crate) fn is_hearing(&self) -> bool {
        self.sound.is_some()
    }

    /// Adds what the model said so far as its message.
    fn close_answer(&mut self) {
        let message = self.answer.take().and_then(message_of);
        self.talk.conversation.messages.extend(message);
    }

    /// Returns how many messages there are, with an answer that has begun.
    pub(crate) fn n_messages(&self) -> usize {
        let answer = self.answer.clone().and_then(message_of);
        self.talk.conversation.messages.len() + usize::from(answer.is_some())
    }

    /// Forgets all but the first messages.
    pub(crate) fn rewind(&mut self, n_messages: usize) -> Result<(), Failure> {
        self.check_no_sound()?;
        let n = self.n_messages();
        if n_messages > n {
            return Err(Failure::input(format!(
                "{n_messages} messages are to stay, but there are {n}"
            )));
        }
        self.close_answer();
        self.open.clear();
        self.talk.conversation.messages.truncate(n_messages);
        self.talk.media.truncate(self.talk.conversation.media().count());
        Ok(())
    }

    /// Returns all this as JSON, and its media.
    pub(crate) fn saved(&self) -> Result<(Value, Vec<Arc<Encoded>>), Failure> {
        self.check_no_sound()?;
        let mut media = self.talk.media.clone();
        let open = self.open.iter().map(|part| match part {
            Open::Text(text) => Part::Text(text.clone()).to_json(),
            Open::Media(encoded) => {
                media.push(Arc::clone(encoded));
                Part::Media(encoded.kind(), None).to_json()
            }
        });
        let open: Vec<Value> = open.collect();
        let answer = self
            .answer
            .clone()
            .map(|said| Conversation::new(message_of(said).into_iter().collect()).to_json());
        let value = json!({
            "conversation": self.talk.conversation.to_json(),
            "n_media": self.talk.media.len(),
            "open": open,
            "answer": answer,
            "has_ended": self.has_ended,
        });
        Ok((value, media))
    }

    /// Returns what [`saved`](Self::saved) gave.
    pub(crate) fn restored(saved: &Value, media: Vec<Arc<Encoded>>) -> culet::Result<Self> {
        let broken = || culet::Error::format("the snapshot's conversation is malformed");
        let conversation = Conversation::from_json(&saved["conversation"])?;
        let n_media = saved["n_media"].as_u64().and_then(|n| usize::try_from(n).ok());
        let n_media = n_media.filter(|n| *n <= media.len()).ok_or_else(broken)?;
        let places = conversation.media().map(|(kind, _)| kind);
        let mut kinds = media[..n_media].iter().map(|encoded| encoded.kind());
        let n_places = conversation.media().count();
        if n_media > n_places || !places.take(n_media).all(|kind| kinds.next() == Some(kind)) {
            return Err(broken());
        }
        let user = Conversation::from_json(&json!([{ "role": "user", "content": saved["open"] }]));
        let Content::Parts(parts) = user?.messages.remove(0).content else { return Err(broken()) };
        let mut rest = media[n_media..].iter();
        let mut open = Vec::new();
        for part in parts {
            open.push(match part {
                Part::Text(text) => Open::Text(text),
                Part::Media(kind, _) => {
                    let next = rest.next().filter(|encoded| encoded.kind() == kind);
                    Open::Media(Arc::clone(next.ok_or_else(broken)?))
                }
            });
        }
        let answer = match &saved["answer"] {
            Value::Null => None,
            answer => Some(parsed_of(Conversation::from_json(answer)?.messages.pop())),
        };
        let talk = Talk { conversation, media: media[..n_media].to_vec() };
        let has_ended = saved["has_ended"].as_bool().ok_or_else(broken)?;
        Ok(Self { talk, open, answer, has_ended, sound: None })
    }

    /// Adds messages, tools and switches; open media fill the places that the messages name.
    pub(crate) fn add_messages(&mut self, json: &str) -> Result<(), Failure> {
        self.check_no_sound()?;
        let value: Value = serde_json::from_str(json)
            .map_err(|e| Failure::input(format!("messages are no JSON: {e}")))?;
        let value = match value {
            Value::Object(fields) if fields.contains_key("role") => {
                Value::Array(vec![Value::Object(fields)])
            }
            other => other,
        };
        let added = Conversation::from_json(&value)?;
        self.close_answer();
        let all = &mut self.talk.conversation;
        all.messages.extend(added.messages);
        let has = |names: &[&str]| names.iter().any(|name| value.get(name).is_some());
        if has(&["tools"]) {
            all.tools = added.tools;
        }
        if has(&["thinking", "enable_thinking"]) {
            all.thinking = added.thinking;
        }
        if has(&["preserve_thinking"]) {
            all.preserve_thinking = added.preserve_thinking;
        }
        let mut rest = Vec::new();
        for part in std::mem::take(&mut self.open) {
            match part {
                Open::Media(media) if self.talk.n_missing() > 0 => self.talk.media.push(media),
                other => rest.push(other),
            }
        }
        self.open = rest;
        Ok(())
    }

    /// Adds words to the user's turn.
    pub(crate) fn add_text(&mut self, text: &str) -> Result<(), Failure> {
        self.check_no_sound()?;
        self.close_answer();
        self.open.push(Open::Text(text.to_owned()));
        Ok(())
    }

    /// Puts media into the next place without, or else into the user's turn.
    pub(crate) fn add_media(&mut self, media: Arc<Encoded>) {
        self.close_answer();
        if self.talk.n_missing() > 0 {
            self.talk.media.push(media);
        } else {
            self.open.push(Open::Media(media));
        }
    }

    /// Returns the talk with the user's turn closed, which [`begin_answer`](Self::begin_answer)
    /// makes true.
    pub(crate) fn closed(&mut self) -> Result<Talk, Failure> {
        self.check_no_sound()?;
        self.close_answer();
        let talk = self.closed_with(None);
        if talk.conversation.messages.is_empty() {
            return Err(Failure::input("nothing was said; append a text or messages first"));
        }
        Ok(talk)
    }

    /// Returns the talk with a place for a sound, which [`begin_sound`](Self::begin_sound) keeps.
    pub(crate) fn with_sound(&mut self) -> Result<Talk, Failure> {
        self.check_no_sound()?;
        self.close_answer();
        match (self.talk.n_missing(), self.talk.next_missing()) {
            (0, _) => Ok(self.closed_with(Some(Part::Media(MediaKind::Audio, None)))),
            (1, Some(MediaKind::Audio)) => Ok(self.closed_with(None)),
            (n, _) => Err(Failure::input(format!(
                "the messages name {n} media that were not appended, expected at most the sound"
            ))),
        }
    }

    fn closed_with(&self, last: Option<Part>) -> Talk {
        let mut talk = self.talk.clone();
        let mut parts = Vec::new();
        for part in &self.open {
            parts.push(match part {
                Open::Text(text) => Part::Text(text.clone()),
                Open::Media(media) => {
                    talk.media.push(Arc::clone(media));
                    Part::Media(media.kind(), None)
                }
            });
        }
        parts.extend(last);
        if !parts.is_empty() {
            talk.conversation.messages.push(Message::new(Role::User, Content::Parts(parts)));
        }
        talk
    }

    /// Takes over a closed talk; its answer begins.
    pub(crate) fn begin_answer(&mut self, talk: Talk) {
        (self.talk, self.open, self.sound) = (talk, Vec::new(), None);
        self.guess();
    }

    /// Keeps the talk in which a sound is being heard.
    pub(crate) fn begin_sound(&mut self, talk: Talk) {
        (self.sound, self.answer) = (Some(talk), None);
    }

    /// Begins an answer that may be taken back.
    pub(crate) fn guess(&mut self) {
        (self.answer, self.has_ended) = (Some(Parsed::new()), false);
    }

    /// Forgets an answer that was only guessed.
    pub(crate) fn take_back(&mut self) {
        self.answer = None;
    }

    /// Makes the sound part of the talk; an answer that was guessed becomes true.
    pub(crate) fn end_sound(&mut self, sound: Arc<Encoded>) {
        let Some(mut talk) = self.sound.take() else { return };
        talk.media.push(sound);
        let guessed = (self.answer.take(), self.has_ended);
        self.begin_answer(talk);
        if guessed.0.is_some() {
            (self.answer, self.has_ended) = guessed;
        }
    }

    /// Forgets a sound that did not end.
    pub(crate) fn drop_sound(&mut self) {
        if self.sound.take().is_some() {
            self.answer = None;
        }
    }

    /// Tells whether an answer was begun and its end not seen.
    pub(crate) fn is_answering(&self) -> bool {
        self.answer.is_some() && !self.has_ended
    }

    /// Adds what the model says.
    pub(crate) fn add_answer(&mut self, event: Event<'_>) {
        self.has_ended |= matches!(event, Event::End(_));
        self.answer.get_or_insert_default().add(event);
    }
}

/// Returns what the model said as its message, unless it is nothing.
fn message_of(said: Parsed) -> Option<Message> {
    let nothing = said.answer.is_empty() && said.thought.is_empty() && said.tool_calls.is_empty();
    (!nothing).then(|| said.into_message())
}

/// Returns what the model said of which [`message_of`] made a message, or nothing.
fn parsed_of(message: Option<Message>) -> Parsed {
    let mut said = Parsed::new();
    if let Some(message) = message {
        said.thought = message.reasoning.unwrap_or_default();
        if let Content::Text(text) = message.content {
            said.answer = text;
        }
        said.tool_calls = message.tool_calls;
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(talk: &Talk) -> Vec<Role> {
        talk.conversation.messages.iter().map(|m| m.role).collect()
    }

    #[test]
    fn answers_become_messages_when_the_talk_goes_on() {
        let mut turns = Turns::new();
        assert!(turns.closed().is_err());
        turns.add_messages(r#"[{"role": "system", "content": "be brief"}]"#).expect("messages");
        turns.add_text("hello").expect("text");
        let talk = turns.closed().expect("a turn");
        assert_eq!(roles(&talk), [Role::System, Role::User]);
        // Until the prompt was fed, nothing has happened.
        assert_eq!(roles(&turns.closed().expect("again")).len(), 2);
        turns.begin_answer(talk);
        turns.add_answer(Event::Answer("hi"));
        turns.add_text("and now?").expect("text");
        let talk = turns.closed().expect("a turn");
        assert_eq!(roles(&talk), [Role::System, Role::User, Role::Assistant, Role::User]);
        assert!(talk.conversation.messages[2].content == Content::Text("hi".to_owned()));
    }

    #[test]
    fn an_answer_of_nothing_is_no_message() {
        let mut turns = Turns::new();
        turns.add_text("hello").expect("text");
        let talk = turns.closed().expect("a turn");
        turns.begin_answer(talk);
        turns.add_text("hello?").expect("text");
        assert_eq!(roles(&turns.closed().expect("a turn")), [Role::User, Role::User]);
    }

    #[test]
    fn json_that_does_not_fit_changes_nothing() {
        let mut turns = Turns::new();
        turns.add_text("hello").expect("text");
        for json in ["", "{", "3", r#"[{"role": "nobody"}]"#, r#"{"messages": 1}"#] {
            assert!(turns.add_messages(json).is_err(), "{json}");
        }
        assert_eq!(roles(&turns.closed().expect("a turn")), [Role::User]);
        turns.add_messages(r#"{"thinking": true}"#).expect("a switch");
        turns.add_messages(r#"{"role": "assistant", "content": "yes"}"#).expect("one message");
        let talk = turns.closed().expect("a turn");
        assert_eq!(roles(&talk), [Role::Assistant, Role::User]);
        assert!(talk.conversation.thinking);
    }

    #[test]
    fn what_is_saved_is_restored_or_refused() {
        let mut turns = Turns::new();
        turns.add_messages(r#"[{"role": "system", "content": "be brief"}]"#).expect("messages");
        turns.add_text("hello").expect("text");
        let talk = turns.closed().expect("a turn");
        turns.begin_answer(talk);
        turns.add_answer(Event::Thought("hm"));
        turns.add_answer(Event::Answer("hi"));
        let (saved, media) = turns.saved().expect("no sound");
        let mut back = Turns::restored(&saved, media).expect("whole");
        assert!(back.is_answering() && back.n_messages() == 3);
        for turns in [&mut turns, &mut back] {
            turns.add_answer(Event::Answer(" there"));
            turns.add_text("and now?").expect("text");
        }
        let (saved, _) = turns.saved().expect("no sound");
        assert_eq!(back.saved().expect("no sound").0, saved);
        let [own, other] =
            [&mut turns, &mut back].map(|t| t.closed().expect("a turn").conversation);
        assert!(own == other);
        let keys = ["conversation", "n_media", "open", "has_ended"];
        for (key, value) in keys.into_iter().flat_map(|key| [(key, json!(7)), (key, json!(null))]) {
            let mut broken = saved.clone();
            broken[key] = value;
            let is_refused = Turns::restored(&broken, Vec::new()).is_err();
            assert!(is_refused, "{key}");
        }
    }

    #[test]
    fn a_talk_is_taken_back_to_its_beginning() {
        let mut turns = Turns::new();
        turns.add_text("hello").expect("text");
        let talk = turns.closed().expect("a turn");
        turns.begin_answer(talk);
        assert_eq!(turns.n_messages(), 1);
        turns.add_answer(Event::Answer("hi"));
        turns.add_text("never mind").expect("text");
        assert_eq!(turns.n_messages(), 2);
        assert!(turns.rewind(3).is_err());
        turns.rewind(1).expect("there was one");
        assert_eq!((turns.n_messages(), roles(&turns.closed().expect("it")).len()), (1, 1));
        turns.rewind(0).expect("always");
        assert!(turns.closed().is_err());
    }

    #[test]
    fn a_sound_has_one_place() {
        let mut turns = Turns::new();
        turns.add_text("listen").expect("text");
        let talk = turns.with_sound().expect("a place");
        assert_eq!(talk.n_missing(), 1);
        turns.begin_sound(talk);
        assert!(turns.add_text("no").is_err() && turns.closed().is_err() && turns.is_hearing());
        turns.guess();
        turns.add_answer(Event::Answer("hi"));
        turns.drop_sound();
        assert_eq!(roles(&turns.closed().expect("a turn")), [Role::User]);
        let named = r#"[{"role": "user", "content": [{"type": "audio"}, {"type": "image"}]}]"#;
        turns.add_messages(named).expect("messages");
        assert!(turns.with_sound().is_err());
    }
}
