//! `culet pack`: a model file whose weights lie as this machine's kernels read them.
//!
//! In: a text model. Out: a copy with multiplied weights in the packed kernel layout.
//! Joint: the metadata keys of `culet::model::packed`, which say what is packed and how.
//! Invariant: streamed in pieces of a few MB; the file appears only when it is complete.
//! Invariant: rows that are looked up stay as they are; values never change, only their order.

use std::collections::BTreeMap;
use std::path::PathBuf;

use culet::Error;
use culet::Result;
use culet::ggml;
use culet::ggml::DType;
use culet::gguf::Gguf;
use culet::gguf::TensorInfo;
use culet::gguf::TensorWriter;
use culet::gguf::Value;
use culet::gguf::Writer;
use culet::model;
use culet::model::HParams;
use culet::model::packed::KEY_LAYOUT;
use culet::model::packed::KEY_TENSORS;

use crate::cli::print;
use crate::cli::print::Progress;

/// Tensors begin at a cache line, as the packed kernels like them.
const ALIGNMENT_BYTES: u32 = 64;
/// Bytes that are read and written at once, at least one group of rows.
const PIECE_BYTES: usize = 4 << 20;
const HEAD: &str = "output.weight";
const EMBEDDING: &str = "token_embd.weight";
/// Parts of a layer that are multiplied with.
const PARTS: [&str; 9] = [
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "inp_gate",
    "proj",
];

/// What `pack` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// GGUF file of the text model
    model: PathBuf,
    /// File to write
    out: PathBuf,
}

/// A tensor of the file to be.
struct Plan<'a> {
    name: &'a str,
    info: &'a TensorInfo,
    /// The type, if its rows are packed.
    packed: Option<DType>,
}

/// Writes the packed copy.
pub(crate) fn run(args: Args) -> Result<()> {
    let gguf = Gguf::open(&args.model)?;
    if gguf.has(KEY_TENSORS) {
        let text = format!("{}: packed already; pack the file it was made from", gguf.name());
        return Err(Error::input(text));
    }
    let hparams = HParams::read(&gguf)?;
    model::check(&gguf, &model::text_tensors(&hparams))?;
    let plans = plan(&gguf, &hparams)?;
    let (mut names, mut layouts) = (Vec::new(), BTreeMap::new());
    for (name, dtype) in plans.iter().filter_map(|p| Some((p.name, p.packed?))) {
        names.push(name);
        if let Some(layout) = ggml::layout_fingerprint(dtype)? {
            layouts.insert(dtype.to_string(), layout);
        }
    }
    if names.is_empty() {
        return Err(Error::unsupported(format!(
            "{}: this machine multiplies its types fastest as they are; use the file as it is",
            gguf.name()
        )));
    }
    let mut to = Writer::with_alignment(ALIGNMENT_BYTES)?;
    let copied = gguf.metadata().filter(|(key, _)| *key != "general.alignment");
    for (key, value) in copied {
        to.set(key, value)?;
    }
    to.set_texts(KEY_TENSORS, names.iter())?;
    for (dtype, layout) in &layouts {
        to.set(&format!("{KEY_LAYOUT}{dtype}"), Value::U64(*layout))?;
    }
    for p in &plans {
        to.add_tensor(p.name, p.info.dtype, &p.info.shape)?;
    }
    let mut out = to.create(&args.out)?;
    let mut progress = Progress::new();
    for (i, p) in plans.iter().enumerate() {
        progress.set(&format!("{} of {} tensors", i + 1, plans.len()));
        write(&gguf, p, &mut out)?;
    }
    out.finish()?;
    progress.clear();
    let kinds: Vec<&str> = layouts.keys().map(String::as_str).collect();
    print::say(&format!("{} of {} tensors packed: {}", names.len(), plans.len(), kinds.join(", ")));
    Ok(())
}

/// Returns the tensors to write: those of the file and, if the head is tied, one of its own.
fn plan<'a>(gguf: &'a Gguf, h: &HParams) -> Result<Vec<Plan<'a>>> {
    let mut plans = Vec::with_capacity(gguf.tensors().len() + 1);
    for info in gguf.tensors() {
        let packed = match is_multiplied(&info.name, h) {
            true => packs(gguf, info)?,
            false => None,
        };
        plans.push(Plan { name: &info.name, info, packed });
    }
    if let (None, Some(info)) = (gguf.tensor(HEAD), gguf.tensor(EMBEDDING))
        && let Some(dtype) = packs(gguf, info)?
    {
        plans.push(Plan { name: HEAD, info, packed: Some(dtype) });
    }
    Ok(plans)
}

/// Tells whether the tensor is only multiplied with. Tensors that hold the rows of several are
/// not packed, because their rows are used under other names.
fn is_multiplied(name: &str, h: &HParams) -> bool {
    let Some(stem) = name.strip_suffix(".weight") else { return false };
    if stem == "per_layer_model_proj" {
        // It is used in two parts, cut between layers.
        return h.n_embd_per_layer.is_multiple_of(ggml::PACK_ROWS);
    }
    let in_layer = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    name == HEAD || in_layer.is_some_and(|(_, part)| PARTS.contains(&part))
}

/// Returns the tensor's type if its rows can be packed here.
fn packs(gguf: &Gguf, info: &TensorInfo) -> Result<Option<DType>> {
    let dtype = DType::from_id(info.dtype.id()).map_err(|e| e.at(gguf.name()))?;
    let [row_len, n_rows, ..] = info.ne().map(|n| n as usize);
    if info.shape.len() != 2 || !ggml::packs(dtype, n_rows)? {
        return Ok(None);
    }
    let group = &gguf.tensor_bytes(info)[..ggml::PACK_ROWS * info.row_bytes()];
    let packed = ggml::pack_rows(dtype, row_len, ggml::PACK_ROWS, group)?;
    Ok(packed.map(|_| dtype))
}

fn write(gguf: &Gguf, p: &Plan<'_>, out: &mut TensorWriter) -> Result<()> {
    let bytes = gguf.tensor_bytes(p.info);
    let Some(dtype) = p.packed else {
        return bytes.chunks(PIECE_BYTES).try_for_each(|piece| out.append(piece));
    };
    let row_bytes = p.info.row_bytes();
    let group_bytes = ggml::PACK_ROWS * row_bytes;
    let piece_bytes = (PIECE_BYTES / group_bytes).max(1) * group_bytes;
    for piece in bytes.chunks(piece_bytes) {
        let n_rows = piece.len() / row_bytes;
        let packed = ggml::pack_rows(dtype, p.info.ne()[0] as usize, n_rows, piece)?;
        let packed = packed.ok_or_else(|| {
            Error::internal(format!("{n_rows} rows of {} packed before, now not", p.name))
        })?;
        out.append(&packed)?;
    }
    Ok(())
}
