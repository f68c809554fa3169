//! The turns of a prompt.
//!
//! In: `Conversation`. Out: `Prompt`: markers, text and media marks in order.
//! Source: Gemma 4 chat template, published 2026-07-09 (E2B and E4B form).
//! Invariant: a prompt's text spells what the template prints; its markers come from here alone.

use std::fmt;

use crate::error::Error;
use crate::error::Result;
use crate::redact::Redacted;
use crate::text::conversation::Content;
use crate::text::conversation::Conversation;
use crate::text::conversation::Message;
use crate::text::conversation::Part;
use crate::text::conversation::Role;
use crate::text::tokenizer::Tokenizer;
use crate::text::tools;
use crate::text::vocabulary::Marker;
use crate::units::TokenId;

/// What a media mark stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// One picture.
    Image,
    /// One sound.
    Audio,
    /// The frames of one video.
    Video,
}

impl MediaKind {
    /// Returns the marker that stands for such media in a template's text.
    pub fn marker(self) -> Marker {
        match self {
            Self::Image => Marker::Image,
            Self::Audio => Marker::Audio,
            Self::Video => Marker::Video,
        }
    }
}

/// A run of a prompt that is one kind of thing.
#[derive(Clone, PartialEq, Eq)]
pub enum Segment {
    /// A token of structure.
    Marker(Marker),
    /// Text in which no spelling means structure; never empty, never next to another text.
    Text(String),
    /// A place for media.
    Media {
        /// What belongs there.
        kind: MediaKind,
        /// Which of the conversation's media, counted from 0 over all kinds.
        index: usize,
    },
}

/// One step of feeding a prompt to the model.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// A token.
    Token(TokenId),
    /// The soft tokens of a picture, a sound or one frame of a video.
    Soft {
        /// What they are made from.
        kind: MediaKind,
        /// Which of the conversation's media, counted from 0 over all kinds.
        index: usize,
        /// Which frame of a video; 0 for the rest.
        frame: usize,
    },
}

/// A rendered conversation.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Prompt {
    segments: Vec<Segment>,
    opens_thought: bool,
}

impl Prompt {
    /// Renders `conversation`.
    ///
    /// # Errors   `Input` if media stand in the system turn, or values are nested too deeply
    pub fn render(conversation: &Conversation) -> Result<Self> {
        Renderer::new(conversation).run()
    }

    /// Returns the runs of the prompt.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns whether the prompt ends inside a thought, so that the output begins in one.
    pub fn opens_thought(&self) -> bool {
        self.opens_thought
    }

    /// Returns the ids of the template's text: one placeholder for each media mark.
    ///
    /// # Errors   `Unsupported` if the vocabulary has no piece for a marker in the prompt
    pub fn ids(&self, tokenizer: &Tokenizer) -> Result<Vec<TokenId>> {
        let mut ids = Vec::new();
        for segment in &self.segments {
            match segment {
                Segment::Marker(marker) => ids.push(marker_id(tokenizer, *marker)?),
                Segment::Text(text) => tokenizer.encode_into(text, &mut ids)?,
                Segment::Media { kind, .. } => ids.push(tokenizer.marker(kind.marker())?),
            }
        }
        Ok(ids)
    }

    /// Returns the steps of feeding the prompt: tokens, and soft tokens between their marks.
    ///
    /// `frame_times_s` gives the seconds at which the frames of video `index` were taken.
    ///
    /// # Errors   as [`Prompt::ids`]
    pub fn items(
        &self,
        tokenizer: &Tokenizer,
        frame_times_s: impl Fn(usize) -> Vec<f64>,
    ) -> Result<Vec<Item>> {
        let mut feed = Feed { tokenizer, text: String::new(), items: Vec::new() };
        for segment in &self.segments {
            match *segment {
                Segment::Marker(marker) => feed.marker(marker)?,
                Segment::Text(ref text) => feed.text.push_str(text),
                Segment::Media { kind: MediaKind::Video, index } => {
                    for (frame, time_s) in frame_times_s(index).into_iter().enumerate() {
                        let second = time_s.max(0.0) as u64;
                        let gap = if frame == 0 { "" } else { " " };
                        let stamp = format!("{gap}{:02}:{:02} ", second / 60, second % 60);
                        feed.text.push_str(&stamp);
                        feed.soft(MediaKind::Video, index, frame)?;
                    }
                }
                Segment::Media { kind, index } => feed.soft(kind, index, 0)?,
            }
        }
        feed.flush()?;
        Ok(feed.items)
    }
}

impl fmt::Display for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments.iter().try_for_each(|segment| {
            f.write_str(match segment {
                Segment::Marker(marker) => marker.text(),
                Segment::Text(text) => text,
                Segment::Media { kind, .. } => kind.marker().text(),
            })
        })
    }
}

fn marker_id(tokenizer: &Tokenizer, marker: Marker) -> Result<TokenId> {
    match (marker, tokenizer.special().bos) {
        (Marker::Bos, Some(id)) => Ok(id),
        _ => tokenizer.marker(marker),
    }
}

/// Steps under construction; text waits, because what follows may belong to the same span.
struct Feed<'a> {
    tokenizer: &'a Tokenizer,
    text: String,
    items: Vec<Item>,
}

impl Feed<'_> {
    fn flush(&mut self) -> Result<()> {
        let ids = self.tokenizer.encode(&self.text)?;
        self.items.extend(ids.into_iter().map(Item::Token));
        self.text.clear();
        Ok(())
    }

    fn marker(&mut self, marker: Marker) -> Result<()> {
        self.flush()?;
        self.items.push(Item::Token(marker_id(self.tokenizer, marker)?));
        Ok(())
    }

    fn soft(&mut self, kind: MediaKind, index: usize, frame: usize) -> Result<()> {
        let (open, close) = match kind {
            MediaKind::Audio => (Marker::AudioOpen, Marker::AudioClose),
            _ => (Marker::ImageOpen, Marker::ImageClose),
        };
        self.marker(open)?;
        self.items.push(Item::Soft { kind, index, frame });
        self.marker(close)
    }
}

/// Segments under construction.
#[derive(Default)]
pub(super) struct Writer {
    segments: Vec<Segment>,
}

impl Writer {
    pub(super) fn text(&mut self, text: &str) {
        match self.segments.last_mut() {
            Some(Segment::Text(last)) => last.push_str(text),
            _ if text.is_empty() => {}
            _ => self.segments.push(Segment::Text(text.to_owned())),
        }
    }

    pub(super) fn marker(&mut self, marker: Marker) {
        self.segments.push(Segment::Marker(marker));
    }

    /// Writes `text` as a string of the tool syntax.
    pub(super) fn quoted(&mut self, text: &str) {
        self.marker(Marker::Quote);
        self.text(text);
        self.marker(Marker::Quote);
    }

    fn media(&mut self, kind: MediaKind, index: usize) {
        self.segments.push(Segment::Media { kind, index });
    }
}

/// What the newest message wrote last, as far as the end of the prompt depends on it.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    Other,
    Calls,
    Responses,
}

struct Renderer<'a> {
    conversation: &'a Conversation,
    /// Messages after the system turn.
    messages: &'a [Message],
    /// Index of each of those messages' first media.
    media_starts: Vec<usize>,
    last_user: Option<usize>,
    /// Who wrote the newest turn, tools aside.
    author: Option<Role>,
    last: Last,
    out: Writer,
}

impl<'a> Renderer<'a> {
    fn new(conversation: &'a Conversation) -> Self {
        let all = conversation.messages.as_slice();
        let messages = match all.first().map(|m| m.role) {
            Some(Role::System | Role::Developer) => &all[1..],
            _ => all,
        };
        let mut n_media = 0;
        let media_starts = messages
            .iter()
            .map(|message| {
                let start = n_media;
                n_media += message.media().count();
                start
            })
            .collect();
        Self {
            conversation,
            messages,
            media_starts,
            last_user: messages.iter().rposition(|m| m.role == Role::User),
            author: None,
            last: Last::Other,
            out: Writer::default(),
        }
    }

    fn run(mut self) -> Result<Prompt> {
        self.out.marker(Marker::Bos);
        self.system()?;
        for (index, message) in self.messages.iter().enumerate() {
            if message.role != Role::Tool {
                let skipped = self.conversation.messages.len() - self.messages.len();
                self.turn(index, message)
                    .map_err(|e| e.at(format!("message {}", index + skipped)))?;
            }
        }
        let mut opens_thought = false;
        if self.conversation.generation_prompt {
            match self.last {
                Last::Other => {
                    self.out.marker(Marker::TurnOpen);
                    self.out.text("model\n");
                }
                Last::Responses if self.conversation.thinking => {
                    self.out.marker(Marker::ChannelOpen);
                    self.out.text("thought\n");
                    opens_thought = true;
                }
                _ => {}
            }
        }
        Ok(Prompt { segments: self.out.segments, opens_thought })
    }

    /// Writes the system turn, if there is anything to write into it.
    fn system(&mut self) -> Result<()> {
        let conversation = self.conversation;
        let has_message = conversation.messages.len() > self.messages.len();
        if !(conversation.thinking || has_message || !conversation.tools.is_empty()) {
            return Ok(());
        }
        self.out.marker(Marker::TurnOpen);
        self.out.text("system\n");
        if conversation.thinking {
            self.out.marker(Marker::Think);
            self.out.text("\n");
        }
        if has_message {
            match &conversation.messages[0].content {
                Content::Nothing => {}
                Content::Text(text) => self.out.text(trim(text)),
                Content::Parts(parts) => {
                    for part in parts {
                        let Part::Text(text) = part else {
                            return Err(Error::input(
                                "message 0: the system turn can hold only text",
                            ));
                        };
                        self.out.text(trim(text));
                        self.out.text(" ");
                    }
                }
                Content::Value(_) => return Err(not_a_tool("message 0: ")),
            }
        }
        for (index, tool) in conversation.tools.iter().enumerate() {
            self.out.marker(Marker::ToolOpen);
            tools::declaration(&mut self.out, tool).map_err(|e| e.at(format!("tool {index}")))?;
            self.out.marker(Marker::ToolClose);
        }
        self.close_turn();
        Ok(())
    }

    fn close_turn(&mut self) {
        self.out.marker(Marker::TurnClose);
        self.out.text("\n");
    }

    /// Writes message `index`, with the results of the tools it calls.
    fn turn(&mut self, index: usize, message: &'a Message) -> Result<()> {
        self.last = Last::Other;
        let is_model = message.role == Role::Assistant;
        if !(is_model && self.author == Some(Role::Assistant)) {
            self.out.marker(Marker::TurnOpen);
            self.out.text(match message.role {
                Role::System => "system\n",
                Role::Developer => "developer\n",
                Role::Assistant => "model\n",
                Role::User | Role::Tool => "user\n",
            });
        }
        self.thought(index, message);
        for call in &message.tool_calls {
            tools::call(&mut self.out, call)?;
            self.last = Last::Calls;
        }
        let responded = self.responses(index, message)?;
        if responded {
            self.last = Last::Responses;
        }
        let has_content = self.content(index, message)?;
        let after = self.messages[index + 1..].iter().find(|m| m.role != Role::Tool);
        let goes_on = is_model
            && after.is_some_and(|m| m.role == Role::Assistant)
            && (message.tool_calls.is_empty() || responded);
        let awaits_model = responded && !has_content && after.is_none();
        if self.last == Last::Calls {
            self.out.marker(Marker::ResponseOpen);
        } else if !(goes_on || awaits_model) {
            self.close_turn();
        }
        self.author = Some(message.role);
        Ok(())
    }

    fn thought(&mut self, index: usize, message: &Message) {
        let is_new = self.last_user.is_none_or(|user| index > user);
        let is_kept = self.conversation.preserve_thinking && !message.tool_calls.is_empty();
        if let Some(thought) = message.reasoning.as_deref().filter(|t| !t.is_empty())
            && (is_new || is_kept)
        {
            self.out.marker(Marker::ChannelOpen);
            self.out.text("thought\n");
            self.out.text(thought);
            self.out.text("\n");
            self.out.marker(Marker::ChannelClose);
        }
    }

    /// Writes what the tools gave back and returns whether there was any.
    fn responses(&mut self, index: usize, message: &Message) -> Result<bool> {
        for given in &message.tool_responses {
            let name = given.name.as_deref().filter(|n| !n.is_empty()).unwrap_or("unknown");
            tools::response(&mut self.out, name, &given.response)?;
        }
        if !message.tool_responses.is_empty() || message.tool_calls.is_empty() {
            return Ok(!message.tool_responses.is_empty());
        }
        let messages = self.messages;
        let follow = messages[index + 1..].iter().take_while(|m| m.role == Role::Tool);
        let mut responded = false;
        for (offset, result) in follow.enumerate() {
            let calls = &message.tool_calls;
            let called = calls.iter().rev().find(|call| call.id == result.tool_call_id);
            let own = result.name.as_deref().filter(|name| !name.is_empty());
            let name = called.map(|call| call.name.as_str()).or(own).unwrap_or("unknown");
            self.response(index + 1 + offset, name, result)?;
            responded = true;
        }
        Ok(responded)
    }

    /// Writes the result in message `index`, then its media.
    fn response(&mut self, index: usize, name: &str, result: &Message) -> Result<()> {
        let text = |text: &str| serde_json::Value::String(text.to_owned());
        let value = match &result.content {
            Content::Nothing => serde_json::Value::Null,
            Content::Text(words) => text(words),
            Content::Parts(parts) => {
                let words = parts.iter().filter_map(|part| match part {
                    Part::Text(words) => Some(words.as_str()),
                    Part::Media(..) => None,
                });
                text(&words.collect::<String>())
            }
            Content::Value(value) => value.clone(),
        };
        tools::response(&mut self.out, name, &value)?;
        for (offset, (kind, _)) in result.media().enumerate() {
            self.out.media(kind, self.media_starts[index] + offset);
        }
        Ok(())
    }

    /// Writes what message `index` says and returns whether that is more than blanks.
    fn content(&mut self, index: usize, message: &Message) -> Result<bool> {
        let parts = match &message.content {
            Content::Nothing => return Ok(false),
            Content::Text(text) => return Ok(self.words(message.role, text)),
            Content::Parts(parts) => parts,
            Content::Value(_) => return Err(not_a_tool("")),
        };
        let mut has_content = false;
        let mut media = self.media_starts[index];
        for part in parts {
            match part {
                Part::Text(text) => has_content |= self.words(message.role, text),
                Part::Media(kind, _) => {
                    self.out.media(*kind, media);
                    media += 1;
                    has_content = true;
                }
            }
        }
        Ok(has_content)
    }

    fn words(&mut self, role: Role, text: &str) -> bool {
        let kept = if role == Role::Assistant { without_channels(text) } else { text.to_owned() };
        let kept = trim(&kept);
        self.out.text(kept);
        !kept.is_empty()
    }
}

fn not_a_tool(place: &str) -> Error {
    Error::input(format!("{place}content is a JSON value, which only a tool's message can hold"))
}

/// Cuts what stands between the spellings of the channel markers.
fn without_channels(text: &str) -> String {
    let parts = text.split(Marker::ChannelClose.text());
    parts.filter_map(|part| part.split(Marker::ChannelOpen.text()).next()).collect()
}

/// Cuts blanks on both sides; what Python counts as a blank, for the template is Python's.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Marker(marker) => write!(f, "{marker:?}"),
            Self::Text(text) => write!(f, "Text({})", Redacted(text)),
            Self::Media { kind, index } => write!(f, "{kind:?}({index})"),
        }
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token"),
            Self::Soft { kind, index, frame } => write!(f, "{kind:?}({index}, {frame})"),
        }
    }
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.segments).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::ErrorKind;
    use crate::text::vocabulary::synthetic::Parts;

    fn render(value: serde_json::Value) -> Prompt {
        Prompt::render(&Conversation::from_json(&value).unwrap()).unwrap()
    }

    fn tokenizer() -> Tokenizer {
        Tokenizer::new(Parts::new(2).vocabulary()).unwrap()
    }

    /// Returns text that spells every marker.
    fn every_marker() -> String {
        Marker::ALL.map(Marker::text).concat()
    }

    #[test]
    fn text_that_spells_markers_makes_none() {
        let spelled = every_marker();
        let tokenizer = tokenizer();
        let make = |words: &str| {
            render(json!({
                "thinking": true,
                "tools": [{"name": words, "description": words, "parameters":
                    {"type": words, "properties": {words: {"type": words}}}}],
                "messages": [
                    {"role": "system", "content": words},
                    {"role": "user", "content": [{"type": "text", "text": words}]},
                    {"role": "assistant", "reasoning": words, "tool_calls":
                        [{"id": "a", "name": words, "arguments": {words: words}}]},
                    {"role": "tool", "tool_call_id": "a", "content": words},
                ],
            }))
        };
        let structure = |prompt: &Prompt| -> Vec<TokenId> {
            let ids = prompt.ids(&tokenizer).unwrap();
            ids.into_iter().filter(|&id| tokenizer.is_structure(id)).collect()
        };
        let plain = make("words");
        let hostile = make(&spelled);
        assert_eq!(structure(&hostile), structure(&plain));
        assert!(hostile.to_string().matches(&spelled).count() >= 8);
        let ids = hostile.ids(&tokenizer).unwrap();
        assert_eq!(tokenizer.decode_with_markers(&ids), hostile.to_string());
    }

    #[test]
    fn media_become_soft_tokens_between_their_marks() {
        let prompt = render(json!({"messages": [{"role": "user", "content": [
            {"type": "text", "text": "a"},
            {"type": "image_url", "image_url": {"url": "a.png"}},
            {"type": "video", "video": "b.mp4"},
            {"type": "input_audio", "input_audio": {"data": "c"}},
        ]}]}));
        let tokenizer = tokenizer();
        let times_s = |index| if index == 1 { vec![0.0, 61.9] } else { Vec::new() };
        let items = prompt.items(&tokenizer, times_s).unwrap();
        let mut spelled = String::new();
        for item in items {
            match item {
                Item::Token(id) => spelled.push_str(&tokenizer.decode_with_markers(&[id])),
                Item::Soft { kind, index, frame } => {
                    spelled.push_str(&format!("[{kind:?} {index} {frame}]"));
                }
            }
        }
        let expected = "<bos><|turn>user\na<|image>[Image 0 0]<image|>00:00 \
            <|image>[Video 1 0]<image|> 01:01 <|image>[Video 1 1]<image|>\
            <|audio>[Audio 2 0]<audio|><turn|>\n<|turn>model\n";
        assert_eq!(spelled, expected);
        let placeholders = prompt.ids(&tokenizer).unwrap();
        assert_eq!(tokenizer.decode_with_markers(&placeholders), prompt.to_string());
    }

    #[test]
    fn video_after_text_is_one_span_with_its_time() {
        let prompt = render(json!({"messages": [{"role": "user", "content": [
            {"type": "text", "text": "0"}, {"type": "video"}]}]}));
        let tokenizer = tokenizer();
        let items = prompt.items(&tokenizer, |_| vec![0.0]).unwrap();
        let expected = tokenizer.encode("user\n000:00 ").unwrap();
        let found: Vec<Item> = items[2..2 + expected.len()].to_vec();
        assert!(found == expected.into_iter().map(Item::Token).collect::<Vec<_>>());
    }

    #[test]
    fn media_are_counted_over_messages_and_tools() {
        let prompt = render(json!({"messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "image"}, {"type": "audio"}]},
            {"role": "assistant", "tool_calls": [{"id": "a", "name": "f"}]},
            {"role": "tool", "tool_call_id": "a", "content": [{"type": "image"}]},
            {"role": "tool", "tool_call_id": "a", "content": [{"type": "video"}]},
            {"role": "user", "content": [{"type": "image"}]},
        ]}));
        let found: Vec<(MediaKind, usize)> = prompt
            .segments()
            .iter()
            .filter_map(|segment| match segment {
                Segment::Media { kind, index } => Some((*kind, *index)),
                _ => None,
            })
            .collect();
        use MediaKind::{Audio, Image, Video};
        assert_eq!(found, [(Image, 0), (Audio, 1), (Image, 2), (Video, 3), (Image, 4)]);
    }

    #[test]
    fn a_new_turn_only_appends() {
        let mut messages = vec![json!({"role": "user", "content": "Hi"})];
        let tokenizer = tokenizer();
        let mut before: Vec<Item> = Vec::new();
        for words in ["a", "b 1", "c"] {
            let now = render(json!({"messages": messages, "thinking": true}));
            let now = now.items(&tokenizer, |_| Vec::new()).unwrap();
            assert!(now.starts_with(&before));
            before = now;
            messages.push(json!({"role": "assistant", "content": words}));
            messages.push(json!({"role": "user", "content": words}));
        }
    }

    #[test]
    fn output_begins_in_a_thought_only_after_a_result() {
        let mut chat = json!({"thinking": true, "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{\"a\":1}"}]},
            {"role": "tool", "content": {"b": [1.0]}},
        ]});
        let prompt = render(chat.clone());
        assert!(prompt.opens_thought());
        let end = "<|turn>model\n<|tool_call>call:f{a:1}<tool_call|>\
            <|tool_response>response:f{b:[1.0]}<tool_response|><|channel>thought\n";
        assert!(prompt.to_string().ends_with(end), "{prompt}");
        chat["thinking"] = json!(false);
        assert!(!render(chat).opens_thought());
    }

    #[test]
    fn wrong_conversations_are_refused_without_showing_them() {
        let user = |content: serde_json::Value| json!([{"role": "user", "content": content}]);
        let cases = [
            (json!("secret"), "the conversation is no JSON object"),
            (json!([{"content": "secret"}]), "message 0: role is missing"),
            (json!([{"role": "secret"}]), "message 0: role is unknown"),
            (user(json!(5)), "message 0: content is neither"),
            (user(json!([{"type": "secret"}])), "message 0: type of a content part"),
            (json!({"messages": [], "thinking": "secret"}), "thinking is neither"),
            (json!({"messages": [], "tools": [{"a": "secret"}]}), "tool 0: name of a tool"),
            (
                json!([{"role": "assistant", "tool_calls":
                    [{"name": "f", "arguments": "secret"}]}]),
                "message 0: arguments of a tool call",
            ),
            (json!([{"role": "system", "content": [{"type": "image"}]}]), "message 0: the system"),
        ];
        for (value, expected) in cases {
            let made = Conversation::from_json(&value).and_then(|c| Prompt::render(&c));
            let error = made.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Input);
            assert!(error.to_string().starts_with(expected), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn formatting_shows_no_content() {
        let chat = json!({"tools": [{"name": "secret"}], "messages": [
            {"role": "user", "content": [{"type": "text", "text": "secret"}]},
            {"role": "assistant", "reasoning": "secret", "tool_calls":
                [{"id": "secret", "name": "secret", "arguments": {"secret": "secret"}}]},
        ]});
        let conversation = Conversation::from_json(&chat).unwrap();
        let prompt = Prompt::render(&conversation).unwrap();
        let items = prompt.items(&tokenizer(), |_| Vec::new()).unwrap();
        let shown = format!("{conversation:?}{prompt:?}{items:?}");
        assert!(!shown.contains("secret") && !shown.contains("TokenId"), "{shown}");
    }
}
