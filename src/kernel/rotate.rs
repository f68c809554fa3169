//! Rotary positions along two axes: the first half of a head turns by column, the second by row.
//!
//! In: rows of one head. Out: the same rows, turned in place.
//! Source: Gemma 4 vision encoder as in transformers 5.23.0 `models/gemma4/modeling_gemma4.py`.

/// Sine and cosine of every angle that positions below a limit need.
#[derive(Clone, Debug)]
pub struct Axial {
    /// For each position `[cos | sin]`, one for each pair of a half.
    table: Vec<f32>,
    n_pairs: usize,
}

impl Axial {
    /// Makes the tables for `n` positions and heads of `head_dim` dimensions.
    pub fn new(n: usize, head_dim: usize, base: f32) -> Self {
        let n_pairs = head_dim / 4;
        let exponent = |i: usize| 2.0 * i as f32 / (2 * n_pairs) as f32;
        let frequency = |i: usize| 1.0 / base.powf(exponent(i));
        let mut table = Vec::with_capacity(2 * n * n_pairs);
        for position in 0..n {
            let angle = |i: usize| position as f32 * frequency(i);
            table.extend((0..n_pairs).map(|i| angle(i).cos()));
            table.extend((0..n_pairs).map(|i| angle(i).sin()));
        }
        Self { table, n_pairs }
    }

    /// Turns one head of the patch at column `x` and row `y`.
    pub fn turn(&self, head: &mut [f32], (x, y): (usize, usize)) {
        let (by_x, by_y) = head.split_at_mut(2 * self.n_pairs);
        self.turn_half(by_x, x);
        self.turn_half(by_y, y);
    }

    fn turn_half(&self, half: &mut [f32], position: usize) {
        let n = self.n_pairs;
        let (cos, sin) = self.table[2 * n * position..2 * n * (position + 1)].split_at(n);
        let (first, second) = half.split_at_mut(n);
        for (((a, b), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    mod naive {
        pub(super) fn turn(head: &[f32], base: f64, at: [usize; 2]) -> Vec<f64> {
            let half = head.len() / 2;
            let mut out = vec![0.0; head.len()];
            for (axis, position) in at.into_iter().enumerate() {
                for i in 0..half / 2 {
                    let angle = position as f64 * base.powf(-2.0 * i as f64 / half as f64);
                    let (p, q) = (axis * half + i, axis * half + half / 2 + i);
                    let (a, b) = (f64::from(head[p]), f64::from(head[q]));
                    out[p] = a * angle.cos() - b * angle.sin();
                    out[q] = b * angle.cos() + a * angle.sin();
                }
            }
            out
        }
    }

    #[test]
    fn twins_agree() {
        for head_dim in [4, 8, 64] {
            let axial = Axial::new(70, head_dim, 100.0);
            for at in [[0, 0], [1, 0], [0, 1], [69, 33], [12, 69]] {
                let head: Vec<f32> = (0..head_dim).map(|i| (i as f32 * 0.7).sin()).collect();
                let want = naive::turn(&head, 100.0, at);
                let mut got = head;
                axial.turn(&mut got, (at[0], at[1]));
                for (got, want) in got.iter().zip(&want) {
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{head_dim} {at:?}");
                }
            }
        }
    }
}
