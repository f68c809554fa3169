//! The engine: a model's files opened, checked and shared.
//!
//! In: a text model and, for pictures and sounds, its mmproj. Out: [`Engine`], which any number
//! of sessions use at once.
//! **Invariant:** weights are used where they are mapped; opening reads only what it checks.

use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;

use crate::decoder;
use crate::decoder::Decoder;
use crate::decoder::KvOptions;
use crate::encoder::AudioEncoder;
use crate::encoder::VisionEncoder;
use crate::encoder::trial;
use crate::error::Error;
use crate::error::Result;
use crate::ggml::Backend;
use crate::ggml::BackendOptions;
use crate::ggml::check_gpu;
use crate::gguf::Gguf;
use crate::gguf::Mapping;
use crate::gguf::TensorType;
use crate::model::AudioWeights;
use crate::model::EncoderHParams;
use crate::model::HParams;
use crate::model::Variant;
use crate::model::VisionWeights;
use crate::model::memory;
use crate::text::Tokenizer;

/// How an engine is opened.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Threads and GPU of every session.
    pub backend: BackendOptions,
    /// Most bytes that weights in use, caches and intermediate values may take.
    pub memory_bytes_max: Option<u64>,
    /// Most bytes of the GPU's memory that weights may take; caches and intermediate values come on
    /// top. `None` means three quarters of what is free.
    pub gpu_bytes_max: Option<u64>,
}

/// Encoders of one mmproj, bound when first needed.
struct Encoders {
    file: Gguf,
    hparams: EncoderHParams,
    vision: OnceLock<Arc<VisionEncoder>>,
    audio: OnceLock<Arc<AudioEncoder>>,
}

/// A model that is ready to be used.
pub struct Engine {
    text: Gguf,
    tokenizer: Tokenizer,
    decoder: Arc<Decoder>,
    encoders: Option<Encoders>,
    options: EngineOptions,
    backend: std::sync::Mutex<Backend>,
    fingerprints: OnceLock<[u64; 2]>,
}

impl Engine {
    /// Opens a text model and, if given, its mmproj.
    ///
    /// # Errors
    /// `Io`, `Format` or `Unsupported` naming the file and what does not fit.
    pub fn open(model: &Path, mmproj: Option<&Path>, options: &EngineOptions) -> Result<Arc<Self>> {
        let mmproj = mmproj.map(Mapping::open).transpose()?;
        Self::from_mappings(Mapping::open(model)?, mmproj, options)
    }

    /// Opens files that are already mapped, for example from descriptors.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn from_mappings(
        model: Arc<Mapping>,
        mmproj: Option<Arc<Mapping>>,
        options: &EngineOptions,
    ) -> Result<Arc<Self>> {
        let text = Gguf::from_mapping(model)?;
        let hparams = HParams::read(&text)?;
        let (mut backend, options) = start(&text, &hparams, options)?;
        let encoders = match mmproj {
            Some(mapping) => Some(Encoders::read(Gguf::from_mapping(mapping)?, &hparams)?),
            None if EncoderHParams::present(&text) => {
                let again = Gguf::from_mapping(Arc::clone(text.mapping()))?;
                Some(Encoders::read(again, &hparams)?)
            }
            None => None,
        };
        let tokenizer = Tokenizer::from_gguf(&text)?;
        let decoder = Arc::new(Decoder::open(&text, hparams, &backend)?);
        advise(&text);
        tell_share(&decoder, &backend);
        if let Some(most) = backend.gpu_bytes_max() {
            backend.set_gpu_bytes_max(most - decoder.weights().gpu_share.size_bytes);
        }
        let backend = std::sync::Mutex::new(backend);
        let fingerprints = OnceLock::new();
        Ok(Arc::new(Self { text, tokenizer, decoder, encoders, options, backend, fingerprints }))
    }

    /// Returns the text model's file.
    pub fn file(&self) -> &Gguf {
        &self.text
    }

    /// Returns the mmproj's file, if there is one.
    pub fn mmproj_file(&self) -> Option<&Gguf> {
        self.encoders.as_ref().map(|e| &e.file)
    }

    /// Returns the options it was opened with, without the GPU if that failed its check.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Returns the tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Returns the decoder.
    pub fn decoder(&self) -> &Arc<Decoder> {
        &self.decoder
    }

    /// Returns the model's name among the known ones, such as `E2B`.
    pub fn variant_name(&self) -> &'static str {
        Variant::name_of(self.decoder.hparams())
    }

    /// Returns numbers that name the text model's file and its mmproj's among others; 0 for none.
    pub fn fingerprints(&self) -> [u64; 2] {
        let encoders = || self.encoders.as_ref().map_or(0, |e| e.file.fingerprint());
        *self.fingerprints.get_or_init(|| [self.text.fingerprint(), encoders()])
    }

    /// Tells whether pictures can be read.
    pub fn sees(&self) -> bool {
        self.encoders.as_ref().is_some_and(|e| e.hparams.vision.is_some())
    }

    /// Tells whether sounds can be heard.
    pub fn hears(&self) -> bool {
        self.encoders.as_ref().is_some_and(|e| e.hparams.audio.is_some())
    }

    /// Returns the picture encoder, binding it when first asked for.
    ///
    /// # Errors
    /// `Input` if there is no mmproj; `Unsupported` if it has no picture encoder.
    pub fn vision(&self) -> Result<&Arc<VisionEncoder>> {
        let e = self.encoders_for("a picture")?;
        let bind = |backend: &Backend| {
            let owner = Arc::clone(e.file.mapping());
            let weights = VisionWeights::bind(&e.file, owner, &e.hparams, backend)?;
            Ok(VisionEncoder::new(weights))
        };
        self.bound(&e.vision, |backend| trial::placed("pictures", backend, bind))
    }

    /// Returns the sound encoder, binding it when first asked for.
    ///
    /// # Errors
    /// `Input` if there is no mmproj; `Unsupported` if it has no sound encoder.
    pub fn audio(&self) -> Result<&Arc<AudioEncoder>> {
        let e = self.encoders_for("a sound")?;
        let bind = |backend: &Backend| {
            let owner = Arc::clone(e.file.mapping());
            AudioEncoder::new(AudioWeights::bind(&e.file, owner, &e.hparams, backend)?)
        };
        self.bound(&e.audio, |backend| trial::placed("sounds", backend, bind))
    }

    /// Returns what is in a place, binding it first if nothing is: once, whoever asks meanwhile.
    fn bound<'a, E>(
        &self,
        place: &'a OnceLock<Arc<E>>,
        bind: impl FnOnce(&mut Backend) -> Result<Arc<E>>,
    ) -> Result<&'a Arc<E>> {
        if let Some(encoder) = place.get() {
            return Ok(encoder);
        }
        let mut backend = self.backend.lock().map_err(|_| Error::internal("a loader panicked"))?;
        // Another thread may have bound it while this one waited.
        if let Some(encoder) = place.get() {
            return Ok(encoder);
        }
        let encoder = bind(&mut backend)?;
        Ok(place.get_or_init(|| encoder))
    }

    fn encoders_for(&self, what: &str) -> Result<&Encoders> {
        self.encoders.as_ref().ok_or_else(|| {
            Error::input(format!(
                "{}: {what} needs the model's mmproj file; name it with --mmproj",
                self.text.name()
            ))
        })
    }

    /// Checks a session's cache, intermediate values and the weights, with what is computed beside
    /// it, against the memory limit.
    ///
    /// # Errors
    /// `Memory` naming the context that would fit.
    pub fn check_memory(&self, kv: &KvOptions, beside_bytes: usize) -> Result<()> {
        let Some(limit) = self.options.memory_bytes_max else { return Ok(()) };
        let h = self.decoder.hparams();
        let dtype = TensorType::from_id(kv.dtype.id())
            .ok_or_else(|| Error::input(format!("no cache of {}", kv.dtype)))?;
        let shape = memory::KvShape { n_ctx: kv.n_ctx, n_batch: kv.n_batch, dtype };
        memory::check_fit(h, &shape, self.weight_bytes() + beside_bytes as u64, limit)
    }

    /// Returns the bytes of weights that answering reads, the per-layer table aside.
    pub fn weight_bytes(&self) -> u64 {
        let h = Some(self.decoder.hparams());
        let encoders = self.encoders.as_ref().map(|e| memory::read_bytes(&e.file, None));
        memory::read_bytes(&self.text, h) + encoders.unwrap_or(0)
    }
}

/// Starts the backend; a GPU that computes wrongly is left out, with a warning.
fn start(
    text: &Gguf,
    hparams: &HParams,
    options: &EngineOptions,
) -> Result<(Backend, EngineOptions)> {
    let mut backend = Backend::new(&options.backend)?;
    if let Some(most) = options.gpu_bytes_max {
        backend.set_gpu_bytes_max(most);
    }
    if backend.gpu_info().is_none() {
        return Ok((backend, options.clone()));
    }
    let sample = decoder::gpu_sample(text, hparams)?;
    without_faulty_gpu(check_gpu(&sample, &mut backend), backend, options.clone())
}

/// Returns the backend as it is, or another without its GPU if the check of that failed.
fn without_faulty_gpu(
    verdict: Result<()>,
    backend: Backend,
    mut options: EngineOptions,
) -> Result<(Backend, EngineOptions)> {
    let Err(fault) = verdict else { return Ok((backend, options)) };
    log::warn!("{fault}; the processor computes alone");
    options.backend.gpu = None;
    Ok((Backend::new(&options.backend)?, options))
}

/// Tells what of the model a GPU has taken.
fn tell_share(decoder: &Decoder, backend: &Backend) {
    let Some(gpu) = backend.gpu_info() else { return };
    let (share, n) = (decoder.weights().gpu_share, decoder.hparams().layers.len());
    let (name, size) = (&gpu.name, memory::bytes_text(share.size_bytes));
    match (share.n_layers, share.has_head) {
        (0, _) => log::warn!(
            "GPU {name} takes no layer: none fits the budget or has kernels there; the processor \
             computes alone"
        ),
        (taken, head) => log::info!(
            "GPU {name} has {taken} of {n} layers{}, {size}",
            if head { " and the output head" } else { "" }
        ),
    }
}

/// Tells the system how the files will be read.
fn advise(text: &Gguf) {
    if let Some(info) = text.tensor("per_layer_token_embd.weight") {
        text.mapping().advise_random(info.range());
    }
}

impl Encoders {
    fn read(file: Gguf, text: &HParams) -> Result<Self> {
        let hparams = EncoderHParams::read(&file, text.n_embd)?;
        Ok(Self { file, hparams, vision: OnceLock::new(), audio: OnceLock::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_fails_its_check_is_left_out() {
        let backend = BackendOptions { n_threads: 2, gpu: None };
        let options = EngineOptions { backend, ..EngineOptions::default() };
        let asked = || {
            let mut asked = options.clone();
            asked.backend.gpu = Some(String::new());
            (Backend::new(&options.backend).unwrap(), asked)
        };
        let (backend, kept) = asked();
        let (_, kept) = without_faulty_gpu(Ok(()), backend, kept).unwrap();
        assert_eq!(kept.backend.gpu.as_deref(), Some(""));
        let (backend, kept) = asked();
        let fault = Err(Error::device("wrong"));
        let (backend, kept) = without_faulty_gpu(fault, backend, kept).unwrap();
        assert_eq!((backend.n_threads(), kept.backend.gpu), (2, None));
    }
}
