//! The C interface from the outside, through the functions of the header alone.
//!
//! In: the tiny model that is shipped. Out: behaviour, equal to that of Rust; what only C can do.
//! - `side`, `voice`: the behaviours that both faces of the library have
//! - `call`: statuses and messages
//! - `session`: threads, views, pointers, options; `assistant`: packets, wake words, pointers

#![expect(clippy::unwrap_used, reason = "a test that cannot open its model has failed")]
#![expect(clippy::undocumented_unsafe_blocks, reason = "every block calls the interface")]

mod assistant;
#[path = "../../../tests/both/mod.rs"]
mod both;
mod call;
#[path = "../../../tests/it/npy.rs"]
#[expect(dead_code, reason = "no file of numbers is read here")]
mod npy;
#[path = "../../../tests/it/random.rs"]
mod random;
mod session;
mod side;
mod voice;
