//! Sound files: decoded, brought to 16 kHz, made into mel frames.
//! In: bytes of a file. Out: nothing; an error is as good as a sound.
#![no_main]

use culet_fuzz::frontend::MelStream;
use culet_fuzz::frontend::Resampler;
use culet_fuzz::quiet;
use culet_fuzz::source::SoundFile;
use libfuzzer_sys::fuzz_target;

/// A long sound only takes time.
const SAMPLES_MAX: usize = 200_000;

fuzz_target!(init: quiet(), |bytes: &[u8]| {
    let Ok(sound) = SoundFile::from_bytes(bytes.to_vec()) else { return };
    let Ok(mut resampler) = Resampler::new(sound.rate_hz()) else { return };
    let (mut mel, mut n_samples) = (MelStream::new(), 0);
    for block in sound.map_while(Result::ok) {
        assert!(block.samples.iter().all(|s| s.is_finite()), "a sample is no number");
        let Ok(samples) = resampler.push(&block.samples) else { return };
        if mel.push(&samples).is_err() {
            return;
        }
        n_samples += block.samples.len();
        if n_samples > SAMPLES_MAX {
            return;
        }
    }
    let _ = resampler.finish();
});
