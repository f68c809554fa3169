//! Options of assistants.
//!
//! In: numbers of the host. Out: options, which a new assistant checks.

use std::ffi::c_char;
use std::sync::Arc;

use culet::assistant::BargeIn;
use culet::assistant::Lookout;
use culet::assistant::Mode;
use culet::assistant::Phrase;
use culet::assistant::TurnOptions;
use culet::session::Session;

use crate::engine::Engine;
use crate::guard;
use crate::guard::Guarded;
use crate::handle;
use crate::handle::Out;
use crate::status::Error;
use crate::status::Failure;
use crate::status::Status;

/// Turn after turn until told to stop; the default.
pub const CULET_MODE_CONTINUOUS: i32 = 0;
/// One question and its answer, then sleep.
pub const CULET_MODE_ONE_SHOT: i32 = 1;
/// From CULET_TELL_TALK_DOWN to CULET_TELL_TALK_UP.
pub const CULET_MODE_PUSH_TO_TALK: i32 = 2;

/// How a spoken conversation is held. One thread at a time uses it.
pub struct AssistantOptions(pub(super) Guarded<Options>);

#[derive(Clone)]
pub(super) struct Options {
    pub(super) turn: TurnOptions,
    pub(super) is_aloud: bool,
    pub(super) n_tokens_max: usize,
    pub(super) budget: u32,
    pub(super) wake: Option<Wake>,
}

/// What must be heard first, and which model listens for it; the assistant's own if there is none.
#[derive(Clone)]
pub(super) struct Wake {
    pub(super) phrase: Phrase,
    pub(super) listener: Option<Arc<culet::engine::Engine>>,
}

/// Gives options with default values. Free them with culet_assistant_options_free().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_options_new(
    options: *mut *mut AssistantOptions,
    err: *mut Error,
) -> Status {
    // SAFETY: the header asks for pointers that are `NULL` or can be written.
    unsafe {
        guard::enter(err, || {
            let options = Out::new(options, "options")?;
            options.give(AssistantOptions(Guarded::new(Options::default())));
            Ok(())
        })
    }
}

/// Takes options back. NULL is fine. Assistants that were made with them are not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_options_free(options: *mut AssistantOptions) {
    // SAFETY: the header asks for options that `_new` gave and nobody took.
    unsafe { handle::take(options) }
}

/// Sets when the microphone counts: one of CULET_MODE_.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_options_set_mode(
    options: *mut AssistantOptions,
    mode: i32,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        o.turn.mode = match mode {
            CULET_MODE_CONTINUOUS => Mode::Continuous,
            CULET_MODE_ONE_SHOT => Mode::OneShot,
            CULET_MODE_PUSH_TO_TALK => Mode::PushToTalk,
            _ => {
                return Err(Failure::input(format!(
                    "mode {mode}, expected {CULET_MODE_CONTINUOUS} to {CULET_MODE_PUSH_TO_TALK}"
                )));
            }
        };
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets the silence that ends a turn, and the silence after which an answer is begun unheard (0:
/// never), in milliseconds. The defaults are 700 and 250.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_options_set_silence(
    options: *mut AssistantOptions,
    end_ms: u32,
    guess_ms: u32,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        (o.turn.end_silence_ms, o.turn.guess_silence_ms) = (end_ms, guess_ms);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets whether answers are spoken. If so, culet_assistant_played() must tell how far, and what is
/// heard meanwhile is ignored, unless `barge_in` lets the user's voice interrupt; that needs
/// headphones or echo cancellation. If not, which is the default, showing is speaking.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_options_set_aloud(
    options: *mut AssistantOptions,
    is_aloud: bool,
    barge_in: bool,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        o.is_aloud = is_aloud;
        o.turn.barge_in = if barge_in { BargeIn::Voice } else { BargeIn::Key };
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets the most tokens of an answer, and of a picture: 70, 140, 280, 560 or 1120. The defaults
/// are 512 and 70.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_options_set_tokens_max(
    options: *mut AssistantOptions,
    n_answer: usize,
    n_picture: u32,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        if n_answer == 0 {
            return Err(Failure::input("an answer of 0 tokens, expected at least 1"));
        }
        // Any size tells whether there is such a budget.
        culet::frontend::pixels::target_size(48, 48, n_picture)?;
        (o.n_tokens_max, o.budget) = (n_answer, n_picture);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets the wake word, a phrase of one to eight words: nothing is answered but what begins with
/// it, or follows it within 8 s, or an answer within `follow_up_ms` (0: never). `listener` writes
/// down what is said until the phrase is heard, and needs an encoder for sounds; a small model
/// saves power, but must know the words. NULL means the assistant's own engine. The options keep
/// what they need of it. Before the phrase was heard the assistant's own model is given nothing.
/// Case and punctuation do not count. A NULL phrase, the default, means that none is needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_assistant_options_set_wake(
    options: *mut AssistantOptions,
    phrase: *const c_char,
    listener: *const Engine,
    follow_up_ms: u32,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        o.wake = match phrase.is_null() {
            true => None,
            // SAFETY: the header asks for a text that ends with a zero, and `NULL` or an engine.
            false => Some(unsafe { Wake::new(phrase, listener) }?),
        };
        (o.turn.needs_phrase, o.turn.follow_up_ms) = (o.wake.is_some(), follow_up_ms);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

impl Wake {
    /// # Safety
    /// Both are `NULL` or as the header asks.
    unsafe fn new(phrase: *const c_char, listener: *const Engine) -> Result<Self, Failure> {
        // SAFETY: the caller vouches for both.
        unsafe {
            let phrase = Phrase::new(handle::text(phrase, "phrase")?)?;
            let listener = match listener.is_null() {
                true => None,
                false => Some(Arc::clone(handle::borrow(listener, "listener")?.shared())),
            };
            Ok(Self { phrase, listener })
        }
    }

    /// Begins to listen, beside an engine that answers.
    pub(super) fn lookout(self, own: &Arc<culet::engine::Engine>) -> Result<Lookout, Failure> {
        let small = self.listener.as_ref().unwrap_or(own);
        let options = Lookout::options(small.decoder().hparams().n_ctx_train);
        Ok(Lookout::new(Session::new(small, &options)?, self.phrase)?)
    }
}

impl Default for Options {
    fn default() -> Self {
        let (turn, wake) = (TurnOptions::default(), None);
        Self { turn, is_aloud: false, n_tokens_max: 512, budget: 70, wake }
    }
}
