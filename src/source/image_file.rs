//! Any picture file as 8-bit RGB.
//! In: a path or bytes. Out: `Frame`, upright; for moving pictures, one `Frame` after the other.
//! Invariant: sides are checked before pixels are decoded; a panic inside a decoder ends as an
//! error.

use std::fmt;
use std::io::Cursor;
use std::path::Path;

use image::AnimationDecoder;
use image::DynamicImage;
use image::Frames;
use image::ImageDecoder;
use image::ImageError;
use image::ImageFormat;
use image::ImageReader;
use image::Limits;
use image::codecs::gif::GifDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;

use crate::error::Error;
use crate::error::Result;
use crate::error::guarded;
use crate::media::FRAME_SIDE_PX_MAX;
use crate::media::Frame;
use crate::media::check_size;
use crate::whole::cannot_read;
use crate::whole::short_name;

/// Largest picture file that is read, in bytes.
pub const IMAGE_FILE_BYTES_MAX: u64 = 512 << 20;
/// Most frames that are taken from one moving picture.
pub const IMAGE_FRAMES_MAX: usize = 100_000;
/// Most memory that a decoder may ask for, in bytes.
const DECODE_BYTES_MAX: u64 = 1 << 30;
/// How pictures are called where they come without a name.
const UNNAMED: &str = "picture";
const FORMATS: &str = "png, jpeg, webp, gif and bmp";

/// Reads a picture; of a moving one, the first frame.
///
/// The camera's orientation is applied. Transparency is dropped as it stands, without a background;
/// 16-bit, grey, palette and CMYK pictures become 8-bit RGB.
///
/// # Errors
/// `Io` if the file cannot be read, `Format` if it is no picture or damaged, `Unsupported` for a
/// kind that is not read, `Input` if it is empty or exceeds a limit.
pub fn open(path: &Path) -> Result<Frame> {
    let (name, bytes) = read(path)?;
    guard(&name, || decode(&name, bytes))
}

/// Reads a picture that is already in memory.
///
/// # Errors
/// As for [`open`].
pub fn from_bytes(bytes: Vec<u8>) -> Result<Frame> {
    check_bytes(UNNAMED, bytes.len() as u64)?;
    guard(UNNAMED, || decode(UNNAMED, bytes))
}

/// The frames of a picture: one, or those of an animated gif or webp.
///
/// Moving frames are painted over each other, beginning on black.
pub struct FrameStream {
    name: String,
    frames: Option<Frames<'static>>,
    still: Option<Frame>,
    at_ns: u64,
    n_read: usize,
}

impl fmt::Debug for FrameStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameStream {{ {} frames read }}", self.n_read)
    }
}

impl FrameStream {
    /// Opens a picture file.
    ///
    /// # Errors
    /// As for [`open`].
    pub fn open(path: &Path) -> Result<Self> {
        let (name, bytes) = read(path)?;
        Self::new(name, bytes)
    }

    /// Opens a picture that is already in memory.
    ///
    /// # Errors
    /// As for [`open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        check_bytes(UNNAMED, bytes.len() as u64)?;
        Self::new(UNNAMED.to_owned(), bytes)
    }

    fn new(name: String, bytes: Vec<u8>) -> Result<Self> {
        let (frames, still) = guard(&name, || open_frames(&name, bytes))?;
        Ok(Self { name, frames, still, at_ns: 0, n_read: 0 })
    }
}

/// Returns the frames of a moving picture, or else the only one.
fn open_frames(name: &str, bytes: Vec<u8>) -> Result<(Option<Frames<'static>>, Option<Frame>)> {
    let refused = |e| broken(name, e);
    match format_of(name, &bytes)? {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(Cursor::new(bytes)).map_err(refused)?;
            decoder.set_limits(limits()).map_err(refused)?;
            check_claims(name, &decoder)?;
            Ok((Some(decoder.into_frames()), None))
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(refused)?;
            decoder.set_limits(limits()).map_err(refused)?;
            check_claims(name, &decoder)?;
            if decoder.has_animation() {
                return Ok((Some(decoder.into_frames()), None));
            }
            Ok((None, Some(upright(name, decoder)?)))
        }
        _ => Ok((None, Some(decode(name, bytes)?))),
    }
}

impl Iterator for FrameStream {
    type Item = Result<Frame>;

    /// Returns the next frame, with the time at which it is shown; nothing follows an error.
    fn next(&mut self) -> Option<Result<Frame>> {
        if let Some(still) = self.still.take() {
            self.n_read += 1;
            return Some(Ok(still));
        }
        let frames = self.frames.as_mut().filter(|_| self.n_read < IMAGE_FRAMES_MAX)?;
        let name = &self.name;
        let next = guard(name, || match frames.next() {
            None => Ok(None),
            Some(Err(e)) => Err(broken(name, e)),
            Some(Ok(frame)) => Ok(Some(frame)),
        });
        let made = match next {
            Ok(None) => {
                self.frames = None;
                return None;
            }
            Ok(Some(frame)) => {
                let (numerator, denominator) = frame.delay().numer_denom_ms();
                let delay_ns = u64::from(numerator) * 1_000_000 / u64::from(denominator.max(1));
                frame_of(name, DynamicImage::ImageRgba8(frame.into_buffer())).map(|mut frame| {
                    frame.captured_at_ns = self.at_ns;
                    self.at_ns = self.at_ns.saturating_add(delay_ns);
                    self.n_read += 1;
                    frame
                })
            }
            Err(e) => Err(e),
        };
        if made.is_err() {
            self.frames = None;
        }
        Some(made)
    }
}

/// Runs code of the decoders; their panics become errors.
fn guard<T>(name: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    guarded(body).unwrap_or_else(|| {
        Err(Error::format(format!("{name}: is damaged in a way that no decoder expects")))
    })
}

/// Returns a file's name and bytes.
fn read(path: &Path) -> Result<(String, Vec<u8>)> {
    let name = short_name(path);
    let cannot = cannot_read(&name);
    let metadata = std::fs::metadata(path).map_err(cannot)?;
    if metadata.is_dir() {
        return Err(Error::io(format!("{name}: is a directory, expected a picture file")));
    }
    check_bytes(&name, metadata.len().max(u64::from(!metadata.is_file())))?;
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    let mut bounded = std::io::Read::take(file, IMAGE_FILE_BYTES_MAX + 1);
    std::io::Read::read_to_end(&mut bounded, &mut bytes).map_err(cannot)?;
    check_bytes(&name, bytes.len() as u64)?;
    Ok((name, bytes))
}

fn check_bytes(name: &str, n_bytes: u64) -> Result<()> {
    if n_bytes == 0 {
        return Err(Error::input(format!("{name}: is empty, expected a picture")));
    }
    if n_bytes > IMAGE_FILE_BYTES_MAX {
        return Err(Error::input(format!(
            "{name}: has more than {IMAGE_FILE_BYTES_MAX} bytes, the most that is read"
        )));
    }
    Ok(())
}

/// Returns the format by the content, whatever the file is called.
fn format_of(name: &str, bytes: &[u8]) -> Result<ImageFormat> {
    let known = image::guess_format(bytes).ok().filter(ImageFormat::reading_enabled);
    known.ok_or_else(|| {
        Error::format(format!("{name}: is not a picture that can be read; {FORMATS} are"))
    })
}

/// Decodes the only or first frame.
fn decode(name: &str, bytes: Vec<u8>) -> Result<Frame> {
    let format = format_of(name, &bytes)?;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    let decoder = reader.into_decoder().map_err(|e| broken(name, e))?;
    upright(name, decoder)
}

/// Checks a decoder's claims, decodes, and turns the picture the way it was taken.
fn upright(name: &str, mut decoder: impl ImageDecoder) -> Result<Frame> {
    check_claims(name, &decoder)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| broken(name, e))?;
    picture.apply_orientation(orientation);
    frame_of(name, picture)
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(FRAME_SIDE_PX_MAX);
    limits.max_image_height = Some(FRAME_SIDE_PX_MAX);
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    limits
}

/// Checks sides and bytes before any pixel is decoded.
fn check_claims(name: &str, decoder: &impl ImageDecoder) -> Result<()> {
    let (width, height) = decoder.dimensions();
    check_size(width, height).map_err(|e| e.at(name))?;
    let n_bytes = decoder.total_bytes();
    if n_bytes > DECODE_BYTES_MAX {
        return Err(Error::input(format!(
            "{name}: picture of {width}x{height} takes {n_bytes} bytes, at most \
             {DECODE_BYTES_MAX} are decoded"
        )));
    }
    Ok(())
}

/// Drops transparency as it stands, and all but the upper eight bits.
fn frame_of(name: &str, picture: DynamicImage) -> Result<Frame> {
    let (width, height) = (picture.width(), picture.height());
    let high = |value: &u16| (value >> 8) as u8;
    let rgb = match picture {
        DynamicImage::ImageLuma16(grey) => grey.iter().flat_map(|value| [high(value); 3]).collect(),
        DynamicImage::ImageLumaA16(grey) => {
            grey.chunks_exact(2).flat_map(|pixel| [high(&pixel[0]); 3]).collect()
        }
        DynamicImage::ImageRgb16(colour) => colour.iter().map(high).collect(),
        DynamicImage::ImageRgba16(colour) => {
            colour.chunks_exact(4).flat_map(|pixel| pixel[..3].iter().map(high)).collect()
        }
        other => other.into_rgb8().into_raw(),
    };
    Frame::new(width, height, rgb).map_err(|e| e.at(name))
}

/// Returns the error for what a decoder refused.
fn broken(name: &str, e: ImageError) -> Error {
    let error = match &e {
        ImageError::Limits(_) => Error::input(format!(
            "{name}: picture is too large; at most {FRAME_SIDE_PX_MAX} pixels a side and \
             {DECODE_BYTES_MAX} bytes in all are decoded"
        )),
        ImageError::Unsupported(_) => Error::unsupported(format!(
            "{name}: is a kind of picture that is not read; save it as png or jpeg"
        )),
        ImageError::IoError(io) if io.kind() != std::io::ErrorKind::UnexpectedEof => {
            Error::io(format!("{name}: cannot be read"))
        }
        _ => Error::format(format!("{name}: picture is damaged; fetch or save it again")),
    };
    error.with_source(e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// A png whose header claims the given sides, with no pixels.
    fn claim(width: u32, height: u32) -> Vec<u8> {
        let mut header = b"IHDR".to_vec();
        header.extend(width.to_be_bytes());
        header.extend(height.to_be_bytes());
        header.extend([8, 2, 0, 0, 0]);
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
        let crc = crc32(&header);
        bytes.extend(header);
        bytes.extend(crc.to_be_bytes());
        bytes.extend(b"\0\0\0\x02IDAT\x78\x9c");
        bytes.extend(crc32(b"IDAT\x78\x9c").to_be_bytes());
        bytes.extend(b"\0\0\0\0IEND\xae\x42\x60\x82");
        bytes
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let step = |crc: u32| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |c, _| step(c)))
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let cases = [
            (Vec::new(), ErrorKind::Input, "is empty"),
            (b"hello, this is no picture".to_vec(), ErrorKind::Format, "is not a picture"),
            (b"II*\0 a tiff".to_vec(), ErrorKind::Format, "is not a picture"),
            (claim(24, 16), ErrorKind::Format, "damaged"),
            (claim(100_000, 2), ErrorKind::Input, "too large"),
            (claim(60_000, 60_000), ErrorKind::Input, "too large"),
            (b"\x89PNG\r\n\x1a\n".to_vec(), ErrorKind::Format, "damaged"),
            (b"GIF89a".to_vec(), ErrorKind::Format, "damaged"),
        ];
        let mut failures = Vec::new();
        for (bytes, kind, words) in cases {
            let frames = FrameStream::from_bytes(bytes.clone()).and_then(|mut frames| {
                frames.next().unwrap_or_else(|| Err(Error::internal("no frame")))
            });
            for found in [from_bytes(bytes), frames] {
                match found {
                    Err(e) if e.kind() == kind && e.to_string().contains(words) => {}
                    other => failures.push(format!("{words}: {other:?}")),
                }
            }
        }
        assert!(failures.is_empty(), "{failures:#?}");
        assert_eq!(open(Path::new("no/such.png")).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(open(Path::new("src")).unwrap_err().kind(), ErrorKind::Io);
    }
}
