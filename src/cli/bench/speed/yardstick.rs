//! What the machine can do at best: bytes read from memory, and multiply-adds in the caches.
//!
//! In: an open model. Out: [`Yardsticks`], asked again around every sample.
//! Invariant: the same threads as the model's, its own weights and its own kernel for products;
//! what the machine did at another time is no yardstick.

use std::array;
use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

use culet::Error;
use culet::Result;
use culet::engine::Engine;
use culet::ggml;
use culet::ggml::Backend;
use culet::ggml::BackendOptions;
use culet::ggml::DType;
use culet::ggml::GraphBuilder;
use culet::ggml::Owner;
use culet::ggml::PACK_ROWS;
use culet::ggml::Plan;
use culet::ggml::Shape;
use culet::ggml::WeightSpec;
use culet::ggml::map_weights;

use crate::cli::bench::machine;
use crate::cli::bench::random::Random;

/// Least bytes that are read: more than caches hold.
const READ_BYTES_MIN: usize = 512 << 20;
/// Bytes that a thread takes at once.
const PIECE_BYTES: usize = 2 << 20;
/// Bytes of a line of the caches.
const LINE: usize = 64;
/// Places of a piece that are read at once: one alone does not keep memory busy.
const N_STREAMS: usize = 8;
/// Lines that memory is asked for ahead, and early.
const N_AHEAD: [usize; 2] = [4, 24];
/// Times that memory is read, of which the fastest counts.
const N_READS: usize = 3;
/// Bytes of the weight whose products are measured: it stays in a core's own cache.
const WEIGHT_BYTES_MAX: usize = 1 << 20;
/// Rows of activations that it is multiplied with.
const N_ROWS: usize = 256;
/// Times that the product is computed, of which the fastest counts.
const N_PRODUCTS: usize = 10;
const MATRIX: &str = "blk.0.ffn_up.weight";

/// What is asked for the machine's best.
pub(super) struct Yardsticks {
    reads: Reads,
    products: Products,
}

impl Yardsticks {
    /// Makes them of a model that the processor alone computes.
    ///
    /// # Errors
    /// Those of a backend that cannot be started.
    pub(super) fn new(engine: &Engine, n_threads: usize) -> Result<Self> {
        let reads = Reads::new(engine, n_threads);
        Ok(Self { reads, products: Products::new(engine, n_threads)? })
    }

    /// Returns how many bytes a second all threads together read from memory now.
    pub(super) fn bytes_per_second(&self) -> f64 {
        (0..N_READS).map(|_| self.reads.once()).fold(0.0, f64::max)
    }

    /// Returns how many multiply-adds a second all threads together do in their caches now.
    ///
    /// # Errors
    /// Those of computing.
    pub(super) fn operations_per_second(&mut self) -> Result<f64> {
        let mut best = 0_f64;
        for _ in 0..N_PRODUCTS {
            best = best.max(self.products.once()?);
        }
        Ok(best)
    }
}

/// The weights of a token, or so much other memory if they are few.
struct Reads {
    memory: Owner,
    pieces: Vec<Range<usize>>,
    n_threads: usize,
}

impl Reads {
    fn new(engine: &Engine, n_threads: usize) -> Self {
        let file = engine.file();
        let mut ranges = machine::token_ranges(file, engine.decoder().hparams());
        let n: usize = ranges.iter().map(Range::len).sum();
        let memory: Owner = match n >= READ_BYTES_MIN {
            true => Arc::clone(file.mapping()) as _,
            false => {
                ranges.clear();
                ranges.push(0..READ_BYTES_MIN);
                Arc::new(vec![1_u8; READ_BYTES_MIN])
            }
        };
        let pieces = ranges.into_iter().flat_map(|range| {
            // Whole lines of the caches; a mapping begins with one.
            let starts = (range.start.next_multiple_of(LINE)..range.end).step_by(PIECE_BYTES);
            starts.map(move |start| start..range.end.min(start + PIECE_BYTES))
        });
        Self { memory, pieces: pieces.collect(), n_threads: n_threads.max(1) }
    }

    /// Reads everything once; returns bytes a second.
    fn once(&self) -> f64 {
        let bytes = (*self.memory).as_ref();
        let (next, begin) = (AtomicUsize::new(0), Barrier::new(self.n_threads));
        let work = || {
            begin.wait();
            let start = Instant::now();
            while let Some(piece) = self.pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                black_box(read(&bytes[piece.clone()]));
            }
            (start, Instant::now())
        };
        let times: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..self.n_threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others = others.into_iter().filter_map(|other| other.join().ok());
            others.chain([own]).collect()
        });
        let first = times.iter().map(|t| t.0).min();
        let last = times.iter().map(|t| t.1).max();
        let seconds = first.zip(last).map_or(f64::NAN, |(a, b)| (b - a).as_secs_f64());
        self.pieces.iter().map(Range::len).sum::<usize>() as f64 / seconds
    }
}

/// Adds bytes up, from several places at once, and asks memory for them ahead.
fn read(bytes: &[u8]) -> u8 {
    let lines = bytes.as_chunks::<LINE>().0;
    let n = lines.len() / N_STREAMS;
    let streams: [&[[u8; LINE]]; N_STREAMS] = array::from_fn(|i| &lines[i * n..(i + 1) * n]);
    let mut sums = [[0_u8; LINE]; N_STREAMS];
    for i in 0..n {
        for (sums, stream) in sums.iter_mut().zip(streams) {
            let [ahead, early] = N_AHEAD.map(|n| stream.get(i + n).map_or(&[][..], |line| line));
            ggml::ask_for(ahead);
            ggml::ask_early_for(early);
            for (sum, byte) in sums.iter_mut().zip(&stream[i]) {
                *sum = sum.wrapping_add(*byte);
            }
        }
    }
    let rest = lines[N_STREAMS * n..].as_flattened().iter();
    sums.as_flattened().iter().chain(rest).fold(0, |a, b| a.wrapping_add(*b))
}

/// A product with some rows of a weight of the model.
struct Products {
    plan: Plan,
    backend: Backend,
}

impl Products {
    fn new(engine: &Engine, n_threads: usize) -> Result<Self> {
        let missing = || Error::internal(format!("{MATRIX} is not in the file"));
        let info = engine.file().tensor(MATRIX).ok_or_else(missing)?;
        let used = engine.decoder().weights().layers.first().ok_or_else(missing)?;
        let [k, n_all, ..] = used.ffn_up.shape().0;
        let n_fitting = WEIGHT_BYTES_MAX / info.row_bytes().max(1);
        let n = (n_fitting / PACK_ROWS * PACK_ROWS).max(PACK_ROWS).min(n_all);
        let spec = WeightSpec {
            name: MATRIX.to_owned(),
            dtype: used.ffn_up.dtype(),
            shape: Shape::new(&[k, n])?,
            offset: info.offset,
            placement: used.ffn_up.placement(),
        };
        let mut backend = Backend::new(&BackendOptions { n_threads, gpu: None })?;
        let owner: Owner = Arc::clone(engine.file().mapping()) as _;
        let weight = map_weights(owner, &[spec], &backend)?.remove(0);
        let graph = GraphBuilder::new(16, &backend)?;
        let (x, port) = graph.input(DType::F32, &[k, N_ROWS])?;
        let out = graph.output(graph.linear(&weight, x)?);
        let mut plan = Plan::new(graph, &backend)?;
        let mut random = Random(1);
        let values: Vec<f32> = (0..k * N_ROWS).map(|_| random.unit() - 0.5).collect();
        plan.write_f32(port, &values)?;
        plan.compute(&mut backend)?;
        let mut row = vec![0.0; n];
        plan.read_f32(out, 0, &mut row)?;
        if row.iter().any(|v| !v.is_finite()) || row.iter().all(|v| *v == 0.0) {
            return Err(Error::internal(format!("{MATRIX}: its products are no numbers")));
        }
        Ok(Self { plan, backend })
    }

    /// Computes the product once; returns multiply-adds a second.
    fn once(&mut self) -> Result<f64> {
        let start = Instant::now();
        self.plan.compute(&mut self.backend)?;
        Ok(self.plan.n_multiply_adds() as f64 / start.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read_once() {
        for n in [0, 1, 63, 64, 65, 511, 512, 4096, 100_003] {
            let bytes: Vec<u8> = (0..n).map(|i| (i * 31 % 251) as u8).collect();
            let whole = n / LINE * LINE;
            let sum = bytes[..whole].iter().fold(0_u8, |a, b| a.wrapping_add(*b));
            assert_eq!(read(&bytes), sum, "{n} bytes");
        }
    }
}
