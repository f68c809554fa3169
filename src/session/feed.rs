//! From a rendered prompt to what the decoder takes, and what of it the cache already holds.
//!
//! In: prompt items, encoded media. Out: [`Step`]s, the common beginning with the cache, and
//! [`Batch`]es, which are computed in one pass each.
//! Invariant: batches end where a sound's blocks do, so a sound that is heard while it is spoken
//! is cut like one that is whole.

use std::ops::Range;
use std::sync::Arc;

use crate::decoder::Entry;
use crate::encoder::BLOCK_TOKENS;
use crate::encoder::SoftTokens;
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

/// Soft tokens from row `first` of a segment on, where a block begins.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// The soft tokens.
    pub(super) soft: &'a SoftTokens,
    /// Names the content.
    pub(super) key: u64,
    /// Segment of the media.
    pub(super) segment: usize,
    /// Row of the segment that is the first of these.
    pub(super) first: usize,
}

/// What is computed together.
#[derive(Default)]
pub(super) struct Batch<'a> {
    /// What the decoder takes.
    pub(super) entries: Vec<Entry<'a>>,
    /// What the cache will hold of it.
    pub(super) held: Vec<Held>,
}

/// Cuts the rows of a sound's end, and the steps behind them, into what is computed together.
///
/// A whole block of soft tokens is for itself, as it comes from a microphone; the rest of a segment
/// is joined by the text behind it, since the weights are then read once for both.
pub(super) fn batches<'a>(tail: Option<Rows<'a>>, steps: &'a [Step]) -> Vec<Batch<'a>> {
    let (mut batches, mut open) = (Vec::new(), Batch::default());
    if let Some(rows) = tail {
        push_rows(&mut batches, &mut open, rows);
    }
    for step in steps {
        match step {
            Step::Token(id) => {
                open.entries.push(Entry::Token(*id));
                open.held.push(Held::Token(*id));
            }
            Step::Soft(encoded, segment) => {
                batches.push(std::mem::take(&mut open));
                let (soft, key) = (&encoded.segments[*segment], encoded.key);
                push_rows(&mut batches, &mut open, Rows { soft, key, segment: *segment, first: 0 });
            }
        }
    }
    batches.push(open);
    batches.retain(|batch| !batch.entries.is_empty());
    batches
}

fn push_rows<'a>(batches: &mut Vec<Batch<'a>>, open: &mut Batch<'a>, rows: Rows<'a>) {
    let Rows { soft, key, segment, first } = rows;
    for (i, row) in soft.data.chunks_exact(soft.n_embd.max(1)).enumerate() {
        open.entries.push(Entry::Soft(row));
        let (segment, row) = (segment as u32, (first + i) as u32);
        open.held.push(Held::Soft { key, segment, row });
        if open.entries.len() == BLOCK_TOKENS {
            batches.push(std::mem::take(open));
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
            steps.extend(between_segments(tokenizer)?);
        }
        steps.push(Step::Soft(Arc::clone(encoded), segment));
    }
    Ok(())
}

/// Returns what closes a segment of a sound and opens the next.
pub(super) fn between_segments(tokenizer: &Tokenizer) -> Result<[Step; 2]> {
    let [close, open] = [Marker::AudioClose, Marker::AudioOpen].map(|mark| tokenizer.marker(mark));
    Ok([Step::Token(close?), Step::Token(open?)])
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

#[cfg(test)]
mod tests {
    use super::*;

    fn soft(n: usize) -> SoftTokens {
        SoftTokens { data: vec![0.5; 2 * n], n_embd: 2 }
    }

    fn lengths(batches: &[Batch<'_>]) -> Vec<usize> {
        assert!(batches.iter().all(|b| b.entries.len() == b.held.len()));
        batches.iter().map(|b| b.entries.len()).collect()
    }

    #[test]
    fn the_rest_of_a_sound_is_joined_by_the_text_behind_it() {
        let (kind, times_s) = (MediaKind::Audio, Vec::new());
        let segments = vec![soft(BLOCK_TOKENS + 3), soft(2 * BLOCK_TOKENS)];
        let sound = Arc::new(Encoded { kind, key: 7, segments, times_s });
        let text = |n: usize| vec![Step::Token(TokenId(1)); n];
        let [first, second] = [0, 1].map(|i| vec![Step::Soft(Arc::clone(&sound), i)]);
        let steps = [text(5), first, text(2), second, text(4)].concat();
        let whole = batches(None, &steps);
        let n = BLOCK_TOKENS;
        assert_eq!(lengths(&whole), [5, n, 3 + 2, n, n, 4]);
        // The same, cut where a sound that is heard while it is spoken ends.
        let tail = soft(3);
        let rows = Rows { soft: &tail, key: 7, segment: 0, first: n };
        let live = batches(Some(rows), &steps[6..8]);
        assert_eq!(lengths(&live), [5]);
        assert_eq!(live[0].held, whole[2].held);
        let none = soft(0);
        let end = batches(Some(Rows { soft: &none, ..rows }), &steps[9..]);
        assert_eq!((lengths(&end), &end[0].held), (vec![4], &whole[5].held));
        assert!(batches(None, &[]).is_empty());
    }
}
