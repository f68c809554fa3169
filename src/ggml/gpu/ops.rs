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
}
