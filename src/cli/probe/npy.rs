//! Writes arrays as `.npy` files of little-endian float32 in C order.
//! In: a shape, slowest side first, then its values in any pieces. Out: a file.
//! Source: NumPy, `numpy/lib/format.py`, format version 1.0.
//! Invariant: a file is whole or an error was returned.

use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;

use culet::Error;
use culet::Result;

/// The header with what comes before it is a multiple of this many bytes.
const HEADER_ALIGN_BYTES: usize = 64;
/// Magic, version and length of the header.
const PREFIX_BYTES: usize = 10;

/// An array that is being written.
pub(super) struct NpyWriter {
    name: String,
    file: BufWriter<File>,
    n_left: usize,
}

impl NpyWriter {
    /// Creates the file for an array of `shape`.
    pub(super) fn create(path: &Path, shape: &[usize]) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::create(path).map_err(|e| cannot(&name, e))?;
        let mut file = BufWriter::new(file);
        file.write_all(&header(shape)).map_err(|e| cannot(&name, e))?;
        Ok(Self { name, file, n_left: shape.iter().product() })
    }

    /// Appends values.
    pub(super) fn append(&mut self, values: &[f32]) -> Result<()> {
        let left = self.n_left.checked_sub(values.len());
        self.n_left = left.ok_or_else(|| self.wrong("more values than its shape"))?;
        for value in values {
            let written = self.file.write_all(&value.to_le_bytes());
            written.map_err(|e| cannot(&self.name, e))?;
        }
        Ok(())
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> Result<()> {
        if self.n_left > 0 {
            return Err(self.wrong("fewer values than its shape"));
        }
        self.file.flush().map_err(|e| cannot(&self.name, e))
    }

    fn wrong(&self, what: &str) -> Error {
        Error::internal(format!("{}: {what}", self.name))
    }
}

/// Writes a whole array.
pub(super) fn write(path: &Path, shape: &[usize], values: &[f32]) -> Result<()> {
    let mut writer = NpyWriter::create(path, shape)?;
    writer.append(values)?;
    writer.finish()
}

fn cannot(name: &str, e: io::Error) -> Error {
    Error::io(format!("{name}: cannot be written")).with_source(e)
}

fn header(shape: &[usize]) -> Vec<u8> {
    let sides: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let sides = match shape.len() {
        1 => sides.trim_end(),
        _ => sides.trim_end_matches(", "),
    };
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({sides}), }}");
    let length = (PREFIX_BYTES + text.len() + 1).next_multiple_of(HEADER_ALIGN_BYTES);
    text.push_str(&" ".repeat(length - PREFIX_BYTES - text.len() - 1));
    text.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let length = u16::try_from(text.len()).expect("a shape has few sides");
    bytes.extend(length.to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_aligned_and_name_the_shape() {
        let cases: [(&[usize], &str); 4] =
            [(&[], "()"), (&[5], "(5,)"), (&[2, 3], "(2, 3)"), (&[0, 128], "(0, 128)")];
        for (shape, text) in cases {
            let bytes = header(shape);
            assert_eq!(bytes.len() % HEADER_ALIGN_BYTES, 0, "{shape:?}");
            assert_eq!(bytes[8] as usize + PREFIX_BYTES, bytes.len(), "{shape:?}");
            let end = String::from_utf8_lossy(&bytes[PREFIX_BYTES..]).into_owned();
            assert!(end.contains(&format!("'shape': {text}, }}")), "{end}");
            assert!(end.ends_with('\n'));
        }
    }

    #[test]
    fn values_must_fill_the_shape() {
        let path = std::env::temp_dir().join(format!("culet-npy-{}.npy", std::process::id()));
        assert!(write(&path, &[2, 2], &[1.0, 2.0, 3.0]).is_err());
        assert!(write(&path, &[2], &[1.0, 2.0, 3.0]).is_err());
        assert!(write(&path, &[1, 3], &[1.0, -2.0, 3.5]).is_ok());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(bytes[bytes.len() - 4..], 3.5_f32.to_le_bytes());
        assert!(write(Path::new("/nowhere/at/all.npy"), &[0], &[]).is_err());
    }
}
