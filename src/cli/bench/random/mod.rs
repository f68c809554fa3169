//! Random weights and a made-up vocabulary for files to measure with.
//!
//! In: seeds, types, sizes. Out: [`Pattern`]s of blocks, [`Pieces`].
//! Invariant: the same seed gives the same bytes on every machine.

mod blocks;
mod pieces;

pub(super) use blocks::Pattern;
pub(super) use blocks::Random;
pub(super) use pieces::Pieces;
