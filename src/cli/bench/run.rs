//! The order of measurements.
//!
//! In: what `bench` is told. Out: the report.
//! Invariant: opening and memory come first, while nothing else is loaded.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use culet::Result;
use culet::engine::Engine;
use culet::ggml;
use culet::ggml::Backend;
use culet::model::memory;

use crate::cli::bench::Args;
use crate::cli::bench::machine::Machine;
use crate::cli::bench::media;
use crate::cli::bench::peer::Peer;
use crate::cli::bench::report;
use crate::cli::bench::report::Row;
use crate::cli::bench::speed;
use crate::cli::bench::speed::Subject;
use crate::cli::bench::speed::Wanted;
use crate::cli::bench::synthesize;
use crate::cli::bench::voice;
use crate::cli::model::fitting_mmproj;
use crate::cli::model::shipped_model;
use crate::cli::print;
use crate::cli::print::Progress;
use crate::cli::system;

/// Measures, or writes a file to measure.
pub(crate) fn run(args: Args) -> Result<()> {
    if let Some([what, path]) = args.synthesize.as_deref() {
        return synthesize::synthesize(what, Path::new(path));
    }
    let (subject, wanted) = (subject(&args)?, wanted(&args));
    let mut progress = Progress::new();
    let (engine, rows) = match &args.soak {
        Some(sound) => soak(&subject, sound, args.minutes, &mut progress)?,
        None if args.voice => speech(&subject, &args.seconds, &wanted, &mut progress)?,
        None => everything(&subject, &wanted, &mut progress)?,
    };
    progress.clear();
    let machine = machine(&engine, &wanted)?;
    if let Some(path) = &args.csv {
        report::write_csv(path, &machine, &rows)?;
    }
    match args.json {
        true => print::json(&report::document(&machine, &rows)),
        false => print::result(&report::table(&machine, &rows)),
    }
}

fn subject(args: &Args) -> Result<Subject> {
    let (model, mmproj): (PathBuf, Option<PathBuf>) = match &args.model {
        Some(model) => (model.clone(), args.mmproj.clone()),
        None => {
            let model = shipped_model()?;
            let mmproj = fitting_mmproj(&model)?.pop();
            (model, mmproj)
        }
    };
    let options = args.gpu.options(args.threads, None);
    // The peer is asked for on the processor only.
    let with_peer = args.peer && options.backend.gpu.is_none();
    if args.peer && !with_peer {
        print::say("with a GPU llama.cpp is not measured; give --peer without --gpu");
    }
    let peer = with_peer.then(|| args.peer_model.clone().unwrap_or_else(|| model.clone()));
    Ok(Subject { model, mmproj, options, peer })
}

fn wanted(args: &Args) -> Wanted {
    let n_threads = match args.threads {
        0 => ggml::default_threads(),
        n => n,
    };
    Wanted {
        n_threads,
        prefill: args.prefill.clone(),
        depths: args.depths.clone(),
        pictures: args.pictures.clone(),
        n_repeat: usize::from(args.repeat),
        n_batch: args.batch as usize,
        kv: args.kv.dtype(),
    }
}

type Measured = (Arc<Engine>, Vec<Row>);

fn open(subject: &Subject) -> Result<Arc<Engine>> {
    Engine::open(&subject.model, subject.mmproj.as_deref(), &subject.options)
}

fn open_peer(subject: &Subject) -> Result<Option<Peer>> {
    subject.peer.as_deref().map(Peer::open).transpose()
}

/// Measures a long conversation.
fn soak(
    subject: &Subject,
    sound: &Path,
    minutes: u16,
    progress: &mut Progress,
) -> Result<Measured> {
    let engine = open(subject)?;
    progress.set(&format!("listening for {minutes} minutes"));
    let rows = voice::soak(&engine, sound, minutes)?;
    Ok((engine, rows))
}

/// Measures sounds of so many seconds while they are said.
fn speech(
    subject: &Subject,
    seconds: &[u16],
    wanted: &Wanted,
    progress: &mut Progress,
) -> Result<Measured> {
    let (engine, peer) = (open(subject)?, open_peer(subject)?);
    progress.set("speech");
    let seconds: Vec<usize> = seconds.iter().map(|&n| usize::from(n)).collect();
    let mmproj = subject.mmproj.as_deref();
    let rows = voice::measure(&engine, mmproj, peer.as_ref(), &seconds, wanted)?;
    Ok((engine, rows))
}

/// Measures opening, memory, prompts, answers, pictures and sounds.
fn everything(subject: &Subject, wanted: &Wanted, progress: &mut Progress) -> Result<Measured> {
    progress.set("opening");
    let opening = speed::opening(subject, wanted)?;
    progress.set("snapshots");
    let snapshot = speed::snapshot(subject, wanted)?;
    let (engine, peer) = (open(subject)?, open_peer(subject)?);
    progress.set("prompts and answers");
    let mut rows = speed::tokens(&engine, peer.as_ref(), wanted)?;
    rows.extend(opening);
    rows.extend(snapshot);
    progress.set("pictures and sounds");
    if let Some(mmproj) = &subject.mmproj {
        rows.extend(media::measure(&engine, mmproj, peer.as_ref(), wanted)?);
    }
    Ok((engine, rows))
}

fn machine(engine: &Engine, wanted: &Wanted) -> Result<Machine> {
    let types = memory::types(engine.file().tensors());
    let types: Vec<String> = types.iter().map(|t| t.0.to_string()).collect();
    let backend = &engine.options().backend;
    let backend = match backend.gpu {
        Some(_) => Backend::new(backend)?.gpu_info().map(|gpu| gpu.name.clone()),
        None => None,
    };
    Ok(Machine {
        cpu: system::cpu(),
        n_threads: wanted.n_threads,
        n_batch: wanted.n_batch,
        kv: wanted.kv,
        model: format!("{}, {}, {}", engine.file().name(), engine.variant_name(), types.join(" ")),
        backend: backend.unwrap_or_else(|| "cpu".to_owned()),
    })
}
