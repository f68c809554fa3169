//! PPM pictures from a pipe: those of a camera's stand-in, and what ffmpeg makes of a video.
//! In: bytes of the pipe. Out: nothing; an error is as good as a picture.
#![no_main]

use culet_fuzz::quiet;
use culet_fuzz::source::PpmStream;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quiet(), |bytes: &[u8]| {
    for frame in PpmStream::new("pipe", bytes).flatten() {
        let [width, height] = [frame.width(), frame.height()].map(|side| side as usize);
        assert_eq!(frame.rgb().len(), 3 * width * height);
    }
});
