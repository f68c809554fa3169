//! A live microphone.
//! In: a device's blocks, of any rate, channels and sample kind. Out: mono `Pcm` at its own rate.
//! Invariant: the device's callback copies into a ring and does nothing else.

use std::fmt;

use crate::device;
use crate::device::Device;
use crate::device::DeviceInfo;
use crate::device::Direction;
use crate::device::Stream;
use crate::error::Result;
use crate::media::Pcm;
use crate::media::check_rate;
use crate::ring::RingReader;
use crate::ring::RingWriter;
use crate::ring::ring;

/// Lists the microphones that can be opened.
///
/// # Errors
/// `Device` if the system's sound service cannot be asked.
pub fn microphones() -> Result<Vec<DeviceInfo>> {
    device::list(Direction::In)
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
    /// None for one without a device.
    stream: Option<Stream>,
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

    /// Opens a microphone by name, or the default one, and begins to listen.
    ///
    /// # Errors
    /// `Device` if there is none, it is unplugged or access is denied; `Busy` if another program
    /// holds it; `Unsupported` if it gives samples of an unknown kind, or in a build without the
    /// feature `mic`.
    pub fn open(name: Option<&str>) -> Result<Self> {
        let device = Device::find(Direction::In, name)?;
        let (writer, reader) = ring();
        let mut microphone = Self::new(device.name().to_owned(), device.rate_hz(), reader);
        microphone.stream = Some(device.record(writer)?);
        Ok(microphone)
    }

    fn new(name: String, rate_hz: u32, reader: RingReader) -> Self {
        Self { name, rate_hz, reader, n_passed: 0, n_lost: 0, stream: None }
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
            self.stream.as_ref().map_or(Ok(()), Stream::check)?;
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
        writer.write(std::iter::repeat_n(0.5, RING_SAMPLES + 30_464));
        assert_eq!(microphone.read().unwrap().samples.len(), RING_SAMPLES);
        assert_eq!(microphone.n_lost(), 30_464);
        writer.write([0.5; 10]);
        assert_eq!(microphone.read().unwrap().captured_at_ns, 2_000_000_000);
        assert!(Microphone::null(10).is_err());
    }
}
