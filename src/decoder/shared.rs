//! The decoder's shared part: hyper-parameters, weights, frequencies.
//!
//! In: a checked file. Out: a [`Decoder`] that any number of timelines use at once.

use crate::decoder::graph::head_dims;
use crate::decoder::graph::n_front;
use crate::decoder::rope::Frequencies;
use crate::decoder::weights::DecoderWeights;
use crate::error::Error;
use crate::error::Result;
use crate::ggml::Backend;
use crate::gguf::Gguf;
use crate::model::HParams;

/// Weights and constants of one model, shared by all timelines.
pub struct Decoder {
    pub(super) hparams: HParams,
    pub(super) weights: DecoderWeights,
    /// Full layers' frequencies, then sliding ones'.
    pub(super) frequencies: [Frequencies; 2],
}

impl Decoder {
    /// Binds the decoder of `gguf`, in place.
    ///
    /// # Errors
    /// `Format` or `Unsupported` naming the file and what does not fit.
    pub fn open(gguf: &Gguf, hparams: HParams, backend: &Backend) -> Result<Self> {
        let weights = DecoderWeights::bind(gguf, &hparams, n_front(&hparams), backend)?;
        let [full, sliding] = head_dims(&hparams);
        for (n_rot, d) in [(hparams.n_rot_full, full), (hparams.n_rot_sliding, sliding)] {
            if n_rot != d && hparams.layers.iter().any(|l| l.head_dim == d) {
                return Err(Error::unsupported(format!(
                    "{}: {n_rot} of {d} dimensions of a head turn, expected all",
                    gguf.name()
                )));
            }
        }
        let divisors = Some(&weights.rope_freqs[..]).filter(|f| !f.is_empty());
        let frequencies = [
            Frequencies::new(full, hparams.rope_base_full, divisors),
            Frequencies::new(sliding, hparams.rope_base_sliding, None),
        ];
        Ok(Self { hparams, weights, frequencies })
    }

    /// Returns the hyper-parameters.
    pub fn hparams(&self) -> &HParams {
        &self.hparams
    }

    /// Returns the weights.
    pub fn weights(&self) -> &DecoderWeights {
        &self.weights
    }
}
