//! The system's sound devices: the one door to them, for both directions.
//!
//! In: a direction and a name; a ring to fill, or what fills a block. Out: a running stream.
//!
//! - `info`: what is known before a device is opened
//! - `system`: devices of this system; `absent`: the same without the feature `mic`
//!
//! Invariant: a device's callback copies samples and does nothing else.

#[cfg(not(feature = "mic"))]
mod absent;
mod info;
#[cfg(feature = "mic")]
mod system;

#[cfg(not(feature = "mic"))]
use absent as system;

pub use info::DeviceInfo;
pub use info::Direction;
pub(crate) use system::Device;
pub(crate) use system::Stream;
pub use system::list;
