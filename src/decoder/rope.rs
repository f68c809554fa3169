//! Rotary position embedding: exact angles, and the kernel that normalises and turns heads.
//!
//! In: positions and frequency divisors. Out: cosines and sines, and turned heads.
//! Angles are `position * base^(-2i/d) / divisor[i]` in f32, as in the reference; pair `i` is the
//! dimensions `i` and `i + d/2`.

use std::ops::Range;

use crate::kernel::norm;

/// Inverse frequencies of one attention kind.
#[derive(Clone)]
pub(super) struct Frequencies(Vec<f32>);

impl Frequencies {
    /// Computes `base^(-2i/d) / divisor[i]` for `i < d/2`; no divisors means 1.
    pub(super) fn new(d: usize, base: f32, divisors: Option<&[f32]>) -> Self {
        let inverse = |i: usize| {
            let plain = 1.0 / f64::from(base).powf(2.0 * i as f64 / d as f64);
            let divisor = divisors.map_or(1.0, |f| f64::from(f[i]));
            // A divisor this large stands for a dimension that does not turn.
            if divisor >= 1e20 { 0.0 } else { (plain / divisor) as f32 }
        };
        Self((0..d / 2).map(inverse).collect())
    }

    /// Fills `[d, n]`: for each position its `d/2` cosines, then its `d/2` sines.
    pub(super) fn fill(&self, positions: Range<usize>, out: &mut [f32]) {
        let half = self.0.len();
        for (row, p) in out.chunks_exact_mut(2 * half).zip(positions) {
            let (cos, sin) = row.split_at_mut(half);
            for ((c, s), f) in cos.iter_mut().zip(sin).zip(&self.0) {
                let (sine, cosine) = (p as f32 * f).sin_cos();
                (*c, *s) = (cosine, sine);
            }
        }
    }
}

/// Normalises one head by its root mean square and turns it.
pub(super) fn norm_and_turn(x: &[f32], weight: &[f32], eps: f32, table: &[f32], out: &mut [f32]) {
    let scale = norm::rms_scale(x, eps);
    let half = x.len() / 2;
    let (cos, sin) = table.split_at(half);
    let (x0, x1) = x.split_at(half);
    let (w0, w1) = weight.split_at(half);
    let (o0, o1) = out.split_at_mut(half);
    for i in 0..half {
        let a = x0[i] * scale * w0[i];
        let b = x1[i] * scale * w1[i];
        o0[i] = a * cos[i] - b * sin[i];
        o1[i] = b * cos[i] + a * sin[i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_equal_published_values() {
        let full: Vec<f32> = (0..256).map(|i| if i < 64 { 1.0 } else { 1e30 }).collect();
        let f = Frequencies::new(512, 1e6, Some(&full));
        for (i, expected) in [(0, 1.0), (1, 0.947_463_5), (2, 0.897_687_1), (63, 0.033_376_25)] {
            assert!((f.0[i] - expected).abs() < 1e-7, "{i}");
        }
        assert_eq!(f.0[64..].iter().filter(|v| **v != 0.0).count(), 0);
        let sliding = Frequencies::new(256, 1e4, None);
        assert!((sliding.0[1] - 0.930_572_04).abs() < 1e-7);
        assert!((sliding.0[127] - 1.074_607_8e-4).abs() < 1e-9);
    }

    #[test]
    fn position_zero_only_normalises() {
        let f = Frequencies::new(8, 1e4, None);
        let mut table = [0.0; 8];
        f.fill(0..1, &mut table);
        let x = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0];
        let mut out = [0.0; 8];
        norm_and_turn(&x, &[1.0; 8], 0.0, &table, &mut out);
        let rms = (x.iter().map(|v| v * v).sum::<f32>() / 8.0).sqrt();
        for (o, v) in out.iter().zip(&x) {
            assert!((o - v / rms).abs() < 1e-6);
        }
    }

    #[test]
    fn turning_keeps_lengths_and_composes() {
        let f = Frequencies::new(4, 100.0, None);
        let mut table = [0.0; 12];
        f.fill(0..3, &mut table);
        let x = [1.0, 2.0, 3.0, 4.0];
        let mut once = [0.0; 4];
        let mut twice = [0.0; 4];
        let mut direct = [0.0; 4];
        norm_and_turn(&x, &[1.0; 4], 0.0, &table[4..8], &mut once);
        norm_and_turn(&once, &[1.0; 4], 0.0, &table[4..8], &mut twice);
        norm_and_turn(&x, &[1.0; 4], 0.0, &table[8..], &mut direct);
        for (a, b) in twice.iter().zip(&direct) {
            assert!((a - b).abs() < 1e-5);
        }
    }
}
