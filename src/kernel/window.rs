//! Attention of one audio frame over the newest frames, with relative positions and a soft cap.
//!
//! In: one query, keys and values oldest first. Out: the mixed values of one head.
//! Source: Gemma 4 audio encoder as in transformers 5.23.0 `models/gemma4/modeling_gemma4.py`.

use super::math;

/// Most keys that one frame sees: itself and those before it.
pub const KEYS_MAX: usize = 12;

/// What is the same for all frames of one head.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Relative keys of this head, distance 0 first, each as long as the query.
    pub relative: &'a [f32],
    /// Factor of the products with keys.
    pub key_scale: f32,
    /// Logits are `cap * tanh(logit / cap)`.
    pub cap: f32,
}

impl Head<'_> {
    /// Writes `softmax(cap(key_scale q k + q r)) v` to `out`; the last key has distance 0.
    ///
    /// Only the newest [`KEYS_MAX`] of `keys` and `values` count.
    pub fn attend(&self, query: &[f32], keys: &[&[f32]], values: &[&[f32]], out: &mut [f32]) {
        let n = keys.len().min(values.len()).min(KEYS_MAX);
        let (keys, values) = (&keys[keys.len() - n..], &values[values.len() - n..]);
        let mut weights = [0.0f32; KEYS_MAX];
        let mut most = f32::NEG_INFINITY;
        for (i, key) in keys.iter().enumerate() {
            let distance = n - 1 - i;
            let relative = &self.relative[distance * query.len()..(distance + 1) * query.len()];
            let logit = self.key_scale * math::dot(query, key) + math::dot(query, relative);
            weights[i] = self.cap * math::tanh(logit / self.cap);
            most = most.max(weights[i]);
        }
        let mut sum = 0.0;
        for weight in &mut weights[..n] {
            *weight = math::exp(*weight - most);
            sum += *weight;
        }
        out.fill(0.0);
        for (weight, value) in weights.iter().zip(values) {
            let weight = weight / sum;
            for (o, &v) in out.iter_mut().zip(*value) {
                *o += weight * v;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    mod naive {
        use super::KEYS_MAX;

        pub(super) fn attend(
            (relative, scale, cap): (&[f32], f64, f64),
            query: &[f32],
            keys: &[&[f32]],
            values: &[&[f32]],
        ) -> Vec<f64> {
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
            };
            let n = keys.len();
            let first = n.saturating_sub(KEYS_MAX);
            let logits: Vec<f64> = (first..n)
                .map(|u| {
                    let r = &relative[(n - 1 - u) * query.len()..][..query.len()];
                    cap * ((scale * dot(query, keys[u]) + dot(query, r)) / cap).tanh()
                })
                .collect();
            let sum: f64 = logits.iter().map(|l| l.exp()).sum();
            (0..query.len())
                .map(|i| {
                    (first..n)
                        .map(|u| logits[u - first].exp() / sum * f64::from(values[u][i]))
                        .sum()
                })
                .collect()
        }
    }

    #[test]
    fn twins_agree() {
        for (d, n) in [(128, 1), (128, 12), (128, 30), (8, 5), (20, 12)] {
            let wave = |k: usize, len: usize| -> Vec<f32> {
                (0..len).map(|i| ((i * 31 + k * 17) as f32 * 0.1).sin()).collect()
            };
            let rows = |k: usize| -> Vec<Vec<f32>> { (0..n).map(|i| wave(k + i, d)).collect() };
            let (query, relative) = (wave(3, d), wave(4, 13 * d));
            let (keys, values) = (rows(5), rows(500));
            let keys: Vec<&[f32]> = keys.iter().map(|r| &r[..]).collect();
            let values: Vec<&[f32]> = values.iter().map(|r| &r[..]).collect();
            let head = Head { relative: &relative, key_scale: 1.9, cap: 50.0 };
            let mut out = vec![7.0; d];
            head.attend(&query, &keys, &values, &mut out);
            let want = naive::attend((&relative, 1.9, 50.0), &query, &keys, &values);
            for (got, want) in out.iter().zip(&want) {
                assert!((f64::from(*got) - want).abs() < 1e-4, "{d} {n}: {got} {want}");
            }
        }
    }
}
