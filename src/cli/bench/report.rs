//! What was measured, as a table, as JSON and as CSV.
//!
//! In: samples of both sides. Out: rows.
//! Invariant: what was not measured is empty or null, never zero.

use std::path::Path;

use culet::Error;
use culet::Result;
use serde_json::Value;
use serde_json::json;

use crate::cli::bench::machine::Machine;

/// What a row's numbers are.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Case {
    /// Tokens of a prompt a second.
    Prefill,
    /// Tokens of an answer a second.
    Decode,
    /// From a closed file to one that can be used, its pages in memory.
    OpenMs,
    /// The same with its pages on disk only.
    OpenColdMs,
    /// From a closed file to the first token after `n` tokens.
    FirstTokenMs,
    /// The same with its pages on disk only.
    FirstTokenColdMs,
    /// What was read from disk meanwhile.
    ColdReadMib,
    /// How often reading it was waited for.
    MajorFaultsCold,
    /// The same while an answer is made, its pages in memory.
    MajorFaults,
    /// From a closed file to the first token behind a restored prompt of `n` tokens and a question.
    SnapshotFirstTokenMs,
    /// The same, if the prompt is computed.
    PromptFirstTokenMs,
    /// Memory that is no file's, after an answer.
    RssAnonMib,
    /// Memory that shows files, after an answer.
    RssFileMib,
    /// Memory that is no file's, after a picture of `n` soft tokens, a second of sound and a token.
    RssAnonMediaMib,
    /// From pixels to soft tokens.
    PictureMs,
    /// Seconds of work for a second of sound.
    SoundRtf,
    /// From the end of speech to the first token: median over four fillings of the last block.
    SpeechEndMs,
    /// Of that, the encoder's last block; what is not this or the next is the decoder's pass.
    SpeechEndEncodeMs,
    /// Of that, choosing the token.
    SpeechEndSampleMs,
    /// From the end of speech to the first sample in the speaker, after `n` tokens.
    FirstSoundMs,
    /// Seconds of encoding and prompt for a second of speech, while it comes.
    StreamRtf,
    /// Part of one core that listening takes while nobody speaks.
    IdleCpuPercent,
    /// Samples of a long conversation that were lost.
    SoakLostSamples,
    /// Turns of a long conversation.
    SoakTurns,
    /// What its memory that is no file's grew by from a tenth of the time to half of it.
    SoakEarlyGrowthMib,
    /// What it grew by in the second half: none if it is bounded.
    SoakGrowthMib,
    /// Bytes that a token needs, of those that memory gives before and after.
    BandwidthShare,
    /// Multiply-adds of a prompt, of those that its kernel does in the caches before and after.
    ArithmeticShare,
    /// Those of the kernel: billions a second.
    ArithmeticGops,
    /// What memory gives: billions of bytes a second.
    BandwidthGbS,
    /// Weights that a token of an answer reads.
    TokenWeightsMib,
    /// What it reads of the cache.
    TokenCacheMib,
    /// Millions of multiply-adds of a prompt: a count, the same on every machine.
    PromptMegaOps,
    /// Millions of multiply-adds of a token of an answer.
    TokenMegaOps,
    /// Nodes of the graph of a token of an answer.
    TokenNodes,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::OpenMs => "open_ms",
            Self::OpenColdMs => "open_cold_ms",
            Self::FirstTokenMs => "first_token_ms",
            Self::FirstTokenColdMs => "first_token_cold_ms",
            Self::ColdReadMib => "cold_read_mib",
            Self::MajorFaultsCold => "major_faults_cold",
            Self::MajorFaults => "major_faults",
            Self::SnapshotFirstTokenMs => "snapshot_first_token_ms",
            Self::PromptFirstTokenMs => "prompt_first_token_ms",
            Self::RssAnonMib => "rss_anon_mib",
            Self::RssFileMib => "rss_file_mib",
            Self::RssAnonMediaMib => "rss_anon_media_mib",
            Self::PictureMs => "picture_ms",
            Self::SoundRtf => "sound_rtf",
            Self::SpeechEndMs => "speech_end_ms",
            Self::SpeechEndEncodeMs => "speech_end_encode_ms",
            Self::SpeechEndSampleMs => "speech_end_sample_ms",
            Self::FirstSoundMs => "first_sound_ms",
            Self::StreamRtf => "stream_rtf",
            Self::IdleCpuPercent => "idle_cpu_percent",
            Self::SoakLostSamples => "soak_lost_samples",
            Self::SoakTurns => "soak_turns",
            Self::SoakEarlyGrowthMib => "soak_early_growth_mib",
            Self::SoakGrowthMib => "soak_growth_mib",
            Self::BandwidthShare => "bandwidth_share",
            Self::ArithmeticShare => "arithmetic_share",
            Self::ArithmeticGops => "arithmetic_gops",
            Self::BandwidthGbS => "bandwidth_gb_s",
            Self::TokenWeightsMib => "token_weights_mib",
            Self::TokenCacheMib => "token_cache_mib",
            Self::PromptMegaOps => "prompt_mega_ops",
            Self::TokenMegaOps => "token_mega_ops",
            Self::TokenNodes => "token_nodes",
        }
    }

    /// Whether nothing of the file is in memory before.
    fn is_cold(self) -> bool {
        let cold =
            [Self::OpenColdMs, Self::FirstTokenColdMs, Self::ColdReadMib, Self::MajorFaultsCold];
        cold.contains(&self)
    }

    fn more_is_better(self) -> bool {
        matches!(self, Self::Prefill | Self::Decode | Self::BandwidthShare)
    }
}

/// One measurement.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    pub(super) case: Case,
    /// New tokens, if they matter.
    pub(super) n: Option<usize>,
    /// Tokens that came before, if they matter.
    pub(super) depth: Option<usize>,
    /// Seconds of sound, if they matter.
    pub(super) seconds: Option<usize>,
    /// Whether the sound was heard while it came, if it matters; the peer never does.
    pub(super) streamed: Option<bool>,
    /// Median of our samples.
    pub(super) culet: Option<f64>,
    /// Median of the peer's samples.
    pub(super) peer: Option<f64>,
    /// Our advantage: above one is better.
    pub(super) ratio: Option<f64>,
    /// Largest less smallest, over the median: of the ratios, or of our samples without a peer.
    pub(super) spread: Option<f64>,
    /// Samples of ours.
    pub(super) n_samples: usize,
}

impl Row {
    /// Makes a row of samples that were taken in turns.
    pub(super) fn new(
        case: Case,
        n: Option<usize>,
        depth: Option<usize>,
        ours: &[f64],
        peers: &[f64],
    ) -> Self {
        let advantage = |(a, b): (&f64, &f64)| {
            let ratio = if case.more_is_better() { a / b } else { b / a };
            // Nothing has no ratio to anything.
            Some(ratio).filter(|r| r.is_finite() && *r > 0.0)
        };
        let ratios: Vec<f64> = ours.iter().zip(peers).filter_map(advantage).collect();
        let of = if ratios.is_empty() { ours } else { &ratios };
        let (culet, peer) = (median(ours), median(peers));
        let ratio = culet.as_ref().zip(peer.as_ref()).and_then(advantage);
        let (seconds, streamed, spread) = (None, None, spread(of));
        let n_samples = ours.len();
        Self { case, n, depth, seconds, streamed, culet, peer, ratio, spread, n_samples }
    }

    /// Returns what people see in the first column.
    fn label(&self) -> String {
        let seconds = self.seconds.map(|n| format!(" {n} s")).unwrap_or_default();
        let streamed = if self.streamed == Some(true) { " live" } else { "" };
        format!("{}{seconds}{streamed}", self.case.name())
    }

    fn json(&self) -> Value {
        let mut row = json!({
            "case": self.case.name(),
            "n": self.n,
            "depth": self.depth,
            "culet": self.culet.map(rounded),
            "peer": self.peer.map(rounded),
            "ratio": self.ratio.map(rounded),
            "spread": self.spread.map(rounded),
        });
        if let Some(seconds) = self.seconds {
            row["seconds"] = json!(seconds);
        }
        if let Some(streamed) = self.streamed {
            row["streamed"] = json!(streamed);
        }
        row
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Returns the middle value, or the mean of the two.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

/// Returns the range of at least two samples as a part of their median.
fn spread(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let (first, last) = (sorted.first()?, sorted.last()?);
    let middle = median(values).filter(|m| *m > 0.0 && values.len() > 1)?;
    Some((last - first) / middle)
}

/// Returns five significant digits.
fn rounded(v: f64) -> f64 {
    format!("{v:.4e}").parse().unwrap_or(v)
}

/// Returns the whole document.
pub(super) fn document(machine: &Machine, rows: &[Row]) -> Value {
    let rows: Vec<Value> = rows.iter().map(Row::json).collect();
    json!({ "machine": machine.json(), "rows": rows })
}

fn cell(v: Option<f64>) -> String {
    v.map(|v| rounded(v).to_string()).unwrap_or_default()
}

/// Writes the rows for `benches/record/`.
///
/// # Errors
/// `Io` if the file cannot be written.
pub(super) fn write_csv(path: &Path, machine: &Machine, rows: &[Row]) -> Result<()> {
    let quoted = |s: &str| format!("\"{}\"", s.replace('"', "'"));
    let mut text = String::from(
        "target,backend,cpu,threads,model,cold_or_warm,case,n,depth,culet,peer,ratio,spread,\
         seconds,streamed,samples\n",
    );
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    for r in rows {
        let count = |n: Option<usize>| n.map(|n| n.to_string()).unwrap_or_default();
        let cells = [
            target.clone(),
            machine.backend.clone(),
            quoted(&machine.cpu),
            machine.n_threads.to_string(),
            quoted(&machine.described()),
            if r.case.is_cold() { "cold" } else { "warm" }.to_owned(),
            r.case.name().to_owned(),
            count(r.n),
            count(r.depth),
            cell(r.culet),
            cell(r.peer),
            cell(r.ratio),
            cell(r.spread),
            count(r.seconds),
            r.streamed.map(|s| s.to_string()).unwrap_or_default(),
            r.n_samples.to_string(),
        ];
        text.push_str(&cells.join(","));
        text.push('\n');
    }
    let name = path.display();
    std::fs::write(path, text).map_err(|e| {
        Error::io(format!("{name}: cannot be written; check the folder")).with_source(e)
    })
}

/// Returns the table for people.
pub(super) fn table(machine: &Machine, rows: &[Row]) -> String {
    let mut text = machine.text();
    text.push_str(&format!(
        "\n{:25}{:>7}{:>7}{:>11}{:>11}{:>8}{:>8}\n",
        "case", "n", "depth", "culet", "llama.cpp", "ratio", "spread"
    ));
    for r in rows {
        let count = |n: Option<usize>| n.map(|n| n.to_string()).unwrap_or_default();
        let value = |v: Option<f64>| match v {
            Some(v) if v >= 100.0 => format!("{v:.0}"),
            Some(v) if v >= 10.0 => format!("{v:.1}"),
            Some(v) => format!("{v:.3}"),
            None => String::new(),
        };
        let ratio = r.ratio.map(|v| format!("{v:.2}")).unwrap_or_default();
        let spread = r.spread.map(|v| format!("{:.0} %", v * 100.0)).unwrap_or_default();
        let (name, n, depth) = (r.label(), count(r.n), count(r.depth));
        let (culet, peer) = (value(r.culet), value(r.peer));
        text.push_str(&format!(
            "{name:25}{n:>7}{depth:>7}{culet:>11}{peer:>11}{ratio:>8}{spread:>8}\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ranges() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(spread(&[2.0]), None);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(1.0));
    }

    #[test]
    fn a_ratio_above_one_is_our_advantage() {
        let fast = Row::new(Case::Prefill, Some(8), Some(0), &[30.0, 30.0], &[10.0, 10.0]);
        assert_eq!((fast.ratio, fast.spread), (Some(3.0), Some(0.0)));
        let short = Row::new(Case::OpenMs, None, None, &[10.0], &[30.0]);
        assert_eq!(short.ratio, Some(3.0));
    }

    #[test]
    fn unmeasured_is_null_and_not_zero() {
        let row = Row::new(Case::Decode, Some(8), Some(0), &[12.345678], &[]).json();
        assert_eq!(row["culet"], json!(12.346));
        assert!(row["peer"].is_null() && row["ratio"].is_null() && row["spread"].is_null());
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["case", "n", "depth", "culet", "peer", "ratio", "spread"]);
    }
}
