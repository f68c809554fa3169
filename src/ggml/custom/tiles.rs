//! The fastest tiles that this processor has.
//!
//! In: packed operands, see [`crate::kernel::tile`]. Out: sums added to a tile.

use crate::kernel::tile;
use crate::kernel::tile::FixedTile;
use crate::kernel::tile::FloatTile;

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
    use std::arch::x86_64::_mm512_add_ps;
    use std::arch::x86_64::_mm512_cvtepi32_ps;
    use std::arch::x86_64::_mm512_fmadd_ps;
    use std::arch::x86_64::_mm512_loadu_ps;
    use std::arch::x86_64::_mm512_loadu_si512;
    use std::arch::x86_64::_mm512_mul_ps;
    use std::arch::x86_64::_mm512_set1_epi32;
    use std::arch::x86_64::_mm512_set1_ps;
    use std::arch::x86_64::_mm512_setzero_ps;
    use std::arch::x86_64::_mm512_setzero_si512;
    use std::arch::x86_64::_mm512_storeu_ps;

    use crate::kernel::tile::BLOCK;
    use crate::kernel::tile::Fixed;
    use crate::kernel::tile::LANES;
    use crate::kernel::tile::Lanes;
    use crate::kernel::tile::ROWS;
    use crate::kernel::tile::Tile;

    /// Values of one register.
    const WIDTH: usize = 16;
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
