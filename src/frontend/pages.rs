//! Tall pages in pieces that a picture's token budget can show large enough to read.
//!
//! In: `Frame`, a token budget; the text of each piece. Out: pieces with overlap; one text.
//! Invariant: the pieces cover every row; each row of an overlap is whole in one of its pieces.

use std::ops::Range;

use crate::error::Result;
use crate::frontend::pixels;
use crate::media::Frame;

/// Height over width from which a page that would be shrunk is cut, in tenths.
const TALL_TENTHS: u64 = 20;
/// Height over width of a piece, in tenths: about that of a sheet of paper.
const PIECE_TENTHS: u64 = 14;
/// Share of a piece that the next one shows again.
const OVERLAP_SHARE: u32 = 8;
/// Most pieces of one page; a longer one gets taller pieces.
pub const PIECES_MAX: u32 = 24;
/// Most lines of an overlap that are compared.
const SHARED_LINES_MAX: usize = 40;

/// Returns the rows of each piece of a page; a single range if it is not cut.
///
/// # Errors
/// As for [`pixels::target_size`].
pub fn rows(width: u32, height: u32, budget: u32) -> Result<Vec<Range<u32>>> {
    let is_tall = u64::from(height) * 10 > u64::from(width) * TALL_TENTHS;
    // A page of an extreme shape fits into no budget, which is what cutting is for.
    let is_shrunk = |(_, target_height): (u32, u32)| target_height < height;
    if !is_tall || !pixels::target_size(width, height, budget).map_or(is_tall, is_shrunk) {
        return Ok(std::iter::once(0..height).collect());
    }
    let wanted = u64::from(width) * PIECE_TENTHS / 10;
    let wanted = u32::try_from(wanted).unwrap_or(height).clamp(1, height);
    let step = wanted - wanted / OVERLAP_SHARE;
    let n = (height - wanted).div_ceil(step).saturating_add(1).min(PIECES_MAX);
    // All pieces are equally high: n of them, less n - 1 overlaps, make the page.
    let piece = if n == PIECES_MAX { height.div_ceil(n) * 8 / 7 + 1 } else { wanted }.min(height);
    let last_top = height - piece;
    let top = |i: u32| {
        let top = u64::from(last_top) * u64::from(i) / u64::from((n - 1).max(1));
        u32::try_from(top).unwrap_or(last_top)
    };
    Ok((0..n).map(|i| top(i)..top(i) + piece).collect())
}

/// Returns some rows of a picture as a picture.
///
/// # Errors
/// `Input` if there are no such rows.
pub fn cut(frame: &Frame, rows: &Range<u32>) -> Result<Frame> {
    let row_bytes = 3 * frame.width() as usize;
    let (start, end) = (rows.start as usize * row_bytes, rows.end as usize * row_bytes);
    let rgb = frame.rgb().get(start..end).unwrap_or_default().to_vec();
    Frame::new(frame.width(), rows.end.saturating_sub(rows.start), rgb)
}

/// Appends the text of the next piece, leaving out the lines that both show.
///
/// The last line of `text` and the first of `piece` may be cut through by the piece's edge, and
/// then they are not compared. Without a common line, all lines of both stay.
pub fn join(text: &mut String, piece: &str) {
    let piece = piece.trim_matches('\n');
    if text.is_empty() || piece.is_empty() {
        text.push_str(piece);
        return;
    }
    let before: Vec<&str> = text.lines().collect();
    let after: Vec<&str> = piece.lines().collect();
    let (n_kept, n_left_out) = shared(&before, &after);
    let kept = before[..n_kept].iter().chain(&after[n_left_out..]);
    let joined: Vec<&str> = kept.copied().collect();
    *text = joined.join("\n");
}

/// Returns how many lines of `before` stay and how many at the start of `after` are left out.
fn shared(before: &[&str], after: &[&str]) -> (usize, usize) {
    let same = |a: &str, b: &str| a.split_whitespace().eq(b.split_whitespace());
    let most = before.len().min(after.len()).min(SHARED_LINES_MAX);
    for n in (1..=most).rev() {
        // Neither, the last of the one, the first of the other, or both lines are cut through.
        for (cut_end, cut_start) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let Some(end) = before.len().checked_sub(cut_end).filter(|end| *end >= n) else {
                continue;
            };
            let Some(found) = after.get(cut_start..cut_start + n) else { continue };
            let tail = &before[end - n..end];
            let is_text = tail.iter().any(|line| !line.trim().is_empty());
            if is_text && tail.iter().zip(found).all(|(a, b)| same(a, b)) {
                return (end, cut_start + n);
            }
        }
    }
    (before.len(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tall_pages_that_would_shrink_are_cut() {
        // Sides, budget, pieces.
        let cases = [
            (2480, 3508, 1120, 1),
            (100, 300, 1120, 1),
            (1080, 2160, 1120, 1),
            (1080, 8000, 1120, 6),
            (1080, 8000, 70, 6),
            (8000, 1080, 1120, 1),
            (10, 60_000, 1120, 24),
            (1, 65_536, 70, 24),
            (1, 1, 70, 1),
        ];
        let mut failures = Vec::new();
        for (width, height, budget, n) in cases {
            let pieces = rows(width, height, budget).unwrap();
            if pieces.len() != n {
                failures.push(format!("{width}x{height} at {budget}: {}", pieces.len()));
            }
        }
        assert!(failures.is_empty(), "{failures:#?}");
    }

    #[test]
    fn pieces_cover_a_page_and_overlap() {
        for width in [1, 7, 100, 1080] {
            for height in [2 * width + 1, 5 * width, 4000, 65_000] {
                let pieces = rows(width, height.max(2 * width + 1), 70).unwrap();
                let height = height.max(2 * width + 1);
                assert_eq!((pieces[0].start, pieces[pieces.len() - 1].end), (0, height));
                for pair in pieces.windows(2) {
                    let (before, after) = (&pair[0], &pair[1]);
                    assert!(before.start < after.start, "{width}x{height}: {pieces:?}");
                    let shared = before.end.saturating_sub(after.start);
                    let least = (before.end - before.start) / (OVERLAP_SHARE + 2);
                    assert!(shared >= least, "{width}x{height}: {pieces:?}");
                }
            }
        }
    }

    #[test]
    fn cuts_hold_their_rows() {
        let rgb: Vec<u8> = (0..2 * 5 * 3).collect();
        let page = Frame::new(2, 5, rgb.clone()).unwrap();
        let piece = cut(&page, &(1..4)).unwrap();
        assert_eq!((piece.width(), piece.height(), piece.rgb()), (2, 3, &rgb[6..24]));
        assert!(cut(&page, &(3..3)).is_err() && cut(&page, &(3..9)).is_err());
    }

    #[test]
    fn lines_shown_twice_are_written_once() {
        let cases = [
            ("", "a\nb", "a\nb"),
            ("a\nb", "", "a\nb"),
            ("a\nb\nc", "b\nc\nd", "a\nb\nc\nd"),
            ("a\nb\nc", "b  c\nd", "a\nb\nc\nb  c\nd"),
            ("a\nb c\nd", "b  c\nd\ne", "a\nb c\nd\ne"),
            // The last line is cut through.
            ("a\nb\nhal", "b\nhalf\nd", "a\nb\nhalf\nd"),
            // The first line is cut through.
            ("a\nb\nc", "alf\nc\nd", "a\nb\nc\nd"),
            ("a\nb\nc\nhal", "alf\nc\nhalf\nd", "a\nb\nc\nhalf\nd"),
            ("a\n", "\nb", "a\nb"),
            ("a\n\nb", "c\n\nd", "a\n\nb\nc\n\nd"),
        ];
        let mut failures = Vec::new();
        for (text, piece, expected) in cases {
            let mut joined = text.to_owned();
            join(&mut joined, piece);
            if joined != expected {
                failures.push(format!("{text:?} + {piece:?} = {joined:?}"));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}
