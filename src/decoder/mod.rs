//! The decoder: soft and text tokens -> logits.
//!
//! In: [`Entry`] values (token ids or soft-token rows) at consecutive positions.
//! Out: logits for the last rows asked for, and a grown [`KvCache`].
//! Joint: [`Decoder`] (weights, shared) and [`Executor`] (cache, plans and threads of one
//! timeline).
//!
//! **Invariant:** positions whose logits nobody asked for run only the layers that produce keys
//! and values; of the last such layer only its keys and values.

mod attention;
mod embed;
mod executor;
mod graph;
mod kv;
mod placement;
mod rope;
mod shared;
mod weights;

pub use embed::Entry;
pub use executor::Executor;
pub use executor::ExecutorOptions;
pub use executor::Operations;
pub use kv::KvCache;
pub use kv::KvOptions;
pub use placement::GpuShare;
pub use placement::gpu_sample;
pub use placement::head_shapes;
pub use shared::Decoder;
pub use weights::DecoderWeights;
pub use weights::KvWeights;
pub use weights::LayerWeights;
pub use weights::PerLayerTables;
pub use weights::PerLayerWeights;
