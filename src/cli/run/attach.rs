//! Pictures and sounds that belong to a question.
//! In: `--image` and `--audio` in the order given. Out: encoded media of a session.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Arg;
use clap::ArgAction;
use clap::ArgMatches;
use clap::Command;
use culet::Error;
use culet::Result;
use culet::frontend::pixels::TOKEN_BUDGETS;
use culet::session::Encoded;
use culet::session::Session;
use culet::source::SoundFile;
use culet::source::image_file;
use culet::text::MediaKind;
use culet::whole::short_name;

use crate::cli::print::Progress;

/// Soft tokens of a picture unless `--budget` says otherwise.
const BUDGET: &str = "280";
const KINDS: [(MediaKind, &str, &str); 2] = [
    (MediaKind::Image, "image", "Show it a picture: png, jpeg, webp, gif or bmp; repeatable"),
    (MediaKind::Audio, "audio", "Let it hear a sound: wav, flac, mp3, ogg, m4a; repeatable"),
];

/// Files in the order of the command line.
#[derive(Clone, Default)]
pub(super) struct Attached {
    /// Kind and path of each.
    pub(super) files: Vec<(MediaKind, PathBuf)>,
}

/// How much of a picture is looked at.
#[derive(clap::Args)]
pub(crate) struct PictureArgs {
    /// Most soft tokens of a picture: 70, 140, 280, 560 or 1120
    #[arg(long, value_name = "N", default_value = BUDGET, value_parser = parse_budget)]
    pub(crate) budget: u32,
}

/// Reads a budget of soft tokens.
pub(crate) fn parse_budget(text: &str) -> std::result::Result<u32, String> {
    let budget = text.parse().ok().filter(|n| TOKEN_BUDGETS.contains(n));
    budget.ok_or_else(|| format!("expected one of {TOKEN_BUDGETS:?}"))
}

impl clap::FromArgMatches for Attached {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let mut attached = Self::default();
        attached.update_from_arg_matches(matches)?;
        Ok(attached)
    }

    fn update_from_arg_matches(&mut self, m: &ArgMatches) -> std::result::Result<(), clap::Error> {
        let mut found = Vec::new();
        for (kind, name, _) in KINDS {
            let paths = m.get_many::<PathBuf>(name).into_iter().flatten();
            let places = m.indices_of(name).into_iter().flatten();
            found.extend(places.zip(paths).map(|(place, path)| (place, kind, path.clone())));
        }
        found.sort_by_key(|f| f.0);
        self.files = found.into_iter().map(|(_, kind, path)| (kind, path)).collect();
        Ok(())
    }
}

impl clap::Args for Attached {
    fn augment_args(command: Command) -> Command {
        KINDS.into_iter().fold(command, |command, (_, name, help)| {
            let arg = Arg::new(name).long(name).value_name("FILE").help(help);
            let parser = clap::value_parser!(PathBuf);
            command.arg(arg.action(ArgAction::Append).value_parser(parser))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Encodes a picture or a sound.
///
/// # Errors
/// Whatever reading the file and encoding bring, with the file's name.
pub(super) fn encode(
    session: &mut Session,
    kind: MediaKind,
    path: &Path,
    budget: u32,
) -> Result<Arc<Encoded>> {
    let mut progress = Progress::new();
    match kind {
        MediaKind::Audio => {
            session.engine().audio()?;
            encode_sound(session, path, &mut progress)
        }
        _ => {
            progress.set(&format!("looking at {}", path.display()));
            let frame = image_file::open(path)?;
            session.encode_picture(&frame, budget)
        }
    }
}

fn encode_sound(
    session: &mut Session,
    path: &Path,
    progress: &mut Progress,
) -> Result<Arc<Encoded>> {
    let sound = SoundFile::open(path)?;
    let (stated, mut heard, mut shown) = (sound.seconds_stated(), 0.0, -1.0);
    let blocks = sound.inspect(|block| {
        heard += block.as_ref().map_or(0.0, culet::Pcm::seconds);
        if heard - shown >= 1.0 {
            shown = heard;
            let all = stated.map_or(String::new(), |s| format!(" of {s:.0}"));
            progress.set(&format!("hearing {}: {heard:.0}{all} s", path.display()));
        }
    });
    session.encode_sound(blocks).map_err(|e| named(e, path))
}

/// Puts the file's name before errors that do not hold it.
fn named(error: Error, path: &Path) -> Error {
    let name = short_name(path);
    match error.message().starts_with(&name) {
        true => error,
        false => error.at(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;
    use clap::FromArgMatches;

    #[test]
    fn files_keep_their_order() {
        let command = Attached::augment_args(Command::new("test"));
        let words = ["test", "--audio", "a", "--image", "b", "--image=c", "--audio", "d"];
        let attached = Attached::from_arg_matches(&command.get_matches_from(words)).unwrap();
        let names: Vec<_> = attached.files.iter().map(|f| f.1.to_str().unwrap()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        let kinds: Vec<_> = attached.files.iter().map(|f| f.0 == MediaKind::Image).collect();
        assert_eq!(kinds, [false, true, true, false]);
    }

    #[test]
    fn budgets_are_checked() {
        assert_eq!(parse_budget("1120"), Ok(1120));
        assert!(parse_budget("100").is_err() && parse_budget("x").is_err());
    }
}
