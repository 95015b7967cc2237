//! Why a calibration could not start or go on.

use std::io;
use std::path::PathBuf;

/// Calibration could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A hyper-parameter is out of range.
    #[error("{name} is {value}: {want}")]
    Setting {
        /// The hyper-parameter.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What is accepted.
        want: &'static str,
    },
    /// Something else than pictures cannot be augmented.
    #[error(
        "augmentation changes pictures, and the backbone `{backbone}` does not read any; leave it out"
    )]
    NoPictures {
        /// The backbone's name.
        backbone: String,
    },
    /// There are no rows to train on, or batches of none.
    #[error("nothing to train on: {rows} rows in batches of {batch_size}")]
    NoBatches {
        /// Rows.
        rows: usize,
        /// Rows of a batch.
        batch_size: usize,
    },
    /// A position that the sampler cannot be at.
    #[error(
        "an epoch has {rows} rows in batches of {batch_size}; a run cannot go on at row {position}"
    )]
    Position {
        /// Rows of an epoch.
        rows: usize,
        /// Rows of a batch.
        batch_size: usize,
        /// The position asked for.
        position: usize,
    },
    /// Parameters, gradients and optimizer do not have the same tensors.
    #[error("the optimizer was made for {want} tensors and was given {have}")]
    TensorCount {
        /// Tensors given.
        have: usize,
        /// Tensors of the optimizer.
        want: usize,
    },
    /// A tensor has another size than the optimizer was made for.
    #[error("{what} of tensor {tensor:?}: {have} elements, the optimizer expects {want}")]
    TensorSize {
        /// `parameter`, `gradient` or `moment`.
        what: &'static str,
        /// Name of the tensor.
        tensor: String,
        /// Elements given.
        have: usize,
        /// Elements expected.
        want: usize,
    },
    /// A restored optimizer state lacks a tensor or has one too many.
    #[error("the optimizer state {problem} tensor {tensor:?}")]
    StateTensor {
        /// Name of the tensor.
        tensor: String,
        /// `lacks` or `has an unknown`.
        problem: &'static str,
    },
    /// A checkpoint could not be read or written.
    #[error("cannot {action} checkpoint {path}: {source}", path = .path.display())]
    CheckpointIo {
        /// `read`, `write` or `remove`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not a checkpoint of this version, or it is damaged.
    #[error("{path} is not a usable checkpoint: {reason}; remove it to start over", path = .path.display())]
    BadCheckpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The checkpoint belongs to a run with other settings or other data.
    #[error("checkpoint {path} belongs to another run: {differences}; repeat that run's settings, or remove the file to start over", path = .path.display(), differences = .differences.join(", "))]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// One `setting: OLD there, NEW now` per difference.
        differences: Vec<String>,
    },
    /// The list of finished runs could not be read or written.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    RunsIo {
        /// `read`, `write` or `lock`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A line of the list of finished runs is damaged; the last one may be torn, no other.
    #[error("{path} line {line} is not a finished run: {reason}; remove the line to repeat its run", path = .path.display())]
    BadRuns {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The finished runs are those of another comparison.
    #[error("{path} holds runs made with other options: {differences}; repeat those options, or choose another directory", path = .path.display(), differences = .differences.join(", "))]
    OtherComparison {
        /// The file.
        path: PathBuf,
        /// One `option: OLD there, NEW now` per difference.
        differences: Vec<String>,
    },
    /// Training cannot go on from this delta.
    #[error("cannot go on from {delta}: {reason}; calibrate anew instead")]
    Parent {
        /// The delta.
        delta: String,
        /// Why not.
        reason: String,
    },
    /// The run does not fit into the memory it may take.
    #[error("the run needs at least {least} bytes of memory, {max} are allowed; raise --max-ram to {}M, or choose a smaller method", .least.div_ceil(1 << 20))]
    Memory {
        /// What is allowed.
        max: usize,
        /// The least that would do.
        least: usize,
    },
    /// An example's class number is not one of the labels.
    #[error("class number {label} with {classes} labels")]
    Label {
        /// The number.
        label: usize,
        /// Labels.
        classes: usize,
    },
    /// The loss is not a number any more.
    #[error(
        "the loss is not finite after {step} steps; lower the learning rate (it peaks at {learning_rate})"
    )]
    Diverged {
        /// Steps taken.
        step: u64,
        /// The peak learning rate.
        learning_rate: f32,
    },
    /// The observer stopped the run.
    #[error("interrupted after {step} steps{}", .checkpoint.as_ref().map(|p| format!("; run the same command again to go on from {}", p.display())).unwrap_or_default())]
    Interrupted {
        /// Steps taken.
        step: u64,
        /// Where the run is kept.
        checkpoint: Option<PathBuf>,
    },
}

impl TrainError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match self {
            TrainError::Setting { .. } => "train.setting",
            TrainError::NoPictures { .. } => "train.no-pictures",
            TrainError::NoBatches { .. } => "train.no-batches",
            TrainError::Position { .. } => "train.position",
            TrainError::TensorCount { .. } => "train.tensor-count",
            TrainError::TensorSize { .. } => "train.tensor-size",
            TrainError::StateTensor { .. } => "train.state-tensor",
            TrainError::CheckpointIo { .. } => "train.checkpoint-io",
            TrainError::BadCheckpoint { .. } => "train.bad-checkpoint",
            TrainError::OtherRun { .. } => "train.other-run",
            TrainError::RunsIo { .. } => "train.runs-io",
            TrainError::BadRuns { .. } => "train.bad-runs",
            TrainError::OtherComparison { .. } => "train.other-comparison",
            TrainError::Parent { .. } => "train.parent",
            TrainError::Memory { .. } => "train.memory",
            TrainError::Label { .. } => "train.label",
            TrainError::Diverged { .. } => "train.diverged",
            TrainError::Interrupted { .. } => "train.interrupted",
        }
    }
}
