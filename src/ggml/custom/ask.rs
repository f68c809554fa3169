//! Asks memory for what will be wanted, where the processor can be told.
//!
//! In: addresses, which need not be readable. Out: nothing; what lies there comes nearer.

/// Bytes of a line of the processor's caches.
pub(super) const LINE: usize = 64;

/// Asks for what will be wanted next.
#[inline]
pub fn ask_for(bytes: &[u8]) {
    bytes.chunks(LINE).for_each(|line| soon(line.as_ptr()));
}

/// Asks for what will be wanted after that: to come near, but not into the nearest cache, which
/// waits for few answers at once.
#[inline]
pub fn ask_early_for(bytes: &[u8]) {
    bytes.chunks(LINE).for_each(|line| early(line.as_ptr()));
}

/// See [`ask_for`]: of one line.
#[inline(always)]
pub(super) fn soon(line: *const u8) {
    prefetch::<false>(line);
}

/// See [`ask_early_for`]: of one line.
#[inline(always)]
pub(super) fn early(line: *const u8) {
    prefetch::<true>(line);
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch<const EARLY: bool>(line: *const u8) {
    use std::arch::x86_64::_MM_HINT_T0;
    use std::arch::x86_64::_MM_HINT_T2;
    use std::arch::x86_64::_mm_prefetch;
    // SAFETY: every processor of this kind has the instruction, which reads nothing.
    unsafe {
        match EARLY {
            true => _mm_prefetch::<_MM_HINT_T2>(line.cast()),
            false => _mm_prefetch::<_MM_HINT_T0>(line.cast()),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch<const EARLY: bool>(_line: *const u8) {}
