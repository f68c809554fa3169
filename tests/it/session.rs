//! Sessions of Rust: the reference's logits, what encoding gives. The rest is in `tests/both`.

use std::path::Path;
use std::sync::Arc;

use culet::Frame;
use culet::TokenId;
use culet::decoder::Entry;
use culet::decoder::Executor;
use culet::decoder::ExecutorOptions;
use culet::decoder::KvOptions;
use culet::ggml::BackendOptions;
use culet::ggml::DType;
use culet::session::Encoded;
use culet::session::Session;
use culet::source::SoundFile;
use culet::text::Conversation;

use crate::both::native::Native;
use crate::both::scene::KERNEL;
use crate::both::scene::RATE_HZ;
use crate::both::scene::greedy;
use crate::both::scene::pcm;
use crate::both::scene::sound;
use crate::both::side::RANDOM;
use crate::both::side::Side;
use crate::both::side::TINY;
use crate::npy;
use crate::npy::relative_error;

#[test]
fn picture_and_sound_in_one_prompt_equal_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/media");
    let text = std::fs::read_to_string(folder.join("mixed.json")).unwrap();
    let mixed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let engine = Native::open(RANDOM, None).unwrap();
    let mut media = Session::new(&engine, &greedy(256)).unwrap();
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
fn a_picture_is_encoded_once() {
    let engine = Native::open(TINY, None).unwrap();
    let mut run = Session::new(&engine, &greedy(1024)).unwrap();
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
}

#[test]
fn a_sound_has_the_same_soft_tokens_however_it_comes() {
    let engine = Native::open(TINY, None).unwrap();
    let mut run = Session::new(&engine, &greedy(512)).unwrap();
    let samples = sound(RATE_HZ * 3 + 333, 7);
    let whole = run.encode_sound([Ok(pcm(&samples))]).unwrap();
    let spoken = serde_json::json!([{ "role": "user", "content": [{ "type": "audio" }] }]);
    for is_guessed in [false, true] {
        run.begin_sound(&Conversation::from_json(&spoken).unwrap(), &[]).unwrap();
        samples.chunks(1234).for_each(|packet| run.hear(&pcm(packet)).unwrap());
        if is_guessed {
            run.guess_end().unwrap();
        }
        assert!(run.end_sound().unwrap().segments() == whole.segments(), "{is_guessed}");
    }
    let blocks = samples.chunks(4321).map(|block| Ok(pcm(block)));
    assert!(run.encode_sound(blocks).unwrap().segments() == whole.segments());
    assert!(run.encode_sound([]).is_err());
}

#[test]
fn a_sound_that_is_heard_moves_behind_another_conversation() {
    let engine = Native::open(TINY, None).unwrap();
    let samples = sound(RATE_HZ * 32, 9);
    let talk = |words: &[&str]| {
        let said = words.iter().map(|text| serde_json::json!({ "role": "user", "content": text }));
        let spoken = serde_json::json!({ "role": "user", "content": [{ "type": "audio" }] });
        let all: Vec<_> = said.chain([spoken]).collect();
        Conversation::from_json(&serde_json::Value::from(all)).unwrap()
    };
    let [long, short] = [talk(&["hello", "what is the time?"]), talk(&["what is the time?"])];
    // In the first segment, in the second, and while an end is guessed.
    for (n_before, is_guessed) in [(RATE_HZ * 3, false), (RATE_HZ * 31, false), (RATE_HZ, true)] {
        let [mut plain, mut moved] =
            [(); 2].map(|()| Session::new(&engine, &greedy(2048)).unwrap());
        let hear = |run: &mut Session, samples: &[f32]| {
            samples.chunks(1234).for_each(|packet| run.hear(&pcm(packet)).unwrap());
        };
        assert!(moved.move_sound(&short, &[]).is_err());
        plain.begin_sound(&short, &[]).unwrap();
        moved.begin_sound(&long, &[]).unwrap();
        hear(&mut moved, &samples[..n_before]);
        if is_guessed {
            moved.guess_end().unwrap();
            moved.next(&mut |_| {}).unwrap();
        }
        moved.move_sound(&short, &[]).unwrap();
        hear(&mut plain, &samples[..n_before]);
        assert_eq!(moved.n_past(), plain.n_past());
        let n_free = 2048 - moved.n_past() - moved.n_sound_free();
        hear(&mut plain, &samples[n_before..]);
        hear(&mut moved, &samples[n_before..]);
        let sounds = [&mut plain, &mut moved].map(|run| run.end_sound().unwrap());
        assert!(sounds[0].segments() == sounds[1].segments());
        assert!(plain.logits() == moved.logits(), "{n_before}, {is_guessed}");
        // 30 s and 2 s, with two marks between them.
        let n_counted = plain.count(&short, &[]).unwrap();
        assert_eq!(moved.n_past(), n_counted + 750 + 50 + 2);
        // A block, and what begins the answer.
        assert!((13..24).contains(&n_free), "{n_free}");
    }
}
