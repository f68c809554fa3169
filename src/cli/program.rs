//! The program's arguments: which verbs there are and who does them.
//! In: arguments. Out: the verb's result.

use clap::Parser;
use clap::Subcommand;
use culet::Result;

use crate::cli::bench;
use crate::cli::doctor;
use crate::cli::look;
use crate::cli::pack;
use crate::cli::probe;
use crate::cli::run;
use crate::cli::show;
use crate::cli::verify;
use crate::cli::voice;

/// Runs Gemma 4 E2B and E4B on this device: it hears, sees, answers and calls tools.
#[derive(Parser)]
#[command(name = "culet", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Program {
    #[command(subcommand)]
    pub(crate) verb: Verb,
    /// Say more on stderr: timings; twice for details and the time of each kind of operation
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Answer a question about a picture
    Ask(look::question::AskArgs),
    /// Measure speed and memory, or write a file to measure with
    Bench(bench::Args),
    /// Say what a picture shows
    Caption(look::question::CaptionArgs),
    /// Say what is the same and what differs in two pictures
    Compare(look::question::CompareArgs),
    /// Find things in a picture: boxes in pixels, and a copy with them drawn
    Detect(look::detect::Args),
    /// Tell what this machine has and what Culet would use of it
    Doctor(doctor::Args),
    /// Read the text in a picture
    Ocr(look::ocr::Args),
    /// Write a copy of a model whose weights lie as this machine's kernels read them
    Pack(pack::Args),
    /// Open every stage, to compare it with another implementation
    Probe(probe::Args),
    /// Answer a question, with pictures and sounds, or chat
    Run(Box<run::Args>),
    /// Look through a camera and say what it sees, or answer a question
    See(look::see::Args),
    /// Show what is in a model file and the memory it needs
    Show(show::Args),
    /// Write down what is said in a sound
    Transcribe(voice::transcribe::Args),
    /// Write down what is said in a sound, and what it means in another language
    Translate(voice::transcribe::TranslateArgs),
    /// Check that a model works on this machine, and say why not
    Verify(verify::Args),
    /// Hold a spoken conversation
    Voice(Box<voice::talk::Args>),
    /// Look through a camera again and again, and speak when there is something to tell
    Watch(look::watch::Args),
}

impl Verb {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Ask(args) => look::question::run_ask(&args),
            Self::Bench(args) => bench::run(args),
            Self::Caption(args) => look::question::run_caption(&args),
            Self::Compare(args) => look::question::run_compare(&args),
            Self::Detect(args) => look::detect::run(&args),
            Self::Doctor(args) => doctor::run(&args),
            Self::Ocr(args) => look::ocr::run(&args),
            Self::Pack(args) => pack::run(args),
            Self::Probe(args) => probe::run(args),
            Self::Run(args) => run::run(*args),
            Self::See(args) => look::see::run(&args),
            Self::Show(args) => show::run(args),
            Self::Transcribe(args) => voice::transcribe::run(&args),
            Self::Translate(args) => voice::transcribe::run_translate(&args),
            Self::Verify(args) => verify::run(&args),
            Self::Voice(args) => voice::talk::run(&args),
            Self::Watch(args) => look::watch::run(&args),
        }
    }
}
