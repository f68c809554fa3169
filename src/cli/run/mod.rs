//! `culet run`: answers a question, or chats.
//!
//! In: a prompt (argument, stdin or a terminal), pictures, sounds. Out: the answer on stdout.
//!
//! - `ask`: one question; `chat`: a conversation at a terminal
//! - `answer`: one answer with its counts and times
//! - `attach`: pictures and sounds; `option`: how tokens are chosen and conversations begin
//! - `story`: the conversation, kept in a file if wanted; `stop`: Ctrl-C

pub(crate) mod answer;
mod ask;
mod attach;
mod chat;
mod option;
pub(crate) mod stop;
mod story;

use std::io::IsTerminal;
use std::path::PathBuf;

use culet::Result;

pub(crate) use ask::Question;
pub(crate) use ask::message;
pub(crate) use attach::PictureArgs;
pub(crate) use attach::parse_budget;
pub(crate) use option::OpeningArgs;
pub(crate) use option::SamplingArgs;

use crate::cli::model::ModelArgs;

/// What `run` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to ask; `-` reads stdin. Without it: stdin, or a chat at a terminal
    prompt: Option<String>,
    #[command(flatten)]
    attached: attach::Attached,
    #[command(flatten)]
    picture: PictureArgs,
    #[command(flatten)]
    opening: option::OpeningArgs,
    #[command(flatten)]
    pub(crate) sampling: option::SamplingArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Go on with the conversation in this file, and keep it there
    #[arg(long, value_name = "FILE")]
    session: Option<PathBuf>,
    /// Write one JSON document: text, thought, tool calls, counts and times
    #[arg(long)]
    json: bool,
}

/// Answers or chats.
pub(crate) fn run(args: Args) -> Result<()> {
    let has_words = args.prompt.is_some() || !args.attached.files.is_empty();
    let is_terminal = std::io::stdin().is_terminal();
    match is_terminal && !has_words && !args.json {
        true => chat::chat(&args),
        false => ask::ask(&args, is_terminal),
    }
}
