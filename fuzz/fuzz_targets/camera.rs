//! Frames as cameras send them, in every layout.
//! In: a layout, two sides, bytes. Out: nothing; an error is as good as a frame.
#![no_main]

use culet_fuzz::frontend::change::Scene;
use culet_fuzz::quiet;
use culet_fuzz::source::pixel_format::PixelFormat;
use culet_fuzz::source::pixel_format::frame_of;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quiet(), |given: (u8, u16, u16, &[u8])| {
    use PixelFormat::*;
    let (layout, width, height, bytes) = given;
    let layouts = [Yuyv, Nv12, Rgb, Bgr, Grey, Mjpeg];
    let layout = layouts[usize::from(layout) % layouts.len()];
    if let Ok(frame) = frame_of(layout, width.into(), height.into(), bytes) {
        let mut scene = Scene::default();
        scene.keep(&frame);
        assert_eq!(scene.difference(&frame), 0.0);
    }
});
