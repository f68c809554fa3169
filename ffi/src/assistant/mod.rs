//! Assistants: a spoken conversation each, whose turns are found by the library.
//!
//! In: the host's samples, pictures, clock and what its voice has said. Out: what to say, polled.
//! - `option`: how a conversation is held; `event`: what is polled; `object`: the assistant itself

pub mod event;
pub mod object;
pub mod option;
