//! The header equals what the sources say.
//!
//! In: the sources of the C interface. Out: `include/culet.h`, rewritten if `UPDATE=1` is set.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its tree has failed")]

use std::path::Path;

use cbindgen::Builder;
use cbindgen::Config;
use cbindgen::ExportConfig;
use cbindgen::Language;
use cbindgen::Style;

/// Files with public items, in the header's order.
const SOURCES: [&str; 12] = [
    "status",
    "log",
    "engine",
    "event",
    "session/option",
    "session/object",
    "session/append",
    "session/answer",
    "session/live",
    "assistant/option",
    "assistant/event",
    "assistant/object",
];

const NAMES: [(&str, &str); 13] = [
    ("Status", "culet_status"),
    ("Error", "culet_error"),
    ("LogCallback", "culet_log_callback"),
    ("File", "culet_file"),
    ("EngineOptions", "culet_engine_options"),
    ("Engine", "culet_engine"),
    ("Event", "culet_event"),
    ("SessionOptions", "culet_session_options"),
    ("Session", "culet_session"),
    ("Stats", "culet_stats"),
    ("AssistantOptions", "culet_assistant_options"),
    ("AssistantEvent", "culet_assistant_event"),
    ("Assistant", "culet_assistant"),
];

const HEAD: &str = "\
/*
 * Culet: Gemma 4 E2B and E4B on this device. It hears, sees, answers and calls tools.
 *
 * Status     Calls that can fail return CULET_OK (0) or one of CULET_ERR_, and tell the reason in
 *            the caller's culet_error, which may be NULL.
 * Results    are written only on success. Views (data, len) stay valid until the next call on the
 *            same object. Only what a comment says may be NULL may be NULL.
 * Ownership  _new and _open give an object, _free takes it back; NULL is fine there. Objects can
 *            be freed in any order.
 * Threads    A `const T *` may be used by several threads at once, a `T *` by one at a time; any
 *            object may move between threads.
 *
 * This file is written from the library's sources by its tests; do not edit it.
 */";

fn generated() -> String {
    let names = NAMES.map(|(ours, theirs)| (ours.to_owned(), theirs.to_owned()));
    let config = Config {
        language: Language::C,
        style: Style::Both,
        cpp_compat: true,
        header: Some(HEAD.to_owned()),
        include_guard: Some("CULET_H".to_owned()),
        no_includes: true,
        sys_includes: ["stdbool.h", "stddef.h", "stdint.h"].map(str::to_owned).to_vec(),
        usize_is_size_t: true,
        line_length: 100,
        tab_width: 4,
        export: ExportConfig { rename: names.into_iter().collect(), ..Default::default() },
        ..Config::default()
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let builder = SOURCES.iter().fold(Builder::new().with_config(config), |builder, name| {
        builder.with_src(folder.join(name).with_extension("rs"))
    });
    let mut bytes = Vec::new();
    builder.generate().unwrap().write(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn header_is_what_the_sources_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/culet.h");
    let expected = generated();
    if std::env::var_os("UPDATE").is_some_and(|v| v == "1") {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
    let line = found.lines().zip(expected.lines()).position(|(a, b)| a != b);
    assert!(
        found == expected,
        "include/culet.h differs from the sources at line {}; run this test with UPDATE=1",
        line.map_or(found.lines().count().min(expected.lines().count()), |l| l) + 1
    );
}

#[test]
fn every_function_and_type_has_a_name_of_ours_and_a_comment() {
    let text = generated();
    let mut complaints = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        let starts = line.starts_with("typedef") || line.contains("culet_") && line.contains('(');
        let is_item = starts && !line.starts_with([' ', '*', '/', '}']);
        if is_item && !lines[i - 1].trim_end().ends_with("*/") {
            complaints.push(format!("line {}: {line}: no comment", i + 1));
        }
    }
    for ours in ["Error", "Engine ", "Session ", "Options ", "Guarded", "Inner"] {
        if let Some(line) = lines.iter().find(|l| !l.contains('*') && l.contains(ours)) {
            complaints.push(format!("{line}: names {ours}"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(text.contains("culet_session_next(") && text.contains("#define CULET_ERR_ABI 112"));
}
