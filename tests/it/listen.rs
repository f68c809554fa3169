//! Verbs that listen: what they write for a file, for a pipe and for mere noise.
//! In: held-out sounds and the tiny model. Out: text, equal to what a session makes of the sound.

use std::io::Write;
use std::path::Path;
use std::process::Output;
use std::process::Stdio;

use culet::Pcm;
use culet::assistant::Talk;
use culet::assistant::TurnOptions;
use culet::engine::Engine;
use culet::engine::EngineOptions;
use culet::frontend::EchoCanceller;
use culet::ggml::BackendOptions;
use culet::sampler::SamplingOptions;
use culet::session::Session;
use culet::session::SessionOptions;
use culet::source::SoundFile;
use culet::text::Conversation;
use culet::text::Event;
use serde_json::Value;

use crate::program::Scratch;
use crate::program::culet;
use crate::program::json_of;
use crate::program::program;
use crate::random::Rng;

pub(crate) const PICTURES: &str = "models/tiny/heldout/pictures";
const SOUND: &str = "models/tiny/heldout/sounds/seen01.flac";
const MODEL: &str = "models/tiny/culet-tiny-q4_0.gguf";
const MMPROJ: &str = "models/tiny/mmproj-culet-tiny-q8_0.gguf";

/// Returns the samples of a sound of the repository.
pub(crate) fn samples(path: &str) -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    SoundFile::open(&path).unwrap().flat_map(|block| block.unwrap().samples).collect()
}

/// Returns samples as raw 16-bit sound.
pub(crate) fn raw(samples: &[f32]) -> Vec<u8> {
    samples.iter().flat_map(|s| ((s * 32_768.0).round() as i16).to_le_bytes()).collect()
}

/// Runs the program with these bytes as its stdin.
pub(crate) fn fed(words: &[&str], bytes: Vec<u8>) -> Output {
    let mut command = program(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().unwrap();
    // The program may have ended before it read everything.
    let _ = writer.join().unwrap();
    output
}

fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Starts a session of the tiny model as the program does.
pub(crate) fn session(n_ctx: usize) -> Session {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let backend = BackendOptions { n_threads: 1, gpu: None };
    let options = EngineOptions { backend, ..EngineOptions::default() };
    let engine = Engine::open(&root.join(MODEL), Some(&root.join(MMPROJ)), &options).unwrap();
    let sampling = SamplingOptions::greedy();
    let n_ctx = n_ctx.min(engine.decoder().hparams().n_ctx_train);
    let options = SessionOptions { n_ctx, sampling, ..SessionOptions::default() };
    Session::new(&engine, &options).unwrap()
}

/// Returns what a session writes when it is given a whole sound behind these words.
fn written(words: &str, samples: &[f32], n_tokens: usize) -> String {
    let mut session = session(2048);
    let pcm = Pcm { samples: samples.to_vec(), rate_hz: 16_000, captured_at_ns: 0 };
    let sound = session.encode_sound([Ok(pcm)]).unwrap();
    let chat = serde_json::json!({"messages": [{"role": "user", "content": [
        {"type": "text", "text": words}, {"type": "audio"}]}]});
    session.prompt(&Conversation::from_json(&chat).unwrap(), &[sound]).unwrap();
    let mut text = String::new();
    for _ in 0..n_tokens {
        let goes_on = session.next(&mut |event| {
            if let Event::Answer(more) = event {
                text.push_str(more);
            }
        });
        if !goes_on.unwrap() {
            break;
        }
    }
    text.trim().to_owned()
}

#[test]
fn a_transcript_is_what_a_session_makes_of_the_segment() {
    let found = json_of(&["transcribe", "-t", "1", "--json", "--prompt", "Hm?", "--audio", SOUND]);
    let all = samples(SOUND);
    let seconds = all.len() as f64 / 16_000.0;
    assert!((found["seconds"].as_f64().unwrap() - seconds).abs() < 1e-3);
    let segments = found["segments"].as_array().unwrap();
    assert_eq!(segments.len(), 1, "{found}");
    let times = ["start", "end"].map(|key| segments[0][key].as_f64().unwrap());
    assert!(times[0] < 0.6 && times[1] > seconds - 1.2 && times[1] <= seconds, "{found}");
    let [from, to] = times.map(|s| (s * 16_000.0).round() as usize);
    let n_tokens = 64 + (20.0 * (to - from) as f64 / 16_000.0) as usize;
    assert_eq!(segments[0]["text"], written("Hm?", &all[from..to], n_tokens));
}

#[test]
fn a_pipe_is_heard_like_a_file() {
    let words = ["transcribe", "-t", "1", "--json", "-l", "English"];
    let file = json_of(&[&words[..], &["--audio", SOUND]].concat());
    let piped = fed(&[&words[..], &["--stdin"]].concat(), raw(&samples(SOUND)));
    assert_eq!(json(&piped), file);
}

#[test]
fn long_speech_is_cut_into_segments_in_order() {
    let mut long = Vec::new();
    for index in 0..4 {
        long.extend(samples(&format!("models/tiny/heldout/sounds/seen0{index}.flac")));
        long.extend(vec![0.0; 24_000]);
    }
    let words = ["transcribe", "-t", "1", "--stdin", "--json"];
    let found = json(&fed(&words, raw(&long)));
    let segments = found["segments"].as_array().unwrap();
    assert!(segments.len() >= 3, "{found}");
    let mut last = 0.0;
    for segment in segments {
        let [start, end] = ["start", "end"].map(|key| segment[key].as_f64().unwrap());
        assert!(start >= last && end > start && end - start <= 30.0, "{found}");
        last = end;
    }
}

#[test]
fn noise_gives_no_text() {
    let mut random = Rng(5);
    let noise = (0..48_000).map(|_| (random.next() % 1000) as f32 / 1e5 - 0.005);
    for sound in [noise.collect(), vec![0.0; 32_000], Vec::new()] {
        let output = fed(&["transcribe", "--stdin"], raw(&sound));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert!(output.stdout.is_empty() && stderr.contains("no speech"), "{stderr}");
    }
}

#[test]
fn wrong_sounds_say_what_to_do() {
    let output = culet(&["transcribe"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--audio"));
    let output = fed(&["transcribe", "--stdin"], b"RIFF and so on".to_vec());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/dev/stdin"));
    let words = ["transcribe", "-m", "models/fixtures/e2b.gguf", "--no-mmproj", "--audio", SOUND];
    let output = culet(&words);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mmproj"));
    let output = culet(&["translate", "--audio", SOUND]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_decoder_that_panics_is_told_as_a_damaged_file_alone() {
    // Of 65,535 channels a frame's bytes do not fit the 16 bits in which the decoder counts them.
    let format = [&[1, 0, 255, 255][..], &16_000_u32.to_le_bytes(), &[0, 0, 0, 0, 0, 0, 16, 0]];
    let sound =
        [&b"RIFF\x28\0\0\0WAVEfmt \x10\0\0\0"[..], &format.concat(), b"data\x04\0\0\0\0\0\0\0"];
    let scratch = Scratch::new("panics");
    let sound = scratch.write("panics.wav", sound.concat());
    let output = culet(&["transcribe", "--audio", &sound]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let damaged = "panics.wav: is damaged in a way that no decoder expects";
    assert!(said.contains(damaged) && !said.contains("panicked"), "{said}");
}

/// Returns what `run` makes of a whole sound.
fn asked(sound: &str, extra: &[&str]) -> Value {
    let words = ["run", "-t", "1", "--json", "--greedy", "-n", "40", "--audio", sound];
    json_of(&[&words[..], extra].concat())
}

/// Returns the only turn of a conversation about a sound.
pub(crate) fn talked(sound: &str, extra: &[&str]) -> Value {
    let words = ["voice", "-t", "1", "--json", "--greedy", "-n", "40", "--audio", sound];
    let found = json_of(&[&words[..], extra].concat());
    assert_eq!(found["turns"].as_array().unwrap().len(), 1, "{found}");
    found["turns"][0].clone()
}

#[test]
fn a_spoken_turn_is_answered_like_the_whole_sound() {
    let tools = ["--tools", "models/tiny/tools.json"];
    let mut n_calls = 0;
    for index in 0..4 {
        let sound = format!("models/tiny/heldout/sounds/seen0{index}.flac");
        // Without an end in a pause, the turn is the sound from its first word's pre-roll on.
        let waits = ["--guess", "0", "--silence", "10000"];
        let turn = talked(&sound, &[&tools[..], &waits].concat());
        let seconds = samples(&sound).len() as f64 / 16_000.0;
        assert!((turn["to_s"].as_f64().unwrap() - seconds).abs() < 1e-3, "{turn}");
        if turn["from_s"] == 0.0 {
            let whole = asked(&sound, &tools);
            assert_eq!(turn["text"].as_str().unwrap(), whole["text"].as_str().unwrap().trim());
            assert_eq!(turn["tool_calls"], whole["tool_calls"]);
            assert_eq!(turn["answer_tokens"], whole["tokens"]["answer"]);
            n_calls += whole["tool_calls"].as_array().unwrap().len();
        }
    }
    assert!(n_calls > 0, "no sound was compared");
}

#[test]
fn a_turn_that_is_found_by_its_level_is_answered_alike() {
    let waits = ["--tools", "models/tiny/tools.json", "--guess", "0", "--silence", "10000"];
    let sound = "models/tiny/heldout/sounds/seen00.flac";
    let [a, b] =
        ["network", "energy"].map(|vad| talked(sound, &[&waits[..], &["--vad", vad]].concat()));
    assert_eq!(a["to_s"], b["to_s"]);
    assert_eq!(a["tool_calls"], b["tool_calls"]);
    assert_eq!(a["text"], b["text"]);
}

#[test]
fn a_guessed_end_changes_no_answer() {
    let tools = ["--tools", "models/tiny/tools.json", "--silence", "400"];
    let sound = "models/tiny/heldout/sounds/seen00.flac";
    let guessed = talked(sound, &[&tools[..], &["--guess", "200"]].concat());
    let again = talked(sound, &[&tools[..], &["--guess", "200"]].concat());
    assert_eq!(guessed["tool_calls"], again["tool_calls"]);
    assert_eq!(guessed["text"], again["text"]);
    assert!(guessed["first_token_ms"].as_f64().unwrap() > 0.0);
}

#[cfg(unix)]
#[test]
fn a_tool_is_carried_out_and_the_answer_goes_on() {
    let scratch = crate::program::Scratch::new("tool");
    let log = scratch.path("arguments.json");
    let tools = ["--tools", "models/tiny/tools.json"];
    let call = talked(SOUND, &tools)["tool_calls"][0].clone();
    let name = call["name"].as_str().unwrap();
    let command = format!("{name}=tee {log}");
    let turn = talked(SOUND, &[&tools[..], &["--tool", &command]].concat());
    assert_eq!(turn["tool_calls"][0], call);
    let told: Value = serde_json::from_slice(&std::fs::read(log).unwrap()).unwrap();
    assert_eq!(told, call["arguments"]);
    let n_alone = talked(SOUND, &tools)["answer_tokens"].as_u64().unwrap();
    assert!(turn["answer_tokens"].as_u64().unwrap() > n_alone, "{turn}");
    let missing = format!("{name}=./no/such/command");
    let turn = talked(SOUND, &[&tools[..], &["--tool", &missing]].concat());
    assert!(turn["answer_tokens"].as_u64().unwrap() > n_alone, "{turn}");
}

#[test]
fn the_newest_picture_goes_in_before_the_question() {
    let sounds = (0..4).map(|index| format!("models/tiny/heldout/sounds/seen0{index}.flac"));
    let waits = ["--guess", "0", "--silence", "10000", "--frames", PICTURES];
    let picture = format!("{PICTURES}/picture00.png");
    let mut n_compared = 0;
    for sound in sounds {
        let turn = talked(&sound, &waits);
        assert!(turn["picture_tokens"].as_u64().unwrap() > 40, "{turn}");
        if turn["from_s"] == 0.0 {
            let words = ["run", "-t", "1", "--json", "--greedy", "-n", "40", "--budget", "70"];
            let shown = ["--image", &picture, "--audio", &sound];
            let whole = json_of(&[&words[..], &shown].concat());
            assert_eq!(turn["text"].as_str().unwrap(), whole["text"].as_str().unwrap().trim());
            assert_eq!(turn["answer_tokens"], whole["tokens"]["answer"]);
            n_compared += 1;
        }
    }
    assert!(n_compared > 0, "no sound was compared");
}

#[test]
fn an_unchanged_scene_is_not_looked_at_again() {
    let scratch = crate::program::Scratch::new("voice-frames");
    let mut long = Vec::new();
    for index in [0, 1] {
        long.extend(samples(&format!("models/tiny/heldout/sounds/seen0{index}.flac")));
        long.extend(vec![0.0; 24_000]);
    }
    let words = ["voice", "-t", "1", "--json", "--greedy", "-n", "8", "--stdin", "--frames"];
    let seen = |greys: &[u8]| -> Vec<bool> {
        let moving = scratch.path("moving.gif");
        crate::look::gif(&moving, greys);
        let found = json(&fed(&[&words[..], &[&moving]].concat(), raw(&long)));
        let turns = found["turns"].as_array().unwrap();
        turns.iter().map(|turn| turn["picture_tokens"] != 0).collect()
    };
    assert_eq!(seen(&[20; 40])[..2], [true, false]);
    let changing: Vec<u8> = (0..40).map(|n| if n % 2 == 0 { 20 } else { 220 }).collect();
    assert!(seen(&changing)[0]);
    assert_eq!(seen(&[20])[..2], [true, false]);
}

#[test]
fn turn_after_turn_is_heard_from_a_pipe() {
    let mut long = Vec::new();
    for index in [0, 1] {
        long.extend(samples(&format!("models/tiny/heldout/sounds/seen0{index}.flac")));
        long.extend(vec![0.0; 24_000]);
    }
    let words = ["voice", "-t", "1", "--json", "--greedy", "-n", "30", "--stdin"];
    let tools = ["--tools", "models/tiny/tools.json"];
    let found = json(&fed(&[&words[..], &tools].concat(), raw(&long)));
    let turns = found["turns"].as_array().unwrap();
    assert!(turns.len() >= 2, "{found}");
    assert!(turns[1]["from_s"].as_f64() > turns[0]["to_s"].as_f64(), "{found}");
}

/// Returns how long the sound of a turn is.
pub(crate) fn seconds(turn: &Value) -> f64 {
    turn["to_s"].as_f64().unwrap() - turn["from_s"].as_f64().unwrap()
}

/// Returns so many short questions, each with its pause, and then one of so many seconds.
fn questions(n_short: usize, long_s: usize) -> Vec<f32> {
    let sound = |i: usize| samples(&format!("models/tiny/heldout/sounds/seen0{}.flac", i % 8));
    let pause = vec![0.0; 24_000];
    let short = (0..n_short).flat_map(|i| [sound(i), pause.clone()].concat());
    let is_sound = |s: &f32| *s != 0.0;
    let trimmed = |i: usize| {
        let all = sound(i);
        let [from, to] = [all.iter().position(is_sound), all.iter().rposition(is_sound)];
        all[from.unwrap()..to.unwrap()].to_vec()
    };
    let long = (0..).flat_map(trimmed).take(long_s * 16_000);
    short.chain(long).chain(pause.clone()).collect()
}

#[test]
fn a_long_turn_in_a_long_conversation_is_heard_to_its_end() {
    let words = ["voice", "-t", "1", "--json", "--greedy", "-n", "20", "--stdin"];
    let output = fed(&[&words[..], &["-v"]].concat(), raw(&questions(36, 70)));
    let found = json(&output);
    let turns = found["turns"].as_array().unwrap();
    assert_eq!(turns.len(), 37, "{found}");
    assert!(seconds(&turns[36]) > 69.0, "{}", turns[36]);
    // The first turns are forgotten while the last goes on.
    let told = String::from_utf8_lossy(&output.stderr);
    let (_, last) = told.rsplit_once("hearing").unwrap();
    let [forgotten, heard] = ["was forgotten", "heard "].map(|part| last.find(part).unwrap());
    assert!(forgotten < heard, "{last}");
}

#[test]
fn a_turn_that_does_not_fit_is_answered_where_it_is_full() {
    let words = ["voice", "-t", "1", "--json", "--greedy", "-n", "20", "--stdin"];
    let tools = ["--tools", "models/tiny/tools.json", "--ctx"];
    let output = fed(&[&words[..], &tools, &["1024"]].concat(), raw(&questions(1, 20)));
    let found = json(&output);
    let turns = found["turns"].as_array().unwrap();
    assert!(turns.len() >= 3, "{found}");
    assert!(turns.iter().any(|turn| (8.0..19.0).contains(&seconds(turn))), "{found}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is full; the turn ends"));
    let output = fed(&[&words[..], &tools, &["680"]].concat(), raw(&questions(1, 1)));
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("leaves too few of 680") && told.contains("raise --ctx to"), "{told}");
}

#[test]
fn a_conversation_that_begins_with_media_is_refused() {
    let content = serde_json::json!([{ "type": "audio" }]);
    let opening = serde_json::json!([{ "role": "user", "content": content }]);
    let opening = Conversation::from_json(&opening).unwrap();
    let talk = Talk::new(session(256), opening, &TurnOptions::default(), (false, 8), 0);
    let message = talk.err().unwrap().to_string();
    assert!(message.contains("name 1 media, expected none"), "{message}");
}

#[test]
fn a_picture_that_does_not_fit_is_left_out() {
    let words = ["voice", "-t", "1", "--json", "--greedy", "-n", "8", "--audio", SOUND];
    let seen = |n_ctx: &str| {
        let output = culet(&[&words[..], &["--frames", PICTURES, "--ctx", n_ctx]].concat());
        let told = String::from_utf8_lossy(&output.stderr).contains("goes on without it");
        let turn = json(&output)["turns"][0].clone();
        assert!(turn["answer_tokens"].as_u64().unwrap() > 0, "{turn}");
        (turn["picture_tokens"].as_u64().unwrap() > 0, told)
    };
    assert_eq!(["512", "160"].map(seen), [(true, false), (false, true)]);
    // What does not fit into memory is told before anybody speaks.
    let output = culet(&[&words[..], &["--frames", PICTURES, "--memory", "31MiB"]].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("a picture of 70 soft tokens") && !told.contains("hearing"), "{told}");
}

#[cfg(unix)]
#[test]
fn a_result_that_does_not_fit_is_told_to_the_model() {
    let tools = ["--tools", "models/tiny/tools.json", "--ctx", "1024"];
    let name = talked(SOUND, &tools)["tool_calls"][0]["name"].as_str().unwrap().to_owned();
    let words = ["voice", "-t", "1", "--json", "--greedy", "-n", "40", "--audio", SOUND];
    let answer = |n: u32| {
        let tool = format!("{name}=seq 1 {n}");
        let output = culet(&[&words[..], &tools, &["--tool", &tool]].concat());
        let told = String::from_utf8_lossy(&output.stderr).contains("the model is told so");
        (json(&output)["turns"][0]["answer_tokens"].as_u64().unwrap(), told)
    };
    let [(n_short, short_told), (n_long, long_told)] = [answer(2), answer(3_000)];
    assert!(n_short > 0 && n_long > 0);
    assert_eq!([short_told, long_told], [false, true]);
}

/// Sounds that say "turn off the lamp", "turn off the hallway lights" and "set the temperature".
const LAMP: &str = "models/tiny/heldout/sounds/seen10.flac";
const HALLWAY: &str = "models/tiny/heldout/sounds/seen20.flac";
const TEMPERATURE: &str = "models/tiny/heldout/sounds/seen01.flac";
const WAKE: [&str; 8] =
    ["voice", "-t", "1", "--json", "--greedy", "--tools", "models/tiny/tools.json", "--wake"];

/// Returns the document of a conversation that waits for a phrase, and its calls turn by turn.
fn called(extra: &[&str], sounds: &[&str]) -> (Value, Vec<Value>) {
    let silence = vec![0.0; 24_000];
    let all: Vec<f32> =
        sounds.iter().flat_map(|path| [samples(path), silence.clone()].concat()).collect();
    let found = json(&fed(&[&WAKE[..], extra, &["--stdin"]].concat(), raw(&all)));
    let turns = found["turns"].as_array().unwrap();
    let calls = turns.iter().map(|turn| turn["tool_calls"][0].clone()).collect();
    (found, calls)
}

#[test]
fn what_begins_with_the_wake_word_is_answered_as_without() {
    let plain = talked(HALLWAY, &["--tools", "models/tiny/tools.json"]);
    let found = json_of(&[&WAKE[..], &["Turn OFF!", "--audio", HALLWAY]].concat());
    let turn = &found["turns"][0];
    for part in ["from_s", "to_s", "text", "tool_calls", "answer_tokens"] {
        assert_eq!(turn[part], plain[part], "{found}");
    }
    assert_eq!((&found["counts"]["wakes"], &found["counts"]["overheard"]), (&1.into(), &0.into()));
    let found = json_of(&[&WAKE[..], &["turn off", "--audio", TEMPERATURE]].concat());
    assert_eq!(found["turns"].as_array().unwrap().len(), 0, "{found}");
    assert_eq!((&found["counts"]["wakes"], &found["counts"]["overheard"]), (&0.into(), &1.into()));
}

#[test]
fn what_follows_the_wake_word_or_an_answer_needs_none() {
    let (alone, calls) = called(&["turn off the lamp"], &[TEMPERATURE, LAMP, HALLWAY]);
    assert_eq!(calls.len(), 1, "{alone}");
    assert_eq!(calls[0]["arguments"]["room"], "hallway", "{alone}");
    assert_eq!(alone["counts"]["overheard"], 1, "{alone}");
    let (followed, calls) = called(&["turn off"], &[HALLWAY, TEMPERATURE]);
    assert_eq!(calls.len(), 2, "{followed}");
    assert_eq!(calls[1]["name"], "set_thermostat", "{followed}");
    let (single, calls) = called(&["turn off", "--follow-up", "0"], &[HALLWAY, TEMPERATURE]);
    assert_eq!(calls.len(), 1, "{single}");
    assert_eq!(single["counts"]["overheard"], 1, "{single}");
}

#[test]
fn a_small_model_wakes_another() {
    let other = ["-m", "models/fixtures/media.gguf", "-n", "4", "--audio"];
    let heard = |sound| json_of(&[&WAKE[..], &["turn off"], &other, &[sound]].concat());
    let (woken, not) = (heard(HALLWAY), heard(TEMPERATURE));
    assert_eq!(woken["turns"].as_array().unwrap().len(), 1, "{woken}");
    assert_eq!(not["turns"].as_array().unwrap().len(), 0, "{not}");
    // The other model hears other words in it.
    let deaf = ["--wake-model", "models/fixtures/media.gguf", "--audio", HALLWAY];
    let found = json_of(&[&WAKE[..], &["turn off"], &deaf].concat());
    assert_eq!(found["counts"]["wakes"], 0, "{found}");
}

#[test]
fn wake_words_that_nobody_can_hear_are_refused() {
    let output = culet(&[&WAKE[..], &["hello jarvis", "--audio", SOUND]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("\"jarvis\"") && stderr.contains("--wake-model"), "{stderr}");
    for wrong in [&["?!"][..], &["hello", "--follow-up", "-1"], &["hello", "--push-to-talk"]] {
        assert_eq!(culet(&[&WAKE[..], wrong].concat()).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn the_user_is_understood_while_the_speaker_plays() {
    const SECOND: usize = 16_000;
    let (voice, user) = (samples(TEMPERATURE), samples(HALLWAY));
    let played: Vec<f32> = voice.iter().copied().cycle().take(12 * SECOND).collect();
    let echo = |i: usize, later: usize| i.checked_sub(960 + later).map_or(0.0, |i| played[i]);
    let heard = |i: usize| {
        let said = i.checked_sub(8 * SECOND).and_then(|i| user.get(i)).copied().unwrap_or(0.0);
        said + 0.5 * echo(i, 0) + 0.25 * echo(i, 37) - 0.15 * echo(i, 210) + 0.08 * echo(i, 800)
    };
    let heard: Vec<f32> = (0..played.len()).map(heard).collect();
    let mut canceller = EchoCanceller::new().unwrap();
    let pcm =
        |samples: &[f32]| Pcm { samples: samples.to_vec(), rate_hz: 16_000, captured_at_ns: 0 };
    let mut cleaned = Vec::new();
    for (played, heard) in played.chunks(320).zip(heard.chunks(320)) {
        canceller.play(&pcm(played)).unwrap();
        cleaned.extend(canceller.hear(&pcm(heard)).unwrap().samples);
    }
    let spoken = 8 * SECOND - 4_800..(8 * SECOND + user.len() + 9_600).min(cleaned.len());
    let words = ["transcribe", "-t", "1", "--json", "--stdin"];
    let text = |sound: &[f32]| json(&fed(&words, raw(sound)))["text"].clone();
    assert_eq!(text(&cleaned[spoken.clone()]), "turn off the hallway lights");
    assert_ne!(text(&heard[spoken]), "turn off the hallway lights");
}

#[test]
fn noise_is_no_turn() {
    let mut random = Rng(9);
    let noise = (0..64_000).map(|_| (random.next() % 1000) as f32 / 1e5 - 0.005);
    let found = json(&fed(&["voice", "--stdin", "--json"], raw(&noise.collect::<Vec<_>>())));
    assert_eq!(found["turns"].as_array().unwrap().len(), 0, "{found}");
}
