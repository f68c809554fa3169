//! What the machine is, what this program takes of it, and what a token reads.
//!
//! In: `/proc` where there is one, a model. Out: [`Machine`], [`Memory`].
//! Invariant: what the system does not tell is `None`.

use std::ops::Range;

use culet::decoder::KvCache;
use culet::ggml::DType;
use culet::gguf::Gguf;
use culet::gguf::TensorInfo;
use culet::model::HParams;
use culet::model::LayerKind;
use culet::model::memory::Part;
use serde_json::Value;
use serde_json::json;

use crate::cli::system;

/// The machine, and the model that was measured on it.
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) n_threads: usize,
    pub(super) n_batch: usize,
    pub(super) kv: DType,
    pub(super) model: String,
    /// `cpu`, or the GPU's short name.
    pub(super) backend: String,
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
            "batch": self.n_batch,
            "kv": self.kv.to_string(),
            "memory_mib": proc_mib("/proc/meminfo", "MemTotal:"),
            "load": load(),
            "backend": self.backend,
            "culet": env!("CARGO_PKG_VERSION"),
            "model": self.model,
        })
    }

    /// Returns it in a few lines.
    pub(super) fn text(&self) -> String {
        let load = load().map(|l| format!(", load {l}")).unwrap_or_default();
        let (cpu, n, backend) = (&self.cpu, self.n_threads, &self.backend);
        format!("{cpu}, {n} threads, backend {backend}{load}\n{}\n", self.described())
    }

    /// Returns the model and how it is run.
    pub(super) fn described(&self) -> String {
        format!("{}, batches of {}, cache {}", self.model, self.n_batch, self.kv)
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

    /// Returns what it has grown by since.
    pub(super) fn grown(self) -> Option<Self> {
        let now = Self::now()?;
        let (anon_mib, file_mib) = (now.anon_mib - self.anon_mib, now.file_mib - self.file_mib);
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

/// Returns how often this program waited for a page that had to be read from disk.
pub(super) fn major_faults() -> Option<u64> {
    major_faults_in(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// The program's name comes second, in brackets, and may hold anything.
fn major_faults_in(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(9)?.parse().ok()
}

fn proc_mib(file: &str, key: &str) -> Option<f64> {
    let kib = system::proc_kib(file, key)? as f64;
    Some((kib / 102.4).round() / 10.0)
}

/// Returns where the weights lie that decoding one token reads: all that are multiplied with.
pub(super) fn token_ranges(gguf: &Gguf, h: &HParams) -> Vec<Range<usize>> {
    let part = |info: &TensorInfo| Part::of(&info.name, Some(h));
    let has_head = gguf.tensors().iter().any(|info| part(info) == Part::Head);
    let is_read = |info: &&TensorInfo| match part(info) {
        // Only single rows are read of these, unless the embedding is the head as well.
        Part::PerLayerTable | Part::Unused | Part::Vision | Part::Audio => false,
        Part::TokenEmbedding => !has_head,
        _ => true,
    };
    gguf.tensors().iter().filter(is_read).map(TensorInfo::range).collect()
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
    fn page_ins_are_the_tenth_behind_the_name() {
        let stat = "7 (a) b) 1) S 1 2 3 4 5 6 11 12 1234 14 15 16";
        assert_eq!(major_faults_in(stat), Some(1234));
        assert_eq!(major_faults_in("7 (a) S 1"), None);
        assert!(!cfg!(target_os = "linux") || major_faults().is_some());
    }

    #[test]
    fn the_system_tells_what_is_resident() {
        let memory = Memory::now();
        assert!(memory.is_none_or(|m| m.anon_mib > 0.0 && m.file_mib > 0.0));
        #[cfg(target_os = "linux")]
        assert!(Memory::now().is_some());
    }
}
