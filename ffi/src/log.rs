//! The log: the one thing that calls back.
//!
//! In: records of the library. Out: calls of the host's function.
//! Invariant: without a function nothing is formatted; the library never prints.

use std::ffi::c_char;
use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::RwLock;

use log::LevelFilter;
use log::Log;
use log::Metadata;
use log::Record;

use crate::guard;
use crate::status::CULET_ERR_BUSY;
use crate::status::Error;
use crate::status::Failure;
use crate::status::Status;

/// A bug, to be reported.
pub const CULET_LOG_ERROR: i32 = 1;
/// Something that a person should fix.
pub const CULET_LOG_WARN: i32 = 2;
/// What is going on, coarsely.
pub const CULET_LOG_INFO: i32 = 3;
/// What is going on, for developers of the library.
pub const CULET_LOG_DEBUG: i32 = 4;
/// Everything.
pub const CULET_LOG_TRACE: i32 = 5;

/// Takes one line of the log: UTF-8, with a zero behind its `len` bytes, valid during the call.
/// It is called on whichever thread logs, by several at once, and must not call Culet.
pub type LogCallback =
    Option<unsafe extern "C" fn(user: *mut c_void, level: i32, text: *const c_char, len: usize)>;

struct Sink {
    callback: unsafe extern "C" fn(*mut c_void, i32, *const c_char, usize),
    user: *mut c_void,
}

// SAFETY: the header asks for a callback that any thread may call with `user`.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

/// Whether the process's log comes here; set by the first call.
static OURS: OnceLock<bool> = OnceLock::new();

struct Bridge;

impl Log for Bridge {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("culet") && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let sink = SINK.read().unwrap_or_else(|e| e.into_inner());
        let Some(Sink { callback, user }) = &*sink else { return };
        let text = format!("{}\0", record.args());
        // SAFETY: the host gave both together; the text lives for the call.
        unsafe { callback(*user, record.level() as i32, text.as_ptr().cast(), text.len() - 1) }
    }

    fn flush(&self) {}
}

/// Sends the log, up to a level of CULET_LOG_, to a function of the host, for the whole process;
/// a NULL function ends it. The log holds nothing that a user said, wrote or showed. When the call
/// returns, an earlier function is not running any more and is not called again.
/// CULET_ERR_BUSY: a Rust program around the library logs in its own way. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_log_set(
    callback: LogCallback,
    user: *mut c_void,
    level_max: i32,
    err: *mut Error,
) -> Status {
    let body = || {
        let level = level(level_max)?;
        if !OURS.get_or_init(|| log::set_logger(&Bridge).is_ok()) {
            let message = "the log has another receiver in this process; leave it to that one";
            return Err(Failure::new(CULET_ERR_BUSY, message));
        }
        let mut sink = SINK.write().unwrap_or_else(|e| e.into_inner());
        *sink = callback.map(|callback| Sink { callback, user });
        log::set_max_level(if sink.is_some() { level } else { LevelFilter::Off });
        Ok(())
    };
    // SAFETY: the header asks for `NULL` or a place to write.
    unsafe { guard::enter(err, body) }
}

fn level(level: i32) -> Result<LevelFilter, Failure> {
    Ok(match level {
        CULET_LOG_ERROR => LevelFilter::Error,
        CULET_LOG_WARN => LevelFilter::Warn,
        CULET_LOG_INFO => LevelFilter::Info,
        CULET_LOG_DEBUG => LevelFilter::Debug,
        CULET_LOG_TRACE => LevelFilter::Trace,
        _ => {
            return Err(Failure::input(format!(
                "log level {level}, expected {CULET_LOG_ERROR} to {CULET_LOG_TRACE}"
            )));
        }
    })
}
