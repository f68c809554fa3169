//! Snapshots of Rust: notes, media, files. The rest is in `tests/both`.

use std::io::Cursor;
use std::sync::Arc;

use culet::ErrorKind;
use culet::Result;
use culet::engine::Engine;
use culet::session::Encoded;
use culet::session::Restored;
use culet::session::Session;
use culet::text::Conversation;
use serde_json::json;

use crate::both::native::Native;
use crate::both::scene::RATE_HZ;
use crate::both::scene::greedy;
use crate::both::scene::pcm;
use crate::both::scene::picture;
use crate::both::scene::sound;
use crate::both::side::Side;
use crate::both::side::TINY;

fn session(engine: &Arc<Engine>) -> Session {
    Session::new(engine, &greedy(512)).unwrap()
}

fn asked() -> Conversation {
    let content = json!([{ "type": "image" }, { "type": "text", "text": "What is this?" }]);
    Conversation::from_json(&json!([{ "role": "user", "content": content }])).unwrap()
}

/// Returns so many turns of a sound each, and the answers between them.
fn spoken(n_turns: usize) -> Conversation {
    let turn = json!({ "role": "user", "content": [{ "type": "audio" }] });
    let said = json!({ "role": "assistant", "content": "yes" });
    let all = (0..n_turns).flat_map(|_| [turn.clone(), said.clone()]);
    Conversation::from_json(&all.take(2 * n_turns - 1).collect()).unwrap()
}

fn shown(session: &mut Session) -> Arc<Encoded> {
    session.encode_picture(&picture(96, 0), 70).unwrap()
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
fn note_and_media_are_given_back_and_may_be_refused() {
    let engine = Native::open(TINY, None).unwrap();
    let (mut stayed, mut back) = (session(&engine), session(&engine));
    let media = [shown(&mut stayed)];
    stayed.prompt(&asked(), &media).unwrap();
    let bytes = snapshot(&stayed, &media, b"a note");
    let refuse = |_| Err::<(), _>(culet::Error::input("not this one"));
    assert!(back.restore(&mut Cursor::new(&bytes), refuse).is_err());
    assert!(back.n_past() == 0 && back.logits().is_empty());
    let restored = restore(&mut back, &bytes).unwrap();
    assert!(restored.note == b"a note" && restored.media == media);
    assert!(back.logits() == stayed.logits());
    // The picture is known again.
    assert!(Arc::ptr_eq(&shown(&mut back), &restored.media[0]));
}

#[test]
fn another_sound_is_not_taken_for_the_one_that_was_heard() {
    let engine = Native::open(TINY, None).unwrap();
    let (mut stayed, mut back) = (session(&engine), session(&engine));
    let [heard, stranger] = [(&mut stayed, 1), (&mut back, 2)].map(|(run, seed)| {
        run.begin_sound(&spoken(1), &[]).unwrap();
        run.hear(&pcm(&sound(RATE_HZ, seed))).unwrap();
        run.end_sound().unwrap()
    });
    let bytes = snapshot(&stayed, std::slice::from_ref(&heard), b"");
    let media = restore(&mut back, &bytes).unwrap().media;
    assert!(media == [Arc::clone(&heard)]);
    for (media, is_known) in [(media, true), (vec![stranger], false)] {
        restore(&mut back, &bytes).unwrap();
        let [own, other] = [(&mut stayed, vec![Arc::clone(&heard)]), (&mut back, media)]
            .map(|(session, media)| session.begin_sound(&spoken(2), &media).unwrap());
        assert_eq!(own.n_reused == other.n_reused, is_known);
    }
}

#[test]
fn a_file_holds_a_whole_snapshot() {
    let engine = Native::open(TINY, None).unwrap();
    let mut stayed = session(&engine);
    let media = [shown(&mut stayed)];
    stayed.prompt(&asked(), &media).unwrap();
    let folder = std::env::temp_dir().join(format!("culet-snapshot-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("talk.culet");
    stayed.snapshot_to_file(&media, b"one", &path).unwrap();
    assert!(std::fs::read(&path).unwrap() == snapshot(&stayed, &media, b"one"));
    stayed.begin_sound(&spoken(1), &[]).unwrap();
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
