//! The vocabulary as the model file holds it: pieces, their kinds, merges, markers.
//!
//! In: byte strings, in place in the mapped file or copied. Out: `Vocabulary`, `Marker`.
//! Source: Gemma 4 `tokenizer.json`; GGUF keys `tokenizer.ggml.*`.
//! Invariant: no `String` per piece; every string is a range of one shared byte block.

use std::sync::Arc;

use crate::error::Error;
use crate::error::Result;
use crate::units::TokenId;

/// Most pieces a vocabulary may have.
pub const PIECES_MAX: usize = 1 << 22;
/// Most merges a vocabulary may have.
pub const MERGES_MAX: usize = 1 << 23;
/// Longest piece or merge, in bytes.
pub const PIECE_BYTES_MAX: usize = 4096;

/// Bytes that outlive every string taken from them: a mapping of the file, or a copy.
pub(super) type Block = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// What a piece is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PieceKind {
    /// Ordinary text.
    Normal,
    /// Stands for text that no piece spells.
    Unknown,
    /// Structure, never shown and never made from text.
    Control,
    /// Structure that output parsers read; never made from user text either.
    UserDefined,
    /// Reserved, without a meaning.
    Unused,
    /// One raw byte, spelled `<0xNN>`.
    Byte,
}

impl PieceKind {
    /// Returns the kind for a file's number; numbers without a meaning are ordinary text.
    pub fn from_number(number: i32) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// Pieces that give a prompt its structure. Each is one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Marker {
    /// `<pad>`
    Pad,
    /// `<eos>`
    Eos,
    /// `<bos>`
    Bos,
    /// `<mask>`
    Mask,
    /// `<|tool>`: opens a tool declaration
    ToolOpen,
    /// `<tool|>`: closes a tool declaration
    ToolClose,
    /// `<|tool_call>`: opens a tool call
    CallOpen,
    /// `<tool_call|>`: closes a tool call
    CallClose,
    /// `<|tool_response>`: opens a tool response; made by the model, it waits for the tool
    ResponseOpen,
    /// `<tool_response|>`: closes a tool response
    ResponseClose,
    /// `<|"|>`: opens and closes a string in tool syntax
    Quote,
    /// `<|think|>`: switches thinking on
    Think,
    /// `<|channel>`: opens a channel
    ChannelOpen,
    /// `<channel|>`: closes a channel
    ChannelClose,
    /// `<|turn>`: opens a turn
    TurnOpen,
    /// `<turn|>`: closes a turn
    TurnClose,
    /// `<|image>`: begins a picture's soft tokens
    ImageOpen,
    /// `<|image|>`: stands for a picture
    Image,
    /// `<image|>`: ends a picture's soft tokens
    ImageClose,
    /// `<|audio>`: begins a sound's soft tokens
    AudioOpen,
    /// `<|audio|>`: stands for a sound
    Audio,
    /// `<audio|>`: ends a sound's soft tokens
    AudioClose,
    /// `<|video|>`: stands for a video
    Video,
}

impl Marker {
    /// Every marker, in the order of its number.
    pub const ALL: [Self; 23] = [
        Self::Pad,
        Self::Eos,
        Self::Bos,
        Self::Mask,
        Self::ToolOpen,
        Self::ToolClose,
        Self::CallOpen,
        Self::CallClose,
        Self::ResponseOpen,
        Self::ResponseClose,
        Self::Quote,
        Self::Think,
        Self::ChannelOpen,
        Self::ChannelClose,
        Self::TurnOpen,
        Self::TurnClose,
        Self::ImageOpen,
        Self::Image,
        Self::ImageClose,
        Self::AudioOpen,
        Self::Audio,
        Self::AudioClose,
        Self::Video,
    ];

    /// Returns the piece's spelling.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Pad => "<pad>",
            Self::Eos => "<eos>",
            Self::Bos => "<bos>",
            Self::Mask => "<mask>",
            Self::ToolOpen => "<|tool>",
            Self::ToolClose => "<tool|>",
            Self::CallOpen => "<|tool_call>",
            Self::CallClose => "<tool_call|>",
            Self::ResponseOpen => "<|tool_response>",
            Self::ResponseClose => "<tool_response|>",
            Self::Quote => "<|\"|>",
            Self::Think => "<|think|>",
            Self::ChannelOpen => "<|channel>",
            Self::ChannelClose => "<channel|>",
            Self::TurnOpen => "<|turn>",
            Self::TurnClose => "<turn|>",
            Self::ImageOpen => "<|image>",
            Self::Image => "<|image|>",
            Self::ImageClose => "<image|>",
            Self::AudioOpen => "<|audio>",
            Self::Audio => "<|audio|>",
            Self::AudioClose => "<audio|>",
            Self::Video => "<|video|>",
        }
    }

    /// Returns the marker that `text` begins with, the longest if several do.
    pub(super) fn at_start_of(text: &str) -> Option<Self> {
        let fits = Self::ALL.into_iter().filter(|m| text.starts_with(m.text()));
        fits.max_by_key(|m| m.text().len())
    }
}

/// Byte strings that lie one after the other in a block.
#[derive(Clone)]
pub(super) struct Strings {
    block: Block,
    /// Position in the block from which `starts` count.
    base: usize,
    /// Start of each string, then the end of the last plus `gap`.
    starts: Vec<u32>,
    /// Bytes between one string and the next: the length field in a mapped file.
    gap: u32,
}

impl Strings {
    /// Copies `strings` into a block of their own.
    pub(super) fn copied<'a>(strings: impl Iterator<Item = &'a [u8]>) -> Result<Self> {
        let mut bytes = Vec::new();
        let mut starts = vec![0];
        for string in strings {
            check_length(string)?;
            bytes.extend_from_slice(string);
            starts.push(start_of(bytes.len())?);
        }
        Ok(Self { block: Arc::new(bytes), base: 0, starts, gap: 0 })
    }

    /// Notes where `strings` lie in `block`, with one length field of 8 bytes before each.
    pub(super) fn mapped<'a>(
        block: &'a Block,
        strings: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> Result<Self> {
        const LENGTH_BYTES: usize = 8;
        let origin = (**block).as_ref().as_ptr() as usize;
        let mut starts = Vec::with_capacity(strings.len() + 1);
        let mut base = 0;
        let mut next = 0;
        for string in strings {
            check_length(string)?;
            let at = (string.as_ptr() as usize).wrapping_sub(origin);
            if starts.is_empty() {
                base = at;
            } else if at != base + next {
                return Err(Error::internal("vocabulary strings are not one after the other"));
            }
            starts.push(start_of(at - base)?);
            next = at - base + string.len() + LENGTH_BYTES;
        }
        starts.push(start_of(next)?);
        let inside = (base + next).saturating_sub(LENGTH_BYTES) <= (**block).as_ref().len();
        if !inside {
            return Err(Error::internal("vocabulary strings lie outside the file"));
        }
        Ok(Self { block: Arc::clone(block), base, starts, gap: LENGTH_BYTES as u32 })
    }

    /// Returns how many strings there are.
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Returns a view that reads strings without asking the block each time.
    pub(super) fn view(&self) -> View<'_> {
        let bytes = (*self.block).as_ref();
        View { bytes: &bytes[self.base.min(bytes.len())..], starts: &self.starts, gap: self.gap }
    }
}

/// Borrowed form of [`Strings`].
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    bytes: &'a [u8],
    starts: &'a [u32],
    gap: u32,
}

impl<'a> View<'a> {
    /// Returns string `index`, empty if there is none.
    pub(super) fn at(&self, index: usize) -> &'a [u8] {
        match (self.starts.get(index), self.starts.get(index + 1)) {
            (Some(&start), Some(&next)) => {
                self.bytes.get(start as usize..(next - self.gap) as usize).unwrap_or_default()
            }
            _ => &[],
        }
    }
}

fn check_length(string: &[u8]) -> Result<()> {
    if string.len() > PIECE_BYTES_MAX {
        let n = string.len();
        return Err(Error::format(format!(
            "a vocabulary string has {n} bytes, expected at most {PIECE_BYTES_MAX}"
        )));
    }
    Ok(())
}

fn start_of(position: usize) -> Result<u32> {
    u32::try_from(position).map_err(|_| {
        Error::format(format!("vocabulary strings take {position} bytes, expected at most 4 GiB"))
    })
}

/// Ids that the file names by key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Special {
    /// Start of sequence.
    pub bos: Option<TokenId>,
    /// End of sequence.
    pub eos: Option<TokenId>,
    /// Text that no piece spells.
    pub unknown: Option<TokenId>,
}

/// Pieces, kinds, merges and named ids of one model.
#[derive(Clone)]
pub struct Vocabulary {
    pub(super) pieces: Strings,
    pub(super) kinds: Vec<PieceKind>,
    pub(super) merges: Strings,
    pub(super) special: Special,
}

impl Vocabulary {
    /// Copies a vocabulary from its parts.
    ///
    /// Merges are spelled `left right`; the blank at index 1 or later divides them.
    ///
    /// # Errors   `Format` if kinds and pieces differ in number, or a limit is passed
    pub fn from_parts<'a>(
        pieces: impl Iterator<Item = &'a [u8]>,
        kinds: Vec<PieceKind>,
        merges: impl Iterator<Item = &'a [u8]>,
        special: Special,
    ) -> Result<Self> {
        Self::checked(Strings::copied(pieces)?, kinds, Strings::copied(merges)?, special)
    }

    pub(super) fn checked(
        pieces: Strings,
        kinds: Vec<PieceKind>,
        merges: Strings,
        special: Special,
    ) -> Result<Self> {
        let n = pieces.len();
        if n == 0 || n > PIECES_MAX {
            return Err(Error::format(format!(
                "the vocabulary has {n} pieces, expected 1 to {PIECES_MAX}"
            )));
        }
        if kinds.len() != n {
            let found = kinds.len();
            return Err(Error::format(format!(
                "the vocabulary has {found} piece types, expected {n}, one for each piece"
            )));
        }
        if merges.len() > MERGES_MAX {
            let found = merges.len();
            return Err(Error::format(format!(
                "the vocabulary has {found} merges, expected at most {MERGES_MAX}"
            )));
        }
        Ok(Self { pieces, kinds, merges, special })
    }
}

#[cfg(test)]
pub(super) mod synthetic {
    use super::*;

    use crate::random;
    use crate::random::Rng;

    /// Numbers from a seed; `SEED` in the environment repeats a run.
    pub(crate) fn seeded(default: u64) -> Rng {
        Rng(random::seed(default))
    }

    /// The parts of a small vocabulary with every marker, every byte and random merges.
    pub(crate) struct Parts {
        pub(crate) pieces: Vec<String>,
        pub(crate) kinds: Vec<PieceKind>,
        pub(crate) merges: Vec<(String, String)>,
        pub(crate) unknown: TokenId,
    }

    impl Parts {
        pub(crate) fn new(seed: u64) -> Self {
            let mut random = Rng(seed);
            let mut pieces: Vec<String> = Vec::new();
            let mut kinds = Vec::new();
            for marker in Marker::ALL {
                pieces.push(marker.text().to_owned());
                kinds.push(PieceKind::Control);
            }
            let unknown = TokenId(pieces.len() as u32);
            pieces.push("<unk>".to_owned());
            kinds.push(PieceKind::Control);
            for byte in 0..=255 {
                pieces.push(format!("<0x{byte:02X}>"));
                kinds.push(PieceKind::Byte);
            }
            let first = pieces.len();
            let letters = "abcdefghij ABC\u{2581}\n\t0123456789<|>\"/_éß日本🦙:{},.";
            pieces.extend(letters.chars().filter(|c| *c != ' ').map(String::from));
            let mut merges = Vec::new();
            while merges.len() < 500 {
                let n = pieces.len() - first;
                let left = pieces[first + random.below(n)].clone();
                let right = pieces[first + random.below(n)].clone();
                let joined = format!("{left}{right}");
                if joined.len() <= 12 && !pieces.contains(&joined) {
                    pieces.push(joined);
                    merges.push((left, right));
                }
            }
            pieces.push("</s>".to_owned());
            kinds.resize(pieces.len(), PieceKind::Normal);
            Self { pieces, kinds, merges, unknown }
        }

        pub(crate) fn vocabulary(&self) -> Vocabulary {
            let merges: Vec<String> = self.merges.iter().map(|(l, r)| format!("{l} {r}")).collect();
            Vocabulary::from_parts(
                self.pieces.iter().map(String::as_bytes),
                self.kinds.clone(),
                merges.iter().map(String::as_bytes),
                Special { bos: None, eos: None, unknown: Some(self.unknown) },
            )
            .unwrap()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_parts_are_refused() {
        let long = vec![b'a'; PIECE_BYTES_MAX + 1];
        let cases: [(&[&[u8]], usize, &str); 3] = [
            (&[], 0, "has 0 pieces"),
            (&[b"a", b"b"], 1, "1 piece types, expected 2"),
            (&[&long], 1, "has 4097 bytes"),
        ];
        for (pieces, n_kinds, expected) in cases {
            let kinds = vec![PieceKind::Normal; n_kinds];
            let none = std::iter::empty();
            let made =
                Vocabulary::from_parts(pieces.iter().copied(), kinds, none, Special::default());
            let message = made.map(|_| ()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn strings_in_place_equal_their_copies() {
        let words: [&[u8]; 4] = [b"one", b"", b"three", "日".as_bytes()];
        let mut bytes = b"head".to_vec();
        for word in words {
            bytes.extend((word.len() as u64).to_le_bytes());
            bytes.extend(word);
        }
        let block: Block = Arc::new(bytes);
        let view = (*block).as_ref();
        let mut at = 4;
        let mut found = Vec::new();
        for word in words {
            at += 8;
            found.push(&view[at..at + word.len()]);
            at += word.len();
        }
        let mapped = Strings::mapped(&block, found.into_iter()).unwrap();
        let copied = Strings::copied(words.into_iter()).unwrap();
        assert_eq!((mapped.len(), copied.len()), (4, 4));
        for (index, word) in words.iter().enumerate() {
            assert_eq!(mapped.view().at(index), *word);
            assert_eq!(copied.view().at(index), *word);
        }
        assert_eq!(mapped.view().at(4), b"");
    }

    #[test]
    fn longest_marker_is_found() {
        assert_eq!(Marker::at_start_of("<|tool_call>x"), Some(Marker::CallOpen));
        assert_eq!(Marker::at_start_of("<|image|>"), Some(Marker::Image));
        assert_eq!(Marker::at_start_of("<|imag"), None);
        for (number, marker) in Marker::ALL.into_iter().enumerate() {
            assert_eq!(marker as usize, number);
        }
    }
}
