//! Steps: programs that run one after the other, each announced and timed.
//! In: a name and a command line. Out: progress lines on stdout; the first failure ends the run.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

/// Runs steps in one folder and tells the time of each.
pub(crate) struct Steps<'a> {
    folder: &'a Path,
    started: Instant,
    count: usize,
    total: usize,
}

impl<'a> Steps<'a> {
    /// Creates a run of `total` steps in `folder`.
    pub(crate) fn new(folder: &'a Path, total: usize) -> Self {
        Self { folder, started: Instant::now(), count: 0, total }
    }

    /// Announces a step, runs `cargo` with `arguments` and extra environment, and tells the time.
    pub(crate) fn cargo(
        &mut self,
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<(), String> {
        self.count += 1;
        let shown = shown("cargo", arguments, environment);
        println!("==> [{}/{}] {name}: {shown}", self.count, self.total);
        let started = Instant::now();
        let mut command = Command::new(cargo_program());
        command.args(arguments).current_dir(self.folder);
        command.envs(environment.iter().copied());
        let status = command.status().map_err(|e| format!("cargo cannot be started: {e}"))?;
        let took = started.elapsed();
        if !status.success() {
            return Err(format!(
                "step {name} failed ({status}) after {}; repeat it with: {shown}",
                human(took)
            ));
        }
        if self.count < self.total {
            let so_far = human(self.started.elapsed());
            println!("    {name}: done in {}, {so_far} so far", human(took));
        }
        Ok(())
    }
}

/// Returns the cargo that started this program.
pub(crate) fn cargo_program() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Formats a command line as a person would type it.
pub(crate) fn shown(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut words: Vec<String> =
        environment.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
    words.push(program.to_owned());
    words.extend(arguments.iter().map(|word| quoted(word)));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Formats a duration for a person: `0.4 s`, `12 s`, `3 min 05 s`.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_readable() {
        let cases = [(400, "0.4 s"), (12_000, "12 s"), (60_000, "1 min 00 s")];
        for (ms, expected) in cases {
            assert_eq!(human(Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn command_lines_can_be_pasted() {
        let line = shown("cargo", &["doc", "what is it?"], &[("RUSTDOCFLAGS", "-D warnings")]);
        assert_eq!(line, "RUSTDOCFLAGS='-D warnings' cargo doc 'what is it?'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
