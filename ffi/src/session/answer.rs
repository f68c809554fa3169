//! Prompts and the answers to them.
//!
//! In: the appended conversation. Out: events, logits, counts.

use crate::event::Event;
use crate::handle::Out;
use crate::session::object::Inner;
use crate::session::object::Session;
use crate::session::object::enter;
use crate::status::Error;
use crate::status::Failure;
use crate::status::Status;

/// What feeding a prompt took, in tokens.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Of the whole prompt.
    pub n_prompt: usize,
    /// Of these, kept from before.
    pub n_reused: usize,
}

impl From<culet::session::Stats> for Stats {
    fn from(stats: culet::session::Stats) -> Self {
        Self { n_prompt: stats.n_prompt, n_reused: stats.n_reused }
    }
}

/// Closes the user's turn and feeds what is new of the conversation; culet_session_next() answers.
/// An answer that was not pulled to its end counts as far as it came. `stats` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_prompt(
    session: *mut Session,
    stats: *mut Stats,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        let talk = inner.turns.closed()?;
        inner.events.clear();
        let fed = inner.session.prompt(&talk.conversation, &talk.media)?;
        inner.turns.begin_answer(talk);
        Ok(fed)
    };
    // SAFETY: the header's conditions.
    unsafe { feed(session, stats, err, body) }
}

/// Feeds a prompt and tells what it took.
///
/// # Safety
/// All are `NULL` or as the header asks.
pub(super) unsafe fn feed(
    session: *mut Session,
    stats: *mut Stats,
    err: *mut Error,
    body: impl FnOnce(&mut Inner) -> Result<culet::session::Stats, Failure>,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the caller vouches for it.
        let place = unsafe { Out::optional(stats, "stats") }?;
        let fed = body(inner)?;
        if let Some(place) = place {
            place.put(fed.into());
        }
        Ok(())
    };
    // SAFETY: the caller vouches for both.
    unsafe { enter(session, err, body) }
}

/// Computes at most one token and gives what it completed, CULET_EVENT_NONE if nothing. Call it
/// until CULET_EVENT_END; the answer is then part of the conversation. The event's data is valid
/// until the next call on the same session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_next(
    session: *mut Session,
    event: *mut Event,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the header asks for a place to write.
        let event = unsafe { Out::new(event, "event") }?;
        let Inner { session, turns, events, .. } = inner;
        if events.is_empty() {
            session.next(&mut |e| {
                events.add(&e);
                turns.add_answer(e);
            })?;
        }
        event.put(events.show());
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

/// Ends the answer here, for example because it is long enough; culet_session_next() then gives
/// what is left and CULET_EVENT_END. Without an answer it does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_cut(session: *mut Session, err: *mut Error) -> Status {
    let body = |inner: &mut Inner| {
        let Inner { session, turns, events, .. } = inner;
        if turns.is_answering() {
            session.cut(&mut |e| {
                events.add(&e);
                turns.add_answer(e);
            });
        }
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

/// Gives the logits behind the last token, one for each word of the vocabulary; none after
/// culet_session_clear(). They are those of the prompt until culet_session_next() is called. Valid
/// until the next call on the same session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_logits(
    session: *mut Session,
    data: *mut *const f32,
    n: *mut usize,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the header asks for places to write.
        let (data, n) = unsafe { (Out::new(data, "data")?, Out::new(n, "n")?) };
        let logits = inner.session.logits();
        data.put(logits.as_ptr());
        n.put(logits.len());
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}
