//! Speed of speech: from its end to the first token and the first sound, and streaming.
//!
//! In: an engine that hears, and the peer. Out: rows.
//! Invariant: every sample is of new sound, and both sides make as many soft tokens of it; what
//! comes before the user's words is in the cache already.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use culet::Error;
use culet::Pcm;
use culet::Result;
use culet::assistant::driver::Mouth;
use culet::encoder::AudioStream;
use culet::engine::Engine;
use culet::frontend::MelStream;
use culet::ggml::Backend;
use culet::session::Session;
use culet::sink::ClauseCutter;
use culet::sink::Espeak;
use culet::sink::Speaker;
use culet::text::Conversation;
use culet::text::Event;
use serde_json::json;

use crate::cli::bench::media::SOUND_RATE_HZ;
use crate::cli::bench::media::check_sound;
use crate::cli::bench::media::sound;
use crate::cli::bench::peer::Media;
use crate::cli::bench::peer::Peer;
use crate::cli::bench::peer::Timeline;
use crate::cli::bench::report::Case;
use crate::cli::bench::report::Row;
use crate::cli::bench::speed::Wanted;
use crate::cli::bench::voice::N_CTX;
use crate::cli::bench::voice::deaf;
use crate::cli::bench::voice::pace;
use crate::cli::bench::voice::session;
use crate::cli::print;

/// Soft tokens of a picture, which the peer's encoders want to know.
const N_PICTURE: u32 = 280;
/// Samples of a packet: 20 ms, as devices give them.
const PACKET_SAMPLES: usize = SOUND_RATE_HZ as usize / 50;
/// A length is measured whole and shorter by so much, so often: the encoder's last block of 480 ms,
/// which is computed when speech ends, is then a quarter, half, three quarters and quite full.
const PHASES: usize = 4;
const PHASE_SAMPLES: usize = SOUND_RATE_HZ as usize * 120 / 1_000;
/// Tokens that are spoken if no clause ends earlier.
const CLAUSE_TOKENS_MAX: usize = 12;
/// Sound before an answer that is spoken.
const SPOKEN_SECONDS: usize = 5;
const SPEAKER_RATE_HZ: u32 = 48_000;
/// Longest wait for a voice.
const VOICE_WAIT: Duration = Duration::from_secs(10);

/// The peer's encoders and its timeline.
type Peers<'a> = (Media, Timeline<'a>);

/// Measures sounds of so many seconds.
pub(in crate::cli::bench) fn measure(
    engine: &Arc<Engine>,
    mmproj: Option<&Path>,
    peer: Option<&Peer>,
    seconds: &[usize],
    wanted: &Wanted,
) -> Result<Vec<Row>> {
    let Some(mmproj) = mmproj.filter(|_| engine.hears()) else {
        return Err(deaf());
    };
    let (n_threads, n_repeat) = (wanted.n_threads, wanted.n_repeat);
    let mut peers = peer.map(|peer| open(peer, mmproj, n_threads)).transpose()?;
    let mut bench = Bench { session: session(engine)?, conversation: question()?, seed: 1 };
    let mut rows = Vec::new();
    // The first is for warming up.
    let shortest = seconds.iter().copied().min().unwrap_or(1);
    bench.streamed(samples_of(shortest))?;
    bench.whole(samples_of(shortest), &mut peers)?;
    for &n in seconds {
        rows.extend(bench.speech_end(n, &mut peers, n_repeat)?);
    }
    rows.extend(bench.speech_end_parts(n_repeat)?);
    match Espeak::new(None) {
        Ok(voice) => rows.push(bench.first_sound(&voice, n_repeat)?),
        Err(e) => print::say(&format!("the first sound is not measured: {e}")),
    }
    drop(bench);
    rows.extend(pace::idle(engine)?);
    Ok(rows)
}

fn open<'a>(peer: &'a Peer, mmproj: &Path, n_threads: usize) -> Result<Peers<'a>> {
    Ok((peer.media(mmproj, n_threads, N_PICTURE)?, peer.timeline(N_CTX, n_threads)?))
}

fn question() -> Result<Conversation> {
    Conversation::from_json(&json!({ "messages": [
        { "role": "system", "content": "Answer in one short sentence." },
        { "role": "user", "content": [{ "type": "audio" }] },
    ]}))
}

fn samples_of(seconds: usize) -> usize {
    seconds * SOUND_RATE_HZ as usize
}

fn pcm(samples: &[f32]) -> Pcm {
    Pcm { samples: samples.to_vec(), rate_hz: SOUND_RATE_HZ, captured_at_ns: 0 }
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

struct Bench {
    session: Session,
    conversation: Conversation,
    /// Of the next sound.
    seed: u64,
}

impl Bench {
    fn sound(&mut self, n_samples: usize) -> Vec<f32> {
        self.seed += 1;
        let mut samples = sound(self.seed, n_samples.div_ceil(SOUND_RATE_HZ as usize));
        samples.truncate(n_samples);
        samples
    }

    /// Hears a new sound packet by packet; returns the seconds of work.
    fn hear(&mut self, n_samples: usize) -> Result<f64> {
        let samples = self.sound(n_samples);
        self.session.begin_sound(&self.conversation, &[])?;
        let start = Instant::now();
        for packet in samples.chunks(PACKET_SAMPLES) {
            self.session.hear(&pcm(packet))?;
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// Hears a sound while it comes; returns the milliseconds from its end to the first token, and
    /// the work for a second of it.
    fn streamed(&mut self, n_samples: usize) -> Result<(f64, f64)> {
        let seconds = n_samples as f64 / f64::from(SOUND_RATE_HZ);
        let rtf = self.hear(n_samples)? / seconds;
        let start = Instant::now();
        self.session.end_sound()?;
        self.session.next(&mut |_| {})?;
        Ok((ms(start), rtf))
    }

    /// Hears a sound when it is over, as the peer does; returns both sides' milliseconds.
    fn whole(
        &mut self,
        n_samples: usize,
        peers: &mut Option<Peers<'_>>,
    ) -> Result<(f64, Option<f64>)> {
        let samples = self.sound(n_samples);
        self.session.begin_sound(&self.conversation, &[])?;
        let start = Instant::now();
        self.session.hear(&pcm(&samples))?;
        let encoded = self.session.end_sound()?;
        self.session.next(&mut |_| {})?;
        let ours = ms(start);
        let Some((media, timeline)) = peers else { return Ok((ours, None)) };
        timeline.clear();
        let start = Instant::now();
        let n_soft = timeline.hear(media, &samples)?;
        let theirs = ms(start);
        check_sound(encoded.n_tokens(), n_soft)?;
        Ok((ours, Some(theirs)))
    }

    /// Measures one length at each phase of the last block, as often as was asked and until every
    /// phase was measured alike.
    fn speech_end(
        &mut self,
        seconds: usize,
        peers: &mut Option<Peers<'_>>,
        n_repeat: usize,
    ) -> Result<[Row; 3]> {
        let (mut streamed, mut rtf) = (Vec::new(), Vec::new());
        let (mut whole, mut theirs) = (Vec::new(), Vec::new());
        for i in 0..n_repeat.next_multiple_of(PHASES) {
            let n_samples = samples_of(seconds) - (i % PHASES) * PHASE_SAMPLES;
            let (end_ms, work) = self.streamed(n_samples)?;
            streamed.push(end_ms);
            rtf.push(work);
            let (ours, peer) = self.whole(n_samples, peers)?;
            whole.push(ours);
            theirs.extend(peer);
        }
        let row = |case, ours: &[f64], peers: &[f64]| Row {
            seconds: Some(seconds),
            ..Row::new(case, None, None, ours, peers)
        };
        Ok([
            Row { streamed: Some(true), ..row(Case::SpeechEndMs, &streamed, &theirs) },
            Row { streamed: Some(false), ..row(Case::SpeechEndMs, &whole, &theirs) },
            row(Case::StreamRtf, &rtf, &[]),
        ])
    }

    /// Measures what an end of speech is made of: the encoder's last block, as it is alone, and
    /// choosing the token.
    fn speech_end_parts(&mut self, n_repeat: usize) -> Result<[Row; 2]> {
        let engine = Arc::clone(self.session.engine());
        let mut backend = Backend::new(&engine.options().backend)?;
        let mut stream = AudioStream::new(engine.audio()?, &backend)?;
        let (mut encode, mut sample) = (Vec::new(), Vec::new());
        for i in 0..n_repeat.next_multiple_of(PHASES) {
            let n_samples = samples_of(SPOKEN_SECONDS) - (i % PHASES) * PHASE_SAMPLES;
            let samples = self.sound(n_samples);
            let (mut mel, mut start) = (MelStream::new(), Instant::now());
            stream.reset();
            for packet in samples.chunks(PACKET_SAMPLES) {
                start = Instant::now();
                stream.push(&mel.push(packet)?, &mut backend)?;
            }
            stream.finish(&mut backend)?;
            encode.push(ms(start));
            self.hear(n_samples)?;
            self.session.end_sound()?;
            let start = Instant::now();
            self.session.next(&mut |_| {})?;
            sample.push(ms(start));
        }
        let row = |case, times: &[f64]| Row {
            seconds: Some(SPOKEN_SECONDS),
            streamed: Some(true),
            ..Row::new(case, None, None, times, &[])
        };
        Ok([row(Case::SpeechEndEncodeMs, &encode), row(Case::SpeechEndSampleMs, &sample)])
    }

    /// From the end of speech to the first sample of an answer in the speaker.
    fn first_sound(&mut self, voice: &Espeak, n_repeat: usize) -> Result<Row> {
        let (mut times, mut n_tokens) = (Vec::new(), 0);
        for _ in 0..n_repeat {
            let (speaker, mut feed) = Speaker::null(SPEAKER_RATE_HZ)?;
            let mut speaker = Some(speaker);
            let open = move || speaker.take().ok_or_else(|| Error::device("speaker: is gone"));
            let mouth = Mouth::with(Box::new(voice.clone()), open)?;
            self.hear(samples_of(SPOKEN_SECONDS))?;
            let start = Instant::now();
            self.session.end_sound()?;
            let (text, n) = self.clause()?;
            mouth.say(1, &text, text.len());
            let asked = Instant::now();
            while feed.fill(&mut [0.0; 480]) == 0 {
                std::thread::yield_now();
                if asked.elapsed() > VOICE_WAIT {
                    return Err(Error::device("espeak-ng made no sound; check that it runs"));
                }
            }
            times.push(ms(start));
            n_tokens = n;
        }
        let row = Row::new(Case::FirstSoundMs, Some(n_tokens), None, &times, &[]);
        Ok(Row { seconds: Some(SPOKEN_SECONDS), ..row })
    }

    /// Returns the first clause of an answer, or its first tokens, and how many those are.
    fn clause(&mut self) -> Result<(String, usize)> {
        let mut cutter = ClauseCutter::new();
        let mut text = String::new();
        let mut n_tokens = 0;
        let mut goes_on = true;
        while goes_on && n_tokens < CLAUSE_TOKENS_MAX {
            let mut more = String::new();
            goes_on = self.session.next(&mut |event| {
                if let Event::Answer(part) = event {
                    more.push_str(part);
                }
            })?;
            n_tokens += 1;
            text.push_str(&more);
            if !cutter.push(&more).is_empty() {
                break;
            }
        }
        // Random weights say what no voice can.
        let can_be_said = text.chars().any(|c| c.is_ascii_alphabetic());
        Ok((if can_be_said { text } else { "Yes, of course.".to_owned() }, n_tokens))
    }
}
