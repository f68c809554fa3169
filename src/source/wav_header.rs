//! Wav headers that state wrong lengths, set right on the way to the decoder.
//! In: a source of bytes. Out: the same bytes, with up to two lengths replaced.
//! Invariant: only lengths that cannot be true are touched, and never the file itself.

use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;

/// Most chunks that are looked at before the one that holds the sound.
const CHUNKS_MAX: usize = 64;

/// A source whose lengths fit together.
pub(crate) struct WavHeader<S> {
    inner: S,
    n_bytes: u64,
    position: u64,
    /// Where a length stands and what it should be.
    repairs: Vec<(u64, [u8; 4])>,
}

impl<S: Read + Seek> WavHeader<S> {
    /// Wraps a source that stands at its start and ends after `n_bytes`.
    ///
    /// Programs that write to a pipe, and recorders that were cut off, leave lengths of zero or of
    /// four gigabytes. The sound is then taken to go to the end.
    pub(crate) fn new(mut inner: S, n_bytes: u64) -> io::Result<Self> {
        let repairs = find_repairs(&mut inner, n_bytes)?;
        inner.seek(SeekFrom::Start(0))?;
        Ok(Self { inner, n_bytes, position: 0, repairs })
    }

    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }
}

impl<S: Read> Read for WavHeader<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        for (start, bytes) in &self.repairs {
            for (at, byte) in (*start..).zip(bytes) {
                let place = at.checked_sub(self.position).and_then(|i| usize::try_from(i).ok());
                if let Some(slot) = place.and_then(|i| buffer[..n].get_mut(i)) {
                    *slot = *byte;
                }
            }
        }
        self.position += n as u64;
        Ok(n)
    }
}

impl<S: Seek> Seek for WavHeader<S> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = self.inner.seek(to)?;
        Ok(self.position)
    }
}

/// Returns the lengths to replace: none for anything but a wav file.
fn find_repairs(source: &mut (impl Read + Seek), n_bytes: u64) -> io::Result<Vec<(u64, [u8; 4])>> {
    let clamped = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let Some(header) = read_at::<12>(source, 0)? else { return Ok(Vec::new()) };
    if &header[..4] != b"RIFF" || &header[8..] != b"WAVE" {
        return Ok(Vec::new());
    }
    let stated_riff = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let mut at = 12;
    for _ in 0..CHUNKS_MAX {
        let Some(chunk) = read_at::<8>(source, at)? else { break };
        let stated = u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
        let (start, length) = (at + 8, u64::from(stated));
        if &chunk[..4] != b"data" {
            at = start + length + length % 2;
            continue;
        }
        let rest = n_bytes.saturating_sub(start);
        let mut repairs = Vec::new();
        let empty = length == 0 && rest > 0 && !starts_chunk(source, start, rest)?;
        let length = if empty || length > rest { rest } else { length };
        if length != u64::from(stated) {
            repairs.push((at + 4, clamped(length).to_le_bytes()));
        }
        if u64::from(stated_riff) + 8 < start + length || u64::from(stated_riff) + 8 > n_bytes {
            repairs.push((4, clamped(n_bytes.saturating_sub(8)).to_le_bytes()));
        }
        return Ok(repairs);
    }
    Ok(Vec::new())
}

/// Returns whether a chunk that fits into `rest` bytes begins at `at`.
fn starts_chunk(source: &mut (impl Read + Seek), at: u64, rest: u64) -> io::Result<bool> {
    let Some(chunk) = read_at::<8>(source, at)? else { return Ok(false) };
    let length = u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
    let named = chunk[..4].iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    Ok(named && u64::from(length) + 8 <= rest)
}

/// Returns `N` bytes at a place, or `None` if the source ends before.
fn read_at<const N: usize>(
    source: &mut (impl Read + Seek),
    at: u64,
) -> io::Result<Option<[u8; N]>> {
    source.seek(SeekFrom::Start(at))?;
    let mut bytes = [0; N];
    match source.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn wav(riff: u32, data: u32, sound: &[u8], after: &[u8]) -> Vec<u8> {
        let mut bytes =
            [b"RIFF", &riff.to_le_bytes()[..], b"WAVEfmt ", &4u32.to_le_bytes()].concat();
        bytes.extend(b"....data");
        bytes.extend(data.to_le_bytes());
        bytes.extend(sound);
        bytes.extend(after);
        bytes
    }

    fn through(bytes: &[u8], read_bytes: usize) -> Vec<u8> {
        let mut source = WavHeader::new(Cursor::new(bytes), bytes.len() as u64).unwrap();
        let (mut out, mut buffer) = (Vec::new(), vec![0; read_bytes]);
        loop {
            match source.read(&mut buffer).unwrap() {
                0 => return out,
                n => out.extend(&buffer[..n]),
            }
        }
    }

    #[test]
    fn only_lengths_that_cannot_be_true_change() {
        let (sound, list) = ([7; 10], *b"LIST\x02\0\0\0ab");
        let cases = [
            (wav(34, 10, &sound, &[]), wav(34, 10, &sound, &[])),
            (wav(44, 10, &sound, &list), wav(44, 10, &sound, &list)),
            (wav(34, 0, &[], &list), wav(34, 0, &[], &list)),
            (wav(0, 0, &sound, &[]), wav(34, 10, &sound, &[])),
            (wav(u32::MAX, u32::MAX, &sound, &[]), wav(34, 10, &sound, &[])),
            (wav(34, u32::MAX, &sound, &[]), wav(34, 10, &sound, &[])),
            (wav(24, 0, &sound, &[]), wav(34, 10, &sound, &[])),
            (b"RIFFabc".to_vec(), b"RIFFabc".to_vec()),
            (b"fLaC or anything else".to_vec(), b"fLaC or anything else".to_vec()),
            (Vec::new(), Vec::new()),
        ];
        for (i, (bytes, expected)) in cases.iter().enumerate() {
            for read_bytes in [1, 3, 100] {
                assert_eq!(&through(bytes, read_bytes), expected, "case {i}, {read_bytes}");
            }
        }
    }
}
