//! Commands of the repository: `cargo xtask test`, `cargo xtask demo`, `cargo xtask dist`.
//! In: the name of a command. Out: progress on stdout; exit status 0 done, 1 failed, 2 usage.
//! Source: `std` only, because the program itself cannot be built before this has run.
//! Invariant: nothing is installed that is already there, so a prepared machine needs no network.

mod demo;
mod dist;
mod notices;
mod package;
mod step;
mod suite;

use std::env;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

commands:
  test    install what is missing, then run every check of this repository
  demo    install what is missing, build culet and give it a sound and a picture
  dist T  build and pack program and library for a target, such as aarch64-linux";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let names: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match names.as_slice() {
        ["test"] => suite::run(&root()),
        ["demo"] => demo::run(&root()),
        ["dist", target] => dist::run(&root(), target),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{}\n\n{USAGE}", complaint(&names));
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Says what is wrong with the command line.
fn complaint(names: &[&str]) -> String {
    match names {
        [] => "xtask: no command given".to_owned(),
        ["dist"] => "xtask: dist needs a target; see cross/README.md".to_owned(),
        ["dist", _, extra, ..] => format!("xtask: argument not known: {extra}"),
        ["test" | "demo", extra, ..] => format!("xtask: argument not known: {extra}"),
        [other, ..] => format!("xtask: command not known: {other}"),
    }
}

/// Returns the repository's root: the folder above this package.
fn root() -> PathBuf {
    let package =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("xtask"), PathBuf::from);
    package.parent().unwrap_or(Path::new(".")).to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_name_the_argument() {
        let cases: [(&[&str], &str); 5] = [
            (&[], "no command given"),
            (&["dist"], "needs a target"),
            (&["test", "-v"], "-v"),
            (&["demo", "now"], "now"),
            (&["tset"], "tset"),
        ];
        for (names, expected) in cases {
            let text = complaint(names);
            assert!(text.contains(expected), "{names:?} gave {text:?}");
        }
    }
}
