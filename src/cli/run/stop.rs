//! Ctrl-C: stops one answer; without an answer, or pressed again, it ends the program.
//! In: the signal. Out: the session's cancel flag, or exit 130.

use std::sync::Mutex;
use std::sync::PoisonError;

use culet::Error;
use culet::Result;
use culet::ggml::Cancel;

use crate::cli::print::EXIT_INTERRUPTED;

/// What a signal stops now.
static ACTIVE: Mutex<Option<Cancel>> = Mutex::new(None);

/// Begins to listen for Ctrl-C.
pub(crate) fn listen() -> Result<()> {
    ctrlc::set_handler(on_signal)
        .map_err(|e| Error::internal("Ctrl-C cannot be listened for").with_source(e))
}

fn on_signal() {
    let active = ACTIVE.lock().unwrap_or_else(PoisonError::into_inner);
    match &*active {
        Some(cancel) if !cancel.is_cancelled() => cancel.cancel(),
        _ => std::process::exit(i32::from(EXIT_INTERRUPTED)),
    }
}

/// While it lives, Ctrl-C sets the flag instead of ending the program.
pub(crate) struct Stoppable;

impl Stoppable {
    /// Lets Ctrl-C set `cancel`, which is cleared first.
    pub(crate) fn new(cancel: &Cancel) -> Self {
        cancel.reset();
        *ACTIVE.lock().unwrap_or_else(PoisonError::into_inner) = Some(cancel.clone());
        Self
    }
}

impl Drop for Stoppable {
    fn drop(&mut self) {
        let active = ACTIVE.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(cancel) = active {
            cancel.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_clear_before_and_after() {
        let cancel = Cancel::new();
        cancel.cancel();
        {
            let _stoppable = Stoppable::new(&cancel);
            assert!(!cancel.is_cancelled());
            on_signal();
            assert!(cancel.is_cancelled());
        }
        assert!(!cancel.is_cancelled());
    }
}
