//! A sound on its way in: samples to soft tokens, while it arrives.
//!
//! In: `Pcm` at any rate. Out: soft tokens of the segment that is heard.
//! A sound longer than the encoder's 30 seconds continues in a new segment.

use std::sync::Arc;

use crate::encoder::AudioEncoder;
use crate::encoder::AudioStream;
use crate::encoder::SoftTokens;
use crate::error::Error;
use crate::error::Result;
use crate::frontend::MelStream;
use crate::frontend::Resampler;
use crate::ggml::Backend;
use crate::media::Pcm;
use crate::units::SAMPLE_RATE_HZ;

/// Longest segment, in seconds: what the encoder was trained for.
pub const SEGMENT_SECONDS_MAX: u32 = 30;
const SEGMENT_SAMPLES_MAX: usize = (SEGMENT_SECONDS_MAX * SAMPLE_RATE_HZ) as usize;

/// What arriving sound gives.
pub(super) enum Heard {
    /// More soft tokens of the open segment, in whole blocks.
    Soft(SoftTokens),
    /// The open segment ended with these, less than a block, and another begins.
    NextSegment(SoftTokens),
}

/// One sound that is being heard.
pub(super) struct Hearing {
    resampler: Option<Resampler>,
    mel: MelStream,
    stream: AudioStream,
    n_in_segment: usize,
    /// Whether the next sample begins a segment.
    closes: bool,
    n_samples: u64,
}

impl Hearing {
    pub(super) fn new(encoder: &Arc<AudioEncoder>, backend: &Backend) -> Result<Self> {
        Ok(Self {
            resampler: None,
            mel: MelStream::new(),
            stream: AudioStream::new(encoder, backend)?,
            n_in_segment: 0,
            closes: false,
            n_samples: 0,
        })
    }

    /// Returns the most bytes that encoding takes beside the weights.
    pub(super) fn activation_bytes(&self) -> usize {
        self.stream.activation_bytes()
    }

    /// Returns the samples at 16 kHz heard so far.
    pub(super) fn n_samples(&self) -> u64 {
        self.n_samples
    }

    /// Goes back to before the first sample, keeping the graphs.
    pub(super) fn reset(&mut self) {
        self.resampler = None;
        self.mel.reset();
        self.stream.reset();
        (self.n_in_segment, self.closes, self.n_samples) = (0, false, 0);
    }

    /// Lets the next sample begin a segment, if the open one has any.
    pub(super) fn close_segment(&mut self) {
        self.closes = self.n_in_segment > 0;
    }

    /// Takes a block of sound at any rate; all blocks of one sound have the same.
    pub(super) fn push(&mut self, pcm: &Pcm, backend: &mut Backend) -> Result<Vec<Heard>> {
        let resampler = match &mut self.resampler {
            Some(r) => r,
            none => none.insert(Resampler::new(pcm.rate_hz)?),
        };
        if resampler.rate_hz() != pcm.rate_hz {
            return Err(Error::input(format!(
                "sound changes from {} to {} Hz; begin a new one",
                resampler.rate_hz(),
                pcm.rate_hz
            )));
        }
        let samples = resampler.push(&pcm.samples)?;
        self.samples(&samples, backend)
    }

    /// Takes samples at 16 kHz.
    fn samples(&mut self, mut samples: &[f32], backend: &mut Backend) -> Result<Vec<Heard>> {
        let mut heard = Vec::new();
        while !samples.is_empty() {
            let closes = std::mem::take(&mut self.closes);
            if closes || self.n_in_segment == SEGMENT_SAMPLES_MAX {
                heard.push(Heard::NextSegment(self.stream.finish(backend)?));
                self.mel.reset();
                self.stream.reset();
                self.n_in_segment = 0;
            }
            let n = samples.len().min(SEGMENT_SAMPLES_MAX - self.n_in_segment);
            let (now, later) = samples.split_at(n);
            let mel = self.mel.push(now)?;
            let soft = self.stream.push(&mel, backend)?;
            if soft.n() > 0 {
                heard.push(Heard::Soft(soft));
            }
            self.n_in_segment += n;
            self.n_samples += n as u64;
            samples = later;
        }
        Ok(heard)
    }

    /// Ends the sound; its last soft tokens, less than a block, are for themselves.
    pub(super) fn finish(&mut self, backend: &mut Backend) -> Result<(Vec<Heard>, SoftTokens)> {
        let rest = match &mut self.resampler {
            Some(r) => r.finish()?,
            None => Vec::new(),
        };
        let heard = self.samples(&rest, backend)?;
        Ok((heard, self.stream.finish(backend)?))
    }

    /// Ends the sound on a copy: the last tokens that [`finish`](Self::finish) would give, without
    /// the resampler's tail, and the sound goes on afterwards.
    pub(super) fn guess_end(&mut self, backend: &mut Backend) -> Result<SoftTokens> {
        let state = self.stream.snapshot();
        let soft = self.stream.finish(backend);
        self.stream.restore(&state)?;
        soft
    }
}
