//! `probe logits`: the decoder over given token ids.
//! In: a model file, ids. Out: logits after the soft cap as `.npy`.
//! Invariant: rows are written as they are computed; no more than one batch of them is held.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use culet::Error;
use culet::Result;
use culet::TokenId;
use culet::decoder::Decoder;
use culet::decoder::Entry;
use culet::decoder::Executor;
use culet::decoder::KvOptions;
use culet::ggml::Backend;
use culet::ggml::DType;
use culet::gguf::Gguf;
use culet::gguf::TensorType;
use culet::model::HParams;
use culet::text::Marker;

use crate::cli::input;
use crate::cli::model::GpuArgs;
use crate::cli::model::KvKind;
use crate::cli::print::Progress;
use crate::cli::probe::npy::NpyWriter;

/// Most tokens in a batch unless `--chunk` says otherwise.
const BATCH_TOKENS: usize = 512;
/// Most bytes of logits held at once unless `--chunk` says otherwise.
const LOGITS_BYTES: usize = 64 << 20;
/// What the reference takes a media placeholder without media for.
const PAD: TokenId = TokenId(0);

/// What `probe logits` is told.
#[derive(clap::Args)]
pub(super) struct LogitsArgs {
    /// GGUF file of the model
    model: PathBuf,
    /// {"ids": [...]} or a bare list
    #[arg(long, value_name = "FILE.json")]
    ids: PathBuf,
    /// Where to write the logits
    #[arg(long, value_name = "F.npy")]
    out: PathBuf,
    /// Logits of every position, or of the last one only
    #[arg(long, value_enum, default_value = "full")]
    plan: PlanKind,
    /// Tokens computed at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=8192))]
    chunk: Option<u16>,
    /// Type of cached keys and values [default: f32 if the weights are, else f16]
    #[arg(long, value_enum)]
    kv: Option<KvKind>,
    /// Processor threads [default: one for each logical core, at most 8]
    #[arg(short, long, value_name = "N", default_value = "0", hide_default_value = true)]
    threads: usize,
    #[command(flatten)]
    gpu: GpuArgs,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum PlanKind {
    Full,
    Prefill,
}

/// Runs the decoder over the ids.
pub(super) fn logits(args: &LogitsArgs) -> Result<()> {
    let mut ids = input::read_ids(&args.ids)?;
    if ids.is_empty() {
        let name = args.ids.display();
        return Err(Error::input(format!("{name}: no ids, expected at least one")));
    }
    let gguf = Gguf::open(&args.model)?;
    let hparams = HParams::read(&gguf)?;
    check_ids(&ids, &hparams, args)?;
    replace_placeholders(&gguf, &mut ids)?;
    let mut run = executor(args, &gguf, hparams, ids.len())?;
    let entries: Vec<Entry<'_>> = ids.iter().map(|&id| Entry::Token(id)).collect();
    let n_vocab = run.decoder().hparams().n_vocab;
    if args.plan == PlanKind::Prefill {
        let row = run.append_with_logits(&entries, 1)?;
        let mut writer = NpyWriter::create(&args.out, &[1, n_vocab])?;
        writer.append(row)?;
        return writer.finish();
    }
    let mut writer = NpyWriter::create(&args.out, &[ids.len(), n_vocab])?;
    let mut progress = Progress::new();
    for batch in entries.chunks(run.kv().n_batch()) {
        progress.set(&format!("{} of {} tokens", run.kv().n_past(), ids.len()));
        writer.append(run.append_with_logits(batch, batch.len())?)?;
    }
    writer.finish()
}

fn check_ids(ids: &[TokenId], h: &HParams, args: &LogitsArgs) -> Result<()> {
    let name = args.ids.display();
    if ids.len() > h.n_ctx_train {
        let (n, most) = (ids.len(), h.n_ctx_train);
        let text = format!("{name}: {n} tokens, the model's context is {most}; shorten the list");
        return Err(Error::input(text));
    }
    match ids.iter().position(|id| id.index() >= h.n_vocab) {
        None => Ok(()),
        Some(i) => {
            let (id, n_vocab) = (ids[i].0, h.n_vocab);
            Err(Error::input(format!("{name}: id {i} is {id}, expected less than {n_vocab}")))
        }
    }
}

fn replace_placeholders(gguf: &Gguf, ids: &mut [TokenId]) -> Result<()> {
    let Some(pieces) = gguf.optional_texts("tokenizer.ggml.tokens")? else { return Ok(()) };
    let names = [Marker::Image, Marker::Audio, Marker::Video].map(Marker::text);
    let numbered = pieces.enumerate();
    let places = numbered.filter(|(_, piece)| names.iter().any(|n| n.as_bytes() == *piece));
    let places: Vec<usize> = places.map(|(i, _)| i).collect();
    for id in ids.iter_mut().filter(|id| places.contains(&id.index())) {
        *id = PAD;
    }
    Ok(())
}

fn executor(args: &LogitsArgs, gguf: &Gguf, h: HParams, n_ctx: usize) -> Result<Executor> {
    let options = args.gpu.options(args.threads, None);
    let mut backend = Backend::new(&options.backend)?;
    if let Some(most) = options.gpu_bytes_max {
        backend.set_gpu_bytes_max(most);
    }
    let n_batch = match (args.chunk, args.plan) {
        (Some(n), _) => usize::from(n),
        (None, PlanKind::Prefill) => BATCH_TOKENS,
        (None, PlanKind::Full) => {
            (LOGITS_BYTES / (h.n_vocab * size_of::<f32>())).clamp(1, BATCH_TOKENS)
        }
    };
    let dtype = match args.kv {
        Some(kind) => kind.dtype(),
        None if is_all_f32(gguf) => DType::F32,
        None => DType::F16,
    };
    let decoder = Arc::new(Decoder::open(gguf, h, &backend)?);
    let kv = KvOptions { n_ctx, n_batch, dtype };
    Executor::with_backend(&decoder, kv, backend)
}

/// Tells whether no weight was rounded.
fn is_all_f32(gguf: &Gguf) -> bool {
    gguf.tensors().iter().all(|t| t.dtype == TensorType::F32)
}
