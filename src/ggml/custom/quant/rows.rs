//! Which rows of a weight are multiplied together, and where they lie.
//!
//! In: a weight's bytes and a thread's part of its rows. Out: groups of eight rows.

use super::GROUP;
use super::activations::BLOCK;
use super::format::Format;
use crate::ggml::custom::Taken;
use crate::ggml::custom::ask_early_for;
use crate::ggml::custom::ask_for;

/// Bytes that memory is asked for ahead, at each of eight places.
const AHEAD: usize = 256;
/// Bytes that it is asked for early.
const EARLY: usize = 1536;

/// Eight rows of a weight.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// From the first row's first byte to the last row's last one.
    pub(super) bytes: &'a [u8],
    /// Bytes from a row to the next.
    pub(super) stride: usize,
    /// What will be wanted next lies so many bytes behind what is read.
    pub(super) ahead: usize,
    /// What will be wanted after that lies so many behind it.
    pub(super) early: usize,
}

impl Rows<'_> {
    /// Panics unless these are rows of `n_blocks` blocks of activations.
    pub(super) fn check(&self, format: Format, n_blocks: usize) {
        let len = format.row_bytes(n_blocks * BLOCK).map(|n| (GROUP - 1) * self.stride + n);
        assert!(len == Some(self.bytes.len()), "eight whole rows");
    }
}

/// Rows of a weight of which some are multiplied.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) row_bytes: usize,
    /// The first row.
    pub(super) first: usize,
    /// Groups of eight rows.
    pub(super) n_groups: usize,
    /// Whether a group's rows are taken from eight places: memory is fastest so.
    pub(super) apart: bool,
}

impl<'a> Part<'a> {
    /// Returns row `i` of a group.
    fn row(&self, group: usize, i: usize) -> usize {
        let (per_group, per_row) = if self.apart { (1, self.n_groups) } else { (GROUP, 1) };
        self.first + group * per_group + i * per_row
    }

    pub(super) fn group(&self, group: usize) -> Rows<'a> {
        let [first, second, last] = [0, 1, GROUP - 1].map(|i| self.row(group, i));
        let group_bytes = GROUP * self.row_bytes;
        let [ahead, early] = if self.apart { [AHEAD, EARLY] } else { [group_bytes; 2] };
        Rows {
            bytes: &self.bytes[first * self.row_bytes..(last + 1) * self.row_bytes],
            stride: (second - first) * self.row_bytes,
            ahead,
            early,
        }
    }

    /// Writes a group's sums with one row of activations.
    pub(super) fn put(&self, own: &mut Taken, row: usize, group: usize, sums: &[f32; GROUP]) {
        match self.apart {
            true => (0..).zip(sums).for_each(|(i, v)| own.put(row, self.row(group, i), &[*v])),
            false => own.put(row, self.row(group, 0), sums),
        }
    }

    /// Asks memory for what is read first, at each place.
    pub(super) fn ask_for_start(&self) {
        let run = if self.apart { self.n_groups * self.row_bytes } else { self.row_bytes };
        for i in 0..GROUP {
            let start = &self.bytes[self.row(0, i) * self.row_bytes..][..run.min(EARLY)];
            let (first, rest) = start.split_at(run.min(AHEAD));
            ask_for(first);
            ask_early_for(rest);
        }
    }
}
