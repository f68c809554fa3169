//! Eight rows of quantised weights by up to sixteen rows of activations, with AVX-512 VNNI.
//!
//! In: weights as the file has them, or 4-bit ones packed by eight rows; rounded activations.
//! Out: sums in f32. A register holds eight rows: eight codes of each, whose products come out as
//! two numbers a row.
//! Invariant: the same bits as [`super::portable`].

use std::arch::asm;
use std::arch::x86_64::__m512;
use std::arch::x86_64::__m512i;
use std::arch::x86_64::_mm256_set_m128i;
use std::arch::x86_64::_mm256_storeu_si256;
use std::arch::x86_64::_mm512_abs_ps;
use std::arch::x86_64::_mm512_add_epi32;
use std::arch::x86_64::_mm512_castsi256_si512;
use std::arch::x86_64::_mm512_castsi512_ps;
use std::arch::x86_64::_mm512_castsi512_si256;
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
use std::arch::x86_64::_mm512_set1_epi8;
use std::arch::x86_64::_mm512_set1_ps;
use std::arch::x86_64::_mm512_setzero_ps;
use std::arch::x86_64::_mm512_setzero_si512;
use std::arch::x86_64::_mm512_slli_epi32;
use std::arch::x86_64::_mm512_storeu_ps;

use super::FEW;
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
use crate::ggml::custom::ask;
use crate::ggml::custom::ask::LINE;

/// Returns whether the processor has what this file needs.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("f16c")
}

/// See [`super::activations`].
pub(super) fn round(values: &[f32; BLOCK], bytes: &mut [i8; BLOCK]) -> (f32, [i32; GROUP]) {
    // SAFETY: this function is only handed out where the processor has AVX-512.
    unsafe { round_in_registers(values, bytes) }
}

/// See [`super::product`].
pub(super) fn product<const M: usize>(
    weight: Rows<'_>,
    format: Format,
    blocks: &[Block<M>],
    out: &mut [[f32; GROUP]; M],
) {
    weight.check(format, blocks.len());
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

#[target_feature(enable = "avx512f,avx512vnni")]
fn round_in_registers(values: &[f32; BLOCK], bytes: &mut [i8; BLOCK]) -> (f32, [i32; GROUP]) {
    let mut fours = [0; GROUP];
    // SAFETY: there are two registers of values, and half a one of bytes and of sums.
    unsafe {
        let low = _mm512_loadu_ps(values.as_ptr());
        let high = _mm512_loadu_ps(values.as_ptr().add(16));
        let most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
        let times = if most > 0.0 { BYTE_MAX / most } else { 0.0 };
        let [low, high] = [low, high].map(|part| {
            let whole = _mm512_cvtps_epi32(_mm512_mul_ps(part, _mm512_set1_ps(times)));
            _mm512_cvtsepi32_epi8(whole)
        });
        let rounded = _mm256_set_m128i(high, low);
        _mm256_storeu_si256(bytes.as_mut_ptr().cast(), rounded);
        let mut sums = _mm512_setzero_si512();
        add_fours(&mut sums, _mm512_set1_epi8(1), _mm512_castsi256_si512(rounded));
        _mm256_storeu_si256(fours.as_mut_ptr().cast(), _mm512_castsi512_si256(sums));
        (most / BYTE_MAX, fours)
    }
}

/// 32 codes of eight rows.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// Eight of each row.
    pub(super) codes: [__m512i; 4],
    /// Each row's scale twice, with [`Kind::Minimum`].
    pub(super) scale: __m512,
    /// How many times the first 16 codes and the last 16 count, with [`Kind::Two`]: in the high
    /// half of 16 bits each.
    pub(super) times: __m512i,
}

/// A block's minima, each row's of two parts side by side, in units of a factor.
#[derive(Clone, Copy)]
pub(super) struct Minima {
    pub(super) factor: __m512,
    pub(super) pairs: [__m512; 4],
}

/// A format, read `P` parts at a time.
///
/// Implementations must become part of the loop that calls them (`inline(always)`, which excludes
/// `target_feature`): registers handed over through memory took longer than the products.
pub(super) trait Read<const P: usize> {
    const FORMAT: Format;
    /// What a block has for all of its parts, beside its scale.
    type Head: Copy;

    /// Returns each row's scale twice, and the rest.
    ///
    /// # Safety
    /// The processor has AVX-512 with VNNI; eight rows of a block are readable at `at`, `stride`
    /// bytes apart.
    unsafe fn head(at: *const u8, stride: usize) -> (__m512, Self::Head);

    /// Returns the minima, with [`Kind::Minimum`].
    ///
    /// # Safety
    /// As for `head`.
    #[inline(always)]
    unsafe fn minima(_head: &Self::Head) -> Option<Minima> {
        None
    }

    /// # Safety
    /// As for `head`; the block has more than `step * P` parts.
    unsafe fn parts(head: &Self::Head, at: *const u8, stride: usize, step: usize) -> [Part; P];
}

/// Does something for each row of activations, one piece of code after the other: sums that a loop
/// finds by number would lie in memory.
macro_rules! for_each_row {
    ($m:ident < $n:ident $body:block) => {
        for_each_row!(@ $m $n $body 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $m:ident $n:ident $body:block $($i:literal)*) => {
        $(if $i < $n {
            const $m: usize = $i;
            $body
        })*
    };
}

/// Returns the sums of the products of 32 codes with a row of activations, in their units. A macro,
/// so that registers stay where they are.
macro_rules! products {
    ($kind:expr, $part:ident, $tile:ident, $row:ident) => {{
        let words: *const u8 = $tile.bytes[$row].as_ptr().cast();
        let starts: *const u8 = $tile.starts[$row].as_ptr().cast();
        let [a, b, c, d] = $part.codes;
        match $kind {
            Kind::One | Kind::Minimum => {
                let has_minimum = matches!($kind, Kind::Minimum);
                let zero = _mm512_setzero_si512();
                let mut whole = [if has_minimum { zero } else { everywhere::<0>(starts) }, zero];
                // There is nothing else to compute while a lone row's sum is added to.
                let other = usize::from(M == 1);
                add_fours(&mut whole[0], a, everywhere::<0>(words));
                add_fours(&mut whole[other], b, everywhere::<8>(words));
                add_fours(&mut whole[0], c, everywhere::<16>(words));
                add_fours(&mut whole[other], d, everywhere::<24>(words));
                let whole = if M == 1 { _mm512_add_epi32(whole[0], whole[1]) } else { whole[0] };
                let value = _mm512_cvtepi32_ps(whole);
                if has_minimum { _mm512_mul_ps(value, $part.scale) } else { value }
            }
            Kind::Two => {
                let (mut first, mut last) = (everywhere::<0>(starts), everywhere::<8>(starts));
                add_fours(&mut first, a, everywhere::<0>(words));
                add_fours(&mut first, b, everywhere::<8>(words));
                add_fours(&mut last, c, everywhere::<16>(words));
                add_fours(&mut last, d, everywhere::<24>(words));
                // Both fit in 16 bits: eight products of at most 32 by 127. Two of those by 2^15
                // fit in 32.
                let both =
                    _mm512_mask_blend_epi16(0xaaaa_aaaa, first, _mm512_slli_epi32::<16>(last));
                _mm512_cvtepi32_ps(_mm512_madd_epi16(both, $part.times))
            }
        }
    }};
}

/// # Safety
/// `weight` has eight rows of `tiles.len()` parts.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn tile<R: Read<P>, const M: usize, const P: usize>(
    weight: Rows<'_>,
    tiles: &[Block<M>],
    out: &mut [[f32; GROUP]; M],
) {
    let (block_len, block_bytes) = const { R::FORMAT.block() };
    // Rows packed together are one long one.
    let n_rows = if matches!(R::FORMAT, Format::Q4_0Packed) { 1 } else { GROUP };
    let step_bytes = GROUP / n_rows * block_bytes;
    let Rows { bytes, stride, ahead, early } = weight;
    let weight = bytes.as_ptr();
    let is_short = block_len == BLOCK;
    let mut sums = [_mm512_setzero_ps(); M];
    for (b, tiles) in tiles.chunks_exact(block_len / BLOCK).enumerate() {
        let at = weight.wrapping_add(b * step_bytes);
        // SAFETY: by the caller's promise block `b` of all rows is there.
        unsafe {
            let (scale, head) = R::head(at, stride);
            let mut inner = [_mm512_setzero_ps(); M];
            let n_steps = block_len / BLOCK / P;
            for (step, tiles) in tiles.chunks_exact(P).enumerate() {
                let next = |line: *const u8| {
                    ask::soon(line.wrapping_add(ahead));
                    if M <= FEW {
                        ask::early(line.wrapping_add(early));
                    }
                };
                for_lines((at, stride), (n_rows, step_bytes), b, (step, n_steps), next);
                let parts = R::parts(&head, at, stride, step);
                for (part, tile) in parts.iter().zip(tiles) {
                    for_each_row!(ROW < M {
                        let value = products!(R::FORMAT.kind(), part, tile, ROW);
                        let own = _mm512_set1_ps(tile.scales[ROW]);
                        if is_short {
                            let value = _mm512_mul_ps(value, scale);
                            sums[ROW] = _mm512_fmadd_ps(value, own, sums[ROW]);
                        } else {
                            inner[ROW] = _mm512_fmadd_ps(value, own, inner[ROW]);
                        }
                    });
                }
            }
            if !is_short {
                for_each_row!(ROW < M {
                    sums[ROW] = _mm512_fmadd_ps(inner[ROW], scale, sums[ROW]);
                });
            }
            if let Some(Minima { factor, pairs }) = R::minima(&head) {
                for_each_row!(ROW < M {
                    sums[ROW] = _mm512_fmadd_ps(minima(pairs, tiles, ROW), factor, sums[ROW]);
                });
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

/// Returns the sums of a block's minima times a row's values.
#[target_feature(enable = "avx512f")]
#[inline]
fn minima<const M: usize>([a, b, c, d]: [__m512; 4], tiles: &[Block<M>], row: usize) -> __m512 {
    let of = |pair: usize| {
        // SAFETY: a row's starts are eight bytes and more.
        let both = unsafe { everywhere::<0>(tiles[2 * pair].starts[row].as_ptr().cast()) };
        _mm512_castsi512_ps(both)
    };
    let sum = _mm512_fmadd_ps(b, of(1), _mm512_mul_ps(a, of(0)));
    _mm512_fmadd_ps(d, of(3), _mm512_fmadd_ps(c, of(2), sum))
}

/// Does something for the lines of a step's part of block `b` of so many rows: memory takes few
/// questions at once. If blocks are short, for those of several of one row after the other.
#[inline(always)]
fn for_lines(
    (at, stride): (*const u8, usize),
    (n_rows, block_bytes): (usize, usize),
    b: usize,
    (step, n_steps): (usize, usize),
    line: impl Fn(*const u8),
) {
    let n_turns = (2 * LINE / block_bytes).clamp(1, n_rows).next_power_of_two();
    let (n, turn) = (n_rows / n_turns / n_steps, b % n_turns);
    let at = at.wrapping_sub(turn * block_bytes);
    let first = (turn * n_steps + step) * n;
    for row in first..first + n {
        let at = at.wrapping_add(row.wrapping_mul(stride));
        (0..n_turns * block_bytes).step_by(LINE).for_each(|i| line(at.wrapping_add(i)));
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

/// Returns eight bytes eight times.
///
/// Written as the instruction: the compiler takes the one for floats, for which AMD's processors
/// need a place among the operations that compute.
///
/// # Safety
/// Eight bytes are readable `OFFSET` behind `at`.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn everywhere<const OFFSET: usize>(at: *const u8) -> __m512i {
    let value;
    // SAFETY: the instruction only reads eight bytes, by the caller's promise.
    unsafe {
        asm!(
            "vpbroadcastq {0}, qword ptr [{1} + {2}]",
            lateout(zmm_reg) value,
            in(reg) at,
            const OFFSET,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    value
}

#[cfg(test)]
mod tests {
    use crate::ggml::DType;
    use crate::ggml::custom::quant::GROUP;
    use crate::ggml::custom::quant::Rows;
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

    fn rounded<const M: usize>(rows: &[f32], k: usize, format: Format) -> Vec<Block<M>> {
        let mut blocks = vec![Block::EMPTY; k / BLOCK];
        for (i, row) in rows.chunks_exact(k).enumerate() {
            quantize(row, i, format, &mut blocks);
        }
        blocks
    }

    /// Multiplies `M` rows with a weight of each format, as this processor does and portably.
    fn fast_sums_equal_the_portable_ones<const M: usize>() {
        let k = 3 * 256;
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
            let x = rounded::<M>(&wave(M * k, 0.377), k, format);
            let (mut fast, mut slow) = ([[0.0; GROUP]; M], [[0.0; GROUP]; M]);
            let rows =
                Rows { bytes: &weight, stride: weight.len() / GROUP, ahead: 256, early: 512 };
            product(rows, format, &x, &mut fast);
            portable::product(rows, format, &x, &mut slow);
            assert_eq!(fast, slow, "{dtype}");
            assert!(fast.as_flattened().iter().any(|v| v.abs() > 1.0), "{dtype}");
        }
    }

    #[test]
    fn fast_sums_equal_the_portable_ones_bit_for_bit() {
        fast_sums_equal_the_portable_ones::<1>();
        fast_sums_equal_the_portable_ones::<4>();
        fast_sums_equal_the_portable_ones::<16>();
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
        let (one, size) =
            (rounded::<1>(&wave(k, 0.377), k, Format::Q4_0), weight.len() / n * GROUP);
        for (rows, packed) in weight.chunks(size).zip(packed.chunks(size)) {
            let (mut a, mut b, mut c) = ([[0.0; GROUP]; 1], [[0.0; GROUP]; 1], [[0.0; GROUP]; 1]);
            let group = |bytes| Rows { bytes, stride: size / GROUP, ahead: size, early: size };
            product(group(rows), Format::Q4_0, &one, &mut a);
            product(group(packed), Format::Q4_0Packed, &one, &mut b);
            portable::product(group(packed), Format::Q4_0Packed, &one, &mut c);
            assert_eq!(a, b);
            assert_eq!(a, c);
        }
    }
}
