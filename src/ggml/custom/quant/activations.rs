//! Rows of activations as 8-bit integers, 32 of them with one scale.
//!
//! In: rows of f32. Out: blocks of `M` rows, with what a format's zero or minimum takes away.
//! Invariant: a row's block depends on that row and the format alone.

use super::format::Format;
use super::format::Kind;

/// Values that share one scale.
pub(super) const BLOCK: usize = 32;
/// Largest magnitude of an activation.
pub(super) const BYTE_MAX: f32 = 127.0;
/// Values whose products are summed by one instruction.
const FOUR: usize = 4;

/// One block of `M` rows of activations.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Block<const M: usize> {
    pub(super) bytes: [[i8; BLOCK]; M],
    /// What products begin with, one number for every other four values and one for the others.
    /// [`Kind::One`] has one such pair, [`Kind::Two`] one for the first 16 values and one for the
    /// last 16. [`Kind::Minimum`] has the bits of the sum of all values as f32, with its sign
    /// turned, and those of the next block's; every other block has nothing.
    pub(super) starts: [[[i32; 2]; 2]; M],
    /// By [`Format::unit`].
    pub(super) scales: [f32; M],
}

impl<const M: usize> Block<M> {
    pub(super) const EMPTY: Self =
        Self { bytes: [[0; BLOCK]; M], starts: [[[0; 2]; 2]; M], scales: [0.0; M] };
}

/// Rounds row `index` of `M` to 8 bits, 32 values to a block.
pub(super) fn quantize<const M: usize>(
    row: &[f32],
    index: usize,
    format: Format,
    blocks: &mut [Block<M>],
) {
    assert!(index < M && row.len() == blocks.len() * BLOCK, "whole blocks");
    #[cfg(target_arch = "x86_64")]
    let round = if super::avx512::is_available() { super::avx512::round } else { round };
    for (b, values) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
        let (scale, fours) = round(values, &mut blocks[b].bytes[index]);
        blocks[b].scales[index] = scale / format.unit(b);
        match format.kind() {
            Kind::Minimum => {
                let sum = scale * -(fours.iter().sum::<i32>() as f32);
                blocks[b & !1].starts[index][0][b % 2] = sum.to_bits() as i32;
            }
            Kind::One | Kind::Two => blocks[b].starts[index] = starts(&fours, format, b),
        }
    }
}

/// See [`Block::starts`].
fn starts(fours: &[i32; BLOCK / FOUR], format: Format, b: usize) -> [[i32; 2]; 2] {
    let zero = -i32::from(format.zero() * format.times(b));
    let pair = |i: usize| [zero * (fours[i] + fours[i + 2]), zero * (fours[i + 1] + fours[i + 3])];
    let (first, last) = (pair(0), pair(4));
    match format.kind() {
        Kind::Two => [first, last],
        Kind::One | Kind::Minimum => [[first[0] + last[0], first[1] + last[1]], [0; 2]],
    }
}

/// Writes values in units of the first that is returned; the other is the sum of each four.
fn round(values: &[f32; BLOCK], bytes: &mut [i8; BLOCK]) -> (f32, [i32; BLOCK / FOUR]) {
    let most = values.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
    let times = if most > 0.0 { BYTE_MAX / most } else { 0.0 };
    for (byte, value) in bytes.iter_mut().zip(values) {
        *byte = (value * times).round_ties_even() as i8;
    }
    let sum = |i: usize| bytes[FOUR * i..][..FOUR].iter().map(|v| i32::from(*v)).sum();
    (most / BYTE_MAX, std::array::from_fn(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_equals_the_portable_one_and_sums_are_of_the_bytes() {
        for step in [0.0, 0.3, 7.0] {
            let values: [f32; BLOCK] = std::array::from_fn(|i| (i as f32 * step).sin() * 3.0);
            let (mut bytes, mut blocks) = ([0; BLOCK], [Block::<2>::EMPTY]);
            quantize(&values, 1, Format::Q6K, &mut blocks);
            let unit = Format::Q6K.unit(0);
            assert_eq!(round(&values, &mut bytes).0 / unit, blocks[0].scales[1]);
            assert_eq!(bytes, blocks[0].bytes[1]);
            let sum = |of: &[i8]| of.iter().map(|b| i64::from(*b)).sum::<i64>();
            let last = sum(&bytes[28..]) + sum(&bytes[20..24]);
            assert_eq!(i64::from(blocks[0].starts[1][1][1]), -32 * last);
            let low = sum(&bytes[..4]) + sum(&bytes[8..12]);
            assert_eq!(i64::from(blocks[0].starts[1][0][0]), -32 * low);
        }
        let mut zeros = [Block::<1>::EMPTY];
        quantize(&[0.0; BLOCK], 0, Format::Q4_0, &mut zeros);
        assert_eq!((zeros[0].scales[0], zeros[0].bytes[0]), (0.0, [0; BLOCK]));
    }
}
