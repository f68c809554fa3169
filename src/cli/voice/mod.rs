//! Verbs that listen.
//!
//! In: sound from a file, stdin or the microphone. Out: what was said, and what answers it.
//!
//! - `sound`: where it comes from
//! - `transcribe`: `culet transcribe` and `culet translate`
//! - `talk`: `culet voice`; `live`: through devices; `eye`: what it sees; `wake`: how it
//!   is called; `tool`: tools that are commands

mod eye;
mod live;
mod sound;
pub(crate) mod talk;
mod tool;
pub(crate) mod transcribe;
mod wake;
