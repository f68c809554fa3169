//! A conversation through microphone and speaker.
//! In: devices by name. Out: the conversation, until Ctrl-C.
//! Invariant: all sound that waits is heard between two tokens.

use std::io::IsTerminal;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::channel;
use std::time::Duration;

use culet::Result;
use culet::assistant::Input;
use culet::assistant::Key;
use culet::assistant::Mode;
use culet::assistant::State;
use culet::assistant::driver::Ears;
use culet::assistant::driver::Heard;
use culet::assistant::driver::Mouth;
use culet::device::DeviceInfo;
use culet::ggml::Cancel;
use culet::sink::Espeak;
use culet::sink::speaker;
use culet::source::mic;

use crate::cli::print;
use crate::cli::voice::talk::Hall;

/// Longest wait for sound when there is nothing else to do.
const WAIT: Duration = Duration::from_millis(20);

/// Which devices and voice are used.
#[derive(clap::Args)]
pub(super) struct DeviceArgs {
    /// List microphones and speakers
    #[arg(long)]
    pub(super) devices: bool,
    /// Listen to the microphone with this name
    #[arg(long, value_name = "NAME")]
    microphone: Option<String>,
    /// Speak through the speaker with this name
    #[arg(long, value_name = "NAME")]
    speaker: Option<String>,
    /// Speak with this voice of espeak-ng, such as de
    #[arg(long, value_name = "NAME")]
    voice: Option<String>,
    /// Show answers instead of speaking them
    #[arg(long)]
    no_speech: bool,
    /// Let your voice interrupt an answer; needs headphones, or it hears itself
    #[arg(long)]
    pub(super) barge_in: bool,
    /// Take what the speaker plays out of what the microphone hears: no headphones needed
    #[arg(long, requires = "barge_in")]
    pub(super) echo_cancel: bool,
    /// Listen from one press of Enter to the next, whatever is heard
    #[arg(long, conflicts_with_all = ["audio", "stdin", "once"])]
    push_to_talk: bool,
    /// End after one question and its answer
    #[arg(long)]
    once: bool,
}

/// Trouble with a device, which is told once until the device works again.
#[derive(Default)]
pub(super) struct Trouble {
    is_told: bool,
}

impl Trouble {
    /// Returns whether a failure is news.
    pub(super) fn fails(&mut self) -> bool {
        !std::mem::replace(&mut self.is_told, true)
    }

    /// Returns whether it is news that it works.
    pub(super) fn works(&mut self) -> bool {
        std::mem::take(&mut self.is_told)
    }
}

/// Lists the devices, a line each.
pub(super) fn list() -> Result<()> {
    let write = |noun: &str, found: DeviceInfo| {
        let DeviceInfo { name, rate_hz, is_default, .. } = found;
        let mark = if is_default { "\tdefault" } else { "" };
        print::result(&format!("{noun}\t{name}\t{rate_hz} Hz{mark}\n"))
    };
    mic::microphones()?.into_iter().try_for_each(|found| write("microphone", found))?;
    speaker::speakers()?.into_iter().try_for_each(|found| write("speaker", found))
}

impl DeviceArgs {
    /// Opens what speaks; without it answers are shown, and the person is told why.
    pub(super) fn mouth(&self) -> Option<Mouth> {
        if self.no_speech {
            return None;
        }
        let voice = Espeak::new(self.voice.as_deref());
        match voice.and_then(|voice| Mouth::open(self.speaker.clone(), Box::new(voice))) {
            Ok(mouth) => Some(mouth),
            Err(e) => {
                print::say(&format!("answers are shown, not spoken: {e}"));
                None
            }
        }
    }

    /// Returns when the microphone counts.
    pub(super) fn mode(&self) -> Mode {
        match (self.push_to_talk, self.once) {
            (true, _) => Mode::PushToTalk,
            (_, true) => Mode::OneShot,
            _ => Mode::Continuous,
        }
    }

    /// Returns what a person is told at the start.
    pub(super) fn greeting(&self) -> &'static str {
        match self.push_to_talk {
            true => "Enter begins and ends what you say; Ctrl-C ends the conversation",
            false => "listening; Ctrl-C ends the conversation",
        }
    }

    /// Returns presses of Enter, where a person or a program may press it.
    fn presses(&self) -> Option<Receiver<()>> {
        if !self.push_to_talk && !std::io::stdin().is_terminal() {
            return None;
        }
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let lines = std::io::stdin().lines().map_while(std::result::Result::ok);
            lines.map_while(|_| sender.send(()).ok()).for_each(drop);
        });
        Some(receiver)
    }

    /// Returns what Enter means now.
    fn key(&self, state: State) -> Key {
        match (self.push_to_talk, state) {
            (true, State::Hearing) => Key::TalkUp,
            (true, _) => Key::TalkDown,
            (false, _) => Key::Interrupt,
        }
    }

    /// Opens the microphone beside what speaks.
    pub(super) fn listen(&self, mouth: Option<&Mouth>) -> Result<Ears> {
        let echo = mouth.filter(|_| self.echo_cancel).map(Mouth::echo);
        Ears::open(self.microphone.clone(), echo)
    }
}

/// Talks until Ctrl-C or the end of a conversation of one turn.
pub(super) fn converse(hall: &mut Hall<'_>, ears: Ears, stop: &Cancel) -> Result<()> {
    let mut ears = Some(ears);
    let mut trouble = Trouble::default();
    let presses = hall.args.device.presses();
    while !stop.is_cancelled() && hall.state() != State::Asleep {
        let has_work = hall.advance()?;
        let wait = if has_work { Duration::ZERO } else { WAIT };
        match &ears {
            Some(open) => {
                for heard in open.take(wait) {
                    if !take(hall, heard, &mut trouble)? {
                        ears = None;
                        break;
                    }
                }
            }
            None => std::thread::sleep(wait),
        }
        for () in presses.iter().flat_map(Receiver::try_iter) {
            let key = hall.args.device.key(hall.state());
            hall.tell(Input::Key(key))?;
        }
        hall.tell(Input::Tick)?;
        hall.show();
        if hall.wants_microphone() && ears.is_none() {
            ears = hall.listen().ok();
        }
    }
    Ok(())
}

/// Takes in what the microphone's thread told; `false` if it has ended. A lost microphone is back
/// when there is sound from it.
fn take(hall: &mut Hall<'_>, heard: Heard, trouble: &mut Trouble) -> Result<bool> {
    match heard {
        Heard::Sound(pcm) => {
            if trouble.works() {
                hall.say("the microphone is back");
                hall.tell(Input::MicrophoneBack)?;
            }
            hall.hear(&pcm)?;
        }
        Heard::Lost(n) => {
            log::warn!("{n} samples were lost, because they were not heard in time");
            let n_samples = u32::try_from(n).unwrap_or(u32::MAX);
            hall.tell(Input::SamplesLost { n_samples })?;
        }
        Heard::Gone(e) => {
            if trouble.fails() {
                hall.say(&format!("{e}"));
            }
            hall.tell(Input::MicrophoneLost)?;
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_once_until_it_is_over() {
        let mut trouble = Trouble::default();
        assert!(!trouble.works());
        assert_eq!([trouble.fails(), trouble.fails(), trouble.fails()], [true, false, false]);
        assert_eq!([trouble.works(), trouble.works()], [true, false]);
        assert!(trouble.fails());
    }
}
