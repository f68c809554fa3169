//! Sessions: media in prompts, sound heard while spoken, what is kept and what is taken back.

use std::path::PathBuf;
use std::sync::Arc;

use culet::Frame;
use culet::Pcm;
use culet::TokenId;
use culet::decoder::Entry;
use culet::decoder::Executor;
use culet::decoder::ExecutorOptions;
use culet::decoder::KvOptions;
use culet::engine::Engine;
use culet::engine::EngineOptions;
use culet::ggml::BackendOptions;
use culet::ggml::DType;
use culet::sampler::SamplingOptions;
use culet::session::Encoded;
use culet::session::Session;
use culet::session::SessionOptions;
use culet::source::SoundFile;
use culet::text::Conversation;
use culet::text::Event;

use crate::npy;
use crate::npy::relative_error;
use crate::random::Rng;

/// Same maths in another order, through encoder and decoder in float32.
const KERNEL: f64 = 1e-4;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn one_thread() -> EngineOptions {
    let backend = BackendOptions { n_threads: 1, gpu: None };
    EngineOptions { backend, ..EngineOptions::default() }
}

fn tiny() -> Arc<Engine> {
    let folder = root().join("models/tiny");
    let mmproj = folder.join("mmproj-culet-tiny-q8_0.gguf");
    Engine::open(&folder.join("culet-tiny-q4_0.gguf"), Some(&mmproj), &one_thread()).unwrap()
}

fn session(engine: &Arc<Engine>, n_ctx: usize) -> Session {
    let sampling = SamplingOptions::greedy();
    let options = SessionOptions { n_ctx, n_batch: 64, kv: DType::F32, sampling };
    Session::new(engine, &options).unwrap()
}

fn conversation(json: &str) -> Conversation {
    Conversation::from_json(&serde_json::from_str(json).unwrap()).unwrap()
}

fn spoken() -> Conversation {
    conversation(
        r#"{"messages": [{"role": "user", "content": [{"type": "audio"},
            {"type": "text", "text": "Transcribe."}]}]}"#,
    )
}

fn answer(session: &mut Session, n_max: usize) -> String {
    let mut text = String::new();
    let mut add = |event: Event<'_>| {
        if let Event::Answer(more) | Event::Thought(more) = event {
            text.push_str(more);
        }
    };
    for _ in 0..n_max {
        if !session.next(&mut add).unwrap() {
            break;
        }
    }
    text
}

/// A tone that rises and falls, with some noise.
fn sound(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Rng(seed);
    (0..n)
        .map(|i| {
            let t = i as f32 / 16_000.0;
            let noise = (random.next() % 1000) as f32 / 1000.0 - 0.5;
            0.3 * (t * (900.0 + 500.0 * (t * 3.0).sin())).sin() + 0.02 * noise
        })
        .collect()
}

fn pcm(samples: &[f32]) -> Pcm {
    Pcm { samples: samples.to_vec(), rate_hz: 16_000, captured_at_ns: 0 }
}

#[test]
fn picture_and_sound_in_one_prompt_equal_transformers() {
    let folder = root().join("tests/golden/media");
    let text = std::fs::read_to_string(folder.join("mixed.json")).unwrap();
    let mixed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let fixtures = root().join("models/fixtures");
    let mmproj = fixtures.join("media-mmproj.gguf");
    let engine = Engine::open(&fixtures.join("media.gguf"), Some(&mmproj), &one_thread()).unwrap();
    let mut media = session(&engine, 256);
    let name = mixed["picture"].as_str().unwrap();
    let picture = image::open(folder.join("pictures").join(name)).unwrap().to_rgb8();
    let (width, height) = picture.dimensions();
    let frame = Frame::new(width, height, picture.into_raw()).unwrap();
    let budget = mixed["budget"].as_u64().unwrap() as u32;
    let picture = media.encode_picture(&frame, budget).unwrap();
    let samples: Vec<f32> = SoundFile::open(&folder.join(mixed["sound"].as_str().unwrap()))
        .unwrap()
        .flat_map(|block| block.unwrap().samples)
        .take(mixed["n_samples"].as_u64().unwrap() as usize)
        .collect();
    let heard = media.encode_sound([Ok(pcm(&samples))]).unwrap();
    let rows = |e: &Encoded| -> Vec<Vec<f32>> {
        let soft = &e.segments()[0];
        soft.data.chunks(soft.n_embd).map(<[f32]>::to_vec).collect()
    };
    let (pictures, sounds) = (rows(&picture), rows(&heard));
    let tokenizer = engine.tokenizer();
    let marks = ["<|image|>", "<|audio|>"].map(|m| tokenizer.id_of(m).unwrap());
    let (mut next_picture, mut next_sound) = (pictures.iter(), sounds.iter());
    let ids = mixed["ids"].as_array().unwrap();
    let entries: Vec<Entry<'_>> = ids
        .iter()
        .map(|id| match TokenId(id.as_u64().unwrap() as u32) {
            id if id == marks[0] => Entry::Soft(next_picture.next().unwrap()),
            id if id == marks[1] => Entry::Soft(next_sound.next().unwrap()),
            id => Entry::Token(id),
        })
        .collect();
    assert!(next_picture.next().is_none() && next_sound.next().is_none());
    let backend = BackendOptions { n_threads: 1, gpu: None };
    let kv = KvOptions { n_ctx: 256, n_batch: 512, dtype: DType::F32 };
    let mut run = Executor::new(engine.decoder(), &ExecutorOptions { backend, kv }).unwrap();
    let expected = npy::read(&folder.join("mixed_logits.npy"));
    let got = run.append_with_logits(&entries, expected.shape[0]).unwrap();
    let error = relative_error(got, &expected.values);
    assert!(error < KERNEL, "relative error {error:.2e}");
}

#[test]
fn sound_in_any_packets_equals_the_whole() {
    let engine = tiny();
    let samples = sound(16_000 * 3 + 333, 7);
    let mut whole = session(&engine, 512);
    let encoded = whole.encode_sound([Ok(pcm(&samples))]).unwrap();
    whole.prompt(&spoken(), std::slice::from_ref(&encoded)).unwrap();
    for seed in 1..4 {
        let mut random = Rng(seed);
        let mut live = session(&engine, 512);
        live.begin_sound(&spoken(), &[]).unwrap();
        let mut rest = &samples[..];
        while !rest.is_empty() {
            let n = (1 + random.next() as usize % 5000).min(rest.len());
            live.hear(&pcm(&rest[..n])).unwrap();
            rest = &rest[n..];
        }
        let heard = live.end_sound().unwrap();
        assert!(heard.segments() == encoded.segments(), "soft tokens, packets {seed}");
        assert!(live.logits() == whole.logits(), "logits, packets {seed}");
        assert_eq!(live.n_past(), whole.n_past());
    }
}

#[test]
fn a_guess_that_is_taken_back_leaves_no_trace() {
    let engine = tiny();
    let samples = sound(16_000 * 2, 3);
    let (first, second) = samples.split_at(16_000 + 77);
    let mut plain = session(&engine, 512);
    plain.begin_sound(&spoken(), &[]).unwrap();
    plain.hear(&pcm(&samples)).unwrap();
    plain.end_sound().unwrap();
    let mut guessed = session(&engine, 512);
    guessed.begin_sound(&spoken(), &[]).unwrap();
    guessed.hear(&pcm(first)).unwrap();
    guessed.guess_end().unwrap();
    answer(&mut guessed, 5);
    assert!(guessed.take_back().unwrap() > 0);
    guessed.hear(&pcm(second)).unwrap();
    guessed.end_sound().unwrap();
    assert!(guessed.logits() == plain.logits());
}

#[test]
fn a_guess_that_holds_equals_the_end() {
    let engine = tiny();
    let samples = sound(16_000 + 500, 4);
    let mut plain = session(&engine, 512);
    plain.begin_sound(&spoken(), &[]).unwrap();
    plain.hear(&pcm(&samples)).unwrap();
    let expected = plain.end_sound().unwrap();
    let mut guessed = session(&engine, 512);
    guessed.begin_sound(&spoken(), &[]).unwrap();
    guessed.hear(&pcm(&samples)).unwrap();
    guessed.guess_end().unwrap();
    assert!(guessed.logits() == plain.logits());
    assert!(guessed.end_sound().unwrap().segments() == expected.segments());
    assert_eq!(answer(&mut guessed, 20), answer(&mut plain, 20));
}

#[test]
fn the_next_turn_keeps_what_is_in_the_cache() {
    let engine = tiny();
    let mut run = session(&engine, 1024);
    let first = conversation(r#"{"messages": [{"role": "user", "content": "hello there"}]}"#);
    let stats = run.prompt(&first, &[]).unwrap();
    assert_eq!(stats.n_reused, 0);
    let said = answer(&mut run, 12);
    run.cut(&mut |_| {});
    let text = serde_json::json!({"messages": [
        {"role": "user", "content": "hello there"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "and now?"}]});
    let second = Conversation::from_json(&text).unwrap();
    let stats = run.prompt(&second, &[]).unwrap();
    assert!(stats.n_reused > 8, "{stats:?}");
    let mut fresh = session(&engine, 1024);
    fresh.prompt(&second, &[]).unwrap();
    if fresh.n_past() == run.n_past() {
        assert!(relative_error(run.logits(), fresh.logits()) < KERNEL);
    }
    // The same prompt again computes one position.
    let again = run.prompt(&second, &[]).unwrap();
    assert_eq!(again.n_reused + 1, again.n_prompt);
}

#[test]
fn a_picture_is_encoded_once() {
    let engine = tiny();
    let mut run = session(&engine, 1024);
    let frame = |grey: u8| Frame::new(96, 48, vec![grey; 3 * 96 * 48]).unwrap();
    let first = run.encode_picture(&frame(9), 70).unwrap();
    for (grey, budget, is_same) in [(9, 70, true), (8, 70, false), (9, 140, false)] {
        let again = run.encode_picture(&frame(grey), budget).unwrap();
        assert_eq!(Arc::ptr_eq(&first, &again), is_same, "{grey}, {budget}");
    }
    let frames = |end_s| [(0.0, frame(9)), (1.0, frame(9)), (end_s, frame(200))].map(Ok);
    let video = run.encode_video(frames(2.0), 70).unwrap();
    let segments = video.segments();
    assert!(segments.len() == 3 && segments[0] == first.segments()[0]);
    assert!(segments[0] == segments[1] && segments[1] != segments[2]);
    assert!(Arc::ptr_eq(&video, &run.encode_video(frames(2.0), 70).unwrap()));
    assert!(!Arc::ptr_eq(&video, &run.encode_video(frames(3.0), 70).unwrap()));
    assert!(run.encode_video([], 70).is_err());
    let asked = |words: &str| {
        conversation(&format!(
            r#"{{"messages": [{{"role": "user", "content": [{{"type": "image"}},
                {{"type": "text", "text": "{words}"}}]}}]}}"#
        ))
    };
    let media = [first];
    run.prompt(&asked("What is it?"), &media).unwrap();
    let stats = run.prompt(&asked("How many are there?"), &media).unwrap();
    assert!(stats.n_reused > media[0].n_tokens(), "{stats:?}");
}

#[test]
fn long_sounds_are_segmented_not_cut() {
    let engine = tiny();
    let samples = sound(16_000 * 31, 5);
    let mut run = session(&engine, 2048);
    let encoded = run.encode_sound([Ok(pcm(&samples))]).unwrap();
    let n: Vec<usize> = encoded.segments().iter().map(|s| s.n()).collect();
    assert_eq!(n, [750, 25]);
    run.prompt(&spoken(), &[encoded]).unwrap();
    let mut live = session(&engine, 2048);
    live.begin_sound(&spoken(), &[]).unwrap();
    samples.chunks(7000).for_each(|c| live.hear(&pcm(c)).unwrap());
    live.end_sound().unwrap();
    assert!(live.logits() == run.logits());
}

#[test]
fn misuse_says_what_to_do_and_loses_nothing() {
    let engine = tiny();
    let mut run = session(&engine, 64);
    let hello = conversation(r#"{"messages": [{"role": "user", "content": "hello"}]}"#);
    run.prompt(&hello, &[]).unwrap();
    let before = run.logits().to_vec();
    let long = "word ".repeat(500);
    let text = serde_json::json!({"messages": [{"role": "user", "content": long}]});
    let error = run.prompt(&Conversation::from_json(&text).unwrap(), &[]).unwrap_err();
    assert!(error.message().contains("--ctx"), "{error}");
    assert!(run.prompt(&spoken(), &[]).is_err());
    assert!(run.encode_sound([]).is_err());
    let error = run.encode_sound([Ok(pcm(&[0.0; 100]))]).unwrap_err();
    assert!(error.message().contains("too few"), "{error}");
    assert!(run.hear(&pcm(&[0.0; 100])).is_err());
    assert!(run.end_sound().is_err());
    run.prompt(&hello, &[]).unwrap();
    assert!(relative_error(run.logits(), &before) < KERNEL);
    let blind = Engine::open(&root().join("models/tiny/culet-tiny-q4_0.gguf"), None, &one_thread());
    let mut blind = session(&blind.unwrap(), 64);
    let frame = Frame::new(2, 2, vec![0; 12]).unwrap();
    let error = blind.encode_picture(&frame, 70).unwrap_err();
    assert!(error.message().contains("--mmproj"), "{error}");
    let other = root().join("models/fixtures/media-mmproj.gguf");
    let model = root().join("models/tiny/culet-tiny-q4_0.gguf");
    let error = Engine::open(&model, Some(&other), &one_thread()).map(drop).unwrap_err();
    assert!(error.message().contains("mmproj"), "{error}");
}

#[test]
fn a_memory_limit_names_what_would_fit() {
    let options = EngineOptions { memory_bytes_max: Some(40 << 20), ..one_thread() };
    let model = root().join("models/tiny/culet-tiny-q4_0.gguf");
    let engine = Engine::open(&model, None, &options).unwrap();
    let session = |n_ctx| {
        let options = SessionOptions { n_ctx, n_batch: 64, ..SessionOptions::default() };
        Session::new(&engine, &options).map(|s| s.n_ctx())
    };
    assert!(session(256).is_ok());
    let limit = EngineOptions { memory_bytes_max: Some(1 << 20), ..one_thread() };
    let engine = Engine::open(&model, None, &limit).unwrap();
    let error = Session::new(&engine, &SessionOptions::default()).map(drop).unwrap_err();
    assert_eq!(error.kind(), culet::ErrorKind::Memory);
}
