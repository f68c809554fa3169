//! Backends: the processor always, one GPU where asked for; threads and cancellation.

use std::ffi::CStr;
use std::ffi::c_char;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use llama_cpp_sys_2 as sys;

use super::compute::Parts;
use super::compute::Profile;
use super::gpu;
use super::gpu::DeviceInfo;
use super::module;
use crate::error::Error;
use crate::error::Result;

/// Most threads one backend uses.
pub const THREADS_MAX: usize = 256;
/// How long threads look out for the next graph before they sleep, in ggml's 131,072 pauses: some
/// milliseconds, enough from one token to the next.
const POLL: u32 = 1;

/// A flag that stops a computation from another thread.
#[derive(Clone, Default, Debug)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Creates a flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the computation to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Clears the flag.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Tells whether the computation was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Most threads that compute, which another thread may change meanwhile.
#[derive(Clone, Debug)]
pub struct ThreadLimit(Arc<AtomicUsize>);

impl ThreadLimit {
    /// Lets at most `n` threads, and at least one, compute the next graph or the next part of one.
    pub fn set(&self, n: usize) {
        self.0.store(n.max(1), Ordering::Relaxed);
    }

    /// Returns how many threads may compute.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// What to compute on.
#[derive(Clone, Debug, Default)]
pub struct BackendOptions {
    /// Processor threads; 0 means one for each logical core that is available, at most 8.
    pub n_threads: usize,
    /// GPU by its name in [`devices`](super::devices) or a part of it, by its number among the
    /// GPUs, `largest` for the one with most memory, or empty for the one with most memory of its
    /// own; `None` means the processor alone.
    pub gpu: Option<String>,
}

/// One executor: backends, threads and scratch. A session owns one.
pub struct Backend {
    cpu: NonNull<sys::ggml_backend>,
    gpu: Option<(NonNull<sys::ggml_backend>, DeviceInfo)>,
    pool: Option<Pool>,
    n_threads: usize,
    /// Tells ggml how many of them compute the next graph.
    set_threads: Option<SetThreads>,
    limit: ThreadLimit,
    gpu_bytes_max: Option<u64>,
    /// Whether graphs are built as for a GPU wherever their weights lie.
    pub(super) gpu_form: bool,
    cancel: Cancel,
    profile: Option<Profile>,
    parts: Option<Parts>,
}

// SAFETY: ggml backends hold no thread-local state; one thread uses them at a time because
// computing takes `&mut Backend`.
unsafe impl Send for Backend {}

type SetThreads = unsafe extern "C" fn(sys::ggml_backend_t, i32);

struct Pool {
    raw: NonNull<sys::ggml_threadpool>,
    free: unsafe extern "C" fn(*mut sys::ggml_threadpool),
}

/// Loads the backends and routes ggml's log into `log`, once.
pub(super) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the callbacks are plain functions that live for the whole program.
        unsafe {
            sys::ggml_log_set(Some(on_log), std::ptr::null_mut());
            sys::ggml_set_abort_callback(Some(on_abort));
            if sys::ggml_backend_dev_count() == 0 {
                module::load();
            }
        }
    });
}

unsafe extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    // SAFETY: ggml passes a C string that lives for the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim_end();
    if text.is_empty() {
        return;
    }
    match level {
        sys::GGML_LOG_LEVEL_ERROR => log::error!(target: "culet::ggml", "{text}"),
        sys::GGML_LOG_LEVEL_WARN => log::warn!(target: "culet::ggml", "{text}"),
        _ => log::debug!(target: "culet::ggml", "{text}"),
    }
}

unsafe extern "C" fn on_abort(text: *const c_char) {
    // SAFETY: ggml passes a C string that lives for the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    log::error!(target: "culet::ggml", "kernel assertion, please report: {}", text.trim_end());
}

unsafe extern "C" fn is_cancelled(flag: *mut c_void) -> bool {
    // SAFETY: the backend that registered the callback owns the flag's `Arc`.
    unsafe { &*flag.cast::<AtomicBool>() }.load(Ordering::Relaxed)
}

pub(super) fn cpu_device() -> Result<sys::ggml_backend_dev_t> {
    init();
    // SAFETY: looks an entry of the registry up.
    let dev = unsafe { sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU) };
    if dev.is_null() {
        return Err(Error::device("no processor kernels are installed beside the program"));
    }
    Ok(dev)
}

/// Returns a function of the processor backend by name, or `None`.
pub(super) fn cpu_function(name: &CStr) -> Result<Option<NonNull<c_void>>> {
    let dev = cpu_device()?;
    // SAFETY: the registry of a registered device is never null.
    let raw = unsafe {
        sys::ggml_backend_reg_get_proc_address(
            sys::ggml_backend_dev_backend_reg(dev),
            name.as_ptr(),
        )
    };
    Ok(NonNull::new(raw))
}

/// Returns how many threads a backend uses if it is not told: one for each logical core that is
/// available, at most 8.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8)
}

impl Backend {
    /// Starts the processor's threads and, if asked for, a GPU.
    ///
    /// # Errors
    /// `Device` if a backend cannot be started; `Input` if the GPU's name fits none.
    pub fn new(options: &BackendOptions) -> Result<Self> {
        let dev = cpu_device()?;
        let n_threads = match options.n_threads {
            0 => default_threads(),
            n if n <= THREADS_MAX => n,
            n => return Err(Error::input(format!("{n} threads; at most {THREADS_MAX} are used"))),
        };
        // SAFETY: `dev` is the processor's entry; null parameters are allowed.
        let cpu = NonNull::new(unsafe { sys::ggml_backend_dev_init(dev, std::ptr::null()) })
            .ok_or_else(|| Error::device("the processor backend cannot be started"))?;
        let (profile, cancel) = (Profile::wanted()?, Cancel::new());
        let mut backend = Self {
            cpu,
            gpu: None,
            pool: None,
            n_threads,
            set_threads: None,
            limit: ThreadLimit(Arc::new(AtomicUsize::new(n_threads))),
            gpu_bytes_max: None,
            gpu_form: false,
            cancel,
            profile,
            parts: None,
        };
        backend.start_threads()?;
        if let Some(name) = &options.gpu {
            backend.gpu = Some(gpu::start(name)?);
        }
        Ok(backend)
    }

    fn start_threads(&mut self) -> Result<()> {
        let set_n = cpu_function(c"ggml_backend_set_n_threads")?;
        let new = cpu_function(c"ggml_threadpool_new")?;
        let free = cpu_function(c"ggml_threadpool_free")?;
        let set = cpu_function(c"ggml_backend_cpu_set_threadpool")?;
        let abort = cpu_function(c"ggml_backend_set_abort_callback")?;
        type New =
            unsafe extern "C" fn(*mut sys::ggml_threadpool_params) -> *mut sys::ggml_threadpool;
        type Free = unsafe extern "C" fn(*mut sys::ggml_threadpool);
        type Set = unsafe extern "C" fn(sys::ggml_backend_t, *mut sys::ggml_threadpool);
        type Abort = unsafe extern "C" fn(
            sys::ggml_backend_t,
            Option<unsafe extern "C" fn(*mut c_void) -> bool>,
            *mut c_void,
        );
        // SAFETY: the registry promises these signatures for these names; the pool is freed in
        // `Drop` after the backend; the flag is owned by `self` and outlives the backend.
        unsafe {
            self.set_threads =
                set_n.map(|f| std::mem::transmute::<*mut c_void, SetThreads>(f.as_ptr()));
            if let Some(f) = abort {
                std::mem::transmute::<*mut c_void, Abort>(f.as_ptr())(
                    self.cpu.as_ptr(),
                    Some(is_cancelled),
                    Arc::as_ptr(&self.cancel.0).cast_mut().cast(),
                );
            }
            if let (Some(new), Some(free), Some(set)) = (new, free, set) {
                let mut params = sys::ggml_threadpool_params_default(self.n_threads as i32);
                params.poll = POLL;
                let raw = std::mem::transmute::<*mut c_void, New>(new.as_ptr())(&raw mut params);
                if let Some(raw) = NonNull::new(raw) {
                    let free = std::mem::transmute::<*mut c_void, Free>(free.as_ptr());
                    self.pool = Some(Pool { raw, free });
                    std::mem::transmute::<*mut c_void, Set>(set.as_ptr())(
                        self.cpu.as_ptr(),
                        raw.as_ptr(),
                    );
                }
            }
        }
        self.use_threads(self.n_threads);
        Ok(())
    }

    /// Lets so many threads, at most all and at most the limit, compute the next graph.
    pub(super) fn use_threads(&mut self, n: usize) {
        let n = n.min(self.n_threads).min(self.limit.get());
        if let Some(set) = self.set_threads {
            // SAFETY: the backend is alive, and the pool has as many threads.
            unsafe { set(self.cpu.as_ptr(), n as i32) };
        }
    }

    /// Returns the limit of its threads, which is all of them at first.
    pub fn thread_limit(&self) -> &ThreadLimit {
        &self.limit
    }

    /// From here on computes graphs in parts, so that a thread limit which changes meanwhile soon
    /// counts; the values are the same.
    ///
    /// # Errors
    /// `Memory` if there is no room for a part.
    pub fn compute_in_parts(&mut self) -> Result<()> {
        self.parts = Some(Parts::new()?);
        Ok(())
    }

    /// Returns what computes graphs in parts, if they are.
    pub(super) fn parts(&mut self) -> &mut Option<Parts> {
        &mut self.parts
    }

    /// Returns the number of processor threads.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Returns the GPU that takes part, as it was found.
    pub fn gpu_info(&self) -> Option<&DeviceInfo> {
        self.gpu.as_ref().map(|(_, info)| info)
    }

    /// Returns the most bytes of the GPU's memory that weights may take, if there is a GPU: three
    /// quarters of what was free, unless told otherwise.
    pub fn gpu_bytes_max(&self) -> Option<u64> {
        let free = self.gpu_info()?.free_bytes as u64;
        let most = if free == 0 { u64::MAX } else { free / 4 * 3 };
        Some(self.gpu_bytes_max.unwrap_or(most))
    }

    /// Sets the most bytes of the GPU's memory that weights may take.
    pub fn set_gpu_bytes_max(&mut self, most: u64) {
        self.gpu_bytes_max = Some(most);
    }

    /// Has graphs built as for a GPU, of ggml's own operations, and computed by the processor: so
    /// tests compare the two forms of a graph without a GPU.
    #[cfg(test)]
    pub(crate) fn use_gpu_form(&mut self) {
        self.gpu_form = true;
    }

    /// Returns the flag that stops a running computation; clone it for another thread.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Returns what sums times, if the log wants them.
    pub(super) fn profile(&mut self) -> Option<&mut Profile> {
        self.profile.as_mut()
    }

    pub(super) fn cpu(&self) -> sys::ggml_backend_t {
        self.cpu.as_ptr()
    }

    pub(super) fn gpu(&self) -> Option<sys::ggml_backend_t> {
        self.gpu.as_ref().map(|(gpu, _)| gpu.as_ptr())
    }

    /// Returns the GPU's entry in ggml's registry, or null.
    pub(super) fn gpu_device(&self) -> sys::ggml_backend_dev_t {
        // SAFETY: the backend is alive.
        self.gpu().map_or(std::ptr::null_mut(), |gpu| unsafe { sys::ggml_backend_get_device(gpu) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: each was made by `new` and is freed once; the backend goes before its pool.
        unsafe {
            if let Some((gpu, _)) = &self.gpu {
                sys::ggml_backend_free(gpu.as_ptr());
            }
            sys::ggml_backend_free(self.cpu.as_ptr());
            if let Some(pool) = self.pool.take() {
                (pool.free)(pool.raw.as_ptr());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_always_there() {
        assert!(gpu::devices().iter().any(|d| !d.is_gpu));
        let backend = Backend::new(&BackendOptions { n_threads: 2, gpu: None });
        assert_eq!(backend.map(|b| b.n_threads()).ok(), Some(2));
    }

    #[test]
    fn absurd_options_are_refused() {
        assert!(Backend::new(&BackendOptions { n_threads: 100_000, gpu: None }).is_err());
        let gpu = Some("no such card".to_owned());
        assert!(Backend::new(&BackendOptions { n_threads: 1, gpu }).is_err());
    }

    const fn assert_send<T: Send>() {}
    const _: () = assert_send::<Backend>();
}
