//! The side of C: an engine and a session behind their handles.
//!
//! In: the calls of a `Side`. Out: what the functions of the header answer.

use std::ffi::CStr;
use std::ffi::CString;
use std::ptr::null;
use std::ptr::null_mut;

use culet::ErrorKind;
use culet::Frame;
use culet::Pcm;
use culet::Result;
use culet::ggml::DType;
use culet::text::Stop;
use culet_c::engine::*;
use culet_c::event::*;
use culet_c::session::answer::Stats;
use culet_c::session::answer::*;
use culet_c::session::append::*;
use culet_c::session::live::*;
use culet_c::session::object::*;
use culet_c::session::option::*;
use culet_c::status::*;

use crate::both::list::behaviours;
use crate::both::native::Native;
use crate::both::side::Files;
use crate::both::side::Said;
use crate::both::side::Side;
use crate::both::side::path;
use crate::call::ok;
use crate::call::told;
use crate::voice::CVoice;

behaviours!(C, Native);

/// A session of C, which is freed with it.
pub(crate) struct C(pub(crate) *mut Session);

/// An engine of C, which is freed with it, perhaps before its sessions.
pub(crate) struct CEngine(pub(crate) *mut Engine);

impl Drop for C {
    fn drop(&mut self) {
        unsafe { culet_session_free(self.0) };
    }
}

impl Drop for CEngine {
    fn drop(&mut self) {
        unsafe { culet_engine_free(self.0) };
    }
}

/// Returns what a call says, as Rust would say it.
pub(crate) fn checked(call: impl FnOnce(*mut Error) -> Status) -> Result<()> {
    let (status, text) = told(call);
    let kind = match status {
        CULET_OK => return Ok(()),
        CULET_ERR_IO => ErrorKind::Io,
        CULET_ERR_FORMAT => ErrorKind::Format,
        CULET_ERR_UNSUPPORTED => ErrorKind::Unsupported,
        CULET_ERR_INPUT => ErrorKind::Input,
        CULET_ERR_MEMORY => ErrorKind::Memory,
        CULET_ERR_DEVICE => ErrorKind::Device,
        CULET_ERR_BUSY => ErrorKind::Busy,
        CULET_ERR_CANCELLED => ErrorKind::Cancelled,
        _ => panic!("status {status}: {text}"),
    };
    Err(culet::Error::new(kind, text))
}

fn stop_of(stop: i32) -> Stop {
    match stop {
        CULET_STOP_TURN => Stop::Turn,
        CULET_STOP_TOOL => Stop::Tool,
        CULET_STOP_SEQUENCE => Stop::Sequence,
        CULET_STOP_CUT => Stop::Cut,
        _ => panic!("stop {stop}"),
    }
}

/// Gives options to `make`, and takes them back.
pub(crate) fn with_options<T>(
    options: &culet::session::SessionOptions,
    make: impl FnOnce(*const SessionOptions) -> T,
) -> T {
    let (s, mut made) = (&options.sampling, null_mut());
    let cache = match options.kv {
        DType::F32 => CULET_CACHE_F32,
        DType::F16 => CULET_CACHE_F16,
        DType::Q8_0 => CULET_CACHE_Q8_0,
        DType::Q4_0 => CULET_CACHE_Q4_0,
        other => panic!("{other} is no type of C's caches"),
    };
    let (last_n, repetition) = (s.penalty_last_n, s.repetition_penalty);
    let (frequency, presence) = (s.frequency_penalty, s.presence_penalty);
    ok(|e| unsafe { culet_session_options_new(&raw mut made, e) });
    ok(|e| unsafe { culet_session_options_set_size(made, options.n_ctx, options.n_batch, e) });
    ok(|e| unsafe { culet_session_options_set_cache(made, cache, e) });
    ok(|e| unsafe {
        culet_session_options_set_sampling(made, s.temperature, s.top_k, s.top_p, s.min_p, e)
    });
    ok(|e| unsafe { culet_session_options_set_seed(made, s.seed, e) });
    ok(|e| unsafe {
        culet_session_options_set_penalties(made, last_n, repetition, frequency, presence, e)
    });
    let result = make(made);
    unsafe { culet_session_options_free(made) };
    result
}

impl Side for C {
    type Engine = CEngine;
    type Assistant = CVoice;

    fn open(files: Files, memory_bytes_max: Option<u64>) -> Result<Self::Engine> {
        let (mut options, mut engine) = (null_mut(), null_mut());
        ok(|e| unsafe { culet_engine_options_new(CULET_ABI_VERSION, &raw mut options, e) });
        ok(|e| unsafe { culet_engine_options_set_threads(options, 1, e) });
        let limit = memory_bytes_max.unwrap_or(0);
        ok(|e| unsafe { culet_engine_options_set_memory_max(options, limit, e) });
        let text = |name| CString::new(path(name).to_str().unwrap()).unwrap();
        let (model, mmproj) = (text(files.model), files.mmproj.map(text));
        let mmproj = mmproj.as_ref().map_or(null(), |name| name.as_ptr());
        let opened = checked(|e| unsafe {
            culet_engine_open(options, model.as_ptr(), mmproj, &raw mut engine, e)
        });
        unsafe { culet_engine_options_free(options) };
        assert_eq!(opened.is_err(), engine.is_null());
        opened.map(|()| CEngine(engine))
    }

    fn senses(engine: &Self::Engine) -> (bool, bool) {
        unsafe { (culet_engine_sees(engine.0), culet_engine_hears(engine.0)) }
    }

    fn new(engine: &Self::Engine, options: &culet::session::SessionOptions) -> Result<Self> {
        let mut session = null_mut();
        let made = with_options(options, |options| {
            checked(|e| unsafe { culet_session_new(engine.0, options, &raw mut session, e) })
        });
        assert_eq!(made.is_err(), session.is_null());
        made.map(|()| Self(session))
    }

    fn n_ctx(&self) -> usize {
        unsafe { culet_session_n_ctx(self.0) }
    }

    fn n_past(&self) -> usize {
        unsafe { culet_session_n_past(self.0) }
    }

    fn n_messages(&mut self) -> usize {
        let mut n = 0;
        ok(|e| unsafe { culet_session_n_messages(self.0, &raw mut n, e) });
        n
    }

    fn logits(&mut self) -> Vec<f32> {
        let (mut data, mut n) = (null(), 0);
        ok(|e| unsafe { culet_session_logits(self.0, &raw mut data, &raw mut n, e) });
        unsafe { std::slice::from_raw_parts(data, n) }.to_vec()
    }

    fn cancel(&self) {
        unsafe { culet_session_cancel(self.0) };
    }

    fn append_messages(&mut self, json: &str) -> Result<()> {
        let json = CString::new(json).unwrap();
        checked(|e| unsafe { culet_session_append_messages(self.0, json.as_ptr(), e) })
    }

    fn append_text(&mut self, text: &str) -> Result<()> {
        let text = CString::new(text).unwrap();
        checked(|e| unsafe { culet_session_append_text(self.0, text.as_ptr(), e) })
    }

    fn append_picture(&mut self, frame: &Frame, budget: u32) -> Result<()> {
        let (rgb, (width, height)) = (frame.rgb().as_ptr(), (frame.width(), frame.height()));
        let stride = 3 * width as usize;
        checked(|e| unsafe {
            culet_session_append_image(self.0, rgb, width, height, stride, budget, e)
        })
    }

    fn append_sound(&mut self, pcm: &Pcm) -> Result<()> {
        let (samples, n) = (pcm.samples.as_ptr(), pcm.samples.len());
        checked(|e| unsafe { culet_session_append_audio(self.0, samples, n, pcm.rate_hz, e) })
    }

    fn prompt(&mut self) -> Result<culet::session::Stats> {
        self.feed(culet_session_prompt)
    }

    fn next(&mut self) -> Result<Said> {
        let mut event = Event { kind: -1, stop: -1, data: null(), len: 0 };
        checked(|e| unsafe { culet_session_next(self.0, &raw mut event, e) })?;
        let text = unsafe { CStr::from_ptr(event.data) }.to_str().unwrap().to_owned();
        assert_eq!(text.len(), event.len);
        assert_eq!(event.stop == CULET_STOP_NONE, event.kind != CULET_EVENT_END);
        Ok(match event.kind {
            CULET_EVENT_NONE => Said::Nothing,
            CULET_EVENT_ANSWER => Said::Answer(text),
            CULET_EVENT_THOUGHT => Said::Thought(text),
            CULET_EVENT_TOOL_CALL => Said::Call(text),
            CULET_EVENT_BROKEN_CALL => Said::BrokenCall,
            CULET_EVENT_END => Said::End(stop_of(event.stop)),
            kind => panic!("event {kind}"),
        })
    }

    fn cut(&mut self) -> Result<()> {
        checked(|e| unsafe { culet_session_cut(self.0, e) })
    }

    fn clear(&mut self) -> Result<()> {
        checked(|e| unsafe { culet_session_clear(self.0, e) })
    }

    fn rewind(&mut self, n_messages: usize) -> Result<()> {
        checked(|e| unsafe { culet_session_rewind(self.0, n_messages, e) })
    }

    fn begin_sound(&mut self) -> Result<culet::session::Stats> {
        self.feed(culet_session_begin_sound)
    }

    fn hear(&mut self, pcm: &Pcm) -> Result<()> {
        let (samples, n) = (pcm.samples.as_ptr(), pcm.samples.len());
        checked(|e| unsafe { culet_session_hear(self.0, samples, n, pcm.rate_hz, e) })
    }

    fn guess_end(&mut self) -> Result<()> {
        checked(|e| unsafe { culet_session_guess_end(self.0, e) })
    }

    fn take_back(&mut self) -> Result<usize> {
        let mut n_wasted = usize::MAX;
        checked(|e| unsafe { culet_session_take_back(self.0, &raw mut n_wasted, e) })?;
        Ok(n_wasted)
    }

    fn end_sound(&mut self) -> Result<()> {
        checked(|e| unsafe { culet_session_end_sound(self.0, e) })
    }

    fn drop_sound(&mut self) -> Result<()> {
        checked(|e| unsafe { culet_session_drop_sound(self.0, e) })
    }

    fn snapshot(&mut self) -> Result<Vec<u8>> {
        let (mut data, mut n) = (null(), 0);
        let made =
            checked(|e| unsafe { culet_session_snapshot(self.0, &raw mut data, &raw mut n, e) });
        assert_eq!(made.is_err(), data.is_null(), "written only on success");
        made.map(|()| unsafe { std::slice::from_raw_parts(data, n) }.to_vec())
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        checked(|e| unsafe { culet_session_restore(self.0, bytes.as_ptr(), bytes.len(), e) })
    }
}

type Feed = unsafe extern "C" fn(*mut Session, *mut Stats, *mut Error) -> Status;

impl C {
    fn feed(&mut self, call: Feed) -> Result<culet::session::Stats> {
        let mut stats = Stats { n_prompt: usize::MAX, n_reused: usize::MAX };
        checked(|e| unsafe { call(self.0, &raw mut stats, e) })?;
        let Stats { n_prompt, n_reused } = stats;
        Ok(culet::session::Stats { n_prompt, n_reused })
    }
}
