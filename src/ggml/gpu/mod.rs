//! GPUs: which there are, which weights they can take, and whether they compute rightly.
//!
//! In: ggml's registry, a name. Out: [`DeviceInfo`], a device for the backend, verdicts.
//! What a GPU computes are ggml's own operations; kernels of ours run on the processor alone.

mod check;
mod choice;
mod fit;
mod ops;
mod weights;

pub use check::GpuSample;
pub use check::HeadShape;
pub use check::check_gpu;
pub use check::relative_error;
pub use choice::DeviceInfo;
pub use choice::devices;
pub(super) use choice::start;
pub(super) use weights::GpuPlaces;
pub(super) use weights::allocate;
pub(super) use weights::place;
