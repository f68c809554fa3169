//! Header, metadata and tensor directory of a GGUF file.
//!
//! In: a [`Mapping`]. Out: [`Gguf`], whose every offset, length, count, type and shape was checked.
//! Source: GGUF specification versions 2 and 3, little-endian.
//! Invariant: opening reads the directory once, front to back, and allocates keys and names only;
//! memory and time are bounded by the file's size and the limits named here.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::error::Result;
use crate::gguf::mapping::Mapping;
use crate::gguf::tensor_type::TensorType;
use crate::gguf::value::Array;
use crate::gguf::value::Value;
use crate::gguf::value::ValueType;
use crate::whole::Checksum;

/// Metadata keys in a file.
pub const N_KEYS_MAX: u64 = 65_536;
/// Tensors in a file.
pub const N_TENSORS_MAX: u64 = 65_536;
/// Elements of one metadata array.
pub const N_ELEMENTS_MAX: u64 = 1 << 24;
/// Bytes of one metadata text.
pub const TEXT_BYTES_MAX: u64 = 1 << 26;
/// Bytes of a metadata key.
pub const KEY_BYTES_MAX: u64 = 65_535;
/// Bytes of a tensor's name, as in ggml.
pub const NAME_BYTES_MAX: u64 = 63;
/// Dimensions of a tensor, as in ggml.
pub const N_DIMS_MAX: u32 = 4;
/// Arrays inside arrays.
pub const ARRAY_DEPTH_MAX: u32 = 4;
/// Bytes that tensor data may be aligned to.
pub const ALIGNMENT_BYTES_MAX: u32 = 1 << 16;

/// Bytes of each tensor that a file's fingerprint reads.
const FINGERPRINT_BYTES: usize = 4096;

pub(super) const MAGIC: [u8; 4] = *b"GGUF";
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
pub(super) const ALIGNMENT_BYTES: u32 = 32;

/// One entry of the tensor directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name in the file.
    pub name: String,
    /// How its values are stored.
    pub dtype: TensorType,
    /// One to four sizes in ggml order, fastest first; none is zero.
    pub shape: Vec<u64>,
    /// Where its data begins, in bytes from the start of the mapping.
    pub offset: usize,
    /// How many bytes its data takes; all of them lie in the mapping.
    pub size_bytes: usize,
}

impl TensorInfo {
    /// Returns the shape filled up with ones to four dimensions.
    pub fn ne(&self) -> [u64; 4] {
        let mut ne = [1; 4];
        for (to, from) in ne.iter_mut().zip(&self.shape) {
            *to = *from;
        }
        ne
    }

    /// Returns the number of values.
    pub fn n_values(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Returns the bytes of one row, that is of the fastest dimension.
    pub fn row_bytes(&self) -> usize {
        self.size_bytes / self.shape[1..].iter().product::<u64>() as usize
    }

    /// Returns where the data lies in the mapping.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.size_bytes
    }
}

#[derive(Debug)]
struct Entry {
    key: Box<str>,
    kind: ValueType,
    /// Type and number of an array's elements.
    items: (ValueType, usize),
    /// The value without its type, for arrays without their head.
    at: Range<usize>,
}

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    map: Arc<Mapping>,
    version: u32,
    alignment: u32,
    data_offset: usize,
    entries: Vec<Entry>,
    keys: HashMap<Box<str>, usize>,
    tensors: Vec<TensorInfo>,
    names: HashMap<String, usize>,
}

impl Gguf {
    /// Maps and reads the file at `path`.
    ///
    /// # Errors
    /// `Io` if it cannot be read, `Format` if it is damaged or not GGUF, `Unsupported` for
    /// versions and tensor types that this reader does not know.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_mapping(Mapping::open(path)?)
    }

    /// Reads a mapped file.
    ///
    /// # Errors
    /// As for [`Gguf::open`].
    pub fn from_mapping(map: Arc<Mapping>) -> Result<Self> {
        let mut cursor = Cursor { bytes: map.bytes(), at: 0 };
        let parsed = parse(&mut cursor).map_err(|e| e.at(map.name()))?;
        let Directory { version, alignment, data_offset, entries, keys, tensors, names } = parsed;
        Ok(Self { map, version, alignment, data_offset, entries, keys, tensors, names })
    }

    /// Returns the mapping.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.map
    }

    /// Returns the file's name without its folder, for messages.
    pub fn name(&self) -> &str {
        self.map.name()
    }

    /// Returns the version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns what the offsets of tensor data are multiples of, in bytes.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Returns where tensor data begins, in bytes from the start of the mapping.
    pub fn data_offset(&self) -> usize {
        self.data_offset
    }

    /// Returns the metadata in file order.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, Value<'_>)> {
        self.entries.iter().map(|e| (&*e.key, self.decode(e)))
    }

    /// Returns the value of `key`.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        self.keys.get(key).map(|i| self.decode(&self.entries[*i]))
    }

    /// Returns whether there is a value for `key`.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// Returns all tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Returns the tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.names.get(name).map(|i| &self.tensors[*i])
    }

    /// Returns a number that names this file among others: it reads everything before the
    /// tensors' data, and the first bytes of each tensor.
    pub fn fingerprint(&self) -> u64 {
        let mut sum = Checksum::new();
        sum.push(&self.map.bytes()[..self.data_offset]);
        for info in &self.tensors {
            let bytes = self.tensor_bytes(info);
            sum.push(&bytes[..bytes.len().min(FINGERPRINT_BYTES)]);
        }
        sum.value()
    }

    /// Returns the data of a tensor of this file.
    ///
    /// # Panics
    /// If `info` is from another, longer file.
    pub fn tensor_bytes(&self, info: &TensorInfo) -> &[u8] {
        &self.map.bytes()[info.range()]
    }

    fn decode(&self, e: &Entry) -> Value<'_> {
        let bytes = &self.map.bytes()[e.at.clone()];
        match e.kind {
            ValueType::Text => Value::Text(bytes),
            ValueType::Array => Value::Array(Array::new(e.items.0, e.items.1, bytes)),
            // Checked when the file was opened; a file that changes since reads as false.
            kind => Value::number(kind, bytes).unwrap_or(Value::Bool(false)),
        }
    }
}

struct Directory {
    version: u32,
    alignment: u32,
    data_offset: usize,
    entries: Vec<Entry>,
    keys: HashMap<Box<str>, usize>,
    tensors: Vec<TensorInfo>,
    names: HashMap<String, usize>,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let n = usize::try_from(n).ok().filter(|n| *n <= rest.len());
        let n = n.ok_or_else(|| {
            Error::format(format!(
                "the file ends at byte {} inside {what}; it is cut short, fetch it again",
                self.bytes.len()
            ))
        })?;
        self.at += n;
        Ok(&rest[..n])
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        let bytes = self.take(8, what)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }

    fn text(&mut self, limit: u64, what: &str) -> Result<&'a [u8]> {
        let n = self.u64(what)?;
        if n > limit {
            return Err(too_many(what, n, "bytes", limit));
        }
        self.take(n, what)
    }
}

fn too_many(what: &str, n: u64, unit: &str, limit: u64) -> Error {
    Error::format(format!(
        "{what} has {n} {unit}, at most {limit} are expected; the file is damaged, fetch it again"
    ))
}

fn parse(c: &mut Cursor<'_>) -> Result<Directory> {
    let version = read_head(c)?;
    let n_tensors = c.u64("the header")?;
    let n_keys = c.u64("the header")?;
    if n_tensors > N_TENSORS_MAX {
        return Err(too_many("the header", n_tensors, "tensors", N_TENSORS_MAX));
    }
    if n_keys > N_KEYS_MAX {
        return Err(too_many("the header", n_keys, "metadata keys", N_KEYS_MAX));
    }
    let (entries, keys) = read_metadata(c, n_keys)?;
    let alignment = read_alignment(c.bytes, &entries, &keys)?;
    let mut tensors = Vec::new();
    let mut names = HashMap::new();
    for i in 0..n_tensors {
        let info = read_tensor(c, i)?;
        if let Some(first) = names.insert(info.name.clone(), tensors.len()) {
            let text = format!("tensor {} comes twice, as {first} and {i}", info.name);
            return Err(Error::format(text + "; the file is damaged, fetch it again"));
        }
        tensors.push(info);
    }
    let start = c.at.next_multiple_of(alignment as usize);
    let data_offset = if n_tensors == 0 { start.min(c.bytes.len()) } else { start };
    place_tensors(&mut tensors, data_offset, alignment, c.bytes.len())?;
    Ok(Directory { version, alignment, data_offset, entries, keys, tensors, names })
}

fn read_head(c: &mut Cursor<'_>) -> Result<u32> {
    let start = &c.bytes[..c.bytes.len().min(64)];
    if !start.starts_with(&MAGIC) {
        return Err(Error::format(not_gguf(start)));
    }
    c.at = MAGIC.len();
    let version = c.u32("the header")?;
    match version {
        2 | 3 => Ok(version),
        v if v.swap_bytes() <= 3 => Err(Error::unsupported(
            "is a big-endian GGUF file, expected little-endian; convert the model again",
        )),
        v => Err(Error::unsupported(format!(
            "has GGUF version {v}, expected 2 or 3; convert the model again"
        ))),
    }
}

/// Says what a file without the magic number seems to be.
fn not_gguf(start: &[u8]) -> String {
    if start.starts_with(b"version https://git-lfs") {
        return "is a Git LFS pointer, not the model itself; run git lfs pull".to_owned();
    }
    if start.trim_ascii_start().starts_with(b"<") {
        return "is a web page, expected a GGUF file; the download went wrong, fetch it again"
            .to_owned();
    }
    let found = &start[..start.len().min(4)];
    format!("starts with bytes {found:02x?}, expected \"GGUF\"; it is not a GGUF file")
}

type Metadata = (Vec<Entry>, HashMap<Box<str>, usize>);

fn read_metadata(c: &mut Cursor<'_>, n_keys: u64) -> Result<Metadata> {
    let mut entries = Vec::new();
    let mut keys = HashMap::new();
    for i in 0..n_keys {
        let key = c.text(KEY_BYTES_MAX, &format!("metadata key {i}"))?;
        let key = std::str::from_utf8(key).ok().filter(|k| !k.is_empty()).ok_or_else(|| {
            Error::format(format!("metadata key {i} is empty or not UTF-8; the file is damaged"))
        })?;
        let what = format!("metadata key {key}");
        let entry = read_value(c, key, &what)?;
        if keys.insert(entry.key.clone(), entries.len()).is_some() {
            return Err(Error::format(format!("{what} comes twice; the file is damaged")));
        }
        entries.push(entry);
    }
    Ok((entries, keys))
}

fn read_type(c: &mut Cursor<'_>, what: &str) -> Result<ValueType> {
    let id = c.u32(what)?;
    ValueType::from_id(id)
        .ok_or_else(|| Error::format(format!("{what} has value type {id}, expected 0 to 12")))
}

fn read_value(c: &mut Cursor<'_>, key: &str, what: &str) -> Result<Entry> {
    let kind = read_type(c, what)?;
    let mut items = (kind, 1);
    let at = match kind {
        ValueType::Text => {
            let n = c.text(TEXT_BYTES_MAX, what)?.len();
            c.at - n..c.at
        }
        ValueType::Array => {
            items = read_array_head(c, what)?;
            let start = c.at;
            skip_array(c, items, what, 1)?;
            start..c.at
        }
        _ => {
            let n = kind.size_bytes().unwrap_or_default();
            let bytes = c.take(n as u64, what)?;
            if Value::number(kind, bytes).is_none() {
                let found = bytes.first().copied().unwrap_or_default();
                return Err(Error::format(format!(
                    "{what} is {found}, expected 0 or 1 for a bool"
                )));
            }
            c.at - n..c.at
        }
    };
    Ok(Entry { key: key.into(), kind, items, at })
}

fn read_array_head(c: &mut Cursor<'_>, what: &str) -> Result<(ValueType, usize)> {
    let kind = read_type(c, what)?;
    let n = c.u64(what)?;
    if n > N_ELEMENTS_MAX {
        return Err(too_many(what, n, "elements", N_ELEMENTS_MAX));
    }
    Ok((kind, n as usize))
}

/// Moves behind an array's elements. Each takes bytes of the file, so the loops are bounded by it.
fn skip_array(c: &mut Cursor<'_>, items: (ValueType, usize), what: &str, depth: u32) -> Result<()> {
    let (kind, n) = items;
    if let Some(size) = kind.size_bytes() {
        c.take(n as u64 * size as u64, what)?;
        return Ok(());
    }
    for _ in 0..n {
        if kind == ValueType::Text {
            c.text(TEXT_BYTES_MAX, what)?;
        } else if depth == ARRAY_DEPTH_MAX {
            let text = format!("{what} has arrays nested deeper than {ARRAY_DEPTH_MAX}");
            return Err(Error::format(text + "; the file is damaged"));
        } else {
            let inner = read_array_head(c, what)?;
            skip_array(c, inner, what, depth + 1)?;
        }
    }
    Ok(())
}

fn read_alignment(bytes: &[u8], entries: &[Entry], keys: &HashMap<Box<str>, usize>) -> Result<u32> {
    let Some(entry) = keys.get(ALIGNMENT_KEY).map(|i| &entries[*i]) else {
        return Ok(ALIGNMENT_BYTES);
    };
    let value = Value::number(entry.kind, &bytes[entry.at.clone()]).and_then(|v| v.integer());
    let fits = |v: &u32| v.is_power_of_two() && *v <= ALIGNMENT_BYTES_MAX;
    value.and_then(|v| u32::try_from(v).ok()).filter(fits).ok_or_else(|| {
        let found = value.map_or_else(|| format!("a {}", entry.kind.name()), |v| v.to_string());
        Error::format(format!(
            "metadata key {ALIGNMENT_KEY} is {found}, \
             expected a power of two up to {ALIGNMENT_BYTES_MAX}"
        ))
    })
}

/// Reads one directory entry; `offset` is still relative to the tensor data.
fn read_tensor(c: &mut Cursor<'_>, i: u64) -> Result<TensorInfo> {
    let name = c.text(NAME_BYTES_MAX, &format!("the name of tensor {i}"))?;
    let name = std::str::from_utf8(name).ok().filter(|n| !n.is_empty() && !n.contains('\0'));
    let name = name.ok_or_else(|| {
        Error::format(format!("the name of tensor {i} is empty or not text; the file is damaged"))
    })?;
    let what = format!("tensor {name}");
    let n_dims = c.u32(&what)?;
    if n_dims > N_DIMS_MAX {
        return Err(too_many(&what, n_dims.into(), "dimensions", N_DIMS_MAX.into()));
    }
    let mut shape = Vec::with_capacity(n_dims as usize);
    for _ in 0..n_dims {
        shape.push(c.u64(&what)?);
    }
    if shape.is_empty() {
        // A scalar; ggml reads it as one value too.
        shape.push(1);
    }
    let id = c.u32(&what)?;
    let offset = c.u64(&what)?;
    if shape.contains(&0) {
        return Err(Error::format(format!("{what} has shape {shape:?}, expected no size of zero")));
    }
    let dtype = TensorType::from_id(id).ok_or_else(|| {
        Error::unsupported(format!("{what} has type {id}, which this version does not know"))
    })?;
    let size = dtype.tensor_bytes(&shape).ok_or_else(|| {
        let block = dtype.block_len();
        Error::format(format!(
            "{what} has shape {shape:?}, expected rows of whole {dtype} blocks ({block} values)"
        ))
    })?;
    // Anything larger than the address space lies behind the end of every file.
    let clamp = |n| usize::try_from(n).unwrap_or(usize::MAX);
    let name = name.to_owned();
    Ok(TensorInfo { name, dtype, shape, offset: clamp(offset), size_bytes: clamp(size) })
}

/// Makes offsets absolute and checks alignment, truncation and overlap.
fn place_tensors(tensors: &mut [TensorInfo], base: usize, align: u32, len: usize) -> Result<()> {
    let mut last = (0, String::new());
    for t in tensors.iter_mut() {
        if !t.offset.is_multiple_of(align as usize) {
            return Err(Error::format(format!(
                "tensor {} starts at byte {} of the data, expected a multiple of {align}",
                t.name, t.offset
            )));
        }
        t.offset = t.offset.saturating_add(base);
        let end = t.offset.saturating_add(t.size_bytes);
        if end > last.0 {
            last = (end, t.name.clone());
        }
    }
    let (end, name) = last;
    if end > len {
        return Err(Error::format(format!(
            "tensor {name} ends at byte {end}, the file has {len} bytes; \
             it is cut short, fetch it again"
        )));
    }
    check_overlap(tensors)
}

/// Refuses tensors that share bytes; all of them end inside the file.
fn check_overlap(tensors: &[TensorInfo]) -> Result<()> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_unstable_by_key(|t| t.offset);
    for pair in order.windows(2) {
        if pair[0].range().end > pair[1].offset {
            let (a, b) = (&pair[0].name, &pair[1].name);
            return Err(Error::format(format!(
                "tensors {a} and {b} overlap at byte {}; the file is damaged, fetch it again",
                pair[1].offset
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// A file written byte by byte, so that it can be wrong.
    #[derive(Clone)]
    struct Raw {
        head: Vec<u8>,
        n_tensors: u64,
        n_keys: u64,
        keys: Vec<u8>,
        tensors: Vec<u8>,
        data_bytes: usize,
    }

    impl Raw {
        fn new() -> Self {
            let head = [b"GGUF".as_slice(), &3u32.to_le_bytes()].concat();
            let (keys, tensors) = (Vec::new(), Vec::new());
            Self { head, n_tensors: 0, n_keys: 0, keys, tensors, data_bytes: 0 }
        }

        fn key(mut self, key: &[u8], kind: u32, value: &[u8]) -> Self {
            self.keys.extend((key.len() as u64).to_le_bytes());
            self.keys.extend(key);
            self.keys.extend(kind.to_le_bytes());
            self.keys.extend(value);
            self.n_keys += 1;
            self
        }

        fn tensor(mut self, name: &[u8], shape: &[u64], id: u32, offset: u64) -> Self {
            self.tensors.extend((name.len() as u64).to_le_bytes());
            self.tensors.extend(name);
            self.tensors.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|n| self.tensors.extend(n.to_le_bytes()));
            self.tensors.extend(id.to_le_bytes());
            self.tensors.extend(offset.to_le_bytes());
            self.n_tensors += 1;
            self
        }

        fn data(mut self, n: usize) -> Self {
            self.data_bytes = n;
            self
        }

        fn bytes(&self) -> Vec<u8> {
            let mut out = self.head.clone();
            out.extend(self.n_tensors.to_le_bytes());
            out.extend(self.n_keys.to_le_bytes());
            out.extend(&self.keys);
            out.extend(&self.tensors);
            out.resize(out.len().next_multiple_of(32) + self.data_bytes, 0);
            out
        }

        fn open(&self) -> Result<Gguf> {
            Gguf::from_mapping(Mapping::from_bytes("m.gguf", &self.bytes())?)
        }
    }

    #[test]
    fn a_small_file_is_read() {
        let file = Raw::new()
            .key(b"a", 4, &7u32.to_le_bytes())
            .key(b"t", 8, &[2, 0, 0, 0, 0, 0, 0, 0, 0xff, b'x'])
            .tensor(b"w", &[32, 2], 2, 0)
            .tensor(b"s", &[], 0, 64)
            .data(68)
            .open()
            .unwrap();
        assert_eq!(file.u32("a").unwrap(), 7);
        assert_eq!(file.value("t").unwrap().text(), Some([0xff, b'x'].as_slice()));
        let w = file.tensor("w").unwrap();
        assert_eq!(
            (w.size_bytes, w.row_bytes(), w.ne(), w.n_values()),
            (36, 18, [32, 2, 1, 1], 64)
        );
        assert_eq!(w.offset, file.data_offset());
        assert_eq!(file.tensor("s").unwrap().shape, [1]);
        assert_eq!(file.tensor_bytes(w).len(), 36);
        assert!(file.tensor("v").is_none());
    }

    #[test]
    fn a_file_of_metadata_alone_is_read() {
        let mut bytes = Raw::new().key(b"a", 0, &[1]).bytes();
        bytes.truncate(24 + 8 + 1 + 4 + 1);
        let file = Gguf::from_mapping(Mapping::from_bytes("m", &bytes).unwrap()).unwrap();
        assert_eq!((file.u32("a").unwrap(), file.tensors().len()), (1, 0));
    }

    fn array(kind: u32, n: u64, items: &[u8]) -> Vec<u8> {
        [&kind.to_le_bytes(), n.to_le_bytes().as_slice(), items].concat()
    }

    #[test]
    fn damage_is_named() {
        let head = |bytes: &[u8]| Raw { head: bytes.to_vec(), ..Raw::new() };
        let text = |n: u64| n.to_le_bytes().to_vec();
        let nested = (0..9).fold(array(0, 1, &[1]), |inner, _| array(9, 1, &inner));
        let long = vec![b'n'; 64];
        let big = 1u64 << 40;
        let cases: Vec<(Raw, &str)> = vec![
            (head(b"GGML\x03\0\0\0"), "not a GGUF file"),
            (head(b"version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
            (head(b"\n<!DOCTYPE html>"), "web page"),
            (head(b"GGUF\x01\0\0\0"), "GGUF version 1, expected 2 or 3"),
            (head(b"GGUF\0\0\0\x03"), "big-endian"),
            (Raw { n_tensors: 65_537, ..Raw::new() }, "the header has 65537 tensors, at most"),
            (Raw { n_keys: u64::MAX, ..Raw::new() }, "metadata keys, at most 65536"),
            (Raw { n_keys: 1, ..Raw::new() }, "metadata key 0"),
            (Raw { n_tensors: 1, ..Raw::new() }, "the name of tensor 0"),
            (Raw::new().key(b"", 0, &[0]), "metadata key 0 is empty"),
            (Raw::new().key(b"\xff", 0, &[0]), "not UTF-8"),
            (Raw::new().key(b"a", 13, &[0]), "metadata key a has value type 13"),
            (Raw::new().key(b"a", 7, &[2]), "metadata key a is 2, expected 0 or 1"),
            (Raw::new().key(b"a", 8, &text(u64::MAX)), "metadata key a has 18446744073709551615"),
            (Raw::new().key(b"a", 8, &text(999)), "inside metadata key a"),
            (Raw::new().key(b"a", 9, &array(4, big, &[])), "elements, at most"),
            (Raw::new().key(b"a", 9, &array(4, 999, &[])), "inside metadata key a"),
            (Raw::new().key(b"a", 9, &array(8, 999, &[])), "inside metadata key a"),
            (Raw::new().key(b"a", 9, &nested), "nested deeper than 4"),
            (Raw::new().key(b"a", 0, &[1]).key(b"a", 0, &[1]), "metadata key a comes twice"),
            (Raw::new().key(b"general.alignment", 4, &[24, 0, 0, 0]), "is 24, expected a power"),
            (Raw::new().key(b"general.alignment", 4, &[0; 4]), "is 0, expected a power"),
            (Raw::new().key(b"general.alignment", 9, &array(0, 0, &[])), "a array, expected"),
            (Raw::new().tensor(b"w", &[4], 0, 0), "tensor w ends at byte"),
            (Raw::new().tensor(b"w", &[4], 0, 1 << 63).data(32), "tensor w ends at byte"),
            (Raw::new().tensor(b"w", &[0, 3], 0, 0), "shape [0, 3], expected no size of zero"),
            (Raw::new().tensor(b"w", &[1; 5], 0, 0), "tensor w has 5 dimensions, at most 4"),
            (Raw::new().tensor(b"w", &[33], 2, 0), "rows of whole Q4_0 blocks (32 values)"),
            (Raw::new().tensor(b"w", &[big, big], 0, 0), "shape [1099511627776, 1099511627776]"),
            (Raw::new().tensor(b"w", &[4], 99, 0), "tensor w has type 99"),
            (Raw::new().tensor(b"w", &[4], 0, 8).data(64), "byte 8 of the data, expected a mult"),
            (Raw::new().tensor(&long, &[4], 0, 0).data(64), "has 64 bytes, at most 63"),
            (Raw::new().tensor(b"", &[4], 0, 0).data(64), "name of tensor 0 is empty"),
            (
                Raw::new().tensor(b"w", &[4], 0, 0).tensor(b"w", &[4], 0, 32).data(64),
                "tensor w comes twice, as 0 and 1",
            ),
            (
                Raw::new().tensor(b"v", &[9], 0, 32).tensor(b"w", &[9], 0, 0).data(96),
                "tensors w and v overlap",
            ),
        ];
        for (i, (raw, want)) in cases.iter().enumerate() {
            let e = raw.open().err().unwrap_or_else(|| panic!("case {i} was read: {want}"));
            let text = e.to_string();
            assert!(text.starts_with("m.gguf: ") && text.contains(want), "case {i}: {text}");
            assert!(matches!(e.kind(), ErrorKind::Format | ErrorKind::Unsupported), "{text}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let whole = Raw::new()
            .key(b"a", 9, &array(8, 2, &[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]))
            .tensor(b"w", &[8], 0, 0)
            .data(32)
            .bytes();
        for n in 1..whole.len() {
            let map = Mapping::from_bytes("m", &whole[..n]).unwrap();
            assert!(Gguf::from_mapping(map).is_err(), "{n} of {} bytes", whole.len());
        }
        assert!(Gguf::from_mapping(Mapping::from_bytes("m", &whole).unwrap()).is_ok());
    }
}
