//! Verbs that look through a camera, through the built program.
//! In: recordings in place of a camera, the tiny model. Out: what was looked at, and what is said.

use std::io::Write;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;

use crate::look::gif;
use crate::program::Scratch;
use crate::program::culet;
use crate::program::json_of;
use crate::program::program;
use crate::program::stdout_of;

const PICTURES: &str = "models/tiny/heldout/pictures";
const FIRST: &str = "models/tiny/heldout/pictures/picture00.png";
const BRIEF: [&str; 6] = ["--budget", "70", "-n", "8", "-t", "1"];

/// Runs the program with frames on its stdin.
fn culet_with(words: &[&str], frames: &[u8]) -> Output {
    let mut command = program(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that has seen enough closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(frames);
    child.wait_with_output().unwrap()
}

/// Returns a picture of one grey as PPM.
fn grey(value: u8) -> Vec<u8> {
    [&b"P6\n96 96\n255\n"[..], &[value; 3 * 96 * 96]].concat()
}

#[test]
fn a_look_equals_a_question_about_the_picture() {
    let asked = stdout_of(&[&["ask", FIRST, "What is it?"], &BRIEF[..]].concat());
    let words = [&["see", "What is it?", "--frames", PICTURES], &BRIEF[..]].concat();
    let scratch = Scratch::new("look");
    let looked_at = scratch.path("looked-at.png");
    assert_eq!(stdout_of(&[&words[..], &["--output", &looked_at]].concat()), asked);
    let [saw, was] = [&looked_at[..], FIRST].map(|path| image::open(path).unwrap().to_rgb8());
    assert!(saw == was, "the picture that was looked at is not the one that was written");
    let json = json_of(&[&words[..], &["--json"]].concat());
    assert_eq!((json["task"].as_str(), json["text"].as_str()), (Some("see"), Some(asked.trim())));
    assert_eq!(json["pictures"][0]["file"], PICTURES);
    assert_eq!(json["pictures"].as_array().unwrap().len(), 1);
}

#[test]
fn frames_come_from_pipes_and_moving_pictures() {
    let scratch = Scratch::new("see");
    let moving = scratch.path("moving.gif");
    gif(&moving, &[9, 200]);
    let sides = |json: &Value| (json["pictures"][0]["width"].clone(), json["stop"].is_string());
    let words = [&["see", "--json", "--frames"][..], &[&moving], &BRIEF].concat();
    assert_eq!(sides(&json_of(&words)), (96.into(), true));
    let words = [&["see", "--json", "--frames", "-"], &BRIEF[..]].concat();
    let output = culet_with(&words, &[grey(9), grey(200)].concat());
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(sides(&json), (96.into(), true));
}

#[test]
fn cameras_are_listed_without_a_model() {
    let words = ["see", "--devices", "--json", "-m", "nowhere.gguf"];
    let cameras = json_of(&words);
    let n = cameras.as_array().unwrap().len();
    assert_eq!(stdout_of(&["see", "--devices"]).lines().count(), n, "{cameras}");
    assert!(cameras.as_array().unwrap().iter().all(|c| c["name"].is_string()), "{cameras}");
}

#[test]
fn what_cannot_be_seen_is_said() {
    let scratch = Scratch::new("see-wrong");
    scratch.write("notes.txt", "no picture");
    let folder = scratch.path("");
    let cut = &grey(9)[..500];
    let rows: [(&[&str], &[u8], i32, &str); 8] = [
        (&["see", "--device", "no such camera"], b"", 1, "camera"),
        (&["see", "--frames", "nowhere"], b"", 1, "nowhere"),
        (&["see", "--frames", &folder], b"", 1, "holds no pictures"),
        (&["see", "--frames", "-"], b"", 1, "holds no picture"),
        (&["see", "--frames", "-"], b"\x89PNG\r\n", 1, "ffmpeg"),
        (&["see", "--frames", "-"], cut, 1, "ends after"),
        (&["see", "--frames", "-", "--device", "0"], b"", 2, "--device"),
        (&["see", "--size", "1280"], b"", 2, "1280x720"),
    ];
    for (words, stdin, code, said) in rows {
        let output = culet_with(words, stdin);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
        assert!(stderr.contains(said) && output.stdout.is_empty(), "{words:?}: {stderr}");
    }
    assert_eq!(culet(&["see", "--rate", "0"]).status.code(), Some(2));
}

/// Watches frames and returns a document a line, the last of which counts.
fn watched(extra: &[&str], frames: &[u8]) -> Vec<Value> {
    let words = ["watch", "Tell me when it changes.", "--json", "--frames", "-"];
    let output = culet_with(&[&words[..], &["-n", "4", "-t", "1"], extra].concat(), frames);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{extra:?}: {stderr}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_unchanged_scene_is_not_looked_at() {
    let frames: Vec<u8> = [20, 20, 21, 120, 120, 120, 20].into_iter().flat_map(grey).collect();
    let told = watched(&[], &frames);
    let (count, looks) = told.split_last().unwrap();
    let counts = ["frames", "unchanged", "looks"].map(|key| count[key].as_u64().unwrap());
    assert_eq!(counts, [7, 4, 3], "{told:?}");
    let seen = |key: &str| looks.iter().map(|look| look[key].clone()).collect::<Vec<_>>();
    assert_eq!(seen("at_s"), [0.0, 3.0, 6.0]);
    assert_eq!(seen("pictures"), [1, 2, 3]);
    // The pictures before the newest are still in the cache.
    let soft = looks[0]["tokens"]["media"].as_u64().unwrap();
    assert!(looks[2]["reused"].as_u64().unwrap() >= 2 * soft, "{told:?}");
    let n_told = looks.iter().filter(|look| look["told"] == true).count() as u64;
    assert_eq!(count["told"], n_told);
    for look in looks {
        let text = look["text"].as_str().unwrap().to_lowercase();
        assert!(look["told"] == false || !text.starts_with("no ") && text != "no", "{look}");
    }
}

#[test]
fn a_live_pipe_ends_as_it_should() {
    let told = watched(&["--live", "--every", "0", "--change", "0"], &grey(20));
    let count = told.last().unwrap();
    assert_eq!((&count["frames"], &count["looks"]), (&1.into(), &1.into()), "{told:?}");
    // Of these the first may still be looked at, the last must be.
    let frames: Vec<u8> = (0..40).flat_map(|n| grey(6 * n)).collect();
    let told = watched(&["--live", "--every", "0", "--change", "0"], &frames);
    let (count, looks) = told.split_last().unwrap();
    assert!(count["looks"].as_u64().unwrap() as usize == looks.len() && looks.len() <= 40);
    assert!(looks.windows(2).all(|two| two[0]["at_s"].as_f64() <= two[1]["at_s"].as_f64()));
    let output = culet_with(&["see", "--frames", "-", "--live"], &grey(9)[..500]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("ends after"), "{stderr}");
    let output = culet(&["see", "--frames", PICTURES, "--live"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not live"));
}

#[test]
fn history_is_bounded_by_pictures_and_tokens() {
    let pictures = |n: u8, extra: &[&str]| -> Vec<u64> {
        let frames: Vec<u8> = (0..n).flat_map(|i| grey(20 + 80 * (i % 3))).collect();
        let told = watched(&[&["--change", "0"], extra].concat(), &frames);
        told.iter().filter_map(|look| look["pictures"].as_u64()).collect()
    };
    assert_eq!(pictures(10, &[]), [1, 2, 3, 4, 5, 6, 7, 8, 5, 6]);
    assert_eq!(pictures(4, &["--budget", "560"]), [1, 2, 3, 2]);
}

#[test]
fn watching_takes_frames_when_they_are_due() {
    let frames: Vec<u8> = (0..9).flat_map(|n| grey(if n % 2 == 0 { 20 } else { 200 })).collect();
    let told = watched(&["--every", "1.5", "--rate", "2"], &frames);
    let count = told.last().unwrap();
    assert_eq!((&count["frames"], &count["looks"]), (&3.into(), &3.into()), "{told:?}");
    let silent = watched(&["--change", "100", "--every", "0"], &frames[..0]);
    assert_eq!(
        silent,
        [serde_json::json!({
            "frames": 0, "unchanged": 0, "looks": 0, "told": 0
        })]
    );
    for words in
        [&["watch"][..], &["watch", "x", "--every", "-1"], &["watch", "x", "--change", "x"]]
    {
        assert_eq!(culet(words).status.code(), Some(2), "{words:?}");
    }
    let output = culet_with(&["watch", "x", "--frames", "-", "-n", "1"], &frames[..1000]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_picture_encoded_ahead_changes_nothing() {
    let scratch = Scratch::new("ahead");
    let save = |name: &str, value: u8| {
        let picture = image::RgbImage::from_pixel(96, 96, image::Rgb([value; 3]));
        picture.save(scratch.path(name)).unwrap();
    };
    for (i, value) in [20, 120, 121, 20, 200, 90].into_iter().enumerate() {
        save(&format!("{i}.png"), value);
    }
    let watched = |ahead: &str| {
        let folder = scratch.path("");
        let words = ["watch", "x", "--json", "--frames", &folder, "-t", "2", "-n", "4"];
        let output = culet(&[&words[..], &["--ahead", ahead]].concat());
        let (mut looks, mut n_ahead) = (Vec::new(), 0);
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let mut look: Value = serde_json::from_str(line).unwrap();
            look["times_ms"].take();
            n_ahead += u32::from(look["ahead"].take() == true);
            looks.push(look);
        }
        (output.status.code(), looks, n_ahead, String::from_utf8(output.stderr).unwrap())
    };
    let (code, looks, n_ahead, _) = watched("never");
    assert_eq!((code, looks.len(), n_ahead), (Some(0), 6, 0));
    // All but the first are there while the one before is told of.
    assert_eq!(watched("always"), (Some(0), looks.clone(), 4, String::new()));
    scratch.write("2.png", b"no picture");
    let (code, seen, _, said) = watched("never");
    assert_eq!((code, &seen[..]), (Some(1), &looks[..2]));
    assert_eq!(watched("always"), (Some(1), seen, 1, said));
}
