//! Formats of quantised weights that the kernels here read.
//!
//! In: a weight's type and layout. Out: the sizes of its blocks, and how a value is made of its
//! code.
//! Source: block layouts of `ggml-common.h` and `repack.cpp` of llama-cpp-sys-2 0.1.161.

use super::activations::BLOCK;
use crate::ggml::tensor::DType;

/// How a weight lies in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// 4 bits, a scale for 32.
    Q4_0,
    /// The same, eight rows together: scales, then eight bytes of each row in turn.
    Q4_0Packed,
    /// 8 bits, a scale for 32.
    Q8_0,
    /// 2 bits for three values, a scale for 256.
    TQ2_0,
    /// 3 bits, a scale for 16.
    Q3K,
    /// 4 bits, a scale and a minimum for 32.
    Q4K,
    /// 5 bits, a scale and a minimum for 32.
    Q5K,
    /// 6 bits, a scale for 16.
    Q6K,
}

/// How 32 codes become values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// One scale.
    One,
    /// One scale, and a minimum that is taken away.
    Minimum,
    /// A scale for each 16.
    Two,
}

impl Format {
    /// Returns the format of a type as files have it.
    pub(super) fn of(dtype: DType) -> Option<Self> {
        Some(match dtype {
            DType::Q4_0 => Self::Q4_0,
            DType::Q8_0 => Self::Q8_0,
            DType::TQ2_0 => Self::TQ2_0,
            DType::Q3_K => Self::Q3K,
            DType::Q4_K => Self::Q4K,
            DType::Q5_K => Self::Q5K,
            DType::Q6_K => Self::Q6K,
            _ => return None,
        })
    }

    /// Returns the format of a type as packing leaves it.
    pub(super) fn of_packed(dtype: DType) -> Option<Self> {
        (dtype == DType::Q4_0).then_some(Self::Q4_0Packed)
    }

    /// Returns values and bytes of a block of one row.
    pub(super) const fn block(self) -> (usize, usize) {
        match self {
            Self::Q4_0 | Self::Q4_0Packed => (BLOCK, 18),
            Self::Q8_0 => (BLOCK, 34),
            Self::TQ2_0 => (8 * BLOCK, 66),
            Self::Q3K => (8 * BLOCK, 110),
            Self::Q4K => (8 * BLOCK, 144),
            Self::Q5K => (8 * BLOCK, 176),
            Self::Q6K => (8 * BLOCK, 210),
        }
    }

    /// Returns the bytes of a row of `n` values, or `None` if blocks do not divide it.
    pub(super) const fn row_bytes(self, n: usize) -> Option<usize> {
        let (len, bytes) = self.block();
        if !n.is_multiple_of(len) {
            return None;
        }
        Some(n / len * bytes)
    }

    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Q4_0 | Self::Q4_0Packed | Self::Q8_0 | Self::TQ2_0 => Kind::One,
            Self::Q4K | Self::Q5K => Kind::Minimum,
            Self::Q3K | Self::Q6K => Kind::Two,
        }
    }

    /// Returns how many times as large as they are the codes of part `b` of 32 are multiplied:
    /// those of two bits, and every other part of [`Self::Q4K`], stay where they are in their byte.
    pub(super) const fn times(self, b: usize) -> i16 {
        match self {
            Self::TQ2_0 => 1 << (2 * (b % 4)),
            Self::Q4K if b % 2 == 1 => 16,
            _ => 1,
        }
    }

    /// Returns how many times as large as they are the sums of part `b` of 32 become: with
    /// [`Kind::Two`] scales stay in the high half of 16 bits.
    pub(super) fn unit(self, b: usize) -> f32 {
        match self.kind() {
            Kind::Two => 256.0,
            Kind::One | Kind::Minimum => f32::from(self.times(b)),
        }
    }

    /// Returns what is taken away from a code.
    pub(super) const fn zero(self) -> i16 {
        match self {
            Self::Q4_0 | Self::Q4_0Packed => 8,
            Self::Q8_0 => 128,
            Self::TQ2_0 => 1,
            Self::Q3K => 4,
            Self::Q4K | Self::Q5K => 0,
            Self::Q6K => 32,
        }
    }
}
