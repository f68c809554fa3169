//! Speed of speech, and of listening at the pace of a microphone.
//!
//! In: an engine that hears, the peer, or a sound. Out: rows.

mod pace;
mod speech;

pub(super) use pace::soak;
pub(super) use speech::measure;

use std::sync::Arc;

use culet::Error;
use culet::Result;
use culet::engine::Engine;
use culet::session::Session;
use culet::session::SessionOptions;

/// Positions for the longest sound and what is around it.
const N_CTX: usize = 2048;

fn deaf() -> Error {
    Error::input("a model that cannot hear; give its encoders with --mmproj")
}

fn session(engine: &Arc<Engine>) -> Result<Session> {
    let n_ctx = N_CTX.min(engine.decoder().hparams().n_ctx_train);
    Session::new(engine, &SessionOptions { n_ctx, ..SessionOptions::default() })
}
