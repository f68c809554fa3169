//! Products of a quantised weight with tokens: one, a few, or a whole prompt.
//!
//! In: a weight in the mapping and rows of f32. Out: rows of f32.
//! Threads take the weight's rows as they get ready; each rounds the activations for itself, so
//! that nothing is waited for.
//! Invariant: a row of the result depends on its own row and the weight alone, bit for bit,
//! whatever the batch, the threads and the weight's layout.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use super::FEW;
use super::GROUP;
use super::activations::BLOCK;
use super::activations::Block;
use super::activations::quantize;
use super::format::Format;
use super::is_fast;
use super::product;
use super::rows::Order;
use super::rows::Part;
use super::rows::Rows;
use crate::error::Result;
use crate::ggml::buffer::Weight;
use crate::ggml::custom::Call;
use crate::ggml::custom::Split;
use crate::ggml::custom::Taken;
use crate::ggml::graph::GraphBuilder;
use crate::ggml::tensor::DType;
use crate::ggml::tensor::Tensor;

/// Rows of activations that are multiplied together.
const TILE: usize = 16;
/// Activations, in values, that stay in a core's own cache while the weight passes.
const CHUNK: usize = 512 << 10;

impl GraphBuilder {
    /// Multiplies a weight `[k, n]` with tokens `[k, m]`, which gives `[n, m]`.
    ///
    /// # Errors
    /// `Internal` if the shapes do not fit.
    pub fn linear<'g>(&'g self, weight: &Weight, x: Tensor<'g>) -> Result<Tensor<'g>> {
        let [k, n, ..] = weight.shape().0;
        let fits = x.dtype() == DType::F32 && x.side(0) == k && x.shape().0[2..] == [1, 1];
        let Some(format) = self.format(weight).filter(|_| fits && x.is_contiguous()) else {
            return self.mul_rows(weight, x);
        };
        self.count(k * n * x.side(1));
        self.keep.borrow_mut().push(weight.keep());
        let weight = Arc::new(weight.clone());
        let split = Split::Tiles { rows: (CHUNK / k).next_multiple_of(TILE), columns: GROUP };
        self.custom(&[n, x.side(1)], &[x], split, move |call| {
            let bytes = weight.kernel_bytes().expect("the graph uses host weights alone here");
            multiply(bytes, format, k, call);
        })
    }

    /// Returns a weight's format if the kernels of this folder can multiply with it.
    fn format(&self, weight: &Weight) -> Option<Format> {
        let [k, n, a, b] = weight.shape().0;
        if self.on_gpu() || !is_fast() || !n.is_multiple_of(GROUP) || [a, b] != [1, 1] {
            return None;
        }
        let format = match weight.host_bytes() {
            Some(_) => Format::of(weight.dtype()),
            None => weight.kernel_bytes().and_then(|_| Format::of_packed(weight.dtype())),
        };
        format.filter(|format| format.row_bytes(k).is_some())
    }
}

/// Rows of activations, rounded, in tiles of `M`.
struct Tiles<const M: usize> {
    blocks: Vec<Block<M>>,
    n_blocks: usize,
    first_row: usize,
}

impl<const M: usize> Tiles<M> {
    fn new(x: &[f32], (k, format): (usize, Format), first_row: usize) -> Self {
        Self::reusing(Vec::new(), x, (k, format), first_row)
    }

    fn reusing(
        mut blocks: Vec<Block<M>>,
        x: &[f32],
        (k, format): (usize, Format),
        first_row: usize,
    ) -> Self {
        let n_blocks = k / BLOCK;
        let n_tiles = (x.len() / k).div_ceil(M);
        blocks.resize(n_tiles * n_blocks, Block::EMPTY);
        for (i, row) in x.chunks_exact(k).enumerate() {
            let tile = &mut blocks[i / M * n_blocks..][..n_blocks];
            quantize(row, i % M, format, tile);
        }
        Self { blocks, n_blocks, first_row }
    }
}

/// Tiles of any height.
trait Multiply {
    /// Multiplies eight rows of a weight with every row and gives each row's eight sums.
    fn multiply(&self, weight: Rows<'_>, format: Format, put: &mut dyn FnMut(usize, &[f32; GROUP]));
}

impl<const M: usize> Multiply for Tiles<M> {
    fn multiply(
        &self,
        weight: Rows<'_>,
        format: Format,
        put: &mut dyn FnMut(usize, &[f32; GROUP]),
    ) {
        let mut sums = [[0.0; GROUP]; M];
        for (i, tile) in self.blocks.chunks_exact(self.n_blocks).enumerate() {
            product(weight, format, tile, &mut sums);
            for (m, sums) in sums.iter().enumerate() {
                put(self.first_row + i * M + m, sums);
            }
        }
    }
}

/// One tile of the height that fits.
enum Last {
    One(Tiles<1>),
    Two(Tiles<2>),
    Four(Tiles<4>),
    Eight(Tiles<8>),
    Twelve(Tiles<12>),
    Whole(Tiles<TILE>),
}

/// Rows in the fewest tiles: whole ones, and a lower one for what is left.
struct Rounded {
    whole: Option<Tiles<TILE>>,
    last: Option<Last>,
}

thread_local! {
    /// What the thread's last row of its own was rounded to: a token allocates nothing.
    static SPARE: Cell<Vec<Block<1>>> = const { Cell::new(Vec::new()) };
}

impl Rounded {
    fn new(x: &[f32], (k, format): (usize, Format), first_row: usize) -> Self {
        let (whole, rest) = x.split_at(x.len() / k / TILE * TILE * k);
        let last_row = first_row + whole.len() / k;
        let form = (k, format);
        let last = match rest.len() / k {
            0 => None,
            1 => Some(Last::One(Tiles::reusing(SPARE.take(), rest, form, last_row))),
            2 => Some(Last::Two(Tiles::new(rest, form, last_row))),
            3..=4 => Some(Last::Four(Tiles::new(rest, form, last_row))),
            5..=8 => Some(Last::Eight(Tiles::new(rest, form, last_row))),
            9..=12 => Some(Last::Twelve(Tiles::new(rest, form, last_row))),
            _ => Some(Last::Whole(Tiles::new(rest, form, last_row))),
        };
        let whole = (!whole.is_empty()).then(|| Tiles::new(whole, form, first_row));
        Self { whole, last }
    }

    fn tiles(&self) -> impl Iterator<Item = &dyn Multiply> {
        let whole = self.whole.as_ref().map(|t| t as &dyn Multiply);
        let last = self.last.as_ref().map(|last| match last {
            Last::One(t) => t as &dyn Multiply,
            Last::Two(t) => t,
            Last::Four(t) => t,
            Last::Eight(t) => t,
            Last::Twelve(t) => t,
            Last::Whole(t) => t,
        });
        whole.into_iter().chain(last)
    }
}

impl Drop for Rounded {
    fn drop(&mut self) {
        if let Some(Last::One(tiles)) = &mut self.last {
            SPARE.set(std::mem::take(&mut tiles.blocks));
        }
    }
}

/// Multiplies rows of the weight, as this thread gets them, with rows of activations.
fn multiply(bytes: &[u8], format: Format, k: usize, call: &mut Call<'_>) {
    let x = call.f32(0);
    let row_bytes = bytes.len() / call.row_len;
    let part = |own: &Taken| Part {
        bytes,
        row_bytes,
        first: own.columns().start,
        n_groups: own.columns().len() / GROUP,
        order: match format {
            Format::Q4_0Packed => Order::Packed,
            _ if own.rows().len() <= FEW => Order::Apart,
            _ => Order::Beside,
        },
    };
    let mut rounded: Option<(Range<usize>, Rounded)> = None;
    let mut following = call.take();
    while let Some(mut own) = following.take() {
        let (rows, part_of) = (own.rows(), part(&own));
        let (_, rounded) = match rounded.take_if(|r| r.0 == rows) {
            Some(same) => rounded.insert(same),
            None => {
                // Memory works while this rounds.
                part_of.ask_for_start();
                let x = &x[rows.start * k..rows.end * k];
                rounded.insert((rows.clone(), Rounded::new(x, (k, format), rows.start)))
            }
        };
        for group in 0..part_of.n_groups {
            if group + 1 == part_of.n_groups {
                following = call.take();
                following.iter().for_each(|following| part(following).ask_for_start());
            }
            for tiles in rounded.tiles() {
                tiles.multiply(part_of.group(group), format, &mut |row, sums| {
                    if row < rows.end {
                        part_of.put(&mut own, row, group, sums);
                    }
                });
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
    use crate::ggml::dequantize;
    use crate::ggml::pack_rows;
    use crate::ggml::quantize;

    fn wave(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin() * 2.0 + (i as f32 * 0.001).cos()).collect()
    }

    /// Multiplies rows `x` of `k` with a weight.
    fn linear(
        bytes: &[u8],
        (k, n): (usize, usize),
        packed: bool,
        threads: usize,
        x: &[f32],
    ) -> Vec<f32> {
        let mut backend = Backend::new(&BackendOptions { n_threads: threads, gpu: None }).unwrap();
        let placement = if packed { Placement::HostPacked } else { Placement::Host };
        let weight = Weight::of(DType::Q4_0, bytes, &[k, n], placement, &backend);
        let m = x.len() / k;
        let g = GraphBuilder::new(16, &backend).unwrap();
        let (input, port) = g.input(DType::F32, &[k, m]).unwrap();
        let out = g.output(g.linear(&weight, input).unwrap());
        let mut plan = Plan::new(g, &backend).unwrap();
        plan.write_f32(port, x).unwrap();
        plan.compute(&mut backend).unwrap();
        let mut got = vec![0.0; n * m];
        plan.read_f32(out, 0, &mut got).unwrap();
        got
    }

    #[test]
    fn products_equal_their_formula_and_do_not_depend_on_batch_threads_or_layout() {
        let (k, n) = (288, 128);
        let bytes = quantize(DType::Q4_0, &wave(k * n, 0.731), k).unwrap();
        let w = dequantize(DType::Q4_0, &bytes, k * n).unwrap();
        let x = wave(40 * k, 0.377);
        let all = linear(&bytes, (k, n), false, 2, &x);
        let (mut difference, mut norm) = (0.0, 0.0);
        for (i, got) in all.iter().enumerate() {
            let pairs = x[i / n * k..][..k].iter().zip(&w[i % n * k..][..k]);
            let want: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            difference += (f64::from(*got) - want).powi(2);
            norm += want * want;
        }
        let error = (difference / norm).sqrt();
        assert!(error < 1e-2, "{error:.1e}");
        if !is_fast() {
            return assert!(linear(&bytes, (k, n), false, 1, &x) == all, "ggml's own");
        }
        for (m, threads) in [(1, 1), (2, 2), (3, 3), (7, 2), (12, 1), (13, 2), (16, 3), (39, 1)] {
            let few = linear(&bytes, (k, n), false, threads, &x[..m * k]);
            assert!(few == all[..m * n], "{m} rows, {threads} threads");
        }
        let packed = pack_rows(DType::Q4_0, k, n, &bytes).unwrap().unwrap();
        assert!(linear(&packed, (k, n), true, 2, &x) == all, "packed");
    }
}
