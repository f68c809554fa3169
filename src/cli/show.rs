//! `culet show`: what is in a model file, and the memory it needs at a context size.
//! In: a GGUF file. Out: a report for people, or one JSON document.
//! Invariant: nothing is loaded; only the header and the tensor directory are read.

use std::path::PathBuf;

use culet::Error;
use culet::Result;
use culet::gguf::Gguf;
use culet::gguf::TensorType;
use culet::gguf::Value as GgufValue;
use culet::model::EncoderHParams;
use culet::model::HParams;
use culet::model::LayerKind;
use culet::model::Variant;
use culet::model::memory;
use culet::model::memory::KvShape;
use culet::model::memory::KvSize;
use culet::model::memory::bytes_text;
use culet::session::SessionOptions;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::cli::model::KvKind;
use crate::cli::print;

/// Most characters of a metadata value that are shown.
const VALUE_CHARS: usize = 60;

/// What `show` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// GGUF file: text model, mmproj, or both in one
    model: PathBuf,
    /// Tokens of context to plan for
    #[arg(long, value_name = "TOKENS", default_value = "4096")]
    ctx: usize,
    /// Type of cached keys and values
    #[arg(long, value_enum, default_value = "f16")]
    kv: KvKind,
    /// List the metadata
    #[arg(long)]
    metadata: bool,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Write one JSON document
    #[arg(long)]
    json: bool,
}

/// What a file holds.
struct Report {
    gguf: Gguf,
    text: Option<HParams>,
    encoders: Option<EncoderHParams>,
    plan: Option<Plan>,
}

/// What a session at a context size takes.
struct Plan {
    /// Most tokens that are computed together.
    n_batch: usize,
    kv: KvSize,
    compute_bytes: u64,
    /// Weights that answering reads, the per-layer table aside.
    read_bytes: u64,
}

impl Plan {
    /// Returns what `--memory` counts.
    fn total_bytes(&self) -> u64 {
        let parts = [self.kv.total_bytes(), self.compute_bytes, self.read_bytes];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// Shows the file.
pub(crate) fn run(args: Args) -> Result<()> {
    let report = Report::open(&args)?;
    match args.json {
        true => print::json(&report.to_json(&args)),
        false => print::result(&report.to_text(&args)),
    }
}

impl Report {
    fn open(args: &Args) -> Result<Self> {
        let gguf = Gguf::open(&args.model)?;
        let is_encoder_only = architecture(&gguf) == "clip";
        let text = match is_encoder_only || gguf.tensors().is_empty() {
            true => None,
            false => Some(HParams::read(&gguf)?),
        };
        let encoders = match EncoderHParams::present(&gguf) || is_encoder_only {
            true => Some(EncoderHParams::read(&gguf, width(&gguf, text.as_ref())?)?),
            false => None,
        };
        let plan = match &text {
            Some(h) => Some(plan(&gguf, h, args)?),
            None => None,
        };
        Ok(Self { gguf, text, encoders, plan })
    }

    fn weight_bytes(&self) -> u64 {
        self.gguf.tensors().iter().map(|t| t.size_bytes as u64).sum()
    }

    fn to_text(&self, args: &Args) -> String {
        let gguf = &self.gguf;
        let mut rows = vec![("file", gguf.name().to_owned())];
        rows.push(("architecture", architecture(gguf).to_owned()));
        if let Ok(Some(name)) = gguf.optional_str("general.name") {
            rows.push(("name", shown(name)));
        }
        if let Some(h) = &self.text {
            rows.extend(text_rows(h));
        }
        if let Some(e) = &self.encoders {
            rows.extend(encoder_rows(e));
        }
        let (n, bytes) = (gguf.tensors().len(), bytes_text(self.weight_bytes()));
        rows.push(("tensors", format!("{n}, {bytes}")));
        let mut text: String = rows.iter().map(|(k, v)| format!("{k:<14}{v}\n")).collect();
        text.push_str(&self.size_text());
        if let Some(plan) = &self.plan {
            text.push_str(&memory_text(plan, self.weight_bytes(), args));
        }
        if args.metadata {
            text.push_str("\nmetadata\n");
            let rows = gguf.metadata().map(|(k, v)| format!("  {k} = {}\n", value_text(&v)));
            text.extend(rows);
        }
        if args.tensors {
            text.push_str("\ntensors\n");
            let row = |t: &culet::gguf::TensorInfo| {
                format!("  {:<44} {:<8} {:?}\n", t.name, t.dtype.name(), t.shape)
            };
            text.extend(gguf.tensors().iter().map(row));
        }
        text
    }

    fn size_text(&self) -> String {
        let mut text = String::new();
        let parts = memory::parts(&self.gguf, self.text.as_ref());
        if !parts.is_empty() {
            text.push_str("\nbytes by part\n");
        }
        for p in parts {
            let (name, bytes) = (p.part.name(), bytes_text(p.size_bytes));
            text.push_str(&format!("  {name:<28}{bytes:>12}  {} tensors\n", p.n_tensors));
        }
        let types = memory::types(self.gguf.tensors());
        if !types.is_empty() {
            text.push_str("\nbytes by type\n");
        }
        for (dtype, n, size_bytes) in types {
            let (name, bytes) = (dtype.name(), bytes_text(size_bytes));
            text.push_str(&format!("  {name:<28}{bytes:>12}  {n} tensors\n"));
        }
        text
    }

    fn to_json(&self, args: &Args) -> Value {
        let mut fields = Map::new();
        let mut set = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        set("file", json!(self.gguf.name()));
        set("architecture", json!(architecture(&self.gguf)));
        if let Some(h) = &self.text {
            set("variant", json!(Variant::name_of(h)));
            set("n_layer", json!(h.n_layer()));
            set("n_embd", json!(h.n_embd));
            set("n_vocab", json!(h.n_vocab));
            set("n_ctx_train", json!(h.n_ctx_train));
            set("window", json!(h.window));
        }
        let encoders = self.encoders.as_ref();
        set("vision", json!(encoders.is_some_and(|e| e.vision.is_some())));
        set("audio", json!(encoders.is_some_and(|e| e.audio.is_some())));
        set("size_bytes", json!(self.weight_bytes()));
        let parts = memory::parts(&self.gguf, self.text.as_ref()).into_iter().map(|p| {
            json!({"part": p.part.name(), "n_tensors": p.n_tensors, "size_bytes": p.size_bytes})
        });
        set("parts", parts.collect());
        let types = memory::types(self.gguf.tensors()).into_iter();
        let types = types.map(|(dtype, n, size_bytes)| {
            json!({"type": dtype.name(), "n_tensors": n, "size_bytes": size_bytes})
        });
        set("types", types.collect());
        if let Some(plan) = &self.plan {
            set("n_ctx", json!(args.ctx));
            set("kv_bytes", json!(plan.kv.total_bytes()));
            set("kv_bytes_per_token", json!(plan.kv.full_bytes_per_position));
            set("compute_bytes", json!(plan.compute_bytes));
            set("memory_bytes", json!(plan.total_bytes()));
        }
        if args.metadata {
            let rows = self.gguf.metadata().map(|(k, v)| (k.to_owned(), json!(value_text(&v))));
            set("metadata", Value::Object(rows.collect()));
        }
        if args.tensors {
            let rows = self.gguf.tensors().iter();
            let rows =
                rows.map(|t| json!({"name": t.name, "type": t.dtype.name(), "shape": t.shape}));
            set("tensors", rows.collect());
        }
        Value::Object(fields)
    }
}

fn architecture(gguf: &Gguf) -> &str {
    gguf.optional_str("general.architecture").ok().flatten().unwrap_or("unnamed")
}

/// Returns the width of soft tokens: the decoder's, or what an mmproj file says it is.
fn width(gguf: &Gguf, text: Option<&HParams>) -> Result<usize> {
    if let Some(h) = text {
        return Ok(h.n_embd);
    }
    for key in ["clip.vision.projection_dim", "clip.audio.projection_dim"] {
        if let Some(n) = gguf.optional_u32(key)? {
            return Ok(n as usize);
        }
    }
    let name = gguf.name();
    Err(Error::format(format!("{name}: metadata key clip.vision.projection_dim is missing")))
}

fn plan(gguf: &Gguf, h: &HParams, args: &Args) -> Result<Plan> {
    if args.ctx == 0 || args.ctx > h.n_ctx_train {
        let (n, most) = (args.ctx, h.n_ctx_train);
        return Err(Error::input(format!("--ctx is {n}; this model takes 1 to {most}")));
    }
    let dtype = TensorType::from_id(args.kv.dtype().id()).expect("cache types are known");
    // Sliding layers keep a batch besides their window.
    let n_batch = SessionOptions::default().n_batch;
    let shape = KvShape { n_ctx: args.ctx, n_batch, dtype };
    Ok(Plan {
        n_batch,
        kv: memory::kv_size(h, &shape)?,
        compute_bytes: memory::compute_bytes(h, &shape),
        read_bytes: memory::read_bytes(gguf, Some(h)),
    })
}

fn text_rows(h: &HParams) -> Vec<(&'static str, String)> {
    let n_full = h.layers.iter().filter(|l| l.kind == LayerKind::Full).count();
    let n_shared = h.n_layer() - h.first_shared;
    vec![
        ("variant", Variant::name_of(h).to_owned()),
        ("layers", format!("{}, {n_full} full, {n_shared} with shared keys", h.n_layer())),
        ("width", h.n_embd.to_string()),
        ("vocabulary", h.n_vocab.to_string()),
        ("context", format!("{} tokens, sliding window {}", h.n_ctx_train, h.window)),
    ]
}

fn encoder_rows(e: &EncoderHParams) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(v) = &e.vision {
        rows.push(("pictures", format!("{} layers of width {}", v.n_layer, v.n_embd)));
    }
    if let Some(a) = &e.audio {
        rows.push(("sound", format!("{} layers of width {}", a.n_layer, a.n_embd)));
    }
    rows
}

fn memory_text(plan: &Plan, weight_bytes: u64, args: &Args) -> String {
    let row =
        |name: &str, n: u64, note: &str| format!("  {name:<28}{:>12}  {note}\n", bytes_text(n));
    let kv = &plan.kv;
    let per_token = format!("{} a token", bytes_text(kv.full_bytes_per_position));
    let table_bytes = weight_bytes.saturating_sub(plan.read_bytes);
    let mut text = format!("\nmemory at {} tokens of context\n", args.ctx);
    text.push_str(&row("weights", plan.read_bytes, "mapped from the file, shared"));
    text.push_str(&row("cache, full layers", kv.full_bytes, &per_token));
    text.push_str(&row("cache, sliding layers", kv.sliding_bytes, "whatever the context"));
    let batch = format!("at most, for {} tokens at once", plan.n_batch);
    text.push_str(&row("intermediate values", plan.compute_bytes, &batch));
    text.push_str(&row("in all", plan.total_bytes(), "what --memory counts"));
    if table_bytes > 0 {
        let note = "read row by row, not counted";
        text.push_str(&row("per-layer embedding table", table_bytes, note));
    }
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Returns a text from a file without control characters, cut where it gets long.
fn shown(text: &str) -> String {
    let plain: String = text.chars().take(VALUE_CHARS).map(plain).collect();
    match text.chars().nth(VALUE_CHARS) {
        Some(_) => format!("{plain}..."),
        None => plain,
    }
}

fn plain(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

fn value_text(value: &GgufValue<'_>) -> String {
    if let Some(bytes) = value.text() {
        return shown(&String::from_utf8_lossy(bytes));
    }
    if let Some(array) = value.array() {
        return format!("{} values of {}", array.len(), array.kind().name());
    }
    let number = value.integer().map(|n| n.to_string());
    let number = number.or_else(|| value.float().map(|n| n.to_string()));
    number.or_else(|| value.truth().map(|t| t.to_string())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_from_files_are_cut_and_cleaned() {
        assert_eq!(shown("a\u{1b}[2Jb"), "a [2Jb");
        assert_eq!(shown(&"x".repeat(VALUE_CHARS)).len(), VALUE_CHARS);
        assert!(shown(&"x".repeat(VALUE_CHARS + 1)).ends_with("x..."));
    }
}
