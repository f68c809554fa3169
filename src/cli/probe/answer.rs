//! `probe answer`: every stage together, as `run` uses them.
//! In: what `run` takes. Out: the answer as JSON; what its tokens were chosen from as `.npy`.
//! Invariant: at most [`TOKENS_MAX`] rows of logits are held.

use std::path::PathBuf;

use culet::Result;
use culet::text::Parsed;
use serde_json::json;

use crate::cli::print;
use crate::cli::probe::npy;
use crate::cli::run;
use crate::cli::run::Question;

/// Most tokens of an answer, each with a row of logits.
const TOKENS_MAX: usize = 64;

/// What `probe answer` is told.
#[derive(clap::Args)]
pub(super) struct AnswerArgs {
    #[command(flatten)]
    run: run::Args,
    /// Where to write the logits of the answer's tokens, at most 64
    #[arg(long, value_name = "F.npy")]
    out: PathBuf,
}

/// Answers one question and keeps the logits.
pub(super) fn answer(args: &AnswerArgs) -> Result<()> {
    let mut question = Question::new(&args.run, false)?;
    question.prompt()?;
    let session = &mut question.session;
    let (mut parsed, mut n, mut goes_on) = (Parsed::new(), 0, true);
    let mut rows = Vec::new();
    while goes_on && n < args.run.sampling.n_max().min(TOKENS_MAX) {
        goes_on = session.next(&mut |event| parsed.add(event))?;
        rows.extend_from_slice(session.logits());
        n += 1;
    }
    session.cut(&mut |event| parsed.add(event));
    npy::write(&args.out, &[n, rows.len() / n.max(1)], &rows)?;
    print::json(&json!({ "text": parsed.answer }))
}
