//! The threads of a conversation with devices: one reads the microphone, one speaks.
//! In: names of devices, a voice, pieces to say. Out: what was heard and how far was spoken.
//! Invariant: the reader waits for nobody but its device; sound that nobody takes is counted.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::Sender;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::TryRecvError;
use std::sync::mpsc::TrySendError;
use std::sync::mpsc::channel;
use std::sync::mpsc::sync_channel;
use std::thread::Builder;
use std::time::Duration;
use std::time::Instant;

use crate::assistant::event::Input;
use crate::error::Error;
use crate::error::Result;
use crate::frontend::EchoCanceller;
use crate::frontend::Resampler;
use crate::media::Pcm;
use crate::sink::ClauseCutter;
use crate::sink::Scissors;
use crate::sink::Speaker;
use crate::sink::Synthesizer;
use crate::sink::Tap;
use crate::source::Microphone;

/// How often devices in use are looked after.
const TURN: Duration = Duration::from_millis(10);
/// How often a speaker is looked after that has nothing to play.
const IDLE_TURN: Duration = Duration::from_millis(200);
/// Blocks that may wait: 30 s of `TURN`.
const BLOCKS_MAX: usize = 3000;
/// Wait before a lost speaker is first opened again; doubles up to `REOPEN_MAX`.
const REOPEN_MIN: Duration = Duration::from_millis(500);
const REOPEN_MAX: Duration = Duration::from_secs(8);

/// What the microphone's thread tells.
#[derive(Debug)]
pub enum Heard {
    /// Sound.
    Sound(Pcm),
    /// So many samples were lost.
    Lost(u64),
    /// The device failed; the thread has ended.
    Gone(Error),
}

/// A microphone that is read on a thread of its own until this is dropped.
pub struct Ears(Receiver<Heard>);

impl fmt::Debug for Ears {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ears")
    }
}

impl Ears {
    /// Opens a microphone by name, or the default one; `echo` is taken out of what it hears.
    ///
    /// # Errors
    /// As for [`Microphone::open`].
    pub fn open(name: Option<String>, echo: Option<Echo>) -> Result<Self> {
        Self::with(echo, move || Microphone::open(name.as_deref()))
    }

    /// Listens to a microphone that `open` gives, for example one without a device.
    ///
    /// # Errors
    /// Whatever `open` brings.
    pub fn with(
        echo: Option<Echo>,
        open: impl FnOnce() -> Result<Microphone> + Send + 'static,
    ) -> Result<Self> {
        let (sender, receiver) = sync_channel(BLOCKS_MAX);
        let (opened, is_open) = sync_channel(1);
        // Some systems want a stream to stay on the thread that opened it.
        let read = move || match open().and_then(|microphone| Ok((microphone, Cleaner::new(echo)?)))
        {
            Ok((microphone, cleaner)) => {
                let _ = opened.send(Ok(()));
                read(microphone, cleaner, &sender);
            }
            Err(e) => {
                let _ = opened.send(Err(e));
            }
        };
        start("microphone", read)?;
        is_open.recv().unwrap_or_else(|_| Err(Error::internal("the microphone's thread ended")))?;
        Ok(Self(receiver))
    }

    /// Returns all that was heard since the last call; waits for the first of it.
    ///
    /// Sound that follows on sound is one piece. Nothing comes after [`Heard::Gone`].
    pub fn take(&self, wait: Duration) -> Vec<Heard> {
        let mut all: Vec<Heard> = Vec::new();
        let mut next = match self.0.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => return all,
            Err(RecvTimeoutError::Disconnected) => Err(TryRecvError::Disconnected),
            Ok(heard) => Ok(heard),
        };
        for _ in 0..BLOCKS_MAX {
            match next {
                Ok(heard) => join(&mut all, heard),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    if !matches!(all.last(), Some(Heard::Gone(_))) {
                        all.push(Heard::Gone(Error::internal("the microphone's thread ended")));
                    }
                    break;
                }
            }
            next = self.0.try_recv();
        }
        all
    }
}

/// Appends to what was heard.
fn join(all: &mut Vec<Heard>, heard: Heard) {
    match (all.last_mut(), heard) {
        (Some(Heard::Sound(pcm)), Heard::Sound(more)) if pcm.rate_hz == more.rate_hz => {
            pcm.samples.extend(more.samples);
        }
        (Some(Heard::Lost(n)), Heard::Lost(more)) => *n += more,
        (_, heard) => all.push(heard),
    }
}

fn start(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = Builder::new().name(name.to_owned()).spawn(body);
    started.map(drop).map_err(|e| Error::internal("a thread cannot be started").with_source(e))
}

/// What a speaker plays, on its way to whoever takes it out of what a microphone hears.
#[derive(Clone)]
pub struct Echo(Arc<Hush>);

impl fmt::Debug for Echo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Echo")
    }
}

impl Echo {
    /// Returns what was played since the last call; nothing while the speaker is lost.
    fn take(&self) -> Option<Pcm> {
        self.0.tap().as_mut().map(Tap::read).filter(|pcm| !pcm.samples.is_empty())
    }
}

/// Cleans what is heard, if an echo is to be taken out of it.
struct Cleaner(Option<(Echo, EchoCanceller)>);

impl Cleaner {
    fn new(echo: Option<Echo>) -> Result<Self> {
        // From the first time on that it is asked for, what is played is kept.
        echo.iter().for_each(|echo| drop(echo.take()));
        echo.map(|echo| Ok((echo, EchoCanceller::new()?))).transpose().map(Self)
    }

    fn clean(&mut self, heard: Pcm) -> Result<Pcm> {
        let Some((echo, canceller)) = &mut self.0 else { return Ok(heard) };
        echo.take().map_or(Ok(()), |pcm| canceller.play(&pcm))?;
        if heard.samples.is_empty() { Ok(heard) } else { canceller.hear(&heard) }
    }
}

fn read(mut microphone: Microphone, mut cleaner: Cleaner, sender: &SyncSender<Heard>) {
    let (mut n_lost, mut n_told) = (0, 0);
    loop {
        let heard = match microphone.read().and_then(|pcm| cleaner.clean(pcm)) {
            Ok(pcm) if pcm.samples.is_empty() => {
                std::thread::sleep(TURN);
                continue;
            }
            Ok(pcm) => pcm,
            Err(e) => {
                let _ = sender.send(Heard::Gone(e));
                return;
            }
        };
        let n_samples = heard.samples.len() as u64;
        match sender.try_send(Heard::Sound(heard)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => n_lost += n_samples,
            Err(TrySendError::Disconnected(_)) => return,
        }
        let n_all = n_lost + microphone.n_lost();
        if n_all > n_told && sender.try_send(Heard::Lost(n_all - n_told)).is_ok() {
            n_told = n_all;
        }
    }
}

/// A piece to say.
struct Ask {
    answer: u32,
    text: String,
    end_bytes: usize,
    /// Silences that were asked for before it.
    n_silences: u64,
}

/// Silence that was asked for, and what brings it about at once.
#[derive(Default)]
struct Hush {
    n_silences: AtomicU64,
    scissors: Mutex<Scissors>,
    tap: Mutex<Option<Tap>>,
}

impl Hush {
    fn n_silences(&self) -> u64 {
        self.n_silences.load(Ordering::Acquire)
    }

    /// Follows a speaker that was just opened.
    fn follow(&self, speaker: &mut Speaker) {
        *self.scissors() = speaker.scissors();
        *self.tap() = speaker.tap();
    }

    fn tap(&self) -> MutexGuard<'_, Option<Tap>> {
        self.tap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scissors(&self) -> MutexGuard<'_, Scissors> {
        self.scissors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A voice that speaks on a thread of its own.
pub struct Mouth {
    asks: Sender<Ask>,
    spoken: Receiver<Result<Input>>,
    hush: Arc<Hush>,
}

impl fmt::Debug for Mouth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mouth")
    }
}

impl Mouth {
    /// Opens a speaker by name, or the default one, for a voice.
    ///
    /// # Errors
    /// As for [`Speaker::open`].
    pub fn open(name: Option<String>, voice: Box<dyn Synthesizer>) -> Result<Self> {
        Self::with(voice, move || Speaker::open(name.as_deref()))
    }

    /// Speaks into a speaker that `open` gives, for example one without a device; if it is lost,
    /// `open` is asked for it again, ever more rarely.
    ///
    /// # Errors
    /// Whatever `open` brings at first.
    pub fn with(
        voice: Box<dyn Synthesizer>,
        mut open: impl FnMut() -> Result<Speaker> + Send + 'static,
    ) -> Result<Self> {
        let (asks, asked) = channel();
        let (tell, spoken) = channel();
        let (opened, is_open) = sync_channel(1);
        let hush = Arc::new(Hush::default());
        let shared = Arc::clone(&hush);
        let speak = move || match open() {
            Ok(speaker) => {
                let mut speaking = Speaking::new(voice, speaker, shared, tell);
                let _ = opened.send(Ok(()));
                speaking.run(&asked, &mut open, REOPEN_MIN);
            }
            Err(e) => {
                let _ = opened.send(Err(e));
            }
        };
        start("speaker", speak)?;
        is_open.recv().unwrap_or_else(|_| Err(Error::internal("the speaker's thread ended")))?;
        Ok(Self { asks, spoken, hush })
    }

    /// Says a piece of an answer that ends at a byte of it, behind what it says already.
    pub fn say(&self, answer: u32, text: &str, end_bytes: usize) {
        let (text, n_silences) = (text.to_owned(), self.hush.n_silences());
        let _ = self.asks.send(Ask { answer, text, end_bytes, n_silences });
    }

    /// Returns what the speaker plays, for [`Ears`] that may hear it.
    pub fn echo(&self) -> Echo {
        Echo(Arc::clone(&self.hush))
    }

    /// Falls silent at once and forgets what it was to say.
    pub fn silence(&self) {
        self.hush.n_silences.fetch_add(1, Ordering::AcqRel);
        self.hush.scissors().cut();
    }

    /// Returns what the machine is to be told: how far was spoken, or that the speaker is lost or
    /// back.
    ///
    /// # Errors
    /// Why nothing more is spoken, once; then [`Input::SpeakerLost`] follows.
    pub fn poll(&self) -> Result<Option<Input>> {
        match self.spoken.try_recv() {
            Ok(told) => told.map(Some),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Ok(None),
        }
    }
}

/// The speaking thread's own.
struct Speaking {
    voice: Box<dyn Synthesizer>,
    speaker: Speaker,
    hush: Arc<Hush>,
    /// Silences that were kept.
    n_silences: u64,
    tell: Sender<Result<Input>>,
    /// Samples that do not fit into the speaker yet.
    queue: VecDeque<f32>,
    /// Where in all that the speaker ever gets each piece ends, and the piece.
    ends: VecDeque<(u64, u32, usize)>,
}

impl Speaking {
    fn new(
        voice: Box<dyn Synthesizer>,
        mut speaker: Speaker,
        hush: Arc<Hush>,
        tell: Sender<Result<Input>>,
    ) -> Self {
        hush.follow(&mut speaker);
        let n_silences = hush.n_silences();
        let (queue, ends) = (VecDeque::new(), VecDeque::new());
        Self { voice, speaker, hush, n_silences, tell, queue, ends }
    }

    /// Speaks until nobody asks any more.
    fn run(
        &mut self,
        asked: &Receiver<Ask>,
        open: &mut dyn FnMut() -> Result<Speaker>,
        reopen_min: Duration,
    ) {
        while let Err(e) = self.speak(asked) {
            let _ = self.tell.send(Err(e));
            let _ = self.tell.send(Ok(Input::SpeakerLost));
            let Some(mut speaker) = reopened(asked, open, reopen_min) else { return };
            self.hush.follow(&mut speaker);
            self.forget();
            self.speaker = speaker;
            let _ = self.tell.send(Ok(Input::SpeakerBack));
        }
    }

    fn speak(&mut self, asked: &Receiver<Ask>) -> Result<()> {
        loop {
            let turn = if self.ends.is_empty() { IDLE_TURN } else { TURN };
            match asked.recv_timeout(turn) {
                Ok(ask) => self.say(&ask)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.obey();
            self.feed()?;
            self.report();
        }
    }

    fn forget(&mut self) {
        self.queue.clear();
        self.ends.clear();
    }

    /// Keeps the silence that was asked for since the last call.
    fn obey(&mut self) {
        let n_silences = self.hush.n_silences();
        if self.n_silences != n_silences {
            self.n_silences = n_silences;
            self.forget();
            // Sound may have got into the speaker behind the first cut.
            self.speaker.scissors().cut();
        }
    }

    /// Says a piece clause by clause, until silence is asked for.
    fn say(&mut self, ask: &Ask) -> Result<()> {
        self.obey();
        let mut cutter = ClauseCutter::new();
        let mut clauses = cutter.push(&ask.text);
        clauses.extend(cutter.finish());
        if clauses.is_empty() {
            self.end(ask.answer, ask.end_bytes);
        }
        let from = ask.end_bytes.saturating_sub(ask.text.len());
        let n_clauses = clauses.len();
        for (i, clause) in clauses.into_iter().enumerate() {
            if ask.n_silences != self.n_silences {
                break;
            }
            let samples = self.sound(&clause.text)?;
            self.obey();
            if ask.n_silences == self.n_silences {
                self.queue.extend(samples);
                let is_last = i + 1 == n_clauses;
                let end_bytes = if is_last { ask.end_bytes } else { from + clause.end_bytes };
                self.end(ask.answer, end_bytes);
                self.feed()?;
                self.report();
            }
        }
        Ok(())
    }

    /// Notes that all that waits now belongs to the answer up to here.
    fn end(&mut self, answer: u32, end_bytes: usize) {
        let at = self.speaker.n_queued() + self.queue.len() as u64;
        self.ends.push_back((at, answer, end_bytes));
    }

    fn sound(&mut self, text: &str) -> Result<Vec<f32>> {
        let pcm = self.voice.say(text)?;
        let mut resampler = Resampler::between(pcm.rate_hz, self.speaker.rate_hz())?;
        let mut samples = resampler.push(&pcm.samples)?;
        samples.extend(resampler.finish()?);
        Ok(samples)
    }

    fn feed(&mut self) -> Result<()> {
        let n = self.speaker.play(self.queue.make_contiguous())?;
        self.queue.drain(..n);
        Ok(())
    }

    /// Tells of the pieces that were played to their end.
    fn report(&mut self) {
        let n_done = self.speaker.n_done();
        while let Some(&(at, answer, to_bytes)) = self.ends.front() {
            if at > n_done {
                break;
            }
            self.ends.pop_front();
            let _ = self.tell.send(Ok(Input::Played { answer, to_bytes }));
        }
    }
}

/// Opens a lost speaker again; none if nobody asks any more. What is asked meanwhile is not said.
fn reopened(
    asked: &Receiver<Ask>,
    open: &mut dyn FnMut() -> Result<Speaker>,
    reopen_min: Duration,
) -> Option<Speaker> {
    let mut wait = reopen_min;
    loop {
        let start = Instant::now();
        loop {
            match asked.recv_timeout(wait.saturating_sub(start.elapsed())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        match open() {
            Ok(speaker) => return Some(speaker),
            Err(e) => log::debug!("the speaker is not back yet: {e}"),
        }
        wait = (2 * wait).min(REOPEN_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::speaker::SpeakerFeed;

    /// Says 100 samples for each byte, and may be interrupted while it does.
    struct Voice(Option<Arc<Hush>>);

    impl Synthesizer for Voice {
        fn say(&mut self, text: &str) -> Result<Pcm> {
            assert!(text.len() <= crate::sink::speech::SPOKEN_BYTES_MAX);
            if let Some(hush) = &self.0 {
                hush.n_silences.fetch_add(1, Ordering::AcqRel);
            }
            let samples = vec![0.5; 100 * text.len()];
            Ok(Pcm { samples, rate_hz: 16_000, captured_at_ns: 0 })
        }
    }

    fn speaking() -> (Speaking, SpeakerFeed, Receiver<Result<Input>>, Arc<Hush>) {
        let (speaker, feed) = Speaker::null(16_000).expect("in range");
        let (tell, told) = channel();
        let hush = Arc::new(Hush::default());
        let voice = Box::new(Voice(None));
        (Speaking::new(voice, speaker, Arc::clone(&hush), tell), feed, told, hush)
    }

    fn ask(answer: u32, text: &str, end_bytes: usize, n_silences: u64) -> Ask {
        Ask { answer, text: text.to_owned(), end_bytes, n_silences }
    }

    fn played(told: &Receiver<Result<Input>>) -> Vec<(u32, usize)> {
        let played = |told: Result<Input>| match told {
            Ok(Input::Played { answer, to_bytes }) => (answer, to_bytes),
            other => panic!("{other:?}"),
        };
        told.try_iter().map(played).collect()
    }

    #[test]
    fn pieces_are_told_when_their_last_sample_was_played() {
        let (mut speaking, mut feed, told, _) = speaking();
        let mut play = |speaking: &mut Speaking, n: usize| {
            let n_sound = feed.fill(&mut vec![0.0; n]);
            speaking.feed().expect("open");
            speaking.report();
            n_sound
        };
        speaking.say(&ask(1, "Hello.", 6, 0)).expect("open");
        assert_eq!(play(&mut speaking, 300), 300);
        // The second piece comes while the first is played, and must wait for its own end.
        speaking.say(&ask(1, " It is late now.", 22, 0)).expect("open");
        assert_eq!(play(&mut speaking, 299), 299);
        assert_eq!(played(&told), []);
        assert_eq!(play(&mut speaking, 1), 1);
        assert_eq!(played(&told), [(1, 6)]);
        let n_rest = play(&mut speaking, 100_000);
        assert!((1_000..=1_600).contains(&n_rest), "{n_rest}");
        assert_eq!(played(&told).last(), Some(&(1, 22)));
        assert!(speaking.ends.is_empty());
    }

    #[test]
    fn long_texts_are_said_in_pieces_and_to_their_end() {
        let (mut speaking, mut feed, told, _) = speaking();
        let text = "word ".repeat(2_000);
        speaking.say(&ask(7, &text, 10_000, 0)).expect("open");
        let mut n_sound = 0;
        while !speaking.ends.is_empty() {
            n_sound += feed.fill(&mut [0.0; 10_000]);
            speaking.feed().expect("open");
            speaking.report();
        }
        let told = played(&told);
        assert!(n_sound > 700_000 && told.len() > 20, "{n_sound} samples, {} ends", told.len());
        assert!(told.is_sorted() && told.last() == Some(&(7, 10_000)));
    }

    #[test]
    fn silence_does_not_wait_for_what_was_asked_before() {
        let (mut speaking, mut feed, told, hush) = speaking();
        speaking.say(&ask(1, "Hello there.", 12, 0)).expect("open");
        assert_eq!(feed.fill(&mut [0.0; 100]), 100);
        hush.n_silences.fetch_add(1, Ordering::AcqRel);
        hush.scissors.lock().unwrap().cut();
        // The device falls silent before the thread has looked.
        assert_eq!(feed.fill(&mut [0.0; 100]), 0);
        speaking.say(&ask(1, " It goes on.", 24, 0)).expect("open");
        speaking.report();
        assert_eq!(feed.fill(&mut [0.0; 100]), 0);
        assert_eq!((played(&told), speaking.queue.len()), (vec![], 0));
        speaking.say(&ask(2, "New.", 4, 1)).expect("open");
        assert_eq!(feed.fill(&mut [0.0; 500]), 400);
        speaking.report();
        assert_eq!(played(&told), [(2, 4)]);
    }

    #[test]
    fn silence_holds_back_what_is_being_turned_into_sound() {
        let (mut speaking, mut feed, told, hush) = speaking();
        speaking.voice = Box::new(Voice(Some(hush)));
        speaking.say(&ask(1, "Hello there. It is late. So it is.", 34, 0)).expect("open");
        speaking.feed().expect("open");
        speaking.report();
        assert_eq!(feed.fill(&mut [0.0; 100]), 0);
        assert_eq!(played(&told), []);
    }

    #[test]
    fn a_lost_speaker_is_opened_again() {
        let (mut speaking, feed, told, hush) = speaking();
        let (asks, asked) = channel();
        drop(feed);
        let mut n_tries = 0;
        let (new, mut new_feed) = Speaker::null(16_000).expect("in range");
        let mut new = Some(new);
        let mut open = || {
            n_tries += 1;
            let speaker = if n_tries < 3 { None } else { new.take() };
            asks.send(ask(2, "Back.", 5, 0)).expect("somebody listens");
            speaker.ok_or_else(|| Error::device("speaker \"null\": is gone"))
        };
        let speaker = speaking.speak(&asked).err().and_then(|e| {
            assert!(e.to_string().contains("is gone"), "{e}");
            reopened(&asked, &mut open, Duration::ZERO)
        });
        speaking.speaker = speaker.expect("the third try opens it");
        *hush.scissors.lock().unwrap() = speaking.speaker.scissors();
        drop(asks);
        assert!(speaking.speak(&asked).is_ok(), "ends when nobody asks");
        assert_eq!(n_tries, 3);
        assert_eq!(new_feed.fill(&mut [0.0; 1_000]), 500);
        speaking.report();
        assert_eq!(played(&told).last(), Some(&(2, 5)));
    }

    #[test]
    fn all_that_waits_is_taken_at_once() {
        let (sender, receiver) = sync_channel(10);
        let ears = Ears(receiver);
        let sound =
            |rate_hz, n| Heard::Sound(Pcm { samples: vec![0.1; n], rate_hz, captured_at_ns: 0 });
        assert!(ears.take(Duration::ZERO).is_empty());
        let gone = Heard::Gone(Error::device("microphone: is gone"));
        let all = [sound(16_000, 3), sound(16_000, 4), Heard::Lost(2), Heard::Lost(3)];
        for heard in all.into_iter().chain([sound(16_000, 5), sound(48_000, 6), gone]) {
            sender.try_send(heard).expect("it fits");
        }
        drop(sender);
        let found: Vec<String> =
            ears.take(Duration::ZERO).iter().map(|h| format!("{h:?}")).collect();
        assert_eq!(found.len(), 5, "{found:?}");
        for (found, part) in
            found.iter().zip(["7 samples", "Lost(5)", "5 samples", "48000", "gone"])
        {
            assert!(found.contains(part), "{found} lacks {part}");
        }
        assert!(matches!(ears.take(Duration::ZERO)[..], [Heard::Gone(_)]));
    }

    #[test]
    fn a_microphone_is_heard_from_its_own_thread() {
        let (microphone, mut writer) = Microphone::null(16_000).expect("in range");
        let ears = Ears::with(None, move || Ok(microphone)).expect("open");
        writer.write([0.25; 100]);
        let mut n = 0;
        while n < 100 {
            for heard in ears.take(TURN) {
                match heard {
                    Heard::Sound(pcm) => n += pcm.samples.len(),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(n, 100);
        assert!(Ears::with(None, || Err(Error::device("none is there"))).is_err());
    }
}
