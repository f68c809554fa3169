//! Boxes and labels on a picture.
//!
//! In: `Frame`, `Mark`s. Out: the same `Frame` with each mark's outline and name on it.
//!
//! - `canvas`: outlines, plates and where they go
//! - `glyph`: letters as strokes, at any size

mod canvas;
mod glyph;

pub use canvas::MARK_COLOURS;
pub use canvas::Mark;
pub use canvas::draw;
