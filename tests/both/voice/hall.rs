//! Where a conversation by voice is held: a microphone, a clock, and all that happened.
//!
//! In: a scene, sounds. Out: events, which are also the scene's trace.

use culet::ErrorKind;
use culet::Frame;
use culet::Result;
use culet::assistant::Input;
use culet::assistant::Key;
use serde_json::Value;
use serde_json::json;

use crate::both::scene;
use crate::both::scene::RATE_HZ;
use crate::both::scene::Trace;
use crate::both::scene::pcm;
use crate::both::side::path;
use crate::both::voice::side::Manner;
use crate::both::voice::side::Place;
use crate::both::voice::side::Spoken;
use crate::both::voice::side::Voice;

/// A packet of 32 ms.
const PACKET: usize = 512;
const NS_PER_SAMPLE: u64 = 1_000_000_000 / RATE_HZ as u64;
/// Polls in which one question is answered, at least.
const POLLS_MAX: usize = 20_000;

/// A conversation whose clock is the sound that was pushed.
pub(crate) struct Hall<V> {
    voice: V,
    n_pushed: u64,
    trace: Trace,
    /// All that was polled but the rests between.
    pub(crate) log: Vec<(Place, Spoken)>,
}

/// Returns a held-out sound and some silence behind it.
pub(crate) fn question(index: usize) -> Vec<f32> {
    let mut samples = scene::question(index);
    samples.resize(samples.len() + RATE_HZ, 0.0);
    samples
}

impl<V: Voice> Hall<V> {
    /// Begins a conversation that may call the tools of the shipped model.
    pub(crate) fn new(trace: Trace, engine: &V::Engine, manner: &Manner<'_, V::Engine>) -> Self {
        let tools = std::fs::read_to_string(path("tiny/tools.json")).unwrap();
        let tools: Value = serde_json::from_str(&tools).unwrap();
        let voice = V::new(engine, manner, &json!({ "tools": tools }), 7).unwrap();
        Self { voice, n_pushed: 0, trace, log: Vec::new() }
    }

    fn now_ns(&self) -> u64 {
        7 + self.n_pushed * NS_PER_SAMPLE
    }

    /// Polls once; what happened is noted, and so is a refusal.
    pub(crate) fn try_poll(&mut self) -> Result<Spoken> {
        let polled = self.voice.poll(self.now_ns());
        if let Err(error) = &polled {
            self.trace.borrow_mut().push(format!("refused: {:?}", error.kind()));
        }
        let (place, spoken) = polled?;
        if ![Spoken::Nothing, Spoken::Idle].contains(&spoken) {
            self.trace.borrow_mut().push(format!("{place:?}: {spoken:?}"));
            self.log.push((place, spoken.clone()));
        }
        Ok(spoken)
    }

    /// Polls until there is nothing to do.
    #[track_caller]
    pub(crate) fn rest(&mut self) {
        for _ in 0..POLLS_MAX {
            if self.try_poll().unwrap() == Spoken::Idle {
                return;
            }
        }
        panic!("no rest after {POLLS_MAX} polls");
    }

    /// Hands a packet over, which a poll then hears.
    pub(crate) fn hand(&mut self, samples: &[f32]) {
        self.voice.push(&pcm(samples)).unwrap();
        self.n_pushed += samples.len() as u64;
    }

    /// Hears a sound packet by packet.
    #[track_caller]
    pub(crate) fn hear(&mut self, samples: &[f32]) {
        for packet in samples.chunks(PACKET) {
            self.hand(packet);
            self.rest();
        }
    }

    /// Hears the rest of a sound after somebody asked to stop, which one poll says.
    #[track_caller]
    pub(crate) fn hear_stopped(&mut self, samples: &[f32]) {
        self.voice.cancel();
        let mut n_cancelled = 0;
        for packet in samples.chunks(PACKET) {
            self.hand(packet);
            if let Err(error) = self.try_poll() {
                assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
                n_cancelled += 1;
            }
        }
        assert_eq!(n_cancelled, 1);
        self.rest();
    }

    #[track_caller]
    pub(crate) fn tell(&mut self, input: Input) {
        self.voice.tell(self.now_ns(), input).unwrap();
        self.rest();
    }

    #[track_caller]
    pub(crate) fn press(&mut self, key: Key) {
        self.tell(Input::Key(key));
    }

    pub(crate) fn show(&mut self, frame: &Frame) {
        self.voice.show(frame).unwrap();
    }

    pub(crate) fn results(&mut self, results: &Value) -> Result<()> {
        self.voice.results(self.now_ns(), results)
    }

    #[track_caller]
    pub(crate) fn leave_calls(&mut self) {
        self.voice.leave_calls(self.now_ns()).unwrap();
        self.rest();
    }

    pub(crate) fn conversation(&mut self) -> Value {
        self.voice.conversation()
    }

    /// Returns how often something happened.
    pub(crate) fn n(&self, is_it: impl Fn(&Spoken) -> bool) -> usize {
        self.log.iter().filter(|(_, spoken)| is_it(spoken)).count()
    }

    pub(crate) fn n_turns(&self) -> usize {
        self.n(|spoken| matches!(spoken, Spoken::Turn { .. }))
    }

    /// Returns the places that were changed to.
    pub(crate) fn places(&self) -> Vec<Place> {
        let changed = self.log.iter().filter(|(_, spoken)| *spoken == Spoken::Place);
        changed.map(|(place, _)| *place).collect()
    }

    /// Returns the calls that were told first.
    pub(crate) fn calls(&self) -> Value {
        let calls = self.log.iter().find_map(|(_, spoken)| match spoken {
            Spoken::Calls(calls) => Some(calls.clone()),
            _ => None,
        });
        calls.expect("a tool is called")
    }

    /// Returns answer, text and end of each piece that was said.
    pub(crate) fn said(&self) -> Vec<(u32, String, usize)> {
        let said = self.log.iter().filter_map(|(_, spoken)| match spoken {
            Spoken::Say { answer, text, end_bytes } => Some((*answer, text.clone(), *end_bytes)),
            _ => None,
        });
        said.collect()
    }
}
