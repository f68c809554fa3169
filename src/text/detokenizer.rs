//! Ids to text while they are made, by whole code points.
//!
//! In: one token id after the other. Out: the text that became certain.
//! Source: decoder of Gemma 4 `tokenizer.json` (blank mark, byte fallback, fuse).
//! Invariant: every returned text is whole code points; structure is never shown.

use crate::text::tokenizer::Tokenizer;
use crate::units::TokenId;

/// The bytes of a code point that is not complete yet, and the text of the last step.
#[derive(Clone, Default)]
pub struct Detokenizer {
    pending: Vec<u8>,
    text: String,
}

impl Detokenizer {
    /// Returns a detokenizer at the beginning of a text.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next token and returns the text that is certain now, often empty.
    ///
    /// Bytes that cannot become a code point come as U+FFFD.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: TokenId) -> &str {
        self.text.clear();
        if tokenizer.is_structure(id) {
            return &self.text;
        }
        match tokenizer.byte_of(id) {
            Some(byte) => {
                self.pending.push(byte);
                self.take_whole();
            }
            None => {
                self.take_rest();
                tokenizer.push_piece(id, &mut self.text);
            }
        }
        &self.text
    }

    /// Ends the text and returns what was still waiting, as U+FFFD.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        self.take_rest();
        &self.text
    }

    /// Moves complete code points and broken bytes to the text.
    fn take_whole(&mut self) {
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(whole) => {
                    self.text.push_str(whole);
                    self.pending.clear();
                    return;
                }
                Err(e) => {
                    let Some(broken) = e.error_len() else { return };
                    let valid = e.valid_up_to();
                    self.text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    self.pending.drain(..valid + broken);
                }
            }
        }
    }

    fn take_rest(&mut self) {
        if !self.pending.is_empty() {
            self.text.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
    }
}

impl std::fmt::Debug for Detokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n_pending = self.pending.len();
        f.debug_struct("Detokenizer").field("n_pending", &n_pending).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;
    use crate::text::vocabulary::Marker;
    use crate::text::vocabulary::synthetic::Parts;
    use crate::text::vocabulary::synthetic::seeded;

    fn tokenizer() -> Tokenizer {
        Tokenizer::new(Parts::new(5).vocabulary()).unwrap()
    }

    fn byte(tokenizer: &Tokenizer, byte: u8) -> TokenId {
        tokenizer.id_of(&format!("<0x{byte:02X}>")).unwrap()
    }

    #[test]
    fn code_points_come_whole_and_broken_bytes_as_replacement() {
        let tokenizer = tokenizer();
        let cases: [(&[u8], &[&str], &str); 6] = [
            (&[0xf0, 0x9f, 0x98, 0x81], &["", "", "", "😁"], ""),
            (&[0xc3, 0x28], &["", "\u{fffd}("], ""),
            (&[0xff, 0x41], &["\u{fffd}", "A"], ""),
            (&[0xe6, 0x97], &["", ""], "\u{fffd}"),
            (&[0xf0, 0x9f, 0xc3, 0xa9], &["", "", "\u{fffd}", "é"], ""),
            (&[], &[], ""),
        ];
        for (bytes, steps, rest) in cases {
            let mut detokenizer = Detokenizer::new();
            for (&b, expected) in bytes.iter().zip(steps) {
                assert_eq!(detokenizer.push(&tokenizer, byte(&tokenizer, b)), *expected);
            }
            assert_eq!(detokenizer.finish(), rest, "bytes {bytes:x?}");
        }
    }

    #[test]
    fn structure_is_hidden_and_an_end_tag_is_not() {
        let tokenizer = tokenizer();
        let mut detokenizer = Detokenizer::new();
        for marker in Marker::ALL {
            let id = tokenizer.marker(marker).unwrap();
            assert_eq!(detokenizer.push(&tokenizer, id), "", "{}", marker.text());
            assert_eq!(tokenizer.decode(&[id]), "");
            assert_eq!(tokenizer.decode_with_markers(&[id]), marker.text());
        }
        let id = tokenizer.id_of("</s>").unwrap();
        assert_eq!(detokenizer.push(&tokenizer, id), "</s>");
    }

    #[test]
    fn random_ids_give_the_same_text_streamed_and_whole() {
        let tokenizer = tokenizer();
        let mut random = seeded(23);
        for _ in 0..2000 {
            let seed = random.0;
            let n = random.below(40);
            let id = |random: &mut Rng| TokenId(random.below(tokenizer.n_vocab() + 5) as u32);
            let ids: Vec<TokenId> = (0..n).map(|_| id(&mut random)).collect();
            let mut detokenizer = Detokenizer::new();
            let mut streamed = String::new();
            for &id in &ids {
                streamed.push_str(detokenizer.push(&tokenizer, id));
            }
            streamed.push_str(detokenizer.finish());
            let whole = tokenizer.decode(&ids);
            if !whole.contains(char::REPLACEMENT_CHARACTER) {
                assert_eq!(streamed, whole, "SEED={seed}");
            }
        }
    }
}
