//! Plays a behaviour on a side, and writes down what the side answered.
//!
//! In: a behaviour. Out: its trace: counts, events, kinds of refusals, checksums of logits.
//! Invariant: what is written down does not depend on the side.

use std::cell::RefCell;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::rc::Rc;

use culet::ErrorKind;
use culet::Frame;
use culet::Pcm;
use culet::Result;
use culet::ggml::DType;
use culet::sampler::SamplingOptions;
use culet::session::SessionOptions;
use culet::session::Stats;
use culet::source::SoundFile;
use culet::text::Stop;
use culet::whole::Checksum;

use crate::both::side::Files;
use crate::both::side::Said;
use crate::both::side::Side;
use crate::both::side::path;
use crate::both::voice::hall::Hall;
use crate::both::voice::side::Manner;
use crate::random::Rng;

/// Same maths in another order, through encoder and decoder in float32.
pub(crate) const KERNEL: f64 = 1e-4;
pub(crate) const RATE_HZ: usize = 16_000;
/// Events of one answer, at least.
const EVENTS_MAX: usize = 1000;

/// What a side answered, a line each.
pub(crate) type Trace = Rc<RefCell<Vec<String>>>;

/// A place where behaviours are played by one side.
pub(crate) struct Scene<S> {
    trace: Trace,
    side: PhantomData<S>,
}

/// A session whose calls must succeed, unless [`refuses`](Self::refuses) says otherwise.
pub(crate) struct Run<S> {
    side: S,
    trace: Trace,
}

/// Fails at the first line in which two traces differ.
pub(crate) fn compare(traces: &[Vec<String>]) {
    for pair in traces.windows(2) {
        let n = pair[0].iter().zip(&pair[1]).take_while(|(a, b)| a == b).count();
        assert!(pair[0] == pair[1], "line {n}: {:?} and {:?}", pair[0].get(n), pair[1].get(n));
    }
    assert!(traces.iter().all(|trace| !trace.is_empty()), "nothing was asked");
}

/// Returns options of a small context that always take the best token.
pub(crate) fn greedy(n_ctx: usize) -> SessionOptions {
    let sampling = SamplingOptions::greedy();
    SessionOptions { n_ctx, n_batch: 64, kv: DType::F32, sampling }
}

/// Returns a tone that rises and falls, with some noise.
pub(crate) fn sound(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Rng(seed);
    let mut sample = |i: usize| {
        let t = i as f32 / RATE_HZ as f32;
        let noise = (random.next() % 1000) as f32 / 1000.0 - 0.5;
        0.3 * (t * (900.0 + 500.0 * (t * 3.0).sin())).sin() + 0.02 * noise
    };
    (0..n).map(&mut sample).collect()
}

/// Returns a sound that the shipped model was not trained with.
pub(crate) fn question(index: usize) -> Vec<f32> {
    let file = path(&format!("tiny/heldout/sounds/seen{index:02}.flac"));
    SoundFile::open(&file).unwrap().flat_map(|block| block.unwrap().samples).collect()
}

/// Returns a picture of which no two rows are the same.
pub(crate) fn picture(side: u32, seed: u8) -> Frame {
    let byte = |i: u32| (i % 251) as u8 ^ seed;
    Frame::new(side, side, (0..3 * side * side).map(byte).collect()).unwrap()
}

pub(crate) fn pcm(samples: &[f32]) -> Pcm {
    Pcm { samples: samples.to_vec(), rate_hz: RATE_HZ as u32, captured_at_ns: 0 }
}

#[track_caller]
fn refused<T>(trace: &Trace, result: Result<T>, kind: ErrorKind, word: &str) {
    let error = result.err().unwrap_or_else(|| panic!("{word}: not refused"));
    let text = error.to_string();
    assert!(error.kind() == kind && text.contains(word), "{kind:?}, {word}: {text}");
    trace.borrow_mut().push(format!("refused: {kind:?}"));
}

impl<S: Side> Scene<S> {
    /// Plays a behaviour and returns its trace.
    pub(crate) fn play(behaviour: impl FnOnce(&Self)) -> Vec<String> {
        let scene = Self { trace: Trace::default(), side: PhantomData };
        behaviour(&scene);
        scene.trace.take()
    }

    pub(crate) fn open(&self, files: Files) -> S::Engine {
        self.open_within(files, None)
    }

    pub(crate) fn open_within(&self, files: Files, memory_bytes_max: Option<u64>) -> S::Engine {
        let engine = S::open(files, memory_bytes_max).unwrap();
        self.trace.borrow_mut().push(format!("senses: {:?}", S::senses(&engine)));
        engine
    }

    pub(crate) fn session(&self, engine: &S::Engine, options: &SessionOptions) -> Run<S> {
        let side = S::new(engine, options).unwrap();
        Run { side, trace: Rc::clone(&self.trace) }
    }

    /// Begins a conversation by voice.
    pub(crate) fn hall(
        &self,
        engine: &S::Engine,
        manner: &Manner<'_, S::Engine>,
    ) -> Hall<S::Assistant> {
        Hall::new(Rc::clone(&self.trace), engine, manner)
    }

    /// Refuses to open files.
    #[track_caller]
    pub(crate) fn refuses_files(&self, files: Files, kind: ErrorKind, word: &str) {
        refused(&self.trace, S::open(files, None), kind, word);
    }

    /// Refuses to make a session.
    #[track_caller]
    pub(crate) fn refuses_options(
        &self,
        (engine, options): (&S::Engine, &SessionOptions),
        kind: ErrorKind,
        word: &str,
    ) {
        refused(&self.trace, S::new(engine, options), kind, word);
    }
}

impl<S: Side> Run<S> {
    fn note(&self, name: &str, value: impl Debug) {
        self.trace.borrow_mut().push(format!("{name}: {value:?}"));
    }

    /// Does what must fail, with a word of what is said then.
    #[track_caller]
    pub(crate) fn refuses<T>(
        &mut self,
        (kind, word): (ErrorKind, &str),
        call: impl FnOnce(&mut S) -> Result<T>,
    ) {
        refused(&self.trace, call(&mut self.side), kind, word);
    }

    pub(crate) fn messages(&mut self, json: &serde_json::Value) {
        self.side.append_messages(&json.to_string()).unwrap();
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.side.append_text(text).unwrap();
    }

    pub(crate) fn show(&mut self, frame: &Frame) {
        self.side.append_picture(frame, 70).unwrap();
    }

    /// Appends a whole sound.
    pub(crate) fn play(&mut self, samples: &[f32]) {
        self.side.append_sound(&pcm(samples)).unwrap();
    }

    #[track_caller]
    pub(crate) fn prompt(&mut self) -> Stats {
        let stats = self.side.prompt().unwrap();
        self.note("prompt", (stats, self.n_past()));
        stats
    }

    #[track_caller]
    pub(crate) fn next(&mut self) -> Said {
        let said = self.side.next().unwrap();
        self.note("next", &said);
        said
    }

    /// Pulls at most `n_max` events and then the end; returns what was said and called, and why
    /// it ended.
    #[track_caller]
    pub(crate) fn answer(&mut self, n_max: usize) -> (String, Stop) {
        let mut all = String::new();
        for n in 0..EVENTS_MAX {
            if n == n_max {
                self.cut();
            }
            match self.next() {
                Said::End(stop) => return (all, stop),
                Said::Answer(text) | Said::Thought(text) | Said::Call(text) => all += &text,
                Said::Nothing | Said::BrokenCall => {}
            }
        }
        panic!("no end after {EVENTS_MAX} events");
    }

    pub(crate) fn cut(&mut self) {
        self.side.cut().unwrap();
    }

    pub(crate) fn clear(&mut self) {
        self.side.clear().unwrap();
    }

    pub(crate) fn cancel(&self) {
        self.side.cancel();
    }

    #[track_caller]
    pub(crate) fn rewind(&mut self, n_messages: usize) {
        self.side.rewind(n_messages).unwrap();
    }

    pub(crate) fn n_messages(&mut self) -> usize {
        let n = self.side.n_messages();
        self.note("messages", n);
        n
    }

    pub(crate) fn n_past(&self) -> usize {
        self.side.n_past()
    }

    pub(crate) fn n_ctx(&self) -> usize {
        self.side.n_ctx()
    }

    pub(crate) fn logits(&mut self) -> Vec<f32> {
        let logits = self.side.logits();
        let mut sum = Checksum::new();
        logits.iter().for_each(|logit| sum.push(&logit.to_le_bytes()));
        self.note("logits", (logits.len(), sum.value()));
        logits
    }

    #[track_caller]
    pub(crate) fn begin_sound(&mut self) -> Stats {
        let stats = self.side.begin_sound().unwrap();
        self.note("begin sound", stats);
        stats
    }

    #[track_caller]
    pub(crate) fn hear(&mut self, samples: &[f32]) {
        self.side.hear(&pcm(samples)).unwrap();
    }

    #[track_caller]
    pub(crate) fn guess_end(&mut self) {
        self.side.guess_end().unwrap();
    }

    #[track_caller]
    pub(crate) fn take_back(&mut self) -> usize {
        let n_wasted = self.side.take_back().unwrap();
        self.note("take back", n_wasted);
        n_wasted
    }

    #[track_caller]
    pub(crate) fn end_sound(&mut self) {
        self.side.end_sound().unwrap();
        self.note("end sound", self.n_past());
    }

    pub(crate) fn drop_sound(&mut self) {
        self.side.drop_sound().unwrap();
    }

    #[track_caller]
    pub(crate) fn snapshot(&mut self) -> Vec<u8> {
        self.side.snapshot().unwrap()
    }

    #[track_caller]
    pub(crate) fn restore(&mut self, bytes: &[u8]) {
        self.side.restore(bytes).unwrap();
        self.note("restore", self.n_past());
    }

    /// Asks for more, which may be refused.
    pub(crate) fn goes_on_or_refuses(&mut self) {
        let _ = self.side.next();
        let _ = self.side.prompt();
    }

    /// Tells whether these bytes are taken.
    pub(crate) fn tries(&mut self, bytes: &[u8]) -> bool {
        self.side.restore(bytes).is_ok()
    }
}
