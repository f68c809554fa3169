//! Sound that is listened to: a file, or raw samples from stdin.
//! In: arguments. Out: blocks of `Pcm`, as they come.
//! Invariant: a file and a pipe take the same path from here on.

use std::io::Read;
use std::path::PathBuf;

use culet::Error;
use culet::Pcm;
use culet::Result;
use culet::media::RATE_HZ_MAX;
use culet::media::RATE_HZ_MIN;
use culet::source::SoundFile;

/// Blocks of a pipe in a second.
const BLOCKS_PER_SECOND: u32 = 50;
/// How a WAV file begins, which raw samples do not.
const WAV_START: &[u8] = b"RIFF";

/// Where the sound comes from.
#[derive(clap::Args)]
pub(super) struct SoundArgs {
    /// Listen to a file: wav, flac, mp3, ogg, m4a
    #[arg(long, value_name = "FILE", conflicts_with = "stdin")]
    audio: Option<PathBuf>,
    /// Listen to raw samples from stdin: 16 bit, little-endian, one channel
    #[arg(long)]
    stdin: bool,
    /// Samples per second on stdin
    #[arg(long, value_name = "HZ", default_value = "16000", value_parser = parse_rate)]
    rate: u32,
}

fn parse_rate(text: &str) -> std::result::Result<u32, String> {
    let rate = text.parse().ok().filter(|hz| (RATE_HZ_MIN..=RATE_HZ_MAX).contains(hz));
    rate.ok_or_else(|| format!("expected {RATE_HZ_MIN} to {RATE_HZ_MAX}"))
}

/// Blocks of sound until it ends.
pub(super) type Blocks = Box<dyn Iterator<Item = Result<Pcm>>>;

impl SoundArgs {
    /// Opens the file or stdin; nothing if the person named neither.
    ///
    /// # Errors
    /// As for [`SoundFile::open`].
    pub(super) fn open(&self) -> Result<Option<Blocks>> {
        match &self.audio {
            Some(path) => Ok(Some(Box::new(SoundFile::open(path)?))),
            None if self.stdin => Ok(Some(Box::new(Raw::new(self.rate)))),
            None => Ok(None),
        }
    }
}

/// Raw samples from stdin.
struct Raw {
    rate_hz: u32,
    bytes: Vec<u8>,
    /// Bytes at the start of `bytes` that are half a sample.
    n_half: usize,
    is_first: bool,
}

impl Raw {
    fn new(rate_hz: u32) -> Self {
        let n = (2 * rate_hz / BLOCKS_PER_SECOND).max(64) as usize;
        Self { rate_hz, bytes: vec![0; n], n_half: 0, is_first: true }
    }

    fn read(&mut self) -> Result<Option<Pcm>> {
        let mut n = self.n_half;
        while n < 2 || (self.is_first && n < WAV_START.len()) {
            match std::io::stdin().lock().read(&mut self.bytes[n..]) {
                Ok(0) => break,
                Ok(more) => n += more,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("stdin cannot be read").with_source(e)),
            }
        }
        if std::mem::take(&mut self.is_first) && self.bytes[..n].starts_with(WAV_START) {
            let what = "stdin begins like a wav file, expected raw samples";
            return Err(Error::input(format!("{what}; give it with --audio /dev/stdin")));
        }
        if n < 2 {
            return Ok(None);
        }
        let samples = samples(&self.bytes[..n - n % 2]);
        self.n_half = n % 2;
        self.bytes[0] = self.bytes[n - 1];
        Ok(Some(Pcm { samples, rate_hz: self.rate_hz, captured_at_ns: 0 }))
    }
}

fn samples(bytes: &[u8]) -> Vec<f32> {
    let sample = |b: &[u8]| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32_768.0;
    bytes.chunks_exact(2).map(sample).collect()
}

impl Iterator for Raw {
    type Item = Result<Pcm>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_signed_and_little_endian() {
        assert_eq!(samples(&[0, 128, 0, 64, 255, 255]), [-1.0, 0.5, -1.0 / 32_768.0]);
    }
}
