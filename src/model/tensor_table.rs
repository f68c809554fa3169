//! Expected tensors, and how they are found in a file.
//!
//! In: [`HParams`]. Out: a table of [`TensorSpec`]s, and each one's place in a [`Gguf`].
//! Source: specification 7.2; llama.cpp `src/models/gemma4.cpp` for fused queries, keys and values.
//! Invariant: a resolved tensor has the expected shape and a usable type, and its bytes lie in the
//! mapping. Rows of a fused tensor are a tensor of their own, so graphs know no fused case.

use std::collections::HashMap;

use crate::error::Error;
use crate::error::Result;
use crate::gguf::Gguf;
use crate::gguf::TensorInfo;
use crate::gguf::TensorType;
use crate::gguf::mapping::POINTER_ALIGN_BYTES;
use crate::model::hparams::HParams;

/// What a tensor is used for, and so which types it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Multiplied with: any weight type.
    Matrix,
    /// Convolved or looked up value by value: F32, F16 or BF16.
    Table,
    /// Norms, biases, factors and scalars: F32.
    Vector,
}

impl Role {
    fn takes(self, dtype: TensorType) -> bool {
        match self {
            Self::Matrix => dtype.is_weight(),
            Self::Table => dtype.is_float(),
            Self::Vector => dtype == TensorType::F32,
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Matrix => "a weight type such as Q4_0, Q4_K, Q8_0, F16, BF16 or F32",
            Self::Table => "F32, F16 or BF16",
            Self::Vector => "F32",
        }
    }
}

/// A tensor of whose rows some stand in for a tensor of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fused {
    /// The fused tensor's name.
    pub name: String,
    /// Its rows.
    pub n_rows: u64,
    /// Its first row that belongs to the tensor of the table.
    pub first_row: u64,
}

/// What the table expects of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name, as in files of llama.cpp's converter.
    pub name: String,
    /// Its shape in ggml order, fastest first.
    pub shape: Vec<u64>,
    /// Whether the model cannot run without it.
    pub required: bool,
    /// What it is used for.
    pub role: Role,
    /// Its name in the file, where that is another one.
    pub in_file: Option<String>,
    /// Fused tensors that may hold its rows.
    pub fused: Vec<Fused>,
}

impl TensorSpec {
    /// Creates the expectation of a required tensor under one name.
    pub fn new(name: impl Into<String>, role: Role, shape: &[usize]) -> Self {
        Self {
            name: name.into(),
            shape: shape.iter().map(|n| *n as u64).collect(),
            required: true,
            role,
            in_file: None,
            fused: Vec::new(),
        }
    }

    /// Returns the same expectation of a tensor that may be missing.
    pub fn optional(mut self) -> Self {
        self.required = false;
        self
    }

    /// Returns the same expectation with rows of a fused tensor to look for.
    pub fn or_rows_of(mut self, name: String, n_rows: usize, first_row: usize) -> Self {
        let (n_rows, first_row) = (n_rows as u64, first_row as u64);
        self.fused.push(Fused { name, n_rows, first_row });
        self
    }

    /// Finds the tensor; it comes with the table's name and shape.
    ///
    /// # Errors
    /// `Format` if it is missing though required, or has another shape; `Unsupported` if it has
    /// a type that cannot be used.
    pub fn find(&self, file: &Gguf) -> Result<Option<TensorInfo>> {
        let in_file = self.in_file.as_ref().unwrap_or(&self.name);
        if let Some(info) = file.tensor(in_file) {
            self.check(file, info, &self.shape)?;
            let (name, shape) = (self.name.clone(), self.shape.clone());
            return Ok(Some(TensorInfo { name, shape, ..info.clone() }));
        }
        for fused in &self.fused {
            if let Some(info) = file.tensor(&fused.name) {
                return self.rows(file, info, fused).map(Some);
            }
        }
        if self.required {
            let name = file.name();
            return Err(Error::format(format!("{name}: tensor {in_file} is missing")));
        }
        Ok(None)
    }

    fn rows(&self, file: &Gguf, info: &TensorInfo, fused: &Fused) -> Result<TensorInfo> {
        let mut whole = self.shape.clone();
        let rows = whole.get_mut(1).ok_or_else(|| {
            Error::internal(format!("table lets {} be rows of {}", self.name, fused.name))
        })?;
        let n_rows = std::mem::replace(rows, fused.n_rows);
        self.check(file, info, &whole)?;
        let row_bytes = info.row_bytes();
        let offset = info.offset + fused.first_row as usize * row_bytes;
        if !offset.is_multiple_of(POINTER_ALIGN_BYTES as usize) {
            return Err(Error::unsupported(format!(
                "{}: tensor {} begins inside {} at byte {offset}, expected a multiple of {}; \
                 use a file with separate tensors",
                file.name(),
                self.name,
                fused.name,
                POINTER_ALIGN_BYTES
            )));
        }
        Ok(TensorInfo {
            name: self.name.clone(),
            dtype: info.dtype,
            shape: self.shape.clone(),
            offset,
            size_bytes: n_rows as usize * row_bytes,
        })
    }

    fn check(&self, file: &Gguf, info: &TensorInfo, shape: &[u64]) -> Result<()> {
        let place = format!("{}: tensor {}", file.name(), info.name);
        let same = info.ne().iter().zip(shape.iter().chain([1; 4].iter())).all(|(a, b)| a == b);
        if !same {
            let found = &info.shape;
            return Err(Error::format(format!("{place} has shape {found:?}, expected {shape:?}")));
        }
        if !self.role.takes(info.dtype) {
            let (found, expected) = (info.dtype, self.role.expected());
            return Err(Error::unsupported(format!(
                "{place} has type {found}, expected {expected}; use another quantisation"
            )));
        }
        if !info.offset.is_multiple_of(POINTER_ALIGN_BYTES as usize) {
            return Err(Error::unsupported(format!(
                "{place} begins at byte {}, expected a multiple of {POINTER_ALIGN_BYTES}; \
                 write the file again with an alignment of 32",
                info.offset
            )));
        }
        Ok(())
    }
}

/// Finds every tensor of `table` by the table's name; optional ones may be absent.
///
/// # Errors
/// As for [`TensorSpec::find`], for the first tensor that does not fit.
pub fn resolve(file: &Gguf, table: &[TensorSpec]) -> Result<HashMap<String, TensorInfo>> {
    let mut found = HashMap::with_capacity(table.len());
    for spec in table {
        if let Some(info) = spec.find(file)? {
            found.insert(spec.name.clone(), info);
        }
    }
    Ok(found)
}

/// Checks that `file` has what `table` expects.
///
/// # Errors
/// As for [`TensorSpec::find`], for the first tensor that does not fit.
pub fn check(file: &Gguf, table: &[TensorSpec]) -> Result<()> {
    table.iter().try_for_each(|spec| spec.find(file).map(drop))
}

/// Returns what a text model's file must and may hold.
///
/// Keys and values of layers that share those of others are not in the table: files may hold
/// them, nothing reads them.
pub fn text_tensors(h: &HParams) -> Vec<TensorSpec> {
    use Role::Matrix;
    use Role::Vector;
    let (n_embd, n_ple) = (h.n_embd, h.n_embd_per_layer);
    let n_ple_all = n_ple * h.n_layer();
    let mut table = vec![
        TensorSpec::new("token_embd.weight", Matrix, &[n_embd, h.n_vocab]),
        TensorSpec::new("output.weight", Matrix, &[n_embd, h.n_vocab]).optional(),
        TensorSpec::new("output_norm.weight", Vector, &[n_embd]),
        TensorSpec::new("per_layer_token_embd.weight", Matrix, &[n_ple_all, h.n_vocab]),
        TensorSpec::new("per_layer_model_proj.weight", Matrix, &[n_embd, n_ple_all]),
        TensorSpec::new("per_layer_proj_norm.weight", Vector, &[n_ple]),
        TensorSpec::new("rope_freqs.weight", Vector, &[h.n_rope_factors()]).optional(),
    ];
    for i in 0..h.n_layer() {
        push_layer(&mut table, h, i);
    }
    table
}

fn push_layer(table: &mut Vec<TensorSpec>, h: &HParams, i: usize) {
    use Role::Matrix;
    use Role::Vector;
    let (l, n_embd, n_ple) = (&h.layers[i], h.n_embd, h.n_embd_per_layer);
    let (n_q, n_kv, n_ff) = (l.n_q(), l.n_kv(), l.n_ff);
    let name = |part: &str| format!("blk.{i}.{part}.weight");
    let matrix = |part, shape: [usize; 2]| TensorSpec::new(name(part), Matrix, &shape);
    let vector = |part, n: usize| TensorSpec::new(name(part), Vector, &[n]);
    let n_qkv = n_q + 2 * n_kv;
    table.push(vector("attn_norm", n_embd));
    table.push(matrix("attn_q", [n_embd, n_q]).or_rows_of(name("attn_qkv"), n_qkv, 0));
    table.push(vector("attn_q_norm", l.head_dim));
    if l.owns_kv {
        let rows = |part, in_qkv, in_kv| {
            matrix(part, [n_embd, n_kv]).or_rows_of(name("attn_qkv"), n_qkv, in_qkv).or_rows_of(
                name("attn_kv"),
                2 * n_kv,
                in_kv,
            )
        };
        table.push(rows("attn_k", n_q, 0));
        table.push(rows("attn_v", n_q + n_kv, n_kv));
        table.push(vector("attn_k_norm", l.head_dim));
    }
    table.push(matrix("attn_output", [n_q, n_embd]));
    table.push(vector("post_attention_norm", n_embd));
    table.push(vector("ffn_norm", n_embd));
    let rows =
        |part, first| matrix(part, [n_embd, n_ff]).or_rows_of(name("ffn_gate_up"), 2 * n_ff, first);
    table.push(rows("ffn_gate", 0));
    table.push(rows("ffn_up", n_ff));
    table.push(matrix("ffn_down", [n_ff, n_embd]));
    table.push(vector("post_ffw_norm", n_embd));
    table.push(matrix("inp_gate", [n_embd, n_ple]));
    table.push(matrix("proj", [n_ple, n_embd]));
    table.push(vector("post_norm", n_embd));
    table.push(vector("layer_output_scale", 1));
}
