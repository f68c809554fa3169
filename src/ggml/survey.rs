//! What the kernels were built for, and whose kernels multiply with which weights.
//!
//! In: ggml's registry, the processor. Out: names for people; nothing is computed.

use std::ffi::CStr;
use std::ffi::c_char;

use llama_cpp_sys_2 as sys;

use super::backend::cpu_device;
use super::backend::cpu_function;
use super::custom::dots;
use super::custom::multiplies;
use super::repack::PACK_ROWS;
use super::repack::packs;
use super::tensor::DType;
use crate::error::Result;

/// Who multiplies with a weight on the processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kernel {
    /// Culet's own kernel.
    Own,
    /// ggml's kernel for rows that lie interleaved; `culet pack` makes such files.
    Packed,
    /// ggml's kernel for rows as files have them.
    Plain,
}

impl Kernel {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Packed => "packed",
            Self::Plain => "plain",
        }
    }
}

/// Returns whose kernel multiplies with weights of a type on this processor.
///
/// # Errors
/// `Device` if there is no processor backend.
pub fn kernel(dtype: DType) -> Result<Kernel> {
    if dots(dtype).is_some() || multiplies(dtype) {
        return Ok(Kernel::Own);
    }
    Ok(match packs(dtype, PACK_ROWS)? {
        true => Kernel::Packed,
        false => Kernel::Plain,
    })
}

/// Returns the names of what the processor's backend makes use of, such as `AVX2` or `DOTPROD`.
///
/// # Errors
/// `Device` if there is no processor backend.
pub fn features() -> Result<Vec<String>> {
    let Some(list) = cpu_function(c"ggml_backend_get_features")? else { return Ok(Vec::new()) };
    type List = unsafe extern "C" fn(sys::ggml_backend_reg_t) -> *const sys::ggml_backend_feature;
    let text = |p: *const c_char| {
        // SAFETY: names and values are C strings that live as long as the backend.
        unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned()
    };
    let mut names = Vec::new();
    // SAFETY: the registry promises this signature; the list ends with a null name.
    unsafe {
        let list = std::mem::transmute::<*mut std::ffi::c_void, List>(list.as_ptr());
        let mut next = list(sys::ggml_backend_dev_backend_reg(cpu_device()?));
        while !next.is_null() && !(*next).name.is_null() {
            let (name, value) = (text((*next).name), text((*next).value));
            match value.as_str() {
                "0" => {}
                "1" => names.push(name),
                _ => names.push(format!("{name}={value}")),
            }
            next = next.add(1);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_have_names() {
        let names = features().expect("a processor");
        assert!(names.iter().all(|n| !n.is_empty() && !n.ends_with("=0")), "{names:?}");
        #[cfg(target_arch = "x86_64")]
        assert!(is_x86_feature_detected!("sse3") == names.iter().any(|n| n == "SSE3"));
    }

    #[test]
    fn every_type_has_a_kernel() {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0] {
            let found = kernel(dtype).expect("a processor");
            let packed = packs(dtype, PACK_ROWS).expect("a processor");
            assert!(found != Kernel::Packed || packed, "{dtype}: {}", found.name());
        }
    }
}
