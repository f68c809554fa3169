//! One video file: what is in it, its frames at times, its sound.
//! In: a path. Out: [`VideoFile`].
//! Source of the sampling: Gemma 4 processor of transformers, which takes at most 32 frames at
//! even distances from the start.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::error::Error;
use crate::error::Result;
use crate::media::FRAME_AREA_PX_MAX;
use crate::media::Frame;
use crate::media::Pcm;
use crate::source::ppm::PpmStream;
use crate::source::video::child::Child;
use crate::units::SAMPLE_RATE_HZ;
use crate::whole::cannot_read;
use crate::whole::short_name;

/// Most frames that are taken from one video.
pub const VIDEO_FRAMES_MAX: usize = 256;
/// Longest side of a frame; larger ones are made smaller on their way.
const SIDE_PX_MAX: u32 = 3840;
/// Kinds of files that are opened; none of them can name another file.
const KINDS: &str = "mov,matroska,webm,gif,avi,mpeg,mpegts,flv,ogg";
const REPORT_BYTES_MAX: u64 = 1 << 20;
/// A block of sound.
const BLOCK_SAMPLES: usize = SAMPLE_RATE_HZ as usize;
const SAMPLE_BYTES: usize = size_of::<f32>();

/// A video file.
pub struct VideoFile {
    name: String,
    /// Where it is, as ffmpeg takes it.
    place: OsString,
    seconds: Option<f64>,
    has_sound: bool,
}

impl fmt::Debug for VideoFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VideoFile {{ {:?} s, sound: {} }}", self.seconds, self.has_sound)
    }
}

impl VideoFile {
    /// Asks ffprobe what is in a file.
    ///
    /// # Errors
    /// `Io` if the file cannot be read, `Unsupported` if ffmpeg is not installed, `Format` if it
    /// is no video or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let name = short_name(path);
        let cannot = cannot_read(&name);
        let metadata = std::fs::metadata(path).map_err(cannot)?;
        if !metadata.is_file() {
            return Err(Error::io(format!("{name}: is no file, expected a video; give its path")));
        }
        let mut place = OsString::from("file:");
        place.push(path);
        let mut command = Command::new("ffprobe");
        command.args(["-v", "error", "-protocol_whitelist", "file", "-format_whitelist", KINDS]);
        command.args([
            "-show_entries",
            "format=duration:stream=codec_type,duration",
            "-of",
            "json",
        ]);
        let mut child = Child::start(command.arg("-i").arg(&place), REPORT_BYTES_MAX)?;
        let mut report = Vec::new();
        let read = child.read_to_end(&mut report);
        read.map_err(|e| Error::io(format!("{name}: ffprobe fails")).with_source(e))?;
        let report = serde_json::from_slice(&report).unwrap_or(Value::Null);
        let Some((seconds, has_sound)) = about(&report) else {
            let text = format!("{name}: is not a video that ffmpeg can read; fetch it again");
            return Err(Error::format(text).with_source(child.end()));
        };
        Ok(Self { name, place, seconds, has_sound })
    }

    /// Returns the length that the file states.
    pub fn seconds(&self) -> Option<f64> {
        self.seconds
    }

    /// Tells whether there is a sound track.
    pub fn has_sound(&self) -> bool {
        self.has_sound
    }

    /// Returns when to take frames: at most `rate_hz` a second and `n_max` in all, evenly from the
    /// start. Of a file that does not state its length, the first ones at that rate.
    pub fn times_s(&self, rate_hz: f64, n_max: usize) -> Vec<f64> {
        times_s(self.seconds, rate_hz, n_max.min(VIDEO_FRAMES_MAX))
    }

    /// Returns the frame that is shown at `at_s`, or nothing if there is none so late.
    ///
    /// # Errors
    /// `Io` if ffmpeg stalls, `Format` if what it makes cannot be used.
    pub fn frame(&self, at_s: f64) -> Result<Option<Frame>> {
        let mut command = self.ffmpeg(at_s);
        let side = SIDE_PX_MAX;
        let scale = format!(
            "scale=w=iw*sar:h=ih,scale=w='min(iw,{side})':h='min(ih,{side})'\
            :force_original_aspect_ratio=decrease"
        );
        command.args(["-map", "0:v:0", "-frames:v", "1", "-vf", &*scale]);
        command.args(["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]);
        let n_bytes_max = 3 * u64::from(side) * u64::from(side) + (1 << 10);
        let mut child = Child::start(&mut command, n_bytes_max)?;
        let place = format!("{} at {at_s:.1} s", self.name);
        let frame = PpmStream::new(place, &mut child).next().transpose()?;
        if frame.is_none() {
            log::debug!("{}: no frame at {at_s:.1} s: {}", self.name, child.end());
        }
        Ok(frame.map(|mut frame| {
            frame.captured_at_ns = (at_s * 1e9).round() as u64;
            frame
        }))
    }

    /// Opens the first `seconds_max` of the sound track.
    ///
    /// # Errors
    /// `Input` if there is no sound track; `Unsupported` if ffmpeg is not installed.
    pub fn sound(&self, seconds_max: f64) -> Result<VideoSound> {
        if !self.has_sound {
            return Err(Error::input(format!("{}: has no sound track", self.name)));
        }
        let mut command = self.ffmpeg(0.0);
        let (seconds, rate) = (format!("{seconds_max:.3}"), SAMPLE_RATE_HZ.to_string());
        command.args(["-map", "0:a:0", "-t", &*seconds, "-ac", "1", "-ar", &*rate]);
        command.args(["-f", "f32le", "-c:a", "pcm_f32le", "-"]);
        let n_samples_max = ((seconds_max + 1.0) * f64::from(SAMPLE_RATE_HZ)) as u64;
        let child = Child::start(&mut command, n_samples_max * SAMPLE_BYTES as u64)?;
        Ok(VideoSound { name: self.name.clone(), child, n_samples: 0, is_over: false })
    }

    /// Returns the part of a command that opens the file at a time.
    fn ffmpeg(&self, at_s: f64) -> Command {
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-protocol_whitelist", "file"]);
        command.args(["-format_whitelist", KINDS, "-threads", "1"]);
        let (at, pixels) = (format!("{at_s:.3}"), FRAME_AREA_PX_MAX.to_string());
        command.args(["-max_pixels", &*pixels, "-ss", &*at, "-i"]).arg(&self.place);
        command
    }
}

/// Returns the length and whether there is sound; nothing if there is no picture.
fn about(report: &Value) -> Option<(Option<f64>, bool)> {
    let streams = report["streams"].as_array()?;
    let stream = |kind: &str| streams.iter().find(|s| s["codec_type"] == *kind);
    let seconds = |value: &Value| {
        let seconds: Option<f64> = value["duration"].as_str().and_then(|text| text.parse().ok());
        seconds.filter(|s| s.is_finite() && *s > 0.0)
    };
    let video = stream("video")?;
    let length = seconds(video).or_else(|| seconds(&report["format"]));
    Some((length, stream("audio").is_some()))
}

fn times_s(seconds: Option<f64>, rate_hz: f64, n_max: usize) -> Vec<f64> {
    let n_wanted = seconds.map_or(f64::INFINITY, |seconds| (seconds * rate_hz).ceil());
    let n = (n_wanted as usize).clamp(1, n_max.max(1));
    let step = match seconds {
        Some(seconds) if n_wanted > n as f64 => seconds / n as f64,
        _ => 1.0 / rate_hz,
    };
    (0..n).map(|k| k as f64 * step).collect()
}

/// The sound track of a video, block by block; nothing follows an error.
pub struct VideoSound {
    name: String,
    child: Child,
    n_samples: u64,
    is_over: bool,
}

impl fmt::Debug for VideoSound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VideoSound {{ {} samples read }}", self.n_samples)
    }
}

impl VideoSound {
    fn read(&mut self) -> Result<Option<Pcm>> {
        let mut bytes = Vec::new();
        let n_bytes = (BLOCK_SAMPLES * SAMPLE_BYTES) as u64;
        let read = (&mut self.child).take(n_bytes).read_to_end(&mut bytes);
        read.map_err(|e| Error::io(format!("{}: ffmpeg fails", self.name)).with_source(e))?;
        let sample = |bytes: &[u8]| {
            let sample = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            if sample.is_finite() { sample.clamp(-1.0, 1.0) } else { 0.0 }
        };
        let samples: Vec<f32> = bytes.chunks_exact(SAMPLE_BYTES).map(sample).collect();
        if samples.is_empty() {
            if self.n_samples == 0 {
                let text = format!("{}: the sound track cannot be read", self.name);
                return Err(Error::format(text).with_source(self.child.end()));
            }
            return Ok(None);
        }
        self.n_samples += samples.len() as u64;
        Ok(Some(Pcm { samples, rate_hz: SAMPLE_RATE_HZ, captured_at_ns: 0 }))
    }
}

impl Iterator for VideoSound {
    type Item = Result<Pcm>;

    fn next(&mut self) -> Option<Result<Pcm>> {
        if self.is_over {
            return None;
        }
        let next = self.read();
        self.is_over = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn frames_are_taken_evenly() {
        let cases: [(Option<f64>, f64, usize, &[f64]); 6] = [
            (Some(3.0), 1.0, 32, &[0.0, 1.0, 2.0]),
            (Some(2.5), 1.0, 32, &[0.0, 1.0, 2.0]),
            (Some(0.1), 1.0, 32, &[0.0]),
            (Some(100.0), 1.0, 4, &[0.0, 25.0, 50.0, 75.0]),
            (None, 2.0, 3, &[0.0, 0.5, 1.0]),
            (Some(9.0), 1.0, 0, &[0.0]),
        ];
        for (seconds, rate_hz, n_max, expected) in cases {
            assert_eq!(times_s(seconds, rate_hz, n_max), expected, "{seconds:?}, {rate_hz}");
        }
    }

    #[test]
    fn reports_are_read_whatever_they_say() {
        let video = json!({ "codec_type": "video", "duration": "4.0" });
        let cases = [
            (json!(null), None),
            (json!({ "streams": [{ "codec_type": "audio" }] }), None),
            (json!({ "streams": [video] }), Some((Some(4.0), false))),
            (
                json!({ "streams": [{ "codec_type": "video", "duration": "nan" },
                    { "codec_type": "audio" }], "format": { "duration": "7.5" } }),
                Some((Some(7.5), true)),
            ),
            (
                json!({ "streams": [{ "codec_type": "video", "duration": "-1" }] }),
                Some((None, false)),
            ),
        ];
        for (report, expected) in cases {
            assert_eq!(about(&report), expected, "{report}");
        }
    }
}
