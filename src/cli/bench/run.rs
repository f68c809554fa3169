//! The order of measurements.
//!
//! In: what `bench` is told. Out: the report.
//! Invariant: opening and memory come first, while nothing else is loaded.

use std::path::Path;

use culet::Result;
use culet::engine::Engine;
use culet::engine::EngineOptions;
use culet::ggml::BackendOptions;
use culet::model::memory;

use crate::cli::bench::Args;
use crate::cli::bench::machine;
use crate::cli::bench::machine::Machine;
use crate::cli::bench::machine::Memory;
use crate::cli::bench::media;
use crate::cli::bench::peer::Peer;
use crate::cli::bench::report;
use crate::cli::bench::speed;
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
    let (model, mmproj) = match &args.model {
        Some(model) => (model.clone(), args.mmproj.clone()),
        None => {
            let model = shipped_model()?;
            let mmproj = fitting_mmproj(&model)?.pop();
            (model, mmproj)
        }
    };
    let n_threads = match args.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let backend = BackendOptions { n_threads, gpu: None };
    let options = EngineOptions { backend, ..EngineOptions::default() };
    let (prefill, depths, pictures) = (args.prefill, args.depths, args.pictures);
    let n_repeat = usize::from(args.repeat);
    let wanted = Wanted { n_threads, prefill, depths, pictures, n_repeat };

    let mut progress = Progress::new();
    let mut rows = Vec::new();
    if !args.voice && args.soak.is_none() {
        progress.set("opening");
        rows.extend(speed::opening(&model, &options, args.peer, &wanted)?);
    }
    progress.set("memory bandwidth");
    let bandwidth = machine::bandwidth(n_threads);
    let engine = Engine::open(&model, mmproj.as_deref(), &options)?;
    let peer = args.peer.then(|| Peer::open(&model)).transpose()?;
    if let Some(sound) = &args.soak {
        progress.set(&format!("listening for {} minutes", args.minutes));
        rows.extend(voice::soak(&engine, sound, args.minutes)?);
    } else if args.voice {
        progress.set("speech");
        let seconds: Vec<usize> = args.seconds.iter().map(|&n| usize::from(n)).collect();
        rows.extend(voice::measure(&engine, mmproj.as_deref(), peer.as_ref(), &seconds, &wanted)?);
    } else {
        progress.set("prompts and answers");
        rows.splice(..0, speed::tokens(&engine, peer.as_ref(), &wanted, bandwidth)?);
        progress.set("pictures and sounds");
        if let Some(mmproj) = &mmproj {
            rows.extend(media::measure(&engine, mmproj, peer.as_ref(), &wanted)?);
        }
    }
    progress.clear();
    let h = engine.decoder().hparams();
    let types: Vec<String> =
        memory::types(engine.file().tensors()).iter().map(|t| t.0.to_string()).collect();
    let machine = Machine {
        cpu: system::cpu(),
        n_threads,
        model: format!("{}, {}, {}", engine.file().name(), engine.variant_name(), types.join(" ")),
        token_bytes: machine::token_bytes(engine.file(), h),
        bandwidth,
        rss_file_mib: Memory::now().map(|m| m.file_mib),
    };
    if let Some(path) = &args.csv {
        report::write_csv(path, &machine, &rows)?;
    }
    match args.json {
        true => print::json(&report::document(&machine, &rows)),
        false => print::result(&report::table(&machine, &rows)),
    }
}
