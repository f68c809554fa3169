//! Mutated GGUF headers and tensor tables: an answer or an error, never a panic or a hang.
//!
//! In: seeds. `SEED=n` repeats one of them.
//! Invariant: at least 10,000 mutants a run; each is opened, and if that succeeds, read through.

use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use culet::gguf::Gguf;
use culet::gguf::Items;
use culet::gguf::Mapping;
use culet::gguf::TensorType;
use culet::gguf::Value;
use culet::gguf::Writer;

use crate::both::random::given_seed;
use crate::random::Rng;
use crate::random::mutate;
use crate::random::seeds;

const N_SEEDS: u64 = 24;
const N_MUTANTS_PER_SEED: u64 = 500;
/// So long takes what does not end; a seed takes less than a second.
const TIME_PER_SEED_MAX: Duration = Duration::from_secs(240);

fn sample() -> Vec<u8> {
    let mut w = Writer::with_alignment(32).unwrap();
    w.set_str("general.architecture", "gemma4").unwrap();
    for (i, value) in [
        Value::U8(3),
        Value::I8(-3),
        Value::U16(300),
        Value::I16(-300),
        Value::U32(7),
        Value::I32(-7),
        Value::F32(1.5),
        Value::Bool(true),
        Value::U64(1 << 40),
        Value::I64(-1),
        Value::F64(0.25),
    ]
    .into_iter()
    .enumerate()
    {
        w.set(&format!("key.{i}"), value).unwrap();
    }
    w.set_items("layers", Items::U32(&[1, 2, 3, 4])).unwrap();
    w.set_items("scores", Items::F32(&[0.5; 9])).unwrap();
    w.set_items("pattern", Items::Bool(&[true, false, true])).unwrap();
    w.set_texts("tokens", (0..20).map(|i| "x".repeat(i))).unwrap();
    let types = [TensorType::F32, TensorType::Q4_0, TensorType::Q6K, TensorType::BF16];
    let mut sizes = Vec::new();
    for i in 0..12u64 {
        let (dtype, shape) = (types[i as usize % 4], [256, 1 + i % 3]);
        w.add_tensor(&format!("blk.{i}.weight"), dtype, &shape[..1 + i as usize % 2]).unwrap();
        sizes.push(dtype.tensor_bytes(&shape[..1 + i as usize % 2]).unwrap());
    }
    let path = temp("sample");
    let mut out = w.create(&path).unwrap();
    for n in sizes {
        out.append(&vec![7; n as usize]).unwrap();
    }
    out.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    bytes
}

fn temp(tag: &str) -> PathBuf {
    std::env::temp_dir().join(format!("culet-hostile-{}-{tag}.gguf", std::process::id()))
}

/// Reads everything of a file and returns how much there was.
fn read_through(file: &Gguf) -> usize {
    let mut n = 0;
    for (key, value) in file.metadata() {
        n += key.len();
        if let Some(array) = value.array() {
            n += array.texts().map_or(0, |t| t.map(<[u8]>::len).sum());
            n += array.numbers().map_or(0, |v| v.filter_map(|v| v.integer()).count());
        }
        n += usize::from(file.u32(key).is_ok()) + usize::from(file.f32(key).is_ok());
        n += usize::from(file.str(key).is_ok()) + usize::from(file.bool(key).is_ok());
        n += usize::from(file.u32_per_layer(key, 4).is_ok());
        n += usize::from(file.optional_i32s(key).is_ok());
    }
    for info in file.tensors() {
        let bytes = file.tensor_bytes(info);
        assert_eq!(bytes.len(), info.size_bytes);
        assert_eq!(info.dtype.tensor_bytes(&info.shape), Some(info.size_bytes as u64));
        assert!(info.shape.iter().all(|n| *n > 0) && info.row_bytes() > 0);
        n += usize::from(bytes.first() == Some(&7));
    }
    n
}

#[test]
fn mutated_directories_are_read_or_refused() {
    let sample = sample();
    let whole = Gguf::from_mapping(Mapping::from_bytes("sample", &sample).unwrap()).unwrap();
    let head_bytes = whole.data_offset();
    assert!(read_through(&whole) > 100);
    let (mut n_read, mut n_refused) = (0, 0);
    for seed in seeds(N_SEEDS) {
        println!("SEED={seed}");
        let start = Instant::now();
        let mut rng = Rng(seed);
        for _ in 0..N_MUTANTS_PER_SEED {
            // Only the directory is changed; the data behind it stays, so that many still open.
            let mut bytes = sample[..head_bytes].to_vec();
            let n = 1 + rng.below(4);
            mutate(&mut bytes, &mut rng, n);
            bytes.extend(&sample[head_bytes..]);
            match Gguf::from_mapping(Mapping::from_bytes("mutant", &bytes).unwrap()) {
                Ok(file) => {
                    n_read += 1;
                    read_through(&file);
                }
                Err(e) => {
                    n_refused += 1;
                    assert!(e.to_string().starts_with("mutant: "), "{e}");
                }
            }
        }
        assert!(start.elapsed() < TIME_PER_SEED_MAX, "seed {seed} took {:?}", start.elapsed());
    }
    println!("{n_read} read, {n_refused} refused");
    if given_seed().is_none() {
        assert!(n_read + n_refused >= 10_000 && n_read > 300 && n_refused > 5_000);
    }
}

#[test]
fn random_bytes_are_refused() {
    for seed in seeds(8) {
        println!("SEED={seed}");
        let mut rng = Rng(seed ^ 0xdead);
        for _ in 0..500 {
            let n = 1 + rng.below(400);
            let mut bytes: Vec<u8> = (0..n).map(|_| rng.next() as u8).collect();
            if n > 24 && rng.below(4) > 0 {
                bytes[..8].copy_from_slice(b"GGUF\x03\0\0\0");
                bytes[8..24].fill(0);
                bytes[8] = rng.below(3) as u8;
                bytes[16] = rng.below(3) as u8;
            }
            let file = Gguf::from_mapping(Mapping::from_bytes("noise", &bytes).unwrap());
            if let Ok(file) = file {
                assert!(file.tensors().is_empty() && file.metadata().len() == 0);
            }
        }
    }
}
