//! What is known of a sound device before it is opened.
//! In: nothing. Out: names and numbers.

/// Which way sound goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a microphone.
    In,
    /// To a speaker.
    Out,
}

impl Direction {
    /// Returns what a device of this direction is called.
    pub fn noun(self) -> &'static str {
        match self {
            Self::In => "microphone",
            Self::Out => "speaker",
        }
    }
}

/// What is known of a device before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Name to open it by.
    pub name: String,
    /// Whether it is taken where no name is given.
    pub is_default: bool,
    /// Samples per second that it gives or takes.
    pub rate_hz: u32,
    /// Channels; a microphone's are mixed into one, a speaker's all get the same.
    pub n_channels: u16,
}
