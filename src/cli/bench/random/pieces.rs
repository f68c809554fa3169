//! A made-up vocabulary with the layout of Gemma 4's: markers, bytes, merges at their real ids.
//!
//! In: a size. Out: pieces, their kinds and merges, as a file holds them.
//! Source: specification 1.3 and 8; layout of the published vocabulary.
//! Invariant: every piece is unique, and every merge makes a piece out of two others.

use std::collections::HashSet;

use culet::Result;
use culet::gguf::Items;
use culet::gguf::Value;
use culet::gguf::Writer;

use crate::cli::bench::random::Random;

/// Merges of the published vocabulary; no more are made.
const MERGES_MAX: usize = 514_906;
const BLANK: &str = "\u{2581}";
/// Longest piece, in characters.
const PIECE_CHARS_MAX: usize = 16;
/// Runs of the same character have pieces up to this length.
const RUN_MAX: usize = 31;

const FIRST_BYTE: usize = 238;
const FIRST_COMPOSED: usize = FIRST_BYTE + 256;
/// Where the published vocabulary has the name of the thought channel.
const THOUGHT: usize = 45_518;

const MARKERS: [(usize, &str); 19] = [
    (0, "<pad>"),
    (1, "<eos>"),
    (2, "<bos>"),
    (3, "<unk>"),
    (4, "<mask>"),
    (5, "[multimodal]"),
    (46, "<|tool>"),
    (47, "<tool|>"),
    (48, "<|tool_call>"),
    (49, "<tool_call|>"),
    (50, "<|tool_response>"),
    (51, "<tool_response|>"),
    (52, "<|\"|>"),
    (98, "<|think|>"),
    (100, "<|channel>"),
    (101, "<channel|>"),
    (105, "<|turn>"),
    (106, "<turn|>"),
    (212, "</s>"),
];
const CONTROL: [usize; 10] = [0, 1, 2, 3, 4, 46, 47, 98, 105, 106];
const USER_DEFINED: [usize; 7] = [48, 49, 50, 51, 52, 100, 101];
const OPENERS: [&str; 2] = ["<|image>", "<|audio>"];
const PLACEHOLDERS: [&str; 5] = ["<|image|>", "<|audio|>", "<image|>", "<audio|>", "<|video|>"];
/// Pieces that words people write with begin from.
const WORDS: [&str; 8] =
    ["thought", "user", "model", "system", "\u{2581}the", "\u{2581}and", "\u{2581}of", "ing"];

const NORMAL: i32 = 1;
const KIND_CONTROL: i32 = 3;
const KIND_USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// Pieces and what belongs to them.
pub(in crate::cli::bench) struct Pieces {
    texts: Vec<String>,
    kinds: Vec<i32>,
    merges: Vec<String>,
}

/// Where the parts of a vocabulary begin.
struct Places {
    n: usize,
    first_char: usize,
    openers: usize,
    placeholders: usize,
}

impl Places {
    /// Returns the published places, or ones like them for a smaller vocabulary.
    fn of(n: usize) -> Self {
        match n >= 262_144 {
            true => Self { n, first_char: 236_743, openers: 255_999, placeholders: 258_880 },
            false => Self { n, first_char: n * 3 / 4, openers: n - 32, placeholders: n - 16 },
        }
    }
}

impl Pieces {
    /// Makes `n` pieces, at least 2048.
    pub(in crate::cli::bench) fn new(n: usize, seed: u64) -> Self {
        let places = Places::of(n.max(2048));
        let mut texts = vec![String::new(); places.n];
        let mut kinds = vec![NORMAL; places.n];
        for (id, text) in MARKERS {
            texts[id] = text.to_owned();
        }
        let (openers, placeholders) = (places.openers, places.placeholders);
        for (i, text) in OPENERS.iter().enumerate() {
            texts[openers + i] = (*text).to_owned();
            kinds[openers + i] = KIND_CONTROL;
        }
        for (i, text) in PLACEHOLDERS.iter().enumerate() {
            texts[placeholders + i] = (*text).to_owned();
            kinds[placeholders + i] = if i < 4 { KIND_CONTROL } else { NORMAL };
        }
        CONTROL.iter().for_each(|&id| kinds[id] = KIND_CONTROL);
        USER_DEFINED.iter().for_each(|&id| kinds[id] = KIND_USER_DEFINED);
        for b in 0..256 {
            texts[FIRST_BYTE + b] = format!("<0x{b:02X}>");
            kinds[FIRST_BYTE + b] = BYTE;
        }
        let runs = [("\n", 107, 1), (BLANK, 138, 2), ("\t", openers + 1 - RUN_MAX, 2)];
        for (of, first, least) in runs {
            (least..=RUN_MAX).for_each(|k| texts[first + k - least] = of.repeat(k));
        }
        let chars = chars(openers + 1 - RUN_MAX - places.first_char);
        for (i, c) in chars.iter().enumerate() {
            texts[places.first_char + i] = (*c).to_owned();
        }
        let composed = compose(places.first_char - FIRST_COMPOSED, &chars, seed);
        for (i, text) in composed.iter().enumerate() {
            texts[FIRST_COMPOSED + i].clone_from(text);
        }
        let merges = merges(&composed, &chars);
        let blanks = texts.iter_mut().filter(|t| t.is_empty());
        blanks.enumerate().for_each(|(i, t)| *t = format!("<unused{i}>"));
        Self { texts, kinds, merges }
    }

    /// Returns how many pieces there are.
    pub(in crate::cli::bench) fn len(&self) -> usize {
        self.texts.len()
    }

    /// Writes them as a model file's tokenizer.
    ///
    /// # Errors
    /// `Input` if a key was set before.
    pub(in crate::cli::bench) fn write(&self, to: &mut Writer) -> Result<()> {
        to.set_str("tokenizer.ggml.model", "gemma4")?;
        to.set_texts("tokenizer.ggml.tokens", self.texts.iter())?;
        to.set_items("tokenizer.ggml.scores", Items::F32(&vec![-1000.0; self.len()]))?;
        to.set_items("tokenizer.ggml.token_type", Items::I32(&self.kinds))?;
        to.set_texts("tokenizer.ggml.merges", self.merges.iter())?;
        for (name, id) in [("bos", 2), ("eos", 1), ("unknown", 3), ("padding", 0), ("mask", 4)] {
            to.set_u32(&format!("tokenizer.ggml.{name}_token_id"), id)?;
        }
        to.set("tokenizer.ggml.add_bos_token", Value::Bool(true))?;
        to.set("tokenizer.ggml.add_space_prefix", Value::Bool(false))
    }
}

/// Returns `n` pieces of one character: the frequent ones, then letters of all scripts.
fn chars(n: usize) -> Vec<&'static str> {
    // One block of text that lives as long as the program; pieces are slices of it.
    static LETTERS: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    let all = LETTERS.get_or_init(|| {
        let first = "\u{2581}etaionrsldhcumpgfybwvkxjqz";
        let ascii = (33..127_u8).map(char::from).chain(['\t', '\r']);
        let ascii = ascii.filter(|c| !first.contains(*c));
        let letters = ('\u{a1}'..'\u{2_0000}').filter(|c| c.is_alphanumeric());
        first.chars().chain(ascii).chain(letters).map(String::from).collect()
    });
    all.iter().take(n).map(String::as_str).collect()
}

/// Returns `n` pieces, each made of two earlier ones.
fn compose(n: usize, chars: &[&str], seed: u64) -> Vec<String> {
    // Markers begin with a bracket, pieces of text do not.
    let letters: Vec<&str> = chars.iter().copied().filter(|c| *c != "<").take(60).collect();
    let mut random = Random(seed);
    let mut made: Vec<String> = Vec::with_capacity(n);
    let mut known: HashSet<String> = HashSet::with_capacity(2 * n);
    let mut add = |text: String, made: &mut Vec<String>| {
        if made.len() < n && known.insert(text.clone()) {
            made.push(text);
        }
    };
    for word in WORDS {
        let ends = word.char_indices().map(|(i, c)| i + c.len_utf8()).skip(1);
        ends.filter(|end| &word[..*end] != WORDS[0])
            .for_each(|end| add(word[..end].to_owned(), &mut made));
    }
    let thought_at = (THOUGHT - FIRST_COMPOSED).min(n - 1);
    while made.len() < n {
        if made.len() == thought_at {
            add(WORDS[0].to_owned(), &mut made);
        }
        let mut pick = || -> String {
            // Early pieces are frequent ones.
            let skew = random.unit() * random.unit();
            let at = (skew * (letters.len() + made.len()) as f32) as usize;
            match letters.get(at) {
                Some(letter) => (*letter).to_owned(),
                None => made[(at - letters.len()).min(made.len() - 1)].clone(),
            }
        };
        let (left, right) = (pick(), pick());
        let text = left + &right;
        let inner_blank = text.char_indices().any(|(i, c)| i > 0 && BLANK.starts_with(c));
        if !inner_blank && text.chars().count() <= PIECE_CHARS_MAX && text != WORDS[0] {
            add(text, &mut made);
        }
    }
    made
}

/// Returns the ways to make each piece out of two others, first the long runs.
fn merges(composed: &[String], chars: &[&str]) -> Vec<String> {
    let mut known: HashSet<&str> = composed.iter().map(String::as_str).collect();
    known.extend(chars);
    let mut merges = Vec::with_capacity(MERGES_MAX);
    for k in (2..=RUN_MAX).rev() {
        for of in ["\n", BLANK, "\t"] {
            merges.extend((1..k).map(|i| format!("{} {}", of.repeat(i), of.repeat(k - i))));
        }
    }
    for text in composed {
        for (i, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(i);
            if known.contains(left) && known.contains(right) && merges.len() < MERGES_MAX {
                merges.push(format!("{left} {right}"));
            }
        }
    }
    merges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_unique_and_markers_at_their_ids() {
        for n in [4096, 262_144] {
            let p = Pieces::new(n, 1);
            assert_eq!(p.len(), n);
            let unique: HashSet<&String> = p.texts.iter().collect();
            assert_eq!(unique.len(), n);
            assert_eq!(p.texts[106], "<turn|>");
            assert_eq!(p.texts[108], "\n\n");
            assert_eq!(p.texts[212], "</s>");
            assert_eq!(p.texts[238], "<0x00>");
            assert_eq!(p.kinds.iter().filter(|k| **k == BYTE).count(), 256);
            assert!(p.merges.len() > n * 3 / 4, "{} merges", p.merges.len());
        }
        let p = Pieces::new(262_144, 1);
        assert_eq!(
            (p.texts[255_999].as_str(), p.texts[258_883].as_str()),
            ("<|image>", "<audio|>")
        );
        assert_eq!(p.texts[THOUGHT], "thought");
        assert_eq!(p.texts[236_743], BLANK);
    }

    #[test]
    fn every_merge_makes_a_piece_of_two_others() {
        let p = Pieces::new(8192, 1);
        let known: HashSet<&str> = p.texts.iter().map(String::as_str).collect();
        for merge in &p.merges {
            let (left, right) = merge.split_once(' ').unwrap();
            let whole = format!("{left}{right}");
            assert!([left, right, &whole].iter().all(|t| known.contains(t)), "{merge:?}");
        }
    }
}
