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
    assert_eq!(stdout_of(&words), asked);
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
