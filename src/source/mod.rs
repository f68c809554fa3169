//! Where samples and pictures come from.
//! In: files and devices. Out: `Pcm` and `Frame`, at the source's own rate and size.
//! Invariant: limits are checked before anything is allocated for what a file claims.

pub mod camera;
pub mod image_file;
pub mod mic;
pub mod pixel_format;
pub mod ppm;
pub mod recording;
pub mod sound_file;
pub mod video;
mod wav_header;

pub use camera::Camera;
pub use image_file::FrameStream;
pub use mic::Microphone;
pub use ppm::PpmStream;
pub use recording::Recording;
pub use sound_file::SoundFile;
pub use video::VideoFile;
