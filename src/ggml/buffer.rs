//! Weights laid over mapped memory, in place.
//!
//! In: bytes of a mapping, names, shapes. Out: [`Weight`] handles.
//! **Invariant:** a host weight is never copied; its memory stays mapped while a handle lives.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;

use super::backend::Backend;
use super::backend::cpu_device;
use super::gpu;
use super::repack::repack_type;
use super::tensor::DType;
use super::tensor::Shape;
use crate::error::Error;
use crate::error::Result;

/// Memory that weights are laid over; it lives as long as any of them.
pub type Owner = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Alignment of host memory in bytes.
pub(super) const HOST_ALIGN: usize = 64;

/// A copy of bytes that begins where host memory has to.
pub(super) struct Aligned {
    bytes: Vec<u8>,
    first: usize,
}

impl Aligned {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut own = vec![0; bytes.len() + HOST_ALIGN];
        let first = own.as_ptr().align_offset(HOST_ALIGN);
        own.truncate(first + bytes.len());
        own[first..].copy_from_slice(bytes);
        Self { bytes: own, first }
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.first..]
    }
}

/// Where a weight is used from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// In place in the mapping, by the processor.
    Host,
    /// In place in the mapping, in the processor's packed kernel layout.
    HostPacked,
    /// In the GPU's memory.
    Gpu,
}

/// One weight of a file.
#[derive(Clone, Debug)]
pub struct WeightSpec {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape in ggml order.
    pub shape: Shape,
    /// First byte in the mapped memory.
    pub offset: usize,
    /// Where it is used from.
    pub placement: Placement,
}

/// A ggml context that holds only tensor headers.
pub(super) struct Context(NonNull<sys::ggml_context>);

impl Context {
    pub(super) fn new(bytes: usize) -> Result<Self> {
        let params = sys::ggml_init_params {
            mem_size: bytes,
            mem_buffer: std::ptr::null_mut(),
            no_alloc: true,
        };
        // SAFETY: the parameters are valid; ggml allocates its own memory.
        NonNull::new(unsafe { sys::ggml_init(params) })
            .map(Self)
            .ok_or_else(|| Error::memory(format!("{bytes} bytes for tensor headers do not fit")))
    }

    pub(super) fn for_tensors(n: usize) -> Result<Self> {
        // SAFETY: returns a constant.
        Self::new((n + 1) * unsafe { sys::ggml_tensor_overhead() })
    }

    pub(super) fn raw(&self) -> *mut sys::ggml_context {
        self.0.as_ptr()
    }

    /// Makes a tensor header; the caller has counted that it fits.
    pub(super) fn tensor(&self, dtype: DType, shape: Shape) -> NonNull<sys::ggml_tensor> {
        let ne = shape.0.map(|n| n as i64);
        // SAFETY: the context has room by the caller's count; `ne` has four sides.
        let raw = unsafe { sys::ggml_new_tensor(self.raw(), dtype.raw(), 4, ne.as_ptr()) };
        NonNull::new(raw).expect("ggml returns a tensor or aborts")
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `ggml_init`, freed once.
        unsafe { sys::ggml_free(self.raw()) }
    }
}

/// A ggml buffer, freed with its owner.
pub(super) struct Buffer(pub(super) NonNull<sys::ggml_backend_buffer>);

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: made by ggml, freed once.
        unsafe { sys::ggml_backend_buffer_free(self.0.as_ptr()) }
    }
}

/// Lays a ggml buffer over host memory.
pub(super) fn over_host(ptr: *const u8, len: usize) -> Result<Buffer> {
    let dev = cpu_device()?;
    // SAFETY: the caller keeps `ptr..ptr + len` alive as long as the buffer, and `ptr` is aligned.
    let raw =
        unsafe { sys::ggml_backend_dev_buffer_from_host_ptr(dev, ptr.cast_mut().cast(), len, len) };
    NonNull::new(raw)
        .map(Buffer)
        .ok_or_else(|| Error::internal("the processor refuses a buffer over mapped memory"))
}

struct WeightStore {
    // Order matters: buffers go before the memory they lie over.
    _buffers: Vec<Buffer>,
    _context: Context,
    _owner: Owner,
    /// Whose memory holds those placed on a GPU, or null.
    gpu: sys::ggml_backend_dev_t,
}

// SAFETY: after construction the headers and bytes are only read.
unsafe impl Send for WeightStore {}
// SAFETY: as above.
unsafe impl Sync for WeightStore {}

/// One weight tensor; clones share it and keep its memory mapped.
#[derive(Clone)]
pub struct Weight {
    pub(super) ptr: NonNull<sys::ggml_tensor>,
    store: Arc<WeightStore>,
    placement: Placement,
}

// SAFETY: the header is only read after construction and the store keeps it alive.
unsafe impl Send for Weight {}
// SAFETY: as above.
unsafe impl Sync for Weight {}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.dtype(), self.shape())
    }
}

impl Weight {
    /// Returns the shape in ggml order.
    pub fn shape(&self) -> Shape {
        // SAFETY: the store keeps the header alive.
        Shape(unsafe { (*self.ptr.as_ptr()).ne }.map(|n| n as usize))
    }

    /// Returns the element type.
    pub fn dtype(&self) -> DType {
        DType::of(self.ptr)
    }

    /// Returns where it is used from.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Returns the GPU whose backend its store was made with, or null.
    pub(super) fn gpu(&self) -> sys::ggml_backend_dev_t {
        self.store.gpu
    }

    /// Returns its size in bytes.
    pub fn size_bytes(&self) -> usize {
        let shape = self.shape();
        self.dtype().row_bytes(shape.0[0]).expect("checked when it was mapped") * shape.n_rows()
    }

    /// Returns the bytes in the file's own layout, or `None` if they are packed or on a GPU.
    pub fn host_bytes(&self) -> Option<&[u8]> {
        self.kernel_bytes().filter(|_| self.placement == Placement::Host)
    }

    /// Returns the bytes in whatever layout they have, or `None` if they are on a GPU.
    pub(super) fn kernel_bytes(&self) -> Option<&[u8]> {
        if self.placement == Placement::Gpu {
            return None;
        }
        // SAFETY: `map_weights` put `data` inside the owner's bytes and checked the length.
        Some(unsafe {
            let data = (*self.ptr.as_ptr()).data.cast::<u8>();
            std::slice::from_raw_parts(data, self.size_bytes())
        })
    }

    /// Converts part of a row to 32-bit floats: elements `first .. first + out.len()`.
    ///
    /// # Errors
    /// `Input` if the range is outside the row or not on block borders.
    pub fn read_row(&self, row: usize, first: usize, out: &mut [f32]) -> Result<()> {
        let n = self.shape().0[0];
        let block = self.dtype().block_len();
        let fits = row < self.shape().n_rows()
            && first.checked_add(out.len()).is_some_and(|end| end <= n)
            && first.is_multiple_of(block)
            && out.len().is_multiple_of(block);
        let (Some(bytes), true) = (self.host_bytes(), fits) else {
            return Err(Error::input(format!(
                "elements {first}..+{} of row {row} of a weight {} are not readable",
                out.len(),
                self.shape()
            )));
        };
        let row_bytes = self.dtype().row_bytes(n).expect("checked when it was mapped");
        let start = row * row_bytes + first / block * self.dtype().block_bytes();
        let len = out.len() / block * self.dtype().block_bytes();
        super::tensor::dequantize_into(self.dtype(), &bytes[start..start + len], out)
    }

    /// Returns all values as 32-bit floats.
    ///
    /// # Errors
    /// `Input` if the bytes are packed or on a GPU.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let bytes = self
            .host_bytes()
            .ok_or_else(|| Error::input("packed weights cannot be read back as numbers"))?;
        super::tensor::dequantize(self.dtype(), bytes, self.shape().n_elements())
    }

    pub(super) fn keep(&self) -> Arc<dyn std::any::Any + Send + Sync> {
        Arc::clone(&self.store) as _
    }
}

/// Tells whether the kernels can multiply with weights of this type.
pub(super) fn is_weight_type(dtype: DType) -> bool {
    // SAFETY: the number is in ggml's table.
    let quantized = unsafe { sys::ggml_is_quantized(dtype.raw()) };
    let internal = [sys::GGML_TYPE_Q8_1, sys::GGML_TYPE_Q8_K];
    [DType::F32, DType::F16, DType::BF16].contains(&dtype)
        || quantized && !internal.contains(&dtype.raw())
}

fn check_spec(spec: &WeightSpec, len: usize) -> Result<usize> {
    let bytes =
        spec.dtype.row_bytes(spec.shape.0[0]).and_then(|b| b.checked_mul(spec.shape.n_rows()));
    let end = bytes.and_then(|b| spec.offset.checked_add(b));
    match (bytes, end) {
        (Some(bytes), Some(end)) if end <= len && is_weight_type(spec.dtype) => Ok(bytes),
        _ => Err(Error::format(format!(
            "tensor {} ({} {}) does not lie inside its file or has no kernels",
            spec.name, spec.dtype, spec.shape
        ))),
    }
}

/// Lays weights over `owner`'s bytes; those placed on a GPU are copied there unless it shares the
/// processor's memory.
///
/// # Errors
/// `Format` if a weight does not lie inside the memory; `Unsupported` if it is not aligned;
/// `Memory` if the GPU has no room.
pub fn map_weights(owner: Owner, specs: &[WeightSpec], backend: &Backend) -> Result<Vec<Weight>> {
    let bytes: &[u8] = (*owner).as_ref();
    let len = bytes.len();
    let start = bytes.as_ptr();
    let context = Context::for_tensors(specs.len())?;
    let mut buffers = Vec::new();
    // A mapping begins on a page, so rounding its start down stays inside the mapped page.
    let slack = start.addr() % HOST_ALIGN;
    let host = over_host(start.wrapping_sub(slack), len + slack)?;
    // SAFETY: the buffer is alive; products with its weights then stay with the processor.
    unsafe {
        sys::ggml_backend_buffer_set_usage(host.0.as_ptr(), sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    }
    let mut pointers = Vec::with_capacity(specs.len());
    let mut on_gpu = Vec::new();
    let mut packed: Option<Buffer> = None;
    for spec in specs {
        let size_bytes = check_spec(spec, len)?;
        let data = start.wrapping_add(spec.offset);
        if !data.addr().is_multiple_of(4) {
            return Err(Error::unsupported(format!(
                "tensor {} is not aligned to 4 bytes; map the file from an aligned offset",
                spec.name
            )));
        }
        let tensor = context.tensor(spec.dtype, spec.shape);
        set_name(tensor, &spec.name);
        match spec.placement {
            // SAFETY: `data` lies inside `host`, which `check_spec` made sure of.
            Placement::Host => unsafe {
                sys::ggml_backend_tensor_alloc(
                    host.0.as_ptr(),
                    tensor.as_ptr(),
                    data.cast_mut().cast(),
                );
            },
            Placement::HostPacked => place_packed(tensor, data, &mut packed)?,
            Placement::Gpu => on_gpu.push((tensor, data, size_bytes)),
        }
        pointers.push(tensor);
    }
    buffers.push(host);
    buffers.extend(packed);
    buffers.extend(gpu::place(&on_gpu, backend)?);
    let gpu = backend.gpu_device();
    let store = Arc::new(WeightStore { _buffers: buffers, _context: context, _owner: owner, gpu });
    let weight = |(&ptr, spec): (&NonNull<_>, &WeightSpec)| Weight {
        ptr,
        store: Arc::clone(&store),
        placement: spec.placement,
    };
    Ok(pointers.iter().zip(specs).map(weight).collect())
}

fn set_name(tensor: NonNull<sys::ggml_tensor>, name: &str) {
    if let Ok(name) = CString::new(name) {
        // SAFETY: ggml copies at most its own name length.
        unsafe { sys::ggml_set_name(tensor.as_ptr(), name.as_ptr()) };
    }
}

/// Points `tensor` at mapped bytes that are already in the packed kernel layout.
///
/// A small buffer of the packed type names the layout; the bytes stay in the mapping.
fn place_packed(
    tensor: NonNull<sys::ggml_tensor>,
    data: *const u8,
    buffer: &mut Option<Buffer>,
) -> Result<()> {
    if buffer.is_none() {
        let kind = repack_type()?
            .ok_or_else(|| Error::unsupported("this build has no packed kernel layouts"))?;
        // SAFETY: `kind` comes from ggml's list of extra buffer types.
        let raw = unsafe { sys::ggml_backend_buft_alloc_buffer(kind, HOST_ALIGN) };
        let raw = NonNull::new(raw).ok_or_else(|| Error::memory("64 bytes cannot be had"))?;
        *buffer = Some(Buffer(raw));
    }
    let raw = buffer.as_ref().expect("set above").0.as_ptr();
    // SAFETY: the header is fresh; `init_tensor` only chooses the kernel for its type and shape.
    unsafe {
        (*tensor.as_ptr()).buffer = raw;
        (*tensor.as_ptr()).data = data.cast_mut().cast();
        sys::ggml_backend_buffer_init_tensor(raw, tensor.as_ptr());
        if (*tensor.as_ptr()).extra.is_null() {
            return Err(Error::unsupported("a weight has no packed kernel on this processor"));
        }
    }
    Ok(())
}

#[cfg(test)]
impl Weight {
    /// Returns a weight of the processor's from bytes of its own.
    pub(super) fn of(
        dtype: DType,
        bytes: &[u8],
        sides: &[usize],
        placement: Placement,
        backend: &Backend,
    ) -> Self {
        let (name, shape) = ("w".to_owned(), Shape::new(sides).unwrap());
        let spec = WeightSpec { name, dtype, shape, offset: 0, placement };
        map_weights(Arc::new(Aligned::new(bytes)), &[spec], backend).unwrap().remove(0)
    }
}
