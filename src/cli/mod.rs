//! The program's verbs, one file or folder each.
//!
//! In: arguments. Out: the result on stdout, words for people on stderr.
//! Joint: each verb has `Args` and `run(args)`; `print` is the only way to the outside.
//! Invariant: nothing that a person says, hears or sees is in a log line or an error.

mod bench;
pub(crate) mod input;
mod model;
mod pack;
pub(crate) mod print;
mod probe;
mod run;
mod show;
mod voice;

use clap::Parser;
use clap::Subcommand;
use culet::Result;

/// Runs Gemma 4 E2B and E4B on this device: it hears, sees, answers and calls tools.
#[derive(Parser)]
#[command(name = "culet", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Program {
    #[command(subcommand)]
    pub(crate) verb: Verb,
    /// Say more on stderr: timings; twice for details
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Measure speed and memory, or write a file to measure with
    Bench(bench::Args),
    /// Write a copy of a model whose weights lie as this machine's kernels read them
    Pack(pack::Args),
    /// Open every stage, to compare it with another implementation
    Probe(probe::Args),
    /// Answer a question, with pictures and sounds, or chat
    Run(Box<run::Args>),
    /// Show what is in a model file and the memory it needs
    Show(show::Args),
    /// Write down what is said in a sound
    Transcribe(voice::transcribe::Args),
    /// Write down what is said in a sound, and what it means in another language
    Translate(voice::transcribe::TranslateArgs),
    /// Hold a spoken conversation
    Voice(Box<voice::talk::Args>),
}

impl Verb {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Bench(args) => bench::run(args),
            Self::Pack(args) => pack::run(args),
            Self::Probe(args) => probe::run(args),
            Self::Run(args) => run::run(*args),
            Self::Show(args) => show::run(args),
            Self::Transcribe(args) => voice::transcribe::run(&args),
            Self::Translate(args) => voice::transcribe::run_translate(&args),
            Self::Voice(args) => voice::talk::run(&args),
        }
    }
}
