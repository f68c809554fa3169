//! One answer on its way: tokens to clauses, calls and, in the end, a message of the history.
//! In: a session that answers. Out: what the machine is told, the text to say.
//! Invariant: bytes count from the start of the answer, through all its rounds of calls.

use crate::assistant::event::Input;
use crate::error::Result;
use crate::session::Session;
use crate::sink::ClauseCutter;
use crate::text::Event;
use crate::text::Message;
use crate::text::Parsed;
use crate::text::Role;

/// How far an answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Growing,
    /// Its calls wait for results.
    Waiting,
    Ended,
}

/// An answer in progress.
pub(super) struct Reply {
    pub(super) id: u32,
    /// What the present round said and called.
    pub(super) parsed: Parsed,
    pub(super) n_tokens: usize,
    pub(super) n_rounds: usize,
    /// Whether the turn is over that it answers.
    pub(super) is_committed: bool,
    /// Whether that turn is in the history.
    pub(super) is_settled: bool,
    phase: Phase,
    /// The text of all rounds.
    text: String,
    round_from: usize,
    shown: usize,
    cutter: ClauseCutter,
}

impl Reply {
    /// Creates an answer of which nothing is there.
    pub(super) fn new(id: u32) -> Self {
        Self {
            id,
            parsed: Parsed::new(),
            n_tokens: 0,
            n_rounds: 0,
            is_committed: false,
            is_settled: false,
            phase: Phase::Growing,
            text: String::new(),
            round_from: 0,
            shown: 0,
            cutter: ClauseCutter::new(),
        }
    }

    pub(super) fn is_growing(&self) -> bool {
        self.phase == Phase::Growing
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.phase == Phase::Waiting
    }

    pub(super) fn end(&mut self) {
        self.phase = Phase::Ended;
    }

    /// Goes on after the results of calls.
    pub(super) fn next_round(&mut self) {
        self.parsed = Parsed::new();
        self.round_from = self.text.len();
        self.n_rounds += 1;
        self.phase = Phase::Growing;
    }

    /// Makes a token and returns what the machine is told of it.
    pub(super) fn step(
        &mut self,
        session: &mut Session,
        n_tokens_max: usize,
    ) -> Result<Vec<Input>> {
        let mut said = String::new();
        let parsed = &mut self.parsed;
        let mut take = |event: Event<'_>| {
            if let Event::Answer(text) = event {
                said.push_str(text);
            }
            parsed.add(event);
        };
        let mut goes_on = session.next(&mut take)?;
        self.n_tokens += 1;
        if goes_on && self.n_tokens >= n_tokens_max {
            session.cut(&mut take);
            goes_on = false;
        }
        let answer = self.id;
        let mut told = vec![Input::Token { answer }];
        self.text.push_str(&said);
        let mut clauses = self.cutter.push(&said);
        if !goes_on {
            clauses.extend(self.cutter.finish());
        }
        let ready = |clause: &crate::sink::Clause| {
            let end_bytes = clause.end_bytes;
            Input::ClauseReady { answer, end_bytes }
        };
        // What is ready together is spoken together, and the machine takes a few at a time.
        told.extend(clauses.last().map(ready));
        if !goes_on {
            let has_calls = !self.parsed.tool_calls.is_empty();
            self.phase = if has_calls { Phase::Waiting } else { Phase::Ended };
            if !has_calls {
                told.push(Input::AnswerEnded { answer });
            }
        }
        Ok(told)
    }

    /// Returns how many bytes of the text were shown.
    pub(super) fn shown(&self) -> usize {
        self.shown
    }

    /// Returns the text up to here that was not shown before.
    pub(super) fn show(&mut self, to_bytes: usize) -> &str {
        let from = self.shown;
        self.shown = whole(&self.text, to_bytes).max(from);
        &self.text[from..self.shown]
    }

    /// Returns the present round as a message, its text cut where it was heard to.
    pub(super) fn message(&self, to_bytes: usize) -> Message {
        let end = whole(&self.text, to_bytes).max(self.round_from);
        let mut message = Message::text(Role::Assistant, self.text[self.round_from..end].trim());
        if to_bytes >= self.text.len() {
            message.tool_calls = self.parsed.tool_calls.clone();
        }
        message
    }
}

/// Returns the last place at or before `bytes` that cuts no character.
fn whole(text: &str, bytes: usize) -> usize {
    let most = bytes.min(text.len());
    (0..=most).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Content;

    #[test]
    fn a_message_holds_what_was_heard() {
        let mut reply = Reply::new(1);
        reply.text = "Grüße. Bis bald.".to_owned();
        let texts = [(0, ""), (3, "Gr"), (8, "Grüße."), (usize::MAX, "Grüße. Bis bald.")];
        for (to_bytes, expected) in texts {
            let message = reply.message(to_bytes);
            assert!(matches!(message.content, Content::Text(text) if text == expected));
        }
        assert_eq!(reply.show(8), "Grüße.");
        assert_eq!(reply.show(100), " Bis bald.");
        reply.next_round();
        reply.text.push_str(" Ja.");
        assert!(matches!(reply.message(99).content, Content::Text(text) if text == "Ja."));
    }
}
