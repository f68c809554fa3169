//! Byte-pair merging over one span of text.
//!
//! In: pieces and merges of the `Vocabulary`, a span without markers. Out: piece indices.
//! Source: Sennrich et al. 2016; merge order and byte fallback as in the `tokenizers` crate.
//! Invariant: the pair of lowest rank merges first, the leftmost of equals; O(n log n) in bytes.
//!
//! A merge is found by the hash of its two sides' bytes, so loading looks up no piece: one
//! pass over 5 MB of merges and one write of 8 bytes for each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::error::Error;
use crate::error::Result;
use crate::text::vocabulary::Strings;
use crate::text::vocabulary::View;

/// Most slots looked at for one key; more means a file made to be slow.
const PROBES_MAX: usize = 256;
const END: u32 = u32::MAX;

/// Hash table from strings to indices: open addressing, 8 bytes a slot.
struct Slots {
    /// Low half of the hash, then index + 1; 0 is free.
    slots: Vec<u64>,
    shift: u32,
}

impl Slots {
    fn with_capacity(n: usize) -> Self {
        let n_slots = (n * 2).next_power_of_two().max(16);
        Self { slots: vec![0; n_slots], shift: 64 - n_slots.trailing_zeros() }
    }

    /// Adds `index` unless an equal key is there already.
    fn insert(&mut self, hash: u64, index: u32, same: impl Fn(u32) -> bool) -> Result<()> {
        let mask = self.slots.len() - 1;
        let mut at = (hash >> self.shift) as usize;
        for _ in 0..PROBES_MAX {
            let slot = self.slots[at];
            if slot == 0 {
                self.slots[at] = (hash << 32) | u64::from(index + 1);
                return Ok(());
            }
            if (slot >> 32) as u32 == hash as u32 && same(slot as u32 - 1) {
                return Ok(());
            }
            at = (at + 1) & mask;
        }
        Err(Error::format("the vocabulary has too many strings of one hash"))
    }

    fn find(&self, hash: u64, same: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut at = (hash >> self.shift) as usize;
        for _ in 0..PROBES_MAX {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            if (slot >> 32) as u32 == hash as u32 && same(slot as u32 - 1) {
                return Some(slot as u32 - 1);
            }
            at = (at + 1) & mask;
        }
        None
    }
}

/// Multiplies to 128 bits and folds; spreads every input bit over the result.
fn mix(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    wide as u64 ^ (wide >> 64) as u64
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

fn half(bytes: &[u8], at: usize) -> u64 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u64::from(u32::from_le_bytes(four))
}

fn hash(bytes: &[u8]) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    const M: u64 = 0xd6e8_feb8_6659_fd93;
    let n = bytes.len();
    let mut h = n as u64 ^ K;
    let last = match n {
        0 => 0,
        1..4 => u64::from(bytes[0]) << 16 | u64::from(bytes[n / 2]) << 8 | u64::from(bytes[n - 1]),
        4..8 => half(bytes, 0) << 32 | half(bytes, n - 4),
        _ => {
            for at in (0..n - 8).step_by(8) {
                h = mix(h ^ word(bytes, at), M);
            }
            word(bytes, n - 8)
        }
    };
    mix(h ^ last, M)
}

fn hash_pair(left: u64, right: u64) -> u64 {
    mix(left.rotate_left(29) ^ right, 0xa076_1d64_78bd_642f)
}

/// Pieces and merges, ready for lookup.
pub(super) struct Bpe {
    pieces: Strings,
    piece_slots: Slots,
    merges: Strings,
    merge_slots: Slots,
}

impl Bpe {
    /// Builds both tables.
    ///
    /// # Errors   `Format` if a merge has no blank between its sides
    pub(super) fn new(pieces: Strings, merges: Strings) -> Result<Self> {
        let mut piece_slots = Slots::with_capacity(pieces.len());
        let view = pieces.view();
        for index in 0..pieces.len() {
            let piece = view.at(index);
            piece_slots.insert(hash(piece), index as u32, |i| view.at(i as usize) == piece)?;
        }
        let mut merge_slots = Slots::with_capacity(merges.len());
        let view = merges.view();
        for index in 0..merges.len() {
            let merge = view.at(index);
            let Some((left, right)) = sides(merge) else {
                return Err(Error::format(format!(
                    "merge {index} of the vocabulary has no blank between its two sides"
                )));
            };
            let key = hash_pair(hash(left), hash(right));
            merge_slots
                .insert(key, index as u32, |i| sides(view.at(i as usize)) == Some((left, right)))?;
        }
        Ok(Self { pieces, piece_slots, merges, merge_slots })
    }

    /// Returns the strings of the pieces.
    pub(super) fn pieces(&self) -> &Strings {
        &self.pieces
    }

    /// Returns the index of the piece spelled `bytes`, the first if there are several.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<u32> {
        let view = self.pieces.view();
        self.piece_slots.find(hash(bytes), |i| view.at(i as usize) == bytes)
    }

    /// Merges `span` and calls `out` for each remaining symbol, left to right.
    ///
    /// The symbol's piece is `None` where the vocabulary has no such piece.
    pub(super) fn merge(&self, span: &str, mut out: impl FnMut(&[u8], Option<u32>)) {
        let mut work = Work::new(self.merges.view(), &self.merge_slots, span);
        work.run();
        let pieces = self.pieces.view();
        let mut at = 0;
        while let Some(symbol) = work.symbols.get(at as usize) {
            let bytes = work.bytes_of(symbol);
            let piece = self.piece_slots.find(symbol.hash, |i| pieces.at(i as usize) == bytes);
            out(bytes, piece);
            at = symbol.next;
        }
    }
}

/// Divides a merge at its blank.
fn sides(merge: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = merge.iter().skip(1).position(|&b| b == b' ')? + 1;
    Some((&merge[..at], &merge[at + 1..]))
}

/// A run of the span's bytes, linked to its neighbours.
struct Symbol {
    start: u32,
    /// 0 once merged into its left neighbour.
    len: u32,
    prev: u32,
    next: u32,
    hash: u64,
}

/// A merge that was possible when it was noted: rank and left symbol, then both lengths.
type Candidate = Reverse<(u64, u32, u32)>;

struct Work<'a> {
    merges: View<'a>,
    slots: &'a Slots,
    span: &'a [u8],
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
}

impl<'a> Work<'a> {
    fn new(merges: View<'a>, slots: &'a Slots, span: &'a str) -> Self {
        let bytes = span.as_bytes();
        let mut symbols = Vec::with_capacity(bytes.len());
        for (start, c) in span.char_indices() {
            let index = symbols.len() as u32;
            symbols.push(Symbol {
                start: start as u32,
                len: c.len_utf8() as u32,
                prev: index.wrapping_sub(1),
                next: index + 1,
                hash: hash(&bytes[start..start + c.len_utf8()]),
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = END;
        }
        let mut work = Self { merges, slots, span: bytes, symbols, queue: BinaryHeap::new() };
        let pairs = 0..work.symbols.len().saturating_sub(1) as u32;
        let first: Vec<Candidate> = pairs.filter_map(|left| work.candidate(left)).collect();
        work.queue = BinaryHeap::from(first);
        work
    }

    fn bytes_of(&self, symbol: &Symbol) -> &'a [u8] {
        &self.span[symbol.start as usize..(symbol.start + symbol.len) as usize]
    }

    /// Returns the merge of `left` with its right neighbour, if there is one.
    fn candidate(&self, left: u32) -> Option<Candidate> {
        let a = self.symbols.get(left as usize)?;
        let b = self.symbols.get(a.next as usize)?;
        let key = hash_pair(a.hash, b.hash);
        let (left_bytes, right_bytes) = (self.bytes_of(a), self.bytes_of(b));
        let n = left_bytes.len();
        let rank = self.slots.find(key, |i| {
            let merge = self.merges.at(i as usize);
            merge.len() == n + 1 + right_bytes.len()
                && &merge[..n] == left_bytes
                && merge[n] == b' '
                && &merge[n + 1..] == right_bytes
        })?;
        Some(Reverse((u64::from(rank) << 32 | u64::from(left), a.len, b.len)))
    }

    fn run(&mut self) {
        while let Some(Reverse((key, left_len, right_len))) = self.queue.pop() {
            let left = key as u32;
            let a = &self.symbols[left as usize];
            let right = a.next;
            if a.len != left_len {
                continue;
            }
            match self.symbols.get(right as usize) {
                Some(b) if b.len == right_len => {}
                _ => continue,
            }
            self.join(left, right);
            let prev = self.symbols[left as usize].prev;
            for start in [prev, left] {
                if let Some(candidate) = self.candidate(start) {
                    self.queue.push(candidate);
                }
            }
        }
    }

    fn join(&mut self, left: u32, right: u32) {
        let b = &mut self.symbols[right as usize];
        let (len, next) = (b.len, b.next);
        b.len = 0;
        let a = &mut self.symbols[left as usize];
        a.len += len;
        a.next = next;
        let (start, end) = (a.start as usize, (a.start + a.len) as usize);
        a.hash = hash(&self.span[start..end]);
        if let Some(after) = self.symbols.get_mut(next as usize) {
            after.prev = left;
        }
    }
}
