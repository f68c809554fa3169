//! The first token behind a long system prompt: restored from a snapshot, or computed.
//!
//! In: files, options. Out: two rows, both from a closed file.
//! Invariant: the question behind the prompt is new to both; a restored timeline counts only if it
//! answers like the computed one.

use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use culet::Error;
use culet::Result;
use culet::TokenId;
use culet::engine::Engine;
use culet::session::Session;
use culet::session::SessionOptions;
use culet::text::Conversation;
use culet::text::Tokenizer;
use serde_json::json;

use crate::cli::bench::peer::Peer;
use crate::cli::bench::report::Case;
use crate::cli::bench::report::Row;
use crate::cli::bench::speed::Subject;
use crate::cli::bench::speed::Wanted;
use crate::cli::bench::speed::opening::N_CTX;
use crate::cli::bench::speed::sides::Agreement;

/// Least tokens of the system prompt.
const N_SYSTEM: usize = 1024;
/// Most samples: computing the prompt takes long.
const N_REPEAT_MAX: usize = 3;
const SENTENCE: &str = "Answer in short sentences, and say so if you do not know. ";
const QUESTION: &str = "What is the time?";

/// A file that goes when it is not needed any more.
struct Passing(PathBuf);

impl Passing {
    fn new(name: &str) -> Self {
        let name = format!("culet-bench-{}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // A file that was never made cannot be removed.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What a first token took, and the logits that it was chosen from.
type First = (f64, Vec<f32>);

/// Measures both ways, and the peer's.
pub(in crate::cli::bench) fn snapshot(subject: &Subject, wanted: &Wanted) -> Result<[Row; 2]> {
    let (kept, peers_kept) = (Passing::new("session"), Passing::new("state"));
    let prompt = Prompt::new(subject, &kept)?;
    let open_peer = |model| PeerPrompt::new(model, wanted.n_threads, &prompt, &peers_kept);
    let peer = subject.peer.as_deref().map(open_peer).transpose()?;
    let (mut ours, mut peers) = (Agreement::default(), Agreement::default());
    let mut times = [(); 4].map(|()| Vec::new());
    for _ in 0..wanted.n_repeat.min(N_REPEAT_MAX) {
        let (restored, computed) = (prompt.first(true)?, prompt.first(false)?);
        ours.see(&restored.1, &computed.1);
        times[0].push(restored.0);
        times[1].push(computed.0);
        let Some(peer) = &peer else { continue };
        let (restored, computed) = (peer.first(true)?, peer.first(false)?);
        peers.see(&restored.1, &computed.1);
        times[2].push(restored.0);
        times[3].push(computed.0);
    }
    peers.tell("a restored state");
    let n = prompt.n_system;
    if !ours.agrees() {
        return Err(Error::internal("a restored timeline answers otherwise than a computed one"));
    }
    Ok([
        peers.row(Case::SnapshotFirstTokenMs, n, None, &times[0], &times[2]),
        peers.row(Case::PromptFirstTokenMs, n, None, &times[1], &times[3]),
    ])
}

/// Our side.
struct Prompt<'a> {
    subject: &'a Subject,
    kept: &'a Passing,
    asked: Conversation,
    /// The system prompt's words as tokens.
    words: Vec<TokenId>,
    /// Tokens that the snapshot holds of what is asked.
    n_system: usize,
    /// Tokens of all that is asked.
    n_asked: usize,
}

impl<'a> Prompt<'a> {
    /// Computes the system prompt and keeps it in a file.
    fn new(subject: &'a Subject, kept: &'a Passing) -> Result<Self> {
        let engine = Engine::open(&subject.model, None, &subject.options)?;
        let n_system = N_SYSTEM.min(engine.decoder().hparams().n_ctx_train / 2);
        let (text, words) = system_text(engine.tokenizer(), n_system)?;
        let system = json!({ "role": "system", "content": text });
        let opening = Conversation::from_json(&json!({ "messages": [system] }))?;
        let asked = Conversation::from_json(&json!({ "messages": [
            system, { "role": "user", "content": QUESTION },
        ]}))?;
        let mut session = Session::new(&engine, &SessionOptions::greedy(N_CTX))?;
        session.prompt(&opening, &[])?;
        session.snapshot_to_file(&[], &[], &kept.0)?;
        let stats = session.prompt(&asked, &[])?;
        let (n_system, n_asked) = (stats.n_reused, stats.n_prompt);
        Ok(Self { subject, kept, asked, words, n_system, n_asked })
    }

    /// Opens the model and answers the question.
    fn first(&self, restores: bool) -> Result<First> {
        let start = Instant::now();
        let engine = Engine::open(&self.subject.model, None, &self.subject.options)?;
        let mut session = Session::new(&engine, &SessionOptions::greedy(N_CTX))?;
        if restores {
            session.restore_from_file(&self.kept.0, |_| Ok(()))?;
        }
        let stats = session.prompt(&self.asked, &[])?;
        let n_expected = if restores { self.n_system } else { 0 };
        if stats.n_reused != n_expected {
            let what = format!("{} tokens were there already", stats.n_reused);
            return Err(Error::internal(format!("{what}, expected {n_expected}")));
        }
        let prompt_ms = ms(start);
        let logits = session.logits().to_vec();
        let start = Instant::now();
        session.next(&mut |_| {})?;
        Ok((prompt_ms + ms(start), logits))
    }
}

/// Returns a text of at least `n` tokens, and as many of its tokens.
fn system_text(tokenizer: &Tokenizer, n: usize) -> Result<(String, Vec<TokenId>)> {
    let mut n_sentences = 1;
    loop {
        let text = SENTENCE.repeat(n_sentences);
        let mut words = tokenizer.encode(&text)?;
        if words.len() >= n {
            words.truncate(n);
            return Ok((text, words));
        }
        n_sentences += (n - words.len()).div_ceil(SENTENCE.len());
    }
}

/// The peer's side: as many of the same tokens.
struct PeerPrompt<'a> {
    model: &'a Path,
    n_threads: usize,
    kept: &'a Passing,
    system: Vec<TokenId>,
    question: Vec<TokenId>,
}

impl<'a> PeerPrompt<'a> {
    fn new(
        model: &'a Path,
        n_threads: usize,
        prompt: &Prompt<'_>,
        kept: &'a Passing,
    ) -> Result<Self> {
        let all = prompt.words.iter().copied().cycle();
        let system: Vec<TokenId> = all.clone().take(prompt.n_system).collect();
        let question = all.take(prompt.n_asked - prompt.n_system).collect();
        let peer = Peer::open(model)?;
        let mut timeline = peer.timeline(N_CTX, n_threads)?;
        timeline.append(&system)?;
        timeline.save(&kept.0, &system)?;
        Ok(Self { model, n_threads, kept, system, question })
    }

    fn first(&self, restores: bool) -> Result<First> {
        let start = Instant::now();
        let peer = Peer::open(self.model)?;
        let mut timeline = peer.timeline(N_CTX, self.n_threads)?;
        if restores {
            timeline.load(&self.kept.0, N_CTX)?;
        }
        let system = if restores { &[] } else { &self.system[..] };
        let logits = timeline.append(&[system, &self.question].concat())?;
        Ok((ms(start), logits.to_vec()))
    }
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
