//! Events: what an answer brings, as views.
//!
//! In: events of the library. Out: `culet_event`s, one a call.
//! Invariant: a view's bytes stay until the next call on the session.

use std::collections::VecDeque;
use std::ffi::c_char;

use culet::text;
use culet::text::Stop;
use serde_json::Value;
use serde_json::json;

/// A token that completed nothing; call again.
pub const CULET_EVENT_NONE: i32 = 0;
/// More of the answer: whole code points.
pub const CULET_EVENT_ANSWER: i32 = 1;
/// More of what the model thinks before it answers; not meant for the user.
pub const CULET_EVENT_THOUGHT: i32 = 2;
/// A whole call of a tool, as a JSON object of "name" and "arguments".
pub const CULET_EVENT_TOOL_CALL: i32 = 3;
/// A call that could not be read and was left out.
pub const CULET_EVENT_BROKEN_CALL: i32 = 4;
/// The end of the answer; `stop` says why. Nothing follows.
pub const CULET_EVENT_END: i32 = 5;

/// The answer goes on.
pub const CULET_STOP_NONE: i32 = 0;
/// The model ended its turn.
pub const CULET_STOP_TURN: i32 = 1;
/// The model waits for the results of its calls: append them as messages of role "tool".
pub const CULET_STOP_TOOL: i32 = 2;
/// The model ended the sequence.
pub const CULET_STOP_SEQUENCE: i32 = 3;
/// It was cut: by culet_session_cut(), or because the context is full.
pub const CULET_STOP_CUT: i32 = 4;

/// One step of an answer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Event {
    /// One of CULET_EVENT_.
    pub kind: i32,
    /// One of CULET_STOP_; CULET_STOP_NONE but for CULET_EVENT_END.
    pub stop: i32,
    /// UTF-8, with a zero behind it; never NULL. Valid until the next call on the same session.
    pub data: *const c_char,
    /// Bytes, without the zero.
    pub len: usize,
}

struct Queued {
    kind: i32,
    stop: i32,
    /// With a zero behind it.
    text: String,
}

impl Queued {
    fn new(event: &text::Event<'_>) -> Self {
        let (kind, stop, text) = match event {
            text::Event::Answer(text) => (CULET_EVENT_ANSWER, CULET_STOP_NONE, (*text).to_owned()),
            text::Event::Thought(text) => {
                (CULET_EVENT_THOUGHT, CULET_STOP_NONE, (*text).to_owned())
            }
            text::Event::ToolCall(call) => {
                (CULET_EVENT_TOOL_CALL, CULET_STOP_NONE, call.to_json().to_string())
            }
            text::Event::BrokenCall => (CULET_EVENT_BROKEN_CALL, CULET_STOP_NONE, String::new()),
            text::Event::End(stop) => (CULET_EVENT_END, stop_of(*stop), String::new()),
        };
        Self { kind, stop, text: text + "\0" }
    }

    fn none() -> Self {
        Self { kind: CULET_EVENT_NONE, stop: CULET_STOP_NONE, text: "\0".to_owned() }
    }
}

fn stop_of(stop: Stop) -> i32 {
    match stop {
        Stop::Turn => CULET_STOP_TURN,
        Stop::Tool => CULET_STOP_TOOL,
        Stop::Sequence => CULET_STOP_SEQUENCE,
        Stop::Cut => CULET_STOP_CUT,
    }
}

/// Events that were made and not yet pulled: those of one token at most.
pub(crate) struct Events {
    waiting: VecDeque<Queued>,
    /// What the last view looks at.
    shown: Queued,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { waiting: VecDeque::new(), shown: Queued::none() }
    }

    pub(crate) fn add(&mut self, event: &text::Event<'_>) {
        self.waiting.push_back(Queued::new(event));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Returns the events that wait, for a snapshot.
    pub(crate) fn to_json(&self) -> Value {
        let event = |e: &Queued| json!([e.kind, e.stop, e.text[..e.text.len() - 1]]);
        self.waiting.iter().map(event).collect()
    }

    /// Returns what [`to_json`](Self::to_json) gave.
    pub(crate) fn from_json(value: &Value) -> culet::Result<Self> {
        let read = |event: &Value| {
            let number = |i: usize, most: i32| {
                let n = event[i].as_i64().and_then(|n| i32::try_from(n).ok());
                n.filter(|n| (0..=most).contains(n))
            };
            let kind = number(0, CULET_EVENT_END)?;
            let stop = number(1, CULET_STOP_CUT)?;
            Some(Queued { kind, stop, text: event[2].as_str()?.to_owned() + "\0" })
        };
        let waiting = value.as_array().and_then(|list| list.iter().map(read).collect());
        let waiting =
            waiting.ok_or_else(|| culet::Error::format("the snapshot's events are malformed"))?;
        Ok(Self { waiting, shown: Queued::none() })
    }

    /// Shows the oldest event, or that there is none.
    pub(crate) fn show(&mut self) -> Event {
        self.shown = self.waiting.pop_front().unwrap_or_else(Queued::none);
        let Queued { kind, stop, text } = &self.shown;
        Event { kind: *kind, stop: *stop, data: text.as_ptr().cast(), len: text.len() - 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_with_a_zero_behind() {
        let mut events = Events::new();
        events.add(&text::Event::Answer("hé"));
        events.add(&text::Event::End(Stop::Tool));
        let mut events = Events::from_json(&events.to_json()).expect("well-formed");
        assert!(Events::from_json(&json!([[9, 0, ""]])).is_err());
        let shown = events.show();
        assert_eq!((shown.kind, shown.stop, shown.len), (CULET_EVENT_ANSWER, CULET_STOP_NONE, 3));
        // SAFETY: `events` was not used since.
        let text = unsafe { std::ffi::CStr::from_ptr(shown.data) };
        assert_eq!(text.to_str(), Ok("hé"));
        let shown = events.show();
        assert_eq!((shown.kind, shown.stop, shown.len), (CULET_EVENT_END, CULET_STOP_TOOL, 0));
        assert!(!shown.data.is_null() && events.is_empty());
        assert_eq!(events.show().kind, CULET_EVENT_NONE);
    }
}
