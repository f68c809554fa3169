//! The behaviours that both faces of the library have, played from Rust.
//!
//! In: `tests/both`. Out: one test for each.

use crate::both::list::behaviours;
use crate::both::native::Native;

behaviours!(Native);
