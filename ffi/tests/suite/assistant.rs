//! Assistants of C: types and channels of samples, wake words, pointers, options.
//!
//! In: the tiny model and its held-out sounds. Out: what `tests/both` cannot say, because Rust has
//! no such thing.

use std::ffi::CStr;
use std::ptr::null;
use std::ptr::null_mut;

use culet_c::assistant::object::*;
use culet_c::assistant::option::*;
use culet_c::engine::*;
use culet_c::status::*;
use serde_json::json;

use crate::both::scene::pcm;
use crate::both::side::BLIND;
use crate::both::side::Files;
use crate::both::side::Side;
use crate::both::side::TINY;
use crate::both::voice::hall::question;
use crate::both::voice::side::Manner;
use crate::both::voice::side::Place;
use crate::both::voice::side::Spoken;
use crate::both::voice::side::Voice;
use crate::call::fails;
use crate::call::ok;
use crate::call::told;
use crate::side::C;
use crate::side::CEngine;
use crate::voice::CVoice;

const RATE_HZ: u32 = 16_000;
const NS_PER_SAMPLE: u64 = 1_000_000_000 / RATE_HZ as u64;

fn open(files: Files) -> CEngine {
    C::open(files, None).unwrap()
}

fn begin(engine: &CEngine) -> CVoice {
    CVoice::new(engine, &Manner::plain(), &json!({}), 7).unwrap()
}

/// Pushes a sound packet by packet, and returns all that comes of it.
fn heard(samples: &[f32], mut push: impl FnMut(&mut CVoice, &[f32])) -> Vec<(Place, Spoken)> {
    let (mut voice, mut log, mut now_ns) = (begin(&open(TINY)), Vec::new(), 7);
    for packet in samples.chunks(512) {
        push(&mut voice, packet);
        now_ns += packet.len() as u64 * NS_PER_SAMPLE;
        loop {
            match voice.poll(now_ns).unwrap() {
                (_, Spoken::Idle) => break,
                (_, Spoken::Nothing) => {}
                event => log.push(event),
            }
        }
    }
    log
}

#[test]
fn any_channels_and_types_give_the_same_turns() {
    let steps = |sample: &f32| (sample * 32_768.0).round();
    let exact: Vec<f32> = question(1).iter().map(|s| steps(s) / 32_768.0).collect();
    let one = heard(&exact, |voice, packet| voice.push(&pcm(packet)).unwrap());
    let two = heard(&exact, |voice, packet| {
        let pairs: Vec<i16> = packet.iter().flat_map(|s| [steps(s) as i16; 2]).collect();
        let (samples, n) = (pairs.as_ptr(), packet.len());
        ok(|e| unsafe { culet_assistant_push_i16(voice.0, samples, n, 2, RATE_HZ, e) });
    });
    assert!(one.iter().any(|(_, spoken)| matches!(spoken, Spoken::Turn { .. })));
    assert_eq!(one, two);
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
    let mut options = null_mut();
    ok(|e| unsafe { culet_assistant_options_new(&raw mut options, e) });
    fails(CULET_ERR_INPUT, |e| unsafe { culet_assistant_options_set_mode(options, 3, e) });
    for (n_answer, n_picture) in [(0, 70), (40, 71)] {
        fails(CULET_ERR_INPUT, |e| unsafe {
            culet_assistant_options_set_tokens_max(options, n_answer, n_picture, e)
        });
    }
    let engine = open(TINY);
    let hall = begin(&engine);
    for what in [-1, 10] {
        fails(CULET_ERR_INPUT, |e| unsafe { culet_assistant_tell(hall.0, 7, what, e) });
    }
    for json in [c"", c"{}", c"[]", c"[1]"] {
        fails(CULET_ERR_INPUT, |e| unsafe { culet_assistant_results(hall.0, 7, json.as_ptr(), e) });
    }
    let rgb = [0_u8; 27];
    let show = |p: *const u8, stride| {
        told(|e| unsafe { culet_assistant_show(hall.0, p, 3, 3, stride, e) }).0
    };
    assert_eq!(show(rgb.as_ptr(), 8), CULET_ERR_INPUT);
    assert_eq!(show(null(), 9), CULET_ERR_NULL);
    let pcm = [0.0_f32, f32::NAN];
    let push = |n, n_channels, rate_hz| {
        told(|e| unsafe { culet_assistant_push(hall.0, pcm.as_ptr(), n, n_channels, rate_hz, e) }).0
    };
    let cases = [(1, 0, RATE_HZ), (1, 33, RATE_HZ), (1, 1, 0), (2, 1, RATE_HZ), (1, 2, RATE_HZ)];
    for (n, n_channels, rate_hz) in cases {
        assert_eq!(push(n, n_channels, rate_hz), CULET_ERR_INPUT);
    }
    assert_eq!(push(usize::MAX, 2, RATE_HZ), CULET_ERR_INPUT);
    assert_eq!(push(1, 1, RATE_HZ), CULET_OK);
    let minute = vec![0.0_f32; 60 * RATE_HZ as usize];
    let (pcm, n) = (minute.as_ptr(), minute.len());
    let text =
        fails(CULET_ERR_INPUT, |e| unsafe { culet_assistant_push(hall.0, pcm, n, 1, RATE_HZ, e) });
    assert!(text.contains("poll"), "{text}");
    let deaf = open(BLIND);
    let mut none = null_mut();
    let mut new = |engine: *const Engine, options: *const AssistantOptions, json: &CStr| {
        let (place, json) = (&raw mut none, json.as_ptr());
        told(|e| unsafe { culet_assistant_new(engine, null(), options, json, 0, place, e) }).0
    };
    assert_eq!(new(deaf.0, null(), c"[]"), CULET_ERR_INPUT);
    assert_eq!(new(engine.0, null(), c"{"), CULET_ERR_INPUT);
    let media = c"[{\"role\": \"user\", \"content\": [{\"type\": \"audio\"}]}]";
    assert_eq!(new(engine.0, null(), media), CULET_ERR_INPUT);
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
