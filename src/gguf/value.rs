//! Metadata values: their types, arrays read in place, and typed getters.
//!
//! In: checked byte ranges of the mapping. Out: numbers, texts and iterators over arrays.
//! Source: GGUF specification, `gguf_metadata_value_type`.
//! Invariant: a getter's error names file and key, what was found and what was expected.
//! Invariant: array elements are read where they lie; no element gets its own allocation.

use crate::error::Error;
use crate::error::Result;
use crate::gguf::reader::Gguf;

/// The type of a metadata value or of an array's elements.
#[expect(missing_docs, reason = "the variants are the format's own type names")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// Returns the type with the number `id`, if it is known.
    pub fn from_id(id: u32) -> Option<Self> {
        use ValueType as V;
        const ALL: [ValueType; 13] = [
            V::U8,
            V::I8,
            V::U16,
            V::I16,
            V::U32,
            V::I32,
            V::F32,
            V::Bool,
            V::Text,
            V::Array,
            V::U64,
            V::I64,
            V::F64,
        ];
        ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Returns the number that stands for the type in files.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Returns the bytes of one value, or `None` for texts and arrays.
    pub fn size_bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::Array => None,
        }
    }

    /// Returns a name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::Text => "text",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

/// One metadata value; texts and arrays borrow from the mapping.
#[expect(missing_docs, reason = "the variants are the format's own type names")]
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    /// Any bytes; files promise UTF-8, which is checked where text is asked for.
    Text(&'a [u8]),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// Reads a number of type `kind` from exactly its bytes.
    pub(super) fn number(kind: ValueType, b: &[u8]) -> Option<Value<'static>> {
        Some(match kind {
            ValueType::U8 => Value::U8(u8::from_le_bytes(b.try_into().ok()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(b.try_into().ok()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(b.try_into().ok()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(b.try_into().ok()?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(b.try_into().ok()?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(b.try_into().ok()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(b.try_into().ok()?)),
            ValueType::U64 => Value::U64(u64::from_le_bytes(b.try_into().ok()?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(b.try_into().ok()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(b.try_into().ok()?)),
            ValueType::Bool => match b {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return None,
            },
            ValueType::Text | ValueType::Array => return None,
        })
    }

    /// Returns the value's type.
    pub fn kind(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Text(_) => ValueType::Text,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// Returns the value if it is a whole number of any type.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// Returns the value as `f32` if it is a number of any type.
    pub fn float(&self) -> Option<f32> {
        match *self {
            Self::F32(v) => Some(v),
            Self::F64(v) => Some(v as f32),
            _ => self.integer().map(|v| v as f32),
        }
    }

    /// Returns the value if it is a truth value, or a whole number that is 0 or 1.
    pub fn truth(&self) -> Option<bool> {
        match (self, self.integer()) {
            (Self::Bool(v), _) => Some(*v),
            (_, Some(v @ (0 | 1))) => Some(v == 1),
            _ => None,
        }
    }

    /// Returns the bytes if the value is a text.
    pub fn text(&self) -> Option<&'a [u8]> {
        match self {
            Self::Text(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Returns the array if the value is one.
    pub fn array(&self) -> Option<Array<'a>> {
        match self {
            Self::Array(array) => Some(*array),
            _ => None,
        }
    }

    /// Returns what the value is, in a few words for messages.
    fn describe(&self) -> String {
        match self {
            Self::F32(v) => v.to_string(),
            Self::F64(v) => v.to_string(),
            Self::Bool(v) => v.to_string(),
            Self::Text(v) => format!("a text of {} bytes", v.len()),
            Self::Array(v) => format!("an array of {} {} values", v.len(), v.kind().name()),
            _ => self.integer().map_or_else(String::new, |v| v.to_string()),
        }
    }
}

/// An array in the mapping; its extent was checked when the file was opened.
#[derive(Debug, Clone, Copy)]
pub struct Array<'a> {
    kind: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    pub(super) fn new(kind: ValueType, len: usize, bytes: &'a [u8]) -> Self {
        Self { kind, len, bytes }
    }

    /// Returns the type of the elements.
    pub fn kind(&self) -> ValueType {
        self.kind
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the elements as they lie in the file, without the array's head.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns an iterator over the elements if they are texts.
    pub fn texts(&self) -> Option<StringArray<'a>> {
        (self.kind == ValueType::Text).then_some(StringArray { left: self.len, bytes: self.bytes })
    }

    /// Returns an iterator over the elements if they are numbers or truth values.
    ///
    /// A truth value other than 0 or 1 comes as the number it is.
    pub fn numbers(&self) -> Option<impl ExactSizeIterator<Item = Value<'static>> + 'a> {
        let kind = self.kind;
        let size = kind.size_bytes()?;
        Some(self.bytes.chunks_exact(size).map(move |b| {
            Value::number(kind, b).unwrap_or_else(|| Value::U8(b.first().copied().unwrap_or(0)))
        }))
    }
}

/// Iterator over the texts of an array as bytes, read in place.
#[derive(Debug, Clone)]
pub struct StringArray<'a> {
    left: usize,
    bytes: &'a [u8],
}

impl<'a> Iterator for StringArray<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        let (head, rest) = self.bytes.split_first_chunk::<8>()?;
        let (text, rest) = rest.split_at_checked(u64::from_le_bytes(*head).try_into().ok()?)?;
        self.left -= 1;
        self.bytes = rest;
        Some(text)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for StringArray<'_> {}

/// Typed getters. Each comes as `key` (missing is an error) and as `optional_…`.
impl Gguf {
    fn missing(&self, key: &str) -> Error {
        Error::format(format!("{}: metadata key {key} is missing", self.name()))
    }

    fn wrong(&self, key: &str, found: &Value<'_>, expected: &str) -> Error {
        let found = found.describe();
        let name = self.name();
        Error::format(format!("{name}: metadata key {key} is {found}, expected {expected}"))
    }

    fn optional<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value<'_>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| self.wrong(key, &value, expected))
    }

    /// Returns a whole number of any type that fits `u32`.
    pub fn optional_u32(&self, key: &str) -> Result<Option<u32>> {
        let expected = "a whole number from 0 to 4294967295";
        self.optional(key, expected, |v| v.integer()?.try_into().ok())
    }

    /// Returns a whole number of any type that fits `u32`.
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.optional_u32(key)?.ok_or_else(|| self.missing(key))
    }

    /// Returns a whole number of any type that fits `u64`.
    pub fn optional_u64(&self, key: &str) -> Result<Option<u64>> {
        self.optional(key, "a whole number from 0", |v| v.integer()?.try_into().ok())
    }

    /// Returns a whole number of any type that fits `u64`.
    pub fn u64(&self, key: &str) -> Result<u64> {
        self.optional_u64(key)?.ok_or_else(|| self.missing(key))
    }

    /// Returns a finite number of any type.
    pub fn optional_f32(&self, key: &str) -> Result<Option<f32>> {
        self.optional(key, "a finite number", |v| v.float().filter(|x| x.is_finite()))
    }

    /// Returns a finite number of any type.
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.optional_f32(key)?.ok_or_else(|| self.missing(key))
    }

    /// Returns a truth value.
    pub fn optional_bool(&self, key: &str) -> Result<Option<bool>> {
        self.optional(key, "true or false", |v| v.truth())
    }

    /// Returns a truth value.
    pub fn bool(&self, key: &str) -> Result<bool> {
        self.optional_bool(key)?.ok_or_else(|| self.missing(key))
    }

    /// Returns the bytes of a text, which need not be UTF-8.
    pub fn optional_bytes(&self, key: &str) -> Result<Option<&[u8]>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.text().map(Some).ok_or_else(|| self.wrong(key, &value, "a text"))
    }

    /// Returns a text.
    pub fn optional_str(&self, key: &str) -> Result<Option<&str>> {
        let Some(bytes) = self.optional_bytes(key)? else { return Ok(None) };
        let text = std::str::from_utf8(bytes)
            .map_err(|_| self.wrong(key, &Value::Text(bytes), "valid UTF-8"))?;
        Ok(Some(text))
    }

    /// Returns a text.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.optional_str(key)?.ok_or_else(|| self.missing(key))
    }

    /// Returns an array of any element type.
    pub fn optional_array(&self, key: &str) -> Result<Option<Array<'_>>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.array().map(Some).ok_or_else(|| self.wrong(key, &value, "an array"))
    }

    /// Returns an iterator over an array of texts.
    pub fn optional_texts(&self, key: &str) -> Result<Option<StringArray<'_>>> {
        let Some(array) = self.optional_array(key)? else { return Ok(None) };
        let wrong = || self.wrong(key, &Value::Array(array), "an array of texts");
        array.texts().map(Some).ok_or_else(wrong)
    }

    /// Returns an iterator over an array of texts.
    pub fn texts(&self, key: &str) -> Result<StringArray<'_>> {
        self.optional_texts(key)?.ok_or_else(|| self.missing(key))
    }

    fn list<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value<'_>) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(array) = self.optional_array(key)? else { return Ok(None) };
        let wrong = || self.wrong(key, &Value::Array(array), expected);
        let numbers = array.numbers().ok_or_else(wrong)?;
        numbers.map(|v| read(&v)).collect::<Option<Vec<T>>>().map(Some).ok_or_else(wrong)
    }

    /// Returns an array of whole numbers that fit `u32`.
    pub fn optional_u32s(&self, key: &str) -> Result<Option<Vec<u32>>> {
        let expected = "whole numbers from 0 to 4294967295";
        self.list(key, expected, |v| v.integer()?.try_into().ok())
    }

    /// Returns an array of whole numbers that fit `i32`.
    pub fn optional_i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.list(key, "whole numbers of 32 bits", |v| v.integer()?.try_into().ok())
    }

    /// Returns an array of numbers, not all of which need be finite.
    pub fn optional_f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.list(key, "numbers", |v| v.float())
    }

    /// Returns an array of truth values.
    pub fn optional_bools(&self, key: &str) -> Result<Option<Vec<bool>>> {
        self.list(key, "truth values", |v| v.truth())
    }

    /// Returns `n_layer` numbers from an array of that length, or one number for all layers.
    pub fn optional_u32_per_layer(&self, key: &str, n_layer: usize) -> Result<Option<Vec<u32>>> {
        match self.value(key) {
            Some(Value::Array(array)) => {
                self.check_layers(key, &array, n_layer)?;
                self.optional_u32s(key)
            }
            _ => Ok(self.optional_u32(key)?.map(|v| vec![v; n_layer])),
        }
    }

    /// Returns `n_layer` numbers from an array of that length, or one number for all layers.
    pub fn u32_per_layer(&self, key: &str, n_layer: usize) -> Result<Vec<u32>> {
        self.optional_u32_per_layer(key, n_layer)?.ok_or_else(|| self.missing(key))
    }

    /// Returns `n_layer` truth values from an array of that length.
    pub fn bool_per_layer(&self, key: &str, n_layer: usize) -> Result<Vec<bool>> {
        let array = self.optional_array(key)?.ok_or_else(|| self.missing(key))?;
        self.check_layers(key, &array, n_layer)?;
        self.optional_bools(key)?.ok_or_else(|| self.missing(key))
    }

    fn check_layers(&self, key: &str, array: &Array<'_>, n_layer: usize) -> Result<()> {
        if array.len() != n_layer {
            let expected = format!("{n_layer}, one for each layer");
            return Err(self.wrong(key, &Value::Array(*array), &expected));
        }
        Ok(())
    }
}
