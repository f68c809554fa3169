//! Verbs that listen.
//!
//! In: sound from a file or stdin. Out: what was said, and what answers it.
//!
//! - `sound`: where it comes from
//! - `transcribe`: `culet transcribe` and `culet translate`
//! - `talk`: `culet voice`; `tool`: tools that are commands

mod sound;
pub(crate) mod talk;
mod tool;
pub(crate) mod transcribe;
