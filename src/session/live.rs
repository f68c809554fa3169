//! Sound that is heard while it is spoken: encoded and prefilled as it arrives.
//!
//! In: a conversation with a place for the sound, then `Pcm` in any packets. Out: a prompt that
//! is ready to be answered the moment the sound ends, or is guessed to end.
//! Invariant: the cache is the same, bit for bit, as if the whole sound had been given at once.

use std::sync::Arc;

use crate::encoder::BLOCK_TOKENS;
use crate::encoder::SoftTokens;
use crate::error::Error;
use crate::error::Result;
use crate::media::Pcm;
use crate::session::feed::Held;
use crate::session::feed::Rows;
use crate::session::feed::Step;
use crate::session::feed::between_segments;
use crate::session::hearing::Heard;
use crate::session::hearing::Hearing;
use crate::session::media::Encoded;
use crate::session::media::key_of;
use crate::session::timeline::Session;
use crate::session::timeline::Stats;
use crate::session::timeline::append;
use crate::session::timeline::drop_empty;
use crate::text::Conversation;
use crate::text::MediaKind;
use crate::text::Prompt;

/// Names the sound that is being heard, whose content is not known yet. What the cache holds of it
/// is at its end, and the next prompt takes it away or a content's key takes this one's place.
const HEARD_KEY: u64 = u64::MAX;

/// A sound that is being heard at the end of the prompt.
pub(super) struct Live {
    /// Positions before the sound.
    n_held: usize,
    segments: Vec<SoftTokens>,
    /// What follows the sound.
    after: Vec<Step>,
    guess: Option<Guess>,
}

/// An end that is only guessed.
struct Guess {
    /// Positions before the guess.
    n_held: usize,
    /// Soft tokens of the end.
    tail: SoftTokens,
}

fn no_sound() -> Error {
    Error::input("no sound was begun")
}

/// Names soft tokens of the sound that is being heard, from this row of this segment on.
fn rows(soft: &SoftTokens, (segment, first): (usize, usize)) -> Rows<'_> {
    Rows { soft, key: HEARD_KEY, segment, first }
}

impl Session {
    /// Feeds a conversation up to a sound that is about to be heard: its last media, which is not
    /// in `media`. Afterwards [`hear`](Self::hear) takes the sound as it arrives.
    ///
    /// # Errors
    /// As for [`prompt`](Self::prompt); `Input` if the conversation has no place for the sound.
    pub fn begin_sound(
        &mut self,
        conversation: &Conversation,
        media: &[Arc<Encoded>],
    ) -> Result<Stats> {
        let hearing = self.take_hearing()?;
        let segments = vec![self.no_soft()];
        let stats = self.open_sound(conversation, media, segments)?;
        self.hearing = Some(hearing);
        Ok(stats)
    }

    /// Puts another conversation before the sound that is being heard, such as one without its
    /// oldest turns; of the sound nothing is lost, and a guess is undone.
    ///
    /// # Errors
    /// As for [`begin_sound`](Self::begin_sound), and then no sound is being heard any more;
    /// `Input` if none was.
    pub fn move_sound(
        &mut self,
        conversation: &Conversation,
        media: &[Arc<Encoded>],
    ) -> Result<Stats> {
        self.take_back()?;
        let live = self.live.take().ok_or_else(no_sound)?;
        self.open_sound(conversation, media, live.segments)
    }

    /// Returns how many positions a conversation takes. A sound that is about to be heard, its
    /// last media, which is not in `media`, takes none.
    ///
    /// # Errors
    /// `Input` if other media are missing or the conversation cannot be rendered.
    pub fn count(&self, conversation: &Conversation, media: &[Arc<Encoded>]) -> Result<usize> {
        let steps = self.steps_to_hear(conversation, media)?;
        Ok(steps.iter().map(Step::len).sum())
    }

    /// Returns how many soft tokens of the sound that is being heard still fit, each 40 ms; room is
    /// left for what was heard but is not computed yet, and for the text behind the sound.
    pub fn n_sound_free(&self) -> usize {
        let n_after = self.live.iter().flat_map(|live| &live.after).map(Step::len).sum::<usize>();
        self.n_ctx().saturating_sub(self.held.len() + BLOCK_TOKENS + n_after)
    }

    fn steps_to_hear(
        &self,
        conversation: &Conversation,
        media: &[Arc<Encoded>],
    ) -> Result<Vec<Step>> {
        let (kind, segments) = (MediaKind::Audio, vec![self.no_soft()]);
        let mark = Arc::new(Encoded { kind, key: HEARD_KEY, segments, times_s: Vec::new() });
        let all: Vec<_> = media.iter().cloned().chain([mark]).collect();
        self.steps(&Prompt::render(conversation)?, &all)
    }

    /// Feeds a conversation up to its sound, and what was heard of the sound.
    fn open_sound(
        &mut self,
        conversation: &Conversation,
        media: &[Arc<Encoded>],
        segments: Vec<SoftTokens>,
    ) -> Result<Stats> {
        let steps = self.steps_to_hear(conversation, media)?;
        let place = steps.iter().position(|s| matches!(s, Step::Soft(e, _) if e.key == HEARD_KEY));
        let place =
            place.ok_or_else(|| Error::input("no place for a sound in the conversation"))?;
        (self.live, self.answer) = (None, None);
        let (stats, n_steps) = self.keep_common(&steps[..=place])?;
        self.feed(None, &steps[n_steps..place], false)?;
        let n_held = self.held.len();
        for (i, soft) in segments.iter().enumerate() {
            let is_last = i + 1 == segments.len();
            let behind = match is_last {
                true => Vec::new(),
                false => Vec::from(between_segments(self.engine.tokenizer())?),
            };
            self.feed(Some(rows(soft, (i, 0))), &behind, false)?;
        }
        let after = steps[place + 1..].to_vec();
        self.live = Some(Live { n_held, segments, after, guess: None });
        Ok(stats)
    }

    /// Takes sound as it arrives: it is encoded and prefilled at once.
    ///
    /// # Errors
    /// `Input` if no sound was begun or the context is full.
    pub fn hear(&mut self, pcm: &Pcm) -> Result<()> {
        if self.live.as_ref().ok_or_else(no_sound)?.guess.is_some() {
            self.take_back()?;
        }
        let mut hearing = self.hearing.take().ok_or_else(no_sound)?;
        let heard = hearing.push(pcm, self.executor.backend_mut());
        self.hearing = Some(hearing);
        self.take_in(heard?)
    }

    /// Ends the open segment, for example in a pause: sound that follows begins another.
    ///
    /// # Errors
    /// `Input` if no sound was begun.
    pub fn close_segment(&mut self) -> Result<()> {
        self.hearing.as_mut().filter(|_| self.live.is_some()).ok_or_else(no_sound)?.close_segment();
        Ok(())
    }

    fn take_in(&mut self, heard: Vec<Heard>) -> Result<()> {
        let mut live = self.live.take().ok_or_else(no_sound)?;
        let result = heard.into_iter().try_for_each(|h| self.take_one(&mut live, h));
        self.live = Some(live);
        result
    }

    fn take_one(&mut self, live: &mut Live, heard: Heard) -> Result<()> {
        match heard {
            Heard::Soft(soft) => {
                let rows = rows(&soft, append(&mut live.segments, &soft));
                self.feed(Some(rows), &[], false)
            }
            Heard::NextSegment(rest) => {
                let between = between_segments(self.engine.tokenizer())?;
                let rows = rows(&rest, append(&mut live.segments, &rest));
                live.segments.push(self.no_soft());
                self.feed(Some(rows), &between, false)
            }
        }
    }

    /// Ends the sound and feeds what follows it; [`next`](Self::next) answers.
    ///
    /// Returns the sound's soft tokens, which later prompts of the conversation name.
    ///
    /// # Errors
    /// `Input` if no sound was begun or it was too short.
    pub fn end_sound(&mut self) -> Result<Arc<Encoded>> {
        if let Some(guess) = self.live.as_mut().ok_or_else(no_sound)?.guess.take() {
            return self.keep_guess(guess);
        }
        let mut hearing = self.hearing.take().ok_or_else(no_sound)?;
        let end = hearing.finish(self.executor.backend_mut());
        self.hearing = Some(hearing);
        let (heard, tail) = end?;
        self.take_in(heard)?;
        let mut live = self.live.take().ok_or_else(no_sound)?;
        let after = std::mem::take(&mut live.after);
        let place = append(&mut live.segments, &tail);
        let encoded = self.keep_sound(live)?;
        self.feed(Some(Rows { key: encoded.key, ..rows(&tail, place) }), &after, true)?;
        self.begin_answer(false);
        Ok(encoded)
    }

    fn keep_sound(&mut self, mut live: Live) -> Result<Arc<Encoded>> {
        let n_samples = self.hearing.as_ref().map_or(0, Hearing::n_samples);
        drop_empty(&mut live.segments, n_samples)?;
        // They grew as they came, and stay for long.
        live.segments.iter_mut().for_each(|soft| soft.data.shrink_to_fit());
        let (kind, segments) = (MediaKind::Audio, live.segments);
        let numbers: Vec<u64> = segments.iter().map(|s| s.n() as u64).collect();
        let key = key_of(kind, &numbers, segments.iter().map(|s| &s.data[..]));
        for held in &mut self.held {
            if let Held::Soft { key: mark, .. } = held
                && *mark == HEARD_KEY
            {
                *mark = key;
            }
        }
        Ok(self.kept.keep(Encoded { kind, key, segments, times_s: Vec::new() }))
    }

    /// Guesses that the sound ends here and feeds what follows it; [`next`](Self::next) answers.
    ///
    /// [`end_sound`](Self::end_sound) makes the guess true. [`hear`](Self::hear) or
    /// [`take_back`](Self::take_back) undo it, and the cache is as if it had never been made.
    ///
    /// # Errors
    /// `Input` if no sound was begun; whatever feeding brings, and then nothing was guessed.
    pub fn guess_end(&mut self) -> Result<()> {
        let mut live = self.live.take().filter(|l| l.guess.is_none()).ok_or_else(no_sound)?;
        let result = self.make_guess(&mut live);
        self.live = Some(live);
        if result.is_err() {
            self.take_back()?;
        }
        result
    }

    fn make_guess(&mut self, live: &mut Live) -> Result<()> {
        let mut hearing = self.hearing.take().ok_or_else(no_sound)?;
        let tail = hearing.guess_end(self.executor.backend_mut());
        self.hearing = Some(hearing);
        let tail = tail?;
        live.guess = Some(Guess { n_held: self.held.len(), tail: tail.clone() });
        let segment = live.segments.len() - 1;
        let place = (segment, live.segments[segment].n());
        self.feed(Some(rows(&tail, place)), &live.after, true)?;
        self.begin_answer(false);
        Ok(())
    }

    fn keep_guess(&mut self, guess: Guess) -> Result<Arc<Encoded>> {
        let mut live = self.live.take().ok_or_else(no_sound)?;
        append(&mut live.segments, &guess.tail);
        self.keep_sound(live)
    }

    /// Undoes a guess and returns how many positions were computed in vain.
    ///
    /// # Errors
    /// `Internal` if the cache no longer reaches back that far.
    pub fn take_back(&mut self) -> Result<usize> {
        let Some(guess) = self.live.as_mut().and_then(|l| l.guess.take()) else { return Ok(0) };
        let wasted = self.held.len() - guess.n_held;
        self.answer = None;
        self.rewind(guess.n_held)?;
        Ok(wasted)
    }
    /// Forgets the sound that is being heard, as if it had not begun; without one it does nothing.
    ///
    /// # Errors
    /// `Internal` if the cache cannot be taken back.
    pub fn drop_sound(&mut self) -> Result<()> {
        let Some(live) = self.live.take() else { return Ok(()) };
        self.answer = None;
        let reaches = self.executor.kv().can_rewind(live.n_held);
        self.rewind(if reaches { live.n_held } else { 0 })
    }
}
