//! `culet probe` against the goldens: every stage through the built program.
//! In: `tests/golden/`, `models/fixtures/`. Out: differences beyond named tolerances.

use std::path::Path;

use culet::frontend::Patches;
use culet::gguf::Gguf;
use culet::source::image_file;
use culet::text::Tokenizer;
use serde_json::Value;

use crate::npy;
use crate::npy::relative_error;
use crate::program::Scratch;
use crate::program::culet;
use crate::program::json_of;
use crate::program::stdout_of;
use crate::program::wav;

/// Same maths in another order.
const KERNEL: f64 = 1e-4;
/// A half-precision cache against a float32 one.
const HALF_CACHE: f64 = 1e-2;

const TINY: &str = "models/tiny/culet-tiny-q4_0.gguf";
const ODD: &str = "models/fixtures/odd.gguf";
const MEDIA: [&str; 3] =
    ["models/fixtures/media.gguf", "--mmproj", "models/fixtures/media-mmproj.gguf"];

fn golden(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn golden_array(path: &str) -> npy::Array {
    npy::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path))
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

#[test]
fn tokens_and_text_equal_the_goldens() {
    let scratch = Scratch::new("tokens");
    let cases = golden("odd/tokens.json");
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 5);
    // Every program start reads a file, so a part of the cases is enough here.
    for case in cases.iter().step_by(cases.len().div_ceil(12)) {
        let text = scratch.write("text", case["text"].as_str().unwrap());
        let plain = json_of(&["probe", "tokens", ODD, "--text", &text]);
        assert_eq!(plain["ids"], case["ids"], "{case}");
        let control = json_of(&["probe", "tokens", ODD, "--text", &text, "--control"]);
        assert_eq!(control["ids"], case["ids_control"], "{case}");
        let ids = scratch.write("ids.json", plain.to_string());
        let back = json_of(&["probe", "text", ODD, "--ids", &ids]);
        assert_eq!(back["text"], case["decoded"], "{case}");
        let ids = scratch.write("ids.json", control["ids"].to_string());
        let back = json_of(&["probe", "text", ODD, "--ids", &ids]);
        assert_eq!(back["text"], case["decoded"], "{case}");
    }
}

#[test]
fn prompts_equal_the_published_template() {
    let scratch = Scratch::new("prompts");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join(TINY);
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(&tiny).unwrap()).unwrap();
    let marker_free = |text: &str| tokenizer.encode(text).unwrap().len();
    for file in ["calls", "injection", "media", "thinking", "tools", "turns"] {
        let case = golden(&format!("chat/{file}.json"))[0].clone();
        let chat = scratch.write("chat.json", case.to_string());
        let found = json_of(&["probe", "prompt", TINY, "--chat", &chat]);
        assert_eq!(found["prompt"], case["prompt"], "{file}");
        let ids = found["ids"].as_array().unwrap();
        assert!(ids.len() < marker_free(found["prompt"].as_str().unwrap()), "{file}");
        let ids = scratch.write("ids.json", found["ids"].to_string());
        let text = json_of(&["probe", "text", TINY, "--ids", &ids]);
        assert_eq!(text["text"], case["prompt"], "{file}");
    }
}

#[test]
fn parsed_output_equals_the_goldens() {
    let scratch = Scratch::new("parse");
    for case in golden("parse.json").as_array().unwrap() {
        let raw = scratch.write("raw", case["raw"].as_str().unwrap());
        let mut words = vec!["probe", "parse", &raw];
        if case["starts_in_thought"] == true {
            words.push("--in-thought");
        }
        let found = json_of(&words);
        for key in ["thought", "answer", "tool_calls"] {
            let compared = !case[key].is_null();
            assert!(!compared || found[key] == case[key], "{}: {found}", case["name"]);
        }
    }
}

#[test]
fn logits_equal_transformers() {
    let scratch = Scratch::new("logits");
    let out = scratch.path("logits.npy");
    for family in ["e2b", "e4b", "odd", "media"] {
        let model = format!("models/fixtures/{family}.gguf");
        let prompts = golden(&format!("{family}/prompts.json"));
        // The longest is a little over two windows.
        let prompt = prompts["prompts"].as_array().unwrap().last().unwrap();
        let ids = scratch.write("ids.json", prompt["ids"].to_string());
        let file = prompt["logits"].as_str().unwrap();
        let expected = golden_array(&format!("{family}/{file}"));
        let n_vocab = expected.shape[1];
        let last = &expected.values[expected.values.len() - n_vocab..];
        let base = ["probe", "logits", &model, "--ids", &ids, "--out", &out, "--threads", "1"];
        let probe = |extra: &[&str]| {
            assert_eq!(stdout_of(&[&base[..], extra].concat()), "");
            npy::read(Path::new(&out))
        };
        for extra in [&[][..], &["--plan", "full", "--chunk", "5"]] {
            let found = probe(extra);
            assert_eq!(found.shape, expected.shape, "{family} {extra:?}");
            let error = relative_error(&found.values, &expected.values);
            assert!(error < KERNEL, "{family} {extra:?}: {error:.2e}");
        }
        for (extra, tolerance) in [
            (&["--plan", "prefill"][..], KERNEL),
            (&["--plan", "prefill", "--chunk", "3", "--kv", "f32"], KERNEL),
            (&["--plan", "prefill", "--kv", "f16"], HALF_CACHE),
        ] {
            let found = probe(extra);
            assert_eq!(found.shape, [1, n_vocab], "{family} {extra:?}");
            let error = relative_error(&found.values, last);
            assert!(error < tolerance, "{family} {extra:?}: {error:.2e}");
        }
    }
}

#[test]
fn sounds_equal_transformers_in_any_packets() {
    let scratch = Scratch::new("sounds");
    let (out, mel_out) = (scratch.path("soft.npy"), scratch.path("mel.npy"));
    let (mel, soft) = (golden_array("media/sound_mel.npy"), golden_array("media/sound_soft.npy"));
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/media/sound.wav");
    let whole = std::fs::read(whole).unwrap();
    let samples: Vec<i16> =
        whole[44..].as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b)).collect();
    for row in golden("media/sounds.json")["beginnings"].as_array().unwrap() {
        let n = number(&row["n_samples"]);
        let sound = scratch.write("sound.wav", wav(&samples[..n]));
        let base =
            [&["probe", "audio"][..], &MEDIA, &["--audio", &sound, "--out", &out, "-t", "1"]]
                .concat();
        let (n_mel, n_soft) = (number(&row["n_mel"]), number(&row["n_soft"]));
        if n_soft == 0 {
            assert_eq!(culet(&base).status.code(), Some(1), "{row}");
            continue;
        }
        stdout_of(&[&base[..], &["--mel", &mel_out]].concat());
        let check = |path: &str, all: &npy::Array, first: usize, n: usize| {
            let found = npy::read(Path::new(path));
            let width = all.shape[1];
            assert_eq!(found.shape, [n, width], "{row}");
            let expected = &all.values[first * width..(first + n) * width];
            let error = relative_error(&found.values, expected);
            assert!(error < KERNEL, "{row}: {error:.2e}");
            found.values
        };
        check(&mel_out, &mel, number(&row["first_mel_row"]), n_mel);
        let values = check(&out, &soft, number(&row["first_soft_row"]), n_soft);
        let packets: &[&str] = match n {
            1281 => &["1", "159"],
            40_000 => &["641"],
            _ => &[],
        };
        for packet in packets {
            stdout_of(&[&base[..], &["--packet", packet]].concat());
            assert!(npy::read(Path::new(&out)).values == values, "{row}, packets of {packet}");
        }
    }
}

#[test]
fn pictures_equal_transformers() {
    let scratch = Scratch::new("pictures");
    let (out, patches_out) = (scratch.path("soft.npy"), scratch.path("patches.npy"));
    let soft = golden_array("media/picture_soft.npy");
    let index = golden("media/pictures.json");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rows = index["pictures"].as_array().unwrap();
    for row in rows.iter().filter(|row| row["lossy"] == false && number(&row["budget"]) <= 280) {
        let file = format!("tests/golden/media/pictures/{}", row["file"].as_str().unwrap());
        let budget = row["budget"].to_string();
        let words = ["--image", &file, "--budget", &budget, "--out", &out, "-t", "1"];
        let more = ["--patches", &patches_out];
        stdout_of(&[&["probe", "vision"][..], &MEDIA, &words, &more].concat());
        let found = npy::read(Path::new(&patches_out));
        let n = number(&row["patches_x"]) * number(&row["patches_y"]);
        assert_eq!(found.shape, [n, 768], "{row}");
        // That they equal Pillow's pixels is a test of the front end.
        let frame = image_file::open(&root.join(&file)).unwrap();
        let patches = Patches::from_frame(&frame, number(&row["budget"]) as u32).unwrap();
        assert!(found.values == patches.data, "{row}");
        let found = npy::read(Path::new(&out));
        let (n, from) = (number(&row["n_soft"]), number(&row["first_soft_row"]));
        let width = soft.shape[1];
        assert_eq!(found.shape, [n, width], "{row}");
        let expected = &soft.values[from * width..(from + n) * width];
        let error = relative_error(&found.values, expected);
        assert!(error < KERNEL, "{row}: {error:.2e}");
    }
}

#[test]
fn answers_come_with_what_their_tokens_were_chosen_from() {
    let scratch = Scratch::new("answers");
    let out = scratch.path("logits.npy");
    let words = ["What is the capital of France?", "-m", TINY, "--greedy", "-n", "5", "-t", "1"];
    let found = json_of(&[&["probe", "answer", "--out", &out][..], &words].concat());
    let said = json_of(&[&["run", "--json"][..], &words].concat());
    assert_eq!(found["text"], said["text"]);
    let rows = npy::read(Path::new(&out));
    assert_eq!(rows.shape[0], number(&said["tokens"]["answer"]));
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let ids: Vec<usize> = rows.values.chunks(rows.shape[1]).map(best).collect();
    let ids = scratch.write("ids.json", format!("{ids:?}"));
    assert_eq!(json_of(&["probe", "text", TINY, "--ids", &ids])["text"], found["text"]);
}

#[test]
fn bad_probes_are_errors() {
    let scratch = Scratch::new("bad-probes");
    let (out, text) = (scratch.path("out.npy"), scratch.write("text", b"\xff\xfe"));
    let none = scratch.write("none.json", "[]");
    let number = scratch.write("number.json", "7");
    let high = scratch.write("high.json", "[1, 999999]");
    let long = scratch.write("long.json", format!("{:?}", vec![1; 5000]));
    let broken = scratch.write("broken.json", "{\"ids\": [1,");
    let e2b = "models/fixtures/e2b.gguf";
    let logits = ["probe", "logits", e2b, "--out", &out, "--ids"];
    let rows: [(&[&str], &str); 9] = [
        (&["probe", "tokens", ODD, "--text", &text], "UTF-8"),
        (&["probe", "tokens", ODD, "--text", "nowhere"], "nowhere"),
        (&["probe", "text", ODD, "--ids", &high], "999999"),
        (&[&logits[..], &[&none]].concat(), "at least one"),
        (&[&logits[..], &[&high]].concat(), "999999"),
        (&[&logits[..], &[&long]].concat(), "4096"),
        (&[&logits[..], &[&broken]].concat(), "line 1"),
        (&["probe", "prompt", TINY, "--chat", &number], "conversation"),
        (&["probe", "logits", e2b, "--ids", &high, "--out", "/nowhere/at/all.npy"], "999999"),
    ];
    for (words, said) in rows {
        let output = culet(words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(said), "{words:?}: {stderr}");
    }
    assert_eq!(culet(&["probe", "logits", e2b]).status.code(), Some(2));
}
