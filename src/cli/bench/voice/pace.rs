//! Listening at the pace of a microphone: what idling costs, and whether a long conversation loses
//! sound or gathers memory.
//!
//! In: an engine that hears, a sound. Out: rows.
//! Invariant: the way of the live program, from the ring of a device's callback to the cache; only
//! the callback is a thread of ours.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use culet::Error;
use culet::Result;
use culet::assistant::Counters;
use culet::assistant::Input;
use culet::assistant::Talk;
use culet::assistant::TalkEvent;
use culet::assistant::TurnOptions;
use culet::assistant::driver::Ears;
use culet::assistant::driver::Heard;
use culet::engine::Engine;
use culet::source::Microphone;
use culet::source::SoundFile;
use culet::text::Conversation;

use crate::cli::bench::machine;
use crate::cli::bench::machine::Memory;
use crate::cli::bench::random::Random;
use crate::cli::bench::report::Case;
use crate::cli::bench::report::Row;
use crate::cli::bench::voice::deaf;
use crate::cli::bench::voice::session;

/// How long nothing is said, to see what listening costs.
const IDLE: Duration = Duration::from_secs(10);
const TURN: Duration = Duration::from_millis(10);
const QUIET_RATE_HZ: u32 = 48_000;
/// Loudness of a quiet room.
const NOISE: f32 = 2e-3;
/// Silence after a sound that is said again and again.
const REST_SECONDS: u32 = 4;
/// Most tokens of an answer.
const ANSWER_TOKENS: usize = 16;

/// A microphone in a room where something may be said.
struct Room {
    is_over: Arc<AtomicBool>,
    n_given: Arc<AtomicU64>,
    callback: Option<JoinHandle<()>>,
    ears: Ears,
}

/// What was heard in it.
struct Heed {
    n_heard: u64,
    n_lost: u64,
    n_given: u64,
    counters: Counters,
    /// Memory that is no file's after a tenth and half of the time, and at its end.
    anon_mib: Vec<f64>,
    seconds: f64,
    cpu_seconds: Option<f64>,
}

/// Measures what listening to a quiet room costs.
pub(super) fn idle(engine: &Arc<Engine>) -> Result<Option<Row>> {
    let heed = heed(engine, QUIET_RATE_HZ, Vec::new(), IDLE)?;
    if heed.n_lost > 0 {
        return Err(Error::internal(format!("{} samples were lost while idle", heed.n_lost)));
    }
    if heed.counters.guesses > 0 || heed.counters.turns > 0 {
        return Err(Error::internal("speech was heard in a quiet room"));
    }
    let Some(cpu_seconds) = heed.cpu_seconds else { return Ok(None) };
    let percent = cpu_seconds / heed.seconds * 100.0;
    let row = Row::new(Case::IdleCpuPercent, None, None, &[percent], &[]);
    Ok(Some(Row { seconds: Some(IDLE.as_secs() as usize), ..row }))
}

/// Says a sound again and again for so many minutes, and answers it.
///
/// # Errors
/// Of the sound's file; `Internal` if samples are neither heard nor counted as lost.
pub(in crate::cli::bench) fn soak(
    engine: &Arc<Engine>,
    path: &Path,
    minutes: u16,
) -> Result<Vec<Row>> {
    if !engine.hears() {
        return Err(deaf());
    }
    let sound = SoundFile::open(path)?;
    let rate_hz = sound.rate_hz();
    let mut samples = Vec::new();
    for pcm in sound {
        samples.extend(pcm?.samples);
    }
    let length = Duration::from_secs(60 * u64::from(minutes));
    let heed = heed(engine, rate_hz, samples, length)?;
    if heed.n_heard + heed.n_lost != heed.n_given {
        let (heard, given) = (heed.n_heard, heed.n_given);
        let what = format!("{heard} of {given} samples heard, {} said lost", heed.n_lost);
        return Err(Error::internal(what));
    }
    let row = |case, value: f64| Row {
        seconds: Some(length.as_secs() as usize),
        ..Row::new(case, None, None, &[value], &[])
    };
    let mut rows = vec![
        row(Case::SoakLostSamples, heed.n_lost as f64),
        row(Case::SoakTurns, heed.counters.turns as f64),
    ];
    if let [tenth, half, end] = heed.anon_mib[..] {
        rows.push(row(Case::SoakEarlyGrowthMib, half - tenth));
        rows.push(row(Case::SoakGrowthMib, end - half));
    }
    Ok(rows)
}

/// Listens for so long to a room in which a sound is said again and again, if it has samples.
fn heed(engine: &Arc<Engine>, rate_hz: u32, samples: Vec<f32>, length: Duration) -> Result<Heed> {
    let (opening, options) = (Conversation::new(Vec::new()), TurnOptions::default());
    let mut talk = Talk::new(session(engine)?, opening, &options, (false, ANSWER_TOKENS), 0)?;
    let mut room = Room::open(rate_hz, samples)?;
    let (cpu, start) = (machine::cpu_seconds(), Instant::now());
    let (mut n_heard, mut n_lost) = (0, 0);
    let mut anon_mib = Vec::new();
    let mut seconds = 0.0;
    let mut is_over = false;
    while !is_over {
        if start.elapsed() >= length && seconds == 0.0 {
            seconds = start.elapsed().as_secs_f64();
            room.close();
        }
        let marks = [length / 10, length / 2];
        if marks.get(anon_mib.len()).is_some_and(|&mark| start.elapsed() >= mark) {
            anon_mib.extend(Memory::now().map(|m| m.anon_mib));
        }
        let now_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let all = room.ears.take(2 * TURN);
        // What waits when the room is closed is heard to its end.
        is_over = seconds > 0.0 && all.is_empty() && start.elapsed() > length + 100 * TURN;
        for heard in all {
            match heard {
                Heard::Sound(pcm) => {
                    n_heard += pcm.samples.len() as u64;
                    talk.push(&pcm)?;
                }
                Heard::Lost(n) => {
                    n_lost += n;
                    let n_samples = u32::try_from(n).unwrap_or(u32::MAX);
                    talk.tell(now_ns, Input::SamplesLost { n_samples }, &mut |_| Ok(()))?;
                }
                Heard::Gone(e) => return Err(e),
            }
        }
        answer(&mut talk, now_ns)?;
    }
    let n_given = room.n_given();
    let cpu_seconds = cpu.zip(machine::cpu_seconds()).map(|(before, after)| after - before);
    anon_mib.extend(Memory::now().map(|m| m.anon_mib));
    let counters = talk.counters();
    Ok(Heed { n_heard, n_lost, n_given, counters, anon_mib, seconds, cpu_seconds })
}

/// Hears what waits, and makes an answer to its end; calls are left alone.
fn answer(talk: &mut Talk, now_ns: u64) -> Result<()> {
    let mut nobody = |_: TalkEvent<'_>| Ok(());
    talk.listen_all(now_ns, &mut nobody)?;
    while talk.step(now_ns, &mut nobody)? {}
    if !talk.calls().is_empty() {
        talk.leave_calls(now_ns, &mut nobody)?;
    }
    talk.tell(now_ns, Input::Tick, &mut nobody)
}

impl Room {
    /// Opens a microphone to which a thread writes at its pace.
    fn open(rate_hz: u32, samples: Vec<f32>) -> Result<Self> {
        let (microphone, mut writer) = Microphone::null(rate_hz)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let n_given = Arc::new(AtomicU64::new(0));
        let (ends, given) = (Arc::clone(&is_over), Arc::clone(&n_given));
        let rest = if samples.is_empty() { 1 } else { (REST_SECONDS * rate_hz) as usize };
        let period = samples.len() + rest;
        let mut random = Random(1);
        let callback = std::thread::spawn(move || {
            let (start, mut n) = (Instant::now(), 0_u64);
            while !ends.load(Ordering::Relaxed) {
                let due = (start.elapsed().as_secs_f64() * f64::from(rate_hz)) as u64;
                let said = |i: u64| samples.get(i as usize % period).copied().unwrap_or(0.0);
                writer.write((n..due).map(|i| said(i) + NOISE * (random.unit() - 0.5)));
                n = due;
                given.store(n, Ordering::Relaxed);
                std::thread::sleep(TURN);
            }
        });
        let ears = Ears::with(None, move || Ok(microphone))?;
        Ok(Self { is_over, n_given, callback: Some(callback), ears })
    }

    fn close(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(callback) = self.callback.take() {
            let _ = callback.join();
        }
    }

    /// Returns how many samples were written so far.
    fn n_given(&self) -> u64 {
        self.n_given.load(Ordering::Relaxed)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.close();
    }
}
