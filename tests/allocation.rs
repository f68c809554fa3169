//! A token of an answer allocates nothing.
//!
//! A binary of its own, because every allocation in it is counted and none is lazily zeroed.

use std::path::Path;

use culet::TokenId;
use culet::decoder::Entry;
use culet::decoder::Executor;
use culet::decoder::ExecutorOptions;
use culet::decoder::KvOptions;
use culet::engine::Engine;
use culet::engine::EngineOptions;
use culet::ggml::BackendOptions;
use culet::ggml::DType;

#[test]
fn a_token_allocates_nothing() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/culet-tiny-q4_0.gguf");
    // On one thread, which is the one that is counted.
    let backend = BackendOptions { n_threads: 1, gpu: None };
    let options = EngineOptions { backend: backend.clone(), ..EngineOptions::default() };
    let engine = Engine::open(&path, None, &options).unwrap();
    for dtype in [DType::F16, DType::Q8_0] {
        let kv = KvOptions { n_ctx: 256, n_batch: 64, dtype };
        let options = ExecutorOptions { backend: backend.clone(), kv };
        let mut run = Executor::new(engine.decoder(), &options).unwrap();
        let prompt: Vec<_> = (0..20).map(|i| Entry::Token(TokenId(300 + i))).collect();
        run.append(&prompt).unwrap();
        let mut step = || {
            let row = run.append_with_logits(&prompt[..1], 1).unwrap();
            assert!(row.iter().all(|v| v.is_finite()));
        };
        step();
        let counted = allocation_counter::measure(|| (0..8).for_each(|_| step()));
        assert_eq!(counted.count_total, 0, "{dtype}: {counted:?}");
    }
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![0_u8; 100])));
    assert_eq!(counted.count_total, 1, "allocations are counted");
}
