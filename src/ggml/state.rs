//! Mutable tensors that outlive a graph: caches and carried state.
//!
//! In: types and shapes. Out: a [`StateStore`] that graphs read and write in place.

use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;

use super::backend::Backend;
use super::buffer::Buffer;
use super::buffer::Context;
use super::buffer::HOST_ALIGN;
use super::buffer::over_host;
use super::gpu::GpuPlaces;
use super::gpu::allocate;
use super::tensor::DType;
use super::tensor::Shape;
use crate::error::Error;
use crate::error::Result;

/// Type and shape of one mutable tensor.
#[derive(Clone, Copy, Debug)]
pub struct StateSpec {
    /// Element type.
    pub dtype: DType,
    /// Shape in ggml order.
    pub shape: Shape,
    /// Whether it lies in the GPU's memory.
    pub on_gpu: bool,
}

pub(super) struct StateInner {
    tensors: Vec<NonNull<sys::ggml_tensor>>,
    // Order matters: buffers go before the memory they lie over.
    _buffers: Vec<Buffer>,
    _context: Context,
    _memory: Vec<u8>,
}

// SAFETY: all access goes through `StateStore`, which one thread owns at a time, or through a
// `Plan` that the same owner computes.
unsafe impl Send for StateInner {}
// SAFETY: as above; shared handles are only used to keep the memory alive.
unsafe impl Sync for StateInner {}

/// Mutable tensors, zero at first; memory becomes resident only where it is written.
pub struct StateStore {
    pub(super) inner: Arc<StateInner>,
    // Plans write through the same memory, so two threads must not share a store.
    not_sync: std::marker::PhantomData<std::cell::Cell<()>>,
}

/// Handle of one tensor in a [`StateStore`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State(pub(super) usize);

impl StateStore {
    /// Allocates state tensors, those of the processor in lazily zeroed memory.
    ///
    /// # Errors
    /// `Memory` if they do not fit; `Input` if blocks do not divide a row, or one is wanted on a
    /// GPU and the backend has none.
    pub fn new(specs: &[StateSpec], backend: &Backend) -> Result<Self> {
        let context = Context::for_tensors(specs.len())?;
        let mut total = 0usize;
        let mut tensors = Vec::with_capacity(specs.len());
        let (mut places, mut on_gpu) = (Vec::with_capacity(specs.len()), Vec::new());
        for spec in specs {
            let bytes = spec
                .dtype
                .row_bytes(spec.shape.0[0])
                .and_then(|b| b.checked_mul(spec.shape.n_rows()))
                .and_then(|b| b.checked_next_multiple_of(HOST_ALIGN));
            let end = bytes.and_then(|b| total.checked_add(b));
            let end = end.filter(|&e| e <= isize::MAX as usize / 2).ok_or_else(|| {
                Error::input(format!("state {} {} is not possible", spec.dtype, spec.shape))
            })?;
            let tensor = context.tensor(spec.dtype, spec.shape);
            tensors.push(tensor);
            if spec.on_gpu {
                on_gpu.push(tensor);
            } else {
                places.push((tensor, total));
                total = end;
            }
        }
        let (buffer, memory) = host_buffer(total)?;
        for (tensor, place) in places {
            put(&buffer, tensor, place);
        }
        let mut buffers = on_gpu_buffers(&on_gpu, backend)?;
        buffers.push(buffer);
        let inner = StateInner { tensors, _buffers: buffers, _context: context, _memory: memory };
        Ok(Self { inner: Arc::new(inner), not_sync: std::marker::PhantomData })
    }

    /// Returns the handle of tensor `i`.
    pub fn state(&self, i: usize) -> State {
        assert!(i < self.inner.tensors.len(), "state {i} was not declared");
        State(i)
    }

    /// Returns the shape of a tensor in ggml order.
    pub fn shape(&self, state: State) -> Shape {
        // SAFETY: the header is alive.
        Shape(unsafe { (*self.raw(state).as_ptr()).ne }.map(|n| n as usize))
    }

    /// Returns the size of a tensor in bytes.
    pub fn size_bytes(&self, state: State) -> usize {
        // SAFETY: the header is alive.
        unsafe { sys::ggml_nbytes(self.raw(state).as_ptr()) }
    }

    /// Copies bytes out of a tensor.
    ///
    /// # Errors
    /// `Input` if the range is outside.
    pub fn read(&self, state: State, offset: usize, out: &mut [u8]) -> Result<()> {
        self.check(state, offset, out.len())?;
        // SAFETY: the range was checked.
        unsafe {
            let tensor = self.raw(state).as_ptr();
            sys::ggml_backend_tensor_get(tensor, out.as_mut_ptr().cast(), offset, out.len());
        }
        Ok(())
    }

    /// Copies bytes into a tensor.
    ///
    /// # Errors
    /// `Input` if the range is outside.
    pub fn write(&mut self, state: State, offset: usize, bytes: &[u8]) -> Result<()> {
        self.check(state, offset, bytes.len())?;
        // SAFETY: the range was checked; `&mut self` excludes other users.
        unsafe {
            let tensor = self.raw(state).as_ptr();
            sys::ggml_backend_tensor_set(tensor, bytes.as_ptr().cast(), offset, bytes.len());
        }
        Ok(())
    }

    fn check(&self, state: State, offset: usize, len: usize) -> Result<()> {
        let size = self.size_bytes(state);
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(Error::input(format!("bytes {offset}..+{len} of a state of {size} bytes"))),
        }
    }

    pub(super) fn raw(&self, state: State) -> NonNull<sys::ggml_tensor> {
        self.inner.tensors[state.0]
    }
}

fn host_buffer(total: usize) -> Result<(Buffer, Vec<u8>)> {
    let size = total.max(HOST_ALIGN);
    let len = size + HOST_ALIGN;
    let mut trial = Vec::<u8>::new();
    trial.try_reserve_exact(len).map_err(|_| {
        Error::memory(format!("{} MiB of state do not fit; use a smaller context", len >> 20))
    })?;
    drop(trial);
    // Zeroed by the system page by page when first touched.
    let mut memory = vec![0u8; len];
    let slack = memory.as_ptr().align_offset(HOST_ALIGN);
    let buffer = over_host(memory.as_mut_ptr().wrapping_add(slack), size)?;
    Ok((buffer, memory))
}

/// Lays zeroed buffers of the GPU under tensors.
fn on_gpu_buffers(tensors: &[NonNull<sys::ggml_tensor>], backend: &Backend) -> Result<Vec<Buffer>> {
    let mut buffers = Vec::new();
    if tensors.is_empty() {
        return Ok(buffers);
    }
    let gpu = backend
        .gpu()
        .ok_or_else(|| Error::input("weights lie on a GPU that this backend was not made with"))?;
    for places in GpuPlaces::of(gpu, tensors) {
        let buffer = allocate(gpu, places.total, "caches")?;
        // SAFETY: the buffer is alive and nobody else's.
        unsafe { sys::ggml_backend_buffer_clear(buffer.0.as_ptr(), 0) };
        for (i, place) in places.places {
            put(&buffer, tensors[i], place);
        }
        buffers.push(buffer);
    }
    Ok(buffers)
}

/// Lays a tensor into a buffer at a place that has room for it.
fn put(buffer: &Buffer, tensor: NonNull<sys::ggml_tensor>, place: usize) {
    // SAFETY: places are sums of the sizes before, and the buffer is as large as all of them.
    unsafe {
        let base = sys::ggml_backend_buffer_get_base(buffer.0.as_ptr()).cast::<u8>();
        let at = base.wrapping_add(place);
        sys::ggml_backend_tensor_alloc(buffer.0.as_ptr(), tensor.as_ptr(), at.cast());
    }
}
