//! The wake word of `culet voice`: which phrase, and which model listens for it.
//! In: arguments. Out: a look-out for the conversation.
//! Invariant: the model that answers is given nothing before the phrase was heard.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use culet::Error;
use culet::Result;
use culet::assistant::Lookout;
use culet::assistant::Phrase;
use culet::engine::Engine;
use culet::session::Session;

use crate::cli::model;
use crate::cli::model::ModelArgs;

const MS_PER_SECOND: f32 = 1e3;

/// Whether and how it is called.
#[derive(clap::Args)]
pub(super) struct WakeArgs {
    /// Answer only what begins with this word or phrase, or follows it
    #[arg(long, value_name = "PHRASE", value_parser = parse_phrase)]
    #[arg(conflicts_with = "push_to_talk")]
    wake: Option<Phrase>,
    /// GGUF file of the model that listens for it [default: the small one that ships, which was
    /// taught 170 English words]
    #[arg(long, value_name = "FILE", requires = "wake")]
    wake_model: Option<PathBuf>,
    /// How long after an answer a question needs no wake word; 0 for never
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    follow_up: f32,
}

fn parse_phrase(text: &str) -> std::result::Result<Phrase, String> {
    Phrase::new(text).map_err(|e| e.to_string())
}

fn parse_seconds(text: &str) -> std::result::Result<f32, String> {
    let seconds = text.parse().ok().filter(|s| (0.0..=600.0).contains(s));
    seconds.ok_or_else(|| "expected 0 to 600".to_owned())
}

impl WakeArgs {
    /// Returns whether a phrase must come first.
    pub(super) fn is_wanted(&self) -> bool {
        self.wake.is_some()
    }

    /// Returns how long an answer keeps it awake, in milliseconds.
    pub(super) fn follow_up_ms(&self) -> u32 {
        (self.follow_up * MS_PER_SECOND) as u32
    }

    /// Opens the model that listens for the phrase; nothing if there is none. It is the model that
    /// answers if both are the same file.
    ///
    /// # Errors
    /// `Input` if the model that ships was never taught the phrase; whatever opening brings.
    pub(super) fn open(
        &self,
        answering: &ModelArgs,
        engine: &Arc<Engine>,
    ) -> Result<Option<Lookout>> {
        let Some(phrase) = &self.wake else { return Ok(None) };
        let path = self.wake_model.clone().map_or_else(model::shipped_model, Ok)?;
        if let Some(words) = model::words(&path) {
            let name = words.display();
            let text = fs::read_to_string(&words)
                .map_err(|e| Error::io("cannot be read").with_source(e).at(&name))?;
            check(phrase, &text)
                .map_err(|e| Error::input(format!("{e}; its words are in {name}")))?;
        }
        let small = match answering.is_at(&path)? {
            true => Arc::clone(engine),
            false => answering.beside(path).open(true)?,
        };
        let options = Lookout::options(small.decoder().hparams().n_ctx_train);
        Lookout::new(Session::new(&small, &options)?, phrase.clone()).map(Some)
    }
}

/// Refuses a phrase with a word that is not on the list.
fn check(phrase: &Phrase, list: &str) -> Result<()> {
    let unknown = phrase.words().iter().find(|&word| !list.lines().any(|line| line == word));
    let Some(word) = unknown else { return Ok(()) };
    Err(Error::input(format!(
        "wake word: the model that ships was never taught {word:?}, expected words such as \
        \"hello\" or \"good morning\"; or let another model listen with --wake-model"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_were_never_taught_are_named() {
        let list = "good\nhello\nmorning\n";
        let phrase = |text| Phrase::new(text).expect("it has words");
        assert!(check(&phrase("Good Morning!"), list).is_ok());
        let message = check(&phrase("good jarvis"), list).expect_err("unknown").to_string();
        assert!(message.contains("\"jarvis\"") && message.contains("--wake-model"), "{message}");
    }

    #[test]
    fn the_list_holds_what_the_held_out_speakers_say() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
        let list = fs::read_to_string(root.join("culet-tiny-words.txt")).unwrap();
        assert_eq!(list.lines().count(), 170);
        let lines = fs::read_to_string(root.join("heldout/manifest.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let said = lines.iter().filter(|line| line["task"] == "transcribe");
        let said: Vec<&str> = said.filter_map(|line| line["expect"].as_str()).collect();
        assert!(said.len() > 50);
        for word in said.iter().flat_map(|text| text.split_whitespace()) {
            assert!(list.lines().any(|line| line == word), "{word:?} is not on the list");
        }
    }
}
