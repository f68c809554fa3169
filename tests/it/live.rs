//! Live voice through real sound devices: a sound server of our own, its microphone and speaker.
//! In: held-out sounds, played to the microphone. Out: calls, texts, and the answer as it sounded.
//! Where no such server can be had, the reason is printed. A loaded machine may delay sound, so
//! what is heard gets several tries; a watch only ends what would wait for ever.

#![expect(clippy::print_stdout, reason = "a test that is left out says why")]

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::Value;

use crate::listen::raw;
use crate::listen::samples;
use crate::listen::seconds;
use crate::listen::talked;
use crate::program::Scratch;
use crate::program::program;

/// Ends a test that waits for what never comes.
const WATCH: Duration = Duration::from_secs(240);
const TRIES: usize = 3;
const SOUND: &str = "models/tiny/heldout/sounds/seen01.flac";
const TOOLS: [&str; 2] = ["--tools", "models/tiny/tools.json"];
const ALSA: &str = "</usr/share/alsa/alsa.conf>\n\
                    pcm.!default { type pulse }\nctl.!default { type pulse }\n";

/// A sound server with a microphone that plays what it is given, and a speaker to listen to.
struct Server {
    child: Child,
    folder: Scratch,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Returns why no server can be had here, if so.
fn missing() -> Option<String> {
    let programs = ["pulseaudio", "pacat", "espeak-ng"];
    if let Some(name) = programs.into_iter().find(|name| !is_installed(name)) {
        return Some(format!("{name} is not installed"));
    }
    let plugin = |folder: std::path::PathBuf| {
        folder.join("alsa-lib/libasound_module_pcm_pulse.so").is_file()
    };
    let folders = ["/usr/lib", "/usr/lib64"].into_iter().flat_map(|folder| {
        let inside = std::fs::read_dir(folder).into_iter().flatten().flatten();
        inside.map(|entry| entry.path()).chain([folder.into()])
    });
    let is_there = Path::new("/usr/share/alsa/alsa.conf").is_file() && { folders }.any(plugin);
    (!is_there).then(|| "ALSA's plugin for PulseAudio is not installed".to_owned())
}

/// Reads lines on a thread of its own, to its end.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // Whoever listens may have heard enough; the stream is read on.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// Waits for a line with one of these in it; all lines up to the end if there is none.
fn wait_for_any(lines: &Receiver<String>, parts: &[&str]) -> Result<String, String> {
    let mut seen = Vec::new();
    while let Ok(line) = lines.recv_timeout(WATCH) {
        if parts.iter().any(|part| line.contains(part)) {
            return Ok(line);
        }
        seen.push(line);
    }
    Err(format!("no line with {parts:?} in {seen:#?}"))
}

fn wait_for(lines: &Receiver<String>, part: &str) -> Result<(), String> {
    wait_for_any(lines, &[part]).map(drop)
}

impl Server {
    /// Starts the server; nothing if it cannot be had, with the reason on stdout.
    fn start(name: &str) -> Option<Self> {
        let folder = Scratch::new(name);
        folder.write("asound.conf", ALSA);
        let started = missing().map_or(Ok(()), Err).and_then(|()| spawn(&folder));
        match started {
            Ok(child) => Some(Self { child, folder }),
            Err(why) => {
                left_out(&why);
                None
            }
        }
    }

    /// Lets a program use this server and no other.
    fn own<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        own(&self.folder, command)
    }

    /// Runs a command of the server and returns what it wrote.
    fn told(&self, words: &[&str]) -> String {
        let output = self.own(Command::new("pactl").args(words)).output().unwrap();
        assert!(output.status.success(), "{words:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Lets the microphone hear the speaker from here on, less loud.
    fn echo(&self) {
        let ends = ["source=speaker.monitor", "sink=vmic", "latency_msec=30", "adjust_time=0"];
        self.told(&[&["load-module", "module-loopback"], &ends[..]].concat());
        let streams = self.told(&["list", "short", "sink-inputs"]);
        let id = streams.split_whitespace().next().unwrap();
        self.told(&["set-sink-input-volume", id, "0.4"]);
    }

    /// Plays a sound at 16 kHz to the microphone, between silences, to its end.
    fn play(&self, sound: &[f32]) {
        self.play_after(1.5, sound);
    }

    /// Plays a sound behind so many seconds of silence, and silence behind it.
    fn play_after(&self, seconds: f32, sound: &[f32]) {
        let before = vec![0.0; (seconds * 16_000.0) as usize];
        let all = [&before[..], sound, &[0.0; 48_000]].concat();
        let mut command = Command::new("pacat");
        command.args(["--playback", "--device=vmic"]).args(RAW).stdin(Stdio::piped());
        let mut child = self.own(&mut command).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&raw(&all)).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Records what the speaker plays until the recorder is ended.
    fn record(&self) -> Child {
        let mut command = Command::new("pacat");
        command.args(["--record", "--device=speaker.monitor"]).args(RAW).stdout(Stdio::piped());
        self.own(&mut command).spawn().unwrap()
    }

    /// Holds a conversation in which this is said once; returns the document at its end.
    fn converse(&self, extra: &[&str], sound: &[f32]) -> Value {
        let held = self.hold(extra, |told, keys| {
            let mut press = || extra.contains(&"--push-to-talk").then(|| keys.write_all(b"\n"));
            press();
            self.play(sound);
            press();
            wait_for(told, "first token")
        });
        held.unwrap()
    }

    /// Holds a conversation with whoever reads the lines that it tells and presses its keys;
    /// returns the document at its end, or what did not come about. No program may fail.
    fn hold(
        &self,
        extra: &[&str],
        act: impl FnOnce(&Receiver<String>, &mut ChildStdin) -> Result<(), String>,
    ) -> Result<Value, String> {
        let words = ["voice", "-t", "1", "--json", "--greedy", "-n", "40"];
        let mut command = program(&[&words[..], extra].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.own(&mut command).spawn().unwrap();
        let mut keys = child.stdin.take().unwrap();
        let told = lines(child.stderr.take().unwrap());
        let greeted = wait_for(&told, "Ctrl-C ends the conversation");
        let acted = greeted.and_then(|()| act(&told, &mut keys));
        if acted.is_err() || !extra.contains(&"--once") {
            interrupt(&child);
        }
        let output = child.wait_with_output().unwrap();
        let told: Vec<String> = told.try_iter().collect();
        assert_eq!(output.status.code(), Some(0), "{acted:?} and then {told:#?}");
        acted.map(|()| serde_json::from_slice(&output.stdout).unwrap())
    }
}

const RAW: [&str; 3] = ["--rate=16000", "--channels=1", "--format=s16le"];

fn own<'a>(folder: &Scratch, command: &'a mut Command) -> &'a mut Command {
    command.env("PULSE_SERVER", format!("unix:{}", folder.path("socket")));
    command.env("ALSA_CONFIG_PATH", folder.path("asound.conf"));
    for name in ["PULSE_RUNTIME_PATH", "PULSE_STATE_PATH", "HOME", "XDG_RUNTIME_DIR"] {
        command.env(name, folder.path(""));
    }
    command.env_remove("PULSE_SINK").env_remove("PULSE_SOURCE")
}

fn spawn(folder: &Scratch) -> Result<Child, String> {
    let mut command = Command::new("pulseaudio");
    let socket =
        format!("module-native-protocol-unix socket={} auth-anonymous=1", folder.path("socket"));
    let modules = [
        socket.as_str(),
        "module-null-sink sink_name=vmic rate=48000 channels=1",
        "module-null-sink sink_name=speaker rate=48000 channels=2",
        "module-remap-source source_name=mic master=vmic.monitor",
    ];
    command.args(["-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1"]);
    command.args(["--disable-shm", "--log-target=stderr", "--log-level=info"]);
    for module in modules {
        command.args(["-L", module]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = own(folder, &mut command).spawn();
    let mut child = child.map_err(|e| format!("pulseaudio cannot be started: {e}"))?;
    let ready = wait_for(&lines(child.stderr.take().unwrap()), "startup complete");
    let ready = ready.and_then(|()| {
        for words in [["set-default-source", "mic"], ["set-default-sink", "speaker"]] {
            let status = own(folder, Command::new("pactl").args(words)).status();
            if !status.as_ref().is_ok_and(|status| status.success()) {
                return Err(format!("pactl cannot set the devices: {status:?}"));
            }
        }
        Ok(())
    });
    if ready.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    ready.map(|()| child)
}

fn interrupt(child: &Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
}

fn left_out(why: &str) {
    println!("real sound devices are left out: {why}");
}

/// Returns how many hundredths of a second of 16-bit sound at 16 kHz are loud.
fn loud(bytes: &[u8]) -> usize {
    let sample = |b: &[u8]| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32_768.0;
    let samples: Vec<f32> = bytes.chunks_exact(2).map(sample).collect();
    samples.chunks(160).filter(|c| c.iter().any(|s| s.abs() > 0.02)).count()
}

#[test]
fn a_microphone_is_heard_like_a_file() {
    let Some(server) = Server::start("live-microphone") else { return };
    let mut found = Vec::new();
    // The small model takes some sounds for others when they are resampled or begin elsewhere.
    for index in [2, 1, 4, 5] {
        let sound = format!("models/tiny/heldout/sounds/seen0{index}.flac");
        let expected = talked(&sound, &TOOLS);
        assert!(expected["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty()));
        let talk = server.converse(&[&TOOLS[..], &["--no-speech"]].concat(), &samples(&sound));
        assert_eq!(talk["counts"]["microphone_losses"], 0, "{talk}");
        let turns = talk["turns"].as_array().unwrap();
        assert!(!turns.is_empty(), "{talk}");
        if turns[0]["tool_calls"] == expected["tool_calls"] {
            return;
        }
        found.push((expected, turns[0].clone()));
    }
    panic!("expected and found: {found:#?}");
}

#[test]
fn the_answer_is_heard_from_the_speaker() {
    let Some(server) = Server::start("live-speaker") else { return };
    let text = talked(SOUND, &[])["text"].as_str().unwrap().to_owned();
    assert!(!text.is_empty());
    let mut found = Vec::new();
    for _ in 0..TRIES {
        let mut recorder = server.record();
        let mut recorded = recorder.stdout.take().unwrap();
        let record = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            recorded.read_to_end(&mut bytes).map(|_| bytes)
        });
        let talk = server.converse(&["--once"], &samples(SOUND));
        interrupt(&recorder);
        recorder.wait().unwrap();
        let n_loud = loud(&record.join().unwrap().unwrap());
        let said = talk["turns"][0]["text"].as_str().unwrap();
        // About a fifteenth of a second for each letter.
        let n_expected = said.len() * 100 / 15;
        if said == text && (n_expected / 2..2 * n_expected).contains(&n_loud) {
            return;
        }
        found.push((said.to_owned(), n_loud));
    }
    panic!("expected {text:?}, found {found:?} with the hundredths of a second that were loud");
}

#[test]
fn what_is_said_between_two_presses_is_a_turn() {
    let Some(server) = Server::start("live-keys") else { return };
    let sound = samples(SOUND);
    let talk = server.converse(&["--push-to-talk", "--no-speech"], &sound);
    let turns = talk["turns"].as_array().unwrap();
    assert_eq!(turns.len(), 1, "{talk}");
    let [from, to] = ["from_s", "to_s"].map(|key| turns[0][key].as_f64().unwrap());
    // Silence before and after it belongs to the turn.
    assert!(to - from > sound.len() as f64 / 16_000.0, "{talk}");
    assert!(!turns[0]["text"].as_str().unwrap().is_empty(), "{talk}");
}

#[test]
fn an_assistant_that_hears_itself_answers_itself() {
    let Some(server) = Server::start("live-loop") else { return };
    server.echo();
    let sound = samples(SOUND);
    let mut found = Vec::new();
    for _ in 0..TRIES {
        let mut next = String::new();
        let held = server.hold(&["--barge-in"], |told, _| {
            server.play(&sound);
            wait_for(told, "heard")?;
            next = wait_for_any(told, &["heard", "first token"])?;
            Ok(())
        });
        // Its own voice interrupts it before it has said anything.
        if next.contains("heard") {
            return;
        }
        found.push(held);
    }
    panic!("the microphone does not hear the speaker: {found:#?}");
}

#[test]
fn without_its_echo_an_assistant_hears_only_the_user() {
    let Some(server) = Server::start("live-echo") else { return };
    server.echo();
    let (sound, over) = (samples(SOUND), samples("models/tiny/heldout/sounds/seen20.flac"));
    let expected = talked("models/tiny/heldout/sounds/seen20.flac", &[])["text"].clone();
    let mut found = Vec::new();
    for _ in 0..TRIES {
        let held = server.hold(&["--barge-in", "--echo-cancel"], |told, _| {
            server.play(&sound);
            wait_for(told, "first token")?;
            std::thread::scope(|scope| {
                scope.spawn(|| server.play(&sound));
                wait_for(told, "heard")?;
                // The answer is being spoken.
                server.play_after(0.5, &over);
                wait_for(told, "heard")
            })?;
            wait_for(told, "first token")
        });
        let talk = match held {
            Ok(talk) => talk,
            Err(why) => {
                found.push(Value::from(why));
                continue;
            }
        };
        let turns = talk["turns"].as_array().unwrap();
        let is_whole = seconds(&turns[0]) < sound.len() as f64 / 16_000.0 + 0.5;
        // A user who speaks before anything was said goes on with the turn.
        let n_interrupted = ["barge_ins", "rollbacks"].map(|name| talk["counts"][name].as_u64());
        let is_interrupted = n_interrupted.iter().flatten().sum::<u64>() == 1;
        let last = turns[turns.len() - 1]["text"].as_str().unwrap();
        let is_understood = last.ends_with(expected.as_str().unwrap());
        if is_whole && is_interrupted && is_understood && turns.len() <= 3 {
            return;
        }
        found.push(talk);
    }
    panic!("expected {expected} at the end, found {found:#?}");
}
