//! Options of sessions.
//!
//! In: numbers of the host. Out: options, which a new session checks.

use culet::ggml::DType;
use culet::session::SessionOptions as Options;

use crate::guard;
use crate::guard::Guarded;
use crate::handle;
use crate::handle::Out;
use crate::status::Error;
use crate::status::Failure;
use crate::status::Status;

/// Cache of 32-bit floats.
pub const CULET_CACHE_F32: i32 = 0;
/// Cache of 16-bit floats; the default.
pub const CULET_CACHE_F16: i32 = 1;
/// Cache of 8-bit blocks.
pub const CULET_CACHE_Q8_0: i32 = 2;
/// Cache of 4-bit blocks.
pub const CULET_CACHE_Q4_0: i32 = 3;

/// How a session is made. One thread at a time uses it.
pub struct SessionOptions(pub(crate) Guarded<Options>);

/// Gives options with default values. Free them with culet_session_options_free().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_options_new(
    options: *mut *mut SessionOptions,
    err: *mut Error,
) -> Status {
    // SAFETY: the header asks for pointers that are `NULL` or can be written.
    unsafe {
        guard::enter(err, || {
            let options = Out::new(options, "options")?;
            options.give(SessionOptions(Guarded::new(Options::default())));
            Ok(())
        })
    }
}

/// Takes options back. NULL is fine. Sessions that were made with them are not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_options_free(options: *mut SessionOptions) {
    // SAFETY: the header asks for options that `_new` gave and nobody took.
    unsafe { handle::take(options) }
}

/// Sets the most tokens that a conversation may have, and the most that are computed at once.
/// culet_session_new() checks them. The defaults are 4096 and 512.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_options_set_size(
    options: *mut SessionOptions,
    n_ctx: usize,
    n_batch: usize,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        (o.n_ctx, o.n_batch) = (n_ctx, n_batch);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets the element type of the cache: one of CULET_CACHE_.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_options_set_cache(
    options: *mut SessionOptions,
    cache: i32,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        o.kv = match cache {
            CULET_CACHE_F32 => DType::F32,
            CULET_CACHE_F16 => DType::F16,
            CULET_CACHE_Q8_0 => DType::Q8_0,
            CULET_CACHE_Q4_0 => DType::Q4_0,
            _ => {
                return Err(Failure::input(format!(
                    "cache type {cache}, expected {CULET_CACHE_F32} to {CULET_CACHE_Q4_0}"
                )));
            }
        };
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets how tokens are chosen: temperature (0 always takes the best token), top-k (0: all), top-p
/// (1: all), min-p (0: none). culet_session_new() checks them. The defaults are 1, 64, 0.95, 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_options_set_sampling(
    options: *mut SessionOptions,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        let s = &mut o.sampling;
        (s.temperature, s.top_k, s.top_p, s.min_p) = (temperature, top_k, top_p, min_p);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets where the random numbers begin: equal seeds give equal answers. The default is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_options_set_seed(
    options: *mut SessionOptions,
    seed: u64,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        o.sampling.seed = seed;
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}

/// Sets how repetition is discouraged among the last `n_last` tokens: a factor (1: not), and what
/// is taken off for each time and once. The defaults are 64, 1, 0, 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn culet_session_options_set_penalties(
    options: *mut SessionOptions,
    n_last: usize,
    repetition: f32,
    frequency: f32,
    presence: f32,
    err: *mut Error,
) -> Status {
    let body = |o: &mut Options| {
        let s = &mut o.sampling;
        (s.penalty_last_n, s.repetition_penalty) = (n_last, repetition);
        (s.frequency_penalty, s.presence_penalty) = (frequency, presence);
        Ok(())
    };
    // SAFETY: the header's conditions.
    unsafe { handle::set((options, err), |o| &o.0, body) }
}
