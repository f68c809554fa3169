//! `culet voice`: a spoken conversation.
//! In: sound from a file, a pipe or the microphone.
//! Out: answers and calls on stdout, what happens on stderr.
//! Invariant: a file or a pipe waits while an answer is made, so that nothing of it is missed.

use std::time::Duration;
use std::time::Instant;

use culet::Pcm;
use culet::Result;
use culet::assistant::BargeIn;
use culet::assistant::Input;
use culet::assistant::Key;
use culet::assistant::State;
use culet::assistant::Talk;
use culet::assistant::TalkEvent;
use culet::assistant::TurnOptions;
use culet::assistant::driver::Ears;
use culet::assistant::driver::Mouth;
use culet::frontend::VadKind;
use culet::ggml::Cancel;
use culet::text::Content;
use serde_json::Value;
use serde_json::json;

use crate::cli::model::ModelArgs;
use crate::cli::print;
use crate::cli::print::Progress;
use crate::cli::run::OpeningArgs;
use crate::cli::run::SamplingArgs;
use crate::cli::run::stop;
use crate::cli::run::stop::Stoppable;
use crate::cli::voice::eye::EyeArgs;
use crate::cli::voice::eye::Look;
use crate::cli::voice::live;
use crate::cli::voice::live::DeviceArgs;
use crate::cli::voice::live::Trouble;
use crate::cli::voice::sound::SoundArgs;
use crate::cli::voice::tool;
use crate::cli::voice::tool::ToolCommand;
use crate::cli::voice::wake::WakeArgs;

/// How often the line of what is going on changes at most, if nothing new does.
const SHOW_TURN: Duration = Duration::from_millis(100);

/// What tells speech from other sounds.
#[derive(clap::ValueEnum, Clone, Copy)]
enum Detector {
    Network,
    Energy,
}

impl From<Detector> for VadKind {
    fn from(detector: Detector) -> Self {
        match detector {
            Detector::Network => Self::Network,
            Detector::Energy => Self::Energy,
        }
    }
}

/// What `voice` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    sound: SoundArgs,
    #[command(flatten)]
    pub(super) device: DeviceArgs,
    #[command(flatten)]
    eye: EyeArgs,
    #[command(flatten)]
    wake: WakeArgs,
    #[command(flatten)]
    opening: OpeningArgs,
    /// Carry out calls of a tool with a command: arguments as JSON on its stdin; repeatable
    #[arg(long, value_name = "NAME=COMMAND", value_parser = tool::parse)]
    tool: Vec<ToolCommand>,
    /// Longest that such a command may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    tool_limit: u32,
    /// What tells speech from other sounds: a small network, or the level alone
    #[arg(long, value_enum, default_value_t = Detector::Network)]
    vad: Detector,
    /// Silence that ends a turn, in milliseconds
    #[arg(long, value_name = "MS", default_value = "700")]
    silence: u32,
    /// Silence after which an answer is begun unheard, in milliseconds; 0 for never
    #[arg(long, value_name = "MS", default_value = "250")]
    guess: u32,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Write one JSON document at the end: turns with times, text and calls
    #[arg(long)]
    json: bool,
}

/// Holds the conversation.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.device.devices {
        return live::list();
    }
    let blocks = args.sound.open()?;
    let look = args.eye.open()?;
    let opening = args.opening.conversation()?;
    let engine = args.model.open(true)?;
    let session = args.sampling.session(&engine, args.sampling.seed())?;
    if look.is_some() {
        session.check_picture(args.eye.budget)?;
    }
    let options = TurnOptions {
        mode: args.device.mode(),
        barge_in: if args.device.barge_in { BargeIn::Voice } else { BargeIn::Key },
        vad: args.vad.into(),
        guess_silence_ms: args.guess.min(args.silence),
        end_silence_ms: args.silence,
        needs_phrase: args.wake.is_wanted(),
        follow_up_ms: args.wake.follow_up_ms(),
        ..TurnOptions::default()
    };
    let options = options.within(session.n_ctx());
    let lookout = args.wake.open(&args.model, &engine)?;
    let mouth = if blocks.is_none() { args.device.mouth() } else { None };
    let is_aloud = mouth.is_some();
    let start = Instant::now();
    let mut talk = Talk::new(session, opening, &options, (is_aloud, args.sampling.n_max()), 0)?;
    if look.is_some() {
        talk.see(args.eye.budget);
    }
    if let Some(lookout) = lookout {
        talk.wake_by(lookout);
    }
    let mut hall = Hall { args, talk, page: Page::new(args.json, mouth, look), start };
    stop::listen()?;
    let stop = Cancel::new();
    let _stoppable = Stoppable::new(&stop);
    let Some(blocks) = blocks else {
        let ears = hall.listen()?;
        print::say(args.device.greeting());
        live::converse(&mut hall, ears, &stop)?;
        return hall.stop();
    };
    print::say("listening");
    for pcm in blocks {
        hall.talk.push(&pcm?)?;
        while !stop.is_cancelled() && hall.hear_block()? {}
        if stop.is_cancelled() {
            return hall.stop();
        }
    }
    hall.finish()
}

/// The conversation and who writes it down.
pub(super) struct Hall<'a> {
    pub(super) args: &'a Args,
    talk: Talk,
    page: Page,
    start: Instant,
}

impl Hall<'_> {
    /// Returns where the conversation is.
    pub(super) fn state(&self) -> State {
        self.talk.state()
    }

    /// Opens the microphone.
    pub(super) fn listen(&self) -> Result<Ears> {
        self.args.device.listen(self.page.mouth.as_ref())
    }

    /// Hears sound without waiting for answers.
    pub(super) fn hear(&mut self, pcm: &Pcm) -> Result<()> {
        self.page.level = pcm.samples.iter().fold(0.0, |most, s| s.abs().max(most));
        self.talk.push(pcm)?;
        let now_ns = self.now_ns();
        self.talk.listen_all(now_ns, &mut |event| self.page.write(event))
    }

    /// Tells of something that happened.
    pub(super) fn tell(&mut self, input: Input) -> Result<()> {
        let now_ns = self.now_ns();
        self.talk.tell(now_ns, input, &mut |event| self.page.write(event))
    }

    /// Tells what was spoken, makes a token or carries out calls; whether there was one to make.
    pub(super) fn advance(&mut self) -> Result<bool> {
        while let Some(input) = self.page.spoken() {
            self.tell(input)?;
        }
        let now_ns = self.now_ns();
        let has_worked = self.talk.advance(now_ns, &mut |event| self.page.write(event))?;
        Ok(has_worked || self.call()?)
    }

    /// Tells whether the microphone should be opened again, once.
    pub(super) fn wants_microphone(&mut self) -> bool {
        std::mem::take(&mut self.page.wants_microphone)
    }

    /// Says a line to the person.
    pub(super) fn say(&mut self, text: &str) {
        self.page.say(text);
    }

    /// Shows what is going on, where there is a terminal.
    pub(super) fn show(&mut self) {
        let doing = match self.talk.state() {
            State::Asleep => "asleep",
            State::Deaf => "no microphone",
            State::Listening | State::Overhearing if !self.talk.is_awake() => "wake word?",
            State::Listening | State::Overhearing => "listening",
            State::Hearing => "hearing",
            State::Answering if self.page.mouth.is_some() && self.page.is_saying => "speaking",
            State::Guessing | State::Answering => "thinking",
        };
        self.page.show(doing);
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Hears a block; an answer to a turn that is over is made to its end.
    fn hear_block(&mut self) -> Result<bool> {
        let now_ns = self.now_ns();
        let has_heard = self.talk.listen(now_ns, &mut |event| self.page.write(event))?;
        match self.talk.state() {
            State::Guessing => {
                self.step()?;
            }
            State::Answering => self.answer()?,
            State::Asleep
            | State::Deaf
            | State::Listening
            | State::Overhearing
            | State::Hearing => {}
        }
        Ok(has_heard)
    }

    fn step(&mut self) -> Result<bool> {
        let now_ns = self.now_ns();
        self.talk.step(now_ns, &mut |event| self.page.write(event))
    }

    fn answer(&mut self) -> Result<()> {
        while self.talk.state() == State::Answering {
            if !self.step()? && !self.call()? {
                break;
            }
        }
        Ok(())
    }

    /// Carries out the calls that wait; `false` if there are none.
    fn call(&mut self) -> Result<bool> {
        let calls = self.talk.calls().to_vec();
        if calls.is_empty() {
            return Ok(false);
        }
        for call in &calls {
            self.page.call(&call.to_json())?;
        }
        let is_known = calls.iter().any(|call| tool::find(&self.args.tool, call).is_some());
        if !is_known || !self.talk.may_call() {
            let now_ns = self.now_ns();
            self.talk.leave_calls(now_ns, &mut |event| self.page.write(event))?;
            return Ok(true);
        }
        let limit = Duration::from_secs(self.args.tool_limit.into());
        let results = calls.iter().map(|call| match tool::find(&self.args.tool, call) {
            Some(tool) => tool.run(call, limit),
            None => Content::Value(json!({ "error": "there is no such tool" })),
        });
        self.talk.results(results.collect())?;
        Ok(true)
    }

    fn finish(mut self) -> Result<()> {
        let now_ns = self.now_ns();
        // What is left are less samples than a block, and blocks that end no turn by themselves.
        self.talk.finish(now_ns, &mut |event| self.page.write(event))?;
        self.answer()?;
        self.tell(Input::Tick)?;
        self.report()
    }

    /// Ends the conversation where it is: an open turn is forgotten, an answer is cut.
    fn stop(mut self) -> Result<()> {
        self.tell(Input::Key(Key::Sleep))?;
        self.report()
    }

    fn report(mut self) -> Result<()> {
        self.page.status.clear();
        let (counters, n_wasted) = (self.talk.counters(), self.talk.n_wasted());
        log::info!(
            "{} turns, {} ends guessed, {} taken back, {n_wasted} tokens wasted",
            counters.turns,
            counters.guesses,
            counters.rollbacks
        );
        if counters.turns == 0 {
            print::say(match counters.overheard {
                0 => "no speech was heard",
                _ => "the wake word was not heard",
            });
        }
        self.page.finish(json!({
            "guesses": counters.guesses,
            "rollbacks": counters.rollbacks,
            "false_starts": counters.false_starts,
            "wasted_tokens": n_wasted,
            "barge_ins": counters.barge_ins,
            "wakes": counters.wakes,
            "overheard": counters.overheard,
            "lost_samples": counters.lost_samples,
            "microphone_losses": counters.microphone_losses,
        }))
    }
}

/// Returns a bar for the loudest sample: empty at -60 dB, full at 0 dB.
fn bar(level: f32) -> &'static str {
    const FULL: &str = "####################";
    let share = (20.0 * level.max(1e-6).log10() + 60.0) / 60.0;
    &FULL[..(share.clamp(0.0, 1.0) * FULL.len() as f32) as usize]
}

/// What was said, as lines or as one document.
struct Page {
    is_json: bool,
    mouth: Option<Mouth>,
    /// Of the speaker.
    trouble: Trouble,
    look: Option<Look>,
    wants_microphone: bool,
    /// When the end that is answered was decided.
    ended_at: Option<Instant>,
    first_token_ms: Option<f64>,
    times_s: [f64; 2],
    /// Soft tokens of the picture that was put before the turn.
    n_picture: usize,
    /// The line of what is going on, and when it last changed.
    status: Progress,
    shown: Option<(&'static str, Instant)>,
    /// Loudest sample of the newest sound.
    level: f32,
    /// Whether a piece of the present answer was said.
    is_saying: bool,
    text: String,
    calls: Vec<Value>,
    turns: Vec<Value>,
}

impl Page {
    fn new(is_json: bool, mouth: Option<Mouth>, look: Option<Look>) -> Self {
        let wants_microphone = false;
        let (text, calls, turns) = (String::new(), Vec::new(), Vec::new());
        let (ended_at, first_token_ms, times_s) = (None, None, [0.0; 2]);
        let (status, shown, level, is_saying) = (Progress::new(), None, 0.0, false);
        Self {
            is_json,
            mouth,
            trouble: Trouble::default(),
            look,
            wants_microphone,
            ended_at,
            first_token_ms,
            times_s,
            n_picture: 0,
            status,
            shown,
            level,
            is_saying,
            text,
            calls,
            turns,
        }
    }

    /// Returns what the machine is to be told of the speaker.
    fn spoken(&mut self) -> Option<Input> {
        match self.mouth.as_ref()?.poll() {
            Ok(told) => {
                // An open speaker may fail at the next sound.
                if matches!(told, Some(Input::Played { .. })) {
                    self.trouble.works();
                }
                told
            }
            Err(e) if !self.trouble.fails() => {
                log::info!("{e}");
                None
            }
            Err(e) => {
                self.say(&format!("answers are shown, not spoken, until it is back: {e}"));
                None
            }
        }
    }

    fn say(&mut self, text: &str) {
        self.status.clear();
        print::say(text);
    }

    fn show(&mut self, doing: &'static str) {
        let is_new = self.shown.is_none_or(|(was, at)| was != doing || at.elapsed() > SHOW_TURN);
        if self.status.is_shown() && is_new {
            self.shown = Some((doing, Instant::now()));
            self.status.set(&format!("{doing:13} [{:20}]", bar(self.level)));
        }
    }

    /// Writes a piece of an answer; at a terminal it is a line of its own.
    fn put(&mut self, text: &str) -> Result<()> {
        match self.status.is_shown() {
            true => {
                self.status.clear();
                print::result(&format!("{}\n", text.trim()))
            }
            false => print::result(text),
        }
    }

    fn write(&mut self, event: TalkEvent<'_>) -> Result<()> {
        match event {
            TalkEvent::SpeechBegan { picture, .. } => {
                picture.set(self.look.as_mut().and_then(|newest| newest()));
                self.tell("hearing");
            }
            TalkEvent::Woken => self.tell("woken"),
            TalkEvent::Looked { n_tokens } => self.n_picture = n_tokens,
            TalkEvent::EndGuessed => self.ended_at = Some(Instant::now()),
            TalkEvent::TakenBack { n_wasted } => {
                log::info!("the speaker goes on; {n_wasted} tokens wasted");
                self.end_line()?;
                self.text.clear();
                (self.ended_at, self.first_token_ms) = (None, None);
            }
            TalkEvent::Discarded => {
                self.n_picture = 0;
                self.tell("listening");
            }
            TalkEvent::TurnEnded { from_s, to_s, is_guessed } => {
                self.times_s = [from_s, to_s];
                if !is_guessed {
                    self.ended_at = Some(Instant::now());
                }
                self.is_saying = false;
                self.say(&format!("heard {:.1} s", to_s - from_s));
            }
            TalkEvent::FirstToken => {
                let ended_at = self.ended_at.take();
                self.first_token_ms = ended_at.map(|at| at.elapsed().as_secs_f64() * 1e3);
            }
            TalkEvent::Said { answer, text, end_bytes } => {
                if let Some(mouth) = &self.mouth {
                    mouth.say(answer, text, end_bytes);
                }
                self.text.push_str(text);
                self.is_saying = true;
                if !self.is_json {
                    self.put(text)?;
                }
            }
            TalkEvent::AnswerEnded { n_tokens } => self.end(n_tokens)?,
            TalkEvent::Silence => self.mouth.iter().for_each(Mouth::silence),
            TalkEvent::OpenMicrophone => self.wants_microphone = true,
            TalkEvent::Asleep => {}
        }
        Ok(())
    }

    fn call(&mut self, call: &Value) -> Result<()> {
        self.calls.push(call.clone());
        self.status.clear();
        match self.is_json {
            true => Ok(()),
            false => print::json(call),
        }
    }

    /// Ends the line of what was written of an answer.
    fn end_line(&self) -> Result<()> {
        match !self.is_json && !self.text.is_empty() && !self.status.is_shown() {
            true => print::result("\n"),
            false => Ok(()),
        }
    }

    fn end(&mut self, n_tokens: usize) -> Result<()> {
        self.end_line()?;
        let rounded = |x: f64| (x * 1e3).round() / 1e3;
        let [from_s, to_s] = self.times_s.map(rounded);
        let first_token_ms = self.first_token_ms.take();
        if let Some(ms) = first_token_ms {
            self.say(&format!("first token {ms:.0} ms after the end of speech was decided"));
        }
        self.turns.push(json!({
            "from_s": from_s,
            "to_s": to_s,
            "picture_tokens": std::mem::take(&mut self.n_picture),
            "text": std::mem::take(&mut self.text).trim(),
            "tool_calls": std::mem::take(&mut self.calls),
            "answer_tokens": n_tokens,
            "first_token_ms": first_token_ms.map(rounded),
        }));
        Ok(())
    }

    /// Says what is going on, where no line shows it.
    fn tell(&mut self, doing: &str) {
        if !self.status.is_shown() {
            print::say(doing);
        }
    }

    fn finish(self, counts: Value) -> Result<()> {
        match self.is_json {
            true => print::json(&json!({ "turns": self.turns, "counts": counts })),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_sound_is_loud() {
        let lengths = [0.0, 1e-3, 0.0317, 1.0, 7.0].map(|level| bar(level).len());
        assert_eq!(lengths, [0, 0, 10, 20, 20]);
    }
}
