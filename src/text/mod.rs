//! Text: between words and token ids, and between conversations and prompts.
//!
//! In: a conversation (`Conversation`), user text, generated token ids.
//! Out: `Prompt` (markers, text, media marks), token ids, whole code points, answer events.
//!
//! - `vocabulary`: pieces, kinds, merges and markers as the model file holds them
//! - `bpe`: byte-pair merging over one span
//! - `tokenizer`: text to ids; `detokenizer`: ids to text, by whole code points
//! - `conversation`: messages, tools, media parts; `template`: the turns of a prompt
//! - `tools`: declarations, calls, responses and values as the model reads and writes them
//! - `channels`: generated tokens to thought, answer and tool calls
//! - `boxes`: an answer to boxes around things in a picture
//!
//! Source: Gemma 4 chat template, published 2026-07-09 (E2B and E4B form).
//! Invariant: a marker token is made by the template only; no text from outside becomes one.

pub mod boxes;
mod bpe;
pub mod channels;
pub mod conversation;
mod detokenizer;
pub mod template;
pub mod tokenizer;
mod tools;
pub mod vocabulary;

pub use boxes::Boxes;
pub use channels::Event;
pub use channels::Parsed;
pub use channels::Parser;
pub use channels::Stop;
pub use channels::parse_text;
pub use conversation::Content;
pub use conversation::Conversation;
pub use conversation::Message;
pub use conversation::Part;
pub use conversation::Role;
pub use conversation::Tool;
pub use conversation::ToolCall;
pub use conversation::ToolResponse;
pub use detokenizer::Detokenizer;
pub use template::Item;
pub use template::MediaKind;
pub use template::Prompt;
pub use template::Segment;
pub use tokenizer::Tokenizer;
pub use vocabulary::Marker;
pub use vocabulary::PieceKind;
pub use vocabulary::Special;
pub use vocabulary::Vocabulary;
