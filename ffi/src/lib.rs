//! C interface of Culet: engines and sessions behind opaque handles.
//!
//! In: calls through `include/culet.h`, which a test writes from these files. Out: statuses,
//! events and views. The header's words are the doc comments here, written for readers of C.
//! - `status`: numbers and texts of errors, versions
//! - `guard`: the panic boundary, objects that break; `handle`: pointers checked and owned
//! - `engine`, `session`, `assistant`: the objects; `media`: pictures and sounds of the host
//! - `event`: what an answer brings; `log`: the one callback
//!
//! **Invariant:** nothing that C passes in, short of a pointer to freed or foreign memory, is
//! undefined behaviour, a panic that leaves the library, or an abort.

#![expect(clippy::missing_safety_doc, reason = "the header says what each pointer must be")]

pub mod assistant;
pub mod engine;
pub mod event;
mod guard;
mod handle;
pub mod log;
mod media;
pub mod session;
pub mod status;
