//! Generated tokens to thought, answer and tool calls, while they stream.
//!
//! In: token ids, one after the other, or raw output text. Out: `Event`s, `Parsed`.
//! Source: Gemma 4 prompt format and response schema.
//! Invariant: any output gives events, never an error; a thought never becomes an answer, and a
//! damaged call never becomes a call.

use std::fmt;

use serde_json::Map;
use serde_json::Value;

use crate::redact::Redacted;
use crate::text::conversation::DEPTH_MAX;
use crate::text::conversation::Message;
use crate::text::conversation::Role;
use crate::text::conversation::ToolCall;
use crate::text::detokenizer::Detokenizer;
use crate::text::tokenizer::Tokenizer;
use crate::text::vocabulary::Marker;
use crate::units::TokenId;

/// Longest call that is read, in characters.
pub const CALL_CHARS_MAX: usize = 1 << 18;
/// Longest channel name, in bytes; more is taken for what the channel says.
pub const NAME_BYTES_MAX: usize = 32;
/// Most blanks held back, in bytes, until it is known whether text follows them.
pub const BLANK_BYTES_MAX: usize = 1 << 12;

/// Why the output ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The model ended its turn.
    Turn,
    /// The model waits for the results of its calls.
    Tool,
    /// The model ended the sequence.
    Sequence,
    /// Generation stopped before the model ended.
    Cut,
}

/// What a step of the output turned out to be.
#[derive(PartialEq)]
pub enum Event<'a> {
    /// More of the thought.
    Thought(&'a str),
    /// More of the answer.
    Answer(&'a str),
    /// A whole call of a tool.
    ToolCall(ToolCall),
    /// A call that could not be read and was left out.
    BrokenCall,
    /// The end; nothing follows.
    End(Stop),
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Answer,
    /// Behind the marker that opens a channel, before the end of its name.
    Name,
    Thought,
    Call,
    Ended,
}

/// Reads output token by token.
#[derive(Clone)]
pub struct Parser {
    state: State,
    detokenizer: Detokenizer,
    /// Blanks that are shown only if text follows.
    blanks: String,
    /// Whether blanks are left out until text comes.
    skips_blanks: bool,
    name: String,
    /// The call's characters; `None` is the marker around strings.
    call: Vec<Option<char>>,
}

impl Parser {
    /// Returns a parser for the output of a prompt that ended inside a thought, or not.
    pub fn new(starts_in_thought: bool) -> Self {
        Self {
            state: if starts_in_thought { State::Thought } else { State::Answer },
            detokenizer: Detokenizer::new(),
            blanks: String::new(),
            skips_blanks: starts_in_thought,
            name: String::new(),
            call: Vec::new(),
        }
    }

    /// Returns whether the end was reached.
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Takes the next token and calls `events` for what it completes.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: TokenId, mut events: impl FnMut(Event<'_>)) {
        let events: &mut dyn FnMut(Event<'_>) = &mut events;
        let mut detokenizer = std::mem::take(&mut self.detokenizer);
        if tokenizer.is_structure(id) || tokenizer.is_end(id) {
            self.text(detokenizer.finish(), events);
            match tokenizer.marker_of(id) {
                Some(marker) => self.marker(marker, events),
                None if tokenizer.is_end(id) => self.end(Stop::Sequence, events),
                None => {}
            }
        } else {
            self.text(detokenizer.push(tokenizer, id), events);
        }
        self.detokenizer = detokenizer;
    }

    /// Ends output that was cut short; nothing happens if the model ended it.
    pub fn finish(&mut self, mut events: impl FnMut(Event<'_>)) {
        let events: &mut dyn FnMut(Event<'_>) = &mut events;
        let mut detokenizer = std::mem::take(&mut self.detokenizer);
        self.text(detokenizer.finish(), events);
        self.end(Stop::Cut, events);
    }

    fn text(&mut self, text: &str, events: &mut dyn FnMut(Event<'_>)) {
        match self.state {
            _ if text.is_empty() => {}
            State::Answer | State::Thought => self.show(text, events),
            State::Name => self.read_name(text, events),
            State::Call => {
                let left = (CALL_CHARS_MAX + 1).saturating_sub(self.call.len());
                self.call.extend(text.chars().take(left).map(Some));
            }
            State::Ended => {}
        }
    }

    /// Reads a channel's name up to the end of its line, or of what may be a name.
    fn read_name(&mut self, text: &str, events: &mut dyn FnMut(Event<'_>)) {
        for (at, c) in text.char_indices() {
            let rest = &text[at + c.len_utf8()..];
            if c != '\n' {
                self.name.push(c);
            }
            if c == '\n' || self.name.len() > NAME_BYTES_MAX {
                self.end_name(c == '\n', events);
                return self.text(rest, events);
            }
        }
    }

    /// Shows text of an answer or a thought, holding back the blanks at its end.
    fn show(&mut self, text: &str, events: &mut dyn FnMut(Event<'_>)) {
        let text = if self.skips_blanks { text.trim_start() } else { text };
        if text.is_empty() {
            return;
        }
        self.skips_blanks = false;
        let n = text.trim_end().len();
        let is_long = self.blanks.len() + text.len() > BLANK_BYTES_MAX;
        if n > 0 || is_long {
            let n = if n == 0 { text.len() } else { n };
            self.blanks.push_str(&text[..n]);
            match self.state {
                State::Thought => events(Event::Thought(&self.blanks)),
                _ => events(Event::Answer(&self.blanks)),
            }
            self.blanks.clear();
            self.blanks.push_str(&text[n..]);
        } else {
            self.blanks.push_str(text);
        }
    }

    /// Goes on in `state`, without the blanks before and after.
    fn enter(&mut self, state: State) {
        self.state = state;
        self.blanks.clear();
        self.skips_blanks = true;
    }

    /// Ends a channel's name; what is no name is part of the thought.
    fn end_name(&mut self, is_line: bool, events: &mut dyn FnMut(Event<'_>)) {
        let name = std::mem::take(&mut self.name);
        let word = name.trim();
        self.enter(State::Thought);
        let is_name = word.is_empty() || word == "thought";
        if !is_name && (!is_line || word.contains(char::is_whitespace)) {
            self.show(&name, events);
            if is_line {
                self.show("\n", events);
            }
        }
    }

    fn marker(&mut self, marker: Marker, events: &mut dyn FnMut(Event<'_>)) {
        match (self.state, marker) {
            (State::Ended, _) => {}
            (_, Marker::TurnClose | Marker::TurnOpen) => self.end(Stop::Turn, events),
            (_, Marker::ResponseOpen) => self.end(Stop::Tool, events),
            (_, Marker::Eos) => self.end(Stop::Sequence, events),
            (State::Call, Marker::Quote) if self.call.len() <= CALL_CHARS_MAX => {
                self.call.push(None);
            }
            (State::Call, Marker::CallOpen) => self.end_call(events),
            (State::Call, Marker::CallClose) => {
                self.end_call(events);
                self.enter(State::Answer);
            }
            (State::Call, _) => {}
            (state, Marker::ChannelOpen | Marker::ChannelClose | Marker::CallOpen) => {
                if state == State::Name {
                    self.end_name(false, events);
                }
                match marker {
                    Marker::ChannelOpen => self.enter(State::Name),
                    Marker::CallOpen => self.enter(State::Call),
                    _ if state == State::Answer => {}
                    _ => self.enter(State::Answer),
                }
            }
            _ => {}
        }
    }

    fn end_call(&mut self, events: &mut dyn FnMut(Event<'_>)) {
        match Reader::new(&self.call).call() {
            Some(call) => events(Event::ToolCall(call)),
            None => events(Event::BrokenCall),
        }
        self.call.clear();
    }

    fn end(&mut self, stop: Stop, events: &mut dyn FnMut(Event<'_>)) {
        match self.state {
            State::Ended => return,
            State::Call => self.end_call(events),
            State::Name => self.end_name(false, events),
            State::Answer | State::Thought => {}
        }
        self.enter(State::Ended);
        events(Event::End(stop));
    }
}

/// Output that was read to its end.
#[derive(Clone, PartialEq)]
pub struct Parsed {
    /// What the model thought.
    pub thought: String,
    /// What the model says.
    pub answer: String,
    /// Tools that the model calls.
    pub tool_calls: Vec<ToolCall>,
    /// Calls that could not be read.
    pub n_broken_calls: usize,
    /// Why the output ended.
    pub stop: Stop,
}

impl Parsed {
    /// Returns an output of which nothing was read yet.
    pub fn new() -> Self {
        Self {
            thought: String::new(),
            answer: String::new(),
            tool_calls: Vec::new(),
            n_broken_calls: 0,
            stop: Stop::Cut,
        }
    }

    /// Adds what an event says.
    pub fn add(&mut self, event: Event<'_>) {
        match event {
            Event::Thought(text) => self.thought.push_str(text),
            Event::Answer(text) => self.answer.push_str(text),
            Event::ToolCall(call) => self.tool_calls.push(call),
            Event::BrokenCall => self.n_broken_calls += 1,
            Event::End(stop) => self.stop = stop,
        }
    }

    /// Returns it as the model's message of a conversation.
    pub fn into_message(self) -> Message {
        let mut message = Message::text(Role::Assistant, self.answer);
        message.reasoning = Some(self.thought).filter(|thought| !thought.is_empty());
        message.tool_calls = self.tool_calls;
        message
    }

    /// Returns `thought`, `answer` and `tool_calls` as a JSON object.
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "thought": self.thought,
            "answer": self.answer,
            "tool_calls": self.tool_calls.iter().map(ToolCall::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Default for Parsed {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads raw output in which the markers are spelled out.
pub fn parse_text(raw: &str, starts_in_thought: bool) -> Parsed {
    let mut parser = Parser::new(starts_in_thought);
    let mut parsed = Parsed::new();
    let mut rest = raw;
    while !rest.is_empty() {
        if let Some(marker) = Marker::at_start_of(rest) {
            parser.marker(marker, &mut |event| parsed.add(event));
            rest = &rest[marker.text().len()..];
            continue;
        }
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let n = rest[first..].find('<').map_or(rest.len(), |at| at + first);
        parser.text(&rest[..n], &mut |event| parsed.add(event));
        rest = &rest[n..];
    }
    parser.finish(|event| parsed.add(event));
    parsed
}

/// Reads the syntax of one call.
struct Reader<'a> {
    rest: &'a [Option<char>],
}

impl<'a> Reader<'a> {
    fn new(call: &'a [Option<char>]) -> Self {
        let is_whole = call.len() <= CALL_CHARS_MAX;
        Self { rest: if is_whole { call } else { &[] } }
    }

    fn peek(&self) -> Option<Option<char>> {
        self.rest.first().copied()
    }

    fn next(&mut self) -> Option<Option<char>> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn take(&mut self, c: char) -> bool {
        let is_next = self.peek() == Some(Some(c));
        if is_next {
            self.rest = &self.rest[1..];
        }
        is_next
    }

    fn skip_blanks(&mut self) {
        let is_blank = |c: &Option<char>| c.is_some_and(char::is_whitespace);
        let n = self.rest.iter().take_while(|c| is_blank(c)).count();
        self.rest = &self.rest[n..];
    }

    /// Takes characters up to one for which `ends` holds; `None` if there is no such.
    fn until(&mut self, ends: impl Fn(Option<char>) -> bool) -> Option<String> {
        let n = self.rest.iter().position(|&c| ends(c))?;
        let taken = self.rest[..n].iter().flatten().collect();
        self.rest = &self.rest[n..];
        Some(taken)
    }

    fn call(mut self) -> Option<ToolCall> {
        let head = self.until(|c| c == Some('{'))?;
        let head = head.trim();
        let name = head.strip_prefix("call:").unwrap_or(head).trim();
        let is_name = |c: char| c.is_alphanumeric() || "_-.:/".contains(c);
        if name.is_empty() || !name.chars().all(is_name) {
            return None;
        }
        let arguments = self.object(DEPTH_MAX)?;
        let is_over = |c: &Option<char>| c.is_some_and(|c| c.is_whitespace() || c == '}');
        let name = name.to_owned();
        self.rest.iter().all(is_over).then_some(ToolCall { id: None, name, arguments })
    }

    fn object(&mut self, depth: usize) -> Option<Map<String, Value>> {
        let mut fields = Map::new();
        self.take('{');
        loop {
            self.skip_blanks();
            if self.take('}') {
                return Some(fields);
            }
            let key = self.key()?;
            self.skip_blanks();
            if !self.take(':') {
                return None;
            }
            let value = self.value(depth.checked_sub(1)?)?;
            fields.insert(key, value);
            self.skip_blanks();
            if !self.take(',') && self.peek() != Some(Some('}')) {
                return None;
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<Vec<Value>> {
        let mut values = Vec::new();
        self.take('[');
        loop {
            self.skip_blanks();
            if self.take(']') {
                return Some(values);
            }
            values.push(self.value(depth.checked_sub(1)?)?);
            self.skip_blanks();
            if !self.take(',') && self.peek() != Some(Some(']')) {
                return None;
            }
        }
    }

    fn key(&mut self) -> Option<String> {
        match self.peek()? {
            None | Some('"') => self.string(),
            Some(_) => {
                let key = self.until(|c| matches!(c, None | Some(':' | '}' | ',' | '{')))?;
                Some(key.trim().to_owned()).filter(|key| !key.is_empty())
            }
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.skip_blanks();
        match self.peek()? {
            None | Some('"') => self.string().map(Value::String),
            Some('{') => self.object(depth).map(Value::Object),
            Some('[') => self.array(depth).map(Value::Array),
            Some(_) => self.bare(),
        }
    }

    /// Reads a string between markers, between plain quotes, or between one of each.
    fn string(&mut self) -> Option<String> {
        if self.next()?.is_none() {
            let text = match self.until(|c| c.is_none()) {
                Some(text) => text,
                None => self.until_plain_quote()?,
            };
            self.next();
            return Some(text);
        }
        let mut raw = String::new();
        loop {
            match self.next()? {
                None | Some('"') => break,
                Some('\\') => raw.extend(['\\', self.next()??]),
                Some(c) if c.is_ascii_control() => {
                    raw.push_str(&format!("\\u{:04x}", u32::from(c)))
                }
                Some(c) => raw.push(c),
            }
        }
        serde_json::from_str(&format!("\"{raw}\"")).ok().or(Some(raw))
    }

    /// Takes characters up to a plain quote behind which the value is over.
    fn until_plain_quote(&mut self) -> Option<String> {
        let is_end = |at: usize| {
            let mut behind = self.rest[at + 1..].iter().flatten();
            self.rest[at] == Some('"')
                && matches!(behind.find(|c| !c.is_whitespace()), Some(',' | '}' | ']'))
        };
        let n = (0..self.rest.len()).find(|&at| is_end(at))?;
        let taken = self.rest[..n].iter().flatten().collect();
        self.rest = &self.rest[n..];
        Some(taken)
    }

    /// Reads a number or a word; a string that lacks its opening mark is one too.
    fn bare(&mut self) -> Option<Value> {
        let text = self.until(|c| matches!(c, None | Some(',' | '}' | ']')))?;
        if self.peek() == Some(None) {
            self.next();
            return Some(Value::String(text));
        }
        Some(match text.trim() {
            "" => return None,
            "true" | "True" => Value::Bool(true),
            "false" | "False" => Value::Bool(false),
            "null" | "None" => Value::Null,
            word => match serde_json::from_str::<serde_json::Number>(word) {
                Ok(number) => Value::Number(number),
                Err(_) => Value::String(word.to_owned()),
            },
        })
    }
}

impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thought(text) => write!(f, "Thought({})", Redacted(text)),
            Self::Answer(text) => write!(f, "Answer({})", Redacted(text)),
            Self::ToolCall(call) => call.fmt(f),
            Self::BrokenCall => f.write_str("BrokenCall"),
            Self::End(stop) => write!(f, "End({stop:?})"),
        }
    }
}

impl fmt::Debug for Parser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parser").finish_non_exhaustive()
    }
}

impl fmt::Debug for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parsed")
            .field("thought", &Redacted(&self.thought))
            .field("answer", &Redacted(&self.answer))
            .field("tool_calls", &self.tool_calls)
            .field("n_broken_calls", &self.n_broken_calls)
            .field("stop", &self.stop)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::text::vocabulary::synthetic::Parts;
    use crate::text::vocabulary::synthetic::seeded;

    fn tokenizer() -> Tokenizer {
        Tokenizer::new(Parts::new(4).vocabulary()).unwrap()
    }

    /// Reads `ids` as they would stream, checking the order of events.
    fn stream(tokenizer: &Tokenizer, ids: &[TokenId], starts_in_thought: bool) -> Parsed {
        let mut parser = Parser::new(starts_in_thought);
        let mut parsed = Parsed::new();
        let mut n_ends = 0;
        let mut add = |event: Event<'_>| {
            assert_eq!(n_ends, 0, "an event follows the end");
            n_ends += usize::from(matches!(event, Event::End(_)));
            parsed.add(event);
        };
        for &id in ids {
            parser.push(tokenizer, id, &mut add);
        }
        parser.finish(&mut add);
        assert!(parser.has_ended());
        assert_eq!(n_ends, 1);
        parsed
    }

    fn call(arguments: &str) -> Option<serde_json::Value> {
        let parsed = parse_text(&format!("<|tool_call>call:f{arguments}<tool_call|>"), false);
        assert_eq!(parsed.tool_calls.len() + parsed.n_broken_calls, 1, "{arguments}");
        parsed.tool_calls.into_iter().next().map(|call| Value::Object(call.arguments))
    }

    #[test]
    fn slips_in_quoting_are_repaired_and_damage_is_not() {
        let cases = [
            ("{a:<|\"|>x<|\"|>}", Some(json!({"a": "x"}))),
            ("{a:\"x\"}", Some(json!({"a": "x"}))),
            ("{\"a\":\"x\\n\\\"y\"}", Some(json!({"a": "x\n\"y"}))),
            ("{a:\"x\ny\"}", Some(json!({"a": "x\ny"}))),
            ("{<|\"|>a<|\"|>:<|\"|>x<|\"|>}", Some(json!({"a": "x"}))),
            ("{a:<|\"|>x\",b:1}", Some(json!({"a": "x", "b": 1}))),
            ("{a:<|\"|>say \"x\" now\"}", Some(json!({"a": "say \"x\" now"}))),
            ("{a:\"x<|\"|>,b:1}", Some(json!({"a": "x", "b": 1}))),
            ("{a:x<|\"|>,b:1}", Some(json!({"a": "x", "b": 1}))),
            ("{a:Paris,b:10:30}", Some(json!({"a": "Paris", "b": "10:30"}))),
            ("{a:True,b:None,c:007}", Some(json!({"a": true, "b": null, "c": "007"}))),
            ("{a:[1,2,],b:{c:1,},}", Some(json!({"a": [1, 2], "b": {"c": 1}}))),
            (" {a:1}} ", Some(json!({"a": 1}))),
            ("{a:<|\"|>x}", None),
            ("{a:<|\"|>x", None),
            ("{a:1", None),
            ("{a:x", None),
            ("{a}", None),
            ("{:1}", None),
            ("{a:}", None),
            ("{a:[1}", None),
            ("{a:1}b", None),
            ("", None),
        ];
        for (arguments, expected) in cases {
            assert_eq!(call(arguments), expected, "{arguments}");
        }
    }

    #[test]
    fn deep_and_long_calls_are_broken() {
        let nested = |n: usize| format!("{{a:{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(call(&nested(DEPTH_MAX - 1)).is_some());
        assert!(call(&nested(DEPTH_MAX + 1)).is_none());
        assert!(call(&nested(CALL_CHARS_MAX / 4)).is_none());
        assert!(call(&format!("{{a:<|\"|>{}<|\"|>}}", "x".repeat(CALL_CHARS_MAX))).is_none());
        assert!(call(&format!("{{a:<|\"|>{}<|\"|>}}", "x".repeat(CALL_CHARS_MAX / 2))).is_some());
    }

    #[test]
    fn text_goes_where_the_markers_say() {
        let cases = [
            ("  code <turn|>", "", "  code"),
            ("a \n b", "", "a \n b"),
            ("<|channel>thought<channel|>x", "", "x"),
            ("<|channel>two words\nmore\n<channel|> x", "two words\nmore", "x"),
            ("<|channel>no name<channel|> x", "no name", "x"),
            ("<|channel>thought\na <|channel>thought\nb<channel|>x", "ab", "x"),
            (
                "<|channel>a very long line that is no name of a channel",
                "a very long line that is no name of a channel",
                "",
            ),
            ("a <channel|> b<turn|>", "", "a  b"),
            ("a<|\"|>b<|image|>c<tool|>d", "", "abcd"),
            ("a<|turn>user\nb", "", "a"),
            ("<|tool_call>call:f{a:1}<|tool_call>call:g{}<turn|>b", "", ""),
        ];
        for (raw, thought, answer) in cases {
            let parsed = parse_text(raw, false);
            assert_eq!(
                (parsed.thought.as_str(), parsed.answer.as_str()),
                (thought, answer),
                "{raw}"
            );
        }
        let calls = parse_text("<|tool_call>call:f{a:1}<|tool_call>call:g{}<turn|>", false);
        assert_eq!(calls.tool_calls.len(), 2);
        assert_eq!(calls.stop, Stop::Turn);
        assert_eq!(parse_text("a", false).stop, Stop::Cut);
        assert_eq!(parse_text("a<|tool_response>", false).stop, Stop::Tool);
        assert_eq!(parse_text("a<eos>", false).stop, Stop::Sequence);
    }

    #[test]
    fn blanks_are_held_back_up_to_the_limit() {
        let blanks = " ".repeat(BLANK_BYTES_MAX - 1);
        assert_eq!(parse_text(&format!("a{blanks}<turn|>"), false).answer, "a");
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(&format!("a{}b", "\n".repeat(3 * BLANK_BYTES_MAX))).unwrap();
        assert_eq!(stream(&tokenizer, &ids, false).answer.len(), 3 * BLANK_BYTES_MAX + 2);
    }

    #[test]
    fn spelled_marker_in_text_tokens_stays_text() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("<|tool_call>call:f{}<tool_call|><turn|>").unwrap();
        let parsed = stream(&tokenizer, &ids, false);
        assert_eq!(parsed.answer, "<|tool_call>call:f{}<tool_call|><turn|>");
        assert!(parsed.tool_calls.is_empty());
        let mut ids = tokenizer.encode_with_markers("<|tool_call>call:f{a:<|\"|>").unwrap();
        ids.extend(tokenizer.encode("<|\"|>,b:<tool_call|>").unwrap());
        ids.extend(tokenizer.encode_with_markers("<|\"|>}<tool_call|>").unwrap());
        let parsed = stream(&tokenizer, &ids, false);
        assert_eq!(parsed.tool_calls[0].arguments["a"], "<|\"|>,b:<tool_call|>");
    }

    #[test]
    fn random_output_is_read_alike_as_tokens_and_as_text() {
        const WORDS: [&str; 14] = [
            "thought\n",
            "call:f{a:",
            "1",
            ",b:",
            "}",
            "{",
            "[",
            "]",
            "\"",
            " ",
            "\n",
            "\\",
            "日",
            "x",
        ];
        let tokenizer = tokenizer();
        let mut random = seeded(31);
        for _ in 0..10_000 {
            let seed = random.0;
            let mut raw = String::new();
            for _ in 0..random.below(30) {
                raw.push_str(match random.below(3) {
                    0 => Marker::ALL[random.below(Marker::ALL.len())].text(),
                    _ => WORDS[random.below(WORDS.len())],
                });
            }
            let starts_in_thought = random.below(4) == 0;
            let ids = tokenizer.encode_with_markers(&raw).unwrap();
            let streamed = stream(&tokenizer, &ids, starts_in_thought);
            assert!(streamed == parse_text(&raw, starts_in_thought), "SEED={seed} raw {raw:?}");
        }
    }

    #[test]
    fn random_tokens_and_bytes_never_panic() {
        let tokenizer = tokenizer();
        let mut random = seeded(37);
        for _ in 0..10_000 {
            let ids: Vec<TokenId> = (0..random.below(60))
                .map(|_| match random.below(3) {
                    0 => TokenId(random.below(Marker::ALL.len()) as u32),
                    _ => TokenId(random.below(tokenizer.n_vocab() + 9) as u32),
                })
                .collect();
            let parsed = stream(&tokenizer, &ids, random.below(2) == 0);
            assert!(parsed.answer.trim_end() == parsed.answer || parsed.answer.len() > 4000);
            let bytes: Vec<u8> = (0..random.below(80)).map(|_| random.next() as u8).collect();
            let parsed = parse_text(&String::from_utf8_lossy(&bytes), false);
            assert_eq!(parsed.stop, Stop::Cut);
        }
    }
}
