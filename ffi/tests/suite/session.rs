//! Sessions of C: threads, views, pointers, descriptors, options, the log.
//!
//! In: the tiny model that is shipped. Out: what `tests/both` cannot say, because Rust has no such
//! thing.

use std::ffi::CStr;
use std::ffi::CString;
use std::io::Cursor;
use std::ptr::null;
use std::ptr::null_mut;
use std::sync::Arc;

use culet_c::engine::*;
use culet_c::event::*;
use culet_c::log::*;
use culet_c::session::answer::*;
use culet_c::session::append::*;
use culet_c::session::live::*;
use culet_c::session::object::*;
use culet_c::session::option::*;
use culet_c::status::*;

use crate::both::native::Native;
use crate::both::random::Rng;
use crate::both::random::seed;
use crate::both::scene::greedy;
use crate::both::scene::picture;
use crate::both::side::BLIND;
use crate::both::side::Files;
use crate::both::side::Said;
use crate::both::side::Side;
use crate::both::side::TINY;
use crate::both::side::path;
use crate::call::fails;
use crate::call::ok;
use crate::call::told;
use crate::side::C;
use crate::side::CEngine;

const RATE_HZ: u32 = 16_000;

fn open(files: Files) -> CEngine {
    C::open(files, None).unwrap()
}

fn session(engine: &CEngine, n_ctx: usize) -> C {
    C::new(engine, &greedy(n_ctx)).unwrap()
}

fn text_of(name: &str) -> CString {
    CString::new(path(name).to_str().unwrap()).unwrap()
}

/// Pulls an answer to its end, or cuts it; returns what was said.
fn answer(run: &mut C, n_max: usize) -> String {
    let mut all = String::new();
    for _ in 0..n_max {
        match run.next().unwrap() {
            Said::End(_) => return all,
            Said::Answer(text) | Said::Thought(text) => all += &text,
            _ => {}
        }
    }
    run.cut().unwrap();
    all
}

#[test]
fn rows_with_padding_are_the_same_picture() {
    let engine = open(TINY);
    let (width, height, stride) = (50_u32, 40_u32, 160_usize);
    let rgb: Vec<u8> = (0..stride * 40).map(|i| (i % 251) as u8).collect();
    let packed: Vec<u8> = rgb.chunks(stride).flat_map(|r| &r[..150]).copied().collect();
    let logits = [(&rgb, stride), (&packed, 150)].map(|(rgb, stride)| {
        let mut run = session(&engine, 512);
        ok(|e| unsafe {
            culet_session_append_image(run.0, rgb.as_ptr(), width, height, stride, 70, e)
        });
        run.append_text("What is this?").unwrap();
        // `stats` may be NULL.
        ok(|e| unsafe { culet_session_prompt(run.0, null_mut(), e) });
        run.logits()
    });
    assert!(!logits[0].is_empty() && logits[0] == logits[1]);
}

#[test]
fn a_view_can_be_restored_from_though_the_call_ends_it() {
    let engine = open(BLIND);
    let mut run = session(&engine, 256);
    run.append_text("hello there").unwrap();
    run.prompt().unwrap();
    let before = run.logits();
    let (mut data, mut n) = (null(), 0);
    ok(|e| unsafe { culet_session_snapshot(run.0, &raw mut data, &raw mut n, e) });
    ok(|e| unsafe { culet_session_restore(run.0, data, n, e) });
    assert!(run.logits() == before);
}

#[test]
fn a_snapshot_is_that_of_rust_with_the_conversation_as_its_note() {
    let engine = open(TINY);
    let mut run = session(&engine, 512);
    run.append_picture(&picture(48, 0), 70).unwrap();
    run.append_text("What is this?").unwrap();
    run.prompt().unwrap();
    run.next().unwrap();
    let bytes = run.snapshot().unwrap();
    let engine = Native::open(TINY, None).unwrap();
    let mut back = culet::session::Session::new(&engine, &greedy(512)).unwrap();
    let restored = back.restore(&mut Cursor::new(&bytes), Ok).unwrap();
    let mut again = Vec::new();
    let mut sink = |more: &[u8]| {
        again.extend_from_slice(more);
        Ok(())
    };
    back.snapshot(&restored.media, &restored.note, &mut sink).unwrap();
    assert!(again == bytes && back.logits() == run.logits());
    let note: serde_json::Value = serde_json::from_slice(&restored.note).unwrap();
    assert!(note.to_string().contains("What is this?"), "{note}");
}

struct Shared<T>(*mut T);

unsafe impl<T> Send for Shared<T> {}
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn ptr(&self) -> *mut T {
        self.0
    }
}

/// A session on its way to other threads.
struct Sent(C);

unsafe impl Send for Sent {}
unsafe impl Sync for Sent {}

impl Sent {
    fn into_inner(self) -> C {
        self.0
    }
}

#[test]
fn another_thread_cancels_and_the_call_can_be_repeated() {
    let engine = open(BLIND);
    let mut run = session(&engine, 2048);
    run.append_text(&"one two three four ".repeat(200)).unwrap();
    let shared = Shared(run.0);
    let n_cancelled = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut n_cancelled = 0;
            loop {
                let status = unsafe { culet_session_prompt(shared.ptr(), null_mut(), null_mut()) };
                match status {
                    CULET_OK if n_cancelled > 0 => return n_cancelled,
                    CULET_ERR_CANCELLED => n_cancelled += 1,
                    status => assert_eq!(status, CULET_OK),
                }
            }
        });
        while !worker.is_finished() {
            run.cancel();
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        worker.join().unwrap()
    });
    assert!(n_cancelled > 0);
    run.clear().unwrap();
    run.append_text("hello").unwrap();
    run.prompt().unwrap();
    run.cancel();
    for _ in 0..3 {
        let Err(error) = run.next() else { continue };
        assert_eq!(error.kind(), culet::ErrorKind::Cancelled);
        break;
    }
    assert!(!answer(&mut run, 8).is_empty());
}

#[test]
fn two_sessions_answer_at_once_and_free_in_any_order() {
    let engine = open(BLIND);
    let runs = [(); 2].map(|()| Sent(session(&engine, 256)));
    drop(engine);
    let said = runs.map(|run| {
        std::thread::spawn(move || {
            let mut run = run.into_inner();
            run.append_text("hello there").unwrap();
            run.prompt().unwrap();
            answer(&mut run, 16)
        })
    });
    let said = said.map(|thread| thread.join().unwrap());
    assert_eq!(said[0], said[1]);
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
    ok(|e| unsafe { culet_session_append_text(run, c"What is this?".as_ptr(), e) });
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
    let engine = open(TINY);
    let expected = see_and_say(session(&engine, 256).0);
    assert!(expected.1);
    // All of them are the first to ask this engine for its eye.
    let engine = open(TINY);
    let sessions: Vec<_> = (0..6).map(|_| Arc::new(Sent(session(&engine, 256)))).collect();
    let seed = seed(20_260_401);
    let mut random = Rng(seed);
    let mut engine = Some(engine);
    let engine_goes = random.below(6);
    std::thread::scope(|scope| {
        // The last of a session's threads frees it, while others still use the engine.
        for (i, run) in sessions.into_iter().enumerate() {
            let expected = &expected;
            let (is_cancelled, same) = (i % 2 == 1, Arc::clone(&run));
            scope.spawn(move || {
                let said = see_and_say(run.0.0);
                assert!(said.1 && (is_cancelled || said == *expected), "{i}: {said:?}");
            });
            let delays_ms: Vec<_> = (0..8).map(|_| random.below(9) as u64).collect();
            if is_cancelled {
                scope.spawn(move || {
                    for delay_ms in delays_ms {
                        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
                        unsafe { culet_session_cancel(same.0.0) };
                    }
                });
            }
            if i == engine_goes {
                engine = None;
            }
        }
    });
    assert!(engine.is_none());
}

#[test]
fn two_threads_in_one_session_are_told_so() {
    let engine = open(BLIND);
    let mut session = session(&engine, 2048);
    session.append_text(&"one two three four ".repeat(200)).unwrap();
    let run = Shared(session.0);
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
}

#[cfg(unix)]
#[test]
fn models_open_from_descriptors_inside_other_files() {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    let bytes = std::fs::read(path(BLIND.model)).unwrap();
    let place = std::env::temp_dir().join(format!("culet-ffi-{}.pack", std::process::id()));
    let mut pack = std::fs::File::create(&place).unwrap();
    pack.write_all(&[0; 64]).unwrap();
    pack.write_all(&bytes).unwrap();
    pack.write_all(b"something else").unwrap();
    let pack = std::fs::File::open(&place).unwrap();
    let file =
        File { descriptor: pack.as_raw_fd(), offset_bytes: 64, size_bytes: bytes.len() as u64 };
    let (mut options, mut engine) = (null_mut(), null_mut());
    ok(|e| unsafe { culet_engine_options_new(CULET_ABI_VERSION, &raw mut options, e) });
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
    std::fs::remove_file(&place).unwrap();
    unsafe { culet_engine_options_free(options) };
    let engine = CEngine(engine);
    assert_eq!(C::senses(&engine), (false, false));
    let mut run = session(&engine, 128);
    run.append_text("hello").unwrap();
    run.prompt().unwrap();
    assert!(!run.logits().is_empty());
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
    unsafe {
        culet_session_free(none);
        culet_engine_free(null_mut());
    }
    assert!(engine.is_null() && session.is_null());
}

#[test]
fn nonsense_is_refused_and_harms_nothing() {
    let engine = open(TINY);
    let (mut session, mut plain) = (session(&engine, 256), session(&engine, 256));
    session.append_text("hello").unwrap();
    let run = session.0;
    let pixels = [0_u8; 12];
    let image = |p: *const u8, w, h, stride, budget| {
        move |e: *mut Error| unsafe { culet_session_append_image(run, p, w, h, stride, budget, e) }
    };
    fails(CULET_ERR_INPUT, image(pixels.as_ptr(), 0, 2, 6, 70));
    fails(CULET_ERR_INPUT, image(pixels.as_ptr(), u32::MAX, u32::MAX, 6, 70));
    fails(CULET_ERR_INPUT, image(pixels.as_ptr(), 2, 2, 5, 70));
    fails(CULET_ERR_INPUT, image(pixels.as_ptr(), 2, 2, usize::MAX, 70));
    fails(CULET_ERR_INPUT, image(pixels.as_ptr(), 2, 2, usize::MAX / 2, 70));
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
    plain.append_text("hello").unwrap();
    assert_eq!(session.prompt().unwrap(), plain.prompt().unwrap());
    assert!(session.logits() == plain.logits());
}

#[test]
fn options_are_checked() {
    let (mut options, mut none) = (null_mut(), null_mut());
    ok(|e| unsafe { culet_engine_options_new(CULET_ABI_VERSION, &raw mut options, e) });
    for version in [0, 999, 1999, 2000, u32::MAX] {
        let text = fails(CULET_ERR_ABI, |e| unsafe {
            culet_engine_options_new(version, &raw mut none, e)
        });
        assert!(text.contains("CULET_ABI_VERSION") && none.is_null(), "{text}");
    }
    fails(CULET_ERR_INPUT, |e| unsafe { culet_engine_options_set_threads(options, 9999, e) });
    ok(|e| unsafe { culet_engine_options_set_gpu_memory_max(options, 1 << 30, e) });
    ok(|e| unsafe { culet_engine_options_set_gpu(options, c"no such GPU".as_ptr(), e) });
    let (model, mut engine) = (text_of(BLIND.model), null_mut());
    let (status, message) =
        told(|e| unsafe { culet_engine_open(options, model.as_ptr(), null(), &raw mut engine, e) });
    assert!(status != CULET_OK && message.contains("no such GPU"), "{message}");
    unsafe { culet_engine_options_free(options) };
    let mut options = null_mut();
    ok(|e| unsafe { culet_session_options_new(&raw mut options, e) });
    fails(CULET_ERR_INPUT, |e| unsafe { culet_session_options_set_cache(options, 9, e) });
    unsafe { culet_session_options_free(options) };
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
    let engine = open(BLIND);
    // The context is too short for an answer, which is worth a warning.
    let mut run = session(&engine, 32);
    run.append_text("xyzzy xyzzy").unwrap();
    run.prompt().unwrap();
    let stop = (0..100).find_map(|_| match run.next().unwrap() {
        Said::End(stop) => Some(stop),
        _ => None,
    });
    ok(|e| unsafe { culet_log_set(None, null_mut(), CULET_LOG_ERROR, e) });
    let n = LINES.load(std::sync::atomic::Ordering::Relaxed);
    assert!(stop != Some(culet::text::Stop::Cut) || n > 0, "{n} lines");
}
