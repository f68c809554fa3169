//! The frontend against numbers made by transformers.
//! In: `tests/golden/`. Out: pass or fail.

use std::path::PathBuf;
use std::time::Instant;

use culet::ErrorKind;
use culet::Frame;
use culet::frontend::MelStream;
use culet::frontend::Patches;
use culet::frontend::Vad;
use culet::frontend::pixels;
use culet::source::FrameStream;
use culet::source::SoundFile;
use culet::source::image_file;
use culet::source::pixel_format::PixelFormat;
use culet::source::pixel_format::frame_of;

pub(crate) fn golden(name: &str) -> String {
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
pub(crate) fn picture(width: u32, height: u32) -> Frame {
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

/// Largest difference where two decoders round a lossy format otherwise.
const LOSSY: u8 = 4;

#[test]
fn every_picture_format_is_read_as_the_reference_reads_it() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    let (mut n_pictures, mut failures) = (0, Vec::new());
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let Ok(expected) = std::fs::read(path.with_added_extension("rgb")) else { continue };
        n_pictures += 1;
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let bytes = std::fs::read(&path).unwrap();
        let mut frames = vec![image_file::open(&path), image_file::from_bytes(bytes)];
        // A stream paints frames over each other, on black.
        if name != "palette.gif" {
            let stream = FrameStream::open(&path);
            frames.push(stream.and_then(|mut frames| frames.next().unwrap()));
        }
        for frame in frames {
            let frame = match frame {
                Ok(frame) => frame,
                Err(e) => {
                    failures.push(format!("{name}: {e}"));
                    continue;
                }
            };
            let sides = [frame.width(), frame.height()].map(u32::to_le_bytes).concat();
            if sides != expected[..8] {
                failures.push(format!("{name}: {frame:?}"));
                continue;
            }
            let differences = frame.rgb().iter().zip(&expected[8..]).map(|(a, b)| a.abs_diff(*b));
            let largest = differences.max().unwrap();
            let lossy = name.ends_with(".jpg") || name.starts_with("lossy");
            if largest > if lossy { LOSSY } else { 0 } {
                failures.push(format!("{name}: differs by {largest}"));
            }
        }
    }
    failures.sort();
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(n_pictures >= 25);
}

#[test]
fn moving_picture_gives_its_frames_with_their_times() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    let frames = FrameStream::open(&folder.join("moving.gif")).unwrap();
    let frames: Vec<Frame> = frames.collect::<Result<_, _>>().unwrap();
    let times: Vec<u64> = frames.iter().map(|frame| frame.captured_at_ns).collect();
    assert_eq!(times, [0, 80_000_000, 160_000_000]);
    assert!(frames[0].rgb() != frames[1].rgb() && frames[1].rgb() != frames[2].rgb());
}

/// The values behind the header of a `.npy` file, as bytes.
fn npy_bytes(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let n_header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[10 + n_header..].to_vec()
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_str(&golden(name)).unwrap()
}

fn count(value: &serde_json::Value, key: &str) -> usize {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} of {value}")) as usize
}

#[test]
fn mel_frames_equal_the_reference() {
    /// The reference transforms in 32 bits.
    const KERNEL: f32 = 1e-5;
    let media = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/media");
    let sound = SoundFile::open(&media.join("sound.wav")).unwrap();
    assert_eq!(sound.rate_hz(), 16_000);
    let samples: Vec<f32> = sound.flat_map(|block| block.unwrap().samples).collect();
    let bytes = npy_bytes("media/sound_mel.npy");
    let expected: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    for beginning in json("media/sounds.json")["beginnings"].as_array().unwrap() {
        let n_samples = count(beginning, "n_samples");
        let mel = MelStream::new().push(&samples[..n_samples]).unwrap();
        assert_eq!(mel.n, count(beginning, "n_mel"), "{n_samples} samples");
        let first = count(beginning, "first_mel_row") * 128;
        let wanted = &expected[first..first + mel.n * 128];
        let largest = mel.data.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest <= KERNEL, "{n_samples} samples: differs by {largest}");
    }
}

#[test]
fn patches_equal_the_reference() {
    let media = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/media");
    let about = json("media/pictures.json");
    let expected = npy_bytes("media/picture_pixels.npy");
    let mut failures = Vec::new();
    for picture in about["pictures"].as_array().unwrap() {
        let file = picture["file"].as_str().unwrap();
        let budget = count(picture, "budget");
        let frame = image_file::open(&media.join("pictures").join(file)).unwrap();
        let patches = Patches::from_frame(&frame, budget as u32).unwrap();
        assert_eq!(patches.n_x, count(picture, "patches_x"), "{file} at {budget}");
        assert_eq!(patches.n_y, count(picture, "patches_y"), "{file} at {budget}");
        assert_eq!(patches.n_soft_tokens(), count(picture, "n_soft"), "{file} at {budget}");
        let first = count(picture, "first_pixel_row");
        let chosen = patches.data.chunks_exact(768).step_by(count(&about, "patch_step"));
        let mut largest = 0;
        for (patch, wanted) in chosen.zip(expected[first * 768..].chunks_exact(768)) {
            for (value, byte) in patch.iter().zip(wanted) {
                largest = largest.max(((value * 255.0).round() as u8).abs_diff(*byte));
            }
        }
        if largest > if picture["lossy"].as_bool().unwrap() { LOSSY } else { 0 } {
            failures.push(format!("{file} at {budget}: differs by {largest}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    for case in json("media/picture_sizes.json").as_array().unwrap() {
        let (width, height) = (count(case, "width") as u32, count(case, "height") as u32);
        let found = pixels::target_size(width, height, count(case, "budget") as u32).ok();
        let target = case["target"].as_array();
        let target = target.map(|t| (t[0].as_u64().unwrap() as u32, t[1].as_u64().unwrap() as u32));
        assert_eq!(found, target, "{case}");
    }
}

#[test]
fn speech_is_told_from_silence_and_noise() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/speech");
    let sound = SoundFile::open(&folder.join("light.flac")).unwrap();
    let speech: Vec<f32> = sound.flat_map(|block| block.unwrap().samples).collect();
    let noise: Vec<f32> = (0..32_000).map(|n| (mix(n) >> 40) as f32 / 8e9 - 1e-3).collect();
    let sound = [&noise[..], &speech, &noise].concat();
    let blocks = Vad::default().push(&sound).unwrap();
    let share = |from: usize, to: usize| {
        let blocks = &blocks[from / 256..to / 256];
        blocks.iter().filter(|block| block.speech > 0.5).count() as f64 / blocks.len() as f64
    };
    let end = noise.len() + speech.len();
    let heard = share(noise.len() + 3_200, end - 8_000);
    assert!(heard > 0.8, "speech: {heard}");
    let before = share(8_000, noise.len());
    let after = share(end + 8_000, sound.len());
    assert!(before < 0.1 && after < 0.1, "noise: {before}, {after}");
}

#[test]
fn camera_jpeg_without_its_tables_is_read() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    let whole = std::fs::read(folder.join("turned_1.jpg")).unwrap();
    // Cameras leave out the Huffman tables (segments FFC4), which are always the same.
    let (mut bare, mut at) = (whole[..2].to_vec(), 2);
    while whole[at + 1] != 0xda {
        let end = at + 2 + usize::from(u16::from_be_bytes([whole[at + 2], whole[at + 3]]));
        if whole[at + 1] != 0xc4 {
            bare.extend(&whole[at..end]);
        }
        at = end;
    }
    bare.extend(&whole[at..]);
    assert!(bare.len() + 400 < whole.len());
    let frame = frame_of(PixelFormat::Mjpeg, 48, 32, &bare).unwrap();
    assert!(frame == image_file::from_bytes(whole).unwrap());
}
