//! Read-only memory map of a file.
//!
//! In: a path, or an open file with offset and length. Out: [`Mapping`] behind an `Arc`.
//! Invariant: the bytes stay where they are for as long as one `Arc` lives, so pointers into them
//! may be given to the kernels together with a clone of the `Arc`.
//!
//! Hazard: on Unix another program can cut the file short while it is mapped; reading the lost
//! pages then raises SIGBUS, which no check here can prevent. The length is compared again right
//! after mapping, and [`Mapping::check_length`] lets long-running callers look again. Replace model
//! files by renaming a finished copy over them, as the writer of this module's folder does.

#![expect(unsafe_code, reason = "mapping a file and asking for its resident pages")]

use std::fs::File;
use std::io::ErrorKind as IoKind;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use memmap2::MmapMut;
use memmap2::MmapOptions;

use crate::error::Error;
use crate::error::Result;
use crate::whole::short_name;

/// What the kernels expect of the address of every tensor, in bytes.
pub const POINTER_ALIGN_BYTES: u64 = 32;

/// A file mapped read-only into memory.
#[derive(Debug)]
pub struct Mapping {
    map: Mmap,
    name: String,
    /// The open file and the length it must keep; none for memory.
    file: Option<(File, u64)>,
}

impl Mapping {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// `Io` if it cannot be opened or changes meanwhile; `Format` if it is empty.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let name = short_name(path);
        let file = File::open(path).map_err(|e| open_error(&name, e))?;
        Self::from_file(file, &name, 0, None)
    }

    /// Maps `len` bytes from `offset` of an open file, or all from `offset` on.
    ///
    /// For models inside a container such as an Android package; `name` stands in errors.
    ///
    /// # Errors
    /// `Io` as for [`Mapping::open`]; `Input` if the range is not in the file or `offset` is not a
    /// multiple of 32.
    pub fn from_file(file: File, name: &str, offset: u64, len: Option<u64>) -> Result<Arc<Self>> {
        let size = regular_size(&file, name)?;
        if !offset.is_multiple_of(POINTER_ALIGN_BYTES) {
            return Err(Error::input(format!(
                "{name}: starts at byte {offset} of its container, expected a multiple of \
                 {POINTER_ALIGN_BYTES}; store it uncompressed and aligned to a page"
            )));
        }
        let len = len.unwrap_or(size.saturating_sub(offset));
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::input(format!(
                "{name}: range of {len} bytes from byte {offset} reaches past the file's end \
                 at {size} bytes"
            )));
        }
        if len == 0 {
            return Err(Error::format(format!(
                "{name}: is empty, expected a GGUF file; fetch it again"
            )));
        }
        let n = usize::try_from(len).map_err(|_| {
            Error::memory(format!("{name}: {len} bytes do not fit this machine's address space"))
        })?;
        // SAFETY: the map is read-only and private to this type, which keeps `file` open. That
        // nobody shortens or rewrites the file meanwhile is the hazard named in the file header.
        let map = unsafe { MmapOptions::new().offset(offset).len(n).map(&file) };
        let map = map.map_err(|e| Error::io(format!("{name}: cannot be mapped")).with_source(e))?;
        let mapping = Self { map, name: name.to_owned(), file: Some((file, size)) };
        mapping.check_length()?;
        Ok(Arc::new(mapping))
    }

    /// Copies `bytes` to page-aligned memory, for small models inside a program and for tests.
    ///
    /// # Errors
    /// `Format` if `bytes` is empty; `Memory` if there is no room.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Arc<Self>> {
        if bytes.is_empty() {
            return Err(Error::format(format!("{name}: is empty, expected a GGUF file")));
        }
        let no_room =
            |e| Error::memory(format!("{name}: no room for {} bytes", bytes.len())).with_source(e);
        let mut map = MmapMut::map_anon(bytes.len()).map_err(no_room)?;
        map.copy_from_slice(bytes);
        let map = map.make_read_only().map_err(no_room)?;
        Ok(Arc::new(Self { map, name: name.to_owned(), file: None }))
    }

    /// Returns the mapped bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Returns the file's name without its folder, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compares the file's length now with the length it had when it was mapped.
    ///
    /// # Errors
    /// `Io` if the file became shorter or longer.
    pub fn check_length(&self) -> Result<()> {
        let Some((file, size)) = &self.file else { return Ok(()) };
        let now = regular_size(file, &self.name)?;
        if now != *size {
            return Err(Error::io(format!(
                "{}: changed from {size} to {now} bytes while it was in use; \
                 wait until it is complete, then open it again",
                self.name
            )));
        }
        Ok(())
    }

    /// Tells the system that `range` will be read at random places, so that it reads no ahead.
    pub fn advise_random(&self, range: Range<usize>) {
        self.advise(Hint::Random, range);
    }

    /// Tells the system that `range` will be read from its start to its end.
    pub fn advise_sequential(&self, range: Range<usize>) {
        self.advise(Hint::Sequential, range);
    }

    /// Tells the system to read `range` from disk soon.
    pub fn advise_willneed(&self, range: Range<usize>) {
        self.advise(Hint::WillNeed, range);
    }

    /// Passes the hint on; hints may be refused without harm, so a failure is only logged.
    #[cfg(unix)]
    fn advise(&self, hint: Hint, range: Range<usize>) {
        let Some(range) = self.inside(range) else { return };
        let advice = match hint {
            Hint::Random => memmap2::Advice::Random,
            Hint::Sequential => memmap2::Advice::Sequential,
            Hint::WillNeed => memmap2::Advice::WillNeed,
        };
        if let Err(e) = self.map.advise_range(advice, range.start, range.len()) {
            log::debug!("{}: the system refused a {hint:?} hint: {e}", self.name);
        }
    }

    #[cfg(not(unix))]
    fn advise(&self, _hint: Hint, _range: Range<usize>) {}

    /// Returns `range` cut to the mapping, or `None` if nothing is left.
    #[cfg(unix)]
    fn inside(&self, range: Range<usize>) -> Option<Range<usize>> {
        let range = range.start..range.end.min(self.map.len());
        (range.start < range.end).then_some(range)
    }

    /// Lets the system forget the pages, where it can, so that they are read from disk again:
    /// for measurements. Pages that are in use stay; see [`Mapping::resident_bytes`].
    pub fn forget(&self) {
        #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
        if let Some((file, _)) = &self.file {
            resident::forget(file);
        }
    }

    /// Returns how many bytes of `range` are in memory now, or `None` where that is not known.
    pub fn resident_bytes(&self, range: Range<usize>) -> Option<usize> {
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
        return resident::bytes(&self.map, self.inside(range)?);
        #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
        {
            let _ = range;
            None
        }
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

#[derive(Debug, Clone, Copy)]
enum Hint {
    Random,
    Sequential,
    WillNeed,
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
mod resident {
    use std::ffi::c_int;
    use std::ffi::c_void;
    use std::ops::Range;

    unsafe extern "C" {
        fn getpagesize() -> c_int;
        fn mincore(addr: *mut c_void, len: usize, vec: *mut u8) -> c_int;
        #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
        fn posix_fadvise(fd: c_int, offset: i64, len: i64, advice: c_int) -> c_int;
    }

    /// Takes a file's pages that nobody uses out of memory.
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    pub(super) fn forget(file: &impl std::os::fd::AsRawFd) {
        const DONTNEED: c_int = 4;
        // SAFETY: the descriptor is open, and the call touches no memory of this program.
        let rc = unsafe { posix_fadvise(file.as_raw_fd(), 0, 0, DONTNEED) };
        if rc != 0 {
            log::debug!("the system keeps a file's pages: error {rc}");
        }
    }

    /// Pages asked for in one call.
    const N_PAGES_MAX: usize = 65_536;

    /// Counts the bytes of `range`, which lies in `map`, whose pages are in memory.
    pub(super) fn bytes(map: &[u8], range: Range<usize>) -> Option<usize> {
        // SAFETY: takes no arguments and touches no memory.
        let page = usize::try_from(unsafe { getpagesize() }).ok().filter(|n| *n > 0)?;
        let base = map.as_ptr() as usize;
        let end = base + range.end;
        let mut at = (base + range.start) / page * page;
        let mut flags = vec![0u8; N_PAGES_MAX.min((end - at).div_ceil(page))];
        let mut total = 0;
        while at < end {
            let n_pages = flags.len().min((end - at).div_ceil(page));
            let stop = end.min(at + n_pages * page);
            // SAFETY: `at` is a page's start and every page from it to `stop` overlaps `map`, which
            // is mapped as long as it is borrowed; `flags` has a byte for each.
            let rc = unsafe { mincore(at as *mut c_void, stop - at, flags.as_mut_ptr()) };
            if rc != 0 {
                return None;
            }
            for (i, flag) in flags[..n_pages].iter().enumerate() {
                if flag & 1 == 1 {
                    let from = (at + i * page).max(base + range.start);
                    total += (at + (i + 1) * page).min(end) - from;
                }
            }
            at = stop;
        }
        Some(total)
    }
}

fn open_error(name: &str, e: std::io::Error) -> Error {
    let text = match e.kind() {
        IoKind::NotFound => format!("{name}: no such file; check the path"),
        IoKind::PermissionDenied => format!("{name}: no permission to read it"),
        _ => format!("{name}: cannot be opened"),
    };
    Error::io(text).with_source(e)
}

/// Returns the length of `file` if it is a regular file.
fn regular_size(file: &File, name: &str) -> Result<u64> {
    let meta = file
        .metadata()
        .map_err(|e| Error::io(format!("{name}: its length cannot be read")).with_source(e))?;
    if meta.is_dir() {
        return Err(Error::io(format!("{name}: is a folder, expected a file; name a file in it")));
    }
    if !meta.is_file() {
        return Err(Error::io(format!("{name}: is not a regular file, so it cannot be mapped")));
    }
    Ok(meta.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::io::Write;

    fn temp(tag: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("culet-map-{}-{tag}", std::process::id()));
        let mut file = File::create(&path).unwrap();
        file.write_all(bytes).unwrap();
        path
    }

    #[test]
    fn whole_file_and_part_are_mapped() {
        let data: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        let path = temp("part", &data);
        let whole = Mapping::open(&path).unwrap();
        assert_eq!(whole.bytes(), data);
        assert_eq!(whole.name(), path.file_name().unwrap().to_str().unwrap());
        whole.advise_random(100..9000);
        whole.advise_sequential(0..usize::MAX);
        whole.advise_willneed(20_000..30_000);
        whole.forget();
        assert_eq!(whole.bytes(), data);
        if let Some(n) = whole.resident_bytes(1..20_000) {
            assert!(n <= 19_999, "{n}");
        }
        let part = Mapping::from_file(File::open(&path).unwrap(), "m", 9_984, Some(77)).unwrap();
        assert_eq!(part.bytes(), &data[9_984..9_984 + 77]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(whole.bytes()[19_999], data[19_999]);
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let path = temp("bad", &[1; 100]);
        let file = || File::open(&path).unwrap();
        let empty = temp("empty", &[]);
        let cases = [
            (
                Mapping::open(Path::new("/nowhere/e2b.gguf")),
                ErrorKind::Io,
                "e2b.gguf: no such file",
            ),
            (Mapping::open(&std::env::temp_dir()), ErrorKind::Io, "is a folder"),
            (Mapping::open(&empty), ErrorKind::Format, "is empty"),
            (Mapping::from_file(file(), "a", 8, None), ErrorKind::Input, "multiple of 32"),
            (Mapping::from_file(file(), "a", 32, Some(69)), ErrorKind::Input, "reaches past"),
            (Mapping::from_file(file(), "a", 32, Some(u64::MAX)), ErrorKind::Input, "reaches"),
            (Mapping::from_file(file(), "a", 128, None), ErrorKind::Input, "reaches past"),
            (Mapping::from_bytes("a", &[]), ErrorKind::Format, "is empty"),
        ];
        for (got, kind, text) in cases {
            let e = got.err().unwrap();
            assert_eq!(e.kind(), kind, "{e}");
            assert!(e.to_string().contains(text), "{e}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&empty).unwrap();
    }

    #[test]
    fn a_change_of_length_is_noticed() {
        let path = temp("grow", &[1; 64]);
        let map = Mapping::open(&path).unwrap();
        assert!(map.check_length().is_ok());
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&[0; 8]).unwrap();
        let e = map.check_length().unwrap_err();
        assert!(e.to_string().contains("from 64 to 72 bytes"), "{e}");
        std::fs::remove_file(&path).unwrap();
    }
}
