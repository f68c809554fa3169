//! What Gemma 4 is: its shapes, its tensors' names, and what they cost in memory.
//!
//! In: a [`crate::gguf::Gguf`]. Out: checked [`HParams`] and [`EncoderHParams`], tables of
//! expected tensors, and byte counts.
//! Invariant: every number that leaves this folder was compared with a named limit, so that
//! arithmetic on shapes neither overflows nor divides by zero.

pub mod encoder;
pub mod encoders;
pub mod hparams;
pub mod memory;
pub mod packed;
pub mod sample;
pub mod tensor_table;
pub mod variant;

pub use encoder::AudioHParams;
pub use encoder::Clamp;
pub use encoder::EncoderHParams;
pub use encoder::TensorNames;
pub use encoder::VisionHParams;
pub use encoder::audio_tensors;
pub use encoder::vision_tensors;
pub use encoders::AudioWeights;
pub use encoders::VisionWeights;
pub use hparams::HParams;
pub use hparams::Layer;
pub use hparams::LayerKind;
pub use packed::Packed;
pub use tensor_table::TensorSpec;
pub use tensor_table::check;
pub use tensor_table::resolve;
pub use tensor_table::text_tensors;
pub use variant::Variant;
