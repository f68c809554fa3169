//! The ear: sound at any rate becomes samples at 16 kHz, judged block by block for the machine.
//! In: `Pcm`. Out: the machine's `Action`s, and the samples that they name.
//! Invariant: only samples that the machine may still ask for are kept.

use std::collections::VecDeque;

use crate::assistant::event::Action;
use crate::assistant::event::Input;
use crate::assistant::machine::Machine;
use crate::assistant::option::TurnOptions;
use crate::error::Error;
use crate::error::Result;
use crate::frontend::Resampler;
use crate::frontend::SpeechBlock;
use crate::frontend::Vad;
use crate::frontend::vad::BLOCK_SAMPLES;
use crate::media::Pcm;
use crate::units::SAMPLE_RATE_HZ;

/// Machine, speech detector and the sound that may still be needed.
pub(super) struct Ear {
    machine: Machine,
    vad: Vad,
    resampler: Option<Resampler>,
    /// Samples from `first` on.
    samples: VecDeque<f32>,
    first: u64,
    /// Blocks that were judged but not yet told to the machine.
    blocks: VecDeque<SpeechBlock>,
    /// Samples behind the last whole block.
    n_rest: usize,
    last: SpeechBlock,
}

impl Ear {
    /// Creates an ear whose machine listens from `now_ns` on.
    ///
    /// # Errors
    /// As for [`Machine::new`].
    pub(super) fn new(options: TurnOptions, now_ns: u64) -> Result<Self> {
        let vad = Vad::new(options.vad);
        Ok(Self {
            machine: Machine::new(options, now_ns)?,
            vad,
            resampler: None,
            samples: VecDeque::new(),
            first: 0,
            blocks: VecDeque::new(),
            n_rest: 0,
            last: SpeechBlock { speech: 0.0, level_db: f32::NEG_INFINITY },
        })
    }

    /// Returns the machine.
    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Takes in sound; [`listen`](Self::listen) then tells the machine, block by block.
    ///
    /// # Errors
    /// `Input` if a sample is not finite or the rate is out of range.
    pub(super) fn push(&mut self, pcm: &Pcm) -> Result<()> {
        if self.resampler.as_ref().is_some_and(|r| r.rate_hz() != pcm.rate_hz) {
            self.flush()?;
        }
        let resampler = match &mut self.resampler {
            Some(resampler) => resampler,
            none => none.insert(Resampler::new(pcm.rate_hz)?),
        };
        let samples = resampler.push(&pcm.samples)?;
        self.judge(&samples)
    }

    /// Ends the sound at one rate; another may follow.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub(super) fn flush(&mut self) -> Result<()> {
        if let Some(mut resampler) = self.resampler.take() {
            let samples = resampler.finish()?;
            self.judge(&samples)?;
        }
        Ok(())
    }

    /// Tells the machine of the last samples, which are no whole block, when the sound ends after
    /// [`flush`](Self::flush); they are as likely speech as the block before.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub(super) fn finish(&mut self, now_ns: u64) -> Result<()> {
        debug_assert!(self.blocks.is_empty(), "the machine was told of every block");
        let n_samples = self.n_rest as u32;
        self.n_rest = 0;
        self.vad.reset();
        self.tell(now_ns, Input::Block { n_samples, speech: self.last.speech })
    }

    fn judge(&mut self, samples: &[f32]) -> Result<()> {
        let blocks = self.vad.push(samples)?;
        self.samples.extend(samples.iter().map(|s| s.clamp(-1.0, 1.0)));
        self.n_rest = self.n_rest + samples.len() - blocks.len() * BLOCK_SAMPLES;
        self.blocks.extend(blocks);
        Ok(())
    }

    /// Returns how many samples the machine may have been told of.
    pub(super) fn heard(&self) -> u64 {
        self.first + self.samples.len() as u64
    }

    /// Returns the seconds of sound that the machine was not told of.
    pub(super) fn waiting_s(&self) -> f64 {
        seconds((self.blocks.len() * BLOCK_SAMPLES + self.n_rest) as u64)
    }

    /// Tells the machine of the next block and returns whether there was one.
    ///
    /// # Errors
    /// As for [`Machine::handle`].
    pub(super) fn listen(&mut self, now_ns: u64) -> Result<bool> {
        let Some(block) = self.blocks.pop_front() else { return Ok(false) };
        self.last = block;
        let n_samples = BLOCK_SAMPLES as u32;
        self.tell(now_ns, Input::Block { n_samples, speech: block.speech })?;
        Ok(true)
    }

    /// Tells the machine of anything else that happened.
    ///
    /// # Errors
    /// As for [`Machine::handle`].
    pub(super) fn tell(&mut self, now_ns: u64, input: Input) -> Result<()> {
        self.machine.handle(now_ns, input)
    }

    /// Returns the next thing to do; what can no longer be asked for is forgotten after the last.
    pub(super) fn poll(&mut self) -> Option<Action> {
        let action = self.machine.poll();
        if action.is_none() {
            let needed = self.machine.needed_from();
            let n = needed.saturating_sub(self.first).min(self.samples.len() as u64);
            self.samples.drain(..n as usize);
            self.first += n;
        }
        action
    }

    /// Returns the samples that the machine wants to be fed.
    ///
    /// # Errors
    /// `Internal` if they were forgotten or have not come yet.
    pub(super) fn sound(&self, from: u64, to: u64) -> Result<Pcm> {
        let end = self.first + self.samples.len() as u64;
        if from < self.first || to > end || from > to {
            let have = format!("samples {} to {end} are kept", self.first);
            return Err(Error::internal(format!("samples {from} to {to} are fed, but {have}")));
        }
        let range = (from - self.first) as usize..(to - self.first) as usize;
        let samples = self.samples.range(range).copied().collect();
        Ok(Pcm { samples, rate_hz: SAMPLE_RATE_HZ, captured_at_ns: 0 })
    }
}

/// Converts a number of samples to seconds.
pub(super) fn seconds(samples: u64) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE_HZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_heard_but_not_kept() {
        let mut ear = Ear::new(TurnOptions::default(), 0).expect("defaults fit");
        for _ in 0..100 {
            let pcm = Pcm { samples: vec![0.0; 4410], rate_hz: 44_100, captured_at_ns: 0 };
            ear.push(&pcm).expect("finite");
            while ear.listen(0).expect("bounded") {
                assert!(ear.poll().is_none());
            }
        }
        ear.flush().expect("finite");
        while ear.listen(0).expect("bounded") {}
        ear.finish(0).expect("bounded");
        assert!(ear.poll().is_none());
        assert_eq!(ear.first + ear.samples.len() as u64, 160_000);
        assert!(ear.samples.len() < 16_000, "{} samples kept", ear.samples.len());
        assert!(ear.sound(0, 10).is_err());
    }

    #[test]
    fn a_change_of_rate_loses_nothing() {
        let mut ear = Ear::new(TurnOptions::default(), 0).expect("defaults fit");
        for rate_hz in [16_000, 48_000, 8_000] {
            let samples = vec![0.0; rate_hz as usize / 10];
            ear.push(&Pcm { samples, rate_hz, captured_at_ns: 0 }).expect("finite");
        }
        ear.flush().expect("finite");
        assert_eq!(ear.first + ear.samples.len() as u64, 4_800);
    }
}
