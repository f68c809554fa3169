//! One run of another program, read while it works.
//! In: a command. Out: its output, as a reader.
//! Invariant: a program that is silent for too long, or says too much, is ended; so is one that
//! nobody reads any more.

use std::io;
use std::io::Read;
use std::process::Child as Process;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::Error;
use crate::error::Result;

/// Longest that a program may work without saying anything.
const STALL: Duration = Duration::from_secs(30);
/// Bytes that are read at once, and how many such blocks may wait.
const BLOCK_BYTES: usize = 64 << 10;
const BLOCKS_MAX: usize = 8;
/// Most bytes of complaints that are kept.
const COMPLAINT_BYTES_MAX: u64 = 4 << 10;

/// A program at work; dropping it ends it.
pub(super) struct Child {
    process: Process,
    blocks: Receiver<io::Result<Vec<u8>>>,
    complaints: Option<JoinHandle<String>>,
    block: Vec<u8>,
    n_used: usize,
    n_left: u64,
    stall: Duration,
}

impl Child {
    /// Starts a program that may write at most `n_bytes_max` bytes.
    ///
    /// # Errors
    /// `Unsupported` if the program is not installed, `Io` if it cannot be started.
    pub(super) fn start(command: &mut Command, n_bytes_max: u64) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::unsupported(format!(
                "video needs the program {program}, which is not installed; install ffmpeg"
            )),
            _ => Error::io(format!("{program} cannot be started")).with_source(e),
        })?;
        let (sender, blocks) = mpsc::sync_channel(BLOCKS_MAX);
        let no_thread =
            |e| Error::io(format!("{program}: no thread can be started")).with_source(e);
        let stdout = process.stdout.take();
        let read = move || stdout.into_iter().for_each(|pipe| pass_on(pipe, &sender));
        thread::Builder::new().name("video".to_owned()).spawn(read).map_err(no_thread)?;
        let stderr = process.stderr.take();
        let read = move || stderr.map_or_else(String::new, first_words);
        let complaints = thread::Builder::new().name("video".to_owned()).spawn(read);
        let complaints = Some(complaints.map_err(no_thread)?);
        let (block, n_used, n_left, stall) = (Vec::new(), 0, n_bytes_max, STALL);
        Ok(Self { process, blocks, complaints, block, n_used, n_left, stall })
    }

    /// Ends the program and returns what it complained about, in one line.
    pub(super) fn end(&mut self) -> io::Error {
        self.kill();
        let complaints = self.complaints.take().and_then(|thread| thread.join().ok());
        let complaints = complaints.unwrap_or_default();
        let last = complaints.lines().map(str::trim).rfind(|line| !line.is_empty());
        io::Error::other(last.unwrap_or("it says nothing").to_owned())
    }

    fn kill(&mut self) {
        // One that has ended already needs no ending.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    #[cfg(test)]
    fn with_stall(mut self, stall: Duration) -> Self {
        self.stall = stall;
        self
    }
}

/// Passes a pipe on, block by block, until it ends or nobody takes them.
fn pass_on(mut pipe: impl Read, sender: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut block = vec![0; BLOCK_BYTES];
        let read = match pipe.read(&mut block) {
            Ok(0) => return,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read,
        };
        let is_over = read.is_err();
        let block = read.map(|n| {
            block.truncate(n);
            block
        });
        if sender.send(block).is_err() || is_over {
            return;
        }
    }
}

/// Reads a pipe to its end and returns how it begins.
fn first_words(mut pipe: impl Read) -> String {
    let mut words = Vec::new();
    // What cannot be read is not needed either.
    let _ = (&mut pipe).take(COMPLAINT_BYTES_MAX).read_to_end(&mut words);
    let _ = io::copy(&mut pipe, &mut io::sink());
    String::from_utf8_lossy(&words).into_owned()
}

impl Read for Child {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.n_used == self.block.len() {
            self.block = match self.blocks.recv_timeout(self.stall) {
                Ok(block) => block?,
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                Err(RecvTimeoutError::Timeout) => {
                    self.kill();
                    let seconds = self.stall.as_secs();
                    let text = format!("it has done nothing for {seconds} s and was ended");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
            };
            self.n_used = 0;
            let n = self.block.len() as u64;
            if n > self.n_left {
                self.kill();
                return Err(io::Error::other("it writes more than it should and was ended"));
            }
            self.n_left -= n;
        }
        let n = bytes.len().min(self.block.len() - self.n_used);
        bytes[..n].copy_from_slice(&self.block[self.n_used..self.n_used + n]);
        self.n_used += n;
        Ok(n)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_missing_program_is_named() {
        let e = Child::start(&mut Command::new("no-such-program"), 1).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(e.to_string().contains("no-such-program") && e.to_string().contains("install"));
    }

    #[cfg(unix)]
    #[test]
    fn output_is_bounded_and_may_not_stall() {
        let shell = |words: &str, n_bytes_max| {
            let mut command = Command::new("sh");
            Child::start(command.args(["-c", words]), n_bytes_max).unwrap()
        };
        let mut text = String::new();
        let mut child = shell("echo one; echo two; echo why >&2", 8);
        child.read_to_string(&mut text).unwrap();
        assert_eq!((&*text, &*child.end().to_string()), ("one\ntwo\n", "why"));
        let mut endless = shell("while :; do echo word; done", 100_000);
        assert!(endless.read_to_end(&mut Vec::new()).is_err());
        let mut silent = shell("exec sleep 1000", 8).with_stall(Duration::from_millis(50));
        let e = silent.read(&mut [0]).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::TimedOut);
    }
}
