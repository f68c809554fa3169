//! Verbs that listen.
//!
//! In: sound from a file or stdin. Out: what was said.
//!
//! - `sound`: where it comes from
//! - `transcribe`: `culet transcribe` and `culet translate`

mod sound;
pub(crate) mod transcribe;
