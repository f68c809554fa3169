//! `culet verify`: whether a model works on this machine.
//! In: model files. Out: a line for each check, or one JSON document; exit 1 if one failed.
//! Invariant: every check compares two ways of computing, or one with what is known; what cannot
//! be checked here is told as left out, never as good.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use culet::Error;
use culet::Frame;
use culet::Pcm;
use culet::Result;
use culet::decoder::Decoder;
use culet::decoder::Entry;
use culet::decoder::Executor;
use culet::decoder::ExecutorOptions;
use culet::decoder::KvOptions;
use culet::engine::Engine;
use culet::ggml::Backend;
use culet::ggml::BackendOptions;
use culet::ggml::DType;
use culet::ggml::default_threads;
use culet::ggml::dequantize_into;
use culet::ggml::relative_error;
use culet::gguf::Gguf;
use culet::gguf::TensorInfo;
use culet::model::HParams;
use culet::model::memory::bytes_text;
use culet::model::packed::Packed;
use culet::session::Encoded;
use culet::session::Session;
use culet::session::SessionOptions;
use culet::text::Conversation;
use culet::units::SAMPLE_RATE_HZ;
use serde_json::json;

use crate::cli::model::ModelArgs;
use crate::cli::print;
use crate::cli::print::Progress;
use crate::cli::run::answer;

/// Greatest relative error of logits: rounding in another order stays below it, faults do not.
const ERROR_MAX: f64 = 0.1;
/// Values of a tensor that are converted at a time, at least one row.
const PIECE_VALUES: usize = 1 << 16;
/// What every Gemma answers alike, and so does the model that ships.
const QUESTION: &str = "What is the capital of Italy?";
const ANSWER: &str = "Rome";
/// Most tokens of that answer.
const ANSWER_TOKENS_MAX: usize = 40;
const N_CTX: usize = 512;
/// Texts that must come back as they were.
const TEXTS: [&str; 4] = [
    "The quick brown fox; it's 3.14, isn't it?",
    "  two  spaces\n\n\tand a tab ",
    "Grüße, 你好, नमस्ते, 🙂👩‍🚀",
    "fn main() { println!(\"{}\", 1 << 4); }",
];
/// What the ways of computing are compared with.
const PASSAGE: &str = "A lighthouse keeper wrote down the weather every evening for forty years. \
    When the lamp was made to work by itself, the books stayed on their shelf by the stairs, and \
    whoever came to clean the glass in spring would read a page or two.";
const PASSAGE_TOKENS_MAX: usize = 64;
/// A little more than a whole number of the sound encoder's blocks.
const SOUND_SAMPLES: usize = 40_333;
const PACKET_SAMPLES: usize = 1_234;
const PICTURE_SIDE: u32 = 96;
const PICTURE_TOKENS: u32 = 70;

/// What `verify` is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Write one JSON document
    #[arg(long)]
    json: bool,
}

/// What a check found.
enum Found {
    Good(String),
    Bad(String),
    LeftOut(String),
}

impl Found {
    fn of(is_good: bool, text: String) -> Self {
        if is_good { Self::Good(text) } else { Self::Bad(text) }
    }

    fn told(&self) -> (&'static str, &str) {
        match self {
            Self::Good(text) => ("ok", text),
            Self::Bad(text) => ("failed", text),
            Self::LeftOut(text) => ("left out", text),
        }
    }
}

/// The model that is checked.
struct Subject {
    engine: Arc<Engine>,
    /// Whether a GPU was asked for.
    wants_gpu: bool,
}

type Check = fn(&Subject) -> Result<Found>;

const CHECKS: [(&str, Check); 7] = [
    ("weights", Subject::weights),
    ("tokenizer", Subject::tokenizer),
    ("decoder", Subject::decoder),
    ("gpu", Subject::gpu),
    ("sound", Subject::sound),
    ("picture", Subject::picture),
    ("answer", Subject::answer),
];

/// Checks the model.
pub(crate) fn run(args: &Args) -> Result<()> {
    let wants_gpu = args.model.wants_gpu();
    let subject = Subject { engine: args.model.open(false)?, wants_gpu };
    let (mut rows, mut n_bad, mut progress) = (Vec::new(), 0, Progress::new());
    for (name, check) in CHECKS {
        progress.set(&format!("checking {name}"));
        // A check that cannot be carried out has failed as well.
        let found = check(&subject).unwrap_or_else(|e| Found::Bad(e.to_string()));
        progress.clear();
        n_bad += usize::from(matches!(found, Found::Bad(_)));
        let (verdict, text) = found.told();
        match args.json {
            true => rows.push(json!({ "check": name, "verdict": verdict, "found": text })),
            false => print::result(&format!("{name:<11}{verdict:<10}{text}\n"))?,
        }
    }
    let name = subject.engine.file().name();
    if args.json {
        print::json(&json!({ "model": name, "checks": rows }))?;
    }
    match n_bad {
        0 => Ok(()),
        n => Err(Error::format(format!(
            "{name}: {n} of {} checks failed; each line says what was found",
            CHECKS.len()
        ))),
    }
}

impl Subject {
    /// Every value of every tensor is a finite number.
    fn weights(&self) -> Result<Found> {
        let mut files = vec![self.engine.file()];
        files.extend(self.engine.mmproj_file().filter(|f| f.name() != files[0].name()));
        let (mut n_tensors, mut n_bytes, mut n_packed) = (0, 0, 0);
        for file in files {
            let packed = Packed::of(file)?;
            let is_packed = |info: &&TensorInfo| packed.has(&info.name);
            n_packed += file.tensors().iter().filter(is_packed).count();
            let plain: Vec<&TensorInfo> = file.tensors().iter().filter(|i| !is_packed(i)).collect();
            n_tensors += plain.len();
            n_bytes += plain.iter().map(|info| info.size_bytes as u64).sum::<u64>();
            if let Some(bad) = first_not_finite(file, &plain)? {
                return Ok(Found::Bad(bad));
            }
        }
        let what = format!("{n_tensors} tensors, {}, all values finite", bytes_text(n_bytes));
        Ok(Found::Good(match n_packed {
            0 => what,
            n => format!("{what}; {n} packed ones were not looked at, verify the plain file"),
        }))
    }

    /// Texts come back from their tokens.
    fn tokenizer(&self) -> Result<Found> {
        let tokenizer = self.engine.tokenizer();
        for text in TEXTS {
            let back = tokenizer.decode(&tokenizer.encode(text)?);
            if back != text {
                return Ok(Found::Bad(format!("{text:?} comes back as {back:?}")));
            }
        }
        let (n, n_vocab) = (TEXTS.len(), tokenizer.n_vocab());
        Ok(Found::Good(format!("{n_vocab} tokens, {n} texts come back")))
    }

    /// Returns the beginning of the passage: its logits are 1 MiB a token.
    fn passage(&self) -> Result<Vec<Entry<'static>>> {
        let ids = self.engine.tokenizer().encode(PASSAGE)?;
        Ok(ids.into_iter().take(PASSAGE_TOKENS_MAX).map(Entry::Token).collect())
    }

    fn backend(&self) -> &BackendOptions {
        &self.engine.options().backend
    }

    /// A prompt has the same logits through all layers, through those that make keys and values,
    /// and token by token.
    fn decoder(&self) -> Result<Found> {
        let entries = self.passage()?;
        let n_vocab = self.engine.decoder().hparams().n_vocab;
        let mut run = executor(self.engine.decoder(), self.backend())?;
        let all = run.append_with_logits(&entries, entries.len())?;
        let plain = all[all.len() - n_vocab..].to_vec();
        let mut run = executor(self.engine.decoder(), self.backend())?;
        let prompt = relative_error(run.append_with_logits(&entries, 1)?, &plain);
        let mut run = executor(self.engine.decoder(), self.backend())?;
        for entry in &entries[..entries.len() - 1] {
            run.append(&[*entry])?;
        }
        let token =
            relative_error(run.append_with_logits(&entries[entries.len() - 1..], 1)?, &plain);
        let is_good = [prompt, token].iter().all(|&error| error < ERROR_MAX);
        Ok(Found::of(
            is_good,
            format!(
                "{} tokens, relative error {prompt:.1e} as a prompt, {token:.1e} token by token",
                entries.len()
            ),
        ))
    }

    /// The GPU's logits are the processor's.
    fn gpu(&self) -> Result<Found> {
        if self.backend().gpu.is_none() {
            return Ok(match self.wants_gpu {
                true => Found::Bad("it computes wrongly or does not open, see above".to_owned()),
                false => Found::LeftOut("none was asked for with --gpu".to_owned()),
            });
        }
        let entries = self.passage()?;
        let mut own = executor(self.engine.decoder(), self.backend())?;
        let alone = BackendOptions { n_threads: self.backend().n_threads, gpu: None };
        let file = self.engine.file();
        // Another decoder, because the weights of this one may lie in the GPU's memory.
        let decoder = Decoder::open(file, HParams::read(file)?, &Backend::new(&alone)?)?;
        let mut plain = executor(&Arc::new(decoder), &alone)?;
        let name = own.backend_mut().gpu_info().map_or(String::new(), |info| info.name.clone());
        let got = own.append_with_logits(&entries, 1)?;
        let error = relative_error(got, plain.append_with_logits(&entries, 1)?);
        Ok(Found::of(error < ERROR_MAX, format!("{name}: relative error {error:.1e}")))
    }

    fn session(&self) -> Result<Session> {
        Session::new(&self.engine, &SessionOptions::greedy(N_CTX))
    }

    /// A sound has the same soft tokens as a whole and in packets.
    fn sound(&self) -> Result<Found> {
        if !self.engine.hears() {
            return Ok(Found::LeftOut("there is no sound encoder".to_owned()));
        }
        let mut session = self.session()?;
        let samples = hum();
        let whole = session.encode_sound([Ok(pcm(&samples))])?;
        let spoken = json!([{ "role": "user", "content": [{ "type": "audio" }] }]);
        session.begin_sound(&Conversation::from_json(&spoken)?, &[])?;
        samples.chunks(PACKET_SAMPLES).try_for_each(|packet| session.hear(&pcm(packet)))?;
        let live = session.end_sound()?;
        let is_same = live.segments() == whole.segments();
        let told = if is_same { "the same in packets as whole" } else { "other ones in packets" };
        let n = whole.n_tokens();
        Ok(Found::of(is_same && is_finite(&whole), format!("{n} soft tokens, {told}")))
    }

    /// Pictures have finite soft tokens, and other pictures have others.
    fn picture(&self) -> Result<Found> {
        if !self.engine.sees() {
            return Ok(Found::LeftOut("there is no picture encoder".to_owned()));
        }
        let mut session = self.session()?;
        let [shade, stripes] = [8, 1].map(drawing);
        let shade = session.encode_picture(&shade?, PICTURE_TOKENS)?;
        let stripes = session.encode_picture(&stripes?, PICTURE_TOKENS)?;
        let is_other = shade.segments() != stripes.segments();
        let is_good = is_finite(&shade) && is_finite(&stripes) && is_other;
        let told = if is_good { "finite, others for another picture" } else { "useless ones" };
        Ok(Found::of(is_good, format!("{} soft tokens, {told}", shade.n_tokens())))
    }

    /// The model knows what every Gemma knows.
    fn answer(&self) -> Result<Found> {
        let mut session = self.session()?;
        let asked = json!([{ "role": "user", "content": QUESTION }]);
        let asked = Conversation::from_json(&asked)?;
        let outcome =
            answer::answer(&mut session, &asked, &[], ANSWER_TOKENS_MAX, &mut |_| Ok(()))?;
        let said = outcome.parsed.answer.trim();
        Ok(match said.contains(ANSWER) {
            true => Found::Good(format!("{QUESTION} {said}")),
            false => Found::Bad(format!(
                "{QUESTION} {said:?} does not say {ANSWER}: the weights are damaged, or of no Gemma"
            )),
        })
    }
}

fn executor(decoder: &Arc<Decoder>, backend: &BackendOptions) -> Result<Executor> {
    let kv = KvOptions { n_ctx: N_CTX, n_batch: N_CTX, dtype: DType::F16 };
    Executor::new(decoder, &ExecutorOptions { backend: backend.clone(), kv })
}

/// Returns what is wrong with the first tensor that holds a value that is not finite.
fn first_not_finite(file: &Gguf, tensors: &[&TensorInfo]) -> Result<Option<String>> {
    let next = AtomicUsize::new(0);
    let look = || {
        while let Some(info) = tensors.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = not_finite(file, info);
            if !matches!(found, Ok(None)) {
                // The other threads need look no further.
                next.store(tensors.len(), Ordering::Relaxed);
                return found;
            }
        }
        Ok(None)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..default_threads()).map(|_| scope.spawn(look)).collect();
        let failed = |_| Err(Error::internal("a thread that read weights has failed"));
        let mut found = threads.into_iter().map(|thread| thread.join().unwrap_or_else(failed));
        found.find(|found| !matches!(found, Ok(None))).unwrap_or(Ok(None))
    })
}

fn not_finite(file: &Gguf, info: &TensorInfo) -> Result<Option<String>> {
    let dtype = DType::from_id(info.dtype.id())?;
    let (n_row, row_bytes) = (info.shape[0] as usize, info.row_bytes());
    let n_rows = (PIECE_VALUES / n_row).max(1);
    let mut values = vec![0.0; n_rows * n_row];
    for (i, piece) in file.tensor_bytes(info).chunks(n_rows * row_bytes).enumerate() {
        let values = &mut values[..piece.len() / row_bytes * n_row];
        dequantize_into(dtype, piece, values)?;
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let (row, column) = (i * n_rows + at / n_row, at % n_row);
            return Ok(Some(format!(
                "{}: {} holds {} in row {row}, column {column}; get the file again",
                file.name(),
                info.name,
                values[at]
            )));
        }
    }
    Ok(None)
}

/// Returns a sound that changes all the time.
fn hum() -> Vec<f32> {
    let seconds = |i: usize| i as f32 / SAMPLE_RATE_HZ as f32;
    let sample = |i: usize| (900.0 * seconds(i) * (1.0 + seconds(i))).sin() * 0.3;
    (0..SOUND_SAMPLES).map(sample).collect()
}

fn pcm(samples: &[f32]) -> Pcm {
    Pcm { samples: samples.to_vec(), rate_hz: SAMPLE_RATE_HZ, captured_at_ns: 0 }
}

/// Returns a picture whose shade changes every so many columns.
fn drawing(step: u32) -> Result<Frame> {
    let shade = |i: u32| (i / 3 % PICTURE_SIDE / step * 40 % 256) as u8;
    let n = 3 * PICTURE_SIDE * PICTURE_SIDE;
    Frame::new(PICTURE_SIDE, PICTURE_SIDE, (0..n).map(shade).collect())
}

fn is_finite(encoded: &Encoded) -> bool {
    encoded.segments().iter().all(|soft| soft.data.iter().all(|v| v.is_finite()))
}
