//! `culet bench`: speed and memory, alone or beside llama.cpp, and files to measure them with.
//!
//! In: a model, or the shape of one. Out: rows, or a file.
//! Invariant: nothing is reported whose answer was not looked at; unmeasured is empty, not zero.

mod machine;
mod media;
#[cfg(not(feature = "reference"))]
mod no_peer;
mod option;
#[cfg(feature = "reference")]
mod peer;
mod random;
mod report;
mod run;
mod speed;
mod synthesize;
mod voice;

#[cfg(not(feature = "reference"))]
use no_peer as peer;
pub(crate) use option::Args;
pub(crate) use run::run;
