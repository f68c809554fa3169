//! Packed kernel layouts of the processor: made ahead of time, recognised at open.
//!
//! In: weights in the file's layout. Out: the same bytes in the order the processor's kernels
//! read them (rows interleaved), which a file can hold and a mapping can serve in place.
//! Invariant: packing keeps the size, and groups of 64 rows are packed independently.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::backend::cpu_device;
use super::backend::cpu_function;
use super::buffer::Buffer;
use super::buffer::Context;
use super::custom::wants_plain;
use super::tensor::DType;
use super::tensor::Shape;
use crate::error::Error;
use crate::error::Result;
use crate::whole::Checksum;

/// Rows that are packed together at most; chunks of a multiple of this pack like the whole.
pub const PACK_ROWS: usize = 64;

/// Returns the buffer type whose tensors are in packed layouts, or `None`.
pub(super) fn repack_type() -> Result<Option<sys::ggml_backend_buffer_type_t>> {
    let Some(list) = cpu_function(c"ggml_backend_dev_get_extra_bufts")? else {
        return Ok(None);
    };
    type List =
        unsafe extern "C" fn(sys::ggml_backend_dev_t) -> *mut sys::ggml_backend_buffer_type_t;
    // SAFETY: the registry promises this signature; the list ends with a null pointer.
    unsafe {
        let list = std::mem::transmute::<*mut std::ffi::c_void, List>(list.as_ptr());
        let mut next = list(cpu_device()?);
        while !next.is_null() && !(*next).is_null() {
            let name = std::ffi::CStr::from_ptr(sys::ggml_backend_buft_name(*next));
            if name.to_bytes() == b"CPU_REPACK" {
                return Ok(Some(*next));
            }
            next = next.add(1);
        }
    }
    Ok(None)
}

/// Packs `bytes`, whole rows of a weight of `dtype`, into the processor's kernel layout.
///
/// Returns `None` if the processor has no packed kernel for this type and shape.
///
/// # Errors
/// `Input` if the bytes are not `n_rows` rows of `row_len`; `Memory` if there is no room.
pub fn pack_rows(
    dtype: DType,
    row_len: usize,
    n_rows: usize,
    bytes: &[u8],
) -> Result<Option<Vec<u8>>> {
    let shape = Shape::new(&[row_len, n_rows])?;
    if dtype.row_bytes(row_len).and_then(|b| b.checked_mul(n_rows)) != Some(bytes.len()) {
        return Err(Error::input(format!("{} bytes are not {dtype} {shape}", bytes.len())));
    }
    let Some(kind) = repack_type()? else { return Ok(None) };
    // SAFETY: the number is in ggml's table. Only quantised types have packed kernels.
    if !unsafe { sys::ggml_is_quantized(dtype.raw()) } || n_rows < 2 {
        return Ok(None);
    }
    let context = Context::for_tensors(1)?;
    let tensor = context.tensor(dtype, shape);
    // SAFETY: the buffer has room for the tensor at its base; the tensor is initialised by it
    // before its bytes are set; its memory is host memory of `bytes.len()` bytes.
    unsafe {
        let raw = sys::ggml_backend_buft_alloc_buffer(kind, bytes.len());
        let buffer = Buffer(NonNull::new(raw).ok_or_else(|| {
            Error::memory(format!("{} bytes for packing cannot be had", bytes.len()))
        })?);
        let base = sys::ggml_backend_buffer_get_base(buffer.0.as_ptr());
        sys::ggml_backend_tensor_alloc(buffer.0.as_ptr(), tensor.as_ptr(), base);
        if (*tensor.as_ptr()).extra.is_null() {
            return Ok(None);
        }
        sys::ggml_backend_tensor_set(tensor.as_ptr(), bytes.as_ptr().cast(), 0, bytes.len());
        Ok(Some(std::slice::from_raw_parts(base.cast::<u8>(), bytes.len()).to_vec()))
    }
}

/// Tells whether packing makes products of weights of this type and row count faster: the
/// processor has a packed kernel for them, and no faster one that reads them as they are.
///
/// # Errors
/// `Device` if there is no processor backend.
pub fn packs(dtype: DType, n_rows: usize) -> Result<bool> {
    let is_wanted = n_rows.is_multiple_of(PACK_ROWS) && !wants_plain(dtype);
    Ok(is_wanted && layout_fingerprint(dtype)?.is_some())
}

/// Returns a number that names the packed layout of `dtype` on this processor, or `None`.
///
/// It is a hash of a fixed weight in that layout, so it differs whenever the bytes would.
///
/// # Errors
/// `Device` if there is no processor backend.
pub fn layout_fingerprint(dtype: DType) -> Result<Option<u64>> {
    let row_len = 256.max(dtype.block_len());
    let row_bytes = dtype.row_bytes(row_len).expect("a multiple of every block length");
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let bytes: Vec<u8> = (0..row_bytes * PACK_ROWS)
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 32) as u8
        })
        .collect();
    let Some(packed) = pack_rows(dtype, row_len, PACK_ROWS, &bytes)? else { return Ok(None) };
    let mut sum = Checksum::new();
    sum.push(&packed);
    Ok(Some(sum.value()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::custom::multiplies;

    #[test]
    fn packing_in_chunks_equals_packing_whole() {
        let values: Vec<f32> = (0..256 * 192).map(|i| ((i * 7919) % 1000) as f32 / 500.0).collect();
        let bytes = crate::ggml::quantize(DType::Q4_0, &values, 256).expect("rows divide");
        let Some(whole) = pack_rows(DType::Q4_0, 256, 192, &bytes).expect("valid") else {
            return assert_eq!(layout_fingerprint(DType::Q4_0).ok(), Some(None));
        };
        let chunk = bytes.len() / 3;
        let parts: Vec<u8> = bytes
            .chunks(chunk)
            .flat_map(|c| pack_rows(DType::Q4_0, 256, 64, c).expect("valid").expect("as above"))
            .collect();
        assert!(whole == parts);
        assert_ne!(whole, bytes);
    }

    #[test]
    fn types_with_kernels_for_plain_rows_stay_plain() {
        for dtype in [DType::Q8_0, DType::Q4_K, DType::Q6_K] {
            let has_kernel = layout_fingerprint(dtype).expect("a processor").is_some();
            let is_packed = packs(dtype, PACK_ROWS).expect("a processor");
            assert_eq!(is_packed, has_kernel && !multiplies(dtype), "{dtype}");
        }
        let has_kernel = layout_fingerprint(DType::Q4_0).expect("a processor").is_some();
        assert_eq!(packs(DType::Q4_0, PACK_ROWS).expect("a processor"), has_kernel);
        assert!(!packs(DType::Q4_0, PACK_ROWS + 1).expect("a processor"));
    }

    #[test]
    fn fingerprints_are_stable_and_floats_have_none() {
        let twice = [layout_fingerprint(DType::Q4_0), layout_fingerprint(DType::Q4_0)];
        assert_eq!(twice[0].as_ref().ok(), twice[1].as_ref().ok());
        assert_eq!(layout_fingerprint(DType::F32).ok(), Some(None));
        assert!(pack_rows(DType::Q4_0, 256, 64, &[0; 3]).is_err());
    }
}
