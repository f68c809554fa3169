//! Opening, the first token, memory and page-ins.
//!
//! In: files, options. Out: rows.
//! Invariant: nothing else is open meanwhile; ours is opened before the peer maps the same file.

use std::path::Path;
use std::time::Instant;

use culet::Pcm;
use culet::Result;
use culet::TokenId;
use culet::engine::Engine;
use culet::gguf::Mapping;
use culet::session::Session;
use culet::session::SessionOptions;
use culet::text::Conversation;
use serde_json::json;

use crate::cli::bench::machine;
use crate::cli::bench::machine::Memory;
use crate::cli::bench::media;
use crate::cli::bench::peer::Peer;
use crate::cli::bench::report::Case;
use crate::cli::bench::report::Row;
use crate::cli::bench::speed::Subject;
use crate::cli::bench::speed::Wanted;
use crate::cli::bench::speed::sides::Agreement;
use crate::cli::bench::speed::sides::Ours;
use crate::cli::bench::speed::sides::Side;
use crate::cli::bench::speed::sides::best;

/// Tokens of an answer after which memory is looked at.
const N_ANSWER: usize = 64;
/// Tokens before the first token of an answer.
const N_SHORT: usize = 16;
/// Positions of a timeline whose memory is looked at.
pub(super) const N_CTX: usize = 4096;
/// A file is cold if at most this part of it is in memory.
const COLD: usize = 50;
/// Soft tokens of a picture whose memory is looked at, if no other are asked for.
const N_PICTURE: u32 = 280;

/// What opening took.
struct Opened {
    open_ms: f64,
    first_ms: f64,
    /// What was read from disk until the first token.
    read_mib: Option<f64>,
    /// How often that was waited for.
    n_faults: Option<u64>,
    /// Logits that the first token was chosen from.
    logits: Vec<f32>,
    /// What memory grew by until the end of the answer.
    grown: Option<Memory>,
}

/// What is looked at while a model is opened.
struct Watch {
    start: Instant,
    memory: Option<Memory>,
    read_mib: Option<f64>,
    n_faults: Option<u64>,
}

impl Watch {
    fn start() -> Self {
        let (memory, read_mib) = (Memory::now(), machine::read_mib());
        Self { memory, read_mib, n_faults: machine::major_faults(), start: Instant::now() }
    }

    /// Goes on from an open model.
    fn answer(self, side: &mut impl Side, tokens: &[TokenId], n_answer: usize) -> Result<Opened> {
        let ms = || self.start.elapsed().as_secs_f64() * 1e3;
        let open_ms = ms();
        let logits = side.append(tokens)?;
        let mut next = best(logits);
        let first_ms = ms();
        let logits = logits.to_vec();
        let read_mib = machine::read_mib().zip(self.read_mib).map(|(now, before)| now - before);
        let n_faults = machine::major_faults().zip(self.n_faults);
        let n_faults = n_faults.map(|(now, before)| now - before);
        for _ in 0..n_answer {
            next = best(side.append(&[next])?);
        }
        let grown = self.memory.and_then(Memory::grown);
        Ok(Opened { open_ms, first_ms, read_mib, n_faults, logits, grown })
    }
}

/// Measures opening, the first token, memory and page-ins.
pub(in crate::cli::bench) fn opening(subject: &Subject, wanted: &Wanted) -> Result<Vec<Row>> {
    let start = Memory::now();
    // The first is for warming up, and the only one that answers at length.
    let (answered, tokens) = open_ours(subject, wanted, N_ANSWER)?;
    let media = media_memory(subject, wanted, start)?;
    let peer = subject.peer.as_deref();
    let open_peer = |path, n_answer| open_peer(path, wanted.n_threads, &tokens, n_answer);
    let peer_answered = peer.map(|path| open_peer(path, N_ANSWER)).transpose()?;
    let memory = memory_rows(&answered, peer_answered.as_ref());
    let (mut samples, mut peers) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for i in 0..2 * wanted.n_repeat {
        let wants_cold = i % 2 == 1;
        if !wants_cold || cold(&subject.model)? {
            samples[i % 2].push(open_ours(subject, wanted, 0)?.0);
        }
        if let Some(path) = peer
            && (!wants_cold || cold(path)?)
        {
            peers[i % 2].push(open_peer(path, 0)?);
        }
    }
    let mut rows = opening_rows(&samples, &peers);
    rows.extend(memory);
    if let Some((n_soft, ours)) = media {
        let peer: Vec<f64> = peer_media_memory(subject, wanted, n_soft)?.into_iter().collect();
        let n = Some(n_soft as usize);
        rows.push(Row::new(Case::RssAnonMediaMib, n, Some(N_CTX), &ours, &peer));
    }
    Ok(rows)
}

/// Makes rows of warm and cold samples.
fn opening_rows(samples: &[Vec<Opened>; 2], peers: &[Vec<Opened>; 2]) -> Vec<Row> {
    let mut agreement = Agreement::default();
    for (ours, peers) in samples.iter().zip(peers) {
        ours.iter().zip(peers).for_each(|(a, b)| agreement.see(&a.logits, &b.logits));
    }
    agreement.tell("first tokens");
    let row = |case, is_cold: bool, of: fn(&Opened) -> Option<f64>| {
        let of = |all: &[Vec<Opened>; 2]| -> Vec<f64> {
            all[usize::from(is_cold)].iter().filter_map(of).collect()
        };
        (case, of(samples), of(peers))
    };
    let opens = [
        row(Case::OpenMs, false, |o| Some(o.open_ms)),
        row(Case::OpenColdMs, true, |o| Some(o.open_ms)),
    ];
    let answers = [
        row(Case::FirstTokenMs, false, |o| Some(o.first_ms)),
        row(Case::FirstTokenColdMs, true, |o| Some(o.first_ms)),
        row(Case::ColdReadMib, true, |o| o.read_mib),
        row(Case::MajorFaultsCold, true, |o| o.n_faults.map(|n| n as f64)),
    ];
    let opens = opens.iter().map(|(case, a, b)| Row::new(*case, None, None, a, b));
    let answers = answers.iter().map(|(case, a, b)| agreement.row(*case, N_SHORT, None, a, b));
    opens.chain(answers).collect()
}

/// Makes rows of the memory that an answer took.
fn memory_rows(ours: &Opened, peer: Option<&Opened>) -> [Row; 2] {
    let mut agreement = Agreement::default();
    if let Some(peer) = peer {
        agreement.see(&ours.logits, &peer.logits);
    }
    agreement.tell("first token of an answer");
    let row = |case, of: fn(&Memory) -> f64| {
        let of = |opened: Option<&Opened>| -> Vec<f64> {
            let grown = opened.and_then(|o| o.grown.as_ref()).map(of);
            grown.filter(|v| *v > 0.0).into_iter().collect()
        };
        agreement.row(case, N_ANSWER, Some(N_CTX), &of(Some(ours)), &of(peer))
    };
    [row(Case::RssAnonMib, |m| m.anon_mib), row(Case::RssFileMib, |m| m.file_mib)]
}

fn open_ours(
    subject: &Subject,
    wanted: &Wanted,
    n_answer: usize,
) -> Result<(Opened, Vec<TokenId>)> {
    let watch = Watch::start();
    let engine = Engine::open(&subject.model, None, &subject.options)?;
    let mut ours = Ours::new(engine.decoder(), engine.options(), wanted.cache(N_CTX))?;
    let tokens = ours.tokens(N_SHORT);
    let opened = watch.answer(&mut ours, &tokens, n_answer)?;
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
    let mut timeline = peer.timeline(N_CTX, n_threads)?;
    watch.answer(&mut timeline, tokens, n_answer)
}

/// Returns the soft tokens of a picture, and what memory grew by since `start` when it and a second
/// of sound were encoded, fed and answered; `None` without encoders.
fn media_memory(
    subject: &Subject,
    wanted: &Wanted,
    start: Option<Memory>,
) -> Result<Option<(u32, Vec<f64>)>> {
    let Some(mmproj) = &subject.mmproj else { return Ok(None) };
    let engine = Engine::open(&subject.model, Some(mmproj), &subject.options)?;
    let n_soft = wanted.pictures.first().copied().unwrap_or(N_PICTURE);
    let mut session = Session::new(&engine, &SessionOptions::greedy(N_CTX))?;
    let (mut content, mut encoded) = (Vec::new(), Vec::new());
    if engine.sees() {
        content.push(json!({ "type": "image" }));
        encoded.push(session.encode_picture(&media::frame(0, n_soft)?, n_soft)?);
    }
    if engine.hears() {
        content.push(json!({ "type": "audio" }));
        let (samples, rate_hz) = (media::sound(0, 1), media::SOUND_RATE_HZ);
        encoded.push(session.encode_sound([Ok(Pcm { samples, rate_hz, captured_at_ns: 0 })])?);
    }
    let conversation = Conversation::from_json(&json!({ "messages": [
        { "role": "user", "content": content },
    ]}))?;
    session.prompt(&conversation, &encoded)?;
    session.next(&mut |_| {})?;
    let grown = start.and_then(Memory::grown).map(|m| m.anon_mib).filter(|v| *v > 0.0);
    Ok(Some((n_soft, grown.into_iter().collect())))
}

/// Returns what the peer's memory grows by for the same.
fn peer_media_memory(subject: &Subject, wanted: &Wanted, n_soft: u32) -> Result<Option<f64>> {
    let (Some(mmproj), Some(model)) = (&subject.mmproj, &subject.peer) else { return Ok(None) };
    let start = Memory::now();
    let peer = Peer::open(model)?;
    let mut timeline = peer.timeline(N_CTX, wanted.n_threads)?;
    let mut encoders = peer.media(mmproj, wanted.n_threads, n_soft)?;
    if encoders.sees() {
        timeline.see(&mut encoders, &media::frame(0, n_soft)?)?;
    }
    if encoders.hears() {
        timeline.clear();
        timeline.hear(&mut encoders, &media::sound(0, 1))?;
    }
    Ok(start.and_then(Memory::grown).map(|m| m.anon_mib).filter(|v| *v > 0.0))
}

/// Takes a file out of memory; tells whether the system did so.
fn cold(model: &Path) -> Result<bool> {
    let mapping = Mapping::open(model)?;
    mapping.forget();
    let len = mapping.bytes().len();
    Ok(mapping.resident_bytes(0..len).is_some_and(|resident| resident <= len / COLD))
}
