//! Products of a weight with many rows: pictures, not tokens.
//!
//! In: a weight in the mapping and rows of f32. Out: rows of f32.
//! A panel of the weight is unpacked once and used for all of a thread's rows, so that any
//! storage type costs the same. 32-bit weights are multiplied as floats; others, which are rounded
//! already, as 13-bit integers where the processor is faster so.
//! Invariant: a row of the result depends on its own row and the weight alone.

use std::sync::Arc;

use crate::error::Result;
use crate::ggml::buffer::Weight;
use crate::ggml::custom::Split;
use crate::ggml::custom::tiles;
use crate::ggml::graph::GraphBuilder;
use crate::ggml::tensor::DType;
use crate::ggml::tensor::Tensor;
use crate::ggml::tensor::dequantize_into;
use crate::kernel::tile::BLOCK;
use crate::kernel::tile::Fixed;
use crate::kernel::tile::FixedTile;
use crate::kernel::tile::FloatTile;
use crate::kernel::tile::LANES;
use crate::kernel::tile::ROWS;
use crate::kernel::tile::Tile;
use crate::kernel::tile::pack_fixed;
use crate::kernel::tile::pack_float;

/// Fewest rows for which unpacking the weight pays.
const ROWS_MIN: usize = 48;
/// Steps whose part of a panel stays in the nearest cache.
const CHUNK: usize = 6 * BLOCK;

impl GraphBuilder {
    /// Multiplies a weight `[k, n]` with many rows `[k, m]`, which gives `[n, m]`.
    ///
    /// # Errors
    /// `Internal` if the shapes do not fit.
    pub fn mul_rows<'g>(&'g self, weight: &Weight, x: Tensor<'g>) -> Result<Tensor<'g>> {
        let (k, n_values) = (x.side(0), weight.shape().n_elements());
        let form = Form::of(weight.dtype());
        let whole = x.dtype() == DType::F32
            && n_values.is_multiple_of(k)
            && weight.dtype().row_bytes(k).is_some();
        let n = n_values / k;
        if !whole || x.shape().0[2..] != [1, 1] {
            return self.fail("mul_rows", &[x]);
        }
        let ours = !self.on_gpu() && weight.host_bytes().is_some();
        if ours
            && x.side(1) < ROWS_MIN
            && let Some(y) = self.mul_few(weight, x)?
        {
            return Ok(y);
        }
        let (Some(form), true) = (form, ours && x.side(1) >= ROWS_MIN) else {
            let w = self.weight(weight)?;
            let w = if w.side(0) == k { w } else { self.reshape(w, &[k, n])? };
            return self.mul_mat(w, x);
        };
        self.count(n_values * x.side(1));
        self.keep.borrow_mut().push(weight.keep());
        let weight = Arc::new(weight.clone());
        self.custom(&[n, x.side(1)], &[x], Split::Rows, move |call| {
            let m = call.out.len() / n;
            let x = &call.f32(0)[call.first_row() * k..][..m * k];
            match form {
                Form::Float(tile) => product(&FloatForm(tile), &weight, (x, k), (call.out, n)),
                Form::Fixed(tile) => product(&FixedForm(tile), &weight, (x, k), (call.out, n)),
            }
        })
    }

    /// Returns the tile that attention multiplies with.
    pub fn attention_tile(&self) -> FloatTile {
        tiles::float()
    }
}

#[derive(Clone, Copy)]
enum Form {
    Float(FloatTile),
    Fixed(FixedTile),
}

impl Form {
    /// Returns the form for weights of a type, or `None` where ggml's own product is as fast.
    fn of(dtype: DType) -> Option<Self> {
        match tiles::fixed() {
            Some(tile) if dtype != DType::F32 => Some(Self::Fixed(tile)),
            _ => tiles::has_fast_float().then(|| Self::Float(tiles::float())),
        }
    }
}

/// How operands are packed and multiplied.
trait Operands {
    /// Packed rows of `N` at a time.
    type Packed<const N: usize>;
    /// Makes room for `n_groups` groups of `N` rows of `k` values.
    fn room<const N: usize>(&self, n_groups: usize, k: usize) -> Self::Packed<N>;
    /// Packs `row` as number `index` of `group`.
    fn pack<const N: usize>(
        &self,
        to: &mut Self::Packed<N>,
        k: usize,
        at: (usize, usize),
        row: &[f32],
    );
    /// Adds the products of steps `first ..` of a group of `a` with group 0 of `b`.
    fn add(
        &self,
        a: (&Self::Packed<ROWS>, usize),
        b: &Self::Packed<LANES>,
        steps: (usize, usize),
        tile: &mut Tile,
    );
}

struct FloatForm(FloatTile);

impl Operands for FloatForm {
    type Packed<const N: usize> = Vec<[f32; N]>;

    fn room<const N: usize>(&self, n_groups: usize, k: usize) -> Self::Packed<N> {
        vec![[0.0; N]; n_groups * k]
    }

    fn pack<const N: usize>(
        &self,
        to: &mut Self::Packed<N>,
        k: usize,
        (group, index): (usize, usize),
        row: &[f32],
    ) {
        pack_float(row, index, &mut to[group * k..(group + 1) * k]);
    }

    fn add(
        &self,
        (a, group): (&Self::Packed<ROWS>, usize),
        b: &Self::Packed<LANES>,
        (first, k): (usize, usize),
        tile: &mut Tile,
    ) {
        let end = (first + CHUNK).min(k);
        (self.0)(&a[group * k + first..group * k + end], &b[first..end], tile);
    }
}

struct FixedForm(FixedTile);

/// Integers of groups of rows.
struct Integers<const N: usize> {
    words: Vec<[i32; N]>,
    scales: Vec<[f32; N]>,
}

impl Operands for FixedForm {
    type Packed<const N: usize> = Integers<N>;

    fn room<const N: usize>(&self, n_groups: usize, k: usize) -> Self::Packed<N> {
        let n_blocks = n_groups * k.div_ceil(BLOCK);
        Integers { words: vec![[0; N]; n_blocks * BLOCK / 2], scales: vec![[0.0; N]; n_blocks] }
    }

    fn pack<const N: usize>(
        &self,
        to: &mut Self::Packed<N>,
        k: usize,
        (group, index): (usize, usize),
        row: &[f32],
    ) {
        let n_blocks = k.div_ceil(BLOCK);
        let words = &mut to.words[group * n_blocks * BLOCK / 2..][..n_blocks * BLOCK / 2];
        pack_fixed(row, index, words, &mut to.scales[group * n_blocks..][..n_blocks]);
    }

    fn add(
        &self,
        (a, group): (&Self::Packed<ROWS>, usize),
        b: &Self::Packed<LANES>,
        (first, k): (usize, usize),
        tile: &mut Tile,
    ) {
        let n_blocks = k.div_ceil(BLOCK);
        let (first, end) = (first / BLOCK, (first + CHUNK).min(k).div_ceil(BLOCK));
        let blocks = group * n_blocks + first..group * n_blocks + end;
        let words = blocks.start * BLOCK / 2..blocks.end * BLOCK / 2;
        let a = Fixed { words: &a.words[words], scales: &a.scales[blocks] };
        let words = first * BLOCK / 2..end * BLOCK / 2;
        let b = Fixed { words: &b.words[words], scales: &b.scales[first..end] };
        (self.0)(a, b, tile);
    }
}

/// Multiplies rows of `k` values with the whole weight into rows of `n`.
fn product<O: Operands>(
    form: &O,
    weight: &Weight,
    (x, k): (&[f32], usize),
    (out, n): (&mut [f32], usize),
) {
    let n_groups = (x.len() / k).div_ceil(ROWS);
    let mut rows = form.room::<ROWS>(n_groups, k);
    for (i, row) in x.chunks_exact(k).enumerate() {
        form.pack(&mut rows, k, (i / ROWS, i % ROWS), row);
    }
    let bytes = weight.host_bytes().expect("the graph uses host weights alone here");
    let row_bytes = bytes.len() / n;
    let mut panel = form.room::<LANES>(1, k);
    let mut values = vec![0.0; LANES * k];
    let mut tiles = vec![[[0.0; LANES]; ROWS]; n_groups];
    for first in (0..n).step_by(LANES) {
        let n_lanes = LANES.min(n - first);
        let values = &mut values[..n_lanes * k];
        let panel_bytes = &bytes[first * row_bytes..(first + n_lanes) * row_bytes];
        dequantize_into(weight.dtype(), panel_bytes, values).expect("checked when it was mapped");
        for (lane, row) in values.chunks_exact(k).enumerate() {
            form.pack(&mut panel, k, (0, lane), row);
        }
        tiles.fill([[0.0; LANES]; ROWS]);
        for step in (0..k).step_by(CHUNK) {
            for (group, tile) in tiles.iter_mut().enumerate() {
                form.add((&rows, group), &panel, (step, k), tile);
            }
        }
        let lanes = tiles.iter().flatten();
        for (row, lanes) in out.chunks_exact_mut(n).zip(lanes) {
            match row[first..].first_chunk_mut::<LANES>() {
                Some(whole) => *whole = *lanes,
                None => row[first..].copy_from_slice(&lanes[..n_lanes]),
            }
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
    use crate::ggml::quantize;
    use crate::ggml::tensor::dequantize;

    fn weight(dtype: DType, bytes: &[u8], sides: &[usize], backend: &Backend) -> Weight {
        Weight::of(dtype, bytes, sides, Placement::Host, backend)
    }

    fn wave(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin() * 2.0 + (i as f32 * 0.001).cos()).collect()
    }

    /// Norm of the difference to the formula over the norm, and the same for single rows.
    fn error(dtype: DType, (k, n, m): (usize, usize, usize), threads: usize) -> f64 {
        let mut backend = Backend::new(&BackendOptions { n_threads: threads, gpu: None }).unwrap();
        let bytes = match dtype {
            DType::BF16 => {
                let high = |v: &f32| ((v.to_bits() >> 16) as u16).to_le_bytes();
                wave(k * n, 0.731).iter().flat_map(high).collect()
            }
            _ => quantize(dtype, &wave(k * n, 0.731), k).unwrap(),
        };
        let weight = weight(dtype, &bytes, &[k, n], &backend);
        let g = GraphBuilder::new(16, &backend).unwrap();
        let (x, port) = g.input(DType::F32, &[k, m]).unwrap();
        let out = g.output(g.mul_rows(&weight, x).unwrap());
        let mut plan = Plan::new(g, &backend).unwrap();
        let x = wave(k * m, 0.377);
        plan.write_f32(port, &x).unwrap();
        plan.compute(&mut backend).unwrap();
        let mut got = vec![0.0; n * m];
        plan.read_f32(out, 0, &mut got).unwrap();
        let w = dequantize(dtype, &bytes, k * n).unwrap();
        let (mut difference, mut norm) = (0.0, 0.0);
        for (i, got) in got.iter().enumerate() {
            let (row, column) = (i / n, i % n);
            let pairs = x[row * k..(row + 1) * k].iter().zip(&w[column * k..(column + 1) * k]);
            let want: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            difference += (f64::from(*got) - want).powi(2);
            norm += want * want;
        }
        (difference / norm).sqrt()
    }

    #[test]
    fn products_equal_their_formula() {
        let shapes = [(768, 96, 60), (100, 45, 49), (640, 33, 131), (7, 1, 48)];
        for (i, shape) in shapes.into_iter().enumerate() {
            let error = error(DType::F32, shape, 1 + i % 3);
            assert!(error < 1e-5, "f32 {shape:?}: {error:.1e}");
        }
        for m in [1, 3, 12, 19] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let error = error(dtype, (1040, 37, m), 1 + m % 2);
                let tolerance = if tiles::dots(dtype).is_some() { 1e-5 } else { 2e-2 };
                assert!(error < tolerance, "{dtype} {m} rows: {error:.1e}");
            }
        }
        for dtype in [DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0] {
            for (i, shape) in [(768, 96, 60), (96, 45, 49), (640, 33, 131)].into_iter().enumerate()
            {
                let error = error(dtype, shape, 1 + i % 3);
                let tolerance = if tiles::fixed().is_some() { 1e-3 } else { 2e-2 };
                println!("{dtype} {shape:?}: {error:.1e}");
                assert!(error < tolerance, "{dtype} {shape:?}: {error:.1e}");
            }
        }
    }

    #[test]
    fn rows_do_not_depend_on_each_other() {
        let mut backend = Backend::new(&BackendOptions { n_threads: 2, gpu: None }).unwrap();
        let (k, n, x) = (256, 40, wave(256 * 70, 0.377));
        let bytes = quantize(DType::Q8_0, &wave(k * n, 0.731), k).unwrap();
        let weight = weight(DType::Q8_0, &bytes, &[k, n], &backend);
        let mut run = |m: usize| {
            let g = GraphBuilder::new(16, &backend).unwrap();
            let (input, port) = g.input(DType::F32, &[k, m]).unwrap();
            let out = g.output(g.mul_rows(&weight, input).unwrap());
            let mut plan = Plan::new(g, &backend).unwrap();
            plan.write_f32(port, &x[..k * m]).unwrap();
            plan.compute(&mut backend).unwrap();
            let mut got = vec![0.0; n * m];
            plan.read_f32(out, 0, &mut got).unwrap();
            got
        };
        let (few, many) = (run(ROWS_MIN + 1), run(70));
        assert!(few == many[..few.len()]);
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let backend = Backend::new(&BackendOptions { n_threads: 1, gpu: None }).unwrap();
        let weight = weight(DType::F32, &[0; 4 * 96], &[32, 3], &backend);
        let g = GraphBuilder::new(16, &backend).unwrap();
        for sides in [&[31, 60][..], &[32, 60, 2], &[64, 60]] {
            let (x, _) = g.input(DType::F32, sides).unwrap();
            assert!(g.mul_rows(&weight, x).is_err(), "{sides:?}");
        }
        let (x, _) = g.input(DType::I32, &[32, 60]).unwrap();
        assert!(g.mul_rows(&weight, x).is_err());
    }
}
