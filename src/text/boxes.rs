//! Boxes around things in a picture, as the model writes them.
//!
//! In: an answer. Out: [`Boxes`]: labels and edges on a grid of a thousand.
//! Source: ai.google.dev, Gemma 4 image understanding: `{"box_2d": [y0, x0, y1, x1], "label": ...}`
//! in a list, usually fenced; values count thousandths of the whole picture from its top left.
//! Invariant: a box is never guessed: what cannot be read in one way only is counted as lost.

use serde_json::Value;

/// How many steps the grid has in both directions.
pub const GRID: u32 = 1000;
/// Most boxes that are taken from one answer.
pub const BOXES_MAX: usize = 1000;
/// What the model calls the edges.
const KEY: &str = "box_2d";

/// One thing that the model found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// What it is; empty if the model did not say.
    pub label: String,
    /// Top, left, bottom, right on the grid.
    pub edges: [u32; 4],
}

/// What an answer says of boxes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Boxes {
    /// The things, in the model's order.
    pub found: Vec<Found>,
    /// Whether the answer was not what it should be, but could mean one thing only.
    pub is_repaired: bool,
    /// Boxes that were begun but cannot be read.
    pub n_lost: usize,
}

impl Found {
    /// Returns left, top, right and bottom in pixels of the whole picture.
    pub fn pixels(&self, width: u32, height: u32) -> [u32; 4] {
        let place = |edge: u32, side: u32| {
            let scaled = (u64::from(edge) * u64::from(side) + u64::from(GRID / 2)) / 1000;
            u32::try_from(scaled).unwrap_or(side).min(side)
        };
        let [top, left, bottom, right] = self.edges;
        [place(left, width), place(top, height), place(right, width), place(bottom, height)]
    }
}

impl Boxes {
    /// Reads an answer; nothing if it holds neither boxes nor an empty list.
    pub fn read(answer: &str) -> Option<Self> {
        let start = answer.find(['[', '{'])?;
        let body = &answer[start..];
        let end = body.rfind([']', '}']).map_or(body.len(), |at| at + 1);
        if let Ok(value) = serde_json::from_str::<Value>(&body[..end]) {
            return Self::from_json(&value);
        }
        let boxes = Self::salvage(body);
        (!boxes.found.is_empty() || boxes.n_lost > 0).then_some(boxes)
    }

    /// Takes boxes from a list, one object, or an object that holds a list.
    fn from_json(value: &Value) -> Option<Self> {
        let inner = match value {
            Value::Object(fields) if !fields.contains_key(KEY) => {
                return fields.values().find(|v| v.is_array()).and_then(Self::from_json);
            }
            Value::Object(_) => std::slice::from_ref(value),
            Value::Array(list) => list.as_slice(),
            _ => return None,
        };
        let mut boxes = Self { is_repaired: value.is_object(), ..Self::default() };
        for item in inner.iter().take(BOXES_MAX) {
            let edges = item.get(KEY).and_then(Value::as_array)?;
            let numbers: Vec<f64> = edges.iter().filter_map(Value::as_f64).collect();
            let label = item.get("label").and_then(Value::as_str).unwrap_or_default();
            boxes.take(&numbers, edges.len(), label);
        }
        Some(boxes)
    }

    /// Reads what is almost JSON: each piece that begins with the key stands for itself.
    fn salvage(body: &str) -> Self {
        let mut boxes = Self { is_repaired: true, ..Self::default() };
        for (at, _) in body.match_indices(KEY).take(BOXES_MAX) {
            let object = body[..at].rfind('{').map_or(at, |open| open + 1);
            let behind = &body[at..];
            let end = behind.find(['{', '}']).map_or(body.len(), |end| at + end);
            let (before, piece) = (&body[object..at], &body[at..end]);
            let inside = piece.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
            let Some((numbers, rest)) = inside else {
                boxes.n_lost += 1;
                continue;
            };
            let words = numbers.split([',', ' ', '\n', '\t']).filter(|word| !word.is_empty());
            let n_words = words.clone().count();
            let numbers: Vec<f64> = words.filter_map(|word| word.parse().ok()).collect();
            // The label stands on either side of the edges, but belongs to this object only.
            let before = if before.contains('}') { "" } else { before };
            let label = label_in(rest).or_else(|| label_in(before)).unwrap_or_default();
            boxes.take(&numbers, n_words, &label);
        }
        boxes
    }

    fn take(&mut self, numbers: &[f64], n_given: usize, label: &str) {
        match edges_of(numbers).filter(|_| n_given == 4) {
            Some((edges, is_ordered)) => {
                self.is_repaired |= !is_ordered;
                self.found.push(Found { label: label.trim().to_owned(), edges });
            }
            None => self.n_lost += 1,
        }
    }
}

/// Returns the edges in their order, and whether they were written so.
fn edges_of(numbers: &[f64]) -> Option<([u32; 4], bool)> {
    let &[y0, x0, y1, x1] = numbers else { return None };
    let is_inside = |n: f64| (0.0..=f64::from(GRID)).contains(&n);
    if ![y0, x0, y1, x1].into_iter().all(is_inside) {
        return None;
    }
    let whole = |n: f64| n.round() as u32;
    let [y0, x0, y1, x1] = [y0, x0, y1, x1].map(whole);
    let edges = [y0.min(y1), x0.min(x1), y0.max(y1), x0.max(x1)];
    let has_area = edges[0] < edges[2] && edges[1] < edges[3];
    has_area.then_some((edges, y0 < y1 && x0 < x1))
}

/// Returns the text behind the word `label`, in either kind of quotes.
fn label_in(piece: &str) -> Option<String> {
    let (_, rest) = piece.split_once("label")?;
    let rest = rest.split_once(':')?.1.trim_start();
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let text = &rest[1..];
    let end = text.find(quote).or_else(|| text.find(['\n', '}']))?;
    Some(text[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(label: &str, edges: [u32; 4]) -> Found {
        Found { label: label.to_owned(), edges }
    }

    #[test]
    fn answers_are_read_as_they_come() {
        let cat = found("cat", [1, 2, 30, 40]);
        let dog = found("dog", [5, 6, 7, 8]);
        let (one, two) = (vec![cat.clone()], vec![cat.clone(), dog]);
        // The answer, the boxes, whether it was repaired, boxes lost.
        type Case<'a> = (&'a str, &'a [Found], bool, usize);
        let cases: [Case<'_>; 17] = [
            (r#"[{"box_2d": [1, 2, 30, 40], "label": "cat"}]"#, &one, false, 0),
            ("```json\n[{\"box_2d\": [1,2,30,40], \"label\": \"cat\"}]\n```", &one, false, 0),
            ("Here: [{\"label\": \"cat\", \"box_2d\": [1,2,30,40]}] Done.", &one, false, 0),
            ("[]", &[], false, 0),
            ("```json\n[]\n```", &[], false, 0),
            (r#"{"box_2d": [1, 2, 30, 40], "label": "cat"}"#, &one, true, 0),
            (r#"{"boxes": [{"box_2d": [1, 2, 30, 40], "label": "cat"}]}"#, &one, false, 0),
            (r#"[{"box_2d": [30, 40, 1, 2], "label": "cat"}]"#, &one, true, 0),
            (r#"[{"box_2d": [1.2, 2, 29.6, 40], "label": " cat "}]"#, &one, false, 0),
            (r#"[{"box_2d": [1, 2, 30, 40], "label": "cat"},]"#, &one, true, 0),
            ("[{'box_2d': [1, 2, 30, 40], 'label': 'cat'}]", &one, true, 0),
            (
                r#"[{"box_2d": [1,2,30,40], "label": "cat"} {"box_2d": [5,6,7,8], "label": "dog""#,
                &two,
                true,
                0,
            ),
            (r#"[{"box_2d": [1,2,30,40], "label": "cat"}, {"box_2d": [5, 6"#, &one, true, 1),
            (r#"[{"label": "cat", "box_2d": [1 2 30 40]}]"#, &one, true, 0),
            (r#"[{"box_2d": [1, 2, 30], "label": "cat"}]"#, &[], false, 1),
            (r#"[{"box_2d": [1, 2, 30, 1040], "label": "cat"}]"#, &[], false, 1),
            (r#"[{"box_2d": [1, 2, 1, 40], "label": "cat"}]"#, &[], false, 1),
        ];
        let mut failures = Vec::new();
        for (answer, expected, is_repaired, n_lost) in cases {
            let expected = Boxes { found: expected.to_vec(), is_repaired, n_lost };
            match Boxes::read(answer) {
                Some(boxes) if boxes == expected => {}
                other => failures.push(format!("{answer}: {other:?}")),
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    #[test]
    fn what_holds_no_boxes_is_not_read() {
        for answer in ["", "I see a cat.", "[1, 2]", "{}", "[\"cat\"]", "[1, 2", "5", "}{"] {
            assert_eq!(Boxes::read(answer), None, "{answer}");
        }
    }

    #[test]
    fn any_cut_of_an_answer_is_read_or_refused() {
        let answer = "```json\n[{\"box_2d\": [1, 2, 30, 40], \"label\": \"c\u{e4}t\"}, \
                      {'label': 'd', 'box_2d': [5, 6, 7, 8]}]\n```";
        for (at, _) in answer.char_indices() {
            let n = Boxes::read(&answer[..at]).map_or(0, |boxes| boxes.found.len());
            let m = Boxes::read(&answer[at..]).map_or(0, |boxes| boxes.found.len());
            assert!(n + m <= 2, "{at}");
        }
    }

    #[test]
    fn edges_become_pixels() {
        let whole = found("", [0, 0, 1000, 1000]);
        assert_eq!(whole.pixels(640, 480), [0, 0, 640, 480]);
        let part = found("", [250, 500, 750, 999]);
        assert_eq!(part.pixels(200, 100), [100, 25, 200, 75]);
        assert_eq!(part.pixels(65_536, 4096), [32_768, 1024, 65_470, 3072]);
    }
}
