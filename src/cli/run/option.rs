//! Options of a run: how a conversation begins, how tokens are chosen.
//! In: arguments. Out: the library's options.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use culet::Error;
use culet::Result;
use culet::engine::Engine;
use culet::sampler::SamplingOptions;
use culet::session::Session;
use culet::session::SessionOptions;
use culet::text::Conversation;
use culet::text::Message;
use culet::text::Role;
use culet::text::Tool;
use serde_json::Value;

use crate::cli::input;
use crate::cli::model::KvKind;

/// How a conversation begins.
#[derive(clap::Args)]
pub(crate) struct OpeningArgs {
    /// Instructions for the whole conversation
    #[arg(short, long, value_name = "TEXT")]
    system: Option<String>,
    /// Let the model think before it answers
    #[arg(long)]
    think: bool,
    /// Functions that it may call: a JSON list as OpenAI's `tools`
    #[arg(long, value_name = "FILE.json")]
    tools: Option<PathBuf>,
}

impl OpeningArgs {
    /// Returns a conversation in which nobody has spoken.
    ///
    /// # Errors
    /// `Io` or `Input` if the tools cannot be read.
    pub(crate) fn conversation(&self) -> Result<Conversation> {
        let system = self.system.iter().map(|text| Message::text(Role::System, text));
        let mut conversation = Conversation::new(system.collect());
        conversation.thinking = self.think;
        let Some(path) = &self.tools else { return Ok(conversation) };
        let json = input::read_json(path)?;
        let at = |e: Error| e.at(path.display());
        let list = json.get("tools").unwrap_or(&json).as_array();
        let list = list.ok_or_else(|| at(Error::input("no list of tools, expected [...]")))?;
        let tools = list.iter().map(|tool: &Value| Tool::from_json(tool).map_err(at));
        conversation.tools = tools.collect::<Result<_>>()?;
        Ok(conversation)
    }
}

/// How tokens are chosen, and how many.
#[derive(clap::Args)]
pub(crate) struct SamplingArgs {
    /// Flatten (above 1) or sharpen the choice; 0 takes the best token
    #[arg(long, value_name = "T", default_value = "1.0")]
    temp: f32,
    /// Choose among this many best tokens; 0 for all
    #[arg(long, value_name = "N", default_value = "64")]
    top_k: usize,
    /// Choose among the best tokens that have this share
    #[arg(long, value_name = "P", default_value = "0.95")]
    top_p: f32,
    /// Leave out tokens with less than this share of the best one's chance
    #[arg(long, value_name = "P", default_value = "0")]
    min_p: f32,
    /// Make recent tokens less likely; 1 for not
    #[arg(long, value_name = "X", default_value = "1.0")]
    repeat_penalty: f32,
    /// Where the random numbers begin [default: the clock]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Always take the best token
    #[arg(long, conflicts_with_all = ["temp", "top_k", "top_p", "min_p", "seed"])]
    greedy: bool,
    /// Most tokens of an answer [default: what the context holds]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Most tokens of the conversation
    #[arg(long, value_name = "TOKENS", default_value = "4096")]
    ctx: usize,
    /// Type of cached keys and values
    #[arg(long, value_enum, default_value = "f16")]
    kv: KvKind,
}

impl SamplingArgs {
    /// Returns the most tokens of one answer.
    pub(crate) fn n_max(&self) -> usize {
        self.max_tokens.map_or(usize::MAX, |n| n as usize)
    }

    /// Returns where the random numbers begin.
    pub(crate) fn seed(&self) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.seed.unwrap_or_else(|| now.map_or(0, |t| u64::from(t.subsec_nanos())))
    }

    /// Starts a session.
    ///
    /// # Errors
    /// As for [`Session::new`].
    pub(crate) fn session(&self, engine: &Arc<Engine>, seed: u64) -> Result<Session> {
        let most = engine.decoder().hparams().n_ctx_train;
        if self.ctx > most {
            log::info!("--ctx is {}; this model takes {most}", self.ctx);
        }
        let sampling = SamplingOptions {
            temperature: if self.greedy { 0.0 } else { self.temp },
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repeat_penalty,
            seed,
            ..SamplingOptions::default()
        };
        let (n_ctx, kv) = (self.ctx.min(most), self.kv.dtype());
        let options = SessionOptions { n_ctx, kv, sampling, ..SessionOptions::default() };
        Session::new(engine, &options)
    }
}
