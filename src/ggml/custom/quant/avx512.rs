//! Eight rows of quantised weights by up to sixteen rows of activations, with AVX-512 VNNI.
//!
//! In: weights as the file has them, or 4-bit ones packed by eight rows; rounded activations.
//! Out: sums in f32. A register holds eight rows: eight codes of each, whose products come out as
//! two numbers a row.
//! Invariant: the same bits as [`super::portable`].

use std::arch::asm;
use std::arch::x86_64::__m128i;
use std::arch::x86_64::__m512;
use std::arch::x86_64::__m512i;
use std::arch::x86_64::_MM_HINT_T0;
use std::arch::x86_64::_mm_prefetch;
use std::arch::x86_64::_mm_storeu_si128;
use std::arch::x86_64::_mm512_abs_ps;
use std::arch::x86_64::_mm512_cvtepi32_ps;
use std::arch::x86_64::_mm512_cvtps_epi32;
use std::arch::x86_64::_mm512_cvtsepi32_epi8;
use std::arch::x86_64::_mm512_fmadd_ps;
use std::arch::x86_64::_mm512_loadu_ps;
use std::arch::x86_64::_mm512_madd_epi16;
use std::arch::x86_64::_mm512_mask_blend_epi16;
use std::arch::x86_64::_mm512_max_ps;
use std::arch::x86_64::_mm512_mul_ps;
use std::arch::x86_64::_mm512_reduce_max_ps;
use std::arch::x86_64::_mm512_set1_epi16;
use std::arch::x86_64::_mm512_set1_epi32;
use std::arch::x86_64::_mm512_set1_epi64;
use std::arch::x86_64::_mm512_set1_ps;
use std::arch::x86_64::_mm512_setzero_ps;
use std::arch::x86_64::_mm512_setzero_si512;
use std::arch::x86_64::_mm512_slli_epi32;
use std::arch::x86_64::_mm512_storeu_ps;

use super::GROUP;
use super::Rows;
use super::activations::BLOCK;
use super::activations::BYTE_MAX;
use super::activations::Block;
use super::format::Format;
use super::format::Kind;
use super::load::Q3K;
use super::load::Q4_0;
use super::load::Q4K;
use super::load::Q5K;
use super::load::Q6K;
use super::load::Q8_0;
use super::load::TQ2_0;

/// Bytes of a line of the processor's caches.
const LINE: usize = 64;

/// Returns whether the processor has what this file needs.
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

/// See [`super::ask_for`].
#[inline]
pub(super) fn ask_for(bytes: &[u8]) {
    for line in bytes.chunks(LINE) {
        // SAFETY: every processor of this kind has the instruction, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

/// See [`super::product`].
pub(super) fn product<const M: usize>(
    weight: Rows<'_>,
    format: Format,
    blocks: &[Block<M>],
    out: &mut [[f32; GROUP]; M],
) {
    let n = format.group_bytes(blocks.len() * BLOCK);
    assert!(n == Some(weight.0.len()), "eight whole rows");
    // SAFETY: only called where the processor has AVX-512 with VNNI; the weight has as many
    // blocks as the activations, see above.
    unsafe {
        match format {
            Format::Q4_0 => tile::<Q4_0<false>, M, 1>(weight, blocks, out),
            Format::Q4_0Packed => tile::<Q4_0<true>, M, 1>(weight, blocks, out),
            Format::Q8_0 => tile::<Q8_0, M, 1>(weight, blocks, out),
            Format::TQ2_0 => tile::<TQ2_0, M, 4>(weight, blocks, out),
            Format::Q3K => tile::<Q3K, M, 4>(weight, blocks, out),
            Format::Q4K => tile::<Q4K, M, 2>(weight, blocks, out),
            Format::Q5K => tile::<Q5K, M, 2>(weight, blocks, out),
            Format::Q6K => tile::<Q6K, M, 4>(weight, blocks, out),
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

/// 32 codes of eight rows.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// Eight of each row.
    pub(super) codes: [__m512i; 4],
    /// Each row's twice.
    pub(super) scale: __m512,
    /// The minimum, or nothing.
    pub(super) minimum: __m512,
    /// How many times `scale` count the first 16 codes and the last 16, or nothing.
    pub(super) times: __m512i,
}

/// A format, read `P` parts at a time.
pub(super) trait Read<const P: usize> {
    const FORMAT: Format;
    /// How many times as large as they are codes of each part stand there.
    const TIMES: [i16; P] = [1; P];
    /// What a block has for all of its parts.
    type Head: Copy;

    /// # Safety
    /// Eight rows of a block are readable at `at`, `stride` bytes apart.
    unsafe fn head(at: *const u8, stride: usize) -> Self::Head;

    /// # Safety
    /// As for `head`; the block has more than `step * P` parts.
    unsafe fn parts(head: &Self::Head, at: *const u8, stride: usize, step: usize) -> [Part; P];
}

/// # Safety
/// There are eight rows of `tiles.len()` parts at `weight`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn tile<R: Read<P>, const M: usize, const P: usize>(
    (weight, next): Rows<'_>,
    tiles: &[Block<M>],
    out: &mut [[f32; GROUP]; M],
) {
    let (block_len, block_bytes) = const { R::FORMAT.block() };
    let n_parts = block_len / BLOCK;
    let stride = tiles.len() / n_parts * block_bytes;
    let step_bytes = if matches!(R::FORMAT, Format::Q4_0Packed) { GROUP } else { 1 } * block_bytes;
    let mut sums = [_mm512_setzero_ps(); M];
    let (weight, next) = (weight.as_ptr(), next.as_ptr());
    for (b, tiles) in tiles.chunks_exact(n_parts).enumerate() {
        let ahead = next.wrapping_add(b * GROUP * block_bytes);
        for line in (0..GROUP * block_bytes).step_by(LINE) {
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line).cast());
        }
        // SAFETY: by the caller's promise block `b` of all rows is there.
        unsafe {
            let at = weight.add(b * step_bytes);
            let head = R::head(at, stride);
            for (step, tiles) in tiles.chunks_exact(P).enumerate() {
                let parts = R::parts(&head, at, stride, step);
                for ((part, times), tile) in parts.iter().zip(R::TIMES).zip(tiles) {
                    add((R::FORMAT, times), part, tile, &mut sums);
                }
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        let mut halves = [0.0; 2 * GROUP];
        // SAFETY: there is room for one register.
        unsafe { _mm512_storeu_ps(halves.as_mut_ptr(), sum) };
        *out = std::array::from_fn(|row| halves[2 * row] + halves[2 * row + 1]);
    }
}

/// Adds the products of 32 codes.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn add<const M: usize>(
    (format, times): (Format, i16),
    part: &Part,
    tile: &Block<M>,
    sums: &mut [__m512; M],
) {
    let zero = -format.zero() * times;
    for (m, sum) in sums.iter_mut().enumerate() {
        let words = tile.bytes[m].as_chunks::<8>().0;
        let word = |i: usize| _mm512_set1_epi64(i64::from_ne_bytes(words[i].map(|v| v as u8)));
        let byte_sums = tile.sums[m].map(|v| u64::from(v as u16));
        let byte_sums = byte_sums.iter().rev().fold(0, |all, v| all << 16 | v);
        let byte_sums = _mm512_set1_epi64(byte_sums as i64);
        let [a, b, c, d] = part.codes;
        let value = match format.kind() {
            Kind::One => {
                let mut whole = _mm512_madd_epi16(byte_sums, _mm512_set1_epi16(zero));
                add_fours(&mut whole, a, word(0));
                add_fours(&mut whole, b, word(1));
                add_fours(&mut whole, c, word(2));
                add_fours(&mut whole, d, word(3));
                _mm512_mul_ps(_mm512_cvtepi32_ps(whole), part.scale)
            }
            Kind::Minimum => {
                let mut whole = _mm512_setzero_si512();
                add_fours(&mut whole, a, word(0));
                add_fours(&mut whole, b, word(1));
                add_fours(&mut whole, c, word(2));
                add_fours(&mut whole, d, word(3));
                let value = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), part.scale);
                let less = _mm512_madd_epi16(byte_sums, _mm512_set1_epi16(-1));
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(less), part.minimum, value)
            }
            Kind::Two => {
                // The first 16 codes' sum is below the last 16's in every four bytes.
                let zero = i32::from(zero);
                let mut first = _mm512_madd_epi16(byte_sums, _mm512_set1_epi32(zero & 0xffff));
                let mut last = _mm512_madd_epi16(byte_sums, _mm512_set1_epi32(zero << 16));
                add_fours(&mut first, a, word(0));
                add_fours(&mut first, b, word(1));
                add_fours(&mut last, c, word(2));
                add_fours(&mut last, d, word(3));
                // Both fit in 16 bits: eight products of at most 32 by 127.
                let both =
                    _mm512_mask_blend_epi16(0xaaaa_aaaa, first, _mm512_slli_epi32::<16>(last));
                let whole = _mm512_madd_epi16(both, part.times);
                _mm512_mul_ps(_mm512_cvtepi32_ps(whole), part.scale)
            }
        };
        *sum = _mm512_fmadd_ps(value, _mm512_set1_ps(tile.scales[m]), *sum);
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

#[cfg(test)]
mod tests {
    use crate::ggml::DType;
    use crate::ggml::custom::quant::GROUP;
    use crate::ggml::custom::quant::activations::BLOCK;
    use crate::ggml::custom::quant::activations::Block;
    use crate::ggml::custom::quant::activations::quantize;
    use crate::ggml::custom::quant::format::Format;
    use crate::ggml::custom::quant::is_fast;
    use crate::ggml::custom::quant::portable;
    use crate::ggml::custom::quant::product;
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
        let k = 3 * 256;
        let x = rounded::<4>(&wave(4 * k, 0.377), k);
        for dtype in [
            DType::Q4_0,
            DType::Q8_0,
            DType::TQ2_0,
            DType::Q3_K,
            DType::Q4_K,
            DType::Q5_K,
            DType::Q6_K,
        ] {
            let weight = quantize_weight(dtype, &wave(GROUP * k, 0.731), k).unwrap();
            let format = Format::of(dtype).unwrap();
            let (mut fast, mut slow) = ([[0.0; GROUP]; 4], [[0.0; GROUP]; 4]);
            product((&weight, &weight), format, &x, &mut fast);
            portable::product(&weight, format, &x, &mut slow);
            assert_eq!(fast, slow, "{dtype}");
            assert!(fast.as_flattened().iter().any(|v| v.abs() > 1.0), "{dtype}");
        }
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
            product((rows, rows), Format::Q4_0, &one, &mut a);
            product((packed, packed), Format::Q4_0Packed, &one, &mut b);
            portable::product(packed, Format::Q4_0Packed, &one, &mut c);
            assert_eq!(a, b);
            assert_eq!(a, c);
        }
    }
}
