//! Events of a spoken conversation, as views.
//!
//! In: events of the library. Out: `culet_assistant_event`s, one a poll.
//! Invariant: a view's bytes stay until the next call on the assistant.

use std::collections::VecDeque;
use std::ffi::c_char;

use culet::Frame;
use culet::assistant::State;
use culet::assistant::TalkEvent;

/// Something was computed; poll again at once.
pub const CULET_SPOKEN_NONE: i32 = 0;
/// There is nothing to do until more sound, a word of the host or time comes.
pub const CULET_SPOKEN_IDLE: i32 = 1;
/// `state` is another than before.
pub const CULET_SPOKEN_STATE: i32 = 2;
/// The user begins to speak, at `from_s`.
pub const CULET_SPOKEN_SPEECH: i32 = 3;
/// A picture of `n_tokens` was put before what the user says.
pub const CULET_SPOKEN_LOOKED: i32 = 4;
/// The end of the turn is guessed, and an answer begun that nobody hears yet.
pub const CULET_SPOKEN_GUESS: i32 = 5;
/// The user goes on; the guessed answer is dropped, `n_tokens` were computed in vain.
pub const CULET_SPOKEN_TAKEN_BACK: i32 = 6;
/// What was heard was no turn, or it was forgotten.
pub const CULET_SPOKEN_DISCARDED: i32 = 7;
/// The user's turn is over; its sound went from `from_s` to `to_s`.
pub const CULET_SPOKEN_TURN: i32 = 8;
/// The first token of an answer is there.
pub const CULET_SPOKEN_FIRST_TOKEN: i32 = 9;
/// Show this piece of the answer `answer`, which ends at its byte `end_bytes`, and say it if
/// answers are spoken.
pub const CULET_SPOKEN_SAY: i32 = 10;
/// Be silent at once, and forget what was still to be said.
pub const CULET_SPOKEN_SILENCE: i32 = 11;
/// The model calls tools: `data` is a JSON array of objects of "name" and "arguments". Answer with
/// culet_assistant_results() or culet_assistant_leave_calls().
pub const CULET_SPOKEN_CALLS: i32 = 12;
/// The answer of `n_tokens` is complete or was interrupted.
pub const CULET_SPOKEN_END: i32 = 13;
/// Try to open the microphone, if it is not open; then CULET_TELL_MICROPHONE_BACK.
pub const CULET_SPOKEN_OPEN_MICROPHONE: i32 = 14;
/// The wake word was heard: what is said now, or was said behind it, is meant for the assistant.
pub const CULET_SPOKEN_WOKEN: i32 = 15;

/// Not listening; CULET_TELL_WAKE wakes it.
pub const CULET_STATE_ASLEEP: i32 = 0;
/// The microphone is gone and nothing is being said.
pub const CULET_STATE_DEAF: i32 = 1;
/// Waiting for the user.
pub const CULET_STATE_LISTENING: i32 = 2;
/// The user speaks.
pub const CULET_STATE_HEARING: i32 = 3;
/// The user pauses, and an answer is made unheard.
pub const CULET_STATE_GUESSING: i32 = 4;
/// The answer is made, spoken or both.
pub const CULET_STATE_ANSWERING: i32 = 5;
/// Waiting for the wake word; CULET_TELL_WAKE makes it needless.
pub const CULET_STATE_UNCALLED: i32 = 6;

/// What a poll brings. Fields that its kind does not name are 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AssistantEvent {
    /// One of CULET_SPOKEN_.
    pub kind: i32,
    /// One of CULET_STATE_: where the conversation was when this happened.
    pub state: i32,
    /// Names an answer, for culet_assistant_played().
    pub answer: u32,
    /// A number of tokens.
    pub n_tokens: usize,
    /// A place in the answer's text.
    pub end_bytes: usize,
    /// Seconds from the start of the sound.
    pub from_s: f64,
    /// Seconds from the start of the sound.
    pub to_s: f64,
    /// UTF-8, with a zero behind it; never NULL. Valid until the next call on the same assistant.
    pub data: *const c_char,
    /// Bytes, without the zero.
    pub len: usize,
}

fn state_of(state: State, is_awake: bool) -> i32 {
    match state {
        State::Asleep => CULET_STATE_ASLEEP,
        State::Deaf => CULET_STATE_DEAF,
        State::Listening | State::Overhearing if !is_awake => CULET_STATE_UNCALLED,
        State::Listening | State::Overhearing => CULET_STATE_LISTENING,
        State::Hearing => CULET_STATE_HEARING,
        State::Guessing => CULET_STATE_GUESSING,
        State::Answering => CULET_STATE_ANSWERING,
    }
}

#[derive(Default)]
struct Queued {
    kind: i32,
    state: i32,
    answer: u32,
    n_tokens: usize,
    end_bytes: usize,
    times_s: [f64; 2],
    text: String,
}

impl Queued {
    fn new(event: TalkEvent<'_>) -> Option<Self> {
        let none = Self::default();
        Some(match event {
            TalkEvent::SpeechBegan { at_s, .. } => {
                Self { kind: CULET_SPOKEN_SPEECH, times_s: [at_s, 0.0], ..none }
            }
            TalkEvent::Looked { n_tokens } => Self { kind: CULET_SPOKEN_LOOKED, n_tokens, ..none },
            TalkEvent::EndGuessed => Self { kind: CULET_SPOKEN_GUESS, ..none },
            TalkEvent::TakenBack { n_wasted } => {
                Self { kind: CULET_SPOKEN_TAKEN_BACK, n_tokens: n_wasted, ..none }
            }
            TalkEvent::Discarded => Self { kind: CULET_SPOKEN_DISCARDED, ..none },
            TalkEvent::TurnEnded { from_s, to_s, .. } => {
                Self { kind: CULET_SPOKEN_TURN, times_s: [from_s, to_s], ..none }
            }
            TalkEvent::FirstToken => Self { kind: CULET_SPOKEN_FIRST_TOKEN, ..none },
            TalkEvent::Said { answer, text, end_bytes } => {
                Self { kind: CULET_SPOKEN_SAY, answer, end_bytes, text: text.to_owned(), ..none }
            }
            TalkEvent::Silence => Self { kind: CULET_SPOKEN_SILENCE, ..none },
            TalkEvent::AnswerEnded { n_tokens } => {
                Self { kind: CULET_SPOKEN_END, n_tokens, ..none }
            }
            TalkEvent::OpenMicrophone => Self { kind: CULET_SPOKEN_OPEN_MICROPHONE, ..none },
            TalkEvent::Woken => Self { kind: CULET_SPOKEN_WOKEN, ..none },
            // The new state says it.
            TalkEvent::Asleep => return None,
        })
    }
}

/// Events that were not polled yet.
pub(super) struct Events {
    waiting: VecDeque<Queued>,
    /// What the last view looks at.
    shown: Queued,
    state: i32,
    /// The newest picture that nobody looked at.
    pub(super) picture: Option<Frame>,
}

impl Events {
    pub(super) fn new() -> Self {
        let (waiting, shown) = (VecDeque::new(), Queued::default());
        Self { waiting, shown, state: CULET_STATE_LISTENING, picture: None }
    }

    pub(super) fn add(&mut self, event: TalkEvent<'_>) {
        if let TalkEvent::SpeechBegan { picture, .. } = event {
            picture.set(self.picture.take());
        }
        self.push(Queued::new(event));
    }

    pub(super) fn add_calls(&mut self, json: String) {
        self.push(Some(Queued { kind: CULET_SPOKEN_CALLS, text: json, ..Queued::default() }));
    }

    /// Notes where the conversation is, and whether what is said now needs no wake word.
    pub(super) fn see(&mut self, state: State, is_awake: bool) {
        let state = state_of(state, is_awake);
        if self.state != state {
            self.state = state;
            self.push(Some(Queued { kind: CULET_SPOKEN_STATE, ..Queued::default() }));
        }
    }

    fn push(&mut self, event: Option<Queued>) {
        self.waiting.extend(event.map(|event| Queued { state: self.state, ..event }));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Shows the oldest event, or whether there was something to do.
    pub(super) fn show(&mut self, has_worked: bool) -> AssistantEvent {
        let kind = if has_worked { CULET_SPOKEN_NONE } else { CULET_SPOKEN_IDLE };
        let none = Queued { kind, state: self.state, ..Queued::default() };
        self.shown = self.waiting.pop_front().unwrap_or(none);
        let shown = &mut self.shown;
        shown.text.push('\0');
        let [from_s, to_s] = shown.times_s;
        AssistantEvent {
            kind: shown.kind,
            state: shown.state,
            answer: shown.answer,
            n_tokens: shown.n_tokens,
            end_bytes: shown.end_bytes,
            from_s,
            to_s,
            data: shown.text.as_ptr().cast(),
            len: shown.text.len() - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_with_the_state_of_their_time() {
        let mut events = Events::new();
        let picture = std::cell::Cell::new(None);
        events.add(TalkEvent::SpeechBegan { at_s: 0.5, picture: &picture });
        events.see(State::Hearing, false);
        events.see(State::Hearing, true);
        events.add(TalkEvent::Asleep);
        events.add(TalkEvent::Said { answer: 3, text: "hé", end_bytes: 7 });
        let mut kinds = Vec::new();
        while !events.is_empty() {
            let shown = events.show(false);
            // SAFETY: `events` was not used since.
            let text = unsafe { std::ffi::CStr::from_ptr(shown.data) };
            assert_eq!(text.count_bytes(), shown.len);
            kinds.push((shown.kind, shown.state, shown.answer, shown.len));
        }
        let (listening, hearing) = (CULET_STATE_LISTENING, CULET_STATE_HEARING);
        let expected = [
            (CULET_SPOKEN_SPEECH, listening, 0, 0),
            (CULET_SPOKEN_STATE, hearing, 0, 0),
            (CULET_SPOKEN_SAY, hearing, 3, 3),
        ];
        assert_eq!(kinds, expected);
        assert_eq!(events.show(false).kind, CULET_SPOKEN_IDLE);
        assert_eq!(events.show(true).kind, CULET_SPOKEN_NONE);
    }
}
