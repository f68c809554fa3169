//! Seeded random weights in every stored type, as fast as the disk takes them.
//!
//! In: a type, the standard deviation wanted, a number of blocks. Out: valid blocks.
//! Source: block layouts of `ggml-common.h` of llama-cpp-sys-2 0.1.161.
//! Invariant: the same seed gives the same bytes; no two rows of a tensor are equal, because the
//! pattern's length has no divisor with a row's.

use culet::Error;
use culet::Result;
use culet::ggml;
use culet::ggml::DType;
use culet::gguf::TensorType;

/// Blocks after which the pattern repeats: a prime number.
const N_BLOCKS: usize = 299_993;

/// Seeded random numbers (SplitMix64).
pub(in crate::cli::bench) struct Random(pub(in crate::cli::bench) u64);

impl Random {
    /// Returns the next number.
    pub(in crate::cli::bench) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number in [0, 1).
    pub(in crate::cli::bench) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u64 << 24) as f32
    }
}

/// How a type's block is scaled.
struct Layout {
    /// Byte of the block's scale.
    scale_at: usize,
    /// Deviation of the block's values at scale one.
    unit: f32,
    /// For types with a least value: its byte, and its scale in multiples of the block's.
    least: Option<(usize, f32)>,
}

/// Returns the layout of a quantised type; the deviations follow from `randomise`.
fn layout(dtype: TensorType) -> Option<Layout> {
    let plain = |scale_at, unit| Some(Layout { scale_at, unit, least: None });
    match dtype {
        TensorType::Q4_0 => plain(0, 4.61),
        TensorType::Q8_0 => plain(0, 73.9),
        TensorType::Q3K => plain(108, 43.3),
        TensorType::Q6K => plain(208, 1798.0),
        TensorType::TQ2_0 => plain(64, 0.816),
        TensorType::Q4K => Some(Layout { scale_at: 0, unit: 223.0, least: Some((2, 7.5)) }),
        TensorType::Q5K => Some(Layout { scale_at: 0, unit: 447.0, least: Some((2, 15.5)) }),
        _ => None,
    }
}

/// A row of random blocks of one type that repeats.
pub(in crate::cli::bench) struct Pattern {
    dtype: TensorType,
    bytes: Vec<u8>,
    std: f32,
    /// Block that comes next.
    at: usize,
    seed: u64,
}

impl Pattern {
    /// Makes the blocks of `dtype`.
    ///
    /// # Errors
    /// `Unsupported` for a type that nothing here makes.
    pub(in crate::cli::bench) fn new(dtype: TensorType, seed: u64) -> Result<Self> {
        let floats = [TensorType::F32, TensorType::F16, TensorType::BF16];
        if layout(dtype).is_none() && !floats.contains(&dtype) {
            return Err(Error::unsupported(format!("no random weights of type {dtype}")));
        }
        let mut bytes = vec![0; N_BLOCKS * dtype.block_bytes() as usize];
        let mut random = Random(seed);
        for eight in bytes.chunks_mut(8) {
            let n = eight.len();
            eight.copy_from_slice(&random.next().to_le_bytes()[..n]);
        }
        for block in bytes.chunks_exact_mut(dtype.block_bytes() as usize) {
            make_valid(dtype, block, &mut random);
        }
        Ok(Self { dtype, bytes, std: f32::NAN, at: 0, seed })
    }

    /// Scales the blocks so that their values deviate by `std`.
    ///
    /// # Errors
    /// `Memory` if there is no room for the scales.
    fn set_std(&mut self, std: f32) -> Result<()> {
        if self.std == std {
            return Ok(());
        }
        self.std = std;
        let mut random = Random(self.seed ^ 0x5ca1e);
        let size = self.dtype.block_bytes() as usize;
        let Some(layout) = layout(self.dtype) else {
            let flat: Vec<f32> =
                (0..N_BLOCKS).map(|_| (random.unit() - 0.5) * 12_f32.sqrt() * std).collect();
            let dtype = DType::from_id(self.dtype.id())?;
            self.bytes = ggml::quantize(dtype, &flat, flat.len())?;
            return Ok(());
        };
        let scales: Vec<f32> = (0..N_BLOCKS)
            .map(|_| {
                let size = std / layout.unit * (0.8 + 0.4 * random.unit());
                // Values are not centred where no least value is stored; the sign evens it out.
                let negative = layout.least.is_none() && random.next().is_multiple_of(2);
                if negative { -size } else { size }
            })
            .collect();
        let put = |bytes: &mut [u8], at: usize, values: &[f32]| -> Result<()> {
            let halves = ggml::quantize(DType::F16, values, values.len())?;
            for (block, half) in bytes.chunks_exact_mut(size).zip(halves.chunks_exact(2)) {
                block[at..at + 2].copy_from_slice(half);
            }
            Ok(())
        };
        put(&mut self.bytes, layout.scale_at, &scales)?;
        if let Some((at, times)) = layout.least {
            let least: Vec<f32> = scales.iter().map(|s| s * times).collect();
            put(&mut self.bytes, at, &least)?;
        }
        Ok(())
    }

    /// Gives `n` blocks whose values deviate by `std` to `take`, in long pieces.
    ///
    /// # Errors
    /// Those of `take`.
    pub(in crate::cli::bench) fn write(
        &mut self,
        n: u64,
        std: f32,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.set_std(std)?;
        let size = self.dtype.block_bytes() as usize;
        let mut left = n;
        while left > 0 {
            let now = left.min((N_BLOCKS - self.at) as u64) as usize;
            take(&self.bytes[self.at * size..(self.at + now) * size])?;
            self.at = (self.at + now) % N_BLOCKS;
            left -= now as u64;
        }
        Ok(())
    }
}

/// Changes random bytes where not every bit pattern is a sensible block.
fn make_valid(dtype: TensorType, block: &mut [u8], random: &mut Random) {
    match dtype {
        TensorType::TQ2_0 => {
            // Four values of 0, 1 or 2 a byte.
            for byte in &mut block[..64] {
                let b = usize::from(*byte);
                *byte = [b, b / 3, b / 9, b / 27]
                    .iter()
                    .enumerate()
                    .fold(0, |bits, (i, v)| bits | ((v % 3) as u8) << (2 * i));
            }
        }
        TensorType::Q6K => {
            // Sixteen signed scales of similar size.
            for scale in &mut block[192..208] {
                let size = 64 + (*scale & 63) as i8;
                *scale = if *scale >= 128 { -size } else { size } as u8;
            }
        }
        TensorType::Q4K | TensorType::Q5K => {
            // Eight six-bit scales and as many least values, which equal them, so that the
            // values are centred.
            let draw = random.next().to_le_bytes();
            let scale = |j: usize| 32 + (draw[j] & 31);
            for j in 0..4 {
                let (low, high) = (scale(j), scale(j + 4));
                block[4 + j] = low | (high >> 4) << 6;
                block[8 + j] = low | (high >> 4) << 6;
                block[12 + j] = (high & 15) | (high & 15) << 4;
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_the_deviation_asked_for_and_no_mean() {
        for dtype in [
            TensorType::F32,
            TensorType::F16,
            TensorType::BF16,
            TensorType::Q4_0,
            TensorType::Q8_0,
            TensorType::Q3K,
            TensorType::Q4K,
            TensorType::Q5K,
            TensorType::Q6K,
            TensorType::TQ2_0,
        ] {
            let mut pattern = Pattern::new(dtype, 7).unwrap();
            let n_values = 256 * 2000;
            for std in [1.0, 0.02] {
                let mut bytes = Vec::new();
                let n = n_values / dtype.block_len();
                let take = |b: &[u8]| {
                    bytes.extend_from_slice(b);
                    Ok(())
                };
                pattern.write(n, std, take).unwrap();
                let kind = DType::from_id(dtype.id()).unwrap();
                let values = ggml::dequantize(kind, &bytes, n_values as usize).unwrap();
                let mean = values.iter().sum::<f32>() / n_values as f32;
                let power = values.iter().map(|v| v * v).sum::<f32>() / n_values as f32;
                let ratio = power.sqrt() / std;
                assert!((0.97..1.05).contains(&ratio), "{dtype}: deviation {ratio} of {std}");
                assert!(mean.abs() < 0.05 * std, "{dtype}: mean {mean} at {std}");
            }
        }
    }

    #[test]
    fn types_without_blocks_are_refused() {
        assert!(Pattern::new(TensorType::I32, 0).is_err());
    }
}
