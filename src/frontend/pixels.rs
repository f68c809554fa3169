//! Picture sides for a token budget, and antialiased bicubic resizing.
//! In: `Frame` of any sides. Out: `Frame` whose sides are multiples of 48.
//! Source: transformers 5.23.0 `models/gemma4/image_processing_pil_gemma4.py`; the resize equals
//! Pillow 13 `Image.resize(BICUBIC)` on 8-bit data, bit for bit.
//! Invariant: integers only from the weights on, so every machine gives the same bytes.

use crate::error::Error;
use crate::error::Result;
use crate::media::Frame;
use crate::media::check_size;

/// Soft tokens per picture that the encoder was trained with.
pub const TOKEN_BUDGETS: [u32; 5] = [70, 140, 280, 560, 1120];
/// Token budget where the caller names none.
pub const TOKEN_BUDGET_DEFAULT: u32 = 280;
/// Pixels on a side of what becomes one soft token: 3 x 3 patches of 16 x 16.
pub const SOFT_TOKEN_SIDE_PX: u32 = 48;

/// The cubic kernel's free parameter.
const CUBIC_A: f64 = -0.5;
/// Half the width of the cubic kernel, in pixels.
const CUBIC_SUPPORT: f64 = 2.0;
/// Bits after the binary point of a weight: a sum of 8-bit values then fits into 32 bits.
const PRECISION_BITS: u32 = 32 - 8 - 2;
const ONE: f64 = (1 << PRECISION_BITS) as f64;
/// What makes cutting off the bits round to the nearest.
const HALF: i32 = 1 << (PRECISION_BITS - 1);
/// Rows that are resized across at a time, side by side.
const N_ROW: usize = 16;
const N_CHANNEL: usize = 3;

/// Returns width and height that a picture is stretched to, for at most `budget` soft tokens.
///
/// Both are multiples of 48 and keep the aspect ratio as nearly as that allows.
///
/// # Errors
/// `Input` if the budget is not one of [`TOKEN_BUDGETS`], or a side is zero or too large.
pub fn target_size(width: u32, height: u32, budget: u32) -> Result<(u32, u32)> {
    check_size(width, height)?;
    if !TOKEN_BUDGETS.contains(&budget) {
        return Err(Error::input(format!(
            "token budget is {budget}, expected one of 70, 140, 280, 560, 1120"
        )));
    }
    let side = SOFT_TOKEN_SIDE_PX;
    let area_max = u64::from(budget) * u64::from(side * side);
    let factor = (area_max as f64 / (u64::from(width) * u64::from(height)) as f64).sqrt();
    let floored =
        |length: u32| (factor * f64::from(length) / f64::from(side)).floor() as u32 * side;
    let (mut target_width, mut target_height) = (floored(width), floored(height));
    if target_height == 0 {
        target_height = side;
        target_width = (width / height * side).min(budget * side);
    } else if target_width == 0 {
        target_width = side;
        target_height = (height / width * side).min(budget * side);
    }
    let area = u64::from(target_width) * u64::from(target_height);
    if area == 0 || area > area_max {
        return Err(Error::input(format!(
            "picture of {width}x{height} cannot be fitted into {budget} soft tokens; \
             crop it to a less extreme shape"
        )));
    }
    Ok((target_width, target_height))
}

/// Resizes a picture by antialiased bicubic interpolation; it is stretched, not cropped.
///
/// The same sides give the same pixels.
///
/// # Errors
/// `Input` if a target side is zero or too large.
pub fn resize(frame: &Frame, width: u32, height: u32) -> Result<Frame> {
    check_size(width, height)?;
    if (width, height) == (frame.width(), frame.height()) {
        return Ok(frame.clone());
    }
    let (from_width, from_height) = (frame.width() as usize, frame.height() as usize);
    let (to_width, to_height) = (width as usize, height as usize);
    let columns = Taps::new(from_width, to_width);
    let rows = Taps::new(from_height, to_height);
    // Which direction comes first shows in the last bit.
    let lost_height = i64::from(frame.height()) - i64::from(height);
    let lost_width = i64::from(frame.width()) - i64::from(width);
    let rgb = if lost_height > 0 && lost_height > 2 * lost_width {
        let middle = down(frame.rgb(), from_width * N_CHANNEL, &rows);
        across(&middle, from_width, to_width, &columns)
    } else {
        let middle = across(frame.rgb(), from_width, to_width, &columns);
        down(&middle, to_width * N_CHANNEL, &rows)
    };
    let mut resized = Frame::new(width, height, rgb)?;
    resized.captured_at_ns = frame.captured_at_ns;
    Ok(resized)
}

/// For each output pixel of one axis: the input pixels it covers and their weights.
struct Taps {
    /// First input pixel and number of them, per output pixel.
    spans: Vec<(usize, usize)>,
    /// `stride` weights per output pixel, of which the span's are used.
    weights: Vec<i32>,
    stride: usize,
}

impl Taps {
    fn new(from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let widening = scale.max(1.0);
        let support = CUBIC_SUPPORT * widening;
        let stride = support.ceil() as usize * 2 + 1;
        let (mut spans, mut weights) = (Vec::with_capacity(to), Vec::with_capacity(to * stride));
        let mut real = vec![0.0; stride];
        for i in 0..to {
            let center = scale * (i as f64 + 0.5);
            let start = ((center - support + 0.5) as i64).max(0);
            let end = ((center + support + 0.5) as i64).min(from as i64);
            let n = usize::try_from(end - start).unwrap_or(0).min(stride);
            let inverse = 1.0 / widening;
            real.fill(0.0);
            for (j, weight) in real[..n].iter_mut().enumerate() {
                *weight = cubic(((j as i64 + start) as f64 - center + 0.5) * inverse);
            }
            let sum: f64 = real[..n].iter().sum();
            let share = if sum == 0.0 { 1.0 } else { 1.0 / sum };
            weights.extend(real.iter().map(|&w| rounded(w * share * ONE)));
            spans.push((start as usize, n));
        }
        Self { spans, weights, stride }
    }

    /// Returns, per output pixel, its first input pixel and the weights from there on.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks_exact(self.stride);
        self.spans.iter().zip(weights).map(|(&(start, n), w)| (start, &w[..n]))
    }
}

/// Returns the nearest whole number; halves go away from zero.
fn rounded(x: f64) -> i32 {
    (x + 0.5f64.copysign(x)) as i32
}

/// Returns a weighted sum as a colour value.
fn value_of(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Returns the cubic convolution kernel at `x`.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((CUBIC_A + 2.0) * x - (CUBIC_A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * CUBIC_A
    } else {
        0.0
    }
}

/// Resizes all rows, from `from_width` to `to_width` pixels.
fn across(from: &[u8], from_width: usize, to_width: usize, columns: &Taps) -> Vec<u8> {
    let (from_bytes, to_bytes) = (from_width * N_CHANNEL, to_width * N_CHANNEL);
    let mut out = vec![0; from.len() / from_bytes * to_bytes];
    // Values that stand one below the other lie side by side here.
    let mut upright = vec![[0u8; N_ROW]; from_bytes];
    let blocks = from.chunks(from_bytes * N_ROW).zip(out.chunks_mut(to_bytes * N_ROW));
    for (rows, to) in blocks {
        for (r, row) in rows.chunks_exact(from_bytes).enumerate() {
            for (values, &value) in upright.iter_mut().zip(row) {
                values[r] = value;
            }
        }
        let n_rows = rows.len() / from_bytes;
        for (x, (start, weights)) in columns.iter().enumerate() {
            let mut sums = [[HALF; N_ROW]; N_CHANNEL];
            let span = &upright[start * N_CHANNEL..(start + weights.len()) * N_CHANNEL];
            for (pixel, &weight) in span.chunks_exact(N_CHANNEL).zip(weights) {
                for (sums, values) in sums.iter_mut().zip(pixel) {
                    for (sum, &value) in sums.iter_mut().zip(values) {
                        *sum += i32::from(value) * weight;
                    }
                }
            }
            for r in 0..n_rows {
                let at = r * to_bytes + x * N_CHANNEL;
                for (value, sums) in to[at..at + N_CHANNEL].iter_mut().zip(&sums) {
                    *value = value_of(sums[r]);
                }
            }
        }
    }
    out
}

/// Resizes all columns of rows that are `row_bytes` long.
fn down(from: &[u8], row_bytes: usize, rows: &Taps) -> Vec<u8> {
    let mut out = vec![0; rows.spans.len() * row_bytes];
    let mut sums = vec![0; row_bytes];
    for (row, (start, weights)) in out.chunks_exact_mut(row_bytes).zip(rows.iter()) {
        sums.fill(HALF);
        let span = &from[start * row_bytes..(start + weights.len()) * row_bytes];
        for (input, &weight) in span.chunks_exact(row_bytes).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(input) {
                *sum += i32::from(value) * weight;
            }
        }
        for (value, &sum) in row.iter_mut().zip(&sums) {
            *value = value_of(sum);
        }
    }
    out
}

#[cfg(test)]
mod naive {
    use super::*;

    /// Resizes one line of samples in real numbers, straight from the definition.
    pub(super) fn line(from: &[f64], to: usize) -> Vec<f64> {
        let scale = from.len() as f64 / to as f64;
        let widening = scale.max(1.0);
        let resized = |i: usize| {
            let center = (i as f64 + 0.5) * scale;
            let (mut sum, mut weights) = (0.0, 0.0);
            for (j, value) in from.iter().enumerate() {
                let weight = cubic((j as f64 + 0.5 - center) / widening);
                sum += weight * value;
                weights += weight;
            }
            (sum / weights).round().clamp(0.0, 255.0)
        };
        (0..to).map(resized).collect()
    }

    /// Resizes rows, then columns, with whole numbers in between.
    pub(super) fn resize(frame: &Frame, width: usize, height: usize) -> Vec<f64> {
        let (from_width, from_height) = (frame.width() as usize, frame.height() as usize);
        let mut out = vec![0.0; width * height * 3];
        for c in 0..3 {
            let value = |y: usize, x: usize| f64::from(frame.rgb()[(y * from_width + x) * 3 + c]);
            let row = |y: usize| (0..from_width).map(|x| value(y, x)).collect::<Vec<f64>>();
            let rows: Vec<_> = (0..from_height).map(|y| line(&row(y), width)).collect();
            for x in 0..width {
                let column: Vec<f64> = rows.iter().map(|row| row[x]).collect();
                for (y, value) in line(&column, height).into_iter().enumerate() {
                    out[(y * width + x) * 3 + c] = value;
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::random::Random;

    /// Rounding halves otherwise may move a value by one.
    const KERNEL: f64 = 1.0;

    #[test]
    fn sides_are_as_published() {
        let cases = [
            (500, 500, [(384, 384), (528, 528), (768, 768), (1104, 1104), (1584, 1584)]),
            (640, 480, [(432, 336), (624, 480), (912, 672), (1296, 960), (1824, 1344)]),
            (4032, 3024, [(432, 336), (624, 480), (912, 672), (1296, 960), (1824, 1344)]),
            (1920, 1080, [(528, 288), (720, 384), (1056, 576), (1488, 816), (2112, 1200)]),
            (2000, 100, [(1776, 48), (2496, 96), (3552, 144), (5040, 240), (7152, 336)]),
            (3000, 30, [(3360, 48), (5664, 48), (8016, 48), (11328, 96), (16032, 144)]),
        ];
        for (width, height, expected) in cases {
            for (budget, (to_width, to_height)) in TOKEN_BUDGETS.into_iter().zip(expected) {
                let found = target_size(width, height, budget).unwrap();
                assert_eq!(found, (to_width, to_height), "{width}x{height} at {budget}");
                let turned = target_size(height, width, budget).unwrap();
                assert_eq!(turned, (to_height, to_width), "{height}x{width} at {budget}");
            }
        }
    }

    #[test]
    fn every_shape_has_a_size_within_its_budget() {
        let mut random = Random::from_env();
        for i in 0..20_000 {
            let width = 1 + random.below(1 << (i % 17)) as u32;
            let height = 1 + random.below(1 << (i / 17 % 17)) as u32;
            for budget in TOKEN_BUDGETS {
                let Ok((w, h)) = target_size(width, height, budget) else {
                    assert!(check_size(width, height).is_err(), "{width}x{height}, {random:?}");
                    continue;
                };
                assert!(w > 0 && h > 0 && w % 48 == 0 && h % 48 == 0, "{width}x{height}");
                assert!(w / 48 * (h / 48) <= budget, "{width}x{height} at {budget}, {random:?}");
                assert!(check_size(w, h).is_ok(), "{width}x{height} at {budget}, {random:?}");
            }
        }
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for (width, height, budget) in [(0, 5, 280), (5, 0, 280), (70_000, 1, 280), (5, 5, 281)] {
            assert!(target_size(width, height, budget).is_err(), "{width}x{height} at {budget}");
        }
        let frame = Frame::new(1, 1, vec![0; 3]).unwrap();
        assert!(resize(&frame, 0, 48).is_err());
        assert!(resize(&frame, 60_000, 60_000).is_err());
    }

    #[test]
    fn fast_equals_naive() {
        let mut random = Random::from_env();
        let cases =
            [(5, 7, 13, 11), (40, 30, 9, 50), (64, 64, 16, 16), (1, 9, 48, 48), (33, 2, 7, 2)];
        for (width, height, to_width, to_height) in cases {
            let rgb = (0..width * height * 3).map(|_| random.below(256) as u8).collect();
            let frame = Frame::new(width, height, rgb).unwrap();
            let fast = resize(&frame, to_width, to_height).unwrap();
            let slow = naive::resize(&frame, to_width as usize, to_height as usize);
            for (i, (&f, s)) in fast.rgb().iter().zip(slow).enumerate() {
                assert!((f64::from(f) - s).abs() <= KERNEL, "{frame:?} {i}: {f} {s}, {random:?}");
            }
        }
    }

    #[test]
    fn same_sides_and_flat_pictures_stay_as_they_are() {
        let mut random = Random::from_env();
        let rgb = (0..48 * 96 * 3).map(|_| random.below(256) as u8).collect();
        let mut frame = Frame::new(96, 48, rgb).unwrap();
        frame.captured_at_ns = 5;
        assert!(resize(&frame, 96, 48).unwrap() == frame);
        assert_eq!(resize(&frame, 48, 48).unwrap().captured_at_ns, 5);
        for value in [0, 1, 127, 254, 255] {
            let flat = Frame::new(31, 17, vec![value; 31 * 17 * 3]).unwrap();
            let resized = resize(&flat, 96, 144).unwrap();
            assert!(resized.rgb().iter().all(|&v| v == value), "{value}");
        }
    }
}
