//! Video files, through ffmpeg as a program beside ours.
//!
//! In: a path. Out: frames at times, as `Frame`; the sound track, as `Pcm`.
//!
//! - `child`: one run of a program, whose output is bounded and may not stall
//! - `file`: [`VideoFile`]: what ffprobe says of a file, and what ffmpeg makes of it
//!
//! Invariant: ffmpeg opens local files of listed kinds only, never an address or a play list.

mod child;
mod file;

pub use file::VIDEO_FRAMES_MAX;
pub use file::VideoFile;
pub use file::VideoSound;
