//! Clamp values of clipped linears.
//!
//! In: a file and a linear's name. Out: [`Clamp`].
//! Source: specification 3.3 and 7.4; `convert_gemma4.go` of ollama/ollama for `v.clamp_data`.
//! Invariant: `min <= max`, and neither is NaN.

use crate::error::Error;
use crate::error::Result;
use crate::gguf::Gguf;
use crate::gguf::TensorInfo;
use crate::gguf::TensorType;
use crate::model::encoder::table::VISION_LINEARS;

/// The packed clamps of picture encoders in single-file models.
pub const PACKED_NAME: &str = "v.clamp_data";
/// Layers are counted in the packed clamps up to here.
const N_LAYERS_MAX: usize = 1 << 16;

/// The ranges that a linear's input and output are clamped to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clamp {
    /// Least value of the input.
    pub input_min: f32,
    /// Greatest value of the input.
    pub input_max: f32,
    /// Least value of the output.
    pub output_min: f32,
    /// Greatest value of the output.
    pub output_max: f32,
}

impl Clamp {
    /// The clamp that changes nothing.
    pub const NONE: Self = Self {
        input_min: f32::NEG_INFINITY,
        input_max: f32::INFINITY,
        output_min: f32::NEG_INFINITY,
        output_max: f32::INFINITY,
    };

    /// Reads the clamp of the linear `name`, such as `v.blk.3.attn_q`, without `.weight`.
    ///
    /// Values that the file lacks are infinite.
    ///
    /// # Errors
    /// `Format` if a value is NaN or a least value is above the greatest one, `Unsupported` if
    /// it is not F32.
    pub fn read(file: &Gguf, name: &str) -> Result<Self> {
        let value = |part: &str, default: f32| match file.tensor(&format!("{name}.{part}")) {
            Some(info) => scalar(file, info, 0, 1),
            None => Ok(default),
        };
        let clamp = Self {
            input_min: value("input_min", f32::NEG_INFINITY)?,
            input_max: value("input_max", f32::INFINITY)?,
            output_min: value("output_min", f32::NEG_INFINITY)?,
            output_max: value("output_max", f32::INFINITY)?,
        };
        let clamp = if clamp == Self::NONE { Self::packed(file, name)? } else { clamp };
        let fits = |min: f32, max: f32| min <= max;
        if !fits(clamp.input_min, clamp.input_max) || !fits(clamp.output_min, clamp.output_max) {
            return Err(Error::format(format!(
                "{}: linear {name} is clamped to [{}, {}] and [{}, {}], expected least values \
                 first and no NaN",
                file.name(),
                clamp.input_min,
                clamp.input_max,
                clamp.output_min,
                clamp.output_max
            )));
        }
        Ok(clamp)
    }

    /// Reads a clamp from the packed ones; four zeros stand for a linear without clamp.
    fn packed(file: &Gguf, name: &str) -> Result<Self> {
        let (Some(info), Some(index)) = (file.tensor(PACKED_NAME), packed_index(name)) else {
            return Ok(Self::NONE);
        };
        let n = info.n_values();
        if n < (index as u64 + 1) * 4 {
            return Ok(Self::NONE);
        }
        let mut v = [0.0; 4];
        for (i, v) in v.iter_mut().enumerate() {
            *v = scalar(file, info, index * 4 + i, n)?;
        }
        if v == [0.0; 4] {
            return Ok(Self::NONE);
        }
        let [input_min, input_max, output_min, output_max] = v;
        Ok(Self { input_min, input_max, output_min, output_max })
    }

    /// Returns whether it changes nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

/// Returns the place of a picture encoder's linear among the packed clamps.
fn packed_index(name: &str) -> Option<usize> {
    let (layer, part) = name.strip_prefix("v.blk.")?.split_once('.')?;
    let layer = layer.parse::<usize>().ok().filter(|n| *n < N_LAYERS_MAX)?;
    Some(layer * VISION_LINEARS.len() + VISION_LINEARS.iter().position(|p| *p == part)?)
}

/// Reads value `index` of an F32 tensor that must have `n` values.
fn scalar(file: &Gguf, info: &TensorInfo, index: usize, n: u64) -> Result<f32> {
    let place = format!("{}: tensor {}", file.name(), info.name);
    if info.dtype != TensorType::F32 {
        let found = info.dtype;
        return Err(Error::unsupported(format!("{place} has type {found}, expected F32")));
    }
    if info.n_values() != n {
        let found = &info.shape;
        return Err(Error::format(format!("{place} has shape {found:?}, expected [{n}]")));
    }
    let bytes = file.tensor_bytes(info).get(index * 4..index * 4 + 4);
    let bytes = bytes.and_then(|b| b.try_into().ok());
    let value = f32::from_le_bytes(bytes.ok_or_else(|| {
        Error::internal(format!("{place} has no value {index} though its shape says so"))
    })?);
    if value.is_nan() {
        return Err(Error::format(format!("{place} holds NaN, expected a number")));
    }
    Ok(value)
}
