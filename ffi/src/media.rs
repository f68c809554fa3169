//! Pictures and sounds of the host.
//!
//! In: pointers to pixels and samples, as the header describes them. Out: `Frame` and `Pcm`.

use culet::Frame;
use culet::Pcm;

use crate::handle;
use crate::status::Failure;

/// Most channels that are mixed down.
const CHANNELS_MAX: u32 = 32;

/// # Safety
/// `rgb` is `NULL` or points to `height` rows, `stride_bytes` apart, of `3 * width` bytes.
pub(crate) unsafe fn frame(
    rgb: *const u8,
    width: u32,
    height: u32,
    stride_bytes: usize,
) -> Result<Frame, Failure> {
    culet::media::check_size(width, height)?;
    // Sides are within 65,536 pixels here.
    let (row, n_rows) = (3 * width as usize, height as usize);
    if stride_bytes < row {
        return Err(Failure::input(format!(
            "rows of {width} pixels are {stride_bytes} bytes apart, expected at least {row}"
        )));
    }
    let size = stride_bytes.checked_mul(n_rows - 1).and_then(|b| b.checked_add(row));
    // SAFETY: the caller vouches for the rows; a length that overflows is refused.
    let bytes = unsafe { handle::slice(rgb, size.unwrap_or(usize::MAX), "rgb") }?;
    let rows = bytes.chunks(stride_bytes).flat_map(|r| &r[..row]);
    let mut packed = Vec::with_capacity(row * n_rows);
    packed.extend(rows);
    Ok(Frame::new(width, height, packed)?)
}

/// Mixes channels that lie side by side down to one.
///
/// # Safety
/// `pcm` is `NULL` or points to `n_frames * n_channels` samples.
pub(crate) unsafe fn mixed<T: Copy>(
    pcm: *const T,
    (n_frames, n_channels): (usize, u32),
    rate_hz: u32,
    to_f32: fn(T) -> f32,
) -> Result<Pcm, Failure> {
    if !(1..=CHANNELS_MAX).contains(&n_channels) {
        return Err(Failure::input(format!("{n_channels} channels, expected 1 to {CHANNELS_MAX}")));
    }
    let n_channels = n_channels as usize;
    let n = n_frames.saturating_mul(n_channels);
    // SAFETY: the caller vouches for the samples; a number beyond all is refused.
    let samples = unsafe { handle::slice(pcm, n, "pcm") }?;
    let mean = |f: &[T]| f.iter().map(|s| to_f32(*s)).sum::<f32>() / n_channels as f32;
    checked(samples.chunks_exact(n_channels).map(mean).collect(), rate_hz)
}

/// # Safety
/// `pcm` is `NULL` or points to `n` samples.
pub(crate) unsafe fn sound(pcm: *const f32, n: usize, rate_hz: u32) -> Result<Pcm, Failure> {
    // SAFETY: the caller vouches for it.
    let samples = unsafe { handle::slice(pcm, n, "pcm") }?;
    checked(samples.to_vec(), rate_hz)
}

fn checked(samples: Vec<f32>, rate_hz: u32) -> Result<Pcm, Failure> {
    culet::media::check_rate(rate_hz)?;
    if let Some(index) = samples.iter().position(|s| !s.is_finite()) {
        return Err(Failure::input(format!(
            "sample {index} of {} is not a finite number",
            samples.len()
        )));
    }
    Ok(Pcm { samples, rate_hz, captured_at_ns: 0 })
}
