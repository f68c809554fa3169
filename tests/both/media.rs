//! Pictures and sounds among words: their places, what is kept of them, what is missing.

use culet::ErrorKind;
use serde_json::json;

use crate::both::scene::Run;
use crate::both::scene::Scene;
use crate::both::scene::greedy;
use crate::both::scene::picture;
use crate::both::scene::sound;
use crate::both::side::BLIND;
use crate::both::side::RANDOM;
use crate::both::side::Side;
use crate::both::side::TINY;

pub(crate) fn media_fill_named_places_or_join_the_turn<S: Side>(scene: &Scene<S>) {
    let (frame, samples) = (picture(48, 0), sound(20_000, 2));
    let places = json!([{ "role": "user", "content": [
        { "type": "image" },
        { "type": "audio" },
        { "type": "text", "text": "Transcribe." },
    ] }]);
    // A model with random weights shows every difference in its logits.
    for files in [TINY, RANDOM] {
        let engine = scene.open(files);
        let [mut joined, mut named, mut late] =
            [(); 3].map(|()| scene.session(&engine, &greedy(512)));
        joined.show(&frame);
        joined.play(&samples);
        joined.say("Transcribe.");
        joined.prompt();
        named.show(&frame);
        named.messages(&places);
        named.refuses((ErrorKind::Input, "media"), |s| s.prompt());
        named.play(&samples);
        named.prompt();
        late.messages(&places);
        late.show(&frame);
        late.play(&samples);
        late.prompt();
        let logits = joined.logits();
        assert!(!logits.is_empty() && logits == named.logits() && logits == late.logits());
        let said = joined.answer(20);
        assert_eq!((named.answer(20), late.answer(20)), (said.clone(), said));
    }
}

pub(crate) fn a_picture_that_was_fed_is_not_fed_again<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let mut run = scene.session(&engine, &greedy(1024));
    let ask = |run: &mut Run<S>, seed: u8, text: &str| {
        run.rewind(0);
        run.show(&picture(96, seed));
        run.say(text);
        run.prompt()
    };
    let first = ask(&mut run, 9, "What is it?");
    let again = ask(&mut run, 9, "How many are there?");
    let other = ask(&mut run, 8, "How many are there?");
    // Beside the picture, the prompt has fewer than 20 tokens.
    assert!(again.n_reused + 20 > first.n_prompt, "{first:?}, {again:?}");
    assert!(other.n_prompt == again.n_prompt && other.n_reused < 10, "{other:?}");
}

pub(crate) fn what_is_missing_is_told<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(BLIND);
    let mut run = scene.session(&engine, &greedy(64));
    let frame = picture(48, 0);
    run.refuses((ErrorKind::Input, "--mmproj"), |s| s.append_picture(&frame, 70));
    run.refuses((ErrorKind::Input, "--mmproj"), |s| s.begin_sound());
    run.say("hello");
    run.prompt();
    run.next();
}
