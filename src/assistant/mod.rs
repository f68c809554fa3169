//! The conversation: who speaks when, and what becomes of what is said.
//! In: sound, pictures, time, progress of the answer and of the speaker, keys.
//! Out: actions such as "feed these samples", "guess the end", "stop the speaker"; text.
//! - `machine`: turn-taking without computing; `turn`: endpointing; `option`, `event`: its values
//! - `ear`: sound to the machine; `dictation`: speech to text, segment by segment
//! - `talk`: the machine's decisions carried out on a session, in a context that may be full;
//!   `reply`: one answer on its way
//! - `wake`: a small model overhears until its phrase is heard
//! - `driver`: the threads of microphone and speaker
//!
//! Invariant: beside `driver`, nothing here reads a clock, a device or a file.

mod dictation;
pub mod driver;
mod ear;
mod event;
mod machine;
mod option;
mod reply;
mod talk;
mod turn;
mod wake;

pub use dictation::Dictation;
pub use dictation::Written;
pub use dictation::WrittenSink;
pub use dictation::about_sound;
pub use dictation::dictation_options;
pub use dictation::transcribe_prompt;
pub use event::Action;
pub use event::Counters;
pub use event::Input;
pub use event::Key;
pub use event::State;
pub use machine::Machine;
pub use option::BargeIn;
pub use option::Mode;
pub use option::TurnOptions;
pub use talk::Talk;
pub use talk::TalkEvent;
pub use talk::TalkSink;
pub use wake::Called;
pub use wake::Lookout;
pub use wake::Phrase;
