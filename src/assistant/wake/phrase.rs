//! A phrase that calls the assistant, and whether a transcript begins with it.
//! In: words as a person writes them; a transcript that may still grow. Out: [`Called`].
//! Invariant: only letters and digits count, never their case or what stands between words.

use crate::error::Error;
use crate::error::Result;

/// Most words of a phrase.
const WORDS_MAX: usize = 8;
/// Letters that are words of their own: those of scripts without spaces between words.
const LONE: std::ops::RangeInclusive<char> = '\u{2e80}'..='\u{9fff}';

/// Whether an utterance begins with the phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// It does not, or not yet.
    No,
    /// It is the phrase and nothing else so far.
    Alone,
    /// It is the phrase and more.
    AndMore,
}

/// A phrase that calls the assistant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phrase(Vec<String>);

impl Phrase {
    /// Reads a phrase of one to eight words.
    ///
    /// # Errors
    /// `Input` if it has none or more.
    pub fn new(text: &str) -> Result<Self> {
        let words = words(text).0;
        match words.len() {
            1..=WORDS_MAX => Ok(Self(words)),
            n => Err(Error::input(format!("a wake word of {n} words, expected 1 to {WORDS_MAX}"))),
        }
    }

    /// Returns its words in lower case.
    pub fn words(&self) -> &[String] {
        &self.0
    }

    /// Tells whether a transcript begins with the phrase; none while that is open.
    ///
    /// Unless `is_whole`, more text may follow, and its last word may go on.
    pub fn call(&self, transcript: &str, is_whole: bool) -> Option<Called> {
        let (mut words, is_open) = words(transcript);
        let last = if is_open && !is_whole { words.pop() } else { None };
        if !words.iter().zip(&self.0).all(|(said, wanted)| said == wanted) {
            return Some(Called::No);
        }
        let n_more = words.len().saturating_sub(self.0.len());
        match (self.0.get(words.len()), last) {
            (None, last) if n_more > 0 || last.is_some() => Some(Called::AndMore),
            (None, _) => is_whole.then_some(Called::Alone),
            (Some(_), _) if is_whole => Some(Called::No),
            (Some(wanted), Some(begun)) if !wanted.starts_with(&begun) => Some(Called::No),
            (Some(_), _) => None,
        }
    }
}

/// Returns the words of a text in lower case, and whether the last of them may go on.
fn words(text: &str) -> (Vec<String>, bool) {
    let mut words: Vec<String> = Vec::new();
    let mut is_open = false;
    for c in text.chars() {
        // What is left out of a word does not end it: `what's` is `whats`.
        if matches!(c, '\'' | '’') {
            continue;
        }
        if !c.is_alphanumeric() {
            is_open = false;
            continue;
        }
        if !is_open || LONE.contains(&c) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
        is_open = !LONE.contains(&c);
    }
    (words, is_open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_begins_with_the_phrase_or_does_not() {
        const NO: Option<Called> = Some(Called::No);
        const ALONE: Option<Called> = Some(Called::Alone);
        const MORE: Option<Called> = Some(Called::AndMore);
        // Phrase, transcript, while it may grow, when it is whole.
        let cases = [
            ("Hey Culet", "", None, NO),
            ("Hey Culet", "Hey", None, NO),
            ("Hey Culet", "Hey, Cul", None, NO),
            ("Hey Culet", "Hey, Culet", None, ALONE),
            ("Hey Culet", "Hey, Culet!", None, ALONE),
            ("Hey Culet", "hey   CULET what", MORE, MORE),
            ("Hey Culet", " \"Hey Culet. What time is it?\"", MORE, MORE),
            ("Hey Culet", "Hey Culets", NO, NO),
            ("Hey Culet", "Hey Jim", NO, NO),
            ("Hey Culet", "Oh hey Culet", NO, NO),
            ("Hey Culet", "They", NO, NO),
            ("hey-culet", "hey culet, stop", MORE, MORE),
            ("what's up", "Whats up", None, ALONE),
            ("what’s up", "What's up?", None, ALONE),
            ("set", "settle", NO, NO),
            ("set", "set the", MORE, MORE),
            ("GRÜSS DICH", "grüss dich", None, ALONE),
            ("你好", "你好。", None, ALONE),
            ("你好", "你好今天", MORE, MORE),
            ("你好", "你们", NO, NO),
            ("agent 7", "Agent 7: hello", MORE, MORE),
        ];
        for (phrase, transcript, growing, whole) in cases {
            let wanted = Phrase::new(phrase).expect("it has words");
            let found = [false, true].map(|is_whole| wanted.call(transcript, is_whole));
            assert_eq!(found, [growing, whole], "{phrase:?} in {transcript:?}");
        }
    }

    #[test]
    fn more_text_never_changes_what_was_certain() {
        for text in ["hey culet, what is it?", "hey culets are", "hello there", "hey. CULET"] {
            let phrase = Phrase::new("hey culet").expect("it has words");
            let mut certain = None;
            for end in text.char_indices().map(|(at, c)| at + c.len_utf8()) {
                let found = phrase.call(&text[..end], false);
                assert!(certain.is_none() || certain == found, "{text:?} up to {end}");
                certain = found;
            }
            let whole = phrase.call(text, true);
            assert!(whole.is_some() && (certain.is_none() || certain == whole), "{text:?}");
        }
    }

    #[test]
    fn a_phrase_has_words_but_is_no_speech() {
        assert_eq!(Phrase::new("  Good, MORNING ").expect("two").words(), ["good", "morning"]);
        for text in ["", " ?! ", "a b c d e f g h i"] {
            let message = Phrase::new(text).expect_err(text).to_string();
            assert!(message.contains("expected 1 to 8"), "{message}");
        }
    }
}
