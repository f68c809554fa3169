//! What the machine is told and what it answers.
//! In and out: small values without any sound or text of the user.

use crate::assistant::wake::Called;
use crate::error::Error;
use crate::error::Result;

/// Longest block of sound.
const BLOCK_SAMPLES_MAX: u32 = 16_000;

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Input {
    /// Time passed and nothing else.
    Tick,
    /// A block of microphone sound, 16 kHz.
    Block {
        /// Its length; at most 16,000.
        n_samples: u32,
        /// How likely it is speech, 0 to 1.
        speech: f32,
    },
    /// The device or the ring lost samples before the next block.
    SamplesLost {
        /// How many.
        n_samples: u32,
    },
    /// The answer grew by a token.
    Token {
        /// The answer that `GuessEnd` or `CommitEnd` named.
        answer: u32,
    },
    /// The answer's text is complete up to a place at which a voice can pause.
    ClauseReady {
        /// The answer that `GuessEnd` or `CommitEnd` named.
        answer: u32,
        /// Bytes of the answer's text from its start.
        end_bytes: usize,
    },
    /// The answer is complete, or ended early by an error. Its last clause was told before.
    AnswerEnded {
        /// The answer that `GuessEnd` or `CommitEnd` named.
        answer: u32,
    },
    /// The speaker got this far.
    Played {
        /// The answer that `Play` named.
        answer: u32,
        /// Bytes of the answer's text from its start.
        to_bytes: usize,
    },
    /// What the look that `Look` asked for has found.
    Called(Called),
    /// The user pressed a key.
    Key(Key),
    /// The microphone is gone.
    MicrophoneLost,
    /// The microphone is open again.
    MicrophoneBack,
    /// The speaker is gone; answers go on as text.
    SpeakerLost,
    /// The speaker is open again.
    SpeakerBack,
}

impl Input {
    /// Checks the numbers of a block.
    pub(super) fn check(&self) -> Result<()> {
        let Self::Block { n_samples, speech } = *self else { return Ok(()) };
        if n_samples > BLOCK_SAMPLES_MAX {
            let found = format!("block has {n_samples} samples");
            return Err(Error::input(format!("{found}, expected at most {BLOCK_SAMPLES_MAX}")));
        }
        if !(0.0..=1.0).contains(&speech) {
            return Err(Error::input(format!("speech probability is {speech}, expected 0 to 1")));
        }
        Ok(())
    }
}

/// What a key or a button asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Push-to-talk pressed.
    TalkDown,
    /// Push-to-talk released.
    TalkUp,
    /// My turn is over, do not wait for silence.
    EndTurn,
    /// Stop what you are saying, or forget what I am saying.
    Interrupt,
    /// Stop listening.
    Sleep,
    /// Listen again; what is said then needs no wake word.
    Wake,
}

/// Something to do. Sample numbers count from the first sample the machine was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let the small model hear these samples of an utterance, which may be the first of it.
    Overhear {
        /// First sample.
        from: u64,
        /// One after the last sample.
        to: u64,
    },
    /// See whether a phrase begins what was overheard, and tell it with `Input::Called`.
    Look,
    /// Forget what was overheard.
    EndOverhearing {
        /// Whether it, or what follows, is meant for the assistant.
        is_woken: bool,
    },
    /// Open the user's turn. Feeding begins at `from`.
    StartSpeech {
        /// First sample of the turn.
        from: u64,
    },
    /// Encode and prefill these samples.
    FeedAudio {
        /// First sample.
        from: u64,
        /// One after the last sample.
        to: u64,
    },
    /// Flush the encoder and close the audio block; the next feeding opens another.
    CloseAudioBlock,
    /// Flush a copy, close the turn on it and begin an answer that nobody hears yet.
    GuessEnd {
        /// Names the answer in what follows.
        answer: u32,
    },
    /// Drop the answer and go back to the open turn, as it was before its end.
    Rollback {
        /// The answer to drop.
        answer: u32,
    },
    /// The turn is over. Keep the guessed answer, or flush, close the turn and begin one.
    CommitEnd {
        /// Names the answer in what follows.
        answer: u32,
        /// Whether the answer has begun already.
        is_guessed: bool,
    },
    /// Forget the open turn, as if nothing had been heard.
    Discard,
    /// Show the answer up to here, and let the voice say it unless the speaker is gone.
    Play {
        /// The answer.
        answer: u32,
        /// Bytes of the answer's text from its start.
        to_bytes: usize,
    },
    /// Silence the speaker at once and drop what is queued.
    StopPlayback,
    /// Stop making the answer.
    StopAnswer {
        /// The answer.
        answer: u32,
    },
    /// Cut the answer in the history to what was heard; at 0 bytes it leaves the history.
    Truncate {
        /// The answer.
        answer: u32,
        /// Bytes of the answer's text that were heard.
        to_bytes: usize,
    },
    /// Try to open the microphone, if it is not open.
    OpenMicrophone,
    /// Stop listening until woken.
    Sleep,
}

/// Where the conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not listening.
    Asleep,
    /// The microphone is gone and nothing is being said.
    Deaf,
    /// Waiting for the user.
    Listening,
    /// Somebody speaks, and nobody knows yet whether to the assistant.
    Overhearing,
    /// The user speaks.
    Hearing,
    /// The user pauses, and an answer is made unheard.
    Guessing,
    /// The answer is made, spoken or both.
    Answering,
}

impl State {
    /// Returns whether something is going on that can be interrupted.
    pub(super) fn is_busy(self) -> bool {
        !matches!(self, Self::Asleep | Self::Deaf | Self::Listening)
    }
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Turns that were committed.
    pub turns: u64,
    /// Ends that were guessed.
    pub guesses: u64,
    /// Guesses that came true.
    pub guesses_kept: u64,
    /// Answers that were dropped because the user went on.
    pub rollbacks: u64,
    /// Tokens of dropped answers.
    pub wasted_tokens: u64,
    /// Answers that the user interrupted.
    pub barge_ins: u64,
    /// Turns that were too short to be speech.
    pub false_starts: u64,
    /// Times that the wake word was heard.
    pub wakes: u64,
    /// Utterances that did not begin with it.
    pub overheard: u64,
    /// Audio blocks that were closed because they were long.
    pub blocks_closed: u64,
    /// Times that the microphone was lost.
    pub microphone_losses: u64,
    /// Samples that the device or the ring lost.
    pub lost_samples: u64,
}
