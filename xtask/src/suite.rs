//! `cargo xtask test`: every check of the repository, cheapest first, tests last.
//! In: the repository's root. Out: the checkers' own output.
//! Invariant: two feature sets only, so that the kernels are compiled at most twice.

use crate::package;
use crate::step::Steps;
use std::path::Path;

/// One check: its name, cargo's arguments and extra environment.
type Check = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

#[rustfmt::skip]
const CHECKS: [Check; 7] = [
    ("format", &["fmt", "--all", "--check"], &[]),
    ("build", &["build", "--workspace", "--release", "--features", "culet/reference"], &[]),
    ("lints",
     &["clippy", "--workspace", "--release", "--features", "culet/reference", "--all-targets",
       "--", "-D", "warnings"], &[]),
    ("docs",
     &["doc", "--workspace", "--release", "--features", "culet/reference", "--no-deps"],
     &[("RUSTDOCFLAGS", "-D warnings")]),
    ("build without default features",
     &["build", "-p", "culet", "-p", "culet-ffi", "--release", "--no-default-features"], &[]),
    ("doc tests",
     &["test", "--workspace", "--release", "--features", "culet/reference", "--doc"], &[]),
    ("tests",
     &["test", "--workspace", "--release", "--features", "culet/reference", "--lib", "--bins",
       "--tests", "--examples"], &[]),
];

/// Installs what is missing and runs all checks until one fails.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    package::install_missing()?;
    package::install_rust_parts(root)?;
    let mut steps = Steps::new(root, CHECKS.len());
    for (name, arguments, environment) in CHECKS {
        steps.cargo(name, arguments, environment)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_feature_sets_at_most() {
        let sets: Vec<&str> = CHECKS
            .iter()
            .filter(|(_, arguments, _)| arguments[0] != "fmt")
            .map(|(_, arguments, _)| {
                assert!(arguments.contains(&"--release"), "{arguments:?} needs --release");
                let reference = arguments.contains(&"culet/reference");
                if reference { "reference" } else { "bare" }
            })
            .collect();
        assert!(sets.contains(&"reference") && sets.contains(&"bare"));
    }

    #[test]
    fn tests_come_last() {
        assert_eq!(CHECKS[CHECKS.len() - 1].0, "tests");
        assert_eq!(CHECKS[0].0, "format");
    }
}
