//! A loaded backbone with hot-swapped tasks.

mod budget;
mod error;
mod follow;
mod inputs;
mod media;
mod model;
mod program;
mod task;
mod trunk;

pub use budget::Budget;
pub use error::RuntimeError;
pub use follow::{Change, Follower, Following};
pub use inputs::{InputLimit, Inputs, Sample, encode_batch};
pub use model::{Model, Prediction, best, tolerance};
pub use program::{Compiled, Slot, TensorForm, build};
pub use task::{Task, expected_tensors, plan_of};
