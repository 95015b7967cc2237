use super::prefix_tuning::{POSITION, kv_plan};
use super::{Hyperparameters, Method, MethodError, Plan, Setting, Settings, need_blocks};
use crate::backbone::Manifest;

/// P-tuning v2 (Liu et al. 2021, arXiv 2110.07602): prefix-tuning of an encoder, its keys and
/// values trained directly.
pub(super) struct PTuningV2;

impl Method for PTuningV2 {
    fn name(&self) -> &'static str {
        "p-tuning-v2"
    }

    fn summary(&self) -> &'static str {
        "trained keys and values in every layer, directly (arXiv 2110.07602)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[Setting { name: "rows", default: "20", help: "rows P per layer" }, POSITION]
    }

    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters { learning_rate: 1e-2, weight_decay: 0.0, epochs: 30 }
    }

    fn plan(
        &self,
        backbone: &Manifest,
        classes: usize,
        settings: &Settings,
    ) -> Result<Plan, MethodError> {
        need_blocks(backbone, self.name())?;
        kv_plan(backbone, classes, settings)
    }
}
