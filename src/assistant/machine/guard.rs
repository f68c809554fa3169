//! Who may speak to the assistant: the machine's part of a wake word.
//! In: how far an utterance is, and whether a phrase begins it. Out: what becomes of it.
//! Invariant: only sound counts, never the clock; a phrase is looked for at the start alone.

use crate::assistant::turn::samples;
use crate::assistant::wake::Called;

/// Speech between two looks at what was said so far.
const LOOK_MS: u32 = 500;
/// Pause at which an utterance is over if no phrase began it.
const PAUSE_MS: u32 = 300;
/// Sound in which the phrase must have been found.
const LOOKOUT_MS_MAX: u32 = 5_000;

/// An utterance of which nobody knows yet whom it is meant for, in samples.
#[derive(Debug, Clone, Copy)]
pub(super) struct Utterance {
    pub(super) from: u64,
    pub(super) to: u64,
    /// Since its last speech.
    pub(super) silence: u64,
}

/// What becomes of the utterance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It goes on.
    Wait,
    /// Look for the phrase in it.
    Look,
    /// It is over, and was meant for nobody.
    Over,
    /// It is not meant for the assistant, whatever follows.
    Refuse,
    /// It was the phrase: what is said next is meant for the assistant.
    Wake,
    /// It is the user's turn.
    LetIn,
}

/// Where the look-out is.
#[derive(Debug, Clone, Default)]
pub(super) struct Guard {
    /// Speech that begins before this needs no phrase.
    awake_until: u64,
    looked_to: u64,
    is_asked: bool,
    is_refused: bool,
    is_over: bool,
    is_cut: bool,
}

impl Guard {
    /// Returns whether speech that begins here needs no phrase.
    pub(super) fn is_awake(&self, onset: u64) -> bool {
        onset < self.awake_until
    }

    /// Lets in what begins before `until`.
    pub(super) fn stay_awake(&mut self, until: u64) {
        self.awake_until = until;
    }

    /// Begins an utterance.
    pub(super) fn begin(&mut self, from: u64) {
        let awake_until = self.awake_until;
        *self = Self { awake_until, looked_to: from, ..Self::default() };
    }

    /// Returns whether the utterance was refused while it went on.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Returns whether the utterance ended.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns whether the utterance ended without a pause.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Ends the utterance: nothing follows.
    pub(super) fn cut(&mut self) -> Next {
        self.is_cut = true;
        self.end()
    }

    fn end(&mut self) -> Next {
        self.is_over = true;
        match (self.is_refused, self.is_asked) {
            (true, _) => Next::Over,
            (false, true) => Next::Wait,
            (false, false) => self.look(),
        }
    }

    fn look(&mut self) -> Next {
        self.is_asked = true;
        Next::Look
    }

    /// Takes in that the utterance grew.
    pub(super) fn grow(&mut self, utterance: Utterance) -> Next {
        let Utterance { to, silence, .. } = utterance;
        if self.is_over || self.is_asked {
            return Next::Wait;
        }
        if silence >= samples(PAUSE_MS) {
            return self.end();
        }
        if !self.is_refused && to - self.looked_to >= samples(LOOK_MS) {
            self.looked_to = to;
            return self.look();
        }
        Next::Wait
    }

    /// Takes in what a look found.
    pub(super) fn found(&mut self, called: Called, utterance: Utterance) -> Next {
        if !std::mem::take(&mut self.is_asked) {
            return Next::Wait;
        }
        let is_long = utterance.to - utterance.from >= samples(LOOKOUT_MS_MAX);
        match called {
            Called::AndMore => Next::LetIn,
            // What follows the phrase without a pause belongs to the same turn.
            Called::Alone if self.is_over => Next::Wake,
            Called::Alone | Called::No if !self.is_over && !is_long => Next::Wait,
            Called::Alone | Called::No => {
                self.is_refused = true;
                Next::Refuse
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u32, silence_ms: u32) -> Utterance {
        Utterance { from: 0, to: samples(ms), silence: samples(silence_ms) }
    }

    #[test]
    fn it_looks_now_and_then_and_in_the_pause() {
        let mut guard = Guard::default();
        guard.begin(0);
        let is_look = |ms: &u32| {
            let ms = *ms;
            let silence_ms = ms.saturating_sub(1_200);
            let looks = guard.grow(at(ms, silence_ms)) == Next::Look;
            if looks {
                guard.found(Called::No, at(ms, silence_ms));
            }
            looks
        };
        let looks: Vec<u32> = (10..=2_000).step_by(10).filter(is_look).collect();
        assert_eq!(looks, [500, 1_000, 1_500]);
        assert!(guard.is_over() && guard.is_refused());
    }

    #[test]
    fn nothing_is_looked_for_once_it_is_refused() {
        let mut guard = Guard::default();
        guard.begin(0);
        let mut n_looks = 0;
        for ms in (10..10_000).step_by(10) {
            if guard.grow(at(ms, 0)) == Next::Look {
                n_looks += 1;
                let next = guard.found(Called::No, at(ms, 0));
                assert_eq!(next == Next::Refuse, ms == 5_000, "{ms} ms");
            }
        }
        assert_eq!((n_looks, guard.grow(at(10_300, 300))), (10, Next::Over));
    }

    #[test]
    fn an_answer_that_nobody_asked_for_is_ignored() {
        let mut guard = Guard::default();
        guard.begin(0);
        assert_eq!(guard.found(Called::AndMore, at(100, 0)), Next::Wait);
        assert_eq!((guard.end(), guard.end()), (Next::Look, Next::Wait));
        assert_eq!(guard.found(Called::Alone, at(100, 0)), Next::Wake);
        guard.stay_awake(50);
        guard.begin(60);
        assert!(guard.is_awake(49) && !guard.is_awake(50));
    }
}
