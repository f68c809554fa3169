//! Pointers from C: checked, borrowed, given and taken.
//!
//! In: pointers and lengths as the header describes them. Out: references, slices, texts.
//! Invariant: `NULL`, odd addresses and lengths that no memory has are errors, never read.

use std::ffi::CStr;
use std::ffi::c_char;
use std::path::PathBuf;

use crate::guard;
use crate::guard::Guarded;
use crate::status::Error;
use crate::status::Failure;
use crate::status::Status;

/// A place for a result, which is written only on success.
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// `ptr` is `NULL` or can be written until the call returns.
    pub(crate) unsafe fn new(ptr: *mut T, name: &str) -> Result<Self, Failure> {
        check(ptr, name)?;
        Ok(Self(ptr))
    }

    /// # Safety
    /// As for [`new`](Self::new).
    pub(crate) unsafe fn optional(ptr: *mut T, name: &str) -> Result<Option<Self>, Failure> {
        match ptr.is_null() {
            true => Ok(None),
            // SAFETY: the caller vouches for it.
            false => unsafe { Self::new(ptr, name) }.map(Some),
        }
    }

    pub(crate) fn put(self, value: T) {
        // SAFETY: `new` checked it, and its caller vouches for the rest.
        unsafe { self.0.write(value) }
    }
}

impl<T> Out<*mut T> {
    /// Moves an object to the heap and gives it away.
    pub(crate) fn give(self, value: T) {
        self.put(Box::into_raw(Box::new(value)));
    }
}

fn check<T>(ptr: *const T, name: &str) -> Result<(), Failure> {
    if ptr.is_null() {
        return Err(Failure::null(name));
    }
    if !ptr.is_aligned() {
        return Err(Failure::input(format!(
            "{name} is at an odd address, expected a multiple of {}",
            align_of::<T>()
        )));
    }
    Ok(())
}

/// # Safety
/// `ptr` is `NULL` or points to a live `T` that nobody else has mutable.
pub(crate) unsafe fn borrow<'a, T>(ptr: *const T, name: &str) -> Result<&'a T, Failure> {
    check(ptr, name)?;
    // SAFETY: it is not `NULL`, and the caller vouches for the rest.
    Ok(unsafe { &*ptr })
}

/// Changes options; a refusal goes to `err`.
///
/// # Safety
/// `options` and `err` are `NULL` or as the header asks.
pub(crate) unsafe fn set<T, V>(
    (options, err): (*mut T, *mut Error),
    of: impl FnOnce(&T) -> &Guarded<V>,
    body: impl FnOnce(&mut V) -> Result<(), Failure>,
) -> Status {
    // SAFETY: the caller vouches for both.
    unsafe {
        guard::enter(err, || {
            let options = borrow(options.cast_const(), "options")?;
            body(&mut *of(options).lock()?)
        })
    }
}

/// Returns a copy of options; the default values for `NULL`.
///
/// # Safety
/// As for [`borrow`].
pub(crate) unsafe fn options<T, V: Clone + Default>(
    ptr: *const T,
    name: &str,
    of: impl FnOnce(&T) -> &Guarded<V>,
) -> Result<V, Failure> {
    if ptr.is_null() {
        return Ok(V::default());
    }
    // SAFETY: the caller vouches for it.
    Ok(of(unsafe { borrow(ptr, name) }?).lock()?.clone())
}

/// # Safety
/// `ptr` is `NULL` or came from [`Out::give`] and was not taken yet.
pub(crate) unsafe fn take<T>(ptr: *mut T) {
    if !ptr.is_null() {
        // SAFETY: it came from `Box::into_raw`, and only this call takes it.
        guard::quietly(|| drop(unsafe { Box::from_raw(ptr) }));
    }
}

/// # Safety
/// `ptr` is `NULL` or points to `n` values that stay as they are until the call returns.
pub(crate) unsafe fn slice<'a, T>(ptr: *const T, n: usize, name: &str) -> Result<&'a [T], Failure> {
    if n == 0 {
        return Ok(&[]);
    }
    check(ptr, name)?;
    let size_bytes = n.checked_mul(size_of::<T>()).filter(|&b| b <= isize::MAX as usize);
    if size_bytes.is_none_or(|b| (ptr as usize).checked_add(b).is_none()) {
        return Err(Failure::input(format!("{name} has {n} values, more than memory can hold")));
    }
    // SAFETY: address and length are possible, and the caller vouches for the values.
    Ok(unsafe { std::slice::from_raw_parts(ptr, n) })
}

/// # Safety
/// `ptr` is `NULL` or points to bytes that end with a zero and stay until the call returns.
pub(crate) unsafe fn text<'a>(ptr: *const c_char, name: &str) -> Result<&'a str, Failure> {
    check(ptr, name)?;
    // SAFETY: it is not `NULL`, and the caller vouches for the closing zero.
    let bytes = unsafe { CStr::from_ptr(ptr) };
    bytes.to_str().map_err(|e| {
        Failure::input(format!("{name} is not UTF-8 from byte {} on", e.valid_up_to()))
    })
}

/// # Safety
/// As for [`text`].
pub(crate) unsafe fn path(ptr: *const c_char, name: &str) -> Result<PathBuf, Failure> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;

        check(ptr, name)?;
        // SAFETY: it is not `NULL`, and the caller vouches for the closing zero.
        let bytes = unsafe { CStr::from_ptr(ptr) };
        Ok(PathBuf::from(std::ffi::OsStr::from_bytes(bytes.to_bytes())))
    }
    #[cfg(not(unix))]
    // SAFETY: the caller vouches for it.
    unsafe { text(ptr, name) }.map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::CULET_ERR_INPUT;
    use crate::status::CULET_ERR_NULL;

    #[test]
    fn impossible_slices_are_refused() {
        let values = [1.0_f32, 2.0];
        let odd = values.as_ptr().wrapping_byte_add(1);
        let cases: [(*const f32, usize, Option<i32>); 6] = [
            (values.as_ptr(), 2, None),
            (std::ptr::null(), 0, None),
            (std::ptr::null(), 1, Some(CULET_ERR_NULL)),
            (odd, 1, Some(CULET_ERR_INPUT)),
            (values.as_ptr(), usize::MAX, Some(CULET_ERR_INPUT)),
            (values.as_ptr(), isize::MAX as usize / 2, Some(CULET_ERR_INPUT)),
        ];
        for (ptr, n, expected) in cases {
            // SAFETY: what is accepted is `values` or nothing.
            let got = unsafe { slice(ptr, n, "pcm") };
            assert_eq!(got.map_err(|f| f.status).err(), expected, "{n}");
        }
    }

    #[test]
    fn texts_must_be_utf8() {
        // SAFETY: both end with a zero.
        unsafe {
            assert_eq!(text(c"hé".as_ptr(), "json").expect("UTF-8"), "hé");
            let failure = text(c"ab\xff".as_ptr(), "json").expect_err("not UTF-8");
            assert_eq!(failure.message, "json is not UTF-8 from byte 2 on");
        }
    }
}
