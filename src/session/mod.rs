//! Sessions: one timeline each, from prompt items to generated tokens.
//!
//! In: conversations, media, sound as it arrives. Out: answer events, token by token.
//! - `media`: pictures and sounds become soft tokens, once
//! - `scout`: the next picture is encoded while the session answers
//! - `feed`: a rendered prompt becomes steps; what the cache already holds is kept
//! - `hearing`: sound becomes soft tokens while it arrives; `live`: and is prefilled at once
//! - `timeline`: [`Session`], which computes; `snapshot`: as bytes, and back; `bytes`: those
//!
//! **Invariant:** a sound fed in any packets leaves the same cache, bit for bit, as the whole:
//! its soft tokens are prefilled in blocks that begin at fixed token numbers.

mod bytes;
mod feed;
mod hearing;
mod live;
mod media;
mod scout;
mod snapshot;
mod timeline;

pub use bytes::ByteSink;
pub use hearing::SEGMENT_SECONDS_MAX;
pub use media::Encoded;
pub use scout::Scout;
pub use snapshot::Restored;
pub use timeline::Session;
pub use timeline::SessionOptions;
pub use timeline::Stats;
