//! Attention of tokens over a cache, as an operation of a graph.
//!
//! In: queries, the cache's cells and which of them each token sees. Out: mixed values.

use super::Answer;
use super::BLOCK;
use super::Cells;
use super::HEADS;
use super::STEP;
use super::WIDTH_MAX;
use super::fastest;
use crate::error::Result;
use crate::ggml::custom::Call;
use crate::ggml::custom::Split;
use crate::ggml::graph::GraphBuilder;
use crate::ggml::tensor::DType;
use crate::ggml::tensor::Tensor;

impl GraphBuilder {
    /// Attends: `q` `[d, n_head, m]`, `k` and `v` `[d * n_head_kv, n]` (f16, q8_0 or q4_0, both the
    /// same), `mask` `[n, m]` (f16, zero or minus infinity) give `[d, n_head, m]`, or `None` where
    /// ggml's attention has to do it. Scores are not scaled.
    ///
    /// # Errors
    /// `Internal` if the shapes do not fit.
    pub fn attend_cells<'g>(
        &'g self,
        [q, k, v]: [Tensor<'g>; 3],
        mask: Tensor<'g>,
    ) -> Result<Option<Tensor<'g>>> {
        let ([d, n_head, m, _], [width, n, ..]) = (q.shape().0, k.shape().0);
        let n_head_kv = width / d;
        let fits = !self.on_gpu()
            && [q, k, v, mask].iter().all(|t| t.is_contiguous())
            && q.dtype() == DType::F32
            && mask.dtype() == DType::F16
            && k.dtype() == v.dtype()
            && k.shape() == v.shape()
            && mask.shape().0[..2] == [n, m]
            && width == n_head_kv * d
            && n_head.is_multiple_of(n_head_kv * HEADS)
            && n.is_multiple_of(BLOCK)
            && d.is_multiple_of(STEP)
            && d <= WIDTH_MAX;
        let Some(answer) = fastest(k.dtype()).filter(|_| fits) else { return Ok(None) };
        self.count(2 * n * q.shape().n_elements());
        let dtype = k.dtype();
        let split = Split::Elements(HEADS * d);
        self.custom(&[d, n_head, m], &[q, k, v, mask], split, move |call| {
            attend(answer, (dtype, n), (d, n_head, n_head_kv), call);
        })
        .map(Some)
    }
}

/// Answers this thread's heads.
fn attend(
    answer: Answer,
    (dtype, n): (DType, usize),
    (d, n_head, n_head_kv): (usize, usize, usize),
    call: &mut Call<'_>,
) {
    let (q, mask) = (call.f32(0), call.f16_bits(3));
    let (keys, values) = (call.blocks(1, dtype), call.blocks(2, dtype));
    let stride = keys.len() / n;
    let first = call.first;
    for (i, out) in call.out.chunks_exact_mut(HEADS * d).enumerate() {
        let at = first + i * HEADS * d;
        let (token, head) = (at / (d * n_head), at / d % n_head);
        let column = head / (n_head / n_head_kv) * (stride / n_head_kv);
        let cells = Cells { keys, values, stride, column, mask: &mask[token * n..][..n] };
        answer(&q[at..][..HEADS * d], &cells, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::Backend;
    use crate::ggml::BackendOptions;
    use crate::ggml::Placement;
    use crate::ggml::Plan;
    use crate::ggml::Weight;

    const D: usize = 128;
    const N_HEAD: usize = 8;
    const N_HEAD_KV: usize = 2;

    fn wave(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin() * 0.7 + (i as f32 * 0.013).cos()).collect()
    }

    /// Queries of `m` tokens over `n` cells, of which token `t` sees those from `t` to `t + seen`.
    #[derive(Clone, Copy)]
    struct Case {
        n: usize,
        m: usize,
        seen: usize,
        kept: DType,
    }

    impl Case {
        fn sees(&self, t: usize, c: usize) -> bool {
            (t..t + self.seen).contains(&c)
        }

        /// Keys or values as they are kept.
        fn cells(&self, values: &[f32]) -> Vec<u8> {
            crate::ggml::quantize(self.kept, values, D * N_HEAD_KV).unwrap()
        }

        fn numbers(&self) -> [Vec<f32>; 3] {
            let len = D * N_HEAD_KV * self.n;
            [wave(D * N_HEAD * self.m, 0.37), wave(len, 0.731), wave(len, 0.119)]
        }

        /// Answers with the kernel, or with ggml's.
        fn answer(&self, threads: usize, by_ggml: bool) -> Option<Vec<f32>> {
            let options = BackendOptions { n_threads: threads, gpu: None };
            let mut backend = Backend::new(&options).unwrap();
            let g = GraphBuilder::new(32, &backend).unwrap();
            let [q, k, v] = self.numbers();
            let cells = |values: &[f32]| {
                let (bytes, sides) = (self.cells(values), [D * N_HEAD_KV, self.n]);
                g.weight(&Weight::of(self.kept, &bytes, &sides, Placement::Host, &backend))
            };
            let (k, v) = (cells(&k).unwrap(), cells(&v).unwrap());
            let (queries, q_port) = g.input(DType::F32, &[D * N_HEAD, self.m]).unwrap();
            let (mask, mask_port) = g.input(DType::F16, &[self.n, self.m]).unwrap();
            let queries = g.reshape(queries, &[D, N_HEAD, self.m]).unwrap();
            let out = if by_ggml {
                let cells = |t| {
                    let t = g.reshape(t, &[D, N_HEAD_KV, self.n]).unwrap();
                    g.permute(t, [0, 2, 1, 3]).unwrap()
                };
                let queries = g.permute(queries, [0, 2, 1, 3]).unwrap();
                g.attention([queries, cells(k), cells(v)], Some(mask), 1.0).unwrap()
            } else {
                g.attend_cells([queries, k, v], mask).unwrap()?
            };
            let out = g.output(out);
            let mut plan = Plan::new(g, &backend).unwrap();
            plan.write_f32(q_port, &q).unwrap();
            let cell = |i: usize| if self.sees(i / self.n, i % self.n) { 0 } else { 0xfc00 };
            let mask: Vec<u16> = (0..self.n * self.m).map(cell).collect();
            plan.write_f16_bits(mask_port, &mask).unwrap();
            plan.compute(&mut backend).unwrap();
            let mut got = vec![0.0; D * N_HEAD * self.m];
            plan.read_f32(out, 0, &mut got).unwrap();
            Some(got)
        }

        fn expected(&self) -> Vec<f64> {
            let [q, k, v] = self.numbers();
            let rounded = |values: &[f32]| {
                crate::ggml::dequantize(self.kept, &self.cells(values), values.len()).unwrap()
            };
            let (k, v) = (rounded(&k), rounded(&v));
            let mut out = Vec::new();
            for (i, q) in q.chunks(D).enumerate() {
                let (t, h) = (i / N_HEAD, i % N_HEAD / (N_HEAD / N_HEAD_KV));
                let row = |all: &[f32], c: usize| {
                    let row = &all[(c * N_HEAD_KV + h) * D..][..D];
                    row.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>()
                };
                let seen: Vec<usize> = (0..self.n).filter(|c| self.sees(t, *c)).collect();
                let score = |c: &usize| -> f64 {
                    row(&k, *c).iter().zip(q).map(|(a, b)| a * f64::from(*b)).sum()
                };
                let scores: Vec<f64> = seen.iter().map(score).collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut mixed = vec![0.0; D];
                for (c, w) in seen.iter().zip(&weights) {
                    mixed.iter_mut().zip(row(&v, *c)).for_each(|(m, v)| *m += w / sum * v);
                }
                out.extend(mixed);
            }
            out
        }
    }

    #[test]
    fn answers_equal_the_formula_and_depend_on_nothing_but_what_is_seen() {
        for kept in [DType::F16, DType::Q8_0, DType::Q4_0] {
            let case = Case { n: 512, m: 5, seen: 200, kept };
            let want = case.expected();
            let Some(got) = case.answer(2, false) else {
                return assert!(fastest(kept).is_none(), "a fast processor takes this shape");
            };
            let error = |got: &[f32]| {
                let pairs = got.iter().zip(&want);
                let apart: f64 = pairs.map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
                let size: f64 = want.iter().map(|b| b * b).sum();
                (apart / size).sqrt()
            };
            let by_ggml = case.answer(2, true).unwrap();
            assert!(error(&got) < 1e-5, "{kept}: {:.1e}", error(&got));
            assert!(error(&got) <= error(&by_ggml), "{kept}: {:.1e}", error(&by_ggml));
            for (m, threads) in [(5, 1), (5, 3), (1, 2)] {
                let some = Case { m, ..case }.answer(threads, false).unwrap();
                assert!(some == got[..m * D * N_HEAD], "{kept}: {m} tokens, {threads} threads");
            }
            // The keys are the same waves: more cells that nobody sees change nothing.
            let more = Case { n: 768, ..case }.answer(2, false).unwrap();
            assert!(more == got, "{kept}: unseen cells");
        }
    }

    #[test]
    fn other_shapes_are_left_to_ggml() {
        let backend = Backend::new(&BackendOptions { n_threads: 1, gpu: None }).unwrap();
        let g = GraphBuilder::new(16, &backend).unwrap();
        for (d, n_head, n_kv, n) in [(32, 4, 1, 64), (64, 2, 1, 64), (64, 4, 1, 32), (64, 6, 1, 64)]
        {
            let q = g.input(DType::F32, &[d, n_head, 1]).unwrap().0;
            let cells = g.input(DType::F16, &[d * n_kv, n]).unwrap().0;
            let mask = g.input(DType::F16, &[n, 1]).unwrap().0;
            let out = g.attend_cells([q, cells, cells], mask).unwrap();
            assert!(out.is_none(), "{d} {n_head} {n_kv} {n}");
        }
    }
}
