//! Videos for the verbs that talk about one: frames with their times, and the sound.
//! In: a video file. Out: soft tokens of both, and what was left out.
//! Source of the sampling: Gemma 4 processor of transformers, which takes at most 32 frames.
//! Invariant: two frames are in memory at a time, one that is encoded and one that ffmpeg makes
//! meanwhile; frames, sound and words fit into the session.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use culet::Error;
use culet::ErrorKind;
use culet::Frame;
use culet::Pcm;
use culet::Result;
use culet::session::Encoded;
use culet::source::VideoFile;
use culet::source::video::VIDEO_FRAMES_MAX;
use serde_json::Value;
use serde_json::json;

use crate::cli::look::task::STDIN;
use crate::cli::look::task::Task;
use crate::cli::print;
use crate::cli::print::Progress;

/// Soft tokens of a frame.
pub(super) const BUDGET: u32 = 70;
/// Most tokens of a video with its sound, its words and the answer.
pub(super) const N_CTX: usize = 8192;
/// Tokens of a frame beside its soft ones: its time and its marks.
const FRAME_TEXT_TOKENS: usize = 10;
const SOUND_TOKENS_PER_SECOND: f64 = 25.0;
/// Shortest sound that is worth hearing, in seconds.
const SOUND_SECONDS_MIN: f64 = 1.0;
const RATE_HZ_MAX: f64 = 60.0;
/// Endings of files that are videos without being called so.
const ENDINGS: [&str; 9] = ["mp4", "m4v", "mov", "webm", "mkv", "avi", "mpg", "mpeg", "ts"];

/// How a video is looked at.
#[derive(clap::Args)]
pub(super) struct VideoArgs {
    /// Take FILE for a video, also a moving gif; mp4, mov, webm, mkv and avi are by their names
    #[arg(long)]
    video: bool,
    /// Most frames a second that are taken from a video
    #[arg(long, value_name = "HZ", default_value = "1", value_parser = parse_rate)]
    fps: f64,
    /// Most frames that are taken from a video
    #[arg(long, value_name = "N", default_value = "32", value_parser = parse_frames)]
    max_frames: usize,
    /// Do not listen to a video's sound
    #[arg(long)]
    mute: bool,
}

fn parse_rate(text: &str) -> std::result::Result<f64, String> {
    let rate = text.parse().ok().filter(|hz| *hz > 0.0 && *hz <= RATE_HZ_MAX);
    rate.ok_or_else(|| format!("expected a number above 0, up to {RATE_HZ_MAX}"))
}

fn parse_frames(text: &str) -> std::result::Result<usize, String> {
    let most = VIDEO_FRAMES_MAX;
    let n = text.parse().ok().filter(|n| (1..=most).contains(n));
    n.ok_or_else(|| format!("expected 1 to {most}"))
}

/// What was taken of a video.
struct Taken {
    file: VideoFile,
    media: Vec<Arc<Encoded>>,
    times_s: Vec<f64>,
    sound_s: f64,
    left_out: Vec<String>,
}

impl VideoArgs {
    /// Tells whether a file is to be taken for a video.
    pub(super) fn is_video(&self, path: &Path) -> bool {
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        self.video || ending.is_some_and(|ending| ENDINGS.contains(&&*ending))
    }

    /// Opens a video, before any model is.
    ///
    /// # Errors
    /// As for [`VideoFile::open`]; `Input` for stdin, in which nothing can be sought.
    pub(super) fn open(&self, path: &Path) -> Result<VideoFile> {
        if path.as_os_str() == STDIN {
            return Err(Error::input("a video cannot come from stdin; give a file"));
        }
        VideoFile::open(path)
    }

    /// Encodes a video's frames and sound, and returns what `--json` tells of them.
    ///
    /// # Errors
    /// Whatever reading and encoding bring; `Format` if there is not one frame.
    pub(super) fn encode(
        &self,
        task: &mut Task<'_>,
        path: &Path,
        file: VideoFile,
    ) -> Result<(Vec<Arc<Encoded>>, Value)> {
        let (times_s, left_out) = (Vec::new(), Vec::new());
        let mut taken = Taken { file, media: Vec::new(), times_s, sound_s: 0.0, left_out };
        let n_free = self.frames(task, path, &mut taken)?;
        if !self.mute && taken.file.has_sound() {
            sound(task, path, &mut taken, n_free)?;
        }
        for what in &taken.left_out {
            print::say(&format!("{}: {what}", path.display()));
        }
        let about = json!({
            "file": path.display().to_string(),
            "seconds": taken.file.seconds(),
            "frames_s": taken.times_s,
            "sound_s": taken.sound_s,
            "left_out": taken.left_out,
        });
        Ok((taken.media, json!({ "video": about })))
    }

    /// Encodes frames and returns the tokens that are left for the sound.
    fn frames(&self, task: &mut Task<'_>, path: &Path, taken: &mut Taken) -> Result<usize> {
        let n_free = 3 * task.n_ctx() / 4;
        let budget = task.wanted_budget();
        let n_fit = 2 * n_free / 3 / (budget as usize + FRAME_TEXT_TOKENS);
        let file = &taken.file;
        let times_s = file.times_s(self.fps, n_fit.clamp(1, self.max_frames));
        let n_wanted = times_s.len();
        let mut progress = Progress::new();
        let mut read = 0;
        let encoded = ahead(file, &times_s, |frames| {
            let frames = frames.inspect(|_| {
                read += 1;
                progress.set(&format!("{}: frame {read} of {n_wanted}", path.display()));
            });
            task.encode_video(frames, budget)
        });
        let is_empty = matches!(&encoded, Err(e) if e.kind() == ErrorKind::Input);
        if read == 0 && is_empty {
            let text = format!("{}: has no frame that can be read", path.display());
            return Err(Error::format(format!("{text}; fetch it again")));
        }
        let encoded = encoded?;
        taken.times_s = times_s[..read].to_vec();
        if let Some(seconds) = taken.file.seconds() {
            if read < n_wanted {
                let last = taken.times_s.last().copied().unwrap_or_default();
                let what =
                    format!("{seconds:.1} s are stated, no frame is found after {last:.1} s");
                taken.left_out.push(what);
            } else if seconds * self.fps > n_wanted as f64 {
                let step = seconds / n_wanted as f64;
                let what = format!("{n_wanted} frames are looked at, one every {step:.1} s");
                taken.left_out.push(what);
            }
        }
        let n_used = encoded.n_tokens() + read * FRAME_TEXT_TOKENS;
        taken.media.push(encoded);
        Ok(n_free.saturating_sub(n_used))
    }
}

/// Gives `take` the frames of a file up to the first that is not there, each read while it is busy
/// with the one before.
///
/// # Errors
/// `Io` if no thread can be started; whatever `take` returns.
fn ahead<T>(
    file: &VideoFile,
    times_s: &[f64],
    take: impl FnOnce(mpsc::IntoIter<Result<(f64, Frame)>>) -> Result<T>,
) -> Result<T> {
    // Nothing lies in between: a frame that is ready waits with its reader.
    let (sender, frames) = mpsc::sync_channel(0);
    let read = move || {
        for at_s in times_s {
            let Some(frame) = file.frame(*at_s).transpose() else { return };
            let is_over = frame.is_err();
            if sender.send(frame.map(|frame| (*at_s, frame))).is_err() || is_over {
                return;
            }
        }
    };
    std::thread::scope(|threads| {
        std::thread::Builder::new()
            .name("video".to_owned())
            .spawn_scoped(threads, read)
            .map_err(|e| Error::io("video: no thread can be started").with_source(e))?;
        take(frames.into_iter())
    })
}

/// Encodes as much of the sound as there is room for.
fn sound(task: &mut Task<'_>, path: &Path, taken: &mut Taken, n_free: usize) -> Result<()> {
    let seconds_max = n_free as f64 / SOUND_TOKENS_PER_SECOND;
    if !task.hears() {
        taken.left_out.push("the sound is not heard; this model has no encoder for it".to_owned());
        return Ok(());
    }
    if seconds_max < SOUND_SECONDS_MIN {
        taken.left_out.push("there is no room for the sound".to_owned());
        return Ok(());
    }
    let mut heard_s = 0.0;
    let blocks = taken.file.sound(seconds_max)?;
    let blocks = blocks.inspect(|block| {
        heard_s += block.as_ref().map_or(0.0, Pcm::seconds);
    });
    let encoded = task.encode_sound(blocks).map_err(|e| e.at(path.display()))?;
    taken.sound_s = heard_s;
    taken.media.push(encoded);
    if heard_s + 0.1 >= seconds_max {
        taken.left_out.push(format!("the sound after {seconds_max:.0} s is not heard"));
    }
    Ok(())
}
