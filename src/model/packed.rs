//! Files whose weights are already in the processor's kernel layout (`culet pack`).
//!
//! In: metadata `culet.pack.*`. Out: which tensors are packed.
//! Invariant: a packed file is only used on a processor whose kernels read exactly its layout;
//! this is checked by packing a fixed small weight and comparing hashes.

use std::collections::HashSet;

use crate::error::Error;
use crate::error::Result;
use crate::ggml;
use crate::ggml::DType;
use crate::gguf::Gguf;

/// Metadata key of the names of packed tensors.
pub const KEY_TENSORS: &str = "culet.pack.tensors";
/// Metadata key prefix of one layout's fingerprint; the type's name follows.
pub const KEY_LAYOUT: &str = "culet.pack.layout.";

/// The packed tensors of one file.
#[derive(Default)]
pub struct Packed(HashSet<String>);

impl Packed {
    /// Reads and checks the packing of `gguf`; a plain file has none.
    ///
    /// # Errors
    /// `Unsupported` if the file was packed for other kernels than this processor's.
    pub fn of(gguf: &Gguf) -> Result<Self> {
        let Some(names) = gguf.optional_texts(KEY_TENSORS)? else { return Ok(Self::default()) };
        let mut packed = HashSet::new();
        let mut checked = HashSet::new();
        for name in names {
            let name = String::from_utf8_lossy(name).into_owned();
            let Some(info) = gguf.tensor(&name) else {
                let error = format!("packed tensor {name} is missing");
                return Err(Error::format(error).at(gguf.name()));
            };
            let dtype = DType::from_id(info.dtype.id()).map_err(|e| e.at(gguf.name()))?;
            if checked.insert(dtype.id()) {
                check_layout(gguf, dtype)?;
            }
            packed.insert(name);
        }
        Ok(Self(packed))
    }

    /// Tells whether nothing is packed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether the tensor `name` is packed.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

fn check_layout(gguf: &Gguf, dtype: DType) -> Result<()> {
    let key = format!("{KEY_LAYOUT}{dtype}");
    let stored = gguf.u64(&key)?;
    if ggml::layout_fingerprint(dtype)? == Some(stored) {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "{dtype} weights are packed for another processor; run `culet pack` here again, or open \
         the file it was made from"
    ))
    .at(gguf.name()))
}
