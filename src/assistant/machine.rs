//! The turn policy: who speaks, what is fed, what is said and what is taken back.
//! In: `Input`s with the time. Out: `Action`s, by `poll`.
//! Invariant: fed samples of a turn never overlap and leave out only silence before its end was
//! taken back; nothing is played before its turn is committed; what is truncated was played.

mod guard;
mod overhear;

use crate::assistant::event::Action;
use crate::assistant::event::Counters;
use crate::assistant::event::Input;
use crate::assistant::event::Key;
use crate::assistant::event::State;
use crate::assistant::machine::guard::Guard;
use crate::assistant::option::BargeIn;
use crate::assistant::option::Mode;
use crate::assistant::option::TurnOptions;
use crate::assistant::turn::Endpoint;
use crate::assistant::turn::samples;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use heapless::Deque;

/// Actions that may wait to be polled.
const ACTIONS_MAX: usize = 32;
/// Most actions that one input leads to.
const ACTIONS_PER_INPUT_MAX: usize = 16;
/// Answers to a turn that give way at their first sound, because the user seems to go on; the next
/// is begun to be heard first. An assistant that hears itself would otherwise never say anything.
const CUT_SHORT_MAX: u32 = 2;
/// Pause in which a long audio block is closed.
const BLOCK_PAUSE_MS: u32 = 120;
const NS_PER_MS: u64 = 1_000_000;

/// An answer: how far it is made, queued and spoken.
#[derive(Debug, Clone, Copy, Default)]
struct Answer {
    id: u32,
    n_tokens: u64,
    is_complete: bool,
    /// Bytes that are ready to be spoken.
    ready_bytes: usize,
    /// Bytes that were handed to the voice.
    queued_bytes: usize,
    /// Bytes that were heard.
    spoken_bytes: usize,
}

impl Answer {
    fn is_playing(&self) -> bool {
        self.queued_bytes > self.spoken_bytes
    }

    fn is_over(&self) -> bool {
        self.is_complete && !self.is_playing()
    }
}

/// Decides who speaks when. Tell it what happened with `handle`, then `poll` what to do.
pub struct Machine {
    options: TurnOptions,
    state: State,
    actions: Deque<Action, ACTIONS_MAX>,
    counters: Counters,
    now_ns: u64,
    endpoint: Endpoint,
    guard: Guard,
    /// First sample that may be fed: nothing from before a gap or while the speaker played.
    floor: u64,
    /// Samples before this are not listened to, because the room still sounds.
    echo_until: u64,
    turn_from: u64,
    block_from: u64,
    fed_to: u64,
    answer: Answer,
    n_answers: u32,
    /// Answers to the present turn that gave way at their first sound.
    n_cut_short: u32,
    idle_since_ns: u64,
    /// When the microphone is opened again, and the wait after that; none while it works.
    reopen: Option<(u64, u32)>,
    is_mute: bool,
}

impl Machine {
    /// Creates a machine that listens from `now_ns` on.
    ///
    /// # Errors
    /// `Input` if an option is out of range.
    pub fn new(options: TurnOptions, now_ns: u64) -> Result<Self> {
        options.check()?;
        Ok(Self {
            options,
            state: State::Listening,
            actions: Deque::new(),
            counters: Counters::default(),
            now_ns,
            endpoint: Endpoint::default(),
            guard: Guard::default(),
            floor: 0,
            echo_until: 0,
            turn_from: 0,
            block_from: 0,
            fed_to: 0,
            answer: Answer::default(),
            n_answers: 0,
            n_cut_short: 0,
            idle_since_ns: now_ns,
            reopen: None,
            is_mute: false,
        })
    }

    /// Returns where the conversation is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns whether speech that begins now is answered without a phrase before it.
    pub fn is_awake(&self) -> bool {
        !self.options.needs_phrase || self.guard.is_awake(self.endpoint.position())
    }

    /// Returns what happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Returns the earliest sample that later actions may ask for.
    pub fn needed_from(&self) -> u64 {
        let preroll = samples(self.options.preroll_ms);
        let from = self.endpoint.earliest_onset().saturating_sub(preroll).max(self.floor);
        match self.state {
            State::Hearing | State::Guessing => from.min(self.fed_to),
            State::Overhearing if !self.guard.is_refused() => self.turn_from,
            _ => from,
        }
    }

    /// Returns when `Input::Tick` is next of use, if nothing else happens.
    pub fn timeout_ns(&self) -> Option<u64> {
        let reopen = self.reopen.map(|(at_ns, _)| at_ns);
        reopen.into_iter().chain(self.sleep_at_ns()).min()
    }

    /// Returns the next thing to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Takes in what happened at `now_ns`, on any clock that does not run backwards.
    ///
    /// # Errors
    /// `Busy` if too many actions wait, `Input` if a block is longer than a second or its
    /// probability is not between 0 and 1. The machine is then as it was.
    pub fn handle(&mut self, now_ns: u64, input: Input) -> Result<()> {
        if self.actions.len() + ACTIONS_PER_INPUT_MAX > ACTIONS_MAX {
            let message = format!("{} actions wait; poll before more input", self.actions.len());
            return Err(Error::new(ErrorKind::Busy, message));
        }
        input.check()?;
        self.now_ns = self.now_ns.max(now_ns);
        match input {
            Input::Tick => {}
            Input::Block { n_samples, speech } => self.block(n_samples, speech),
            Input::SamplesLost { n_samples } => self.counters.lost_samples += u64::from(n_samples),
            Input::Key(key) => self.key(key),
            Input::Called(called) => self.called(called),
            Input::MicrophoneLost => self.microphone_lost(),
            Input::MicrophoneBack => self.microphone_back(),
            Input::SpeakerLost => self.speaker_lost(),
            Input::SpeakerBack => self.is_mute = false,
            Input::Token { answer } => self.progress(answer, |a| a.n_tokens += 1),
            Input::AnswerEnded { answer } => self.progress(answer, |a| a.is_complete = true),
            Input::ClauseReady { answer, end_bytes } => {
                self.progress(answer, |a| a.ready_bytes = a.ready_bytes.max(end_bytes));
            }
            Input::Played { answer, to_bytes } => self.progress(answer, |a| {
                a.spoken_bytes = a.spoken_bytes.max(to_bytes.min(a.queued_bytes));
            }),
        }
        self.timers();
        Ok(())
    }

    fn push(&mut self, action: Action) {
        let same = match (self.actions.back_mut(), action) {
            (Some(Action::FeedAudio { to, .. }), Action::FeedAudio { from, to: end })
            | (Some(Action::Overhear { to, .. }), Action::Overhear { from, to: end }) => {
                (*to == from).then_some((to, end))
            }
            _ => None,
        };
        if let Some((to, end)) = same {
            *to = end;
            return;
        }
        self.actions.push_back(action).expect("room for one input's actions was checked");
    }

    fn block(&mut self, n_samples: u32, speech: f32) {
        let position = self.endpoint.position();
        let is_listening = match self.state {
            State::Asleep | State::Deaf => false,
            State::Answering if self.is_playing_aloud() => self.options.barge_in == BargeIn::Voice,
            _ => position >= self.echo_until,
        };
        if !is_listening {
            self.endpoint.skip(n_samples);
            self.floor = self.endpoint.position();
            return;
        }
        let is_interruption = self.state == State::Answering && self.answer.spoken_bytes > 0;
        let (threshold, onset_ms) = if is_interruption || self.is_playing_aloud() {
            (self.options.barge_in_threshold, self.options.barge_in_ms)
        } else {
            (self.options.speech_threshold, self.options.onset_ms)
        };
        self.endpoint.push(n_samples, speech, threshold);
        match self.state {
            State::Hearing => self.hear(n_samples, speech),
            State::Overhearing => {
                self.endpoint.extend(n_samples, speech, &self.options);
                self.overhear();
            }
            _ if self.options.mode == Mode::PushToTalk => {}
            State::Listening => {
                if let Some(onset) = self.endpoint.onset(onset_ms) {
                    self.begin(onset);
                }
            }
            State::Guessing => self.pause(onset_ms),
            State::Answering => {
                if let Some(onset) = self.endpoint.onset(onset_ms) {
                    self.interrupt_by_voice(onset);
                }
            }
            State::Asleep | State::Deaf => {}
        }
    }

    /// Opens a turn whose speech began at `onset`, or what may become one if it is meant so.
    fn begin(&mut self, onset: u64) {
        if !self.options.needs_phrase || self.guard.is_awake(onset) {
            return self.start(onset);
        }
        self.doubt(onset);
    }

    /// Opens a turn whose speech began at `onset`.
    fn start(&mut self, onset: u64) {
        self.open(onset);
        self.let_in();
    }

    fn open(&mut self, onset: u64) {
        let from = onset.saturating_sub(samples(self.options.preroll_ms)).max(self.floor);
        (self.turn_from, self.block_from, self.fed_to) = (from, from, from);
        (self.echo_until, self.n_cut_short) = (0, 0);
        self.endpoint.begin(true);
    }

    /// Makes what was opened the user's turn.
    fn let_in(&mut self) {
        self.state = State::Hearing;
        self.fed_to = self.turn_from;
        self.push(Action::StartSpeech { from: self.turn_from });
        self.feed();
    }

    /// Goes on with the open turn after its end was taken back.
    fn resume(&mut self, onset: u64) {
        let from = onset.saturating_sub(samples(self.options.preroll_ms)).max(self.floor);
        // A long wait for an answer is left out; the pause before the onset is kept.
        if from > self.fed_to {
            self.block_from += from - self.fed_to;
            self.turn_from += from - self.fed_to;
            self.fed_to = from;
        }
        self.endpoint.begin(false);
        self.state = State::Hearing;
        self.feed();
    }

    fn hear(&mut self, n_samples: u32, speech: f32) {
        self.endpoint.extend(n_samples, speech, &self.options);
        self.feed();
        let silence = self.endpoint.silence();
        let is_long = self.fed_to - self.block_from >= samples(self.options.block_pause_from_ms);
        if is_long && silence >= samples(BLOCK_PAUSE_MS) {
            self.close_block();
        }
        if self.is_turn_full() {
            self.end_turn();
        } else if self.options.mode != Mode::PushToTalk {
            self.check_silence(silence);
        }
    }

    fn is_turn_full(&self) -> bool {
        self.fed_to - self.turn_from >= samples(self.options.turn_ms_max)
    }

    fn check_silence(&mut self, silence: u64) {
        let is_speech = self.endpoint.voiced() >= samples(self.options.speech_ms_min);
        let guess_ms = self.options.guess_silence_ms;
        if silence >= samples(self.options.end_silence_ms) {
            self.end_turn();
        } else if guess_ms > 0 && is_speech && silence >= samples(guess_ms) {
            self.state = State::Guessing;
            self.endpoint.break_run();
            self.counters.guesses += 1;
            let answer = self.new_answer();
            self.push(Action::GuessEnd { answer });
        }
    }

    /// In the pause after a guess: goes on, or ends the turn.
    fn pause(&mut self, onset_ms: u32) {
        if let Some(onset) = self.endpoint.onset(onset_ms) {
            self.roll_back();
            self.resume(onset);
        } else if self.endpoint.silence() >= samples(self.options.end_silence_ms) {
            self.commit();
        }
    }

    /// Feeds all that was heard of the turn, and closes blocks at their limit.
    fn feed(&mut self) {
        let to = self.endpoint.position();
        let block = samples(self.options.block_ms_max);
        while to - self.block_from >= block {
            let limit = self.block_from + block;
            self.feed_to(limit);
            self.close_block();
        }
        self.feed_to(to);
    }

    fn feed_to(&mut self, to: u64) {
        if to > self.fed_to {
            self.push(Action::FeedAudio { from: self.fed_to, to });
            self.fed_to = to;
        }
    }

    fn close_block(&mut self) {
        self.block_from = self.fed_to;
        self.counters.blocks_closed += 1;
        self.push(Action::CloseAudioBlock);
    }

    /// Ends the open turn: commits it, or discards it if it held no speech.
    fn end_turn(&mut self) {
        let is_key = self.options.mode == Mode::PushToTalk;
        let heard = if is_key { self.fed_to - self.turn_from } else { self.endpoint.voiced() };
        if self.state == State::Guessing || heard >= samples(self.options.speech_ms_min) {
            self.commit();
        } else {
            self.counters.false_starts += 1;
            self.push(Action::Discard);
            self.rest();
        }
    }

    fn commit(&mut self) {
        let is_guessed = self.state == State::Guessing;
        let answer = if is_guessed { self.answer.id } else { self.new_answer() };
        self.counters.turns += 1;
        self.counters.guesses_kept += u64::from(is_guessed);
        self.state = State::Answering;
        self.endpoint.break_run();
        self.push(Action::CommitEnd { answer, is_guessed });
        self.advance();
    }

    fn new_answer(&mut self) -> u32 {
        self.n_answers += 1;
        self.answer = Answer { id: self.n_answers, ..Answer::default() };
        self.n_answers
    }

    /// Takes in progress of the present answer; that of dropped ones is stale.
    fn progress(&mut self, answer: u32, change: impl FnOnce(&mut Answer)) {
        if answer != self.answer.id || !matches!(self.state, State::Guessing | State::Answering) {
            return;
        }
        let was_playing = self.is_playing_aloud();
        change(&mut self.answer);
        if was_playing && !self.is_playing_aloud() {
            self.echo();
        }
        if self.state == State::Answering {
            self.advance();
        }
    }

    /// Hands the voice what is ready, and rests when all is said.
    fn advance(&mut self) {
        if self.answer.ready_bytes > self.answer.queued_bytes {
            self.answer.queued_bytes = self.answer.ready_bytes;
            if self.is_mute {
                self.answer.spoken_bytes = self.answer.queued_bytes;
            }
            let Answer { id, queued_bytes, .. } = self.answer;
            self.push(Action::Play { answer: id, to_bytes: queued_bytes });
        }
        if self.answer.is_over() {
            self.rest();
        }
    }

    fn is_playing_aloud(&self) -> bool {
        self.state == State::Answering && self.answer.is_playing() && !self.is_mute
    }

    /// Closes the ear while the room still sounds, unless the user may interrupt by voice.
    fn echo(&mut self) {
        if self.options.barge_in == BargeIn::Key {
            let tail = samples(self.options.echo_tail_ms);
            self.echo_until = self.endpoint.position() + tail;
        }
    }

    fn interrupt_by_voice(&mut self, onset: u64) {
        if self.answer.spoken_bytes > 0 {
            self.counters.barge_ins += 1;
            self.stop_answer();
            self.start(onset);
        } else if self.is_turn_full() || self.is_cut_short_enough() {
            // Going on would end the turn again at once; the user hears the answer first.
            self.endpoint.break_run();
        } else {
            if self.is_playing_aloud() {
                self.n_cut_short += 1;
                self.push(Action::StopPlayback);
            }
            self.counters.turns -= 1;
            self.roll_back();
            self.resume(onset);
        }
    }

    fn is_cut_short_enough(&self) -> bool {
        self.is_playing_aloud() && self.n_cut_short >= CUT_SHORT_MAX
    }

    fn roll_back(&mut self) {
        let answer = self.answer.id;
        self.counters.rollbacks += 1;
        self.counters.wasted_tokens += self.answer.n_tokens;
        self.push(Action::Rollback { answer });
    }

    fn stop_answer(&mut self) {
        let Answer { id: answer, spoken_bytes: to_bytes, .. } = self.answer;
        if self.is_playing_aloud() {
            self.push(Action::StopPlayback);
            self.echo();
        }
        if !self.answer.is_complete {
            self.push(Action::StopAnswer { answer });
        }
        self.push(Action::Truncate { answer, to_bytes });
        self.answer.id = 0;
    }

    /// Drops whatever is going on, so that nobody speaks.
    fn silence_all(&mut self) {
        match self.state {
            State::Hearing => self.push(Action::Discard),
            State::Guessing => {
                self.roll_back();
                self.push(Action::Discard);
            }
            State::Answering => self.stop_answer(),
            State::Overhearing if !self.guard.is_refused() => {
                self.push(Action::EndOverhearing { is_woken: false });
            }
            State::Overhearing | State::Asleep | State::Deaf | State::Listening => {}
        }
    }

    /// Goes to where the mode and the microphone allow.
    fn rest(&mut self) {
        self.endpoint.break_run();
        self.idle_since_ns = self.now_ns;
        if self.state == State::Answering {
            let until = self.endpoint.position() + samples(self.options.follow_up_ms);
            self.guard.stay_awake(until);
        }
        let is_done = self.options.mode == Mode::OneShot && self.state == State::Answering;
        if is_done {
            self.sleep();
        } else {
            self.state = if self.reopen.is_some() { State::Deaf } else { State::Listening };
        }
    }

    fn sleep(&mut self) {
        self.state = State::Asleep;
        self.reopen = None;
        self.push(Action::Sleep);
    }

    fn key(&mut self, key: Key) {
        let is_talk = self.options.mode == Mode::PushToTalk;
        match (key, self.state) {
            (Key::TalkDown, State::Listening) if is_talk => self.start(self.endpoint.position()),
            (Key::TalkDown, State::Answering) if is_talk => {
                self.counters.barge_ins += 1;
                self.stop_answer();
                self.start(self.endpoint.position());
            }
            (Key::TalkUp, State::Hearing) if is_talk => self.end_turn(),
            (Key::EndTurn, State::Hearing | State::Guessing) => self.end_turn(),
            (Key::EndTurn, State::Overhearing) => self.cut_overhearing(),
            (Key::Interrupt, state) if state.is_busy() => {
                self.counters.barge_ins += u64::from(self.state == State::Answering);
                self.silence_all();
                self.rest();
            }
            (Key::Sleep, state) if state != State::Asleep => {
                self.silence_all();
                self.sleep();
            }
            (Key::Wake, State::Asleep) => {
                self.floor = self.endpoint.position();
                self.guard.stay_awake(self.floor + samples(self.options.wake_ms));
                self.rest();
                self.push(Action::OpenMicrophone);
            }
            _ => {}
        }
    }

    fn microphone_lost(&mut self) {
        if self.reopen.is_some() || self.state == State::Asleep {
            return;
        }
        self.counters.microphone_losses += 1;
        let wait_ms = self.options.reopen_ms_min;
        self.reopen = Some((self.now_ns + u64::from(wait_ms) * NS_PER_MS, wait_ms));
        match self.state {
            State::Hearing | State::Guessing => self.end_turn(),
            State::Overhearing => self.cut_overhearing(),
            State::Listening => self.rest(),
            State::Answering | State::Deaf | State::Asleep => {}
        }
    }

    fn microphone_back(&mut self) {
        self.reopen = None;
        self.endpoint.break_run();
        self.floor = self.endpoint.position();
        if self.state == State::Deaf {
            self.rest();
        }
    }

    fn speaker_lost(&mut self) {
        if self.is_playing_aloud() {
            self.push(Action::StopPlayback);
            // What was queued is read instead of heard.
            self.answer.spoken_bytes = self.answer.queued_bytes;
        }
        self.is_mute = true;
        if self.state == State::Answering {
            self.advance();
        }
    }

    fn sleep_at_ns(&self) -> Option<u64> {
        let is_idle = matches!(self.state, State::Listening | State::Deaf);
        let after_ns = u64::from(self.options.sleep_after_ms) * NS_PER_MS;
        (is_idle && after_ns > 0).then(|| self.idle_since_ns + after_ns)
    }

    fn timers(&mut self) {
        if self.sleep_at_ns().is_some_and(|at_ns| self.now_ns >= at_ns) {
            self.sleep();
        }
        if let Some((at_ns, wait_ms)) = self.reopen
            && self.now_ns >= at_ns
        {
            let wait_ms = (2 * wait_ms).min(self.options.reopen_ms_max);
            self.reopen = Some((self.now_ns + u64::from(wait_ms) * NS_PER_MS, wait_ms));
            self.push(Action::OpenMicrophone);
        }
    }
}
