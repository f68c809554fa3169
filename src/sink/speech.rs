//! A voice: text to sound, clause by clause.
//! In: a clause. Out: `Pcm` at the voice's own rate.
//! Invariant: `espeak-ng` is another program, found when it is started and never linked; the text
//! goes through its stdin, so that no list of processes shows it.

use std::fmt;
use std::io::ErrorKind as IoKind;
use std::io::Read;
use std::io::Write;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use crate::error::Error;
use crate::error::Result;
use crate::media::Pcm;
use crate::media::check_rate;

/// Most bytes of text that are spoken at once.
pub const SPOKEN_BYTES_MAX: usize = 4096;
/// Most bytes of sound for them: about six minutes.
const SOUND_BYTES_MAX: u64 = 16 << 20;
const PROGRAM: &str = "espeak-ng";

/// Turns text into sound; a host may bring its own.
pub trait Synthesizer: Send {
    /// Says a piece of text.
    ///
    /// # Errors
    /// `Device` if the voice cannot speak now; `Input` if the text is too long.
    fn say(&mut self, text: &str) -> Result<Pcm>;
}

/// The voice of the program `espeak-ng`.
#[derive(Clone, Default)]
pub struct Espeak {
    voice: Option<String>,
}

impl fmt::Debug for Espeak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Espeak {{ voice {:?} }}", self.voice)
    }
}

impl Espeak {
    /// Finds the program; `voice` is one of its voices or languages, such as `de`.
    ///
    /// # Errors
    /// `Device` if it is not installed; `Input` if a voice's name cannot be one.
    pub fn new(voice: Option<&str>) -> Result<Self> {
        let is_name = |c: char| c.is_alphanumeric() || "-+_".contains(c);
        if let Some(name) = voice.filter(|v| v.starts_with('-') || !v.chars().all(is_name)) {
            return Err(Error::input(format!(
                "voice has a name of {} bytes that espeak-ng cannot have; `espeak-ng --voices` \
                 lists them",
                name.len()
            )));
        }
        let mut command = Command::new(PROGRAM);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().map_err(missing)?;
        Ok(Self { voice: voice.map(str::to_owned) })
    }

    fn start(&self) -> Result<Child> {
        let mut command = Command::new(PROGRAM);
        command.args(["--stdout", "--stdin", "-b", "1"]);
        if let Some(voice) = &self.voice {
            command.args(["-v", voice]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().map_err(missing)
    }
}

impl Synthesizer for Espeak {
    fn say(&mut self, text: &str) -> Result<Pcm> {
        if text.len() > SPOKEN_BYTES_MAX {
            let n = text.len();
            let message =
                format!("{n} bytes to speak at once, expected {SPOKEN_BYTES_MAX} or less");
            return Err(Error::input(message));
        }
        let mut child = self.start()?;
        let broken = |e| Error::device("espeak-ng broke off; check that it runs").with_source(e);
        if let Some(mut stdin) = child.stdin.take() {
            // So little fits into the pipe at once, before any sound is read.
            stdin.write_all(text.as_bytes()).map_err(broken)?;
        }
        let mut bytes = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(SOUND_BYTES_MAX).read_to_end(&mut bytes).map_err(broken)?;
        }
        let status = child.wait().map_err(broken)?;
        if !status.success() {
            return Err(Error::device("espeak-ng failed; `espeak-ng --voices` lists its voices"));
        }
        sound(&bytes)
    }
}

fn missing(e: std::io::Error) -> Error {
    let text = match e.kind() {
        IoKind::NotFound => "espeak-ng is not installed; install it, or use --no-speech",
        _ => "espeak-ng cannot be started; check that it runs, or use --no-speech",
    };
    Error::device(text).with_source(e)
}

/// Reads the sound that `espeak-ng` writes: a wav file of 16 bits and one channel, whose sizes are
/// made up because it did not know them.
fn sound(bytes: &[u8]) -> Result<Pcm> {
    let wrong = || Error::device("espeak-ng gave no sound of 16 bits and one channel");
    let word = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let is_wav = bytes.starts_with(b"RIFF") && bytes.get(8..16) == Some(b"WAVEfmt ");
    if !is_wav || word(22) != Some(1) || word(34) != Some(16) {
        return Err(wrong());
    }
    let rate = bytes.get(24..28).ok_or_else(wrong)?;
    let rate_hz = u32::from_le_bytes([rate[0], rate[1], rate[2], rate[3]]);
    check_rate(rate_hz).map_err(|e| e.at("espeak-ng"))?;
    let data = bytes.windows(4).position(|w| w == b"data").ok_or_else(wrong)?;
    let sample = |b: &[u8]| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32_768.0;
    let samples = bytes.get(data + 8..).unwrap_or_default().chunks_exact(2).map(sample).collect();
    Ok(Pcm { samples, rate_hz, captured_at_ns: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_expected_sound_is_read() {
        let mut wav = b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
        wav.extend(22_050_u32.to_le_bytes());
        wav.extend(44_100_u32.to_le_bytes());
        wav.extend([2, 0, 16, 0]);
        wav.extend(b"data\xff\xff\xff\x7f\0\x40\0\xc0\x01");
        let pcm = sound(&wav).expect("a sound");
        assert_eq!((pcm.samples, pcm.rate_hz), (vec![0.5, -0.5], 22_050));
        for n in 0..36 {
            assert!(sound(&wav[..n]).is_err(), "{n} bytes");
        }
        wav[22] = 2;
        assert!(sound(&wav).is_err());
    }

    #[test]
    fn voices_are_names() {
        for name in ["-x", "a b", "../x", "de;rm"] {
            assert!(Espeak::new(Some(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn text_becomes_sound() {
        let mut voice = match Espeak::new(Some("en")) {
            Ok(voice) => voice,
            Err(e) => return println!("speech is left out: {e}"),
        };
        let short = voice.say("Hello.").expect("a sound");
        let long = voice.say("Hello. The light in the kitchen is on now.").expect("a sound");
        let loudest = long.samples.iter().fold(0.0_f32, |most, s| most.max(s.abs()));
        assert!(loudest > 0.05 && long.seconds() > short.seconds() && short.seconds() > 0.2);
        assert!(voice.say(&"a".repeat(SPOKEN_BYTES_MAX + 1)).is_err());
    }
}
