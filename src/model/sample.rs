//! Tensors of a file as weights, and the few rows of them that a GPU is tried with.
//!
//! In: entries of a file. Out: specifications for mapping them.

use crate::error::Result;
use crate::ggml::DType;
use crate::ggml::Placement;
use crate::ggml::Shape;
use crate::ggml::WeightSpec;
use crate::gguf::TensorInfo;

/// Rows of a weight that a GPU is tried with.
const SAMPLE_ROWS: usize = 48;

/// Returns all of a tensor as a weight.
///
/// # Errors
/// `Unsupported` if its type has no kernels.
pub fn whole(info: &TensorInfo, placement: Placement) -> Result<WeightSpec> {
    Ok(WeightSpec {
        name: info.name.clone(),
        dtype: DType::from_id(info.dtype.id()).map_err(|e| e.at(&info.name))?,
        shape: Shape::new(&info.ne().map(|n| n as usize))?,
        offset: info.offset,
        placement,
    })
}

/// Returns a few rows of one matrix of each type, in the order of the file.
///
/// # Errors
/// `Unsupported` if a type has no kernels.
pub fn of_each_type<'a>(infos: impl Iterator<Item = &'a TensorInfo>) -> Result<Vec<WeightSpec>> {
    let mut infos: Vec<_> = infos.filter(|i| i.shape.len() > 1).collect();
    infos.sort_by_key(|info| info.offset);
    let mut weights: Vec<WeightSpec> = Vec::new();
    for info in infos {
        let spec = whole(info, Placement::Host)?;
        if weights.iter().all(|w| w.dtype != spec.dtype) {
            let [width, n_rows, ..] = spec.shape.0;
            let shape = Shape::new(&[width, n_rows.min(SAMPLE_ROWS)])?;
            weights.push(WeightSpec { shape, ..spec });
        }
    }
    Ok(weights)
}
