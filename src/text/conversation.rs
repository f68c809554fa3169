//! What was said: messages, their parts, tools, and calls of tools.
//!
//! In: OpenAI-style JSON, or values built by the caller. Out: `Conversation`.
//! Source: OpenAI chat completions interface; names that Gemma 4's template reads besides.
//! Invariant: formatting any of these values shows sizes, never content.

use std::fmt;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::error::Error;
use crate::error::Result;
use crate::redact::Redacted;
use crate::text::template::MediaKind;

/// Deepest nesting of arrays and objects in tools, arguments and results.
pub const DEPTH_MAX: usize = 64;

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The same under its newer name.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// A piece of a message's content.
#[derive(Clone, PartialEq)]
pub enum Part {
    /// Words.
    Text(String),
    /// A picture, sound or video, with the address or data it came with.
    Media(MediaKind, Option<String>),
}

/// What a message holds.
#[derive(Clone, PartialEq, Default)]
pub enum Content {
    /// Nothing, as in a message that only calls tools.
    #[default]
    Nothing,
    /// One text.
    Text(String),
    /// Texts and media in order.
    Parts(Vec<Part>),
    /// The result of a tool as a JSON value.
    Value(Value),
}

/// The model's request to run a tool.
#[derive(Clone, PartialEq, Default)]
pub struct ToolCall {
    /// Name that the tool's message refers to, if the caller gives one.
    pub id: Option<String>,
    /// Name of the tool.
    pub name: String,
    /// Arguments by name.
    pub arguments: Map<String, Value>,
}

/// What a tool gave back, kept in the message that called it.
#[derive(Clone, PartialEq)]
pub struct ToolResponse {
    /// Name of the tool.
    pub name: Option<String>,
    /// Any value; an object is written field by field.
    pub response: Value,
}

/// One message.
#[derive(Clone, PartialEq)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: Content,
    /// What the model thought before.
    pub reasoning: Option<String>,
    /// Tools that the model calls.
    pub tool_calls: Vec<ToolCall>,
    /// Results kept in the calling message itself.
    pub tool_responses: Vec<ToolResponse>,
    /// Of a tool's message: the call that it answers.
    pub tool_call_id: Option<String>,
    /// Of a tool's message: the tool's name.
    pub name: Option<String>,
}

/// A tool that the model may call.
#[derive(Clone, PartialEq)]
pub struct Tool {
    /// The function's schema: `name`, `description`, `parameters`, `response`.
    pub function: Map<String, Value>,
}

/// Everything a prompt is made from.
#[derive(Clone, PartialEq)]
pub struct Conversation {
    /// Messages, oldest first.
    pub messages: Vec<Message>,
    /// Tools that the model may call.
    pub tools: Vec<Tool>,
    /// Whether the model thinks before it answers.
    pub thinking: bool,
    /// Whether thoughts of earlier messages with tool calls stay in the prompt.
    pub preserve_thinking: bool,
    /// Whether the prompt ends where the model's turn begins.
    pub generation_prompt: bool,
}

impl Message {
    /// Returns a message of `role` that says `content`.
    pub fn new(role: Role, content: Content) -> Self {
        Self {
            role,
            content,
            reasoning: None,
            tool_calls: Vec::new(),
            tool_responses: Vec::new(),
            tool_call_id: None,
            name: None,
        }
    }

    /// Returns a message of `role` that says `text`.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self::new(role, Content::Text(text.into()))
    }

    /// Returns the media of the message in order.
    pub fn media(&self) -> impl Iterator<Item = (MediaKind, Option<&str>)> {
        let parts = match &self.content {
            Content::Parts(parts) => parts.as_slice(),
            _ => &[],
        };
        parts.iter().filter_map(|part| match part {
            Part::Media(kind, source) => Some((*kind, source.as_deref())),
            Part::Text(_) => None,
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        let fields = object(value, "a message")?;
        let role = match text_of(fields, "role")? {
            Some("system") => Role::System,
            Some("developer") => Role::Developer,
            Some("user") => Role::User,
            Some("assistant" | "model") => Role::Assistant,
            Some("tool") => Role::Tool,
            Some(_) => {
                let roles = "system, developer, user, assistant or tool";
                return Err(Error::input(format!("role is unknown, expected {roles}")));
            }
            None => return Err(Error::input("role is missing")),
        };
        let content = content(fields.get("content"), role)?;
        let thoughts = ["reasoning", "reasoning_content"].map(|key| text_of(fields, key));
        let [first, second] = thoughts;
        let reasoning = first?.filter(|t| !t.is_empty()).or(second?).filter(|t| !t.is_empty());
        let tool_calls = list(fields, "tool_calls")?;
        let tool_responses = list(fields, "tool_responses")?;
        Ok(Self {
            role,
            content,
            reasoning: reasoning.map(str::to_owned),
            tool_calls: tool_calls.iter().map(ToolCall::from_json).collect::<Result<_>>()?,
            tool_responses: tool_responses
                .iter()
                .map(ToolResponse::from_json)
                .collect::<Result<_>>()?,
            tool_call_id: text_of(fields, "tool_call_id")?.map(str::to_owned),
            name: text_of(fields, "name")?.map(str::to_owned),
        })
    }

    /// Returns the message as JSON, without what is not there.
    fn to_json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), json!(self.role.name()));
        fields.insert("content".to_owned(), self.content.to_json());
        let texts = [
            ("reasoning", &self.reasoning),
            ("tool_call_id", &self.tool_call_id),
            ("name", &self.name),
        ];
        for (key, text) in texts {
            fields.extend(text.iter().map(|text| (key.to_owned(), json!(text))));
        }
        let calls: Vec<_> = self.tool_calls.iter().map(ToolCall::to_json).collect();
        let response = |r: &ToolResponse| json!({ "name": r.name, "response": r.response });
        let responses: Vec<_> = self.tool_responses.iter().map(response).collect();
        for (key, list) in [("tool_calls", calls), ("tool_responses", responses)] {
            if !list.is_empty() {
                fields.insert(key.to_owned(), Value::Array(list));
            }
        }
        Value::Object(fields)
    }
}

impl Content {
    fn to_json(&self) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Text(text) => json!(text),
            Self::Parts(parts) => parts.iter().map(Part::to_json).collect(),
            Self::Value(value) => value.clone(),
        }
    }
}

impl Part {
    /// Returns the part as JSON.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => json!({ "type": "text", "text": text }),
            Self::Media(kind, source) => {
                let name = match kind {
                    MediaKind::Image => "image",
                    MediaKind::Audio => "audio",
                    MediaKind::Video => "video",
                };
                let mut fields = Map::new();
                fields.insert("type".to_owned(), json!(name));
                fields.extend(source.iter().map(|s| (name.to_owned(), json!(s))));
                Value::Object(fields)
            }
        }
    }
}

impl ToolCall {
    fn from_json(value: &Value) -> Result<Self> {
        let fields = object(value, "a tool call")?;
        let function = match fields.get("function") {
            Some(function) => object(function, "function of a tool call")?,
            None => fields,
        };
        let Some(name) = text_of(function, "name")? else {
            return Err(Error::input("name of a tool call is missing"));
        };
        let arguments = match function.get("arguments") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(fields)) => fields.clone(),
            Some(Value::String(json)) if json.trim().is_empty() => Map::new(),
            Some(Value::String(json)) => serde_json::from_str(json).map_err(|_| {
                Error::input("arguments of a tool call are a text that holds no JSON object")
            })?,
            Some(_) => return Err(Error::input("arguments of a tool call are no object")),
        };
        Ok(Self { id: text_of(fields, "id")?.map(str::to_owned), name: name.to_owned(), arguments })
    }

    /// Returns the call as a JSON object of `name` and `arguments`, and `id` if it has one.
    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        fields.extend(self.id.iter().map(|id| ("id".to_owned(), json!(id))));
        fields.insert("name".to_owned(), Value::String(self.name.clone()));
        fields.insert("arguments".to_owned(), Value::Object(self.arguments.clone()));
        Value::Object(fields)
    }
}

impl ToolResponse {
    fn from_json(value: &Value) -> Result<Self> {
        let fields = object(value, "a tool response")?;
        let name = text_of(fields, "name")?.filter(|name| !name.is_empty());
        let response = fields.get("response").cloned().unwrap_or(Value::Null);
        Ok(Self { name: name.map(str::to_owned), response })
    }
}

impl Tool {
    /// Returns a tool with a JSON schema of its parameters.
    pub fn new(name: &str, description: &str, parameters: Value) -> Self {
        let mut function = Map::new();
        function.insert("name".to_owned(), Value::String(name.to_owned()));
        function.insert("description".to_owned(), Value::String(description.to_owned()));
        function.insert("parameters".to_owned(), parameters);
        Self { function }
    }

    /// Reads a tool: the function's schema, alone or under `function`.
    ///
    /// # Errors   `Input` if it is no object or has no name
    pub fn from_json(value: &Value) -> Result<Self> {
        let fields = object(value, "a tool")?;
        let function = match fields.get("function") {
            Some(function) => object(function, "function of a tool")?,
            None => fields,
        };
        if text_of(function, "name")?.is_none() {
            return Err(Error::input("name of a tool is missing"));
        }
        Ok(Self { function: function.clone() })
    }

    /// Returns the tool's name.
    pub fn name(&self) -> &str {
        self.function.get("name").and_then(Value::as_str).unwrap_or_default()
    }
}

impl Conversation {
    /// Returns a conversation without tools and thinking.
    pub fn new(messages: Vec<Message>) -> Self {
        Self {
            messages,
            tools: Vec::new(),
            thinking: false,
            preserve_thinking: false,
            generation_prompt: true,
        }
    }

    /// Reads `messages`, `tools`, `thinking`, `preserve_thinking` and `add_generation_prompt`.
    ///
    /// `enable_thinking` is another name for `thinking`; a bare array is the messages.
    ///
    /// # Errors   `Input`, with the message's index, if a field is of the wrong kind
    pub fn from_json(value: &Value) -> Result<Self> {
        let none = Map::new();
        let (fields, messages) = match value {
            Value::Array(messages) => (&none, messages.as_slice()),
            _ => {
                let fields = object(value, "the conversation")?;
                (fields, list(fields, "messages")?)
            }
        };
        let numbered = messages.iter().enumerate();
        let messages = numbered
            .map(|(i, m)| Message::from_json(m).map_err(|e| e.at(format!("message {i}"))))
            .collect::<Result<_>>()?;
        let tools = list(fields, "tools")?.iter().enumerate();
        let tools = tools
            .map(|(i, t)| Tool::from_json(t).map_err(|e| e.at(format!("tool {i}"))))
            .collect::<Result<_>>()?;
        let flag = |key: &str| match fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(*on)),
            Some(_) => Err(Error::input(format!("{key} is neither true nor false"))),
        };
        Ok(Self {
            messages,
            tools,
            thinking: flag("thinking")?.or(flag("enable_thinking")?).unwrap_or(false),
            preserve_thinking: flag("preserve_thinking")?.unwrap_or(false),
            generation_prompt: flag("add_generation_prompt")?.unwrap_or(true),
        })
    }

    /// Returns what [`from_json`](Self::from_json) reads; a tool's result that is a list comes
    /// back as parts.
    pub fn to_json(&self) -> Value {
        let tools: Vec<_> = self.tools.iter().map(|t| json!({ "function": t.function })).collect();
        json!({
            "messages": self.messages.iter().map(Message::to_json).collect::<Vec<_>>(),
            "tools": tools,
            "thinking": self.thinking,
            "preserve_thinking": self.preserve_thinking,
            "add_generation_prompt": self.generation_prompt,
        })
    }

    /// Returns the media of all messages in order; a prompt's media marks count along it.
    pub fn media(&self) -> impl Iterator<Item = (MediaKind, Option<&str>)> {
        self.messages.iter().flat_map(Message::media)
    }
}

fn content(value: Option<&Value>, role: Role) -> Result<Content> {
    match value {
        None | Some(Value::Null) => Ok(Content::Nothing),
        Some(Value::String(text)) => Ok(Content::Text(text.clone())),
        Some(Value::Array(parts)) => {
            Ok(Content::Parts(parts.iter().map(part).collect::<Result<_>>()?))
        }
        Some(other) if role == Role::Tool => Ok(Content::Value(other.clone())),
        Some(_) => Err(Error::input("content is neither a text nor a list of parts")),
    }
}

fn part(value: &Value) -> Result<Part> {
    let fields = object(value, "a content part")?;
    let kind = match text_of(fields, "type")? {
        Some("text") => {
            let text = text_of(fields, "text")?;
            return Ok(Part::Text(text.unwrap_or_default().to_owned()));
        }
        Some("image" | "image_url") => MediaKind::Image,
        Some("audio" | "input_audio") => MediaKind::Audio,
        Some("video" | "video_url") => MediaKind::Video,
        _ => {
            let kinds = "text, image, image_url, audio, input_audio or video";
            return Err(Error::input(format!(
                "type of a content part is unknown, expected {kinds}"
            )));
        }
    };
    let holders = ["image_url", "input_audio", "video_url", "image", "audio", "video"];
    let keys = ["url", "path", "data"];
    let inner = holders.iter().find_map(|key| fields.get(*key)).unwrap_or(value);
    let source = match inner {
        Value::String(source) => Some(source.as_str()),
        _ => keys.iter().find_map(|key| inner.get(*key)?.as_str()),
    };
    Ok(Part::Media(kind, source.map(str::to_owned)))
}

fn object<'a>(value: &'a Value, what: &str) -> Result<&'a Map<String, Value>> {
    value.as_object().ok_or_else(|| Error::input(format!("{what} is no JSON object")))
}

fn text_of<'a>(fields: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Error::input(format!("{key} is no text"))),
    }
}

fn list<'a>(fields: &'a Map<String, Value>, key: &str) -> Result<&'a [Value]> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(values)) => Ok(values),
        Some(_) => Err(Error::input(format!("{key} is no list"))),
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({})", Redacted(text)),
            Self::Media(kind, _) => write!(f, "{kind:?}"),
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("Nothing"),
            Self::Text(text) => write!(f, "Text({})", Redacted(text)),
            Self::Parts(parts) => f.debug_list().entries(parts).finish(),
            Self::Value(_) => f.write_str("Value"),
        }
    }
}

impl fmt::Debug for ToolCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ToolCall({} arguments)", self.arguments.len())
    }
}

impl fmt::Debug for ToolResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ToolResponse")
    }
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tool({} fields)", self.function.len())
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("role", &self.role)
            .field("content", &self.content)
            .field("tool_calls", &self.tool_calls)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation")
            .field("messages", &self.messages)
            .field("n_tools", &self.tools.len())
            .field("thinking", &self.thinking)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_as_json_is_read_again() {
        let whole = json!({
            "messages": [
                { "role": "system", "content": "be brief" },
                { "role": "user", "content": [
                    { "type": "image", "image": "a.png" },
                    { "type": "audio" },
                    { "type": "text", "text": "what is it?" },
                ] },
                { "role": "assistant", "content": null, "reasoning": "hm", "tool_calls": [
                    { "id": "7", "name": "look", "arguments": { "z": 1, "a": [0.1, null] } },
                    { "name": "wait", "arguments": {} },
                ] },
                { "role": "tool", "content": { "far": true }, "tool_call_id": "7", "name": "look" },
                { "role": "assistant", "content": "", "tool_responses": [
                    { "name": "wait", "response": [1, 2] },
                    { "name": null, "response": "done" },
                ] },
            ],
            "tools": [{ "function": { "name": "look", "parameters": { "type": "object" } } }],
            "thinking": true,
            "preserve_thinking": true,
            "add_generation_prompt": false,
        });
        let conversation = Conversation::from_json(&whole).unwrap();
        assert!(conversation.to_json() == whole);
        assert!(Conversation::from_json(&conversation.to_json()).unwrap() == conversation);
        let empty = Conversation::new(Vec::new());
        assert!(Conversation::from_json(&empty.to_json()).unwrap() == empty);
    }
}
