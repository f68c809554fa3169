//! The assistant of the C interface: spoken questions, calls, interruptions, misuse.
//!
//! In: the tiny model and its held-out sounds, a clock that counts samples. Out: behaviour, through
//! the functions of the header alone.

use std::ffi::CStr;
use std::ffi::CString;
use std::ptr::null;
use std::ptr::null_mut;

use culet_c::assistant::event::*;
use culet_c::assistant::object::*;
use culet_c::assistant::option::*;
use culet_c::engine::*;
use culet_c::session::option::*;
use culet_c::status::*;
use serde_json::Value;

use crate::both::scene;
use crate::both::side::BLIND;
use crate::both::side::Files;
use crate::both::side::Side;
use crate::both::side::TINY;
use crate::both::side::path;
use crate::call::fails;
use crate::call::ok;
use crate::call::told;
use crate::side::C;
use crate::side::CEngine;

const RATE_HZ: u32 = 16_000;
/// A packet of 32 ms.
const PACKET: usize = 512;
const NS_PER_SAMPLE: u64 = 1_000_000_000 / RATE_HZ as u64;
/// Polls in which one question is answered, at least.
const POLLS_MAX: usize = 20_000;

fn open(files: Files) -> CEngine {
    C::open(files, None).unwrap()
}

fn opening() -> CString {
    let tools = std::fs::read_to_string(path("tiny/tools.json")).unwrap();
    CString::new(format!("{{\"tools\": {tools}}}")).unwrap()
}

/// A conversation whose clock is the sound that was pushed.
struct Hall {
    assistant: *mut Assistant,
    n_pushed: u64,
    /// All that was polled but the rests between.
    log: Vec<(AssistantEvent, String)>,
}

impl Drop for Hall {
    fn drop(&mut self) {
        unsafe { culet_assistant_free(self.assistant) };
    }
}

impl Hall {
    fn new(change: impl FnOnce(*mut AssistantOptions)) -> Self {
        let engine = open(TINY);
        let (mut run, mut options, mut assistant) = (null_mut(), null_mut(), null_mut());
        ok(|e| unsafe { culet_session_options_new(&raw mut run, e) });
        ok(|e| unsafe { culet_session_options_set_size(run, 2048, 64, e) });
        ok(|e| unsafe { culet_session_options_set_sampling(run, 0.0, 0, 1.0, 0.0, e) });
        ok(|e| unsafe { culet_assistant_options_new(&raw mut options, e) });
        ok(|e| unsafe { culet_assistant_options_set_tokens_max(options, 40, 70, e) });
        change(options);
        let opening = opening();
        ok(|e| unsafe {
            let messages = opening.as_ptr();
            culet_assistant_new(engine.0, run, options, messages, 7, &raw mut assistant, e)
        });
        unsafe {
            culet_assistant_options_free(options);
            culet_session_options_free(run);
        }
        Self { assistant, n_pushed: 0, log: Vec::new() }
    }

    fn now_ns(&self) -> u64 {
        7 + self.n_pushed * NS_PER_SAMPLE
    }

    fn poll(&mut self) -> i32 {
        let (status, kind) = self.try_poll();
        assert_eq!(status, CULET_OK);
        kind
    }

    /// Returns the status and the event's kind.
    fn try_poll(&mut self) -> (Status, i32) {
        let mut event = unsafe { std::mem::zeroed::<AssistantEvent>() };
        let (now_ns, place) = (self.now_ns(), &raw mut event);
        let (status, _) =
            told(|e| unsafe { culet_assistant_poll(self.assistant, now_ns, place, e) });
        if status != CULET_OK {
            assert!(event.data.is_null(), "written only on success");
            return (status, CULET_SPOKEN_NONE);
        }
        let text = unsafe { CStr::from_ptr(event.data) }.to_str().unwrap().to_owned();
        assert_eq!(text.len(), event.len);
        if ![CULET_SPOKEN_NONE, CULET_SPOKEN_IDLE].contains(&event.kind) {
            self.log.push((event, text));
        }
        (status, event.kind)
    }

    /// Polls until there is nothing to do.
    fn rest(&mut self) {
        for _ in 0..POLLS_MAX {
            if self.poll() == CULET_SPOKEN_IDLE {
                return;
            }
        }
        panic!("no rest after {POLLS_MAX} polls");
    }

    fn push(&mut self, samples: &[f32]) {
        for packet in samples.chunks(PACKET) {
            let (pcm, n) = (packet.as_ptr(), packet.len());
            ok(|e| unsafe { culet_assistant_push(self.assistant, pcm, n, 1, RATE_HZ, e) });
            self.n_pushed += n as u64;
            self.rest();
        }
    }

    fn tell(&mut self, what: i32) {
        let now_ns = self.now_ns();
        ok(|e| unsafe { culet_assistant_tell(self.assistant, now_ns, what, e) });
        self.rest();
    }

    /// Returns the events of a kind.
    fn all(&self, kind: i32) -> Vec<&(AssistantEvent, String)> {
        self.log.iter().filter(|(event, _)| event.kind == kind).collect()
    }

    fn said(&self) -> String {
        self.all(CULET_SPOKEN_SAY).iter().map(|(_, text)| &text[..]).collect()
    }

    fn conversation(&self) -> Value {
        let (mut data, mut len) = (null(), 0);
        ok(|e| unsafe {
            culet_assistant_conversation(self.assistant, &raw mut data, &raw mut len, e)
        });
        let text = unsafe { CStr::from_ptr(data) };
        assert_eq!(text.count_bytes(), len);
        serde_json::from_str(text.to_str().unwrap()).unwrap()
    }
}

/// Returns a held-out sound and some silence behind it.
fn question(index: usize) -> Vec<f32> {
    let mut samples = scene::question(index);
    samples.resize(samples.len() + RATE_HZ as usize, 0.0);
    samples
}

#[test]
fn a_spoken_question_calls_a_tool_and_is_answered() {
    let mut hall = Hall::new(|_| {});
    hall.push(&question(0));
    let turns = hall.all(CULET_SPOKEN_TURN);
    assert_eq!(turns.len(), 1);
    assert!(turns[0].0.to_s > turns[0].0.from_s);
    let calls: Value = serde_json::from_str(&hall.all(CULET_SPOKEN_CALLS)[0].1).unwrap();
    assert_eq!(calls[0]["name"], "set_reminder", "{calls}");
    let results = |hall: &Hall, json: &CStr| {
        let now_ns = hall.now_ns();
        told(|e| unsafe { culet_assistant_results(hall.assistant, now_ns, json.as_ptr(), e) }).0
    };
    for nonsense in [c"", c"{}", c"[]", c"[1, 2, 3]"] {
        assert_eq!(results(&hall, nonsense), CULET_ERR_INPUT);
    }
    assert_eq!(results(&hall, c"[{\"done\": true}]"), CULET_OK);
    hall.rest();
    if !hall.all(CULET_SPOKEN_CALLS)[1..].is_empty() {
        ok(|e| unsafe { culet_assistant_leave_calls(hall.assistant, hall.now_ns(), e) });
        hall.rest();
    }
    assert_eq!(hall.all(CULET_SPOKEN_END).len(), 1);
    assert_eq!(results(&hall, c"[\"late\"]"), CULET_ERR_INPUT);
    let messages = &hall.conversation()["messages"];
    assert_eq!(messages[0]["content"][0]["type"], "audio", "{messages}");
    assert_eq!(messages[1]["tool_calls"][0], calls[0]);
    assert_eq!(messages[2]["content"]["done"], true);
    let states: Vec<i32> = hall.all(CULET_SPOKEN_STATE).iter().map(|(e, _)| e.state).collect();
    let way = [CULET_STATE_HEARING, CULET_STATE_GUESSING, CULET_STATE_ANSWERING];
    assert!(way.iter().all(|state| states.contains(state)), "{states:?}");
    assert_eq!(states.last(), Some(&CULET_STATE_LISTENING));
}

#[test]
fn any_packets_channels_and_types_give_the_same_turns() {
    let sound = question(1);
    let log = |hall: &Hall| -> Vec<(i32, String)> {
        let plain = |(event, text): &(AssistantEvent, String)| (event.kind, text.clone());
        hall.log.iter().map(plain).collect()
    };
    let mut one = Hall::new(|_| {});
    let exact: Vec<f32> = sound.iter().map(|s| (s * 32_768.0).round() / 32_768.0).collect();
    one.push(&exact);
    let mut two = Hall::new(|_| {});
    for packet in exact.chunks(PACKET) {
        let pairs: Vec<i16> = packet.iter().flat_map(|s| [(s * 32_768.0) as i16; 2]).collect();
        let (pcm, n) = (pairs.as_ptr(), packet.len());
        ok(|e| unsafe { culet_assistant_push_i16(two.assistant, pcm, n, 2, RATE_HZ, e) });
        two.n_pushed += n as u64;
        two.rest();
    }
    assert!(!log(&one).is_empty() && log(&one) == log(&two));
}

#[test]
fn what_was_not_heard_is_not_history() {
    let mut hall = Hall::new(|options| {
        ok(|e| unsafe { culet_assistant_options_set_aloud(options, true, true, e) });
    });
    let mut answered = None;
    for index in 0..8 {
        hall.push(&question(index));
        let now_ns = hall.now_ns();
        ok(|e| unsafe { culet_assistant_leave_calls(hall.assistant, now_ns, e) });
        hall.rest();
        answered = hall.all(CULET_SPOKEN_SAY).first().map(|(event, text)| (*event, text.clone()));
        if answered.is_some() {
            break;
        }
        hall.tell(CULET_TELL_INTERRUPT);
    }
    let (piece, text) = answered.expect("one of the questions is answered in words");
    assert_eq!(piece.end_bytes, text.len());
    let now_ns = hall.now_ns();
    ok(|e| unsafe { culet_assistant_played(hall.assistant, now_ns, piece.answer, 4, e) });
    let n_silences = hall.all(CULET_SPOKEN_SILENCE).len();
    hall.tell(CULET_TELL_INTERRUPT);
    assert_eq!(hall.all(CULET_SPOKEN_SILENCE).len(), n_silences + 1);
    let conversation = hall.conversation();
    let last = conversation["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["role"], last["content"].as_str()), (&"assistant".into(), text.get(..4)));
}

#[test]
fn a_picture_goes_in_before_the_question() {
    let mut hall = Hall::new(|_| {});
    let rgb: Vec<u8> = (0..3 * 96 * 96).map(|i| (i % 251) as u8).collect();
    let show = |hall: &Hall, p: *const u8, stride| {
        told(|e| unsafe { culet_assistant_show(hall.assistant, p, 96, 96, stride, e) }).0
    };
    assert_eq!(show(&hall, rgb.as_ptr(), 287), CULET_ERR_INPUT);
    assert_eq!(show(&hall, null(), 288), CULET_ERR_NULL);
    assert_eq!(show(&hall, rgb.as_ptr(), 288), CULET_OK);
    hall.push(&question(2));
    let looked = hall.all(CULET_SPOKEN_LOOKED);
    assert!(looked.len() == 1 && looked[0].0.n_tokens > 0);
}

#[test]
fn a_cancelled_turn_is_forgotten_and_the_next_is_heard() {
    let mut hall = Hall::new(|_| {});
    let sound = question(3);
    hall.push(&sound[..RATE_HZ as usize]);
    assert!(!hall.all(CULET_SPOKEN_SPEECH).is_empty());
    unsafe { culet_assistant_cancel(hall.assistant) };
    let mut n_cancelled = 0;
    for packet in sound[RATE_HZ as usize..].chunks(PACKET) {
        let (pcm, n) = (packet.as_ptr(), packet.len());
        ok(|e| unsafe { culet_assistant_push(hall.assistant, pcm, n, 1, RATE_HZ, e) });
        let (status, _) = hall.try_poll();
        n_cancelled += usize::from(status == CULET_ERR_CANCELLED);
        assert!([CULET_OK, CULET_ERR_CANCELLED].contains(&status));
    }
    assert_eq!(n_cancelled, 1);
    hall.rest();
    assert!(!hall.all(CULET_SPOKEN_DISCARDED).is_empty());
    hall.tell(CULET_TELL_INTERRUPT);
    let n_turns = hall.all(CULET_SPOKEN_TURN).len();
    hall.push(&question(0));
    assert_eq!(hall.all(CULET_SPOKEN_TURN).len(), n_turns + 1);
}

#[test]
fn keys_and_devices_are_told() {
    let mut hall = Hall::new(|options| {
        ok(|e| unsafe { culet_assistant_options_set_mode(options, CULET_MODE_PUSH_TO_TALK, e) });
    });
    let sound = question(1);
    hall.push(&sound);
    assert!(hall.log.is_empty(), "nobody pressed the key");
    hall.tell(CULET_TELL_TALK_DOWN);
    let (pcm, n) = (sound.as_ptr(), sound.len());
    ok(|e| unsafe { culet_assistant_push(hall.assistant, pcm, n, 1, RATE_HZ, e) });
    hall.n_pushed += n as u64;
    // The key comes up behind the sound, which is heard first.
    hall.tell(CULET_TELL_TALK_UP);
    let turn = hall.all(CULET_SPOKEN_TURN)[0].0;
    assert!(turn.to_s - turn.from_s > 0.9 * n as f64 / f64::from(RATE_HZ));
    ok(|e| unsafe { culet_assistant_leave_calls(hall.assistant, hall.now_ns(), e) });
    hall.rest();
    let state = |hall: &Hall| hall.all(CULET_SPOKEN_STATE).last().unwrap().0.state;
    for (what, expected) in [
        (CULET_TELL_MICROPHONE_LOST, CULET_STATE_DEAF),
        (CULET_TELL_MICROPHONE_BACK, CULET_STATE_LISTENING),
        (CULET_TELL_SLEEP, CULET_STATE_ASLEEP),
        (CULET_TELL_WAKE, CULET_STATE_LISTENING),
        (CULET_TELL_SPEAKER_LOST, CULET_STATE_LISTENING),
        (CULET_TELL_SPEAKER_BACK, CULET_STATE_LISTENING),
        (CULET_TELL_END_TURN, CULET_STATE_LISTENING),
    ] {
        hall.tell(what);
        assert_eq!(state(&hall), expected, "{what}");
    }
    for what in [-1, 10] {
        fails(CULET_ERR_INPUT, |e| unsafe { culet_assistant_tell(hall.assistant, 0, what, e) });
    }
}

/// Makes a conversation that answers what begins with "turn off".
fn guarded(listener: *const Engine, follow_up_ms: u32) -> Hall {
    Hall::new(|options| {
        let phrase = c"Turn OFF!".as_ptr();
        ok(|e| unsafe {
            culet_assistant_options_set_wake(options, phrase, listener, follow_up_ms, e)
        });
    })
}

#[test]
fn a_phrase_wakes_it_and_an_answer_keeps_it_awake() {
    let listener = open(TINY);
    let mut halls = [guarded(null(), 0), guarded(listener.0, 60_000)];
    drop(listener);
    for (hall, keeps_awake) in halls.iter_mut().zip([false, true]) {
        assert_eq!(hall.poll(), CULET_SPOKEN_STATE);
        assert_eq!(hall.all(CULET_SPOKEN_STATE)[0].0.state, CULET_STATE_UNCALLED);
        // "set the temperature to seventeen degrees"
        hall.push(&question(1));
        assert!(
            hall.all(CULET_SPOKEN_WOKEN).is_empty() && hall.all(CULET_SPOKEN_SPEECH).is_empty()
        );
        assert_eq!(hall.conversation()["messages"].as_array().map_or(0, Vec::len), 0);
        // "turn off the hallway lights"
        hall.push(&question(20));
        assert_eq!((hall.all(CULET_SPOKEN_WOKEN).len(), hall.all(CULET_SPOKEN_TURN).len()), (1, 1));
        let calls: Value = serde_json::from_str(&hall.all(CULET_SPOKEN_CALLS)[0].1).unwrap();
        assert_eq!(calls[0]["arguments"]["room"], "hallway", "{calls}");
        ok(|e| unsafe { culet_assistant_leave_calls(hall.assistant, hall.now_ns(), e) });
        hall.rest();
        let state = hall.all(CULET_SPOKEN_STATE).last().unwrap().0.state;
        assert_eq!(state == CULET_STATE_LISTENING, keeps_awake, "{state}");
        hall.push(&question(1));
        assert_eq!(hall.all(CULET_SPOKEN_TURN).len(), 1 + usize::from(keeps_awake));
    }
}

#[test]
fn what_is_overheard_can_be_cancelled_and_the_key_needs_no_phrase() {
    let mut hall = guarded(null(), 0);
    let sound = question(20);
    let half = sound.len() / 4;
    hall.push(&sound[..half]);
    unsafe { culet_assistant_cancel(hall.assistant) };
    let mut n_cancelled = 0;
    for packet in sound[half..].chunks(PACKET) {
        let (pcm, n) = (packet.as_ptr(), packet.len());
        ok(|e| unsafe { culet_assistant_push(hall.assistant, pcm, n, 1, RATE_HZ, e) });
        hall.n_pushed += n as u64;
        n_cancelled += usize::from(hall.try_poll().0 == CULET_ERR_CANCELLED);
    }
    hall.rest();
    assert_eq!(n_cancelled, 1);
    hall.tell(CULET_TELL_INTERRUPT);
    hall.tell(CULET_TELL_SLEEP);
    hall.tell(CULET_TELL_WAKE);
    let n_woken = hall.all(CULET_SPOKEN_WOKEN).len();
    hall.push(&question(1));
    assert_eq!(hall.all(CULET_SPOKEN_WOKEN).len(), n_woken);
    assert!(!hall.all(CULET_SPOKEN_TURN).is_empty());
}

#[test]
fn wake_words_that_nobody_can_hear_are_refused() {
    let (engine, deaf) = (open(TINY), open(BLIND));
    let (mut options, mut none) = (null_mut(), null_mut());
    ok(|e| unsafe { culet_assistant_options_new(&raw mut options, e) });
    let wake = |phrase: *const _, listener, ms| {
        told(|e| unsafe { culet_assistant_options_set_wake(options, phrase, listener, ms, e) }).0
    };
    let mut new = || {
        let place = &raw mut none;
        told(|e| unsafe { culet_assistant_new(engine.0, null(), options, null(), 0, place, e) }).0
    };
    for phrase in [c"", c"?!", c"1 2 3 4 5 6 7 8 9", c"\xff"] {
        assert_eq!(wake(phrase.as_ptr(), null(), 0), CULET_ERR_INPUT);
    }
    for (listener, ms) in [(deaf.0, 0), (engine.0, 600_001)] {
        assert_eq!(wake(c"hello".as_ptr(), listener, ms), CULET_OK);
        assert_eq!(new(), CULET_ERR_INPUT);
    }
    // Another word of the host makes it right again.
    assert_eq!(wake(null(), null(), 0), CULET_OK);
    assert_eq!(new(), CULET_OK);
    unsafe {
        culet_assistant_free(none);
        culet_assistant_options_free(options);
    }
}

#[test]
fn nonsense_is_refused_and_harms_nothing() {
    let hall = Hall::new(|options| {
        fails(CULET_ERR_INPUT, |e| unsafe { culet_assistant_options_set_mode(options, 3, e) });
        for (n_answer, n_picture) in [(0, 70), (40, 71)] {
            fails(CULET_ERR_INPUT, |e| unsafe {
                culet_assistant_options_set_tokens_max(options, n_answer, n_picture, e)
            });
        }
    });
    let pcm = [0.0_f32, f32::NAN];
    let push = |n, n_channels, rate_hz| {
        told(|e| unsafe {
            culet_assistant_push(hall.assistant, pcm.as_ptr(), n, n_channels, rate_hz, e)
        })
        .0
    };
    let cases = [(1, 0, RATE_HZ), (1, 33, RATE_HZ), (1, 1, 0), (2, 1, RATE_HZ), (1, 2, RATE_HZ)];
    for (n, n_channels, rate_hz) in cases {
        assert_eq!(push(n, n_channels, rate_hz), CULET_ERR_INPUT);
    }
    assert_eq!(push(usize::MAX, 2, RATE_HZ), CULET_ERR_INPUT);
    assert_eq!(push(1, 1, RATE_HZ), CULET_OK);
    let minute = vec![0.0_f32; 60 * RATE_HZ as usize];
    let (pcm, n) = (minute.as_ptr(), minute.len());
    let text = fails(CULET_ERR_INPUT, |e| unsafe {
        culet_assistant_push(hall.assistant, pcm, n, 1, RATE_HZ, e)
    });
    assert!(text.contains("poll"), "{text}");
    let (engine, deaf) = (open(TINY), open(BLIND));
    let mut none = null_mut();
    let mut new = |engine: *const Engine, options: *const AssistantOptions, json: &CStr| {
        let (place, json) = (&raw mut none, json.as_ptr());
        told(|e| unsafe { culet_assistant_new(engine, null(), options, json, 0, place, e) }).0
    };
    assert_eq!(new(deaf.0, null(), c"[]"), CULET_ERR_INPUT);
    assert_eq!(new(engine.0, null(), c"{"), CULET_ERR_INPUT);
    let media = c"[{\"role\": \"user\", \"content\": [{\"type\": \"audio\"}]}]";
    assert_eq!(new(engine.0, null(), media), CULET_ERR_INPUT);
    let mut options = null_mut();
    ok(|e| unsafe { culet_assistant_options_new(&raw mut options, e) });
    ok(|e| unsafe { culet_assistant_options_set_silence(options, 1, 0, e) });
    assert_eq!(new(engine.0, options, c"[]"), CULET_ERR_INPUT);
    assert!(none.is_null());
    unsafe {
        culet_assistant_options_free(options);
    }
}

#[test]
fn null_is_an_error_everywhere_and_fine_to_free() {
    let none: *mut Assistant = null_mut();
    let options: *mut AssistantOptions = null_mut();
    let mut assistant = null_mut();
    type Call<'a> = Box<dyn FnMut(*mut Error) -> Status + 'a>;
    #[rustfmt::skip]
    let calls: Vec<Call<'_>> = unsafe { vec![
        Box::new(|e| culet_assistant_options_new(null_mut(), e)),
        Box::new(|e| culet_assistant_options_set_mode(options, 0, e)),
        Box::new(|e| culet_assistant_options_set_silence(options, 700, 0, e)),
        Box::new(|e| culet_assistant_options_set_aloud(options, false, false, e)),
        Box::new(|e| culet_assistant_options_set_tokens_max(options, 1, 70, e)),
        Box::new(|e| culet_assistant_options_set_wake(options, null(), null(), 0, e)),
        Box::new(|e| culet_assistant_new(null(), null(), null(), null(), 0, &raw mut assistant, e)),
        Box::new(|e| culet_assistant_push(none, null(), 1, 1, RATE_HZ, e)),
        Box::new(|e| culet_assistant_push_i16(none, null(), 1, 1, RATE_HZ, e)),
        Box::new(|e| culet_assistant_show(none, null(), 1, 1, 3, e)),
        Box::new(|e| culet_assistant_tell(none, 0, 0, e)),
        Box::new(|e| culet_assistant_played(none, 0, 0, 0, e)),
        Box::new(|e| culet_assistant_results(none, 0, null(), e)),
        Box::new(|e| culet_assistant_leave_calls(none, 0, e)),
        Box::new(|e| culet_assistant_poll(none, 0, null_mut(), e)),
        Box::new(|e| culet_assistant_conversation(none, null_mut(), null_mut(), e)),
    ] };
    for mut call in calls {
        let text = fails(CULET_ERR_NULL, &mut call);
        assert!(text.ends_with("is NULL"), "{text}");
        assert_eq!(call(null_mut()), CULET_ERR_NULL);
    }
    unsafe {
        culet_assistant_cancel(none);
        culet_assistant_free(none);
        culet_assistant_options_free(options);
    }
    assert!(assistant.is_null());
}

#[test]
fn an_answer_is_told_in_pieces() {
    let mut hall = Hall::new(|_| {});
    for index in 0..8 {
        hall.push(&question(index));
        let now_ns = hall.now_ns();
        ok(|e| unsafe { culet_assistant_leave_calls(hall.assistant, now_ns, e) });
        hall.rest();
    }
    let n_turns = hall.all(CULET_SPOKEN_TURN).len();
    assert!(n_turns >= 4 && hall.all(CULET_SPOKEN_END).len() == n_turns);
    assert!(!hall.all(CULET_SPOKEN_FIRST_TOKEN).is_empty());
    let answers: Vec<u32> = hall.all(CULET_SPOKEN_SAY).iter().map(|(e, _)| e.answer).collect();
    assert!(answers.is_sorted() && (answers.is_empty() == hall.said().is_empty()));
}
