//! Culet: an on-device runtime for Gemma 4 E2B and E4B.

pub mod assistant;
pub mod decoder;
pub mod device;
pub mod encoder;
pub mod engine;
pub mod error;
pub mod frontend;
pub mod ggml;
pub mod gguf;
pub mod kernel;
pub mod media;
pub mod model;
pub mod redact;
pub mod ring;
pub mod sampler;
pub mod session;
pub mod sink;
pub mod source;
pub mod text;
pub mod units;
pub mod whole;

#[cfg(test)]
#[path = "../tests/both/random.rs"]
mod random;

pub use error::Error;
pub use error::ErrorKind;
pub use error::Result;
pub use media::Frame;
pub use media::Pcm;
pub use units::TokenId;
