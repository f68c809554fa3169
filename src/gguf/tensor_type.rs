//! Tensor types: numbers, names and block sizes.
//!
//! In: the type number of a file. Out: [`TensorType`] and checked sizes.
//! Source: `ggml.h` and `ggml-common.h` of llama-cpp-sys-2 0.1.161; a test compares the tables.

use std::fmt;

/// How the values of a tensor are stored.
#[expect(missing_docs, reason = "the variants are the format's own type names")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TensorType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    IQ2XXS,
    IQ2XS,
    IQ3XXS,
    IQ1S,
    IQ4NL,
    IQ3S,
    IQ2S,
    IQ4XS,
    I8,
    I16,
    I32,
    I64,
    F64,
    IQ1M,
    BF16,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
    Q2_0,
}

struct Row(TensorType, u32, &'static str, u64, u64);

/// Type, number in files, name, values in a block, bytes of a block.
const TABLE: [Row; 35] = [
    Row(TensorType::F32, 0, "F32", 1, 4),
    Row(TensorType::F16, 1, "F16", 1, 2),
    Row(TensorType::Q4_0, 2, "Q4_0", 32, 18),
    Row(TensorType::Q4_1, 3, "Q4_1", 32, 20),
    Row(TensorType::Q5_0, 6, "Q5_0", 32, 22),
    Row(TensorType::Q5_1, 7, "Q5_1", 32, 24),
    Row(TensorType::Q8_0, 8, "Q8_0", 32, 34),
    Row(TensorType::Q8_1, 9, "Q8_1", 32, 36),
    Row(TensorType::Q2K, 10, "Q2_K", 256, 84),
    Row(TensorType::Q3K, 11, "Q3_K", 256, 110),
    Row(TensorType::Q4K, 12, "Q4_K", 256, 144),
    Row(TensorType::Q5K, 13, "Q5_K", 256, 176),
    Row(TensorType::Q6K, 14, "Q6_K", 256, 210),
    Row(TensorType::Q8K, 15, "Q8_K", 256, 292),
    Row(TensorType::IQ2XXS, 16, "IQ2_XXS", 256, 66),
    Row(TensorType::IQ2XS, 17, "IQ2_XS", 256, 74),
    Row(TensorType::IQ3XXS, 18, "IQ3_XXS", 256, 98),
    Row(TensorType::IQ1S, 19, "IQ1_S", 256, 50),
    Row(TensorType::IQ4NL, 20, "IQ4_NL", 32, 18),
    Row(TensorType::IQ3S, 21, "IQ3_S", 256, 110),
    Row(TensorType::IQ2S, 22, "IQ2_S", 256, 82),
    Row(TensorType::IQ4XS, 23, "IQ4_XS", 256, 136),
    Row(TensorType::I8, 24, "I8", 1, 1),
    Row(TensorType::I16, 25, "I16", 1, 2),
    Row(TensorType::I32, 26, "I32", 1, 4),
    Row(TensorType::I64, 27, "I64", 1, 8),
    Row(TensorType::F64, 28, "F64", 1, 8),
    Row(TensorType::IQ1M, 29, "IQ1_M", 256, 56),
    Row(TensorType::BF16, 30, "BF16", 1, 2),
    Row(TensorType::TQ1_0, 34, "TQ1_0", 256, 54),
    Row(TensorType::TQ2_0, 35, "TQ2_0", 256, 66),
    Row(TensorType::MXFP4, 39, "MXFP4", 32, 17),
    Row(TensorType::NVFP4, 40, "NVFP4", 64, 36),
    Row(TensorType::Q1_0, 41, "Q1_0", 128, 18),
    Row(TensorType::Q2_0, 42, "Q2_0", 64, 18),
];

impl TensorType {
    /// Returns every type, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    /// Returns the type with the number `id`, if it is known.
    pub fn from_id(id: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == id).map(|row| row.0)
    }

    /// Returns the type with the name `name`, whatever its case.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.2.eq_ignore_ascii_case(name)).map(|row| row.0)
    }

    fn row(self) -> &'static Row {
        // The table is in the order of the variants; a test compares every row.
        &TABLE[self as usize]
    }

    /// Returns the number that stands for the type in files.
    pub fn id(self) -> u32 {
        self.row().1
    }

    /// Returns the type's name as the trade writes it, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Returns how many values one block holds.
    pub fn block_len(self) -> u64 {
        self.row().3
    }

    /// Returns how many bytes one block takes.
    pub fn block_bytes(self) -> u64 {
        self.row().4
    }

    /// Returns the bytes of a row of `n` values.
    ///
    /// `None` if `n` is not a whole number of blocks or the size does not fit in 64 bits.
    pub fn row_bytes(self, n: u64) -> Option<u64> {
        let row = self.row();
        if !n.is_multiple_of(row.3) {
            return None;
        }
        (n / row.3).checked_mul(row.4)
    }

    /// Returns the bytes of a tensor of `shape`, fastest dimension first.
    ///
    /// `None` as for [`TensorType::row_bytes`].
    pub fn tensor_bytes(self, shape: &[u64]) -> Option<u64> {
        let (first, rest) = shape.split_first()?;
        rest.iter().try_fold(self.row_bytes(*first)?, |bytes, n| bytes.checked_mul(*n))
    }

    /// Returns whether weights of this type can be multiplied with.
    pub fn is_weight(self) -> bool {
        use TensorType as T;
        const WEIGHTS: [TensorType; 20] = [
            T::F32,
            T::F16,
            T::BF16,
            T::Q8_0,
            T::Q4_0,
            T::Q4_1,
            T::Q5_0,
            T::Q5_1,
            T::Q2K,
            T::Q3K,
            T::Q4K,
            T::Q5K,
            T::Q6K,
            T::IQ4NL,
            T::IQ4XS,
            T::IQ3S,
            T::IQ3XXS,
            T::TQ1_0,
            T::TQ2_0,
            T::MXFP4,
        ];
        WEIGHTS.contains(&self)
    }

    /// Returns whether the type holds floating-point numbers without blocks.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_where_their_variant_says() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, i, "{}", row.2);
            assert_eq!(TensorType::from_id(row.1), Some(row.0));
            assert_eq!(TensorType::from_name(&row.2.to_lowercase()), Some(row.0));
        }
        assert_eq!(TensorType::Q2_0 as usize + 1, TABLE.len());
    }

    #[test]
    fn sizes_are_checked() {
        let cases: [(TensorType, &[u64], Option<u64>); 8] = [
            (TensorType::F32, &[3], Some(12)),
            (TensorType::Q4_0, &[64, 3], Some(108)),
            (TensorType::Q4_0, &[33], None),
            (TensorType::Q6K, &[256, 2, 2], Some(840)),
            (TensorType::Q6K, &[128], None),
            (TensorType::F64, &[u64::MAX], None),
            (TensorType::F32, &[1 << 32, 1 << 31], None),
            (TensorType::F32, &[], None),
        ];
        for (dtype, shape, want) in cases {
            assert_eq!(dtype.tensor_bytes(shape), want, "{dtype} {shape:?}");
        }
    }

    #[test]
    fn unknown_numbers_are_none() {
        for id in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(TensorType::from_id(id), None);
        }
    }
}
