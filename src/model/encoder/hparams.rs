//! Hyper-parameters of the picture and sound encoders.
//!
//! In: `clip.*` metadata of an mmproj file, or `gemma4.vision.*` and `gemma4.audio.*` of a single
//! file; counts that no key holds come from tensor shapes. Out: [`EncoderHParams`].
//! Source: specification 1.4, 1.5, 7.3 and 7.4.
//! Invariant: values that were read have passed every limit named here.

use crate::error::Error;
use crate::error::Result;
use crate::gguf::Gguf;
use crate::gguf::Items;
use crate::gguf::TensorInfo;
use crate::gguf::Value;
use crate::gguf::Writer;
use crate::model::encoder::table::TensorNames;

/// Layers of an encoder.
pub const N_LAYERS_MAX: u32 = 128;
/// Width of an encoder, of its feed-forward blocks and of what it hands on.
pub const WIDTH_MAX: u32 = 1 << 16;
/// Attention heads of an encoder.
pub const N_HEADS_MAX: u32 = 256;
/// Entries of the picture position table along one axis.
pub const N_POSITIONS_MAX: u64 = 1 << 16;
/// Values of the depthwise convolution's kernel.
pub const N_KERNEL_MAX: u64 = 31;
/// Channels of a subsampling convolution.
pub const N_CHANNELS_MAX: u64 = 1 << 12;
/// Mel bins; the front end makes no other number.
pub const N_MEL: u32 = 128;
/// Pixels along a side of a patch; the front end cuts no other size.
pub const PATCH_SIZE: u32 = 16;
/// Patches along a side of the square that one soft token covers.
pub const N_MERGE: u32 = 3;
/// The norms' epsilon of sound encoders; early conversions stored a wrong one, so none is read.
pub const AUDIO_EPS: f32 = 1e-6;
const VISION_EPS: f32 = 1e-6;
/// What converters store for a size that the model does not have.
const IMAGE_SIZE_UNUSED: u32 = 224;

/// Shape of the picture encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionHParams {
    /// Layers.
    pub n_layer: usize,
    /// Width of a patch's state.
    pub n_embd: usize,
    /// Width of the feed-forward block.
    pub n_ff: usize,
    /// Attention heads.
    pub n_head: usize,
    /// Width of a head, a multiple of four: half of it rotates by x and half by y, in pairs.
    pub head_dim: usize,
    /// Pixels along a side of a patch.
    pub patch_size: usize,
    /// Patches along a side of the square that one soft token covers.
    pub n_merge: usize,
    /// Entries of the position table along one axis.
    pub n_pos: usize,
    /// Width of a soft token.
    pub n_embd_out: usize,
    /// Added to mean squares in every norm.
    pub eps: f32,
}

/// Shape of the sound encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct AudioHParams {
    /// Conformer layers.
    pub n_layer: usize,
    /// Width of a frame's state.
    pub n_embd: usize,
    /// Width of the feed-forward blocks.
    pub n_ff: usize,
    /// Attention heads.
    pub n_head: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Mel bins of an input frame.
    pub n_mel: usize,
    /// Channels after the first and the second subsampling convolution.
    pub n_channels: [usize; 2],
    /// Values of the depthwise convolution's kernel.
    pub n_kernel: usize,
    /// Width between output projection and embedder.
    pub n_embd_proj: usize,
    /// Width of a soft token.
    pub n_embd_out: usize,
    /// Added to mean squares and variances in every norm.
    pub eps: f32,
}

impl AudioHParams {
    /// Returns the frequency rows left after both subsampling convolutions.
    pub fn n_rows(&self) -> usize {
        self.n_mel.div_ceil(2).div_ceil(2)
    }

    /// Returns the width of what the convolutions hand to the conformer.
    pub fn n_flat(&self) -> usize {
        self.n_rows() * self.n_channels[1]
    }
}

/// What encoders a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderHParams {
    /// The picture encoder.
    pub vision: Option<VisionHParams>,
    /// The sound encoder.
    pub audio: Option<AudioHParams>,
    /// Which names the file uses.
    pub names: TensorNames,
}

impl EncoderHParams {
    /// Returns whether `file` holds a picture or a sound encoder.
    pub fn present(file: &Gguf) -> bool {
        file.has("clip.has_vision_encoder")
            || file.has("clip.has_audio_encoder")
            || file.has("gemma4.vision.block_count")
            || file.has("gemma4.audio.block_count")
    }

    /// Reads and checks the hyper-parameters of the encoders in an mmproj file or a single file.
    ///
    /// `n_embd` is the decoder's width, which soft tokens must have.
    ///
    /// # Errors
    /// `Unsupported` if the file is of another kind or for another model, `Format` if a value is
    /// missing or out of range.
    pub fn read(file: &Gguf, n_embd: usize) -> Result<Self> {
        let arch = file.optional_str("general.architecture")?.unwrap_or("unnamed");
        let (has_vision, has_audio) = match arch {
            "clip" => (
                file.optional_bool("clip.has_vision_encoder")?.unwrap_or(false),
                file.optional_bool("clip.has_audio_encoder")?.unwrap_or(false),
            ),
            "gemma4" => {
                (file.has("gemma4.vision.block_count"), file.has("gemma4.audio.block_count"))
            }
            _ => (false, false),
        };
        if !has_vision && !has_audio {
            return Err(Error::unsupported(format!(
                "{}: architecture \"{arch}\" with neither picture nor sound encoder, expected an \
                 mmproj file of Gemma 4",
                file.name()
            )));
        }
        let names = TensorNames::of(file);
        let prefix = if arch == "clip" { "clip" } else { "gemma4" };
        let keys = |part: &'static str| Keys { file, prefix: format!("{prefix}.{part}"), part };
        let both = has_vision && has_audio;
        let vision = match has_vision {
            true => Some(read_vision(&keys("vision"), both, n_embd)?),
            false => None,
        };
        let audio = match has_audio {
            true => Some(read_audio(&keys("audio"), &names, both, n_embd)?),
            false => None,
        };
        Ok(Self { vision, audio, names })
    }

    /// Writes the metadata that [`EncoderHParams::read`] reads, for the names' kind of file.
    ///
    /// # Errors
    /// `Input` if one of the keys was set before.
    pub fn write(&self, to: &mut Writer) -> Result<()> {
        let clip = self.names == TensorNames::Mmproj;
        let prefix = if clip { "clip" } else { "gemma4" };
        if clip {
            to.set_str("general.architecture", "clip")?;
            to.set_str("general.type", "mmproj")?;
            to.set("clip.has_vision_encoder", Value::Bool(self.vision.is_some()))?;
            to.set("clip.has_audio_encoder", Value::Bool(self.audio.is_some()))?;
        }
        if let Some(h) = &self.vision {
            let part = format!("{prefix}.vision");
            write_sizes(to, &part, [h.n_layer, h.n_embd, h.n_ff, h.n_head, h.n_embd_out], h.eps)?;
            to.set_u32(&format!("{part}.patch_size"), h.patch_size as u32)?;
            to.set_u32(&format!("{part}.projector.scale_factor"), h.n_merge as u32)?;
            if clip {
                to.set_str("clip.vision.projector_type", "gemma4v")?;
                to.set_u32("clip.vision.image_size", IMAGE_SIZE_UNUSED)?;
                to.set_items("clip.vision.image_mean", Items::F32(&[0.0; 3]))?;
                to.set_items("clip.vision.image_std", Items::F32(&[1.0; 3]))?;
            }
        }
        if let Some(h) = &self.audio {
            let part = format!("{prefix}.audio");
            write_sizes(to, &part, [h.n_layer, h.n_embd, h.n_ff, h.n_head, h.n_embd_out], h.eps)?;
            to.set_u32(&format!("{part}.num_mel_bins"), h.n_mel as u32)?;
            if clip {
                to.set_str("clip.audio.projector_type", "gemma4a")?;
            }
        }
        Ok(())
    }
}

fn write_sizes(to: &mut Writer, part: &str, sizes: [usize; 5], eps: f32) -> Result<()> {
    let keys = [
        "block_count",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "projection_dim",
    ];
    for (key, n) in keys.iter().zip(sizes) {
        to.set_u32(&format!("{part}.{key}"), n as u32)?;
    }
    to.set(&format!("{part}.attention.layer_norm_epsilon"), Value::F32(eps))
}

/// The keys of one encoder.
struct Keys<'a> {
    file: &'a Gguf,
    prefix: String,
    part: &'static str,
}

impl Keys<'_> {
    fn wrong(&self, key: &str, found: impl std::fmt::Display, expected: &str) -> Error {
        let (name, prefix) = (self.file.name(), &self.prefix);
        let text = format!("{name}: metadata key {prefix}.{key} is {found}, expected {expected}");
        Error::format(text)
    }

    fn ranged(&self, key: &str, high: u32) -> Result<usize> {
        let v = self.file.u32(&format!("{}.{key}", self.prefix))?;
        if v == 0 || v > high {
            return Err(self.wrong(key, v, &format!("1 to {high}")));
        }
        Ok(v as usize)
    }

    /// Checks that `key` is missing or `want`, the only value that this version runs.
    fn fixed(&self, key: &str, want: u32) -> Result<usize> {
        let key = format!("{}.{key}", self.prefix);
        match self.file.optional_u32(&key)? {
            Some(v) if v != want => Err(Error::unsupported(format!(
                "{}: metadata key {key} is {v}, expected {want} as in Gemma 4 E2B and E4B",
                self.file.name()
            ))),
            _ => Ok(want as usize),
        }
    }

    /// Checks the projector's type; a file with one encoder may name it without the encoder.
    fn projector(&self, want: &str, both: bool) -> Result<()> {
        if !self.prefix.starts_with("clip.") {
            return Ok(());
        }
        let key = format!("{}.projector_type", self.prefix);
        let mut found = self.file.optional_str(&key)?;
        if found.is_none() && !both {
            found = self.file.optional_str("clip.projector_type")?;
        }
        match found {
            Some(v) if v == want => Ok(()),
            v => Err(Error::unsupported(format!(
                "{}: metadata key {key} is \"{}\", expected \"{want}\"; \
                 use the mmproj file of Gemma 4 E2B or E4B",
                self.file.name(),
                v.unwrap_or("missing")
            ))),
        }
    }

    /// Splits the width into heads of a width that `step` divides.
    fn heads(&self, n_embd: usize, step: usize) -> Result<(usize, usize)> {
        let n_head = self.ranged("attention.head_count", N_HEADS_MAX)?;
        if !n_embd.is_multiple_of(n_head * step) {
            let expected = format!("a number that splits {n_embd} into multiples of {step}");
            return Err(self.wrong("attention.head_count", n_head, &expected));
        }
        Ok((n_head, n_embd / n_head))
    }

    fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.file.tensor(name).ok_or_else(|| {
            let (file, part) = (self.file.name(), self.part);
            Error::format(format!("{file}: tensor {name} of the {part} encoder is missing"))
        })
    }

    /// Returns a side of a tensor from which a count is taken.
    fn side(&self, name: &str, side: usize, high: u64) -> Result<usize> {
        let info = self.tensor(name)?;
        let n = info.ne()[side];
        if n > high {
            return Err(Error::format(format!(
                "{}: tensor {name} has shape {:?}, expected at most {high} at place {side}",
                self.file.name(),
                info.shape
            )));
        }
        Ok(n as usize)
    }

    /// Returns the width of soft tokens, which must be the decoder's.
    fn width_out(&self, projection: &str, n_embd: usize) -> Result<usize> {
        let n = self.side(projection, 1, WIDTH_MAX.into())?;
        let key = format!("{}.projection_dim", self.prefix);
        let stored = self.file.optional_u32(&key)?.map_or(n, |v| v as usize);
        if n != n_embd || stored != n_embd {
            let found = if n != n_embd { n } else { stored };
            return Err(Error::unsupported(format!(
                "{}: the {} encoder makes soft tokens of width {found}, the model needs {n_embd}; \
                 use the mmproj file of the same model",
                self.file.name(),
                self.part
            )));
        }
        Ok(n)
    }
}

fn read_vision(keys: &Keys<'_>, both: bool, n_embd_out: usize) -> Result<VisionHParams> {
    keys.projector("gemma4v", both)?;
    let n_embd = keys.ranged("embedding_length", WIDTH_MAX)?;
    let (n_head, head_dim) = keys.heads(n_embd, 4)?;
    let eps = keys.file.optional_f32(&format!("{}.attention.layer_norm_epsilon", keys.prefix))?;
    let eps = eps.unwrap_or(VISION_EPS);
    if eps <= 0.0 || eps > 0.1 {
        return Err(keys.wrong("attention.layer_norm_epsilon", eps, "a number above 0, up to 0.1"));
    }
    Ok(VisionHParams {
        n_layer: keys.ranged("block_count", N_LAYERS_MAX)?,
        n_embd,
        n_ff: keys.ranged("feed_forward_length", WIDTH_MAX)?,
        n_head,
        head_dim,
        patch_size: keys.fixed("patch_size", PATCH_SIZE)?,
        n_merge: keys.fixed("projector.scale_factor", N_MERGE)?,
        n_pos: keys.side("v.position_embd.weight", 1, N_POSITIONS_MAX)?,
        n_embd_out: keys.width_out("mm.input_projection.weight", n_embd_out)?,
        eps,
    })
}

fn read_audio(
    keys: &Keys<'_>,
    names: &TensorNames,
    both: bool,
    n_embd_out: usize,
) -> Result<AudioHParams> {
    keys.projector("gemma4a", both)?;
    let n_embd = keys.ranged("embedding_length", WIDTH_MAX)?;
    let (n_head, head_dim) = keys.heads(n_embd, 2)?;
    let first = keys.side("a.conv1d.0.weight", 3, N_CHANNELS_MAX)?;
    let second = keys.side("a.conv1d.1.weight", 3, N_CHANNELS_MAX)?;
    let projection = names.in_file("a.pre_encode.out.weight");
    Ok(AudioHParams {
        n_layer: keys.ranged("block_count", N_LAYERS_MAX)?,
        n_embd,
        n_ff: keys.ranged("feed_forward_length", WIDTH_MAX)?,
        n_head,
        head_dim,
        n_mel: keys.fixed("num_mel_bins", N_MEL)?,
        n_channels: [first, second],
        n_kernel: keys.side("a.blk.0.conv_dw.weight", 0, N_KERNEL_MAX)?,
        n_embd_proj: keys.side(&projection, 1, WIDTH_MAX.into())?,
        n_embd_out: keys.width_out("mm.a.input_projection.weight", n_embd_out)?,
        eps: AUDIO_EPS,
    })
}
