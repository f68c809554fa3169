//! What is refused: how it is told, and that nothing is lost by it.

use culet::ErrorKind;
use culet::Frame;
use culet::ggml::DType;
use culet::sampler::SamplingOptions;
use culet::session::SessionOptions;
use serde_json::json;

use crate::both::scene::Scene;
use crate::both::scene::greedy;
use crate::both::scene::pcm;
use crate::both::scene::picture;
use crate::both::scene::sound;
use crate::both::side::BLIND;
use crate::both::side::Files;
use crate::both::side::RANDOM;
use crate::both::side::Side;
use crate::both::side::TINY;

pub(crate) fn misuse_says_what_to_do_and_loses_nothing<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let [mut run, mut plain] = [(); 2].map(|()| scene.session(&engine, &greedy(64)));
    let input = ErrorKind::Input;
    let samples = sound(5000, 1);
    run.refuses((input, "no prompt"), |s| s.next());
    run.say("hello");
    run.refuses((input, "budget"), |s| s.append_picture(&picture(48, 0), 71));
    run.refuses((input, "too few"), |s| s.append_sound(&pcm(&[0.0; 100])));
    run.refuses((input, "no sound"), |s| s.hear(&pcm(&samples)));
    run.refuses((input, "no sound"), |s| s.guess_end());
    run.refuses((input, "no sound"), |s| s.end_sound());
    plain.say("hello");
    assert_eq!(run.prompt(), plain.prompt());
    assert!(run.logits() == plain.logits());
    assert_eq!(run.answer(4), plain.answer(4));
    let n = run.n_messages();
    run.say(&"far too long ".repeat(100));
    run.refuses((input, "--ctx"), |s| s.prompt());
    run.rewind(n);
    run.messages(&json!([{ "role": "user", "content": [{ "type": "audio" }] }]));
    run.refuses((input, "media"), |s| s.prompt());
    run.rewind(n);
    for run in [&mut run, &mut plain] {
        run.say("and?");
        run.prompt();
    }
    assert!(run.logits() == plain.logits());
}

pub(crate) fn a_memory_limit_refuses_what_would_not_fit<S: Side>(scene: &Scene<S>) {
    let memory = ErrorKind::Memory;
    let engine = scene.open_within(BLIND, Some(40 << 20));
    let mut run = scene.session(&engine, &SessionOptions { n_batch: 64, ..greedy(256) });
    run.say("hello");
    run.prompt();
    let engine = scene.open_within(BLIND, Some(1 << 20));
    scene.refuses_options((&engine, &SessionOptions::default()), memory, "limit");
    let engine = scene.open_within(TINY, Some(64 << 20));
    let mut run = scene.session(&engine, &greedy(1024));
    let frame = Frame::new(160, 96, vec![7; 3 * 160 * 96]).unwrap();
    run.show(&frame);
    run.refuses((memory, "picture of 1120"), |s| s.append_picture(&frame, 1120));
}

pub(crate) fn models_that_cannot_be_used_are_refused<S: Side>(scene: &Scene<S>) {
    let missing = Files { model: "no/such/file.gguf", mmproj: None };
    scene.refuses_files(missing, ErrorKind::Io, "file.gguf");
    scene.refuses_files(Files { model: "tiny", mmproj: None }, ErrorKind::Io, "tiny");
    let prose = Files { model: "tiny/README.md", mmproj: None };
    scene.refuses_files(prose, ErrorKind::Format, "README.md");
    let foreign = Files { mmproj: RANDOM.mmproj, ..TINY };
    scene.refuses_files(foreign, ErrorKind::Unsupported, "mmproj");
}

pub(crate) fn options_out_of_range_are_refused<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(BLIND);
    for (n_ctx, n_batch) in [(0, 64), (64, 0), (0, 0), (64, usize::MAX)] {
        let options = SessionOptions { n_ctx, n_batch, ..greedy(64) };
        scene.refuses_options((&engine, &options), ErrorKind::Input, "");
    }
    let plain = SamplingOptions::greedy();
    for sampling in [
        SamplingOptions { temperature: f32::NAN, ..plain.clone() },
        SamplingOptions { temperature: -1.0, ..plain.clone() },
        SamplingOptions { top_p: 0.0, ..plain.clone() },
        SamplingOptions { top_p: f32::INFINITY, ..plain.clone() },
        SamplingOptions { repetition_penalty: 0.0, ..plain },
    ] {
        let options = SessionOptions { n_ctx: 64, n_batch: 64, kv: DType::F16, sampling };
        scene.refuses_options((&engine, &options), ErrorKind::Input, "");
    }
}
