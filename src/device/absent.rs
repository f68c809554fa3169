//! Sound devices of a build without the feature `mic`: there are none.
//! In: a direction. Out: an error that says how to get them.
//! Invariant: the types have no values, so nothing can be opened.

use crate::device::info::DeviceInfo;
use crate::device::info::Direction;
use crate::error::Error;
use crate::error::Result;
use crate::ring::RingWriter;

/// A device that was found.
pub(crate) enum Device {}

/// A running stream.
pub(crate) enum Stream {}

/// Lists the devices: none.
///
/// # Errors
/// None.
pub fn list(_: Direction) -> Result<Vec<DeviceInfo>> {
    Ok(Vec::new())
}

impl Device {
    /// Refuses.
    pub(crate) fn find(direction: Direction, _: Option<&str>) -> Result<Self> {
        let noun = direction.noun();
        Err(Error::unsupported(format!(
            "{noun}: this build cannot use one; build with the feature mic"
        )))
    }

    /// Never runs.
    pub(crate) fn name(&self) -> &str {
        match *self {}
    }

    /// Never runs.
    pub(crate) fn rate_hz(&self) -> u32 {
        match *self {}
    }

    /// Never runs.
    pub(crate) fn record(self, _: RingWriter) -> Result<Stream> {
        match self {}
    }

    /// Never runs.
    pub(crate) fn play(
        self,
        _: impl FnMut(usize, &mut dyn FnMut(f32)) + Send + 'static,
    ) -> Result<Stream> {
        match self {}
    }
}

impl Stream {
    /// Never runs.
    pub(crate) fn check(&self) -> Result<()> {
        match *self {}
    }
}
