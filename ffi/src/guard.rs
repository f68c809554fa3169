//! The panic boundary, and objects that are used by one thread at a time.
//!
//! In: the body of a call. Out: its status. No panic leaves the library, and an object in which
//! one happened answers `CULET_ERR_PANIC` until it is freed.

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::TryLockError;

use crate::status::CULET_ERR_BUSY;
use crate::status::CULET_ERR_PANIC;
use crate::status::CULET_OK;
use crate::status::Error;
use crate::status::Failure;
use crate::status::Status;

/// Runs the body of a call and tells `err`, unless it is `NULL`, why it failed.
///
/// # Safety
/// `err` is `NULL` or can be written.
pub(crate) unsafe fn enter(err: *mut Error, body: impl FnOnce() -> Result<(), Failure>) -> Status {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return CULET_OK,
        Ok(Err(failure)) => failure,
        Err(payload) => {
            // The payload may panic in turn while it is dropped.
            std::mem::forget(payload);
            broken("this call")
        }
    };
    if !err.is_null() && err.is_aligned() {
        // SAFETY: it is not `NULL`, and the caller vouches for the rest.
        unsafe { err.write(failure.to_error()) };
    }
    failure.status
}

/// Runs what cannot fail; a panic is kept from leaving the library.
pub(crate) fn quietly(body: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(body)) {
        std::mem::forget(payload);
    }
}

fn broken(when: &str) -> Failure {
    Failure::new(
        CULET_ERR_PANIC,
        format!("an invariant of the library broke in {when}; free the object and report it"),
    )
}

/// A value that one call at a time uses, until one panics.
pub(crate) struct Guarded<T>(Mutex<T>);

impl<T> Guarded<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Gives the value to one call; a second one at the same time is refused, not undefined.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, T>, Failure> {
        self.0.try_lock().map_err(|e| match e {
            TryLockError::Poisoned(_) => broken("an earlier call"),
            TryLockError::WouldBlock => Failure::new(
                CULET_ERR_BUSY,
                "another thread is inside a call on this object; let one at a time use it",
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(value: &Guarded<u32>, body: impl FnOnce(&mut u32)) -> (Status, Error) {
        let mut error = Failure::input("").to_error();
        let call = || {
            body(&mut *value.lock()?);
            Ok(())
        };
        // SAFETY: `error` is a live variable.
        let status = unsafe { enter(&raw mut error, call) };
        (status, error)
    }

    #[test]
    fn an_object_that_panicked_stays_broken() {
        let value = Guarded::new(1);
        assert_eq!(run(&value, |v| *v += 1).0, CULET_OK);
        let (status, error) = run(&value, |_| panic!("on purpose"));
        assert_eq!((status, error.status), (CULET_ERR_PANIC, CULET_ERR_PANIC));
        assert_eq!(run(&value, |v| *v += 1).0, CULET_ERR_PANIC);
        quietly(|| panic!("on purpose"));
    }

    #[test]
    fn a_second_user_is_refused() {
        let value = Guarded::new(1);
        let held = value.lock().expect("free");
        assert_eq!(run(&value, |v| *v += 1).0, CULET_ERR_BUSY);
        drop(held);
        assert_eq!(run(&value, |v| *v += 1).0, CULET_OK);
    }

    #[test]
    fn no_error_wanted_is_fine() {
        // SAFETY: `NULL` is allowed.
        let status = unsafe { enter(std::ptr::null_mut(), || Err(Failure::null("x"))) };
        assert_eq!(status, crate::status::CULET_ERR_NULL);
    }
}
