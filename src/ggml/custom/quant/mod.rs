//! Products of quantised weights with tokens, on kernels of our own.
//!
//! In: a weight in the mapping, in one of the formats of [`format`], and rows of f32.
//! Out: rows of f32. [`linear`] is the way in; [`activations`] rounds tokens, [`rows`] says which
//! rows of a weight are taken together, [`portable`] what is computed, and [`avx512`] does it fast.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod format;
mod linear;
#[cfg(target_arch = "x86_64")]
mod load;
mod portable;
mod rows;

use activations::Block;
use format::Format;
use rows::Rows;

use crate::ggml::tensor::DType;

/// Rows of a weight that are multiplied together.
const GROUP: usize = 8;
/// Most rows of activations for which memory is what a weight waits for.
const FEW: usize = 4;

/// Returns whether this processor multiplies faster here than with ggml's own kernels.
fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_available() {
        return true;
    }
    false
}

/// Returns whether weights of a type are multiplied here on this processor.
pub(in crate::ggml) fn multiplies(dtype: DType) -> bool {
    is_fast() && Format::of(dtype).is_some()
}

/// Returns whether weights of a type are multiplied here from the file's layout only, so that
/// packing them would give them to slower kernels.
pub(in crate::ggml) fn wants_plain(dtype: DType) -> bool {
    multiplies(dtype) && Format::of_packed(dtype).is_none()
}

/// Multiplies the eight rows of `weight` with `M` rows, which gives `out[row of M][row of 8]`.
fn product<const M: usize>(
    weight: Rows<'_>,
    format: Format,
    blocks: &[Block<M>],
    out: &mut [[f32; GROUP]; M],
) {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_available() {
        return avx512::product(weight, format, blocks, out);
    }
    portable::product(weight, format, blocks, out);
}
