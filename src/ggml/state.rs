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
}

pub(super) struct StateInner {
    tensors: Vec<NonNull<sys::ggml_tensor>>,
    // Order matters: the buffer goes before the memory it lies over.
    _buffer: Buffer,
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
    /// Allocates state tensors on the GPU if the backend has one, else in lazily zeroed memory.
    ///
    /// # Errors
    /// `Memory` if they do not fit; `Input` if blocks do not divide a row.
    pub fn new(specs: &[StateSpec], backend: &Backend) -> Result<Self> {
        let context = Context::for_tensors(specs.len())?;
        let mut total = 0usize;
        let mut tensors = Vec::with_capacity(specs.len());
        let mut places = Vec::with_capacity(specs.len());
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
            places.push(total);
            total = end;
            tensors.push(context.tensor(spec.dtype, spec.shape));
        }
        let (buffer, memory) = match backend.gpu() {
            Some(gpu) => (gpu_buffer(gpu, total)?, Vec::new()),
            None => host_buffer(total)?,
        };
        // SAFETY: places are inside the buffer by the sum above.
        unsafe {
            let base = sys::ggml_backend_buffer_get_base(buffer.0.as_ptr()).cast::<u8>();
            for (tensor, place) in tensors.iter().zip(places) {
                let at = base.wrapping_add(place);
                sys::ggml_backend_tensor_alloc(buffer.0.as_ptr(), tensor.as_ptr(), at.cast());
            }
        }
        let inner = StateInner { tensors, _buffer: buffer, _context: context, _memory: memory };
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

fn gpu_buffer(gpu: sys::ggml_backend_t, total: usize) -> Result<Buffer> {
    // SAFETY: `gpu` is a live backend.
    unsafe {
        let kind = sys::ggml_backend_get_default_buffer_type(gpu);
        let raw = sys::ggml_backend_buft_alloc_buffer(kind, total.max(HOST_ALIGN));
        let buffer = Buffer(NonNull::new(raw).ok_or_else(|| {
            Error::memory(format!("{} MiB of state do not fit the GPU's memory", total >> 20))
        })?);
        sys::ggml_backend_buffer_clear(raw, 0);
        Ok(buffer)
    }
}
