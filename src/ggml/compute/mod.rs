//! Computing a graph: its memory, its inputs and outputs, and where the time goes.
//!
//! In: a finished [`GraphBuilder`](super::GraphBuilder). Out: a [`Plan`], and with `-vv` a
//! [`Profile`] of it.

mod parts;
mod plan;
mod profile;

pub(super) use parts::Parts;
pub use plan::Plan;
pub use plan::Port;
pub(super) use profile::Kernels;
pub(super) use profile::Profile;
