//! Attention of many queries over many keys, all seeing all, in bounded memory.
//!
//! In: packed queries, keys and values of one head. Out: mixed values, query after query.
//! Source: online softmax (Milakov and Gimelshein, 2018), blocks as in FlashAttention (Dao, 2022).
//! Invariant: 32-bit floats throughout; the order of sums depends on the number of keys alone.

use super::math;
use super::tile::FloatTile;
use super::tile::Lanes;

/// Keys, or dimensions of values, that one step multiplies with a tile of queries.
pub const PANEL: usize = super::tile::ROWS;
/// Queries of one tile.
pub const LANES: usize = super::tile::LANES;
/// Panels of keys between two looks at the greatest score.
const BLOCK_PANELS: usize = 20;
/// Keys whose values are packed together.
pub const BLOCK: usize = BLOCK_PANELS * PANEL;

/// Returns the length of `n` rows of `head_dim` values as packed keys.
pub const fn keys_len(n: usize, head_dim: usize) -> usize {
    n.div_ceil(PANEL) * PANEL * head_dim
}

/// Returns the length of `n` rows of `head_dim` values as packed values.
pub const fn values_len(n: usize, head_dim: usize) -> usize {
    n.div_ceil(BLOCK) * block_len(head_dim)
}

/// Returns the length of one block of packed values.
pub const fn block_len(head_dim: usize) -> usize {
    head_dim.div_ceil(PANEL) * PANEL * BLOCK
}

/// Packs a row as key `index` of its panel.
pub fn pack_key(row: &[f32], index: usize, panel: &mut [f32]) {
    for (to, &value) in panel.chunks_exact_mut(PANEL).zip(row) {
        to[index] = value;
    }
}

/// Packs a row as value `index` of its block.
pub fn pack_value(row: &[f32], index: usize, block: &mut [f32]) {
    let panels = block.chunks_exact_mut(BLOCK * PANEL);
    for (panel, values) in panels.zip(row.chunks(PANEL)) {
        panel[index * PANEL..index * PANEL + values.len()].copy_from_slice(values);
    }
}

/// One head's keys and values, packed, and how many there are.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// Panels of [`PANEL`] keys; in a panel, dimension after dimension.
    pub keys: &'a [f32],
    /// Blocks of [`BLOCK`] keys; in a block, panels of [`PANEL`] dimensions, key after key.
    pub values: &'a [f32],
    /// Number of keys.
    pub n: usize,
    /// Dimensions of a key.
    pub head_dim: usize,
    /// How tiles are multiplied.
    pub multiply: FloatTile,
}

/// What one thread needs to attend; holds nothing between calls.
#[derive(Debug, Default)]
pub struct Scratch {
    query: Vec<Lanes>,
    scores: Vec<Lanes>,
    mixed: Vec<Lanes>,
}

impl Scratch {
    /// Makes room for heads of `head_dim` dimensions.
    pub fn new(head_dim: usize) -> Self {
        let padded = head_dim.next_multiple_of(PANEL);
        Self {
            query: vec![[0.0; LANES]; head_dim],
            scores: vec![[0.0; LANES]; BLOCK],
            mixed: vec![[0.0; LANES]; padded],
        }
    }
}

impl Head<'_> {
    /// Attends with up to [`LANES`] queries, rows of `head_dim` values every `stride` values of
    /// `queries`; writes to rows of `out` in the same way.
    pub fn attend(
        &self,
        (queries, n_queries): (&[f32], usize),
        stride: usize,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let d = self.head_dim;
        let n_queries = n_queries.min(LANES);
        for (i, lanes) in scratch.query.iter_mut().enumerate() {
            *lanes =
                std::array::from_fn(|q| if q < n_queries { queries[q * stride + i] } else { 0.0 });
        }
        scratch.mixed.fill([0.0; LANES]);
        let (mut most, mut sum) = ([f32::NEG_INFINITY; LANES], [0.0; LANES]);
        let n_panels = self.n.div_ceil(PANEL);
        for first in (0..n_panels).step_by(BLOCK_PANELS) {
            let panels = first..(first + BLOCK_PANELS).min(n_panels);
            self.block(panels, scratch, (&mut most, &mut sum));
        }
        for q in 0..n_queries {
            let factor = 1.0 / sum[q];
            for (o, lanes) in out[q * stride..q * stride + d].iter_mut().zip(&scratch.mixed) {
                *o = lanes[q] * factor;
            }
        }
    }

    /// Adds the panels' keys to what the tile has mixed so far.
    fn block(
        &self,
        panels: std::ops::Range<usize>,
        scratch: &mut Scratch,
        (most, sum): (&mut Lanes, &mut Lanes),
    ) {
        let d = self.head_dim;
        let n_keys = (panels.end * PANEL).min(self.n) - panels.start * PANEL;
        let keys = &self.keys[panels.start * PANEL * d..panels.end * PANEL * d];
        let (keys, _) = keys.as_chunks::<PANEL>();
        scratch.scores.fill([0.0; LANES]);
        let (tiles, _) = scratch.scores.as_chunks_mut::<PANEL>();
        for (keys, tile) in keys.chunks_exact(d).zip(tiles) {
            (self.multiply)(keys, &scratch.query, tile);
        }
        let scores = &mut scratch.scores[..panels.len() * PANEL];
        let (real, padding) = scores.split_at_mut(n_keys);
        padding.fill([0.0; LANES]);
        let faded = soften(real, most, sum);
        let first = panels.start / BLOCK_PANELS * block_len(d);
        let (values, _) = self.values[first..first + block_len(d)].as_chunks::<PANEL>();
        let (tiles, _) = scratch.mixed.as_chunks_mut::<PANEL>();
        for (values, tile) in values.chunks_exact(BLOCK).zip(tiles) {
            for lanes in tile.iter_mut() {
                lanes.iter_mut().zip(&faded).for_each(|(v, f)| *v *= f);
            }
            (self.multiply)(values, scores, tile);
        }
    }
}

/// Turns scores into weights and returns the factor for what was mixed with older ones.
fn soften(scores: &mut [Lanes], most: &mut Lanes, sum: &mut Lanes) -> Lanes {
    let before = *most;
    for lanes in &*scores {
        for (m, &s) in most.iter_mut().zip(lanes) {
            *m = if s > *m { s } else { *m };
        }
    }
    let faded = std::array::from_fn(|q| math::exp(before[q] - most[q]));
    for (s, f) in sum.iter_mut().zip(&faded) {
        *s *= f;
    }
    for lanes in scores {
        for q in 0..LANES {
            lanes[q] = math::exp(lanes[q] - most[q]);
            sum[q] += lanes[q];
        }
    }
    faded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tile;

    mod naive {
        pub(super) fn attend(query: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>]) -> Vec<f64> {
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
            };
            let scores: Vec<f64> = keys.iter().map(|k| dot(query, k)).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mix = |i: usize| -> f64 {
                weights.iter().zip(values).map(|(w, v)| w / sum * f64::from(v[i])).sum()
            };
            (0..query.len()).map(mix).collect()
        }
    }

    /// Packs rows as the doc comments of [`Head`] say.
    fn pack(rows: &[Vec<f32>], d: usize) -> (Vec<f32>, Vec<f32>) {
        let n = rows.len();
        let mut keys = vec![0.0; keys_len(n, d)];
        let mut values = vec![0.0; values_len(n, d)];
        for (t, row) in rows.iter().enumerate() {
            pack_key(row, t % PANEL, &mut keys[t / PANEL * PANEL * d..][..PANEL * d]);
            let block = &mut values[t / BLOCK * block_len(d)..][..block_len(d)];
            pack_value(row, t % BLOCK, block);
        }
        (keys, values)
    }

    #[test]
    fn twins_agree() {
        for (d, n, n_queries) in [(64, 1, 1), (64, 500, 32), (8, 7, 3), (20, 121, 16), (4, 240, 9)]
        {
            let wave = |k: usize| -> Vec<f32> {
                (0..d).map(|i| ((i * 31 + k * 17) as f32 * 0.1).sin() * 1.5).collect()
            };
            let rows =
                |from: usize, n: usize| -> Vec<Vec<f32>> { (from..from + n).map(wave).collect() };
            let n_queries = n_queries.min(LANES);
            let (queries, keys, values) = (rows(3, n_queries), rows(50, n), rows(900, n));
            let (packed_keys, _) = pack(&keys, d);
            let (_, packed_values) = pack(&values, d);
            let (keys_of_head, values_of_head) = (&packed_keys, &packed_values);
            let multiply = tile::float;
            let head =
                Head { keys: keys_of_head, values: values_of_head, n, head_dim: d, multiply };
            let stride = d + 5;
            let mut flat = vec![0.0; n_queries * stride];
            for (row, query) in flat.chunks_exact_mut(stride).zip(&queries) {
                row[..d].copy_from_slice(query);
            }
            let mut out = vec![7.0; n_queries * stride];
            head.attend((&flat, n_queries), stride, &mut Scratch::new(d), &mut out);
            for (row, query) in out.chunks_exact(stride).zip(&queries) {
                let want = naive::attend(query, &keys, &values);
                for (got, want) in row.iter().zip(&want) {
                    assert!((f64::from(*got) - want).abs() < 2e-5, "{d} {n}: {got} {want}");
                }
                assert!(row[d..].iter().all(|&v| v == 7.0), "{d} {n}");
            }
        }
    }
}
