use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Serialize;

use super::TrainError;
use crate::data::Augment;
use crate::runtime::Sample;

/// Most epochs, and most rows of a step.
const MOST: f64 = 1e6;

/// An input and its class number.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The input, ready for the backbone.
    pub input: Sample,
    /// Class number.
    pub label: usize,
}

/// Which optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay.
    #[default]
    AdamW,
    /// Stochastic gradient descent with momentum 0.9.
    Sgd,
}

/// How to calibrate. `None` leaves a hyper-parameter to the method.
#[derive(Clone, Debug)]
pub struct Options {
    /// Passes over the data.
    pub epochs: Option<usize>,
    /// Rows per step.
    pub batch: usize,
    /// Peak learning rate.
    pub learning_rate: Option<f64>,
    /// Weight decay of matrices.
    pub weight_decay: Option<f64>,
    /// Share of all steps in which the learning rate rises.
    pub warmup: f64,
    /// Optimizer.
    pub optimizer: OptimizerKind,
    /// Largest norm of all gradients together.
    pub clip: f32,
    /// Seeds initial values and the order of rows.
    pub seed: u64,
    /// Stop after this many epochs without a better validation.
    pub patience: usize,
    /// Most rows that go through the engine at once; within that, the fastest number that fits.
    pub micro_batch: Option<usize>,
    /// Refuse to take more memory, in bytes.
    pub max_ram: Option<usize>,
    /// Finish within this time.
    pub max_time: Option<Duration>,
    /// Keep what does not depend on the delta.
    pub cache: bool,
    /// Random views of training pictures instead of the pictures themselves.
    pub augment: Augment,
    /// Only the classes of the training rows compete in the loss, so that nothing is learned
    /// against those of an earlier delta; `None` leaves it to the method.
    pub mask_classes: Option<bool>,
    /// Where an interrupted run is kept, and where it is looked for.
    pub checkpoint: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            epochs: None,
            batch: 16,
            learning_rate: None,
            weight_decay: None,
            warmup: 0.1,
            optimizer: OptimizerKind::AdamW,
            clip: 1.0,
            seed: 0,
            patience: 10,
            micro_batch: None,
            max_ram: None,
            max_time: None,
            cache: true,
            augment: Augment::default(),
            mask_classes: None,
            checkpoint: None,
        }
    }
}

impl Options {
    /// True if training pictures are changed.
    pub fn augments(&self) -> bool {
        self.augment != Augment::default()
    }

    /// Refuses numbers that no run can use.
    ///
    /// # Errors
    /// [`TrainError::Setting`] naming the option.
    pub fn check(&self) -> Result<(), TrainError> {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let above = "it must be above 0 and finite";
        let (rate, decay) = (self.learning_rate.unwrap_or(1.0), self.weight_decay.unwrap_or(0.0));
        let (clip, batch) = (f64::from(self.clip), self.batch as f64);
        let epochs = self.epochs.unwrap_or(1) as f64;
        let checks = [
            ("learning_rate", rate, positive(rate), above),
            ("weight_decay", decay, decay == 0.0 || positive(decay), "it must be 0 or more"),
            ("warmup", self.warmup, (0.0..=1.0).contains(&self.warmup), "it must be from 0 to 1"),
            ("clip", clip, clip > 0.0, "it must be above 0"),
            ("batch", batch, self.batch > 0 && batch <= MOST, "it must be from 1 to 1000000"),
            ("epochs", epochs, epochs <= MOST, "it must be at most 1000000"),
        ];
        match checks.into_iter().find(|c| !c.2) {
            Some((name, value, _, want)) => Err(TrainError::Setting { name, value, want }),
            None => Ok(()),
        }
    }
}

/// What the planner decided before the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Micro-batches that are computed side by side, each on its share of the threads.
    pub workers: usize,
    /// Rows of a micro-batch.
    pub micro_batch: usize,
    /// Whether the frozen part is computed once per example and kept.
    pub cached: bool,
    /// Bytes of that cache.
    pub cache_bytes: usize,
    /// Anonymous memory at the peak, in bytes.
    pub predicted_peak_bytes: usize,
    /// Optimizer steps.
    pub steps: u64,
    /// Trained values.
    pub parameters: usize,
}

/// What a run tells while it goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The plan; before anything is computed.
    Planned(Budget),
    /// It goes on from a checkpoint.
    Resumed {
        /// Steps already taken.
        step: u64,
    },
    /// Rows of the frozen part that were computed.
    Caching {
        /// Rows done.
        done: usize,
        /// All rows.
        total: usize,
    },
    /// The number of steps was cut to stay within the time.
    Shortened {
        /// Steps now.
        steps: u64,
    },
    /// A step was taken.
    Step {
        /// Steps taken.
        step: u64,
        /// All steps.
        steps: u64,
        /// Loss of the step's rows.
        loss: f32,
    },
    /// The held-out rows were classified.
    Validated(Validation),
}

/// A measurement on the held-out rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Validation {
    /// After how many steps.
    pub step: u64,
    /// Share of rows classified correctly.
    pub accuracy: f64,
}

/// Watches a run.
pub trait Observer {
    /// Is told what happens.
    fn event(&mut self, event: Event);
    /// Asked after every step: true stops the run and writes the checkpoint.
    fn stop(&self) -> bool {
        false
    }
}

impl Observer for () {
    fn event(&mut self, _: Event) {}
}

impl Observer for &AtomicBool {
    fn event(&mut self, _: Event) {}
    fn stop(&self) -> bool {
        self.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// All steps were taken.
    Complete,
    /// Validation did not get better any more.
    EarlyStop,
    /// The time was up.
    MaxTime,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The method.
    pub method: String,
    /// Steps taken.
    pub steps: u64,
    /// Seconds, loading not included.
    pub seconds: f64,
    /// Mean loss of the last epoch; `None` without training.
    pub train_loss: Option<f64>,
    /// Accuracy on the held-out rows; `None` if none were held out.
    pub validation_accuracy: Option<f64>,
    /// The same before training, with the class-mean head.
    pub untrained_accuracy: Option<f64>,
    /// True if no trained state was better than the untrained head, which was kept then.
    pub kept_untrained: bool,
    /// Why it ended.
    pub ended: Ended,
    /// What was planned.
    #[serde(flatten)]
    pub budget: Budget,
    /// Bytes of the delta file.
    pub delta_bytes: usize,
    /// Every validation.
    pub history: Vec<Validation>,
}
