//! `probe audio` and `probe vision`: the encoders over a file.
//! In: a model with its mmproj, a sound or a picture. Out: soft tokens, and on request what the
//! encoder was given, as `.npy`.
//! Invariant: sounds and pictures take the same way as in `run`.

use std::path::PathBuf;
use std::sync::Arc;

use culet::Error;
use culet::Pcm;
use culet::Result;
use culet::encoder::SoftTokens;
use culet::engine::Engine;
use culet::frontend::MelFrames;
use culet::frontend::MelStream;
use culet::frontend::Patches;
use culet::frontend::Resampler;
use culet::frontend::mel::N_MEL;
use culet::frontend::patches::PATCH_VALUES;
use culet::session::Encoded;
use culet::session::SEGMENT_SECONDS_MAX;
use culet::session::Session;
use culet::session::SessionOptions;
use culet::source::SoundFile;
use culet::source::image_file;
use culet::units::SAMPLE_RATE_HZ;

use crate::cli::model::GpuArgs;
use crate::cli::probe::npy;
use crate::cli::run::PictureArgs;

/// Positions of a session that only encodes.
const N_CTX: usize = 16;

/// A model and its encoders.
#[derive(clap::Args)]
struct Files {
    /// GGUF file of the model
    model: PathBuf,
    /// GGUF file of its encoders [default: MODEL, if it holds them]
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// Where to write the soft tokens
    #[arg(long, value_name = "F.npy")]
    out: PathBuf,
    /// Processor threads [default: one for each logical core, at most 8]
    #[arg(short, long, value_name = "N", default_value = "0", hide_default_value = true)]
    threads: usize,
    #[command(flatten)]
    gpu: GpuArgs,
}

/// What `probe audio` is told.
#[derive(clap::Args)]
pub(super) struct AudioArgs {
    #[command(flatten)]
    files: Files,
    /// Sound file of any kind
    #[arg(long, value_name = "FILE")]
    audio: PathBuf,
    /// Give the encoder this many samples at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    packet: Option<u32>,
    /// Where to write the log-mel frames, [n, 128]
    #[arg(long, value_name = "F.npy")]
    mel: Option<PathBuf>,
}

/// What `probe vision` is told.
#[derive(clap::Args)]
pub(super) struct VisionArgs {
    #[command(flatten)]
    files: Files,
    /// Picture file of any kind
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    #[command(flatten)]
    picture: PictureArgs,
    /// Where to write the patches, [n, 768], values from 0 to 1, channel fastest
    #[arg(long, value_name = "F.npy")]
    patches: Option<PathBuf>,
}

/// Encodes a sound.
pub(super) fn audio(args: &AudioArgs) -> Result<()> {
    if let Some(out) = &args.mel {
        let mel = mel_frames(blocks(args)?)?;
        npy::write(out, &[mel.n, N_MEL], &mel.data)?;
    }
    let mut session = args.files.session()?;
    session.engine().audio()?;
    let encoded = session.encode_sound(blocks(args)?)?;
    args.files.write(&encoded)
}

/// Encodes a picture.
pub(super) fn vision(args: &VisionArgs) -> Result<()> {
    let frame = image_file::open(&args.image)?;
    if let Some(out) = &args.patches {
        let patches = Patches::from_frame(&frame, args.picture.budget)?;
        npy::write(out, &[patches.n(), PATCH_VALUES], &patches.data)?;
    }
    let mut session = args.files.session()?;
    let encoded = session.encode_picture(&frame, args.picture.budget)?;
    args.files.write(&encoded)
}

impl Files {
    fn session(&self) -> Result<Session> {
        let options = self.gpu.options(self.threads, None);
        let engine: Arc<Engine> = Engine::open(&self.model, self.mmproj.as_deref(), &options)?;
        let options = SessionOptions { n_ctx: N_CTX, ..SessionOptions::default() };
        Session::new(&engine, &options)
    }

    fn write(&self, encoded: &Encoded) -> Result<()> {
        let segments = encoded.segments();
        let n_embd = segments.first().map_or(0, |s| s.n_embd);
        let n: usize = segments.iter().map(SoftTokens::n).sum();
        let mut writer = npy::NpyWriter::create(&self.out, &[n, n_embd])?;
        segments.iter().try_for_each(|s| writer.append(&s.data))?;
        writer.finish()
    }
}

/// Returns the blocks of the sound, cut to packets where asked for.
fn blocks(args: &AudioArgs) -> Result<Box<dyn Iterator<Item = Result<Pcm>>>> {
    let sound = SoundFile::open(&args.audio)?;
    let Some(n) = args.packet else { return Ok(Box::new(sound)) };
    Ok(Box::new(sound.flat_map(move |block| packets(block, n as usize))))
}

fn packets(block: Result<Pcm>, n: usize) -> Vec<Result<Pcm>> {
    match block {
        Err(e) => vec![Err(e)],
        Ok(pcm) => {
            let packet = |samples: &[f32]| Ok(Pcm { samples: samples.to_vec(), ..pcm });
            pcm.samples.chunks(n).map(packet).collect()
        }
    }
}

/// Computes the frames that the encoder is given, segment by segment.
fn mel_frames(blocks: impl Iterator<Item = Result<Pcm>>) -> Result<MelFrames> {
    let n_segment = (SEGMENT_SECONDS_MAX * SAMPLE_RATE_HZ) as usize;
    let mut resampler: Option<Resampler> = None;
    let mut samples = Vec::new();
    for pcm in blocks {
        let pcm = pcm?;
        let resampler = match &mut resampler {
            Some(resampler) => resampler,
            none => none.insert(Resampler::new(pcm.rate_hz)?),
        };
        samples.extend(resampler.push(&pcm.samples)?);
    }
    if let Some(resampler) = &mut resampler {
        samples.extend(resampler.finish()?);
    }
    if samples.is_empty() {
        return Err(Error::input("the sound has no samples"));
    }
    let mut all = MelFrames { data: Vec::new(), n: 0 };
    for segment in samples.chunks(n_segment) {
        let frames = MelStream::new().push(segment)?;
        all.data.extend(frames.data);
        all.n += frames.n;
    }
    Ok(all)
}
