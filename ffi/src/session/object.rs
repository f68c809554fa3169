//! A session: made, asked, stopped, taken back, saved and freed.
//!
//! In: an engine, options, snapshots. Out: the object that the other calls work on.
//! Invariant: the cancel flag is a shared one, so that cancelling never touches what computes.

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use culet::ggml::Cancel;
use culet::session::Restored;
use serde_json::Value;
use serde_json::json;

use crate::engine::Engine;
use crate::event::Events;
use crate::guard;
use crate::guard::Guarded;
use crate::handle;
use crate::handle::Out;
use crate::session::option::SessionOptions;
use crate::session::turn::Turns;
use crate::status::CULET_ERR_CANCELLED;
use crate::status::Error;
use crate::status::Failure;
use crate::status::Status;

/// One conversation. One thread at a time uses it, and it may move between threads;
/// culet_session_cancel() is the call made for another thread. Two threads inside it at once get
/// CULET_ERR_BUSY.
pub struct Session {
    inner: Guarded<Inner>,
    cancel: Cancel,
    n_past: AtomicUsize,
    n_ctx: usize,
}

pub(super) struct Inner {
    pub(super) session: culet::session::Session,
    pub(super) turns: Turns,
    pub(super) events: Events,
    /// What the last view of a snapshot looks at.
    snapshot: Vec<u8>,
}

/// Makes an empty session. NULL options mean the default values. Free it with
/// culet_session_free(); it keeps what it needs of the engine, which may be freed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_new(
    engine: *const Engine,
    options: *const SessionOptions,
    session: *mut *mut Session,
    err: *mut Error,
) -> Status {
    // SAFETY: the header asks for a live engine, live options, and a place to write.
    unsafe {
        guard::enter(err, || {
            let engine = handle::borrow(engine, "engine")?;
            let options = handle::options(options, "options", |o: &SessionOptions| &o.0)?;
            let place = Out::new(session, "session")?;
            let session = culet::session::Session::new(engine.shared(), &options)?;
            let (cancel, n_ctx) = (session.cancel().clone(), session.n_ctx());
            let (turns, events) = (Turns::new(), Events::new());
            let inner = Inner { session, turns, events, snapshot: Vec::new() };
            let (inner, n_past) = (Guarded::new(inner), AtomicUsize::new(0));
            place.give(Session { inner, cancel, n_past, n_ctx });
            Ok(())
        })
    }
}

/// Takes a session back. NULL is fine. No other thread may be inside a call on it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_free(session: *mut Session) {
    // SAFETY: the header asks for a session that `_new` gave and nobody took.
    unsafe { handle::take(session) }
}

/// Runs a call on a session; a request to cancel is spent by the call that it stops.
///
/// # Safety
/// Both are `NULL` or as the header asks.
pub(super) unsafe fn enter(
    session: *mut Session,
    err: *mut Error,
    body: impl FnOnce(&mut Inner) -> Result<(), Failure>,
) -> Status {
    // SAFETY: the caller vouches for both.
    unsafe {
        guard::enter(err, || {
            let session = handle::borrow(session.cast_const(), "session")?;
            let mut inner = session.inner.lock()?;
            // The last view is valid during this call, which may restore from it.
            let _view = std::mem::take(&mut inner.snapshot);
            let result = body(&mut inner);
            session.n_past.store(inner.session.n_past(), Ordering::Relaxed);
            if result.as_ref().is_err_and(|f| f.status == CULET_ERR_CANCELLED) {
                session.cancel.reset();
            }
            result
        })
    }
}

/// Stops the call that computes in this session now, or else the next one that computes, with
/// CULET_ERR_CANCELLED; the request is then spent. The stopped call can be repeated: an answer
/// goes on, a prompt keeps what was fed. Any thread, at any time before the session is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_cancel(session: *const Session) {
    // SAFETY: the header asks for `NULL` or a live session.
    if let Ok(session) = unsafe { handle::borrow(session, "session") } {
        session.cancel.cancel();
    }
}

/// Returns how many tokens the session holds; 0 for NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_n_past(session: *const Session) -> usize {
    // SAFETY: the header asks for `NULL` or a live session.
    unsafe { handle::borrow(session, "session") }.map_or(0, |s| s.n_past.load(Ordering::Relaxed))
}

/// Returns how many tokens the session can hold; 0 for NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_n_ctx(session: *const Session) -> usize {
    // SAFETY: the header asks for `NULL` or a live session.
    unsafe { handle::borrow(session, "session") }.map_or(0, |s| s.n_ctx)
}

/// Forgets the conversation, and a request to cancel that stopped nothing yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_clear(session: *mut Session, err: *mut Error) -> Status {
    let body = |inner: &mut Inner| {
        inner.session.clear()?;
        inner.session.cancel().reset();
        (inner.turns, inner.events) = (Turns::new(), Events::new());
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

/// Takes the conversation back to its first `n_messages`, as culet_session_n_messages() counts
/// them, and forgets what was appended behind. The next prompt keeps what it can of the cache.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_rewind(
    session: *mut Session,
    n_messages: usize,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        inner.turns.rewind(n_messages)?;
        inner.session.cut(&mut |_| {});
        inner.events.clear();
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

/// Gives how many messages the conversation has: an answer is one as soon as it has begun, the
/// user's turn when it is closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_n_messages(
    session: *mut Session,
    n: *mut usize,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the header asks for a place to write.
        let n = unsafe { Out::new(n, "n") }?;
        n.put(inner.turns.n_messages());
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

/// Gives the session as bytes, with which culet_session_restore() goes on exactly where it was,
/// also in the middle of an answer. They hold what was said, in the open: keep them as private as
/// that. Valid until the next call on the same session. Not while a sound is being heard.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_snapshot(
    session: *mut Session,
    data: *mut *const u8,
    size_bytes: *mut usize,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the header asks for places to write.
        let (data, size) =
            unsafe { (Out::new(data, "data")?, Out::new(size_bytes, "size_bytes")?) };
        let (turns, media) = inner.turns.saved()?;
        let note = json!({ "turns": turns, "events": inner.events.to_json() }).to_string();
        let mut bytes = Vec::new();
        inner.session.snapshot(&media, note.as_bytes(), &mut |more| {
            bytes.extend_from_slice(more);
            Ok(())
        })?;
        inner.snapshot = bytes;
        data.put(inner.snapshot.as_ptr());
        size.put(inner.snapshot.len());
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

/// Takes over what culet_session_snapshot() gave, in place of what the session holds. Model,
/// mmproj, size and cache type must be those of the session that gave it; its options of sampling
/// stay its own, but random numbers go on where they were. If it fails, the session is as it was.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_restore(
    session: *mut Session,
    data: *const u8,
    size_bytes: usize,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the header asks for that many bytes.
        let bytes = unsafe { handle::slice(data, size_bytes, "data") }?;
        let read = |restored: Restored| {
            let broken = |_| culet::Error::format("the snapshot was not made by this interface");
            let note: Value = serde_json::from_slice(&restored.note).map_err(broken)?;
            let turns = Turns::restored(&note["turns"], restored.media)?;
            Ok((turns, Events::from_json(&note["events"])?))
        };
        (inner.turns, inner.events) = inner.session.restore(&mut Cursor::new(bytes), read)?;
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

impl Inner {
    pub(super) fn check_sound(&self) -> Result<(), Failure> {
        match self.turns.is_hearing() {
            true => Ok(()),
            false => Err(Failure::input("no sound was begun")),
        }
    }

    pub(super) fn forget_guess(&mut self) {
        self.turns.take_back();
        self.events.clear();
    }

    pub(super) fn drop_sound(&mut self) -> Result<(), Failure> {
        if self.turns.is_hearing() {
            self.turns.drop_sound();
            self.events.clear();
            self.session.drop_sound()?;
        }
        Ok(())
    }

    pub(super) fn or_drop_sound(&mut self, result: culet::Result<()>) -> Result<(), Failure> {
        if result.is_err() {
            self.drop_sound()?;
        }
        Ok(result?)
    }
}

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Session>();
    shared::<SessionOptions>();
    shared::<Arc<culet::engine::Engine>>();
};
