//! Shapes, tensors and clamps of the picture and sound encoders.
//!
//! In: a [`crate::gguf::Gguf`]. Out: [`EncoderHParams`], tables of expected tensors, [`Clamp`]s.
//! Invariant: as for [`crate::model`]; files of llama.cpp's and of Ollama's naming are read alike.

pub mod clamp;
pub mod hparams;
pub mod table;

pub use clamp::Clamp;
pub use hparams::AudioHParams;
pub use hparams::EncoderHParams;
pub use hparams::VisionHParams;
pub use table::AUDIO_LINEARS;
pub use table::TensorNames;
pub use table::VISION_LINEARS;
pub use table::audio_tensors;
pub use table::vision_tensors;
