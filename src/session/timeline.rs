//! One timeline: a conversation in the cache, and the answer that grows from it.
//!
//! In: conversations with their media, sound as it arrives. Out: answer events, token by token.
//! Invariant: `held` names what the cache holds, position by position, also after an error.

use std::sync::Arc;

use crate::decoder::Executor;
use crate::decoder::ExecutorOptions;
use crate::decoder::KvOptions;
use crate::encoder::SoftTokens;
use crate::engine::Engine;
use crate::error::Error;
use crate::error::Result;
use crate::frontend::patches::POOL_SIDE_PATCHES;
use crate::frontend::pixels::TOKEN_BUDGETS;
use crate::ggml::Cancel;
use crate::ggml::DType;
use crate::media::Frame;
use crate::media::Pcm;
use crate::sampler::Sampler;
use crate::sampler::SamplingOptions;
use crate::session::feed;
use crate::session::feed::Held;
use crate::session::feed::Rows;
use crate::session::feed::Step;
use crate::session::hearing::Heard;
use crate::session::hearing::Hearing;
use crate::session::live::Live;
use crate::session::media::Encoded;
use crate::session::media::Kept;
use crate::session::media::encode_picture;
use crate::session::media::key_of;
use crate::session::media::picture_key;
use crate::text::Conversation;
use crate::text::Event;
use crate::text::Marker;
use crate::text::MediaKind;
use crate::text::Parser;
use crate::text::Prompt;
use crate::text::Stop;
use crate::text::Tokenizer;
use crate::units::TokenId;

/// How a session is made.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Most positions; at most the model's own limit.
    pub n_ctx: usize,
    /// Most positions computed at once.
    pub n_batch: usize,
    /// Element type of the cache.
    pub kv: DType,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
}

impl SessionOptions {
    /// Returns options for at most `n_ctx` positions that always choose the likeliest token.
    pub fn greedy(n_ctx: usize) -> Self {
        Self { n_ctx, sampling: SamplingOptions::greedy(), ..Self::default() }
    }
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { n_ctx: 4096, n_batch: 512, kv: DType::F16, sampling: SamplingOptions::default() }
    }
}

/// What feeding a prompt took.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Positions of the prompt.
    pub n_prompt: usize,
    /// Positions that the cache already held.
    pub n_reused: usize,
}

/// The answer in progress.
pub(super) struct Answer {
    pub(super) opens_thought: bool,
    /// Chosen so far.
    pub(super) ids: Vec<TokenId>,
    /// Whether the last one is not in the cache yet.
    pub(super) is_pending: bool,
    parser: Parser,
}

impl Answer {
    /// Starts an answer behind a prompt that ended inside a thought, or not.
    pub(super) fn new(opens_thought: bool) -> Self {
        let parser = Parser::new(opens_thought);
        Self { opens_thought, ids: Vec::new(), is_pending: false, parser }
    }

    /// Adds the next token and calls `events` for what it completes; whether the answer goes on.
    pub(super) fn push(
        &mut self,
        tokenizer: &Tokenizer,
        id: TokenId,
        events: &mut dyn FnMut(Event<'_>),
    ) -> bool {
        self.ids.push(id);
        self.parser.push(tokenizer, id, events);
        !self.parser.has_ended()
    }
}

/// One timeline.
pub struct Session {
    pub(super) engine: Arc<Engine>,
    pub(super) kv: KvOptions,
    pub(super) executor: Executor,
    pub(super) held: Vec<Held>,
    pub(super) logits: Vec<f32>,
    pub(super) sampler: Sampler,
    pub(super) answer: Option<Answer>,
    pub(super) kept: Kept,
    pub(super) hearing: Option<Hearing>,
    pub(super) live: Option<Live>,
}

impl Session {
    /// Starts an empty timeline.
    ///
    /// # Errors
    /// `Input` if an option is out of range; `Memory` if it does not fit, naming what would.
    pub fn new(engine: &Arc<Engine>, options: &SessionOptions) -> Result<Self> {
        let h = engine.decoder().hparams();
        let kv = KvOptions {
            n_ctx: options.n_ctx.min(h.n_ctx_train),
            n_batch: options.n_batch,
            dtype: options.kv,
        };
        engine.check_memory(&kv, 0)?;
        let backend = engine.options().backend.clone();
        let executor = Executor::new(engine.decoder(), &ExecutorOptions { backend, kv })?;
        let mut session = Self {
            engine: Arc::clone(engine),
            kv,
            executor,
            held: Vec::new(),
            logits: Vec::new(),
            sampler: Sampler::new(options.sampling.clone())?,
            answer: None,
            kept: Kept::default(),
            hearing: None,
            live: None,
        };
        session.forbid_placeholders();
        Ok(session)
    }

    /// Media marks stand for soft tokens, which a model cannot write.
    fn forbid_placeholders(&mut self) {
        let tokenizer = self.engine.tokenizer();
        let marks = [
            Marker::Image,
            Marker::Audio,
            Marker::Video,
            Marker::ImageOpen,
            Marker::ImageClose,
            Marker::AudioOpen,
            Marker::AudioClose,
        ];
        let ids: Vec<_> = marks.iter().filter_map(|m| tokenizer.marker(*m).ok()).collect();
        self.sampler.forbid(ids);
    }

    /// Returns the engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Returns the flag that stops a computation from another thread.
    pub fn cancel(&self) -> &Cancel {
        self.executor.cancel()
    }

    /// Returns how many positions are in the cache.
    pub fn n_past(&self) -> usize {
        self.held.len()
    }

    /// Returns the most positions it can hold.
    pub fn n_ctx(&self) -> usize {
        self.executor.kv().n_ctx()
    }

    /// Returns the bytes that are held to compute with, beside weights and cache.
    pub fn compute_bytes(&self) -> usize {
        self.executor.compute_bytes()
    }

    /// Returns the logits behind the last position, if they were asked for.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Changes how tokens are chosen from here on.
    ///
    /// # Errors
    /// `Input` if an option is out of range.
    pub fn set_sampling(&mut self, options: SamplingOptions) -> Result<()> {
        self.sampler = Sampler::new(options)?;
        self.forbid_placeholders();
        Ok(())
    }

    /// Encodes a picture within a budget of soft tokens, unless it was encoded before.
    ///
    /// # Errors
    /// `Input` if there is no mmproj or the picture or budget cannot be used; `Memory` if encoding
    /// it does not fit the engine's limit.
    pub fn encode_picture(&mut self, frame: &Frame, budget: u32) -> Result<Arc<Encoded>> {
        if let Some(found) = self.kept.find(picture_key(frame, budget)) {
            return Ok(found);
        }
        self.check_picture(budget)?;
        let backend = self.executor.backend_mut();
        Ok(self.kept.keep(encode_picture(&self.engine, frame, budget, backend)?))
    }

    /// Checks what encoding a picture takes beside this session against the engine's limit.
    ///
    /// # Errors
    /// `Input` if there is no mmproj; `Memory` if it does not fit, naming what would.
    pub fn check_picture(&self, budget: u32) -> Result<()> {
        let n_patches =
            budget.min(TOKEN_BUDGETS[TOKEN_BUDGETS.len() - 1]) as usize * POOL_SIDE_PATCHES.pow(2);
        let beside_bytes = self.engine.vision()?.activation_bytes(n_patches);
        let check = self.engine.check_memory(&self.kv, beside_bytes);
        check.map_err(|e| e.at(format!("a picture of {budget} soft tokens")))
    }

    /// Takes what was encoded elsewhere, and keeps it for questions to come.
    pub fn keep(&mut self, encoded: Encoded) -> Arc<Encoded> {
        match self.kept.find(encoded.key) {
            Some(found) => found,
            None => self.kept.keep(encoded),
        }
    }

    /// Encodes frames of a video, each with the second at which it was taken; a frame that was
    /// encoded before is not encoded again. One frame is held at a time.
    ///
    /// # Errors
    /// As for [`encode_picture`](Self::encode_picture); `Input` if there is no frame; whatever a
    /// frame brings.
    pub fn encode_video(
        &mut self,
        frames: impl IntoIterator<Item = Result<(f64, Frame)>>,
        budget: u32,
    ) -> Result<Arc<Encoded>> {
        let (mut segments, mut times_s, mut key) = (Vec::new(), Vec::new(), u64::from(budget));
        for frame in frames {
            let (time_s, frame) = frame?;
            let picture = self.encode_picture(&frame, budget)?;
            key = key_of(MediaKind::Video, &[key, time_s.to_bits(), picture.key], []);
            segments.extend_from_slice(&picture.segments);
            times_s.push(time_s);
        }
        if segments.is_empty() {
            return Err(Error::input("the video has no frames"));
        }
        Ok(self.keep(Encoded { kind: MediaKind::Video, key, segments, times_s }))
    }

    /// Encodes a whole sound, block by block, in segments of at most 30 seconds.
    ///
    /// # Errors
    /// `Input` if there is no mmproj or the sound is empty; `Memory` if encoding it does not fit
    /// the engine's limit; whatever a block brings.
    pub fn encode_sound(
        &mut self,
        blocks: impl IntoIterator<Item = Result<Pcm>>,
    ) -> Result<Arc<Encoded>> {
        let mut hearing = self.take_hearing()?;
        let mut segments = vec![self.no_soft()];
        let mut key = 0;
        for pcm in blocks {
            let pcm = pcm?;
            let numbers = [key, u64::from(pcm.rate_hz)];
            key = key_of(MediaKind::Audio, &numbers, [&pcm.samples[..]]);
            collect(hearing.push(&pcm, self.executor.backend_mut())?, &mut segments);
        }
        let (heard, tail) = hearing.finish(self.executor.backend_mut())?;
        collect(heard, &mut segments);
        append(&mut segments, &tail);
        let n_samples = hearing.n_samples();
        hearing.reset();
        self.hearing = Some(hearing);
        drop_empty(&mut segments, n_samples)?;
        let kind = MediaKind::Audio;
        Ok(self.keep(Encoded { kind, key, segments, times_s: Vec::new() }))
    }

    pub(super) fn no_soft(&self) -> SoftTokens {
        SoftTokens { data: Vec::new(), n_embd: self.engine.decoder().hparams().n_embd }
    }

    pub(super) fn take_hearing(&mut self) -> Result<Hearing> {
        if let Some(mut hearing) = self.hearing.take() {
            hearing.reset();
            return Ok(hearing);
        }
        let engine = Arc::clone(&self.engine);
        let hearing = Hearing::new(engine.audio()?, self.executor.backend_mut())?;
        let check = engine.check_memory(&self.kv, hearing.activation_bytes());
        check.map_err(|e| e.at("a sound"))?;
        Ok(hearing)
    }

    /// Feeds a conversation; what the cache already holds of it is kept.
    ///
    /// `media` are the conversation's media in order. Afterwards [`next`](Self::next) answers.
    ///
    /// # Errors
    /// `Input` if media are missing or the context is too short; `Cancelled` if asked to stop.
    /// What was fed so far stays and is reused by the next call.
    pub fn prompt(&mut self, conversation: &Conversation, media: &[Arc<Encoded>]) -> Result<Stats> {
        let prompt = Prompt::render(conversation)?;
        let steps = self.steps(&prompt, media)?;
        (self.live, self.answer) = (None, None);
        let stats = self.keep_common(&steps)?;
        self.feed(None, &steps[stats.1..], true)?;
        self.begin_answer(prompt.opens_thought());
        Ok(stats.0)
    }

    pub(super) fn steps(&self, prompt: &Prompt, media: &[Arc<Encoded>]) -> Result<Vec<Step>> {
        let tokenizer = self.engine.tokenizer();
        let times = |index: usize| media.get(index).map_or(Vec::new(), |e| e.times_s.clone());
        feed::steps(&prompt.items(tokenizer, times)?, media, tokenizer)
    }

    /// Rewinds to the common beginning of the cache and `steps`, but before the last step.
    pub(super) fn keep_common(&mut self, steps: &[Step]) -> Result<(Stats, usize)> {
        let total: usize = steps.iter().map(Step::len).sum();
        if total > self.n_ctx() {
            return Err(Error::input(format!(
                "the prompt has {total} tokens, the context holds {}; shorten it or raise --ctx",
                self.n_ctx()
            )));
        }
        let last = steps.len().saturating_sub(1);
        let (mut n_held, mut n_steps) =
            feed::shared_start(&self.held, &steps[..last], self.engine.tokenizer());
        if !self.executor.kv().can_rewind(n_held) {
            (n_held, n_steps) = (0, 0);
        }
        self.rewind(n_held)?;
        Ok((Stats { n_prompt: total, n_reused: n_held }, n_steps))
    }

    pub(super) fn rewind(&mut self, n: usize) -> Result<()> {
        self.executor.kv_mut().rewind(n)?;
        self.held.truncate(n);
        self.logits.clear();
        Ok(())
    }

    /// Feeds the end of a sound and steps behind it; with `answer`, the last position gives logits.
    ///
    /// After an error `held` is what was computed.
    pub(super) fn feed(
        &mut self,
        tail: Option<Rows<'_>>,
        steps: &[Step],
        answer: bool,
    ) -> Result<()> {
        let batches = feed::batches(tail, steps);
        let last = batches.len().saturating_sub(1);
        for (i, batch) in batches.iter().enumerate() {
            self.held.extend_from_slice(&batch.held);
            let n_out = usize::from(answer && i == last);
            let result = self.executor.append_with_logits(&batch.entries, n_out).map(|_| ());
            self.held.truncate(self.executor.kv().n_past());
            result?;
            self.executor.swap_logits(&mut self.logits);
        }
        Ok(())
    }

    pub(super) fn begin_answer(&mut self, opens_thought: bool) {
        self.sampler.forget();
        self.answer = Some(Answer::new(opens_thought));
    }

    /// Chooses the next token and calls `events` for what it completes.
    ///
    /// Returns whether the answer goes on.
    ///
    /// # Errors
    /// `Input` if no prompt was fed; `Cancelled` if asked to stop (the answer can go on).
    pub fn next(&mut self, events: &mut dyn FnMut(Event<'_>)) -> Result<bool> {
        let mut answer =
            self.answer.take().ok_or_else(|| Error::input("there is no prompt to answer"))?;
        let result = self.step(&mut answer, events);
        let goes_on = !answer.parser.has_ended();
        if goes_on {
            self.answer = Some(answer);
        }
        result.map(|()| goes_on)
    }

    fn step(&mut self, answer: &mut Answer, events: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        if let Some(id) = answer.ids.last().copied().filter(|_| answer.is_pending) {
            if self.held.len() == self.n_ctx() {
                log::warn!("the context of {} tokens is full; the answer is cut", self.n_ctx());
                answer.parser.finish(events);
                return Ok(());
            }
            self.feed(None, &[Step::Token(id)], true)?;
            answer.is_pending = false;
        }
        if self.logits.is_empty() {
            return Err(Error::input("there is no prompt to answer"));
        }
        let id = self.sampler.sample(&mut self.logits)?;
        answer.is_pending = answer.push(self.engine.tokenizer(), id, events);
        Ok(())
    }

    /// Ends the answer before the model does, for example because it is long enough.
    pub fn cut(&mut self, events: &mut dyn FnMut(Event<'_>)) {
        if let Some(mut answer) = self.answer.take() {
            answer.parser.finish(events);
        } else {
            events(Event::End(Stop::Cut));
        }
    }

    /// Forgets the conversation; encoded media are kept.
    ///
    /// # Errors
    /// `Internal` if the cache cannot be emptied.
    pub fn clear(&mut self) -> Result<()> {
        (self.live, self.answer) = (None, None);
        self.rewind(0)
    }
}

fn collect(heard: Vec<Heard>, segments: &mut Vec<SoftTokens>) {
    for h in heard {
        match h {
            Heard::Soft(soft) => {
                append(segments, &soft);
            }
            Heard::NextSegment(rest) => {
                append(segments, &rest);
                segments.push(SoftTokens::default());
            }
        }
    }
}

/// Appends to the last segment; returns which that is, and how many soft tokens it had.
pub(super) fn append(segments: &mut [SoftTokens], soft: &SoftTokens) -> (usize, usize) {
    let index = segments.len().saturating_sub(1);
    let Some(last) = segments.last_mut() else { return (0, 0) };
    let first = last.n();
    last.append(soft);
    (index, first)
}

/// Leaves out a last segment that was too short for a token.
pub(super) fn drop_empty(segments: &mut Vec<SoftTokens>, n_samples: u64) -> Result<()> {
    segments.retain(|s| s.n() > 0);
    if segments.is_empty() {
        return Err(Error::input(format!(
            "the sound has {n_samples} samples at 16 kHz, too few to hear; 161 make one token"
        )));
    }
    Ok(())
}
