//! How likely each block of sound is speech.
//! In: samples at 16 kHz. Out: a `SpeechBlock` per 256 samples (16 ms).
//! Source: the `earshot` package, a small network with its weights inside.
//! Invariant: pushing in any chunks gives the same blocks; no clock is read.

use std::fmt;

use earshot::Detector;

use crate::error::Error;
use crate::error::Result;

/// Samples per block.
pub const BLOCK_SAMPLES: usize = 256;

/// Level below which a block is silence whatever its shape, in dB of full scale.
const SILENCE_DB: f32 = -75.0;
/// Level of a block of zeros, in dB of full scale.
const LEVEL_DB_MIN: f32 = -120.0;
/// How fast the noise floor follows a rising level, in dB per block: about 2 dB/s.
const FLOOR_RISE_DB: f32 = 0.03;
/// Share of the way that the noise floor falls towards a lower level, per block.
const FLOOR_FALL: f32 = 0.2;
/// Level above the noise floor that is as likely speech as not, in dB.
const SPEECH_OVER_FLOOR_DB: f32 = 9.0;
/// How much more level makes speech clearly likelier, in dB.
const SPEECH_SLOPE_DB: f32 = 2.0;

/// What was found in one block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpeechBlock {
    /// How likely it is speech, 0 to 1.
    pub speech: f32,
    /// Root mean square, in dB of full scale; -120 for silence.
    pub level_db: f32,
}

/// What tells speech from other sounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VadKind {
    /// A small network.
    #[default]
    Network,
    /// The level over an adaptive noise floor. It takes any lasting sound for speech at first, and
    /// a bell for a voice: a fall-back for where the network is too dear, and a check on it.
    Energy,
}

enum Judge {
    Network(Box<Detector>),
    /// Level of the background in dB, once there was a block.
    Energy(Option<f32>),
}

/// Tells speech from other sounds.
pub struct Vad {
    judge: Judge,
    blocks: Blocks,
}

impl fmt::Debug for Vad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vad {{ {} samples pending }}", self.blocks.pending.len())
    }
}

impl Default for Vad {
    fn default() -> Self {
        Self::new(VadKind::Network)
    }
}

impl Vad {
    /// Creates a detector that stands before its first sample.
    pub fn new(kind: VadKind) -> Self {
        let judge = match kind {
            VadKind::Network => Judge::Network(Box::default()),
            VadKind::Energy => Judge::Energy(None),
        };
        Self { judge, blocks: Blocks::default() }
    }

    /// Appends samples and returns the blocks they complete.
    ///
    /// # Errors
    /// `Input` if a sample is not finite; the stream is then as it was.
    pub fn push(&mut self, samples: &[f32]) -> Result<Vec<SpeechBlock>> {
        let judge = &mut self.judge;
        self.blocks.push(samples, |block, level_db| match judge {
            Judge::Network(detector) => {
                let found = detector.predict_f32(block);
                if level_db < SILENCE_DB || !found.is_finite() { 0.0 } else { found }
            }
            Judge::Energy(floor_db) => over_floor(floor_db, level_db.max(SILENCE_DB)),
        })
    }

    /// Goes back to before the first sample.
    pub fn reset(&mut self) {
        match &mut self.judge {
            Judge::Network(detector) => detector.reset(),
            Judge::Energy(floor_db) => *floor_db = None,
        }
        self.blocks.pending.clear();
    }
}

/// Moves the noise floor and returns how likely a level is speech.
fn over_floor(floor_db: &mut Option<f32>, level_db: f32) -> f32 {
    let floor = floor_db.unwrap_or(level_db);
    let moved = if level_db < floor {
        floor + FLOOR_FALL * (level_db - floor)
    } else {
        (floor + FLOOR_RISE_DB).min(level_db)
    };
    *floor_db = Some(moved);
    let over = (level_db - moved - SPEECH_OVER_FLOOR_DB) / SPEECH_SLOPE_DB;
    1.0 / (1.0 + (-over).exp())
}

/// Cuts samples into blocks.
#[derive(Default)]
struct Blocks {
    pending: Vec<f32>,
}

impl Blocks {
    /// Judges each block that `samples` complete, clipped to [-1, 1].
    fn push(
        &mut self,
        samples: &[f32],
        mut judge: impl FnMut(&[f32], f32) -> f32,
    ) -> Result<Vec<SpeechBlock>> {
        if let Some(index) = samples.iter().position(|s| !s.is_finite()) {
            return Err(Error::input(format!(
                "sound sample {index} of {} is not a finite number",
                samples.len()
            )));
        }
        self.pending.extend(samples.iter().map(|s| s.clamp(-1.0, 1.0)));
        let found = |block: &[f32]| {
            let level_db = level_db(block);
            SpeechBlock { speech: judge(block, level_db).clamp(0.0, 1.0), level_db }
        };
        let found: Vec<_> = self.pending.chunks_exact(BLOCK_SAMPLES).map(found).collect();
        self.pending.drain(..found.len() * BLOCK_SAMPLES);
        Ok(found)
    }
}

/// Returns the root mean square in dB of full scale.
fn level_db(block: &[f32]) -> f32 {
    let power: f32 = block.iter().map(|s| s * s).sum::<f32>() / block.len().max(1) as f32;
    (10.0 * power.max(1e-12).log10()).max(LEVEL_DB_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::random::Random;

    fn noise(n: usize, gain: f32) -> Vec<f32> {
        let mut random = Random::from_env();
        (0..n).map(|_| gain * random.bipolar()).collect()
    }

    #[test]
    fn any_chunks_give_the_same_blocks() {
        let mut random = Random::from_env();
        let sound = noise(10_000, 0.3);
        let whole = Vad::default().push(&sound).unwrap();
        let by_level = Vad::new(VadKind::Energy).push(&sound).unwrap();
        assert_eq!((whole.len(), by_level.len()), (39, 39));
        let (mut vad, mut energy) = (Vad::default(), Vad::new(VadKind::Energy));
        let (mut rest, mut blocks, mut levels) = (&sound[..], Vec::new(), Vec::new());
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(1 + random.below(700.min(rest.len())));
            blocks.extend(vad.push(chunk).unwrap());
            levels.extend(energy.push(chunk).unwrap());
            rest = later;
        }
        assert!(blocks == whole && levels == by_level, "{random:?}");
        vad.reset();
        energy.reset();
        assert_eq!(vad.push(&sound).unwrap(), whole);
        assert_eq!(energy.push(&sound).unwrap(), by_level);
    }

    #[test]
    fn silence_is_no_speech() {
        for block in Vad::default().push(&[0.0; 16_000]).unwrap() {
            assert_eq!(block, SpeechBlock { speech: 0.0, level_db: LEVEL_DB_MIN });
        }
        let blocks = Vad::new(VadKind::Energy).push(&[0.0; 16_000]).unwrap();
        assert!(blocks.iter().all(|block| block.speech < 0.02), "{blocks:?}");
    }

    #[test]
    fn level_is_in_db_of_full_scale() {
        for (sound, expected) in [(1.0, 0.0), (0.1, -20.0), (0.001, -60.0), (7.0, 0.0)] {
            let blocks = Vad::default().push(&[sound; 256]).unwrap();
            assert!((blocks[0].level_db - expected).abs() < 1e-3, "{sound}: {blocks:?}");
        }
    }

    #[test]
    fn floor_follows_the_background() {
        let mut vad = Vad::new(VadKind::Energy);
        let speech = |blocks: Vec<SpeechBlock>| blocks.last().unwrap().speech;
        assert!(speech(vad.push(&noise(16_000, 0.003)).unwrap()) < 0.05);
        assert!(speech(vad.push(&noise(16_000, 0.1)).unwrap()) > 0.95);
        assert!(speech(vad.push(&noise(16_000 * 30, 0.1)).unwrap()) < 0.05);
        assert!(speech(vad.push(&noise(16_000, 0.003)).unwrap()) < 0.05);
    }

    #[test]
    fn sample_that_is_not_finite_changes_nothing() {
        let mut vad = Vad::default();
        assert!(vad.push(&[0.5, f32::NAN]).is_err());
        assert!(vad.push(&[0.0; 255]).unwrap().is_empty());
        assert_eq!(vad.push(&[f32::MAX]).unwrap().len(), 1);
    }
}
