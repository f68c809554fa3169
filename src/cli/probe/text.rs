//! `probe tokens`, `text`, `prompt`, `parse`: the stages between words and token ids.
//! In: a file's vocabulary, texts, ids, conversations. Out: one JSON document each.

use std::path::PathBuf;

use culet::Result;
use culet::TokenId;
use culet::gguf::Gguf;
use culet::text::Conversation;
use culet::text::Prompt;
use culet::text::Tokenizer;
use culet::text::parse_text;
use serde_json::Value;
use serde_json::json;

use crate::cli::input;
use crate::cli::print;

/// What `probe tokens` is told.
#[derive(clap::Args)]
pub(super) struct TokensArgs {
    /// GGUF file with the vocabulary
    model: PathBuf,
    /// UTF-8 text to encode, as it is
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Let the spelling of a control token become that token
    #[arg(long)]
    control: bool,
}

/// What `probe text` is told.
#[derive(clap::Args)]
pub(super) struct TextArgs {
    /// GGUF file with the vocabulary
    model: PathBuf,
    /// {"ids": [...]} or a bare list
    #[arg(long, value_name = "FILE.json")]
    ids: PathBuf,
}

/// What `probe prompt` is told.
#[derive(clap::Args)]
pub(super) struct PromptArgs {
    /// GGUF file with the vocabulary
    model: PathBuf,
    /// OpenAI-style messages, tools, and thinking true or false
    #[arg(long, value_name = "FILE.json")]
    chat: PathBuf,
}

/// What `probe parse` is told.
#[derive(clap::Args)]
pub(super) struct ParseArgs {
    /// Raw output, its control tokens spelled out
    file: PathBuf,
    /// The prompt ended inside a thought
    #[arg(long)]
    in_thought: bool,
}

/// Encodes a text.
pub(super) fn tokens(args: &TokensArgs) -> Result<()> {
    let text = input::read_text(&args.text)?;
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(&args.model)?)?;
    let ids = match args.control {
        true => tokenizer.encode_with_markers(&text)?,
        false => tokenizer.encode(&text)?,
    };
    print::json(&json!({ "ids": numbers(&ids) }))
}

/// Decodes token ids, control tokens by their spellings.
pub(super) fn text(args: &TextArgs) -> Result<()> {
    let ids = input::read_ids(&args.ids)?;
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(&args.model)?)?;
    let n_vocab = tokenizer.n_vocab();
    if let Some(i) = ids.iter().position(|id| id.index() >= n_vocab) {
        let name = args.ids.display();
        let text = format!("{name}: id {i} is {}, expected less than {n_vocab}", ids[i].0);
        return Err(culet::Error::input(text));
    }
    print::json(&json!({ "text": tokenizer.decode_with_markers(&ids) }))
}

/// Renders a conversation.
pub(super) fn prompt(args: &PromptArgs) -> Result<()> {
    let json = input::read_json(&args.chat)?;
    let conversation = Conversation::from_json(&json).map_err(|e| e.at(args.chat.display()))?;
    let prompt = Prompt::render(&conversation).map_err(|e| e.at(args.chat.display()))?;
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(&args.model)?)?;
    let ids = numbers(&prompt.ids(&tokenizer)?);
    print::json(&json!({ "prompt": prompt.to_string(), "ids": ids }))
}

/// Parses raw output.
pub(super) fn parse(args: &ParseArgs) -> Result<()> {
    let raw = input::read_text(&args.file)?;
    print::json(&parse_text(&raw, args.in_thought).to_json())
}

fn numbers(ids: &[TokenId]) -> Vec<Value> {
    ids.iter().map(|id| Value::from(id.0)).collect()
}
