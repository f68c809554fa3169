//! Outlines, the plates with their names, and where they go.
//! In: `Frame`, marks in pixels. Out: the painted `Frame`.
//! Invariant: nothing is painted outside of the picture, wherever a mark lies.

use crate::error::Error;
use crate::error::Result;
use crate::frontend::drawing::glyph;
use crate::media::Frame;

/// Colours of marks; those with the same label share one.
pub const MARK_COLOURS: [[u8; 3]; 8] = [
    [230, 57, 70],
    [29, 120, 200],
    [42, 157, 80],
    [244, 162, 30],
    [140, 70, 190],
    [0, 160, 170],
    [220, 80, 160],
    [120, 90, 60],
];
/// Most marks that are drawn on one picture.
const MARKS_MAX: usize = 1000;
/// The picture's short side over the width of an outline.
const SHARE_OUTLINE: u32 = 180;
/// The picture's short side over the height of a capital.
const SHARE_CAPITAL: u32 = 40;
const CAPITAL_PX: (u32, u32) = (9, 64);
/// How much of the picture the dark rim around an outline hides.
const RIM_COVER: f32 = 0.5;
/// Brightness from which letters on a plate are black.
const LIGHT_LEVELS_MIN: u32 = 150;

/// A thing that is marked on a picture.
#[derive(Clone, PartialEq, Eq)]
pub struct Mark {
    /// Left, top, right and bottom in pixels; right and bottom are just outside.
    pub edges_px: [u32; 4],
    /// What is written beside it; nothing if empty.
    pub label: String,
}

impl std::fmt::Debug for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mark {{ {:?} }}", self.edges_px)
    }
}

/// Draws the outlines of all marks and then their labels.
///
/// # Errors
/// `Input` if there are too many marks or one has no area or reaches out of the picture.
pub fn draw(frame: &Frame, marks: &[Mark]) -> Result<Frame> {
    let (width, height) = (frame.width(), frame.height());
    if marks.len() > MARKS_MAX {
        let n = marks.len();
        return Err(Error::input(format!(
            "{n} marks on one picture, at most {MARKS_MAX} are drawn"
        )));
    }
    for mark in marks {
        let [left, top, right, bottom] = mark.edges_px;
        if left >= right || top >= bottom || right > width || bottom > height {
            return Err(Error::input(format!(
                "mark from {left},{top} to {right},{bottom} is not inside of {width}x{height}"
            )));
        }
    }
    let mut labels: Vec<&str> = Vec::new();
    let mut colour_of = |label| {
        let known = labels.iter().position(|other| *other == label);
        let index = known.unwrap_or_else(|| {
            labels.push(label);
            labels.len() - 1
        });
        MARK_COLOURS[index % MARK_COLOURS.len()]
    };
    let colours: Vec<[u8; 3]> = marks.iter().map(|mark| colour_of(&mark.label)).collect();
    let short = width.min(height);
    let mut canvas = Canvas {
        size: (i64::from(width), i64::from(height)),
        rgb: frame.rgb().to_vec(),
        line: i64::from((short / SHARE_OUTLINE).max(2)),
        capital: (short / SHARE_CAPITAL).clamp(CAPITAL_PX.0, CAPITAL_PX.1) as f32,
    };
    for (mark, colour) in marks.iter().zip(&colours) {
        canvas.outline(mark, *colour);
    }
    for (mark, colour) in marks.iter().zip(&colours).filter(|(mark, _)| !mark.label.is_empty()) {
        canvas.label(mark, *colour);
    }
    let mut drawn = Frame::new(width, height, canvas.rgb)?;
    drawn.captured_at_ns = frame.captured_at_ns;
    Ok(drawn)
}

/// A picture that is painted on.
struct Canvas {
    size: (i64, i64),
    rgb: Vec<u8>,
    /// Width of an outline in pixels.
    line: i64,
    /// Height of a capital in pixels.
    capital: f32,
}

impl Canvas {
    /// Mixes a colour into one pixel, if it is inside.
    fn mix(&mut self, x: i64, y: i64, colour: [u8; 3], cover: f32) {
        if x < 0 || y < 0 || x >= self.size.0 || y >= self.size.1 {
            return;
        }
        let at = 3 * (y * self.size.0 + x) as usize;
        for (value, new) in self.rgb[at..at + 3].iter_mut().zip(colour) {
            let mixed = f32::from(*value) * (1.0 - cover) + f32::from(new) * cover;
            *value = (mixed + 0.5) as u8;
        }
    }

    /// Fills what is inside of `outer` and outside of `inner`; both are left, top, right, bottom.
    fn ring(&mut self, outer: [i64; 4], inner: [i64; 4], colour: [u8; 3], cover: f32) {
        for y in outer[1].max(0)..outer[3].min(self.size.1) {
            let is_between = (inner[1]..inner[3]).contains(&y);
            let mut x = outer[0].max(0);
            while x < outer[2].min(self.size.0) {
                if is_between && (inner[0]..inner[2]).contains(&x) {
                    x = inner[2];
                    continue;
                }
                self.mix(x, y, colour, cover);
                x += 1;
            }
        }
    }

    /// Draws along the inside of a mark's edges, with a dark rim on both sides.
    fn outline(&mut self, mark: &Mark, colour: [u8; 3]) {
        let grown = |by: i64| {
            let [left, top, right, bottom] = mark.edges_px.map(i64::from);
            [left - by, top - by, right + by, bottom + by]
        };
        self.ring(grown(1), grown(0), [0; 3], RIM_COVER);
        self.ring(grown(0), grown(-self.line), colour, 1.0);
        self.ring(grown(-self.line), grown(-self.line - 1), [0; 3], RIM_COVER);
    }

    /// Writes a mark's name on a plate above it, or inside where there is no room above.
    fn label(&mut self, mark: &Mark, colour: [u8; 3]) {
        let pad = (self.capital / 2.5).ceil() as i64;
        let text = self.fitting(&mark.label, (self.size.0 - 2 * pad) as f32);
        let wide = glyph::width_px(&text, self.capital).ceil() as i64 + 2 * pad;
        // Room for descenders, less than the full pad above the capitals.
        let high = (self.capital * (1.0 + glyph::DESCENT / 8.0)).ceil() as i64 + 2 * pad;
        let [left, top, ..] = mark.edges_px.map(i64::from);
        let left = left.min(self.size.0 - wide).max(0);
        let top = if top >= high { top - high } else { top.min(self.size.1 - high).max(0) };
        self.ring([left, top, left + wide, top + high], [0; 4], colour, 1.0);
        let [r, g, b] = colour.map(u32::from);
        let is_light = (77 * r + 150 * g + 29 * b) / 256 >= LIGHT_LEVELS_MIN;
        let ink = if is_light { [0; 3] } else { [255; 3] };
        let mut cover = vec![0.0_f32; (wide * high) as usize];
        let at = (pad as f32, pad as f32);
        glyph::write(&text, at, self.capital, &mut |x, y, c| {
            if (0..wide).contains(&x) && (0..high).contains(&y) {
                let pixel = &mut cover[(y * wide + x) as usize];
                *pixel = pixel.max(c);
            }
        });
        for (i, cover) in cover.into_iter().enumerate().filter(|(_, cover)| *cover > 0.0) {
            let (x, y) = (i as i64 % wide, i as i64 / wide);
            self.mix(left + x, top + y, ink, cover);
        }
    }

    /// Returns a text in one line that is at most `width` pixels wide, shortened if it must be.
    fn fitting(&self, label: &str, width: f32) -> String {
        let mut text: String =
            label.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if glyph::width_px(&text, self.capital) <= width {
            return text;
        }
        while !text.is_empty() && glyph::width_px(&text, self.capital) + self.capital > width {
            text.pop();
        }
        text.push_str("..");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREY: [u8; 3] = [128; 3];

    fn grey(width: u32, height: u32) -> Frame {
        Frame::new(width, height, GREY.repeat((width * height) as usize)).unwrap()
    }

    fn mark(label: &str, edges_px: [u32; 4]) -> Mark {
        Mark { edges_px, label: label.to_owned() }
    }

    fn pixel(frame: &Frame, x: u32, y: u32) -> [u8; 3] {
        let at = 3 * (y * frame.width() + x) as usize;
        [frame.rgb()[at], frame.rgb()[at + 1], frame.rgb()[at + 2]]
    }

    #[test]
    fn outlines_lie_on_the_edges() {
        let drawn = draw(&grey(100, 80), &[mark("", [20, 30, 60, 70])]).unwrap();
        let first = MARK_COLOURS[0];
        let rim = [64; 3];
        // A point and the colour there: outside, rim, two pixels of line, rim, inside.
        let across = [(18, GREY), (19, rim), (20, first), (21, first), (22, rim), (23, GREY)];
        for (x, colour) in across {
            assert_eq!(pixel(&drawn, x, 50), colour, "{x}");
        }
        for (y, colour) in [(28, GREY), (29, rim), (30, first), (31, first), (69, first)] {
            assert_eq!(pixel(&drawn, 40, y), colour, "{y}");
        }
        assert_eq!(pixel(&drawn, 59, 50), first);
        assert_eq!(pixel(&drawn, 60, 50), rim);
        assert_eq!(pixel(&drawn, 40, 50), GREY);
    }

    #[test]
    fn labels_have_a_plate_with_letters_on_it() {
        let drawn = draw(&grey(400, 320), &[mark("cat", [100, 100, 200, 200])]).unwrap();
        let count = |from: [u32; 4], colour: [u8; 3]| {
            let rows = from[1]..from[3];
            let all = rows.flat_map(|y| (from[0]..from[2]).map(move |x| (x, y)));
            all.filter(|&(x, y)| pixel(&drawn, x, y) == colour).count()
        };
        let above = [100, 80, 160, 99];
        assert!(count(above, MARK_COLOURS[0]) > 300, "{}", count(above, MARK_COLOURS[0]));
        let places = (80..99).flat_map(|y| (100..160).map(move |x| (x, y)));
        let n_ink = places.filter(|&(x, y)| pixel(&drawn, x, y)[1] > 200).count();
        assert!(n_ink > 20, "{n_ink}");
        assert_eq!(count([0, 0, 99, 320], GREY), 99 * 320);
        assert_eq!(count([0, 0, 400, 79], GREY), 400 * 79);
    }

    #[test]
    fn equal_labels_share_a_colour() {
        let at = |x| [x, 50, x + 20, 90];
        let marks = [mark("a", at(10)), mark("b", at(50)), mark("a", at(90))];
        let drawn = draw(&grey(200, 100), &marks).unwrap();
        let colours = [10, 50, 90].map(|x| pixel(&drawn, x, 80));
        assert_eq!(colours, [MARK_COLOURS[0], MARK_COLOURS[1], MARK_COLOURS[0]]);
    }

    #[test]
    fn nothing_leaves_the_picture() {
        let long = "a very long name that no picture holds ".repeat(9);
        for (width, height) in [(1, 1), (3, 2), (40, 30), (500, 20), (20, 500)] {
            let frame = grey(width, height);
            for label in ["", "x", "\n\u{1f408}\u{e9}", &long] {
                let all = mark(label, [0, 0, width, height]);
                let last = mark(label, [width - 1, height - 1, width, height]);
                let drawn = draw(&frame, &[all, last]).unwrap();
                assert_eq!((drawn.width(), drawn.height()), (width, height));
            }
        }
        for edges in [[0, 0, 0, 5], [5, 5, 2, 9], [0, 0, 11, 5], [0, 0, 5, 11]] {
            assert!(draw(&grey(10, 10), &[mark("", edges)]).is_err(), "{edges:?}");
        }
        assert!(draw(&grey(10, 10), &vec![mark("", [0, 0, 9, 9]); MARKS_MAX + 1]).is_err());
    }
}
