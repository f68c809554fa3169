//! Whether a scene changed, far cheaper than looking at it.
//!
//! In: `Frame`s. Out: the share of the picture that differs from the one last looked at.
//! Invariant: noise and a slow drift of brightness are no change; a thing that moves by a cell is.

use crate::media::Frame;

/// Cells that a picture is averaged to, across and down.
const CELLS: (usize, usize) = (32, 18);
/// By how much a cell's brightness differs from what it was, of 255, if something happened there.
const CELL_LEVELS_MIN: f32 = 10.0;
/// Most drift of the whole picture's brightness that counts as the camera's own doing.
const DRIFT_LEVELS_MAX: f32 = 8.0;
/// Share of the cells from which a scene counts as changed, unless the caller knows better.
pub const CHANGE_SHARE_DEFAULT: f32 = 0.01;

/// A scene as it was when it was last looked at.
#[derive(Clone, Default)]
pub struct Scene {
    cells: Vec<f32>,
}

impl std::fmt::Debug for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scene")
    }
}

impl Scene {
    /// Returns the share of cells, 0 to 1, in which `frame` differs from the kept one; 1 if none
    /// was kept.
    pub fn difference(&self, frame: &Frame) -> f32 {
        if self.cells.is_empty() {
            return 1.0;
        }
        let now = cells_of(frame);
        let drift: f32 = now.iter().zip(&self.cells).map(|(a, b)| a - b).sum();
        let drift = (drift / now.len() as f32).clamp(-DRIFT_LEVELS_MAX, DRIFT_LEVELS_MAX);
        let is_new = |(a, b): &(&f32, &f32)| (*a - *b - drift).abs() >= CELL_LEVELS_MIN;
        let n = now.iter().zip(&self.cells).filter(is_new).count();
        n as f32 / now.len() as f32
    }

    /// Keeps a frame as the one that was looked at.
    pub fn keep(&mut self, frame: &Frame) {
        self.cells = cells_of(frame);
    }
}

/// Returns the mean brightness of each cell, row by row.
fn cells_of(frame: &Frame) -> Vec<f32> {
    let (width, height) = (frame.width() as usize, frame.height() as usize);
    let (n_x, n_y) = CELLS;
    let mut sums = vec![(0_u64, 0_u64); n_x * n_y];
    for (y, row) in frame.rgb().chunks_exact(3 * width).enumerate() {
        let line = &mut sums[y * n_y / height * n_x..][..n_x];
        for (x, pixel) in row.chunks_exact(3).enumerate() {
            let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u64::from);
            let cell = &mut line[x * n_x / width];
            // BT.601 luma in 256ths.
            *cell = (cell.0 + 77 * r + 150 * g + 29 * b, cell.1 + 256);
        }
    }
    let mean = |(sum, n): &(u64, u64)| if *n == 0 { 0.0 } else { *sum as f32 / *n as f32 };
    sums.iter().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::random::Random;

    const SIDES: (u32, u32) = (640, 360);

    /// A grey picture whose pixels are made by `value`.
    fn picture(value: impl Fn(u32, u32) -> u8) -> Frame {
        let (width, height) = SIDES;
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let rgb = places.flat_map(|(x, y)| [value(x, y); 3]).collect();
        Frame::new(width, height, rgb).unwrap()
    }

    #[test]
    fn only_what_happens_counts() {
        let square = |at: u32| move |x: u32, y: u32| (x, y) >= (at, 0) && x < at + 80 && y < 80;
        let shade = |is_inside: bool, base: u8| if is_inside { 200 } else { base };
        let mut random = Random::from_env();
        let noise: Vec<u8> = (0..4096).map(|_| random.below(21) as u8).collect();
        let before = picture(|x, y| shade(square(100)(x, y), 90));
        let mut scene = Scene::default();
        assert_eq!(scene.difference(&before), 1.0);
        scene.keep(&before);
        let cases = [
            ("the same", before.clone(), false),
            ("brighter by a little", picture(|x, y| shade(square(100)(x, y), 95)), false),
            (
                "noisy",
                picture(|x, y| {
                    let n = noise[((x * 31 + y * 17) % 4096) as usize];
                    shade(square(100)(x, y), 90) - 10 + n
                }),
                false,
            ),
            ("moved", picture(|x, y| shade(square(160)(x, y), 90)), true),
            ("gone", picture(|_, _| 90), true),
            ("dark", picture(|x, y| shade(square(100)(x, y), 90) / 8), true),
        ];
        for (what, frame, is_change) in cases {
            let share = scene.difference(&frame);
            assert_eq!(share >= CHANGE_SHARE_DEFAULT, is_change, "{what}: {share}");
        }
    }

    #[test]
    fn any_size_has_cells() {
        for (width, height) in [(1, 1), (31, 17), (33, 19), (1, 500)] {
            let frame = |value| {
                Frame::new(width, height, vec![value; (3 * width * height) as usize]).unwrap()
            };
            let mut scene = Scene::default();
            scene.keep(&frame(10));
            assert_eq!(scene.difference(&frame(10)), 0.0);
            assert!(scene.difference(&frame(250)) > 0.0, "{width}x{height}");
        }
    }
}
