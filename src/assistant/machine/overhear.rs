//! The machine while somebody speaks and nobody knows yet to whom.
//! In: blocks of sound, what was found of the phrase. Out: actions for the small model, or a turn.
//! Invariant: what is let in is let in from its pre-roll on.

use crate::assistant::event::Action;
use crate::assistant::event::State;
use crate::assistant::machine::Machine;
use crate::assistant::machine::guard::Next;
use crate::assistant::machine::guard::Utterance;
use crate::assistant::turn::samples;
use crate::assistant::wake::Called;

impl Machine {
    /// Opens what may become a turn if it is meant so.
    pub(super) fn doubt(&mut self, onset: u64) {
        self.state = State::Overhearing;
        self.open(onset);
        self.guard.begin(self.turn_from);
        self.overhear();
    }

    fn utterance(&self) -> Utterance {
        let (to, silence) = (self.endpoint.position(), self.endpoint.silence());
        Utterance { from: self.turn_from, to, silence }
    }

    /// Lets the small model hear what was said, and look for the phrase now and then.
    pub(super) fn overhear(&mut self) {
        let (from, to) = (self.fed_to, self.endpoint.position());
        if to > from && !self.guard.is_refused() {
            self.push(Action::Overhear { from, to });
            self.fed_to = to;
        }
        let next = self.guard.grow(self.utterance());
        self.go(next);
    }

    pub(super) fn cut_overhearing(&mut self) {
        let next = self.guard.cut();
        self.go(next);
    }

    pub(super) fn called(&mut self, called: Called) {
        if self.state == State::Overhearing {
            let next = self.guard.found(called, self.utterance());
            self.go(next);
        }
    }

    fn go(&mut self, next: Next) {
        let is_over = self.guard.is_over();
        match next {
            Next::Wait => {}
            Next::Look => self.push(Action::Look),
            Next::Over => self.rest(),
            Next::Refuse => {
                self.counters.overheard += 1;
                self.push(Action::EndOverhearing { is_woken: false });
                if is_over {
                    self.rest();
                }
            }
            Next::Wake | Next::LetIn => {
                self.counters.wakes += 1;
                self.push(Action::EndOverhearing { is_woken: true });
                let until = self.endpoint.position() + samples(self.options.wake_ms);
                self.guard.stay_awake(until);
                if next == Next::Wake {
                    return self.rest();
                }
                self.let_in();
                if self.guard.is_cut() {
                    self.end_turn();
                }
            }
        }
    }
}
