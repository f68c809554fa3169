//! Sessions: one conversation each, fed by the host and pulled event by event.
//!
//! In: text, pixels, samples, messages. Out: events of answers.
//! Invariant: the cancel flag is a shared one, so that cancelling never touches what computes.

use std::ffi::c_char;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use culet::Frame;
use culet::Pcm;
use culet::ggml::Cancel;
use culet::ggml::DType;
use culet::session::SessionOptions as Options;

use crate::engine::Engine;
use crate::event::Event;
use crate::event::Events;
use crate::guard;
use crate::guard::Guarded;
use crate::handle;
use crate::handle::Out;
use crate::status::CULET_ERR_CANCELLED;
use crate::status::Error;
use crate::status::Failure;
use crate::status::Status;
use crate::turn::Turns;

/// Cache of 32-bit floats.
pub const CULET_CACHE_F32: i32 = 0;
/// Cache of 16-bit floats; the default.
pub const CULET_CACHE_F16: i32 = 1;
/// Cache of 8-bit blocks.
pub const CULET_CACHE_Q8_0: i32 = 2;

/// How a session is made. One thread at a time uses it.
pub struct SessionOptions(Guarded<Options>);

/// One conversation. One thread at a time uses it, and it may move between threads;
/// culet_session_cancel() is the call made for another thread. Two threads inside it at once get
/// CULET_ERR_BUSY.
pub struct Session {
    inner: Guarded<Inner>,
    cancel: Cancel,
    n_past: AtomicUsize,
    n_ctx: usize,
}

struct Inner {
    session: culet::session::Session,
    turns: Turns,
    events: Events,
}

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

/// Gives options with default values. Free them with culet_session_options_free().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_options_new(
    options: *mut *mut SessionOptions,
    err: *mut Error,
) -> Status {
    // SAFETY: the header asks for pointers that are `NULL` or can be written.
    unsafe {
        guard::enter(err, || {
            let options = Out::new(options, "options")?;
            options.give(SessionOptions(Guarded::new(Options::default())));
            Ok(())
        })
    }
}

/// Takes options back. NULL is fine. Sessions that were made with them are not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_options_free(options: *mut SessionOptions) {
    // SAFETY: the header asks for options that `_new` gave and nobody took.
    unsafe { handle::take(options) }
}

/// Sets the most tokens that a conversation may have, and the most that are computed at once.
/// culet_session_new() checks them. The defaults are 4096 and 512.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_options_set_size(
    options: *mut SessionOptions,
    n_ctx: usize,
    n_batch: usize,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        (o.n_ctx, o.n_batch) = (n_ctx, n_batch);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets the element type of the cache: one of CULET_CACHE_.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_options_set_cache(
    options: *mut SessionOptions,
    cache: i32,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        o.kv = match cache {
            CULET_CACHE_F32 => DType::F32,
            CULET_CACHE_F16 => DType::F16,
            CULET_CACHE_Q8_0 => DType::Q8_0,
            _ => {
                return Err(Failure::input(format!(
                    "cache type {cache}, expected {CULET_CACHE_F32} to {CULET_CACHE_Q8_0}"
                )));
            }
        };
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets how tokens are chosen: temperature (0 always takes the best token), top-k (0: all), top-p
/// (1: all), min-p (0: none). culet_session_new() checks them. The defaults are 1, 64, 0.95, 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_options_set_sampling(
    options: *mut SessionOptions,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        let s = &mut o.sampling;
        (s.temperature, s.top_k, s.top_p, s.min_p) = (temperature, top_k, top_p, min_p);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets where the random numbers begin: equal seeds give equal answers. The default is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_options_set_seed(
    options: *mut SessionOptions,
    seed: u64,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        o.sampling.seed = seed;
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets how repetition is discouraged among the last `n_last` tokens: a factor (1: not), and what
/// is taken off for each time and once. The defaults are 64, 1, 0, 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_options_set_penalties(
    options: *mut SessionOptions,
    n_last: usize,
    repetition: f32,
    frequency: f32,
    presence: f32,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        let s = &mut o.sampling;
        (s.penalty_last_n, s.repetition_penalty) = (n_last, repetition);
        (s.frequency_penalty, s.presence_penalty) = (frequency, presence);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
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
            let options = match options.is_null() {
                true => Options::default(),
                false => handle::borrow(options, "options")?.0.lock()?.clone(),
            };
            let place = Out::new(session, "session")?;
            let session = culet::session::Session::new(engine.shared(), &options)?;
            let (cancel, n_ctx) = (session.cancel().clone(), session.n_ctx());
            let inner = Inner { session, turns: Turns::new(), events: Events::new() };
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
unsafe fn enter(
    session: *mut Session,
    err: *mut Error,
    body: impl FnOnce(&mut Inner) -> Result<(), Failure>,
) -> Status {
    // SAFETY: the caller vouches for both.
    unsafe {
        guard::enter(err, || {
            let session = handle::borrow(session.cast_const(), "session")?;
            let mut inner = session.inner.lock()?;
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

/// Appends messages in the chat form, as JSON: an array of messages, one message, or an object of
/// "messages", "tools" and "thinking", each of them optional. A part of type "image" or "audio" is
/// a place: the media that were appended or are appended next fill the places in order.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_append_messages(
    session: *mut Session,
    json: *const c_char,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the header asks for a text that ends with a zero.
        let json = unsafe { handle::text(json, "json") }?;
        inner.turns.add_messages(json)
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

/// Appends words to the user's turn, which the next prompt closes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_append_text(
    session: *mut Session,
    text: *const c_char,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the header asks for a text that ends with a zero.
        let text = unsafe { handle::text(text, "text") }?;
        inner.turns.add_text(text)
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
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
    let body = |inner: &mut Inner| {
        inner.turns.check_no_sound()?;
        // SAFETY: the header asks for that many rows.
        let frame = unsafe { frame(rgb, width, height, stride_bytes) }?;
        let encoded = inner.session.encode_picture(&frame, budget)?;
        inner.turns.add_media(encoded);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

/// # Safety
/// `rgb` is `NULL` or points to `height` rows, `stride_bytes` apart, of `3 * width` bytes.
unsafe fn frame(
    rgb: *const u8,
    width: u32,
    height: u32,
    stride_bytes: usize,
) -> Result<Frame, Failure> {
    culet::media::check_size(width, height)?;
    // Sides are within 65,536 pixels here.
    let (row, n_rows) = (3 * width as usize, height as usize);
    if stride_bytes < row {
        return Err(Failure::input(format!(
            "rows of {width} pixels are {stride_bytes} bytes apart, expected at least {row}"
        )));
    }
    let size = stride_bytes.checked_mul(n_rows - 1).and_then(|b| b.checked_add(row));
    // SAFETY: the caller vouches for the rows; a length that overflows is refused.
    let bytes = unsafe { handle::slice(rgb, size.unwrap_or(usize::MAX), "rgb") }?;
    let rows = bytes.chunks(stride_bytes).flat_map(|r| &r[..row]);
    let mut packed = Vec::with_capacity(row * n_rows);
    packed.extend(rows);
    Ok(Frame::new(width, height, packed)?)
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
    let body = |inner: &mut Inner| {
        inner.turns.check_no_sound()?;
        // SAFETY: the header asks for `n` samples.
        let pcm = unsafe { sound(pcm, n, rate_hz) }?;
        let encoded = inner.session.encode_sound([Ok(pcm)])?;
        inner.turns.add_media(encoded);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

/// # Safety
/// `pcm` is `NULL` or points to `n` samples.
unsafe fn sound(pcm: *const f32, n: usize, rate_hz: u32) -> Result<Pcm, Failure> {
    culet::media::check_rate(rate_hz)?;
    // SAFETY: the caller vouches for it.
    let samples = unsafe { handle::slice(pcm, n, "pcm") }?;
    if let Some(index) = samples.iter().position(|s| !s.is_finite()) {
        return Err(Failure::input(format!("sample {index} of {n} is not a finite number")));
    }
    Ok(Pcm { samples: samples.to_vec(), rate_hz, captured_at_ns: 0 })
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
        // SAFETY: the header asks for `NULL` or a place to write.
        let place = unsafe { Out::optional(stats, "stats") }?;
        let talk = inner.turns.closed()?;
        inner.events.clear();
        let fed = inner.session.prompt(&talk.conversation, &talk.media)?;
        inner.turns.begin_answer(talk);
        if let Some(place) = place {
            place.put(fed.into());
        }
        Ok(())
    };
    // SAFETY: the header's conditions.
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
        let Inner { session, turns, events } = inner;
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
        let Inner { session, turns, events } = inner;
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
        // SAFETY: the header asks for `NULL` or a place to write.
        let place = unsafe { Out::optional(stats, "stats") }?;
        let talk = inner.turns.with_sound()?;
        inner.events.clear();
        let fed = inner.session.begin_sound(&talk.conversation, &talk.media)?;
        inner.turns.begin_sound(talk);
        if let Some(place) = place {
            place.put(fed.into());
        }
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
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
        let pcm = unsafe { sound(pcm, n, rate_hz) }?;
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
    let body = |inner: &mut Inner| {
        inner.drop_sound();
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(session, err, body) }
}

impl Inner {
    fn check_sound(&self) -> Result<(), Failure> {
        match self.turns.is_hearing() {
            true => Ok(()),
            false => Err(Failure::input("no sound was begun")),
        }
    }

    fn forget_guess(&mut self) {
        self.turns.take_back();
        self.events.clear();
    }

    fn drop_sound(&mut self) {
        if self.turns.is_hearing() {
            self.turns.drop_sound();
            self.events.clear();
        }
    }

    fn or_drop_sound(&mut self, result: culet::Result<()>) -> Result<(), Failure> {
        if result.is_err() {
            self.drop_sound();
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
