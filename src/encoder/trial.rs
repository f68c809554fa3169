//! First use of an encoder on a GPU: a sample, compared with what the processor makes of it.
//!
//! In: how an encoder's weights are bound. Out: the encoder, on the GPU if it fits and agrees.
//! Invariant: no GPU encodes anything for a user before the whole encoder passed.

use std::sync::Arc;

use super::AudioEncoder;
use super::AudioStream;
use super::BLOCK_TOKENS;
use super::SoftTokens;
use super::VisionEncoder;
use super::sub_sample::FRAMES_PER_TOKEN;
use crate::error::Error;
use crate::error::Result;
use crate::frontend::MelFrames;
use crate::frontend::MelStream;
use crate::frontend::patches::PATCH_VALUES;
use crate::frontend::patches::Patches;
use crate::ggml::Backend;
use crate::ggml::relative_error;

/// Greatest relative error of soft tokens: rounding in every layer stays below it, faults do not.
const ERROR_MAX: f64 = 0.1;
/// Soft tokens of the sample's sound: a block, and one that looks back at it.
const SAMPLE_TOKENS: usize = BLOCK_TOKENS + BLOCK_TOKENS / 2;
/// Side of the sample's picture in patches.
const SAMPLE_PATCHES: usize = 6;

/// An encoder that a GPU can be tried with.
pub(crate) trait Trial: Sized {
    /// Returns the bytes of its weights in a GPU's memory.
    fn gpu_bytes(&self) -> u64;
    /// Encodes what is the same in every trial.
    fn sample(self: &Arc<Self>, backend: &mut Backend) -> Result<SoftTokens>;
}

impl Trial for AudioEncoder {
    fn gpu_bytes(&self) -> u64 {
        self.weights().gpu_bytes
    }

    fn sample(self: &Arc<Self>, backend: &mut Backend) -> Result<SoftTokens> {
        let mut stream = AudioStream::new(self, backend)?;
        let mel = hum(SAMPLE_TOKENS * FRAMES_PER_TOKEN)?;
        let mut tokens = stream.push(&mel, backend)?;
        tokens.append(&stream.finish(backend)?);
        Ok(tokens)
    }
}

impl Trial for VisionEncoder {
    fn gpu_bytes(&self) -> u64 {
        self.weights().gpu_bytes
    }

    fn sample(self: &Arc<Self>, backend: &mut Backend) -> Result<SoftTokens> {
        self.encode(&noise(SAMPLE_PATCHES, SAMPLE_PATCHES), backend)
    }
}

/// Binds what encodes `what` and tells where it lies: on the backend's GPU, if there is one with
/// room for it that computes what the processor does.
///
/// # Errors
/// As `bind` has them.
pub(crate) fn placed<E: Trial>(
    what: &str,
    backend: &mut Backend,
    bind: impl Fn(&Backend) -> Result<Arc<E>>,
) -> Result<Arc<E>> {
    let encoder = bind(backend)?;
    let gpu = backend.gpu_info().map(|gpu| gpu.name.clone());
    let (Some(gpu), Some(most)) = (gpu, backend.gpu_bytes_max()) else { return Ok(encoder) };
    let n_bytes = encoder.gpu_bytes();
    if n_bytes == 0 {
        log::info!("GPU {gpu} has no room or no kernels to encode {what}; the processor does");
        return Ok(encoder);
    }
    backend.set_gpu_bytes_max(0);
    let alone = bind(backend)?;
    let expected = alone.sample(backend)?;
    let verdict = encoder.sample(backend).and_then(|got| agree(&got, &expected));
    if let Err(fault) = verdict {
        // Nor is it asked again to take anything.
        log::warn!("GPU {gpu}: {fault}; the processor encodes {what}");
        return Ok(alone);
    }
    backend.set_gpu_bytes_max(most - n_bytes);
    log::info!("GPU {gpu} encodes {what}, with {} MiB of weights", n_bytes >> 20);
    Ok(encoder)
}

/// Returns `n` frames of a hum that rises and swells as a voice does: values that no sound has
/// would leave an encoder silent, and then nothing could go wrong in it.
pub(super) fn hum(n: usize) -> Result<MelFrames> {
    let sample = |i: usize| {
        let t = i as f32 / 16_000.0;
        let phase = 110.0 * t + 60.0 * t * t;
        0.4 * (phase - phase.floor() - 0.5) * (0.6 + 0.4 * (t * 25.0).sin())
    };
    let samples: Vec<f32> = (0..160 * (n + 2)).map(sample).collect();
    let mut frames = MelStream::new().push(&samples)?;
    frames.data.truncate(frames.data.len() / frames.n.max(1) * n);
    frames.n = frames.n.min(n);
    Ok(frames)
}

/// Returns patches of a picture of noise.
pub(super) fn noise(n_x: usize, n_y: usize) -> Patches {
    let value = |i: usize| 0.5 + 0.5 * ((i * i % 8191) as f32 * 0.37).sin();
    Patches { data: (0..n_x * n_y * PATCH_VALUES).map(value).collect(), n_x, n_y }
}

/// Tells whether soft tokens differ from each other, as those of an encoder that hears do.
#[cfg(test)]
pub(super) fn is_alive(tokens: &SoftTokens) -> bool {
    let mut rows = tokens.data.chunks_exact(tokens.n_embd.max(1));
    let first = rows.next();
    rows.any(|row| relative_error(row, first.unwrap_or_default()) > 0.1)
}

/// Refuses soft tokens that differ from the expected ones by more than rounding does.
fn agree(got: &SoftTokens, expected: &SoftTokens) -> Result<()> {
    let error = relative_error(&got.data, &expected.data);
    log::debug!("relative error of soft tokens: {error:.1e}");
    if got.n() == expected.n() && error <= ERROR_MAX {
        return Ok(());
    }
    Err(Error::device(format!(
        "soft tokens are wrong: relative error {error:.1e}, at most {ERROR_MAX:.0e} is expected; a \
         newer driver may help"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_soft_tokens_are_refused() {
        let tokens = |data: Vec<f32>| SoftTokens { data, n_embd: 32 };
        let values = || (0..256).map(|i| (i as f32 * 0.37).sin());
        let expected = tokens(values().collect());
        let off = |factor: f32| tokens(values().map(|v| v * factor).collect());
        assert!(agree(&expected, &expected).is_ok() && agree(&off(1.05), &expected).is_ok());
        for factor in [0.0, 0.8, -1.0, f32::NAN, f32::INFINITY] {
            assert!(agree(&off(factor), &expected).is_err(), "{factor}");
        }
        assert!(agree(&tokens(values().take(224).collect()), &expected).is_err());
    }
}
