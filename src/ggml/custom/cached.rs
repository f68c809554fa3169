//! Attention of tokens over a cache of keys and values in half precision.
//!
//! In: queries, the cache's cells and which of them each token sees. Out: mixed values.
//! Four heads that share their keys go through the cells together, so that a cell is widened once
//! for all four.
//! Source: online softmax (Milakov and Gimelshein, 2018).
//! Invariant: a head's answer depends on its query and the cells it sees alone, bit for bit: not
//! on the batch, the threads, or how many cells it does not see.

use crate::error::Result;
use crate::ggml::custom::Call;
use crate::ggml::custom::Split;
use crate::ggml::graph::GraphBuilder;
use crate::ggml::tensor::DType;
use crate::ggml::tensor::Tensor;

/// Heads that are answered together.
const HEADS: usize = 4;
/// Cells between two looks at the greatest score; what a cache has is a multiple of it.
const BLOCK: usize = 64;
/// A mask's value for a cell that is not seen: minus infinity.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only the kernel for AVX-512 reads it")
)]
const HIDDEN: u16 = 0xfc00;
/// Widths of heads are a multiple of it.
const STEP: usize = 64;
/// Widest head.
const WIDTH_MAX: usize = 512;

impl GraphBuilder {
    /// Attends: `q` `[d, n_head, m]`, `k` and `v` `[d * n_head_kv, n]` (f16), `mask` `[n, m]`
    /// (f16, zero or minus infinity) give `[d, n_head, m]`, or `None` where ggml's attention has to
    /// do it. Scores are not scaled.
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
        let halves = [k, v, mask].iter().all(|t| t.dtype() == DType::F16 && t.is_contiguous());
        let fits = !self.on_gpu()
            && halves
            && q.dtype() == DType::F32
            && q.is_contiguous()
            && k.shape() == v.shape()
            && mask.shape().0[..2] == [n, m]
            && width == n_head_kv * d
            && n_head.is_multiple_of(n_head_kv * HEADS)
            && n.is_multiple_of(BLOCK)
            && d.is_multiple_of(STEP)
            && d <= WIDTH_MAX;
        let Some(answer) = fastest().filter(|_| fits) else { return Ok(None) };
        self.count(2 * n * q.shape().n_elements());
        let sides = Sides { d, n_head, n_head_kv };
        let split = Split::Elements(HEADS * d);
        self.custom(&[d, n_head, m], &[q, k, v, mask], split, move |call| {
            attend(answer, sides, call);
        })
        .map(Some)
    }
}

/// Answers the queries of four heads from what they look at.
type Answer = fn(q: &[f32], cells: &Cells<'_>, out: &mut [f32]);

fn fastest() -> Option<Answer> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return Some(avx512::answer);
    }
    None
}

#[derive(Clone, Copy)]
struct Sides {
    d: usize,
    n_head: usize,
    n_head_kv: usize,
}

/// What four heads of one token look at.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only the kernel for AVX-512 reads it")
)]
struct Cells<'a> {
    keys: &'a [u16],
    values: &'a [u16],
    /// Numbers of one cell, and the first of them that is these heads'.
    stride: usize,
    column: usize,
    mask: &'a [u16],
}

/// Answers this thread's heads.
fn attend(answer: Answer, sides: Sides, call: &mut Call<'_>) {
    let Sides { d, n_head, n_head_kv } = sides;
    let (q, mask) = (call.f32(0), call.f16_bits(3));
    let (keys, values) = (call.f16_bits(1), call.f16_bits(2));
    let stride = d * n_head_kv;
    let n = keys.len() / stride;
    let first = call.first;
    for (i, out) in call.out.chunks_exact_mut(HEADS * d).enumerate() {
        let at = first + i * HEADS * d;
        let (token, head) = (at / (d * n_head), at / d % n_head);
        let column = head / (n_head / n_head_kv) * d;
        let cells = Cells { keys, values, stride, column, mask: &mask[token * n..][..n] };
        answer(&q[at..][..HEADS * d], &cells, out);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::__m512;
    use std::arch::x86_64::_MM_HINT_T1;
    use std::arch::x86_64::_mm_prefetch;
    use std::arch::x86_64::_mm_storeu_ps;
    use std::arch::x86_64::_mm256_loadu_si256;
    use std::arch::x86_64::_mm512_add_ps;
    use std::arch::x86_64::_mm512_castpd_ps;
    use std::arch::x86_64::_mm512_castps_pd;
    use std::arch::x86_64::_mm512_cvtph_ps;
    use std::arch::x86_64::_mm512_extractf32x4_ps;
    use std::arch::x86_64::_mm512_fmadd_ps;
    use std::arch::x86_64::_mm512_loadu_ps;
    use std::arch::x86_64::_mm512_mul_ps;
    use std::arch::x86_64::_mm512_set1_ps;
    use std::arch::x86_64::_mm512_setzero_ps;
    use std::arch::x86_64::_mm512_shuffle_f32x4;
    use std::arch::x86_64::_mm512_storeu_ps;
    use std::arch::x86_64::_mm512_unpackhi_pd;
    use std::arch::x86_64::_mm512_unpackhi_ps;
    use std::arch::x86_64::_mm512_unpacklo_pd;
    use std::arch::x86_64::_mm512_unpacklo_ps;

    use super::BLOCK;
    use super::Cells;
    use super::HEADS;
    use super::HIDDEN;
    use super::STEP;
    use super::WIDTH_MAX;
    use crate::kernel::math;

    /// Values of one register.
    const LANES: usize = 16;

    /// Scores, then weights, of a block of cells.
    type Scores = [[f32; BLOCK]; HEADS];

    pub(super) fn answer(q: &[f32], cells: &Cells<'_>, out: &mut [f32]) {
        let d = q.len() / HEADS;
        let fits = q.len() == out.len() && d.is_multiple_of(STEP) && d <= WIDTH_MAX;
        assert!(fits && cells.mask.len().is_multiple_of(BLOCK), "four heads, whole blocks");
        // SAFETY: this function is only handed out where the processor has AVX-512.
        unsafe { run(q, cells, out) }
    }

    #[target_feature(enable = "avx512f")]
    fn run(q: &[f32], cells: &Cells<'_>, out: &mut [f32]) {
        let d = q.len() / HEADS;
        let (mut most, mut sum) = ([f32::NEG_INFINITY; HEADS], [0.0; HEADS]);
        let mut mixed = [0.0; HEADS * WIDTH_MAX];
        let mixed = &mut mixed[..HEADS * d];
        for (b, mask) in cells.mask.chunks_exact(BLOCK).enumerate() {
            if mask.iter().all(|m| *m == HIDDEN) {
                continue;
            }
            let first = b * BLOCK * cells.stride + cells.column;
            let len = (BLOCK - 1) * cells.stride + d;
            let (keys, values) = (&cells.keys[first..][..len], &cells.values[first..][..len]);
            let next = keys.as_ptr().wrapping_add(BLOCK * cells.stride);
            let mut scores = score(q, keys, cells.stride, values.as_ptr());
            let faded = weigh(&mut scores, mask, &mut most, &mut sum);
            mix(&scores, faded, values, (cells.stride, next), mixed);
        }
        for ((out, mixed), sum) in out.chunks_exact_mut(d).zip(mixed.chunks_exact(d)).zip(sum) {
            let factor = 1.0 / sum;
            out.iter_mut().zip(mixed).for_each(|(o, v)| *o = v * factor);
        }
    }

    /// Asks memory for sixteen numbers, if they are the first of a line, before they are wanted.
    #[inline]
    fn ask_for(ahead: *const u16, i: usize) {
        // SAFETY: every processor of this kind has the instruction, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(i).cast()) };
    }

    /// Multiplies four queries with the keys of a block, four at a time; memory is asked for what
    /// lies at the same places from `ahead` on.
    #[target_feature(enable = "avx512f")]
    fn score(q: &[f32], keys: &[u16], stride: usize, ahead: *const u16) -> Scores {
        let d = q.len() / HEADS;
        assert!(keys.len() == (BLOCK - 1) * stride + d, "a block of keys");
        let mut scores = [[0.0; BLOCK]; HEADS];
        for c in (0..BLOCK).step_by(4) {
            let mut sums = [[_mm512_setzero_ps(); 4]; HEADS];
            for i in (0..d).step_by(LANES) {
                // SAFETY: cell `c + j` has `d` numbers, see above; so has every query.
                let key = |j: usize| unsafe { widened(keys.as_ptr().add((c + j) * stride + i)) };
                let key = [key(0), key(1), key(2), key(3)];
                if i.is_multiple_of(2 * LANES) {
                    (0..4).for_each(|j| ask_for(ahead, (c + j) * stride + i));
                }
                for (h, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: as above.
                    let query = unsafe { _mm512_loadu_ps(q.as_ptr().add(h * d + i)) };
                    for (sum, key) in sums.iter_mut().zip(key) {
                        *sum = _mm512_fmadd_ps(query, key, *sum);
                    }
                }
            }
            let all = total(sums.map(|[a, b, c, d]| fold(a, b, c, d)));
            // SAFETY: there is room for four numbers from `c` on, in every row.
            unsafe {
                let at = |h: usize, scores: &mut Scores| scores[h].as_mut_ptr().add(c);
                _mm_storeu_ps(at(0, &mut scores), _mm512_extractf32x4_ps::<0>(all));
                _mm_storeu_ps(at(1, &mut scores), _mm512_extractf32x4_ps::<1>(all));
                _mm_storeu_ps(at(2, &mut scores), _mm512_extractf32x4_ps::<2>(all));
                _mm_storeu_ps(at(3, &mut scores), _mm512_extractf32x4_ps::<3>(all));
            }
        }
        scores
    }

    /// Loads sixteen numbers in half precision.
    ///
    /// # Safety
    /// They are readable.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn widened(at: *const u16) -> __m512 {
        // SAFETY: by the caller's promise.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.cast()) })
    }

    /// Sums each quarter of four registers: four numbers in each quarter.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn fold(a: __m512, b: __m512, c: __m512, d: __m512) -> __m512 {
        let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
        let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
        _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
    }

    /// Adds up the quarters of each of four registers: quarter `i` of the result is register `i`'s.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn total([a, b, c, d]: [__m512; 4]) -> __m512 {
        let two = |a, b| {
            let (low, high) =
                (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
            _mm512_add_ps(low, high)
        };
        let (ab, cd) = (two(a, b), two(c, d));
        let (even, odd) =
            (_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
        _mm512_add_ps(even, odd)
    }

    /// Turns scores into weights; returns the factors of what was mixed with older ones.
    #[target_feature(enable = "avx512f")]
    fn weigh(
        scores: &mut Scores,
        mask: &[u16],
        most: &mut [f32; HEADS],
        sum: &mut [f32; HEADS],
    ) -> [f32; HEADS] {
        let mut faded = [0.0; HEADS];
        for (h, scores) in scores.iter_mut().enumerate() {
            let mut lanes = [most[h]; LANES];
            let chunks = scores.as_chunks_mut::<LANES>().0.iter_mut();
            for (scores, mask) in chunks.zip(mask.as_chunks::<LANES>().0) {
                for ((score, mask), lane) in scores.iter_mut().zip(mask).zip(&mut lanes) {
                    *score = if *mask == HIDDEN { f32::NEG_INFINITY } else { *score };
                    *lane = if *score > *lane { *score } else { *lane };
                }
            }
            let now = lanes.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a });
            // Before anything was seen there is nothing to fade.
            faded[h] = if most[h] == now { 1.0 } else { math::exp(most[h] - now) };
            most[h] = now;
            let mut lanes = [0.0; LANES];
            for scores in scores.as_chunks_mut::<LANES>().0 {
                for (score, lane) in scores.iter_mut().zip(&mut lanes) {
                    let weight = math::exp(*score - now);
                    *score = if *score == f32::NEG_INFINITY { 0.0 } else { weight };
                    *lane += *score;
                }
            }
            sum[h] = sum[h] * faded[h] + lanes.iter().sum::<f32>();
        }
        faded
    }

    /// Adds the weighted values of a block; memory is asked for what lies at the same places from
    /// `ahead` on.
    #[target_feature(enable = "avx512f")]
    fn mix(
        weights: &Scores,
        faded: [f32; HEADS],
        values: &[u16],
        (stride, ahead): (usize, *const u16),
        mixed: &mut [f32],
    ) {
        let d = mixed.len() / HEADS;
        assert!(values.len() == (BLOCK - 1) * stride + d, "a block of values");
        for i in (0..d).step_by(STEP) {
            let mut sums = [[_mm512_setzero_ps(); STEP / LANES]; HEADS];
            for (h, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: every head has `d` numbers.
                    let old = unsafe { _mm512_loadu_ps(mixed.as_ptr().add(h * d + i + j * LANES)) };
                    *sum = _mm512_mul_ps(old, _mm512_set1_ps(faded[h]));
                }
            }
            for c in 0..BLOCK {
                // SAFETY: cell `c` has `d` numbers, see above.
                let value =
                    |j: usize| unsafe { widened(values.as_ptr().add(c * stride + i + j * LANES)) };
                let value = [value(0), value(1), value(2), value(3)];
                [0, 2 * LANES].into_iter().for_each(|j| ask_for(ahead, c * stride + i + j));
                for (weights, sums) in weights.iter().zip(&mut sums) {
                    let weight = _mm512_set1_ps(weights[c]);
                    for (sum, value) in sums.iter_mut().zip(value) {
                        *sum = _mm512_fmadd_ps(weight, value, *sum);
                    }
                }
            }
            for (h, sums) in sums.iter().enumerate() {
                for (j, sum) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe {
                        _mm512_storeu_ps(mixed.as_mut_ptr().add(h * d + i + j * LANES), *sum);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::Backend;
    use crate::ggml::BackendOptions;
    use crate::ggml::Plan;

    const D: usize = 128;
    const N_HEAD: usize = 8;
    const N_HEAD_KV: usize = 2;

    fn wave(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin() * 0.7 + (i as f32 * 0.013).cos()).collect()
    }

    /// Queries of `m` tokens over `n` cells, of which token `t` sees those from `t` to `t + seen`.
    struct Case {
        n: usize,
        m: usize,
        seen: usize,
    }

    impl Case {
        fn sees(&self, t: usize, c: usize) -> bool {
            (t..t + self.seen).contains(&c)
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
            let sides = [[D * N_HEAD, self.m], [D * N_HEAD_KV, self.n], [D * N_HEAD_KV, self.n]];
            let types = [DType::F32, DType::F16, DType::F16];
            let input = |i: usize| g.input(types[i], &sides[i]).unwrap();
            let ((q, q_port), (k, k_port), (v, v_port)) = (input(0), input(1), input(2));
            let (mask, mask_port) = g.input(DType::F16, &[self.n, self.m]).unwrap();
            let q = g.reshape(q, &[D, N_HEAD, self.m]).unwrap();
            let out = if by_ggml {
                let cells = |t| {
                    let t = g.reshape(t, &[D, N_HEAD_KV, self.n]).unwrap();
                    g.permute(t, [0, 2, 1, 3]).unwrap()
                };
                let q = g.permute(q, [0, 2, 1, 3]).unwrap();
                g.attention([q, cells(k), cells(v)], Some(mask), 1.0).unwrap()
            } else {
                g.attend_cells([q, k, v], mask).unwrap()?
            };
            let out = g.output(out);
            let mut plan = Plan::new(g, &backend).unwrap();
            let [q, k, v] = self.numbers();
            plan.write_f32(q_port, &q).unwrap();
            plan.write_f16_bits(k_port, &halves(&k)).unwrap();
            plan.write_f16_bits(v_port, &halves(&v)).unwrap();
            let cell = |i: usize| if self.sees(i / self.n, i % self.n) { 0 } else { HIDDEN };
            let mask: Vec<u16> = (0..self.n * self.m).map(cell).collect();
            plan.write_f16_bits(mask_port, &mask).unwrap();
            plan.compute(&mut backend).unwrap();
            let mut got = vec![0.0; D * N_HEAD * self.m];
            plan.read_f32(out, 0, &mut got).unwrap();
            Some(got)
        }

        fn expected(&self) -> Vec<f64> {
            let [q, k, v] = self.numbers();
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

    fn halves(values: &[f32]) -> Vec<u16> {
        let bytes = crate::ggml::quantize(DType::F16, values, values.len()).unwrap();
        bytes.as_chunks::<2>().0.iter().map(|b| u16::from_ne_bytes(*b)).collect()
    }

    fn rounded(values: &[f32]) -> Vec<f32> {
        let bytes = crate::ggml::quantize(DType::F16, values, values.len()).unwrap();
        crate::ggml::dequantize(DType::F16, &bytes, values.len()).unwrap()
    }

    #[test]
    fn answers_equal_the_formula_and_depend_on_nothing_but_what_is_seen() {
        let case = Case { n: 512, m: 5, seen: 200 };
        let want = case.expected();
        let Some(got) = case.answer(2, false) else {
            return assert!(fastest().is_none(), "a fast processor takes this shape");
        };
        let error = |got: &[f32]| {
            let apart: f64 = got.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
            let size: f64 = want.iter().map(|b| b * b).sum();
            (apart / size).sqrt()
        };
        let by_ggml = case.answer(2, true).unwrap();
        assert!(error(&got) < 1e-5, "{:.1e}", error(&got));
        assert!(error(&got) <= error(&by_ggml), "{:.1e}", error(&by_ggml));
        for (m, threads) in [(5, 1), (5, 3), (1, 2)] {
            let some = Case { m, ..case }.answer(threads, false).unwrap();
            assert!(some == got[..m * D * N_HEAD], "{m} tokens, {threads} threads");
        }
        // The keys are the same waves: more cells that nobody sees change nothing.
        let more = Case { n: 768, ..case }.answer(2, false).unwrap();
        assert!(more == got, "unseen cells");
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
