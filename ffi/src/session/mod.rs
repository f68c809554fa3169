//! Sessions: one conversation each, fed by the host and pulled event by event.
//!
//! In: text, pixels, samples, messages. Out: events of answers.
//! - `option`: how one is made; `object`: the session itself, its snapshots
//! - `append`: what is said and shown; `live`: sound while it is spoken
//! - `answer`: prompts and what answers them; `turn`: the conversation between two prompts

pub mod answer;
pub mod append;
pub mod live;
pub mod object;
pub mod option;
mod turn;
