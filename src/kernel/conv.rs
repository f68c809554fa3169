//! Convolutions of the audio encoder: two strided ones with channel norm, one depthwise in time.
//!
//! In: rows of time steps. Out: rows of time steps; channels are the fastest side.

use super::norm::layer_norm_relu;

/// Taps of the strided convolutions along time and along frequency.
pub const TAPS: usize = 3;

/// One 3x3 convolution of stride 2 with channel norm and ReLU.
#[derive(Clone, Debug)]
pub struct StridedConv {
    /// `[time tap][frequency tap][input][output]`, output fastest.
    weight: Vec<f32>,
    norm: Vec<f32>,
    n_in: usize,
    n_out: usize,
    eps: f32,
}

impl StridedConv {
    /// Takes weights in file order: frequency tap fastest, then time tap, input, output.
    ///
    /// Returns `None` if the lengths do not fit each other.
    pub fn new(file: &[f32], norm: &[f32], n_in: usize, eps: f32) -> Option<Self> {
        let n_out = norm.len();
        if file.len() != TAPS * TAPS * n_in * n_out || n_in == 0 || n_out == 0 {
            return None;
        }
        let mut weight = vec![0.0; file.len()];
        for (i, &value) in file.iter().enumerate() {
            let (frequency, time) = (i % TAPS, i / TAPS % TAPS);
            let (from, to) = (i / (TAPS * TAPS) % n_in, i / (TAPS * TAPS) / n_in);
            weight[((time * TAPS + frequency) * n_in + from) * n_out + to] = value;
        }
        Some(Self { weight, norm: norm.to_vec(), n_in, n_out, eps })
    }

    /// Returns the channels of one position of the output.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// Returns the positions along frequency that `n` positions become.
    pub fn side(n: usize) -> usize {
        n.div_ceil(2)
    }

    /// Computes one output row from the three rows around it; `None` is a row of zeros.
    ///
    /// Rows have `n_in` values at each position.
    pub fn row(&self, rows: [Option<&[f32]>; TAPS], out: &mut [f32]) {
        let per_tap = self.n_in * self.n_out;
        for (to, sums) in out.chunks_exact_mut(self.n_out).enumerate() {
            sums.fill(0.0);
            for (time, row) in rows.iter().enumerate() {
                let Some(row) = row else { continue };
                for frequency in 0..TAPS {
                    let Some(at) = (2 * to + frequency).checked_sub(1) else { continue };
                    let Some(x) = row.get(at * self.n_in..(at + 1) * self.n_in) else { continue };
                    let first = (time * TAPS + frequency) * per_tap;
                    accumulate(x, &self.weight[first..first + per_tap], sums);
                }
            }
            layer_norm_relu(sums, &self.norm, self.eps);
        }
    }
}

/// Adds `x` times the matrix `weight` (output fastest) to `sums`.
fn accumulate(x: &[f32], weight: &[f32], sums: &mut [f32]) {
    const LANES: usize = 32;
    let n_out = sums.len();
    for (block, part) in sums.chunks_mut(LANES).enumerate() {
        if let Ok(part) = <&mut [f32; LANES]>::try_from(&mut *part) {
            let mut local = *part;
            for (&v, row) in x.iter().zip(weight.chunks_exact(n_out)) {
                let row = &row[block * LANES..(block + 1) * LANES];
                for (sum, &w) in local.iter_mut().zip(row) {
                    *sum += v * w;
                }
            }
            *part = local;
        } else {
            for (&v, row) in x.iter().zip(weight.chunks_exact(n_out)) {
                for (sum, &w) in part.iter_mut().zip(&row[block * LANES..]) {
                    *sum += v * w;
                }
            }
        }
    }
}

/// Computes one row of a depthwise convolution: `out[c] = sum_k weight[k][c] rows[k][c]`.
pub fn depthwise<'a>(rows: impl Iterator<Item = &'a [f32]>, weight: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (row, taps) in rows.zip(weight.chunks_exact(out.len())) {
        for ((sum, &x), &w) in out.iter_mut().zip(row).zip(taps) {
            *sum += x * w;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    mod naive {
        /// The convolution as its formula, before the norm.
        pub(super) fn conv(
            rows: &[Vec<f32>],
            file: &[f32],
            (n_in, n_out): (usize, usize),
            (time, to, channel): (usize, usize, usize),
        ) -> f64 {
            let mut sum = 0.0;
            for dt in 0..3 {
                for df in 0..3 {
                    for from in 0..n_in {
                        let (Some(t), Some(f)) =
                            ((2 * time + dt).checked_sub(1), (2 * to + df).checked_sub(1))
                        else {
                            continue;
                        };
                        let x = rows.get(t).and_then(|r| r.get(f * n_in + from));
                        let w = file[((channel * n_in + from) * 3 + dt) * 3 + df];
                        sum += f64::from(x.copied().unwrap_or(0.0)) * f64::from(w);
                    }
                }
            }
            debug_assert!(channel < n_out);
            sum
        }
    }

    fn wave(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin()).collect()
    }

    #[test]
    fn strided_convolution_equals_its_formula() {
        for (n_in, n_out, n_f) in [(1, 128, 16), (5, 32, 9), (3, 7, 8), (2, 40, 1)] {
            let file = wave(9 * n_in * n_out, 0.37);
            let norm = wave(n_out, 0.9);
            let conv = StridedConv::new(&file, &norm, n_in, 1e-6).expect("lengths fit");
            let rows: Vec<_> = (0..4).map(|t| wave(n_f * n_in, 0.1 + t as f32)).collect();
            for time in 0..2 {
                let mut out = vec![9.0; StridedConv::side(n_f) * n_out];
                let row = |dt: usize| {
                    (2 * time + dt).checked_sub(1).and_then(|t| rows.get(t)).map(|r| &r[..])
                };
                conv.row([row(0), row(1), row(2)], &mut out);
                for to in 0..StridedConv::side(n_f) {
                    let y: Vec<f64> = (0..n_out)
                        .map(|c| naive::conv(&rows, &file, (n_in, n_out), (time, to, c)))
                        .collect();
                    let mean = y.iter().sum::<f64>() / n_out as f64;
                    let var = y.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n_out as f64;
                    for c in 0..n_out {
                        let want =
                            ((y[c] - mean) / (var + 1e-6).sqrt() * f64::from(norm[c])).max(0.0);
                        let got = f64::from(out[to * n_out + c]);
                        assert!((got - want).abs() < 1e-4, "{n_in} {n_out} {time} {to} {c}");
                    }
                }
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert!(StridedConv::new(&[0.0; 10], &[1.0; 2], 1, 1e-6).is_none());
        assert!(StridedConv::new(&[], &[], 1, 1e-6).is_none());
    }

    #[test]
    fn depthwise_sums_its_taps() {
        let rows = [wave(3, 0.5), wave(3, 1.5)];
        let weight = [1.0, 2.0, 3.0, 10.0, 20.0, 30.0];
        let mut out = [7.0; 3];
        depthwise(rows.iter().map(|r| &r[..]), &weight, &mut out);
        for c in 0..3 {
            let want = rows[0][c] * weight[c] + rows[1][c] * weight[3 + c];
            assert!((out[c] - want).abs() < 1e-4);
        }
    }
}
