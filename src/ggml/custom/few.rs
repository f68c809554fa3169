//! Products of a weight with few rows: one block of sound.
//!
//! In: a weight of floats in the mapping and rows of f32. Out: rows of f32.
//! Each weight is read once and widened in registers, so that rows stay 32-bit floats.
//! Invariant: a row of the result depends on its own row and the weight alone.

use crate::error::Result;
use crate::ggml::buffer::Weight;
use crate::ggml::custom::Split;
use crate::ggml::custom::tiles;
use crate::ggml::custom::tiles::Dots;
use crate::ggml::graph::GraphBuilder;
use crate::ggml::tensor::Tensor;

/// Steps whose part of the rows stays in the nearest cache.
const CHUNK: usize = 512;
/// Rows that one call multiplies with two rows of the weight.
const GROUPS: [usize; 3] = [12, 4, 1];

impl GraphBuilder {
    /// Multiplies as `mul_rows` does, or returns `None` where ggml's own product is as fast.
    pub(super) fn mul_few<'g>(
        &'g self,
        weight: &Weight,
        x: Tensor<'g>,
    ) -> Result<Option<Tensor<'g>>> {
        let [k, m, ..] = x.shape().0;
        let Some(dots) = tiles::dots(weight.dtype()).filter(|_| k.is_multiple_of(tiles::WIDTH))
        else {
            return Ok(None);
        };
        let n = weight.shape().n_elements() / k;
        self.count(weight.shape().n_elements() * m);
        self.keep.borrow_mut().push(weight.keep());
        let weight = weight.clone();
        let columns = self.custom(&[m, n], &[x], Split::Rows, move |call| {
            let bytes = weight.host_bytes().expect("the graph uses host weights alone here");
            let row_bytes = bytes.len() / n;
            let (first, n_rows) = (call.first_row(), call.out.len() / m);
            let bytes = &bytes[first * row_bytes..(first + n_rows) * row_bytes];
            product(dots, (call.f32(0), k), (bytes, row_bytes), (call.out, m));
        })?;
        let rows = self.custom(&[n, m], &[columns], Split::Rows, move |call| {
            let (columns, first) = (call.f32(0), call.first_row());
            for (i, row) in call.out.chunks_exact_mut(n).enumerate() {
                for (o, column) in row.iter_mut().zip(columns.chunks_exact(m)) {
                    *o = column[first + i];
                }
            }
        })?;
        Ok(Some(rows))
    }
}

/// Multiplies all rows of `x` with the rows of `weight`; `out` has `m` values for each of those.
fn product(
    dots: Dots,
    (x, k): (&[f32], usize),
    (weight, row_bytes): (&[u8], usize),
    (out, m): (&mut [f32], usize),
) {
    out.fill(0.0);
    let value_bytes = row_bytes / k;
    for step in (0..k).step_by(CHUNK) {
        let len = CHUNK.min(k - step);
        let part = |row: &'_ [u8]| -> std::ops::Range<usize> {
            debug_assert_eq!(row.len(), row_bytes);
            step * value_bytes..(step + len) * value_bytes
        };
        let pairs = weight.chunks(2 * row_bytes).zip(out.chunks_mut(2 * m));
        for (pair, out) in pairs {
            let (a, b) = pair.split_at(row_bytes);
            let b = if b.is_empty() { a } else { b };
            let rows = [&a[part(a)], &b[part(b)]];
            let mut first = 0;
            for group in GROUPS {
                while first + group <= m {
                    let mut sums = [[0.0; 2]; GROUPS[0]];
                    dots(&x[first * k + step..], k, rows, &mut sums[..group]);
                    for (i, sums) in sums[..group].iter().enumerate() {
                        for (out, sum) in out.chunks_exact_mut(m).zip(sums) {
                            out[first + i] += sum;
                        }
                    }
                    first += group;
                }
            }
        }
    }
}
