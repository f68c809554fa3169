//! One answer: prompt in, events out, with counts and times.
//! In: a session, a conversation with its media. Out: [`Outcome`]; the answer as it is made.
//! Invariant: an interrupted answer keeps what was said; an error leaves the session usable.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use culet::ErrorKind;
use culet::Result;
use culet::session::Encoded;
use culet::session::Session;
use culet::session::Stats;
use culet::text::Conversation;
use culet::text::Event;
use culet::text::Parsed;
use culet::text::Stop;
use serde_json::Value;
use serde_json::json;

use crate::cli::print;
use crate::cli::run::stop::Stoppable;

/// What an answer was and took.
pub(crate) struct Outcome {
    /// What the model said.
    pub(crate) parsed: Parsed,
    /// Positions of the prompt.
    pub(crate) stats: Stats,
    /// Tokens of the answer.
    pub(crate) n_tokens: usize,
    /// Why it ended, in a word.
    pub(crate) stop: &'static str,
    /// From the prompt to its end.
    pub(crate) prompt_time: Duration,
    /// From the prompt to the first token.
    pub(crate) first_token_time: Duration,
    /// From the first token to the last.
    pub(crate) answer_time: Duration,
}

impl Outcome {
    /// Tells whether Ctrl-C ended the answer.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.stop == INTERRUPTED
    }

    /// Returns what `--json` tells of an answer; `n_media` are the soft tokens of its media, and
    /// the times are those of opening the model and of encoding the media.
    pub(crate) fn to_json(&self, n_media: usize, [opened, encoded]: [Duration; 2]) -> Value {
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let calls: Vec<Value> = self.parsed.tool_calls.iter().map(|call| call.to_json()).collect();
        json!({
            "text": self.parsed.answer,
            "thought": self.parsed.thought,
            "tool_calls": calls,
            "stop": self.stop,
            "tokens": {
                "prompt": self.stats.n_prompt,
                "kept": self.stats.n_reused,
                "media": n_media,
                "answer": self.n_tokens,
            },
            "times_ms": {
                "open": ms(opened),
                "encode": ms(encoded),
                "prompt": ms(self.prompt_time),
                "first_token": ms(self.first_token_time),
                "answer": ms(self.answer_time),
            },
        })
    }

    /// Returns both answers as one: counts and times of both, the first token of this one, and the
    /// end of the one that followed.
    pub(crate) fn followed_by(self, next: Self) -> Self {
        let mut parsed = next.parsed;
        parsed.thought.insert_str(0, &self.parsed.thought);
        let (before, after) = (self.stats, next.stats);
        Self {
            parsed,
            stats: Stats {
                n_prompt: before.n_prompt + after.n_prompt,
                n_reused: before.n_reused + after.n_reused,
            },
            n_tokens: self.n_tokens + next.n_tokens,
            stop: next.stop,
            prompt_time: self.prompt_time + next.prompt_time,
            first_token_time: self.first_token_time,
            answer_time: self.answer_time + next.answer_time,
        }
    }

    /// Says the times, for `-v`.
    pub(crate) fn log_times(&self) {
        let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
        let (n, kept) = (self.stats.n_prompt, self.stats.n_reused);
        let (ms, fed) = (self.prompt_time.as_secs_f64() * 1e3, rate(n - kept, self.prompt_time));
        log::info!("prompt: {n} tokens, {kept} kept, {ms:.0} ms, {fed:.1} tokens/s");
        let (n, ms) = (self.n_tokens, self.answer_time.as_secs_f64() * 1e3);
        let made = rate(n.saturating_sub(1), self.answer_time);
        let first = self.first_token_time.as_secs_f64() * 1e3;
        log::info!("answer: {n} tokens, {ms:.0} ms, {made:.1} tokens/s, first after {first:.0} ms");
    }
}

const INTERRUPTED: &str = "interrupted";
const MAX_TOKENS: &str = "max_tokens";

fn stop_name(stop: Stop) -> &'static str {
    match stop {
        Stop::Turn => "turn",
        Stop::Tool => "tool",
        Stop::Sequence => "sequence",
        Stop::Cut => "context",
    }
}

/// Answers a conversation and shows the answer as it is made.
///
/// # Errors
/// Whatever the session brings; `Cancelled` if Ctrl-C came before the answer began.
pub(crate) fn answer(
    session: &mut Session,
    conversation: &Conversation,
    media: &[Arc<Encoded>],
    n_max: usize,
    show: &mut dyn FnMut(&Event<'_>) -> Result<()>,
) -> Result<Outcome> {
    let _stoppable = Stoppable::new(session.cancel());
    let start = Instant::now();
    let stats = session.prompt(conversation, media)?;
    let prompt_time = start.elapsed();
    let mut parsed = Parsed::new();
    let mut shown = Ok(());
    let (mut n_tokens, mut stop) = (0, MAX_TOKENS);
    let mut first = None;
    while n_tokens < n_max && shown.is_ok() {
        let goes_on = session.next(&mut |event| {
            shown = std::mem::replace(&mut shown, Ok(())).and_then(|()| show(&event));
            parsed.add(event);
        });
        match goes_on {
            Err(e) if e.kind() == ErrorKind::Cancelled => {
                stop = INTERRUPTED;
                break;
            }
            goes_on => {
                n_tokens += 1;
                first.get_or_insert_with(Instant::now);
                if !goes_on? {
                    stop = stop_name(parsed.stop);
                    break;
                }
            }
        }
    }
    if matches!(stop, INTERRUPTED | MAX_TOKENS) {
        session.cut(&mut |event| {
            shown = std::mem::replace(&mut shown, Ok(())).and_then(|()| show(&event));
            parsed.add(event);
        });
    }
    shown?;
    let first = first.unwrap_or(start);
    if parsed.n_broken_calls > 0 {
        let n = parsed.n_broken_calls;
        log::warn!("{n} calls of tools could not be read and were left out");
    }
    Ok(Outcome {
        parsed,
        stats,
        n_tokens,
        stop,
        prompt_time,
        first_token_time: first.duration_since(start),
        answer_time: first.elapsed(),
    })
}

/// Writes an answer for people: thought on stderr, answer and calls on stdout.
#[derive(Default)]
pub(crate) struct Writer {
    is_in_line: bool,
    is_thinking: bool,
}

impl Writer {
    /// Writes one event.
    pub(crate) fn show(&mut self, event: &Event<'_>) -> Result<()> {
        match event {
            Event::Thought(text) => {
                if !self.is_thinking {
                    print::say("thinking:");
                }
                self.is_thinking = true;
                print::say_part(text);
                Ok(())
            }
            Event::Answer(text) => {
                self.end_thought();
                self.is_in_line = !text.ends_with('\n');
                print::result(text)
            }
            Event::ToolCall(call) => {
                self.end_thought();
                self.end_line()?;
                print::json(&call.to_json())
            }
            Event::BrokenCall => Ok(()),
            Event::End(_) => {
                self.end_thought();
                self.end_line()
            }
        }
    }

    fn end_thought(&mut self) {
        if std::mem::take(&mut self.is_thinking) {
            print::say("");
        }
    }

    fn end_line(&mut self) -> Result<()> {
        match std::mem::take(&mut self.is_in_line) {
            true => print::result("\n"),
            false => Ok(()),
        }
    }
}
