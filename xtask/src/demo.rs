//! `cargo xtask demo`: builds the program and gives it a spoken sentence and a picture.
//! In: the repository's root. Out: the commands, as typed, and what the program answers.
//! Source: the model and its held-out sounds and pictures in `models/tiny/`.

use crate::package;
use crate::step::Steps;
use crate::step::human;
use crate::step::shown;
use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

const MODEL_FOLDER: &str = "models/tiny";
const SAMPLE_FOLDER: &str = "models/tiny/heldout";
/// Deepest folder below the samples that is looked into.
const DEPTH_MAX: usize = 3;

/// Installs what is missing, builds `culet` and runs it on a sound and a picture.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    let sounds = files(root, SAMPLE_FOLDER, &["wav", "flac"]);
    let pictures = files(root, SAMPLE_FOLDER, &["png"]);
    let models = files(root, MODEL_FOLDER, &["gguf"]);
    let (mmproj, model) = models.into_iter().partition::<Vec<_>, _>(|path| is_mmproj(path));
    let model = first(model, "model (*.gguf)", MODEL_FOLDER)?;
    let mmproj = first(mmproj, "encoder file (*mmproj*.gguf)", MODEL_FOLDER)?;
    let sound = first(sounds, "sound (*.wav, *.flac)", SAMPLE_FOLDER)?;
    let picture = first(pictures, "picture (*.png)", SAMPLE_FOLDER)?;
    package::install_missing()?;
    // With a total one higher than its steps, the last step tells its time as well.
    Steps::new(root, 2).cargo("build", &["build", "--release", "--bin", "culet"], &[])?;
    let both = ["--model", model.as_str(), "--mmproj", mmproj.as_str()];
    let hear = [&["run"], &both[..], &["--audio", &sound, "Transcribe."]].concat();
    let see = [&["run"], &both[..], &["--image", &picture, "Describe the picture."]].concat();
    ask(root, "It hears", &hear)?;
    ask(root, "It sees", &see)?;
    println!("\nNext: target/release/culet --help");
    Ok(())
}

fn ask(root: &Path, title: &str, arguments: &[&str]) -> Result<(), String> {
    let program = Path::new("target/release").join(format!("culet{}", env::consts::EXE_SUFFIX));
    let program = match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => {
            PathBuf::from(folder).join("release").join(program.file_name().unwrap_or_default())
        }
        None => root.join(program),
    };
    println!("\n==> {title}\n$ {}", shown("target/release/culet", arguments, &[]));
    let started = Instant::now();
    let status = Command::new(&program)
        .args(arguments)
        .current_dir(root)
        .status()
        .map_err(|e| format!("{} cannot be started: {e}", program.display()))?;
    if !status.success() {
        return Err(format!("culet {} ended with {status}", arguments.join(" ")));
    }
    println!("    ({})", human(started.elapsed()));
    Ok(())
}

fn first(paths: Vec<String>, what: &str, folder: &str) -> Result<String, String> {
    paths.into_iter().next().ok_or_else(|| {
        format!(
            "{folder} has no {what}, so there is nothing to show; check out the repository whole"
        )
    })
}

fn is_mmproj(path: &str) -> bool {
    path.rsplit('/').next().unwrap_or(path).contains("mmproj")
}

/// Returns the files below `folder` that end in one of `endings`, sorted, relative to `root`.
fn files(root: &Path, folder: &str, endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).into_iter().flatten().flatten() {
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() && depth < DEPTH_MAX {
                folders.push((path, depth + 1));
            } else if endings.iter().any(|ending| path.ends_with(&format!(".{ending}"))) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoder_files_are_told_by_name() {
        assert!(is_mmproj("models/tiny/mmproj-tiny.gguf"));
        assert!(!is_mmproj("mmproj/tiny.gguf"));
    }

    #[test]
    fn files_are_found_below_and_sorted() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let found = files(root, "src", &["rs"]);
        assert!(found.contains(&"src/demo.rs".to_owned()), "{found:?}");
        assert!(found.is_sorted());
        assert!(files(root, "src", &["gguf"]).is_empty());
    }

    #[test]
    fn nothing_to_show_is_said() {
        let message = first(Vec::new(), "sound (*.wav)", "models/tiny");
        assert!(message.is_err_and(|m| m.starts_with("models/tiny has no sound (*.wav)")));
    }
}
