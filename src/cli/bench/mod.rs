//! `culet bench`: speed and memory, alone or beside llama.cpp, and files to measure them with.
//!
//! In: a model, or the shape of one. Out: rows, or a file.
//! Invariant: nothing is reported whose answer was not looked at; unmeasured is empty, not zero.

mod machine;
mod media;
#[cfg(not(feature = "reference"))]
mod no_peer;
#[cfg(feature = "reference")]
mod peer;
mod random;
mod report;
mod run;
mod speed;
mod synthesize;
mod voice;

use std::path::PathBuf;

#[cfg(not(feature = "reference"))]
use no_peer as peer;
pub(crate) use run::run;

use crate::cli::run::parse_budget;

/// What `bench` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// GGUF file of the text model [default: the small one that ships]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// GGUF file of its encoders, to measure pictures and sounds
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// Measure llama.cpp beside it, in turns
    #[arg(long)]
    peer: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Write the rows to a CSV file too
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Processor threads [default: one for each core]
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    threads: usize,
    /// Measure speech: from its end to the first token and sound, streaming, idle listening
    #[arg(long)]
    voice: bool,
    /// Lengths of sounds, with --voice
    #[arg(long, value_name = "SECONDS,..", value_delimiter = ',', default_value = "2,5,10,20,30")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=30))]
    seconds: Vec<u16>,
    /// Say a sound again and again at a microphone's pace, and count what is lost of it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["voice", "peer"])]
    soak: Option<PathBuf>,
    /// How long, with --soak
    #[arg(long, value_name = "MINUTES", default_value = "10", requires = "soak")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1440))]
    minutes: u16,
    /// Lengths of prompts
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "128,512,2048")]
    prefill: Vec<usize>,
    /// Tokens before an answer
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "0,2048,8192")]
    depths: Vec<usize>,
    /// Budgets of pictures, in soft tokens: 70, 140, 280, 560, 1120
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "280")]
    #[arg(value_parser = parse_budget)]
    pictures: Vec<u32>,
    /// Samples of each number
    #[arg(long, value_name = "N", default_value = "5")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Write a model file with random weights, e.g. e2b-q4_0, e4b-q4_k_m, mmproj-q8_0
    #[arg(long, num_args = 2, value_names = ["SHAPE-QUANT", "PATH"])]
    synthesize: Option<Vec<String>>,
}
