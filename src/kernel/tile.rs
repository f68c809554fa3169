//! Tiles of matrix products: six rows of one side by thirty-two of the other.
//!
//! In: operands packed step after step. Out: sums added to a tile.
//! Two forms: 32-bit floats, and blocks of 13-bit integers with one scale, whose rounding is four
//! times finer than that of bfloat16 and which processors multiply twice as fast as floats.
//! Invariant: a tile's sums do not depend on which other tiles are computed.

use super::math;

/// Rows of a tile.
pub const ROWS: usize = 6;
/// Columns of a tile.
pub const LANES: usize = 32;
/// Steps that share one scale in the integer form.
pub const BLOCK: usize = 64;
/// Largest magnitude of an integer: `BLOCK` products of two of them fit 32 bits.
const INTEGER_MAX: f32 = 4095.0;

/// One value for each column.
pub type Lanes = [f32; LANES];
/// The sums of one tile.
pub type Tile = [Lanes; ROWS];
/// Adds `sum_k a[k][row] b[k][lane]` to `tile[row][lane]`.
pub type FloatTile = fn(a: &[[f32; ROWS]], b: &[Lanes], tile: &mut Tile);
/// The same for blocks of integers, pairs of steps in one 32-bit word, and their scales.
pub type FixedTile = fn(a: Fixed<'_, ROWS>, b: Fixed<'_, LANES>, tile: &mut Tile);

/// Packed integers of `N` rows: for each pair of steps one word a row, for each block one scale.
#[derive(Clone, Copy, Debug)]
pub struct Fixed<'a, const N: usize> {
    /// `[step 2k | step 2k + 1]` in the low and high half.
    pub words: &'a [[i32; N]],
    /// What one unit of a block's integers is worth.
    pub scales: &'a [[f32; N]],
}

/// [`FloatTile`] for any processor.
pub fn float(a: &[[f32; ROWS]], b: &[Lanes], tile: &mut Tile) {
    const HALF: usize = LANES / 2;
    for half in 0..2 {
        let mut sums = [[0.0f32; HALF]; ROWS];
        for (a, b) in a.iter().zip(b) {
            let b = &b[half * HALF..(half + 1) * HALF];
            for i in 0..ROWS {
                for lane in 0..HALF {
                    sums[i][lane] = math::multiply_add(a[i], b[lane], sums[i][lane]);
                }
            }
        }
        for (to, from) in tile.iter_mut().zip(&sums) {
            for (to, from) in to[half * HALF..].iter_mut().zip(from) {
                *to += from;
            }
        }
    }
}

/// Packs a row of floats as number `index` of `N`; steps that it lacks stay as they are.
pub fn pack_float<const N: usize>(row: &[f32], index: usize, packed: &mut [[f32; N]]) {
    for (to, &value) in packed.iter_mut().zip(row) {
        to[index] = value;
    }
}

/// Packs a row as integers of number `index` of `N`; what it lacks of its last block is zero.
pub fn pack_fixed<const N: usize>(
    row: &[f32],
    index: usize,
    words: &mut [[i32; N]],
    scales: &mut [[f32; N]],
) {
    let blocks = words.chunks_exact_mut(BLOCK / 2).zip(scales);
    for ((words, scale), values) in blocks.zip(row.chunks(BLOCK)) {
        let mut integers = [0; BLOCK];
        scale[index] = match values.try_into() {
            Ok(whole) => quantize(whole, &mut integers),
            Err(_) => {
                let mut padded = [0.0f32; BLOCK];
                padded[..values.len()].copy_from_slice(values);
                quantize(&padded, &mut integers)
            }
        };
        for (word, pair) in words.iter_mut().zip(integers.as_chunks::<2>().0) {
            word[index] = pair[1] << 16 | pair[0] & 0xffff;
        }
    }
}

/// Writes a block's values in units of what is returned.
#[inline(always)]
fn quantize(values: &[f32; BLOCK], integers: &mut [i32; BLOCK]) -> f32 {
    /// Adding it rounds to an integer, which then stands in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let mut greatest = [0.0f32; 16];
    for part in values.as_chunks::<16>().0 {
        for (g, v) in greatest.iter_mut().zip(part) {
            *g = if v.abs() > *g { v.abs() } else { *g };
        }
    }
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            let other = greatest[i + width];
            greatest[i] = if other > greatest[i] { other } else { greatest[i] };
        }
        width /= 2;
    }
    let factor = if greatest[0] > 0.0 { INTEGER_MAX / greatest[0] } else { 0.0 };
    let factor = if factor.is_finite() { factor } else { 0.0 };
    let magic = MAGIC.to_bits() as i32;
    for (integer, v) in integers.iter_mut().zip(values) {
        *integer = ((v * factor + MAGIC).to_bits() as i32).wrapping_sub(magic);
    }
    greatest[0] * (1.0 / INTEGER_MAX)
}

#[cfg(test)]
pub(crate) mod naive {
    use super::BLOCK;
    use super::Fixed;
    use super::LANES;
    use super::ROWS;
    use super::Tile;

    /// [`super::FloatTile`] as its formula.
    pub(crate) fn float(a: &[[f32; ROWS]], b: &[[f32; LANES]], tile: &mut Tile) {
        for (row, sums) in tile.iter_mut().enumerate() {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let products = a.iter().zip(b).map(|(a, b)| f64::from(a[row]) * f64::from(b[lane]));
                *sum += products.sum::<f64>() as f32;
            }
        }
    }

    /// [`super::FixedTile`] as its formula.
    pub(crate) fn fixed(a: Fixed<'_, ROWS>, b: Fixed<'_, LANES>, tile: &mut Tile) {
        let halves = |w: i32| [i64::from(w as i16), i64::from(w >> 16)];
        for (row, sums) in tile.iter_mut().enumerate() {
            for (lane, sum) in sums.iter_mut().enumerate() {
                for block in 0..a.scales.len() {
                    let words = block * BLOCK / 2..(block + 1) * BLOCK / 2;
                    let whole: i64 = words
                        .flat_map(|k| {
                            let (x, y) = (halves(a.words[k][row]), halves(b.words[k][lane]));
                            [x[0] * y[0], x[1] * y[1]]
                        })
                        .sum();
                    *sum += whole as f32 * (a.scales[block][row] * b.scales[block][lane]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin() * 3.0).collect()
    }

    #[test]
    fn the_plain_tile_equals_its_formula() {
        for n in [0, 1, 63, 200] {
            let a: Vec<[f32; ROWS]> = wave(n * ROWS, 0.3).as_chunks().0.to_vec();
            let b: Vec<Lanes> = wave(n * LANES, 0.7).as_chunks().0.to_vec();
            let (mut fast, mut slow) = ([[1.0; LANES]; ROWS], [[1.0; LANES]; ROWS]);
            float(&a, &b, &mut fast);
            naive::float(&a, &b, &mut slow);
            for (f, s) in fast.iter().flatten().zip(slow.iter().flatten()) {
                assert!((f - s).abs() < 1e-3, "{n}: {f} {s}");
            }
        }
    }

    #[test]
    fn integers_are_close_to_the_floats() {
        for n in [64usize, 100, 768] {
            let n_blocks = n.div_ceil(BLOCK);
            let mut words = vec![[0; 3]; n_blocks * BLOCK / 2];
            let mut scales = vec![[0.0; 3]; n_blocks];
            let row = wave(n, 0.37);
            pack_fixed(&row, 1, &mut words, &mut scales);
            for (k, &value) in row.iter().enumerate() {
                let word = words[k / 2][1];
                let integer = if k % 2 == 0 { i32::from(word as i16) } else { word >> 16 };
                let back = integer as f32 * scales[k / BLOCK][1];
                assert!((back - value).abs() <= 3.0 / 8000.0, "{n} {k}: {back} {value}");
            }
        }
        let mut integers = [1; BLOCK];
        assert_eq!(quantize(&[0.0; BLOCK], &mut integers), 0.0);
        assert_eq!(integers, [0; BLOCK]);
    }
}
