//! Small numeric kernels in plain Rust, for what ggml's processor kernels do not do exactly
//! enough or not in one pass.
//!
//! In: slices of f32. Out: slices of f32. No model, no graph, no device.
//! **Invariant:** every fast routine has a naive twin in its tests.

pub mod attend;
pub mod conv;
pub mod math;
pub mod norm;
pub mod rotate;
pub mod tile;
pub mod window;
