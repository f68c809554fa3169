//! A camera's raw frames as 8-bit RGB.
//! In: bytes as the camera sends them. Out: `Frame`.
//! Source: ITU-R BT.601, limited range, in whole numbers with eight bits behind the point.

use std::fmt;

use crate::error::Error;
use crate::error::Result;
use crate::media::Frame;
use crate::media::check_size;
use crate::source::image_file;

/// How a camera lays out its pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelFormat {
    /// Y, U, Y, V for every two pixels.
    Yuyv,
    /// All Y, then U and V alternating for every two by two pixels.
    Nv12,
    /// R, G, B.
    Rgb,
    /// B, G, R.
    Bgr,
    /// One value a pixel.
    Grey,
    /// A jpeg picture for each frame.
    Mjpeg,
}

impl fmt::Display for PixelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Yuyv => "YUYV",
            Self::Nv12 => "NV12",
            Self::Rgb => "RGB",
            Self::Bgr => "BGR",
            Self::Grey => "grey",
            Self::Mjpeg => "MJPEG",
        })
    }
}

/// Converts one frame.
///
/// Rows may be longer than their pixels; what follows the last row is left out. A jpeg's own sides
/// count.
///
/// # Errors
/// `Input` if the sides are out of range, `Format` if bytes are missing or a jpeg is damaged.
pub fn frame_of(format: PixelFormat, width: u32, height: u32, bytes: &[u8]) -> Result<Frame> {
    if format == PixelFormat::Mjpeg {
        return jpeg_of(bytes).map_err(|e| e.at("camera"));
    }
    check_size(width, height).map_err(|e| e.at("camera"))?;
    let (w, h) = (width as usize, height as usize);
    // Two pixels share their colour, so a row of an odd width has room for one more.
    let row_bytes = match format {
        PixelFormat::Yuyv => w.next_multiple_of(2) * 2,
        PixelFormat::Nv12 => w.next_multiple_of(2),
        PixelFormat::Rgb | PixelFormat::Bgr => w * 3,
        PixelFormat::Grey | PixelFormat::Mjpeg => w,
    };
    let n_rows = if format == PixelFormat::Nv12 { h + h.div_ceil(2) } else { h };
    if bytes.len() < n_rows * row_bytes {
        return Err(Error::format(format!(
            "camera: {format} frame of {width}x{height} has {} bytes, expected {}",
            bytes.len(),
            n_rows * row_bytes
        )));
    }
    let stride = if bytes.len().is_multiple_of(n_rows) { bytes.len() / n_rows } else { row_bytes };
    let mut rgb = Vec::with_capacity(w * h * 3);
    for (y, row) in bytes.chunks_exact(stride).take(h).enumerate() {
        match format {
            PixelFormat::Yuyv => {
                let pixels = row.chunks_exact(4).flat_map(|four| {
                    [rgb_of(four[0], four[1], four[3]), rgb_of(four[2], four[1], four[3])]
                });
                rgb.extend(pixels.take(w).flatten());
            }
            PixelFormat::Nv12 => {
                let colour = &bytes[(h + y / 2) * stride..][..row_bytes];
                let pixels = row[..w].iter().enumerate();
                rgb.extend(
                    pixels.flat_map(|(x, &luma)| {
                        rgb_of(luma, colour[x / 2 * 2], colour[x / 2 * 2 + 1])
                    }),
                );
            }
            PixelFormat::Rgb => rgb.extend_from_slice(&row[..row_bytes]),
            PixelFormat::Bgr => {
                let pixels = row[..row_bytes].chunks_exact(3);
                rgb.extend(pixels.flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]));
            }
            PixelFormat::Grey | PixelFormat::Mjpeg => {
                rgb.extend(row[..w].iter().flat_map(|&value| [value; 3]));
            }
        }
    }
    Frame::new(width, height, rgb)
}

/// Decodes a jpeg that may lack the Huffman tables which all cameras share.
fn jpeg_of(bytes: &[u8]) -> Result<Frame> {
    /// The mark of such a jpeg: an APP0 segment that says AVI1.
    const MARK: &[u8] = b"\xff\xe0\0\x08AVI1\0\0";
    let Some(rest) = bytes.strip_prefix(b"\xff\xd8") else {
        return Err(Error::format("MJPEG frame is damaged: it does not begin as a jpeg"));
    };
    image_file::from_bytes([b"\xff\xd8", MARK, rest].concat())
}

/// Returns the colour of one pixel.
fn rgb_of(luma: u8, u: u8, v: u8) -> [u8; 3] {
    let luma = 298 * (i32::from(luma) - 16) + 128;
    let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
    let red = luma + 409 * v;
    let green = luma - 100 * u - 208 * v;
    let blue = luma + 516 * u;
    [red, green, blue].map(|value| (value >> 8).clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bars of a test picture: Y, U, V and the colour they stand for.
    const BARS: [([u8; 3], [u8; 3]); 8] = [
        ([235, 128, 128], [255, 255, 255]),
        ([210, 16, 146], [255, 255, 0]),
        ([170, 166, 16], [0, 255, 255]),
        ([145, 54, 34], [0, 255, 0]),
        ([106, 202, 222], [255, 0, 255]),
        ([81, 90, 240], [255, 0, 0]),
        ([41, 240, 110], [0, 0, 255]),
        ([16, 128, 128], [0, 0, 0]),
    ];
    /// Whole numbers in Y, U and V cannot name every colour exactly.
    const ROUNDING: u8 = 3;

    fn near(found: &[u8], expected: [u8; 3]) -> bool {
        found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= ROUNDING)
    }

    #[test]
    fn bars_have_their_colours() {
        for ([y, u, v], colour) in BARS {
            let yuyv = frame_of(PixelFormat::Yuyv, 2, 2, &[y, u, y, v, y, u, y, v]).unwrap();
            assert!(yuyv.rgb().chunks(3).all(|pixel| near(pixel, colour)), "{colour:?}");
            let nv12 = frame_of(PixelFormat::Nv12, 2, 2, &[y, y, y, y, u, v]).unwrap();
            assert_eq!(nv12.rgb(), yuyv.rgb());
        }
    }

    #[test]
    fn pixels_stand_where_they_were() {
        let rgb = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        assert_eq!(frame_of(PixelFormat::Rgb, 2, 2, &rgb).unwrap().rgb(), rgb);
        let bgr = frame_of(PixelFormat::Bgr, 2, 2, &rgb).unwrap();
        assert_eq!(bgr.rgb(), [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]);
        let grey = frame_of(PixelFormat::Grey, 2, 1, &[7, 8]).unwrap();
        assert_eq!(grey.rgb(), [7, 7, 7, 8, 8, 8]);
        let padded = [7, 8, 0, 0, 9, 10, 0, 0];
        let grey = frame_of(PixelFormat::Grey, 2, 2, &padded).unwrap();
        assert_eq!(grey.rgb(), [7, 7, 7, 8, 8, 8, 9, 9, 9, 10, 10, 10]);
        let odd = [16, 128, 235, 128, 16, 128, 0, 128];
        let yuyv = frame_of(PixelFormat::Yuyv, 3, 1, &odd).unwrap();
        assert_eq!(yuyv.rgb(), [0, 0, 0, 255, 255, 255, 0, 0, 0]);
        let odd = [16, 235, 16, 0, 235, 16, 235, 0, 16, 16, 16, 0];
        let odd = [&odd[..], &[128; 8]].concat();
        let nv12 = frame_of(PixelFormat::Nv12, 3, 3, &odd).unwrap();
        let light: Vec<bool> = nv12.rgb().chunks(3).map(|pixel| pixel[0] == 255).collect();
        assert_eq!(light, [false, true, false, true, false, true, false, false, false]);
    }

    #[test]
    fn short_frames_are_refused() {
        use PixelFormat::*;
        for (format, n_bytes) in [(Yuyv, 31), (Nv12, 23), (Rgb, 47), (Bgr, 47), (Grey, 15)] {
            assert!(frame_of(format, 4, 4, &vec![0; n_bytes]).is_err(), "{format}");
            assert!(frame_of(format, 4, 4, &vec![0; n_bytes + 1]).is_ok(), "{format}");
            assert!(frame_of(format, 0, 4, &vec![0; n_bytes]).is_err(), "{format}");
        }
        assert!(frame_of(Mjpeg, 4, 4, b"\xff\xd8\xff").is_err());
    }
}
