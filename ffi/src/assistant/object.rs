//! An assistant: made, told, polled and freed.
//!
//! In: samples, pictures, time, keys, what was played, results of tools. Out: events, one a poll.
//! Invariant: no clock, device or thread; a poll hears one block of sound or makes one token.

use std::ffi::c_char;

use culet::Pcm;
use culet::assistant::Input;
use culet::assistant::Key;
use culet::assistant::Talk;
use culet::assistant::TalkEvent;
use culet::assistant::TalkSink;
use culet::ggml::Cancel;
use culet::text::Content;
use culet::text::Conversation;
use serde_json::Value;

use crate::assistant::event::AssistantEvent;
use crate::assistant::event::Events;
use crate::assistant::option::AssistantOptions;
use crate::engine::Engine;
use crate::guard;
use crate::guard::Guarded;
use crate::handle;
use crate::handle::Out;
use crate::media;
use crate::session::option::SessionOptions;
use crate::status::Error;
use crate::status::Failure;
use crate::status::Status;

/// The push-to-talk key goes down.
pub const CULET_TELL_TALK_DOWN: i32 = 0;
/// The push-to-talk key comes up.
pub const CULET_TELL_TALK_UP: i32 = 1;
/// My turn is over, do not wait for silence.
pub const CULET_TELL_END_TURN: i32 = 2;
/// Stop what you are saying, or forget what I am saying.
pub const CULET_TELL_INTERRUPT: i32 = 3;
/// Stop listening.
pub const CULET_TELL_SLEEP: i32 = 4;
/// Listen again; what is said then needs no wake word.
pub const CULET_TELL_WAKE: i32 = 5;
/// The microphone is gone; CULET_SPOKEN_OPEN_MICROPHONE tells when to try it again.
pub const CULET_TELL_MICROPHONE_LOST: i32 = 6;
/// The microphone is open again.
pub const CULET_TELL_MICROPHONE_BACK: i32 = 7;
/// The speaker is gone; answers are only shown.
pub const CULET_TELL_SPEAKER_LOST: i32 = 8;
/// The speaker is open again.
pub const CULET_TELL_SPEAKER_BACK: i32 = 9;

/// Most sound that may wait to be heard, in seconds.
const WAITING_S_MAX: f64 = 60.0;

/// A conversation by voice. It finds out who speaks when; the host owns microphone, camera, voice
/// and clock. One thread at a time uses it, and it may move between threads;
/// culet_assistant_cancel() is the call made for another thread. Two threads inside it at once get
/// CULET_ERR_BUSY. Each `now_ns` is a time in nanoseconds on the host's own clock, which may begin
/// anywhere and does not run backwards.
pub struct Assistant {
    inner: Guarded<Inner>,
    cancels: Vec<Cancel>,
}

struct Inner {
    talk: Talk,
    events: Events,
    /// Whether the calls that wait were told.
    has_told_calls: bool,
    /// The conversation as JSON, for the last view of it.
    written: String,
    /// Of the session that answers, and of the one that overhears.
    cancels: Vec<Cancel>,
}

/// Makes an assistant with a session of its own; NULL options mean the default values. `messages`
/// is what was said before, as for culet_session_append_messages() but without media: instructions
/// and tools, for example; NULL if nothing. Free it with culet_assistant_free(); it keeps what it
/// needs of the engine, which may be freed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_new(
    engine: *const Engine,
    session_options: *const SessionOptions,
    options: *const AssistantOptions,
    messages: *const c_char,
    now_ns: u64,
    assistant: *mut *mut Assistant,
    err: *mut Error,
) -> Status {
    // SAFETY: the header asks for a live engine, live options, a text and a place to write.
    unsafe {
        guard::enter(err, || {
            let engine = handle::borrow(engine, "engine")?;
            let session_options =
                handle::options(session_options, "session_options", |o: &SessionOptions| &o.0)?;
            let options = handle::options(options, "options", |o: &AssistantOptions| &o.0)?;
            let opening = match messages.is_null() {
                true => Conversation::new(Vec::new()),
                false => opening(handle::text(messages, "messages")?)?,
            };
            let place = Out::new(assistant, "assistant")?;
            let session = culet::session::Session::new(engine.shared(), &session_options)?;
            let mut cancels = vec![session.cancel().clone()];
            let turn = options.turn.within(session.n_ctx());
            let answers = (options.is_aloud, options.n_tokens_max);
            let mut talk = Talk::new(session, opening, &turn, answers, now_ns)?;
            if engine.shared().sees() {
                talk.see(options.budget);
            }
            if let Some(wake) = options.wake {
                let lookout = wake.lookout(engine.shared())?;
                cancels.push(lookout.session().cancel().clone());
                talk.wake_by(lookout);
            }
            let (mut events, written) = (Events::new(), String::new());
            events.see(talk.state(), talk.is_awake());
            let all = cancels.clone();
            let inner = Inner { talk, events, has_told_calls: false, written, cancels: all };
            place.give(Assistant { inner: Guarded::new(inner), cancels });
            Ok(())
        })
    }
}

fn opening(json: &str) -> Result<Conversation, Failure> {
    let value: Value = serde_json::from_str(json)
        .map_err(|e| Failure::input(format!("messages are no JSON: {e}")))?;
    Ok(Conversation::from_json(&value)?)
}

/// Takes an assistant back. NULL is fine. No other thread may be inside a call on it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_free(assistant: *mut Assistant) {
    // SAFETY: the header asks for an assistant that `_new` gave and nobody took.
    unsafe { handle::take(assistant) }
}

/// Stops the call that computes in this assistant now, or else the next one that computes, with
/// CULET_ERR_CANCELLED; the request is then spent. The turn or answer under way is forgotten, what
/// was said before stays. To interrupt an answer, CULET_TELL_INTERRUPT is the gentler way. Any
/// thread, at any time before the assistant is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_cancel(assistant: *const Assistant) {
    // SAFETY: the header asks for `NULL` or a live assistant.
    if let Ok(assistant) = unsafe { handle::borrow(assistant, "assistant") } {
        assistant.cancels.iter().for_each(Cancel::cancel);
    }
}

/// Hands over `n_frames` samples of each of `n_channels` channels, side by side, nominally from -1
/// to 1, at any usual rate. Nothing is computed; culet_assistant_poll() hears them. At most a
/// minute may wait.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_push(
    assistant: *mut Assistant,
    pcm: *const f32,
    n_frames: usize,
    n_channels: u32,
    rate_hz: u32,
    err: *mut Error,
) -> Status {
    // SAFETY: the header's conditions.
    unsafe { push(assistant, (pcm, n_frames, n_channels), rate_hz, err, |sample| sample) }
}

/// The same for samples of 16 bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_push_i16(
    assistant: *mut Assistant,
    pcm: *const i16,
    n_frames: usize,
    n_channels: u32,
    rate_hz: u32,
    err: *mut Error,
) -> Status {
    let to_f32 = |sample: i16| f32::from(sample) / 32_768.0;
    // SAFETY: the header's conditions.
    unsafe { push(assistant, (pcm, n_frames, n_channels), rate_hz, err, to_f32) }
}

/// # Safety
/// All are `NULL` or as the header asks.
unsafe fn push<T: Copy>(
    assistant: *mut Assistant,
    (pcm, n_frames, n_channels): (*const T, usize, u32),
    rate_hz: u32,
    err: *mut Error,
    to_f32: fn(T) -> f32,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the caller vouches for the samples.
        let pcm = unsafe { media::mixed(pcm, (n_frames, n_channels), rate_hz, to_f32) }?;
        inner.push(&pcm)
    };
    // SAFETY: the caller vouches for both.
    unsafe { enter(assistant, err, body) }
}

/// Hands over the newest picture, as for culet_session_append_image(). Whenever the user begins to
/// speak, the newest one that differs from what was seen before goes in before the sound.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_show(
    assistant: *mut Assistant,
    rgb: *const u8,
    width: u32,
    height: u32,
    stride_bytes: usize,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the header asks for that many rows.
        inner.events.picture = Some(unsafe { media::frame(rgb, width, height, stride_bytes) }?);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(assistant, err, body) }
}

/// Tells what happened after all the sound that was pushed, which is heard first: one of
/// CULET_TELL_.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_tell(
    assistant: *mut Assistant,
    now_ns: u64,
    what: i32,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        let input = input(what)?;
        inner.work(now_ns, |talk, events| {
            talk.listen_all(now_ns, events)?;
            talk.tell(now_ns, input, events)
        })
    };
    // SAFETY: the header's conditions.
    unsafe { enter(assistant, err, body) }
}

fn input(what: i32) -> Result<Input, Failure> {
    Ok(match what {
        CULET_TELL_TALK_DOWN => Input::Key(Key::TalkDown),
        CULET_TELL_TALK_UP => Input::Key(Key::TalkUp),
        CULET_TELL_END_TURN => Input::Key(Key::EndTurn),
        CULET_TELL_INTERRUPT => Input::Key(Key::Interrupt),
        CULET_TELL_SLEEP => Input::Key(Key::Sleep),
        CULET_TELL_WAKE => Input::Key(Key::Wake),
        CULET_TELL_MICROPHONE_LOST => Input::MicrophoneLost,
        CULET_TELL_MICROPHONE_BACK => Input::MicrophoneBack,
        CULET_TELL_SPEAKER_LOST => Input::SpeakerLost,
        CULET_TELL_SPEAKER_BACK => Input::SpeakerBack,
        _ => {
            return Err(Failure::input(format!(
                "what is {what}, expected {CULET_TELL_TALK_DOWN} to {CULET_TELL_SPEAKER_BACK}"
            )));
        }
    })
}

/// Tells how far the voice has said an answer: the `end_bytes` of a piece that is through, or a
/// place within. Only what was said stays in the conversation when the user interrupts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_played(
    assistant: *mut Assistant,
    now_ns: u64,
    answer: u32,
    to_bytes: usize,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        let input = Input::Played { answer, to_bytes };
        inner.work(now_ns, |talk, events| talk.tell(now_ns, input, events))
    };
    // SAFETY: the header's conditions.
    unsafe { enter(assistant, err, body) }
}

/// Hands over the results of the calls in order, as a JSON array: a text or an object each. The
/// answer goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_results(
    assistant: *mut Assistant,
    now_ns: u64,
    json: *const c_char,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the header asks for a text that ends with a zero.
        let json = unsafe { handle::text(json, "json") }?;
        let results: Vec<Value> = serde_json::from_str(json)
            .map_err(|e| Failure::input(format!("results are no JSON array: {e}")))?;
        let (n, n_calls) = (results.len(), inner.talk.calls().len());
        if n != n_calls || n == 0 {
            return Err(Failure::input(format!("{n} results, but {n_calls} calls wait")));
        }
        let content = |value| match value {
            Value::String(text) => Content::Text(text),
            other => Content::Value(other),
        };
        let results = results.into_iter().map(content).collect();
        inner.has_told_calls = false;
        inner.work(now_ns, |talk, _| talk.results(results))
    };
    // SAFETY: the header's conditions.
    unsafe { enter(assistant, err, body) }
}

/// Ends the answer at calls that nobody carries out. Without calls it does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_leave_calls(
    assistant: *mut Assistant,
    now_ns: u64,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        inner.has_told_calls = false;
        inner.work(now_ns, |talk, events| talk.leave_calls(now_ns, events))
    };
    // SAFETY: the header's conditions.
    unsafe { enter(assistant, err, body) }
}

/// Gives the oldest event. Without one it hears a block of sound that waits (16 ms) or makes a
/// token, and gives what came of it: CULET_SPOKEN_NONE if nothing yet, CULET_SPOKEN_IDLE if there
/// was nothing to do. After an error the turn or answer under way is forgotten, and the
/// conversation goes on. The event's data is valid until the next call on the same assistant.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_poll(
    assistant: *mut Assistant,
    now_ns: u64,
    event: *mut AssistantEvent,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the header asks for a place to write.
        let event = unsafe { Out::new(event, "event") }?;
        let has_worked = inner.events.is_empty() && inner.advance(now_ns)?;
        event.put(inner.events.show(has_worked));
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(assistant, err, body) }
}

/// Gives the conversation so far as JSON, as culet_session_append_messages() takes it; each sound
/// and picture is a place. Valid until the next call on the same assistant.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_conversation(
    assistant: *mut Assistant,
    data: *mut *const c_char,
    len: *mut usize,
    err: *mut Error,
) -> Status {
    let body = |inner: &mut Inner| {
        // SAFETY: the header asks for places to write.
        let (data, len) = unsafe { (Out::new(data, "data")?, Out::new(len, "len")?) };
        inner.written = inner.talk.conversation().to_json().to_string() + "\0";
        data.put(inner.written.as_ptr().cast());
        len.put(inner.written.len() - 1);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { enter(assistant, err, body) }
}

/// # Safety
/// Both are `NULL` or as the header asks.
unsafe fn enter(
    assistant: *mut Assistant,
    err: *mut Error,
    body: impl FnOnce(&mut Inner) -> Result<(), Failure>,
) -> Status {
    // SAFETY: the caller vouches for both.
    unsafe {
        guard::enter(err, || {
            let assistant = handle::borrow(assistant.cast_const(), "assistant")?;
            body(&mut *assistant.inner.lock()?)
        })
    }
}

impl Inner {
    fn push(&mut self, pcm: &Pcm) -> Result<(), Failure> {
        let (waiting_s, more_s) = (self.talk.waiting_s(), pcm.seconds());
        if waiting_s + more_s > WAITING_S_MAX {
            return Err(Failure::input(format!(
                "{waiting_s:.1} s of sound wait and {more_s:.1} s come, at most {WAITING_S_MAX} s \
                 may; poll first"
            )));
        }
        Ok(self.talk.push(pcm)?)
    }

    /// Does one piece of what waits, and tells calls once.
    fn advance(&mut self, now_ns: u64) -> Result<bool, Failure> {
        let mut has_worked = false;
        self.work(now_ns, |talk, events| {
            has_worked = talk.poll(now_ns, events)?;
            Ok(())
        })?;
        let calls = self.talk.calls();
        if !calls.is_empty() && !self.has_told_calls {
            let calls: Value = calls.iter().map(|call| call.to_json()).collect();
            self.events.add_calls(calls.to_string());
        }
        self.has_told_calls = !self.talk.calls().is_empty();
        Ok(has_worked)
    }

    /// Lets the talk do something; after an error it forgets the turn under way.
    fn work(
        &mut self,
        now_ns: u64,
        body: impl FnOnce(&mut Talk, &mut TalkSink<'_>) -> culet::Result<()>,
    ) -> Result<(), Failure> {
        let Self { talk, events, cancels, .. } = self;
        let mut add = |event: TalkEvent<'_>| {
            events.add(event);
            Ok(())
        };
        let result = body(talk, &mut add);
        if let Err(e) = &result {
            log::info!("the turn is forgotten: {e}");
            cancels.iter().for_each(Cancel::reset);
            if let Err(e) = talk.recover(now_ns, &mut add) {
                log::warn!("the conversation cannot go on yet: {e}");
            }
        }
        events.see(talk.state(), talk.is_awake());
        Ok(result?)
    }
}

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Assistant>();
    shared::<AssistantOptions>();
};
