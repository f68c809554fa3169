//! Sound that is heard while it is spoken: packets, guesses, segments, what is dropped.

use culet::ErrorKind;

use crate::both::scene::RATE_HZ;
use crate::both::scene::Run;
use crate::both::scene::Scene;
use crate::both::scene::greedy;
use crate::both::scene::pcm;
use crate::both::scene::sound;
use crate::both::side::Side;
use crate::both::side::TINY;
use crate::random::Rng;

/// Hears a whole sound in one packet and ends it.
fn hear_all<S: Side>(run: &mut Run<S>, samples: &[f32]) {
    run.begin_sound();
    run.hear(samples);
    run.end_sound();
}

pub(crate) fn sound_in_any_packets_equals_the_whole<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let samples = sound(RATE_HZ * 3 + 333, 7);
    let mut whole = scene.session(&engine, &greedy(512));
    whole.play(&samples);
    let stats = whole.prompt();
    let (logits, said) = (whole.logits(), whole.answer(20));
    for seed in 1..4 {
        let mut random = Rng(seed);
        let mut live = scene.session(&engine, &greedy(512));
        live.begin_sound();
        let mut rest = &samples[..];
        while !rest.is_empty() {
            let n = (1 + random.next() as usize % 5000).min(rest.len());
            live.hear(&rest[..n]);
            rest = &rest[n..];
        }
        live.end_sound();
        assert!(live.logits() == logits, "packets {seed}");
        assert_eq!(live.n_past(), stats.n_prompt);
        assert_eq!(live.answer(20), said);
        live.say("again?");
        assert!(live.prompt().n_reused > 75);
    }
}

pub(crate) fn a_guess_that_is_taken_back_leaves_no_trace<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let samples = sound(RATE_HZ * 2, 3);
    let [mut plain, mut guessed] = [(); 2].map(|()| scene.session(&engine, &greedy(512)));
    hear_all(&mut plain, &samples);
    let (first, rest) = samples.split_at(RATE_HZ + 77);
    let (second, third) = rest.split_at(5_000);
    guessed.begin_sound();
    assert_eq!(guessed.take_back(), 0);
    guessed.hear(first);
    guessed.guess_end();
    (0..5).for_each(|_| drop(guessed.next()));
    assert!(guessed.take_back() > 0);
    guessed.refuses((ErrorKind::Input, "no prompt"), |s| s.next());
    guessed.hear(second);
    guessed.guess_end();
    guessed.next();
    // More sound takes it back, too.
    guessed.hear(third);
    guessed.end_sound();
    assert!(guessed.logits() == plain.logits());
    assert_eq!(guessed.answer(20), plain.answer(20));
}

pub(crate) fn a_guess_that_holds_equals_the_end<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let samples = sound(RATE_HZ + 500, 4);
    let [mut plain, mut guessed] = [(); 2].map(|()| scene.session(&engine, &greedy(512)));
    hear_all(&mut plain, &samples);
    guessed.begin_sound();
    guessed.hear(&samples);
    guessed.guess_end();
    assert!(guessed.logits() == plain.logits());
    let begun = [guessed.next(), guessed.next()];
    guessed.end_sound();
    assert_eq!([plain.next(), plain.next()], begun);
    assert_eq!(guessed.answer(20), plain.answer(20));
    // Both know the sound by what it holds.
    let kept = [&mut guessed, &mut plain].map(|run| {
        run.say("again?");
        run.prompt()
    });
    assert!(kept[0] == kept[1] && kept[0].n_reused > 25, "{kept:?}");
}

pub(crate) fn a_sound_can_be_dropped<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let [mut run, mut plain] = [(); 2].map(|()| scene.session(&engine, &greedy(256)));
    let samples = sound(5000, 1);
    run.say("hello");
    run.begin_sound();
    run.refuses((ErrorKind::Input, "sound"), |s| s.append_text("more"));
    run.refuses((ErrorKind::Input, "sound"), |s| s.begin_sound());
    run.hear(&samples);
    run.drop_sound();
    run.drop_sound();
    run.refuses((ErrorKind::Input, "no sound"), |s| s.hear(&pcm(&samples)));
    run.snapshot();
    // One that is too short is dropped by its end.
    run.begin_sound();
    run.refuses((ErrorKind::Input, "too few"), |s| s.end_sound());
    run.refuses((ErrorKind::Input, "no sound"), |s| s.hear(&pcm(&samples)));
    plain.say("hello");
    assert_eq!(run.prompt().n_prompt, plain.prompt().n_prompt);
    assert_eq!(run.answer(8), plain.answer(8));
}

pub(crate) fn long_sounds_are_segmented_not_cut<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let samples = sound(RATE_HZ * 31, 5);
    let [mut whole, mut live, mut none] = [(); 3].map(|()| scene.session(&engine, &greedy(2048)));
    whole.play(&samples);
    whole.say("Transcribe.");
    let stats = whole.prompt();
    none.say("Transcribe.");
    // 30 s and 1 s, with two marks around each.
    assert_eq!(stats.n_prompt - none.prompt().n_prompt, 750 + 25 + 4);
    let content =
        serde_json::json!([{ "type": "audio" }, { "type": "text", "text": "Transcribe." }]);
    live.messages(&serde_json::json!([{ "role": "user", "content": content }]));
    live.begin_sound();
    samples.chunks(7000).for_each(|packet| live.hear(packet));
    live.end_sound();
    assert!(live.logits() == whole.logits());
}
