//! Numbers and rows as little-endian bytes, for snapshots.
//!
//! In: values. Out: bytes with their checksum; and back.
//! Invariant: nothing larger than what is left of the source is allocated.

use std::io::Read;

use crate::error::Error;
use crate::error::Result;
use crate::whole::Checksum;

/// Bytes of a row that are converted at once.
const PIECE_BYTES: usize = 1 << 16;

/// Where a snapshot's bytes go; an error ends it.
pub type ByteSink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// Values on their way out.
pub(super) struct Output<'a> {
    sink: &'a mut ByteSink<'a>,
    sum: Checksum,
}

impl<'a> Output<'a> {
    pub(super) fn new(sink: &'a mut ByteSink<'a>) -> Self {
        Self { sink, sum: Checksum::new() }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.push(bytes);
        (self.sink)(bytes)
    }

    pub(super) fn u32(&mut self, value: u32) -> Result<()> {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> Result<()> {
        self.put(&value.to_le_bytes())
    }

    /// Writes a count, then what was counted.
    pub(super) fn f32s(&mut self, values: &[f32]) -> Result<()> {
        self.u64(values.len() as u64)?;
        for piece in values.chunks(PIECE_BYTES / size_of::<f32>()) {
            let bytes: Vec<u8> = piece.iter().flat_map(|x| x.to_le_bytes()).collect();
            self.put(&bytes)?;
        }
        Ok(())
    }

    /// Writes the checksum of all that was put.
    pub(super) fn finish(self) -> Result<()> {
        (self.sink)(&self.sum.value().to_le_bytes())
    }
}

/// Returns what a snapshot says that its checksum fits but that makes no sense.
pub(super) fn malformed(what: &str) -> Error {
    Error::format(format!("the snapshot is malformed: {what}; make it again"))
}

pub(super) fn unreadable(e: std::io::Error) -> Error {
    Error::io("the snapshot cannot be read").with_source(e)
}

/// Values on their way in.
pub(super) struct Input<'a> {
    source: &'a mut dyn Read,
    n_left: u64,
}

impl<'a> Input<'a> {
    /// Reads at most `n_bytes`.
    pub(super) fn new(source: &'a mut dyn Read, n_bytes: u64) -> Self {
        Self { source, n_left: n_bytes }
    }

    /// Returns how many bytes are left.
    pub(super) fn n_left(&self) -> u64 {
        self.n_left
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.n_left = (self.n_left.checked_sub(bytes.len() as u64))
            .ok_or_else(|| malformed("it names more than it holds"))?;
        self.source.read_exact(bytes).map_err(unreadable)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a count of things that take at least `size_bytes` each.
    pub(super) fn count(&mut self, size_bytes: u64) -> Result<usize> {
        let n = self.u64()?;
        let fits = n.checked_mul(size_bytes).is_some_and(|b| b <= self.n_left);
        match usize::try_from(n) {
            Ok(n) if fits => Ok(n),
            _ => Err(malformed("it counts more than it holds")),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.count(1)?];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn f32s(&mut self) -> Result<Vec<f32>> {
        let n = self.count(size_of::<f32>() as u64)?;
        let mut values = Vec::with_capacity(n);
        let mut piece = [0; PIECE_BYTES];
        while values.len() < n {
            let size = (4 * (n - values.len())).min(PIECE_BYTES);
            self.fill(&mut piece[..size])?;
            let fours = piece[..size].chunks_exact(4);
            values.extend(fours.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let rows: Vec<f32> = (0..40_000).map(|i| i as f32 * 0.5).collect();
        let mut bytes = Vec::new();
        let mut sink = |more: &[u8]| {
            bytes.extend_from_slice(more);
            Ok(())
        };
        let mut output = Output::new(&mut sink);
        output.u32(7).unwrap();
        output.f32s(&rows).unwrap();
        output.u64(3).unwrap();
        output.put(b"abc").unwrap();
        output.finish().unwrap();
        let n = bytes.len() as u64;
        let mut source = &bytes[..];
        let mut input = Input::new(&mut source, n);
        assert_eq!(input.u32().unwrap(), 7);
        assert!(input.f32s().unwrap() == rows);
        assert_eq!(input.bytes().unwrap(), b"abc");
        assert_eq!(input.n_left(), 8);
        input.u64().unwrap();
        assert!(input.u32().is_err());
    }

    #[test]
    fn counts_are_bounded_by_what_is_there() {
        for n in [1, 2, u64::MAX / 2, u64::MAX] {
            let bytes = n.to_le_bytes();
            let mut source = &bytes[..];
            assert!(Input::new(&mut source, 8).f32s().is_err(), "{n}");
        }
    }
}
