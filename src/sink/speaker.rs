//! A live speaker.
//! In: mono samples at the speaker's rate. Out: sound, and how much of it was heard.
//! Invariant: the device's callback copies from a ring and does nothing else.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::device;
use crate::device::Device;
use crate::device::DeviceInfo;
use crate::device::Direction;
use crate::device::Stream;
use crate::error::Error;
use crate::error::Result;
use crate::media::Pcm;
use crate::media::check_rate;
use crate::ring::RingReader;
use crate::ring::RingWriter;
use crate::ring::ring;

/// Lists the speakers that can be opened.
///
/// # Errors
/// `Device` if the system's sound service cannot be asked.
pub fn speakers() -> Result<Vec<DeviceInfo>> {
    device::list(Direction::Out)
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
    /// Whether nobody takes sound any more.
    is_gone: AtomicBool,
    /// Whether anybody wants to know what is played.
    is_tapped: AtomicBool,
}

/// What silences a speaker from any thread.
#[derive(Clone, Default)]
pub struct Scissors(Arc<Shared>);

impl fmt::Debug for Scissors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scissors")
    }
}

impl Scissors {
    /// Falls silent as soon as the device asks for its next block; what waits is thrown away.
    pub fn cut(&self) {
        self.0.n_cuts.fetch_add(1, Ordering::Release);
    }
}

/// What a speaker plays, silence included, for whoever takes it out of what a microphone hears.
pub struct Tap {
    reader: RingReader,
    shared: Arc<Shared>,
    rate_hz: u32,
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tap {{ {} samples wait }}", self.reader.len())
    }
}

impl Tap {
    /// Returns what was played since the last call, about a second at most; nothing is kept
    /// before the first.
    pub fn read(&mut self) -> Pcm {
        self.shared.is_tapped.store(true, Ordering::Relaxed);
        let mut samples = Vec::new();
        self.reader.read(&mut samples);
        Pcm { samples, rate_hz: self.rate_hz, captured_at_ns: 0 }
    }
}

/// An open speaker; dropping it closes it at once.
pub struct Speaker {
    name: String,
    rate_hz: u32,
    writer: RingWriter,
    shared: Arc<Shared>,
    /// None once it was taken.
    tap: Option<Tap>,
    n_queued: u64,
    /// None for one without a device.
    stream: Option<Stream>,
}

impl fmt::Debug for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Speaker {{ {} Hz, {} samples played }}", self.rate_hz, self.n_played())
    }
}

/// What a device takes sound from: one sample per call, silence where there is none.
pub struct SpeakerFeed {
    reader: RingReader,
    tap: RingWriter,
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
        let is_tapped = self.shared.is_tapped.load(Ordering::Relaxed);
        let n_waiting = self.reader.len();
        let mut n = 0;
        while n < n_wanted {
            let Some(sample) = self.reader.next_sample() else { break };
            put(sample);
            if is_tapped {
                self.tap.write([sample]);
            }
            n += 1;
        }
        if is_tapped {
            self.tap.write((n..n_wanted).map(|_| 0.0));
        }
        self.shared.n_played.fetch_add(n as u64, Ordering::Relaxed);
        if n_waiting > 0 && n < n_wanted {
            self.shared.n_missed.fetch_add((n_wanted - n) as u64, Ordering::Relaxed);
        }
        n
    }
}

impl Drop for SpeakerFeed {
    fn drop(&mut self) {
        self.shared.is_gone.store(true, Ordering::Relaxed);
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

    /// Opens a speaker by name, or the default one.
    ///
    /// # Errors
    /// `Device` if there is none, it is unplugged or access is denied; `Busy` if another program
    /// holds it; `Unsupported` if it takes samples of an unknown kind, or in a build without the
    /// feature `mic`.
    pub fn open(name: Option<&str>) -> Result<Self> {
        let device = Device::find(Direction::Out, name)?;
        let (mut speaker, mut feed) = Self::new(device.name().to_owned(), device.rate_hz());
        speaker.stream = Some(device.play(move |n_wanted, put| {
            feed.play(n_wanted, put);
        })?);
        Ok(speaker)
    }

    fn new(name: String, rate_hz: u32) -> (Self, SpeakerFeed) {
        let (writer, reader) = ring();
        let shared = Arc::new(Shared::default());
        let (tap, played) = ring();
        let feed = SpeakerFeed { reader, tap, shared: Arc::clone(&shared) };
        let tap = Some(Tap { reader: played, shared: Arc::clone(&shared), rate_hz });
        let speaker = Self { name, rate_hz, writer, shared, tap, n_queued: 0, stream: None };
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
        self.stream.as_ref().map_or(Ok(()), Stream::check)?;
        if self.shared.is_gone.load(Ordering::Relaxed) {
            return Err(Error::device(format!(
                "speaker \"{}\": is gone; open it again",
                self.name
            )));
        }
        // What waits to be cut is cut before anything new is queued.
        if self.is_cutting() {
            return Ok(0);
        }
        let n = samples.len().min(self.writer.free());
        let safe = |&s: &f32| if s.is_finite() { s.clamp(-1.0, 1.0) } else { 0.0 };
        let n = self.writer.write(samples[..n].iter().map(safe));
        self.n_queued += n as u64;
        Ok(n)
    }

    /// Returns what silences it from any thread.
    pub fn scissors(&self) -> Scissors {
        Scissors(Arc::clone(&self.shared))
    }

    /// Returns what it plays from now on, the first time that it is asked.
    pub fn tap(&mut self) -> Option<Tap> {
        self.tap.take()
    }

    /// Returns how many samples were queued since it was opened.
    pub fn n_queued(&self) -> u64 {
        self.n_queued
    }

    /// Returns how many of the queued samples were played or thrown away.
    pub fn n_done(&self) -> u64 {
        self.n_played() + self.shared.n_cut.load(Ordering::Relaxed)
    }

    /// Returns how many samples were played since the speaker was opened.
    pub fn n_played(&self) -> u64 {
        self.shared.n_played.load(Ordering::Relaxed)
    }

    /// Returns how many samples wait to be played.
    pub fn n_waiting(&self) -> u64 {
        self.n_queued.saturating_sub(self.n_done())
    }

    /// Returns how many samples of silence broke into sound because it came too late.
    pub fn n_missed(&self) -> u64 {
        self.shared.n_missed.load(Ordering::Relaxed)
    }

    fn is_cutting(&self) -> bool {
        let n_done = self.shared.n_cuts_done.load(Ordering::Acquire);
        self.shared.n_cuts.load(Ordering::Relaxed) != n_done
    }
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
    fn a_tap_gives_what_is_played_with_its_silence() {
        let (mut speaker, mut feed) = Speaker::null(24_000).unwrap();
        let mut tap = speaker.tap().unwrap();
        speaker.play(&[0.75]).unwrap();
        feed.fill(&mut [0.0; 2]);
        speaker.play(&[0.5, -0.5, 0.25]).unwrap();
        assert!(speaker.tap().is_none() && tap.read().samples.is_empty());
        feed.fill(&mut [0.0; 2]);
        feed.fill(&mut [0.0; 3]);
        let played = tap.read();
        assert_eq!((played.rate_hz, played.samples), (24_000, vec![0.5, -0.5, 0.25, 0.0, 0.0]));
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
        speaker.scissors().cut();
        assert_eq!(speaker.play(&[0.2; 4]).unwrap(), 0);
        assert_eq!(feed.fill(&mut block), 0);
        assert_eq!((block, speaker.n_played(), speaker.n_waiting()), ([0.0; 10], 10, 0));
        assert_eq!(speaker.play(&[0.2; 4]).unwrap(), 4);
        assert_eq!(feed.fill(&mut block), 4);
        assert_eq!(speaker.n_missed(), 6);
        assert_eq!((speaker.n_queued(), speaker.n_done()), (104, 104));
        drop(feed);
        assert!(speaker.play(&[]).unwrap_err().to_string().contains("is gone"));
    }
}
