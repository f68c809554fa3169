//! Pictures and sounds as soft tokens, made once and kept by content.
//!
//! In: `Frame`, samples at 16 kHz. Out: [`Encoded`].

use std::collections::VecDeque;
use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

use crate::encoder::SoftTokens;
use crate::engine::Engine;
use crate::error::Result;
use crate::frontend::Patches;
use crate::ggml::Backend;
use crate::media::Frame;
use crate::session::bytes::Input;
use crate::session::bytes::Output;
use crate::session::bytes::malformed;
use crate::text::MediaKind;

/// Most bytes of soft tokens that a session keeps for questions to come.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// Soft tokens of one picture, one sound or the frames of one video.
#[derive(PartialEq)]
pub struct Encoded {
    /// What it was made from.
    pub(super) kind: MediaKind,
    /// Names the content; equal content has equal keys.
    pub(super) key: u64,
    /// One entry for a picture, one for each segment of a sound or frame of a video.
    pub(super) segments: Vec<SoftTokens>,
    /// Seconds at which a video's frames were taken.
    pub(super) times_s: Vec<f64>,
}

impl Encoded {
    /// Returns what it was made from.
    pub fn kind(&self) -> MediaKind {
        self.kind
    }

    /// Returns the number of soft tokens.
    pub fn n_tokens(&self) -> usize {
        self.segments.iter().map(SoftTokens::n).sum()
    }

    /// Returns the soft tokens, segment by segment.
    pub fn segments(&self) -> &[SoftTokens] {
        &self.segments
    }

    /// Returns the bytes of the soft tokens.
    pub(super) fn size_bytes(&self) -> usize {
        self.segments.iter().map(|s| size_of_val(&s.data[..])).sum()
    }

    /// Writes it for a snapshot.
    pub(super) fn write(&self, out: &mut Output<'_>) -> Result<()> {
        out.put(&[self.kind as u8])?;
        out.u64(self.key)?;
        out.u64(self.segments.len() as u64)?;
        self.segments.iter().try_for_each(|soft| out.f32s(&soft.data))?;
        out.u64(self.times_s.len() as u64)?;
        self.times_s.iter().try_for_each(|t| out.u64(t.to_bits()))
    }

    /// Reads what [`write`](Self::write) wrote for a model of this width.
    pub(super) fn read(input: &mut Input<'_>, n_embd: usize) -> Result<Self> {
        let kinds = [MediaKind::Image, MediaKind::Audio, MediaKind::Video];
        let [number] = input.array()?;
        let kind = kinds.into_iter().find(|kind| *kind as u8 == number);
        let kind = kind.ok_or_else(|| malformed("its media are of no known kind"))?;
        let key = input.u64()?;
        let n_segments = input.count(8)?;
        let mut segments = Vec::new();
        for _ in 0..n_segments {
            let data = input.f32s()?;
            if data.is_empty() || !data.len().is_multiple_of(n_embd) {
                return Err(malformed("its media are no soft tokens of this model"));
            }
            segments.push(SoftTokens { data, n_embd });
        }
        let n_times = input.count(8)?;
        let times_s = (0..n_times).map(|_| Ok(f64::from_bits(input.u64()?)));
        let times_s: Vec<f64> = times_s.collect::<Result<_>>()?;
        let fits = match kind {
            MediaKind::Image => n_segments == 1 && n_times == 0,
            MediaKind::Audio => n_segments > 0 && n_times == 0,
            MediaKind::Video => n_segments > 0 && n_times == n_segments,
        };
        match fits {
            true => Ok(Self { kind, key, segments, times_s }),
            false => Err(malformed("its media have parts missing")),
        }
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded {{ {:?}, {} soft tokens }}", self.kind, self.n_tokens())
    }
}

/// Hashes content into a key.
pub(super) fn key_of<'a>(
    kind: MediaKind,
    numbers: &[u64],
    content: impl IntoIterator<Item = &'a [f32]>,
) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write_u8(kind as u8);
    numbers.iter().for_each(|n| hasher.write_u64(*n));
    content.into_iter().flatten().for_each(|value| hasher.write(&value.to_le_bytes()));
    hasher.finish()
}

/// Hashes a picture and its budget into a key.
pub(super) fn picture_key(frame: &Frame, budget: u32) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write_u8(MediaKind::Image as u8);
    [frame.width(), frame.height(), budget].iter().for_each(|n| hasher.write_u64((*n).into()));
    hasher.write(frame.rgb());
    hasher.finish()
}

/// Encodes a picture within a budget of soft tokens.
pub(super) fn encode_picture(
    engine: &Engine,
    frame: &Frame,
    budget: u32,
    backend: &mut Backend,
) -> Result<Encoded> {
    let patches = Patches::from_frame(frame, budget)?;
    let soft = engine.vision()?.encode(&patches, backend)?;
    let (kind, key) = (MediaKind::Image, picture_key(frame, budget));
    Ok(Encoded { kind, key, segments: vec![soft], times_s: Vec::new() })
}

/// The media of recent questions; the one that was longest not asked for is first.
#[derive(Default)]
pub(super) struct Kept(VecDeque<Arc<Encoded>>);

impl Kept {
    pub(super) fn find(&mut self, key: u64) -> Option<Arc<Encoded>> {
        let place = self.0.iter().position(|e| e.key == key)?;
        let found = self.0.remove(place)?;
        self.0.push_back(Arc::clone(&found));
        Some(found)
    }

    pub(super) fn keep(&mut self, encoded: impl Into<Arc<Encoded>>) -> Arc<Encoded> {
        let encoded = encoded.into();
        self.0.push_back(Arc::clone(&encoded));
        let mut total: usize = self.0.iter().map(|e| e.size_bytes()).sum();
        while total > KEPT_BYTES_MAX && self.0.len() > 1 {
            total -= self.0.pop_front().map_or(0, |e| e.size_bytes());
        }
        encoded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(key: u64, n: usize) -> Encoded {
        let soft = SoftTokens { data: vec![0.0; n], n_embd: 1 };
        Encoded { kind: MediaKind::Image, key, segments: vec![soft], times_s: Vec::new() }
    }

    #[test]
    fn what_was_longest_not_asked_for_goes_first() {
        let mut kept = Kept::default();
        let third = KEPT_BYTES_MAX / 4 / 3 + 1;
        for key in 0..2 {
            kept.keep(encoded(key, third));
        }
        assert!(kept.find(0).is_some());
        kept.keep(encoded(2, third));
        assert!(kept.find(1).is_none());
        assert!(kept.find(0).is_some() && kept.find(2).is_some());
        kept.keep(encoded(3, 4 * third));
        assert_eq!((kept.0.len(), kept.0[0].key), (1, 3));
    }

    #[test]
    fn keys_name_kind_numbers_and_content() {
        let of = |kind, number, value| key_of(kind, &[number], [&[value][..]]);
        let picture = |sides: (u32, u32), value, budget| {
            let frame = Frame::new(sides.0, sides.1, vec![value; 6]).unwrap();
            picture_key(&frame, budget)
        };
        let keys = [
            of(MediaKind::Image, 1, 1.0),
            of(MediaKind::Audio, 1, 1.0),
            of(MediaKind::Image, 2, 1.0),
            of(MediaKind::Image, 1, 2.0),
            picture((1, 2), 1, 70),
            picture((2, 1), 1, 70),
            picture((1, 2), 2, 70),
            picture((1, 2), 1, 140),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b));
        }
    }
}
