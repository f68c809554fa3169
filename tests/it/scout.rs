//! Pictures encoded beside a session: the same bits, and what can go wrong.
//! In: the tiny model, made pictures. Out: soft tokens, logits, errors.

use std::path::Path;
use std::sync::Arc;

use culet::ErrorKind;
use culet::Frame;
use culet::engine::Engine;
use culet::engine::EngineOptions;
use culet::ggml::BackendOptions;
use culet::sampler::SamplingOptions;
use culet::session::Encoded;
use culet::session::Session;
use culet::session::SessionOptions;
use culet::text::Conversation;
use serde_json::json;

use crate::random::Rng;

const N_STEPS: usize = 12;

fn session(n_threads: usize, memory_bytes_max: Option<u64>) -> Session {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    let backend = BackendOptions { n_threads, gpu: None };
    let options = EngineOptions { backend, memory_bytes_max, ..EngineOptions::default() };
    let mmproj = folder.join("mmproj-culet-tiny-q8_0.gguf");
    let engine = Engine::open(&folder.join("culet-tiny-q4_0.gguf"), Some(&mmproj), &options);
    let sampling = SamplingOptions::greedy();
    let options = SessionOptions { n_ctx: 1024, n_batch: 64, sampling, ..Default::default() };
    Session::new(&engine.unwrap(), &options).unwrap()
}

fn picture(seed: u64) -> Frame {
    let mut random = Rng(seed);
    let rgb = (0..160 * 96 * 3).map(|_| random.next() as u8).collect();
    Frame::new(160, 96, rgb).unwrap()
}

fn about(n_pictures: usize) -> Conversation {
    let picture = json!({ "type": "image" });
    let mut content = vec![picture; n_pictures];
    content.push(json!({ "type": "text", "text": "What is it?" }));
    let messages = json!({ "messages": [{ "role": "user", "content": content }] });
    Conversation::from_json(&messages).unwrap()
}

/// Feeds a prompt and answers it; returns the logits behind the prompt and behind each token.
fn logits(session: &mut Session, media: &[Arc<Encoded>]) -> Vec<Vec<f32>> {
    session.prompt(&about(media.len()), media).unwrap();
    let mut all = vec![session.logits().to_vec()];
    for _ in 0..N_STEPS {
        let goes_on = session.next(&mut |_| {}).unwrap();
        all.push(session.logits().to_vec());
        if !goes_on {
            break;
        }
    }
    all
}

#[test]
fn a_scout_makes_the_same_bits_while_the_session_answers() {
    let mut alone = session(1, None);
    let first = alone.encode_picture(&picture(1), 280).unwrap();
    let second = alone.encode_picture(&picture(2), 280).unwrap();
    let of_one = logits(&mut alone, &[Arc::clone(&first)]);
    let of_both = logits(&mut alone, &[first, Arc::clone(&second)]);
    for n_threads in [1, 2, 4, 5] {
        let mut session = session(n_threads, None);
        assert_eq!(session.is_scout_worth(), n_threads >= 4);
        let mut scout = session.scout(280).unwrap();
        scout.look(picture(1), 280).unwrap();
        let begun = session.keep(scout.seen().unwrap());
        scout.look(picture(2), 280).unwrap();
        assert!(scout.is_looking());
        assert!(logits(&mut session, &[Arc::clone(&begun)]) == of_one, "{n_threads} threads");
        let next = session.keep(scout.seen().unwrap());
        assert!(next == second && !scout.is_looking(), "{n_threads} threads");
        // What a scout made is kept like the session's own.
        assert!(Arc::ptr_eq(&session.encode_picture(&picture(2), 280).unwrap(), &next));
        assert!(logits(&mut session, &[begun, next]) == of_both, "{n_threads} threads");
    }
}

#[test]
fn what_goes_wrong_beside_a_session_is_said() {
    let mut session = session(2, None);
    let mut scout = session.scout(70).unwrap();
    let kind = |made: culet::Result<Encoded>| made.unwrap_err().kind();
    assert_eq!(kind(scout.seen()), ErrorKind::Input);
    assert_eq!(scout.look(picture(1), 140).unwrap_err().kind(), ErrorKind::Input);
    scout.look(picture(1), 70).unwrap();
    assert_eq!(scout.look(picture(2), 70).unwrap_err().kind(), ErrorKind::Busy);
    assert!(scout.seen().is_ok());
    // No budget, which is found out on the other thread; the next picture does not suffer.
    scout.look(picture(2), 69).unwrap();
    assert_eq!(kind(scout.seen()), ErrorKind::Input);
    scout.cancel().cancel();
    scout.look(picture(2), 70).unwrap();
    assert_eq!(kind(scout.seen()), ErrorKind::Cancelled);
    scout.cancel().reset();
    scout.look(picture(2), 70).unwrap();
    let seen = session.keep(scout.seen().unwrap());
    assert!(seen == session.encode_picture(&picture(2), 70).unwrap());
    scout.look(picture(3), 70).unwrap();
    drop(scout);
    assert!(!logits(&mut session, &[seen]).is_empty());
}

#[test]
fn the_memory_limit_counts_both_at_once() {
    let mut session = session(2, Some(64 << 20));
    assert!(session.scout(70).is_ok());
    let error = session.scout(1120).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Memory, "{error}");
}
