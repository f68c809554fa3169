//! Echo cancellation: what a speaker plays is taken out of what a microphone hears.
//! In: `Pcm` that was played and `Pcm` that was heard, as they come. Out: `Pcm` at 16 kHz.
//! Source: WebRTC's AEC3, in the port of the package `aec3`.
//! Invariant: nothing that was heard is lost; what was played is forgotten once it cannot be an
//! echo, so both queues are bounded. Devices that are late do not move one sound against the
//! other: what is played must never come behind its echo, or no echo is ever found again.

use std::collections::VecDeque;

use aec3::nodes::audio::AudioFormat;
use aec3::pipelines::linear;
use aec3::pipelines::linear::LinearPipeline;

use crate::error::Error;
use crate::error::Result;
use crate::frontend::resample::Resampler;
use crate::media::Pcm;
use crate::units::SAMPLE_RATE_HZ;

/// Sound that is cleaned at a time: 10 ms.
const FRAME_SAMPLES: usize = SAMPLE_RATE_HZ as usize / 100;
/// Longest that what was heard waits to be told what was played meanwhile: 200 ms.
const WAIT_SAMPLES_MAX: usize = 20 * FRAME_SAMPLES;
/// Most that waits of what was played, as while the microphone is late: 1 s.
const LEAD_SAMPLES_MAX: usize = 100 * FRAME_SAMPLES;
/// Time in which both devices are in step at least once, late or not: 500 ms.
const WINDOW_SAMPLES: usize = 50 * FRAME_SAMPLES;

/// Sound at any rate on its way to frames at 16 kHz.
#[derive(Default)]
struct Queue {
    resampler: Option<Resampler>,
    samples: VecDeque<f32>,
}

impl Queue {
    fn push(&mut self, pcm: &Pcm) -> Result<()> {
        if self.resampler.as_ref().is_some_and(|r| r.rate_hz() != pcm.rate_hz)
            && let Some(mut old) = self.resampler.take()
        {
            self.samples.extend(old.finish()?);
        }
        let resampler = match &mut self.resampler {
            Some(resampler) => resampler,
            none => none.insert(Resampler::new(pcm.rate_hz)?),
        };
        self.samples.extend(resampler.push(&pcm.samples)?);
        Ok(())
    }

    /// Returns the next frame; what is not there is silence.
    fn frame(&mut self) -> [f32; FRAME_SAMPLES] {
        let mut frame = [0.0; FRAME_SAMPLES];
        let n = self.samples.len().min(FRAME_SAMPLES);
        frame.iter_mut().zip(self.samples.drain(..n)).for_each(|(to, from)| *to = from);
        frame
    }
}

/// How well both devices were in step in the present window.
#[derive(Clone, Copy)]
struct Pace {
    n_heard: usize,
    /// Least and most samples by which what was played was ahead; negative if it was behind.
    least: isize,
    most: isize,
    is_played: bool,
    is_late: bool,
}

impl Default for Pace {
    fn default() -> Self {
        let (least, most) = (isize::MAX, isize::MIN);
        Self { n_heard: 0, least, most, is_played: false, is_late: false }
    }
}

/// Takes what a speaker plays out of what a microphone hears.
pub struct EchoCanceller {
    canceller: LinearPipeline,
    played: Queue,
    heard: Queue,
    pace: Pace,
    /// Whether a speaker plays at all; if not, nothing waits for it.
    is_played: bool,
    /// Samples of silence in place of what was played, which is late.
    n_stood_in: usize,
}

impl EchoCanceller {
    /// Creates a canceller that has heard nothing.
    ///
    /// # Errors
    /// `Internal` if it cannot be set up.
    pub fn new() -> Result<Self> {
        let format = AudioFormat::ten_ms(SAMPLE_RATE_HZ, 1);
        let canceller = linear::builder(format, format)
            .enable_noise_suppression(false)
            .enable_gain_controller2(false)
            .build()
            .map_err(|e| Error::internal(format!("echo cancellation: {e}")))?;
        let (played, heard, pace) = (Queue::default(), Queue::default(), Pace::default());
        Ok(Self { canceller, played, heard, pace, is_played: false, n_stood_in: 0 })
    }

    /// Takes in what was played, silence included, before what was heard at the same time.
    ///
    /// # Errors
    /// `Input` if a sample is not finite or the rate is out of range.
    pub fn play(&mut self, pcm: &Pcm) -> Result<()> {
        self.played.push(pcm)?;
        (self.is_played, self.pace.is_played) = (true, true);
        let lead = self.played.samples.len().saturating_sub(self.heard.samples.len());
        // Silence stood in for the first of it.
        let n_late = lead.min(self.n_stood_in);
        self.n_stood_in -= n_late;
        let n_old = if lead - n_late > LEAD_SAMPLES_MAX { lead } else { n_late };
        self.played.samples.drain(..n_old);
        Ok(())
    }

    /// Takes in what was heard and returns what is left of it without echo: whole frames of 10 ms
    /// at 16 kHz, at most 200 ms later.
    ///
    /// # Errors
    /// As for [`play`](Self::play).
    pub fn hear(&mut self, pcm: &Pcm) -> Result<Pcm> {
        self.heard.push(pcm)?;
        let mut samples = Vec::new();
        while self.has_frame() {
            self.clean(&mut samples)?;
        }
        self.keep_up(&mut samples)?;
        Ok(Pcm { samples, rate_hz: SAMPLE_RATE_HZ, captured_at_ns: pcm.captured_at_ns })
    }

    fn has_frame(&self) -> bool {
        let (n_heard, n_played) = (self.heard.samples.len(), self.played.samples.len());
        let waits = self.is_played && n_heard <= WAIT_SAMPLES_MAX;
        n_heard >= FRAME_SAMPLES && (n_played >= FRAME_SAMPLES || !waits)
    }

    /// Cleans the next frame; what was not played yet is silence.
    fn clean(&mut self, samples: &mut Vec<f32>) -> Result<()> {
        let n_missing = FRAME_SAMPLES.saturating_sub(self.played.samples.len());
        if self.is_played && n_missing > 0 {
            self.n_stood_in += n_missing;
            self.pace.is_late = true;
        }
        let failed = |e| Error::internal(format!("echo cancellation: {e}"));
        self.canceller.handle_render_frame(&self.played.frame()).map_err(failed)?;
        let mut frame = self.heard.frame();
        let dirty = frame;
        self.canceller.process_capture_frame(&dirty, &mut frame).map_err(failed)?;
        samples.extend(frame);
        self.pace.n_heard += FRAME_SAMPLES;
        Ok(())
    }

    /// Lets neither sound wait for the other all the time.
    fn keep_up(&mut self, samples: &mut Vec<f32>) -> Result<()> {
        let lead = self.played.samples.len() as isize - self.heard.samples.len() as isize;
        self.pace.least = self.pace.least.min(lead);
        self.pace.most = self.pace.most.max(lead);
        if self.pace.n_heard < WINDOW_SAMPLES {
            return Ok(());
        }
        let Pace { least, most, is_played, is_late, .. } = self.pace;
        if least >= FRAME_SAMPLES as isize {
            self.played.samples.drain(..least as usize);
        }
        for _ in 0..most.min(0).unsigned_abs() / FRAME_SAMPLES {
            self.clean(samples)?;
        }
        self.is_played = is_played;
        if !is_late {
            self.n_stood_in = 0;
        }
        self.pace = Pace::default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::random::Random;

    const SECOND: usize = SAMPLE_RATE_HZ as usize;
    /// Paths from speaker to microphone: samples later, and how loud.
    const ROOM: [(usize, f32); 4] = [(0, 0.5), (37, 0.25), (210, -0.15), (800, 0.08)];

    /// Returns something like a voice: bursts of noise through a slowly changing filter.
    fn voice(random: &mut Random, n: usize) -> Vec<f32> {
        let (mut last, phase) = (0.0, random.bipolar());
        let sample = |i: usize| {
            let syllable = (i as f32 / 3_200.0 + 4.0 * phase).sin().max(0.0);
            last = 0.7 * last + 0.15 * random.bipolar();
            last * syllable
        };
        (0..n).map(sample).collect()
    }

    fn echo(played: &[f32], delay: usize) -> Vec<f32> {
        let at = |i: usize, later: usize| i.checked_sub(delay + later).map_or(0.0, |i| played[i]);
        (0..played.len()).map(|i| ROOM.iter().map(|&(n, gain)| gain * at(i, n)).sum()).collect()
    }

    fn pcm(samples: &[f32]) -> Pcm {
        Pcm { samples: samples.to_vec(), rate_hz: SAMPLE_RATE_HZ, captured_at_ns: 0 }
    }

    fn clean(played: &[f32], heard: &[f32], packet: usize) -> Vec<f32> {
        let mut canceller = EchoCanceller::new().expect("it can be set up");
        let packets = played.chunks(packet).zip(heard.chunks(packet));
        let mut left = Vec::new();
        for (played, heard) in packets {
            canceller.play(&pcm(played)).expect("finite");
            left.extend(canceller.hear(&pcm(heard)).expect("finite").samples);
        }
        left
    }

    fn db(a: &[f32], b: &[f32]) -> f32 {
        let energy = |x: &[f32]| x.iter().map(|s| s * s).sum::<f32>().max(1e-12);
        10.0 * (energy(a) / energy(b)).log10()
    }

    #[test]
    fn an_echo_goes_and_the_voice_of_the_user_stays() {
        let mut random = Random::from_env();
        let played = voice(&mut random, 10 * SECOND);
        for delay_ms in [20, 120, 240] {
            let echo = echo(&played, delay_ms * SECOND / 1_000);
            let left = clean(&played, &echo, FRAME_SAMPLES);
            let settled = 3 * SECOND..left.len();
            let less_db = db(&echo[settled.clone()], &left[settled]);
            assert!(less_db > 25.0, "{delay_ms} ms: {less_db:.1} dB less");
            let mut user = voice(&mut random, 2 * SECOND);
            user.splice(..0, vec![0.0; 7 * SECOND]);
            user.resize(played.len(), 0.0);
            let both: Vec<f32> = echo.iter().zip(&user).map(|(a, b)| a + b).collect();
            let left = clean(&played, &both, FRAME_SAMPLES);
            let spoken = 7 * SECOND..9 * SECOND;
            let kept_db = db(&left[spoken.clone()], &user[spoken]);
            assert!(kept_db.abs() < 6.0, "{delay_ms} ms: the voice is {kept_db:.1} dB louder");
        }
    }

    #[test]
    fn packets_of_any_length_give_the_same() {
        let played = voice(&mut Random::from_env(), 2 * SECOND);
        let heard = echo(&played, 1_000);
        let frames = clean(&played, &heard, FRAME_SAMPLES);
        assert_eq!(frames.len(), 2 * SECOND);
        assert_eq!(clean(&played, &heard, 3 * FRAME_SAMPLES), frames);
        assert_eq!(clean(&played, &heard, 333)[..], frames[..]);
    }

    #[test]
    fn both_queues_are_bounded_and_nothing_heard_is_lost() {
        let mut canceller = EchoCanceller::new().expect("it can be set up");
        let sound = voice(&mut Random::from_env(), 10 * SECOND);
        canceller.play(&pcm(&sound)).expect("finite");
        assert_eq!(canceller.played.samples.len(), 0);
        let mut n_left = 0;
        for packet in sound.chunks(480) {
            n_left += canceller.hear(&pcm(packet)).expect("finite").samples.len();
            assert!(canceller.heard.samples.len() <= WAIT_SAMPLES_MAX + FRAME_SAMPLES);
        }
        assert_eq!(n_left + canceller.heard.samples.len(), sound.len());
        let other = Pcm { samples: vec![0.1; 4_800], rate_hz: 48_000, captured_at_ns: 0 };
        assert!(canceller.hear(&other).is_ok());
        let wrong = Pcm { samples: vec![f32::NAN], ..other };
        assert!(canceller.hear(&wrong).is_err());
    }

    /// What becomes of the beginning of the sixth second of a device's sound.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Trouble {
        /// It comes late, all at once.
        Late,
        /// It never comes.
        Lost,
    }

    /// Returns what was heard by the clock of the microphone, and what is left of it, when one
    /// device is in trouble for so many ticks of 10 ms.
    fn troubled(
        [played, heard]: [&[f32]; 2],
        n_ticks: [usize; 2],
        trouble: Trouble,
    ) -> [Vec<f32>; 2] {
        let mut canceller = EchoCanceller::new().expect("it can be set up");
        let mut waiting = [Vec::new(), Vec::new()];
        let [mut all, mut left] = [Vec::new(), Vec::new()];
        for tick in 0..played.len() / FRAME_SAMPLES {
            let range = tick * FRAME_SAMPLES..(tick + 1) * FRAME_SAMPLES;
            let has = n_ticks.map(|n| !(500..500 + n).contains(&tick));
            for ((waiting, sound), has) in waiting.iter_mut().zip([played, heard]).zip(has) {
                if has || trouble == Trouble::Late {
                    waiting.extend_from_slice(&sound[range.clone()]);
                }
            }
            if has[0] {
                canceller.play(&pcm(&std::mem::take(&mut waiting[0]))).expect("finite");
            }
            if has[1] {
                let heard = std::mem::take(&mut waiting[1]);
                left.extend(canceller.hear(&pcm(&heard)).expect("finite").samples);
                all.extend(heard);
            }
        }
        [all, left]
    }

    #[test]
    fn no_echo_comes_back_when_a_device_is_late_or_loses_sound() {
        let played = voice(&mut Random::from_env(), 12 * SECOND);
        for delay_ms in [20, 120] {
            let heard = echo(&played, delay_ms * SECOND / 1_000);
            for n in [5, 12, 20, 40, 90] {
                for (n_ticks, trouble) in [
                    ([n, 0], Trouble::Late),
                    ([0, n], Trouble::Late),
                    ([n, 0], Trouble::Lost),
                    ([0, n], Trouble::Lost),
                ] {
                    let [all, left] = troubled([&played, &heard], n_ticks, trouble);
                    // What was only late goes on as before; else the echo is found anew.
                    let is_as_before = trouble == Trouble::Late && n < 50;
                    let n_settle = if is_as_before { SECOND } else { 3 * SECOND };
                    let after = 5 * SECOND + n_settle..left.len();
                    let less_db = db(&all[after.clone()], &left[after]);
                    let case = format!("{delay_ms} ms, ticks {n_ticks:?} {trouble:?}");
                    assert!(less_db > 25.0, "{case}: {less_db:.1} dB less");
                }
            }
        }
    }
}
