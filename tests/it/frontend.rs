//! The frontend against numbers made by transformers.
//! In: `tests/golden/`. Out: pass or fail.

use std::path::PathBuf;
use std::time::Instant;

use culet::Frame;
use culet::frontend::Patches;
use culet::frontend::pixels;

fn golden(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The picture of `tests/golden/pixels/make.py`: gradients, stripes and noise.
fn picture(width: u32, height: u32) -> Frame {
    let mut rgb = Vec::new();
    for y in 0..u64::from(height) {
        for x in 0..u64::from(width) {
            for c in 0..3 {
                let noise = mix((y * u64::from(width) + x) * 3 + c) % 64;
                let smooth = x * 255 / u64::from(width) + y / 16 % 2 * 128 + c * 40;
                rgb.push(((smooth + noise) % 256) as u8);
            }
        }
    }
    Frame::new(width, height, rgb).unwrap()
}

fn checksum(values: impl Iterator<Item = u64>) -> u64 {
    let terms = (0..).zip(values).map(|(at, v)| mix(at).wrapping_mul(v + 1));
    terms.fold(0, u64::wrapping_add)
}

#[test]
fn resized_pictures_equal_the_reference_bit_for_bit() {
    let mut failures = Vec::new();
    let mut n_pictures = 0;
    for line in golden("pixels/resized.csv").lines().skip(1) {
        let cells: Vec<u64> = line.split(',').map(|cell| cell.parse().unwrap()).collect();
        let (width, height, budget) = (cells[0] as u32, cells[1] as u32, cells[2] as u32);
        let source = picture(width, height);
        let (to_width, to_height) = pixels::target_size(width, height, budget).unwrap();
        assert_eq!([to_width, to_height].map(u64::from), cells[3..5], "{line}");
        let start = Instant::now();
        let resized = pixels::resize(&source, to_width, to_height).unwrap();
        println!("{width}x{height} -> {to_width}x{to_height}: {:?}", start.elapsed());
        let patches = Patches::from_frame(&source, budget).unwrap();
        assert_eq!(patches.n_soft_tokens() as u64, cells[5], "{line}");
        let pixels = checksum(resized.rgb().iter().map(|&v| u64::from(v)));
        let bits = checksum(patches.data.iter().map(|v| u64::from(v.to_bits())));
        if [pixels, bits] != cells[6..8] {
            failures.push(line.to_owned());
        }
        n_pictures += 1;
    }
    assert!(failures.is_empty(), "{} of {n_pictures} differ: {failures:#?}", failures.len());
    assert!(n_pictures >= 30);
}
