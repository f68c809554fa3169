//! Element types, shapes, and the handle of one graph tensor.

#![allow(clippy::unnecessary_cast, reason = "ggml's enumerations are signed on some systems")]

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::error::Error;
use crate::error::Result;

/// Element type of a tensor, by ggml's number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DType(u32);

impl DType {
    /// 32-bit float.
    pub const F32: Self = Self(sys::GGML_TYPE_F32 as u32);
    /// 16-bit float.
    pub const F16: Self = Self(sys::GGML_TYPE_F16 as u32);
    /// bfloat16.
    pub const BF16: Self = Self(sys::GGML_TYPE_BF16 as u32);
    /// 32-bit signed integer.
    pub const I32: Self = Self(sys::GGML_TYPE_I32 as u32);
    /// 64-bit signed integer.
    pub const I64: Self = Self(sys::GGML_TYPE_I64 as u32);
    /// 8-bit blocks of 32 with one scale.
    pub const Q8_0: Self = Self(sys::GGML_TYPE_Q8_0 as u32);
    /// 4-bit blocks of 32 with one scale.
    pub const Q4_0: Self = Self(sys::GGML_TYPE_Q4_0 as u32);
    /// 2-bit blocks of 256 with one scale; three values are used.
    pub const TQ2_0: Self = Self(sys::GGML_TYPE_TQ2_0 as u32);
    /// 3-bit blocks of 256, a scale for 16.
    pub const Q3_K: Self = Self(sys::GGML_TYPE_Q3_K as u32);
    /// 4-bit blocks of 256, a scale and a minimum for 32.
    pub const Q4_K: Self = Self(sys::GGML_TYPE_Q4_K as u32);
    /// 5-bit blocks of 256, a scale and a minimum for 32.
    pub const Q5_K: Self = Self(sys::GGML_TYPE_Q5_K as u32);
    /// 6-bit blocks of 256, a scale for 16.
    pub const Q6_K: Self = Self(sys::GGML_TYPE_Q6_K as u32);

    /// Returns the type with ggml's number `id`.
    ///
    /// # Errors
    /// `Unsupported` if the kernels have no such type.
    pub fn from_id(id: u32) -> Result<Self> {
        let known = id < sys::GGML_TYPE_COUNT as u32 && {
            // SAFETY: `id` is below the count, so both tables have an entry for it.
            unsafe { sys::ggml_type_size(id as _) > 0 && sys::ggml_blck_size(id as _) > 0 }
        };
        if known {
            Ok(Self(id))
        } else {
            Err(Error::unsupported(format!("tensor type {id} has no kernels")))
        }
    }

    /// Returns ggml's number.
    pub fn id(self) -> u32 {
        self.0
    }

    /// Returns how many elements share one block.
    pub fn block_len(self) -> usize {
        // SAFETY: a `DType` only holds numbers that ggml's table has.
        unsafe { sys::ggml_blck_size(self.raw()) as usize }
    }

    /// Returns the bytes of one block.
    pub fn block_bytes(self) -> usize {
        // SAFETY: as in `block_len`.
        unsafe { sys::ggml_type_size(self.raw()) }
    }

    /// Returns the bytes of a row of `n` elements, or `None` if blocks do not divide it.
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        if !n.is_multiple_of(self.block_len()) {
            return None;
        }
        (n / self.block_len()).checked_mul(self.block_bytes())
    }

    pub(super) fn raw(self) -> sys::ggml_type {
        self.0 as sys::ggml_type
    }

    pub(super) fn of(ptr: NonNull<sys::ggml_tensor>) -> Self {
        // SAFETY: every tensor pointer in this folder is live while its owner is.
        Self(unsafe { (*ptr.as_ptr()).type_ } as u32)
    }
}

impl fmt::Debug for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: the table's names are static C strings; the number is in range.
        let name = unsafe { std::ffi::CStr::from_ptr(sys::ggml_type_name(self.raw())) };
        f.write_str(&name.to_string_lossy())
    }
}

/// Shape in ggml order: fastest dimension first, always four.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape(pub [usize; 4]);

impl Shape {
    /// Largest number of elements of one tensor.
    pub const ELEMENTS_MAX: usize = 1 << 40;

    /// Creates a shape from one to four sides; missing ones are 1.
    ///
    /// # Errors
    /// `Input` if a side is zero, there are more than four, or the product is too large.
    pub fn new(sides: &[usize]) -> Result<Self> {
        let mut ne = [1; 4];
        if sides.is_empty() || sides.len() > 4 {
            return Err(Error::input(format!("shape {sides:?} must have 1 to 4 sides")));
        }
        ne[..sides.len()].copy_from_slice(sides);
        let n = ne.iter().try_fold(1usize, |n, &s| n.checked_mul(s));
        match n {
            Some(n) if n > 0 && n <= Self::ELEMENTS_MAX => Ok(Self(ne)),
            _ => Err(Error::input(format!("shape {sides:?} is empty or too large"))),
        }
    }

    /// Returns the number of elements.
    pub fn n_elements(self) -> usize {
        self.0.iter().product()
    }

    /// Returns the number of rows (everything but the fastest side).
    pub fn n_rows(self) -> usize {
        self.0[1] * self.0[2] * self.0[3]
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = (1..4).rev().find(|&i| self.0[i] != 1).map_or(1, |i| i + 1);
        fmt::Debug::fmt(&self.0[..n], f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One node or leaf of a graph that is being built.
#[derive(Clone, Copy)]
pub struct Tensor<'g> {
    pub(super) ptr: NonNull<sys::ggml_tensor>,
    pub(super) graph: PhantomData<&'g ()>,
}

impl Tensor<'_> {
    /// Returns the shape.
    pub fn shape(self) -> Shape {
        // SAFETY: the builder that `'g` borrows keeps the tensor alive.
        let ne = unsafe { (*self.ptr.as_ptr()).ne };
        Shape(ne.map(|n| n as usize))
    }

    /// Returns side `i`.
    pub fn side(self, i: usize) -> usize {
        self.shape().0[i]
    }

    /// Returns the element type.
    pub fn dtype(self) -> DType {
        DType::of(self.ptr)
    }

    /// Returns the strides in bytes.
    pub(super) fn strides(self) -> [usize; 4] {
        // SAFETY: as in `shape`.
        unsafe { (*self.ptr.as_ptr()).nb }
    }

    /// Tells whether the elements lie without gaps in order.
    pub fn is_contiguous(self) -> bool {
        // SAFETY: as in `shape`.
        unsafe { sys::ggml_is_contiguous(self.ptr.as_ptr()) }
    }
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.dtype(), self.shape())
    }
}

/// Converts blocks of any type with a dequantiser to 32-bit floats, filling `out`.
///
/// # Errors
/// `Input` if the bytes are not `out.len()` elements; `Unsupported` if there is no dequantiser.
pub fn dequantize_into(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let n = out.len();
    if dtype.row_bytes(n) != Some(bytes.len()) {
        return Err(Error::input(format!("{} bytes are not {n} elements of {dtype}", bytes.len())));
    }
    if dtype == DType::F32 {
        for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *o = f32::from_le_bytes(*b);
        }
        return Ok(());
    }
    // SAFETY: the table has an entry for every `DType`.
    let traits = unsafe { &*sys::ggml_get_type_traits(dtype.raw()) };
    let Some(to_float) = traits.to_float else {
        return Err(Error::unsupported(format!("{dtype} cannot be converted to f32")));
    };
    // SAFETY: the source holds exactly the blocks of `n` elements and `out` has room for `n`.
    unsafe { to_float(bytes.as_ptr().cast(), out.as_mut_ptr(), n as i64) };
    Ok(())
}

/// Converts blocks of any type with a dequantiser to `n` 32-bit floats.
///
/// # Errors
/// As for [`dequantize_into`].
pub fn dequantize(dtype: DType, bytes: &[u8], n: usize) -> Result<Vec<f32>> {
    if dtype.row_bytes(n) != Some(bytes.len()) {
        return Err(Error::input(format!("{} bytes are not {n} elements of {dtype}", bytes.len())));
    }
    let mut out = vec![0.0; n];
    dequantize_into(dtype, bytes, &mut out)?;
    Ok(out)
}

/// Converts 32-bit floats to `dtype`, row by row.
///
/// # Errors
/// `Input` if rows of `row_len` do not divide `values` or blocks do not divide a row;
/// `Unsupported` if the type needs an importance matrix.
pub fn quantize(dtype: DType, values: &[f32], row_len: usize) -> Result<Vec<u8>> {
    let row_bytes = dtype.row_bytes(row_len).filter(|_| row_len > 0);
    let (Some(row_bytes), true) = (row_bytes, row_len > 0 && values.len().is_multiple_of(row_len))
    else {
        return Err(Error::input(format!(
            "{} values in rows of {row_len} cannot become {dtype}",
            values.len()
        )));
    };
    // SAFETY: the number is in ggml's table.
    if unsafe { sys::ggml_quantize_requires_imatrix(dtype.raw()) } {
        return Err(Error::unsupported(format!("{dtype} needs an importance matrix")));
    }
    let n_rows = values.len() / row_len;
    let mut out = vec![0u8; row_bytes * n_rows];
    if dtype == DType::F32 {
        for (o, v) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *o = v.to_le_bytes();
        }
        return Ok(out);
    }
    // SAFETY: `out` has `n_rows` rows of `row_bytes`, `values` has `n_rows` rows of `row_len`.
    let n = unsafe {
        sys::ggml_quantize_chunk(
            dtype.raw(),
            values.as_ptr(),
            out.as_mut_ptr().cast(),
            0,
            n_rows as i64,
            row_len as i64,
            std::ptr::null(),
        )
    };
    debug_assert_eq!(n, out.len());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_types_are_refused() {
        for id in [4, 5, 999, u32::MAX] {
            assert!(DType::from_id(id).is_err(), "{id}");
        }
        assert_eq!(DType::from_id(2).map(DType::id).ok(), Some(2));
    }

    #[test]
    fn shapes_are_bounded() {
        assert!(Shape::new(&[]).is_err());
        assert!(Shape::new(&[0, 2]).is_err());
        assert!(Shape::new(&[usize::MAX, 2]).is_err());
        assert_eq!(Shape::new(&[2, 3]).map(|s| s.to_string()).ok(), Some("[2, 3]".to_owned()));
    }

    #[test]
    fn quantised_rows_come_back_close() {
        let values: Vec<f32> = (0..256).map(|i| (i as f32 * 0.37).sin()).collect();
        for (dtype, tolerance) in [(DType::F32, 0.0), (DType::Q8_0, 0.01), (DType::Q4_0, 0.2)] {
            let bytes = quantize(dtype, &values, 64).expect("rows divide");
            let back = dequantize(dtype, &bytes, 256).expect("sizes fit");
            for (a, b) in values.iter().zip(&back) {
                assert!((a - b).abs() <= tolerance, "{dtype}: {a} {b}");
            }
        }
        assert!(quantize(DType::Q8_0, &values, 100).is_err());
        assert!(dequantize(DType::Q8_0, &[0; 3], 32).is_err());
    }
}
