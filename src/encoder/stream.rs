//! One sound on its way through the audio encoder.
//!
//! In: `MelFrames` in any packets. Out: [`SoftTokens`] as soon as their block is complete.
//! Source: Gemma 4 specification of the streaming state; see `ARCHITECTURE.md`.
//! Invariant: blocks begin at fixed token numbers, never where a packet does, so any packets give
//! the same bits.

use std::fmt;
use std::sync::Arc;

use super::audio::AudioEncoder;
use super::audio::BlockPlan;
use super::audio::PAST;
use super::embedder::SoftTokens;
use super::on_gpu;
use super::sub_sample::FRAMES_PER_TOKEN;
use crate::error::Error;
use crate::error::Result;
use crate::frontend::MelFrames;
use crate::ggml::Backend;

/// Tokens that are computed together: the weights are read once for all of them.
pub const BLOCK_TOKENS: usize = 12;

const BLOCK_FRAMES: usize = BLOCK_TOKENS * FRAMES_PER_TOKEN;

/// What the encoder carries from block to block; 1.3 MB for E2B and E4B.
#[derive(Clone)]
pub struct AudioState {
    /// Mel frames that wait for their block to be complete.
    pending: Vec<f32>,
    /// The last frame of the block before.
    mel_before: Vec<f32>,
    /// The last row of the first convolution before the block.
    row_before: Vec<f32>,
    /// For each layer: keys, values, convolution inputs; the newest row is the last.
    history: Vec<f32>,
    /// Rows of keys and values that exist.
    n_past: usize,
    /// Tokens that were made.
    n_tokens: usize,
    /// The end was reached.
    is_finished: bool,
}

impl AudioState {
    /// Returns its size in bytes.
    pub fn size_bytes(&self) -> usize {
        let n = self.pending.capacity()
            + self.mel_before.len()
            + self.row_before.len()
            + self.history.len();
        n * size_of::<f32>()
    }

    /// Returns the number of tokens made so far.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }
}

impl fmt::Debug for AudioState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AudioState {{ {} tokens, {} bytes }}", self.n_tokens, self.size_bytes())
    }
}

/// Encodes one sound while it is heard.
pub struct AudioStream {
    encoder: Arc<AudioEncoder>,
    state: AudioState,
    /// The graph of a whole block.
    whole: BlockPlan,
    /// The graph of the last shorter block, with its number of tokens.
    rest: Option<(usize, BlockPlan)>,
}

impl fmt::Debug for AudioStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AudioStream {{ {:?} }}", self.state)
    }
}

impl AudioStream {
    /// Creates a stream that stands before its first frame.
    ///
    /// # Errors
    /// `Memory` if the graph of a block does not fit.
    pub fn new(encoder: &Arc<AudioEncoder>, backend: &Backend) -> Result<Self> {
        let whole = encoder.plan(BLOCK_TOKENS, backend)?;
        Ok(Self { encoder: Arc::clone(encoder), state: start(encoder), whole, rest: None })
    }

    /// Appends frames and returns the tokens whose blocks they complete.
    ///
    /// # Errors
    /// `Input` if the frames are not whole, not finite, or the stream was finished; `Cancelled`
    /// if the backend was told to stop. The stream is then as it was.
    pub fn push(&mut self, mel: &MelFrames, backend: &mut Backend) -> Result<SoftTokens> {
        self.check(mel)?;
        let mut tokens = self.none();
        if self.state.pending.len() + mel.data.len() < self.block_len() {
            self.state.pending.extend_from_slice(&mel.data);
            return Ok(tokens);
        }
        let kept = self.state.clone();
        self.state.pending.extend_from_slice(&mel.data);
        let result = self.drain(backend, &mut tokens);
        self.keep_or_restore(result, kept)?;
        Ok(tokens)
    }

    /// Ends the sound and returns its last tokens.
    ///
    /// # Errors
    /// As for [`AudioStream::push`].
    pub fn finish(&mut self, backend: &mut Backend) -> Result<SoftTokens> {
        if self.state.is_finished {
            return Err(finished());
        }
        let mut tokens = self.none();
        let n_frames = self.state.pending.len() / self.encoder.n_mel();
        if n_frames > 0 {
            let kept = self.state.clone();
            let frames = std::mem::take(&mut self.state.pending);
            let result = self.block(&frames, backend, &mut tokens);
            self.keep_or_restore(result, kept)?;
        }
        self.state.is_finished = true;
        Ok(tokens)
    }

    /// Returns a copy of the state, for an end that is only guessed.
    pub fn snapshot(&self) -> AudioState {
        self.state.clone()
    }

    /// Goes back to a state of a stream of the same encoder.
    ///
    /// # Errors
    /// `Input` if the state is another encoder's.
    pub fn restore(&mut self, state: &AudioState) -> Result<()> {
        if state.history.len() != self.state.history.len()
            || state.row_before.len() != self.state.row_before.len()
        {
            return Err(Error::input("the state of another audio encoder cannot be restored"));
        }
        self.state.clone_from(state);
        Ok(())
    }

    /// Goes back to before the first frame.
    pub fn reset(&mut self) {
        self.state = start(&self.encoder);
    }

    /// Returns the number of tokens made so far.
    pub fn n_tokens(&self) -> usize {
        self.state.n_tokens
    }

    /// Returns the tokens that the sound would have if it ended now.
    pub fn n_tokens_at_end(&self) -> usize {
        let n_frames = self.state.pending.len() / self.encoder.n_mel();
        self.state.n_tokens + n_frames.div_ceil(FRAMES_PER_TOKEN)
    }

    /// Returns the most bytes that encoding takes beside the weights: the graphs of a whole block
    /// and of a shorter one, and what is carried, twice while a block is computed.
    pub fn activation_bytes(&self) -> usize {
        let pending = self.block_len() * size_of::<f32>();
        2 * (self.whole.plan.size_bytes() + self.state.size_bytes() + pending)
    }

    fn none(&self) -> SoftTokens {
        SoftTokens { data: Vec::new(), n_embd: self.encoder.n_embd() }
    }

    fn block_len(&self) -> usize {
        BLOCK_FRAMES * self.encoder.n_mel()
    }

    fn check(&self, mel: &MelFrames) -> Result<()> {
        if self.state.is_finished {
            return Err(finished());
        }
        if Some(mel.data.len()) != mel.n.checked_mul(self.encoder.n_mel()) {
            return Err(Error::input(format!(
                "{} mel frames hold {} values, expected {} each",
                mel.n,
                mel.data.len(),
                self.encoder.n_mel()
            )));
        }
        if mel.data.iter().any(|v| !v.is_finite()) {
            return Err(Error::input("a mel frame holds a value that is not a finite number"));
        }
        Ok(())
    }

    fn keep_or_restore(&mut self, result: Result<()>, kept: AudioState) -> Result<()> {
        if result.is_err() {
            self.state = kept;
        }
        result
    }

    /// Computes every block that is complete.
    fn drain(&mut self, backend: &mut Backend, tokens: &mut SoftTokens) -> Result<()> {
        let frames = std::mem::take(&mut self.state.pending);
        let mut blocks = frames.chunks_exact(self.block_len());
        for block in &mut blocks {
            self.block(block, backend, tokens)?;
        }
        self.state.pending.extend_from_slice(blocks.remainder());
        Ok(())
    }

    /// Computes one block; the last of a sound may be shorter.
    fn block(
        &mut self,
        frames: &[f32],
        backend: &mut Backend,
        tokens: &mut SoftTokens,
    ) -> Result<()> {
        let n_mel = self.encoder.n_mel();
        let n_frames = frames.len() / n_mel;
        let n = n_frames.div_ceil(FRAMES_PER_TOKEN);
        let graph = if n == BLOCK_TOKENS {
            &mut self.whole
        } else {
            let rest = match self.rest.take().filter(|rest| rest.0 == n) {
                Some(rest) => rest,
                None => (n, self.encoder.plan(n, backend)?),
            };
            &mut self.rest.insert(rest).1
        };
        let state = &mut self.state;
        let mut mel = frames.to_vec();
        mel.resize(n * FRAMES_PER_TOKEN * n_mel, 0.0);
        graph.plan.write_f32(graph.mel, &mel)?;
        graph.plan.write_f32(graph.mel_before, &state.mel_before)?;
        graph.plan.write_f32(graph.row_before, &state.row_before)?;
        graph.plan.write_f32(graph.history, &state.history)?;
        if let Some(mask) = graph.mask {
            graph.plan.write_f32(mask, &on_gpu::sights(n, state.n_past))?;
        }
        graph.plan.write_i32(graph.counts, &[state.n_past as i32, n_frames as i32])?;
        graph.plan.compute(backend)?;
        let first = tokens.data.len();
        tokens.data.resize(first + n * tokens.n_embd, 0.0);
        graph.plan.read_f32(graph.out, 0, &mut tokens.data[first..])?;
        let row_len = state.row_before.len();
        graph.plan.read_f32(graph.rows, (2 * n - 1) * row_len, &mut state.row_before)?;
        state.mel_before.copy_from_slice(&frames[frames.len() - n_mel..]);
        advance(state, graph, &self.encoder, n)?;
        state.n_past = (state.n_past + n).min(PAST);
        state.n_tokens += n;
        Ok(())
    }
}

fn finished() -> Error {
    Error::input("the sound has ended; reset the stream before the next one")
}

fn start(encoder: &AudioEncoder) -> AudioState {
    AudioState {
        pending: Vec::new(),
        mel_before: vec![0.0; encoder.n_mel()],
        row_before: vec![0.0; encoder.row_len()],
        history: vec![0.0; encoder.n_layer() * encoder.history_rows() * encoder.width()],
        n_past: 0,
        n_tokens: 0,
        is_finished: false,
    }
}

/// Moves every layer's history on by the `n` rows that the graph has computed.
fn advance(
    state: &mut AudioState,
    graph: &mut BlockPlan,
    encoder: &AudioEncoder,
    n: usize,
) -> Result<()> {
    let (width, taps) = (encoder.width(), encoder.taps_before());
    let layers = state.history.chunks_exact_mut(encoder.history_rows() * width);
    for (history, ports) in layers.zip(&graph.layers) {
        let (keys, rest) = history.split_at_mut(PAST * width);
        let (values, gated) = rest.split_at_mut(PAST * width);
        let parts =
            [(keys, ports.keys, PAST), (values, ports.values, PAST), (gated, ports.gated, taps)];
        for (rows, port, n_kept) in parts {
            let n_new = n.min(n_kept);
            rows.copy_within(n_new * width.., 0);
            let new = &mut rows[(n_kept - n_new) * width..];
            graph.plan.read_f32(port, (n - n_new) * width, new)?;
        }
    }
    Ok(())
}
