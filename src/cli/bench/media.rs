//! Speed of the encoders: a picture, and a sound.
//!
//! In: an engine with an mmproj, and the peer's encoders. Out: rows.
//! Invariant: every sample is of new content, so that nothing is found in a cache; a sample
//! counts only if both sides made as many soft tokens.

use std::f32::consts::TAU;
use std::sync::Arc;
use std::time::Instant;

use culet::Error;
use culet::Frame;
use culet::Pcm;
use culet::Result;
use culet::engine::Engine;
use culet::session::Session;
use culet::session::SessionOptions;

use crate::cli::bench::peer::Media;
use crate::cli::bench::random::Random;
use crate::cli::bench::report::Case;
use crate::cli::bench::report::Row;

/// Soft tokens of a picture.
pub(super) const PICTURE_TOKENS: u32 = 280;
/// Sides of a picture that has just as many without being stretched.
const PICTURE_SIDES: [u32; 2] = [960, 672];
const SOUND_SECONDS: usize = 10;
const SOUND_RATE_HZ: u32 = 16_000;
/// Soft tokens of a sound may differ by this many at its end.
const SOUND_TOKENS_APART_MAX: usize = 2;

/// Measures what the mmproj can do.
pub(super) fn measure(
    engine: &Arc<Engine>,
    mut peer: Option<&mut Media>,
    n_repeat: usize,
) -> Result<Vec<Row>> {
    let options = SessionOptions { n_ctx: 512, ..SessionOptions::default() };
    let mut session = Session::new(engine, &options)?;
    let mut rows = Vec::new();
    if engine.sees() {
        rows.push(pictures(&mut session, peer.as_deref_mut(), n_repeat)?);
    }
    if engine.hears() {
        rows.push(sounds(&mut session, peer, n_repeat)?);
    }
    Ok(rows)
}

fn pictures(session: &mut Session, mut peer: Option<&mut Media>, n: usize) -> Result<Row> {
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    // The first is for warming up.
    for i in 0..=n {
        let frame = frame(i as u64)?;
        let start = Instant::now();
        let encoded = session.encode_picture(&frame, PICTURE_TOKENS)?;
        ours.push(start.elapsed().as_secs_f64() * 1e3);
        if let Some(peer) = peer.as_deref_mut() {
            let start = Instant::now();
            let n_tokens = peer.picture(&frame)?;
            peers.push(start.elapsed().as_secs_f64() * 1e3);
            check("picture", encoded.n_tokens(), n_tokens, 0)?;
        }
    }
    let n_tokens = Some(PICTURE_TOKENS as usize);
    Ok(Row::new(Case::PictureMs, n_tokens, None, &ours[1..], peers.get(1..).unwrap_or_default()))
}

fn sounds(session: &mut Session, mut peer: Option<&mut Media>, n: usize) -> Result<Row> {
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    let seconds = SOUND_SECONDS as f64;
    for i in 0..=n {
        let samples = sound(i as u64);
        let start = Instant::now();
        let pcm = Pcm { samples: samples.clone(), rate_hz: SOUND_RATE_HZ, captured_at_ns: 0 };
        let encoded = session.encode_sound([Ok(pcm)])?;
        ours.push(start.elapsed().as_secs_f64() / seconds);
        if let Some(peer) = peer.as_deref_mut() {
            let start = Instant::now();
            let n_tokens = peer.sound(&samples)?;
            peers.push(start.elapsed().as_secs_f64() / seconds);
            check("sound", encoded.n_tokens(), n_tokens, SOUND_TOKENS_APART_MAX)?;
        }
    }
    let peers = peers.get(1..).unwrap_or_default();
    Ok(Row::new(Case::SoundRtf, Some(SOUND_SECONDS), None, &ours[1..], peers))
}

fn check(what: &str, ours: usize, peers: usize, apart_max: usize) -> Result<()> {
    if ours.abs_diff(peers) <= apart_max {
        return Ok(());
    }
    Err(Error::internal(format!("a {what} has {ours} soft tokens, with llama.cpp {peers}")))
}

/// Returns a picture of smooth colours and some noise.
fn frame(seed: u64) -> Result<Frame> {
    let mut random = Random(seed);
    let [width, height] = PICTURE_SIDES;
    let mut rgb = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            let noise = (random.next() & 31) as u32;
            rgb.extend([x / 4 + noise, y / 4 + noise, (x + y) / 8 + noise].map(|v| v as u8));
        }
    }
    Frame::new(width, height, rgb)
}

/// Returns a gliding tone and some noise.
fn sound(seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let tone = |i: usize| {
        let t = i as f32 / SOUND_RATE_HZ as f32;
        (TAU * t * (200.0 + 40.0 * t)).sin() * 0.3
    };
    let n = SOUND_SECONDS * SOUND_RATE_HZ as usize;
    (0..n).map(|i| tone(i) + 0.02 * (random.unit() - 0.5)).collect()
}
