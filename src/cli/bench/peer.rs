//! llama.cpp as the peer: the same file, the same threads, in the same run.
//!
//! In: the files and inputs that Culet gets. Out: logits and numbers of soft tokens.
//! Source: crate llama-cpp-2, at the revision of our kernels.
//! Invariant: its own defaults for speed (re-packing, flash attention, batches of 512), and the
//! small cache for sliding layers, as its programs use it.

use std::ffi::CString;
use std::num::NonZeroU32;
use std::path::Path;

use culet::Error;
use culet::Frame;
use culet::Result;
use culet::TokenId;
use llama_cpp_2::LogOptions;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::mtmd::MtmdBitmap;
use llama_cpp_2::mtmd::MtmdContext;
use llama_cpp_2::mtmd::MtmdContextParams;
use llama_cpp_2::mtmd::MtmdInputChunk;
use llama_cpp_2::mtmd::MtmdInputChunkType;
use llama_cpp_2::mtmd::MtmdInputChunks;
use llama_cpp_2::mtmd::MtmdInputText;
use llama_cpp_2::mtmd::mtmd_default_marker;
use llama_cpp_2::send_logs_to_tracing;
use llama_cpp_2::token::LlamaToken;

/// Tokens that are given at once, as its own benchmark does.
const N_BATCH: usize = 2048;

/// What follows the user's words.
const ANSWER_HEAD: &str = "<turn|>\n<|turn>model\n";

fn failed(what: &str, e: impl std::fmt::Display) -> Error {
    Error::internal(format!("llama.cpp: {what}: {e}"))
}

/// A model of the peer.
pub(super) struct Peer {
    model: LlamaModel,
    backend: LlamaBackend,
}

impl Peer {
    /// Opens a file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        send_logs_to_tracing(LogOptions::default().with_logs_enabled(false));
        let backend = LlamaBackend::init().map_err(|e| failed("start", e))?;
        let options = LlamaModelParams::default().with_n_gpu_layers(0).with_use_mmap(true);
        let model = LlamaModel::load_from_file(&backend, path, &options);
        let model = model.map_err(|e| failed("model", e))?;
        Ok(Self { model, backend })
    }

    /// Starts a timeline.
    pub(super) fn timeline(&self, n_ctx: usize, n_threads: usize) -> Result<Timeline<'_>> {
        let options = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(n_ctx as u32))
            .with_n_batch(N_BATCH as u32)
            .with_n_threads(n_threads as i32)
            .with_n_threads_batch(n_threads as i32)
            .with_swa_full(false);
        let timeline = self.model.new_context(&self.backend, options);
        let timeline = timeline.map_err(|e| failed("timeline", e))?;
        Ok(Timeline { timeline, batch: LlamaBatch::new(N_BATCH, 1), n_past: 0 })
    }

    /// Opens the encoders, for pictures of `n_soft` soft tokens.
    pub(super) fn media(&self, mmproj: &Path, n_threads: usize, n_soft: u32) -> Result<Media> {
        let marker = CString::new(mtmd_default_marker()).map_err(|e| failed("marker", e))?;
        let options = MtmdContextParams {
            use_gpu: false,
            print_timings: false,
            n_threads: n_threads as i32,
            media_marker: marker,
            image_min_tokens: n_soft as i32,
            image_max_tokens: n_soft as i32,
        };
        let path = mmproj.to_str().ok_or_else(|| failed("mmproj", "its path is not UTF-8"))?;
        let encoders = MtmdContext::init_from_file(path, &self.model, &options);
        Ok(Media(encoders.map_err(|e| failed("mmproj", e))?))
    }
}

/// A timeline of the peer.
pub(super) struct Timeline<'a> {
    timeline: LlamaContext<'a>,
    batch: LlamaBatch<'static>,
    n_past: usize,
}

impl Timeline<'_> {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.timeline.clear_kv_cache();
        self.n_past = 0;
    }

    /// Encodes a sound, puts it and the head of an answer at the start, and returns the sound's
    /// soft tokens when the first token is known.
    pub(super) fn hear(&mut self, media: &mut Media, samples: &[f32]) -> Result<usize> {
        let bitmap = MtmdBitmap::from_audio_data(samples).map_err(|e| failed("sound", e))?;
        self.take(media, &bitmap, MtmdInputChunkType::Audio)
    }

    /// Does the same with a picture.
    pub(super) fn see(&mut self, media: &mut Media, frame: &Frame) -> Result<usize> {
        self.take(media, &picture(frame)?, MtmdInputChunkType::Image)
    }

    fn take(
        &mut self,
        media: &mut Media,
        bitmap: &MtmdBitmap,
        kind: MtmdInputChunkType,
    ) -> Result<usize> {
        let chunks = media.chunks(bitmap, ANSWER_HEAD)?;
        let (n_batch, timeline) = (N_BATCH as i32, &mut self.timeline);
        let n_past = chunks.eval_chunks(&mut media.0, timeline, 0, 0, n_batch, true);
        self.n_past = n_past.map_err(|e| failed("media", e))? as usize;
        let logits = self.timeline.get_logits_ith(-1);
        std::hint::black_box(logits.iter().copied().fold(f32::MIN, f32::max));
        let chunks = (0..chunks.len()).filter_map(|i| chunks.get(i));
        let is_wanted = |c: &MtmdInputChunk| c.chunk_type() == kind;
        Ok(chunks.filter(is_wanted).map(|c| c.n_tokens()).sum())
    }

    /// Writes the timeline, which holds `tokens`, to a file.
    pub(super) fn save(&self, path: &Path, tokens: &[TokenId]) -> Result<()> {
        let tokens: Vec<LlamaToken> = tokens.iter().map(|id| LlamaToken(id.0 as i32)).collect();
        self.timeline.state_save_file(path, &tokens).map_err(|e| failed("state", e))
    }

    /// Takes a timeline over from a file.
    pub(super) fn load(&mut self, path: &Path, n_ctx: usize) -> Result<()> {
        let tokens = self.timeline.state_load_file(path, n_ctx);
        self.n_past = tokens.map_err(|e| failed("state", e))?.len();
        Ok(())
    }

    /// Appends tokens and returns the logits of the last.
    pub(super) fn append(&mut self, tokens: &[TokenId]) -> Result<&[f32]> {
        let mut last = 0;
        for (i, part) in tokens.chunks(N_BATCH).enumerate() {
            self.batch.clear();
            for (j, id) in part.iter().enumerate() {
                let is_last = i * N_BATCH + j + 1 == tokens.len();
                let at = (self.n_past + j) as i32;
                let added = self.batch.add(LlamaToken(id.0 as i32), at, &[0], is_last);
                added.map_err(|e| failed("batch", e))?;
            }
            self.timeline.decode(&mut self.batch).map_err(|e| failed("decode", e))?;
            self.n_past += part.len();
            last = part.len() as i32 - 1;
        }
        Ok(self.timeline.get_logits_ith(last))
    }
}

/// Encoders of the peer.
pub(super) struct Media(MtmdContext);

fn picture(frame: &Frame) -> Result<MtmdBitmap> {
    let bitmap = MtmdBitmap::from_image_data(frame.width(), frame.height(), frame.rgb());
    bitmap.map_err(|e| failed("picture", e))
}

impl Media {
    /// Whether pictures can be read.
    pub(super) fn sees(&self) -> bool {
        self.0.support_vision()
    }

    /// Whether sounds can be heard.
    pub(super) fn hears(&self) -> bool {
        self.0.support_audio()
    }

    /// Encodes a picture and returns its number of soft tokens.
    pub(super) fn picture(&mut self, frame: &Frame) -> Result<usize> {
        self.encode(&picture(frame)?, MtmdInputChunkType::Image)
    }

    /// Encodes a sound at 16 kHz and returns its number of soft tokens.
    pub(super) fn sound(&mut self, samples: &[f32]) -> Result<usize> {
        let bitmap = MtmdBitmap::from_audio_data(samples);
        self.encode(&bitmap.map_err(|e| failed("sound", e))?, MtmdInputChunkType::Audio)
    }

    fn chunks(&self, bitmap: &MtmdBitmap, after: &str) -> Result<MtmdInputChunks> {
        let text = format!("{}{after}", mtmd_default_marker());
        let text = MtmdInputText { text, add_special: false, parse_special: true };
        self.0.tokenize(text, &[bitmap]).map_err(|e| failed("media", e))
    }

    fn encode(&mut self, bitmap: &MtmdBitmap, kind: MtmdInputChunkType) -> Result<usize> {
        let chunks = self.chunks(bitmap, "")?;
        let mut n_tokens = 0;
        for chunk in (0..chunks.len()).filter_map(|i| chunks.get(i)) {
            if chunk.chunk_type() == kind {
                self.0.encode_chunk(&chunk).map_err(|e| failed("encoder", e))?;
                n_tokens += chunk.n_tokens();
            }
        }
        Ok(n_tokens)
    }
}
