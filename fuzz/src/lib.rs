//! The part of culet that reads what comes from outside, without ggml.
//! In: modules of `src/`, compiled here once more. Out: the same names as in culet.
//! Invariant: no code of its own, but for [`quiet`].

macro_rules! modules {
    ($($name:ident $path:literal)*) => {
        $(
            #[path = $path]
            pub mod $name;
        )*
    };
}

modules! {
    device "../../src/device/mod.rs"
    error "../../src/error.rs"
    frontend "../../src/frontend/mod.rs"
    gguf "../../src/gguf/mod.rs"
    kernel "../../src/kernel/mod.rs"
    media "../../src/media.rs"
    redact "../../src/redact.rs"
    ring "../../src/ring.rs"
    source "../../src/source/mod.rs"
    text "../../src/text/mod.rs"
    units "../../src/units.rs"
    whole "../../src/whole.rs"
}

pub use error::Error;
pub use error::ErrorKind;
pub use error::Result;
pub use media::Frame;
pub use media::Pcm;
pub use units::TokenId;

/// Lets panics unwind, as they do in the program: a decoder's becomes an error, any other one ends
/// the run all the same.
pub fn quiet() {
    drop(std::panic::take_hook());
}
