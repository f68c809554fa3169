//! Picture files: every frame, and what the encoder would be given.
//! In: bytes of a file. Out: nothing; an error is as good as a picture.
#![no_main]

use culet_fuzz::frontend::Patches;
use culet_fuzz::quiet;
use culet_fuzz::source::FrameStream;
use libfuzzer_sys::fuzz_target;

/// Larger ones only take time.
const PIXELS_MAX: u32 = 1 << 20;

fuzz_target!(init: quiet(), |bytes: &[u8]| {
    let Ok(frames) = FrameStream::from_bytes(bytes.to_vec()) else { return };
    for frame in frames.take(4).flatten() {
        let [width, height] = [frame.width(), frame.height()].map(|side| side as usize);
        assert_eq!(frame.rgb().len(), 3 * width * height);
        if frame.width() * frame.height() <= PIXELS_MAX {
            let _ = Patches::from_frame(&frame, 70);
        }
    }
});
