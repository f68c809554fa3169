//! Calls through the header: what they must answer.

use std::ffi::CStr;

use culet_c::status::*;

/// Runs a call and returns its status and message.
pub(crate) fn told(call: impl FnOnce(*mut Error) -> Status) -> (Status, String) {
    let mut error = Error { status: CULET_OK, message: [0; CULET_ERROR_MESSAGE_BYTES] };
    let status = call(&raw mut error);
    assert_eq!(status, error.status);
    let text = unsafe { CStr::from_ptr(error.message.as_ptr()) };
    (status, text.to_str().unwrap().to_owned())
}

/// Runs a call that must succeed.
#[track_caller]
pub(crate) fn ok(call: impl FnOnce(*mut Error) -> Status) {
    let (status, text) = told(call);
    assert_eq!(status, CULET_OK, "{text}");
}

/// Runs a call that must fail and returns what it says.
#[track_caller]
pub(crate) fn fails(expected: Status, call: impl FnOnce(*mut Error) -> Status) -> String {
    let (status, text) = told(call);
    assert_eq!(status, expected, "{text}");
    assert!(!text.is_empty() && !text.ends_with('.'), "{text:?}");
    text
}
