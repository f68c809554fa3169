//! What a model says: thought, answer, tool calls, boxes, pages.
//! In: text, of which a model may write any. Out: nothing; text may not bring us down.
#![no_main]

use culet_fuzz::frontend::pages;
use culet_fuzz::quiet;
use culet_fuzz::text::Boxes;
use culet_fuzz::text::parse_text;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quiet(), |text: &str| {
    for starts_in_thought in [false, true] {
        let parsed = parse_text(text, starts_in_thought);
        assert!(parsed.to_json().is_object());
        if let Some(boxes) = Boxes::read(&parsed.answer) {
            for found in &boxes.found {
                let _ = found.pixels(640, 480);
            }
        }
        let mut page = parsed.thought;
        pages::join(&mut page, &parsed.answer);
    }
});
