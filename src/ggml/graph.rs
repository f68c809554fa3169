//! Building a graph: one shape-checked method per operation.
//!
//! In: weights, states and inputs. Out: a [`Plan`](super::Plan) that computes marked outputs.
//! Invariant: every method checks shapes and types before ggml sees them, so that no assertion
//! of ggml can be reached.

use std::any::Any;
use std::cell::Cell;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;

use super::backend::Backend;
use super::buffer::Context;
use super::buffer::Placement;
use super::buffer::Weight;
use super::compute::Kernels;
use super::compute::Port;
use super::custom::Custom;
use super::state::State;
use super::state::StateStore;
use super::tensor::DType;
use super::tensor::Shape;
use super::tensor::Tensor;
use crate::error::Error;
use crate::error::Result;

/// Most nodes and leaves of one graph.
pub const NODES_MAX: usize = 32_768;

/// `GGML_ROPE_TYPE_NEOX` of ggml.h: dimension `i` turns with `i + d/2`.
const ROPE_NEOX: i32 = 2;

/// Rotary position embedding in the half layout (dimension `i` turns with `i + d/2`).
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    /// Base of the frequencies.
    pub base: f32,
    /// Dimensions that turn; the rest pass through.
    pub n_dims: usize,
}

/// A tensor whose values are written once.
type Constant = (NonNull<sys::ggml_tensor>, Arc<[f32]>);

/// Builds one graph.
pub struct GraphBuilder {
    pub(super) context: Context,
    pub(super) graph: NonNull<sys::ggml_cgraph>,
    pub(super) ports: RefCell<Vec<NonNull<sys::ggml_tensor>>>,
    pub(super) keep: RefCell<Vec<Arc<dyn Any + Send + Sync>>>,
    // Boxed because ggml keeps their addresses.
    #[expect(clippy::vec_box, reason = "addresses must not move")]
    pub(super) customs: RefCell<Vec<Box<Custom>>>,
    pub(super) kernels: RefCell<Kernels>,
    used: Cell<usize>,
    /// Multiply-adds of all products.
    pub(super) work: Cell<usize>,
    n_max: usize,
    /// The backend's GPU, or null.
    gpu: sys::ggml_backend_dev_t,
    gpu_form: bool,
    pub(super) on_gpu: Cell<bool>,
    /// Values that are written once.
    pub(super) constants: RefCell<Vec<Constant>>,
    /// Every node and input with whether it belongs to the GPU, if there is one.
    pub(super) places: RefCell<Vec<(NonNull<sys::ggml_tensor>, bool)>>,
}

impl GraphBuilder {
    /// Creates an empty graph for at most `n_max` tensors, to be computed on `backend`.
    ///
    /// # Errors
    /// `Input` if `n_max` is over the limit; `Memory` if the headers do not fit.
    pub fn new(n_max: usize, backend: &Backend) -> Result<Self> {
        if n_max == 0 || n_max > NODES_MAX {
            return Err(Error::input(format!("graph of {n_max} tensors; at most {NODES_MAX}")));
        }
        // SAFETY: both return sizes.
        let bytes = unsafe {
            (n_max + 8) * sys::ggml_tensor_overhead()
                + sys::ggml_graph_overhead_custom(n_max, false)
        };
        let context = Context::new(bytes + 4096)?;
        // SAFETY: the context has room for the graph by the sum above.
        let raw = unsafe { sys::ggml_new_graph_custom(context.raw(), n_max, false) };
        let graph = NonNull::new(raw).ok_or_else(|| Error::internal("no graph"))?;
        Ok(Self {
            context,
            graph,
            ports: RefCell::default(),
            keep: RefCell::default(),
            customs: RefCell::default(),
            kernels: RefCell::default(),
            used: Cell::new(0),
            work: Cell::new(0),
            n_max,
            gpu: backend.gpu_device(),
            gpu_form: backend.gpu_form,
            on_gpu: Cell::new(false),
            constants: RefCell::default(),
            places: RefCell::default(),
        })
    }

    pub(super) fn room(&self, n: usize) -> Result<()> {
        let used = self.used.get() + n;
        if used > self.n_max {
            return Err(Error::internal(format!("graph needs more than {} tensors", self.n_max)));
        }
        self.used.set(used);
        Ok(())
    }

    /// Counts the multiply-adds of a product, which decide how many threads are worth waking.
    pub(super) fn count(&self, n: usize) {
        self.work.set(self.work.get().saturating_add(n));
    }

    pub(super) fn wrap(&self, raw: *mut sys::ggml_tensor) -> Result<Tensor<'_>> {
        let ptr = NonNull::new(raw).ok_or_else(|| Error::internal("no tensor"))?;
        if !self.gpu.is_null() {
            self.places.borrow_mut().push((ptr, self.on_gpu()));
        }
        Ok(Tensor { ptr, graph: PhantomData })
    }

    pub(super) fn raw(&self) -> *mut sys::ggml_context {
        self.context.raw()
    }

    pub(super) fn fail<T>(&self, what: &str, sides: &[Tensor<'_>]) -> Result<T> {
        Err(Error::internal(format!("{what} does not take {sides:?}")))
    }

    /// Declares an input that is written before each computation, where what is built now is
    /// computed.
    ///
    /// # Errors
    /// `Input` if the shape is not possible.
    pub fn input(&self, dtype: DType, sides: &[usize]) -> Result<(Tensor<'_>, Port)> {
        self.room(1)?;
        let shape = Shape::new(sides)?;
        let ptr = self.context.tensor(dtype, shape);
        // SAFETY: marks the fresh tensor.
        unsafe { sys::ggml_set_input(ptr.as_ptr()) };
        Ok((self.wrap(ptr.as_ptr())?, self.port(ptr)))
    }

    fn port(&self, ptr: NonNull<sys::ggml_tensor>) -> Port {
        let mut ports = self.ports.borrow_mut();
        ports.push(ptr);
        Port(ports.len() - 1)
    }

    /// Marks `x` as an output that can be read after each computation.
    pub fn output(&self, x: Tensor<'_>) -> Port {
        // SAFETY: marks a live tensor and adds it to the graph, which has room for every tensor.
        unsafe {
            sys::ggml_set_output(x.ptr.as_ptr());
            sys::ggml_build_forward_expand(self.graph.as_ptr(), x.ptr.as_ptr());
        }
        self.port(x.ptr)
    }

    /// Adds `x` and what it needs to the graph now, before what is built later.
    pub fn expand(&self, x: Tensor<'_>) {
        // SAFETY: the graph has room for every tensor that `room` let through.
        unsafe { sys::ggml_build_forward_expand(self.graph.as_ptr(), x.ptr.as_ptr()) };
    }

    /// Gives `x` a name, as in the reference graphs.
    pub fn name<'g>(&'g self, x: Tensor<'g>, name: &str) -> Tensor<'g> {
        if let Ok(name) = std::ffi::CString::new(name) {
            // SAFETY: ggml copies at most its own name length.
            unsafe { sys::ggml_set_name(x.ptr.as_ptr(), name.as_ptr()) };
        }
        x
    }

    /// Uses a weight.
    ///
    /// # Errors
    /// `Internal` if the graph is full.
    pub fn weight(&self, weight: &Weight) -> Result<Tensor<'_>> {
        self.room(1)?;
        self.keep.borrow_mut().push(weight.keep());
        Ok(Tensor { ptr: weight.ptr, graph: PhantomData })
    }

    /// Uses a state tensor, which the graph may write.
    ///
    /// # Errors
    /// `Internal` if the graph is full.
    pub fn state(&self, store: &StateStore, state: State) -> Result<Tensor<'_>> {
        self.room(1)?;
        self.keep.borrow_mut().push(Arc::clone(&store.inner) as _);
        Ok(Tensor { ptr: store.raw(state), graph: PhantomData })
    }

    /// Multiplies: weight `[k, n, ..]` by `x` `[k, m, ..]` gives `[n, m, ..]`.
    ///
    /// # Errors
    /// `Internal` if the shapes or types do not fit.
    pub fn mul_mat<'g>(&'g self, w: Tensor<'g>, x: Tensor<'g>) -> Result<Tensor<'g>> {
        let (ws, xs) = (w.shape().0, x.shape().0);
        let fits = ws[0] == xs[0]
            && xs[2].is_multiple_of(ws[2])
            && xs[3].is_multiple_of(ws[3])
            && x.dtype() == DType::F32
            && super::buffer::is_weight_type(w.dtype())
            && w.strides()[0] == w.dtype().block_bytes()
            && x.strides()[0] == 4
            && w.strides()[0] <= w.strides()[1];
        if !fits {
            return self.fail("mul_mat", &[w, x]);
        }
        self.room(1)?;
        self.count(ws[1] * x.shape().n_elements());
        // SAFETY: shapes, types and strides were checked as ggml asserts them.
        self.wrap(unsafe { sys::ggml_mul_mat(self.raw(), w.ptr.as_ptr(), x.ptr.as_ptr()) })
    }

    pub(super) fn same<'g>(&'g self, what: &str, a: Tensor<'g>, b: Tensor<'g>) -> Result<()> {
        let (x, y) = (a.shape().0, b.shape().0);
        let repeats = (0..4).all(|i| x[i].is_multiple_of(y[i]));
        if repeats && a.dtype() == DType::F32 && b.dtype() == DType::F32 && b.strides()[0] == 4 {
            self.room(1)
        } else {
            self.fail(what, &[a, b])
        }
    }

    /// Adds; `b` is repeated over `a`.
    ///
    /// # Errors
    /// `Internal` if the shapes do not fit.
    pub fn add<'g>(&'g self, a: Tensor<'g>, b: Tensor<'g>) -> Result<Tensor<'g>> {
        self.same("add", a, b)?;
        // SAFETY: both f32, `b` repeats over `a`.
        self.wrap(unsafe { sys::ggml_add(self.raw(), a.ptr.as_ptr(), b.ptr.as_ptr()) })
    }

    /// Multiplies element by element; `b` is repeated over `a`.
    ///
    /// # Errors
    /// `Internal` if the shapes do not fit.
    pub fn mul<'g>(&'g self, a: Tensor<'g>, b: Tensor<'g>) -> Result<Tensor<'g>> {
        self.same("mul", a, b)?;
        // SAFETY: both f32, `b` repeats over `a`.
        self.wrap(unsafe { sys::ggml_mul(self.raw(), a.ptr.as_ptr(), b.ptr.as_ptr()) })
    }

    /// Multiplies by a number.
    ///
    /// # Errors
    /// `Internal` if `x` is not f32.
    pub fn scale<'g>(&'g self, x: Tensor<'g>, factor: f32) -> Result<Tensor<'g>> {
        self.plain("scale", x)?;
        // SAFETY: `x` is contiguous f32.
        self.wrap(unsafe { sys::ggml_scale(self.raw(), x.ptr.as_ptr(), factor) })
    }

    /// Limits every element to `min ..= max`.
    ///
    /// # Errors
    /// `Internal` if `x` is not f32.
    pub fn clamp<'g>(&'g self, x: Tensor<'g>, min: f32, max: f32) -> Result<Tensor<'g>> {
        self.plain("clamp", x)?;
        if min == f32::NEG_INFINITY && max == f32::INFINITY {
            return Ok(x);
        }
        // ggml clamps in place; a copy keeps `x` as it is for its other readers.
        self.room(1)?;
        // SAFETY: `x` is contiguous f32.
        self.wrap(unsafe {
            let copy = sys::ggml_cont(self.raw(), x.ptr.as_ptr());
            sys::ggml_clamp(self.raw(), copy, min, max)
        })
    }

    pub(super) fn plain(&self, what: &str, x: Tensor<'_>) -> Result<()> {
        if x.dtype() != DType::F32 || !x.is_contiguous() {
            return self.fail(what, &[x]);
        }
        self.room(1)
    }

    /// Changes the shape without moving elements.
    ///
    /// # Errors
    /// `Internal` if the element counts differ or `x` has gaps.
    pub fn reshape<'g>(&'g self, x: Tensor<'g>, sides: &[usize]) -> Result<Tensor<'g>> {
        let shape = Shape::new(sides)?;
        if shape.n_elements() != x.shape().n_elements() || !x.is_contiguous() {
            return self.fail("reshape", &[x]);
        }
        self.room(1)?;
        let n = shape.0.map(|s| s as i64);
        // SAFETY: same element count, contiguous.
        self.wrap(unsafe {
            sys::ggml_reshape_4d(self.raw(), x.ptr.as_ptr(), n[0], n[1], n[2], n[3])
        })
    }

    /// Reorders sides: side `i` of `x` becomes side `axes[i]` of the result (no copy).
    ///
    /// # Errors
    /// `Internal` if `axes` is not a permutation.
    pub fn permute<'g>(&'g self, x: Tensor<'g>, axes: [usize; 4]) -> Result<Tensor<'g>> {
        let mut seen = [false; 4];
        axes.iter().filter(|&&a| a < 4).for_each(|&a| seen[a] = true);
        if seen != [true; 4] {
            return self.fail("permute", &[x]);
        }
        self.room(1)?;
        let [a, b, c, d] = axes.map(|a| a as i32);
        // SAFETY: a permutation of four axes.
        self.wrap(unsafe { sys::ggml_permute(self.raw(), x.ptr.as_ptr(), a, b, c, d) })
    }

    /// Copies into an order without gaps.
    ///
    /// # Errors
    /// `Internal` if the graph is full.
    pub fn cont<'g>(&'g self, x: Tensor<'g>) -> Result<Tensor<'g>> {
        if x.is_contiguous() {
            return Ok(x);
        }
        self.room(1)?;
        // SAFETY: any tensor can be copied.
        self.wrap(unsafe { sys::ggml_cont(self.raw(), x.ptr.as_ptr()) })
    }

    /// Views `len` entries from `first` along `axis`.
    ///
    /// # Errors
    /// `Internal` if the range is outside or cuts a block.
    pub fn slice<'g>(
        &'g self,
        x: Tensor<'g>,
        axis: usize,
        first: usize,
        len: usize,
    ) -> Result<Tensor<'g>> {
        let mut ne = x.shape().0;
        let inside = axis < 4 && len > 0 && first.checked_add(len).is_some_and(|e| e <= ne[axis]);
        let block = x.dtype().block_len();
        let whole = axis > 0 || first.is_multiple_of(block) && len.is_multiple_of(block);
        if !inside || !whole {
            return self.fail("slice", &[x]);
        }
        self.room(1)?;
        ne[axis] = len;
        let nb = x.strides();
        let offset = if axis == 0 { first / block * nb[0] } else { first * nb[axis] };
        let n = ne.map(|s| s as i64);
        // SAFETY: the view lies inside `x`.
        self.wrap(unsafe {
            let (raw, x) = (self.raw(), x.ptr.as_ptr());
            sys::ggml_view_4d(raw, x, n[0], n[1], n[2], n[3], nb[1], nb[2], nb[3], offset)
        })
    }

    /// Turns pairs of dimensions of `x` `[d, n_head, n]` by the positions `[n]` (i32).
    ///
    /// # Errors
    /// `Internal` if the shapes do not fit.
    pub fn rope<'g>(
        &'g self,
        x: Tensor<'g>,
        positions: Tensor<'g>,
        factors: Option<Tensor<'g>>,
        rope: Rope,
    ) -> Result<Tensor<'g>> {
        let (s, n_dims) = (x.shape().0, rope.n_dims);
        let factors_fit = factors.is_none_or(|f| {
            f.dtype() == DType::F32 && f.side(0) >= n_dims / 2 && f.is_contiguous()
        });
        let fits = x.dtype() == DType::F32
            && x.strides()[0] == 4
            && positions.dtype() == DType::I32
            && positions.shape().n_elements() == s[2]
            && n_dims > 0
            && n_dims.is_multiple_of(2)
            && n_dims <= s[0]
            && rope.base > 0.0
            && factors_fit;
        if !fits {
            return self.fail("rope", &[x, positions]);
        }
        self.room(1)?;
        let f = factors.map_or(std::ptr::null_mut(), |f| f.ptr.as_ptr());
        let (x, p) = (x.ptr.as_ptr(), positions.ptr.as_ptr());
        let mode = ROPE_NEOX;
        let d = n_dims as i32;
        // SAFETY: shapes and types were checked as ggml asserts them.
        self.wrap(unsafe {
            sys::ggml_rope_ext(self.raw(), x, p, f, d, mode, 0, rope.base, 1.0, 0.0, 1.0, 32.0, 1.0)
        })
    }

    /// Writes rows of `src` `[n, m]` to the rows `indices` `[m]` (i64) of `dst` `[n, cells]`.
    ///
    /// # Errors
    /// `Internal` if the shapes do not fit. The caller bounds the indices.
    pub fn set_rows<'g>(
        &'g self,
        dst: Tensor<'g>,
        src: Tensor<'g>,
        indices: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let (d, s, i) = (dst.shape().0, src.shape().0, indices.shape().0);
        let fits = d[0] == s[0]
            && d[2..] == s[2..]
            && s[1] == i[0]
            && i[1..] == [1, 1, 1]
            && src.dtype() == DType::F32
            && src.is_contiguous()
            && dst.is_contiguous()
            && indices.dtype() == DType::I64;
        if !fits {
            return self.fail("set_rows", &[dst, src, indices]);
        }
        self.room(1)?;
        let (dst, src, indices) = (dst.ptr.as_ptr(), src.ptr.as_ptr(), indices.ptr.as_ptr());
        // SAFETY: shapes and types were checked as ggml asserts them.
        self.wrap(unsafe { sys::ggml_set_rows(self.raw(), dst, src, indices) })
    }

    /// Attends: `q` `[d, m, n_head]`, `k` `[d, n, n_head_kv]`, `v` `[d, n, n_head_kv]`, `mask`
    /// `[n, m]` (f16) give `[d, n_head, m]`. Scores are multiplied by `scale`.
    ///
    /// # Errors
    /// `Internal` if the shapes do not fit.
    pub fn attention<'g>(
        &'g self,
        [q, k, v]: [Tensor<'g>; 3],
        mask: Option<Tensor<'g>>,
        scale: f32,
    ) -> Result<Tensor<'g>> {
        let (qs, ks, vs) = (q.shape().0, k.shape().0, v.shape().0);
        let mask_fits = mask.is_none_or(|m| {
            let s = m.shape().0;
            m.dtype() == DType::F16
                && m.is_contiguous()
                && s[0] == ks[1]
                && s[1] >= qs[1]
                && s[2..] == [1, 1]
        });
        let fits = qs[0] == ks[0]
            && ks == vs
            && qs[2].is_multiple_of(ks[2])
            && qs[3] == 1
            && ks[3] == 1
            && q.dtype() == DType::F32
            && q.strides()[0] == 4
            && [k, v].iter().all(|t| t.strides()[0] == t.dtype().block_bytes())
            && k.dtype() == v.dtype()
            && super::buffer::is_weight_type(k.dtype())
            && mask_fits;
        if !fits {
            return self.fail("attention", &[q, k, v]);
        }
        self.room(1)?;
        self.count(2 * ks[1] * q.shape().n_elements());
        let mask = mask.map_or(std::ptr::null_mut(), |m| m.ptr.as_ptr());
        let (q, k, v) = (q.ptr.as_ptr(), k.ptr.as_ptr(), v.ptr.as_ptr());
        // SAFETY: shapes and types were checked as ggml asserts them.
        self.wrap(unsafe {
            let out = sys::ggml_flash_attn_ext(self.raw(), q, k, v, mask, scale, 0.0, 0.0);
            sys::ggml_flash_attn_ext_set_prec(out, sys::GGML_PREC_F32);
            out
        })
    }

    /// Has what is built from now on computed where `weight` lies; at first it is the processor.
    ///
    /// # Errors
    /// `Input` if it lies on a GPU that the backend does not use.
    pub fn follow(&self, weight: &Weight) -> Result<()> {
        let on_gpu = weight.placement() == Placement::Gpu;
        if on_gpu && weight.gpu() != self.gpu {
            return Err(Error::input("weights lie on a GPU that this backend was not made with"));
        }
        self.on_gpu.set(on_gpu || self.gpu_form);
        Ok(())
    }

    /// Tells whether a GPU computes what is built now.
    pub fn on_gpu(&self) -> bool {
        self.on_gpu.get()
    }
}
