//! Operations that only graphs for a GPU need; the processor has kernels of ours instead.
//!
//! In: tensors of one graph. Out: a node of ggml's.

use std::sync::Arc;

use llama_cpp_sys_2 as sys;

use crate::error::Result;
use crate::ggml::graph::GraphBuilder;
use crate::ggml::tensor::DType;
use crate::ggml::tensor::Tensor;

impl GraphBuilder {
    /// Uses values that are the same in every computation; sides are as for an input.
    ///
    /// # Errors
    /// `Internal` if the count differs or the graph is full.
    pub fn constant(&self, sides: &[usize], values: &Arc<[f32]>) -> Result<Tensor<'_>> {
        let (tensor, _) = self.input(DType::F32, sides)?;
        if tensor.shape().n_elements() != values.len() {
            return self.fail("constant", &[tensor]);
        }
        // SAFETY: marks the fresh tensor, so that nothing is ever laid over it.
        unsafe { sys::ggml_set_output(tensor.ptr.as_ptr()) };
        self.constants.borrow_mut().push((tensor.ptr, Arc::clone(values)));
        Ok(tensor)
    }

    /// Joins two tensors along an axis.
    ///
    /// # Errors
    /// `Internal` if types or other sides differ.
    pub fn concat<'g>(&'g self, a: Tensor<'g>, b: Tensor<'g>, axis: usize) -> Result<Tensor<'g>> {
        let (x, y) = (a.shape().0, b.shape().0);
        let fits = axis < 4
            && (0..4).all(|i| i == axis || x[i] == y[i])
            && a.dtype() == DType::F32
            && b.dtype() == DType::F32;
        if !fits {
            return self.fail("concat", &[a, b]);
        }
        self.room(1)?;
        let (a, b) = (a.ptr.as_ptr(), b.ptr.as_ptr());
        // SAFETY: both f32, equal sides but for the axis.
        self.wrap(unsafe { sys::ggml_concat(self.raw(), a, b, axis as i32) })
    }

    /// Computes `x / (1 + exp(-x))` element by element.
    ///
    /// # Errors
    /// `Internal` if `x` is not f32 without gaps.
    pub fn silu<'g>(&'g self, x: Tensor<'g>) -> Result<Tensor<'g>> {
        self.plain("silu", x)?;
        // SAFETY: `x` is contiguous f32.
        self.wrap(unsafe { sys::ggml_silu(self.raw(), x.ptr.as_ptr()) })
    }

    /// Computes `1 / (1 + exp(-x))` element by element.
    ///
    /// # Errors
    /// `Internal` if `x` is not f32 without gaps.
    pub fn sigmoid<'g>(&'g self, x: Tensor<'g>) -> Result<Tensor<'g>> {
        self.plain("sigmoid", x)?;
        // SAFETY: `x` is contiguous f32.
        self.wrap(unsafe { sys::ggml_sigmoid(self.raw(), x.ptr.as_ptr()) })
    }

    /// Computes the softmax of rows `[n, m, ..]` plus `mask` `[n, m]`, which hides where it is
    /// negative infinity; no row may be hidden whole.
    ///
    /// # Errors
    /// `Internal` if the shapes do not fit.
    pub fn soft_max<'g>(&'g self, x: Tensor<'g>, mask: Tensor<'g>) -> Result<Tensor<'g>> {
        let ([n, m, ..], sides) = (x.shape().0, mask.shape().0);
        if sides != [n, m, 1, 1] || mask.dtype() != DType::F32 || !mask.is_contiguous() {
            return self.fail("soft_max", &[x, mask]);
        }
        self.plain("soft_max", x)?;
        let (x, mask) = (x.ptr.as_ptr(), mask.ptr.as_ptr());
        // SAFETY: both contiguous f32, the mask as wide and high as each matrix of `x`.
        self.wrap(unsafe { sys::ggml_soft_max_ext(self.raw(), x, mask, 1.0, 0.0) })
    }

    /// Reads rows `[n, m, ..]` as rows of `n - 1` (no copy): row `i` begins `i` values earlier,
    /// with the end of the row before it.
    ///
    /// # Errors
    /// `Internal` if `x` has gaps or rows of one value.
    pub fn skewed<'g>(&'g self, x: Tensor<'g>) -> Result<Tensor<'g>> {
        let ([n, m, n_matrices, last], nb) = (x.shape().0, x.strides());
        if n < 2 || last != 1 {
            return self.fail("skewed", &[x]);
        }
        self.plain("skewed", x)?;
        let [n, m, n_matrices] = [n, m, n_matrices].map(|side| side as i64);
        // SAFETY: the view lies inside `x`, because its rows are shorter.
        self.wrap(unsafe {
            let (raw, x, row) = (self.raw(), x.ptr.as_ptr(), nb[1] - nb[0]);
            sys::ggml_view_3d(raw, x, n - 1, m, n_matrices, row, nb[2], 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::backend::Backend;
    use crate::ggml::backend::BackendOptions;
    use crate::ggml::compute::Plan;

    /// Computes what `build` makes of `[n, m]`, the values 0, 1, 2 and so on.
    fn computed(
        (n, m): (usize, usize),
        build: impl for<'g> Fn(&'g GraphBuilder, Tensor<'g>) -> Result<Tensor<'g>>,
    ) -> Vec<f32> {
        let options = BackendOptions { n_threads: 1, gpu: None };
        let mut backend = Backend::new(&options).expect("a processor");
        let g = GraphBuilder::new(16, &backend).expect("small");
        let (x, port) = g.input(DType::F32, &[n, m]).expect("small");
        let y = build(&g, x).expect("fits");
        let (out, n_out) = (g.output(y), y.shape().n_elements());
        let mut plan = Plan::new(g, &backend).expect("small");
        let values: Vec<f32> = (0..n * m).map(|i| i as f32).collect();
        plan.write_f32(port, &values).expect("fits");
        plan.compute(&mut backend).expect("computes");
        let mut got = vec![0.0; n_out];
        plan.read_f32(out, 0, &mut got).expect("fits");
        got
    }

    #[test]
    fn each_row_of_a_skewed_matrix_begins_earlier() {
        let got = computed((4, 3), |g, x| g.cont(g.skewed(x)?));
        assert_eq!(got, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    }

    #[test]
    fn gates_and_masked_rows_are_as_written_down() {
        let near = |got: &[f32], want: &[f64]| {
            let off = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs());
            assert!(got.len() == want.len() && off.fold(0.0, f64::max) < 1e-5, "{got:?} {want:?}");
        };
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let whole = [0.0, 1.0, 2.0, 3.0];
        near(&computed((4, 1), |g, x| g.sigmoid(x)), &whole.map(sigmoid));
        near(&computed((4, 1), |g, x| g.silu(x)), &whole.map(|x| x * sigmoid(x)));
        let mask: Arc<[f32]> = [f32::NEG_INFINITY, 0.0, 0.0, f32::NEG_INFINITY].into();
        let got = computed((2, 2), |g, x| g.soft_max(x, g.constant(&[2, 2], &mask)?));
        near(&got, &[0.0, 1.0, 1.0, 0.0]);
    }
}
