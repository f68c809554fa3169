//! The side of C of a conversation by voice: an assistant behind its handle.
//!
//! In: the calls of a `Voice`. Out: what `culet_assistant_poll` and its like answer.

use std::ffi::CStr;
use std::ffi::CString;
use std::ptr::null;
use std::ptr::null_mut;

use culet::Frame;
use culet::Pcm;
use culet::Result;
use culet::assistant::Input;
use culet::assistant::Key;
use culet::assistant::Mode;
use culet_c::assistant::event::*;
use culet_c::assistant::object::*;
use culet_c::assistant::option::*;
use serde_json::Value;

use crate::both::voice::native::session_options;
use crate::both::voice::side::Manner;
use crate::both::voice::side::Place;
use crate::both::voice::side::Spoken;
use crate::both::voice::side::TOKENS_MAX;
use crate::both::voice::side::Voice;
use crate::call::ok;
use crate::side::CEngine;
use crate::side::checked;
use crate::side::with_options;

/// An assistant of C, which is freed with it.
pub(crate) struct CVoice(pub(crate) *mut Assistant);

impl Drop for CVoice {
    fn drop(&mut self) {
        unsafe { culet_assistant_free(self.0) };
    }
}

fn place_of(state: i32) -> Place {
    match state {
        CULET_STATE_ASLEEP => Place::Asleep,
        CULET_STATE_DEAF => Place::Deaf,
        CULET_STATE_LISTENING => Place::Listening,
        CULET_STATE_HEARING => Place::Hearing,
        CULET_STATE_GUESSING => Place::Guessing,
        CULET_STATE_ANSWERING => Place::Answering,
        CULET_STATE_UNCALLED => Place::Uncalled,
        _ => panic!("state {state}"),
    }
}

fn what_of(input: Input) -> i32 {
    match input {
        Input::Key(Key::TalkDown) => CULET_TELL_TALK_DOWN,
        Input::Key(Key::TalkUp) => CULET_TELL_TALK_UP,
        Input::Key(Key::EndTurn) => CULET_TELL_END_TURN,
        Input::Key(Key::Interrupt) => CULET_TELL_INTERRUPT,
        Input::Key(Key::Sleep) => CULET_TELL_SLEEP,
        Input::Key(Key::Wake) => CULET_TELL_WAKE,
        Input::MicrophoneLost => CULET_TELL_MICROPHONE_LOST,
        Input::MicrophoneBack => CULET_TELL_MICROPHONE_BACK,
        Input::SpeakerLost => CULET_TELL_SPEAKER_LOST,
        Input::SpeakerBack => CULET_TELL_SPEAKER_BACK,
        _ => panic!("no host tells that"),
    }
}

fn spoken_of(event: &AssistantEvent) -> Spoken {
    let text = unsafe { CStr::from_ptr(event.data) }.to_str().unwrap().to_owned();
    assert_eq!(text.len(), event.len);
    let &AssistantEvent { answer, n_tokens, end_bytes, from_s, to_s, .. } = event;
    match event.kind {
        CULET_SPOKEN_NONE => Spoken::Nothing,
        CULET_SPOKEN_IDLE => Spoken::Idle,
        CULET_SPOKEN_STATE => Spoken::Place,
        CULET_SPOKEN_SPEECH => Spoken::Speech { from_s },
        CULET_SPOKEN_LOOKED => Spoken::Looked { n_tokens },
        CULET_SPOKEN_GUESS => Spoken::Guess,
        CULET_SPOKEN_TAKEN_BACK => Spoken::TakenBack { n_tokens },
        CULET_SPOKEN_DISCARDED => Spoken::Discarded,
        CULET_SPOKEN_TURN => Spoken::Turn { from_s, to_s },
        CULET_SPOKEN_FIRST_TOKEN => Spoken::FirstToken,
        CULET_SPOKEN_SAY => Spoken::Say { answer, text, end_bytes },
        CULET_SPOKEN_SILENCE => Spoken::Silence,
        CULET_SPOKEN_CALLS => Spoken::Calls(serde_json::from_str(&text).unwrap()),
        CULET_SPOKEN_END => Spoken::End { n_tokens },
        CULET_SPOKEN_OPEN_MICROPHONE => Spoken::OpenMicrophone,
        CULET_SPOKEN_WOKEN => Spoken::Woken,
        kind => panic!("event {kind}"),
    }
}

/// Gives options to `make`, and takes them back.
fn with_manner<T>(
    manner: &Manner<'_, CEngine>,
    make: impl FnOnce(*const AssistantOptions) -> T,
) -> T {
    let mut options = null_mut();
    let mode = match manner.mode {
        Mode::Continuous => CULET_MODE_CONTINUOUS,
        Mode::OneShot => CULET_MODE_ONE_SHOT,
        Mode::PushToTalk => CULET_MODE_PUSH_TO_TALK,
    };
    let (aloud, (n_answer, n_picture)) = (manner.is_aloud, TOKENS_MAX);
    ok(|e| unsafe { culet_assistant_options_new(&raw mut options, e) });
    ok(|e| unsafe { culet_assistant_options_set_mode(options, mode, e) });
    ok(|e| unsafe { culet_assistant_options_set_aloud(options, aloud, aloud, e) });
    ok(|e| unsafe { culet_assistant_options_set_tokens_max(options, n_answer, n_picture, e) });
    if let Some(wake) = &manner.wake {
        let phrase = CString::new(wake.phrase).unwrap();
        let listener = wake.listener.map_or(null(), |engine| engine.0.cast_const());
        ok(|e| unsafe {
            let (phrase, follow_up_ms) = (phrase.as_ptr(), wake.follow_up_ms);
            culet_assistant_options_set_wake(options, phrase, listener, follow_up_ms, e)
        });
    }
    let result = make(options);
    unsafe { culet_assistant_options_free(options) };
    result
}

impl Voice for CVoice {
    type Engine = CEngine;

    fn new(
        engine: &Self::Engine,
        manner: &Manner<'_, Self::Engine>,
        opening: &Value,
        now_ns: u64,
    ) -> Result<Self> {
        let opening = CString::new(opening.to_string()).unwrap();
        let mut assistant = null_mut();
        let made = with_options(&session_options(), |session| {
            with_manner(manner, |options| {
                checked(|e| unsafe {
                    let (engine, messages, place) =
                        (engine.0, opening.as_ptr(), &raw mut assistant);
                    culet_assistant_new(engine, session, options, messages, now_ns, place, e)
                })
            })
        });
        made.map(|()| Self(assistant))
    }

    fn push(&mut self, pcm: &Pcm) -> Result<()> {
        let (samples, n) = (pcm.samples.as_ptr(), pcm.samples.len());
        checked(|e| unsafe { culet_assistant_push(self.0, samples, n, 1, pcm.rate_hz, e) })
    }

    fn show(&mut self, frame: &Frame) -> Result<()> {
        let (rgb, (width, height)) = (frame.rgb().as_ptr(), (frame.width(), frame.height()));
        let stride = 3 * width as usize;
        checked(|e| unsafe { culet_assistant_show(self.0, rgb, width, height, stride, e) })
    }

    fn tell(&mut self, now_ns: u64, input: Input) -> Result<()> {
        if let Input::Played { answer, to_bytes } = input {
            return checked(|e| unsafe {
                culet_assistant_played(self.0, now_ns, answer, to_bytes, e)
            });
        }
        checked(|e| unsafe { culet_assistant_tell(self.0, now_ns, what_of(input), e) })
    }

    fn results(&mut self, now_ns: u64, results: &Value) -> Result<()> {
        let json = CString::new(results.to_string()).unwrap();
        checked(|e| unsafe { culet_assistant_results(self.0, now_ns, json.as_ptr(), e) })
    }

    fn leave_calls(&mut self, now_ns: u64) -> Result<()> {
        checked(|e| unsafe { culet_assistant_leave_calls(self.0, now_ns, e) })
    }

    fn poll(&mut self, now_ns: u64) -> Result<(Place, Spoken)> {
        let mut event = unsafe { std::mem::zeroed::<AssistantEvent>() };
        let polled =
            checked(|e| unsafe { culet_assistant_poll(self.0, now_ns, &raw mut event, e) });
        assert_eq!(polled.is_err(), event.data.is_null(), "written only on success");
        polled.map(|()| (place_of(event.state), spoken_of(&event)))
    }

    fn conversation(&mut self) -> Value {
        let (mut data, mut len) = (null(), 0);
        ok(|e| unsafe { culet_assistant_conversation(self.0, &raw mut data, &raw mut len, e) });
        let text = unsafe { CStr::from_ptr(data) };
        assert_eq!(text.count_bytes(), len);
        serde_json::from_str(text.to_str().unwrap()).unwrap()
    }

    fn cancel(&self) {
        unsafe { culet_assistant_cancel(self.0) };
    }
}
