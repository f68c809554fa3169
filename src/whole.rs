//! Files that are whole: they appear when they are complete, and a checksum tells damage.
//!
//! In: bytes in any pieces. Out: a file under its name, a number that names the bytes.
//! Source: FNV-1a, 64 bits: draft-eastlake-fnv, section 2.
//! Invariant: a file that is dropped or fails leaves nothing behind, and one that was there before
//! stays.

use std::fs::File;
use std::io::BufWriter;
use std::io::ErrorKind as IoKind;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::error::Error;
use crate::error::Result;

const BUFFER_BYTES: usize = 1 << 20;

/// Returns the last part of `path` for messages.
pub fn short_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Returns what makes an `Io` error of a file of this name that cannot be read.
pub(crate) fn cannot_read(name: &str) -> impl Fn(std::io::Error) -> Error + Copy {
    move |e| Error::io(format!("{name}: cannot be read; check the path")).with_source(e)
}

/// A file on its way; it gets its name when it is complete.
pub struct WholeFile {
    /// `None` once finished.
    file: Option<BufWriter<File>>,
    name: String,
    path: PathBuf,
    temp: PathBuf,
    size_bytes: u64,
}

impl WholeFile {
    /// Begins a file of about `size_bytes`, which are named if the disk is full.
    ///
    /// # Errors
    /// `Io` if no file can be made in its folder.
    pub fn create(path: &Path, size_bytes: u64) -> Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let name = short_name(path);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temp = path.with_file_name(format!(".{name}.{}-{n}.part", std::process::id()));
        let file = File::create_new(&temp).map_err(|e| {
            Error::io(format!("{name}: cannot be made; check the folder and its permissions"))
                .with_source(e)
        })?;
        let file = Some(BufWriter::with_capacity(BUFFER_BYTES, file));
        Ok(Self { file, name, path: path.to_owned(), temp, size_bytes })
    }

    /// Returns the file's name without its folder, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// `Io` if they cannot be written.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let result = match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Ok(()),
        };
        result.map_err(|e| self.write_error(e))
    }

    fn write_error(&self, e: std::io::Error) -> Error {
        let name = &self.name;
        let text = match e.kind() {
            IoKind::StorageFull | IoKind::QuotaExceeded => {
                let mib = self.size_bytes.div_ceil(1 << 20);
                format!("{name}: the disk is full; free {mib} MiB or choose another folder")
            }
            _ => format!("{name}: cannot be written"),
        };
        Error::io(text).with_source(e)
    }

    /// Completes the file and gives it its name, replacing an older one.
    ///
    /// # Errors
    /// `Io` if it cannot be written. The temporary file is removed.
    pub fn finish(mut self) -> Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let synced = file.into_inner().map_err(|e| e.into_error()).and_then(|f| f.sync_all());
        let renamed = synced.and_then(|()| std::fs::rename(&self.temp, &self.path));
        renamed.map_err(|e| {
            self.discard();
            self.write_error(e)
        })
    }

    /// Removes the temporary file; one that is gone already is no loss.
    fn discard(&self) {
        if let Err(e) = std::fs::remove_file(&self.temp) {
            log::debug!("{}: the temporary file could not be removed: {e}", self.name);
        }
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // Closed first, because some systems do not remove open files; unwritten bytes are
            // not wanted any more.
            drop(file.into_parts());
            self.discard();
        }
    }
}

/// A number that another order or value of any single byte changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checksum(u64);

impl Checksum {
    /// Returns the checksum of no bytes.
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds bytes; in any pieces they give the same.
    pub fn push(&mut self, bytes: &[u8]) {
        let add = |sum: u64, &b: &u8| (sum ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        self.0 = bytes.iter().fold(self.0, add);
    }

    /// Returns the number.
    pub fn value(self) -> u64 {
        self.0
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_checksums_are_met() {
        let cases: [(&[u8], u64); 3] = [
            (b"", 0xcbf2_9ce4_8422_2325),
            (b"a", 0xaf63_dc4c_8601_ec8c),
            (b"foobar", 0x8594_4171_f739_67e8),
        ];
        for (bytes, expected) in cases {
            let mut sum = Checksum::new();
            bytes.chunks(2).for_each(|part| sum.push(part));
            assert_eq!(sum.value(), expected);
        }
    }

    #[test]
    fn a_file_is_whole_or_as_it_was() {
        let name = format!("culet-whole-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.bin");
        for (bytes, is_finished, expected) in
            [(&b"one"[..], true, &b"one"[..]), (b"two", false, b"one"), (b"three", true, b"three")]
        {
            let mut file = WholeFile::create(&path, 3).unwrap();
            file.put(bytes).unwrap();
            if is_finished {
                file.finish().unwrap();
            } else {
                drop(file);
            }
            assert_eq!(std::fs::read(&path).unwrap(), expected);
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        }
        assert!(WholeFile::create(&folder.join("none/a.bin"), 1).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
