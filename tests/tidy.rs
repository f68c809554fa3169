//! House rules as tests: each failure names the file, the line and the remedy.
//! In: the files that git tracks or would track. Out: one test a rule.
//! Source: ARCHITECTURE.md; the tables below are the rules' only other home.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its tree has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Modules that everything may import, and that import only each other.
const BASE: [&str; 7] = ["error", "kernel", "media", "redact", "ring", "units", "whole"];

/// Each other module and what it may import besides `BASE`.
#[rustfmt::skip]
const IMPORTS: [(&str, &[&str]); 14] = [
    ("ggml", &[]),
    ("gguf", &[]),
    ("frontend", &[]),
    ("sampler", &[]),
    ("device", &[]),
    ("source", &["device"]),
    ("sink", &["device"]),
    ("text", &["gguf"]),
    ("model", &["ggml", "gguf"]),
    ("encoder", &["ggml", "gguf", "model", "frontend"]),
    ("decoder", &["ggml", "gguf", "model"]),
    ("engine", &["ggml", "gguf", "model", "text", "encoder", "decoder"]),
    // From ggml, what a session passes on: `Backend`, `Cancel`, `DType`.
    ("session", &["ggml", "engine", "text", "frontend", "encoder", "decoder", "sampler"]),
    // From text, what is said: conversations and the events of an answer.
    ("assistant", &["session", "text", "frontend", "source", "sink"]),
];

/// Each outside package and the files of `src/` that may name it; an empty list means all.
#[rustfmt::skip]
const DOORS: [(&str, &[&str]); 20] = [
    ("llama_cpp_sys_2", &["ggml/"]),
    ("llama_cpp_2", &["cli/"]),
    ("memmap2", &["gguf/mapping.rs"]),
    ("tokenizers", &["text/tokenizer.rs"]),
    ("heapless", &["ring.rs", "assistant/"]),
    ("cpal", &["device/system.rs"]),
    ("nokhwa", &["source/camera.rs"]),
    ("realfft", &["frontend/mel.rs"]),
    ("rubato", &["frontend/resample.rs"]),
    ("aec3", &["frontend/echo.rs"]),
    ("earshot", &["frontend/vad.rs"]),
    ("symphonia", &["source/sound_file.rs"]),
    ("image", &["source/image_file.rs", "frontend/pixels.rs", "cli/"]),
    ("clap", &["main.rs", "cli/"]),
    ("env_logger", &["main.rs", "cli/"]),
    ("ctrlc", &["main.rs", "cli/"]),
    ("rustyline", &["main.rs", "cli/"]),
    ("log", &[]),
    ("serde", &[]),
    ("serde_json", &[]),
];

/// What only some files of `src/` may do, and what the others do instead.
#[rustfmt::skip]
const RESERVED: [(&[&str], &[&str], &str); 4] = [
    (&["unsafe"], &["ggml/", "gguf/mapping.rs"],
     "move it behind a safe method of src/ggml or src/gguf/mapping.rs"),
    (&["thread::spawn", "thread::scope", "thread::Builder"],
     // A video's threads read the output of ffmpeg and end with it; a scout's ends with the scout.
     &["assistant/driver.rs", "source/camera.rs", "source/video/child.rs", "session/scout.rs",
       "main.rs", "cli/"],
     "let assistant/driver.rs own the thread and make this a function that it calls"),
    (&["Instant::now", "SystemTime::now"],
     // A camera's frames bear their time, and a lost speaker is opened again after a while.
     &["assistant/driver.rs", "ggml/compute/profile.rs", "source/camera.rs", "main.rs", "cli/"],
     "take `now` as a parameter"),
    (&["env::var", "env::var_os", "env::home_dir"], &["main.rs", "cli/"],
     "take the value as an option; only the program reads the environment"),
];

const BANNED_WORDS: [&str; 12] = [
    "common",
    "context",
    "handler",
    "handlers",
    "helper",
    "helpers",
    "manager",
    "misc",
    "pipeline",
    "processor",
    "util",
    "utils",
];

const LINE_COLUMNS_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_CODE_LINES_MAX: usize = 500;
const FRONT_PAGE_LINES_MAX: usize = 80;
/// Files of a folder beside its front page.
const FOLDER_FILES_MAX: usize = 9;
const ARCHITECTURE_LINES_MAX: usize = 200;
const FILE_BYTES_MAX: u64 = 12 << 20;
const TREE_BYTES_MAX: u64 = 40 << 20;
/// Larger files are data, and are not searched for text.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// One Rust file: as written, and with comments, texts and tests blanked out.
struct Source {
    path: String,
    text: String,
    /// Comments and the insides of texts are spaces; lines stay where they are.
    code: String,
    /// The same without anything under `#[cfg(test)]`; empty for test files.
    product: String,
}

impl Source {
    /// Returns the path below `src/`, if the file is part of the product.
    fn inside(&self) -> Option<&str> {
        self.path.strip_prefix("src/")
    }

    /// Returns the first folder or file name below `src/`, without its ending.
    fn module(&self) -> Option<&str> {
        let inside = self.inside()?;
        Some(inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs"))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every file that git tracks or would track; all files where there is no git.
fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let mut found: Vec<String> = match listed {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .split('\0')
            .filter(|path| !path.is_empty() && root().join(path).is_file())
            .map(str::to_owned)
            .collect(),
        _ => walk(),
    };
    found.sort();
    found.dedup();
    assert!(found.iter().any(|path| path == "src/lib.rs"), "src/lib.rs is not among the files");
    found
}

fn walk() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{folder}{name}");
            let kind = entry.file_type().unwrap();
            if kind.is_file() {
                found.push(path);
            } else if kind.is_dir() && !name.starts_with("target") && name != ".git" {
                folders.push(format!("{path}/"));
            }
        }
    }
    found
}

fn sources() -> Vec<Source> {
    let read = |path: String| {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let code = code_of(&text);
        let product = if path.contains("tests/") { String::new() } else { product_of(&code) };
        Source { path, text, code, product }
    };
    let paths = files().into_iter().filter(|path| path.ends_with(".rs"));
    let mut sources: Vec<Source> = paths.map(read).collect();
    let test_files: Vec<String> = sources.iter().flat_map(test_files_of).collect();
    for source in sources.iter_mut().filter(|source| test_files.contains(&source.path)) {
        source.product.clear();
    }
    sources
}

/// Returns the files that `source` declares for tests only.
fn test_files_of(source: &Source) -> Vec<String> {
    let folder = source.path.trim_end_matches("/mod.rs").trim_end_matches(".rs");
    let folder = folder.trim_end_matches("/lib").trim_end_matches("/main");
    let behind_marks = source.code.split("#[cfg(test)]").skip(1);
    let names = behind_marks.filter_map(|behind| {
        let item = &behind[..item_length(behind)];
        let (_, name) = item.split_once("mod ")?;
        Some(format!("{folder}/{}.rs", name.strip_suffix(';')?))
    });
    names.collect()
}

/// Fails with all complaints at once.
fn report(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{} broken:\n{}", complaints.len(), complaints.join("\n"));
}

/// Blanks out comments and the insides of texts and characters.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut index = 0;
    while index < chars.len() {
        let end = skipped_end(&chars, index);
        if end == index {
            code.push(chars[index]);
            index += 1;
        } else {
            code.extend(chars[index..end].iter().map(|&c| if c == '\n' { c } else { ' ' }));
            index = end;
        }
    }
    code
}

/// Returns where the comment, text or character that starts at `index` ends; `index` if none does.
fn skipped_end(chars: &[char], index: usize) -> usize {
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let until = |from: usize, end: &[char]| {
        let found = (from..chars.len()).find(|&i| chars[i..].starts_with(end));
        found.map_or(chars.len(), |i| i + end.len())
    };
    let in_word = index > 0 && is_word(chars[index - 1]) && chars[index - 1] != 'b';
    match (at(index), at(index + 1)) {
        ('/', '/') => (index..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len()),
        ('/', '*') => until(index + 2, &['*', '/']),
        ('r', '"' | '#') if !in_word => {
            let hashes = (index + 1..).take_while(|&i| at(i) == '#').count();
            if at(index + 1 + hashes) != '"' {
                return index;
            }
            let mut end = vec!['"'];
            end.resize(1 + hashes, '#');
            until(index + 2 + hashes, &end)
        }
        ('"', _) => {
            let mut i = index + 1;
            while i < chars.len() && chars[i] != '"' {
                i += if chars[i] == '\\' { 2 } else { 1 };
            }
            (i + 1).min(chars.len())
        }
        ('\'', '\\') => until(index + 3, &['\'']),
        ('\'', _) if at(index + 2) == '\'' => index + 3,
        _ => index,
    }
}

/// Blanks out every item under `#[cfg(test)]`.
fn product_of(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(MARK) {
        let end = start + MARK.len();
        let end = end + item_length(&rest[end..]);
        kept.push_str(&rest[..start]);
        kept.extend(rest[start..end].chars().filter(|&c| c == '\n'));
        rest = &rest[end..];
    }
    kept + rest
}

/// Returns how far an item reaches: to its `;` or to the brace that closes it.
fn item_length(code: &str) -> usize {
    let mut depth = 0_i32;
    for (index, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            _ => {}
        }
        if depth <= 0 && (c == ';' || c == '}') {
            return index + 1;
        }
    }
    code.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns each place where `word` stands alone: its line number and the text behind it.
fn places<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    code.match_indices(word).filter_map(move |(start, _)| {
        let behind = &code[start + word.len()..];
        let before = code[..start].chars().next_back();
        let is_path = before == Some(':') && !word.starts_with("crate");
        let alone = !before.is_some_and(is_word) && !behind.starts_with(is_word) && !is_path;
        alone.then(|| (code[..start].matches('\n').count() + 1, behind))
    })
}

fn name_at(behind: &str) -> &str {
    let behind = behind.trim_start();
    &behind[..behind.find(|c| !is_word(c)).unwrap_or(behind.len())]
}

fn is_allowed(inside: &str, allowed: &[&str]) -> bool {
    allowed.iter().any(|prefix| inside.starts_with(prefix))
}

#[test]
fn modules_import_downwards_only() {
    let mut complaints = Vec::new();
    for source in sources() {
        let Some(module) = source.module() else { continue };
        if matches!(module, "lib" | "main" | "cli") {
            continue;
        }
        let is_base = BASE.contains(&module);
        let row = IMPORTS.iter().find(|(name, _)| *name == module);
        if row.is_none() && !is_base {
            complaints.push(format!("{}: add the module to IMPORTS", source.path));
            continue;
        }
        for (line, behind) in places(&source.product, "crate") {
            let Some(behind) = behind.strip_prefix("::") else { continue };
            let target = name_at(behind);
            let listed = row.is_some_and(|(_, allowed)| allowed.contains(&target));
            if target != module && !BASE.contains(&target) && !listed {
                complaints.push(format!(
                    "{}:{line}: {module} may not import {target}; pass a value instead, or move \
                     the code to a module above both",
                    source.path
                ));
            }
        }
    }
    report(complaints);
}

#[test]
fn imports_are_one_item_a_line() {
    let mut complaints = Vec::new();
    for Source { path, code, .. } in sources() {
        for (number, line) in code.lines().enumerate().map(|(n, line)| (n + 1, line)) {
            let import = line.trim_start().trim_start_matches("pub ");
            if import.starts_with("use crate::") && import.contains('{') {
                complaints.push(format!("{path}:{number}: write one `use crate::…;` a line"));
            }
            if line.contains("super::super") {
                complaints.push(format!("{path}:{number}: write the path from `crate::`"));
            }
        }
    }
    report(complaints);
}

#[test]
fn outside_packages_have_one_door() {
    let mut complaints = Vec::new();
    for source in sources() {
        let Some(inside) = source.inside() else { continue };
        for (package, allowed) in DOORS {
            let found = places(&source.product, package).find(|(_, b)| b.starts_with("::"));
            let Some((line, _)) = found else { continue };
            if !allowed.is_empty() && !is_allowed(inside, allowed) {
                complaints.push(format!(
                    "{}:{line}: {package} is named outside its door ({}); use what the door offers",
                    source.path,
                    allowed.join(", ")
                ));
            }
        }
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let dependencies = manifest.split("\n[dependencies]\n").nth(1).unwrap();
    let dependencies = dependencies.split("\n[").next().unwrap();
    for line in dependencies.lines().filter(|line| line.contains('=') && !line.starts_with('#')) {
        let name = line.split([' ', '=', '.']).next().unwrap().replace('-', "_");
        if !DOORS.iter().any(|(package, _)| *package == name) {
            complaints.push(format!("Cargo.toml: give {name} its door in DOORS of tests/tidy.rs"));
        }
    }
    report(complaints);
}

#[test]
fn reserved_acts_stay_in_their_files() {
    let mut complaints = Vec::new();
    for source in sources() {
        let Some(inside) = source.inside() else { continue };
        for (words, allowed, remedy) in RESERVED {
            for word in words.iter().filter(|_| !is_allowed(inside, allowed)) {
                let last = word.rsplit("::").next().unwrap();
                for (number, line) in source.product.lines().enumerate() {
                    let found = places(line, word).next().is_some()
                        || (last != *word && line.contains(&format!("::{word}")));
                    if found {
                        let number = number + 1;
                        let path = &source.path;
                        complaints.push(format!("{path}:{number}: {word} here; {remedy}"));
                    }
                }
            }
        }
    }
    report(complaints);
}

#[test]
fn sizes_stay_within_their_limits() {
    let mut complaints = Vec::new();
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    for Source { path, text, product, .. } in sources() {
        for (number, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > LINE_COLUMNS_MAX {
                let number = number + 1;
                complaints.push(format!("{path}:{number}: {columns} columns; break the line"));
            }
        }
        let code_lines = product.lines().filter(|line| !line.trim().is_empty()).count();
        if code_lines > FILE_CODE_LINES_MAX {
            complaints.push(format!("{path}: {code_lines} lines of code; split by noun"));
        }
        let lines = text.lines().count();
        if path.ends_with("/mod.rs") && lines > FRONT_PAGE_LINES_MAX {
            complaints.push(format!("{path}: {lines} lines; keep logic out of the front page"));
        }
        for (line, length) in functions(&product) {
            if length > FUNCTION_LINES_MAX {
                complaints.push(format!("{path}:{line}: function of {length} lines; split it"));
            }
        }
        let (folder, _) = path.rsplit_once('/').unwrap_or(("", &path));
        let is_front_page = path.ends_with("/mod.rs");
        if !product.is_empty() && !is_front_page && folder != "examples" {
            *folders.entry(folder.to_owned()).or_default() += 1;
        }
    }
    for (folder, count) in folders.into_iter().filter(|(_, count)| *count > FOLDER_FILES_MAX) {
        complaints.push(format!("{folder}: {count} files; make a folder of those that belong"));
    }
    report(complaints);
}

/// Returns the line and the length of every function with a body.
fn functions(code: &str) -> Vec<(usize, usize)> {
    let with_body = places(code, "fn").filter_map(|(line, behind)| {
        let item = &behind[..item_length(behind)];
        (item.ends_with('}') && !name_at(behind).is_empty())
            .then(|| (line, item.matches('\n').count() + 1))
    });
    with_body.collect()
}

#[test]
fn every_file_says_what_it_is() {
    let headless = |source: &Source| !source.text.starts_with("//! ");
    let complaint = |source: Source| {
        format!("{}:1: begin with `//!`: what it is, what goes in, what comes out", source.path)
    };
    report(sources().into_iter().filter(headless).map(complaint).collect());
}

#[test]
fn every_file_is_reachable() {
    let sources = sources();
    let mut complaints = Vec::new();
    for source in &sources {
        let Some(inside) = source.inside() else { continue };
        let module = inside.trim_end_matches("/mod.rs").trim_end_matches(".rs");
        let (parent, name) = module.rsplit_once('/').unwrap_or(("", module));
        if matches!(inside, "lib.rs" | "main.rs") || inside.starts_with("bin/") {
            continue;
        }
        let parents = match parent {
            "" => ["src/lib.rs".to_owned(), "src/main.rs".to_owned()],
            _ => [format!("src/{parent}/mod.rs"), format!("src/{parent}.rs")],
        };
        let declares = |code: &str| {
            places(code, "mod").any(|(_, behind)| {
                name_at(behind) == name && behind[name.len() + 1..].trim_start().starts_with(';')
            })
        };
        if !sources.iter().any(|s| parents.contains(&s.path) && declares(&s.code)) {
            complaints.push(format!("{}: nothing declares it; add `mod {name};`", source.path));
        }
    }
    report(complaints);
}

#[test]
fn names_are_the_trades_words() {
    let mut complaints = Vec::new();
    for Source { path, product, .. } in sources() {
        let stem = path.rsplit('/').next().unwrap().trim_end_matches(".rs");
        if let Some(word) = banned_word(stem) {
            complaints.push(format!("{path}: the name says {word}; name what is in it"));
        }
        for keyword in ["struct", "enum", "trait", "type", "mod", "fn"] {
            for (line, behind) in places(&product, keyword) {
                let name = name_at(behind);
                // A context length is a number of tokens, a ggml context is what ggml says, and
                // two rows have a common beginning.
                let is_trade = match banned_word(name) {
                    Some("context") => keyword == "fn" || path.starts_with("src/ggml/"),
                    Some("common") => keyword == "fn",
                    _ => false,
                };
                let found = banned_word(name).filter(|_| !is_trade);
                if let Some(word) = found {
                    complaints.push(format!(
                        "{path}:{line}: {keyword} {name} says {word}; use the noun it stands for"
                    ));
                }
            }
        }
    }
    report(complaints);
}

/// Returns the banned word in `name`, which is split at `_` and at capitals.
fn banned_word(name: &str) -> Option<&'static str> {
    let mut split = String::new();
    for c in name.chars() {
        if c.is_uppercase() {
            split.push('_');
        }
        split.extend(c.to_lowercase());
    }
    BANNED_WORDS.into_iter().find(|word| split.split('_').any(|part| part == *word))
}

#[test]
fn nothing_is_left_undone() {
    let mut complaints = Vec::new();
    for Source { path, code, product, .. } in sources() {
        let unfinished = ["todo!", "unimplemented!", "#[ignore"];
        for (number, line) in code.lines().enumerate().map(|(n, line)| (n + 1, line)) {
            for word in unfinished.iter().filter(|word| line.contains(**word)) {
                complaints.push(format!("{path}:{number}: {word} here; finish it or leave it out"));
            }
        }
        for (number, line) in product.lines().enumerate().map(|(n, line)| (n + 1, line)) {
            if line.contains(".unwrap()") {
                complaints.push(format!(
                    "{path}:{number}: unwrap here; return an error, or `expect` the invariant"
                ));
            }
        }
    }
    report(complaints);
}

#[test]
fn nothing_of_one_machine_is_tracked() {
    // Written in halves, so that this file does not hold what it looks for.
    let places = [("/wo", "rk/"), ("/ro", "ot/"), ("/tmp", "/wt"), ("/ho", "me/")];
    let hosts = [
        ("index.crates", ".io"),
        ("static.crates", ".io"),
        ("pypi", ".org"),
        ("pythonhosted", ".org"),
        ("registry.npmjs", ".org"),
        ("deb.debian", ".org"),
    ];
    let mut complaints = Vec::new();
    for path in files() {
        let full = root().join(&path);
        if fs::metadata(&full).unwrap().len() > TEXT_BYTES_MAX {
            continue;
        }
        let Ok(text) = fs::read_to_string(full) else { continue };
        for (number, line) in text.lines().enumerate().map(|(n, line)| (n + 1, line)) {
            let holds = |(a, b): &(&str, &str)| line.contains(&format!("{a}{b}"));
            if places.iter().any(holds) {
                complaints.push(format!("{path}:{number}: path of one machine; make it relative"));
            }
            if hosts.iter().any(holds) {
                complaints.push(format!("{path}:{number}: registry host; name the package only"));
            }
        }
    }
    report(complaints);
}

#[test]
fn the_tree_stays_small() {
    let mut complaints = Vec::new();
    let mut total_bytes = 0;
    for path in files() {
        let bytes = fs::metadata(root().join(&path)).unwrap().len();
        total_bytes += bytes;
        if bytes > FILE_BYTES_MAX {
            complaints.push(format!("{path}: {bytes} bytes; at most {FILE_BYTES_MAX} are tracked"));
        }
    }
    if total_bytes > TREE_BYTES_MAX {
        complaints.push(format!("tree: {total_bytes} bytes; at most {TREE_BYTES_MAX}"));
    }
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap_or_default();
    let lines = architecture.lines().count();
    if lines == 0 || lines > ARCHITECTURE_LINES_MAX {
        complaints.push(format!(
            "ARCHITECTURE.md: {lines} lines, expected 1 to {ARCHITECTURE_LINES_MAX}; keep the walk"
        ));
    }
    report(complaints);
}

#[test]
fn blanking_keeps_code_and_lines() {
    let cases = [
        ("a // b\nc", "a     \nc"),
        ("a(\"x{\\\"y\"); b", "a(       ); b"),
        ("r#\"a\"b\"# + c", "         + c"),
        ("'{' + 'a + '\\'' ", "    + 'a +      "),
        ("/* { \n */ d", "     \n    d"),
    ];
    for (text, expected) in cases {
        assert_eq!(code_of(text), expected, "{text:?}");
    }
    let product = product_of("fn a() {}\n#[cfg(test)]\nmod t { fn b() {}\n }\nfn c() {}");
    assert_eq!(product, "fn a() {}\n\n\n\nfn c() {}");
    assert_eq!(functions("fn a(\n) {\n}\nfn b();\n"), [(1, 3)]);
    assert_eq!(banned_word("FrameProcessor"), Some("processor"));
    assert_eq!(banned_word("commonly"), None);
}

#[test]
fn shipped_models_equal_their_manifest() {
    let manifest = fs::read_to_string(root().join("models/manifest.tsv")).unwrap();
    let mut rows: BTreeMap<&str, &str> = BTreeMap::new();
    for row in manifest.lines().skip(1) {
        let (name, rest) = row.split_once('\t').unwrap();
        rows.insert(name, rest);
    }
    let mut complaints = Vec::new();
    let shipped = files()
        .into_iter()
        .filter(|path| path.starts_with("models/tiny/") && path.ends_with(".gguf"));
    for path in shipped {
        let bytes = fs::read(root().join(&path)).unwrap();
        let expected = format!("{}\t{}", bytes.len(), sha256(&bytes));
        let name = path.trim_start_matches("models/");
        if !rows.remove(name).is_some_and(|rest| rest.starts_with(&expected)) {
            complaints.push(format!(
                "models/manifest.tsv: the row of {name} must begin with\n{name}\t{expected}"
            ));
        }
    }
    let unknown = |name: &&str| format!("models/manifest.tsv: {name} is not there; drop its row");
    complaints.extend(rows.keys().map(unknown));
    report(complaints);
}

/// Returns the SHA-256 of `bytes` (FIPS 180-4), in hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    let mut state = roots(8, 2);
    let constants = roots(64, 3);
    let mut padded = bytes.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(64), 0);
    if bytes.len() % 64 > 55 {
        padded.resize(padded.len() + 64, 0);
    }
    let end = padded.len();
    padded[end - 8..].copy_from_slice(&(8 * bytes.len() as u64).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut w: Vec<u32> =
            block.chunks_exact(4).map(|b| u32::from_be_bytes(b.try_into().unwrap())).collect();
        for i in 16..64 {
            let (a, b) = (w[i - 15], w[i - 2]);
            let s0 = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
            let s1 = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
            w.push(w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1));
        }
        let mut v = state.clone();
        for i in 0..64 {
            let s1 = v[4].rotate_right(6) ^ v[4].rotate_right(11) ^ v[4].rotate_right(25);
            let choice = (v[4] & v[5]) ^ (!v[4] & v[6]);
            let t1 = [s1, choice, constants[i], w[i]].into_iter().fold(v[7], u32::wrapping_add);
            let s0 = v[0].rotate_right(2) ^ v[0].rotate_right(13) ^ v[0].rotate_right(22);
            let majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
            v[3] = v[3].wrapping_add(t1);
            v[7] = t1.wrapping_add(s0).wrapping_add(majority);
            v.rotate_right(1);
        }
        state.iter_mut().zip(&v).for_each(|(s, v)| *s = s.wrapping_add(*v));
    }
    state.iter().map(|word| format!("{word:08x}")).collect()
}

/// Returns the first 32 bits behind the point of the `degree`th roots of the first `n` primes.
fn roots(n: usize, degree: u32) -> Vec<u32> {
    let primes = (2_u128..).filter(|&p| (2..p).all(|d| p % d != 0)).take(n);
    let root = |p: u128| {
        let scaled = p << (32 * degree);
        let mut root = 0_u128;
        for bit in (0..40).rev().map(|shift| 1_u128 << shift) {
            if (root + bit).pow(degree) <= scaled {
                root += bit;
            }
        }
        root as u32
    };
    primes.map(root).collect()
}

#[test]
fn sha256_equals_its_published_examples() {
    let examples = [
        ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
    ];
    for (text, expected) in examples {
        assert_eq!(sha256(text.as_bytes()), expected);
    }
}
