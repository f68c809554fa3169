//! Speed of the decoder: prompts, answers, opening, memory.
//!
//! In: a model file, what to measure. Out: rows.
//! Invariant: both sides take the same tokens in turns; a peer's time counts only if its logits
//! agree. Building graphs and reading pages for the first time is not timed.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use culet::Error;
use culet::Result;
use culet::TokenId;
use culet::decoder::Decoder;
use culet::decoder::Entry;
use culet::decoder::Executor;
use culet::decoder::ExecutorOptions;
use culet::decoder::KvOptions;
use culet::decoder::Operations;
use culet::engine::Engine;
use culet::engine::EngineOptions;
use culet::ggml::DType;
use culet::gguf::Mapping;

use crate::cli::bench::machine;
use crate::cli::bench::machine::Memory;
use crate::cli::bench::peer::Peer;
use crate::cli::bench::peer::Timeline;
use crate::cli::bench::random::Random;
use crate::cli::bench::report::Case;
use crate::cli::bench::report::Row;
use crate::cli::bench::report::median;
use crate::cli::print;

/// Tokens of an answer in one sample.
const N_DECODE: usize = 16;
/// Most tokens of a prompt that is only for warming up.
const N_WARM: usize = 128;
/// Tokens of an answer after which memory is looked at.
const N_ANSWER: usize = 64;
/// Tokens before the first token of an answer, when opening is measured.
const N_SHORT: usize = 16;
const N_BATCH: usize = 512;
const N_CTX_MEMORY: usize = 4096;
/// A file is cold if at most this part of it is in memory.
const COLD: usize = 50;
/// Largest difference of logits, relative to their size, if the best token differs.
const APART_MAX: f64 = 0.1;

/// What to measure.
pub(super) struct Wanted {
    pub(super) n_threads: usize,
    pub(super) prefill: Vec<usize>,
    pub(super) depths: Vec<usize>,
    /// Soft tokens of pictures.
    pub(super) pictures: Vec<u32>,
    pub(super) n_repeat: usize,
}

/// Our side.
struct Ours {
    run: Executor,
    random: Random,
}

impl Ours {
    fn new(decoder: &Arc<Decoder>, options: &EngineOptions, n_ctx: usize) -> Result<Self> {
        let n_ctx = n_ctx.min(decoder.hparams().n_ctx_train);
        let kv = KvOptions { n_ctx, n_batch: N_BATCH.min(n_ctx), dtype: DType::F16 };
        let options = ExecutorOptions { backend: options.backend.clone(), kv };
        let run = Executor::new(decoder, &options)?;
        Ok(Self { run, random: Random(1) })
    }

    /// Returns random tokens that are ordinary text in every vocabulary.
    fn tokens(&mut self, n: usize) -> Vec<TokenId> {
        let n_vocab = self.run.decoder().hparams().n_vocab as u64;
        let (first, end) = (n_vocab / 8, n_vocab * 3 / 4);
        (0..n).map(|_| TokenId((first + self.random.next() % (end - first)) as u32)).collect()
    }

    fn append(&mut self, tokens: &[TokenId]) -> Result<&[f32]> {
        let entries: Vec<Entry<'_>> = tokens.iter().map(|id| Entry::Token(*id)).collect();
        self.run.append_with_logits(&entries, 1)
    }

    fn clear(&mut self) -> Result<()> {
        self.run.kv_mut().rewind(0)
    }

    /// Counts what a prompt of `n` tokens and the token after it need.
    fn operations(&mut self, n: usize) -> Result<[Row; 3]> {
        self.clear()?;
        let (prompt, token) = (self.tokens(n), self.tokens(1));
        let start = self.run.operations();
        self.append(&prompt)?;
        let middle = self.run.operations();
        self.append(&token)?;
        let end = self.run.operations();
        let mega = |from: Operations, to: Operations| {
            (to.n_multiply_adds - from.n_multiply_adds) as f64 / 1e6
        };
        let n_nodes = (end.n_nodes - middle.n_nodes) as f64;
        Ok([
            Row::new(Case::PromptMegaOps, Some(n), Some(0), &[mega(start, middle)], &[]),
            Row::new(Case::TokenMegaOps, Some(1), Some(n), &[mega(middle, end)], &[]),
            Row::new(Case::TokenNodes, Some(1), Some(n), &[n_nodes], &[]),
        ])
    }
}

fn best(logits: &[f32]) -> TokenId {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    TokenId(best.map_or(0, |(i, _)| i as u32))
}

/// Tells whether two rows of logits have the same best token, or are close.
fn agree(ours: &[f32], peers: &[f32]) -> bool {
    let square = |v: f64| v * v;
    let apart: f64 = ours.iter().zip(peers).map(|(a, b)| square(f64::from(a - b))).sum();
    let size: f64 = peers.iter().map(|b| square(f64::from(*b))).sum();
    let is_close = apart.sqrt() <= APART_MAX * size.sqrt();
    ours.len() == peers.len() && (is_close || best(ours) == best(peers))
}

/// Calls `f` and returns the seconds it took with what it returned.
fn timed<T>(f: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let start = Instant::now();
    let value = f()?;
    Ok((start.elapsed().as_secs_f64(), value))
}

/// Measures prompts and answers.
pub(super) fn tokens(
    engine: &Arc<Engine>,
    peer: Option<&Peer>,
    wanted: &Wanted,
    bandwidth: f64,
) -> Result<Vec<Row>> {
    let deepest = wanted.depths.iter().copied().max().unwrap_or(0);
    let longest = wanted.prefill.iter().copied().max().unwrap_or(0);
    let n_answer = (wanted.n_repeat + 1) * N_DECODE * wanted.depths.len().max(1);
    let n_ctx = longest.max(deepest + n_answer) + N_SHORT;
    let n_ctx = n_ctx.next_multiple_of(256);
    let mut ours = Ours::new(engine.decoder(), engine.options(), n_ctx)?;
    let n_ctx = ours.run.kv().n_ctx();
    if longest.max(deepest + n_answer) > n_ctx {
        return Err(Error::input(format!(
            "{} tokens wanted, the model's limit is {n_ctx}; give smaller --prefill and --depths",
            longest.max(deepest + n_answer)
        )));
    }
    let mut peer = peer.map(|p| p.timeline(n_ctx, wanted.n_threads)).transpose()?;
    let mut rows = Vec::new();
    for &n in &wanted.prefill {
        rows.push(prefill(&mut ours, peer.as_mut(), n, wanted.n_repeat)?);
    }
    ours.clear()?;
    if let Some(peer) = &mut peer {
        peer.clear();
    }
    let mut depths = wanted.depths.clone();
    depths.sort_unstable();
    let mut shares = Vec::new();
    for depth in depths {
        let row = decode(&mut ours, peer.as_mut(), depth, wanted.n_repeat)?;
        let h = engine.decoder().hparams();
        let bytes =
            machine::token_bytes(engine.file(), h) + machine::kv_bytes(h, ours.run.kv(), depth);
        let share = |speed: Option<f64>| speed.map(|v| v * bytes as f64 / bandwidth);
        let (culet, theirs) = (share(row.culet), share(row.peer));
        let all = |v: Option<f64>| v.into_iter().collect::<Vec<f64>>();
        let share = Row::new(Case::BandwidthShare, None, Some(depth), &all(culet), &all(theirs));
        rows.push(row);
        shares.push(share);
    }
    rows.extend(shares);
    let shortest = wanted.prefill.iter().copied().min().unwrap_or(N_SHORT);
    rows.extend(ours.operations(shortest)?);
    Ok(rows)
}

fn prefill(
    ours: &mut Ours,
    mut peer: Option<&mut Timeline<'_>>,
    n: usize,
    n_repeat: usize,
) -> Result<Row> {
    if n == 0 {
        return Err(Error::input("a prompt of no tokens cannot be measured; give --prefill 128"));
    }
    let (mut a, mut b, mut differs) = (Vec::new(), Vec::new(), false);
    // The first is for warming up.
    for i in 0..=n_repeat {
        let tokens = ours.tokens(if i == 0 { n.min(N_WARM) } else { n });
        ours.clear()?;
        let (seconds, same) = timed(|| ours.append(&tokens).map(<[f32]>::to_vec))?;
        if i > 0 {
            a.push(n as f64 / seconds);
        }
        let Some(peer) = peer.as_deref_mut() else { continue };
        peer.clear();
        let start = Instant::now();
        let logits = peer.append(&tokens)?;
        if i > 0 {
            b.push(n as f64 / start.elapsed().as_secs_f64());
        }
        differs |= !agree(&same, logits);
    }
    Ok(row(Case::Prefill, n, 0, &a, &b, differs))
}

fn row(case: Case, n: usize, depth: usize, a: &[f64], b: &[f64], differs: bool) -> Row {
    if differs {
        print::say(&format!(
            "warning: {n} tokens after {depth}: llama.cpp answers differently, its time is left out"
        ));
    }
    let peers = if differs { &[] } else { b };
    Row::new(case, Some(n), Some(depth), a, peers)
}

fn decode(
    ours: &mut Ours,
    mut peer: Option<&mut Timeline<'_>>,
    depth: usize,
    n_repeat: usize,
) -> Result<Row> {
    let missing = depth.max(1).saturating_sub(ours.run.kv().n_past()).max(1);
    let prompt = ours.tokens(missing);
    let logits = ours.append(&prompt)?;
    let mut next = best(logits);
    let mut differs = false;
    if let Some(peer) = peer.as_deref_mut() {
        let same = logits.to_vec();
        differs |= !agree(&same, peer.append(&prompt)?);
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for i in 0..=n_repeat {
        let mut taken = Vec::with_capacity(N_DECODE);
        let start = Instant::now();
        for _ in 0..N_DECODE {
            taken.push(next);
            next = best(ours.append(&[next])?);
        }
        let seconds = start.elapsed().as_secs_f64();
        if i > 0 {
            a.push(N_DECODE as f64 / seconds);
        }
        let Some(peer) = peer.as_deref_mut() else { continue };
        let start = Instant::now();
        for id in &taken {
            // Choosing takes part of both sides' time; ours chose what comes next.
            std::hint::black_box(best(peer.append(&[*id])?));
        }
        if i > 0 {
            b.push(N_DECODE as f64 / start.elapsed().as_secs_f64());
        }
    }
    Ok(row(Case::Decode, N_DECODE, depth, &a, &b, differs))
}

/// What opening took.
struct Opened {
    open_ms: f64,
    first_ms: f64,
    /// What memory grew by.
    anon_mib: Option<f64>,
    /// What was read from disk until the first token.
    read_mib: Option<f64>,
}

/// What is looked at while a model is opened.
struct Watch {
    start: Instant,
    memory: Option<Memory>,
    read_mib: Option<f64>,
}

impl Watch {
    fn start() -> Self {
        Self { memory: Memory::now(), read_mib: machine::read_mib(), start: Instant::now() }
    }

    /// Goes on from an open model: `append` gives the token after some.
    fn answer(
        self,
        tokens: &[TokenId],
        n_answer: usize,
        mut append: impl FnMut(&[TokenId]) -> Result<TokenId>,
    ) -> Result<Opened> {
        let ms = || self.start.elapsed().as_secs_f64() * 1e3;
        let open_ms = ms();
        let mut next = append(tokens)?;
        let first_ms = ms();
        let read_mib = machine::read_mib().zip(self.read_mib).map(|(now, before)| now - before);
        for _ in 0..n_answer {
            next = append(&[next])?;
        }
        Ok(Opened { open_ms, first_ms, anon_mib: grown(self.memory), read_mib })
    }
}

/// Measures opening, the first token and memory; nothing else may be open meanwhile.
pub(super) fn opening(
    model: &Path,
    options: &EngineOptions,
    with_peer: bool,
    wanted: &Wanted,
) -> Result<Vec<Row>> {
    // The first is for warming up, and the only one that answers at length.
    let (answered, tokens) = open_ours(model, options, N_ANSWER)?;
    let open_peer = |n_answer| open_peer(model, wanted.n_threads, &tokens, n_answer);
    let peer_answered = with_peer.then(|| open_peer(N_ANSWER)).transpose()?;
    let mut samples = [Vec::new(), Vec::new()];
    let mut peers = [Vec::new(), Vec::new()];
    for i in 0..2 * wanted.n_repeat {
        let wants_cold = i % 2 == 1;
        if !wants_cold || cold(model)? {
            samples[i % 2].push(open_ours(model, options, 0)?.0);
        }
        if with_peer && (!wants_cold || cold(model)?) {
            peers[i % 2].push(open_peer(0)?);
        }
    }
    let row = |case, n, is_cold: bool, of: fn(&Opened) -> Option<f64>| {
        let of = |all: &[Vec<Opened>; 2]| -> Vec<f64> {
            all[usize::from(is_cold)].iter().filter_map(of).collect()
        };
        Row::new(case, n, None, &of(&samples), &of(&peers))
    };
    let anon = |opened: Option<&Opened>| opened.and_then(|o| o.anon_mib).into_iter().collect();
    let anon: [Vec<f64>; 2] = [anon(Some(&answered)), anon(peer_answered.as_ref())];
    let n = Some(N_SHORT);
    Ok(vec![
        row(Case::OpenMs, None, false, |o| Some(o.open_ms)),
        row(Case::FirstTokenMs, n, false, |o| Some(o.first_ms)),
        row(Case::OpenColdMs, None, true, |o| Some(o.open_ms)),
        row(Case::FirstTokenColdMs, n, true, |o| Some(o.first_ms)),
        row(Case::ColdReadMib, n, true, |o| o.read_mib),
        Row::new(Case::RssAnonMib, Some(N_ANSWER), Some(N_CTX_MEMORY), &anon[0], &anon[1]),
    ])
}

fn open_ours(
    model: &Path,
    options: &EngineOptions,
    n_answer: usize,
) -> Result<(Opened, Vec<TokenId>)> {
    let watch = Watch::start();
    let engine = Engine::open(model, None, options)?;
    let mut ours = Ours::new(engine.decoder(), engine.options(), N_CTX_MEMORY)?;
    let tokens = ours.tokens(N_SHORT);
    let opened = watch.answer(&tokens, n_answer, |tokens| Ok(best(ours.append(tokens)?)))?;
    Ok((opened, tokens))
}

fn open_peer(
    model: &Path,
    n_threads: usize,
    tokens: &[TokenId],
    n_answer: usize,
) -> Result<Opened> {
    let watch = Watch::start();
    let peer = Peer::open(model)?;
    let mut timeline = peer.timeline(N_CTX_MEMORY, n_threads)?;
    watch.answer(tokens, n_answer, |tokens| Ok(best(timeline.append(tokens)?)))
}

/// Takes a file out of memory; tells whether the system did so.
fn cold(model: &Path) -> Result<bool> {
    let mapping = Mapping::open(model)?;
    mapping.forget();
    let len = mapping.bytes().len();
    Ok(mapping.resident_bytes(0..len).is_some_and(|resident| resident <= len / COLD))
}

/// Returns how much anonymous memory has grown since `before`, in MiB.
fn grown(before: Option<Memory>) -> Option<f64> {
    let grown = Memory::now()?.anon_mib - before?.anon_mib;
    median(&[grown]).filter(|v| *v > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_agree_if_close_or_of_the_same_best_token() {
        let row = [1.0, 2.0, 3.0];
        let cases: [(&[f32], bool); 4] = [
            (&[1.01, 2.0, 2.99], true),
            (&[0.0, 0.0, 9.0], true),
            (&[9.0, 0.0, 0.0], false),
            (&[1.0, 2.0], false),
        ];
        for (peers, expected) in cases {
            assert_eq!(agree(&row, peers), expected, "{peers:?}");
        }
    }
}
