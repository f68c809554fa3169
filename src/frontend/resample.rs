//! Any sample rate to 16 kHz.
//! In: mono samples of `Pcm` at their own rate. Out: samples at 16 kHz for `MelStream` and `Vad`.
//! Source: the `rubato` package, FFT resampler, Blackman-Harris squared window.
//! Invariant: pushing in any chunks gives the same bits; 16 kHz passes through untouched.

use std::fmt;

use rubato::Fft;
use rubato::FixedSync;
use rubato::Resampler as _;
use rubato::audioadapter_buffers::direct::SequentialSlice;

use crate::error::Error;
use crate::error::Result;
use crate::media::check_rate;

/// Samples per second that come out.
pub const OUT_RATE_HZ: u32 = 16_000;

/// Least length of the blocks that are transformed, in samples of the lower rate: 20 ms at 16 kHz.
const BLOCK_SAMPLES_MIN: usize = 320;

/// Loudest sample that is transformed, in full scales: sums of louder ones could overflow.
const LOUDEST: f32 = 1e6;

/// Resamples a stream to 16 kHz.
///
/// Tones above 8 kHz are at least 120 dB down; tones up to 90 % of the lower of the two rates'
/// limits keep their level within 0.1 dB. The filter's delay is taken out, so that sample `n` of
/// the output is the input at `n / 16000` s. At common rates output comes in blocks of 20 to
/// 40 ms; an odd rate's block can be a second.
pub struct Resampler {
    out_rate_hz: u32,
    rate_hz: u32,
    /// `None` if the input has 16 kHz already.
    fft: Option<Fft<f32>>,
    /// Input that does not fill a block yet.
    pending: Vec<f32>,
    block: Vec<f32>,
    /// Output samples of the filter's delay that are still to be left out.
    n_skip: usize,
    n_in: u64,
    n_out: u64,
}

impl fmt::Debug for Resampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resampler {{ {} Hz, {} samples in }}", self.rate_hz, self.n_in)
    }
}

impl Resampler {
    /// Creates a resampler for input at `rate_hz`.
    ///
    /// # Errors
    /// `Input` if the rate is not between `media::RATE_HZ_MIN` and `media::RATE_HZ_MAX`.
    pub fn new(rate_hz: u32) -> Result<Self> {
        Self::between(rate_hz, OUT_RATE_HZ)
    }

    /// Creates a resampler to another rate, as a speaker wants it.
    ///
    /// # Errors
    /// As for [`new`](Self::new), for both rates.
    pub fn between(rate_hz: u32, out_rate_hz: u32) -> Result<Self> {
        check_rate(rate_hz)?;
        check_rate(out_rate_hz)?;
        let mut resampler = Self {
            rate_hz,
            out_rate_hz,
            fft: None,
            pending: Vec::new(),
            block: Vec::new(),
            n_skip: 0,
            n_in: 0,
            n_out: 0,
        };
        if rate_hz != out_rate_hz {
            let (rate_in, rate_out) = (rate_hz as usize, out_rate_hz as usize);
            let wanted = (BLOCK_SAMPLES_MIN * rate_in).div_ceil(rate_out).max(BLOCK_SAMPLES_MIN);
            // Blocks of an even length have a filter whose delay is a whole sample.
            let unit = 2 * rate_in / largest_divisor_of_both(rate_in, rate_out);
            let block_in = wanted.next_multiple_of(unit);
            let fft = Fft::new_custom(
                rate_in,
                rate_out,
                block_in,
                1,
                1,
                rubato::WindowFunction::BlackmanHarris2,
                FixedSync::Both,
            )
            .map_err(|e| Error::internal(format!("resampler for {rate_hz} Hz")).with_source(e))?;
            resampler.n_skip = fft.output_delay();
            resampler.block = vec![0.0; fft.output_frames_max()];
            resampler.fft = Some(fft);
        }
        Ok(resampler)
    }

    /// Returns the samples per second that go in.
    pub fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Appends samples and returns the output that they complete; where rates differ, those above
    /// a million full scales are clipped.
    ///
    /// # Errors
    /// `Input` if a sample is not finite; the stream is then as it was.
    pub fn push(&mut self, samples: &[f32]) -> Result<Vec<f32>> {
        if let Some(index) = samples.iter().position(|s| !s.is_finite()) {
            return Err(Error::input(format!(
                "sound sample {index} of {} is not a finite number",
                samples.len()
            )));
        }
        self.n_in += samples.len() as u64;
        if self.fft.is_none() {
            self.n_out = self.n_in;
            return Ok(samples.to_vec());
        }
        self.pending.extend(samples.iter().map(|s| s.clamp(-LOUDEST, LOUDEST)));
        self.drain()
    }

    /// Returns the rest of the output and goes back to before the first sample.
    ///
    /// With it the output has `round(n * 16000 / rate)` samples for `n` that went in.
    ///
    /// # Errors
    /// `Internal` if the resampler breaks an invariant.
    pub fn finish(&mut self) -> Result<Vec<f32>> {
        let mut rest = Vec::new();
        if self.fft.is_some() {
            let rate = u64::from(self.rate_hz);
            let n_all = (2 * self.n_in * u64::from(self.out_rate_hz) + rate) / (2 * rate);
            while self.n_out < n_all {
                let block_in = self.block_in();
                self.pending.resize(block_in, 0.0);
                rest.extend(self.drain()?);
            }
            let n_excess = usize::try_from(self.n_out - n_all).unwrap_or(usize::MAX);
            rest.truncate(rest.len().saturating_sub(n_excess));
        }
        self.reset();
        Ok(rest)
    }

    /// Goes back to before the first sample.
    pub fn reset(&mut self) {
        self.pending.clear();
        (self.n_in, self.n_out) = (0, 0);
        if let Some(fft) = &mut self.fft {
            fft.reset();
            self.n_skip = fft.output_delay();
        }
    }

    fn block_in(&self) -> usize {
        self.fft.as_ref().map_or(0, |fft| fft.input_frames_next())
    }

    /// Resamples the whole blocks among the pending samples.
    fn drain(&mut self) -> Result<Vec<f32>> {
        let (block_in, mut start, mut out) = (self.block_in(), 0, Vec::new());
        let Some(fft) = &mut self.fft else { return Ok(out) };
        let broken = |e: String| Error::internal(format!("resampler: {e}"));
        while self.pending.len() - start >= block_in {
            let samples = &self.pending[start..start + block_in];
            let n_block = self.block.len();
            let from =
                SequentialSlice::new(samples, 1, block_in).map_err(|e| broken(e.to_string()))?;
            let mut to = SequentialSlice::new_mut(&mut self.block, 1, n_block)
                .map_err(|e| broken(e.to_string()))?;
            let (_, n) =
                fft.process_into_buffer(&from, &mut to, None).map_err(|e| broken(e.to_string()))?;
            let n_left_out = n.min(self.n_skip);
            self.n_skip -= n_left_out;
            out.extend_from_slice(&self.block[n_left_out..n]);
            start += block_in;
        }
        self.pending.drain(..start);
        self.n_out += out.len() as u64;
        Ok(out)
    }
}

fn largest_divisor_of_both(a: usize, b: usize) -> usize {
    if b == 0 { a } else { largest_divisor_of_both(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::random::Random;
    use crate::media::RATE_HZ_MAX;
    use crate::media::RATE_HZ_MIN;
    use std::f64::consts::TAU;

    const RATES_HZ: [u32; 11] =
        [8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000];

    fn tone(hz: f64, rate_hz: u32, n: usize) -> Vec<f32> {
        (0..n).map(|i| (0.5 * (TAU * hz * i as f64 / f64::from(rate_hz)).sin()) as f32).collect()
    }

    fn resampled(rate_hz: u32, samples: &[f32]) -> Vec<f32> {
        let mut resampler = Resampler::new(rate_hz).unwrap();
        let mut out = resampler.push(samples).unwrap();
        out.extend(resampler.finish().unwrap());
        out
    }

    /// Root mean square of the inner part, relative to that of the tone, in dB.
    fn level_db(samples: &[f32]) -> f64 {
        let inner = &samples[samples.len() / 4..samples.len() * 3 / 4];
        let power: f64 = inner.iter().map(|&s| f64::from(s).powi(2)).sum();
        10.0 * (power / inner.len() as f64 / 0.125).log10()
    }

    #[test]
    fn tones_are_kept_below_and_removed_above_the_limit() {
        let mut failures = Vec::new();
        for rate_hz in RATES_HZ {
            let limit_hz = f64::from(rate_hz.min(OUT_RATE_HZ)) / 2.0;
            for share in [0.01, 0.1, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 1.0, 1.01, 1.1, 1.5, 2.3, 5.9] {
                let hz = limit_hz * share;
                if hz >= 0.499 * f64::from(rate_hz) {
                    continue;
                }
                let db = level_db(&resampled(rate_hz, &tone(hz, rate_hz, rate_hz as usize)));
                if share <= 0.9 && db.abs() > 0.1 || share >= 1.0 && db > -120.0 {
                    failures.push(format!("{rate_hz} Hz: tone of {hz} Hz has {db:.2} dB"));
                }
            }
        }
        assert!(failures.is_empty(), "{failures:#?}");
    }

    #[test]
    fn output_is_the_input_at_the_same_time() {
        for rate_hz in RATES_HZ {
            let out = resampled(rate_hz, &tone(440.0, rate_hz, rate_hz as usize));
            let expected = tone(440.0, OUT_RATE_HZ, OUT_RATE_HZ as usize);
            assert_eq!(out.len(), expected.len(), "{rate_hz}");
            let inner = 1_000..out.len() - 1_000;
            for (i, (a, b)) in out[inner.clone()].iter().zip(&expected[inner]).enumerate() {
                assert!((a - b).abs() < 1e-5, "{rate_hz} Hz, sample {i}: {a} {b}");
            }
        }
    }

    #[test]
    fn length_is_rounded_at_every_rate() {
        let mut random = Random::from_env();
        let odd = [1_001, 7_919, 15_999, 16_001, 44_101, 65_537];
        for rate_hz in RATES_HZ.into_iter().chain(odd) {
            for n in [0, 1, 2, 159, 1_000, random.below(50_000)] {
                let out = resampled(rate_hz, &vec![0.25; n]);
                let expected = (n as f64 * 16_000.0 / f64::from(rate_hz)).round() as usize;
                assert_eq!(out.len(), expected, "{n} samples at {rate_hz} Hz, {random:?}");
            }
        }
    }

    #[test]
    fn any_chunks_give_the_same_bits() {
        let mut random = Random::from_env();
        for rate_hz in [8_000, 16_000, 44_100, 48_000, 15_999] {
            let sound: Vec<f32> = (0..30_000).map(|_| random.bipolar()).collect();
            let whole = resampled(rate_hz, &sound);
            let mut resampler = Resampler::new(rate_hz).unwrap();
            for longest in [1, 160, 441, 2_000] {
                let (mut rest, mut out) = (&sound[..], Vec::new());
                while !rest.is_empty() {
                    let n = if longest == 1 { 1 } else { 1 + random.below(longest) };
                    let (chunk, later) = rest.split_at(n.min(rest.len()));
                    out.extend(resampler.push(chunk).unwrap());
                    rest = later;
                }
                out.extend(resampler.finish().unwrap());
                assert!(out == whole, "{rate_hz} Hz, chunks up to {longest}, {random:?}");
            }
        }
    }

    #[test]
    fn wanted_rate_passes_through() {
        let mut random = Random::from_env();
        let sound: Vec<f32> = (0..5_000).map(|_| random.bipolar()).collect();
        assert!(resampled(OUT_RATE_HZ, &sound) == sound);
    }

    #[test]
    fn the_loudest_samples_give_finite_ones() {
        for loudest in [f32::MAX, -f32::MAX, 1e30] {
            let (mut resampler, mut sound) =
                (Resampler::new(44_100).unwrap(), tone(440.0, 44_100, 9_000));
            sound[4_000..5_000].fill(loudest);
            let mut out = resampler.push(&sound).unwrap();
            out.extend(resampler.finish().unwrap());
            assert!(out.iter().all(|s| s.is_finite()) && out.iter().any(|s| s.abs() > 1e5));
        }
    }

    #[test]
    fn limits_are_kept() {
        for rate_hz in [0, RATE_HZ_MIN - 1, RATE_HZ_MAX + 1, u32::MAX] {
            assert!(Resampler::new(rate_hz).is_err(), "{rate_hz}");
        }
        for rate_hz in [RATE_HZ_MIN, RATE_HZ_MAX - 1, RATE_HZ_MAX] {
            assert_eq!(resampled(rate_hz, &[0.1; 7]).len(), 7 * 16_000 / rate_hz as usize);
        }
        let mut resampler = Resampler::new(48_000).unwrap();
        assert!(resampler.push(&[0.0, f32::NAN]).is_err());
        assert!(resampler.finish().unwrap().is_empty());
    }
}
