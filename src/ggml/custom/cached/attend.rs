//! Attention of tokens over a cache, as an operation of a graph.
//!
//! In: queries, the cache's cells and which of them each token sees. Out: mixed values.
//! Few tokens are answered chunk by chunk of the cells, by any thread, and the chunks joined
//! after that; many are answered each by one thread, which joins as it goes.

use super::Answer;
use super::BLOCK;
use super::CHUNK;
use super::Cells;
use super::HEADS;
use super::STEP;
use super::Tops;
use super::WIDTH_MAX;
use super::fastest;
use crate::error::Result;
use crate::ggml::custom::Call;
use crate::ggml::custom::Split;
use crate::ggml::graph::GraphBuilder;
use crate::ggml::tensor::DType;
use crate::ggml::tensor::Tensor;
use crate::kernel::math;

/// Most tokens whose chunks are answered apart: more keep all threads busy anyway.
const FEW: usize = 4;
/// Chunks from which on a thread takes all heads that share their keys, which are near then.
const MANY: usize = 8;
/// Numbers behind what four heads mixed: their [`Tops`], and a line of the caches to itself.
const TOPS: usize = 16;

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
        let form = Form { answer, dtype: k.dtype(), n, d, n_head, n_head_kv };
        let (inputs, heads) = ([q, k, v, mask], Split::Elements(HEADS * d));
        if n <= CHUNK || m > FEW {
            let attend = move |call: &mut Call<'_>| form.attend(call);
            return self.custom(&[d, n_head, m], &inputs, heads, attend).map(Some);
        }
        let [width, n_groups, n_chunks] = form.parts();
        let rows = if n_chunks < MANY { 1 } else { n_groups / n_head_kv };
        let parts = Split::Tiles { rows, columns: width };
        let sides = [width, n_groups, n_chunks, m];
        let parts = self.custom(&sides, &inputs, parts, move |call| form.attend_apart(call))?;
        self.custom(&[d, n_head, m], &[parts], heads, move |call| form.join(call)).map(Some)
    }
}

/// Returns the most bytes that `attend_cells` takes beside its result, for `n_head` heads of
/// `d` numbers, at most `m` tokens at a time and `n` cells.
pub fn attention_bytes(n_head: usize, d: usize, n: usize, m: usize) -> usize {
    let [width, n_groups, n_chunks] = parts(n_head, d, n);
    n_chunks.saturating_mul(m.min(FEW)).saturating_mul(n_groups * width * size_of::<f32>())
}

/// Returns the sides of what chunks of one token give: numbers of four heads, heads by four,
/// chunks.
fn parts(n_head: usize, d: usize, n: usize) -> [usize; 3] {
    [HEADS * d + TOPS, n_head.div_ceil(HEADS), n.div_ceil(CHUNK)]
}

/// What heads look like.
#[derive(Clone, Copy)]
struct Form {
    answer: Answer,
    dtype: DType,
    /// Cells.
    n: usize,
    d: usize,
    n_head: usize,
    n_head_kv: usize,
}

impl Form {
    /// Returns the [`parts`] of these heads.
    fn parts(&self) -> [usize; 3] {
        parts(self.n_head, self.d, self.n)
    }

    /// Answers four heads of a token from one chunk.
    fn answer(
        &self,
        call: &Call<'_>,
        (token, head): (usize, usize),
        chunk: usize,
        mixed: &mut [f32],
    ) -> Tops {
        let (q, mask) = (call.f32(0), call.f16_bits(3));
        let (keys, values) = (call.blocks(1, self.dtype), call.blocks(2, self.dtype));
        let stride = keys.len() / self.n;
        let cells = chunk * CHUNK..self.n.min((chunk + 1) * CHUNK);
        let bytes = cells.start * stride..cells.end * stride;
        let cells = Cells {
            keys: &keys[bytes.clone()],
            values: &values[bytes],
            stride,
            column: head / (self.n_head / self.n_head_kv) * (stride / self.n_head_kv),
            mask: &mask[token * self.n..][cells],
        };
        let at = (token * self.n_head + head) * self.d;
        (self.answer)(&q[at..][..HEADS * self.d], &cells, mixed)
    }

    /// Answers this thread's heads.
    fn attend(&self, call: &mut Call<'_>) {
        let [.., n_chunks] = self.parts();
        let mut more = [0.0; HEADS * WIDTH_MAX];
        let more = &mut more[..HEADS * self.d];
        let (first, out) = (call.first, std::mem::take(&mut call.out));
        for (i, mixed) in out.chunks_exact_mut(HEADS * self.d).enumerate() {
            let head = first / self.d + i * HEADS;
            let of = (head / self.n_head, head % self.n_head);
            let mut tops = self.answer(call, of, 0, mixed);
            for chunk in 1..n_chunks {
                let of_more = self.answer(call, of, chunk, more);
                tops.join(mixed, &of_more, more);
            }
            tops.finish(mixed);
        }
    }

    /// Answers four heads at a time from chunks, as this thread gets them: see [`Form::join`].
    fn attend_apart(&self, call: &mut Call<'_>) {
        let [_, n_groups, n_chunks] = self.parts();
        let mut mixed = [0.0; HEADS * WIDTH_MAX];
        let mixed = &mut mixed[..HEADS * self.d];
        while let Some(mut own) = call.take() {
            for row in own.rows() {
                let of = (row / n_groups / n_chunks, row % n_groups * HEADS);
                let tops = self.answer(call, of, row / n_groups % n_chunks, mixed);
                own.put(row, 0, mixed);
                own.put(row, mixed.len(), &tops.most);
                own.put(row, mixed.len() + HEADS, &tops.sum);
            }
        }
    }

    /// Joins what chunks gave, for this thread's heads.
    fn join(&self, call: &mut Call<'_>) {
        let [width, n_groups, n_chunks] = self.parts();
        let (parts, len) = (call.f32(0), HEADS * self.d);
        let first = call.first / len;
        for (i, mixed) in call.out.chunks_exact_mut(len).enumerate() {
            let (token, group) = ((first + i) / n_groups, (first + i) % n_groups);
            let part = |chunk: usize| {
                let row = (token * n_chunks + chunk) * n_groups + group;
                parts[row * width..][..width].split_at(len)
            };
            let (start, tops) = part(0);
            mixed.copy_from_slice(start);
            let mut tops = Tops::of(tops);
            for chunk in 1..n_chunks {
                let (more, of_more) = part(chunk);
                tops.join(mixed, &Tops::of(of_more), more);
            }
            tops.finish(mixed);
        }
    }
}

impl Tops {
    /// Reads those that a chunk left.
    fn of(numbers: &[f32]) -> Self {
        let four = |first: usize| std::array::from_fn(|h| numbers[first + h]);
        Self { most: four(0), sum: four(HEADS) }
    }

    /// Adds what came of more cells.
    fn join(&mut self, mixed: &mut [f32], other: &Self, more: &[f32]) {
        let d = mixed.len() / HEADS;
        let heads = mixed.chunks_exact_mut(d).zip(more.chunks_exact(d)).enumerate();
        for (h, (mixed, more)) in heads.filter(|(h, _)| other.sum[*h] > 0.0) {
            if self.sum[h] == 0.0 {
                mixed.copy_from_slice(more);
                (self.most[h], self.sum[h]) = (other.most[h], other.sum[h]);
                continue;
            }
            let most = self.most[h].max(other.most[h]);
            let faded = |of: f32| if of == most { 1.0 } else { math::exp(of - most) };
            let (old, new) = (faded(self.most[h]), faded(other.most[h]));
            (self.most[h], self.sum[h]) = (most, self.sum[h] * old + other.sum[h] * new);
            mixed.iter_mut().zip(more).for_each(|(a, b)| *a = *a * old + b * new);
        }
    }

    /// Divides by the sums of the weights.
    fn finish(&self, mixed: &mut [f32]) {
        let d = mixed.len() / HEADS;
        for (mixed, sum) in mixed.chunks_exact_mut(d).zip(self.sum) {
            let factor = 1.0 / sum;
            mixed.iter_mut().for_each(|v| *v *= factor);
        }
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
            let case = Case { n: 768, m: 5, seen: 600, kept };
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
            for (m, threads) in [(5, 1), (5, 3), (1, 2), (2, 5), (4, 1)] {
                let some = Case { m, ..case }.answer(threads, false).unwrap();
                assert!(some == got[..m * D * N_HEAD], "{kept}: {m} tokens, {threads} threads");
            }
            // The keys are the same waves: more cells that nobody sees change nothing.
            for m in [5, 1] {
                let more = Case { n: 2304, m, ..case }.answer(2, false).unwrap();
                assert!(more == got[..m * D * N_HEAD], "{kept}: unseen cells, {m} tokens");
            }
            // What fits in one chunk is the same where there are several.
            let [one, three] = [256, 768].map(|n| Case { n, m: 1, seen: 200, kept });
            assert!(one.answer(2, false) == three.answer(2, false), "{kept}: one chunk");
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
