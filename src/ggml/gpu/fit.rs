//! What a GPU can take.
//!
//! In: types and shapes of weights. Out: whether a product with one runs there, and its size.

use llama_cpp_sys_2 as sys;

use crate::error::Result;
use crate::ggml::backend::Backend;
use crate::ggml::buffer::Context;
use crate::ggml::buffer::WeightSpec;
use crate::ggml::buffer::is_weight_type;
use crate::ggml::tensor::DType;
use crate::ggml::tensor::Shape;

impl Backend {
    /// Returns the bytes that a weight takes on the GPU, or `None` if the GPU cannot multiply with
    /// it or there is none.
    ///
    /// # Errors
    /// `Memory` if headers do not fit.
    pub fn gpu_bytes(&self, spec: &WeightSpec) -> Result<Option<u64>> {
        let Some(gpu) = self.gpu().filter(|_| is_weight_type(spec.dtype)) else {
            return Ok(None);
        };
        let context = Context::for_tensors(3)?;
        let weight = context.tensor(spec.dtype, spec.shape).as_ptr();
        let x = context.tensor(DType::F32, Shape::new(&[spec.shape.0[0], 1])?).as_ptr();
        // SAFETY: the context has room for three headers, whose widths are the same; `gpu` is a
        // live backend.
        unsafe {
            let product = sys::ggml_mul_mat(context.raw(), weight, x);
            // A leaf as such is refused where it is larger than a kernel can address.
            let fits = sys::ggml_backend_supports_op(gpu, weight)
                && sys::ggml_backend_supports_op(gpu, product);
            let kind = sys::ggml_backend_get_default_buffer_type(gpu);
            Ok(fits.then(|| sys::ggml_backend_buft_get_alloc_size(kind, weight) as u64))
        }
    }
}
