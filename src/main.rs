//! The program `culet`.
//! In: arguments, standard input, files. Out: the result on stdout, words for people on stderr.
//! Invariant: exit 0 done, 1 failed, 2 usage, 130 interrupted.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let program = cli::Program::parse();
    cli::print::start_log(program.verbose, program.quiet);
    cli::print::hush_guarded_panics();
    match program.verb.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::print::failure(&error),
    }
}
