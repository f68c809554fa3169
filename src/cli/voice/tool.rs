//! Tools that are commands: arguments as JSON on stdin, the result from stdout.
//! In: `--tool NAME=COMMAND`, a call. Out: what the model is told.
//! Invariant: no shell is between; a command that takes too long is killed and the model told so.

use std::io::Read;
use std::io::Write;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::Duration;
use std::time::Instant;

use culet::text::Content;
use culet::text::ToolCall;
use serde_json::Value;
use serde_json::json;

/// Most bytes of a result.
const RESULT_BYTES_MAX: u64 = 64 << 10;
const WAIT_STEP: Duration = Duration::from_millis(5);

/// A command that carries out calls of one tool.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ToolCommand {
    name: String,
    words: Vec<String>,
}

/// Reads `NAME=COMMAND WORD...`; a word with blanks stands in double quotes.
pub(super) fn parse(text: &str) -> Result<ToolCommand, String> {
    let expected = "expected NAME=COMMAND, such as get_time=./time.sh";
    let (name, command) = text.split_once('=').ok_or(expected)?;
    let words = words(command).ok_or("a double quote is not closed")?;
    if name.trim().is_empty() || words.is_empty() {
        return Err(expected.to_owned());
    }
    Ok(ToolCommand { name: name.trim().to_owned(), words })
}

fn words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), None::<String>, false);
    for c in text.chars() {
        match c {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !is_quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    (!is_quoted).then_some(words)
}

/// Finds the command for a call.
pub(super) fn find<'a>(tools: &'a [ToolCommand], call: &ToolCall) -> Option<&'a ToolCommand> {
    tools.iter().find(|tool| tool.name == call.name)
}

impl ToolCommand {
    /// Carries out a call; whatever goes wrong is a result that says so.
    pub(super) fn run(&self, call: &ToolCall, limit: Duration) -> Content {
        match self.result(call, limit) {
            Ok(text) => match serde_json::from_str(text.trim()) {
                Ok(value @ Value::Object(_)) => Content::Value(value),
                _ => Content::Text(text.trim().to_owned()),
            },
            Err(what) => {
                log::warn!("tool {}: {what}", self.name);
                Content::Value(json!({ "error": what }))
            }
        }
    }

    fn result(&self, call: &ToolCall, limit: Duration) -> Result<String, String> {
        let start = Instant::now();
        let mut child = Command::new(&self.words[0])
            .args(&self.words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|e| format!("cannot be started: {e}"))?;
        let arguments = Value::Object(call.arguments.clone()).to_string();
        let stdin = child.stdin.take();
        // A command may answer without reading; then nobody takes the arguments.
        std::thread::spawn(move || stdin.map(|mut s| s.write_all(arguments.as_bytes())));
        let stdout = child.stdout.take();
        let (sender, result) = channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = stdout.map(|s| s.take(RESULT_BYTES_MAX).read_to_end(&mut bytes));
            let _ = sender.send(read.is_some_and(|r| r.is_ok()).then_some(bytes));
        });
        let is_done = wait(&mut child, limit)?;
        if !is_done {
            return Err(format!("took longer than {} s and was stopped", limit.as_secs()));
        }
        // What the command has started may keep its output open for ever.
        let bytes = result.recv_timeout(limit.saturating_sub(start.elapsed())).map_err(|_| {
            format!("left something running that held its output for {} s", limit.as_secs())
        })?;
        let bytes = bytes.ok_or("its result cannot be read")?;
        String::from_utf8(bytes).map_err(|_| "its result is not UTF-8".to_owned())
    }
}

/// Waits for a command to succeed; `false` if it was killed because it took too long.
fn wait(child: &mut Child, limit: Duration) -> Result<bool, String> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(true),
            Ok(Some(status)) => return Err(format!("failed with {status}")),
            Ok(None) if start.elapsed() < limit => std::thread::sleep(WAIT_STEP),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Ok(false);
            }
            Err(e) => return Err(format!("cannot be waited for: {e}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> ToolCall {
        let arguments = json!({ "city": "Oslo; rm" }).as_object().cloned().unwrap_or_default();
        ToolCall { id: None, name: "t".to_owned(), arguments }
    }

    #[test]
    fn commands_are_words_without_a_shell() {
        let cases = [
            ("a=b", Some(vec!["b"])),
            ("a = b  c ", Some(vec!["b", "c"])),
            ("a=b \"c  d\" \"\"", Some(vec!["b", "c  d", ""])),
            ("a=b $HOME;x", Some(vec!["b", "$HOME;x"])),
            ("a=b \"c", None),
            ("a", None),
            ("=b", None),
            ("a= ", None),
        ];
        for (text, words) in cases {
            let found = parse(text).ok().map(|tool| tool.words);
            assert_eq!(found, words.map(|w| w.iter().map(|w| w.to_string()).collect()), "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn results_and_failures_are_told() {
        let second = Duration::from_secs(1);
        let run = |text: &str, limit| parse(text).expect("well-formed").run(&call(), limit);
        let cases = [
            ("t=cat", Content::Value(json!({ "city": "Oslo; rm" }))),
            ("t=echo  \"it is  12\"", Content::Text("it is  12".to_owned())),
            ("t=false", Content::Value(json!({ "error": "failed with exit status: 1" }))),
        ];
        for (text, expected) in cases {
            assert!(run(text, 10 * second) == expected, "{text}");
        }
        let slow = run("t=sleep 20", second / 10);
        assert!(
            matches!(slow, Content::Value(v) if v["error"].as_str().unwrap().contains("longer"))
        );
        let left = run("t=sh -c \"echo 1; sleep 20 &\"", second / 5);
        assert!(
            matches!(left, Content::Value(v) if v["error"].as_str().unwrap().contains("running"))
        );
        let missing = run("t=./no/such/command", second);
        assert!(
            matches!(missing, Content::Value(v) if v["error"].as_str().unwrap().contains("start"))
        );
    }
}
