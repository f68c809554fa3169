//! Where the answer goes: pieces of text that a voice can say.
//! In: text as it is made. Out: `Clause`s.
//! Invariant: nothing here knows the model or the conversation.

pub mod clause;
pub mod speaker;

pub use clause::Clause;
pub use clause::ClauseCutter;
pub use speaker::Speaker;
