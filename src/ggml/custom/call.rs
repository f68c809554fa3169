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
use std::sync::atomic::Ordering;

use llama_cpp_sys_2 as sys;

use crate::ggml::tensor::DType;

/// Most inputs of one node: `GGML_MAX_SRC` of ggml.h, and the size of `ggml_tensor::src`.
pub(in crate::ggml) const SRC_MAX: usize = 10;

/// How the output is split among threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split {
    /// Whole rows (the fastest side stays together).
    Rows,
    /// Runs of elements in multiples of this many.
    Elements(usize),
    /// Runs of every row's elements in multiples of this many; written with [`Call::put`].
    Columns(usize),
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
    /// The whole output, and the columns of it that are this call's.
    shared: (*mut f32, usize, Range<usize>),
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

    /// Returns the columns of every row that are this call's, with [`Split::Columns`].
    pub fn columns(&self) -> Range<usize> {
        self.shared.2.clone()
    }

    /// Writes elements `column ..` of `row`, which must be this call's.
    pub fn put(&mut self, row: usize, column: usize, values: &[f32]) {
        let (data, n_rows, columns) = &self.shared;
        let end = column + values.len();
        assert!(row < *n_rows && column >= columns.start && end <= columns.end, "another's part");
        // SAFETY: the row lies in the output, and no other thread writes these columns.
        unsafe {
            let to = data.add(row * self.row_len + column);
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
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
    pub(in crate::ggml) panicked: AtomicBool,
}

/// The part of `n` elements that thread `ith` of `nth` computes.
fn part(split: Split, n: usize, row_len: usize, ith: usize, nth: usize) -> (usize, usize) {
    let unit = match split {
        Split::Rows => row_len,
        Split::Elements(unit) | Split::Columns(unit) => unit.max(1),
        Split::One => n,
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
    // SAFETY: the plan owns the `Custom` and outlives the computation; `dst` is the live node,
    // contiguous f32; the parts of different threads do not overlap.
    let (custom, dst, out) = unsafe {
        let custom = &*user.cast::<Custom>();
        let dst = &*dst;
        let row_len = dst.ne[0] as usize;
        let n_rows = dst.ne[1] as usize * dst.ne[2] as usize * dst.ne[3] as usize;
        let by_columns = matches!(custom.split, Split::Columns(_));
        let n = if by_columns { row_len } else { row_len * n_rows };
        let (first, end) = part(custom.split, n, row_len, ith as usize, nth as usize);
        if first >= end {
            return;
        }
        let data = dst.data.cast::<f32>();
        let (own, shared) = match by_columns {
            true => (first..first, (data, n_rows, first..end)),
            false => (first..end, (data, 0, 0..0)),
        };
        let out = std::slice::from_raw_parts_mut(data.add(own.start), own.len());
        (custom, dst, (first, out, shared))
    };
    let n_args = dst.src.iter().take_while(|s| !s.is_null()).count();
    let mut call = Call {
        args: dst.src.map(|s| s.cast_const()),
        n_args,
        first: out.0,
        out: out.1,
        row_len: dst.ne[0] as usize,
        shared: out.2,
    };
    if catch_unwind(AssertUnwindSafe(|| (custom.kernel)(&mut call))).is_err() {
        custom.panicked.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for split in [Split::Rows, Split::Elements(16), Split::Columns(8), Split::One] {
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
}
