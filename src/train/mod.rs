//! Training a delta: optimizers, learning-rate schedules, the order of rows, and checkpoints.
//!
//! Everything that decides a run is in its plan and its seeds, so a run that was cut off at any
//! step goes on from its [`Checkpoint`] exactly as if it had not been.

mod calibrate;
mod checkpoint;
mod closed;
mod compare;
mod error;
mod evaluate;
mod graphs;
mod initial;
mod memory;
mod optimizer;
mod options;
mod plan;
mod runner;
mod runs;
mod sampler;
mod schedule;
mod start;
mod table;
mod task;
mod views;

pub use calibrate::calibrate;
pub use checkpoint::{Best, Checkpoint};
pub use compare::{Comparison, Terms, Trial};
pub use error::TrainError;
pub use evaluate::{ClassScore, Evaluation, evaluate, examples};
pub use graphs::loss;
pub use optimizer::{Moments, Optimizer, OptimizerState, ParamSpec, Rule, clip_global_norm};
pub use options::{
    Budget, Ended, Event, Example, Observer, OptimizerKind, Options, Report, Validation,
};
pub use runs::Runs;
pub use sampler::Sampler;
pub use schedule::{Schedule, Shape};
pub use table::{Spread, Summary, Table};
pub use task::Task;
