//! Sound devices of this system, through cpal.
//! In: a direction, a name. Out: a stream that fills a ring or plays what it is given.
//! Invariant: errors name the device and the remedy.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use cpal::traits::DeviceTrait;
use cpal::traits::HostTrait;
use cpal::traits::StreamTrait;

use crate::device::info::DeviceInfo;
use crate::device::info::Direction;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::media::check_rate;
use crate::ring::RingWriter;

/// Most channels of a device.
const CHANNELS_MAX: u16 = 64;

const GONE: u8 = 1;
const DENIED: u8 = 2;
const STOPPED: u8 = 3;

/// Errors in a row, without a block of sound between them, that end a stream.
const ERRORS_MAX: u32 = 100;

/// Picks the version of a function for the kind of samples that a device has.
macro_rules! for_samples {
    ($kind:expr, $function:ident $(, $more:ident)?) => {{
        let build: Option<Build<_>> = match $kind {
            cpal::SampleFormat::I8 => Some($function::<i8 $(, $more)?>),
            cpal::SampleFormat::I16 => Some($function::<i16 $(, $more)?>),
            cpal::SampleFormat::I24 => Some($function::<cpal::I24 $(, $more)?>),
            cpal::SampleFormat::I32 => Some($function::<i32 $(, $more)?>),
            cpal::SampleFormat::I64 => Some($function::<i64 $(, $more)?>),
            cpal::SampleFormat::U8 => Some($function::<u8 $(, $more)?>),
            cpal::SampleFormat::U16 => Some($function::<u16 $(, $more)?>),
            cpal::SampleFormat::U24 => Some($function::<cpal::U24 $(, $more)?>),
            cpal::SampleFormat::U32 => Some($function::<u32 $(, $more)?>),
            cpal::SampleFormat::U64 => Some($function::<u64 $(, $more)?>),
            cpal::SampleFormat::F32 => Some($function::<f32 $(, $more)?>),
            cpal::SampleFormat::F64 => Some($function::<f64 $(, $more)?>),
            _ => None,
        };
        build
    }};
}

/// Lists the devices that can be opened.
///
/// # Errors
/// `Device` if the system's sound service cannot be asked.
pub fn list(direction: Direction) -> Result<Vec<DeviceInfo>> {
    let default = default(direction)?;
    let info = |device: cpal::Device| {
        let config = config(direction, &device).ok()?;
        Some(DeviceInfo {
            name: name_of(&device),
            is_default: default.as_ref() == Some(&device),
            rate_hz: config.sample_rate(),
            n_channels: config.channels(),
        })
    };
    Ok(devices(direction)?.into_iter().filter_map(info).collect())
}

/// Returns the first sound service that answers; `cpal::default_host` panics where none does.
fn host(direction: Direction) -> Result<cpal::Host> {
    let mut found = cpal::available_hosts().into_iter().map(cpal::host_from_id);
    let first = found.next().unwrap_or_else(|| Err(cpal::ErrorKind::HostUnavailable.into()));
    let host = found.fold(first, |a, b| a.or(b));
    host.map_err(|e| refused(&format!("{}s", direction.noun()), &e))
}

fn default(direction: Direction) -> Result<Option<cpal::Device>> {
    let host = host(direction)?;
    Ok(match direction {
        Direction::In => host.default_input_device(),
        Direction::Out => host.default_output_device(),
    })
}

fn devices(direction: Direction) -> Result<Vec<cpal::Device>> {
    let host = host(direction)?;
    let found = match direction {
        Direction::In => host.input_devices().map(Iterator::collect),
        Direction::Out => host.output_devices().map(Iterator::collect),
    };
    found.map_err(|e| refused(&format!("{}s", direction.noun()), &e))
}

fn config(
    direction: Direction,
    device: &cpal::Device,
) -> std::result::Result<cpal::SupportedStreamConfig, cpal::Error> {
    match direction {
        Direction::In => device.default_input_config(),
        Direction::Out => device.default_output_config(),
    }
}

fn name_of(device: &cpal::Device) -> String {
    match device.description() {
        Ok(description) => description.name().to_owned(),
        Err(_) => device.to_string(),
    }
}

/// Returns our error for one of the sound system's.
fn refused(place: &str, e: &cpal::Error) -> Error {
    let error = match e.kind() {
        cpal::ErrorKind::PermissionDenied => denied(place),
        cpal::ErrorKind::DeviceBusy => Error::new(
            ErrorKind::Busy,
            format!("{place}: is used by another program; close that or choose another device"),
        ),
        cpal::ErrorKind::HostUnavailable => {
            Error::device(format!("{place}: the system's sound service does not answer; start it"))
        }
        _ => Error::device(format!("{place}: cannot be opened; check that it is plugged in")),
    };
    error.with_source(e.clone())
}

fn denied(place: &str) -> Error {
    Error::device(format!("{place}: permission denied; allow it in the system settings"))
}

/// How a stream fares; only its own thread writes.
#[derive(Default)]
struct Health {
    /// 0 for none, else what ended the stream.
    fault: AtomicU8,
    /// Errors since the last block.
    n_errors: AtomicU32,
}

impl Health {
    fn block(&self) {
        self.n_errors.store(0, Ordering::Relaxed);
    }

    /// Notes an error; the sound system goes on after most of them.
    fn error(&self, kind: cpal::ErrorKind) {
        let n_errors = self.n_errors.load(Ordering::Relaxed).saturating_add(1);
        self.n_errors.store(n_errors, Ordering::Relaxed);
        let fault = match kind {
            cpal::ErrorKind::DeviceNotAvailable => GONE,
            cpal::ErrorKind::PermissionDenied => DENIED,
            cpal::ErrorKind::HostUnavailable | cpal::ErrorKind::StreamInvalidated => STOPPED,
            _ if n_errors > ERRORS_MAX => STOPPED,
            _ => return,
        };
        self.fault.store(fault, Ordering::Relaxed);
    }
}

/// A device that was found.
pub(crate) struct Device {
    device: cpal::Device,
    config: cpal::SupportedStreamConfig,
    name: String,
    place: String,
}

impl Device {
    /// Finds a device by its name or its system's identifier, or the default one.
    ///
    /// # Errors
    /// `Device` if there is none or access is denied; `Busy` if another program holds it;
    /// `Unsupported` if its rate or its channels are out of range.
    pub(crate) fn find(direction: Direction, name: Option<&str>) -> Result<Self> {
        let device = called(direction, name)?;
        let name = name_of(&device);
        let place = format!("{} \"{name}\"", direction.noun());
        let config = config(direction, &device).map_err(|e| refused(&place, &e))?;
        check_rate(config.sample_rate()).map_err(|e| e.at(&place))?;
        let n_channels = config.channels();
        if n_channels == 0 || n_channels > CHANNELS_MAX {
            return Err(Error::unsupported(format!(
                "{place}: has {n_channels} channels, expected 1 to {CHANNELS_MAX}"
            )));
        }
        Ok(Self { device, config, name, place })
    }

    /// Returns its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the samples per second that it gives or takes.
    pub(crate) fn rate_hz(&self) -> u32 {
        self.config.sample_rate()
    }

    /// Begins to record into a ring, all channels mixed into one.
    ///
    /// # Errors
    /// As for [`find`](Self::find); `Unsupported` if it has samples of an unknown kind.
    pub(crate) fn record(self, writer: RingWriter) -> Result<Stream> {
        let build = for_samples!(self.config.sample_format(), record_for);
        self.start(build, writer)
    }

    /// Begins to play: `feed` hands over up to so many samples, and silence follows them.
    ///
    /// # Errors
    /// As for [`record`](Self::record).
    pub(crate) fn play<F>(self, feed: F) -> Result<Stream>
    where
        F: FnMut(usize, &mut dyn FnMut(f32)) + Send + 'static,
    {
        let build = for_samples!(self.config.sample_format(), play_for, F);
        self.start(build, feed)
    }

    fn start<T>(self, build: Option<Build<T>>, end: T) -> Result<Stream> {
        let place = self.place;
        let build = build.ok_or_else(|| {
            let kind = self.config.sample_format();
            let what = "expected whole numbers or floats; choose another device";
            Error::unsupported(format!("{place}: has samples of kind {kind}, {what}"))
        })?;
        let health = Arc::new(Health::default());
        let stream = build(&self.device, self.config.config(), end, Arc::clone(&health))
            .map_err(|e| refused(&place, &e))?;
        stream.play().map_err(|e| refused(&place, &e))?;
        Ok(Stream { _stream: stream, health, place })
    }
}

fn called(direction: Direction, name: Option<&str>) -> Result<cpal::Device> {
    let noun = direction.noun();
    let Some(name) = name else {
        return default(direction)?.ok_or_else(|| {
            Error::device(format!("{noun}: none is there; plug one in, or choose one by its name"))
        });
    };
    let devices = devices(direction)?;
    let is_called = |device: &&cpal::Device| {
        name_of(device) == name || device.id().is_ok_and(|id| id.to_string() == name)
    };
    if let Some(device) = devices.iter().find(is_called) {
        return Ok(device.clone());
    }
    let names: Vec<_> = devices.iter().map(|device| format!("\"{}\"", name_of(device))).collect();
    Err(Error::device(format!(
        "{noun} \"{name}\": is not there; found: {}",
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    )))
}

/// A running stream; dropping it closes the device.
pub(crate) struct Stream {
    _stream: cpal::Stream,
    health: Arc<Health>,
    place: String,
}

impl Stream {
    /// Returns the error that the device has reported, if it ended the stream.
    ///
    /// # Errors
    /// `Device` if the device failed or was unplugged.
    pub(crate) fn check(&self) -> Result<()> {
        let place = &self.place;
        match self.health.fault.load(Ordering::Relaxed) {
            0 => Ok(()),
            GONE => Err(Error::device(format!("{place}: is gone; plug it in again"))),
            DENIED => Err(denied(place)),
            _ => Err(Error::device(format!("{place}: stopped; open it again"))),
        }
    }
}

type Build<T> = fn(
    &cpal::Device,
    cpal::StreamConfig,
    T,
    Arc<Health>,
) -> std::result::Result<cpal::Stream, cpal::Error>;

fn record_for<T>(
    device: &cpal::Device,
    config: cpal::StreamConfig,
    mut writer: RingWriter,
    health: Arc<Health>,
) -> std::result::Result<cpal::Stream, cpal::Error>
where
    T: cpal::SizedSample,
    f32: cpal::FromSample<T>,
{
    let n_channels = usize::from(config.channels);
    let good = Arc::clone(&health);
    let heard = move |data: &[T], _: &cpal::InputCallbackInfo| {
        good.block();
        writer.write(data.chunks_exact(n_channels).map(mean));
    };
    device.build_input_stream(config, heard, on_error(health), None)
}

fn play_for<T, F>(
    device: &cpal::Device,
    config: cpal::StreamConfig,
    mut feed: F,
    health: Arc<Health>,
) -> std::result::Result<cpal::Stream, cpal::Error>
where
    T: cpal::SizedSample + cpal::FromSample<f32>,
    F: FnMut(usize, &mut dyn FnMut(f32)) + Send + 'static,
{
    let n_channels = usize::from(config.channels);
    let good = Arc::clone(&health);
    let wanted = move |data: &mut [T], _: &cpal::OutputCallbackInfo| {
        good.block();
        let mut frames = data.chunks_mut(n_channels);
        feed(frames.len(), &mut |sample| {
            if let Some(frame) = frames.next() {
                frame.fill(T::from_sample_(sample));
            }
        });
        frames.for_each(|frame| frame.fill(T::EQUILIBRIUM));
    };
    device.build_output_stream(config, wanted, on_error(health), None)
}

fn on_error(health: Arc<Health>) -> impl FnMut(cpal::Error) + Send + 'static {
    move |e| health.error(e.kind())
}

/// Returns the mean of one sample per channel.
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

    #[test]
    fn every_kind_of_sample_is_mixed_to_floats() {
        assert_eq!(mean(&[16_384i16, 0]), 0.25);
        assert_eq!(mean(&[192u8]), 0.5);
        assert_eq!(mean(&[1i32 << 30, -(1 << 30)]), 0.0);
        assert_eq!(mean(&[0.5f64, 0.25, 0.0, 0.25]), 0.25);
    }

    #[test]
    fn errors_that_pass_end_no_stream() {
        let health = Health::default();
        let is_over = || health.fault.load(Ordering::Relaxed) != 0;
        for _ in 0..2 * ERRORS_MAX {
            health.error(cpal::ErrorKind::Xrun);
            health.error(cpal::ErrorKind::BackendError);
            health.block();
        }
        assert!(!is_over());
        (0..=ERRORS_MAX).for_each(|_| health.error(cpal::ErrorKind::BackendError));
        assert!(is_over());
        let health = Health::default();
        health.error(cpal::ErrorKind::DeviceNotAvailable);
        assert_eq!(health.fault.load(Ordering::Relaxed), GONE);
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        for direction in [Direction::In, Direction::Out] {
            let e = Device::find(direction, Some("no such device")).err().expect("not there");
            assert!(e.to_string().starts_with(direction.noun()), "{e}");
            assert!(list(direction).is_ok_and(|list| list.iter().all(|info| info.rate_hz > 0)));
        }
    }
}
