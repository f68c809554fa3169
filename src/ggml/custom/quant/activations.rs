//! Rows of activations as 8-bit integers, 32 of them with one scale.
//!
//! In: rows of f32. Out: blocks of `M` rows, with the sums that a weight's offset needs.
//! Invariant: a row's bytes, scales and sums depend on that row alone.

/// Values that share one scale.
pub(super) const BLOCK: usize = 32;
/// Largest magnitude of an activation.
pub(super) const BYTE_MAX: f32 = 127.0;

/// One block of `M` rows of activations.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Block<const M: usize> {
    pub(super) bytes: [[i8; BLOCK]; M],
    /// Sums of bytes: of the first 16 and the last 16 in every other four from the first on, then
    /// of the first 16 and the last 16 in the other fours.
    pub(super) sums: [[i16; 4]; M],
    pub(super) scales: [f32; M],
}

impl<const M: usize> Block<M> {
    pub(super) const EMPTY: Self =
        Self { bytes: [[0; BLOCK]; M], sums: [[0; 4]; M], scales: [0.0; M] };
}

/// Rounds row `index` of `M` to 8 bits, 32 values to a block.
pub(super) fn quantize<const M: usize>(row: &[f32], index: usize, blocks: &mut [Block<M>]) {
    assert!(index < M && row.len() == blocks.len() * BLOCK, "whole blocks");
    #[cfg(target_arch = "x86_64")]
    let round = if super::avx512::is_available() { super::avx512::round } else { round };
    for (values, block) in row.as_chunks::<BLOCK>().0.iter().zip(blocks) {
        block.scales[index] = round(values, &mut block.bytes[index]);
        let mut sums = [0; 4];
        for (j, byte) in block.bytes[index].iter().enumerate() {
            sums[j / 4 % 2 * 2 + j / 16] += i16::from(*byte);
        }
        block.sums[index] = sums;
    }
}

/// Writes values in units of what is returned.
fn round(values: &[f32; BLOCK], bytes: &mut [i8; BLOCK]) -> f32 {
    let most = values.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
    let times = if most > 0.0 { BYTE_MAX / most } else { 0.0 };
    for (byte, value) in bytes.iter_mut().zip(values) {
        *byte = (value * times).round_ties_even() as i8;
    }
    most / BYTE_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_equals_the_portable_one_and_sums_are_of_the_bytes() {
        for step in [0.0, 0.3, 7.0] {
            let values: [f32; BLOCK] = std::array::from_fn(|i| (i as f32 * step).sin() * 3.0);
            let (mut bytes, mut blocks) = ([0; BLOCK], [Block::<2>::EMPTY]);
            quantize(&values, 1, &mut blocks);
            assert_eq!(round(&values, &mut bytes), blocks[0].scales[1]);
            assert_eq!(bytes, blocks[0].bytes[1]);
            let whole: i16 = bytes.iter().map(|b| i16::from(*b)).sum();
            assert_eq!(blocks[0].sums[1].iter().sum::<i16>(), whole);
            let last: i16 = bytes[28..].iter().chain(&bytes[20..24]).map(|b| i16::from(*b)).sum();
            assert_eq!(blocks[0].sums[1][3], last);
        }
        let mut zeros = [Block::<1>::EMPTY];
        quantize(&[0.0; BLOCK], 0, &mut zeros);
        assert_eq!((zeros[0].scales[0], zeros[0].bytes[0]), (0.0, [0; BLOCK]));
    }
}
