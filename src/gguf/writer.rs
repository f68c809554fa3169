//! Streaming writer for GGUF files.
//!
//! In: metadata and declared tensors, then tensor data in that order. Out: a file that appears
//! under its name only when it is complete.
//! Source: GGUF specification version 3, little-endian.
//! Invariant: tensor data passes through; only metadata and the directory are held in memory.
//! Invariant: a writer that is dropped or fails leaves no file behind.

use std::collections::HashSet;
use std::path::Path;

use crate::error::Error;
use crate::error::Result;
use crate::gguf::reader::ALIGNMENT_BYTES;
use crate::gguf::reader::ALIGNMENT_BYTES_MAX;
use crate::gguf::reader::ALIGNMENT_KEY;
use crate::gguf::reader::MAGIC;
use crate::gguf::reader::N_DIMS_MAX;
use crate::gguf::reader::NAME_BYTES_MAX;
use crate::gguf::tensor_type::TensorType;
use crate::gguf::value::Value;
use crate::gguf::value::ValueType;
use crate::whole::WholeFile;

/// Elements of an array to be written.
#[expect(missing_docs, reason = "the variants are the format's own type names")]
#[derive(Debug, Clone, Copy)]
pub enum Items<'a> {
    U32(&'a [u32]),
    I32(&'a [i32]),
    F32(&'a [f32]),
    Bool(&'a [bool]),
}

struct Declared {
    name: String,
    dtype: TensorType,
    shape: Vec<u64>,
    size_bytes: u64,
}

/// Collects metadata and the tensor directory.
pub struct Writer {
    alignment: u32,
    n_keys: u64,
    metadata: Vec<u8>,
    keys: HashSet<String>,
    tensors: Vec<Declared>,
    names: HashSet<String>,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// Creates a writer of a file without metadata and tensors, aligned to 32 bytes.
    pub fn new() -> Self {
        Self {
            alignment: ALIGNMENT_BYTES,
            n_keys: 0,
            metadata: Vec::new(),
            keys: HashSet::new(),
            tensors: Vec::new(),
            names: HashSet::new(),
        }
    }

    /// Creates a writer whose tensor data starts at multiples of `alignment` bytes.
    ///
    /// # Errors
    /// `Input` if it is not a power of two up to 65536.
    pub fn with_alignment(alignment: u32) -> Result<Self> {
        if !alignment.is_power_of_two() || alignment > ALIGNMENT_BYTES_MAX {
            return Err(Error::input(format!(
                "alignment is {alignment} bytes, \
                 expected a power of two up to {ALIGNMENT_BYTES_MAX}"
            )));
        }
        let mut writer = Self::new();
        writer.set(ALIGNMENT_KEY, Value::U32(alignment))?;
        writer.alignment = alignment;
        Ok(writer)
    }

    fn begin(&mut self, key: &str, kind: ValueType) -> Result<()> {
        if key.is_empty() || !self.keys.insert(key.to_owned()) {
            return Err(Error::input(format!("metadata key \"{key}\" is empty or set twice")));
        }
        self.n_keys += 1;
        put_bytes(&mut self.metadata, key.as_bytes());
        put_u32(&mut self.metadata, kind.id());
        Ok(())
    }

    /// Sets `key` to a number, text or array, for example one read from another file.
    ///
    /// # Errors
    /// `Input` if the key is empty or was set before. `general.alignment` of another file must be
    /// left out; see [`Writer::with_alignment`].
    pub fn set(&mut self, key: &str, value: Value<'_>) -> Result<()> {
        self.begin(key, value.kind())?;
        let to = &mut self.metadata;
        match value {
            Value::U8(v) => to.push(v),
            Value::I8(v) => to.extend(v.to_le_bytes()),
            Value::U16(v) => to.extend(v.to_le_bytes()),
            Value::I16(v) => to.extend(v.to_le_bytes()),
            Value::U32(v) => to.extend(v.to_le_bytes()),
            Value::I32(v) => to.extend(v.to_le_bytes()),
            Value::F32(v) => to.extend(v.to_le_bytes()),
            Value::Bool(v) => to.push(v.into()),
            Value::Text(v) => put_bytes(to, v),
            Value::U64(v) => to.extend(v.to_le_bytes()),
            Value::I64(v) => to.extend(v.to_le_bytes()),
            Value::F64(v) => to.extend(v.to_le_bytes()),
            Value::Array(v) => {
                put_u32(to, v.kind().id());
                put_u64(to, v.len() as u64);
                to.extend(v.bytes());
            }
        }
        Ok(())
    }

    /// Sets `key` to a text.
    ///
    /// # Errors
    /// As for [`Writer::set`].
    pub fn set_str(&mut self, key: &str, text: &str) -> Result<()> {
        self.set(key, Value::Text(text.as_bytes()))
    }

    /// Sets `key` to a whole number.
    ///
    /// # Errors
    /// As for [`Writer::set`].
    pub fn set_u32(&mut self, key: &str, value: u32) -> Result<()> {
        self.set(key, Value::U32(value))
    }

    /// Sets `key` to an array of numbers or truth values.
    ///
    /// # Errors
    /// As for [`Writer::set`].
    pub fn set_items(&mut self, key: &str, items: Items<'_>) -> Result<()> {
        self.begin(key, ValueType::Array)?;
        let to = &mut self.metadata;
        let head = |to: &mut Vec<u8>, kind: ValueType, n: usize| {
            put_u32(to, kind.id());
            put_u64(to, n as u64);
        };
        match items {
            Items::U32(v) => {
                head(to, ValueType::U32, v.len());
                to.extend(v.iter().flat_map(|x| x.to_le_bytes()));
            }
            Items::I32(v) => {
                head(to, ValueType::I32, v.len());
                to.extend(v.iter().flat_map(|x| x.to_le_bytes()));
            }
            Items::F32(v) => {
                head(to, ValueType::F32, v.len());
                to.extend(v.iter().flat_map(|x| x.to_le_bytes()));
            }
            Items::Bool(v) => {
                head(to, ValueType::Bool, v.len());
                to.extend(v.iter().map(|x| u8::from(*x)));
            }
        }
        Ok(())
    }

    /// Sets `key` to an array of texts.
    ///
    /// # Errors
    /// As for [`Writer::set`].
    pub fn set_texts<T: AsRef<[u8]>>(
        &mut self,
        key: &str,
        texts: impl ExactSizeIterator<Item = T>,
    ) -> Result<()> {
        self.begin(key, ValueType::Array)?;
        put_u32(&mut self.metadata, ValueType::Text.id());
        put_u64(&mut self.metadata, texts.len() as u64);
        for text in texts {
            put_bytes(&mut self.metadata, text.as_ref());
        }
        Ok(())
    }

    /// Declares the next tensor; its data follows in this order.
    ///
    /// # Shapes
    /// ggml order, fastest first; one to four sizes.
    ///
    /// # Errors
    /// `Input` if name or shape would make a file that no reader takes.
    pub fn add_tensor(&mut self, name: &str, dtype: TensorType, shape: &[u64]) -> Result<()> {
        if name.is_empty() || name.len() as u64 > NAME_BYTES_MAX || name.contains('\0') {
            return Err(Error::input(format!(
                "tensor name \"{name}\" has {} bytes, expected 1 to {NAME_BYTES_MAX}",
                name.len()
            )));
        }
        let n_dims_fit = (1..=N_DIMS_MAX as usize).contains(&shape.len());
        let size = dtype.tensor_bytes(shape).filter(|_| n_dims_fit && !shape.contains(&0));
        let size_bytes = size.filter(|n| *n <= i64::MAX as u64).ok_or_else(|| {
            Error::input(format!(
                "tensor {name} has shape {shape:?}, expected one to four sizes above zero \
                 and rows of whole {dtype} blocks"
            ))
        })?;
        if !self.names.insert(name.to_owned()) {
            return Err(Error::input(format!("tensor {name} is declared twice")));
        }
        let (name, shape) = (name.to_owned(), shape.to_vec());
        self.tensors.push(Declared { name, dtype, shape, size_bytes });
        Ok(())
    }

    /// Begins the file that will be `path`, writing to a temporary name beside it.
    ///
    /// # Errors
    /// `Io` if the file cannot be made.
    pub fn create(self, path: &Path) -> Result<TensorWriter> {
        let mut head = Vec::with_capacity(self.metadata.len() + 64 * self.tensors.len() + 64);
        head.extend(MAGIC);
        put_u32(&mut head, 3);
        put_u64(&mut head, self.tensors.len() as u64);
        put_u64(&mut head, self.n_keys);
        head.extend(&self.metadata);
        let align = u64::from(self.alignment);
        let mut offset = 0u64;
        for t in &self.tensors {
            put_bytes(&mut head, t.name.as_bytes());
            put_u32(&mut head, t.shape.len() as u32);
            t.shape.iter().for_each(|n| put_u64(&mut head, *n));
            put_u32(&mut head, t.dtype.id());
            put_u64(&mut head, offset);
            offset = offset
                .checked_add(t.size_bytes)
                .and_then(|end| end.checked_next_multiple_of(align))
                .ok_or_else(|| Error::input("the tensors need more than 2^64 bytes"))?;
        }
        head.resize(head.len().next_multiple_of(self.alignment as usize), 0);
        let mut out = TensorWriter::create(path, align, self.tensors)?;
        out.file.put(&head)?;
        Ok(out)
    }
}

/// Takes the tensors' data and finishes the file.
pub struct TensorWriter {
    file: WholeFile,
    align: u64,
    tensors: Vec<Declared>,
    /// The tensor being written and how many of its bytes are.
    at: (usize, u64),
}

impl TensorWriter {
    fn create(path: &Path, align: u64, tensors: Vec<Declared>) -> Result<Self> {
        let file = WholeFile::create(path, tensors.iter().map(|t| t.size_bytes).sum())?;
        Ok(Self { file, align, tensors, at: (0, 0) })
    }

    /// Returns name, type, shape and size of the tensor whose data comes next.
    pub fn current(&self) -> Option<(&str, TensorType, &[u64], u64)> {
        let t = self.tensors.get(self.at.0)?;
        Some((&t.name, t.dtype, &t.shape, t.size_bytes))
    }

    /// Appends bytes of the current tensor; after its last byte the next one begins.
    ///
    /// # Errors
    /// `Input` if there are more bytes than the tensor has left; `Io` if they cannot be written.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (index, done) = self.at;
        let Some(t) = self.tensors.get(index) else {
            return Err(Error::input(format!(
                "{}: all declared tensors are written",
                self.file.name()
            )));
        };
        let (size, end) = (t.size_bytes, done + bytes.len() as u64);
        if end > size {
            return Err(Error::input(format!(
                "{}: tensor {} gets {end} bytes, expected {size}",
                self.file.name(),
                t.name
            )));
        }
        self.file.put(bytes)?;
        self.at.1 = end;
        if end == size {
            let padding = (size.next_multiple_of(self.align) - size) as usize;
            self.file.put(&vec![0; padding])?;
            self.at = (index + 1, 0);
        }
        Ok(())
    }

    /// Completes the file and gives it its name, replacing an older one.
    ///
    /// # Errors
    /// `Input` if data is missing; `Io` if it cannot be written. The temporary file is removed.
    pub fn finish(self) -> Result<()> {
        if let Some((name, _, _, size)) = self.current() {
            let done = self.at.1;
            let text = format!("{}: tensor {name} got {done} of {size} bytes", self.file.name());
            return Err(Error::input(text));
        }
        self.file.finish()
    }
}

fn put_u32(to: &mut Vec<u8>, v: u32) {
    to.extend(v.to_le_bytes());
}

fn put_u64(to: &mut Vec<u8>, v: u64) {
    to.extend(v.to_le_bytes());
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(to, bytes.len() as u64);
    to.extend(bytes);
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::gguf::mapping::Mapping;
    use crate::gguf::reader::Gguf;

    fn folder(tag: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("culet-writer-{}-{tag}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn n_files(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    fn small() -> Writer {
        let mut w = Writer::with_alignment(64).unwrap();
        w.set_str("general.architecture", "gemma4").unwrap();
        w.set_u32("n", 5).unwrap();
        w.set("neg", Value::I64(-5)).unwrap();
        w.set("half", Value::F32(0.5)).unwrap();
        w.set("yes", Value::Bool(true)).unwrap();
        w.set_items("layers", Items::I32(&[3, 4])).unwrap();
        w.set_items("pattern", Items::Bool(&[true, false])).unwrap();
        w.set_texts("tokens", ["a", "", "bc"].iter()).unwrap();
        w.add_tensor("w", TensorType::Q8_0, &[32, 3]).unwrap();
        w.add_tensor("v", TensorType::F32, &[5]).unwrap();
        w
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = folder("same");
        let path = dir.join("m.gguf");
        let mut out = small().create(&path).unwrap();
        assert_eq!(out.current().unwrap().0, "w");
        let w: Vec<u8> = (0..102).collect();
        w.chunks(7).for_each(|part| out.append(part).unwrap());
        assert_eq!(out.current().unwrap(), ("v", TensorType::F32, [5].as_slice(), 20));
        out.append(&[9; 20]).unwrap();
        assert!(!path.exists());
        assert!(out.append(&[1]).unwrap_err().to_string().contains("all declared tensors"));
        out.finish().unwrap();
        assert_eq!(n_files(&dir), 1);

        let file = Gguf::open(&path).unwrap();
        assert_eq!((file.version(), file.alignment(), file.name()), (3, 64, "m.gguf"));
        assert_eq!(file.str("general.architecture").unwrap(), "gemma4");
        assert_eq!(file.u64("n").unwrap(), 5);
        assert_eq!(file.f32("half").unwrap(), 0.5);
        assert_eq!(file.f32("neg").unwrap(), -5.0);
        assert!(file.bool("yes").unwrap());
        assert_eq!(file.optional_i32s("layers").unwrap(), Some(vec![3, 4]));
        assert_eq!(file.u32_per_layer("n", 3).unwrap(), [5, 5, 5]);
        assert_eq!(file.bool_per_layer("pattern", 2).unwrap(), [true, false]);
        let tokens: Vec<&[u8]> = file.texts("tokens").unwrap().collect();
        assert_eq!(tokens, [b"a".as_slice(), b"", b"bc"]);
        assert_eq!(file.tensor_bytes(file.tensor("w").unwrap()), w);
        assert_eq!(file.tensor_bytes(file.tensor("v").unwrap()), [9; 20]);

        let mut copy = Writer::new();
        for (key, value) in file.metadata().filter(|(key, _)| *key != ALIGNMENT_KEY) {
            copy.set(key, value).unwrap();
        }
        let twin = dir.join("twin.gguf");
        copy.create(&twin).unwrap().finish().unwrap();
        let twin = Gguf::from_mapping(Mapping::open(&twin).unwrap()).unwrap();
        assert_eq!(twin.metadata().len(), file.metadata().len() - 1);
        assert_eq!(twin.texts("tokens").unwrap().collect::<Vec<_>>(), tokens);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn wrong_types_are_named() {
        let dir = folder("types");
        let path = dir.join("m.gguf");
        let mut out = small().create(&path).unwrap();
        out.append(&[0; 102]).unwrap();
        out.append(&[0; 20]).unwrap();
        out.finish().unwrap();
        let file = Gguf::open(&path).unwrap();
        let cases = [
            (file.u32("none").map(drop), "m.gguf: metadata key none is missing"),
            (file.u32("neg").map(drop), "key neg is -5, expected a whole number from 0"),
            (file.u32("half").map(drop), "key half is 0.5, expected a whole number"),
            (file.str("n").map(drop), "key n is 5, expected a text"),
            (file.bool("n").map(drop), "key n is 5, expected true or false"),
            (file.f32("general.architecture").map(drop), "is a text of 6 bytes, expected a finite"),
            (file.texts("layers").map(drop), "is an array of 2 i32 values, expected an array of t"),
            (file.optional_u32s("tokens").map(drop), "array of 3 text values, expected whole num"),
            (file.u32_per_layer("layers", 3).map(drop), "2 i32 values, expected 3, one for each"),
            (file.bool_per_layer("n", 3).map(drop), "key n is 5, expected an array"),
        ];
        for (got, want) in cases {
            let text = got.unwrap_err().to_string();
            assert!(text.contains(want), "{text} / {want}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn unfinished_files_leave_nothing() {
        let dir = folder("unfinished");
        let path = dir.join("m.gguf");
        let mut out = small().create(&path).unwrap();
        out.append(&[0; 10]).unwrap();
        assert_eq!(n_files(&dir), 1);
        let e = out.append(&[0; 100]).unwrap_err();
        assert!(e.to_string().contains("tensor w gets 110 bytes, expected 102"), "{e}");
        let e = out.finish().unwrap_err();
        assert!(e.to_string().contains("tensor w got 10 of 102 bytes"), "{e}");
        assert_eq!(n_files(&dir), 0);
        drop(small().create(&path).unwrap());
        assert_eq!(n_files(&dir), 0);
        std::fs::remove_dir_all(&dir).unwrap();
        let e = small().create(&path).err().unwrap();
        assert!(e.to_string().contains("m.gguf: cannot be made"), "{e}");
    }

    #[test]
    fn wrong_declarations_are_refused() {
        let mut w = Writer::new();
        w.set_u32("a", 1).unwrap();
        w.add_tensor("t", TensorType::F32, &[1]).unwrap();
        let long = "n".repeat(64);
        let refused = [
            w.set_u32("a", 1),
            w.set_u32("", 1),
            w.add_tensor("t", TensorType::F32, &[1]),
            w.add_tensor(&long, TensorType::F32, &[1]),
            w.add_tensor("u", TensorType::F32, &[]),
            w.add_tensor("u", TensorType::F32, &[1; 5]),
            w.add_tensor("u", TensorType::F32, &[2, 0]),
            w.add_tensor("u", TensorType::Q4K, &[100]),
            w.add_tensor("u", TensorType::F64, &[1 << 60, 1 << 3]),
            Writer::with_alignment(3).map(drop),
        ];
        for (i, got) in refused.iter().enumerate() {
            assert!(got.is_err(), "case {i}");
        }
    }
}
