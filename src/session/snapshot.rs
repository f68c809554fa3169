//! Snapshots: a timeline as bytes, to go on with it later or in another process.
//!
//! In: a session, its media, a note of the caller. Out: bytes, or a file; and back.
//! Bytes, little-endian: mark, version, fingerprints of model and mmproj, cache type and ring,
//! counts, what each position holds, logits, random numbers, answer, media, note, cache, checksum.
//! Invariant: a snapshot is checked as a whole before anything of the session changes.

use std::fs::File;
use std::io::BufReader;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::error::Result;
use crate::session::bytes::ByteSink;
use crate::session::bytes::Input;
use crate::session::bytes::Output;
use crate::session::bytes::malformed;
use crate::session::bytes::unreadable;
use crate::session::feed::Held;
use crate::session::media::Encoded;
use crate::session::timeline::Answer;
use crate::session::timeline::Session;
use crate::units::TokenId;
use crate::whole::Checksum;
use crate::whole::WholeFile;
use crate::whole::short_name;

const MARK: [u8; 8] = *b"CULETSNP";
const VERSION: u32 = 1;
const SUM_BYTES: u64 = 8;
/// Mark, version, two fingerprints, type and ring of the cache, two counts, checksum.
const SIZE_BYTES_MIN: u64 = 8 + 4 + 16 + 8 + 16 + SUM_BYTES;

/// What came with a timeline.
pub struct Restored {
    /// The conversation's media, in order.
    pub media: Vec<Arc<Encoded>>,
    /// What the caller noted: the conversation, for example.
    pub note: Vec<u8>,
}

/// A timeline that was read and checked, but for its cache, which comes next in the source.
struct Timeline {
    n_written: usize,
    held: Vec<Held>,
    logits: Vec<f32>,
    random: [u64; 4],
    answer: Option<Answer>,
    media: Vec<Encoded>,
    note: Vec<u8>,
}

impl Session {
    /// Writes the timeline down: [`restore`](Self::restore) goes on exactly where it was, also in
    /// the middle of an answer. `media` and `note` are kept with it and given back.
    ///
    /// A snapshot holds what was said, in the open; keep it as private as that.
    ///
    /// # Errors
    /// `Input` while a sound is being heard; whatever `sink` returns.
    pub fn snapshot(
        &self,
        media: &[Arc<Encoded>],
        note: &[u8],
        sink: &mut ByteSink<'_>,
    ) -> Result<()> {
        if self.live.is_some() {
            let what = "a sound is being heard, which no snapshot holds";
            return Err(Error::input(format!("{what}; end it first")));
        }
        let mut sink = |bytes: &[u8]| sink(bytes);
        let mut out = Output::new(&mut sink);
        let kv = self.executor.kv();
        out.put(&MARK)?;
        out.u32(VERSION)?;
        for fingerprint in self.engine.fingerprints() {
            out.u64(fingerprint)?;
        }
        out.u32(kv.dtype().id())?;
        out.u32(kv.n_ring() as u32)?;
        out.u64(kv.n_past() as u64)?;
        out.u64(kv.n_written() as u64)?;
        for held in &self.held {
            held.write(&mut out)?;
        }
        out.f32s(&self.logits)?;
        for word in self.sampler.state() {
            out.u64(word)?;
        }
        write_answer(self.answer.as_ref(), &mut out)?;
        out.u64(media.len() as u64)?;
        for encoded in media {
            encoded.write(&mut out)?;
        }
        out.u64(note.len() as u64)?;
        out.put(note)?;
        kv.save(&mut |bytes| out.put(bytes))?;
        out.finish()
    }

    /// Writes the timeline to a file that appears when it is complete; otherwise as
    /// [`snapshot`](Self::snapshot).
    ///
    /// # Errors
    /// As for [`snapshot`](Self::snapshot); `Io` naming the file.
    pub fn snapshot_to_file(&self, media: &[Arc<Encoded>], note: &[u8], path: &Path) -> Result<()> {
        let kv = self.executor.kv();
        let cache = kv.saved_bytes(kv.n_past(), kv.n_written());
        let soft: usize = media.iter().map(|e| e.size_bytes()).sum();
        let mut file = WholeFile::create(path, (cache + soft + note.len()) as u64)?;
        self.snapshot(media, note, &mut |bytes| file.put(bytes))?;
        file.finish()
    }

    /// Takes a timeline over from a snapshot, in place of this one. Sampling options stay as they
    /// are; random numbers go on where they were. `read` gets what came with it, and may still
    /// refuse.
    ///
    /// What follows is the same, bit for bit, on the same backend with as many threads.
    ///
    /// # Errors
    /// `Format` if it is no snapshot, damaged or cut short; `Unsupported` if its version is
    /// another; `Input` if it is of another model, mmproj, cache type or cache size; whatever
    /// `read` returns. The session is then as it was. `Io` if it cannot be read; if that shows only
    /// when the cache is half read, the session is empty.
    pub fn restore<T>(
        &mut self,
        source: &mut (impl Read + Seek),
        read: impl FnOnce(Restored) -> Result<T>,
    ) -> Result<T> {
        let mut source = BufReader::new(source);
        let n_bytes = verify(&mut source)?;
        source.rewind().map_err(unreadable)?;
        let mut input = Input::new(&mut source, n_bytes - SUM_BYTES);
        let timeline = self.read_timeline(&mut input)?;
        let media = timeline.media.into_iter().map(|encoded| match self.kept.find(encoded.key) {
            Some(found) => found,
            None => Arc::new(encoded),
        });
        let media: Vec<_> = media.collect();
        let taken = read(Restored { media: media.clone(), note: timeline.note })?;
        (self.live, self.answer) = (None, None);
        let (n_past, n_written) = (timeline.held.len(), timeline.n_written);
        let loaded = self.executor.kv_mut().load(n_past, n_written, &mut |bytes| input.fill(bytes));
        if let Err(e) = loaded {
            self.clear()?;
            return Err(e);
        }
        let seen = timeline.answer.as_ref().map_or(&[][..], |a| &a.ids);
        self.sampler.resume(timeline.random, seen)?;
        (self.held, self.logits) = (timeline.held, timeline.logits);
        self.answer = timeline.answer;
        for encoded in media {
            if self.kept.find(encoded.key).is_none() {
                self.kept.keep(encoded);
            }
        }
        Ok(taken)
    }

    /// Takes a timeline over from a file; otherwise as [`restore`](Self::restore).
    ///
    /// # Errors
    /// As for [`restore`](Self::restore), naming the file.
    pub fn restore_from_file<T>(
        &mut self,
        path: &Path,
        read: impl FnOnce(Restored) -> Result<T>,
    ) -> Result<T> {
        let name = short_name(path);
        let mut file = File::open(path).map_err(|e| {
            Error::io(format!("{name}: cannot be opened; check the path")).with_source(e)
        })?;
        self.restore(&mut file, read).map_err(|e| e.at(&name))
    }

    fn read_timeline(&self, input: &mut Input<'_>) -> Result<Timeline> {
        input.array::<8>()?;
        input.u32()?;
        self.check_identity([input.u64()?, input.u64()?])?;
        self.check_cache(input.u32()?, input.u32()?)?;
        let kv = self.executor.kv();
        let counts = [input.u64()?, input.u64()?];
        let [Ok(n_past), Ok(n_written)] = counts.map(usize::try_from) else {
            return Err(malformed("its counts are too large"));
        };
        if n_past > n_written {
            return Err(malformed("it holds more tokens than were written"));
        }
        if n_written > kv.n_ctx() {
            let (n, n_ctx) = (counts[1], kv.n_ctx());
            let what = format!("the snapshot was {n} tokens long, this session holds {n_ctx}");
            return Err(Error::input(format!("{what}; make it with a context of {n} or more")));
        }
        let n_vocab = self.engine.decoder().hparams().n_vocab;
        let held = (0..n_past).map(|_| Held::read(input, n_vocab)).collect::<Result<_>>()?;
        let logits = input.f32s()?;
        if !logits.is_empty() && logits.len() != n_vocab {
            return Err(malformed("its logits are not those of the vocabulary"));
        }
        let random = [input.u64()?, input.u64()?, input.u64()?, input.u64()?];
        if random == [0; 4] {
            return Err(malformed("its random numbers have no beginning"));
        }
        let answer = self.read_answer(input)?;
        let n_embd = self.engine.decoder().hparams().n_embd;
        let n_media = input.count(1)?;
        let media = (0..n_media).map(|_| Encoded::read(input, n_embd)).collect::<Result<_>>()?;
        let note = input.bytes()?;
        if input.n_left() != kv.saved_bytes(n_past, n_written) as u64 {
            return Err(malformed("its cache has another size than its counts tell"));
        }
        Ok(Timeline { n_written, held, logits, random, answer, media, note })
    }

    fn check_identity(&self, found: [u64; 2]) -> Result<()> {
        let own = self.engine.fingerprints();
        let names = ["model", "mmproj"];
        for ((name, found), own) in names.into_iter().zip(found).zip(own) {
            if found != own {
                return Err(Error::input(format!(
                    "the snapshot was made with another {name} file; open the one that made it"
                )));
            }
        }
        Ok(())
    }

    fn check_cache(&self, dtype: u32, n_ring: u32) -> Result<()> {
        let kv = self.executor.kv();
        if dtype != kv.dtype().id() {
            let what = "the snapshot's cache has another type than this session's";
            let own = kv.dtype();
            return Err(Error::input(format!("{what}, {own}; make both with the same")));
        }
        if n_ring as usize != kv.n_ring() {
            return Err(Error::input(format!(
                "the snapshot's sliding layers hold {n_ring} tokens, this session's {}; \
                 make both with the same batch and context",
                kv.n_ring()
            )));
        }
        Ok(())
    }

    /// Reads an answer; its parser reads its tokens again.
    fn read_answer(&self, input: &mut Input<'_>) -> Result<Option<Answer>> {
        let [is_there, opens_thought, is_pending] = input.array::<3>()?.map(|b| b != 0);
        let n = input.count(4)?;
        let mut answer = Answer::new(opens_thought);
        let tokenizer = self.engine.tokenizer();
        for _ in 0..n {
            let id = token(input.u32()?, tokenizer.n_vocab())?;
            if !answer.push(tokenizer, id, &mut |_| {}) {
                return Err(malformed("its answer has ended"));
            }
        }
        if is_pending && n == 0 {
            return Err(malformed("its answer waits for a token that is not there"));
        }
        answer.is_pending = is_pending;
        Ok(is_there.then_some(answer))
    }
}

/// Checks mark, version and checksum, and returns the size.
fn verify(source: &mut (impl Read + Seek)) -> Result<u64> {
    let n_bytes = source.seek(SeekFrom::End(0)).map_err(unreadable)?;
    source.rewind().map_err(unreadable)?;
    let mut input = Input::new(source, n_bytes);
    if n_bytes < SIZE_BYTES_MIN || input.array()? != MARK {
        return Err(Error::format("this is no snapshot of a session"));
    }
    let version = input.u32()?;
    if version != VERSION {
        return Err(Error::unsupported(format!(
            "the snapshot has version {version}, expected {VERSION}; make it again"
        )));
    }
    let mut sum = Checksum::new();
    sum.push(&MARK);
    sum.push(&VERSION.to_le_bytes());
    let mut piece = [0; 1 << 16];
    while input.n_left() > SUM_BYTES {
        let n = (input.n_left() - SUM_BYTES).min(piece.len() as u64) as usize;
        input.fill(&mut piece[..n])?;
        sum.push(&piece[..n]);
    }
    if input.u64()? != sum.value() {
        let what = format!("the snapshot of {n_bytes} bytes is damaged or cut short");
        return Err(Error::format(format!("{what}: its checksum does not fit; make it again")));
    }
    Ok(n_bytes)
}

fn write_answer(answer: Option<&Answer>, out: &mut Output<'_>) -> Result<()> {
    let none = Answer::new(false);
    let a = answer.unwrap_or(&none);
    out.put(&[answer.is_some(), a.opens_thought, a.is_pending].map(u8::from))?;
    out.u64(a.ids.len() as u64)?;
    a.ids.iter().try_for_each(|id| out.u32(id.0))
}

fn token(id: u32, n_vocab: usize) -> Result<TokenId> {
    match (id as usize) < n_vocab {
        true => Ok(TokenId(id)),
        false => Err(malformed("a token is not in the vocabulary")),
    }
}

impl Held {
    fn write(self, out: &mut Output<'_>) -> Result<()> {
        match self {
            Self::Token(id) => {
                out.put(&[0])?;
                out.u32(id.0)
            }
            Self::Soft { key, segment, row } => {
                out.put(&[1])?;
                out.u64(key)?;
                out.u32(segment)?;
                out.u32(row)
            }
        }
    }

    fn read(input: &mut Input<'_>, n_vocab: usize) -> Result<Self> {
        match input.array()? {
            [0] => Ok(Self::Token(token(input.u32()?, n_vocab)?)),
            [1] => Ok(Self::Soft { key: input.u64()?, segment: input.u32()?, row: input.u32()? }),
            _ => Err(malformed("a position holds nothing known")),
        }
    }
}
