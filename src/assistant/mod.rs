//! The conversation: who speaks when.
//! In: time, speech probability, progress of the answer and of the speaker, keys.
//! Out: actions such as "feed these samples", "guess the end", "stop the speaker".
//! Invariant: nothing here reads a clock, a device or a file, and nothing here computes.

mod event;
mod machine;
mod option;
mod turn;

pub use event::Action;
pub use event::Counters;
pub use event::Input;
pub use event::Key;
pub use event::State;
pub use machine::Machine;
pub use option::BargeIn;
pub use option::Mode;
pub use option::TurnOptions;
