//! `culet bench`: speed and memory, and files to measure them with.
//!
//! In: a model or the shape of one. Out: rows, or a file.
//! Invariant: nothing is reported whose answer was not looked at; unmeasured is empty, not zero.

mod blocks;
mod pieces;
mod synthesize;

use std::path::Path;

use culet::Error;
use culet::Result;

/// What `bench` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write a model file with random weights, e.g. e2b-q4_0, e4b-q4_k_m, mmproj-q8_0
    #[arg(long, num_args = 2, value_names = ["SHAPE-QUANT", "PATH"])]
    synthesize: Option<Vec<String>>,
}

/// Measures, or writes a file to measure.
pub(crate) fn run(args: Args) -> Result<()> {
    if let Some([what, path]) = args.synthesize.as_deref() {
        return synthesize::synthesize(what, Path::new(path));
    }
    Err(Error::input("nothing to do; name --synthesize SHAPE-QUANT PATH"))
}
