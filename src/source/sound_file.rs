//! Any sound file as a stream of mono blocks.
//! In: a path or bytes. Out: `Pcm` at the file's own rate, a packet at a time.
//! Invariant: memory is bounded by one packet, however long the sound; a panic inside a decoder
//! ends as an error.

use std::fmt;
use std::fs::File;
use std::io::Cursor;
use std::io::ErrorKind as IoKind;
use std::io::Read;
use std::io::Seek;
use std::path::Path;

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::AudioCodecId;
use symphonia::core::codecs::audio::AudioDecoder;
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::codecs::audio::well_known::CODEC_ID_OPUS;
use symphonia::core::common::Limit;
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::FormatOptions;
use symphonia::core::formats::FormatReader;
use symphonia::core::formats::TrackType;
use symphonia::core::formats::probe::Hint;
use symphonia::core::io::MediaSource;
use symphonia::core::io::MediaSourceStream;
use symphonia::core::io::ReadOnlySource;
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;

use crate::error::Error;
use crate::error::Result;
use crate::error::guarded;
use crate::media::Pcm;
use crate::media::check_rate;
use crate::source::wav_header::WavHeader;
use crate::whole::cannot_read;
use crate::whole::short_name;

/// Most channels that are read.
pub const SOUND_CHANNELS_MAX: usize = 32;
/// Longest sound that is read, in seconds: a day.
pub const SOUND_SECONDS_MAX: u64 = 86_400;
/// Most bytes of a tag or a cover picture that are read past.
const METADATA_BYTES_MAX: usize = 16 << 20;
/// Most packets in a row that may bring no sound, other tracks' included.
const SILENT_PACKETS_MAX: u32 = 1_000_000;
/// The formats, for messages.
const FORMATS: &str = "wav, flac, mp3, ogg vorbis, m4a, aac, alac, aiff, caf, mkv and webm";

/// A sound file that is decoded as it is read.
///
/// Channels are mixed to one by their mean. Samples that are no finite number become zero. Damaged
/// packets are left out and a file that ends early gives what is there; both are said in the log.
pub struct SoundFile {
    name: String,
    reader: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track_id: u32,
    rate_hz: u32,
    n_channels: usize,
    seconds_stated: Option<f64>,
    interleaved: Vec<f32>,
    /// The block that was decoded to learn the rate.
    first: Option<Vec<f32>>,
    n_samples: u64,
    ended: bool,
    damage: Damage,
}

/// What was wrong in a file that could still be read.
#[derive(Default)]
struct Damage {
    n_packets: u64,
    n_not_finite: u64,
    ended_early: bool,
}

impl fmt::Debug for SoundFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rate_hz, n_channels) = (self.rate_hz, self.n_channels);
        write!(f, "SoundFile {{ {rate_hz} Hz, {n_channels} channels }}")
    }
}

impl SoundFile {
    /// Opens a file and decodes its first block.
    ///
    /// # Errors
    /// `Io` if it cannot be read, `Format` if it is no sound or is damaged from the start,
    /// `Unsupported` for a codec that is not read, `Input` if it is empty or exceeds a limit.
    pub fn open(path: &Path) -> Result<Self> {
        let name = short_name(path);
        let cannot = cannot_read(&name);
        let file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if metadata.is_dir() {
            return Err(Error::io(format!("{name}: is a directory, expected a sound file")));
        }
        if metadata.is_file() && metadata.len() == 0 {
            return Err(Error::input(format!("{name}: file is empty, expected a sound")));
        }
        let mut hint = Hint::new();
        if let Some(extension) = path.extension().and_then(|e| e.to_str()) {
            hint.with_extension(extension);
        }
        if !metadata.is_file() {
            return Self::from_source(name, Box::new(ReadOnlySource::new(file)), &hint);
        }
        let file = WavHeader::new(file, metadata.len()).map_err(cannot)?;
        Self::from_source(name, Box::new(file), &hint)
    }

    /// Opens a sound file that is already in memory; errors are those of `open`.
    ///
    /// # Errors
    /// As for [`SoundFile::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        if bytes.is_empty() {
            return Err(Error::input("sound: no bytes, expected a sound file"));
        }
        let n_bytes = bytes.len() as u64;
        let cannot = |e| Error::io("sound: cannot be read").with_source(e);
        let inner = WavHeader::new(Cursor::new(bytes), n_bytes).map_err(cannot)?;
        Self::from_source("sound".to_owned(), Box::new(inner), &Hint::new())
    }

    /// Returns the samples per second of every block.
    pub fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Returns the number of channels that are mixed into one.
    pub fn n_channels(&self) -> usize {
        self.n_channels
    }

    /// Returns the length in seconds that the header states, which may be wrong.
    pub fn seconds_stated(&self) -> Option<f64> {
        self.seconds_stated
    }

    fn from_source(name: String, source: Box<dyn MediaSource>, hint: &Hint) -> Result<Self> {
        let opened = guard(&name, || open_source(source, hint, &name))?;
        let (reader, decoder, track_id, seconds_stated) = opened;
        let mut sound = Self {
            name,
            reader,
            decoder,
            track_id,
            rate_hz: 0,
            n_channels: 0,
            seconds_stated,
            interleaved: Vec::new(),
            first: None,
            n_samples: 0,
            ended: false,
            damage: Damage::default(),
        };
        sound.first = sound.decode_block()?;
        if sound.first.is_none() {
            let name = &sound.name;
            let message = format!("{name}: has no samples, expected a sound");
            return Err(match sound.damage.n_packets {
                0 => Error::input(message),
                n => Error::format(format!("{message}; {n} damaged packets were left out")),
            });
        }
        Ok(sound)
    }

    /// Decodes up to the next block that has samples; `None` at the end.
    fn decode_block(&mut self) -> Result<Option<Vec<f32>>> {
        for _ in 0..SILENT_PACKETS_MAX {
            let name = self.name.clone();
            let Some(packet) = guard(&name, || self.next_packet())? else {
                self.ended = true;
                self.warn_of_damage();
                return Ok(None);
            };
            if packet.track_id != self.track_id {
                continue;
            }
            if let Some(samples) = guard(&name, || self.decode(&packet))? {
                return Ok(Some(samples));
            }
        }
        let n = SILENT_PACKETS_MAX;
        Err(Error::format(format!("{}: {n} packets in a row hold no sound", self.name)))
    }

    /// Reads one packet; a file that breaks off ends there.
    fn next_packet(&mut self) -> Result<Option<Packet>> {
        loop {
            match self.reader.next_packet() {
                Ok(packet) => return Ok(packet),
                Err(SymphoniaError::IoError(e)) if e.kind() != IoKind::UnexpectedEof => {
                    let message = format!("{}: cannot be read further", self.name);
                    return Err(Error::io(message).with_source(e));
                }
                Err(SymphoniaError::ResetRequired) if self.restart() => {}
                Err(_) => {
                    self.damage.ended_early = true;
                    return Ok(None);
                }
            }
        }
    }

    /// Goes on with the next of several sounds that were joined into one file.
    fn restart(&mut self) -> bool {
        let Some(track) = self.reader.default_track(TrackType::Audio) else { return false };
        let Some(CodecParameters::Audio(parameters)) = &track.codec_params else { return false };
        let codecs = symphonia::default::get_codecs();
        let Ok(decoder) = codecs.make_audio_decoder(parameters, &AudioDecoderOptions::default())
        else {
            return false;
        };
        self.track_id = track.id;
        self.decoder = decoder;
        true
    }

    /// Decodes one packet and mixes its channels; `None` if it has no samples.
    fn decode(&mut self, packet: &Packet) -> Result<Option<Vec<f32>>> {
        let decoded = match self.decoder.decode(packet) {
            Ok(decoded) => decoded,
            Err(SymphoniaError::Unsupported(what)) => {
                return Err(Error::unsupported(format!(
                    "{}: uses a feature that is not read: {what}; convert it to wav",
                    self.name
                )));
            }
            Err(_) => {
                self.damage.n_packets += 1;
                return Ok(None);
            }
        };
        let (rate_hz, n_channels) = (decoded.spec().rate(), decoded.spec().channels().count());
        if decoded.is_empty() {
            return Ok(None);
        }
        if self.rate_hz == 0 {
            check_spec(&self.name, rate_hz, n_channels)?;
            (self.rate_hz, self.n_channels) = (rate_hz, n_channels);
        }
        if rate_hz != self.rate_hz || n_channels > SOUND_CHANNELS_MAX || n_channels == 0 {
            return Err(Error::format(format!(
                "{}: changes to {rate_hz} Hz and {n_channels} channels midway, expected {} Hz \
                 and {} channels throughout",
                self.name, self.rate_hz, self.n_channels
            )));
        }
        decoded.copy_to_vec_interleaved::<f32>(&mut self.interleaved);
        let (samples, n_not_finite) = mix(&self.interleaved, n_channels);
        self.damage.n_not_finite += n_not_finite;
        self.n_samples += samples.len() as u64;
        if self.n_samples > SOUND_SECONDS_MAX * u64::from(self.rate_hz) {
            return Err(Error::input(format!(
                "{}: is longer than {SOUND_SECONDS_MAX} s, the most that is read; cut it",
                self.name
            )));
        }
        Ok(Some(samples))
    }

    fn warn_of_damage(&self) {
        let (name, damage) = (&self.name, &self.damage);
        if damage.ended_early {
            log::warn!("{name}: ends early; what is there was read");
        }
        if damage.n_packets > 0 {
            log::warn!("{name}: {} damaged packets were left out", damage.n_packets);
        }
        if damage.n_not_finite > 0 {
            log::warn!("{name}: {} samples were no finite number", damage.n_not_finite);
        }
    }
}

impl Iterator for SoundFile {
    type Item = Result<Pcm>;

    /// Returns the next block; nothing follows an error.
    fn next(&mut self) -> Option<Result<Pcm>> {
        if let Some(samples) = self.first.take() {
            return Some(Ok(Pcm { samples, rate_hz: self.rate_hz, captured_at_ns: 0 }));
        }
        if self.ended {
            return None;
        }
        match self.decode_block() {
            Ok(samples) => {
                let samples = samples?;
                Some(Ok(Pcm { samples, rate_hz: self.rate_hz, captured_at_ns: 0 }))
            }
            Err(e) => {
                self.ended = true;
                Some(Err(e))
            }
        }
    }
}

impl<S: Read + Seek + Send + Sync> MediaSource for WavHeader<S> {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.n_bytes())
    }
}

/// Runs code of the decoders; their panics become errors.
fn guard<T>(name: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    guarded(body).unwrap_or_else(|| {
        Err(Error::format(format!("{name}: is damaged in a way that no decoder expects")))
    })
}

type Opened = (Box<dyn FormatReader>, Box<dyn AudioDecoder>, u32, Option<f64>);

/// Finds the format, the track and the codec.
fn open_source(source: Box<dyn MediaSource>, hint: &Hint, name: &str) -> Result<Opened> {
    let stream = MediaSourceStream::new(source, Default::default());
    let limit = Limit::Maximum(METADATA_BYTES_MAX);
    let metadata = MetadataOptions::default().limit_tag_bytes(limit).limit_visual_bytes(limit);
    let probe = symphonia::default::get_probe();
    let reader = probe
        .probe(hint, stream, FormatOptions::default(), metadata)
        .map_err(|e| unreadable(name, e))?;
    let track = reader
        .default_track(TrackType::Audio)
        .or_else(|| reader.first_track(TrackType::Audio))
        .ok_or_else(|| Error::input(format!("{name}: has no sound track")))?;
    let Some(CodecParameters::Audio(parameters)) = &track.codec_params else {
        return Err(Error::input(format!("{name}: has no sound track")));
    };
    if let (Some(rate_hz), Some(channels)) = (parameters.sample_rate, &parameters.channels) {
        check_spec(name, rate_hz, channels.count())?;
    }
    let decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map_err(|e| undecodable(name, parameters.codec, e))?;
    let seconds = parameters
        .sample_rate
        .zip(track.num_frames)
        .map(|(rate_hz, n)| n as f64 / f64::from(rate_hz.max(1)));
    let track_id = track.id;
    Ok((reader, decoder, track_id, seconds))
}

/// Returns the error for a file whose format is unknown or broken.
fn unreadable(name: &str, e: SymphoniaError) -> Error {
    match e {
        SymphoniaError::IoError(e) if e.kind() != IoKind::UnexpectedEof => {
            Error::io(format!("{name}: cannot be read")).with_source(e)
        }
        SymphoniaError::DecodeError(what) => {
            Error::format(format!("{name}: is damaged: {what}; fetch or record it again"))
        }
        SymphoniaError::LimitError(what) => {
            Error::format(format!("{name}: exceeds a limit of its format: {what}"))
        }
        e => Error::format(format!("{name}: is not a sound that can be read; {FORMATS} are"))
            .with_source(e),
    }
}

/// Returns the error for a sound whose codec is not read.
fn undecodable(name: &str, codec: AudioCodecId, e: SymphoniaError) -> Error {
    let what = match codec {
        CODEC_ID_OPUS => "Opus sound".to_owned(),
        codec => format!("sound of codec {codec}"),
    };
    Error::unsupported(format!(
        "{name}: holds {what}, which is not read; convert it, for example with \
         `ffmpeg -i {name} sound.wav`"
    ))
    .with_source(e)
}

fn check_spec(name: &str, rate_hz: u32, n_channels: usize) -> Result<()> {
    check_rate(rate_hz).map_err(|e| e.at(name))?;
    if !(1..=SOUND_CHANNELS_MAX).contains(&n_channels) {
        return Err(Error::input(format!(
            "{name}: has {n_channels} channels, expected 1 to {SOUND_CHANNELS_MAX}"
        )));
    }
    Ok(())
}

/// Returns the mean of the channels, and how many of the means were not finite and became zero.
fn mix(interleaved: &[f32], n_channels: usize) -> (Vec<f32>, u64) {
    let mut n_not_finite = 0;
    let share = 1.0 / n_channels as f32;
    let mut mixed = |channels: &[f32]| {
        let mean = match channels {
            [sample] => *sample,
            channels => channels.iter().sum::<f32>() * share,
        };
        if mean.is_finite() {
            return mean;
        }
        n_not_finite += 1;
        0.0
    };
    let samples = interleaved.chunks_exact(n_channels).map(&mut mixed).collect();
    (samples, n_not_finite)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// A wav file with the given format tag, channels, rate, bits and data.
    fn wav(tag: u16, n_channels: u16, rate_hz: u32, bits: u16, data: &[u8]) -> Vec<u8> {
        let align = n_channels * bits / 8;
        let mut bytes = b"RIFF".to_vec();
        bytes.extend((36 + data.len() as u32).to_le_bytes());
        bytes.extend(b"WAVEfmt ");
        bytes.extend(16u32.to_le_bytes());
        bytes.extend(tag.to_le_bytes());
        bytes.extend(n_channels.to_le_bytes());
        bytes.extend(rate_hz.to_le_bytes());
        bytes.extend((rate_hz * u32::from(align)).to_le_bytes());
        bytes.extend(align.to_le_bytes());
        bytes.extend(bits.to_le_bytes());
        bytes.extend(b"data");
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
        bytes
    }

    fn wav_i16(n_channels: u16, rate_hz: u32, samples: &[i16]) -> Vec<u8> {
        let data: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
        wav(1, n_channels, rate_hz, 16, &data)
    }

    fn read(bytes: Vec<u8>) -> Result<Vec<f32>> {
        let sound = SoundFile::from_bytes(bytes)?;
        let blocks = sound.map(|block| block.map(|pcm| pcm.samples)).collect::<Result<Vec<_>>>()?;
        Ok(blocks.concat())
    }

    #[test]
    fn integers_are_exact_and_channels_are_averaged() {
        let samples = read(wav_i16(1, 16_000, &[0, 1, -32_768, 32_767])).unwrap();
        let expected = [0, 1, -32_768, 32_767].map(|s| s as f32 / 32_768.0);
        assert_eq!(samples, expected);
        let samples = read(wav_i16(2, 16_000, &[16_384, -16_384, 16_384, 0, 100, 100])).unwrap();
        assert_eq!(samples, [0.0, 0.25, 100.0 / 32_768.0]);
    }

    #[test]
    fn samples_that_are_not_finite_become_zero() {
        let floats = [0.5, f32::NAN, f32::INFINITY, -0.25, f32::NEG_INFINITY, 1.5];
        let data: Vec<u8> = floats.iter().flat_map(|s| s.to_le_bytes()).collect();
        assert_eq!(read(wav(3, 1, 16_000, 32, &data)).unwrap(), [0.5, 0.0, 0.0, -0.25, 0.0, 1.5]);
    }

    #[test]
    fn broken_off_file_gives_what_is_there() {
        let whole = wav_i16(1, 16_000, &[7; 5_000]);
        let samples = read(whole[..whole.len() - 4_001].to_vec()).unwrap();
        assert!((2_900..3_000).contains(&samples.len()), "{}", samples.len());
        assert!(samples.iter().all(|&s| s == 7.0 / 32_768.0));
    }

    #[test]
    fn length_of_a_piped_file_is_not_believed() {
        for stated in [0xffff_ffff_u32, 0x7fff_ffff] {
            let mut bytes = wav_i16(1, 16_000, &[9; 1_000]);
            bytes[40..44].copy_from_slice(&stated.to_le_bytes());
            assert_eq!(read(bytes).unwrap().len(), 1_000, "{stated:#x}");
        }
    }

    #[test]
    fn blocks_are_short_however_long_the_sound() {
        let sound = SoundFile::from_bytes(wav_i16(1, 48_000, &[3; 400_000])).unwrap();
        assert_eq!((sound.rate_hz(), sound.n_channels()), (48_000, 1));
        assert!((sound.seconds_stated().unwrap() - 400_000.0 / 48_000.0).abs() < 1e-3);
        let lengths: Vec<usize> = sound.map(|block| block.unwrap().samples.len()).collect();
        assert_eq!(lengths.iter().sum::<usize>(), 400_000);
        assert!(lengths.iter().all(|&n| n <= 65_536), "{lengths:?}");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let limits = SOUND_CHANNELS_MAX as u16 + 1;
        let cases = [
            (Vec::new(), ErrorKind::Input, "no bytes"),
            (b"hello, this is no sound at all".to_vec(), ErrorKind::Format, "is not a sound"),
            (wav_i16(1, 16_000, &[]), ErrorKind::Input, "no samples"),
            (wav_i16(1, 800, &[5; 100]), ErrorKind::Input, "800 samples a second"),
            (wav_i16(1, 900_000, &[5; 100]), ErrorKind::Input, "900000 samples a second"),
            (wav_i16(limits, 16_000, &[5; 3300]), ErrorKind::Format, "channel count"),
        ];
        let mut failures = Vec::new();
        for (bytes, kind, words) in cases {
            match read(bytes) {
                Err(e) if e.kind() == kind && e.to_string().contains(words) => {}
                other => failures.push(format!("{words}: {:?}", other.map(|s| s.len()))),
            }
        }
        assert!(failures.is_empty(), "{failures:#?}");
        assert_eq!(SoundFile::open(Path::new("no/such.wav")).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(SoundFile::open(Path::new("src")).unwrap_err().kind(), ErrorKind::Io);
    }
}
