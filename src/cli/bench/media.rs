//! Speed of the encoders: a picture, and a sound.
//!
//! In: an engine with an mmproj, and the peer. Out: rows, one for each budget of a picture.
//! Invariant: every sample is of new content, so that nothing is found in a cache; a sample
//! counts only if both sides made as many soft tokens.

use std::f32::consts::TAU;
use std::path::Path;
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
use crate::cli::bench::peer::Peer;
use crate::cli::bench::random::Random;
use crate::cli::bench::report::Case;
use crate::cli::bench::report::Row;
use crate::cli::bench::speed::Wanted;

/// Sides of pictures that have just as many soft tokens as a budget, without being stretched.
const PICTURE_SIDES: [(u32, [u32; 2]); 5] = [
    (70, [480, 336]),
    (140, [672, 480]),
    (280, [960, 672]),
    (560, [1344, 960]),
    (1120, [1920, 1344]),
];
const SOUND_SECONDS: usize = 10;
pub(super) const SOUND_RATE_HZ: u32 = 16_000;
/// Soft tokens of a sound may differ by this many at its end.
const SOUND_TOKENS_APART_MAX: usize = 2;

/// Measures what the mmproj can do.
pub(super) fn measure(
    engine: &Arc<Engine>,
    mmproj: &Path,
    peer: Option<&Peer>,
    wanted: &Wanted,
) -> Result<Vec<Row>> {
    let options = SessionOptions { n_ctx: 512, ..SessionOptions::default() };
    let mut session = Session::new(engine, &options)?;
    // The peer's encoders are made for one size of picture.
    let open = |n_soft| peer.map(|p| p.media(mmproj, wanted.n_threads, n_soft)).transpose();
    let n = wanted.n_repeat;
    let mut rows = Vec::new();
    if engine.sees() {
        for &n_soft in &wanted.pictures {
            rows.push(pictures(&mut session, open(n_soft)?.as_mut(), n_soft, n)?);
        }
    }
    if engine.hears() {
        rows.push(sounds(&mut session, open(PICTURE_SIDES[0].0)?.as_mut(), n)?);
    }
    Ok(rows)
}

fn pictures(
    session: &mut Session,
    mut peer: Option<&mut Media>,
    n_soft: u32,
    n: usize,
) -> Result<Row> {
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    // The first is for warming up.
    for i in 0..=n {
        let frame = frame(i as u64, n_soft)?;
        let start = Instant::now();
        let encoded = session.encode_picture(&frame, n_soft)?;
        ours.push(start.elapsed().as_secs_f64() * 1e3);
        if let Some(peer) = peer.as_deref_mut() {
            let start = Instant::now();
            let n_tokens = peer.picture(&frame)?;
            peers.push(start.elapsed().as_secs_f64() * 1e3);
            check("picture", encoded.n_tokens(), n_tokens, 0)?;
        }
    }
    let n_soft = Some(n_soft as usize);
    Ok(Row::new(Case::PictureMs, n_soft, None, &ours[1..], peers.get(1..).unwrap_or_default()))
}

fn sounds(session: &mut Session, mut peer: Option<&mut Media>, n: usize) -> Result<Row> {
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    let seconds = SOUND_SECONDS as f64;
    for i in 0..=n {
        let samples = sound(i as u64, SOUND_SECONDS);
        let start = Instant::now();
        let pcm = Pcm { samples: samples.clone(), rate_hz: SOUND_RATE_HZ, captured_at_ns: 0 };
        let encoded = session.encode_sound([Ok(pcm)])?;
        ours.push(start.elapsed().as_secs_f64() / seconds);
        if let Some(peer) = peer.as_deref_mut() {
            let start = Instant::now();
            let n_tokens = peer.sound(&samples)?;
            peers.push(start.elapsed().as_secs_f64() / seconds);
            check_sound(encoded.n_tokens(), n_tokens)?;
        }
    }
    let peers = peers.get(1..).unwrap_or_default();
    Ok(Row::new(Case::SoundRtf, Some(SOUND_SECONDS), None, &ours[1..], peers))
}

/// Compares the soft tokens of a sound.
///
/// # Errors
/// `Internal` if both sides made another number.
pub(super) fn check_sound(ours: usize, peers: usize) -> Result<()> {
    check("sound", ours, peers, SOUND_TOKENS_APART_MAX)
}

fn check(what: &str, ours: usize, peers: usize, apart_max: usize) -> Result<()> {
    if ours.abs_diff(peers) <= apart_max {
        return Ok(());
    }
    Err(Error::internal(format!("a {what} has {ours} soft tokens, with llama.cpp {peers}")))
}

/// Returns a picture of smooth colours and some noise that has `n_soft` soft tokens.
///
/// # Errors
/// `Input` if that is no budget.
pub(super) fn frame(seed: u64, n_soft: u32) -> Result<Frame> {
    let mut random = Random(seed);
    let sides = PICTURE_SIDES.iter().find(|(n, _)| *n == n_soft).map(|(_, sides)| *sides);
    let [width, height] = sides
        .ok_or_else(|| Error::input(format!("a picture of {n_soft} soft tokens; give a budget")))?;
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
pub(super) fn sound(seed: u64, seconds: usize) -> Vec<f32> {
    let mut random = Random(seed);
    let tone = |i: usize| {
        let t = i as f32 / SOUND_RATE_HZ as f32;
        (TAU * t * (200.0 + 40.0 * t)).sin() * 0.3
    };
    let n = seconds * SOUND_RATE_HZ as usize;
    (0..n).map(|i| tone(i) + 0.02 * (random.unit() - 0.5)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use culet::frontend::Patches;

    #[test]
    fn pictures_have_as_many_tokens_as_their_budget() {
        for (n_soft, [width, height]) in PICTURE_SIDES {
            let frame = frame(1, n_soft).unwrap();
            assert_eq!((frame.width(), frame.height()), (width, height));
            let patches = Patches::from_frame(&frame, n_soft).unwrap();
            assert_eq!(patches.n_soft_tokens(), n_soft as usize);
        }
        assert!(frame(1, 100).is_err());
    }
}
