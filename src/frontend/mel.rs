//! Streaming log-mel features, as the audio encoder was trained on.
//! In: samples of `Pcm` at 16 kHz. Out: `MelFrames` `[128, n]`.
//! Source: transformers 5.23.0 `models/gemma4/feature_extraction_gemma4.py`, `audio_utils.py`.
//! Invariant: pushing in any chunks gives the same bits.

use std::f64::consts::PI;
use std::fmt;
use std::sync::Arc;

use realfft::RealFftPlanner;
use realfft::RealToComplex;
use realfft::num_complex::Complex;

use crate::error::Error;
use crate::error::Result;

/// Samples per second that the features are made from.
pub const MEL_RATE_HZ: u32 = 16_000;
/// Mel bins per frame.
pub const N_MEL: usize = 128;
/// Samples from one frame to the next: 10 ms.
pub const HOP_SAMPLES: usize = 160;

const WINDOW_SAMPLES: usize = 2 * HOP_SAMPLES;
const FFT_SAMPLES: usize = 512;
const N_BIN: usize = FFT_SAMPLES / 2 + 1;
const FREQUENCY_HZ_MAX: f64 = 8000.0;
const MEL_FLOOR: f64 = 0.001;

/// Log-mel frames, one after the other.
#[derive(Clone, Default, PartialEq)]
pub struct MelFrames {
    /// `n` frames of [`N_MEL`] values each.
    pub data: Vec<f32>,
    /// Number of frames.
    pub n: usize,
}

impl fmt::Debug for MelFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MelFrames {{ {} frames }}", self.n)
    }
}

/// Returns the number of frames that `n_samples` samples complete.
///
/// A frame counts when the sample after its last one exists, so it is `floor((n - 1) / 160)`.
pub fn n_frames(n_samples: u64) -> u64 {
    n_samples.saturating_sub(1) / HOP_SAMPLES as u64
}

/// Turns 16 kHz samples into log-mel frames as they come.
///
/// Samples left over at the end (less than a hop, or exactly one) make no frame, as in the
/// reference. A clone goes on from the same sample on its own.
#[derive(Clone)]
pub struct MelStream {
    /// Samples from the start of the next frame on; the first frame starts in 160 zeros.
    pending: Vec<f32>,
    window: Vec<f32>,
    filters: Arc<[Filter]>,
    fft: Arc<dyn RealToComplex<f64>>,
    time: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    magnitude: Vec<f64>,
}

impl fmt::Debug for MelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MelStream {{ {} samples pending }}", self.pending.len())
    }
}

impl Default for MelStream {
    fn default() -> Self {
        Self::new()
    }
}

impl MelStream {
    /// Creates a stream that stands before its first sample.
    pub fn new() -> Self {
        let fft = RealFftPlanner::<f64>::new().plan_fft_forward(FFT_SAMPLES);
        Self {
            pending: vec![0.0; HOP_SAMPLES],
            window: hann_window(),
            filters: mel_filters().into(),
            time: fft.make_input_vec(),
            spectrum: fft.make_output_vec(),
            scratch: fft.make_scratch_vec(),
            magnitude: vec![0.0; N_BIN],
            fft,
        }
    }

    /// Appends samples and returns the frames they complete.
    ///
    /// # Shapes
    /// `[128, n]`
    /// # Units
    /// one frame = 160 samples = 10 ms
    /// # Errors
    /// `Input` if a sample is not finite; the stream is then as it was.
    pub fn push(&mut self, samples: &[f32]) -> Result<MelFrames> {
        if let Some(index) = samples.iter().position(|s| !s.is_finite()) {
            return Err(Error::input(format!(
                "sound sample {index} of {} is not a finite number",
                samples.len()
            )));
        }
        self.pending.extend_from_slice(samples);
        let n = self.pending.len().saturating_sub(WINDOW_SAMPLES + 1 - HOP_SAMPLES) / HOP_SAMPLES;
        let mut data = Vec::with_capacity(n * N_MEL);
        for index in 0..n {
            self.frame(index * HOP_SAMPLES, &mut data);
        }
        self.pending.drain(..n * HOP_SAMPLES);
        Ok(MelFrames { data, n })
    }

    /// Goes back to before the first sample.
    pub fn reset(&mut self) {
        self.pending.clear();
        self.pending.resize(HOP_SAMPLES, 0.0);
    }

    /// Appends to `data` the frame that starts at `start` of the pending samples.
    fn frame(&mut self, start: usize, data: &mut Vec<f32>) {
        self.time.fill(0.0);
        let samples = &self.pending[start..start + WINDOW_SAMPLES];
        for ((t, s), w) in self.time.iter_mut().zip(samples).zip(&self.window) {
            *t = f64::from(s * w);
        }
        self.fft
            .process_with_scratch(&mut self.time, &mut self.spectrum, &mut self.scratch)
            .expect("buffers were made by the plan");
        for (m, c) in self.magnitude.iter_mut().zip(&self.spectrum) {
            *m = (c.re * c.re + c.im * c.im).sqrt();
        }
        for filter in self.filters.iter() {
            let bins = &self.magnitude[filter.start..filter.start + filter.weights.len()];
            let mel: f64 = bins.iter().zip(&filter.weights).map(|(m, w)| m * w).sum();
            data.push((mel + MEL_FLOOR).ln() as f32);
        }
    }
}

/// A triangle over consecutive bins of the spectrum.
struct Filter {
    start: usize,
    weights: Vec<f64>,
}

/// Returns the periodic Hann window.
fn hann_window() -> Vec<f32> {
    (0..WINDOW_SAMPLES)
        .map(|k| (0.5 - 0.5 * (2.0 * PI * k as f64 / WINDOW_SAMPLES as f64).cos()) as f32)
        .collect()
}

/// Returns the frequencies in Hz where triangles begin, peak and end, by the HTK mel scale.
fn mel_edges_hz() -> Vec<f64> {
    let mel_max = 2595.0 * (1.0 + FREQUENCY_HZ_MAX / 700.0).log10();
    (0..N_MEL + 2)
        .map(|i| mel_max * i as f64 / (N_MEL + 1) as f64)
        .map(|mel| 700.0 * (10f64.powf(mel / 2595.0) - 1.0))
        .collect()
}

/// Returns the triangles, linear in Hz, peak 1, without the bins that weigh nothing.
fn mel_filters() -> Vec<Filter> {
    let edges = mel_edges_hz();
    let bin_hz = f64::from(MEL_RATE_HZ) / FFT_SAMPLES as f64;
    let triangle = |edge: &[f64], bin: usize| {
        let hz = bin as f64 * bin_hz;
        let up = (hz - edge[0]) / (edge[1] - edge[0]);
        let down = (edge[2] - hz) / (edge[2] - edge[1]);
        up.min(down).max(0.0)
    };
    edges
        .windows(3)
        .map(|edge| {
            let start = (0..N_BIN).find(|&bin| triangle(edge, bin) > 0.0).unwrap_or(0);
            let weights = (start..N_BIN)
                .map(|bin| triangle(edge, bin))
                .take_while(|&weight| weight > 0.0)
                .collect();
            Filter { start, weights }
        })
        .collect()
}

#[cfg(test)]
mod naive {
    use super::*;

    /// All frames of a whole sound, straight from the definition, in f64.
    pub(super) fn log_mel(samples: &[f32]) -> Vec<f64> {
        let edges = mel_edges_hz();
        let mut out = Vec::new();
        for frame in 0..n_frames(samples.len() as u64) as usize {
            let mut magnitude = [0.0; N_BIN];
            for (bin, value) in magnitude.iter_mut().enumerate() {
                let (mut re, mut im) = (0.0, 0.0);
                for k in 0..WINDOW_SAMPLES {
                    let at = (frame * HOP_SAMPLES + k) as i64 - HOP_SAMPLES as i64;
                    let x = if at < 0 { 0.0 } else { f64::from(samples[at as usize]) };
                    let w = 0.5 - 0.5 * (2.0 * PI * k as f64 / 320.0).cos();
                    let turn = 2.0 * PI * ((bin * k) % FFT_SAMPLES) as f64 / FFT_SAMPLES as f64;
                    re += x * w * turn.cos();
                    im -= x * w * turn.sin();
                }
                *value = f64::hypot(re, im);
            }
            for m in 0..N_MEL {
                let (l, c, r) = (edges[m], edges[m + 1], edges[m + 2]);
                let mut sum = 0.0;
                for (bin, value) in magnitude.iter().enumerate() {
                    let f = bin as f64 * 31.25;
                    sum += value * ((f - l) / (c - l)).min((r - f) / (r - c)).max(0.0);
                }
                out.push((sum + 0.001).ln());
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::random::Random;

    /// Largest difference to numbers that were rounded to five digits.
    const PRINTED: f32 = 1e-5;
    /// Largest difference to the same maths in another order and with unrounded products.
    const KERNEL: f64 = 2e-5;

    fn tone() -> Vec<f32> {
        (0..1600)
            .map(|n| (0.5 * (2.0 * PI * 1000.0 * f64::from(n) / 16000.0).sin()) as f32)
            .collect()
    }

    #[test]
    fn tone_gives_the_published_values() {
        let mel = MelStream::new().push(&tone()).unwrap();
        assert_eq!(mel.n, 9);
        let bins = [0, 1, 20, 43, 44, 45, 46, 60, 127];
        let first =
            [-6.90776, -0.03515, -0.35802, 2.84524, 3.01294, 3.00698, 2.81772, 0.12362, -1.32641];
        let later =
            [-6.90776, -5.72251, -6.04509, 3.12739, 3.63048, 3.60519, 3.00765, -4.94700, -6.89088];
        for (frame, expected) in [(0, first), (1, later), (5, later), (8, later)] {
            for (bin, value) in bins.iter().zip(expected) {
                let found = mel.data[frame * N_MEL + bin];
                assert!(
                    (found - value).abs() <= PRINTED,
                    "frame {frame} bin {bin}: {found} {value}"
                );
            }
        }
        for frame in mel.data.chunks(N_MEL) {
            let loudest = (0..N_MEL).max_by(|&a, &b| frame[a].total_cmp(&frame[b]));
            assert_eq!(loudest, Some(44));
        }
    }

    #[test]
    fn filters_are_as_published() {
        let filters = mel_filters();
        assert!(filters[0].weights.is_empty());
        assert_eq!((filters[44].start, filters[44].weights.len()), (31, 2));
        assert!((filters[44].weights[0] - 0.469_317_53).abs() < 1e-8);
        assert!((filters[44].weights[1] - 0.580_870_77).abs() < 1e-8);
        let edges = mel_edges_hz();
        let published = [(0, 0.0), (1, 13.8088), (5, 71.8226), (127, 7666.65), (129, 8000.0)];
        for (i, hz) in published {
            assert!((edges[i] - hz).abs() < 1e-2, "edge {i}: {}", edges[i]);
        }
    }

    #[test]
    fn frames_count_as_published() {
        let cases = [
            (0, 0),
            (1, 0),
            (160, 0),
            (161, 1),
            (320, 1),
            (321, 2),
            (640, 3),
            (641, 4),
            (8_000, 49),
            (16_000, 99),
            (80_000, 499),
            (480_000, 2999),
        ];
        for (n_samples, expected) in cases {
            let mel = MelStream::new().push(&vec![0.0; n_samples]).unwrap();
            assert_eq!((mel.n, mel.data.len()), (expected, expected * N_MEL), "{n_samples}");
            assert_eq!(n_frames(n_samples as u64), expected as u64);
            assert!(mel.data.iter().all(|v| (v + 6.907_755_4).abs() < 1e-6));
        }
    }

    #[test]
    fn fast_equals_naive() {
        let mut random = Random::from_env();
        for n_samples in [161, 700, 1601] {
            for gain in [1e-4, 0.05, 1.0, 30.0] {
                let sound: Vec<f32> = (0..n_samples).map(|_| gain * random.bipolar()).collect();
                let fast = MelStream::new().push(&sound).unwrap();
                let slow = naive::log_mel(&sound);
                assert_eq!(fast.data.len(), slow.len());
                for (i, (f, s)) in fast.data.iter().zip(&slow).enumerate() {
                    assert!((f64::from(*f) - s).abs() < KERNEL, "{i}: {f} {s}, {random:?}");
                }
            }
        }
    }

    #[test]
    fn any_chunks_give_the_same_bits() {
        let mut random = Random::from_env();
        let sound: Vec<f32> = (0..9_999).map(|_| random.bipolar()).collect();
        let whole = MelStream::new().push(&sound).unwrap();
        for longest in [1, 7, 159, 160, 161, 640, 5_000] {
            let (mut stream, mut rest, mut frames) = (MelStream::new(), &sound[..], Vec::new());
            while !rest.is_empty() {
                let (chunk, later) = rest.split_at(1 + random.below(longest.min(rest.len())));
                let mel = stream.push(chunk).unwrap();
                assert_eq!(mel.data.len(), mel.n * N_MEL);
                frames.extend(mel.data);
                rest = later;
            }
            assert!(frames == whole.data, "chunks up to {longest}, {random:?}");
        }
    }

    #[test]
    fn sample_that_is_not_finite_changes_nothing() {
        let mut stream = MelStream::new();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(stream.push(&[0.1, bad]).is_err());
        }
        let loud = stream.push(&[f32::MAX; 500]).unwrap();
        assert!(loud.data.iter().all(|v| v.is_finite()));
        stream.reset();
        assert_eq!(stream.push(&tone()).unwrap(), MelStream::new().push(&tone()).unwrap());
    }
}
