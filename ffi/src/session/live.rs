//! Sound that is heard while it is spoken.
//!
//! In: samples in packets of any size. Out: a prompt that is ready the moment the sound ends.

use crate::handle::Out;
use crate::media;
use crate::session::answer::Stats;
use crate::session::answer::feed;
use crate::session::object::Inner;
use crate::session::object::Session;
use crate::session::object::enter;
use crate::status::Error;
use crate::status::Status;

/// Begins a sound that is heard while it is spoken. It fills the last place of the messages, or
/// else joins the user's turn. Until it ended or was dropped, nothing else can be appended.
/// `stats` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_begin_sound(
    session: *mut Session,
    stats: *mut Stats,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        let talk = inner.turns.with_sound()?;
        inner.events.clear();
        let fed = inner.session.begin_sound(&talk.conversation, &talk.media)?;
        inner.turns.begin_sound(talk);
        Ok(fed)
    };
    // SAFETY: the header's conditions.
    unsafe { feed(session, stats, err, body) }
}

/// Hears `n` more samples, one channel: they are encoded and fed at once. Packets may have any
/// size, and give the same as the whole sound at once; all have the same rate. A guess is taken
/// back. If the computation fails, the sound is dropped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_hear(
    session: *mut Session,
    pcm: *const f32,
    n: usize,
    rate_hz: u32,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        inner.check_sound()?;
        // SAFETY: the header asks for `n` samples.
        let pcm = unsafe { media::sound(pcm, n, rate_hz) }?;
        inner.forget_guess();
        let heard = inner.session.hear(&pcm);
        inner.or_drop_sound(heard)
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

/// Guesses that the speaker has ended, so that the answer can be computed during the pause:
/// culet_session_next() answers. culet_session_end_sound() makes the guess true;
/// culet_session_hear() and culet_session_take_back() undo it without a trace.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_guess_end(session: *mut Session, err: *mut Error) -> Status {
    let body = |inner: &mut Inner| {
        inner.check_sound()?;
        inner.session.guess_end()?;
        inner.events.clear();
        inner.turns.guess();
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

/// Takes a guess back, with the answer so far. Without a guess it does nothing. `n_wasted`, which
/// may be NULL, is how many tokens were computed in vain.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_take_back(
    session: *mut Session,
    n_wasted: *mut usize,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        inner.check_sound()?;
        // SAFETY: the header asks for `NULL` or a place to write.
        let place = unsafe { Out::optional(n_wasted, "n_wasted") }?;
        let n = inner.session.take_back()?;
        inner.forget_guess();
        if let Some(place) = place {
            place.put(n);
        }
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

/// Ends the sound; culet_session_next() answers, or goes on with the answer that was guessed. If
/// it fails, the sound is dropped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_end_sound(session: *mut Session, err: *mut Error) -> Status {
    let body = |inner: &mut Inner| {
        inner.check_sound()?;
        match inner.session.end_sound() {
            Ok(encoded) => inner.turns.end_sound(encoded),
            Err(e) => return inner.or_drop_sound(Err(e)),
        }
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

/// Forgets the sound that is being heard, as if it had not begun; what was appended before stays.
/// Without one it does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_drop_sound(
    session: *mut Session,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| inner.drop_sound();
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}
