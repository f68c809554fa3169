//! What a spoken conversation sees.
//! In: arguments. Out: the newest picture, whenever somebody begins to speak.
//! Invariant: a camera that fails ends the seeing, never the conversation.

use std::path::PathBuf;

use culet::Frame;
use culet::Result;
use culet::source::Camera;
use culet::source::Recording;
use culet::source::camera::CameraOptions;

use crate::cli::print;
use crate::cli::run::parse_budget;

/// Gives the newest picture of the scene, or nothing if there is none.
pub(super) type Look = Box<dyn FnMut() -> Option<Frame>>;

/// Rate of a recording; its times are not asked for.
const RATE_HZ: f64 = 1.0;

/// Whether and how it sees.
#[derive(clap::Args)]
pub(super) struct EyeArgs {
    /// Look through a camera whenever you begin to speak: the first, or by name or number
    #[arg(long, value_name = "CAMERA", num_args = 0..=1, require_equals = true)]
    camera: Option<Option<String>>,
    /// Take the next picture of a folder, or of a moving gif or webp, in place of a camera
    #[arg(long, value_name = "PLACE", conflicts_with = "camera")]
    frames: Option<PathBuf>,
    /// Most soft tokens of a picture: 70, 140, 280, 560 or 1120
    #[arg(long, value_name = "N", default_value = "70", value_parser = parse_budget)]
    pub(super) budget: u32,
}

impl EyeArgs {
    /// Opens the camera or the recording; nothing if nobody wants to be seen.
    ///
    /// # Errors
    /// As for [`Camera::open`] and [`Recording::open`].
    pub(super) fn open(&self) -> Result<Option<Look>> {
        if let Some(place) = &self.frames {
            let mut recording = Recording::open(place, RATE_HZ)?;
            return Ok(Some(Box::new(move || seen(recording.next().transpose()))));
        }
        let Some(name) = &self.camera else { return Ok(None) };
        let options = CameraOptions { name: name.clone(), ..CameraOptions::default() };
        let mut camera = Camera::open(&options)?;
        Ok(Some(Box::new(move || seen(camera.newest()))))
    }
}

/// Returns the picture, or tells why there is none.
fn seen(frame: Result<Option<Frame>>) -> Option<Frame> {
    frame.unwrap_or_else(|e| {
        print::say(&format!("nothing is seen: {e}"));
        None
    })
}
