//! A camera that was recorded: still pictures in place of a device.
//! In: a folder of pictures, a moving picture, or PPM pictures from a pipe. Out: `Frame`s in
//! order, each with the time at which it was taken.
//! Invariant: times come from the recording, never from a clock.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

use crate::error::Error;
use crate::error::Result;
use crate::media::Frame;
use crate::source::image_file;
use crate::source::image_file::FrameStream;
use crate::source::ppm::PpmStream;

/// Endings of the files that are taken from a folder.
const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "bmp"];

/// The frames of a recording, in order; nothing follows an error.
pub struct Recording {
    frames: Box<dyn Iterator<Item = Result<Frame>>>,
    /// Of frames without a time of their own.
    rate_hz: Option<f64>,
    n_read: u64,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recording {{ {} frames read }}", self.n_read)
    }
}

impl Recording {
    /// Opens a folder, whose pictures are frames in the order of their names taken at `rate_hz`,
    /// or a picture file, whose frames have times of their own.
    ///
    /// # Errors
    /// `Io` if the place cannot be read, `Input` if it holds no picture; for a file as for
    /// [`image_file::open`].
    pub fn open(path: &Path, rate_hz: f64) -> Result<Self> {
        if !path.is_dir() {
            let frames = Box::new(FrameStream::open(path)?);
            return Ok(Self { frames, rate_hz: None, n_read: 0 });
        }
        let files = pictures(path)?;
        let frames = Box::new(files.into_iter().map(|file| image_file::open(&file)));
        Ok(Self { frames, rate_hz: Some(check_rate(rate_hz)?), n_read: 0 })
    }

    /// Takes PPM pictures one behind the other, taken at `rate_hz`; errors call them `name`.
    ///
    /// # Errors
    /// `Input` if the rate is no number above 0.
    pub fn from_reader(name: &str, reader: impl Read + 'static, rate_hz: f64) -> Result<Self> {
        let frames = Box::new(PpmStream::new(name, reader));
        Ok(Self { frames, rate_hz: Some(check_rate(rate_hz)?), n_read: 0 })
    }
}

fn check_rate(rate_hz: f64) -> Result<f64> {
    match rate_hz > 0.0 && rate_hz.is_finite() {
        true => Ok(rate_hz),
        false => Err(Error::input(format!("recording of {rate_hz} frames a second"))),
    }
}

/// Returns the pictures of a folder by name.
fn pictures(folder: &Path) -> Result<Vec<PathBuf>> {
    let place = folder.display();
    let cannot = |e| Error::io(format!("{place}: cannot be read")).with_source(e);
    let entries = std::fs::read_dir(folder).map_err(cannot)?;
    let paths: std::io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    let is_picture = |path: &PathBuf| {
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        ending.is_some_and(|ending| ENDINGS.contains(&&*ending)) && path.is_file()
    };
    let mut paths: Vec<_> = paths.map_err(cannot)?.into_iter().filter(is_picture).collect();
    paths.sort();
    match paths.is_empty() {
        true => Err(Error::input(format!(
            "{place}: holds no pictures; {} are read",
            ENDINGS.join(", ")
        ))),
        false => Ok(paths),
    }
}

impl Iterator for Recording {
    type Item = Result<Frame>;

    fn next(&mut self) -> Option<Result<Frame>> {
        let mut next = self.frames.next()?;
        match &mut next {
            Ok(frame) => {
                if let Some(rate_hz) = self.rate_hz {
                    frame.captured_at_ns = (self.n_read as f64 / rate_hz * 1e9).round() as u64;
                }
                self.n_read += 1;
            }
            Err(_) => self.frames = Box::new(std::iter::empty()),
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn piped_frames_have_times() {
        let bytes = b"P6 1 1 255 abcP6 1 1 255 defP6 1 1 255 g";
        let mut frames = Recording::from_reader("pipe", &bytes[..], 4.0).unwrap();
        let times: Vec<_> = frames.by_ref().take(2).map(|f| f.unwrap().captured_at_ns).collect();
        assert_eq!(times, [0, 250_000_000]);
        assert_eq!(frames.next().unwrap().unwrap_err().kind(), ErrorKind::Format);
        assert!(frames.next().is_none());
        for rate_hz in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Recording::from_reader("pipe", &b""[..], rate_hz).is_err());
        }
    }

    #[test]
    fn folders_are_read_by_name() {
        let folder = Path::new("models/tiny/heldout/pictures");
        let frames: Vec<_> = Recording::open(folder, 1.0).unwrap().map(Result::unwrap).collect();
        let first = image_file::open(&folder.join("picture00.png")).unwrap();
        assert!(frames.len() > 2 && frames[0] == first);
        assert_eq!(frames[2].captured_at_ns, 2_000_000_000);
        assert_eq!(Recording::open(Path::new("src"), 1.0).unwrap_err().kind(), ErrorKind::Input);
        assert_eq!(Recording::open(Path::new("nowhere"), 1.0).unwrap_err().kind(), ErrorKind::Io);
    }
}
