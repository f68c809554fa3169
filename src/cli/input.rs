//! Files that verbs read.
//! In: paths. Out: texts, JSON values, token ids.
//! Invariant: an error names the file and what was expected, never what the file says.

use std::path::Path;

use culet::Error;
use culet::Result;
use culet::TokenId;
use serde_json::Value;

/// Most bytes of a text or a JSON document.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Reads a file as UTF-8, every byte of it.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let name = path.display();
    let cannot = |e| Error::io(format!("{name}: cannot be read")).with_source(e);
    let size = std::fs::metadata(path).map_err(cannot)?.len();
    if size > FILE_BYTES_MAX {
        let text = format!("{name}: {size} bytes, at most {FILE_BYTES_MAX} are read; split it");
        return Err(Error::input(text));
    }
    let bytes = std::fs::read(path).map_err(cannot)?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::input(format!("{name}: byte {at} is not UTF-8; save the file as UTF-8"))
    })
}

/// Reads a file as one JSON document.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = read_text(path)?;
    serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|e| {
        let (line, column) = (e.line(), e.column());
        let place = format!("line {line}, column {column}");
        Error::input(format!("{}: not JSON at {place}; expected one document", path.display()))
    })
}

/// Reads token ids: `{"ids": [...]}` or the bare list.
pub(crate) fn read_ids(path: &Path) -> Result<Vec<TokenId>> {
    let json = read_json(path)?;
    let list = json.get("ids").unwrap_or(&json).as_array();
    let wrong = |what: String| Error::input(format!("{}: {what}", path.display()));
    let list = list.ok_or_else(|| wrong("no list of ids; expected {\"ids\": [...]}".into()))?;
    let id = |(i, value): (usize, &Value)| {
        let id = value.as_u64().and_then(|n| u32::try_from(n).ok());
        id.map(TokenId).ok_or_else(|| wrong(format!("id {i} is no token id; expected 0 or more")))
    };
    list.iter().enumerate().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_both_forms() {
        let path = std::env::temp_dir().join(format!("culet-ids-{}.json", std::process::id()));
        let cases = [
            ("{\"ids\": [1, 2]}", Some(2)),
            ("[1]", Some(1)),
            ("\u{feff}[]", Some(0)),
            ("{}", None),
            ("[-1]", None),
            ("[1.5]", None),
            ("[4294967296]", None),
            ("[1", None),
        ];
        for (text, n) in cases {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_ids(&path).ok().map(|ids| ids.len()), n, "{text}");
        }
        std::fs::write(&path, b"a\xff").unwrap();
        let error = read_text(&path).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("byte 1 is not UTF-8"), "{error}");
        assert!(read_text(&path).is_err());
    }
}
