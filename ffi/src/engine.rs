//! Engines: a model's files opened, checked and shared.
//!
//! In: paths, or descriptors with offset and length; options. Out: an engine for sessions.

use std::ffi::c_char;
use std::fs::File as OpenFile;
use std::sync::Arc;

use culet::engine::EngineOptions as Options;
use culet::gguf::Mapping;

use crate::guard;
use crate::guard::Guarded;
use crate::handle;
use crate::handle::Out;
use crate::status;
use crate::status::Error;
use crate::status::Failure;
use crate::status::Status;

/// How an engine is opened. One thread at a time uses it.
pub struct EngineOptions(Guarded<Options>);

/// A model that is ready for any number of sessions. Any thread may use it at any time.
pub struct Engine(Arc<culet::engine::Engine>);

impl Engine {
    pub(crate) fn shared(&self) -> &Arc<culet::engine::Engine> {
        &self.0
    }
}

/// An open file, or a part of it: a model inside an Android package, for example.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct File {
    /// Open for reading. The call copies the descriptor; the caller closes its own when it likes.
    pub descriptor: i32,
    /// First byte of the model, a multiple of 32.
    pub offset_bytes: u64,
    /// Bytes of the model; 0 means all from the first on.
    pub size_bytes: u64,
}

/// Gives options with default values. Pass CULET_ABI_VERSION. Free them with
/// culet_engine_options_free().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_engine_options_new(
    abi_version: u32,
    options: *mut *mut EngineOptions,
    err: *mut Error,
) -> Status {
    // SAFETY: the header asks for pointers that are `NULL` or can be written.
    unsafe {
        guard::enter(err, || {
            let options = Out::new(options, "options")?;
            status::check_abi(abi_version)?;
            options.give(EngineOptions(Guarded::new(Options::default())));
            Ok(())
        })
    }
}

/// Takes options back. NULL is fine. Engines that were opened with them are not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_engine_options_free(options: *mut EngineOptions) {
    // SAFETY: the header asks for options that `_new` gave and nobody took.
    unsafe { handle::take(options) }
}

/// Sets the processor threads of each session; 0, the default, means one for each logical core that
/// is available, at most 8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_engine_options_set_threads(
    options: *mut EngineOptions,
    n_threads: usize,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        if n_threads > culet::ggml::THREADS_MAX {
            return Err(Failure::input(format!(
                "{n_threads} threads, expected at most {}",
                culet::ggml::THREADS_MAX
            )));
        }
        o.backend.n_threads = n_threads;
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets the GPU by its name or a part of it, by its number, or by "largest", the one with most
/// memory; an empty text means the one with most memory of its own. NULL, the default, means the
/// processor alone. A GPU that computes wrongly when a model is opened is left out, with a warning
/// in the log.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_engine_options_set_gpu(
    options: *mut EngineOptions,
    name: *const c_char,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        o.backend.gpu = match name.is_null() {
            true => None,
            // SAFETY: the header asks for a text that ends with a zero.
            false => Some(unsafe { handle::text(name, "name") }?.to_owned()),
        };
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets the most bytes of the GPU's memory that weights may take; what does not fit stays with the
/// processor. 0, the default, means three quarters of what is free. Caches come on top.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_engine_options_set_gpu_memory_max(
    options: *mut EngineOptions,
    size_bytes: u64,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        o.gpu_bytes_max = (size_bytes > 0).then_some(size_bytes);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets the most bytes that weights in use, a session's cache and its intermediate values may
/// take; 0, the default, means no limit. A session that would not fit is refused.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_engine_options_set_memory_max(
    options: *mut EngineOptions,
    size_bytes: u64,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        o.memory_bytes_max = (size_bytes > 0).then_some(size_bytes);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Opens a model. `mmproj` holds its encoders for pictures and sounds; NULL goes without them.
/// Paths are UTF-8 (any bytes on Unix). Files stay mapped while an engine or session uses them:
/// replace them by renaming, do not write into them. Free it with culet_engine_free().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_engine_open(
    options: *const EngineOptions,
    model: *const c_char,
    mmproj: *const c_char,
    engine: *mut *mut Engine,
    err: *mut Error,
) -> Status {
    // SAFETY: the header asks for live options, texts that end with a zero, and a place to write.
    unsafe {
        guard::enter(err, || {
            let options = handle::borrow(options, "options")?.0.lock()?.clone();
            let model = handle::path(model, "model")?;
            let mmproj = match mmproj.is_null() {
                true => None,
                false => Some(handle::path(mmproj, "mmproj")?),
            };
            let engine = Out::new(engine, "engine")?;
            let mmproj = mmproj.as_deref();
            engine.give(Engine(culet::engine::Engine::open(&model, mmproj, &options)?));
            Ok(())
        })
    }
}

/// Opens a model from open files; otherwise as culet_engine_open(). Not on Windows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_engine_open_file(
    options: *const EngineOptions,
    model: *const File,
    mmproj: *const File,
    engine: *mut *mut Engine,
    err: *mut Error,
) -> Status {
    // SAFETY: the header asks for live options and files, and a place to write.
    unsafe {
        guard::enter(err, || {
            let options = handle::borrow(options, "options")?.0.lock()?.clone();
            let model = handle::borrow(model, "model")?;
            let mmproj = match mmproj.is_null() {
                true => None,
                false => Some(handle::borrow(mmproj, "mmproj")?),
            };
            let engine = Out::new(engine, "engine")?;
            let model = model.map("model")?;
            let mmproj = mmproj.map(|f| f.map("mmproj")).transpose()?;
            let opened = culet::engine::Engine::from_mappings(model, mmproj, &options)?;
            engine.give(Engine(opened));
            Ok(())
        })
    }
}

impl File {
    fn map(&self, name: &str) -> Result<Arc<Mapping>, Failure> {
        let file = copy(self.descriptor, name)?;
        let len = (self.size_bytes > 0).then_some(self.size_bytes);
        Ok(Mapping::from_file(file, name, self.offset_bytes, len)?)
    }
}

#[cfg(unix)]
fn copy(descriptor: i32, name: &str) -> Result<OpenFile, Failure> {
    use std::os::fd::BorrowedFd;

    if descriptor < 0 {
        return Err(Failure::input(format!(
            "{name} has descriptor {descriptor}, expected 0 or more"
        )));
    }
    // SAFETY: it is not -1, and the system refuses to copy one that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let copy = borrowed.try_clone_to_owned();
    copy.map(OpenFile::from).map_err(|e| {
        culet::Error::io(format!("{name}: descriptor {descriptor} cannot be copied"))
            .with_source(e)
            .into()
    })
}

#[cfg(not(unix))]
fn copy(_descriptor: i32, name: &str) -> Result<OpenFile, Failure> {
    let message = format!("{name}: descriptors are for Unix; open a path");
    Err(culet::Error::unsupported(message).into())
}

/// Takes an engine back. NULL is fine. Sessions keep what they need of it, so the order of
/// freeing does not matter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_engine_free(engine: *mut Engine) {
    // SAFETY: the header asks for an engine that was opened and that nobody took.
    unsafe { handle::take(engine) }
}

/// Tells whether the engine reads pictures; false for NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_engine_sees(engine: *const Engine) -> bool {
    // SAFETY: the header asks for `NULL` or a live engine.
    unsafe { handle::borrow(engine, "engine") }.is_ok_and(|e| e.0.sees())
}

/// Tells whether the engine hears sounds; false for NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_engine_hears(engine: *const Engine) -> bool {
    // SAFETY: the header asks for `NULL` or a live engine.
    unsafe { handle::borrow(engine, "engine") }.is_ok_and(|e| e.0.hears())
}

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Engine>();
    shared::<EngineOptions>();
};
