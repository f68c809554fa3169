//! Letters as strokes of a round pen.
//! In: text, the height of a capital. Out: how much of each pixel the pen covers.
//! Invariant: every character has a shape; those that the table lacks are a hollow box.

/// Units from the top of a capital to the line it stands on.
const CAPITAL: f32 = 6.0;
/// Units that a `p` reaches below the line.
pub(super) const DESCENT: f32 = 2.0;
/// Units between two letters.
const GAP: f32 = 1.5;
/// Width of the pen, in units.
const PEN: f32 = 0.9;
/// Times that the corners of a curve are cut.
const N_CUT: usize = 3;

/// Characters, their widths in units and their strokes: points `xy`, one digit each, with y down
/// from the top of a capital; `~` begins a curve that its points only guide.
#[rustfmt::skip]
const GLYPHS: [(char, u8, &str); 90] = [
    (' ', 1, ""), ('!', 0, "0004 0606"), ('"', 1, "0001 1011"), ('#', 4, "1016 3036 0242 0444"),
    ('$', 4, "~4140000343460605 2027"), ('%', 4, "4006 0000 4646"), ('\'', 0, "0001"),
    ('(', 1, "~10000616"), (')', 1, "~00101606"), ('*', 2, "1014 0113 0311"), ('+', 4, "0444 2226"),
    (',', 1, "1607"), ('-', 2, "0424"), ('.', 0, "0606"), ('/', 3, "0630"),
    ('0', 3, "~103036060010"), ('1', 2, "011016 0626"), ('2', 3, "~0100303306 0636"),
    ('3', 3, "~0100303313 ~1333360605"), ('4', 4, "36300444"), ('5', 3, "300003 ~0332360605"),
    ('6', 3, "~300005 ~133336060313"), ('7', 3, "003016"), ('8', 3, "~103033030010 ~133336060313"),
    ('9', 3, "~103033030010 ~313606"), (':', 0, "0303 0606"), (';', 1, "1313 1607"),
    ('<', 3, "310436"), ('=', 3, "0333 0535"), ('>', 3, "013406"), ('?', 3, "~010030331314 1616"),
    ('A', 4, "062046 1434"), ('B', 4, "0006 ~002040432303 ~032343462606"),
    ('C', 4, "~414000064645"), ('D', 4, "0006 ~002040462606"), ('E', 4, "40000646 0333"),
    ('F', 4, "400006 0333"), ('G', 4, "~41400006464443 4323"), ('H', 4, "0006 4046 0343"),
    ('I', 2, "1016 0020 0626"), ('J', 3, "~30360604"), ('K', 4, "0006 4004 2246"),
    ('L', 4, "000646"),
    ('M', 4, "0600234046"), ('N', 4, "06004640"), ('O', 4, "~204046060020"),
    ('P', 4, "0006 ~002040432303"), ('Q', 4, "~204046060020 2446"),
    ('R', 4, "0006 ~002040432303 2346"), ('S', 4, "~4140000343460605"), ('T', 4, "0040 2026"),
    ('U', 4, "~00064640"), ('V', 4, "002640"), ('W', 4, "0016233640"), ('X', 4, "0046 4006"),
    ('Y', 4, "002340 2326"), ('Z', 4, "00400646"), ('[', 1, "10000616"), ('\\', 3, "0036"),
    (']', 1, "00101606"), ('_', 4, "0747"), ('|', 0, "0007"),
    ('a', 3, "~123236060212 3236"), ('b', 3, "0006 ~123236060212"), ('c', 3, "~333202063635"),
    ('d', 3, "3036 ~123236060212"), ('e', 3, "0434 ~343202063635"), ('f', 3, "~30101316 0232"),
    ('g', 3, "~123236060212 ~32380807"), ('h', 3, "0006 ~04023236"), ('i', 0, "0206 0000"),
    ('j', 1, "~121808 1010"), ('k', 3, "0006 3205 1436"), ('l', 1, "~000616"),
    ('m', 4, "0206 ~04022226 ~24224246"), ('n', 3, "0206 ~04023236"), ('o', 3, "~123236060212"),
    ('p', 3, "0208 ~123236060212"), ('q', 3, "3238 ~123236060212"), ('r', 2, "0206 ~040222"),
    ('s', 3, "~3332020434360605"), ('t', 3, "~101636 0232"), ('u', 3, "~02063632 3236"),
    ('v', 4, "022642"), ('w', 4, "0216233642"), ('x', 3, "0236 3206"), ('y', 4, "0226 4218"),
    ('z', 3, "02320636"), ('{', 2, "20111303 0313 131526"), ('}', 2, "00111323 2313 131506"),
];
/// What stands for a character that the table lacks.
const UNKNOWN: (u8, &str) = (3, "0030360600");

type Point = (f32, f32);

/// Returns a character's width and strokes; letters with accents lose them.
fn shape(c: char) -> (u8, &'static str) {
    let plain = match c {
        'À'..='Å' => 'A',
        'È'..='Ë' => 'E',
        'Ì'..='Ï' => 'I',
        'Ò'..='Ö' => 'O',
        'Ù'..='Ü' => 'U',
        'à'..='å' => 'a',
        'ç' => 'c',
        'è'..='ë' => 'e',
        'ì'..='ï' => 'i',
        'ñ' => 'n',
        'ò'..='ö' => 'o',
        'ù'..='ü' => 'u',
        other => other,
    };
    let known = GLYPHS.iter().find(|glyph| glyph.0 == plain);
    known.map_or(UNKNOWN, |&(_, width, strokes)| (width, strokes))
}

/// Returns the points of a stroke; those of a curve are many.
fn points(stroke: &str) -> Vec<Point> {
    let digits = stroke.trim_start_matches('~').as_bytes();
    let place = |digit: u8| f32::from(digit - b'0');
    let mut line: Vec<Point> =
        digits.chunks_exact(2).map(|xy| (place(xy[0]), place(xy[1]))).collect();
    if stroke.starts_with('~') {
        for _ in 0..N_CUT {
            line = cut(&line);
        }
    }
    line
}

/// Cuts the corners of a line but keeps its ends, which makes it a curve after some rounds.
fn cut(line: &[Point]) -> Vec<Point> {
    let (Some(&first), Some(&last)) = (line.first(), line.last()) else { return Vec::new() };
    let between =
        |a: Point, b: Point, share: f32| (a.0 + (b.0 - a.0) * share, a.1 + (b.1 - a.1) * share);
    let inner =
        line.windows(2).flat_map(|ab| [between(ab[0], ab[1], 0.25), between(ab[0], ab[1], 0.75)]);
    let mut curve = vec![first];
    curve.extend(inner);
    curve.push(last);
    curve
}

/// Returns the width of a text in pixels, if a capital is `height_px` high.
pub(super) fn width_px(text: &str, height_px: f32) -> f32 {
    let units: f32 = text.chars().map(|c| f32::from(shape(c).0) + GAP).sum();
    (units - GAP).max(0.0) * height_px / CAPITAL
}

/// Calls `paint` with each pixel that the pen touches and its cover, 0 to 1; a pixel may come
/// more than once. The text's first capital has its top left at `at`.
pub(super) fn write(text: &str, at: Point, height_px: f32, paint: &mut dyn FnMut(i64, i64, f32)) {
    let unit = height_px / CAPITAL;
    let radius = (PEN * unit / 2.0).max(0.5);
    let mut left = at.0;
    for c in text.chars() {
        let (width, strokes) = shape(c);
        for stroke in strokes.split_ascii_whitespace() {
            let line = points(stroke);
            let placed = |p: Point| (left + p.0 * unit, at.1 + p.1 * unit);
            for pair in line.windows(2) {
                segment(placed(pair[0]), placed(pair[1]), radius, paint);
            }
        }
        left += (f32::from(width) + GAP) * unit;
    }
}

/// Paints one straight stroke with round ends.
fn segment(a: Point, b: Point, radius: f32, paint: &mut dyn FnMut(i64, i64, f32)) {
    let reach = radius + 1.0;
    let span =
        |a: f32, b: f32| ((a.min(b) - reach).floor() as i64)..=((a.max(b) + reach).ceil() as i64);
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length = dx * dx + dy * dy;
    for y in span(a.1, b.1) {
        for x in span(a.0, b.0) {
            let (px, py) = (x as f32 + 0.5 - a.0, y as f32 + 0.5 - a.1);
            let share = if length > 0.0 { (px * dx + py * dy) / length } else { 0.0 };
            let share = share.clamp(0.0, 1.0);
            let distance = (px - share * dx).hypot(py - share * dy);
            let cover = (radius + 0.5 - distance).clamp(0.0, 1.0);
            if cover > 0.0 {
                paint(x, y, cover);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_well_formed() {
        for (i, (c, width, strokes)) in GLYPHS.iter().enumerate() {
            assert!(GLYPHS[i + 1..].iter().all(|other| other.0 != *c), "{c} stands twice");
            for stroke in strokes.split_ascii_whitespace() {
                let digits = stroke.trim_start_matches('~');
                assert!(digits.len() >= 4 && digits.len().is_multiple_of(2), "{c}: {stroke}");
                assert!(digits.bytes().all(|d| d.is_ascii_digit()), "{c}: {stroke}");
                let xs = points(stroke).into_iter().map(|p| p.0);
                assert!(xs.clone().all(|x| x <= f32::from(*width)), "{c}: {stroke}");
                let low = points(stroke).into_iter().map(|p| p.1).fold(0.0, f32::max);
                assert!(low <= CAPITAL + DESCENT, "{c}: {stroke}");
            }
        }
        for c in ('a'..='z').chain('A'..='Z').chain('0'..='9') {
            assert_ne!(shape(c), UNKNOWN, "{c}");
        }
        assert_eq!(shape('ä'), shape('a'));
        assert_eq!(shape('猫'), UNKNOWN);
    }

    #[test]
    fn a_stem_is_where_it_belongs() {
        let mut cover = vec![0.0_f32; 40 * 40];
        write("l|", (5.0, 4.0), 24.0, &mut |x, y, c| {
            let pixel = &mut cover[(y * 40 + x) as usize];
            *pixel = pixel.max(c);
        });
        let at = |x: usize, y: usize| cover[y * 40 + x];
        // A unit is 4 pixels, the pen 3.6 wide: it covers x from 3.2 to 6.8, so 0.8 of pixel 3.
        assert_eq!((at(4, 10), at(5, 10), at(9, 10)), (1.0, 1.0, 0.0));
        assert!((0.7..0.9).contains(&at(3, 10)), "{}", at(3, 10));
        // The bar begins where the `l` and the gap end: 1 + 1.5 units further.
        assert_eq!((at(15, 10), at(12, 10)), (1.0, 0.0));
        assert_eq!(width_px("l|", 24.0), 10.0);
    }
}
