//! What the kernels compute, one value after the other.
//!
//! In: eight rows of a weight, rounded activations. Out: sums in f32.
//! Source: block layouts of `ggml-common.h` of llama-cpp-sys-2 0.1.161.
//! Invariant: a sum's bits depend on its two rows alone: not on the layout, nor on how many rows
//! are computed together.

use super::GROUP;
use super::Rows;
use super::activations::BLOCK;
use super::activations::Block;
use super::format::Format;
use super::format::Kind;
use crate::ggml::tensor::DType;
use crate::ggml::tensor::dequantize_into;

/// 32 codes of one row, and how they become values.
pub(super) struct Part {
    pub(super) codes: [u8; BLOCK],
    /// Of the first 16 and of the last 16, in units of the block's scale.
    pub(super) times: [i32; 2],
    /// In units of the block's factor for minima.
    pub(super) minimum: i32,
    /// The block's scale and its factor for minima.
    pub(super) factors: [f32; 2],
}

/// See [`super::product`].
pub(super) fn product<const M: usize>(
    weight: Rows<'_>,
    format: Format,
    blocks: &[Block<M>],
    out: &mut [[f32; GROUP]; M],
) {
    weight.check(format, blocks.len());
    let mut sums = [[[0.0; 2]; GROUP]; M];
    let n_parts = format.block().0 / BLOCK;
    for (b, blocks) in blocks.chunks_exact(n_parts).enumerate() {
        for row in 0..GROUP {
            let parts: Vec<Part> =
                (0..n_parts).map(|i| part(weight, format, row, b * n_parts + i)).collect();
            for (m, sums) in sums.iter_mut().enumerate() {
                for (lane, sum) in sums[row].iter_mut().enumerate() {
                    add_block(sum, format, &parts, blocks, (m, lane));
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(&sums) {
        *out = sums.map(|[low, high]| low + high);
    }
}

/// Adds the products of a block: in each of its parts every other four, from the first or from the
/// second four on, and every other minimum.
fn add_block<const M: usize>(
    sum: &mut f32,
    format: Format,
    parts: &[Part],
    blocks: &[Block<M>],
    (m, lane): (usize, usize),
) {
    let [scale, factor] = parts[0].factors;
    if let ([part], [block]) = (parts, blocks) {
        let value = lane_value(format, part, &block.bytes[m], lane) * scale;
        *sum = value.mul_add(block.scales[m], *sum);
        return;
    }
    let (mut inner, mut minima) = (0.0, 0.0);
    for (i, (part, block)) in parts.iter().zip(blocks).enumerate() {
        let value = lane_value(format, part, &block.bytes[m], lane) * format.unit(i);
        inner = f32::mul_add(value, block.scales[m], inner);
        if format.kind() == Kind::Minimum && i % 2 == lane {
            let all: i32 = block.bytes[m].iter().map(|v| i32::from(*v)).sum();
            let all = block.scales[m] * format.unit(i) * -(all as f32);
            minima = f32::mul_add(part.minimum as f32, all, minima);
        }
    }
    *sum = inner.mul_add(scale, *sum);
    if format.kind() == Kind::Minimum {
        *sum = minima.mul_add(factor, *sum);
    }
}

fn lane_value(format: Format, part: &Part, bytes: &[i8; BLOCK], lane: usize) -> f32 {
    let half = |h: usize| -> i32 {
        let own = (16 * h..16 * h + 16).filter(|j| j / 4 % 2 == lane);
        let code = |j: usize| i32::from(part.codes[j]) - i32::from(format.zero());
        own.map(|j| code(j) * i32::from(bytes[j])).sum()
    };
    match format.kind() {
        Kind::Two => (half(0) * part.times[0] + half(1) * part.times[1]) as f32,
        Kind::One | Kind::Minimum => (half(0) + half(1)) as f32 * part.times[0] as f32,
    }
}

/// Returns the 32 codes number `b` of row `row` of eight.
pub(super) fn part(weight: Rows<'_>, format: Format, row: usize, b: usize) -> Part {
    let (len, bytes) = format.block();
    let (block, i) = (b / (len / BLOCK), b % (len / BLOCK));
    if format == Format::Q4_0Packed {
        return q4_0(&unpacked(&weight.bytes[block * bytes * GROUP..], row));
    }
    let at = &weight.bytes[row * weight.stride + block * bytes..][..bytes];
    match format {
        Format::Q4_0 | Format::Q4_0Packed => q4_0(at),
        Format::Q8_0 => one(std::array::from_fn(|j| at[2 + j] ^ 0x80), half(at)),
        Format::TQ2_0 => {
            let code = |j: usize| at[i / 4 * 32 + j] >> (i % 4 * 2) & 3;
            one(std::array::from_fn(code), half(&at[64..]))
        }
        Format::Q3K => q3k(at, i),
        Format::Q4K => {
            let code = |j: usize| at[16 + i / 2 * 32 + j] >> (i % 2 * 4) & 15;
            with_minimum(at, i, std::array::from_fn(code))
        }
        Format::Q5K => {
            let low = |j: usize| at[48 + i / 2 * 32 + j] >> (i % 2 * 4) & 15;
            let code = |j: usize| low(j) | (at[16 + j] >> i & 1) << 4;
            with_minimum(at, i, std::array::from_fn(code))
        }
        Format::Q6K => q6k(at, i),
    }
}

fn half(at: &[u8]) -> f32 {
    let mut value = [0.0];
    let read = dequantize_into(DType::F16, &at[..2], &mut value);
    read.expect("two bytes are one number");
    value[0]
}

fn one(codes: [u8; BLOCK], scale: f32) -> Part {
    Part { codes, times: [1; 2], minimum: 0, factors: [scale, 0.0] }
}

fn q4_0(at: &[u8]) -> Part {
    one(std::array::from_fn(|j| at[2 + j % 16] >> (j / 16 * 4) & 15), half(at))
}

/// Returns a row's block as files have it.
fn unpacked(group: &[u8], row: usize) -> [u8; 18] {
    std::array::from_fn(|j| match j {
        0 | 1 => group[2 * row + j],
        _ => group[2 * GROUP + (j - 2) / 8 * 64 + row * 8 + (j - 2) % 8] ^ 0x88,
    })
}

/// Scales and minima of six bits: the first four in whole bytes, the others' high bits above those.
fn with_minimum(at: &[u8], i: usize, codes: [u8; BLOCK]) -> Part {
    let packed = &at[4..16];
    let (scale, minimum) = match i {
        0..4 => (packed[i] & 63, packed[i + 4] & 63),
        _ => {
            (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4)
        }
    };
    Part {
        codes,
        times: [scale.into(); 2],
        minimum: minimum.into(),
        factors: [half(at), half(&at[2..])],
    }
}

fn q3k(at: &[u8], i: usize) -> Part {
    let low = |j: usize| at[32 + i / 4 * 32 + j] >> (i % 4 * 2) & 3;
    let code = |j: usize| low(j) | (at[j] >> i & 1) << 2;
    let scale = |k: usize| {
        let low = at[96 + k % 8] >> (k / 8 * 4) & 15;
        let high = at[104 + k % 4] >> (k / 4 * 2) & 3;
        i32::from(low | high << 4) - 32
    };
    Part {
        codes: std::array::from_fn(code),
        times: [scale(2 * i), scale(2 * i + 1)],
        minimum: 0,
        factors: [half(&at[108..]), 0.0],
    }
}

fn q6k(at: &[u8], i: usize) -> Part {
    let (side, i_side) = (i / 4, i % 4);
    let low = |j: usize| at[side * 64 + i_side % 2 * 32 + j] >> (i_side / 2 * 4) & 15;
    let code = |j: usize| low(j) | (at[128 + side * 32 + j] >> (i_side * 2) & 3) << 4;
    let scale = |k: usize| i32::from(at[192 + k] as i8);
    Part {
        codes: std::array::from_fn(code),
        times: [scale(2 * i), scale(2 * i + 1)],
        minimum: 0,
        factors: [half(&at[208..]), 0.0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::dequantize;
    use crate::ggml::quantize;

    #[test]
    fn codes_become_the_values_that_ggml_reads() {
        let k = 512;
        let values: Vec<f32> = (0..GROUP * k).map(|i| (i as f32 * 0.731).sin() * 2.0).collect();
        for dtype in [
            DType::Q4_0,
            DType::Q8_0,
            DType::TQ2_0,
            DType::Q3_K,
            DType::Q4_K,
            DType::Q5_K,
            DType::Q6_K,
        ] {
            let format = Format::of(dtype).unwrap();
            let weight = quantize(dtype, &values, k).unwrap();
            assert_eq!(format.row_bytes(k), Some(weight.len() / GROUP), "{dtype}");
            let rows = Rows { bytes: &weight, stride: weight.len() / GROUP, ahead: 0, early: 0 };
            let want = dequantize(dtype, &weight, GROUP * k).unwrap();
            for (i, want) in want.iter().enumerate() {
                let part = part(rows, format, i / k, i % k / BLOCK);
                let j = i % BLOCK;
                let code = f32::from(i16::from(part.codes[j]) - format.zero());
                let [scale, factor] = part.factors;
                let got = code * part.times[j / 16] as f32 * scale - part.minimum as f32 * factor;
                assert!((got - want).abs() < 1e-5, "{dtype} {i}: {got}, not {want}");
            }
        }
    }
}
