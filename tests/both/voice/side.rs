//! What can be done with a conversation by voice, whichever face of the library holds it.
//!
//! In: samples, pictures, keys, results of tools, time. Out: one event a poll.

use culet::Frame;
use culet::Pcm;
use culet::Result;
use culet::assistant::Input;
use culet::assistant::Mode;
use serde_json::Value;

/// How a conversation is held.
pub(crate) struct Manner<'a, E> {
    pub(crate) mode: Mode,
    /// Whether answers are spoken, and the user's voice interrupts them.
    pub(crate) is_aloud: bool,
    pub(crate) wake: Option<Wake<'a, E>>,
}

/// What must be heard first.
pub(crate) struct Wake<'a, E> {
    pub(crate) phrase: &'static str,
    /// Who listens for it; the engine that answers if there is none.
    pub(crate) listener: Option<&'a E>,
    pub(crate) follow_up_ms: u32,
}

impl<E> Manner<'_, E> {
    /// Returns one turn after another, shown and not spoken.
    pub(crate) fn plain() -> Self {
        Self { mode: Mode::Continuous, is_aloud: false, wake: None }
    }
}

/// Where a conversation is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Place {
    Asleep,
    Deaf,
    Uncalled,
    Listening,
    Hearing,
    Guessing,
    Answering,
}

/// What a poll brings.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Spoken {
    /// Something was computed.
    Nothing,
    /// There was nothing to do.
    Idle,
    /// The place is another than before.
    Place,
    Speech {
        from_s: f64,
    },
    Looked {
        n_tokens: usize,
    },
    Guess,
    TakenBack {
        n_tokens: usize,
    },
    Discarded,
    Turn {
        from_s: f64,
        to_s: f64,
    },
    FirstToken,
    Say {
        answer: u32,
        text: String,
        end_bytes: usize,
    },
    Silence,
    Calls(Value),
    End {
        n_tokens: usize,
    },
    OpenMicrophone,
    Woken,
}

/// Most tokens of an answer, and of a picture.
pub(crate) const TOKENS_MAX: (usize, u32) = (40, 70);

/// One face of a conversation by voice.
pub(crate) trait Voice: Sized {
    type Engine;

    /// Begins one with the messages and tools of `opening`.
    fn new(
        engine: &Self::Engine,
        manner: &Manner<'_, Self::Engine>,
        opening: &Value,
        now_ns: u64,
    ) -> Result<Self>;
    fn push(&mut self, pcm: &Pcm) -> Result<()>;
    fn show(&mut self, frame: &Frame) -> Result<()>;
    /// Tells of a key, a device, or how far the voice is, behind all the sound that was pushed.
    fn tell(&mut self, now_ns: u64, input: Input) -> Result<()>;
    fn results(&mut self, now_ns: u64, results: &Value) -> Result<()>;
    fn leave_calls(&mut self, now_ns: u64) -> Result<()>;
    /// Returns the oldest event, or does one piece of work; and where the conversation was then.
    fn poll(&mut self, now_ns: u64) -> Result<(Place, Spoken)>;
    fn conversation(&mut self) -> Value;
    /// Stops the next call that computes.
    fn cancel(&self);
}
