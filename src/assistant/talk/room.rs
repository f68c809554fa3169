//! Room in the context: what is forgotten so that a turn, its answer and results of tools fit.
//! In: what is about to be fed. Out: a shorter history, an earlier end of a turn.
//! Invariant: the conversation goes on however long it, a turn in it or a result becomes, and the
//! sound that is being heard is never forgotten.

use std::sync::Arc;

use serde_json::json;

use crate::assistant::event::Input;
use crate::assistant::event::Key;
use crate::assistant::option::TOKEN_MS;
use crate::assistant::talk::Talk;
use crate::assistant::talk::spoken;
use crate::assistant::turn::samples;
use crate::error::Error;
use crate::error::Result;
use crate::session::Encoded;
use crate::text::Content;
use crate::text::Conversation;
use crate::text::Message;
use crate::text::Role;

/// Positions that a turn and its answer should find free; older turns are forgotten for them.
const FREE_TOKENS_MIN: usize = 1024;
/// Positions that are kept for an answer, whatever is heard before it.
const ANSWER_TOKENS_MIN: usize = 64;
/// Positions of the shortest turn that must be possible: 2.5 s.
const TURN_TOKENS_MIN: usize = 64;

impl Talk {
    /// Prefills everything before the user's next words; the oldest turns make room for them.
    pub(super) fn arm(&mut self) -> Result<()> {
        if !self.has_room_for_a_turn()? {
            let (n, n_ctx) = (self.count_next()?, self.session.n_ctx());
            let n_ctx_min = n + TURN_TOKENS_MIN + ANSWER_TOKENS_MIN;
            return Err(Error::input(format!(
                "the system text and the tools have {n} tokens, which leaves too few of {n_ctx} \
                 for a turn; shorten them or raise --ctx to {n_ctx_min}"
            )));
        }
        let (next, media) = self.next();
        self.session.begin_sound(&next, &media).map(drop)
    }

    /// Returns whether at least a short turn fits when the oldest were forgotten.
    pub(super) fn has_room_for_a_turn(&mut self) -> Result<bool> {
        let n_ctx = self.session.n_ctx();
        let n = self.make_room(FREE_TOKENS_MIN.min(n_ctx / 2))?;
        Ok(n + TURN_TOKENS_MIN + ANSWER_TOKENS_MIN <= n_ctx)
    }

    /// Feeds sound of the open turn. Where it does not fit the oldest turns are forgotten; where
    /// that is not enough the turn ends.
    pub(super) fn feed(&mut self, now_ns: u64, from: u64, to: u64) -> Result<()> {
        let n_wanted = (to - from).div_ceil(samples(TOKEN_MS)) as usize;
        let mut n_fitting = self.n_fitting();
        if n_fitting < n_wanted {
            let n_messages = self.conversation.messages.len();
            let n_free = self.session.n_ctx().saturating_sub(self.count_next()?);
            self.make_room(n_free + n_wanted - n_fitting)?;
            if self.conversation.messages.len() < n_messages {
                let (next, media) = self.next();
                self.session.move_sound(&next, &media)?;
                n_fitting = self.n_fitting();
            }
        }
        let end = to.min(from + n_fitting as u64 * samples(TOKEN_MS));
        if end > from {
            self.turn.1 = end;
            self.session.hear(&self.ear.sound(from, end)?)?;
        }
        if end < to {
            log::warn!("the context of {} tokens is full; the turn ends", self.session.n_ctx());
            self.ear.tell(now_ns, Input::Key(Key::EndTurn))?;
        }
        Ok(())
    }

    /// Puts results of tools into the history; the oldest turns make room for them, and the model
    /// is told of those that are too long all the same.
    pub(super) fn remember_results(&mut self, results: Vec<Message>) -> Result<()> {
        let n_ctx = self.session.n_ctx();
        let (n_most, n_results) = (n_ctx.saturating_sub(ANSWER_TOKENS_MIN), results.len());
        self.conversation.messages.extend(results);
        let before = (self.conversation.clone(), self.media.clone());
        if self.forget_until(n_most)? {
            return Ok(());
        }
        log::warn!("results of tools do not fit into {n_ctx} tokens; the model is told so");
        (self.conversation, self.media) = before;
        for message in self.conversation.messages.iter_mut().rev().take(n_results) {
            message.content = Content::Value(json!({ "error": "the result is too long" }));
        }
        self.forget_until(n_most).map(drop)
    }

    /// Forgets turns before the present one until the rest has at most so many positions.
    fn forget_until(&mut self, n_most: usize) -> Result<bool> {
        loop {
            if self.session.count(&self.conversation, &self.media)? <= n_most {
                return Ok(true);
            }
            if !self.forget_oldest(1) {
                return Ok(false);
            }
        }
    }

    /// Returns how many soft tokens of sound may be fed until the turn must end.
    fn n_fitting(&self) -> usize {
        self.session.n_sound_free().saturating_sub(ANSWER_TOKENS_MIN)
    }

    /// Forgets the oldest turns, if otherwise fewer positions than these were free behind them;
    /// returns the positions of what is left.
    fn make_room(&mut self, n_wanted: usize) -> Result<usize> {
        let (n_ctx, mut n) = (self.session.n_ctx(), self.count_next()?);
        if n + n_wanted > n_ctx {
            // What follows a forgotten turn is computed anew, so many are forgotten at a time.
            let n_most = n_ctx.saturating_sub(n_wanted).min(n_ctx / 2);
            while n > n_most && self.forget_oldest(0) {
                n = self.count_next()?;
            }
        }
        Ok(n)
    }

    /// Returns the positions of everything but the sound that is being heard.
    fn count_next(&self) -> Result<usize> {
        let (next, media) = self.next();
        self.session.count(&next, &media)
    }

    /// Returns the conversation with a place for what the user says next, and its other media.
    fn next(&self) -> (Conversation, Vec<Arc<Encoded>>) {
        let picture = self.eye.as_ref().and_then(|eye| eye.picture.clone());
        let mut next = self.conversation.clone();
        next.messages.push(spoken(picture.is_some()));
        (next, self.media.iter().cloned().chain(picture).collect())
    }

    /// Forgets the oldest turn and what answered it, but never the last `n_kept` turns; `false` if
    /// there is no other.
    fn forget_oldest(&mut self, n_kept: usize) -> bool {
        let messages = &mut self.conversation.messages;
        let is_turn = |m: &Message| m.role == Role::User;
        if messages.iter().filter(|m| is_turn(m)).count() <= n_kept {
            return false;
        }
        let Some(start) = messages.iter().position(is_turn) else { return false };
        let next = messages[start + 1..].iter().position(is_turn);
        let end = next.map_or(messages.len(), |n| start + 1 + n);
        let n_media: usize = messages.drain(start..end).map(|m| m.media().count()).sum();
        self.media.drain(..n_media);
        log::info!("the oldest turn was forgotten to make room");
        true
    }
}
