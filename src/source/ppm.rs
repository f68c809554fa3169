//! Pictures one behind the other, as PPM (P6), from a pipe.
//! In: any reader. Out: `Frame`s, one after the other.
//! Source: netpbm's description of PPM, raw form, 8 bits a sample.
//! Invariant: sides are checked before pixels are read; nothing is allocated for a claim alone.

use std::fmt;
use std::io::BufReader;
use std::io::Read;

use crate::error::Error;
use crate::error::Result;
use crate::media::Frame;
use crate::media::check_size;

/// Most bytes of a picture's header, with its remarks.
const HEADER_BYTES_MAX: usize = 4096;
const HOW: &str = "ffmpeg writes them with -f image2pipe -c:v ppm";

/// The pictures of a pipe; nothing follows an error.
pub struct PpmStream<R> {
    name: String,
    reader: BufReader<R>,
    n_read: usize,
    is_over: bool,
}

impl<R> fmt::Debug for PpmStream<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PpmStream {{ {} pictures read }}", self.n_read)
    }
}

impl<R: Read> PpmStream<R> {
    /// Reads pictures from `reader`, which errors call `name`.
    pub fn new(name: impl Into<String>, reader: R) -> Self {
        Self { name: name.into(), reader: BufReader::new(reader), n_read: 0, is_over: false }
    }

    /// Returns the next picture, or nothing where the pipe ends between two.
    fn read(&mut self) -> Result<Option<Frame>> {
        let mut header = Header { stream: self, n_bytes: 0 };
        if !header.begin()? {
            return Ok(None);
        }
        let [width, height, highest] = [header.number()?, header.number()?, header.number()?];
        let place = self.place();
        if highest != 255 {
            return Err(Error::unsupported(format!(
                "{place} has samples up to {highest}, expected 255; {HOW} -pix_fmt rgb24"
            )));
        }
        check_size(width, height).map_err(|e| e.at(&place))?;
        let n_bytes = 3 * u64::from(width) * u64::from(height);
        let mut rgb = Vec::new();
        let read = (&mut self.reader).take(n_bytes).read_to_end(&mut rgb);
        read.map_err(|e| Error::io(format!("{place}: cannot be read")).with_source(e))?;
        if rgb.len() as u64 != n_bytes {
            let n = rgb.len();
            return Err(Error::format(format!("{place} ends after {n} of {n_bytes} bytes")));
        }
        Frame::new(width, height, rgb).map(Some)
    }

    fn place(&self) -> String {
        format!("{}: picture {}", self.name, self.n_read)
    }
}

impl<R: Read> Iterator for PpmStream<R> {
    type Item = Result<Frame>;

    fn next(&mut self) -> Option<Result<Frame>> {
        if self.is_over {
            return None;
        }
        let next = self.read();
        self.is_over = !matches!(next, Ok(Some(_)));
        self.n_read += 1;
        next.transpose()
    }
}

/// The words before a picture's pixels.
struct Header<'a, R> {
    stream: &'a mut PpmStream<R>,
    n_bytes: usize,
}

impl<R: Read> Header<'_, R> {
    /// Reads the mark of a picture and returns whether there is one.
    fn begin(&mut self) -> Result<bool> {
        let Some(first) = self.byte()? else { return Ok(false) };
        match (first, self.byte()?) {
            (b'P', Some(b'6')) => Ok(true),
            _ => {
                let place = self.stream.place();
                Err(Error::format(format!("{place} is no PPM (P6) picture; {HOW}")))
            }
        }
    }

    /// Reads a number and the one white character behind it.
    fn number(&mut self) -> Result<u32> {
        let mut number = None;
        loop {
            match self.byte()? {
                Some(digit @ b'0'..=b'9') => {
                    let (so_far, digit) = (number.unwrap_or(0_u32), u32::from(digit - b'0'));
                    let more = so_far.checked_mul(10).and_then(|n| n.checked_add(digit));
                    number = Some(more.ok_or_else(|| self.damaged())?);
                }
                Some(b'#') => while !matches!(self.byte()?, Some(b'\n') | None) {},
                Some(byte) if byte.is_ascii_whitespace() => {
                    if let Some(number) = number {
                        return Ok(number);
                    }
                }
                _ => return Err(self.damaged()),
            }
        }
    }

    fn byte(&mut self) -> Result<Option<u8>> {
        self.n_bytes += 1;
        if self.n_bytes > HEADER_BYTES_MAX {
            return Err(self.damaged());
        }
        let mut byte = [0];
        loop {
            match self.stream.reader.read(&mut byte) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(byte[0])),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let place = self.stream.place();
                    return Err(Error::io(format!("{place}: cannot be read")).with_source(e));
                }
            }
        }
    }

    fn damaged(&self) -> Error {
        Error::format(format!("{} has a damaged header", self.stream.place()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn pictures_come_one_after_the_other() {
        let mut bytes = b"P6\n2 1\n255\n abcdeP6 # a remark\n#another\n1\t1 255\nxyz".to_vec();
        let frames: Vec<_> = PpmStream::new("pipe", &bytes[..]).collect::<Result<_>>().unwrap();
        assert_eq!(
            (frames[0].width(), frames[0].height(), frames[0].rgb()),
            (2, 1, &b" abcde"[..])
        );
        assert_eq!((frames.len(), frames[1].rgb()), (2, &b"xyz"[..]));
        bytes.pop();
        let last = PpmStream::new("pipe", &bytes[..]).last().unwrap().unwrap_err();
        assert_eq!(last.to_string(), "pipe: picture 1 ends after 2 of 3 bytes");
        assert_eq!(PpmStream::new("pipe", &bytes[..]).count(), 2);
        assert!(PpmStream::new("pipe", &b""[..]).next().is_none());
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let endless = [b"P6 #".to_vec(), vec![b'x'; 10_000]].concat();
        let cases: [(&[u8], ErrorKind, &str); 9] = [
            (b"\x89PNG", ErrorKind::Format, "no PPM"),
            (b"P5 1 1 255 x", ErrorKind::Format, "no PPM"),
            (b"P", ErrorKind::Format, "no PPM"),
            (b"P6 1 1", ErrorKind::Format, "damaged"),
            (b"P6 -1 1 255 ", ErrorKind::Format, "damaged"),
            (b"P6 99999999999 1 255 ", ErrorKind::Format, "damaged"),
            (b"P6 65536 65536 255 ", ErrorKind::Input, "too large"),
            (b"P6 1 1 65535 xxxxxx", ErrorKind::Unsupported, "rgb24"),
            (&endless, ErrorKind::Format, "damaged"),
        ];
        for (bytes, kind, words) in cases {
            let e = PpmStream::new("pipe", bytes).next().unwrap().unwrap_err();
            assert!(e.kind() == kind && e.to_string().contains(words), "{e}");
        }
    }
}
