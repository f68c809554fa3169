//! Where the answer goes: pieces of text that a voice can say, their sound, the speaker.
//! In: text as it is made. Out: `Clause`s, `Pcm`, what a speaker plays.
//! Invariant: nothing here knows the model or the conversation.

pub mod clause;
pub mod speaker;
pub mod speech;

pub use clause::Clause;
pub use clause::ClauseCutter;
pub use speaker::Scissors;
pub use speaker::Speaker;
pub use speaker::Tap;
pub use speech::Espeak;
pub use speech::Synthesizer;
