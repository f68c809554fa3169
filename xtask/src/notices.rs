//! Licence notices of everything that is linked into what is shipped.
//! In: cargo's list of packages, their files. Out: one text, equal licence texts once.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::dist::cargo;
use crate::dist::told;

/// Most bytes of one licence file; longer ones are no licence.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Returns the notices of the packages that a target's build links.
pub(crate) fn text(root: &Path, triple: &str, features: &str) -> Result<String, String> {
    let tree = ["tree", "--workspace", "--edges", "normal", "--prefix", "none", "--target", triple];
    let tree = [&tree[..], &["--format", "{p}|{l}", "--features", features]].concat();
    let listed = told(&mut cargo(root, &tree))?;
    let metadata = ["metadata", "--format-version", "1", "--filter-platform", triple];
    let metadata = told(&mut cargo(root, &metadata))?;
    let folders = folders(&metadata);
    let mut packages: Vec<_> = listed.lines().filter_map(package).collect();
    packages.sort();
    packages.dedup();
    let mut out = String::from("Culet contains these packages:\n\n");
    out.push_str("the standard library of Rust: MIT OR Apache-2.0\n");
    let mut texts: Vec<(String, Vec<String>)> = Vec::new();
    for (name, licence) in &packages {
        out.push_str(&format!("{name}: {licence}\n"));
        let folder = folders.iter().find(|f| f.file_name().is_some_and(|n| *n == **name));
        for text in folder.map(|f| licences(f)).unwrap_or_default() {
            match texts.iter_mut().find(|(known, _)| *known == text) {
                Some((_, users)) => users.push(name.clone()),
                None => texts.push((text, vec![name.clone()])),
            }
        }
    }
    for (text, users) in texts {
        let line = "-".repeat(78);
        out.push_str(&format!("\n{line}\n{}\n\n{}\n", users.join(", "), text.trim()));
    }
    Ok(out)
}

/// Reads a line `name v1.2.3 (...)|LICENCE`; packages of this repository are left out.
fn package(line: &str) -> Option<(String, String)> {
    let (package, licence) = line.split_once('|')?;
    let mut words = package.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    let is_ours = words.next().is_some_and(|place| place.contains('/'));
    let licence = licence.trim_end_matches(" (*)").to_owned();
    (!is_ours).then(|| (format!("{name}-{version}"), licence))
}

/// Finds the packages' folders in cargo's metadata.
fn folders(metadata: &str) -> Vec<PathBuf> {
    let parts = metadata.split("\"manifest_path\":\"").skip(1);
    let paths = parts.filter_map(|part| part.split('"').next());
    paths.filter_map(|path| Some(Path::new(path).parent()?.to_owned())).collect()
}

/// Returns the licence files of a package, and those of the kernels that it carries.
fn licences(folder: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for folder in [folder.to_owned(), folder.join("llama.cpp")] {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths.iter().filter(|path| is_licence(path)) {
            texts.extend(fs::read_to_string(path));
        }
    }
    texts
}

fn is_licence(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
    let starts = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT"];
    let is_small =
        fs::metadata(path).is_ok_and(|m| m.is_file() && (1..=FILE_BYTES_MAX).contains(&m.len()));
    is_small && starts.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_from_a_tree() {
        let expected = Some(("log-0.4.27".to_owned(), "MIT OR Apache-2.0".to_owned()));
        assert_eq!(package("log v0.4.27|MIT OR Apache-2.0"), expected);
        assert_eq!(package("log v0.4.27|MIT OR Apache-2.0 (*)"), expected);
        assert_eq!(package("culet v0.1.0 (/somewhere/culet)|MIT"), None);
        assert!(package("cfg v1.0.0 (proc-macro)|MIT").is_some());
        assert_eq!(package(""), None);
    }

    #[test]
    fn folders_are_found_in_metadata() {
        let json = r#"{"a":1,"manifest_path":"/r/log-0.4.27/Cargo.toml","manifest_path":"/c"}"#;
        assert_eq!(folders(json)[0], Path::new("/r/log-0.4.27"));
    }
}
