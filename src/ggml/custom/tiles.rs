//! The fastest tiles that this processor has.
//!
//! In: packed operands, see [`crate::kernel::tile`]. Out: sums added to a tile.

use crate::ggml::tensor::DType;
use crate::kernel::tile;
use crate::kernel::tile::FixedTile;
use crate::kernel::tile::FloatTile;

/// Values of one register: lengths of [`Dots`] are multiples of it.
pub(in crate::ggml) const WIDTH: usize = 16;

/// Multiplies 1, 4 or 12 rows of `x`, `stride` values apart, with two rows of a weight; how long
/// those are decides how many values count.
pub(in crate::ggml) type Dots =
    fn(x: &[f32], stride: usize, weight: [&[u8]; 2], sums: &mut [[f32; 2]]);

/// Returns the dot products for weights of a type, if they are faster than ggml's own.
pub(in crate::ggml) fn dots(dtype: DType) -> Option<Dots> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return match dtype {
            DType::F32 => Some(avx512::dots::<{ avx512::F32 }>),
            DType::F16 => Some(avx512::dots::<{ avx512::F16 }>),
            DType::BF16 => Some(avx512::dots::<{ avx512::BF16 }>),
            _ => None,
        };
    }
    let _ = dtype;
    None
}

/// Returns the fastest tile of floats.
pub(in crate::ggml) fn float() -> FloatTile {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return avx512::float;
    }
    tile::float
}

/// Returns whether tiles of floats are faster than ggml's own product.
pub(in crate::ggml) fn has_fast_float() -> bool {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return true;
    }
    false
}

/// Returns the tile of integers, if the processor multiplies them faster than floats.
pub(in crate::ggml) fn fixed() -> Option<FixedTile> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        return Some(avx512::fixed);
    }
    None
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::asm;
    use std::arch::x86_64::__m512;
    use std::arch::x86_64::__m512i;
    use std::arch::x86_64::_mm256_loadu_si256;
    use std::arch::x86_64::_mm512_add_ps;
    use std::arch::x86_64::_mm512_castsi512_ps;
    use std::arch::x86_64::_mm512_cvtepi32_ps;
    use std::arch::x86_64::_mm512_cvtepu16_epi32;
    use std::arch::x86_64::_mm512_cvtph_ps;
    use std::arch::x86_64::_mm512_fmadd_ps;
    use std::arch::x86_64::_mm512_loadu_ps;
    use std::arch::x86_64::_mm512_loadu_si512;
    use std::arch::x86_64::_mm512_mul_ps;
    use std::arch::x86_64::_mm512_reduce_add_ps;
    use std::arch::x86_64::_mm512_set1_epi32;
    use std::arch::x86_64::_mm512_set1_ps;
    use std::arch::x86_64::_mm512_setzero_ps;
    use std::arch::x86_64::_mm512_setzero_si512;
    use std::arch::x86_64::_mm512_slli_epi32;
    use std::arch::x86_64::_mm512_storeu_ps;

    use super::WIDTH;
    use crate::kernel::tile::BLOCK;
    use crate::kernel::tile::Fixed;
    use crate::kernel::tile::LANES;
    use crate::kernel::tile::Lanes;
    use crate::kernel::tile::ROWS;
    use crate::kernel::tile::Tile;

    /// Types of weights that [`dots`] widens.
    pub(super) const F32: u8 = 0;
    pub(super) const F16: u8 = 1;
    pub(super) const BF16: u8 = 2;

    /// Registers of one row of a tile.
    const N: usize = LANES / WIDTH;

    pub(super) fn float(a: &[[f32; ROWS]], b: &[Lanes], tile: &mut Tile) {
        // SAFETY: this function is only handed out where the processor has AVX-512.
        unsafe { float_tile(a, b, tile) }
    }

    pub(super) fn fixed(a: Fixed<'_, ROWS>, b: Fixed<'_, LANES>, tile: &mut Tile) {
        let n = a.scales.len().min(b.scales.len());
        assert!(a.words.len() >= n * BLOCK / 2 && b.words.len() >= n * BLOCK / 2, "whole blocks");
        // SAFETY: this function is only handed out where the processor has AVX-512 with VNNI;
        // all four arrays hold `n` blocks.
        unsafe { fixed_tile(a, b, n, tile) }
    }

    #[target_feature(enable = "avx512f")]
    fn float_tile(a: &[[f32; ROWS]], b: &[Lanes], tile: &mut Tile) {
        let mut sums = [[_mm512_setzero_ps(); N]; ROWS];
        for (a, b) in a.iter().zip(b) {
            // SAFETY: `b` holds `N` registers.
            let b: [__m512; N] =
                std::array::from_fn(|j| unsafe { _mm512_loadu_ps(b.as_ptr().add(j * WIDTH)) });
            for i in 0..ROWS {
                let a = _mm512_set1_ps(a[i]);
                for j in 0..N {
                    sums[i][j] = _mm512_fmadd_ps(a, b[j], sums[i][j]);
                }
            }
        }
        add_to(tile, &sums);
    }

    #[target_feature(enable = "avx512f")]
    fn add_to(tile: &mut Tile, sums: &[[__m512; N]; ROWS]) {
        for (row, sums) in tile.iter_mut().zip(sums) {
            for (j, sum) in sums.iter().enumerate() {
                // SAFETY: a row holds `N` registers.
                unsafe {
                    let at = row.as_mut_ptr().add(j * WIDTH);
                    _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), *sum));
                }
            }
        }
    }

    /// Adds the products of pairs of 16-bit integers.
    ///
    /// Written as the instruction: the compiler splits the intrinsic into two slower ones.
    #[target_feature(enable = "avx512f,avx512vnni")]
    #[inline]
    fn add_pairs(sum: &mut __m512i, a: __m512i, b: __m512i) {
        // SAFETY: the instruction only computes on its registers.
        unsafe {
            asm!(
                "vpdpwssd {0}, {1}, {2}",
                inout(zmm_reg) *sum,
                in(zmm_reg) a,
                in(zmm_reg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
    }

    /// # Safety
    /// All four arrays of `a` and `b` hold `n_blocks` blocks.
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn fixed_tile(
        a: Fixed<'_, ROWS>,
        b: Fixed<'_, LANES>,
        n_blocks: usize,
        tile: &mut Tile,
    ) {
        let mut sums = [[_mm512_setzero_ps(); N]; ROWS];
        for block in 0..n_blocks {
            let mut whole = [[_mm512_setzero_si512(); N]; ROWS];
            for step in block * BLOCK / 2..(block + 1) * BLOCK / 2 {
                // SAFETY: the caller promises that the arrays hold this step.
                let (a, b) = unsafe { (a.words.get_unchecked(step), b.words.get_unchecked(step)) };
                // SAFETY: `b` holds `N` registers.
                let b: [__m512i; N] = std::array::from_fn(|j| unsafe {
                    _mm512_loadu_si512(b.as_ptr().add(j * WIDTH).cast())
                });
                for i in 0..ROWS {
                    let a = _mm512_set1_epi32(a[i]);
                    for j in 0..N {
                        add_pairs(&mut whole[i][j], a, b[j]);
                    }
                }
            }
            // SAFETY: the caller promises that the arrays hold this block.
            let (a, b) = unsafe { (a.scales.get_unchecked(block), b.scales.get_unchecked(block)) };
            for j in 0..N {
                // SAFETY: `b` holds `N` registers.
                let b = unsafe { _mm512_loadu_ps(b.as_ptr().add(j * WIDTH)) };
                for i in 0..ROWS {
                    let scale = _mm512_mul_ps(_mm512_set1_ps(a[i]), b);
                    let products = _mm512_cvtepi32_ps(whole[i][j]);
                    sums[i][j] = _mm512_fmadd_ps(products, scale, sums[i][j]);
                }
            }
        }
        add_to(tile, &sums);
    }

    /// [`super::Dots`] for weights of one type.
    pub(super) fn dots<const TYPE: u8>(
        x: &[f32],
        stride: usize,
        weight: [&[u8]; 2],
        sums: &mut [[f32; 2]],
    ) {
        let value_bytes = if TYPE == F32 { 4 } else { 2 };
        let len = weight[0].len() / value_bytes;
        assert!(len.is_multiple_of(WIDTH) && weight[0].len() == weight[1].len(), "whole steps");
        assert!(x.len() >= (sums.len() - 1) * stride + len, "rows lie in `x`");
        let weight = weight.map(<[u8]>::as_ptr);
        // SAFETY: this function is only handed out where the processor has AVX-512; the lengths
        // were checked above.
        unsafe {
            match sums.len() {
                12 => rows::<12, TYPE>(x.as_ptr(), stride, weight, len, sums),
                4 => rows::<4, TYPE>(x.as_ptr(), stride, weight, len, sums),
                1 => rows::<1, TYPE>(x.as_ptr(), stride, weight, len, sums),
                n => unreachable!("groups of {n} rows are not made"),
            }
        }
    }

    /// # Safety
    /// `M` rows of `len` values, `stride` apart, are readable at `x`, and as many values of the
    /// type at each of `weight`.
    #[target_feature(enable = "avx512f")]
    unsafe fn rows<const M: usize, const TYPE: u8>(
        x: *const f32,
        stride: usize,
        weight: [*const u8; 2],
        len: usize,
        out: &mut [[f32; 2]],
    ) {
        let mut sums = [[_mm512_setzero_ps(); 2]; M];
        for at in (0..len).step_by(WIDTH) {
            // SAFETY: `at + WIDTH <= len`, and the caller promises `len` values.
            let w = weight.map(|w| unsafe { widen::<TYPE>(w, at) });
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let x = unsafe { _mm512_loadu_ps(x.add(i * stride + at)) };
                for j in 0..2 {
                    sums[j] = _mm512_fmadd_ps(x, w[j], sums[j]);
                }
            }
        }
        for (out, sums) in out.iter_mut().zip(&sums) {
            *out = [_mm512_reduce_add_ps(sums[0]), _mm512_reduce_add_ps(sums[1])];
        }
    }

    /// Loads values `at ..` of a row as floats.
    ///
    /// # Safety
    /// `WIDTH` values of the type are readable there.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn widen<const TYPE: u8>(row: *const u8, at: usize) -> __m512 {
        // SAFETY: the caller promises that the values are readable.
        unsafe {
            match TYPE {
                F32 => _mm512_loadu_ps(row.cast::<f32>().add(at)),
                F16 => _mm512_cvtph_ps(_mm256_loadu_si256(row.cast::<u16>().add(at).cast())),
                _ => {
                    let half = _mm256_loadu_si256(row.cast::<u16>().add(at).cast());
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::tile::BLOCK;
    use crate::kernel::tile::Fixed;
    use crate::kernel::tile::LANES;
    use crate::kernel::tile::Lanes;
    use crate::kernel::tile::ROWS;
    use crate::kernel::tile::naive;
    use crate::kernel::tile::pack_fixed;

    fn wave(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin() * 3.0).collect()
    }

    #[test]
    fn float_tiles_equal_their_formula() {
        for n in [0, 1, 63, 200] {
            let a: Vec<[f32; ROWS]> = wave(n * ROWS, 0.3).as_chunks().0.to_vec();
            let b: Vec<Lanes> = wave(n * LANES, 0.7).as_chunks().0.to_vec();
            let (mut fast, mut slow) = ([[1.0; LANES]; ROWS], [[1.0; LANES]; ROWS]);
            super::float()(&a, &b, &mut fast);
            naive::float(&a, &b, &mut slow);
            for (f, s) in fast.iter().flatten().zip(slow.iter().flatten()) {
                assert!((f - s).abs() < 1e-3, "{n}: {f} {s}");
            }
        }
    }

    #[test]
    fn integer_tiles_equal_their_formula() {
        let Some(fixed) = super::fixed() else {
            println!("left out: this processor has no tile of integers");
            return;
        };
        for n_blocks in [0, 1, 12] {
            let n = n_blocks * BLOCK;
            let (mut a, mut a_scales) = (vec![[0; ROWS]; n / 2], vec![[0.0; ROWS]; n_blocks]);
            let (mut b, mut b_scales) = (vec![[0; LANES]; n / 2], vec![[0.0; LANES]; n_blocks]);
            for row in 0..ROWS {
                pack_fixed(&wave(n, 0.3 + row as f32), row, &mut a, &mut a_scales);
            }
            for lane in 0..LANES {
                pack_fixed(&wave(n, 0.7 + lane as f32), lane, &mut b, &mut b_scales);
            }
            let a = Fixed { words: &a, scales: &a_scales };
            let b = Fixed { words: &b, scales: &b_scales };
            let (mut fast, mut slow) = ([[1.0; LANES]; ROWS], [[1.0; LANES]; ROWS]);
            fixed(a, b, &mut fast);
            naive::fixed(a, b, &mut slow);
            for (f, s) in fast.iter().flatten().zip(slow.iter().flatten()) {
                assert!((f - s).abs() < 1e-2, "{n_blocks}: {f} {s}");
            }
        }
    }
}
