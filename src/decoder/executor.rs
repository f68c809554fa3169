//! One timeline's computation: cache, plans, threads.
//!
//! In: entries at the next positions. Out: a longer cache, and logits where asked for.
//! Invariant: a failed or cancelled call leaves the positions as they were.

use std::ops::Range;
use std::sync::Arc;

use crate::decoder::embed;
use crate::decoder::embed::Entry;
use crate::decoder::graph;
use crate::decoder::graph::Ports;
use crate::decoder::graph::Size;
use crate::decoder::graph::n_front;
use crate::decoder::kv::KvCache;
use crate::decoder::kv::KvOptions;
use crate::decoder::shared::Decoder;
use crate::error::Error;
use crate::error::Result;
use crate::ggml::Backend;
use crate::ggml::BackendOptions;
use crate::ggml::Cancel;
use crate::ggml::Plan;

/// How an executor is made.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// Threads and GPU.
    pub backend: BackendOptions,
    /// Cache sizes and type.
    pub kv: KvOptions,
}

/// What was computed so far: counts that no clock changes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Operations {
    /// Multiply-adds of products with weights and with the cache.
    pub n_multiply_adds: u64,
    /// Nodes of graphs.
    pub n_nodes: u64,
}

struct Cached {
    size: Size,
    plan: Plan,
    ports: Ports,
}

/// Buffers that are filled on the host before each computation, kept to save allocations.
#[derive(Default)]
struct Scratch {
    x: Vec<f32>,
    front: Vec<f32>,
    back: Vec<f32>,
    cells: Vec<i64>,
    /// Only for masks that lie on a GPU.
    mask: Vec<u16>,
    tables: [Vec<f32>; 2],
    positions: Vec<i32>,
    /// A token's slice of the per-layer table.
    slice: Vec<f32>,
}

impl Scratch {
    fn size_bytes(&self) -> usize {
        let floats = [&self.x, &self.front, &self.back, &self.slice];
        let floats = floats.into_iter().chain(&self.tables).map(Vec::capacity).sum::<usize>();
        (floats + self.positions.capacity()) * size_of::<f32>()
            + self.mask.capacity() * size_of::<u16>()
            + self.cells.capacity() * size_of::<i64>()
    }
}

/// Computes one timeline.
pub struct Executor {
    decoder: Arc<Decoder>,
    // Plans go before the cache and the backend they use.
    step: Option<Cached>,
    batch: Option<Cached>,
    kv: KvCache,
    scratch: Scratch,
    logits: Vec<f32>,
    operations: Operations,
    backend: Backend,
}

impl Executor {
    /// Starts a timeline with an empty cache.
    ///
    /// # Errors
    /// `Input` if a size is out of range; `Memory` if the cache does not fit.
    pub fn new(decoder: &Arc<Decoder>, options: &ExecutorOptions) -> Result<Self> {
        let backend = Backend::new(&options.backend)?;
        Self::with_backend(decoder, options.kv, backend)
    }

    /// Starts a timeline on a backend that is already running.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_backend(decoder: &Arc<Decoder>, kv: KvOptions, backend: Backend) -> Result<Self> {
        let n_gpu_layers = decoder.weights.gpu_share.n_layers;
        let kv = KvCache::new(&decoder.hparams, kv, n_gpu_layers, &backend)?;
        Ok(Self {
            decoder: Arc::clone(decoder),
            step: None,
            batch: None,
            kv,
            scratch: Scratch::default(),
            logits: Vec::new(),
            operations: Operations::default(),
            backend,
        })
    }

    /// Returns the cache.
    pub fn kv(&self) -> &KvCache {
        &self.kv
    }

    /// Returns the cache for rewinding and restoring.
    pub fn kv_mut(&mut self) -> &mut KvCache {
        &mut self.kv
    }

    /// Returns the shared part.
    pub fn decoder(&self) -> &Arc<Decoder> {
        &self.decoder
    }

    /// Returns the backend, which encoders may use between calls.
    pub fn backend_mut(&mut self) -> &mut Backend {
        &mut self.backend
    }

    /// Returns the flag that stops a computation from another thread.
    pub fn cancel(&self) -> &Cancel {
        self.backend.cancel()
    }

    /// Returns what was computed since the start.
    pub fn operations(&self) -> Operations {
        self.operations
    }

    /// Returns the bytes that are held to compute with, beside weights and cache: intermediate
    /// values, inputs, logits.
    pub fn compute_bytes(&self) -> usize {
        let plans = [&self.step, &self.batch].into_iter().flatten();
        plans.map(|c| c.plan.size_bytes()).sum::<usize>()
            + self.scratch.size_bytes()
            + self.logits.capacity() * size_of::<f32>()
    }

    /// Appends entries without logits, in batches.
    ///
    /// # Errors
    /// `Input` if they do not fit or are not this model's; `Cancelled` if asked to stop.
    pub fn append(&mut self, entries: &[Entry<'_>]) -> Result<()> {
        self.append_with_logits(entries, 0).map(|_| ())
    }

    /// Appends entries and returns the logits `[n_vocab, n_out]` of the last `n_out`.
    ///
    /// On error, entries of completed batches stay; `kv().n_past()` tells how many.
    ///
    /// # Errors
    /// `Input` if they do not fit, are not this model's, or fewer than `n_out`; `Cancelled` if
    /// asked to stop.
    pub fn append_with_logits(&mut self, entries: &[Entry<'_>], n_out: usize) -> Result<&[f32]> {
        if n_out > entries.len() {
            let n = entries.len();
            return Err(Error::input(format!("logits of {n_out} tokens wanted, {n} were given")));
        }
        embed::check(&self.decoder.hparams, entries)?;
        self.kv.check_room(entries.len())?;
        let n_vocab = self.decoder.hparams.n_vocab;
        self.logits.clear();
        let quiet = entries.len() - n_out;
        let mut done = 0;
        while done < entries.len() {
            let n = (entries.len() - done).min(self.kv.n_batch());
            let n_out = (done + n).saturating_sub(quiet).min(n);
            let first = self.logits.len();
            self.logits.resize(first + n_out * n_vocab, 0.0);
            self.compute(&entries[done..done + n], n_out, first)?;
            done += n;
        }
        Ok(&self.logits)
    }

    /// Gives the logits of the last call away; the next call uses the memory that came for them.
    pub fn swap_logits(&mut self, other: &mut Vec<f32>) {
        std::mem::swap(&mut self.logits, other);
    }

    fn compute(&mut self, entries: &[Entry<'_>], n_out: usize, first: usize) -> Result<()> {
        let n = entries.len();
        let positions = self.kv.n_past()..self.kv.n_past() + n;
        let n_full = self.kv.full_cells(positions.end);
        let size = Size { n, n_out, n_full, n_ring: self.kv.ring_cells(positions.end) };
        let mut cached = self.plan(size)?;
        let result = self.run(&mut cached, entries, positions, first);
        let slot = if n == 1 { &mut self.step } else { &mut self.batch };
        *slot = Some(cached);
        result
    }

    /// Takes the plan for `size` out of its slot, or builds it.
    fn plan(&mut self, size: Size) -> Result<Cached> {
        let slot = if size.n == 1 { &mut self.step } else { &mut self.batch };
        if let Some(cached) = slot.take().filter(|c| c.size == size) {
            return Ok(cached);
        }
        let d = &self.decoder;
        let (plan, ports) = graph::build(&d.hparams, &d.weights, &self.kv, size, &self.backend)?;
        log::debug!("graph for {size:?}: {} nodes, {} bytes", plan.n_nodes(), plan.size_bytes());
        Ok(Cached { size, plan, ports })
    }

    fn run(
        &mut self,
        cached: &mut Cached,
        entries: &[Entry<'_>],
        positions: Range<usize>,
        first: usize,
    ) -> Result<()> {
        let Cached { size, plan, ports } = cached;
        self.write_rows(plan, ports, entries, size.n_out)?;
        self.write_places(plan, ports, size.n, positions)?;
        self.kv.begin(size.n);
        plan.compute(&mut self.backend)?;
        self.operations.n_multiply_adds += plan.n_multiply_adds() as u64;
        self.operations.n_nodes += plan.n_nodes() as u64;
        self.kv.advance(size.n);
        if let Some(port) = ports.logits {
            plan.read_f32(port, 0, &mut self.logits[first..])?;
        }
        Ok(())
    }

    fn write_rows(
        &mut self,
        plan: &mut Plan,
        ports: &Ports,
        entries: &[Entry<'_>],
        n_out: usize,
    ) -> Result<()> {
        let (h, w) = (&self.decoder.hparams, &self.decoder.weights);
        let (front, n_layer) = (n_front(h), h.layers.len());
        let Scratch { x, front: first, back, slice, .. } = &mut self.scratch;
        embed::embed(h, w, entries, x)?;
        plan.write_f32(ports.x, x)?;
        if let Some(port) = ports.per_layer_front {
            embed::per_layer(h, w, entries, 0..front, slice, first)?;
            plan.write_f32(port, first)?;
        }
        if let Some(port) = ports.per_layer_back {
            let last = &entries[entries.len() - n_out..];
            embed::per_layer(h, w, last, front..n_layer, slice, back)?;
            plan.write_f32(port, back)?;
        }
        Ok(())
    }

    fn write_places(
        &mut self,
        plan: &mut Plan,
        ports: &Ports,
        n: usize,
        places: Range<usize>,
    ) -> Result<()> {
        let dims = graph::head_dims(&self.decoder.hparams);
        let Scratch { cells, mask, tables, positions, .. } = &mut self.scratch;
        for (kind, table) in tables.iter_mut().enumerate() {
            let sliding = kind == 1;
            self.kv.cells(places.clone(), sliding, cells);
            plan.write_i64(ports.cells[kind], cells)?;
            let fill = |bits: &mut [u16]| self.kv.mask(places.clone(), sliding, bits);
            plan.fill_f16_bits(ports.masks[kind], mask, fill)?;
            table.resize(dims[kind] * n, 0.0);
            self.decoder.frequencies[kind].fill(places.clone(), table);
            plan.write_f32(ports.tables[kind], table)?;
        }
        positions.clear();
        positions.extend(places.map(|p| p as i32));
        plan.write_i32(ports.positions, positions)?;
        if self.backend.gpu_info().is_some() && !self.decoder.weights.rope_freqs.is_empty() {
            plan.write_f32(ports.factors, &self.decoder.weights.rope_freqs)?;
        }
        Ok(())
    }
}
