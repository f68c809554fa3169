//! Which model files a verb uses, and how they are opened.
//! In: options, `CULET_MODELS`. Out: an open `Engine`.
//! Invariant: a model is looked for only beside the program, in the current folder and its
//! parents, and where `CULET_MODELS` says.

use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use culet::Error;
use culet::Result;
use culet::engine::Engine;
use culet::engine::EngineOptions;
use culet::ggml::BackendOptions;
use culet::ggml::DType;
use culet::gguf::Gguf;
use culet::model::EncoderHParams;
use culet::model::HParams;

use crate::cli::print::Progress;

/// Where the model that ships lies, below any folder that is searched.
const SHIPPED_FOLDERS: [&str; 4] = ["models/tiny", "share/culet/models", "tiny", "."];
/// How its file's name begins.
const SHIPPED_NAME: &str = "culet-tiny";
/// The list of words that the model that ships was taught to hear, beside it.
const SHIPPED_WORDS: &str = "culet-tiny-words.txt";
/// Names the folder with models.
const MODELS_VARIABLE: &str = "CULET_MODELS";

/// Which model, and on what it runs.
#[derive(clap::Args)]
pub(crate) struct ModelArgs {
    /// GGUF file of the model [default: the small one that ships]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) model: Option<PathBuf>,
    /// GGUF file of its encoders [default: the one beside the model]
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// Leave out the encoders: text only
    #[arg(long, conflicts_with = "mmproj")]
    no_mmproj: bool,
    /// Processor threads [default: one for each logical core, at most 8]
    #[arg(short, long, value_name = "N", default_value = "0", hide_default_value = true)]
    threads: usize,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Most memory for weights, caches and intermediate values, such as 2GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory: Option<u64>,
}

/// Which GPU computes, and how much it may hold.
#[derive(clap::Args, Default)]
pub(crate) struct GpuArgs {
    /// Compute on a GPU: the one with this name or number, the "largest" in memory, or without
    /// a value the one with most memory of its own
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true,
        default_missing_value = "")]
    gpu: Option<String>,
    /// Most GPU memory for weights, such as 2GiB; what does not fit stays with the processor
    /// [default: three quarters of what is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, requires = "gpu")]
    gpu_memory: Option<u64>,
}

impl GpuArgs {
    /// Returns how an engine is opened.
    pub(crate) fn options(&self, n_threads: usize, memory: Option<u64>) -> EngineOptions {
        EngineOptions {
            backend: BackendOptions { n_threads, gpu: self.gpu.clone() },
            memory_bytes_max: memory,
            gpu_bytes_max: self.gpu_memory,
        }
    }
}

/// Type of cached keys and values.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum KvKind {
    F16,
    #[value(name = "q8_0")]
    Q8,
    #[value(name = "q4_0")]
    Q4,
    F32,
}

impl KvKind {
    /// Returns the element type.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F16 => DType::F16,
            Self::Q8 => DType::Q8_0,
            Self::Q4 => DType::Q4_0,
            Self::F32 => DType::F32,
        }
    }
}

impl ModelArgs {
    /// Opens the model; `with_media` if pictures or sounds will certainly be given.
    ///
    /// # Errors
    /// `Io` if there is no model; `Input` if several files of encoders fit and one is needed;
    /// whatever opening brings.
    pub(crate) fn open(&self, with_media: bool) -> Result<Arc<Engine>> {
        let mut progress = Progress::new();
        let model = match &self.model {
            Some(path) => path.clone(),
            None => shipped_model()?,
        };
        progress.set(&format!("opening {}", model.display()));
        let mmproj = self.choose_mmproj(&model, with_media)?;
        let options = self.gpu.options(self.threads, self.memory);
        Engine::open(&model, mmproj.as_deref(), &options)
    }

    /// Returns whether this is the model's file, with the encoders beside it.
    ///
    /// # Errors
    /// `Io` if there is no model.
    pub(crate) fn is_at(&self, path: &Path) -> Result<bool> {
        let own = self.model.clone().map_or_else(shipped_model, Ok)?;
        let real = |path: &Path| fs::canonicalize(path).ok();
        let is_usual = self.mmproj.is_none() && !self.no_mmproj;
        Ok(is_usual && real(&own).is_some() && real(&own) == real(path))
    }

    /// Returns how another model is opened on the same processor.
    pub(crate) fn beside(&self, path: PathBuf) -> Self {
        let (model, mmproj, gpu) = (Some(path), None, GpuArgs::default());
        Self { model, mmproj, no_mmproj: false, threads: self.threads, gpu, memory: self.memory }
    }

    /// Returns whether a GPU is asked for.
    pub(crate) fn wants_gpu(&self) -> bool {
        self.gpu.gpu.is_some()
    }

    fn choose_mmproj(&self, model: &Path, with_media: bool) -> Result<Option<PathBuf>> {
        if self.no_mmproj || self.mmproj.is_some() {
            return Ok(self.mmproj.clone());
        }
        let mut fitting = fitting_mmproj(model)?;
        match fitting.len() {
            0 | 1 => Ok(fitting.pop()),
            _ if !with_media => Ok(None),
            n => {
                let name = |path: &PathBuf| path.file_name().map(|n| n.display().to_string());
                let names: Vec<String> = fitting.iter().filter_map(name).collect();
                let (model, names) = (model.display(), names.join(", "));
                Err(Error::input(format!(
                    "{model}: {n} mmproj files beside it fit ({names}); choose one with --mmproj"
                )))
            }
        }
    }
}

/// Returns the files of encoders beside a model that have its width, by name.
pub(crate) fn fitting_mmproj(model: &Path) -> Result<Vec<PathBuf>> {
    let folder = match model.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let is_mmproj = |name: &str| name.contains("mmproj");
    let found = files(folder, is_mmproj).into_iter().filter(|path| path != model);
    let mut found = found.peekable();
    if found.peek().is_none() {
        return Ok(Vec::new());
    }
    let n_embd = HParams::read(&Gguf::open(model)?)?.n_embd;
    let fits = |path: &PathBuf| {
        let read = Gguf::open(path).and_then(|file| EncoderHParams::read(&file, n_embd));
        if let Err(error) = &read {
            log::info!("left out: {error}");
        }
        read.is_ok()
    };
    Ok(found.filter(fits).collect())
}

/// Returns the GGUF files of a folder whose lower-case name pleases, by name.
fn files(folder: &Path, pleases: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase());
        name.is_some_and(|name| name.ends_with(".gguf") && pleases(&name)) && path.is_file()
    });
    let mut paths: Vec<PathBuf> = paths.collect();
    paths.sort();
    paths
}

/// Returns the list of words that the model at `path` can hear; none unless it is the one that
/// ships.
pub(crate) fn words(path: &Path) -> Option<PathBuf> {
    let is_shipped = path.file_name()?.to_string_lossy().starts_with(SHIPPED_NAME);
    Some(path.with_file_name(SHIPPED_WORDS)).filter(|words| is_shipped && words.is_file())
}

pub(crate) fn shipped_model() -> Result<PathBuf> {
    let named = env::var_os(MODELS_VARIABLE).map(PathBuf::from);
    let program = env::current_exe().ok();
    let program = program.iter().flat_map(|path| path.ancestors().skip(1));
    let current = env::current_dir().ok();
    let current = current.iter().flat_map(|path| path.ancestors());
    let roots = named.iter().map(PathBuf::as_path).chain(current).chain(program);
    let is_shipped = |name: &str| name.starts_with(SHIPPED_NAME);
    let mut places = roots.flat_map(|root| SHIPPED_FOLDERS.map(|folder| root.join(folder)));
    places.find_map(|folder| files(&folder, is_shipped).into_iter().next()).ok_or_else(|| {
        let how = format!("name a model with --model, or its folder with {MODELS_VARIABLE}");
        Error::io(format!("the model that ships was not found beside the program; {how}"))
    })
}

/// Reads a size such as `2GiB`, `512 MiB`, `1.5G` or plain bytes.
pub(crate) fn parse_bytes(text: &str) -> std::result::Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err("expected a size such as 2GiB or 512MiB".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "expected a number such as 2GiB".to_owned())?;
    Ok((number * f64::from(1_u32 << shift)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let cases = [
            ("2GiB", Some(2 << 30)),
            ("1.5 g", Some(3 << 29)),
            ("512MB", Some(512 << 20)),
            ("7", Some(7)),
            ("", None),
            ("GiB", None),
            ("2 parsecs", None),
            ("-1", None),
            ("1.2.3", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse_bytes(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn only_fitting_encoders_are_chosen() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let names = |model: &str| -> Vec<String> {
            let found = fitting_mmproj(&root.join(model)).unwrap();
            found.iter().map(|p| p.file_name().unwrap().display().to_string()).collect()
        };
        assert_eq!(names("fixtures/media.gguf"), ["media-mmproj.gguf"]);
        assert_eq!(names("fixtures/odd.gguf"), [] as [&str; 0]);
        assert_eq!(names("tiny/culet-tiny-q4_0.gguf").len(), 1);
    }
}
