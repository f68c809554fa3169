//! The encoders against transformers, in any packets, and with input that does not fit.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use culet::Frame;
use culet::encoder::AudioEncoder;
use culet::encoder::AudioStream;
use culet::encoder::SoftTokens;
use culet::encoder::VisionEncoder;
use culet::frontend::MelFrames;
use culet::frontend::patches::Patches;
use culet::ggml::Backend;
use culet::ggml::BackendOptions;
use culet::gguf::Gguf;
use culet::model::AudioWeights;
use culet::model::EncoderHParams;
use culet::model::VisionWeights;
use serde_json::Value;

use crate::frontend;
use crate::npy;
use crate::random::Rng;
use crate::random::seeds;

/// Norm of the difference over norm that a 32-bit fixture may differ by.
const KERNEL: f64 = 1e-4;
const N_MEL: usize = 128;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn golden(name: &str) -> PathBuf {
    root().join("tests/golden/media").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn backend(n_threads: usize) -> Backend {
    Backend::new(&BackendOptions { n_threads, gpu: None }).unwrap()
}

fn fixture() -> Gguf {
    Gguf::open(&root().join("models/fixtures/media-mmproj.gguf")).unwrap()
}

fn audio(backend: &Backend) -> Arc<AudioEncoder> {
    let file = fixture();
    let hparams = EncoderHParams::read(&file, 32).unwrap();
    let owner = Arc::clone(file.mapping());
    AudioEncoder::new(AudioWeights::bind(&file, owner, &hparams, backend).unwrap()).unwrap()
}

fn vision(backend: &Backend) -> Arc<VisionEncoder> {
    let file = fixture();
    let hparams = EncoderHParams::read(&file, 32).unwrap();
    let owner = Arc::clone(file.mapping());
    VisionEncoder::new(VisionWeights::bind(&file, owner, &hparams, backend).unwrap())
}

fn frames(data: &[f32]) -> MelFrames {
    MelFrames { data: data.to_vec(), n: data.len() / N_MEL }
}

/// Encodes `mel` in packets of at most `packet()` frames.
fn encode(
    stream: &mut AudioStream,
    backend: &mut Backend,
    mel: &[f32],
    mut packet: impl FnMut() -> usize,
) -> SoftTokens {
    let mut tokens = SoftTokens::default();
    let mut rest = mel;
    while !rest.is_empty() {
        let n = packet().min(rest.len() / N_MEL);
        let (now, later) = rest.split_at(n * N_MEL);
        tokens.append(&stream.push(&frames(now), backend).unwrap());
        rest = later;
    }
    tokens.append(&stream.finish(backend).unwrap());
    stream.reset();
    tokens
}

#[test]
fn sounds_equal_the_reference() {
    let mut backend = backend(1);
    let encoder = audio(&backend);
    let mut stream = AudioStream::new(&encoder, &backend).unwrap();
    let mel = npy::read(&golden("sound_mel.npy")).values;
    let soft = npy::read(&golden("sound_soft.npy")).values;
    let cases = json("sounds.json");
    let number = |case: &Value, key: &str| case[key].as_u64().unwrap() as usize;
    for case in cases["beginnings"].as_array().unwrap() {
        let (first, n) = (number(case, "first_mel_row"), number(case, "n_mel"));
        let mel = &mel[first * N_MEL..(first + n) * N_MEL];
        let tokens = encode(&mut stream, &mut backend, mel, || 1000);
        let (first, n) = (number(case, "first_soft_row"), number(case, "n_soft"));
        assert_eq!(tokens.n(), n, "{case}");
        if n > 0 {
            let want = &soft[first * 32..(first + n) * 32];
            let error = npy::relative_error(&tokens.data, want);
            println!("{error:.2e} {case}");
            assert!(error < KERNEL, "{error:.2e} {case}");
        }
    }
}

fn noise(rng: &mut Rng, n_frames: usize) -> Vec<f32> {
    (0..n_frames * N_MEL).map(|_| (rng.next() >> 40) as f32 / (1u64 << 22) as f32 - 3.0).collect()
}

#[test]
fn any_packets_give_the_same_bits() {
    let mut backend = backend(2);
    let encoder = audio(&backend);
    let mut stream = AudioStream::new(&encoder, &backend).unwrap();
    for seed in seeds(4) {
        let mut rng = Rng(seed);
        for tail in 0..4 {
            let n = 4 * rng.below(60) + tail;
            let mel = noise(&mut rng, n);
            let whole = encode(&mut stream, &mut backend, &mel, || usize::MAX);
            assert_eq!(whole.n(), n.div_ceil(4), "SEED={seed}");
            let most = 1 + rng.below(70);
            let parts = encode(&mut stream, &mut backend, &mel, || rng.below(most + 1));
            assert!(whole == parts, "{n} frames, SEED={seed}");
        }
    }
}

#[test]
fn a_guessed_end_can_be_taken_back() {
    let mut backend = backend(1);
    let encoder = audio(&backend);
    let mut stream = AudioStream::new(&encoder, &backend).unwrap();
    let mut rng = Rng(7);
    let mel = noise(&mut rng, 203);
    let whole = encode(&mut stream, &mut backend, &mel, || usize::MAX);
    let mut tokens = SoftTokens::default();
    for (i, packet) in mel.chunks(17 * N_MEL).enumerate() {
        tokens.append(&stream.push(&frames(packet), &mut backend).unwrap());
        let kept = stream.snapshot();
        let heard = (17 * (i + 1)).min(203);
        assert_eq!(stream.n_tokens_at_end(), heard.div_ceil(4));
        let tail = stream.finish(&mut backend).unwrap();
        assert_eq!(tokens.n() + tail.n(), heard.div_ceil(4));
        stream.restore(&kept).unwrap();
    }
    tokens.append(&stream.finish(&mut backend).unwrap());
    assert!(tokens == whole);
}

#[test]
fn no_token_hears_the_future() {
    let mut backend = backend(1);
    let encoder = audio(&backend);
    let mut stream = AudioStream::new(&encoder, &backend).unwrap();
    let mut rng = Rng(11);
    let mel = noise(&mut rng, 130);
    let whole = encode(&mut stream, &mut backend, &mel, || usize::MAX);
    for m in (0..130).step_by(7).chain([1, 2, 3, 4, 5, 47, 48, 49, 128, 129]) {
        let mut other = mel.clone();
        other[m * N_MEL..(m + 1) * N_MEL].iter_mut().for_each(|v| *v += 1.5);
        let changed = encode(&mut stream, &mut backend, &other, || usize::MAX);
        let first = m.saturating_sub(3).div_ceil(4);
        let row = |t: &SoftTokens, i: usize| t.data[i * 32..(i + 1) * 32].to_vec();
        for i in 0..first {
            assert!(row(&whole, i) == row(&changed, i), "frame {m} reached token {i}");
        }
        assert!(row(&whole, first) != row(&changed, first), "frame {m} missed token {first}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut backend = backend(1);
    let encoder = audio(&backend);
    let mut stream = AudioStream::new(&encoder, &backend).unwrap();
    for (len, n) in [(127, 1), (128, 2), (0, 1), (256, usize::MAX)] {
        let mel = MelFrames { data: vec![0.0; len], n };
        assert!(stream.push(&mel, &mut backend).is_err(), "{len} {n}");
    }
    let broken = MelFrames { data: vec![f32::NAN; 128], n: 1 };
    assert!(stream.push(&broken, &mut backend).is_err());
    assert_eq!(stream.finish(&mut backend).unwrap().n(), 0);
    assert!(stream.finish(&mut backend).is_err());
    assert!(stream.push(&MelFrames::default(), &mut backend).is_err());
    stream.reset();
    backend.cancel().cancel();
    let long = frames(&vec![0.0; 100 * N_MEL]);
    assert!(stream.push(&long, &mut backend).is_err());
    assert_eq!(stream.n_tokens_at_end(), 0);
}

/// Opens a picture of the goldens that Pillow opens as RGB without turning it.
fn picture(name: &str) -> Frame {
    let image = image::open(golden("pictures").join(name)).unwrap();
    let image = image.to_rgb8();
    Frame::new(image.width(), image.height(), image.into_raw()).unwrap()
}

#[test]
fn pictures_equal_the_reference() {
    let mut backend = backend(2);
    let encoder = vision(&backend);
    let soft = npy::read(&golden("picture_soft.npy")).values;
    let cases = json("pictures.json");
    let number = |case: &Value, key: &str| case[key].as_u64().unwrap() as usize;
    for case in cases["pictures"].as_array().unwrap() {
        let name = case["file"].as_str().unwrap();
        if case["lossy"].as_bool().unwrap() {
            continue;
        }
        let patches = Patches::from_frame(&picture(name), number(case, "budget") as u32).unwrap();
        assert_eq!(patches.n_x, number(case, "patches_x"), "{case}");
        let tokens = encoder.encode(&patches, &mut backend).unwrap();
        let (first, n) = (number(case, "first_soft_row"), number(case, "n_soft"));
        assert_eq!(tokens.n(), n, "{case}");
        let error = npy::relative_error(&tokens.data, &soft[first * 32..(first + n) * 32]);
        println!("{error:.2e} {case}");
        assert!(error < KERNEL, "{error:.2e} {case}");
    }
}

#[test]
fn pictures_of_many_shapes_equal_the_reference() {
    let mut backend = backend(2);
    let encoder = vision(&backend);
    let wanted = npy::read(&root().join("tests/golden/pixels/soft.npy")).values;
    let lines = frontend::golden("pixels/resized.csv");
    let mut wanted = wanted.chunks_exact(3 * 32);
    let mut n_pictures = 0;
    for line in lines.lines().skip(1) {
        let cells: Vec<u32> = line.split(',').take(3).map(|cell| cell.parse().unwrap()).collect();
        // Long strips fit into the table of positions at a smaller budget.
        let budget = encoder.budget_for((cells[0], cells[1]), cells[2], usize::MAX).unwrap();
        let patches = Patches::from_frame(&frontend::picture(cells[0], cells[1]), budget);
        let soft = encoder.encode(&patches.unwrap(), &mut backend).unwrap();
        let rows = [0, soft.n() / 2, soft.n() - 1].map(|row| &soft.data[row * 32..][..32]);
        let error = npy::relative_error(&rows.concat(), wanted.next().unwrap());
        assert!(error < KERNEL, "{error:.2e} {line}");
        n_pictures += 1;
    }
    assert!(n_pictures >= 30 && wanted.next().is_none(), "{n_pictures}");
}

#[test]
fn grids_that_do_not_fit_are_refused() {
    let mut backend = backend(1);
    let encoder = vision(&backend);
    let grids = [(0, 3), (3, 0), (4, 3), (3, 5), (usize::MAX, 3), (300, 300), (30_000, 3)];
    for (n_x, n_y) in grids {
        let patches = Patches { data: vec![0.5; 9 * 768], n_x, n_y };
        assert!(encoder.encode(&patches, &mut backend).is_err(), "{n_x} x {n_y}");
    }
    for (len, value) in [(9 * 768 - 1, 0.5), (0, 0.5), (9 * 768, f32::INFINITY)] {
        let patches = Patches { data: vec![value; len], n_x: 3, n_y: 3 };
        assert!(encoder.encode(&patches, &mut backend).is_err(), "{len} {value}");
    }
    let patches = Patches { data: vec![0.5; 9 * 768], n_x: 3, n_y: 3 };
    assert_eq!(encoder.encode(&patches, &mut backend).unwrap().n(), 1);
    backend.cancel().cancel();
    assert!(encoder.encode(&patches, &mut backend).is_err());
}
