//! Weights in a GPU's memory: laid over the mapping where the GPU shares it, otherwise copied.
//!
//! In: tensor headers and their mapped bytes. Out: the buffers that they lie in.

use std::ffi::CStr;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::error::Error;
use crate::error::Result;
use crate::ggml::backend::Backend;
use crate::ggml::buffer::Buffer;
use crate::ggml::buffer::HOST_ALIGN;

/// A header, its mapped bytes, and how many they are.
pub(in crate::ggml) type Mapped = (NonNull<sys::ggml_tensor>, *const u8, usize);

/// What a GPU's view of mapped memory begins and ends at; mappings begin and end at pages.
const PAGE: usize = if cfg!(target_vendor = "apple") { 16 << 10 } else { 4 << 10 };
/// Most bytes between two weights that one view spans.
const GAP_MAX: usize = 1 << 20;

/// Puts weights into the memory of the backend's GPU.
pub(in crate::ggml) fn place(tensors: &[Mapped], backend: &Backend) -> Result<Vec<Buffer>> {
    let mut buffers = Vec::new();
    if tensors.is_empty() {
        return Ok(buffers);
    }
    let gpu =
        backend.gpu().ok_or_else(|| Error::internal("weights placed on a GPU without one"))?;
    let mut rest = tensors.to_vec();
    if shares_memory(backend) {
        rest = lay_over(&rest, backend, &mut buffers);
    }
    copy(&rest, gpu, &mut buffers)?;
    Ok(buffers)
}

/// Tells whether the GPU computes with the processor's memory as fast as with its own.
fn shares_memory(backend: &Backend) -> bool {
    let dev = backend.gpu_device();
    // SAFETY: the backend's device is alive; names are static C strings.
    unsafe {
        let mut props = std::mem::zeroed();
        sys::ggml_backend_dev_get_props(dev, &raw mut props);
        let registry = sys::ggml_backend_dev_backend_reg(dev);
        let is_vulkan = CStr::from_ptr(sys::ggml_backend_reg_name(registry)) == c"Vulkan";
        // Vulkan's devices say that they cannot, but can where the driver lets them.
        let is_integrated = props.type_ == sys::GGML_BACKEND_DEVICE_TYPE_IGPU;
        props.caps.buffer_from_host_ptr || is_vulkan && is_integrated
    }
}

/// Lays the GPU's buffers over runs of mapped weights; returns those that it does not take so.
fn lay_over(tensors: &[Mapped], backend: &Backend, buffers: &mut Vec<Buffer>) -> Vec<Mapped> {
    let mut sorted = tensors.to_vec();
    sorted.sort_by_key(|t| t.1.addr());
    let near = |a: &Mapped, b: &Mapped| b.1.addr().saturating_sub(a.1.addr() + a.2) <= GAP_MAX;
    let mut rest = Vec::new();
    for run in sorted.chunk_by(near) {
        match view(run, backend) {
            Some(buffer) => buffers.push(buffer),
            None => rest.extend_from_slice(run),
        }
    }
    rest
}

/// Lays one buffer over a run of weights, or returns `None` if the GPU refuses or needs other
/// alignment or padding.
fn view(run: &[Mapped], backend: &Backend) -> Option<Buffer> {
    let first = run.first()?.1;
    let start = first.wrapping_sub(first.addr() % PAGE);
    let end = run.iter().map(|t| t.1.addr() + t.2).max()?.next_multiple_of(PAGE);
    let most = run.iter().map(|t| t.2).max()?;
    // SAFETY: the device is alive; pages that hold mapped bytes are mapped as a whole and stay so
    // as long as the weights' owner; the GPU only reads them.
    unsafe {
        let gpu = backend.gpu()?;
        let kind = sys::ggml_backend_get_default_buffer_type(gpu);
        let align = sys::ggml_backend_buft_get_alignment(kind).max(1);
        let fits = |(tensor, data, size): &Mapped| {
            (data.addr() - start.addr()).is_multiple_of(align)
                && sys::ggml_backend_buft_get_alloc_size(kind, tensor.as_ptr()) == *size
        };
        if !run.iter().all(fits) {
            return None;
        }
        let (dev, data) = (backend.gpu_device(), start.cast_mut().cast());
        let len = end - start.addr();
        let raw = sys::ggml_backend_dev_buffer_from_host_ptr(dev, data, len, most);
        let buffer = Buffer(NonNull::new(raw)?);
        sys::ggml_backend_buffer_set_usage(raw, sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        let base = sys::ggml_backend_buffer_get_base(raw).cast::<u8>();
        for (tensor, data, _) in run {
            let at = base.wrapping_add(data.addr() - start.addr());
            sys::ggml_backend_tensor_alloc(raw, tensor.as_ptr(), at.cast());
        }
        Some(buffer)
    }
}

/// Copies weights, into as few buffers as the GPU's largest one allows.
fn copy(tensors: &[Mapped], gpu: sys::ggml_backend_t, buffers: &mut Vec<Buffer>) -> Result<()> {
    let headers: Vec<_> = tensors.iter().map(|t| t.0).collect();
    for places in GpuPlaces::of(gpu, &headers) {
        let buffer = allocate(gpu, places.total, "weights")?;
        // SAFETY: `gpu` is a live backend; each tensor has its own aligned place in the buffer,
        // whose size is the sum of what ggml says each needs.
        unsafe {
            let raw = buffer.0.as_ptr();
            sys::ggml_backend_buffer_set_usage(raw, sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
            let base = sys::ggml_backend_buffer_get_base(raw).cast::<u8>();
            for (i, place) in places.places {
                let (tensor, data, size) = tensors[i];
                let at = base.wrapping_add(place);
                sys::ggml_backend_tensor_alloc(raw, tensor.as_ptr(), at.cast());
                sys::ggml_backend_tensor_set(tensor.as_ptr(), data.cast(), 0, size);
            }
        }
        buffers.push(buffer);
    }
    Ok(())
}

/// Places of tensors in one buffer of a GPU.
pub(in crate::ggml) struct GpuPlaces {
    /// Numbers of tensors and their first bytes.
    pub(in crate::ggml) places: Vec<(usize, usize)>,
    /// Bytes of the buffer.
    pub(in crate::ggml) total: usize,
}

impl GpuPlaces {
    /// Distributes tensors over buffers, each as large as the GPU allows.
    pub(in crate::ggml) fn of(
        gpu: sys::ggml_backend_t,
        tensors: &[NonNull<sys::ggml_tensor>],
    ) -> Vec<Self> {
        // SAFETY: `gpu` is a live backend, the headers are alive.
        let (align, most, sizes) = unsafe {
            let kind = sys::ggml_backend_get_default_buffer_type(gpu);
            let size = |t: &NonNull<_>| sys::ggml_backend_buft_get_alloc_size(kind, t.as_ptr());
            let sizes: Vec<usize> = tensors.iter().map(size).collect();
            let align = sys::ggml_backend_buft_get_alignment(kind);
            (align, sys::ggml_backend_buft_get_max_size(kind), sizes)
        };
        let mut buffers: Vec<Self> = Vec::new();
        for (i, size) in sizes.into_iter().enumerate() {
            if buffers.last().is_none_or(|b| b.total.saturating_add(size) > most) {
                buffers.push(Self { places: Vec::new(), total: 0 });
            }
            let Some(buffer) = buffers.last_mut() else { continue };
            buffer.places.push((i, buffer.total));
            buffer.total = (buffer.total + size).next_multiple_of(align.max(HOST_ALIGN));
        }
        buffers
    }
}

/// Allocates a buffer in the GPU's memory.
pub(in crate::ggml) fn allocate(
    gpu: sys::ggml_backend_t,
    size: usize,
    what: &str,
) -> Result<Buffer> {
    // SAFETY: `gpu` is a live backend.
    let raw = unsafe {
        let kind = sys::ggml_backend_get_default_buffer_type(gpu);
        sys::ggml_backend_buft_alloc_buffer(kind, size)
    };
    NonNull::new(raw).map(Buffer).ok_or_else(|| {
        let size_mib = size >> 20;
        let text = format!("{size_mib} MiB of {what} do not fit the GPU; lower --gpu-memory");
        Error::memory(text)
    })
}

#[cfg(all(test, any(feature = "vulkan", feature = "metal", feature = "cuda")))]
mod tests {
    use super::*;
    use crate::ggml::backend::BackendOptions;
    use crate::ggml::buffer::Context;
    use crate::ggml::compute::Plan;
    use crate::ggml::graph::GraphBuilder;
    use crate::ggml::tensor::DType;
    use crate::ggml::tensor::Shape;
    use crate::ggml::tensor::quantize;

    #[test]
    fn mapped_weights_are_multiplied_without_a_copy() {
        const SIDE: usize = 64;
        let gpu = Some(String::new());
        let mut backend = Backend::new(&BackendOptions { n_threads: 1, gpu }).expect("a GPU");
        let values: Vec<f32> = (0..SIDE * SIDE).map(|i| (i as f32 * 0.7).sin()).collect();
        let bytes = quantize(DType::Q8_0, &values, SIDE).expect("rows divide");
        // Pages of their own, as a mapping has.
        let mut memory = vec![0_u8; bytes.len() + 2 * PAGE];
        let first = memory.as_ptr().align_offset(PAGE);
        memory[first..first + bytes.len()].copy_from_slice(&bytes);
        let data = memory[first..].as_ptr();
        let mut results = Vec::new();
        for in_place in [true, false] {
            let context = Context::for_tensors(1).expect("small");
            let shape = Shape::new(&[SIDE, SIDE]).expect("small");
            let tensor = context.tensor(DType::Q8_0, shape);
            let (all, mut buffers) = ([(tensor, data, bytes.len())], Vec::new());
            if in_place {
                assert!(lay_over(&all, &backend, &mut buffers).is_empty(), "refused");
            } else {
                let gpu = backend.gpu().expect("a GPU");
                copy(&all, gpu, &mut buffers).expect("small");
            }
            assert_eq!(buffers.len(), 1);
            let g = GraphBuilder::new(8, &backend).expect("small");
            g.on_gpu.set(true);
            let (x, port) = g.input(DType::F32, &[SIDE, 1]).expect("small");
            let weight = g.wrap(tensor.as_ptr()).expect("alive");
            let out = g.output(g.mul_mat(weight, x).expect("fits"));
            let mut plan = Plan::new(g, &backend).expect("small");
            plan.write_f32(port, &values[..SIDE]).expect("fits");
            plan.compute(&mut backend).expect("computes");
            let mut got = vec![0.0; SIDE];
            plan.read_f32(out, 0, &mut got).expect("fits");
            results.push(got);
            drop((plan, buffers, context));
        }
        assert!(results[0].iter().any(|v| v.abs() > 1.0), "{results:?}");
        assert_eq!(results[0], results[1]);
    }
}
