//! The side of Rust: a talk, and what its host keeps of it.
//!
//! In: the calls of a `Voice`. Out: `culet::assistant::Talk`'s events.

use std::collections::VecDeque;
use std::sync::Arc;

use culet::Error;
use culet::Frame;
use culet::Pcm;
use culet::Result;
use culet::assistant::BargeIn;
use culet::assistant::Input;
use culet::assistant::Lookout;
use culet::assistant::Phrase;
use culet::assistant::State;
use culet::assistant::Talk;
use culet::assistant::TalkEvent;
use culet::assistant::TalkSink;
use culet::assistant::TurnOptions;
use culet::engine::Engine;
use culet::ggml::Cancel;
use culet::ggml::DType;
use culet::session::Session;
use culet::session::SessionOptions;
use culet::text::Content;
use culet::text::Conversation;
use serde_json::Value;

use crate::both::scene::greedy;
use crate::both::voice::side::Manner;
use crate::both::voice::side::Place;
use crate::both::voice::side::Spoken;
use crate::both::voice::side::TOKENS_MAX;
use crate::both::voice::side::Voice;
use crate::both::voice::side::Wake;

/// A talk of Rust.
pub(crate) struct NativeVoice {
    talk: Talk,
    events: Events,
    /// Whether the calls that wait were told.
    has_told_calls: bool,
    cancels: Vec<Cancel>,
}

struct Events {
    waiting: VecDeque<(Place, Spoken)>,
    place: Place,
    /// The newest picture that nobody looked at.
    picture: Option<Frame>,
}

/// Returns options of the session that answers.
pub(crate) fn session_options() -> SessionOptions {
    SessionOptions { kv: DType::F16, ..greedy(2048) }
}

fn lookout(own: &Arc<Engine>, wake: &Wake<'_, Arc<Engine>>) -> Result<Lookout> {
    let small = wake.listener.unwrap_or(own);
    let options = Lookout::options(small.decoder().hparams().n_ctx_train);
    Lookout::new(Session::new(small, &options)?, Phrase::new(wake.phrase)?)
}

fn place(talk: &Talk) -> Place {
    match talk.state() {
        State::Asleep => Place::Asleep,
        State::Deaf => Place::Deaf,
        State::Listening | State::Overhearing if !talk.is_awake() => Place::Uncalled,
        State::Listening | State::Overhearing => Place::Listening,
        State::Hearing => Place::Hearing,
        State::Guessing => Place::Guessing,
        State::Answering => Place::Answering,
    }
}

impl Events {
    fn push(&mut self, spoken: Spoken) {
        self.waiting.push_back((self.place, spoken));
    }

    fn add(&mut self, event: TalkEvent<'_>) {
        let spoken = match event {
            TalkEvent::SpeechBegan { at_s, picture } => {
                picture.set(self.picture.take());
                Spoken::Speech { from_s: at_s }
            }
            TalkEvent::Looked { n_tokens } => Spoken::Looked { n_tokens },
            TalkEvent::EndGuessed => Spoken::Guess,
            TalkEvent::TakenBack { n_wasted } => Spoken::TakenBack { n_tokens: n_wasted },
            TalkEvent::Discarded => Spoken::Discarded,
            TalkEvent::TurnEnded { from_s, to_s, .. } => Spoken::Turn { from_s, to_s },
            TalkEvent::FirstToken => Spoken::FirstToken,
            TalkEvent::Said { answer, text, end_bytes } => {
                Spoken::Say { answer, text: text.to_owned(), end_bytes }
            }
            TalkEvent::Silence => Spoken::Silence,
            TalkEvent::AnswerEnded { n_tokens } => Spoken::End { n_tokens },
            TalkEvent::OpenMicrophone => Spoken::OpenMicrophone,
            TalkEvent::Woken => Spoken::Woken,
            // The new place says it.
            TalkEvent::Asleep => return,
        };
        self.push(spoken);
    }
}

impl NativeVoice {
    /// Lets the talk do something; after an error it forgets the turn under way.
    fn work(
        &mut self,
        now_ns: u64,
        body: impl FnOnce(&mut Talk, &mut TalkSink<'_>) -> Result<()>,
    ) -> Result<()> {
        let Self { talk, events, cancels, .. } = self;
        let mut add = |event: TalkEvent<'_>| {
            events.add(event);
            Ok(())
        };
        let mut result = body(talk, &mut add);
        if result.is_err() {
            cancels.iter().for_each(Cancel::reset);
            result = talk.recover(now_ns, &mut add).and(result);
        }
        let place = place(talk);
        if events.place != place {
            events.place = place;
            events.push(Spoken::Place);
        }
        result
    }

    /// Does one piece of what waits, and tells calls once.
    fn advance(&mut self, now_ns: u64) -> Result<bool> {
        let mut has_worked = false;
        self.work(now_ns, |talk, events| {
            has_worked = talk.poll(now_ns, events)?;
            Ok(())
        })?;
        let calls: Vec<Value> = self.talk.calls().iter().map(|call| call.to_json()).collect();
        let is_waiting = !calls.is_empty();
        if is_waiting && !self.has_told_calls {
            self.events.push(Spoken::Calls(Value::Array(calls)));
        }
        self.has_told_calls = is_waiting;
        Ok(has_worked)
    }
}

impl Voice for NativeVoice {
    type Engine = Arc<Engine>;

    fn new(
        engine: &Self::Engine,
        manner: &Manner<'_, Self::Engine>,
        opening: &Value,
        now_ns: u64,
    ) -> Result<Self> {
        let session = Session::new(engine, &session_options())?;
        let mut cancels = vec![session.cancel().clone()];
        let turn = TurnOptions {
            mode: manner.mode,
            barge_in: if manner.is_aloud { BargeIn::Voice } else { BargeIn::Key },
            needs_phrase: manner.wake.is_some(),
            follow_up_ms: manner.wake.as_ref().map_or(0, |wake| wake.follow_up_ms),
            ..TurnOptions::default()
        };
        let turn = turn.within(session.n_ctx());
        let opening = Conversation::from_json(opening)?;
        let answers = (manner.is_aloud, TOKENS_MAX.0);
        let mut talk = Talk::new(session, opening, &turn, answers, now_ns)?;
        talk.see(TOKENS_MAX.1);
        if let Some(wake) = &manner.wake {
            let lookout = lookout(engine, wake)?;
            cancels.push(lookout.session().cancel().clone());
            talk.wake_by(lookout);
        }
        let place = Place::Listening;
        let events = Events { waiting: VecDeque::new(), place, picture: None };
        let mut voice = Self { talk, events, has_told_calls: false, cancels };
        voice.work(now_ns, |_, _| Ok(()))?;
        Ok(voice)
    }

    fn push(&mut self, pcm: &Pcm) -> Result<()> {
        self.talk.push(pcm)
    }

    fn show(&mut self, frame: &Frame) -> Result<()> {
        self.events.picture = Some(frame.clone());
        Ok(())
    }

    fn tell(&mut self, now_ns: u64, input: Input) -> Result<()> {
        self.work(now_ns, |talk, events| {
            if !matches!(input, Input::Played { .. }) {
                talk.listen_all(now_ns, events)?;
            }
            talk.tell(now_ns, input, events)
        })
    }

    fn results(&mut self, now_ns: u64, results: &Value) -> Result<()> {
        let results = results.as_array().ok_or_else(|| Error::input("no array of results"))?;
        if results.is_empty() || results.len() != self.talk.calls().len() {
            return Err(Error::input("as many results as calls"));
        }
        let results = results.iter().cloned().map(Content::Value).collect();
        self.has_told_calls = false;
        self.work(now_ns, |talk, _| talk.results(results))
    }

    fn leave_calls(&mut self, now_ns: u64) -> Result<()> {
        self.has_told_calls = false;
        self.work(now_ns, |talk, events| talk.leave_calls(now_ns, events))
    }

    fn poll(&mut self, now_ns: u64) -> Result<(Place, Spoken)> {
        let has_worked = self.events.waiting.is_empty() && self.advance(now_ns)?;
        let none = if has_worked { Spoken::Nothing } else { Spoken::Idle };
        Ok(self.events.waiting.pop_front().unwrap_or((self.events.place, none)))
    }

    fn conversation(&mut self) -> Value {
        self.talk.conversation().to_json()
    }

    fn cancel(&self) {
        self.cancels.iter().for_each(Cancel::cancel);
    }
}
