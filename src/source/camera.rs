//! A live camera.
//! In: a device's frames. Out: the newest `Frame`, when it is asked for.
//! Invariant: one slot; a newer frame takes the place of one that nobody took, and is converted
//! only when it is taken.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::error::Error;
use crate::error::Result;
use crate::media::Frame;
use crate::source::pixel_format::PixelFormat;
use crate::source::pixel_format::frame_of;

/// What is known of a camera before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraInfo {
    /// Name to open it by.
    pub name: String,
    /// What the system says about it.
    pub description: String,
}

/// What is wanted of a camera; the nearest that it can do is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraOptions {
    /// Name, or number in the list; the first camera if there is none.
    pub name: Option<String>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Frames per second.
    pub rate_hz: u32,
}

impl Default for CameraOptions {
    fn default() -> Self {
        Self { name: None, width: 1280, height: 720, rate_hz: 15 }
    }
}

/// A frame as the device sent it.
struct RawFrame {
    format: PixelFormat,
    width: u32,
    height: u32,
    bytes: Vec<u8>,
    at_ns: u64,
}

/// What the camera's thread and we share.
#[derive(Default)]
struct Slot {
    newest: Option<RawFrame>,
    n_frames: u64,
    n_replaced: u64,
    fault: Option<String>,
    has_ended: bool,
    is_closed: bool,
}

/// An open camera; dropping it closes it.
pub struct Camera {
    name: String,
    slot: Arc<Mutex<Slot>>,
}

impl fmt::Debug for Camera {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Camera {{ {} frames }}", self.n_frames())
    }
}

/// Where a camera's frames are put.
pub struct CameraFeed {
    slot: Arc<Mutex<Slot>>,
}

impl fmt::Debug for CameraFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CameraFeed")
    }
}

impl CameraFeed {
    /// Puts a frame into the slot and returns whether the camera is still open.
    pub fn put(
        &mut self,
        format: PixelFormat,
        (width, height): (u32, u32),
        bytes: Vec<u8>,
        at_ns: u64,
    ) -> bool {
        let mut slot = locked(&self.slot);
        slot.n_frames += 1;
        if slot.newest.replace(RawFrame { format, width, height, bytes, at_ns }).is_some() {
            slot.n_replaced += 1;
        }
        !slot.is_closed
    }

    /// Says that no frame follows, as was to be expected.
    pub fn end(&mut self) {
        locked(&self.slot).has_ended = true;
    }

    /// Says that no frame follows, and why.
    pub fn fail(&mut self, why: impl Into<String>) {
        locked(&self.slot).fault = Some(why.into());
    }
}

impl Camera {
    /// Creates a camera without a device, and the end that frames for it are put into.
    pub fn fed(name: impl Into<String>) -> (Self, CameraFeed) {
        let slot = Arc::new(Mutex::new(Slot::default()));
        (Self { name: name.into(), slot: Arc::clone(&slot) }, CameraFeed { slot })
    }

    /// Returns the device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes the newest frame, or nothing if none came since the last call.
    ///
    /// `captured_at_ns` counts from the opening.
    ///
    /// # Errors
    /// `Device` if the device failed or was unplugged, `Format` if the frame is damaged.
    pub fn newest(&mut self) -> Result<Option<Frame>> {
        let (raw, fault) = {
            let mut slot = locked(&self.slot);
            (slot.newest.take(), slot.fault.clone())
        };
        match (raw, fault) {
            (Some(raw), _) => {
                let mut frame = frame_of(raw.format, raw.width, raw.height, &raw.bytes)?;
                frame.captured_at_ns = raw.at_ns;
                Ok(Some(frame))
            }
            (None, Some(fault)) => Err(Error::device(format!("camera \"{}\": {fault}", self.name))),
            (None, None) => Ok(None),
        }
    }

    /// Tells whether the last frame was taken, because no other follows.
    pub fn has_ended(&self) -> bool {
        let slot = locked(&self.slot);
        slot.has_ended && slot.newest.is_none()
    }

    /// Returns how many frames came since the camera was opened.
    pub fn n_frames(&self) -> u64 {
        locked(&self.slot).n_frames
    }

    /// Returns how many frames were replaced before anyone took them.
    pub fn n_replaced(&self) -> u64 {
        locked(&self.slot).n_replaced
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        locked(&self.slot).is_closed = true;
    }
}

/// Locks the slot; nobody panics while holding it.
fn locked(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(not(feature = "camera"))]
impl Camera {
    /// Opens a camera.
    ///
    /// # Errors
    /// `Unsupported`, because this build has no feature `camera`.
    pub fn open(_options: &CameraOptions) -> Result<Self> {
        Err(Error::unsupported("camera: this build cannot see; build with the feature camera"))
    }
}

/// Lists the cameras: none, because this build has no feature `camera`.
///
/// # Errors
/// None.
#[cfg(not(feature = "camera"))]
pub fn cameras() -> Result<Vec<CameraInfo>> {
    Ok(Vec::new())
}

#[cfg(feature = "camera")]
pub use device::cameras;

#[cfg(feature = "camera")]
mod device {
    use std::sync::mpsc;
    use std::time::Duration;
    use std::time::Instant;

    use nokhwa::Camera as Device;
    use nokhwa::NokhwaError;
    use nokhwa::utils::ApiBackend;
    use nokhwa::utils::CameraFormat;
    use nokhwa::utils::CameraIndex;
    use nokhwa::utils::FrameFormat;
    use nokhwa::utils::RequestedFormat;
    use nokhwa::utils::RequestedFormatType;

    use super::Camera;
    use super::CameraFeed;
    use super::CameraInfo;
    use super::CameraOptions;
    use super::PixelFormat;
    use crate::error::Error;
    use crate::error::ErrorKind;
    use crate::error::Result;
    use crate::error::guarded;

    /// Longest that opening a device may take.
    const OPEN_SECONDS_MAX: u64 = 10;
    /// Most frames in a row that may fail before the device counts as gone.
    const FAILURES_MAX: u32 = 30;
    /// How long a device that failed is left alone.
    const RETRY_PAUSE: Duration = Duration::from_millis(20);
    /// The layouts that we convert, dearest to convert last.
    const FORMATS: [FrameFormat; 6] = [
        FrameFormat::RAWRGB,
        FrameFormat::RAWBGR,
        FrameFormat::YUYV,
        FrameFormat::NV12,
        FrameFormat::GRAY,
        FrameFormat::MJPEG,
    ];

    /// Lists the cameras that can be opened.
    ///
    /// # Errors
    /// `Device` if the system cannot be asked.
    pub fn cameras() -> Result<Vec<CameraInfo>> {
        let info = |found: &nokhwa::utils::CameraInfo| CameraInfo {
            name: found.human_name(),
            description: found.description().to_owned(),
        };
        Ok(found()?.iter().map(info).collect())
    }

    fn found() -> Result<Vec<nokhwa::utils::CameraInfo>> {
        nokhwa::query(ApiBackend::Auto).map_err(|e| refused("cameras", e))
    }

    impl Camera {
        /// Opens a camera and begins to look.
        ///
        /// # Errors
        /// `Device` if there is none, it is unplugged, access is denied or it does not answer;
        /// `Busy` if another program holds it; `Unsupported` if it has no layout that we read.
        pub fn open(options: &CameraOptions) -> Result<Self> {
            let (index, name) = find(options.name.as_deref())?;
            let (camera, feed) = Self::fed(name.clone());
            let (opened, answer) = mpsc::channel();
            let options = options.clone();
            // The device's handle stays on the thread that made it.
            let watch = move || match open(index, &options, &name) {
                Ok(device) => {
                    if opened.send(Ok(())).is_ok() {
                        watch(device, feed);
                    }
                }
                // Nobody waits for the answer any more, so nobody misses it.
                Err(e) => drop(opened.send(Err(e))),
            };
            std::thread::Builder::new()
                .name("camera".to_owned())
                .spawn(watch)
                .map_err(|e| Error::device("camera: no thread can be started").with_source(e))?;
            match answer.recv_timeout(Duration::from_secs(OPEN_SECONDS_MAX)) {
                Ok(Ok(())) => Ok(camera),
                Ok(Err(e)) => Err(e),
                Err(_) => Err(Error::device(format!(
                    "camera \"{}\": does not answer for {OPEN_SECONDS_MAX} s; plug it in again",
                    camera.name
                ))),
            }
        }
    }

    /// Puts frames into the slot until the camera is closed or fails. A frame that failed may leave
    /// the device's buffers where no next one comes from, so its stream is opened anew.
    fn watch(mut device: Device, mut feed: CameraFeed) {
        let begin = Instant::now();
        let mut n_failures = 0;
        loop {
            let frame = match device.frame() {
                Ok(frame) => frame,
                Err(e) if n_failures < FAILURES_MAX && reopen(&mut device) => {
                    log::info!("a frame of the camera failed: {e}");
                    n_failures += 1;
                    continue;
                }
                Err(e) => {
                    feed.fail(format!("stopped; plug it in again ({e})"));
                    return;
                }
            };
            n_failures = 0;
            let sides = (frame.resolution().width(), frame.resolution().height());
            let at_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let format = layout(frame.source_frame_format());
            if !feed.put(format, sides, frame.buffer().to_vec(), at_ns) {
                return;
            }
        }
    }

    /// Opens a device's stream anew and returns whether the device is still there.
    fn reopen(device: &mut Device) -> bool {
        std::thread::sleep(RETRY_PAUSE);
        // Closing a stream panics where the device cannot stop.
        let reopened = guarded(|| device.stop_stream().and_then(|()| device.open_stream()));
        matches!(reopened, Some(Ok(())))
    }

    fn layout(format: FrameFormat) -> PixelFormat {
        match format {
            FrameFormat::MJPEG => PixelFormat::Mjpeg,
            FrameFormat::YUYV => PixelFormat::Yuyv,
            FrameFormat::NV12 => PixelFormat::Nv12,
            FrameFormat::GRAY => PixelFormat::Grey,
            FrameFormat::RAWRGB => PixelFormat::Rgb,
            FrameFormat::RAWBGR => PixelFormat::Bgr,
        }
    }

    /// Finds a camera by its name or its number in the list.
    fn find(name: Option<&str>) -> Result<(CameraIndex, String)> {
        let found = found()?;
        let number = name.and_then(|name| name.parse::<usize>().ok());
        let chosen = match (name, number) {
            (None, _) => found.first(),
            (_, Some(number)) => found.get(number),
            (Some(name), None) => found.iter().find(|info| info.human_name() == name),
        };
        let Some(chosen) = chosen else {
            if found.is_empty() {
                return Err(Error::device("camera: none is found; plug one in"));
            }
            let names: Vec<_> = found.iter().map(|c| format!("\"{}\"", c.human_name())).collect();
            let (name, names) = (name.unwrap_or_default(), names.join(", "));
            return Err(Error::device(format!("camera \"{name}\": is not there; found: {names}")));
        };
        Ok((chosen.index().clone(), chosen.human_name()))
    }

    /// Opens the device with the format that is nearest to what is wanted.
    fn open(index: CameraIndex, options: &CameraOptions, name: &str) -> Result<Device> {
        let place = format!("camera \"{name}\"");
        let any = RequestedFormat::with_formats(RequestedFormatType::None, &FORMATS);
        let mut device = Device::new(index, any).map_err(|e| refused(&place, e))?;
        let formats = device.compatible_camera_formats().unwrap_or_default();
        if let Some(nearest) = nearest(&formats, options) {
            let layouts = [nearest.format()];
            let wanted = RequestedFormatType::Exact(nearest);
            let wanted = RequestedFormat::with_formats(wanted, &layouts);
            device.set_camera_requset(wanted).map_err(|e| refused(&place, e))?;
        } else if !formats.is_empty() {
            return Err(no_layout(&place));
        }
        device.open_stream().map_err(|e| refused(&place, e))?;
        Ok(device)
    }

    /// Returns the format that is nearest in size, then fast enough, then cheapest to convert.
    fn nearest(formats: &[CameraFormat], options: &CameraOptions) -> Option<CameraFormat> {
        let cost = |format: &CameraFormat| {
            let wide = format.width().abs_diff(options.width);
            let high = format.height().abs_diff(options.height);
            let slow = options.rate_hz.saturating_sub(format.frame_rate());
            let dear = FORMATS.iter().position(|&f| f == format.format());
            let fast = format.frame_rate().saturating_sub(options.rate_hz);
            (u64::from(wide) + u64::from(high), slow, dear, fast)
        };
        formats.iter().filter(|f| FORMATS.contains(&f.format())).min_by_key(|f| cost(f)).copied()
    }

    /// Returns our error for a device that offers none of [`FORMATS`]; on Linux the package behind
    /// them takes grey for another code than V4L2 does, and so never finds it.
    fn no_layout(place: &str) -> Error {
        Error::unsupported(match cfg!(target_os = "linux") {
            true => format!(
                "{place}: has no layout that is read; YUYV, NV12, RGB and MJPEG are. Choose \
                 another with --device, or for grey ones let ffmpeg read it: ffmpeg -f v4l2 \
                 -i /dev/video0 -f image2pipe -c:v ppm - | culet watch \"...\" --frames - --live"
            ),
            false => format!(
                "{place}: has no layout that is read; YUYV, NV12, RGB, grey and MJPEG are. Choose \
                 another with --device"
            ),
        })
    }

    /// Returns our error for one of the camera system's, which says most of it in text.
    fn refused(place: &str, e: NokhwaError) -> Error {
        let text = e.to_string().to_lowercase();
        let error = if text.contains("permission") || text.contains("denied") {
            Error::device(format!("{place}: permission denied; allow it in the system settings"))
        } else if text.contains("busy") {
            Error::new(
                ErrorKind::Busy,
                format!("{place}: is used by another program; close that first"),
            )
        } else if text.contains("failed to fufill") {
            // Sic: none of the layouts that are wanted is there.
            no_layout(place)
        } else if text.contains("frameformat") && text.contains("unsupported") {
            Error::unsupported(format!(
                "{place}: is set to a layout that is not read; set another one that it has, such \
                 as with v4l2-ctl --set-fmt-video=pixelformat=YUYV"
            ))
        } else {
            Error::device(format!("{place}: cannot be opened; check that it is plugged in"))
        };
        error.with_source(e)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn nearest_format_is_chosen() {
            let format = |x, y, layout, rate| CameraFormat::new_from(x, y, layout, rate);
            let formats = [
                format(640, 480, FrameFormat::YUYV, 30),
                format(1280, 720, FrameFormat::YUYV, 5),
                format(1280, 720, FrameFormat::MJPEG, 30),
                format(1920, 1080, FrameFormat::MJPEG, 30),
            ];
            let options = CameraOptions::default();
            assert_eq!(nearest(&formats, &options), Some(formats[2]));
            let slow = CameraOptions { rate_hz: 5, ..options.clone() };
            assert_eq!(nearest(&formats, &slow), Some(formats[1]));
            let small = CameraOptions { width: 320, height: 240, ..options.clone() };
            assert_eq!(nearest(&formats, &small), Some(formats[0]));
            assert_eq!(nearest(&[], &options), None);
        }

        #[test]
        fn errors_say_what_to_do() {
            let cases = [
                ("Device or resource busy", ErrorKind::Busy, "another program"),
                ("Permission denied (os error 13)", ErrorKind::Device, "allow it"),
                ("no such file", ErrorKind::Device, "plugged in"),
            ];
            for (text, kind, words) in cases {
                let e = refused("camera \"x\"", NokhwaError::OpenStreamError(text.to_owned()));
                assert!(e.kind() == kind && e.to_string().contains(words), "{e}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_frame_wins() {
        let (mut camera, mut feed) = Camera::fed("null");
        assert!(camera.newest().unwrap().is_none());
        for value in [1, 2, 3] {
            assert!(feed.put(PixelFormat::Grey, (1, 1), vec![value], u64::from(value)));
        }
        let frame = camera.newest().unwrap().unwrap();
        assert_eq!((frame.rgb(), frame.captured_at_ns), (&[3, 3, 3][..], 3));
        assert_eq!((camera.n_frames(), camera.n_replaced()), (3, 2));
        assert!(camera.newest().unwrap().is_none());
    }

    #[test]
    fn the_end_comes_behind_the_last_frame() {
        let (mut camera, mut feed) = Camera::fed("null");
        feed.put(PixelFormat::Grey, (1, 1), vec![1], 0);
        feed.end();
        assert!(!camera.has_ended() && camera.newest().unwrap().is_some());
        assert!(camera.has_ended() && camera.newest().unwrap().is_none());
    }

    #[test]
    fn damaged_frame_does_not_end_it() {
        let (mut camera, mut feed) = Camera::fed("null");
        feed.put(PixelFormat::Yuyv, (4, 4), vec![0; 3], 0);
        assert!(camera.newest().is_err());
        feed.put(PixelFormat::Grey, (1, 1), vec![9], 0);
        assert!(camera.newest().unwrap().is_some());
    }

    #[test]
    fn failed_camera_says_so_after_its_last_frame() {
        let (mut camera, mut feed) = Camera::fed("null");
        feed.put(PixelFormat::Grey, (1, 1), vec![9], 0);
        feed.fail("was unplugged");
        assert!(camera.newest().unwrap().is_some());
        let message = camera.newest().unwrap_err().to_string();
        assert_eq!(message, "camera \"null\": was unplugged");
        drop(camera);
        assert!(!feed.put(PixelFormat::Grey, (1, 1), vec![9], 0));
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let options = CameraOptions { name: Some("no such".to_owned()), ..Default::default() };
        let e = Camera::open(&options).unwrap_err();
        assert!(e.to_string().starts_with("camera"), "{e}");
    }
}
