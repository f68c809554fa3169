//! Snapshots: what goes on from one equals what never stopped; no bytes bring a session down.
//!
//! `SEED=n` repeats one seed of those that damage them.

use culet::ErrorKind;
use culet::ggml::DType;
use culet::sampler::SamplingOptions;
use culet::session::SessionOptions;

use crate::both::scene::RATE_HZ;
use crate::both::scene::Run;
use crate::both::scene::Scene;
use crate::both::scene::picture;
use crate::both::scene::sound;
use crate::both::side::BLIND;
use crate::both::side::RANDOM;
use crate::both::side::Side;
use crate::both::side::TINY;
use crate::random::Rng;
use crate::random::mutate;
use crate::random::seeds;

const N_SEEDS: u64 = 4;
const N_MUTANTS_PER_SEED: u64 = 100;

/// Returns options whose answers depend on random numbers and on what was said.
fn options() -> SessionOptions {
    let sampling = SamplingOptions {
        seed: 7,
        repetition_penalty: 1.1,
        frequency_penalty: 0.1,
        ..SamplingOptions::default()
    };
    SessionOptions { n_ctx: 512, n_batch: 64, kv: DType::F16, sampling }
}

/// Shows a picture and asks what it is.
fn ask<S: Side>(run: &mut Run<S>) {
    run.show(&picture(96, 0));
    run.say("What is this?");
    run.prompt();
}

/// Returns all events up to the end, and the logits behind them.
fn rest<S: Side>(run: &mut Run<S>) -> (String, culet::text::Stop, Vec<f32>) {
    let (said, stop) = run.answer(12);
    (said, stop, run.logits())
}

pub(crate) fn a_restored_session_goes_on_as_the_one_that_never_left<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    for kv in [DType::F32, DType::F16, DType::Q8_0] {
        let options = SessionOptions { kv, ..options() };
        let mut stayed = scene.session(&engine, &options);
        ask(&mut stayed);
        (0..2).for_each(|_| drop(stayed.next()));
        let bytes = stayed.snapshot();
        let n = (stayed.n_past(), stayed.n_messages());
        let expected = rest(&mut stayed);
        let mut other = scene.session(&engine, &options);
        other.say("hi");
        other.prompt();
        other.answer(30);
        for mut back in [scene.session(&engine, &options), other] {
            back.restore(&bytes);
            assert_eq!((back.n_past(), back.n_messages()), n);
            assert!(rest(&mut back) == expected, "{kv}");
            // The restored picture is known again, and with it the whole prompt.
            back.rewind(0);
            back.show(&picture(96, 0));
            back.say("What is this?");
            let stats = back.prompt();
            assert_eq!(stats.n_reused + 1, stats.n_prompt);
        }
    }
}

pub(crate) fn what_was_appended_comes_along<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let [mut stayed, mut back] = [(); 2].map(|()| scene.session(&engine, &options()));
    ask(&mut stayed);
    stayed.answer(6);
    stayed.show(&picture(48, 5));
    stayed.say("And this?");
    let bytes = stayed.snapshot();
    back.restore(&bytes);
    assert_eq!(back.n_messages(), stayed.n_messages());
    assert_eq!(back.prompt(), stayed.prompt());
    assert!(rest(&mut back) == rest(&mut stayed));
    stayed.begin_sound();
    stayed.refuses((ErrorKind::Input, "sound"), |s| s.snapshot());
    stayed.drop_sound();
    stayed.snapshot();
}

pub(crate) fn a_sound_that_was_heard_is_restored_with_its_turn<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let [mut stayed, mut back] = [(); 2].map(|()| scene.session(&engine, &options()));
    for (run, seed) in [(&mut stayed, 1), (&mut back, 2)] {
        run.begin_sound();
        run.hear(&sound(RATE_HZ, seed));
        run.guess_end();
        run.end_sound();
    }
    // Another sound, heard first in the other session, must not be taken for this one.
    let bytes = stayed.snapshot();
    back.restore(&bytes);
    assert!(back.logits() == stayed.logits());
    assert!(rest(&mut back) == rest(&mut stayed));
    let kept = [&mut stayed, &mut back].map(|run| run.begin_sound());
    assert!(kept[0] == kept[1] && kept[0].n_reused > 25, "{kept:?}");
}

pub(crate) fn a_snapshot_of_something_else_is_refused_by_name<S: Side>(scene: &Scene<S>) {
    let [engine, blind, other] = [TINY, BLIND, RANDOM].map(|files| scene.open(files));
    let made = |engine: &S::Engine, change: &dyn Fn(&mut SessionOptions)| {
        let mut options = options();
        change(&mut options);
        scene.session(engine, &options)
    };
    let mut run = made(&engine, &|_| {});
    run.say("hello");
    run.prompt();
    let bytes = run.snapshot();
    let changed = |at: usize, to: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = to;
        bytes
    };
    let middle = bytes.len() / 2;
    let (newer, foreign) = (changed(8, 9), changed(0, b'X'));
    let (damaged, cut) = (changed(middle, bytes[middle] ^ 4), &bytes[..bytes.len() - 1]);
    let (format, input) = (ErrorKind::Format, ErrorKind::Input);
    let mut cases = [
        (made(&engine, &|o| o.kv = DType::F32), &bytes[..], input, "type"),
        (made(&engine, &|o| (o.n_ctx, o.n_batch) = (2048, 512)), &bytes[..], input, "batch"),
        (made(&blind, &|_| {}), &bytes[..], input, "mmproj"),
        (made(&other, &|_| {}), &bytes[..], input, "model"),
        (made(&engine, &|_| {}), &newer[..], ErrorKind::Unsupported, "version 9"),
        (made(&engine, &|_| {}), &foreign[..], format, "no snapshot"),
        (made(&engine, &|_| {}), &damaged[..], format, "checksum"),
        (made(&engine, &|_| {}), cut, format, "cut"),
        (made(&engine, &|_| {}), &bytes[..0], format, "no snapshot"),
    ];
    for (run, bytes, kind, word) in &mut cases {
        run.refuses((*kind, *word), |s| s.restore(bytes));
        assert_eq!(run.n_past(), 0);
    }
    // A shorter context of the same ring takes what fits.
    let mut short = made(&engine, &|o| o.n_ctx = 500);
    short.restore(&bytes);
    assert!(short.logits() == run.logits() && short.n_past() == run.n_past());
}

/// FNV-1a, as the bytes say it.
fn sum(bytes: &[u8]) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    sum
}

pub(crate) fn damaged_and_hostile_snapshots_change_nothing_and_break_nothing<S: Side>(
    scene: &Scene<S>,
) {
    let engine = scene.open(TINY);
    let mut run = scene.session(&engine, &options());
    ask(&mut run);
    (0..2).for_each(|_| drop(run.next()));
    let whole = run.snapshot();
    let (logits, n_past) = (run.logits(), run.n_past());
    let mut rng = Rng(1);
    for n in (0..64).chain((0..200).map(|_| rng.below(whole.len()))) {
        assert!(!run.tries(&whole[..n]), "{n} bytes");
    }
    let head = whole.len().min(8_000);
    let mut n_taken = 0;
    for seed in seeds(N_SEEDS) {
        let mut rng = Rng(seed);
        for case in 0..N_MUTANTS_PER_SEED {
            // Places behind the cache's start are only numbers; those before it steer.
            let mut mutant = whole[..head].to_vec();
            mutate(&mut mutant, &mut rng, 1 + case as usize % 3);
            mutant.extend_from_slice(&whole[head..]);
            let is_same = mutant == whole;
            assert_eq!(run.tries(&mutant), is_same, "seed {seed}, case {case}");
            // The same with a checksum that fits reaches everything behind it.
            let end = mutant.len() - 8;
            let fixed = sum(&mutant[..end]).to_le_bytes();
            mutant[end..].copy_from_slice(&fixed);
            if !run.tries(&mutant) {
                assert!(run.logits() == logits && run.n_past() == n_past, "{seed}, {case}");
                continue;
            }
            n_taken += 1;
            run.goes_on_or_refuses();
            run.restore(&whole);
        }
    }
    assert!(n_taken > 20, "{n_taken} mutants were taken");
    let mut fresh = scene.session(&engine, &options());
    fresh.restore(&whole);
    assert!(rest(&mut run) == rest(&mut fresh));
}
