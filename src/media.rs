//! `Pcm` and `Frame`: the two values that cross the device edge.

use crate::error::Error;
use crate::error::Result;

/// Largest picture side that is accepted, in pixels.
pub const FRAME_SIDE_PX_MAX: u32 = 65_536;
/// Largest picture that is accepted, in pixels (width times height).
pub const FRAME_AREA_PX_MAX: u64 = 256 << 20;

/// Lowest sample rate that is accepted.
pub const RATE_HZ_MIN: u32 = 1_000;
/// Highest sample rate that is accepted.
pub const RATE_HZ_MAX: u32 = 768_000;

/// Mono sound as 32-bit floats, nominally in [-1, 1].
#[derive(Clone, Default)]
pub struct Pcm {
    /// Samples, one channel.
    pub samples: Vec<f32>,
    /// Samples per second.
    pub rate_hz: u32,
    /// When the first sample was captured, on the source's own clock; 0 for files.
    pub captured_at_ns: u64,
}

impl Pcm {
    /// Returns the length in seconds.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.rate_hz.max(1))
    }
}

impl std::fmt::Debug for Pcm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pcm {{ {} samples, {} Hz }}", self.samples.len(), self.rate_hz)
    }
}

/// One picture: 8-bit RGB, row-major from the top left, no padding.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    /// When it was captured, on the source's own clock; 0 for files.
    pub captured_at_ns: u64,
}

impl Frame {
    /// Creates a picture from `rgb`, which holds `3 * width * height` bytes.
    ///
    /// # Errors
    /// `Input` if a side is zero, a limit is exceeded or the byte count differs.
    pub fn new(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self> {
        check_size(width, height)?;
        let expected = 3 * u64::from(width) * u64::from(height);
        if rgb.len() as u64 != expected {
            return Err(Error::input(format!(
                "picture of {width}x{height} has {} bytes, expected {expected}",
                rgb.len()
            )));
        }
        Ok(Self { width, height, rgb, captured_at_ns: 0 })
    }

    /// Returns the width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Returns the height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Returns the pixels: R, G, B, row by row.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame {{ {}x{} }}", self.width, self.height)
    }
}

/// Checks picture sides against the limits, before any pixel is decoded.
///
/// # Errors
/// `Input` if a side is zero or a limit is exceeded.
pub fn check_size(width: u32, height: u32) -> Result<()> {
    if width == 0 || height == 0 {
        return Err(Error::input(format!("picture of {width}x{height} has no pixels")));
    }
    let area = u64::from(width) * u64::from(height);
    if width > FRAME_SIDE_PX_MAX || height > FRAME_SIDE_PX_MAX || area > FRAME_AREA_PX_MAX {
        return Err(Error::input(format!(
            "picture of {width}x{height} is too large; at most {FRAME_SIDE_PX_MAX} pixels a side \
             and {FRAME_AREA_PX_MAX} pixels in all are read"
        )));
    }
    Ok(())
}

/// Checks a sample rate against the limits.
///
/// # Errors
/// `Input` if it is too low or too high.
pub fn check_rate(rate_hz: u32) -> Result<()> {
    if !(RATE_HZ_MIN..=RATE_HZ_MAX).contains(&rate_hz) {
        return Err(Error::input(format!(
            "sound has {rate_hz} samples a second, expected {RATE_HZ_MIN} to {RATE_HZ_MAX}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        assert!(Frame::new(2, 1, vec![0; 6]).is_ok());
        assert!(Frame::new(0, 1, vec![]).is_err());
        assert!(Frame::new(2, 2, vec![0; 6]).is_err());
        assert!(check_size(70_000, 1).is_err());
        assert!(check_size(30_000, 30_000).is_err());
    }
}
