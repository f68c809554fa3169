//! What `bench` is told on the command line.
//!
//! In: words. Out: [`Args`].

use std::path::PathBuf;

use culet::session::SessionOptions;

use crate::cli::model::GpuArgs;
use crate::cli::model::KvKind;
use crate::cli::run::parse_budget;

/// What `bench` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// GGUF file of the text model [default: the small one that ships]
    #[arg(long, value_name = "FILE")]
    pub(super) model: Option<PathBuf>,
    /// GGUF file of its encoders, to measure pictures and sounds
    #[arg(long, value_name = "FILE")]
    pub(super) mmproj: Option<PathBuf>,
    /// Measure llama.cpp beside it, in turns; on the processor alone
    #[arg(long)]
    pub(super) peer: bool,
    /// The file that llama.cpp reads, if the model is packed: it knows only the plain one
    #[arg(long, value_name = "FILE", requires = "peer")]
    pub(super) peer_model: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Write the rows to a CSV file too
    #[arg(long, value_name = "FILE")]
    pub(super) csv: Option<PathBuf>,
    /// Processor threads [default: one for each logical core, at most 8]
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    pub(super) threads: usize,
    #[command(flatten)]
    pub(super) gpu: GpuArgs,
    /// Measure speech: from its end to the first token and sound, streaming, idle listening
    #[arg(long)]
    pub(super) voice: bool,
    /// Lengths of sounds, with --voice
    #[arg(long, value_name = "SECONDS,..", value_delimiter = ',', default_value = "2,5,10,20,30")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=30))]
    pub(super) seconds: Vec<u16>,
    /// Say a sound again and again at a microphone's pace, and count what is lost of it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["voice", "peer"])]
    pub(super) soak: Option<PathBuf>,
    /// How long, with --soak
    #[arg(long, value_name = "MINUTES", default_value = "10", requires = "soak")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1440))]
    pub(super) minutes: u16,
    /// Lengths of prompts
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "128,512,2048")]
    pub(super) prefill: Vec<usize>,
    /// Tokens before an answer
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "0,2048,8192")]
    pub(super) depths: Vec<usize>,
    /// Most tokens of a prompt that are computed together
    #[arg(long, value_name = "N", default_value_t = SessionOptions::default().n_batch as u32)]
    #[arg(conflicts_with_all = ["voice", "soak"])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub(super) batch: u32,
    /// Type of cached keys and values
    #[arg(long, value_enum, default_value = "f16")]
    #[arg(conflicts_with_all = ["peer", "voice", "soak"])]
    pub(super) kv: KvKind,
    /// Budgets of pictures, in soft tokens: 70, 140, 280, 560, 1120
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "280")]
    #[arg(value_parser = parse_budget)]
    pub(super) pictures: Vec<u32>,
    /// Samples of each number
    #[arg(long, value_name = "N", default_value = "5")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) repeat: u16,
    /// Write a model file with random weights, e.g. e2b-q4_0, e4b-q4_k_m, mmproj-q8_0
    #[arg(long, num_args = 2, value_names = ["SHAPE-QUANT", "PATH"])]
    pub(super) synthesize: Option<Vec<String>>,
}
