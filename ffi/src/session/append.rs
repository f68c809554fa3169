//! What is appended to a session's conversation.
//!
//! In: messages, words, pixels, samples. Out: a turn that the next prompt feeds.

use std::ffi::c_char;
use std::sync::Arc;

use culet::session::Encoded;

use crate::handle;
use crate::media;
use crate::session::object::Inner;
use crate::session::object::Session;
use crate::session::object::enter;
use crate::session::turn::Turns;
use crate::status::Error;
use crate::status::Failure;
use crate::status::Status;

/// Appends messages in the chat form, as JSON: an array of messages, one message, or an object of
/// "messages", "tools" and "thinking", each of them optional. A part of type "image" or "audio" is
/// a place: the media that were appended or are appended next fill the places in order.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_append_messages(
    session: *mut Session,
    json: *const c_char,
    err: *mut Error,
) -> Status {
    // SAFETY: the header's conditions.
    unsafe { append_words(session, (json, "json"), err, Turns::add_messages) }
}

/// Appends words to the user's turn, which the next prompt closes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_append_text(
    session: *mut Session,
    text: *const c_char,
    err: *mut Error,
) -> Status {
    // SAFETY: the header's conditions.
    unsafe { append_words(session, (text, "text"), err, Turns::add_text) }
}

/// Appends a picture: `height` rows of `width` pixels of 3 bytes (R, G, B) from the top, row after
/// row `stride_bytes` apart. It is encoded at once, to at most `budget` tokens: 70, 140, 280, 560
/// or 1120. It fills the next place that a message names, or else joins the user's turn.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_append_image(
    session: *mut Session,
    rgb: *const u8,
    width: u32,
    height: u32,
    stride_bytes: usize,
    budget: u32,
    err: *mut Error,
) -> Status {
    let encode = |session: &mut culet::session::Session| {
        // SAFETY: the header asks for that many rows.
        let frame = unsafe { media::frame(rgb, width, height, stride_bytes) }?;
        Ok(session.encode_picture(&frame, budget)?)
    };
    // SAFETY: the header's conditions.
    unsafe { append_media(session, err, encode) }
}

/// Appends a whole sound of `n` samples, one channel, at any usual rate. It is encoded at once and
/// fills the next place that a message names, or else joins the user's turn.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_append_audio(
    session: *mut Session,
    pcm: *const f32,
    n: usize,
    rate_hz: u32,
    err: *mut Error,
) -> Status {
    let encode = |session: &mut culet::session::Session| {
        // SAFETY: the header asks for `n` samples.
        let pcm = unsafe { media::sound(pcm, n, rate_hz) }?;
        Ok(session.encode_sound([Ok(pcm)])?)
    };
    // SAFETY: the header's conditions.
    unsafe { append_media(session, err, encode) }
}

/// Appends words that `add` puts into the conversation.
///
/// # Safety
/// All are `NULL` or as the header asks.
unsafe fn append_words(
    session: *mut Session,
    (words, name): (*const c_char, &str),
    err: *mut Error,
    add: fn(&mut Turns, &str) -> Result<(), Failure>,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the header asks for a text that ends with a zero.
        let words = unsafe { handle::text(words, name) }?;
        add(&mut inner.turns, words)
    };
    // SAFETY: the caller vouches for both.
    unsafe { enter(session, err, body) }
}

/// Appends what `encode` makes.
///
/// # Safety
/// Both are `NULL` or as the header asks.
unsafe fn append_media(
    session: *mut Session,
    err: *mut Error,
    encode: impl FnOnce(&mut culet::session::Session) -> Result<Arc<Encoded>, Failure>,
) -> Status {
    let body = |inner: &mut Inner| {
        inner.turns.check_no_sound()?;
        let encoded = encode(&mut inner.session)?;
        inner.turns.add_media(encoded);
        Ok(())
    };
    // SAFETY: the caller vouches for both.
    unsafe { enter(session, err, body) }
}
