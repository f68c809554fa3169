//! `Redacted`: user content that formats as a length, never as content.

use std::fmt;

/// Wraps user text, sound or token ids so that formatting shows only how much there is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Redacted<T>(pub T);

impl<T: AsRef<[u8]>> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.as_ref().len())
    }
}

impl<T: AsRef<[u8]>> fmt::Display for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_never_shown() {
        assert_eq!(format!("{:?}", Redacted("secret")), "<6 bytes>");
        assert_eq!(Redacted("secret").to_string(), "<6 bytes>");
    }
}
