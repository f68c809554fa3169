//! `culet transcribe`: writes down what is said; `culet translate`: and says it in another tongue.
//! In: sound. Out: a line for each segment as it is made, or one JSON document.
//! Source of the prompts: Gemma model card, section on speech.

use culet::Result;
use culet::assistant::Dictation;
use culet::assistant::Written;
use culet::assistant::about_sound;
use culet::assistant::dictation_options;
use culet::assistant::transcribe_prompt;
use culet::session::Session;
use culet::session::SessionOptions;
use serde_json::Value;
use serde_json::json;

use crate::cli::model::ModelArgs;
use crate::cli::print;
use crate::cli::voice::sound::SoundArgs;

/// Most tokens of a segment: 30 s are 750 soft tokens, and their text comes on top.
const N_CTX: usize = 2048;

/// What `transcribe` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    output: OutputArgs,
    /// Language that is spoken, such as English [default: the model finds out]
    #[arg(short, long, value_name = "LANGUAGE")]
    language: Option<String>,
}

/// What `translate` is told.
#[derive(clap::Args)]
pub(crate) struct TranslateArgs {
    #[command(flatten)]
    output: OutputArgs,
    /// Language to translate into, such as German
    #[arg(long, value_name = "LANGUAGE")]
    to: String,
    /// Language that is spoken [default: the model finds out]
    #[arg(long, value_name = "LANGUAGE")]
    from: Option<String>,
}

/// What both are told.
#[derive(clap::Args)]
struct OutputArgs {
    #[command(flatten)]
    sound: SoundArgs,
    /// Ask this instead of the usual words
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Put the times of each segment, in seconds, before its text
    #[arg(long, conflicts_with = "json")]
    times: bool,
    /// Write one JSON document: the text, and segments with start and end in seconds
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// Writes down what is said.
pub(crate) fn run(args: &Args) -> Result<()> {
    args.output.run(&transcribe_prompt(args.language.as_deref()))
}

/// Writes down what is said and what it means in another language.
pub(crate) fn run_translate(args: &TranslateArgs) -> Result<()> {
    args.output.run(&translate_prompt(args.from.as_deref(), &args.to))
}

fn translate_prompt(from: Option<&str>, to: &str) -> String {
    let from = from.unwrap_or("its original language");
    format!(
        "Transcribe the following speech segment in {from}, then translate it into {to}.\n\
        When formatting the answer, first output the transcription in {from}, then one newline, \
        then output the string '{to}: ', then the translation in {to}."
    )
}

impl OutputArgs {
    fn run(&self, prompt: &str) -> Result<()> {
        let Some(blocks) = self.sound.open()? else {
            print::usage("nothing to listen to: give --audio or --stdin");
        };
        let engine = self.model.open(true)?;
        let n_ctx = N_CTX.min(engine.decoder().hparams().n_ctx_train);
        let session = Session::new(&engine, &SessionOptions::greedy(n_ctx))?;
        let conversation = about_sound(self.prompt.as_deref().unwrap_or(prompt));
        let mut dictation = Dictation::new(session, conversation, &dictation_options())?;
        let mut page = Page { args: self, line: String::new(), segments: Vec::new() };
        let mut seconds = 0.0;
        for pcm in blocks {
            let pcm = pcm?;
            seconds += pcm.seconds();
            dictation.hear(&pcm, &mut |written| page.write(written))?;
        }
        dictation.finish(&mut |written| page.write(written))?;
        page.finish(seconds)
    }
}

/// What was written so far.
struct Page<'a> {
    args: &'a OutputArgs,
    line: String,
    segments: Vec<Value>,
}

impl Page<'_> {
    fn write(&mut self, written: Written<'_>) -> Result<()> {
        match written {
            Written::Begin { .. } => {
                self.line.clear();
                Ok(())
            }
            Written::Text(text) => {
                self.line.push_str(text);
                Ok(())
            }
            Written::End { from_s, to_s, .. } => self.end(from_s, to_s),
        }
    }

    fn end(&mut self, from_s: f64, to_s: f64) -> Result<()> {
        let text = self.line.trim();
        if text.is_empty() {
            return Ok(());
        }
        let (start, end) = (rounded(from_s), rounded(to_s));
        self.segments.push(json!({ "start": start, "end": end, "text": text }));
        match (self.args.json, self.args.times) {
            (true, _) => Ok(()),
            (false, true) => print::result(&format!("{start:.2}\t{end:.2}\t{text}\n")),
            (false, false) => print::result(&format!("{text}\n")),
        }
    }

    fn finish(self, seconds: f64) -> Result<()> {
        if self.segments.is_empty() {
            print::say("no speech was heard");
        }
        if !self.args.json {
            return Ok(());
        }
        let texts: Vec<&str> = self.segments.iter().filter_map(|s| s["text"].as_str()).collect();
        let text = texts.join("\n");
        let (seconds, segments) = (rounded(seconds), &self.segments);
        print::json(&json!({ "text": text, "seconds": seconds, "segments": segments }))
    }
}

/// Rounds seconds to milliseconds.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_name_the_languages() {
        let cases = [
            (transcribe_prompt(Some("German")), "segment in German into German text.\n\nFollow"),
            (transcribe_prompt(None), "segment in its original language.\n"),
            (translate_prompt(Some("French"), "Dutch"), "in French, then translate it into Dutch."),
            (translate_prompt(None, "Dutch"), "the string 'Dutch: ', then the translation"),
        ];
        for (prompt, expected) in cases {
            assert!(prompt.contains(expected), "{prompt}");
            assert!(!prompt.contains("  "), "{prompt}");
        }
    }
}
