//! The one error type: what went wrong, where, and what can be done about it.

use std::cell::Cell;
use std::error::Error as StdError;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

/// Result of every fallible call in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What the caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file or device could not be read or written. Check the path, retry.
    Io,
    /// A file is damaged or is not what it claims to be. Fetch it again.
    Format,
    /// Well-formed, but not a model, type or codec that Culet runs. Use another file.
    Unsupported,
    /// An argument is out of range. Fix the call.
    Input,
    /// It would not fit. The message holds what would; lower the limit named.
    Memory,
    /// No permission, unplugged or failed device. Ask the user.
    Device,
    /// In use elsewhere. Retry later.
    Busy,
    /// The caller asked to stop. Nothing to do.
    Cancelled,
    /// An invariant broke and was caught. Report it.
    Internal,
}

impl ErrorKind {
    /// Returns the kind's stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Format => "format",
            Self::Unsupported => "unsupported",
            Self::Input => "input",
            Self::Memory => "memory",
            Self::Device => "device",
            Self::Busy => "busy",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

/// An error with a kind, a message for a person, and the cause if there is one.
///
/// Messages are lower case, name the object and the place, say what was found and what was
/// expected, and never hold user text, audio or pixels.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Creates an error of `kind` with `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Creates an [`ErrorKind::Io`] error.
    pub fn io(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Io, message)
    }

    /// Creates an [`ErrorKind::Format`] error.
    pub fn format(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Format, message)
    }

    /// Creates an [`ErrorKind::Unsupported`] error.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Creates an [`ErrorKind::Input`] error.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input, message)
    }

    /// Creates an [`ErrorKind::Memory`] error.
    pub fn memory(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Memory, message)
    }

    /// Creates an [`ErrorKind::Device`] error.
    pub fn device(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Device, message)
    }

    /// Creates an [`ErrorKind::Cancelled`] error.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
    }

    /// Creates an [`ErrorKind::Internal`] error.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Returns the error with `source` as its cause.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns the error with `place` and a colon before its message.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Returns what the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the message without its causes.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|s| &**s as &(dyn StdError + 'static))
    }
}

thread_local! {
    /// Whether this thread runs code whose panics are caught.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Tells whether this thread runs code of others whose panics are caught and become errors. A
/// host's panic hook may then be silent; the library installs none.
pub fn is_guarded() -> bool {
    IS_GUARDED.get()
}

/// Runs code of others that panics where it should return an error; nothing if it did. What it
/// worked on is not used afterwards.
pub(crate) fn guarded<T>(body: impl FnOnce() -> T) -> Option<T> {
    /// Puts back what was before, also when a panic passes.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            IS_GUARDED.set(self.0);
        }
    }
    let _before = Before(IS_GUARDED.replace(true));
    catch_unwind(AssertUnwindSafe(body)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_comes_before_the_message() {
        let e = Error::format("metadata key a is missing").at("e2b.gguf");
        assert_eq!(e.to_string(), "e2b.gguf: metadata key a is missing");
        assert_eq!(e.kind(), ErrorKind::Format);
    }

    #[test]
    fn cause_is_kept() {
        let cause = std::io::Error::other("disk gone");
        let e = Error::io("model.gguf: cannot be read").with_source(cause);
        assert_eq!(e.source().map(|s| s.to_string()), Some("disk gone".to_owned()));
    }

    #[test]
    fn guards_end_with_their_code() {
        assert!(!is_guarded());
        assert_eq!(guarded(|| (guarded(is_guarded), is_guarded())), Some((Some(true), true)));
        assert!(!is_guarded());
        let usual = guarded(|| {
            let inner = guarded(|| std::panic::resume_unwind(Box::new("a decoder's")));
            (inner, is_guarded())
        });
        assert_eq!(usual, Some((None::<()>, true)));
        assert!(!is_guarded());
    }
}
