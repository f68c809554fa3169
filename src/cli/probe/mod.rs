//! `culet probe`: opens every stage, to compare it with another implementation.
//!
//! In: files. Out: arrays as little-endian float32 `.npy`, the rest as one JSON document.
//!
//! - `text`: tokens, text, prompt, parse
//! - `logits`: the decoder; `answer`: everything together
//! - `media`: the encoders
//! - `npy`: arrays

mod answer;
mod logits;
mod media;
mod npy;
mod text;

use clap::Subcommand;
use culet::Result;

/// What `probe` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    stage: Stage,
}

#[derive(Subcommand)]
enum Stage {
    /// Encode a text: {"ids": [...]}
    Tokens(text::TokensArgs),
    /// Decode token ids: {"text": ...}
    Text(text::TextArgs),
    /// Render a conversation: {"prompt": ..., "ids": [...]}
    Prompt(text::PromptArgs),
    /// Parse raw output: {"thought": ..., "answer": ..., "tool_calls": [...]}
    Parse(text::ParseArgs),
    /// Run the decoder: [n, n_vocab] after the soft cap
    Logits(logits::LogitsArgs),
    /// Answer as `run` does: {"text": ...} and the logits of its tokens, [n, n_vocab]
    Answer(Box<answer::AnswerArgs>),
    /// Encode a sound: soft tokens [n, n_embd]
    Audio(media::AudioArgs),
    /// Encode a picture: soft tokens [n, n_embd]
    Vision(media::VisionArgs),
}

/// Runs one stage.
pub(crate) fn run(args: Args) -> Result<()> {
    match args.stage {
        Stage::Tokens(args) => text::tokens(&args),
        Stage::Text(args) => text::text(&args),
        Stage::Prompt(args) => text::prompt(&args),
        Stage::Parse(args) => text::parse(&args),
        Stage::Logits(args) => logits::logits(&args),
        Stage::Answer(args) => answer::answer(&args),
        Stage::Audio(args) => media::audio(&args),
        Stage::Vision(args) => media::vision(&args),
    }
}
