//! Cuts text into pieces that a voice can say while the rest is still being made.
//! In: text in any chunks. Out: `Clause`s: sentences, lines, and long sentences' parts.
//! Invariant: any chunking gives the same clauses; a number, an abbreviation, a name's initial
//! or an address is never cut; a clause has at most `CLAUSE_CHARS_MAX` characters.

use std::fmt;

/// Longest clause, in characters.
pub const CLAUSE_CHARS_MAX: usize = 240;
/// Shortest clause that ends at a comma, in characters.
const COMMA_CHARS_MIN: usize = 40;
/// The same for the first clause, so that the voice starts early.
const FIRST_COMMA_CHARS_MIN: usize = 12;

/// A point behind these ends no sentence, whatever follows.
const TITLES: [&str; 18] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e", "z.b", "d.h", "bzw", "ca", "approx",
    "gen", "sen", "rep", "mt",
];
/// A point behind these ends no sentence if a digit follows.
const NUMBERED: [&str; 6] = ["no", "nr", "fig", "vol", "p", "pp"];
/// A point behind these ends a sentence if a capital follows.
const SHORTS: [&str; 13] =
    ["etc", "inc", "ltd", "co", "corp", "jr", "sr", "usw", "al", "dept", "est", "min", "max"];

/// A piece of text that a voice can say.
#[derive(Clone, PartialEq, Eq)]
pub struct Clause {
    /// The text, without blanks around it.
    pub text: String,
    /// Where it ends in the whole text, in bytes from its start.
    pub end_bytes: usize,
}

impl fmt::Debug for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clause {{ {} bytes, to byte {} }}", self.text.len(), self.end_bytes)
    }
}

/// Collects text and gives out clauses as soon as they are certain.
#[derive(Clone, Default)]
pub struct ClauseCutter {
    pending: Vec<char>,
    /// Bytes of the text before `pending`.
    cut_bytes: usize,
    n_clauses: usize,
}

/// What a place in the text is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Inside,
    /// The clause ends before this index.
    End(usize),
    /// More text is needed to tell.
    Unknown,
}

impl ClauseCutter {
    /// Creates a cutter at the start of a text.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends text and returns the clauses that it completes.
    pub fn push(&mut self, text: &str) -> Vec<Clause> {
        let mut clauses = Vec::new();
        for c in text.chars() {
            self.pending.push(c);
            clauses.extend(self.cut(false));
        }
        clauses
    }

    /// Ends the text and returns what is left; text without a letter or digit is left out.
    pub fn finish(&mut self) -> Vec<Clause> {
        let mut clauses: Vec<Clause> = std::iter::from_fn(|| self.cut(true)).collect();
        let rest = self.take(self.pending.len());
        clauses.extend(Some(rest).filter(|rest| rest.text.chars().any(char::is_alphanumeric)));
        clauses
    }

    /// Returns the next clause if it is certain.
    fn cut(&mut self, is_end: bool) -> Option<Clause> {
        let mut is_speakable = false;
        for index in 0..self.pending.len() {
            is_speakable |= self.pending[index].is_alphanumeric();
            if !is_speakable {
                continue;
            }
            match self.place(index, is_end) {
                Place::Inside => {}
                Place::End(end) if end <= CLAUSE_CHARS_MAX => return Some(self.take(end)),
                Place::End(_) => break,
                Place::Unknown => break,
            }
        }
        // One more character tells whether the last word ends at the limit.
        (self.pending.len() > CLAUSE_CHARS_MAX).then(|| self.take(self.last_blank()))
    }

    /// Tells whether the character at `index` ends a clause.
    fn place(&self, index: usize, is_end: bool) -> Place {
        let text = &self.pending;
        match text[index] {
            '\n' => Place::End(index),
            '。' | '！' | '？' | '；' | '…' => self.behind_closers(index, is_end, false),
            '.' | '!' | '?' => self.sentence(index, is_end),
            '、' | '，' if self.is_long_enough(index) => Place::End(index + 1),
            ',' | ';' | ':' | '–' | '—' if self.is_long_enough(index) => {
                self.behind_closers(index, is_end, true)
            }
            _ => Place::Inside,
        }
    }

    fn is_long_enough(&self, index: usize) -> bool {
        let least = if self.n_clauses == 0 { FIRST_COMMA_CHARS_MIN } else { COMMA_CHARS_MIN };
        index + 1 >= least
    }

    fn sentence(&self, index: usize, is_end: bool) -> Place {
        let text = &self.pending;
        let place = self.behind_closers(index, is_end, true);
        let Place::End(end) = place else { return place };
        if text[index] != '.' {
            return place;
        }
        let start = text[..index].iter().rposition(|c| c.is_whitespace()).map_or(0, |i| i + 1);
        let word: String = text[start..index].iter().collect();
        let word = word.trim_start_matches(|c: char| !c.is_alphanumeric());
        let lower = word.to_lowercase();
        let is_numbering = word.chars().all(|c| c.is_ascii_digit())
            && text[..start].iter().all(|c| !c.is_alphanumeric());
        let mut letters = word.chars();
        let first = letters.next();
        let is_initial = letters.next().is_none() && first.is_some_and(char::is_uppercase);
        if is_numbering || is_initial || TITLES.contains(&lower.as_str()) {
            return Place::Inside;
        }
        let is_short = SHORTS.contains(&lower.as_str()) || is_dotted(&lower);
        let is_numbered = NUMBERED.contains(&lower.as_str());
        match text.get(end + 1) {
            Some(next) if is_short && (next.is_lowercase() || next.is_ascii_digit()) => {
                Place::Inside
            }
            Some(next) if is_numbered && next.is_ascii_digit() => Place::Inside,
            None if (is_short || is_numbered) && !is_end => Place::Unknown,
            _ => place,
        }
    }

    /// Steps over marks that belong to the one at `index` and looks at what follows.
    fn behind_closers(&self, index: usize, is_end: bool, needs_blank: bool) -> Place {
        let belongs = |c: &char| "\"')]}»”’」』*_.!?。！？…".contains(*c);
        let text = &self.pending;
        let behind = index + 1 + text[index + 1..].iter().take_while(|c| belongs(c)).count();
        match text.get(behind) {
            None if !is_end => Place::Unknown,
            Some(c) if needs_blank && !c.is_whitespace() => Place::Inside,
            _ => Place::End(behind),
        }
    }

    /// Returns the index behind the last blank within the limit, or the limit.
    fn last_blank(&self) -> usize {
        let within = &self.pending[..=CLAUSE_CHARS_MAX];
        let blank = within.iter().rposition(|c| c.is_whitespace());
        let is_useful = |&at: &usize| within[..at].iter().any(|c| c.is_alphanumeric());
        blank.filter(is_useful).unwrap_or(CLAUSE_CHARS_MAX)
    }

    fn take(&mut self, n_chars: usize) -> Clause {
        let text: String = self.pending.drain(..n_chars).collect();
        self.cut_bytes += text.len();
        self.n_clauses += 1;
        Clause { text: text.trim().to_owned(), end_bytes: self.cut_bytes }
    }
}

/// Tells words such as `a.m` and `u.s.a`.
fn is_dotted(word: &str) -> bool {
    word.contains('.') && word.split('.').all(|part| part.chars().count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;

    fn clauses(chunks: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<Clause> {
        let mut cutter = ClauseCutter::new();
        let mut found: Vec<Clause> =
            chunks.into_iter().flat_map(|chunk| cutter.push(chunk.as_ref())).collect();
        found.extend(cutter.finish());
        found
    }

    fn joined(text: &str) -> String {
        clauses([text]).into_iter().map(|clause| clause.text).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn text_is_cut_where_a_speaker_pauses() {
        let cases = [
            ("It is late. Good night!", "It is late. | Good night!"),
            ("Pi is 3.14159, or 22/7.", "Pi is 3.14159, | or 22/7."),
            ("It costs 1,000.50 euros. Cheap?", "It costs 1,000.50 euros. | Cheap?"),
            ("Dr. Smith met J. R. R. Tolkien.", "Dr. Smith met J. R. R. Tolkien."),
            ("Wake me at 5 p.m. tomorrow.", "Wake me at 5 p.m. tomorrow."),
            ("It is 5 p.m. Time to go.", "It is 5 p.m. | Time to go."),
            ("Fruit, e.g. Apples, etc. and so on.", "Fruit, e.g. Apples, | etc. and so on."),
            ("Tea, milk etc. We have all.", "Tea, milk etc. | We have all."),
            ("See www.example.com. Or not.", "See www.example.com. | Or not."),
            ("At 10:30 the train leaves: hurry.", "At 10:30 the train leaves: | hurry."),
            ("Really?! \"Yes.\" (No.) Fine", "Really?! | \"Yes.\" | (No.) | Fine"),
            ("Take No. 5. Or say no. Now.", "Take No. 5. | Or say no. | Now."),
            ("Well... I see.", "Well... | I see."),
            ("1. Eggs\n2. Milk\n", "1. Eggs | 2. Milk"),
            ("今日は晴れです。明日は雨です。", "今日は晴れです。 | 明日は雨です。"),
            ("Yes, I do.", "Yes, I do."),
            ("I would say yes, I do.", "I would say yes, | I do."),
            ("**Bold.** Plain.", "**Bold.** | Plain."),
            ("...!", ""),
            ("", ""),
            ("  \n \n", ""),
            ("No punctuation at all", "No punctuation at all"),
        ];
        let wrong: Vec<String> = cases
            .iter()
            .filter(|(text, expected)| joined(text) != *expected)
            .map(|(text, expected)| format!("{text:?} gave {:?}, not {expected:?}", joined(text)))
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn later_commas_wait_for_longer_clauses() {
        let text = "One moment, please. Two, three, four, five, six, seven, eight, nine, ten.";
        let expected =
            "One moment, please. | Two, three, four, five, six, seven, eight, | nine, ten.";
        assert_eq!(joined(text), expected);
    }

    #[test]
    fn any_chunking_gives_the_same_clauses() {
        let pieces = [
            "Dr. ",
            "e.g. ",
            "etc. ",
            "3.14",
            "1,000",
            " ",
            "\n",
            ". ",
            "! ",
            "?!",
            "\"",
            ") ",
            "a",
            "word ",
            "I. ",
            "A.",
            "p.m. ",
            "Then ",
            "。",
            "、",
            ", ",
            ": ",
            "…",
            "longwordwithoutend",
            "é",
            "😀",
            "\n\n",
            "- ",
        ];
        let seed = crate::random::seed(1);
        let mut random = Rng(seed);
        let mut below = |n: usize| random.below(n);
        for round in 0..400 {
            let text: String = (0..below(150)).map(|_| pieces[below(pieces.len())]).collect();
            let whole = clauses([&text]);
            let mut chunks = vec![String::new()];
            for c in text.chars() {
                if below(4) == 0 {
                    chunks.push(String::new());
                }
                chunks.last_mut().unwrap().push(c);
            }
            assert_eq!(clauses(&chunks), whole, "SEED={seed} round {round}");
            let ends: Vec<usize> = whole.iter().map(|clause| clause.end_bytes).collect();
            assert!(ends.is_sorted_by(|a, b| a < b), "SEED={seed} round {round}");
            let spoken: String = whole.iter().map(|clause| clause.text.as_str()).collect();
            let letters =
                |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
            assert_eq!(letters(&spoken), letters(&text), "SEED={seed} round {round}");
            for clause in &whole {
                assert!(text.is_char_boundary(clause.end_bytes));
                assert!(clause.text.chars().any(char::is_alphanumeric));
            }
        }
    }

    #[test]
    fn endless_words_are_cut_at_the_limit() {
        let text = "x".repeat(1_000);
        let found = clauses([&text]);
        assert!(found.iter().all(|clause| clause.text.chars().count() <= CLAUSE_CHARS_MAX));
        assert_eq!(found.last().map(|clause| clause.end_bytes), Some(1_000));
        let found = clauses(["word ".repeat(300)]);
        assert!(found.iter().all(|clause| clause.text.ends_with("word")), "a word was cut");
    }

    #[test]
    fn a_clause_shows_no_text() {
        let clause = Clause { text: "secret".into(), end_bytes: 6 };
        assert_eq!(format!("{clause:?}"), "Clause { 6 bytes, to byte 6 }");
    }
}
