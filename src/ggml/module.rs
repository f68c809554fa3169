//! The kernels' modules, in builds that choose among them by what the processor has.
//!
//! In: the place that ggml's own library was loaded from. Out: modules of the same folder, loaded.
//! Invariant: no other folder is searched, the current one least of all.

use std::ffi::CString;
#[cfg(unix)]
use std::ffi::c_char;
#[cfg(unix)]
use std::ffi::c_int;
#[cfg(unix)]
use std::ffi::c_void;
use std::path::PathBuf;

use llama_cpp_sys_2 as sys;

/// Loads what lies beside ggml's library; a machine for which there is nothing has no backend.
pub(super) fn load() {
    let folder = folder().map(|f| f.as_os_str().as_encoded_bytes().to_vec());
    match folder.map(CString::new) {
        // SAFETY: the text ends with a zero and lives for the call.
        Some(Ok(folder)) => unsafe { sys::ggml_backend_load_all_from_path(folder.as_ptr()) },
        _ => log::error!("the folder of the kernels' modules cannot be told; none were loaded"),
    }
}

/// What the system's loader knows of an address; `Dl_info` of C.
#[cfg(unix)]
#[repr(C)]
struct Place {
    file: *const c_char,
    base: *mut c_void,
    symbol: *const c_char,
    address: *mut c_void,
}

#[cfg(unix)]
unsafe extern "C" {
    fn dladdr(address: *const c_void, place: *mut Place) -> c_int;
}

/// Returns the folder that ggml's library was loaded from.
#[cfg(unix)]
fn folder() -> Option<PathBuf> {
    use std::ffi::CStr;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    let (text, null) = (std::ptr::null(), std::ptr::null_mut());
    let mut place = Place { file: text, base: null, symbol: text, address: null };
    let inside = sys::ggml_backend_load_all_from_path as *const c_void;
    // SAFETY: `place` is what the loader writes; its texts live as long as the library, which
    // this program holds.
    let file = unsafe {
        if dladdr(inside, &raw mut place) == 0 || place.file.is_null() {
            return None;
        }
        CStr::from_ptr(place.file)
    };
    let path = Path::new(OsStr::from_bytes(file.to_bytes())).canonicalize().ok()?;
    path.parent().map(Path::to_owned)
}

/// Returns the program's folder, where its libraries lie on this system.
#[cfg(not(unix))]
fn folder() -> Option<PathBuf> {
    std::env::current_exe().ok()?.parent().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    #[cfg(unix)]
    #[test]
    fn kernels_that_are_linked_in_lie_where_the_program_does() {
        if cfg!(feature = "dynamic-backends") {
            assert!(super::folder().is_some_and(|f| f.is_absolute()));
        } else {
            let program = std::env::current_exe().and_then(|p| p.canonicalize()).expect("a path");
            assert_eq!(super::folder().as_deref(), program.parent());
        }
    }
}
