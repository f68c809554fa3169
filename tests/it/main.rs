//! Integration tests, one binary, because each binary links all of ggml.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bench;
#[path = "../both/mod.rs"]
mod both;
#[cfg(all(feature = "cli", feature = "camera"))]
mod camera;
mod chat;
mod encoder;
mod frontend;
#[cfg(any(feature = "vulkan", feature = "metal", feature = "cuda"))]
mod gpu;
mod heldout;
mod hostile_gguf;
mod hostile_media;
mod hostile_model;
mod hostile_text;
#[cfg(feature = "cli")]
mod listen;
mod live;
#[cfg(feature = "cli")]
mod look;
mod model;
mod native;
mod npy;
mod parity;
mod plans;
#[cfg(feature = "cli")]
mod probe;
#[cfg(feature = "cli")]
mod program;
mod random;
mod score;
mod scout;
#[cfg(feature = "cli")]
mod see;
mod session;
mod snapshot;
mod tiny;
mod tokens;
#[cfg(feature = "cli")]
mod verify;
#[cfg(feature = "cli")]
mod video;
mod voice;
