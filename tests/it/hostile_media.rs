//! Damaged sounds and pictures: never a panic, a hang or an unbounded allocation.
//! In: `tests/golden/`, a seed. Out: pass or fail; `SEED` repeats a run, `CASES` sets its length.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "seeds repeat a run")]

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use culet::ErrorKind;
use culet::source::FrameStream;
use culet::source::PpmStream;
use culet::source::SoundFile;
use culet::source::image_file;
use culet::source::pixel_format::PixelFormat;
use culet::source::pixel_format::frame_of;

use crate::both::random::seed;
use crate::random::Rng;

const CASES_DEFAULT: u64 = 15_000;
/// Ends a test in which a file is read for ever; the slowest takes less than a second.
const CASE_SECONDS_MAX: u64 = 240;
/// A sound is read up to here.
const SAMPLES_MAX: usize = 4 << 20;
/// A moving picture is read up to here.
const FRAMES_MAX: usize = 8;
/// Most memory that all cases together may have needed at once.
const RESIDENT_KIB_MAX: u64 = 3 << 20;

/// The sound files of a folder of golden data, by name.
fn files(folder: &str, endings: &[&str]) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let mut paths: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        let ending = path.extension().map(|e| e.to_str().unwrap());
        ending.is_some_and(|ending| endings.contains(&ending))
    });
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Damages a file in one to eight places, more often near its start.
fn damaged(files: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut bytes = files[random.below(files.len())].clone();
    for _ in 0..1 + random.below(8) {
        let reach = if random.below(2) == 0 { bytes.len().min(200) } else { bytes.len() };
        let at = random.below(reach.max(1));
        match random.below(9) {
            _ if bytes.is_empty() => bytes.push(random.next() as u8),
            0 | 1 => bytes[at] = random.next() as u8,
            2 => bytes[at] ^= 1 << random.below(8),
            3 => {
                let edges = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, u32::MAX, 0xffff];
                let edge = edges[random.below(edges.len())];
                let edge =
                    if random.below(2) == 0 { edge.to_le_bytes() } else { edge.to_be_bytes() };
                for (byte, value) in bytes[at..].iter_mut().zip(edge) {
                    *byte = value;
                }
            }
            4 => bytes.truncate(at),
            5 => {
                let end = (at + 1 + random.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 => {
                let end = (at + 1 + random.below(64)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            7 => {
                let other = &files[random.below(files.len())];
                let start = random.below(other.len());
                let end = (start + 1 + random.below(128)).min(other.len());
                bytes.splice(at..at, other[start..end].iter().copied());
            }
            _ => {
                let end = (at + 1 + random.below(16)).min(bytes.len());
                bytes[at..end].fill(if random.below(2) == 0 { 0 } else { 0xff });
            }
        }
    }
    bytes
}

/// Most memory that this process has had, where the system says it.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Gives damaged files to `read`, which says whether one could be read, and watches it.
fn attack(name: &'static str, files: &[Vec<u8>], read: impl Fn(Vec<u8>) -> bool) {
    let seed = seed(20_260_401);
    let n_cases = std::env::var("CASES")
        .map_or(CASES_DEFAULT, |text| text.parse().expect("CASES is a number"));
    println!("{name}: SEED={seed} CASES={n_cases}");
    let start = Instant::now();
    let (mut n_read, mut slowest) = (0, (Duration::ZERO, 0));
    let running = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| watch(name, seed, &running));
        for case in 0..n_cases {
            let mut random = Rng(seed ^ case.wrapping_mul(0xd134_2543_de82_ef95));
            let bytes = damaged(files, &mut random);
            running.store(case + 1, Ordering::Relaxed);
            let begin = Instant::now();
            n_read += u64::from(read(bytes));
            slowest = slowest.max((begin.elapsed(), case));
        }
        running.store(u64::MAX, Ordering::Relaxed);
    });
    let seconds = start.elapsed().as_secs_f64();
    println!("{name}: {n_read} of {n_cases} could be read, {seconds:.1} s, slowest {slowest:?}");
    assert!(n_read > 0 && n_read < n_cases);
    if let Some(kib) = resident_kib() {
        assert!(kib < RESIDENT_KIB_MAX, "{name}: {kib} KiB of memory, SEED={seed}");
    }
}

/// Ends the process if one case hangs, and says which.
fn watch(name: &str, seed: u64, running: &AtomicU64) {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let case = running.load(Ordering::Relaxed);
        if case == u64::MAX {
            return;
        }
        if case != last {
            (last, since) = (case, Instant::now());
        }
        if since.elapsed() > Duration::from_secs(CASE_SECONDS_MAX) {
            eprintln!("{name}: case {} hangs, SEED={seed}", case - 1);
            std::process::exit(101);
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn damaged_sounds_do_no_harm() {
    let endings = ["wav", "flac", "mp3", "ogg", "m4a", "aac", "aiff", "caf", "mka", "webm", "opus"];
    let files = files("sounds", &endings);
    assert!(files.len() > 20);
    attack("sounds", &files, |bytes| {
        let n_bytes = bytes.len();
        let sound = match SoundFile::from_bytes(bytes) {
            Ok(sound) => sound,
            Err(e) => {
                assert_ne!(e.kind(), ErrorKind::Internal, "{e}");
                return false;
            }
        };
        let mut n_samples = 0;
        for block in sound {
            let Ok(block) = block else { break };
            assert!(block.samples.iter().all(|sample| sample.is_finite()));
            assert!(!block.samples.is_empty());
            n_samples += block.samples.len();
            if n_samples > SAMPLES_MAX {
                break;
            }
        }
        n_bytes > 0
    });
}

#[test]
fn damaged_pictures_do_no_harm() {
    let files = files("images", &["png", "jpg", "webp", "gif", "bmp"]);
    assert!(files.len() > 20);
    attack("pictures", &files, |bytes| {
        let frames = FrameStream::from_bytes(bytes.clone());
        if let Ok(frames) = frames {
            for frame in frames.take(FRAMES_MAX) {
                let Ok(frame) = frame else { break };
                assert!(frame.width() > 0 && frame.height() > 0);
            }
        }
        match image_file::from_bytes(bytes) {
            Ok(frame) => frame.rgb().len() as u64 == 3 * u64::from(frame.width() * frame.height()),
            Err(e) => {
                assert_ne!(e.kind(), ErrorKind::Internal, "{e}");
                false
            }
        }
    });
}

#[test]
fn damaged_camera_frames_do_no_harm() {
    let formats = [
        PixelFormat::Rgb,
        PixelFormat::Bgr,
        PixelFormat::Grey,
        PixelFormat::Yuyv,
        PixelFormat::Nv12,
        PixelFormat::Mjpeg,
    ];
    attack("camera frames", &files("images", &["jpg"]), |bytes| {
        let side = |i: usize| bytes.get(i).map_or(0, |byte| u32::from(byte % 64));
        let sides = (side(20), side(21));
        let mut is_jpeg = false;
        for format in formats {
            match frame_of(format, sides.0, sides.1, &bytes) {
                Ok(_) => is_jpeg |= format == PixelFormat::Mjpeg,
                Err(e) => assert_ne!(e.kind(), ErrorKind::Internal, "{format:?}: {e}"),
            }
        }
        is_jpeg
    });
}

#[test]
fn damaged_pipes_of_pictures_do_no_harm() {
    let picture =
        |header: &str, n: u8| [header.as_bytes(), &vec![b'7'; 3 * usize::from(n)]].concat();
    let files = [
        [picture("P6\n3 2\n255\n", 6), picture("P6 1 4 255 ", 4)].concat(),
        picture("P6\n# a remark\n11 2 # another\n255\n", 22),
    ];
    attack("pipes", &files, |bytes| {
        for frame in PpmStream::new("pipe", &bytes[..]).take(FRAMES_MAX) {
            match frame {
                Ok(frame) => assert!(!frame.rgb().is_empty() && frame.rgb().len() < bytes.len()),
                Err(e) => {
                    assert_ne!(e.kind(), ErrorKind::Internal, "{e}");
                    return false;
                }
            }
        }
        true
    });
}
