//! Pure signal processing: no model, no ggml, no device, no clock.
//! In: `Pcm` and `Frame`. Out: `MelFrames` and `Patches`, what the encoders take; sound without
//! echo; pieces of pages;
//! pictures with marks drawn on them; how much of a scene changed.
//! Invariant: streams give the same bits however their input is cut.

pub mod change;
pub mod drawing;
pub mod echo;
pub mod mel;
pub mod pages;
pub mod patches;
pub mod pixels;
#[cfg(test)]
pub(crate) mod random;
pub mod resample;
pub mod vad;

pub use echo::EchoCanceller;
pub use mel::MelFrames;
pub use mel::MelStream;
pub use patches::Patches;
pub use resample::Resampler;
pub use vad::SpeechBlock;
pub use vad::Vad;
pub use vad::VadKind;
