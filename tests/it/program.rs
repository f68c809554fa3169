//! The built program: what it prints, how it ends, what its errors say.
//! In: fixtures, the tiny model, files made here. Out: exit codes, stdout, stderr.

use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use culet::gguf::writer::Writer;
use serde_json::Value;

/// A folder that is deleted afterwards.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Creates the folder.
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("culet-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// Returns the path of a file in it.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.0.join(name), bytes).unwrap();
        self.path(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns the program with the repository as its folder and nothing to read.
pub(crate) fn program(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culet"));
    command.args(words).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn culet(words: &[&str]) -> Output {
    program(words).output().unwrap()
}

/// Runs the program, which must succeed, and returns its stdout.
pub(crate) fn stdout_of(words: &[&str]) -> String {
    let output = culet(words);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the program, which must succeed with one JSON document.
pub(crate) fn json_of(words: &[&str]) -> Value {
    let stdout = stdout_of(words);
    serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{words:?}: {e}: {stdout}"))
}

const TINY: &str = "models/tiny/culet-tiny-q4_0.gguf";
const FIXTURE: &str = "models/fixtures/e2b.gguf";
const MEDIA: &str = "models/fixtures/media.gguf";
const PICTURE: &str = "tests/golden/media/pictures/rgb_50x30.png";
const SOUND: &str = "tests/golden/media/sound.wav";

#[test]
fn a_question_is_answered_in_one_document() {
    let words = ["run", "Hello", "--json", "--greedy", "--max-tokens", "5", "-t", "1"];
    let first = json_of(&words);
    assert!(first["text"].is_string() && first["thought"].is_string(), "{first}");
    assert!(first["tool_calls"].is_array(), "{first}");
    assert!(first["tokens"]["prompt"].as_u64().unwrap() > 3, "{first}");
    assert!((1..=5).contains(&first["tokens"]["answer"].as_u64().unwrap()), "{first}");
    assert!(first["times_ms"]["prompt"].as_f64().unwrap() > 0.0, "{first}");
    let again = json_of(&words);
    assert_eq!(first["text"], again["text"]);
    let seeded = ["run", "Hello", "--json", "--seed", "7", "--max-tokens", "5"];
    assert_eq!(json_of(&seeded)["text"], json_of(&seeded)["text"]);
}

#[test]
fn a_conversation_goes_on_in_another_run() {
    let scratch = Scratch::new("session");
    let file = scratch.path("talk.session");
    let brief = ["--session", &file, "--greedy", "--json", "-t", "1"];
    let say = |words: &[&str]| json_of(&[&["run"], words, &brief].concat());
    let prompt = |said: &Value| said["tokens"]["prompt"].as_u64().unwrap();
    let goes_on = |said: &Value, before: &Value| {
        assert!(said["tokens"]["kept"].as_u64().unwrap() >= prompt(before), "{before} {said}");
    };
    let first = say(&["My name is Anna."]);
    assert_eq!(first["tokens"]["kept"], 0);
    let second = say(&["What is my name?"]);
    goes_on(&second, &first);
    assert_eq!(second["text"], "Your name is Anna.");
    let third = say(&["What do you see?", "--image", PICTURE, "--budget", "70"]);
    goes_on(&third, &second);
    goes_on(&say(&["How many shapes are there?"]), &third);

    let kept = std::fs::read(&file).unwrap();
    let other = culet(&["run", "Hello", "--session", &file, "--system", "Be brief."]);
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&other.stderr).contains("began otherwise"));
    assert!(kept == std::fs::read(&file).unwrap());

    let cut = scratch.write("cut.session", &kept[..kept.len() / 2]);
    let refused = culet(&["run", "Hello", "--session", &cut]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cut.session: "));
    assert!(std::fs::read(&cut).unwrap() == kept[..kept.len() / 2]);
}

#[test]
fn the_question_may_come_from_stdin() {
    let asked = |words: &[&str], stdin: &[u8]| {
        let mut command = program(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    };
    let options = ["--json", "--greedy", "-n", "4", "-t", "1"];
    let mut words = vec!["run", "Hello"];
    words.extend(options);
    let text = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap()["text"].clone();
    let expected = text(&culet(&words).stdout);
    for first in [&["run"][..], &["run", "-"]] {
        let words: Vec<&str> = first.iter().copied().chain(options).collect();
        assert_eq!(text(&asked(&words, b"Hello").stdout), expected, "{words:?}");
    }
    let output = asked(&["run", "-"], b"a\xff");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("UTF-8"));
}

#[test]
fn text_goes_to_stdout_and_timings_to_stderr() {
    let words = ["run", "Hello", "--greedy", "-n", "6", "-v"];
    let output = culet(&words);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("tokens/s"), "{stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    let json = json_of(&["run", "Hello", "--greedy", "-n", "6", "--json"]);
    assert_eq!(text.trim_end(), json["text"].as_str().unwrap().trim_end());
    assert!(culet(&["run", "Hello", "-n", "1", "-q"]).stderr.is_empty());
}

#[test]
fn a_second_v_tells_where_the_time_went() {
    let profile = |v: &'static str| {
        let output = culet(&["run", "Hello", "--greedy", "-n", "3", v]);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let table = profile("-vv");
    let whole = table.lines().find(|l| l.contains("ms in operations")).expect("a sum");
    assert!(whole.starts_with("culet::profile: "), "{whole}");
    let row = |part: &str| table.lines().find(|l| l.starts_with(part)).map(str::to_owned);
    for part in ["decoder, rows together: ", "decoder, one row: "] {
        let row = row(part).unwrap_or_else(|| panic!("{part} is missing in {table}"));
        let share = row.split('%').next().and_then(|l| l.rsplit(' ').find(|w| !w.is_empty()));
        assert!(share.unwrap().parse::<f64>().unwrap() <= 100.0, "{row}");
    }
    assert!(row("  linear").is_some(), "{table}");
    assert!(!profile("-v").contains("ms in operations"));
}

#[test]
fn pictures_and_sounds_are_counted() {
    let words = |extra: &[&'static str]| -> Vec<&'static str> {
        let mut words = vec!["run", "-m", MEDIA, "--json", "-n", "2", "--greedy", "-t", "1"];
        words.extend(extra);
        words
    };
    let media =
        |extra: &[&'static str]| json_of(&words(extra))["tokens"]["media"].as_u64().unwrap();
    assert_eq!(media(&["--audio", SOUND]), 63);
    assert_eq!(media(&["--image", PICTURE, "--budget", "70"]), 60);
    let both = ["What?", "--audio", SOUND, "--image", PICTURE, "--budget", "70"];
    assert_eq!(media(&both), 123);
    let flipped = ["What?", "--image", PICTURE, "--audio", SOUND, "--budget", "70"];
    assert_eq!(media(&flipped), 123);
}

#[test]
fn the_shipped_model_hears_and_sees() {
    let tools = ["--tools", "models/tiny/tools.json", "--greedy", "-n", "24", "--json", "-t", "1"];
    let heard = [&["run", "--audio", SOUND][..], &tools].concat();
    assert!(json_of(&heard)["tokens"]["media"].as_u64().unwrap() > 0);
    let seen = [&["run", "What is this?", "--image", PICTURE][..], &tools].concat();
    assert!(json_of(&seen)["tokens"]["media"].as_u64().unwrap() > 0);
}

/// A wav file of mono 16-bit samples at 16 kHz.
pub(crate) fn wav(samples: &[i16]) -> Vec<u8> {
    let n_bytes = samples.len() as u32 * 2;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + n_bytes).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16_u32.to_le_bytes());
    bytes.extend([1, 0, 1, 0]);
    bytes.extend(16_000_u32.to_le_bytes());
    bytes.extend(32_000_u32.to_le_bytes());
    bytes.extend([2, 0, 16, 0]);
    bytes.extend(b"data");
    bytes.extend(n_bytes.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|s| s.to_le_bytes()));
    bytes
}

/// A bmp file that claims these sides and holds one black pixel.
fn bmp(width: i32, height: i32) -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    for n in [58_u32, 0, 54, 40] {
        bytes.extend(n.to_le_bytes());
    }
    bytes.extend(width.to_le_bytes());
    bytes.extend(height.to_le_bytes());
    bytes.extend([1, 0, 24, 0]);
    bytes.resize(58, 0);
    bytes
}

#[test]
fn bad_input_is_an_error_that_says_what_to_do() {
    let scratch = Scratch::new("bad-input");
    let empty = scratch.write("empty.wav", "");
    let silent = scratch.write("silent.wav", wav(&[]));
    let short = scratch.write("short.wav", wav(&[5; 100]));
    let flat = scratch.write("flat.bmp", bmp(0, 1));
    let noise = scratch.write("noise.gguf", "GGUF but not really");
    let long = "word ".repeat(400);
    let llama = scratch.path("llama.gguf");
    let mut writer = Writer::new();
    writer.set_str("general.architecture", "llama").unwrap();
    writer.create(Path::new(&llama)).unwrap().finish().unwrap();
    let rows: [(&[&str], i32, &str); 18] = [
        (&["run"], 2, "nothing to answer"),
        (&["run", "a", "--budget", "100"], 2, "70"),
        (&["run", "a", "--memory", "much"], 2, "2GiB"),
        (&["run", "a", "--nonsense"], 2, "nonsense"),
        (&["run", "a", "-m", "nowhere.gguf"], 1, "nowhere.gguf"),
        (&["run", "a", "-m", "models"], 1, "models"),
        (&["run", "a", "-m", &noise], 1, "noise.gguf"),
        (&["run", "a", "-m", &llama], 1, "llama"),
        (&["run", "a", "-m", FIXTURE, "--image", PICTURE], 1, "--mmproj"),
        (&["run", "a", "-m", FIXTURE, "--audio", SOUND], 1, "--mmproj"),
        (
            &["run", "a", "-m", TINY, "--mmproj", "models/fixtures/media-mmproj.gguf"],
            1,
            "media-mmproj.gguf",
        ),
        (&["run", "a", "--audio", &empty], 1, "empty.wav"),
        (&["run", "a", "--audio", &silent], 1, "silent.wav"),
        (&["run", "a", "--audio", &short], 1, "short.wav"),
        (&["run", "a", "--image", &flat], 1, "flat.bmp"),
        (&["run", "a", "--image", "nowhere.png"], 1, "nowhere.png"),
        (&["run", &long, "--ctx", "64"], 1, "--ctx"),
        (&["run", "a", "--memory", "1KiB"], 1, "limit is 1.0 KiB"),
    ];
    let mut failures = Vec::new();
    for (words, code, said) in rows {
        let output = culet(words);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let right = output.status.code() == Some(code)
            && stderr.starts_with("error: ")
            && stderr.contains(said)
            && !stderr.contains("panic")
            && output.stdout.is_empty();
        if !right {
            failures.push(format!("{words:?}: {}, expected {code}: {stderr}", output.status));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_reader_that_leaves_ends_the_program_quietly() {
    let words = ["run", "a", "-m", FIXTURE, "--greedy", "-n", "200", "-t", "1"];
    let mut command = program(&words);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(child.wait().unwrap().success(), "{stderr}");
    assert_eq!(stderr, "");
}

#[cfg(unix)]
#[test]
fn an_interrupt_stops_the_answer() {
    let words = ["run", "a", "-m", FIXTURE, "--greedy", "-t", "1"];
    let mut command = program(&words);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // The first byte comes while the answer is made.
    stdout.read_exact(&mut [0]).unwrap();
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(rest.last(), Some(&b'\n'));
}

#[test]
fn show_tells_what_is_in_a_file() {
    let text = stdout_of(&["show", TINY]);
    for part in ["gemma4", "attention", "memory at 4096 tokens", "Q4_0"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let words = ["show", MEDIA, "--json", "--tensors", "--metadata", "--ctx", "100"];
    let json = json_of(&words);
    let sum = |list: &Value| -> u64 {
        list.as_array().unwrap().iter().map(|row| row["size_bytes"].as_u64().unwrap()).sum()
    };
    assert_eq!(json["size_bytes"].as_u64().unwrap(), sum(&json["parts"]));
    assert_eq!(sum(&json["parts"]), sum(&json["types"]));
    assert!(json["kv_bytes"].as_u64().unwrap() > 0);
    assert!(json["tensors"].as_array().unwrap().len() > 10);
    assert_eq!(json["metadata"]["general.architecture"], "gemma4");
    let mmproj = json_of(&["show", "models/fixtures/media-mmproj.gguf", "--json"]);
    assert!(mmproj["vision"] == true && mmproj["audio"] == true, "{mmproj}");
    assert_eq!(culet(&["show", TINY, "--ctx", "99999999"]).status.code(), Some(1));
    assert_eq!(culet(&["show", "nowhere.gguf"]).status.code(), Some(1));
}

#[test]
fn help_and_version_go_to_stdout() {
    assert!(stdout_of(&["--version"]).starts_with("culet "));
    for verb in ["run", "show", "probe"] {
        assert!(stdout_of(&[verb, "--help"]).contains("Usage: culet"), "{verb}");
    }
    assert_eq!(culet(&[]).status.code(), Some(2));
    assert_eq!(culet(&["dance"]).status.code(), Some(2));
}

#[test]
fn the_doctor_tells_what_the_machine_has() {
    let report = json_of(&["doctor", "--json"]);
    assert_eq!(report["arch"], std::env::consts::ARCH);
    let devices = report["devices"].as_array().unwrap();
    assert!(devices.iter().any(|d| d["is_gpu"] == false && d["name"].is_string()), "{report}");
    let kernels = report["kernels"].as_object().unwrap();
    let is_known = |v: &Value| ["own", "packed", "plain"].iter().any(|name| v == name);
    assert!(kernels.len() >= 7 && kernels.values().all(is_known), "{report}");
    for list in ["microphones", "speakers", "cameras"] {
        assert!(report[list].is_array() || report[list]["error"].is_string(), "{report}");
    }
    assert!(report["programs"].as_object().unwrap().contains_key("espeak-ng"));
    let text = stdout_of(&["doctor"]);
    assert!(text.lines().all(|line| line.len() > 14), "{text}");
    let mut alone = program(&["doctor", "--json"]);
    let output = alone.env("PATH", "").output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["programs"]["ffmpeg"].is_null(), "{report}");
}

#[test]
fn a_broken_sound_system_is_told_not_a_panic() {
    let scratch = Scratch::new("alsa");
    let broken = scratch.write("asound.conf", "{{{ = ");
    let mut deaf = program(&["doctor", "--json"]);
    let output = deaf.env("ALSA_CONFIG_PATH", broken).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    if cfg!(all(target_os = "linux", feature = "mic")) {
        assert!(report["microphones"]["error"].is_string(), "{report}");
    }
}
