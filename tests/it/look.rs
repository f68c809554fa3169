//! Verbs that look at pictures, through the built program.
//! In: held-out pictures, the tiny model. Out: forms of answers and of drawn pictures.
//! The shipped model is too weak to assert what it sees.

use std::path::Path;
use std::process::Stdio;

use culet::engine::Engine;
use culet::engine::EngineOptions;

use crate::program::Scratch;
use crate::program::culet;
use crate::program::json_of;
use crate::program::program;
use crate::program::stdout_of;

const SQUARE: &str = "models/tiny/heldout/pictures/picture05.png";
const NUMBER: &str = "models/tiny/heldout/pictures/picture04.png";

#[test]
fn every_verb_answers_in_one_document() {
    let rows: [(&[&str], &str, usize); 5] = [
        (&["caption", SQUARE], "caption", 1),
        (&["ask", SQUARE, "How many shapes are there?"], "ask", 1),
        (&["compare", SQUARE, NUMBER], "compare", 2),
        (&["detect", SQUARE, "green square"], "detect", 1),
        (&["ocr", NUMBER], "ocr", 1),
    ];
    for (words, task, n) in rows {
        let words = [words, &["--json", "--budget", "70", "-n", "8", "-t", "1"]].concat();
        let json = json_of(&words);
        assert_eq!(json["task"], task, "{json}");
        assert!(json["text"].is_string() && json["stop"].is_string(), "{json}");
        let pictures = json["pictures"].as_array().unwrap();
        assert_eq!(pictures.len(), n, "{json}");
        let soft: u64 = pictures.iter().map(|p| p["tokens"].as_u64().unwrap()).sum();
        assert_eq!(json["tokens"]["media"], soft, "{json}");
        assert!(pictures.iter().all(|p| p["budget"] == 70), "{json}");
        assert!(json["times_ms"]["encode"].as_f64().unwrap() > 0.0, "{json}");
    }
}

#[test]
fn the_same_picture_gives_the_same_answer() {
    let words = ["caption", SQUARE, "--budget", "70", "-n", "8", "-t", "1"];
    let text = stdout_of(&words);
    let json = json_of(&[&words[..], &["--json"]].concat());
    assert_eq!(text.trim_end(), json["text"].as_str().unwrap().trim_end());
    let mut command = program(&["caption", "-", "--budget", "70", "-n", "8", "-t", "1"]);
    command.stdin(Stdio::from(std::fs::File::open(SQUARE).unwrap()));
    assert_eq!(String::from_utf8(command.output().unwrap().stdout).unwrap(), text);
}

#[test]
fn budgets_follow_the_task_and_the_model() {
    let words = ["caption", SQUARE, "--json", "-n", "1", "-t", "1"];
    assert_eq!(json_of(&words)["pictures"][0]["budget"], 280);
    let model = Path::new("models/tiny/culet-tiny-q4_0.gguf");
    let mmproj = Path::new("models/tiny/mmproj-culet-tiny-q8_0.gguf");
    let engine = Engine::open(model, Some(mmproj), &EngineOptions::default()).unwrap();
    // Sides, budget wanted, most soft tokens, budget.
    let cases = [
        ((480, 480), 1120, 300, 280),
        ((480, 480), 140, 300, 140),
        ((480, 480), 1120, 100, 70),
        ((480, 480), 1120, 1, 70),
        ((4000, 100), 560, 2000, 560),
    ];
    for (sides, wanted, n_soft_max, budget) in cases {
        let found = engine.vision().unwrap().budget_for(sides, wanted, n_soft_max).unwrap();
        // The longest side may not fit into the model's table of positions.
        let is_lower = sides.0 != sides.1 && found < budget;
        assert!(found == budget || is_lower, "{sides:?}, {wanted}, {n_soft_max}: {found}");
    }
    assert!(engine.vision().unwrap().budget_for((0, 5), 280, 300).is_err());
}

#[test]
fn detections_are_boxes_or_the_answer_as_it_came() {
    let scratch = Scratch::new("detect");
    let output = scratch.path("marked.png");
    let words = ["detect", SQUARE, "square", "--budget", "70", "-n", "60", "-t", "1"];
    let asked = ["--prompt", "green square", "-o", &output, "--json"];
    let json = json_of(&[&words[..], &asked].concat());
    let picture = image::open(SQUARE).unwrap().into_rgb8();
    match json["boxes"].as_array() {
        Some(boxes) => {
            for found in boxes {
                let edge = |name: &str| found[name].as_u64().unwrap() as u32;
                assert!(edge("left") < edge("right") && edge("right") <= picture.width());
                assert!(edge("top") < edge("bottom") && edge("bottom") <= picture.height());
                assert_eq!(found["box_2d"].as_array().unwrap().len(), 4);
            }
            let drawn = image::open(&output).unwrap().into_rgb8();
            assert_eq!(drawn.dimensions(), picture.dimensions());
            assert_eq!(drawn == picture, boxes.is_empty());
        }
        None => {
            assert!(json["boxes"].is_null() && json["text"].is_string(), "{json}");
            assert!(!std::path::Path::new(&output).exists());
        }
    }
}

#[test]
fn tall_pages_are_read_in_pieces() {
    let scratch = Scratch::new("ocr");
    let page = scratch.path("page.png");
    let narrow = image::RgbImage::from_fn(300, 1800, |x, y| {
        image::Rgb([if x % 50 < 25 && y % 60 < 30 { 20 } else { 230 }; 3])
    });
    narrow.save(&page).unwrap();
    let words = ["ocr", &page, "--budget", "70", "-n", "4", "-t", "1", "--json"];
    let json = json_of(&words);
    let pieces = json["pieces"].as_array().unwrap();
    assert!(pieces.len() > 1 && pieces.len() == json["pictures"].as_array().unwrap().len());
    // All pieces are counted, not only the last one.
    let tokens = |name: &str| json["tokens"][name].as_u64().unwrap();
    assert!(tokens("prompt") > tokens("media"), "{json}");
    assert!(tokens("answer") >= pieces.len() as u64, "{json}");
    let edge = |i: usize, name: &str| pieces[i][name].as_u64().unwrap();
    assert_eq!((edge(0, "top"), edge(pieces.len() - 1, "bottom")), (0, 1800));
    for i in 1..pieces.len() {
        assert!(edge(i, "top") < edge(i - 1, "bottom"), "{json}");
    }
}

/// Returns a gif of frames in one colour each.
pub(crate) fn gif(path: &str, greys: &[u8]) {
    let file = std::fs::File::create(path).unwrap();
    let mut encoder = image::codecs::gif::GifEncoder::new(file);
    for grey in greys {
        let frame = image::RgbaImage::from_pixel(96, 96, image::Rgba([*grey, *grey, *grey, 255]));
        encoder.encode_frame(image::Frame::new(frame)).unwrap();
    }
}

#[test]
fn moving_pictures_are_looked_at_by_frame() {
    let scratch = Scratch::new("gif");
    let path = scratch.path("moving.gif");
    gif(&path, &[0, 255]);
    let text = |extra: &[&str]| {
        let words = ["ask", &path, "What?", "--budget", "70", "-n", "2", "--json", "-t", "1"];
        json_of(&[&words[..], extra].concat())["pictures"][0]["width"].clone()
    };
    assert_eq!(text(&[]), 96);
    assert_eq!(text(&["--frame", "1"]), 96);
    let output = culet(&["ask", &path, "What?", "--frame", "2"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("has 2 frames"), "{stderr}");
}

#[test]
fn wrong_pictures_are_errors_that_say_what_to_do() {
    let scratch = Scratch::new("look-wrong");
    let noise = scratch.write("noise.png", "this is no picture");
    let cut = std::fs::read(SQUARE).unwrap();
    let cut = scratch.write("cut.png", &cut[..cut.len() / 2]);
    let rows: [(&[&str], i32, &str); 8] = [
        (&["caption"], 2, "FILE"),
        (&["caption", "nowhere.png"], 1, "nowhere.png"),
        (&["ask", SQUARE], 2, "QUESTION"),
        (&["ocr", &noise], 1, "noise.png"),
        (&["compare", SQUARE, &cut], 1, "cut.png"),
        (&["detect", SQUARE, "cat", "-o", "boxes.txt"], 2, ".png"),
        (&["caption", SQUARE, "--budget", "100"], 2, "70"),
        (&["caption", SQUARE, "-m", "models/fixtures/e2b.gguf"], 1, "--mmproj"),
    ];
    for (words, code, said) in rows {
        let output = culet(words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
        assert!(stderr.contains(said) && output.stdout.is_empty(), "{words:?}: {stderr}");
    }
}
