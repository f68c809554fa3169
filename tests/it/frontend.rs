//! The frontend against numbers made by transformers.
//! In: `tests/golden/`. Out: pass or fail.

use std::path::PathBuf;
use std::time::Instant;

use culet::ErrorKind;
use culet::Frame;
use culet::frontend::Patches;
use culet::frontend::pixels;
use culet::source::SoundFile;

fn golden(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The picture of `tests/golden/pixels/make.py`: gradients, stripes and noise.
fn picture(width: u32, height: u32) -> Frame {
    let mut rgb = Vec::new();
    for y in 0..u64::from(height) {
        for x in 0..u64::from(width) {
            for c in 0..3 {
                let noise = mix((y * u64::from(width) + x) * 3 + c) % 64;
                let smooth = x * 255 / u64::from(width) + y / 16 % 2 * 128 + c * 40;
                rgb.push(((smooth + noise) % 256) as u8);
            }
        }
    }
    Frame::new(width, height, rgb).unwrap()
}

fn checksum(values: impl Iterator<Item = u64>) -> u64 {
    let terms = (0..).zip(values).map(|(at, v)| mix(at).wrapping_mul(v + 1));
    terms.fold(0, u64::wrapping_add)
}

#[test]
fn resized_pictures_equal_the_reference_bit_for_bit() {
    let mut failures = Vec::new();
    let mut n_pictures = 0;
    for line in golden("pixels/resized.csv").lines().skip(1) {
        let cells: Vec<u64> = line.split(',').map(|cell| cell.parse().unwrap()).collect();
        let (width, height, budget) = (cells[0] as u32, cells[1] as u32, cells[2] as u32);
        let source = picture(width, height);
        let (to_width, to_height) = pixels::target_size(width, height, budget).unwrap();
        assert_eq!([to_width, to_height].map(u64::from), cells[3..5], "{line}");
        let start = Instant::now();
        let resized = pixels::resize(&source, to_width, to_height).unwrap();
        println!("{width}x{height} -> {to_width}x{to_height}: {:?}", start.elapsed());
        let patches = Patches::from_frame(&source, budget).unwrap();
        assert_eq!(patches.n_soft_tokens() as u64, cells[5], "{line}");
        let pixels = checksum(resized.rgb().iter().map(|&v| u64::from(v)));
        let bits = checksum(patches.data.iter().map(|v| u64::from(v.to_bits())));
        if [pixels, bits] != cells[6..8] {
            failures.push(line.to_owned());
        }
        n_pictures += 1;
    }
    assert!(failures.is_empty(), "{} of {n_pictures} differ: {failures:#?}", failures.len());
    assert!(n_pictures >= 30);
}

/// Returns amplitude and phase-free error of a tone in a sound, away from its ends.
fn amplitude_at(samples: &[f32], rate_hz: u32, tone_hz: f64) -> f64 {
    let (mut re, mut im) = (0.0, 0.0);
    let inner = &samples[samples.len() / 8..samples.len() - samples.len() / 8];
    let mut weights = 0.0;
    for (n, &sample) in inner.iter().enumerate() {
        let turn = std::f64::consts::TAU * n as f64;
        let weight = 0.5 - 0.5 * (turn / inner.len() as f64).cos();
        let (sin, cos) = (turn * tone_hz / f64::from(rate_hz)).sin_cos();
        re += weight * cos * f64::from(sample);
        im += weight * sin * f64::from(sample);
        weights += weight;
    }
    2.0 * f64::hypot(re, im) / weights
}

#[test]
fn every_sound_format_is_read() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sounds");
    let (mut n_sounds, mut failures) = (0, Vec::new());
    let mut paths: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if ["README.md", "make.sh", "mono.opus"].contains(&name.as_str()) {
            continue;
        }
        n_sounds += 1;
        let bytes = std::fs::read(&path).unwrap();
        for sound in [SoundFile::open(&path), SoundFile::from_bytes(bytes)] {
            let sound = match sound {
                Ok(sound) => sound,
                Err(e) => {
                    failures.push(format!("{name}: {e}"));
                    continue;
                }
            };
            let rate_hz = sound.rate_hz();
            let samples: Vec<f32> = sound.flat_map(|block| block.unwrap().samples).collect();
            let seconds = samples.len() as f64 / f64::from(rate_hz);
            let amplitude = amplitude_at(&samples, rate_hz, 440.0);
            if !(0.2..0.4).contains(&seconds) || (amplitude - 0.5).abs() > 0.05 {
                failures.push(format!("{name}: {rate_hz} Hz, {seconds} s, amplitude {amplitude}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(n_sounds >= 20);
}

#[test]
fn opus_is_refused_with_a_remedy() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sounds");
    let e = SoundFile::open(&folder.join("mono.opus")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.to_string().contains("convert it"), "{e}");
}
