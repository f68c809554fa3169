//! Where samples and pictures come from.
//! In: files and devices. Out: `Pcm` and `Frame`, at the source's own rate and size.
//! Invariant: limits are checked before anything is allocated for what a file claims.

pub mod image_file;
pub mod sound_file;
mod wav_header;

pub use image_file::FrameStream;
pub use sound_file::SoundFile;
