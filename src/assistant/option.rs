//! How a conversation is held: modes, thresholds and silences.
//! In: numbers of a person or program. Out: numbers that fit together.

use crate::error::Error;
use crate::error::Result;
use crate::frontend::VadKind;

/// When the microphone counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Turn after turn until told to stop.
    Continuous,
    /// One question and its answer, then sleep.
    OneShot,
    /// From key down to key up.
    PushToTalk,
}

/// What stops an answer that is being spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BargeIn {
    /// A key only: the microphone is ignored while the speaker plays.
    Key,
    /// The user's voice as well; needs headphones or echo cancellation.
    Voice,
}

/// How a conversation is held.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnOptions {
    /// When the microphone counts.
    pub mode: Mode,
    /// What stops an answer.
    pub barge_in: BargeIn,
    /// What tells speech from other sounds.
    pub vad: VadKind,
    /// Speech probability from which a block counts as speech, 0 to 1.
    pub speech_threshold: f32,
    /// Speech probability below which speech pauses; at most `speech_threshold`.
    pub silence_threshold: f32,
    /// Speech probability that interrupts an answer.
    pub barge_in_threshold: f32,
    /// Speech that begins a turn.
    pub onset_ms: u32,
    /// Speech that interrupts an answer.
    pub barge_in_ms: u32,
    /// Sound from before the onset that belongs to the turn, so that no first syllable is lost.
    pub preroll_ms: u32,
    /// Less speech than this is a false start.
    pub speech_ms_min: u32,
    /// Silence after which the end is guessed and the answer begun unheard; 0 for never.
    pub guess_silence_ms: u32,
    /// Silence that ends a turn.
    pub end_silence_ms: u32,
    /// Longest audio block; the model hears 30 s at most.
    pub block_ms_max: u32,
    /// Length from which a block is closed in the next short pause, so that no word is cut.
    pub block_pause_from_ms: u32,
    /// Longest turn; it ends here even if the sound goes on.
    pub turn_ms_max: u32,
    /// Whether a phrase must begin what is said, before anybody answers.
    pub needs_phrase: bool,
    /// How long after the phrase alone what is said needs it no more.
    pub wake_ms: u32,
    /// How long after an answer what is said needs no phrase; 0 for never.
    pub follow_up_ms: u32,
    /// How long the room still sounds after the speaker stops.
    pub echo_tail_ms: u32,
    /// Quiet time after which the assistant sleeps; 0 for never.
    pub sleep_after_ms: u32,
    /// Wait before a lost microphone is first opened again; doubles up to `reopen_ms_max`.
    pub reopen_ms_min: u32,
    /// Longest wait between two tries.
    pub reopen_ms_max: u32,
}

impl Default for TurnOptions {
    fn default() -> Self {
        Self {
            mode: Mode::Continuous,
            barge_in: BargeIn::Key,
            vad: VadKind::Network,
            speech_threshold: 0.6,
            silence_threshold: 0.35,
            barge_in_threshold: 0.8,
            onset_ms: 60,
            barge_in_ms: 200,
            preroll_ms: 300,
            speech_ms_min: 150,
            guess_silence_ms: 250,
            end_silence_ms: 700,
            block_ms_max: 30_000,
            block_pause_from_ms: 25_000,
            turn_ms_max: 300_000,
            needs_phrase: false,
            wake_ms: 8_000,
            follow_up_ms: 5_000,
            echo_tail_ms: 200,
            sleep_after_ms: 0,
            reopen_ms_min: 500,
            reopen_ms_max: 8_000,
        }
    }
}

/// Sound of one soft token.
pub(super) const TOKEN_MS: u32 = 40;

impl TurnOptions {
    /// Lets turns be no longer than half of a session of `n_ctx` tokens holds, so that there is
    /// room for what was said before and for the answer.
    pub fn within(self, n_ctx: usize) -> Self {
        let most_ms = u32::try_from(n_ctx / 2 * TOKEN_MS as usize).unwrap_or(u32::MAX).max(1_000);
        Self { turn_ms_max: self.turn_ms_max.min(most_ms), ..self }
    }

    /// Checks each number and those that depend on each other.
    ///
    /// # Errors
    /// `Input` with the option, what was found and what was expected.
    pub fn check(&self) -> Result<()> {
        const DAY_MS: u32 = 86_400_000;
        let shares = [
            ("speech_threshold", self.speech_threshold, 1.0),
            ("silence_threshold", self.silence_threshold, self.speech_threshold),
            ("barge_in_threshold", self.barge_in_threshold, 1.0),
        ];
        for (name, value, most) in shares {
            if !(value > 0.0 && value <= most) {
                let message = format!("{name} is {value}, expected more than 0 to {most}");
                return Err(Error::input(message));
            }
        }
        let times = [
            ("onset_ms", self.onset_ms, 10, 1_000),
            ("barge_in_ms", self.barge_in_ms, 10, 2_000),
            ("preroll_ms", self.preroll_ms, 0, 2_000),
            ("speech_ms_min", self.speech_ms_min, 0, 5_000),
            ("end_silence_ms", self.end_silence_ms, 50, 10_000),
            ("guess_silence_ms", self.guess_silence_ms, 0, self.end_silence_ms),
            ("block_ms_max", self.block_ms_max, 10_000, 30_000),
            ("block_pause_from_ms", self.block_pause_from_ms, 500, self.block_ms_max),
            ("turn_ms_max", self.turn_ms_max, 1_000, 3_600_000),
            ("wake_ms", self.wake_ms, 500, 60_000),
            ("follow_up_ms", self.follow_up_ms, 0, 600_000),
            ("echo_tail_ms", self.echo_tail_ms, 0, 5_000),
            ("sleep_after_ms", self.sleep_after_ms, 0, DAY_MS),
            ("reopen_ms_min", self.reopen_ms_min, 10, 60_000),
            ("reopen_ms_max", self.reopen_ms_max, self.reopen_ms_min, 600_000),
        ];
        for (name, value, least, most) in times {
            if !(least..=most).contains(&value) {
                let message = format!("{name} is {value} ms, expected {least} to {most} ms");
                return Err(Error::input(message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_fit_into_half_of_a_session() {
        for (n_ctx, turn_ms_max) in [(1, 1_000), (4096, 81_920), (1 << 20, 300_000)] {
            let options = TurnOptions::default().within(n_ctx);
            assert_eq!(options.turn_ms_max, turn_ms_max);
            assert!(options.check().is_ok());
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let default = TurnOptions::default();
        assert!(default.check().is_ok());
        let cases = [
            (TurnOptions { speech_threshold: 1.5, ..default.clone() }, "speech_threshold is 1.5"),
            (TurnOptions { speech_threshold: f32::NAN, ..default.clone() }, "is NaN"),
            (
                TurnOptions { silence_threshold: 0.7, ..default.clone() },
                "expected more than 0 to 0.6",
            ),
            (
                TurnOptions { guess_silence_ms: 701, ..default.clone() },
                "guess_silence_ms is 701 ms",
            ),
            (TurnOptions { block_ms_max: 31_000, ..default.clone() }, "expected 10000 to 30000 ms"),
            (TurnOptions { reopen_ms_max: 1, ..default }, "reopen_ms_max is 1 ms"),
        ];
        for (options, expected) in cases {
            let message = options.check().expect_err(expected).to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }
}
