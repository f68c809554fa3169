//! Endpointing: where speech begins and how long it has been silent.
//! In: blocks of samples with their speech probability. Out: sample positions.
//! Invariant: only sound counts, never the clock, so a file and a microphone end alike.

use crate::assistant::option::TurnOptions;
use crate::units::SAMPLE_RATE_HZ;

/// Pauses shorter than this do not break the speech that begins a turn.
const ONSET_GAP_MS: u32 = 40;

/// Converts milliseconds to samples.
pub(super) fn samples(ms: u32) -> u64 {
    u64::from(ms) * u64::from(SAMPLE_RATE_HZ) / 1_000
}

/// Follows speech and silence, block by block.
#[derive(Debug, Clone, Default)]
pub(super) struct Endpoint {
    /// Samples heard in all; the position of the next block.
    position: u64,
    /// Where the present run of speech began.
    run_from: Option<u64>,
    /// Speech in the present run.
    run_voiced: u64,
    /// End of the last block of the present run.
    run_to: u64,
    /// Speech in the present turn.
    voiced: u64,
    /// End of the last speech of the present turn.
    voiced_to: u64,
}

impl Endpoint {
    /// Returns the position of the next sample.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Counts a block that nobody listens to.
    pub(super) fn skip(&mut self, n_samples: u32) {
        self.position += u64::from(n_samples);
        self.break_run();
    }

    /// Counts a block. Speech is what reaches `threshold`.
    pub(super) fn push(&mut self, n_samples: u32, speech: f32, threshold: f32) {
        let from = self.position;
        self.position += u64::from(n_samples);
        if speech >= threshold {
            self.run_from.get_or_insert(from);
            self.run_voiced += u64::from(n_samples);
            self.run_to = self.position;
        } else if self.position - self.run_to > samples(ONSET_GAP_MS) {
            self.break_run();
        }
    }

    /// Returns where the present run began, if it holds at least `ms` of speech.
    pub(super) fn onset(&self, ms: u32) -> Option<u64> {
        self.run_from.filter(|_| self.run_voiced >= samples(ms))
    }

    /// Returns where speech would begin that is found next.
    pub(super) fn earliest_onset(&self) -> u64 {
        self.run_from.unwrap_or(self.position)
    }

    /// Begins a turn, or goes on with one, with the present run as its speech.
    pub(super) fn begin(&mut self, is_new: bool) {
        let before = if is_new { 0 } else { self.voiced };
        self.voiced = before + self.run_voiced;
        self.voiced_to = self.position;
        self.break_run();
    }

    /// Counts the block that was just pushed as part of the turn.
    pub(super) fn extend(&mut self, n_samples: u32, speech: f32, options: &TurnOptions) {
        if speech >= options.silence_threshold {
            self.voiced_to = self.position;
        }
        if speech >= options.speech_threshold {
            self.voiced += u64::from(n_samples);
        }
    }

    /// Returns the samples of silence since the last speech of the turn.
    pub(super) fn silence(&self) -> u64 {
        self.position - self.voiced_to
    }

    /// Returns the samples of speech in the turn.
    pub(super) fn voiced(&self) -> u64 {
        self.voiced
    }

    /// Forgets a run of speech that has not begun a turn.
    pub(super) fn break_run(&mut self) {
        self.run_from = None;
        self.run_voiced = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn onset_needs_speech_with_short_gaps_only() {
        struct Case {
            blocks: &'static [f32],
            onset_at: Option<u64>,
        }
        let cases = [
            Case { blocks: &[0.9, 0.9, 0.9, 0.9], onset_at: Some(0) },
            Case { blocks: &[0.1, 0.9, 0.9, 0.9], onset_at: None },
            Case { blocks: &[0.1, 0.9, 0.1, 0.9, 0.9, 0.9], onset_at: Some(256) },
            Case { blocks: &[0.9, 0.9, 0.9, 0.1, 0.1, 0.1], onset_at: None },
            Case { blocks: &[0.9, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9], onset_at: Some(1024) },
        ];
        for (row, case) in cases.into_iter().enumerate() {
            let mut endpoint = Endpoint::default();
            case.blocks.iter().for_each(|&speech| endpoint.push(256, speech, 0.6));
            assert_eq!(endpoint.onset(64), case.onset_at, "row {row}");
        }
    }

    #[test]
    fn silence_and_speech_are_counted_by_the_sample() {
        let options = TurnOptions::default();
        let mut endpoint = Endpoint::default();
        endpoint.push(160, 0.9, 0.6);
        endpoint.begin(true);
        for speech in [0.9, 0.5, 0.2, 0.2] {
            endpoint.push(160, speech, 0.6);
            endpoint.extend(160, speech, &options);
        }
        assert_eq!((endpoint.voiced(), endpoint.silence()), (320, 320));
        endpoint.skip(1000);
        assert_eq!((endpoint.position(), endpoint.onset(1)), (1800, None));
    }
}
