//! The C interface from the outside: text, pictures, sounds, threads, misuse.
//!
//! In: the tiny model that is shipped. Out: behaviour, through the functions of the header alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot open its model has failed")]
#![expect(clippy::undocumented_unsafe_blocks, reason = "every block calls the interface")]

use std::ffi::CStr;
use std::ffi::CString;
use std::path::PathBuf;
use std::ptr::null;
use std::ptr::null_mut;

use culet_c::engine::*;
use culet_c::event::*;
use culet_c::log::*;
use culet_c::session::answer::*;
use culet_c::session::append::*;
use culet_c::session::live::*;
use culet_c::session::object::*;
use culet_c::session::option::*;
use culet_c::status::*;

const RATE_HZ: u32 = 16_000;

fn model(name: &str) -> CString {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    CString::new(root.join("models/tiny").join(name).to_str().unwrap()).unwrap()
}

fn no_error() -> Error {
    Error { status: CULET_OK, message: [0; CULET_ERROR_MESSAGE_BYTES] }
}

fn message(error: &Error) -> String {
    unsafe { CStr::from_ptr(error.message.as_ptr()) }.to_str().unwrap().to_owned()
}

/// Runs a call that must succeed.
#[track_caller]
fn ok(call: impl FnOnce(*mut Error) -> Status) {
    let mut error = no_error();
    let status = call(&raw mut error);
    assert_eq!(status, CULET_OK, "{}", message(&error));
}

/// Runs a call that must fail and returns what it says.
#[track_caller]
fn fails(expected: Status, call: impl FnOnce(*mut Error) -> Status) -> String {
    let mut error = no_error();
    let status = call(&raw mut error);
    let text = message(&error);
    assert_eq!((status, error.status), (expected, expected), "{text}");
    assert!(!text.is_empty() && !text.ends_with('.'), "{text:?}");
    text
}

fn engine_options() -> *mut EngineOptions {
    let mut options = null_mut();
    ok(|e| unsafe { culet_engine_options_new(CULET_ABI_VERSION, &raw mut options, e) });
    ok(|e| unsafe { culet_engine_options_set_threads(options, 1, e) });
    options
}

fn open(with_mmproj: bool) -> *mut Engine {
    let options = engine_options();
    let (text, mmproj) = (model("culet-tiny-q4_0.gguf"), model("mmproj-culet-tiny-q8_0.gguf"));
    let mmproj = if with_mmproj { mmproj.as_ptr() } else { null() };
    let mut engine = null_mut();
    ok(|e| unsafe { culet_engine_open(options, text.as_ptr(), mmproj, &raw mut engine, e) });
    unsafe { culet_engine_options_free(options) };
    engine
}

fn session(engine: *const Engine, n_ctx: usize) -> *mut Session {
    let mut options = null_mut();
    let mut session = null_mut();
    ok(|e| unsafe { culet_session_options_new(&raw mut options, e) });
    ok(|e| unsafe { culet_session_options_set_size(options, n_ctx, 64, e) });
    ok(|e| unsafe { culet_session_options_set_cache(options, CULET_CACHE_F32, e) });
    ok(|e| unsafe { culet_session_options_set_sampling(options, 0.0, 0, 1.0, 0.0, e) });
    ok(|e| unsafe { culet_session_options_set_seed(options, 7, e) });
    ok(|e| unsafe { culet_session_options_set_penalties(options, 64, 1.0, 0.0, 0.0, e) });
    ok(|e| unsafe { culet_session_new(engine, options, &raw mut session, e) });
    unsafe { culet_session_options_free(options) };
    session
}

fn say(session: *mut Session, text: &str) {
    let text = CString::new(text).unwrap();
    ok(|e| unsafe { culet_session_append_text(session, text.as_ptr(), e) });
}

fn prompt(session: *mut Session) -> Stats {
    let mut stats = Stats { n_prompt: 0, n_reused: 0 };
    ok(|e| unsafe { culet_session_prompt(session, &raw mut stats, e) });
    stats
}

fn next(session: *mut Session) -> (i32, i32, String) {
    let mut event = Event { kind: -1, stop: -1, data: null(), len: 0 };
    ok(|e| unsafe { culet_session_next(session, &raw mut event, e) });
    let text = unsafe { CStr::from_ptr(event.data) }.to_str().unwrap().to_owned();
    assert_eq!(text.len(), event.len);
    (event.kind, event.stop, text)
}

/// Pulls at most `n_max` events and then the end; returns what was said and called, and why it
/// ended.
fn answer(session: *mut Session, n_max: usize) -> (String, i32) {
    let mut all = String::new();
    for n in 0.. {
        if n == n_max {
            ok(|e| unsafe { culet_session_cut(session, e) });
        }
        let (kind, stop, text) = next(session);
        match kind {
            CULET_EVENT_END => return (all, stop),
            CULET_EVENT_ANSWER | CULET_EVENT_THOUGHT | CULET_EVENT_TOOL_CALL => all += &text,
            CULET_EVENT_NONE | CULET_EVENT_BROKEN_CALL => {}
            _ => panic!("event {kind}"),
        }
        assert_eq!(stop, CULET_STOP_NONE);
    }
    unreachable!("an answer without end")
}

fn logits(session: *mut Session) -> Vec<f32> {
    let (mut data, mut n) = (null(), 0);
    ok(|e| unsafe { culet_session_logits(session, &raw mut data, &raw mut n, e) });
    unsafe { std::slice::from_raw_parts(data, n) }.to_vec()
}

/// A tone that rises and falls.
fn sound(n: usize) -> Vec<f32> {
    let wave = |i: usize| {
        let t = i as f32 / RATE_HZ as f32;
        0.3 * (t * (900.0 + 500.0 * (t * 3.0).sin())).sin() + 0.01 * (i % 17) as f32 / 17.0
    };
    (0..n).map(wave).collect()
}

fn free(session: *mut Session, engine: *mut Engine) {
    unsafe {
        culet_session_free(session);
        culet_engine_free(engine);
    }
}

#[test]
fn a_chat_goes_on_and_keeps_what_it_has() {
    let engine = open(false);
    let run = session(engine, 1024);
    let system = c"[{\"role\": \"system\", \"content\": \"Be brief.\"}]";
    ok(|e| unsafe { culet_session_append_messages(run, system.as_ptr(), e) });
    say(run, "hello there");
    let first = prompt(run);
    assert_eq!(first.n_reused, 0);
    assert_eq!(unsafe { culet_session_n_past(run) }, first.n_prompt);
    assert_eq!(unsafe { culet_session_n_ctx(run) }, 1024);
    let (said, _) = answer(run, 12);
    let n_past = unsafe { culet_session_n_past(run) };
    assert!(n_past > first.n_prompt || said.is_empty());
    say(run, "and now?");
    assert!(prompt(run).n_reused >= first.n_prompt - 4);
    // The same from the beginning, and once more after everything was forgotten.
    ok(|e| unsafe { culet_session_clear(run, e) });
    assert_eq!(unsafe { culet_session_n_past(run) }, 0);
    assert!(logits(run).is_empty());
    ok(|e| unsafe { culet_session_append_messages(run, system.as_ptr(), e) });
    say(run, "hello there");
    assert_eq!(prompt(run), first);
    assert_eq!(answer(run, 12).0, said);
    free(run, engine);
}

#[test]
fn an_answer_that_is_cut_ends_once() {
    let engine = open(false);
    let run = session(engine, 256);
    say(run, "tell me a story");
    prompt(run);
    ok(|e| unsafe { culet_session_cut(run, e) });
    assert_eq!(answer(run, 100).1, CULET_STOP_CUT);
    ok(|e| unsafe { culet_session_cut(run, e) });
    let mut event = Event { kind: -1, stop: -1, data: null(), len: 0 };
    let text = fails(CULET_ERR_INPUT, |e| unsafe { culet_session_next(run, &raw mut event, e) });
    assert_eq!((event.kind, &text[..]), (-1, "there is no prompt to answer"));
    free(run, engine);
}

#[test]
fn media_fill_named_places_or_join_the_turn() {
    let engine = open(true);
    assert!(unsafe { culet_engine_sees(engine) && culet_engine_hears(engine) });
    let (width, height, stride) = (50_u32, 40_u32, 160_usize);
    let rgb: Vec<u8> = (0..stride * 40).map(|i| (i % 251) as u8).collect();
    let samples = sound(20_000);
    let show = |s| {
        ok(|e| unsafe {
            culet_session_append_image(s, rgb.as_ptr(), width, height, stride, 70, e)
        });
    };
    let hear = |s| {
        let (pcm, n) = (samples.as_ptr(), samples.len());
        ok(|e| unsafe { culet_session_append_audio(s, pcm, n, RATE_HZ, e) });
    };
    let joined = session(engine, 512);
    show(joined);
    hear(joined);
    say(joined, "Transcribe.");
    prompt(joined);
    let named = session(engine, 512);
    let places = c"{\"role\": \"user\", \"content\": [{\"type\": \"image\"}, {\"type\": \"audio\"},
        {\"type\": \"text\", \"text\": \"Transcribe.\"}]}";
    show(named);
    ok(|e| unsafe { culet_session_append_messages(named, places.as_ptr(), e) });
    fails(CULET_ERR_INPUT, |e| unsafe { culet_session_prompt(named, null_mut(), e) });
    hear(named);
    prompt(named);
    assert!(!logits(named).is_empty() && logits(named) == logits(joined));
    assert_eq!(answer(named, 20), answer(joined, 20));
    // Rows without padding are the same picture.
    let packed: Vec<u8> = rgb.chunks(stride).flat_map(|r| &r[..150]).copied().collect();
    ok(|e| unsafe { culet_session_clear(named, e) });
    ok(|e| unsafe {
        culet_session_append_image(named, packed.as_ptr(), width, height, 150, 70, e)
    });
    hear(named);
    say(named, "Transcribe.");
    prompt(named);
    ok(|e| unsafe { culet_session_clear(joined, e) });
    show(joined);
    hear(joined);
    say(joined, "Transcribe.");
    prompt(joined);
    assert!(logits(named) == logits(joined));
    unsafe { culet_session_free(joined) };
    free(named, engine);
}

#[test]
fn sound_in_packets_equals_the_whole() {
    let engine = open(true);
    let samples = sound(RATE_HZ as usize * 2 + 333);
    let whole = session(engine, 512);
    let (pcm, n) = (samples.as_ptr(), samples.len());
    ok(|e| unsafe { culet_session_append_audio(whole, pcm, n, RATE_HZ, e) });
    let stats = prompt(whole);
    let live = session(engine, 512);
    ok(|e| unsafe { culet_session_begin_sound(live, null_mut(), e) });
    let hear = |packet: &[f32]| {
        let (pcm, n) = (packet.as_ptr(), packet.len());
        ok(|e| unsafe { culet_session_hear(live, pcm, n, RATE_HZ, e) });
    };
    let (first, second) = samples.split_at(17_000);
    first.chunks(1234).for_each(hear);
    // Three guesses: one that is taken back, one that more sound undoes, one that holds.
    ok(|e| unsafe { culet_session_guess_end(live, e) });
    next(live);
    let mut n_wasted = 0;
    ok(|e| unsafe { culet_session_take_back(live, &raw mut n_wasted, e) });
    assert!(n_wasted > 0);
    ok(|e| unsafe { culet_session_guess_end(live, e) });
    next(live);
    second.chunks(800).for_each(hear);
    ok(|e| unsafe { culet_session_guess_end(live, e) });
    assert!(logits(live) == logits(whole));
    ok(|e| unsafe { culet_session_end_sound(live, e) });
    assert_eq!(unsafe { culet_session_n_past(live) }, stats.n_prompt);
    let (said, stop) = answer(live, 20);
    assert_eq!((said, stop), answer(whole, 20));
    for run in [live, whole] {
        say(run, "again?");
        assert!(prompt(run).n_reused > 50);
    }
    unsafe { culet_session_free(live) };
    free(whole, engine);
}

#[test]
fn a_sound_can_be_dropped() {
    let engine = open(true);
    let (run, plain) = (session(engine, 256), session(engine, 256));
    say(run, "hello");
    ok(|e| unsafe { culet_session_begin_sound(run, null_mut(), e) });
    let text =
        fails(CULET_ERR_INPUT, |e| unsafe { culet_session_append_text(run, c"more".as_ptr(), e) });
    assert!(text.contains("sound"), "{text}");
    let samples = sound(5000);
    ok(|e| unsafe { culet_session_hear(run, samples.as_ptr(), samples.len(), RATE_HZ, e) });
    ok(|e| unsafe { culet_session_drop_sound(run, e) });
    ok(|e| unsafe { culet_session_drop_sound(run, e) });
    fails(CULET_ERR_INPUT, |e| unsafe { culet_session_hear(run, samples.as_ptr(), 1, RATE_HZ, e) });
    // One that is too short is dropped by its end.
    ok(|e| unsafe { culet_session_begin_sound(run, null_mut(), e) });
    fails(CULET_ERR_INPUT, |e| unsafe { culet_session_end_sound(run, e) });
    say(plain, "hello");
    let (all, same) = (prompt(plain), prompt(run));
    assert_eq!(all.n_prompt, same.n_prompt);
    assert_eq!(answer(run, 8), answer(plain, 8));
    unsafe { culet_session_free(plain) };
    free(run, engine);
}

fn snapshot(session: *mut Session) -> Vec<u8> {
    let (mut data, mut n) = (null(), 0);
    ok(|e| unsafe { culet_session_snapshot(session, &raw mut data, &raw mut n, e) });
    unsafe { std::slice::from_raw_parts(data, n) }.to_vec()
}

fn n_messages(session: *mut Session) -> usize {
    let mut n = 0;
    ok(|e| unsafe { culet_session_n_messages(session, &raw mut n, e) });
    n
}

#[test]
fn a_restored_session_goes_on_in_the_middle_of_an_answer() {
    let engine = open(true);
    let (stayed, back) = (session(engine, 512), session(engine, 512));
    let rgb = vec![90_u8; 3 * 48 * 48];
    let show =
        |s| ok(|e| unsafe { culet_session_append_image(s, rgb.as_ptr(), 48, 48, 144, 70, e) });
    show(stayed);
    say(stayed, "What is this?");
    prompt(stayed);
    (0..3).for_each(|_| drop(next(stayed)));
    let bytes = snapshot(stayed);
    say(back, "something else");
    prompt(back);
    ok(|e| unsafe { culet_session_restore(back, bytes.as_ptr(), bytes.len(), e) });
    let n_past = |s| unsafe { culet_session_n_past(s) };
    assert_eq!((n_past(back), n_messages(back)), (n_past(stayed), n_messages(stayed)));
    assert_eq!(answer(back, 20), answer(stayed, 20));
    assert!(logits(back) == logits(stayed));
    // The conversation came along, with its picture, and what was appended but not prompted.
    for run in [stayed, back] {
        show(run);
        say(run, "And this?");
    }
    let bytes = snapshot(stayed);
    ok(|e| unsafe { culet_session_restore(back, bytes.as_ptr(), bytes.len(), e) });
    assert_eq!(prompt(back), prompt(stayed));
    assert_eq!(answer(back, 20), answer(stayed, 20));
    // A view can be restored from at once, though the call ends it.
    let (mut data, mut n) = (null(), 0);
    let before = logits(back);
    ok(|e| unsafe { culet_session_snapshot(back, &raw mut data, &raw mut n, e) });
    ok(|e| unsafe { culet_session_restore(back, data, n, e) });
    assert!(logits(back) == before);
    // What is no snapshot, or half of one, changes nothing.
    for n in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        fails(CULET_ERR_FORMAT, |e| unsafe { culet_session_restore(back, bytes.as_ptr(), n, e) });
    }
    let other = session(engine, 512);
    ok(|e| unsafe { culet_session_begin_sound(other, null_mut(), e) });
    let (mut data, mut n) = (null(), 0);
    let text = fails(CULET_ERR_INPUT, |e| unsafe {
        culet_session_snapshot(other, &raw mut data, &raw mut n, e)
    });
    assert!(text.contains("sound") && data.is_null(), "{text}");
    assert!(logits(back) == before);
    unsafe {
        culet_session_free(other);
        culet_session_free(back);
    }
    free(stayed, engine);
}

#[test]
fn a_session_goes_back_to_an_earlier_message() {
    let engine = open(false);
    let run = session(engine, 512);
    say(run, "hello there");
    let first = prompt(run);
    let said = answer(run, 12);
    say(run, "and now?");
    prompt(run);
    next(run);
    let n = n_messages(run);
    assert!((3..=4).contains(&n), "{n}");
    let text = fails(CULET_ERR_INPUT, |e| unsafe { culet_session_rewind(run, n + 1, e) });
    assert!(text.contains(&n.to_string()), "{text}");
    ok(|e| unsafe { culet_session_rewind(run, 1, e) });
    assert_eq!(n_messages(run), 1);
    let mut event = Event { kind: -1, stop: -1, data: null(), len: 0 };
    fails(CULET_ERR_INPUT, |e| unsafe { culet_session_next(run, &raw mut event, e) });
    let again = prompt(run);
    assert_eq!((again.n_prompt, again.n_reused), (first.n_prompt, first.n_prompt - 1));
    assert_eq!(answer(run, 12), said);
    free(run, engine);
}

struct Shared<T>(*mut T);

unsafe impl<T> Send for Shared<T> {}
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn ptr(&self) -> *mut T {
        self.0
    }
}

#[test]
fn another_thread_cancels_and_the_call_can_be_repeated() {
    let engine = open(false);
    let run = Shared(session(engine, 2048));
    say(run.ptr(), &"one two three four ".repeat(200));
    // A request that nothing computes under stops the next call, once.
    unsafe { culet_session_cancel(run.ptr()) };
    fails(CULET_ERR_CANCELLED, |e| unsafe { culet_session_prompt(run.ptr(), null_mut(), e) });
    let n_cancelled = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut n_cancelled = 0;
            loop {
                let status = unsafe { culet_session_prompt(run.ptr(), null_mut(), null_mut()) };
                match status {
                    CULET_OK if n_cancelled > 0 => return n_cancelled,
                    CULET_ERR_CANCELLED => n_cancelled += 1,
                    status => assert_eq!(status, CULET_OK),
                }
            }
        });
        while !worker.is_finished() {
            unsafe { culet_session_cancel(run.ptr()) };
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        worker.join().unwrap()
    });
    assert!(n_cancelled > 0);
    ok(|e| unsafe { culet_session_clear(run.ptr(), e) });
    say(run.ptr(), "hello");
    prompt(run.ptr());
    unsafe { culet_session_cancel(run.ptr()) };
    answer_after_cancel(run.ptr());
    free(run.ptr(), engine);
}

fn answer_after_cancel(run: *mut Session) {
    let mut event = Event { kind: -1, stop: -1, data: null(), len: 0 };
    for _ in 0..3 {
        let status = unsafe { culet_session_next(run, &raw mut event, null_mut()) };
        if status != CULET_OK {
            assert_eq!(status, CULET_ERR_CANCELLED);
            break;
        }
    }
    assert!(!answer(run, 8).0.is_empty() || event.kind != -1);
}

#[test]
fn two_sessions_answer_at_once_and_free_in_any_order() {
    let engine = open(false);
    let runs = [session(engine, 256), session(engine, 256)].map(Shared);
    unsafe { culet_engine_free(engine) };
    let said = std::thread::scope(|scope| {
        let threads = runs.each_ref().map(|run| {
            scope.spawn(|| {
                say(run.ptr(), "hello there");
                prompt(run.ptr());
                answer(run.ptr(), 16)
            })
        });
        threads.map(|t| t.join().unwrap())
    });
    assert_eq!(said[0], said[1]);
    runs.iter().for_each(|run| unsafe { culet_session_free(run.ptr()) });
}

/// Repeats a call until nobody cancels it.
fn in_the_end(mut call: impl FnMut() -> Status) {
    for _ in 0..100 {
        match call() {
            CULET_OK => return,
            status => assert_eq!(status, CULET_ERR_CANCELLED),
        }
    }
    panic!("cancelled a hundred times");
}

/// Asks about a picture; returns what is said in the first tokens, and whether it ended.
fn see_and_say(run: *mut Session) -> (String, bool) {
    let rgb: Vec<u8> = (0..3 * 48 * 48).map(|i| (i % 251) as u8).collect();
    let none = null_mut();
    in_the_end(|| unsafe { culet_session_append_image(run, rgb.as_ptr(), 48, 48, 144, 70, none) });
    say(run, "What is this?");
    in_the_end(|| unsafe { culet_session_prompt(run, null_mut(), none) });
    let mut event = Event { kind: -1, stop: -1, data: null(), len: 0 };
    let mut said = String::new();
    for _ in 0..200 {
        in_the_end(|| unsafe { culet_session_next(run, &raw mut event, none) });
        match event.kind {
            CULET_EVENT_END => return (said, true),
            CULET_EVENT_ANSWER => said += unsafe { CStr::from_ptr(event.data) }.to_str().unwrap(),
            _ => {}
        }
    }
    (said, false)
}

#[test]
fn many_sessions_share_an_engine_and_some_are_cancelled_at_random() {
    let (first, engine) = (open(true), Shared(open(true)));
    let run = session(first, 256);
    let expected = see_and_say(run);
    assert!(expected.1);
    free(run, first);
    // All of them are the first to ask this engine for its eye.
    let runs: Vec<_> = (0..6).map(|_| Shared(session(engine.ptr(), 256))).collect();
    unsafe { culet_engine_free(engine.ptr()) };
    std::thread::scope(|scope| {
        for (i, run) in runs.iter().enumerate() {
            let expected = &expected;
            scope.spawn(move || {
                let said = see_and_say(run.ptr());
                assert!(said.1 && (i % 2 == 1 || said == *expected), "{i}: {said:?}");
            });
            if i % 2 == 1 {
                scope.spawn(move || {
                    for n in 0..8_u64 {
                        std::thread::sleep(std::time::Duration::from_millis(
                            (i as u64 * 7 + n) % 9,
                        ));
                        unsafe { culet_session_cancel(run.ptr()) };
                    }
                });
            }
        }
    });
    runs.iter().rev().for_each(|run| unsafe { culet_session_free(run.ptr()) });
}

#[test]
fn two_threads_in_one_session_are_told_so() {
    let engine = open(false);
    let run = Shared(session(engine, 2048));
    say(run.ptr(), &"one two three four ".repeat(200));
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let prompt = || unsafe { culet_session_prompt(run.ptr(), null_mut(), null_mut()) };
            while prompt() == CULET_ERR_BUSY {
                std::thread::yield_now();
            }
        });
        let mut n_busy = 0;
        while !worker.is_finished() {
            let (mut data, mut n) = (null(), 0);
            let status =
                unsafe { culet_session_logits(run.ptr(), &raw mut data, &raw mut n, null_mut()) };
            assert!([CULET_OK, CULET_ERR_BUSY].contains(&status), "{status}");
            n_busy += usize::from(status == CULET_ERR_BUSY);
            assert!(unsafe { culet_session_n_past(run.ptr()) } < 2048);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(n_busy > 0);
    });
    free(run.ptr(), engine);
}

#[cfg(unix)]
#[test]
fn models_open_from_descriptors_inside_other_files() {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    let bytes = std::fs::read(model("culet-tiny-q4_0.gguf").to_str().unwrap()).unwrap();
    let path = std::env::temp_dir().join(format!("culet-ffi-{}.pack", std::process::id()));
    let mut pack = std::fs::File::create(&path).unwrap();
    pack.write_all(&[0; 64]).unwrap();
    pack.write_all(&bytes).unwrap();
    pack.write_all(b"something else").unwrap();
    let pack = std::fs::File::open(&path).unwrap();
    let file =
        File { descriptor: pack.as_raw_fd(), offset_bytes: 64, size_bytes: bytes.len() as u64 };
    let options = engine_options();
    let mut engine = null_mut();
    let open = |file: File, engine: *mut *mut Engine, e: *mut Error| unsafe {
        culet_engine_open_file(options, &raw const file, null(), engine, e)
    };
    for (bad, status) in [
        (File { descriptor: -1, ..file }, CULET_ERR_INPUT),
        (File { descriptor: 1_000_000, ..file }, CULET_ERR_IO),
        (File { offset_bytes: 63, ..file }, CULET_ERR_INPUT),
        (File { offset_bytes: u64::MAX - 31, ..file }, CULET_ERR_INPUT),
        (File { size_bytes: u64::MAX, ..file }, CULET_ERR_INPUT),
        (File { offset_bytes: 0, ..file }, CULET_ERR_FORMAT),
    ] {
        fails(status, |e| open(bad, &raw mut engine, e));
        assert!(engine.is_null());
    }
    ok(|e| open(file, &raw mut engine, e));
    drop(pack);
    std::fs::remove_file(&path).unwrap();
    let run = session(engine, 128);
    assert!(!unsafe { culet_engine_sees(engine) || culet_engine_hears(engine) });
    unsafe { culet_engine_options_free(options) };
    say(run, "hello");
    prompt(run);
    assert!(!logits(run).is_empty());
    free(run, engine);
}

#[test]
fn null_is_an_error_everywhere_and_fine_to_free() {
    let (text, pcm) = (c"x".as_ptr(), [0.0_f32].as_ptr());
    let none: *mut Session = null_mut();
    let mut event = Event { kind: 0, stop: 0, data: null(), len: 0 };
    let (mut engine, mut session) = (null_mut(), null_mut());
    let options: *mut EngineOptions = null_mut();
    let run_options: *mut SessionOptions = null_mut();
    type Call<'a> = Box<dyn FnMut(*mut Error) -> Status + 'a>;
    #[rustfmt::skip]
    let calls: Vec<Call<'_>> = unsafe { vec![
        Box::new(|e| culet_engine_options_new(CULET_ABI_VERSION, null_mut(), e)),
        Box::new(|e| culet_engine_options_set_threads(options, 1, e)),
        Box::new(|e| culet_engine_options_set_gpu(options, null(), e)),
        Box::new(|e| culet_engine_options_set_gpu_memory_max(options, 1, e)),
        Box::new(|e| culet_engine_options_set_memory_max(options, 1, e)),
        Box::new(|e| culet_engine_open(options, text, null(), &raw mut engine, e)),
        Box::new(|e| culet_engine_open_file(options, null(), null(), null_mut(), e)),
        Box::new(|e| culet_session_options_new(null_mut(), e)),
        Box::new(|e| culet_session_options_set_size(run_options, 1, 1, e)),
        Box::new(|e| culet_session_options_set_cache(run_options, 1, e)),
        Box::new(|e| culet_session_options_set_sampling(run_options, 0.0, 0, 1.0, 0.0, e)),
        Box::new(|e| culet_session_options_set_seed(run_options, 1, e)),
        Box::new(|e| culet_session_options_set_penalties(run_options, 1, 1.0, 0.0, 0.0, e)),
        Box::new(|e| culet_session_new(null(), null(), &raw mut session, e)),
        Box::new(|e| culet_session_clear(none, e)),
        Box::new(|e| culet_session_append_messages(none, text, e)),
        Box::new(|e| culet_session_append_text(none, text, e)),
        Box::new(|e| culet_session_append_image(none, null(), 1, 1, 3, 70, e)),
        Box::new(|e| culet_session_append_audio(none, pcm, 1, RATE_HZ, e)),
        Box::new(|e| culet_session_prompt(none, null_mut(), e)),
        Box::new(|e| culet_session_next(none, &raw mut event, e)),
        Box::new(|e| culet_session_cut(none, e)),
        Box::new(|e| culet_session_logits(none, null_mut(), null_mut(), e)),
        Box::new(|e| culet_session_begin_sound(none, null_mut(), e)),
        Box::new(|e| culet_session_hear(none, pcm, 1, RATE_HZ, e)),
        Box::new(|e| culet_session_guess_end(none, e)),
        Box::new(|e| culet_session_take_back(none, null_mut(), e)),
        Box::new(|e| culet_session_end_sound(none, e)),
        Box::new(|e| culet_session_drop_sound(none, e)),
        Box::new(|e| culet_session_rewind(none, 0, e)),
        Box::new(|e| culet_session_n_messages(none, null_mut(), e)),
        Box::new(|e| culet_session_snapshot(none, null_mut(), null_mut(), e)),
        Box::new(|e| culet_session_restore(none, null(), 1, e)),
    ] };
    for mut call in calls {
        let text = fails(CULET_ERR_NULL, &mut call);
        assert!(text.ends_with("is NULL"), "{text}");
        assert_eq!(call(null_mut()), CULET_ERR_NULL);
    }
    unsafe {
        culet_engine_options_free(options);
        culet_session_options_free(run_options);
        culet_session_cancel(none);
        assert_eq!((culet_session_n_past(none), culet_session_n_ctx(none)), (0, 0));
        assert!(!culet_engine_sees(null()) && !culet_engine_hears(null()));
    }
    free(none, null_mut());
    assert!(engine.is_null() && session.is_null());
}

#[test]
fn nonsense_is_refused_and_harms_nothing() {
    let engine = open(true);
    let run = session(engine, 256);
    say(run, "hello");
    let pixels = [0_u8; 12];
    let image = |p: *const u8, w, h, stride, budget| {
        move |e: *mut Error| unsafe { culet_session_append_image(run, p, w, h, stride, budget, e) }
    };
    fails(CULET_ERR_INPUT, image(pixels.as_ptr(), 0, 2, 6, 70));
    fails(CULET_ERR_INPUT, image(pixels.as_ptr(), u32::MAX, u32::MAX, 6, 70));
    fails(CULET_ERR_INPUT, image(pixels.as_ptr(), 2, 2, 5, 70));
    fails(CULET_ERR_INPUT, image(pixels.as_ptr(), 2, 2, usize::MAX, 70));
    fails(CULET_ERR_INPUT, image(pixels.as_ptr(), 2, 2, usize::MAX / 2, 70));
    fails(CULET_ERR_INPUT, image(pixels.as_ptr(), 2, 2, 6, 71));
    fails(CULET_ERR_NULL, image(null(), 2, 2, 6, 70));
    let odd = [0.0_f32, f32::NAN];
    let audio = |p: *const f32, n, rate| {
        move |e: *mut Error| unsafe { culet_session_append_audio(run, p, n, rate, e) }
    };
    fails(CULET_ERR_INPUT, audio(odd.as_ptr(), 2, RATE_HZ));
    fails(CULET_ERR_INPUT, audio(odd.as_ptr(), 1, 0));
    fails(CULET_ERR_INPUT, audio(odd.as_ptr(), usize::MAX, RATE_HZ));
    fails(CULET_ERR_INPUT, audio(null(), 0, RATE_HZ));
    fails(CULET_ERR_NULL, audio(null(), 1, RATE_HZ));
    for json in [c"", c"[", c"[{\"role\": 3}]", c"\xff", c"7"] {
        fails(CULET_ERR_INPUT, |e| unsafe { culet_session_append_messages(run, json.as_ptr(), e) });
    }
    let deep = CString::new("[".repeat(100_000)).unwrap();
    fails(CULET_ERR_INPUT, |e| unsafe { culet_session_append_messages(run, deep.as_ptr(), e) });
    for call in [culet_session_guess_end, culet_session_end_sound] {
        fails(CULET_ERR_INPUT, |e| unsafe { call(run, e) });
    }
    let plain = session(engine, 256);
    say(plain, "hello");
    assert_eq!(prompt(run), prompt(plain));
    assert!(logits(run) == logits(plain));
    say(run, &"far too long ".repeat(500));
    let text = fails(CULET_ERR_INPUT, |e| unsafe { culet_session_prompt(run, null_mut(), e) });
    assert!(text.contains("256"), "{text}");
    unsafe { culet_session_free(plain) };
    free(run, engine);
}

#[test]
fn options_are_checked() {
    let options = engine_options();
    let mut engine = null_mut();
    let mut none = null_mut();
    for version in [0, 999, 1999, 2000, u32::MAX] {
        let text = fails(CULET_ERR_ABI, |e| unsafe {
            culet_engine_options_new(version, &raw mut none, e)
        });
        assert!(text.contains("CULET_ABI_VERSION") && none.is_null(), "{text}");
    }
    fails(CULET_ERR_INPUT, |e| unsafe { culet_engine_options_set_threads(options, 9999, e) });
    ok(|e| unsafe { culet_engine_options_set_memory_max(options, 1 << 20, e) });
    let missing = c"no/such/file.gguf".as_ptr();
    fails(CULET_ERR_IO, |e| unsafe {
        culet_engine_open(options, missing, null(), &raw mut engine, e)
    });
    let here = CString::new(env!("CARGO_MANIFEST_DIR")).unwrap();
    fails(CULET_ERR_IO, |e| unsafe {
        culet_engine_open(options, here.as_ptr(), null(), &raw mut engine, e)
    });
    let text = model("culet-tiny-q4_0.gguf");
    ok(|e| unsafe { culet_engine_open(options, text.as_ptr(), null(), &raw mut engine, e) });
    let mut run = null_mut();
    let too_large = |e: *mut Error| unsafe { culet_session_new(engine, null(), &raw mut run, e) };
    fails(CULET_ERR_MEMORY, too_large);
    assert!(run.is_null());
    unsafe { culet_engine_free(engine) };
    ok(|e| unsafe { culet_engine_options_set_gpu_memory_max(options, 1 << 30, e) });
    ok(|e| unsafe { culet_engine_options_set_gpu(options, c"no such GPU".as_ptr(), e) });
    let mut engine = null_mut();
    let mut error = no_error();
    let (options_of, text_of, place) = (options, text.as_ptr(), &raw mut engine);
    let status = unsafe { culet_engine_open(options_of, text_of, null(), place, &raw mut error) };
    assert!(status != CULET_OK && message(&error).contains("no such GPU"));
    unsafe { culet_engine_options_free(options) };
    session_options_are_checked();
}

fn session_options_are_checked() {
    let engine = open(false);
    let (mut options, mut run) = (null_mut(), null_mut());
    ok(|e| unsafe { culet_session_options_new(&raw mut options, e) });
    fails(CULET_ERR_INPUT, |e| unsafe { culet_session_options_set_cache(options, 9, e) });
    for (n_ctx, n_batch) in [(0, 64), (64, 0), (0, 0), (64, usize::MAX)] {
        ok(|e| unsafe { culet_session_options_set_size(options, n_ctx, n_batch, e) });
        fails(CULET_ERR_INPUT, |e| unsafe { culet_session_new(engine, options, &raw mut run, e) });
    }
    ok(|e| unsafe { culet_session_options_set_size(options, 64, 64, e) });
    for (temperature, top_p) in [(f32::NAN, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, f32::INFINITY)] {
        ok(|e| unsafe {
            culet_session_options_set_sampling(options, temperature, 0, top_p, 0.0, e)
        });
        fails(CULET_ERR_INPUT, |e| unsafe { culet_session_new(engine, options, &raw mut run, e) });
    }
    assert!(run.is_null());
    unsafe { culet_session_options_free(options) };
    unsafe { culet_engine_free(engine) };
}

#[test]
fn versions_and_names_are_texts() {
    assert_eq!(culet_abi_version(), CULET_ABI_VERSION);
    let text = |p| unsafe { CStr::from_ptr(p) }.to_str().unwrap();
    assert_eq!(text(culet_version()), env!("CARGO_PKG_VERSION"));
    let names: Vec<&str> = (101..=113).map(|s| text(culet_status_name(s))).collect();
    assert_eq!((names[0], names[11], names[12]), ("io", "abi", "unknown"));
    assert_eq!(text(culet_status_name(0)), "ok");
}

unsafe extern "C" fn count(
    user: *mut std::ffi::c_void,
    level: i32,
    text: *const std::ffi::c_char,
    len: usize,
) {
    let n = unsafe { &*user.cast::<std::sync::atomic::AtomicUsize>() };
    let text = unsafe { CStr::from_ptr(text) };
    assert!((CULET_LOG_ERROR..=CULET_LOG_TRACE).contains(&level) && text.count_bytes() == len);
    assert!(!text.to_string_lossy().contains("xyzzy"));
    n.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

#[test]
fn the_log_calls_back_without_what_was_said() {
    static LINES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let user = (&raw const LINES).cast_mut().cast();
    for level in [0, 6, -1] {
        fails(CULET_ERR_INPUT, |e| unsafe { culet_log_set(Some(count), user, level, e) });
    }
    ok(|e| unsafe { culet_log_set(Some(count), user, CULET_LOG_TRACE, e) });
    let engine = open(false);
    // The context is too short for an answer, which is worth a warning.
    let run = session(engine, 32);
    say(run, "xyzzy xyzzy");
    prompt(run);
    let (_, stop) = answer(run, 100);
    ok(|e| unsafe { culet_log_set(None, null_mut(), CULET_LOG_ERROR, e) });
    let n = LINES.load(std::sync::atomic::Ordering::Relaxed);
    assert!(stop != CULET_STOP_CUT || n > 0, "{n} lines");
    free(run, engine);
}
