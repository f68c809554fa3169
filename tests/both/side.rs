//! What can be done with a session, whichever face of the library it is made by.
//!
//! In: models, words, pictures, sounds. Out: counts, events, logits, bytes, refusals.
//! Invariant: a call that is refused leaves the session as it was.

use std::path::PathBuf;

use culet::Frame;
use culet::Pcm;
use culet::Result;
use culet::session::SessionOptions;
use culet::session::Stats;
use culet::text::Stop;

use crate::both::voice::side::Voice;

/// Files of one model, below the folder `models`.
#[derive(Clone, Copy)]
pub(crate) struct Files {
    pub(crate) model: &'static str,
    pub(crate) mmproj: Option<&'static str>,
}

/// The model that is shipped.
pub(crate) const TINY: Files =
    Files { model: "tiny/culet-tiny-q4_0.gguf", mmproj: Some("tiny/mmproj-culet-tiny-q8_0.gguf") };
/// The same without its encoders.
pub(crate) const BLIND: Files = Files { mmproj: None, ..TINY };
/// One with random numbers for weights.
pub(crate) const RANDOM: Files =
    Files { model: "fixtures/media.gguf", mmproj: Some("fixtures/media-mmproj.gguf") };

/// Returns the path of a file below the folder `models`.
pub(crate) fn path(name: &str) -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().find(|folder| folder.join("models").is_dir());
    root.expect("the tests lie in the repository").join("models").join(name)
}

/// One event of an answer.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Said {
    /// A token that completed nothing.
    Nothing,
    Thought(String),
    Answer(String),
    /// A call as a JSON object.
    Call(String),
    BrokenCall,
    End(Stop),
}

/// One face of the library: a conversation that keeps what was said, and is asked for more.
///
/// Words and media make the user's turn, which `prompt` closes; a part of a message that names a
/// medium is a place that appended media fill in order.
pub(crate) trait Side: Sized {
    type Engine;
    /// What holds conversations by voice.
    type Assistant: Voice<Engine = Self::Engine>;

    /// Opens a model for one thread.
    fn open(files: Files, memory_bytes_max: Option<u64>) -> Result<Self::Engine>;
    /// Tells whether it sees, and whether it hears.
    fn senses(engine: &Self::Engine) -> (bool, bool);
    fn new(engine: &Self::Engine, options: &SessionOptions) -> Result<Self>;

    fn n_ctx(&self) -> usize;
    fn n_past(&self) -> usize;
    fn n_messages(&mut self) -> usize;
    fn logits(&mut self) -> Vec<f32>;
    /// Stops the next call that computes.
    fn cancel(&self);

    fn append_messages(&mut self, json: &str) -> Result<()>;
    fn append_text(&mut self, text: &str) -> Result<()>;
    fn append_picture(&mut self, frame: &Frame, budget: u32) -> Result<()>;
    fn append_sound(&mut self, pcm: &Pcm) -> Result<()>;
    fn prompt(&mut self) -> Result<Stats>;
    fn next(&mut self) -> Result<Said>;
    fn cut(&mut self) -> Result<()>;
    fn clear(&mut self) -> Result<()>;
    /// Keeps the first messages; an answer is one as soon as it has begun.
    fn rewind(&mut self, n_messages: usize) -> Result<()>;

    fn begin_sound(&mut self) -> Result<Stats>;
    fn hear(&mut self, pcm: &Pcm) -> Result<()>;
    fn guess_end(&mut self) -> Result<()>;
    /// Returns how many positions were computed in vain.
    fn take_back(&mut self) -> Result<usize>;
    fn end_sound(&mut self) -> Result<()>;
    fn drop_sound(&mut self) -> Result<()>;

    fn snapshot(&mut self) -> Result<Vec<u8>>;
    fn restore(&mut self, bytes: &[u8]) -> Result<()>;
}
