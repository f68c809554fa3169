//! Features become soft tokens, which stand where text tokens' embeddings stand.
//!
//! In: `MelFrames`, `Patches`. Out: [`SoftTokens`] `[n_embd, n]` in the decoder's width.
//! Encoders hold weights and are shared; an [`AudioStream`] holds what one sound left behind.
//!
//! **Invariant:** transformers in 32-bit floats is the truth; what differs from it is a bug.

pub mod audio;
pub mod embedder;
mod on_gpu;
mod rows;
mod stream;
mod sub_sample;
pub(crate) mod trial;
pub mod vision;

pub use audio::AudioEncoder;
pub use embedder::SoftTokens;
pub use stream::AudioState;
pub use stream::AudioStream;
pub use stream::BLOCK_TOKENS;
pub use vision::VisionEncoder;
