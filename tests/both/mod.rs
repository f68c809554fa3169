//! What sessions and conversations by voice do, written once and played on both faces of the
//! library.
//!
//! In: sides, the small models that are shipped. Out: one test for each behaviour.
//! - `side`: what can be asked; `native`: the side of Rust; that of C is in `ffi/tests/suite`
//! - `scene`: plays a behaviour and writes down all that the side answered; `list`: makes the tests
//! - `random`: numbers from a seed
//! - `chat`, `live`, `media`, `misuse`, `snapshot`: what sessions do
//! - `voice`: what conversations by voice do
//!
//! **Invariant:** where more than one side plays, all of them answer the same, bit for bit.

pub(crate) mod chat;
pub(crate) mod list;
pub(crate) mod live;
pub(crate) mod media;
pub(crate) mod misuse;
pub(crate) mod native;
pub(crate) mod random;
pub(crate) mod scene;
pub(crate) mod side;
pub(crate) mod snapshot;
pub(crate) mod voice;
