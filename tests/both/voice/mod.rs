//! Conversations by voice, on a clock that counts samples.
//!
//! In: sides, the model that is shipped, its held-out sounds. Out: behaviours.
//! - `side`: what can be asked; `native`: the side of Rust; that of C is in `ffi/tests/suite`
//! - `hall`: where a conversation is held, and all that happened in it; `turn`: the behaviours

pub(crate) mod hall;
pub(crate) mod native;
pub(crate) mod side;
pub(crate) mod turn;

pub(crate) use turn::*;
