//! The program's only way to the outside: results, words for people, errors, the log.
//! In: texts, JSON values, errors. Out: stdout for results, stderr for the rest, the exit code.
//! Invariant: a reader that closes the pipe ends the program quietly.

use std::error::Error as StdError;
use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::panic;
use std::process::ExitCode;

use culet::Error;
use culet::ErrorKind;
use culet::Result;
use culet::error::is_guarded;
use log::Level;
use log::LevelFilter;
use serde_json::Value;

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;
/// Exit code of what Ctrl-C ended.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Sends the log to stderr: warnings, or what `-v` and `-q` ask for.
pub(crate) fn start_log(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::Error,
        (_, 0) => LevelFilter::Warn,
        (_, 1) => LevelFilter::Info,
        _ => LevelFilter::Debug,
    };
    env_logger::Builder::new()
        .filter_module("culet", level)
        .filter_level(level.min(LevelFilter::Warn))
        .filter_module("culet::profile", if verbose > 1 { LevelFilter::Trace } else { level })
        .format(|out, record| match record.level() {
            Level::Error => writeln!(out, "error: {}", record.args()),
            Level::Warn => writeln!(out, "warning: {}", record.args()),
            Level::Info => writeln!(out, "{}", record.args()),
            _ => writeln!(out, "{}: {}", record.target(), record.args()),
        })
        .init();
}

/// Says nothing of panics that the library catches in decoders and turns into errors.
pub(crate) fn hush_guarded_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !is_guarded() {
            usual(info);
        }
    }));
}

/// Writes a piece of the result, at once.
pub(crate) fn result(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| Error::io("the result cannot be written to stdout").with_source(e))
}

/// Writes the result as one JSON document.
pub(crate) fn json(value: &Value) -> Result<()> {
    result(&format!("{value}\n"))
}

/// Says a line to the person, unless `-q` forbids it.
pub(crate) fn say(text: &str) {
    say_part(&format!("{text}\n"));
}

/// Says a piece of a line to the person, unless `-q` forbids it.
pub(crate) fn say_part(text: &str) {
    if log::max_level() > LevelFilter::Error {
        // A closed stderr leaves nobody to tell.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

/// Tells what is wrong with the arguments and ends the program.
pub(crate) fn usage(what: &str) -> ! {
    let _ = writeln!(io::stderr().lock(), "error: {what}\nhint: culet --help tells what to give");
    std::process::exit(i32::from(EXIT_USAGE))
}

/// A line on a terminal that is rewritten while something takes long.
pub(crate) struct Progress {
    is_shown: bool,
    length: usize,
}

impl Progress {
    /// Starts a line; it shows only where stderr is a terminal.
    pub(crate) fn new() -> Self {
        let is_shown = io::stderr().is_terminal() && log::max_level() > LevelFilter::Error;
        Self { is_shown, length: 0 }
    }

    /// Tells whether anybody sees it.
    pub(crate) fn is_shown(&self) -> bool {
        self.is_shown
    }

    /// Replaces what the line says.
    pub(crate) fn set(&mut self, text: &str) {
        if self.is_shown {
            let width = self.length;
            let _ = write!(io::stderr().lock(), "\r{text:width$}\r{text}");
            self.length = text.chars().count();
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.is_shown && self.length > 0 {
            let _ = write!(io::stderr().lock(), "\r{:width$}\r", "", width = self.length);
            self.length = 0;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Tells what went wrong and returns the exit code.
pub(crate) fn failure(error: &Error) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::Cancelled {
        return ExitCode::from(EXIT_INTERRUPTED);
    }
    let _ = io::stderr().lock().write_all(failure_text(error).as_bytes());
    ExitCode::from(EXIT_FAILED)
}

/// Returns the chain of an error and its hint, a line each.
pub(crate) fn failure_text(error: &Error) -> String {
    let mut text = format!("error: {error}\n");
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(&format!("  because: {e}\n"));
        cause = e.source();
    }
    if let Some(hint) = hint(error) {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}

/// Returns what to do, where the message does not say it already.
fn hint(error: &Error) -> Option<&'static str> {
    if error.message().contains("; ") {
        return None;
    }
    match error.kind() {
        ErrorKind::Io => Some("check the path and whether you may read or write it"),
        ErrorKind::Format => Some("fetch the file again; `culet show FILE` tells what it holds"),
        ErrorKind::Unsupported => Some("use a GGUF file of Gemma 4 E2B or E4B"),
        ErrorKind::Memory => Some("lower --ctx, or keep the cache smaller with --kv q8_0"),
        ErrorKind::Device => Some("leave out --gpu to compute on the processor"),
        ErrorKind::Busy => Some("close what else uses it and try again"),
        ErrorKind::Internal => Some("this is a bug, please report it"),
        _ => None,
    }
}

/// Tells whether nobody reads stdout any more.
pub(crate) fn is_closed_pipe(error: &Error) -> bool {
    let cause = error.source().and_then(|e| e.downcast_ref::<io::Error>());
    cause.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_come_before_the_hint() {
        let cause = io::Error::other("disk gone");
        let text = failure_text(&Error::io("a.gguf: cannot be read").with_source(cause));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "error: a.gguf: cannot be read");
        assert_eq!(lines[1], "  because: disk gone");
        assert!(lines[2].starts_with("hint: "), "{text}");
    }

    #[test]
    fn a_message_with_its_remedy_needs_no_hint() {
        let text = failure_text(&Error::memory("needs 2 GiB, limit is 1 GiB; 512 would fit"));
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn only_a_closed_pipe_is_quiet() {
        let cases = [(io::ErrorKind::BrokenPipe, true), (io::ErrorKind::NotFound, false)];
        for (kind, quiet) in cases {
            let error = Error::io("x").with_source(io::Error::from(kind));
            assert_eq!(is_closed_pipe(&error), quiet, "{kind:?}");
        }
    }
}
