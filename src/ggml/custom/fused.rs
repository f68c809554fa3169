//! Fused operations: kernels of ours on the processor, ggml's own on a GPU.
//!
//! In: tensors of one graph. Out: the tensor computed in one pass.

use llama_cpp_sys_2 as sys;

use crate::error::Result;
use crate::ggml::custom::Call;
use crate::ggml::custom::Custom;
use crate::ggml::custom::SRC_MAX;
use crate::ggml::custom::Split;
use crate::ggml::custom::run;
use crate::ggml::graph::GraphBuilder;
use crate::ggml::tensor::DType;
use crate::ggml::tensor::Shape;
use crate::ggml::tensor::Tensor;
use crate::kernel::math;
use crate::kernel::norm;

impl GraphBuilder {
    /// Runs a kernel of ours on the processor: f32 `sides` from contiguous `inputs`.
    ///
    /// # Errors
    /// `Internal` if an input has gaps or there are too many.
    pub fn custom<'g, K>(
        &'g self,
        sides: &[usize],
        inputs: &[Tensor<'g>],
        split: Split,
        kernel: K,
    ) -> Result<Tensor<'g>>
    where
        K: Fn(&mut Call<'_>) + Send + Sync + 'static,
    {
        let most = SRC_MAX - 1;
        if inputs.is_empty() || inputs.len() > most || inputs.iter().any(|t| !t.is_contiguous()) {
            return self.fail("custom", inputs);
        }
        let shape = Shape::new(sides)?;
        self.room(1)?;
        let custom = Box::new(Custom::new(Box::new(kernel), split));
        let user = std::ptr::from_ref(&*custom).cast_mut().cast();
        self.customs.borrow_mut().push(custom);
        let mut args: Vec<_> = inputs.iter().map(|t| t.ptr.as_ptr()).collect();
        let n = shape.0.map(|s| s as i64);
        let n_tasks = if split == Split::One { 1 } else { -1 };
        // SAFETY: the arguments are live; the box lives as long as the plan.
        let node = self.wrap(unsafe {
            sys::ggml_custom_4d(
                self.raw(),
                sys::GGML_TYPE_F32,
                n[0],
                n[1],
                n[2],
                n[3],
                args.as_mut_ptr(),
                args.len() as i32,
                Some(run),
                n_tasks,
                user,
            )
        })?;
        self.kernels.borrow_mut().insert(node.ptr, std::any::type_name::<K>());
        Ok(node)
    }

    /// Normalises rows by their root mean square, times `weight` where given.
    ///
    /// # Errors
    /// `Internal` if the shapes do not fit.
    pub fn rms_norm<'g>(
        &'g self,
        x: Tensor<'g>,
        weight: Option<Tensor<'g>>,
        eps: f32,
    ) -> Result<Tensor<'g>> {
        self.plain("rms_norm", x)?;
        if let Some(w) = weight {
            self.same("rms_norm", x, w)?;
        }
        if self.on_gpu() {
            // SAFETY: `x` is contiguous f32.
            let y = self.wrap(unsafe { sys::ggml_rms_norm(self.raw(), x.ptr.as_ptr(), eps) })?;
            return weight.map_or(Ok(y), |w| self.mul(y, w));
        }
        let inputs: Vec<_> = std::iter::once(x).chain(weight).collect();
        let weighted = weight.is_some();
        self.custom(&x.shape().0, &inputs, Split::Rows, move |call| {
            let (x, n) = (call.f32(0), call.row_len);
            let weight = weighted.then(|| call.f32(1));
            let x = &x[call.first..call.first + call.out.len()];
            for (row, out) in x.chunks_exact(n).zip(call.out.chunks_exact_mut(n)) {
                norm::rms_norm(row, weight, eps, out);
            }
        })
    }

    /// Computes `(residual + factor * rms_norm(x) * weight) * gain` row by row.
    ///
    /// # Errors
    /// `Internal` if the shapes do not fit.
    pub fn rms_norm_add<'g>(
        &'g self,
        x: Tensor<'g>,
        weight: Tensor<'g>,
        residual: Tensor<'g>,
        (eps, factor, gain): (f32, f32, f32),
    ) -> Result<Tensor<'g>> {
        self.plain("rms_norm_add", residual)?;
        if x.shape() != residual.shape() || weight.shape().n_elements() != x.side(0) {
            return self.fail("rms_norm_add", &[x, weight, residual]);
        }
        if self.on_gpu() {
            let y = self.rms_norm(x, Some(weight), eps)?;
            let y = if factor == 1.0 { y } else { self.scale(y, factor)? };
            let y = self.add(residual, y)?;
            return if gain == 1.0 { Ok(y) } else { self.scale(y, gain) };
        }
        self.custom(&x.shape().0, &[x, weight, residual], Split::Rows, move |call| {
            let (n, range) = (call.row_len, call.first..call.first + call.out.len());
            let (x, weight, residual) = (call.f32(0), call.f32(1), call.f32(2));
            let rows = x[range.clone()].chunks_exact(n).zip(residual[range].chunks_exact(n));
            for ((row, r), out) in rows.zip(call.out.chunks_exact_mut(n)) {
                norm::rms_norm_add(row, weight, r, (eps, factor, gain), out);
            }
        })
    }

    /// Computes `gelu(gate) * up` with the exact tanh form of GELU.
    ///
    /// # Errors
    /// `Internal` if the shapes differ.
    pub fn gelu_mul<'g>(&'g self, gate: Tensor<'g>, up: Tensor<'g>) -> Result<Tensor<'g>> {
        self.plain("gelu_mul", gate)?;
        if gate.shape() != up.shape() || up.dtype() != DType::F32 {
            return self.fail("gelu_mul", &[gate, up]);
        }
        if self.on_gpu() {
            let up = self.cont(up)?;
            let (g, u) = (gate.ptr.as_ptr(), up.ptr.as_ptr());
            // SAFETY: both contiguous f32 of one shape.
            return self.wrap(unsafe { sys::ggml_geglu_split(self.raw(), g, u) });
        }
        self.custom(&gate.shape().0, &[gate, up], Split::Elements(64), |call| {
            let range = call.first..call.first + call.out.len();
            math::gelu_mul(&call.f32(0)[range.clone()], &call.f32(1)[range], call.out);
        })
    }

    /// Computes `cap * tanh(x / cap)`.
    ///
    /// # Errors
    /// `Internal` if `x` is not f32.
    pub fn soft_cap<'g>(&'g self, x: Tensor<'g>, cap: f32) -> Result<Tensor<'g>> {
        self.plain("soft_cap", x)?;
        if self.on_gpu() {
            let y = self.scale(x, 1.0 / cap)?;
            self.room(1)?;
            // SAFETY: contiguous f32.
            let y = self.wrap(unsafe { sys::ggml_tanh(self.raw(), y.ptr.as_ptr()) })?;
            return self.scale(y, cap);
        }
        self.custom(&x.shape().0, &[x], Split::Elements(64), move |call| {
            let range = call.first..call.first + call.out.len();
            math::soft_cap(&call.f32(0)[range], cap, call.out);
        })
    }
}
