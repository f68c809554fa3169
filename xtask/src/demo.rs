//! `cargo xtask demo`: builds the program and gives it a spoken sentence and a picture.
//! In: the repository's root. Out: the commands, as typed, what was to be heard and seen, and what
//! the program answers.
//! Source: the model in `models/tiny/` and the examples that its training never saw.

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
const EXAMPLE_FOLDER: &str = "models/tiny/heldout";
/// What is shown: the task, the kind of its file, and a title.
const SCENES: [(&str, &str, &str); 2] =
    [("transcribe", "audio", "It hears"), ("caption", "image", "It sees")];

/// One held-out example.
#[derive(Debug, PartialEq)]
struct Example {
    file: String,
    prompt: String,
    expected: String,
}

/// Installs what is missing, builds `culet` and runs it on a sound and a picture.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    let model = model_file(root, false)?;
    let mmproj = model_file(root, true)?;
    let manifest = format!("{EXAMPLE_FOLDER}/manifest.jsonl");
    let examples = fs::read_to_string(root.join(&manifest))
        .map_err(|e| format!("{manifest} cannot be read: {e}; check out the repository whole"))?;
    package::install_missing()?;
    let mut steps = Steps::new(root, 1);
    steps.cargo("build", &["build", "--release", "--bin", "culet"], &[])?;
    for (task, kind, title) in SCENES {
        let example = first_example(&examples, task, kind)
            .ok_or_else(|| format!("{manifest} has no {task} example with {kind}"))?;
        let file = format!("{EXAMPLE_FOLDER}/{}", example.file);
        let option = format!("--{kind}");
        let arguments = [
            "run",
            "--model",
            &model,
            "--mmproj",
            &mmproj,
            "--greedy",
            "--budget",
            "70",
            &option,
            &file,
            &example.prompt,
        ];
        ask(root, &format!("{title}: {:?}", example.expected), &arguments)?;
        if kind == "audio" {
            let tools = format!("{MODEL_FOLDER}/tools.json");
            let arguments = ["voice", "--greedy", &option, &file, "--tools", &tools];
            ask(root, "It acts on the same words, heard while they are spoken", &arguments)?;
        }
    }
    println!("\nNext: target/release/culet --help");
    Ok(())
}

fn ask(root: &Path, title: &str, arguments: &[&str]) -> Result<(), String> {
    let built = format!("release/culet{}", env::consts::EXE_SUFFIX);
    let folder = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let program = root.join(folder).join(built);
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

/// Returns the shipped model, or the file of its encoders.
fn model_file(root: &Path, is_mmproj: bool) -> Result<String, String> {
    let entries = fs::read_dir(root.join(MODEL_FOLDER)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".gguf") && name.contains("mmproj") == is_mmproj)
        .collect();
    names.sort();
    let name = names.into_iter().next().ok_or_else(|| {
        let what = if is_mmproj { "*mmproj*.gguf" } else { "*.gguf" };
        format!("{MODEL_FOLDER} has no {what}; check out the repository whole")
    })?;
    Ok(format!("{MODEL_FOLDER}/{name}"))
}

/// Returns the first example of `task` whose user gives one file of `kind`, and a prompt.
fn first_example(manifest: &str, task: &str, kind: &str) -> Option<Example> {
    manifest.lines().find_map(|row| {
        let example = Example {
            file: text_field(row, kind)?,
            prompt: text_field(row, "text")?,
            expected: text_field(row, "expect")?,
        };
        (text_field(row, "task")? == task).then_some(example)
    })
}

/// Returns a text field of a row of JSON; none if it holds escapes, which no row shown here does.
fn text_field(row: &str, name: &str) -> Option<String> {
    let (_, behind) = row.split_once(&format!("\"{name}\": \""))?;
    let (value, _) = behind.split_once('"')?;
    (!value.contains('\\')).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_found_by_task_and_kind() {
        let manifest = "\
{\"task\": \"act\", \"user\": [{\"audio\": \"a.flac\"}], \"expect\": \"call\"}\n\
{\"task\": \"caption\", \"user\": [{\"image\": \"b.png\"}, {\"text\": \"What?\"}], \
\"expect\": \"c\"}";
        let expected =
            Example { file: "b.png".into(), prompt: "What?".into(), expected: "c".into() };
        assert_eq!(first_example(manifest, "caption", "image"), Some(expected));
        assert_eq!(first_example(manifest, "act", "audio"), None);
        assert_eq!(text_field("{\"expect\": \"a\\\"b\"}", "expect"), None);
    }

    #[test]
    fn the_repository_has_something_to_show() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in it");
        assert!(model_file(root, false).is_ok_and(|name| !name.contains("mmproj")));
        assert!(model_file(root, true).is_ok_and(|name| name.contains("mmproj")));
        let manifest = fs::read_to_string(root.join(EXAMPLE_FOLDER).join("manifest.jsonl"));
        let manifest = manifest.expect("the held-out examples have a manifest");
        for (task, kind, _) in SCENES {
            let example = first_example(&manifest, task, kind).expect(task);
            assert!(root.join(EXAMPLE_FOLDER).join(example.file).is_file());
        }
    }
}
