//! From a rendered prompt to what the decoder takes, and what of it the cache already holds.
//!
//! In: prompt items, encoded media. Out: [`Step`]s, and the common beginning with the cache.

use std::ops::Range;
use std::sync::Arc;

use crate::error::Error;
use crate::error::Result;
use crate::session::media::Encoded;
use crate::text::Item;
use crate::text::Marker;
use crate::text::MediaKind;
use crate::text::Tokenizer;
use crate::units::TokenId;

/// One thing to feed: a token, or one segment of soft tokens.
#[derive(Clone)]
pub(super) enum Step {
    /// A text token.
    Token(TokenId),
    /// A run of soft tokens.
    Soft(Arc<Encoded>, usize),
}

/// What the cache holds at one position; two positions hold the same if these are equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Held {
    /// A text token.
    Token(TokenId),
    /// Soft token `row` of segment `segment` of the media with this key.
    Soft {
        /// Names the content.
        key: u64,
        /// Segment of the media.
        segment: u32,
        /// Row of the segment.
        row: u32,
    },
}

impl Step {
    /// Appends what the cache will hold.
    pub(super) fn hold(&self, held: &mut Vec<Held>) {
        match self {
            Self::Token(id) => held.push(Held::Token(*id)),
            Self::Soft(encoded, segment) => {
                let n = encoded.segments[*segment].n() as u32;
                let (key, segment) = (encoded.key, *segment as u32);
                held.extend((0..n).map(|row| Held::Soft { key, segment, row }));
            }
        }
    }

    /// Returns how many positions it takes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Token(_) => 1,
            Self::Soft(encoded, segment) => encoded.segments[*segment].n(),
        }
    }
}

/// Puts media in place of their marks; a sound of several segments closes and opens its block.
pub(super) fn steps(
    items: &[Item],
    media: &[Arc<Encoded>],
    tokenizer: &Tokenizer,
) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for item in items {
        match *item {
            Item::Token(id) => steps.push(Step::Token(id)),
            Item::Soft { kind, index, frame } => {
                let found = media.get(index).filter(|e| e.kind == kind);
                let encoded = found.ok_or_else(|| {
                    Error::input(format!(
                        "the conversation names {kind:?} {index}, but {} media were given",
                        media.len()
                    ))
                })?;
                let range = match kind {
                    MediaKind::Video => frame..frame + 1,
                    _ => 0..encoded.segments.len(),
                };
                push_segments(&mut steps, encoded, range, tokenizer)?;
            }
        }
    }
    Ok(steps)
}

fn push_segments(
    steps: &mut Vec<Step>,
    encoded: &Arc<Encoded>,
    range: Range<usize>,
    tokenizer: &Tokenizer,
) -> Result<()> {
    for segment in range.clone() {
        if segment >= encoded.segments.len() {
            return Err(Error::input(format!("media have no segment {segment}")));
        }
        if segment > range.start {
            steps.push(Step::Token(tokenizer.marker(Marker::AudioClose)?));
            steps.push(Step::Token(tokenizer.marker(Marker::AudioOpen)?));
        }
        steps.push(Step::Soft(Arc::clone(encoded), segment));
    }
    Ok(())
}

/// Returns how many positions of `held` and how many of `steps` are the same beginning.
///
/// Text between two structure tokens is the same if its bytes are, however it was cut into
/// tokens: what the model wrote is kept as the model wrote it.
pub(super) fn shared_start(held: &[Held], steps: &[Step], tokenizer: &Tokenizer) -> (usize, usize) {
    let (mut at_held, mut at_step) = (0, 0);
    // Where both were last known to be the same between spans of text.
    let (mut start_held, mut start_step) = (0, 0);
    let mut soft = Vec::new();
    while at_held < held.len() && at_step < steps.len() {
        soft.clear();
        steps[at_step].hold(&mut soft);
        let n = soft.len();
        if held.len() - at_held >= n && held[at_held..at_held + n] == soft[..] {
            at_held += n;
            at_step += 1;
            let plain = n == 1 && is_plain(held[at_held - 1], tokenizer);
            if !plain {
                (start_held, start_step) = (at_held, at_step);
            }
            continue;
        }
        let run_held = run(start_held, held.len(), |i| is_plain(held[i], tokenizer));
        let run_step = run(start_step, steps.len(), |i| match steps[i] {
            Step::Token(id) => is_plain(Held::Token(id), tokenizer),
            Step::Soft(..) => false,
        });
        let text_held = run_held.clone().filter_map(|i| token_of(held[i]));
        let text_step = run_step.clone().filter_map(|i| match steps[i] {
            Step::Token(id) => Some(id),
            Step::Soft(..) => None,
        });
        let stuck = run_held.end <= at_held && run_step.end <= at_step;
        if stuck
            || run_held.is_empty()
            || bytes(text_held, tokenizer) != bytes(text_step, tokenizer)
        {
            break;
        }
        (at_held, at_step) = (run_held.end, run_step.end);
        (start_held, start_step) = (at_held, at_step);
    }
    (at_held, at_step)
}

fn run(start: usize, end: usize, plain: impl Fn(usize) -> bool) -> Range<usize> {
    start..(start..end).find(|&i| !plain(i)).unwrap_or(end)
}

fn token_of(held: Held) -> Option<TokenId> {
    match held {
        Held::Token(id) => Some(id),
        Held::Soft { .. } => None,
    }
}

fn is_plain(held: Held, tokenizer: &Tokenizer) -> bool {
    token_of(held).is_some_and(|id| !tokenizer.is_structure(id) && !tokenizer.is_end(id))
}

fn bytes(ids: impl Iterator<Item = TokenId>, tokenizer: &Tokenizer) -> Vec<u8> {
    let mut text = Vec::new();
    for id in ids {
        match tokenizer.byte_of(id) {
            Some(byte) => text.push(byte),
            None => text.extend_from_slice(tokenizer.piece(id)),
        }
    }
    text
}
