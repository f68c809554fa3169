//! The program's verbs, one file or folder each.
//!
//! In: arguments. Out: the result on stdout, words for people on stderr.
//! Joint: each verb has `Args` and `run(args)`; `print` is the only way to the outside.
//! Invariant: nothing that a person says, hears or sees is in a log line or an error.

mod bench;
mod doctor;
pub(crate) mod input;
mod look;
mod model;
mod pack;
pub(crate) mod print;
mod probe;
mod program;
mod run;
mod show;
mod system;
mod verify;
mod voice;

pub(crate) use program::Program;
