//! Eight rows of 4-bit weights by up to sixteen rows of activations.
//!
//! In: Q4_0 weights as the file has them or packed by eight rows; activations as 8-bit integers
//! with one scale for 32. Out: sums in f32.
//! Source: block layouts of `ggml-common.h` and `repack.cpp` of llama-cpp-sys-2 0.1.161.
//! Invariant: a sum's bits depend on its two rows alone: not on the layout, nor on how many rows
//! are computed together.

use crate::ggml::tensor::DType;
use crate::ggml::tensor::dequantize_into;

/// Rows of a weight that are multiplied together.
pub(super) const GROUP: usize = 8;
/// Values that share one scale.
pub(super) const BLOCK: usize = 32;
/// Bytes of a block of one row: a scale in half precision, and two values a byte.
const BLOCK_BYTES: usize = 18;
/// What is taken away from a stored value.
const ZERO: i32 = 8;
/// Largest magnitude of an activation.
const BYTE_MAX: f32 = 127.0;

/// How eight rows of a weight lie in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    /// One row after the other.
    Rows,
    /// Blocks of eight rows together: scales, then eight bytes of each row in turn.
    Packed,
}

/// One block of `M` rows of activations.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Block<const M: usize> {
    bytes: [[i8; BLOCK]; M],
    /// What the products begin with, for each half of eight bytes: `ZERO` was not taken away.
    starts: [[i32; 2]; M],
    scales: [f32; M],
}

impl<const M: usize> Block<M> {
    pub(super) const EMPTY: Self =
        Self { bytes: [[0; BLOCK]; M], starts: [[0; 2]; M], scales: [0.0; M] };
}

/// Returns whether this processor does it faster than ggml's own kernels.
pub(in crate::ggml) fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_available() {
        return true;
    }
    false
}

/// Rounds row `index` of `M` to 8 bits, 32 values to a block.
pub(super) fn quantize<const M: usize>(row: &[f32], index: usize, blocks: &mut [Block<M>]) {
    assert!(index < M && row.len() == blocks.len() * BLOCK, "whole blocks");
    #[cfg(target_arch = "x86_64")]
    let round = if avx512::is_available() { avx512::round } else { round };
    for (values, block) in row.as_chunks::<BLOCK>().0.iter().zip(blocks) {
        block.scales[index] = round(values, &mut block.bytes[index]);
        let mut starts = [0; 2];
        for (j, byte) in block.bytes[index].iter().enumerate() {
            starts[j / 4 % 2] -= ZERO * i32::from(*byte);
        }
        block.starts[index] = starts;
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

/// Multiplies the eight rows of `weight` with `M` rows, which gives `out[row of M][row of 8]`.
pub(super) fn product<const M: usize>(
    weight: &[u8],
    layout: Layout,
    blocks: &[Block<M>],
    out: &mut [[f32; GROUP]; M],
) {
    assert!(weight.len() == blocks.len() * BLOCK_BYTES * GROUP, "eight whole rows");
    #[cfg(target_arch = "x86_64")]
    if avx512::is_available() {
        return avx512::product(weight, layout, blocks, out);
    }
    portable(weight, layout, blocks, out);
}

/// [`product`] on any processor.
fn portable<const M: usize>(
    weight: &[u8],
    layout: Layout,
    blocks: &[Block<M>],
    out: &mut [[f32; GROUP]; M],
) {
    let mut sums = [[[0.0; 2]; GROUP]; M];
    for (b, block) in blocks.iter().enumerate() {
        for row in 0..GROUP {
            let (codes, scale) = codes(weight, layout, (row, b), blocks.len());
            for (m, sums) in sums.iter_mut().enumerate() {
                let mut whole = block.starts[m];
                for (j, (code, byte)) in codes.iter().zip(&block.bytes[m]).enumerate() {
                    whole[j / 4 % 2] += i32::from(*code) * i32::from(*byte);
                }
                for (sum, whole) in sums[row].iter_mut().zip(whole) {
                    *sum = (whole as f32).mul_add(scale * block.scales[m], *sum);
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(&sums) {
        *out = sums.map(|[low, high]| low + high);
    }
}

/// Returns the stored values of one block of one row of eight, and its scale.
fn codes(
    weight: &[u8],
    layout: Layout,
    (row, b): (usize, usize),
    n_blocks: usize,
) -> ([u8; BLOCK], f32) {
    let half = |at: usize| {
        let mut value = [0.0];
        let read = dequantize_into(DType::F16, &weight[at..at + 2], &mut value);
        read.expect("two bytes are one number");
        value[0]
    };
    let rows = |j: usize| weight[(row * n_blocks + b) * BLOCK_BYTES + 2 + j];
    let group = b * BLOCK_BYTES * GROUP;
    let packed = |j: usize| weight[group + 2 * GROUP + j / 8 * 64 + row * 8 + j % 8] ^ 0x88;
    let (bytes, scale): ([u8; BLOCK / 2], f32) = match layout {
        Layout::Rows => (std::array::from_fn(rows), half((row * n_blocks + b) * BLOCK_BYTES)),
        Layout::Packed => (std::array::from_fn(packed), half(group + 2 * row)),
    };
    (std::array::from_fn(|j| bytes[j % 16] >> (j / 16 * 4) & 15), scale)
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::asm;
    use std::arch::x86_64::__m128i;
    use std::arch::x86_64::__m512;
    use std::arch::x86_64::__m512i;
    use std::arch::x86_64::_MM_HINT_T0;
    use std::arch::x86_64::_mm_loadu_si128;
    use std::arch::x86_64::_mm_prefetch;
    use std::arch::x86_64::_mm_storeu_si128;
    use std::arch::x86_64::_mm256_cvtph_ps;
    use std::arch::x86_64::_mm512_abs_ps;
    use std::arch::x86_64::_mm512_and_si512;
    use std::arch::x86_64::_mm512_castps256_ps512;
    use std::arch::x86_64::_mm512_castsi128_si512;
    use std::arch::x86_64::_mm512_cvtepi32_ps;
    use std::arch::x86_64::_mm512_cvtps_epi32;
    use std::arch::x86_64::_mm512_cvtsepi32_epi8;
    use std::arch::x86_64::_mm512_fmadd_ps;
    use std::arch::x86_64::_mm512_inserti32x4;
    use std::arch::x86_64::_mm512_loadu_ps;
    use std::arch::x86_64::_mm512_loadu_si512;
    use std::arch::x86_64::_mm512_max_ps;
    use std::arch::x86_64::_mm512_mul_ps;
    use std::arch::x86_64::_mm512_permutex2var_epi64;
    use std::arch::x86_64::_mm512_permutexvar_ps;
    use std::arch::x86_64::_mm512_reduce_max_ps;
    use std::arch::x86_64::_mm512_set1_epi8;
    use std::arch::x86_64::_mm512_set1_epi64;
    use std::arch::x86_64::_mm512_set1_ps;
    use std::arch::x86_64::_mm512_setr_epi32;
    use std::arch::x86_64::_mm512_setr_epi64;
    use std::arch::x86_64::_mm512_setzero_ps;
    use std::arch::x86_64::_mm512_srli_epi16;
    use std::arch::x86_64::_mm512_storeu_ps;
    use std::arch::x86_64::_mm512_xor_si512;

    use super::BLOCK;
    use super::BLOCK_BYTES;
    use super::BYTE_MAX;
    use super::Block;
    use super::GROUP;
    use super::Layout;

    /// Bytes of a line of the processor's caches.
    const LINE: usize = 64;

    /// Returns whether the processor has what this module needs.
    pub(super) fn is_available() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("f16c")
    }

    pub(super) fn round(values: &[f32; BLOCK], bytes: &mut [i8; BLOCK]) -> f32 {
        // SAFETY: this function is only handed out where the processor has AVX-512.
        unsafe { round_in_registers(values, bytes) }
    }

    pub(super) fn product<const M: usize>(
        weight: &[u8],
        layout: Layout,
        blocks: &[Block<M>],
        out: &mut [[f32; GROUP]; M],
    ) {
        assert!(weight.len() == blocks.len() * BLOCK_BYTES * GROUP, "eight whole rows");
        // SAFETY: only called where the processor has AVX-512 with VNNI; the weight has as many
        // blocks as the activations, see above.
        unsafe {
            match layout {
                Layout::Rows => tile::<M, false>(weight.as_ptr(), blocks, out),
                Layout::Packed => tile::<M, true>(weight.as_ptr(), blocks, out),
            }
        }
    }

    /// Writes values in units of what is returned.
    #[target_feature(enable = "avx512f")]
    fn round_in_registers(values: &[f32; BLOCK], bytes: &mut [i8; BLOCK]) -> f32 {
        // SAFETY: there are two registers of values and of bytes.
        unsafe {
            let low = _mm512_loadu_ps(values.as_ptr());
            let high = _mm512_loadu_ps(values.as_ptr().add(16));
            let most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
            let times = if most > 0.0 { BYTE_MAX / most } else { 0.0 };
            for (i, part) in [low, high].into_iter().enumerate() {
                let whole = _mm512_cvtps_epi32(_mm512_mul_ps(part, _mm512_set1_ps(times)));
                let at = bytes.as_mut_ptr().add(16 * i).cast::<__m128i>();
                _mm_storeu_si128(at, _mm512_cvtsepi32_epi8(whole));
            }
            most / BYTE_MAX
        }
    }

    /// # Safety
    /// There are eight rows of `blocks.len()` blocks at `weight`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
    unsafe fn tile<const M: usize, const PACKED: bool>(
        weight: *const u8,
        blocks: &[Block<M>],
        out: &mut [[f32; GROUP]; M],
    ) {
        let row_bytes = blocks.len() * BLOCK_BYTES;
        let mut sums = [_mm512_setzero_ps(); M];
        for (b, block) in blocks.iter().enumerate() {
            // What follows these rows will be wanted next; asking beyond the end does nothing.
            let ahead = weight.wrapping_add(GROUP * (row_bytes + b * BLOCK_BYTES));
            for line in [0, LINE, 2 * LINE] {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line).cast());
            }
            // SAFETY: by the caller's promise block `b` of all rows is there.
            let (codes, scale) = unsafe {
                match PACKED {
                    true => packed(weight.add(b * BLOCK_BYTES * GROUP)),
                    false => rows(weight.add(b * BLOCK_BYTES), row_bytes),
                }
            };
            for (m, sum) in sums.iter_mut().enumerate() {
                let words = block.bytes[m].as_chunks::<8>().0;
                let word =
                    |i: usize| _mm512_set1_epi64(i64::from_ne_bytes(words[i].map(|v| v as u8)));
                let [low, high] = block.starts[m];
                let mut whole = _mm512_set1_epi64(i64::from(high) << 32 | i64::from(low as u32));
                add_fours(&mut whole, codes[0], word(0));
                add_fours(&mut whole, codes[1], word(2));
                add_fours(&mut whole, codes[2], word(1));
                add_fours(&mut whole, codes[3], word(3));
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(block.scales[m]));
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), scale, *sum);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            let mut halves = [0.0; 2 * GROUP];
            // SAFETY: there is room for one register.
            unsafe { _mm512_storeu_ps(halves.as_mut_ptr(), sum) };
            *out = std::array::from_fn(|row| halves[2 * row] + halves[2 * row + 1]);
        }
    }

    /// Adds the products of four unsigned by four signed bytes.
    ///
    /// Written as the instruction: the compiler splits the intrinsic into slower ones.
    #[target_feature(enable = "avx512f,avx512vnni")]
    #[inline]
    fn add_fours(sum: &mut __m512i, codes: __m512i, bytes: __m512i) {
        // SAFETY: the instruction only computes on its registers.
        unsafe {
            asm!(
                "vpdpbusd {0}, {1}, {2}",
                inout(zmm_reg) *sum,
                in(zmm_reg) codes,
                in(zmm_reg) bytes,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
    }

    /// Loads one block of eight rows: values 0, 16, 8 and 24 onwards, eight of each, and scales.
    ///
    /// # Safety
    /// Eight rows of a block are readable, `row_bytes` apart.
    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    #[inline]
    unsafe fn rows(block: *const u8, row_bytes: usize) -> ([__m512i; 4], __m512) {
        // SAFETY: by the caller's promise.
        let (scales, low, high) = unsafe {
            let row = |r: usize| block.add(r * row_bytes);
            let scale = |r: usize| row(r).cast::<u16>().read_unaligned();
            let scales: [u16; GROUP] = std::array::from_fn(scale);
            let bytes = |r: usize| _mm_loadu_si128(row(r).add(2).cast());
            (scales, four(bytes(0), bytes(1), bytes(2), bytes(3)), {
                four(bytes(4), bytes(5), bytes(6), bytes(7))
            })
        };
        let even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
        let odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
        let first = _mm512_permutex2var_epi64(low, even, high);
        let second = _mm512_permutex2var_epi64(low, odd, high);
        (split(first, second), spread(&scales))
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn four(a: __m128i, b: __m128i, c: __m128i, d: __m128i) -> __m512i {
        let ab = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
        _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(ab, c), d)
    }

    /// As [`rows`], from the packed layout.
    ///
    /// # Safety
    /// A packed block is readable.
    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    #[inline]
    unsafe fn packed(block: *const u8) -> ([__m512i; 4], __m512) {
        // SAFETY: by the caller's promise.
        let (scales, first, second) = unsafe {
            let at = block.add(2 * GROUP);
            (
                block.cast::<[u16; GROUP]>().read_unaligned(),
                _mm512_loadu_si512(at.cast()),
                _mm512_loadu_si512(at.add(LINE).cast()),
            )
        };
        // The packed layout has the highest bit of each value turned.
        let turned = _mm512_set1_epi8(0x88_u8 as i8);
        let (first, second) = (_mm512_xor_si512(first, turned), _mm512_xor_si512(second, turned));
        (split(first, second), spread(&scales))
    }

    /// Splits bytes into their low and high values.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn split(first: __m512i, second: __m512i) -> [__m512i; 4] {
        let low = _mm512_set1_epi8(0x0f);
        let high = |v| _mm512_and_si512(_mm512_srli_epi16::<4>(v), low);
        [_mm512_and_si512(first, low), high(first), _mm512_and_si512(second, low), high(second)]
    }

    /// Returns each scale twice.
    #[target_feature(enable = "avx512f,f16c")]
    #[inline]
    fn spread(scales: &[u16; GROUP]) -> __m512 {
        // SAFETY: eight half-precision numbers fill the register.
        let scales = unsafe { _mm256_cvtph_ps(_mm_loadu_si128(scales.as_ptr().cast())) };
        let twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(scales))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::DType;
    use crate::ggml::pack_rows;
    use crate::ggml::quantize as quantize_weight;

    fn wave(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin() * 3.0 + (i as f32 * 0.01).cos()).collect()
    }

    fn rounded<const M: usize>(rows: &[f32], k: usize) -> Vec<Block<M>> {
        let mut blocks = vec![Block::EMPTY; k / BLOCK];
        for (i, row) in rows.chunks_exact(k).enumerate() {
            quantize(row, i, &mut blocks);
        }
        blocks
    }

    #[test]
    fn fast_sums_equal_the_portable_ones_bit_for_bit() {
        let k = 9 * BLOCK;
        let weight = quantize_weight(DType::Q4_0, &wave(GROUP * k, 0.731), k).unwrap();
        let x = rounded::<4>(&wave(4 * k, 0.377), k);
        let (mut fast, mut slow) = ([[0.0; GROUP]; 4], [[0.0; GROUP]; 4]);
        product(&weight, Layout::Rows, &x, &mut fast);
        portable(&weight, Layout::Rows, &x, &mut slow);
        assert_eq!(fast, slow);
        assert!(fast.as_flattened().iter().any(|v| v.abs() > 1.0));
    }

    #[test]
    fn rounding_equals_the_portable_one() {
        for step in [0.0, 0.3, 7.0] {
            let values: [f32; BLOCK] = wave(BLOCK, step).try_into().unwrap();
            let (mut bytes, blocks) = ([0; BLOCK], rounded::<1>(&values, BLOCK));
            assert_eq!(round(&values, &mut bytes), blocks[0].scales[0]);
            assert_eq!(bytes, blocks[0].bytes[0]);
        }
        let zeros = rounded::<1>(&[0.0; BLOCK], BLOCK);
        assert_eq!((zeros[0].scales[0], zeros[0].bytes[0]), (0.0, [0; BLOCK]));
    }

    #[test]
    fn packed_weights_give_the_same_bits() {
        let (k, n) = (8 * BLOCK, 64);
        let weight = quantize_weight(DType::Q4_0, &wave(n * k, 0.731), k).unwrap();
        let Some(packed) = pack_rows(DType::Q4_0, k, n, &weight).unwrap() else {
            return assert!(!is_fast(), "a fast processor has a packed layout");
        };
        if !is_fast() {
            return assert_eq!(packed.len(), weight.len());
        }
        let (one, size) = (rounded::<1>(&wave(k, 0.377), k), weight.len() / n * GROUP);
        for (rows, packed) in weight.chunks(size).zip(packed.chunks(size)) {
            let (mut a, mut b, mut c) = ([[0.0; GROUP]; 1], [[0.0; GROUP]; 1], [[0.0; GROUP]; 1]);
            product(rows, Layout::Rows, &one, &mut a);
            product(packed, Layout::Packed, &one, &mut b);
            portable(packed, Layout::Packed, &one, &mut c);
            assert_eq!(a, b);
            assert_eq!(a, c);
        }
    }
}
