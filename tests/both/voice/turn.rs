//! Turns that are heard, answered, interrupted, cancelled and called for.

use culet::ErrorKind;
use culet::assistant::Input;
use culet::assistant::Key;
use culet::assistant::Mode;
use serde_json::json;

use crate::both::scene::RATE_HZ;
use crate::both::scene::Scene;
use crate::both::scene::picture;
use crate::both::side::Side;
use crate::both::side::TINY;
use crate::both::voice::hall::question;
use crate::both::voice::side::Manner;
use crate::both::voice::side::Place;
use crate::both::voice::side::Spoken;
use crate::both::voice::side::Wake;

pub(crate) fn a_spoken_question_calls_a_tool_and_is_answered<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let mut hall = scene.hall(&engine, &Manner::plain());
    hall.hear(&question(0));
    assert_eq!(hall.n_turns(), 1);
    let is_long =
        |spoken: &Spoken| matches!(spoken, Spoken::Turn { from_s, to_s } if to_s > from_s);
    assert_eq!(hall.n(is_long), 1);
    let calls = hall.calls();
    assert_eq!(calls[0]["name"], "set_reminder", "{calls}");
    for nonsense in [json!({}), json!([]), json!([1, 2, 3])] {
        assert_eq!(hall.results(&nonsense).unwrap_err().kind(), ErrorKind::Input);
    }
    hall.results(&json!([{ "done": true }])).unwrap();
    hall.rest();
    if hall.n(|spoken| matches!(spoken, Spoken::Calls(_))) > 1 {
        hall.leave_calls();
    }
    assert_eq!(hall.n(|spoken| matches!(spoken, Spoken::End { .. })), 1);
    assert_eq!(hall.results(&json!(["late"])).unwrap_err().kind(), ErrorKind::Input);
    let messages = &hall.conversation()["messages"];
    assert_eq!(messages[0]["content"][0]["type"], "audio", "{messages}");
    assert_eq!(messages[1]["tool_calls"][0], calls[0]);
    assert_eq!(messages[2]["content"]["done"], true);
    let places = hall.places();
    let way = [Place::Hearing, Place::Guessing, Place::Answering];
    assert!(way.iter().all(|place| places.contains(place)), "{places:?}");
    assert_eq!(places.last(), Some(&Place::Listening));
}

pub(crate) fn an_answer_is_told_in_pieces<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let mut hall = scene.hall(&engine, &Manner::plain());
    for index in 0..8 {
        hall.hear(&question(index));
        hall.leave_calls();
    }
    let n_ends = hall.n(|spoken| matches!(spoken, Spoken::End { .. }));
    assert!(hall.n_turns() >= 4 && n_ends == hall.n_turns());
    assert!(hall.n(|spoken| *spoken == Spoken::FirstToken) > 0);
    let said = hall.said();
    assert!(said.iter().map(|(answer, ..)| answer).is_sorted());
    assert!(said.iter().all(|(_, text, end_bytes)| (1..=*end_bytes).contains(&text.len())));
}

pub(crate) fn what_was_not_heard_is_not_history<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let mut hall = scene.hall(&engine, &Manner { is_aloud: true, ..Manner::plain() });
    for index in 0..8 {
        hall.hear(&question(index));
        hall.leave_calls();
        if !hall.said().is_empty() {
            break;
        }
        hall.press(Key::Interrupt);
    }
    let said = hall.said();
    let (answer, text, end_bytes) = said.first().expect("one of the questions is answered");
    assert_eq!(*end_bytes, text.len());
    hall.tell(Input::Played { answer: *answer, to_bytes: 4 });
    let n_silences = |spoken: &Spoken| *spoken == Spoken::Silence;
    let before = hall.n(n_silences);
    hall.press(Key::Interrupt);
    assert_eq!(hall.n(n_silences), before + 1);
    let conversation = hall.conversation();
    let last = conversation["messages"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["role"], last["content"].as_str()), (&json!("assistant"), text.get(..4)));
}

pub(crate) fn a_picture_goes_in_before_the_question<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let mut hall = scene.hall(&engine, &Manner::plain());
    hall.show(&picture(96, 0));
    hall.hear(&question(2));
    let has_looked =
        |spoken: &Spoken| matches!(spoken, Spoken::Looked { n_tokens } if *n_tokens > 0);
    assert_eq!(hall.n(has_looked), 1);
    let content = &hall.conversation()["messages"][0]["content"];
    assert_eq!((&content[0]["type"], &content[1]["type"]), (&json!("image"), &json!("audio")));
}

pub(crate) fn a_cancelled_turn_is_forgotten_and_the_next_is_heard<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let mut hall = scene.hall(&engine, &Manner::plain());
    let sound = question(3);
    let (first, rest) = sound.split_at(RATE_HZ);
    hall.hear(first);
    assert!(hall.n(|spoken| matches!(spoken, Spoken::Speech { .. })) > 0);
    hall.hear_stopped(rest);
    assert!(hall.n(|spoken| *spoken == Spoken::Discarded) > 0);
    hall.press(Key::Interrupt);
    let n_turns = hall.n_turns();
    hall.hear(&question(0));
    assert_eq!(hall.n_turns(), n_turns + 1);
}

pub(crate) fn keys_and_devices_are_told<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let mut hall = scene.hall(&engine, &Manner { mode: Mode::PushToTalk, ..Manner::plain() });
    let sound = question(1);
    hall.hear(&sound);
    assert!(hall.log.is_empty(), "nobody pressed the key");
    hall.press(Key::TalkDown);
    hall.hand(&sound);
    // The key comes up behind the sound, which is heard first.
    hall.press(Key::TalkUp);
    let seconds = sound.len() as f64 / RATE_HZ as f64;
    let is_whole = |spoken: &Spoken| match spoken {
        Spoken::Turn { from_s, to_s } => to_s - from_s > 0.9 * seconds,
        _ => false,
    };
    assert_eq!(hall.n(is_whole), 1);
    hall.leave_calls();
    for (input, expected) in [
        (Input::MicrophoneLost, Place::Deaf),
        (Input::MicrophoneBack, Place::Listening),
        (Input::Key(Key::Sleep), Place::Asleep),
        (Input::Key(Key::Wake), Place::Listening),
        (Input::SpeakerLost, Place::Listening),
        (Input::SpeakerBack, Place::Listening),
        (Input::Key(Key::EndTurn), Place::Listening),
    ] {
        hall.tell(input);
        assert_eq!(hall.places().last(), Some(&expected));
    }
}

/// Answers what begins with "turn off".
fn guarded<E>(listener: Option<&E>, follow_up_ms: u32) -> Manner<'_, E> {
    Manner { wake: Some(Wake { phrase: "Turn OFF!", listener, follow_up_ms }), ..Manner::plain() }
}

pub(crate) fn a_phrase_wakes_it_and_an_answer_keeps_it_awake<S: Side>(scene: &Scene<S>) {
    let [engine, listener] = [(); 2].map(|()| scene.open(TINY));
    let mut halls = [guarded(None, 0), guarded(Some(&listener), 60_000)]
        .map(|manner| scene.hall(&engine, &manner));
    drop(listener);
    for (hall, keeps_awake) in halls.iter_mut().zip([false, true]) {
        assert_eq!(hall.try_poll().unwrap(), Spoken::Place);
        assert_eq!(hall.places(), [Place::Uncalled]);
        // "set the temperature to seventeen degrees"
        hall.hear(&question(1));
        let is_meant = |spoken: &Spoken| matches!(spoken, Spoken::Woken | Spoken::Speech { .. });
        assert_eq!(hall.n(is_meant), 0);
        assert_eq!(hall.conversation()["messages"].as_array().map_or(0, Vec::len), 0);
        // "turn off the hallway lights"
        hall.hear(&question(20));
        assert_eq!((hall.n(|spoken| *spoken == Spoken::Woken), hall.n_turns()), (1, 1));
        let calls = hall.calls();
        assert_eq!(calls[0]["arguments"]["room"], "hallway", "{calls}");
        hall.leave_calls();
        let is_awake = hall.places().last() == Some(&Place::Listening);
        assert_eq!(is_awake, keeps_awake, "{:?}", hall.places());
        hall.hear(&question(1));
        assert_eq!(hall.n_turns(), 1 + usize::from(keeps_awake));
    }
}

pub(crate) fn what_is_overheard_can_be_cancelled_and_the_key_needs_no_phrase<S: Side>(
    scene: &Scene<S>,
) {
    let engine = scene.open(TINY);
    let mut hall = scene.hall(&engine, &guarded(None, 0));
    let sound = question(20);
    let (first, rest) = sound.split_at(sound.len() / 4);
    hall.hear(first);
    hall.hear_stopped(rest);
    [Key::Interrupt, Key::Sleep, Key::Wake].into_iter().for_each(|key| hall.press(key));
    let n_woken = |spoken: &Spoken| *spoken == Spoken::Woken;
    let before = hall.n(n_woken);
    hall.hear(&question(1));
    assert!(hall.n(n_woken) == before && hall.n_turns() > 0);
}
