//! Operations of ours inside a graph: safe Rust kernels that ggml's threads call.
//!
//! In: contiguous input arrays. Out: one array of f32, split among the threads.
//! Invariant: a panic in a kernel never crosses into C; it becomes an `Internal` error.

use std::ffi::c_int;
use std::ffi::c_void;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use llama_cpp_sys_2 as sys;

use crate::ggml::tensor::DType;

/// Most inputs of one node: `GGML_MAX_SRC` of ggml.h, and the size of `ggml_tensor::src`.
pub(in crate::ggml) const SRC_MAX: usize = 10;

/// Parts of a thread's share of the columns below which tiles stay: memory is read in runs.
const PARTS_MAX: usize = 64;

/// How the output is split among threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split {
    /// Whole rows (the fastest side stays together).
    Rows,
    /// Runs of elements in multiples of this many.
    Elements(usize),
    /// Tiles of so many rows and multiples of so many columns, which threads take as they get
    /// ready: see [`Call::take`].
    Tiles {
        /// Rows of a tile.
        rows: usize,
        /// What a tile's columns are a multiple of.
        columns: usize,
    },
    /// One thread does it all.
    One,
}

/// What a kernel sees of one call: its inputs and its part of the output.
pub struct Call<'a> {
    args: [*const sys::ggml_tensor; SRC_MAX],
    n_args: usize,
    /// First element of the output that is this call's.
    pub first: usize,
    /// This call's part of the output.
    pub out: &'a mut [f32],
    /// Fastest side of the output.
    pub row_len: usize,
    /// The output's tiles, and how many of them threads have taken.
    shared: Option<(*mut f32, Tiles, &'a AtomicUsize)>,
}

/// A part of the output that one thread has: see [`Call::take`].
pub struct Taken {
    data: *mut f32,
    row_len: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Taken {
    /// Returns its rows.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Returns its columns.
    pub fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// Writes elements `column ..` of `row`, which must lie in it.
    pub fn put(&mut self, row: usize, column: usize, values: &[f32]) {
        let end = column + values.len();
        let fits = column >= self.columns.start && end <= self.columns.end;
        assert!(fits && self.rows.contains(&row), "another's part");
        // SAFETY: the part lies in the output, and no other thread was given any of it.
        unsafe {
            let to = self.data.add(row * self.row_len + column);
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
    }
}

/// An output in tiles: of some rows after the others, and of those each thread's share of half
/// the columns that are left, so that tiles are few and yet none waits long for another.
#[derive(Clone, Copy)]
struct Tiles {
    sides: (usize, usize),
    tile: (usize, usize),
    n_threads: usize,
}

impl Tiles {
    /// Returns rows and columns of tile `i`, and none from the last one on.
    fn at(self, mut i: usize) -> Option<(Range<usize>, Range<usize>)> {
        let (n_rows, rows) = (self.sides.0, self.tile.0);
        for first in (0..n_rows).step_by(rows) {
            match self.columns(i) {
                Ok(columns) => return Some((first..(first + rows).min(n_rows), columns)),
                Err(n) => i -= n,
            }
        }
        None
    }

    /// Returns the columns of tile `i` among those of the same rows, or how many these are.
    fn columns(self, i: usize) -> Result<Range<usize>, usize> {
        let (n_columns, unit) = (self.sides.1, self.tile.1);
        let n_units = n_columns.div_ceil(unit);
        let least = (n_units / (PARTS_MAX * self.n_threads)).max(1);
        let (mut first, mut n) = (0, 0);
        while first < n_units {
            let left = n_units - first;
            let size = least.max(left / (2 * self.n_threads));
            let n_equal = left.div_ceil(size).min(self.n_threads);
            if i < n + n_equal {
                let start = first + (i - n) * size;
                let end = (start + size).min(n_units);
                return Ok(start * unit..(end * unit).min(n_columns));
            }
            first += n_equal * size;
            n += n_equal;
        }
        Err(n)
    }
}

impl<'a> Call<'a> {
    fn bytes(&self, i: usize, dtypes: &[DType]) -> (*const u8, usize) {
        assert!(i < self.n_args, "kernel input {i} was not given");
        // SAFETY: ggml keeps the inputs of the node it computes alive.
        let tensor = unsafe { &*self.args[i] };
        assert!(
            dtypes.iter().any(|d| d.raw() == tensor.type_),
            "kernel input {i} has another type"
        );
        // SAFETY: as above; inputs are contiguous, which the builder checked.
        (tensor.data.cast(), unsafe { sys::ggml_nbytes(tensor) })
    }

    /// Returns input `i`, which is f32.
    pub fn f32(&self, i: usize) -> &'a [f32] {
        let (data, len) = self.bytes(i, &[DType::F32]);
        // SAFETY: `len` bytes of f32 are readable while the node is computed.
        unsafe { std::slice::from_raw_parts(data.cast(), len / 4) }
    }

    /// Returns input `i`, which is i32.
    pub fn i32(&self, i: usize) -> &'a [i32] {
        let (data, len) = self.bytes(i, &[DType::I32]);
        // SAFETY: as for `f32`.
        unsafe { std::slice::from_raw_parts(data.cast(), len / 4) }
    }

    /// Returns the bits of input `i`, which is f16.
    pub fn f16_bits(&self, i: usize) -> &'a [u16] {
        let (data, len) = self.bytes(i, &[DType::F16]);
        // SAFETY: as for `f32`.
        unsafe { std::slice::from_raw_parts(data.cast(), len / 2) }
    }

    /// Returns the bytes of input `i`, which is of a type.
    pub fn blocks(&self, i: usize, dtype: DType) -> &'a [u8] {
        let (data, len) = self.bytes(i, &[dtype]);
        // SAFETY: `len` bytes are readable while the node is computed.
        unsafe { std::slice::from_raw_parts(data, len) }
    }

    /// Takes a tile that no thread has taken, with [`Split::Tiles`]. Rows never go back from one
    /// to the next.
    pub fn take(&mut self) -> Option<Taken> {
        let (data, tiles, next) = self.shared?;
        let (rows, columns) = tiles.at(next.fetch_add(1, Ordering::Relaxed))?;
        Some(Taken { data, row_len: self.row_len, rows, columns })
    }

    /// Returns the number of the first row of this call's part.
    pub fn first_row(&self) -> usize {
        self.first / self.row_len
    }
}

pub(in crate::ggml) type Kernel = Box<dyn Fn(&mut Call<'_>) + Send + Sync>;

/// A kernel with what its call-back needs; lives as long as the graph.
pub(in crate::ggml) struct Custom {
    pub(in crate::ggml) kernel: Kernel,
    pub(in crate::ggml) split: Split,
    /// Tiles that were taken.
    next: AtomicUsize,
    panicked: AtomicBool,
}

impl Custom {
    pub(in crate::ggml) fn new(kernel: Kernel, split: Split) -> Self {
        Self { kernel, split, next: AtomicUsize::new(0), panicked: AtomicBool::new(false) }
    }

    /// Must be called before the graph is computed.
    pub(in crate::ggml) fn begin(&self) {
        self.next.store(0, Ordering::Relaxed);
        self.panicked.store(false, Ordering::Relaxed);
    }

    pub(in crate::ggml) fn panicked(&self) -> bool {
        self.panicked.load(Ordering::Relaxed)
    }
}

/// The part of `n` elements that thread `ith` of `nth` computes.
fn part(split: Split, n: usize, row_len: usize, ith: usize, nth: usize) -> (usize, usize) {
    let unit = match split {
        Split::Rows => row_len,
        Split::Elements(unit) => unit.max(1),
        Split::Tiles { .. } | Split::One => n.max(1),
    };
    let units = n.div_ceil(unit);
    let each = units.div_ceil(nth);
    let first = (ith * each).min(units) * unit;
    let end = ((ith + 1) * each).min(units) * unit;
    (first.min(n), end.min(n))
}

/// Called by ggml's threads.
pub(in crate::ggml) unsafe extern "C" fn run(
    dst: *mut sys::ggml_tensor,
    ith: c_int,
    nth: c_int,
    user: *mut c_void,
) {
    // SAFETY: the plan owns the `Custom` and outlives the computation; `dst` is the live node.
    let (custom, dst) = unsafe { (&*user.cast::<Custom>(), &*dst) };
    let row_len = dst.ne[0] as usize;
    let n_rows = dst.ne[1] as usize * dst.ne[2] as usize * dst.ne[3] as usize;
    let data = dst.data.cast::<f32>();
    let (first, end, shared) = match custom.split {
        Split::Tiles { rows, columns } => {
            let tile = (rows.max(1), columns.max(1));
            let tiles = Tiles { sides: (n_rows, row_len), tile, n_threads: nth as usize };
            (0, 0, Some((data, tiles, &custom.next)))
        }
        split => {
            let (ith, nth) = (ith as usize, nth as usize);
            let (first, end) = part(split, row_len * n_rows, row_len, ith, nth);
            if first >= end {
                return;
            }
            (first, end, None)
        }
    };
    // SAFETY: the output is contiguous f32, and parts of different threads do not overlap.
    let out = unsafe { std::slice::from_raw_parts_mut(data.add(first), end - first) };
    let n_args = dst.src.iter().take_while(|s| !s.is_null()).count();
    let mut call =
        Call { args: dst.src.map(|s| s.cast_const()), n_args, first, out, row_len, shared };
    if catch_unwind(AssertUnwindSafe(|| (custom.kernel)(&mut call))).is_err() {
        custom.panicked.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for split in [Split::Rows, Split::Elements(16), Split::One] {
            for (n, row_len) in [(7 * 5, 5), (1, 1), (4096, 4096), (33, 11)] {
                for nth in 1..6 {
                    let mut next = 0;
                    for ith in 0..nth {
                        let (first, end) = part(split, n, row_len, ith, nth);
                        if first < end {
                            assert_eq!(first, next, "{split:?} {n} {nth}");
                            next = end;
                        }
                    }
                    assert_eq!(next, n, "{split:?} {n} {nth}");
                }
            }
        }
    }

    #[test]
    fn tiles_cover_everything_once_and_rows_never_go_back() {
        for (n_rows, n_columns) in [(1, 8), (1, 1536), (5, 64), (40, 1 << 18), (3, 24)] {
            for n_threads in 1..6 {
                let sides = (n_rows, n_columns);
                let tiles = Tiles { sides, tile: (3, 8), n_threads };
                let all: Vec<_> = (0..).map_while(|i| tiles.at(i)).collect();
                let (mut row, mut column) = (0, 0);
                for (rows, columns) in &all {
                    assert_eq!((rows.start, columns.start), (row, column));
                    assert!(!rows.is_empty() && columns.end <= n_columns);
                    (row, column) = match columns.end == n_columns {
                        true => (rows.end, 0),
                        false => (row, columns.end),
                    };
                }
                assert_eq!((row, column), (n_rows, 0), "{sides:?} {n_threads}");
                let bands = n_rows.div_ceil(3);
                assert!(all.len() <= bands * n_threads * 20, "few: {}", all.len());
            }
        }
    }
}
