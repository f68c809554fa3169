//! Where the time goes: every operation timed apart, summed by layers and by kind.
//!
//! In: graphs, computed one node after another while a trace is asked for. Out: a table in the
//! log when the backend ends.
//! Invariant: the same kernels on the same memory; only the waits between nodes are longer.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fmt::Write;
use std::ptr::NonNull;
use std::time::Duration;
use std::time::Instant;

use llama_cpp_sys_2 as sys;

use super::parts::Room;
use super::parts::nodes;
use crate::error::Result;

const TARGET: &str = "culet::profile";
/// Rows with a smaller share of the whole are left out of the table.
const SHARE_MIN: f64 = 0.002;
/// What only names memory, and takes no time.
const NAMES_ONLY: [sys::ggml_op; 5] = [
    sys::GGML_OP_NONE,
    sys::GGML_OP_RESHAPE,
    sys::GGML_OP_VIEW,
    sys::GGML_OP_PERMUTE,
    sys::GGML_OP_TRANSPOSE,
];

/// Types of our kernels' closures, by node.
pub(in crate::ggml) type Kernels = HashMap<NonNull<sys::ggml_tensor>, &'static str>;

/// Time that one kind of operation took in one part of a graph.
struct Row {
    part: String,
    kind: String,
    n_calls: u64,
    took: Duration,
}

/// Sums of times.
pub(in crate::ggml) struct Profile {
    single: Room,
    rows: Vec<Row>,
}

impl Profile {
    /// Returns a profile if the log wants it: `culet::profile` at the level trace.
    pub(in crate::ggml) fn wanted() -> Result<Option<Self>> {
        if !log::log_enabled!(target: TARGET, log::Level::Trace) {
            return Ok(None);
        }
        Ok(Some(Self { single: Room::new(1)?, rows: Vec::new() }))
    }

    /// Computes a graph node by node.
    ///
    /// # Safety
    /// The graph is allocated and alive, and `backend` is a processor's.
    pub(super) unsafe fn compute(
        &mut self,
        graph: NonNull<sys::ggml_cgraph>,
        kernels: &Kernels,
        backend: sys::ggml_backend_t,
    ) -> sys::ggml_status {
        // SAFETY: by the caller's promise; the single graph has room for one node.
        unsafe {
            let nodes = nodes(graph);
            let marks: Vec<Option<Mark>> = nodes.iter().map(|n| mark(n.as_ref())).collect();
            let parts = parts(&marks);
            for (node, part) in nodes.into_iter().zip(parts) {
                if NAMES_ONLY.contains(&node.as_ref().op) {
                    continue;
                }
                let start = Instant::now();
                let status = self.single.compute(&[node], backend);
                let took = start.elapsed();
                if status != sys::GGML_STATUS_SUCCESS {
                    return status;
                }
                self.add(part, kind(node, kernels), took);
            }
        }
        sys::GGML_STATUS_SUCCESS
    }

    fn add(&mut self, part: String, kind: String, took: Duration) {
        match self.rows.iter_mut().find(|r| r.part == part && r.kind == kind) {
            Some(row) => {
                row.n_calls += 1;
                row.took += took;
            }
            None => self.rows.push(Row { part, kind, n_calls: 1, took }),
        }
    }

    /// Returns the table: parts in the order of their first use, the longest kinds first.
    fn table(&self) -> String {
        let whole: f64 = self.rows.iter().map(|r| r.took.as_secs_f64()).sum();
        let mut parts: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !parts.contains(&row.part.as_str()) {
                parts.push(&row.part);
            }
        }
        let mut out = format!("{:.1} ms in operations\n", whole * 1e3);
        for part in parts {
            let mut rows: Vec<&Row> = self.rows.iter().filter(|r| r.part == part).collect();
            rows.sort_by_key(|r| std::cmp::Reverse(r.took));
            let sum: f64 = rows.iter().map(|r| r.took.as_secs_f64()).sum();
            line(&mut out, part, sum, whole, rows.iter().map(|r| r.n_calls).sum());
            for row in rows {
                let took = row.took.as_secs_f64();
                if took >= SHARE_MIN * whole {
                    line(&mut out, &format!("  {}", row.kind), took, whole, row.n_calls);
                }
            }
        }
        out
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        if !self.rows.is_empty() {
            log::trace!(target: TARGET, "{}", self.table().trim_end());
        }
    }
}

fn line(out: &mut String, name: &str, seconds: f64, whole: f64, n_calls: u64) {
    let (ms, share) = (seconds * 1e3, 100.0 * seconds / whole.max(f64::MIN_POSITIVE));
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{name:<36} {ms:>10.1} ms {share:>6.1} % {n_calls:>8} calls");
}

/// The end of a layer, as its output's name says: `l_out-3`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mark {
    graph: &'static str,
    layer: usize,
    n_rows: usize,
}

fn mark(node: &sys::ggml_tensor) -> Option<Mark> {
    // SAFETY: names of ggml end with a zero inside their array.
    let name = unsafe { CStr::from_ptr(node.name.as_ptr()) }.to_str().ok()?;
    let (stem, layer) = name.split_once("_out-")?;
    let graph = match stem {
        "l" => "decoder",
        "v" => "vision encoder",
        "a" => "audio encoder",
        _ => return None,
    };
    Some(Mark { graph, layer: layer.parse().ok()?, n_rows: node.ne[1] as usize })
}

/// Returns the kind of an operation: the name of our kernel's function, or ggml's word.
///
/// # Safety
/// The node is alive.
unsafe fn kind(node: NonNull<sys::ggml_tensor>, kernels: &Kernels) -> String {
    if let Some(name) = kernels.get(&node) {
        return function(name).to_owned();
    }
    // SAFETY: by the caller's promise; the words are static.
    let word = unsafe { CStr::from_ptr(sys::ggml_op_desc(node.as_ptr())) };
    word.to_string_lossy().to_lowercase()
}

/// Returns the function in which a closure's type was made.
fn function(type_name: &str) -> &str {
    let made_in = type_name.split("::{{closure}}").next().unwrap_or(type_name);
    made_in.rsplit("::").next().unwrap_or(made_in)
}

/// Names the part of the graph that each node belongs to. A layer ends with its mark; neighbours
/// with equally many nodes are one part.
fn parts(marks: &[Option<Mark>]) -> Vec<String> {
    let ends: Vec<(usize, &Mark)> =
        marks.iter().enumerate().filter_map(|(i, m)| Some((i, m.as_ref()?))).collect();
    let Some((_, first)) = ends.first() else { return vec!["other".to_owned(); marks.len()] };
    let title = match first.n_rows {
        1 => format!("{}, one row", first.graph),
        _ => format!("{}, rows together", first.graph),
    };
    // The first layer also holds what comes before it, so it goes with the second.
    let len = |i: usize| ends[i.max(1)].0 - ends[i.max(1) - 1].0;
    let mut out = Vec::with_capacity(marks.len());
    let mut i = 0;
    while i < ends.len() {
        let mut last = i;
        while last + 1 < ends.len() && len(last + 1) == len(i) {
            last += 1;
        }
        let (from, to) = (ends[i].1.layer, ends[last].1.layer);
        let name = match from == to {
            true => format!("{title}: layer {from}"),
            false => format!("{title}: layers {from}-{to}"),
        };
        out.resize(ends[last].0 + 1, name);
        i = last + 1;
    }
    out.resize(marks.len(), format!("{title}: after layer {}", ends[ends.len() - 1].1.layer));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(ends: &[usize], n: usize) -> Vec<String> {
        let mut marks = vec![None; n];
        for (layer, &end) in ends.iter().enumerate() {
            marks[end] = Some(Mark { graph: "decoder", layer, n_rows: 1 });
        }
        parts(&marks)
    }

    #[test]
    fn equal_layers_are_one_part() {
        let got = marked(&[3, 5, 7, 8, 9], 11);
        assert!(got[..8].iter().all(|p| p == "decoder, one row: layers 0-2"), "{got:?}");
        assert!(got[8..10].iter().all(|p| p == "decoder, one row: layers 3-4"), "{got:?}");
        assert_eq!(got[10], "decoder, one row: after layer 4");
        assert_eq!(marked(&[], 2), ["other", "other"]);
        assert_eq!(marked(&[1], 2), vec!["decoder, one row: layer 0"; 2]);
    }

    #[test]
    fn kernels_are_called_like_their_functions() {
        assert_eq!(function("a::b::<impl c::D>::linear::{{closure}}::{{closure}}"), "linear");
        assert_eq!(function("linear"), "linear");
    }

    #[test]
    fn the_table_sums_what_was_added() {
        let mut profile = Profile { single: Room::new(1).expect("small"), rows: Vec::new() };
        for (part, kind, ms) in [("a", "x", 1), ("b", "x", 2), ("a", "y", 3), ("a", "x", 4)] {
            profile.add(part.to_owned(), kind.to_owned(), Duration::from_millis(ms));
        }
        let table = profile.table();
        let words: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(words[0][0], "10.0");
        assert_eq!(words[1], ["a", "8.0", "ms", "80.0", "%", "3", "calls"]);
        assert_eq!(words[2], ["x", "5.0", "ms", "50.0", "%", "2", "calls"]);
        assert_eq!(words[3][..2], ["y", "3.0"]);
        assert_eq!(words[4][..2], ["b", "2.0"]);
    }
}
