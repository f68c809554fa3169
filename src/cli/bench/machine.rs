//! What the machine is, what memory gives, and what this program takes of it.
//!
//! In: `/proc` where there is one, a buffer to stream through. Out: [`Machine`], [`Memory`].
//! Invariant: what the system does not tell is `None`.

use std::hint::black_box;
use std::time::Instant;

use culet::decoder::KvCache;
use culet::gguf::Gguf;
use culet::model::HParams;
use culet::model::LayerKind;
use culet::model::memory;
use culet::model::memory::Part;
use serde_json::Value;
use serde_json::json;

use crate::cli::system;

/// Bytes that are streamed through: far more than caches hold.
const STREAM_BYTES: usize = 256 << 20;
const N_STREAMS: usize = 5;

/// The machine, and the model that was measured on it.
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) n_threads: usize,
    pub(super) model: String,
    /// Bytes of the model that decoding one token at the start reads.
    pub(super) token_bytes: u64,
    /// Bytes a second that all threads together read from memory.
    pub(super) bandwidth: f64,
    /// File-backed memory after the measurements.
    pub(super) rss_file_mib: Option<f64>,
}

impl Machine {
    /// Returns it as an object.
    pub(super) fn json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "arch": std::env::consts::ARCH,
            "os": std::env::consts::OS,
            "cores": std::thread::available_parallelism().ok().map(usize::from),
            "threads": self.n_threads,
            "memory_mib": proc_mib("/proc/meminfo", "MemTotal:"),
            "load": load(),
            "bandwidth_gb_s": (self.bandwidth / 1e8).round() / 10.0,
            "culet": env!("CARGO_PKG_VERSION"),
            "model": self.model,
            "token_mib": (self.token_bytes >> 10) as f64 / 1024.0,
            "rss_file_mib": self.rss_file_mib,
        })
    }

    /// Returns it in a few lines.
    pub(super) fn text(&self) -> String {
        let bytes = memory::bytes_text(self.token_bytes);
        let gb = self.bandwidth / 1e9;
        let load = load().map(|l| format!(", load {l}")).unwrap_or_default();
        format!(
            "{}, {} threads{load}\n{}: {bytes} a token; memory gives {gb:.1} GB/s\n",
            self.cpu, self.n_threads, self.model
        )
    }
}

/// Returns how many programs wanted to run during the last minute.
fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// Resident memory of this program.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    pub(super) anon_mib: f64,
    pub(super) file_mib: f64,
}

impl Memory {
    /// Asks the system.
    pub(super) fn now() -> Option<Self> {
        let file = "/proc/self/status";
        let (anon_mib, file_mib) = (proc_mib(file, "RssAnon:")?, proc_mib(file, "RssFile:")?);
        Some(Self { anon_mib, file_mib })
    }
}

/// Returns the seconds that the processor has worked for the threads of this program.
pub(super) fn cpu_seconds() -> Option<f64> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    let sum: u64 = nanoseconds.sum();
    (sum > 0).then_some(sum as f64 / 1e9)
}

/// Returns what this program has read from disk.
pub(super) fn read_mib() -> Option<f64> {
    let bytes: f64 = system::field("/proc/self/io", "read_bytes:")?.trim().parse().ok()?;
    Some(bytes / f64::from(1 << 20))
}

fn proc_mib(file: &str, key: &str) -> Option<f64> {
    let kib = system::proc_kib(file, key)? as f64;
    Some((kib / 102.4).round() / 10.0)
}

/// Measures how many bytes a second `n_threads` read from memory, the best of a few passes.
pub(super) fn bandwidth(n_threads: usize) -> f64 {
    let words = vec![1_u64; STREAM_BYTES / 8];
    let part = words.len().div_ceil(n_threads.max(1));
    let mut best = 0_f64;
    for _ in 0..N_STREAMS {
        let start = Instant::now();
        std::thread::scope(|s| {
            for part in words.chunks(part) {
                s.spawn(move || black_box(sum(black_box(part))));
            }
        });
        best = best.max(STREAM_BYTES as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// Adds up, from several places at once: one alone does not keep memory busy.
fn sum(words: &[u64]) -> u64 {
    let quarter = words.len() / 4;
    let parts: [&[[u64; 16]]; 4] =
        std::array::from_fn(|i| words[i * quarter..(i + 1) * quarter].as_chunks().0);
    let mut lanes = [[0_u64; 16]; 4];
    for i in 0..parts[0].len() {
        for (lanes, part) in lanes.iter_mut().zip(parts) {
            for (lane, word) in lanes.iter_mut().zip(&part[i]) {
                *lane = lane.wrapping_add(*word);
            }
        }
    }
    lanes.as_flattened().iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// Returns the bytes of weights that decoding one token reads: all that are multiplied with.
pub(super) fn token_bytes(gguf: &Gguf, h: &HParams) -> u64 {
    let parts = memory::parts(gguf, Some(h));
    let has_head = parts.iter().any(|p| p.part == Part::Head);
    let is_read = |part: Part| match part {
        // Only single rows are read of these, unless the embedding is the head as well.
        Part::PerLayerTable | Part::Unused | Part::Vision | Part::Audio => false,
        Part::TokenEmbedding => !has_head,
        _ => true,
    };
    parts.iter().filter(|p| is_read(p.part)).map(|p| p.size_bytes).sum()
}

/// Returns the bytes of the cache that one token reads with `depth` tokens before it.
pub(super) fn kv_bytes(h: &HParams, kv: &KvCache, depth: usize) -> u64 {
    let dtype = kv.dtype();
    let row = |n: usize| dtype.row_bytes(n).unwrap_or(0) as u64;
    let layers = h.layers.iter().map(|l| {
        let n = if l.kind == LayerKind::Sliding { depth.min(h.window) } else { depth };
        2 * row(l.n_kv()) * n as u64
    });
    layers.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_at_some_speed() {
        assert!(bandwidth(2) > 0.0);
    }

    #[test]
    fn the_system_tells_what_is_resident() {
        let memory = Memory::now();
        assert!(memory.is_none_or(|m| m.anon_mib > 0.0 && m.file_mib > 0.0));
        #[cfg(target_os = "linux")]
        assert!(Memory::now().is_some());
    }
}
