//! Videos, through ffmpeg: frames at times, sound, verbs that talk about them, damaged files.
//! In: small clips that ffmpeg makes here. Out: pixels, lengths, JSON documents, errors.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use culet::ErrorKind;
use culet::source::VideoFile;

use crate::program::Scratch;
use crate::program::culet;
use crate::program::json_of;
use crate::program::program;

const SIDE: usize = 64;
const BRIEF: [&str; 6] = ["--json", "-n", "4", "-t", "1", "--quiet"];
const SOUND: [&str; 4] = ["-f", "lavfi", "-i", "sine=frequency=440:duration=4"];

/// Returns the grey of a clip's second.
fn grey_at(second: usize) -> u8 {
    20 + 50 * second as u8
}

/// Makes a clip of four seconds, two frames a second, each second in a grey of its own.
fn clip(path: &str, inputs: &[&str], outputs: &[&str]) {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-y"]);
    command.args(["-f", "image2pipe", "-framerate", "2", "-c:v", "ppm", "-i", "-"]);
    command.args(inputs).args(outputs).arg(path).stdin(Stdio::piped());
    let mut child = command.spawn().expect("these tests need the program ffmpeg; install it");
    let mut stdin = child.stdin.take().unwrap();
    for frame in 0..8 {
        write!(stdin, "P6\n{SIDE} {SIDE}\n255\n").unwrap();
        stdin.write_all(&vec![grey_at(frame / 2); 3 * SIDE * SIDE]).unwrap();
    }
    drop(stdin);
    assert!(child.wait().unwrap().success(), "{path}");
}

/// Makes a clip with a tone; all that describes it is at its start.
fn spoken_clip(path: &str) {
    clip(path, &SOUND, &["-c:v", "mpeg4", "-c:a", "aac", "-movflags", "faststart"]);
}

#[test]
fn frames_are_those_of_their_times() {
    let scratch = Scratch::new("video-frames");
    let kinds: [(&str, &[&str]); 5] = [
        ("a.mp4", &["-c:v", "mpeg4"]),
        ("b.mov", &["-c:v", "mjpeg"]),
        ("c.webm", &["-c:v", "mjpeg", "-f", "matroska"]),
        ("d.avi", &["-c:v", "mjpeg"]),
        ("e.gif", &[]),
    ];
    for (name, outputs) in kinds {
        let path = scratch.path(name);
        clip(&path, &[], outputs);
        let video = VideoFile::open(Path::new(&path)).unwrap();
        let seconds = video.seconds().unwrap();
        assert!((seconds - 4.0).abs() < 0.6 && !video.has_sound(), "{name}: {seconds} s");
        let times = video.times_s(1.0, 32);
        assert_eq!(times[..4], [0.0, 1.0, 2.0, 3.0], "{name}");
        for (second, at_s) in times[..4].iter().enumerate() {
            let frame = video.frame(*at_s).unwrap().unwrap();
            assert_eq!((frame.width() as usize, frame.height() as usize), (SIDE, SIDE), "{name}");
            let (found, expected) = (frame.rgb()[3 * SIDE], grey_at(second));
            // A gif's colours are few.
            assert!(found.abs_diff(expected) < 25, "{name} at {at_s} s: {found}, not {expected}");
        }
        assert!(video.frame(1000.0).unwrap().is_none(), "{name}");
        assert_eq!(video.sound(1.0).unwrap_err().kind(), ErrorKind::Input, "{name}");
    }
}

#[test]
fn the_sound_track_is_heard_up_to_a_limit() {
    let scratch = Scratch::new("video-sound");
    let path = scratch.path("spoken.mp4");
    spoken_clip(&path);
    let video = VideoFile::open(Path::new(&path)).unwrap();
    for (limit_s, expected_s) in [(100.0, 4.0), (1.5, 1.5)] {
        let blocks: Vec<_> = video.sound(limit_s).unwrap().map(Result::unwrap).collect();
        let seconds: f64 = blocks.iter().map(culet::Pcm::seconds).sum();
        assert!((seconds - expected_s).abs() < 0.1, "{limit_s}: {seconds} s");
        let loudest = blocks.iter().flat_map(|b| &b.samples).fold(0.0_f32, |a, b| a.max(b.abs()));
        assert!((0.05..=1.0).contains(&loudest), "{loudest}");
    }
}

#[test]
fn verbs_talk_about_videos() {
    let scratch = Scratch::new("video-verbs");
    let path = scratch.path("spoken.mp4");
    spoken_clip(&path);
    let json = json_of(&[&["ask", &path, "What happens?"], &BRIEF[..]].concat());
    let video = &json["video"];
    assert_eq!(video["frames_s"], serde_json::json!([0.0, 1.0, 2.0, 3.0]), "{json}");
    assert!((video["sound_s"].as_f64().unwrap() - 4.0).abs() < 0.1, "{json}");
    assert_eq!(video["left_out"], serde_json::json!([]), "{json}");
    let media = json["tokens"]["media"].as_u64().unwrap();
    assert!(media > 4 * 60 + 90 && json["stop"].is_string(), "{json}");
    let few = ["caption", &path, "--max-frames", "2", "--mute"];
    let json = json_of(&[&few[..], &BRIEF].concat());
    assert_eq!(json["video"]["frames_s"], serde_json::json!([0.0, 2.0]), "{json}");
    assert_eq!((&json["task"], &json["video"]["sound_s"]), (&"caption".into(), &0.0.into()));
    let said = json["video"]["left_out"][0].as_str().unwrap();
    assert_eq!(said, "2 frames are looked at, one every 2.0 s");
    let gif = scratch.path("moving.gif");
    clip(&gif, &[], &[]);
    let json = json_of(&[&["ask", &gif, "What?", "--video", "--fps", "0.5"], &BRIEF[..]].concat());
    assert_eq!(json["video"]["frames_s"], serde_json::json!([0.0, 2.0]), "{json}");
}

#[test]
fn damaged_videos_are_errors_that_say_so() {
    let scratch = Scratch::new("video-wrong");
    let path = scratch.path("whole.mp4");
    clip(&path, &[], &["-c:v", "mpeg4"]);
    let bytes = std::fs::read(&path).unwrap();
    let list = format!("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{path}\n#EXT-X-ENDLIST\n");
    let concat = format!("ffconcat version 1.0\nfile '{path}'\n");
    let rows = [
        (scratch.write("noise.mp4", "this is no video"), "not a video"),
        (scratch.write("empty.mp4", ""), "not a video"),
        // What describes it is at its end.
        (scratch.write("cut.mp4", &bytes[..bytes.len() / 2]), "not a video"),
        (scratch.write("list.ts", list), "not a video"),
        (scratch.write("concat.mkv", concat), "not a video"),
        ("nowhere.mp4".to_owned(), "nowhere.mp4"),
        (scratch.path(""), "no file"),
    ];
    for (path, said) in rows {
        let output = culet(&["ask", &path, "What?", "--video"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{path}: {stderr}");
        assert!(stderr.contains(said) && output.stdout.is_empty(), "{path}: {stderr}");
    }
    let mut bare = program(&["ask", &path, "What?"]);
    let output = bare.env("PATH", "").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("install ffmpeg"));
    let stdin = culet(&["ask", "-", "What?", "--video"]);
    assert!(String::from_utf8_lossy(&stdin.stderr).contains("give a file"));
}

#[test]
fn damage_anywhere_ends_in_a_frame_or_an_error() {
    let scratch = Scratch::new("video-damage");
    let path = scratch.path("whole.mp4");
    spoken_clip(&path);
    let whole = std::fs::read(&path).unwrap();
    let mut state = 7_u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % n
    };
    for case in 0..16 {
        let mut bytes = whole.clone();
        if case % 4 == 0 {
            bytes.truncate(200 + random(bytes.len() - 200));
        }
        for _ in 0..case {
            let place = random(bytes.len());
            bytes[place] = [0, 0xff, random(256) as u8][random(3)];
        }
        let path = scratch.write("damaged.mp4", bytes);
        let Ok(video) = VideoFile::open(Path::new(&path)) else { continue };
        let times = video.times_s(1.0, 4);
        assert!((1..=4).contains(&times.len()) && times[0] == 0.0, "case {case}: {times:?}");
        for at_s in [times[0], times[times.len() - 1]] {
            if let Ok(Some(frame)) = video.frame(at_s) {
                assert!(frame.width() <= 3840 && frame.height() <= 3840, "case {case}");
            }
        }
        if video.has_sound() {
            let blocks = video.sound(2.0).unwrap().map_while(Result::ok);
            let seconds: f64 = blocks.map(|block| block.seconds()).sum();
            assert!(seconds <= 3.1, "case {case}: {seconds} s");
        }
    }
}
