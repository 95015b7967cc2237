use super::{Hyperparameters, Method, MethodError, Plan, Setting, Settings, head};
use crate::backbone::Manifest;

/// A linear classifier on the pooled feature; the backbone runs once per example.
pub(super) struct Linear;

impl Method for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn summary(&self) -> &'static str {
        "linear classifier on the frozen feature"
    }

    fn settings(&self) -> &'static [Setting] {
        &[]
    }

    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters { learning_rate: 1e-2, weight_decay: 0.01, epochs: 100 }
    }

    fn plan(
        &self,
        backbone: &Manifest,
        classes: usize,
        settings: &Settings,
    ) -> Result<Plan, MethodError> {
        let (tensors, head) = head(backbone, classes, settings)?;
        Ok(Plan::new(tensors, vec![head]))
    }
}
