//! The KV cache: rings for sliding layers, all positions for full layers, none for shared ones.
//!
//! In: positions. Out: where to write them, what each query may see, and raw bytes for snapshots.
//! Cell of position `p`: `p % ring` on sliding layers, `p` on full layers.
//! Invariant: after a rewind within the ring's slack, stale cells can never be seen, because each
//! would count as a position more than a window away.

use std::ops::Range;

use crate::error::Error;
use crate::error::Result;
use crate::ggml::Backend;
use crate::ggml::DType;
use crate::ggml::Shape;
use crate::ggml::State;
use crate::ggml::StateSpec;
use crate::ggml::StateStore;
use crate::model::HParams;
use crate::model::Layer;
use crate::model::LayerKind;
use crate::model::memory;

/// How a cache is made.
#[derive(Clone, Copy, Debug)]
pub struct KvOptions {
    /// Most positions.
    pub n_ctx: usize,
    /// Most positions that are computed at once.
    pub n_batch: usize,
    /// Element type: F32, F16, Q8_0 or Q4_0.
    pub dtype: DType,
}

/// Keys and values of one timeline.
pub struct KvCache {
    pub(super) store: StateStore,
    layers: Vec<Option<LayerCache>>,
    ring: usize,
    window: usize,
    options: KvOptions,
    n_past: usize,
    /// Highest number of positions ever written since the last time all cells were fresh.
    n_written: usize,
}

/// Tensors of one layer that owns its cache.
#[derive(Clone, Copy)]
struct LayerCache {
    k: State,
    v: State,
    /// The same on the other side of a GPU, where layers there read them.
    twins: Option<[State; 2]>,
    is_sliding: bool,
    on_gpu: bool,
}

/// Tells of each layer that owns its cache where it lies and whether layers elsewhere read it.
fn sides(h: &HParams, n_gpu_layers: usize) -> impl Iterator<Item = (&Layer, bool, bool)> {
    let owners = h.layers.iter().enumerate().filter(|(_, layer)| layer.owns_kv);
    owners.map(move |(il, layer)| {
        let on_gpu = il < n_gpu_layers;
        let elsewhere =
            |(i, reader): (usize, &Layer)| reader.kv_source == il && (i < n_gpu_layers) != on_gpu;
        (layer, on_gpu, h.layers.iter().enumerate().any(elsewhere))
    })
}

/// Types and shapes of the cache's tensors, layer by layer, keys before values.
fn specs(
    h: &HParams,
    options: &KvOptions,
    ring: usize,
    n_gpu_layers: usize,
) -> Result<Vec<StateSpec>> {
    let n_full = memory::full_cells(options.n_ctx);
    let mut specs = Vec::new();
    for (layer, on_gpu, has_twins) in sides(h, n_gpu_layers) {
        let n = layer.n_head_kv * layer.head_dim;
        let cells = if layer.kind == LayerKind::Sliding { ring } else { n_full };
        if !layer.head_dim.is_multiple_of(options.dtype.block_len()) {
            return Err(Error::unsupported(format!(
                "heads of {} values cannot be cached as {}; use f16",
                layer.head_dim, options.dtype
            )));
        }
        let spec = StateSpec { dtype: options.dtype, shape: Shape::new(&[n, cells])?, on_gpu };
        specs.extend([spec, spec]);
        if has_twins {
            specs.extend([StateSpec { on_gpu: !on_gpu, ..spec }; 2]);
        }
    }
    Ok(specs)
}

impl KvCache {
    /// Allocates an empty cache, that of the first `n_gpu_layers` on the backend's GPU.
    ///
    /// # Errors
    /// `Input` if a size is out of range; `Memory` if it does not fit.
    pub fn new(
        h: &HParams,
        options: KvOptions,
        n_gpu_layers: usize,
        backend: &Backend,
    ) -> Result<Self> {
        if options.n_ctx == 0 || options.n_ctx > h.n_ctx_train {
            return Err(Error::input(format!(
                "context of {} tokens; this model takes 1 to {}",
                options.n_ctx, h.n_ctx_train
            )));
        }
        if options.n_batch == 0 || options.n_batch > 8192 {
            return Err(Error::input(format!("batch of {} tokens; 1 to 8192", options.n_batch)));
        }
        let ring = memory::ring_cells(h, options.n_ctx, options.n_batch);
        let store = StateStore::new(&specs(h, &options, ring, n_gpu_layers)?, backend)?;
        let mut sides = sides(h, n_gpu_layers).peekable();
        let mut next = 0;
        let layers = h
            .layers
            .iter()
            .map(|layer| {
                let (_, on_gpu, has_twins) = sides.next_if(|side| std::ptr::eq(side.0, layer))?;
                let mut state = || {
                    next += 1;
                    store.state(next - 1)
                };
                let (k, v) = (state(), state());
                let twins = has_twins.then(|| [state(), state()]);
                let is_sliding = layer.kind == LayerKind::Sliding;
                Some(LayerCache { k, v, twins, is_sliding, on_gpu })
            })
            .collect();
        Ok(Self { store, layers, ring, window: h.window, options, n_past: 0, n_written: 0 })
    }

    /// Returns the number of positions held.
    pub fn n_past(&self) -> usize {
        self.n_past
    }

    /// Returns the most positions it can hold.
    pub fn n_ctx(&self) -> usize {
        self.options.n_ctx
    }

    /// Returns the most positions that are computed at once.
    pub fn n_batch(&self) -> usize {
        self.options.n_batch
    }

    /// Returns the element type.
    pub fn dtype(&self) -> DType {
        self.options.dtype
    }

    /// Returns all key and value tensors of a layer that owns its cache: one pair, or one on each
    /// side of a GPU.
    pub(super) fn pairs(&self, layer: usize) -> impl Iterator<Item = [State; 2]> {
        let cache = self.layers[layer];
        cache.into_iter().flat_map(|l| std::iter::once([l.k, l.v]).chain(l.twins))
    }

    /// Returns the key and value tensors that a reader on the GPU, or not there, is near to.
    pub(super) fn pair(&self, layer: usize, on_gpu: bool) -> Option<[State; 2]> {
        let cache = self.layers[layer]?;
        if cache.on_gpu == on_gpu { Some([cache.k, cache.v]) } else { cache.twins }
    }

    /// Returns the cells of a sliding layer that a graph for positions up to `end` covers.
    pub(super) fn ring_cells(&self, end: usize) -> usize {
        memory::full_cells(end).min(self.ring)
    }

    /// Returns the cells of a full layer that a graph for positions up to `end` covers.
    pub(super) fn full_cells(&self, end: usize) -> usize {
        memory::full_cells(end)
    }

    /// Gives the cells to write on full or on sliding layers for new positions.
    pub(super) fn cells(&self, positions: Range<usize>, sliding: bool, out: &mut Vec<i64>) {
        let ring = if sliding { self.ring } else { usize::MAX };
        out.clear();
        out.extend(positions.map(|p| (p % ring) as i64));
    }

    /// Checks that `n` more positions fit.
    ///
    /// # Errors
    /// `Input` naming the sizes if they do not.
    pub(super) fn check_room(&self, n: usize) -> Result<()> {
        if n > self.options.n_ctx - self.n_past {
            return Err(Error::input(format!(
                "{n} more tokens do not fit: {} of {} are used; start again or raise --ctx",
                self.n_past, self.options.n_ctx
            )));
        }
        Ok(())
    }

    /// Records that `n` positions are about to be written, before any cell is touched.
    pub(super) fn begin(&mut self, n: usize) {
        self.n_written = self.n_written.max(self.n_past + n);
    }

    /// Records that `n` positions were written.
    pub(super) fn advance(&mut self, n: usize) {
        self.n_past += n;
    }

    /// Tells whether [`rewind`](Self::rewind) to `n` positions would succeed.
    pub fn can_rewind(&self, n: usize) -> bool {
        let slack = self.ring.saturating_sub(self.window);
        let is_held = self.n_written <= self.ring || self.n_written - n <= slack;
        n <= self.n_past && (n == 0 || is_held)
    }

    /// Forgets every position from `n` on; what follows equals a fresh prefill.
    ///
    /// # Errors
    /// `Input` if the rings no longer hold the window before `n`; prefill again from the start.
    pub fn rewind(&mut self, n: usize) -> Result<()> {
        if !self.can_rewind(n) {
            return Err(Error::input(format!(
                "cannot go back from {} to {n} tokens: the sliding window before it is gone",
                self.n_past
            )));
        }
        self.n_past = n;
        if n == 0 {
            self.n_written = 0;
        }
        Ok(())
    }

    /// Fills the f16 mask `[cells, n]` of full or of sliding layers for new positions: 0 where
    /// visible, else minus infinity.
    pub(super) fn mask(&self, positions: Range<usize>, sliding: bool, out: &mut [u16]) {
        const HIDDEN: u16 = 0xfc00;
        let end = positions.end;
        let n_cells = if sliding { self.ring_cells(end) } else { self.full_cells(end) };
        out.fill(HIDDEN);
        for (t, row) in positions.zip(out.chunks_exact_mut(n_cells)) {
            if !sliding {
                row[..=t].fill(0);
                continue;
            }
            let first = (t + 1).saturating_sub(self.window);
            let (a, b) = (first % self.ring, t % self.ring);
            if a <= b {
                row[a..=b].fill(0);
            } else {
                row[a..].fill(0);
                row[..=b].fill(0);
            }
        }
    }

    /// Returns the used part of each tensor, layer by layer: state, its twin, and bytes from its
    /// start.
    fn used(
        &self,
        n_past: usize,
        n_written: usize,
    ) -> impl Iterator<Item = (State, Option<State>, usize)> {
        self.layers.iter().flatten().flat_map(move |layer| {
            let n_rows = if layer.is_sliding { n_written.min(self.ring) } else { n_past };
            [0, 1].map(|i| {
                let state = [layer.k, layer.v][i];
                let row = self.store.size_bytes(state) / self.store.shape(state).0[1];
                (state, layer.twins.map(|t| t[i]), row * n_rows)
            })
        })
    }

    /// Returns the bytes that [`save`](Self::save) gives of a cache like this with such counts,
    /// which are at most its own limits.
    pub fn saved_bytes(&self, n_past: usize, n_written: usize) -> usize {
        self.used(n_past, n_written).map(|(.., len)| len).sum()
    }

    /// Copies what the cache holds out, layer by layer.
    ///
    /// # Errors
    /// Whatever `sink` returns.
    pub fn save(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = Vec::new();
        for (state, _, len) in self.used(self.n_past, self.n_written) {
            buffer.resize(len, 0);
            self.store.read(state, 0, &mut buffer)?;
            sink(&buffer)?;
        }
        Ok(())
    }

    /// Fills a cache of the same options with what [`save`](Self::save) gave, in place of what it
    /// holds; after an error it is empty.
    ///
    /// # Errors
    /// `Input` if the counts do not fit this cache; whatever `source` returns.
    pub fn load(
        &mut self,
        n_past: usize,
        n_written: usize,
        source: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        if n_past > n_written || n_written > self.options.n_ctx {
            return Err(Error::input(format!(
                "{n_past} of {n_written} saved tokens do not fit a context of {}",
                self.options.n_ctx
            )));
        }
        (self.n_past, self.n_written) = (0, 0);
        let ranges: Vec<_> = self.used(n_past, n_written).collect();
        let mut buffer = Vec::new();
        for (state, twin, len) in ranges {
            buffer.resize(len, 0);
            source(&mut buffer)?;
            self.store.write(state, 0, &buffer)?;
            if let Some(twin) = twin {
                self.store.write(twin, 0, &buffer)?;
            }
        }
        (self.n_past, self.n_written) = (n_past, n_written);
        Ok(())
    }

    /// Returns the positions of a sliding layer's ring.
    pub fn n_ring(&self) -> usize {
        self.ring
    }

    /// Returns the highest count of positions whose traces the rings may hold.
    pub fn n_written(&self) -> usize {
        self.n_written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::BackendOptions;
    use crate::gguf::TensorType;
    use crate::model::variant::Variant;

    #[test]
    fn what_is_allocated_is_what_the_memory_limit_counts() {
        let mut h = Variant::named("E2B").unwrap().hparams();
        h.window = 300;
        let backend = Backend::new(&BackendOptions { n_threads: 1, gpu: None }).unwrap();
        for (n_ctx, n_batch, dtype) in
            [(1, 1, DType::F32), (300, 512, DType::F16), (2000, 64, DType::Q8_0)]
        {
            let kv = KvCache::new(&h, KvOptions { n_ctx, n_batch, dtype }, 0, &backend).unwrap();
            let states = kv.layers.iter().flatten().flat_map(|l| [l.k, l.v]);
            let allocated: usize = states.map(|s| kv.store.size_bytes(s)).sum();
            let dtype = TensorType::from_id(dtype.id()).unwrap();
            let shape = memory::KvShape { n_ctx, n_batch, dtype };
            let counted = memory::kv_size(&h, &shape).unwrap().total_bytes();
            assert_eq!(allocated as u64, counted, "{n_ctx} {n_batch}");
        }
    }

    #[test]
    fn everything_can_be_rewound_until_the_ring_has_turned() {
        let h = Variant::named("E2B").unwrap().hparams();
        let options = KvOptions { n_ctx: 4096, n_batch: 512, dtype: DType::F16 };
        let backend = Backend::new(&BackendOptions { n_threads: 1, gpu: None }).unwrap();
        let mut kv = KvCache::new(&h, options, 0, &backend).unwrap();
        for (n_past, back, can) in [(1024, 1, true), (1025, 513, true), (1025, 512, false)] {
            (kv.n_past, kv.n_written) = (n_past, n_past);
            assert_eq!(kv.can_rewind(back), can, "{n_past} {back}");
        }
    }
}
