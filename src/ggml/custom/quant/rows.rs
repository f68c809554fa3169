//! Which rows of a weight are multiplied together, and where they lie.
//!
//! In: a weight's bytes and a thread's part of its rows. Out: groups of eight rows.

use super::GROUP;
use super::activations::BLOCK;
use super::format::Format;
use crate::ggml::custom::Taken;
use crate::ggml::custom::ask_early_for;
use crate::ggml::custom::ask_for;

/// Bytes that memory is asked for ahead, for each row of a group.
const AHEAD: usize = 256;
/// Bytes that it is asked for early.
const EARLY: usize = 1536;

/// How a group's rows lie.
#[derive(Clone, Copy)]
pub(super) enum Order {
    /// At eight places far from each other: memory is fastest so.
    Apart,
    /// One behind the other.
    Beside,
    /// Packed together, as one long row.
    Packed,
}

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
    pub(super) order: Order,
}

impl<'a> Part<'a> {
    /// Returns row `i` of a group.
    fn row(&self, group: usize, i: usize) -> usize {
        let (per_group, per_row) = match self.order {
            Order::Apart => (1, self.n_groups),
            Order::Beside | Order::Packed => (GROUP, 1),
        };
        self.first + group * per_group + i * per_row
    }

    pub(super) fn group(&self, group: usize) -> Rows<'a> {
        let [first, second, last] = [0, 1, GROUP - 1].map(|i| self.row(group, i));
        let [ahead, early] = match self.order {
            Order::Apart => [AHEAD, EARLY],
            Order::Beside => [GROUP * self.row_bytes; 2],
            Order::Packed => [GROUP * AHEAD, GROUP * EARLY],
        };
        Rows {
            bytes: &self.bytes[first * self.row_bytes..(last + 1) * self.row_bytes],
            stride: (second - first) * self.row_bytes,
            ahead,
            early,
        }
    }

    /// Writes a group's sums with one row of activations.
    pub(super) fn put(&self, own: &mut Taken, row: usize, group: usize, sums: &[f32; GROUP]) {
        match self.order {
            Order::Apart => {
                (0..).zip(sums).for_each(|(i, v)| own.put(row, self.row(group, i), &[*v]));
            }
            Order::Beside | Order::Packed => own.put(row, self.row(group, 0), sums),
        }
    }

    /// Asks memory for what is read first, at each place.
    pub(super) fn ask_for_start(&self) {
        let (n_places, run) = match self.order {
            Order::Apart => (GROUP, self.n_groups * self.row_bytes),
            Order::Beside => (GROUP, self.row_bytes),
            Order::Packed => (1, self.n_groups * GROUP * self.row_bytes),
        };
        let [ahead, early] = [AHEAD, EARLY].map(|n| run.min(n * (GROUP / n_places)));
        for i in 0..n_places {
            let start = &self.bytes[self.row(0, i) * self.row_bytes..][..early];
            let (first, rest) = start.split_at(ahead);
            ask_for(first);
            ask_early_for(rest);
        }
    }
}
