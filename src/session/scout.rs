//! A picture encoded beside a session, while that answers.
//!
//! In: `Frame`. Out: [`Encoded`], the same bits that the session itself would make of it.
//! Invariant: the two together use as many threads as the session has; where one waits for the
//! other, that one has them all.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use crate::engine::Engine;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::ggml::Backend;
use crate::ggml::BackendOptions;
use crate::ggml::Cancel;
use crate::ggml::ThreadLimit;
use crate::media::Frame;
use crate::session::media::Encoded;
use crate::session::media::encode_picture;
use crate::session::timeline::Session;

/// Fewest threads of a session beside which a scout is worth while.
const THREADS_MIN: usize = 4;
/// One of so many threads encodes while the others answer, which is bound by reading weights.
const SHARE: usize = 4;

/// Encodes pictures on a thread and a backend of its own, one at a time.
pub struct Scout {
    /// Where the next picture goes; nothing once the thread is to end.
    pictures: Option<SyncSender<(Frame, u32)>>,
    made: Receiver<Result<Encoded>>,
    thread: Option<JoinHandle<()>>,
    cancel: Cancel,
    threads: Threads,
    budget_max: u32,
    is_looking: bool,
}

impl fmt::Debug for Scout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scout {{ looks: {} }}", self.is_looking)
    }
}

/// How threads are shared with the session.
#[derive(Clone)]
struct Threads {
    session: ThreadLimit,
    scout: ThreadLimit,
    n: usize,
}

impl Threads {
    fn n_scout(&self) -> usize {
        (self.n / SHARE).max(1)
    }
}

/// A picture that is being encoded; afterwards the session has all threads again.
struct Share(Threads);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.session.set(self.0.n);
    }
}

impl Session {
    /// Starts a scout, for pictures of at most `budget_max` soft tokens.
    ///
    /// # Errors
    /// `Input` if there is no mmproj or a GPU computes; `Memory` if both at once do not fit the
    /// engine's limit; `Device` if no thread can be started.
    pub fn scout(&mut self, budget_max: u32) -> Result<Scout> {
        if self.engine.options().backend.gpu.is_some() {
            return Err(Error::input("a GPU encodes and answers in turn; leave out the scout"));
        }
        self.check_picture(budget_max)?;
        let main = self.executor.backend_mut();
        let n = main.n_threads();
        let mut backend = Backend::new(&BackendOptions { n_threads: n, gpu: None })?;
        backend.compute_in_parts()?;
        let session = main.thread_limit().clone();
        let threads = Threads { session, scout: backend.thread_limit().clone(), n };
        threads.scout.set(threads.n_scout());
        Scout::start(Arc::clone(&self.engine), backend, threads, budget_max)
    }

    /// Tells whether a scout is worth its threads: from four on, without a GPU.
    pub fn is_scout_worth(&mut self) -> bool {
        let backend = self.executor.backend_mut();
        backend.gpu_info().is_none() && backend.n_threads() >= THREADS_MIN
    }
}

impl Scout {
    fn start(
        engine: Arc<Engine>,
        mut backend: Backend,
        threads: Threads,
        budget_max: u32,
    ) -> Result<Self> {
        let (pictures, to_encode) = mpsc::sync_channel::<(Frame, u32)>(1);
        let (done, made) = mpsc::sync_channel(1);
        let cancel = backend.cancel().clone();
        let shared = threads.clone();
        let work = move || {
            for (frame, budget) in to_encode {
                let share = Share(shared.clone());
                let encoded = encode_picture(&engine, &frame, budget, &mut backend);
                drop(share);
                if done.send(encoded).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("scout".to_owned())
            .spawn(work)
            .map_err(|e| Error::device("scout: no thread can be started").with_source(e))?;
        let (pictures, thread) = (Some(pictures), Some(thread));
        Ok(Self { pictures, made, thread, cancel, threads, budget_max, is_looking: false })
    }

    /// Begins to encode a picture within a budget of soft tokens, and does not wait.
    ///
    /// # Errors
    /// `Busy` if the last one was not taken; `Input` if the budget is larger than was said.
    pub fn look(&mut self, frame: Frame, budget: u32) -> Result<()> {
        if self.is_looking {
            let text = "a picture is being encoded; take that first";
            return Err(Error::new(ErrorKind::Busy, text));
        }
        if budget > self.budget_max {
            let most = self.budget_max;
            return Err(Error::input(format!("budget of {budget}; the scout has room for {most}")));
        }
        let pictures = self.pictures.as_ref().ok_or_else(ended)?;
        self.threads.session.set(self.threads.n - self.threads.n_scout());
        self.is_looking = true;
        pictures.send((frame, budget)).map_err(|_| {
            self.threads.session.set(self.threads.n);
            ended()
        })
    }

    /// Tells whether a picture was begun that was not taken yet.
    pub fn is_looking(&self) -> bool {
        self.is_looking
    }

    /// Returns the picture that was begun, waiting for it with all threads at work on it;
    /// [`Session::keep`] keeps it. The session must not compute meanwhile.
    ///
    /// # Errors
    /// As for [`Session::encode_picture`]; `Input` if none was begun; `Internal` if the encoder
    /// panicked.
    pub fn seen(&mut self) -> Result<Encoded> {
        if !std::mem::take(&mut self.is_looking) {
            return Err(Error::input("no picture was begun"));
        }
        self.threads.scout.set(self.threads.n);
        let made = self.made.recv();
        self.threads.scout.set(self.threads.n_scout());
        made.map_err(|_| ended())?
    }

    /// Returns the flag that stops the encoding from another thread.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }
}

fn ended() -> Error {
    Error::internal("the scout's thread panicked")
}

impl Drop for Scout {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.pictures = None;
        if let Some(thread) = self.thread.take() {
            // A panic was told where the picture was asked for.
            let _ = thread.join();
        }
    }
}
