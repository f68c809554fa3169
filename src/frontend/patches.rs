//! A picture cut into the patches that the vision encoder takes.
//! In: `Frame` whose sides are multiples of 48. Out: `Patches` `[768, n]`.
//! Source: transformers 5.23.0 `models/gemma4/image_processing_pil_gemma4.py`.

use std::fmt;

use crate::error::Error;
use crate::error::Result;
use crate::frontend::pixels;
use crate::media::Frame;

/// Pixels on a side of a patch.
pub const PATCH_SIDE_PX: usize = 16;
/// Values of a patch: 16 rows of 16 pixels of R, G, B.
pub const PATCH_VALUES: usize = PATCH_SIDE_PX * PATCH_SIDE_PX * 3;
/// Patches on a side of what becomes one soft token.
pub const POOL_SIDE_PATCHES: usize = 3;

/// Patches of one picture, row by row from the top left.
#[derive(Clone, PartialEq)]
pub struct Patches {
    /// [`PATCH_VALUES`] values in [0, 1] per patch; row, then column, then channel (fastest).
    pub data: Vec<f32>,
    /// Patches in a row.
    pub n_x: usize,
    /// Rows of patches.
    pub n_y: usize,
}

impl fmt::Debug for Patches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patches {{ {}x{} }}", self.n_x, self.n_y)
    }
}

impl Patches {
    /// Cuts a picture whose sides are multiples of 48, as `pixels::resize` leaves it.
    ///
    /// # Errors
    /// `Input` if a side is not a multiple of 48.
    pub fn new(frame: &Frame) -> Result<Self> {
        let (width, height) = (frame.width(), frame.height());
        let side = pixels::SOFT_TOKEN_SIDE_PX;
        if !width.is_multiple_of(side) || !height.is_multiple_of(side) {
            return Err(Error::input(format!(
                "picture of {width}x{height} cannot be cut into patches, expected sides that are \
                 multiples of {side}; resize it first"
            )));
        }
        let shares: [f32; 256] = std::array::from_fn(|value| (value as f64 * (1.0 / 255.0)) as f32);
        let (n_x, n_y) = (width as usize / PATCH_SIDE_PX, height as usize / PATCH_SIDE_PX);
        let row_bytes = width as usize * 3;
        let mut data = Vec::with_capacity(frame.rgb().len());
        for rows in frame.rgb().chunks_exact(row_bytes * PATCH_SIDE_PX) {
            for x in 0..n_x {
                for row in rows.chunks_exact(row_bytes) {
                    let pixels = &row[x * PATCH_SIDE_PX * 3..(x + 1) * PATCH_SIDE_PX * 3];
                    data.extend(pixels.iter().map(|&value| shares[usize::from(value)]));
                }
            }
        }
        Ok(Self { data, n_x, n_y })
    }

    /// Resizes a picture to at most `budget` soft tokens and cuts it.
    ///
    /// # Errors
    /// `Input` if the budget is not one of `pixels::TOKEN_BUDGETS` or the picture is too large.
    pub fn from_frame(frame: &Frame, budget: u32) -> Result<Self> {
        let (width, height) = pixels::target_size(frame.width(), frame.height(), budget)?;
        Self::new(&pixels::resize(frame, width, height)?)
    }

    /// Returns the number of patches.
    pub fn n(&self) -> usize {
        self.n_x * self.n_y
    }

    /// Returns columns and rows of soft tokens.
    pub fn soft_token_grid(&self) -> (usize, usize) {
        (self.n_x / POOL_SIDE_PATCHES, self.n_y / POOL_SIDE_PATCHES)
    }

    /// Returns the number of soft tokens that the patches become.
    pub fn n_soft_tokens(&self) -> usize {
        let (columns, rows) = self.soft_token_grid();
        columns * rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::random::Random;

    #[test]
    fn values_lie_where_the_encoder_looks_for_them() {
        let mut random = Random::from_env();
        let (width, height) = (144, 96);
        let rgb: Vec<u8> = (0..width * height * 3).map(|_| random.below(256) as u8).collect();
        let frame = Frame::new(width, height, rgb).unwrap();
        let patches = Patches::new(&frame).unwrap();
        assert_eq!((patches.n_x, patches.n_y, patches.n()), (9, 6, 54));
        assert_eq!((patches.soft_token_grid(), patches.n_soft_tokens()), ((3, 2), 6));
        assert_eq!(patches.data.len(), 54 * PATCH_VALUES);
        for (i, found) in patches.data.iter().enumerate() {
            let (patch, value) = (i / PATCH_VALUES, i % PATCH_VALUES);
            let (y, x, c) = (value / 48, value / 3 % 16, value % 3);
            let (y, x) = (patch / 9 * 16 + y, patch % 9 * 16 + x);
            let byte = frame.rgb()[(y * width as usize + x) * 3 + c];
            assert_eq!(*found, f32::from(byte) / 255.0, "{i}, {random:?}");
        }
    }

    #[test]
    fn white_is_one_and_black_is_zero() {
        let white = Patches::new(&Frame::new(48, 48, vec![255; 48 * 48 * 3]).unwrap()).unwrap();
        assert!(white.data.iter().all(|&v| v == 1.0));
        let black = Patches::new(&Frame::new(48, 48, vec![0; 48 * 48 * 3]).unwrap()).unwrap();
        assert!(black.data.iter().all(|&v| v == 0.0));
    }

    #[test]
    fn other_sides_are_refused() {
        let frame = Frame::new(48, 50, vec![0; 48 * 50 * 3]).unwrap();
        let message = Patches::new(&frame).unwrap_err().to_string();
        assert!(message.contains("48x50") && message.contains("multiples of 48"), "{message}");
    }

    #[test]
    fn any_picture_fits_its_budget() {
        let mut random = Random::from_env();
        for _ in 0..40 {
            let (width, height) = (1 + random.below(300) as u32, 1 + random.below(300) as u32);
            let rgb = vec![7; (width * height * 3) as usize];
            let frame = Frame::new(width, height, rgb).unwrap();
            let patches = Patches::from_frame(&frame, 70).unwrap();
            assert!((1..=70).contains(&patches.n_soft_tokens()), "{frame:?}, {random:?}");
            assert!(patches.data.iter().all(|&v| v == 7.0f32 / 255.0));
        }
    }
}
