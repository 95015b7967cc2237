//! edge-tune: one frozen, quantized backbone, memory-mapped; hundreds of tiny per-task deltas,
//! hot-swapped and trained on the device.

pub mod attach;
pub mod autodiff;
pub mod backbone;
pub mod data;
pub mod delta;
pub mod engine;
mod error;
mod fs;
pub mod graph;
pub mod methods;
pub mod runtime;
pub mod store;
pub mod tensor;
pub mod train;

pub use error::Error;
