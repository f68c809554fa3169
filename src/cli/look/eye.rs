//! Where the frames of a verb come from: a camera, or a recording in its place.
//! In: arguments. Out: the next frame to look at.
//! Invariant: of a camera and a live pipe, the newest frame is taken; of a recording, the first
//! that is due.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use culet::Error;
use culet::ErrorKind;
use culet::Frame;
use culet::Result;
use culet::source::Camera;
use culet::source::PpmStream;
use culet::source::Recording;
use culet::source::camera;
use culet::source::camera::CameraOptions;
use culet::source::pixel_format::PixelFormat;
use serde_json::Value;
use serde_json::json;

use crate::cli::look::task::STDIN;
use crate::cli::print;

/// Longest that a camera may send nothing.
const SILENCE_SECONDS_MAX: u64 = 10;
/// Most damaged frames of a camera in a row.
const DAMAGED_MAX: u32 = 30;
/// How often a camera is asked whether it has a frame.
const POLL: Duration = Duration::from_millis(5);
/// Frames a second of a recording whose pictures have no times.
const RECORDED_RATE_HZ: u32 = 1;
const SIDE_PX_MAX: u32 = 16_384;
const RATE_HZ_MAX: i64 = 1000;

/// Which camera, and what is wanted of it.
#[derive(clap::Args)]
pub(super) struct EyeArgs {
    /// List the cameras, and do nothing else
    #[arg(long)]
    pub(super) devices: bool,
    /// Camera: its name, or its number in the list [default: the first]
    #[arg(long, value_name = "CAMERA")]
    device: Option<String>,
    /// Size of a frame; the nearest that the camera has is taken [default: 1280x720]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse_size)]
    size: Option<(u32, u32)>,
    /// Frames a second: of the camera [default: 15], or of still pictures [default: 1]
    #[arg(long, value_name = "HZ", value_parser = clap::value_parser!(u32).range(1..=RATE_HZ_MAX))]
    rate: Option<u32>,
    /// Look at pictures in place of a camera: those of a folder by name, a moving gif or webp, or
    /// PPM pictures on stdin (-)
    #[arg(long, value_name = "PLACE", conflicts_with_all = ["device", "size"])]
    frames: Option<PathBuf>,
    /// With --frames -: pictures come as they are taken, so look at the newest one only
    #[arg(long, requires = "frames")]
    live: bool,
}

fn parse_size(text: &str) -> std::result::Result<(u32, u32), String> {
    let side = |text: &str| text.parse().ok().filter(|side| (1..=SIDE_PX_MAX).contains(side));
    let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some((side(w)?, side(h)?)));
    sides.ok_or_else(|| "expected a width and a height such as 1280x720".to_owned())
}

/// Where frames come from.
enum Source {
    Camera(Camera),
    Live(Camera),
    Recording(Recording),
    /// A recording whose next picture may have to be waited for.
    Pipe(Recording),
}

/// An open source of frames.
pub(super) struct Eye {
    name: String,
    source: Source,
    /// When the camera was opened or last gave a frame.
    waited_since: Instant,
    /// When the recording's last frame was taken.
    last_ns: Option<u64>,
}

impl EyeArgs {
    /// Opens the camera or the recording.
    ///
    /// # Errors
    /// As for [`Camera::open`] and [`Recording::open`].
    pub(super) fn open(&self) -> Result<Eye> {
        let rate_hz = f64::from(self.rate.unwrap_or(RECORDED_RATE_HZ));
        let (name, source) = match &self.frames {
            None => {
                let camera = Camera::open(&self.options())?;
                (format!("camera \"{}\"", camera.name()), Source::Camera(camera))
            }
            Some(path) if self.live && path.as_os_str() != STDIN => {
                let name = path.display();
                return Err(Error::input(format!(
                    "{name}: is not live; give --frames - for a pipe"
                )));
            }
            Some(_) if self.live => ("stdin".to_owned(), Source::Live(live(std::io::stdin())?)),
            Some(path) if path.as_os_str() == STDIN => {
                let recording = Recording::from_reader("stdin", std::io::stdin(), rate_hz)?;
                ("stdin".to_owned(), Source::Pipe(recording))
            }
            Some(path) => {
                let recording = Recording::open(path, rate_hz)?;
                (path.display().to_string(), Source::Recording(recording))
            }
        };
        Ok(Eye { name, source, waited_since: Instant::now(), last_ns: None })
    }

    fn options(&self) -> CameraOptions {
        let usual = CameraOptions::default();
        let (width, height) = self.size.unwrap_or((usual.width, usual.height));
        let rate_hz = self.rate.unwrap_or(usual.rate_hz);
        CameraOptions { name: self.device.clone(), width, height, rate_hz }
    }
}

/// Writes which cameras there are: a line or an entry each, in the order of their numbers.
pub(super) fn list(is_json: bool) -> Result<()> {
    let cameras = camera::cameras()?;
    if is_json {
        let entry = |c: &camera::CameraInfo| json!({ "name": c.name, "about": c.description });
        return print::json(&cameras.iter().map(entry).collect::<Value>());
    }
    if cameras.is_empty() {
        print::say("no camera is found");
    }
    for (number, camera) in cameras.iter().enumerate() {
        print::result(&format!("{number}\t{}\t{}\n", camera.name, camera.description))?;
    }
    Ok(())
}

impl Eye {
    /// Returns what errors call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the first frame that is `wait` later than the last one, or than the opening of a
    /// camera; nothing if the recording or the pipe has ended.
    ///
    /// # Errors
    /// `Device` if the camera fails or is silent, `Format` if its frames are damaged; whatever
    /// reading a recording brings.
    pub(super) fn next(&mut self, wait: Duration) -> Result<Option<Frame>> {
        match &mut self.source {
            Source::Camera(camera) => {
                std::thread::sleep(wait.saturating_sub(self.waited_since.elapsed()));
                let frame = newest(camera)?;
                self.waited_since = Instant::now();
                Ok(Some(frame))
            }
            Source::Live(pipe) => {
                std::thread::sleep(wait.saturating_sub(self.waited_since.elapsed()));
                let frame = loop {
                    match pipe.newest()? {
                        None if !pipe.has_ended() => std::thread::sleep(POLL),
                        frame => break frame,
                    }
                };
                self.waited_since = Instant::now();
                Ok(frame)
            }
            Source::Recording(recording) | Source::Pipe(recording) => {
                let wait_ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
                let due_ns = self.last_ns.map_or(0, |last| last.saturating_add(wait_ns));
                for frame in recording {
                    let frame = frame?;
                    if frame.captured_at_ns >= due_ns {
                        self.last_ns = Some(frame.captured_at_ns);
                        return Ok(Some(frame));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Returns what [`next`](Self::next) would, if it need not be waited for. What is wrong with a
    /// camera waits for that.
    ///
    /// # Errors
    /// Whatever reading a recording brings.
    pub(super) fn peek(&mut self, wait: Duration) -> Result<Option<Frame>> {
        match &mut self.source {
            Source::Camera(camera) | Source::Live(camera) => {
                if self.waited_since.elapsed() < wait {
                    return Ok(None);
                }
                let frame = camera.newest().ok().flatten();
                if frame.is_some() {
                    self.waited_since = Instant::now();
                }
                Ok(frame)
            }
            Source::Recording(_) => self.next(wait),
            Source::Pipe(_) => Ok(None),
        }
    }
}

/// Reads PPM pictures from a pipe as they come, and holds the newest one.
///
/// # Errors
/// `Device` if no thread can be started.
fn live(pipe: impl Read + Send + 'static) -> Result<Camera> {
    let (camera, mut feed) = Camera::fed(STDIN);
    let begin = Instant::now();
    let read = move || {
        for frame in PpmStream::new("stdin", pipe) {
            let frame = match frame {
                Ok(frame) => frame,
                Err(e) => return feed.fail(e.to_string()),
            };
            let sides = (frame.width(), frame.height());
            let at_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
            if !feed.put(PixelFormat::Rgb, sides, frame.rgb().to_vec(), at_ns) {
                return;
            }
        }
        feed.end();
    };
    std::thread::Builder::new()
        .name("frames".to_owned())
        .spawn(read)
        .map_err(|e| Error::device("frames: no thread can be started").with_source(e))?;
    Ok(camera)
}

/// Waits for a camera's newest frame; damaged ones are passed over.
fn newest(camera: &mut Camera) -> Result<Frame> {
    let begin = Instant::now();
    let mut n_damaged = 0;
    loop {
        match camera.newest() {
            Ok(Some(frame)) => return Ok(frame),
            Ok(None) => {}
            Err(e) if e.kind() == ErrorKind::Format && n_damaged < DAMAGED_MAX => n_damaged += 1,
            Err(e) => return Err(e),
        }
        if begin.elapsed().as_secs() >= SILENCE_SECONDS_MAX {
            return Err(Error::device(format!(
                "camera \"{}\": sends no frame for {SILENCE_SECONDS_MAX} s; plug it in again",
                camera.name()
            )));
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culet::source::pixel_format::PixelFormat;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size("640x480"), Ok((640, 480)));
        for text in ["", "640", "0x480", "640x", "640x480x3", "99999x1", "-1x1"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn recorded_frames_are_taken_when_due() {
        let bytes: Vec<u8> = (0..7).flat_map(|n| [b"P6 1 1 255 ", &[n; 3][..]].concat()).collect();
        let recording = Recording::from_reader("pipe", std::io::Cursor::new(bytes), 2.0).unwrap();
        let source = Source::Recording(recording);
        let mut eye =
            Eye { name: "pipe".to_owned(), source, waited_since: Instant::now(), last_ns: None };
        let mut taken = Vec::new();
        while let Some(frame) = eye.next(Duration::from_secs(1)).unwrap() {
            taken.push(frame.rgb()[0]);
        }
        assert_eq!(taken, [0, 2, 4, 6]);
    }

    #[test]
    fn of_a_live_pipe_the_newest_frame_is_taken() {
        let bytes: Vec<u8> = (0..7).flat_map(|n| [b"P6 1 1 255 ", &[n; 3][..]].concat()).collect();
        let mut damaged = bytes.clone();
        damaged.pop();
        let eye = |bytes: Vec<u8>, n_frames| {
            let camera = live(std::io::Cursor::new(bytes)).unwrap();
            while camera.n_frames() < n_frames {
                std::thread::yield_now();
            }
            let (name, source) = ("stdin".to_owned(), Source::Live(camera));
            Eye { name, source, waited_since: Instant::now(), last_ns: None }
        };
        let mut whole = eye(bytes, 7);
        assert_eq!(whole.next(Duration::ZERO).unwrap().unwrap().rgb(), [6; 3]);
        assert!(whole.next(Duration::ZERO).unwrap().is_none());
        let mut cut = eye(damaged, 6);
        assert_eq!(cut.next(Duration::ZERO).unwrap().unwrap().rgb(), [5; 3]);
        assert!(cut.next(Duration::ZERO).unwrap_err().to_string().contains("ends after"));
    }

    #[test]
    fn damaged_frames_are_passed_over_and_a_lost_camera_is_said() {
        let (mut camera, mut feed) = Camera::fed("null");
        feed.put(PixelFormat::Grey, (1, 1), vec![7], 0);
        assert_eq!(newest(&mut camera).unwrap().rgb(), [7; 3]);
        feed.put(PixelFormat::Yuyv, (4, 4), vec![0; 3], 0);
        feed.fail("was unplugged");
        let e = newest(&mut camera).unwrap_err();
        assert_eq!(e.to_string(), "camera \"null\": was unplugged");
    }
}
