//! Prompts and answers at several depths, and what of the machine's best they use.
//!
//! In: an engine, the peer. Out: rows.
//! Invariant: building graphs and reading pages for the first time is not timed; the machine's best
//! is measured before and after each sample.

use std::sync::Arc;
use std::time::Instant;

use culet::Error;
use culet::Result;
use culet::TokenId;
use culet::engine::Engine;

use crate::cli::bench::machine;
use crate::cli::bench::peer::Peer;
use crate::cli::bench::peer::Timeline;
use crate::cli::bench::report::Case;
use crate::cli::bench::report::Row;
use crate::cli::bench::speed::Wanted;
use crate::cli::bench::speed::sides::Agreement;
use crate::cli::bench::speed::sides::Ours;
use crate::cli::bench::speed::sides::Side;
use crate::cli::bench::speed::sides::best;
use crate::cli::bench::speed::yardstick::Yardsticks;

/// Tokens of an answer in one sample.
const N_DECODE: usize = 16;
/// Most tokens of a prompt that is only for warming up.
const N_WARM: usize = 128;
/// Room behind what was asked for.
const N_SPARE: usize = 16;
const MIB: f64 = (1 << 20) as f64;

/// Measures prompts and answers.
pub(in crate::cli::bench) fn tokens(
    engine: &Arc<Engine>,
    peer: Option<&Peer>,
    wanted: &Wanted,
) -> Result<Vec<Row>> {
    let deepest = wanted.depths.iter().copied().max().unwrap_or(0);
    let longest = wanted.prefill.iter().copied().max().unwrap_or(0);
    let n_answer = (wanted.n_repeat + 1) * N_DECODE * wanted.depths.len().max(1);
    let n_ctx = longest.max(deepest + n_answer) + N_SPARE;
    let n_ctx = n_ctx.next_multiple_of(256);
    let ours = Ours::new(engine.decoder(), engine.options(), wanted.cache(n_ctx))?;
    let n_ctx = ours.run.kv().n_ctx();
    if longest.max(deepest + n_answer) > n_ctx {
        return Err(Error::input(format!(
            "{} tokens wanted, the model's limit is {n_ctx}; give smaller --prefill and --depths",
            longest.max(deepest + n_answer)
        )));
    }
    let peer = peer.map(|p| p.timeline(n_ctx, wanted.n_threads)).transpose()?;
    // A GPU's best is not known.
    let uses_gpu = engine.options().backend.gpu.is_some();
    let yardsticks = (!uses_gpu).then(|| Yardsticks::new(engine, wanted.n_threads)).transpose()?;
    let n_repeat = wanted.n_repeat;
    let mut bench = Bench { engine, ours, peer, yardsticks, n_repeat, peaks: Default::default() };
    bench.rows(wanted)
}

struct Bench<'a> {
    engine: &'a Arc<Engine>,
    ours: Ours,
    peer: Option<Timeline<'a>>,
    yardsticks: Option<Yardsticks>,
    n_repeat: usize,
    /// Multiply-adds and bytes a second, whenever they were measured.
    peaks: [Vec<f64>; 2],
}

/// Samples of both sides.
#[derive(Default)]
struct Samples {
    ours: Vec<f64>,
    peers: Vec<f64>,
}

impl Bench<'_> {
    fn rows(&mut self, wanted: &Wanted) -> Result<Vec<Row>> {
        let (mut rows, mut shares) = (Vec::new(), Vec::new());
        for &n in &wanted.prefill {
            let [row, share] = self.prefill(n)?;
            rows.push(row);
            shares.push(share);
        }
        self.ours.clear()?;
        if let Some(peer) = &mut self.peer {
            peer.clear();
        }
        let mut depths = wanted.depths.clone();
        depths.sort_unstable();
        for depth in depths {
            let [row, others @ ..] = self.decode(depth)?;
            rows.push(row);
            shares.extend(others);
        }
        rows.extend(shares);
        let [arithmetic, bandwidth] = self.peaks.each_ref().map(|all| {
            let giga: Vec<f64> = all.iter().map(|v| v / 1e9).collect();
            giga
        });
        rows.push(Row::new(Case::ArithmeticGops, None, None, &arithmetic, &[]));
        rows.push(Row::new(Case::BandwidthGbS, None, None, &bandwidth, &[]));
        let weights = self.weight_bytes() as f64 / MIB;
        rows.push(Row::new(Case::TokenWeightsMib, Some(1), None, &[weights], &[]));
        let shortest = wanted.prefill.iter().copied().min().unwrap_or(N_SPARE);
        rows.extend(self.ours.operations(shortest)?);
        Ok(rows)
    }

    /// Returns the bytes of weights that decoding a token reads.
    fn weight_bytes(&self) -> usize {
        let h = self.engine.decoder().hparams();
        machine::token_ranges(self.engine.file(), h).iter().map(|range| range.len()).sum()
    }

    /// Measures the machine's arithmetic now; `None` with a GPU.
    fn operations_per_second(&mut self) -> Result<Option<f64>> {
        let Some(yardsticks) = &mut self.yardsticks else { return Ok(None) };
        let peak = yardsticks.operations_per_second()?;
        self.peaks[0].push(peak);
        Ok(Some(peak))
    }

    /// Measures the machine's memory now; `None` with a GPU.
    fn bytes_per_second(&mut self) -> Option<f64> {
        let peak = self.yardsticks.as_ref()?.bytes_per_second();
        self.peaks[1].push(peak);
        Some(peak)
    }

    /// Measures prompts of `n` tokens, and what of the machine's multiply-adds they use.
    fn prefill(&mut self, n: usize) -> Result<[Row; 2]> {
        if n == 0 {
            return Err(Error::input(
                "a prompt of no tokens cannot be measured; give --prefill 128",
            ));
        }
        let (mut speeds, mut shares) = (Samples::default(), Vec::new());
        let mut agreement = Agreement::default();
        // The first is for warming up.
        for i in 0..=self.n_repeat {
            let tokens = self.ours.tokens(if i == 0 { n.min(N_WARM) } else { n });
            self.ours.clear()?;
            let before = self.operations_per_second()?;
            let n_before = self.ours.run.operations().n_multiply_adds;
            let start = Instant::now();
            let row = self.ours.append(&tokens)?;
            let seconds = start.elapsed().as_secs_f64();
            let row = row.to_vec();
            let n_done = self.ours.run.operations().n_multiply_adds - n_before;
            let after = self.operations_per_second()?;
            if i > 0 {
                speeds.ours.push(n as f64 / seconds);
                let peak = mean(before, after);
                shares.extend(peak.map(|peak| n_done as f64 / seconds / peak));
            }
            let Some(peer) = &mut self.peer else { continue };
            peer.clear();
            let start = Instant::now();
            let logits = peer.append(&tokens)?;
            if i > 0 {
                speeds.peers.push(n as f64 / start.elapsed().as_secs_f64());
            }
            agreement.see(&row, logits);
        }
        agreement.tell(&format!("prompts of {n}"));
        Ok([
            agreement.row(Case::Prefill, n, Some(0), &speeds.ours, &speeds.peers),
            Row::new(Case::ArithmeticShare, Some(n), Some(0), &shares, &[]),
        ])
    }

    /// Measures answers behind `depth` tokens, what of memory's speed they use, the cache that a
    /// token reads, and page-ins.
    fn decode(&mut self, depth: usize) -> Result<[Row; 4]> {
        let missing = depth.max(1).saturating_sub(self.ours.run.kv().n_past()).max(1);
        let prompt = self.ours.tokens(missing);
        let mut agreement = Agreement::default();
        let row = self.ours.append(&prompt)?.to_vec();
        let mut next = best(&row);
        if let Some(peer) = &mut self.peer {
            agreement.see(&row, peer.append(&prompt)?);
        }
        let h = self.engine.decoder().hparams();
        let cache_bytes = machine::kv_bytes(h, self.ours.run.kv(), depth);
        let bytes = (self.weight_bytes() as u64 + cache_bytes) as f64;
        let (mut speeds, mut shares) = (Samples::default(), Samples::default());
        let mut faults = Samples::default();
        let mut before = self.bytes_per_second();
        for i in 0..=self.n_repeat {
            let ours = answer(&mut self.ours, |_, last| last.map_or(next, best))?;
            let after = self.bytes_per_second();
            // The first is for warming up.
            if i > 0 {
                ours.note(&mut speeds.ours, &mut faults.ours);
                let peak = mean(before, after);
                shares.ours.extend(peak.map(|peak| ours.speed() * bytes / peak));
            }
            before = after;
            next = ours.rows.last().map_or(next, |row| best(row));
            let Some(peer) = &mut self.peer else { continue };
            // Choosing takes part of both sides' time; ours chose what comes next.
            let theirs = answer(peer, |j, last| {
                last.map(|row| std::hint::black_box(best(row)));
                ours.taken[j]
            })?;
            ours.rows.iter().zip(&theirs.rows).for_each(|(a, b)| agreement.see(a, b));
            let after = self.bytes_per_second();
            if i > 0 {
                theirs.note(&mut speeds.peers, &mut faults.peers);
                let peak = mean(before, after);
                shares.peers.extend(peak.map(|peak| theirs.speed() * bytes / peak));
            }
            before = after;
        }
        agreement.tell(&format!("answers after {depth}"));
        let row = agreement.row(Case::Decode, N_DECODE, Some(depth), &speeds.ours, &speeds.peers);
        let peers = if row.peer.is_some() { &shares.peers[..] } else { &[] };
        let cache = cache_bytes as f64 / MIB;
        Ok([
            row,
            Row::new(Case::BandwidthShare, None, Some(depth), &shares.ours, peers),
            Row::new(Case::TokenCacheMib, Some(1), Some(depth), &[cache], &[]),
            Row::new(Case::MajorFaults, Some(N_DECODE), Some(depth), &faults.ours, &faults.peers),
        ])
    }
}

/// Returns the mean of what was measured before and after.
fn mean(before: Option<f64>, after: Option<f64>) -> Option<f64> {
    before.zip(after).map(|(a, b)| (a + b) / 2.0)
}

/// Some tokens of an answer.
struct Answer {
    taken: Vec<TokenId>,
    /// Logits behind each of them.
    rows: Vec<Vec<f32>>,
    seconds: f64,
    /// Pages that had to be read from disk meanwhile.
    n_faults: Option<u64>,
}

impl Answer {
    fn speed(&self) -> f64 {
        self.taken.len() as f64 / self.seconds
    }

    fn note(&self, speeds: &mut Vec<f64>, faults: &mut Vec<f64>) {
        speeds.push(self.speed());
        faults.extend(self.n_faults.map(|n| n as f64));
    }
}

/// Answers with the tokens that `choose` gives, from the number of each and the logits before it;
/// keeping the logits is not timed.
fn answer(
    side: &mut impl Side,
    mut choose: impl FnMut(usize, Option<&[f32]>) -> TokenId,
) -> Result<Answer> {
    let (mut taken, mut rows) = (Vec::new(), Vec::<Vec<f32>>::new());
    let mut seconds = 0.0;
    let before = machine::major_faults();
    for i in 0..N_DECODE {
        let start = Instant::now();
        let id = choose(i, rows.last().map(Vec::as_slice));
        let row = side.append(&[id])?;
        seconds += start.elapsed().as_secs_f64();
        taken.push(id);
        rows.push(row.to_vec());
    }
    let n_faults = before.zip(machine::major_faults()).map(|(before, after)| after - before);
    Ok(Answer { taken, rows, seconds, n_faults })
}
