//! Scripted conversations on a fake clock, and a ledger that checks what the machine asks for.
//!
//! In: scripts of sounds, answers and keys. Out: the actions, as text, with times in ms of sound.
//! Invariant: no test sleeps; the clock advances with the script.

use crate::random::Rng;
use crate::random::seeds;
use culet::assistant::Action;
use culet::assistant::BargeIn;
use culet::assistant::Called;
use culet::assistant::Counters;
use culet::assistant::Input;
use culet::assistant::Key;
use culet::assistant::Machine;
use culet::assistant::Mode;
use culet::assistant::State;
use culet::assistant::TurnOptions;

const BLOCK_MS: u64 = 10;
const SAMPLES_PER_MS: u64 = 16;

/// One line of a script.
#[derive(Debug, Clone, Copy)]
enum Step {
    Speech(u64),
    Silence(u64),
    /// Sound of this speech probability.
    Sound(u64, f32),
    /// The present answer grows by this many tokens.
    Tokens(u64),
    /// The present answer is ready up to this byte.
    Ready(usize),
    Complete,
    /// The speaker got to this byte.
    Heard(usize),
    /// Time without sound, as when the microphone is away.
    Wait(u64),
    Press(Key),
    Tell(Input),
    /// From now on, this is what is found of the wake word in what is overheard.
    Find(Called),
}
use Step::Complete;
use Step::Find;
use Step::Heard;
use Step::Press;
use Step::Ready;
use Step::Silence;
use Step::Sound;
use Step::Speech;
use Step::Tell;
use Step::Tokens;
use Step::Wait;

/// A stand-in for session, voice and devices that refuses what they could not do.
#[derive(Default)]
struct Ledger {
    /// What the conversation consists of.
    history: Vec<String>,
    turn_from: Option<u64>,
    /// How far the small model heard of the utterance that it overhears.
    overheard_to: Option<u64>,
    /// Whether nobody may be answered, because nobody called.
    is_guarded: bool,
    fed_to: u64,
    block_from: u64,
    may_skip: bool,
    answer: u32,
    is_alive: bool,
    is_committed: bool,
    ready_bytes: usize,
    queued_bytes: usize,
    heard_bytes: usize,
    /// When the speaker played, in samples.
    played: Vec<(u64, u64)>,
    is_playing: bool,
}

impl Ledger {
    fn apply(&mut self, action: Action, now: u64, is_half_duplex: bool) -> Result<(), String> {
        let check = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        match action {
            Action::Overhear { from, to } => {
                check(self.is_guarded, "nobody needs to be overheard")?;
                check(self.turn_from.is_none() && !self.is_alive, "a turn is open")?;
                check(self.overheard_to.is_none_or(|at| at == from), "there is a gap")?;
                check(to > from && to <= now, "sound of the future")?;
                let echo = self.played.iter().any(|&(a, b)| from < b && to > a);
                check(!(is_half_duplex && echo), "the assistant hears itself")?;
                self.overheard_to = Some(to);
            }
            Action::Look => check(self.overheard_to.is_some(), "nothing was overheard")?,
            Action::EndOverhearing { .. } => {
                check(self.overheard_to.take().is_some(), "nothing was overheard")?;
            }
            Action::StartSpeech { from } => {
                check(self.overheard_to.is_none(), "it is still overheard")?;
                check(self.turn_from.is_none(), "a turn is open already")?;
                check(!self.is_alive, "an answer is being made")?;
                check(from <= now, "the turn begins in the future")?;
                (self.fed_to, self.block_from, self.turn_from) = (from, from, Some(from));
            }
            Action::FeedAudio { from, to } => {
                check(self.turn_from.is_some() && !self.is_alive, "no turn is open")?;
                let follows = from == self.fed_to || (self.may_skip && from > self.fed_to);
                check(follows && to > from && to <= now, "fed samples overlap or leave a gap")?;
                let echo = self.played.iter().any(|&(a, b)| from < b && to > a);
                check(!(is_half_duplex && echo), "the assistant hears itself")?;
                self.block_from += from - self.fed_to;
                check(to - self.block_from <= 30_000 * SAMPLES_PER_MS, "the block is too long")?;
                (self.fed_to, self.may_skip) = (to, false);
            }
            Action::CloseAudioBlock => {
                check(self.turn_from.is_some() && !self.is_alive, "no turn is open")?;
                self.block_from = self.fed_to;
            }
            Action::GuessEnd { answer } => {
                check(self.turn_from.is_some() && !self.is_alive, "nothing to guess")?;
                check(answer > self.answer, "the answer's name was used before")?;
                self.begin_answer(answer);
            }
            Action::Rollback { answer } => {
                check(self.is_alive && answer == self.answer, "no such answer")?;
                check(self.heard_bytes == 0, "what was heard cannot be taken back")?;
                check(!self.is_playing, "the answer is still played")?;
                if self.is_committed {
                    self.turn_from = self.history.pop().map(|_| self.block_from);
                }
                (self.is_alive, self.is_committed, self.may_skip) = (false, false, true);
            }
            Action::CommitEnd { answer, is_guessed } => {
                check(self.turn_from.is_some(), "no turn is open")?;
                check(is_guessed == self.is_alive, "guessed or not?")?;
                if !is_guessed {
                    check(answer > self.answer, "the answer's name was used before")?;
                    self.begin_answer(answer);
                }
                check(answer == self.answer, "another answer was guessed")?;
                self.history.push("user".into());
                (self.turn_from, self.is_committed) = (None, true);
            }
            Action::Discard => {
                check(self.turn_from.is_some() && !self.is_alive, "no turn is open")?;
                self.turn_from = None;
            }
            Action::Play { answer, to_bytes } => {
                check(self.is_alive && self.is_committed, "no answer may be heard")?;
                check(answer == self.answer && to_bytes > self.queued_bytes, "nothing to play")?;
                (self.queued_bytes, self.is_playing) = (to_bytes, true);
            }
            Action::StopPlayback => {
                check(self.is_playing, "nothing is played")?;
                self.is_playing = false;
            }
            Action::StopAnswer { answer } => check(answer == self.answer, "no such answer")?,
            Action::Truncate { answer, to_bytes } => {
                check(self.is_alive && self.is_committed, "no answer in the history")?;
                check(answer == self.answer && !self.is_playing, "it is still played")?;
                check(to_bytes == self.heard_bytes, "history is not what was heard")?;
                self.end_answer(to_bytes);
            }
            Action::OpenMicrophone => {}
            Action::Sleep => {
                let is_open = self.turn_from.is_some() || self.overheard_to.is_some();
                check(!is_open, "asleep in a turn")?;
            }
        }
        Ok(())
    }

    fn begin_answer(&mut self, answer: u32) {
        (self.answer, self.is_alive, self.is_committed) = (answer, true, false);
        (self.ready_bytes, self.queued_bytes, self.heard_bytes) = (0, 0, 0);
    }

    fn end_answer(&mut self, bytes: usize) {
        if bytes > 0 {
            self.history.push(format!("answer {bytes}"));
        }
        self.is_alive = false;
    }
}

/// A machine with its ledger, its clock and the log of its actions.
struct Stage {
    machine: Machine,
    ledger: Ledger,
    now_ns: u64,
    position: u64,
    is_half_duplex: bool,
    is_mute: bool,
    called: Called,
    log: Vec<String>,
}

impl Stage {
    fn new(options: TurnOptions) -> Self {
        let is_half_duplex = options.barge_in == BargeIn::Key;
        let is_guarded = options.needs_phrase;
        let now_ns = 5_000_000_000;
        let machine = Machine::new(options, now_ns).unwrap();
        let ledger = Ledger { is_guarded, ..Ledger::default() };
        let (position, is_mute, called, log) = (0, false, Called::No, Vec::new());
        Self { machine, ledger, now_ns, position, is_half_duplex, is_mute, called, log }
    }

    fn run(&mut self, step: Step) -> Result<(), String> {
        let answer = self.ledger.answer;
        match step {
            Speech(ms) => self.sound(ms, 0.95),
            Silence(ms) => self.sound(ms, 0.02),
            Sound(ms, speech) => self.sound(ms, speech),
            Tokens(n) => (0..n).try_for_each(|_| self.tell(Input::Token { answer })),
            Ready(end_bytes) => {
                self.ledger.ready_bytes = end_bytes;
                self.tell(Input::ClauseReady { answer, end_bytes })
            }
            Complete => self.tell(Input::AnswerEnded { answer }),
            Heard(to_bytes) => {
                let to_bytes = to_bytes.min(self.ledger.queued_bytes);
                self.ledger.heard_bytes = self.ledger.heard_bytes.max(to_bytes);
                if self.ledger.heard_bytes == self.ledger.queued_bytes {
                    self.ledger.is_playing = false;
                }
                self.tell(Input::Played { answer, to_bytes })
            }
            Wait(ms) => {
                self.now_ns += ms * 1_000_000;
                self.tell(Input::Tick)
            }
            Press(key) => self.tell(Input::Key(key)),
            Tell(input) => self.tell(input),
            Find(called) => {
                self.called = called;
                Ok(())
            }
        }
    }

    fn sound(&mut self, ms: u64, speech: f32) -> Result<(), String> {
        for _ in 0..ms / BLOCK_MS {
            self.block((BLOCK_MS * SAMPLES_PER_MS) as u32, speech)?;
        }
        Ok(())
    }

    fn block(&mut self, n_samples: u32, speech: f32) -> Result<(), String> {
        let from = self.position;
        self.position += u64::from(n_samples);
        self.now_ns += u64::from(n_samples) * 62_500;
        if self.ledger.is_playing {
            self.ledger.played.push((from, self.position));
        }
        self.tell(Input::Block { n_samples, speech })
    }

    /// Tells the machine, carries out what it asks for, and notes it.
    fn tell(&mut self, input: Input) -> Result<(), String> {
        match input {
            Input::SpeakerLost => self.is_mute = true,
            Input::SpeakerBack => self.is_mute = false,
            _ => {}
        }
        let needed_from = self.machine.needed_from();
        self.machine.handle(self.now_ns, input).map_err(|e| e.to_string())?;
        while let Some(action) = self.machine.poll() {
            if let Action::FeedAudio { from, .. }
            | Action::StartSpeech { from }
            | Action::Overhear { from, .. } = action
                && from < needed_from
            {
                return Err(format!("sample {from} is gone, {needed_from} was promised"));
            }
            if self.is_mute && action == Action::StopPlayback {
                self.ledger.heard_bytes = self.ledger.queued_bytes;
            }
            let applied = self.ledger.apply(action, self.position, self.is_half_duplex);
            applied.map_err(|e| format!("{action:?} at {} ms: {e}", self.position / 16))?;
            if self.is_mute && matches!(action, Action::Play { .. }) {
                // It is shown only.
                self.ledger.is_playing = false;
            }
            self.note(action);
            if action == Action::Look {
                let told = self.machine.handle(self.now_ns, Input::Called(self.called));
                told.map_err(|e| e.to_string())?;
            }
        }
        let is_answering = self.machine.state() == State::Answering;
        if self.is_mute && is_answering {
            self.ledger.queued_bytes = self.ledger.ready_bytes.max(self.ledger.queued_bytes);
            self.ledger.heard_bytes = self.ledger.queued_bytes;
        }
        if self.ledger.is_alive && self.ledger.is_committed && !is_answering {
            // The answer came to its end.
            let bytes =
                if self.is_mute { self.ledger.ready_bytes } else { self.ledger.heard_bytes };
            self.ledger.end_answer(bytes);
        }
        Ok(())
    }

    /// Returns a line for this sound, joined with the last one if it goes on with that.
    fn joined(&mut self, what: &str, from: u64, to: u64) -> String {
        let start = match self.log.last().and_then(|line| line.strip_prefix(what)) {
            Some(last) if last.ends_with(&format!("..{from}")) => {
                let start = last.split("..").next().unwrap().parse().unwrap();
                self.log.pop();
                start
            }
            _ => from,
        };
        format!("{what}{start}..{to}")
    }

    fn note(&mut self, action: Action) {
        let ms = |samples: u64| samples / SAMPLES_PER_MS;
        let line = match action {
            Action::StartSpeech { from } => format!("start {}", ms(from)),
            Action::FeedAudio { from, to } => self.joined("feed ", ms(from), ms(to)),
            Action::Overhear { from, to } => self.joined("overhear ", ms(from), ms(to)),
            Action::Look => "look".into(),
            Action::EndOverhearing { is_woken: true } => "wake".into(),
            Action::EndOverhearing { is_woken: false } => "ignore".into(),
            Action::CloseAudioBlock => "close block".into(),
            Action::GuessEnd { answer } => format!("guess {answer}"),
            Action::Rollback { answer } => format!("rollback {answer}"),
            Action::CommitEnd { answer, is_guessed: true } => format!("keep {answer}"),
            Action::CommitEnd { answer, .. } => format!("commit {answer}"),
            Action::Discard => "discard".into(),
            Action::Play { to_bytes, .. } => format!("play {to_bytes}"),
            Action::StopPlayback => "hush".into(),
            Action::StopAnswer { answer } => format!("stop {answer}"),
            Action::Truncate { to_bytes, .. } => format!("truncate {to_bytes}"),
            Action::OpenMicrophone => "open".into(),
            Action::Sleep => "sleep".into(),
        };
        self.log.push(line);
    }
}

/// A conversation: what happens, what the machine must ask for, and what must be left.
struct Case {
    name: &'static str,
    options: TurnOptions,
    script: Vec<Step>,
    actions: &'static str,
    history: &'static str,
    state: State,
    counters: Counters,
}

fn check(cases: Vec<Case>) {
    let mut complaints = Vec::new();
    for case in cases {
        let mut stage = Stage::new(case.options);
        for step in case.script {
            if let Err(complaint) = stage.run(step) {
                complaints.push(format!("{}: {complaint}", case.name));
            }
        }
        let found = stage.log.join(", ");
        if found != case.actions {
            complaints.push(format!("{}:\n  did    {found}\n  wanted {}", case.name, case.actions));
        }
        let history = stage.ledger.history.join(", ");
        if history != case.history {
            complaints
                .push(format!("{}: history {history:?}, wanted {:?}", case.name, case.history));
        }
        let (state, counters) = (stage.machine.state(), stage.machine.counters());
        if (state, counters) != (case.state, case.counters) {
            complaints.push(format!(
                "{}: ends with {state:?} and {counters:?},\n  wanted {:?} and {:?}",
                case.name, case.state, case.counters
            ));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

fn by_key() -> TurnOptions {
    TurnOptions::default()
}

fn by_voice() -> TurnOptions {
    TurnOptions { barge_in: BargeIn::Voice, ..TurnOptions::default() }
}

fn guarded() -> TurnOptions {
    TurnOptions { needs_phrase: true, ..TurnOptions::default() }
}

fn in_mode(mode: Mode) -> TurnOptions {
    TurnOptions { mode, ..TurnOptions::default() }
}

fn counted(turns: u64, guesses: u64, guesses_kept: u64, rollbacks: u64) -> Counters {
    Counters { turns, guesses, guesses_kept, rollbacks, ..Counters::default() }
}

#[test]
fn turns_begin_and_end() {
    check(vec![
        Case {
            name: "a question and its answer",
            options: by_key(),
            script: vec![
                Silence(1000),
                Speech(1000),
                Silence(700),
                Tokens(5),
                Ready(20),
                Complete,
                Heard(20),
                Silence(500),
            ],
            actions: "start 700, feed 700..2250, guess 1, keep 1, play 20",
            history: "user, answer 20",
            state: State::Listening,
            counters: counted(1, 1, 1, 0),
        },
        Case {
            name: "speech from the first sample",
            options: by_key(),
            script: vec![Speech(500), Silence(700)],
            actions: "start 0, feed 0..750, guess 1, keep 1",
            history: "user",
            state: State::Answering,
            counters: counted(1, 1, 1, 0),
        },
        Case {
            name: "long silence is never fed",
            options: by_key(),
            script: vec![Silence(600_000)],
            actions: "",
            history: "",
            state: State::Listening,
            counters: Counters::default(),
        },
        Case {
            name: "noise that is not speech is never fed",
            options: by_key(),
            script: vec![Sound(30_000, 0.3), Sound(30_000, 0.5), Silence(100)],
            actions: "",
            history: "",
            state: State::Listening,
            counters: Counters::default(),
        },
        Case {
            name: "clicks do not begin a turn",
            options: by_key(),
            script: vec![
                Silence(200),
                Speech(20),
                Silence(200),
                Speech(50),
                Silence(200),
                Speech(30),
            ],
            actions: "",
            history: "",
            state: State::Listening,
            counters: Counters::default(),
        },
        Case {
            name: "a cough begins a turn that is forgotten",
            options: by_key(),
            script: vec![Silence(1000), Speech(100), Silence(800)],
            actions: "start 700, feed 700..1800, discard",
            history: "",
            state: State::Listening,
            counters: Counters { false_starts: 1, ..Counters::default() },
        },
        Case {
            name: "a cough, then a question",
            options: by_key(),
            script: vec![Silence(500), Speech(80), Silence(900), Speech(600), Silence(700)],
            actions: "start 200, feed 200..1280, discard, start 1180, feed 1180..2330, \
                      guess 1, keep 1",
            history: "user",
            state: State::Answering,
            counters: Counters { false_starts: 1, ..counted(1, 1, 1, 0) },
        },
        Case {
            name: "never guessing",
            options: TurnOptions { guess_silence_ms: 0, ..by_key() },
            script: vec![Speech(500), Silence(900), Ready(5), Complete, Heard(5)],
            actions: "start 0, feed 0..1200, commit 1, play 5",
            history: "user, answer 5",
            state: State::Listening,
            counters: counted(1, 0, 0, 0),
        },
        Case {
            name: "quiet endings of words keep the turn open",
            options: by_key(),
            script: vec![Speech(500), Sound(2000, 0.4), Silence(700)],
            actions: "start 0, feed 0..2750, guess 1, keep 1",
            history: "user",
            state: State::Answering,
            counters: counted(1, 1, 1, 0),
        },
        Case {
            name: "an empty answer ends the turn",
            options: by_key(),
            script: vec![Speech(500), Silence(700), Complete],
            actions: "start 0, feed 0..750, guess 1, keep 1",
            history: "user",
            state: State::Listening,
            counters: counted(1, 1, 1, 0),
        },
        Case {
            name: "two turns",
            options: by_key(),
            script: vec![
                Speech(500),
                Silence(700),
                Ready(9),
                Complete,
                Heard(9),
                Silence(1000),
                Speech(500),
                Silence(700),
                Ready(4),
                Heard(4),
                Ready(8),
                Complete,
                Heard(8),
            ],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 9, start 1900, \
                      feed 1900..2950, guess 2, keep 2, play 4, play 8",
            history: "user, answer 9, user, answer 8",
            state: State::Listening,
            counters: counted(2, 2, 2, 0),
        },
    ]);
}

#[test]
fn guesses_are_taken_back() {
    check(vec![
        Case {
            name: "two sentences with a pause",
            options: by_key(),
            script: vec![
                Speech(500),
                Silence(400),
                Tokens(3),
                Speech(500),
                Silence(700),
                Ready(6),
                Complete,
                Heard(6),
            ],
            actions: "start 0, feed 0..750, guess 1, rollback 1, feed 750..1650, \
                      guess 2, keep 2, play 6",
            history: "user, answer 6",
            state: State::Listening,
            counters: Counters { wasted_tokens: 3, ..counted(1, 2, 1, 1) },
        },
        Case {
            name: "a click in the pause changes nothing",
            options: by_key(),
            script: vec![Speech(500), Silence(300), Speech(30), Silence(400)],
            actions: "start 0, feed 0..750, guess 1, keep 1",
            history: "user",
            state: State::Answering,
            counters: counted(1, 1, 1, 0),
        },
        Case {
            name: "a complete guess waits to be heard",
            options: by_key(),
            script: vec![
                Speech(500),
                Silence(300),
                Tokens(2),
                Ready(7),
                Complete,
                Silence(400),
                Heard(7),
            ],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 7",
            history: "user, answer 7",
            state: State::Listening,
            counters: counted(1, 1, 1, 0),
        },
        Case {
            name: "the user goes on after the end, before anything is said",
            options: by_key(),
            script: vec![
                Speech(500),
                Silence(1000),
                Tokens(4),
                Speech(400),
                Silence(700),
                Ready(3),
                Complete,
                Heard(3),
            ],
            actions: "start 0, feed 0..750, guess 1, keep 1, rollback 1, \
                      feed 1200..2150, guess 2, keep 2, play 3",
            history: "user, answer 3",
            state: State::Listening,
            counters: Counters { wasted_tokens: 4, ..counted(1, 2, 2, 1) },
        },
        Case {
            name: "a long wait for the answer is left out when the user goes on",
            options: by_key(),
            script: vec![Speech(500), Silence(5000), Speech(400), Silence(700)],
            actions: "start 0, feed 0..750, guess 1, keep 1, rollback 1, \
                      feed 5200..6150, guess 2, keep 2",
            history: "user",
            state: State::Answering,
            counters: counted(1, 2, 2, 1),
        },
        Case {
            name: "progress of a dropped answer is stale",
            options: by_key(),
            script: vec![
                Speech(500),
                Silence(300),
                Speech(500),
                Tell(Input::Token { answer: 1 }),
                Tell(Input::ClauseReady { answer: 1, end_bytes: 50 }),
                Tell(Input::AnswerEnded { answer: 1 }),
                Silence(700),
                Ready(2),
                Complete,
                Heard(2),
            ],
            actions: "start 0, feed 0..750, guess 1, rollback 1, feed 750..1550, \
                      guess 2, keep 2, play 2",
            history: "user, answer 2",
            state: State::Listening,
            counters: counted(1, 2, 1, 1),
        },
    ]);
}

#[test]
fn answers_are_interrupted() {
    check(vec![
        Case {
            name: "by voice, in the middle of the first clause",
            options: by_voice(),
            script: vec![
                Speech(500),
                Silence(700),
                Ready(40),
                Heard(12),
                Silence(100),
                Speech(600),
                Silence(700),
                Ready(5),
                Complete,
                Heard(5),
            ],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 40, hush, stop 1, \
                      truncate 12, start 1000, feed 1000..2150, guess 2, keep 2, play 5",
            history: "user, answer 12, user, answer 5",
            state: State::Listening,
            counters: Counters { barge_ins: 1, ..counted(2, 2, 2, 0) },
        },
        Case {
            name: "by voice, when the answer is made but not yet spoken to its end",
            options: by_voice(),
            script: vec![
                Speech(500),
                Silence(700),
                Ready(40),
                Complete,
                Heard(30),
                Speech(600),
                Silence(700),
            ],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 40, hush, \
                      truncate 30, start 900, feed 900..2050, guess 2, keep 2",
            history: "user, answer 30, user",
            state: State::Answering,
            counters: Counters { barge_ins: 1, ..counted(2, 2, 2, 0) },
        },
        Case {
            name: "by voice, between two clauses",
            options: by_voice(),
            script: vec![Speech(500), Silence(700), Ready(40), Heard(40), Speech(300)],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 40, stop 1, \
                      truncate 40, start 900, feed 900..1500",
            history: "user, answer 40",
            state: State::Hearing,
            counters: Counters { barge_ins: 1, ..counted(1, 1, 1, 0) },
        },
        Case {
            name: "by voice, when sound is queued but nothing was heard",
            options: by_voice(),
            script: vec![Speech(500), Silence(700), Ready(40), Speech(300)],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 40, hush, rollback 1, \
                      feed 900..1500",
            history: "",
            state: State::Hearing,
            counters: counted(0, 1, 1, 1),
        },
        Case {
            name: "by voice, but not at the first sound of one answer after the other",
            options: by_voice(),
            script: vec![
                Speech(500),
                Silence(700),
                Ready(40),
                Speech(300),
                Silence(700),
                Ready(40),
                Speech(300),
                Silence(700),
                Ready(40),
                Speech(300),
                Heard(12),
                Speech(300),
            ],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 40, hush, rollback 1, \
                      feed 900..1750, guess 2, keep 2, play 40, hush, rollback 2, \
                      feed 1900..2750, guess 3, keep 3, play 40, hush, stop 3, \
                      truncate 12, start 3100, feed 3100..3800",
            history: "user, answer 12",
            state: State::Hearing,
            counters: Counters { barge_ins: 1, ..counted(1, 3, 3, 2) },
        },
        Case {
            name: "not by a short noise",
            options: by_voice(),
            script: vec![
                Speech(500),
                Silence(700),
                Ready(40),
                Heard(12),
                Speech(150),
                Silence(300),
                Sound(400, 0.7),
                Complete,
                Heard(40),
            ],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 40",
            history: "user, answer 40",
            state: State::Listening,
            counters: counted(1, 1, 1, 0),
        },
        Case {
            name: "not by its own voice, if a key is needed",
            options: by_key(),
            script: vec![
                Speech(500),
                Silence(700),
                Ready(40),
                Speech(2000),
                Heard(12),
                Speech(2000),
                Complete,
                Heard(40),
                Speech(150),
                Silence(500),
            ],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 40",
            history: "user, answer 40",
            state: State::Listening,
            counters: counted(1, 1, 1, 0),
        },
        Case {
            name: "by voice after the room is quiet, between two clauses",
            options: by_key(),
            script: vec![
                Speech(500),
                Silence(700),
                Ready(40),
                Speech(500),
                Heard(40),
                Silence(300),
                Speech(300),
            ],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 40, stop 1, \
                      truncate 40, start 1900, feed 1900..2300",
            history: "user, answer 40",
            state: State::Hearing,
            counters: Counters { barge_ins: 1, ..counted(1, 1, 1, 0) },
        },
        Case {
            name: "by key while it speaks",
            options: by_key(),
            script: vec![
                Speech(500),
                Silence(700),
                Ready(40),
                Heard(12),
                Press(Key::Interrupt),
                Silence(300),
                Speech(500),
                Silence(700),
            ],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 40, hush, stop 1, \
                      truncate 12, start 1400, feed 1400..2250, guess 2, keep 2",
            history: "user, answer 12, user",
            state: State::Answering,
            counters: Counters { barge_ins: 1, ..counted(2, 2, 2, 0) },
        },
        Case {
            name: "by key while it thinks",
            options: by_key(),
            script: vec![Speech(500), Silence(700), Tokens(2), Press(Key::Interrupt), Tokens(1)],
            actions: "start 0, feed 0..750, guess 1, keep 1, stop 1, truncate 0",
            history: "user",
            state: State::Listening,
            counters: Counters { barge_ins: 1, ..counted(1, 1, 1, 0) },
        },
        Case {
            name: "by key while it guesses",
            options: by_key(),
            script: vec![Speech(500), Silence(300), Tokens(2), Press(Key::Interrupt)],
            actions: "start 0, feed 0..750, guess 1, rollback 1, discard",
            history: "",
            state: State::Listening,
            counters: Counters { wasted_tokens: 2, ..counted(0, 1, 0, 1) },
        },
        Case {
            name: "the user takes back what they are saying",
            options: by_key(),
            script: vec![Speech(500), Press(Key::Interrupt), Silence(900)],
            actions: "start 0, feed 0..500, discard",
            history: "",
            state: State::Listening,
            counters: Counters::default(),
        },
        Case {
            name: "a cough stops the answer and is forgotten",
            options: TurnOptions { speech_ms_min: 300, ..by_voice() },
            script: vec![
                Speech(500),
                Silence(700),
                Ready(40),
                Heard(12),
                Speech(200),
                Silence(700),
            ],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 40, hush, stop 1, \
                      truncate 12, start 900, feed 900..2100, discard",
            history: "user, answer 12",
            state: State::Listening,
            counters: Counters { barge_ins: 1, false_starts: 1, ..counted(1, 1, 1, 0) },
        },
    ]);
}

#[test]
fn modes_and_keys() {
    check(vec![
        Case {
            name: "one shot sleeps after its answer and wakes",
            options: in_mode(Mode::OneShot),
            script: vec![
                Speech(500),
                Silence(700),
                Ready(4),
                Complete,
                Heard(4),
                Speech(1000),
                Press(Key::Wake),
                Speech(500),
                Silence(250),
            ],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 4, sleep, open, \
                      start 2200, feed 2200..2950, guess 2",
            history: "user, answer 4",
            state: State::Guessing,
            counters: counted(1, 2, 1, 0),
        },
        Case {
            name: "push-to-talk hears between the keys only",
            options: in_mode(Mode::PushToTalk),
            script: vec![
                Speech(1000),
                Press(Key::TalkDown),
                Speech(400),
                Silence(2000),
                Speech(300),
                Press(Key::TalkUp),
                Ready(4),
                Complete,
                Heard(4),
                Speech(500),
            ],
            actions: "start 700, feed 700..3700, commit 1, play 4",
            history: "user, answer 4",
            state: State::Listening,
            counters: counted(1, 0, 0, 0),
        },
        Case {
            name: "push-to-talk interrupts",
            options: in_mode(Mode::PushToTalk),
            script: vec![
                Press(Key::TalkDown),
                Speech(400),
                Press(Key::TalkUp),
                Ready(40),
                Heard(8),
                Speech(200),
                Press(Key::TalkDown),
                Speech(400),
                Press(Key::TalkUp),
            ],
            actions: "start 0, feed 0..400, commit 1, play 40, hush, stop 1, \
                      truncate 8, start 600, feed 600..1000, commit 2",
            history: "user, answer 8, user",
            state: State::Answering,
            counters: Counters { barge_ins: 1, ..counted(2, 0, 0, 0) },
        },
        Case {
            name: "a key that is touched by mistake",
            options: TurnOptions { preroll_ms: 0, ..in_mode(Mode::PushToTalk) },
            script: vec![Press(Key::TalkDown), Silence(100), Press(Key::TalkUp)],
            actions: "start 0, feed 0..100, discard",
            history: "",
            state: State::Listening,
            counters: Counters { false_starts: 1, ..Counters::default() },
        },
        Case {
            name: "a key ends the turn without silence",
            options: by_key(),
            script: vec![Speech(500), Press(Key::EndTurn), Ready(3), Complete, Heard(3)],
            actions: "start 0, feed 0..500, commit 1, play 3",
            history: "user, answer 3",
            state: State::Listening,
            counters: counted(1, 0, 0, 0),
        },
        Case {
            name: "quiet for long, it sleeps; woken, it listens",
            options: TurnOptions { sleep_after_ms: 10_000, ..by_key() },
            script: vec![
                Silence(9_000),
                Speech(20),
                Silence(2_000),
                Speech(500),
                Press(Key::Wake),
                Silence(100),
                Speech(500),
            ],
            actions: "sleep, open, start 11520, feed 11520..12120",
            history: "",
            state: State::Hearing,
            counters: Counters::default(),
        },
        Case {
            name: "sent to sleep while speaking",
            options: by_key(),
            script: vec![Speech(500), Silence(700), Ready(9), Heard(5), Press(Key::Sleep)],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 9, hush, stop 1, \
                      truncate 5, sleep",
            history: "user, answer 5",
            state: State::Asleep,
            counters: counted(1, 1, 1, 0),
        },
    ]);
}

#[test]
fn long_turns_and_lost_devices() {
    check(vec![
        Case {
            name: "a long turn is cut at 30 s",
            options: by_key(),
            script: vec![Speech(31_000), Silence(700)],
            actions: "start 0, feed 0..30000, close block, feed 30000..31250, guess 1, \
                      keep 1",
            history: "user",
            state: State::Answering,
            counters: Counters { blocks_closed: 1, ..counted(1, 1, 1, 0) },
        },
        Case {
            name: "a long turn is cut in a pause where there is one",
            options: by_key(),
            script: vec![Speech(26_000), Silence(150), Speech(20_000), Silence(700)],
            actions: "start 0, feed 0..26120, close block, feed 26120..46400, guess 1, \
                      keep 1",
            history: "user",
            state: State::Answering,
            counters: Counters { blocks_closed: 1, ..counted(1, 1, 1, 0) },
        },
        Case {
            name: "a turn without end is ended",
            options: TurnOptions { turn_ms_max: 40_000, ..by_key() },
            script: vec![Speech(41_000)],
            actions: "start 0, feed 0..30000, close block, feed 30000..40000, commit 1",
            history: "user",
            state: State::Answering,
            counters: Counters { blocks_closed: 1, ..counted(1, 0, 0, 0) },
        },
        Case {
            name: "microphone lost while listening, back after two tries",
            options: by_key(),
            script: vec![
                Silence(100),
                Tell(Input::MicrophoneLost),
                Wait(600),
                Wait(600),
                Wait(600),
                Tell(Input::MicrophoneBack),
                Speech(300),
            ],
            actions: "open, open, start 100, feed 100..400",
            history: "",
            state: State::Hearing,
            counters: Counters { microphone_losses: 1, ..Counters::default() },
        },
        Case {
            name: "microphone lost in a question: what was heard is answered",
            options: by_key(),
            script: vec![
                Speech(500),
                Tell(Input::MicrophoneLost),
                Ready(9),
                Complete,
                Heard(9),
                Tell(Input::MicrophoneBack),
                Silence(100),
                Speech(500),
                Silence(300),
            ],
            actions: "start 0, feed 0..500, commit 1, play 9, start 700, \
                      feed 700..1350, guess 2",
            history: "user, answer 9",
            state: State::Guessing,
            counters: Counters { microphone_losses: 1, ..counted(1, 1, 0, 0) },
        },
        Case {
            name: "microphone lost at the first syllable: nothing was asked",
            options: by_key(),
            script: vec![Speech(100), Tell(Input::MicrophoneLost), Wait(100)],
            actions: "start 0, feed 0..100, discard",
            history: "",
            state: State::Deaf,
            counters: Counters { false_starts: 1, microphone_losses: 1, ..Counters::default() },
        },
        Case {
            name: "speaker lost: the answer goes on as text",
            options: by_key(),
            script: vec![
                Speech(500),
                Silence(700),
                Ready(9),
                Heard(3),
                Tell(Input::SpeakerLost),
                Ready(20),
                Complete,
                Tell(Input::SpeakerBack),
                Speech(500),
                Silence(700),
                Ready(4),
                Complete,
                Heard(4),
            ],
            actions: "start 0, feed 0..750, guess 1, keep 1, play 9, hush, play 20, \
                      start 900, feed 900..1950, guess 2, keep 2, play 4",
            history: "user, answer 20, user, answer 4",
            state: State::Listening,
            counters: counted(2, 2, 2, 0),
        },
        Case {
            name: "lost samples are counted",
            options: by_key(),
            script: vec![Tell(Input::SamplesLost { n_samples: 480 }), Silence(10)],
            actions: "",
            history: "",
            state: State::Listening,
            counters: Counters { lost_samples: 480, ..Counters::default() },
        },
    ]);
}

#[test]
fn a_wake_word_comes_first() {
    let counted =
        |wakes, overheard, turns| Counters { wakes, overheard, ..counted(turns, turns, turns, 0) };
    check(vec![
        Case {
            name: "talk that is meant for somebody else is never fed",
            options: guarded(),
            script: vec![Silence(500), Speech(1_200), Silence(300), Speech(300), Silence(400)],
            actions: "overhear 200..700, look, overhear 700..1200, look, overhear 1200..1700, \
                      look, overhear 1700..2000, look, ignore, overhear 1700..2200, look, \
                      overhear 2200..2600, look, ignore",
            history: "",
            state: State::Listening,
            counters: counted(0, 2, 0),
        },
        Case {
            name: "phrase and question in one breath: the whole utterance is the turn",
            options: guarded(),
            script: vec![
                Silence(500),
                Speech(600),
                Find(Called::AndMore),
                Speech(900),
                Silence(700),
                Ready(5),
                Complete,
                Heard(5),
            ],
            actions: "overhear 200..700, look, overhear 700..1200, look, wake, start 200, \
                      feed 200..2250, guess 1, keep 1, play 5",
            history: "user, answer 5",
            state: State::Listening,
            counters: counted(1, 0, 1),
        },
        Case {
            name: "the phrase alone, and the question after it",
            options: guarded(),
            script: vec![
                Find(Called::Alone),
                Speech(400),
                Silence(2_000),
                Speech(1_000),
                Silence(700),
            ],
            actions: "overhear 0..500, look, overhear 500..700, look, wake, start 2100, \
                      feed 2100..3650, guess 1, keep 1",
            history: "user",
            state: State::Answering,
            counters: counted(1, 0, 1),
        },
        Case {
            name: "a question long after the phrase is for somebody else",
            options: guarded(),
            script: vec![
                Find(Called::Alone),
                Speech(400),
                Silence(8_400),
                Find(Called::No),
                Speech(300),
                Silence(300),
            ],
            actions: "overhear 0..500, look, overhear 500..700, look, wake, \
                      overhear 8500..9000, look, overhear 9000..9400, look, ignore",
            history: "",
            state: State::Listening,
            counters: counted(1, 1, 0),
        },
        Case {
            name: "a question soon after an answer needs no phrase",
            options: guarded(),
            script: vec![
                Find(Called::AndMore),
                Speech(500),
                Silence(700),
                Ready(5),
                Complete,
                Heard(5),
                Find(Called::No),
                Silence(4_500),
                Speech(300),
                Silence(700),
            ],
            actions: "overhear 0..500, look, wake, start 0, feed 0..750, guess 1, keep 1, play 5, \
                      start 5400, feed 5400..6250, guess 2, keep 2",
            history: "user, answer 5, user",
            state: State::Answering,
            counters: counted(1, 0, 2),
        },
        Case {
            name: "without a time for follow-ups every question needs the phrase",
            options: TurnOptions { follow_up_ms: 0, ..guarded() },
            script: vec![
                Find(Called::AndMore),
                Speech(500),
                Silence(700),
                Ready(5),
                Complete,
                Heard(5),
                Find(Called::No),
                Silence(400),
                Speech(100),
                Silence(300),
            ],
            actions: "overhear 0..500, look, wake, start 0, feed 0..750, guess 1, keep 1, play 5, \
                      overhear 1400..1900, look, overhear 1900..2000, look, ignore",
            history: "user, answer 5",
            state: State::Listening,
            counters: counted(1, 1, 1),
        },
        Case {
            name: "the phrase counts at the start alone, however long somebody talks",
            options: guarded(),
            script: vec![Speech(5_000), Find(Called::AndMore), Speech(60_000), Silence(300)],
            actions: "overhear 0..500, look, overhear 500..1000, look, overhear 1000..1500, look, \
                      overhear 1500..2000, look, overhear 2000..2500, look, \
                      overhear 2500..3000, look, overhear 3000..3500, look, \
                      overhear 3500..4000, look, overhear 4000..4500, look, \
                      overhear 4500..5000, look, ignore",
            history: "",
            state: State::Listening,
            counters: counted(0, 1, 0),
        },
        Case {
            name: "the phrase at the very end of the sound",
            options: guarded(),
            script: vec![Speech(300), Find(Called::AndMore), Press(Key::EndTurn)],
            actions: "overhear 0..300, look, wake, start 0, feed 0..300, commit 1",
            history: "user",
            state: State::Answering,
            counters: Counters { guesses: 0, guesses_kept: 0, ..counted(1, 0, 1) },
        },
        Case {
            name: "the microphone vanishes in the phrase",
            options: guarded(),
            script: vec![
                Find(Called::Alone),
                Speech(300),
                Tell(Input::MicrophoneLost),
                Tell(Input::MicrophoneBack),
                Speech(300),
            ],
            actions: "overhear 0..300, look, wake, start 300, feed 300..600",
            history: "",
            state: State::Hearing,
            counters: Counters { microphone_losses: 1, ..counted(1, 0, 0) },
        },
        Case {
            name: "a key ends what is overheard, and another lets in the next",
            options: guarded(),
            script: vec![
                Speech(300),
                Press(Key::Interrupt),
                Silence(100),
                Speech(100),
                Press(Key::Sleep),
                Speech(300),
                Press(Key::Wake),
                Speech(300),
            ],
            actions: "overhear 0..300, ignore, overhear 100..500, ignore, sleep, open, start 800, \
                      feed 800..1100",
            history: "",
            state: State::Hearing,
            counters: counted(0, 0, 0),
        },
    ]);
}

fn some_options(rng: &mut Rng) -> TurnOptions {
    let end_silence_ms = 50 + rng.below(2_000) as u32;
    TurnOptions {
        mode: [Mode::Continuous, Mode::Continuous, Mode::OneShot, Mode::PushToTalk][rng.below(4)],
        barge_in: [BargeIn::Key, BargeIn::Voice][rng.below(2)],
        onset_ms: 10 + rng.below(200) as u32,
        barge_in_ms: 10 + rng.below(1_990) as u32,
        preroll_ms: rng.below(2_000) as u32,
        speech_ms_min: rng.below(500) as u32,
        end_silence_ms,
        guess_silence_ms: rng.below(end_silence_ms as usize + 1) as u32,
        block_ms_max: 10_000 + rng.below(20_000) as u32,
        block_pause_from_ms: 500 + rng.below(9_000) as u32,
        turn_ms_max: 1_000 + rng.below(90_000) as u32,
        needs_phrase: rng.below(3) == 0,
        follow_up_ms: rng.below(2_000) as u32,
        echo_tail_ms: rng.below(500) as u32,
        sleep_after_ms: [0, 20_000][rng.below(2)],
        ..TurnOptions::default()
    }
}

fn some_step(rng: &mut Rng, stage: &Stage) -> Step {
    const KEYS: [Key; 6] =
        [Key::TalkDown, Key::TalkUp, Key::EndTurn, Key::Interrupt, Key::Sleep, Key::Wake];
    let ms = rng.below(1_500) as u64;
    const FOUND: [Called; 3] = [Called::No, Called::Alone, Called::AndMore];
    match rng.below(25) {
        0..5 => Speech(ms),
        5..9 => Silence(ms),
        9 => Sound(ms * 20, rng.below(101) as f32 / 100.0),
        10..13 => Ready(stage.ledger.ready_bytes + rng.below(30)),
        13..16 => Heard(stage.ledger.heard_bytes + rng.below(30)),
        16 => Heard(usize::MAX),
        17 => Complete,
        18 => Tokens(ms % 9),
        19 => Wait(ms),
        20 | 21 => Press(KEYS[rng.below(KEYS.len())]),
        24 => Find(FOUND[rng.below(3)]),
        22 => Tell([Input::MicrophoneLost, Input::MicrophoneBack][rng.below(2)]),
        _ => Tell([Input::SpeakerLost, Input::SpeakerBack][rng.below(2)]),
    }
}

#[test]
fn any_conversation_keeps_the_ledger() {
    let mut reached = [0; 8];
    let seeds = seeds(400);
    for &seed in &seeds {
        let mut rng = Rng(seed);
        let options = some_options(&mut rng);
        let mut stage = Stage::new(options.clone());
        for index in 0..200 {
            let step = some_step(&mut rng, &stage);
            let outcome = match step {
                Speech(ms) if ms % 3 == 0 => {
                    stage.block(rng.below(16_001) as u32, rng.below(101) as f32 / 100.0)
                }
                step => stage.run(step),
            };
            if let Err(complaint) = outcome {
                panic!("SEED={seed} step {index} {step:?} with {options:?}: {complaint}");
            }
        }
        let c = stage.machine.counters();
        let counts = [c.turns, c.guesses_kept, c.rollbacks, c.barge_ins, c.false_starts];
        let counts = counts.into_iter().chain([c.blocks_closed, c.wakes, c.overheard]);
        reached.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    assert!(seeds.len() == 1 || reached.iter().all(|&sum| sum > 20), "{reached:?}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut machine = Machine::new(TurnOptions::default(), 0).unwrap();
    let blocks = [(16_001, 0.5), (160, 1.5), (160, f32::NAN), (160, -0.1)];
    for (n_samples, speech) in blocks {
        let error = machine.handle(0, Input::Block { n_samples, speech }).unwrap_err();
        assert_eq!(error.kind(), culet::ErrorKind::Input, "{error}");
    }
    // Nobody polls: feeding is merged into one action, and in the end more is refused.
    let mut refused = 0;
    for _ in 0..1_000 {
        for key in [Key::Sleep, Key::Wake] {
            refused += u32::from(machine.handle(0, Input::Key(key)).is_err());
        }
    }
    assert!(refused > 1_900);
    assert!(std::iter::from_fn(|| machine.poll()).count() <= 32);
    assert!(machine.handle(0, Input::Tick).is_ok());
}

#[test]
fn feeding_that_nobody_polls_is_one_action() {
    let mut machine = Machine::new(TurnOptions::default(), 0).unwrap();
    for _ in 0..2_000 {
        machine.handle(0, Input::Block { n_samples: 160, speech: 0.9 }).unwrap();
    }
    let actions: Vec<Action> = std::iter::from_fn(|| machine.poll()).collect();
    let to = 2_000 * 160;
    assert_eq!(actions, [Action::StartSpeech { from: 0 }, Action::FeedAudio { from: 0, to }]);
}
