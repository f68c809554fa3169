//! A live microphone.
//! In: a device's blocks, of any rate, channels and sample kind. Out: mono `Pcm` at its own rate.
//! Invariant: the device's callback copies into a ring and does nothing else.

use std::fmt;
#[cfg(feature = "mic")]
use std::sync::Arc;
#[cfg(feature = "mic")]
use std::sync::atomic::AtomicU8;

#[cfg(feature = "mic")]
use cpal::traits::DeviceTrait;
#[cfg(feature = "mic")]
use cpal::traits::HostTrait;
#[cfg(feature = "mic")]
use cpal::traits::StreamTrait;

use crate::error::Error;
use crate::error::Result;
use crate::media::Pcm;
use crate::media::check_rate;
use crate::ring::RingReader;
use crate::ring::RingWriter;
use crate::ring::ring;

/// Most channels of a device that are mixed into one.
#[cfg(feature = "mic")]
const CHANNELS_MAX: u16 = 64;

/// What is known of a microphone before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicrophoneInfo {
    /// Name to open it by.
    pub name: String,
    /// Whether it is taken where no name is given.
    pub is_default: bool,
    /// Samples per second that it gives.
    pub rate_hz: u32,
    /// Channels that are mixed into one.
    pub n_channels: u16,
}

/// An open microphone; dropping it closes it.
///
/// It is listened to from the moment it is opened. What is not read in time is lost and counted.
pub struct Microphone {
    name: String,
    rate_hz: u32,
    reader: RingReader,
    /// Samples that were read or lost so far.
    n_passed: u64,
    n_lost: u64,
    #[cfg(feature = "mic")]
    open: Option<Open>,
}

impl fmt::Debug for Microphone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Microphone {{ {} Hz, {} samples lost }}", self.rate_hz, self.n_lost)
    }
}

impl Microphone {
    /// Creates a microphone without a device, and the end that samples for it are written to.
    ///
    /// # Errors
    /// `Input` if the rate is out of range.
    pub fn null(rate_hz: u32) -> Result<(Self, RingWriter)> {
        check_rate(rate_hz)?;
        let (writer, reader) = ring();
        Ok((Self::new("null".to_owned(), rate_hz, reader), writer))
    }

    fn new(name: String, rate_hz: u32, reader: RingReader) -> Self {
        Self {
            name,
            rate_hz,
            reader,
            n_passed: 0,
            n_lost: 0,
            #[cfg(feature = "mic")]
            open: None,
        }
    }

    /// Returns the device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the samples per second that it gives.
    pub fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Returns how many samples were lost because nobody read them in time.
    pub fn n_lost(&self) -> u64 {
        self.n_lost
    }

    /// Returns what was heard since the last call, which may be nothing.
    ///
    /// `captured_at_ns` counts from the first sample, lost ones included. Samples that are no
    /// finite number become zero.
    ///
    /// # Errors
    /// `Device` if the device failed or was unplugged.
    pub fn read(&mut self) -> Result<Pcm> {
        let mut samples = Vec::new();
        self.reader.read(&mut samples);
        let n_lost = self.reader.take_lost();
        if samples.is_empty() {
            self.check()?;
        }
        for sample in samples.iter_mut().filter(|sample| !sample.is_finite()) {
            *sample = 0.0;
        }
        self.n_lost += n_lost;
        let seconds = self.n_passed / u64::from(self.rate_hz);
        let rest = self.n_passed % u64::from(self.rate_hz);
        let captured_at_ns =
            seconds * 1_000_000_000 + rest * 1_000_000_000 / u64::from(self.rate_hz);
        self.n_passed += samples.len() as u64 + n_lost;
        Ok(Pcm { samples, rate_hz: self.rate_hz, captured_at_ns })
    }
}

#[cfg(not(feature = "mic"))]
impl Microphone {
    /// Opens a microphone by name, or the default one.
    ///
    /// # Errors
    /// `Unsupported`, because this build has no feature `mic`.
    pub fn open(_name: Option<&str>) -> Result<Self> {
        Err(Error::unsupported("microphone: this build cannot record; build with the feature mic"))
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// Lists the microphones: none, because this build has no feature `mic`.
///
/// # Errors
/// None.
#[cfg(not(feature = "mic"))]
pub fn microphones() -> Result<Vec<MicrophoneInfo>> {
    Ok(Vec::new())
}

/// A running stream and what its error callback said.
#[cfg(feature = "mic")]
struct Open {
    _stream: cpal::Stream,
    /// 0 for none, else `fault_number` of the last error.
    fault: Arc<AtomicU8>,
}

/// Lists the microphones that can be opened.
///
/// # Errors
/// `Device` if the system's sound service cannot be asked.
#[cfg(feature = "mic")]
pub fn microphones() -> Result<Vec<MicrophoneInfo>> {
    let host = cpal::default_host();
    let default = host.default_input_device();
    let devices = host.input_devices().map_err(|e| refused("microphones", &e))?;
    let info = |device: cpal::Device| {
        let config = device.default_input_config().ok()?;
        Some(MicrophoneInfo {
            name: name_of(&device),
            is_default: default.as_ref() == Some(&device),
            rate_hz: config.sample_rate(),
            n_channels: config.channels(),
        })
    };
    Ok(devices.filter_map(info).collect())
}

#[cfg(feature = "mic")]
impl Microphone {
    /// Opens a microphone by name, or the default one, and begins to listen.
    ///
    /// # Errors
    /// `Device` if there is none, it is unplugged or access is denied; `Busy` if another program
    /// holds it; `Unsupported` if it gives samples of an unknown kind.
    pub fn open(name: Option<&str>) -> Result<Self> {
        let device = find(name)?;
        let name = name_of(&device);
        let place = format!("microphone \"{name}\"");
        let config = device.default_input_config().map_err(|e| refused(&place, &e))?;
        let (rate_hz, n_channels) = (config.sample_rate(), config.channels());
        check_rate(rate_hz).map_err(|e| e.at(&place))?;
        if n_channels == 0 || n_channels > CHANNELS_MAX {
            return Err(Error::unsupported(format!(
                "{place}: has {n_channels} channels, expected 1 to {CHANNELS_MAX}"
            )));
        }
        let (writer, reader) = ring();
        let fault = Arc::new(AtomicU8::new(0));
        let stream = build(&device, &config, writer, Arc::clone(&fault), &place)?;
        stream.play().map_err(|e| refused(&place, &e))?;
        let mut microphone = Self::new(name, rate_hz, reader);
        microphone.open = Some(Open { _stream: stream, fault });
        Ok(microphone)
    }

    /// Returns the error that the device has reported, if it ended the stream.
    fn check(&self) -> Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let place = format!("microphone \"{}\"", self.name);
        match open.fault.load(std::sync::atomic::Ordering::Relaxed) {
            0 => Ok(()),
            GONE => Err(Error::device(format!("{place}: is gone; plug it in again"))),
            DENIED => Err(denied(&place)),
            _ => Err(Error::device(format!("{place}: stopped; open it again"))),
        }
    }
}

#[cfg(feature = "mic")]
const GONE: u8 = 1;
#[cfg(feature = "mic")]
const DENIED: u8 = 2;
#[cfg(feature = "mic")]
const STOPPED: u8 = 3;

/// Returns what an error in the middle of a stream means; 0 if the stream goes on.
#[cfg(feature = "mic")]
fn fault_number(kind: cpal::ErrorKind) -> u8 {
    match kind {
        cpal::ErrorKind::Xrun
        | cpal::ErrorKind::RealtimeDenied
        | cpal::ErrorKind::DeviceChanged => 0,
        cpal::ErrorKind::DeviceNotAvailable => GONE,
        cpal::ErrorKind::PermissionDenied => DENIED,
        _ => STOPPED,
    }
}

#[cfg(feature = "mic")]
fn denied(place: &str) -> Error {
    Error::device(format!("{place}: permission denied; allow it in the system settings"))
}

/// Returns our error for one of the sound system's.
#[cfg(feature = "mic")]
fn refused(place: &str, e: &cpal::Error) -> Error {
    let error = match e.kind() {
        cpal::ErrorKind::PermissionDenied => denied(place),
        cpal::ErrorKind::DeviceBusy => Error::new(
            crate::error::ErrorKind::Busy,
            format!("{place}: is used by another program; close that or choose another device"),
        ),
        cpal::ErrorKind::HostUnavailable => {
            Error::device(format!("{place}: the system's sound service does not answer; start it"))
        }
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
        return host.default_input_device().ok_or_else(|| {
            Error::device("microphone: none is there; plug one in, or choose one by its name")
        });
    };
    let devices: Vec<_> = host.input_devices().map_err(|e| refused("microphones", &e))?.collect();
    let called = |device: &&cpal::Device| {
        name_of(device) == name || device.id().is_ok_and(|id| id.to_string() == name)
    };
    if let Some(device) = devices.iter().find(called) {
        return Ok(device.clone());
    }
    let names: Vec<_> = devices.iter().map(|device| format!("\"{}\"", name_of(device))).collect();
    Err(Error::device(format!(
        "microphone \"{name}\": is not there; found: {}",
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    )))
}

/// Makes the stream for the kind of samples that the device gives.
#[cfg(feature = "mic")]
fn build(
    device: &cpal::Device,
    config: &cpal::SupportedStreamConfig,
    writer: RingWriter,
    fault: Arc<AtomicU8>,
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
                "{place}: gives samples of kind {kind}, which is not read; choose another device"
            )));
        }
    };
    make(device, config.config(), writer, fault).map_err(|e| refused(place, &e))
}

#[cfg(feature = "mic")]
fn build_for<T>(
    device: &cpal::Device,
    config: cpal::StreamConfig,
    mut writer: RingWriter,
    fault: Arc<AtomicU8>,
) -> std::result::Result<cpal::Stream, cpal::Error>
where
    T: cpal::SizedSample,
    f32: cpal::FromSample<T>,
{
    let n_channels = usize::from(config.channels);
    let heard = move |data: &[T], _: &cpal::InputCallbackInfo| {
        writer.write(data.chunks_exact(n_channels).map(mean));
    };
    let failed = move |e: cpal::Error| {
        let number = fault_number(e.kind());
        if number != 0 {
            fault.store(number, std::sync::atomic::Ordering::Relaxed);
        }
    };
    device.build_input_stream(config, heard, failed, None)
}

/// Returns the mean of one sample per channel.
#[cfg(feature = "mic")]
fn mean<T>(channels: &[T]) -> f32
where
    T: cpal::SizedSample,
    f32: cpal::FromSample<T>,
{
    let sum: f32 = channels.iter().map(|sample| sample.to_sample::<f32>()).sum();
    sum / channels.len() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::RING_SAMPLES;

    #[test]
    fn what_is_heard_comes_in_order_with_its_time() {
        let (mut microphone, mut writer) = Microphone::null(16_000).unwrap();
        assert!(microphone.read().unwrap().samples.is_empty());
        writer.write([0.25, f32::NAN, -0.5]);
        let pcm = microphone.read().unwrap();
        assert_eq!(
            (pcm.samples, pcm.rate_hz, pcm.captured_at_ns),
            (vec![0.25, 0.0, -0.5], 16_000, 0)
        );
        writer.write([1.0]);
        assert_eq!(microphone.read().unwrap().captured_at_ns, 3 * 62_500);
    }

    #[test]
    fn what_was_lost_moves_the_clock() {
        let (mut microphone, mut writer) = Microphone::null(48_000).unwrap();
        writer.write(std::iter::repeat_n(0.5, RING_SAMPLES + 31_616));
        assert_eq!(microphone.read().unwrap().samples.len(), RING_SAMPLES);
        assert_eq!(microphone.n_lost(), 31_616);
        writer.write([0.5; 10]);
        assert_eq!(microphone.read().unwrap().captured_at_ns, 1_000_000_000);
        assert!(Microphone::null(10).is_err());
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let e = Microphone::open(Some("no such device")).unwrap_err();
        assert!(e.to_string().starts_with("microphone"), "{e}");
        assert!(microphones().is_ok_and(|list| list.iter().all(|info| info.rate_hz > 0)));
    }

    #[cfg(feature = "mic")]
    #[test]
    fn every_kind_of_sample_is_mixed_to_floats() {
        assert_eq!(mean(&[16_384i16, 0]), 0.25);
        assert_eq!(mean(&[192u8]), 0.5);
        assert_eq!(mean(&[1i32 << 30, -(1 << 30)]), 0.0);
        assert_eq!(mean(&[0.5f64, 0.25, 0.0, 0.25]), 0.25);
    }
}
