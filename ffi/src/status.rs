//! Statuses, errors and versions.
//!
//! In: an error of the library. Out: its number, and its text in the caller's `culet_error`.
//! Invariant: a number is never given another meaning.

use std::error::Error as _;
use std::ffi::c_char;

use culet::ErrorKind;

/// What a call answers: CULET_OK or one of CULET_ERR_.
pub type Status = i32;

/// The call did what it says.
pub const CULET_OK: Status = 0;
/// A file or device could not be read or written. Check the path, retry.
pub const CULET_ERR_IO: Status = 101;
/// A file is damaged or is not what it claims to be. Fetch it again.
pub const CULET_ERR_FORMAT: Status = 102;
/// Well-formed, but not a model, type or codec that Culet runs. Use another file.
pub const CULET_ERR_UNSUPPORTED: Status = 103;
/// An argument is out of range, or the call does not fit what came before. Fix the call.
pub const CULET_ERR_INPUT: Status = 104;
/// It would not fit. The message holds what would; lower the limit named.
pub const CULET_ERR_MEMORY: Status = 105;
/// No permission, unplugged or failed device. Ask the user.
pub const CULET_ERR_DEVICE: Status = 106;
/// Another thread uses the object now. Retry when it is done.
pub const CULET_ERR_BUSY: Status = 107;
/// culet_session_cancel() asked to stop. Nothing to do.
pub const CULET_ERR_CANCELLED: Status = 108;
/// An invariant broke and was caught. Report it.
pub const CULET_ERR_INTERNAL: Status = 109;
/// A pointer is NULL that must not be.
pub const CULET_ERR_NULL: Status = 110;
/// The object broke in this or an earlier call. Free it, and report it.
pub const CULET_ERR_PANIC: Status = 111;
/// Header and library do not belong together. Rebuild with the library's header.
pub const CULET_ERR_ABI: Status = 112;

/// Version of this header: 1000 for each major number, plus the minor number. The minor number
/// grows with each function that is added; a function that is there does not change.
pub const CULET_ABI_VERSION: u32 = 1001;

/// Bytes of an error's text with its closing zero.
pub const CULET_ERROR_MESSAGE_BYTES: usize = 256;

/// What went wrong. The caller owns it, on its stack for example; nothing in it is freed. A call
/// writes it only when it fails. Messages are UTF-8, cut at a whole code point, and hold nothing
/// that a user said, wrote or showed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Error {
    /// One of CULET_ERR_.
    pub status: Status,
    /// What was found, what was expected, and often what helps; ends with a zero.
    pub message: [c_char; CULET_ERROR_MESSAGE_BYTES],
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self::new(CULET_ERR_INPUT, message)
    }

    pub(crate) fn null(name: &str) -> Self {
        Self::new(CULET_ERR_NULL, format!("{name} is NULL"))
    }

    /// Returns the failure as a caller sees it.
    pub(crate) fn to_error(&self) -> Error {
        let mut error = Error { status: self.status, message: [0; CULET_ERROR_MESSAGE_BYTES] };
        let end = cut_length(&self.message, CULET_ERROR_MESSAGE_BYTES - 1);
        for (to, from) in error.message.iter_mut().zip(self.message[..end].bytes()) {
            *to = from as c_char;
        }
        error
    }
}

/// Returns the longest length, at most `n_bytes_max`, that cuts no code point.
fn cut_length(text: &str, n_bytes_max: usize) -> usize {
    let most = text.len().min(n_bytes_max);
    (0..=most).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0)
}

impl From<culet::Error> for Failure {
    fn from(error: culet::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            message.push_str(": ");
            message.push_str(&source.to_string());
            cause = source.source();
        }
        Self { status: status_of(error.kind()), message }
    }
}

fn status_of(kind: ErrorKind) -> Status {
    match kind {
        ErrorKind::Io => CULET_ERR_IO,
        ErrorKind::Format => CULET_ERR_FORMAT,
        ErrorKind::Unsupported => CULET_ERR_UNSUPPORTED,
        ErrorKind::Input => CULET_ERR_INPUT,
        ErrorKind::Memory => CULET_ERR_MEMORY,
        ErrorKind::Device => CULET_ERR_DEVICE,
        ErrorKind::Busy => CULET_ERR_BUSY,
        ErrorKind::Cancelled => CULET_ERR_CANCELLED,
        _ => CULET_ERR_INTERNAL,
    }
}

/// Checks the version that a caller was built with against the library's.
pub(crate) fn check_abi(version: u32) -> Result<(), Failure> {
    let [(major, minor), (own_major, own_minor)] =
        [version, CULET_ABI_VERSION].map(|v| (v / 1000, v % 1000));
    if major == own_major && minor <= own_minor {
        return Ok(());
    }
    Err(Failure::new(
        CULET_ERR_ABI,
        format!(
            "the caller was built for interface {major}.{minor}, this library has \
             {own_major}.{own_minor}; pass CULET_ABI_VERSION and use the library's own header"
        ),
    ))
}

/// Returns the interface version that the library was built with. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn culet_abi_version() -> u32 {
    CULET_ABI_VERSION
}

/// Returns the library's version, such as "0.1.0", for messages. Valid for ever. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn culet_version() -> *const c_char {
    const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    TEXT.as_ptr().cast()
}

/// Returns a status's name, such as "memory", for messages. Valid for ever. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn culet_status_name(status: Status) -> *const c_char {
    let name = match status {
        CULET_OK => c"ok",
        CULET_ERR_IO => c"io",
        CULET_ERR_FORMAT => c"format",
        CULET_ERR_UNSUPPORTED => c"unsupported",
        CULET_ERR_INPUT => c"input",
        CULET_ERR_MEMORY => c"memory",
        CULET_ERR_DEVICE => c"device",
        CULET_ERR_BUSY => c"busy",
        CULET_ERR_CANCELLED => c"cancelled",
        CULET_ERR_INTERNAL => c"internal",
        CULET_ERR_NULL => c"null",
        CULET_ERR_PANIC => c"panic",
        CULET_ERR_ABI => c"abi",
        _ => c"unknown",
    };
    name.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(error: &Error) -> String {
        let bytes = error.message.iter().take_while(|c| **c != 0).map(|c| *c as u8);
        String::from_utf8(bytes.collect()).expect("whole code points")
    }

    #[test]
    fn texts_are_cut_at_code_points() {
        for (message, expected) in [
            ("short".to_owned(), "short".len()),
            ("x".repeat(255), 255),
            ("x".repeat(256), 255),
            ("x".repeat(254) + "é", 254),
            ("😀".repeat(100), 252),
        ] {
            let error = Failure::input(message.clone()).to_error();
            assert_eq!(text(&error).len(), expected);
            assert!(message.starts_with(&text(&error)));
            assert_eq!(error.status, CULET_ERR_INPUT);
        }
    }

    #[test]
    fn causes_are_told() {
        let error = culet::Error::io("a.gguf: cannot be read");
        let failure = Failure::from(error.with_source(std::io::Error::other("disk gone")));
        assert_eq!(failure.message, "a.gguf: cannot be read: disk gone");
        assert_eq!(failure.status, CULET_ERR_IO);
    }

    #[test]
    fn callers_may_be_older_but_not_newer() {
        for (version, fits) in
            [(1000, true), (1001, true), (1002, false), (0, false), (2000, false)]
        {
            assert_eq!(check_abi(version).is_ok(), fits, "{version}");
        }
        assert_eq!(check_abi(u32::MAX).expect_err("too new").status, CULET_ERR_ABI);
    }
}
