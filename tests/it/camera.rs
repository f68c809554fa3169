//! Verbs that look through a camera device, through the built program and all that is below it.
//! In: the tiny model, a camera that `tests/camera.c` is. Out: pixels, what is told, errors.
//! On Linux with glibc; what is left out elsewhere is printed. No device of the machine is used.

#![expect(clippy::print_stdout, reason = "a test that is left out says why")]

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::process::ChildStdin;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;

use crate::program::Scratch;
use crate::program::program;

const NAME: &str = "Glass Eye";
const BRIEF: [&str; 6] = ["--budget", "70", "-n", "4", "-t", "1"];
/// Bars of a frame, from the left: their Y, U, V and the colour that this stands for.
const BARS: [([u8; 3], [u8; 3]); 8] = [
    ([235, 128, 128], [255, 255, 255]),
    ([210, 16, 146], [255, 255, 0]),
    ([170, 166, 16], [0, 255, 255]),
    ([145, 54, 34], [0, 255, 0]),
    ([106, 202, 222], [255, 0, 255]),
    ([81, 90, 240], [255, 0, 0]),
    ([41, 240, 110], [0, 0, 255]),
    ([16, 128, 128], [0, 0, 0]),
];
/// Most that a channel may be off by the way through Y, U, V, or through jpeg.
const CHANNEL_APART_MAX: u8 = 4;

/// A camera of one test.
struct Camera {
    scratch: Scratch,
}

impl Camera {
    /// Makes a camera with a line for each mode or fault; nothing where it cannot be made.
    fn new(name: &str, modes: &str) -> Option<Self> {
        if !cfg!(all(target_os = "linux", target_env = "gnu")) {
            return left_out("it is made for Linux with glibc");
        }
        let scratch = Scratch::new(&format!("camera-{name}"));
        std::fs::create_dir_all(scratch.path("dev")).unwrap();
        scratch.write("dev/video0", modes);
        scratch.write("name", format!("{NAME}\n"));
        let compiler = std::env::var_os("CC").unwrap_or("cc".into());
        let mut command = Command::new(&compiler);
        command.args(["-std=gnu99", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]);
        command.args(["tests/camera.c", "-o", &scratch.path("camera.so"), "-ldl"]);
        match command.current_dir(env!("CARGO_MANIFEST_DIR")).output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{compiler:?}: {said}");
                Some(Self { scratch })
            }
            Err(e) => left_out(&format!("no C compiler: {compiler:?}: {e}")),
        }
    }

    /// Returns the program, to be run with this camera.
    fn program(&self, words: &[&str]) -> Command {
        let mut command = program(words);
        command.env("LD_PRELOAD", self.scratch.path("camera.so"));
        command.env("CULET_TEST_CAMERA", self.scratch.path(""));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the program with a camera that is pulled out after the last frame.
    fn run(&self, words: &[&str], frames: &[Vec<u8>]) -> Output {
        let mut child = self.program(words).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A program that has seen enough is gone.
        let _ = frames.iter().try_for_each(|frame| send(&mut stdin, frame));
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    /// Runs the program, which must succeed with one JSON document.
    fn json_of(&self, words: &[&str], frames: &[Vec<u8>]) -> Value {
        let output = self.run(&[words, &["--json"]].concat(), frames);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs the program, which must fail, and returns what it says.
    fn error_of(&self, words: &[&str]) -> String {
        let output = self.run(words, &[]);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

fn left_out(why: &str) -> Option<Camera> {
    println!("the camera is left out: {why}");
    None
}

/// Sends a frame to the camera.
fn send(stdin: &mut ChildStdin, frame: &[u8]) -> std::io::Result<()> {
    stdin.write_all(&u32::try_from(frame.len()).unwrap().to_le_bytes())?;
    stdin.write_all(frame)?;
    stdin.flush()
}

/// Returns a frame of bars in a layout that V4L2 has.
fn bars(layout: &str, width: usize, height: usize) -> Vec<u8> {
    let bar = |x: usize| BARS[x * BARS.len() / width];
    let rgb = || (0..width * height).flat_map(|i| bar(i % width).1);
    let pairs = |n: usize| (0..n).map(|i| bar(2 * i % width).0);
    match layout {
        "YUYV" => pairs(width * height / 2).flat_map(|[y, u, v]| [y, u, y, v]).collect(),
        "NV12" => {
            let luma = (0..width * height).map(|i| bar(i % width).0[0]);
            luma.chain(pairs(width * height / 4).flat_map(|[_, u, v]| [u, v])).collect()
        }
        "RGB3" => rgb().collect(),
        "BGR3" => rgb().collect::<Vec<_>>().chunks(3).flat_map(|p| [p[2], p[1], p[0]]).collect(),
        "MJPG" => {
            let (mut bytes, rgb) = (Vec::new(), rgb().collect::<Vec<_>>());
            let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100);
            let sides = [width, height].map(|side| u32::try_from(side).unwrap());
            encoder.encode(&rgb, sides[0], sides[1], image::ExtendedColorType::Rgb8).unwrap();
            bytes
        }
        _ => panic!("{layout}"),
    }
}

#[test]
fn cameras_have_names_and_numbers() {
    let Some(camera) = Camera::new("names", "YUYV 128 96 30\n") else { return };
    let listed = camera.json_of(&["see", "--devices"], &[]);
    let about = "Video4Linux Device @ /dev/video0";
    assert_eq!(listed, serde_json::json!([{ "name": NAME, "about": about }]));
    let output = camera.run(&["watch", "--devices"], &[]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("0\t{NAME}\t{about}\n"));
    for device in [NAME, "0"] {
        let words = [&["see", "What is it?", "--device", device], &BRIEF[..]].concat();
        let json = camera.json_of(&words, &[bars("YUYV", 128, 96)]);
        assert_eq!(json["pictures"][0]["file"], format!("camera \"{NAME}\""));
    }
    for device in ["nowhere", "1"] {
        let said = camera.error_of(&["see", "--device", device]);
        assert!(said.contains(&format!("\"{device}\": is not there; found: \"{NAME}\"")), "{said}");
    }
}

#[test]
fn every_layout_has_its_colours() {
    for layout in ["YUYV", "NV12", "RGB3", "BGR3", "MJPG"] {
        let modes = format!("{layout} 128 96 30\n");
        let Some(camera) = Camera::new(layout, &modes) else { return };
        let seen = camera.scratch.path("seen.png");
        let words = [&["see", "What is it?", "--output", &seen], &BRIEF[..]].concat();
        let frames = vec![bars(layout, 128, 96); 3];
        let json = camera.json_of(&words, &frames);
        assert_eq!((&json["task"], json["text"].is_string()), (&"see".into(), true), "{json}");
        let seen = image::open(&seen).unwrap().to_rgb8();
        assert_eq!(seen.dimensions(), (128, 96));
        for (x, y, pixel) in seen.enumerate_pixels() {
            let colour = BARS[x as usize / 16].1;
            let apart = pixel.0.iter().zip(colour).map(|(a, b)| a.abs_diff(b)).max();
            assert!(apart <= Some(CHANNEL_APART_MAX), "{layout} {x},{y}: {pixel:?}");
        }
    }
}

#[test]
fn the_nearest_size_and_a_rate_that_suffices_are_chosen() {
    let modes = "YUYV 128 96 30\nYUYV 320 240 5\nMJPG 320 240 30\nYUYV 640 480 30\n";
    let Some(camera) = Camera::new("sizes", modes) else { return };
    let cases: [(&[&str], &str, (usize, usize)); 4] = [
        (&["--size", "130x90"], "YUYV", (128, 96)),
        (&["--size", "300x250"], "MJPG", (320, 240)),
        (&["--size", "320x240", "--rate", "5"], "YUYV", (320, 240)),
        (&[], "YUYV", (640, 480)),
    ];
    for (extra, layout, (width, height)) in cases {
        let words = [&["see", "What is it?"], extra, &BRIEF].concat();
        let json = camera.json_of(&words, &[bars(layout, width, height)]);
        let picture = &json["pictures"][0];
        assert_eq!((&picture["width"], &picture["height"]), (&width.into(), &height.into()));
    }
}

#[test]
fn an_unchanged_scene_is_not_looked_at_and_a_lost_camera_is_said() {
    let Some(camera) = Camera::new("watch", "RGB3 96 96 30\n") else { return };
    let words = ["watch", "Tell me when it changes.", "--every", "0", "--json", "-n", "2"];
    let mut child = camera.program(&words).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut look = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let grey = |value: u8| vec![value; 3 * 96 * 96];
    send(&mut stdin, &grey(20)).unwrap();
    let first = look();
    assert_eq!((&first["pictures"], &first["change"]), (&1.into(), &1.0.into()), "{first}");
    for frame in std::iter::repeat_n(grey(21), 50).chain([grey(120)]) {
        send(&mut stdin, &frame).unwrap();
    }
    let second = look();
    // Grey 20 became 120, by way of nothing that was looked at.
    assert!(second["pictures"] == 2 && second["reused"].as_u64() > Some(0), "{second}");
    let change = second["change"].as_f64().unwrap();
    drop(stdin);
    assert!(lines.next().is_none());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(change > 0.3, "{second}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Glass Eye\": stopped; plug it in again"), "{said}");
}

#[test]
fn what_a_camera_refuses_is_said() {
    let cases = [
        ("busy\nYUYV 128 96 30\n", "is used by another program; close that first"),
        ("denied\nYUYV 128 96 30\n", "permission denied; allow it"),
        ("H264 128 96 30\n", "has no layout that is read; YUYV"),
        ("GREY 128 96 30\n", "has no layout that is read; YUYV, NV12, RGB and MJPEG are. Choose"),
        ("GREY 128 96 30\nYUYV 128 96 30\n", "is set to a layout that is not read; set another"),
    ];
    for (number, (modes, words)) in cases.into_iter().enumerate() {
        let Some(camera) = Camera::new(&format!("refuses-{number}"), modes) else { return };
        let said = camera.error_of(&["see"]);
        assert!(said.contains(&format!("camera \"{NAME}\": {words}")), "{modes}: {said}");
    }
    let Some(camera) = Camera::new("cut", "MJPG 128 96 30\n") else { return };
    let said = camera.error_of(&["see"]);
    assert!(said.contains("stopped; plug it in again"), "{said}");
}

#[test]
fn damaged_frames_are_passed_over() {
    let Some(camera) = Camera::new("damaged", "MJPG 128 96 30\n") else { return };
    let whole = bars("MJPG", 128, 96);
    let frames = [b"\xff\xd8no jpeg".to_vec(), whole[..whole.len() / 2].to_vec(), whole];
    let words = [&["see", "What is it?"], &BRIEF[..]].concat();
    assert_eq!(camera.json_of(&words, &frames)["pictures"][0]["width"], 128);
}

#[test]
fn a_frame_that_the_device_fails_at_does_not_end_it() {
    let Some(camera) = Camera::new("transient", "YUYV 128 96 30\n") else { return };
    let (whole, failed) = (bars("YUYV", 128, 96), vec![0; 4 * 128 * 96]);
    let words = ["watch", "x", "--every", "0", "--json", "-n", "1", "-t", "1"];
    let mut child = camera.program(&words).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut look = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    for frames in [vec![&failed, &failed, &whole], vec![&failed, &vec![128; 2 * 128 * 96]]] {
        frames.iter().for_each(|frame| send(&mut stdin, frame).unwrap());
        assert!(look()["change"].as_f64() > Some(0.0));
    }
    for _ in 0..64 {
        // A device that fails again and again is given up.
        let _ = send(&mut stdin, &failed);
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("stopped; plug it in again"), "{said}");
}
