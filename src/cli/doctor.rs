//! `culet doctor`: what this machine has, and what Culet would use of it.
//! In: the system, the kernels' registry, devices. Out: a report for people, or one JSON document.
//! Invariant: nothing is opened or loaded, and nothing is computed but the check of each GPU; what
//! cannot be asked is told, not an error.

use culet::Result;
use culet::decoder;
use culet::ggml;
use culet::ggml::Backend;
use culet::ggml::BackendOptions;
use culet::ggml::DType;
use culet::ggml::DeviceInfo;
use culet::ggml::GpuSample;
use culet::ggml::HeadShape;
use culet::gguf::TensorType;
use culet::model::Variant;
use culet::model::memory::bytes_text;
use culet::sink::speaker;
use culet::source::camera;
use culet::source::mic;
use serde_json::Value;
use serde_json::json;

use crate::cli::print;
use crate::cli::system;

/// Types of weights that files of these models have most.
const TYPES: [&str; 7] = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K"];
/// Programs that are started where they are found, and what for.
const PROGRAMS: [(&str, &str); 2] = [("espeak-ng", "speaks answers"), ("ffmpeg", "opens videos")];
const LIMITS: [(&str, &str); 3] = [
    ("address_space", "Max address space"),
    ("locked_memory", "Max locked memory"),
    ("open_files", "Max open files"),
];

/// What `doctor` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write one JSON document
    #[arg(long)]
    json: bool,
}

/// Tells what there is.
pub(crate) fn run(args: &Args) -> Result<()> {
    let report = report()?;
    match args.json {
        true => print::json(&report),
        false => print::result(&text(&report)),
    }
}

fn report() -> Result<Value> {
    Ok(json!({
        "culet": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "built_with": built_with(),
        "cpu": system::cpu(),
        "cores": std::thread::available_parallelism().ok().map(usize::from),
        "threads": ggml::default_threads(),
        "cpu_features": cpu_features(),
        "kernel_features": ggml::features()?,
        "kernels": kernels()?,
        "devices": devices()?,
        "memory": memory(),
        "limits": limits(),
        "microphones": listed(mic::microphones(), |m| json!({
            "name": m.name,
            "is_default": m.is_default,
            "rate_hz": m.rate_hz,
            "n_channels": m.n_channels,
        })),
        "speakers": listed(speaker::speakers(), |s| json!({
            "name": s.name,
            "is_default": s.is_default,
            "rate_hz": s.rate_hz,
        })),
        "cameras": listed(camera::cameras(), |c| json!({
            "name": c.name,
            "description": c.description,
        })),
        "programs": programs(),
    }))
}

fn built_with() -> Vec<&'static str> {
    let parts = [
        ("mic", cfg!(feature = "mic")),
        ("camera", cfg!(feature = "camera")),
        ("metal", cfg!(feature = "metal")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("cuda", cfg!(feature = "cuda")),
        ("openmp", cfg!(feature = "openmp")),
        ("dynamic-backends", cfg!(feature = "dynamic-backends")),
        ("reference", cfg!(feature = "reference")),
    ];
    parts.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name).collect()
}

/// Returns what the processor has of what kernels are written for.
fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let all = [
        ("ssse3", is_x86_feature_detected!("ssse3")),
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx", is_x86_feature_detected!("avx")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("fma", is_x86_feature_detected!("fma")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx-vnni", is_x86_feature_detected!("avxvnni")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(target_arch = "aarch64")]
    let all = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ("sve", std::arch::is_aarch64_feature_detected!("sve")),
        ("sve2", std::arch::is_aarch64_feature_detected!("sve2")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let all: [(&str, bool); 0] = [];
    all.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name).collect()
}

/// Returns whose kernels multiply with weights of each usual type.
fn kernels() -> Result<Value> {
    let of = |name: &&str| Ok((name.to_string(), json!(ggml::kernel(usual(name)?)?.name())));
    Ok(Value::Object(TYPES.iter().map(of).collect::<Result<_>>()?))
}

fn usual(name: &&str) -> Result<DType> {
    let dtype = TensorType::from_name(name).expect("one of the usual types");
    DType::from_id(dtype.id())
}

/// Returns the devices that compute, each GPU with what the check of its first use found.
fn devices() -> Result<Value> {
    let mut n_gpus = 0;
    let mut found = Vec::new();
    for info in ggml::devices() {
        let number = n_gpus;
        n_gpus += usize::from(info.is_gpu);
        let verdict = match info.is_gpu {
            true => match check(number) {
                Ok(()) => json!("passed"),
                Err(e) => json!(e.to_string()),
            },
            false => Value::Null,
        };
        found.push(device(&info, verdict));
    }
    Ok(found.into())
}

/// Checks the GPU of this number with weights of the usual types and the known models' heads.
fn check(number: usize) -> Result<()> {
    let gpu = Some(number.to_string());
    let mut backend = Backend::new(&BackendOptions { n_threads: 1, gpu })?;
    let types: Vec<DType> = TYPES.iter().map(usual).collect::<Result<_>>()?;
    let mut heads: Vec<HeadShape> = Vec::new();
    for hparams in ["E2B", "E4B"].iter().filter_map(|name| Variant::named(name)) {
        heads.extend(decoder::head_shapes(&hparams.hparams()));
    }
    ggml::check_gpu(&GpuSample::of_types(&types, heads)?, &mut backend)
}

fn device(info: &DeviceInfo, verdict: Value) -> Value {
    json!({
        "check": verdict,
        "name": info.name,
        "description": info.description,
        "is_gpu": info.is_gpu,
        "is_integrated": info.is_integrated,
        "free_bytes": info.free_bytes,
        "total_bytes": info.total_bytes,
    })
}

fn memory() -> Value {
    let bytes = |key| system::proc_kib("/proc/meminfo", key).map(|kib| kib << 10);
    json!({
        "total_bytes": bytes("MemTotal:"),
        "available_bytes": bytes("MemAvailable:"),
        "swap_bytes": bytes("SwapTotal:"),
        "limit_bytes": system::memory_limit_bytes(),
    })
}

fn limits() -> Value {
    LIMITS.iter().map(|(key, name)| ((*key).to_owned(), json!(system::limit(name)))).collect()
}

/// Returns a list of devices, or why it cannot be had.
fn listed<T>(found: Result<Vec<T>>, show: impl Fn(&T) -> Value) -> Value {
    match found {
        Ok(list) => list.iter().map(show).collect(),
        Err(e) => json!({"error": e.to_string()}),
    }
}

fn programs() -> Value {
    let of = |(name, _): &(&str, &str)| {
        let path = system::find_program(name);
        ((*name).to_owned(), json!(path.map(|p| p.display().to_string())))
    };
    PROGRAMS.iter().map(of).collect()
}

/// Returns the report for people.
fn text(report: &Value) -> String {
    let word = |key: &str| plain(&report[key]);
    let cores = format!("{} cores, {} threads used", word("cores"), word("threads"));
    let kernels = report["kernels"].as_object().into_iter().flatten();
    let kernels: Vec<_> = kernels.map(|(k, v)| format!("{k} {}", plain(v))).collect();
    let rows = [
        ("culet", format!("{}, {} {}", word("culet"), word("os"), word("arch"))),
        ("built with", word("built_with")),
        ("processor", format!("{}, {cores}", word("cpu"))),
        ("it has", word("cpu_features")),
        ("kernels for", word("kernel_features")),
        ("kernels used", kernels.join(", ")),
        ("memory", memory_text(&report["memory"])),
        ("limits", limits_text(&report["limits"])),
    ];
    let mut text: String = rows.iter().map(|(k, v)| row(k, v)).collect();
    for d in report["devices"].as_array().into_iter().flatten() {
        let kind = if d["is_gpu"] == true { "GPU" } else { "processor" };
        let (free, total) = (bytes(&d["free_bytes"]), bytes(&d["total_bytes"]));
        let (name, described) = (plain(&d["name"]), plain(&d["description"]));
        text.push_str(&row("device", &format!("{name} ({kind}), {described}, {free} of {total}")));
        if d["is_gpu"] == true {
            text.push_str(&row("its check", &plain(&d["check"])));
        }
    }
    text.push_str(&names_text("microphones", &report["microphones"]));
    text.push_str(&names_text("speakers", &report["speakers"]));
    text.push_str(&names_text("cameras", &report["cameras"]));
    for (name, purpose) in PROGRAMS {
        let found = &report["programs"][name];
        let place = if found.is_null() { "not found".to_owned() } else { plain(found) };
        text.push_str(&row(name, &format!("{place} ({purpose})")));
    }
    text.push_str(&row("to use a GPU", &gpu_text(report)));
    text
}

fn row(key: &str, value: &str) -> String {
    format!("{key:<14}{value}\n")
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "unknown".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => "none".to_owned(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn bytes(value: &Value) -> String {
    value.as_u64().map_or_else(|| "unknown".to_owned(), bytes_text)
}

fn memory_text(memory: &Value) -> String {
    let [available, total] = ["available_bytes", "total_bytes"].map(|key| bytes(&memory[key]));
    let limit = match memory["limit_bytes"].as_u64() {
        Some(n) => format!(", this program at most {}", bytes_text(n)),
        None => String::new(),
    };
    format!("{available} available of {total}, swap {}{limit}", bytes(&memory["swap_bytes"]))
}

fn limits_text(limits: &Value) -> String {
    let all = LIMITS.map(|(key, _)| format!("{} {}", key.replace('_', " "), plain(&limits[key])));
    all.join(", ")
}

fn names_text(key: &str, found: &Value) -> String {
    if let Some(error) = found["error"].as_str() {
        return row(key, error);
    }
    let list = found.as_array().map_or(&[][..], Vec::as_slice);
    let name = |d: &Value| {
        let default = if d["is_default"] == true { " (default)" } else { "" };
        format!("{}{default}", plain(&d["name"]))
    };
    match list.iter().map(name).collect::<Vec<_>>().join("; ") {
        names if names.is_empty() => row(key, "none"),
        names => row(key, &names),
    }
}

fn gpu_text(report: &Value) -> String {
    let devices = report["devices"].as_array().into_iter().flatten();
    let mut gpus = devices.filter(|d| d["is_gpu"] == true).peekable();
    if gpus.peek().is_none() {
        return "none is there, or this build has no kernels for it".to_owned();
    }
    match gpus.find(|d| d["check"] == "passed").map(|d| plain(&d["name"])) {
        Some(name) => format!("--gpu={name}"),
        None => "none that computes rightly".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_said() {
        let report = json!({"memory": {}, "devices": [], "cameras": {"error": "asleep"}});
        let text = text(&report);
        assert!(text.contains("unknown available of unknown"), "{text}");
        assert!(text.contains("cameras       asleep\n"), "{text}");
        assert!(text.contains("microphones   none\n"), "{text}");
    }

    #[test]
    fn a_gpu_that_computes_wrongly_is_not_offered() {
        let gpu = |name, check| json!({"name": name, "is_gpu": true, "check": check});
        let mut report = json!({"devices": [gpu("Vulkan0", "wrong"), gpu("Vulkan1", "passed")]});
        assert!(text(&report).contains("its check     wrong\n"), "{}", text(&report));
        assert_eq!(gpu_text(&report), "--gpu=Vulkan1");
        report["devices"][1]["check"] = json!("wrong, too");
        assert_eq!(gpu_text(&report), "none that computes rightly");
    }
}
