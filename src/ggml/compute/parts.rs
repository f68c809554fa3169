//! A graph computed part after part, so that threads can come and go in between.
//!
//! In: an allocated graph. Out: its values, the same as those of the whole.
//! Invariant: nodes are computed in their order, each once.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::error::Error;
use crate::error::Result;
use crate::ggml::backend::Backend;
use crate::ggml::buffer::Context;

/// Nodes of a part: about a layer of an encoder.
const PART_NODES: usize = 16;

/// Room for some nodes of another graph.
pub(super) struct Room {
    graph: NonNull<sys::ggml_cgraph>,
    _context: Context,
}

impl Room {
    /// Makes room for `n` nodes.
    pub(super) fn new(n: usize) -> Result<Self> {
        // SAFETY: returns a size.
        let bytes = unsafe { sys::ggml_graph_overhead_custom(n, false) };
        let context = Context::new(bytes + 4096)?;
        // SAFETY: the context has room for a graph of so many nodes.
        let raw = unsafe { sys::ggml_new_graph_custom(context.raw(), n, false) };
        let graph = NonNull::new(raw).ok_or_else(|| Error::internal("no graph"))?;
        Ok(Self { graph, _context: context })
    }

    /// Computes nodes.
    ///
    /// # Safety
    /// The nodes are allocated and alive and not more than there is room for, and `backend` is a
    /// processor's.
    pub(super) unsafe fn compute(
        &mut self,
        nodes: &[NonNull<sys::ggml_tensor>],
        backend: sys::ggml_backend_t,
    ) -> sys::ggml_status {
        // SAFETY: by the caller's promise.
        unsafe {
            sys::ggml_graph_clear(self.graph.as_ptr());
            for node in nodes {
                sys::ggml_graph_add_node(self.graph.as_ptr(), node.as_ptr());
            }
            sys::ggml_backend_graph_compute(backend, self.graph.as_ptr())
        }
    }
}

/// Computes graphs in parts.
pub(in crate::ggml) struct Parts(Room);

impl Parts {
    pub(in crate::ggml) fn new() -> Result<Self> {
        Room::new(PART_NODES).map(Self)
    }

    /// Computes a graph for which `n_threads` are worth waking.
    ///
    /// # Safety
    /// The graph is allocated and alive.
    pub(super) unsafe fn compute(
        &mut self,
        graph: NonNull<sys::ggml_cgraph>,
        n_threads: usize,
        backend: &mut Backend,
    ) -> sys::ggml_status {
        // SAFETY: by the caller's promise; a part has no more nodes than there is room for.
        unsafe {
            for part in nodes(graph).chunks(PART_NODES) {
                backend.use_threads(n_threads);
                let status = self.0.compute(part, backend.cpu());
                if status != sys::GGML_STATUS_SUCCESS {
                    return status;
                }
            }
        }
        sys::GGML_STATUS_SUCCESS
    }
}

/// Returns a graph's nodes in their order.
///
/// # Safety
/// The graph and its nodes are alive.
pub(super) unsafe fn nodes(graph: NonNull<sys::ggml_cgraph>) -> Vec<NonNull<sys::ggml_tensor>> {
    // SAFETY: by the caller's promise; indices are below the count.
    unsafe {
        let n = sys::ggml_graph_n_nodes(graph.as_ptr());
        (0..n).filter_map(|i| NonNull::new(sys::ggml_graph_node(graph.as_ptr(), i))).collect()
    }
}
