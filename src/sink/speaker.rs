//! A live speaker.
//! In: mono samples at the speaker's rate. Out: sound, and how much of it was heard.
//! Invariant: the device's callback copies from a ring and does nothing else.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

#[cfg(feature = "mic")]
use cpal::traits::DeviceTrait;
#[cfg(feature = "mic")]
use cpal::traits::HostTrait;
#[cfg(feature = "mic")]
use cpal::traits::StreamTrait;

use crate::error::Error;
use crate::error::Result;
use crate::media::check_rate;
use crate::ring::RingReader;
use crate::ring::RingWriter;
use crate::ring::ring;

/// What is known of a speaker before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpeakerInfo {
    /// Name to open it by.
    pub name: String,
    /// Whether it is taken where no name is given.
    pub is_default: bool,
    /// Samples per second that it takes.
    pub rate_hz: u32,
}

/// What the callback and we tell each other.
#[derive(Default)]
struct Shared {
    /// Samples that were played.
    n_played: AtomicU64,
    /// Samples of silence that were played while sound was expected.
    n_missed: AtomicU64,
    /// Raised to throw away what waits; the callback follows it.
    n_cuts: AtomicU64,
    n_cuts_done: AtomicU64,
    /// Samples that were thrown away.
    n_cut: AtomicU64,
    fault: AtomicU8,
}

/// An open speaker; dropping it closes it at once.
pub struct Speaker {
    name: String,
    rate_hz: u32,
    writer: RingWriter,
    shared: Arc<Shared>,
    n_written: u64,
    #[cfg(feature = "mic")]
    _stream: Option<cpal::Stream>,
}

impl fmt::Debug for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Speaker {{ {} Hz, {} samples played }}", self.rate_hz, self.n_played())
    }
}

/// What a device takes sound from: one sample per call, silence where there is none.
pub struct SpeakerFeed {
    reader: RingReader,
    shared: Arc<Shared>,
}

impl fmt::Debug for SpeakerFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpeakerFeed {{ {} samples wait }}", self.reader.len())
    }
}

impl SpeakerFeed {
    /// Fills a mono block with what waits, then with silence; returns how much was sound.
    pub fn fill(&mut self, block: &mut [f32]) -> usize {
        let mut samples = block.iter_mut();
        let n = self.play(samples.len(), |sample| {
            if let Some(slot) = samples.next() {
                *slot = sample;
            }
        });
        samples.for_each(|slot| *slot = 0.0);
        n
    }

    /// Hands up to `n_wanted` samples to `put` and returns how many there were.
    fn play(&mut self, n_wanted: usize, mut put: impl FnMut(f32)) -> usize {
        let n_cuts = self.shared.n_cuts.load(Ordering::Acquire);
        if n_cuts != self.shared.n_cuts_done.load(Ordering::Relaxed) {
            let mut n_cut = 0;
            while self.reader.next_sample().is_some() {
                n_cut += 1;
            }
            self.shared.n_cut.fetch_add(n_cut, Ordering::Relaxed);
            self.shared.n_cuts_done.store(n_cuts, Ordering::Release);
        }
        let n_waiting = self.reader.len();
        let mut n = 0;
        while n < n_wanted {
            let Some(sample) = self.reader.next_sample() else { break };
            put(sample);
            n += 1;
        }
        self.shared.n_played.fetch_add(n as u64, Ordering::Relaxed);
        if n_waiting > 0 && n < n_wanted {
            self.shared.n_missed.fetch_add((n_wanted - n) as u64, Ordering::Relaxed);
        }
        n
    }
}

impl Speaker {
    /// Creates a speaker without a device, and the end that its sound comes out of.
    ///
    /// # Errors
    /// `Input` if the rate is out of range.
    pub fn null(rate_hz: u32) -> Result<(Self, SpeakerFeed)> {
        check_rate(rate_hz)?;
        Ok(Self::new("null".to_owned(), rate_hz))
    }

    fn new(name: String, rate_hz: u32) -> (Self, SpeakerFeed) {
        let (writer, reader) = ring();
        let shared = Arc::new(Shared::default());
        let feed = SpeakerFeed { reader, shared: Arc::clone(&shared) };
        let speaker = Self {
            name,
            rate_hz,
            writer,
            shared,
            n_written: 0,
            #[cfg(feature = "mic")]
            _stream: None,
        };
        (speaker, feed)
    }

    /// Returns the device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the samples per second that it takes.
    pub fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Queues as many samples as fit now and returns how many that were.
    ///
    /// Samples are clipped to [-1, 1]; what is no finite number is silence.
    ///
    /// # Errors
    /// `Device` if the device failed or was unplugged.
    pub fn play(&mut self, samples: &[f32]) -> Result<usize> {
        self.check()?;
        // What waits to be cut is cut before anything new is queued.
        if self.is_cutting() {
            return Ok(0);
        }
        let n = samples.len().min(self.writer.free());
        let safe = |&s: &f32| if s.is_finite() { s.clamp(-1.0, 1.0) } else { 0.0 };
        let n = self.writer.write(samples[..n].iter().map(safe));
        self.n_written += n as u64;
        Ok(n)
    }

    /// Falls silent as soon as the device asks for its next block; what waits is thrown away.
    pub fn cut(&mut self) {
        self.shared.n_cuts.fetch_add(1, Ordering::Release);
    }

    /// Returns how many samples were played since the speaker was opened.
    pub fn n_played(&self) -> u64 {
        self.shared.n_played.load(Ordering::Relaxed)
    }

    /// Returns how many samples wait to be played.
    pub fn n_waiting(&self) -> u64 {
        let n_cut = self.shared.n_cut.load(Ordering::Relaxed);
        self.n_written.saturating_sub(self.n_played() + n_cut)
    }

    /// Returns how many samples of silence broke into sound because it came too late.
    pub fn n_missed(&self) -> u64 {
        self.shared.n_missed.load(Ordering::Relaxed)
    }

    fn is_cutting(&self) -> bool {
        let n_done = self.shared.n_cuts_done.load(Ordering::Acquire);
        self.shared.n_cuts.load(Ordering::Relaxed) != n_done
    }

    fn check(&self) -> Result<()> {
        match self.shared.fault.load(Ordering::Relaxed) {
            0 => Ok(()),
            _ => Err(Error::device(format!(
                "speaker \"{}\": stopped; plug it in and open it again",
                self.name
            ))),
        }
    }
}

#[cfg(not(feature = "mic"))]
impl Speaker {
    /// Opens a speaker by name, or the default one.
    ///
    /// # Errors
    /// `Unsupported`, because this build has no feature `mic`.
    pub fn open(_name: Option<&str>) -> Result<Self> {
        Err(Error::unsupported("speaker: this build cannot play; build with the feature mic"))
    }
}

/// Lists the speakers: none, because this build has no feature `mic`.
///
/// # Errors
/// None.
#[cfg(not(feature = "mic"))]
pub fn speakers() -> Result<Vec<SpeakerInfo>> {
    Ok(Vec::new())
}

/// Lists the speakers that can be opened.
///
/// # Errors
/// `Device` if the system's sound service cannot be asked.
#[cfg(feature = "mic")]
pub fn speakers() -> Result<Vec<SpeakerInfo>> {
    let host = cpal::default_host();
    let default = host.default_output_device();
    let devices = host.output_devices().map_err(|e| refused("speakers", &e))?;
    let info = |device: cpal::Device| {
        let config = device.default_output_config().ok()?;
        let is_default = default.as_ref() == Some(&device);
        Some(SpeakerInfo { name: name_of(&device), is_default, rate_hz: config.sample_rate() })
    };
    Ok(devices.filter_map(info).collect())
}

#[cfg(feature = "mic")]
impl Speaker {
    /// Opens a speaker by name, or the default one.
    ///
    /// # Errors
    /// `Device` if there is none, it is unplugged or access is denied; `Busy` if another program
    /// holds it; `Unsupported` if it takes samples of an unknown kind.
    pub fn open(name: Option<&str>) -> Result<Self> {
        let device = find(name)?;
        let name = name_of(&device);
        let place = format!("speaker \"{name}\"");
        let config = device.default_output_config().map_err(|e| refused(&place, &e))?;
        check_rate(config.sample_rate()).map_err(|e| e.at(&place))?;
        let (mut speaker, feed) = Self::new(name, config.sample_rate());
        let stream = build(&device, &config, feed, &place)?;
        stream.play().map_err(|e| refused(&place, &e))?;
        speaker._stream = Some(stream);
        Ok(speaker)
    }
}

/// Returns our error for one of the sound system's.
#[cfg(feature = "mic")]
fn refused(place: &str, e: &cpal::Error) -> Error {
    let error = match e.kind() {
        cpal::ErrorKind::PermissionDenied => {
            Error::device(format!("{place}: permission denied; allow it in the system settings"))
        }
        cpal::ErrorKind::DeviceBusy => Error::new(
            crate::error::ErrorKind::Busy,
            format!("{place}: is used by another program; close that or choose another device"),
        ),
        _ => Error::device(format!("{place}: cannot be opened; check that it is plugged in")),
    };
    error.with_source(e.clone())
}

#[cfg(feature = "mic")]
fn name_of(device: &cpal::Device) -> String {
    match device.description() {
        Ok(description) => description.name().to_owned(),
        Err(_) => device.to_string(),
    }
}

/// Finds a device by its name or its system's identifier.
#[cfg(feature = "mic")]
fn find(name: Option<&str>) -> Result<cpal::Device> {
    let host = cpal::default_host();
    let Some(name) = name else {
        return host.default_output_device().ok_or_else(|| {
            Error::device("speaker: none is there; plug one in, or choose one by its name")
        });
    };
    let mut devices = host.output_devices().map_err(|e| refused("speakers", &e))?;
    let called = |device: &cpal::Device| {
        name_of(device) == name || device.id().is_ok_and(|id| id.to_string() == name)
    };
    devices.find(called).ok_or_else(|| {
        Error::device(format!("speaker \"{name}\": is not there; list the speakers to choose one"))
    })
}

/// Makes the stream for the kind of samples that the device takes.
#[cfg(feature = "mic")]
fn build(
    device: &cpal::Device,
    config: &cpal::SupportedStreamConfig,
    feed: SpeakerFeed,
    place: &str,
) -> Result<cpal::Stream> {
    use cpal::SampleFormat;
    let make = match config.sample_format() {
        SampleFormat::I8 => build_for::<i8>,
        SampleFormat::I16 => build_for::<i16>,
        SampleFormat::I24 => build_for::<cpal::I24>,
        SampleFormat::I32 => build_for::<i32>,
        SampleFormat::I64 => build_for::<i64>,
        SampleFormat::U8 => build_for::<u8>,
        SampleFormat::U16 => build_for::<u16>,
        SampleFormat::U24 => build_for::<cpal::U24>,
        SampleFormat::U32 => build_for::<u32>,
        SampleFormat::U64 => build_for::<u64>,
        SampleFormat::F32 => build_for::<f32>,
        SampleFormat::F64 => build_for::<f64>,
        kind => {
            return Err(Error::unsupported(format!(
                "{place}: takes samples of kind {kind}, which is not made; choose another device"
            )));
        }
    };
    make(device, config.config(), feed).map_err(|e| refused(place, &e))
}

#[cfg(feature = "mic")]
fn build_for<T>(
    device: &cpal::Device,
    config: cpal::StreamConfig,
    mut feed: SpeakerFeed,
) -> std::result::Result<cpal::Stream, cpal::Error>
where
    T: cpal::SizedSample + cpal::FromSample<f32>,
{
    let n_channels = usize::from(config.channels.max(1));
    let shared = Arc::clone(&feed.shared);
    let wanted = move |data: &mut [T], _: &cpal::OutputCallbackInfo| {
        let mut frames = data.chunks_mut(n_channels);
        feed.play(frames.len(), |sample| {
            if let Some(frame) = frames.next() {
                frame.fill(T::from_sample_(sample));
            }
        });
        frames.for_each(|frame| frame.fill(T::EQUILIBRIUM));
    };
    let failed = move |e: cpal::Error| {
        let goes_on = matches!(
            e.kind(),
            cpal::ErrorKind::Xrun
                | cpal::ErrorKind::RealtimeDenied
                | cpal::ErrorKind::DeviceChanged
        );
        if !goes_on {
            shared.fault.store(1, Ordering::Relaxed);
        }
    };
    device.build_output_stream(config, wanted, failed, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::RING_SAMPLES;

    #[test]
    fn sound_is_played_once_and_then_silence() {
        let (mut speaker, mut feed) = Speaker::null(24_000).unwrap();
        assert_eq!(speaker.play(&[0.5, f32::NAN, -7.0]).unwrap(), 3);
        assert_eq!((speaker.n_waiting(), speaker.n_played()), (3, 0));
        let mut block = [9.0; 5];
        assert_eq!(feed.fill(&mut block), 3);
        assert_eq!(block, [0.5, 0.0, -1.0, 0.0, 0.0]);
        assert_eq!((speaker.n_waiting(), speaker.n_played(), speaker.n_missed()), (0, 3, 2));
        feed.fill(&mut block);
        assert_eq!((speaker.n_played(), speaker.n_missed()), (3, 2));
    }

    #[test]
    fn only_what_fits_is_taken() {
        let (mut speaker, _feed) = Speaker::null(24_000).unwrap();
        assert_eq!(speaker.play(&vec![0.1; RING_SAMPLES + 5]).unwrap(), RING_SAMPLES);
        assert_eq!(speaker.play(&[0.1]).unwrap(), 0);
    }

    #[test]
    fn cut_is_silent_from_the_next_block_on() {
        let (mut speaker, mut feed) = Speaker::null(24_000).unwrap();
        speaker.play(&[0.1; 100]).unwrap();
        let mut block = [0.0; 10];
        feed.fill(&mut block);
        speaker.cut();
        assert_eq!(speaker.play(&[0.2; 4]).unwrap(), 0);
        assert_eq!(feed.fill(&mut block), 0);
        assert_eq!((block, speaker.n_played(), speaker.n_waiting()), ([0.0; 10], 10, 0));
        assert_eq!(speaker.play(&[0.2; 4]).unwrap(), 4);
        assert_eq!(feed.fill(&mut block), 4);
        assert_eq!(speaker.n_missed(), 6);
    }
}
