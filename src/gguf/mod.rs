//! The GGUF file format in safe Rust.
//!
//! In: a path or an open file. Out: [`Gguf`], metadata and a tensor directory over a [`Mapping`].
//! Source: GGUF specification versions 2 and 3 (`docs/gguf.md` of the ggml project).
//! Invariant: nothing here calls ggml, and no number of a file is used before it was checked.
//! Invariant: arrays and tensor data stay in the mapping; only keys and names are copied.

pub mod mapping;
pub mod reader;
pub mod tensor_type;
pub mod value;
pub mod writer;

pub use mapping::Mapping;
pub use reader::Gguf;
pub use reader::TensorInfo;
pub use tensor_type::TensorType;
pub use value::Array;
pub use value::StringArray;
pub use value::Value;
pub use value::ValueType;
pub use writer::Items;
pub use writer::TensorWriter;
pub use writer::Writer;
