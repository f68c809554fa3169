//! The wake word: a small model overhears what is said until a phrase begins it.
//! In: an utterance as it grows. Out: whether it is meant for the assistant.
//! - `phrase`: words against a transcript
//! - `lookout`: the small model's session

mod lookout;
mod phrase;

pub use lookout::Lookout;
pub use phrase::Called;
pub use phrase::Phrase;
