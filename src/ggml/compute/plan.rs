//! Planning memory for a graph, running it, writing inputs and reading outputs.
//!
//! In: a finished [`GraphBuilder`]. Out: a [`Plan`] that can be computed again and again.
//! Invariant: computing allocates nothing; inputs are written before every computation.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;

use super::profile::Kernels;
use crate::error::Error;
use crate::error::Result;
use crate::ggml::backend::Backend;
use crate::ggml::buffer::Context;
use crate::ggml::custom::Custom;
use crate::ggml::graph::GraphBuilder;
use crate::ggml::tensor::DType;

/// Handle of one input or output of a [`Plan`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Port(pub(in crate::ggml) usize);

/// Multiply-adds of a node that are worth one more thread, which all nodes then wait for.
const WORK: usize = 200_000;

enum Memory {
    /// One buffer of the processor's.
    Host(NonNull<sys::ggml_gallocr>),
    /// Split between a GPU and the processor.
    Split(NonNull<sys::ggml_backend_sched>),
}

/// A graph with its memory, ready to be computed.
pub struct Plan {
    memory: Memory,
    graph: NonNull<sys::ggml_cgraph>,
    ports: Vec<NonNull<sys::ggml_tensor>>,
    #[expect(clippy::vec_box, reason = "ggml keeps their addresses")]
    customs: Vec<Box<Custom>>,
    n_multiply_adds: usize,
    /// Threads that are worth waking.
    n_threads: usize,
    kernels: Kernels,
    _context: Context,
    _keep: Vec<Arc<dyn Any + Send + Sync>>,
}

// SAFETY: a plan is used by one thread at a time because every method that touches memory takes
// `&mut self`; what it shares with others (weights) is only read.
unsafe impl Send for Plan {}

impl Plan {
    /// Reserves the memory that the graph needs.
    ///
    /// # Errors
    /// `Memory` if it does not fit.
    pub fn new(builder: GraphBuilder, backend: &Backend) -> Result<Self> {
        let GraphBuilder {
            context,
            graph,
            ports,
            keep,
            customs,
            kernels,
            work,
            constants,
            places,
            ..
        } = builder;
        // SAFETY: the graph is alive.
        let n_nodes = unsafe { sys::ggml_graph_n_nodes(graph.as_ptr()) }.max(1) as usize;
        let n_multiply_adds = work.get();
        let n_threads = (n_multiply_adds / n_nodes / WORK).max(1);
        let places = places.into_inner();
        let memory = match backend.gpu() {
            Some(gpu) if places.iter().any(|p| p.1) => split_memory(graph, &places, gpu, backend)?,
            _ => host_memory(graph, backend)?,
        };
        for (tensor, values) in constants.into_inner() {
            // SAFETY: the tensor has as many values, which was checked; one that no node reads has
            // no memory.
            unsafe {
                if !(*tensor.as_ptr()).data.is_null() {
                    let (data, len) = (values.as_ptr().cast(), size_of_val(&*values));
                    sys::ggml_backend_tensor_set(tensor.as_ptr(), data, 0, len);
                }
            }
        }
        let mut keep = keep.into_inner();
        keep.sort_by_key(|k| Arc::as_ptr(k).cast::<()>().addr());
        keep.dedup_by_key(|k| Arc::as_ptr(k).cast::<()>().addr());
        Ok(Self {
            memory,
            graph,
            ports: ports.into_inner(),
            customs: customs.into_inner(),
            n_multiply_adds,
            n_threads,
            kernels: kernels.into_inner(),
            _context: context,
            _keep: keep,
        })
    }

    /// Returns the bytes reserved for intermediate values.
    pub fn size_bytes(&self) -> usize {
        match self.memory {
            // SAFETY: the allocator is alive.
            Memory::Host(m) => unsafe { sys::ggml_gallocr_get_buffer_size(m.as_ptr(), 0) },
            // SAFETY: the scheduler and its backends are alive; indices are below the count.
            Memory::Split(m) => unsafe {
                let n = sys::ggml_backend_sched_get_n_backends(m.as_ptr());
                (0..n)
                    .map(|i| {
                        let b = sys::ggml_backend_sched_get_backend(m.as_ptr(), i);
                        sys::ggml_backend_sched_get_buffer_size(m.as_ptr(), b)
                    })
                    .sum()
            },
        }
    }

    /// Returns the number of nodes.
    pub fn n_nodes(&self) -> usize {
        // SAFETY: the graph lives in the context.
        unsafe { sys::ggml_graph_n_nodes(self.graph.as_ptr()) as usize }
    }

    /// Returns the multiply-adds of its products, those of cells that are not seen included.
    pub fn n_multiply_adds(&self) -> usize {
        self.n_multiply_adds
    }

    fn port(&self, port: Port, dtypes: &[DType]) -> Result<(*mut sys::ggml_tensor, usize)> {
        let tensor =
            self.ports.get(port.0).ok_or_else(|| Error::internal("port of another plan"))?;
        let dtype = DType::of(*tensor);
        if !dtypes.contains(&dtype) {
            return Err(Error::internal(format!("port {} holds {dtype}", port.0)));
        }
        // SAFETY: the tensor lives in the context.
        Ok((tensor.as_ptr(), unsafe { sys::ggml_nbytes(tensor.as_ptr()) }))
    }

    fn write(&mut self, port: Port, dtype: DType, ptr: *const u8, len: usize) -> Result<()> {
        let (tensor, size) = self.port(port, &[dtype])?;
        // SAFETY: the tensor lives in the context.
        let allocated = unsafe { !(*tensor).data.is_null() };
        if len != size {
            return Err(Error::internal(format!("input {} has {size} bytes, not {len}", port.0)));
        }
        if allocated {
            // SAFETY: `len` bytes are readable at `ptr` and writable in the tensor.
            unsafe { sys::ggml_backend_tensor_set(tensor, ptr.cast(), 0, len) };
        }
        Ok(())
    }

    /// Writes an f32 input.
    ///
    /// # Errors
    /// `Internal` if the type or length differs.
    pub fn write_f32(&mut self, port: Port, values: &[f32]) -> Result<()> {
        self.write(port, DType::F32, values.as_ptr().cast(), size_of_val(values))
    }

    /// Writes an i32 input.
    ///
    /// # Errors
    /// `Internal` if the type or length differs.
    pub fn write_i32(&mut self, port: Port, values: &[i32]) -> Result<()> {
        self.write(port, DType::I32, values.as_ptr().cast(), size_of_val(values))
    }

    /// Writes an i64 input.
    ///
    /// # Errors
    /// `Internal` if the type or length differs.
    pub fn write_i64(&mut self, port: Port, values: &[i64]) -> Result<()> {
        self.write(port, DType::I64, values.as_ptr().cast(), size_of_val(values))
    }

    /// Writes an f16 input given as bits.
    ///
    /// # Errors
    /// `Internal` if the type or length differs.
    pub fn write_f16_bits(&mut self, port: Port, values: &[u16]) -> Result<()> {
        self.write(port, DType::F16, values.as_ptr().cast(), size_of_val(values))
    }

    /// Lets `fill` write an f16 input as bits, where it lies or, if that is on a GPU, in `spare`.
    ///
    /// # Errors
    /// `Internal` if the type differs.
    pub fn fill_f16_bits(
        &mut self,
        port: Port,
        spare: &mut Vec<u16>,
        fill: impl FnOnce(&mut [u16]),
    ) -> Result<()> {
        let (tensor, size) = self.port(port, &[DType::F16])?;
        let n = size / size_of::<u16>();
        // SAFETY: the tensor lives in the context; memory of the processor's own that was reserved
        // for it holds `size` bytes, aligned, which nobody else uses while the plan is borrowed.
        let in_place = unsafe {
            let (data, buffer) = ((*tensor).data, (*tensor).buffer);
            let is_host = !buffer.is_null() && sys::ggml_backend_buffer_is_host(buffer);
            match is_host && !data.is_null() {
                true => Some(std::slice::from_raw_parts_mut(data.cast::<u16>(), n)),
                false => None,
            }
        };
        if let Some(bits) = in_place {
            fill(bits);
            return Ok(());
        }
        spare.resize(n, 0);
        fill(spare);
        self.write_f16_bits(port, spare)
    }

    /// Reads an f32 output from element `first` on.
    ///
    /// # Errors
    /// `Internal` if the type differs or the range is outside.
    pub fn read_f32(&mut self, port: Port, first: usize, out: &mut [f32]) -> Result<()> {
        let (tensor, size) = self.port(port, &[DType::F32])?;
        let (offset, len) = (first * 4, size_of_val(out));
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::internal(format!("output {} has only {size} bytes", port.0)));
        }
        // SAFETY: the range was checked.
        unsafe { sys::ggml_backend_tensor_get(tensor, out.as_mut_ptr().cast(), offset, len) };
        Ok(())
    }

    /// Computes the graph.
    ///
    /// # Errors
    /// `Cancelled` if the backend's flag was set; `Internal` if a kernel failed.
    pub fn compute(&mut self, backend: &mut Backend) -> Result<()> {
        if backend.cancel().is_cancelled() {
            return Err(Error::cancelled());
        }
        self.customs.iter().for_each(|custom| custom.begin());
        backend.use_threads(self.n_threads);
        let cpu = backend.cpu();
        let parts = backend.parts().take();
        // SAFETY: graph, memory and backend are alive and exclusively ours.
        let status = unsafe {
            match (&self.memory, backend.profile(), parts) {
                (Memory::Host(_), _, Some(mut parts)) => {
                    let status = parts.compute(self.graph, self.n_threads, backend);
                    *backend.parts() = Some(parts);
                    status
                }
                (Memory::Host(_), Some(profile), None) => {
                    profile.compute(self.graph, &self.kernels, cpu)
                }
                (Memory::Host(_), None, None) => {
                    sys::ggml_backend_graph_compute(cpu, self.graph.as_ptr())
                }
                (Memory::Split(m), ..) => {
                    sys::ggml_backend_sched_graph_compute(m.as_ptr(), self.graph.as_ptr())
                }
            }
        };
        if self.customs.iter().any(|custom| custom.panicked()) {
            return Err(Error::internal("a kernel of ours panicked"));
        }
        match status {
            sys::GGML_STATUS_SUCCESS => Ok(()),
            sys::GGML_STATUS_ABORTED => Err(Error::cancelled()),
            sys::GGML_STATUS_ALLOC_FAILED => Err(Error::memory("the kernels ran out of memory")),
            other => Err(Error::internal(format!("the kernels failed with status {other}"))),
        }
    }
}

fn host_memory(graph: NonNull<sys::ggml_cgraph>, backend: &Backend) -> Result<Memory> {
    // SAFETY: the backend is alive; the allocator is freed by `Plan`.
    unsafe {
        let kind = sys::ggml_backend_get_default_buffer_type(backend.cpu());
        let raw = NonNull::new(sys::ggml_gallocr_new(kind))
            .ok_or_else(|| Error::memory("no memory for an allocator"))?;
        if !sys::ggml_gallocr_alloc_graph(raw.as_ptr(), graph.as_ptr()) {
            sys::ggml_gallocr_free(raw.as_ptr());
            return Err(Error::memory("intermediate values do not fit; use a smaller batch"));
        }
        Ok(Memory::Host(raw))
    }
}

fn split_memory(
    graph: NonNull<sys::ggml_cgraph>,
    places: &[(NonNull<sys::ggml_tensor>, bool)],
    gpu: sys::ggml_backend_t,
    backend: &Backend,
) -> Result<Memory> {
    check_states(places, gpu)?;
    let mut backends = [gpu, backend.cpu()];
    // SAFETY: both backends outlive the plan by the contract of `Backend`; the scheduler is freed
    // by `Plan`.
    unsafe {
        let size = sys::ggml_graph_size(graph.as_ptr()) as usize;
        let raw = sys::ggml_backend_sched_new(
            backends.as_mut_ptr(),
            std::ptr::null_mut(),
            2,
            size,
            false,
            false,
        );
        let raw = NonNull::new(raw).ok_or_else(|| Error::memory("no memory for a scheduler"))?;
        for &(node, on_gpu) in places.iter().filter(|p| p.1 == is_leaf(p.0) && computes(p.0)) {
            let owner = if on_gpu { gpu } else { backend.cpu() };
            sys::ggml_backend_sched_set_tensor_backend(raw.as_ptr(), node.as_ptr(), owner);
        }
        if !sys::ggml_backend_sched_alloc_graph(raw.as_ptr(), graph.as_ptr()) {
            sys::ggml_backend_sched_free(raw.as_ptr());
            return Err(Error::memory("intermediate values do not fit the GPU's memory"));
        }
        log::debug!("graph in {} parts", sys::ggml_backend_sched_get_n_splits(raw.as_ptr()));
        Ok(Memory::Split(raw))
    }
}

/// Tells whether a tensor is an input, not a node.
fn is_leaf(tensor: NonNull<sys::ggml_tensor>) -> bool {
    // SAFETY: the graph's builder keeps the tensor alive.
    unsafe { (*tensor.as_ptr()).op == sys::GGML_OP_NONE }
}

/// Tells whether a node does more than to view another.
fn computes(node: NonNull<sys::ggml_tensor>) -> bool {
    // SAFETY: the graph's builder keeps the node alive.
    unsafe { (*node.as_ptr()).view_src.is_null() }
}

/// Checks that the GPU can write the states that are its own; ggml aborts where one cannot.
fn check_states(
    places: &[(NonNull<sys::ggml_tensor>, bool)],
    gpu: sys::ggml_backend_t,
) -> Result<()> {
    // SAFETY: the nodes are alive, `gpu` is a live backend.
    let refused = |node: NonNull<sys::ggml_tensor>| unsafe {
        let node = node.as_ptr();
        let state = (*node).view_src;
        (*node).op == sys::GGML_OP_SET_ROWS
            && !(*state).buffer.is_null()
            && !sys::ggml_backend_buffer_is_host((*state).buffer)
            && !sys::ggml_backend_supports_op(gpu, node)
    };
    match places.iter().find(|(node, _)| refused(*node)) {
        Some((node, _)) => Err(Error::unsupported(format!(
            "the GPU cannot keep a cache of {}; use f16",
            DType::of(*node)
        ))),
        None => Ok(()),
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once.
        unsafe {
            match self.memory {
                Memory::Host(m) => sys::ggml_gallocr_free(m.as_ptr()),
                Memory::Split(m) => sys::ggml_backend_sched_free(m.as_ptr()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::BackendOptions;

    fn backend() -> Backend {
        Backend::new(&BackendOptions { n_threads: 2, gpu: None }).expect("a processor")
    }

    #[test]
    fn a_graph_computes_again_and_again() {
        let mut backend = backend();
        let g = GraphBuilder::new(64, &backend).expect("small");
        let (x, x_port) = g.input(DType::F32, &[32, 3]).expect("small");
        let y = g.rms_norm(x, None, 1e-6).expect("fits");
        let z = g.add(y, x).expect("fits");
        let out = g.output(z);
        let mut plan = Plan::new(g, &backend).expect("fits");
        for round in 1..4 {
            let values = vec![round as f32; 96];
            plan.write_f32(x_port, &values).expect("fits");
            plan.compute(&mut backend).expect("computes");
            let mut got = vec![0.0; 96];
            plan.read_f32(out, 0, &mut got).expect("fits");
            assert!(got.iter().all(|v| (v - 1.0 - round as f32).abs() < 1e-4), "{got:?}");
        }
    }

    #[test]
    fn wrong_shapes_are_errors_not_aborts() {
        let backend = backend();
        let g = GraphBuilder::new(16, &backend).expect("small");
        let (a, _) = g.input(DType::F32, &[32, 3]).expect("small");
        let (b, _) = g.input(DType::F32, &[31, 3]).expect("small");
        let (i, _) = g.input(DType::I32, &[3]).expect("small");
        assert!(g.mul_mat(a, b).is_err());
        assert!(g.add(a, b).is_err());
        assert!(g.add(a, i).is_err());
        assert!(g.reshape(a, &[5, 5]).is_err());
        assert!(g.permute(a, [0, 0, 1, 2]).is_err());
        assert!(g.slice(a, 0, 30, 3).is_err());
        assert!(g.attention([a, b, b], None, 1.0).is_err());
        assert!(g.set_rows(a, b, i).is_err());
        assert!(g.input(DType::F32, &[0]).is_err());
        assert!((0..20).any(|_| g.add(a, a).is_err()), "the graph is bounded");
    }

    #[test]
    fn a_cancelled_backend_computes_nothing() {
        let mut backend = backend();
        let g = GraphBuilder::new(16, &backend).expect("small");
        let (a, port) = g.input(DType::F32, &[32]).expect("small");
        let _ = g.output(g.add(a, a).expect("fits"));
        let mut plan = Plan::new(g, &backend).expect("fits");
        plan.write_f32(port, &[1.0; 32]).expect("fits");
        backend.cancel().cancel();
        let kind = plan.compute(&mut backend).map_err(|e| e.kind());
        assert_eq!(kind, Err(crate::error::ErrorKind::Cancelled));
    }

    #[test]
    fn a_panicking_kernel_becomes_an_error() {
        let mut backend = backend();
        let g = GraphBuilder::new(16, &backend).expect("small");
        let (a, port) = g.input(DType::F32, &[32]).expect("small");
        let y = g
            .custom(&[32], &[a], crate::ggml::Split::One, |call| assert!(call.f32(0)[0] > 5.0))
            .expect("fits");
        let _ = g.output(y);
        let mut plan = Plan::new(g, &backend).expect("fits");
        plan.write_f32(port, &[1.0; 32]).expect("fits");
        assert!(plan.compute(&mut backend).is_err());
    }
}
