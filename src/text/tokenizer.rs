//! Text to token ids and back.
//!
//! In: user text, template text, token ids. Out: token ids, text.
//! Source: Gemma 4 `tokenizer.json` as the `tokenizers` crate runs it (the oracle of the tests).
//! Invariant: `encode` never makes a marker token, whatever the text spells.

use std::sync::Arc;

use crate::error::Error;
use crate::error::Result;
use crate::gguf::Gguf;
use crate::gguf::Mapping;
use crate::text::bpe::Bpe;
use crate::text::vocabulary::Block;
use crate::text::vocabulary::Marker;
use crate::text::vocabulary::PieceKind;
use crate::text::vocabulary::Special;
use crate::text::vocabulary::Strings;
use crate::text::vocabulary::Vocabulary;
use crate::units::TokenId;

/// Longest text that is encoded at once, in bytes.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// What stands for a blank in pieces.
const BLANK: &str = "\u{2581}";
const NONE: u32 = u32::MAX;
/// Pieces that end generation: end of sequence, end of turn, a tool is waited for.
const ENDS: [Marker; 3] = [Marker::Eos, Marker::TurnClose, Marker::ResponseOpen];

/// The vocabulary of one model, ready to encode and decode.
pub struct Tokenizer {
    bpe: Bpe,
    kinds: Vec<PieceKind>,
    special: Special,
    /// Id of each raw byte's piece.
    bytes: [u32; 256],
    /// Id of each marker, by its number.
    markers: [u32; Marker::ALL.len()],
    /// Lengths of the pieces that `encode_with_markers` looks for, longest first.
    marker_lens: Vec<usize>,
    /// Bytes that such a piece begins with.
    marker_starts: [bool; 256],
    ends: Vec<TokenId>,
}

impl Tokenizer {
    /// Prepares `vocabulary`.
    ///
    /// # Errors   `Format` if a merge is damaged, or neither bytes nor unknown text have pieces
    pub fn new(vocabulary: Vocabulary) -> Result<Self> {
        let Vocabulary { pieces, mut kinds, merges, special } = vocabulary;
        let bpe = Bpe::new(pieces, merges)?;
        let mut markers = [NONE; Marker::ALL.len()];
        for marker in Marker::ALL {
            let Some(id) = bpe.find(marker.text().as_bytes()) else { continue };
            markers[marker as usize] = id;
            let kind = &mut kinds[id as usize];
            if !is_structure(*kind) {
                *kind = PieceKind::UserDefined;
            }
        }
        let bytes =
            std::array::from_fn(|b| bpe.find(format!("<0x{b:02X}>").as_bytes()).unwrap_or(NONE));
        if bytes.contains(&NONE) && special.unknown.is_none() {
            return Err(Error::format(
                "the vocabulary has neither a piece for each byte nor one for unknown text",
            ));
        }
        let view = bpe.pieces().view();
        let of_structure = (0..kinds.len()).filter(|&i| is_structure(kinds[i]));
        let mut marker_starts = [false; 256];
        let mut marker_lens = Vec::new();
        for piece in of_structure.map(|i| view.at(i)) {
            if let Some(&first) = piece.first() {
                marker_starts[usize::from(first)] = true;
                marker_lens.push(piece.len());
            }
        }
        marker_lens.sort_unstable_by(|a, b| b.cmp(a));
        marker_lens.dedup();
        let by_name = ENDS.iter().map(|&m| markers[m as usize]).filter(|&id| id != NONE);
        let mut ends: Vec<TokenId> = by_name.map(TokenId).chain(special.eos).collect();
        ends.sort_unstable();
        ends.dedup();
        Ok(Self { bpe, kinds, special, bytes, markers, marker_lens, marker_starts, ends })
    }

    /// Reads the vocabulary of a model file, in place.
    ///
    /// # Errors   `Unsupported` if the file's tokenizer is not Gemma 4's; `Format` if it is damaged
    pub fn from_gguf(file: &Gguf) -> Result<Self> {
        Self::new(read(file)?).map_err(|e| e.at(file.name()))
    }

    /// Returns how many pieces there are.
    pub fn n_vocab(&self) -> usize {
        self.kinds.len()
    }

    /// Returns the ids that the file names by key.
    pub fn special(&self) -> Special {
        self.special
    }

    /// Returns the tokens after which the model has nothing more to say.
    pub fn ends(&self) -> &[TokenId] {
        &self.ends
    }

    /// Returns whether generation stops at `id`.
    pub fn is_end(&self, id: TokenId) -> bool {
        self.ends.contains(&id)
    }

    /// Returns the id of `marker`.
    ///
    /// # Errors   `Unsupported` if the vocabulary has no such piece
    pub fn marker(&self, marker: Marker) -> Result<TokenId> {
        match self.markers[marker as usize] {
            NONE => Err(Error::unsupported(format!(
                "the vocabulary has no piece {}, which this prompt needs",
                marker.text()
            ))),
            id => Ok(TokenId(id)),
        }
    }

    /// Returns which marker `id` is, if it is one.
    pub fn marker_of(&self, id: TokenId) -> Option<Marker> {
        let at = self.markers.iter().position(|&m| m == id.0 && m != NONE)?;
        Some(Marker::ALL[at])
    }

    /// Returns the id of the piece spelled `piece`.
    pub fn id_of(&self, piece: &str) -> Option<TokenId> {
        self.bpe.find(piece.as_bytes()).map(TokenId)
    }

    /// Returns how `id` is spelled in the vocabulary, empty if there is no such id.
    pub fn piece(&self, id: TokenId) -> &[u8] {
        self.bpe.pieces().view().at(id.index())
    }

    /// Returns what `id` is for; ids outside the vocabulary are unused.
    pub fn kind(&self, id: TokenId) -> PieceKind {
        self.kinds.get(id.index()).copied().unwrap_or(PieceKind::Unused)
    }

    /// Returns whether `id` is structure, hidden from readers and never made from text.
    pub fn is_structure(&self, id: TokenId) -> bool {
        is_structure(self.kind(id))
    }

    /// Returns the byte that `id` stands for, if it is a byte's piece.
    pub fn byte_of(&self, id: TokenId) -> Option<u8> {
        match self.piece(id) {
            [b'<', b'0', b'x', digits @ .., b'>'] if digits.len() == 2 => {
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
            }
            _ => None,
        }
    }

    /// Encodes `text`; the spelling of a marker stays text.
    ///
    /// # Errors   `Input` if the text is longer than [`TEXT_BYTES_MAX`]
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        self.encode_into(text, &mut ids)?;
        Ok(ids)
    }

    /// Encodes `text` and appends its ids.
    ///
    /// # Errors   as [`Tokenizer::encode`]
    pub fn encode_into(&self, text: &str, ids: &mut Vec<TokenId>) -> Result<()> {
        if text.len() > TEXT_BYTES_MAX {
            let n = text.len();
            return Err(Error::input(format!(
                "the text has {n} bytes, at most {TEXT_BYTES_MAX} are read at once"
            )));
        }
        let span = text.replace(' ', BLANK);
        let mut after_unknown = false;
        self.bpe.merge(&span, |symbol, piece| {
            let piece = piece.map(TokenId).filter(|&id| !self.is_structure(id));
            let spelled = match piece {
                Some(id) => {
                    ids.push(id);
                    true
                }
                None => self.push_bytes(symbol, ids),
            };
            if let (false, false, Some(unknown)) = (spelled, after_unknown, self.special.unknown) {
                ids.push(unknown);
            }
            after_unknown = !spelled;
        });
        Ok(())
    }

    /// Appends the pieces of raw bytes, or nothing and `false` if one of them has no piece.
    fn push_bytes(&self, symbol: &[u8], ids: &mut Vec<TokenId>) -> bool {
        let known = symbol.iter().all(|&b| self.bytes[usize::from(b)] != NONE);
        if known {
            ids.extend(symbol.iter().map(|&b| TokenId(self.bytes[usize::from(b)])));
        }
        known
    }

    /// Encodes `text` with markers: the spelling of one becomes its token.
    ///
    /// For text that a person who may write markers has written, never for user text.
    ///
    /// # Errors   as [`Tokenizer::encode`]
    pub fn encode_with_markers(&self, text: &str) -> Result<Vec<TokenId>> {
        let mut ids = Vec::new();
        let mut from = 0;
        let mut at = 0;
        while at < text.len() {
            match self.structure_at(&text.as_bytes()[at..]) {
                Some((id, n)) => {
                    self.encode_into(&text[from..at], &mut ids)?;
                    ids.push(id);
                    at += n;
                    from = at;
                }
                None => at += 1,
            }
        }
        self.encode_into(&text[from..], &mut ids)?;
        Ok(ids)
    }

    /// Returns the longest piece of structure that `bytes` begins with.
    fn structure_at(&self, bytes: &[u8]) -> Option<(TokenId, usize)> {
        if !self.marker_starts[usize::from(*bytes.first()?)] {
            return None;
        }
        self.marker_lens.iter().find_map(|&n| {
            let id = TokenId(self.bpe.find(bytes.get(..n)?)?);
            self.is_structure(id).then_some((id, n))
        })
    }

    /// Returns the text of `ids` for a reader: structure is left out.
    ///
    /// Bytes that are no UTF-8 become U+FFFD, one for each byte of the run they stand in.
    pub fn decode(&self, ids: &[TokenId]) -> String {
        self.decode_where(ids, |id| !self.is_structure(id))
    }

    /// Returns the text of `ids` with the spelling of every marker.
    pub fn decode_with_markers(&self, ids: &[TokenId]) -> String {
        self.decode_where(ids, |_| true)
    }

    fn decode_where(&self, ids: &[TokenId], shown: impl Fn(TokenId) -> bool) -> String {
        let mut text = String::new();
        let mut run = Vec::new();
        for &id in ids.iter().filter(|&&id| shown(id)) {
            match self.byte_of(id) {
                Some(byte) => run.push(byte),
                None => {
                    flush_run(&mut run, &mut text);
                    self.push_piece(id, &mut text);
                }
            }
        }
        flush_run(&mut run, &mut text);
        text
    }

    /// Appends the text of a piece that is no byte.
    pub(super) fn push_piece(&self, id: TokenId, text: &mut String) {
        text.push_str(&String::from_utf8_lossy(self.piece(id)).replace(BLANK, " "));
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("n_vocab", &self.n_vocab()).finish_non_exhaustive()
    }
}

fn is_structure(kind: PieceKind) -> bool {
    matches!(kind, PieceKind::Control | PieceKind::UserDefined)
}

fn flush_run(run: &mut Vec<u8>, text: &mut String) {
    match std::str::from_utf8(run) {
        Ok(whole) => text.push_str(whole),
        Err(_) => text.extend(run.iter().map(|_| char::REPLACEMENT_CHARACTER)),
    }
    run.clear();
}

/// The mapping as a block of bytes that strings can point into.
struct Mapped(Arc<Mapping>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

fn read(file: &Gguf) -> Result<Vocabulary> {
    let model = file.str("tokenizer.ggml.model")?;
    let pre = file.optional_str("tokenizer.ggml.pre")?.unwrap_or_default();
    if model != "gemma4" && pre != "gemma4" {
        return Err(Error::unsupported(format!(
            "{}: metadata key tokenizer.ggml.model names another tokenizer, expected gemma4",
            file.name()
        )));
    }
    let block: Block = Arc::new(Mapped(Arc::clone(file.mapping())));
    let pieces = Strings::mapped(&block, file.texts("tokenizer.ggml.tokens")?)
        .map_err(|e| e.at(file.name()))?;
    let merges = Strings::mapped(&block, file.texts("tokenizer.ggml.merges")?)
        .map_err(|e| e.at(file.name()))?;
    let kinds = match file.optional_i32s("tokenizer.ggml.token_type")? {
        Some(numbers) => numbers.into_iter().map(PieceKind::from_number).collect(),
        None => vec![PieceKind::Normal; pieces.len()],
    };
    let id = |key: &str| -> Result<Option<TokenId>> {
        match file.optional_u32(key)? {
            Some(id) if id as usize >= pieces.len() => Err(Error::format(format!(
                "{}: metadata key {key} is {id}, expected less than {}",
                file.name(),
                pieces.len()
            ))),
            id => Ok(id.map(TokenId)),
        }
    };
    let special = Special {
        bos: id("tokenizer.ggml.bos_token_id")?,
        eos: id("tokenizer.ggml.eos_token_id")?,
        unknown: id("tokenizer.ggml.unknown_token_id")?,
    };
    Vocabulary::checked(pieces, kinds, merges, special).map_err(|e| e.at(file.name()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Write;
    use std::path::PathBuf;
    use std::str::FromStr;
    use std::time::Instant;

    use serde_json::json;

    use super::*;
    use crate::random::Rng;
    use crate::text::detokenizer::Detokenizer;
    use crate::text::vocabulary::synthetic::Parts;
    use crate::text::vocabulary::synthetic::seeded;

    /// Builds the oracle: the `tokenizers` crate with the same pieces and merges.
    fn oracle(
        pieces: &[String],
        merges: &[(String, String)],
        markers: &[usize],
    ) -> tokenizers::Tokenizer {
        let vocab: HashMap<&str, usize> =
            pieces.iter().enumerate().map(|(i, p)| (p.as_str(), i)).collect();
        let added: Vec<_> = markers
            .iter()
            .map(|&i| {
                json!({"id": i, "content": pieces[i], "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true})
            })
            .collect();
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": BLANK},
            "pre_tokenizer": {"type": "Split", "pattern": {"String": " "},
                "behavior": "MergedWithPrevious", "invert": false},
            "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": BLANK}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>",
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": merges},
        });
        tokenizers::Tokenizer::from_str(&file.to_string()).unwrap()
    }

    const ODDITIES: [&str; 5] = ["👩‍👩‍👧", "e\u{301}", "</s>", "<0x41>", "\u{2581}"];

    /// Makes text of words, blanks, rare characters, marker spellings and repeats.
    fn random_text(random: &mut Rng, pieces: &[String]) -> String {
        let mut text = String::new();
        for _ in 0..random.below(30) {
            match random.below(9) {
                0 => text.push_str(&" ".repeat(1 + random.below(5))),
                1 => text.push_str(&"\n".repeat(1 + random.below(40))),
                2 => text.push_str(Marker::ALL[random.below(Marker::ALL.len())].text()),
                3 => text.extend(char::from_u32(random.below(0x11_0000) as u32)),
                4 => text.extend(char::from_u32(0x4e00 + random.below(0x5000) as u32)),
                5 => text.push_str(ODDITIES[random.below(ODDITIES.len())]),
                6 => text.push_str(&"ab".repeat(random.below(20))),
                _ => text.push_str(&pieces[random.below(pieces.len())]),
            }
        }
        text
    }

    fn numbers(ids: &[TokenId]) -> Vec<u32> {
        ids.iter().map(|id| id.0).collect()
    }

    /// Compares both ways of encoding, and decoding, with the oracle on `n` random texts.
    fn compare(
        tokenizer: &Tokenizer,
        oracle: &mut tokenizers::Tokenizer,
        pieces: &[String],
        n: usize,
    ) {
        let mut random = seeded(7);
        for _ in 0..n {
            let seed = random.0;
            let text = random_text(&mut random, pieces);
            for with_markers in [false, true] {
                oracle.set_encode_special_tokens(!with_markers);
                let expected = oracle.encode(text.as_str(), false).unwrap();
                let ids = match with_markers {
                    false => tokenizer.encode(&text).unwrap(),
                    true => tokenizer.encode_with_markers(&text).unwrap(),
                };
                assert_eq!(numbers(&ids), expected.get_ids(), "SEED={seed} text {text:?}");
                let back = oracle.decode(expected.get_ids(), true).unwrap();
                assert_eq!(tokenizer.decode(&ids), back, "SEED={seed} text {text:?}");
                if !with_markers {
                    assert!(!ids.iter().any(|&id| tokenizer.is_structure(id)), "SEED={seed}");
                    let expected = text.replace(BLANK, " ");
                    assert_eq!(stream(tokenizer, &ids), expected, "SEED={seed}");
                }
            }
        }
    }

    fn stream(tokenizer: &Tokenizer, ids: &[TokenId]) -> String {
        let mut detokenizer = Detokenizer::new();
        let mut text: String =
            ids.iter().map(|&id| detokenizer.push(tokenizer, id).to_owned()).collect();
        text.push_str(detokenizer.finish());
        text
    }

    #[test]
    fn synthetic_vocabularies_equal_the_oracle() {
        for seed in 0..8 {
            let parts = Parts::new(seed);
            let tokenizer = Tokenizer::new(parts.vocabulary()).unwrap();
            let markers: Vec<usize> = (0..=parts.unknown.index()).collect();
            let mut oracle = oracle(&parts.pieces, &parts.merges, &markers);
            compare(&tokenizer, &mut oracle, &parts.pieces[280..], 400);
            compare_decoding(&tokenizer, &oracle, 400);
        }
    }

    /// Compares decoding with the oracle on `n` runs of random ids, many of them bytes.
    fn compare_decoding(tokenizer: &Tokenizer, oracle: &tokenizers::Tokenizer, n: usize) {
        let mut random = seeded(9);
        for _ in 0..n {
            let seed = random.0;
            let n_ids = random.below(20);
            let ids: Vec<u32> =
                (0..n_ids).map(|_| random.below(tokenizer.n_vocab()) as u32).collect();
            let made: Vec<TokenId> = ids.iter().copied().map(TokenId).collect();
            assert_eq!(tokenizer.decode(&made), oracle.decode(&ids, true).unwrap(), "SEED={seed}");
            let shown = oracle.decode(&ids, false).unwrap();
            assert_eq!(tokenizer.decode_with_markers(&made), shown, "SEED={seed}");
        }
    }

    /// Returns the public vocabulary file, or says why the test is left out.
    fn public_vocabulary(test: &str) -> Option<PathBuf> {
        const NAME: &str = "ggml-vocab-gemma-4.gguf";
        let given = std::env::var_os("CULET_VOCAB").map(PathBuf::from);
        let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(NAME);
        let path = given.unwrap_or(beside);
        if path.is_file() {
            return Some(path);
        }
        // Past the capture of passing tests' output, so that it is seen.
        let mut out = std::io::stderr();
        writeln!(out, "{test} LEFT OUT: {NAME} is not there; name it in CULET_VOCAB").unwrap();
        None
    }

    #[test]
    fn public_vectors_pass() {
        let Some(path) = public_vocabulary("public_vectors_pass") else { return };
        let started = Instant::now();
        let file = Gguf::open(&path).unwrap();
        let opened = started.elapsed();
        let tokenizer = Tokenizer::from_gguf(&file).unwrap();
        println!("opened in {opened:.1?}, tokenizer after {:.1?}", started.elapsed());
        assert_eq!(numbers(tokenizer.ends()), [1, 50, 106]);
        assert_eq!(tokenizer.special().bos, Some(TokenId(2)));
        let read = |ending: &str| {
            let mut path = path.clone().into_os_string();
            path.push(ending);
            std::fs::read_to_string(path).unwrap()
        };
        let (texts, expected) = (read(".inp"), read(".out"));
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let lines: Vec<&str> = expected.lines().collect();
        assert_eq!((texts.len(), lines.len()), (46, 46));
        for (text, line) in texts.iter().zip(lines) {
            let expected: Vec<u32> =
                line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(numbers(&ids), expected, "text {text:?}");
            assert_eq!(tokenizer.decode(&ids), *text);
        }
        for n in 1..=31 {
            assert_eq!(tokenizer.encode(&"\n".repeat(n)).unwrap().len(), 1, "{n} newlines");
        }
    }

    #[test]
    fn public_vocabulary_equals_the_oracle() {
        let Some(path) = public_vocabulary("public_vocabulary_equals_the_oracle") else { return };
        let file = Gguf::open(&path).unwrap();
        let tokenizer = Tokenizer::from_gguf(&file).unwrap();
        let texts = |key: &str| -> Vec<String> {
            let strings = file.texts(key).unwrap();
            strings.map(|s| String::from_utf8(s.to_vec()).unwrap()).collect()
        };
        let pieces = texts("tokenizer.ggml.tokens");
        let merges: Vec<(String, String)> = texts("tokenizer.ggml.merges")
            .iter()
            .map(|merge| {
                let mut blanks = merge.match_indices(' ').map(|(at, _)| at);
                let at = blanks.find(|&at| at > 0).unwrap();
                (merge[..at].to_owned(), merge[at + 1..].to_owned())
            })
            .collect();
        let is_marker = |i: &usize| tokenizer.is_structure(TokenId(*i as u32));
        let markers: Vec<usize> = (0..pieces.len()).filter(is_marker).collect();
        assert_eq!(markers.len(), 24);
        let mut oracle = oracle(&pieces, &merges, &markers);
        compare(&tokenizer, &mut oracle, &pieces, 3000);
    }

    #[test]
    fn long_line_without_blanks_is_fast_and_whole() {
        let parts = Parts::new(3);
        let tokenizer = Tokenizer::new(parts.vocabulary()).unwrap();
        let mut random = seeded(11);
        let line: String = (0..1 << 20).map(|_| b"abcdefghij"[random.below(10)] as char).collect();
        let started = Instant::now();
        let ids = tokenizer.encode(&line).unwrap();
        println!("{} bytes in {:.0?}", line.len(), started.elapsed());
        assert!(started.elapsed().as_secs() < 60, "encoding is not O(n log n)");
        assert_eq!(tokenizer.decode(&ids), line);
    }

    #[test]
    fn too_long_text_is_refused_without_showing_it() {
        let tokenizer = Tokenizer::new(Parts::new(1).vocabulary()).unwrap();
        let error = tokenizer.encode(&"secret".repeat(3 << 20)).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Input);
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn missing_marker_is_named() {
        let unknown = Some(TokenId(0));
        let vocabulary = Vocabulary::from_parts(
            [b"<unk>".as_slice(), b"a"].into_iter(),
            vec![PieceKind::Control, PieceKind::Normal],
            std::iter::empty(),
            Special { unknown, ..Special::default() },
        );
        let tokenizer = Tokenizer::new(vocabulary.unwrap()).unwrap();
        let error = tokenizer.marker(Marker::TurnOpen).unwrap_err();
        assert!(error.to_string().contains("<|turn>"), "{error}");
        assert_eq!(numbers(&tokenizer.encode("aXYa").unwrap()), [1, 0, 1]);
        assert!(tokenizer.ends().is_empty());
    }

    #[test]
    fn merge_without_a_blank_is_refused() {
        for merge in [b"ab".as_slice(), b"", b" "] {
            let vocabulary = Vocabulary::from_parts(
                [b"<unk>".as_slice()].into_iter(),
                vec![PieceKind::Control],
                std::iter::once(merge),
                Special { unknown: Some(TokenId(0)), ..Special::default() },
            );
            let error = Tokenizer::new(vocabulary.unwrap()).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains("merge 0"), "{error}");
        }
    }
}
