//! Mutated metadata and shapes of whole model files: an answer or an error, never a panic.
//!
//! In: seeds. `SEED=n` repeats one of them.
//! Invariant: at least 10,000 mutants a run go through every reader of the model's folder.

use culet::gguf::Gguf;
use culet::gguf::TensorType;
use culet::gguf::Writer;
use culet::model::Clamp;
use culet::model::EncoderHParams;
use culet::model::HParams;
use culet::model::TensorNames;
use culet::model::Variant;
use culet::model::audio_tensors;
use culet::model::check;
use culet::model::memory;
use culet::model::resolve;
use culet::model::text_tensors;
use culet::model::vision_tensors;

use crate::both::random::given_seed;
use crate::random::Rng;
use crate::random::mutate;
use crate::random::seeds;
use crate::tiny;

const N_SEEDS: u64 = 24;
const N_MUTANTS_PER_SEED: u64 = 500;

/// Returns a single file with decoder and encoders, or an mmproj file.
fn sample(single: bool) -> Vec<u8> {
    let (h, v, a) = (tiny::text(), tiny::vision(), tiny::audio());
    let mut w = Writer::new();
    let names = if single { TensorNames::Ollama } else { TensorNames::Mmproj };
    if single {
        h.write(&mut w).unwrap();
        tiny::add_all(&mut w, &text_tensors(&h), |_| true);
        w.add_tensor("v.clamp_data", TensorType::F32, &[60]).unwrap();
    } else {
        w.add_tensor("v.blk.0.attn_q.input_min", TensorType::F32, &[1]).unwrap();
    }
    tiny::encoders((true, true), names).write(&mut w).unwrap();
    tiny::add_all(&mut w, &vision_tensors(&v), |_| true);
    tiny::add_all(&mut w, &audio_tensors(&a, names), |_| true);
    tiny::bytes(w, if single { "hostile-single" } else { "hostile-mmproj" })
}

/// Puts a telling number where a value of the metadata or a size of a shape lies.
fn poke(bytes: &mut [u8], places: &[usize], rng: &mut Rng) {
    const TELLING: [u32; 16] = [
        0,
        1,
        2,
        3,
        5,
        7,
        16,
        31,
        63,
        64,
        65,
        128,
        1 << 16,
        i32::MAX as u32,
        u32::MAX - 1,
        u32::MAX,
    ];
    let at = places[rng.below(places.len())];
    let v = match rng.below(3) {
        0 => f32::to_bits([0.0, -1.0, 1e-30, 1e30, f32::NAN, f32::INFINITY][rng.below(6)]),
        1 => {
            let old = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            old.wrapping_add(rng.below(5) as u32).wrapping_sub(2)
        }
        _ => TELLING[rng.below(TELLING.len())],
    };
    bytes[at..at + 4].copy_from_slice(&v.to_le_bytes());
}

/// Returns where the values of all keys but texts begin, and where the sizes of all shapes do.
fn places(file: &Gguf, bytes: &[u8]) -> [Vec<usize>; 2] {
    let find = |name: &str| {
        let head = (name.len() as u64).to_le_bytes();
        let needle = [&head, name.as_bytes()].concat();
        bytes.windows(needle.len()).position(|w| w == needle).unwrap() + needle.len()
    };
    let (mut places, mut sizes) = (Vec::new(), Vec::new());
    for (key, value) in file.metadata() {
        let at = find(key) + 4;
        match value.array() {
            Some(array) => {
                let size = array.kind().size_bytes().unwrap_or(4);
                places.extend((0..array.len()).map(|i| at + 12 + i * size));
            }
            None if value.text().is_none() => places.push(at),
            None => {}
        }
    }
    for info in file.tensors() {
        let at = find(&info.name) + 4;
        sizes.extend((0..info.shape.len()).map(|i| at + i * 8));
    }
    [places, sizes]
}

/// Lets every reader see the file and returns how many of them took it.
fn read_all(file: &Gguf) -> usize {
    let mut n_taken = 0;
    let text = HParams::read(file);
    if let Ok(h) = &text {
        let table = text_tensors(h);
        n_taken += 1 + usize::from(check(file, &table).is_ok());
        for info in resolve(file, &table).unwrap_or_default().values() {
            assert!(info.range().end <= file.mapping().bytes().len());
        }
        assert!(h.layers.iter().all(|l| h.layers[l.kv_source].owns_kv && l.n_q() % l.n_kv() == 0));
        assert!(h.default_rope_factors().len() * 2 >= h.n_rot_full);
        assert_eq!(Variant::name_of(h), "custom");
        for n_ctx in [0, 1, 4096, usize::MAX] {
            let shape = memory::KvShape { n_ctx, n_batch: n_ctx, dtype: TensorType::F16 };
            let kv = memory::kv_size(h, &shape).unwrap();
            assert!(kv.total_bytes() >= kv.full_bytes);
            n_taken += usize::from(memory::check_fit(h, &shape, 0, 1 << 20).is_ok());
        }
    }
    let width = text.as_ref().map_or(64, |h| h.n_embd);
    if let Ok(e) = EncoderHParams::read(file, width) {
        n_taken += 1;
        if let Some(v) = &e.vision {
            assert!(v.head_dim * v.n_head == v.n_embd && v.head_dim % 4 == 0);
            n_taken += usize::from(check(file, &vision_tensors(v)).is_ok());
        }
        if let Some(a) = &e.audio {
            assert!(a.head_dim * a.n_head == a.n_embd && a.n_flat() > 0);
            n_taken += usize::from(check(file, &audio_tensors(a, e.names)).is_ok());
        }
        n_taken += usize::from(Clamp::read(file, "v.blk.0.attn_q").is_ok());
    }
    let sum: u64 = memory::parts(file, text.as_ref().ok()).iter().map(|p| p.size_bytes).sum();
    assert!(sum <= file.mapping().bytes().len() as u64);
    n_taken
}

#[test]
fn mutated_models_are_read_or_refused() {
    let samples = [sample(true), sample(false)];
    let wholes = samples.each_ref().map(|bytes| tiny::open(bytes).unwrap());
    let places = [0, 1].map(|i| places(&wholes[i], &samples[i]));
    let best = wholes.each_ref().map(read_all);
    assert_eq!(best, [8, 4]);
    let (mut n_whole, mut n_part, mut n_refused) = (0, 0, 0);
    for seed in seeds(N_SEEDS) {
        println!("SEED={seed}");
        let mut rng = Rng(seed ^ 0x6d6f_6465);
        for i in 0..N_MUTANTS_PER_SEED {
            let which = (i % 2) as usize;
            let head_bytes = wholes[which].data_offset();
            let mut bytes = samples[which].clone();
            if rng.below(8) == 0 {
                let mut head = bytes[..head_bytes].to_vec();
                mutate(&mut head, &mut rng, 1);
                bytes.splice(..head_bytes, head);
            } else {
                for _ in 0..1 + rng.below(2) {
                    let kind = usize::from(rng.below(4) == 0);
                    poke(&mut bytes, &places[which][kind], &mut rng);
                }
            }
            match tiny::open(&bytes).map(|file| read_all(&file)) {
                Ok(n) if n >= best[which] => n_whole += 1,
                Ok(_) => n_part += 1,
                Err(_) => n_refused += 1,
            }
        }
    }
    println!("{n_whole} whole, {n_part} in part, {n_refused} refused");
    if given_seed().is_none() {
        assert!(n_whole + n_part + n_refused >= 10_000);
        assert!(n_whole > 500 && n_part > 4_000 && n_refused > 1_000);
    }
}
