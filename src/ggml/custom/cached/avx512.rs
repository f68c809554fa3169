//! Attention of four heads over cells of a cache, with AVX-512.
//!
//! In: queries in f32 and cells as they are kept. Out: mixed values in f32.

use std::arch::x86_64::__m512;
use std::arch::x86_64::_mm_loadu_si128;
use std::arch::x86_64::_mm_storeu_ps;
use std::arch::x86_64::_mm256_loadu_si256;
use std::arch::x86_64::_mm256_set1_epi16;
use std::arch::x86_64::_mm512_add_ps;
use std::arch::x86_64::_mm512_and_si512;
use std::arch::x86_64::_mm512_castpd_ps;
use std::arch::x86_64::_mm512_castps_pd;
use std::arch::x86_64::_mm512_cvtepi8_epi32;
use std::arch::x86_64::_mm512_cvtepi32_ps;
use std::arch::x86_64::_mm512_cvtepu8_epi32;
use std::arch::x86_64::_mm512_cvtph_ps;
use std::arch::x86_64::_mm512_extractf32x4_ps;
use std::arch::x86_64::_mm512_fmadd_ps;
use std::arch::x86_64::_mm512_loadu_ps;
use std::arch::x86_64::_mm512_mul_ps;
use std::arch::x86_64::_mm512_set1_epi32;
use std::arch::x86_64::_mm512_set1_ps;
use std::arch::x86_64::_mm512_setzero_ps;
use std::arch::x86_64::_mm512_shuffle_f32x4;
use std::arch::x86_64::_mm512_srli_epi32;
use std::arch::x86_64::_mm512_storeu_ps;
use std::arch::x86_64::_mm512_sub_epi32;
use std::arch::x86_64::_mm512_unpackhi_pd;
use std::arch::x86_64::_mm512_unpackhi_ps;
use std::arch::x86_64::_mm512_unpacklo_pd;
use std::arch::x86_64::_mm512_unpacklo_ps;

use super::Answer;
use super::BLOCK;
use super::Cells;
use super::HEADS;
use super::STEP;
use super::Tops;
use crate::ggml::custom::ask;
use crate::ggml::tensor::DType;
use crate::kernel::math;

/// Values of one register.
const LANES: usize = 16;
/// Numbers of a cell that are loaded together: a block of those types that have blocks.
const PIECE: usize = 2 * LANES;
/// A mask's value for a cell that is not seen: minus infinity.
const HIDDEN: u16 = 0xfc00;

/// Scores, then weights, of a block of cells.
type Scores = [[f32; BLOCK]; HEADS];

/// How numbers are kept. Implementations must become part of the loop that calls them
/// (`inline(always)`, which excludes `target_feature`).
trait Kept {
    /// Bytes of a piece.
    const BYTES: usize;

    /// Loads a piece as floats.
    ///
    /// # Safety
    /// The processor has AVX-512, and a piece is readable at `at`.
    unsafe fn load(at: *const u8) -> [__m512; 2];
}

/// Half precision.
struct F16;

impl Kept for F16 {
    const BYTES: usize = 64;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> [__m512; 2] {
        // SAFETY: see `Kept`.
        [0, 32].map(|i| unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.add(i).cast())) })
    }
}

/// Eight bits, and a factor for 32.
struct Q8_0;

impl Kept for Q8_0 {
    const BYTES: usize = 34;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> [__m512; 2] {
        // SAFETY: see `Kept`.
        unsafe {
            let factor = factor(at);
            [2, 18].map(|i| {
                let codes = _mm512_cvtepi8_epi32(_mm_loadu_si128(at.add(i).cast()));
                _mm512_mul_ps(_mm512_cvtepi32_ps(codes), factor)
            })
        }
    }
}

/// Four bits, and a factor for 32.
struct Q4_0;

impl Kept for Q4_0 {
    const BYTES: usize = 18;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> [__m512; 2] {
        // SAFETY: see `Kept`.
        unsafe {
            let factor = factor(at);
            let both = _mm512_cvtepu8_epi32(_mm_loadu_si128(at.add(2).cast()));
            let low = _mm512_and_si512(both, _mm512_set1_epi32(0x0f));
            [low, _mm512_srli_epi32::<4>(both)].map(|codes| {
                let codes = _mm512_sub_epi32(codes, _mm512_set1_epi32(8));
                _mm512_mul_ps(_mm512_cvtepi32_ps(codes), factor)
            })
        }
    }
}

/// Loads a block's factor.
///
/// # Safety
/// The processor has AVX-512, and two bytes are readable.
#[inline(always)]
unsafe fn factor(at: *const u8) -> __m512 {
    // SAFETY: by the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(at.cast::<i16>().read_unaligned())) }
}

/// Returns the kernel for caches of a type; only where the processor has AVX-512.
pub(super) fn answer(dtype: DType) -> Option<Answer> {
    Some(match dtype {
        DType::F16 => answer_from::<F16>,
        DType::Q8_0 => answer_from::<Q8_0>,
        DType::Q4_0 => answer_from::<Q4_0>,
        _ => return None,
    })
}

fn answer_from<K: Kept>(q: &[f32], cells: &Cells<'_>, mixed: &mut [f32]) -> Tops {
    let d = q.len() / HEADS;
    let fits = q.len() == mixed.len() && d.is_multiple_of(STEP);
    assert!(fits && cells.mask.len().is_multiple_of(BLOCK), "four heads, whole blocks");
    // SAFETY: this function is only handed out where the processor has AVX-512.
    unsafe { run::<K>(q, cells, mixed) }
}

#[target_feature(enable = "avx512f")]
fn run<K: Kept>(q: &[f32], cells: &Cells<'_>, mixed: &mut [f32]) -> Tops {
    let d = q.len() / HEADS;
    let (mut most, mut sum) = ([f32::NEG_INFINITY; HEADS], [0.0; HEADS]);
    mixed.fill(0.0);
    for (b, mask) in cells.mask.chunks_exact(BLOCK).enumerate() {
        if mask.iter().all(|m| *m == HIDDEN) {
            continue;
        }
        let first = b * BLOCK * cells.stride + cells.column;
        let len = (BLOCK - 1) * cells.stride + d / PIECE * K::BYTES;
        let (keys, values) = (&cells.keys[first..][..len], &cells.values[first..][..len]);
        let next = keys.as_ptr().wrapping_add(BLOCK * cells.stride);
        let mut scores = score::<K>(q, keys, cells.stride, values.as_ptr());
        let faded = weigh(&mut scores, mask, &mut most, &mut sum);
        mix::<K>(&scores, faded, values, (cells.stride, next), mixed);
    }
    Tops { most, sum }
}

/// Multiplies four queries with the keys of a block, four at a time; memory is asked for what
/// lies at the same places from `ahead` on.
#[target_feature(enable = "avx512f")]
fn score<K: Kept>(q: &[f32], keys: &[u8], stride: usize, ahead: *const u8) -> Scores {
    let d = q.len() / HEADS;
    assert!(keys.len() == (BLOCK - 1) * stride + d / PIECE * K::BYTES, "a block of keys");
    let mut scores = [[0.0; BLOCK]; HEADS];
    for c in (0..BLOCK).step_by(4) {
        let mut sums = [[_mm512_setzero_ps(); 4]; HEADS];
        for piece in 0..d / PIECE {
            let at = |j: usize| (c + j) * stride + piece * K::BYTES;
            // SAFETY: cell `c + j` has `d` numbers, see above; so has every query.
            let key = |j: usize| unsafe { K::load(keys.as_ptr().add(at(j))) };
            let key = [key(0), key(1), key(2), key(3)];
            (0..4).for_each(|j| ask::early(ahead.wrapping_add(at(j))));
            for half in 0..2 {
                for (h, sums) in sums.iter_mut().enumerate() {
                    let i = h * d + piece * PIECE + half * LANES;
                    // SAFETY: as above.
                    let query = unsafe { _mm512_loadu_ps(q.as_ptr().add(i)) };
                    for (sum, key) in sums.iter_mut().zip(&key) {
                        *sum = _mm512_fmadd_ps(query, key[half], *sum);
                    }
                }
            }
        }
        let all = total(sums.map(|[a, b, c, d]| fold(a, b, c, d)));
        // SAFETY: there is room for four numbers from `c` on, in every row.
        unsafe {
            let at = |h: usize, scores: &mut Scores| scores[h].as_mut_ptr().add(c);
            _mm_storeu_ps(at(0, &mut scores), _mm512_extractf32x4_ps::<0>(all));
            _mm_storeu_ps(at(1, &mut scores), _mm512_extractf32x4_ps::<1>(all));
            _mm_storeu_ps(at(2, &mut scores), _mm512_extractf32x4_ps::<2>(all));
            _mm_storeu_ps(at(3, &mut scores), _mm512_extractf32x4_ps::<3>(all));
        }
    }
    scores
}

/// Sums each quarter of four registers: four numbers in each quarter.
#[target_feature(enable = "avx512f")]
#[inline]
fn fold(a: __m512, b: __m512, c: __m512, d: __m512) -> __m512 {
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
    _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
}

/// Adds up the quarters of each of four registers: quarter `i` of the result is register `i`'s.
#[target_feature(enable = "avx512f")]
#[inline]
fn total([a, b, c, d]: [__m512; 4]) -> __m512 {
    let two = |a, b| {
        let (low, high) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
        _mm512_add_ps(low, high)
    };
    let (ab, cd) = (two(a, b), two(c, d));
    let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
    _mm512_add_ps(even, odd)
}

/// Turns scores into weights; returns the factors of what was mixed with older ones.
#[target_feature(enable = "avx512f")]
fn weigh(
    scores: &mut Scores,
    mask: &[u16],
    most: &mut [f32; HEADS],
    sum: &mut [f32; HEADS],
) -> [f32; HEADS] {
    let mut faded = [0.0; HEADS];
    for (h, scores) in scores.iter_mut().enumerate() {
        let mut lanes = [most[h]; LANES];
        let chunks = scores.as_chunks_mut::<LANES>().0.iter_mut();
        for (scores, mask) in chunks.zip(mask.as_chunks::<LANES>().0) {
            for ((score, mask), lane) in scores.iter_mut().zip(mask).zip(&mut lanes) {
                *score = if *mask == HIDDEN { f32::NEG_INFINITY } else { *score };
                *lane = if *score > *lane { *score } else { *lane };
            }
        }
        let now = lanes.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a });
        // Before anything was seen there is nothing to fade.
        faded[h] = if most[h] == now { 1.0 } else { math::exp(most[h] - now) };
        most[h] = now;
        let mut lanes = [0.0; LANES];
        for scores in scores.as_chunks_mut::<LANES>().0 {
            for (score, lane) in scores.iter_mut().zip(&mut lanes) {
                let weight = math::exp(*score - now);
                *score = if *score == f32::NEG_INFINITY { 0.0 } else { weight };
                *lane += *score;
            }
        }
        sum[h] = sum[h] * faded[h] + lanes.iter().sum::<f32>();
    }
    faded
}

/// Adds the weighted values of a block; memory is asked for what lies at the same places from
/// `ahead` on.
#[target_feature(enable = "avx512f")]
fn mix<K: Kept>(
    weights: &Scores,
    faded: [f32; HEADS],
    values: &[u8],
    (stride, ahead): (usize, *const u8),
    mixed: &mut [f32],
) {
    let d = mixed.len() / HEADS;
    assert!(values.len() == (BLOCK - 1) * stride + d / PIECE * K::BYTES, "a block of values");
    for i in (0..d).step_by(STEP) {
        let mut sums = [[_mm512_setzero_ps(); STEP / LANES]; HEADS];
        for (h, sums) in sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                // SAFETY: every head has `d` numbers.
                let old = unsafe { _mm512_loadu_ps(mixed.as_ptr().add(h * d + i + j * LANES)) };
                *sum = _mm512_mul_ps(old, _mm512_set1_ps(faded[h]));
            }
        }
        for c in 0..BLOCK {
            let at = |j: usize| c * stride + (i / PIECE + j) * K::BYTES;
            // SAFETY: cell `c` has `d` numbers, see above.
            let value = |j: usize| unsafe { K::load(values.as_ptr().add(at(j))) };
            let (first, last) = (value(0), value(1));
            let value = [first[0], first[1], last[0], last[1]];
            [0, 1].into_iter().for_each(|j| ask::early(ahead.wrapping_add(at(j))));
            for (weights, sums) in weights.iter().zip(&mut sums) {
                let weight = _mm512_set1_ps(weights[c]);
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = _mm512_fmadd_ps(weight, value, *sum);
                }
            }
        }
        for (h, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                // SAFETY: as above.
                unsafe {
                    _mm512_storeu_ps(mixed.as_mut_ptr().add(h * d + i + j * LANES), *sum);
                }
            }
        }
    }
}
