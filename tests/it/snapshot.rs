//! Snapshots: what goes on from one equals what never stopped; no bytes bring a session down.
//!
//! In: the shipped tiny model, seeds. `SEED=n` repeats one of them.
//! Invariant: a session that refuses a snapshot is as it was, bit for bit.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use culet::ErrorKind;
use culet::Frame;
use culet::Pcm;
use culet::Result;
use culet::engine::Engine;
use culet::engine::EngineOptions;
use culet::ggml::BackendOptions;
use culet::ggml::DType;
use culet::sampler::SamplingOptions;
use culet::session::Encoded;
use culet::session::Restored;
use culet::session::Session;
use culet::session::SessionOptions;
use culet::text::Conversation;
use culet::text::Event;

use crate::random::Rng;
use crate::random::mutate;
use crate::random::seeds;

const N_SEEDS: u64 = 4;
const N_MUTANTS_PER_SEED: u64 = 100;

fn model(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

fn open(model_name: &str, mmproj: Option<&str>) -> Arc<Engine> {
    let backend = BackendOptions { n_threads: 1, gpu: None };
    let options = EngineOptions { backend, ..EngineOptions::default() };
    Engine::open(&model(model_name), mmproj.map(model).as_deref(), &options).unwrap()
}

fn tiny() -> Arc<Engine> {
    open("tiny/culet-tiny-q4_0.gguf", Some("tiny/mmproj-culet-tiny-q8_0.gguf"))
}

fn options() -> SessionOptions {
    let sampling = SamplingOptions {
        seed: 7,
        repetition_penalty: 1.1,
        frequency_penalty: 0.1,
        ..SamplingOptions::default()
    };
    SessionOptions { n_ctx: 512, n_batch: 64, kv: DType::F16, sampling }
}

fn session(engine: &Arc<Engine>) -> Session {
    Session::new(engine, &options()).unwrap()
}

fn conversation(json: &str) -> Conversation {
    Conversation::from_json(&serde_json::from_str(json).unwrap()).unwrap()
}

fn asked() -> Conversation {
    conversation(
        r#"[{"role": "user", "content": [{"type": "image"},
            {"type": "text", "text": "What is this?"}]}]"#,
    )
}

fn picture(session: &mut Session) -> Arc<Encoded> {
    let rgb = (0..3 * 96 * 96).map(|i| (i % 251) as u8).collect();
    session.encode_picture(&Frame::new(96, 96, rgb).unwrap(), 70).unwrap()
}

/// Answers with at most `n_max` tokens: what is said, and the logits behind it.
fn answer(session: &mut Session, n_max: usize) -> (String, Vec<f32>) {
    let mut text = String::new();
    for _ in 0..n_max {
        let goes_on = session.next(&mut |event| {
            if let Event::Answer(more) | Event::Thought(more) = event {
                text.push_str(more);
            }
        });
        if !goes_on.unwrap() {
            break;
        }
    }
    (text, session.logits().to_vec())
}

fn snapshot(session: &Session, media: &[Arc<Encoded>], note: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut sink = |more: &[u8]| {
        bytes.extend_from_slice(more);
        Ok(())
    };
    session.snapshot(media, note, &mut sink).unwrap();
    bytes
}

fn restore(session: &mut Session, bytes: &[u8]) -> Result<Restored> {
    session.restore(&mut Cursor::new(bytes), Ok)
}

#[test]
fn a_restored_session_goes_on_as_the_one_that_never_left() {
    let engine = tiny();
    for kv in [DType::F32, DType::F16, DType::Q8_0] {
        let options = SessionOptions { kv, ..options() };
        let mut stayed = Session::new(&engine, &options).unwrap();
        let media = [picture(&mut stayed)];
        stayed.prompt(&asked(), &media).unwrap();
        answer(&mut stayed, 2);
        let bytes = snapshot(&stayed, &media, b"a note");
        let expected = answer(&mut stayed, 12);
        assert!(!expected.0.is_empty());
        let mut other = Session::new(&engine, &options).unwrap();
        other.prompt(&conversation(r#"[{"role": "user", "content": "hi"}]"#), &[]).unwrap();
        answer(&mut other, 30);
        for mut back in [Session::new(&engine, &options).unwrap(), other] {
            let restored = restore(&mut back, &bytes).unwrap();
            assert!(restored.note == b"a note" && restored.media == media);
            assert!(answer(&mut back, 12) == expected, "{kv}");
            // The restored picture is known again, and with it the whole prompt.
            assert!(Arc::ptr_eq(&picture(&mut back), &restored.media[0]));
            let stats = back.prompt(&asked(), &restored.media).unwrap();
            assert_eq!(stats.n_reused + 1, stats.n_prompt);
        }
    }
}

#[test]
fn a_sound_that_was_heard_is_restored_with_its_turn() {
    let engine = tiny();
    let talk = |n: usize| {
        let turn = r#"{"role": "user", "content": [{"type": "audio"}]}"#;
        let said = r#"{"role": "assistant", "content": "yes"}"#;
        conversation(&format!("[{}]", [turn, said].repeat(2)[..2 * n - 1].join(",")))
    };
    let sound = |tone: f32| {
        let samples = (0..16_000).map(|i| 0.3 * (i as f32 * tone).sin()).collect();
        Pcm { samples, rate_hz: 16_000, captured_at_ns: 0 }
    };
    let mut stayed = session(&engine);
    stayed.begin_sound(&talk(1), &[]).unwrap();
    stayed.hear(&sound(0.05)).unwrap();
    assert!(stayed.snapshot(&[], b"", &mut |_| Ok(())).is_err(), "while it is heard");
    stayed.guess_end().unwrap();
    let heard = stayed.end_sound().unwrap();
    let bytes = snapshot(&stayed, std::slice::from_ref(&heard), b"");
    // Another sound, heard first in the other session, must not be taken for this one.
    let mut back = session(&engine);
    back.begin_sound(&talk(1), &[]).unwrap();
    back.hear(&sound(0.08)).unwrap();
    let stranger = back.end_sound().unwrap();
    let media = restore(&mut back, &bytes).unwrap().media;
    assert!(media == [Arc::clone(&heard)] && back.logits() == stayed.logits());
    for (media, is_known) in [(media, true), (vec![stranger], false)] {
        restore(&mut back, &bytes).unwrap();
        let [own, other] = [(&mut stayed, vec![Arc::clone(&heard)]), (&mut back, media)]
            .map(|(session, media)| session.begin_sound(&talk(2), &media).unwrap());
        assert_eq!(own.n_reused == other.n_reused, is_known);
    }
}

#[test]
fn a_file_holds_a_whole_snapshot() {
    let engine = tiny();
    let mut stayed = session(&engine);
    let media = [picture(&mut stayed)];
    stayed.prompt(&asked(), &media).unwrap();
    let folder = std::env::temp_dir().join(format!("culet-snapshot-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("talk.culet");
    stayed.snapshot_to_file(&media, b"one", &path).unwrap();
    assert!(std::fs::read(&path).unwrap() == snapshot(&stayed, &media, b"one"));
    stayed
        .begin_sound(&conversation(r#"[{"role": "user", "content": [{"type": "audio"}]}]"#), &[])
        .unwrap();
    assert!(stayed.snapshot_to_file(&media, b"two", &path).is_err());
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    let mut back = session(&engine);
    assert!(back.restore_from_file(&path, Ok).unwrap().note == b"one");
    std::fs::write(&path, b"CULETSNP").unwrap();
    let error = back.restore_from_file(&path, Ok).map(drop).unwrap_err();
    assert!(error.message().starts_with("talk.culet: "), "{error}");
    let error = back.restore_from_file(&folder.join("none"), Ok).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_snapshot_of_something_else_is_refused_by_name() {
    let engine = tiny();
    let mut run = session(&engine);
    run.prompt(&conversation(r#"[{"role": "user", "content": "hello"}]"#), &[]).unwrap();
    let logits = run.logits().to_vec();
    let bytes = snapshot(&run, &[], b"");
    let made = |engine: &Arc<Engine>, change: &dyn Fn(&mut SessionOptions)| {
        let mut options = options();
        change(&mut options);
        Session::new(engine, &options).unwrap()
    };
    let blind = open("tiny/culet-tiny-q4_0.gguf", None);
    let other = open("fixtures/media.gguf", Some("fixtures/media-mmproj.gguf"));
    let mut newer = bytes.clone();
    newer[8] = 9;
    let mut foreign = bytes.clone();
    foreign[0] = b'X';
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 4;
    let mut cases = [
        (made(&engine, &|o| o.kv = DType::F32), &bytes, ErrorKind::Input, "type"),
        (made(&engine, &|o| (o.n_ctx, o.n_batch) = (2048, 512)), &bytes, ErrorKind::Input, "batch"),
        (made(&blind, &|_| {}), &bytes, ErrorKind::Input, "mmproj"),
        (made(&other, &|_| {}), &bytes, ErrorKind::Input, "model"),
        (made(&engine, &|_| {}), &newer, ErrorKind::Unsupported, "version 9"),
        (made(&engine, &|_| {}), &foreign, ErrorKind::Format, "no snapshot"),
        (made(&engine, &|_| {}), &damaged, ErrorKind::Format, "checksum"),
        (made(&engine, &|_| {}), &bytes[..bytes.len() - 1].to_vec(), ErrorKind::Format, "cut"),
    ];
    for (session, bytes, kind, word) in &mut cases {
        let error = restore(session, bytes).map(drop).unwrap_err();
        assert!(error.kind() == *kind && error.message().contains(*word), "{word}: {error}");
        assert_eq!(session.n_past(), 0);
    }
    // The caller may refuse what came with it.
    let refuse = |_| Err::<(), _>(culet::Error::input("not this one"));
    assert!(run.restore(&mut Cursor::new(&bytes), refuse).is_err() && run.logits() == logits);
    // A shorter context of the same ring takes what fits.
    let mut short = made(&engine, &|o| o.n_ctx = 500);
    restore(&mut short, &bytes).unwrap();
    assert!(short.logits() == logits && short.n_past() == run.n_past());
}

/// FNV-1a, as the bytes say it.
fn sum(bytes: &[u8]) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    sum
}

#[test]
fn damaged_and_hostile_snapshots_change_nothing_and_break_nothing() {
    let engine = tiny();
    let mut run = session(&engine);
    let media = [picture(&mut run)];
    run.prompt(&asked(), &media).unwrap();
    answer(&mut run, 2);
    let whole = snapshot(&run, &media, b"{}");
    let (logits, n_past) = (run.logits().to_vec(), run.n_past());
    let mut rng = Rng(1);
    for n in (0..64).chain((0..200).map(|_| rng.below(whole.len()))) {
        assert!(restore(&mut run, &whole[..n]).is_err(), "{n} bytes");
    }
    let head = whole.len().min(8_000);
    let mut n_taken = 0;
    for seed in seeds(N_SEEDS) {
        let mut rng = Rng(seed);
        for case in 0..N_MUTANTS_PER_SEED {
            // Places behind the cache's start are only numbers; those before it steer.
            let mut mutant = whole[..head].to_vec();
            mutate(&mut mutant, &mut rng, 1 + case as usize % 3);
            mutant.extend_from_slice(&whole[head..]);
            let is_same = mutant == whole;
            assert_eq!(restore(&mut run, &mutant).is_ok(), is_same, "seed {seed}, case {case}");
            // The same with a checksum that fits reaches everything behind it.
            let end = mutant.len() - 8;
            let fixed = sum(&mutant[..end]).to_le_bytes();
            mutant[end..].copy_from_slice(&fixed);
            if restore(&mut run, &mutant).is_err() {
                assert!(run.logits() == logits && run.n_past() == n_past, "{seed}, {case}");
                continue;
            }
            n_taken += 1;
            let _ = run.next(&mut |_| {});
            let _ = run.prompt(&asked(), &media);
            restore(&mut run, &whole).unwrap();
        }
    }
    assert!(n_taken > 20, "{n_taken} mutants were taken");
    let mut fresh = session(&engine);
    restore(&mut fresh, &whole).unwrap();
    assert!(answer(&mut run, 8) == answer(&mut fresh, 8));
}
