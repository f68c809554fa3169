//! Safe, checked wrappers over the ggml kernels: the only foreign code in Culet.
//!
//! In: shapes, mapped weights and inputs. Out: computed arrays.
//! Joints: [`Weight`], [`GraphBuilder`], [`Plan`], [`Backend`].
//!
//! Policy for unsafe code: ggml aborts the process on a failed assertion, so every method here
//! checks shapes and types first and returns an `Error`. No raw pointer leaves this folder.
//! Handles are owned (`Drop`) or borrow their owner (`Tensor<'g>`).
//!
//! **Invariant:** a graph can only be made through [`GraphBuilder`], so no unchecked number
//! reaches a kernel.
#![allow(unsafe_code)]

mod backend;
mod buffer;
mod compute;
mod custom;
mod gpu;
mod graph;
mod module;
mod repack;
mod state;
mod survey;
mod tensor;

pub use backend::Backend;
pub use backend::BackendOptions;
pub use backend::Cancel;
pub use backend::THREADS_MAX;
pub use backend::ThreadLimit;
pub use backend::default_threads;
pub use buffer::Owner;
pub use buffer::Placement;
pub use buffer::Weight;
pub use buffer::WeightSpec;
pub use buffer::map_weights;
pub use compute::Plan;
pub use compute::Port;
pub use custom::Call;
pub use custom::Split;
pub use custom::ask_early_for;
pub use custom::ask_for;
pub use custom::attention_bytes;
pub use gpu::DeviceInfo;
pub use gpu::GpuSample;
pub use gpu::HeadShape;
pub use gpu::check_gpu;
pub use gpu::devices;
pub use gpu::relative_error;
pub use graph::GraphBuilder;
pub use graph::NODES_MAX;
pub use graph::Rope;
pub use repack::PACK_ROWS;
pub use repack::layout_fingerprint;
pub use repack::pack_rows;
pub use repack::packs;
pub use state::State;
pub use state::StateSpec;
pub use state::StateStore;
pub use survey::Kernel;
pub use survey::features;
pub use survey::kernel;
pub use tensor::DType;
pub use tensor::Shape;
pub use tensor::Tensor;
pub use tensor::dequantize;
pub use tensor::dequantize_into;
pub use tensor::quantize;
